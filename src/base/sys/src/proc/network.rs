//! `/proc/PID/net/dev` and `/proc/PID/fd`: the interfaces and sockets of a process.

use super::{MAX_SMALL, directory, read};
use crate::file;
use std::io;
use std::net::{IpAddr, SocketAddr};
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

/// The addresses at which somebody listens by TCP in the network namespace of this process.
///
/// # Errors
/// As for [`status`](super::status()); `EFBIG` when there are far more sockets than a host has.
pub fn listeners() -> io::Result<Vec<SocketAddr>> {
    let own = directory(std::process::id())?;
    let mut all = parse_listeners(&read(own.as_fd(), "net/tcp", MAX_LISTENERS)?);
    match read(own.as_fd(), "net/tcp6", MAX_LISTENERS) {
        Ok(text) => all.extend(parse_listeners(&text)),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(all)
}

/// The most bytes of such a file: of a hundred thousand sockets.
const MAX_LISTENERS: usize = 16 << 20;
/// `TCP_LISTEN`, as the file has it.
const LISTENS: &str = "0A";

/// Parses the sockets of `/proc/PID/net/tcp` that listen (`proc_pid_net(5)`): addresses are words of the machine's order.
#[must_use]
pub fn parse_listeners(text: &[u8]) -> Vec<SocketAddr> {
    let text = String::from_utf8_lossy(text);
    let one = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (local, state) = (words.next()?, words.nth(1)?);
        let (address, port) = local.split_once(':').filter(|_| state == LISTENS)?;
        let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
        let address = match address.len() {
            8 => IpAddr::from(word(0)?),
            32 => {
                let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
                IpAddr::from(<[u8; 16]>::try_from(words).ok()?)
            }
            _ => return None,
        };
        Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
    };
    text.lines().skip(1).filter_map(one).collect()
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
    fn listeners_are_those_that_wait_for_connections() {
        let title =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let line =
            |local: &str, state: &str| format!("   0: {local} 00000000:0000 {state} 00000000:00000000 00:0 0 0 0 7\n");
        let text = [title, &line("0100007F:1F90", "0A"), &line("00000000:0016", "01"), "   1: nothing\n"].concat();
        assert_eq!(parse_listeners(text.as_bytes()), ["127.0.0.1:8080".parse().expect("an address")]);
        let v6 = [title, &line("00000000000000000000000001000000:0016", "0A")].concat();
        assert_eq!(parse_listeners(v6.as_bytes()), ["[::1]:22".parse().expect("an address")]);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        assert!(listeners().expect("reads").contains(&listener.local_addr().expect("an address")));
    }

    #[test]
    fn interfaces_are_read_by_name() {
        let text = b"Inter-|   Receive | Transmit\n face |bytes |bytes\n    lo: 0 0\nveth-7@x:1 2\n";
        assert_eq!(parse_interfaces(text), ["lo", "veth-7@x"]);
        assert_eq!(parse_interfaces(b""), [""; 0]);
        assert!(interfaces(std::process::id()).expect("reads").contains(&"lo".to_owned()));
    }
}
