//! The configuration of nginx: `bailiwick.conf` for its block `http`, and for each tenant a file for a block `server`.

use super::{BUSY, Backend, DOWN, Options, RETRY_AFTER, Site};
use bailiwick_proto::refused_request::TAG;
use bailiwick_types::TenantName;
use std::fmt::Write;

/// Connections that nginx keeps open to a program. nginx closes them first: a program that closes one (node after five seconds) could
/// do so while a request is on its way. They keep nobody awake for long.
const KEEPALIVE: &str = "keepalive 8;\n    keepalive_timeout 4s;";

/// What the block `http` has for sites with `entries`.
const ENTRIES: &str =
    "limit_conn_zone $bailiwick_socket zone=bailiwick:10m;\nlog_format bailiwick $bailiwick_socket;\n";

/// What PHP gets of a request (RFC 3875). `HTTP_PROXY` is emptied: some programs take a client's header for a setting.
const PARAMETERS: &[(&str, &str)] = &[
    ("QUERY_STRING", "$query_string"),
    ("REQUEST_METHOD", "$request_method"),
    ("CONTENT_TYPE", "$content_type"),
    ("CONTENT_LENGTH", "$content_length"),
    ("REQUEST_URI", "$request_uri"),
    ("DOCUMENT_URI", "$document_uri"),
    ("SERVER_PROTOCOL", "$server_protocol"),
    ("REQUEST_SCHEME", "$scheme"),
    ("HTTPS", "$https if_not_empty"),
    ("GATEWAY_INTERFACE", "CGI/1.1"),
    ("SERVER_SOFTWARE", "nginx"),
    ("REMOTE_ADDR", "$remote_addr"),
    ("REMOTE_PORT", "$remote_port"),
    ("SERVER_ADDR", "$server_addr"),
    ("SERVER_PORT", "$server_port"),
    ("SERVER_NAME", "$host"),
    ("REDIRECT_STATUS", "200"),
    ("HTTP_PROXY", "\"\""),
];

/// `bailiwick.conf`. `earlier` is what is in it for the tenants `kept`, whose own files stay as they are.
pub(super) fn shared(sites: &[&Site], earlier: &str, kept: &[&TenantName]) -> String {
    let mut text = String::from(
        "# Include this file in the block http, and the file of a tenant in the block server of each of its domains,\n\
         # so that it may be missing: include FOLDER/bailiwick.d/TENANT.con[f];\n\
         map $http_upgrade $bailiwick_connection {\n    default upgrade;\n    \"\"      \"\";\n}\n",
    );
    // Without a location that sets the variable, nginx does not know it.
    if sites.iter().any(|site| has_entries(site)) || (!kept.is_empty() && earlier.contains(ENTRIES)) {
        text.push_str(ENTRIES);
    }
    for site in sites {
        let keeps = site.files.iter().chain(&site.programs).map(|backend| (backend, true));
        for (backend, keeps) in keeps.chain(site.php.iter().map(|backend| (backend, false))) {
            // max_fails=0: there is no other server to turn to, and one refused request must not close the site for ten seconds.
            let keepalive = if keeps { format!("\n    {KEEPALIVE}") } else { String::new() };
            let Backend { name, path, .. } = backend;
            write!(text, "upstream bailiwick.{name} {{\n    server unix:{path} max_fails=0;{keepalive}\n}}\n")
                .expect("text");
        }
    }
    // A file that stays as it is needs what it names.
    for tenant in kept {
        let start = format!("upstream bailiwick.{tenant}.");
        let mut is_inside = false;
        for line in earlier.lines() {
            is_inside |= line.starts_with(&start);
            if is_inside {
                text.push_str(line);
                text.push('\n');
            }
            is_inside &= line != "}";
        }
    }
    text
}

/// Whether nginx refuses requests beyond a number at a time. It checks one limit for each request.
fn has_entries(site: &Site) -> bool {
    let limited = site.php.as_ref().or(site.programs.first()).or(site.files.as_ref());
    limited.is_some_and(|backend| backend.entries.is_some())
}

