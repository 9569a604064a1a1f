//! Permissions: who may make which request on the control socket.
//!
//! Danger: the user database may be a directory service that is slow or away, and any client's connection makes this
//! program query it. So the query runs on its own thread, once for all waiting clients, and not for users that their
//! ids identify.

use crate::sync::lock;
use bailiwick_policy::Principal;
use bailiwick_proto::{Failure, Refusal};
use bailiwick_types::{ExitStatus, MetricsDetail, TenantName};
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

/// Proof that the caller may ask for the metrics: it is an operator, or one of the `observers`.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(crate) struct ObserverPermission(Observer);

#[derive(Debug, Clone, Copy)]
enum Observer {
    /// An operator, or the notifier: it chooses how much it is told.
    Operator,
    /// It is told what the policy says.
    Listed,
}

impl ObserverPermission {
    /// How much the caller is told of tenants, if it asks for `wanted` and the policy says `declared`.
    pub(crate) fn detail(self, wanted: Option<MetricsDetail>, declared: MetricsDetail) -> MetricsDetail {
        match (wanted, self.0) {
            (Some(wanted), Observer::Operator) => wanted,
            (Some(wanted), Observer::Listed) => wanted.min(declared),
            (None, _) => declared,
        }
    }
}

/// Proof that the caller may know whom notices go to: it is an operator, or the user of `bailiwick-notify`.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(crate) struct NoticesPermission(());

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
    /// All tenants, for an operator, and for the notifier.
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
    /// One of the `observers`, who may ask for the metrics and for nothing else.
    Observer,
    /// The user of `bailiwick-notify`, which may ask for all events, the metrics and whom notices go to.
    Notifier,
    /// A user with one of a tenant's host ids.
    Tenant(TenantPermission),
}

impl Caller {
    /// The permission for requests of operators.
    pub(crate) fn operator(&self) -> Result<OperatorPermission, Failure> {
        match self {
            Self::Operator(permission) => Ok(*permission),
            Self::Observer => Err(Refusal::OnlyMetrics.into()),
            Self::Notifier => Err(Refusal::OnlyNotices.into()),
            Self::Tenant(own) => Err(own.refusal()),
        }
    }

    /// The permission to ask for the metrics.
    pub(crate) fn observer(&self) -> Result<ObserverPermission, Failure> {
        match self {
            // Notices are about limits, which only the most detailed metrics tell.
            Self::Operator(_) | Self::Notifier => Ok(ObserverPermission(Observer::Operator)),
            Self::Observer => Ok(ObserverPermission(Observer::Listed)),
            Self::Tenant(own) => Err(own.refusal()),
        }
    }

    /// The permission to know whom notices go to.
    pub(crate) fn notices(&self) -> Result<NoticesPermission, Failure> {
        match self {
            Self::Operator(_) | Self::Notifier => Ok(NoticesPermission(())),
            Self::Observer => Err(Refusal::OnlyMetrics.into()),
            Self::Tenant(own) => Err(own.refusal()),
        }
    }

    /// The events that the caller may read.
    pub(crate) fn events(&self) -> Result<Scope, Failure> {
        if matches!(self, Self::Notifier) { Ok(Scope::All) } else { self.scope() }
    }

    /// The permission for requests of root, which only FTP servers make.
    pub(crate) fn root(&self) -> Result<RootPermission, Failure> {
        RootPermission::of(self.operator()?.uid).ok_or_else(|| Refusal::OnlyFtpServers.into())
    }

    /// The permission for requests of tenants' own users.
    pub(crate) fn tenant(&self) -> Result<&TenantPermission, Failure> {
        match self {
            Self::Operator(_) => Err(Refusal::OnlyHostUsers.into()),
            Self::Observer => Err(Refusal::OnlyMetrics.into()),
            Self::Notifier => Err(Refusal::OnlyNotices.into()),
            Self::Tenant(own) => Ok(own),
        }
    }

    /// The records that the caller may read.
    pub(crate) fn scope(&self) -> Result<Scope, Failure> {
        match self {
            Self::Operator(_) => Ok(Scope::All),
            Self::Observer => Err(Refusal::OnlyMetrics.into()),
            Self::Notifier => Err(Refusal::OnlyNotices.into()),
            Self::Tenant(own) => Ok(Scope::Own(own.clone())),
        }
    }

