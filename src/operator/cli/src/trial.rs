//! `doctor --probe`: a throw-away tenant on this host, this file system and this disk, that really runs into each limit.
//!
//! It has a host of its own below the state directory: nothing of the real tenants' is read, changed or started.
//! Danger: whoever interrupts this must not be left with a jail that runs. A signal is therefore heard between two steps, and
//! what a killed probe left is taken down by the next one.

use bailiwick_policy::Host;
use bailiwick_proto::Failure;
use bailiwick_sys::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, Signals};
use bailiwick_sys::{file, process};
use bailiwick_types::{ExitStatus, FeatureReport, FeatureState, HostReport};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long the throw-away host may take to answer.
const READY_TIME: Duration = Duration::from_secs(30);
/// The directory of the throw-away host, in the state directory or in the nearest above it that exists.
const FOLDER: &str = ".bailiwick-probe";
/// What is written last of its policy.
const TENANT: &str = "etc/tenants.d/probe.toml";
/// Ids far above those of any tenant; project ids and user ids alike. Those below are for probes of other state directories
/// at the same time, on the same file system perhaps, whose quotas must not be counted together.
const LAST_ID: u32 = 4_294_770_688;
const APART: u32 = 2 * 65_536;
const SLOTS: u32 = 256;

const PLAN: &str = "\
profile = \"web\"
[limits]
cpu = \"20%\"
memory = \"64M\"
swap = \"0\"
tasks = 32
disk = \"16M\"
inodes = \"500\"
io_read = \"2M\"
io_write = \"2M\"
sessions = 2
open_files = 64
tmp = \"1M\"
shm = \"1M\"
";

/// What came of trying.
enum Came {
    Enforced(String),
    NotEnforced(String),
    Untried(String),
}

/// One limit, and how it is run into.
struct Trial {
    name: &'static str,
    /// The feature of `doctor` whose remedy is this one's.
    feature: &'static str,
    run: fn(&Throwaway) -> io::Result<Came>,
}

const TRIALS: &[Trial] = &[
    Trial { name: "cpu", feature: "cpu", run: cpu },
    Trial { name: "memory", feature: "memory", run: memory },
    Trial { name: "swap", feature: "swap", run: swap },
    Trial { name: "tasks", feature: "tasks", run: tasks },
    Trial { name: "disk", feature: "disk", run: disk },
    Trial { name: "inodes", feature: "inodes", run: inodes },
    Trial { name: "io_write", feature: "io", run: io_write },
    Trial { name: "io_read", feature: "io", run: io_read },
    Trial { name: "sessions", feature: "", run: sessions },
    Trial { name: "open_files", feature: "", run: open_files },
    Trial { name: "tmp", feature: "", run: tmp },
    Trial { name: "shm", feature: "", run: shm },
];

/// Tries every limit and adds what came of it to a report. `progress` hears which is tried.
pub(crate) fn add_trials(host: &Host, report: &mut HostReport, progress: impl Fn(&str)) -> Result<(), Failure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Failure::of(ExitStatus::Failed, format!("cannot {what} the throw-away tenant: {error}"))
    };
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::of(ExitStatus::Refused, "only root can make the throw-away tenant of --probe"));
    }
    let signals = Signals::block(&[SIGHUP, SIGINT, SIGQUIT, SIGTERM]).map_err(|error| failed("guard", &error))?;
    let unless_interrupted = || match signals.take() {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(Failure::of(ExitStatus::Failed, "interrupted; the throw-away tenant is taken down")),
        Err(error) => Err(failed("guard", &error)),
    };
    let place = host.state_dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let folder = place.join(FOLDER);
    let mut claim = claim(&folder)?;
    if folder.join(TENANT).exists() {
        progress("taking down what a probe left that was killed");
        Throwaway::over(&folder, claim).map_err(|error| failed("take down", &error))?;
        claim = self::claim(&folder)?;
    }
    progress("making a throw-away tenant");
    let throwaway = Throwaway::new(host, &folder, claim).map_err(|error| failed("make", &error));
    unless_interrupted()?;
    let throwaway = throwaway?;
    for trial in TRIALS {
        progress(&format!("running into {}", trial.name));
        let came = (trial.run)(&throwaway).map_err(|error| failed(&format!("try \"{}\" with", trial.name), &error));
        // A signal of the terminal's reaches what the trial runs too: what came of that is no evidence.
        unless_interrupted()?;
        let came = came?;
        let remedy = || {
            let feature = report.features.iter().find(|feature| feature.feature == trial.feature);
            let remedy = feature.map(|feature| feature.remedy.clone()).unwrap_or_default();
            if remedy.is_empty() { "report it as a defect".to_owned() } else { remedy }
        };
        let (state, evidence, remedy) = match came {
            Came::Enforced(evidence) => (FeatureState::Works, evidence, String::new()),
            Came::NotEnforced(evidence) => (FeatureState::Limited, evidence, remedy()),
            Came::Untried(evidence) => {
                let remedy = "remove what stood in the way, and run `bailiwick doctor --probe` again".to_owned();
                (FeatureState::Limited, format!("not tried: {evidence}"), remedy)
            }
        };
        report.features.push(FeatureReport { feature: format!("probe-{}", trial.name), state, evidence, remedy });
    }
    Ok(())
}

