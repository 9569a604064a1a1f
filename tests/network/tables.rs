//! What the kernel remembers of connections, in the router and on the host: no tenant fills these tables for others.

use crate::{assert_refused, at, outside, outside_v6};
use bailiwick_netfilter::conntrack::{Connection, Conntrack};
use bailiwick_netlink::route::Family;
use bailiwick_proto::{NetReply, NetRequest};
use bailiwick_tests::until;
use bailiwick_tests::wire::{HOST_V4, OUTSIDE_V4, Space, Talk, Wire, serve};
use rustix::net::sockopt;
use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// The least number of connections that a tenant can have.
const FEW: &str = "connections = 16";
/// What the host remembers then of one address, or port: twice as many.
const REMEMBERED: usize = 32;
/// The kernel's number of that state.
const ESTABLISHED: u8 = 3;
/// More than any of the tests may need.
const MANY: usize = 20_000;

/// Ends a connection by a reset, at once.
fn reset(stream: &TcpStream) {
    sockopt::set_socket_linger(stream, Some(Duration::ZERO)).expect("a socket");
}

/// Ends a connection by a reset that would get no further than the router.
fn reset_in_router(stream: TcpStream) {
    reset(&stream);
    match stream.local_addr().expect("an address") {
        SocketAddr::V4(_) => sockopt::set_ip_ttl(&stream, 1).expect("a socket"),
        SocketAddr::V6(_) => sockopt::set_ipv6_unicast_hops(&stream, Some(1)).expect("a socket"),
    }
}

fn connect(from: &Space, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    from.run(|| TcpStream::connect_timeout(&to, patience))
}

/// The connections of a family that a namespace remembers.
fn remembered(space: &Space, family: Family) -> Vec<Connection> {
    let all = || Conntrack::open()?.connections(family, MANY);
    space.run(all).expect("the kernel lists them").connections
}

/// How many connections of an address a namespace takes to be established.
fn from(space: &Space, address: IpAddr) -> usize {
    let all = remembered(space, Family::of(address));
    all.iter().filter(|one| one.source == address && one.tcp_state == Some(ESTABLISHED)).count()
}

#[test]
fn who_opens_connections_too_fast_is_refused_and_neighbours_are_not() {
    // More than the kernel counts too many for a moment: it does not look at once which of them have ended.
    let wire = Wire::running(&[("alice", "connections = 500"), ("bob", FEW)]);
    let (alice, bob) = (wire.jail("alice"), wire.jail("bob"));
    // Never more than one at a time. The kernel goes on to remember those that have ended.
    let refused = (0..MANY).find_map(|_| {
        let stream = connect(&alice, outside(80), Duration::from_secs(30));
        stream.map(|stream| reset(&stream)).err()
    });
    assert_eq!(refused.map(|error| error.kind()), Some(io::ErrorKind::ConnectionRefused));
    Talk::open(&bob, outside(80)).expect("a neighbour connects");
    until("she may open more", || Talk::open(&alice, outside(80)).is_ok());
    let refused = wire.host.ok(&["network", "alice"]);
    assert!(refused.contains("connections"), "{refused}");
}

#[test]
fn packets_of_one_connection_without_answers_open_one() {
    let wire = Wire::running(&[("alice", &format!("{FEW}\nports = [\"udp/9\"]"))]);
    let (alice, arrivals) = (wire.jail("alice"), wire.arrivals());
    let socket = alice.run(|| UdpSocket::bind(("0.0.0.0", 0))).expect("binds");
    // More than connections may be opened at once.
    for _ in 0..500 {
        socket.send_to(b"<one way>", (OUTSIDE_V4, 9)).expect("sends");
    }
    until("all arrive", || arrivals.matching(|packet| packet.holds("<one way>")).len() == 500);
}

#[test]
fn what_is_refused_opens_nothing() {
    let wire = Wire::running(&[("alice", FEW)]);
    let alice = wire.jail("alice");
    let socket = alice.run(|| UdpSocket::bind(("0.0.0.0", 0))).expect("binds");
    // More than she may open at once, all to a port that she may not send to.
    for _ in 0..1000 {
        socket.send_to(b"<refused>", (OUTSIDE_V4, 9)).ok();
    }
    for _ in 0..10 {
        Talk::open(&alice, outside(80)).expect("she has opened none");
    }
}

#[test]
fn others_open_no_more_in_a_second_either() {
    let mut wire = Wire::with(", ports = \"40000-40009\"");
    let publishing = "mode = \"published\"\npublish = [{ host = \"tcp/40001\", to = \"tcp/22\" }]";
    wire.start(&[("alice", &format!("{publishing}\nconnections = 500"))]);
    let server = serve(&wire.jail("alice"), at("::", 22));
    let refused = (0..MANY).find_map(|_| {
        let stream = connect(&wire.outside, (HOST_V4, 40_001).into(), Duration::from_secs(30));
        stream.map(|stream| reset(&stream)).err()
    });
    assert_eq!(refused.map(|error| error.kind()), Some(io::ErrorKind::ConnectionRefused));
    until("others are let in again", || Talk::open(&wire.outside, (HOST_V4, 40_001).into()).is_ok());
    drop(server);
}

