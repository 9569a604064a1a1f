//! Renders line charts of what a tenant used, as SVG inside the page. They have whole numbers and no script, and load
//! nothing.
//!
//! A span without a measurement is a gap, never a zero. Many points become few columns. Each column shows its average
//! and its highest minute, so no peak is lost.

use crate::html::{rate, short_utc};
use bailiwick_types::{Kind, Measure, Moment, Point, Unit, Usage};

/// One line of a chart.
struct Line {
    measure: Measure,
    /// What the line is, if the chart has several.
    name: &'static str,
    /// The measure whose limit is drawn with the line.
    limit: Measure,
}

const fn line(measure: Measure, name: &'static str) -> Line {
    Line { measure, name, limit: measure }
}

/// A line with what is drawn of it.
struct Drawn {
    line: &'static Line,
    values: Vec<Option<Value>>,
    /// The limit, unless an earlier line has the same one.
    limit: Option<u64>,
}

/// One chart.
#[derive(Clone, Copy)]
pub(crate) struct Chart {
    /// A part of the id of the figure.
    word: &'static str,
    /// The title of the chart.
    title: &'static str,
    /// The lines of the chart.
    lines: &'static [Line],
}

/// The memory that the kernel cannot take back is what the limit is compared with, so it has the line of the limit.
const MEMORY: Chart = Chart {
    word: "memory",
    title: "Memory",
    lines: &[
        Line { measure: Measure::MemoryUsed, name: "in use", limit: Measure::Memory },
        line(Measure::Memory, "with page cache"),
    ],
};
const CPU: Chart =
    Chart { word: "cpu", title: "Processor time, as a share of one core", lines: &[line(Measure::Cpu, "")] };
const DISK: Chart = Chart { word: "disk", title: "Disk space", lines: &[line(Measure::Disk, "")] };
const TASKS: Chart = Chart { word: "tasks", title: "Processes and threads", lines: &[line(Measure::Tasks, "")] };
const IO: Chart = Chart {
    word: "io",
    title: "Block devices",
    lines: &[line(Measure::IoRead, "read"), line(Measure::IoWrite, "written")],
};
const NETWORK: Chart = Chart {
    word: "network",
    title: "Network",
    lines: &[line(Measure::NetSent, "sent"), line(Measure::NetReceived, "received")],
};
const SESSIONS: Chart = Chart { word: "sessions", title: "Sessions", lines: &[line(Measure::Sessions, "")] };
const INODES: Chart = Chart { word: "inodes", title: "Files on disk", lines: &[line(Measure::Inodes, "")] };
const WAITING: Chart = Chart {
    word: "waiting",
    title: "Time in which processes waited",
    lines: &[
        line(Measure::CpuPressure, "for a processor"),
        line(Measure::MemoryPressure, "for memory"),
        line(Measure::IoPressure, "for a disk"),
    ],
};

/// The charts of a tenant in an audit, and in the report of a host.
pub(crate) const CHARTS: &[Chart] = &[CPU, MEMORY, DISK, TASKS, IO];

/// The charts of a tenant in its own report.
pub(crate) const ALL_CHARTS: &[Chart] = &[CPU, MEMORY, DISK, TASKS, IO, NETWORK, SESSIONS, INODES, WAITING];

/// The charts of a host: what all tenants use together.
pub(crate) const HOST_CHARTS: &[Chart] = &[CPU, MEMORY, DISK, IO, NETWORK, TASKS];

/// The number of lines in some charts.
pub(crate) fn lines(charts: &[Chart]) -> usize {
    charts.iter().map(|chart| chart.lines.len()).sum()
}

/// Renders charts side by side. What was not measured is said in one sentence after them. `owner` is a name that is safe
/// in an id and in text. `limits` has the units of [`Point::rate`]; `limit_word` says what they are.
pub(crate) fn figures(
    charts: &[Chart],
    owner: &str,
    points: &[Point],
    axis: Option<&Axis>,
    limits: &Usage,
    limit_word: &str,
) -> String {
    let (mut out, mut lacking) = (String::new(), Vec::new());
    for chart in charts {
        match axis.and_then(|axis| figure(chart, owner, points, axis, limits, limit_word)) {
            Some(figure) => out.push_str(&figure),
            None => lacking.push(chart.title.to_lowercase()),
        }
    }
    if !out.is_empty() {
        out = format!("<div class=\"charts\">\n{out}</div>\n");
    }
    if !lacking.is_empty() {
        out.push_str(&format!("<p class=\"none\">Not measured: {}.</p>\n", lacking.join("; ")));
    }
    out
}

