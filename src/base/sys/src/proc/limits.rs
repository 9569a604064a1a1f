//! `/proc/PID/limits`: the resource limits of a process.

use super::{MAX_SMALL, directory, malformed, read};
use std::io;
use std::os::fd::AsFd;

/// The hard limit on open descriptors of a process; `None` means no limit.
///
/// # Errors
/// As for [`status`](super::status()).
pub fn open_files(pid: u32) -> io::Result<Option<u64>> {
    parse_open_files(&read(directory(pid)?.as_fd(), "limits", MAX_SMALL)?).ok_or_else(|| malformed("limits"))
}

/// Parses the hard limit on open descriptors in `/proc/PID/limits` (`proc_pid_limits(5)`).
#[must_use]
pub fn parse_open_files(text: &[u8]) -> Option<Option<u64>> {
    parse_hard_limit(text, "Max open files ")
}

/// Parses the hard limit in one row of `/proc/PID/limits`. `row` is the title of the row with a space behind it. The inner
/// `None` means no limit.
#[must_use]
pub fn parse_hard_limit(text: &[u8], row: &str) -> Option<Option<u64>> {
    let text = std::str::from_utf8(text).ok()?;
    let row = text.lines().find_map(|line| line.strip_prefix(row))?;
    match row.split_ascii_whitespace().nth(1)? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hard_limit_on_open_files() {
        let text = b"Limit                     Soft Limit           Hard Limit           Units     \n\
            Max processes             1                    2                    processes \n\
            Max open files            1024                 4096                 files     \n";
        assert_eq!(parse_open_files(text), Some(Some(4096)));
        assert_eq!(parse_open_files(b"Max open files  5  unlimited  files\n"), Some(None));
        assert_eq!(parse_open_files(b"Max open files  5\n"), None);
        assert!(open_files(std::process::id()).is_ok());
    }
}
