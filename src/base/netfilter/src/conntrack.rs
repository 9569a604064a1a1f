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
const ORIGINAL: u16 = 1;
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
        self.list(&what, request(GET, family), limit, None)
    }

    /// Returns connections that an address began, at most `limit`, and how many there are. The kernel looks at all.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Busy`].
    pub fn connections_of(&mut self, source: IpAddr, limit: usize) -> Result<Connections, Error> {
        let what = format!("list connections of {source}");
        self.list(&what, request_of(source), limit, Some(source))
    }

    fn list(
        &mut self,
        what: &str,
        mut request: Writer,
        limit: usize,
        source: Option<IpAddr>,
    ) -> Result<Connections, Error> {
        self.socket.dump(&what, &mut request, Connections::default, |all, message| {
            let found = parse(&message).filter(|one| source.is_none_or(|source| one.source == source));
            let Some(one) = found else { return Ok(()) };
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

    /// Deletes all connections that some addresses began, and returns how many. Their next packets begin new ones.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::Busy`] when an address begins connections faster than they are deleted.
    pub fn delete_of(&mut self, sources: &BTreeSet<IpAddr>) -> Result<usize, Error> {
        let of = |family| sources.iter().copied().filter(|source| Family::of(*source) == family).collect();
        Ok(self.delete_of_family(Family::V4, &of(Family::V4))? + self.delete_of_family(Family::V6, &of(Family::V6))?)
    }

    fn delete_of_family(&mut self, family: Family, sources: &BTreeSet<IpAddr>) -> Result<usize, Error> {
        let (what, request_all) = match (sources.first(), sources.len()) {
            (None, _) => return Ok(0),
            (Some(source), 1) => (format!("delete connections of {source}"), request_of(*source)),
            (Some(_), count) => (format!("delete connections of {count} addresses"), request(GET, family)),
        };
        let mut deleted = 0;
        for _ in 0..ROUNDS {
            let mut listing = request_all.clone();
            let some = self.socket.dump(&what, &mut listing, Vec::new, |all: &mut Vec<Identity>, message| {
                if all.len() < CHUNK {
                    all.extend(identity(&message, sources));
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
        Err(Error::Busy { what })
    }
}

fn request(kind: u16, family: Family) -> Writer {
    let mut writer = Writer::request(kind, 0);
    writer.raw(&[family.number(), 0, 0, 0]);
    writer
}

/// Asks for the connections that an address began (`CTA_FILTER`, since Linux 5.8), or at least for those.
///
/// With an address of IPv6 the kernel leaves out those that were asked for: `ctnetlink_filter_match_tuple()` of Linux 6.18 takes
/// equal for different. So all of IPv6 are asked for, and the caller looks at each.
fn request_of(source: IpAddr) -> Writer {
    let mut writer = request(GET, Family::of(source));
    if source.is_ipv6() {
        return writer;
    }
    writer.nest(ORIGINAL, |tuple| tuple.nest(TUPLE_IP, |ip| ip.put(V4_SOURCE, &octets(source))));
    writer.nest(FILTER, |filter| {
        filter.put_u32(FILTER_ORIGINAL, FILTER_SOURCE);
        filter.put_u32(FILTER_REPLY, 0);
    });
    writer
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

fn identity(message: &Received<'_>, sources: &BTreeSet<IpAddr>) -> Option<Identity> {
    let body = attributes_of(message)?;
    let tuple = find(body, ORIGINAL)?;
    let (from, _) = addresses(tuple)?;
    sources.contains(&from).then(|| (tuple.to_vec(), find_be32(body, ID)))
}

fn parse(message: &Received<'_>) -> Option<Connection> {
    let body = attributes_of(message)?;
    let tuple = find(body, ORIGINAL)?;
    let (source, destination) = addresses(tuple)?;
    let protocol = find(tuple, TUPLE_PROTOCOL)?;
    let port = |kind| Some(u16::from_be_bytes(find(protocol, kind)?.try_into().ok()?));
    let tcp = find(body, PROTOCOL_INFO).and_then(|info| find(info, INFO_TCP));
    let counters = |kind| {
        let both = find(body, kind)?;
        Some((find_be64(both, COUNTER_PACKETS)?, find_be64(both, COUNTER_BYTES)?))
    };
    Some(Connection {
        source,
        destination,
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
