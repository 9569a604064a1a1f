//! The first content of a tenant's storage, and the work that a child does before the jail starts.

use crate::limits::quota;
use crate::storage::purge::Removal;
use bailiwick_plan::seed::{Kind, Seed};
use bailiwick_sys::file;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Work on a tenant's storage that can take long. A child does it before the jail starts.
#[derive(Debug)]
pub(crate) enum Preparation {
    /// The files are not charged, because quotas were switched on later.
    Charge {
        dir: OwnedFd,
        /// Whose they are.
        project: u32,
    },
    /// Some of the first content is missing: all of it on the first day, later only what a new profile needs.
    Seed { dir: OwnedFd, seeds: Vec<Seed> },
}

impl Preparation {
    /// The directory that the work is on.
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        match self {
            Self::Charge { dir, .. } | Self::Seed { dir, .. } => dir.as_fd(),
        }
    }

    /// A word for the work.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Charge { .. } => "charge",
            Self::Seed { .. } => "seed",
        }
    }

    /// The work in words, after "the files of TENANT".
    pub(crate) fn in_words(&self) -> &'static str {
        match self {
            Self::Charge { .. } => "are being charged to it, because quotas were switched on later",
            Self::Seed { .. } => "that it starts with are being written",
        }
    }

    pub(crate) fn work(&self) -> io::Result<()> {
        match self {
            Self::Charge { dir, project } => quota::charge_tree(dir, *project),
            // Waits for everything that anybody has written to this file system.
            Self::Seed { dir, seeds } => ensure_seeds(seeds, dir, || Ok(rustix::fs::syncfs(dir)?)),
        }
    }
}

pub(crate) fn is_top(seed: &Seed) -> bool {
    !seed.path.contains('/')
}

/// Makes the missing seeds. A top directory gets its name only when all of it is on disk, so it exists whole or not
/// at all. `sync` is slow, and so runs once for all of them.
fn ensure_seeds(seeds: &[Seed], dir: &OwnedFd, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let is_missing = |top: &&Seed| is_top(top) && file::metadata_at(dir, &top.path).is_err();
    let missing: Vec<&Seed> = seeds.iter().filter(is_missing).collect();
    for top in &missing {
        let fresh = format!(".{}.new", top.path);
        Removal::whole(dir, &fresh)?;
        let below = format!("{}/", top.path);
        make(dir.as_fd(), &fresh, top)?;
        let fresh_dir = file::open_dir_at(dir, &fresh)?;
        for seed in seeds.iter().filter(|seed| seed.path.starts_with(&below)) {
            make(fresh_dir.as_fd(), &seed.path[below.len()..], seed)?;
        }
    }
    sync()?;
    for top in missing {
        rustix::fs::renameat(dir, format!(".{}.new", top.path), dir, &top.path)?;
    }
    Ok(())
}

fn make(dir: BorrowedFd<'_>, path: &str, seed: &Seed) -> io::Result<()> {
    let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
    let parent = file::open_dir_at(dir, parent)?;
    match &seed.kind {
        Kind::Directory => {
            file::make_dir_at(&parent, name, 0o700)?;
            own(&file::open_dir_at(&parent, name)?, seed)
        }
        Kind::File(content) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let mut file = std::fs::File::from(file::open_at(&parent, name, flags, Mode::from_raw_mode(0o600))?);
            file.write_all(content.as_bytes())?;
            own(&file, seed)
        }
        Kind::Link(to) => Ok(rustix::fs::symlinkat(to.as_str(), &parent, name)?),
    }
}

fn own(fd: impl AsFd, seed: &Seed) -> io::Result<()> {
    rustix::fs::fchown(&fd, Some(Uid::from_raw(seed.owner)), Some(Gid::from_raw(seed.owner)))?;
    // After the owner: a change of owner may clear mode bits.
    Ok(rustix::fs::fchmod(&fd, Mode::from_raw_mode(seed.mode))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_get_their_names_once_all_of_them_are_on_disk() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = file::open_dir(&temp.path().canonicalize().expect("real path")).expect("opens");
        let directory = |path: &str| Seed { path: path.to_owned(), owner: 0, mode: 0o755, kind: Kind::Directory };
        let seeds = ["etc", "etc/cron.d", "home", "var"].map(directory);
        let names = || {
            let mut names = file::names(&dir).expect("reads");
            names.sort();
            names
        };
        std::fs::create_dir(temp.path().join("var")).expect("there already");
        let failed = ensure_seeds(&seeds, &dir, || Err(io::ErrorKind::StorageFull.into()));
        assert_eq!(failed.expect_err("not on disk").kind(), io::ErrorKind::StorageFull);
        let mut seen = Vec::new();
        let sync = || {
            seen = names();
            Ok(())
        };
        ensure_seeds(&seeds, &dir, sync).expect("makes");
        assert_eq!(seen, [".etc.new", ".home.new", "var"], "of all together, and once");
        assert_eq!(names(), ["etc", "home", "var"]);
        assert!(temp.path().join("etc/cron.d").is_dir());
    }
}
