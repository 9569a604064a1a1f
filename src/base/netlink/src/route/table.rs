//! Routes (`rtnetlink(7)`, `linux/rtnetlink.h`).

use super::{Family, RouteSocket, address, octets, request};
use crate::message::{CREATE, EXCLUSIVE, REPLACE, Writer, find, find_u32};
use crate::socket::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

// The names and numbers of linux/rtnetlink.h.
const NEW: u16 = 24;
const DELETE: u16 = 25;
const GET: u16 = 26;
const DESTINATION: u16 = 1;
const DEVICE: u16 = 4;
const GATEWAY: u16 = 5;
const PRIORITY: u16 = 6;
const SOURCE: u16 = 7;
const TABLE: u16 = 15;
const STATIC: u8 = 4;
const UNIVERSE: u8 = 0;
const ON_LINK_SCOPE: u8 = 253;
const NOWHERE: u8 = 255;
const ON_LINK: u32 = 4;
/// What the kernel calls no priority of a route of IPv6.
const IPV6_PRIORITY: u32 = 1024;
/// The length of `rtmsg` in bytes.
const HEADER: usize = 12;

/// Addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The lowest address.
    pub address: IpAddr,
    /// The number of equal bits.
    pub len: u8,
}

impl Prefix {
    /// One address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self { address, len: Family::of(address).bits() }
    }

    /// All addresses of a family.
    #[must_use]
    pub fn all(family: Family) -> Self {
        let address = match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self { address, len: 0 }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.len)
    }
}

/// What happens to a packet that a route is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// It is sent on.
    Unicast,
    /// It vanishes.
    Blackhole,
    /// It is refused, and its sender is told.
    Unreachable,
    /// Another kind, by the kernel's number, such as those of the table `local`.
    Other(u8),
}

impl RouteKind {
    fn number(self) -> u8 {
        match self {
            Self::Unicast => 1,
            Self::Blackhole => 6,
            Self::Unreachable => 7,
            Self::Other(number) => number,
        }
    }

    fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Unicast,
            6 => Self::Blackhole,
            7 => Self::Unreachable,
            other => Self::Other(other),
        }
    }
}

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The packets that it is for.
    pub destination: Prefix,
    /// The table that it is in; [`Route::MAIN`] is what a packet without a rule of its own is looked up in.
    pub table: u32,
    /// What happens to the packet.
    pub kind: RouteKind,
    /// The link that it leaves by; `None` for a kind that sends nothing.
    pub link: Option<u32>,
    /// The neighbour that it is sent to; `None` when its destination is a neighbour.
    pub via: Option<IpAddr>,
    /// Whether `via` is believed to be a neighbour although no other route says so.
    pub on_link: bool,
    /// The address that the machine itself uses as its source.
    pub source: Option<IpAddr>,
    /// The lower one of two routes for the same prefix is used; 0 is the kernel's default.
    pub priority: u32,
    /// Who made it: `RTPROT_…` (2 the kernel, 4 an operator or this crate).
    pub protocol: u8,
}

impl Route {
    /// The number of the table `main`.
    pub const MAIN: u32 = 254;

    /// A route of the table `main` that sends packets over a link.
    #[must_use]
    pub fn over(destination: Prefix, link: u32) -> Self {
        Self {
            destination,
            table: Self::MAIN,
            kind: RouteKind::Unicast,
            link: Some(link),
            via: None,
            on_link: false,
            source: None,
            priority: 0,
            protocol: STATIC,
        }
    }

    /// The same route, by a neighbour on that link that no other route needs to lead to. For IPv4 the kernel demands that the
    /// namespace has an address, such as that of the loopback: else it says `Nexthop has invalid gateway`.
    #[must_use]
    pub fn via(self, neighbour: IpAddr) -> Self {
        Self { via: Some(neighbour), on_link: true, ..self }
    }

    /// The same route, in another table.
    #[must_use]
    pub fn in_table(self, table: u32) -> Self {
        Self { table, ..self }
    }

    /// A route of the table `main` that ends packets.
    #[must_use]
    pub fn end(destination: Prefix, kind: RouteKind) -> Self {
        Self { kind, link: None, ..Self::over(destination, 0) }
    }

    fn family(&self) -> Family {
        Family::of(self.destination.address)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Unicast => write!(out, "route {}", self.destination)?,
            kind => write!(out, "route {} ({kind:?})", self.destination)?,
        }
        if let Some(via) = self.via {
            write!(out, " via {via}")?;
        }
        if let Some(link) = self.link {
            write!(out, " dev {link}")?;
        }
        if self.table != Self::MAIN {
            write!(out, " table {}", self.table)?;
        }
        Ok(())
    }
}

