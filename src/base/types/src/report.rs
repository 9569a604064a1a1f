//! What `plan`, `audit` and `doctor` report. The serialised names are documented and stable.

use crate::{LimitKey, LimitKind, LimitValue, Moment, Resource, TenantName, TimerName, UnknownLimit};
use serde::{Deserialize, Serialize};

/// One difference between declared and actual.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Whose.
    pub tenant: TenantName,
    /// What differs: `state`, `limits.memory`, `profile`, ...
    pub what: String,
    /// As it is.
    pub actual: String,
    /// As it is declared.
    pub declared: String,
    /// What removes the difference.
    pub action: Action,
}

/// What removes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The jail is started.
    Start,
    /// The jail is stopped.
    Stop,
    /// The jail is stopped and started anew.
    Restart,
    /// A limit is written to the running jail.
    Live,
    /// The record of its host user is made or removed.
    HostUser,
    /// Nothing happens automatically. An operator must act.
    None,
}

/// How a tenant is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TenantState {
    /// The jail runs.
    Running,
    /// The jail runs and is frozen.
    Frozen,
    /// Declared active, and down.
    Down,
    /// An operator stopped it.
    Stopped,
    /// Declared suspended.
    Suspended,
    /// The jail of a suspended tenant runs, read-only, for the doors that stay open.
    SuspendedReadOnly,
    /// Its jail is on its way out: asked to end or killed, and not gone yet.
    Clearing,
    /// The jail runs, and its init does not answer.
    Unresponsive,
    /// Its file is gone, its data is not.
    Deleted,
    /// It is down, its file has errors, and nothing is known from before.
    Invalid,
}

impl TenantState {
    /// The word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Frozen => "frozen",
            Self::Down => "down",
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
    /// Worth knowing.
    Notice,
    /// A limit or wall is not as declared.
    Warning,
    /// A wall is down.
    Critical,
}

/// One result of an audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// `BW` and three digits. An id is never reused for another meaning.
    pub id: String,
    /// How severe.
    pub severity: Severity,
    /// Whose; `None` for the host.
    pub tenant: Option<TenantName>,
    /// What was read, and where it was read.
    pub evidence: String,
    /// What to do about it.
    pub remedy: String,
}

/// The verdict of an audit on one limit, one wall or one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As declared, according to the kernel.
    Enforced,
    /// The tenant has no jail at present.
    Down,
    /// Declared, but this host cannot enforce it and the policy does not require it.
    Nominal,
    /// Not as declared.
    Drift,
    /// A wall is down.
    Breached,
}

/// One limit in an audit. A message has its values as words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "LimitReportText", try_from = "LimitReportText")]
pub struct LimitReport {
    /// Which limit.
    pub key: LimitKey,
    /// As the policy has it.
    pub declared: LimitValue,
    /// As the kernel has it.
    pub enforced: Option<LimitValue>,
    /// In use, in the kernel's unit.
    pub used: Option<u64>,
    /// The most that was in use.
    pub peak: Option<u64>,
    /// How often it was hit.
    pub faults: Option<u64>,
    /// The judgement.
    pub verdict: Verdict,
}

impl LimitReport {
    /// What is free, in the unit of what is used. `None` for a rate, whose use has no comparable unit.
    #[must_use]
    pub fn headroom(&self) -> Option<u64> {
        let used = self.used.filter(|_| self.key.kind() != LimitKind::Rate)?;
        Some(self.enforced?.hard()?.saturating_sub(used))
    }
}

/// A [`LimitReport`] in a message.
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
    /// Whose.
    pub tenant: TenantName,
    /// Its name.
    pub timer: TimerName,
    /// Its schedule, as declared.
    pub schedule: String,
    /// Its command, cut short.
    pub command: String,
    /// When it runs next; `None` when it does not run, because the tenant is suspended or its door `cron` is closed.
    pub next: Option<Moment>,
    /// Whether it does not run because the tenant's door `cron` is closed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub door_closed: bool,
    /// The last run that is known.
    pub last: Option<TimerRun>,
}

/// One run of a timer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerRun {
    /// When.
    pub begun: Moment,
    /// When it ended; `None` while it runs, or when its end was missed.
    pub ended: Option<Moment>,
    /// Its exit status, 128 plus the number for a signal; `None` when unknown.
    pub status: Option<u8>,
    /// Why it did not run.
    pub refused: Option<String>,
}

/// The sessions of a tenant, as `bailiwickd` counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionCount {
    /// Now.
    pub now: u64,
    /// The most at the same time since `bailiwickd` started.
    pub most: u64,
    /// Refusals at the limit since then.
    pub refused: u64,
}

/// One wall in an audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallReport {
    /// `namespaces`, `id-maps`, `mounts`, `masks`, `capabilities`, `seccomp`, `landlock`, `no-new-privs`, `membership`.
    pub wall: String,
    /// What was read.
    pub evidence: String,
    /// The judgement.
    pub verdict: Verdict,
}

/// The result of an attempt inside a jail at something that must fail there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// What was tried: `call mount`, `write /proc/sysrq-trigger`, ...
    pub attempt: String,
    /// The expected result.
    pub expected: String,
    /// The result, as a process inside reported it.
    pub told: String,
    /// The judgement.
    pub verdict: Verdict,
}

/// One tenant in an audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantReport {
    /// Whose.
    pub name: TenantName,
    /// The worst of all below.
    pub verdict: Verdict,
    /// Each wall.
    pub walls: Vec<WallReport>,
    /// Each limit.
    #[serde(deserialize_with = "crate::known_items")]
    pub limits: Vec<LimitReport>,
    /// Each attempt; empty when the audit made none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeReport>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// A whole audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// Each tenant asked for.
    pub tenants: Vec<TenantReport>,
    /// The host.
    pub host: HostReport,
}

/// What the host can enforce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// Release of the kernel.
    pub kernel: String,
    /// Feature by feature.
    pub features: Vec<FeatureReport>,
}

/// How a feature of the host stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeatureState {
    /// Works, and was tried or read.
    Works,
    /// Works in part: some limit or wall is only nominal.
    Limited,
    /// Missing, and tenants that require it are refused.
    Missing,
}

/// One feature of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureReport {
    /// Its name.
    pub feature: String,
    /// How it stands.
    pub state: FeatureState,
    /// What was read or tried.
    pub evidence: String,
    /// What to do when it does not work; empty when it does.
    pub remedy: String,
}

impl FeatureReport {
    /// The resource that this feature bounds; `None` for any other feature. The feature of a resource has its word as its name.
    #[must_use]
    pub fn resource(&self) -> Option<Resource> {
        self.feature.parse().ok()
    }
}
