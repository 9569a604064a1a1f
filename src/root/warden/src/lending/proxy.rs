//! One process that serves a lent socket: how it is made, and how a later warden knows it.
//!
//! Danger: the process is on the host, beside the jail, and reads what the tenant sends. It must have nothing that could be
//! worth taking: the host user of the tenant, no capability, no way to gain one, no file but the directory of the host's socket,
//! read-only, the network of the jail, the limits of the tenant. It takes the program that filters its own system calls
//! before it reads a byte. Nothing of the tenant runs before that. The server of mail has fewer walls, because the host's
//! `sendmail` would inherit them: its user, no capability, and the limits of the tenant (docs/decisions/0044).

use crate::lending::places::{Places, listen};
use crate::limits::cgroups::Groups;
use bailiwick_plan::lending::{COMMAND, COUNTS_SIZE, MAIL, MAIL_FILE, mail_command_line, read_mail_command_line};
use bailiwick_plan::{CORE_LIMIT, OOM_SCORE};
use bailiwick_policy::{Host, HostSocket, Mail, NotLent};
use bailiwick_sys::mount::attr;
use bailiwick_sys::namespace::{self, Kind};
use bailiwick_sys::process::{self, Cloned, MOUNT_NAMESPACE};
use bailiwick_sys::{credential, file, mount, proc};
use bailiwick_types::{HostSocketName, HostUid, TenantName};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Signal};
use std::error::Error;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A directory that every host has. The directory of the host's socket is mounted there before it becomes the root.
const STAGE: &str = "/usr";
/// The descriptors of the program.
const LISTENER: i32 = 3;
const NOTES: i32 = 4;
/// Descriptors that the program needs beside two for each connection.
const OTHER_FILES: u64 = 64;
/// How long a server of mail may deliver what it has begun. The host's `sendmail` has a minute.
const DRAIN_TIME: Duration = Duration::from_secs(75);
/// The most bytes of a report.
const MAX_TEXT: usize = 4096;

