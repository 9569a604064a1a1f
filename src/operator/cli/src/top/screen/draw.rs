//! Draws the screen of `top`, on any backend.

use super::{KEYS, Mode, Order, SORTS, Top};
use crate::output::visible;
use crate::usage::{NO_IO, average, cache, fault_words, fullest, has_traffic, lacks_io, limit, peak};
use bailiwick_proto::control::ServiceStatus;
use bailiwick_types::{Measure, Point, ServiceState, TenantName, TenantUsage, percent};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Clear, Paragraph, Row, Sparkline, Table, TableState};

/// A column of the list.
struct Column {
    title: &'static str,
    width: u16,
    what: What,
}

/// What a column shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Used(Measure),
    /// The same, if somebody has sent or received something.
    Traffic(Measure),
    Limit(Measure),
    Cache,
    /// The services that run, and those that fail.
    Services,
}

/// Columns of the list after the name. If the terminal is too narrow, the rightmost ones are left out.
#[rustfmt::skip]
const COLUMNS: &[Column] = &[
    Column { title: "CPU", width: 8, what: What::Used(Measure::Cpu) },
    Column { title: "MEMORY", width: 8, what: What::Used(Measure::Memory) },
    Column { title: "TASKS", width: 7, what: What::Used(Measure::Tasks) },
    Column { title: "READ", width: 9, what: What::Used(Measure::IoRead) },
    Column { title: "WRITE", width: 9, what: What::Used(Measure::IoWrite) },
    Column { title: "DISK", width: 8, what: What::Used(Measure::Disk) },
    Column { title: "SENT", width: 9, what: What::Traffic(Measure::NetSent) },
    Column { title: "RECEIVED", width: 9, what: What::Traffic(Measure::NetReceived) },
    Column { title: "RUN/FAIL", width: 8, what: What::Services },
    Column { title: "CACHE", width: 8, what: What::Cache },
    Column { title: "CPU-LIM", width: 8, what: What::Limit(Measure::Cpu) },
    Column { title: "MEM-LIM", width: 8, what: What::Limit(Measure::Memory) },
    Column { title: "DISK-LIM", width: 8, what: What::Limit(Measure::Disk) },
];

impl Column {
    fn cell(&self, tenant: &TenantUsage) -> String {
        let text = match self.what {
            What::Used(measure) | What::Traffic(measure) => average(&tenant.total, measure),
            What::Limit(measure) => limit(&tenant.limits, measure),
            What::Cache => cache(&tenant.total),
            What::Services => service_counts(tenant),
        };
        self.aligned(&text)
    }

    fn aligned(&self, text: &str) -> String {
        format!("{text:>width$}", width = usize::from(self.width))
    }
}

/// Title of the last column, which takes the rest of a row.
const REST: &str = " NEAREST LIMIT, FAULTS";

/// The measures whose history is drawn for one tenant.
const HISTORIES: &[Measure] =
    &[Measure::Cpu, Measure::Memory, Measure::Tasks, Measure::IoRead, Measure::IoWrite, Measure::Disk];

/// Those that follow when its traffic is measured.
const TRAFFIC: &[Measure] = &[Measure::NetSent, Measure::NetReceived];

impl Top {
    /// Draws the whole screen, on a terminal of any size.
    pub(crate) fn draw(&self, frame: &mut Frame<'_>) {
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
        frame.render_widget(Paragraph::new(self.title()).style(Style::new().add_modifier(Modifier::BOLD)), head);
        match (self.mode, &self.drilled) {
            (Mode::Help, _) => {
                frame.render_widget(Clear, body);
                frame.render_widget(Paragraph::new(help()), body);
            }
            (_, Some(tenant)) => self.draw_tenant(tenant, frame, body),
            (_, None) => self.draw_list(frame, body),
        }
        frame.render_widget(self.foot(), foot);
    }

    fn title(&self) -> String {
        match &self.drilled {
            Some(tenant) => format!("bailiwick top: {tenant}"),
            None => {
                let note = if lacks_io(self.data.tenants.iter().map(|tenant| &tenant.total)) {
                    format!(". {NO_IO}")
                } else {
                    String::new()
                };
                format!("bailiwick top: {} running tenants{note}", self.data.tenants.len())
            }
        }
    }

