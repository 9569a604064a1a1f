//! Errors of ICMP. One says which connection it is about, and connection tracking believes it.

use crate::{assert_nothing, assert_refused, at, outside, outside_v6};
use bailiwick_plan::network::{GATEWAY_MAC, JAIL_MAC};
use bailiwick_proto::NetReply;
use bailiwick_tests::wire::{
    Capture, Frame, HOST_V4, HOST_V6, Macs, OUTSIDE_V4, OUTSIDE_V6, Wire, ask_udp, checksum, unreachable_v4,
    unreachable_v6,
};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);
/// From a jail to its gateway.
const OUT: Macs = (JAIL_MAC, GATEWAY_MAC);
const UDP: u8 = 17;
/// What a tenant has beside that of the plan.
const MORE: &str = "ports = [\"udp/443\", \"udp/500\"]\n";

fn datagram(pseudo: &[u8], ports: (u16, u16), text: &str) -> Vec<u8> {
    let len = u16::try_from(8 + text.len()).expect("small").to_be_bytes();
    let mut all = [&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes(), &len, &[0, 0], text.as_bytes()].concat();
    let sum = checksum(&[pseudo, &[0, UDP], &len, &all].concat()).to_be_bytes();
    all[6..8].copy_from_slice(&sum);
    all
}

fn datagram_v4(addresses: (Ipv4Addr, Ipv4Addr), ports: (u16, u16), text: &str) -> Frame {
    let pseudo = [addresses.0.octets(), addresses.1.octets()].concat();
    Frame::ipv4(OUT, addresses, UDP, (0, 0), &datagram(&pseudo, ports, text))
}

fn datagram_v6(addresses: (Ipv6Addr, Ipv6Addr), ports: (u16, u16), text: &str) -> Frame {
    let pseudo = [addresses.0.octets(), addresses.1.octets()].concat();
    Frame::ipv6(OUT, addresses, UDP, &datagram(&pseudo, ports, text))
}

/// Addresses of both families.
type Both = (Ipv4Addr, Ipv6Addr);

/// What somebody says who claims that another one has sent a datagram to a third. Only what it is about has to be true.
fn errors(from: Both, to: Both, about: [(Both, u16); 2], text: &str) -> Vec<Frame> {
    let [(sender, sport), (receiver, dport)] = about;
    let (v4, v6) = ((sender.0, receiver.0), (sender.1, receiver.1));
    vec![
        unreachable_v4(OUT, (from.0, to.0), &datagram_v4(v4, (sport, dport), text)),
        unreachable_v6(OUT, (from.1, to.1), &datagram_v6(v6, (sport, dport), text)),
    ]
}

fn of(capture: &Capture, text: &str) -> usize {
    capture.matching(|packet| packet.holds(text)).len()
}

const OUTSIDE: Both = (OUTSIDE_V4, OUTSIDE_V6);

#[test]
fn an_error_about_a_connection_of_others_reaches_neither_end() {
    let wire = Wire::running(&[("alice", ""), ("bob", MORE), ("carol", MORE)]);
    let [(alice, alices), (bob, bobs), (carol, carols)] =
        ["alice", "bob", "carol"].map(|tenant| (wire.jail(tenant), wire.addresses(tenant)));
    let (in_bob, arrivals) = (wire.arrivals_in("bob"), wire.arrivals());
    bob.send_frames(
        "eth0",
        &[
            datagram_v4((bobs.0, OUTSIDE.0), (40_000, 500), "<bob>"),
            datagram_v6((bobs.1, OUTSIDE.1), (40_000, 500), "<bob>"),
        ],
    );
    wire.settle("bob", &arrivals);
    assert_eq!(of(&arrivals, "<bob>"), 2);
    let answer = [(OUTSIDE, 500), (bobs, 40_000)];
    let question = [(bobs, 40_000), (OUTSIDE, 500)];
    // Alice may not send there, and carol may: she has bob's policy.
    for (jail, own) in [(&alice, alices), (&carol, carols)] {
        jail.send_frames("eth0", &errors(own, OUTSIDE, answer, "<forged>"));
        jail.send_frames("eth0", &errors(own, bobs, question, "<forged>"));
    }
    bob.send_frames("eth0", &errors(bobs, OUTSIDE, answer, "<honest>"));
    for tenant in ["alice", "carol", "bob"] {
        wire.settle(tenant, &arrivals);
    }
    wire.settle_in("bob", &in_bob);
    assert_nothing(&arrivals, "<forged>", "outside");
    assert_nothing(&in_bob, "<forged>", "in bob's jail");
    assert_eq!(of(&arrivals, "<honest>"), 2, "about a connection of its own");
}

