//! `top`: who uses what, now, on a terminal of its own.
//!
//! [`Top`] is what is shown and how keys change it: it does nothing to the world and is drawn on any backend. [`run`] owns
//! the terminal.
//!
//! Danger: a terminal that is left raw is useless to its owner, so it is given back on every way out: an error, a signal
//! and a panic too. The way out is open at any time, also while nobody answers, or the terminal has gone and what reads keys never
//! returns: a thread of its own waits for it. Words that tenants could have chosen are drawn as `visible` has them.

use crate::output::visible;
use crate::usage::{NO_IO, average, cache, compare, fault_words, fullest, lacks_io, limit, peak};
use bailiwick_proto::Failure;
use bailiwick_sys::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, Signals};
use bailiwick_sys::stream::{self, Interest};
use bailiwick_types::{ExitStatus, Measure, Point, TenantName, TenantUsage, is_dangerous, percent};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Clear, Paragraph, Row, Sparkline, Table, TableState};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// What is asked for again and again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Data {
    /// Every tenant over the last moments.
    pub(crate) tenants: Vec<TenantUsage>,
    /// The history of the tenant that was asked for, oldest first; empty without one.
    pub(crate) points: Vec<Point>,
}

/// What a key asks of whoever owns the data and the terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing but to draw again.
    Continue,
    /// The end.
    Quit,
    /// New data now.
    Refresh,
    /// New data now, with the history of this tenant.
    Drill(TenantName),
}

/// Which end of the list comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Order {
    #[default]
    MostFirst,
    LeastFirst,
}

/// What keys go to. Only [`Top::key`] moves from one to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Look,
    /// Letters are added to the filter.
    Filter,
    Help,
}

/// Keys that sort, and what by; `None` is the name.
const SORTS: &[(char, Option<Measure>)] = &[
    ('c', Some(Measure::Cpu)),
    ('m', Some(Measure::Memory)),
    ('t', Some(Measure::Tasks)),
    ('r', Some(Measure::IoRead)),
    ('w', Some(Measure::IoWrite)),
    ('d', Some(Measure::Disk)),
    ('n', None),
];

/// What the help says of every other key.
const KEYS: &[(&str, &str)] = &[
    ("up, down", "another tenant (also k, j, page up, page down, home, end)"),
    ("enter", "one tenant: its history, limits and faults"),
    ("esc", "back; in the list: no filter"),
    ("/", "only tenants with these letters"),
    ("i", "the other way round"),
    ("space", "new numbers now"),
    ("?", "this help; any key closes it"),
    ("q", "quit"),
];

/// A column of the list.
struct Column {
    title: &'static str,
    width: u16,
    measure: Measure,
    what: What,
}

/// What a column says of its measure.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Used,
    Limit,
    Cache,
}

/// Columns of the list after the name. What does not fit is left out from the right.
#[rustfmt::skip]
const COLUMNS: &[Column] = &[
    Column { title: "CPU", width: 8, measure: Measure::Cpu, what: What::Used },
    Column { title: "MEMORY", width: 8, measure: Measure::Memory, what: What::Used },
    Column { title: "TASKS", width: 7, measure: Measure::Tasks, what: What::Used },
    Column { title: "READ", width: 9, measure: Measure::IoRead, what: What::Used },
    Column { title: "WRITE", width: 9, measure: Measure::IoWrite, what: What::Used },
    Column { title: "DISK", width: 8, measure: Measure::Disk, what: What::Used },
    Column { title: "CACHE", width: 8, measure: Measure::Memory, what: What::Cache },
    Column { title: "CPU-LIM", width: 8, measure: Measure::Cpu, what: What::Limit },
    Column { title: "MEM-LIM", width: 8, measure: Measure::Memory, what: What::Limit },
    Column { title: "DISK-LIM", width: 8, measure: Measure::Disk, what: What::Limit },
];

impl Column {
    fn cell(&self, tenant: &TenantUsage) -> String {
        let text = match self.what {
            What::Used => average(&tenant.total, self.measure),
            What::Limit => limit(&tenant.limits, self.measure),
            What::Cache => cache(&tenant.total),
        };
        self.aligned(&text)
    }

    fn aligned(&self, text: &str) -> String {
        format!("{text:>width$}", width = usize::from(self.width))
    }
}

/// The title over the rest of a row.
const REST: &str = " NEAREST LIMIT, FAULTS";

