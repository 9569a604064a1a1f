//! Identifies the peer of a connection, and the share of places that it uses.

use crate::permission::{Caller, Listed, TenantPermission};
use crate::places::{Places, Who};
use crate::tenants::Tenants;
use bailiwick_policy::Principal;
use bailiwick_proto::Failure;
use std::sync::Arc;

/// Identifies peers by their kernel credentials.
#[derive(Debug)]
pub(crate) struct Callers {
    tenants: Arc<Tenants>,
    admins: Listed,
    observers: Listed,
    notifier: Listed,
    pub(crate) places: Arc<Places>,
}

impl Callers {
    pub(crate) fn new(tenants: Arc<Tenants>, places: Arc<Places>) -> Self {
        Self { tenants, admins: Listed::default(), observers: Listed::default(), notifier: Listed::default(), places }
    }

    /// Identifies the caller. A tenant's own user is known by its id. The host's user database is asked only about
    /// other users. The roster is read first if no other service has read it yet.
    pub(crate) async fn caller(&self, uid: u32, groups: &[u32]) -> Result<Caller, Failure> {
        let (pool, admins, observers, notifier) = {
            let host = &self.tenants.policy.loaded().policy.host;
            let notifier = [Principal::User(host.notices.user.clone())];
            (host.ids, host.admins.clone(), host.observers.clone(), notifier)
        };
        if uid >= pool.host_users() {
            if self.tenants.warden.known().is_empty() {
                drop(self.tenants.warden.roster().await);
            }
            if let Some(tenant) = self.tenants.warden.known().owner(uid, pool) {
                return Ok(Caller::Tenant(TenantPermission { tenant: tenant.clone(), uid }));
            }
        }
        match self.admins.permit(uid, groups, &admins).await {
            Ok(permission) => Ok(Caller::Operator(permission)),
            Err(_) if self.notifier.includes(uid, groups, &notifier).await => Ok(Caller::Notifier),
            Err(_) if self.observers.includes(uid, groups, &observers).await => Ok(Caller::Observer),
            Err(failure) => Err(failure),
        }
    }

    /// The share of places for a peer that is not identified yet.
    pub(crate) fn places_of(&self, uid: u32, groups: &[u32]) -> Who {
        let pool = self.tenants.policy.loaded().policy.host.ids;
        match Who::of(uid, pool, self.admins.were(uid, groups)) {
            Who::Stranger(uid) if self.observers.were(uid, groups) || self.notifier.were(uid, groups) => {
                Who::Observer(uid)
            }
            who => who,
        }
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
        std::fs::write(
            dir.path().join("bailiwick.toml"),
            "admins = [\"daemon\"]\nobservers = [\"mail\", \"4000000000\"]\nnotices = { user = \"news\" }\n",
        )
        .expect("writes");
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
        // `mail` is user 8 on every Debian. It has a place of its own once it is known.
        assert_eq!(services.callers.places_of(8, &[]), Who::Stranger(8));
        assert!(services.callers.caller(65_000, &[]).await.is_err());
        assert!(services.callers.admins.were_asked().await);
        assert!(matches!(services.callers.caller(8, &[]).await, Ok(Caller::Observer)));
        assert_eq!(services.callers.places_of(8, &[]), Who::Observer(8));
        // `news` is user 9.
        assert!(matches!(services.callers.caller(9, &[]).await, Ok(Caller::Notifier)));
        assert_eq!(services.callers.places_of(9, &[]), Who::Observer(9));
        // A number is in no database.
        assert!(matches!(services.callers.caller(4_000_000_000, &[]).await, Ok(Caller::Observer)));
    }
}
