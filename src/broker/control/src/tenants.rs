//! Tenants: the policy's declaration of each, and the warden's last report.

use crate::policy_store::{PolicyStore, unknown, without_policy};
use crate::warden_client::{Roster, WardenClient};
use bailiwick_plan::lifecycle;
use bailiwick_policy::Tenant;
use bailiwick_proto::{Failure, JAILS, init_socket};
use bailiwick_types::{Access, FrozenBy, IdRange, TenantName};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// The tenants of the host.
#[derive(Debug)]
pub(crate) struct Tenants {
    pub(crate) policy: Arc<PolicyStore>,
    pub(crate) warden: Arc<WardenClient>,
}

impl Tenants {
    /// Whether the policy declares the tenant, or the warden has an entry of it.
    pub(crate) fn knows(&self, tenant: &TenantName) -> bool {
        self.policy.loaded().policy.tenants.contains_key(tenant) || self.warden.known().get(tenant).is_some()
    }

    /// Refuses a request that names an unknown tenant.
    pub(crate) fn check_known(&self, tenants: &[TenantName]) -> Result<(), Failure> {
        tenants.iter().find(|tenant| !self.knows(tenant)).map_or(Ok(()), |tenant| Err(unknown(tenant)))
    }

    /// The tenants whose jail ran and was not frozen at the warden's last report.
    pub(crate) fn awake(&self) -> Vec<TenantName> {
        self.warden.known().awake().map(|(name, _)| name.clone()).collect()
    }

    /// Whether a tenant was asleep at the warden's last report: it may sleep, and its jail was down.
    pub(crate) fn was_asleep(&self, tenant: &Tenant) -> bool {
        lifecycle::sleep(tenant).is_ok() && self.warden.known().is_down(&tenant.name)
    }

    /// Who had a tenant frozen at the warden's last report; `None` if it was not frozen. Its init cannot answer while it
    /// is.
    pub(crate) fn was_frozen(&self, name: &TenantName) -> Option<FrozenBy> {
        self.warden.known().frozen(name)
    }

    /// The same for now, by the warden's entry.
    pub(crate) async fn frozen(&self, tenant: &TenantName) -> Option<FrozenBy> {
        self.warden.entry(tenant).await.ok().flatten()?.frozen()
    }

    /// Whether a tenant was frozen because it was idle, at the warden's last report.
    pub(crate) fn was_idle(&self, name: &TenantName) -> bool {
        self.was_frozen(name) == Some(FrozenBy::Idle)
    }

    /// The tenants of a request, each with its declaration: the named ones, or all.
    pub(crate) fn meant(
        &self,
        names: &[TenantName],
        roster: &Roster,
    ) -> Result<Vec<(TenantName, Option<Tenant>)>, Failure> {
        let loaded = self.policy.loaded();
        let find = |name: &TenantName| (name.clone(), loaded.policy.tenants.get(name).cloned());
        if names.is_empty() {
            let there = roster.iter().filter(|(_, entry)| entry.pid.is_some() || entry.host_user);
            let there = there.map(|(name, _)| name);
            let all: BTreeSet<&TenantName> = loaded.policy.tenants.keys().chain(there).collect();
            return Ok(all.into_iter().filter(|name| !loaded.has_nothing_of(name)).map(find).collect());
        }
        for name in names {
            if loaded.has_nothing_of(name) {
                return Err(without_policy(name));
            }
            if !loaded.policy.tenants.contains_key(name) && !roster.contains_key(name) {
                return Err(unknown(name));
            }
        }
        // The warden accepts each name once.
        let mut known = BTreeSet::new();
        Ok(names.iter().filter(|name| known.insert(*name)).map(find).collect())
    }

    /// The socket of a jail's init, for the access that the jail has to its storage. A jail with other access has
    /// another socket, so a session that was let in for one kind of jail cannot reach the other kind.
    pub(crate) fn init_socket(&self, tenant: &TenantName, access: Access) -> PathBuf {
        self.policy.host().runtime_dir.join(JAILS).join(tenant).join(init_socket(access))
    }

    /// The socket and the ids of the init of the declared jail; `None` if no jail should run or the tenant has no ids.
    pub(crate) async fn init_of(&self, tenant: &Tenant) -> Option<(PathBuf, IdRange)> {
        let (name, access) = (&tenant.name, tenant.access()?);
        let known = self.warden.known().get(name).map(|known| known.ids);
        let ids = match known {
            Some(ids) => ids,
            None => self.warden.entry(name).await.ok().flatten()?.ids,
        };
        Some((self.init_socket(name, access), ids))
    }

    /// The same for a tenant's name; `None` also for a tenant that is not declared.
    pub(crate) async fn init_of_name(&self, name: &TenantName) -> Option<(PathBuf, IdRange)> {
        let tenant = self.policy.loaded().policy.tenants.get(name).cloned()?;
        self.init_of(&tenant).await
    }
}
