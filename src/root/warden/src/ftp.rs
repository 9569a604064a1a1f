//! Lets processes of an FTP server into jails: what each sees there, which group it is in, and how it is ended.
//!
//! Danger: such a process is the host's, and was root of it. It gets descriptors, and enters by itself, because nobody else can move
//! it; the warden gives them to root alone. The directory that a login is locked to is opened below the tenant's storage, where
//! every name is the tenant's: no link is followed, and nothing but a directory is opened.

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
/// A directory that every host has, on which the new root is put before it becomes the root.
const STAGE: &str = "/usr";
/// Room for the user database and nothing else.
const ROOT_SIZE: &str = "65536";

/// Why a login cannot be let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FtpError {
    /// Its directory cannot be opened.
    #[error(
        "cannot open the directory \"{directory}\" of the FTP login \"{user}\"; it must be a directory in the jail, on a path without links"
    )]
    Directory {
        /// Whose.
        user: FtpUser,
        /// From the root of the jail on.
        directory: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The view.
    #[error("cannot {step} for the FTP login \"{user}\"")]
    View {
        /// What was tried.
        step: &'static str,
        /// Whose.
        user: FtpUser,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its group.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// Who is to be ended is not in.
    #[error("process {0} is in no session by FTP of \"{1}\"")]
    NotIn(u32, TenantName),
    /// They do not end.
    #[error("processes of the session by FTP do not end (uninterruptible in the kernel?)")]
    Stuck,
}

/// What the process that is let in needs, in the order of [`bailiwick_proto::WardenReply::FtpView`]. `init` is the jail's.
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

/// A detached mount of what a login is locked to.
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
    // The row of the mount table that shows it: the longest target above it.
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

/// A mount namespace that belongs to the host, so that nobody inside can change it.
fn mount_namespace(home: &OwnedFd, passwd: &str) -> io::Result<OwnedFd> {
    namespace_of_child(MOUNT_NAMESPACE, "mnt", Some(home), || make_root(home, passwd), |_| Ok(()))
}

/// A user namespace that nobody is ever in: the map of the directory.
fn mapping(ids: IdRange) -> io::Result<OwnedFd> {
    let map = |pid| {
        for kind in [IdKind::User, IdKind::Group] {
            namespace::set_id_map(pid, kind, &id_map(ids))?;
        }
        Ok(())
    };
    namespace_of_child(USER_NAMESPACE, "user", None, || Ok(()), map)
}

/// A namespace that a child makes, and does its part in, and that is held when the child ends. `outside` is done to it before that.
/// The child has one descriptor of ours at the most.
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
            // If the warden is gone, nobody waits for it.
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

/// Runs in the child: lets the host's tree go, for one with a line of a user database and a directory.
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
    // A file that is open for writing would keep the root from being sealed.
    drop(file);
    file::ensure_dir_at(&root, &FTP_HOME[1..], 0o555)?;
    mount::attach(home, mount::target(&root, FTP_HOME)?)?;
    mount::set_attributes(&root, attributes(ROOT_FLAGS), None)?;
    rustix::process::fchdir(&root)?;
    mount::pivot_to_current_directory()
}

/// Every process of an FTP server that is in a tenant's group. One that ends meanwhile is none.
pub(crate) fn processes(groups: &Groups, tenant: &TenantName) -> Vec<FtpProcess> {
    let Some(group) = groups.ftp_group(tenant) else { return Vec::new() };
    let pids = cgroup::members(&group).unwrap_or_default();
    let of = |pid| Some(FtpProcess { tenant: tenant.clone(), pid, started: proc::start_time(pid).ok()? });
    pids.into_iter().filter_map(of).collect()
}

/// A process that is in and must end, with those it has started since.
#[derive(Debug)]
pub(crate) struct Leaving {
    process: FtpProcess,
    /// Held by descriptor before it was looked up, so it is this one that is killed.
    leader: OwnedFd,
}

/// Begins to end a process that is in.
pub(crate) fn end(groups: &Groups, process: &FtpProcess) -> Result<Leaving, FtpError> {
    let not_in = || FtpError::NotIn(process.pid, process.tenant.clone());
    let leader = process::open(process.pid).map_err(|_| not_in())?;
    if !processes(groups, &process.tenant).contains(process) {
        return Err(not_in());
    }
    Ok(Leaving { process: process.clone(), leader })
}

impl Leaving {
    /// Whose it is.
    pub(crate) fn tenant(&self) -> &TenantName {
        &self.process.tenant
    }

    /// Kills what is there still; whether nothing is any more.
    pub(crate) fn is_over(&self, groups: &Groups) -> bool {
        let all = processes(groups, &self.process.tenant);
        let is_child =
            |other: &&FtpProcess| proc::status(other.pid).is_ok_and(|status| status.parent == self.process.pid);
        let held: Vec<OwnedFd> =
            all.iter().filter(is_child).filter_map(|child| process::open(child.pid).ok()).collect();
        // The leader first: it would tell the client, in the clear, that what it has started is gone.
        for pidfd in [&self.leader].into_iter().chain(&held) {
            process::signal(pidfd, Signal::KILL).ok();
        }
        held.is_empty() && process::has_ended(&self.leader, Duration::ZERO).unwrap_or(true)
    }
}
