//! `report`: asks for everything that is known of a host or of one tenant, and prints it as text, JSON or a page of HTML.
//!
//! Danger: tenants choose some texts. The text form escapes them here, and the page does so itself.

use crate::arguments::{ReportOptions, WindowOptions};
use crate::output::{self, Form, visible};
use crate::recorded::{fitting_step, series};
use crate::report::{host_name, write_private};
use crate::service;
use crate::table::render;
use crate::usage::average;
use crate::window;
use bailiwick_client::{AskError, Daemon};
use bailiwick_proto::control::{Depth, EventsWanted, MOST_EVENTS, TenantSummary};
use bailiwick_proto::{ControlReply, ControlRequest, Failure};
use bailiwick_report::{Report, ReportedService, ReportedTenant, Scope};
use bailiwick_types::{
    Event, ExitStatus, Measure, MetricsDetail, Moment, NetworkFacts, Point, TenantName, TenantUsage, Usage, Window,
};
use std::collections::{BTreeMap, VecDeque};

/// The most steps of one history.
const STEPS: u64 = 240;
/// With fewer steps than this, the history is young, and shorter steps show more.
const FEW_STEPS: u64 = 24;
/// How many of the newest events are looked through.
const NEWEST_EVENTS: u64 = 5000;
/// The most tenants of a host whose networks are asked for one by one.
const MOST_NETWORKS: usize = 100;

/// `bailiwick report`.
pub(crate) fn run(daemon: &Daemon, options: ReportOptions) -> Result<(), Failure> {
    let ReportOptions { tenant, html, output, since, until, format } = options;
    let window = window::between(&WindowOptions { since, until })?;
    let report = gather(daemon, tenant, window)?;
    match output {
        Some(file) => write_private(&file, &report.page()),
        None if html => output::print(&report.page()),
        None => output::show(Form::from(format), &report, text),
    }
}

/// Everything about the host, or about one tenant.
fn gather(daemon: &Daemon, tenant: Option<TenantName>, window: Window) -> Result<Report, Failure> {
    let (scope, summaries) = match daemon.ask(&ControlRequest::List).map_err(Failure::from) {
        Ok(ControlReply::List(all)) => match tenant {
            None => (Scope::Host, all),
            Some(name) => (Scope::Tenant, vec![found(all, &name)?]),
        },
        Ok(_) => return Err(AskError::Unexpected.into()),
        // A tenant's own user may ask for its own records.
        Err(failure) if failure.status == ExitStatus::Refused => return own(daemon, tenant, window, failure),
        Err(failure) => return Err(failure),
    };
    let tenants: Vec<ReportedTenant> = summaries.into_iter().map(reported).collect();
    let mut gathering = Gathering::new(daemon, scope, tenants, window);
    gathering.of_the_host();
    gathering.audit();
    gathering.records()?;
    gathering.services();
    gathering.sessions();
    gathering.networks();
    Ok(gathering.report)
}

/// The report of the tenant whose user asks. `refused` is the answer to a request of operators.
fn own(daemon: &Daemon, tenant: Option<TenantName>, window: Window, refused: Failure) -> Result<Report, Failure> {
    let asked = daemon.ask(&ControlRequest::Usage { tenants: tenant.clone().into_iter().collect(), window: None });
    let usage = match asked.map_err(Failure::from) {
        Ok(ControlReply::Usage(usage)) => usage,
        Ok(_) => return Err(AskError::Unexpected.into()),
        // For another tenant, that is what there is to say; for a user who is nobody, the first refusal.
        Err(failure) if tenant.is_some() => return Err(failure),
        Err(_) => return Err(refused),
    };
    let Some(name) = tenant.or_else(|| usage.first().map(|usage| usage.tenant.clone())) else { return Err(refused) };
    let mut gathering = Gathering::new(daemon, Scope::OwnTenant, vec![ReportedTenant::new(name)], window);
    gathering.records()?;
    gathering.services();
    Ok(gathering.report)
}

fn found(all: Vec<TenantSummary>, name: &TenantName) -> Result<TenantSummary, Failure> {
    let missing =
        || Failure::of(ExitStatus::NotFound, format!("there is no tenant \"{name}\"; `bailiwick list` lists them"));
    all.into_iter().find(|summary| summary.name == *name).ok_or_else(missing)
}

