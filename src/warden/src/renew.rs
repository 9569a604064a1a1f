//! Shows running jails what has changed in the host's `/usr` and `/etc`, without a restart.
//!
//! Their overlays remember what a name meant and what was not there, and an upgrade of the host changes that below them.
//! A change of nothing makes the kernel forget every name that no process has in use (`fspick(2)`). It is made when the
//! host's directories look changed, and now and then in any case: a name that was in use may be free by then, and a
//! change deeper down is seen by nothing that is cheap. Names in use mean what they meant until their processes end, and a
//! file that is mounted by itself until the jail does.
//!
//! Danger: the way to a jail's mounts leads through its root. Only a root that is sealed is walked, in which nobody has
//! mounted anything, without following links; in `system`, where a tenant mounts what it likes, nothing is renewed.

use crate::core::Warden;
use bailiwick_plan::mount::HOST_ETC;
use bailiwick_sys::{file, mount, process};
use bailiwick_types::TenantName;
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// What looks different after an upgrade: where programs and libraries lie, what is lent of `/etc`, and the package manager's
/// own record, which it writes last.
const LOOKED_AT: &[&str] = &[
    "/usr",
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/libexec",
    "/usr/share",
    "/etc",
    "/etc/alternatives",
    "/etc/ssl/certs",
    "/var/lib/dpkg/status",
];
/// How often the host is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How often jails are renewed in any case.
const RENEW: Duration = Duration::from_secs(600);
/// How many jails are renewed in one turn of the warden's loop.
const AT_ONCE: usize = 16;
/// `linux/magic.h`.
const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;

/// When the host was looked at, what it looked like, and which jails have not been renewed since it changed.
#[derive(Debug)]
pub(crate) struct Renewal {
    looked: Instant,
    renewed: Instant,
    looks: Vec<Option<[i64; 4]>>,
    waiting: Vec<TenantName>,
}

impl Renewal {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        // Jails that an earlier warden left may have missed something.
        Self { looked: now, renewed: now.checked_sub(RENEW).unwrap_or(now), looks: looks(), waiting: Vec::new() }
    }

    /// Looks at the host when it is time to, and renews the next few jails of those that run. Whether more are waiting.
    pub(crate) fn go_on(&mut self, warden: &Warden) -> bool {
        let now = Instant::now();
        if now.duration_since(self.looked) >= LOOK {
            self.looked = now;
            let looks = looks();
            if looks != self.looks || now.duration_since(self.renewed) >= RENEW {
                self.looks = looks;
                self.renewed = now;
                self.waiting = warden.inits().into_iter().map(|(tenant, _)| tenant).collect();
            }
        }
        for tenant in self.waiting.split_off(self.waiting.len().saturating_sub(AT_ONCE)) {
            if let Some((pid, pidfd)) = warden.init_of(&tenant) {
                // One that ends meanwhile has nothing to be renewed, and what its tenant has moved away is not shown.
                renew(pid, pidfd).ok();
            }
        }
        !self.waiting.is_empty()
    }
}

fn looks() -> Vec<Option<[i64; 4]>> {
    let look = |path: &&str| {
        let stat = rustix::fs::stat(*path).ok()?;
        let nanoseconds = |value: u64| i64::try_from(value).unwrap_or_default();
        Some([stat.st_mtime, nanoseconds(stat.st_mtime_nsec), stat.st_ctime, nanoseconds(stat.st_ctime_nsec)])
    };
    LOOKED_AT.iter().map(look).collect()
}

fn renew(pid: u32, pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let process = file::open_dir(Path::new(&format!("/proc/{pid}")))?;
    // The kernel's own link to where the process has its root; it leads nowhere that is looked up.
    let root = rustix::fs::openat(&process, "root", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    if process::has_ended(pidfd, Duration::ZERO)? {
        return Ok(());
    }
    if !rustix::fs::fstatvfs(&root)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    forget(&root, "/usr")?;
    for entry in HOST_ETC {
        // All lie on one file system: the first that is there is enough.
        if forget(&root, &format!("/run/host/etc/{entry}")).is_ok() {
            break;
        }
    }
    Ok(())
}

fn forget(root: impl AsFd, path: &str) -> io::Result<()> {
    let target = mount::target(root, path)?;
    let is_overlay = rustix::fs::fstatfs(&target)?.f_type == OVERLAYFS_SUPER_MAGIC;
    if !is_overlay || !rustix::fs::fstatvfs(&target)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(io::ErrorKind::NotFound.into());
    }
    mount::forget_names(&target)
}
