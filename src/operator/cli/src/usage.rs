//! `usage`, `history`, `faults` and `incidents`: what tenants used and where it hurt, as text and JSON.
//!
//! Danger: processes and files of an incident carry names that tenants chose; they leave as `visible` has them. The
//! neighbour of an incident is another customer: what is printed here is for the operator, not for tenants.

pub(crate) mod incident;

use crate::output::{Form, in_form, visible};
use crate::table::render;
use bailiwick_types::{Fault, Measure, Moment, Period, Point, TenantUsage, Usage, percent};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::str::FromStr;

/// A part of a limit in thousandths, written as a per cent: `90%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Threshold(pub(crate) u64);

/// Why a text is no part of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a part of a limit, such as \"90%\" or \"99.5%\"")]
pub(crate) struct ParseThresholdError;

impl FromStr for Threshold {
    type Err = ParseThresholdError;
    fn from_str(text: &str) -> Result<Self, ParseThresholdError> {
        let number = text.strip_suffix('%').ok_or(ParseThresholdError)?;
        let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
        if tenth.len() != 1 {
            return Err(ParseThresholdError);
        }
        let digits = |text: &str| -> Result<u64, ParseThresholdError> {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| plain).ok_or(ParseThresholdError)
        };
        let whole = digits(whole)?.checked_mul(10).ok_or(ParseThresholdError)?;
        whole.checked_add(digits(tenth)?).map(Self).ok_or(ParseThresholdError)
    }
}

/// Which tenants are shown, in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Those that used the most of it come first; by name without.
    pub(crate) by: Option<Measure>,
    /// Only those at or above this part of some limit.
    pub(crate) threshold: Option<Threshold>,
}

/// The tenants of a selection, in its order.
pub(crate) fn select(mut tenants: Vec<TenantUsage>, selection: Selection) -> Vec<TenantUsage> {
    if let Some(Threshold(least)) = selection.threshold {
        tenants.retain(|tenant| fullest(tenant).is_some_and(|(_, part)| part >= least));
    }
    tenants.sort_by(|a, b| compare(a, b, selection.by));
    tenants
}

/// The order of two tenants: who used more comes first, then by name; who was not measured comes last.
pub(crate) fn compare(a: &TenantUsage, b: &TenantUsage, by: Option<Measure>) -> Ordering {
    let rate = |tenant: &TenantUsage, measure| tenant.total.rate(tenant.total.counted(measure));
    let used = by.map_or(Ordering::Equal, |measure| rate(b, measure).cmp(&rate(a, measure)));
    used.then_with(|| a.tenant.cmp(&b.tenant))
}

/// The limit of which a tenant used the largest part, and that part in thousandths.
pub(crate) fn fullest(tenant: &TenantUsage) -> Option<(Measure, u64)> {
    let parts = Measure::ALL.into_iter().filter_map(|measure| Some((measure, tenant.part(measure)?)));
    // The first of those that are alike, in the order in which measures are shown.
    parts.rev().max_by_key(|(_, part)| *part)
}

/// `bailiwick usage`. Rates are averages over the window.
pub(crate) fn usage(tenants: &[TenantUsage], form: Form) -> String {
    match form {
        Form::Text => usage_text(tenants),
        Form::Json => in_form(form, &with_nulls(&tenants), ToString::to_string),
    }
}

/// The JSON of tenants or points, in which what was not measured is `null` and not left out.
fn with_nulls(value: &impl serde::Serialize) -> serde_json::Value {
    let mut value = serde_json::to_value(value).expect("reports have string keys and no fallible parts");
    for item in value.as_array_mut().into_iter().flatten() {
        let point = if item.get("total").is_some() { &mut item["total"] } else { item };
        for key in ["usage", "peak"] {
            let Some(usage) = point.get_mut(key).and_then(serde_json::Value::as_object_mut) else { continue };
            for measure in Measure::ALL {
                usage.entry(measure.word()).or_insert(serde_json::Value::Null);
            }
        }
    }
    value
}

/// Why READ and WRITE are empty, where they are for everybody who was measured.
pub(crate) const NO_IO: &str =
    "READ, WRITE: not measured; only version 2 of control groups counts them for each tenant";