/// What is drawn of the history of one tenant.
const HISTORIES: &[Measure] =
    &[Measure::Cpu, Measure::Memory, Measure::Tasks, Measure::IoRead, Measure::IoWrite, Measure::Disk];

/// What is on the screen.
#[derive(Debug, Default)]
pub(crate) struct Top {
    data: Data,
    by: Option<Measure>,
    order: Order,
    filter: String,
    mode: Mode,
    /// Whose row is marked; the first of the list when it is not in it.
    selected: Option<TenantName>,
    /// The tenant that is looked at alone.
    drilled: Option<TenantName>,
    /// Why there is no new data.
    problem: Option<String>,
}

impl Top {
    /// An empty screen, sorted by a measure.
    pub(crate) fn new(by: Option<Measure>) -> Self {
        Self { by, ..Self::default() }
    }

    /// The tenant whose history is wanted with the data.
    pub(crate) fn drilled(&self) -> Option<&TenantName> {
        self.drilled.as_ref()
    }

    /// Takes new data, or why there is none: then the old stays, with the reason below it.
    pub(crate) fn take(&mut self, data: Result<Data, Failure>) {
        match data {
            Ok(data) => (self.data, self.problem) = (data, None),
            Err(failure) => self.problem = Some(failure.message),
        }
    }

    /// The tenants that are listed, in their order.
    fn listed(&self) -> Vec<&TenantUsage> {
        let mut tenants: Vec<&TenantUsage> =
            self.data.tenants.iter().filter(|tenant| tenant.tenant.as_str().contains(&self.filter)).collect();
        tenants.sort_by(|a, b| match self.order {
            Order::MostFirst => compare(a, b, self.by),
            Order::LeastFirst => compare(b, a, self.by),
        });
        tenants
    }

    fn place(&self, listed: &[&TenantUsage]) -> usize {
        let selected = |tenant: &&TenantUsage| self.selected.as_ref() == Some(&tenant.tenant);
        listed.iter().position(selected).unwrap_or(0)
    }

    /// Marks a tenant so many rows further down, or up, and says which.
    fn go(&mut self, rows: isize) -> Option<TenantName> {
        let listed = self.listed();
        let place = self.place(&listed).saturating_add_signed(rows).min(listed.len().saturating_sub(1));
        self.selected = listed.get(place).map(|tenant| tenant.tenant.clone());
        self.selected.clone()
    }

    fn drill(&mut self, tenant: Option<TenantName>) -> Action {
        self.data.points.clear();
        self.drilled.clone_from(&tenant);
        tenant.map_or(Action::Continue, Action::Drill)
    }

