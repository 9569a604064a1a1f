//! The Unix sockets of this network namespace (`sock_diag(7)`, `linux/unix_diag.h`).
//!
//! Danger: any process can send to a netlink socket. Only messages from the kernel may be read.

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;
use std::os::fd::OwnedFd;

// The numbers of linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h and net/tcp_states.h.
const BY_FAMILY: u16 = 20;
const REQUEST_AND_DUMP: u16 = 0x1 | 0x300;
const DONE: u16 = 3;
const ERROR: u16 = 2;
const ESTABLISHED: u32 = 1;
const SHOW_NAME: u32 = 1;
const NAME: u16 = 0;
/// The lengths of the header of netlink, and of a request and a row of this protocol, in bytes.
const HEADER: usize = 16;
const REQUEST: usize = 24;
const ROW: usize = 16;
const BUFFER: usize = 64 << 10;
/// The most messages of one answer. Each has many rows.
const MOST_MESSAGES: usize = 100_000;

/// A socket that asks the kernel for the Unix sockets of the network namespace that it was made in.
#[derive(Debug)]
pub struct UnixDiag {
    socket: OwnedFd,
}

impl UnixDiag {
    /// Opens the socket.
    ///
    /// # Errors
    /// `EPROTONOSUPPORT` when the kernel has no `sock_diag`, else the error of `socket(2)`.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = rustix::net::netlink::SOCK_DIAG;
        Ok(Self { socket: rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(protocol))? })
    }

    /// Calls `each` with the path that each connected socket is bound to. A connection that a listening socket has accepted, or that
    /// waits to be accepted, has the listening socket's path. It is in the network namespace of whoever connected.
    ///
    /// # Errors
    /// `ENOENT` when the kernel cannot list Unix sockets (`CONFIG_UNIX_DIAG`), else the error of a socket call.
    pub fn connected(&self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        // What is left of an answer that was given up.
        while receive(&self.socket, &mut buffer).is_ok() {}
        rustix::net::send(&self.socket, &request()?, SendFlags::empty())?;
        for _ in 0..MOST_MESSAGES {
            // The kernel puts the next part of the answer there before the last one is read.
            let Some(len) = receive(&self.socket, &mut buffer)? else { continue };
            if !parse(&buffer[..len], &mut each)? {
                return Ok(());
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Receives a datagram and returns its length; `None` when it does not come from the kernel.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let (_, len, from) = rustix::net::recvfrom(socket, &mut *buffer, RecvFlags::empty())?;
    let from = from.and_then(|from| rustix::net::netlink::SocketAddrNetlink::try_from(from).ok());
    let is_kernel = from.is_some_and(|from| from.pid() == 0);
    Ok((is_kernel && len <= buffer.len()).then_some(len))
}

fn request() -> io::Result<Vec<u8>> {
    let mut message = Vec::with_capacity(HEADER + REQUEST);
    message.extend(u32::try_from(HEADER + REQUEST).map_err(io::Error::other)?.to_ne_bytes());
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST_AND_DUMP.to_ne_bytes());
    message.extend([0; 8]);
    // struct unix_diag_req: family, protocol, padding, states, inode, what to show, cookie.
    message.extend([u8::try_from(AddressFamily::UNIX.as_raw()).map_err(io::Error::other)?, 0, 0, 0]);
    message.extend((1_u32 << ESTABLISHED).to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(SHOW_NAME.to_ne_bytes());
    message.extend([0; 8]);
    Ok(message)
}

/// Reads the rows of a datagram. Returns `false` after the last one of the answer.
///
/// # Errors
/// `InvalidData` when it is no answer, or the error that the kernel reports.
pub fn parse(mut datagram: &[u8], each: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    while !datagram.is_empty() {
        let len = datagram.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
        let len = usize::try_from(len.ok_or_else(wrong)?).map_err(io::Error::other)?;
        let message = datagram.get(..len).filter(|message| message.len() >= HEADER).ok_or_else(wrong)?;
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        let body = &message[HEADER..];
        match kind {
            DONE => return Ok(false),
            ERROR => {
                let number = body.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
                return Err(io::Error::from_raw_os_error(number.ok_or_else(wrong)?.saturating_neg()));
            }
            BY_FAMILY => {
                let mut rest = body.get(ROW..).ok_or_else(wrong)?;
                // struct nlattr: length with these four bytes, kind, content.
                while let [a, b, c, d, ..] = rest {
                    let (len, kind) = (usize::from(u16::from_ne_bytes([*a, *b])), u16::from_ne_bytes([*c, *d]));
                    let content = rest.get(4..len).ok_or_else(wrong)?;
                    if kind == NAME {
                        // A path ends with a NUL; an abstract name begins with one.
                        each(content.strip_suffix(&[0]).unwrap_or(content));
                    }
                    rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
                }
            }
            _ => return Err(wrong()),
        }
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn connections_to_a_socket_are_found_by_its_path() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let path = temp.path().join("a socket");
        let listener = UnixListener::bind(&path).expect("binds");
        let diag = UnixDiag::open().expect("opens");
        let count = || {
            let mut count = 0;
            let wanted = path.as_os_str().as_encoded_bytes();
            diag.connected(|name| count += usize::from(name == wanted)).expect("reads");
            count
        };
        assert_eq!(count(), 0);
        let clients: Vec<_> = (0..200).map(|_| UnixStream::connect(&path)).take(100).collect();
        assert!(clients.iter().all(Result::is_ok));
        let accepted = listener.accept().expect("a connection");
        assert_eq!(count(), 100);
        drop(accepted);
        drop(clients);
        assert_eq!(count(), 0);
    }

    #[test]
    fn an_error_of_the_kernel_is_told() {
        let message =
            [&20_u32.to_ne_bytes()[..], &ERROR.to_ne_bytes(), &[0; 10], &(-libc::ENOENT).to_ne_bytes()].concat();
        let error = parse(&message, &mut |_| ()).expect_err("an error");
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        let message = [&16_u32.to_ne_bytes()[..], &DONE.to_ne_bytes(), &[0; 10]].concat();
        assert!(!parse(&message, &mut |_| ()).expect("the end"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), len in 0u32..220) {
            let mut bytes = bytes;
            parse(&bytes, &mut |_| ()).ok();
            if bytes.len() >= 6 {
                bytes[..4].copy_from_slice(&len.to_ne_bytes());
                bytes[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
                parse(&bytes, &mut |_| ()).ok();
            }
        }
    }
}
