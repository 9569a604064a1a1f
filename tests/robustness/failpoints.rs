//! Every step of a start is made to fail, and to end the process: nothing may be left behind, and the next start
//! must work.

use bailiwick_proto::frame::{MAX_REQUEST, encode};
use bailiwick_proto::{Hold, WardenReply, WardenRequest};
use bailiwick_tests::{Host, name, profiles, stage, until};
use bailiwick_types::{FrozenBy, QuotaFacts};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The steps, listed by the program itself, so that a new step is covered at once.
fn steps() -> Vec<String> {
    let output = Command::new(stage().join("failpoints/bailiwick-warden")).arg("--steps").output().expect("runs");
    let steps: Vec<String> = String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect();
    assert!(steps.len() >= 19, "{steps:?}");
    steps
}

/// Steps in the child: ending the process there ends the child, not the warden.
const INSIDE: &[&str] = &["listener", "identity", "root", "mounts", "pivot", "settings", "confine", "exec"];

fn start() -> WardenRequest {
    WardenRequest::Start { tenant: name("alice") }
}

/// `bailiwickd` with a warden that was started separately: a warden that it starts itself gets a clean environment
/// without the failpoint.
struct Managed(std::process::Child);

impl Managed {
    fn start(host: &Host) -> Self {
        let log = std::fs::OpenOptions::new().append(true).open(host.path("log")).expect("the log");
        let mut command = Command::new(stage().join("bailiwickd"));
        command.arg("--config").arg(host.path("etc")).uid(64_999).gid(64_999);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("runs"))
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn works(host: &Host) {
    assert_eq!(host.warden(&start()), WardenReply::Done);
    assert!(!host.processes().is_empty());
    assert_eq!(host.warden(&WardenRequest::Stop { tenant: name("alice"), hold: Hold::Keep }), WardenReply::Done);
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

/// The number of descriptors of the warden, once it has closed the connection of the last request.
fn settled(host: &Host) -> usize {
    let count = || std::fs::read_dir(format!("/proc/{}/fd", host.pid())).expect("fds").count();
    let mut last = count();
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let now = count();
        if now == last {
            return now;
        }
        last = now;
    }
}

#[test]
fn a_step_that_fails_leaves_nothing_and_is_named() {
    for plan in profiles() {
        let mut host = Host::with_failpoints();
        host.declare("alice", plan);
        host.start_warden();
        let before = settled(&host);
        for step in steps() {
            host.write("failpoint", &format!("{step} error"));
            let WardenReply::Failed(failure) = host.ask(&start()).expect("the warden lives") else {
                panic!("step {step} was not reached");
            };
            assert!(failure.message.contains(&format!("(step \"{step}\"): fail-point")), "{step}: {failure}");
            assert_eq!(host.leftovers(), Vec::<String>::new(), "after {step}");
            // The descriptors of the failed start may be closed with a delay.
            until(&format!("no more descriptors after {step} than {before}"), || settled(&host) <= before);
        }
        host.write("failpoint", "");
        works(&host);
    }
}

#[test]
fn a_process_that_is_killed_at_any_step_leaves_nothing() {
    let mut host = Host::with_failpoints();
    host.declare("alice", "shell");
    for step in steps() {
        host.write("failpoint", "");
        host.start_warden();
        host.write("failpoint", &format!("{step} kill"));
        let answer = host.ask(&start());
        if INSIDE.contains(&step.as_str()) {
            let Ok(WardenReply::Failed(failure)) = answer else { panic!("{step}: {answer:?}") };
            // The last step that was reported before the kill.
            let heard = if step == "listener" { "listener" } else { "exec" };
            let told = format!("(step \"{heard}\"): the child ended without a word");
            assert!(failure.message.contains(&told), "{step}: {failure}");
            host.kill();
        } else {
            assert!(answer.is_err(), "{step}: {answer:?}");
            host.wait();
        }
        // The next warden removes what it finds.
        host.write("failpoint", "");
        host.start_warden();
        until(&format!("nothing is left after {step}"), || host.leftovers().is_empty());
        host.kill();
    }
    host.start_warden();
    works(&host);
}

/// The warden waits for the first message of a child without blocking: it serves others meanwhile.
#[test]
fn a_silent_child_delays_nobody() {
    let mut host = Host::with_failpoints();
    host.declare("alice", "shell");
    host.declare("bob", "shell");
    host.start_warden();
    host.write("failpoint", "listener wait");
    std::thread::scope(|scope| {
        let silent = scope.spawn(|| host.ask(&start()));
        until("its child runs", || !host.processes().is_empty());
        host.write("failpoint", "");
        let bob = name("bob");
        assert_eq!(host.warden(&WardenRequest::Start { tenant: bob.clone() }), WardenReply::Done);
        assert_eq!(host.warden(&WardenRequest::Stop { tenant: bob, hold: Hold::Keep }), WardenReply::Done);
        // Other processes that the warden starts in between end by themselves.
        until("only its child to run", || host.processes().len() == 1);
        assert!(!silent.is_finished());
        for pid in host.processes() {
            let pid = rustix::process::Pid::from_raw(pid.try_into().expect("a pid")).expect("a pid");
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kills");
        }
        let answer = silent.join().expect("the warden answers");
        assert!(
            matches!(&answer, Ok(WardenReply::Failed(failure)) if failure.message.contains("without a word")),
            "{answer:?}"
        );
    });
    works(&host);
}

#[test]
fn a_child_that_does_not_end_holds_no_resources_of_a_killed_warden() {
    let mut host = Host::with_failpoints();
    host.declare("alice", "web");
    host.start_warden();
    // Like a child blocked in the kernel. At this step it already has the tenant's identity.
    host.write("failpoint", "root wait");
    let mut asked = UnixStream::connect(host.path("run/warden.sock")).expect("connects");
    asked.set_read_timeout(Some(Duration::from_secs(60))).expect("a time");
    asked.write_all(&encode(&start(), MAX_REQUEST).expect("small")).expect("writes");
    let is_another = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok());
        uid.is_some_and(|uid: u32| host.ids().contains(&uid))
    };
    until("the child is on its way", || host.processes().iter().any(is_another));
    // Kills only the warden, not the child.
    let warden = bailiwick_sys::process::open(host.pid()).expect("opens");
    bailiwick_sys::process::kill(&warden).expect("kills");
    host.wait();
    assert_eq!(asked.read(&mut [0]).expect("an end of the connection"), 0);
    assert!(!host.processes().is_empty(), "the child waits still");
    // The lock is not held either.
    host.write("failpoint", "");
    host.start_warden();
    until("it is removed", || host.leftovers().is_empty());
    works(&host);
}

