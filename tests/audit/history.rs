//! The history: usage is measured, hits of limits are reported, and neither a crash nor a damaged file stops the
//! host.

use bailiwick_history::{History, HistoryError, Retention, Sample};
use bailiwick_tests::{Host, Pool};
use bailiwick_types::{Moment, Usage};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn json(host: &Host, arguments: &[&str]) -> Value {
    let mut all = arguments.to_vec();
    all.push("--json");
    serde_json::from_str(&host.ok(&all)).expect("JSON")
}

/// Starts a command in a jail that runs beside the test.
fn spawn_inside(host: &Host, tenant: &str, line: &str) -> std::process::Child {
    Command::new(bailiwick_tests::stage().join("bailiwick"))
        .args(["exec", "--config"])
        .arg(host.path("etc"))
        .args([tenant, "--", "sh", "-c", line])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("runs")
}

fn until<T>(what: &str, time: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + time;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// The warden's unit has a umask that takes all rights from others, and `bailiwickd` reads the control groups as one of them.
#[test]
fn what_tenants_use_is_known_whatever_the_umask_is() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.run_through(&["sh", "-c", "umask 0077; exec \"$@\"", "sh"].map(str::to_owned));
    host.start();
    host.ok(&["apply"]);
    let text = host.ok(&["usage", "--now"]);
    let mut rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let (header, alice) = (rows.next().expect("a header"), rows.next().expect("alice"));
    let column = header.iter().position(|name| *name == "TASKS").expect("a column");
    assert!(alice[column].parse::<u64>().is_ok_and(|tasks| tasks > 0), "{text}");
}

/// The report of the host has both tenants, the page of a tenant nothing of the other, and a command of a session is only
/// text. `busy` has three sessions; `large` was killed for its memory.
fn reports_tell_what_was_measured(host: &Host) {
    let report = json(host, &["report", "--since", "1h"]);
    assert_eq!(
        (report["scope"].as_str(), report["gaps"].as_array().map(Vec::len)),
        (Some("host"), Some(0)),
        "{report}"
    );
    let busy = &report["tenants"][0];
    assert_eq!((busy["name"].as_str(), busy["sessions"].as_array().map(Vec::len)), (Some("busy"), Some(3)), "{busy}");
    assert!(busy["history"].as_array().is_some_and(|points| !points.is_empty()), "{busy}");
    assert!(busy["audit"]["limits"].as_array().is_some_and(|limits| !limits.is_empty()), "{busy}");
    let text = host.ok(&["report"]);
    assert!(
        text.contains("the limit memory was hit once") && text.contains("the limit sessions was hit once"),
        "{text}"
    );

    let page = host.ok(&["report", "--html"]);
    for part in ["<h1>", "id=\"tenant-busy\"", "id=\"tenant-large\"", "<svg role=\"img\"", "default-src 'none'"] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && !page.contains("<script"), "{page}");
    let file = host.path("large.html");
    host.ok(&["report", "large", "--html", "--output", &file.display().to_string()]);
    let page = std::fs::read_to_string(&file).expect("a page");
    assert!(page.contains("<h1>large</h1>") && !page.contains("busy"), "nothing of its neighbour");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).expect("a file").permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(host.cli(&["report", "nemo"]).status.code(), Some(3));
}

