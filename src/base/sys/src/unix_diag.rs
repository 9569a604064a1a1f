//! The connections of Unix sockets of this network namespace (`sock_diag(7)`, `linux/unix_diag.h`).
//!
//! Danger: any process of the namespace chooses the names of its sockets. A name decides nothing but the count under it.

use crate::netlink::{attributes, number16, number32, receive};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

// The names and numbers of linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h and net/tcp_states.h.
const DONE: u16 = 3;
const ERROR: u16 = 2;
const BY_FAMILY: u16 = 20;
const REQUEST_AND_DUMP: u16 = 0x301;
const SHOW_NAME_AND_PEER: u32 = 0x01 | 0x04;
const NAME: u16 = 0;
const PEER: u16 = 2;
const STREAM: u8 = 1;
const ESTABLISHED: u8 = 1;
/// The length of both headers in bytes: `nlmsghdr` and `unix_diag_msg`.
const NETLINK_HEADER: usize = 16;
const HEADERS: usize = NETLINK_HEADER + 16;
/// What the kernel puts into one datagram at most, however many sockets there are.
const MAX_DATAGRAM: usize = 64 << 10;
/// How long the kernel may take for one datagram.
const TIME: Duration = Duration::from_secs(5);

/// A socket that asks the kernel. A program can open it before a filter refuses such sockets.
#[derive(Debug)]
pub struct UnixDiag {
    socket: OwnedFd,
}

impl UnixDiag {
    /// Opens the socket. It asks about the network namespace that it is opened in.
    ///
    /// # Errors
    /// `EPROTONOSUPPORT` when the kernel has no `sock_diag`, else the error of a socket call.
    pub fn open() -> io::Result<Self> {
        let protocol = Some(rustix::net::netlink::SOCK_DIAG);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(TIME))?;
        Ok(Self { socket })
    }

    /// Calls `each` with the path of the listener, once for each connection that was accepted from it and whose peer is still there.
    ///
    /// The kernel shows a socket in the network namespace that it belongs to. An accepted socket belongs to the namespace of
    /// whoever connected, so connections from other namespaces are not counted here. One that waits is not shown at all: it
    /// belongs to the listener.
    ///
    /// # Errors
    /// The errors of socket calls; `InvalidData` when the kernel's answer is no dump; the kernel's error when it has no
    /// `unix_diag`.
    pub fn connections(&self, mut each: impl FnMut(&Path)) -> io::Result<()> {
        let mut buffer = vec![0; MAX_DATAGRAM];
        // What is left of an answer that was given up.
        let at_once = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        while rustix::net::recv(&self.socket, &mut buffer[..], at_once).is_ok() {}
        rustix::net::send(&self.socket, &request(), SendFlags::empty())?;
        loop {
            let Some(len) = receive(&self.socket, &mut buffer)? else { continue };
            if parse(&buffer[..len], &mut each)? {
                return Ok(());
            }
        }
    }
}

