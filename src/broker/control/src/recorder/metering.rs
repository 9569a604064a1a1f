//! The metrics of tenants: the last readings, and what was counted since this program started.
//!
//! A reading is shared: who asks soon after a sample, or after another request, gets the same one. The warden is not asked, so an
//! answer comes even while the warden does not work.

use super::*;
use bailiwick_types::{MOST_METERED, MetricsDetail, QuotaFact, QuotaReading, Severity, TenantMetrics, TenantMore};
use std::ops::Bound::{Excluded, Unbounded};

/// Counts of one tenant, by the word of what was counted.
type Counts = BTreeMap<String, u64>;

/// What is kept for the metrics beside the readings.
#[derive(Debug, Default)]
pub(super) struct Metering {
    /// When all tenants were last read.
    pub(super) measured: Option<Instant>,
    /// Whether the reserve of disk space is reached; `None` before that is known.
    pub(super) reserve_reached: Option<bool>,
    /// When the history was last written.
    pub(super) history_written: Option<Moment>,
    faults: BTreeMap<TenantName, Counts>,
    incidents: BTreeMap<TenantName, Counts>,
    findings: BTreeMap<TenantName, BTreeMap<Severity, u64>>,
}

fn add(counts: &mut BTreeMap<TenantName, Counts>, tenant: &TenantName, word: String, count: u64) {
    let sum = counts.entry(tenant.clone()).or_default().entry(word).or_default();
    *sum = sum.saturating_add(count);
}

impl Metering {
    /// Counts hits of a limit. What the router refuses is counted by the router.
    pub(super) fn faulted(&mut self, tenant: &TenantName, kind: IncidentKind, count: u64) {
        if let IncidentKind::Limit(limit) = kind {
            add(&mut self.faults, tenant, limit.word().to_owned(), count);
        }
    }

    pub(super) fn incident_began(&mut self, tenant: &TenantName, kind: IncidentKind) {
        add(&mut self.incidents, tenant, kind.to_string(), 1);
    }

    /// Notes the findings of an audit, for the tenants that it was about.
    pub(super) fn audited(&mut self, report: &AuditReport) {
        for tenant in &report.tenants {
            let mut counts: BTreeMap<Severity, u64> = Severity::ALL.map(|severity| (severity, 0)).into();
            for finding in &tenant.findings {
                *counts.entry(finding.severity).or_default() += 1;
            }
            self.findings.insert(tenant.name.clone(), counts);
        }
    }

    pub(super) fn forget(&mut self, tenant: &TenantName) {
        self.faults.remove(tenant);
        self.incidents.remove(tenant);
        self.findings.remove(tenant);
    }
}

/// What the recorder knows of the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostMeter {
    pub(crate) reserve_reached: Option<bool>,
    pub(crate) history_written: Option<Moment>,
    pub(crate) audited: Option<Moment>,
}

/// Whether a measure of a running jail is part of [`MetricsDetail::Core`].
fn is_core(measure: Measure) -> bool {
    use Measure::{Cpu, Disk, Inodes, Memory, Swap, Tasks, Throttled};
    matches!(measure, Cpu | Throttled | Memory | Swap | Tasks | Disk | Inodes)
}

impl RecorderState {
    /// What is known of the host.
    pub(crate) fn host_meter(&self) -> HostMeter {
        let Metering { reserve_reached, history_written, .. } = self.metering;
        HostMeter { reserve_reached, history_written, audited: self.audits.last() }
    }

