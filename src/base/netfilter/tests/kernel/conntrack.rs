//! Connections: what packets have begun is listed, counted and deleted, and nothing else is.

use crate::namespace::{Namespace, in_namespace, index, join};
use bailiwick_netfilter::conntrack::{Connection, Conntrack};
use bailiwick_netfilter::nft::terms::{accept, ct_state, state};
use bailiwick_netfilter::nft::{BaseChain, Batch, Chain, ChainKind, Hook, NftSocket, Policy, Rule, Table};
use bailiwick_netlink::route::{Address, Family, RouteSocket, State};
use std::iter;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// Connections are tracked where a rule asks for them.
fn track() {
    let rule = Rule::new([ct_state().has(state::NEW), accept()]);
    let base = BaseChain { kind: ChainKind::Filter, hook: Hook::Input, priority: 0, policy: Policy::Accept };
    let table = Table { chains: vec![Chain::base("in", base, vec![rule])], ..Table::new("tracked") };
    let mut batch = Batch::new();
    batch.replace_table(&table);
    NftSocket::open().expect("opens").commit(batch).expect("adds");
}

#[test]
fn connections_of_an_address_of_ipv6_are_told_from_those_of_others() {
    in_namespace(|| {
        track();
        let mut route = RouteSocket::open().expect("opens");
        let sources = ["fd00::1", "fd00::2"].map(|text| text.parse::<IpAddr>().expect("an address"));
        let elsewhere: IpAddr = "fd00::9".parse().expect("an address");
        for address in sources.into_iter().chain([elsewhere]) {
            route.add_address(&Address::new(index("lo"), address, 128)).expect("adds");
        }
        route.set_link_state(index("lo"), State::Up).expect("up");
        // An address of IPv6 may be used, and reached, a moment after it was added.
        let bind = |source, port| iter::repeat_with(|| UdpSocket::bind((source, port))).find_map(Result::ok);
        let receiver = bind(elsewhere, 9).expect("binds");
        let reaches = |socket: &UdpSocket| socket.send_to(&[0; 44], (elsewhere, 9)).is_ok();
        for (source, count) in [(sources[0], 2), (sources[1], 3)] {
            for _ in 0..count {
                let socket = bind(source, 0).expect("binds");
                while !reaches(&socket) {}
                receiver.recv(&mut [0; 44]).expect("receives");
            }
        }
        let mut conntrack = Conntrack::open().expect("opens");
        let mut counts = || sources.map(|source| conntrack.connections_of(source, 1).expect("lists").total);
        assert_eq!(counts(), [2, 3]);
        assert_eq!(Conntrack::open().expect("opens").connections_of(elsewhere, 9).expect("lists").total, 5);
        assert_eq!(Conntrack::open().expect("opens").delete_of(&[sources[0]].into()).expect("deletes"), 2);
        assert_eq!(counts(), [0, 3]);
    });
}

#[test]
fn connections_of_one_source_are_listed_counted_and_deleted() {
    in_namespace(|| {
        track();
        std::fs::write("/proc/sys/net/netfilter/nf_conntrack_acct", "1").expect("counts");
        let tenants = [Namespace::new(), Namespace::new()];
        let receiver = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9)).expect("binds");
        let count = || Conntrack::open().expect("opens").count().expect("counts");
        assert_eq!(count(), 0);
        assert_eq!(Conntrack::open().expect("opens").delete_of(&[Ipv4Addr::LOCALHOST.into()].into()).expect("none"), 0);
        let mut sources = Vec::new();
        for (tenant, net, count) in [(&tenants[0], 1u8, 6usize), (&tenants[1], 2, 3)] {
            join(&format!("bw{net}"), tenant, net);
            let own = Ipv4Addr::new(10, 0, net, 2);
            tenant.run(move || {
                for _ in 0..count {
                    let socket = UdpSocket::bind((own, 0)).expect("binds");
                    socket.send_to(&[0; 44], (Ipv4Addr::new(10, 0, net, 1), 9)).expect("sends");
                }
            });
            for _ in 0..count {
                receiver.recv(&mut [0; 44]).expect("receives");
            }
            sources.push(IpAddr::V4(own));
        }
        let mut conntrack = Conntrack::open().expect("opens");
        let all = conntrack.connections(Family::V4, 100).expect("lists");
        assert_eq!((all.total, all.connections.len()), (9, 9));
        assert!(count() >= 9, "those of IPv6 count too");
        assert_eq!(conntrack.connections(Family::V4, 4).expect("lists").connections.len(), 4);
        assert_eq!(conntrack.connections_of(sources[0], 2).expect("lists").total, 6);
        let second = conntrack.connections_of(sources[1], 10).expect("lists");
        let is_as_sent = |one: &Connection| {
            let ports = one.ports.expect("ports");
            (one.source, one.destination, one.protocol, ports.1, one.sent, one.received)
                == (sources[1], IpAddr::from([10, 0, 2, 1]), 17, 9, Some((1, 72)), Some((0, 0)))
        };
        assert!(second.total == 3 && second.connections.iter().all(is_as_sent), "{second:?}");
        let counts = conntrack.count_by_source(Family::V4, 10).expect("counts");
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), [(sources[0], 6), (sources[1], 3)]);
        assert!(conntrack.count_by_source(Family::V4, 1).is_err());

        // Those that lead to an address are its own, too. It is this end of a link here.
        let near = IpAddr::from([10, 0, 2, 1]);
        assert_eq!(conntrack.connections_of(near, 10).expect("lists").total, 3);

        let nobody = ["10.0.9.9", "10.0.9.8", "fd00::1"].map(|text| text.parse().expect("an address"));
        assert_eq!(conntrack.delete_of(&nobody.into()).expect("none"), 0);
        assert_eq!(conntrack.connections(Family::V4, 0).expect("lists").total, 9);
        assert_eq!(conntrack.delete_of(&[sources[0], nobody[0]].into()).expect("deletes"), 6);
        let left = conntrack.count_by_source(Family::V4, 10).expect("counts");
        assert_eq!(left.into_iter().collect::<Vec<_>>(), [(sources[1], 3)]);
    });
}
