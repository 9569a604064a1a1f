//! The runtime directory: sockets, and records of running jails. Only those records could not be made again.

use crate::host_files::etc_view::EtcView;
use crate::jail::record::Record;
use bailiwick_policy::{EtcSettings, Web};
use bailiwick_proto::{CONTROL_DIR, JAILS, NET_ERROR, NET_ROOT_SOCKET, WARDEN_SOCKET, WEB_DIR, init_socket};
use bailiwick_sys::{file, socket};
use bailiwick_types::{Access, TenantName};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::net::SocketAddrUnix;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

const GROUPS: &str = "groups.json";
const LENT: &str = "lent";
const MAIL_RATES: &str = "mail-rates";
const MAX_GROUPS: usize = 64 << 10;
/// The most bytes of what `bailiwick-net` says of an error.
const MAX_ERROR: usize = 4096;
/// Length of the queue of connections. The daemon makes one connection for each new session.
const BACKLOG: i32 = 128;

/// Why the runtime directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up \"{what}\" in the runtime directory \"{path}\"", path = path.display())]
pub struct RuntimeError {
    path: PathBuf,
    what: &'static str,
    #[source]
    source: io::Error,
}

/// The user that `bailiwickd` runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DaemonUser {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl DaemonUser {
    /// Finds the user by a number, which is also its group, or by a name in the host's user database.
    pub(crate) fn find(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse::<u32>() {
            return Some(Self { uid: number, gid: number });
        }
        users::get_user_by_name(text).map(|user| Self { uid: user.uid(), gid: user.primary_group_id() })
    }
}

/// The open runtime directory.
#[derive(Debug)]
pub(crate) struct Runtime {
    dir: OwnedFd,
    jails: OwnedFd,
    daemon: DaemonUser,
    web: WebDirectory,
}

/// The directory of the sockets of tenants' services.
#[derive(Debug, Default)]
struct WebDirectory {
    /// The settings that it follows; `None` before the first look.
    follows: Option<Web>,
    problem: Option<String>,
}

