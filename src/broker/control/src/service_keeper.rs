//! Keeps the services of running jails as declared: gives each init its orders, and knows what the inits report.
//!
//! Danger: every report is a tenant's word. It is bounded, and shown as such.

use crate::connections::{Connections, Counter};
use crate::init_client::{self, InitError};
use crate::inits::Inits;
use crate::permission::OperatorPermission;
use crate::policy_store::Loaded;
use crate::service_orders::{self, Draft};
use crate::sync::{Turns, Wake, at_once, lock};
use crate::tenants::Tenants;
use crate::web_sockets::{Listener, WebSockets};
use bailiwick_audit::ServicesSeen;
use bailiwick_policy::{Service, Tenant};
use bailiwick_proto::control::{ServiceStatus, SocketStatus, TenantServices};
use bailiwick_proto::{Failure, Refusal, web_socket};
use bailiwick_types::{
    Access, Door, ExitStatus, IdRange, ServiceCounts, ServiceName, ServiceReport, ServiceState, ServiceVerb,
    TenantMetrics, TenantName, TenantState, TenantUsage, UnitName, service_log,
};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// The time between two rounds over all tenants with services.
const ROUND_TIME: Duration = Duration::from_secs(30);
/// The pause before orders that failed are given again.
const RETRY_TIME: Duration = Duration::from_millis(500);
/// The first version of init's protocol with services.
const WITH_SERVICES: u32 = 3;
/// The most failing services that a status names.
const MOST_NAMED: usize = 20;

/// What is known of a tenant's services.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The init that it is known of, as the host counts.
    pid: Option<u32>,
    reports: Vec<ServiceReport>,
    /// Why the services are not as declared.
    problem: Option<String>,
    /// The services whose failure was logged.
    failing: BTreeSet<UnitName>,
}

/// Keeps the services of the host.
#[derive(Debug)]
pub(crate) struct ServiceKeeper {
    tenants: Arc<Tenants>,
    inits: Arc<Inits>,
    pub(crate) sockets: Arc<WebSockets>,
    counter: Arc<Counter>,
    known: Mutex<BTreeMap<TenantName, Known>>,
    turns: Turns,
    wake: Wake,
}

impl ServiceKeeper {
    pub(crate) fn new(
        tenants: Arc<Tenants>,
        inits: Arc<Inits>,
        sockets: Arc<WebSockets>,
        counter: Arc<Counter>,
        wake: Wake,
    ) -> Self {
        Self { tenants, inits, sockets, counter, known: Mutex::default(), turns: Turns::default(), wake }
    }

    /// Runs without end.
    ///
    /// # Panics
    /// When the runtime has no reactor for descriptors, at its start.
    pub(crate) async fn run(self: Arc<Self>) {
        let broken = self.sockets.broken();
        let (mut round, mut heard) = (Instant::now(), 0);
        loop {
            let (runtime, is_read) = {
                let loaded = self.tenants.policy.loaded();
                let is_read = loaded.readings != heard;
                if is_read {
                    self.sockets.follow(&loaded.policy);
                    heard = loaded.readings;
                }
                (loaded.policy.host.runtime_dir.clone(), is_read)
            };
            // An audit reads the policy, and must see a changed file before it is put right.
            let is_round = Instant::now() >= round;
            if is_round {
                round = Instant::now() + ROUND_TIME;
                self.sockets.mend(&runtime);
            }
            let renewed = self.sockets.heal(&runtime, std::time::Instant::now());
            self.sockets.store().await;
            let due = self.due(is_round || is_read, &renewed);
            at_once(due.iter().map(|tenant| self.serve(tenant)).collect()).await;
            tokio::select! {
                () = self.wake.wait() => {}
                () = tokio::time::sleep_until(self.next_look(round)) => {}
                Ok(mut ready) = broken.readable() => ready.clear_ready(),
            }
        }
    }

    /// When there is something to do at the latest, if nothing happens before.
    fn next_look(&self, round: Instant) -> Instant {
        let heal = self.sockets.next_heal().map_or(round, Instant::from_std);
        let has_problem = lock(&self.known).values().any(|known| known.problem.is_some());
        let retry = if has_problem { Instant::now() + RETRY_TIME } else { round };
        round.min(heal).min(retry)
    }