    /// Does what a key means.
    pub(crate) fn key(&mut self, key: KeyEvent) -> Action {
        // A raw terminal sends no signal for it.
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Action::Quit } else { Action::Continue };
        }
        match self.mode {
            Mode::Help => {
                self.mode = Mode::Look;
                Action::Continue
            }
            Mode::Filter => self.key_of_filter(key.code),
            Mode::Look => self.key_of_look(key.code),
        }
    }

    fn key_of_filter(&mut self, key: KeyCode) -> Action {
        /// No name is longer.
        const LONGEST: usize = 32;
        match key {
            KeyCode::Char(c) if self.filter.len() < LONGEST && !is_dangerous(c) => self.filter.push(c),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Enter => self.mode = Mode::Look,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Look;
            }
            _ => {}
        }
        Action::Continue
    }

    fn key_of_look(&mut self, key: KeyCode) -> Action {
        const PAGE: isize = 10;
        let rows = match key {
            KeyCode::Up | KeyCode::Char('k') => -1,
            KeyCode::Down | KeyCode::Char('j') => 1,
            KeyCode::PageUp => -PAGE,
            KeyCode::PageDown => PAGE,
            KeyCode::Home => isize::MIN,
            KeyCode::End => isize::MAX,
            KeyCode::Enter if self.drilled.is_none() => 0,
            other => return self.key_of_command(other),
        };
        let marked = self.go(rows);
        if self.drilled.is_some() || key == KeyCode::Enter { self.drill(marked) } else { Action::Continue }
    }

    fn key_of_command(&mut self, key: KeyCode) -> Action {
        match key {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char(' ') => return Action::Refresh,
            KeyCode::Char('?') => self.mode = Mode::Help,
            KeyCode::Char('/') if self.drilled.is_none() => self.mode = Mode::Filter,
            KeyCode::Char('i') => {
                self.order = match self.order {
                    Order::MostFirst => Order::LeastFirst,
                    Order::LeastFirst => Order::MostFirst,
                }
            }
            KeyCode::Esc | KeyCode::Backspace if self.drilled.is_some() => return self.drill(None),
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char(c) => {
                if let Some((_, by)) = SORTS.iter().find(|(letter, _)| *letter == c) {
                    (self.by, self.order) = (*by, Order::MostFirst);
                }
            }
            _ => {}
        }
        Action::Continue
    }

    /// Draws the whole screen, on one of any size.
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
                format!("bailiwick top: {} tenants{note}", self.data.tenants.len())
            }
        }
    }

    fn foot(&self) -> Line<'static> {
        if let Some(problem) = &self.problem {
            return Line::styled(visible(problem).into_owned(), Style::new().fg(Color::Red));
        }
        match self.mode {
            Mode::Filter => Line::raw(format!("only with: {}_", visible(&self.filter))),
            _ if self.drilled.is_some() => Line::raw("esc back, up and down the next, ? help, q quit"),
            _ if self.filter.is_empty() => Line::raw("enter one tenant, / filter, ? help, q quit"),
            _ => Line::raw(format!("only with: {}, esc all, ? help, q quit", visible(&self.filter))),
        }
    }

    fn draw_list(&self, frame: &mut Frame<'_>, area: Rect) {
        let listed = self.listed();
        let longest = listed.iter().map(|tenant| tenant.tenant.as_str().len()).max().unwrap_or(0);
        let name = u16::try_from(longest).unwrap_or(u16::MAX).clamp(8, 32);
        let mut left = area.width.saturating_sub(name);
        let fits = |column: &&Column| {
            /// The nearest limit says more than the limits themselves, and than what the kernel can take back.
            const NEAREST: u16 = 24;
            let spare = if column.what == What::Used { 0 } else { NEAREST };
            let fits = left > column.width + spare;
            left = left.saturating_sub(column.width + 1);
            fits
        };
        let columns: Vec<&Column> = COLUMNS.iter().take_while(fits).collect();
        let title = |title: &str, by: Option<Measure>| match self.order {
            _ if self.by != by => title.to_owned(),
            Order::MostFirst => format!("{title}v"),
            Order::LeastFirst => format!("{title}^"),
        };
        let titles = columns.iter().map(|column| match column.what {
            What::Used => column.aligned(&title(column.title, Some(column.measure))),
            What::Limit | What::Cache => column.aligned(column.title),
        });
        let header = [title("TENANT", None)].into_iter().chain(titles).chain([REST.to_owned()]);
        let rows = listed.iter().map(|tenant| {
            let cells = columns.iter().map(|column| column.cell(tenant));
            let cells = [tenant.tenant.to_string()].into_iter().chain(cells).chain([near(tenant)]);
            Row::new(cells).style(alarm(fullest(tenant).map(|(_, part)| part)))
        });
        let widths = [Constraint::Length(name)]
            .into_iter()
            .chain(columns.iter().map(|column| Constraint::Length(column.width)))
            .chain([Constraint::Min(0)]);
        let table = Table::new(rows, widths)
            .header(Row::new(header).style(Style::new().add_modifier(Modifier::UNDERLINED)))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let selected = (!listed.is_empty()).then(|| self.place(&listed));
        frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(selected));
    }

    fn draw_tenant(&self, name: &TenantName, frame: &mut Frame<'_>, area: Rect) {
        let Some(tenant) = self.data.tenants.iter().find(|tenant| tenant.tenant == *name) else {
            frame.render_widget(Paragraph::new("not measured at present"), area);
            return;
        };
        let limits = tenant_lines(tenant);
        // Beside each other where there is room, else below.
        let [numbers, histories] = if area.width >= 100 {
            Layout::horizontal([Constraint::Length(56), Constraint::Min(0)]).spacing(2).areas(area)
        } else {
            let height = u16::try_from(limits.lines.len()).unwrap_or(u16::MAX).min(area.height / 2 + area.height % 2);
            Layout::vertical([Constraint::Length(height), Constraint::Min(0)]).areas(area)
        };
        frame.render_widget(Paragraph::new(limits), numbers);
        let height = if usize::from(histories.height) >= HISTORIES.len() * 4 { 4 } else { 2 };
        let areas =
            (0..histories.height / height).map(|number| Rect { y: histories.y + number * height, height, ..histories });
        for (measure, area) in HISTORIES.iter().zip(areas) {
            self.draw_history(*measure, tenant, frame, area);
        }
    }

    fn draw_history(&self, measure: Measure, tenant: &TenantUsage, frame: &mut Frame<'_>, area: Rect) {
        let [label, bars] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
        let values = bars_of(&self.data.points, measure, usize::from(bars.width));
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

/// The limit that a tenant is nearest to, and its faults.
fn near(tenant: &TenantUsage) -> String {
    let part = fullest(tenant).map(|(measure, part)| format!(" {measure} {}", percent(part))).unwrap_or_default();
    format!("{part} {}", fault_words(&tenant.faults))
}

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
        format!("{name:<16}{}", rest.map(|cell| format!("{cell:>10}")).concat())
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

/// The last values of a history, one for each character; what was not measured is `None`.
fn bars_of(points: &[Point], measure: Measure, width: usize) -> Vec<Option<u64>> {
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

/// Why there is no live view.
#[derive(Debug, thiserror::Error)]
enum TopError {
    /// Nobody would see it.
    #[error("\"bailiwick top\" needs a terminal; elsewhere use \"bailiwick usage\"")]
    NoTerminal,
    /// The terminal does not do what it is told.
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
    /// The kernel refuses.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
}

impl From<TopError> for Failure {
    fn from(error: TopError) -> Self {
        let status = if matches!(error, TopError::NoTerminal) { ExitStatus::Invalid } else { ExitStatus::Failed };
        Self::new(status, &error)
    }
}

/// Gives the terminal back.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        // It fails when the terminal has gone: then there is nothing to give back.
        ratatui::try_restore().ok();
    }
}