/// As a host process with the id of a tenant's user, like a login through a door: reads its own data, and no other.
/// `own` is an incident of the tenant, `other` one of another.
fn a_tenant_sees_its_own_without_root(host: &Host, own: u64, other: u64) {
    let shown = json(host, &["show", "busy"]);
    let uid = (shown["ids"]["first"].as_u64().expect("a number") + 1000).to_string();
    let ask = |arguments: &[&str]| {
        Command::new("setpriv")
            .args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"])
            .arg(host.path("bin/bailiwick"))
            .args(&arguments[..1])
            .arg("--config")
            .arg(host.path("etc"))
            .args(&arguments[1..])
            .output()
            .expect("setpriv runs")
    };
    // Other users may have no access to the directory of the programs.
    bailiwick_tests::copy_program(&bailiwick_tests::stage().join("bailiwick"), &host.path("bin/bailiwick"));
    let text = |output: &std::process::Output| {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let usage = ask(&["usage", "--json"]);
    assert!(
        usage.status.success() && text(&usage).contains("busy") && !text(&usage).contains("large"),
        "{}",
        text(&usage)
    );
    let incidents = ask(&["incidents", "--json"]);
    assert!(incidents.status.success() && !text(&incidents).contains("large"), "{}", text(&incidents));
    assert!(ask(&["history", "busy"]).status.success());
    assert!(ask(&["incidents", "--show", &own.to_string()]).status.success());
    let (own_only, unknown) = (Some(5), Some(3));
    assert_eq!(ask(&["usage", "large"]).status.code(), own_only);
    assert_eq!(ask(&["history", "large"]).status.code(), own_only);
    let page = ask(&["report", "--html"]);
    assert!(page.status.success(), "{}", text(&page));
    assert!(text(&page).contains("<h1>busy</h1>") && !text(&page).contains("large"), "nothing of its neighbour");
    assert!(!text(&page).contains("Open sessions"), "what only operators may ask for");
    assert_eq!(ask(&["report", "large"]).status.code(), own_only);
    assert_eq!(ask(&["incidents", "--show", &other.to_string()]).status.code(), unknown);
    for command in [&["list"][..], &["audit"], &["apply"], &["stop", "busy"], &["show", "busy"], &["audit", "--verify"]]
    {
        let output = ask(command);
        assert_eq!(output.status.code(), own_only, "{command:?}: {}", text(&output));
    }
}

#[test]
fn a_minute_of_two_tenants_is_measured() {
    let mut host = Host::new();
    host.write("etc/tenants.d/busy.toml", "plan = \"web\"\n[limits]\ncpu = \"20%\"\nsessions = 3\n");
    host.write("etc/tenants.d/large.toml", "plan = \"web\"\n[limits]\nmemory = \"64M\"\n");
    host.start();
    host.ok(&["apply"]);
    let spin = spawn_inside(&host, "busy", "timeout 80 sh -c 'while :; do :; done'");
    let named = "sleep 80 # <script>alert(1)</script>";
    let mut held = [spawn_inside(&host, "busy", named), spawn_inside(&host, "busy", "sleep 80")];
    std::thread::sleep(Duration::from_secs(1));
    let refused = host.cli(&["exec", "busy", "--", "true"]);
    assert_eq!(refused.status.code(), Some(125), "three sessions are the limit");
    assert_ne!(host.inside("large", "perl -e 'my $x = \"x\" x (200 << 20)'").0, 0);
    let usage = until("a minute is measured", Duration::from_secs(90), || {
        let rows = json(&host, &["usage"]);
        (rows.as_array().is_some_and(|rows| rows.len() == 2)).then_some(rows)
    });

    let (busy, large) = (&usage[0], &usage[1]);
    assert_eq!((busy["tenant"].as_str(), large["tenant"].as_str()), (Some("busy"), Some("large")));
    let seconds = busy["total"]["seconds"].as_u64().expect("a number");
    let cpu = busy["total"]["usage"]["cpu"].as_u64().expect("measured");
    // A fifth of a core, with tolerance because the kernel accounts in slices.
    assert!((seconds * 120_000..=seconds * 280_000).contains(&cpu), "{cpu} in {seconds} s");
    assert!(busy["total"]["usage"]["throttled"].as_u64().is_some_and(|held| held > 0), "{busy}");
    assert_eq!(busy["total"]["peak"]["sessions"], 3);
    assert_eq!(busy["limits"]["cpu"], 200_000);
    assert_eq!((busy["faults"]["sessions"].as_u64(), large["faults"]["memory"].as_u64()), (Some(1), Some(1)));

    let faults = json(&host, &["faults", "large"]);
    assert!(faults.as_array().expect("rows").iter().any(|fault| fault["limit"] == "memory"), "{faults}");
    let incidents = json(&host, &["incidents"]);
    let of = |kind: &str| incidents.as_array().expect("rows").iter().find(|incident| incident["kind"] == kind).cloned();
    let memory = of("memory").unwrap_or_else(|| panic!("{incidents}"));
    assert_eq!(memory["tenant"], "large");
    assert_eq!(memory["snapshots"], Value::Array(Vec::new()), "the list is without evidence");
    let cpu = of("cpu").unwrap_or_else(|| panic!("{incidents}"));
    let shown = json(&host, &["incidents", "--show", &cpu["id"].to_string()]);
    let processes = shown["snapshots"][0]["processes"].as_array().expect("evidence").clone();
    assert!(processes.iter().any(|process| process["command"] == "sh"), "{shown}");
    let share = &shown["snapshots"][0]["pressure"][0];
    assert!(share["resource"] == "cpu" && share["own"].as_u64().is_some_and(|own| own > 0), "{shown}");

    let points = json(&host, &["history", "busy", "--since", "10m", "--step", "1m"]);
    assert!(!points.as_array().expect("points").is_empty());
    let text = host.ok(&["usage", "--by", "cpu", "--threshold", "50%"]);
    assert!(text.contains("busy") && text.contains("20.0%") && !text.contains("large"), "{text}");
    host.write("new/web.toml", "profile = \"web\"\n[limits]\ntasks = 8\nmemory = \"16M\"\n");
    let file = host.path("new/web.toml").display().to_string();
    // The tenant's own value of memory overrides the plan's.
    let simulated = json(&host, &["plan", "--simulate", &file, "--since", "1h"]);
    let row = |tenant: &str, measure: &str| {
        let rows = simulated.as_array().expect("rows");
        rows.iter().find(|row| row["tenant"] == tenant && row["measure"] == measure).cloned().expect("a row")
    };
    assert_eq!(
        (row("large", "memory")["bound"].as_u64(), row("busy", "tasks")["bound"].as_u64()),
        (Some(64 << 20), Some(8))
    );
    let missing = host.cli(&["incidents", "--show", "9999"]);
    assert_eq!(missing.status.code(), Some(3));
    assert_eq!(host.cli(&["history", "nemo"]).status.code(), Some(3));
    assert_eq!(host.cli(&["usage", "--since", "soon"]).status.code(), Some(2));

    reports_tell_what_was_measured(&host);
    a_tenant_sees_its_own_without_root(
        &host,
        cpu["id"].as_u64().expect("a number"),
        memory["id"].as_u64().expect("a number"),
    );

    // After a kill in the middle, all data is still there.
    host.kill();
    host.start();
    until("it is back", Duration::from_secs(30), || host.cli(&["list"]).status.success().then_some(()));
    assert_eq!(json(&host, &["usage"]).as_array().map(Vec::len), Some(2));
    for child in held.iter_mut().chain([&mut { spin }]) {
        child.kill().ok();
        child.wait().expect("ends");
    }
    host.ok(&["delete", "large", "--purge"]);
    let left = json(&host, &["usage"]);
    assert_eq!(left.as_array().expect("rows").len(), 1, "a purged tenant is removed from the history: {left}");
}

/// Whether a share of pressure is that of a tenant that waits for the processor mostly because of its neighbour or the host.
fn waits_mostly_for_others(share: &Value) -> bool {
    share["resource"] == "cpu"
        && (share["neighbour"] == "greedy" || share["neighbour"] == Value::Null)
        && share["others"].as_u64() > share["own"].as_u64()
}

#[test]
fn an_incident_names_the_neighbour_that_is_waited_for() {
    let mut host = Host::new();
    host.write("etc/tenants.d/meek.toml", "plan = \"web\"\n[limits]\ncpu = \"unlimited\"\n");
    host.declare("idle", "web");
    host.write("etc/tenants.d/greedy.toml", "plan = \"web\"\n[limits]\ncpu = \"unlimited\"\ncpu_weight = 1000\n");
    host.start();
    host.ok(&["apply"]);
    let spin = |count: u32| format!("for i in $(seq {count}); do timeout 100 sh -c 'while :; do :; done' & done; wait");
    // Both want more than there is, and one of them gets ten times as much.
    let mut busy = [spawn_inside(&host, "meek", &spin(8)), spawn_inside(&host, "greedy", &spin(8))];
    // On a busy machine the host itself may have used the most.
    until("the meek waits for others", Duration::from_secs(90), || {
        let incidents = json(&host, &["incidents", "meek"]);
        let incident = incidents.as_array()?.iter().find(|incident| incident["kind"] == "pressure-cpu")?;
        let shown = json(&host, &["incidents", "--show", &incident["id"].to_string()]);
        let mut shares = shown["snapshots"].as_array()?.iter().map(|snapshot| &snapshot["pressure"][0]);
        shares.any(waits_mostly_for_others).then_some(())
    });
    // On a very busy machine a jail waits while it starts; an idle one waits for nothing after that.
    let of_idle = || json(&host, &["incidents", "idle"]);
    let looks = || {
        let incidents = json(&host, &["incidents", "meek"]);
        incidents.as_array().expect("a list").iter().filter_map(|incident| incident["faults"].as_u64()).sum::<u64>()
    };
    let (started, seen) = (of_idle(), looks());
    until("the meek keeps waiting", Duration::from_secs(90), || (looks() > seen).then_some(()));
    assert_eq!(of_idle(), started);
    for child in &mut busy {
        child.kill().ok();
        child.wait().expect("ends");
    }
}

/// The daemon as started by a service manager: as its own user, with a separate directory of its own.
struct Managed(std::process::Child);

impl Managed {
    fn start(host: &Host, own: &Path) -> Self {
        use std::os::unix::process::CommandExt;
        let log = std::fs::OpenOptions::new().append(true).open(host.path("log")).expect("the log");
        let mut command = Command::new(bailiwick_tests::stage().join("bailiwickd"));
        command.arg("--config").arg(host.path("etc")).env("STATE_DIRECTORY", own).uid(64_999).gid(64_999);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("runs"))
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn the_daemons_data_is_in_its_own_directory_wherever_the_state_is() {
    let mut host = Host::new();
    let timer = "[[timer]]\nname = \"once\"\nschedule = \"@reboot\"\ncommand = [\"/bin/sh\", \"-c\", \"exit 7\"]\n";
    host.write("etc/tenants.d/alice.toml", &format!("plan = \"web\"\ndoors = [\"exec\", \"cron\"]\n{timer}"));
    let ran = |host: &Host| (json(host, &["timers"])[0]["last"]["status"] == 7).then_some(());
    // As in an earlier version, and as without a service manager.
    host.start();
    host.ok(&["apply"]);
    host.ok(&["audit"]);
    until("it has run", Duration::from_secs(60), || ran(&host));
    let shown = json(&host, &["timers"]);
    host.end();
    let old = host.path("state/history");
    let names =
        || -> Vec<_> { std::fs::read_dir(&old).expect("lists").flatten().map(|entry| entry.file_name()).collect() };
    for file in ["history.db", "audit.log", "audit.head", "timers.json"] {
        assert!(names().iter().any(|name| name == file), "{file}: {:?}", names());
    }
    let own = host.path("own");
    std::fs::create_dir(&own).expect("mkdir");
    std::os::unix::fs::chown(&own, Some(64_999), Some(64_999)).expect("chown");
    host.start_warden();
    let daemon = Managed::start(&host, &own);
    until("it serves", Duration::from_secs(60), || host.cli(&["list"]).status.success().then_some(()));
    assert_eq!(json(&host, &["timers"]), shown, "finished runs are known");
    assert!(host.log().contains("event=\"history-moved\""), "{}", host.log());
    host.ok(&["audit"]);
    host.ok(&["audit", "--verify"]);
    let lines = std::fs::read_to_string(own.join("audit.log")).expect("the log").lines().count();
    assert_eq!(lines, 2, "the chain continues");
    until("the history", Duration::from_secs(30), || own.join("history.db").exists().then_some(()));
    assert_eq!(names(), [""; 0], "nothing is left, and nothing new was created");
    drop(daemon);
    // Once it is there, it stays there.
    let _daemon = Managed::start(&host, &own);
    until("it serves", Duration::from_secs(60), || host.cli(&["list"]).status.success().then_some(()));
    assert_eq!(host.log().matches("history-moved").count(), 1);
    host.ok(&["audit", "--verify"]);
    assert!(!own.join("earlier-1").exists());
    host.ok(&["stop", "alice"]);
}

#[test]
fn a_damaged_history_is_moved_aside_and_a_newer_one_left_alone() {
    let mut host = Host::new();
    host.declare("web", "web");
    host.start();
    host.ok(&["apply"]);
    until("it is made", Duration::from_secs(30), || host.path("state/history/history.db").exists().then_some(()));
    host.end();
    let path = host.path("state/history/history.db");
    let remove_log = || {
        for suffix in ["-wal", "-shm"] {
            std::fs::remove_file(format!("{}{suffix}", path.display())).ok();
        }
    };
    // With its write-ahead log it would be whole again.
    remove_log();
    std::fs::write(&path, "not a database, but long enough that a program that opens it reads its whole header")
        .expect("writes");
    host.start();
    until("it says so", Duration::from_secs(30), || host.log().contains("history-damaged").then_some(()));
    assert!(host.path("state/history/history.db.damaged-1").exists());
    assert_eq!(host.inside("web", "echo in").1.trim(), "in");
    assert_eq!(host.ok(&["usage"]).lines().count(), 1, "an empty one was created");
    host.end();
    remove_log();
    std::fs::remove_file(&path).expect("removes");
    host.start();
    until("it is made", Duration::from_secs(30), || path.exists().then_some(()));
    std::thread::sleep(Duration::from_millis(500));
    host.end();
    let newer = rusqlite::Connection::open(&path).expect("opens");
    newer.pragma_update(None, "user_version", 99).expect("sets");
    drop(newer);
    host.start();
    until("it says so", Duration::from_secs(30), || host.log().contains("is of version 99").then_some(()));
    let output = host.cli(&["usage"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("version 99"));
    let status = host.ok(&["status"]);
    assert!(status.contains("what tenants use is not recorded: ") && status.contains("version 99"), "{status}");
    assert_eq!(host.inside("web", "echo in").1.trim(), "in", "everything else still works");
}

/// Fills a file system to the last byte.
fn fill(dir: &Path) -> PathBuf {
    let path = dir.join("filler");
    let mut file = std::fs::File::create(&path).expect("creates");
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; size]).and_then(|()| file.sync_data()).is_ok() {}
    }
    path
}

