//! Disk quotas of tenants behind one interface: project quotas of XFS and ext4, quota groups of btrfs.
//!
//! Danger: a file that is not charged is free. A tenant's directory is charged before anything is in it, so
//! everything in it is charged from the start. A directory that is found uncharged is charged with all its content
//! before the jail starts.

use bailiwick_plan::disk::DiskPlan;
use bailiwick_sys::quota::{Project, Quota, Share};
use bailiwick_sys::{btrfs, file, quota};
use bailiwick_types::{DiskFact, QuotaFacts, SoftHard};
use rustix::fs::{FileType, Mode, OFlags};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;

/// Why a disk limit does not hold.
#[derive(Debug, thiserror::Error)]
pub enum QuotaError {
    #[error("cannot {what}")]
    Refused {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the disk limit was written, but the kernel reports {0:?}")]
    NotHeld(Box<Quota>),
    #[error(
        "its storage was made before quotas of btrfs were switched on and is no subvolume; stop the tenant, then make a \
         subvolume beside it, copy with `cp -a --reflink=always` and put it in its place"
    )]
    NoSubvolume,
}

fn refused(what: &'static str) -> impl FnOnce(io::Error) -> QuotaError {
    move |source| QuotaError::Refused { what, source }
}

/// Opens a tenant's directory; makes it if it is missing. When this returns, it is charged to the tenant.
pub(crate) fn ensure_charged(
    parent: &OwnedFd,
    name: &str,
    project: u32,
    kind: &QuotaFacts,
) -> Result<OwnedFd, QuotaError> {
    let fresh = file::metadata_at(parent, name).is_err();
    if fresh && *kind == QuotaFacts::Groups {
        btrfs::make_subvolume(parent, name).map_err(refused("make a subvolume"))?;
    }
    let dir = file::ensure_dir_at(parent, name, 0o700).map_err(refused("make the tenant's directory"))?;
    match kind {
        QuotaFacts::Nothing { .. } => {}
        QuotaFacts::Groups => {
            let metadata = file::metadata(&dir).map_err(refused("look at the tenant's directory"))?;
            // Only if necessary: above its limit, btrfs refuses even this, and a full tenant must be able to start.
            if metadata.mode & 0o7777 != 0o700 {
                rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o700))
                    .map_err(|error| refused("close the subvolume to others")(error.into()))?;
            }
            let inode = metadata.inode;
            if inode != btrfs::ROOT_INODE {
                return Err(QuotaError::NoSubvolume);
            }
        }
        QuotaFacts::Projects => {
            if !belongs(&dir, project)? {
                charge_tree(&dir, project).map_err(refused("charge the tenant's files to it"))?;
            }
        }
    }
    Ok(dir)
}

/// A tenant's directory, if it exists and is not fully charged to the tenant. [`charge_tree`] may take long.
pub(crate) fn uncharged(
    parent: &OwnedFd,
    name: &str,
    project: u32,
    kind: &QuotaFacts,
) -> Result<Option<OwnedFd>, QuotaError> {
    if *kind != QuotaFacts::Projects || file::metadata_at(parent, name).is_err() {
        return Ok(None);
    }
    let dir = file::open_dir_at(parent, name).map_err(refused("open the tenant's directory"))?;
    Ok((!belongs(&dir, project)?).then_some(dir))
}

/// Whether a tenant's directory and each directory in it is charged to a project.
fn belongs(dir: &OwnedFd, project: u32) -> Result<bool, QuotaError> {
    let wanted = Project { id: project, inherited: true };
    let own = quota::project(dir).map_err(refused("read the project of the tenant's directory"))?;
    Ok(own == wanted && all_charged(dir, wanted).map_err(refused("look into the tenant's directory"))?)
}

