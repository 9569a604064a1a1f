//! Shows running jails what has changed in the host's `/usr` and in the copies of its `/etc`, without a restart.
//!
//! Their overlays remember what a name meant and what was not there, and an upgrade of the host changes that below them.
//! A change of nothing makes the kernel forget every name that no process has in use (`fspick(2)`). It is made when the
//! host's directories look changed or the warden has changed a copy, for each jail once it runs, and now and then in any case: a
//! name that was in use may be free by then, and a change deeper down is seen by nothing that is cheap. Names in use mean what
//! they meant until their processes end.
//!
//! Danger: the way to a jail's mounts leads through its root, and in `system` a tenant mounts what it likes. It is walked without
//! following links, by descriptors that read nothing, and what is found there is told to forget names only when it is an
//! overlay, which loses nothing by it, whoever made it. The kernel may take its time with each of these steps, as long as something
//! below does not answer: a child takes them, and the warden waits for none.

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

/// What looks different after an upgrade: where programs and libraries lie, and the package manager's own record, which it
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
/// Where a jail has overlays of what is the host's.
const RENEWED: [&str; 2] = ["/usr", HOST_ETC_INSIDE];
/// How often the host is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How often jails are renewed in any case.
const RENEW: Duration = Duration::from_secs(600);
/// How many jails are renewed at a time.
const AT_ONCE: usize = 16;
/// How long it may take, before it is told that it does not end.
const TIME: Duration = Duration::from_secs(5);
/// `linux/magic.h`.
const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;

/// A jail that is being renewed.
#[derive(Debug)]
struct Renewed {
    helper: Helper,
    /// When it should be done.
    deadline: Instant,
    /// It was told that it is not, and killed.
    is_late: bool,
}

/// What the host looked like, which jails have not been renewed since it changed, and which are being renewed.
#[derive(Debug, Default)]
pub(crate) struct Renewal {
    looked: Option<Instant>,
    renewed: Option<Instant>,
    looks: Vec<Option<[i64; 4]>>,
    edition: u64,
    known: BTreeSet<(TenantName, u32)>,
    waiting: BTreeSet<(TenantName, u32)>,
    at_work: BTreeMap<(TenantName, u32), Renewed>,
    /// Those that could not be renewed when it was tried last, and why.
    failed: BTreeMap<(TenantName, u32), String>,
}

impl Renewal {
    /// Looks at the host when it is time to, and renews those jails that run, some at a time. `edition` counts the changes of the
    /// copies of the host's `/etc`.
    pub(crate) fn go_on(&mut self, edition: u64, jails: &Jails, event: &mut impl FnMut(&str)) {
        let now = Instant::now();
        let is_due = |last: Option<Instant>, period| last.is_none_or(|last| now.duration_since(last) >= period);
        if edition != self.edition || is_due(self.looked, LOOK) {
            self.looked = Some(now);
            let (looks, running) = (looks(), jails.init_numbers());
            // What happened before the first look is not known: jails that an earlier warden left may have missed something.
            if looks != self.looks || edition != self.edition || is_due(self.renewed, RENEW) {
                (self.looks, self.edition, self.renewed) = (looks, edition, Some(now));
                self.waiting.clone_from(&running);
            } else {
                // While a jail was made nobody could renew it.
                self.waiting.extend(running.difference(&self.known).cloned());
            }
            self.failed.retain(|jail, _| running.contains(jail));
            self.known = running;
        }
        self.look_at_work(now, event);
        self.begin(jails, now, event);
    }

    /// Those that show what the host had before, and why.
    pub(crate) fn problems(&self) -> Vec<String> {
        let told = |((tenant, _), why): (&(TenantName, u32), &String)| {
            format!("the jail of \"{tenant}\" may show files that the host has replaced: {why}")
        };
        self.failed.iter().map(told).collect()
    }

    /// What becomes readable when a jail was renewed.
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
                // The kernel has let go of it.
                Some(_) if renewed.is_late => drop(self.waiting.insert(jail.clone())),
                Some(_) => drop(failed.remove(jail)),
                None => {
                    if now >= renewed.deadline && !renewed.is_late {
                        renewed.is_late = true;
                        renewed.helper.kill();
                        tell("the kernel does not let go of its files; it is tried again after that");
                    }
                    return true;
                }
            }
            false
        });
    }

    /// Begins with those that wait. One that the kernel holds up keeps nobody else waiting, and is not begun with again.
    fn begin(&mut self, jails: &Jails, now: Instant, event: &mut impl FnMut(&str)) {
        let busy = self.at_work.values().filter(|renewed| !renewed.is_late).count();
        let next = self.waiting.iter().filter(|jail| !self.at_work.contains_key(jail));
        let next: Vec<_> = next.take(AT_ONCE.saturating_sub(busy)).cloned().collect();
        for jail in next {
            self.waiting.remove(&jail);
            let (tenant, pid) = &jail;
            // One that has ended meanwhile has nothing to be renewed.
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
        // What a tenant of `system` has moved away is not shown, and older versions made no overlay: nothing is remembered.
        if let Ok(target) = mount::target(&root, path)
            && rustix::fs::fstatfs(&target)?.f_type == OVERLAYFS_SUPER_MAGIC
        {
            mount::forget_names(&target)?;
        }
    }
    Ok(())
}

/// The kernel's own link to where the process has its root; it leads nowhere that is looked up.
fn root(pid: u32) -> io::Result<OwnedFd> {
    let process = file::open_dir(Path::new(&format!("/proc/{pid}")))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&process, "root", flags, Mode::empty())?)
}
