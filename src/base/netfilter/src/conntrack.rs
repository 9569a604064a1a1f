//! The connections that the kernel tracks (`linux/netfilter/nfnetlink_conntrack.h`).
//!
//! Danger: a request to delete without a connection's addresses would delete all connections of all tenants. This crate deletes
//! only what it has just read, with all of its addresses.

use bailiwick_netlink::message::{Received, Writer, find, find_be32, find_be64};
use bailiwick_netlink::route::{Family, address, octets};
use bailiwick_netlink::socket::{Error, Socket};
use bailiwick_sys::netlink::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

// The names and numbers of linux/netfilter/nfnetlink.h and linux/netfilter/nfnetlink_conntrack.h.
const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const GET_STATISTICS: u16 = SUBSYSTEM | 5;
const STATISTICS_COUNT: u16 = 1;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL_INFO: u16 = 4;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const ORIGINAL_COUNTERS: u16 = 9;
const REPLY_COUNTERS: u16 = 10;
const ID: u16 = 12;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// `CTA_FILTER_F_CTA_IP_SRC`.
const FILTER_SOURCE: u32 = 1;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const V4_SOURCE: u16 = 1;
const V4_DESTINATION: u16 = 2;
const V6_SOURCE: u16 = 3;
const V6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const INFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const COUNTER_PACKETS: u16 = 1;
const COUNTER_BYTES: u16 = 2;
/// The length of `nfgenmsg` in bytes.
const HEADER: usize = 4;
/// Connections that are read and deleted together.
const CHUNK: usize = 4096;
/// How often connections of one source are looked for again after some were deleted.
const ROUNDS: usize = 256;

/// A socket for connections.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

/// A connection, as its first packet said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Who began it.
    pub source: IpAddr,
    /// With whom, as the packet said before its destination was changed.
    pub destination: IpAddr,
    /// Who answers: another one than the destination, if that was changed.
    pub answers: IpAddr,
    /// The port that answers, where the protocol has ports.
    pub answering_port: Option<u16>,
    /// The transport protocol.
    pub protocol: u8,
    /// The ports of source and destination, where the protocol has some.
    pub ports: Option<(u16, u16)>,
    /// The bits `IPS_…`.
    pub status: u32,
    /// The state of TCP, by the kernel's number (3 is established).
    pub tcp_state: Option<u8>,
    /// Seconds until it is forgotten.
    pub timeout: u32,
    /// The mark.
    pub mark: u32,
    /// Packets and bytes from the source; `None` unless the kernel counts them (`net.netfilter.nf_conntrack_acct`).
    pub sent: Option<(u64, u64)>,
    /// Packets and bytes to the source.
    pub received: Option<(u64, u64)>,
}

/// Some connections.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Connections {
    /// At most as many as were asked for.
    pub connections: Vec<Connection>,
    /// How many there are.
    pub total: usize,
}

/// What a deletion needs: the attributes of the first packet's addresses, and the connection's number.
type Identity = (Vec<u8>, Option<u32>);

