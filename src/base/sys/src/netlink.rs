//! Netlink sockets (`netlink(7)`), and the kernel's warnings about disk quotas (`linux/quota.h`, family `VFS_DQUOT` of generic
//! netlink).
//!
//! Danger: any process can send to a netlink socket. Only messages from the kernel may be read.

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

// The names and numbers of linux/netlink.h, linux/genetlink.h and linux/quota.h.
const FAMILY: &[u8] = b"VFS_DQUOT\0";
const GROUP: &[u8] = b"events\0";
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const MULTICAST_GROUPS: u16 = 7;
const GROUP_NAME: u16 = 1;
const GROUP_ID: u16 = 2;
const WARNING: u8 = 1;
const KIND: u16 = 1;
const WHO: u16 = 2;
const WHAT: u16 = 3;
const PROJECTS: u32 = 2;
/// The length of both headers in bytes: that of netlink and that of generic netlink.
const HEADERS: usize = 16 + 4;
const MAX_MESSAGE: usize = 16 << 10;

/// A socket that receives the warnings.
#[derive(Debug)]
pub struct QuotaWarnings {
    socket: OwnedFd,
    family: u16,
}

/// How a project hit a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WarningKind {
    /// The hard limit of bytes refused it, or the soft limit after the grace period.
    Bytes,
    /// The hard limit of inodes refused it, or the soft limit after the grace period.
    Inodes,
    /// It passed the soft limit of bytes.
    BytesSoft,
    /// It passed the soft limit of inodes.
    InodesSoft,
}

/// One warning about one project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Warning {
    /// The number of the project.
    pub project: u32,
    /// How it hit a quota.
    pub kind: WarningKind,
}

impl QuotaWarnings {
    /// Opens the socket, which is non-blocking, and subscribes to the warnings.
    ///
    /// # Errors
    /// `ENOENT` when the kernel sends no warnings (`CONFIG_QUOTA_NETLINK_INTERFACE`), else the error of a socket call.
    pub fn listen() -> io::Result<Self> {
        let protocol = rustix::net::netlink::GENERIC;
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))?;
        let answer = ask_family(&socket)?;
        let family = attribute(&answer, FAMILY_ID).and_then(number16).ok_or(io::ErrorKind::NotFound)?;
        let group = attribute(&answer, MULTICAST_GROUPS).and_then(group_of).ok_or(io::ErrorKind::NotFound)?;
        join(&socket, group)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { socket, family })
    }

    /// Returns the warnings that have come about projects. Those about users and groups are left out.
    ///
    /// # Errors
    /// The error of `recvfrom(2)`, except `ENOBUFS`: lost warnings are no error.
    pub fn take(&self) -> io::Result<Vec<Warning>> {
        let mut found = Vec::new();
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            let message = match receive(&self.socket, &mut buffer) {
                Ok(Some(len)) => &buffer[..len],
                Ok(None) => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(found),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => continue,
                Err(error) => return Err(error),
            };
            found.extend(parse_warning(message, self.family));
        }
    }
}

impl AsFd for QuotaWarnings {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Receives a datagram and returns its length; `None` when it does not come from the kernel.
pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let (_, len, from) = rustix::net::recvfrom(socket, &mut *buffer, RecvFlags::empty())?;
    let from = from.and_then(|from| rustix::net::netlink::SocketAddrNetlink::try_from(from).ok());
    let is_kernel = from.is_some_and(|from| from.pid() == 0);
    Ok((is_kernel && len <= buffer.len()).then_some(len))
}

/// Asks the kernel for the family's description.
fn ask_family(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut body = vec![GET_FAMILY, 1, 0, 0];
    let len = u16::try_from(4 + FAMILY.len()).map_err(io::Error::other)?;
    body.extend(len.to_ne_bytes());
    body.extend(FAMILY_NAME.to_ne_bytes());
    body.extend(FAMILY);
    body.resize(body.len().next_multiple_of(4), 0);
    let len = u32::try_from(16 + body.len()).map_err(io::Error::other)?;
    let mut message = len.to_ne_bytes().to_vec();
    message.extend(CONTROL.to_ne_bytes());
    // NLM_F_REQUEST.
    message.extend(1u16.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    rustix::net::send(socket, &message, SendFlags::empty())?;
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let Some(len) = receive(socket, &mut buffer)? else { continue };
        let Some(kind) = buffer[..len].get(4..6).and_then(number16) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        // Any other kind is NLMSG_ERROR: the kernel has no such family.
        return if kind == CONTROL { Ok(buffer[..len].to_vec()) } else { Err(io::ErrorKind::NotFound.into()) };
    }
}

fn join(socket: &OwnedFd, group: u32) -> io::Result<()> {
    Ok(nix::sys::socket::setsockopt(socket, option::AddMembership, &group)?)
}

/// Options of sockets that nix does not have.
mod option {
    use nix::{setsockopt_impl, sockopt_impl};

