//! A complete host below a temporary directory: configuration, programs and tenants. Each test has its own.
//! Dropping it removes everything it created, also after a failure.

pub mod connected;
mod ids;
pub mod machine;
pub mod network;
mod pool;
mod ssh;
pub mod web;
pub mod wire;

pub use pool::Pool;

use bailiwick_proto::frame::{Decoder, MAX_REPLY, MAX_REQUEST, encode};
use bailiwick_proto::{WardenReply, WardenRequest};
use bailiwick_sys::process;
use bailiwick_types::{Profile, TenantName};
use ids::Ids;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a daemon may take to answer on a busy machine.
const READY_TIME: Duration = Duration::from_secs(60);

/// The directory of the programs under test.
#[must_use]
pub fn stage() -> PathBuf {
    let stage = std::env::var_os("BAILIWICK_STAGE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/stage/debug"), PathBuf::from);
    let stage = stage
        .canonicalize()
        .unwrap_or_else(|_| panic!("no programs in {}: run `make stage-failpoints`", stage.display()));
    assert!(stage.join("bailiwick-init").exists(), "no programs in {}: run `make stage-failpoints`", stage.display());
    stage
}

/// Whether this kernel supports a profile. If not, the skipped part is printed by name;
/// `bad_input::a_profile_that_the_kernel_cannot_run_is_refused` then proves that such a tenant does not start.
#[must_use]
pub fn supports(profile: Profile) -> bool {
    let (needs, has) = (bailiwick_plan::landlock::lowest_abi(profile), bailiwick_sys::landlock::abi());
    if needs > has {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let text =
            format!("{test}: NOT with profile {profile}: it needs Landlock ABI {needs}, this kernel has {has}\n");
        // Written directly to standard error, because the test harness captures `eprintln!`.
        std::io::stderr().write_all(text.as_bytes()).ok();
    }
    needs <= has
}

/// The profiles that this kernel supports.
#[must_use]
pub fn profiles() -> Vec<&'static str> {
    let all = [(Profile::Web, "web"), (Profile::Shell, "shell"), (Profile::System, "system")];
    all.into_iter().filter(|(profile, _)| supports(*profile)).map(|(_, name)| name).collect()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Copies a program with its mode, by another process: a descriptor of this one that is open for writing may be in a child that another
/// test has just made, and then nobody can execute the file (`ETXTBSY`).
///
/// # Panics
/// When it cannot.
pub fn copy_program(from: &Path, to: &Path) {
    let status = Command::new("install").args(["-D", "-m", "755"]).args([from, to]).status().expect("install runs");
    assert!(status.success(), "{} to {}", from.display(), to.display());
}

/// Writes a script that can be executed, by another process as [`copy_program`] does.
///
/// # Panics
/// When it cannot.
pub fn write_program(path: &Path, text: &str) {
    let mut install = Command::new("install");
    install.args(["-D", "-m", "755", "/dev/stdin"]).arg(path);
    let mut written = install.stdin(Stdio::piped()).spawn().expect("install runs");
    written.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("takes it");
    assert!(written.wait().expect("ends").success(), "{}", path.display());
}

/// Sets a flag when it is dropped, also by a failed assertion: a thread that looks at the flag ends then, and the test with it.
#[derive(Debug)]
pub struct SetAtEnd<'a>(pub &'a std::sync::atomic::AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Waits until a condition holds, for at most one minute.
///
/// # Panics
/// When it does not come.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The output of a program, without the line that it prints on a slow machine while it waits for an answer.
#[must_use]
pub fn without_waiting(said: &[u8]) -> Vec<u8> {
    let lines = said.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| !line.starts_with(b"bailiwick: waiting for bailiwickd")).flatten().copied().collect()
}

/// Parses the name of a tenant.
#[must_use]
pub fn name(text: &str) -> TenantName {
    text.parse().expect("a valid name")
}

/// A host below a temporary directory.
#[derive(Debug)]
pub struct Host {
    dir: tempfile::TempDir,
    ids: Ids,
    running: Option<Child>,
    programs: PathBuf,
    /// What starts the programs: a program with its arguments, or nothing.
    through: Vec<String>,
}

impl Host {
    /// A host with the plans `web`, `shell` and `system`, and no tenant. Nothing runs yet.
    #[must_use]
    pub fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// Like [`Self::new`], with `slots` slots of ids for 16 tenants each.
    #[must_use]
    pub fn with_many_ids(slots: u32) -> Self {
        Self::made(&std::env::temp_dir(), slots)
    }

    /// Like [`Self::new`], below another directory.
    #[must_use]
    pub fn within(folder: &Path) -> Self {
        Self::made(folder, 1)
    }

