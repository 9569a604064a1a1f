//! `/proc/PID/net/dev` and `/proc/PID/fd`: the interfaces and sockets of a process.

use super::{MAX_SMALL, directory, read};
use crate::file;
use std::io;
use std::os::fd::AsFd;

/// The names of the interfaces in the network namespace of a process.
///
/// # Errors
/// As for [`status`](super::status()); `EFBIG` when there are far more than a jail could have.
pub fn interfaces(pid: u32) -> io::Result<Vec<String>> {
    Ok(parse_interfaces(&read(directory(pid)?.as_fd(), "net/dev", MAX_SMALL)?))
}

/// Parses `/proc/PID/net/dev` (`proc_pid_net(5)`): two lines of titles, then one line for each interface. The
/// kernel allows no colon and no space in a name.
#[must_use]
pub fn parse_interfaces(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// The sockets that a process has open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSockets {
    /// The number of each descriptor, and the inode number of its socket, which is unique.
    pub sockets: Vec<(i32, u64)>,
    /// How many descriptors were examined.
    pub looked: usize,
    /// Whether there were more descriptors.
    pub cut: bool,
}

/// The sockets among the first `max` descriptors of a process.
///
/// # Errors
/// `ENOENT` or `ESRCH` when there is no such process, `EACCES` when the reader may not look at it.
pub fn sockets(pid: u32, max: usize) -> io::Result<OpenSockets> {
    let dir = file::open_dir_at(directory(pid)?, "fd")?;
    let mut found = OpenSockets { sockets: Vec::new(), looked: 0, cut: false };
    for entry in rustix::fs::Dir::read_from(&dir)? {
        let entry = entry?;
        let Some(number) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) else { continue };
        if found.looked == max {
            found.cut = true;
            break;
        }
        found.looked += 1;
        // The descriptor was closed meanwhile.
        let Ok(link) = rustix::fs::readlinkat(&dir, entry.file_name(), Vec::new()) else { continue };
        found.sockets.extend(parse_socket(link.to_bytes()).map(|inode| (number, inode)));
    }
    Ok(found)
}

/// Parses the inode number in the link of a descriptor; `None` when it is no socket.
#[must_use]
pub fn parse_socket(link: &[u8]) -> Option<u64> {
    std::str::from_utf8(link).ok()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_distinguished_from_other_descriptors() {
        assert_eq!(parse_socket(b"socket:[7]"), Some(7));
        for other in [&b"pipe:[7]"[..], b"socket:[]", b"socket:[7", b"socket:[-7]", b"/home/socket:[7]", b"\xff"] {
            assert_eq!(parse_socket(other), None, "{}", other.escape_ascii());
        }
        let (a, _b) = std::os::unix::net::UnixStream::pair().expect("pair");
        let own = sockets(std::process::id(), usize::MAX).expect("reads");
        let number = std::os::fd::AsRawFd::as_raw_fd(&a);
        assert!(own.sockets.iter().any(|(other, inode)| *other == number && *inode > 0) && !own.cut, "{own:?}");
        assert!(sockets(std::process::id(), 1).expect("reads").cut);
    }

    #[test]
    fn interfaces_are_read_by_name() {
        let text = b"Inter-|   Receive | Transmit\n face |bytes |bytes\n    lo: 0 0\nveth-7@x:1 2\n";
        assert_eq!(parse_interfaces(text), ["lo", "veth-7@x"]);
        assert_eq!(parse_interfaces(b""), [""; 0]);
        assert!(interfaces(std::process::id()).expect("reads").contains(&"lo".to_owned()));
    }
}