    sockopt_impl!(AddMembership, SetOnly, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, u32);
    sockopt_impl!(CapAck, SetOnly, libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, u32);
    sockopt_impl!(ExtAck, SetOnly, libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, u32);
    sockopt_impl!(StrictCheck, SetOnly, libc::SOL_NETLINK, libc::NETLINK_GET_STRICT_CHK, u32);
}

/// What a socket of [`open`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, rules, neighbours and queues (`rtnetlink(7)`).
    Route,
    /// nftables, connection tracking and packet logs (`linux/netfilter/nfnetlink.h`).
    Netfilter,
}

/// Opens a socket of a protocol. An error of the kernel has its words, and not all of the request. What a list may contain is
/// checked strictly.
///
/// # Errors
/// `EPROTONOSUPPORT` when the kernel has no such protocol, else the errors of `socket(2)` and `setsockopt(2)`.
pub fn open(protocol: Protocol) -> io::Result<OwnedFd> {
    let protocol = match protocol {
        // NETLINK_ROUTE is 0.
        Protocol::Route => None,
        Protocol::Netfilter => Some(rustix::net::netlink::NETFILTER),
    };
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    nix::sys::socket::setsockopt(&socket, option::CapAck, &1)?;
    nix::sys::socket::setsockopt(&socket, option::ExtAck, &1)?;
    nix::sys::socket::setsockopt(&socket, option::StrictCheck, &1)?;
    Ok(socket)
}

/// The attributes in a message, each as its kind and content. A cut one, which the kernel does not send, ends them.
pub fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(number16(rest.get(0..2)?)?);
        // NLA_F_NESTED and NLA_F_NET_BYTEORDER are flags in the kind.
        let kind = number16(rest.get(2..4)?)? & 0x3fff;
        let content = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, content))
    })
}

fn attribute(message: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(message.get(HEADERS..)?).find(|(found, _)| *found == kind).map(|(_, content)| content)
}

/// The number of the multicast group with the warnings.
fn group_of(groups: &[u8]) -> Option<u32> {
    attributes(groups).find_map(|(_, group)| {
        let find = |kind| attributes(group).find(|(found, _)| *found == kind).map(|(_, content)| content);
        (find(GROUP_NAME)? == GROUP).then(|| find(GROUP_ID).and_then(number32)).flatten()
    })
}

/// A number in the byte order of this machine; `None` for another length.
#[must_use]
pub fn number16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

/// A number in the byte order of this machine; `None` for another length.
#[must_use]
pub fn number32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// Parses one message of `family`; `None` when it is no warning about a project.
#[must_use]
pub fn parse_warning(message: &[u8], family: u16) -> Option<Warning> {
    if number16(message.get(4..6)?)? != family || *message.get(16)? != WARNING {
        return None;
    }
    if attribute(message, KIND).and_then(number32)? != PROJECTS {
        return None;
    }
    let who = attribute(message, WHO)?;
    let project = u32::try_from(u64::from_ne_bytes(who.try_into().ok()?)).ok()?;
    let kind = match attribute(message, WHAT).and_then(number32)? {
        1 | 2 => WarningKind::Inodes,
        3 => WarningKind::InodesSoft,
        4 | 5 => WarningKind::Bytes,
        6 => WarningKind::BytesSoft,
        // The other numbers say that the project is below a limit again.
        _ => return None,
    };
    Some(Warning { project, kind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(family: u16, kind: u32, who: u64, what: u32) -> Vec<u8> {
        let mut body = vec![WARNING, 1, 0, 0];
        for (attribute, content) in [
            (KIND, kind.to_ne_bytes().to_vec()),
            (WHO, who.to_ne_bytes().to_vec()),
            (WHAT, what.to_ne_bytes().to_vec()),
        ] {
            body.extend(u16::try_from(4 + content.len()).expect("small").to_ne_bytes());
            body.extend(attribute.to_ne_bytes());
            body.extend(content);
        }
        let mut message = u32::try_from(16 + body.len()).expect("small").to_ne_bytes().to_vec();
        message.extend(family.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    }

    #[test]
    fn warnings_of_projects_are_read_and_others_are_not() {
        let read = |family, kind, who, what| parse_warning(&message(family, kind, who, what), 21);
        let warning = |kind| Some(Warning { project: 10_000_000, kind });
        assert_eq!(read(21, PROJECTS, 10_000_000, 4), warning(WarningKind::Bytes));
        assert_eq!(read(21, PROJECTS, 10_000_000, 3), warning(WarningKind::InodesSoft));
        assert_eq!(read(21, PROJECTS, 10_000_000, 10), None);
        assert_eq!(read(21, 0, 10_000_000, 4), None);
        assert_eq!(read(22, PROJECTS, 10_000_000, 4), None);
        assert_eq!(read(21, PROJECTS, 1 << 40, 4), None);
    }

    #[test]
    fn a_kernel_without_warnings_says_so() {
        match QuotaWarnings::listen() {
            Ok(warnings) => assert_eq!(warnings.take().expect("takes"), []),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}"),
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..60) {
            let _none = parse_warning(&bytes, 21);
            let whole = message(21, PROJECTS, 7, 4);
            let _none = parse_warning(&whole[..cut.min(whole.len())], 21);
        }
    }
}
