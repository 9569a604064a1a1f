//! As whom lent sockets are served: whether the host user of a tenant is still the tenant's alone.
//!
//! Danger: whoever is behind a lent socket trusts the name of that user. The host may have given its name or its id to somebody
//! else since it was made.

use crate::identity::host_user::{HostUserError, HostUsers, State};
use crate::identity::ledger::Ledger;
use bailiwick_policy::Host;
use bailiwick_types::{HostUid, TenantName};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often to look whether the host has other users.
const LOOK: Duration = Duration::from_secs(1);
/// Everything is read again after this time, also when nothing seems to have changed.
const LATEST: Duration = Duration::from_secs(30);

/// What an answer depends on.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) host: &'a Host,
    pub(crate) ledger: &'a Ledger,
    pub(crate) host_users: &'a HostUsers,
}

/// Why nothing may be served as a tenant's host user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotOurs {
    pub(crate) why: String,
    /// It is somebody else's, and is not just missing.
    pub(crate) is_taken: bool,
}

/// The answers, as they were at the last look.
#[derive(Debug, Default)]
pub(crate) struct Users {
    looked: Option<Instant>,
    read: Option<Instant>,
    state: Option<State>,
    /// The users in the host's `/etc/passwd`.
    taken: Option<Vec<(String, u32)>>,
    of: BTreeMap<TenantName, Result<(HostUid, u32), NotOurs>>,
}

impl Users {
    /// Forgets the answers once they may have changed.
    pub(crate) fn look(&mut self, host_users: &HostUsers, now: Instant) {
        let is_within = |since: Option<Instant>, time| since.is_some_and(|since| now.duration_since(since) < time);
        if is_within(self.looked, LOOK) {
            return;
        }
        self.looked = Some(now);
        let state = host_users.state();
        if self.state.as_ref() == Some(&state) && is_within(self.read, LATEST) {
            return;
        }
        // If it cannot be read now, what was read before counts, and the next look tries again.
        if let Ok(readings) = bailiwick_observe::user_readings() {
            (self.taken, self.state, self.read) = (Some(readings.users), Some(state), Some(now));
            self.of.clear();
        }
    }

    /// The host user of a tenant, and its group.
    pub(crate) fn of(&mut self, known: Known<'_>, tenant: &TenantName) -> Result<(HostUid, u32), NotOurs> {
        if let Some(answer) = self.of.get(tenant) {
            return answer.clone();
        }
        let answer = match &self.taken {
            Some(taken) => ask(known, tenant, taken),
            None => Err(NotOurs { why: "cannot read the users of the host".to_owned(), is_taken: false }),
        };
        self.of.insert(tenant.clone(), answer.clone());
        answer
    }

    /// Whether nothing is known against the host user of a tenant.
    pub(crate) fn may_serve(&self, tenant: &TenantName) -> bool {
        self.of.get(tenant).is_none_or(Result::is_ok)
    }

    /// The host user of a tenant has changed, or the tenant needs none.
    pub(crate) fn forget(&mut self, tenant: &TenantName) {
        self.of.remove(tenant);
    }
}

fn ask(known: Known<'_>, tenant: &TenantName, taken: &[(String, u32)]) -> Result<(HostUid, u32), NotOurs> {
    let ids = known.ledger.ids(tenant);
    let ids = ids.ok_or_else(|| NotOurs { why: "it has no ids".to_owned(), is_taken: false })?;
    let uid = known.host.ids.host_user(ids);
    let gid = known.host_users.require(tenant, uid, taken).map_err(|error| NotOurs {
        why: error.to_string(),
        is_taken: matches!(error, HostUserError::Taken { .. } | HostUserError::Foreign(_)),
    })?;
    Ok((uid, gid))
}