pub(super) fn site(site: &Site, options: &Options) -> String {
    let Site { tenant, php, files, programs, root } = site;
    let mut out = format!(
        "# Include this file in a block server, so that it may be missing: include FOLDER/bailiwick.d/{tenant}.con[f];\n\
                 # The server's own locations go before it or after it.\n"
    );
    let upload = format!("    client_max_body_size {};\n", options.upload.0);
    let program = |out: &mut String, backend: &Backend| {
        writeln!(out, "# For a location of your own: proxy_pass http://bailiwick.{};", backend.name).expect("text");
    };
    match (php, programs.split_first(), files) {
        (None, Some((first, others)), _) => {
            write!(out, "location / {{\n{upload}{}}}\n", proxy(tenant.as_str(), first)).expect("text");
            others.iter().for_each(|other| program(&mut out, other));
        }
        (Some(php), _, files) => {
            let script = |script: &str| format!("{upload}{}", fastcgi(tenant.as_str(), php, root, script));
            // Last: after `break` nginx passes over every `set` of the location, and so over the limit of requests.
            let rewritten =
                |pattern: &str, to: &str| format!("{}    rewrite \"{pattern}\" {to} break;\n", script("$uri"));
            // nginx checks one limit of connections for each request, the first that it meets. That must be the limit of PHP:
            // a page whose name is no file comes through the files.
            if let Some(Backend { name, entries: Some(_), .. }) = files {
                writeln!(out, "# The `entries` of {name} do not hold here: nginx can check one limit for a request, and checks that of PHP.")
                    .expect("text");
            }
            match files {
                Some(files) => write!(
                    out,
                    "location / {{\n    recursive_error_pages on;\n    error_page 404 405 418 = @bailiwick.{tenant}.directory;\n    \
                     if ($request_method !~ ^(GET|HEAD)$) {{\n        return 418;\n    }}\n    \
                     proxy_intercept_errors on;\n{upload}{}}}\n\
                     location @bailiwick.{tenant}.directory {{\n    recursive_error_pages on;\n    \
                     fastcgi_intercept_errors on;\n    error_page 404 = @bailiwick.{tenant}.front;\n{}}}\n",
                    proxy(tenant.as_str(), &Backend { entries: None, ..files.clone() }),
                    rewritten(r"(?s)^(.*?)/*\z", "$1/index.php"),
                ),
                None => write!(
                    out,
                    "location / {{\n    error_page 418 = @bailiwick.{tenant}.front;\n    recursive_error_pages on;\n    \
                     return 418;\n}}\n"
                ),
            }
            .expect("text");
            write!(
                out,
                "location @bailiwick.{tenant}.front {{\n{}}}\n\
                 location ~ [^/]\\.php(/|$) {{\n    fastcgi_split_path_info ^(.+?\\.php)(/.*)$;\n    \
                 fastcgi_param PATH_INFO $fastcgi_path_info;\n{}}}\n",
                rewritten("^", "/index.php"),
                script("$fastcgi_script_name"),
            )
            .expect("text");
            programs.iter().for_each(|other| program(&mut out, other));
        }
        (None, None, Some(files)) => {
            write!(out, "location / {{\n{upload}{}}}\n", proxy(tenant.as_str(), files)).expect("text");
        }
        (None, None, None) => {}
    }
    if has_entries(site) {
        // Here is nobody but requests that were refused, so each line of this log is one.
        write!(
            out,
            "# Each refused request is told to bailiwickd, in place of your access log. Your error log has it too.\n\
             location @bailiwick.{tenant}.busy {{\n    access_log syslog:server=unix:{},nohostname,tag={TAG} bailiwick;\n    \
             default_type text/html;\n    add_header Retry-After {RETRY_AFTER} always;\n    return 508 \"{BUSY}\";\n}}\n",
            options.refused
        )
        .expect("text");
    }
    write!(
        out,
        "location @bailiwick.{tenant}.down {{\n    default_type text/html;\n    add_header Retry-After {RETRY_AFTER} always;\n    \
         return 503 \"{DOWN}\";\n}}\n"
    )
    .expect("text");
    out
}

/// What every location has: the limit of requests at a time, and the pages of the tenant that cannot answer.
fn common(tenant: &str, backend: &Backend) -> String {
    let mut text = String::new();
    if let Some(entries) = backend.entries {
        write!(
            text,
            "    set $bailiwick_socket {};\n    limit_conn bailiwick {entries};\n    limit_conn_status 508;\n    \
             error_page 508 = @bailiwick.{tenant}.busy;\n",
            backend.name
        )
        .expect("text");
    }
    writeln!(text, "    error_page 502 504 = @bailiwick.{tenant}.down;").expect("text");
    text
}

/// With this field of its answer a tenant would have nginx serve any location that the operator keeps for nginx itself (`internal`).
const OWN_HEADER: &str = "X-Accel-Redirect";

fn proxy(tenant: &str, backend: &Backend) -> String {
    format!(
        "{}    proxy_pass http://bailiwick.{};\n    proxy_http_version 1.1;\n    proxy_set_header Host $http_host;\n    \
         proxy_set_header X-Real-IP $remote_addr;\n    proxy_set_header X-Forwarded-For $remote_addr;\n    \
         proxy_set_header X-Forwarded-Proto $scheme;\n    proxy_set_header Upgrade $http_upgrade;\n    \
         proxy_set_header Connection $bailiwick_connection;\n    proxy_read_timeout 300s;\n    \
         proxy_ignore_headers {OWN_HEADER};\n",
        common(tenant, backend),
        backend.name
    )
}

/// Runs a script, whose path below the site's root inside the jail is `script`.
fn fastcgi(tenant: &str, backend: &Backend, root: &str, script: &str) -> String {
    let mut text = common(tenant, backend);
    writeln!(text, "    fastcgi_param SCRIPT_FILENAME {root}{script};").expect("text");
    writeln!(text, "    fastcgi_param SCRIPT_NAME {script};").expect("text");
    writeln!(text, "    fastcgi_param DOCUMENT_ROOT {root};").expect("text");
    for (name, value) in PARAMETERS {
        writeln!(text, "    fastcgi_param {name} {value};").expect("text");
    }
    writeln!(text, "    fastcgi_read_timeout 300s;\n    fastcgi_ignore_headers {OWN_HEADER};").expect("text");
    writeln!(text, "    fastcgi_pass bailiwick.{};", backend.name).expect("text");
    text
}
