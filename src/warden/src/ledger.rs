//! The ledger: which tenant has which ids, for as long as any data of the tenant's exists.
//!
//! Danger: two tenants with one range are one tenant to the kernel. The ledger is therefore the warden's own, written
//! before the ids are used, replaced in one step, and a ledger that cannot be read stops the warden rather than
//! being started anew.

use crate::quota::Grace;
use bailiwick_sys::file;
use bailiwick_types::{IdPool, IdRange, TenantName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

const FILE: &str = "ledger.json";
/// 10,000 tenants take about 1 MiB.
const MAX_SIZE: usize = 64 << 20;

/// What is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    /// Tells this host's control groups from another's on one machine.
    instance: String,
    /// The pool that the indexes below count in.
    pool: IdPool,
    tenants: BTreeMap<TenantName, Entry>,
}

/// One tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Which range of the pool.
    index: u32,
    /// An operator stopped the tenant.
    held: bool,
    /// Ends of times of grace that the warden set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grace: Option<Grace>,
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It cannot be read or written.
    #[error("cannot {verb} the ledger \"{FILE}\" in the state directory")]
    File {
        /// `read` or `write`.
        verb: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what this program writes.
    #[error(
        "the ledger \"{FILE}\" is damaged or from a newer version; restore it from a backup: without it tenants could be given each other's ids"
    )]
    Damaged(#[source] serde_json::Error),
    /// Two tenants have one range.
    #[error("the ledger \"{FILE}\" gives \"{0}\" ids that another tenant has; restore it from a backup")]
    Overlap(TenantName),
    /// The pool was changed while tenants have ids of the old one.
    #[error(
        "`ids` in bailiwick.toml was changed while tenants have ids from {0} on; put it back, or purge every tenant first"
    )]
    PoolChanged(u32),
    /// No range is left.
    #[error("the pool of ids is used up; lower `ids.first` or purge deleted tenants")]
    Full,
}

/// The open ledger.
#[derive(Debug)]
pub(crate) struct Ledger {
    dir: OwnedFd,
    content: Content,
}

