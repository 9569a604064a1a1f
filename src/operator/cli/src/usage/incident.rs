//! `incidents`: renders the list of incidents, and the evidence of one.
//!
//! Danger: tenants choose the names of processes and files, so `visible` escapes them.

use super::clock;
use crate::output::{Form, in_form, visible};
use crate::table::{indented, pairs, render};
use bailiwick_types::{
    Incident, Kind, Measure, Period, PressureShare, ProcessSnapshot, RefusedPacket, Snapshot, SocketUse,
};
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};

/// `bailiwick incidents`.
pub(crate) fn incidents(incidents: &[Incident], zone: &TimeZone, form: Form) -> String {
    in_form(form, &incidents, |incidents| incidents_text(incidents, zone))
}

/// `bailiwick incidents --show ID`.
pub(crate) fn incident(incident: &Incident, zone: &TimeZone, form: Form) -> String {
    in_form(form, incident, |incident| incident_text(incident, zone))
}

fn lasted(incident: &Incident) -> String {
    Period(incident.until.0.saturating_sub(incident.from.0)).to_string()
}

fn incidents_text(incidents: &[Incident], zone: &TimeZone) -> String {
    let row = |incident: &Incident| {
        vec![
            incident.id.to_string(),
            incident.tenant.to_string(),
            incident.kind.clone(),
            clock(incident.from, zone),
            lasted(incident),
            incident.faults.to_string(),
        ]
    };
    render(&["ID", "TENANT", "KIND", "FROM", "LASTED", "FAULTS"], incidents.iter().map(row))
}

fn incident_text(incident: &Incident, zone: &TimeZone) -> String {
    let mut out = pairs([
        ("incident", incident.id.to_string()),
        ("tenant", incident.tenant.to_string()),
        ("kind", incident.kind.clone()),
        ("from", clock(incident.from, zone)),
        ("until", clock(incident.until, zone)),
        ("lasted", lasted(incident)),
        ("faults", incident.faults.to_string()),
    ]);
    for snapshot in &incident.snapshots {
        out.push_str(&format!("\n{}\n", clock(snapshot.at, zone)));
        out.push_str(&indented(&snapshot_text(snapshot)));
    }
    if incident.snapshots.is_empty() {
        out.push_str("\nno evidence was recorded\n");
    }
    out
}

fn snapshot_text(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    let mut used = Vec::new();
    for measure in Measure::ALL {
        match snapshot.usage.get(measure) {
            None => {}
            // A level of zero is informative, a sum of zero is not.
            Some(0) if measure.kind() != Kind::Level => {}
            Some(amount) => used.push(vec![measure.to_string(), measure.amount_in_words(amount)]),
        }
    }
    if !used.is_empty() {
        out.push_str(&format!("used\n{}", indented(&render(&[], used))));
    }
    if !snapshot.pressure.is_empty() {
        let header = ["WAITED-FOR", "BY-ITSELF", "BY-OTHERS", "NEIGHBOUR"];
        let table = render(&header, snapshot.pressure.iter().map(pressure_row));
        out.push_str(&format!("pressure\n{}", indented(&table)));
    }
    if !snapshot.sockets.is_empty() {
        let row = |one: &SocketUse| {
            let connections = one.connections.map(|count| count.to_string()).unwrap_or_default();
            vec![one.socket.to_string(), connections, one.refused.to_string()]
        };
        let table = render(&["SOCKET", "CONNECTIONS", "REFUSED"], snapshot.sockets.iter().map(row));
        out.push_str(&format!("sockets\n{}", indented(&table)));
    }
    if !snapshot.refused.is_empty() {
        let row = |(reason, count): (&RefusedPacket, &u64)| {
            vec![reason.word().to_owned(), count.to_string(), reason.text().to_owned()]
        };
        let table = render(&["REASON", "PACKETS", "BECAUSE"], snapshot.refused.iter().map(row));
        out.push_str(&format!("refused in a minute\n{}", indented(&table)));
    }
    if !snapshot.processes.is_empty() {
        out.push_str(&format!("processes\n{}", indented(&tree(&snapshot.processes))));
    }
    out
}

fn pressure_row(share: &PressureShare) -> Vec<String> {
    let time = |microseconds| Measure::Cpu.amount_in_words(microseconds);
    let neighbour = match &share.neighbour {
        Some(neighbour) => neighbour.to_string(),
        None if share.host => "the host itself".to_owned(),
        None => String::new(),
    };
    vec![share.resource.to_string(), time(share.own), time(share.others), neighbour]
}

