//! Connections between two tenants that both name each other.

use crate::{assert_refused, at};
use bailiwick_proto::NetReply;
use bailiwick_tests::until;
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

#[test]
fn a_link_to_a_purged_tenant_leads_to_nobody_who_gets_its_number() {
    let wire = Wire::running(&[("alice", TO_BOB), ("bob", FROM_ALICE)]);
    let alice = wire.jail("alice");
    let server = serve(&wire.jail("bob"), at("::", 5432));
    let (bob4, bob6) = wire.addresses("bob");
    let bobs = [SocketAddr::from((bob4, 5432)), SocketAddr::from((bob6, 5432))];
    for to in bobs {
        Talk::open(&alice, to).unwrap_or_else(|error| panic!("{to}: {error}"));
    }
    drop(server);
    wire.host.ok(&["delete", "bob", "--purge"]);
    wire.declare("carol", "");
    until("carol has bob's number", || {
        wire.host.ok(&["apply"]);
        let has_it = wire.addresses("carol") == (bob4, bob6);
        if !has_it {
            wire.host.ok(&["delete", "carol", "--purge"]);
            wire.declare("carol", "");
        }
        has_it
    });
    let server = serve(&wire.jail("carol"), at("::", 5432));
    for to in bobs {
        assert_refused(Talk::open(&alice, to), "carol agrees to nothing");
    }
    drop(server);
}

#[test]
fn whoever_takes_a_link_back_is_rid_of_it_whatever_the_other_ones_file_says() {
    let publish = "mode = \"published\"\npublish = [{ host = \"tcp/40001\", to = \"tcp/22\" }]\n";
    // A port that carol has, and a mode that waits for a restart.
    for change in [format!("{publish}{TO_BOB}"), "mode = \"none\"\n".to_owned()] {
        let mut wire = Wire::with(", ports = \"40000-40009\"");
        wire.start(&[("alice", TO_BOB), ("bob", FROM_ALICE), ("carol", publish)]);
        let alice = wire.jail("alice");
        let server = serve(&wire.jail("bob"), at("::", 5432));
        let (bob4, _) = wire.addresses("bob");
        let mut open = Talk::open(&alice, (bob4, 5432).into()).expect("both agree");
        wire.declare("alice", &change);
        wire.declare("bob", "");
        wire.host.ok(&["apply", "bob"]);
        open.echo(1000).expect_err("an open connection ends with the link");
        assert_refused(Talk::open(&alice, (bob4, 5432).into()), &change);
        drop(server);
    }
}

#[test]
fn a_link_leads_to_nobody_else_when_the_purge_of_its_tenant_failed_half_way() {
    let mut wire = Wire::with_failpoints();
    wire.start(&[("alice", TO_BOB), ("bob", FROM_ALICE)]);
    let alice = wire.jail("alice");
    let (bob4, bob6) = wire.addresses("bob");
    wire.fail_at("forget-rules error");
    // Whatever it says: what matters is who gets the number.
    drop(wire.host.cli(&["delete", "bob", "--purge"]));
    wire.declare("carol", "");
    until("carol runs", || wire.host.cli(&["apply", "carol"]).status.success());
    assert_eq!(wire.addresses("carol"), (bob4, bob6), "she has bob's number");
    let server = serve(&wire.jail("carol"), at("::", 5432));
    for to in [SocketAddr::from((bob4, 5432)), SocketAddr::from((bob6, 5432))] {
        assert_refused(Talk::open(&alice, to), "carol agrees to nothing");
    }
    drop(server);
}