/// What a process serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A socket of the host.
    Socket(SocketTarget),
    /// The tenant's mail.
    Mail(MailTarget),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SocketTarget {
    /// Device and inode of the directory of the host's socket.
    directory: (u64, u64),
    /// The name of its file.
    file: String,
    connections: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MailTarget {
    /// The host's `sendmail`.
    command: String,
    /// The sender of every message.
    sender: String,
    mail: Mail,
}

impl Target {
    /// A socket of the host as it is now.
    pub(crate) fn find(host: &Host, socket: &HostSocket) -> Result<Self, NotLent> {
        let place = bailiwick_policy::find_socket(host, socket)?;
        let file = socket.path.file_name().and_then(OsStr::to_str).ok_or(NotLent::Missing)?.to_owned();
        Ok(Self::Socket(SocketTarget { directory: place.id, file, connections: socket.connections }))
    }

    /// The mail of a tenant. Its host user has its name.
    pub(crate) fn mail(tenant: &TenantName, domain: &str, host: &Host, mail: Mail) -> Self {
        let command = host.mail.command.to_string_lossy().into_owned();
        Self::Mail(MailTarget { command, sender: format!("{tenant}@{domain}"), mail })
    }

    /// The file of the socket that the tenant sees.
    fn file(&self) -> &str {
        match self {
            Self::Socket(socket) => &socket.file,
            Self::Mail(_) => MAIL_FILE,
        }
    }

    /// The arguments of the program, which `ps` shows.
    fn arguments(&self, name: &HostSocketName) -> Vec<String> {
        match self {
            Self::Socket(SocketTarget { file, connections, .. }) => {
                vec![COMMAND.to_owned(), name.to_string(), file.clone(), connections.to_string()]
            }
            Self::Mail(MailTarget { command, sender, mail }) => mail_command_line(command, sender, *mail),
        }
    }

    /// What a process with these arguments and this root serves.
    fn read(arguments: &[&str], name: &HostSocketName, root: (u64, u64)) -> Option<Self> {
        match *arguments {
            [COMMAND, socket, file, connections] if socket == name.as_str() => {
                let (file, connections) = (file.to_owned(), connections.parse().ok()?);
                Some(Self::Socket(SocketTarget { directory: root, file, connections }))
            }
            _ if name.as_str() == MAIL => {
                let (command, sender, mail) = read_mail_command_line(arguments)?;
                Some(Self::Mail(MailTarget { command: command.to_owned(), sender: sender.to_owned(), mail }))
            }
            _ => None,
        }
    }
}

/// The domain of addresses that are made here.
pub(crate) fn mail_domain() -> String {
    bailiwick_observe::mail_domain()
}

/// The programs that serve.
#[derive(Debug)]
pub(crate) struct Programs {
    lend: OwnedFd,
    mail: OwnedFd,
}

impl Programs {
    pub(crate) fn new(lend: OwnedFd, mail: &OwnedFd) -> io::Result<Self> {
        Ok(Self { lend, mail: mail.try_clone()? })
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
}

impl Proxy {
    /// Starts a process for a socket of a tenant, whose init is `init`.
    pub(crate) fn start(
        programs: &Programs,
        places: &Places,
        groups: &Groups,
        (tenant, init, name): (&TenantName, u32, &HostSocketName),
        user: (HostUid, u32),
        (host, target): (&Host, &Target),
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let dir = places.socket_dir(tenant, name)?;
        let (group, entrances) = groups.lending(tenant, name)?;
        let (report, child_report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&report, true)?;
        let text = |text: String| CString::new(text).map_err(io::Error::other);
        let arguments = target.arguments(name).into_iter().map(text).collect::<io::Result<Vec<_>>>()?;
        let (program, notes, walls, flags) = match target {
            Target::Socket(target) => {
                let socket = host.host_sockets.get(name).ok_or("it is not declared any more")?;
                let walls = Walls {
                    root: root_of(host, socket, target)?,
                    network: namespace::open(init, "net")?,
                    open_files: u64::from(target.connections) * 2 + OTHER_FILES,
                };
                (&programs.lend, places.counts(tenant, name)?, Some(walls), MOUNT_NAMESPACE)
            }
            // The host's sendmail needs the host's files and network, and perhaps its own group.
            Target::Mail(_) => (&programs.mail, places.rate(tenant)?, None, 0),
        };
        let child = Child {
            program,
            walls: walls.as_ref(),
            null: &null,
            dir: &dir,
            notes: &notes,
            entrances: &entrances,
            report: &child_report,
            file: target.file(),
            arguments: &arguments,
            user: (user.0.0, user.1),
        };
        match process::clone_into(flags, Some(group.as_fd()), &child.fds())? {
            Cloned::Child => child.run(),
            Cloned::Parent { pid, pidfd } => Ok(Self { pid, pidfd, target: target.clone(), report: Some(report) }),
        }
    }

    /// The processes that an earlier warden has started for a socket, the last one last. Only root can put a process into its
    /// group. Whatever else is there is killed.
    pub(crate) fn adopt(groups: &Groups, tenant: &TenantName, name: &HostSocketName) -> Vec<Self> {
        let members = groups.lending_members(tenant, name);
        let held: Vec<(u32, OwnedFd)> =
            members.into_iter().filter_map(|pid| Some((pid, process::open(pid).ok()?))).collect();
        // Only what is still there is what was opened.
        let still = groups.lending_members(tenant, name);
        let held: Vec<_> = held.into_iter().filter(|(pid, _)| still.contains(pid)).collect();
        let mut servers: Vec<(Option<u64>, Self)> = Vec::new();
        for (pid, pidfd) in held {
            match target_of(pid, name) {
                Some(target) => servers.push((proc::start_time(pid).ok(), Self { pid, pidfd, target, report: None })),
                // What the host's sendmail has started goes on by itself.
                None if name.as_str() == MAIL => {}
                None => drop(process::kill(pidfd)),
            }
        }
        servers.sort_by_key(|(began, _)| *began);
        servers.into_iter().map(|(_, server)| server).collect()
    }

    pub(crate) fn kill(&self) {
        process::kill(&self.pidfd).ok();
    }

    /// Ends it. A server of mail first delivers what it has begun, or somebody would send that again: this is the time that it
    /// has for that.
    pub(crate) fn end(&self) -> Option<Duration> {
        match self.target {
            Target::Mail(_) => process::signal(&self.pidfd, Signal::TERM).ok().map(|()| DRAIN_TIME),
            Target::Socket(_) => {
                self.kill();
                None
            }
        }
    }

    /// The limits of mail that it was started with.
    pub(crate) fn mail(&self) -> Option<Mail> {
        match &self.target {
            Target::Mail(target) => Some(target.mail),
            Target::Socket(_) => None,
        }
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
    let line = proc::command_line(pid).ok()?;
    let arguments: Vec<&str> = line.iter().map(String::as_str).collect();
    let root = rustix::fs::stat(format!("/proc/{pid}/root")).ok()?;
    Target::read(&arguments, name, (root.st_dev, root.st_ino))
}

/// The directory of a host's socket, as the root of the process that serves it.
fn root_of(host: &Host, socket: &HostSocket, target: &SocketTarget) -> Result<OwnedFd, Box<dyn Error + Send + Sync>> {
    let changed = || format!("\"{}\" is in another directory than a moment ago", socket.path.display());
    // Nobody but root can change what this path means.
    let place = bailiwick_policy::find_socket(host, socket).map_err(|_| changed())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(&place.directory, flags, Mode::empty())?;
    let found = file::metadata(&root)?;
    if (found.device, found.inode) != target.directory {
        return Err(changed().into());
    }
    let root = mount::detached_copy_of(&root)?;
    mount::replace_attributes(&root, attr::READ_ONLY | attr::NO_SUID | attr::NO_DEV | attr::NO_EXEC)?;
    Ok(root)
}

/// What confines a process that serves a socket of the host, beside its user.
struct Walls {
    root: OwnedFd,
    network: OwnedFd,
    open_files: u64,
}

/// What the child has. It runs in a copy of the warden and ends by becoming the program.
struct Child<'a> {
    program: &'a OwnedFd,
    /// `None` for the server of mail.
    walls: Option<&'a Walls>,
    null: &'a OwnedFd,
    dir: &'a OwnedFd,
    /// The file of counts, or of the times of messages.
    notes: &'a OwnedFd,
    entrances: &'a [OwnedFd],
    report: &'a OwnedFd,
    file: &'a str,
    arguments: &'a [CString],
    user: (u32, u32),
}

impl Child<'_> {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let own = [self.program, self.null, self.dir, self.notes, self.report];
        let walls = self.walls.iter().flat_map(|walls| [&walls.root, &walls.network]);
        own.into_iter().chain(walls).chain(self.entrances).map(AsFd::as_fd).collect()
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
        if let Some(walls) = self.walls {
            namespace::enter(&walls.network, Kind::Network).map_err(at("enter the jail's network"))?;
        }
        // Here the network is the jail's: a socket keeps the network that it was made in.
        let listener = listen(self.dir.as_fd(), self.file).map_err(at("listen for the tenant"))?;
        if let Some(walls) = self.walls {
            change_root(&walls.root).map_err(at("make the directory of the host's socket its root"))?;
        }
        self.limit().map_err(at("limit itself"))?;
        let (uid, gid) = self.user;
        credential::become_for_good(uid, gid).map_err(at("become the tenant's host user"))?;
        credential::reset_secure_bits().map_err(at("give up capabilities"))?;
        if self.walls.is_some() {
            credential::limit_capabilities(0).map_err(at("give up capabilities"))?;
            credential::set_no_new_privs().map_err(at("set no_new_privs"))?;
        } else {
            credential::give_up_capabilities().map_err(at("give up capabilities"))?;
        }
        Ok(listener)
    }

    fn limit(&self) -> io::Result<()> {
        rustix::process::setsid()?;
        rustix::process::umask(Mode::from_raw_mode(0o077));
        if let Some(walls) = self.walls {
            credential::set_rlimit(Resource::Nofile, walls.open_files)?;
            // It can write to the file of its counts alone, and no more than they are.
            credential::set_rlimit(Resource::Fsize, COUNTS_SIZE)?;
        }
        credential::set_rlimit(Resource::Core, CORE_LIMIT)
    }

    /// Returns only an error.
    fn execute(&self, listener: &OwnedFd) -> io::Error {
        let prepare = || -> io::Result<OwnedFd> {
            // Away from the numbers that are overwritten below.
            let away = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 16);
            let (program, null, listener, notes) =
                (away(self.program)?, away(self.null)?, away(listener)?, away(self.notes)?);
            process::close_on_exec_from(3)?;
            for stream in 0..3 {
                process::place(&null, stream)?;
            }
            process::place(&listener, LISTENER)?;
            process::place(&notes, NOTES)?;
            Ok(program)
        };
        match prepare() {
            Ok(program) => process::execute(program, self.arguments, &[]),
            Err(error) => error,
        }
    }
}

fn change_root(root: &OwnedFd) -> io::Result<()> {
    mount::make_all_private()?;
    mount::attach(root, rustix::fs::open(STAGE, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)?;
    rustix::process::fchdir(root)?;
    mount::pivot_to_current_directory()
}
