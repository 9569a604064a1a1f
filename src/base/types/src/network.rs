//! What a jail may reach over the network, and who may reach it: prefixes, ports, names, rates and volumes.
//!
//! Danger: these texts become rules of a packet filter. A prefix that holds more addresses than its text shows, or an
//! address with a second spelling, would open what nobody meant to open.

use crate::tenant::words;
use crate::{Bound, ByteSize, ParseQuantityError, TenantName, UnknownWord};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

words!(
    /// Whether a jail has a network, and whether others reach it.
    NetworkMode,
    "none, outbound, published",
    [
        /// A loopback, and nothing else.
        None = "none",
        /// The jail connects to others.
        Outbound = "outbound",
        /// The same, and ports of the host lead into the jail.
        Published = "published",
    ]
);

words!(
    /// A transport protocol with ports.
    Transport,
    "tcp, udp",
    [
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
    ]
);

/// Serialises types as their text, and checks that text when it is read.
macro_rules! as_text {
    ($($type:ty),* $(,)?) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(Prefix, PortRange, Port, Ports, DomainName, Destination, WhenOver);

/// A range of addresses of one family: `"192.0.2.0/24"`, `"2001:db8::/32"`. A single address needs no length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Why a text is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The text has another form.
    #[error("{text:?} is no address and no prefix")]
    NotPrefix {
        /// The text.
        text: String,
    },
    /// The length is larger than the addresses of the family.
    #[error("an address of this family has {most} bits, and the prefix has {length}")]
    Length {
        /// The length of the text.
        length: u8,
        /// The largest length of the family.
        most: u8,
    },
    /// Bits after the length are set.
    #[error("\"{address}/{length}\" has bits set after the first {length}")]
    HostBits {
        /// The address of the text.
        address: IpAddr,
        /// The length of the text.
        length: u8,
        /// The prefix that the address is in.
        right: Prefix,
    },
    /// It is a second spelling of IPv4 (RFC 4291, 2.5.5.2), which a rule for IPv4 would not see.
    #[error("the prefix is IPv4, written as IPv6")]
    Mapped {
        /// The same prefix as IPv4.
        right: Prefix,
    },
}

impl PrefixError {
    /// The prefix to write instead, if there is one.
    #[must_use]
    pub fn right(&self) -> Option<Prefix> {
        match self {
            Self::HostBits { right, .. } | Self::Mapped { right } => Some(*right),
            Self::NotPrefix { .. } | Self::Length { .. } => None,
        }
    }
}

impl Prefix {
    /// The prefix of the first `length` bits of an address.
    ///
    /// # Errors
    /// When the length is too large, when a later bit is set, and for IPv4 that is written as IPv6.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, PrefixError> {
        let most = bits(address);
        if length > most {
            return Err(PrefixError::Length { length, most });
        }
        if let (IpAddr::V6(v6), Some(length)) = (address, length.checked_sub(96))
            && let Some(v4) = v6.to_ipv4_mapped()
        {
            let right = Self { address: masked(v4.into(), length), length };
            return Err(PrefixError::Mapped { right });
        }
        let right = Self { address: masked(address, length), length };
        if right.address == address { Ok(right) } else { Err(PrefixError::HostBits { address, length, right }) }
    }

    const fn v4(octets: [u8; 4], length: u8) -> Self {
        let [a, b, c, d] = octets;
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length }
    }

    /// A prefix of which at most the first six groups are set.
    const fn v6(groups: [u16; 6], length: u8) -> Self {
        let [a, b, c, d, e, f] = groups;
        Self { address: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, 0, 0)), length }
    }

    /// The first address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits at the start are fixed.
    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether an address is in the prefix. No address of the other family is.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        bits(address) == bits(self.address) && masked(address, self.length) == self.address
    }

    /// Whether all addresses of another prefix are in this one.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        other.length >= self.length && self.contains(other.address)
    }

    /// Whether an address is in both prefixes.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// How many addresses it has; the largest number for all of IPv6.
    #[must_use]
    pub fn addresses(self) -> u128 {
        1u128.checked_shl(u32::from(bits(self.address) - self.length)).unwrap_or(u128::MAX)
    }

    /// The row of [`ALWAYS_BLOCKED`] that covers all of this prefix, if one does.
    #[must_use]
    pub fn always_blocked(self) -> Option<&'static BlockedPrefix> {
        ALWAYS_BLOCKED.iter().find(|blocked| blocked.prefix.covers(self))
    }
}

/// How many bits the addresses of a family have.
fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The address without the bits after the first `length`.
fn masked(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & !u32::MAX.checked_shr(length).unwrap_or(0)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::MAX.checked_shr(length).unwrap_or(0)).into(),
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let other = || PrefixError::NotPrefix { text: text.to_owned() };
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(digits(length).ok_or_else(other)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| other())?;
        Self::new(address, length.unwrap_or(bits(address)))
    }
}

