//! Lets processes of an FTP server into jails: what each sees, its group, and its end.
//!
//! Danger: such a process belongs to the host, and was root there. It gets descriptors and enters by itself, because
//! nobody else can move it. The warden gives them to root alone. A login's directory is opened below the tenant's
//! storage, where every name is the tenant's: no link is followed, and only a directory is opened.

use crate::jail::child_mounts::attributes;
use crate::limits::cgroups::Groups;
use crate::limits::tenant_groups::GroupError;
use crate::storage::layout::Storage;
use bailiwick_plan::JailPlan;
use bailiwick_plan::ftp::{FTP_HOME, FTP_PASSWD, HOME_FLAGS, ROOT_FLAGS, id_map, passwd_line};
use bailiwick_plan::mount::{Flags, Source};
use bailiwick_policy::{FtpLogin, Tenant};
use bailiwick_proto::warden::FtpProcess;
use bailiwick_sys::mount::Parameter;
use bailiwick_sys::proc::IdKind;
use bailiwick_sys::process::{Cloned, MOUNT_NAMESPACE, USER_NAMESPACE};
use bailiwick_sys::{cgroup, file, mount, namespace, proc, process};
use bailiwick_types::{FtpUser, IdRange, TenantName};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// How long the child that makes a view may take.
const VIEW_TIME: Duration = Duration::from_secs(10);
/// A directory that every host has. The new root is mounted there before it becomes the root.
const STAGE: &str = "/usr";
/// In bytes: room for the user database alone.
const ROOT_SIZE: &str = "65536";

/// Why a login is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FtpError {
    #[error(
        "cannot open the directory \"{directory}\" of the FTP login \"{user}\"; it must be a directory in the jail, on a path without links"
    )]
    Directory {
        user: FtpUser,
        /// The path inside the jail.
        directory: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot {step} for the FTP login \"{user}\"")]
    View {
        step: &'static str,
        user: FtpUser,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error("process {0} is in no FTP session of \"{1}\"")]
    NotIn(u32, TenantName),
    #[error("the processes of the FTP session do not end (uninterruptible in the kernel?)")]
    Stuck,
}

/// What the process needs, in the order of [`bailiwick_proto::WardenReply::FtpView`]. `init` is the jail's.
pub(crate) fn view(
    storage: &Storage,
    groups: &Groups,
    plan: &JailPlan,
    tenant: &Tenant,
    login: &FtpLogin,
    init: u32,
) -> Result<Vec<OwnedFd>, FtpError> {
    let user = FtpUser { name: login.name.clone(), tenant: tenant.name.clone() };
    let failed = |step| {
        let user = user.clone();
        move |source| FtpError::View { step, user, source }
    };
    let home = directory(storage, plan, tenant, login, &user)?;
    let users = namespace::open(init, "user").map_err(failed("open the jail's user namespace"))?;
    let mapped = mapping(plan.ids).map_err(failed("make a map of ids for the directory"))?;
    mount::set_attributes(&home, 0, Some(mapped.as_fd())).map_err(failed("map the ids of the directory"))?;
    let mounts = mount_namespace(&home, &passwd_line(&user)).map_err(failed("make the view"))?;
    let mut fds = vec![users, mounts];
    fds.extend(groups.ftp(&tenant.name)?);
    Ok(fds)
}

/// A detached mount of the directory that a login is locked to.
fn directory(
    storage: &Storage,
    plan: &JailPlan,
    tenant: &Tenant,
    login: &FtpLogin,
    user: &FtpUser,
) -> Result<OwnedFd, FtpError> {
    let mut inside = format!("/home/{}", tenant.login.user);
    if !login.directory.is_empty() {
        inside = format!("{inside}/{}", login.directory);
    }
    let failed = |source| FtpError::Directory { user: user.clone(), directory: inside.clone(), source };
    // The row of the mount table that shows it: the one with the longest target above it.
    let rows = plan.mounts.iter().filter_map(|row| match &row.source {
        Source::Storage(name) => {
            let below = inside.strip_prefix(row.target.trim_end_matches('/'))?.strip_prefix('/')?;
            Some((row.target.len(), *name, below, row.flags))
        }
        _ => None,
    });
    let row = rows.max_by_key(|(len, ..)| *len).ok_or(io::ErrorKind::NotFound);
    let (_, name, below, flags) = row.map_err(|kind| failed(kind.into()))?;
    let open = || -> io::Result<OwnedFd> {
        let home = storage.mount_below(&tenant.name, name, below)?;
        let read_only = if flags.has(Flags::READ_ONLY) { Flags::READ_ONLY } else { Flags::NONE };
        mount::replace_attributes(&home, attributes(HOME_FLAGS.and(read_only)))?;
        Ok(home)
    };
    open().map_err(failed)
}

/// A mount namespace of the host's, so nobody in the jail can change it.
fn mount_namespace(home: &OwnedFd, passwd: &str) -> io::Result<OwnedFd> {
    namespace_of_child(MOUNT_NAMESPACE, "mnt", Some(home), || make_root(home, passwd), |_| Ok(()))
}

