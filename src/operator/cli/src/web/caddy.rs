//! The configuration of Caddy 2: for each tenant a file to import into a site's block.
//!
//! Caddy asks the server of files first, as nginx does, and goes on when that has nothing. It cannot send the body of a request twice.
//! So whether a script of a directory is there is not tried: the server of files redirects the name of a directory that has no slash
//! at its end, and so tells that it is one.

use super::{Backend, DOWN, Options, RETRY_AFTER, Site};
use std::fmt::Write;

pub(super) fn site(site: &Site, options: &Options) -> String {
    let Site { php, files, programs, root, .. } = site;
    let mut out = format!(
        "# Import this file in the block of a site, so that it may be missing: import FOLDER/bailiwick.d/{}.con?\nrequest_body {{\n\tmax_size {}\n}}\n\
         handle_errors {{\n\t@down expression `{{err.status_code}} in [502, 503, 504]`\n\theader @down Retry-After {RETRY_AFTER}\n\t\
         respond @down \"{DOWN}\" 503\n}}\n",
        site.tenant, options.upload.0
    );
    let program = |out: &mut String, backend: &Backend| {
        writeln!(out, "# For a path of your own: handle /PATH/* {{ reverse_proxy unix/{} }}", backend.path)
            .expect("text");
    };
    match (php, programs.split_first(), files) {
        (Some(php), _, files) => {
            let fastcgi = format!("transport fastcgi {{\n\troot {root}\n\tsplit .php\n}}\n{}", entries(php));
            let script = proxy(php, &fastcgi);
            match files {
                Some(files) => {
                    if files.entries.is_some() {
                        writeln!(
                            out,
                            "# The `entries` of {} do not hold here: a request for PHP comes through the files.",
                            files.name
                        )
                        .expect("text");
                    }
                    let route = FILES_FIRST.replace("FILES", &files.path) + &script;
                    out += &block("handle", &block("route", &route));
                }
                None => {
                    writeln!(out, "@php {SCRIPT}").expect("text");
                    out += &block("handle @php", &script);
                    out += &block("handle", &format!("rewrite * /index.php\n{script}"));
                }
            }
            programs.iter().for_each(|other| program(&mut out, other));
        }
        (None, Some((first, others)), _) => {
            out += &block("handle", &proxy(first, &entries(first)));
            others.iter().for_each(|other| program(&mut out, other));
        }
        (None, None, Some(files)) => out += &block("handle", &proxy(files, &entries(files))),
        (None, None, None) => {}
    }
    out
}

/// Matches the name of a script.
const SCRIPT: &str = "path_regexp (?s)^/.+\\.php(/.*)?$";

/// What comes before PHP in a site with files. A `handle_response` that does nothing would end the request, so there is a `vars`.
const FILES_FIRST: &str = r"@file {
	method GET HEAD
	not path_regexp (?s)^/.+\.php(/.*)?$
}
reverse_proxy @file unix/FILES {
	@none status 404
	handle_response @none {
		vars bailiwick none
	}
}
@name {
	not path_regexp (?s)^/.+\.php(/.*)?$
	path_regexp name (?s)^(.+?)/*$
}
reverse_proxy @name unix/FILES {
	method HEAD
	rewrite {re.name.1}
	@directory status 301
	handle_response @directory {
		rewrite * {re.name.1}/index.php
	}
	handle_response {
		rewrite * /index.php
	}
}
";

/// Refuses requests above a number at a time: above `unhealthy_request_count` Caddy answers 503. Without `max_fails` it takes such a
/// socket for failed from the start (seen with 2.6).
fn entries(backend: &Backend) -> String {
    backend.entries.map(|entries| format!("max_fails 1\nunhealthy_request_count {entries}\n")).unwrap_or_default()
}

/// Hands requests to a socket.
fn proxy(backend: &Backend, settings: &str) -> String {
    block(&format!("reverse_proxy unix/{}", backend.path), settings)
}

fn block(head: &str, body: &str) -> String {
    let lines: String = body.lines().map(|line| format!("\t{line}\n")).collect();
    format!("{head} {{\n{lines}}}\n")
}
