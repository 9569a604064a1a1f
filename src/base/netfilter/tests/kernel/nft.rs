//! Tables: what was written is read back the same, and `nft(8)` says the same; real packets meet what was written.

use crate::namespace::{Namespace, in_namespace, join, second_reader};
use bailiwick_netfilter::nft::terms::*;
use bailiwick_netfilter::nft::{
    BaseChain, Batch, Bound, Chain, ChainKind, Direction, Element, Expr, Field, Hook, LimitUnit, NftSocket, Policy,
    Rejection, Rule, Set, Table, Value, Verdict,
};
use bailiwick_netlink::route::{Address, Family, RouteSocket, handle};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

const T: &str = "bailiwick";
const LIMIT: usize = 100_000;

fn base(name: &str, kind: ChainKind, hook: Hook, priority: i32, policy: Policy, rules: Vec<Rule>) -> Chain {
    Chain::base(name, BaseChain { kind, hook, priority, policy }, rules)
}

fn ip(text: &str) -> Value<'static> {
    Value::Ip(text.parse().expect("an address"))
}

/// A table with each kind of set, chain and expression.
fn everything() -> Table {
    let sets = vec![
        Set::new("own4", &[Field::Ifname, Field::Ipv4]),
        Set::new("own6", &[Field::Ifname, Field::Ipv6]),
        Set::verdicts("tenants", &[Field::Ifname]).size(1000),
        Set::map("class", &[Field::Ifname], &[Field::Mark]),
        Set::map("publish", &[Field::Protocol, Field::Service], &[Field::Ipv4, Field::Service]),
        Set::map("publish6", &[Field::Service], &[Field::Ipv6, Field::Service]),
        Set::new("blocked", &[Field::Ipv4]).intervals(),
        Set::new("allowed", &[Field::Ifname, Field::Ipv4, Field::Protocol, Field::Service]).intervals(),
        Set::new("ports", &[Field::Protocol, Field::Service]),
        Set::new("judged", &[Field::Ifname, Field::Mark]),
        Set::new("sent", &[Field::Ifname]).with(counted(0, 0)),
        Set::new("month", &[Field::Ifname]).with(counted(0, 0)).with(quota_over(1000, 0)),
        Set::new("connections", &[Field::Nfproto, Field::Ipv4]).dynamic().with(connections_over(20)),
        Set::new("packets", &[Field::Mark]).with(limit(LimitUnit::Packets, 100, 50, Bound::Over)),
        Set::new("seen", &[Field::Ipv4, Field::Service]).dynamic().timeout(Duration::from_secs(60)).size(500),
    ];
    let zero = Duration::ZERO;
    let raw = vec![
        Rule::new([is_ipv4(), iifname().concat(ip_saddr()).lookup_not("own4"), counter(), drop()]).comment("spoofed"),
        Rule::new([is_ipv6(), iifname().concat(ip6_saddr()).lookup_not("own6"), drop()]),
        Rule::new([is_ipv6(), has_header(43), drop()]),
        Rule::new([fib_daddr_type().eq(Value::Mark(2)), return_()]),
        Rule::new([fib_saddr_iif_oif().eq(Value::Mark(0)), drop()]),
        Rule::new([mark().and(Value::Mark(0xff00)).eq(Value::Mark(0x100)), accept()]),
        Rule::new([set_mark(0x100)]),
        Rule::new([set_priority(handle(1, 16))]),
        Rule::new([iifname().set_priority("class")]),
        Rule::new([iifname().set_mark("class")]),
    ];
    let forward = vec![
        Rule::new([ct_state().has(state::ESTABLISHED | state::RELATED), accept()]),
        Rule::new([ct_status().has_not(status::DESTINATION_NAT), counter()]),
        Rule::new([iifname().concat(ct_mark()).lookup("judged"), accept()]),
        Rule::new([iifname().set_ct_mark("class")]),
        Rule::new([is_ipv4(), iifname().concat(ct_saddr(Direction::Reply)).lookup_not("own4"), drop()]),
        Rule::new([is_ipv6(), iifname().concat(ct_saddr6(Direction::Original)).lookup_not("own6"), drop()]),
        Rule::new([ct_protocol().concat(ct_sport(Direction::Reply)).lookup("ports"), accept()]),
        Rule::new([ct_protocol().concat(ct_dport(Direction::Original)).lookup("ports"), accept()]),
        Rule::new([direction(Direction::Original), oifname().ne(Value::Ifname("up0")), accept()]),
        Rule::new([is_ipv4(), ip_daddr().lookup("blocked"), reject(Rejection::PROHIBITED)]),
        Rule::new([protocol(6), th_dport().eq(Value::Service(25)), reject(Rejection::TcpReset)]),
        Rule::new([protocol(6), tcp_opens(), drop()]),
        Rule::new([protocol(17), th_dport().within(Value::Service(1), Value::Service(1023)), drop()]),
        Rule::new([protocol(17), th_sport().outside(Value::Service(1024), Value::Service(65_535)), drop()]),
        Rule::new([protocol(1), icmp_type().eq(Value::Protocol(8)), packets_over(10, 20), drop()]),
        Rule::new([is_ipv6(), ip6_daddr().eq(ip("fd00::1")), bytes_over(1_000_000, 65_536), drop()]),
        Rule::new([
            is_ipv4(),
            iifname().concat(ip_daddr()).concat(l4proto()).concat(th_dport()).lookup("allowed"),
            accept(),
        ]),
        Rule::new([iifname().lookup("sent")]),
        Rule::new([iifname().lookup("month"), drop()]),
        Rule::new([is_ipv4(), nfproto().concat(ip_saddr()).lookup("connections"), drop()]),
        Rule::new([vec![connections_over(100)], log(5, "too many: ", 128, 8), drop()]),
        Rule::new([vec![quota_over(5000, 100)], drop()]),
        Rule::new([is_ipv4(), ip_saddr().concat(th_dport()).add_to("seen", zero, vec![counted(0, 0)])]),
        Rule::new([is_ipv4(), ip_saddr().concat(th_dport()).update_in("seen", Duration::from_secs(5), Vec::new())]),
        Rule::new([iifname().vmap("tenants")]),
        Rule::new([goto("last")]),
    ];
    let nat = vec![
        Rule::new([is_ipv4(), l4proto().concat(th_dport()).dnat(Family::V4, "publish")]),
        Rule::new([protocol(6), th_dport().dnat(Family::V6, "publish6")]),
        Rule::new([is_ipv4(), protocol(6), dnat_to("10.0.0.1:80".parse().expect("an address"))]),
        Rule::new([is_ipv6(), protocol(6), dnat_to("[fd00::1]:80".parse().expect("an address"))]),
    ];
    let (filter, nat_kind) = (ChainKind::Filter, ChainKind::Nat);
    let chains = vec![
        Chain::called("last", vec![Rule::new([drop()])]),
        Chain::called("tenant", vec![Rule::new([jump("last")])]),
        base("raw", filter.clone(), Hook::Prerouting, -300, Policy::Accept, raw),
        base("forward", filter, Hook::Forward, 0, Policy::Drop, forward),
        base("dnat", nat_kind.clone(), Hook::Prerouting, -100, Policy::Accept, nat),
        base("snat", nat_kind, Hook::Postrouting, 100, Policy::Accept, vec![Rule::new([masquerade()])]),
        base("local", ChainKind::Route, Hook::Output, -150, Policy::Accept, Vec::new()),
    ];
    Table { sets, chains, ..Table::new(T) }
}