/// Writes a tenant's quota and reads it back. btrfs is asked through the directory above: it refuses through a full
/// subvolume.
pub(crate) fn bound(
    parent: &OwnedFd,
    dir: &OwnedFd,
    project: u32,
    plan: &DiskPlan,
    kind: &QuotaFacts,
) -> Result<(), QuotaError> {
    match kind {
        QuotaFacts::Nothing { .. } => Ok(()),
        QuotaFacts::Groups => {
            let subvolume = btrfs::subvolume(dir).map_err(refused("find the tenant's subvolume"))?;
            btrfs::set_limit(parent, subvolume, plan.bytes.map(|bytes| bytes.hard))
                .map_err(refused("bound the tenant's subvolume"))
        }
        QuotaFacts::Projects => {
            let share = |pair: Option<SoftHard<u64>>| Share {
                soft: pair.map(|pair| pair.soft),
                hard: pair.map(|pair| pair.hard),
                ..Share::default()
            };
            let wanted = Quota { bytes: share(plan.bytes), inodes: share(plan.inodes) };
            quota::write(dir, project, &wanted).map_err(refused("write the tenant's quota"))?;
            let got = quota::read(dir, project).map_err(refused("read the tenant's quota back"))?;
            // A file system may round up to its block size, at most 64 KiB.
            let close = |want: Option<u64>, got: Option<u64>, slack: u64| match (want, got) {
                (None, None) => true,
                (Some(want), Some(got)) => want.abs_diff(got) <= slack,
                _ => false,
            };
            let held = close(wanted.bytes.soft, got.bytes.soft, 64 << 10)
                && close(wanted.bytes.hard, got.bytes.hard, 64 << 10)
                && close(wanted.inodes.soft, got.inodes.soft, 0)
                && close(wanted.inodes.hard, got.inodes.hard, 0);
            if held { Ok(()) } else { Err(QuotaError::NotHeld(Box::new(got))) }
        }
    }
}

/// Bounds a tenant by what it uses now.
pub(crate) fn clamp_quota(parent: &OwnedFd, dir: &OwnedFd, project: u32, kind: &QuotaFacts) -> Result<(), QuotaError> {
    // A limit of 0 would be no limit.
    const LEAST: u64 = 64 << 10;
    match kind {
        QuotaFacts::Nothing { .. } => Ok(()),
        QuotaFacts::Groups => {
            let look = || -> io::Result<(u64, u64)> {
                let subvolume = btrfs::subvolume(dir)?;
                Ok((subvolume, btrfs::group(&btrfs::directory(dir)?, subvolume)?.used))
            };
            let (subvolume, used) = look().map_err(refused("read the tenant's use"))?;
            btrfs::set_limit(parent, subvolume, Some(used.max(LEAST))).map_err(refused("hold the tenant back"))
        }
        QuotaFacts::Projects => {
            let mut now = quota::read(dir, project).map_err(refused("read the tenant's use"))?;
            let most = now.bytes.used.next_multiple_of(4096).max(LEAST);
            now.bytes.hard = Some(now.bytes.hard.map_or(most, |hard| hard.min(most)));
            now.bytes.soft = now.bytes.soft.map(|soft| soft.min(most));
            quota::write(dir, project, &now).map_err(refused("hold the tenant back"))
        }
    }
}

/// Until when a tenant above a soft limit may go on, for bytes and inodes. The kernel has one grace period for all;
/// this replaces it by the tenant's own, `grace` seconds. `noted` was set before, and so is not from the kernel.
pub(crate) fn grace(
    dir: &OwnedFd,
    project: u32,
    fact: &DiskFact,
    grace: u64,
    noted: Grace,
) -> Result<Option<Grace>, QuotaError> {
    let inodes = fact.inodes.and_then(|inodes| inodes.grace_until);
    let now = Grace { bytes: fact.bytes.grace_until, inodes };
    if now == noted || (now.bytes.is_none() && now.inodes.is_none()) {
        return Ok((now != noted).then_some(now));
    }
    let (kernels_bytes, kernels_inodes) = quota::graces(dir).map_err(refused("read the time of grace"))?;
    let own = |now: Option<u64>, noted: Option<u64>, kernels: u64| match now {
        Some(until) if Some(until) != noted => Some(until.saturating_sub(kernels).saturating_add(grace)),
        now => now,
    };
    let wanted = Grace {
        bytes: own(now.bytes, noted.bytes, kernels_bytes),
        inodes: own(now.inodes, noted.inodes, kernels_inodes),
    };
    if wanted != now {
        quota::set_grace(dir, project, wanted.bytes, wanted.inodes)
            .map_err(refused("set the tenant's time of grace"))?;
    }
    Ok(Some(wanted))
}

