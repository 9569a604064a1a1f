//! The temporary tenant of `doctor --probe`, with a host of its own.

use bailiwick_policy::Host;
use bailiwick_proto::Failure;
use bailiwick_sys::{file, process};
use bailiwick_types::{ExitStatus, UNIFIED};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long the test host may take to answer.
const READY_TIME: Duration = Duration::from_secs(30);
/// Directory of the test host, in the state directory or its nearest existing ancestor.
pub(super) const FOLDER: &str = ".bailiwick-probe";
/// The file of its configuration that is written last.
pub(super) const TENANT: &str = "etc/tenants.d/probe.toml";
/// First id of the last slot. User and project ids of the test host are far above those of any tenant. Each probe uses one of
/// `SLOTS` slots of `SLOT_SIZE` ids: other state directories may be probed at the same time on the same file system, and their
/// quotas must not be counted together.
const LAST_SLOT: u32 = 4_294_770_688;
const SLOT_SIZE: u32 = 2 * 65_536;
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

/// Creates the directory of the test host if it is missing, and locks it. Only one probe can hold the lock.
pub(super) fn lock(folder: &Path) -> Result<OwnedFd, Failure> {
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
            let message = format!("another `bailiwick doctor --probe` uses {}; wait until it ends", folder.display());
            return Failure::of(ExitStatus::Conflict, message);
        }
        Failure::of(ExitStatus::Failed, format!("cannot lock {}: {error}", folder.display()))
    })
}

/// The host of the temporary tenant. Dropping it deletes the tenant, stops the daemon and removes the directory.
pub(super) struct TestHost {
    folder: PathBuf,
    daemon: Child,
    /// The lock on the directory.
    _lock: OwnedFd,
}

impl TestHost {
    /// Writes the configuration to an empty directory and starts the host.
    pub(super) fn create(host: &Host, folder: &Path, lock: OwnedFd) -> io::Result<Self> {
        let etc = folder.join("etc");
        for below in ["plans.d", "tenants.d"] {
            std::fs::create_dir_all(etc.join(below))?;
        }
        for (path, mode) in [(folder, 0o711), (&etc, 0o755)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        }
        let first_id = LAST_SLOT - std::process::id() % SLOTS * SLOT_SIZE;
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
        Self::start(folder, lock)
    }

    /// Starts a host whose configuration exists, and waits until its tenant runs.
    pub(super) fn start(folder: &Path, lock: OwnedFd) -> io::Result<Self> {
        let log = std::fs::File::create(folder.join("log"))?;
        let mut command = daemon_command();
        command.args(["--standalone", "--config"]).arg(folder.join("etc"));
        // In a process group of its own, it gets no signals from the terminal: it must outlive them to delete the tenant.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        process::end_with_parent(&mut command);
        let test_host = Self { daemon: command.spawn()?, folder: folder.to_owned(), _lock: lock };
        test_host.wait()?;
        Ok(test_host)
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

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "bailiwick".into()));
        command.args(&arguments[..1]).arg("--config").arg(self.folder.join("etc")).args(&arguments[1..]);
        command.stdin(Stdio::null());
        command
    }

    pub(super) fn bailiwick(&self, arguments: &[&str]) -> io::Result<Output> {
        self.command(arguments).output()
    }

    /// Runs a shell line in the jail. Returns its exit status and its output.
    pub(super) fn inside(&self, line: &str) -> io::Result<(Option<i32>, String)> {
        let output = self.bailiwick(&["exec", "probe", "--", "/bin/sh", "-c", line])?;
        let output_text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Ok((output.status.code(), output_text.trim().to_owned()))
    }

    /// Waits until the space of removed files is free again: btrfs frees it with its next commit, XFS in the background.
    pub(super) fn wait_for_room(&self) -> io::Result<()> {
        let deadline = Instant::now() + READY_TIME;
        loop {
            rustix::fs::syncfs(std::fs::File::open(&self.folder)?)?;
            let (status, output) =
                self.inside("head -c 10M /dev/zero > /home/room; s=$?; rm -f /home/room; exit $s")?;
            if status == Some(0) {
                return rustix::fs::syncfs(std::fs::File::open(&self.folder)?).map_err(Into::into);
            }
            if Instant::now() >= deadline {
                return Err(io::Error::other(format!("the space of removed files does not become free: {output}")));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Microseconds of processor time that the tenant has used.
    pub(super) fn processor_time(&self) -> io::Result<u64> {
        let output = self.bailiwick(&["show", "probe", "--json"])?;
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let path = shown["cgroup"][UNIFIED].as_str().ok_or(io::ErrorKind::NotFound)?.to_owned();
        let hierarchies = bailiwick_sys::cgroup::hierarchies()?;
        let mount = hierarchies.mount_of(UNIFIED).ok_or(io::ErrorKind::NotFound)?;
        let text = bailiwick_sys::cgroup::read(bailiwick_sys::cgroup::open(mount, &path)?, "cpu.stat")?;
        bailiwick_sys::cgroup::flat_keyed(&text, "usage_usec").ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// The command that starts `bailiwickd`, from the directory of this program or the installed one. Under systemd it runs in a
/// scope with delegated control groups.
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

impl Drop for TestHost {
    fn drop(&mut self) {
        let deleted = self.bailiwick(&["delete", "probe", "--purge"]).is_ok_and(|output| output.status.success());
        let pid = i32::try_from(self.daemon.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            #[expect(
                clippy::disallowed_methods,
                reason = "it is our child and was not waited for, so its pid is its own"
            )]
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        self.daemon.wait().ok();
        // If the jail still exists, the directory is kept: the next probe finds the configuration there and removes the jail.
        if deleted || !self.folder.join("run/jails/probe").exists() {
            std::fs::remove_dir_all(&self.folder).ok();
        }
    }
}