fn set(name: &str) -> Set {
    everything().sets.into_iter().find(|set| set.name == name).expect("a set")
}

/// Some elements of each set of [`everything`].
fn elements() -> Vec<(Set, Vec<Element>)> {
    let one = Value::Ifname("bw1");
    let other = Value::Ifname("bw2");
    vec![
        (set("own4"), vec![Element::new(&[one, ip("100.64.0.1")]), Element::new(&[other, ip("100.64.0.2")])]),
        (set("own6"), vec![Element::new(&[one, ip("fd00::1")])]),
        (
            set("tenants"),
            vec![
                Element::new(&[one]).verdict(Verdict::Jump("tenant".to_owned())),
                Element::new(&[other]).verdict(Verdict::Accept),
            ],
        ),
        (set("class"), vec![Element::new(&[one]).value(&[Value::Mark(handle(1, 16))])]),
        (
            set("publish"),
            vec![
                Element::new(&[Value::Protocol(6), Value::Service(40_132)])
                    .value(&[ip("100.64.0.1"), Value::Service(22)]),
            ],
        ),
        (set("publish6"), vec![Element::new(&[Value::Service(40_132)]).value(&[ip("fd00::1"), Value::Service(22)])]),
        (
            set("blocked"),
            vec![
                Element::range(&[ip("10.0.0.0")], &[ip("10.255.255.255")]),
                Element::range(&[ip("11.0.0.0")], &[ip("11.0.0.255")]),
                Element::new(&[ip("169.254.169.254")]),
                Element::range(&[ip("224.0.0.0")], &[ip("255.255.255.255")]),
            ],
        ),
        (
            set("allowed"),
            vec![Element::range(
                &[one, ip("192.0.2.0"), Value::Protocol(6), Value::Service(80)],
                &[one, ip("192.0.2.255"), Value::Protocol(6), Value::Service(443)],
            )],
        ),
        (set("sent"), vec![Element::new(&[one]).with(counted(3, 300)), Element::new(&[other]).with(counted(0, 0))]),
        (set("month"), vec![Element::new(&[one]).with(counted(3, 300)).with(quota_over(200_000_000_000, 300))]),
        (
            set("connections"),
            vec![Element::new(&[Value::Nfproto(Family::V4), ip("100.64.0.1")]).with(connections_over(2000))],
        ),
        (set("packets"), vec![Element::new(&[Value::Mark(9)]).with(limit(LimitUnit::Packets, 1000, 500, Bound::Over))]),
        (set("judged"), vec![Element::new(&[one, Value::Mark(7)])]),
    ]
}