    fn foot(&self) -> Line<'static> {
        if let Some(problem) = &self.problem {
            return Line::styled(visible(problem).into_owned(), Style::new().fg(Color::Red));
        }
        match self.mode {
            Mode::Filter => Line::raw(format!("filter: {}_", visible(&self.filter))),
            _ if self.drilled.is_some() => Line::raw("esc back, up/down other tenants, ? help, q quit"),
            _ if self.filter.is_empty() => Line::raw("enter details, / filter, ? help, q quit"),
            _ => Line::raw(format!("filter: {}, esc clear, ? help, q quit", visible(&self.filter))),
        }
    }

    fn draw_list(&self, frame: &mut Frame<'_>, area: Rect) {
        let listed = self.listed();
        let longest = listed.iter().map(|tenant| tenant.tenant.as_str().len()).max().unwrap_or(0);
        let name_width = u16::try_from(longest).unwrap_or(u16::MAX).clamp(8, 32);
        let traffic = has_traffic(listed.iter().map(|tenant| &tenant.total));
        let shown = COLUMNS.iter().filter(|column| traffic || !matches!(column.what, What::Traffic(_)));
        let columns = &fitting_columns(shown, area.width.saturating_sub(name_width));
        let mut widths = vec![Constraint::Length(name_width)];
        widths.extend(columns.iter().map(|column| Constraint::Length(column.width)));
        widths.push(Constraint::Min(0));
        let rows = listed.iter().map(|tenant| list_row(columns, tenant));
        let table = Table::new(rows, widths)
            .header(Row::new(self.header(columns)).style(Style::new().add_modifier(Modifier::UNDERLINED)))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let selected = (!listed.is_empty()).then(|| self.selected_index(&listed));
        frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(selected));
    }

    /// The titles of the columns.
    fn header(&self, columns: &[&Column]) -> Vec<String> {
        let mut titles = vec![self.marked("TENANT", None)];
        for column in columns {
            let title = match column.what {
                What::Used(measure) | What::Traffic(measure) => self.marked(column.title, Some(measure)),
                What::Limit(_) | What::Cache | What::Services => column.title.to_owned(),
            };
            titles.push(column.aligned(&title));
        }
        titles.push(REST.to_owned());
        titles
    }

    /// A title, with the sort direction if the list is sorted by its column.
    fn marked(&self, title: &str, by: Option<Measure>) -> String {
        match self.order {
            _ if self.by != by => title.to_owned(),
            Order::MostFirst => format!("{title}v"),
            Order::LeastFirst => format!("{title}^"),
        }
    }

    fn draw_tenant(&self, name: &TenantName, frame: &mut Frame<'_>, area: Rect) {
        let Some(tenant) = self.data.tenants.iter().find(|tenant| tenant.tenant == *name) else {
            frame.render_widget(Paragraph::new("not measured at present"), area);
            return;
        };
        let mut limits = tenant_lines(tenant);
        limits.lines.extend(self.data.services.iter().map(service_line));
        // Side by side on a wide terminal, else one below the other.
        let [numbers, histories] = if area.width >= 100 {
            Layout::horizontal([Constraint::Length(60), Constraint::Min(0)]).spacing(2).areas(area)
        } else {
            let height = u16::try_from(limits.lines.len()).unwrap_or(u16::MAX).min(area.height / 2 + area.height % 2);
            Layout::vertical([Constraint::Length(height), Constraint::Min(0)]).areas(area)
        };
        frame.render_widget(Paragraph::new(limits), numbers);
        let traffic = if tenant.total.usage.get(Measure::NetSent).is_some() { TRAFFIC } else { &[] };
        let measures: Vec<Measure> = HISTORIES.iter().chain(traffic).copied().collect();
        let height = if usize::from(histories.height) >= measures.len() * 4 { 4 } else { 2 };
        let areas =
            (0..histories.height / height).map(|number| Rect { y: histories.y + number * height, height, ..histories });
        for (measure, area) in measures.into_iter().zip(areas) {
            self.draw_history(measure, tenant, frame, area);
        }
    }

    fn draw_history(&self, measure: Measure, tenant: &TenantUsage, frame: &mut Frame<'_>, area: Rect) {
        let [label, bars] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
        let values = sparkline_values(&self.data.points, measure, usize::from(bars.width));
        let highest = values.iter().flatten().max().copied();
        let text = match (highest, tenant.limits.get(measure)) {
            (None, _) => format!("{measure}: not measured"),
            (Some(highest), None) => format!("{measure}: up to {}", measure.rate_in_words(highest)),
            (Some(highest), Some(limit)) => {
                format!("{measure}: up to {} of {}", measure.rate_in_words(highest), measure.rate_in_words(limit))
            }
        };
        frame.render_widget(Paragraph::new(text), label);
        let top = highest.max(tenant.limits.get(measure)).unwrap_or(0).max(1);
        let sparkline = Sparkline::default().data(&values).max(top).absent_value_symbol(".");
        frame.render_widget(sparkline.style(Style::new().fg(Color::Cyan)), bars);
    }
}

