//! What rules are made of, in the words and the order of `nft(8)`'s text.
//!
//! ```
//! use bailiwick_netfilter::nft::{Rule, terms::*};
//! // meta nfproto ipv4 iifname . ip saddr != @own4 drop
//! let rule = Rule::new([is_ipv4(), iifname().concat(ip_saddr()).lookup_not("own4"), drop()]);
//! ```

use super::expression::{
    Bound, Comparison, CtKey, Direction, DynsetOperation, Expr, Header, LimitUnit, Lookup, MetaKey, NatKind, Register,
    Rejection, Verdict,
};
use super::model::Value;
use bailiwick_netlink::route::{Family, octets};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The expressions of one term.
pub type Term = Vec<Expr>;

/// Bits of [`ct_state`], in the machine's order.
pub mod state {
    /// The packet belongs to no connection that could be.
    pub const INVALID: u32 = 1;
    /// The connection has seen packets in both directions.
    pub const ESTABLISHED: u32 = 2;
    /// The connection belongs to another one.
    pub const RELATED: u32 = 4;
    /// The connection is new.
    pub const NEW: u32 = 8;
}

/// Bits of [`ct_status`], in the machine's order.
pub mod status {
    /// A packet of the connection has passed, so that the kernel remembers it.
    pub const CONFIRMED: u32 = 8;
    /// The source was changed.
    pub const SOURCE_NAT: u32 = 0x10;
    /// The destination was changed.
    pub const DESTINATION_NAT: u32 = 0x20;
}

/// Flags of TCP (RFC 9293, 3.1).
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// What is loaded: one value, or several that are compared or looked up as one key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Load {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    source: Source,
    len: u32,
    mask: Option<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Meta(MetaKey),
    Payload(Header, u32),
    Ct(CtKey, Option<Direction>),
    Fib(u32, u32),
    HasHeader(u8),
}

fn load(source: Source, len: u32) -> Load {
    Load { parts: vec![Part { source, len, mask: None }] }
}

/// The name of the link that the packet came by.
pub fn iifname() -> Load {
    load(Source::Meta(MetaKey::Iifname), 16)
}

/// The name of the link that the packet leaves by. It is not known before its route is.
pub fn oifname() -> Load {
    load(Source::Meta(MetaKey::Oifname), 16)
}

/// The family.
pub fn nfproto() -> Load {
    load(Source::Meta(MetaKey::Nfproto), 1)
}

/// The transport protocol. Extension headers of IPv6 are skipped.
pub fn l4proto() -> Load {
    load(Source::Meta(MetaKey::L4proto), 1)
}

/// The mark.
pub fn mark() -> Load {
    load(Source::Meta(MetaKey::Mark), 4)
}

/// The class of the queue that the packet is sent by.
pub fn priority() -> Load {
    load(Source::Meta(MetaKey::Priority), 4)
}

/// The source of an IPv4 packet.
pub fn ip_saddr() -> Load {
    load(Source::Payload(Header::Network, 12), 4)
}

/// The destination of an IPv4 packet.
pub fn ip_daddr() -> Load {
    load(Source::Payload(Header::Network, 16), 4)
}

/// The source of an IPv6 packet.
pub fn ip6_saddr() -> Load {
    load(Source::Payload(Header::Network, 8), 16)
}

/// The destination of an IPv6 packet.
pub fn ip6_daddr() -> Load {
    load(Source::Payload(Header::Network, 24), 16)
}

/// How many routers an IPv4 packet may still pass, this one included.
pub fn ip_ttl() -> Load {
    load(Source::Payload(Header::Network, 8), 1)
}

/// The same of an IPv6 packet.
pub fn ip6_hop_limit() -> Load {
    load(Source::Payload(Header::Network, 7), 1)
}

/// The source port of TCP, UDP and their like.
pub fn th_sport() -> Load {
    load(Source::Payload(Header::Transport, 0), 2)
}

/// The destination port of TCP, UDP and their like.
pub fn th_dport() -> Load {
    load(Source::Payload(Header::Transport, 2), 2)
}

/// The type of an ICMP or ICMPv6 message.
pub fn icmp_type() -> Load {
    load(Source::Payload(Header::Transport, 0), 1)
}

/// The state of the connection: bits of [`state`].
pub fn ct_state() -> Load {
    load(Source::Ct(CtKey::State, None), 4)
}

/// The status of the connection: bits of [`status`].
pub fn ct_status() -> Load {
    load(Source::Ct(CtKey::Status, None), 4)
}

/// The direction of the packet in its connection.
pub fn ct_direction() -> Load {
    load(Source::Ct(CtKey::Direction, None), 1)
}

