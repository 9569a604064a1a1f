//! `/proc/PID/uid_map` and `gid_map`: the id maps of a user namespace.

use super::{MAX_SMALL, directory, malformed, read};
use std::io;
use std::os::fd::AsFd;

/// The kind of an id map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdKind {
    /// Users: `uid_map`.
    User,
    /// Groups: `gid_map`.
    Group,
}

impl IdKind {
    /// The name of the file.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::User => "uid_map",
            Self::Group => "gid_map",
        }
    }
}

/// Reads an id map of a process's user namespace. Each row is the first id inside, the first id outside (as the reader's user
/// namespace counts), and the count.
///
/// # Errors
/// As for [`status`](super::status()).
pub fn id_map(pid: u32, kind: IdKind) -> io::Result<Vec<[u32; 3]>> {
    let text = read(directory(pid)?.as_fd(), kind.file(), MAX_SMALL)?;
    parse_id_map(&text).ok_or_else(|| malformed(kind.file()))
}

/// Parses `/proc/PID/uid_map` (`user_namespaces(7)`).
#[must_use]
pub fn parse_id_map(text: &[u8]) -> Option<Vec<[u32; 3]>> {
    let row = |line: &str| -> Option<[u32; 3]> {
        let numbers: Vec<u32> = line.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        numbers.try_into().ok()
    };
    std::str::from_utf8(text).ok()?.lines().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_maps() {
        let text = b"         0   10000000      65536\n";
        assert_eq!(parse_id_map(text), Some(vec![[0, 10_000_000, 65_536]]));
        assert_eq!(parse_id_map(b""), Some(Vec::new()));
        assert_eq!(parse_id_map(b"0 1"), None);
        assert_eq!(parse_id_map(b"0 1 2 3"), None);
        assert_eq!(parse_id_map(b"0 1 4294967296"), None);
    }
}