/// The services that run and that fail: `3/1`.
fn service_counts(tenant: &TenantUsage) -> String {
    tenant.services.map(|counts| format!("{}/{}", counts.running, counts.failing)).unwrap_or_default()
}

/// The first of these columns that fit into a width, in characters.
fn fitting_columns(columns: impl Iterator<Item = &'static Column>, width: u16) -> Vec<&'static Column> {
    /// Width kept free for the nearest limit, which is more useful than the columns of limits and cache.
    const NEAREST: u16 = 24;
    let mut left = width;
    let mut fitting = Vec::new();
    for column in columns {
        let spare = if matches!(column.what, What::Used(_) | What::Traffic(_)) { 0 } else { NEAREST };
        if left <= column.width + spare {
            break;
        }
        left = left.saturating_sub(column.width + 1);
        fitting.push(column);
    }
    fitting
}

fn list_row<'a>(columns: &[&Column], tenant: &TenantUsage) -> Row<'a> {
    let mut cells = vec![tenant.tenant.to_string()];
    cells.extend(columns.iter().map(|column| column.cell(tenant)));
    cells.push(nearest_limit(tenant));
    Row::new(cells).style(alarm(fullest(tenant).map(|(_, part)| part)))
}

/// The limit that a tenant is nearest to, and its faults.
fn nearest_limit(tenant: &TenantUsage) -> String {
    let part = fullest(tenant).map(|(measure, part)| format!(" {measure} {}", percent(part))).unwrap_or_default();
    format!("{part} {}", fault_words(&tenant.faults))
}

/// The colour of a row, by the used part of a limit in thousandths.
fn alarm(part: Option<u64>) -> Style {
    match part {
        Some(1000..) => Style::new().fg(Color::Red),
        Some(900..) => Style::new().fg(Color::Yellow),
        _ => Style::new(),
    }
}

fn help() -> Text<'static> {
    let sorts =
        SORTS.iter().map(|(letter, by)| (letter.to_string(), format!("by {}", by.map_or("name", Measure::word))));
    let keys = KEYS.iter().map(|(key, what)| ((*key).to_owned(), (*what).to_owned()));
    keys.chain(sorts).map(|(key, what)| Line::raw(format!("{key:>9}  {what}"))).collect()
}

/// The limits and faults of one tenant.
fn tenant_lines(tenant: &TenantUsage) -> Text<'static> {
    let row = |cells: [&str; 5]| {
        let [name, rest @ ..] = cells;
        format!("{name:<20}{}", rest.map(|cell| format!("{cell:>10}")).concat())
    };
    let bold = Style::new().add_modifier(Modifier::UNDERLINED);
    let mut lines = vec![Line::styled(row(["MEASURE", "AVERAGE", "PEAK", "LIMIT", "PART"]), bold)];
    for measure in Measure::ALL {
        let (average, peak) = (average(&tenant.total, measure), peak(&tenant.total, measure));
        let limit = limit(&tenant.limits, measure);
        if [&average, &peak, &limit].iter().all(|text| text.is_empty()) {
            continue;
        }
        let part = tenant.part(measure);
        let text = row([measure.word(), &average, &peak, &limit, &part.map(percent).unwrap_or_default()]);
        lines.push(Line::styled(text, alarm(part)));
    }
    let faults = fault_words(&tenant.faults);
    let faults = if faults.is_empty() { "none".to_owned() } else { faults.replace(',', ", ") };
    lines.push(Line::from(vec![Span::raw("faults: "), Span::raw(faults)]));
    Text::from(lines)
}

/// A service with its state, which is the tenant's word.
fn service_line(service: &ServiceStatus) -> Line<'static> {
    let state = service.report.as_ref().map_or("unknown", |report| report.state.word());
    let style = match service.report.as_ref().map(|report| report.state) {
        Some(ServiceState::Failed | ServiceState::BackOff) => Style::new().fg(Color::Red),
        _ => Style::new(),
    };
    Line::styled(format!("service {}: {state}", service.name), style)
}

