//! The one process that can reach into a jail: it makes the pair of interfaces between a jail and the router.
//!
//! It has `CAP_NET_ADMIN` over all namespaces, because a jail and the router belong to different user namespaces. It is as small
//! as that right is large: it takes a number and the descriptor of a network namespace from the router's process, and nothing
//! else. No byte of a tenant reaches it.
//!
//! Danger: the other end may be a router's process in an attacker's hands. So this one makes links only into network namespaces
//! that belong to a user namespace other than the host's and the router's: those are jails'. It cannot open a namespace, a file
//! or a socket: its filter of system calls has no such call.

use bailiwick_netlink::route::{LinkEnd, Mac, RouteSocket, State, Veth};
use bailiwick_plan::capability::CapabilitySet;
use bailiwick_plan::network;
use bailiwick_plan::seccomp;
use bailiwick_sys::namespace::{self, Kind};
use bailiwick_sys::{credential, file, process, socket};
use rustix::io::Errno;
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The most bytes of a reply.
const MAX_REPLY: usize = 4096;
/// How long the router's process waits for a link. The kernel makes one at a time for all namespaces of the host.
const PATIENCE: Duration = Duration::from_secs(2);
/// Packets that may wait to be sent. The router's side gets a queue when the tenant has a rate.
const NO_QUEUE: u32 = 0;

/// The router's end of the conversation with the process that makes links.
#[derive(Debug)]
pub(crate) struct LinkMaker {
    socket: OwnedFd,
}

impl LinkMaker {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Makes the link of a jail: `eth0` in its network namespace, and the interface with this number in the router. Both are
    /// down. Returns `AlreadyExists` when the router has such an interface.
    pub(crate) fn connect(&self, number: u32, jail: BorrowedFd<'_>) -> io::Result<()> {
        socket::send(&self.socket, &number.to_le_bytes(), &[jail])?;
        if !process::readable(&self.socket, PATIENCE)? {
            // An answer that comes later must not be taken for that of the next question.
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel made no link within two seconds"));
        }
        let mut reply = [0; MAX_REPLY];
        let (len, _) = socket::receive(&self.socket, &mut reply, 0)?;
        parse_reply(&reply[..len])
    }
}

/// A reply is the number of an error, 0 for none, and its text.
fn parse_reply(reply: &[u8]) -> io::Result<()> {
    let (number, text) = reply.split_first_chunk::<4>().ok_or(io::ErrorKind::UnexpectedEof)?;
    match i32::from_le_bytes(*number) {
        0 => Ok(()),
        number => {
            let kind = io::Error::from_raw_os_error(number).kind();
            Err(io::Error::new(kind, String::from_utf8_lossy(text).into_owned()))
        }
    }
}

fn reply_of(made: Result<(), Refused>) -> Vec<u8> {
    let Err(Refused { number, text }) = made else { return vec![0; 4] };
    let mut reply = number.to_le_bytes().to_vec();
    reply.extend(text.bytes().take(MAX_REPLY - 4));
    reply
}

/// Why no link was made.
struct Refused {
    /// The number of the error.
    number: i32,
    text: String,
}

impl Refused {
    fn new(number: Errno, text: impl ToString) -> Self {
        Self { number: number.raw_os_error(), text: text.to_string() }
    }
}

impl From<bailiwick_netlink::Error> for Refused {
    fn from(error: bailiwick_netlink::Error) -> Self {
        Self { number: error.errno().unwrap_or(Errno::IO.raw_os_error()), text: error.to_string() }
    }
}

/// What the process that makes links holds.
struct Maker {
    requests: OwnedFd,
    route: RouteSocket,
    /// The user namespaces into which no link is made.
    refused: [u64; 2],
}

/// Becomes the process that makes links, until the other end is closed. `router` is the router, `user` the user to run as.
pub(crate) fn run(requests: OwnedFd, router: BorrowedFd<'_>, (uid, gid): (u32, u32)) -> io::Result<Infallible> {
    let owner = file::metadata(namespace::user_of(router)?)?.inode;
    let host = namespace::inode(std::process::id(), "user")?;
    namespace::enter(router, Kind::Network)?;
    process::keep_only(&[requests.as_fd()])?;
    let route = RouteSocket::open().map_err(io::Error::other)?;
    credential::set_undumpable()?;
    credential::keep_capabilities_over_user_changes()?;
    credential::become_for_good(uid, gid)?;
    credential::limit_capabilities(CapabilitySet::all_of(&[CapabilitySet::NET_ADMIN]).0)?;
    credential::set_no_new_privs()?;
    let filter: Vec<_> =
        seccomp::filter_of_link_maker().iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect();
    bailiwick_sys::seccomp::load(&filter)?;
    Maker { requests, route, refused: [host, owner] }.serve()
}

impl Maker {
    fn serve(mut self) -> io::Result<Infallible> {
        loop {
            let mut number = [0; 4];
            let (len, mut descriptors) = socket::receive(&self.requests, &mut number, 1)?;
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let made = match descriptors.pop() {
                Some(jail) if len == number.len() => self.make(u32::from_le_bytes(number), &jail),
                _ => Err(Refused::new(Errno::INVAL, "no request")),
            };
            socket::send(&self.requests, &reply_of(made), &[])?;
        }
    }

    fn make(&mut self, number: u32, jail: &OwnedFd) -> Result<(), Refused> {
        let is_jail = namespace::is_network(jail)
            && matches!(namespace::user_of(jail).and_then(file::metadata), Ok(owner) if !self.refused.contains(&owner.inode));
        if !is_jail {
            return Err(Refused::new(Errno::PERM, "the descriptor is of no jail's network"));
        }
        let end =
            |name: String, mac| LinkEnd { name, mac: Mac(mac), mtu: network::MTU, tx_queue_len: NO_QUEUE, queues: 1 };
        let veth = Veth {
            near: end(network::link_name(number), network::GATEWAY_MAC),
            far: end(network::INTERFACE.to_owned(), network::JAIL_MAC),
            near_state: State::Down,
        };
        self.route.add_veth(&veth, jail.as_fd()).map_err(Refused::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_carry_the_error_or_nothing() {
        assert!(parse_reply(&reply_of(Ok(()))).is_ok());
        let read = parse_reply(&reply_of(Err(Refused::new(Errno::EXIST, "it is there")))).expect_err("an error");
        assert_eq!((read.kind(), read.to_string().as_str()), (io::ErrorKind::AlreadyExists, "it is there"));
        assert!(parse_reply(&[]).is_err() && parse_reply(&[1]).is_err());
        let long = Refused::new(Errno::IO, "x".repeat(2 * MAX_REPLY));
        assert_eq!(reply_of(Err(long)).len(), MAX_REPLY);
    }
}