/// Something that came from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Came {
    /// From the terminal.
    Event(Event),
    /// Nothing in time.
    Nothing,
}

/// `bailiwick top`: asks `source` at least every `interval` and shows what it says, until the operator has seen enough.
/// The first answer is waited for before the terminal changes, so that its failure is told like any other.
pub(crate) fn run(
    mut source: impl FnMut(Option<&TenantName>) -> Result<Data, Failure>,
    by: Option<Measure>,
    interval: Duration,
) -> Result<(), Failure> {
    needs_terminal(io::stdin().is_terminal() && io::stdout().is_terminal())?;
    let mut top = Top::new(by);
    top.take(Ok(source(None)?));
    let signals = Signals::block(&[SIGHUP, SIGINT, SIGQUIT, SIGTERM]).map_err(TopError::Signals)?;
    std::thread::Builder::new().name("end".into()).spawn(move || end_when_told(&signals)).map_err(TopError::Signals)?;
    // Before the terminal is touched. It installs a hook for panics besides, which restores before the message.
    let _restore = Restore;
    let mut terminal = ratatui::try_init().map_err(TopError::Terminal)?;
    let wait =
        |patience: Duration| Ok(if event::poll(patience)? { Came::Event(event::read()?) } else { Came::Nothing });
    let draw = |top: &Top| terminal.draw(|frame| top.draw(frame)).map(drop);
    attend(&mut top, source, interval, wait, draw).map_err(|error| TopError::Terminal(error).into())
}

/// Ends the program once a signal says so or the terminal has gone.
#[expect(clippy::exit, reason = "what the first thread waits for may never come")]
fn end_when_told(signals: &Signals) {
    /// How long the terminal may take: one that is stopped takes nothing.
    const RESTORE_TIME: Duration = Duration::from_secs(1);
    let stdin = io::stdin();
    let is_told = || -> io::Result<bool> {
        let told = stream::wait(&[(signals.as_fd(), Interest::Read), (stdin.as_fd(), Interest::End)], None)?;
        Ok(told[1] || (told[0] && signals.take()?.is_some()))
    };
    while matches!(is_told(), Ok(false)) {}
    let (done, restored) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(Restore);
        done.send(())
    });
    restored.recv_timeout(RESTORE_TIME).ok();
    std::process::exit(0);
}

fn needs_terminal(is_terminal: bool) -> Result<(), TopError> {
    if is_terminal { Ok(()) } else { Err(TopError::NoTerminal) }
}

