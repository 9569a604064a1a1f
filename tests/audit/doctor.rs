//! `doctor --probe`: it tests every limit of the host and leaves nothing behind.

use bailiwick_tests::{Host, Pool, stage, until};
use bailiwick_types::{Hierarchy, HostFacts, QuotaFacts};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Serialises the tests: each uses the whole machine.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Directory of the test host.
const FOLDER: &str = ".bailiwick-probe";

fn probes(host: &Host) -> Vec<(String, String, String)> {
    let output = host.cli(&["doctor", "--probe", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let text = |feature: &Value, key: &str| feature[key].as_str().expect("text").to_owned();
    let features = report["features"].as_array().expect("features");
    features
        .iter()
        .map(|feature| (text(feature, "feature"), text(feature, "state"), text(feature, "evidence")))
        .filter_map(|(name, state, evidence)| Some((name.strip_prefix("probe-")?.to_owned(), state, evidence)))
        .collect()
}

fn check_probes(host: &Host, facts: &HostFacts) {
    let found = probes(host);
    let quota = &facts.storage.quota;
    let io = facts.controller("io") == Some(Hierarchy::Unified) && !facts.storage.devices.is_empty();
    for (name, state, evidence) in &found {
        let holds = match name.as_str() {
            "disk" => quota.bounds_anything(),
            "inodes" => *quota == QuotaFacts::Projects,
            "io_read" | "io_write" => io,
            // Depends on the swap space of the machine.
            "swap" => continue,
            _ => true,
        };
        assert_eq!(state == "works", holds, "{name}: {evidence}");
    }
    assert_eq!(found.len(), 12);
    assert!(!host.path(FOLDER).exists(), "nothing is left");
    assert!(!host.path("state").exists() || !host.path("state/ledger.json").exists(), "the real host was not touched");
}

#[test]
fn every_limit_is_tested_on_this_host_and_on_btrfs() {
    let _alone = alone();
    let host = Host::new();
    let facts = bailiwick_observe::host_facts(&host.path("state")).expect("facts");
    check_probes(&host, &facts);
    let pool = Pool::btrfs();
    let host = Host::within(pool.path());
    let facts = bailiwick_observe::host_facts(&host.path("state")).expect("facts");
    assert_eq!(facts.storage.quota, QuotaFacts::Groups);
    check_probes(&host, &facts);
}

/// Starts a probe and waits for its first limit. Returns the probe and its output up to then.
fn start_probe(host: &Host) -> (Child, BufReader<ChildStderr>, String) {
    // A shell that starts these tests in the background makes them ignore SIGINT.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT").arg(stage().join("bailiwick"));
    command.args(["doctor", "--probe", "--json", "--config"]).arg(host.path("etc"));
    let mut probe = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("runs");
    let mut from = BufReader::new(probe.stderr.take().expect("a pipe"));
    let mut said = String::new();
    while !said.contains("testing the limit cpu") {
        assert!(from.read_line(&mut said).expect("reads") > 0, "it ended early: {said}");
    }
    (probe, from, said)
}

/// Interrupts a probe as an operator does at a terminal, and checks that nothing is left.
fn interrupt(host: &Host, mut probe: Child, from: BufReader<ChildStderr>) {
    assert!(Command::new("kill").args(["-INT", &probe.id().to_string()]).status().expect("kill").success());
    let said: Vec<_> = from.lines().map_while(Result::ok).collect();
    assert_eq!(probe.wait().expect("ends").code(), Some(1), "{said:?}");
    assert!(said.iter().any(|line| line.contains("interrupted")), "{said:?}");
    assert!(!host.path(FOLDER).exists(), "the directory is gone");
    assert_eq!(processes(host), [""; 0]);
}

/// Command lines of the processes of the test host.
fn processes(host: &Host) -> Vec<String> {
    let folder = host.path(FOLDER).display().to_string();
    let all = std::fs::read_dir("/proc").expect("lists").flatten();
    let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&folder)).collect()
}

#[test]
fn an_interrupted_or_killed_probe_is_cleaned_up() {
    let _alone = alone();
    let host = Host::new();
    let (mut probe, from, _) = start_probe(&host);
    let other = host.cli(&["doctor", "--probe"]);
    let refused = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(other.status.code() == Some(4) && refused.contains("another"), "{:?} {refused}", other.status);
    probe.kill().expect("kill");
    probe.wait().expect("ends");
    // The processes of the killed probe hold the pipe.
    drop(from);
    until("its processes end", || processes(&host).is_empty());
    assert!(host.path(FOLDER).exists(), "its jail was removed already");
    let (probe, from, said) = start_probe(&host);
    assert!(said.contains("removing the temporary tenant of a probe that was killed"), "{said}");
    interrupt(&host, probe, from);
}