    /// The tenants whose init is to be asked: all that have services, if `all`; else those whose jail, or one of whose sockets, is
    /// new, or whose orders failed.
    fn due(&self, all: bool, renewed: &[TenantName]) -> Vec<Tenant> {
        let loaded = self.tenants.policy.loaded();
        let mut known = lock(&self.known);
        known.retain(|name, _| loaded.policy.tenants.contains_key(name) && self.running(name).is_some());
        let is_due = |tenant: &&Tenant| {
            let known = known.get(&tenant.name);
            if tenant.settings.services.is_empty() && known.is_none_or(|known| known.reports.is_empty()) {
                return false;
            }
            let pid = self.running(&tenant.name);
            let is_new = known.is_none_or(|known| known.pid != pid || known.problem.is_some());
            pid.is_some() && (all || is_new || renewed.contains(&tenant.name))
        };
        loaded.policy.tenants.values().filter(is_due).cloned().collect()
    }

    /// The init of a tenant's running jail, by the warden's last report.
    fn running(&self, tenant: &TenantName) -> Option<u32> {
        self.tenants.warden.known().get(tenant).filter(|entry| entry.frozen.is_none()).and_then(|entry| entry.pid)
    }

    /// Gives the init of a tenant its orders, as far as it does not follow them, and learns what it reports.
    pub(crate) async fn serve(&self, tenant: &Tenant) {
        let _turn = self.turns.of(&tenant.name).await;
        let pid = self.running(&tenant.name);
        let done = self.give_orders(tenant).await;
        let mut known = lock(&self.known);
        let known = known.entry(tenant.name.clone()).or_default();
        if known.pid != pid {
            *known = Known { pid, ..Known::default() };
        }
        match done {
            Ok(reports) => {
                known.problem = None;
                note_failures(&tenant.name, known, &reports);
                known.reports = reports;
            }
            Err(failure) => {
                if known.problem.as_ref() != Some(&failure.message) {
                    warn!(target: "bailiwick::event", tenant = %tenant.name, event = "services-not-kept", "{failure}");
                }
                known.problem = Some(failure.message);
            }
        }
    }

    async fn give_orders(&self, tenant: &Tenant) -> Result<Vec<ServiceReport>, Failure> {
        if tenant.access() != Some(Access::ReadWrite) {
            return Ok(Vec::new());
        }
        let Some((socket, ids)) = self.tenants.init_of(tenant).await else { return Ok(Vec::new()) };
        let name = &tenant.name;
        let explain = |error: InitError| Failure::new(ExitStatus::Failed, &error);
        let version = self.inits.talk(name, init_client::version(&socket, ids)).await.map_err(explain)?;
        if version < WITH_SERVICES {
            let message = "its jail is of an earlier version and runs no services; restart it";
            return Err(Failure::of(ExitStatus::Refused, message));
        }
        let reports = self.inits.talk(name, init_client::services(&socket, ids)).await.map_err(explain)?;
        let drafts = service_orders::drafts(tenant);
        let mut problem = None;
        let names: Vec<UnitName> = drafts.iter().map(|draft| draft.name().clone()).collect();
        let mut has_changed = reports.iter().any(|report| !names.contains(&report.name));
        if has_changed {
            self.inits.talk(name, init_client::keep_services(&socket, ids, names)).await.map_err(explain)?;
        }
        for draft in drafts {
            match self.give_order(tenant, draft, &reports, (&socket, ids)).await {
                Ok(gave) => has_changed |= gave,
                Err(failure) => problem = Some(failure),
            }
        }
        if let Some(problem) = problem {
            return Err(problem);
        }
        if !has_changed {
            return Ok(reports);
        }
        self.inits.talk(name, init_client::services(&socket, ids)).await.map_err(explain)
    }

    /// Gives one order, unless init follows it already. Returns whether it was given.
    async fn give_order(
        &self,
        tenant: &Tenant,
        draft: Draft,
        reports: &[ServiceReport],
        (socket, ids): (&Path, IdRange),
    ) -> Result<bool, Failure> {
        let name = draft.name().clone();
        let mut listeners: Vec<Listener> = Vec::new();
        for wanted in &draft.sockets {
            let listener = self.sockets.get(&tenant.name, wanted).ok_or_else(|| {
                let why = self.sockets.problem(&tenant.name, wanted).unwrap_or_else(|| closed(tenant));
                Failure::of(ExitStatus::Refused, format!("service {name} waits for its socket {wanted}: {why}"))
            })?;
            listeners.push(listener);
        }
        let groups_of = draft.groups.clone();
        let order = draft.with(&listeners);
        if reports.iter().any(|report| report.name == name && report.digest == order.digest) {
            return Ok(false);
        }
        let groups = match groups_of {
            // Without its limits the service does not start.
            Some(service) => self.tenants.warden.service_groups(&tenant.name, &service).await.map_err(|failure| {
                Failure::of(failure.status, format!("service {name} does not start without its limits: {failure}"))
            })?,
            None => Vec::new(),
        };
        let fds: Vec<_> =
            listeners.iter().map(|listener| listener.fd.as_fd()).chain(groups.iter().map(AsFd::as_fd)).collect();
        let given = self.inits.talk(&tenant.name, init_client::order(socket, ids, order, &fds)).await;
        given.map_err(|error| Failure::of(ExitStatus::Failed, format!("service {name} was not ordered: {error}")))?;
        Ok(true)
    }