fn reported(summary: TenantSummary) -> ReportedTenant {
    let TenantSummary { name, state, plan, image, profile, invalid, failure, frozen_by: _ } = summary;
    ReportedTenant { state: Some(state), plan, image, profile, invalid, failure, ..ReportedTenant::new(name) }
}

/// A report that is being made.
struct Gathering<'a> {
    daemon: &'a Daemon,
    report: Report,
}

impl<'a> Gathering<'a> {
    fn new(daemon: &'a Daemon, scope: Scope, tenants: Vec<ReportedTenant>, window: Window) -> Self {
        let report = Report {
            scope,
            host: host_name(),
            at: window::now(),
            window,
            version: None,
            problems: Vec::new(),
            gaps: Vec::new(),
            features: None,
            pool: None,
            capacity: Usage::default(),
            history: Vec::new(),
            tenants,
            incidents: Vec::new(),
            events: Vec::new(),
            more_events: false,
        };
        Self { daemon, report }
    }

    /// The tenants that requests are about: all of the host, or the one.
    fn asked(&self) -> Vec<TenantName> {
        match self.report.scope {
            Scope::Host => Vec::new(),
            Scope::Tenant | Scope::OwnTenant => self.report.tenants.iter().map(|tenant| tenant.name.clone()).collect(),
        }
    }

    fn tenant(&mut self, name: &TenantName) -> Option<&mut ReportedTenant> {
        self.report.tenants.iter_mut().find(|tenant| tenant.name == *name)
    }

    /// The reply to a request. When there is none, the report says what is missing, and goes on.
    fn ask(&mut self, request: &ControlRequest, what: &str) -> Option<ControlReply> {
        match self.daemon.ask(request) {
            Ok(reply) => Some(reply),
            Err(error) => {
                self.report.gaps.push(format!("{what}: {}", Failure::from(error).message));
                None
            }
        }
    }

    /// What is said of the service and of the host itself.
    fn of_the_host(&mut self) {
        let is_host = self.report.scope == Scope::Host;
        if let Some(ControlReply::Status(status)) =
            self.ask(&ControlRequest::Status, "the state of the service is not known")
        {
            self.report.version = Some(status.version);
            // Reasons of jails that are down are beside their tenants.
            let of_tenant =
                |problem: &String| problem.starts_with("the jail of \"") && problem.contains("\" is down: ");
            self.report.problems =
                status.problems.into_iter().filter(|problem| is_host && !of_tenant(problem)).collect();
        }
        if !is_host {
            return;
        }
        let request = ControlRequest::Metrics { detail: Some(MetricsDetail::None), after: None };
        if let Some(ControlReply::Metrics(page)) = self.ask(&request, "the disk of the tenants was not measured") {
            self.report.pool = page.host.and_then(|host| host.pool);
        }
        let processors =
            std::thread::available_parallelism().map_or(0, |count| u64::try_from(count.get()).unwrap_or(0));
        let system = rustix::system::sysinfo();
        let memory = system.totalram.saturating_mul(system.mem_unit.into());
        let capacity = [
            (Measure::Cpu, Some(processors.saturating_mul(1_000_000)).filter(|share| *share > 0)),
            (Measure::Memory, Some(memory).filter(|bytes| *bytes > 0)),
            (Measure::Disk, self.report.pool.map(|pool| pool.size)),
        ];
        let known = capacity.into_iter().filter_map(|(measure, value)| Some((measure, value?)));
        self.report.capacity = Usage(known.collect());
    }

    fn audit(&mut self) {
        let request = ControlRequest::Audit { tenants: self.asked(), depth: Depth::Read };
        if let Some(ControlReply::Audit(audit)) = self.ask(&request, "nothing was audited") {
            self.report.add_audit(*audit);
        }
    }

    /// What was recorded: use, history, incidents and events. Without a history there is nothing to report on.
    fn records(&mut self) -> Result<(), Failure> {
        let window = self.report.window;
        let request = ControlRequest::Usage { tenants: self.asked(), window: Some(window) };
        let known = self.report.scope == Scope::OwnTenant;
        match self.daemon.ask(&request).map_err(Failure::from) {
            Ok(ControlReply::Usage(usage)) => {
                let by_name = usage.into_iter().map(|usage| (usage.tenant.clone(), usage));
                let mut by_name: BTreeMap<TenantName, TenantUsage> = by_name.collect();
                for tenant in &mut self.report.tenants {
                    tenant.usage = by_name.remove(&tenant.name);
                }
            }
            Ok(_) => return Err(AskError::Unexpected.into()),
            Err(failure) if known => return Err(failure),
            Err(failure) => self.report.gaps.push(format!("what tenants used is not known: {}", failure.message)),
        }
        self.histories();
        let request = ControlRequest::Incidents { tenants: self.asked(), window };
        if let Some(ControlReply::Incidents(incidents)) = self.ask(&request, "incidents are not known") {
            self.report.incidents = incidents;
        }
        self.events();
        Ok(())
    }

