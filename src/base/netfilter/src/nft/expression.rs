//! The expressions that rules and elements are made of, as data and as bytes (`linux/netfilter/nf_tables.h`).

use super::LIST_ITEM;
use bailiwick_netlink::message::{Writer, attributes, find, find_be32, find_be64, find_text};
use bailiwick_netlink::route::Family;
use std::time::Duration;

const NAME: u16 = 1;
const DATA: u16 = 2;
const VALUE: u16 = 1;
const VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
/// Slots of 4 bytes for values.
const SLOTS: u8 = 16;
/// `NFT_REG_1` and `NFT_REG32_00`: the registers of 16 and of 4 bytes over the same 64 bytes.
const FIRST_WIDE: u32 = 1;
const FIRST_NARROW: u32 = 8;
const INVERTED: u32 = 1;
const DYNSET_HAS_LIST: u32 = 2;
/// `NF_NAT_RANGE_MAP_IPS` and `NF_NAT_RANGE_PROTO_SPECIFIED`, which follow from the registers that are used.
const NAT_IMPLIED: u32 = 3;

/// Where a value is kept while a rule is evaluated: one of 16 slots of 4 bytes. A longer value takes the slots that follow too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Register(u8);

impl Register {
    /// The first slot.
    pub const FIRST: Self = Self(0);

    /// A slot by its number from 0; `None` above 15.
    #[must_use]
    pub fn slot(number: u8) -> Option<Self> {
        (number < SLOTS).then_some(Self(number))
    }

    /// The kernel names a slot that begins 16 bytes by the longer register.
    fn number(self) -> u32 {
        if self.0.is_multiple_of(4) { FIRST_WIDE + u32::from(self.0 / 4) } else { FIRST_NARROW + u32::from(self.0) }
    }

    fn from_number(number: u32) -> Option<Self> {
        let slot = match number {
            1..=4 => (number - FIRST_WIDE) * 4,
            8..=23 => number - FIRST_NARROW,
            _ => return None,
        };
        Self::slot(u8::try_from(slot).ok()?)
    }
}

/// What becomes of a packet, or which chain is next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It passes this hook.
    Accept,
    /// It is dropped.
    Drop,
    /// The next rule is evaluated.
    Continue,
    /// The calling chain goes on, or the policy of the base chain decides.
    Return,
    /// A chain is called.
    Jump(String),
    /// A chain goes on instead of this one.
    Goto(String),
    /// Another one, by the kernel's number.
    Other(i32),
}

impl Verdict {
    fn code(&self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Continue => -1,
            Self::Jump(_) => -3,
            Self::Goto(_) => -4,
            Self::Return => -5,
            Self::Other(code) => *code,
        }
    }

    pub(super) fn write(&self, writer: &mut Writer, kind: u16) {
        writer.nest(kind, |data| {
            data.nest(VERDICT, |verdict| {
                verdict.put_be32(VERDICT_CODE, self.code().cast_unsigned());
                if let Self::Jump(chain) | Self::Goto(chain) = self {
                    verdict.put_text(VERDICT_CHAIN, chain);
                }
            });
        });
    }

    /// Reads it from the content of an attribute that has data.
    pub(super) fn parse(data: &[u8]) -> Option<Self> {
        let verdict = find(data, VERDICT)?;
        let chain = || find_text(verdict, VERDICT_CHAIN);
        Some(match find_be32(verdict, VERDICT_CODE)?.cast_signed() {
            0 => Self::Drop,
            1 => Self::Accept,
            -1 => Self::Continue,
            -3 => Self::Jump(chain()?),
            -4 => Self::Goto(chain()?),
            -5 => Self::Return,
            other => Self::Other(other),
        })
    }
}

/// Which side of a bound matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bound {
    /// Up to the bound.
    Within,
    /// Beyond it (`over` in nft's text).
    Over,
}

impl Bound {
    fn flags(self) -> u32 {
        if self == Self::Over { INVERTED } else { 0 }
    }

    fn from_flags(flags: u32) -> Self {
        if flags & INVERTED == 0 { Self::Within } else { Self::Over }
    }
}

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Comparison {
    /// It is equal, or inside the range.
    Equal,
    /// It is not equal, or outside the range.
    NotEqual,
}

impl Comparison {
    fn number(self) -> u32 {
        u32::from(self == Self::NotEqual)
    }

    fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Equal),
            1 => Some(Self::NotEqual),
            _ => None,
        }
    }
}

/// What the kernel knows of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MetaKey {
    /// The class of a queue that it is sent by (`NFT_META_PRIORITY`), 4 bytes of the machine's order.
    Priority,
    /// Its mark, 4 bytes of the machine's order.
    Mark,
    /// The name of the link that it came by, 16 bytes.
    Iifname,
    /// The name of the link that it leaves by, 16 bytes.
    Oifname,
    /// Its family: one byte, `NFPROTO_…`.
    Nfproto,
    /// Its transport protocol: one byte. Extension headers of IPv6 are skipped.
    L4proto,
    /// Another one, by the kernel's number.
    Other(u32),
}

impl MetaKey {
    fn number(self) -> u32 {
        match self {
            Self::Priority => 2,
            Self::Mark => 3,
            Self::Iifname => 6,
            Self::Oifname => 7,
            Self::Nfproto => 15,
            Self::L4proto => 16,
            Self::Other(number) => number,
        }
    }

    fn from_number(number: u32) -> Self {
        match number {
            2 => Self::Priority,
            3 => Self::Mark,
            6 => Self::Iifname,
            7 => Self::Oifname,
            15 => Self::Nfproto,
            16 => Self::L4proto,
            other => Self::Other(other),
        }
    }
}

/// The header of a packet that an offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Header {
    /// That of IPv4 or IPv6.
    Network,
    /// That of the transport protocol.
    Transport,
    /// Another one, by the kernel's number.
    Other(u32),
}

impl Header {
    fn number(self) -> u32 {
        match self {
            Self::Network => 1,
            Self::Transport => 2,
            Self::Other(number) => number,
        }
    }

    fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Network,
            2 => Self::Transport,
            other => Self::Other(other),
        }
    }
}

/// What connection tracking knows of a packet's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CtKey {
    /// Bits of its state, 4 bytes of the machine's order.
    State,
    /// The direction of the packet, one byte: 0 for the original.
    Direction,
    /// The bits `IPS_…`, 4 bytes of the machine's order.
    Status,
    /// Its mark, 4 bytes of the machine's order.
    Mark,
    /// Its transport protocol, one byte.
    Protocol,
    /// The source port of a direction.
    SourcePort,
    /// The destination port of a direction.
    DestinationPort,
    /// The source of a direction, if it is one of IPv4.
    SourceV4,
    /// The source of a direction, if it is one of IPv6.
    SourceV6,
    /// Another one, by the kernel's number.
    Other(u32),
}

impl CtKey {
    fn number(self) -> u32 {
        match self {
            Self::State => 0,
            Self::Direction => 1,
            Self::Status => 2,
            Self::Mark => 3,
            Self::Protocol => 10,
            Self::SourcePort => 11,
            Self::DestinationPort => 12,
            Self::SourceV4 => 19,
            Self::SourceV6 => 21,
            Self::Other(number) => number,
        }
    }

    fn from_number(number: u32) -> Self {
        match number {
            0 => Self::State,
            1 => Self::Direction,
            2 => Self::Status,
            3 => Self::Mark,
            10 => Self::Protocol,
            11 => Self::SourcePort,
            12 => Self::DestinationPort,
            19 => Self::SourceV4,
            21 => Self::SourceV6,
            other => Self::Other(other),
        }
    }
}

/// A direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// As its first packet.
    Original,
    /// The opposite.
    Reply,
}

/// What is done with what is found in a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lookup {
    /// The rule goes on when the key is in the set.
    In,
    /// The rule goes on when the key is not in the set.
    NotIn,
    /// The element's verdict is followed.
    Verdict,
    /// The element's value is put into a register.
    Value(Register),
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitUnit {
    /// Packets.
    Packets,
    /// Bytes.
    Bytes,
}

/// Which address is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NatKind {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// What the sender of a refused packet is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rejection {
    /// An ICMP or ICMPv6 message: 0 no route, 1 port unreachable, 2 host unreachable, 3 prohibited by an administrator.
    Icmpx(u8),
    /// The end of a TCP connection.
    TcpReset,
}

impl Rejection {
    /// Prohibited by an administrator.
    pub const PROHIBITED: Self = Self::Icmpx(3);
}