/// Whether anybody was measured, and nobody's reads and writes.
pub(crate) fn lacks_io<'a>(points: impl Iterator<Item = &'a Point>) -> bool {
    let mut measured = points.filter(|point| point.seconds > 0 && !point.usage.0.is_empty()).peekable();
    measured.peek().is_some() && measured.all(|point| point.usage.get(Measure::IoRead).is_none())
}

/// `bailiwick history TENANT`.
pub(crate) fn history(points: &[Point], zone: &TimeZone, form: Form) -> String {
    match form {
        Form::Text => history_text(points, zone),
        Form::Json => in_form(form, &with_nulls(&points), ToString::to_string),
    }
}

/// `bailiwick faults`.
pub(crate) fn faults(faults: &[Fault], zone: &TimeZone, form: Form) -> String {
    in_form(form, &faults, |faults| faults_text(faults, zone))
}

/// The operator's clock.
pub(crate) fn local() -> TimeZone {
    TimeZone::system()
}

/// A moment by a clock, in one word, with its distance from UTC: an hour that a clock has twice is not told twice.
pub(crate) fn clock(moment: Moment, zone: &TimeZone) -> String {
    let stamp = i64::try_from(moment.0).ok().and_then(|second| Timestamp::from_second(second).ok());
    stamp.map_or_else(
        || format!("@{}", moment.0),
        |stamp| stamp.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
    )
}

/// An average.
pub(crate) fn average(point: &Point, measure: Measure) -> String {
    let measure = point.counted(measure);
    point.rate(measure).map(|rate| measure.rate_in_words(rate)).unwrap_or_default()
}

/// The highest minute.
pub(crate) fn peak(point: &Point, measure: Measure) -> String {
    let measure = point.counted(measure);
    point.peak_rate(measure).map(|rate| measure.rate_in_words(rate)).unwrap_or_default()
}

/// The memory that the kernel can take back.
pub(crate) fn cache(point: &Point) -> String {
    point.cache().map(|cache| Measure::Memory.rate_in_words(cache)).unwrap_or_default()
}

/// A limit; nothing where there is none.
pub(crate) fn limit(limits: &Usage, measure: Measure) -> String {
    limits.get(measure).map(|limit| measure.rate_in_words(limit)).unwrap_or_default()
}

/// Faults by limit, in one word.
pub(crate) fn fault_words(faults: &BTreeMap<String, u64>) -> String {
    let words: Vec<_> =
        faults.iter().filter(|(_, count)| **count > 0).map(|(limit, count)| format!("{limit}={count}")).collect();
    visible(&words.join(",")).into_owned()
}

/// What a cell of a table of usage says.
#[derive(Clone, Copy)]
enum Cell {
    Average,
    Peak,
    Limit,
    Cache,
}
use Cell::{Average, Cache, Limit, Peak};

const USAGE: &[(&str, Measure, Cell)] = &[
    ("CPU", Measure::Cpu, Average),
    ("CPU-LIMIT", Measure::Cpu, Limit),
    ("MEMORY", Measure::Memory, Average),
    ("CACHE", Measure::Memory, Cache),
    ("PEAK", Measure::Memory, Peak),
    ("LIMIT", Measure::Memory, Limit),
    ("TASKS", Measure::Tasks, Average),
    ("READ", Measure::IoRead, Average),
    ("WRITE", Measure::IoWrite, Average),
    ("DISK", Measure::Disk, Average),
    ("DISK-LIMIT", Measure::Disk, Limit),
];

const HISTORY: &[(&str, Measure, Cell)] = &[
    ("CPU", Measure::Cpu, Average),
    ("CPU-PEAK", Measure::Cpu, Peak),
    ("THROTTLED", Measure::Throttled, Average),
    ("MEMORY", Measure::Memory, Average),
    ("MEMORY-PEAK", Measure::Memory, Peak),
    ("CACHE", Measure::Memory, Cache),
    ("TASKS", Measure::Tasks, Average),
    ("READ", Measure::IoRead, Average),
    ("WRITE", Measure::IoWrite, Average),
    ("DISK", Measure::Disk, Average),
    ("SESSIONS", Measure::Sessions, Average),
];

fn cell(point: &Point, limits: &Usage, (_, measure, cell): (&str, Measure, Cell)) -> String {
    match cell {
        Average => average(point, measure),
        Peak => peak(point, measure),
        Limit => limit(limits, measure),
        Cache => cache(point),
    }
}

