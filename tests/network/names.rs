//! Names in `allow`, asked through the host's resolver.

use crate::assert_refused;
use bailiwick_tests::until;
use bailiwick_tests::wire::{NameServer, Talk, Wire};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The resolver of the host.
const OF_HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 54);
/// How long a run of `--uplink` may take: `bailiwickd` and the service manager end one after twenty seconds.
const MOST: Duration = Duration::from_secs(15);

/// Has the host ask a resolver.
fn ask_there(wire: &Wire, resolver: Ipv4Addr) {
    wire.host.write("resolv.conf", &format!("nameserver {resolver}\n"));
    let mounted = Command::new("nsenter")
        .arg(format!("--mount=/proc/{}/ns/mnt", wire.space.pid()))
        .args(["mount", "--bind"])
        .arg(wire.host.path("resolv.conf"))
        .arg("/etc/resolv.conf")
        .status();
    assert!(mounted.expect("nsenter runs").success());
}

/// The last report of `--uplink`; empty without one.
fn report(wire: &Wire) -> String {
    std::fs::read_to_string(wire.host.path("run/network/uplink.json")).unwrap_or_default()
}

#[test]
fn silent_names_of_one_tenant_hold_up_nobody_else() {
    let mut wire = Wire::new();
    let server = NameServer::start(&wire.outside, OF_HOST);
    ask_there(&wire, OF_HOST);
    // Each comes before the name of alice.
    let silent: Vec<String> = (0..100).map(|number| format!("\"silent{number}.example.org\"")).collect();
    wire.declare("alice", "allow = [\"zz.example.org\"]");
    wire.declare("mallory", &format!("allow = [{}]", silent.join(", ")));
    let begin = Instant::now();
    wire.start(&[]);
    assert!(begin.elapsed() < MOST + MOST, "{:?}", begin.elapsed());
    let to = SocketAddr::from((NameServer::ANSWER, 80));
    Talk::open(&wire.jail("alice"), to).expect("her name has an address");
    assert_refused(Talk::open(&wire.jail("mallory"), to), "a name without an answer");

    // What else a run has found is in force while it still waits for names.
    let other = "198.18.0.99";
    wire.configure(&format!(", resolvers = [\"{other}\"]"));
    let begin = Instant::now();
    let run = wire.host.program_command("bailiwick-net").arg("--uplink").stdout(Stdio::null()).spawn();
    let mut run = run.expect("bailiwick-net runs");
    until("the other resolver is told", || report(&wire).contains(other));
    assert!(run.try_wait().expect("wait").is_none() && report(&wire).contains("zz.example.org"), "{}", report(&wire));
    Talk::open(&wire.jail("alice"), to).expect("the address of before");
    assert!(run.wait().expect("it ends").success());
    assert!(begin.elapsed() < MOST, "{:?}", begin.elapsed());

    // Those of mallory's names that were not asked come first the next time.
    let asked = server.names_with(".example.org");
    assert!(asked < 101, "time was over before");
    wire.uplink();
    assert!(server.names_with(".example.org") > asked, "{asked}");
}
