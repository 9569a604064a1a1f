//! The audit finds what somebody took down by hand behind the daemon's back, and names it.

use bailiwick_tests::{Host, profiles, until};
use std::process::Command;

fn host(plan: &str) -> Host {
    let mut host = Host::new();
    host.declare("alice", plan);
    host.start();
    host.ok(&["apply"]);
    host
}

fn audit(host: &Host) -> (Option<i32>, serde_json::Value) {
    let output = host.cli(&["audit", "alice", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report["tenants"][0].clone())
}

fn ids(report: &serde_json::Value) -> Vec<&str> {
    report["findings"]
        .as_array()
        .expect("findings")
        .iter()
        .map(|finding| finding["id"].as_str().expect("an id"))
        .collect()
}

fn init(host: &Host) -> String {
    let shown: serde_json::Value = serde_json::from_str(&host.ok(&["show", "alice", "--json"])).expect("JSON");
    shown["pid"].as_u64().expect("runs").to_string()
}

/// Makes a system call as the host's root in the jail's mount namespace, as somebody who "only wanted to help" does:
/// umount2 is 166, mount is 165.
fn meddle(host: &Host, call: &str) {
    let line = format!("$! = 0; exit(syscall({call}) == 0 ? 0 : $! + 0)");
    let status = Command::new("nsenter").args(["-t", &init(host), "-m", "--", "perl", "-e", &line]).status();
    assert!(status.expect("nsenter runs").success(), "{call}");
}

#[test]
fn a_fresh_jail_of_every_profile_has_no_finding_but_what_no_host_holds() {
    for plan in profiles() {
        let host = host(plan);
        let (status, report) = audit(&host);
        let standing: &[&str] = if plan == "system" { &["BW097", "BW098"] } else { &["BW097"] };
        assert_eq!((status, ids(&report)), (Some(0), standing.to_vec()), "{plan}: {report}");
        assert_eq!(report["verdict"], "nominal");
        let limits = report["limits"].as_array().expect("limits").iter();
        let nominal: Vec<_> =
            limits.filter(|limit| limit["verdict"] != "enforced").map(|limit| &limit["resource"]).collect();
        assert_eq!(nominal, ["memory"], "{report}");
        assert_eq!(host.cli(&["plan"]).status.code(), Some(0));
    }
}

#[test]
fn a_mask_that_was_taken_away_is_named() {
    let host = host("web");
    meddle(&host, "166, my $t = \"/proc/kallsyms\", 0");
    let (status, report) = audit(&host);
    assert_eq!(status, Some(10), "{report}");
    assert!(report["findings"].to_string().contains("/proc/kallsyms"), "{report}");
}

#[test]
fn a_mount_that_was_made_writable_or_added_is_named() {
    let host = host("web");
    // MS_REMOUNT | MS_BIND, and no MS_RDONLY
    meddle(&host, "165, my $s = \"none\", my $t = \"/usr\", my $f = \"\", 32 | 4096, 0");
    let (status, report) = audit(&host);
    assert_eq!(status, Some(10));
    assert!(report["findings"].to_string().contains("/usr"), "{report}");
    meddle(&host, "165, my $s = \"none\", my $t = \"/srv\", my $f = \"tmpfs\", 0, 0");
    let (_, report) = audit(&host);
    assert!(report["findings"].to_string().contains("/srv"), "{report}");
}

#[test]
fn a_process_outside_the_walls_is_named() {
    let host = host("shell");
    // A process of the tenant's user that never entered its group: what a door that forgot one would leave.
    let shown: serde_json::Value = serde_json::from_str(&host.ok(&["show", "alice", "--json"])).expect("JSON");
    let first = shown["ids"]["first"].as_u64().expect("ids");
    let mut stray = Command::new("perl")
        .args(["-e", &format!("$) = '{first} {first}'; $> = {first}; sleep 60")])
        .spawn()
        .expect("perl runs");
    let status = format!("/proc/{}/status", stray.id());
    until("it has the id", || {
        std::fs::read_to_string(&status).expect("it runs").contains(&format!("Uid:\t0\t{first}\t"))
    });
    let (status, report) = audit(&host);
    let text = report["findings"].to_string();
    stray.kill().expect("kill");
    stray.wait().expect("wait");
    assert_eq!(status, Some(10), "{text}");
    assert!(text.contains(&stray.id().to_string()), "{text}");
    assert_eq!(report["verdict"], "breached");
    assert_eq!(audit(&host).0, Some(0));
}

#[test]
fn a_process_that_entered_without_confinement_is_named() {
    let host = host("web");
    // nsenter joins namespaces and nothing else: no filter, all capabilities, the host's control groups.
    let mut entered = Command::new("nsenter")
        .args(["-t", &init(&host), "-m", "-p", "-U", "-i", "-u", "-n", "-C", "--", "/bin/sleep", "60"])
        .spawn()
        .expect("nsenter runs");
    let children = || std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", entered.id())).expect("children");
    until("it is in", || {
        let name = format!("/proc/{}/comm", children().trim());
        std::fs::read_to_string(name).is_ok_and(|name| name == "sleep\n")
    });
    let children = children();
    let (status, report) = audit(&host);
    let text = report["findings"].to_string();
    for child in children.split_whitespace().chain([entered.id().to_string().as_str()]) {
        Command::new("kill").args(["-9", child]).status().expect("kill");
    }
    entered.wait().expect("wait");
    assert_eq!(status, Some(10), "{text}");
    assert_eq!(report["verdict"], "breached", "{text}");
}

#[test]
fn a_limit_that_was_raised_by_hand_is_drift_and_apply_mends_it() {
    let host = host("web");
    let shown: serde_json::Value = serde_json::from_str(&host.ok(&["show", "alice", "--json"])).expect("JSON");
    let path = shown["cgroup"]["pids"].as_str().or_else(|| shown["cgroup"]["unified"].as_str()).expect("a group");
    let file = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"]
        .iter()
        .map(|mount| format!("{mount}{path}/pids.max"))
        .find(|file| std::path::Path::new(file).exists())
        .expect("the tasks limit");
    std::fs::write(&file, "max").expect("writes");
    let (status, report) = audit(&host);
    assert_eq!(status, Some(10));
    let tasks = report["limits"].as_array().expect("limits").iter().find(|limit| limit["resource"] == "tasks");
    assert_eq!(tasks.expect("tasks")["verdict"], "drift", "{report}");
    let plan = host.cli(&["plan"]);
    assert_eq!(plan.status.code(), Some(10));
    assert!(String::from_utf8_lossy(&plan.stdout).contains("tasks"));
    host.ok(&["apply"]);
    assert_eq!(audit(&host).0, Some(0));
    assert_eq!(std::fs::read_to_string(&file).expect("reads").trim(), "64");
}

#[test]
fn a_jail_that_was_killed_by_hand_is_found_and_started_again() {
    let host = host("shell");
    let pid = init(&host);
    assert!(Command::new("kill").args(["-9", &pid]).status().expect("kill").success());
    until("it is down", || !host.ok(&["list"]).contains("running"));
    let plan = host.cli(&["plan"]);
    assert_eq!(plan.status.code(), Some(10));
    assert!(String::from_utf8_lossy(&plan.stdout).contains("alice"));
    host.ok(&["apply"]);
    assert_ne!(init(&host), pid);
    assert_eq!(audit(&host).0, Some(0));
}

#[test]
fn what_must_fail_is_tried_and_a_wall_that_is_down_is_told() {
    for plan in profiles() {
        let host = host(plan);
        every_attempt_is_refused(&host);
    }
    // An init that is stopped tells nothing, and that is not taken for a wall that stands.
    let host = host("web");
    let pid = init(&host);
    let signal = |name: &str| assert!(Command::new("kill").args([name, &pid]).status().expect("kill runs").success());
    signal("-STOP");
    let text = String::from_utf8_lossy(&host.cli(&["audit", "--probe"]).stdout).into_owned();
    signal("-CONT");
    assert!(text.contains("BW111"), "{text}");
}

fn every_attempt_is_refused(host: &Host) {
    let output = host.cli(&["audit", "--probe", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    for tenant in report["tenants"].as_array().expect("tenants") {
        let probes = tenant["probes"].as_array().unwrap_or_else(|| panic!("{tenant:#}"));
        assert!(probes.len() > 40 && probes.iter().all(|probe| probe["verdict"] == "enforced"), "{probes:#?}");
    }
    assert!(host.ok(&["audit", "--probe"]).contains("attempts inside came to what they must"));
}

#[test]
fn a_page_and_a_log_that_shows_when_it_was_changed() {
    let host = host("web");
    let page = host.path("report.html");
    let file = page.display().to_string();
    host.ok(&["audit", "--html", &file]);
    let html = std::fs::read_to_string(&page).expect("a page");
    assert!(html.contains("<svg") || html.contains("<table"), "{html}");
    assert!(html.contains("default-src 'none'") && !html.contains("<script"));
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&page).expect("a file").permissions()) & 0o077,
        0
    );
    host.ok(&["audit", "alice"]);
    let mark =
        serde_json::from_str::<serde_json::Value>(&host.ok(&["audit", "--verify", "--json"])).expect("JSON")["mark"]
            .clone();
    let mark = mark.as_str().expect("a mark").to_owned();
    assert!(host.log().contains(&mark), "the mark is told to the log of events");
    host.ok(&["audit", "--verify", "--mark", &mark]);
    let log = host.path("state/history/audit.log");
    let text = std::fs::read_to_string(&log).expect("a log");
    assert!(text.lines().count() >= 2, "{text}");
    std::fs::write(&log, text.replacen("\"alice\"", "\"elice\"", 1)).expect("writes");
    let output = host.cli(&["audit", "--verify"]);
    assert_eq!(output.status.code(), Some(10));
    assert!(String::from_utf8_lossy(&output.stdout).contains("line 1"), "{}", String::from_utf8_lossy(&output.stdout));
    let shorter: Vec<&str> = text.lines().collect();
    std::fs::write(&log, format!("{}\n", shorter[..shorter.len() - 1].join("\n"))).expect("writes");
    assert_eq!(host.cli(&["audit", "--verify"]).status.code(), Some(10), "the last line is missing");
    let output = host.cli(&["audit", "--html", "/nowhere/at/all.html"]);
    assert_eq!(output.status.code(), Some(1));
    let top = host.cli(&["top"]);
    assert_eq!(top.status.code(), Some(2), "there is no terminal");
    assert!(String::from_utf8_lossy(&top.stderr).contains("bailiwick usage"));
}