impl Runtime {
    /// Opens a runtime directory; makes it if its parent exists.
    pub(crate) fn open(path: &Path, daemon: DaemonUser) -> Result<Self, RuntimeError> {
        let error = |what| move |source| RuntimeError { path: path.to_owned(), what, source };
        let dir = match file::open_dir(path) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                let (parent, name) = path.parent().zip(path.file_name()).ok_or(missing).map_err(error("."))?;
                let parent = file::open_dir(parent).map_err(error("."))?;
                file::ensure_dir_at(&parent, name, 0o755).map_err(error("."))?
            }
            opened => opened.map_err(error("."))?,
        };
        let metadata = file::metadata(&dir).map_err(error("."))?;
        if metadata.uid != 0 || metadata.mode & 0o022 != 0 {
            let source = io::Error::other("it must belong to root and be writable by nobody else");
            return Err(error(".")(source));
        }
        // Users of the control socket must be able to reach it, whatever the umask was.
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755)).map_err(io::Error::from).map_err(error("."))?;
        let control = file::ensure_dir_at(&dir, CONTROL_DIR, 0o755).map_err(error(CONTROL_DIR))?;
        give(&control, Some(daemon.uid), daemon.gid, 0o755).map_err(error(CONTROL_DIR))?;
        let jails = file::ensure_dir_at(&dir, JAILS, 0o750).map_err(error(JAILS))?;
        give(&jails, None, daemon.gid, 0o750).map_err(error(JAILS))?;
        Ok(Self { dir, jails, daemon, web: WebDirectory::default() })
    }

    /// Makes the directory of the sockets of tenants' services, for the web server's group. `bailiwickd` owns it and makes
    /// everything in it. What it makes there gets the group from the directory (`S_ISGID`, `inode(7)`): it has no right to give the
    /// group itself. Looks again only when the settings have changed, or after a problem.
    pub(crate) fn follow_web(&mut self, web: &Web) {
        if self.web.follows.as_ref() == Some(web) && self.web.problem.is_none() {
            return;
        }
        self.web.follows = Some(web.clone());
        self.web.problem = match &web.group {
            None => None,
            Some(group) => self.make_web(group).err(),
        };
    }

    fn make_web(&self, group: &str) -> Result<(), String> {
        let gid = group.parse().ok().or_else(|| users::get_group_by_name(group).map(|group| group.gid()));
        let gid = gid.ok_or_else(|| {
            format!("the host has no group \"{group}\" (`web` in bailiwick.toml), so no site is served; make it, or name another")
        })?;
        let make = || -> io::Result<()> {
            let dir = file::ensure_dir_at(&self.dir, WEB_DIR, 0o750)?;
            let before = file::metadata(&dir)?.gid;
            give(&dir, Some(self.daemon.uid), gid, 0o2750)?;
            // What is there was made for another group, or could not be given before.
            let is_whole = before == gid && self.web.problem.is_none();
            if is_whole { Ok(()) } else { give_sockets(&dir, self.daemon.uid, Gid::from_raw(gid)) }
        };
        make().map_err(|error| format!("the directory of web sockets cannot be made: {error}"))
    }

    /// Why there is no directory for web sockets; `None` if there is one, or none is wanted.
    pub(crate) fn web_problem(&self) -> Option<&str> {
        self.web.problem.as_deref()
    }

    /// Makes the warden's own socket. Only the daemon can reach it.
    pub(crate) fn listen(&self) -> io::Result<OwnedFd> {
        let own = socket::unbound()?;
        bind(self.dir.as_fd(), WARDEN_SOCKET, self.daemon.gid, &own)?;
        Ok(own)
    }

    /// Whether somebody listens on the warden's socket. The listener sees a connection that has ended.
    pub(crate) fn is_listened_on(&self) -> bool {
        match socket::connect_at_once(Path::new(&path_of(self.dir.as_fd(), WARDEN_SOCKET))) {
            Ok(_) => true,
            // The queue is full.
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// The socket of `bailiwick-net` for changes.
    pub(crate) fn net_socket(&self) -> PathBuf {
        path_of(self.dir.as_fd(), NET_ROOT_SOCKET).into()
    }

    /// Why `bailiwick-net` has no link to serve, if its `--uplink` has left word of that.
    pub(crate) fn net_error(&self) -> Option<String> {
        let text =
            file::open_file_at(&self.dir, NET_ERROR).and_then(|file| file::read_bounded(file, MAX_ERROR)).ok()?;
        Some(String::from_utf8_lossy(&text).trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// Device and inode of the warden's socket; `None` when there is none.
    pub(crate) fn socket(&self) -> Option<(u64, u64)> {
        let stat = rustix::fs::statat(&self.dir, WARDEN_SOCKET, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((stat.st_dev, stat.st_ino))
    }

    /// The control groups that an earlier warden used, by hierarchy.
    pub(crate) fn known_groups(&self) -> BTreeMap<String, String> {
        file::open_file_at(&self.dir, GROUPS)
            .and_then(|fd| file::read_bounded(fd, MAX_GROUPS))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Notes them for the next warden.
    pub(crate) fn note_groups(&self, bases: &BTreeMap<String, String>) -> io::Result<()> {
        file::replace_at(&self.dir, GROUPS, &serde_json::to_vec(bases)?, 0o600, file::Outlives::Process)
    }

    /// The directory of the sockets of the host that are lent to tenants. No user of the host may enter it.
    pub(crate) fn lending(&self) -> io::Result<OwnedFd> {
        let dir = file::ensure_dir_at(&self.dir, LENT, 0o700)?;
        give(&dir, Some(0), 0, 0o700)?;
        Ok(dir)
    }

    /// The directory with the times of tenants' last messages.
    pub(crate) fn mail_rates(&self) -> io::Result<OwnedFd> {
        file::ensure_dir_at(&self.dir, MAIL_RATES, 0o700)
    }

    /// Forgets the times of a tenant's last messages. It is no error if it has sent none.
    pub(crate) fn forget_mail(&self, tenant: &TenantName) -> io::Result<()> {
        file::remove_file_at(self.mail_rates()?, tenant.as_str())
    }

    /// Forgets those of tenants that are gone.
    pub(crate) fn forget_mail_of_others(&self, is_known: impl Fn(&TenantName) -> bool) -> io::Result<()> {
        let rates = self.mail_rates()?;
        let names = file::names(file::open_dir_at(&rates, ".")?)?;
        let is_gone = |name: &&std::ffi::OsString| {
            let name = name.to_str().and_then(|name| name.parse().ok());
            !name.is_some_and(|name| is_known(&name))
        };
        names.iter().filter(is_gone).try_for_each(|name| file::remove_file_at(&rates, name))
    }

    /// What jails see of the host's `/etc`.
    pub(crate) fn etc_view(&self, wishes: &EtcSettings) -> io::Result<EtcView> {
        EtcView::open(&self.dir, wishes)
    }

    /// Makes a jail's directory.
    pub(crate) fn make(&self, tenant: &TenantName) -> io::Result<OwnedFd> {
        let dir = file::ensure_dir_at(&self.jails, tenant, 0o750)?;
        give(&dir, None, self.daemon.gid, 0o750)?;
        Ok(dir)
    }

    /// Binds the socket of a jail's init, which the child made inside.
    pub(crate) fn bind_init(&self, jail: &OwnedFd, access: Access, socket: &OwnedFd) -> io::Result<()> {
        bind(jail.as_fd(), init_socket(access), self.daemon.gid, socket)
    }

    /// Removes a jail's directory and its files. It is no error if there is none.
    pub(crate) fn remove(&self, tenant: &str) -> io::Result<()> {
        let dir = match file::open_dir_at(&self.jails, tenant) {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for name in file::names(&dir)? {
            file::remove_file_at(&dir, name)?;
        }
        file::remove_dir_at(&self.jails, tenant)
    }

    /// Replaces the record of a jail that runs.
    pub(crate) fn record(&self, tenant: &TenantName, record: &Record) -> io::Result<()> {
        record.write(&file::open_dir_at(&self.jails, tenant.as_str())?)
    }

    /// Every jail's directory, with its record if that can be read.
    pub(crate) fn found(&self) -> io::Result<Vec<(String, Option<Record>)>> {
        let mut found = Vec::new();
        for name in file::names(file::open_dir_at(&self.jails, ".")?)? {
            if let Some(text) = name.to_str() {
                let record = file::open_dir_at(&self.jails, text).and_then(|dir| Record::read(&dir)).ok();
                found.push((text.to_owned(), record));
            }
        }
        Ok(found)
    }
}

fn give(fd: impl AsFd, uid: Option<u32>, gid: u32, mode: u32) -> io::Result<()> {
    rustix::fs::fchown(&fd, uid.map(Uid::from_raw), Some(Gid::from_raw(gid)))?;
    Ok(rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?)
}

/// Gives a group the sockets and the directories in a directory of `bailiwickd`, and in each of those.
///
/// Danger: `bailiwickd` can put anything there meanwhile. Only what it owns is given away, and no link is followed.
fn give_sockets(dir: &OwnedFd, owner: u32, gid: Gid) -> io::Result<()> {
    for name in file::names(dir)? {
        let entry = match file::open_at(dir, &name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        let stat = rustix::fs::fstat(&entry)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if stat.st_uid != owner || !matches!(kind, FileType::Socket | FileType::Directory) {
            continue;
        }
        rustix::fs::chownat(&entry, "", None, Some(gid), AtFlags::EMPTY_PATH)?;
        if kind == FileType::Directory {
            give_sockets(&file::open_dir_at(dir, &name)?, owner, gid)?;
        }
    }
    Ok(())
}

/// A path through a descriptor, so neither its length nor a swapped directory matters.
pub(crate) fn path_of(dir: BorrowedFd<'_>, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())
}

/// Binds a socket in an open directory for root and one group, and listens.
fn bind(dir: BorrowedFd<'_>, name: &str, gid: u32, socket: &OwnedFd) -> io::Result<()> {
    file::remove_file_at(dir, name)?;
    // Without any permission at first, so that nobody connects before the right ones are set.
    rustix::fs::fchmod(socket, Mode::empty())?;
    rustix::net::bind(socket, &SocketAddrUnix::new(path_of(dir, name).as_str())?)?;
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(dir, name, None, Some(Gid::from_raw(gid)), flags)?;
    rustix::fs::chmodat(dir, name, Mode::from_raw_mode(0o660), AtFlags::empty())?;
    Ok(rustix::net::listen(socket, BACKLOG)?)
}
