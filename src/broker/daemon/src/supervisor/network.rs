//! The network, for `--standalone`: when `bailiwick-net --uplink` runs, and `bailiwick-net` beside the other two programs.
//!
//! ```text
//!   nobody has a network --(the policy changed, or a router is there)--> the uplink runs --> bailiwick-net runs
//!                                                                           ^   each minute         | ends
//!                                                                           +-----------------------+
//! ```
//!
//! Nothing is started on a host whose policy gives nobody a network: `--uplink` lets the host forward packets, which only an
//! operator who wants networks should get. Once started, it stays until the end.
//!
//! Danger: nothing that fails here may end or restart the other two programs. It is told once, and tried again.

use super::{END_TIME, LOOK_TIME, Program, pause_after};
use crate::Networks;
use bailiwick_observe::network::has_router;
use bailiwick_policy::{Host, Store};
use bailiwick_proto::{JAILS, NET_CACHE, NET_DIR, NET_SOCKET, NET_WANTED};
use bailiwick_sys::process;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// The time between two runs of `--uplink`, which puts back what others have removed.
const UPLINK_EVERY: Duration = Duration::from_secs(60);
/// How long one run may take. Usually it takes milliseconds.
const UPLINK_TIME: Duration = Duration::from_secs(20);
/// How long `bailiwick-net` may take to answer. The warden waits meanwhile.
const ANSWER_TIME: Duration = Duration::from_secs(20);
/// How long the daemon's first start waits for the network.
const BEGIN_TIME: Duration = Duration::from_secs(5);
/// The most bytes of what one run says: a line for each thing that it put back.
const MAX_SAID: u64 = 64 << 10;

/// Whether anybody has a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Demand {
    /// Nobody. The policy that was read, if any, had this fingerprint.
    Nobody(Option<u64>),
    /// Somebody.
    Somebody,
    /// Somebody else starts it.
    Elsewhere,
}

/// A run of `--uplink`.
struct Run {
    child: Child,
    since: Instant,
}

/// The network's part of the supervisor.
pub(super) struct Network {
    bailiwick_net: PathBuf,
    config: PathBuf,
    store: Store,
    host: Host,
    demand: Demand,
    next_look: Instant,
    /// When `--uplink` runs the next time.
    next_uplink: Instant,
    /// When somebody last asked for a run.
    wanted: Option<SystemTime>,
    run: Option<Run>,
    /// How often it failed in a row.
    failures: u32,
    /// What was told of its last failure.
    told: Option<String>,
    /// `bailiwick-net` itself.
    pub(super) program: Program,
    /// The cache of names, while `--uplink` leaves a configuration for it.
    cache: Program,
}

impl Network {
    /// `bailiwick_net` is the program. Nothing is started yet.
    pub(super) fn new(bailiwick_net: PathBuf, config: &Path, host: &Host, networks: Networks) -> Self {
        let now = Instant::now();
        let command = command(&bailiwick_net, config);
        let program = Program::new("bailiwick-net", host.runtime_dir.join(NET_SOCKET), ANSWER_TIME, command);
        let run_cache = self::command(&bailiwick_net, config);
        let configuration = host.runtime_dir.join(NET_DIR).join(NET_CACHE);
        // It has no socket, and is never asked.
        let cache = Program::new("bailiwick-net --cache", configuration, ANSWER_TIME, move || {
            let mut command = run_cache();
            command.arg("--cache");
            command
        });
        Self {
            bailiwick_net,
            config: config.to_owned(),
            store: Store::new(config),
            host: host.clone(),
            demand: if networks == Networks::Own { Demand::Nobody(None) } else { Demand::Elsewhere },
            next_look: now,
            next_uplink: now,
            wanted: wanted_at(host),
            run: None,
            failures: 0,
            told: None,
            program,
            cache,
        }
    }

