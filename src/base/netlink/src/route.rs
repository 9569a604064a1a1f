//! Links, addresses, routes, rules, neighbours and queues (`rtnetlink(7)`).

mod address;
mod link;
mod neighbour;
mod queue;
mod rule;
mod table;

pub use address::Address;
pub use link::{AddressGeneration, Link, LinkEnd, Mac, State, Statistics, Veth};
pub use neighbour::Neighbour;
pub use queue::{Class, Queue, QueueKind, handle};
pub use rule::Rule;
pub use table::{Prefix, Route, RouteKind};

use crate::message::Writer;
use crate::socket::{Error, Socket};
use bailiwick_sys::netlink::Protocol;
use std::fmt;
use std::net::IpAddr;

/// A socket for links, addresses, routes, rules, neighbours and queues.
#[derive(Debug)]
pub struct RouteSocket {
    socket: Socket,
}

impl RouteSocket {
    /// Opens the socket. It is about the network namespace that this thread is in, for good.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(Protocol::Route)? })
    }
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// `AF_INET` or `AF_INET6`, which are `NFPROTO_IPV4` and `NFPROTO_IPV6` too.
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// The family of such a number; `None` for another one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            2 => Some(Self::V4),
            10 => Some(Self::V6),
            _ => None,
        }
    }

    /// Bits of an address.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The bytes of an address in the order of networks.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The address with these bytes in the order of networks; `None` unless they are 4 or 16.
pub fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// The number of a link, which messages have as a signed number of the same bytes.
fn index_bytes(index: u32) -> [u8; 4] {
    index.to_ne_bytes()
}

/// A request with the header of a family.
fn request(kind: u16, flags: u16, header: &[u8]) -> Writer {
    let mut writer = Writer::request(kind, flags);
    writer.raw(header);
    writer
}
