//! The outbox of events: everything is in it once it has happened, whoever is killed; a tenant sees its own; a reader that
//! follows goes on.

use bailiwick_proto::frame::{MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::{ControlReply, ControlRequest, Incoming, transport};
use bailiwick_tests::{Host, Pool, until};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

fn events(host: &Host, more: &[&str]) -> Vec<Value> {
    let arguments = [&["events", "--since", "1h", "--json"], more].concat();
    serde_json::from_str(&host.ok(&arguments)).expect("JSON")
}

fn types(events: &[Value]) -> Vec<String> {
    events.iter().map(|event| event["type"].as_str().expect("a word").to_owned()).collect()
}

fn has(host: &Host, tenant: &str, kind: &str) -> bool {
    !events(host, &["--tenant", tenant, "--type", kind]).is_empty()
}

fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status().expect("kill runs");
    assert!(status.success());
}

/// Waits until the daemon answers.
fn is_back(host: &Host) {
    until("the daemon answers", || host.cli(&["status"]).status.success());
}

/// As a host process with the id of a tenant's user.
fn as_tenant(host: &Host, tenant: &str, arguments: &[&str]) -> Output {
    let shown: Value = serde_json::from_str(&host.ok(&["show", tenant, "--json"])).expect("JSON");
    let uid = (shown["ids"]["first"].as_u64().expect("a number") + 1000).to_string();
    // Other users may have no access to the directory of the programs.
    std::fs::create_dir_all(host.path("bin")).expect("mkdir");
    // By another process: a descriptor of this one that is open for writing may be in a child of another test, and then
    // nobody can execute the file.
    let program = bailiwick_tests::stage().join("bailiwick");
    assert!(Command::new("cp").arg(program).arg(host.path("bin")).status().expect("cp runs").success());
    Command::new("setpriv")
        .args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"])
        .arg(host.path("bin/bailiwick"))
        .arg("--config")
        .arg(host.path("etc"))
        .args(arguments)
        .output()
        .expect("setpriv runs")
}

#[test]
fn a_day_of_two_tenants_is_told_in_order_and_each_sees_its_own() {
    let mut host = Host::new();
    host.declare("bob", "web");
    host.start();
    host.ok(&["apply"]);
    host.ok(&["create", "alice", "--plan", "web"]);
    assert_eq!(host.inside("alice", "true").0, 0);
    assert_eq!(host.inside("alice", "exit 3").0, 3);
    host.ok(&["freeze", "alice"]);
    host.ok(&["thaw", "alice"]);
    host.ok(&["suspend", "alice", "--reason", "unpaid bill"]);
    host.ok(&["unsuspend", "alice"]);
    host.ok(&["audit"]);
    host.write("etc/tenants.d/broken.toml", "plan = 7\n");
    assert!(!host.cli(&["reload"]).status.success());
    assert!(!host.cli(&["reload"]).status.success());
    std::fs::remove_file(host.path("etc/tenants.d/broken.toml")).expect("removes");
    host.ok(&["reload"]);
    host.ok(&["delete", "alice"]);
    until("it is told that she is deleted", || has(&host, "alice", "tenant.deleted"));

    let of_alice = types(&events(&host, &["--tenant", "alice"]));
    let golden = [
        "tenant.created",
        "tenant.started",
        "session.opened",
        "session.closed",
        "session.opened",
        "session.closed",
        "tenant.frozen",
        "tenant.thawed",
        "tenant.suspended",
        "tenant.unsuspended",
        "tenant.deleted",
    ];
    let seen: Vec<&str> = of_alice.iter().map(String::as_str).filter(|kind| golden.contains(kind)).collect();
    // Who reads the new file first is open: the one who starts the jail, or the recorder.
    let in_order: Vec<&str> = golden.iter().copied().filter(|kind| !kind.starts_with("tenant.created")).collect();
    let mut rest = seen.iter();
    assert!(in_order.iter().all(|kind| rest.any(|one| one == kind)), "{of_alice:?}");
    assert_eq!(seen.iter().filter(|kind| **kind == "tenant.created").count(), 1, "{of_alice:?}");
    let all = events(&host, &[]);
    let numbers: Vec<u64> = all.iter().map(|event| event["seq"].as_u64().expect("a number")).collect();
    assert!(numbers.is_sorted() && numbers.iter().collect::<BTreeSet<_>>().len() == numbers.len(), "{numbers:?}");
    let of = |kind: &str| all.iter().filter(|event| event["type"] == kind).collect::<Vec<_>>();
    assert_eq!(of("tenant.suspended")[0]["data"]["reason"], "unpaid bill");
    assert_eq!(of("tenant.created").len(), 1, "bob was there before the outbox was: {all:?}");
    assert_eq!(of("session.closed")[1]["data"]["status"], "3");
    assert_eq!(
        (&of("operator.apply")[0]["actor"], &of("operator.apply")[0]["tenant"]),
        (&Value::from(0), &Value::Null)
    );
    let problems = of("policy.invalid");
    assert_eq!((problems.len(), of("policy.valid").len()), (1, 1), "each once: {all:?}");
    assert!(problems[0]["data"]["first"].as_str().is_some_and(|first| first.contains("broken.toml")), "{problems:?}");
    assert_eq!((of("audit.done").len(), of("host.ready").len()), (1, 1));

    let text = host.ok(&["events", "--tenant", "alice", "--type", "session"]);
    assert_eq!(text.lines().count(), 4, "{text}");
    let last = numbers.last().expect("some").to_string();
    assert_eq!(host.ok(&["events", "--after", &last, "--json"]).trim(), "[]");
    assert_eq!(host.cli(&["events", "--type", "nothing"]).status.code(), Some(2));

    let own = as_tenant(&host, "bob", &["events", "--json"]);
    let own: Vec<Value> = serde_json::from_slice(&own.stdout).expect("JSON");
    assert!(!own.is_empty() && own.iter().all(|event| event["tenant"] == "bob"), "{own:?}");
    for event in &own {
        assert_eq!((&event["actor"], &event["data"]["text"]), (&Value::Null, &Value::Null), "{event}");
        assert!(!event["type"].as_str().is_some_and(|kind| kind.starts_with("operator")), "{event}");
    }
    assert_eq!(as_tenant(&host, "bob", &["events", "--tenant", "alice"]).status.code(), Some(5));
    host.ok(&["delete", "bob"]);
}

