//! Links, addresses, routes, rules, neighbours and queues: what was set is read back.

use crate::namespace::{Namespace, end, in_namespace, index, second_reader};
use bailiwick_netlink::route::{
    Address, AddressGeneration, Class, Family, Mac, Neighbour, Prefix, Queue, QueueKind, Route, RouteKind, RouteSocket,
    Rule, State, Veth, handle,
};
use std::net::IpAddr;
use std::os::fd::AsFd;

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn prefix(text: &str) -> Prefix {
    let (base, len) = text.split_once('/').expect("a length");
    Prefix { address: address(base), len: len.parse().expect("a number") }
}

/// A socket in a namespace with the link `bw9`, and the link's number.
fn with_link() -> (RouteSocket, u32, Namespace) {
    let other = Namespace::new();
    let mut socket = RouteSocket::open().expect("opens");
    let veth = Veth { near: end("bw9", 4), far: end("eth0", 5), near_state: State::Up };
    socket.add_veth(&veth, other.fd.as_fd()).expect("adds");
    let link = index("bw9");
    (socket, link, other)
}

#[test]
fn a_pair_of_interfaces_is_made_across_namespaces_in_one_request() {
    in_namespace(|| {
        let other = Namespace::new();
        let mut socket = RouteSocket::open().expect("opens");
        let veth = Veth { near: end("bw9", 4), far: end("eth0", 5), near_state: State::Up };
        socket.add_veth(&veth, other.fd.as_fd()).expect("adds");
        let near = socket.link("bw9").expect("asks").expect("is there");
        assert_eq!((near.kind.as_deref(), near.mac, near.mtu), (Some("veth"), Some(veth.near.mac), 1500));
        assert_eq!((near.is_up(), near.tx_queue_len, near.tx_queues), (true, 0, 1));
        assert!(near.peer_namespace.is_some(), "{near:?}");
        let far = other.run(|| RouteSocket::open().expect("opens").link("eth0").expect("asks").expect("is there"));
        assert_eq!((far.mac, far.is_up(), far.tx_queue_len), (Some(veth.far.mac), false, 0));
        assert_eq!((near.peer, far.peer), (Some(far.index), Some(near.index)));
        let all = socket.links().expect("lists");
        assert_eq!(all.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["lo", "bw9"]);
        assert_eq!(all[1], near);
        assert_eq!(all[0].kind, None);

        let error = socket.add_veth(&veth, other.fd.as_fd()).expect_err("taken");
        assert_eq!(error.errno(), Some(libc::EEXIST), "{error}");
        assert!(error.to_string().starts_with("cannot add link bw9 with peer eth0: File exists"), "{error}");
        assert_eq!(socket.link("bw10").expect("asks"), None);
        assert!(socket.link("a-name-of-17-byte").expect_err("too long").to_string().contains("1 to 15 bytes"));
    });
}

#[test]
fn a_link_is_changed() {
    in_namespace(|| {
        let (mut socket, link, _other) = with_link();
        let generation =
            |socket: &mut RouteSocket| socket.link("bw9").expect("asks").expect("is there").address_generation;
        assert_eq!(generation(&mut socket), Some(AddressGeneration::Eui64));
        socket.set_link_state(link, State::Down).expect("stops");
        socket.set_address_generation(link, AddressGeneration::None).expect("sets");
        assert_eq!(generation(&mut socket), Some(AddressGeneration::None));
        socket.set_link_mac(link, Mac([2, 1, 2, 3, 4, 5])).expect("sets");
        let found = socket.link("bw9").expect("asks").expect("is there");
        assert_eq!((found.mac, found.is_up()), (Some(Mac([2, 1, 2, 3, 4, 5])), false));
        socket.delete_link(link).expect("deletes");
        assert_eq!(socket.link("bw9").expect("asks"), None);
    });
}

