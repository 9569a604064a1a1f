//! The reports of `plan`, `audit` and `doctor`. Their serialised names are documented and stable.

use crate::{LimitKey, LimitKind, LimitValue, Moment, Resource, TenantName, TimerName, UnknownLimit};
use serde::{Deserialize, Serialize};

/// A difference between the declared and the actual state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The tenant.
    pub tenant: TenantName,
    /// The name of the part that differs: `state`, `limits.memory`, `profile`, ...
    pub what: String,
    /// The actual value.
    pub actual: String,
    /// The declared value.
    pub declared: String,
    /// The action that removes the difference.
    pub action: Action,
}

/// The action that removes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Start the jail.
    Start,
    /// Stop the jail.
    Stop,
    /// Stop the jail and start it again.
    Restart,
    /// Write a limit to the running jail.
    Live,
    /// Make or remove the record of the host user.
    HostUser,
    /// No automatic action exists. An operator must act.
    None,
}

/// The state of a tenant in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TenantState {
    /// The jail runs.
    Running,
    /// The jail runs, and its processes are frozen.
    Frozen,
    /// The tenant is declared active, and its jail is down.
    Down,
    /// The jail is down until something wakes it: a connection, a login, a due timer or an operator.
    Asleep,
    /// An operator stopped the jail.
    Stopped,
    /// The tenant is declared suspended, and its jail is down.
    Suspended,
    /// The jail of a suspended tenant runs, read-only, for the doors that stay open.
    SuspendedReadOnly,
    /// The jail is ending: its init was asked to end or was killed, and some processes are not gone yet.
    Clearing,
    /// The jail runs, but its init does not answer.
    Unresponsive,
    /// No file declares the tenant, but its data still exists.
    Deleted,
    /// The jail is down. The tenant's file has errors, and no earlier declaration is known.
    Invalid,
}

impl TenantState {
    /// All states, in the order of their declaration.
    pub const ALL: [Self; 11] = [
        Self::Running,
        Self::Frozen,
        Self::Down,
        Self::Asleep,
        Self::Stopped,
        Self::Suspended,
        Self::SuspendedReadOnly,
        Self::Clearing,
        Self::Unresponsive,
        Self::Deleted,
        Self::Invalid,
    ];

    /// The word in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Frozen => "frozen",
            Self::Down => "down",
            Self::Asleep => "asleep",
            Self::Stopped => "stopped",
            Self::Suspended => "suspended",
            Self::SuspendedReadOnly => "suspended-read-only",
            Self::Clearing => "clearing",
            Self::Unresponsive => "unresponsive",
            Self::Deleted => "deleted",
            Self::Invalid => "invalid",
        }
    }
}

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The operator should know it.
    Notice,
    /// A limit or a wall is not as declared.
    Warning,
    /// A wall is down.
    Critical,
}

impl Severity {
    /// All severities.
    pub const ALL: [Self; 3] = [Self::Notice, Self::Warning, Self::Critical];

    /// The word in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// One result of an audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The id: `BW` and three digits. An id is never reused with another meaning.
    pub id: String,
    /// Its severity.
    pub severity: Severity,
    /// The tenant; `None` for the host.
    pub tenant: Option<TenantName>,
    /// What was read, and where.
    pub evidence: String,
    /// What an operator can do about it.
    pub remedy: String,
}

/// The verdict of an audit on one limit, one wall or one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The kernel enforces it as declared.
    Enforced,
    /// The tenant has no jail now.
    Down,
    /// This host cannot enforce it, and the policy does not require it.
    Nominal,
    /// It is not as declared.
    Drift,
    /// A wall is down.
    Breached,
}

/// One limit in an audit. A message has its values as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "LimitReportText", try_from = "LimitReportText")]
pub struct LimitReport {
    /// The limit.
    pub key: LimitKey,
    /// The value that the policy declares.
    pub declared: LimitValue,
    /// The value that the kernel enforces.
    pub enforced: Option<LimitValue>,
    /// The use, in the kernel's unit.
    pub used: Option<u64>,
    /// The highest use.
    pub peak: Option<u64>,
    /// The number of times that the limit was hit.
    pub faults: Option<u64>,
    /// The verdict.
    pub verdict: Verdict,
}

impl LimitReport {
    /// The unused amount, in the unit of the use. `None` for a rate, because its use has another unit.
    #[must_use]
    pub fn headroom(&self) -> Option<u64> {
        let used = self.used.filter(|_| self.key.kind() != LimitKind::Rate)?;
        Some(self.enforced?.hard()?.saturating_sub(used))
    }
}

