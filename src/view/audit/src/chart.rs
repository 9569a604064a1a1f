//! Renders line charts of what a tenant used, as SVG inside the page. They have whole numbers and no script, and load
//! nothing.
//!
//! A span without a measurement is a gap, never a zero. Many points become few columns. Each column shows its average
//! and its highest minute, so no peak is lost.

use bailiwick_types::{Kind, Measure, Moment, Point, Unit, Usage};

/// One chart.
pub(crate) struct Chart {
    /// A part of the id of the figure.
    pub(crate) word: &'static str,
    /// The title of the chart.
    pub(crate) title: &'static str,
    /// The lines of the chart, each with a name if there are two.
    lines: &'static [(Measure, &'static str)],
}

/// Every chart of a tenant, in the order of the page.
pub(crate) const CHARTS: &[Chart] = &[
    Chart { word: "cpu", title: "Processor time, as a share of one core", lines: &[(Measure::Cpu, "")] },
    Chart { word: "memory", title: "Memory", lines: &[(Measure::Memory, "")] },
    Chart { word: "disk", title: "Disk space", lines: &[(Measure::Disk, "")] },
    Chart { word: "tasks", title: "Processes and threads", lines: &[(Measure::Tasks, "")] },
    Chart {
        word: "io",
        title: "Block devices, read (unbroken line) and written (broken line)",
        lines: &[(Measure::IoRead, "read "), (Measure::IoWrite, "written ")],
    },
];

/// The number of lines in all charts of one tenant.
pub(crate) fn lines() -> usize {
    CHARTS.iter().map(|chart| chart.lines.len()).sum()
}

/// Width and height of the picture. The four constants after it are the edges of the area of the lines.
const SIZE: (u64, u64) = (720, 200);
const LEFT: u64 = 72;
const RIGHT: u64 = 708;
const TOP: u64 = 16;
const BOTTOM: u64 = 164;

/// The values of one measure in one column.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Value {
    average: u64,
    peak: u64,
}

/// The time that a chart covers, in columns of equal length. The fields `from` and `width` are in seconds.
struct Columns {
    from: u64,
    width: u64,
    count: u64,
}

impl Columns {
    /// Makes one column for each span of the history, but not more than `most` columns. `None` without any point.
    fn of(points: &[&Point], most: u64) -> Option<Self> {
        let (from, last) = (points.first()?.at.0, points.last()?.at.0);
        let mut steps: Vec<u64> =
            points.windows(2).map(|pair| pair[1].at.0 - pair[0].at.0).filter(|step| *step > 0).collect();
        steps.sort_unstable();
        let step = steps.get(steps.len() / 2).copied().unwrap_or(60);
        let spans = (last - from) / step;
        let width = step.saturating_mul((spans / most).saturating_add(1));
        Some(Self { from, width, count: (last - from) / width + 1 })
    }

