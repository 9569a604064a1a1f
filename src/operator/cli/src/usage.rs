//! `usage`, `history`, `faults` and `incidents`: renders resource usage, faults and incidents as text and JSON.
//!
//! Danger: the output is for the operator only. An incident names its neighbour, which is another customer.

pub(crate) mod incident;

use crate::output::{Form, in_form, visible};
use crate::table::render;
use bailiwick_types::{Fault, Measure, Moment, Period, Point, TenantUsage, Usage, percent};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::str::FromStr;

/// A share of a limit in thousandths, written as a percentage: `90%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Threshold(pub(crate) u64);

/// The text is not a percentage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a percentage, such as \"90%\" or \"99.5%\"")]
pub(crate) struct ParseThresholdError;

impl FromStr for Threshold {
    type Err = ParseThresholdError;
    fn from_str(text: &str) -> Result<Self, ParseThresholdError> {
        let number = text.strip_suffix('%').ok_or(ParseThresholdError)?;
        let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
        if tenth.len() != 1 {
            return Err(ParseThresholdError);
        }
        let whole = parse_digits(whole)?.checked_mul(10).ok_or(ParseThresholdError)?;
        whole.checked_add(parse_digits(tenth)?).map(Self).ok_or(ParseThresholdError)
    }
}

/// Parses decimal digits, without the sign that `parse` accepts.
fn parse_digits(text: &str) -> Result<u64, ParseThresholdError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ParseThresholdError);
    }
    text.parse().map_err(|_| ParseThresholdError)
}

/// Which tenants are shown, and in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Sort by this measure, highest first; by name without one.
    pub(crate) by: Option<Measure>,
    /// Only tenants whose peak reached this share of a limit.
    pub(crate) threshold: Option<Threshold>,
}

/// The selected tenants, sorted.
pub(crate) fn select(mut tenants: Vec<TenantUsage>, selection: Selection) -> Vec<TenantUsage> {
    if let Some(Threshold(least)) = selection.threshold {
        tenants.retain(|tenant| fullest(tenant).is_some_and(|(_, part)| part >= least));
    }
    tenants.sort_by(|a, b| compare(a, b, selection.by));
    tenants
}

/// The order of two tenants: by the measure, highest first and unmeasured last; then by name.
pub(crate) fn compare(a: &TenantUsage, b: &TenantUsage, by: Option<Measure>) -> Ordering {
    let rate = |tenant: &TenantUsage, measure| tenant.total.rate(tenant.total.counted(measure));
    let used = by.map_or(Ordering::Equal, |measure| rate(b, measure).cmp(&rate(a, measure)));
    used.then_with(|| a.tenant.cmp(&b.tenant))
}

/// The limit of which a tenant used the largest share, and that share in thousandths.
pub(crate) fn fullest(tenant: &TenantUsage) -> Option<(Measure, u64)> {
    let parts = Measure::ALL.into_iter().filter_map(|measure| Some((measure, tenant.part(measure)?)));
    // Of equal shares, the first in the order of `Measure::ALL`.
    parts.rev().max_by_key(|(_, part)| *part)
}

/// `bailiwick usage`. Rates are averages over the window.
pub(crate) fn usage(tenants: &[TenantUsage], form: Form) -> String {
    match form {
        Form::Text => usage_text(tenants),
        Form::Json => in_form(form, &with_nulls(&tenants), ToString::to_string),
    }
}

/// Tenants or points as JSON, with `null` for measures that were not measured.
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

/// The note if READ and WRITE are empty for everyone who was measured.
pub(crate) const NO_IO: &str =
    "READ, WRITE: not measured; only version 2 of control groups counts them for each tenant";

/// Whether anyone was measured, but nobody's reads and writes.
pub(crate) fn lacks_io<'a>(points: impl Iterator<Item = &'a Point>) -> bool {
    let mut measured = points.filter(|point| point.seconds > 0 && !point.usage.0.is_empty()).peekable();
    measured.peek().is_some() && measured.all(|point| point.usage.get(Measure::IoRead).is_none())
}

