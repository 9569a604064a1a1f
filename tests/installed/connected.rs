//! Tenants with a network on a complete host: the package, systemd's units, what an operator meets first. Each test runs alone.
//!
//! Danger: as in `installed.rs`, these tests change the machine they run on, and its network.

use bailiwick_tests::connected::{connected_host, declare_network, heard, host, is_active, network_of_host, take_away};
use bailiwick_tests::machine::{init, journal, main_pid, ok, package, print_measurement, running, sh, until, version};
use bailiwick_tests::network::{GREETING, SERVER, Wire};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const UNITS: [&str; 4] =
    ["bailiwick-net.service", "bailiwick-uplink.service", "bailiwick-warden.service", "bailiwickd.service"];

/// What is known of a tenant's network.
fn network(tenant: &str) -> serde_json::Value {
    serde_json::from_str(&ok(&format!("bailiwick network {tenant} --json"))).expect("JSON")
}

/// What a tenant has sent since the router was made, in bytes.
fn sent(tenant: &str) -> u64 {
    network(tenant)["traffic"]["ipv4"]["sent"]["bytes"].as_u64().expect("a number")
}

/// What counts against the volume of a tenant's month, in bytes.
fn month(tenant: &str) -> u64 {
    network(tenant)["month"].as_u64().expect("a number")
}

/// A session in `alice` that asks the server again and again, and notes what it hears.
struct Visitor(Child);

impl Visitor {
    fn new() -> Self {
        ok("bailiwick exec alice -- rm -f /tmp/heard");
        let ask = format!("exec 3<>/dev/tcp/{SERVER}/80 && head -n 1 <&3");
        let line = format!(
            "while test ! -e /tmp/enough; do timeout 20 bash -c '{ask}' >> /tmp/heard 2>&1 || echo failed >> /tmp/heard; done; exit 7"
        );
        let mut command = Command::new("bailiwick");
        command.args(["exec", "alice", "--", "bash", "-c", &line]).stdin(Stdio::null());
        let visitor = Self(command.spawn().expect("bailiwick runs"));
        visitor.goes_on();
        visitor
    }

    fn heard() -> Vec<String> {
        let text = sh("bailiwick exec alice -- cat /tmp/heard 2> /dev/null").1;
        text.lines().map(str::to_owned).collect()
    }

    /// Waits for two more answers, and checks all.
    fn goes_on(&self) {
        let before = Self::heard().len();
        until("it hears more", || Self::heard().len() > before + 2);
        let wrong: Vec<String> = Self::heard().into_iter().filter(|line| line != GREETING).collect();
        assert!(wrong.is_empty(), "{wrong:?}\n{}", journal());
    }

