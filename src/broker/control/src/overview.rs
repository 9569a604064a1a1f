//! The operator's view: the status of the service, the list of tenants, one tenant, and what `apply` would change.

use crate::audits::add_sessions;
use crate::comparison::{actual_now, cannot_start, declared};
use crate::init_client;
use crate::inits::Inits;
use crate::net_client::{NetClient, NetError};
use crate::permission::OperatorPermission;
use crate::policy_copies::PolicyCopies;
use crate::policy_store::{Loaded, unknown};
use crate::reconcile;
use crate::recorder::Recorder;
use crate::refusals::Refusals;
use crate::service_keeper::ServiceKeeper;
use crate::sessions::Sessions;
use crate::start_failures::StartFailures;
use crate::tenants::Tenants;
use crate::warden_client::{Roster, unexpected};
use bailiwick_observe::PoolBacking;
use bailiwick_plan::difference;
use bailiwick_plan::lifecycle::{Actual, JailState, JailStep, desired, next, tenant_state};
use bailiwick_policy::{Declared, Settings, Tenant};
use bailiwick_proto::control::{HostStatus, MemoryUse, TenantDetail, TenantState, TenantSummary};
use bailiwick_proto::warden::{MOST_COMPARED, RosterEntry};
use bailiwick_proto::{Failure, WardenReply, WardenRequest, time_limits};
use bailiwick_types::{Action, Change, Door, ExitStatus, HostFacts, HostSocketName, LentSocket, LimitKey, TenantName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time limit for each request of `status` to the warden: longer than a restart of the warden, and short enough for
/// a person to wait.
pub(crate) const STATUS_TIME: Duration = Duration::from_secs(8);

/// Answers `status`, `list`, `show` and `plan`.
#[derive(Debug)]
pub(crate) struct Overview {
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) inits: Arc<Inits>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) failures: Arc<StartFailures>,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) copies: Arc<PolicyCopies>,
    pub(crate) service_keeper: Arc<ServiceKeeper>,
    pub(crate) net: Arc<NetClient>,
    /// When this program started.
    pub(crate) started: Instant,
}