impl Ledger {
    /// Reads the ledger of a state directory, or begins one.
    pub(crate) fn open(dir: OwnedFd, pool: IdPool) -> Result<Self, LedgerError> {
        let read = |source| LedgerError::File { verb: "read", source };
        let mut content = match file::open_file_at(&dir, FILE) {
            Ok(fd) => {
                let bytes = file::read_bounded(fd, MAX_SIZE).map_err(read)?;
                let content: Content = serde_json::from_slice(&bytes).map_err(LedgerError::Damaged)?;
                if content.version != 1 {
                    let error = serde::de::Error::custom(format!("version {}", content.version));
                    return Err(LedgerError::Damaged(error));
                }
                content
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let ledger = Self { content: Content::new(pool).map_err(read)?, dir };
                ledger.save()?;
                return Ok(ledger);
            }
            Err(error) => return Err(read(error)),
        };
        if content.pool != pool {
            if !content.tenants.is_empty() {
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
        Ok(Self { dir, content })
    }

    /// Tells this host's control groups from another's.
    pub(crate) fn instance(&self) -> &str {
        &self.content.instance
    }

    /// The ids of a tenant; given now, and on disk before this returns, when it has none.
    pub(crate) fn assign(&mut self, tenant: &TenantName) -> Result<IdRange, LedgerError> {
        if let Some(range) = self.ids(tenant) {
            return Ok(range);
        }
        let used: BTreeSet<u32> = self.content.tenants.values().map(|entry| entry.index).collect();
        let index = (0..).zip(&used).find(|(free, used)| free != *used).map_or(used.len(), |(free, _)| free as usize);
        let index = u32::try_from(index).map_err(|_| LedgerError::Full)?;
        let range = self.content.pool.range(index).ok_or(LedgerError::Full)?;
        self.content.tenants.insert(tenant.clone(), Entry { index, held: false, grace: None });
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

    /// Notes that an operator stopped the tenant, or started it again.
    pub(crate) fn set_held(&mut self, tenant: &TenantName, held: bool) -> Result<(), LedgerError> {
        match self.content.tenants.get_mut(tenant) {
            Some(entry) if entry.held != held => {
                entry.held = held;
                self.save()
            }
            _ => Ok(()),
        }
    }

    /// Until when a tenant that has passed a soft limit may go on, as the warden set it.
    pub(crate) fn grace(&self, tenant: &TenantName) -> Grace {
        self.content.tenants.get(tenant).and_then(|entry| entry.grace).unwrap_or_default()
    }

    /// Notes it.
    pub(crate) fn set_grace(&mut self, tenant: &TenantName, grace: Grace) -> Result<(), LedgerError> {
        let grace = (grace != Grace::default()).then_some(grace);
        match self.content.tenants.get_mut(tenant) {
            Some(entry) if entry.grace != grace => {
                entry.grace = grace;
                self.save()
            }
            _ => Ok(()),
        }
    }

    /// Gives the ids of a tenant back. Only once nothing of the tenant's is left.
    pub(crate) fn forget(&mut self, tenant: &TenantName) -> Result<(), LedgerError> {
        if let Some(entry) = self.content.tenants.remove(tenant) {
            self.save().inspect_err(|_| {
                self.content.tenants.insert(tenant.clone(), entry);
            })?;
        }
        Ok(())
    }

    /// Every tenant that has ids.
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

impl Content {
    fn new(pool: IdPool) -> io::Result<Self> {
        let mut random = [0; 4];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self { version: 1, instance: format!("{:08x}", u32::from_ne_bytes(random)), pool, tenants: BTreeMap::new() })
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
        let mut ledger = Ledger::open(dir(&temp), pool).expect("opens");
        let a = ledger.assign(&name("a")).expect("assigns");
        let b = ledger.assign(&name("b")).expect("assigns");
        let c = ledger.assign(&name("c")).expect("assigns");
        assert!(a.first + a.count <= b.first && b.first + b.count <= c.first);
        let mut ledger = Ledger::open(dir(&temp), pool).expect("opens again");
        assert_eq!(ledger.assign(&name("b")).expect("the same"), b);
        ledger.forget(&name("b")).expect("forgets");
        assert_eq!(ledger.assign(&name("d")).expect("assigns"), b);
        assert_eq!(ledger.tenants().count(), 3);
    }

    #[test]
    fn a_damaged_ledger_is_never_started_anew() {
        let temp = tempfile::tempdir().expect("temporary directory");
        std::fs::write(temp.path().join(FILE), b"{\"version\":").expect("writes");
        assert!(matches!(Ledger::open(dir(&temp), IdPool::default()), Err(LedgerError::Damaged(_))));
        assert_eq!(std::fs::read(temp.path().join(FILE)).expect("still there"), b"{\"version\":");
    }

    #[test]
    fn two_tenants_with_one_range_are_refused() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let text = r#"{"version":1,"instance":"00000000","pool":{"first":10000000,"per_tenant":65536},
            "tenants":{"a":{"index":0,"held":false},"b":{"index":0,"held":false}}}"#;
        std::fs::write(temp.path().join(FILE), text).expect("writes");
        assert!(matches!(Ledger::open(dir(&temp), IdPool::default()), Err(LedgerError::Overlap(_))));
    }

    #[test]
    fn the_pool_cannot_move_under_tenants_that_have_data() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let mut ledger = Ledger::open(dir(&temp), IdPool::default()).expect("opens");
        ledger.assign(&name("a")).expect("assigns");
        let moved = IdPool::new(20_000_000, 65_536).expect("valid");
        assert!(matches!(Ledger::open(dir(&temp), moved), Err(LedgerError::PoolChanged(10_000_000))));
    }
}