/// Whether anyone has sent or received something over the network. Only then do tables have columns for it.
pub(crate) fn has_traffic<'a>(mut points: impl Iterator<Item = &'a Point>) -> bool {
    let is_some = |point: &Point, measure| point.usage.get(measure).is_some_and(|amount| amount > 0);
    points.any(|point| is_some(point, Measure::NetSent) || is_some(point, Measure::NetReceived))
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

/// The time zone of the operator.
pub(crate) fn local() -> TimeZone {
    TimeZone::system()
}

/// A moment in a time zone, as one word. The UTC offset distinguishes the repeated hour at the end of summer time.
pub(crate) fn clock(moment: Moment, zone: &TimeZone) -> String {
    let stamp = i64::try_from(moment.0).ok().and_then(|second| Timestamp::from_second(second).ok());
    stamp.map_or_else(
        || format!("@{}", moment.0),
        |stamp| stamp.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
    )
}

/// The average over a point, as text.
pub(crate) fn average(point: &Point, measure: Measure) -> String {
    let measure = point.counted(measure);
    point.rate(measure).map(|rate| measure.rate_in_words(rate)).unwrap_or_default()
}

/// The highest minute of a point, as text.
pub(crate) fn peak(point: &Point, measure: Measure) -> String {
    let measure = point.counted(measure);
    point.peak_rate(measure).map(|rate| measure.rate_in_words(rate)).unwrap_or_default()
}

/// The reclaimable cache of a point, as text.
pub(crate) fn cache(point: &Point) -> String {
    point.cache().map(|cache| Measure::Memory.rate_in_words(cache)).unwrap_or_default()
}

/// A limit, as text; empty without one.
pub(crate) fn limit(limits: &Usage, measure: Measure) -> String {
    limits.get(measure).map(|limit| measure.rate_in_words(limit)).unwrap_or_default()
}

/// Faults by limit, as one word.
pub(crate) fn fault_words(faults: &BTreeMap<String, u64>) -> String {
    let faults = faults.iter().filter(|(_, count)| **count > 0);
    let words: Vec<String> = faults.map(|(limit, count)| format!("{limit}={count}")).collect();
    visible(&words.join(",")).into_owned()
}

/// What a cell of a table of usage shows.
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

/// The columns that follow those of both tables when there is traffic.
const TRAFFIC: &[(&str, Measure, Cell)] =
    &[("SENT", Measure::NetSent, Average), ("RECEIVED", Measure::NetReceived, Average)];

/// The columns of a table of these points.
fn columns<'a>(
    always: &'a [(&'static str, Measure, Cell)],
    points: impl Iterator<Item = &'a Point>,
) -> Vec<(&'static str, Measure, Cell)> {
    let traffic = if has_traffic(points) { TRAFFIC } else { &[] };
    always.iter().chain(traffic).copied().collect()
}

fn cell(point: &Point, limits: &Usage, (_, measure, cell): (&str, Measure, Cell)) -> String {
    match cell {
        Average => average(point, measure),
        Peak => peak(point, measure),
        Limit => limit(limits, measure),
        Cache => cache(point),
    }
}

fn usage_text(tenants: &[TenantUsage]) -> String {
    let columns = columns(USAGE, tenants.iter().map(|tenant| &tenant.total));
    let mut header = vec!["TENANT"];
    header.extend(columns.iter().map(|(name, ..)| *name));
    header.extend(["FULLEST", "FAULTS"]);
    let mut out = render(&header, tenants.iter().map(|tenant| usage_row(&columns, tenant)));
    if lacks_io(tenants.iter().map(|tenant| &tenant.total)) {
        out.push_str(&format!("{NO_IO}\n"));
    }
    out
}

