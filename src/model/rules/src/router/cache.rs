//! The rules around the cache of names (`docs/decisions/0048-the-cache-of-names-is-behind-the-router.md`).
//!
//! ```text
//!   jail --> bwN  -- not too many? --> outbound: port 53 of the cache alone --> dns0 --> cache
//!   cache --> dns0 --> answers to jails (inbound), and port 53 of the resolvers --> up0
//!   up0  --> answers of resolvers ---------------------------------------------> dns0
//! ```
//!
//! They are there whether the host has a cache or not. Only elements of sets say so: without one nothing comes from [`CACHE_LINK`].
//!
//! Danger: the cache answers all tenants. What one may ask is bounded here, packet by packet, before the cache has any work.

use super::{
    DNS, Elements, INBOUND, MOST_TENANTS, OUTBOUND, OWN_V4, OWN_V6, RECORDS_TIME, RESOLVERS_V4, RESOLVERS_V6,
    RouterSettings, TCP, UDP, add, is_open, opens, refuse,
};
use bailiwick_netfilter::nft::terms::{
    accept, connections_over, ct_state, drop, goto, iifname, ip_daddr, ip6_daddr, is_ipv4, is_ipv6, limit, oifname,
    protocol, state, th_dport,
};
use bailiwick_netfilter::nft::{Bound, Chain, Element, Expr, Field, LimitUnit, Rule, Set, Value};
use bailiwick_plan::network::{CACHE_LINK, Pools, ROUTER_LINK};
use bailiwick_types::RefusedPacket;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// Packets of one tenant to the cache: this many a second, after this many at once.
const PACKETS_RATE: u64 = 100;
const PACKETS_BURST: u32 = 400;
/// The most open connections of TCP of one tenant to the cache, which serves 256.
const TCP_OPEN: u32 = 8;
/// The most questions to resolvers that the router remembers: the kernel does so for half a minute.
const ASKED: u32 = 16_384;

/// The sets that bound what each tenant asks, and what the cache asks.
const PACKETS: &str = "questions";
const STREAMS: &str = "questions-tcp";
const OPEN_ASKED: &str = "asked";
/// The resolvers that the cache asks.
const UPSTREAMS_V4: &str = "upstreams4";
const UPSTREAMS_V6: &str = "upstreams6";

const TO_CACHE: &str = "to-cache";
const FROM_CACHE: &str = "from-cache";
const ASKS: &str = "asks";
const QUESTIONS: &str = "ask-cache";

/// Whether the kernel adds elements to a set.
pub(super) fn grows_by_itself(set: &str) -> bool {
    [PACKETS, STREAMS, OPEN_ASKED].contains(&set)
}

fn packets() -> Expr {
    limit(LimitUnit::Packets, PACKETS_RATE, PACKETS_BURST, Bound::Over)
}

pub(super) fn sets() -> Vec<Set> {
    let of_links = |name, with| Set::new(name, &[Field::Ifname]).dynamic().size(MOST_TENANTS).with(with);
    vec![
        of_links(PACKETS, packets()).timeout(RECORDS_TIME),
        of_links(STREAMS, connections_over(TCP_OPEN)),
        of_links(OPEN_ASKED, connections_over(ASKED)),
        Set::new(UPSTREAMS_V4, &[Field::Ipv4]),
        Set::new(UPSTREAMS_V6, &[Field::Ipv6]),
    ]
}

