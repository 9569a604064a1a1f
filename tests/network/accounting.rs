//! What is counted is what passed.

use crate::{outside, outside_v6};
use bailiwick_proto::{NetReply, NetRequest};
use bailiwick_tests::wire::{Counted, Talk, Wire};
use bailiwick_tests::{name, until};
use bailiwick_types::NetworkTraffic;

/// Asserts that the counts hold what was on the wire since then, and not much more. What is on its way to the router is waited for.
#[track_caller]
fn assert_counted(wire: &Wire, since: &NetworkTraffic, wire_since: Counted) {
    let on_wire = wire.counted();
    until("the last packets are counted", || {
        let received = wire.traffic("alice");
        received.ipv4.received.bytes - since.ipv4.received.bytes >= on_wire.left.0 - wire_since.left.0
            && received.ipv6.received.bytes - since.ipv6.received.bytes >= on_wire.left.1 - wire_since.left.1
    });
    let now = wire.traffic("alice");
    let rows = [
        ("sent", 4, now.ipv4.sent.bytes - since.ipv4.sent.bytes, on_wire.arrived.0 - wire_since.arrived.0),
        ("sent", 6, now.ipv6.sent.bytes - since.ipv6.sent.bytes, on_wire.arrived.1 - wire_since.arrived.1),
        ("received", 4, now.ipv4.received.bytes - since.ipv4.received.bytes, on_wire.left.0 - wire_since.left.0),
        ("received", 6, now.ipv6.received.bytes - since.ipv6.received.bytes, on_wire.left.1 - wire_since.left.1),
    ];
    for (direction, family, counted, wire) in rows {
        assert!(wire > 100_000, "{direction} IPv{family}: {wire} on the wire");
        assert!(
            (wire..wire + wire / 10).contains(&counted),
            "{direction} IPv{family}: {counted} counted, {wire} on the wire"
        );
    }
}

#[test]
fn counts_are_those_of_the_wire_and_never_go_back() {
    let mut wire = Wire::running(&[("alice", ""), ("bob", "")]);
    let jail = wire.jail("alice");
    let (start, start_wire) = (wire.traffic("alice"), wire.counted());
    let talk = || {
        for to in [outside(80), outside_v6(443)] {
            Talk::open(&jail, to).expect("connects").echo(200_000).expect("goes on");
        }
    };
    talk();
    assert_counted(&wire, &start, start_wire);
    let first = wire.traffic("alice");
    wire.kill_network();
    talk();
    wire.start_network();
    assert!(wire.traffic("alice").bytes() > first.bytes());
    assert_counted(&wire, &start, start_wire);
    assert_eq!(wire.traffic("bob").bytes(), 0, "not a neighbour's");

    // The table is lost. The month keeps what was counted before, up to the last time that it was written down.
    let used = wire.month("alice");
    assert!(used >= first.bytes() || used == 0, "{used}");
    wire.router().ok("nft flush ruleset");
    until("the rules are back", || wire.net_log().matches("the router had no rules").count() == 2);
    talk();
    assert!(wire.traffic("alice").bytes() > 0);
    assert!(wire.month("alice") >= used, "the month never goes back");
}

#[test]
fn what_a_purged_tenant_has_begun_is_not_for_the_next_one_of_its_number() {
    let wire = Wire::running(&[("alice", ""), ("bob", "")]);
    let addresses = ["alice", "bob"].map(|name| wire.addresses(name));
    let connections = || {
        let table = wire.router().ok("cat /proc/self/net/nf_conntrack");
        addresses.map(|(ipv4, ipv6)| {
            let ipv6 = ipv6.segments().map(|part| format!("{part:04x}")).join(":");
            [ipv4.to_string(), ipv6].map(|source| table.matches(&format!("ESTABLISHED src={source} ")).count())
        })
    };
    let both = ["alice", "bob"]
        .map(|name| [outside(80), outside_v6(443)].map(|to| Talk::open(&wire.jail(name), to).expect("connects")));
    assert_eq!(connections(), [[1, 1], [1, 1]]);
    assert_eq!(wire.ask(&NetRequest::Forget { tenant: name("alice") }), NetReply::Done);
    assert_eq!(connections(), [[0, 0], [1, 1]]);
    drop(both);
}