    /// Starts the network, if anybody has one, and waits a moment until it serves.
    pub(super) fn begin(&mut self) {
        let deadline = Instant::now() + BEGIN_TIME;
        loop {
            self.look();
            let serves = || std::os::unix::net::UnixStream::connect(&self.program.socket).is_ok();
            if self.demand != Demand::Somebody || self.failures > 0 || self.program.short_lives > 0 || serves() {
                return;
            }
            if Instant::now() >= deadline {
                return tracing::warn!(
                    event = "network-late",
                    "the network does not serve yet; jails start without it"
                );
            }
            // As for the warden: no event reports that a program listens.
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Looks at the policy and at the link at the next turn, and not later.
    pub(super) fn hurry(&mut self) {
        self.next_look = Instant::now();
        self.next_uplink = self.next_look;
    }

    /// When [`Self::look`] has something to do at the latest; `None` when only an event or the supervisor's own turn matters.
    pub(super) fn next(&self) -> Option<Instant> {
        (self.demand == Demand::Somebody && self.run.is_none()).then_some(self.next_uplink)
    }

    /// Looks at the policy, at the last run of `--uplink`, and at `bailiwick-net`; does what comes next.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        if matches!(self.demand, Demand::Nobody(_)) && now >= self.next_look {
            self.next_look = now + LOOK_TIME;
            self.demand = self.read_demand();
        }
        if let Some(status) = self.program.reap() {
            let text = "bailiwick-net has ended; jails keep their networks meanwhile, but none gets a new one";
            // It has said why, and does so each time.
            if self.program.short_lives <= 1 {
                tracing::warn!(event = "ended", program = self.program.name, %status, "{text}");
            }
            self.next_uplink = now + pause_after(self.program.short_lives);
        }
        self.end_run(now);
        let wanted = wanted_at(&self.host);
        if wanted != self.wanted {
            self.wanted = wanted;
            self.next_uplink = now;
        }
        if self.demand == Demand::Somebody && self.run.is_none() && now >= self.next_uplink {
            self.start_run(now);
        }
        self.program.ask();
        if self.demand == Demand::Somebody {
            self.look_at_cache(now);
        }
    }

    /// Starts the cache of names if it should run and does not. It ends by itself when it should not, or should be another.
    fn look_at_cache(&mut self, now: Instant) {
        let cache = &mut self.cache;
        if let Some(status) = cache.reap() {
            // It has said why, and does so each time.
            if !status.success() && cache.short_lives <= 1 {
                tracing::warn!(event = "ended", program = cache.name, %status, "no name resolves in jails until the cache runs");
            }
            cache.again = Some(now + pause_after(cache.short_lives));
        }
        let is_due = cache.child.is_none() && cache.again.is_none_or(|again| now >= again) && cache.socket.exists();
        if is_due && let Err(ended) = cache.start() {
            tracing::error!(event = "not-started", program = cache.name, "{}", ended.message);
            cache.again = Some(now + pause_after(u32::MAX));
        }
    }

    /// Reads the policy if any of its files changed.
    fn read_demand(&mut self) -> Demand {
        let fingerprint = bailiwick_policy::fingerprint(&self.config);
        if self.demand == Demand::Nobody(Some(fingerprint)) {
            return self.demand;
        }
        let gives = self.store.read().policy.is_some_and(|policy| policy.gives_networks());
        if gives || has_router(&self.host) { Demand::Somebody } else { Demand::Nobody(Some(fingerprint)) }
    }

    fn start_run(&mut self, now: Instant) {
        let mut command = command(&self.bailiwick_net, &self.config)();
        command.arg("--uplink").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match command.spawn() {
            Ok(child) => self.run = Some(Run { child, since: now }),
            Err(error) => self.fail(now, format!("cannot start {}: {error}", self.bailiwick_net.display())),
        }
    }

    /// Notices the end of a run of `--uplink`, and starts `bailiwick-net` if it does not run.
    fn end_run(&mut self, now: Instant) {
        let Some(Run { child, since }) = &mut self.run else { return };
        let status = match child.try_wait() {
            Ok(None) if now.duration_since(*since) >= UPLINK_TIME => {
                child.kill().ok();
                return;
            }
            Ok(None) => return,
            Ok(Some(status)) => Ok(status),
            Err(error) => Err(error.to_string()),
        };
        let said = |output: Option<&mut dyn Read>| {
            let mut text = Vec::new();
            output.map(|output| output.take(MAX_SAID).read_to_end(&mut text));
            String::from_utf8_lossy(&text).trim().to_owned()
        };
        let (done, complaint) =
            (said(child.stdout.as_mut().map(|it| it as _)), said(child.stderr.as_mut().map(|it| it as _)));
        self.run = None;
        match status {
            Ok(status) if status.success() => {
                for what in done.lines() {
                    tracing::info!(event = "repaired", program = "bailiwick-net", "{what}");
                }
                if self.told.take().is_some() {
                    tracing::info!(event = "network-works", "the network works again");
                }
                self.failures = 0;
                self.next_uplink = now + UPLINK_EVERY;
            }
            Ok(status) => {
                self.fail(now, if complaint.is_empty() { format!("it ended with {status}") } else { complaint })
            }
            Err(error) => self.fail(now, error),
        }
        // Without its link to the host a router still serves the jails that it has.
        if self.program.child.is_none()
            && (self.failures == 0 || has_router(&self.host))
            && let Err(ended) = self.program.start()
        {
            self.fail(now, ended.message);
        }
    }

