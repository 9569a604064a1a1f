//! Jails with a network beside what else changes a host's network: nftables.service, firewalld, systemd-networkd and NetworkManager.
//! Each test runs alone.
//!
//! Whatever these do, a jail is connected again within a minute, or was cut off meanwhile: it never reaches more than its policy
//! allows.
//!
//! Danger: as in `installed.rs`, these tests change the machine they run on, and its network.

use bailiwick_tests::connected::{connected_host, heard, network_of_host, take_away};
use bailiwick_tests::machine::{journal, ok, print_measurement, sh, until};
use bailiwick_tests::network::{GREETING, SERVER};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// The time in which everything is put back: that of the timer, its accuracy, and some for a slow machine.
const REPAIRED: Duration = Duration::from_secs(90);
/// The addresses and the routes of the host's side, and whether it is up.
const SIDE: &str = "ip -o addr show dev bwk0 | awk '{ print $4 }'; ip route show dev bwk0; ip -6 route show dev bwk0 table main; \
                    ip -o link show dev bwk0 | grep -o 'state UP'; ip neigh show dev bwk0 nud permanent";

/// Whether a jail reaches the host itself, at any of its addresses. The server of ssh listens on all.
fn reaches_host() -> bool {
    ["203.0.114.1", "10.0.2.15", "100.64.0.2", "127.0.0.1"].iter().any(|address| {
        let line = format!("exec 3<>/dev/tcp/{address}/922 && head -n 1 <&3");
        sh(&format!("bailiwick exec alice -- timeout 20 bash -c '{line}' 2> /dev/null")).1.contains("SSH")
    })
}

/// Does something to the host's network. A jail reaches nothing that it may not reach, and is connected again in time.
fn disturb(what: &str) {
    let side = ok(SIDE);
    ok(what);
    let since = Instant::now();
    assert!(!reaches_host(), "after {what}");
    while network_of_host() != (true, true, true) || heard("alice") != GREETING {
        assert!(
            since.elapsed() < REPAIRED,
            "after {what}\n{}\n{}",
            ok("nft list ruleset; ip addr; ip route"),
            journal()
        );
        assert!(!reaches_host(), "after {what}");
    }
    print_measurement(&format!("{what}: connected after {:?}", since.elapsed()));
    assert!(!reaches_host(), "after {what}");
    assert_eq!(ok(SIDE), side, "after {what}");
    // A port that its policy does not allow.
    let line = format!("exec 3<>/dev/tcp/{SERVER}/8080");
    let said = sh(&format!("bailiwick exec alice -- timeout 20 bash -c '{line}'")).1;
    assert!(said.contains("refused"), "after {what}: {said}");
}