    fn made(folder: &Path, slots: u32) -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests make real jails and must run as root");
        let dir = tempfile::tempdir_in(folder).expect("a temporary directory");
        // All users may connect to the control socket, so they must be able to traverse the directory.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let host = Self { dir, ids: Ids::claim(slots), running: None, programs: stage(), through: Vec::new() };
        host.write("etc/bailiwick.toml", &host.default_config(""));
        for profile in ["web", "shell", "system"] {
            let plan = format!("profile = \"{profile}\"\n[limits]\nmemory = \"128M\"\ntasks = 64\n");
            host.write(&format!("etc/plans.d/{profile}.toml"), &plan);
        }
        fs::create_dir_all(host.path("etc/tenants.d")).expect("mkdir");
        host
    }

    /// Like [`Self::new`], with a warden whose steps can be made to fail.
    #[must_use]
    pub fn with_failpoints() -> Self {
        let mut host = Self::new();
        host.programs = stage().join("failpoints");
        assert!(host.programs.join("bailiwick-warden").exists(), "run `make stage-failpoints`");
        host
    }

    /// The text of `bailiwick.toml` for this directory, with `more` appended. Small file systems of tests cannot keep the default
    /// reserve, so it is smaller if `more` names none.
    #[must_use]
    pub fn default_config(&self, more: &str) -> String {
        let reserve = if more.contains("reserve") { "" } else { "reserve = { disk = \"1M\" }\n" };
        format!(
            "state_dir = \"{}\"\nruntime_dir = \"{}\"\nrequire = [\"cpu\", \"memory\", \"tasks\"]\n\
             user = \"64999\"\nlogin_group = \"64998\"\nids = {{ first = {}, per_tenant = 65536 }}\n{reserve}{more}",
            self.path("state").display(),
            self.path("run").display(),
            // The range of host users is directly below.
            self.ids.first + 65_536,
        )
    }

    /// A path below the directory.
    #[must_use]
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().canonicalize().expect("real path").join(below)
    }

    /// Writes a file below the directory.
    pub fn write(&self, below: &str, text: &str) {
        let path = self.path(below);
        fs::create_dir_all(path.parent().expect("has a parent")).expect("mkdir");
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Writes the file of a tenant with a plan.
    pub fn declare(&self, tenant: &str, plan: &str) {
        self.write(&format!("etc/tenants.d/{tenant}.toml"), &format!("plan = \"{plan}\"\n"));
    }

    /// The ids of this host's tenants and host users.
    #[must_use]
    pub fn ids(&self) -> std::ops::Range<u32> {
        self.ids.first..self.ids.first + u32::try_from(self.ids.claims.len()).expect("some") * 16 * 65_536
    }

    /// Starts all programs through another one, which must become each of them.
    pub fn run_through(&mut self, through: &[String]) {
        self.through = through.to_vec();
    }

    /// A program of this host with its configuration, ready to run.
    #[must_use]
    pub fn program_command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = match self.through.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(["--config".as_ref(), self.path("etc").as_os_str()]);
        command
    }

    fn spawn(&mut self, program: &str, arguments: &[&str]) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).expect("a log file");
        let child = self
            .program_command(program)
            .args(arguments)
            .env("BAILIWICK_FAILPOINT", self.path("failpoint"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("dup"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        self.running = Some(child);
    }

    fn wait_for(&mut self, socket: &str) {
        let deadline = Instant::now() + READY_TIME;
        while UnixStream::connect(self.path(socket)).is_err() {
            let ended = self.running.as_mut().and_then(|child| child.try_wait().expect("wait"));
            assert!(ended.is_none(), "the daemon ended with {ended:?}:\n{}", self.log());
            assert!(Instant::now() < deadline, "no answer on {socket}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts only the warden, in a mount namespace with shared propagation, as on a host with systemd.
    pub fn start_warden_with_shared_mounts(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).expect("a log file");
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "shared", "--"])
            .arg(self.programs.join("bailiwick-warden"))
            .args(["--config".as_ref(), self.path("etc").as_os_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("unshare runs");
        self.running = Some(child);
        self.wait_for("run/warden.sock");
    }

    /// Starts the service in a mount namespace where `/etc` is a copy that the test may change
    /// ([`Self::in_own_etc`]).
    pub fn start_in_own_etc(&mut self) {
        let line = "mkdir -p $0/copy && mount -t tmpfs none $0/copy && cp -a /etc/. $0/copy && mount --bind $0/copy /etc && \
                    exec $1/bailiwickd --config $0/etc --standalone";
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).expect("a log file");
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--", "sh", "-c", line])
            .args([self.path(""), self.programs.clone()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("unshare runs");
        self.running = Some(child);
        self.wait_for("run/control/bailiwick.sock");
    }

    /// Runs a shell line in the mount namespace of the service, after [`Self::start_in_own_etc`].
    pub fn in_own_etc(&self, line: &str) {
        run(Command::new("nsenter").args(["--mount", "--target", &self.pid().to_string(), "--", "sh", "-c", line]));
    }

    /// Starts only the warden.
    pub fn start_warden(&mut self) {
        self.spawn("bailiwick-warden", &[]);
        self.wait_for("run/warden.sock");
    }

    /// Starts only the warden, with a socket from the service manager (`sd_listen_fds(3)`), and does not wait for
    /// it.
    pub fn spawn_warden_with(&mut self, listener: &UnixListener) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).expect("a log file");
        let line =
            "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=warden; exec \"$0\" --config \"$1\" 3<&0 </dev/null";
        let child = Command::new("sh")
            .args(["-c", line])
            .args([self.programs.join("bailiwick-warden"), self.path("etc")])
            .stdin(std::os::fd::OwnedFd::from(listener.try_clone().expect("dup")))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("sh runs");
        self.running = Some(child);
    }

    /// Starts the service.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts the service with further arguments.
    pub fn start_with(&mut self, arguments: &[&str]) {
        self.spawn("bailiwickd", &[&["--standalone"], arguments].concat());
        self.wait_for("run/control/bailiwick.sock");
    }

    /// Starts the service, but for what connects jails to the network.
    pub fn start_without_network(&mut self) {
        self.start_with(&["--without-network"]);
    }

    /// Starts the service with a limit of open descriptors for each program.
    pub fn start_with_descriptors(&mut self, most: u32) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).expect("a log file");
        let child = Command::new("prlimit")
            .arg(format!("--nofile={most}:{most}"))
            .arg(self.programs.join("bailiwickd"))
            .args(["--config".as_ref(), self.path("etc").as_os_str(), "--standalone".as_ref()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("dup"))
            .stderr(log)
            .spawn()
            .expect("prlimit runs");
        self.running = Some(child);
        self.wait_for("run/control/bailiwick.sock");
    }

    /// The process that was started.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("something runs").id()
    }

    /// The process id of a program that the supervisor has started.
    ///
    /// # Panics
    /// When it does not run in time.
    #[must_use]
    pub fn program(&self, name: &str) -> u32 {
        let mut found = None;
        until(name, || {
            found = self.find_program(name);
            found.is_some()
        });
        found.expect("was found")
    }

    /// The process id of a program that the supervisor has started, if it runs.
    #[must_use]
    pub fn find_program(&self, name: &str) -> Option<u32> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid())).ok()?;
        for pid in children.split_whitespace() {
            // The kernel truncates the name to 15 bytes: "bailiwick-warde".
            let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if !command.is_empty() && name.starts_with(command.trim()) {
                return pid.parse().ok();
            }
        }
        None
    }

    /// Kills the started process and its daemons with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(child) = self.running.take() {
            kill(child);
        }
    }

    /// Stops the started process with SIGTERM, as an operator does. Jails keep running.
    pub fn end(&mut self) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("kill");
        self.wait();
    }

    /// Waits until the started process ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        self.running.take().expect("something runs").wait().expect("wait")
    }

    /// The log of the daemons.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Runs a `bailiwick` command.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let mut output = self.command(arguments).output().expect("the command line runs");
        output.stderr = without_waiting(&output.stderr);
        output
    }

    /// A `bailiwick` command, ready to run.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(stage().join("bailiwick"));
        command
            .args(arguments.iter().take(1))
            .args(["--config".as_ref(), self.path("etc").as_os_str()])
            .args(arguments.iter().skip(1))
            .stdin(Stdio::null());
        command
    }

    /// Runs a `bailiwick` command that must succeed, and returns its standard output.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "bailiwick {arguments:?}: {:?} signal {:?}\n{text}{}\nlog:\n{}",
            output.status.code(),
            output.status.signal(),
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        text
    }

    /// Runs a shell line as root in a jail. Returns its exit status, standard output and standard error.
    pub fn inside(&self, tenant: &str, line: &str) -> (i32, String, String) {
        let output = self.cli(&["exec", tenant, "--", "/bin/sh", "-c", line]);
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    /// The process id of init in a tenant's running jail.
    #[must_use]
    pub fn init(&self, tenant: &str) -> u32 {
        let shown: serde_json::Value = serde_json::from_str(&self.ok(&["show", tenant, "--json"])).expect("JSON");
        shown["pid"].as_u64().and_then(|pid| pid.try_into().ok()).unwrap_or_else(|| panic!("no jail: {shown}"))
    }

    /// Sends a request to the warden.
    ///
    /// # Errors
    /// When it closes the connection instead of answering.
    pub fn ask(&self, request: &WardenRequest) -> std::io::Result<WardenReply> {
        let mut stream = UnixStream::connect(self.path("run/warden.sock"))?;
        stream.write_all(&encode(request, MAX_REQUEST).expect("small"))?;
        let mut decoder = Decoder::new(MAX_REPLY);
        let mut buffer = [0; 4096];
        loop {
            let len = stream.read(&mut buffer)?;
            if len == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            decoder.push(&buffer[..len]);
            if let Some(reply) = decoder.next().expect("the warden speaks the protocol") {
                return Ok(reply);
            }
        }
    }

    /// Sends a request to the warden, which must not fail.
    pub fn warden(&self, request: &WardenRequest) -> WardenReply {
        match self.ask(request).expect("the warden answers") {
            WardenReply::Failed(failure) => panic!("{failure}\nlog:\n{}", self.log()),
            reply => reply,
        }
    }

    /// Everything that a jail of this host may leave on the machine, except tenants' storage: processes, control
    /// groups, mounts, runtime files and unfinished directories.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        for pid in self.processes() {
            found.push(format!("process {pid}"));
        }
        for group in self.groups() {
            found.push(format!("control group {group}"));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let folder = self.path("").display().to_string();
        let own_mounts = mounts.lines().filter(|line| line.contains(folder.trim_end_matches('/')));
        found.extend(own_mounts.map(|line| format!("mount {line}")));
        if let Ok(jails) = fs::read_dir(self.path("run/jails")) {
            found.extend(jails.flatten().map(|entry| format!("runtime file {}", entry.path().display())));
        }
        for unfinished in [".new", ".purged"] {
            let output =
                Command::new("find").arg(self.path("state")).args(["-name", &format!("*{unfinished}")]).output();
            let text = String::from_utf8(output.expect("find runs").stdout).expect("text");
            found.extend(text.lines().map(|line| format!("unfinished {line}")));
        }
        found
    }

    /// Processes with an id of this host. Zombies that only the machine's PID 1 can reap are not counted.
    #[must_use]
    pub fn processes(&self) -> BTreeSet<u32> {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir("/proc").expect("proc").flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
            if status.contains("\nState:\tZ") && status.contains("\nPPid:\t1\n") {
                continue;
            }
            let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
            if uids.split_whitespace().filter_map(|id| id.parse().ok()).any(|id: u32| self.ids().contains(&id)) {
                found.insert(pid);
            }
        }
        found
    }

    /// All control groups of this host, in all hierarchies.
    #[must_use]
    pub fn groups(&self) -> Vec<String> {
        let Ok(ledger) = fs::read_to_string(self.path("state/ledger.json")) else { return Vec::new() };
        let ledger: serde_json::Value = serde_json::from_str(&ledger).expect("a ledger");
        let base = format!("bailiwick-{}", ledger["instance"].as_str().expect("an instance"));
        let output =
            Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-path", &format!("*/{base}*")]).output();
        let text = String::from_utf8(output.expect("find runs").stdout).expect("text");
        text.lines().map(str::to_owned).collect()
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

/// Kills a child and the daemons that it started. The child is killed first, so that it cannot restart a daemon.
/// Jails, which are children of a warden, keep running.
fn kill(mut child: Child) {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap_or_default();
    let is_daemon = |pid: &u32| {
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        ["bailiwickd", "bailiwick-warden", "bailiwick-net"].iter().any(|name| program.ends_with(name))
    };
    // Opened by descriptor: once the parent is dead, init reaps the daemons and their process ids may be reused.
    let daemons = children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(is_daemon);
    let daemons: Vec<_> = daemons.filter_map(|pid| process::open(pid).ok()).collect();
    child.kill().ok();
    child.wait().ok();
    for daemon in daemons {
        process::signal(&daemon, rustix::process::Signal::KILL).ok();
        process::has_ended(&daemon, Duration::from_secs(10)).ok();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut stderr = std::io::stderr();
            writeln!(stderr, "--- log of the daemons ---\n{}", self.log()).ok();
        }
        if let Some(mut child) = self.running.take() {
            // The supervisor forwards the signal to the daemons. Jails keep running.
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
            }
            let deadline = Instant::now() + Duration::from_secs(30);
            while child.try_wait().is_ok_and(|ended| ended.is_none()) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            kill(child);
        }
        for group in self.groups() {
            // Only groups of version 2 have this file.
            let kill = Path::new(&group).join("cgroup.kill");
            if kill.exists() {
                fs::write(kill, "1").ok();
            }
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let mut groups = self.groups();
            groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
            for group in &groups {
                fs::remove_dir(group).ok();
            }
            if groups.is_empty() || Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