fn request() -> Vec<u8> {
    let states: u32 = 1 << ESTABLISHED;
    let mut body = vec![1, 0, 0, 0];
    for number in [states, 0, SHOW_NAME_AND_PEER, u32::MAX, u32::MAX] {
        body.extend(number.to_ne_bytes());
    }
    let len = u32::try_from(NETLINK_HEADER + body.len()).unwrap_or_default();
    let mut message = len.to_ne_bytes().to_vec();
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST_AND_DUMP.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// Parses one datagram of the dump; returns whether it was the last.
fn parse(mut rest: &[u8], each: &mut impl FnMut(&Path)) -> io::Result<bool> {
    let cut = || io::Error::from(io::ErrorKind::InvalidData);
    while !rest.is_empty() {
        let len = rest.get(0..4).and_then(number32).and_then(|len| usize::try_from(len).ok()).ok_or_else(cut)?;
        let message = rest.get(..len.max(NETLINK_HEADER)).ok_or_else(cut)?;
        match message.get(4..6).and_then(number16) {
            Some(DONE) => return Ok(true),
            Some(ERROR) => {
                let number = message.get(16..20).and_then(number32).ok_or_else(cut)?;
                return Err(io::Error::from_raw_os_error(number.cast_signed().wrapping_neg()));
            }
            Some(BY_FAMILY) => {
                if let Some(path) = connection(message) {
                    each(path);
                }
            }
            _ => return Err(cut()),
        }
        rest = rest.get(message.len().next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The path of an accepted stream socket whose peer is there; `None` for any other.
fn connection(message: &[u8]) -> Option<&Path> {
    let body = message.get(HEADERS..)?;
    let (kind, state) = (message[NETLINK_HEADER + 1], message[NETLINK_HEADER + 2]);
    let find = |wanted| attributes(body).find(|(found, _)| *found == wanted).map(|(_, content)| content);
    let name = find(NAME)?;
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    // A name that begins with a zero is abstract (`unix(7)`), and no path.
    if kind != STREAM || state != ESTABLISHED || name.is_empty() || name[0] == 0 {
        return None;
    }
    // A peer that has closed its end, or ended, has no inode any more.
    let peer = find(PEER)?.get(0..4).and_then(number32)?;
    (peer != 0).then(|| Path::new(OsStr::from_bytes(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    /// Two messages of a kernel 6.18: a socket accepted from `/tmp/unixdg.sock`, and the same after its peer has closed.
    const CAPTURED: [&[u8]; 2] = [
        b"\x48\0\0\0\x14\0\x02\0\0\0\0\0\x7f\x22\0\0\x01\x01\x01\0\x5f\x1c\x9e\0\xa6\xed\0\0\0\0\0\0\x15\0\0\0/tmp/unixdg.sock\0\0\0\0\x08\0\x02\0\x5e\x1c\x9e\0\x05\0\x06\0\0\0\0\0",
        b"\x48\0\0\0\x14\0\x02\0\0\0\0\0\x7f\x22\0\0\x01\x01\x01\0\x5f\x1c\x9e\0\xa6\xed\0\0\0\0\0\0\x15\0\0\0/tmp/unixdg.sock\0\0\0\0\x08\0\x02\0\0\0\0\0\x05\0\x06\0\x03\0\0\0",
    ];
    const END: &[u8] = b"\x14\0\0\0\x03\0\x02\0\x01\0\0\0\x8f\x10\0\0\0\0\0\0";

    fn seen(bytes: &[u8]) -> io::Result<(bool, Vec<String>)> {
        let mut all = Vec::new();
        let last = parse(bytes, &mut |path: &Path| all.push(path.display().to_string()))?;
        Ok((last, all))
    }

    #[test]
    fn accepted_connections_with_a_peer_are_counted() {
        let path = || "/tmp/unixdg.sock".to_owned();
        let both = CAPTURED.concat();
        assert_eq!(seen(&both).expect("parses"), (false, vec![path()]));
        assert_eq!(seen(&[CAPTURED[0], END].concat()).expect("parses"), (true, vec![path()]));
        assert_eq!(seen(&both[..both.len() - 30]).expect_err("cut").kind(), io::ErrorKind::InvalidData);
        let refused = b"\x24\0\0\0\x02\0\0\0\x01\0\0\0\0\0\0\0\xfe\xff\xff\xff";
        assert_eq!(seen(&[&refused[..], &[0; 16]].concat()).expect_err("ENOENT").raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn the_kernel_shows_real_connections() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("web.sock");
        let listener = UnixListener::bind(&path).expect("binds");
        let count = || {
            let mut all = 0;
            UnixDiag::open().expect("opens").connections(|found| all += usize::from(found == path)).expect("dumps");
            all
        };
        assert_eq!(count(), 0);
        let mut clients: Vec<UnixStream> = (0..3).map(|_| UnixStream::connect(&path).expect("connects")).collect();
        assert_eq!(count(), 0, "they wait");
        let accepted = [listener.accept().expect("accepts").0, listener.accept().expect("accepts").0];
        assert_eq!(count(), 2);
        clients[0].shutdown(std::net::Shutdown::Write).expect("shuts down");
        assert_eq!(count(), 2, "it waits for the answer");
        accepted[0].shutdown(std::net::Shutdown::Write).expect("shuts down");
        drop(clients.remove(0));
        assert_eq!(count(), 1, "a program that never closes what it accepted has one connection, and not two");
        drop((accepted, clients));
        assert_eq!(count(), 0);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..144, byte: u8) {
            let _none = seen(&bytes);
            let mut whole = CAPTURED.concat();
            whole[at] = byte;
            let _none = seen(&whole);
        }
    }
}
