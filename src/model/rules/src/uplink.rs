//! The rules of the host: one table of its own, which leads between the router and the rest of the world.
//!
//! Danger: other programs own other tables of the host, and a packet passes only if all of them let it. This table takes nothing
//! away from them but what comes from the router.

use crate::ranges::ends;
use bailiwick_netfilter::nft::terms::{
    Load, accept, connections_over, ct_state, ct_status, direction, dnat_to_address, drop, fib_daddr_type, iifname,
    ip_saddr, ip6_saddr, is_ipv4, is_ipv6, l4proto, masquerade, oifname, protocol, state, status, tcp_opens, th_dport,
};
use bailiwick_netfilter::nft::{BaseChain, Chain, ChainKind, Direction, Field, Hook, Policy, Rule, Set, Table, Value};
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
/// The most addresses, or ports of two protocols, that a set grows to by itself.
const MOST_COUNTED: u32 = 1 << 17;

/// The table. `published` are the ports of the host that may lead into jails. The kernel of the host remembers at most `connections`
/// of each address of a jail, and of each port.
///
/// The router counts, too, but it may forget a connection before the host does: a packet that ends it there may never arrive here.
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
    let counted = |name: &str, fields: &[Field]| {
        Set::new(name, fields).dynamic().size(MOST_COUNTED).with(connections_over(connections))
    };
    let sets = vec![
        counted(FROM_V4, &[Field::Ipv4]),
        counted(FROM_V6, &[Field::Ipv6]),
        counted(TO_PORT, &[Field::Protocol, Field::Service]),
    ];
    Table { sets, chains, ..Table::new(TABLE) }
}

fn from_router() -> Vec<bailiwick_netfilter::nft::Expr> {
    iifname().eq(Value::Ifname(HOST_LINK))
}

/// Nothing from a jail is for the host itself.
fn input() -> Vec<Rule> {
    vec![Rule::new([from_router(), drop()])]
}

fn forward(pools: Pools, connections: u32) -> Vec<Rule> {
    let are_too_many = |of: Load, set: &str| of.add_to(set, Duration::ZERO, vec![connections_over(connections)]);
    let is_new = || ct_state().has_not(state::ESTABLISHED | state::RELATED);
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
        Rule::new([from_router(), is_new(), is_ipv4(), are_too_many(ip_saddr(), FROM_V4), drop()]),
        Rule::new([from_router(), is_new(), is_ipv6(), are_too_many(ip6_saddr(), FROM_V6), drop()]),
        Rule::new([to_router(), ct_state().has(state::ESTABLISHED | state::RELATED), accept()]),
        Rule::new([to_router(), ct_status().has_not(status::DESTINATION_NAT), drop()])
            .comment("only answers, and published ports"),
        Rule::new([to_router(), are_too_many(l4proto().concat(th_dport()), TO_PORT), drop()]),
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