#[test]
fn errors_about_what_is_allowed_no_longer_do_not_pass() {
    const TO_BOB: &str = "[[link]]\nto = \"bob\"\nport = \"udp/5432\"\n";
    const FROM_ALICE: &str = "[[link]]\nfrom = \"alice\"\nport = \"udp/5432\"\n";
    let wire = Wire::running(&[("alice", &format!("{MORE}{TO_BOB}")), ("bob", FROM_ALICE)]);
    // Her jail may have been connected before bob's number was known.
    assert!(matches!(wire.update("alice"), NetReply::Done | NetReply::Unchanged));
    let [(alice, alices), (bob, bobs)] = ["alice", "bob"].map(|tenant| (wire.jail(tenant), wire.addresses(tenant)));
    let (in_alice, in_bob, arrivals) = (wire.arrivals_in("alice"), wire.arrivals_in("bob"), wire.arrivals());
    for (to, port) in [(OUTSIDE, 500), (bobs, 5432)] {
        alice.send_frames(
            "eth0",
            &[
                datagram_v4((alices.0, to.0), (40_000, port), "<open>"),
                datagram_v6((alices.1, to.1), (40_000, port), "<open>"),
            ],
        );
    }
    let settle = || {
        wire.settle("alice", &arrivals);
        wire.settle("bob", &arrivals);
        wire.settle_in("alice", &in_alice);
        wire.settle_in("bob", &in_bob);
    };
    let send = |text: &str| {
        let mut frames = errors(alices, OUTSIDE, [(OUTSIDE, 500), (alices, 40_000)], text);
        frames.extend(errors(alices, bobs, [(bobs, 5432), (alices, 40_000)], text));
        alice.send_frames("eth0", &frames);
        bob.send_frames("eth0", &errors(bobs, alices, [(alices, 40_000), (bobs, 5432)], text));
        settle();
        [of(&arrivals, text), of(&in_bob, text), of(&in_alice, text)]
    };
    settle();
    assert_eq!([of(&arrivals, "<open>"), of(&in_bob, "<open>")], [2, 2]);
    assert_eq!(send("<before>"), [2, 2, 2]);
    wire.declare("bob", "");
    assert!(matches!(wire.update("bob"), NetReply::Done | NetReply::Unchanged));
    wire.declare("alice", "");
    assert_eq!(wire.update("alice"), NetReply::Done);
    assert_eq!(send("<after>"), [0, 0, 0]);
}

#[test]
fn who_meets_a_closed_port_hears_so() {
    let mut wire = Wire::with(", ports = \"40000-40009\"");
    let published = "mode = \"published\"\npublish = [{ host = \"udp/40001\", to = \"udp/53\" }]\nports = [\"udp/9\"]";
    wire.start(&[("alice", published)]);
    let alice = wire.jail("alice");
    for to in [outside(9), outside_v6(9)] {
        let error = ask_udp(&alice, to, LONG).expect_err("nobody is there");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
    }
    for to in [SocketAddr::from((HOST_V4, 40_001)), SocketAddr::from((HOST_V6, 40_001))] {
        assert_refused(ask_udp(&wire.outside, to, LONG), to);
    }
    // A client that is gone when the answer comes.
    let server = alice.run(|| UdpSocket::bind(at("0.0.0.0", 53))).expect("binds");
    server.set_read_timeout(Some(LONG)).expect("a time");
    let client = wire.outside.run(|| UdpSocket::bind((OUTSIDE_V4, 0))).expect("a socket");
    client.send_to(b"a question", (HOST_V4, 40_001)).expect("sends");
    let (_, asker) = server.recv_from(&mut [0; 100]).expect("arrives");
    drop(client);
    server.connect(asker).expect("a route");
    server.send(b"an answer").expect("sends");
    let error = server.recv(&mut [0; 100]).expect_err("nobody is there");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}