impl Overview {
    /// The status of the service.
    pub(crate) async fn status(&self, _permission: OperatorPermission) -> HostStatus {
        let mut problems = self.tenants.policy.loaded().problems.clone();
        let no_history = self.recorder.problem();
        problems.extend(no_history.map(|why| format!("what tenants use is not recorded: {why}")));
        problems.extend(self.service_keeper.problems());
        let (mut warden, mut tenants, mut kept, mut no_web) = (None, BTreeMap::new(), None, None);
        match in_time(self.tenants.warden.ask(&WardenRequest::Hello)).await {
            Ok(WardenReply::Hello { version }) => warden = Some(version),
            Ok(_) => problems.push(unexpected().message),
            Err(failure) => problems.push(failure.message),
        }
        // A warden that did not answer is not asked again.
        if warden.is_some() {
            match in_time(self.tenants.warden.roster()).await {
                Ok(roster) => {
                    for summary in self.summaries(&roster) {
                        *tenants.entry(summary.state_word().to_owned()).or_default() += 1;
                        let down = |why| format!("the jail of \"{}\" is down: {why}", summary.name);
                        problems.extend(summary.failure.map(down));
                    }
                    if let Ok(facts) = in_time(self.tenants.warden.fresh_facts()).await {
                        problems.extend(self.lost_by_restart(&roster, &facts));
                        let pool = bailiwick_observe::pool_backing(&facts.storage);
                        problems.extend(pool.iter().flat_map(PoolBacking::problems));
                    }
                }
                Err(failure) => problems.push(failure.message),
            }
            // An older warden does not know this request.
            if let Ok(WardenReply::Problems { reserve, tenants, web }) =
                in_time(self.tenants.warden.ask(&WardenRequest::Problems)).await
            {
                problems.extend(reserve.iter().cloned().chain(tenants));
                (kept, no_web) = (reserve, web);
            }
        }
        problems.extend(self.network_problems().await);
        let months = tokio::time::timeout(STATUS_TIME, self.net.with(|link| Ok(link.months()))).await;
        let months = months.ok().and_then(Result::ok).unwrap_or_default();
        let policy = Box::new(self.tenants.policy.status(self.refusals.total()));
        // Without a warden no copy can be written, and that problem is already in the list.
        let no_copy = self.copies.problem().filter(|_| warden.is_some());
        problems.extend(
            no_copy.map(|why| format!("what these files say now would not be known beside a later error: {why}")),
        );
        HostStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            warden,
            uptime: self.started.elapsed().as_secs(),
            tenants,
            problems,
            months,
            reserve: kept,
            web: no_web,
            sessions: self.sessions.total(),
            policy,
        }
    }

    /// What is wrong with the network, as sentences. Nothing on a host without a socket of `bailiwick-net`.
    async fn network_problems(&self) -> Vec<String> {
        let asked = self.net.with(|link| Ok(link.problems()));
        match tokio::time::timeout(STATUS_TIME, asked).await {
            Ok(problems) => problems.unwrap_or_else(|failure| vec![failure.message]),
            Err(_) => vec![NetError::Late.to_string()],
        }
    }

    /// The running jails that could not be started again, each with the reason.
    fn lost_by_restart(&self, roster: &Roster, facts: &HostFacts) -> Vec<String> {
        let loaded = self.tenants.policy.loaded();
        let running = roster.iter().filter(|(_, entry)| entry.pid.is_some());
        let declared = running.filter_map(|(name, _)| loaded.policy.tenants.get(name));
        let why = |tenant: &Tenant| {
            let why = cannot_start(tenant, &loaded.policy.host, facts)?;
            Some(format!("the jail of \"{}\" runs, and could not be started again: {why}", tenant.name))
        };
        declared.filter_map(why).collect()
    }

    /// All tenants.
    pub(crate) async fn list(&self, _permission: OperatorPermission) -> Result<Vec<TenantSummary>, Failure> {
        Ok(self.summaries(&self.tenants.warden.roster().await?))
    }

    /// How many tenants are in each state; `None` when the warden does not say it soon.
    pub(crate) async fn states(&self) -> Option<BTreeMap<TenantState, u64>> {
        let asked = tokio::time::timeout(time_limits::METRICS_WARDEN, self.tenants.warden.roster());
        let roster = asked.await.ok()?.ok()?;
        let loaded = self.tenants.policy.loaded();
        let mut states = BTreeMap::new();
        for name in known_names(&loaded, &roster) {
            let actual = self.actual(name, roster.get(name));
            *states.entry(tenant_state(desired(loaded.declaration(name)).jail, &actual)).or_default() += 1;
        }
        Some(states)
    }

    fn summaries(&self, roster: &Roster) -> Vec<TenantSummary> {
        let loaded = self.tenants.policy.loaded();
        known_names(&loaded, roster).into_iter().map(|name| self.summary(name, &loaded, roster.get(name))).collect()
    }

    fn summary(&self, name: &TenantName, loaded: &Loaded, entry: Option<&RosterEntry>) -> TenantSummary {
        let tenant = loaded.policy.tenants.get(name);
        let state = tenant_state(desired(loaded.declaration(name)).jail, &self.actual(name, entry));
        TenantSummary {
            name: name.clone(),
            state,
            plan: tenant.map(|tenant| tenant.plan.clone()),
            image: tenant.map(|tenant| tenant.settings.image.clone()),
            profile: tenant.map(|tenant| tenant.settings.profile),
            invalid: loaded.invalid.contains(name),
            failure: matches!(state, TenantState::Down | TenantState::Asleep).then(|| self.failures.of(name)).flatten(),
            frozen_by: entry.and_then(RosterEntry::frozen),
        }
    }

    /// The actual state of a tenant. A running jail with a silent init is reported as silent.
    fn actual(&self, name: &TenantName, entry: Option<&RosterEntry>) -> Actual {
        let mut actual = reconcile::actual(entry);
        if let JailState::Running(access) = actual.jail
            && self.inits.health.silent_for(name).is_some()
        {
            actual.jail = JailState::Silent(access);
        }
        actual
    }

    /// The details of one tenant.
    pub(crate) async fn show(
        &self,
        _permission: OperatorPermission,
        name: &TenantName,
    ) -> Result<TenantDetail, Failure> {
        let entry = self.tenants.warden.entry(name).await?;
        let entry = entry.as_ref();
        let (summary, tenant, host, notices) = {
            let loaded = self.tenants.policy.loaded();
            let tenant = loaded.policy.tenants.get(name).cloned();
            if tenant.is_none() && entry.is_none() && !loaded.invalid.contains(name) {
                return Err(unknown(name));
            }
            let notices = tenant.as_ref().map(|tenant| loaded.policy.notices_of(tenant)).unwrap_or_default();
            (self.summary(name, &loaded, entry), tenant, loaded.policy.host.clone(), notices)
        };
        let doors = |choice: fn(&Settings) -> &BTreeSet<Door>| match &tenant {
            Some(tenant) => choice(&tenant.settings).iter().map(ToString::to_string).collect(),
            None => Vec::new(),
        };
        let mut host_sockets: BTreeMap<HostSocketName, LentSocket> = tenant
            .iter()
            .flat_map(|tenant| &tenant.settings.host_sockets)
            .map(|name| (name.clone(), LentSocket::default()))
            .collect();
        host_sockets.extend(entry.into_iter().flat_map(|entry| entry.host_sockets.clone()));
        let (doors, suspended_doors) = (doors(|all| &all.doors), doors(|all| &all.suspended_doors));
        let init_version = match (&tenant, entry) {
            (Some(tenant), Some(entry)) if entry.pid.is_some() && !entry.frozen => {
                match self.tenants.init_of(tenant).await {
                    Some((socket, ids)) => self.inits.talk(name, init_client::version(&socket, ids)).await.ok(),
                    None => None,
                }
            }
            _ => None,
        };
        let limits = match &tenant {
            Some(tenant) => {
                let facts = self.tenants.warden.fresh_facts().await?;
                let mut observed = [self.tenants.warden.observe_one(name).await?];
                self.inits.ask_inits(&mut observed).await;
                let [observed] = observed;
                let mut report = bailiwick_audit::judge(tenant, &host, &facts, &observed);
                add_sessions(&mut report, tenant, &self.sessions);
                report.limits
            }
            None => Vec::new(),
        };
        // The two values are read one after the other, so the first may be the larger.
        let all = limits.iter().find(|row| row.key == LimitKey::Memory).and_then(|row| row.used);
        let used = match (entry, self.tenants.warden.meter().await) {
            (Some(entry), Some(meter)) => meter.room(&entry.cgroups, 0).memory,
            _ => None,
        };
        let memory = all.zip(used).map(|(all, used)| MemoryUse { used, cache: all.saturating_sub(used) });
        Ok(TenantDetail {
            summary,
            suspend_reason: tenant.as_ref().and_then(|tenant| match &tenant.state {
                Declared::Suspended { reason } => reason.clone(),
                Declared::Active => None,
            }),
            pid: entry.and_then(|entry| entry.pid),
            init_version,
            ids: entry.map(|entry| entry.ids),
            cgroup: entry.map(|entry| entry.cgroups.clone()).unwrap_or_default(),
            login: tenant.as_ref().map(|tenant| tenant.login.user.to_string()),
            host_user: entry.filter(|entry| entry.host_user).map(|entry| host.ids.host_user(entry.ids)),
            doors,
            suspended_doors,
            limits,
            memory,
            host_sockets,
            mail: tenant.as_ref().and_then(|tenant| tenant.settings.mail),
            contact: tenant.map(|tenant| tenant.contact).unwrap_or_default(),
            notices,
        })
    }

    /// The differences between the declared and the actual state.
    pub(crate) async fn plan(
        &self,
        _permission: OperatorPermission,
        names: &[TenantName],
    ) -> Result<Vec<Change>, Failure> {
        self.tenants.policy.reload().ok();
        let roster = self.tenants.warden.roster().await?;
        let (host, facts) = (self.tenants.policy.host(), self.tenants.warden.fresh_facts().await?);
        let mut changes = Vec::new();
        for portion in self.tenants.meant(names, &roster)?.chunks(MOST_COMPARED) {
            for ((name, tenant), in_force) in portion.iter().zip(self.tenants.warden.in_force(portion, &roster).await?)
            {
                let tenant = tenant.as_ref();
                let actual = actual_now(tenant, roster.get(name), in_force.as_ref());
                let own = difference(name, declared(tenant), &actual, in_force.as_ref(), &facts, &host.network);
                // Also check a jail that runs or sleeps, so that nobody learns of the problem when it starts again.
                let runs = roster.get(name).is_some_and(|entry| entry.pid.is_some());
                let sleeps = next(desired(declared(tenant)), &actual).jail == JailStep::Asleep;
                let is_meant = runs || sleeps || own.iter().any(|change| change.action == Action::Start);
                let why = tenant.filter(|_| is_meant).and_then(|tenant| cannot_start(tenant, &host, &facts));
                changes.extend(own);
                changes.extend(why.map(|why| Change {
                    tenant: name.clone(),
                    what: "start".to_owned(),
                    actual: why,
                    declared: "possible".to_owned(),
                    action: Action::None,
                }));
            }
        }
        Ok(changes)
    }
}