#[test]
fn addresses_and_neighbours_are_read_back() {
    in_namespace(|| {
        let (mut socket, link, _other) = with_link();
        let mine = [Address::new(link, address("100.64.0.1"), 32), Address::new(link, address("fd00::1"), 128)];
        for one in &mine {
            socket.add_address(one).expect("adds");
            assert_eq!(socket.add_address(one).expect_err("there").errno(), Some(libc::EEXIST));
        }
        let of_link = |socket: &mut RouteSocket| {
            let all = socket.addresses().expect("lists").into_iter();
            all.filter(|one| one.link == link && one.prefix_len != 64).collect::<Vec<_>>()
        };
        assert_eq!(of_link(&mut socket), mine);
        let own = |socket: &mut RouteSocket| {
            let all = socket.addresses_of(link).expect("lists").into_iter();
            all.filter(|one| one.prefix_len != 64).collect::<Vec<_>>()
        };
        assert_eq!(own(&mut socket), mine);
        let loopback = index("lo");
        socket.set_link_state(loopback, State::Up).expect("starts");
        let of_loopback = socket.addresses_of(loopback).expect("lists");
        assert_eq!(
            of_loopback.iter().map(|one| one.address).collect::<Vec<_>>(),
            [address("127.0.0.1"), address("::1")]
        );
        assert_eq!(socket.addresses_of(link + 100).expect_err("no link").errno(), Some(libc::ENODEV));
        socket.delete_address(&mine[0]).expect("deletes");
        assert_eq!(of_link(&mut socket), mine[1..]);

        let (first, second) = (Mac([2, 0, 0, 0, 0, 9]), Mac([2, 0, 0, 0, 0, 8]));
        let old = Neighbour::permanent(link, address("fe80::9"), first);
        socket.add_neighbour(&old).expect("adds");
        assert_eq!(socket.add_neighbour(&old).expect_err("there").errno(), Some(libc::EEXIST));
        let new = Neighbour::permanent(link, address("fe80::9"), second);
        socket.replace_neighbour(&new).expect("replaces");
        let permanent = |socket: &mut RouteSocket| {
            let all = socket.neighbours().expect("lists").into_iter();
            all.filter(Neighbour::is_permanent).collect::<Vec<_>>()
        };
        assert_eq!(permanent(&mut socket), [new]);
        socket.delete_neighbour(&new).expect("deletes");
        assert_eq!(permanent(&mut socket), []);
    });
}

#[test]
fn routes_are_read_back() {
    in_namespace(|| {
        let (mut socket, link, _other) = with_link();
        let loopback = index("lo");
        socket.set_link_state(loopback, State::Up).expect("starts");
        let planned = [
            Route::over(prefix("100.64.0.9/32"), link),
            Route::over(prefix("0.0.0.0/0"), link).via(address("169.254.1.1")).in_table(1000),
            Route::end(prefix("10.0.0.0/8"), RouteKind::Unreachable),
            Route { priority: 7, ..Route::end(prefix("192.168.0.0/16"), RouteKind::Blackhole) },
            Route::over(prefix("fd00::9/128"), link),
            Route::over(prefix("::/0"), link).via(address("fe80::1")).in_table(1000),
            Route::end(prefix("fc00::/7"), RouteKind::Unreachable),
            Route::end(prefix("fec0::/10"), RouteKind::Blackhole).in_table(70_000),
        ];
        for route in &planned {
            socket.add_route(route).unwrap_or_else(|error| panic!("{error}"));
            let error = socket.add_route(route).expect_err("there");
            assert_eq!(error.errno(), Some(libc::EEXIST), "{error}");
            socket.replace_route(route).unwrap_or_else(|error| panic!("{error}"));
        }
        let error = socket.add_route(&planned[0]).expect_err("there");
        assert_eq!(error.to_string(), format!("cannot add route 100.64.0.9/32 dev {link}: File exists (os error 17)"));
        let mut found = Vec::new();
        for family in [Family::V4, Family::V6] {
            found.extend(socket.routes(family, None).expect("lists").into_iter().filter(|route| route.protocol == 4));
        }
        let mut sorted = planned.to_vec();
        sorted.sort();
        found.sort();
        assert_eq!(found, sorted);
        assert_eq!(socket.routes(Family::V4, Some(1000)).expect("lists"), [planned[1]]);
        assert_eq!(socket.routes(Family::V6, Some(70_000)).expect("lists"), [planned[7]]);
        assert_eq!(socket.routes(Family::V4, Some(555)).expect("lists"), []);
        for route in &planned {
            socket.delete_route(route).unwrap_or_else(|error| panic!("{error}"));
        }
        assert_eq!(socket.delete_route(&planned[0]).expect_err("gone").errno(), Some(libc::ESRCH));
        let route = Route::over(prefix("10.0.0.0/8"), link);
        let error = socket.add_route(&route.via(address("fe80::1"))).expect_err("no");
        assert!(error.to_string().ends_with("fe80::1 is no address of IPv4"), "{error}");
        let error = socket.add_route(&Route { on_link: false, ..route.via(address("10.9.9.9")) }).expect_err("no");
        assert!(error.to_string().ends_with("(os error 101): Nexthop has invalid gateway"), "{error}");
    });
}