#[test]
fn the_next_tenant_of_a_name_does_not_see_what_the_former_one_did() {
    let mut host = Host::new();
    host.start();
    host.ok(&["create", "alice", "--plan", "web"]);
    assert_eq!(host.inside("alice", "true").0, 0);
    host.ok(&["delete", "alice", "--purge"]);
    until("it is told", || has(&host, "alice", "tenant.purged"));
    host.ok(&["create", "alice", "--plan", "web"]);
    until("it is told", || events(&host, &["--tenant", "alice", "--type", "tenant.started"]).len() == 2);
    let own = as_tenant(&host, "alice", &["events", "--json"]);
    let own: Vec<Value> =
        serde_json::from_slice(&own.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&own.stderr)));
    let seen = types(&own);
    assert!(seen.contains(&"tenant.started".to_owned()) && !seen.contains(&"session.opened".to_owned()), "{seen:?}");
    host.ok(&["delete", "alice"]);
}

#[test]
fn whoever_is_killed_nothing_is_lost_and_nothing_is_told_twice() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start();
    host.ok(&["apply"]);
    let mut opened = 0;
    for round in 0..8 {
        for _ in 0..3 {
            let entered = host.inside("alice", "true");
            opened += usize::from(entered.0 == 0);
        }
        // At once, before the recorder could have written.
        let program = if round % 4 == 3 { "bailiwick-warden" } else { "bailiwickd" };
        let victim = host.program(program);
        signal(victim, "KILL");
        until("another one runs", || host.find_program(program).is_some_and(|pid| pid != victim));
        is_back(&host);
    }
    until("all that were let in are told", || events(&host, &["--type", "session.opened"]).len() >= opened);
    let all = events(&host, &[]);
    let mut of_session: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in all.iter().filter(|event| event["type"].as_str().is_some_and(|kind| kind.starts_with("session."))) {
        let id = event["data"]["session"].as_str().unwrap_or_default().to_owned();
        of_session.entry(id).or_default().push(event["type"].as_str().expect("a word").to_owned());
    }
    for (id, kinds) in &of_session {
        let distinct: BTreeSet<&String> = kinds.iter().collect();
        assert_eq!(distinct.len(), kinds.len(), "{id} is told once: {kinds:?}");
    }
    assert_eq!(all.iter().filter(|event| event["type"] == "tenant.started").count(), 1, "{all:?}");
    assert_eq!(all.iter().filter(|event| event["type"] == "tenant.created").count(), 0, "{all:?}");
    assert!(all.iter().filter(|event| event["type"] == "host.ready").count() >= 7, "{all:?}");
    assert!(has_type(&all, "host.warden-lost") && has_type(&all, "host.warden-back"), "{all:?}");

    // What changes while nobody runs is told by the next daemon.
    host.kill();
    host.declare("bob", "web");
    host.write("etc/tenants.d/alice.toml", "plan = \"web\"\nstate = \"suspended\"\n");
    host.start();
    is_back(&host);
    until("it is found", || has(&host, "bob", "tenant.created") && has(&host, "alice", "tenant.suspended"));
    until("her jail is gone", || has(&host, "alice", "tenant.stopped"));
    host.ok(&["stop", "bob"]);
}