/// Makes the directory of the throw-away host, or takes over the one that is there. Only one probe has it.
fn claim(folder: &Path) -> Result<OwnedFd, Failure> {
    let locked = || {
        match std::fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let dir = file::open_dir(folder)?;
        file::lock(dir.as_fd())?;
        Ok(dir)
    };
    locked().map_err(|error: io::Error| {
        if error.kind() == io::ErrorKind::WouldBlock {
            let message = format!("another `bailiwick doctor --probe` has {}; wait until it ends", folder.display());
            return Failure::of(ExitStatus::Conflict, message);
        }
        Failure::of(ExitStatus::Failed, format!("cannot take {}: {error}", folder.display()))
    })
}

/// The host of the throw-away tenant. Everything of it is gone when the value is dropped.
struct Throwaway {
    folder: PathBuf,
    daemon: Child,
    /// Held for as long as the directory is in use.
    _claim: OwnedFd,
}

impl Throwaway {
    /// A host that is made afresh in an empty directory.
    fn new(host: &Host, folder: &Path, claim: OwnedFd) -> io::Result<Self> {
        let etc = folder.join("etc");
        for below in ["plans.d", "tenants.d"] {
            std::fs::create_dir_all(etc.join(below))?;
        }
        for (path, mode) in [(folder, 0o711), (&etc, 0o755)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        }
        let first_id = LAST_ID - std::process::id() % SLOTS * APART;
        let config = format!(
            "state_dir = {:?}\nruntime_dir = {:?}\nids = {{ first = {first_id}, per_tenant = 65536 }}\nrequire = []\n\
             reserve = {{ memory = \"0\", tasks = 1, disk = \"0\" }}\nadmins = [\"root\"]\nuser = {:?}\n",
            folder.join("state"),
            folder.join("run"),
            host.user
        );
        std::fs::write(etc.join("bailiwick.toml"), config)?;
        std::fs::write(etc.join("plans.d/probe.toml"), PLAN)?;
        std::fs::write(folder.join(TENANT), "plan = \"probe\"\n")?;
        Self::over(folder, claim)
    }

    /// The host whose policy is there, and its tenant let in.
    fn over(folder: &Path, claim: OwnedFd) -> io::Result<Self> {
        let log = std::fs::File::create(folder.join("log"))?;
        let mut command = daemon_command();
        command.args(["--standalone", "--config"]).arg(folder.join("etc"));
        // In a group of its own it does not hear the terminal: it is needed to take the tenant down.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        process::end_with_parent(&mut command);
        let throwaway = Self { daemon: command.spawn()?, folder: folder.to_owned(), _claim: claim };
        throwaway.wait()?;
        Ok(throwaway)
    }