impl fmt::Display for Prefix {
    /// A single address is written without its length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.length == bits(self.address) {
            self.address.fmt(f)
        } else {
            f.pad(&format!("{}/{}", self.address, self.length))
        }
    }
}

/// A number of decimal digits, without a sign.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A prefix that no jail reaches, whatever is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockedPrefix {
    /// The prefix.
    pub prefix: Prefix,
    /// What it is.
    pub what: &'static str,
    /// Where that is written.
    pub source: &'static str,
}

impl BlockedPrefix {
    /// Whether its addresses are for whoever wants them, so that jails can have them.
    #[must_use]
    pub fn is_private(&self) -> bool {
        ["RFC 1918", "RFC 4193", "RFC 6598"].contains(&self.source)
    }
}

macro_rules! blocked {
    ($($family:ident $start:tt / $length:literal $what:literal $source:literal;)*) => {
        &[$(BlockedPrefix { prefix: Prefix::$family($start, $length), what: $what, source: $source }),*]
    };
}

/// What no jail reaches, whatever is allowed: what the special-purpose registries of IANA do not give to the Internet
/// (<https://www.iana.org/assignments/iana-ipv4-special-registry> and `iana-ipv6-special-registry`), and multicast. In it
/// are the host's own services, its neighbours, and the metadata services of clouds. A prefix that embeds IPv4 addresses
/// would be a second way to all of these.
///
/// One address is the Internet's, and yet each virtual machine of Azure reaches its own host there: WireServer, which hands out the
/// settings and certificates of the machine, and a resolver
/// (<https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16>). Jails may still ask it for names.
pub const ALWAYS_BLOCKED: &[BlockedPrefix] = blocked! {
    v4 [0, 0, 0, 0] / 8 "this network" "RFC 791, 3.2";
    v4 [10, 0, 0, 0] / 8 "private" "RFC 1918";
    v4 [100, 64, 0, 0] / 10 "shared by a provider, and the default pool of jails" "RFC 6598";
    v4 [127, 0, 0, 0] / 8 "loopback" "RFC 1122, 3.2.1.3";
    v4 [168, 63, 129, 16] / 32 "WireServer, a metadata service of Azure" "Microsoft, What is IP address 168.63.129.16";
    v4 [169, 254, 0, 0] / 16 "link-local, with the metadata services of clouds" "RFC 3927";
    v4 [172, 16, 0, 0] / 12 "private" "RFC 1918";
    v4 [192, 0, 0, 0] / 24 "for protocols" "RFC 6890, 2.1";
    v4 [192, 0, 2, 0] / 24 "for documentation" "RFC 5737";
    v4 [192, 88, 99, 0] / 24 "relays of 6to4" "RFC 7526";
    v4 [192, 168, 0, 0] / 16 "private" "RFC 1918";
    v4 [198, 18, 0, 0] / 15 "for benchmarks" "RFC 2544";
    v4 [198, 51, 100, 0] / 24 "for documentation" "RFC 5737";
    v4 [203, 0, 113, 0] / 24 "for documentation" "RFC 5737";
    v4 [224, 0, 0, 0] / 4 "multicast" "RFC 5771";
    v4 [255, 255, 255, 255] / 32 "broadcast" "RFC 919, 7";
    v4 [240, 0, 0, 0] / 4 "reserved" "RFC 1112, 4";
    v6 [0, 0, 0, 0, 0, 0] / 96 "unspecified, loopback, and IPv4 in IPv6" "RFC 4291, 2.5";
    v6 [0, 0, 0, 0, 0, 0xffff] / 96 "IPv4 in IPv6" "RFC 4291, 2.5.5.2";
    v6 [0x64, 0xff9b, 0, 0, 0, 0] / 96 "IPv4 in IPv6, for NAT64" "RFC 6052";
    v6 [0x64, 0xff9b, 1, 0, 0, 0] / 48 "IPv4 in IPv6, for NAT64" "RFC 8215";
    v6 [0x100, 0, 0, 0, 0, 0] / 64 "discarded" "RFC 6666";
    v6 [0x2001, 0, 0, 0, 0, 0] / 23 "for protocols: Teredo, with IPv4 in IPv6, and others" "RFC 2928";
    v6 [0x2001, 0xdb8, 0, 0, 0, 0] / 32 "for documentation" "RFC 3849";
    v6 [0x2002, 0, 0, 0, 0, 0] / 16 "IPv4 in IPv6, for 6to4" "RFC 3056";
    v6 [0x3fff, 0, 0, 0, 0, 0] / 20 "for documentation" "RFC 9637";
    v6 [0x5f00, 0, 0, 0, 0, 0] / 16 "for segment routing" "RFC 9602";
    v6 [0xfc00, 0, 0, 0, 0, 0] / 7 "private, with the metadata service fd00:ec2::254" "RFC 4193";
    v6 [0xfe80, 0, 0, 0, 0, 0] / 10 "link-local" "RFC 4291, 2.5.6";
    v6 [0xfec0, 0, 0, 0, 0, 0] / 10 "site-local" "RFC 3879";
    v6 [0xff00, 0, 0, 0, 0, 0] / 8 "multicast" "RFC 4291, 2.7";
};

