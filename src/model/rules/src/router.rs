//! The rules of the router: one table, in which each tenant is a few elements of sets and maps.
//!
//! ```text
//!                      raw: source         forward
//!   jail --> bwN  -->  own address? -mark-> stopped? known? blocked? allowed? --> counted --> up0
//!   up0           -->  not a jail's -mark-> known, or published? ----------------> counted --> bwN --> jail
//!   bwN           -->  own address? -mark-> a link to that port? ----------------> counted --> bwM
//! ```
//!
//! Danger: every rule here is a wall. A packet passes only by a rule that says so: the chains of the forward hook end in a drop. What
//! an established connection may do was decided with its first packet, but its source, its volume and its count are looked at with
//! each. The mark is set here alone, and packets without it have no route.

mod cache;

use crate::ranges::{ends, merged, merged_ports};
use bailiwick_netfilter::nft::terms::{
    Load, accept, connections_over, counted, ct_dport, ct_mark, ct_protocol, ct_saddr, ct_saddr6, ct_sport, ct_state,
    ct_status, direction, drop, goto, has_header, icmp_type, iifname, ip_daddr, ip_saddr, ip_ttl, ip6_daddr,
    ip6_hop_limit, ip6_saddr, is_ipv4, is_ipv6, jump, l4proto, limit, log, nfproto, oifname, priority, protocol,
    quota_over, reject, set_mark, set_priority, state, status, th_dport, th_sport,
};
use bailiwick_netfilter::nft::{
    BaseChain, Bound, Chain, ChainKind, Data, Direction, Element, Expr, Field, Hook, LimitUnit, Policy, Rejection,
    Rule, Set, Table, Value, Verdict,
};
use bailiwick_netlink::route::{Family, handle};
use bailiwick_plan::network::{Addresses, MARK, Pools, ROUTER_LINK, link_name, number_of_link};
use bailiwick_types::{
    ALWAYS_BLOCKED, Destination, DomainName, Network, NetworkMode, Port, Ports, Prefix, RefusedPacket, SMTP_PORTS,
    Transport, WhenOver,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// The table of the router.
pub const TABLE: &str = "bailiwick";
/// The group of records of refused packets (`NFLOG`).
pub const RECORDS: u16 = 0x6277;
/// How much of a refused packet is in its record, in bytes: the headers.
const RECORD_BYTES: u32 = 128;
/// Records of one tenant: this many a second, after this many at once.
const RECORDS_RATE: u64 = 1;
const RECORDS_BURST: u32 = 5;
/// How long the kernel remembers how many records a tenant had.
const RECORDS_TIME: Duration = Duration::from_secs(60);
/// The most tenants that a set grows to by itself.
const MOST_TENANTS: u32 = 1 << 17;
/// The major number of the queue on the way out, whose classes hold back what a tenant sends.
const QUEUE: u16 = 1;

const OWN_V4: &str = "own4";
const OWN_V6: &str = "own6";
/// The set that counts what each jail has sent, by family.
pub const SENT: &str = "sent";
/// The set that counts what each jail has received, by family.
pub const RECEIVED: &str = "received";
/// The set with the volume of the month of tenants that stop when it is used up.
pub const MONTH: &str = "month";
/// How many connections each jail may have.
pub const MOST: &str = "connections-of";
/// The map from such a number to the chain that counts the connections that a jail begins.
pub const COUNTED_OUT: &str = "connections-out";
const COUNTED_IN: &str = "connections-in";
/// The number of each jail's policy.
const POLICY_OF: &str = "rules-of";
/// The map from such a number to the chain that judges.
const POLICY: &str = "rules";
/// The mark that a connection gets when a policy has allowed it, for each jail.
const MARKS: &str = "marks";
/// The marks of connections that go on: those that the policy of today has allowed, for each jail.
const JUDGED: &str = "judged";
/// The map from the number of a policy to the chain that judges what comes back to a jail.
const ANSWERS: &str = "answers";
/// The ports of jails that published ones lead to.
const OPEN_PORTS: &str = "open-ports";
const PUBLISHED_V4: &str = "published4";
const PUBLISHED_V6: &str = "published6";
const LINKS: &str = "links";
const CLASSES: &str = "classes";
const BLOCKED_V4: &str = "blocked4";
const BLOCKED_V6: &str = "blocked6";
const RESOLVERS_V4: &str = "resolvers4";
const RESOLVERS_V6: &str = "resolvers6";
const SMTP: &str = "smtp";
const RECORDED: &str = "recorded";

const OUTBOUND: &str = "outbound";
const INBOUND: &str = "inbound";
const RECEIVES: &str = "receives";
const BETWEEN: &str = "between";
const NEW_BETWEEN: &str = "between-new";
const BOTH: &str = "both";
const ERRORS: &str = "errors";
const ALLOWED: &str = "allowed";
const ANSWERED: &str = "answered";
const PASSED: &str = "passed";
const COUNTED: &str = "counted";
const FULL: &str = "full";

/// IANA's numbers of protocols.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// The header of IPv6 with which a sender says which way a packet takes (RFC 8200, 4.4). The kernel drops those of IPv4.
const ROUTING: u8 = 43;
/// The types of echo requests and their answers (RFC 792, RFC 4443).
const ECHO: u8 = 8;
const ECHO_V6: u8 = 128;
const ECHO_REPLY: u8 = 0;
const ECHO_REPLY_V6: u8 = 129;

/// What the rules need to know of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterSettings {
    /// The addresses of jails.
    pub pools: Pools,
    /// The resolvers of jails.
    pub resolvers: Vec<IpAddr>,
    /// Whether jails ask a cache, and only the cache asks the resolvers.
    pub cache: bool,
    /// What no jail reaches, beside [`ALWAYS_BLOCKED`]: `block`, and the addresses of the host.
    pub blocked: Vec<Prefix>,
    /// The addresses of names in `allow`.
    pub names: BTreeMap<DomainName, Vec<IpAddr>>,
}

/// What the rules need to know of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRules<'a> {
    /// The number of its range of ids.
    pub number: u32,
    /// Its addresses.
    pub addresses: Addresses,
    /// What it may do.
    pub network: &'a Network,
    /// The number of its policy ([`SharedRules::number`]).
    pub policy: u32,
    /// The tenants that it may connect to, by number, with the port.
    pub links: Vec<(u32, Port)>,
    /// Bytes of this month so far.
    pub used: u64,
}

/// The elements of a set.
pub type Elements = BTreeMap<String, Vec<Element>>;

/// Whether a set counts, so that it outlives everything around it.
#[must_use]
pub fn counts(set: &str) -> bool {
    [SENT, RECEIVED].contains(&set) || set.starts_with(REFUSED_PREFIX)
}

/// Whether the kernel adds elements to a set, when packets come.
#[must_use]
pub fn grows_by_itself(set: &str) -> bool {
    let is_of_counting = counting_end(set).is_some();
    set == RECORDED || cache::grows_by_itself(set) || set.starts_with(REFUSED_PREFIX) || is_of_counting
}

/// Whether a set counts the open connections of each tenant.
#[must_use]
pub fn counts_connections(set: &str) -> bool {
    counting_end(set).is_some_and(|end| [OUT, IN].contains(&end))
}