/// The latest values of a history, one per character of `width`; `None` where nothing was measured.
fn sparkline_values(points: &[Point], measure: Measure, width: usize) -> Vec<Option<u64>> {
    let step = points.windows(2).map(|pair| pair[1].at.0.saturating_sub(pair[0].at.0)).filter(|step| *step > 0).min();
    let mut values = Vec::new();
    let mut after = None;
    for point in points.iter().rev() {
        if let (Some(after), Some(step)) = (after, step) {
            let spans = point.at.0.abs_diff(after) / step;
            let gap = usize::try_from(spans.saturating_sub(1)).unwrap_or(usize::MAX);
            values.extend(std::iter::repeat_n(None, gap.min(width)));
        }
        values.push(point.rate(measure));
        after = Some(point.at.0);
        if values.len() >= width {
            break;
        }
    }
    values.truncate(width);
    values.reverse();
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::Data;
    use crate::top::screen::tests::{data, loaded, points, press, screen};
    use crate::usage::tests::tenant;
    use bailiwick_types::Moment;

    #[test]
    fn the_list_has_a_row_for_each_tenant() {
        let golden = [
            "bailiwick top: 3 running tenants. READ, WRITE: not measured; only version 2 of control groups counts them for each tenant",
            "TENANT       CPUv   MEMORY   TASKS      READ     WRITE     DISK RUN/FAIL    CACHE  CPU-LIM  MEM-LIM DISK-LIM  NEAREST LIMIT, FAULTS",
            "bob         90.0%   100.0M                                                          100.0%     1.0G           cpu 90.0%",
            "carol       50.0%  1000.0M                                           3/1            100.0%     1.0G           memory 97.6% memory=3,x\\u{1b}[2J=1",
            "alice       10.0%   300.0M                                                          100.0%     1.0G           memory 29.2%",
            "",
            "enter details, / filter, ? help, q quit",
        ];
        assert_eq!(screen(&loaded(), 200, 7), golden);
    }

    #[test]
    fn traffic_is_shown_when_there_is_some() {
        let mut with = data();
        with.tenants[0].total.usage.0.extend([(Measure::NetSent, 100 << 20), (Measure::NetReceived, 0)]);
        let mut top = loaded();
        assert!(!screen(&top, 200, 7)[1].contains("SENT"));
        top.update(Ok(Data { points: points(), ..with }));
        press(&mut top, "s");
        let shown = screen(&top, 200, 7);
        assert!(shown[1].contains("     DISK     SENTv  RECEIVED RUN/FAIL "), "{shown:?}");
        assert!(shown[2].contains("     1.0M/s       0/s "), "{shown:?}");
        assert!(shown[2].starts_with("alice"), "{shown:?}");
        press(&mut top, "enter");
        let shown = screen(&top, 120, 30).join("\n");
        assert!(
            shown.contains("net_sent: not measured") && shown.contains("net_sent                1.0M/s"),
            "{shown}"
        );
    }

    #[test]
    fn a_screen_of_any_size_is_drawn() {
        for (width, height) in [(0, 0), (1, 1), (0, 5), (5, 0), (40, 10), (80, 2), (100, 3), (300, 100)] {
            for keys in ["n", "/", "esc", "?", "esc", "enter"] {
                let mut top = loaded();
                press(&mut top, keys);
                top.update(Ok(Data { points: points(), ..data() }));
                screen(&top, width, height);
                screen(&Top::new(None), width, height);
            }
        }
        let shown = screen(&loaded(), 40, 10);
        assert!(shown[2].starts_with("bob") && shown[2].contains("90.0%"), "{shown:?}");
        assert!(screen(&loaded(), 80, 10)[2].ends_with("cpu 90.0%"), "the nearest limit comes before the limits");
    }

    #[test]
    fn the_selected_row_is_visible_among_many() {
        let many = (0..500).map(|number| tenant(&format!("t{number:03}"), &[], &[])).collect();
        let mut top = Top::new(None);
        top.update(Ok(Data { tenants: many, ..Data::default() }));
        press(&mut top, "end");
        assert!(screen(&top, 40, 10).iter().any(|line| line.starts_with("t499")));
    }

    #[test]
    fn gaps_in_a_history_stay_gaps() {
        let cpu = |minute: u64| Some((minute * 10_000_000).div_ceil(60));
        let golden = vec![cpu(0), cpu(1), cpu(2), None, None, cpu(5), cpu(6)];
        assert_eq!(sparkline_values(&points(), Measure::Cpu, 80), golden);
        assert_eq!(sparkline_values(&points(), Measure::Cpu, 3), golden[4..]);
        assert_eq!(sparkline_values(&points(), Measure::Cpu, 0), []);
        let mut odd = points();
        odd[4].at = Moment(u64::MAX);
        assert_eq!(sparkline_values(&odd, Measure::Cpu, 10).len(), 10);
    }
}
