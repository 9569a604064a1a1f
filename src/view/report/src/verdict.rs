//! Sums a report up: one sentence, and what needs attention, the worst first.

use crate::data::{Report, ReportedTenant};
use bailiwick_types::{
    ByteSize, LimitKey, Measure, RefusedPacket, Severity, TenantName, TenantState, TenantUsage,
    Verdict as AuditVerdict, part, percent,
};
use std::collections::{BTreeMap, BTreeSet};

/// The share of a limit, in thousandths, from which a tenant is near it: where the event `limit.near` begins.
pub(crate) const NEAR: u64 = 900;

/// The most findings of one tenant that are told one by one.
const MOST_FINDINGS: usize = 3;

/// How urgent something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// All is well.
    Fine,
    /// A limit is near, or was hit.
    Near,
    /// A wall or a limit does not hold, or something does not run.
    Problem,
}

impl Level {
    /// The word, and the class of the page.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Near => "near",
            Self::Problem => "problem",
        }
    }
}

/// What a note is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// A finding of the audit.
    Finding,
    /// A limit that was hit.
    Hit,
    /// Something else.
    Other,
}

/// Something that needs attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// How urgent it is.
    pub level: Level,
    /// The tenant; `None` for the host.
    pub tenant: Option<TenantName>,
    /// What it is about.
    pub about: About,
    /// What it is. A tenant may have chosen parts of it.
    pub text: String,
}

/// What a report amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The most urgent level.
    pub level: Level,
    /// One sentence.
    pub sentence: String,
    /// What needs attention, the most urgent first.
    pub notes: Vec<Note>,
    /// The names of all tenants: those with the most urgent notes first, then those that are nearest to a limit.
    pub order: Vec<TenantName>,
}

/// The measures whose limits a tenant can be near to. A rate is no bound that anybody runs into: it slows down.
const BOUNDED: [Measure; 7] =
    [Measure::Cpu, Measure::Memory, Measure::Swap, Measure::Tasks, Measure::Disk, Measure::Inodes, Measure::Sessions];

/// The limit that a tenant came nearest to, and its share in thousandths.
pub(crate) fn nearest(usage: &TenantUsage) -> Option<(Measure, u64)> {
    let shares = BOUNDED.into_iter().filter_map(|measure| Some((measure, usage.part(measure)?)));
    shares.max_by_key(|(_, share)| *share)
}

/// Whether a hit of a limit needs attention. Waiting for a processor or a disk is what such a limit is for, and most
/// refused packets are what a policy refuses on purpose.
fn is_notable(fault: &str) -> bool {
    if fault.starts_with("network-month") || fault.strip_prefix("network-") == Some(RefusedPacket::Connections.word()) {
        return true;
    }
    fault.parse::<LimitKey>().is_ok_and(|key| {
        !matches!(key, LimitKey::Cpu | LimitKey::IoRead | LimitKey::IoWrite | LimitKey::IopsRead | LimitKey::IopsWrite)
    })
}

/// The share of the month's volume that is used, in thousandths.
fn month_share(tenant: &ReportedTenant) -> Option<u64> {
    let facts = tenant.network.as_ref()?;
    Some(part(facts.month, facts.volume()?.bytes.0))
}

/// Collects the notes about one tenant.
struct Notes(Vec<Note>, TenantName);

impl Notes {
    fn add(&mut self, level: Level, text: String) {
        self.add_about(About::Other, level, text);
    }

    fn add_about(&mut self, about: About, level: Level, text: String) {
        self.0.push(Note { level, tenant: Some(self.1.clone()), about, text });
    }
}

/// What needs attention of one tenant.
fn notes_of(tenant: &ReportedTenant) -> Vec<Note> {
    let mut notes = Notes(Vec::new(), tenant.name.clone());
    let why = |why: &Option<String>| why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    match tenant.state {
        Some(TenantState::Down) => notes.add(Level::Problem, format!("the jail is down{}", why(&tenant.failure))),
        Some(TenantState::Unresponsive) => notes.add(Level::Problem, "the jail's init does not answer".to_owned()),
        Some(TenantState::Invalid) => {
            notes.add(Level::Problem, "the file has errors, and no earlier version is known".to_owned());
        }
        _ if tenant.failure.is_some() => {
            notes.add(Level::Problem, format!("the last start failed{}", why(&tenant.failure)));
        }
        _ => {}
    }
    if tenant.invalid && tenant.state != Some(TenantState::Invalid) {
        notes.add(Level::Problem, "the file has errors; its last good version is in force".to_owned());
    }
    let findings = tenant.audit.iter().flat_map(|audit| &audit.findings);
    let mut findings: Vec<_> = findings.filter(|finding| finding.severity >= Severity::Warning).collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    for finding in findings.iter().take(MOST_FINDINGS) {
        notes.add_about(
            About::Finding,
            Level::Problem,
            format!("{} {}: {}", finding.id, finding.severity.word(), finding.evidence),
        );
    }
    if findings.len() > MOST_FINDINGS {
        notes.add_about(About::Finding, Level::Problem, format!("{} more findings", findings.len() - MOST_FINDINGS));
    }
    for service in tenant.services.iter().filter(|service| !service.problem.is_empty()) {
        notes.add(Level::Problem, format!("service {}: {}", service.name, service.problem));
    }
    if let Some(problem) = &tenant.services_problem {
        notes.add(Level::Problem, format!("services: {problem}"));
    }
    for difference in tenant.network.iter().flat_map(|network| &network.differences) {
        notes.add(Level::Problem, format!("network: {difference}"));
    }
    if let Some(usage) = &tenant.usage {
        for measure in BOUNDED {
            let Some(share) = usage.part(measure).filter(|share| *share >= NEAR) else { continue };
            let limit = usage.limits.get(measure).map(|limit| measure.rate_in_words(limit)).unwrap_or_default();
            notes.add(Level::Near, format!("{measure} came to {} of its limit of {limit}", percent(share)));
        }
        for (fault, count) in usage.faults.iter().filter(|(fault, count)| **count > 0 && is_notable(fault)) {
            let times = if *count == 1 { "once".to_owned() } else { format!("{count} times") };
            notes.add_about(About::Hit, Level::Near, format!("the limit {fault} was hit {times}"));
        }
    }
    if let Some(share) = month_share(tenant).filter(|share| *share >= NEAR) {
        let month = tenant.network.as_ref().map_or(0, |network| network.month);
        let used = ByteSize(month).rounded();
        notes.add(Level::Near, format!("the network has used {used}, {} of the volume of the month", percent(share)));
    }
    notes.0
}

