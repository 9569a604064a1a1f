//! What cannot work is told: once, where it is written, and with what to do.

use crate::{assert_refused, at, outside, outside_v6};
use bailiwick_tests::until;
use bailiwick_tests::wire::{HOST_V4, Talk, Wire};
use serde_json::Value;
use std::net::TcpListener;

/// What `check` says on the host of a wire, without the folder of its files.
fn checked(wire: &Wire) -> Vec<String> {
    let output = wire.space.run(|| wire.host.cli(&["check"]));
    let text = String::from_utf8_lossy(&output.stderr).replace(&wire.host.path("etc/").display().to_string(), "");
    text.lines().map(str::to_owned).collect()
}

fn problems(wire: &Wire) -> String {
    let status: Value = serde_json::from_str(&wire.host.ok(&["status", "--json"])).expect("JSON");
    status["problems"].to_string()
}

#[test]
fn what_the_host_has_for_itself_is_told_by_check_and_apply() {
    let mut wire = Wire::with(", ports = \"40000-40009\"");
    let published = "mode = \"published\"\npublish = [{ host = \"tcp/40001\", to = \"tcp/22\" }]\n";
    wire.start(&[("alice", published), ("bob", "allow = [\"203.0.114.1\", \"203.0.114.2\"]")]);
    let said = |text: &str| checked(&wire).iter().filter(|line| line.contains(text)).count();
    assert_eq!(said("is an address of this host, which no jail reaches"), 1, "{:?}", checked(&wire));
    assert_eq!(said("host_sockets lends a service of the host"), 1);
    assert_eq!(said("listens on"), 0);
    let listener = wire.space.run(|| TcpListener::bind((HOST_V4, 40_001))).expect("binds");
    assert_eq!(said("a program on this host listens on \"tcp/40001\""), 1, "{:?}", checked(&wire));
    assert_eq!(said("tenants.d/alice.toml:4"), 1, "{:?}", checked(&wire));
    let output = wire.space.run(|| wire.host.cli(&["apply"]));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("a program on this host listens on \"tcp/40001\""), "{text}");
    drop(listener);
    assert_eq!(said("listens on"), 0, "{:?}", checked(&wire));
    // Only the host itself reaches this one, so nobody loses it.
    let listener = wire.space.run(|| TcpListener::bind(at("127.0.0.1", 40_001))).expect("binds");
    assert_eq!(said("listens on"), 0, "{:?}", checked(&wire));
    drop(listener);
}

#[test]
fn a_name_without_an_address_is_told_with_its_tenant() {
    let mut wire = Wire::new();
    wire.start(&[("alice", "allow = [\"nowhere.invalid\", \"203.0.114.0/24\"]")]);
    let text =
        "\\\"nowhere.invalid\\\" in \\\"allow\\\" of the tenant \\\"alice\\\" has no address, so it allows nothing";
    until("the status says so", || problems(&wire).contains(text));
    Talk::open(&wire.jail("alice"), outside(80)).expect("the other entry");
}

#[test]
fn a_host_whose_ipv6_is_off_is_told_what_to_write_and_then_serves_ipv4() {
    let mut wire = Wire::new();
    wire.space.ok("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    std::fs::create_dir_all(wire.host.path("run")).expect("mkdir");
    let refused = wire.try_uplink();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{text}");
    for part in ["IPv6 is off on this host", "disable_ipv6", "ipv6 = \"off\" below [network] in bailiwick.toml"] {
        assert!(text.contains(part) && text.lines().count() == 1, "{part}: {text}");
    }
    wire.configure(", ipv6 = \"off\"");
    wire.start(&[("alice", "")]);
    let jail = wire.jail("alice");
    Talk::open(&jail, outside(80)).expect("by IPv4");
    assert_refused(Talk::open(&jail, outside_v6(80)), "nothing leads there");
}
