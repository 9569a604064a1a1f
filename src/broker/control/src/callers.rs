//! Identifies the peer of a connection, and the share of places that it uses.

use crate::permission::{Admins, Caller, TenantPermission};
use crate::places::{Places, Who};
use crate::tenants::Tenants;
use bailiwick_proto::Failure;
use std::sync::Arc;

/// Identifies peers by their kernel credentials.
#[derive(Debug)]
pub(crate) struct Callers {
    tenants: Arc<Tenants>,
    admins: Admins,
    pub(crate) places: Arc<Places>,
}

impl Callers {
    pub(crate) fn new(tenants: Arc<Tenants>, places: Arc<Places>) -> Self {
        Self { tenants, admins: Admins::default(), places }
    }

    /// Identifies the caller. A tenant's own user is known by its id. The host's user database is asked only about
    /// other users. The roster is read first if no other service has read it yet.
    pub(crate) async fn caller(&self, uid: u32, groups: &[u32]) -> Result<Caller, Failure> {
        let (pool, admins) = {
            let host = &self.tenants.policy.loaded().policy.host;
            (host.ids, host.admins.clone())
        };
        if uid >= pool.host_users() {
            if self.tenants.warden.known().is_empty() {
                drop(self.tenants.warden.roster().await);
            }
            if let Some(tenant) = self.tenants.warden.known().owner(uid, pool) {
                return Ok(Caller::Tenant(TenantPermission { tenant: tenant.clone(), uid }));
            }
        }
        self.admins.permit(uid, groups, &admins).await.map(Caller::Operator)
    }

    /// The share of places for a peer that is not identified yet.
    pub(crate) fn places_of(&self, uid: u32, groups: &[u32]) -> Who {
        let pool = self.tenants.policy.loaded().policy.host.ids;
        Who::of(uid, pool, self.admins.were(uid, groups))
    }

    /// Has the user database queried for the operators, so that the first one need not compete with strangers for a
    /// place.
    pub(crate) async fn know_operators(&self) {
        let admins = self.tenants.policy.loaded().policy.host.admins.clone();
        drop(self.admins.permit(u32::MAX, &[], &admins).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::Services;
    use bailiwick_types::TenantName;

    #[tokio::test]
    async fn the_user_database_is_not_asked_about_tenants() {
        let dir = tempfile::tempdir().expect("makes");
        std::fs::write(dir.path().join("bailiwick.toml"), "admins = [\"daemon\"]\n").expect("writes");
        let services = Services::open(dir.path()).expect("is valid");
        let pool = services.host().ids;
        let alice: TenantName = "alice".parse().expect("a name");
        let ids = pool.range(0).expect("a range");
        services.tenants.warden.known().learn(&alice, &crate::directory::entry_of(ids));
        for uid in [ids.first, pool.host_user(ids).0] {
            let caller = services.callers.caller(uid, &[]).await;
            assert!(matches!(caller, Ok(Caller::Tenant(own)) if own.tenant == alice), "{uid}");
        }
        assert!(!services.callers.admins.were_asked().await);
        // The database is not asked about root either.
        assert!(matches!(services.callers.caller(0, &[]).await, Ok(Caller::Operator(_))));
        assert!(!services.callers.admins.were_asked().await);
        assert!(services.callers.caller(65_000, &[]).await.is_err());
        assert!(services.callers.admins.were_asked().await);
    }
}
