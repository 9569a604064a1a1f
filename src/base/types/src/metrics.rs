//! What `bailiwick-exporter` is told: cumulative readings of the host and of each tenant.

use crate::{
    Door, Measure, MemoryKinds, Moment, NetworkTraffic, PlanName, RefusedPacket, ServiceCounts, Severity, TenantName,
    TenantState, Usage,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The most tenants of one [`MetricsPage`].
pub const MOST_METERED: usize = 1000;

/// How much the metrics tell of each tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetricsDetail {
    /// Nothing: only the host has metrics.
    None,
    /// Processor time, memory, tasks and disk space.
    #[default]
    Core,
    /// Everything that is measured.
    All,
}

impl MetricsDetail {
    /// All of them, from the least to the most.
    pub const ALL: [Self; 3] = [Self::None, Self::Core, Self::All];

    /// The word in files and on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Core => "core",
            Self::All => "all",
        }
    }
}

impl fmt::Display for MetricsDetail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// The word does not say how much is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} does not say how much is told of tenants; one of none, core, all")]
pub struct UnknownDetail(String);

impl FromStr for MetricsDetail {
    type Err = UnknownDetail;
    fn from_str(text: &str) -> Result<Self, UnknownDetail> {
        Self::ALL.into_iter().find(|detail| detail.word() == text).ok_or_else(|| UnknownDetail(text.to_owned()))
    }
}

/// A part of the metrics: at most [`MOST_METERED`] tenants, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsPage {
    /// The host; only on the first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Box<HostMetrics>>,
    /// The tenants.
    pub tenants: Vec<TenantMetrics>,
    /// The tenant after which the next page begins; `None` on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<TenantName>,
}

/// What the metrics tell of the host. A missing value was not measured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostMetrics {
    /// The version of `bailiwickd`.
    pub version: String,
    /// How much is told of each tenant.
    pub detail: MetricsDetail,
    /// For how many seconds these readings may be used again.
    pub cache: u64,
    /// When `bailiwickd` started.
    pub started: Moment,
    /// Whether the warden answers.
    pub warden_up: bool,
    /// How many tenants are in each state. `None` when the warden did not answer.
    pub tenants: Option<BTreeMap<TenantState, u64>>,
    /// Whether the reserve of disk space is reached, so that no tenant can take more.
    pub reserve_reached: Option<bool>,
    /// The file system of tenants' storage.
    pub pool: Option<PoolSpace>,
    /// When the history was last written.
    pub history_written: Option<Moment>,
    /// When the last audit was logged.
    pub audited: Option<Moment>,
    /// How many problems the files of the policy have.
    pub policy_problems: u64,
    /// When these files were last read.
    pub policy_read: Moment,
    /// How many sessions were refused since `bailiwickd` started.
    pub sessions_refused: u64,
    /// How long starts of jails took since `bailiwickd` started.
    pub jail_starts: DurationCounts,
}

/// The space of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSpace {
    /// All of it.
    pub size: u64,
    /// What users other than root may still take.
    pub free: u64,
}

/// How many durations were at most how long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DurationCounts {
    /// The number in each bucket of [`Self::BOUNDS`], and in the one above the last bound. Empty before the first.
    pub buckets: Vec<u64>,
    /// The sum in microseconds.
    pub micros: u64,
}

impl DurationCounts {
    /// The upper bounds of the buckets, in milliseconds.
    pub const BOUNDS: [u64; 10] = [20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000];

    /// Counts a duration.
    pub fn count(&mut self, duration: std::time::Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets.resize(Self::BOUNDS.len() + 1, 0);
        let bucket = Self::BOUNDS.partition_point(|bound| bound.saturating_mul(1000) < micros);
        self.buckets[bucket] = self.buckets[bucket].saturating_add(1);
        self.micros = self.micros.saturating_add(micros);
    }
}

/// What the metrics tell of one tenant. A missing value was not measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantMetrics {
    /// The tenant.
    pub tenant: TenantName,
    /// Its plan; `None` when no file declares it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanName>,
    /// Levels at present, and sums since its jail was started.
    pub usage: Usage,
    /// What its memory is used for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryKinds>,
    /// What only [`MetricsDetail::All`] tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<Box<TenantMore>>,
}

/// What only [`MetricsDetail::All`] tells of a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TenantMore {
    /// Its sessions by door.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sessions: BTreeMap<Door, u64>,
    /// What it has sent and received since the router was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<NetworkTraffic>,
    /// Packets that the router has refused, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<RefusedPacket, u64>,
    /// What counts against its volume of this month.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub month: Option<MonthUse>,
    /// Its hard limits, in the units of their measures; for sums, per second.
    #[serde(skip_serializing_if = "is_empty")]
    pub limits: Usage,
    /// Its quotas of disk space and files; none while the host's reserve is reached, when the kernel's are others.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub quotas: BTreeMap<Measure, QuotaReading>,
    /// How often limits were hit since `bailiwickd` started, by the word of the limit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub faults: BTreeMap<String, u64>,
    /// How many incidents began since `bailiwickd` started, by their kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub incidents: BTreeMap<String, u64>,
    /// The findings of its last audit since `bailiwickd` started, by severity; `None` when there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub findings: Option<BTreeMap<Severity, u64>>,
    /// Its services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<ServiceCounts>,
}

/// The bounds of a quota, as the kernel has them. A bound of 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaReading {
    /// The soft bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft: Option<u64>,
    /// The hard bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard: Option<u64>,
    /// When the grace period is over, in seconds since 1970; while the use is above the soft bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_until: Option<u64>,
}

fn is_empty(usage: &Usage) -> bool {
    usage.0.is_empty()
}

/// What counts against a volume of the month, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonthUse {
    /// What was used.
    pub used: u64,
    /// The volume; `None` when there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn durations_are_counted_up_to_the_bound_of_their_bucket() {
        let mut counts = DurationCounts::default();
        for millis in [0, 20, 21, 30_000, 30_001, 9_000_000] {
            counts.count(Duration::from_millis(millis));
        }
        assert_eq!(counts.buckets, [2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(counts.micros, 9_060_042_000);
    }

    #[test]
    fn details_read_as_they_are_written_and_ascend() {
        for detail in MetricsDetail::ALL {
            assert_eq!(detail.word().parse(), Ok(detail));
        }
        assert!(MetricsDetail::ALL.is_sorted());
        let error = "some".parse::<MetricsDetail>().expect_err("no word");
        assert_eq!(error.to_string(), "\"some\" does not say how much is told of tenants; one of none, core, all");
    }
}