/// Width and height of the picture. The four constants after it are the edges of the area of the lines. It is about
/// as wide as it is shown, so its letters have the size of those around it, on a telephone too.
const SIZE: (u64, u64) = (360, 160);
const LEFT: u64 = 52;
const RIGHT: u64 = 352;
const TOP: u64 = 20;
const BOTTOM: u64 = 132;

/// The values of one measure in one column.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Value {
    average: u64,
    peak: u64,
}

/// The time that charts cover, in columns of equal length. The fields `from` and `width` are in seconds.
pub(crate) struct Axis {
    from: u64,
    width: u64,
    count: u64,
}

impl Axis {
    /// Makes one column for each span of some histories, but not more than `most` columns. Each history is in the order
    /// of time. `None` without any point.
    pub(crate) fn of<'a>(histories: impl Iterator<Item = &'a [Point]> + Clone, most: u64) -> Option<Self> {
        let from = histories.clone().filter_map(|points| Some(points.first()?.at.0)).min()?;
        let last = histories.clone().filter_map(|points| Some(points.last()?.at.0)).max()?;
        let steps = histories.flat_map(|points| points.windows(2)).map(|pair| pair[1].at.0 - pair[0].at.0);
        let mut steps: Vec<u64> = steps.filter(|step| *step > 0).collect();
        steps.sort_unstable();
        let step = steps.get(steps.len() / 2).copied().unwrap_or(60);
        let spans = (last - from) / step;
        let width = step.saturating_mul((spans / most).saturating_add(1));
        Some(Self { from, width, count: (last - from) / width + 1 })
    }

    /// The moments at which it begins and ends.
    pub(crate) fn ends(&self) -> (Moment, Moment) {
        (Moment(self.from), Moment(self.from.saturating_add(self.width.saturating_mul(self.count))))
    }

    fn values(&self, points: &[Point], measure: Measure) -> Vec<Option<Value>> {
        #[derive(Clone, Copy, Default)]
        struct Sum {
            weighted: u128,
            seconds: u128,
            peak: u64,
        }
        let mut sums = vec![Sum::default(); usize::try_from(self.count).expect("columns are few")];
        for point in points {
            let Some(value) = point.rate(measure) else { continue };
            let column = point.at.0.checked_sub(self.from).and_then(|after| usize::try_from(after / self.width).ok());
            let Some(sum) = column.and_then(|column| sums.get_mut(column)) else { continue };
            // A longer span counts as this many seconds, which is more than a century.
            let seconds = u128::from(point.seconds.min(u64::from(u32::MAX)));
            sum.weighted += u128::from(value) * seconds;
            sum.seconds += seconds;
            sum.peak = sum.peak.max(value).max(point.peak_rate(measure).unwrap_or(0));
        }
        let value = |sum: Sum| {
            let average = sum.weighted.checked_div(sum.seconds)?;
            Some(Value {
                average: u64::try_from(average).expect("an average is no more than the most"),
                peak: sum.peak,
            })
        };
        sums.into_iter().map(value).collect()
    }

    /// Where the column nearest to the middle begins in the picture, and its time. The exact middle may lie inside a
    /// minute.
    fn middle(&self) -> (u64, Moment) {
        let column = self.count / 2;
        let x = LEFT + (RIGHT - LEFT) * column / self.count;
        (x, Moment(self.from.saturating_add(self.width.saturating_mul(column))))
    }

    fn x(&self, column: u64) -> u64 {
        LEFT + (RIGHT - LEFT) * (2 * column + 1) / (2 * self.count)
    }
}

/// A round number that is not less than a value, so that the axis is easy to read.
fn round_up(measure: Measure, value: u64) -> u64 {
    let (base, steps): (u64, &[u64]) = if measure.unit() == Unit::Bytes { (2, &[2]) } else { (10, &[2, 4, 6, 10]) };
    // Time is in microseconds a second, and 10,000 of them are 1 %.
    let mut floor: u64 = if measure.unit() == Unit::Microseconds { 10_000 } else { 1 };
    loop {
        for step in steps {
            match floor.checked_mul(*step) {
                Some(top) if top >= value => return top,
                Some(_) => {}
                None => return u64::MAX,
            }
        }
        floor = floor.saturating_mul(base);
    }
}

fn y(value: u64, top: u64) -> u64 {
    let height = u128::from(value.min(top)) * u128::from(BOTTOM - TOP) / u128::from(top.max(1));
    BOTTOM - u64::try_from(height).expect("no more than the chart")
}

