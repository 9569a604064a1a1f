//! Neighbours: which MAC has an address on a link (`linux/neighbour.h`).

use super::{Family, Mac, RouteSocket, address, index_bytes, octets, request};
use crate::message::{CREATE, EXCLUSIVE, REPLACE, find, number16, number32};
use crate::socket::Error;
use std::fmt;
use std::net::IpAddr;

// The names and numbers of linux/rtnetlink.h and linux/neighbour.h.
const NEW: u16 = 28;
const DELETE: u16 = 29;
const GET: u16 = 30;
const ADDRESS: u16 = 1;
const WIRE_ADDRESS: u16 = 2;
const PERMANENT: u16 = 0x80;
/// The length of `ndmsg` in bytes.
const HEADER: usize = 12;

/// A neighbour on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The number of the link.
    pub link: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its address on the wire; `None` while the kernel asks for it.
    pub mac: Option<Mac>,
    /// The states `NUD_…`.
    pub state: u16,
}

impl Neighbour {
    /// A neighbour that is never asked and never forgotten.
    #[must_use]
    pub fn permanent(link: u32, address: IpAddr, mac: Mac) -> Self {
        Self { link, address, mac: Some(mac), state: PERMANENT }
    }

    /// Whether it is never asked and never forgotten.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.state & PERMANENT != 0
    }
}

impl fmt::Display for Neighbour {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "neighbour {} on link {}", self.address, self.link)?;
        self.mac.map_or(Ok(()), |mac| write!(out, " at {mac}"))
    }
}

fn write(kind: u16, flags: u16, neighbour: &Neighbour) -> crate::message::Writer {
    let mut header = [0; HEADER];
    header[0] = Family::of(neighbour.address).number();
    header[4..8].copy_from_slice(&index_bytes(neighbour.link));
    header[8..10].copy_from_slice(&neighbour.state.to_ne_bytes());
    let mut writer = request(kind, flags, &header);
    writer.put(ADDRESS, &octets(neighbour.address));
    if let Some(mac) = neighbour.mac {
        writer.put(WIRE_ADDRESS, &mac.0);
    }
    writer
}

impl RouteSocket {
    /// Adds a neighbour.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EEXIST` when the address has an entry on that link.
    pub fn add_neighbour(&mut self, new: &Neighbour) -> Result<(), Error> {
        self.socket.tell(&format_args!("add {new}"), &mut write(NEW, CREATE | EXCLUSIVE, new))
    }

    /// Adds a neighbour instead of what is known of its address on that link.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn replace_neighbour(&mut self, new: &Neighbour) -> Result<(), Error> {
        self.socket.tell(&format_args!("replace {new}"), &mut write(NEW, CREATE | REPLACE, new))
    }

    /// Deletes a neighbour.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ENOENT` when there is none.
    pub fn delete_neighbour(&mut self, old: &Neighbour) -> Result<(), Error> {
        self.socket.tell(&format_args!("delete {old}"), &mut write(DELETE, 0, old))
    }

    /// Returns all neighbours of all links and both families.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Busy`].
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>, Error> {
        self.socket.dump(&"list neighbours", &mut request(GET, 0, &[0; HEADER]), Vec::new, |all, message| {
            all.extend((message.kind == NEW).then(|| parse(message.body)).flatten());
            Ok(())
        })
    }
}

fn parse(body: &[u8]) -> Option<Neighbour> {
    let (head, body) = body.split_at_checked(HEADER)?;
    Family::from_number(head[0])?;
    Some(Neighbour {
        link: number32(&head[4..8])?,
        address: find(body, ADDRESS).and_then(address)?,
        mac: find(body, WIRE_ADDRESS).and_then(|bytes| bytes.try_into().ok()).map(Mac),
        state: number16(&head[8..10])?,
    })
}
