//! The kernel's state outlives the program that made it.

use crate::{assert_refused, outside, outside_v6};
use bailiwick_proto::{Hold, WardenRequest};
use bailiwick_tests::name;
use bailiwick_tests::wire::{Talk, Wire};

#[test]
fn traffic_goes_on_without_bailiwick_net_and_nothing_is_repaired_later() {
    let mut wire = Wire::running(&[("alice", ""), ("bob", "down = \"10M\"\nup = \"10M\"")]);
    wire.host.declare("carol", "web");
    let (alice, bob) = (wire.jail("alice"), wire.jail("bob"));
    let mut open = [outside(80), outside_v6(80)].map(|to| Talk::open(&alice, to).expect("connects"));
    open.iter_mut().for_each(|talk| talk.echo(50_000).expect("goes on"));
    let before = wire.traffic("alice");
    assert!(before.ipv4.sent.bytes > 50_000 && before.ipv6.received.bytes > 50_000, "{before:?}");
    let log = wire.net_log();
    wire.kill_network();

    open.iter_mut().for_each(|talk| talk.echo(50_000).expect("open connections go on"));
    for jail in [&alice, &bob] {
        Talk::open(jail, outside(443)).expect("new ones too");
        assert_refused(Talk::open(jail, outside(22)), "the rules");
    }
    wire.declare("dave", "");
    let output = wire.host.cli(&["apply"]);
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success() && text.contains("systemctl status bailiwick-uplink bailiwick-net"), "{text}");
    let list = wire.host.ok(&["list"]);
    let is_running = |tenant: &str| list.lines().any(|line| line.contains(tenant) && line.contains("running"));
    assert!(is_running("alice") && is_running("carol") && !is_running("dave"), "{list}");

    wire.start_network();
    assert_eq!(wire.net_log(), log, "nothing was repaired");
    let after = wire.traffic("alice");
    for (before, after) in [(before.ipv4, after.ipv4), (before.ipv6, after.ipv6)] {
        assert!(after.sent.bytes > before.sent.bytes + 50_000, "{before:?} {after:?}");
        assert!(after.received.bytes > before.received.bytes + 50_000, "{before:?} {after:?}");
    }
    open.iter_mut().for_each(|talk| talk.echo(1000).expect("and on"));
    wire.host.ok(&["apply"]);
    Talk::open(&wire.jail("dave"), outside(80)).expect("has a network");
    // A jail that is restarted has a new link with the same address, and its counts go on.
    let (address, used) = (wire.addresses("alice"), wire.traffic("alice").bytes());
    wire.host.ok(&["restart", "alice"]);
    assert_eq!(wire.addresses("alice"), address);
    Talk::open(&wire.jail("alice"), outside(80)).expect("has a network");
    assert!(wire.traffic("alice").bytes() > used);
}

/// The kernel removes the links of a network namespace some time after its last process has ended.
#[test]
fn a_jail_is_connected_while_the_link_of_its_last_one_goes() {
    let wire = Wire::running(&[("alice", "")]);
    for _ in 0..30 {
        wire.host.warden(&WardenRequest::Stop { tenant: name("alice"), hold: Hold::Keep });
        wire.host.warden(&WardenRequest::Start { tenant: name("alice") });
    }
    Talk::open(&wire.jail("alice"), outside(80)).expect("connects");
}