/// The ends of grace periods, in seconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Grace {
    pub(crate) bytes: Option<u64>,
    pub(crate) inodes: Option<u64>,
}

/// Whether a file system charges anything to a project. If this cannot be read, the answer is yes: ids are freed only
/// when certainly nothing is left.
pub(crate) fn is_charged(dir: &OwnedFd, project: u32) -> bool {
    !quota::read(dir, project).is_ok_and(|now| now.bytes.used == 0 && now.inodes.used == 0)
}

/// The project of a directory, if it is a tenant's.
pub(crate) fn project(dir: &OwnedFd, kind: &QuotaFacts) -> Option<u32> {
    let is_there = *kind == QuotaFacts::Projects;
    is_there.then(|| quota::project(dir).ok()).flatten().map(|project| project.id).filter(|id| *id != 0)
}

/// Removes a directory at once if it is a subvolume. Anything else is removed the slow way.
pub(crate) fn remove_whole(parent: &OwnedFd, name: &OsStr) {
    let is_root = file::metadata_at(parent, name).is_ok_and(|metadata| metadata.inode == btrfs::ROOT_INODE);
    if let (true, Some(name)) = (is_root, name.to_str()) {
        drop(btrfs::remove_subvolume(parent, name));
    }
}

/// Charges a directory with all its content to a project. The directory itself is last, so a part is never taken for
/// the whole. Links, sockets and the like cannot be opened; their own inodes stay uncharged, but hold no data.
/// However deep the tree, two directories are open at a time. The jail is down and FTP sessions have ended, so nobody
/// makes or moves anything.
pub(crate) fn charge_tree(top: &OwnedFd, project: u32) -> io::Result<()> {
    let mut dir = file::open_dir_at(top, ".")?;
    if quota::project(top)?.id == project {
        quota::set_project(top, Project { id: project, inherited: false })?;
    }
    let mut above = Vec::new();
    let mut levels: Vec<Vec<OsString>> = vec![charge_files(&dir, project)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.pop() {
            above.push(file::metadata(&dir)?.inode);
            dir = file::open_dir_at(&dir, &name)?;
            quota::set_project(&dir, Project { id: project, inherited: true })?;
            levels.push(charge_files(&dir, project)?);
            continue;
        }
        levels.pop();
        if !levels.is_empty() {
            // Back up. openat2(2) would refuse this name below a directory; it leads to no other place.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            dir = rustix::fs::openat(&dir, "..", flags, Mode::empty())?;
            // If somebody has moved it, the files of others would be charged.
            if above.pop() != Some(file::metadata(&dir)?.inode) {
                return Err(rustix::io::Errno::STALE.into());
            }
        }
    }
    quota::set_project(top, Project { id: project, inherited: true })
}

/// Whether the directories in a tenant's directory belong to its project. Each of them is mounted into its jail.
fn all_charged(dir: &OwnedFd, wanted: Project) -> io::Result<bool> {
    for name in file::directories(dir)? {
        if quota::project(file::open_dir_at(dir, &name)?)? != wanted {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Charges the files of one directory; returns the names of its directories.
fn charge_files(dir: &OwnedFd, project: u32) -> io::Result<Vec<OsString>> {
    let mut directories = Vec::new();
    for name in file::names(dir)? {
        match file::metadata_at(dir, &name)?.kind {
            FileType::Directory => directories.push(name),
            FileType::RegularFile => {
                quota::set_project(file::open_file_at(dir, &name)?, Project { id: project, inherited: false })?;
            }
            _ => {}
        }
    }
    Ok(directories)
}
