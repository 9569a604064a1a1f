//! Events: what happened on the host, to whom, and when. The table of their types is here and nowhere else.
//!
//! Danger: some values of an event are chosen by tenants. Whoever shows them must escape them. A tenant reads its own
//! events, so a type that tells of the host, of operators or of other tenants must not be for tenants.

use crate::{Moment, TenantName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Who may read events of a type, beside operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The tenant that the event is about.
    Tenant,
    /// Nobody else.
    Operators,
}

macro_rules! events {
    ($($variant:ident $word:literal $audience:ident [$($log:literal),*] $meaning:literal;)*) => {
        /// The type of an event. In messages and files it is its word.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum EventType {
            $(#[doc = $meaning] #[serde(rename = $word)] $variant,)*
        }

        impl EventType {
            /// Every type, by family.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its word: a family, a dot, and what happened.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// What it means, in one sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            /// Who may read it, beside operators.
            #[must_use]
            pub const fn audience(self) -> Audience {
                match self { $(Self::$variant => Audience::$audience,)* }
            }

            /// The values of the field `event` in the log of `bailiwickd` that tell of it. An event without one is made
            /// by comparing what is with what was.
            #[must_use]
            pub const fn log_words(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($log),*],)* }
            }
        }
    };
}

events! {
    TenantCreated "tenant.created" Tenant [] "A file of a new tenant was read.";
    TenantDeleted "tenant.deleted" Operators [] "The file of a tenant is gone.";
    TenantSuspended "tenant.suspended" Tenant [] "A tenant is declared as suspended.";
    TenantUnsuspended "tenant.unsuspended" Tenant [] "A tenant is declared as active again.";
    TenantPurged "tenant.purged" Operators ["purged"] "The data of a tenant was destroyed.";
    TenantStarted "tenant.started" Tenant ["started"] "The jail of a tenant was started.";
    TenantStopped "tenant.stopped" Tenant ["stopped"] "The jail of a tenant was stopped.";
    TenantRestarted "tenant.restarted" Tenant ["restarted"] "The jail of a tenant was stopped and started anew.";
    TenantEnded "tenant.ended" Tenant ["jail-ended"] "The jail of a tenant has ended without a request.";
    TenantFrozen "tenant.frozen" Tenant ["frozen"] "The processes of a jail were stopped where they are.";
    TenantThawed "tenant.thawed" Tenant ["thawed"] "The processes of a frozen jail go on.";
    TenantAsleep "tenant.asleep" Tenant ["asleep"] "The jail of an idle tenant was ended until something wakes it.";
    TenantAwake "tenant.awake" Tenant ["awake"] "The jail of a sleeping tenant was started.";
    TenantLimits "tenant.limits" Tenant ["limits written"] "The limits of a running jail were changed.";
    TenantGoesOn "tenant.goes-on" Operators ["goes-on"] "A start or an end takes longer, and goes on.";
    TenantNotMended "tenant.not-mended" Operators ["not-mended"] "A jail could not be brought into its declared state.";
    TenantHostUser "tenant.host-user" Operators ["host-user"] "The host user of a tenant was made or removed.";
    TenantInitSilent "tenant.init-silent" Tenant ["init-silent"] "The init of a jail does not answer.";
    TenantInitAnswers "tenant.init-answers" Tenant ["init-answers"] "The init of a jail answers again.";
    TenantInitReplaced "tenant.init-replaced" Tenant ["init-replaced"] "A jail was made anew because its init was silent.";
    TenantInitNotReplaced "tenant.init-not-replaced" Operators ["init-not-replaced"]
        "A jail with a silent init could not be made anew.";
    LimitNear "limit.near" Tenant [] "A tenant uses 90 % of a limit or more.";
    LimitReached "limit.reached" Tenant [] "A tenant has hit a limit.";
    LimitCleared "limit.cleared" Tenant [] "A tenant is well below a limit again.";
    DiskSoft "disk.soft" Tenant ["soft-limit-passed"] "A tenant has passed a soft limit of its disk; its grace period runs.";
    DiskGrace "disk.grace" Tenant [] "The grace period of a tenant is over, and it can write no more.";
    DiskHard "disk.hard" Tenant [] "A tenant is at a hard limit of its disk.";
    DiskCleared "disk.cleared" Tenant [] "A tenant is below its soft limit of the disk again.";
    IncidentBegun "incident.begun" Tenant ["incident"] "A series of faults has begun.";
    IncidentEnded "incident.ended" Tenant ["incident-over"] "A series of faults is over: there was none for five minutes.";
    SessionOpened "session.opened" Tenant ["session-opened"] "Somebody entered a jail.";
    SessionClosed "session.closed" Tenant ["session-closed"] "A session has ended.";
    SessionRefused "session.refused" Tenant ["session-refused"] "Somebody was not let in.";
    SessionRescue "session.rescue" Tenant ["rescue"] "A tenant at its limits got the reserve for an emergency session.";
    SessionNoRescue "session.no-rescue" Tenant ["no-rescue"] "A tenant at its limits got no reserve for an emergency session.";
    SessionProblem "session.problem" Operators [
        "rescue-not-over", "session-not-counted", "session-not-ended", "session-not-noted", "session-not-resumed",
        "session-not-struck", "sessions-not-resumed"
    ] "The daemon could not do something for a session.";
    ServiceAsked "service.asked" Tenant ["service-verb"] "Services were started or stopped on request.";
    ServiceFailed "service.failed" Tenant ["service-failed"] "A service has ended and is not running.";
    ServiceRecovered "service.recovered" Tenant ["service-recovered"] "A service that had failed runs again.";
    ServiceTurnedAway "service.turned-away" Tenant ["turned-away"] "Connections to a sleeping tenant were answered with 503.";
    ServiceSocketChanged "service.socket-changed" Operators ["socket-changed"] "Somebody has changed the socket of a service; it was put right.";
    ServiceSocketBroken "service.socket-broken" Tenant ["listener-broken"] "A tenant shut the socket of a service down.";
    ServiceSocketMade "service.socket-made" Tenant ["listener-made"] "The socket of a service was made anew.";
    ServiceProblem "service.problem" Operators ["services-not-kept", "not-watched"] "The daemon could not do something for services.";
    JobEnded "job.ended" Tenant ["timer-ended"] "A timer or a job of a crontab has run.";
    JobCrontab "job.crontab" Tenant ["crontab-read"] "The crontab of a tenant was read.";
    JobProblem "job.problem" Operators ["crontab-forgotten", "crontab-not-kept"] "The daemon could not do something for a crontab.";
    NetworkMonth "network.month" Tenant ["month-used"] "A tenant has used a share of its volume of the month.";
    AuditDone "audit.done" Operators ["audit"] "An audit was made and logged.";
    AuditFinding "audit.finding" Operators [] "An audit has a finding that the one before did not have.";
    AuditCleared "audit.cleared" Operators [] "An audit no longer has a finding.";
    AuditNotLogged "audit.not-logged" Operators ["audit-not-logged"] "An audit could not be logged.";
    PolicyInvalid "policy.invalid" Operators ["policy-invalid"] "The configuration has problems that it did not have before.";
    PolicyValid "policy.valid" Operators ["policy-repaired"] "The configuration has no problem any more.";
    OperatorApply "operator.apply" Operators ["apply"] "Somebody applied the configuration.";
    OperatorLifecycle "operator.lifecycle" Operators ["lifecycle"] "Somebody asked to start, stop or otherwise change the jail of a tenant; `actor` is who.";
    OperatorPurge "operator.purge" Operators ["purge"] "Somebody asked to destroy the data of a tenant.";
    OperatorEndSessions "operator.end-sessions" Operators ["end-sessions"] "Somebody ended sessions.";
    HostReady "host.ready" Operators ["ready"] "The daemon has started and serves.";
    HostWardenLost "host.warden-lost" Operators [] "The warden has ended the connection to the daemon.";
    HostWardenBack "host.warden-back" Operators [] "The warden answers again.";
    HostReserve "host.reserve" Operators ["reserve-of-disk"] "The reserve of disk space is reached, or free again.";
    HostCallerRefused "host.caller-refused" Operators ["caller-refused"] "A user without a right asked the daemon for something.";
    HostProblem "host.problem" Operators [
        "accept-failed", "events-not-written", "history-damaged", "history-moved", "history-not-forgotten",
        "history-not-moved", "history-not-written", "logins-not-written", "network-not-asked-for", "no-history",
        "policy-not-kept", "reconcile-failed", "refused-requests-not-counted", "socket-lost", "socket-made-again",
        "timers-forgotten", "timers-not-kept", "traffic-not-measured"
    ] "The daemon could not do something of its own work.";
    EventsLost "events.lost" Operators [] "So many events could not be kept, because they could not be written for long.";
}

