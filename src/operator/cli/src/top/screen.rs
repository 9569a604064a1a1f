//! What is on the screen of `top`, and how keys change it. It does nothing to the world.

mod draw;

use super::Data;
use crate::usage::compare;
use bailiwick_proto::Failure;
use bailiwick_types::{Measure, TenantName, TenantUsage, is_dangerous};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

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
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::usage::tests::tenant;
    use bailiwick_types::{ExitStatus, Moment, Point, Usage};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::collections::BTreeMap;

    pub(in crate::top) fn data() -> Data {
        let limits = [(Measure::Cpu, 1_000_000), (Measure::Memory, 1 << 30)];
        let used = |cpu: u64, memory: u64| [(Measure::Cpu, cpu * 1_000_000), (Measure::Memory, memory << 20)];
        let mut carol = tenant("carol", &used(50, 1000), &limits);
        carol.faults = BTreeMap::from([("memory".to_owned(), 3), ("x\u{1b}[2J".to_owned(), 1)]);
        let tenants = vec![tenant("alice", &used(10, 300), &limits), tenant("bob", &used(90, 100), &limits), carol];
        Data { tenants, points: Vec::new() }
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
        top.take(Ok(data()));
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
    fn what_a_problem_says_cannot_reach_the_terminal() {
        let mut top = loaded();
        top.take(Err(Failure::of(ExitStatus::Failed, "no answer\u{1b}[2J\nx")));
        assert_eq!(screen(&top, 80, 10)[9], "no answer\\u{1b}[2J\\nx");
        assert_eq!(order(&top).len(), 3, "the old numbers stay");
        top.take(Ok(data()));
        assert!(screen(&top, 80, 10)[9].starts_with("enter"));
    }
}