fn has_type(events: &[Value], kind: &str) -> bool {
    events.iter().any(|event| event["type"] == kind)
}

/// A `bailiwick events -f` with its lines.
struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    fn start(host: &Host, more: &[&str]) -> Self {
        let mut command = host.command(&[&["events", "-f", "--json"], more].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
        let stdout = child.stdout.take().expect("a pipe");
        let (sender, lines) = sync_channel(10_000);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn next(&self, kind: &str) -> Value {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| panic!("no {kind} came"));
            let event: Value = serde_json::from_str(&line).expect("one object in a line");
            if event["type"] == kind {
                return event;
            }
        }
    }

    /// Interrupts it, as Ctrl-C does. Returns its status, and what it said.
    fn interrupt(mut self) -> (Option<i32>, String) {
        signal(self.child.id(), "INT");
        let status = self.child.wait().expect("ends");
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.child.stderr.take().expect("a pipe"), &mut said).expect("reads");
        (status.code(), said)
    }
}

#[test]
fn a_reader_that_follows_goes_on_over_restarts_and_ends_cleanly() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start();
    host.ok(&["apply"]);
    let follower = Follower::start(&host, &["--after", "0"]);
    follower.next("tenant.started");
    assert_eq!(host.inside("alice", "true").0, 0);
    let first = follower.next("session.closed");
    let victim = host.program("bailiwickd");
    signal(victim, "KILL");
    is_back(&host);
    assert_eq!(host.inside("alice", "exit 9").0, 9);
    let second = follower.next("session.closed");
    assert_eq!(second["data"]["status"], "9");
    assert!(second["seq"].as_u64() > first["seq"].as_u64());
    // An orderly end does not wait for readers.
    let before = Instant::now();
    host.end();
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    host.start();
    is_back(&host);
    assert_eq!(host.inside("alice", "exit 4").0, 4);
    assert_eq!(follower.next("session.closed")["data"]["status"], "4");
    let (status, said) = follower.interrupt();
    assert_eq!(status, Some(0), "{said}");
    // One that only wants what is new gets nothing old.
    let old = events(&host, &[]).iter().filter_map(|event| event["seq"].as_u64()).max();
    let follower = Follower::start(&host, &["--type", "session"]);
    let mut line = None;
    // It may come late to the first ones.
    until("something new is told", || {
        assert_eq!(host.inside("alice", "exit 5").0, 5);
        line = follower.lines.recv_timeout(Duration::from_secs(1)).ok();
        line.is_some()
    });
    let first: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
    assert!(first["seq"].as_u64() > old, "{first}: {old:?}");
    assert_eq!(follower.next("session.closed")["data"]["status"], "5");
    // It waits for as long as nothing happens, also in the time of no reply.
    assert_eq!(follower.interrupt(), (Some(0), String::new()));
    host.ok(&["stop", "alice"]);
}

/// Another address for each number.
fn address(number: usize) -> String {
    format!("10.1.{}.{}", number / 250, number % 250)
}

/// Sends requests over one connection, one after another, each of which is an event.
fn refuse_logins(socket: &Path, count: usize) -> Duration {
    let stream = UnixStream::connect(socket).expect("connects");
    let mut incoming = Incoming::new(MAX_REPLY, 0);
    let begin = Instant::now();
    for number in 0..count {
        let request = ControlRequest::FtpRefused { user: "nobody.here".to_owned(), source: Some(address(number)) };
        transport::send(&stream, &request, MAX_REQUEST, &[]).expect("sends");
        let soon = Instant::now() + Duration::from_secs(60);
        let (reply, _) = transport::receive::<ControlReply>(&stream, &mut incoming, soon).expect("a reply");
        assert_eq!(reply, ControlReply::Noted);
    }
    begin.elapsed()
}