    /// The history of each tenant, in steps that fit what was recorded.
    fn histories(&mut self) {
        let window = self.report.window;
        let mut step = fitting_step(window, STEPS);
        if !self.all_series(window, step) {
            return;
        }
        let first = self.report.tenants.iter().filter_map(|tenant| Some(tenant.history.first()?.at)).min();
        if let Some(first) = first.filter(|first| window.until.0.saturating_sub(first.0) / step < FEW_STEPS) {
            // The first hour is read by its minutes, and not as one step, when the window begins inside it.
            let young = Window { from: Moment(first.0.saturating_add(1)), until: window.until };
            if fitting_step(young, STEPS) < step {
                step = fitting_step(young, STEPS);
                self.all_series(young, step);
            }
        }
        if self.report.scope == Scope::Host {
            self.report.add_up();
        }
    }

    /// Asks for all histories. Returns whether there was an answer for each.
    fn all_series(&mut self, window: Window, step: u64) -> bool {
        for number in 0..self.report.tenants.len() {
            // A tenant that used nothing has no history.
            if self.report.tenants[number].usage.as_ref().is_none_or(|usage| usage.total.seconds == 0) {
                continue;
            }
            let name = self.report.tenants[number].name.clone();
            match series(self.daemon, name, window, step) {
                Ok(points) => self.report.tenants[number].history = points.into_iter().filter(is_measured).collect(),
                Err(failure) => {
                    self.report.gaps.push(format!("the history is not known: {}", failure.message));
                    return false;
                }
            }
        }
        true
    }

    /// The newest events of the window.
    fn events(&mut self) {
        let tenants = self.asked();
        let since = self.report.window.from;
        let mut wanted = EventsWanted { after: 0, since, tenants, types: Vec::new(), most: 0, wait: false };
        let what = "events are not known";
        let Some(ControlReply::Events { last, .. }) = self.ask(&ControlRequest::Events(wanted.clone()), what) else {
            return;
        };
        wanted.most = MOST_EVENTS;
        // For one tenant these are its own events of all numbers.
        let is_host = self.report.scope == Scope::Host;
        wanted.after = if is_host { last.saturating_sub(NEWEST_EVENTS) } else { 0 };
        let mut found: VecDeque<Event> = VecDeque::new();
        let most = usize::try_from(NEWEST_EVENTS).unwrap_or(usize::MAX);
        loop {
            let request = ControlRequest::Events(wanted.clone());
            let Some(ControlReply::Events { events, next, last }) = self.ask(&request, what) else { return };
            found.extend(events);
            while found.len() > most {
                found.pop_front();
                self.report.more_events = true;
            }
            if next >= last || next <= wanted.after {
                break;
            }
            wanted.after = next;
        }
        let until = self.report.window.until;
        let in_window = found.into_iter().rev().filter(|event| event.at < until);
        self.report.events = match self.report.scope {
            Scope::Host => in_window.collect(),
            // Sentences for operators are not for a page that a customer may get.
            Scope::Tenant | Scope::OwnTenant => in_window.filter_map(Event::for_tenant).collect(),
        };
    }

    fn services(&mut self) {
        let asked = self.asked();
        match service::services(self.daemon, asked) {
            Ok(all) => {
                for of_tenant in all {
                    let Some(tenant) = self.tenant(&of_tenant.tenant) else { continue };
                    tenant.services_problem = of_tenant.problem;
                    let service = |status: bailiwick_proto::control::ServiceStatus| ReportedService {
                        problem: service::problem(&status),
                        sockets: status.sockets.into_iter().map(|socket| socket.name).collect(),
                        report: status.report,
                        name: status.name,
                    };
                    tenant.services = of_tenant.services.into_iter().map(service).collect();
                }
                // They are told beside their tenants.
                let names: Vec<String> =
                    self.report.tenants.iter().map(|tenant| format!("{}: service ", tenant.name)).collect();
                self.report.problems.retain(|problem| !names.iter().any(|name| problem.starts_with(name)));
            }
            Err(failure) => self.report.gaps.push(format!("services are not known: {}", failure.message)),
        }
    }