/// What follows the number in the name of a set of [`counting`].
fn counting_end(set: &str) -> Option<&str> {
    let rest = set.strip_prefix(COUNTING_PREFIX)?;
    let end = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
    (end.len() < rest.len()).then_some(end)
}

const REFUSED_PREFIX: &str = "refused-";

/// The name of the set that counts what was refused for a reason.
#[must_use]
pub fn refused_set(reason: RefusedPacket) -> String {
    format!("{REFUSED_PREFIX}{}", reason.word())
}

/// The name of the chain that refuses for a reason.
fn refuse_chain(reason: RefusedPacket) -> String {
    format!("refuse-{}", reason.word())
}

fn refuse(reason: RefusedPacket) -> Vec<Expr> {
    goto(&refuse_chain(reason))
}

fn ifname(number: u32) -> String {
    link_name(number)
}

/// The class of a tenant in the queue on the way out. No class has the number 0.
#[must_use]
pub fn class(number: u32) -> Option<u32> {
    let minor = u16::try_from(number.checked_add(1)?).ok()?;
    Some(handle(QUEUE, minor))
}

/// The handle of the queue on the way out.
#[must_use]
pub fn queue() -> u32 {
    handle(QUEUE, 0)
}

/// The table with what all tenants have in common.
#[must_use]
pub fn table(settings: &RouterSettings) -> Table {
    Table { sets: sets(), chains: chains(settings), ..Table::new(TABLE) }
}

/// Its sets, which are the same on all hosts.
#[must_use]
pub fn sets() -> Vec<Set> {
    use Field::{Ifname, Ipv4, Ipv6, Mark, Nfproto, Protocol, Service};
    let mut all = vec![
        Set::new(OWN_V4, &[Ifname, Ipv4]),
        Set::new(OWN_V6, &[Ifname, Ipv6]),
        Set::new(SENT, &[Ifname, Nfproto]).with(counted(0, 0)),
        Set::new(RECEIVED, &[Ifname, Nfproto]).with(counted(0, 0)),
        Set::new(MONTH, &[Ifname]).with(quota_over(0, 0)),
        Set::map(MOST, &[Ifname], &[Mark]),
        Set::verdicts(COUNTED_OUT, &[Mark]),
        Set::verdicts(COUNTED_IN, &[Mark]),
        Set::map(POLICY_OF, &[Ifname], &[Mark]),
        Set::verdicts(POLICY, &[Mark]),
        Set::verdicts(ANSWERS, &[Mark]),
        Set::map(MARKS, &[Ifname], &[Mark]),
        Set::new(JUDGED, &[Ifname, Mark]),
        Set::new(OPEN_PORTS, &[Ifname, Protocol, Service]),
        Set::map(PUBLISHED_V4, &[Protocol, Service], &[Ipv4, Service]),
        Set::map(PUBLISHED_V6, &[Protocol, Service], &[Ipv6, Service]),
        Set::new(LINKS, &[Ifname, Ifname, Protocol, Service]),
        Set::map(CLASSES, &[Ifname], &[Mark]),
        Set::new(BLOCKED_V4, &[Ipv4]).intervals(),
        Set::new(BLOCKED_V6, &[Ipv6]).intervals(),
        Set::new(RESOLVERS_V4, &[Ipv4]),
        Set::new(RESOLVERS_V6, &[Ipv6]),
        Set::new(SMTP, &[Service]),
        Set::new(RECORDED, &[Ifname]).dynamic().size(MOST_TENANTS).timeout(RECORDS_TIME).with(records()),
    ];
    all.extend(cache::sets());
    for reason in RefusedPacket::ALL {
        let set = Set::new(&refused_set(*reason), &[Ifname]).dynamic().size(MOST_TENANTS).with(counted(0, 0));
        all.push(set);
    }
    all
}

fn records() -> Expr {
    limit(LimitUnit::Packets, RECORDS_RATE, RECORDS_BURST, Bound::Within)
}

/// The elements of the sets that all tenants have in common.
#[must_use]
pub fn common(settings: &RouterSettings) -> Elements {
    let mut all = Elements::new();
    let blocked = ALWAYS_BLOCKED.iter().map(|blocked| blocked.prefix);
    let pools = [Some(settings.pools.ipv4()), settings.pools.ipv6()].into_iter().flatten();
    for (first, last) in merged(blocked.chain(settings.blocked.iter().copied()).chain(pools)) {
        let set = if first.is_ipv4() { BLOCKED_V4 } else { BLOCKED_V6 };
        add(&mut all, set, Element::range(&[Value::Ip(first)], &[Value::Ip(last)]));
    }
    cache::add_elements(&mut all, settings);
    for port in SMTP_PORTS {
        add(&mut all, SMTP, Element::new(&[Value::Service(port)]));
    }
    all
}

fn add(all: &mut Elements, set: &str, element: Element) {
    all.entry(set.to_owned()).or_default().push(element);
}

fn chains(settings: &RouterSettings) -> Vec<Chain> {
    let base = |kind, hook, priority, policy| BaseChain { kind, hook, priority, policy };
    let mut all = vec![
        Chain::called(FULL, full()),
        Chain::called(COUNTED, counted_and_sent()),
        Chain::called(PASSED, passed()),
        Chain::called(RECEIVES, receives()),
        Chain::called(ALLOWED, allowed()),
        Chain::called(ANSWERED, answered()),
        Chain::called(BOTH, both()),
        Chain::called(OUTBOUND, outbound()),
        Chain::called(INBOUND, inbound()),
        Chain::called(NEW_BETWEEN, new_between()),
        Chain::called(BETWEEN, between()),
        Chain::called(ERRORS, errors_about_others()),
    ];
    all.extend(cache::chains());
    all.extend([
        Chain::base("source", base(ChainKind::Filter, Hook::Prerouting, -300, Policy::Drop), source(settings.pools)),
        Chain::base("publish", base(ChainKind::Nat, Hook::Prerouting, -100, Policy::Accept), publish(settings.pools)),
        Chain::base("forward", base(ChainKind::Filter, Hook::Forward, 0, Policy::Drop), forward(settings.pools)),
        Chain::base("input", base(ChainKind::Filter, Hook::Input, 0, Policy::Drop), input()),
    ]);
    // A chain must be there before a rule leads to it.
    all.splice(0..0, RefusedPacket::ALL.iter().map(|reason| refusing(*reason)));
    all
}

/// Counts a refused packet, records some, and tells its sender.
fn refusing(reason: RefusedPacket) -> Chain {
    let none = Duration::ZERO;
    let mut rules = vec![
        Rule::new([iifname().add_to(&refused_set(reason), none, vec![counted(0, 0)])]),
        Rule::new([iifname().add_to(RECORDED, none, vec![records()]), log(RECORDS, reason.word(), RECORD_BYTES, 1)]),
    ];
    match reason {
        // Who sends these is told nothing: no honest program does.
        RefusedPacket::Spoofed | RefusedPacket::Invalid => rules.push(Rule::new([drop()])),
        // A program that connects takes a reset at any time. It takes the other answer only while the kernel does not happen to hold
        // its socket, and then waits a second for the next one.
        _ => rules.extend([
            Rule::new([protocol(TCP), reject(Rejection::TcpReset)]),
            Rule::new([reject(Rejection::PROHIBITED)]),
        ]),
    }
    Chain::called(&refuse_chain(reason), rules)
}

