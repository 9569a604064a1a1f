//! Shows running jails the changes in the host's `/usr` and in the copies of its `/etc`, without a restart.
//!
//! Overlays remember names, also missing ones, while an upgrade of the host changes the files below. An empty
//! reconfiguration makes the kernel forget every name that is not in use (`fspick(2)`). A jail is renewed when the
//! host's directories look changed, when the warden has changed a copy, once after its start, and from time to time:
//! names in use may have become free, and no cheap check sees changes deeper down. Names in use keep their meaning
//! until their processes end.
//!
//! Danger: the way to a jail's mounts leads through its root, where a tenant of `system` mounts what it likes. It is
//! walked without following links, by descriptors that cannot read. Only an overlay is made to forget names, which
//! harms no overlay. The kernel may block at each step if a file system below does not answer. Therefore a
//! child does it, and the warden waits for none.

use crate::helper::Helper;
use crate::jail::registry::Jails;
use crate::jail::step::reach_work;
use bailiwick_plan::mount::HOST_ETC_INSIDE;
use bailiwick_sys::{file, mount, process};
use bailiwick_types::TenantName;
use rustix::fs::{Mode, OFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// What changes in an upgrade: the places of programs and libraries, and the package manager's record, which it
/// writes last.
const LOOKED_AT: &[&str] = &[
    "/usr",
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/libexec",
    "/usr/share",
    "/var/lib/dpkg/status",
];
/// Where a jail has overlays of the host's files.
const RENEWED: [&str; 2] = ["/usr", HOST_ETC_INSIDE];
/// How often to look at the host.
const LOOK: Duration = Duration::from_secs(2);
/// How often to renew jails in any case.
const RENEW: Duration = Duration::from_secs(600);
/// The most jails that are renewed at a time.
const AT_ONCE: usize = 16;
/// How long it may take before it is logged as stuck.
const TIME: Duration = Duration::from_secs(5);
/// `linux/magic.h`.
const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;

/// A jail that is being renewed.
#[derive(Debug)]
struct Renewed {
    helper: Helper,
    deadline: Instant,
    /// It was logged as stuck, and killed.
    is_late: bool,
}

/// The last look at the host, the jails that wait since it changed, and those being renewed.
#[derive(Debug, Default)]
pub(crate) struct Renewal {
    looked: Option<Instant>,
    renewed: Option<Instant>,
    looks: Vec<Option<[i64; 4]>>,
    edition: u64,
    known: BTreeSet<(TenantName, u32)>,
    waiting: BTreeSet<(TenantName, u32)>,
    at_work: BTreeMap<(TenantName, u32), Renewed>,
    /// The jails whose last renewal failed, and why.
    failed: BTreeMap<(TenantName, u32), String>,
}

impl Renewal {
    /// Looks at the host when it is time to, and renews running jails, some at a time. `edition` counts the changes
    /// of the copies of the host's `/etc`.
    pub(crate) fn advance(&mut self, edition: u64, jails: &Jails, event: &mut impl FnMut(&str)) {
        let now = Instant::now();
        let is_due = |last: Option<Instant>, period| last.is_none_or(|last| now.duration_since(last) >= period);
        if edition != self.edition || is_due(self.looked, LOOK) {
            self.looked = Some(now);
            let (looks, running) = (looks(), jails.init_numbers());
            // Changes before the first look are unknown: jails of an earlier warden may have missed some.
            if looks != self.looks || edition != self.edition || is_due(self.renewed, RENEW) {
                (self.looks, self.edition, self.renewed) = (looks, edition, Some(now));
                self.waiting.clone_from(&running);
            } else {
                // Nobody could renew a jail while it was being made.
                self.waiting.extend(running.difference(&self.known).cloned());
            }
            self.failed.retain(|jail, _| running.contains(jail));
            self.known = running;
        }
        self.look_at_work(now, event);
        self.begin(jails, now, event);
    }

    /// The jails that may show old files, and why.
    pub(crate) fn problems(&self) -> Vec<String> {
        let problem = |((tenant, _), why): (&(TenantName, u32), &String)| {
            format!("the jail of \"{tenant}\" may show files that the host has replaced: {why}")
        };
        self.failed.iter().map(problem).collect()
    }

    /// Become readable when a renewal ends.
    pub(crate) fn reports(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.at_work.values().map(|renewed| renewed.helper.report().as_fd())
    }

    fn look_at_work(&mut self, now: Instant, event: &mut impl FnMut(&str)) {
        self.at_work.retain(|jail, renewed| {
            let tenant = &jail.0;
            let failed = &mut self.failed;
            let mut tell = |why: &str| {
                event(&format!("tenant={tenant} event=not-renewed reason={why:?}"));
                failed.insert(jail.clone(), why.to_owned());
            };
            match renewed.helper.end() {
                Some(Err(error)) if !renewed.is_late => tell(&error.to_string()),
                // The kernel has let it go.
                Some(_) if renewed.is_late => drop(self.waiting.insert(jail.clone())),
                Some(_) => drop(failed.remove(jail)),
                None => {
                    if now >= renewed.deadline && !renewed.is_late {
                        renewed.is_late = true;
                        renewed.helper.kill();
                        tell("the kernel does not release its files; the warden tries again once it has");
                    }
                    return true;
                }
            }
            false
        });
    }

    /// Begins with waiting jails. One that is stuck holds up no other, and is not started again.
    fn begin(&mut self, jails: &Jails, now: Instant, event: &mut impl FnMut(&str)) {
        let busy = self.at_work.values().filter(|renewed| !renewed.is_late).count();
        let next = self.waiting.iter().filter(|jail| !self.at_work.contains_key(jail));
        let next: Vec<_> = next.take(AT_ONCE.saturating_sub(busy)).cloned().collect();
        for jail in next {
            self.waiting.remove(&jail);
            let (tenant, pid) = &jail;
            // A jail that has ended needs no renewal.
            let Some(running) = jails.get(tenant).filter(|running| running.record.pid == *pid) else { continue };
            let pidfd = running.pidfd.as_fd();
            match Helper::begin(&[pidfd], || {
                reach_work("renew", tenant);
                renew(*pid, pidfd)
            }) {
                Ok(helper) => {
                    let renewed = Renewed { helper, deadline: now + TIME, is_late: false };
                    self.at_work.insert(jail, renewed);
                }
                Err(error) => {
                    event(&format!("tenant={tenant} event=not-renewed reason={:?}", error.to_string()));
                    self.failed.insert(jail, error.to_string());
                }
            }
        }
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

/// Runs in a child.
fn renew(pid: u32, pidfd: BorrowedFd<'_>) -> io::Result<()> {
    // An init that ends meanwhile has no root.
    let root = root(pid);
    if process::has_ended(pidfd, Duration::ZERO)? {
        return Ok(());
    }
    let root = root?;
    for path in RENEWED {
        // A tenant of `system` may have moved a mount away, and earlier versions made no overlay: then there are no
        // names to forget.
        if let Ok(target) = mount::target(&root, path)
            && rustix::fs::fstatfs(&target)?.f_type == OVERLAYFS_SUPER_MAGIC
        {
            mount::forget_names(&target)?;
        }
    }
    Ok(())
}

/// The kernel's link to the process's root. Following it looks up no name.
fn root(pid: u32) -> io::Result<OwnedFd> {
    let process = file::open_dir(Path::new(&format!("/proc/{pid}")))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&process, "root", flags, Mode::empty())?)
}