#[test]
fn a_reset_that_would_end_in_the_router_ends_nothing() {
    let wire = Wire::running(&[("alice", FEW)]);
    let alice = wire.jail("alice");
    let (alice4, alice6) = wire.addresses("alice");
    for (own, to) in [(IpAddr::from(alice4), outside(80)), (alice6.into(), outside_v6(80))] {
        for _ in 0..8 {
            let mut stream = connect(&alice, to, Duration::from_secs(30)).expect("connects");
            // What comes after the end would be answered by another reset, which goes further.
            BufReader::new(&mut stream).read_line(&mut String::new()).expect("the server's first word");
            reset_in_router(stream);
        }
        for space in [&wire.router(), &wire.space] {
            assert_eq!(from(space, own), 8, "{own}");
        }
    }
    assert_refused(connect(&alice, outside(80), Duration::from_secs(30)), "one more");
}

/// Has the router forget the connections of some addresses, as it does with resets that go no further than there.
fn forgotten(wire: &Wire, addresses: &BTreeSet<IpAddr>) {
    wire.router().run(|| Conntrack::open()?.delete_of(addresses)).expect("the kernel deletes them");
}

#[test]
fn the_host_remembers_no_more_of_a_jail_than_twice_what_any_may_have() {
    let wire = Wire::running(&[("alice", FEW), ("bob", FEW)]);
    let (alice, bob) = (wire.jail("alice"), wire.jail("bob"));
    let (alice4, alice6) = wire.addresses("alice");
    let mut open = Vec::new();
    for (own, to) in [(IpAddr::from(alice4), outside(80)), (alice6.into(), outside_v6(80))] {
        let mut fill = || {
            open.extend(connect(&alice, to, Duration::from_secs(5)));
            forgotten(&wire, &BTreeSet::from([own]));
            from(&wire.space, own)
        };
        until("the host remembers as many as it does of one address", || fill() >= REMEMBERED);
        for _ in 0..3 {
            let more = connect(&alice, to, Duration::from_millis(300));
            assert!(more.is_err(), "{to}: one more");
        }
        assert_eq!(from(&wire.space, own), REMEMBERED, "{own}");
        Talk::open(&bob, to).expect("a neighbour connects");
        wire.uplink();
        let NetReply::Problems(told) = wire.ask(&NetRequest::Problems) else { panic!("no problems") };
        let golden = format!("the host refuses new connections of {own}");
        assert!(told.iter().any(|problem| problem.text.contains(&golden)), "{golden}: {told:?}");
    }
}

#[test]
fn the_host_remembers_no_more_of_a_published_port_either() {
    let mut wire = Wire::with(", ports = \"40000-40009\"");
    let publishing =
        |port: u16| format!("mode = \"published\"\npublish = [{{ host = \"tcp/{port}\", to = \"tcp/22\" }}]\n{FEW}");
    wire.start(&[("alice", &publishing(40_001)), ("bob", &publishing(40_002))]);
    let servers = ["alice", "bob"].map(|tenant| serve(&wire.jail(tenant), at("::", 22)));
    let own = BTreeSet::from([IpAddr::from(wire.addresses("alice").0)]);
    let there = || {
        let all = remembered(&wire.space, Family::V4);
        let is_ours = |one: &&Connection| one.ports.is_some_and(|(_, port)| port == 40_001);
        all.iter().filter(is_ours).filter(|one| one.tcp_state == Some(ESTABLISHED)).count()
    };
    let to: SocketAddr = (HOST_V4, 40_001).into();
    let mut open = Vec::new();
    let mut fill = || {
        open.extend(connect(&wire.outside, to, Duration::from_secs(5)));
        forgotten(&wire, &own);
        there()
    };
    until("the host remembers as many as it does of one port", || fill() >= REMEMBERED);
    for _ in 0..3 {
        assert!(connect(&wire.outside, to, Duration::from_millis(300)).is_err(), "one more");
    }
    assert_eq!(there(), REMEMBERED);
    Talk::open(&wire.outside, (HOST_V4, 40_002).into()).expect("a neighbour's port is open");
    drop(servers);
}

#[test]
fn who_tries_while_a_jail_is_down_keeps_nobody_out_once_it_is_back() {
    let mut wire = Wire::with(", ports = \"40000-40009\"");
    let publishing = "mode = \"published\"\npublish = [{ host = \"tcp/40001\", to = \"tcp/22\" }]";
    wire.start(&[("alice", &format!("{publishing}\n{FEW}"))]);
    wire.host.ok(&["stop", "alice"]);
    let to: SocketAddr = (HOST_V4, 40_001).into();
    until("its port is closed", || {
        let tried = connect(&wire.outside, to, Duration::from_secs(30));
        tried.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    });
    for _ in 0..2 * REMEMBERED {
        assert_refused(connect(&wire.outside, to, Duration::from_secs(30)), "nobody is there");
    }
    wire.host.ok(&["start", "alice"]);
    let server = serve(&wire.jail("alice"), at("::", 22));
    Talk::open(&wire.outside, to).expect("it is back");
    drop(server);
}

#[test]
fn what_others_open_takes_none_of_the_tenants_own() {
    let mut wire = Wire::with(", ports = \"40000-40009\"");
    let publishing = "mode = \"published\"\npublish = [{ host = \"tcp/40001\", to = \"tcp/22\" }]";
    wire.start(&[("alice", &format!("{publishing}\n{FEW}"))]);
    let alice = wire.jail("alice");
    let server = serve(&alice, at("::", 22));
    let to: SocketAddr = (HOST_V4, 40_001).into();
    let flood: Vec<_> = (0..16).map(|_| Talk::open(&wire.outside, to).expect("connects")).collect();
    assert!(connect(&wire.outside, to, Duration::from_millis(300)).is_err(), "one more from outside");
    let own: Vec<_> = (0..16).map(|_| Talk::open(&alice, outside(80)).expect("her own")).collect();
    assert_refused(Talk::open(&alice, outside(80)), "one more of her own");
    drop((flood, own, server));
}