/// Ports from a first one to a last one: `"80"`, `"8000-8999"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text is no port, no range of ports, or no word for what a jail may send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The text is no number of a port.
    #[error("{text:?} is no port: ports are from 1 to 65535")]
    NotPort {
        /// The text.
        text: String,
    },
    /// The text is a range where one port belongs.
    #[error("{text:?} is a range, and one port belongs here; write an entry for each")]
    NoRange {
        /// The text.
        text: String,
    },
    /// The range starts above its end.
    #[error("the range starts above its end; write {last}-{first}")]
    Reversed {
        /// The first number of the text.
        first: u16,
        /// The last number of the text.
        last: u16,
    },
    /// There is no transport before the port.
    #[error("{text:?} has no transport; write one such as \"tcp/443\"")]
    NoTransport {
        /// The text.
        text: String,
    },
    /// The transport is unknown.
    #[error("unknown transport {word:?}; \"tcp\" or \"udp\"")]
    Transport {
        /// The text before the slash.
        word: String,
    },
    /// It is no port and none of the words.
    #[error("{text:?} is none of \"tcp/443\", \"udp/443\", \"tcp/8000-8999\", \"dns\" and \"ping\"")]
    NotPorts {
        /// The text.
        text: String,
    },
}

impl PortRange {
    /// The ports from `first` to `last`.
    ///
    /// # Errors
    /// For port 0, which nothing can listen on, and for a range that starts above its end.
    pub fn new(first: u16, last: u16) -> Result<Self, PortError> {
        if first == 0 {
            return Err(PortError::NotPort { text: "0".to_owned() });
        }
        if first > last { Err(PortError::Reversed { first, last }) } else { Ok(Self { first, last }) }
    }

    /// The first port.
    #[must_use]
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    #[must_use]
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether a port is in the range.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

fn port(text: &str) -> Result<u16, PortError> {
    digits(text).filter(|port| *port != 0).ok_or_else(|| PortError::NotPort { text: text.to_owned() })
}

impl FromStr for PortRange {
    type Err = PortError;
    fn from_str(text: &str) -> Result<Self, PortError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Self::new(port(first)?, port(last)?)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { f.pad(&format!("{}-{}", self.first, self.last)) }
    }
}

/// One port of a transport: `"tcp/22"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// The transport.
    pub transport: Transport,
    /// The number, which is not 0.
    pub number: u16,
}

/// Splits `"tcp/80"` into the transport and the text of the port.
fn transport(text: &str) -> Result<(Transport, &str), PortError> {
    let (word, port) = text.split_once('/').ok_or_else(|| PortError::NoTransport { text: text.to_owned() })?;
    Ok((word.parse().map_err(|_| PortError::Transport { word: word.to_owned() })?, port))
}

impl FromStr for Port {
    type Err = PortError;
    fn from_str(text: &str) -> Result<Self, PortError> {
        let (transport, number) = transport(text)?;
        if number.parse::<PortRange>().is_ok_and(|range| range.first != range.last) {
            return Err(PortError::NoRange { text: text.to_owned() });
        }
        Ok(Self { transport, number: port(number)? })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.transport, self.number))
    }
}

/// What a jail may send to where it is allowed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// To ports of a transport: `"tcp/443"`, `"tcp/8000-8999"`.
    Range {
        /// The transport.
        transport: Transport,
        /// The ports.
        range: PortRange,
    },
    /// To port 53 of the resolvers: `"dns"`.
    Dns,
    /// ICMP echo: `"ping"`.
    Ping,
}

impl Ports {
    /// Whether it is nothing but a port to which mail is sent ([`SMTP_PORTS`]).
    #[must_use]
    pub fn is_smtp(self) -> bool {
        matches!(self, Self::Range { transport: Transport::Tcp, range }
            if range.first == range.last && SMTP_PORTS.contains(&range.first))
    }

    /// Whether a port to which mail is sent is among them.
    #[must_use]
    pub fn has_smtp(self) -> bool {
        matches!(self, Self::Range { transport: Transport::Tcp, range }
            if SMTP_PORTS.iter().any(|port| range.contains(*port)))
    }
}

/// The ports of TCP to which mail is sent (RFC 5321, RFC 8314).
pub const SMTP_PORTS: [u16; 3] = [25, 465, 587];