    /// The metrics of at most [`MOST_METERED`] tenants that come after a name, and the last of their names if there are more.
    /// A reading that is younger than `fresh` is used again.
    pub(crate) fn metrics(
        &mut self,
        detail: MetricsDetail,
        after: Option<&TenantName>,
        fresh: Duration,
    ) -> (Vec<TenantMetrics>, Option<TenantName>) {
        if detail == MetricsDetail::None {
            return (Vec::new(), None);
        }
        if self.metering.measured.is_none_or(|at| at.elapsed() >= fresh) {
            self.measure(detail);
        }
        let policy = Arc::clone(&self.sources.policy);
        let loaded = policy.loaded();
        let range = (after.map_or(Unbounded, Excluded), Unbounded);
        // One name more than a page has tells whether there is another page.
        let first = |names: &mut dyn Iterator<Item = &TenantName>| {
            names.take(MOST_METERED + 1).cloned().collect::<Vec<TenantName>>()
        };
        let mut names: BTreeSet<TenantName> = BTreeSet::new();
        names.extend(first(&mut loaded.policy.tenants.range::<TenantName, _>(range).map(|(name, _)| name)));
        names.extend(first(&mut self.live.range::<TenantName, _>(range).map(|(name, _)| name)));
        names.extend(first(&mut self.disks.range::<TenantName, _>(range).map(|(name, _)| name)));
        let has_more = names.len() > MOST_METERED;
        let names: Vec<TenantName> = names.into_iter().take(MOST_METERED).collect();
        let next = names.last().filter(|_| has_more).cloned();
        let mut sessions =
            if detail == MetricsDetail::All { self.sources.sessions.all_by_door() } else { BTreeMap::new() };
        let one = |tenant: TenantName| {
            let declared = loaded.policy.tenants.get(&tenant);
            let plan = declared.map(|declared| declared.plan.clone());
            let mut more = None;
            if detail == MetricsDetail::All {
                let limits = declared.map(|declared| Usage::bounds(&declared.settings.limits)).unwrap_or_default();
                more = Some(Box::new(self.more_of(&tenant, limits, sessions.remove(&tenant).unwrap_or_default())));
            }
            self.core_of(tenant, plan, more)
        };
        (names.into_iter().map(one).collect(), next)
    }

    /// Reads all tenants whose jails run.
    fn measure(&mut self, detail: MetricsDetail) {
        if detail == MetricsDetail::All && self.traffic.answers() {
            self.read_traffic();
        }
        if let Some(meter) = &self.meter {
            for live in self.live.values_mut() {
                live.metered = meter.read(&live.gauge);
            }
        }
        self.metering.measured = Some(Instant::now());
    }

    fn core_of(
        &self,
        tenant: TenantName,
        plan: Option<bailiwick_types::PlanName>,
        more: Option<Box<TenantMore>>,
    ) -> TenantMetrics {
        let live = self.live.get(&tenant);
        let all = live.iter().flat_map(|live| &live.metered.usage.0);
        // Traffic is told by version of IP.
        let is_meant = |measure: Measure| is_core(measure) || (more.is_some() && !measure.is_traffic());
        let mut usage: BTreeMap<Measure, u64> =
            all.filter(|(measure, _)| is_meant(**measure)).map(|(measure, value)| (*measure, *value)).collect();
        if let Some(disk) = self.disks.get(&tenant) {
            usage.insert(Measure::Disk, disk.bytes.used);
            usage.extend(disk.inodes.map(|inodes| (Measure::Inodes, inodes.used)));
        }
        let memory = live.and_then(|live| live.metered.memory);
        TenantMetrics { tenant, plan, usage: Usage(usage), memory, more }
    }

    fn quotas_of(&self, tenant: &TenantName) -> BTreeMap<Measure, QuotaReading> {
        let Some(disk) = self.disks.get(tenant).filter(|disk| !disk.held_back) else { return BTreeMap::new() };
        let reading = |quota: &QuotaFact| QuotaReading {
            soft: quota.soft,
            hard: quota.hard,
            grace_until: quota.grace_until.filter(|until| *until > 0),
        };
        let inodes = disk.inodes.as_ref().map(|inodes| (Measure::Inodes, reading(inodes)));
        [(Measure::Disk, reading(&disk.bytes))].into_iter().chain(inodes).collect()
    }

    fn more_of(
        &self,
        tenant: &TenantName,
        limits: Usage,
        sessions: BTreeMap<bailiwick_types::Door, u64>,
    ) -> TenantMore {
        let (refused, month) = self.traffic.told(tenant);
        TenantMore {
            sessions,
            traffic: self.traffic.families(tenant),
            refused,
            month,
            limits,
            quotas: self.quotas_of(tenant),
            faults: self.metering.faults.get(tenant).cloned().unwrap_or_default(),
            incidents: self.metering.incidents.get(tenant).cloned().unwrap_or_default(),
            findings: self.metering.findings.get(tenant).cloned(),
            services: None,
        }
    }
}
