//! Permissions: who may make which request on the control socket.
//!
//! Danger: the user database may be a directory service that is slow or away, and any client's connection makes this
//! program query it. So the query runs on its own thread, once for all waiting clients, and not for users that their
//! ids identify.

use crate::sync::lock;
use bailiwick_policy::Principal;
use bailiwick_proto::{Failure, Refusal};
use bailiwick_types::{ExitStatus, TenantName};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use users::{get_group_by_name, get_user_by_name};

/// How long an answer of the user database is used.
const FRESH_TIME: Duration = Duration::from_secs(10);
/// How long a query of the user database may take.
const LOOKUP_TIME: Duration = Duration::from_secs(5);

/// Proof that the caller is root of the host.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(crate) struct RootPermission(());

/// Proof that the caller is root or one of the `admins`. They may ask for anything that the policy allows.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(crate) struct OperatorPermission {
    /// The caller's user, for the log.
    pub(crate) uid: u32,
}

/// Proof that the caller has one of a tenant's host ids, and may see and enter what belongs to that tenant.
#[derive(Debug, Clone)]
#[must_use]
pub(crate) struct TenantPermission {
    /// The tenant.
    pub(crate) tenant: TenantName,
    /// The caller's user.
    pub(crate) uid: u32,
}

/// The tenants whose records a caller may read.
#[derive(Debug, Clone)]
pub(crate) enum Scope {
    /// All tenants, for an operator.
    All,
    /// The caller's own tenant.
    Own(TenantPermission),
}

impl Scope {
    /// Returns the tenants of a request, or a refusal if the caller may not read one of them. An empty list means all
    /// that the caller may read.
    pub(crate) fn of(&self, tenants: Vec<TenantName>) -> Result<Vec<TenantName>, Failure> {
        match self {
            Self::All => Ok(tenants),
            Self::Own(own) if tenants.iter().all(|tenant| *tenant == own.tenant) => Ok(vec![own.tenant.clone()]),
            Self::Own(own) => Err(own.refusal()),
        }
    }
}

impl RootPermission {
    /// Returns a permission if the kernel's peer credentials say that the caller is user 0.
    pub(crate) fn of(uid: u32) -> Option<Self> {
        (uid == 0).then_some(Self(()))
    }
}

impl From<RootPermission> for OperatorPermission {
    fn from(_: RootPermission) -> Self {
        Self { uid: 0 }
    }
}

impl TenantPermission {
    /// The refusal of a request for another tenant's data, or for an operator's request.
    fn refusal(&self) -> Failure {
        Refusal::NotOwn { tenant: self.tenant.clone() }.into()
    }
}

/// The peer of a connection. Handlers of requests take a permission, and only this type gives one. So no handler can
/// run without it.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// An operator, who may ask for anything that the policy allows.
    Operator(OperatorPermission),
    /// A user with one of a tenant's host ids.
    Tenant(TenantPermission),
}

impl Caller {
    /// The permission for requests of operators.
    pub(crate) fn operator(&self) -> Result<OperatorPermission, Failure> {
        match self {
            Self::Operator(permission) => Ok(*permission),
            Self::Tenant(own) => Err(own.refusal()),
        }
    }

    /// The permission for requests of root, which only FTP servers make.
    pub(crate) fn root(&self) -> Result<RootPermission, Failure> {
        RootPermission::of(self.operator()?.uid).ok_or_else(|| Refusal::OnlyFtpServers.into())
    }

    /// The permission for requests of tenants' own users.
    pub(crate) fn tenant(&self) -> Result<&TenantPermission, Failure> {
        match self {
            Self::Operator(_) => Err(Refusal::OnlyHostUsers.into()),
            Self::Tenant(own) => Ok(own),
        }
    }

    /// The records that the caller may read.
    pub(crate) fn scope(&self) -> Scope {
        match self {
            Self::Operator(_) => Scope::All,
            Self::Tenant(own) => Scope::Own(own.clone()),
        }
    }

    /// The refusal of a request that is valid only within a session.
    pub(crate) fn session(&self) -> Failure {
        match self {
            Self::Operator(_) => Refusal::NoSession.into(),
            Self::Tenant(own) => own.refusal(),
        }
    }
}

/// The ids of the users and groups in `admins`.
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

/// The last answer of the user database about `admins`. Its `ids` are `None` if the answer did not come in time.
#[derive(Debug)]
struct Said {
    of: Vec<Principal>,
    at: Instant,
    ids: Option<Ids>,
}

/// The users who may do what root may.
#[derive(Debug, Default)]
pub(crate) struct Admins {
    said: Mutex<Option<Said>>,
    /// The ids of the last successful query, however old. Only places use them; no permission depends on them.
    last: std::sync::Mutex<Ids>,
}

impl Admins {
    /// Decides by the peer's user and groups as the kernel reports them. The user database may have changed since the
    /// peer started, and a service can have groups that no database knows.
    pub(crate) async fn permit(
        &self,
        uid: u32,
        groups: &[u32],
        admins: &[Principal],
    ) -> Result<OperatorPermission, Failure> {
        // Root needs no query.
        if let Some(root) = RootPermission::of(uid) {
            return Ok(root.into());
        }
        let Some(ids) = self.ids(admins).await else {
            let message = "the host's user database does not say who the `admins` in bailiwick.toml are; try again";
            return Err(Failure::of(ExitStatus::Failed, message));
        };
        if ids.users.contains(&uid) || groups.iter().any(|group| ids.groups.contains(group)) {
            return Ok(OperatorPermission { uid });
        }
        let message = format!("user {uid} is not among `admins` in bailiwick.toml");
        Err(Failure::of(ExitStatus::Refused, message))
    }

    /// Whether a user was an operator at the last successful query. Never waits.
    pub(crate) fn were(&self, uid: u32, groups: &[u32]) -> bool {
        let last = lock(&self.last);
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
            lock(&self.last).clone_from(ids);
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
        // On every Debian `daemon` is user 1 and `mail` is group 8.
        assert!(admins.permit(1, &[1], &listed).await.is_ok());
        assert!(admins.permit(4_000_000_000, &[7, 8], &listed).await.is_ok());
        for uid in [2, 8, 33, 65_534, 4_000_000_000] {
            let failure = admins.permit(uid, &[uid - 1, 0], &listed).await.expect_err("refused");
            assert_eq!(failure.status, ExitStatus::Refused);
        }
        // Another list causes another query, however soon it comes.
        assert!(admins.permit(1, &[1], &listed[1..]).await.is_err());
        assert!(admins.permit(0, &[], &[]).await.is_ok());
    }
}