impl FromStr for Ports {
    type Err = PortError;
    fn from_str(text: &str) -> Result<Self, PortError> {
        match text {
            "dns" => Ok(Self::Dns),
            "ping" => Ok(Self::Ping),
            _ if !text.contains('/') => Err(PortError::NotPorts { text: text.to_owned() }),
            _ => {
                let (transport, range) = transport(text)?;
                Ok(Self::Range { transport, range: range.parse()? })
            }
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range { transport, range } => f.pad(&format!("{transport}/{range}")),
            Self::Dns => f.pad("dns"),
            Self::Ping => f.pad("ping"),
        }
    }
}

/// The most bytes of a domain, and of what is between two dots of it (RFC 1035, 2.3.4).
const MAX_DOMAIN: usize = 253;
const MAX_LABEL: usize = 63;

/// Whether a text has the form of a domain (RFC 1035, 2.3.1; RFC 1123, 2.1): it can stand behind the `@` of an address. One
/// without a dot has it too.
#[must_use]
pub fn is_domain(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(is_inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= MAX_DOMAIN && text.split('.').all(is_label)
}

/// The name of a host of the Internet, in lower case: `"example.org"`. It has a dot, and its last part is no number, so it
/// is never an address (RFC 1123, 2.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(Box<str>);

/// The text is not the name of a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address, no prefix and no name of a host such as \"example.org\"")]
pub struct NotDomainName {
    text: String,
}

impl DomainName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DomainName {
    type Err = NotDomainName;
    fn from_str(text: &str) -> Result<Self, NotDomainName> {
        let is_word = |label: &str| label.bytes().any(|byte| !byte.is_ascii_digit());
        if is_domain(text) && text.rsplit_once('.').is_some_and(|(_, last)| is_word(last)) {
            Ok(Self(text.to_ascii_lowercase().into()))
        } else {
            Err(NotDomainName { text: text.to_owned() })
        }
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Where a jail may send to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// The addresses of a prefix.
    Prefix(Prefix),
    /// The addresses that a name has.
    Name(DomainName),
}

/// Why a text is no destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// It looks like an address or a prefix.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// It looks like a name.
    #[error(transparent)]
    Name(#[from] NotDomainName),
}

impl FromStr for Destination {
    type Err = DestinationError;
    fn from_str(text: &str) -> Result<Self, DestinationError> {
        // The parts of an address of IPv4 are numbers, and the last part of a name is none.
        let is_number = text.starts_with(|c: char| c.is_ascii_digit()) && text.ends_with(|c: char| c.is_ascii_digit());
        if text.contains([':', '/']) || (is_number && text.parse::<DomainName>().is_err()) {
            Ok(Self::Prefix(text.parse()?))
        } else {
            Ok(Self::Name(text.parse()?))
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(prefix) => prefix.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// One destination that a jail may send to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allow {
    /// The destination.
    pub to: Destination,
    /// What may be sent there; `None` for what [`Network::ports`] says.
    pub ports: Option<Vec<Ports>>,
}

/// A port of the host that leads to a port of a jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Publish {
    /// The transport of both.
    pub transport: Transport,
    /// The number of the host's port.
    pub host: u16,
    /// The number of the jail's port.
    pub to: u16,
}

impl Publish {
    /// The port of the host.
    #[must_use]
    pub fn host_port(self) -> Port {
        Port { transport: self.transport, number: self.host }
    }
}

/// A number of bytes a second: `"20M"` in powers of 1024, or `"100Mbit"` in powers of 1000, eight bits a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteRate(pub u64);

const BITS: &[(&str, u64)] = &[("Gbit", 1_000_000_000), ("Mbit", 1_000_000), ("kbit", 1000)];

impl FromStr for ByteRate {
    type Err = ParseQuantityError;
    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        let as_bits = BITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
        let Some((number, factor)) = as_bits else {
            return text.parse().map(|ByteSize(bytes)| Self(bytes)).map_err(|error| match error {
                ParseQuantityError::NoNumber { .. } => ParseQuantityError::NoNumber { example: "20M" },
                ParseQuantityError::Unit { unit, .. } => {
                    let units = "K, M, G or T (bytes, 1024-based), or kbit, Mbit or Gbit";
                    ParseQuantityError::Unit { unit, units }
                }
                other => other,
            });
        };
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match number.split_once('.') {
            _ if is_number(number) => {}
            Some((whole, part)) if is_number(whole) && is_number(part) => return Err(ParseQuantityError::Fraction),
            _ => return Err(ParseQuantityError::NoNumber { example: "100Mbit" }),
        }
        // Every factor is a multiple of eight.
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor / 8));
        bytes.map(Self).ok_or(ParseQuantityError::TooLarge)
    }
}