impl EventType {
    /// Values of the field `event` in the log that are no events: another type tells the same once.
    pub const NOT_TOLD: &[&str] = &["policy-problem"];

    /// The type that a value of the field `event` in the log tells of.
    #[must_use]
    pub fn of_log(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.log_words().contains(&word))
    }

    /// The part of the word before the dot.
    #[must_use]
    pub fn family(self) -> &'static str {
        self.word().split_once('.').map_or(self.word(), |(family, _)| family)
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// A text is no type of events, nor a family of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there are no events of the type {found:?}; the families are {}", families().join(", "))]
pub struct UnknownEventType {
    /// The text.
    found: String,
}

fn families() -> Vec<&'static str> {
    let mut families: Vec<&str> = EventType::ALL.iter().map(|kind| kind.family()).collect();
    families.dedup();
    families
}

/// The types that a word means: one type (`session.opened`), or all of a family (`session`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventTypes(pub Vec<EventType>);

impl FromStr for EventTypes {
    type Err = UnknownEventType;

    fn from_str(text: &str) -> Result<Self, UnknownEventType> {
        let family = text.strip_suffix(".*").unwrap_or(text);
        let meant = |kind: &EventType| kind.word() == text || kind.family() == family;
        let types: Vec<EventType> = EventType::ALL.iter().copied().filter(meant).collect();
        if types.is_empty() {
            Err(UnknownEventType { found: text.chars().take(80).collect() })
        } else {
            Ok(Self(types))
        }
    }
}

