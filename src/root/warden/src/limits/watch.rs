//! Events from the kernel: quota warnings, and pressure among tenants.
//!
//! Danger: a tenant can make the kernel warn as often as it likes. The same event is reported once a second.

use bailiwick_proto::warden::{QuotaHit, WardenEvent};
use bailiwick_sys::netlink::{QuotaWarnings, WarningKind};
use bailiwick_types::{LimitKey, Resource, TenantName};
use rustix::event::PollFlags;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Least time between two reports of the same event.
const SAME_TIME: Duration = Duration::from_secs(1);

/// How many microseconds of [`WINDOW`] some process must have waited before this is reported.
pub(crate) const TRIGGERS: [(Resource, &str, u32); 3] = [
    (Resource::Cpu, "cpu.pressure", 1_000_000),
    (Resource::Memory, "memory.pressure", 300_000),
    (Resource::Io, "io.pressure", 500_000),
];
/// Microseconds. Without `CAP_SYS_RESOURCE` the kernel takes multiples of two seconds only (Documentation/accounting/psi.rst).
pub(crate) const WINDOW: u32 = 2_000_000;

/// The descriptors that bring events.
#[derive(Debug)]
pub(crate) struct Watch {
    quota: Option<QuotaWarnings>,
    pressure: Vec<(Resource, OwnedFd)>,
    reported: BTreeMap<WardenEvent, Instant>,
}

impl Watch {
    /// Listens to quota warnings, if the kernel sends them.
    pub(crate) fn new() -> Self {
        Self { quota: QuotaWarnings::listen().ok(), pressure: Vec::new(), reported: BTreeMap::new() }
    }

    /// Listens to these pressure triggers, in place of earlier ones.
    pub(crate) fn listen_to(&mut self, pressure: Vec<(Resource, OwnedFd)>) {
        self.pressure = pressure;
    }

    /// The descriptors to wait for.
    pub(crate) fn fds(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let quota = self.quota.iter().map(|quota| (quota.as_fd(), PollFlags::IN));
        quota.chain(self.pressure.iter().map(|(_, fd)| (fd.as_fd(), PollFlags::PRI))).collect()
    }

    /// The events, from what `poll` reported of [`Self::fds`], in the same order. `owner` returns the tenant of a
    /// project.
    pub(crate) fn take(&mut self, flags: &[PollFlags], owner: impl Fn(u32) -> Option<TenantName>) -> Vec<WardenEvent> {
        let mut events = Vec::new();
        let (of_quota, of_pressure) = flags.split_at(usize::from(self.quota.is_some()));
        if let (Some(quota), Some(flags)) = (&self.quota, of_quota.first())
            && !flags.is_empty()
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
        for ((resource, _), flags) in self.pressure.iter().zip(of_pressure) {
            if flags.contains(PollFlags::PRI) {
                events.push(WardenEvent::Pressure { resource: *resource });
            }
        }
        // A removed group takes its triggers with it.
        let mut gone = of_pressure.iter().map(|flags| flags.contains(PollFlags::ERR));
        self.pressure.retain(|_| !gone.next().unwrap_or(false));
        let now = Instant::now();
        self.reported.retain(|_, reported| now.duration_since(*reported) < SAME_TIME);
        events.retain(|event| self.reported.insert(event.clone(), now).is_none());
        events
    }
}
