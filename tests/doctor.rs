//! `doctor --probe`: what the host is said to enforce is run into, and nothing of it is left.

use bailiwick_tests::{Host, Pool};
use bailiwick_types::{Hierarchy, HostFacts, QuotaFacts};
use serde_json::Value;
use std::path::Path;

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

fn looks(host: &Host, facts: &HostFacts) {
    let found = probes(host);
    let quota = &facts.storage.quota;
    let io = facts.controller("io") == Some(Hierarchy::Unified) && !facts.storage.devices.is_empty();
    for (name, state, evidence) in &found {
        let holds = match name.as_str() {
            "disk" => quota.bounds_anything(),
            "inodes" => *quota == QuotaFacts::Projects,
            "io_read" | "io_write" => io,
            // Only where the machine has some.
            "swap" => continue,
            _ => true,
        };
        assert_eq!(state == "works", holds, "{name}: {evidence}");
    }
    assert_eq!(found.len(), 12);
    let left = |folder: &Path| {
        let names = std::fs::read_dir(folder).expect("lists").flatten().map(|entry| entry.file_name());
        names.filter(|name| name.to_string_lossy().contains("bailiwick-probe")).count()
    };
    assert_eq!((left(&host.path("")), left(Path::new("/run"))), (0, 0), "nothing is left");
    assert!(!host.path("state").exists() || !host.path("state/ledger.json").exists(), "the real host was not touched");
}

#[test]
fn every_limit_of_this_host_and_of_btrfs_is_run_into() {
    let host = Host::new();
    let facts = bailiwick_observe::host_facts(&host.path("state")).expect("facts");
    looks(&host, &facts);
    let pool = Pool::btrfs();
    let host = Host::within(pool.path());
    let facts = bailiwick_observe::host_facts(&host.path("state")).expect("facts");
    assert_eq!(facts.storage.quota, QuotaFacts::Groups);
    looks(&host, &facts);
}