/// A directory beside the host's own programs that looks like an upgrade of the host; removed on drop.
struct Installed(PathBuf);

impl Installed {
    /// Paths that the inits of these jails have looked up and cached as missing.
    fn new(inits: &[u32]) -> Self {
        let installed = Self(Path::new("/usr/share").join(format!("bailiwick-test-renewed-{}", std::process::id())));
        assert!(inits.iter().all(|init| !installed.is_seen_by(*init)));
        std::fs::write(&installed.0, "of the host\n").expect("writes");
        installed
    }

    fn is_seen_by(&self, init: u32) -> bool {
        Path::new(&format!("/proc/{init}/root{}", self.0.display())).exists()
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

/// Declares a tenant and starts its jail. Returns the process id of its init.
fn start_new(host: &Host, tenant: &str) -> u32 {
    host.declare(tenant, "web");
    assert_eq!(host.warden(&WardenRequest::Start { tenant: name(tenant) }), WardenReply::Done);
    match host.warden(&WardenRequest::Entry { tenant: name(tenant) }) {
        WardenReply::Entry(Some(entry)) => entry.pid.expect("it runs"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_jail_whose_cached_names_the_kernel_keeps_delays_nobody() {
    let mut host = Host::with_failpoints();
    host.start_warden();
    let inits = ["alice", "bob"].map(|tenant| start_new(&host, tenant));
    let [alice, bob] = inits;
    host.write("failpoint", "renew alice");
    let installed = Installed::new(&inits);
    until("its neighbour is renewed", || installed.is_seen_by(bob));
    assert!(!installed.is_seen_by(alice));
    assert_eq!(host.warden(&WardenRequest::Freeze { tenant: name("bob"), by: FrozenBy::Operator }), WardenReply::Done);
    assert_eq!(host.warden(&WardenRequest::Thaw { tenant: name("bob"), by: FrozenBy::Operator }), WardenReply::Done);
    until("it is told", || host.log().contains("tenant=alice event=not-renewed"));
    let stale = || {
        let WardenReply::Problems { tenants, .. } = host.warden(&WardenRequest::Problems) else { panic!("problems") };
        tenants
    };
    assert!(matches!(&stale()[..], [told] if told.contains("the jail of \"alice\" may show files")), "{:?}", stale());
    host.write("failpoint", "");
    until("it is renewed too", || installed.is_seen_by(alice));
    until("nothing is reported any more", || stale().is_empty());
    for tenant in ["alice", "bob"] {
        let stop = WardenRequest::Stop { tenant: name(tenant), hold: Hold::Keep };
        assert_eq!(host.warden(&stop), WardenReply::Done);
    }
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[test]
fn a_slow_first_preparation_of_storage_delays_only_its_tenant() {
    let mut host = Host::with_failpoints();
    host.declare("alice", "shell");
    host.declare("bob", "shell");
    host.start_warden();
    host.write("failpoint", "seed alice");
    assert_eq!(host.ask(&start()).expect("the warden lives"), WardenReply::GoesOn);
    let WardenReply::Problems { tenants, .. } = host.warden(&WardenRequest::Problems) else { panic!("problems") };
    assert!(tenants.iter().any(|told| told.contains("alice")), "{tenants:?}");
    let bob = name("bob");
    assert_eq!(host.warden(&WardenRequest::Start { tenant: bob.clone() }), WardenReply::Done);
    assert_eq!(host.warden(&WardenRequest::Stop { tenant: bob, hold: Hold::Keep }), WardenReply::Done);
    host.kill();
    host.write("failpoint", "");
    host.start_warden();
    works(&host);
}

/// A directory must not be moved while its files are being charged or written: the charging would stop, or charge
/// files of others.
#[test]
fn storage_is_prepared_once_the_last_ftp_session_has_ended() {
    let mut host = Host::with_failpoints();
    host.declare("alice", "shell");
    host.declare("bob", "shell");
    host.start_warden();
    // While a jail runs, the control groups of all jails exist.
    assert_eq!(host.warden(&WardenRequest::Start { tenant: name("bob") }), WardenReply::Done);
    let WardenReply::Entry(Some(bob)) = host.warden(&WardenRequest::Entry { tenant: name("bob") }) else {
        panic!("bob runs")
    };
    let mounts = bailiwick_sys::cgroup::hierarchies().expect("hierarchies");
    let of_bob = mounts.mount_of("unified").expect("mounted").join(bob.cgroups["unified"].trim_start_matches('/'));
    let group = of_bob.with_file_name("alice").join("ftp");
    std::fs::create_dir_all(&group).expect("makes");
    let mut session = Command::new("sleep").arg("1000").spawn().expect("runs");
    std::fs::write(group.join("cgroup.procs"), session.id().to_string()).expect("moves");

    host.write("failpoint", "seed alice");
    assert_eq!(host.ask(&start()).expect("the warden lives"), WardenReply::GoesOn);
    let is_over = session.try_wait().expect("waits").is_some();
    session.kill().ok();
    session.wait().expect("ends");
    assert!(is_over, "the session by FTP went on");
    let WardenReply::Problems { tenants, .. } = host.warden(&WardenRequest::Problems) else { panic!("problems") };
    assert!(tenants.iter().any(|told| told.contains("alice")), "{tenants:?}");
}

#[test]
fn a_created_tenant_starts_once_its_storage_is_prepared() {
    let mut host = Host::with_failpoints();
    host.declare("bob", "shell");
    host.start_warden();
    let _daemon = Managed::start(&host);
    until("bob runs", || host.cli(&["exec", "bob", "--", "true"]).status.success());
    host.write("failpoint", "seed alice");
    let output = host.cli(&["create", "alice", "--plan", "shell"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("starts when that is done"), "{told}");
    assert!(host.path("etc/tenants.d/alice.toml").exists());
    let output = host.cli(&["exec", "alice", "--", "true"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("is being prepared"), "{told}");
    host.ok(&["restart", "bob"]);
    host.write("failpoint", "");
    until("it has started", || host.cli(&["exec", "alice", "--", "true"]).status.success());
    host.ok(&["stop", "alice", "bob"]);
}

#[test]
fn slow_charging_of_data_delays_only_its_tenant() {
    let mut host = Host::with_failpoints();
    let facts = bailiwick_observe::host_facts(&host.path("state")).expect("facts");
    if facts.storage.quota != QuotaFacts::Projects {
        let text = "data_that_is_charged_for_long...: NOT here: the folder for temporary files has no project quotas";
        return writeln!(std::io::stderr(), "{text}").expect("writes");
    }
    let config = host.default_config("reserve = { disk = \"1M\" }\n");
    host.write("etc/bailiwick.toml", &config);
    host.declare("alice", "shell");
    host.declare("bob", "shell");
    host.start_warden();
    works(&host);
    let dir = host.path("state/tenants/alice");
    let home = dir.join("home/deep/below");
    std::fs::create_dir_all(&home).expect("makes");
    std::fs::write(home.join("data"), vec![1; 3 << 20]).expect("writes");
    let take_out = || Command::new("chattr").args(["-R", "-p", "0", "-P"]).arg(&dir).output().expect("runs");
    let used = |host: &Host| {
        let output = Command::new("sync").arg("-f").arg(&dir).status();
        assert!(output.is_ok_and(|status| status.success()));
        match host.warden(&WardenRequest::Observe { tenants: vec![name("alice")] }) {
            WardenReply::Observed(observed) => observed[0].disk.as_ref().expect("counted").bytes.used,
            reply => panic!("{reply:?}"),
        }
    };
    assert!(used(&host) > 3 << 20);
    take_out();
    assert!(used(&host) < 1 << 20);

    host.write("failpoint", "charge alice");
    assert_eq!(host.ask(&start()).expect("the warden lives"), WardenReply::GoesOn);
    let WardenReply::Problems { tenants, .. } = host.warden(&WardenRequest::Problems) else { panic!("problems") };
    assert!(tenants.iter().any(|told| told.contains("being charged")), "{tenants:?}");
    let bob = name("bob");
    assert_eq!(host.warden(&WardenRequest::Start { tenant: bob.clone() }), WardenReply::Done);
    assert_eq!(host.warden(&WardenRequest::Stop { tenant: bob, hold: Hold::Keep }), WardenReply::Done);
    assert_eq!(host.ask(&start()).expect("the warden lives"), WardenReply::GoesOn);
    // The child ends with the warden, and the next warden starts again.
    let config = host.path("etc");
    let is_of_it = |entry: std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).split('\0').any(|word| Path::new(word) == config)
    };
    let wardens = || std::fs::read_dir("/proc").expect("proc").flatten().map(is_of_it).filter(|is| *is).count();
    assert_eq!(wardens(), 2, "the warden and its child");
    host.kill();
    until("its child to end", || wardens() == 0);
    host.write("failpoint", "");
    host.start_warden();
    works(&host);
    assert!(used(&host) > 3 << 20);
}
