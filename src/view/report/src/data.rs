//! What a report tells: everything that was gathered about a host and its tenants, or about one tenant.

use bailiwick_types::{
    AuditReport, Event, HostReport, ImageName, Incident, Moment, NetworkFacts, PlanName, Point, PoolSpace, Profile,
    ServiceName, ServiceReport, SessionRecord, SocketName, TenantName, TenantReport, TenantState, TenantUsage, Usage,
    Window,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Whom a report is about, and who may read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The host and all its tenants. It is for operators.
    Host,
    /// One tenant, by what an operator may know of it. The tenant may read it too.
    Tenant,
    /// One tenant, by what its own user may ask for.
    OwnTenant,
}

/// Everything that a report tells. What could not be asked for is absent, and `gaps` says why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whom it is about.
    pub scope: Scope,
    /// The name of the host.
    pub host: String,
    /// When it was made.
    pub at: Moment,
    /// The time that usage, incidents and events are from.
    pub window: Window,
    /// The version of `bailiwickd`; `None` when the reader may not ask.
    pub version: Option<String>,
    /// Problems of the host and of its configuration, as sentences.
    pub problems: Vec<String>,
    /// What could not be asked for, each with the reason.
    pub gaps: Vec<String>,
    /// What the host can enforce, by the audit.
    pub features: Option<HostReport>,
    /// The space of the tenants' disk.
    pub pool: Option<PoolSpace>,
    /// What the host has of processor time, memory and disk, in the units of the measures; for sums, per second.
    pub capacity: Usage,
    /// What all tenants used together, step by step. The peaks are absent, because tenants do not reach theirs together.
    pub history: Vec<Point>,
    /// The tenants.
    pub tenants: Vec<ReportedTenant>,
    /// The incidents, the newest first.
    pub incidents: Vec<Incident>,
    /// The events, the newest first.
    pub events: Vec<Event>,
    /// Whether there are more events in the window.
    pub more_events: bool,
}

/// What a report tells of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportedTenant {
    /// The tenant.
    pub name: TenantName,
    /// Its state; `None` when the reader may not ask.
    pub state: Option<TenantState>,
    /// Its plan.
    pub plan: Option<PlanName>,
    /// Its image.
    pub image: Option<ImageName>,
    /// Its profile.
    pub profile: Option<Profile>,
    /// Whether its file has errors.
    pub invalid: bool,
    /// Why the last start of its jail failed.
    pub failure: Option<String>,
    /// What it used in the window; `None` when nothing was measured.
    pub usage: Option<TenantUsage>,
    /// What it used, step by step.
    pub history: Vec<Point>,
    /// Its part of the audit; `None` when there was none.
    pub audit: Option<TenantReport>,
    /// Its services.
    pub services: Vec<ReportedService>,
    /// Why its services are not as declared.
    pub services_problem: Option<String>,
    /// Its open sessions; `None` when the reader may not ask.
    pub sessions: Option<Vec<SessionRecord>>,
    /// Its network; `None` when it has none, or when nobody asked.
    pub network: Option<NetworkFacts>,
}

impl ReportedTenant {
    /// A tenant of whom nothing is known but its name.
    #[must_use]
    pub fn new(name: TenantName) -> Self {
        Self {
            name,
            state: None,
            plan: None,
            image: None,
            profile: None,
            invalid: false,
            failure: None,
            usage: None,
            history: Vec::new(),
            audit: None,
            services: Vec::new(),
            services_problem: None,
            sessions: None,
            network: None,
        }
    }
}

/// What a report tells of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportedService {
    /// The service.
    pub name: ServiceName,
    /// What init reports of it, which is the tenant's word; `None` when the jail is down or init does not answer.
    pub report: Option<ServiceReport>,
    /// Its sockets.
    pub sockets: Vec<SocketName>,
    /// What is wrong with it, its relays or its sockets; empty when nothing is.
    pub problem: String,
}

impl Report {
    /// Adds the parts of an audit to the tenants, and what it says of the host. Findings about the host are left out: they are among
    /// the problems of the host, and no customer's business.
    pub fn add_audit(&mut self, audit: AuditReport) {
        let AuditReport { tenants, host } = audit;
        let mut by_name: BTreeMap<TenantName, TenantReport> =
            tenants.into_iter().map(|tenant| (tenant.name.clone(), tenant)).collect();
        for tenant in &mut self.tenants {
            tenant.audit = by_name.remove(&tenant.name);
            tenant.audit.iter_mut().for_each(|audit| audit.findings.retain(|finding| finding.tenant.is_some()));
        }
        self.features = Some(host);
    }

    /// Adds up the histories of all tenants. A step in which one was down for some time counts with the time that it ran.
    pub fn add_up(&mut self) {
        let mut steps: BTreeMap<Moment, (u64, Vec<&Point>)> = BTreeMap::new();
        for point in self.tenants.iter().flat_map(|tenant| &tenant.history) {
            let (seconds, points) = steps.entry(point.at).or_default();
            *seconds = (*seconds).max(point.seconds);
            points.push(point);
        }
        let total = |(at, (seconds, points)): (Moment, (u64, Vec<&Point>))| {
            let mut usage = Usage::default();
            for point in points {
                for (measure, value) in &point.usage.0 {
                    let value = match measure.kind() {
                        bailiwick_types::Kind::Sum => *value,
                        bailiwick_types::Kind::Level => weighted(*value, point.seconds, seconds),
                    };
                    let sum = usage.0.entry(*measure).or_default();
                    *sum = sum.saturating_add(value);
                }
            }
            Point { at, seconds, usage, peak: Usage::default() }
        };
        self.history = steps.into_iter().map(total).collect();
    }
}

/// A level that was there for `seconds` of `all` seconds, as an average.
fn weighted(value: u64, seconds: u64, all: u64) -> u64 {
    let value = (u128::from(value) * u128::from(seconds)).checked_div(u128::from(all));
    value.and_then(|value| u64::try_from(value).ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use bailiwick_types::Measure;

    fn point(at: u64, seconds: u64, cpu: u64, memory: u64) -> Point {
        let usage = Usage(BTreeMap::from([(Measure::Cpu, cpu), (Measure::Memory, memory)]));
        Point { at: Moment(at), seconds, peak: usage.clone(), usage }
    }

    #[test]
    fn histories_add_up_by_the_time_that_tenants_ran() {
        let mut report = samples::report(Scope::Host, Vec::new());
        for (name, points) in
            [("a", vec![point(0, 60, 600, 100), point(60, 60, 60, 10)]), ("b", vec![point(0, 30, 90, 100)])]
        {
            let tenant = ReportedTenant::new(name.parse().expect("valid"));
            report.tenants.push(ReportedTenant { history: points, ..tenant });
        }
        report.add_up();
        let golden = [(0, 60, 690, 150), (60, 60, 60, 10)];
        let found = report.history.iter().map(|point| {
            let value = |measure| point.usage.get(measure).expect("measured");
            (point.at.0, point.seconds, value(Measure::Cpu), value(Measure::Memory))
        });
        assert_eq!(found.collect::<Vec<_>>(), golden);
        assert!(report.history.iter().all(|point| point.peak.0.is_empty()));
        assert_eq!((weighted(u64::MAX, u64::MAX, 1), weighted(5, 0, 0)), (u64::MAX, u64::MAX));
    }
}