/// The mark of the connection.
pub fn ct_mark() -> Load {
    load(Source::Ct(CtKey::Mark, None), 4)
}

/// The transport protocol of the connection. An error of ICMP has that of the connection that it is about.
pub fn ct_protocol() -> Load {
    load(Source::Ct(CtKey::Protocol, None), 1)
}

/// The port that packets of the connection in a direction come from.
pub fn ct_sport(direction: Direction) -> Load {
    load(Source::Ct(CtKey::SourcePort, Some(direction)), 2)
}

/// The port that packets of the connection in a direction are for.
pub fn ct_dport(direction: Direction) -> Load {
    load(Source::Ct(CtKey::DestinationPort, Some(direction)), 2)
}

/// The source of the connection's packets in a direction. A connection of IPv6 ends the rule.
pub fn ct_saddr(direction: Direction) -> Load {
    load(Source::Ct(CtKey::SourceV4, Some(direction)), 4)
}

/// The same of IPv6. A connection of IPv4 ends the rule.
pub fn ct_saddr6(direction: Direction) -> Load {
    load(Source::Ct(CtKey::SourceV6, Some(direction)), 16)
}

/// The type of the destination: `RTN_…`, such as 2 for an address of this machine.
pub fn fib_daddr_type() -> Load {
    load(Source::Fib(3, 2), 4)
}

/// The number of the link that a packet to the source would leave by, if it is the one that this packet came by; else 0.
pub fn fib_saddr_iif_oif() -> Load {
    load(Source::Fib(1, 1 | 8), 4)
}

/// Whether an IPv6 packet has an extension header: 43 is that of routing. Only after [`is_ipv6`].
#[must_use]
pub fn has_header(number: u8) -> Term {
    load(Source::HasHeader(number), 1).compare(Comparison::Equal, vec![1])
}

/// Whether the packet is one of IPv4.
#[must_use]
pub fn is_ipv4() -> Term {
    nfproto().eq(Value::Nfproto(Family::V4))
}

/// Whether the packet is one of IPv6.
#[must_use]
pub fn is_ipv6() -> Term {
    nfproto().eq(Value::Nfproto(Family::V6))
}

/// Whether the packet is of a transport protocol: 1 ICMP, 6 TCP, 17 UDP, 58 ICMPv6.
#[must_use]
pub fn protocol(number: u8) -> Term {
    l4proto().eq(Value::Protocol(number))
}

/// Whether a packet of TCP opens a connection: SYN is set and ACK is not (RFC 9293, 3.5). Only after [`protocol`].
#[must_use]
pub fn tcp_opens() -> Term {
    load(Source::Payload(Header::Transport, 13), 1).and(Value::Flags(SYN | ACK)).eq(Value::Flags(SYN))
}

/// Whether the packet goes in a direction of its connection.
#[must_use]
pub fn direction(direction: Direction) -> Term {
    ct_direction().compare(Comparison::Equal, vec![u8::from(direction == Direction::Reply)])
}

impl Load {
    /// This value, followed by another one.
    pub fn concat(mut self, next: Self) -> Self {
        self.parts.extend(next.parts);
        self
    }

    /// The bits of a mask in the last value.
    pub fn and(mut self, mask: Value<'_>) -> Self {
        if let Some(last) = self.parts.last_mut() {
            last.mask = Some(mask.bytes());
        }
        self
    }

    /// Loads everything, one after the other from the first register.
    fn expressions(self) -> Term {
        let mut all = Vec::new();
        let mut slot = 0;
        for part in self.parts {
            // Only a key of more than 64 bytes, which no set has, comes to the end.
            let to = Register::slot(slot).unwrap_or(Register::FIRST);
            all.push(match part.source {
                Source::Meta(key) => Expr::Meta { key, to },
                Source::Payload(header, offset) => Expr::Payload { header, offset, len: part.len, to },
                Source::Ct(key, direction) => Expr::Ct { key, direction, to },
                Source::Fib(result, flags) => Expr::Fib { result, flags, to },
                Source::HasHeader(header) => Expr::HasHeader { header, to },
            });
            if let Some(mask) = part.mask {
                let flip = vec![0; mask.len()];
                all.push(Expr::Bitwise { from: to, to, mask, flip });
            }
            slot = slot.saturating_add(u8::try_from(part.len.div_ceil(4)).unwrap_or(u8::MAX));
        }
        all
    }

    fn then(self, last: Expr) -> Term {
        let mut all = self.expressions();
        all.push(last);
        all
    }

    fn compare(self, how: Comparison, value: Vec<u8>) -> Term {
        self.then(Expr::Compare { from: Register::FIRST, how, value })
    }