impl Conntrack {
    /// Opens the socket. It is about the network namespace that this thread is in, for good.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(Protocol::Netfilter)? })
    }

    /// Returns connections of a family, at most `limit`, and how many there are.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Busy`].
    pub fn connections(&mut self, family: Family, limit: usize) -> Result<Connections, Error> {
        let what = format!("list connections of {family}");
        self.list(&what, request(GET, family), limit, |_| true)
    }

    /// Returns connections that an address began, or that lead to it, at most `limit`, and how many there are. The kernel looks at all.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Busy`].
    pub fn connections_of(&mut self, address: IpAddr, limit: usize) -> Result<Connections, Error> {
        let what = format!("list connections of {address}");
        let mut all = Connections::default();
        for (place, request) in requests_of(address).into_iter().enumerate() {
            // One of an address with itself is among the first.
            let is_new = |one: &Connection| place == 0 || one.source != address;
            let is_wanted = |one: &Connection| (one.source == address || one.answers == address) && is_new(one);
            let Connections { connections, total } = self.list(&what, request, limit, is_wanted)?;
            all.total += total;
            all.connections.extend(connections);
        }
        all.connections.truncate(limit);
        Ok(all)
    }

    fn list(
        &mut self,
        what: &str,
        mut request: Writer,
        limit: usize,
        is_wanted: impl Fn(&Connection) -> bool,
    ) -> Result<Connections, Error> {
        self.socket.dump(&what, &mut request, Connections::default, |all, message| {
            let Some(one) = parse(&message).filter(&is_wanted) else { return Ok(()) };
            all.total += 1;
            if all.connections.len() < limit {
                all.connections.push(one);
            }
            Ok(())
        })
    }

    /// Returns how many connections each address of a family began, of at most `limit` addresses.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Busy`]; [`Error::TooMany`] when more addresses began connections.
    pub fn count_by_source(&mut self, family: Family, limit: usize) -> Result<BTreeMap<IpAddr, usize>, Error> {
        let what = format!("count connections of {family}");
        self.socket.dump(&what, &mut request(GET, family), BTreeMap::new, |all, message| {
            let tuple = attributes_of(&message).and_then(|body| find(body, ORIGINAL));
            if let Some((source, _)) = tuple.and_then(addresses) {
                *all.entry(source).or_default() += 1;
            }
            if all.len() > limit {
                return Err(Error::TooMany { what: what.clone(), limit });
            }
            Ok(())
        })
    }

    /// Returns how many connections the kernel tracks in this namespace. It counts them as they come and go, so nothing is listed.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn count(&mut self) -> Result<u32, Error> {
        let what = "count connections";
        let mut found = None;
        // They are of no family.
        let mut writer = Writer::request(GET_STATISTICS, 0);
        writer.raw(&[0; HEADER]);
        self.socket.ask(&what, &mut writer, |message| {
            if message.kind == GET_STATISTICS {
                found = message.body.get(HEADER..).and_then(|body| find_be32(body, STATISTICS_COUNT));
            }
        })?;
        let why = || "the kernel's answer has no number".to_owned();
        found.ok_or_else(|| Error::Invalid { what: what.to_owned(), why: why() })
    }

    /// Deletes all connections that some addresses began or that lead to them, and returns how many. Their next packets begin new ones.
    /// To find them, the kernel looks at the connections of all namespaces, which takes milliseconds; where there is none, it need not.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::Busy`] when an address begins connections faster than they are deleted.
    pub fn delete_of(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<usize, Error> {
        if addresses.is_empty() || self.count()? == 0 {
            return Ok(0);
        }
        let of = |family| addresses.iter().copied().filter(|address| Family::of(*address) == family).collect();
        Ok(self.delete_of_family(Family::V4, &of(Family::V4))? + self.delete_of_family(Family::V6, &of(Family::V6))?)
    }

    fn delete_of_family(&mut self, family: Family, wanted: &BTreeSet<IpAddr>) -> Result<usize, Error> {
        let (what, requests) = match (wanted.first(), wanted.len()) {
            (None, _) => return Ok(0),
            (Some(address), 1) => (format!("delete connections of {address}"), requests_of(*address)),
            (Some(_), count) => (format!("delete connections of {count} addresses"), vec![request(GET, family)]),
        };
        let mut deleted = 0;
        for request in requests {
            deleted += self.delete_listed(&what, &request, family, wanted)?;
        }
        Ok(deleted)
    }

    /// Deletes those of the wanted addresses that a request lists.
    fn delete_listed(
        &mut self,
        what: &str,
        listing: &Writer,
        family: Family,
        wanted: &BTreeSet<IpAddr>,
    ) -> Result<usize, Error> {
        let mut deleted = 0;
        for _ in 0..ROUNDS {
            let some =
                self.socket.dump(&what, &mut listing.clone(), Vec::new, |all: &mut Vec<Identity>, message| {
                    if all.len() < CHUNK {
                        all.extend(identity(&message, wanted));
                    }
                    Ok(())
                })?;
            let is_last = some.len() < CHUNK;
            for (tuple, id) in some {
                let mut writer = request(DELETE, family);
                writer.nest(ORIGINAL, |to| to.raw(&tuple));
                if let Some(id) = id {
                    writer.put_be32(ID, id);
                }
                match self.socket.tell(&what, &mut writer) {
                    Ok(()) => deleted += 1,
                    // It has ended by itself.
                    Err(error) if error.errno() == Some(libc::ENOENT) => {}
                    Err(error) => return Err(error),
                }
            }
            if is_last {
                return Ok(deleted);
            }
        }
        Err(Error::Busy { what: what.to_owned() })
    }
}