/// Whether a packet may come from where it came, before its route is looked up.
fn source(pools: Pools) -> Vec<Rule> {
    let from_host = || iifname().eq(Value::Ifname(ROUTER_LINK));
    let (first, last) = ends(pools.ipv4());
    let from_jail = || iifname().ne(Value::Ifname(ROUTER_LINK));
    let ends_here = |hops: Load| hops.within(Value::Hops(0), Value::Hops(1));
    let mut rules = vec![
        Rule::new([is_ipv4(), ends_here(ip_ttl()), from_jail(), drop()])
            .comment("it would end a connection here, and not on the host"),
        Rule::new([is_ipv6(), ends_here(ip6_hop_limit()), from_jail(), drop()]),
        Rule::new([is_ipv4(), iifname().concat(ip_saddr()).lookup(OWN_V4), set_mark(MARK), accept()]),
        Rule::new([is_ipv6(), iifname().concat(ip6_saddr()).lookup(OWN_V6), set_mark(MARK), accept()]),
        Rule::new([is_ipv4(), from_host(), ip_saddr().within(Value::Ip(first), Value::Ip(last)), drop()])
            .comment("no jail is behind the host"),
    ];
    if let Some((first, last)) = pools.ipv6().map(ends) {
        rules.push(Rule::new([is_ipv6(), from_host(), ip6_saddr().within(Value::Ip(first), Value::Ip(last)), drop()]));
    }
    let multicast: Prefix = MULTICAST_V6.parse().expect("a prefix");
    let (first, last) = ends(multicast);
    rules.extend([
        Rule::new([from_host(), set_mark(MARK), accept()]),
        Rule::new([is_ipv6(), ip6_daddr().within(Value::Ip(first), Value::Ip(last)), drop()])
            .comment("what every system sends when a link comes up (RFC 3810)"),
        Rule::new([refuse(RefusedPacket::Spoofed)]),
    ]);
    rules
}

/// All multicast of IPv6 (RFC 4291, 2.7).
const MULTICAST_V6: &str = "ff00::/8";

/// Leads published ports, which the host has led to the router, into jails.
fn publish(pools: Pools) -> Vec<Rule> {
    let router = pools.router();
    let from_host = || iifname().eq(Value::Ifname(ROUTER_LINK));
    let port = || l4proto().concat(th_dport());
    let mut rules = vec![Rule::new([
        is_ipv4(),
        from_host(),
        ip_daddr().eq(Value::Ip(router.ipv4.into())),
        port().dnat(Family::V4, PUBLISHED_V4),
    ])];
    if let Some(ipv6) = router.ipv6 {
        rules.push(Rule::new([
            is_ipv6(),
            from_host(),
            ip6_daddr().eq(Value::Ip(ipv6.into())),
            port().dnat(Family::V6, PUBLISHED_V6),
        ]));
    }
    rules
}

fn forward(pools: Pools) -> Vec<Rule> {
    let mut rules = cache::from_both_sides();
    rules.extend([
        Rule::new([iifname().eq(Value::Ifname(ROUTER_LINK)), goto(INBOUND)]),
        Rule::new([ct_state().has(state::INVALID), refuse(RefusedPacket::Invalid)]),
        Rule::new([is_ipv6(), has_header(ROUTING), refuse(RefusedPacket::Blocked)])
            .comment("it names another destination, which nobody has looked at"),
    ]);
    rules.push(Rule::new([is_error(), jump(ERRORS)]));
    rules.extend(cache::from_jails(pools));
    rules.extend([Rule::new([oifname().eq(Value::Ifname(ROUTER_LINK)), goto(OUTBOUND)]), Rule::new([goto(BETWEEN)])]);
    rules
}

/// An error of ICMP is about a packet that its sender was sent. A jail that forges one about a connection of others would reach both
/// of its ends. These rules have a chain of their own because few packets need them, and each rule costs every packet some time.
fn errors_about_others() -> Vec<Rule> {
    let ways = [(Direction::Original, is_forth()), (Direction::Reply, is_back())];
    let of = |(way, is_way): &(Direction, Vec<Expr>)| {
        [(is_ipv4(), ct_saddr(*way), OWN_V4), (is_ipv6(), ct_saddr6(*way), OWN_V6)].map(|(is_family, sender, own)| {
            let is_of_other = iifname().concat(sender).lookup_not(own);
            Rule::new([is_family, is_way.clone(), is_of_other, refuse(RefusedPacket::Invalid)])
        })
    };
    ways.iter().flat_map(of).collect()
}

/// Whether a packet is an error of ICMP about a packet of a connection. No program of the kernel opens connections to go with others.
fn is_error() -> Vec<Expr> {
    ct_state().has(state::RELATED)
}

/// Nothing is for the router itself. A jail that tries hears so, and is counted. What comes from the host is for a published port that
/// leads nowhere now.
fn input() -> Vec<Rule> {
    vec![Rule::new([iifname().ne(Value::Ifname(ROUTER_LINK)), refuse(RefusedPacket::Blocked)]), Rule::new([closed()])]
}

/// Answers as a closed port does. The kernel of the host then forgets the connection soon: a dropped one counts there for two minutes
/// (`bailiwick_rules::uplink`).
fn closed() -> Vec<Expr> {
    [protocol(TCP), reject(Rejection::TcpReset)].concat()
}

fn is_open() -> Vec<Expr> {
    ct_state().has(state::ESTABLISHED | state::RELATED)
}

fn is_new() -> Vec<Expr> {
    ct_state().has_not(state::ESTABLISHED | state::RELATED)
}

/// The first packet of a connection, or one that goes the same way.
fn is_forth() -> Vec<Expr> {
    direction(Direction::Original)
}

fn is_back() -> Vec<Expr> {
    direction(Direction::Reply)
}

/// Looks a number up for a link, and follows the verdict that a map has for that number.
///
/// The number is on its way in the packet's priority, because `nft(8)` cannot show one that stays in a register. Whoever lets the
/// packet pass after that takes it off again ([`no_number`]): the queue on the way out would take it for a class.
fn follow(link: Load, numbers: &str, verdicts: &str) -> Vec<Expr> {
    [link.set_priority(numbers), priority().vmap(verdicts)].concat()
}

fn no_number() -> Vec<Expr> {
    set_priority(0)
}

/// From a jail to the host and beyond.
fn outbound() -> Vec<Rule> {
    let is_judged = || iifname().concat(ct_mark()).lookup(JUDGED);
    let no_question = || th_dport().ne(Value::Service(DNS));
    let from_open_port = iifname().concat(l4proto()).concat(th_sport()).lookup(OPEN_PORTS);
    let about_open_port = iifname().concat(ct_protocol()).concat(ct_sport(Direction::Reply)).lookup(OPEN_PORTS);
    vec![
        // Each question is judged: the resolvers change without the policy. So does what is blocked.
        Rule::new([is_open(), no_question(), is_judged(), is_ipv4(), ip_daddr().lookup_not(BLOCKED_V4), goto(PASSED)]),
        Rule::new([is_open(), no_question(), is_judged(), is_ipv6(), ip6_daddr().lookup_not(BLOCKED_V6), goto(PASSED)]),
        Rule::new([is_open(), is_back(), from_open_port, goto(PASSED)]),
        Rule::new([is_error(), is_back(), about_open_port, goto(PASSED)]),
        // Late answers of resolvers, which may have private addresses.
        Rule::new([is_error(), is_judged(), is_ipv4(), ip_daddr().lookup(RESOLVERS_V4), goto(PASSED)]),
        Rule::new([is_error(), is_judged(), is_ipv6(), ip6_daddr().lookup(RESOLVERS_V6), goto(PASSED)]),
        Rule::new([follow(iifname(), POLICY_OF, POLICY)]),
        Rule::new([refuse(RefusedPacket::NotAllowed)]),
    ]
}

