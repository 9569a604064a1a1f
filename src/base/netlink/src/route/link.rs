//! Links (`rtnetlink(7)`, `linux/if_link.h`, `linux/veth.h`).

use super::table::route_request;
use super::{Route, RouteSocket, index_bytes, request};
use crate::message::{CREATE, EXCLUSIVE, Received, Writer, attributes, find, find_text, number32};
use crate::socket::Error;
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};

// The names and numbers of linux/rtnetlink.h, linux/if_link.h, linux/veth.h, linux/if.h and linux/socket.h.
const NEW: u16 = 16;
const DELETE: u16 = 17;
const GET: u16 = 18;
const SET: u16 = 19;
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const LINK: u16 = 5;
const TX_QUEUE_LEN: u16 = 13;
const INFO: u16 = 18;
const STATISTICS: u16 = 23;
const FAMILIES: u16 = 26;
const NAMESPACE: u16 = 28;
const TX_QUEUES: u16 = 31;
const RX_QUEUES: u16 = 32;
const PEER_NAMESPACE: u16 = 37;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const INET6: u16 = 10;
const INET6_GENERATION: u16 = 8;
const UP: u32 = 1;
const NAME_BYTES: usize = 15;
/// The length of `ifinfomsg` in bytes.
const HEADER: usize = 16;

/// The address of an interface on its wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(
    /// The bytes in their order on the wire.
    pub [u8; 6],
);

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// Whether an interface is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It sends and receives.
    Up,
    /// It does neither.
    Down,
}

/// How the kernel makes IPv6 addresses of an interface (`addr_gen_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressGeneration {
    /// From the MAC: the kernel's default.
    Eui64,
    /// Not at all.
    None,
    /// Another way, by the kernel's number.
    Other(u8),
}

impl AddressGeneration {
    fn number(self) -> u8 {
        match self {
            Self::Eui64 => 0,
            Self::None => 1,
            Self::Other(number) => number,
        }
    }

    fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Eui64,
            1 => Self::None,
            other => Self::Other(other),
        }
    }
}

/// One end of a pair of interfaces that is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkEnd {
    /// The name: 1 to 15 bytes.
    pub name: String,
    /// The address on the wire.
    pub mac: Mac,
    /// The largest packet in bytes.
    pub mtu: u32,
    /// Packets that may wait to be sent; with 0 there is no queue.
    pub tx_queue_len: u32,
    /// Queues to send from, and to receive into. Each costs memory of the kernel.
    pub queues: u32,
}

/// A pair of interfaces: what enters one leaves the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veth {
    /// The end in the namespace of the socket.
    pub near: LinkEnd,
    /// The end in the other namespace. It is down: the kernel cannot start it before its peer.
    pub far: LinkEnd,
    /// Whether the near end is started at once.
    pub near_state: State,
}

/// What the kernel says of a link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// The number in its namespace, from 1.
    pub index: u32,
    /// The name.
    pub name: String,
    /// The kind, such as `veth`; `None` for a device such as a network card and for the loopback.
    pub kind: Option<String>,
    /// The flags `IFF_…` of `netdevice(7)`.
    pub flags: u32,
    /// The largest packet in bytes.
    pub mtu: u32,
    /// The address on the wire.
    pub mac: Option<Mac>,
    /// Packets that may wait to be sent.
    pub tx_queue_len: u32,
    /// Queues to send from.
    pub tx_queues: u32,
    /// How IPv6 addresses are made; `None` where there is no IPv6.
    pub address_generation: Option<AddressGeneration>,
    /// The number of the peer in its own namespace.
    pub peer: Option<u32>,
    /// The peer's namespace, as this namespace numbers others; `None` when it is this one.
    pub peer_namespace: Option<i32>,
    /// What went through.
    pub statistics: Statistics,
}

/// What went through a link since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets that were received and dropped.
    pub rx_dropped: u64,
    /// Packets that were to be sent and were dropped.
    pub tx_dropped: u64,
}

