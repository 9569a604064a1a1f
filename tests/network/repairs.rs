//! What root takes away is noticed, and what the message names puts it right.

use crate::outside;
use bailiwick_tests::until;
use bailiwick_tests::wire::{Talk, Wire};

/// What a command says, whether it succeeds or not.
fn said(wire: &Wire, arguments: &[&str]) -> String {
    let output = wire.host.cli(arguments);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn a_router_that_is_served_gets_its_file_again_and_jails_notice_nothing() {
    let wire = Wire::running(&[("alice", "up = \"5M\""), ("bob", "")]);
    let mut open = Talk::open(&wire.jail("alice"), outside(80)).expect("connects");
    let before = wire.state();
    wire.remove_router_file();
    assert!(!wire.router_path().exists());
    let said = wire.uplink();
    assert!(said.contains("of the router was missing; jails stay connected"), "{said}");
    wire.assert_state(&before, "with its file again");
    open.echo(10_000).expect("goes on");
    assert_eq!(wire.uplink(), "", "nothing is missing");
    wire.declare("carol", "");
    wire.host.ok(&["apply"]);
    Talk::open(&wire.jail("carol"), outside(80)).expect("connects");
}

#[test]
fn without_a_router_no_jail_with_a_network_starts_and_the_remedies_help() {
    let mut wire = Wire::running(&[("alice", "")]);
    wire.host.declare("bob", "web");
    wire.kill_network();
    wire.remove_router_file();
    wire.spawn_network();
    assert_eq!(wire.wait_for_end(), Some(8), "the host cannot");
    let log = wire.net_log();
    assert!(log.contains("there is no router at") && log.contains("`bailiwick-net --uplink` makes it"), "{log}");
    wire.declare("carol", "");
    let text = said(&wire, &["apply"]);
    assert!(text.contains("systemctl status bailiwick-uplink bailiwick-net"), "{text}");
    let list = wire.host.ok(&["list"]);
    let is_running = |tenant: &str| list.lines().any(|line| line.contains(tenant) && line.contains("running"));
    assert!(is_running("alice") && is_running("bob") && !is_running("carol"), "{list}");

    let told = wire.uplink();
    assert!(told.contains("need `bailiwick restart`"), "{told}");
    wire.start_network();
    // The jail that runs has lost its link for good: no one can make another for it.
    let audit = said(&wire, &["audit", "alice"]);
    assert!(audit.contains("BW120") || audit.contains("BW121"), "{audit}");
    assert!(audit.contains("restart the tenant"), "{audit}");
    wire.host.ok(&["restart", "alice"]);
    wire.host.ok(&["apply"]);
    for tenant in ["alice", "carol"] {
        Talk::open(&wire.jail(tenant), outside(80)).expect("connects");
    }
    let audit = said(&wire, &["audit", "alice"]);
    assert!(!audit.contains("BW120") && !audit.contains("BW121"), "{audit}");
}

#[test]
fn a_link_that_somebody_deleted_is_a_finding_and_a_restart_makes_it_anew() {
    let wire = Wire::running(&[("alice", "up = \"5M\"\ndown = \"5M\""), ("bob", "")]);
    let before = wire.state();
    let link = wire.router_link("alice");
    wire.router().ok(&format!("ip link del {link}"));
    let audit = said(&wire, &["audit", "alice"]);
    assert!(audit.contains("BW121") && audit.contains("restart the tenant"), "{audit}");
    assert!(!said(&wire, &["audit", "bob"]).contains("BW121"));
    wire.host.ok(&["restart", "alice"]);
    wire.assert_state(&before, "restarted");
    Talk::open(&wire.jail("alice"), outside(80)).expect("connects");
    assert!(!said(&wire, &["audit", "alice"]).contains("the router has no link to it"));
}

#[test]
fn a_link_to_the_host_that_is_made_anew_bounds_what_jails_send() {
    let wire = Wire::running(&[("alice", "up = \"5M\""), ("bob", "up = \"7M\"")]);
    let mut open = Talk::open(&wire.jail("alice"), outside(80)).expect("connects");
    let before = wire.state();
    wire.space.ok("ip link del bwk0");
    let told = wire.uplink();
    assert!(!told.is_empty());
    until("everything is as before", || wire.state() == before);
    open.echo(10_000).expect("goes on");
    assert_eq!(wire.uplink(), "", "nothing is missing");
}