/// What a rule does with a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DynsetOperation {
    /// Adds an element unless it is there.
    Add,
    /// Adds an element, or begins its time anew.
    Update,
}

/// An expression.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expr {
    /// Loads what the kernel knows of the packet.
    Meta {
        /// What.
        key: MetaKey,
        /// Where it is put.
        to: Register,
    },
    /// Sets what the kernel knows of the packet.
    MetaSet {
        /// What.
        key: MetaKey,
        /// Where the value is.
        from: Register,
    },
    /// Loads bytes of the packet.
    Payload {
        /// What the offset counts from.
        header: Header,
        /// In bytes.
        offset: u32,
        /// In bytes.
        len: u32,
        /// Where they are put.
        to: Register,
    },
    /// Keeps the bits of a mask, then flips those of another.
    Bitwise {
        /// Where the value is.
        from: Register,
        /// Where the result is put.
        to: Register,
        /// The bits that are kept. Its length is that of the value.
        mask: Vec<u8>,
        /// The bits that are flipped.
        flip: Vec<u8>,
    },
    /// Ends the rule unless a value compares as said.
    Compare {
        /// Where the value is.
        from: Register,
        /// How.
        how: Comparison,
        /// With what.
        value: Vec<u8>,
    },
    /// Ends the rule unless a value is inside a range, or outside.
    Range {
        /// Where the value is.
        from: Register,
        /// Inside or outside.
        how: Comparison,
        /// The lowest value of the range.
        first: Vec<u8>,
        /// The highest value of the range.
        last: Vec<u8>,
    },
    /// Loads a constant.
    Immediate {
        /// Where it is put.
        to: Register,
        /// The constant.
        value: Vec<u8>,
    },
    /// Ends the rule with a verdict.
    Verdict(Verdict),
    /// Looks up a key in a set or map.
    Lookup {
        /// The name of the set.
        set: String,
        /// Where the key begins.
        from: Register,
        /// What is done with what is found.
        how: Lookup,
    },
    /// Loads what connection tracking knows of the connection.
    Ct {
        /// What.
        key: CtKey,
        /// Of which direction, where it differs.
        direction: Option<Direction>,
        /// Where it is put.
        to: Register,
    },
    /// Changes what connection tracking knows of the connection.
    CtSet {
        /// What.
        key: CtKey,
        /// Where the value is.
        from: Register,
    },
    /// Matches by the number of connections that were counted here.
    ConnectionLimit {
        /// The bound.
        count: u32,
        /// Which side matches.
        bound: Bound,
    },
    /// Counts.
    Counter {
        /// Packets so far.
        packets: u64,
        /// Bytes so far.
        bytes: u64,
    },
    /// Matches by the bytes that were counted here.
    Quota {
        /// The bound in bytes.
        bytes: u64,
        /// Bytes so far. The kernel never says more than the bound.
        used: u64,
        /// Which side matches.
        bound: Bound,
    },
    /// Matches by the rate.
    Limit {
        /// How many in the time.
        rate: u64,
        /// The time in seconds.
        seconds: u64,
        /// How many more at once. For packets 0 means 5, and 5 is read back.
        burst: u32,
        /// What is counted.
        unit: LimitUnit,
        /// Which side matches.
        bound: Bound,
    },
    /// Sends the packet's beginning to whoever listens to a group of `nfnetlink_log`.
    Log {
        /// The group.
        group: u16,
        /// What its record says, at most 127 bytes.
        prefix: String,
        /// Bytes of the packet; `None` for all.
        snap_len: Option<u32>,
        /// Records that are sent together; 0 for what the listener's socket has.
        threshold: u16,
    },
    /// Changes the source to the address of the link that the packet leaves by.
    Masquerade,
    /// Changes an address.
    Nat {
        /// Which one.
        kind: NatKind,
        /// Of which family.
        family: Family,
        /// Where the new address is.
        address: Register,
        /// Where the new port is.
        port: Option<Register>,
    },
    /// Refuses the packet and tells its sender.
    Reject(Rejection),
    /// Adds the key to a set.
    Dynset {
        /// The name of the set, which must be dynamic.
        set: String,
        /// What is done.
        operation: DynsetOperation,
        /// Where the key begins.
        key: Register,
        /// How long the element stays; zero for the set's own time.
        timeout: Duration,
        /// What a new element has.
        expressions: Vec<Expr>,
    },
    /// Loads what the tables of routes say.
    Fib {
        /// `NFT_FIB_RESULT_…`: 1 the number of the link, 3 the type of the address.
        result: u32,
        /// `NFTA_FIB_F_…`: 1 of the source, 2 of the destination, 8 with the link that the packet came by.
        flags: u32,
        /// Where it is put.
        to: Register,
    },
    /// Loads whether an IPv6 packet has an extension header: 1 or 0.
    HasHeader {
        /// The number of the header (IANA, "IPv6 Extension Header Types").
        header: u8,
        /// Where it is put.
        to: Register,
    },
    /// One that this crate does not know, or that has an attribute that it does not know. It can be compared, and not be written.
    Other {
        /// Its name.
        name: String,
        /// Its attributes.
        attributes: Vec<u8>,
    },
}