    fn look(self, set: &str, how: Lookup) -> Term {
        self.then(Expr::Lookup { set: set.to_owned(), from: Register::FIRST, how })
    }

    /// Whether it is equal.
    #[must_use]
    pub fn eq(self, value: Value<'_>) -> Term {
        self.compare(Comparison::Equal, value.bytes())
    }

    /// Whether it is not equal.
    #[must_use]
    pub fn ne(self, value: Value<'_>) -> Term {
        self.compare(Comparison::NotEqual, value.bytes())
    }

    /// Whether any of these bits is set, in the machine's order: `ct_state().has(state::ESTABLISHED | state::RELATED)`.
    #[must_use]
    pub fn has(self, bits: u32) -> Term {
        self.and(Value::Mark(bits)).compare(Comparison::NotEqual, vec![0; 4])
    }

    /// Whether none of these bits is set, in the machine's order.
    #[must_use]
    pub fn has_not(self, bits: u32) -> Term {
        self.and(Value::Mark(bits)).compare(Comparison::Equal, vec![0; 4])
    }

    /// Whether it is inside a range, both ends included.
    #[must_use]
    pub fn within(self, first: Value<'_>, last: Value<'_>) -> Term {
        let (first, last) = (first.bytes(), last.bytes());
        self.then(Expr::Range { from: Register::FIRST, how: Comparison::Equal, first, last })
    }

    /// Whether it is outside a range, whose ends are both inside.
    #[must_use]
    pub fn outside(self, first: Value<'_>, last: Value<'_>) -> Term {
        let (first, last) = (first.bytes(), last.bytes());
        self.then(Expr::Range { from: Register::FIRST, how: Comparison::NotEqual, first, last })
    }

    /// Whether it is in a set. Expressions of the element are evaluated, and end the rule when they do not match.
    #[must_use]
    pub fn lookup(self, set: &str) -> Term {
        self.look(set, Lookup::In)
    }

    /// Whether it is not in a set.
    #[must_use]
    pub fn lookup_not(self, set: &str) -> Term {
        self.look(set, Lookup::NotIn)
    }

    /// Follows the verdict that a map has for it, if it has one.
    #[must_use]
    pub fn vmap(self, map: &str) -> Term {
        self.look(map, Lookup::Verdict)
    }

    /// Sets the mark to what a map has for it.
    #[must_use]
    pub fn set_mark(self, map: &str) -> Term {
        self.meta_set(MetaKey::Mark, map)
    }

    /// Sets the class of the queue that the packet is sent by to what a map has for it.
    #[must_use]
    pub fn set_priority(self, map: &str) -> Term {
        self.meta_set(MetaKey::Priority, map)
    }

    /// Sets the mark of the connection to what a map has for it.
    #[must_use]
    pub fn set_ct_mark(self, map: &str) -> Term {
        let mut all = self.look(map, Lookup::Value(Register::FIRST));
        all.push(Expr::CtSet { key: CtKey::Mark, from: Register::FIRST });
        all
    }

    fn meta_set(self, key: MetaKey, map: &str) -> Term {
        let mut all = self.look(map, Lookup::Value(Register::FIRST));
        all.push(Expr::MetaSet { key, from: Register::FIRST });
        all
    }

    /// Changes the destination to the address and port that a map has for it.
    #[must_use]
    pub fn dnat(self, family: Family, map: &str) -> Term {
        let mut all = self.look(map, Lookup::Value(Register::FIRST));
        all.push(destination_nat(family));
        all
    }

    /// Adds it to a dynamic set, unless it is there, and evaluates the expressions of the element.
    #[must_use]
    pub fn add_to(self, set: &str, timeout: Duration, expressions: Vec<Expr>) -> Term {
        self.dynset(set, DynsetOperation::Add, timeout, expressions)
    }

    /// Adds it to a dynamic set, or begins its time anew, and evaluates the expressions of the element.
    #[must_use]
    pub fn update_in(self, set: &str, timeout: Duration, expressions: Vec<Expr>) -> Term {
        self.dynset(set, DynsetOperation::Update, timeout, expressions)
    }

    fn dynset(self, set: &str, operation: DynsetOperation, timeout: Duration, expressions: Vec<Expr>) -> Term {
        self.then(Expr::Dynset { set: set.to_owned(), operation, key: Register::FIRST, timeout, expressions })
    }
}

/// The address is in the first register, and the port in the register after it.
fn destination_nat(family: Family) -> Expr {
    let port = Register::slot(family.bits() / 32);
    Expr::Nat { kind: NatKind::Destination, family, address: Register::FIRST, port }
}