    /// The services of tenants that have any, by name.
    pub(crate) async fn list(&self, tenants: &[TenantName]) -> Result<Vec<TenantServices>, Failure> {
        self.tenants.check_known(tenants)?;
        let all = self.meant(tenants);
        at_once(all.iter().map(|tenant| self.refresh(tenant)).collect()).await;
        let connections = self.counter.of(all.iter().map(|tenant| &tenant.name)).await.ok();
        Ok(all.iter().map(|tenant| self.services_of(tenant, connections.as_ref())).collect())
    }

    /// The connections to the sockets of these tenants, or of all.
    pub(crate) async fn connections(
        &self,
        _permission: OperatorPermission,
        tenants: &[TenantName],
    ) -> Result<Connections, Failure> {
        self.tenants.check_known(tenants)?;
        let meant = self.meant(tenants);
        self.counter.of(meant.iter().map(|tenant| &tenant.name)).await
    }

    /// Adds to each tenant how many services it has, by the last reports of the inits. Nobody is asked.
    pub(crate) fn add_counts(&self, tenants: &mut [TenantUsage]) {
        let (loaded, known) = (self.tenants.policy.loaded(), lock(&self.known));
        for usage in tenants {
            usage.services = counts_of(&loaded, &known, &usage.tenant);
        }
    }

    /// Adds the same to the metrics of tenants that have more than the core.
    pub(crate) fn add_metrics(&self, tenants: &mut [TenantMetrics]) {
        let (loaded, known) = (self.tenants.policy.loaded(), lock(&self.known));
        for TenantMetrics { tenant, more, .. } in tenants {
            if let Some(more) = more {
                more.services = counts_of(&loaded, &known, tenant);
            }
        }
    }

    fn meant(&self, tenants: &[TenantName]) -> Vec<Tenant> {
        let loaded = self.tenants.policy.loaded();
        let is_meant = |tenant: &&Tenant| {
            !tenant.settings.services.is_empty() && (tenants.is_empty() || tenants.contains(&tenant.name))
        };
        loaded.policy.tenants.values().filter(is_meant).cloned().collect()
    }

    /// Learns what init reports now.
    async fn refresh(&self, tenant: &Tenant) {
        drop(self.tenants.warden.entry(&tenant.name).await);
        let pid = self.running(&tenant.name);
        if pid.is_none() {
            lock(&self.known).remove(&tenant.name);
            return;
        }
        if let Some((socket, ids)) = self.tenants.init_of(tenant).await
            && let Ok(reports) = self.inits.talk(&tenant.name, init_client::services(&socket, ids)).await
        {
            let mut known = lock(&self.known);
            let known = known.entry(tenant.name.clone()).or_default();
            if known.pid == pid {
                note_failures(&tenant.name, known, &reports);
            }
            known.reports = reports;
        }
    }

    fn services_of(&self, tenant: &Tenant, connections: Option<&Connections>) -> TenantServices {
        let known = lock(&self.known).get(&tenant.name).cloned().unwrap_or_default();
        let report = |name: &UnitName| known.reports.iter().find(|report| report.name == *name).cloned();
        let runtime = self.tenants.policy.host().runtime_dir;
        let state = match self.running(&tenant.name) {
            Some(_) => TenantState::Running,
            None if self.tenants.was_frozen(&tenant.name).is_some() => TenantState::Frozen,
            None if self.tenants.was_asleep(tenant) => TenantState::Asleep,
            None => TenantState::Down,
        };
        let services = tenant.settings.services.iter().map(|service| {
            let socket = |socket: &bailiwick_policy::ServiceSocket| SocketStatus {
                name: socket.name.clone(),
                path: web_socket(&runtime, &tenant.name, &socket.name).display().to_string(),
                connections: connections
                    .map(|all| all.get(&tenant.name).and_then(|own| own.get(&socket.name)).copied().unwrap_or(0)),
                problem: match self.sockets.get(&tenant.name, &socket.name) {
                    Some(_) => self.sockets.problem(&tenant.name, &socket.name),
                    None => Some(self.sockets.problem(&tenant.name, &socket.name).unwrap_or_else(|| closed(tenant))),
                },
                relay: report(&UnitName { service: service.name.clone(), socket: Some(socket.name.clone()) }),
            };
            let name = UnitName::from(service.name.clone());
            ServiceStatus {
                name: service.name.clone(),
                report: report(&name),
                sockets: service.sockets.iter().map(socket).collect(),
                log: service_log(&tenant.login.user, &name),
            }
        });
        TenantServices {
            tenant: tenant.name.clone(),
            state,
            services: services.collect(),
            problem: known.problem.clone(),
        }
    }