impl fmt::Display for ByteRate {
    /// The unit of bytes if the number is whole in one, or else that of bits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let as_bits = BITS.iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(factor / 8));
        match as_bits.filter(|_| !self.0.is_multiple_of(1024)) {
            Some((unit, factor)) => f.pad(&format!("{}{unit}", self.0 / (factor / 8))),
            None => ByteSize(self.0).fmt(f),
        }
    }
}

/// What happens when a month's volume is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WhenOver {
    /// The network stops until the month ends: `"stop"`.
    Stop,
    /// It goes on at a rate, in each direction: `"shape 1M"`.
    Shape(ByteRate),
    /// The operator is told: `"notify"`.
    Notify,
}

/// Why a text does not say what happens when a volume is used up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WhenOverError {
    /// It is none of the words.
    #[error("{text:?} is none of \"stop\", \"shape RATE\" and \"notify\"")]
    Word {
        /// The text.
        text: String,
    },
    /// The rate cannot be read.
    #[error("the rate after \"shape\": {0}")]
    Rate(ParseQuantityError),
}

impl FromStr for WhenOver {
    type Err = WhenOverError;
    fn from_str(text: &str) -> Result<Self, WhenOverError> {
        match (text, text.strip_prefix("shape ")) {
            ("stop", _) => Ok(Self::Stop),
            ("notify", _) => Ok(Self::Notify),
            (_, Some(rate)) => rate.parse().map(Self::Shape).map_err(WhenOverError::Rate),
            _ => Err(WhenOverError::Word { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for WhenOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stop => f.pad("stop"),
            Self::Shape(rate) => f.pad(&format!("shape {rate}")),
            Self::Notify => f.pad("notify"),
        }
    }
}

/// How much a tenant may send and receive in a month of the calendar, both directions together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonthlyVolume {
    /// The bytes.
    pub bytes: ByteSize,
    /// What happens above that.
    pub then: WhenOver,
    /// The shares of it, in per cent, at which the operator is told; ascending, from 1 to 100.
    pub notify: Vec<u8>,
}

impl MonthlyVolume {
    /// The default of `notify`.
    pub const NOTIFY: [u8; 2] = [80, 100];

    /// Whether it is used up.
    #[must_use]
    pub fn is_over(&self, used: u64) -> bool {
        used >= self.bytes.0
    }

    /// The shares at which the operator is told that are reached.
    pub fn reached(&self, used: u64) -> impl Iterator<Item = u8> {
        let (bytes, used) = (u128::from(self.bytes.0), u128::from(used));
        self.notify.iter().copied().filter(move |share| used * 100 >= bytes * u128::from(*share))
    }
}

/// The network of a jail. [`Network::default`] is none: nothing is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Whether there is one. With [`NetworkMode::None`] everything else is as in [`Network::default`].
    pub mode: NetworkMode,
    /// Where the jail may send to, without what is always blocked.
    pub allow: Vec<Allow>,
    /// What it may send there.
    pub ports: Vec<Ports>,
    /// Whether it may send to [`SMTP_PORTS`], if `ports` says so too.
    pub smtp: bool,
    /// The ports of the host that lead into it; empty unless the mode is [`NetworkMode::Published`].
    pub publish: Vec<Publish>,
    /// The most bytes a second out of the jail.
    pub up: Bound<ByteRate>,
    /// The most bytes a second into the jail.
    pub down: Bound<ByteRate>,
    /// The volume of a month; `None` for no bound.
    pub month: Option<MonthlyVolume>,
    /// The most connections at a time that the tenant opens, and that others open with it.
    pub connections: u32,
}

impl Network {
    /// The default of `connections`.
    pub const CONNECTIONS: u32 = 2000;
    /// The least that `connections` can be.
    pub const MIN_CONNECTIONS: u32 = 16;
    /// The most that `connections` can be.
    pub const MAX_CONNECTIONS: u32 = 100_000;

    /// A network with the default of every other setting: the Web, and names.
    #[must_use]
    pub fn with_mode(mode: NetworkMode) -> Self {
        if mode == NetworkMode::None {
            return Self::default();
        }
        let port = |transport, number| Ports::Range { transport, range: PortRange { first: number, last: number } };
        let everywhere = [Prefix::v4([0; 4], 0), Prefix::v6([0; 6], 0)];
        let allow = everywhere.map(|prefix| Allow { to: Destination::Prefix(prefix), ports: None });
        let ports = [port(Transport::Tcp, 80), port(Transport::Tcp, 443), port(Transport::Udp, 443), Ports::Dns];
        Self { mode, allow: allow.into(), ports: ports.into(), ..Self::default() }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            mode: NetworkMode::None,
            allow: Vec::new(),
            ports: Vec::new(),
            smtp: false,
            publish: Vec::new(),
            up: Bound::Unlimited,
            down: Bound::Unlimited,
            month: None,
            connections: Self::CONNECTIONS,
        }
    }
}

