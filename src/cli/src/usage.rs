//! `usage`, `history`, `faults` and `incidents`: what tenants used, and what happened to them.

use crate::daemon::{AskError, Daemon};
use crate::output::{self, Form};
use crate::table::render;
use crate::window::local;
use bailiwick_proto::{ControlReply, ControlRequest, Failure};
use bailiwick_types::{
    Fault, Incident, Kind, Measure, Period, Point, ProcessSight, Snapshot, TenantName, TenantUsage, Unit, Usage, Window,
};
use std::collections::BTreeSet;

/// How the rows of `usage` are chosen and ordered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// By which measure, the highest first.
    pub(crate) by: Option<Measure>,
    /// Only those that reached so many per cent of some limit.
    pub(crate) threshold: Option<u64>,
}

/// `bailiwick usage`.
pub(crate) fn usage(
    daemon: &Daemon,
    tenants: Vec<TenantName>,
    window: Window,
    wanted: &Wanted,
    form: Form,
) -> Result<(), Failure> {
    let request = ControlRequest::Usage { tenants, window: Some(window) };
    let ControlReply::Usage(mut rows) = daemon.ask(&request)? else { return Err(AskError::Unexpected.into()) };
    choose(&mut rows, wanted);
    output::show(form, &rows, |rows| usage_text(rows))
}

/// `bailiwick history`.
pub(crate) fn history(
    daemon: &Daemon,
    tenant: TenantName,
    window: Window,
    step: Option<Period>,
    form: Form,
) -> Result<(), Failure> {
    let step = step.map_or_else(|| fitting_step(window), |step| step.0);
    let ControlReply::History(points) = daemon.ask(&ControlRequest::History { tenant, window, step })? else {
        return Err(AskError::Unexpected.into());
    };
    output::show(form, &points, |points| history_text(points))
}

/// `bailiwick faults`.
pub(crate) fn faults(daemon: &Daemon, tenants: Vec<TenantName>, window: Window, form: Form) -> Result<(), Failure> {
    let ControlReply::Faults(faults) = daemon.ask(&ControlRequest::Faults { tenants, window })? else {
        return Err(AskError::Unexpected.into());
    };
    output::show(form, &faults, |faults| faults_text(faults))
}

/// `bailiwick incidents`.
pub(crate) fn incidents(daemon: &Daemon, tenants: Vec<TenantName>, window: Window, form: Form) -> Result<(), Failure> {
    let ControlReply::Incidents(incidents) = daemon.ask(&ControlRequest::Incidents { tenants, window })? else {
        return Err(AskError::Unexpected.into());
    };
    output::show(form, &incidents, |incidents| incidents_text(incidents))
}

/// `bailiwick incidents --show`.
pub(crate) fn incident(daemon: &Daemon, id: u64, form: Form) -> Result<(), Failure> {
    let ControlReply::Incidents(incidents) = daemon.ask(&ControlRequest::Incident { id })? else {
        return Err(AskError::Unexpected.into());
    };
    let incident = incidents.into_iter().next().ok_or(AskError::Unexpected)?;
    output::show(form, &incident, incident_text)
}

/// About forty steps, each of a length that divides the day.
fn fitting_step(window: Window) -> u64 {
    const STEPS: [u64; 9] = [60, 300, 600, 900, 1800, 3600, 3 * 3600, 6 * 3600, 86_400];
    let length = window.until.0.saturating_sub(window.from.0);
    STEPS.into_iter().find(|step| length / step <= 40).unwrap_or(86_400)
}

/// The part of a limit that the peak reached, in per cent; of a sum, in its busiest minute.
pub(crate) fn part_of_limit(row: &TenantUsage, measure: Measure) -> Option<u64> {
    let (peak, limit) = (row.total.peak.get(measure)?, row.limits.get(measure)?);
    let limit = match measure.kind() {
        // A live look has no minutes: its span is the one that was measured.
        Kind::Sum => limit.saturating_mul(row.total.seconds.clamp(1, 60)),
        Kind::Level => limit,
    };
    (limit > 0).then(|| peak.saturating_mul(100) / limit)
}

