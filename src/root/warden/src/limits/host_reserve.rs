//! What tenants together leave to the host: memory and tasks, bounded by the control group above all tenants, and
//! disk space.
//!
//! While less disk space is free than the reserve, each tenant's quota is clamped to its use. Each warden decides
//! this anew, whatever an earlier one wrote, and writes the quotas of one tenant after another, in slices.

use crate::identity::ledger::Ledger;
use crate::limits::cgroups::Groups;
use crate::policy_view::PolicyView;
use crate::storage::layout::Storage;
use bailiwick_plan::disk::DiskPlan;
use bailiwick_policy::Host;
use bailiwick_proto::Failure;
use bailiwick_proto::warden::{Reached, WardenEvent};
use bailiwick_types::{ByteSize, ExitStatus, IdRange, QuotaFacts, TenantName};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Between two looks. If the disks can write more than the reserve in that time, the reserve is too small.
const LOOK_TIME: Duration = Duration::from_secs(1);
/// How long quotas are written in one turn of the loop.
const SLICE_TIME: Duration = Duration::from_millis(5);

/// The state of the reserve.
#[derive(Debug, Default)]
pub(crate) struct HostReserve {
    /// Whether quotas are clamped; `None` before the first look.
    is_reached: Option<bool>,
    looked: Option<Instant>,
    /// Tenants whose quotas are still to be written.
    left: VecDeque<(TenantName, IdRange)>,
    /// Free bytes at the last look.
    free: u64,
    /// Why the reserve of memory or tasks is not enforced.
    not_held: Option<String>,
}

/// Whether less is free than the reserve. To be over, some room to spare is needed, or it would come and go.
fn is_reached(was: Option<bool>, free: u64, reserve: u64) -> bool {
    let spare = if was == Some(true) { (reserve / 8).min(64 << 20) } else { 0 };
    free < reserve.saturating_add(spare)
}

/// The largest reserve: half of the file system, or tenants would get nothing.
fn most(all: u64) -> u64 {
    all / 2
}

impl HostReserve {
    /// Whether every tenant's quota is clamped to what it uses.
    pub(crate) fn is_reached(&self) -> bool {
        self.is_reached == Some(true)
    }

    /// Whether there are quotas to write.
    pub(crate) fn is_due(&self) -> bool {
        !self.left.is_empty()
    }

