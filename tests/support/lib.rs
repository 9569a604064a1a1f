//! A whole host below a temporary folder: configuration, programs, tenants. Every test has its own; what it made is
//! gone when the value is dropped, also after a failure.

use bailiwick_proto::frame::{Decoder, MAX_REPLY, MAX_REQUEST, encode};
use bailiwick_proto::{WardenReply, WardenRequest};
use bailiwick_sys::process;
use bailiwick_types::{Profile, TenantName};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a daemon may take to answer, on a busy machine.
const READY_TIME: Duration = Duration::from_secs(60);

/// The folder with the programs under test.
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

/// Whether this kernel can run a profile. Where it cannot, what is left out is said by name;
/// `bad_input::a_profile_that_the_kernel_cannot_run_is_refused` proves there that such a tenant does not start.
#[must_use]
pub fn runs(profile: Profile) -> bool {
    let (needs, has) = (bailiwick_plan::landlock::lowest_abi(profile), bailiwick_sys::landlock::abi());
    if needs > has {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let text =
            format!("{test}: NOT with profile {profile}: it needs Landlock ABI {needs}, this kernel has {has}\n");
        // Past the capture of the test's output: it must be seen.
        std::io::stderr().write_all(text.as_bytes()).ok();
    }
    needs <= has
}

/// The profiles that this kernel can run.
#[must_use]
pub fn profiles() -> Vec<&'static str> {
    let all = [(Profile::Web, "web"), (Profile::Shell, "shell"), (Profile::System, "system")];
    all.into_iter().filter(|(profile, _)| runs(*profile)).map(|(_, name)| name).collect()
}

/// A file system of its own on a loop device. Unmounted when the value is dropped, and with it the device goes.
#[derive(Debug)]
pub struct Pool {
    mount: PathBuf,
    dir: tempfile::TempDir,
}

