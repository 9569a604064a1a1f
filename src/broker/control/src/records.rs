//! Requests to the recorder: usage, history, faults, incidents, the audit log, and what other limits would have done.

use crate::permission::{OperatorPermission, Scope};
use crate::recorder::{Recorder, RecorderState};
use crate::tenants::Tenants;
use bailiwick_audit::chain::Head;
use bailiwick_proto::Failure;
use bailiwick_proto::control::{MOST_ROWS, SimulatedLimit};
use bailiwick_types::{
    AuditReport, ExitStatus, Fault, Incident, Kind, Moment, Point, TenantName, TenantUsage, Usage, Window,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use tracing::{info, warn};

/// The most steps of one series.
const MOST_STEPS: u64 = 20_000;

fn failed(error: bailiwick_history::HistoryError) -> Failure {
    Failure::new(ExitStatus::Failed, &error)
}

/// The named tenants; `None`, for all, if the list is empty.
fn named(tenants: Vec<TenantName>) -> Option<Vec<TenantName>> {
    (!tenants.is_empty()).then_some(tenants)
}

/// A window with bounds that keep all later computations from overflow.
fn bounded(window: Window) -> Result<Window, Failure> {
    const LAST: u64 = 1 << 40;
    if window.from.0 >= window.until.0 {
        return Err(Failure::of(ExitStatus::Invalid, "the window ends before it begins"));
    }
    Ok(Window { from: Moment(window.from.0.min(LAST)), until: Moment(window.until.0.min(LAST)) })
}

/// Answers what was recorded of tenants, to callers who may read it.
#[derive(Debug)]
pub(crate) struct Records {
    tenants: Arc<Tenants>,
    recorder: Arc<Recorder>,
}

impl Records {
    pub(crate) fn new(tenants: Arc<Tenants>, recorder: Arc<Recorder>) -> Self {
        Self { tenants, recorder }
    }

    /// Appends an audit to the audit log. If that fails, the audit is still returned to its caller.
    pub(crate) async fn log_audit(&self, report: AuditReport) {
        match self.recorder.with(move |work| work.log_audit(&report)).await {
            // The mark goes to the journal. A person who can change the log cannot change the journal or its remote
            // copies.
            Ok(Ok(mark)) => info!(target: "bailiwick::event", event = "audit", mark = %mark, "audited, mark {mark}"),
            Ok(Err(error)) => warn!(target: "bailiwick::event", event = "audit-not-logged", "{error}"),
            Err(failure) => warn!(target: "bailiwick::event", event = "audit-not-logged", "{failure}"),
        }
    }

    /// Verifies the audit log.
    pub(crate) async fn verify_audits(
        &self,
        _permission: OperatorPermission,
        mark: Option<String>,
    ) -> Result<(Option<String>, Vec<String>), Failure> {
        let expected = match mark.as_deref().map(str::parse::<Head>) {
            None => None,
            Some(Ok(head)) => Some(head),
            Some(Err(error)) => return Err(Failure::new(ExitStatus::Invalid, &error)),
        };
        let looked = self.recorder.with(move |work| work.verify_audits(expected)).await?;
        let looked =
            looked.map_err(|error| Failure::of(ExitStatus::Failed, format!("cannot read the log: {error}")))?;
        Ok((looked.head.map(|head| head.to_string()), looked.problems))
    }

    /// The usage of tenants in a window, or now if there is none.
    pub(crate) async fn usage(
        &self,
        scope: &Scope,
        tenants: Vec<TenantName>,
        window: Option<Window>,
    ) -> Result<Vec<TenantUsage>, Failure> {
        let tenants = scope.of(tenants)?;
        self.tenants.check_known(&tenants)?;
        let tenants = named(tenants);
        let Some(window) = window else {
            let mut all = self.recorder.with(|work| work.look()).await??;
            all.retain(|usage| tenants.as_ref().is_none_or(|tenants| tenants.contains(&usage.tenant)));
            return Ok(all);
        };
        let window = bounded(window)?;
        self.recorder.with(move |work| work.usage(tenants.as_deref(), window)).await?
    }

    /// The usage of one tenant, step by step.
    pub(crate) async fn history(
        &self,
        scope: &Scope,
        tenant: TenantName,
        window: Window,
        step: u64,
    ) -> Result<Vec<Point>, Failure> {
        scope.of(vec![tenant.clone()])?;
        self.tenants.check_known(std::slice::from_ref(&tenant))?;
        let window = bounded(window)?;
        let steps = (window.until.0 - window.from.0) / step.max(60);
        if steps > MOST_STEPS {
            let message = format!("{steps} steps are over the limit of {MOST_STEPS}; ask for longer ones");
            return Err(Failure::of(ExitStatus::Invalid, message));
        }
        self.recorder.with(move |work| work.history()?.series(&tenant, window, step).map_err(failed)).await?
    }

    /// The faults of tenants in a window.
    pub(crate) async fn faults(
        &self,
        scope: &Scope,
        tenants: Vec<TenantName>,
        window: Window,
    ) -> Result<Vec<Fault>, Failure> {
        let tenants = scope.of(tenants)?;
        self.tenants.check_known(&tenants)?;
        let (tenants, window) = (named(tenants), bounded(window)?);
        let read = move |work: &mut RecorderState| {
            work.history()?.faults(tenants.as_deref(), window, MOST_ROWS).map_err(failed)
        };
        self.recorder.with(read).await?
    }

    /// The incidents of tenants in a window, without their evidence.
    pub(crate) async fn incidents(
        &self,
        scope: &Scope,
        tenants: Vec<TenantName>,
        window: Window,
    ) -> Result<Vec<Incident>, Failure> {
        let tenants = scope.of(tenants)?;
        self.tenants.check_known(&tenants)?;
        let (tenants, window) = (named(tenants), bounded(window)?);
        let read = move |work: &mut RecorderState| {
            work.history()?.incidents(tenants.as_deref(), window, MOST_ROWS).map_err(failed)
        };
        let mut incidents = self.recorder.with(read).await??;
        incidents.iter_mut().for_each(|incident| incident.snapshots.clear());
        Ok(incidents)
    }

    /// One incident with its evidence. A tenant sees only its own incidents, without the name of the neighbour.
    pub(crate) async fn incident(&self, scope: &Scope, id: u64) -> Result<Incident, Failure> {
        let found = self.recorder.with(move |work| work.history()?.incident(id).map_err(failed)).await??;
        let seen = found.and_then(|mut incident| match scope {
            Scope::All => Some(incident),
            Scope::Own(own) if incident.tenant == own.tenant => {
                for share in incident.snapshots.iter_mut().flat_map(|snapshot| &mut snapshot.pressure) {
                    share.neighbour = None;
                }
                Some(incident)
            }
            Scope::Own(_) => None,
        });
        seen.ok_or_else(|| Failure::of(ExitStatus::NotFound, format!("there is no incident {id}")))
    }

    /// How often tenants would have exceeded other limits.
    pub(crate) async fn simulate(
        &self,
        _permission: OperatorPermission,
        window: Window,
        bounds: BTreeMap<TenantName, Usage>,
    ) -> Result<Vec<SimulatedLimit>, Failure> {
        let window = bounded(window)?;
        let tenants: Vec<TenantName> = bounds.keys().cloned().collect();
        let simulate = move |work: &mut RecorderState| -> Result<Vec<SimulatedLimit>, Failure> {
            let history = work.history()?;
            let mut found = Vec::new();
            for (tenant, total) in history.totals(window, Some(&tenants)).map_err(failed)? {
                for (measure, bound) in bounds.get(&tenant).into_iter().flat_map(|bounds| &bounds.0) {
                    let Some(peak) = total.peak.get(*measure) else { continue };
                    // A sample of a sum covers one minute.
                    let (most, peak) = match measure.kind() {
                        Kind::Sum => (bound.saturating_mul(60), peak / 60),
                        Kind::Level => (*bound, peak),
                    };
                    let (over, measured) = history.minutes_over(&tenant, window, *measure, most).map_err(failed)?;
                    let (tenant, measure, bound) = (tenant.clone(), *measure, *bound);
                    found.push(SimulatedLimit { tenant, measure, bound, over, measured, peak });
                }
            }
            Ok(found)
        };
        self.recorder.with(simulate).await?
    }
}