/// On a copy-on-write file system even overwriting needs free space. A mapped page without space raises SIGBUS,
/// which would kill this test as it killed the daemon.
#[test]
fn a_disk_that_is_full_at_any_step_loses_only_samples() {
    let tenants: Vec<_> = (0..50).map(|number| bailiwick_tests::name(&format!("t{number}"))).collect();
    for (what, pool) in [
        ("btrfs", Pool::in_memory("160M", &["mkfs.btrfs", "-q"])),
        ("ext4", Pool::in_memory("64M", &["mkfs.ext4", "-q", "-m", "0"])),
    ] {
        let path = pool.path().join("history.db");
        let (mut history, _) = History::open(&path, Retention::default()).expect("opens");
        let mut minute = 0;
        let mut write = |history: &mut History| {
            minute += 1;
            let samples: Vec<_> = tenants
                .iter()
                .map(|name| (name.clone(), Sample { seconds: 60, usage: Usage::default(), counters: Usage::default() }))
                .collect();
            history.write(Moment(600_000 + minute * 60), &samples, &[]).and_then(|()| history.maintain())
        };
        // The disk is full before each of these writes, including the first and the checkpoints of the log, and at
        // an open.
        for step in 0..40 {
            let filler = fill(pool.path());
            for _ in 0..3 {
                if let Err(error) = write(&mut history) {
                    assert!(
                        matches!(error, HistoryError::Full | HistoryError::Database { .. }),
                        "{what} {step}: {error}"
                    );
                }
            }
            if step % 10 == 9 {
                drop(history);
                let again = History::open(&path, Retention::default());
                std::fs::remove_file(&filler).expect("removes");
                history = match again {
                    Ok((history, damaged)) => {
                        assert_eq!(damaged, None, "{what} {step}");
                        history
                    }
                    Err(_) => {
                        let (history, damaged) = History::open(&path, Retention::default()).expect("opens with room");
                        assert_eq!(damaged, None, "{what} {step}");
                        history
                    }
                };
            } else {
                std::fs::remove_file(&filler).expect("removes");
            }
            // btrfs frees the space with its next commit.
            until(&format!("{what} {step}: room again"), Duration::from_secs(60), || {
                Command::new("sync").arg("-f").arg(pool.path()).status().expect("sync runs");
                write(&mut history).ok()
            });
        }
    }
}
