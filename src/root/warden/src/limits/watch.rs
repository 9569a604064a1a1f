//! What the kernel tells without being asked: warnings of quotas, and pressure among the tenants.
//!
//! Danger: a tenant can make the kernel warn as often as it likes. What is the same is told once a second.

use bailiwick_proto::warden::{QuotaHit, WardenEvent};
use bailiwick_sys::netlink::{QuotaWarnings, WarningKind};
use bailiwick_types::{LimitKey, Resource, TenantName};
use rustix::event::PollFlags;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How often the same may be told.
const SAME_TIME: Duration = Duration::from_secs(1);

/// For how many microseconds of [`WINDOW`] some process of some tenant must have waited to be told of.
pub(crate) const TRIGGERS: [(Resource, &str, u32); 3] = [
    (Resource::Cpu, "cpu.pressure", 1_000_000),
    (Resource::Memory, "memory.pressure", 300_000),
    (Resource::Io, "io.pressure", 500_000),
];
/// Microseconds. Without `CAP_SYS_RESOURCE` the kernel takes multiples of two seconds only (Documentation/accounting/psi.rst).
pub(crate) const WINDOW: u32 = 2_000_000;

/// Where it is told.
#[derive(Debug)]
pub(crate) struct Watch {
    quota: Option<QuotaWarnings>,
    pressure: Vec<(Resource, OwnedFd)>,
    told: BTreeMap<WardenEvent, Instant>,
}

impl Watch {
    /// Listens to warnings of quotas, where the kernel sends them.
    pub(crate) fn new() -> Self {
        Self { quota: QuotaWarnings::listen().ok(), pressure: Vec::new(), told: BTreeMap::new() }
    }

    /// Listens to pressure as well, in place of what it listened to before.
    pub(crate) fn listen_to(&mut self, pressure: Vec<(Resource, OwnedFd)>) {
        self.pressure = pressure;
    }

    /// What to wait for.
    pub(crate) fn fds(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let quota = self.quota.iter().map(|quota| (quota.as_fd(), PollFlags::IN));
        quota.chain(self.pressure.iter().map(|(_, fd)| (fd.as_fd(), PollFlags::PRI))).collect()
    }

    /// What has happened, by what was reported of [`Self::fds`] in their order. `owner` says whose a project is.
    pub(crate) fn take(&mut self, heard: &[PollFlags], owner: impl Fn(u32) -> Option<TenantName>) -> Vec<WardenEvent> {
        let mut events = Vec::new();
        let (of_quota, of_pressure) = heard.split_at(usize::from(self.quota.is_some()));
        if let (Some(quota), Some(heard)) = (&self.quota, of_quota.first())
            && !heard.is_empty()
        {
            for warning in quota.take().unwrap_or_default() {
                let Some(tenant) = owner(warning.project) else { continue };
                let (limit, hit) = match warning.kind {
                    WarningKind::Bytes => (LimitKey::Disk, QuotaHit::Refused),
                    WarningKind::BytesSoft => (LimitKey::Disk, QuotaHit::SoftPassed),
                    WarningKind::Inodes => (LimitKey::Inodes, QuotaHit::Refused),
                    WarningKind::InodesSoft => (LimitKey::Inodes, QuotaHit::SoftPassed),
                };
                events.push(WardenEvent::Quota { tenant, limit, hit });
            }
        }
        for ((resource, _), heard) in self.pressure.iter().zip(of_pressure) {
            if heard.contains(PollFlags::PRI) {
                events.push(WardenEvent::Pressure { resource: *resource });
            }
        }
        // A group that is removed takes its triggers with it.
        let mut gone = of_pressure.iter().map(|heard| heard.contains(PollFlags::ERR));
        self.pressure.retain(|_| !gone.next().unwrap_or(false));
        let now = Instant::now();
        self.told.retain(|_, told| now.duration_since(*told) < SAME_TIME);
        events.retain(|event| self.told.insert(event.clone(), now).is_none());
        events
    }
}