/// From the host and beyond to a jail.
fn inbound() -> Vec<Rule> {
    let is_judged = || oifname().concat(ct_mark()).lookup(JUDGED);
    let about_open_port = oifname().concat(ct_protocol()).concat(ct_sport(Direction::Reply)).lookup(OPEN_PORTS);
    let elsewhere = || oifname().concat(l4proto()).concat(th_dport()).lookup_not(OPEN_PORTS);
    vec![
        Rule::new([ct_state().has(state::INVALID), drop()]),
        // An error comes from wherever the packet was, also from a private address, and after a packet that was judged.
        Rule::new([is_error(), is_back(), is_judged(), goto(RECEIVES)]),
        Rule::new([is_error(), is_forth(), about_open_port, goto(RECEIVES)]),
        Rule::new([is_error(), drop()]),
        Rule::new([is_back(), is_judged(), is_ipv4(), ip_saddr().lookup_not(BLOCKED_V4), goto(RECEIVES)]),
        Rule::new([is_back(), is_judged(), is_ipv6(), ip6_saddr().lookup_not(BLOCKED_V6), goto(RECEIVES)]),
        Rule::new([is_back(), follow(oifname(), POLICY_OF, ANSWERS)]),
        Rule::new([is_back(), drop()]),
        Rule::new([ct_status().has_not(status::DESTINATION_NAT), drop()]).comment("only to published ports"),
        Rule::new([elsewhere(), closed()]),
        Rule::new([elsewhere(), drop()]).comment("which are published today"),
        Rule::new([opens(), follow(oifname(), MOST, COUNTED_IN)]),
        Rule::new([no_number(), goto(RECEIVES)]),
    ]
}

/// Counts what a jail receives. One without a counter receives nothing.
fn receives() -> Vec<Rule> {
    vec![
        Rule::new([oifname().lookup(MONTH), drop()]),
        Rule::new([oifname().concat(nfproto()).lookup(RECEIVED), accept()]),
        Rule::new([drop()]),
    ]
}

/// From one jail to another.
fn between() -> Vec<Rule> {
    let link = || iifname().concat(oifname()).concat(l4proto()).concat(th_dport()).lookup(LINKS);
    let link_back = oifname().concat(iifname()).concat(l4proto()).concat(th_sport()).lookup(LINKS);
    let about =
        |from: Load, to| from.concat(to).concat(ct_protocol()).concat(ct_dport(Direction::Original)).lookup(LINKS);
    vec![
        Rule::new([is_error(), is_back(), about(oifname(), iifname()), goto(BOTH)]),
        Rule::new([is_error(), is_forth(), about(iifname(), oifname()), goto(BOTH)]),
        Rule::new([is_open(), is_back(), link_back, goto(BOTH)]),
        Rule::new([is_open(), is_forth(), link(), goto(BOTH)]),
        Rule::new([is_new(), link(), jump(NEW_BETWEEN)]),
        Rule::new([refuse(RefusedPacket::Tenant)]),
    ]
}

/// A packet between two jails that nobody has answered yet.
fn new_between() -> Vec<Rule> {
    vec![
        Rule::new([opens(), follow(iifname(), MOST, COUNTED_OUT)]),
        Rule::new([opens(), follow(oifname(), MOST, COUNTED_IN)]),
        Rule::new([no_number(), goto(BOTH)]),
    ]
}

/// Counts for both jails.
fn both() -> Vec<Rule> {
    vec![
        Rule::new([sender_is_over()]),
        Rule::new([oifname().lookup(MONTH), drop()]),
        Rule::new([oifname().concat(nfproto()).lookup(RECEIVED), goto(COUNTED)]),
    ]
}

/// A lookup in [`MONTH`] takes the packet from the volume. So it comes after everything that may refuse the packet: what does not
/// pass costs nobody anything.
fn sender_is_over() -> Vec<Expr> {
    [iifname().lookup(MONTH), refuse(RefusedPacket::Month)].concat()
}

/// A connection to a jail that has as many as it may have. It is one of the receiver's.
fn full() -> Vec<Rule> {
    let counter = vec![counted(0, 0)];
    vec![
        Rule::new([oifname().add_to(&refused_set(RefusedPacket::Connections), Duration::ZERO, counter)]),
        Rule::new([closed()]),
        Rule::new([iifname().eq(Value::Ifname(ROUTER_LINK)), drop()]),
        Rule::new([reject(Rejection::PROHIBITED)]),
    ]
}

/// Remembers that the policy of today has allowed the connection. A new one counts here: what the policy refuses does not.
fn allowed() -> Vec<Rule> {
    vec![
        Rule::new([opens(), follow(iifname(), MOST, COUNTED_OUT)]),
        Rule::new([iifname().set_ct_mark(MARKS)]),
        Rule::new([no_number(), goto(PASSED)]),
    ]
}

/// Whether a packet is the first one of a connection: a second one, such as another one of UDP that nobody has answered, opens nothing.
fn opens() -> Vec<Expr> {
    ct_status().has_not(status::CONFIRMED)
}

/// The same of an answer.
fn answered() -> Vec<Rule> {
    vec![Rule::new([oifname().set_ct_mark(MARKS)]), Rule::new([no_number(), goto(RECEIVES)])]
}

/// Takes what a jail sends from its volume of the month, counts it, and lets it pass.
fn passed() -> Vec<Rule> {
    let mut rules = vec![Rule::new([sender_is_over()])];
    rules.extend(counted_and_sent());
    rules
}

/// Counts what a jail sends, and lets it pass. A jail without a counter sends nothing.
fn counted_and_sent() -> Vec<Rule> {
    vec![Rule::new([iifname().set_priority(CLASSES)]), Rule::new([iifname().concat(nfproto()).lookup(SENT), accept()])]
}

/// The rules that tenants share who have the same policy, or the same number of connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedRules {
    /// The name. Those of all chains and sets begin with it.
    pub name: String,
    /// The number that leads to them.
    pub number: u32,
    /// The sets that its chains look into.
    pub sets: Vec<Set>,
    /// Their elements.
    pub elements: Elements,
    /// Its chains.
    pub chains: Vec<Chain>,
    /// The elements of other maps that lead to these chains.
    ///
    /// No element of a tenant has a chain. The kernel walks all chains again whenever an element leads to one, once for each such
    /// element (`nft_table_validate`), so that a start would take longer with each tenant.
    pub leads: Elements,
}

impl SharedRules {
    /// The rules of a policy with one of its [`numbers_of`].
    #[must_use]
    pub fn with_number(self, number: u32) -> Self {
        let verdicts = [self.name.clone(), format!("{}{BACK}", self.name)].map(Verdict::Goto);
        Self { number, leads: leads(number, [POLICY, ANSWERS], verdicts), ..self }
    }
}