fn usage_text(tenants: &[TenantUsage]) -> String {
    let header: Vec<&str> =
        ["TENANT"].into_iter().chain(USAGE.iter().map(|(name, ..)| *name)).chain(["FULLEST", "FAULTS"]).collect();
    let rows = tenants.iter().map(|tenant| {
        let cells = USAGE.iter().map(|column| cell(&tenant.total, &tenant.limits, *column));
        let fullest = fullest(tenant).map(|(measure, part)| format!("{measure}={}", percent(part)));
        let rest = [fullest.unwrap_or_default(), fault_words(&tenant.faults)];
        [tenant.tenant.to_string()].into_iter().chain(cells).chain(rest).collect()
    });
    let mut out = render(&header, rows);
    if lacks_io(tenants.iter().map(|tenant| &tenant.total)) {
        out.push_str(&format!("{NO_IO}\n"));
    }
    out
}

fn history_text(points: &[Point], zone: &TimeZone) -> String {
    let header: Vec<&str> = ["TIME", "MEASURED"].into_iter().chain(HISTORY.iter().map(|(name, ..)| *name)).collect();
    let none = Usage::default();
    let rows = points.iter().map(|point| {
        let cells = HISTORY.iter().map(|column| cell(point, &none, *column));
        [clock(point.at, zone), Period(point.seconds).to_string()].into_iter().chain(cells).collect()
    });
    let mut out = render(&header, rows);
    if lacks_io(points.iter()) {
        out.push_str(&format!("{NO_IO}\n"));
    }
    out
}

