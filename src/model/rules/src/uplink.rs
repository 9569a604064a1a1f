//! The rules of the host: one table of its own, which leads between the router and the rest of the world.
//!
//! Danger: other programs own other tables of the host, and a packet passes only if all of them let it. This table takes nothing
//! away from them but what comes from the router.

use crate::ranges::ends;
use bailiwick_netfilter::nft::terms::{
    Load, accept, connections_over, counted, ct_state, ct_status, direction, dnat_to_address, drop, fib_daddr_type,
    iifname, ip_saddr, ip6_saddr, is_ipv4, is_ipv6, l4proto, masquerade, oifname, protocol, state, status, tcp_opens,
    th_dport,
};
use bailiwick_netfilter::nft::{
    BaseChain, Chain, ChainKind, Direction, Element, Expr, Field, Hook, Policy, Rule, Set, Table, Value,
};
use bailiwick_plan::network::{HOST_LINK, Pools};
use bailiwick_types::{ALWAYS_BLOCKED, PortRange, Prefix};
use std::net::IpAddr;
use std::time::Duration;

/// The table of the host.
pub const TABLE: &str = "bailiwick_uplink";
/// Before the chains of the host itself: what comes from the router and is for the host is no business of theirs.
const BEFORE_FILTER: i32 = -10;
const DESTINATION_NAT: i32 = -100;
const SOURCE_NAT: i32 = 100;
/// `RTN_LOCAL` of linux/rtnetlink.h: an address of this machine.
const LOCAL: u32 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The sets that count the connections of each address of a jail, and of each published port.
const FROM_V4: &str = "from4";
const FROM_V6: &str = "from6";
const TO_PORT: &str = "to-port";
/// The addresses of jails of which the host remembers too many, and how many packets it has refused because of that.
pub const REFUSED: [&str; 2] = ["refused4", "refused6"];
/// How long that is told after the last refusal.
const REFUSED_TIME: Duration = Duration::from_secs(600);
/// The most addresses, or ports of two protocols, that a set grows to by itself.
pub const MOST_COUNTED: u32 = 1 << 17;

/// The table. `published` are the ports of the host that may lead into jails. The kernel of the host remembers at most `connections`
/// of each address of a jail, and of each port.
///
/// The router counts, too, but it may forget a connection before the host does: a reset that a full queue drops ends it there alone. The
/// cache of names and the router itself are no jails: the cache has a bound of its own in the router, and from the router's address come
/// answers of published ports alone.
#[must_use]
pub fn table(pools: Pools, published: Option<PortRange>, connections: u32) -> Table {
    let base = |kind, hook, priority| BaseChain { kind, hook, priority, policy: Policy::Accept };
    let mut chains = vec![
        Chain::base("input", base(ChainKind::Filter, Hook::Input, BEFORE_FILTER), input()),
        Chain::base("forward", base(ChainKind::Filter, Hook::Forward, BEFORE_FILTER), forward(pools, connections)),
        Chain::base("postrouting", base(ChainKind::Nat, Hook::Postrouting, SOURCE_NAT), hide(pools)),
    ];
    if let Some(ports) = published {
        chains.push(Chain::base(
            "prerouting",
            base(ChainKind::Nat, Hook::Prerouting, DESTINATION_NAT),
            publish(pools, ports),
        ));
    }
    let bounded = |name: &str, fields: &[Field]| {
        Set::new(name, fields).dynamic().size(MOST_COUNTED).with(connections_over(connections))
    };
    let told = |name: &str, field| {
        Set::new(name, &[field]).dynamic().size(MOST_COUNTED).timeout(REFUSED_TIME).with(counted_from_zero())
    };
    let sets = vec![
        bounded(FROM_V4, &[Field::Ipv4]),
        bounded(FROM_V6, &[Field::Ipv6]),
        bounded(TO_PORT, &[Field::Protocol, Field::Service]),
        told(REFUSED[0], Field::Ipv4),
        told(REFUSED[1], Field::Ipv6),
    ];
    Table { sets, chains, ..Table::new(TABLE) }
}