/// Sets the mark.
#[must_use]
pub fn set_mark(mark: u32) -> Term {
    let value = Value::Mark(mark).bytes();
    vec![Expr::Immediate { to: Register::FIRST, value }, Expr::MetaSet { key: MetaKey::Mark, from: Register::FIRST }]
}

/// Sets the class of the queue that the packet is sent by, as [`bailiwick_netlink::route::handle`] makes it.
#[must_use]
pub fn set_priority(class: u32) -> Term {
    let value = Value::Mark(class).bytes();
    vec![
        Expr::Immediate { to: Register::FIRST, value },
        Expr::MetaSet { key: MetaKey::Priority, from: Register::FIRST },
    ]
}

/// Changes the destination.
#[must_use]
pub fn dnat_to(to: SocketAddr) -> Term {
    let family = Family::of(to.ip());
    let nat = destination_nat(family);
    let port = Register::slot(family.bits() / 32).unwrap_or(Register::FIRST);
    vec![
        Expr::Immediate { to: Register::FIRST, value: octets(to.ip()) },
        Expr::Immediate { to: port, value: to.port().to_be_bytes().to_vec() },
        nat,
    ]
}

/// Changes the address of the destination, and leaves its port.
#[must_use]
pub fn dnat_to_address(to: IpAddr) -> Term {
    let family = Family::of(to);
    vec![
        Expr::Immediate { to: Register::FIRST, value: octets(to) },
        Expr::Nat { kind: NatKind::Destination, family, address: Register::FIRST, port: None },
    ]
}

/// Changes the source to the address of the link that the packet leaves by.
#[must_use]
pub fn masquerade() -> Term {
    vec![Expr::Masquerade]
}

/// Lets the packet pass this hook.
#[must_use]
pub fn accept() -> Term {
    vec![Expr::Verdict(Verdict::Accept)]
}

/// Drops the packet.
#[must_use]
pub fn drop() -> Term {
    vec![Expr::Verdict(Verdict::Drop)]
}

/// Leaves this chain.
#[must_use]
pub fn return_() -> Term {
    vec![Expr::Verdict(Verdict::Return)]
}

/// Calls a chain.
#[must_use]
pub fn jump(chain: &str) -> Term {
    vec![Expr::Verdict(Verdict::Jump(chain.to_owned()))]
}

/// Goes on in a chain instead of this one.
#[must_use]
pub fn goto(chain: &str) -> Term {
    vec![Expr::Verdict(Verdict::Goto(chain.to_owned()))]
}

/// Refuses the packet and tells its sender. [`Rejection::TcpReset`] needs [`protocol`] 6 before it.
#[must_use]
pub fn reject(rejection: Rejection) -> Term {
    vec![Expr::Reject(rejection)]
}

/// Counts from 0.
#[must_use]
pub fn counter() -> Term {
    vec![counted(0, 0)]
}

/// Matches when more than some packets a second came, `burst` of them at once.
#[must_use]
pub fn packets_over(rate: u64, burst: u32) -> Term {
    vec![limit(LimitUnit::Packets, rate, burst, Bound::Over)]
}

/// Matches when more than some bytes a second came, `burst` of them at once.
#[must_use]
pub fn bytes_over(rate: u64, burst: u32) -> Term {
    vec![limit(LimitUnit::Bytes, rate, burst, Bound::Over)]
}

/// Sends a record of the packet, with its first bytes, to whoever listens to a group.
#[must_use]
pub fn log(group: u16, prefix: &str, snap_len: u32, threshold: u16) -> Term {
    vec![Expr::Log { group, prefix: prefix.to_owned(), snap_len: Some(snap_len), threshold }]
}

/// A counter, for a rule or an element, that begins with values.
#[must_use]
pub fn counted(packets: u64, bytes: u64) -> Expr {
    Expr::Counter { packets, bytes }
}

/// A quota that matches beyond `bytes`, for a rule or an element, that begins with what was used.
#[must_use]
pub fn quota_over(bytes: u64, used: u64) -> Expr {
    Expr::Quota { bytes, used, bound: Bound::Over }
}

/// A rate of a second, for a rule or an element.
#[must_use]
pub fn limit(unit: LimitUnit, rate: u64, burst: u32, bound: Bound) -> Expr {
    Expr::Limit { rate, seconds: 1, burst, unit, bound }
}

/// Matches when there are more connections than this, for a rule or an element of a dynamic set.
#[must_use]
pub fn connections_over(count: u32) -> Expr {
    Expr::ConnectionLimit { count, bound: Bound::Over }
}