impl Report {
    /// Sums the report up.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut notes: Vec<Note> = Vec::new();
        for problem in self.problems.iter().chain(&self.gaps) {
            notes.push(Note { level: Level::Problem, tenant: None, about: About::Other, text: problem.clone() });
        }
        let mut ranked = Vec::new();
        for tenant in &self.tenants {
            let own = notes_of(tenant);
            let level = own.iter().map(|note| note.level).max().unwrap_or(Level::Fine);
            let worst = own.iter().filter(|note| note.level == Level::Problem).count();
            let share = tenant.usage.as_ref().and_then(nearest).map_or(0, |(_, share)| share);
            ranked.push((std::cmp::Reverse((level, worst, own.len(), share)), tenant.name.clone()));
            notes.extend(own);
        }
        ranked.sort();
        let order: Vec<TenantName> = ranked.into_iter().map(|(_, name)| name).collect();
        let place: BTreeMap<&TenantName, usize> = order.iter().enumerate().map(|(place, name)| (name, place)).collect();
        notes.sort_by_key(|note| {
            let place = note.tenant.as_ref().and_then(|name| place.get(name).copied());
            (std::cmp::Reverse(note.level), place)
        });
        let level = notes.first().map_or(Level::Fine, |note| note.level);
        Summary { level, sentence: self.sentence(&notes), notes, order }
    }

    fn sentence(&self, notes: &[Note]) -> String {
        if self.tenants.is_empty() {
            return "There is no tenant.".to_owned();
        }
        let is_one = self.scope != crate::data::Scope::Host;
        let audits: Vec<_> = self.tenants.iter().filter_map(|tenant| tenant.audit.as_ref()).collect();
        let mut parts = Vec::new();
        if audits.is_empty() {
            let hit = notes.iter().any(|note| note.about == About::Hit);
            parts.push(if hit { "Limits were hit" } else { "No limit was hit" }.to_owned());
        } else {
            let verdicts = audits.iter().flat_map(|audit| {
                audit.limits.iter().map(|limit| limit.verdict).chain(audit.walls.iter().map(|wall| wall.verdict))
            });
            let (mut broken, mut nominal) = (0, 0);
            for verdict in verdicts {
                match verdict {
                    AuditVerdict::Drift | AuditVerdict::Breached => broken += 1,
                    AuditVerdict::Nominal => nominal += 1,
                    AuditVerdict::Enforced | AuditVerdict::Down => {}
                }
            }
            parts.push(match (broken, nominal) {
                (0, 0) if audits.iter().all(|audit| audit.verdict == AuditVerdict::Down) => {
                    if is_one { "The jail does not run" } else { "No jail runs" }.to_owned()
                }
                (0, 0) => "All limits and walls hold".to_owned(),
                (0, 1) => "All limits and walls hold but one that this host cannot enforce".to_owned(),
                (0, nominal) => format!("All limits and walls hold but {nominal} that this host cannot enforce"),
                (1, _) => "One limit or wall does not hold".to_owned(),
                (broken, _) => format!("{broken} limits and walls do not hold"),
            });
        }
        let near: BTreeSet<_> =
            notes.iter().filter(|note| note.level == Level::Near).map(|note| &note.tenant).collect();
        parts.push(match (near.len(), is_one) {
            (0, true) => "none is near".to_owned(),
            (_, true) => "a limit is near or was hit".to_owned(),
            (0, false) => "no tenant is near a limit".to_owned(),
            (1, false) => "1 tenant is near a limit".to_owned(),
            (near, false) => format!("{near} tenants are near a limit"),
        });
        if !audits.is_empty() {
            let count = |severity| {
                audits.iter().flat_map(|audit| &audit.findings).filter(|finding| finding.severity == severity).count()
            };
            let (warnings, critical) = (count(Severity::Warning), count(Severity::Critical));
            parts.push(match (warnings + critical, critical) {
                (0, _) => "audit: no findings".to_owned(),
                (1, 0) => "audit: 1 finding".to_owned(),
                (all, 0) => format!("audit: {all} findings"),
                (1, _) => "audit: 1 finding, which is critical".to_owned(),
                (all, critical) => format!("audit: {all} findings, {critical} of them critical"),
            });
        }
        match notes.iter().filter(|note| note.level == Level::Problem && note.about == About::Other).count() {
            0 => {}
            1 => parts.push("1 other problem".to_owned()),
            other => parts.push(format!("{other} other problems")),
        }
        format!("{}.", parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Scope;
    use crate::samples::{report, tenant};
    use bailiwick_types::Finding;

    fn finding(severity: Severity) -> Finding {
        let (evidence, remedy) = ("memory.max is max".to_owned(), String::new());
        Finding { id: "BW012".to_owned(), severity, tenant: None, evidence, remedy }
    }

    #[test]
    fn a_host_on_which_all_is_well_says_so() {
        let summary = report(Scope::Host, vec![tenant("alice", 5), tenant("bob", 5)]).summary();
        assert_eq!(summary.sentence, "All limits and walls hold; no tenant is near a limit; audit: no findings.");
        assert_eq!((summary.level, summary.notes.len()), (Level::Fine, 0));
        let mut one = report(Scope::OwnTenant, vec![tenant("alice", 5)]);
        one.tenants[0].audit = None;
        assert_eq!(one.summary().sentence, "No limit was hit; none is near.");
        assert_eq!(report(Scope::Host, Vec::new()).summary().sentence, "There is no tenant.");
    }

    #[test]
    fn problems_come_first_and_then_what_is_nearest_to_a_limit() {
        let [calm, mut near, mut nearer, mut broken, mut down] =
            ["calm", "near", "nearer", "broken", "down"].map(|name| tenant(name, 5));
        let peak = |tenant: &mut ReportedTenant, tasks| {
            let usage = tenant.usage.as_mut().expect("measured");
            usage.total.peak.0.insert(Measure::Tasks, tasks);
        };
        peak(&mut near, 90);
        peak(&mut nearer, 97);
        broken.audit.as_mut().expect("audited").findings = vec![finding(Severity::Critical), finding(Severity::Notice)];
        broken.audit.as_mut().expect("audited").limits[0].verdict = AuditVerdict::Drift;
        down.state = Some(TenantState::Down);
        down.failure = Some("no disk".to_owned());
        let summary = report(Scope::Host, vec![calm, near, nearer, broken, down]).summary();
        let order: Vec<&str> = summary.order.iter().map(TenantName::as_str).collect();
        assert_eq!(order, ["broken", "down", "nearer", "near", "calm"]);
        let notes: Vec<_> = summary.notes.iter().map(|note| (note.level, note.text.as_str())).collect();
        let golden = [
            (Level::Problem, "BW012 critical: memory.max is max"),
            (Level::Problem, "the jail is down: no disk"),
            (Level::Near, "tasks came to 97.0% of its limit of 100"),
            (Level::Near, "tasks came to 90.0% of its limit of 100"),
        ];
        assert_eq!(notes, golden);
        let sentence = "One limit or wall does not hold; 2 tenants are near a limit; audit: 1 finding, which is critical; \
                        1 other problem.";
        assert_eq!((summary.level, summary.sentence.as_str()), (Level::Problem, sentence));
    }

    #[test]
    fn hits_that_a_limit_is_there_for_need_no_attention() {
        let words =
            ["cpu", "io_read", "network-smtp", "network-not-allowed", "network-invalid", "pressure-io", "nothing"];
        assert!(words.iter().all(|word| !is_notable(word)));
        let words = ["memory", "tasks", "disk", "inodes", "sessions", "sessions_ssh", "entries", "network-connections"];
        assert!(words.iter().chain(&["network-month", "network-month-80"]).all(|word| is_notable(word)));
        let mut hit = tenant("alice", 5);
        let usage = hit.usage.as_mut().expect("measured");
        usage.faults = [("cpu", 900), ("memory", 1), ("tasks", 2)].map(|(word, count)| (word.to_owned(), count)).into();
        let summary = report(Scope::Host, vec![hit]).summary();
        let texts: Vec<&str> = summary.notes.iter().map(|note| note.text.as_str()).collect();
        assert_eq!(texts, ["the limit memory was hit once", "the limit tasks was hit 2 times"]);
        assert_eq!(summary.level, Level::Near);
    }

    #[test]
    fn many_findings_of_one_tenant_are_counted() {
        let mut many = tenant("alice", 5);
        many.audit.as_mut().expect("audited").findings = vec![finding(Severity::Warning); 5];
        let summary = report(Scope::Host, vec![many]).summary();
        assert_eq!((summary.notes.len(), summary.notes[3].text.as_str()), (4, "2 more findings"));
        assert!(summary.sentence.ends_with("audit: 5 findings."), "{}", summary.sentence);
    }
}
