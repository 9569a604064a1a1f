//! One process that serves a lent socket: how it is made, and how a later warden knows it.
//!
//! Danger: the process is on the host, beside the jail, and reads what the tenant sends. It must have nothing that could be
//! worth taking: the host user of the tenant, no capability, no way to gain one, no file but the directory of the host's socket,
//! read-only, the network of the jail, the limits of the tenant. It takes the program that filters its own system calls
//! before it reads a byte. Nothing of the tenant runs before that.

use crate::lending::places::{Places, listen};
use crate::limits::cgroups::Groups;
use bailiwick_plan::lending::{COMMAND, COUNTS_SIZE};
use bailiwick_plan::{CORE_LIMIT, OOM_SCORE};
use bailiwick_policy::HostSocket;
use bailiwick_sys::mount::attr;
use bailiwick_sys::namespace::{self, Kind};
use bailiwick_sys::process::{self, Cloned, MOUNT_NAMESPACE};
use bailiwick_sys::{credential, file, mount};
use bailiwick_types::{HostSocketName, HostUid, TenantName};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::Resource;
use std::error::Error;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A directory that every host has. The directory of the host's socket is mounted there before it becomes the root.
const STAGE: &str = "/usr";
/// The descriptors of the program.
const LISTENER: i32 = 3;
const COUNTS: i32 = 4;
/// Descriptors that the program needs beside two for each connection.
const OTHER_FILES: u64 = 64;
/// The most bytes of a report, and of the arguments of a process.
const MAX_TEXT: usize = 4096;

/// What a process serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Device and inode of the directory of the host's socket.
    directory: (u64, u64),
    /// The name of its file.
    file: String,
    connections: u32,
}

impl Target {
    /// What is there now; `None` when it is no socket.
    pub(crate) fn find(socket: &HostSocket) -> Option<Self> {
        let is_socket =
            rustix::fs::stat(&socket.path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket);
        let stat = rustix::fs::stat(socket.path.parent()?).ok().filter(|_| is_socket)?;
        let file = socket.path.file_name()?.to_str()?.to_owned();
        Some(Self { directory: (stat.st_dev, stat.st_ino), file, connections: socket.connections })
    }

    /// The arguments of the program, which `ps` shows.
    fn arguments(&self, name: &HostSocketName) -> [String; 4] {
        [COMMAND.to_owned(), name.to_string(), self.file.clone(), self.connections.to_string()]
    }
}

/// What a running process serves, as far as the kernel shows it.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) target: Target,
    /// Has the reason when the process ended before it was the program.
    report: Option<OwnedFd>,
    /// It was killed, because it served something else.
    is_replaced: bool,
}

impl Proxy {
    /// Starts a process for a socket of a tenant, whose init is `init`.
    pub(crate) fn start(
        program: &OwnedFd,
        places: &Places,
        groups: &Groups,
        (tenant, init, name): (&TenantName, u32, &HostSocketName),
        (uid, gid): (HostUid, u32),
        (socket, target): (&HostSocket, &Target),
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let parent = socket.path.parent().ok_or(io::ErrorKind::InvalidInput).map_err(io::Error::from)?;
        let root = rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let found = file::metadata(&root)?;
        if (found.device, found.inode) != target.directory {
            return Err(format!("\"{}\" is another directory than a moment ago", parent.display()).into());
        }
        let root = mount::detached_copy_of(&root)?;
        mount::replace_attributes(&root, attr::READ_ONLY | attr::NO_SUID | attr::NO_DEV | attr::NO_EXEC)?;
        let network = namespace::open(init, "net")?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let (dir, counts) = (places.socket_dir(tenant, name)?, places.counts(tenant, name)?);
        let (group, entrances) = groups.lending(tenant, name)?;
        let (report, child_report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&report, true)?;
        let text = |text: String| CString::new(text).map_err(io::Error::other);
        let arguments = target.arguments(name).map(text).into_iter().collect::<io::Result<Vec<_>>>()?;
        let child = Child {
            program,
            root: &root,
            network: &network,
            null: &null,
            dir: &dir,
            counts: &counts,
            entrances: &entrances,
            report: &child_report,
            file: &target.file,
            arguments: &arguments,
            user: (uid.0, gid),
            open_files: u64::from(target.connections) * 2 + OTHER_FILES,
        };
        match process::clone_into(MOUNT_NAMESPACE, Some(group.as_fd()), &child.fds())? {
            Cloned::Child => child.run(),
            Cloned::Parent { pid, pidfd } => {
                Ok(Self { pid, pidfd, target: target.clone(), report: Some(report), is_replaced: false })
            }
        }
    }

    /// The process that an earlier warden has started for a socket. Only root can put a process into its group. Whatever else is
    /// there is killed: another one is started then.
    pub(crate) fn adopt(groups: &Groups, tenant: &TenantName, name: &HostSocketName) -> Option<Self> {
        let members = groups.lending_members(tenant, name);
        let held: Vec<(u32, OwnedFd)> =
            members.into_iter().filter_map(|pid| Some((pid, process::open(pid).ok()?))).collect();
        // Only what is still there is what was opened.
        let still = groups.lending_members(tenant, name);
        let mut held: Vec<_> = held.into_iter().filter(|(pid, _)| still.contains(pid)).collect();
        if let [(pid, _)] = held[..]
            && let Some(target) = target_of(pid, name)
        {
            let (pid, pidfd) = held.pop()?;
            return Some(Self { pid, pidfd, target, report: None, is_replaced: false });
        }
        for (_, pidfd) in held {
            process::kill(pidfd).ok();
        }
        None
    }