fn choose(rows: &mut Vec<TenantUsage>, wanted: &Wanted) {
    if let Some(threshold) = wanted.threshold {
        let reached = |row: &TenantUsage| {
            Measure::ALL.iter().any(|measure| part_of_limit(row, *measure).is_some_and(|part| part >= threshold))
        };
        rows.retain(reached);
    }
    if let Some(measure) = wanted.by {
        rows.sort_by_key(|row| std::cmp::Reverse(row.total.usage.get(measure)));
    }
}

/// A value of a measure, a sum as what it is in a second.
pub(crate) fn amount(usage: &Usage, measure: Measure, seconds: u64) -> String {
    let Some(value) = usage.get(measure) else { return String::new() };
    shown(measure, if measure.kind() == Kind::Sum { value as f64 / seconds.max(1) as f64 } else { value as f64 })
}

/// A number of a measure: of sums, what it is in a second.
pub(crate) fn shown(measure: Measure, value: f64) -> String {
    let rate = if measure.kind() == Kind::Sum { "/s" } else { "" };
    match measure.unit() {
        // A second of a core has a million microseconds.
        Unit::Microseconds => format!("{:.1}%", value / 10_000.0),
        Unit::Bytes => format!("{}{rate}", bytes(value)),
        Unit::Count if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}{rate}"),
        Unit::Count => format!("{value:.1}{rate}"),
    }
}

/// Bytes with a unit that leaves at most four digits before it.
pub(crate) fn bytes(value: f64) -> String {
    let mut value = value;
    for unit in ["B", "K", "M", "G"] {
        if value < 1024.0 {
            let digits = usize::from(unit != "B" && value < 10.0);
            return format!("{value:.digits$}{}", if unit == "B" { "" } else { unit });
        }
        value /= 1024.0;
    }
    format!("{value:.1}T")
}

/// `12% of 50%`: use, and the limit.
fn of_limit(row: &TenantUsage, measure: Measure) -> String {
    let used = amount(&row.total.usage, measure, row.total.seconds);
    match row.limits.get(measure) {
        #[expect(clippy::cast_precision_loss, reason = "it is shown with two digits")]
        Some(limit) if !used.is_empty() => format!("{used} of {}", shown(measure, limit as f64)),
        _ => used,
    }
}

fn usage_text(rows: &[TenantUsage]) -> String {
    const COLUMNS: [(&str, Measure); 6] = [
        ("CPU", Measure::Cpu),
        ("MEMORY", Measure::Memory),
        ("TASKS", Measure::Tasks),
        ("DISK", Measure::Disk),
        ("READ", Measure::IoRead),
        ("WRITE", Measure::IoWrite),
    ];
    let mut header = vec!["TENANT"];
    header.extend(COLUMNS.map(|(title, _)| title));
    header.extend(["PEAK", "FAULTS"]);
    let row = |row: &TenantUsage| {
        let mut cells = vec![row.tenant.to_string()];
        cells.extend(COLUMNS.map(|(_, measure)| of_limit(row, measure)));
        let nearest =
            Measure::ALL.into_iter().filter_map(|measure| Some((part_of_limit(row, measure)?, measure))).max();
        cells.push(nearest.map(|(part, measure)| format!("{part}% of {measure}")).unwrap_or_default());
        cells.push(row.faults.iter().map(|(limit, count)| format!("{limit} {count}")).collect::<Vec<_>>().join(", "));
        cells
    };
    render(&header, rows.iter().map(row))
}

