//! Other addresses of jails in `bailiwick.toml` while jails run.

use crate::outside;
use bailiwick_proto::{NetReply, NetRequest};
use bailiwick_tests::until;
use bailiwick_tests::wire::{Talk, Wire};
use std::net::Ipv4Addr;

/// What a command says, whether it succeeds or not.
fn said(wire: &Wire, arguments: &[&str]) -> String {
    let output = wire.host.cli(arguments);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn another_prefix_waits_until_no_jail_has_an_address_of_the_last_one() {
    const KEY: &str = "ipv4 = \"100.96.0.0/11\"";
    let mut wire = Wire::running(&[("alice", ""), ("bob", "")]);
    let mut open = Talk::open(&wire.jail("alice"), outside(80)).expect("connects");
    let before = wire.state();
    let names_all = |text: &str| {
        text.contains("bailiwick.toml has")
            && text.contains(KEY.trim())
            && text.contains("100.64.0.1")
            && text.contains("bailiwick stop")
    };
    wire.configure(&format!(", {KEY}"));
    let output = wire.try_uplink();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(4) && names_all(&text), "{output:?}");
    wire.declare("carol", "");
    let text = said(&wire, &["apply"]);
    assert!(names_all(&text), "{text}");
    until("status tells", || names_all(&said(&wire, &["status"])));
    wire.assert_state(&before, "nothing half done");
    open.echo(10_000).expect("goes on");
    // A new start changes nothing either.
    wire.kill_network();
    wire.spawn_network();
    assert_eq!(wire.wait_for_end(), Some(1));
    assert!(names_all(&wire.net_log()), "{}", wire.net_log());
    wire.assert_state(&before, "nothing half done by a start");
    open.echo(10_000).expect("goes on");

    // The first remedy.
    wire.configure("");
    assert_eq!(wire.uplink(), "", "nothing has changed");
    wire.start_network();
    wire.host.ok(&["apply"]);
    Talk::open(&wire.jail("carol"), outside(80)).expect("connects");

    // The second one. A socket keeps the network of its jail.
    drop(open);
    wire.configure(&format!(", {KEY}"));
    wire.host.ok(&["stop", "alice", "bob", "carol"]);
    let told = wire.uplink();
    assert!(told.contains(KEY), "{told}");
    assert_ne!(wire.wait_for_end(), Some(0), "it starts anew");
    wire.start_network();
    wire.host.ok(&["start", "alice", "bob", "carol"]);
    for tenant in ["alice", "bob", "carol"] {
        let (own, _) = wire.addresses(tenant);
        assert!(own >= Ipv4Addr::new(100, 96, 0, 0), "{own}");
        Talk::open(&wire.jail(tenant), outside(80)).expect("connects");
    }
    for space in [&wire.space, &wire.router()] {
        let left = space.ok("ip -o addr; ip route show table all; ip neigh show nud permanent");
        assert!(!left.contains("100.64.0."), "{left}");
    }
}

#[test]
fn other_ports_of_the_host_are_no_damage() {
    let mut wire = Wire::with(", ports = \"40000-40009\"");
    wire.start(&[("alice", "")]);
    let repaired = || match wire.ask(&NetRequest::Problems) {
        NetReply::Problems(problems) => problems.iter().any(|problem| problem.text.contains("was put back")),
        other => panic!("{other:?}"),
    };
    wire.configure(", ports = \"41000-41009\"");
    assert!(wire.uplink().contains("bailiwick_uplink"), "it has other rules");
    assert!(!repaired());
    wire.space.ok("nft delete table inet bailiwick_uplink");
    wire.uplink();
    assert!(repaired(), "what somebody has removed is");
}