/// The tenants that are declared, whose files have errors, or that the warden knows.
fn known_names<'a>(loaded: &'a Loaded, roster: &'a Roster) -> BTreeSet<&'a TenantName> {
    loaded.policy.tenants.keys().chain(roster.keys()).chain(&loaded.invalid).collect()
}

/// Waits for the warden at most [`STATUS_TIME`], because a person waits at a terminal.
async fn in_time<T>(answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(STATUS_TIME, answer).await.unwrap_or_else(|_| {
        let seconds = STATUS_TIME.as_secs();
        Err(Failure::of(ExitStatus::Failed, format!("bailiwick-warden has not answered for {seconds} s")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permission::RootPermission;

    #[tokio::test(start_paused = true)]
    async fn a_warden_that_says_nothing_does_not_hold_up_the_status() {
        for knows in [false, true] {
            let (_temp, services) = crate::fake::host();
            crate::fake::warden(&services, move |request| match request {
                WardenRequest::Hello if knows => {
                    crate::fake::Answer::Reply(WardenReply::Hello { version: "1".to_owned() })
                }
                _ => crate::fake::Answer::Never,
            });
            let begun = tokio::time::Instant::now();
            let status = services.overview.status(RootPermission::of(0).expect("root").into()).await;
            assert_eq!(status.warden.is_some(), knows);
            assert!(status.problems.iter().any(|problem| problem.contains("has not answered")), "{status:?}");
            assert!(begun.elapsed() <= 3 * STATUS_TIME, "{:?}", begun.elapsed());
        }
    }
}
