//! The state of the screen of `top`, and how keys change it. It has no side effects.

mod draw;

use super::Data;
use crate::usage::compare;
use bailiwick_proto::Failure;
use bailiwick_types::{Measure, TenantName, TenantUsage, is_dangerous};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What the event loop does after a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Draw again.
    Continue,
    /// End the program.
    Quit,
    /// Refresh the data now.
    Refresh,
    /// Refresh the data now, with the history of this tenant.
    Drill(TenantName),
}

/// The sort direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Order {
    #[default]
    MostFirst,
    LeastFirst,
}

/// How keys are interpreted. Only [`Top::key`] changes the mode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Normal,
    /// Letters are added to the filter.
    Filter,
    Help,
}

/// Keys that sort, with their measure; `None` sorts by name.
const SORTS: &[(char, Option<Measure>)] = &[
    ('c', Some(Measure::Cpu)),
    ('m', Some(Measure::Memory)),
    ('t', Some(Measure::Tasks)),
    ('r', Some(Measure::IoRead)),
    ('w', Some(Measure::IoWrite)),
    ('d', Some(Measure::Disk)),
    ('s', Some(Measure::NetSent)),
    ('v', Some(Measure::NetReceived)),
    ('n', None),
];

/// Help texts of all other keys.
const KEYS: &[(&str, &str)] = &[
    ("up, down", "select a tenant (also k, j, page up, page down, home, end)"),
    ("enter", "show one tenant: history, limits and faults"),
    ("esc", "back to the list; in the list: clear the filter"),
    ("/", "filter by name"),
    ("i", "reverse the order"),
    ("space", "refresh now"),
    ("?", "this help; any key closes it"),
    ("q", "quit"),
];

/// The state of the screen.
#[derive(Debug, Default)]
pub(crate) struct Top {
    data: Data,
    by: Option<Measure>,
    order: Order,
    filter: String,
    mode: Mode,
    /// The selected tenant; the first row if it is not listed.
    selected: Option<TenantName>,
    /// The tenant shown in detail.
    drilled: Option<TenantName>,
    /// Why the last refresh failed.
    problem: Option<String>,
}

impl Top {
    /// An empty screen, sorted by a measure, or by name without one.
    pub(crate) fn new(by: Option<Measure>) -> Self {
        Self { by, ..Self::default() }
    }

    /// The tenant shown in detail, whose history is part of the data.
    pub(crate) fn drilled(&self) -> Option<&TenantName> {
        self.drilled.as_ref()
    }

    /// Stores the result of a refresh. After a failure the old data stays, and the reason is shown below it.
    pub(crate) fn update(&mut self, data: Result<Data, Failure>) {
        match data {
            Ok(data) => (self.data, self.problem) = (data, None),
            Err(failure) => self.problem = Some(failure.message),
        }
    }

    /// The listed tenants, filtered and sorted.
    fn listed(&self) -> Vec<&TenantUsage> {
        let mut tenants: Vec<&TenantUsage> =
            self.data.tenants.iter().filter(|tenant| tenant.tenant.as_str().contains(&self.filter)).collect();
        tenants.sort_by(|a, b| match self.order {
            Order::MostFirst => compare(a, b, self.by),
            Order::LeastFirst => compare(b, a, self.by),
        });
        tenants
    }

    fn selected_index(&self, listed: &[&TenantUsage]) -> usize {
        let selected = |tenant: &&TenantUsage| self.selected.as_ref() == Some(&tenant.tenant);
        listed.iter().position(selected).unwrap_or(0)
    }

    /// Moves the selection down by `rows`, or up if negative. Returns the selected tenant.
    fn move_selection(&mut self, rows: isize) -> Option<TenantName> {
        let listed = self.listed();
        let index = self.selected_index(&listed).saturating_add_signed(rows).min(listed.len().saturating_sub(1));
        self.selected = listed.get(index).map(|tenant| tenant.tenant.clone());
        self.selected.clone()
    }

    fn drill(&mut self, tenant: Option<TenantName>) -> Action {
        self.data.points.clear();
        self.drilled.clone_from(&tenant);
        tenant.map_or(Action::Continue, Action::Drill)
    }

