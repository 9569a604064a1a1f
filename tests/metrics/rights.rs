//! An observer may ask for the metrics and for nothing else; a stranger, and a tenant's user, for nothing of them.

use crate::exporter::{Exporter, value};
use crate::{OBSERVER, STRANGER, as_user, for_others, host};
use bailiwick_tests::{Host, stage, until};
use std::process::Output;

/// Runs `bailiwick` as another user.
fn ask(host: &Host, uid: u32, arguments: &[&str]) -> Output {
    let mut command = as_user(uid, &for_others(host, "bailiwick"));
    command.arg(arguments[0]).arg("--config").arg(host.path("etc")).args(&arguments[1..]).output().expect("runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn an_observer_may_ask_for_the_metrics_alone_and_others_not_even_for_those() {
    let mut host = host("core");
    host.start();
    let metrics = ask(&host, OBSERVER, &["metrics"]);
    assert_eq!(metrics.status.code(), Some(0), "{}", said(&metrics));
    assert!(said(&metrics).contains("bailiwick_tenant_info{tenant=\"alice\",plan=\"web\"} 1"));
    // It gets no more than the policy says, and an operator does.
    let more = ask(&host, OBSERVER, &["metrics", "--tenants", "all"]);
    assert!(more.status.success() && !said(&more).contains("bailiwick_tenant_limit"), "{}", said(&more));
    assert!(host.ok(&["metrics", "--tenants", "all"]).contains("\nbailiwick_tenant_limit{"));
    for command in [
        &["list"][..],
        &["show", "alice"],
        &["status"],
        &["plan"],
        &["apply"],
        &["usage", "--now"],
        &["usage"],
        &["history", "alice"],
        &["faults"],
        &["incidents"],
        &["audit"],
        &["sessions"],
        &["timers"],
        &["service", "list"],
        &["service", "stop", "alice"],
        &["network", "alice"],
        &["stop", "alice"],
        &["freeze", "alice"],
        &["reload"],
        &["top"],
    ] {
        let output = ask(&host, OBSERVER, command);
        assert!(!output.status.success(), "{command:?}: {}", said(&output));
        assert!(said(&output).contains("observers") || command == ["top"], "{command:?}: {}", said(&output));
    }
    // `exec` reports its own failures with 125.
    let exec = ask(&host, OBSERVER, &["exec", "alice", "--", "true"]);
    assert_eq!(exec.status.code(), Some(125), "{}", said(&exec));
    let stranger = ask(&host, STRANGER, &["metrics"]);
    assert_eq!(stranger.status.code(), Some(5), "{}", said(&stranger));
    assert!(said(&stranger).contains("is not among `admins`"), "{}", said(&stranger));
    let tenant = ask(&host, host.ids().start + 65_536 + 1000, &["metrics"]);
    assert_eq!(tenant.status.code(), Some(5), "{}", said(&tenant));
    // A change of the list needs no restart.
    host.write("etc/bailiwick.toml", &host.default_config("observers = []\n"));
    host.ok(&["reload"]);
    let former = ask(&host, OBSERVER, &["metrics"]);
    assert_eq!(former.status.code(), Some(5), "{}", said(&former));
}

#[test]
fn the_exporter_has_no_right_and_is_confined() {
    let mut host = host("core");
    host.start();
    let mut exporter = Exporter::start(&host);
    until("it is up", || value(&exporter.metrics("").text(), "bailiwick_up") == Some(1.0));
    let tasks: Vec<_> = std::fs::read_dir(format!("/proc/{}/task", exporter.pid())).expect("lists").flatten().collect();
    assert_eq!(tasks.len(), 2, "one serves, one asks");
    for task in tasks {
        let status = std::fs::read_to_string(task.path().join("status")).expect("reads");
        for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"] {
            assert!(status.lines().any(|own| own == line), "{line} is not in\n{status}");
        }
        let uids = format!("Uid:\t{OBSERVER}\t{OBSERVER}\t{OBSERVER}\t{OBSERVER}");
        assert!(status.contains(&uids), "{status}");
    }
    assert_eq!(exporter.log(), "");
    assert_eq!(exporter.end(), Some(0));
    // Root is refused, and so is a start without a socket.
    let mut as_root = host.program_command("bailiwick-exporter");
    let refused = as_root.args(["--listen", "127.0.0.1:0"]).output().expect("runs");
    assert_eq!(refused.status.code(), Some(5), "{}", said(&refused));
    let mut command = as_user(OBSERVER, &for_others(&host, "bailiwick-exporter"));
    let nowhere = command.arg("--config").arg(host.path("etc")).output().expect("runs");
    assert_eq!(nowhere.status.code(), Some(2), "{}", said(&nowhere));
    assert!(said(&nowhere).contains("it has no socket to listen on"), "{}", said(&nowhere));
    assert!(stage().join("bailiwick-exporter").exists());
}
