//! `why` tells which check refuses a login or a write before anybody tries it, and `show --explain` where a value comes from.

use bailiwick_tests::{Host, until};
use serde_json::Value;
use std::process::Stdio;
use std::time::Instant;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOYLw5YBOneLZfK674Sm+a9FdrvywT3Y9KltLOLL1fTS alice@example.org";
const FINGERPRINT: &str = "SHA256:jxVzEiZaRQK02CsdokjdhQG170Q4yIgmuj7Ybl+wNrI";

fn host() -> Host {
    let mut host = Host::new();
    let plan = "profile = \"web\"\ndoors = [\"exec\", \"ssh\", \"ftp\", \"cron\"]\n[limits]\nmemory = \"128M\"\ntasks = 40\nsessions_exec = 1\n";
    host.write("etc/plans.d/small.toml", plan);
    host.write("etc/tenants.d/alice.toml", &format!("plan = \"small\"\n[login]\nssh_keys = [\"{KEY}\"]\n"));
    host.start();
    host.ok(&["apply"]);
    host
}

/// The exit status and the report of `why`.
fn why(host: &Host, arguments: &[&str]) -> (i32, Value) {
    let output = host.cli(&[&["why", "alice", "--json"], arguments].concat());
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().expect("a status"), report)
}

fn names(report: &Value) -> Vec<String> {
    let checks = report["checks"].as_array().expect("checks");
    checks.iter().map(|check| check["check"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn every_check_passes_where_a_session_opens() {
    let host = host();
    for (arguments, checks) in [
        (&[][..], "files policy host-user key door user frozen sessions room jail"),
        (&["--door", "exec", "--user", "33"], "files policy door user frozen sessions room jail"),
        (&["--door", "cron"], "files policy door user frozen sessions room jail"),
        (
            &["--door", "ssh", "--key", FINGERPRINT, "--from", "192.0.2.1"],
            "files policy host-user key client door user frozen sessions room jail",
        ),
        (&["--door", "ssh", "--key", KEY], "files policy host-user key door user frozen sessions room jail"),
        (&["--write", "/home/alice"], "files policy access place reserve space memory tasks"),
        (&["--write", "/tmp/x"], "files policy access place size memory tasks"),
        (&["--write", "10M"], "files policy access reserve space memory tasks"),
    ] {
        let begun = Instant::now();
        let (status, report) = why(&host, arguments);
        let took = begun.elapsed();
        assert_eq!((status, report["passes"].clone()), (0, Value::Bool(true)), "{arguments:?} {report:#}");
        assert_eq!(names(&report).join(" "), checks, "{arguments:?}");
        println!("{arguments:?}: {took:?}");
    }
    // Nothing was counted or left behind.
    assert_eq!(host.ok(&["sessions", "alice", "--json"]).trim(), "[]");
}

#[test]
fn the_check_that_refuses_is_the_one_that_a_client_meets() {
    let host = host();
    let refuses = |arguments: &[&str], status: i32, by: &str, told: &str| {
        let (is, report) = why(&host, arguments);
        assert_eq!((is, report["refused_by"].as_str()), (status, Some(by)), "{arguments:?} {report:#}");
        let message = report["message"].as_str().expect("a message").to_owned();
        assert!(message.contains(told), "{arguments:?} {message}");
        message
    };
    refuses(&["--door", "sftp"], 5, "door", "`doors` in its plan or file");
    refuses(&["--door", "ftp"], 5, "login", "[[ftp]]");
    refuses(&["--door", "web"], 5, "door", "is closed");
    refuses(&["--user", "nobody"], 3, "user", "there is no user");
    refuses(&["--key", "SHA256:AAAA"], 5, "key", FINGERPRINT);
    // What is no key and no address says nothing of the tenant.
    for (wrong, told) in [(["--key", "id.pub"], "$(cat FILE)"), (["--from", "192.0.2"], "is no address")] {
        let output = host.cli(&[&["why", "alice"][..], &wrong].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(told), "{said}");
    }
    refuses(&["--write", "/usr/bin/x"], 5, "place", "\"/usr\" is read-only in the profile \"web\"");
    refuses(&["--write", "900T"], 6, "space", "do not fit");
    assert_eq!(host.cli(&["why", "ghost"]).status.code(), Some(3));
    assert_eq!(host.cli(&["why", "alice", "--door", "cron", "--key", "x"]).status.code(), Some(2));
    assert_eq!(host.cli(&["why", "alice", "--write", "much"]).status.code(), Some(2));

    // The words are those that the client gets, and the last refusal is in the answer.
    let mut first =
        host.command(&["exec", "alice", "--", "/bin/sleep", "60"]).stdout(Stdio::null()).spawn().expect("starts");
    until("the session is open", || host.ok(&["sessions", "alice", "--json"]).contains("sleep"));
    let message = refuses(&["--door", "exec"], 6, "sessions", "may have 1");
    let output = host.cli(&["exec", "alice", "--", "/bin/true"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&message), "{said}");
    until("the refusal is in the outbox", || {
        let (_, report) = why(&host, &["--door", "exec"]);
        report["refusals"].as_array().is_some_and(|refusals| !refusals.is_empty())
    });
    let shown = host.cli(&["why", "alice", "--door", "exec"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("is refused by the check \"sessions\"") && shown.contains("the last refusals:"), "{shown}");
    host.ok(&["sessions", "kill", "--tenant", "alice"]);
    first.wait().expect("ends");

    host.ok(&["freeze", "alice"]);
    refuses(&["--door", "exec"], 5, "frozen", "bailiwick thaw alice");
    host.ok(&["thaw", "alice"]);
    host.ok(&["stop", "alice"]);
    refuses(&["--door", "exec"], 5, "jail", "bailiwick start alice");
    host.ok(&["suspend", "alice", "--reason", "unpaid"]);
    refuses(&["--door", "exec"], 5, "door", "unpaid");
    refuses(&["--write", "1M"], 5, "access", "unpaid");
}

#[test]
fn a_tenant_that_used_up_its_tasks_is_told_of_the_reserve() {
    let host = host();
    // It takes every task again that becomes free.
    let script =
        "while (1) { my $p = fork; if (defined $p && !$p) { sleep 300; exit } select undef, undef, undef, 0.01 }";
    let mut greedy = host.command(&["exec", "alice", "--", "/usr/bin/perl", "-e", script]).spawn().expect("starts");
    until("the tasks are used up", || {
        let (_, report) = why(&host, &["--write", "1"]);
        report["refused_by"] == "tasks" && report["status"] == 6
    });
    let (status, report) = why(&host, &["--door", "exec"]);
    let room = report["checks"].as_array().expect("checks").iter().find(|check| check["check"] == "room").cloned();
    let found = room.expect("the check")["found"].as_str().expect("text").to_owned();
    assert!(found.contains("limit of tasks") && found.contains("reserve"), "{found}");
    // The one session of operators that this plan allows is the greedy one.
    assert_eq!((status, report["refused_by"].as_str()), (6, Some("sessions")));
    host.ok(&["stop", "alice"]);
    greedy.wait().expect("ends");
}

#[test]
fn each_value_has_its_origin_and_its_meaning() {
    let host = Host::new();
    host.write("etc/plans.d/base.toml", "doors = [\"exec\", \"ftp\"]\n");
    host.write("etc/plans.d/small.toml", "plan = \"base\"\n\n[limits]\nmemory = \"128M\"\ntasks = 40\n");
    host.write("etc/tenants.d/alice.toml", "plan = \"small\"\n[limits]\nmemory = \"256M\" # paid\n");
    let rows: Value = serde_json::from_str(&host.ok(&["show", "alice", "--explain", "--json"])).expect("JSON");
    let rows = rows.as_array().expect("rows");
    let row = |key: &str| rows.iter().find(|row| row["key"] == key).unwrap_or_else(|| panic!("{key}: {rows:#?}"));
    for (key, value, from) in [
        ("plan", "small", "tenants.d/alice.toml:1"),
        ("limits.memory", "256M", "tenants.d/alice.toml:3"),
        ("limits.tasks", "40", "plans.d/small.toml:5"),
        ("doors", "exec, ftp", "plans.d/base.toml:1"),
        ("profile", "web", "default"),
        ("login.user", "alice", "default"),
    ] {
        assert_eq!((row(key)["value"].as_str(), row(key)["from"].as_str()), (Some(value), Some(from)), "{key}");
    }
    assert!(rows.iter().all(|row| !row["meaning"].as_str().expect("text").is_empty()), "{rows:#?}");
    let meaning = row("limits.tasks")["meaning"].as_str().expect("text");
    assert!(host.ok(&["explain", "tasks"]).contains(meaning), "the same words as `explain`");
    assert!(host.ok(&["show", "alice", "--explain"]).starts_with("KEY "));
    assert_eq!(host.cli(&["show", "ghost", "--explain"]).status.code(), Some(3));
}