    fn values(&self, points: &[&Point], measure: Measure) -> Vec<Option<Value>> {
        #[derive(Clone, Copy, Default)]
        struct Sum {
            weighted: u128,
            seconds: u128,
            peak: u64,
        }
        let mut sums = vec![Sum::default(); usize::try_from(self.count).expect("columns are few")];
        for point in points {
            let Some(rate) = point.rate(measure) else { continue };
            let column = usize::try_from((point.at.0 - self.from) / self.width).expect("columns are few");
            let sum = &mut sums[column];
            // A longer span counts as this many seconds, which is more than a century.
            let seconds = u128::from(point.seconds.min(u64::from(u32::MAX)));
            sum.weighted += u128::from(rate) * seconds;
            sum.seconds += seconds;
            sum.peak = sum.peak.max(rate).max(point.peak_rate(measure).unwrap_or(0));
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
fn path(columns: &Columns, values: &[Option<Value>], top: u64, of: impl Fn(Value) -> u64) -> String {
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
        path.push_str(&format!("{letter}{} {}", columns.x(column), y(of(*value), top)));
        open += 1;
    }
    if open == 1 {
        path.push_str("h0");
    }
    path
}

/// Renders one chart as a figure, or as a sentence when nothing was measured. `owner` is a name that is safe in an id
/// and in text. `points` are in the order of time. `limits` has the units of [`Point::rate`].
pub(crate) fn figure(
    chart: &Chart,
    owner: &str,
    points: &[&Point],
    limits: &Usage,
    most: u64,
    time: impl Fn(Moment) -> String,
) -> String {
    let title = chart.title;
    let drawn = Columns::of(points, most).map(|columns| {
        let lines: Vec<_> =
            chart.lines.iter().map(|(measure, name)| (*measure, *name, columns.values(points, *measure))).collect();
        (columns, lines)
    });
    let drawn = drawn.filter(|(_, lines)| lines.iter().any(|(_, _, values)| values.iter().any(Option::is_some)));
    let Some((columns, lines)) = drawn else {
        return format!("<p class=\"none\">{title}: not measured.</p>\n");
    };
    let (measure, _, _) = lines[0];
    let highest = lines
        .iter()
        .flat_map(|(measure, _, values)| values.iter().flatten().map(|value| value.peak).chain(limits.get(*measure)));
    let top = round_up(measure, highest.max().unwrap_or(0));
    let end = Moment(columns.from.saturating_add(columns.width.saturating_mul(columns.count)));

    let id = format!("chart-{owner}-{}", chart.word);
    let told: Vec<String> = lines.iter().map(|line| in_words(line, limits)).collect();
    let told = told.join("; ");
    let (from_text, end_text) = (time(Moment(columns.from)), time(end));
    let (middle_x, middle) = columns.middle();
    let mut out = format!("<figure>\n<figcaption><b>{title}</b><br/>{told}</figcaption>\n");
    out.push_str(&format!(
        "<svg role=\"img\" viewBox=\"0 0 {} {}\" aria-labelledby=\"{id}-title {id}-desc\">\n\
         <title id=\"{id}-title\">{title}: {owner}</title>\n\
         <desc id=\"{id}-desc\">From {from_text} until {end_text}. {told}.</desc>\n",
        SIZE.0, SIZE.1
    ));
    let times = [(LEFT, "start", from_text), (middle_x, "middle", time(middle)), (RIGHT, "end", end_text)];
    // A chart of one column has no middle.
    let times = times.into_iter().filter(|(_, anchor, _)| columns.count > 1 || *anchor != "middle");
    out.push_str(&axes(measure, top, times));
    for (number, (measure, name, values)) in lines.iter().enumerate() {
        if let Some(limit) = limits.get(*measure) {
            let y = y(limit, top);
            out.push_str(&format!(
                "<path class=\"limit\" d=\"M{LEFT} {y}H{RIGHT}\"/>\
                 <text class=\"limit\" x=\"{RIGHT}\" y=\"{}\" text-anchor=\"end\">{name}limit {}</text>\n",
                y - 4,
                measure.rate_in_words(limit)
            ));
        }
        if values.iter().flatten().any(|value| value.peak != value.average) {
            let path = path(&columns, values, top, |value| value.peak);
            out.push_str(&format!("<path class=\"peak line{number}\" d=\"{path}\"/>\n"));
        }
        let path = path(&columns, values, top, |value| value.average);
        out.push_str(&format!("<path class=\"line{number}\" d=\"{path}\"/>\n"));
    }
    out.push_str("</svg>\n</figure>\n");
    out
}

/// The numbers at the side, each with a line across the chart, and the times below.
fn axes(measure: Measure, top: u64, times: impl Iterator<Item = (u64, &'static str, String)>) -> String {
    let mut out = String::new();
    for value in [0, top / 2, top] {
        let (y, label) = (y(value, top), measure.rate_in_words(value));
        out.push_str(&format!(
            "<path class=\"grid\" d=\"M{LEFT} {y}H{RIGHT}\"/><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text>\n",
            LEFT - 6,
            y + 4
        ));
    }
    for (x, anchor, text) in times {
        out.push_str(&format!("<text x=\"{x}\" y=\"{}\" text-anchor=\"{anchor}\">{text}</text>\n", BOTTOM + 20));
    }
    out
}

/// Describes a line in words, for readers who cannot see it.
fn in_words((measure, name, values): &(Measure, &str, Vec<Option<Value>>), limits: &Usage) -> String {
    let measured: Vec<&Value> = values.iter().flatten().collect();
    if measured.is_empty() {
        return format!("{name}not measured");
    }
    let sum: u128 = measured.iter().map(|value| u128::from(value.average)).sum();
    let average = sum / u128::from(u64::try_from(measured.len()).expect("columns are few"));
    let average = u64::try_from(average).expect("an average is no more than the most");
    let peak = measured.iter().map(|value| value.peak).max().unwrap_or(0);
    let highest = match measure.kind() {
        Kind::Sum => "highest minute",
        Kind::Level => "highest",
    };
    let limit =
        limits.get(*measure).map(|limit| format!(", limit {}", measure.rate_in_words(limit))).unwrap_or_default();
    let [average, peak] = [average, peak].map(|rate| measure.rate_in_words(rate));
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

    fn drawn(points: &[Point], most: u64) -> String {
        let points: Vec<&Point> = points.iter().collect();
        let limits = Usage(BTreeMap::from([(Measure::Memory, 2048)]));
        figure(&CHARTS[1], "alice", &points, &limits, most, |moment| moment.0.to_string())
    }

    #[test]
    fn a_chart_reads_as_it_should() {
        let golden = "<figure>\n<figcaption><b>Memory</b><br/>average 682, highest 1.5K, limit 2.0K</figcaption>\n\
            <svg role=\"img\" viewBox=\"0 0 720 200\" aria-labelledby=\"chart-alice-memory-title chart-alice-memory-desc\">\n\
            <title id=\"chart-alice-memory-title\">Memory: alice</title>\n\
            <desc id=\"chart-alice-memory-desc\">From 0 until 300. average 682, highest 1.5K, limit 2.0K.</desc>\n\
            <path class=\"grid\" d=\"M72 164H708\"/><text x=\"66\" y=\"168\" text-anchor=\"end\">0</text>\n\
            <path class=\"grid\" d=\"M72 90H708\"/><text x=\"66\" y=\"94\" text-anchor=\"end\">1.0K</text>\n\
            <path class=\"grid\" d=\"M72 16H708\"/><text x=\"66\" y=\"20\" text-anchor=\"end\">2.0K</text>\n\
            <text x=\"72\" y=\"184\" text-anchor=\"start\">0</text>\n\
            <text x=\"326\" y=\"184\" text-anchor=\"middle\">120</text>\n\
            <text x=\"708\" y=\"184\" text-anchor=\"end\">300</text>\n\
            <path class=\"limit\" d=\"M72 16H708\"/>\
            <text class=\"limit\" x=\"708\" y=\"12\" text-anchor=\"end\">limit 2.0K</text>\n\
            <path class=\"peak line0\" d=\"M135 90L262 53M517 164h0\"/>\n\
            <path class=\"line0\" d=\"M135 90L262 90M517 164h0\"/>\n\
            </svg>\n</figure>\n";
        let points =
            [point(0, Some(1024), 1024), point(60, Some(1024), 1536), point(180, Some(0), 0), point(240, None, 0)];
        assert_eq!(drawn(&points, 240), golden);
    }

    #[test]
    fn what_was_never_measured_is_said() {
        assert_eq!(drawn(&[], 240), "<p class=\"none\">Memory: not measured.</p>\n");
        assert_eq!(drawn(&[point(0, None, 0)], 240), "<p class=\"none\">Memory: not measured.</p>\n");
    }

    #[test]
    fn many_points_become_few_columns_and_no_peak_is_lost() {
        for many in [1_u64, 2, 239, 240, 241, 479, 480, 481, 44_640] {
            let mut points: Vec<Point> = (0..many).map(|minute| point(minute * 60, Some(100), 100)).collect();
            points[usize::try_from(many / 2).expect("fits")].peak = Usage(BTreeMap::from([(Measure::Memory, 2047)]));
            let all: Vec<&Point> = points.iter().collect();
            let columns = Columns::of(&all, 240).expect("points");
            let values = columns.values(&all, Measure::Memory);
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
            assert!(drawn(points, 240).contains("<svg"));
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