fn history_text(points: &[Point]) -> String {
    const COLUMNS: [(&str, Measure); 7] = [
        ("CPU", Measure::Cpu),
        ("HELD-BACK", Measure::Throttled),
        ("MEMORY", Measure::Memory),
        ("TASKS", Measure::Tasks),
        ("DISK", Measure::Disk),
        ("READ", Measure::IoRead),
        ("WRITE", Measure::IoWrite),
    ];
    let mut header = vec!["TIME", "MEASURED"];
    header.extend(COLUMNS.map(|(title, _)| title));
    let rows = points.iter().map(|point| {
        let mut cells = vec![local(point.at), Period(point.seconds).to_string()];
        cells.extend(COLUMNS.map(|(_, measure)| amount(&point.usage, measure, point.seconds)));
        cells
    });
    render(&header, rows)
}

fn faults_text(faults: &[Fault]) -> String {
    let rows = faults
        .iter()
        .map(|fault| vec![local(fault.at), fault.tenant.to_string(), fault.limit.clone(), fault.count.to_string()]);
    render(&["TIME", "TENANT", "LIMIT", "FAULTS"], rows)
}

fn lasted(incident: &Incident) -> String {
    Period(incident.until.0.saturating_sub(incident.from.0)).to_string()
}

fn incidents_text(incidents: &[Incident]) -> String {
    let rows = incidents.iter().map(|incident| {
        vec![
            incident.id.to_string(),
            local(incident.from),
            lasted(incident),
            incident.tenant.to_string(),
            incident.kind.clone(),
            incident.faults.to_string(),
        ]
    });
    render(&["NUMBER", "BEGAN", "LASTED", "TENANT", "KIND", "FAULTS"], rows)
}

fn incident_text(incident: &Incident) -> String {
    let mut text = format!(
        "incident {} of {}: {}, {} faults, from {} for {}\n",
        incident.id,
        incident.tenant,
        output::visible(&incident.kind),
        incident.faults,
        local(incident.from),
        lasted(incident)
    );
    for snapshot in &incident.snapshots {
        text.push('\n');
        text.push_str(&snapshot_text(snapshot));
    }
    text
}

fn snapshot_text(snapshot: &Snapshot) -> String {
    let mut text = format!("{}\n", local(snapshot.at));
    for share in &snapshot.pressure {
        let seconds = |microseconds: u64| format!("{}.{:02} s", microseconds / 1_000_000, microseconds / 10_000 % 100);
        let neighbour = share.neighbour.as_ref().map(|name| format!(", most of it used by {name}")).unwrap_or_default();
        text.push_str(&format!(
            "  waited for {}: {} by its own limit, {} by others{neighbour}\n",
            output::visible(&share.resource),
            seconds(share.own),
            seconds(share.others)
        ));
    }
    for (depth, process) in tree(&snapshot.processes) {
        #[expect(clippy::cast_precision_loss, reason = "it is shown with two digits")]
        let size = bytes(process.memory as f64);
        let command = output::visible(&process.command);
        text.push_str(&format!("  {}{} {command} {size}\n", "  ".repeat(depth), process.pid));
        for (name, size) in &process.files {
            #[expect(clippy::cast_precision_loss, reason = "it is shown with two digits")]
            let size = bytes(*size as f64);
            text.push_str(&format!("  {}  holds {} {size}\n", "  ".repeat(depth), output::visible(name)));
        }
    }
    text
}