fn load(socket: &mut NftSocket, table: &Table, elements: &[(Set, Vec<Element>)]) {
    let mut batch = Batch::new();
    batch.replace_table(table);
    for (set, elements) in elements {
        batch.add_elements(&table.name, set, elements);
    }
    socket.commit(batch).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn each_expression_is_read_back_as_it_was_written() {
    in_namespace(|| {
        let mut socket = NftSocket::open().expect("opens");
        assert_eq!(socket.table(T, LIMIT).expect("reads"), None);
        let before = socket.generation().expect("reads");
        let planned = everything();
        load(&mut socket, &planned, &elements());
        assert_eq!(socket.tables().expect("lists"), [(1, T.to_owned())]);
        let found = socket.table(T, LIMIT).expect("reads").expect("is there");
        assert_eq!(found.generation, before + 1);
        for (planned, found) in planned.sets.iter().zip(&found.table.sets) {
            assert_eq!(planned, found);
        }
        for (planned, found) in planned.chains.iter().zip(&found.table.chains) {
            for (planned, found) in planned.rules.iter().zip(&found.rules) {
                assert_eq!(planned, found);
            }
            assert_eq!(planned, found);
        }
        assert_eq!(planned, found.table);
        assert_eq!(found.handles["forward"].len(), planned.chains[3].rules.len());
        for (set, planned) in elements() {
            let mut found = socket.elements(T, &set, LIMIT).expect("reads");
            found.sort();
            assert_eq!(planned, found, "{}", set.name);
        }
        let error = socket.elements(T, &set("own4"), 1).expect_err("two");
        assert_eq!(error.to_string(), "cannot list elements of set bailiwick own4: there are more than 1");
        assert_eq!(socket.elements(T, &set("own4"), 2).expect("reads").len(), 2, "what was left does not disturb");
        // Once more over itself.
        load(&mut socket, &planned, &elements());
        assert_eq!(socket.table(T, LIMIT).expect("reads").expect("is there").table.comparable(), planned.comparable());
    });
}

#[test]
fn nft_says_the_same() {
    in_namespace(|| {
        let mut socket = NftSocket::open().expect("opens");
        load(&mut socket, &everything(), &elements());
        let Some(text) = second_reader("nft", &["-n", "list", "table", "inet", T]) else { return };
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for line in [
            r#"elements = { "bw1" . 100.64.0.1, "bw2" . 100.64.0.2 }"#,
            r#"elements = { "bw1" : jump tenant, "bw2" : accept }"#,
            "elements = { 10.0.0.0/8, 11.0.0.0/24, 169.254.169.254, 224.0.0.0/3 }",
            r#"elements = { "bw1" . 192.0.2.0/24 . 6 . 80-443 }"#,
            r#"elements = { "bw1" counter packets 3 bytes 300 quota over 195312500 kbytes used 300 bytes }"#,
            "elements = { 6 . 40132 : 100.64.0.1 . 22 }",
            "elements = { 40132 : fd00::1 . 22 }",
            "elements = { 2 . 100.64.0.1 ct count over 2000 }",
            "elements = { 0x00000009 limit rate over 1000/second burst 500 packets }",
            r#"iifname . ip saddr != @own4 counter packets 0 bytes 0 drop comment "spoofed""#,
            "iifname . ip6 saddr != @own6 drop",
            "exthdr rt 1 drop",
            "fib daddr type 2 return",
            "fib saddr . iif oif 0 drop",
            "meta mark & 0x0000ff00 == 0x00000100 accept",
            "meta mark set 0x00000100",
            "meta priority set 1:10",
            "meta priority set iifname map @class",
            "ct state 0x2,0x4 accept",
            "iifname . ct mark @judged accept",
            "ct mark set iifname map @class",
            "iifname . ct reply ip saddr != @own4 drop",
            "iifname . ct original ip6 saddr != @own6 drop",
            "ct protocol . ct reply proto-src @ports accept",
            "ct protocol . ct original proto-dst @ports accept",
            "ct status ! 0x20 counter packets 0 bytes 0",
            r#"ct direction 0 oifname != "up0" accept"#,
            "ip daddr @blocked reject with icmpx 3",
            "tcp dport 25 reject with tcp reset",
            "tcp flags 0x2 / 0x2,0x10 drop",
            "udp dport 1-1023 drop",
            "udp sport != 1024-65535 drop",
            "icmp type 8 limit rate over 10/second burst 20 packets drop",
            "ip6 daddr fd00::1 limit rate over 1000000 bytes/second burst 64 kbytes drop",
            "iifname . ip daddr . meta l4proto . th dport @allowed accept",
            "iifname @month drop",
            r#"ct count over 100 log prefix "too many: " group 5 snaplen 128 queue-threshold 8 drop"#,
            "quota over 5000 bytes used 100 bytes drop",
            "iifname vmap @tenants",
            "goto last",
            "dnat ip to meta l4proto . th dport map @publish",
            "dnat ip6 to tcp dport map @publish6",
            "dnat ip to 10.0.0.1:80",
            "dnat ip6 to [fd00::1]:80",
            "add @seen { ip saddr . th dport counter }",
            "update @seen { ip saddr . th dport timeout 5s }",
            "masquerade",
            "type filter hook forward priority 0; policy drop;",
            "type nat hook postrouting priority 100; policy accept;",
            "type route hook output priority -150; policy accept;",
        ] {
            assert!(words.contains(line), "nft does not say `{line}`:\n{text}");
        }
    });
}

#[test]
fn a_refused_change_is_named_and_changes_nothing() {
    in_namespace(|| {
        let mut socket = NftSocket::open().expect("opens");
        socket.commit(Batch::new()).expect("nothing to do");
        let mut batch = Batch::new();
        batch.add_table(T);
        batch.add_set(T, &Set::new("own4", &[Field::Ifname, Field::Ipv4]));
        batch.add_rule(T, "nowhere", &Rule::new([drop()]).comment("wall 7"));
        batch.add_table("other");
        batch.delete_set(T, "missing");
        let error = socket.commit(batch).expect_err("no such chain");
        let text = error.to_string();
        assert!(text.starts_with("cannot add rule bailiwick nowhere \"wall 7\": No such file or directory"), "{text}");
        assert!(text.ends_with("(and 1 more)"), "{text}");
        assert_eq!(socket.tables().expect("lists"), []);

        load(&mut socket, &everything(), &elements());
        let mut batch = Batch::new();
        let there = elements().swap_remove(0);
        batch.create_elements(T, &there.0, &there.1);
        let error = socket.commit(batch).expect_err("there");
        assert_eq!(error.errno(), Some(libc::EEXIST));
        assert!(error.to_string().starts_with("cannot create elements 1 to 2 of set bailiwick own4"), "{error}");

        let generation = socket.generation().expect("reads");
        let mut batch = Batch::if_unchanged(generation);
        batch.add_table("other");
        socket.commit(batch.clone()).expect("unchanged");
        let error = socket.commit(batch).expect_err("changed");
        assert_eq!(error.errno(), Some(85), "{error}");
        assert!(error.to_string().starts_with(&format!("cannot begin a change of generation {generation}")), "{error}");
    });
}

#[test]
fn rules_elements_and_chains_are_changed_one_by_one() {
    in_namespace(|| {
        let mut socket = NftSocket::open().expect("opens");
        load(&mut socket, &everything(), &elements());
        let of_chain = |socket: &mut NftSocket, name: &str| {
            let found = socket.table(T, LIMIT).expect("reads").expect("is there");
            let chain = found.table.chains.into_iter().find(|chain| chain.name == name).expect("a chain");
            (chain.rules, found.handles.get(name).cloned().unwrap_or_default())
        };
        let rules = vec![Rule::new([counter()]), Rule::new([accept()]).comment("wall 8")];
        let mut batch = Batch::new();
        batch.replace_rules(T, "last", &rules);
        socket.commit(batch).expect("replaces");
        let (found, handles) = of_chain(&mut socket, "last");
        assert_eq!(found, rules);
        let mut batch = Batch::new();
        batch.delete_rule(T, "last", handles[0]);
        let own = set("own4");
        let gone = Element::new(&[Value::Ifname("bw1"), ip("100.64.0.1")]);
        batch.delete_elements(T, &own, [&gone]);
        let blocked = set("blocked");
        batch.delete_elements(T, &blocked, [&Element::range(&[ip("10.0.0.0")], &[ip("10.255.255.255")])]);
        batch.flush_set(T, "sent");
        batch.flush_chain(T, "forward");
        batch.delete_set(T, "month");
        batch.flush_chain(T, "tenant");
        socket.commit(batch).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(of_chain(&mut socket, "last").0, rules[1..]);
        assert_eq!(of_chain(&mut socket, "forward").0, []);
        assert_eq!(socket.elements(T, &own, LIMIT).expect("lists").len(), 1);
        assert_eq!(socket.elements(T, &blocked, LIMIT).expect("lists"), elements()[6].1[1..]);
        assert_eq!(socket.elements(T, &set("sent"), LIMIT).expect("lists"), []);
        assert_eq!(socket.elements(T, &set("month"), LIMIT).expect_err("gone").errno(), Some(libc::ENOENT));
        let mut batch = Batch::new();
        batch.flush_table(T);
        batch.delete_chain(T, "snat");
        batch.delete_elements(T, &set("tenants"), &elements()[2].1);
        socket.commit(batch).unwrap_or_else(|error| panic!("{error}"));
        assert!(
            socket
                .table(T, LIMIT)
                .expect("reads")
                .expect("is there")
                .table
                .chains
                .iter()
                .all(|one| one.rules.is_empty())
        );
        let mut batch = Batch::new();
        batch.delete_table(T);
        socket.commit(batch).expect("deletes");
        assert_eq!(socket.table(T, LIMIT).expect("reads"), None);
    });
}

/// A namespace that is joined as `bw1`; it sends from 10.0.1.2, and also from 10.0.1.3, which is not its own.
fn sender() -> Namespace {
    let namespace = Namespace::new();
    join("bw1", &namespace, 1);
    namespace.run(|| {
        let mut socket = RouteSocket::open().expect("opens");
        let link = socket.link("bw1-far").expect("asks").expect("a link").index;
        socket.add_address(&Address::new(link, IpAddr::V4(Ipv4Addr::new(10, 0, 1, 3)), 32)).expect("adds");
    });
    namespace
}

/// Sends packets to 10.0.1.1, port 9, each from a port of its own. With the headers of IP and UDP they have 72 bytes. The
/// kernel itself sends a few of IPv6.
fn send(namespace: &Namespace, last: u8, count: usize) {
    namespace.run(move || {
        for _ in 0..count {
            let socket = UdpSocket::bind((Ipv4Addr::new(10, 0, 1, last), 0)).expect("binds");
            socket.send_to(&[0; 44], (Ipv4Addr::new(10, 0, 1, 1), 9)).expect("sends");
        }
        // A busy kernel may take them a little later.
        std::thread::sleep(Duration::from_millis(30));
    });
}

const PACKET: u64 = 72;

/// The packets and bytes that the element of `bw1` has counted in a set.
fn counted_by(socket: &mut NftSocket, set: &Set) -> (u64, u64) {
    let elements = socket.elements(T, set, LIMIT).expect("lists");
    elements.iter().find_map(Element::counter).expect("a counter")
}

#[test]
fn a_spoofed_source_is_dropped_and_a_verdict_map_is_followed() {
    in_namespace(|| {
        let tenant = sender();
        let mut socket = NftSocket::open().expect("opens");
        let (one, own) = (Value::Ifname("bw1"), ip("10.0.1.2"));
        let own4 = Set::new("own4", &[Field::Ifname, Field::Ipv4]);
        let tenants = Set::verdicts("tenants", &[Field::Ifname]);
        let passed = Set::new("passed", &[Field::Ifname]).with(counted(0, 0));
        let raw = vec![
            Rule::new([is_ipv4(), iifname().concat(ip_saddr()).lookup_not("own4"), counter(), drop()]),
            Rule::new([is_ipv4(), iifname().vmap("tenants")]),
            Rule::new([is_ipv4(), counter(), drop()]),
        ];
        let chains = vec![
            Chain::called("known", vec![Rule::new([is_ipv4(), iifname().lookup("passed")]), Rule::new([accept()])]),
            base("raw", ChainKind::Filter, Hook::Prerouting, -300, Policy::Drop, raw),
        ];
        let table = Table { sets: vec![own4.clone(), tenants.clone(), passed.clone()], chains, ..Table::new(T) };
        let of_map = Element::new(&[one]).verdict(Verdict::Jump("known".to_owned()));
        load(
            &mut socket,
            &table,
            &[
                (own4, vec![Element::new(&[one, own])]),
                (tenants.clone(), vec![of_map.clone()]),
                (passed.clone(), vec![Element::new(&[one]).with(counted(1000, 100_000))]),
            ],
        );
        send(&tenant, 2, 4);
        send(&tenant, 3, 3);
        assert_eq!(counted_by(&mut socket, &passed), (1004, 100_000 + 4 * PACKET), "it begins with what was given");
        let rules = |socket: &mut NftSocket| {
            socket.table(T, LIMIT).expect("reads").expect("is there").table.chains.remove(1).rules
        };
        let spoofed = Expr::Counter { packets: 3, bytes: 3 * PACKET };
        assert!(rules(&mut socket)[0].expressions.contains(&spoofed), "{:?}", rules(&mut socket)[0]);
        let mut batch = Batch::new();
        batch.delete_elements(T, &tenants, [&of_map]);
        socket.commit(batch).expect("deletes");
        send(&tenant, 2, 2);
        assert_eq!(counted_by(&mut socket, &passed).0, 1004);
        assert!(rules(&mut socket)[2].expressions.contains(&Expr::Counter { packets: 2, bytes: 2 * PACKET }));
    });
}

#[test]
fn an_elements_quota_drops_exactly_what_is_over_it() {
    in_namespace(|| {
        let tenant = sender();
        let mut socket = NftSocket::open().expect("opens");
        let month = Set::new("month", &[Field::Ifname]).with(quota_over(0, 0));
        let passed = Set::new("passed", &[Field::Ifname]).with(counted(0, 0));
        let rules = vec![
            Rule::new([is_ipv4(), iifname().lookup("month"), drop()]),
            Rule::new([is_ipv4(), iifname().lookup("passed")]),
        ];
        let chains = vec![base("raw", ChainKind::Filter, Hook::Prerouting, -300, Policy::Accept, rules)];
        let table = Table { sets: vec![month.clone(), passed.clone()], chains, ..Table::new(T) };
        let one = Value::Ifname("bw1");
        let used = 1_000_000;
        let element = Element::new(&[one]).with(quota_over(used + 5 * PACKET, used));
        load(
            &mut socket,
            &table,
            &[(month.clone(), vec![element.clone()]), (passed.clone(), vec![Element::new(&[one]).with(counted(0, 0))])],
        );
        send(&tenant, 2, 3);
        let found = socket.elements(T, &month, LIMIT).expect("lists");
        assert_eq!(found[0].quota_used(), Some(used + 3 * PACKET));
        assert_eq!(found[0].clone().without_state(), element.without_state());
        send(&tenant, 2, 7);
        assert_eq!(counted_by(&mut socket, &passed), (5, 5 * PACKET), "what fills the quota passes, and no more");
        let found = socket.elements(T, &month, LIMIT).expect("lists");
        assert_eq!(found[0].quota_used(), Some(used + 5 * PACKET), "the kernel never says more than the quota");
    });
}

#[test]
fn an_elements_count_of_connections_drops_further_ones() {
    in_namespace(|| {
        let tenant = sender();
        let mut socket = NftSocket::open().expect("opens");
        let connections = Set::new("connections", &[Field::Ipv4]).dynamic().with(connections_over(9));
        let rules = vec![
            Rule::new([ct_state().has(state::NEW), is_ipv4(), ip_saddr().lookup("connections"), counter(), drop()]),
            Rule::new([is_ipv4(), counter()]),
        ];
        let chains = vec![base("in", ChainKind::Filter, Hook::Input, 0, Policy::Accept, rules)];
        let table = Table { sets: vec![connections.clone()], chains, ..Table::new(T) };
        let own = Element::new(&[ip("10.0.1.2")]).with(connections_over(4));
        load(&mut socket, &table, &[(connections, vec![own])]);
        send(&tenant, 2, 7);
        let found = socket.table(T, LIMIT).expect("reads").expect("is there").table;
        let packets = |rule: usize| {
            found.chains[0].rules[rule].expressions.iter().find_map(|expression| match expression {
                Expr::Counter { packets, .. } => Some(*packets),
                _ => None,
            })
        };
        assert_eq!((packets(0), packets(1)), (Some(3), Some(4)));
    });
}

#[test]
fn a_rule_fills_a_dynamic_set() {
    in_namespace(|| {
        let tenant = sender();
        let mut socket = NftSocket::open().expect("opens");
        let seen = Set::new("seen", &[Field::Ipv4, Field::Service]).dynamic().size(100);
        let add = ip_saddr().concat(th_dport()).add_to("seen", Duration::ZERO, vec![counted(0, 0)]);
        let chains = vec![base(
            "raw",
            ChainKind::Filter,
            Hook::Prerouting,
            -300,
            Policy::Accept,
            vec![Rule::new([is_ipv4(), protocol(17), add])],
        )];
        load(&mut socket, &Table { sets: vec![seen.clone()], chains, ..Table::new(T) }, &[]);
        send(&tenant, 2, 3);
        let found = socket.elements(T, &seen, LIMIT).expect("lists");
        assert_eq!(found, [Element::new(&[ip("10.0.1.2"), Value::Service(9)]).with(counted(3, 3 * PACKET))]);
        let mut at = |set: &Set, port| {
            let key = Element::new(&[ip("10.0.1.2"), Value::Service(port)]).with(counted(0, 0));
            socket.element(T, set, &key).expect("finds")
        };
        assert_eq!(at(&seen, 9).as_ref(), found.first());
        assert_eq!((at(&seen, 10), at(&Set::new("none", &[Field::Ipv4]), 9)), (None, None));
    });
}