/// What all chains of policies are called, before a number that follows from their content.
const POLICY_PREFIX: &str = "policy-";
/// The digits of that number.
const POLICY_DIGITS: usize = 32;
/// The numbers that a policy may have in the kernel, from the best one. It has the first one that no other policy has.
#[must_use]
pub fn numbers_of(policy: &str) -> Vec<u32> {
    let digits = policy.strip_prefix(POLICY_PREFIX).unwrap_or_default().as_bytes();
    let number = |digits: &[u8]| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    digits.chunks(8).filter_map(number).collect()
}

/// The elements of two maps that lead to the two chains of shared rules.
fn leads(number: u32, maps: [&str; 2], verdicts: [Verdict; 2]) -> Elements {
    let key = [Value::Mark(number)];
    let lead = |(map, verdict): (&str, Verdict)| (map.to_owned(), vec![Element::new(&key).verdict(verdict)]);
    maps.into_iter().zip(verdicts).map(lead).collect()
}

/// The name of the rules that tenants share that a chain or a set is of; `None` for what all tenants have in common.
#[must_use]
pub fn shared_of(name: &str) -> Option<&str> {
    let len = if let Some(rest) = name.strip_prefix(COUNTING_PREFIX) {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        (digits > 0).then_some(COUNTING_PREFIX.len() + digits)
    } else {
        name.starts_with(POLICY_PREFIX).then_some(POLICY_PREFIX.len() + POLICY_DIGITS)
    };
    name.get(..len?)
}

/// The rules of a policy. Tenants whose policies say the same have the same chain.
#[must_use]
pub fn policy(network: &Network, names: &BTreeMap<DomainName, Vec<IpAddr>>) -> SharedRules {
    let draft = PolicyDraft::new(network, names);
    // FNV-1a over everything that the rules follow from. Two policies with one number would share rules, so it is not short.
    let hash = |start: u64| {
        format!("{draft:?}").bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    };
    let name = format!("{POLICY_PREFIX}{:016x}{:016x}", hash(0xcbf2_9ce4_8422_2325), hash(0x6c62_272e_07bb_0142));
    draft.rules(&name)
}

/// What may be sent to which addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Group {
    to: Vec<(IpAddr, IpAddr)>,
    tcp: Vec<(u16, u16)>,
    udp: Vec<(u16, u16)>,
    ping: bool,
}

/// What the rules of a policy follow from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PolicyDraft {
    dns: bool,
    smtp: bool,
    groups: Vec<Group>,
}

impl PolicyDraft {
    fn new(network: &Network, names: &BTreeMap<DomainName, Vec<IpAddr>>) -> Self {
        let mut by_ports: BTreeMap<&[Ports], Vec<Prefix>> = BTreeMap::new();
        for allow in &network.allow {
            let ports = allow.ports.as_deref().unwrap_or(&network.ports);
            let to = by_ports.entry(ports).or_default();
            match &allow.to {
                Destination::Prefix(prefix) => to.push(*prefix),
                Destination::Name(name) => {
                    let addresses = names.get(name).into_iter().flatten();
                    let prefix =
                        |address: &IpAddr| Prefix::new(*address, if address.is_ipv4() { 32 } else { 128 }).ok();
                    to.extend(addresses.filter_map(prefix));
                }
            }
        }
        let groups = by_ports.into_iter().map(|(ports, to)| Group::new(ports, to)).filter(|group| !group.to.is_empty());
        let dns = network.ports.contains(&Ports::Dns);
        Self { dns, smtp: network.smtp, groups: groups.collect() }
    }

    fn rules(self, name: &str) -> SharedRules {
        let Self { dns, smtp, groups } = self;
        let (mut sets, mut elements) = (Vec::new(), Elements::new());
        for (index, group) in groups.iter().enumerate() {
            group.add_sets(&format!("{name}-{index}"), &mut sets, &mut elements);
        }
        let rules = |way: Way| {
            let mut rules = Vec::new();
            for number in [UDP, TCP] {
                let is_dns = || [protocol(number), way.port().eq(Value::Service(DNS))].concat();
                if dns {
                    rules.push(Rule::new([is_ipv4(), is_dns(), way.v4().lookup(RESOLVERS_V4), way.passes()]));
                    rules.push(Rule::new([is_ipv6(), is_dns(), way.v6().lookup(RESOLVERS_V6), way.passes()]));
                }
                rules.push(Rule::new([is_dns(), way.refuses(RefusedPacket::Dns)]));
            }
            rules.push(Rule::new([is_ipv4(), way.v4().lookup(BLOCKED_V4), way.refuses(RefusedPacket::Blocked)]));
            rules.push(Rule::new([is_ipv6(), way.v6().lookup(BLOCKED_V6), way.refuses(RefusedPacket::Blocked)]));
            if !smtp {
                rules.push(Rule::new([protocol(TCP), way.port().lookup(SMTP), way.refuses(RefusedPacket::Smtp)]));
            }
            for (index, group) in groups.iter().enumerate() {
                rules.extend(group.rules(&format!("{name}-{index}"), way));
            }
            rules.push(Rule::new([way.refuses(RefusedPacket::NotAllowed)]));
            rules
        };
        let chains =
            vec![Chain::called(name, rules(Way::Forth)), Chain::called(&format!("{name}{BACK}"), rules(Way::Back))];
        SharedRules { name: name.to_owned(), number: 0, sets, elements, chains, leads: Elements::new() }
            .with_number(numbers_of(name).first().copied().unwrap_or_default())
    }
}

/// The way of a packet in a connection that a jail began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As the first packet.
    Forth,
    /// As an answer. Only one to a connection that was open before the policy changed is looked at.
    Back,
}

impl Way {
    /// The port of the other end.
    fn port(self) -> Load {
        match self {
            Self::Forth => th_dport(),
            Self::Back => th_sport(),
        }
    }

    /// The address of the other end.
    fn v4(self) -> Load {
        match self {
            Self::Forth => ip_daddr(),
            Self::Back => ip_saddr(),
        }
    }

    fn v6(self) -> Load {
        match self {
            Self::Forth => ip6_daddr(),
            Self::Back => ip6_saddr(),
        }
    }

    /// The type of an echo, and of its answer.
    fn echo(self, family: Family) -> u8 {
        match (self, family) {
            (Self::Forth, Family::V4) => ECHO,
            (Self::Forth, Family::V6) => ECHO_V6,
            (Self::Back, Family::V4) => ECHO_REPLY,
            (Self::Back, Family::V6) => ECHO_REPLY_V6,
        }
    }

    fn passes(self) -> Vec<Expr> {
        goto(match self {
            Self::Forth => ALLOWED,
            Self::Back => ANSWERED,
        })
    }

    /// Whoever is outside is told nothing.
    fn refuses(self, reason: RefusedPacket) -> Vec<Expr> {
        match self {
            Self::Forth => refuse(reason),
            Self::Back => drop(),
        }
    }
}

