//! The configuration of Apache 2.4.47 or later: `bailiwick.conf` for the server, and for each tenant a file for a block
//! `<VirtualHost>`. It needs the modules `proxy`, `proxy_http`, `proxy_fcgi`, `rewrite` and `headers`.
//!
//! Apache has one status, 503, for a request that finds no place among `entries` and for a service that answers so itself. An answer
//! of a service has passed through `Header onsuccess`, which leaves a note; Apache's own has not.
//!
//! Apache cannot ask the jail first whether a file is there. So a name with an extension is a file, and any other name is for PHP.

use super::{Backend, DOWN, File, Options, RETRY_AFTER, Site};
use std::fmt::Write;
use std::path::PathBuf;

pub(super) fn files(sites: &[Site], options: &Options) -> Vec<File> {
    let mut files = Vec::new();
    if sites.iter().any(Site::has_entries) {
        files.push((PathBuf::from("bailiwick.conf"), server(options)));
    }
    for site in sites {
        files.push((PathBuf::from(format!("bailiwick.d/{}.conf", site.tenant)), host(site, options)));
    }
    files
}

/// Has a program tell bailiwickd of the requests that Apache refused. A log of the server is also one of every `<VirtualHost>`.
fn server(options: &Options) -> String {
    let Options { program, refused, .. } = options;
    format!(
        "# Include this file outside of every <VirtualHost>. Then bailiwickd counts the requests that Apache refused.\n\
         LogFormat \"%{{{SOCKET}}}e\" bailiwick\n\
         GlobalLog \"|{program} refused-requests {refused}\" bailiwick \
         \"expr=%{{REQUEST_STATUS}} -eq 503 && -n reqenv('{SOCKET}') && -z note('bailiwick-answered')\"\n"
    )
}

/// The variable of a request with the socket that it is for.
const SOCKET: &str = "BAILIWICK_SOCKET";

fn host(site: &Site, options: &Options) -> String {
    let Site { php, files, programs, root, .. } = site;
    let mut out = format!(
        "# Include this file in a <VirtualHost>. Apache counts requests for each of its processes, so a tenant may have\n\
         # as many at a time as `entries` times the number of processes.\n\
         ProxyTimeout 300\nProxyPreserveHost On\nLimitRequestBody {}\nRequestHeader unset Proxy early\n\
         RequestHeader set X-Forwarded-Proto expr=%{{REQUEST_SCHEME}}\n\
         ErrorDocument 502 '{DOWN}'\nErrorDocument 503 '{DOWN}'\n\
         Header always set Retry-After {RETRY_AFTER} \"expr=%{{REQUEST_STATUS}} -ge 502 && -z resp('Retry-After')\"\n",
        options.upload.0
    );
    if site.has_entries() {
        out.push_str(
            "Header onsuccess set X-Bailiwick 1\nHeader onsuccess note X-Bailiwick bailiwick-answered\n\
             Header onsuccess unset X-Bailiwick\n",
        );
    }
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
            let script = |script: &str| {
                let Backend { path, name, .. } = php;
                format!("\"unix:{path}|fcgi://bailiwick.{name}{root}/{script}\" [P,L,E={SOCKET}:{name}]")
            };
            writeln!(out, "RewriteRule \"^/(.+\\.php)(/.*)?$\" {}", script("$1$2")).expect("text");
            if let Some(files) = files {
                worker(&mut out, "http", files);
                writeln!(
                    out,
                    "RewriteRule \"^/(.*\\.[A-Za-z0-9]+)$\" \"unix:{}|http://bailiwick.{name}/$1\" [P,L,E={SOCKET}:{name}]",
                    files.path,
                    name = files.name
                )
                .expect("text");
            }
            writeln!(out, "RewriteRule \"^\" {}", script("index.php")).expect("text");
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
    if backend.entries.is_some() {
        writeln!(out, "RewriteEngine On\nRewriteRule \"^\" \"-\" [E={SOCKET}:{name}]").expect("text");
    }
    writeln!(out, "ProxyPass / \"unix:{path}|http://bailiwick.{name}/\" nocanon upgrade=websocket retry=0{max}")
        .expect("text");
}