    fn sessions(&mut self) {
        let request = ControlRequest::Sessions { tenants: self.asked() };
        let Some(ControlReply::Sessions(all)) = self.ask(&request, "open sessions are not known") else { return };
        self.report.tenants.iter_mut().for_each(|tenant| tenant.sessions = Some(Vec::new()));
        for session in all {
            if let Some(tenant) = self.tenant(&session.tenant) {
                tenant.sessions.get_or_insert_default().push(session);
            }
        }
    }

    /// The networks of tenants that have sent or received something, those with the most traffic first.
    fn networks(&mut self) {
        let traffic = |tenant: &ReportedTenant| {
            let total = &tenant.usage.as_ref()?.total.usage;
            Some(total.get(Measure::NetSent)?.saturating_add(total.get(Measure::NetReceived)?))
        };
        let with = self.report.tenants.iter().filter_map(|tenant| Some((traffic(tenant)?, tenant.name.clone())));
        let mut with: Vec<(u64, TenantName)> = with.collect();
        with.sort_by(|a, b| b.cmp(a));
        for (_, name) in with.into_iter().take(MOST_NETWORKS) {
            let request = ControlRequest::Network { tenant: name.clone(), connections: false };
            let Some(ControlReply::Network(network)) = self.ask(&request, "networks are not known") else { return };
            let has_network = |facts: &NetworkFacts| facts.link.is_some() || facts.in_force.is_some();
            if let Some(tenant) = self.tenant(&name) {
                tenant.network = Some(network.facts).filter(has_network);
            }
        }
    }
}

/// Whether anything was measured in a step. One in which nothing was is a gap.
fn is_measured(point: &Point) -> bool {
    point.seconds > 0
}