    fn wait(&self) -> io::Result<()> {
        let deadline = Instant::now() + READY_TIME;
        loop {
            let output = self.bailiwick(&["apply"])?;
            if output.status.success() && self.bailiwick(&["exec", "probe", "--", "true"])?.status.success() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(io::Error::other(format!("{}\n{}", text.trim(), log.trim())));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "bailiwick".into()));
        command.args(&arguments[..1]).arg("--config").arg(self.folder.join("etc")).args(&arguments[1..]);
        command.stdin(Stdio::null());
        command
    }

    fn bailiwick(&self, arguments: &[&str]) -> io::Result<Output> {
        self.command(arguments).output()
    }

    /// Runs a line of shell inside; its status, and what it said.
    fn inside(&self, line: &str) -> io::Result<(Option<i32>, String)> {
        let output = self.bailiwick(&["exec", "probe", "--", "/bin/sh", "-c", line])?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Ok((output.status.code(), said.trim().to_owned()))
    }

    /// Waits until what was removed is free again: btrfs gives it back with its next commit, XFS in the background.
    fn wait_for_room(&self) -> io::Result<()> {
        let deadline = Instant::now() + READY_TIME;
        loop {
            rustix::fs::syncfs(std::fs::File::open(&self.folder)?)?;
            let (status, said) = self.inside("head -c 10M /dev/zero > /home/room; s=$?; rm -f /home/room; exit $s")?;
            if status == Some(0) {
                return rustix::fs::syncfs(std::fs::File::open(&self.folder)?).map_err(Into::into);
            }
            if Instant::now() >= deadline {
                return Err(io::Error::other(format!("what was removed does not become free: {said}")));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Microseconds of processor time that the tenant has used.
    fn processor_time(&self) -> io::Result<u64> {
        let output = self.bailiwick(&["show", "probe", "--json"])?;
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let path = shown["cgroup"]["unified"].as_str().ok_or(io::ErrorKind::NotFound)?.to_owned();
        let hierarchies = bailiwick_sys::cgroup::hierarchies()?;
        let mount = hierarchies.mount_of("unified").ok_or(io::ErrorKind::NotFound)?;
        let text = bailiwick_sys::cgroup::read(bailiwick_sys::cgroup::open(mount, &path)?, "cpu.stat")?;
        bailiwick_sys::cgroup::flat_keyed(&text, "usage_usec").ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// `bailiwickd`, where packages put it or beside this program; under systemd in a scope of its own, whose control groups it
/// may divide.
fn daemon_command() -> Command {
    let beside = std::env::current_exe().unwrap_or_default().with_file_name("bailiwickd");
    let program = if beside.exists() { beside } else { PathBuf::from("/usr/sbin/bailiwickd") };
    if !Path::new("/run/systemd/system").is_dir() {
        return Command::new(program);
    }
    let mut command = Command::new("systemd-run");
    command.args(["--scope", "--quiet", "--collect", "-p", "Delegate=yes", "--"]).arg(program);
    command
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        let deleted = self.bailiwick(&["delete", "probe", "--purge"]).is_ok_and(|output| output.status.success());
        let pid = i32::try_from(self.daemon.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        self.daemon.wait().ok();
        // A jail that could not be taken down is left for the next probe, which finds it by the policy in the directory.
        if deleted || !self.folder.join("run/jails/probe").exists() {
            std::fs::remove_dir_all(&self.folder).ok();
        }
    }
}

/// The last line of what was said, in which commands say what went wrong.
fn last(said: &str) -> String {
    said.lines().last().unwrap_or("nothing was said").to_owned()
}

fn cpu(throwaway: &Throwaway) -> io::Result<Came> {
    let (begin, before) = (Instant::now(), throwaway.processor_time()?);
    throwaway.inside("timeout 3 sh -c 'while :; do :; done'")?;
    let used = throwaway.processor_time()?.saturating_sub(before);
    let per_cent = u128::from(used) * 100 / begin.elapsed().as_micros().max(1);
    let evidence = format!("a loop got {per_cent}% of a core, 20% are allowed");
    Ok(if per_cent <= 30 { Came::Enforced(evidence) } else { Came::NotEnforced(evidence) })
}

/// A line that must fail, with one of these words, and what it does. That it fails for another reason proves nothing.
fn refused(throwaway: &Throwaway, line: &str, words: &[&str], what: &str) -> io::Result<Came> {
    let (status, said) = throwaway.inside(line)?;
    let because = said.lines().find(|line| words.iter().any(|word| line.contains(word)));
    Ok(match (status, because) {
        (Some(0), _) => Came::NotEnforced(format!("{what} was not refused")),
        (_, Some(because)) => Came::Enforced(format!("{what} was refused: {because}")),
        (_, None) => Came::Untried(format!("it failed for another reason: {}", last(&said))),
    })
}

/// What the kernel says at a limit of a file system.
const NO_SPACE: &[&str] = &["quota exceeded", "No space left"];

fn memory(throwaway: &Throwaway) -> io::Result<Came> {
    let (status, _) = throwaway.inside("head -c 128M /dev/zero | tail -c 127M | wc -c | grep -q 133169152")?;
    Ok(match status {
        Some(0) => Came::NotEnforced("128M were held, 64M are allowed".to_owned()),
        _ => Came::Enforced("a process that wanted to hold 128M was ended, 64M are allowed".to_owned()),
    })
}

fn swap(throwaway: &Throwaway) -> io::Result<Came> {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    if swaps.lines().count() < 2 {
        return Ok(Came::Untried("this machine has no swap space now".to_owned()));
    }
    memory(throwaway)
}

fn tasks(throwaway: &Throwaway) -> io::Result<Came> {
    // Whatever was started is ended with the shell.
    let line = "trap 'kill -9 0' EXIT; i=0; while [ $i -lt 64 ]; do sleep 60 & i=$((i+1)); done; exit 0";
    let came = refused(throwaway, line, &["fork", "temporarily"], "the 64th process, of 32 allowed,")?;
    Ok(match came {
        // Killed by its own hand, it has no status that tells anything; that no word of refusal was said does.
        Came::Untried(_) => Came::NotEnforced("64 processes, of 32 allowed, were started".to_owned()),
        came => came,
    })
}

fn disk(throwaway: &Throwaway) -> io::Result<Came> {
    let line =
        "dd if=/dev/zero of=/home/big bs=1M count=32 conv=fsync status=none; s=$?; rm -f /home/big; sync; exit $s";
    let came = refused(throwaway, line, NO_SPACE, "a file of 32M, of 16M allowed,");
    throwaway.wait_for_room()?;
    came
}

fn inodes(throwaway: &Throwaway) -> io::Result<Came> {
    // Not `:`, of which a shell that cannot redirect it takes its leave.
    let line = "mkdir -p /home/i && cd /home/i && i=0; s=0; \
                while [ $i -lt 600 ]; do true > f$i || { s=1; break; }; i=$((i+1)); done; rm -rf /home/i; exit $s";
    let came = refused(throwaway, line, NO_SPACE, "the 600th file, of 500 allowed,");
    throwaway.wait_for_room()?;
    came
}

/// 8M at 2M a second.
fn slow(throwaway: &Throwaway, line: &str) -> io::Result<Came> {
    let begin = Instant::now();
    let (status, said) = throwaway.inside(line)?;
    if status != Some(0) {
        return Ok(Came::Untried(last(&said)));
    }
    let seconds = begin.elapsed().as_secs_f64();
    let evidence = format!("8M took {seconds:.1} s, 2M a second are allowed");
    Ok(if seconds > 2.5 { Came::Enforced(evidence) } else { Came::NotEnforced(evidence) })
}

fn io_write(throwaway: &Throwaway) -> io::Result<Came> {
    slow(throwaway, "dd if=/dev/zero of=/home/io bs=1M count=8 oflag=direct status=none")
}

fn io_read(throwaway: &Throwaway) -> io::Result<Came> {
    slow(throwaway, "dd if=/home/io of=/dev/null bs=1M iflag=direct status=none")
}

fn sessions(throwaway: &Throwaway) -> io::Result<Came> {
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut command = throwaway.command(&["exec", "probe", "--", "sleep", "20"]);
        held.push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    }
    std::thread::sleep(Duration::from_millis(500));
    let third = throwaway.bailiwick(&["exec", "probe", "--", "true"]);
    for mut child in held {
        child.kill()?;
        child.wait()?;
    }
    let third = third?;
    let said = last(&String::from_utf8_lossy(&third.stderr));
    // A session that is hung up ends a moment later.
    std::thread::sleep(Duration::from_millis(500));
    Ok(match third.status.code() {
        Some(0) => Came::NotEnforced("a third session, of 2 allowed, was let in".to_owned()),
        _ => Came::Enforced(format!("a third session was refused: {said}")),
    })
}

fn open_files(throwaway: &Throwaway) -> io::Result<Came> {
    refused(throwaway, "ulimit -n 65", &["not permitted"], "to allow itself a 65th descriptor, of 64,")
}

fn tmp(throwaway: &Throwaway) -> io::Result<Came> {
    refused(
        throwaway,
        "head -c 2M /dev/zero > /tmp/probe; s=$?; rm -f /tmp/probe; exit $s",
        NO_SPACE,
        "2M in /tmp, of 1M allowed,",
    )
}

fn shm(throwaway: &Throwaway) -> io::Result<Came> {
    let line = "head -c 2M /dev/zero > /dev/shm/probe; s=$?; rm -f /dev/shm/probe; exit $s";
    refused(throwaway, line, NO_SPACE, "2M in /dev/shm, of 1M allowed,")
}