/// A [`LimitReport`] as text in a message.
#[derive(Serialize, Deserialize)]
struct LimitReportText {
    resource: LimitKey,
    declared: String,
    enforced: Option<String>,
    used: Option<u64>,
    peak: Option<u64>,
    faults: Option<u64>,
    headroom: Option<u64>,
    verdict: Verdict,
}

impl From<LimitReport> for LimitReportText {
    fn from(report: LimitReport) -> Self {
        let headroom = report.headroom();
        let LimitReport { key, declared, enforced, used, peak, faults, verdict } = report;
        let (declared, enforced) = (key.in_words(declared), enforced.map(|value| key.in_words(value)));
        Self { resource: key, declared, enforced, used, peak, faults, headroom, verdict }
    }
}

impl TryFrom<LimitReportText> for LimitReport {
    type Error = UnknownLimit;
    fn try_from(text: LimitReportText) -> Result<Self, UnknownLimit> {
        let LimitReportText { resource: key, declared, enforced, used, peak, faults, verdict, .. } = text;
        let value = |words: &str| key.value_of(words).ok_or(UnknownLimit);
        let (declared, enforced) = (value(&declared)?, enforced.as_deref().map(value).transpose()?);
        Ok(Self { key, declared, enforced, used, peak, faults, verdict })
    }
}

/// A timer of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerReport {
    /// The tenant.
    pub tenant: TenantName,
    /// The timer's name.
    pub timer: TimerName,
    /// The declared schedule.
    pub schedule: String,
    /// The command, cut to a short text.
    pub command: String,
    /// The time of the next run; `None` if the timer does not run, because the tenant is suspended or its door `cron`
    /// is closed.
    pub next: Option<Moment>,
    /// Whether the timer does not run because the tenant's door `cron` is closed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub door_closed: bool,
    /// The last known run.
    pub last: Option<TimerRun>,
}

/// One run of a timer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerRun {
    /// When it started.
    pub begun: Moment,
    /// When it ended; `None` while it runs, or if its end was missed.
    pub ended: Option<Moment>,
    /// The exit status, or 128 plus the number of the signal; `None` if it is not known.
    pub status: Option<u8>,
    /// The reason if it was refused.
    pub refused: Option<String>,
}

/// The sessions of a tenant, as `bailiwickd` counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionCount {
    /// The number of sessions now.
    pub now: u64,
    /// The highest number at the same time since `bailiwickd` started.
    pub most: u64,
    /// The number of sessions that the limit refused since then.
    pub refused: u64,
}

/// One wall in an audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallReport {
    /// The name of the wall: `namespaces`, `id-maps`, `mounts`, `masks`, `capabilities`, `seccomp`, `landlock`,
    /// `no-new-privs`, `membership`.
    pub wall: String,
    /// What was read.
    pub evidence: String,
    /// The verdict.
    pub verdict: Verdict,
}

/// One attempt inside a jail at something that must fail, and its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// The attempt: `call mount`, `write /proc/sysrq-trigger`, ...
    pub attempt: String,
    /// The expected result.
    pub expected: String,
    /// The actual result, as a process inside reported it.
    pub told: String,
    /// The verdict.
    pub verdict: Verdict,
}

/// One tenant in an audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantReport {
    /// The tenant.
    pub name: TenantName,
    /// The worst verdict of all parts.
    pub verdict: Verdict,
    /// The walls.
    pub walls: Vec<WallReport>,
    /// The limits.
    #[serde(deserialize_with = "crate::known_items")]
    pub limits: Vec<LimitReport>,
    /// The attempts; empty if the audit made none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeReport>,
    /// The findings.
    pub findings: Vec<Finding>,
}

/// A whole audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// The tenants that the audit was asked for.
    pub tenants: Vec<TenantReport>,
    /// The host.
    pub host: HostReport,
}

/// The features of the host that walls and limits need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// The release of the kernel.
    pub kernel: String,
    /// The features.
    pub features: Vec<FeatureReport>,
}

/// Whether a feature of the host works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeatureState {
    /// It works: it was read or tried.
    Works,
    /// It works in part: some limit or wall is only nominal.
    Limited,
    /// It is missing. Tenants that require it are refused.
    Missing,
}

/// One feature of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureReport {
    /// Its name.
    pub feature: String,
    /// Whether it works.
    pub state: FeatureState,
    /// What was read or tried.
    pub evidence: String,
    /// What an operator can do; empty if the feature works.
    pub remedy: String,
}

impl FeatureReport {
    /// The resource that this feature limits; `None` for any other feature. Such a feature has the word of its resource
    /// as its name.
    #[must_use]
    pub fn resource(&self) -> Option<Resource> {
        self.feature.parse().ok()
    }
}