fn write(kind: u16, flags: u16, route: &Route) -> Result<Writer, Error> {
    // The kernel would take the first bytes of a longer address.
    if let Some(other) =
        [route.via, route.source].into_iter().flatten().find(|other| Family::of(*other) != route.family())
    {
        let why = format!("{other} is no address of {}", route.family());
        return Err(Error::Invalid { what: format!("write {route}"), why });
    }
    let scope = match (route.family(), kind, route.kind, route.via) {
        (_, DELETE, _, _) => NOWHERE,
        (Family::V4, _, RouteKind::Unicast, None) => ON_LINK_SCOPE,
        _ => UNIVERSE,
    };
    // Tables of more than a byte are in an attribute.
    let table = u8::try_from(route.table).unwrap_or_default();
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&[
        route.family().number(),
        route.destination.len,
        0,
        0,
        table,
        route.protocol,
        scope,
        route.kind.number(),
    ]);
    header[8..].copy_from_slice(&if route.on_link { ON_LINK } else { 0 }.to_ne_bytes());
    let mut writer = request(kind, flags, &header);
    writer.put_u32(TABLE, route.table);
    if route.destination.len > 0 {
        writer.put(DESTINATION, &octets(route.destination.address));
    }
    if let Some(link) = route.link {
        writer.put_u32(DEVICE, link);
    }
    if let Some(via) = route.via {
        writer.put(GATEWAY, &octets(via));
    }
    if let Some(source) = route.source {
        writer.put(SOURCE, &octets(source));
    }
    if route.priority != 0 {
        writer.put_u32(PRIORITY, route.priority);
    }
    Ok(writer)
}

/// A request to add a route.
pub(super) fn route_request(route: &Route) -> Result<Writer, Error> {
    write(NEW, CREATE | EXCLUSIVE, route)
}

impl RouteSocket {
    /// Adds a route.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EEXIST` when there is one for its prefix, table and priority; [`Error::Invalid`] when `via` or
    /// `source` is of the other family.
    pub fn add_route(&mut self, route: &Route) -> Result<(), Error> {
        self.socket.tell(&format_args!("add {route}"), &mut route_request(route)?)
    }

    /// Adds a route instead of the one for its prefix, table and priority, if there is one.
    ///
    /// # Errors
    /// As for [`Self::add_route`], without `EEXIST`.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), Error> {
        self.socket.tell(&format_args!("replace {route}"), &mut write(NEW, CREATE | REPLACE, route)?)
    }

    /// Deletes a route.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ESRCH` when there is none.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), Error> {
        self.socket.tell(&format_args!("delete {route}"), &mut write(DELETE, 0, route)?)
    }

    /// Returns the routes of a family: those of one table, or of all, the kernel's own table `local` (255) included.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Busy`].
    pub fn routes(&mut self, family: Family, table: Option<u32>) -> Result<Vec<Route>, Error> {
        let mut header = [0; HEADER];
        header[0] = family.number();
        let mut writer = request(GET, 0, &header);
        if let Some(table) = table {
            writer.put_u32(TABLE, table);
        }
        let list = self.socket.dump(&format_args!("list routes of {family}"), &mut writer, Vec::new, |all, message| {
            let route = (message.kind == NEW).then(|| parse(message.body)).flatten();
            all.extend(route.filter(|route| table.is_none_or(|table| route.table == table)));
            Ok(())
        });
        match list {
            // The kernel says so of a table that never had a route.
            Err(error) if error.errno() == Some(libc::ENOENT) && table.is_some() => Ok(Vec::new()),
            list => list,
        }
    }
}

fn parse(body: &[u8]) -> Option<Route> {
    let (head, body) = body.split_at_checked(HEADER)?;
    let family = Family::from_number(head[0])?;
    let base = find(body, DESTINATION).and_then(address).unwrap_or(Prefix::all(family).address);
    let kind = RouteKind::from_number(head[7]);
    let flags = u32::from_ne_bytes(head[8..12].try_into().ok()?);
    let default = if family == Family::V6 { IPV6_PRIORITY } else { 0 };
    // A route of IPv6 that ends packets is on the loopback.
    let link = find_u32(body, DEVICE).filter(|_| !matches!(kind, RouteKind::Blackhole | RouteKind::Unreachable));
    Some(Route {
        destination: Prefix { address: base, len: head[1] },
        table: find_u32(body, TABLE).unwrap_or(u32::from(head[4])),
        kind,
        link,
        via: find(body, GATEWAY).and_then(address),
        on_link: flags & ON_LINK != 0,
        source: find(body, SOURCE).and_then(address),
        priority: find_u32(body, PRIORITY).filter(|priority| *priority != default).unwrap_or_default(),
        protocol: head[5],
    })
}