fn faults_text(faults: &[Fault], zone: &TimeZone) -> String {
    let row = |fault: &Fault| {
        vec![clock(fault.at, zone), fault.tenant.to_string(), fault.limit.clone(), fault.count.to_string()]
    };
    render(&["TIME", "TENANT", "LIMIT", "COUNT"], faults.iter().map(row))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn tenant(name: &str, used: &[(Measure, u64)], limits: &[(Measure, u64)]) -> TenantUsage {
        let used = Usage(used.iter().copied().collect());
        TenantUsage {
            tenant: name.parse().expect("valid"),
            total: Point { at: Moment(0), seconds: 100, usage: used.clone(), peak: used },
            limits: Usage(limits.iter().copied().collect()),
            faults: BTreeMap::new(),
        }
    }

    fn names(tenants: &[TenantUsage]) -> Vec<&str> {
        tenants.iter().map(|tenant| tenant.tenant.as_str()).collect()
    }

    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("valid")
    }

    #[test]
    fn the_order_is_by_what_was_used_and_by_name_where_that_is_alike() {
        let all = || {
            vec![
                tenant("carol", &[(Measure::Cpu, 100)], &[]),
                tenant("bob", &[], &[]),
                tenant("alice", &[(Measure::Cpu, 100)], &[]),
                tenant("dave", &[(Measure::Cpu, 9_000_000)], &[]),
            ]
        };
        let by = |by| select(all(), Selection { by, threshold: None });
        assert_eq!(names(&by(None)), ["alice", "bob", "carol", "dave"]);
        assert_eq!(names(&by(Some(Measure::Cpu))), ["dave", "alice", "carol", "bob"]);
        assert_eq!(names(&by(Some(Measure::Disk))), ["alice", "bob", "carol", "dave"]);
    }

    #[test]
    fn a_threshold_is_a_part_of_any_limit() {
        let all = vec![
            tenant(
                "alice",
                &[(Measure::Memory, 899), (Measure::Tasks, 5)],
                &[(Measure::Memory, 1000), (Measure::Tasks, 10)],
            ),
            tenant(
                "bob",
                &[(Measure::Memory, 10), (Measure::Tasks, 9)],
                &[(Measure::Memory, 1000), (Measure::Tasks, 10)],
            ),
            tenant("carol", &[(Measure::Memory, 1 << 40)], &[]),
            tenant("dave", &[(Measure::Cpu, 95_000_000)], &[(Measure::Cpu, 1_000_000)]),
        ];
        let above = |least| select(all.clone(), Selection { by: None, threshold: Some(Threshold(least)) });
        assert_eq!(names(&above(900)), ["bob", "dave"]);
        assert_eq!(names(&above(899)), ["alice", "bob", "dave"]);
        assert_eq!(names(&above(0)), ["alice", "bob", "dave"]);
        assert_eq!(names(&above(951)), [""; 0]);
    }

    #[test]
    fn a_threshold_reads_as_it_is_written() {
        let cases = [("90%", Some(900)), ("99.5%", Some(995)), ("0%", Some(0)), ("150%", Some(1500))];
        let bad = [
            "",
            "%",
            "90",
            "90%%",
            "9.55%",
            ".5%",
            "5.%",
            "+5%",
            "-5%",
            "1e2%",
            "99999999999999999999%",
            "1844674407370955162%",
        ];
        for (text, value) in cases.into_iter().chain(bad.map(|text| (text, None))) {
            assert_eq!(text.parse().ok(), value.map(Threshold), "{text}");
        }
    }

    #[test]
    fn usage_has_a_row_for_each_tenant() {
        let mut alice = tenant(
            "alice",
            &[
                (Measure::Cpu, 25_000_000),
                (Measure::Memory, 512 << 20),
                (Measure::MemoryUsed, 384 << 20),
                (Measure::Tasks, 12),
                (Measure::IoRead, 100 << 20),
            ],
            &[(Measure::Cpu, 1_000_000), (Measure::Memory, 1 << 30)],
        );
        alice.faults = BTreeMap::from([("memory".to_owned(), 2), ("t\u{1b}".to_owned(), 1), ("disk".to_owned(), 0)]);
        let golden = "\
            TENANT  CPU    CPU-LIMIT  MEMORY  CACHE   PEAK    LIMIT  TASKS  READ    WRITE  DISK  DISK-LIMIT  FULLEST       FAULTS\n\
            alice   25.0%  100.0%     384.0M  128.0M  384.0M  1.0G   12     1.0M/s  -      -     -           memory=37.5%  memory=2,t\\u{1b}=1\n\
            bob     -      -          -       -       -       -      -      -       -      -     -           -             -\n";
        assert_eq!(usage(&[alice.clone(), tenant("bob", &[], &[])], Form::Text), golden);
        let json = usage(&[alice], Form::Json);
        let json: serde_json::Value = serde_json::from_str(&json).expect("valid");
        assert_eq!(json[0]["total"]["usage"]["memory"], 512 << 20);
        assert!(json[0]["total"]["usage"].get("io_write").is_some_and(serde_json::Value::is_null), "{json}");
        // Nobody's reads were measured: that is said, once.
        let text = usage(&[tenant("carol", &[(Measure::Cpu, 1)], &[]), tenant("bob", &[], &[])], Form::Text);
        assert!(text.ends_with(&format!("{NO_IO}\n")) && text.matches(NO_IO).count() == 1, "{text}");
    }

    #[test]
    fn history_is_told_by_the_local_clock() {
        let span =
            |at, seconds| Point { at: Moment(at), seconds, ..tenant("a", &[(Measure::Cpu, 30_000_000)], &[]).total };
        // The hour that the clock has twice.
        let points = [span(1_792_886_400, 60), span(1_792_890_000, 0)];
        let golden = "\
            TIME                       MEASURED  CPU    CPU-PEAK  THROTTLED  MEMORY  MEMORY-PEAK  CACHE  TASKS  READ  WRITE  DISK  SESSIONS\n\
            2026-10-25T02:00:00+02:00  1m        50.0%  50.0%     -          -       -            -      -      -     -      -     -\n\
            2026-10-25T02:00:00+01:00  0s        -      -         -          -       -            -      -      -     -      -     -\n\
            READ, WRITE: not measured; only version 2 of control groups counts them for each tenant\n";
        assert_eq!(history(&points, &berlin(), Form::Text), golden);
        assert_eq!(clock(Moment(u64::MAX), &berlin()), "@18446744073709551615");
    }

    #[test]
    fn faults_are_a_table() {
        let fault =
            Fault { at: Moment(0), tenant: "alice".parse().expect("valid"), limit: "tasks".to_owned(), count: 3 };
        let golden = "TIME                       TENANT  LIMIT  COUNT\n1970-01-01T00:00:00+00:00  alice   tasks  3\n";
        assert_eq!(faults(&[fault], &TimeZone::UTC, Form::Text), golden);
    }
}