impl Default for AddressGeneration {
    fn default() -> Self {
        Self::Other(u8::MAX)
    }
}

impl Link {
    /// Whether it is started.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.flags & UP != 0
    }
}

fn header(index: u32, flags: u32, change: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[4..8].copy_from_slice(&index_bytes(index));
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// A request to start or stop a link, and what it does.
fn state_request(index: u32, state: State) -> (String, Writer) {
    let (flags, word) = match state {
        State::Up => (UP, "up"),
        State::Down => (0, "down"),
    };
    (format!("set link {index} {word}"), request(SET, 0, &header(index, flags, UP)))
}

fn write_end(writer: &mut Writer, end: &LinkEnd) {
    writer.put_text(NAME, &end.name);
    writer.put(ADDRESS, &end.mac.0);
    writer.put_u32(MTU, end.mtu);
    writer.put_u32(TX_QUEUE_LEN, end.tx_queue_len);
    writer.put_u32(TX_QUEUES, end.queues);
    writer.put_u32(RX_QUEUES, end.queues);
}

fn check_name(what: &dyn fmt::Display, name: &str) -> Result<(), Error> {
    if !name.is_empty() && name.len() <= NAME_BYTES && !name.contains(['/', '\0', ' ']) {
        return Ok(());
    }
    let why =
        format!("\"{name}\" is no name of an interface: it must have 1 to {NAME_BYTES} bytes, no slash and no space");
    Err(Error::Invalid { what: what.to_string(), why })
}

impl RouteSocket {
    /// Makes a pair of interfaces in one request: the near end in this namespace, the far end in another one. The kernel takes
    /// [`AddressGeneration`] only from a link that exists: see [`Self::set_address_generation`].
    ///
    /// # Errors
    /// [`Error::Refused`] with `EEXIST` when a name is taken; `EINVAL` when `namespace` is no network namespace.
    pub fn add_veth(&mut self, veth: &Veth, namespace: BorrowedFd<'_>) -> Result<(), Error> {
        let what = format!("add link {} with peer {}", veth.near.name, veth.far.name);
        check_name(&what, &veth.near.name)?;
        check_name(&what, &veth.far.name)?;
        let up = if veth.near_state == State::Up { UP } else { 0 };
        let mut writer = request(NEW, CREATE | EXCLUSIVE, &header(0, up, up));
        write_end(&mut writer, &veth.near);
        writer.nest(INFO, |info| {
            info.put_text(INFO_KIND, "veth");
            info.nest(INFO_DATA, |data| {
                data.nest(VETH_PEER, |peer| {
                    peer.raw(&header(0, 0, 0));
                    write_end(peer, &veth.far);
                    peer.put_u32(NAMESPACE, namespace.as_raw_fd().cast_unsigned());
                });
            });
        });
        self.socket.tell(&what, &mut writer)
    }

    /// Deletes a link, and so its peer. The kernel needs 20 ms for it.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ENODEV` when there is no such link.
    pub fn delete_link(&mut self, index: u32) -> Result<(), Error> {
        self.socket.tell(&format_args!("delete link {index}"), &mut request(DELETE, 0, &header(index, 0, 0)))
    }

    /// Starts or stops a link.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ENODEV` when there is no such link.
    pub fn set_link_state(&mut self, index: u32, state: State) -> Result<(), Error> {
        let (what, mut writer) = state_request(index, state);
        self.socket.tell(&what, &mut writer)
    }

    /// Starts a link and adds routes over it, which the kernel refuses while the link is down. All of it is sent at once: soon after
    /// the start of a veth the kernel holds its lock of all links for a time that grows with the routes of the peer's namespace, and
    /// whatever needs that lock then has to wait.
    ///
    /// # Errors
    /// As for [`Self::set_link_state`] and [`Self::add_route`]. What was not refused is done.
    pub fn start_with_routes(&mut self, index: u32, routes: &[Route]) -> Result<(), Error> {
        let mut requests = vec![state_request(index, State::Up)];
        for route in routes {
            requests.push((format!("add {route}"), route_request(route)?));
        }
        self.socket.tell_all(requests)
    }

    /// Sets the address of a link on its wire.
    ///
    /// # Errors
    /// [`Error::Refused`]: `EADDRNOTAVAIL` when the address is no address of one interface.
    pub fn set_link_mac(&mut self, index: u32, mac: Mac) -> Result<(), Error> {
        let mut writer = request(SET, 0, &header(index, 0, 0));
        writer.put(ADDRESS, &mac.0);
        self.socket.tell(&format_args!("set link {index} address {mac}"), &mut writer)
    }

    /// Sets how the kernel makes IPv6 addresses of a link. It takes effect when the link is started next.
    ///
    /// # Errors
    /// [`Error::Refused`]; `EAFNOSUPPORT` where there is no IPv6.
    pub fn set_address_generation(&mut self, index: u32, generation: AddressGeneration) -> Result<(), Error> {
        let mut writer = request(SET, 0, &header(index, 0, 0));
        writer.nest(FAMILIES, |families| {
            families.nest(INET6, |inet6| inet6.put(INET6_GENERATION, &[generation.number()]));
        });
        self.socket.tell(&format_args!("set link {index} addrgenmode {generation:?}"), &mut writer)
    }

    /// Returns the link with a name; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no name; else [`Error::Refused`].
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let what = format!("get link {name}");
        check_name(&what, name)?;
        let mut writer = request(GET, 0, &header(0, 0, 0));
        writer.put_text(NAME, name);
        let mut found = None;
        match self.socket.ask(&what, &mut writer, |message| found = parse(&message)) {
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            result => result.map(|()| found),
        }
    }

    /// Returns all links.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Busy`].
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        self.socket.dump(&"list links", &mut request(GET, 0, &header(0, 0, 0)), Vec::new, |links, message| {
            links.extend(parse(&message));
            Ok(())
        })
    }
}