impl Pool {
    /// Makes one of a size as `truncate(1)` takes it, with a program such as `mkfs.ext4` and its arguments.
    #[must_use]
    pub fn new(size: &str, make: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let real = dir.path().canonicalize().expect("real path");
        fs::set_permissions(&real, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        Self::at(real.join("pool"), dir, size, make, "loop")
    }

    /// The same in memory, where there is room: for what asks it to be on disk again and again, and never needs it to be.
    #[must_use]
    pub fn in_memory(size: &str, make: &[&str]) -> Self {
        let room = rustix::fs::statvfs("/dev/shm").map_or(0, |stat| stat.f_bavail * stat.f_frsize);
        if room < 1 << 30 {
            return Self::new(size, make);
        }
        let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
        Self::at(dir.path().join("pool"), dir, size, make, "loop")
    }

    /// One of ext4 with quotas of projects, which the kernel must have.
    #[must_use]
    pub fn ext4_with_quotas() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let real = dir.path().canonicalize().expect("real path");
        fs::set_permissions(&real, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let make = ["mkfs.ext4", "-q", "-m", "0", "-O", "quota,project", "-E", "quotatype=prjquota"];
        Self::at(real.join("pool"), dir, "512M", &make, "loop,prjquota")
    }

    /// One of XFS with quotas of projects, which the kernel must have.
    #[must_use]
    pub fn xfs_with_quotas() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let real = dir.path().canonicalize().expect("real path");
        fs::set_permissions(&real, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        Self::at(real.join("pool"), dir, "512M", &["mkfs.xfs", "-q"], "loop,prjquota")
    }

    /// One of a size as [`Self::new`] takes it, mounted where the state directory of a host will be.
    #[must_use]
    pub fn for_state_of(host: &Host, size: &str, make: &[&str]) -> Self {
        let pool =
            Self::at(host.path("state"), tempfile::tempdir().expect("a temporary directory"), size, make, "loop");
        fs::set_permissions(pool.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("chmod");
        pool
    }

    fn at(mount: PathBuf, dir: tempfile::TempDir, size: &str, make: &[&str], options: &str) -> Self {
        let image = dir.path().join("image");
        fs::create_dir(&mount).expect("mkdir");
        run(Command::new("truncate").args(["-s", size]).arg(&image));
        run(Command::new(make[0]).args(&make[1..]).arg(&image));
        run(Command::new("mount").args(["-o", options]).arg(&image).arg(&mount));
        Self { mount, dir }
    }

    /// One of btrfs with quotas.
    #[must_use]
    pub fn btrfs() -> Self {
        let pool = Self::new("512M", &["mkfs.btrfs", "-q"]);
        run(Command::new("btrfs").args(["quota", "enable"]).arg(pool.path()));
        pool
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Runs a program of the file system's on it while nobody uses it: what it ends with is its own affair.
    pub fn unmounted(&self, program: &str, arguments: &[&str]) -> Output {
        // A jail that is on its way out may hold it for a moment.
        let unmount = || Command::new("umount").arg(&self.mount).stderr(Stdio::null()).status();
        until("nobody to use it", || unmount().is_ok_and(|status| status.success()));
        let image = self.dir.path().join("image");
        let output = Command::new(program).args(arguments).arg(&image).output();
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&self.mount));
        output.unwrap_or_else(|error| panic!("{program}: {error}"))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // A jail that is on its way out may hold it for a moment.
        let deadline = Instant::now() + Duration::from_secs(5);
        let unmount = || Command::new("umount").arg(&self.mount).stderr(Stdio::null()).status();
        while !unmount().is_ok_and(|status| status.success()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        // After a failure somebody may hold it for longer.
        Command::new("umount").arg("-l").arg(&self.mount).stderr(Stdio::null()).status().ok();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until something is so: for long enough on the slowest machine, and not for ever. What the daemons said is told with the host.
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

/// What a program said, but for the line that a slow machine lets it say while it waits for an answer.
#[must_use]
pub fn without_waiting(said: &[u8]) -> Vec<u8> {
    let lines = said.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| !line.starts_with(b"bailiwick: waiting for bailiwickd;")).flatten().copied().collect()
}

/// A tenant's name.
#[must_use]
pub fn name(text: &str) -> TenantName {
    text.parse().expect("a valid name")
}

/// Ids that no other test of this machine uses at the same time, for as long as the value lives: an abstract socket of
/// that name is bound, which the kernel lets one process do at a time and frees when it ends.
#[derive(Debug)]
struct Ids {
    first: u32,
    claims: Vec<UnixListener>,
}

impl Ids {
    /// Some slots side by side. 1,024 of 16 tenants: 2^30 ids from 2^30 on, below the invalid one. Where to begin is by process.
    fn claim(slots: u32) -> Self {
        let claim = |slot: u32| {
            let address = SocketAddr::from_abstract_name(format!("bailiwick-test-ids-{slot}")).expect("a name");
            UnixListener::bind_addr(&address).ok()
        };
        for first in (0..=1024 - slots).cycle().skip(std::process::id() as usize % 1024).take(1024) {
            let claims: Option<Vec<UnixListener>> = (first..first + slots).map(claim).collect();
            if let Some(claims) = claims {
                return Self { first: (1 << 30) + first * 16 * 65_536, claims };
            }
        }
        panic!("1,024 hosts of tests run on this machine");
    }
}

/// In the place of a network and sshd.
const SCRIPT: &str = r#"#!/bin/sh
# ssh [OPTION...] TENANT [COMMAND...]
subsystem=
while :; do
    case $1 in
    -s) subsystem=1; shift ;;
    -l | -p | -o | -F | -i) shift 2 ;;
    --) shift; break ;;
    -*) shift ;;
    *) break ;;
    esac
