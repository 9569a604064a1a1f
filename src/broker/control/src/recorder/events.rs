//! Events: the queue of the outbox goes into the history, and what is now is compared with what was told last.
//!
//! A comparison finds what happened while nobody could tell: this program was killed between a change and its event, or
//! was down while files changed.

use super::*;
use crate::outbox::{DECLARED, DOWN, JAIL, RUNNING};
use bailiwick_history::{EventPage, EventQuery, HistoryError, ToldStates};
use bailiwick_policy::{Declared, EventsKept};
use bailiwick_types::{EventData, EventType, EventValue, Severity};

/// The least time between two batches. Each waits for the disk.
const BATCH_TIME: Duration = Duration::from_millis(100);
/// The pause after a batch that could not be written.
const PAUSE: Duration = Duration::from_secs(2);
/// After so many events, those above the bound are removed without waiting for the next minute.
const SHORTEN_AFTER: usize = 5000;

/// The subjects of what is told, and their states.
const BEGUN: &str = "begun";
const ACTIVE: &str = "active";
const SUSPENDED: &str = "suspended";
const FINDING: &str = "finding:";
const WARDEN: &str = "warden";
pub(super) const LOST: Option<&str> = Some("lost");

/// When events are written.
#[derive(Debug)]
pub(super) struct EventWriter {
    pub(super) next: Instant,
    since_shortened: usize,
    complained: Option<Instant>,
    /// Whether it is known what was told, so that something can be compared with it.
    knows_told: bool,
}

impl Default for EventWriter {
    fn default() -> Self {
        Self { next: Instant::now(), since_shortened: 0, complained: None, knows_told: false }
    }
}

/// Removes what is older, or more, than the policy keeps.
pub(super) fn shorten(history: &mut History, kept: EventsKept, at: Moment) -> Result<(), HistoryError> {
    history.shorten_events(Moment(at.0.saturating_sub(kept.keep.0)), kept.most.into())
}