/// The report for a terminal: the verdict, what needs attention, and each tenant in a line.
fn text(report: &Report) -> String {
    let summary = report.summary();
    let mut out = format!("{}\n", visible(&summary.sentence));
    if !summary.notes.is_empty() {
        let rows = summary.notes.iter().map(|note| {
            let tenant = note.tenant.as_ref().map_or("the host".to_owned(), ToString::to_string);
            vec![note.level.word().to_owned(), tenant, note.text.clone()]
        });
        out.push_str(&format!("\n{}", render(&["LEVEL", "TENANT", "WHAT"], rows)));
    }
    let tenants = summary.order.iter().filter_map(|name| report.tenants.iter().find(|tenant| tenant.name == *name));
    let rows = tenants.map(|tenant| {
        let use_of = |measure| tenant.usage.as_ref().map(|usage| average(&usage.total, measure)).unwrap_or_default();
        let hits = tenant.usage.as_ref().map(|usage| usage.faults.values().sum::<u64>().to_string());
        vec![
            tenant.name.to_string(),
            tenant.state.map(|state| state.word().to_owned()).unwrap_or_default(),
            tenant.audit.as_ref().map(|audit| output::word(audit.verdict)).unwrap_or_default(),
            use_of(Measure::Cpu),
            use_of(Measure::Memory),
            use_of(Measure::Disk),
            tenant.sessions.as_ref().map(|sessions| sessions.len().to_string()).unwrap_or_default(),
            hits.unwrap_or_default(),
        ]
    });
    let header = ["TENANT", "STATE", "AUDIT", "CPU", "MEMORY", "DISK", "SESSIONS", "HITS"];
    if !report.tenants.is_empty() {
        out.push_str(&format!("\n{}", render(&header, rows)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_client::fake;
    use bailiwick_types::{EventType, EventValue, TenantState};

    const WINDOW: Window = Window { from: Moment(1_800_000_000), until: Moment(1_800_086_401) };

    fn alice() -> TenantName {
        "alice".parse().expect("valid")
    }

    fn usage() -> TenantUsage {
        let total = Point {
            at: WINDOW.from,
            seconds: 120,
            usage: Usage(BTreeMap::from([(Measure::Cpu, 60_000_000)])),
            peak: Usage::default(),
        };
        TenantUsage {
            tenant: alice(),
            total,
            limits: Usage::default(),
            faults: BTreeMap::from([("memory\u{1b}".to_owned(), 1), ("memory".to_owned(), 2)]),
            services: None,
        }
    }

    fn points(step: u64) -> ControlReply {
        let point = |number| Point { at: Moment(WINDOW.until.0 - 600 + number * step), ..usage().total };
        ControlReply::History((0..2).map(point).collect())
    }

    fn refused() -> ControlReply {
        ControlReply::Failed(Failure::of(ExitStatus::Refused, "only the tenant \"alice\" is yours"))
    }

    fn events(most: u64) -> ControlReply {
        let event = |seq, kind| Event {
            seq,
            at: WINDOW.from,
            kind,
            tenant: Some(alice()),
            actor: Some(0),
            data: BTreeMap::from([(Event::TEXT.to_owned(), EventValue::text("for operators"))]),
        };
        let all = [event(1, EventType::TenantStarted), event(2, EventType::TenantHostUser)];
        ControlReply::Events { events: if most == 0 { Vec::new() } else { all.into() }, next: 2, last: 2 }
    }

    #[test]
    fn a_tenants_own_user_gets_what_it_may_ask_for_and_nothing_else() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let answers = vec![
            refused(),
            ControlReply::Usage(vec![usage()]),
            ControlReply::Usage(vec![usage()]),
            points(600),
            points(60),
            ControlReply::Incidents(Vec::new()),
            events(0),
            events(1),
            ControlReply::Services(Vec::new()),
        ];
        let (daemon, served) = fake(temp.path(), answers.into_iter().map(|answer| vec![answer]).collect());
        let report = gather(&daemon, None, WINDOW).expect("answers");
        assert_eq!(
            (report.scope, report.tenants[0].name.clone(), report.version.clone()),
            (Scope::OwnTenant, alice(), None)
        );
        assert_eq!(
            report.tenants[0].history[1].at.0 - report.tenants[0].history[0].at.0,
            60,
            "a young history is finer"
        );
        let told: Vec<_> = report.events.iter().map(|event| (event.seq, event.actor, event.data.len())).collect();
        assert_eq!(told, [(1, None, 0)], "no event for operators, no sentence for them, and nobody who acted");
        let asked = served.join().expect("served");
        assert!(matches!(&asked[3], ControlRequest::History { step: 600, .. }), "{asked:?}");
        let ControlRequest::History { step: 60, window, .. } = &asked[4] else { panic!("{asked:?}") };
        assert_eq!(window.from.0, WINDOW.until.0 - 600 + 1, "it begins inside the first step");
        let golden = "\
Limits were hit; a limit is near or was hit.

LEVEL  TENANT  WHAT
near   alice   the limit memory was hit 2 times

TENANT  STATE  AUDIT  CPU    MEMORY  DISK  SESSIONS  HITS
alice   -      -      50.0%  -       -     -         3
";
        assert_eq!(text(&report), golden);
    }

    #[test]
    fn what_cannot_be_asked_for_is_said_and_the_rest_is_there() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let summary = |name: &str| TenantSummary {
            name: name.parse().expect("valid"),
            state: TenantState::Running,
            plan: None,
            image: None,
            profile: None,
            invalid: false,
            failure: None,
            frozen_by: None,
        };
        let failed = |why: &str| ControlReply::Failed(Failure::of(ExitStatus::Failed, why));
        let answers = vec![
            ControlReply::List(vec![summary("alice"), summary("bob")]),
            failed("no status"),
            failed("no metrics"),
            failed("no audit"),
            failed("no usage"),
            failed("no incidents"),
            failed("no events"),
            failed("no services"),
            failed("no sessions"),
        ];
        let (daemon, served) = fake(temp.path(), answers.into_iter().map(|answer| vec![answer]).collect());
        let report = gather(&daemon, None, WINDOW).expect("answers");
        served.join().expect("served");
        assert_eq!((report.scope, report.tenants.len(), report.gaps.len()), (Scope::Host, 2, 8));
        let shown = text(&report);
        assert!(shown.contains("problem  the host  nothing was audited: no audit"), "{shown}");
        assert!(report.page().contains("what tenants used is not known: no usage"));
        let json = serde_json::to_value(&report).expect("serialises");
        for key in ["scope", "host", "at", "window", "problems", "gaps", "tenants", "incidents", "events", "history"] {
            assert!(json.get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn an_unknown_tenant_is_not_found() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let (daemon, served) = fake(temp.path(), vec![vec![ControlReply::List(Vec::new())]]);
        let failure = gather(&daemon, Some(alice()), WINDOW).expect_err("unknown");
        assert_eq!(failure.status, ExitStatus::NotFound);
        served.join().expect("served");
    }
}