    /// Handles a key.
    pub(crate) fn key(&mut self, key: KeyEvent) -> Action {
        // A terminal in raw mode sends no SIGINT for Ctrl-C.
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Action::Quit } else { Action::Continue };
        }
        match self.mode {
            Mode::Help => {
                self.mode = Mode::Normal;
                Action::Continue
            }
            Mode::Filter => self.key_in_filter_mode(key.code),
            Mode::Normal => self.key_in_normal_mode(key.code),
        }
    }

    fn key_in_filter_mode(&mut self, key: KeyCode) -> Action {
        /// Longest name of a tenant.
        const LONGEST: usize = 32;
        match key {
            KeyCode::Char(c) if self.filter.len() < LONGEST && !is_dangerous(c) => self.filter.push(c),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Enter => self.mode = Mode::Normal,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Normal;
            }
            _ => {}
        }
        Action::Continue
    }

    fn key_in_normal_mode(&mut self, key: KeyCode) -> Action {
        const PAGE: isize = 10;
        let rows = match key {
            KeyCode::Up | KeyCode::Char('k') => -1,
            KeyCode::Down | KeyCode::Char('j') => 1,
            KeyCode::PageUp => -PAGE,
            KeyCode::PageDown => PAGE,
            KeyCode::Home => isize::MIN,
            KeyCode::End => isize::MAX,
            KeyCode::Enter if self.drilled.is_none() => 0,
            other => return self.command_key(other),
        };
        let selected = self.move_selection(rows);
        if self.drilled.is_some() || key == KeyCode::Enter { self.drill(selected) } else { Action::Continue }
    }

    fn command_key(&mut self, key: KeyCode) -> Action {
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
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::usage::tests::tenant;
    use bailiwick_types::{ExitStatus, Moment, Point, ServiceCounts, Usage};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::collections::BTreeMap;

    pub(in crate::top) fn data() -> Data {
        let limits = [(Measure::Cpu, 1_000_000), (Measure::Memory, 1 << 30)];
        let used = |cpu: u64, memory: u64| [(Measure::Cpu, cpu * 1_000_000), (Measure::Memory, memory << 20)];
        let mut carol = tenant("carol", &used(50, 1000), &limits);
        carol.faults = BTreeMap::from([("memory".to_owned(), 3), ("x\u{1b}[2J".to_owned(), 1)]);
        carol.services = Some(ServiceCounts { running: 3, failing: 1, declared: 4 });
        let tenants = vec![tenant("alice", &used(10, 300), &limits), tenant("bob", &used(90, 100), &limits), carol];
        Data { tenants, ..Data::default() }
    }

    pub(in crate::top) fn points() -> Vec<Point> {
        let point = |minute: u64| Point {
            at: Moment(minute * 60),
            seconds: 60,
            usage: Usage(BTreeMap::from([(Measure::Cpu, minute * 10_000_000)])),
            peak: Usage::default(),
        };
        [0, 1, 2, 5, 6].map(point).into()
    }

    pub(in crate::top) fn screen(top: &Top, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a backend");
        terminal.draw(|frame| top.draw(frame)).expect("drawn");
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    pub(in crate::top) fn press(top: &mut Top, keys: &str) -> Action {
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

    pub(in crate::top) fn loaded() -> Top {
        let mut top = Top::new(Some(Measure::Cpu));
        top.update(Ok(data()));
        top
    }

    fn order(top: &Top) -> Vec<String> {
        top.listed().iter().map(|tenant| tenant.tenant.to_string()).collect()
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
    fn arrows_select_a_tenant_and_the_selection_stays() {
        let mut top = loaded();
        assert_eq!(top.selected_index(&top.listed()), 0);
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
        assert_eq!(top.listed()[top.selected_index(&top.listed())].tenant.as_str(), "alice");
        top.update(Ok(Data { tenants: data().tenants[1..].to_vec(), ..Data::default() }));
        assert_eq!(top.selected_index(&top.listed()), 0);
        top.update(Ok(Data::default()));
        assert_eq!((press(&mut top, "down"), press(&mut top, "enter")), (Action::Continue, Action::Continue));
    }

    #[test]
    fn one_tenant_is_shown_and_left() {
        let mut top = loaded();
        let carol: TenantName = "carol".parse().expect("valid");
        assert_eq!(press(&mut top, "down enter"), Action::Drill(carol.clone()));
        assert_eq!(top.drilled(), Some(&carol));
        top.update(Ok(Data { points: points(), ..data() }));
        let shown = screen(&top, 120, 30).join("\n");
        for part in [
            "bailiwick top: carol",
            "memory                 1000.0M   1000.0M      1.0G     97.6%",
            "faults: memory=3, x\\u{1b}[2J=1",
            "cpu: up to 100.0% of 100.0%",
            "memory: not measured",
            "..",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert_eq!(press(&mut top, "down"), Action::Drill("alice".parse().expect("valid")));
        assert!(top.data.points.is_empty(), "the history of another tenant is not shown");
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
        assert_eq!(screen(&top, 40, 10)[9], "filter: qo_");
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
    fn control_characters_of_a_problem_are_escaped() {
        let mut top = loaded();
        top.update(Err(Failure::of(ExitStatus::Failed, "no answer\u{1b}[2J\nx")));
        assert_eq!(screen(&top, 80, 10)[9], "no answer\\u{1b}[2J\\nx");
        assert_eq!(order(&top).len(), 3, "the old numbers stay");
        top.update(Ok(data()));
        assert!(screen(&top, 80, 10)[9].starts_with("enter"));
    }
}