/// Draws, waits, asks, until the end.
fn attend(
    top: &mut Top,
    mut source: impl FnMut(Option<&TenantName>) -> Result<Data, Failure>,
    interval: Duration,
    mut wait: impl FnMut(Duration) -> io::Result<Came>,
    mut draw: impl FnMut(&Top) -> io::Result<()>,
) -> io::Result<()> {
    let mut asked = Instant::now();
    loop {
        draw(top)?;
        let action = match wait(interval.saturating_sub(asked.elapsed()))? {
            Came::Event(Event::Key(key)) if key.kind != KeyEventKind::Release => top.key(key),
            // A new size is drawn with the next turn; nothing else is asked for.
            Came::Event(_) | Came::Nothing => Action::Continue,
        };
        match action {
            Action::Quit => return Ok(()),
            Action::Continue if asked.elapsed() < interval => {}
            Action::Continue | Action::Refresh | Action::Drill(_) => {
                top.take(source(top.drilled()));
                asked = Instant::now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::tests::tenant;
    use bailiwick_types::{Moment, Usage};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::collections::BTreeMap;

    fn data() -> Data {
        let limits = [(Measure::Cpu, 1_000_000), (Measure::Memory, 1 << 30)];
        let used = |cpu: u64, memory: u64| [(Measure::Cpu, cpu * 1_000_000), (Measure::Memory, memory << 20)];
        let mut carol = tenant("carol", &used(50, 1000), &limits);
        carol.faults = BTreeMap::from([("memory".to_owned(), 3), ("x\u{1b}[2J".to_owned(), 1)]);
        let tenants = vec![tenant("alice", &used(10, 300), &limits), tenant("bob", &used(90, 100), &limits), carol];
        Data { tenants, points: Vec::new() }
    }

    fn points() -> Vec<Point> {
        let point = |minute: u64| Point {
            at: Moment(minute * 60),
            seconds: 60,
            usage: Usage(BTreeMap::from([(Measure::Cpu, minute * 10_000_000)])),
            peak: Usage::default(),
        };
        [0, 1, 2, 5, 6].map(point).into()
    }

    fn screen(top: &Top, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a backend");
        terminal.draw(|frame| top.draw(frame)).expect("drawn");
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    fn press(top: &mut Top, keys: &str) -> Action {
        let mut last = Action::Continue;
        for word in keys.split(' ') {
            let code = match word {
                "up" => KeyCode::Up,
                "down" => KeyCode::Down,
                "home" => KeyCode::Home,
                "end" => KeyCode::End,
                "pagedown" => KeyCode::PageDown,
                "enter" => KeyCode::Enter,
                "esc" => KeyCode::Esc,
                "backspace" => KeyCode::Backspace,
                "space" => KeyCode::Char(' '),
                letter => KeyCode::Char(letter.chars().next().expect("a letter")),
            };
            last = top.key(code.into());
        }
        last
    }

    fn loaded() -> Top {
        let mut top = Top::new(Some(Measure::Cpu));
        top.take(Ok(data()));
        top
    }

    fn order(top: &Top) -> Vec<String> {
        top.listed().iter().map(|tenant| tenant.tenant.to_string()).collect()
    }

    #[test]
    fn the_list_has_a_row_for_each_tenant() {
        let golden = [
            "bailiwick top: 3 tenants. READ, WRITE: not measured; only version 2 of control groups counts them for each tenant",
            "TENANT       CPUv   MEMORY   TASKS      READ     WRITE     DISK    CACHE  CPU-LIM  MEM-LIM DISK-LIM  NEAREST LIMIT, FAULTS",
            "bob         90.0%   100.0M                                                 100.0%     1.0G           cpu 90.0%",
            "carol       50.0%  1000.0M                                                 100.0%     1.0G           memory 97.6% memory=3,x\\u{1b}[2J=1",
            "alice       10.0%   300.0M                                                 100.0%     1.0G           memory 29.2%",
            "",
            "enter one tenant, / filter, ? help, q quit",
        ];
        assert_eq!(screen(&loaded(), 200, 7), golden);
    }

    #[test]
    fn keys_sort() {
        let mut top = loaded();
        for (keys, golden) in [
            ("c", ["bob", "carol", "alice"]),
            ("m", ["carol", "alice", "bob"]),
            ("i", ["bob", "alice", "carol"]),
            ("n", ["alice", "bob", "carol"]),
            ("i", ["carol", "bob", "alice"]),
            ("d", ["alice", "bob", "carol"]),
        ] {
            assert_eq!(press(&mut top, keys), Action::Continue);
            assert_eq!(order(&top), golden, "{keys}");
        }
        let letters: Vec<char> = SORTS.iter().map(|(letter, _)| *letter).collect();
        assert!(letters.iter().all(|letter| !"qijk?/ ".contains(*letter)), "a letter has two meanings");
    }

    #[test]
    fn arrows_mark_a_tenant_who_stays_marked() {
        let mut top = loaded();
        assert_eq!(top.place(&top.listed()), 0);
        for (keys, golden) in [
            ("down", "carol"),
            ("up up", "bob"),
            ("pagedown", "alice"),
            ("home", "bob"),
            ("end", "alice"),
            ("down", "alice"),
        ] {
            press(&mut top, keys);
            assert_eq!(top.selected.as_ref().map(TenantName::as_str), Some(golden), "{keys}");
        }
        press(&mut top, "m");
        assert_eq!(top.listed()[top.place(&top.listed())].tenant.as_str(), "alice");
        top.take(Ok(Data { tenants: data().tenants[1..].to_vec(), points: Vec::new() }));
        assert_eq!(top.place(&top.listed()), 0);
        top.take(Ok(Data::default()));
        assert_eq!((press(&mut top, "down"), press(&mut top, "enter")), (Action::Continue, Action::Continue));
    }

    #[test]
    fn one_tenant_is_looked_at_and_left() {
        let mut top = loaded();
        let carol: TenantName = "carol".parse().expect("valid");
        assert_eq!(press(&mut top, "down enter"), Action::Drill(carol.clone()));
        assert_eq!(top.drilled(), Some(&carol));
        top.take(Ok(Data { points: points(), ..data() }));
        let shown = screen(&top, 120, 30).join("\n");
        for part in [
            "bailiwick top: carol",
            "memory             1000.0M   1000.0M      1.0G     97.6%",
            "faults: memory=3, x\\u{1b}[2J=1",
            "cpu: up to 100.0% of 100.0%",
            "memory: not measured",
            "..",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert_eq!(press(&mut top, "down"), Action::Drill("alice".parse().expect("valid")));
        assert!(top.data.points.is_empty(), "nobody's history under another's name");
        assert_eq!(press(&mut top, "esc"), Action::Continue);
        assert_eq!(top.drilled(), None);
        top.drilled = Some("gone".parse().expect("valid"));
        assert!(screen(&top, 80, 10).join("\n").contains("not measured at present"));
    }

    #[test]
    fn a_filter_is_typed_kept_and_removed() {
        let mut top = loaded();
        assert_eq!(press(&mut top, "/ q o x backspace"), Action::Continue);
        assert_eq!(top.filter, "qo");
        assert_eq!(order(&top), [""; 0]);
        press(&mut top, "home");
        assert_eq!(screen(&top, 40, 10)[9], "only with: qo_");
        press(&mut top, "backspace backspace o enter");
        assert_eq!(order(&top), ["bob", "carol"]);
        assert_eq!(press(&mut top, "esc"), Action::Continue);
        assert_eq!(order(&top).len(), 3);
        top.mode = Mode::Filter;
        for c in ['\u{1b}', '\u{202e}'].into_iter().chain(std::iter::repeat_n('a', 50)) {
            top.key(KeyCode::Char(c).into());
        }
        assert_eq!(top.filter, "a".repeat(32));
    }

    #[test]
    fn help_names_every_key_and_q_ends() {
        let mut top = loaded();
        press(&mut top, "?");
        let shown = screen(&top, 80, 24).join("\n");
        for key in KEYS.iter().map(|(key, _)| *key).chain(["by cpu", "by name"]) {
            assert!(shown.contains(key), "{key}: {shown}");
        }
        assert_eq!(press(&mut top, "q"), Action::Continue);
        assert_eq!((press(&mut top, "space"), press(&mut top, "q")), (Action::Refresh, Action::Quit));
        top.mode = Mode::Filter;
        assert_eq!(top.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Action::Quit);
    }

    #[test]
    fn a_screen_of_any_size_is_drawn() {
        for (width, height) in [(0, 0), (1, 1), (0, 5), (5, 0), (40, 10), (80, 2), (100, 3), (300, 100)] {
            for keys in ["n", "/", "esc", "?", "esc", "enter"] {
                let mut top = loaded();
                press(&mut top, keys);
                top.take(Ok(Data { points: points(), ..data() }));
                screen(&top, width, height);
                screen(&Top::new(None), width, height);
            }
        }
        let shown = screen(&loaded(), 40, 10);
        assert!(shown[2].starts_with("bob") && shown[2].contains("90.0%"), "{shown:?}");
        assert!(screen(&loaded(), 80, 10)[2].ends_with("cpu 90.0%"), "the nearest limit comes before the limits");
    }

    #[test]
    fn the_marked_row_is_in_sight_among_many() {
        let many = (0..500).map(|number| tenant(&format!("t{number:03}"), &[], &[])).collect();
        let mut top = Top::new(None);
        top.take(Ok(Data { tenants: many, points: Vec::new() }));
        press(&mut top, "end");
        assert!(screen(&top, 40, 10).iter().any(|line| line.starts_with("t499")));
    }

    #[test]
    fn gaps_of_a_history_stay_gaps() {
        let cpu = |minute: u64| Some((minute * 10_000_000).div_ceil(60));
        let golden = vec![cpu(0), cpu(1), cpu(2), None, None, cpu(5), cpu(6)];
        assert_eq!(bars_of(&points(), Measure::Cpu, 80), golden);
        assert_eq!(bars_of(&points(), Measure::Cpu, 3), golden[4..]);
        assert_eq!(bars_of(&points(), Measure::Cpu, 0), []);
        let mut odd = points();
        odd[4].at = Moment(u64::MAX);
        assert_eq!(bars_of(&odd, Measure::Cpu, 10).len(), 10);
    }

    #[test]
    fn what_a_problem_says_cannot_reach_the_terminal() {
        let mut top = loaded();
        top.take(Err(Failure::of(ExitStatus::Failed, "no answer\u{1b}[2J\nx")));
        assert_eq!(screen(&top, 80, 10)[9], "no answer\\u{1b}[2J\\nx");
        assert_eq!(order(&top).len(), 3, "the old numbers stay");
        top.take(Ok(data()));
        assert!(screen(&top, 80, 10)[9].starts_with("enter"));
    }

    #[test]
    fn without_a_terminal_the_remedy_is_told() {
        let failure = Failure::from(needs_terminal(false).expect_err("none"));
        let golden = "\"bailiwick top\" needs a terminal; elsewhere use \"bailiwick usage\"";
        assert_eq!((failure.status, failure.message.as_str()), (ExitStatus::Invalid, golden));
        assert!(needs_terminal(true).is_ok());
    }

    /// Runs the loop with what came from outside; how often it was asked for whom.
    fn attended(came: Vec<Came>, interval: Duration) -> (io::Result<()>, Vec<Option<String>>) {
        let mut asked = Vec::new();
        let source = |tenant: Option<&TenantName>| {
            asked.push(tenant.map(ToString::to_string));
            Ok(data())
        };
        let mut came = came.into_iter();
        let wait = |_| came.next().ok_or_else(|| io::ErrorKind::UnexpectedEof.into());
        let result = attend(&mut loaded(), source, interval, wait, |_| Ok(()));
        (result, asked)
    }

    #[test]
    fn new_data_is_asked_for_in_time_and_when_it_is_wanted() {
        let key = |code: KeyCode| Came::Event(Event::Key(code.into()));
        let hour = Duration::from_secs(3600);
        let released = KeyEvent { kind: KeyEventKind::Release, ..KeyCode::Char('q').into() };
        let quiet = vec![
            Came::Nothing,
            Came::Event(Event::Resize(1, 1)),
            Came::Event(Event::Key(released)),
            key(KeyCode::Char('q')),
        ];
        let (result, asked) = attended(quiet.clone(), hour);
        assert!(result.is_ok() && asked.is_empty());
        let (result, asked) = attended(quiet, Duration::ZERO);
        assert!(result.is_ok() && asked == [None, None, None]);
        let (result, asked) =
            attended(vec![key(KeyCode::Enter), key(KeyCode::Char(' ')), key(KeyCode::Char('q'))], hour);
        assert!(result.is_ok() && asked == [Some("bob".to_owned()), Some("bob".to_owned())]);
        assert!(attended(Vec::new(), hour).0.is_err(), "a terminal that has gone ends it");
    }
}