    /// Starts or stops services of a tenant; all of them when `names` is empty. Returns those that it was done for.
    pub(crate) async fn verb(
        &self,
        tenant: &TenantName,
        names: &[ServiceName],
        verb: ServiceVerb,
    ) -> Result<Vec<ServiceName>, Failure> {
        let declared = self.tenants.policy.declared(tenant)?;
        let there: Vec<&ServiceName> = declared.settings.services.iter().map(|service| &service.name).collect();
        if let Some(missing) = names.iter().find(|name| !there.contains(name)) {
            let known = there.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {known}") };
            return Err(Failure::of(
                ExitStatus::NotFound,
                format!("\"{tenant}\" has no service \"{missing}\"; {known}"),
            ));
        }
        drop(self.tenants.warden.entry(tenant).await);
        if self.running(tenant).is_none() {
            let why = self.tenants.was_asleep(&declared).then(|| "it is asleep; `bailiwick wake` starts it".to_owned());
            return Err(Refusal::NotRunning { tenant: tenant.clone(), why }.into());
        }
        // The services of a jail that has just started may not be ordered yet.
        self.serve(&declared).await;
        let meant: Vec<ServiceName> =
            if names.is_empty() { there.into_iter().cloned().collect() } else { names.to_vec() };
        let Some((socket, ids)) = self.tenants.init_of(&declared).await else { return Ok(Vec::new()) };
        for name in &meant {
            let unit = UnitName::from(name.clone());
            let done = self.inits.talk(tenant, init_client::service_verb(&socket, ids, unit, verb)).await;
            match done.map_err(|error| Failure::new(ExitStatus::Failed, &error))? {
                true => {}
                false => {
                    let known = lock(&self.known).get(tenant).and_then(|known| known.problem.clone());
                    let why = known.map(|why| format!(": {why}")).unwrap_or_default();
                    let message = format!("init of \"{tenant}\" does not run the service \"{name}\"{why}");
                    return Err(Failure::of(ExitStatus::Failed, message));
                }
            }
        }
        info!(target: "bailiwick::event", tenant = %tenant, event = "service-verb", verb = %verb, "{verb} of {} services of {tenant}", meant.len());
        self.wake.wake();
        Ok(meant)
    }

    /// What is wrong with the services of a tenant, for an audit.
    pub(crate) fn seen(&self, tenant: &Tenant) -> ServicesSeen {
        let runtime = self.tenants.policy.host().runtime_dir;
        let mut seen = ServicesSeen::default();
        for socket in tenant.settings.services.iter().flat_map(|service| &service.sockets) {
            if !tenant.is_open(Door::Socket) {
                continue;
            }
            match self.sockets.problem(&tenant.name, &socket.name) {
                Some(problem) => seen.broken_sockets.push(format!("{}: {problem}", socket.name)),
                None => seen.wrong_sockets.extend(self.sockets.wrong(&runtime, &tenant.name, &socket.name)),
            }
        }
        let known = lock(&self.known);
        if let Some(known) = known.get(&tenant.name) {
            let failing = known.reports.iter().filter(|report| is_failing(report));
            seen.failing.extend(failing.map(|report| {
                format!("{} is in {} after {} restarts: {}", report.name, report.state, report.restarts, end_of(report))
            }));
            seen.failing.extend(known.problem.clone());
        }
        seen
    }

    /// The failing services of the host, in sentences, for the status.
    pub(crate) fn problems(&self) -> Vec<String> {
        let known = lock(&self.known);
        let mut all = Vec::new();
        for (tenant, known) in known.iter() {
            all.extend(known.problem.iter().map(|problem| format!("{tenant}: {problem}")));
            for report in known.reports.iter().filter(|report| is_failing(report)) {
                all.push(format!("{tenant}: service {} is in {}", report.name, report.state));
            }
        }
        let more = all.len().saturating_sub(MOST_NAMED);
        all.truncate(MOST_NAMED);
        if more > 0 {
            all.push(format!("{more} more services have problems; see `bailiwick service list`"));
        }
        all.extend(self.sockets.too_many());
        all
    }
}

