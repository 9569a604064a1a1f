//! The ledger: which tenant has which ids, for as long as any of the tenant's data exists.
//!
//! Danger: to the kernel, two tenants with one range are one tenant. Therefore the ledger belongs to the warden, is
//! written before the ids are used, and is replaced in one step. A ledger that cannot be read, or that is missing
//! although tenants exist, stops the warden: it is never started anew.

use crate::limits::disk_note::DiskNote;
use crate::limits::quota::Grace;
use bailiwick_sys::file;
use bailiwick_types::{IdPool, IdRange, TenantName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) const FILE: &str = "ledger.json";
/// In bytes. 10,000 tenants take about 1 MiB.
const MAX_SIZE: usize = 64 << 20;
/// Between two tries to write to a full disk.
const RETRY_TIME: Duration = Duration::from_secs(1);

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    /// Distinguishes this host's control groups from those of other hosts on the machine.
    instance: String,
    /// The pool that the indexes count in.
    pool: IdPool,
    tenants: BTreeMap<TenantName, Entry>,
    /// The ranges of purged tenants of whom something is left, by the name under which it was set aside.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    purged: BTreeMap<String, u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// The range, as an index into the pool.
    index: u32,
    /// An operator stopped the tenant.
    held: bool,
    /// Ends of grace periods that the warden set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grace: Option<Grace>,
    /// The disk limits that were last written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disk: Option<DiskNote>,
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("cannot {verb} the ledger \"{FILE}\" in the state directory")]
    File {
        verb: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(
        "the ledger \"{FILE}\" is damaged or from a newer version; restore it from a backup, or run `bailiwick doctor --repair-ledger`: without it tenants could be given each other's ids"
    )]
    Damaged(#[source] serde_json::Error),
    #[error(
        "the ledger \"{path}\" is missing beside {beside}; if the state directory is not mounted or was moved, put it back, else restore the ledger from a backup, or run `bailiwick doctor --repair-ledger`: without it tenants could be given each other's ids",
        path = state_dir.join(FILE).display()
    )]
    Missing { state_dir: PathBuf, beside: String },
    #[error("the ledger \"{FILE}\" gives \"{0}\" ids that another tenant has; restore it from a backup")]
    Overlap(TenantName),
    #[error("the ledger \"{FILE}\" gives the purged \"{0}\" ids that another tenant has; restore it from a backup")]
    OverlapOfPurged(String),
    #[error(
        "`ids` in bailiwick.toml was changed while tenants have ids from {0} on; put it back, or purge every tenant first"
    )]
    PoolChanged(u32),
    #[error("the ledger \"{FILE}\" is in order; nothing was changed")]
    InOrder,
    /// Something else was set aside under the same name; its ids would be forgotten.
    #[error("the ledger \"{FILE}\" has ids of the purged \"{0}\" already; they stay reserved until that is removed")]
    Buried(String),
    #[error("the pool of ids is used up; lower `ids.first` or purge deleted tenants")]
    Full,
}

/// The open ledger.
#[derive(Debug)]
pub(crate) struct Ledger {
    dir: OwnedFd,
    content: Content,
    /// Whether changes wait for [`Self::commit`].
    uncommitted: bool,
    /// Whether changes are not on disk although that was tried. Only changes that may be late are ever left unwritten.
    unwritten: bool,
    complained: bool,
    /// When the last try to write them was.
    tried: Option<Instant>,
}

impl Ledger {
    /// Reads the ledger of a state directory, or begins one if no tenant exists. `traces` lists signs of tenants, and
    /// `path` is for an error message.
    pub(crate) fn open(dir: OwnedFd, path: &Path, pool: IdPool, traces: &[String]) -> Result<Self, LedgerError> {
        let Some(mut content) = read(&dir)? else {
            if !traces.is_empty() {
                return Err(LedgerError::Missing { state_dir: path.to_owned(), beside: first_few(traces) });
            }
            let content =
                Content::new(pool).map_err(|source| LedgerError::File { verb: "make an identity for", source })?;
            let ledger = Self { content, dir, uncommitted: false, unwritten: false, complained: false, tried: None };
            ledger.save()?;
            return Ok(ledger);
        };
        if content.pool != pool {
            if !content.tenants.is_empty() || !content.purged.is_empty() {
                return Err(LedgerError::PoolChanged(content.pool.first()));
            }
            content.pool = pool;
        }
        let mut seen = BTreeSet::new();
        for (name, entry) in &content.tenants {
            if !seen.insert(entry.index) || pool.range(entry.index).is_none() {
                return Err(LedgerError::Overlap(name.clone()));
            }
        }
        for (grave, index) in &content.purged {
            if !seen.insert(*index) || pool.range(*index).is_none() {
                return Err(LedgerError::OverlapOfPurged(grave.clone()));
            }
        }
        Ok(Self { dir, content, uncommitted: false, unwritten: false, complained: false, tried: None })
    }