fn request(kind: u16, family: Family) -> Writer {
    let mut writer = Writer::request(kind, 0);
    writer.raw(&[family.number(), 0, 0, 0]);
    writer
}

/// Asks for the connections that an address began, and for those that it answers (`CTA_FILTER`, since Linux 5.8), or at least for
/// those.
///
/// With an address of IPv6 the kernel leaves out those that were asked for: `ctnetlink_filter_match_tuple()` of Linux 6.18 takes
/// equal for different. So all of IPv6 are asked for, and the caller looks at each.
fn requests_of(address: IpAddr) -> Vec<Writer> {
    let family = Family::of(address);
    if address.is_ipv6() {
        return vec![request(GET, family)];
    }
    let sides = [(ORIGINAL, [FILTER_SOURCE, 0]), (REPLY, [0, FILTER_SOURCE])];
    let of_side = |(tuple, [original, reply]): (u16, [u32; 2])| {
        let mut writer = request(GET, family);
        writer.nest(tuple, |tuple| tuple.nest(TUPLE_IP, |ip| ip.put(V4_SOURCE, &octets(address))));
        writer.nest(FILTER, |filter| {
            filter.put_u32(FILTER_ORIGINAL, original);
            filter.put_u32(FILTER_REPLY, reply);
        });
        writer
    };
    sides.map(of_side).into()
}

fn attributes_of<'a>(message: &Received<'a>) -> Option<&'a [u8]> {
    message.body.get(HEADER..).filter(|_| message.kind == NEW)
}

/// The source and destination of a tuple.
fn addresses(tuple: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let ip = find(tuple, TUPLE_IP)?;
    let one = |v4, v6| find(ip, v4).or_else(|| find(ip, v6)).and_then(address);
    Some((one(V4_SOURCE, V6_SOURCE)?, one(V4_DESTINATION, V6_DESTINATION)?))
}

fn identity(message: &Received<'_>, wanted: &BTreeSet<IpAddr>) -> Option<Identity> {
    let body = attributes_of(message)?;
    let tuple = find(body, ORIGINAL)?;
    let ends = [Some(tuple), find(body, REPLY)].into_iter().flatten().filter_map(addresses);
    let is_wanted = ends.into_iter().any(|(from, _)| wanted.contains(&from));
    is_wanted.then(|| (tuple.to_vec(), find_be32(body, ID)))
}

fn parse(message: &Received<'_>) -> Option<Connection> {
    let body = attributes_of(message)?;
    let tuple = find(body, ORIGINAL)?;
    let (source, destination) = addresses(tuple)?;
    let protocol = find(tuple, TUPLE_PROTOCOL)?;
    let port_of = |protocol, kind| Some(u16::from_be_bytes(find(protocol, kind)?.try_into().ok()?));
    let port = |kind| port_of(protocol, kind);
    let reply = find(body, REPLY);
    let answers = reply.and_then(addresses).map_or(destination, |(from, _)| from);
    let answering_port = reply.and_then(|reply| port_of(find(reply, TUPLE_PROTOCOL)?, SOURCE_PORT));
    let tcp = find(body, PROTOCOL_INFO).and_then(|info| find(info, INFO_TCP));
    let counters = |kind| {
        let both = find(body, kind)?;
        Some((find_be64(both, COUNTER_PACKETS)?, find_be64(both, COUNTER_BYTES)?))
    };
    Some(Connection {
        source,
        destination,
        answers,
        answering_port,
        protocol: *find(protocol, PROTOCOL_NUMBER)?.first()?,
        ports: port(SOURCE_PORT).zip(port(DESTINATION_PORT)),
        status: find_be32(body, STATUS).unwrap_or_default(),
        tcp_state: tcp.and_then(|tcp| find(tcp, TCP_STATE)).and_then(|state| state.first().copied()),
        timeout: find_be32(body, TIMEOUT).unwrap_or_default(),
        mark: find_be32(body, MARK).unwrap_or_default(),
        sent: counters(ORIGINAL_COUNTERS),
        received: counters(REPLY_COUNTERS),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let message = Received { kind: NEW, flags: 0, sequence: 1, body: &bytes };
            let _none = parse(&message);
            prop_assert_eq!(identity(&message, &BTreeSet::from([IpAddr::from([10, 0, 0, 1])])), None);
        }
    }
}