/// The path of one line. A single value between gaps is a dot.
fn path(axis: &Axis, values: &[Option<Value>], top: u64, of: impl Fn(Value) -> u64) -> String {
    let mut path = String::new();
    let mut open = 0;
    for (column, value) in (0..).zip(values) {
        let Some(value) = value else {
            if open == 1 {
                path.push_str("h0");
            }
            open = 0;
            continue;
        };
        let letter = if open == 0 { 'M' } else { 'L' };
        path.push_str(&format!("{letter}{} {}", axis.x(column), y(of(*value), top)));
        open += 1;
    }
    if open == 1 {
        path.push_str("h0");
    }
    path
}

/// Renders one chart as a figure; `None` when nothing of it was measured.
fn figure(
    chart: &Chart,
    owner: &str,
    points: &[Point],
    axis: &Axis,
    limits: &Usage,
    limit_word: &str,
) -> Option<String> {
    let title = chart.title;
    let mut drawn: Vec<Drawn> = Vec::new();
    for line in chart.lines {
        let values = axis.values(points, line.measure);
        if values.iter().any(Option::is_some) {
            let is_new = drawn.iter().all(|earlier| earlier.line.limit != line.limit);
            drawn.push(Drawn { line, values, limit: limits.get(line.limit).filter(|_| is_new) });
        }
    }
    let measure = drawn.first()?.line.measure;
    let peaks = drawn.iter().flat_map(|one| one.values.iter().flatten().map(|value| value.peak).chain(one.limit));
    let top = round_up(measure, peaks.max().unwrap_or(0));
    let (from, end) = axis.ends();

    let id = format!("chart-{owner}-{}", chart.word);
    let told: Vec<String> = drawn.iter().map(|one| in_words(one, limit_word)).collect();
    let (from_text, end_text) = (short_utc(from), short_utc(end));
    let (middle_x, middle) = axis.middle();
    let keys: String = (0..).zip(&told).map(|(number, told): (usize, _)| key(number, told, drawn.len())).collect();
    let mut out = format!("<figure>\n<figcaption><b>{title}</b>{keys}</figcaption>\n");
    out.push_str(&format!(
        "<svg role=\"img\" viewBox=\"0 0 {} {}\" aria-labelledby=\"{id}-title {id}-desc\">\n\
         <title id=\"{id}-title\">{title}: {owner}</title>\n\
         <desc id=\"{id}-desc\">From {from_text} until {end_text}, UTC. {}.</desc>\n",
        SIZE.0,
        SIZE.1,
        told.join("; ")
    ));
    let times = [(LEFT, "start", from_text), (middle_x, "middle", short_utc(middle)), (RIGHT, "end", end_text)];
    // A chart of few columns has no middle.
    let times = times.into_iter().filter(|(_, anchor, _)| axis.count > 2 || *anchor != "middle");
    out.push_str(&axes(measure, top, times));
    if let [one] = drawn.as_slice() {
        out.push_str(&format!("<path class=\"area\" d=\"{}\"/>\n", area(axis, &one.values, top)));
    }
    for (number, Drawn { line, values, limit }) in drawn.iter().enumerate() {
        if let Some(limit) = *limit {
            let (y, place) = (y(limit, top), y(limit, top) - 5);
            // The limit of memory is that of both lines.
            let is_own = drawn.len() > 1 && line.limit == line.measure;
            let name = if is_own { format!("{}: ", line.name) } else { String::new() };
            out.push_str(&format!(
                "<path class=\"limit\" d=\"M{LEFT} {y}H{RIGHT}\"/>\
                 <text class=\"limit\" x=\"{RIGHT}\" y=\"{place}\" text-anchor=\"end\">{name}{limit_word} {}</text>\n",
                rate(line.measure, limit)
            ));
        }
        if values.iter().flatten().any(|value| value.peak != value.average) {
            let path = path(axis, values, top, |value| value.peak);
            out.push_str(&format!("<path class=\"peak line{number}\" d=\"{path}\"/>\n"));
        }
        let path = path(axis, values, top, |value| value.average);
        out.push_str(&format!("<path class=\"line{number}\" d=\"{path}\"/>\n"));
    }
    out.push_str("</svg>\n</figure>\n");
    Some(out)
}

/// What is said of one line below the title, with the look of the line if there are several.
fn key(number: usize, told: &str, of: usize) -> String {
    if of < 2 { format!("<span>{told}</span>") } else { format!("<span class=\"key key{number}\">{told}</span>") }
}