    /// Tells of a failure, unless it is the one that was told last. It is tried again, at most every five seconds.
    fn fail(&mut self, now: Instant, why: String) {
        self.failures += 1;
        self.next_uplink = now + pause_after(self.failures);
        if self.told.as_ref() != Some(&why) {
            tracing::error!(event = "no-network", "tenants with a network cannot start, the others can: {why}");
            self.told = Some(why);
        }
    }

    /// Ends `bailiwick-net`. The router, its link and the host's rules stay for jails that go on, and else are removed.
    pub(super) fn end(&mut self) {
        if let Some(mut run) = self.run.take() {
            // It ends by itself within milliseconds. What it says has no reader any more.
            drop((run.child.stdout.take(), run.child.stderr.take()));
            let pidfd = process::open(run.child.id());
            if !pidfd.is_ok_and(|pidfd| process::has_ended(pidfd, END_TIME).unwrap_or(false)) {
                run.child.kill().ok();
            }
            run.child.wait().ok();
        }
        self.cache.end();
        self.program.end();
        if self.demand == Demand::Somebody && !jails_run(&self.host) {
            let removed = command(&self.bailiwick_net, &self.config)().arg("--remove").stdout(Stdio::null()).status();
            if !removed.is_ok_and(|status| status.success()) {
                tracing::warn!(event = "network-left", "the router is left; remove it with `bailiwick-net --remove`");
            }
        }
    }
}

fn command(bailiwick_net: &Path, config: &Path) -> impl Fn() -> Command + 'static {
    let (program, config) = (bailiwick_net.to_owned(), config.to_owned());
    move || {
        let mut command = Command::new(&program);
        command.arg("--config").arg(&config).env_clear().current_dir("/");
        command
    }
}

/// Whether a jail runs: then there is a record of it.
/// When `bailiwickd` last asked for a run of `--uplink`.
fn wanted_at(host: &Host) -> Option<SystemTime> {
    std::fs::metadata(host.runtime_dir.join(NET_WANTED)).and_then(|file| file.modified()).ok()
}

