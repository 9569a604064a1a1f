//! A second implementation: the library `cgroups-rs` reads the limits of running jails with code of its own, and
//! must agree with the audit.
//!
//! It supports neither CPU bursts nor limits of block devices; those have suites of their own (`audit`, `io`).

use bailiwick_tests::{Host, profiles};
use bailiwick_types::{ByteSize, Hierarchy};
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::hierarchies::{V1, V2};
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup, MaxValue};
use serde_json::Value;
use std::collections::BTreeMap;

/// The value of version 1 without a limit: the largest number of whole pages.
const NONE_V1: i64 = i64::MAX & !4095;

/// All values differ, also from those of a new group.
const LIMITS: &str = r#"
memory = "300M"
swap = "44M"
tasks = 217
cpu = "35%"
cpu_weight = 250
"#;

/// The group of a jail in the hierarchy of a controller, as the library sees it.
fn group(shown: &Value, controller: &str, of: Hierarchy) -> Cgroup {
    let key = if of == Hierarchy::V1 { controller } else { "unified" };
    let path = shown["cgroup"][key].as_str().unwrap_or_else(|| panic!("no group of {controller}: {shown}"));
    let path = path.trim_start_matches('/');
    match of {
        Hierarchy::V1 => Cgroup::load(Box::new(V1::new()), path),
        Hierarchy::Unified => Cgroup::load(Box::new(V2::new()), path),
    }
}

fn bytes(limit: i64) -> String {
    match limit {
        -1 | NONE_V1 | i64::MAX => "unlimited".to_owned(),
        bytes => ByteSize(u64::try_from(bytes).expect("a size")).to_string(),
    }
}

fn number(value: MaxValue) -> String {
    match value {
        MaxValue::Max => "unlimited".to_owned(),
        MaxValue::Value(number) => number.to_string(),
    }
}

/// The limits that the library reads: key of the policy and value in the policy's unit.
fn read(host: &Host, tenant: &str) -> BTreeMap<&'static str, String> {
    let facts = bailiwick_observe::host_facts(&host.path("state")).expect("facts");
    let hierarchy = |controller| facts.controller(controller).unwrap_or_else(|| panic!("no controller {controller}"));
    let shown: Value = serde_json::from_str(&host.ok(&["show", tenant, "--json"])).expect("JSON");
    let mut found = BTreeMap::new();

    let of = hierarchy("memory");
    let group_of_memory = group(&shown, "memory", of);
    let memory: &MemController = group_of_memory.controller_of().expect("memory");
    found.insert("memory", bytes(memory.memory_stat().limit_in_bytes));
    let swap = bytes(memory.memswap().limit_in_bytes);
    match of {
        Hierarchy::V1 => {
            found.insert("swap", if swap == "unlimited" { swap } else { format!("{swap} with memory") });
            found.insert("memory_sockets", bytes(memory.kmem_tcp_stat().limit_in_bytes));
        }
        Hierarchy::Unified => {
            found.insert("swap", swap);
            let set = memory.get_mem().expect("reads");
            let high = match set.high {
                Some(MaxValue::Value(high)) => bytes(high),
                _ => "unlimited".to_owned(),
            };
            found.insert("memory_high", high);
            // No jail has protected memory.
            assert_eq!((set.min, set.low), (Some(MaxValue::Value(0)), Some(MaxValue::Value(0))), "{tenant}");
        }
    }

    let group_of_pids = group(&shown, "pids", hierarchy("pids"));
    let pids: &PidController = group_of_pids.controller_of().expect("pids");
    found.insert("tasks", number(pids.get_pid_max().expect("reads")));

    let of = hierarchy("cpu");
    let group_of_cpu = group(&shown, "cpu", of);
    let cpu: &CpuController = group_of_cpu.controller_of().expect("cpu");
    let (quota, period) = (cpu.cfs_quota().expect("reads"), cpu.cfs_period().expect("reads"));
    let share = match u64::try_from(quota) {
        Ok(quota) if quota < i64::MAX as u64 => format!("{}%", quota * 100 / period),
        _ => "unlimited".to_owned(),
    };
    found.insert("cpu", share);
    let shares = cpu.shares().expect("reads");
    let weight = if of == Hierarchy::V1 { (shares * 100).div_ceil(1024) } else { shares };
    found.insert("cpu_weight", weight.to_string());
    found
}

/// The same keys from an audit.
fn audited_limits(host: &Host, tenant: &str, words: &BTreeMap<&'static str, String>) -> BTreeMap<&'static str, String> {
    let output = host.cli(&["audit", tenant, "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rows = report["tenants"][0]["limits"].as_array().expect("limits");
    let enforced = |word: &str| {
        let row = rows.iter().find(|row| row["resource"] == word).unwrap_or_else(|| panic!("{word}: {report}"));
        row["enforced"].as_str().unwrap_or("-").to_owned()
    };
    words.keys().map(|word| (*word, enforced(word))).collect()
}

#[test]
fn another_library_reads_the_limits_that_an_audit_reports() {
    let mut host = Host::new();
    for tenant in profiles() {
        host.write(&format!("etc/tenants.d/{tenant}.toml"), &format!("plan = \"{tenant}\"\n[limits]\n{LIMITS}"));
    }
    host.start();
    host.ok(&["apply"]);
    for tenant in profiles() {
        let found = read(&host, tenant);
        assert_eq!(found, audited_limits(&host, tenant, &found), "{tenant}");
        // The values are the declared ones, which neither of the two reads.
        for (word, declared) in [("memory", "300M"), ("tasks", "217"), ("cpu", "35%"), ("cpu_weight", "250")] {
            assert_eq!(found[word], declared, "{tenant}: {word}");
        }
    }

    // Changed while the jail runs, then removed.
    let tenant = "web";
    host.write(
        "etc/tenants.d/web.toml",
        "plan = \"web\"\n[limits]\nmemory = \"270M\"\nswap = \"31M\"\ntasks = \"unlimited\"\ncpu = \"unlimited\"\n",
    );
    host.ok(&["apply"]);
    let found = read(&host, tenant);
    assert_eq!(found, audited_limits(&host, tenant, &found));
    assert_eq!(
        (found["memory"].as_str(), found["tasks"].as_str(), found["cpu"].as_str()),
        ("270M", "unlimited", "unlimited")
    );

    // A change by hand: both see it, and the audit reports drift.
    let shown: Value = serde_json::from_str(&host.ok(&["show", tenant, "--json"])).expect("JSON");
    let facts = bailiwick_observe::host_facts(&host.path("state")).expect("facts");
    let group = group(&shown, "pids", facts.controller("pids").expect("pids"));
    let pids: &PidController = group.controller_of().expect("pids");
    pids.set_pid_max(MaxValue::Value(9000)).expect("writes");
    let found = read(&host, tenant);
    assert_eq!(found["tasks"], "9000");
    assert_eq!(found, audited_limits(&host, tenant, &found));
    assert!(String::from_utf8_lossy(&host.cli(&["audit", tenant]).stdout).contains("BW090"));
}
