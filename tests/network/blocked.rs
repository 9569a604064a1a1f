//! What no jail reaches, whatever its policy allows.

use crate::{assert_nothing, assert_refused, at, is_late, outside};
use bailiwick_plan::network::{GATEWAY_MAC, GATEWAY_V4, JAIL_MAC};
use bailiwick_tests::until;
use bailiwick_tests::wire::{Talk, Wire, ask_udp, serve, udp_v6};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// Everything, as far as a policy can say so.
const ALL: &str = "smtp = true\nports = [\"tcp/1-65535\", \"udp/1-65535\", \"ping\"]";
const LONG: Duration = Duration::from_secs(30);

#[test]
fn metadata_private_addresses_and_those_that_embed_them() {
    let mut wire = Wire::with(", block = [\"203.0.115.0/24\", \"2a00:6::/64\"]");
    wire.start(&[("alice", ALL)]);
    let jail = wire.jail("alice");
    let arrivals = wire.arrivals();
    let at_host = wire.arrivals_at_host();
    let v4 = "168.63.129.16 169.254.169.254 10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 192.168.255.255 100.64.0.1 \
              100.127.255.254 192.0.0.8 198.19.0.1 240.0.0.1 203.0.115.1";
    let v6 = "fd00:ec2::254 fd12::1 2001:db8::1 2002:a9fe:a9fe::1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 2001::1 2a00:6::1";
    let all: Vec<IpAddr> = v4.split(' ').chain(v6.split(' ')).filter_map(|text| text.trim().parse().ok()).collect();
    assert_eq!(all.len(), 22);
    for address in &all {
        let to = SocketAddr::new(*address, 80);
        assert_refused(Talk::open(&jail, to), to);
        assert_refused(ask_udp(&jail, to, LONG), to);
    }
    // No program can write these: the kernel of the jail would not send them.
    let (_, own) = wire.addresses("alice");
    let twins = ["::ffff:169.254.169.254", "::ffff:203.0.114.2", "::169.254.169.254", "::1", "fec0::1", "5f00::1"];
    let twins = twins.map(|text| text.parse::<Ipv6Addr>().expect("an address"));
    let frames = twins.map(|twin| udp_v6((JAIL_MAC, GATEWAY_MAC), (own, twin), 443, "<twin>"));
    jail.send_frames("eth0", &frames);
    wire.settle("alice", &arrivals);
    assert_nothing(&arrivals, "<twin>", "outside");
    assert_nothing(&at_host, "<twin>", "at the host");
    for capture in [&arrivals, &at_host] {
        let wrong = capture.matching(|packet| all.iter().any(|address| packet.is_for(*address)));
        assert!(wrong.is_empty(), "{wrong:?}");
    }
    Talk::open(&jail, outside(8080)).expect("all others");
}

#[test]
fn the_host_and_the_router_at_each_address() {
    let wire = Wire::running(&[("alice", ALL)]);
    let jail = wire.jail("alice");
    let servers = [serve(&wire.space, at("::", 80)), serve(&wire.router(), at("::", 80))];
    let at_host = wire.arrivals_at_host();
    let arrivals = wire.arrivals();
    let inner = Wire::inner_addresses();
    let own = ["203.0.114.1", "2a00:5::1"].map(|text| text.parse().expect("an address"));
    let all: Vec<IpAddr> = own.into_iter().chain(inner.iter().flat_map(|addresses| addresses.all())).collect();
    for address in &all {
        let to = SocketAddr::new(*address, 80);
        assert_refused(Talk::open(&jail, to), to);
        jail.send(to, "<host>");
    }
    // The gateway is the address of nobody. Nothing comes back, since nothing is for the router.
    jail.send((GATEWAY_V4, 80).into(), "<host>");
    wire.settle("alice", &arrivals);
    for capture in [&arrivals, &at_host] {
        assert_nothing(capture, "<host>", "at the host or beyond");
    }
    drop(servers);
}