done
tenant=$1
shift
unset SSH_ORIGINAL_COMMAND
if [ -n "$subsystem" ]; then export SSH_ORIGINAL_COMMAND=internal-sftp
elif [ $# -gt 0 ]; then export SSH_ORIGINAL_COMMAND="$*"
fi
export SSH_CONNECTION='192.0.2.7 50000 192.0.2.1 22'
id=${AS:-$(cat "$(dirname "$0")/$tenant.id")}
[ -z "$SSH_USER_AUTH" ] || chmod 644 "$SSH_USER_AUTH"
exec setpriv --reuid "$id" --regid "$id" --clear-groups -- \
    "$(dirname "$0")/bailiwick-shell" --config "$(dirname "$0")/../etc" -c bailiwick-shell
"#;

/// A host below a temporary folder.
#[derive(Debug)]
pub struct Host {
    dir: tempfile::TempDir,
    ids: Ids,
    running: Option<Child>,
    programs: PathBuf,
}

impl Host {
    /// A host with three plans, `web`, `shell` and `system`, and no tenant. Nothing runs yet.
    #[must_use]
    pub fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// The same with ids for 16 tenants so many times.
    #[must_use]
    pub fn with_many_ids(slots: u32) -> Self {
        Self::made(&std::env::temp_dir(), slots)
    }

    /// The same below another folder.
    #[must_use]
    pub fn within(folder: &Path) -> Self {
        Self::made(folder, 1)
    }

    fn made(folder: &Path, slots: u32) -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests make real jails and must run as root");
        let dir = tempfile::tempdir_in(folder).expect("a temporary directory");
        // The control socket is for everybody; the folder above must let them through.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let host = Self { dir, ids: Ids::claim(slots), running: None, programs: stage() };
        host.write("etc/bailiwick.toml", &host.default_config(""));
        for profile in ["web", "shell", "system"] {
            let plan = format!("profile = \"{profile}\"\n[limits]\nmemory = \"128M\"\ntasks = 64\n");
            host.write(&format!("etc/plans.d/{profile}.toml"), &plan);
        }
        fs::create_dir_all(host.path("etc/tenants.d")).expect("mkdir");
        host
    }

    /// The same with the warden whose steps can be made to fail.
    #[must_use]
    pub fn with_failpoints() -> Self {
        let mut host = Self::new();
        host.programs = stage().join("failpoints");
        assert!(host.programs.join("bailiwick-warden").exists(), "run `make stage-failpoints`");
        host
    }

    /// The text of `bailiwick.toml` for this folder, with more keys after it.
    #[must_use]
    pub fn default_config(&self, more: &str) -> String {
        format!(
            "state_dir = \"{}\"\nruntime_dir = \"{}\"\nrequire = [\"cpu\", \"memory\", \"tasks\"]\n\
             user = \"64999\"\nlogin_group = \"64998\"\nids = {{ first = {}, per_tenant = 65536 }}\n{more}",
            self.path("state").display(),
            self.path("run").display(),
            // Those of host users are right below.
            self.ids.first + 65_536,
        )
    }

    /// A path below the folder.
    #[must_use]
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().canonicalize().expect("real path").join(below)
    }

    /// Writes a file below the folder.
    pub fn write(&self, below: &str, text: &str) {
        let path = self.path(below);
        fs::create_dir_all(path.parent().expect("has a parent")).expect("mkdir");
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Declares a tenant of a plan.
    pub fn declare(&self, tenant: &str, plan: &str) {
        self.write(&format!("etc/tenants.d/{tenant}.toml"), &format!("plan = \"{plan}\"\n"));
    }

    /// The ids of this host's tenants.
    #[must_use]
    pub fn ids(&self) -> std::ops::Range<u32> {
        self.ids.first..self.ids.first + u32::try_from(self.ids.claims.len()).expect("some") * 16 * 65_536
    }

    fn spawn(&mut self, program: &str, arguments: &[&str]) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).expect("a log file");
        let child = Command::new(self.programs.join(program))
            .args(["--config".as_ref(), self.path("etc").as_os_str()])
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

    /// Starts the warden alone, in a mount namespace whose mounts all propagate, as systemd sets a host up.
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

    /// Starts the whole service in a mount namespace in which `/etc` is a copy that a test may change ([`Self::in_own_etc`]).
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

    /// Runs a line where the service runs, after [`Self::start_in_own_etc`].
    pub fn in_own_etc(&self, line: &str) {
        run(Command::new("nsenter").args(["--mount", "--target", &self.pid().to_string(), "--", "sh", "-c", line]));
    }

    /// Starts the warden alone.
    pub fn start_warden(&mut self) {
        self.spawn("bailiwick-warden", &[]);
        self.wait_for("run/warden.sock");
    }

    /// Starts the warden alone with a socket of the service manager's (`sd_listen_fds(3)`), and does not wait for it.
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

    /// Starts the whole service.
    pub fn start(&mut self) {
        self.spawn("bailiwickd", &["--standalone"]);
        self.wait_for("run/control/bailiwick.sock");
    }

    /// Starts the whole service with so many descriptors for each program.
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

    /// The process of a program that the supervisor has started.
    ///
    /// # Panics
    /// When there is none for a while.
    #[must_use]
    pub fn program(&self, name: &str) -> u32 {
        let find = || {
            let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid())).ok()?;
            // A program's name is cut to 15 bytes there: "bailiwick-warde".
            children.split_whitespace().find_map(|pid| {
                let command = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
                name.starts_with(command.trim()).then(|| pid.parse().ok())?
            })
        };
        let mut found = None;
        until(name, || {
            found = find();
            found.is_some()
        });
        found.expect("was found")
    }

    /// Kills what was started and what that started, without a chance to clean up.
    pub fn kill(&mut self) {
        if let Some(child) = self.running.take() {
            kill(child);
        }
    }

    /// Ends what was started, as an operator does: jails go on.
    pub fn end(&mut self) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("kill");
        self.wait();
    }

    /// Waits for what was started to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        self.running.take().expect("something runs").wait().expect("wait")
    }

    /// What the daemons said.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Runs the command line.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let mut output = self.command(arguments).output().expect("the command line runs");
        output.stderr = without_waiting(&output.stderr);
        output
    }

    /// The command line, to be run.
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

    /// Runs the command line, expects success, gives what it printed.
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

    /// Runs a shell line as root inside a jail and gives its exit status, stdout and stderr.
    pub fn inside(&self, tenant: &str, line: &str) -> (i32, String, String) {
        let output = self.cli(&["exec", tenant, "--", "/bin/sh", "-c", line]);
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    /// The init of a tenant's jail, which runs.
    #[must_use]
    pub fn init(&self, tenant: &str) -> u32 {
        let shown: serde_json::Value = serde_json::from_str(&self.ok(&["show", tenant, "--json"])).expect("JSON");
        shown["pid"].as_u64().and_then(|pid| pid.try_into().ok()).unwrap_or_else(|| panic!("no jail: {shown}"))
    }

    /// Writes a script that takes the arguments of `ssh(1)` and starts `bailiwick-shell` as sshd does under `ForceCommand`: as the
    /// tenant's host user, with the client's wish in `SSH_ORIGINAL_COMMAND`. For tenants called as the [`profiles`] are.
    pub fn write_ssh(&self) {
        for tenant in profiles() {
            let shown: serde_json::Value = serde_json::from_str(&self.ok(&["show", tenant, "--json"])).expect("JSON");
            let id = shown["host_user"].as_u64().unwrap_or_default();
            let ids = &shown["ids"];
            assert!(id < ids["first"].as_u64().expect("a number"), "no process of the host has an id of a jail's");
            self.write(&format!("bin/{tenant}.id"), &id.to_string());
        }
        self.write("bin/ssh", SCRIPT);
        fs::set_permissions(self.path("bin/ssh"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        // The folder with the programs may be closed to others.
        fs::copy(stage().join("bailiwick-shell"), self.path("bin/bailiwick-shell")).expect("copies");
    }

    /// That script, to be run.
    #[must_use]
    pub fn ssh(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path("bin/ssh"));
        command.args(arguments);
        command
    }

    /// Asks the warden.
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

    /// Asks the warden, which must be able to.
    pub fn warden(&self, request: &WardenRequest) -> WardenReply {
        match self.ask(request).expect("the warden answers") {
            WardenReply::Failed(failure) => panic!("{failure}\nlog:\n{}", self.log()),
            reply => reply,
        }
    }

    /// Everything that a jail of this host could leave on the machine, apart from tenants' storage: processes, control
    /// groups, mounts and runtime files.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        for pid in self.processes() {
            found.push(format!("process {pid}"));
        }
        let groups = self.groups();
        for group in groups {
            found.push(format!("control group {group}"));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let folder = self.path("").display().to_string();
        found.extend(
            mounts
                .lines()
                .filter(|line| line.contains(folder.trim_end_matches('/')))
                .map(|line| format!("mount {line}")),
        );
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

    /// Processes whose user is in this host's ids; not those that have ended and wait for the machine's own PID 1.
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

    /// Control groups of this host in any hierarchy, those of the tenants and the ones above them.
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

/// Kills a program that is still our child, and the daemons that it has started: it first, so that it starts none again.
/// Jails, which are children of a warden, go on.
fn kill(mut child: Child) {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap_or_default();
    let is_daemon = |pid: &u32| {
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        program.ends_with("bailiwickd") || program.ends_with("bailiwick-warden")
    };
    // By descriptor: once their parent is gone, somebody else reaps them, and their numbers are free.
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
            // The supervisor passes it on to what it started; jails go on.
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
            }
            let deadline = Instant::now() + Duration::from_secs(30);
            while child.try_wait().is_ok_and(|ended| ended.is_none()) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            kill(child);
        }
        for group in self.groups().iter().filter(|group| {
            group.starts_with("/sys/fs/cgroup/unified") || Path::new(group).join("cgroup.kill").exists()
        }) {
            fs::write(Path::new(group).join("cgroup.kill"), "1").ok();
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