fn data<const N: usize>(values: [(&str, EventValue); N]) -> EventData {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn reason(state: &Declared) -> EventData {
    match state {
        Declared::Suspended { reason: Some(reason) } => data([("reason", EventValue::text(reason))]),
        _ => EventData::new(),
    }
}

impl RecorderState {
    /// Writes the next events, if it is time.
    pub(super) fn write_events(&mut self) {
        let outbox = Arc::clone(&self.sources.outbox);
        if Instant::now() < self.events.next || !outbox.is_waiting() {
            return;
        }
        if self.history.is_err() {
            self.open_history();
        }
        let Ok(history) = &mut self.history else {
            self.events.next = Instant::now() + PAUSE;
            return;
        };
        let (spool, batch) = outbox.batch();
        match history.append_events(spool, &batch) {
            Ok(last) => {
                outbox.is_written(batch.len(), last);
                self.events.next = Instant::now() + BATCH_TIME;
                self.events.since_shortened += batch.len();
                self.complain_of_spool(outbox.problem());
            }
            Err(error) => {
                self.events.next = Instant::now() + PAUSE;
                let message = Failure::new(ExitStatus::Failed, &error).message;
                *lock(&self.problem) = Some(message.clone());
                self.complain_of_events(&message);
            }
        }
        if self.events.since_shortened >= SHORTEN_AFTER {
            self.events.since_shortened = 0;
            let kept = self.sources.policy.host().events;
            // The next minute tries again, and tells of a failure.
            drop(self.history.as_mut().ok().map(|history| shorten(history, kept, now())));
        }
    }

    fn complain_of_spool(&mut self, problem: Option<String>) {
        if let Some(problem) = problem {
            self.complain_of_events(&format!("{problem}; a kill of bailiwickd would lose the last events"));
        }
    }

    /// Warns that events are not kept, at most once in [`COMPLAINT_TIME`].
    fn complain_of_events(&mut self, message: &str) {
        if self.events.complained.is_none_or(|last| last.elapsed() >= COMPLAINT_TIME) {
            self.events.complained = Some(Instant::now());
            warn!(event = "events-not-written", "{message}");
        }
    }

    /// Events as a reader may see them.
    pub(crate) fn events(&mut self, query: &EventQuery) -> Result<EventPage, Failure> {
        self.history()?.events(query).map_err(|error| Failure::new(ExitStatus::Failed, &error))
    }

    /// Learns what was told, from a history that was just opened. A history that tells of nothing yet begins with the
    /// tenants that are declared: nobody hears of a thousand old tenants as new ones.
    pub(super) fn learn_told(&mut self) {
        let Ok(history) = &mut self.history else { return };
        let read = history.told().and_then(|told| Ok((told, history.last_event()?)));
        let Ok((mut told, last)) = read else { return };
        if !told.contains_key(&(None, BEGUN.to_owned())) {
            let loaded = self.sources.policy.loaded();
            let tenants = loaded.policy.tenants.values();
            let states = tenants.map(|tenant| ((Some(tenant.name.clone()), DECLARED.to_owned()), word(&tenant.state)));
            let mut first: ToldStates = states.map(|(whose, state)| (whose, state.to_owned())).collect();
            drop(loaded);
            first.insert((None, BEGUN.to_owned()), "yes".to_owned());
            if history.begin_told(&first).is_err() {
                return;
            }
            told.extend(first);
        }
        self.sources.outbox.learn(told, last);
        self.events.knows_told = true;
    }

    /// Tells which tenants were declared, suspended and so on since it was told last.
    pub(super) fn compare_policy(&mut self) {
        if !self.events.knows_told {
            return;
        }
        let outbox = &self.sources.outbox;
        let told = outbox.told();
        let loaded = self.sources.policy.loaded();
        for tenant in loaded.policy.tenants.values() {
            let event = |before: Option<&str>| match (before, &tenant.state) {
                (None, state) => {
                    let plan = EventValue::text(tenant.plan.as_str());
                    let mut data = data([("plan", plan), ("state", EventValue::text(word(state)))]);
                    data.extend(reason(state));
                    (EventType::TenantCreated, data)
                }
                (_, Declared::Active) => (EventType::TenantUnsuspended, EventData::new()),
                (_, state) => (EventType::TenantSuspended, reason(state)),
            };
            outbox.observe(Some(&tenant.name), DECLARED, Some(word(&tenant.state)), event);
        }
        let declared = told.into_keys().filter_map(|(tenant, subject)| tenant.filter(|_| subject == DECLARED));
        // A tenant whose file cannot be read is not gone.
        let is_gone = |name: &TenantName| !loaded.policy.tenants.contains_key(name) && !loaded.invalid.contains(name);
        for tenant in declared.filter(is_gone) {
            outbox.observe(Some(&tenant), DECLARED, None, |_| (EventType::TenantDeleted, EventData::new()));
        }
    }

    /// Tells which jails have started and ended while no event could come, after the roster was read. A tenant of which
    /// something was told since `before` is left out: the roster may be older.
    pub(super) fn compare_jails(&mut self, before: &ToldStates) {
        self.tell_of_warden(None);
        if !self.events.knows_told {
            return;
        }
        let outbox = &self.sources.outbox;
        let found = || data([("found", EventValue::Flag(true))]);
        let unchanged = |tenant: &TenantName| {
            let told = before.get(&(Some(tenant.clone()), JAIL.to_owned())).cloned();
            (told == outbox.told_of(tenant, JAIL)).then_some(told)
        };
        for tenant in self.live.keys() {
            if unchanged(tenant).is_some_and(|told| told.as_deref() != Some(RUNNING)) {
                outbox.observe(Some(tenant), JAIL, Some(RUNNING), |_| (EventType::TenantStarted, found()));
            }
        }
        for ((tenant, subject), state) in before {
            let Some(tenant) = tenant.as_ref().filter(|_| subject == JAIL && state == RUNNING) else { continue };
            if !self.live.contains_key(tenant) && unchanged(tenant).is_some() {
                outbox.observe(Some(tenant), JAIL, Some(DOWN), |_| (EventType::TenantStopped, found()));
            }
        }
    }

    /// Tells that the warden is gone, or back.
    pub(super) fn tell_of_warden(&self, state: Option<&str>) {
        let kind = if state.is_some() { EventType::HostWardenLost } else { EventType::HostWardenBack };
        self.sources.outbox.observe(None, WARDEN, state, |_| (kind, EventData::new()));
    }

    /// Tells what an audit has found in tenants that the audit before had not, and the reverse.
    pub(super) fn compare_findings(&self, report: &AuditReport) {
        if !self.events.knows_told {
            return;
        }
        let outbox = &self.sources.outbox;
        let told = outbox.told();
        for tenant in &report.tenants {
            let subject = |id: &str| format!("{FINDING}{id}");
            for finding in &tenant.findings {
                let severity = match finding.severity {
                    Severity::Critical => "critical",
                    Severity::Warning => "warning",
                    Severity::Notice => "notice",
                };
                let event = |_: Option<&str>| {
                    let id = EventValue::text(&finding.id);
                    let values = [
                        ("id", id),
                        ("severity", EventValue::text(severity)),
                        ("text", EventValue::text(&finding.evidence)),
                    ];
                    (EventType::AuditFinding, data(values))
                };
                outbox.observe(Some(&tenant.name), &subject(&finding.id), Some(severity), event);
            }
            let found: BTreeSet<String> = tenant.findings.iter().map(|finding| subject(&finding.id)).collect();
            let of_tenant = told.keys().filter(|(whose, _)| whose.as_ref() == Some(&tenant.name));
            for (_, gone) in of_tenant.filter(|(_, subject)| subject.starts_with(FINDING) && !found.contains(subject)) {
                let id = EventValue::text(gone.trim_start_matches(FINDING));
                outbox.observe(Some(&tenant.name), gone, None, |_| (EventType::AuditCleared, data([("id", id)])));
            }
        }
    }
}

fn word(state: &Declared) -> &'static str {
    match state {
        Declared::Active => ACTIVE,
        Declared::Suspended { .. } => SUSPENDED,
    }
}
