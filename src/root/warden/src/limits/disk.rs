//! What tenants use of their disk quotas, and what the warden knows about that beyond the kernel.

use crate::identity::ledger::Ledger;
use crate::limits::disk_note::DiskNote;
use crate::limits::quota::{self, Grace};
use crate::policy_view::PolicyView;
use crate::requests::failure;
use crate::storage::layout::Storage;
use bailiwick_plan::disk::DiskPlan;
use bailiwick_proto::Failure;
use bailiwick_types::{DiskFact, ExitStatus, IdRange, QuotaFacts, TenantName};
use std::collections::BTreeMap;
use std::error::Error;
use std::os::fd::OwnedFd;

/// A tenant's quota in the kernel; `None` if nothing counts, or if it cannot be read.
pub(crate) fn now(storage: &Storage, quota: &QuotaFacts, name: &TenantName, ids: IdRange) -> Option<DiskFact> {
    let dir = storage.open_of(name)?;
    bailiwick_observe::disk_fact(&dir, ids.first, quota).ok().flatten()
}

/// Notes that a plan's disk limits were written. `before` is what the kernel had until then. A note that cannot be
/// stored is not an error: no limit depends on it.
pub(crate) fn note_written(
    ledger: &mut Ledger,
    name: &TenantName,
    plan: &DiskPlan,
    before: Option<&DiskFact>,
    now: Option<DiskFact>,
) {
    if let Some(now) = now {
        let note = DiskNote::after_write(ledger.disk(name), plan, before, &now);
        drop(ledger.set_disk(name, note));
    }
}

/// Adds what the warden knows to what the kernel reports.
pub(crate) fn explain(ledger: &Ledger, is_clamped: bool, name: &TenantName, fact: &mut DiskFact) {
    fact.held_back = is_clamped;
    if let Some(note) = ledger.disk(name) {
        note.explain(fact);
    }
}

/// What every tenant uses of its quota. The kernel has one grace period for all; this gives each tenant its own.
pub(crate) fn all(
    storage: &Storage,
    ledger: &mut Ledger,
    policy: &mut PolicyView,
    is_clamped: bool,
) -> Result<BTreeMap<TenantName, DiskFact>, Failure> {
    let mut disks = BTreeMap::new();
    let tenants: Vec<(TenantName, IdRange)> = ledger.tenants().map(|(name, ids)| (name.clone(), ids)).collect();
    let kind = policy.facts.storage.quota.clone();
    for (name, ids) in tenants {
        let Some(dir) = storage.open_of(&name) else { continue };
        let Ok(Some(mut fact)) = bailiwick_observe::disk_fact(&dir, ids.first, &kind) else { continue };
        if kind == QuotaFacts::Projects {
            check_grace(ledger, policy, &name, ids, &dir, &mut fact)
                .map_err(|error| failure(ExitStatus::Failed, &name, "limit", &*error))?;
        }
        if let Some(note) = ledger.disk(&name) {
            drop(ledger.set_disk(&name, note.after_look(&fact)));
        }
        explain(ledger, is_clamped, &name, &mut fact);
        disks.insert(name, fact);
    }
    Ok(disks)
}

/// Gives a tenant that is above a soft limit its own grace period.
fn check_grace(
    ledger: &mut Ledger,
    policy: &mut PolicyView,
    name: &TenantName,
    ids: IdRange,
    dir: &OwnedFd,
    fact: &mut DiskFact,
) -> Result<(), Box<dyn Error>> {
    let noted = ledger.grace(name);
    let has_passed = fact.bytes.grace_until.is_some() || fact.inodes.is_some_and(|inodes| inodes.grace_until.is_some());
    if !has_passed && noted == Grace::default() {
        return Ok(());
    }
    let Some(tenant) = policy.find(name) else { return Ok(()) };
    if let Some(grace) = quota::grace(dir, ids.first, fact, tenant.settings.limits.disk_grace.0, noted)? {
        fact.bytes.grace_until = grace.bytes;
        if let Some(inodes) = &mut fact.inodes {
            inodes.grace_until = grace.inodes;
        }
        ledger.set_grace(name, grace);
    }
    Ok(())
}