    /// Writes a ledger of the ids that were found, in place of a missing or damaged one. A damaged one is kept beside
    /// it.
    pub(crate) fn rebuild(
        dir: OwnedFd,
        pool: IdPool,
        instance: Option<String>,
        found: &BTreeMap<TenantName, u32>,
    ) -> Result<(), LedgerError> {
        let failed = |source| LedgerError::File { verb: "write", source };
        match read(&dir) {
            Ok(Some(_)) => return Err(LedgerError::InOrder),
            Ok(None) => {}
            Err(LedgerError::Damaged(_)) => {
                let damaged = format!("{FILE}.damaged");
                rustix::fs::renameat(&dir, FILE, &dir, damaged.as_str()).map_err(|error| failed(error.into()))?;
            }
            Err(error) => return Err(error),
        }
        let mut content = Content::new(pool).map_err(failed)?;
        content.instance = instance.unwrap_or(content.instance);
        let entry = |index: &u32| Entry { index: *index, held: false, grace: None, disk: None };
        content.tenants = found.iter().map(|(name, index)| (name.clone(), entry(index))).collect();
        Self { dir, content, uncommitted: false, unwritten: false, complained: false, tried: None }.save()
    }

    /// Distinguishes this host's control groups from those of other hosts on the machine.
    pub(crate) fn instance(&self) -> &str {
        &self.content.instance
    }

    /// The ids of a tenant. New ones are on disk before this returns.
    pub(crate) fn assign(&mut self, tenant: &TenantName) -> Result<IdRange, LedgerError> {
        if let Some(range) = self.ids(tenant) {
            return Ok(range);
        }
        let used: BTreeSet<u32> = self.used();
        let index = (0..).zip(&used).find(|(free, used)| free != *used).map_or(used.len(), |(free, _)| free as usize);
        let index = u32::try_from(index).map_err(|_| LedgerError::Full)?;
        let range = self.content.pool.range(index).ok_or(LedgerError::Full)?;
        self.content.tenants.insert(tenant.clone(), Entry { index, held: false, grace: None, disk: None });
        self.save().inspect_err(|_| {
            self.content.tenants.remove(tenant);
        })?;
        Ok(range)
    }

    /// The ids of a tenant, if it has any.
    pub(crate) fn ids(&self, tenant: &TenantName) -> Option<IdRange> {
        self.content.tenants.get(tenant).and_then(|entry| self.content.pool.range(entry.index))
    }

    /// Whether an operator stopped the tenant.
    pub(crate) fn held(&self, tenant: &TenantName) -> bool {
        self.content.tenants.get(tenant).is_some_and(|entry| entry.held)
    }

    /// Notes whether an operator stopped the tenant. [`Self::commit`] writes it. If the disk is full, it is written later, so
    /// that a stop need not wait.
    pub(crate) fn set_held(&mut self, tenant: &TenantName, held: bool) {
        if let Some(entry) = self.content.tenants.get_mut(tenant).filter(|entry| entry.held != held) {
            entry.held = held;
            self.uncommitted = true;
        }
    }

    /// Writes what [`Self::set_held`] and [`Self::set_grace`] have changed: one write for all of it. Whoever is told of such a
    /// change must find it after a power cut, so this comes before each reply.
    pub(crate) fn commit(&mut self) {
        if std::mem::take(&mut self.uncommitted) {
            self.unwritten = self.save().is_err();
        }
    }

    /// Retries an unwritten change, at most once a second, because a full disk may be slow. Returns a line for the
    /// log at the first failure, and at the success after it.
    pub(crate) fn write_pending(&mut self, now: Instant) -> Option<String> {
        let is_soon = |tried: Instant| now.saturating_duration_since(tried) < RETRY_TIME;
        if !self.unwritten || self.tried.is_some_and(is_soon) {
            return None;
        }
        self.tried = Some(now);
        match self.save() {
            Ok(()) => {
                self.unwritten = false;
                std::mem::take(&mut self.complained).then(|| "event=ledger-written".to_owned())
            }
            Err(_) if self.complained => None,
            Err(error) => {
                self.complained = true;
                let reason = bailiwick_proto::Failure::new(bailiwick_types::ExitStatus::Failed, &error).message;
                Some(format!(
                    "event=ledger-not-written reason={reason:?} until=\"a restart of the warden before that forgets it: stopped tenants start again, and purged tenants keep their ids until they are purged again\""
                ))
            }
        }
    }