fn usage_row(columns: &[(&str, Measure, Cell)], tenant: &TenantUsage) -> Vec<String> {
    let mut row = vec![tenant.tenant.to_string()];
    row.extend(columns.iter().map(|column| cell(&tenant.total, &tenant.limits, *column)));
    let fullest = fullest(tenant).map(|(measure, share)| format!("{measure}={}", percent(share)));
    row.extend([fullest.unwrap_or_default(), fault_words(&tenant.faults)]);
    row
}

fn history_text(points: &[Point], zone: &TimeZone) -> String {
    let columns = columns(HISTORY, points.iter());
    let mut header = vec!["TIME", "MEASURED"];
    header.extend(columns.iter().map(|(name, ..)| *name));
    let mut out = render(&header, points.iter().map(|point| history_row(&columns, point, zone)));
    if lacks_io(points.iter()) {
        out.push_str(&format!("{NO_IO}\n"));
    }
    out
}

fn history_row(columns: &[(&str, Measure, Cell)], point: &Point, zone: &TimeZone) -> Vec<String> {
    let no_limits = Usage::default();
    let mut row = vec![clock(point.at, zone), Period(point.seconds).to_string()];
    row.extend(columns.iter().map(|column| cell(point, &no_limits, *column)));
    row
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
            services: None,
        }
    }

    fn names(tenants: &[TenantUsage]) -> Vec<&str> {
        tenants.iter().map(|tenant| tenant.tenant.as_str()).collect()
    }

    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("valid")
    }

    #[test]
    fn tenants_are_sorted_by_usage_then_by_name() {
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
    fn a_threshold_selects_by_the_share_of_any_limit() {
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
    fn a_threshold_is_parsed_from_a_percentage() {
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
        // The note appears once if nobody's reads were measured.
        let text = usage(&[tenant("carol", &[(Measure::Cpu, 1)], &[]), tenant("bob", &[], &[])], Form::Text);
        assert!(text.ends_with(&format!("{NO_IO}\n")) && text.matches(NO_IO).count() == 1, "{text}");
    }

    #[test]
    fn traffic_has_columns_when_there_is_some() {
        let quiet = tenant("alice", &[(Measure::NetSent, 0), (Measure::IoRead, 1)], &[]);
        let busy =
            tenant("bob", &[(Measure::NetSent, 100 << 20), (Measure::NetReceived, 7), (Measure::IoRead, 1)], &[]);
        assert!(!usage(std::slice::from_ref(&quiet), Form::Text).contains("SENT"));
        let golden = "\
            TENANT  CPU  CPU-LIMIT  MEMORY  CACHE  PEAK  LIMIT  TASKS  READ  WRITE  DISK  DISK-LIMIT  SENT    RECEIVED  FULLEST  FAULTS\n\
            alice   -    -          -       -      -     -      -      1/s   -      -     -           0/s     -         -        -\n\
            bob     -    -          -       -      -     -      -      1/s   -      -     -           1.0M/s  1/s       -        -\n";
        assert_eq!(usage(&[quiet.clone(), busy.clone()], Form::Text), golden);
        let text = |point: Point| history(&[point], &TimeZone::UTC, Form::Text);
        let shown = text(busy.total);
        assert!(shown.lines().next().is_some_and(|header| header.ends_with("SESSIONS  SENT    RECEIVED")), "{shown}");
        assert!(shown.contains("1.0M/s  1/s\n") && !text(quiet.total.clone()).contains("SENT"), "{shown}");
        let json: serde_json::Value = serde_json::from_str(&usage(&[quiet], Form::Json)).expect("valid");
        assert_eq!(json[0]["total"]["usage"]["net_sent"], 0);
        assert!(json[0]["total"]["usage"]["net6_received"].is_null());
    }

    #[test]
    fn history_is_shown_in_local_time() {
        let span =
            |at, seconds| Point { at: Moment(at), seconds, ..tenant("a", &[(Measure::Cpu, 30_000_000)], &[]).total };
        // The repeated hour at the end of summer time.
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
