//! Who may use the control socket.
//!
//! Danger: the user database may be a directory service that is slow, or away, and whoever can connect makes it be asked. It is asked on
//! a thread of its own, once for all who come, and not for those whom the ids themselves tell.

use bailiwick_policy::Principal;
use bailiwick_proto::Failure;
use bailiwick_types::{ExitStatus, TenantName};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use users::{get_group_by_name, get_user_by_name};

/// For how long what the user database said is believed.
const FRESH_TIME: Duration = Duration::from_secs(10);
/// How long it may take.
const LOOKUP_TIME: Duration = Duration::from_secs(5);

/// A decision that somebody may ask for anything that the policy allows. Handlers of requests take it, so none can be
/// reached without it.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(crate) struct Permission {
    /// For the log.
    pub(crate) uid: u32,
}

impl Permission {
    /// Root needs no database.
    pub(crate) fn of_root(uid: u32) -> Option<Self> {
        (uid == 0).then_some(Self { uid })
    }

    /// For a tenant's own host user. Whoever calls this passes the tenant's own name on with it, and no other.
    pub(crate) fn over_own(uid: u32) -> Self {
        Self { uid }
    }
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// May ask for anything that the policy allows.
    Operator(Permission),
    /// Has one of a tenant's host ids: may see what is the tenant's.
    Tenant(TenantName, Permission),
}

/// The users and groups that `admins` means.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Ids {
    users: BTreeSet<u32>,
    groups: BTreeSet<u32>,
}

impl Ids {
    fn look_up(admins: &[Principal]) -> Self {
        let mut ids = Self::default();
        for principal in admins {
            match principal {
                Principal::User(name) => ids.users.extend(get_user_by_name(name).map(|user| user.uid())),
                Principal::Group(name) => ids.groups.extend(get_group_by_name(name).map(|group| group.gid())),
            }
        }
        ids
    }
}

/// What the user database last said of them; `None` when it said nothing in time.
#[derive(Debug)]
struct Said {
    of: Vec<Principal>,
    at: Instant,
    ids: Option<Ids>,
}

/// Those who may do what root may.
#[derive(Debug, Default)]
pub(crate) struct Admins {
    said: Mutex<Option<Said>>,
    /// Whom it last named, however long ago: for places, and for nothing that anybody may do.
    last: std::sync::Mutex<Ids>,
}

impl Admins {
    /// Decides by the user at the other end and its groups, as the kernel names them: what the user database says of
    /// the user may have changed since, and a service has groups that no database knows.
    pub(crate) async fn permit(&self, uid: u32, groups: &[u32], admins: &[Principal]) -> Result<Permission, Failure> {
        if let Some(permission) = Permission::of_root(uid) {
            return Ok(permission);
        }
        let Some(ids) = self.ids(admins).await else {
            let message = "the host's user database does not say who the `admins` in bailiwick.toml are; try again";
            return Err(Failure::of(ExitStatus::Failed, message));
        };
        if ids.users.contains(&uid) || groups.iter().any(|group| ids.groups.contains(group)) {
            return Ok(Permission { uid });
        }
        let message = format!("user {uid} is not among `admins` in bailiwick.toml");
        Err(Failure::of(ExitStatus::Refused, message))
    }

    /// Whether somebody was one of them when that was last asked. Waits for nobody.
    pub(crate) fn were(&self, uid: u32, groups: &[u32]) -> bool {
        let last = self.last.lock().expect("nobody panics while holding it");
        last.users.contains(&uid) || groups.iter().any(|group| last.groups.contains(group))
    }

    #[cfg(test)]
    pub(crate) async fn were_asked(&self) -> bool {
        self.said.lock().await.is_some()
    }

    async fn ids(&self, admins: &[Principal]) -> Option<Ids> {
        let mut held = self.said.lock().await;
        if let Some(said) = held.as_ref().filter(|said| said.of == admins && said.at.elapsed() < FRESH_TIME) {
            return said.ids.clone();
        }
        let of = admins.to_vec();
        let asked = of.clone();
        let looked_up = timeout(LOOKUP_TIME, tokio::task::spawn_blocking(move || Ids::look_up(&asked))).await;
        let ids = looked_up.ok().and_then(Result::ok);
        if let Some(ids) = &ids {
            self.last.lock().expect("nobody panics while holding it").clone_from(ids);
        }
        *held = Some(Said { of, at: Instant::now(), ids: ids.clone() });
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn root_and_the_listed_may_and_nobody_else() {
        let admins = Admins::default();
        let listed = [Principal::User("daemon".into()), Principal::Group("mail".into())];
        assert!(admins.permit(0, &[], &listed).await.is_ok());
        // `daemon` is user 1, `mail` is group 8 on every Debian.
        assert!(admins.permit(1, &[1], &listed).await.is_ok());
        assert!(admins.permit(4_000_000_000, &[7, 8], &listed).await.is_ok());
        for uid in [2, 8, 33, 65_534, 4_000_000_000] {
            let failure = admins.permit(uid, &[uid - 1, 0], &listed).await.expect_err("refused");
            assert_eq!(failure.status, ExitStatus::Refused);
        }
        // Another list is another question, however soon it is asked.
        assert!(admins.permit(1, &[1], &listed[1..]).await.is_err());
        assert!(admins.permit(0, &[], &[]).await.is_ok());
    }
}