    /// Until when a tenant may be above a soft limit, as the warden set it.
    pub(crate) fn grace(&self, tenant: &TenantName) -> Grace {
        self.content.tenants.get(tenant).and_then(|entry| entry.grace).unwrap_or_default()
    }

    pub(crate) fn set_grace(&mut self, tenant: &TenantName, grace: Grace) {
        let grace = (grace != Grace::default()).then_some(grace);
        if let Some(entry) = self.content.tenants.get_mut(tenant).filter(|entry| entry.grace != grace) {
            entry.grace = grace;
            self.uncommitted = true;
        }
    }

    /// The disk limits that were last written for a tenant.
    pub(crate) fn disk(&self, tenant: &TenantName) -> Option<DiskNote> {
        self.content.tenants.get(tenant).and_then(|entry| entry.disk)
    }

    pub(crate) fn set_disk(&mut self, tenant: &TenantName, note: DiskNote) -> Result<(), LedgerError> {
        match self.content.tenants.get_mut(tenant) {
            Some(entry) if entry.disk != Some(note) => {
                entry.disk = Some(note);
                self.save()
            }
            _ => Ok(()),
        }
    }

    fn used(&self) -> BTreeSet<u32> {
        let purged = self.content.purged.values().copied();
        self.content.tenants.values().map(|entry| entry.index).chain(purged).collect()
    }

    /// The tenant is gone. Its ids stay reserved under the name of what was set aside, until [`Self::give_back`]. If
    /// the disk is full, this is written later, when the removal has made room. Until then the file still has the
    /// tenant, so nobody gets the ids.
    pub(crate) fn bury(&mut self, tenant: &TenantName, grave: &str) -> Result<(), LedgerError> {
        let Some(entry) = self.content.tenants.get(tenant) else { return Ok(()) };
        if self.content.purged.contains_key(grave) {
            return Err(LedgerError::Buried(grave.to_owned()));
        }
        self.content.purged.insert(grave.to_owned(), entry.index);
        self.content.tenants.remove(tenant);
        self.unwritten = self.save().is_err();
        Ok(())
    }

    /// Reserves the range that begins at `first` for what was set aside, unless somebody has it.
    pub(crate) fn take_for(&mut self, grave: &str, first: u32) -> Result<(), LedgerError> {
        let pool = self.content.pool;
        let index = first.checked_sub(pool.first()).map(|offset| offset / pool.per_tenant());
        let is_free =
            |index: &u32| pool.range(*index).is_some_and(|range| range.first == first) && !self.used().contains(index);
        if let Some(index) = index.filter(is_free) {
            self.content.purged.insert(grave.to_owned(), index);
            self.save().inspect_err(|_| {
                self.content.purged.remove(grave);
            })?;
        }
        Ok(())
    }

    /// Nothing is left of what was set aside: frees its ids.
    pub(crate) fn give_back(&mut self, grave: &str) -> Result<(), LedgerError> {
        if let Some(index) = self.content.purged.remove(grave) {
            self.save().inspect_err(|_| {
                self.content.purged.insert(grave.to_owned(), index);
            })?;
        }
        Ok(())
    }

    /// What was set aside and has ids.
    pub(crate) fn purged(&self) -> impl Iterator<Item = (&String, Option<IdRange>)> {
        self.content.purged.iter().map(|(grave, index)| (grave, self.content.pool.range(*index)))
    }

    /// Every tenant with ids.
    pub(crate) fn tenants(&self) -> impl Iterator<Item = (&TenantName, IdRange)> {
        self.content
            .tenants
            .iter()
            .filter_map(|(name, entry)| self.content.pool.range(entry.index).map(|range| (name, range)))
    }

    fn save(&self) -> Result<(), LedgerError> {
        let bytes = serde_json::to_vec_pretty(&self.content).map_err(LedgerError::Damaged)?;
        file::replace_at(self.dir.as_fd(), FILE, &bytes, 0o600, file::Outlives::PowerCut)
            .map_err(|source| LedgerError::File { verb: "write", source })
    }
}

