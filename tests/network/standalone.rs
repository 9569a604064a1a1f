//! Networks without systemd: `bailiwickd --standalone` makes them, keeps them, and leaves nothing.

use bailiwick_tests::network::{GREETING, RESOLVER, SERVER, Wire, in_own_network};
use bailiwick_tests::wire::NameServer;
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
fn standalone_runs_the_cache_of_names_and_ends_it() {
    in_own_network("standalone_runs_the_cache_of_names_and_ends_it", || {
        let wire = Wire::new();
        wire.server().ok(&format!("ip addr add {RESOLVER}/32 dev lo"));
        let upstream = NameServer::start(&wire.server(), RESOLVER.parse().expect("an address"));
        let mut host = Host::new();
        let network = format!(
            "network = {{ user = \"64996\", resolvers = [\"{RESOLVER}\"], cache = true, cache_user = \"64995\" }}\n"
        );
        host.write("etc/bailiwick.toml", &host.default_config(&network));
        host.write("etc/plans.d/connected.toml", "[network]\nmode = \"outbound\"\n");
        host.declare("bob", "connected");
        host.start();
        let resolves = |host: &Host, name: &str| {
            host.inside("bob", &format!("getent ahostsv4 {name}")).1.contains(&NameServer::ANSWER.to_string())
        };
        until("a name resolves", || resolves(&host, "one.example.org"));
        assert!(resolves(&host, "one.example.org") && upstream.asked("one.example.org") == 1);
        assert!(!host.ok(&["status"]).contains("cache"), "nothing is wrong with it");

        let cache = find_cache(&host).expect("it runs");
        Command::new("kill").args(["-9", &cache.to_string()]).status().expect("kill runs");
        until("another one runs", || find_cache(&host).is_some_and(|again| again != cache));
        until("a name resolves again", || resolves(&host, "two.example.org"));

        host.ok(&["stop", "bob"]);
        host.end();
        assert!(!has_link() && !host.path("run/network/unbound.conf").exists(), "{}", host.log());
        let left: Vec<String> =
            host.leftovers().into_iter().filter(|what| !what.starts_with("control group")).collect();
        assert_eq!(left, [""; 0]);
    });
}

/// The process that runs the cache, below the supervisor.
fn find_cache(host: &Host) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", host.pid())).ok()?;
    let is_cache = |pid: &&str| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.split('\0').any(|word| word == "--cache"))
    };
    children.split_whitespace().find(is_cache)?.parse().ok()
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