fn parse(message: &Received<'_>) -> Option<Link> {
    if message.kind != NEW {
        return None;
    }
    let (head, body) = message.body.split_at_checked(HEADER)?;
    let mut link = Link { index: number32(&head[4..8])?, flags: number32(&head[8..12])?, ..Link::default() };
    for (kind, content) in attributes(body) {
        match kind {
            NAME => link.name = crate::message::text(content),
            ADDRESS => link.mac = content.try_into().ok().map(Mac),
            MTU => link.mtu = number32(content)?,
            LINK => link.peer = number32(content),
            TX_QUEUE_LEN => link.tx_queue_len = number32(content)?,
            TX_QUEUES => link.tx_queues = number32(content)?,
            INFO => link.kind = find_text(content, INFO_KIND),
            STATISTICS => link.statistics = statistics(content).unwrap_or_default(),
            PEER_NAMESPACE => link.peer_namespace = number32(content).map(u32::cast_signed),
            FAMILIES => {
                let generation = find(content, INET6).and_then(|inet6| find(inet6, INET6_GENERATION));
                link.address_generation =
                    generation.and_then(|one| one.first().copied()).map(AddressGeneration::from_number);
            }
            _ => {}
        }
    }
    // The loopback has no peer, and names itself.
    link.peer = link.peer.filter(|peer| *peer != 0 && link.kind.is_some());
    Some(link)
}

/// Reads `rtnl_link_stats64`.
fn statistics(bytes: &[u8]) -> Option<Statistics> {
    let number = |at: usize| Some(u64::from_ne_bytes(bytes.get(at * 8..at * 8 + 8)?.try_into().ok()?));
    Some(Statistics {
        rx_packets: number(0)?,
        tx_packets: number(1)?,
        rx_bytes: number(2)?,
        tx_bytes: number(3)?,
        rx_dropped: number(6)?,
        tx_dropped: number(7)?,
    })
}