/// Why a declared socket is not there.
fn closed(tenant: &Tenant) -> String {
    if tenant.is_open(Door::Socket) {
        "it is not made yet".to_owned()
    } else {
        "the door \"socket\" is closed".to_owned()
    }
}

/// How many of these services run, and how many fail.
/// How many services a tenant has; `None` when it has none, or when nothing is known of them.
fn counts_of(loaded: &Loaded, known: &BTreeMap<TenantName, Known>, name: &TenantName) -> Option<ServiceCounts> {
    let services = &loaded.policy.tenants.get(name)?.settings.services;
    let reports = known.get(name).map(|known| &known.reports);
    reports.filter(|_| !services.is_empty()).map(|reports| counts(services, reports))
}

fn counts(services: &[Service], reports: &[ServiceReport]) -> ServiceCounts {
    let mut counts = ServiceCounts::default();
    for service in services {
        counts.declared += 1;
        let is_own = |report: &&ServiceReport| report.name.service == service.name && report.name.socket.is_none();
        match reports.iter().find(is_own) {
            Some(report) if is_failing(report) => counts.failing += 1,
            Some(report) if report.state == ServiceState::Running => counts.running += 1,
            Some(_) | None => {}
        }
    }
    counts
}

fn is_failing(report: &ServiceReport) -> bool {
    matches!(report.state, ServiceState::Failed) || (report.state == ServiceState::BackOff && report.restarts > 0)
}

/// Logs the first failure of each run, and its end.
fn note_failures(tenant: &TenantName, known: &mut Known, reports: &[ServiceReport]) {
    for report in reports {
        let name = &report.name;
        // A service that is started again and again is running for a moment each time.
        let runs = report.state == ServiceState::Running && (report.restarts == 0 || is_well(report));
        let fails = matches!(report.state, ServiceState::Failed | ServiceState::BackOff);
        if fails && known.failing.insert(name.clone()) {
            let end = end_of(report);
            warn!(target: "bailiwick::event", tenant = %tenant, event = "service-failed", service = %name, end, "service {name} of {tenant} is in {}: {end}", report.state);
        } else if runs && known.failing.remove(name) {
            info!(target: "bailiwick::event", tenant = %tenant, event = "service-recovered", service = %name, "service {name} of {tenant} runs again");
        }
    }
    known.failing.retain(|name| reports.iter().any(|report| report.name == *name));
}

/// How a service has ended the last time, in words.
fn end_of(report: &ServiceReport) -> String {
    report.last_end.map_or_else(|| "it has not ended yet".to_owned(), |end| end.to_string())
}

/// Whether a service has run for longer than init's last pause.
fn is_well(report: &ServiceReport) -> bool {
    crate::sessions::now().saturating_sub(report.since.0) >= 60
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Answer};
    use bailiwick_policy::Run;
    use bailiwick_proto::{WardenReply, WardenRequest};
    use bailiwick_types::Moment;

    #[test]
    fn services_that_run_and_fail_are_counted_and_relays_are_not() {
        let service = |name: &str| Service::new(name.parse().expect("a name"), Run::Command(vec!["/bin/true".into()]));
        let report = |name: &str, state, restarts| ServiceReport {
            name: name.parse().expect("a name"),
            digest: String::new(),
            state,
            pid: None,
            since: Moment(0),
            restarts,
            last_end: None,
            again: None,
        };
        let services = ["a", "b", "c", "d"].map(service);
        let reports = [
            report("a", ServiceState::Running, 0),
            report("a.web", ServiceState::Failed, 0),
            report("b", ServiceState::BackOff, 1),
            report("c", ServiceState::Stopped, 0),
            report("gone", ServiceState::Running, 0),
        ];
        assert_eq!(counts(&services, &reports), ServiceCounts { running: 1, failing: 1, declared: 4 });
    }

    #[tokio::test]
    async fn a_jail_that_was_started_wakes_the_keeper_at_once() {
        let (_temp, services) = fake::host();
        let alice: TenantName = "alice".parse().expect("a name");
        let up = fake::up(&services);
        fake::warden(&services, move |request| match request {
            WardenRequest::Entry { .. } => Answer::Reply(WardenReply::Entry(Some(Box::new(up.clone())))),
            WardenRequest::Start { .. } => Answer::Reply(WardenReply::Done),
            _ => Answer::Never,
        });
        let turn = services.reconciler.turn(&alice).await;
        services.reconciler.wake(&turn, &alice, "test").await.expect("starts");
        let heard = tokio::time::timeout(Duration::from_secs(5), services.service_keeper.wake.wait()).await;
        assert!(heard.is_ok(), "it would look only after {ROUND_TIME:?}");
    }
}
