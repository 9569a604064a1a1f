//! Tenants: what the policy declares of them beside what the warden last told.

use crate::policy_store::{PolicyStore, unknown, without_policy};
use crate::warden_client::{Roster, WardenClient};
use bailiwick_policy::Tenant;
use bailiwick_proto::{Failure, JAILS, init_socket};
use bailiwick_types::{Access, IdRange, TenantName};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// The tenants of a host.
#[derive(Debug)]
pub(crate) struct Tenants {
    pub(crate) policy: Arc<PolicyStore>,
    pub(crate) warden: Arc<WardenClient>,
}

impl Tenants {
    /// Whether there is, or was, such a tenant.
    pub(crate) fn knows(&self, tenant: &TenantName) -> bool {
        self.policy.loaded().policy.tenants.contains_key(tenant) || self.warden.known().get(tenant).is_some()
    }

    /// Refuses a request that names a tenant of whom neither the policy nor the warden knows.
    pub(crate) fn check_known(&self, tenants: &[TenantName]) -> Result<(), Failure> {
        tenants.iter().find(|tenant| !self.knows(tenant)).map_or(Ok(()), |tenant| Err(unknown(tenant)))
    }

    /// Those who have ids, so whose jails may run, and whom nobody has frozen, as far as is known.
    pub(crate) fn awake(&self) -> Vec<TenantName> {
        self.warden.known().awake()
    }

    /// Whether a tenant was frozen when the warden last told of it: then nothing is to be heard of its init.
    pub(crate) fn was_frozen(&self, name: &TenantName) -> bool {
        self.warden.known().is_frozen(name)
    }

    /// Whether an operator has frozen it, as the warden tells now.
    pub(crate) async fn is_frozen(&self, tenant: &TenantName) -> bool {
        matches!(self.warden.entry(tenant).await, Ok(Some(entry)) if entry.frozen)
    }

    /// The tenants that a request means, each with its declaration: those it names, or all that are declared.
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
        // The warden takes each name once.
        let mut known = BTreeSet::new();
        Ok(names.iter().filter(|name| known.insert(*name)).map(find).collect())
    }

    /// Where init of a tenant's jail listens, if that jail holds storage so. Whoever was let in as one kind of tenant so reaches
    /// no jail of the other, whatever has become of the tenant since.
    pub(crate) fn init_socket(&self, tenant: &TenantName, access: Access) -> PathBuf {
        self.policy.host().runtime_dir.join(JAILS).join(tenant).join(init_socket(access))
    }

    /// Where init of the jail that is to run listens, and who it is; `None` when none is to, or the tenant has no ids.
    pub(crate) async fn init_of(&self, tenant: &Tenant) -> Option<(PathBuf, IdRange)> {
        let (name, access) = (&tenant.name, tenant.access()?);
        let known = self.warden.known().get(name).map(|known| known.ids);
        let ids = match known {
            Some(ids) => ids,
            None => self.warden.entry(name).await.ok().flatten()?.ids,
        };
        Some((self.init_socket(name, access), ids))
    }

    /// Where the init of a tenant listens that is declared, and who it is.
    pub(crate) async fn init_of_name(&self, name: &TenantName) -> Option<(PathBuf, IdRange)> {
        let tenant = self.policy.loaded().policy.tenants.get(name).cloned()?;
        self.init_of(&tenant).await
    }
}