#[test]
fn a_link_is_started_with_its_routes_in_one_request() {
    in_namespace(|| {
        let (mut socket, link, _other) = with_link();
        let gateway = Neighbour::permanent(link, address("169.254.1.1"), Mac([2, 0, 0, 0, 0, 9]));
        let planned = [
            Route::over(prefix("0.0.0.0/0"), link).via(gateway.address),
            Route::over(prefix("::/0"), link).via(address("fe80::1")),
        ];
        let added = |socket: &mut RouteSocket| {
            let list = |family| socket.routes(family, Some(Route::MAIN)).expect("lists");
            let all = [Family::V4, Family::V6].map(list).concat().into_iter();
            all.filter(|route| route.destination.len == 0 && route.protocol == 4).collect::<Vec<_>>()
        };
        socket.set_link_state(link, State::Down).expect("stops");
        assert_eq!(socket.add_route(&planned[0]).expect_err("down").errno(), Some(libc::ENETDOWN));
        socket.add_address(&Address::new(link, address("100.64.0.9"), 32)).expect("adds");
        socket.add_address(&Address::new(link, address("fd00::9"), 128)).expect("adds");
        socket.add_neighbour(&gateway).expect("adds");
        assert_eq!(added(&mut socket), []);
        socket.start_with_routes(link, &planned).expect("starts");
        assert!(socket.link("bw9").expect("asks").expect("is there").is_up());
        assert_eq!(added(&mut socket), planned);
        let neighbours = socket.neighbours().expect("lists");
        assert!(neighbours.contains(&gateway), "it outlives the start: {neighbours:?}");

        // What is refused is told by name, and the rest is done.
        socket.delete_route(&planned[1]).expect("deletes");
        let error = socket.start_with_routes(link, &planned).expect_err("one is there");
        assert_eq!(error.errno(), Some(libc::EEXIST));
        assert_eq!(
            error.to_string(),
            format!("cannot add route 0.0.0.0/0 via 169.254.1.1 dev {link}: File exists (os error 17)")
        );
        assert_eq!(added(&mut socket), planned);
        let error = socket.start_with_routes(link + 100, &planned).expect_err("no link");
        assert_eq!(error.errno(), Some(libc::ENODEV));
        assert!(error.to_string().ends_with("(and 2 more)"), "{error}");
        // Nothing of that is left for the next answer.
        assert!(socket.link("bw9").expect("asks").is_some());
        socket.start_with_routes(link, &[]).expect("it is started already");
    });
}

#[test]
fn rules_are_read_back() {
    in_namespace(|| {
        let mut socket = RouteSocket::open().expect("opens");
        for family in [Family::V4, Family::V6] {
            let kernels = socket.rules(family).expect("lists");
            assert_eq!(
                kernels.iter().map(|rule| rule.priority).max(),
                Some(if family == Family::V4 { 32_767 } else { 32_766 })
            );
            let planned = Rule::for_mark(family, 100, 0x100, 0xff00, 1000);
            socket.add_rule(&planned).expect("adds");
            assert_eq!(socket.add_rule(&planned).expect_err("there").errno(), Some(libc::EEXIST));
            let mut found = socket.rules(family).expect("lists");
            found.retain(|rule| !kernels.contains(rule));
            assert_eq!(found, std::slice::from_ref(&planned));
            socket.delete_rule(&planned).expect("deletes");
            assert_eq!(socket.delete_rule(&planned).expect_err("gone").errno(), Some(libc::ENOENT));
            assert_eq!(socket.rules(family).expect("lists"), kernels);
        }
    });
}