/// The end of the name of the chain of a policy that judges answers.
const BACK: &str = "-back";
/// What the sets that count the connections of tenants are called, before how many each may have.
const COUNTING_PREFIX: &str = "connections-";
/// The ends of the names of the chains, and of the sets, that count a new connection of whoever sends, and of whoever receives.
const OUT: &str = "-out";
const IN: &str = "-in";
/// The ends of the names of the sets with how fast each tenant opens connections, and others open some with it.
const RATE_OUT: &str = "-out-rate";
const RATE_IN: &str = "-in-rate";
/// How long the kernel remembers that of a tenant which opens none: longer than until it may open as many at once as before.
const RATE_TIME: Duration = Duration::from_secs(60);

/// How many connections a tenant opens in a second, and at once, at the most, if it may have `most` at a time.
///
/// The kernel counts none that has ended, and remembers it for two minutes (`nf_conntrack_tcp_timeout_time_wait`). So this bounds how
/// much of its table one tenant can fill ([`remembered`]).
#[must_use]
pub fn new_connections(most: u32) -> (u32, u32) {
    ((most / 20).clamp(50, 500), most.max(200))
}

/// How many connections the kernel remembers of such a tenant at the most: those that are open and those that have ended, which it has
/// opened and which others have.
#[must_use]
pub fn remembered(most: u32) -> u32 {
    /// Seconds.
    const TIME_WAIT: u32 = 120;
    let (second, burst) = new_connections(most);
    2 * (most.saturating_add(burst).saturating_add(second * TIME_WAIT))
}

/// The rules that count the open connections of all tenants who may have as many. They are no part of a policy, so that a changed
/// policy begins no count anew. What others open has a count of its own: it takes none of the tenant's.
///
/// Danger: the kernel forgets an element that counts connections as soon as there are none. So rules make the elements, and the number
/// is in the rules. Only first packets are counted: a packet that nobody has answered must not count its connection again.
#[must_use]
pub fn counting(most: u32) -> SharedRules {
    let name = format!("{COUNTING_PREFIX}{most}");
    let [out, into, out_rate, in_rate] = [OUT, IN, RATE_OUT, RATE_IN].map(|end| format!("{name}{end}"));
    let (second, burst) = new_connections(most);
    let too_fast = || limit(LimitUnit::Packets, second.into(), burst, Bound::Over);
    let over = || connections_over(most);
    let set = |name: &str| Set::new(name, &[Field::Ifname]).dynamic().size(MOST_TENANTS);
    let rate = |name: &str| set(name).timeout(RATE_TIME).with(too_fast());
    let sets = vec![set(&out).with(over()), set(&into).with(over()), rate(&out_rate), rate(&in_rate)];
    let is_fast = |link: Load, rate: &str| link.update_in(rate, Duration::ZERO, vec![too_fast()]);
    let refused = || refuse(RefusedPacket::Connections);
    let sends = vec![
        Rule::new([is_fast(iifname(), &out_rate), refused()]),
        Rule::new([iifname().add_to(&out, Duration::ZERO, vec![over()]), refused()]),
    ];
    let receives = vec![
        Rule::new([is_fast(oifname(), &in_rate), goto(FULL)]),
        Rule::new([oifname().add_to(&into, Duration::ZERO, vec![over()]), goto(FULL)]),
    ];
    let chains = vec![Chain::called(&out, sends), Chain::called(&into, receives)];
    let leads = leads(most, [COUNTED_OUT, COUNTED_IN], [out, into].map(Verdict::Jump));
    SharedRules { name, number: most, sets, elements: Elements::new(), chains, leads }
}

/// The key of a tenant in the sets that count its connections.
#[must_use]
pub fn counted_by(number: u32) -> Element {
    Element::new(&[Value::Ifname(&ifname(number))])
}

/// How many connections a tenant may have at a time, as an element of [`MOST`] says it.
#[must_use]
pub fn most_connections(element: &Element) -> Option<u32> {
    let Some(Data::Value(bytes)) = &element.data else { return None };
    Some(u32::from_ne_bytes(bytes.as_slice().try_into().ok()?))
}

/// The number of connections after which the chain refuses that an element of [`COUNTED_OUT`] leads to, if it does so for that number.
#[must_use]
pub fn counted_after(element: &Element) -> Option<u32> {
    let Some(Data::Verdict(Verdict::Jump(chain))) = &element.data else { return None };
    let most = chain.strip_prefix(COUNTING_PREFIX)?.strip_suffix(OUT)?.parse().ok()?;
    (element.key == Value::Mark(most).bytes()).then_some(most)
}

/// The port of resolvers (RFC 1035).
const DNS: u16 = 53;

impl Group {
    fn new(ports: &[Ports], to: Vec<Prefix>) -> Self {
        let ranges = |wanted: Transport| {
            let of = |ports: &Ports| match ports {
                Ports::Range { transport, range } if *transport == wanted => Some((range.first(), range.last())),
                _ => None,
            };
            merged_ports(ports.iter().filter_map(of).collect())
        };
        let (tcp, udp) = (ranges(Transport::Tcp), ranges(Transport::Udp));
        Self { to: merged(to), tcp, udp, ping: ports.contains(&Ports::Ping) }
    }

    /// Its addresses of a family.
    fn ranges(&self, family: Family) -> Vec<&(IpAddr, IpAddr)> {
        self.to.iter().filter(|(first, _)| Family::of(*first) == family).collect()
    }

    fn has_ports(&self) -> bool {
        !self.tcp.is_empty() || !self.udp.is_empty()
    }

    /// Adds the sets that the rules look into. Their names begin with `name`.
    fn add_sets(&self, name: &str, sets: &mut Vec<Set>, elements: &mut Elements) {
        let ports = ports_of(name);
        if self.has_ports() {
            sets.push(Set::new(&ports, &[Field::Protocol, Field::Service]).intervals());
        }
        for (number, ranges) in [(TCP, &self.tcp), (UDP, &self.udp)] {
            for (first, last) in ranges {
                let of = |port| [Value::Protocol(number), Value::Service(port)];
                add(elements, &ports, Element::range(&of(*first), &of(*last)));
            }
        }
        for (family, field) in [(Family::V4, Field::Ipv4), (Family::V6, Field::Ipv6)] {
            let ranges = self.ranges(family);
            if ranges.is_empty() || is_everything(&ranges) {
                continue;
            }
            let set = places_of(name, family);
            for (first, last) in ranges {
                add(elements, &set, Element::range(&[Value::Ip(*first)], &[Value::Ip(*last)]));
            }
            sets.push(Set::new(&set, &[field]).intervals());
        }
    }

    /// The rules that let packets to its addresses pass, or from them.
    fn rules(&self, name: &str, way: Way) -> Vec<Rule> {
        let mut rules = Vec::new();
        for family in [Family::V4, Family::V6] {
            let ranges = self.ranges(family);
            if ranges.is_empty() {
                continue;
            }
            let (mut is_there, address, icmp) = match family {
                Family::V4 => (is_ipv4(), way.v4(), ICMP),
                Family::V6 => (is_ipv6(), way.v6(), ICMPV6),
            };
            if !is_everything(&ranges) {
                is_there.extend(address.lookup(&places_of(name, family)));
            }
            if self.has_ports() {
                let port = l4proto().concat(way.port()).lookup(&ports_of(name));
                rules.push(Rule::new([is_there.clone(), port, way.passes()]));
            }
            if self.ping {
                let is_echo = icmp_type().eq(Value::Protocol(way.echo(family)));
                rules.push(Rule::new([is_there, protocol(icmp), is_echo, way.passes()]));
            }
        }
        rules
    }
}

