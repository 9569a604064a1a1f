//! `usage`, `history`, `faults`, `incidents` and `top`: asks `bailiwickd` for its recorded data.

use crate::output::{self, Form};
use crate::top::{self, Data};
use crate::usage::{self, Selection, incident};
use bailiwick_client::{AskError, Daemon};
use bailiwick_proto::{ControlReply, ControlRequest, Failure};
use bailiwick_types::{Measure, Moment, Period, Point, TenantName, Window};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often `top` refreshes.
const TOP_INTERVAL: Duration = Duration::from_secs(2);
/// Length of the history of a tenant in `top`, and of its steps, in seconds.
const TOP_HISTORY: u64 = 3600;
const TOP_STEP: u64 = 60;

/// `bailiwick usage`: over a window, or at present.
pub(crate) fn usage(
    daemon: &Daemon,
    tenants: Vec<TenantName>,
    window: Option<Window>,
    selection: Selection,
    form: Form,
) -> Result<(), Failure> {
    let request = ControlRequest::Usage { tenants, window };
    let ControlReply::Usage(tenants) = daemon.ask(&request)? else { return Err(AskError::Unexpected.into()) };
    output::print_in(form, &usage::usage(&usage::select(tenants, selection), form))
}

/// `bailiwick history`.
pub(crate) fn history(
    daemon: &Daemon,
    tenant: TenantName,
    window: Window,
    step: Option<Period>,
    form: Form,
) -> Result<(), Failure> {
    let step = step.map_or_else(|| fitting_step(window, 40), |step| step.0);
    let points = series(daemon, tenant, window, step)?;
    output::print_in(form, &usage::history(&points, &usage::local(), form))
}

/// Asks for the history of a tenant in steps of `step` seconds.
pub(crate) fn series(daemon: &Daemon, tenant: TenantName, window: Window, step: u64) -> Result<Vec<Point>, Failure> {
    match daemon.ask(&ControlRequest::History { tenant, window, step })? {
        ControlReply::History(points) => Ok(points),
        _ => Err(AskError::Unexpected.into()),
    }
}

/// The shortest step, in seconds, that divides the window into at most `most` steps; at most a day.
pub(crate) fn fitting_step(window: Window, most: u64) -> u64 {
    const STEPS: [u64; 9] = [60, 300, 600, 900, 1800, 3600, 3 * 3600, 6 * 3600, 86_400];
    let length = window.until.0.saturating_sub(window.from.0);
    STEPS.into_iter().find(|step| length / step <= most).unwrap_or(86_400)
}

/// `bailiwick faults`.
pub(crate) fn faults(daemon: &Daemon, tenants: Vec<TenantName>, window: Window, form: Form) -> Result<(), Failure> {
    let ControlReply::Faults(faults) = daemon.ask(&ControlRequest::Faults { tenants, window })? else {
        return Err(AskError::Unexpected.into());
    };
    output::print_in(form, &usage::faults(&faults, &usage::local(), form))
}

/// `bailiwick incidents`.
pub(crate) fn incidents(daemon: &Daemon, tenants: Vec<TenantName>, window: Window, form: Form) -> Result<(), Failure> {
    let ControlReply::Incidents(incidents) = daemon.ask(&ControlRequest::Incidents { tenants, window })? else {
        return Err(AskError::Unexpected.into());
    };
    output::print_in(form, &incident::incidents(&incidents, &usage::local(), form))
}

/// `bailiwick incidents --show`.
pub(crate) fn incident(daemon: &Daemon, id: u64, form: Form) -> Result<(), Failure> {
    let ControlReply::Incidents(incidents) = daemon.ask(&ControlRequest::Incident { id })? else {
        return Err(AskError::Unexpected.into());
    };
    let incident = incidents.into_iter().next().ok_or(AskError::Unexpected)?;
    output::print_in(form, &incident::incident(&incident, &usage::local(), form))
}

/// `bailiwick top`.
pub(crate) fn top(daemon: &Daemon, by: Option<Measure>) -> Result<(), Failure> {
    top::run(|drilled| top_data(daemon, drilled), by, TOP_INTERVAL)
}

fn top_data(daemon: &Daemon, drilled: Option<&TenantName>) -> Result<Data, Failure> {
    let request = ControlRequest::Usage { tenants: Vec::new(), window: None };
    let ControlReply::Usage(tenants) = daemon.ask(&request)? else { return Err(AskError::Unexpected.into()) };
    let Some(tenant) = drilled else { return Ok(Data { tenants, ..Data::default() }) };
    let points = series(daemon, tenant.clone(), recent(TOP_HISTORY), TOP_STEP)?;
    let ControlReply::Services(services) = daemon.ask(&ControlRequest::Services { tenants: vec![tenant.clone()] })?
    else {
        return Err(AskError::Unexpected.into());
    };
    Ok(Data { tenants, points, services: services.into_iter().flat_map(|of_tenant| of_tenant.services).collect() })
}

/// The window of the last `seconds` seconds, up to now.
pub(crate) fn recent(seconds: u64) -> Window {
    // A clock before 1970 is not set, and nothing was recorded.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Window { from: Moment(now.saturating_sub(seconds)), until: Moment(now + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_fit_the_window() {
        let step = |length: u64| fitting_step(Window { from: Moment(1000), until: Moment(1000 + length) }, 40);
        assert_eq!((step(3600), step(86_400), step(30 * 86_400), step(400 * 86_400)), (300, 3600, 86_400, 86_400));
    }
}
