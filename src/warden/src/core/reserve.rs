//! The reserve of disk space that all tenants together leave to the host.

use super::*;

impl Warden {
    /// While less disk space is free than the host's reserve, no tenant can take more than it has. Looked at each second,
    /// so a host whose disks write more than the reserve in a second has chosen it too small.
    pub(super) fn mind_reserve(&mut self) -> Option<WardenEvent> {
        let reserve = self.host.reserve.disk.0;
        let free = self.storage.free().ok()?;
        // Given back only with some room to spare, or it would come and go.
        let spare = (reserve / 8).min(64 << 20);
        let reached = if self.held_back { free < reserve.saturating_add(spare) } else { free < reserve };
        if reached == self.held_back || !self.facts.storage.quota.bounds_anything() {
            return None;
        }
        self.held_back = reached;
        let tenants: Vec<(TenantName, IdRange)> =
            self.ledger.tenants().map(|(name, ids)| (name.clone(), ids)).collect();
        for (name, ids) in tenants {
            if reached {
                self.hold_back_again(&name, ids);
            } else if let Ok((_, Some(tenant))) = bailiwick_policy::read_tenant(&self.config, &name) {
                let plan = DiskPlan::new(&tenant.settings.limits, &self.facts);
                // One that fails stays held back, which the audit shows as drift.
                drop(self.storage.bound(&name, ids.first, &plan, &self.facts.storage.quota));
            }
        }
        Some(WardenEvent::Reserve { reached: if reached { Reached::Yes } else { Reached::NoLonger } })
    }

    pub(super) fn hold_back_again(&self, name: &TenantName, ids: IdRange) {
        if self.held_back {
            // A tenant that cannot be held back now is tried again when its limits are written.
            drop(self.storage.hold_back(name, ids.first, &self.facts.storage.quota));
        }
    }
}