/// Writes a file of the machine, until dropped.
struct Written(&'static str);

impl Written {
    fn new(path: &'static str, text: &str) -> Self {
        fs::create_dir_all(Path::new(path).parent().expect("has one")).expect("mkdir");
        fs::write(path, text).expect("writes");
        Self(path)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        fs::remove_file(self.0).ok();
    }
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn nftables_replaces_the_rules_of_the_host() {
    let wire = connected_host();
    ok("systemctl start nftables.service");
    disturb("systemctl reload nftables.service");
    disturb("systemctl restart nftables.service");
    disturb("nft flush ruleset");
    ok("systemctl stop nftables.service");
    disturb("systemctl start bailiwick-uplink.service");
    // A restart of both, and of the link's service itself.
    disturb("systemctl restart bailiwick-uplink.service");
    disturb("ip link set bwk0 down");
    take_away(wire);
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn firewalld_lets_jails_pass_and_nothing_in() {
    let wire = connected_host();
    // The way into this machine.
    ok("firewall-offline-cmd --add-port=922/tcp");
    disturb("systemctl start firewalld.service");
    assert_eq!(ok("firewall-cmd --get-zone-of-interface=bwk0").trim(), "bailiwick");
    disturb("firewall-cmd --reload");
    disturb("firewall-cmd --complete-reload");
    disturb("systemctl reload firewalld.service");
    disturb("systemctl restart firewalld.service");
    disturb("nft flush ruleset; firewall-cmd --reload");
    // Without what the package says to firewalld, nothing passes: so it is that which lets jails pass.
    let policy = "/usr/lib/firewalld/policies/bailiwick-to-all.xml";
    ok(&format!("mv {policy} /root/policy.xml; firewall-cmd --reload"));
    assert_eq!(heard("alice"), "", "firewalld lets everything pass, so the test above proves nothing");
    disturb(&format!("mv /root/policy.xml {policy}; firewall-cmd --reload"));
    disturb("systemctl stop firewalld.service");
    take_away(wire);
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn networkd_leaves_the_link_alone() {
    let wire = connected_host();
    // An operator whose network is for whatever there is.
    let network = "[Match]\nName=bw*\n\n[Network]\nDHCP=yes\nLinkLocalAddressing=ipv6\nAddress=192.0.2.1/24\n";
    let all = Written::new("/etc/systemd/network/99-all.network", network);
    let state =
        || ok("networkctl --no-legend --no-pager list bwk0").split_whitespace().last().unwrap_or_default().to_owned();
    disturb("systemctl start systemd-networkd.service");
    until("it knows the link", || state() == "unmanaged");
    disturb("systemctl restart systemd-networkd.service");
    disturb("networkctl reload");
    // Without the file of the package it would look after the link.
    let (_, own) = sh("ls /lib/systemd/network/10-bailiwick.network");
    let own = own.trim();
    ok(&format!("mv {own} /root/; networkctl reload"));
    until("it takes the link", || ok("ip addr show dev bwk0").contains("192.0.2.1"));
    ok(&format!("mv /root/10-bailiwick.network {own}; networkctl reload; systemctl restart systemd-networkd.service"));
    ok("ip addr del 192.0.2.1/24 dev bwk0 || true; systemctl start bailiwick-uplink-check.service");
    until("it leaves the link", || state() == "unmanaged");
    until("alice is connected", || heard("alice") == GREETING);
    drop(all);
    ok("systemctl stop systemd-networkd.socket systemd-networkd.service");
    disturb("systemctl restart bailiwick-uplink.service");
    take_away(wire);
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn network_manager_leaves_the_link_alone() {
    let wire = connected_host();
    // A host whose operator names what is not managed, and which manages pairs like the link: by default udev keeps them out.
    let own =
        "[main]\nplugins=keyfile\ndns=none\n[keyfile]\nunmanaged-devices=interface-name:eth0;interface-name:wan\n";
    let own = Written::new("/etc/NetworkManager/conf.d/50-own.conf", own);
    let rule = Written::new("/etc/udev/rules.d/85-nm-unmanaged.rules", "");
    ok("udevadm control --reload; udevadm trigger --settle --subsystem-match=net --action=add");
    let state = || {
        let (_, all) = sh("nmcli --terse --fields DEVICE,STATE device");
        all.lines().find_map(|line| line.strip_prefix("bwk0:")).unwrap_or_default().to_owned()
    };
    disturb("systemctl start NetworkManager.service");
    until("it knows the link", || state() == "unmanaged");
    disturb("systemctl restart NetworkManager.service");
    assert_eq!(state(), "unmanaged");
    disturb("nmcli general reload");
    assert_eq!(state(), "unmanaged");
    // Without the file of the package it would look after the link.
    let file = "/usr/lib/NetworkManager/conf.d/bailiwick.conf";
    ok(&format!("mv {file} /root/; systemctl restart NetworkManager.service"));
    until("it takes the link", || !["", "unmanaged"].contains(&state().as_str()));
    // It remembers what it has managed.
    ok(&format!(
        "mv /root/bailiwick.conf {file}; systemctl stop NetworkManager.service; rm -r /run/NetworkManager/devices; \
         systemctl start NetworkManager.service"
    ));
    until("it leaves the link", || state() == "unmanaged");
    disturb("systemctl start bailiwick-uplink-check.service");
    drop((own, rule));
    ok("systemctl stop NetworkManager.service; udevadm control --reload");
    take_away(wire);
}