/// The area below a line.
fn area(axis: &Axis, values: &[Option<Value>], top: u64) -> String {
    let mut path = String::new();
    let mut last = None;
    for (column, value) in (0..).zip(values) {
        let x = axis.x(column);
        match (value, last) {
            (Some(value), None) => path.push_str(&format!("M{x} {BOTTOM}V{}", y(value.average, top))),
            (Some(value), Some(_)) => path.push_str(&format!("L{x} {}", y(value.average, top))),
            (None, Some(_)) => path.push_str(&format!("V{BOTTOM}Z")),
            (None, None) => {}
        }
        last = value.map(|_| x);
    }
    if last.is_some() {
        path.push_str(&format!("V{BOTTOM}Z"));
    }
    path
}

/// The numbers at the side, each with a line across the chart, and the times below.
fn axes(measure: Measure, top: u64, times: impl Iterator<Item = (u64, &'static str, String)>) -> String {
    let mut out = String::new();
    for value in [0, top / 2, top] {
        let (y, label) = (y(value, top), rate(measure, value));
        out.push_str(&format!(
            "<path class=\"grid\" d=\"M{LEFT} {y}H{RIGHT}\"/><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text>\n",
            LEFT - 6,
            y + 4
        ));
    }
    for (x, anchor, text) in times {
        out.push_str(&format!("<text x=\"{x}\" y=\"{}\" text-anchor=\"{anchor}\">{text}</text>\n", BOTTOM + 18));
    }
    out
}

/// Describes a line in words, for readers who cannot see it.
fn in_words(Drawn { line, values, limit }: &Drawn, limit_word: &str) -> String {
    let measure = line.measure;
    let measured: Vec<&Value> = values.iter().flatten().collect();
    let sum: u128 = measured.iter().map(|value| u128::from(value.average)).sum();
    let average = sum / u128::from(u64::try_from(measured.len()).expect("columns are few")).max(1);
    let average = u64::try_from(average).expect("an average is no more than the most");
    let peak = measured.iter().map(|value| value.peak).max().unwrap_or(0);
    let highest = match measure.kind() {
        Kind::Sum => "highest minute",
        Kind::Level => "highest",
    };
    let name = if line.name.is_empty() { String::new() } else { format!("{}: ", line.name) };
    let limit = limit.map(|limit| format!(", {limit_word} {}", rate(measure, limit))).unwrap_or_default();
    let [average, peak] = [average, peak].map(|value| rate(measure, value));
    format!("{name}average {average}, {highest} {peak}{limit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn point(at: u64, memory: Option<u64>, peak: u64) -> Point {
        let usage = |value| Usage(BTreeMap::from([(Measure::Memory, value)]));
        Point {
            at: Moment(at),
            seconds: 60,
            usage: memory.map(usage).unwrap_or_default(),
            peak: memory.map(|_| usage(peak)).unwrap_or_default(),
        }
    }

    fn drawn(points: &[Point], most: u64) -> Option<String> {
        let limits = Usage(BTreeMap::from([(Measure::Memory, 2048)]));
        figure(&MEMORY, "alice", points, &Axis::of(std::iter::once(points), most)?, &limits, "limit")
    }

    #[test]
    fn a_chart_reads_as_it_should() {
        let golden = "<figure>\n<figcaption><b>Memory</b><span>with page cache: average 682 B, highest 1.5K, limit 2.0K</span></figcaption>\n\
            <svg role=\"img\" viewBox=\"0 0 360 160\" aria-labelledby=\"chart-alice-memory-title chart-alice-memory-desc\">\n\
            <title id=\"chart-alice-memory-title\">Memory: alice</title>\n\
            <desc id=\"chart-alice-memory-desc\">From 1 Jan 00:00 until 1 Jan 00:05, UTC. with page cache: average 682 B, highest 1.5K, limit 2.0K.</desc>\n\
            <path class=\"grid\" d=\"M52 132H352\"/><text x=\"46\" y=\"136\" text-anchor=\"end\">0</text>\n\
            <path class=\"grid\" d=\"M52 76H352\"/><text x=\"46\" y=\"80\" text-anchor=\"end\">1.0K</text>\n\
            <path class=\"grid\" d=\"M52 20H352\"/><text x=\"46\" y=\"24\" text-anchor=\"end\">2.0K</text>\n\
            <text x=\"52\" y=\"150\" text-anchor=\"start\">1 Jan 00:00</text>\n\
            <text x=\"172\" y=\"150\" text-anchor=\"middle\">1 Jan 00:02</text>\n\
            <text x=\"352\" y=\"150\" text-anchor=\"end\">1 Jan 00:05</text>\n\
            <path class=\"area\" d=\"M82 132V76L142 76V132ZM262 132V132V132Z\"/>\n\
            <path class=\"limit\" d=\"M52 20H352\"/>\
            <text class=\"limit\" x=\"352\" y=\"15\" text-anchor=\"end\">limit 2.0K</text>\n\
            <path class=\"peak line0\" d=\"M82 76L142 48M262 132h0\"/>\n\
            <path class=\"line0\" d=\"M82 76L142 76M262 132h0\"/>\n\
            </svg>\n</figure>\n";
        let points =
            [point(0, Some(1024), 1024), point(60, Some(1024), 1536), point(180, Some(0), 0), point(240, None, 0)];
        assert_eq!(drawn(&points, 240).expect("measured"), golden);
    }

    #[test]
    fn the_limit_of_both_memories_is_drawn_once() {
        let both = |at| {
            let usage = Usage(BTreeMap::from([(Measure::Memory, 1024), (Measure::MemoryUsed, 512)]));
            Point { at: Moment(at), seconds: 60, usage: usage.clone(), peak: usage }
        };
        let html = drawn(&[both(0), both(60)], 240).expect("measured");
        assert_eq!((html.matches("class=\"limit\"").count(), html.matches("limit 2.0K").count()), (2, 3), "{html}");
        assert!(
            html.contains("<span class=\"key key0\">in use: ") && html.contains("<span class=\"key key1\">with page")
        );
        assert!(!html.contains("class=\"area\""));
    }

    #[test]
    fn what_was_never_measured_is_said() {
        assert_eq!(drawn(&[], 240), None);
        assert_eq!(drawn(&[point(0, None, 0)], 240), None);
        let html = figures(&[MEMORY, CPU], "alice", &[], None, &Usage::default(), "limit");
        assert_eq!(html, "<p class=\"none\">Not measured: memory; processor time, as a share of one core.</p>\n");
    }

    #[test]
    fn histories_of_different_lengths_share_an_axis() {
        let (long, short) = ([point(0, Some(1), 1), point(60, Some(1), 1)], [point(600, Some(1), 1)]);
        let axis = Axis::of([&long[..], &short[..], &[]].into_iter(), 240).expect("points");
        assert_eq!((axis.from, axis.width, axis.count, axis.ends()), (0, 60, 11, (Moment(0), Moment(660))));
        let values = axis.values(&short, Measure::Memory);
        assert_eq!(values.iter().position(Option::is_some), Some(10));
        // What is outside the axis is not drawn.
        assert!(axis.values(&[point(6000, Some(1), 1)], Measure::Memory).iter().all(Option::is_none));
    }

    #[test]
    fn many_points_become_few_columns_and_no_peak_is_lost() {
        for many in [1_u64, 2, 239, 240, 241, 479, 480, 481, 44_640] {
            let mut points: Vec<Point> = (0..many).map(|minute| point(minute * 60, Some(100), 100)).collect();
            points[usize::try_from(many / 2).expect("fits")].peak = Usage(BTreeMap::from([(Measure::Memory, 2047)]));
            let columns = Axis::of(std::iter::once(&points[..]), 240).expect("points");
            let values = columns.values(&points, Measure::Memory);
            assert!(columns.count <= 240 && columns.count * 2 >= many.min(240), "{many}: {}", columns.count);
            assert!(values.iter().all(|value| value.is_some_and(|value| value.average == 100)), "{many}");
            assert_eq!(values.iter().flatten().map(|value| value.peak).max(), Some(2047), "{many}");
        }
    }

    #[test]
    fn odd_histories_do_no_harm() {
        let all =
            [0, 1, u64::MAX - 1, u64::MAX].map(|at| Point { seconds: u64::MAX, ..point(at, Some(u64::MAX), u64::MAX) });
        for points in [&all[..], &all[..1], &all[2..], &[all[0].clone(), all[0].clone()]] {
            assert!(drawn(points, 240).is_some_and(|html| html.contains("<svg")));
        }
    }

    #[test]
    fn axes_end_at_round_numbers() {
        let cases = [
            (Measure::Memory, 0, 2),
            (Measure::Memory, 1000 << 20, 1 << 30),
            (Measure::Memory, u64::MAX, u64::MAX),
            (Measure::Tasks, 7, 10),
            (Measure::Tasks, 101, 200),
            (Measure::Cpu, 1_000_000, 1_000_000),
            (Measure::Cpu, 1_500_000, 2_000_000),
            (Measure::Cpu, 1, 20_000),
        ];
        for (measure, value, top) in cases {
            assert_eq!(round_up(measure, value), top, "{measure} {value}");
        }
    }
}
