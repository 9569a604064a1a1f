//! The configuration of Apache 2.4.47 or later: for each tenant a file for a block `<VirtualHost>`. It needs the modules `proxy`,
//! `proxy_http`, `proxy_fcgi`, `rewrite` and `headers`.
//!
//! Apache cannot ask the jail first whether a file is there. So a name with an extension is a file, and any other name is for PHP.

use super::{Backend, DOWN, File, Options, RETRY_AFTER, Site};
use std::fmt::Write;
use std::path::PathBuf;

pub(super) fn files(sites: &[Site], options: &Options) -> Vec<File> {
    let file = |site: &Site| (PathBuf::from(format!("bailiwick.d/{}.conf", site.tenant)), host(site, options));
    sites.iter().map(file).collect()
}

fn host(site: &Site, options: &Options) -> String {
    let Site { php, files, programs, root, .. } = site;
    let mut out = format!(
        "# Include this file in a <VirtualHost>. Apache counts requests for each of its processes, so a tenant may have\n\
         # as many at a time as `entries` times the number of processes.\n\
         ProxyTimeout 300\nProxyPreserveHost On\nLimitRequestBody {}\nRequestHeader unset Proxy early\n\
         RequestHeader set X-Forwarded-Proto expr=%{{REQUEST_SCHEME}}\n\
         ErrorDocument 502 '{DOWN}'\nErrorDocument 503 '{DOWN}'\n\
         Header always set Retry-After {RETRY_AFTER} \"expr=%{{REQUEST_STATUS}} -ge 502\"\n",
        options.upload.0
    );
    match (programs.split_first(), php, files) {
        (Some((first, others)), _, _) => {
            program(&mut out, first);
            for other in others {
                writeln!(
                    out,
                    "# For a path of your own, above the line before: unix:{}|http://bailiwick.{}/",
                    other.path, other.name
                )
                .expect("text");
            }
        }
        (None, Some(php), files) => {
            worker(&mut out, "fcgi", php);
            out.push_str("RewriteEngine On\n");
            let script = |script: &str| format!("\"unix:{}|fcgi://bailiwick.{}{root}/{script}\"", php.path, php.name);
            writeln!(out, "RewriteRule \"^/(.+\\.php)(/.*)?$\" {} [P,L]", script("$1$2")).expect("text");
            if let Some(files) = files {
                worker(&mut out, "http", files);
                writeln!(
                    out,
                    "RewriteRule \"^/(.*\\.[A-Za-z0-9]+)$\" \"unix:{}|http://bailiwick.{}/$1\" [P,L]",
                    files.path, files.name
                )
                .expect("text");
            }
            writeln!(out, "RewriteRule \"^\" {} [P,L]", script("index.php")).expect("text");
        }
        (None, None, Some(files)) => program(&mut out, files),
        (None, None, None) => {}
    }
    out
}

/// Sets what connections to a socket have in common. `retry=0`: there is no other server to turn to, and one refused request must
/// not close the site for a minute.
fn worker(out: &mut String, scheme: &str, backend: &Backend) {
    let max = backend.entries.map(|entries| format!(" max={entries} acquire=1")).unwrap_or_default();
    let Backend { name, path, .. } = backend;
    writeln!(out, "<Proxy \"unix:{path}|{scheme}://bailiwick.{name}/\">\n    ProxySet retry=0{max}\n</Proxy>")
        .expect("text");
}

fn program(out: &mut String, backend: &Backend) {
    let max = backend.entries.map(|entries| format!(" max={entries} acquire=1")).unwrap_or_default();
    let Backend { name, path, .. } = backend;
    writeln!(out, "ProxyPass / \"unix:{path}|http://bailiwick.{name}/\" nocanon upgrade=websocket retry=0{max}")
        .expect("text");
}