/// The set with the ports of a group.
fn ports_of(name: &str) -> String {
    format!("{name}-ports")
}

/// The set with the addresses of a group.
fn places_of(name: &str, family: Family) -> String {
    format!("{name}-to{}", if family == Family::V4 { 4 } else { 6 })
}

/// Whether ranges of one family are all its addresses.
fn is_everything(ranges: &[&(IpAddr, IpAddr)]) -> bool {
    let is_all = |range: &(IpAddr, IpAddr)| {
        let everything = match range.0 {
            IpAddr::V4(_) => "0.0.0.0/0",
            IpAddr::V6(_) => "::/0",
        };
        everything.parse().is_ok_and(|prefix| ends(prefix) == *range)
    };
    matches!(ranges, [one] if is_all(one))
}

/// The elements that make up a tenant, without those that count ([`counters`]).
#[must_use]
pub fn tenant(rules: &TenantRules<'_>) -> Elements {
    let TenantRules { number, addresses, network, policy, links, used } = rules;
    let name = ifname(*number);
    let link = Value::Ifname(&name);
    let mut all = Elements::new();
    if network.mode == NetworkMode::None {
        return all;
    }
    for address in addresses.all() {
        let set = if address.is_ipv4() { OWN_V4 } else { OWN_V6 };
        add(&mut all, set, Element::new(&[link, Value::Ip(address)]));
    }
    let mark = Value::Mark(mark_of(network));
    add(&mut all, MARKS, Element::new(&[link]).value(&[mark]));
    add(&mut all, JUDGED, Element::new(&[link, mark]));
    add(&mut all, POLICY_OF, Element::new(&[link]).value(&[Value::Mark(*policy)]));
    add(&mut all, MOST, Element::new(&[link]).value(&[Value::Mark(network.connections)]));
    if let Some(bytes) = volume(network) {
        add(&mut all, MONTH, month(*number, bytes, *used));
    }
    let open: BTreeSet<_> =
        network.publish.iter().map(|published| (number_of(published.transport), published.to)).collect();
    for (protocol, port) in open {
        add(&mut all, OPEN_PORTS, Element::new(&[link, Value::Protocol(protocol), Value::Service(port)]));
    }
    for published in &network.publish {
        let key = [Value::Protocol(number_of(published.transport)), Value::Service(published.host)];
        for address in addresses.all() {
            let set = if address.is_ipv4() { PUBLISHED_V4 } else { PUBLISHED_V6 };
            add(&mut all, set, Element::new(&key).value(&[Value::Ip(address), Value::Service(published.to)]));
        }
    }
    link_to(&mut all, *number, links);
    all
}

/// Has the elements of a tenant connect it to these ports of others, by their numbers, and to no others.
pub fn link_to(elements: &mut Elements, number: u32, links: &[(u32, Port)]) {
    elements.remove(LINKS);
    for (peer, port) in links {
        let (own, peer) = (ifname(number), ifname(*peer));
        let protocol = Value::Protocol(number_of(port.transport));
        let key = [Value::Ifname(&own), Value::Ifname(&peer), protocol, Value::Service(port.number)];
        add(elements, LINKS, Element::new(&key));
    }
}

/// The sets with the ports of the host that lead to tenants.
pub const PUBLISHED: [&str; 2] = [PUBLISHED_V4, PUBLISHED_V6];

/// The port of the host that an element of these sets is about, and the address that it leads to.
#[must_use]
pub fn published(element: &Element) -> Option<(Port, IpAddr)> {
    let [protocol, _, _, _, high, low, ..] = *element.key.as_slice() else { return None };
    let transport = [Transport::Tcp, Transport::Udp].into_iter().find(|transport| number_of(*transport) == protocol)?;
    let Some(Data::Value(bytes)) = &element.data else { return None };
    // An address, and then the port of the jail in four bytes.
    let address = match bytes.len().checked_sub(4)? {
        4 => IpAddr::from(<[u8; 4]>::try_from(&bytes[..4]).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(&bytes[..16]).ok()?),
        _ => return None,
    };
    Some((Port { transport, number: u16::from_be_bytes([high, low]) }, address))
}

/// The mark of connections that a network allows. It follows from what the network allows and from nothing else: other rates, and
/// other addresses of a name, leave open connections alone.
fn mark_of(network: &Network) -> u32 {
    let Network { allow, ports, smtp, mode: _, publish: _, up: _, down: _, connections: _, month: _ } = network;
    // FNV-1a. No connection without a mark has this one.
    let hash = format!("{:?}", (allow, ports, smtp))
        .bytes()
        .fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash | 1
}

/// Has the elements of a tenant lead to another policy, by its number.
pub fn lead_to(elements: &mut Elements, policy: u32) {
    for element in elements.get_mut(POLICY_OF).into_iter().flatten() {
        *element = element.clone().value(&[Value::Mark(policy)]);
    }
}

/// The volume of a month after which a network stops, in bytes.
#[must_use]
pub fn volume(network: &Network) -> Option<u64> {
    network.month.as_ref().filter(|month| month.then == WhenOver::Stop).map(|month| month.bytes.0)
}

/// The element that holds the volume of a month, of which some is used.
#[must_use]
pub fn month(number: u32, bytes: u64, used: u64) -> Element {
    Element::new(&[Value::Ifname(&ifname(number))]).with(quota_over(bytes, used.min(bytes)))
}

/// The elements that count what a tenant sends and receives, from zero.
#[must_use]
pub fn counters(number: u32) -> Elements {
    let name = ifname(number);
    let mut all = Elements::new();
    for set in [SENT, RECEIVED] {
        for family in [Family::V4, Family::V6] {
            let element = Element::new(&[Value::Ifname(&name), Value::Nfproto(family)]).with(counted(0, 0));
            add(&mut all, set, element);
        }
    }
    all
}

/// The element that puts what a tenant sends into its class of the queue on the way out.
#[must_use]
pub fn classified(number: u32) -> Option<(&'static str, Element)> {
    let name = ifname(number);
    Some((CLASSES, Element::new(&[Value::Ifname(&name)]).value(&[Value::Mark(class(number)?)])))
}

fn number_of(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => TCP,
        Transport::Udp => UDP,
    }
}