/// The content of the file; `None` if there is no file.
fn read(dir: &OwnedFd) -> Result<Option<Content>, LedgerError> {
    let failed = |source| LedgerError::File { verb: "read", source };
    let fd = match file::open_file_at(dir, FILE) {
        Ok(fd) => fd,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let bytes = file::read_bounded(fd, MAX_SIZE).map_err(failed)?;
    let content: Content = serde_json::from_slice(&bytes).map_err(LedgerError::Damaged)?;
    if content.version != 1 {
        let error = serde::de::Error::custom(format!("version {}", content.version));
        return Err(LedgerError::Damaged(error));
    }
    Ok(Some(content))
}

/// The first few of many, for a message.
fn first_few(all: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

impl Content {
    fn new(pool: IdPool) -> io::Result<Self> {
        let mut random = [0; 4];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self {
            version: 1,
            instance: format!("{:08x}", u32::from_ne_bytes(random)),
            pool,
            tenants: BTreeMap::new(),
            purged: BTreeMap::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(temp: &tempfile::TempDir) -> OwnedFd {
        file::open_dir(&temp.path().canonicalize().expect("real path")).expect("opens")
    }

    fn name(text: &str) -> TenantName {
        text.parse().expect("valid name")
    }

    #[test]
    fn ranges_are_disjoint_kept_over_a_restart_and_reused_only_when_forgotten() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let pool = IdPool::default();
        let mut ledger = Ledger::open(dir(&temp), temp.path(), pool, &[]).expect("opens");
        let a = ledger.assign(&name("a")).expect("assigns");
        let b = ledger.assign(&name("b")).expect("assigns");
        let c = ledger.assign(&name("c")).expect("assigns");
        assert!(a.first + a.count <= b.first && b.first + b.count <= c.first);
        let mut ledger = Ledger::open(dir(&temp), temp.path(), pool, &[]).expect("opens again");
        assert_eq!(ledger.assign(&name("b")).expect("the same"), b);
        ledger.bury(&name("b"), "b.1").expect("buries");
        ledger.give_back("b.1").expect("gives back");
        assert_eq!(ledger.assign(&name("d")).expect("assigns"), b);
        assert_eq!(ledger.tenants().count(), 3);
    }

    #[test]
    fn ids_of_a_purged_tenant_stay_reserved_until_nothing_is_left() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let pool = IdPool::default();
        let mut ledger = Ledger::open(dir(&temp), temp.path(), pool, &[]).expect("opens");
        let a = ledger.assign(&name("a")).expect("assigns");
        ledger.bury(&name("a"), "a.7").expect("buries");
        assert_eq!(ledger.ids(&name("a")), None);
        let mut ledger = Ledger::open(dir(&temp), temp.path(), pool, &[]).expect("opens again");
        let again = ledger.assign(&name("a")).expect("assigns");
        assert_ne!(again, a, "the name is free, the ids are not");
        ledger.take_for("b.8", again.first).expect("is no error");
        assert_eq!(ledger.purged().count(), 1, "what a tenant has is not taken from it");
        let error = ledger.bury(&name("a"), "a.7").unwrap_err();
        assert!(matches!(&error, LedgerError::Buried(grave) if grave == "a.7"), "{error}");
        assert_eq!(ledger.ids(&name("a")), Some(again), "nothing was forgotten");
        ledger.give_back("a.7").expect("gives back");
        assert_eq!(ledger.assign(&name("b")).expect("assigns"), a);
        ledger.take_for("c.9", pool.range(5).expect("a range").first).expect("takes");
        assert_eq!(ledger.purged().count(), 1);
    }

    #[test]
    fn a_damaged_ledger_is_never_started_anew() {
        let temp = tempfile::tempdir().expect("temporary directory");
        std::fs::write(temp.path().join(FILE), b"{\"version\":").expect("writes");
        assert!(matches!(Ledger::open(dir(&temp), temp.path(), IdPool::default(), &[]), Err(LedgerError::Damaged(_))));
        assert_eq!(std::fs::read(temp.path().join(FILE)).expect("still there"), b"{\"version\":");
    }

    #[test]
    fn a_missing_ledger_is_begun_only_if_no_tenant_exists() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let traces: Vec<String> = (0..7).map(|number| format!("a trace {number}")).collect();
        let error = Ledger::open(dir(&temp), temp.path(), IdPool::default(), &traces).unwrap_err();
        assert!(error.to_string().contains("a trace 4 and 2 more"), "{error}");
        assert!(!temp.path().join(FILE).exists(), "no ledger was written");
        drop(Ledger::open(dir(&temp), temp.path(), IdPool::default(), &[]).expect("begins one"));
        drop(Ledger::open(dir(&temp), temp.path(), IdPool::default(), &traces).expect("reads it"));
    }

    #[test]
    fn a_rebuilt_ledger_gives_each_tenant_the_ids_that_it_had() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let pool = IdPool::default();
        std::fs::write(temp.path().join(FILE), b"{").expect("writes");
        let found = [(name("a"), 3), (name("b"), 0)].into();
        Ledger::rebuild(dir(&temp), pool, Some("0123abcd".to_owned()), &found).expect("writes");
        let mut ledger = Ledger::open(dir(&temp), temp.path(), pool, &[]).expect("opens");
        assert_eq!((ledger.ids(&name("a")), ledger.ids(&name("b"))), (pool.range(3), pool.range(0)));
        assert_eq!(ledger.instance(), "0123abcd");
        assert_eq!(ledger.assign(&name("c")).ok(), pool.range(1));
        assert_eq!(std::fs::read(temp.path().join(format!("{FILE}.damaged"))).expect("kept"), b"{");
        let error = Ledger::rebuild(dir(&temp), pool, None, &found).unwrap_err();
        assert!(matches!(error, LedgerError::InOrder), "{error}");
    }

    #[test]
    fn an_unwritten_change_holds_and_is_retried_once_a_second() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let mut ledger = Ledger::open(dir(&temp), temp.path(), IdPool::default(), &[]).expect("opens");
        let ids = ledger.assign(&name("a")).expect("assigns");
        // This keeps any file from being made beside the ledger, like a full disk.
        let obstacle = temp.path().join(format!(".{FILE}.new"));
        std::fs::create_dir_all(obstacle.join("full")).expect("mkdir");
        let written = || read(&dir(&temp)).expect("reads").expect("a ledger").tenants.len();
        ledger.bury(&name("a"), "a.7").expect("is known");
        assert_eq!((ledger.ids(&name("a")), written()), (None, 1));
        let begin = Instant::now();
        let at = |after: u64| begin + Duration::from_millis(after);
        assert!(ledger.write_pending(at(0)).is_some_and(|line| line.contains("ledger-not-written")));
        std::fs::remove_dir_all(&obstacle).expect("removes");
        assert_eq!((ledger.write_pending(at(999)), written()), (None, 1), "too soon");
        assert_eq!((ledger.write_pending(at(1000)), written()), (Some("event=ledger-written".to_owned()), 0));
        assert_eq!(ledger.write_pending(at(2000)), None, "once");
        ledger.give_back("a.7").expect("gives back");
        assert_eq!(ledger.assign(&name("b")).expect("assigns"), ids);
    }

    #[test]
    fn what_changed_since_the_last_commit_is_one_write() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let mut ledger = Ledger::open(dir(&temp), temp.path(), IdPool::default(), &[]).expect("opens");
        for tenant in ["a", "b"] {
            ledger.assign(&name(tenant)).expect("assigns");
        }
        let inode = || file::metadata_at(dir(&temp), FILE).expect("is there").inode;
        let held = || {
            let content = read(&dir(&temp)).expect("reads").expect("a ledger");
            content.tenants.values().map(|entry| entry.held).collect::<Vec<_>>()
        };
        let before = inode();
        for tenant in ["a", "b"] {
            ledger.set_held(&name(tenant), true);
        }
        assert_eq!((inode(), held()), (before, vec![false, false]));
        ledger.commit();
        assert_eq!(held(), [true, true]);
        let before = inode();
        ledger.commit();
        ledger.set_held(&name("a"), true);
        ledger.commit();
        assert_eq!(inode(), before, "nothing has changed");
    }

    #[test]
    fn two_tenants_with_one_range_are_refused() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let text = r#"{"version":1,"instance":"00000000","pool":{"first":10000000,"per_tenant":65536},
            "tenants":{"a":{"index":0,"held":false},"b":{"index":0,"held":false}}}"#;
        std::fs::write(temp.path().join(FILE), text).expect("writes");
        assert!(matches!(Ledger::open(dir(&temp), temp.path(), IdPool::default(), &[]), Err(LedgerError::Overlap(_))));
    }

    #[test]
    fn the_pool_cannot_move_under_tenants_that_have_data() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let mut ledger = Ledger::open(dir(&temp), temp.path(), IdPool::default(), &[]).expect("opens");
        ledger.assign(&name("a")).expect("assigns");
        let moved = IdPool::new(20_000_000, 65_536).expect("valid");
        assert!(matches!(Ledger::open(dir(&temp), temp.path(), moved, &[]), Err(LedgerError::PoolChanged(10_000_000))));
    }
}