    fn end(mut self) {
        self.goes_on();
        print_measurement(&format!("the server was reached {} times and failed never", Self::heard().len()));
        ok("bailiwick exec alice -- touch /tmp/enough");
        assert_eq!(self.0.wait().expect("ends").code(), Some(7));
    }
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn the_first_tenant_with_a_network_has_it_at_once() {
    let wire = host();
    assert_eq!(network_of_host(), (false, false, false), "nobody has one");
    assert!(!is_active("bailiwick-net") && !is_active("bailiwick-uplink"));
    let forwards = || ok("cat /proc/sys/net/ipv4/ip_forward").trim() == "1";
    let forwarded = forwards();
    // One command, although no unit of the network runs yet.
    declare_network("alice");
    let since = Instant::now();
    let said = ok("bailiwick apply");
    print_measurement(&format!("the first network: {said:?} after {:?}", since.elapsed()));
    assert!(said.contains("alice: restarted"), "{said}");
    assert_eq!(heard("alice"), GREETING);
    assert_eq!(heard("bob"), "", "bob has no network");
    assert_eq!(network_of_host(), (true, true, true));
    assert!(forwards());
    print_measurement(&format!("the host forwarded before: {forwarded}"));
    // It is counted, and what is refused is shown.
    assert!(sent("alice") > 0);
    let refused = format!("exec 3<>/dev/tcp/{SERVER}/8080");
    assert_ne!(sh(&format!("bailiwick exec alice -- timeout 20 bash -c '{refused}'")).0, 0);
    let shown = ok("bailiwick network alice");
    assert!(shown.contains("not-allowed") && shown.contains(&format!("{SERVER}:8080")), "{shown}");
    ok("bailiwick audit alice");
    let doctor = sh("bailiwick doctor").1;
    assert!(doctor.lines().any(|line| line.starts_with("network ") && line.contains("works")), "{doctor}");
    assert_eq!(sh("systemctl --failed --no-legend --plain | grep bailiwick").1, "");
    // The second one, by `create`.
    ok(
        "bailiwick create carol --plan small; printf '[network]\\nmode = \"outbound\"\\n' >> /etc/bailiwick/tenants.d/carol.toml",
    );
    ok("bailiwick apply carol");
    assert_eq!(heard("carol"), GREETING);
    ok("bailiwick delete carol --purge");
    take_away(wire);
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn traffic_goes_on_while_each_daemon_is_killed_and_restarted() {
    let wire = connected_host();
    let (before, used) = (init("alice"), month("alice"));
    let visitor = Visitor::new();
    for unit in UNITS {
        let pid = main_pid(unit);
        ok(&format!("systemctl restart {unit}"));
        visitor.goes_on();
        if unit != "bailiwick-uplink.service" {
            until("it has restarted", || main_pid(unit) != pid && is_active(unit));
            let pid = main_pid(unit);
            ok(&format!("kill -9 {pid}"));
            until("it runs again", || main_pid(unit) != "0" && main_pid(unit) != pid && is_active(unit));
            visitor.goes_on();
        }
    }
    // Somebody stops bailiwick-net alone. The timer would start it again within a minute.
    ok("systemctl stop bailiwick-net");
    visitor.goes_on();
    ok("systemctl start bailiwick-uplink-check");
    until("it serves again", || is_active("bailiwick-net"));
    // The target, too, is no part of the traffic.
    ok("systemctl stop bailiwick.target");
    assert_eq!(network_of_host(), (true, true, true), "the jail goes on");
    ok("systemctl start bailiwick.target bailiwickd bailiwick-warden");
    until("the jails are known", || sh("bailiwick list").0 == 0 && running().len() == 2);
    visitor.end();
    assert_eq!(init("alice"), before);
    until("what was used is counted", || month("alice") > used);
    take_away(wire);
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn a_program_that_found_no_router_is_started_again() {
    let wire = connected_host();
    // What refuses a removal says what to do.
    let remove = || sh("/usr/libexec/bailiwick/bailiwick-net --remove 2>&1");
    let stop = "systemctl stop bailiwick-uplink.timer bailiwick-net";
    let (status, said) = remove();
    assert!(status == 4 && said.contains(stop), "{status} {said}");
    ok(stop);
    let (status, said) = remove();
    assert!(
        status == 4 && said.contains("links of 1 jail") && said.contains("`bailiwick stop NAME`"),
        "{status} {said}"
    );
    ok("bailiwick stop alice");
    assert_eq!(remove().0, 0);
    assert_eq!(network_of_host(), (false, false, false));
    // The service of the link is still active, so this finds no router and ends with 8.
    sh("systemctl start bailiwick-net");
    until("it has failed", || sh("systemctl is-failed bailiwick-net").0 == 0);
    ok("systemctl start bailiwick-uplink-check");
    until("it serves", || is_active("bailiwick-net"));
    ok("bailiwick start alice");
    assert_eq!(heard("alice"), GREETING);
    take_away(wire);
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn an_upgrade_does_not_interrupt_traffic() {
    let wire = connected_host();
    let (before, pid, counted) = (init("alice"), main_pid("bailiwick-net"), sent("alice"));
    let visitor = Visitor::new();
    let next = package("BAILIWICK_DEB_NEXT");
    assert_ne!(version(&next), version(&package("BAILIWICK_DEB")));
    ok(&format!("apt-get install -y {}", next.display()));
    visitor.goes_on();
    until("the new program serves", || is_active("bailiwick-net") && main_pid("bailiwick-net") != pid);
    visitor.end();
    assert_eq!(init("alice"), before);
    assert!(sent("alice") > counted);
    ok("bailiwick audit alice");
    take_away(wire);
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn a_purge_leaves_nothing_of_the_network() {
    let wire = connected_host();
    drop(wire);
    let files = ok("dpkg -L bailiwick");
    assert!(!files.contains("sysctl.d"), "{files}");
    ok("echo 'bailiwick bailiwick/purge-data boolean true' | debconf-set-selections");
    ok("DEBIAN_FRONTEND=noninteractive apt-get purge -y bailiwick");
    assert_eq!(network_of_host(), (false, false, false));
    assert_eq!(sh("ip netns list").1, "");
    assert_eq!(sh("ip route; ip -6 route; ip rule").1.matches("bwk0").count(), 0);
    assert!(!ok("ip route").contains("100.64"), "{}", ok("ip route"));
    let left =
        sh("find /etc /run /var/lib /usr/lib /usr/share -xdev -iname '*bailiwick*' -not -path '/var/lib/dpkg/*'").1;
    let left: Vec<&str> = left.lines().filter(|path| Path::new(path) != Path::new("/run/netns/bailiwick")).collect();
    assert!(left.is_empty(), "{left:#?}");
    assert!(!Path::new("/run/netns/bailiwick").exists());
    assert_eq!(sh("systemctl list-units --all --no-legend --plain 'bailiwick*' | grep -v ' not-found '").1, "");
}

/// The first half of a reboot, which `tests/vm/suite` does in between.
#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn before_a_reboot_a_tenant_uses_its_volume() {
    let wire = connected_host();
    ok("sync");
    let used = month("alice").max(sent("alice"));
    assert!(used > 0);
    fs::write("/root/used", used.to_string()).expect("writes");
    ok("sync /root/used");
    drop(wire);
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn after_a_reboot_everything_is_there_again() {
    let used: u64 = fs::read_to_string("/root/used").expect("was written before").parse().expect("a number");
    let wire = Wire::new();
    until("the jails run", || sh("bailiwick list").0 == 0 && running().len() == 2);
    assert_eq!(network_of_host(), (true, true, true), "{}", journal());
    assert_eq!(heard("alice"), GREETING, "{}", journal());
    assert_eq!(heard("bob"), "");
    let now = month("alice");
    assert!(now >= used, "{now} after the reboot, {used} before");
    print_measurement(&format!("the volume of the month: {used} before, {now} after"));
    ok("bailiwick audit alice");
    assert_eq!(sh("systemctl --failed --no-legend --plain | grep bailiwick").1, "");
    ok("rm /root/used");
    take_away(wire);
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn a_host_that_cannot_make_networks_boots_everything_else() {
    let wire = host();
    declare_network("alice");
    // The addresses of jails are in use.
    ok("ip link add taken type dummy; ip addr add 100.64.0.1/10 dev taken; ip link set taken up");
    ok("systemctl stop bailiwick.target bailiwickd.service bailiwick-warden.service; bailiwick list || true");
    let since = Instant::now();
    ok("systemctl start bailiwick.target");
    until("bob is served", || sh("bailiwick list").0 == 0 && running().contains("bob"));
    assert!(since.elapsed() < Duration::from_secs(60), "{:?}", since.elapsed());
    assert_eq!(sh("systemctl is-active bailiwick-warden bailiwickd").1.trim(), "active\nactive");
    assert!(sh("systemctl is-failed bailiwick-uplink").1.contains("failed"), "{}", journal());
    ok("ip link delete taken; bailiwick apply --restart");
    assert_eq!(heard("alice"), GREETING);
    take_away(wire);
}

/// Keeps a module of the kernel out, and what needs it, until dropped.
struct Without(&'static str);

impl Without {
    fn new(rule: &'static str, module: &str) -> Self {
        fs::write(rule, format!("install {module} /bin/false\n")).expect("writes");
        sh("nft flush ruleset");
        let others = "for module in $(awk '/^(nft?_|nfnetlink|xt_|ip_?tables|ip6_?tables)/ { print $1 }' /proc/modules); do rmmod $module; done";
        until("it is unloaded", || {
            sh(others);
            sh(&format!("grep -q '^{module} ' /proc/modules")).0 != 0
        });
        Self(rule)
    }
}

impl Drop for Without {
    fn drop(&mut self) {
        fs::remove_file(self.0).ok();
    }
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn a_kernel_without_the_modules_runs_everybody_else() {
    let wire = host();
    let without = Without::new("/etc/modprobe.d/out.conf", "nf_tables");
    let row = || {
        let doctor = sh("bailiwick doctor").1;
        let lines: Vec<&str> = doctor.lines().filter(|line| line.starts_with("network ")).collect();
        lines.join("\n")
    };
    let doctor = row();
    assert!(doctor.contains("limited") && doctor.contains("nf_tables"), "{doctor}");
    declare_network("alice");
    declare_network("dave");
    fs::write("/etc/bailiwick/tenants.d/carol.toml", "plan = \"small\"\n").expect("writes");
    let (status, said) = sh("bailiwick apply --restart 2>&1");
    print_measurement(&format!("{status} {}", said.trim()));
    assert!(status != 0 && said.contains("nf_tables"), "{status} {said}");
    assert!(said.contains("bailiwick doctor"), "it names what tells more: {said}");
    // Whoever runs goes on as before.
    assert_eq!(running().into_iter().collect::<Vec<_>>(), ["alice", "bob", "carol"]);
    assert_eq!(heard("alice"), "");
    let doctor = row();
    assert!(doctor.contains("missing") && doctor.contains("nf_tables"), "{doctor}");
    // For a moment the remains of dave's jail are still being cleared.
    until("the status tells of dave", || {
        let status = ok("bailiwick status");
        status.contains("dave") && status.contains("nf_tables")
    });
    drop(without);
    ok("bailiwick apply");
    assert_eq!([heard("alice"), heard("dave")], [GREETING; 2]);
    ok("bailiwick delete carol --purge; bailiwick delete dave --purge");
    take_away(wire);
}
