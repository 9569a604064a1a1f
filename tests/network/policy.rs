//! Changes of the policy.

use crate::{assert_refused, outside, outside_v6};
use bailiwick_proto::{NetReply, NetRequest};
use bailiwick_tests::name;
use bailiwick_tests::wire::{Talk, Wire};

#[test]
fn a_change_is_in_force_for_new_connections_and_a_bad_one_is_not() {
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
    open.echo(1000).expect("an open connection goes on");

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
