//! Connections between two tenants that both name each other.

use crate::{assert_refused, at};
use bailiwick_proto::NetReply;
use bailiwick_tests::wire::{Talk, Wire, serve};
use std::net::SocketAddr;

const TO_BOB: &str = "[[link]]\nto = \"bob\"\nport = \"tcp/5432\"\n";
const FROM_ALICE: &str = "[[link]]\nfrom = \"alice\"\nport = \"tcp/5432\"\n";

#[test]
fn a_link_needs_both_and_leads_to_one_port_in_one_direction() {
    let wire = Wire::running(&[("alice", TO_BOB), ("bob", ""), ("carol", "")]);
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|tenant| wire.jail(tenant));
    let servers = [&alice, &bob].map(|jail| [5432, 80].map(|port| serve(jail, at("::", port))));
    let ((alice4, alice6), (bob4, bob6)) = (wire.addresses("alice"), wire.addresses("bob"));
    let bobs = |port| [SocketAddr::from((bob4, port)), SocketAddr::from((bob6, port))];
    for to in bobs(5432) {
        assert_refused(Talk::open(&alice, to), "bob does not agree");
    }
    wire.declare("bob", FROM_ALICE);
    assert_eq!(wire.update("alice"), NetReply::Done);
    let mut open = Vec::new();
    for (to, own) in bobs(5432).into_iter().zip([alice4.to_string(), alice6.to_string()]) {
        let talk = Talk::open(&alice, to).unwrap_or_else(|error| panic!("{to}: {error}"));
        assert_eq!(talk.seen_as.to_string(), own);
        open.push(talk);
    }
    let before = (wire.traffic("alice"), wire.traffic("bob"));
    for talk in &mut open {
        talk.echo(100_000).expect("goes on");
    }
    let (now_alice, now_bob) = (wire.traffic("alice"), wire.traffic("bob"));
    assert!(now_alice.bytes() > before.0.bytes() + 400_000, "{now_alice:?}");
    assert!(now_bob.bytes() > before.1.bytes() + 400_000, "{now_bob:?}");
    for to in bobs(80) {
        assert_refused(Talk::open(&alice, to), "another port");
    }
    for to in [SocketAddr::from((alice4, 5432)), SocketAddr::from((alice6, 5432))] {
        assert_refused(Talk::open(&bob, to), "the other direction");
    }
    for to in bobs(5432) {
        assert_refused(Talk::open(&carol, to), "another tenant");
    }
    // A restart of either, and of bailiwick-net, changes nothing.
    wire.host.ok(&["restart", "bob"]);
    let server = serve(&wire.jail("bob"), at("::", 5432));
    let mut open = Talk::open(&alice, bobs(5432)[0]).expect("bob's new jail");
    wire.declare("bob", "");
    wire.host.ok(&["apply", "bob"]);
    open.echo(1000).expect_err("an open connection ends with the link");
    for tenant in ["bob", "alice"] {
        assert!(matches!(wire.update(tenant), NetReply::Done | NetReply::Unchanged));
    }
    for to in bobs(5432) {
        assert_refused(Talk::open(&alice, to), "bob agrees no longer");
    }
    drop((servers, server));
}