/// The address that an element of [`REFUSED`] is about, and how many of its packets were refused.
#[must_use]
pub fn refused(element: &Element) -> Option<(IpAddr, u64)> {
    let address = match *element.key.as_slice() {
        [a, b, c, d] => IpAddr::from([a, b, c, d]),
        ref bytes => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    let packets = element.expressions.iter().find_map(|expression| match expression {
        Expr::Counter { packets, .. } => Some(*packets),
        _ => None,
    })?;
    Some((address, packets))
}

fn from_router() -> Vec<Expr> {
    iifname().eq(Value::Ifname(HOST_LINK))
}

/// Nothing from a jail is for the host itself.
fn input() -> Vec<Rule> {
    vec![Rule::new([from_router(), drop()])]
}

fn counted_from_zero() -> Expr {
    counted(0, 0)
}

fn forward(pools: Pools, connections: u32) -> Vec<Rule> {
    let are_too_many = |of: Load, set: &str| of.add_to(set, Duration::ZERO, vec![connections_over(connections)]);
    // A packet that nobody has answered must not count its connection again.
    let opens = || ct_status().has_not(status::CONFIRMED);
    let is_jail = |of: fn() -> Load, is_family: fn(&IpAddr) -> bool| {
        let others = pools.router().all().chain(pools.cache().all()).filter(is_family);
        others.flat_map(|other| of().ne(Value::Ip(other))).collect::<Vec<_>>()
    };
    let is_told = |of: Load, set: &str| of.update_in(set, Duration::ZERO, vec![counted_from_zero()]);
    let to_router = || oifname().eq(Value::Ifname(HOST_LINK));
    let (first, last) = ends(pools.ipv4());
    let mut rules =
        vec![Rule::new([is_ipv4(), from_router(), ip_saddr().outside(Value::Ip(first), Value::Ip(last)), drop()])];
    match pools.ipv6().map(ends) {
        Some((first, last)) => rules.push(Rule::new([
            is_ipv6(),
            from_router(),
            ip6_saddr().outside(Value::Ip(first), Value::Ip(last)),
            drop(),
        ])),
        None => rules.push(Rule::new([is_ipv6(), from_router(), drop()])),
    }
    // Answers of published ports go in the other direction.
    let is_led_elsewhere = || [direction(Direction::Original), ct_status().has(status::DESTINATION_NAT)].concat();
    rules.extend([
        Rule::new([from_router(), is_led_elsewhere(), drop()]).comment("the router has judged another destination"),
        Rule::new([
            from_router(),
            opens(),
            is_ipv4(),
            is_jail(ip_saddr, IpAddr::is_ipv4),
            are_too_many(ip_saddr(), FROM_V4),
            is_told(ip_saddr(), REFUSED[0]),
            drop(),
        ]),
        Rule::new([
            from_router(),
            opens(),
            is_ipv6(),
            is_jail(ip6_saddr, IpAddr::is_ipv6),
            are_too_many(ip6_saddr(), FROM_V6),
            is_told(ip6_saddr(), REFUSED[1]),
            drop(),
        ]),
        Rule::new([to_router(), ct_state().has(state::ESTABLISHED | state::RELATED), accept()]),
        Rule::new([to_router(), ct_status().has_not(status::DESTINATION_NAT), drop()])
            .comment("only answers, and published ports"),
        Rule::new([to_router(), opens(), are_too_many(l4proto().concat(th_dport()), TO_PORT), drop()]),
    ]);
    rules
}

/// Jails have addresses that nobody outside could answer to.
fn hide(pools: Pools) -> Vec<Rule> {
    let away = || oifname().ne(Value::Ifname(HOST_LINK));
    let (first, last) = ends(pools.ipv4());
    let mut rules = Vec::new();
    if is_private(pools.ipv4()) {
        let is_jail = ip_saddr().within(Value::Ip(first), Value::Ip(last));
        rules.push(Rule::new([is_ipv4(), is_jail, away(), masquerade()]));
    }
    if let Some(pool) = pools.ipv6().filter(|pool| is_private(*pool)) {
        let (first, last) = ends(pool);
        let is_jail = ip6_saddr().within(Value::Ip(first), Value::Ip(last));
        rules.push(Rule::new([is_ipv6(), is_jail, away(), masquerade()]));
    }
    rules
}

/// Whether a prefix is no part of the Internet.
fn is_private(pool: Prefix) -> bool {
    ALWAYS_BLOCKED.iter().any(|blocked| blocked.prefix.covers(pool))
}

/// Leads the published ports of the host's addresses to the router, which leads each to its jail. The kernel looks here at the first
/// packet that it sees of a connection. One of TCP that does not open it is of a connection that began before the kernel followed any:
/// the host may have opened that itself, from such a port.
fn publish(pools: Pools, ports: PortRange) -> Vec<Rule> {
    let mut rules = Vec::new();
    let router = pools.router();
    for address in router.all() {
        for (number, begins) in [(TCP, tcp_opens()), (UDP, Vec::new())] {
            let is_family = match address {
                IpAddr::V4(_) => is_ipv4(),
                IpAddr::V6(_) => is_ipv6(),
            };
            rules.push(Rule::new([
                is_family,
                iifname().ne(Value::Ifname(HOST_LINK)),
                fib_daddr_type().eq(Value::Mark(LOCAL)),
                protocol(number),
                begins,
                th_dport().within(Value::Service(ports.first()), Value::Service(ports.last())),
                dnat_to_address(address),
            ]));
        }
    }
    rules
}