/// Processes below their parents, with their depth. One whose parent is not listed is at the top; a ring of parents, which
/// a snapshot taken in motion can show, is cut.
fn tree(processes: &[ProcessSight]) -> Vec<(usize, &ProcessSight)> {
    const DEEPEST: usize = 12;
    let known: BTreeSet<u32> = processes.iter().map(|process| process.pid).collect();
    let mut found: Vec<(usize, &ProcessSight)> = Vec::new();
    let mut seen = BTreeSet::new();
    let tops = processes.iter().filter(|process| !known.contains(&process.parent));
    let mut waiting: Vec<(usize, &ProcessSight)> = tops.map(|process| (0, process)).collect();
    waiting.reverse();
    loop {
        while let Some((depth, process)) = waiting.pop() {
            if !seen.insert(process.pid) {
                continue;
            }
            found.push((depth.min(DEEPEST), process));
            let below = processes.iter().filter(|other| other.parent == process.pid);
            waiting.extend(below.rev().map(|other| (depth + 1, other)));
        }
        match processes.iter().find(|process| !seen.contains(&process.pid)) {
            Some(process) => waiting.push((0, process)),
            None => return found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::{Moment, PressureShare};
    use std::collections::BTreeMap;

    fn row(name: &str, cpu: u64, memory: u64) -> TenantUsage {
        let usage = Usage([(Measure::Cpu, cpu), (Measure::Memory, memory)].into());
        TenantUsage {
            tenant: name.parse().expect("a name"),
            total: Point { at: Moment(0), seconds: 120, peak: usage.clone(), usage },
            limits: Usage([(Measure::Cpu, 500_000), (Measure::Memory, 1 << 30)].into()),
            faults: BTreeMap::from([("memory".to_owned(), 3)]),
        }
    }

    #[test]
    fn rows_are_chosen_by_the_part_of_a_limit_and_ordered_by_a_measure() {
        let all = || vec![row("low", 1_000, 10 << 20), row("busy", 29_000_000, 20 << 20), row("large", 2_000, 1 << 30)];
        let names = |wanted: Wanted| {
            let mut rows = all();
            choose(&mut rows, &wanted);
            rows.iter().map(|row| row.tenant.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(Wanted { by: Some(Measure::Cpu), threshold: None }), ["busy", "large", "low"]);
        assert_eq!(names(Wanted { by: None, threshold: Some(90) }), ["busy", "large"]);
        assert_eq!(names(Wanted { by: Some(Measure::Disk), threshold: Some(101) }), [""; 0]);
    }

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(bytes(0.0), "0");
        assert_eq!(bytes(1536.0), "1.5K");
        assert_eq!(bytes(700.0 * 1024.0 * 1024.0), "700M");
        assert_eq!(bytes(5e15), "4547.5T");
        assert_eq!(shown(Measure::Cpu, 250_000.0), "25.0%");
        assert_eq!(shown(Measure::IoRead, 2048.0), "2.0K/s");
        assert_eq!(shown(Measure::Tasks, 7.0), "7");
        let text = usage_text(&[row("a", 30_000_000, 512 << 20)]);
        assert!(
            text.contains("25.0% of 50.0%") && text.contains("512M of 1.0G") && text.contains("memory 3"),
            "{text}"
        );
    }

    #[test]
    fn steps_fit_the_window() {
        let step = |length: u64| fitting_step(Window { from: Moment(1000), until: Moment(1000 + length) });
        assert_eq!((step(3600), step(86_400), step(30 * 86_400), step(400 * 86_400)), (300, 3600, 86_400, 86_400));
    }

    #[test]
    fn evidence_is_a_tree_and_speaks_to_no_terminal() {
        let process = |pid, parent, command: &str| ProcessSight {
            pid,
            parent,
            command: command.to_owned(),
            memory: 3 << 20,
            files: vec![("a\u{1b}[2J".to_owned(), 5 << 30)],
        };
        let snapshot = Snapshot {
            at: Moment(0),
            usage: Usage::default(),
            processes: vec![
                process(7, 1, "bash"),
                process(9, 8, "x\u{1b}]0;y\u{7}"),
                process(8, 7, "make"),
                process(20, 21, "ring"),
                process(21, 20, "ring"),
            ],
            pressure: vec![PressureShare {
                resource: "io".into(),
                own: 0,
                others: 2_500_000,
                neighbour: Some("b".parse().expect("a name")),
            }],
        };
        let text = snapshot_text(&snapshot);
        let shape: Vec<(usize, u32)> =
            tree(&snapshot.processes).iter().map(|(depth, process)| (*depth, process.pid)).collect();
        assert_eq!(shape, [(0, 7), (1, 8), (2, 9), (0, 20), (1, 21)]);
        assert!(!text.contains('\u{1b}') && text.contains("2.50 s by others, most of it used by b"), "{text}");
    }
}