#[test]
fn thousands_of_events_in_a_moment_lose_none_and_hold_nobody_up() {
    const COUNT: usize = 6000;
    let mut host = Host::new();
    host.write("etc/bailiwick.toml", &host.default_config("events = { keep = \"1d\", most = 1_000_000 }\n"));
    host.declare("alice", "web");
    host.declare("bob", "web");
    host.start();
    host.ok(&["apply"]);
    let socket = host.path("run/control/bailiwick.sock");
    let flood = std::thread::spawn(move || refuse_logins(&socket, COUNT));
    let mut sessions = 0;
    while !flood.is_finished() || sessions == 0 {
        assert_eq!(host.inside("bob", "true").0, 0);
        sessions += 1;
    }
    let time = flood.join().expect("ends");
    let refused = || events(&host, &["--type", "session.refused"]);
    until("all are told", || refused().len() >= COUNT);
    // Each is one of its own, and they are in order. Nobody was asked for.
    let sources: Vec<Value> = refused().iter().map(|event| event["data"]["source"].clone()).collect();
    assert!(sources == (0..COUNT).map(|number| Value::from(address(number))).collect::<Vec<_>>(), "{sources:?}");
    assert!(refused().iter().all(|event| event["tenant"].is_null() && event["data"]["asked_for"].is_null()));
    assert_eq!(events(&host, &["--tenant", "bob", "--type", "session.opened"]).len(), sessions);
    assert!(!has_type(&events(&host, &["--type", "events"]), "events.lost"));
    let rate = COUNT as f64 / time.as_secs_f64();
    writeln!(std::io::stderr(), "{COUNT} events in {time:?}, {rate:.0} a second; {sessions} sessions meanwhile")
        .expect("prints");
    host.ok(&["stop", "alice", "bob"]);
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

#[test]
fn a_full_disk_is_told_and_loses_no_event() {
    let pool = Pool::in_memory("64M", &["mkfs.ext4", "-q", "-m", "0"]);
    let mut host = Host::new();
    std::fs::create_dir_all(host.path("state/history")).expect("mkdir");
    std::fs::set_permissions(host.path("state"), Permissions::from_mode(0o711)).expect("chmod");
    let mounted = Command::new("mount").arg("--bind").arg(pool.path()).arg(host.path("state/history")).status();
    assert!(mounted.expect("mount runs").success());
    let _mount = Unmount(host.path("state/history"));
    host.declare("alice", "web");
    host.start();
    host.ok(&["apply"]);
    until("it is told", || has(&host, "alice", "tenant.started"));
    let filler = fill(pool.path());
    let mut sessions = 0;
    // There may be a little room left in the files of the history.
    until("it cannot be written", || {
        sessions += 1;
        assert_eq!(host.inside("alice", "true").0, 0, "nobody waits for the disk");
        host.cli(&["status"]).stdout.windows(4).any(|part| part == b"full")
    });
    assert!(host.log().contains("event=\"events-not-written\""), "{}", host.log());
    let before = events(&host, &[]);
    for _ in 0..20 {
        sessions += 1;
        assert_eq!(host.inside("alice", "true").0, 0);
    }
    // bailiwickd hears of the end of a session after its client does.
    until("all ends are heard", || host.log().matches("event=\"session-closed\"").count() == sessions);
    // What waits outlives a kill, and what could be read stays.
    let victim = host.program("bailiwickd");
    signal(victim, "KILL");
    until("another one runs", || host.find_program("bailiwickd").is_some_and(|pid| pid != victim));
    std::fs::remove_file(filler).expect("removes");
    is_back(&host);
    // The history is opened again within some seconds.
    until("events can be read", || host.cli(&["events"]).status.success());
    until("all are told", || events(&host, &["--type", "session.closed"]).len() == sessions);
    let after = events(&host, &[]);
    assert_eq!(after[..before.len()], before[..]);
    assert!(!has_type(&after, "events.lost"), "{after:?}");
    host.ok(&["stop", "alice"]);
    host.end();
}

/// Removes a mount at the end of a test.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[test]
fn limits_that_are_near_reached_and_clear_are_told_once() {
    let mut host = Host::new();
    host.write("etc/tenants.d/alice.toml", "plan = \"web\"\n[limits]\ntasks = 20\n");
    host.start();
    host.ok(&["apply"]);
    // With version 1 of control groups faults are read once a minute, and what came before the first reading is not counted.
    let deadline = Instant::now() + Duration::from_secs(300);
    while !has(&host, "alice", "limit.reached") {
        assert!(Instant::now() < deadline, "it is told");
        // More processes than the limit: some are refused.
        let (status, _, said) = host.inside("alice", "for i in $(seq 30); do sleep 2 & done; wait");
        assert!(status != 0 || said.contains("fork"), "{said}");
    }
    let reached = events(&host, &["--type", "limit.reached"]);
    assert_eq!((reached.len(), &reached[0]["data"]["limit"]), (1, &Value::from("tasks")));
    assert!(has(&host, "alice", "incident.begun"));
    host.inside("alice", "for i in $(seq 30); do sleep 1 & done; wait");
    let victim = host.program("bailiwickd");
    signal(victim, "KILL");
    is_back(&host);
    host.inside("alice", "for i in $(seq 30); do sleep 1 & done; wait");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(events(&host, &["--type", "limit.reached"]).len(), 1, "also over a restart");
    host.ok(&["stop", "alice"]);
}
