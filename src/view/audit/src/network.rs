//! The network of a tenant as the router has it, which only `bailiwick-net` sees.
//!
//! Danger: when `bailiwick-net` does not answer, nobody has looked at the router. That is a finding, never silence.

use crate::finding::{self, FindingKind, Violation, findings, list};
use crate::judge::verdict;
use crate::walls::{NETWORK, is_connected};
use bailiwick_policy::Tenant;
use bailiwick_types::{
    ByteSize, NetworkFacts, NetworkLimits, NetworkMode, ObservedJail, TenantName, TenantReport, Verdict, WallReport,
};
use std::net::IpAddr;

/// The name of the row with the limits of the network.
const LIMITS: &str = "network-limits";

/// A difference between the router, or its link to the host, and what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterProblem {
    /// The id of the finding, as `bailiwick-net` says it.
    pub finding: String,
    /// The tenant that it concerns; `None` for all.
    pub tenant: Option<TenantName>,
    /// What differs.
    pub text: String,
}

/// What `bailiwick-net` said of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkSeen<'a> {
    /// It answered.
    Answer {
        /// The tenant's network; `None` when `bailiwick-net` says nothing of it.
        facts: Option<&'a NetworkFacts>,
        /// What is wrong with the router, for all tenants.
        problems: &'a [RouterProblem],
    },
    /// It did not answer, for this reason.
    Silent(&'a str),
}

/// Adds what `bailiwick-net` said of a tenant's network to its report. `jail` is its jail, if one runs. A tenant without a declared
/// network gets nothing.
pub fn add_network(report: &mut TenantReport, tenant: &Tenant, jail: Option<&ObservedJail>, seen: NetworkSeen<'_>) {
    if tenant.settings.network.mode == NetworkMode::None {
        return;
    }
    let jail = jail.filter(|jail| is_connected(tenant, jail));
    let mut violations = Vec::new();
    match seen {
        NetworkSeen::Silent(why) => violations.push(finding::ROUTER_SILENT.violation(why.to_owned())),
        NetworkSeen::Answer { facts, problems } => {
            // What is used of a month is among the facts.
            let others = problems.iter().filter(|problem| problem.finding != finding::MONTH_USED.id);
            let own = others.filter(|problem| problem.tenant.as_ref().is_none_or(|name| *name == tenant.name));
            violations.extend(own.map(|problem| kind(&problem.finding).violation(problem.text.clone())));
            if jail.is_some() {
                violations.extend(link_violations(facts).into_iter().map(|text| finding::LINK_OTHER.violation(text)));
            }
            violations.extend(facts.and_then(|facts| month_violation(tenant, facts)));
        }
    }
    if jail.is_some() {
        add_walls(report, tenant, seen, &violations);
    }
    report.verdict = report.verdict.max(verdict(&violations));
    report.findings.extend(findings(&tenant.name, &violations));
}

/// The kind of a problem of `bailiwick-net`. One that this version does not know is about what all jails share.
fn kind(id: &str) -> FindingKind {
    let known = [
        finding::LINK_OTHER,
        finding::ROUTER_RULES,
        finding::ROUTER_ELEMENTS,
        finding::UPLINK,
        finding::ROUTER_ROUTES,
        finding::COUNT_BACKWARD,
        finding::CACHE_DOWN,
    ];
    known.into_iter().find(|kind| kind.id == id).unwrap_or(finding::UPLINK)
}

fn link_violations(facts: Option<&NetworkFacts>) -> Vec<String> {
    match facts {
        None => vec!["bailiwick-net does not know it".to_owned()],
        Some(facts) if facts.link.is_none() && facts.differences.is_empty() => {
            vec!["the router has no link to it".to_owned()]
        }
        Some(facts) => facts.differences.clone(),
    }
}

fn month_violation(tenant: &Tenant, facts: &NetworkFacts) -> Option<Violation> {
    let month = tenant.settings.network.month.as_ref()?;
    let used = format!("{} of {} used in this month", ByteSize(facts.month).rounded(), month.bytes);
    let text = if month.is_over(facts.month) {
        format!("{used}; then = \"{}\"", month.then)
    } else {
        format!("{used}, which is more than {} %", month.reached(facts.month).last()?)
    };
    Some(finding::MONTH_USED.violation(text))
}

/// Adds what was read to the wall of interfaces, and a row for the limits.
fn add_walls(report: &mut TenantReport, tenant: &Tenant, seen: NetworkSeen<'_>, violations: &[Violation]) {
    let is_limit = |violation: &&Violation| [finding::MONTH_USED, finding::COUNT_BACKWARD].contains(&violation.kind);
    let (of_limits, of_wall): (Vec<_>, Vec<_>) = violations.iter().partition(is_limit);
    let worst = |violations: &[&Violation]| {
        violations.iter().map(|violation| violation.kind.verdict()).max().unwrap_or(Verdict::Enforced)
    };
    let shown = |violations: &[&Violation]| {
        list(violations.iter().map(|violation| format!("{} {}", violation.kind.id, violation.evidence)))
    };
    let facts = match seen {
        NetworkSeen::Answer { facts, .. } => facts,
        NetworkSeen::Silent(_) => None,
    };
    let words = |addresses: &[IpAddr]| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
    let own = facts.map_or_else(String::new, |facts| {
        let link = facts.link.as_deref().unwrap_or("no link");
        format!("{link} in the router, which lets it send from {} alone", words(&facts.addresses))
    });
    let evidence = if of_wall.is_empty() { own } else { shown(&of_wall) };
    match report.walls.iter_mut().find(|wall| wall.wall == NETWORK) {
        Some(wall) => {
            wall.evidence = format!("{}; {evidence}", wall.evidence);
            wall.verdict = wall.verdict.max(worst(&of_wall));
        }
        None => report.walls.push(WallReport { wall: NETWORK.to_owned(), evidence, verdict: worst(&of_wall) }),
    }
    let mut evidence = facts.map_or_else(|| "not known".to_owned(), |facts| limits_text(tenant, facts));
    if !of_limits.is_empty() {
        evidence = format!("{evidence}; {}", shown(&of_limits));
    }
    let silent = if facts.is_none_or(|facts| facts.limits.is_none()) { Verdict::Drift } else { Verdict::Enforced };
    report.walls.push(WallReport { wall: LIMITS.to_owned(), evidence, verdict: worst(&of_limits).max(silent) });
}

/// The limits as they are in the kernel, with the volume that the router holds or counts.
fn limits_text(tenant: &Tenant, facts: &NetworkFacts) -> String {
    let Some(NetworkLimits { up, down, connections, stops_at }) = facts.limits else { return "not known".to_owned() };
    let connections = connections.map_or_else(|| "unlimited".to_owned(), |most| most.to_string());
    let month = match (stops_at, &tenant.settings.network.month) {
        (Some(bytes), _) => format!("stops at {bytes}"),
        (None, Some(month)) => format!("{}, then \"{}\"", month.bytes, month.then),
        (None, None) => "unlimited".to_owned(),
    };
    let used = ByteSize(facts.month).rounded();
    format!("in the kernel: up {up}, down {down}, connections {connections}; month {month}, {used} used")
}
