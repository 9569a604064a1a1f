//! `--probe`: tries what a jail must refuse, and prints what came of it, a line for each: `call NAME ERRNO`, `read FILE ERRNO`
//! or `write FILE ERRNO`, with 0 for what was not refused. Runs as a session, inside the tenant's own walls.
//!
//! Danger: what is printed passes through the tenant's hands. It is evidence of a wall that is down, never proof of one that
//! stands; that is read from outside.

use bailiwick_sys::denied_calls::{DENIED_CALLS, DENIED_FILES, FileAccess, try_call, try_open};
use std::io::{self, Write};

/// Prints every attempt.
pub(crate) fn probe() -> io::Result<()> {
    let errno = |result: io::Result<()>| result.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1));
    let mut text = String::new();
    for call in DENIED_CALLS {
        text.push_str(&format!("call {} {}\n", call.name().replace(' ', "-"), errno(try_call(call))));
    }
    for (path, access) in DENIED_FILES {
        let verb = match access {
            FileAccess::Read => "read",
            FileAccess::Write => "write",
        };
        text.push_str(&format!("{verb} {path} {}\n", errno(try_open(path, *access))));
    }
    io::stdout().write_all(text.as_bytes())
}