/// The number of the link in the key of an element, and the family after it, if there is one.
#[must_use]
pub fn parse_key(key: &[u8]) -> Option<(u32, Option<Family>)> {
    let (name, rest) = key.split_at_checked(16)?;
    let name = std::str::from_utf8(name).ok()?.trim_end_matches('\0');
    let family = match rest.first() {
        Some(2) => Some(Family::V4),
        Some(10) => Some(Family::V6),
        _ => None,
    };
    Some((number_of_link(name)?, family))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::Allow;

    fn network(allow: &[&str], ports: &[&str]) -> Network {
        let allow = allow.iter().map(|to| Allow { to: to.parse().expect("a destination"), ports: None }).collect();
        let ports = ports.iter().map(|ports| ports.parse().expect("ports")).collect();
        Network { allow, ports, ..Network::with_mode(NetworkMode::Outbound) }
    }

    fn rules(network: &Network) -> SharedRules {
        policy(network, &BTreeMap::new())
    }

    /// The chain that decides about the first packet of a connection.
    fn decides(rules: &SharedRules) -> &Chain {
        rules.chains.iter().find(|chain| chain.name == rules.name).expect("it is there")
    }

    fn looks_into(rules: &SharedRules, set: &str) -> bool {
        let looks = |expression: &Expr| matches!(expression, Expr::Lookup { set: other, .. } if other == set);
        decides(rules).rules.iter().flat_map(|rule| &rule.expressions).any(looks)
    }

    #[test]
    fn policies_that_say_the_same_share_their_rules() {
        let one = network(&["192.0.2.0/25", "192.0.2.128/25", "9.9.9.9"], &["tcp/80-443", "tcp/100"]);
        let same = network(&["9.9.9.9", "192.0.2.0/24"], &["tcp/80-443"]);
        assert_eq!(rules(&one).name, rules(&same).name);
        assert_eq!(rules(&one), rules(&same));
        for other in [network(&["9.9.9.9"], &["tcp/80-443"]), network(&["9.9.9.9", "192.0.2.0/24"], &["udp/80-443"])] {
            assert_ne!(rules(&one).name, rules(&other).name);
        }
        let mail = Network { smtp: true, ..one.clone() };
        assert_ne!(rules(&one).name, rules(&mail).name);
        let more = Network { connections: one.connections + 1, ..one.clone() };
        assert_eq!(rules(&one), rules(&more), "they are counted by other rules");
        let sets: Vec<_> = counting(7).sets.into_iter().map(|set| set.name).collect();
        assert_eq!(sets.iter().filter(|set| counts_connections(set)).count(), 2, "{sets:?}");
        assert!(sets.iter().all(|set| grows_by_itself(set)));
        assert!([COUNTED_OUT, COUNTED_IN, MOST].iter().all(|set| !grows_by_itself(set)));
        for all in [rules(&one), counting(7), counting(70)] {
            let names = all.sets.iter().map(|set| &set.name).chain(all.chains.iter().map(|chain| &chain.name));
            assert!(names.into_iter().all(|name| shared_of(name) == Some(&all.name)));
        }
        for other in [OUTBOUND, POLICY_PREFIX, COUNTED_OUT, COUNTED_IN] {
            assert_eq!(shared_of(other), None);
        }
        let leads = |chain: &str| Element::new(&[Value::Mark(17)]).verdict(Verdict::Jump(chain.to_owned()));
        assert_eq!(counting(17).leads[COUNTED_OUT].iter().map(counted_after).collect::<Vec<_>>(), [Some(17)]);
        for chain in ["connections-17-in", "policy-17-out", "connections-18-out"] {
            assert_eq!(counted_after(&leads(chain)), None, "{chain}");
        }
    }

    #[test]
    fn what_is_blocked_and_mail_are_looked_at_before_anything_is_allowed() {
        for (network, mail) in [
            (network(&["0.0.0.0/0", "::/0"], &["tcp/1-65535", "udp/1-65535", "dns", "ping"]), true),
            (Network { smtp: true, ..network(&["0.0.0.0/0"], &["tcp/25"]) }, false),
        ] {
            let rules = rules(&network);
            let passes = Expr::Verdict(Verdict::Goto(ALLOWED.to_owned()));
            let resolvers = [RESOLVERS_V4, RESOLVERS_V6];
            let looks = |rule: &Rule, sets: &[&str]| {
                let is_one =
                    |expression: &Expr| matches!(expression, Expr::Lookup { set, .. } if sets.contains(&set.as_str()));
                rule.expressions.iter().any(is_one)
            };
            let is_pass = |rule: &&Rule| rule.expressions.last() == Some(&passes) && !looks(rule, &resolvers);
            let first = decides(&rules).rules.iter().position(|rule| is_pass(&rule)).expect("something is allowed");
            for set in [BLOCKED_V4, BLOCKED_V6] {
                let place = decides(&rules).rules.iter().position(|rule| looks(rule, &[set]));
                assert!(place.is_some_and(|place| place < first), "{set}");
            }
            assert_eq!(looks_into(&rules, SMTP), mail);
            let last = decides(&rules).rules.last().and_then(|rule| rule.expressions.last());
            assert_eq!(last, Some(&Expr::Verdict(Verdict::Goto(refuse_chain(RefusedPacket::NotAllowed)))));
        }
    }

    #[test]
    fn without_dns_no_question_passes_and_with_it_only_to_resolvers() {
        let (without, with) = (network(&["::/0"], &["udp/1-65535"]), network(&["::/0"], &["udp/1-65535", "dns"]));
        assert!(!looks_into(&rules(&without), RESOLVERS_V6) && looks_into(&rules(&with), RESOLVERS_V6));
        let refused = Expr::Verdict(Verdict::Goto(refuse_chain(RefusedPacket::Dns)));
        for network in [without, with] {
            let refuses =
                decides(&rules(&network)).rules.iter().filter(|rule| rule.expressions.last() == Some(&refused)).count();
            assert_eq!(refuses, 2, "UDP and TCP");
        }
    }

    #[test]
    fn a_name_without_an_address_allows_nothing() {
        let name: DomainName = "api.example".parse().expect("a name");
        let network = network(&["api.example"], &["tcp/443"]);
        let passes = |rules: &SharedRules| {
            let passes = Expr::Verdict(Verdict::Goto(ALLOWED.to_owned()));
            decides(rules).rules.iter().filter(|rule| rule.expressions.last() == Some(&passes)).count()
        };
        assert_eq!(passes(&rules(&network)), 0);
        let names = BTreeMap::from([(name, vec!["192.0.2.1".parse().expect("an address")])]);
        assert_eq!(passes(&policy(&network, &names)), 1);
    }

    #[test]
    fn open_connections_are_judged_again_when_something_else_is_allowed() {
        let one = network(&["192.0.2.0/24"], &["tcp/443"]);
        let slower =
            Network { up: "1M".parse().map_or(one.up, bailiwick_types::Bound::At), connections: 7, ..one.clone() };
        assert_ne!(one, slower);
        assert_eq!(mark_of(&one), mark_of(&slower));
        let others = [network(&["192.0.2.0/25"], &["tcp/443"]), network(&["192.0.2.0/24"], &["tcp/80"])];
        for other in others.into_iter().chain([Network { smtp: true, ..one.clone() }]) {
            assert_ne!(mark_of(&one), mark_of(&other));
        }
        assert_ne!(mark_of(&Network::default()), 0);
    }

    #[test]
    fn a_tenant_is_a_few_elements_and_none_without_a_network() {
        let pools = Pools::new("100.64.0.0/10".parse().expect("a prefix"), "fd00::/48".parse().ok()).expect("pools");
        let network = network(&["::/0"], &["tcp/443"]);
        let addresses = pools.tenant(7).expect("room");
        let of = |network: &Network| {
            tenant(&TenantRules { number: 7, addresses, network, policy: 1, links: Vec::new(), used: 0 })
        };
        assert_eq!(of(&network).values().map(Vec::len).sum::<usize>(), 6);
        assert_eq!(of(&Network::default()), Elements::new());
        let counters = counters(7);
        let keys: Vec<_> = counters[SENT].iter().filter_map(|element| parse_key(&element.key)).collect();
        assert_eq!(keys, [(7, Some(Family::V4)), (7, Some(Family::V6))]);
        assert!(counters.keys().all(|set| counts(set)) && !counts(POLICY));
    }
}
