//! A complete machine whose tenants have a network: the package under systemd, and a server beyond a wire. Only for suites that run
//! in a virtual machine.

use crate::machine::{install, journal, ok, sh};
use crate::network::{GREETING, SERVER, Wire};
use std::fs;

/// A host with two tenants whose jails run, and which has never had a network. Beyond it is a server.
///
/// # Panics
/// When a command of the machine fails.
#[must_use]
pub fn host() -> Wire {
    install();
    let config = "require = [\"cpu\", \"memory\", \"tasks\"]\n";
    fs::write("/etc/bailiwick/bailiwick.toml", config).expect("writes");
    ok("rm -f /etc/bailiwick/tenants.d/*.toml");
    for tenant in ["alice", "bob"] {
        fs::write(format!("/etc/bailiwick/tenants.d/{tenant}.toml"), "plan = \"small\"\n").expect("writes");
    }
    ok("systemctl reset-failed; systemctl enable --now bailiwick.target; systemctl start bailiwickd bailiwick-warden");
    ok("bailiwick apply --restart; bailiwick start alice bob");
    if network_of_host() != (false, false, false) {
        ok(
            "systemctl stop bailiwick-uplink.timer bailiwick-net; bailiwick stop alice bob; /usr/libexec/bailiwick/bailiwick-net --remove",
        );
        ok("systemctl stop bailiwick-uplink; systemctl restart bailiwick.target; bailiwick start alice bob");
    }
    Wire::new()
}

/// A host whose tenant `alice` has a network.
///
/// # Panics
/// When a command of the machine fails.
#[must_use]
pub fn connected_host() -> Wire {
    let wire = host();
    declare_network("alice");
    ok("bailiwick apply");
    assert_eq!(heard("alice"), GREETING, "{}", journal());
    wire
}

/// Writes a network into a tenant's file.
///
/// # Panics
/// When a command of the machine fails.
pub fn declare_network(tenant: &str) {
    let text = "plan = \"small\"\n[network]\nmode = \"outbound\"\nmonth = { bytes = \"1G\", then = \"notify\" }\n";
    fs::write(format!("/etc/bailiwick/tenants.d/{tenant}.toml"), text).expect("writes");
}

/// What a jail hears from the server; empty when it does not reach it.
///
/// # Panics
/// When a command of the machine fails.
#[must_use]
pub fn heard(tenant: &str) -> String {
    let line = format!("exec 3<>/dev/tcp/{SERVER}/80 && head -n 1 <&3");
    sh(&format!("bailiwick exec {tenant} -- timeout 20 bash -c '{line}' 2> /dev/null")).1.trim().to_owned()
}

/// What of the network is on the host: the router, the link and the table.
///
/// # Panics
/// When a command of the machine fails.
#[must_use]
pub fn network_of_host() -> (bool, bool, bool) {
    let is_there = |line: &str| sh(line).0 == 0;
    (
        is_there("findmnt /run/netns/bailiwick"),
        is_there("test -e /sys/class/net/bwk0"),
        is_there("nft list table inet bailiwick_uplink"),
    )
}

/// Whether a unit is active.
#[must_use]
pub fn is_active(unit: &str) -> bool {
    sh(&format!("systemctl is-active {unit}")).0 == 0
}

/// Removes the package, which leaves nothing of the network, so that the next test has none.
///
/// # Panics
/// When a command of the machine fails.
pub fn take_away(wire: Wire) {
    drop(wire);
    ok("DEBIAN_FRONTEND=noninteractive apt-get remove -y bailiwick");
    assert_eq!(network_of_host(), (false, false, false));
}