/// As `nft(8)` asks for one byte of the header.
const HEADER_LEN: u32 = 1;
/// `NFT_EXTHDR_F_PRESENT`: the answer is whether there is one.
const HEADER_PRESENT: u32 = 1;
/// `NFT_EXTHDR_OP_IPV6`.
const OF_IPV6: u32 = 0;

fn flag(writer: &mut Writer, kind: u16, flags: u32) {
    if flags != 0 {
        writer.put_be32(kind, flags);
    }
}

/// Writes a value into an attribute that has data.
pub(super) fn write_value(writer: &mut Writer, kind: u16, value: &[u8]) {
    writer.nest(kind, |data| data.put(VALUE, value));
}

/// The value in an attribute that has data.
pub(super) fn value(attributes_of: &[u8], kind: u16) -> Option<Vec<u8>> {
    find(attributes_of, kind).and_then(|data| find(data, VALUE)).map(<[u8]>::to_vec)
}

/// Writes expressions as a list.
pub(super) fn write_list(writer: &mut Writer, kind: u16, expressions: &[Expr]) {
    writer.nest(kind, |list| {
        for expression in expressions {
            list.nest(LIST_ITEM, |item| expression.write(item));
        }
    });
}

/// Writes the expressions of an element, set or `dynset`: the kernel has one attribute for one, and another for more.
pub(super) fn write_some(writer: &mut Writer, one: u16, more: u16, expressions: &[Expr]) {
    match expressions {
        [] => {}
        [single] => writer.nest(one, |item| single.write(item)),
        several => write_list(writer, more, several),
    }
}

/// Reads what [`write_some`] writes.
pub(super) fn parse_some(attributes_of: &[u8], one: u16, more: u16) -> Vec<Expr> {
    if let Some(single) = find(attributes_of, one) {
        return vec![Expr::parse(single)];
    }
    find(attributes_of, more).map(parse_list).unwrap_or_default()
}

/// Reads what [`write_list`] writes.
pub(super) fn parse_list(list: &[u8]) -> Vec<Expr> {
    attributes(list).filter(|(kind, _)| *kind == LIST_ITEM).map(|(_, item)| Expr::parse(item)).collect()
}

impl Expr {
    fn name(&self) -> &str {
        match self {
            Self::Meta { .. } | Self::MetaSet { .. } => "meta",
            Self::Payload { .. } => "payload",
            Self::Bitwise { .. } => "bitwise",
            Self::Compare { .. } => "cmp",
            Self::Range { .. } => "range",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::Lookup { .. } => "lookup",
            Self::Ct { .. } | Self::CtSet { .. } => "ct",
            Self::ConnectionLimit { .. } => "connlimit",
            Self::Counter { .. } => "counter",
            Self::Quota { .. } => "quota",
            Self::Limit { .. } => "limit",
            Self::Log { .. } => "log",
            Self::Masquerade => "masq",
            Self::Nat { .. } => "nat",
            Self::Reject(_) => "reject",
            Self::Dynset { .. } => "dynset",
            Self::Fib { .. } => "fib",
            Self::HasHeader { .. } => "exthdr",
            Self::Other { name, .. } => name,
        }
    }

    /// The same expression before any packet came: a counter or quota that begins at 0.
    #[must_use]
    pub fn without_state(self) -> Self {
        match self {
            Self::Counter { .. } => Self::Counter { packets: 0, bytes: 0 },
            Self::Quota { bytes, bound, .. } => Self::Quota { bytes, used: 0, bound },
            Self::Dynset { set, operation, key, timeout, expressions } => {
                let expressions = expressions.into_iter().map(Self::without_state).collect();
                Self::Dynset { set, operation, key, timeout, expressions }
            }
            other => other,
        }
    }