fn jails_run(host: &Host) -> bool {
    std::fs::read_dir(host.runtime_dir.join(JAILS)).is_ok_and(|mut jails| jails.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A host whose `bailiwick-net` is a script: it notes how it was called, and fails while there is a file `broken`.
    struct Fake {
        temp: tempfile::TempDir,
        network: Network,
    }

    impl Fake {
        fn new(mode: &str) -> Self {
            let temp = tempfile::tempdir().expect("temporary directory");
            let real = temp.path().canonicalize().expect("real path");
            let path = |name: &str| real.join(name);
            for folder in ["etc/tenants.d", "etc/plans.d", "run/jails", "state"] {
                fs::create_dir_all(path(folder)).expect("mkdir");
            }
            let toml = format!("state_dir = {:?}\nruntime_dir = {:?}\n", path("state"), path("run"));
            fs::write(path("etc/bailiwick.toml"), toml).expect("writes");
            fs::write(path("etc/plans.d/p.toml"), format!("[network]\nmode = \"{mode}\"\n")).expect("writes");
            let script = format!(
                "#!/bin/sh\necho \"${{3:-serve}}\" >> {0}/calls\n[ ! -e {0}/broken ] || {{ echo no kernel >&2; exit 8; }}\n\
                 [ -n \"$3\" ] || exec sleep 60\n",
                real.display()
            );
            fs::write(path("net"), script).expect("writes");
            fs::set_permissions(path("net"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
            let (host, _) = Store::new(&path("etc")).host().expect("a policy");
            Self { network: Network::new(path("net"), &path("etc"), &host, Networks::Own), temp }
        }

        fn calls(&self) -> Vec<String> {
            let text = fs::read_to_string(self.temp.path().join("calls")).unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        }

        /// Lets the network look until something is so.
        fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
            let deadline = Instant::now() + Duration::from_secs(20);
            while !is_so(self) {
                assert!(Instant::now() < deadline, "waited for: {what}; {:?}", self.calls());
                self.network.look();
                std::thread::sleep(Duration::from_millis(2));
            }
        }

        fn kill(&mut self) {
            self.network.program.child.as_mut().expect("runs").kill().expect("kills");
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            self.network.end();
        }
    }

    #[test]
    fn nothing_is_started_while_nobody_has_a_network() {
        let mut fake = Fake::new("none");
        fake.network.begin();
        assert_eq!(fake.calls(), [""; 0]);
        assert_eq!(fake.network.next(), None);
        // Root's file changes, and the next look finds it.
        fs::write(fake.temp.path().join("etc/plans.d/p.toml"), "[network]\nmode = \"outbound\"\n").expect("writes");
        fake.until("it serves", |fake| fake.calls() == ["--uplink", "serve"]);
        fake.network.end();
        assert_eq!(fake.calls(), ["--uplink", "serve", "--remove"]);
    }

    #[test]
    fn the_uplink_runs_again_before_a_program_that_died() {
        let mut fake = Fake::new("outbound");
        fake.until("it serves", |fake| fake.calls().len() == 2);
        fake.kill();
        fake.until("it serves again", |fake| fake.calls().len() == 4);
        assert_eq!(fake.calls(), ["--uplink", "serve", "--uplink", "serve"]);
        assert!(fake.network.next().is_some_and(|next| next > Instant::now() + UPLINK_EVERY / 2));
        fs::create_dir(fake.temp.path().join("run/jails/alice")).expect("mkdir");
        fake.network.end();
        assert_eq!(fake.calls().len(), 4, "the router stays for the jail");
    }

    #[test]
    fn the_uplink_runs_when_bailiwickd_asks_for_it() {
        let mut fake = Fake::new("outbound");
        fake.until("it serves", |fake| fake.calls().len() == 2);
        fake.until("the run has ended", |fake| fake.network.run.is_none());
        fake.network.look();
        assert_eq!(fake.calls(), ["--uplink", "serve"], "its time has not come");
        let wanted = fake.temp.path().join("run").join(NET_WANTED);
        fs::create_dir_all(wanted.parent().expect("a folder")).expect("mkdir");
        fs::write(wanted, "").expect("writes");
        fake.until("it runs again", |fake| fake.calls() == ["--uplink", "serve", "--uplink"]);
    }

    #[test]
    fn the_cache_runs_while_there_is_a_configuration() {
        let mut fake = Fake::new("outbound");
        fake.until("it serves", |fake| fake.calls().len() == 2);
        let folder = fake.temp.path().join("run").join(NET_DIR);
        fs::create_dir(&folder).expect("mkdir");
        fs::write(folder.join(NET_CACHE), "server:\n").expect("writes");
        let caches = |fake: &Fake| fake.calls().iter().filter(|call| *call == "--cache").count();
        // The script ends at once, and is started again.
        fake.until("it was started twice", |fake| caches(fake) == 2);
        fs::remove_file(folder.join(NET_CACHE)).expect("removes");
        fake.until("it has ended", |fake| fake.network.cache.child.is_none());
        let before = caches(&fake);
        fake.network.cache.again = None;
        fake.network.look();
        assert_eq!(caches(&fake), before);
    }

    #[test]
    fn a_failure_is_told_once_and_tried_again_for_ever() {
        let mut fake = Fake::new("outbound");
        let broken = fake.temp.path().join("broken");
        fs::write(&broken, "").expect("writes");
        fake.until("three failures", |fake| fake.network.failures == 3);
        assert_eq!(fake.network.told.as_deref(), Some("no kernel"));
        assert_eq!(fake.calls(), ["--uplink"; 3], "without a router nothing serves");
        fake.network.failures = 100;
        fake.network.fail(Instant::now(), "no kernel".to_owned());
        assert!(fake.network.next().is_some_and(|next| next <= Instant::now() + Duration::from_secs(5)));
        fs::remove_file(&broken).expect("removes");
        fake.network.next_uplink = Instant::now();
        fake.until("it serves", |fake| fake.calls().last().is_some_and(|call| call == "serve"));
        assert_eq!((fake.network.failures, fake.network.told.as_ref()), (0, None));
    }
}
