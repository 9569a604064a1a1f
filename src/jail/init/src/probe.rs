//! `--probe`: tries what a jail must refuse, in a session inside the tenant's own walls, and prints the results.
//!
//! Each result is a line: `call NAME ERRNO`, `read FILE ERRNO` or `write FILE ERRNO`. The number 0 means that nothing refused.
//!
//! Danger: the output passes through the tenant's hands. It can show that a wall is broken. It never proves that a wall stands:
//! that is read from outside.

use bailiwick_sys::denied_calls::{DENIED_CALLS, DENIED_FILES, FileAccess, try_call, try_open};
use std::io::{self, Write};

/// Tries every call and file, and prints the results.
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