#[test]
fn an_address_that_the_host_gets_later() {
    let wire = Wire::running(&[("alice", ALL)]);
    let jail = wire.jail("alice");
    let arrivals = wire.arrivals();
    let new = [at("9.9.9.9", 80), at("2a00:9::9", 80)];
    wire.space.ok("ip addr add 9.9.9.9/32 dev lo && ip -6 addr add 2a00:9::9/128 dev lo nodad");
    let heard: Vec<_> = new.iter().map(|to| wire.space.run(|| UdpSocket::bind(to)).expect("binds")).collect();
    let is_silent = |when: &str| {
        for socket in &heard {
            socket.set_nonblocking(true).expect("a socket");
            let received = socket.recv(&mut [0; 100]).map_err(|error| error.kind());
            assert_eq!(received, Err(io::ErrorKind::WouldBlock), "{when}");
        }
    };
    // Before the router knows the address, the host itself lets nothing in.
    for to in new {
        jail.send(to, "early");
    }
    wire.settle("alice", &arrivals);
    is_silent("before the uplink has looked");
    wire.uplink();
    for to in new {
        until("the router knows the address", || {
            ask_udp(&jail, to, Duration::from_millis(20)).is_err_and(|error| !is_late(&error))
        });
        assert_refused(Talk::open(&jail, to), to);
    }
    is_silent("after it");
}

#[test]
fn other_tenants_that_run_and_that_do_not() {
    let wire = Wire::running(&[("alice", ALL), ("bob", ALL), ("carol", ALL)]);
    let (carol4, carol6) = wire.addresses("carol");
    wire.host.ok(&["stop", "carol"]);
    let (bob4, bob6) = wire.addresses("bob");
    let (jail, bob) = (wire.jail("alice"), wire.jail("bob"));
    let server = serve(&bob, at("::", 80));
    let (in_bob, arrivals, at_host) = (wire.arrivals_in("bob"), wire.arrivals(), wire.arrivals_at_host());
    let free = Wire::pools().tenant(4321).expect("there is room");
    let all = [bob4.into(), bob6.into(), carol4.into(), carol6.into()];
    for address in all.into_iter().chain(free.all()) {
        let to = SocketAddr::new(address, 80);
        assert_refused(Talk::open(&jail, to), to);
        assert_refused(ask_udp(&jail, to, LONG), to);
        jail.send(to, "<tenant>");
    }
    wire.settle("alice", &arrivals);
    wire.settle_in("bob", &in_bob);
    for (capture, place) in [(&in_bob, "in bob's jail"), (&arrivals, "outside"), (&at_host, "at the host")] {
        assert_nothing(capture, "<tenant>", place);
    }
    let (own, _) = wire.addresses("alice");
    let from_alice = in_bob.matching(|packet| packet.addresses().is_some_and(|(from, _)| from == IpAddr::from(own)));
    assert!(from_alice.is_empty(), "{from_alice:?}");
    // Nor does anybody outside reach a jail by its own address.
    wire.outside.send((bob4, 80).into(), "<direct>");
    wire.space.send((bob4, 80).into(), "<direct>");
    wire.settle_in("bob", &in_bob);
    assert_nothing(&in_bob, "<direct>", "in bob's jail");
    drop(server);
}

/// Docker and kube-proxy lead addresses of the host to private ones, also such as the router has not heard of yet.
#[test]
fn what_the_host_leads_elsewhere_is_led_nowhere_from_a_jail() {
    let mut wire = Wire::new();
    wire.start(&[("alice", ALL)]);
    let jail = wire.jail("alice");
    let (v4, v6) = (at("203.0.115.1", 80), at("2a00:6::1", 80));
    for to in [v4, v6] {
        Talk::open(&jail, to).expect("it is allowed");
    }
    wire.space.ok("nft -f - <<'RULES'
table inet docker {
    chain prerouting {
        type nat hook prerouting priority -100
        ip daddr 203.0.115.1 dnat ip to 10.9.8.7
        ip6 daddr 2a00:6::1 dnat ip6 to fd00:9::7
    }
}
RULES");
    let arrivals = wire.arrivals();
    for to in [v4, v6] {
        jail.send(to, "<elsewhere>");
        let connected = jail.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)));
        connected.expect_err("no connection either");
    }
    wire.settle("alice", &arrivals);
    assert_nothing(&arrivals, "<elsewhere>", "outside");
    let elsewhere = ["10.9.8.7", "fd00:9::7"].map(|text| text.parse::<IpAddr>().expect("an address"));
    let wrong = arrivals.matching(|packet| elsewhere.iter().any(|address| packet.is_for(*address)));
    assert!(wrong.is_empty(), "{wrong:?}");
    Talk::open(&jail, outside(80)).expect("all others");
}