    pub(crate) fn kill(&self) {
        process::kill(&self.pidfd).ok();
    }

    /// Ends it, so that another process can serve what is declared now.
    pub(crate) fn replace(&mut self) {
        self.is_replaced = true;
        self.kill();
    }

    pub(crate) fn is_replaced(&self) -> bool {
        self.is_replaced
    }

    /// Why it has ended.
    pub(crate) fn why(&self) -> String {
        let mut text = vec![0; MAX_TEXT];
        let len = self.report.as_ref().and_then(|report| rustix::io::read(report, &mut text).ok()).unwrap_or(0);
        if len == 0 {
            return "the program that serves it has ended".to_owned();
        }
        String::from_utf8_lossy(&text[..len]).into_owned()
    }

    /// Frees its number. If it is not a child of this warden, somebody else does that.
    pub(crate) fn reap(&self) {
        process::has_ended(&self.pidfd, Duration::ZERO).and_then(|_| process::reap(&self.pidfd)).ok();
    }
}

/// What a process serves. It was started by our code, which chose its arguments and its root.
fn target_of(pid: u32, name: &HostSocketName) -> Option<Target> {
    let dir = file::open_dir(std::path::Path::new(&format!("/proc/{pid}"))).ok()?;
    let text = file::read_bounded(file::open_file_at(&dir, "cmdline").ok()?, MAX_TEXT).ok()?;
    let arguments: Vec<&str> = std::str::from_utf8(&text).ok()?.split_terminator('\0').collect();
    let [COMMAND, socket, file, connections] = arguments[..] else { return None };
    let root = rustix::fs::stat(format!("/proc/{pid}/root")).ok()?;
    let connections = connections.parse().ok()?;
    let directory = (root.st_dev, root.st_ino);
    (socket == name.as_str()).then(|| Target { directory, file: file.to_owned(), connections })
}

/// What the child has. It runs in a copy of the warden and ends by becoming the program.
struct Child<'a> {
    program: &'a OwnedFd,
    root: &'a OwnedFd,
    network: &'a OwnedFd,
    null: &'a OwnedFd,
    dir: &'a OwnedFd,
    counts: &'a OwnedFd,
    entrances: &'a [OwnedFd],
    report: &'a OwnedFd,
    file: &'a str,
    arguments: &'a [CString],
    user: (u32, u32),
    open_files: u64,
}

impl Child<'_> {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let own = [self.program, self.root, self.network, self.null, self.dir, self.counts, self.report];
        own.into_iter().chain(self.entrances).map(AsFd::as_fd).collect()
    }

    fn run(&self) -> ! {
        let (step, error) = match self.confine() {
            Ok(listener) => ("execute its program", self.execute(&listener)),
            Err(failed) => failed,
        };
        // If the warden is gone, nobody reads this.
        rustix::io::write(self.report, format!("cannot {step}: {error}").as_bytes()).ok();
        process::exit_now(1)
    }

    /// Becomes what the process may be, in this order: what needs rights comes before they are given up.
    fn confine(&self) -> Result<OwnedFd, (&'static str, io::Error)> {
        let at = |step| move |error| (step, error);
        for entrance in self.entrances {
            rustix::io::write(entrance, b"0").map_err(|error| at("join the tenant's control groups")(error.into()))?;
        }
        std::fs::write("/proc/self/oom_score_adj", OOM_SCORE.to_string()).map_err(at("set oom_score_adj"))?;
        namespace::enter(self.network, Kind::Network).map_err(at("enter the jail's network"))?;
        // Here the network is the jail's: a socket keeps the network that it was made in.
        let listener = listen(self.dir.as_fd(), self.file).map_err(at("listen for the tenant"))?;
        self.change_root().map_err(at("make the directory of the host's socket its root"))?;
        self.limit().map_err(at("limit itself"))?;
        let (uid, gid) = self.user;
        credential::become_for_good(uid, gid).map_err(at("become the tenant's host user"))?;
        credential::reset_secure_bits().map_err(at("give up capabilities"))?;
        credential::limit_capabilities(0).map_err(at("give up capabilities"))?;
        credential::set_no_new_privs().map_err(at("set no_new_privs"))?;
        Ok(listener)
    }

    fn change_root(&self) -> io::Result<()> {
        mount::make_all_private()?;
        mount::attach(self.root, rustix::fs::open(STAGE, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)?;
        rustix::process::fchdir(self.root)?;
        mount::pivot_to_current_directory()
    }

    fn limit(&self) -> io::Result<()> {
        rustix::process::setsid()?;
        rustix::process::umask(Mode::from_raw_mode(0o077));
        credential::set_rlimit(Resource::Nofile, self.open_files)?;
        // It can write to the file of its counts alone, and no more than they are.
        credential::set_rlimit(Resource::Fsize, COUNTS_SIZE)?;
        credential::set_rlimit(Resource::Core, CORE_LIMIT)
    }

    /// Returns only an error.
    fn execute(&self, listener: &OwnedFd) -> io::Error {
        let prepare = || -> io::Result<OwnedFd> {
            // Away from the numbers that are overwritten below.
            let away = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 16);
            let (program, null, listener, counts) =
                (away(self.program)?, away(self.null)?, away(listener)?, away(self.counts)?);
            process::close_on_exec_from(3)?;
            for stream in 0..3 {
                process::place(&null, stream)?;
            }
            process::place(&listener, LISTENER)?;
            process::place(&counts, COUNTS)?;
            Ok(program)
        };
        match prepare() {
            Ok(program) => process::execute(program, self.arguments, &[]),
            Err(error) => error,
        }
    }
}