/// One half of a connection between two tenants. It is of use only with the other half, in the other tenant's file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Link {
    /// The other tenant.
    pub peer: TenantName,
    /// Which of the two connects.
    pub direction: LinkDirection,
    /// The port of the one that is connected to.
    pub port: Port,
}

words!(
    /// Which of two tenants connects to the other.
    LinkDirection,
    "to, from",
    [
        /// This tenant connects to the other one.
        To = "to",
        /// The other one may connect to this tenant.
        From = "from",
    ]
);

/// The addresses of IPv6 that jails get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ipv6Pool {
    /// Private ones (RFC 4193), which are made from the machine.
    Auto,
    /// None.
    Off,
    /// Those of a prefix.
    Prefix(Prefix),
}

/// What the host has for the networks of jails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostNetwork {
    /// The user that is root in the router: a name of the host's user database, or a number.
    pub user: String,
    /// The addresses of IPv4 that jails get.
    pub ipv4: Prefix,
    /// The addresses of IPv6 that jails get.
    pub ipv6: Ipv6Pool,
    /// The resolvers of jails; empty for those that the host uses itself.
    pub resolvers: Vec<IpAddr>,
    /// Whether jails ask a cache, and only the cache asks the resolvers.
    pub cache: bool,
    /// The user that the cache runs as: a name of the host's user database, or a number.
    pub cache_user: String,
    /// What no jail reaches, beside [`ALWAYS_BLOCKED`].
    pub block: Vec<Prefix>,
    /// The ports of the host that tenants may publish; `None` for none.
    pub ports: Option<PortRange>,
}

impl HostNetwork {
    /// The pools that are written down as prefixes.
    pub fn pools(&self) -> impl Iterator<Item = Prefix> {
        let ipv6 = if let Ipv6Pool::Prefix(prefix) = self.ipv6 { Some(prefix) } else { None };
        [self.ipv4].into_iter().chain(ipv6)
    }
}

impl Default for HostNetwork {
    fn default() -> Self {
        Self {
            user: "bailiwick-net".to_owned(),
            ipv4: Prefix::v4([100, 64, 0, 0], 10),
            ipv6: Ipv6Pool::Auto,
            resolvers: Vec::new(),
            cache: false,
            cache_user: "bailiwick-dns".to_owned(),
            block: Vec::new(),
            ports: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect(text)
    }

    fn any_prefix() -> impl Strategy<Value = Prefix> {
        (any::<IpAddr>(), 0u8..=128).prop_filter_map("a second spelling of IPv4", |(address, length)| {
            let length = length.min(bits(address));
            Prefix::new(masked(address, length), length).ok()
        })
    }

    fn any_ports() -> impl Strategy<Value = Ports> {
        let range = (any::<bool>(), 1u16.., 1u16..).prop_map(|(is_tcp, a, b)| Ports::Range {
            transport: if is_tcp { Transport::Tcp } else { Transport::Udp },
            range: PortRange::new(a.min(b), a.max(b)).expect("in order"),
        });
        prop_oneof![Just(Ports::Dns), Just(Ports::Ping), range]
    }

    fn any_rate() -> impl Strategy<Value = ByteRate> {
        let factor = proptest::sample::select(vec![1, 125, 1024, 125_000, 1 << 20, 125_000_000, 1 << 30]);
        (any::<u32>(), factor).prop_map(|(number, factor)| ByteRate(u64::from(number) * factor))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_displayed_parses_to_the_same_value(
            prefix in any_prefix(), ports in any_ports(), rate in any_rate(), name in "[a-z0-9]{1,9}(\\.[a-z]{1,9}){1,3}",
        ) {
            prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
            prop_assert_eq!(prefix.to_string().parse(), Ok(Destination::Prefix(prefix)));
            prop_assert_eq!(ports.to_string().parse(), Ok(ports));
            if let Ports::Range { transport, range } = ports {
                prop_assert_eq!(range.to_string().parse(), Ok(range));
                let port = Port { transport, number: range.first() };
                prop_assert_eq!(port.to_string().parse(), Ok(port));
            }
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
            let over = WhenOver::Shape(rate);
            prop_assert_eq!(over.to_string().parse(), Ok(over));
            let name: DomainName = name.parse().expect("a name");
            prop_assert_eq!(name.to_string().parse(), Ok(name.clone()));
            prop_assert_eq!(name.to_string().parse(), Ok(Destination::Name(name)));
        }

        /// Whatever is accepted is displayed as a text that is accepted too.
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,24}", near in "[0-9a-f:./x-]{0,24}") {
            for text in [text, near] {
                for value in [text.parse::<Prefix>().map(Destination::Prefix).ok(), text.parse().ok()].into_iter().flatten() {
                    prop_assert_eq!(value.to_string().parse(), Ok(value));
                }
                for rate in [text.clone(), format!("{text}bit")].iter().filter_map(|text| text.parse::<ByteRate>().ok()) {
                    prop_assert_eq!(rate.to_string().parse(), Ok(rate));
                }
                if let Ok(ports) = text.parse::<Ports>() {
                    prop_assert_eq!(ports.to_string().parse(), Ok(ports));
                }
            }
        }

