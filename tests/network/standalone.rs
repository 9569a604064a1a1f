//! Networks without systemd: `bailiwickd --standalone` makes them, keeps them, and leaves nothing.

use bailiwick_tests::network::{GREETING, RESOLVER, SERVER, Wire, in_own_network};
use bailiwick_tests::{Host, until};
use std::process::Command;

/// What a jail hears from the server; empty when it does not reach it.
fn heard(host: &Host, tenant: &str) -> String {
    let line = format!("exec 3<>/dev/tcp/{SERVER}/80 && head -n 1 <&3");
    let output = host.cli(&["exec", tenant, "--", "timeout", "5", "bash", "-c", &line]);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn has_link() -> bool {
    let output = Command::new("ip").args(["link", "show", "dev", "bwk0"]).output().expect("ip runs");
    output.status.success()
}

fn tables() -> String {
    let output = Command::new("nft").args(["list", "tables"]).output().expect("nft runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn standalone_connects_jails_and_leaves_nothing() {
    in_own_network("standalone_connects_jails_and_leaves_nothing", || {
        let _wire = Wire::new();
        let mut host = Host::new();
        let network = format!("network = {{ user = \"64996\", resolvers = [\"{RESOLVER}\"] }}\n");
        host.write("etc/bailiwick.toml", &host.default_config(&network));
        host.declare("alice", "web");
        host.start();
        until("alice runs", || host.inside("alice", "true").0 == 0);
        // The link is looked for in this network; `/sys` shows that of the machine.
        assert!(!has_link() && !host.path("netns").exists(), "nobody has a network");
        assert_eq!(host.find_program("bailiwick-net"), None);

        let plan = "profile = \"web\"\n[limits]\nmemory = \"128M\"\ntasks = 64\n[network]\nmode = \"outbound\"\n";
        host.write("etc/plans.d/connected.toml", plan);
        host.declare("bob", "connected");
        // Nobody looks after a network yet. Whoever gives the first one waits for it, and need not try again.
        host.ok(&["apply"]);
        assert_eq!(heard(&host, "bob"), GREETING);
        assert_eq!(heard(&host, "alice"), "", "alice has no network");

        // Without the program, the network goes on; and the program comes back.
        let program = host.program("bailiwick-net");
        Command::new("kill").args(["-9", &program.to_string()]).status().expect("kill runs");
        assert_eq!(heard(&host, "bob"), GREETING);
        until("it is started again", || host.find_program("bailiwick-net").is_some_and(|again| again != program));

        // As jails outlive the service, so does their network.
        let init = host.init("bob");
        host.end();
        assert!(has_link() && tables().contains("bailiwick_uplink"));
        host.start();
        until("bob is known again", || heard(&host, "bob") == GREETING);
        assert_eq!(host.init("bob"), init);

        host.ok(&["stop", "alice", "bob"]);
        host.end();
        assert!(!has_link(), "the link is left:\n{}", host.log());
        assert_eq!(tables(), "", "the table is left");
        assert!(!host.path("netns/bailiwick").exists(), "the router is left");
        let left: Vec<String> =
            host.leftovers().into_iter().filter(|what| !what.starts_with("control group")).collect();
        assert_eq!(left, [""; 0]);
    });
}

#[test]
fn a_network_that_cannot_be_made_ends_nobody() {
    in_own_network("a_network_that_cannot_be_made_ends_nobody", || {
        // The addresses of jails are those of a link of the host.
        let line = "ip link set lo up && ip addr add 100.64.0.9/10 dev lo";
        assert!(Command::new("sh").args(["-c", line]).status().expect("sh runs").success());
        let mut host = Host::new();
        let network = format!("network = {{ user = \"64996\", resolvers = [\"{RESOLVER}\"] }}\n");
        host.write("etc/bailiwick.toml", &host.default_config(&network));
        host.write("etc/plans.d/connected.toml", "[network]\nmode = \"outbound\"\n");
        host.declare("alice", "web");
        host.declare("bob", "connected");
        host.start();
        until("alice runs", || host.inside("alice", "true").0 == 0);
        // Each try leaves word of what it found.
        let tried = || std::fs::metadata(host.path("run/network/uplink.json")).and_then(|file| file.modified()).ok();
        let first = tried();
        until("it was tried again", || tried() > first);
        let told = |host: &Host| host.log().matches("tenants with a network cannot start").count();
        assert_eq!(told(&host), 1, "{}", host.log());
        assert_ne!(host.inside("bob", "true").0, 0);
        assert_eq!(host.find_program("bailiwick-net"), None, "nothing serves without a router");
        host.ok(&["stop", "alice"]);
        host.end();
        assert!(!has_link() && tables().is_empty());
    });
}
