//! What the kernel remembers of connections, in the router and on the host: no tenant fills these tables for others.

use crate::{at, outside, outside_v6};
use bailiwick_netfilter::conntrack::{Connection, Conntrack};
use bailiwick_netlink::route::Family;
use bailiwick_tests::until;
use bailiwick_tests::wire::{HOST_V4, OUTSIDE_V4, Space, Talk, Wire, serve};
use rustix::net::sockopt;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
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

/// Ends a connection by a reset that the router sees, and nobody beyond it.
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
fn what_ends_in_the_router_does_not_fill_the_table_of_the_host() {
    let wire = Wire::running(&[("alice", FEW), ("bob", FEW)]);
    let (alice, bob) = (wire.jail("alice"), wire.jail("bob"));
    let (alice4, alice6) = wire.addresses("alice");
    for (own, to) in [(IpAddr::from(alice4), outside(80)), (alice6.into(), outside_v6(80))] {
        let fill = || {
            if let Ok(mut stream) = connect(&alice, to, Duration::from_secs(5)) {
                // What comes after the end would be answered by another reset, which goes further.
                BufReader::new(&mut stream).read_line(&mut String::new()).expect("the server's first word");
                reset_in_router(stream);
            }
            from(&wire.space, own)
        };
        until("the host remembers as many as it does of one address", || fill() >= REMEMBERED);
        for _ in 0..3 {
            let more = connect(&alice, to, Duration::from_millis(300));
            assert!(more.is_err(), "{to}: one more");
        }
        assert_eq!(from(&wire.space, own), REMEMBERED, "{own}");
        Talk::open(&bob, to).expect("a neighbour connects");
    }
}

#[test]
fn what_others_open_and_the_router_sees_end_does_not_fill_it_either() {
    let mut wire = Wire::with(", ports = \"40000-40009\"");
    let publishing =
        |port: u16| format!("mode = \"published\"\npublish = [{{ host = \"tcp/{port}\", to = \"tcp/22\" }}]\n{FEW}");
    wire.start(&[("alice", &publishing(40_001)), ("bob", &publishing(40_002))]);
    let (alice, bob) = (wire.jail("alice"), wire.jail("bob"));
    let listener = alice.run(|| TcpListener::bind(("::", 22))).expect("binds");
    let server = serve(&bob, at("::", 22));
    let there = || {
        let all = remembered(&wire.space, Family::V4);
        let is_ours = |one: &&Connection| one.ports.is_some_and(|(_, port)| port == 40_001);
        all.iter().filter(is_ours).filter(|one| one.tcp_state == Some(ESTABLISHED)).count()
    };
    let to: SocketAddr = (HOST_V4, 40_001).into();
    let mut open = Vec::new();
    let mut fill = || {
        if let Ok(stream) = connect(&wire.outside, to, Duration::from_secs(5)) {
            open.push(stream);
            let (stream, _) = listener.accept().expect("accepts");
            sockopt::set_ip_ttl(&stream, 1).or_else(|_| sockopt::set_ipv6_unicast_hops(&stream, Some(1))).expect("set");
            reset(&stream);
        }
        there()
    };
    until("the host remembers as many as it does of one port", || fill() >= REMEMBERED);
    for _ in 0..3 {
        assert!(connect(&wire.outside, to, Duration::from_millis(300)).is_err(), "one more");
    }
    assert_eq!(there(), REMEMBERED);
    Talk::open(&wire.outside, (HOST_V4, 40_002).into()).expect("a neighbour's port is open");
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
    crate::assert_refused(Talk::open(&alice, outside(80)), "one more of her own");
    drop((flood, own, server));
}
