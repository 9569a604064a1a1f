//! Changes of the policy.

use crate::{assert_refused, at, outside, outside_v6};
use bailiwick_proto::{NetReply, NetRequest};
use bailiwick_tests::name;
use bailiwick_tests::wire::{HOST_V4, Talk, Wire, serve};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

/// An address of the outside at which nobody listens.
fn elsewhere(port: u16) -> SocketAddr {
    at("203.0.115.9", port)
}

#[test]
fn a_change_is_in_force_at_once_and_a_bad_one_is_not() {
    let wire = Wire::running(&[("alice", ""), ("bob", "")]);
    let (alice, bob) = (wire.jail("alice"), wire.jail("bob"));
    let mut open = Talk::open(&alice, outside(80)).expect("connects");
    wire.declare("alice", "ports = [\"tcp/8080\"]\nallow = [\"203.0.114.0/24\"]\nup = \"5M\"\nconnections = 20");
    assert_eq!(wire.update("alice"), NetReply::Done);
    assert_eq!(wire.update("alice"), NetReply::Unchanged);
    Talk::open(&alice, outside(8080)).expect("the new port");
    for to in [outside(80), outside(443), outside_v6(8080)] {
        assert_refused(Talk::open(&alice, to), to);
    }
    Talk::open(&bob, outside(80)).expect("bob's policy is as it was");
    open.echo(1000).expect_err("an open connection is judged by the rules of today");

    // A file that cannot be read changes nothing.
    wire.declare("alice", "ports = [\"tcp/nothing\"]");
    let reply = wire.try_ask(&NetRequest::Update { tenant: name("alice") }, &[]).expect("answers");
    assert!(matches!(&reply, NetReply::Failed(_) | NetReply::Unchanged), "{reply:?}");
    Talk::open(&alice, outside(8080)).expect("as before");
    assert_refused(Talk::open(&alice, outside(80)), "as before");
    // Back to the first one, whose rules bob has too.
    wire.declare("alice", "");
    assert_eq!(wire.update("alice"), NetReply::Done);
    Talk::open(&alice, outside_v6(443)).expect("the first policy");
    assert_refused(Talk::open(&alice, outside(8080)), "the first policy");
}

#[test]
fn open_connections_end_only_when_the_policy_allows_them_no_longer() {
    let mut wire = Wire::with(", ports = \"40000-40009\"");
    let with =
        |more: &str| format!("mode = \"published\"\npublish = [{{ host = \"tcp/40001\", to = \"tcp/22\" }}]\n{more}");
    wire.start(&[("alice", &with(""))]);
    let alice = wire.jail("alice");
    let server = serve(&alice, at("::", 22));
    let mut inbound = Talk::open(&wire.outside, (HOST_V4, 40_001).into()).expect("connects");
    let mut open = [outside(80), outside_v6(80), outside(443)].map(|to| Talk::open(&alice, to).expect("connects"));
    for more in [
        "up = \"50M\"",
        "connections = 50",
        "ports = [\"tcp/443\", \"tcp/80\"]",
        "allow = [\"203.0.114.0/24\", \"::/0\"]",
    ] {
        wire.declare("alice", &with(more));
        assert_eq!(wire.update("alice"), NetReply::Done, "{more}");
        for talk in open.iter_mut().chain([&mut inbound]) {
            talk.echo(20_000).unwrap_or_else(|error| panic!("{more}: {error}"));
        }
    }
    wire.declare("alice", &with("ports = [\"tcp/443\"]"));
    assert_eq!(wire.update("alice"), NetReply::Done);
    let [v4, v6, other] = &mut open;
    for talk in [v4, v6] {
        talk.echo(1000).expect_err("the port is no longer allowed");
    }
    for talk in [other, &mut inbound] {
        talk.echo(20_000).expect("it is allowed still");
    }
    // What was allowed once is not allowed again by itself.
    wire.declare("alice", &with(""));
    assert_eq!(wire.update("alice"), NetReply::Done);
    Talk::open(&alice, outside(80)).expect("a new one");
    drop(server);
}

/// Whoever only sends, and whoever only receives, is judged by `block` of today as well.
#[test]
fn what_is_blocked_now_ends_what_is_open() {
    let wire = Wire::running(&[("alice", "")]);
    let alice = wire.jail("alice");
    let mut open = [outside(80), outside_v6(80)].map(|to| Talk::open(&alice, to).expect("connects"));
    let block = |prefixes: &str| wire.configure(&format!(", block = [{prefixes}]"));
    block("\"203.0.114.0/24\", \"198.51.100.0/24\"");
    assert!(matches!(wire.update("alice"), NetReply::Done | NetReply::Unchanged));
    let [v4, v6] = &mut open;
    v4.echo(1000).expect_err("it is blocked");
    v6.echo(20_000).expect("it is not");
    block("\"2a00:5::/32\"");
    assert!(matches!(wire.update("alice"), NetReply::Done | NetReply::Unchanged));
    v6.echo(1000).expect_err("it is blocked");
    Talk::open(&alice, outside(80)).expect("it is blocked no longer");
}

/// The jail never says a word, so the next packet of each connection is the server's.
#[test]
fn what_only_the_server_sends_is_judged_too() {
    const PART: usize = 16 << 10;
    let wire = Wire::running(&[("alice", "ports = [\"tcp/1-65535\", \"udp/443\"]")]);
    let alice = wire.jail("alice");
    let listener = wire.outside.run(|| TcpListener::bind(outside(9000))).expect("binds");
    let (clone, cloned) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        clone.send(stream.try_clone().expect("a descriptor")).expect("somebody waits");
        while stream.write_all(&[7; PART]).is_ok() {
            std::thread::yield_now();
        }
    });
    let mut client = alice.run(|| TcpStream::connect(outside(9000))).expect("connects");
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("a time");
    // A server of datagrams that goes on after one question.
    let datagrams = wire.outside.run(|| UdpSocket::bind(elsewhere(443))).expect("binds");
    let asks = alice.run(|| UdpSocket::bind(at("0.0.0.0", 0))).expect("a socket");
    asks.connect(elsewhere(443)).expect("a route");
    asks.send(b"a question").expect("sends");
    let (_, seen_as) = datagrams.recv_from(&mut [0; 100]).expect("arrives");
    let capture = wire.arrivals_in("alice");
    let arrives = |text: &str| {
        datagrams.send_to(text.as_bytes(), seen_as).expect("sends");
        wire.settle_host();
        wire.settle_in("alice", &capture);
        capture.matching(|packet| packet.holds(text)).len() == 1
    };
    for round in 0..4 {
        wire.declare("alice", &format!("ports = [\"tcp/1-65535\", \"udp/443\", \"udp/{}\"]", 500 + round));
        assert_eq!(wire.update("alice"), NetReply::Done);
        // More than was on its way.
        for _ in 0..256 {
            client.read_exact(&mut [0; PART]).expect("a download goes on");
        }
        assert!(arrives(&format!("<answer {round}>")), "answers go on");
    }
    wire.declare("alice", "ports = [\"tcp/80\"]");
    assert_eq!(wire.update("alice"), NetReply::Done);
    assert!(!arrives("<too late>"), "nobody may be asked any more");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect_err("the download has ended");
    // Nothing comes back to it, and it would try again for many minutes.
    cloned.recv().expect("it was accepted").shutdown(Shutdown::Both).expect("a socket");
    server.join().expect("ends");
}