    /// Checks the free space, at most once a second, and rereads the reserve from `bailiwick.toml`.
    pub(crate) fn check(
        &mut self,
        policy: &mut PolicyView,
        groups: &Groups,
        storage: &Storage,
        ledger: &Ledger,
    ) -> Option<WardenEvent> {
        self.write_slice(policy, storage);
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_TIME) {
            return None;
        }
        self.looked = Some(Instant::now());
        if policy.read_reserve() {
            let held = groups.reserve(&policy.facts, &policy.host.reserve);
            self.not_held = held.err().map(|error| Failure::new(ExitStatus::Failed, &error).message);
        }
        if !policy.facts.storage.quota.bounds_anything() {
            return None;
        }
        let free = storage.free().ok()?;
        let size = storage.size().unwrap_or(u64::MAX);
        let reached = self.decide(free, policy.host.reserve.disk.0, size)?;
        self.left = ledger.tenants().map(|(name, ids)| (name.clone(), ids)).collect();
        self.write_slice(policy, storage);
        reached.map(|reached| WardenEvent::Reserve { reached })
    }

    /// Decides from the free bytes and the size of the file system. `Some` if quotas must be written, with the event
    /// to report, if any.
    fn decide(&mut self, free: u64, reserve: u64, size: u64) -> Option<Option<Reached>> {
        self.free = free;
        let was = self.is_reached;
        // A reserve that is too large is not enforced.
        let is_reached = reserve <= most(size) && is_reached(was, free, reserve);
        if was == Some(is_reached) {
            return None;
        }
        self.is_reached = Some(is_reached);
        // If there is room at the start of the warden, there is nothing to report.
        let is_news = is_reached || was.is_some();
        Some(is_news.then_some(if is_reached { Reached::Yes } else { Reached::NoLonger }))
    }

    /// Writes some of the quotas.
    fn write_slice(&mut self, policy: &mut PolicyView, storage: &Storage) {
        let until = Instant::now() + SLICE_TIME;
        while Instant::now() < until
            && let Some((name, ids)) = self.left.pop_front()
        {
            if self.is_reached() {
                self.clamp(storage, &policy.facts.storage.quota, &name, ids);
            } else if let Some(tenant) = policy.find(&name) {
                let plan = DiskPlan::new(&tenant.settings.limits, &policy.facts);
                // If it cannot be written, the quota stays clamped, and the audit reports drift.
                drop(storage.bound(&name, ids.first, &plan, &policy.facts.storage.quota));
            }
        }
    }

    /// Clamps a tenant's quota to its use while the reserve is reached. Everything that writes a quota ends with
    /// this.
    pub(crate) fn clamp(&self, storage: &Storage, quota: &QuotaFacts, name: &TenantName, ids: IdRange) {
        if self.is_reached() {
            // If it fails, the next write of the tenant's limits tries again.
            drop(storage.clamp_quota(name, ids.first, quota));
        }
    }

    /// The state of the reserve in words, if it is reached or cannot be kept. `size` is that of the file system, in
    /// bytes.
    pub(crate) fn problem(&self, host: &Host, size: u64) -> Option<String> {
        if let Some(why) = &self.not_held {
            return Some(why.clone());
        }
        let (free, reserve) = (ByteSize(self.free), host.reserve.disk);
        if reserve.0 > most(size) {
            let (dir, all, most) = (host.state_dir.display(), ByteSize(size), ByteSize(most(size)));
            return Some(format!(
                "`reserve` in bailiwick.toml keeps {reserve} of disk space for the host, and the file system of \"{dir}\" has {all}. Nothing is kept, because at most half of it, {most}, can be: lower it"
            ));
        }
        self.is_reached().then(|| {
            format!(
                "no tenant can take more disk space: {free} are free, and `reserve` in bailiwick.toml keeps {reserve} for the host; free some, or lower it"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_over_only_with_room_to_spare() {
        const MIB: u64 = 1 << 20;
        for (was, free, reserve, golden) in [
            (None, 100 * MIB, 100 * MIB, false),
            (None, 100 * MIB - 1, 100 * MIB, true),
            (Some(false), 100 * MIB, 100 * MIB, false),
            (Some(true), 112 * MIB, 100 * MIB, true),
            (Some(true), 113 * MIB, 100 * MIB, false),
            (Some(true), 0, 0, false),
            (Some(true), u64::MAX - 1, u64::MAX, true),
        ] {
            assert_eq!(is_reached(was, free, reserve), golden, "{was:?} {free} {reserve}");
        }
    }

    #[test]
    fn quotas_are_written_when_the_reserve_is_reached_and_when_it_is_over() {
        const GIB: u64 = 1 << 30;
        let mut reserve = HostReserve::default();
        assert_eq!(reserve.decide(50 * GIB, GIB, 100 * GIB), Some(None), "an earlier warden may have clamped them");
        assert_eq!(reserve.decide(50 * GIB, GIB, 100 * GIB), None);
        assert_eq!(reserve.decide(GIB - 1, GIB, 100 * GIB), Some(Some(Reached::Yes)));
        assert_eq!(reserve.decide(GIB, GIB, 100 * GIB), None, "not with room to spare");
        assert_eq!(reserve.decide(2 * GIB, GIB, 100 * GIB), Some(Some(Reached::NoLonger)));
        // A reserve above half of the file system is refused, and so never reached.
        assert_eq!(reserve.decide(0, 51 * GIB, 100 * GIB), None);
        let host = bailiwick_policy::parse(&[("bailiwick.toml".into(), "reserve = { disk = \"51G\" }\n".to_owned())]);
        let host = host.policy.expect("valid").host;
        assert!(reserve.problem(&host, 100 * GIB).is_some_and(|why| why.contains("at most half")));
        assert_eq!(reserve.problem(&host, 102 * GIB), None);
    }
}