#[test]
fn queues_and_classes_are_read_back() {
    in_namespace(|| {
        let (mut socket, link, _other) = with_link();
        let of_link = |socket: &mut RouteSocket| {
            let all = socket.queues().expect("lists").into_iter();
            all.filter(|queue| queue.link == link).collect::<Vec<_>>()
        };
        let tbf = |rate| Queue {
            link,
            handle: handle(1, 0),
            parent: Queue::ROOT,
            kind: QueueKind::Tbf { rate, burst: 32_000, limit: 200_000 },
        };
        socket.add_queue(&tbf(2_500_000)).expect("adds");
        let found = of_link(&mut socket);
        assert!(found.len() == 1 && tbf(2_500_000).is(&found[0]), "{found:?}");
        socket.replace_queue(&tbf(6_000_000_000)).expect("replaces");
        let found = of_link(&mut socket);
        assert!(found.len() == 1 && tbf(6_000_000_000).is(&found[0]) && !tbf(2_500_000).is(&found[0]), "{found:?}");
        socket.replace_queue(&tbf(2_500_000)).expect("replaces");
        if let Some(text) = second_reader("tc", &["qdisc", "show", "dev", "bw9"]) {
            assert!(text.contains("rate 20Mbit burst 32000b lat 67.2ms"), "{text}");
        }
        let inner = Queue { link, handle: 0, parent: handle(1, 1), kind: QueueKind::Fifo { limit: 100 } };
        socket.replace_queue(&inner).expect("puts it in the place of the kernel's");
        let found = of_link(&mut socket);
        assert!(found.len() == 2 && found.iter().any(|queue| inner.is(queue)), "{found:?}");
        socket.delete_queue(&tbf(1)).expect("deletes");

        let htb = Queue { kind: QueueKind::Htb { default_class: 0x20 }, ..tbf(1) };
        socket.add_queue(&htb).expect("adds");
        assert_eq!(of_link(&mut socket), std::slice::from_ref(&htb));
        let class = |rate, ceil| Class {
            link,
            handle: handle(1, 0x10),
            parent: handle(1, 0),
            rate,
            ceil,
            burst: 15_000,
            ceil_burst: 20_000,
            quantum: 3_000,
        };
        socket.add_class(&class(125_000, 2_500_000)).expect("adds");
        assert_eq!(socket.add_class(&class(1, 1)).expect_err("there").errno(), Some(libc::EEXIST));
        let found = socket.classes(link).expect("lists");
        assert!(found.len() == 1 && class(125_000, 2_500_000).is(&found[0]), "{found:?}");
        assert!(!class(125_000, 2_600_000).is(&found[0]));
        socket.replace_class(&class(250_000, 5_000_000_000)).expect("replaces");
        let found = socket.classes(link).expect("lists");
        assert!(found.len() == 1 && class(250_000, 5_000_000_000).is(&found[0]), "{found:?}");
        if let Some(text) = second_reader("tc", &["class", "show", "dev", "bw9"]) {
            assert!(
                text.contains("class htb 1:10 root") && text.contains("rate 2Mbit ceil 40Gbit burst 15000b"),
                "{text}"
            );
        }
        let waits = |limit| Queue { link, handle: 0, parent: handle(1, 0x10), kind: QueueKind::Fifo { limit } };
        for limit in [100, 200] {
            socket.replace_queue(&waits(limit)).expect("replaces");
            let found = of_link(&mut socket);
            let own: Vec<_> = found.iter().filter(|queue| queue.parent != Queue::ROOT).collect();
            assert!(own.len() == 1 && waits(limit).is(own[0]) && !waits(1).is(own[0]), "{found:?}");
        }
        if let Some(text) = second_reader("tc", &["qdisc", "show", "dev", "bw9"]) {
            assert!(text.contains("parent 1:10 limit 200p"), "{text}");
        }
        socket.delete_class(&class(1, 1)).expect("deletes");
        assert_eq!(socket.classes(link).expect("lists"), []);
        assert_eq!(of_link(&mut socket), std::slice::from_ref(&htb), "its queue goes with it");
        socket.delete_queue(&htb).expect("deletes");
    });
}
