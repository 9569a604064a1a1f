//! Sleep without services: sessions, timers and verbs wake a tenant, and an idle one falls asleep.

use bailiwick_tests::{Host, profiles, until};
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

const SLEEP: &str = "[sleep]\nafter = \"1m\"\n";

fn tenant() -> &'static str {
    profiles()[0]
}

/// A host with these tenants, each with the rest of its file. They may enter by `exec` and `cron`.
fn host(tenants: &[(&str, &str)]) -> Host {
    let mut host = Host::new();
    for (name, more) in tenants {
        let text = format!("plan = \"{}\"\ndoors = [\"exec\", \"cron\"]\n{more}", tenant());
        host.write(&format!("etc/tenants.d/{name}.toml"), &text);
    }
    host.start();
    host.ok(&["apply"]);
    host
}

fn state(host: &Host, tenant: &str) -> String {
    let shown: Value = serde_json::from_str(&host.ok(&["show", tenant, "--json"])).expect("JSON");
    shown["state"].as_str().expect("a word").to_owned()
}

/// Whether the log tells that a tenant was woken, or fell asleep, for this reason.
fn told(host: &Host, event: &str, cause: &str) -> bool {
    host.log()
        .lines()
        .any(|line| line.contains(&format!("event=\"{event}\"")) && line.contains(&format!("cause=\"{cause}\"")))
}

fn says(host: &Host, arguments: &[&str], text: &str) {
    let output = host.cli(arguments);
    assert!(!output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains(text), "{output:?}");
}

/// Kills `bailiwickd` and waits for the next one.
fn replace_daemon(host: &Host) {
    let pid = host.program("bailiwickd");
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().expect("runs").success());
    until("the next one serves", || {
        host.find_program("bailiwickd").is_some_and(|next| next != pid) && host.cli(&["status"]).status.success()
    });
}

#[test]
fn sessions_and_verbs_wake_it_and_a_stop_is_for_good() {
    let host = host(&[("alice", SLEEP), ("bob", "")]);
    says(&host, &["sleep", "bob"], "\"bob\" may not sleep: neither its file nor its plan has `[sleep]`");
    assert_eq!(host.ok(&["sleep", "alice"]), "");
    assert_eq!(state(&host, "alice"), "asleep");
    assert!(!host.path("run/jails/alice").exists(), "nothing of its jail is left");
    assert_eq!(host.ok(&["sleep", "alice"]), "alice: unchanged\n");
    assert_eq!(host.ok(&["apply", "alice"]), "alice: asleep\n");
    assert_eq!((host.ok(&["apply"]), host.ok(&["plan"])), (String::new(), String::new()));
    assert!(host.ok(&["list"]).contains("asleep"), "{}", host.ok(&["list"]));
    assert_eq!(host.inside("alice", "echo here").1, "here\n");
    assert!(told(&host, "asleep", "operator") && told(&host, "awake", "exec"), "{}", host.log());

    // A session keeps it awake, and only as long as it lasts.
    let mut session = host.command(&["exec", "alice", "--", "/bin/sleep", "1000"]);
    let mut session = session.spawn().expect("runs");
    until("it is in", || host.ok(&["sessions", "alice"]).contains("sleep"));
    says(&host, &["sleep", "alice"], "1 session is in it");
    host.ok(&["sessions", "kill", "--tenant", "alice"]);
    session.wait().expect("ends");
    until("it may sleep again", || host.cli(&["sleep", "alice"]).status.success());

    assert_eq!(host.ok(&["wake", "alice"]), "");
    assert_eq!(host.ok(&["wake", "alice"]), "alice: unchanged\n");
    host.ok(&["stop", "alice"]);
    assert_eq!(state(&host, "alice"), "stopped");
    says(&host, &["wake", "alice"], "an operator stopped it; `bailiwick start alice`");
    says(&host, &["exec", "alice", "--", "/bin/true"], "`bailiwick start alice`");
    assert_eq!(state(&host, "alice"), "stopped");
    host.ok(&["start", "alice"]);
    assert_eq!(state(&host, "alice"), "running");
    host.ok(&["sleep", "alice"]);

    // Nobody wakes it but who needs it: not a new daemon, and not many looks.
    replace_daemon(&host);
    assert_eq!((state(&host, "alice"), state(&host, "bob")), ("asleep".to_owned(), "running".to_owned()));
    host.ok(&["audit", "alice"]);
    assert_eq!(state(&host, "alice"), "asleep");
    // Without `[sleep]` it runs as any other.
    host.declare("alice", tenant());
    host.ok(&["apply"]);
    assert_eq!(state(&host, "alice"), "running");
}

#[test]
fn what_is_due_wakes_it_also_after_a_new_daemon_and_what_is_idle_falls_asleep() {
    let timer = "[[timer]]\nname = \"often\"\nschedule = \"*:*:0/5\"\ncommand = [\"/bin/true\"]\n";
    let host = host(&[("alice", SLEEP), ("bob", &format!("{SLEEP}{timer}")), ("carol", SLEEP)]);
    // A timer that has not begun yet, or a run, may be in the way for a moment.
    until("bob sleeps", || host.cli(&["sleep", "bob"]).status.success());
    until("its timer wakes it", || told(&host, "awake", "cron"));
    until("and has run", || host.log().contains("timer-ended"));
    let line = "* * * * * echo ran >> /home/alice/ran";
    let crontab = format!(
        "mkdir -p /var/spool/cron/crontabs && cd /var/spool/cron/crontabs && echo '{line}' > alice && chown 1000:1000 alice"
    );
    assert_eq!(host.inside("alice", &crontab).0, 0);
    until("its crontab is known", || host.ok(&["timers", "alice"]).contains("echo ran"));
    until("alice sleeps", || host.cli(&["sleep", "alice"]).status.success());
    replace_daemon(&host);
    assert!(host.ok(&["timers", "alice"]).contains("echo ran"), "the next daemon knows it");
    let woken = |log: &str| log.contains("alice is awake: cron");
    let begun = Instant::now();
    while !woken(&host.log()) {
        assert!(begun.elapsed() < Duration::from_secs(150), "{}", host.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    until("the line has run", || host.inside("alice", "cat /home/alice/ran").1.contains("ran"));
    // Nobody has needed carol since her start.
    while !host.log().contains("carol is asleep: idle") {
        assert!(begun.elapsed() < Duration::from_secs(200), "{}", host.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(state(&host, "carol"), "asleep");
}