    /// Writes the name and the attributes of its own.
    pub(super) fn write(&self, writer: &mut Writer) {
        writer.put_text(NAME, self.name());
        writer.nest(DATA, |data| self.write_own(data));
    }

    fn write_own(&self, out: &mut Writer) {
        match self {
            Self::Meta { key, to } => {
                out.put_be32(2, key.number());
                out.put_be32(1, to.number());
            }
            Self::MetaSet { key, from } => {
                out.put_be32(2, key.number());
                out.put_be32(3, from.number());
            }
            Self::Payload { header, offset, len, to } => {
                out.put_be32(1, to.number());
                out.put_be32(2, header.number());
                out.put_be32(3, *offset);
                out.put_be32(4, *len);
            }
            Self::Bitwise { from, to, mask, flip } => {
                out.put_be32(1, from.number());
                out.put_be32(2, to.number());
                out.put_be32(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                write_value(out, 4, mask);
                write_value(out, 5, flip);
            }
            Self::Compare { from, how, value } => {
                out.put_be32(1, from.number());
                out.put_be32(2, how.number());
                write_value(out, 3, value);
            }
            Self::Range { from, how, first, last } => {
                out.put_be32(1, from.number());
                out.put_be32(2, how.number());
                write_value(out, 3, first);
                write_value(out, 4, last);
            }
            Self::Immediate { to, value } => {
                out.put_be32(1, to.number());
                write_value(out, 2, value);
            }
            Self::Verdict(verdict) => {
                out.put_be32(1, 0);
                verdict.write(out, 2);
            }
            Self::Lookup { set, from, how } => {
                out.put_text(1, set);
                out.put_be32(2, from.number());
                match how {
                    Lookup::In => {}
                    Lookup::NotIn => out.put_be32(5, INVERTED),
                    Lookup::Verdict => out.put_be32(3, 0),
                    Lookup::Value(to) => out.put_be32(3, to.number()),
                }
            }
            Self::Ct { key, direction, to } => {
                out.put_be32(1, to.number());
                out.put_be32(2, key.number());
                if let Some(direction) = direction {
                    out.put(3, &[u8::from(*direction == Direction::Reply)]);
                }
            }
            Self::CtSet { key, from } => {
                out.put_be32(2, key.number());
                out.put_be32(4, from.number());
            }
            Self::ConnectionLimit { count, bound } => {
                out.put_be32(1, *count);
                flag(out, 2, bound.flags());
            }
            Self::Counter { packets, bytes } => {
                out.put_be64(1, *bytes);
                out.put_be64(2, *packets);
            }
            Self::Quota { bytes, used, bound } => {
                out.put_be64(1, *bytes);
                out.put_be32(2, bound.flags());
                out.put_be64(4, *used);
            }
            Self::Limit { rate, seconds, burst, unit, bound } => {
                out.put_be64(1, *rate);
                out.put_be64(2, *seconds);
                out.put_be32(3, *burst);
                out.put_be32(4, u32::from(*unit == LimitUnit::Bytes));
                flag(out, 5, bound.flags());
            }
            Self::Log { group, prefix, snap_len, threshold } => {
                out.put(1, &group.to_be_bytes());
                if !prefix.is_empty() {
                    out.put_text(2, prefix);
                }
                if let Some(len) = snap_len {
                    out.put_be32(3, *len);
                }
                if *threshold != 0 {
                    out.put(4, &threshold.to_be_bytes());
                }
            }
            Self::Masquerade => {}
            Self::Nat { kind, family, address, port } => {
                out.put_be32(1, u32::from(*kind == NatKind::Destination));
                out.put_be32(2, u32::from(family.number()));
                out.put_be32(3, address.number());
                if let Some(port) = port {
                    out.put_be32(5, port.number());
                }
            }
            Self::Reject(rejection) => match rejection {
                Rejection::TcpReset => {
                    out.put_be32(1, 1);
                }
                Rejection::Icmpx(code) => {
                    out.put_be32(1, 2);
                    out.put(2, &[*code]);
                }
            },
            Self::Dynset { set, operation, key, timeout, expressions } => {
                out.put_text(1, set);
                out.put_be32(3, u32::from(*operation == DynsetOperation::Update));
                out.put_be32(4, key.number());
                if !timeout.is_zero() {
                    out.put_be64(6, milliseconds(*timeout));
                }
                write_some(out, 7, 10, expressions);
                flag(out, 9, if expressions.len() > 1 { DYNSET_HAS_LIST } else { 0 });
            }
            Self::Fib { result, flags, to } => {
                out.put_be32(1, to.number());
                out.put_be32(2, *result);
                out.put_be32(3, *flags);
            }
            Self::HasHeader { header, to } => {
                out.put_be32(1, to.number());
                out.put(2, &[*header]);
                out.put_be32(3, 0);
                out.put_be32(4, HEADER_LEN);
                out.put_be32(5, HEADER_PRESENT);
                out.put_be32(6, OF_IPV6);
            }
            Self::Other { attributes, .. } => out.raw(attributes),
        }
    }

    /// Reads an expression. One that this crate does not know becomes [`Expr::Other`].
    pub(super) fn parse(item: &[u8]) -> Self {
        let name = find_text(item, NAME).unwrap_or_default();
        let own = find(item, DATA).unwrap_or_default();
        parse_own(&name, own).unwrap_or_else(|| Self::Other { name, attributes: own.to_vec() })
    }
}

/// The time in milliseconds, as sets count it.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The attributes of an expression that are known; the kernel's padding is one of them.
fn known(name: &str) -> &'static [u16] {
    match name {
        "meta" | "range" | "ct" => &[1, 2, 3, 4],
        "payload" => &[1, 2, 3, 4],
        "bitwise" => &[1, 2, 3, 4, 5, 6],
        "cmp" => &[1, 2, 3],
        "immediate" | "connlimit" | "reject" => &[1, 2],
        "lookup" => &[1, 2, 3, 5],
        "counter" | "fib" => &[1, 2, 3],
        "quota" => &[1, 2, 3, 4],
        "limit" | "exthdr" => &[1, 2, 3, 4, 5, 6],
        "log" => &[1, 2, 3, 4],
        "nat" => &[1, 2, 3, 4, 5, 6, 7],
        "dynset" => &[1, 3, 4, 6, 7, 8, 9, 10],
        _ => &[],
    }
}