        /// The rules for prefixes, compared with what they say of single addresses.
        #[test]
        fn a_prefix_holds_what_starts_with_its_bits(a in any_prefix(), b in any_prefix(), address in any::<IpAddr>()) {
            let starts_alike = match (a.address(), address) {
                (IpAddr::V4(a_bits), IpAddr::V4(bits)) => {
                    (0..a.length()).all(|n| (a_bits.to_bits() ^ bits.to_bits()) & (1 << (31 - n)) == 0)
                }
                (IpAddr::V6(a_bits), IpAddr::V6(bits)) => {
                    (0..a.length()).all(|n| (a_bits.to_bits() ^ bits.to_bits()) & (1 << (127 - n)) == 0)
                }
                _ => false,
            };
            prop_assert_eq!(a.contains(address), starts_alike);
            prop_assert!(a.contains(a.address()) && a.covers(a) && a.overlaps(a));
            prop_assert_eq!(a.overlaps(b), b.overlaps(a));
            if a.covers(b) {
                prop_assert!(a.overlaps(b) && a.contains(b.address()) && a.addresses() >= b.addresses());
            }
            if a.contains(address) && b.contains(address) {
                prop_assert!(a.overlaps(b));
            }
        }

        #[test]
        fn a_prefix_with_a_wrong_bit_names_the_right_one(address in any::<IpAddr>(), length in 0u8..=128) {
            let length = length.min(bits(address));
            if let Err(error) = Prefix::new(address, length) {
                let right = error.right().expect("the length fits");
                prop_assert_eq!(Prefix::new(right.address(), right.length()), Ok(right));
            }
        }
    }

    #[test]
    fn prefixes() {
        assert_eq!(prefix("10.0.0.0/8").to_string(), "10.0.0.0/8");
        assert_eq!(prefix("192.0.2.1/32").to_string(), "192.0.2.1");
        assert_eq!(prefix("2001:DB8::/32").to_string(), "2001:db8::/32");
        assert!(prefix("::/0").contains("::ffff:1.2.3.4".parse().expect("an address")));
        assert!(!prefix("0.0.0.0/0").overlaps(prefix("::/0")));
        assert_eq!((prefix("::/0").addresses(), prefix("10.0.0.0/24").addresses()), (u128::MAX, 256));
        for (text, right) in [
            ("10.0.0.1/8", "10.0.0.0/8"),
            ("2001:db8::1/64", "2001:db8::/64"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
        ] {
            let error = text.parse::<Prefix>().expect_err(text);
            assert_eq!(error.right(), Some(prefix(right)), "{text}: {error}");
        }
        for text in ["", "/8", "10.0.0.0/", "10.0.0.0/33", "::/129", "10.0.0.0/+8", "10.0.0/8", "fe80::1%1", "a.b/8"] {
            assert_eq!(text.parse::<Prefix>().expect_err(text).right(), None, "{text}");
        }
    }

    #[test]
    fn what_is_always_blocked() {
        for BlockedPrefix { prefix, what, source } in ALWAYS_BLOCKED {
            assert_eq!(masked(prefix.address, prefix.length), prefix.address, "{prefix} {what} {source}");
            let is_known = ["RFC ", "Microsoft, "].iter().any(|by| source.starts_with(by));
            assert!(prefix.length <= bits(prefix.address) && is_known, "{prefix}");
        }
        for text in
            "0.1.2.3 10.9.8.7 100.127.255.255 127.0.0.53 168.63.129.16 169.254.169.254 172.31.255.255 192.0.0.192 \
             192.0.2.1 192.168.1.1 198.19.0.1 198.51.100.1 203.0.113.1 224.0.0.251 240.0.0.1 \
             255.255.255.255 :: ::1 64:ff9b::7f00:1 64:ff9b:1::1 100::1 2001::1 2001:1ff::1 \
             2001:db8::1 2002:7f00:1::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1 ::127.0.0.1"
                .split(' ')
        {
            assert!(prefix(text).always_blocked().is_some(), "{text}");
        }
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().expect("an address");
        assert!(ALWAYS_BLOCKED.iter().any(|blocked| blocked.prefix.contains(mapped)));
        for text in "0.0.0.0/0 ::/0 1.1.1.1 9.255.255.255 11.0.0.0 100.63.0.1 100.128.0.1 168.63.129.15 168.63.129.17 172.32.0.1 \
             192.1.0.1 198.20.0.1 223.255.255.255 2001:200::1 2003::1 2606:4700::1111 2a00::1 \
             10.0.0.0/7 2000::/3"
            .split(' ')
        {
            assert_eq!(prefix(text).always_blocked(), None, "{text}");
        }
    }

    #[test]
    fn ports_and_words() {
        for text in ["tcp/80", "udp/443", "tcp/8000-8999", "dns", "ping", "udp/1-65535"] {
            assert_eq!(text.parse::<Ports>().expect(text).to_string(), text);
        }
        assert_eq!("tcp/80-80".parse::<Ports>().expect("a port").to_string(), "tcp/80");
        for text in
            ["", "80", "tcp/0", "tcp/65536", "tcp/9-8", "tcp/+80", "tcp/", "sctp/80", "TCP/80", "tcp/1-2-3", "tcp/-1"]
        {
            assert!(text.parse::<Ports>().is_err(), "{text:?}");
        }
        assert!("tcp/1-2".parse::<Port>().is_err() && "dns".parse::<Port>().is_err());
        let is_smtp = |text: &str| text.parse::<Ports>().expect(text).is_smtp();
        assert!(is_smtp("tcp/25") && is_smtp("tcp/465") && is_smtp("tcp/587"));
        assert!(!is_smtp("tcp/24-26") && !is_smtp("udp/25") && !is_smtp("ping"));
    }

    #[test]
    fn names_of_hosts() {
        for (text, golden) in
            [("example.org", "example.org"), ("WWW.Example.ORG", "www.example.org"), ("1.2.3.x", "1.2.3.x")]
        {
            assert_eq!(text.parse::<DomainName>().expect(text).as_str(), golden);
        }
        let label = |len: usize| "x".repeat(len);
        assert!(format!("{}.org", label(63)).parse::<DomainName>().is_ok());
        let long = [label(63), label(63), label(63), label(61)].join(".");
        assert_eq!(long.len(), 253);
        assert!(long.parse::<DomainName>().is_ok() && format!("{long}x").parse::<DomainName>().is_err());
        for text in ",.,a,localhost,a.,.a,a..b,-a.b,a-.b,a_b.c,ä.org,a b.c,1.2.3.4,a.1".split(',').chain([&*label(64)])
        {
            assert!(text.parse::<DomainName>().is_err(), "{text:?}");
        }
        assert!(matches!("1.2.3".parse::<Destination>(), Err(DestinationError::Prefix(_))));
        assert!(matches!("localhost".parse::<Destination>(), Err(DestinationError::Name(_))));
    }

    #[test]
    fn rates() {
        for (text, bytes, golden) in [
            ("20M", 20 << 20, "20M"),
            ("100Mbit", 12_500_000, "100Mbit"),
            ("1Gbit", 125_000_000, "1Gbit"),
            ("1024kbit", 128_000, "125K"),
            ("1000", 1000, "8kbit"),
            ("1", 1, "1"),
            ("0Gbit", 0, "0"),
        ] {
            assert_eq!(text.parse(), Ok(ByteRate(bytes)));
            assert_eq!(ByteRate(bytes).to_string(), golden);
        }
        for text in
            ["", "bit", "Mbit", "1bit", "1mbit", "-1Mbit", "+1Mbit", "1 Mbit", "1.5Mbit", "99999999999999Gbit", "1MB"]
        {
            assert!(text.parse::<ByteRate>().is_err(), "{text:?}");
        }
        for (text, over) in
            [("stop", WhenOver::Stop), ("notify", WhenOver::Notify), ("shape 1M", WhenOver::Shape(ByteRate(1 << 20)))]
        {
            assert_eq!(text.parse(), Ok(over));
            assert_eq!(over.to_string(), text);
        }
        for text in ["", "shape", "shape ", "shape x", "Stop", "shape  1M"] {
            assert!(text.parse::<WhenOver>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn no_network_allows_nothing_and_one_has_the_web() {
        let none = Network::default();
        assert!(none.allow.is_empty() && none.ports.is_empty());
        let outbound = Network::with_mode(NetworkMode::Outbound);
        let words = |items: &[Ports]| items.iter().map(Ports::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(words(&outbound.ports), "tcp/80 tcp/443 udp/443 dns");
        let to: Vec<String> = outbound.allow.iter().map(|allow| allow.to.to_string()).collect();
        assert_eq!(to, ["0.0.0.0/0", "::/0"]);
        assert_eq!(HostNetwork::default().ipv4, prefix("100.64.0.0/10"));
    }

    #[test]
    fn words_round_trip() {
        assert!(NetworkMode::ALL.iter().all(|word| word.word().parse() == Ok(*word)));
        assert!(Transport::ALL.iter().all(|word| word.word().parse() == Ok(*word)));
        assert!(LinkDirection::ALL.iter().all(|word| word.word().parse() == Ok(*word)));
    }
}