/// Says whom jails ask, and whom the cache asks.
pub(super) fn add_elements(all: &mut Elements, settings: &RouterSettings) {
    let resolvers: BTreeSet<IpAddr> = settings.resolvers.iter().copied().collect();
    let of = |address: &IpAddr, sets: [&'static str; 2]| sets[usize::from(address.is_ipv6())];
    let (asked, upstreams) =
        if settings.cache { (settings.pools.cache().all().collect(), resolvers) } else { (resolvers, BTreeSet::new()) };
    for address in asked {
        add(all, of(&address, [RESOLVERS_V4, RESOLVERS_V6]), Element::new(&[Value::Ip(address)]));
        if settings.cache {
            let key = [Value::Ifname(CACHE_LINK), Value::Ip(address)];
            add(all, of(&address, [OWN_V4, OWN_V6]), Element::new(&key));
        }
    }
    for address in upstreams {
        add(all, of(&address, [UPSTREAMS_V4, UPSTREAMS_V6]), Element::new(&[Value::Ip(address)]));
    }
}

pub(super) fn chains() -> Vec<Chain> {
    vec![
        Chain::called(QUESTIONS, questions()),
        Chain::called(TO_CACHE, vec![Rule::new([is_open(), accept()]), Rule::new([drop()])]),
        Chain::called(ASKS, asks()),
        Chain::called(FROM_CACHE, from_cache()),
    ]
}

/// What the cache sends, and what resolvers answer to it.
pub(super) fn from_both_sides() -> Vec<Rule> {
    let from = |link| iifname().eq(Value::Ifname(link));
    let to = |link| oifname().eq(Value::Ifname(link));
    vec![
        Rule::new([from(ROUTER_LINK), to(CACHE_LINK), goto(TO_CACHE)]),
        Rule::new([from(CACHE_LINK), to(ROUTER_LINK), goto(FROM_CACHE)]),
        Rule::new([from(CACHE_LINK), goto(INBOUND)]),
    ]
}

/// What jails send to the cache.
pub(super) fn from_jails(pools: Pools) -> Vec<Rule> {
    let refused = |address| match address {
        IpAddr::V4(_) => {
            [is_ipv4(), ip_daddr().eq(Value::Ip(address)), ip_daddr().lookup(RESOLVERS_V4), refuse(RefusedPacket::Dns)]
        }
        IpAddr::V6(_) => [
            is_ipv6(),
            ip6_daddr().eq(Value::Ip(address)),
            ip6_daddr().lookup(RESOLVERS_V6),
            refuse(RefusedPacket::Dns),
        ],
    };
    let absent = pools.cache().all().map(|address| Rule::new(refused(address)).comment("the cache does not run"));
    std::iter::once(Rule::new([oifname().eq(Value::Ifname(CACHE_LINK)), goto(QUESTIONS)])).chain(absent).collect()
}

/// From a jail to the cache. Each packet counts, because one open connection carries any number of questions.
fn questions() -> Vec<Rule> {
    let over = |set, more: Expr, time| iifname().add_to(set, time, vec![more]);
    let too_many = || refuse(RefusedPacket::Questions);
    vec![
        Rule::new([over(PACKETS, packets(), Duration::ZERO), too_many()]),
        Rule::new([protocol(TCP), opens(), over(STREAMS, connections_over(TCP_OPEN), Duration::ZERO), too_many()]),
        Rule::new([goto(OUTBOUND)]),
    ]
}

/// From the cache to resolvers, at their port 53 alone.
fn from_cache() -> Vec<Rule> {
    let mut rules = vec![Rule::new([ct_state().has(state::INVALID), drop()])];
    for number in [UDP, TCP] {
        let is_dns = || [protocol(number), th_dport().eq(Value::Service(DNS))].concat();
        rules.push(Rule::new([is_ipv4(), is_dns(), ip_daddr().lookup(UPSTREAMS_V4), goto(ASKS)]));
        rules.push(Rule::new([is_ipv6(), is_dns(), ip6_daddr().lookup(UPSTREAMS_V6), goto(ASKS)]));
    }
    rules.push(Rule::new([drop()]));
    rules
}

fn asks() -> Vec<Rule> {
    let over = iifname().add_to(OPEN_ASKED, Duration::ZERO, vec![connections_over(ASKED)]);
    vec![Rule::new([opens(), over, drop()]), Rule::new([accept()])]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn elements(cache: bool) -> BTreeMap<String, Vec<Element>> {
        let pools = Pools::new("100.64.0.0/10".parse().expect("a prefix"), "fd12::/48".parse().ok()).expect("families");
        let resolvers = ["192.0.2.53", "2001:db8::53"].map(|text| text.parse().expect("an address")).into();
        let mut all = Elements::new();
        add_elements(
            &mut all,
            &RouterSettings { pools, resolvers, cache, blocked: Vec::new(), names: BTreeMap::new() },
        );
        all
    }

    #[test]
    fn with_a_cache_jails_ask_it_alone_and_it_asks_the_resolvers() {
        let of = |address: &str| vec![Element::new(&[Value::Ip(address.parse().expect("an address"))])];
        let (with, without) = (elements(true), elements(false));
        assert_eq!((&with[RESOLVERS_V4], &with[RESOLVERS_V6]), (&of("100.64.0.3"), &of("fd12::3")));
        assert_eq!((&with[UPSTREAMS_V4], &with[UPSTREAMS_V6]), (&of("192.0.2.53"), &of("2001:db8::53")));
        assert_eq!((with[OWN_V4].len(), with[OWN_V6].len()), (1, 1));
        let sets: Vec<_> = without.keys().map(String::as_str).collect();
        assert_eq!(sets, [RESOLVERS_V4, RESOLVERS_V6]);
        assert_eq!(without[RESOLVERS_V4], of("192.0.2.53"));
    }
}
