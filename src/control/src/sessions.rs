//! Who is in: how many sessions each tenant has, may have, had at most, and was refused.
//!
//! Danger: this is the only place where the limit `sessions` holds. The kernel has no word on it, so what is not counted
//! here is not limited.

use bailiwick_policy::Tenant;
use bailiwick_proto::Failure;
use bailiwick_types::{Bound, ExitStatus, SessionCount, TenantName};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tracing::info;

#[derive(Debug, Default)]
struct Tally {
    count: SessionCount,
    /// Refusals that the history does not have yet.
    fresh: u64,
}

/// The sessions whose client is still connected.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    tallies: Mutex<BTreeMap<TenantName, Tally>>,
}

/// A session that is counted for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Counted {
    sessions: Arc<Sessions>,
    tenant: TenantName,
}

impl Sessions {
    fn tallies(&self) -> MutexGuard<'_, BTreeMap<TenantName, Tally>> {
        self.tallies.lock().expect("nobody panics while holding it")
    }

    /// Counts one more, or refuses it.
    pub(crate) fn enter(self: &Arc<Self>, tenant: &Tenant) -> Result<Counted, Failure> {
        let mut tallies = self.tallies();
        let Tally { count, fresh } = tallies.entry(tenant.name.clone()).or_default();
        if let Bound::At(limit) = tenant.settings.limits.sessions
            && count.now >= limit
        {
            count.refused += 1;
            *fresh += 1;
            let message = format!("\"{}\" has {} sessions and may have {limit} (`sessions`)", tenant.name, count.now);
            return Err(Failure::of(ExitStatus::OverLimit, message));
        }
        count.now += 1;
        count.most = count.most.max(count.now);
        Ok(Counted { sessions: Arc::clone(self), tenant: tenant.name.clone() })
    }

    /// Of one tenant.
    pub(crate) fn of(&self, tenant: &TenantName) -> SessionCount {
        self.tallies().get(tenant).map(|tally| tally.count).unwrap_or_default()
    }

    /// Sessions now, by tenant.
    pub(crate) fn now(&self) -> BTreeMap<TenantName, u64> {
        self.tallies().iter().map(|(tenant, tally)| (tenant.clone(), tally.count.now)).collect()
    }

    /// Sessions now, of everybody.
    pub(crate) fn total(&self) -> u64 {
        self.tallies().values().map(|tally| tally.count.now).sum()
    }

    /// How many were refused since this was asked last.
    pub(crate) fn take_refused(&self) -> BTreeMap<TenantName, u64> {
        let mut tallies = self.tallies();
        let fresh = tallies.iter_mut().filter(|(_, tally)| tally.fresh > 0);
        fresh.map(|(tenant, tally)| (tenant.clone(), std::mem::take(&mut tally.fresh))).collect()
    }

    /// Of a tenant whose data is gone.
    pub(crate) fn forget(&self, tenant: &TenantName) {
        let mut tallies = self.tallies();
        if tallies.get(tenant).is_some_and(|tally| tally.count.now == 0) {
            tallies.remove(tenant);
        }
    }
}

impl Counted {
    /// Counts no longer without the session having ended: the daemon ends.
    pub(crate) fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(tally) = self.sessions.tallies().get_mut(&self.tenant) {
            tally.count.now -= 1;
        }
        info!(target: "bailiwick::event", tenant = %self.tenant, event = "session-closed", "a session in {} has ended", self.tenant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn tenant(sessions: &str) -> Tenant {
        let files = [
            (PathBuf::from("bailiwick.toml"), String::new()),
            (PathBuf::from("plans.d/small.toml"), format!("[limits]\nsessions = {sessions}\n")),
            (PathBuf::from("tenants.d/alice.toml"), "plan = \"small\"\n".to_owned()),
        ];
        let reading = bailiwick_policy::parse(&files);
        assert_eq!(reading.diagnostics, []);
        reading.policy.expect("good").tenants.into_values().next().expect("one")
    }

    #[test]
    fn one_more_than_the_limit_is_refused_until_one_leaves() {
        let sessions = Arc::new(Sessions::default());
        let tenant = tenant("2");
        let first = sessions.enter(&tenant).expect("enters");
        let second = sessions.enter(&tenant).expect("enters");
        for _ in 0..3 {
            assert_eq!(sessions.enter(&tenant).expect_err("full").status, ExitStatus::OverLimit);
        }
        assert_eq!(sessions.of(&tenant.name), SessionCount { now: 2, most: 2, refused: 3 });
        assert_eq!(sessions.take_refused(), BTreeMap::from([(tenant.name.clone(), 3)]));
        assert_eq!(sessions.take_refused(), BTreeMap::new());
        drop(first);
        let third = sessions.enter(&tenant).expect("enters");
        assert_eq!(sessions.total(), 2);
        sessions.forget(&tenant.name);
        assert_eq!(sessions.now(), BTreeMap::from([(tenant.name.clone(), 2)]), "nobody forgets who is in");
        drop((second, third));
        assert_eq!(sessions.of(&tenant.name), SessionCount { now: 0, most: 2, refused: 3 });
        sessions.forget(&tenant.name);
        assert_eq!(sessions.of(&tenant.name), SessionCount::default());
    }

    #[test]
    fn without_a_limit_nobody_is_refused() {
        let sessions = Arc::new(Sessions::default());
        let tenant = tenant("\"unlimited\"");
        let all: Vec<Counted> = (0..1000).map(|_| sessions.enter(&tenant).expect("enters")).collect();
        assert_eq!(sessions.of(&tenant.name).now, 1000);
        drop(all);
    }
}
