//! Copies of the policy in force: the warden writes them, so that a daemon that starts with an invalid file can use
//! them.

use crate::policy_store::PolicyStore;
use crate::sync::{Wake, lock};
use crate::warden_client::WardenClient;
use bailiwick_policy::Policy;
use bailiwick_proto::warden::MOST_KEPT;
use bailiwick_proto::{Failure, WardenRequest};
use bailiwick_types::TenantName;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing::warn;

/// The pause between two checks of files that have errors.
const REPAIR_TIME: Duration = Duration::from_secs(1);

/// Keeps the copies current.
#[derive(Debug)]
pub(crate) struct PolicyCopies {
    policy: Arc<PolicyStore>,
    warden: Arc<WardenClient>,
    reconciler: Wake,
    /// Why the copies are not written.
    problem: Mutex<Option<Failure>>,
}

impl PolicyCopies {
    pub(crate) fn new(policy: Arc<PolicyStore>, warden: Arc<WardenClient>, reconciler: Wake) -> Self {
        Self { policy, warden, reconciler, problem: Mutex::default() }
    }

    /// Why the copies are not written; `None` when they are.
    pub(crate) fn problem(&self) -> Option<Failure> {
        lock(&self.problem).clone()
    }

    /// Has the warden write copies of the policy in force, without end. While files have errors, reads them again as
    /// soon as they change, so that an operator who corrects one need not ask for it.
    pub(crate) async fn run(self: Arc<Self>) {
        // Copies of tenants that are gone are removed too.
        let mut changed: BTreeSet<TenantName> = self.policy.copied();
        let mut written: Option<Policy> = None;
        let mut readings = None;
        loop {
            // Compare only after a new reading of the policy.
            let read = {
                let loaded = self.policy.loaded();
                (readings.replace(loaded.readings) != Some(loaded.readings)).then(|| loaded.policy.clone())
            };
            let is_first = written.is_none();
            if let Some(policy) = read {
                changed.extend(changes_since(written.as_ref(), &policy));
                written = Some(policy);
            }
            if !changed.is_empty() || is_first {
                match self.write_down(&changed).await {
                    Ok(()) => {
                        changed.clear();
                        *lock(&self.problem) = None;
                    }
                    // Each failure is retried, and logged once.
                    Err(failure) => {
                        if lock(&self.problem).replace(failure.clone()).as_ref() != Some(&failure) {
                            warn!(event = "policy-not-kept", "{failure}");
                        }
                    }
                }
            }
            let is_broken = !self.policy.loaded().problems.is_empty();
            if !is_broken && changed.is_empty() {
                self.policy.was_read().await;
                continue;
            }
            let is_quiet = tokio::time::timeout(REPAIR_TIME, self.policy.was_read()).await.is_err();
            if is_quiet && is_broken && self.policy.files_changed().await {
                self.policy.reload().ok();
                self.reconciler.wake();
            }
        }
    }

    async fn write_down(&self, names: &BTreeSet<TenantName>) -> Result<(), Failure> {
        let names: Vec<TenantName> = names.iter().cloned().collect();
        if names.is_empty() {
            self.warden.ask(&WardenRequest::Keep { tenants: Vec::new() }).await?;
        }
        for portion in names.chunks(MOST_KEPT) {
            self.warden.ask(&WardenRequest::Keep { tenants: portion.to_vec() }).await?;
        }
        Ok(())
    }
}

/// The tenants whose copies must be written again.
fn changes_since(before: Option<&Policy>, now: &Policy) -> BTreeSet<TenantName> {
    let Some(before) = before else { return now.tenants.keys().cloned().collect() };
    let names = before.tenants.keys().chain(now.tenants.keys());
    let same = |name: &TenantName| {
        let (was, is) = (before.tenants.get(name), now.tenants.get(name));
        was == is && is.is_some_and(|tenant| before.plans.get(&tenant.plan) == now.plans.get(&tenant.plan))
    };
    names.filter(|name| before.host != now.host || !same(name)).cloned().collect()
}