/// Processes below their parents, and the files of each below it. Siblings keep the order of the snapshot. A cycle of
/// parents, from a reused process id, hides no process.
fn tree(processes: &[ProcessSnapshot]) -> String {
    /// Levels deeper than this are not indented further.
    const DEEPEST: usize = 24;
    let known: BTreeSet<u32> = processes.iter().map(|process| process.pid).collect();
    let mut children: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    let mut roots = Vec::new();
    for (index, process) in processes.iter().enumerate() {
        if known.contains(&process.parent) && process.parent != process.pid {
            children.entry(process.parent).or_default().push(index);
        } else {
            roots.push(index);
        }
    }
    let mut out = format!("{:>10}  {:>9}  COMMAND\n", "PID", "MEMORY");
    let mut shown = vec![false; processes.len()];
    // A process below no root is in a cycle, and starts a tree of its own.
    for root in roots.into_iter().chain(0..processes.len()) {
        let mut open = vec![(root, 0)];
        while let Some((index, depth)) = open.pop() {
            if std::mem::replace(&mut shown[index], true) {
                continue;
            }
            let process = &processes[index];
            let indent = "  ".repeat(depth.min(DEEPEST));
            let memory = Measure::Memory.amount_in_words(process.memory);
            out.push_str(&format!("{:>10}  {memory:>9}  {indent}{}\n", process.pid, visible(&process.command)));
            for (name, size) in &process.files {
                let size = Measure::Disk.amount_in_words(*size);
                out.push_str(&format!("{:>10}  {:>9}  {indent}  {size} {}\n", "", "", visible(name)));
            }
            let below = children.get(&process.pid).into_iter().flatten().rev();
            open.extend(below.map(|child| (*child, depth + 1)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::{Moment, Usage};

    fn process(pid: u32, parent: u32, command: &str) -> ProcessSnapshot {
        ProcessSnapshot { pid, parent, command: command.to_owned(), memory: 1 << 20, files: Vec::new() }
    }

    fn example() -> Incident {
        let mut worker = process(12, 11, "php\u{1b}[2J\n");
        worker.files = vec![("/var/\u{202e}gol".to_owned(), 3 << 30)];
        Incident {
            id: 7,
            tenant: "alice".parse().expect("valid"),
            kind: "memory".to_owned(),
            from: Moment(0),
            until: Moment(90),
            faults: 4,
            snapshots: vec![Snapshot {
                at: Moment(1),
                usage: Usage(BTreeMap::from([(Measure::Cpu, 1_500_000), (Measure::IoRead, 0), (Measure::Swap, 0)])),
                processes: vec![worker, process(10, 1, "init"), process(11, 10, "nginx"), process(13, 10, "cron")],
                pressure: vec![PressureShare {
                    resource: bailiwick_types::Resource::Io,
                    own: 250_000,
                    others: 3_000_000,
                    neighbour: Some("bob".parse().expect("valid")),
                    host: false,
                }],
                sockets: vec![SocketUse { socket: "web".parse().expect("valid"), connections: Some(20), refused: 7 }],
                refused: BTreeMap::from([(RefusedPacket::Dns, 12)]),
            }],
        }
    }

    #[test]
    fn incidents_are_listed() {
        let golden = "ID  TENANT  KIND    FROM                       LASTED  FAULTS\n\
                      7   alice   memory  1970-01-01T00:00:00+00:00  1m30s   4\n";
        assert_eq!(incidents(&[example()], &TimeZone::UTC, Form::Text), golden);
    }

    #[test]
    fn an_unknown_neighbour_is_not_reported_as_the_host() {
        let share = |neighbour: Option<&str>, host| PressureShare {
            resource: bailiwick_types::Resource::Cpu,
            own: 0,
            others: 1,
            neighbour: neighbour.map(|name| name.parse().expect("valid")),
            host,
        };
        for (share, golden) in
            [(share(Some("bob"), false), "bob"), (share(None, true), "the host itself"), (share(None, false), "")]
        {
            assert_eq!(pressure_row(&share)[3], golden);
        }
    }

    #[test]
    fn an_incident_is_shown_with_its_evidence() {
        let golden = "\
incident  7
tenant    alice
kind      memory
from      1970-01-01T00:00:00+00:00
until     1970-01-01T00:01:30+00:00
lasted    1m30s
faults    4

1970-01-01T00:00:01+00:00
  used
    cpu   1.500s
    swap  0
  pressure
    WAITED-FOR  BY-ITSELF  BY-OTHERS  NEIGHBOUR
    io          0.250s     3.000s     bob
  sockets
    SOCKET  CONNECTIONS  REFUSED
    web     20           7
  refused in a minute
    REASON  PACKETS  BECAUSE
    dns     12       to port 53, where \"dns\" is not in `ports` or the host is no resolver of the tenant
  processes
           PID     MEMORY  COMMAND
            10       1.0M  init
            11       1.0M    nginx
            12       1.0M      php\\u{1b}[2J\\n
                                 3.0G /var/\\u{202e}gol
            13       1.0M    cron
";
        assert_eq!(incident(&example(), &TimeZone::UTC, Form::Text), golden);
        let bare = Incident { snapshots: Vec::new(), ..example() };
        assert!(incident(&bare, &TimeZone::UTC, Form::Text).ends_with("\nno evidence was recorded\n"));
        let json = incident(&example(), &TimeZone::UTC, Form::Json);
        assert!(!json.contains('\u{1b}') && !json.contains('\u{202e}'));
        assert_eq!(serde_json::from_str::<Incident>(&json).expect("valid"), example());
    }

    #[test]
    fn no_process_is_hidden_by_a_cycle_of_parents() {
        let cases: [&[(u32, u32)]; 5] =
            [&[(1, 1)], &[(1, 2), (2, 1)], &[(1, 2), (2, 3), (3, 2)], &[(5, 0), (5, 5), (5, 9)], &[]];
        for parents in cases {
            let processes: Vec<_> = parents.iter().map(|(pid, parent)| process(*pid, *parent, "x")).collect();
            assert_eq!(tree(&processes).lines().count(), 1 + parents.len(), "{parents:?}");
        }
        let deep: Vec<_> = (1..5000).map(|pid| process(pid, pid - 1, "x")).collect();
        assert!(tree(&deep).len() < 5000 * 100);
    }
}
