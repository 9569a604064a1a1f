//! Addresses of links (`rtnetlink(7)`, `linux/if_addr.h`).

use super::{Family, RouteSocket, address, index_bytes, octets, request};
use crate::message::{CREATE, EXCLUSIVE, find, find_u32, number32};
use crate::socket::Error;
use std::fmt;
use std::net::IpAddr;

// The names and numbers of linux/rtnetlink.h and linux/if_addr.h.
const NEW: u16 = 20;
const DELETE: u16 = 21;
const GET: u16 = 22;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const FLAGS: u16 = 8;
const NO_DUPLICATE_DETECTION: u32 = 0x02;
const NO_PREFIX_ROUTE: u32 = 0x200;
/// Flags that the kernel sets itself: `IFA_F_PERMANENT`.
const PERMANENT: u32 = 0x80;
/// The length of `ifaddrmsg` in bytes.
const HEADER: usize = 8;

/// An address of a link. The kernel makes no route for its prefix, and starts to use it at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The number of the link.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// The length of its prefix in bits.
    pub prefix_len: u8,
    /// The flags `IFA_F_…`, without `IFA_F_PERMANENT`, which any address that does not end has.
    pub flags: u32,
}

impl Address {
    /// An address as it is added: without a route for its prefix (`IFA_F_NOPREFIXROUTE`), and for IPv6 without detection of
    /// duplicates (`IFA_F_NODAD`), which IPv4 does not have.
    #[must_use]
    pub fn new(link: u32, address: IpAddr, prefix_len: u8) -> Self {
        let detection = if address.is_ipv6() { NO_DUPLICATE_DETECTION } else { 0 };
        Self { link, address, prefix_len, flags: NO_PREFIX_ROUTE | detection }
    }

    fn header(&self) -> [u8; HEADER] {
        let mut header = [Family::of(self.address).number(), self.prefix_len, 0, 0, 0, 0, 0, 0];
        header[4..].copy_from_slice(&index_bytes(self.link));
        header
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "address {}/{} of link {}", self.address, self.prefix_len, self.link)
    }
}

impl RouteSocket {
    /// Adds an address to a link.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EEXIST` when the link has it already.
    pub fn add_address(&mut self, new: &Address) -> Result<(), Error> {
        let mut writer = request(NEW, CREATE | EXCLUSIVE, &new.header());
        writer.put(LOCAL, &octets(new.address));
        writer.put(ADDRESS, &octets(new.address));
        writer.put_u32(FLAGS, new.flags);
        self.socket.tell(&format_args!("add {new}"), &mut writer)
    }

    /// Deletes an address of a link.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EADDRNOTAVAIL` when the link does not have it.
    pub fn delete_address(&mut self, old: &Address) -> Result<(), Error> {
        let mut writer = request(DELETE, 0, &old.header());
        writer.put(LOCAL, &octets(old.address));
        writer.put(ADDRESS, &octets(old.address));
        self.socket.tell(&format_args!("delete {old}"), &mut writer)
    }

    /// Returns all addresses of all links.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Busy`].
    pub fn addresses(&mut self) -> Result<Vec<Address>, Error> {
        self.socket.dump(&"list addresses", &mut request(GET, 0, &[0; HEADER]), Vec::new, |all, message| {
            all.extend((message.kind == NEW).then(|| parse(message.body)).flatten());
            Ok(())
        })
    }

    /// Returns the addresses of one link. The kernel looks at no other link, so this costs as much beside a thousand of them.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ENODEV` when there is no such link; [`Error::Busy`].
    pub fn addresses_of(&mut self, link: u32) -> Result<Vec<Address>, Error> {
        let mut found = Vec::new();
        for family in [Family::V4, Family::V6] {
            let mut header = [family.number(), 0, 0, 0, 0, 0, 0, 0];
            header[4..].copy_from_slice(&index_bytes(link));
            let what = format_args!("list addresses of {family} of link {link}");
            found.extend(self.socket.dump(&what, &mut request(GET, 0, &header), Vec::new, |all, message| {
                let address = (message.kind == NEW).then(|| parse(message.body)).flatten();
                // A kernel without IPv6 lists both families for either.
                all.extend(address.filter(|one| one.link == link && Family::of(one.address) == family));
                Ok(())
            })?);
        }
        Ok(found)
    }
}

fn parse(body: &[u8]) -> Option<Address> {
    let (head, body) = body.split_at_checked(HEADER)?;
    let own = find(body, LOCAL).or_else(|| find(body, ADDRESS))?;
    let flags = find_u32(body, FLAGS).unwrap_or(u32::from(head[2])) & !PERMANENT;
    Some(Address { link: number32(&head[4..8])?, address: address(own)?, prefix_len: head[1], flags })
}
