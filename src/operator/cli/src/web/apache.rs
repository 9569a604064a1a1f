//! The configuration of Apache 2.4.47 or later: `bailiwick.conf` for the server, and for each tenant a file for a block
//! `<VirtualHost>`. It needs the modules `proxy`, `proxy_http`, `proxy_fcgi`, `rewrite` and `headers`.
//!
//! Apache has one status, 503, for a request that finds no place among `entries` and for a service that answers so itself. An answer
//! of a service has passed through `Header onsuccess`, which leaves a note; Apache's own has not.
//!
//! Apache cannot ask the jail first whether a file is there. So a name with an extension is a file, and any other name is for the
//! `index.php` at the top. An `ErrorDocument` is no way to try one after the other: it would lose the body of a request, and PHP's
//! answer would keep the status 404.

use super::{Backend, DOWN, Options, RETRY_AFTER, Site};
use std::fmt::Write;

/// `bailiwick.conf`, if it is needed.
pub(super) fn shared(sites: &[&Site], options: &Options) -> Option<String> {
    sites.iter().any(|site| site.has_entries()).then(|| server(options))
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

/// What enables the modules, which Debian leaves off.
const MODULES: &str = "a2enmod proxy_http proxy_fcgi rewrite headers";
/// The variable of a request with the socket that it is for.
const SOCKET: &str = "BAILIWICK_SOCKET";
/// The variable of a request with the name of the script that it runs. Apache itself takes the name that was asked for.
const SCRIPT: &str = "BAILIWICK_SCRIPT";

pub(super) fn site(site: &Site, options: &Options) -> String {
    let Site { php, files, programs, root, .. } = site;
    let mut out = format!(
        "# Include this file in a <VirtualHost>, so that it may be missing: IncludeOptional FOLDER/bailiwick.d/{}.conf\n\
         # It needs these modules: {MODULES}\n\
         # Apache counts requests for each of its processes, so a tenant may have as many\n\
         # at a time as `entries` times the number of processes.\n\
         ProxyTimeout 300\nProxyPreserveHost On\nLimitRequestBody {}\nRequestHeader unset Proxy early\n\
         RequestHeader set X-Forwarded-Proto expr=%{{REQUEST_SCHEME}}\n\
         ErrorDocument 502 '{DOWN}'\nErrorDocument 503 '{DOWN}'\n\
         Header always set Retry-After {RETRY_AFTER} \"expr=%{{REQUEST_STATUS}} -ge 502 && -z resp('Retry-After')\"\n",
        site.tenant, options.upload.0
    );
    if site.has_entries() {
        out.push_str(
            "Header onsuccess set X-Bailiwick 1\nHeader onsuccess note X-Bailiwick bailiwick-answered\n\
             Header onsuccess unset X-Bailiwick\n",
        );
    }
    match (php, programs.split_first(), files) {
        (Some(php), _, files) => {
            worker(&mut out, "fcgi", php);
            write!(
                out,
                "RewriteEngine On\n# A directory with an index of its own needs a line above the one that includes this file:\n\
                 #   RewriteEngine On\n#   RewriteRule \"^(/wp-admin/)$\" \"$1index.php\"\n\
                 #   RewriteRule \"^(/manual/)$\" \"$1index.html\"\n\
                 ProxyFCGISetEnvIf \"-n reqenv('{SCRIPT}')\" SCRIPT_NAME \"%{{reqenv:{SCRIPT}}}\"\n"
            )
            .expect("text");
            let script = |script: &str, rest: &str| {
                let Backend { path, name, .. } = php;
                let flags = format!("P,L,E={SOCKET}:{name},E={SCRIPT}:{script}");
                format!("\"unix:{path}|fcgi://bailiwick.{name}{root}{script}{rest}\" [{flags}]")
            };
            writeln!(out, "RewriteRule \"^(/.+\\.php)(/.*)?$\" {}", script("$1", "$2")).expect("text");
            if let Some(files) = files {
                worker(&mut out, "http", files);
                writeln!(out, "RewriteRule \"^/(.*\\.[A-Za-z0-9]+)$\" {}", relayed(files, "$1")).expect("text");
            }
            writeln!(out, "RewriteRule \"^\" {}", script("/index.php", "")).expect("text");
            for other in programs {
                worker(&mut out, "http", other);
                let rule = relayed(other, "PATH/$1");
                writeln!(
                    out,
                    "# For a path of your own, above the line that includes this file:\n#   RewriteEngine On\n\
                               #   RewriteRule \"^/PATH/(.*)$\" {rule}"
                )
                .expect("text");
            }
        }
        (None, Some((first, others)), _) => {
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
        (None, None, Some(files)) => program(&mut out, files),
        (None, None, None) => {}
    }
    out
}

/// The rest of a rule that hands requests for a path to a program.
fn relayed(backend: &Backend, to: &str) -> String {
    let Backend { path, name, .. } = backend;
    format!("\"unix:{path}|http://bailiwick.{name}/{to}\" [P,L,E={SOCKET}:{name}]")
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