/// A user namespace without processes, which serves as id map of the directory.
fn mapping(ids: IdRange) -> io::Result<OwnedFd> {
    let map = |pid| {
        for kind in [IdKind::User, IdKind::Group] {
            namespace::set_id_map(pid, kind, &id_map(ids))?;
        }
        Ok(())
    };
    namespace_of_child(USER_NAMESPACE, "user", None, || Ok(()), map)
}

/// A namespace that a child makes. The child does `inside`, then the warden does `outside` to it, and the namespace
/// stays open after the child's end. The child has at most one of our descriptors.
fn namespace_of_child(
    flag: u64,
    kind: &str,
    held: Option<&OwnedFd>,
    inside: impl FnOnce() -> io::Result<()>,
    outside: impl FnOnce(u32) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let (done, child_done) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (child_go, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let keep: Vec<_> = [&child_done, &child_go].into_iter().chain(held).map(AsFd::as_fd).collect();
    let (pid, pidfd) = match process::clone_into(flag, None, &keep)? {
        Cloned::Child => {
            let made =
                inside().err().map_or(0, |error| error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error()));
            // If the warden is gone, nobody reads this.
            rustix::io::write(&child_done, &made.to_ne_bytes()).ok();
            rustix::io::read(&child_go, &mut [0]).ok();
            process::exit_now(0)
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop((child_done, child_go));
    let opened = (|| {
        if !process::readable(&done, VIEW_TIME)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut number = [0; size_of::<i32>()];
        let len = rustix::io::read(&done, &mut number)?;
        match i32::from_ne_bytes(number) {
            0 if len == number.len() => outside(pid).and_then(|()| namespace::open(pid, kind)),
            errno if len == number.len() => Err(io::Error::from_raw_os_error(errno)),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    })();
    drop(go);
    if !process::has_ended(&pidfd, VIEW_TIME)? {
        process::signal(&pidfd, Signal::KILL)?;
        process::has_ended(&pidfd, VIEW_TIME)?;
    }
    process::reap(&pidfd)?;
    opened
}

/// Runs in the child: replaces the host's tree by a root with one line of a user database and one directory.
fn make_root(home: &OwnedFd, passwd: &str) -> io::Result<()> {
    rustix::process::umask(Mode::empty());
    mount::make_all_private()?;
    let parameters = [Parameter::Text("size", ROOT_SIZE), Parameter::Text("mode", "0555")];
    let root = mount::new_file_system("tmpfs", &parameters, attributes(ROOT_FLAGS) & !mount::attr::READ_ONLY)?;
    mount::attach(&root, rustix::fs::open(STAGE, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)?;
    let (dir, name) = FTP_PASSWD[1..].split_once('/').ok_or(io::ErrorKind::InvalidInput)?;
    let etc = file::ensure_dir_at(&root, dir, 0o555)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let mut file = std::fs::File::from(file::open_at(&etc, name, flags, Mode::from_raw_mode(0o444))?);
    file.write_all(passwd.as_bytes())?;
    // An open file for writing would prevent the root from becoming read-only.
    drop(file);
    file::ensure_dir_at(&root, &FTP_HOME[1..], 0o555)?;
    mount::attach(home, mount::target(&root, FTP_HOME)?)?;
    mount::set_attributes(&root, attributes(ROOT_FLAGS), None)?;
    rustix::process::fchdir(&root)?;
    mount::pivot_to_current_directory()
}

/// The processes of an FTP server in a tenant's group. One that ends meanwhile is left out.
pub(crate) fn processes(groups: &Groups, tenant: &TenantName) -> Vec<FtpProcess> {
    let Some(group) = groups.ftp_group(tenant) else { return Vec::new() };
    let pids = cgroup::members(&group).unwrap_or_default();
    let of = |pid| Some(FtpProcess { tenant: tenant.clone(), pid, started: proc::start_time(pid).ok()? });
    pids.into_iter().filter_map(of).collect()
}

/// A process that must end, with the children it has started.
#[derive(Debug)]
pub(crate) struct Leaving {
    process: FtpProcess,
    /// Opened before the process was identified, so the right one is killed.
    leader: OwnedFd,
}

/// Begins to end a process.
pub(crate) fn end(groups: &Groups, process: &FtpProcess) -> Result<Leaving, FtpError> {
    let not_in = || FtpError::NotIn(process.pid, process.tenant.clone());
    let leader = process::open(process.pid).map_err(|_| not_in())?;
    if !processes(groups, &process.tenant).contains(process) {
        return Err(not_in());
    }
    Ok(Leaving { process: process.clone(), leader })
}

impl Leaving {
    pub(crate) fn tenant(&self) -> &TenantName {
        &self.process.tenant
    }

    /// Kills what is left; returns whether nothing was.
    pub(crate) fn is_over(&self, groups: &Groups) -> bool {
        let all = processes(groups, &self.process.tenant);
        let is_child =
            |other: &&FtpProcess| proc::status(other.pid).is_ok_and(|status| status.parent == self.process.pid);
        let held: Vec<OwnedFd> =
            all.iter().filter(is_child).filter_map(|child| process::open(child.pid).ok()).collect();
        // The leader first: it would tell the client in clear text that its children are gone.
        for pidfd in [&self.leader].into_iter().chain(&held) {
            process::signal(pidfd, Signal::KILL).ok();
        }
        held.is_empty() && process::has_ended(&self.leader, Duration::ZERO).unwrap_or(true)
    }
}