fn parse_own(name: &str, own: &[u8]) -> Option<Expr> {
    if attributes(own).any(|(kind, _)| !known(name).contains(&kind)) {
        return None;
    }
    let number = |kind| find_be32(own, kind);
    let wide = |kind| find_be64(own, kind);
    let register = |kind| find_be32(own, kind).and_then(Register::from_number);
    let bound = |kind| Bound::from_flags(find_be32(own, kind).unwrap_or_default());
    Some(match name {
        "meta" => {
            let key = MetaKey::from_number(number(2)?);
            match register(3) {
                Some(from) => Expr::MetaSet { key, from },
                None => Expr::Meta { key, to: register(1)? },
            }
        }
        "payload" => Expr::Payload {
            header: Header::from_number(number(2)?),
            offset: number(3)?,
            len: number(4)?,
            to: register(1)?,
        },
        "bitwise" if number(6).unwrap_or_default() == 0 => {
            Expr::Bitwise { from: register(1)?, to: register(2)?, mask: value(own, 4)?, flip: value(own, 5)? }
        }
        "cmp" => Expr::Compare { from: register(1)?, how: Comparison::from_number(number(2)?)?, value: value(own, 3)? },
        "range" => Expr::Range {
            from: register(1)?,
            how: Comparison::from_number(number(2)?)?,
            first: value(own, 3)?,
            last: value(own, 4)?,
        },
        "immediate" if number(1)? == 0 => Expr::Verdict(Verdict::parse(find(own, 2)?)?),
        "immediate" => Expr::Immediate { to: register(1)?, value: value(own, 2)? },
        "lookup" => {
            let how = match (number(3), number(5).unwrap_or_default()) {
                (None, 0) => Lookup::In,
                (None, INVERTED) => Lookup::NotIn,
                (Some(0), 0) => Lookup::Verdict,
                (Some(to), 0) => Lookup::Value(Register::from_number(to)?),
                _ => return None,
            };
            Expr::Lookup { set: find_text(own, 1)?, from: register(2)?, how }
        }
        "ct" => {
            let direction = match find(own, 3) {
                None => None,
                Some([0]) => Some(Direction::Original),
                Some([1]) => Some(Direction::Reply),
                Some(_) => return None,
            };
            let key = CtKey::from_number(number(2)?);
            match number(4) {
                Some(from) => Expr::CtSet { key, from: Register::from_number(from)? },
                None => Expr::Ct { key, direction, to: register(1)? },
            }
        }
        "connlimit" => Expr::ConnectionLimit { count: number(1)?, bound: bound(2) },
        "counter" => Expr::Counter { packets: wide(2)?, bytes: wide(1)? },
        "quota" => Expr::Quota { bytes: wide(1)?, used: wide(4).unwrap_or_default(), bound: bound(2) },
        "limit" => Expr::Limit {
            rate: wide(1)?,
            seconds: wide(2)?,
            burst: number(3)?,
            unit: if number(4)? == 0 { LimitUnit::Packets } else { LimitUnit::Bytes },
            bound: bound(5),
        },
        "log" => {
            let short = |kind| Some(u16::from_be_bytes(find(own, kind)?.try_into().ok()?));
            let prefix = find_text(own, 2).unwrap_or_default();
            Expr::Log { group: short(1)?, prefix, snap_len: number(3), threshold: short(4).unwrap_or_default() }
        }
        "masq" => Expr::Masquerade,
        "nat" => {
            let is_single = number(3) == number(4).or(number(3)) && number(5) == number(6).or(number(5));
            if !is_single || number(7).unwrap_or_default() & !NAT_IMPLIED != 0 {
                return None;
            }
            Expr::Nat {
                kind: if number(1)? == 0 { NatKind::Source } else { NatKind::Destination },
                family: Family::from_number(u8::try_from(number(2)?).ok()?)?,
                address: register(3)?,
                port: register(5),
            }
        }
        "reject" => Expr::Reject(match number(1)? {
            1 => Rejection::TcpReset,
            2 => Rejection::Icmpx(*find(own, 2)?.first()?),
            _ => return None,
        }),
        "dynset" => Expr::Dynset {
            set: find_text(own, 1)?,
            operation: match number(3)? {
                0 => DynsetOperation::Add,
                1 => DynsetOperation::Update,
                _ => return None,
            },
            key: register(4)?,
            timeout: Duration::from_millis(wide(6).unwrap_or_default()),
            expressions: parse_some(own, 7, 10),
        },
        "fib" => Expr::Fib { result: number(2)?, flags: number(3)?, to: register(1)? },
        "exthdr" => match (number(3)?, number(4)?, number(5)?, number(6).unwrap_or_default()) {
            (0, HEADER_LEN, HEADER_PRESENT, OF_IPV6) => {
                Expr::HasHeader { header: *find(own, 2)?.first()?, to: register(1)? }
            }
            _ => return None,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            name in "meta|payload|bitwise|cmp|range|immediate|lookup|ct|connlimit|counter|quota|limit|log|nat|reject|dynset|fib|exthdr",
        ) {
            let _any = Expr::parse(&bytes);
            let _some = parse_own(&name, &bytes);
        }
    }

    #[test]
    fn a_register_is_named_as_the_kernel_names_it() {
        let numbers: Vec<u32> = (0..SLOTS).filter_map(Register::slot).map(Register::number).collect();
        assert_eq!(numbers, [1, 9, 10, 11, 2, 13, 14, 15, 3, 17, 18, 19, 4, 21, 22, 23]);
        for slot in 0..SLOTS {
            let register = Register::slot(slot).expect("below 16");
            assert_eq!(Register::from_number(register.number()), Some(register));
            assert_eq!(Register::from_number(8 + u32::from(slot)), Some(register));
        }
        assert_eq!((Register::slot(16), Register::from_number(0), Register::from_number(24)), (None, None, None));
    }

    #[test]
    fn what_is_unknown_stays_comparable() {
        let mut writer = Writer::default();
        writer.put_text(NAME, "masq");
        writer.nest(DATA, |data| data.put_be32(1, 4));
        let found = Expr::parse(writer.bytes().expect("short"));
        assert!(matches!(&found, Expr::Other { name, .. } if name == "masq"), "{found:?}");
    }
}