/// A value of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EventValue {
    /// A number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
    /// A text, which a tenant may have chosen.
    Text(String),
}

impl EventValue {
    /// The most bytes of a text.
    pub const MAX_TEXT: usize = 1000;

    /// A text, cut to [`Self::MAX_TEXT`] bytes.
    #[must_use]
    pub fn text(text: &str) -> Self {
        let mut end = text.len().min(Self::MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self::Text(text.get(..end).unwrap_or_default().to_owned())
    }
}

impl From<u64> for EventValue {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for EventValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

/// The values of an event by name. `text` is a sentence for people.
pub type EventData = BTreeMap<String, EventValue>;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number. Numbers ascend in the order of events; one that is missing belongs to an event that was forgotten.
    pub seq: u64,
    /// When it happened.
    pub at: Moment,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// Whom it is about; `None` for the host.
    pub tenant: Option<TenantName>,
    /// The user of the host who asked for it; `None` when nobody did, and for a reader who may not know.
    pub actor: Option<u32>,
    /// The details.
    pub data: EventData,
}

impl Event {
    /// The name of the sentence in [`Self::data`].
    pub const TEXT: &str = "text";
    /// The most values of an event.
    pub const MAX_VALUES: usize = 16;

    /// The event as its tenant may read it; `None` if it may not. The sentence is written for operators and may name who
    /// acted, so it is left out, as the actor is.
    #[must_use]
    pub fn for_tenant(mut self) -> Option<Self> {
        self.actor = None;
        self.data.remove(Self::TEXT);
        (self.kind.audience() == Audience::Tenant).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const DOCUMENT: &str = include_str!("../../../../docs/events.md");

    #[test]
    fn every_word_is_used_once() {
        let words: BTreeSet<&str> = EventType::ALL.iter().map(|kind| kind.word()).collect();
        assert_eq!(words.len(), EventType::ALL.len());
        let log: Vec<&str> = EventType::ALL.iter().flat_map(|kind| kind.log_words()).copied().collect();
        assert_eq!(log.iter().collect::<BTreeSet<_>>().len(), log.len(), "a word of the log means one type");
        assert!(EventType::NOT_TOLD.iter().all(|word| EventType::of_log(word).is_none()));
        for kind in EventType::ALL {
            let (family, what) = kind.word().split_once('.').expect("a dot");
            let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
            assert!(is_plain(family) && is_plain(what), "{kind}");
        }
    }

    #[test]
    fn a_family_is_together_and_means_all_its_types() {
        let families = families();
        assert_eq!(families.iter().collect::<BTreeSet<_>>().len(), families.len());
        let parsed = |text: &str| text.parse::<EventTypes>().map(|types| types.0);
        assert_eq!(parsed("session.opened"), Ok(vec![EventType::SessionOpened]));
        assert_eq!(parsed("session.*"), parsed("session"));
        assert!(parsed("limit").is_ok_and(|types| types.len() == 3));
        let error = parsed("sessions").expect_err("no family").to_string();
        assert!(error.contains("\"sessions\"") && error.contains("session, service"), "{error}");
        assert!(parsed("").is_err() && parsed(".*").is_err());
    }

    #[test]
    fn the_document_has_the_table() {
        let is_type = |line: &&str| {
            line.strip_prefix("| `").is_some_and(|rest| rest.split('`').next().is_some_and(|word| word.contains('.')))
        };
        let rows: Vec<&str> = DOCUMENT.lines().filter(is_type).collect();
        for kind in EventType::ALL {
            let seen = match kind.audience() {
                Audience::Tenant => "yes",
                Audience::Operators => "no",
            };
            let row = format!("| `{}` | {seen} | {} |", kind.word(), kind.meaning());
            assert!(rows.contains(&row.as_str()), "docs/events.md lacks the row: {row}");
        }
        assert_eq!(rows.len(), EventType::ALL.len(), "docs/events.md has a row that no type has");
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let EventValue::Text(text) = EventValue::text(&"ü".repeat(600)) else { panic!("no text") };
        assert_eq!(text.len(), EventValue::MAX_TEXT);
        let EventValue::Text(text) = EventValue::text(&format!("a{}", "ü".repeat(600))) else { panic!("no text") };
        assert_eq!(text.len(), EventValue::MAX_TEXT - 1);
    }

    #[test]
    fn a_tenant_learns_neither_who_acted_nor_what_is_the_hosts() {
        let event = |kind| Event {
            seq: 1,
            at: Moment(1),
            kind,
            tenant: Some("alice".parse().expect("a name")),
            actor: Some(0),
            data: [
                (Event::TEXT.to_owned(), EventValue::text("user 0 did it")),
                ("door".to_owned(), EventValue::text("ssh")),
            ]
            .into(),
        };
        let seen = event(EventType::SessionOpened).for_tenant().expect("its own session");
        assert_eq!((seen.actor, seen.data.len()), (None, 1));
        assert_eq!(event(EventType::TenantNotMended).for_tenant(), None);
    }
}
