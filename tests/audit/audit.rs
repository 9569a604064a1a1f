//! The audit finds what someone changed by hand behind the daemon's back, and names it.

use bailiwick_plan::{Rlimit, rlimits};
use bailiwick_tests::{Host, profiles, until};
use bailiwick_types::Limits;
use std::process::{Child, Command};

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

/// Makes a system call as root of the host in the mount namespace of the jail. umount2 is 166, mount is 165.
fn syscall_as_host_root(host: &Host, call: &str) {
    let line = format!("$! = 0; exit(syscall({call}) == 0 ? 0 : $! + 0)");
    let status = Command::new("nsenter").args(["-t", &init(host), "-m", "--", "perl", "-e", &line]).status();
    assert!(status.expect("nsenter runs").success(), "{call}");
}

#[test]
fn a_fresh_jail_of_every_profile_has_only_findings_that_every_host_has() {
    for plan in profiles() {
        let host = host(plan);
        let (status, report) = audit(&host);
        assert_eq!((status, ids(&report)), (Some(0), vec!["BW097", "BW098"]), "{plan}: {report}");
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
    syscall_as_host_root(&host, "166, my $t = \"/proc/kallsyms\", 0");
    let (status, report) = audit(&host);
    assert_eq!(status, Some(10), "{report}");
    assert!(report["findings"].to_string().contains("/proc/kallsyms"), "{report}");
}

#[test]
fn a_mount_that_was_made_writable_or_added_is_named() {
    let host = host("web");
    // MS_REMOUNT | MS_BIND without MS_RDONLY.
    syscall_as_host_root(&host, "165, my $s = \"none\", my $t = \"/usr\", my $f = \"\", 32 | 4096, 0");
    let (status, report) = audit(&host);
    assert_eq!(status, Some(10));
    assert!(report["findings"].to_string().contains("/usr"), "{report}");
    syscall_as_host_root(&host, "165, my $s = \"none\", my $t = \"/srv\", my $f = \"tmpfs\", 0, 0");
    let (_, report) = audit(&host);
    assert!(report["findings"].to_string().contains("/srv"), "{report}");
}

#[test]
fn a_process_outside_the_walls_is_named() {
    let host = host("shell");
    // A process with the tenant's user that never entered its control group: what a faulty door would leave.
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
    // nsenter only joins the namespaces: no filter, all capabilities, the control groups of the host.
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

/// Kills a child of this test and the children that it has at that moment.
fn end(mut child: Child) {
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap_or_default();
    for child in children.split_whitespace() {
        Command::new("kill").args(["-9", child]).status().expect("kill runs");
    }
    // nsenter that has forked ends once its child is gone.
    if children.trim().is_empty() {
        child.kill().expect("kill");
    }
    child.wait().expect("wait");
}

/// Enters some namespaces of the jail, like an operator who looks around, and stays there.
fn enter(host: &Host, namespaces: &[&str]) -> Child {
    let entered = Command::new("nsenter")
        .args(["-t", &init(host)])
        .args(namespaces)
        .args(["--", "/bin/sleep", "600"])
        .spawn()
        .expect("nsenter runs");
    until("it is in", || {
        let children =
            std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", entered.id())).unwrap_or_default();
        let is_in =
            |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
        is_in(&entered.id().to_string()) || children.split_whitespace().any(is_in)
    });
    entered
}

/// Checks that the audit names it in the finding of this id. A notice alone does not change the exit status.
fn assert_finding(host: &Host, id: &str, evidence: &str) {
    let (status, report) = audit(host);
    let worst = report["findings"].as_array().expect("findings").iter().any(|finding| finding["severity"] != "notice");
    let found = report["findings"].as_array().expect("findings").iter().find(|finding| finding["id"] == id);
    let text = found.unwrap_or_else(|| panic!("{id}: {report:#}"))["evidence"].to_string();
    assert!(status == Some(if worst { 10 } else { 0 }) && text.contains(evidence), "{status:?} {id}: {text}");
}

fn assert_no_finding(host: &Host) {
    let (status, report) = audit(host);
    // Findings that every audit has, on any host.
    let found: Vec<&str> = ids(&report).into_iter().filter(|id| !["BW097", "BW098"].contains(id)).collect();
    assert_eq!((status, found), (Some(0), Vec::new()), "{report:#}");
}

#[test]
fn a_host_process_in_one_namespace_of_a_jail_is_named() {
    for plan in profiles() {
        let host = host(plan);
        for (option, kind) in [("-m", "mnt"), ("-n", "net"), ("-i", "ipc"), ("-p", "pid")] {
            let entered = enter(&host, &[option]);
            assert_finding(&host, "BW088", kind);
            end(entered);
        }
        assert_no_finding(&host);
    }
}

#[test]
fn a_process_that_entered_from_outside_has_no_landlock_domain() {
    for plan in profiles() {
        let host = host(plan);
        let (_, report) = audit(&host);
        let walls = report["walls"].as_array().expect("walls");
        let wall = walls.iter().find(|wall| wall["wall"] == "landlock").expect("every profile has a domain");
        assert_eq!(wall["verdict"], "enforced");
        assert!(wall["evidence"].to_string().contains("the warden's child told"), "{wall}");
        let (entered, child) = enter_all(&host);
        assert_finding(&host, "BW072", &child);
        end(entered);
        assert_no_finding(&host);
    }
}

/// Moves a process of the host into every namespace and group of the jail, without confinement. Returns its process
/// id.
fn enter_all(host: &Host) -> (Child, String) {
    let entered = enter(host, &["-m", "-p", "-U", "-i", "-u", "-n", "-C"]);
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", entered.id())).expect("children");
    let child = children.split_whitespace().next().expect("nsenter has forked").to_owned();
    for group in groups(host) {
        let members = ["jail/cgroup.procs", "cgroup.procs"].map(|file| format!("{group}/{file}"));
        let members = members.iter().find(|file| std::path::Path::new(file).exists()).expect("a group");
        std::fs::write(members, &child).expect("moves");
    }
    (entered, child)
}

/// The directories of the tenant's control groups.
fn groups(host: &Host) -> Vec<String> {
    let shown: serde_json::Value = serde_json::from_str(&host.ok(&["show", "alice", "--json"])).expect("JSON");
    let groups = shown["cgroup"].as_object().expect("groups").clone();
    let mounts = |kind: &str| match kind {
        "unified" => vec!["/sys/fs/cgroup/unified".to_owned(), "/sys/fs/cgroup".to_owned()],
        kind => vec![format!("/sys/fs/cgroup/{kind}")],
    };
    let dir = |(kind, path): (&String, &serde_json::Value)| {
        let path = path.as_str().expect("a path");
        let dirs = mounts(kind).into_iter().map(|mount| format!("{mount}{path}"));
        dirs.into_iter().find(|dir| std::path::Path::new(dir).join("cgroup.procs").exists()).expect("a mounted group")
    };
    groups.iter().map(dir).collect()
}

#[test]
fn a_changed_group_setting_outside_the_limits_is_named() {
    let host = host("web");
    let mut tried = 0;
    for (file, changed) in [
        ("cgroup.max.descendants", "7"),
        ("cgroup.max.depth", "3"),
        ("memory.min", "4096"),
        ("memory.low", "4096"),
        ("memory.soft_limit_in_bytes", "4096"),
        ("cpu.idle", "1"),
    ] {
        for dir in groups(&host).iter().map(|group| format!("{group}/{file}")) {
            let Ok(fresh) = std::fs::read_to_string(&dir) else { continue };
            std::fs::write(&dir, changed).unwrap_or_else(|error| panic!("{dir}: {error}"));
            assert_finding(&host, "BW107", file);
            let fresh = if file == "memory.soft_limit_in_bytes" { "-1" } else { fresh.trim() };
            std::fs::write(&dir, fresh).expect("is put back");
            tried += 1;
        }
    }
    assert!(tried >= 3, "{tried}");
    // The same in the groups below that of the tenant.
    let below = groups(&host)
        .iter()
        .map(|group| format!("{group}/jail/cgroup.max.descendants"))
        .find(|file| std::path::Path::new(file).exists());
    std::fs::write(below.expect("the jail's group"), "2").expect("writes");
    assert_finding(&host, "BW107", "/jail");
}

#[test]
fn a_process_with_a_raised_priority_is_named() {
    let host = host("web");
    let pid = init(&host);
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().expect("runs");
        output.status.success() || {
            // On version 1 a group has no real-time budget by default.
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            std::io::Write::write_all(&mut std::io::stderr(), format!("{program} {arguments:?}: {text}").as_bytes())
                .ok();
            false
        }
    };
    assert!(run("renice", &["-n", "-20", "-p", &pid]));
    assert_finding(&host, "BW089", "nice below 0");
    assert!(run("renice", &["-n", "0", "-p", &pid]));
    if run("chrt", &["--fifo", "--pid", "1", &pid]) {
        assert_finding(&host, "BW089", "a real-time scheduler");
        assert!(run("chrt", &["--other", "--pid", "0", &pid]));
    }
    assert_no_finding(&host);
    // It inherits the OOM score of its parent, so the kernel would kill it later than the processes of the jail.
    let (entered, child) = enter_all(&host);
    assert_finding(&host, "BW089", &format!("oom_score_adj below 500: process {child} "));
    end(entered);
    assert_no_finding(&host);
}

#[test]
fn a_process_with_a_limit_of_its_own_is_named() {
    let host = host("shell");
    // A process of the host keeps its own resource limits inside.
    let hard = |resource| rustix::process::getrlimit(resource).maximum;
    let (entered, child) = enter_all(&host);
    for rlimit in rlimits(&Limits::default()) {
        let (words, own) = match rlimit {
            Rlimit::OpenFiles(_) => ("open_files above", hard(rustix::process::Resource::Nofile)),
            Rlimit::NoCore => ("core other than", hard(rustix::process::Resource::Core)),
        };
        let most = rlimit.value();
        assert!(own.is_none_or(|own| own > most), "this test is run with limits that are lower than a jail's");
        assert_finding(&host, "BW106", &format!("{words} {most}: process {child} "));
    }
    end(entered);
    assert_no_finding(&host);
}

#[test]
fn a_tmpfs_without_a_size_is_named() {
    let host = host("web");
    // MS_REMOUNT with the flags of the plan: nosuid, nodev (and noexec).
    syscall_as_host_root(
        &host,
        "165, my $s = \"none\", my $t = \"/dev/shm\", my $f = \"\", 32 | 14, my $d = \"nr_inodes=0\"",
    );
    assert_finding(&host, "BW037", "/dev/shm: without a bound of inodes");
    syscall_as_host_root(&host, "165, my $s = \"none\", my $t = \"/run\", my $f = \"\", 32 | 6, my $d = \"size=1g\"");
    assert_finding(&host, "BW037", "/run: 1048576 KiB");
}

#[test]
fn an_interface_that_was_put_into_a_jail_is_named() {
    for plan in profiles() {
        let host = host(plan);
        let (name, pid) = (format!("bw{}", std::process::id() % 1_000_000), init(&host));
        let link = ["link", "add", &name, "type", "veth", "peer", "name", "eth7", "netns", &pid];
        let output = Command::new("ip").args(link).output().expect("ip runs");
        assert!(output.status.success(), "{output:?}");
        assert_finding(&host, "BW035", "eth7");
        assert!(Command::new("ip").args(["link", "delete", &name]).status().expect("ip runs").success());
        assert_no_finding(&host);
    }
}

#[test]
fn a_limit_that_was_raised_by_hand_is_drift_and_apply_restores_it() {
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
fn probes_attempt_forbidden_operations_and_report_a_broken_wall() {
    for plan in profiles() {
        let host = host(plan);
        every_attempt_is_refused(&host);
    }
    // A stopped init gives no evidence, which does not count as a wall that stands.
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
    assert!(host.ok(&["audit", "--probe"]).contains("probes had the expected result"));
}

#[test]
fn a_page_is_written_and_a_changed_log_is_detected() {
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
    assert!(host.log().contains(&mark), "the mark is logged");
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
