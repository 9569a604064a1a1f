//! The configuration of Caddy 2: for each tenant a file to import into a site's block.
//!
//! Caddy does not ask the jail first whether a file is there. So a name with an extension is a file, and any other name is for PHP.

use super::{Backend, DOWN, File, Options, RETRY_AFTER, Site};
use std::fmt::Write;
use std::path::PathBuf;

pub(super) fn files(sites: &[Site], options: &Options) -> Vec<File> {
    let file = |site: &Site| (PathBuf::from(format!("bailiwick.d/{}.conf", site.tenant)), block(site, options));
    sites.iter().map(file).collect()
}

fn block(site: &Site, options: &Options) -> String {
    let Site { php, files, programs, root, .. } = site;
    let mut out = format!(
        "# Import this file in the block of a site.\nrequest_body {{\n\tmax_size {}\n}}\n\
         handle_errors {{\n\t@down expression `{{err.status_code}} in [502, 503, 504]`\n\theader @down Retry-After {RETRY_AFTER}\n\t\
         respond @down \"{DOWN}\" 503\n}}\n",
        options.upload.0
    );
    match (programs.split_first(), php, files) {
        (Some((first, others)), _, _) => {
            handle(&mut out, "", "", first, "");
            for other in others {
                writeln!(out, "# For a path of your own: reverse_proxy unix/{}", other.path).expect("text");
            }
        }
        (None, Some(php), files) => {
            let fastcgi = format!("\t\ttransport fastcgi {{\n\t\t\troot {root}\n\t\t\tsplit .php\n\t\t}}\n");
            out.push_str("@php path_regexp ^/.+\\.php(/.*)?$\n");
            handle(&mut out, "@php ", "", php, &fastcgi);
            if let Some(files) = files {
                out.push_str("@file path_regexp \\.[A-Za-z0-9]+$\n");
                handle(&mut out, "@file ", "", files, "");
            }
            handle(&mut out, "", "\trewrite * /index.php\n", php, &fastcgi);
        }
        (None, None, Some(files)) => handle(&mut out, "", "", files, ""),
        (None, None, None) => {}
    }
    out
}

/// Hands requests to a socket. Above `unhealthy_request_count` requests at a time, Caddy answers 503. Without `max_fails` it takes
/// such a socket for failed from the start (seen with 2.6).
fn handle(out: &mut String, matcher: &str, before: &str, backend: &Backend, transport: &str) {
    let entries = backend
        .entries
        .map(|entries| format!("\t\tmax_fails 1\n\t\tunhealthy_request_count {entries}\n"))
        .unwrap_or_default();
    write!(out, "handle {matcher}{{\n{before}\treverse_proxy unix/{} {{\n{transport}{entries}\t}}\n}}\n", backend.path)
        .expect("text");
}