    /// The refusal of a request that is valid only within a session.
    pub(crate) fn session(&self) -> Failure {
        match self {
            Self::Operator(_) => Refusal::NoSession.into(),
            Self::Observer => Refusal::OnlyMetrics.into(),
            Self::Notifier => Refusal::OnlyNotices.into(),
            Self::Tenant(own) => own.refusal(),
        }
    }
}

/// The ids of the users and groups in a list of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Ids {
    users: BTreeSet<u32>,
    groups: BTreeSet<u32>,
}

impl Ids {
    fn look_up(list: &[Principal]) -> Self {
        let mut ids = Self::default();
        for principal in list {
            match principal {
                Principal::User(name) => ids.users.extend(get_user_by_name(name).map(|user| user.uid())),
                Principal::Group(name) => ids.groups.extend(get_group_by_name(name).map(|group| group.gid())),
            }
        }
        ids
    }

    fn include(&self, uid: u32, groups: &[u32]) -> bool {
        self.users.contains(&uid) || groups.iter().any(|group| self.groups.contains(group))
    }
}

/// The last answer of the user database about a list of the policy. Its `ids` are `None` if the answer did not come in time.
#[derive(Debug)]
struct Said {
    of: Vec<Principal>,
    at: Instant,
    ids: Option<Ids>,
}

/// The users of one list of the policy, as the host's user database last said who they are.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    said: Mutex<Option<Said>>,
    /// The ids of the last successful query, however old. Only places use them; no permission depends on them.
    last: std::sync::Mutex<Ids>,
}

impl Listed {
    /// Permits the users of `admins` to do what root may. Decides by the peer's user and groups as the kernel reports them. The user database may have changed since the
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
        if ids.include(uid, groups) {
            return Ok(OperatorPermission { uid });
        }
        let message = format!(
            "user {uid} is not among `admins` in bailiwick.toml; who only reads the metrics belongs into `observers`"
        );
        Err(Failure::of(ExitStatus::Refused, message))
    }

    /// Whether a list has a user, by its name or its number, or one of its groups. Nobody is in it while the user database
    /// gives no answer.
    pub(crate) async fn includes(&self, uid: u32, groups: &[u32], list: &[Principal]) -> bool {
        let is_number = |principal: &Principal| matches!(principal, Principal::User(name) if name.parse() == Ok(uid));
        list.iter().any(is_number) || self.ids(list).await.is_some_and(|ids| ids.include(uid, groups))
    }

    /// Whether a user was in the list at the last successful query. Never waits.
    pub(crate) fn were(&self, uid: u32, groups: &[u32]) -> bool {
        lock(&self.last).include(uid, groups)
    }

    #[cfg(test)]
    pub(crate) async fn were_asked(&self) -> bool {
        self.said.lock().await.is_some()
    }

    async fn ids(&self, list: &[Principal]) -> Option<Ids> {
        let mut held = self.said.lock().await;
        if let Some(said) = held.as_ref().filter(|said| said.of == list && said.at.elapsed() < FRESH_TIME) {
            return said.ids.clone();
        }
        let of = list.to_vec();
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
        let admins = Listed::default();
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

    #[tokio::test]
    async fn a_list_has_names_numbers_and_groups() {
        let listed = Listed::default();
        let list = ["daemon", "4000000000"].map(|name| Principal::User(name.to_owned()));
        let list = [&list[..], &[Principal::Group("mail".to_owned())]].concat();
        for (uid, groups, is_in) in
            [(1, &[][..], true), (4_000_000_000, &[], true), (7, &[8], true), (7, &[1], false), (0, &[0], false)]
        {
            assert_eq!(listed.includes(uid, groups, &list).await, is_in, "{uid} {groups:?}");
        }
        assert!(!listed.includes(7, &[], &[]).await);
    }

    #[test]
    fn an_observer_is_told_no_more_than_the_policy_says() {
        use MetricsDetail::{All, Core, None as Nothing};
        let (operator, listed) = (ObserverPermission(Observer::Operator), ObserverPermission(Observer::Listed));
        assert_eq!((operator.detail(Some(All), Core), listed.detail(Some(All), Core)), (All, Core));
        assert_eq!((operator.detail(Some(Nothing), Core), listed.detail(Some(Nothing), Core)), (Nothing, Nothing));
        assert_eq!((operator.detail(None, All), listed.detail(None, All)), (All, All));
    }
}
