//! Reads one TOML file key by key and goes on after a problem, so that one run finds all problems.
//!
//! `serde` would stop at the first one. Here each key gives a value or a recorded problem. A table ([`Section`]) lists the keys
//! of each section. It also serves the hints for keys that are unknown or in the wrong place.

use crate::diagnostic::{Diagnostic, Problem};
use crate::place::Place;
use crate::source::Source;
use crate::suggest::nearest;
use bailiwick_types::NameError;
use std::collections::BTreeSet;
use std::ops::Range;
use std::str::FromStr;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The most problems of one file that are recorded. A file with more is no configuration file.
const MAX_PROBLEMS: usize = 100;

/// The word in place of a time that never comes.
pub(crate) const NEVER: &str = "never";

/// A range of bytes in a file.
pub type Span = Range<usize>;

/// Collects the problems of one file.
#[derive(Debug)]
pub struct Report<'a> {
    source: &'a Source,
    found: Vec<(Span, Problem)>,
    unrecorded: usize,
}

impl<'a> Report<'a> {
    /// A report without problems.
    #[must_use]
    pub fn new(source: &'a Source) -> Self {
        Self { source, found: Vec::new(), unrecorded: 0 }
    }

    /// Records a problem. The closure is not called once 100 are recorded.
    pub fn error(&mut self, span: Span, problem: impl FnOnce() -> Problem) {
        if self.found.len() < MAX_PROBLEMS {
            self.found.push((span, problem()));
        } else {
            self.unrecorded += 1;
        }
    }

    /// Records a problem at a place. It may be in another file from which the setting is inherited, and then it is a problem of
    /// the whole file.
    pub(crate) fn error_at(&mut self, place: &Place, problem: Problem) {
        self.error(place.find(self.source).unwrap_or_default(), || problem);
    }

    /// Returns the value of `result`, or records its problem.
    pub fn accept<T>(&mut self, span: Span, result: Result<T, Problem>) -> Option<Spanned<T>> {
        match result {
            Ok(value) => Some(Spanned::new(span, value)),
            Err(problem) => {
                self.error(span, || problem);
                None
            }
        }
    }

    /// Parses the file as a table. Returns `None` after recording that it is no text, or its syntax errors.
    pub fn parse(&mut self) -> Option<DeTable<'a>> {
        if let Some((span, problem)) = self.source.flaw() {
            self.error(span.clone(), || problem.clone());
            return None;
        }
        let (table, errors) = DeTable::parse_recoverable(self.source.text());
        let mut places: Vec<(Span, &str)> =
            errors.iter().map(|error| (error.span().unwrap_or_default(), error.message())).collect();
        places.sort_by_key(|(span, _)| span.start);
        // The first error of a line is the mistake. The others are its consequences.
        places.dedup_by_key(|(span, _)| self.source.line_of(span.start));
        for (span, message) in places {
            let message = message.lines().next().unwrap_or_default();
            self.error(span, || Problem::new(format!("not valid TOML: {message}")));
        }
        errors.is_empty().then(|| table.into_inner())
    }

    /// Parses the first lines of a file that is no TOML: those before the first header and before the first line that is no
    /// TOML by itself.
    pub(crate) fn recovered(&self) -> DeTable<'a> {
        let text = self.source.text();
        let is_plain = |line: &&str| !line.trim_start().starts_with('[') && DeTable::parse(line).is_ok();
        let len = text.split_inclusive('\n').take_while(is_plain).map(str::len).sum();
        DeTable::parse_recoverable(&text[..len]).0.into_inner()
    }

    /// Whether no problem was recorded.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.found.is_empty()
    }

    /// How many problems there are so far.
    pub(crate) fn count(&self) -> usize {
        self.found.len() + self.unrecorded
    }

    /// Returns the problems in the order of the file.
    #[must_use]
    pub fn finish(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|(span, _)| span.start);
        let mut diagnostics: Vec<_> =
            self.found.into_iter().map(|(span, problem)| Diagnostic::at(self.source, &span, problem)).collect();
        if self.unrecorded > 0 {
            let problem = Problem::new(format!("{} more problems in this file are not shown", self.unrecorded));
            diagnostics.push(Diagnostic::whole(self.source.path(), problem));
        }
        diagnostics
    }
}

/// A section of a kind of file, and the keys that it may have.
#[derive(Debug)]
pub struct Section {
    /// The name of the section in messages.
    pub title: &'static str,
    /// The keys, in the order in which they are written.
    pub keys: &'static [&'static str],
}

impl Section {
    /// The keys, for a hint.
    fn listed(&self) -> String {
        match self.keys {
            [only] => format!("{} there is only \"{only}\"", self.title),
            keys => format!("{} there are: {}", self.title, keys.join(", ")),
        }
    }
}

/// Words of other systems, each with the key that it means here.
const SYNONYMS: &[(&str, &str)] = &[
    ("Environment", "env"),
    ("ExecStart", "command"),
    ("KillSignal", "stop"),
    ("ListenStream", "socket"),
    ("MemoryMax", "memory"),
    ("Restart", "restart"),
    ("TasksMax", "tasks"),
    ("TimeoutStopSec", "stop"),
    ("Type", "ready"),
    ("User", "user"),
    ("WorkingDirectory", "directory"),
    ("chdir", "directory"),
    ("cmd", "command"),
    ("concurrency", "entries"),
    ("cwd", "directory"),
    ("depends_on", "after"),
    ("disabled", "enabled"),
    ("download", "down"),
    ("docroot", "files"),
    ("environment", "env"),
    ("exec", "command"),
    ("exec_start", "command"),
    ("expose", "publish"),
    ("idle", "after"),
    ("listen", "to"),
    ("logs", "log"),
    ("max_children", "entries"),
    ("nameservers", "resolvers"),
    ("port", "to"),
    ("readiness", "ready"),
    ("requires", "after"),
    ("keys", "ssh_keys"),
    ("nofile", "open_files"),
    ("passwd", "password"),
    ("dir", "directory"),
    ("nproc", "tasks"),
    ("package", "plan"),
    ("parent", "plan"),
    ("pids", "tasks"),
    ("processes", "tasks"),
    ("quota", "disk"),
    ("ram", "memory"),
    ("reason", "suspend_reason"),
    ("on_calendar", "schedule"),
    ("services", "service"),
    ("sockets", "socket"),
    ("static", "files"),
    ("stop_signal", "stop"),
    ("threads", "tasks"),
    ("timeout_stop", "stop"),
    ("timers", "timer"),
    ("upload", "up"),
    ("working_directory", "directory"),
    ("workdir", "directory"),
];

/// A table of a file that is being read.
#[derive(Debug)]
pub struct Table<'t, 'i> {
    entries: &'t DeTable<'i>,
    section: &'static Section,
}

impl<'t, 'i> Table<'t, 'i> {
    /// Records a problem for each key that `section` does not have. `file` holds all sections of this kind of file, the top
    /// first.
    pub fn new(
        report: &mut Report<'_>,
        entries: &'t DeTable<'i>,
        section: &'static Section,
        file: &'static [Section],
    ) -> Self {
        for key in entries.keys().filter(|key| !section.keys.contains(&key.get_ref().as_ref())) {
            report.error(key.span(), || unknown_key(key.get_ref(), section, file));
        }
        Self { entries, section }
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'i>>> {
        debug_assert!(self.section.keys.contains(&key), "{key:?} is not in the table of {}", self.section.title);
        self.entries.get(key)
    }

    /// The keys that are there.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(|key| key.get_ref().as_ref())
    }

    /// Reads the value of a key with `parse`.
    pub fn read<T>(
        &self,
        report: &mut Report<'_>,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Option<Spanned<T>> {
        let value = self.get(key)?;
        report.accept(value.span(), parse(value.get_ref()))
    }

    /// Reads the value of a key that is a list, each item with `parse`. Items with a problem are left out.
    pub fn list<T>(
        &self,
        report: &mut Report<'_>,
        key: &'static str,
        mut parse: impl FnMut(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Option<Spanned<Vec<Spanned<T>>>> {
        self.items(report, key, |report, item| report.accept(item.span(), parse(item.get_ref())))
    }

    /// Reads the value of a key that is a list, each item with `read`. Items that it returns nothing for are left out.
    pub fn items<T>(
        &self,
        report: &mut Report<'_>,
        key: &'static str,
        mut read: impl FnMut(&mut Report<'_>, &Spanned<DeValue<'_>>) -> Option<Spanned<T>>,
    ) -> Option<Spanned<Vec<Spanned<T>>>> {
        let list = self.get(key)?;
        let Some(items) = list.get_ref().as_array() else {
            report.error(list.span(), || {
                let problem = expected("a list in square brackets", list.get_ref());
                match list.get_ref().as_str() {
                    Some(words) => {
                        problem.hint(format!("write {key} = {:?}", Vec::from_iter(words.split_whitespace())))
                    }
                    None => problem.hint(format!("write {key} = [...]")),
                }
            });
            return None;
        };
        let items = items.iter().filter_map(|item| read(report, item)).collect();
        Some(Spanned::new(list.span(), items))
    }

    /// Reads the value of a key that is a table, which has no effect without a key.
    pub(crate) fn filled_table(
        &self,
        report: &mut Report<'_>,
        key: &'static str,
        section: &'static Section,
        file: &'static [Section],
    ) -> Option<Table<'t, 'i>> {
        let table = self.table(report, key, section, file)?;
        if let Some(value) = self.get(key).filter(|_| table.entries.is_empty()) {
            let problem = || Problem::new(format!("nothing is {}", section.title));
            report.error(value.span(), || problem().hint(format!("{}; or remove it", section.listed())));
        }
        Some(table)
    }

    /// Reads the value of a key that is a table.
    pub(crate) fn table(
        &self,
        report: &mut Report<'_>,
        key: &'static str,
        section: &'static Section,
        file: &'static [Section],
    ) -> Option<Table<'t, 'i>> {
        let value = self.get(key)?;
        let Some(entries) = value.get_ref().as_table() else {
            report.error(value.span(), || {
                let problem = expected(&format!("a table (what is {})", section.title), value.get_ref());
                match (value.get_ref().as_str(), section.title.starts_with("in ")) {
                    (Some(text), _) => problem.hint(format!("write {key} = {{ {} = {text:?} }}", section.keys[0])),
                    (None, true) => problem.hint(format!("write {key} = {{ {} = ... }}", section.keys[0])),
                    (None, false) => problem.hint(format!("write [{key}], and its keys below")),
                }
            });
            return None;
        };
        Some(Table::new(report, entries, section, file))
    }
}

/// The key of a section that somebody means who writes another one.
pub(crate) fn meant(key: &str, section: &Section) -> Option<&'static str> {
    if section.keys.contains(&key) {
        return None;
    }
    let synonym = SYNONYMS.iter().find(|(word, _)| *word == key).map(|(_, meant)| *meant);
    plural(key, section)
        .or(synonym.filter(|meant| section.keys.contains(meant)))
        .or_else(|| nearest(key, section.keys.iter().copied()))
}

/// The key that only has one letter more: the plural.
fn plural(key: &str, section: &Section) -> Option<&'static str> {
    section.keys.iter().copied().find(|known| known.strip_suffix('s') == Some(key))
}

fn unknown_key(key: &str, section: &Section, file: &[Section]) -> Problem {
    let problem = Problem::new(format!("unknown key {key:?}"));
    let synonym = SYNONYMS.iter().find(|(word, _)| *word == key).map(|(_, meant)| *meant);
    let meant = synonym.unwrap_or(key);
    let near = nearest(key, section.keys.iter().copied());
    if section.keys.len() == 1 {
        return problem.hint(section.listed());
    }
    if let Some(meant) = plural(key, section) {
        return problem.hint(format!("did you mean \"{meant}\"?"));
    }
    // A letter too few is more likely than the word of another system in a wrong place.
    let is_elsewhere = !section.keys.contains(&meant) && (meant == key || near.is_none());
    if let Some(other) = file.iter().find(|other| is_elsewhere && other.keys.contains(&meant)) {
        let above = if other.title == file[0].title { ", above the first [table]" } else { "" };
        problem.hint(format!("\"{meant}\" belongs {}{above}", other.title))
    } else if let Some(meant) = synonym.filter(|meant| section.keys.contains(meant)) {
        problem.hint(format!("use \"{meant}\""))
    } else if let Some(meant) = near {
        problem.hint(format!("did you mean \"{meant}\"?"))
    } else {
        problem.hint(section.listed())
    }
}

/// Returns the items in their order, and records a problem for each that is in the list twice.
pub fn distinct<T: Ord>(report: &mut Report<'_>, items: Vec<Spanned<T>>, show: impl Fn(&T) -> String) -> Vec<T> {
    let mut known = BTreeSet::new();
    for item in &items {
        if !known.insert(item.get_ref()) {
            report.error(item.span(), || {
                Problem::new(format!("\"{}\" is in the list twice", show(item.get_ref()))).hint("take one of them out")
            });
        }
    }
    items.into_iter().map(Spanned::into_inner).collect()
}

/// The problem of a value with the wrong type.
#[must_use]
pub fn expected(what: &str, found: &DeValue<'_>) -> Problem {
    let found = match found {
        DeValue::String(_) => "a text in quotes",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    Problem::new(format!("expected {what}, found {found}"))
}

/// Reads a text.
///
/// # Errors
/// When the value is no text.
pub fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Problem> {
    value.as_str().ok_or_else(|| expected("a text in quotes", value))
}

/// Reads a text and parses it as a `T`.
///
/// # Errors
/// When the value is no text, or none of a `T`.
pub fn parsed<T: FromStr<Err: std::error::Error>>(value: &DeValue<'_>) -> Result<T, Problem> {
    Ok(text(value)?.parse()?)
}

/// Reads a name. `instead` is what to do about one that is reserved.
pub(crate) fn parsed_name<T: FromStr<Err = NameError>>(value: &DeValue<'_>, instead: &str) -> Result<T, Problem> {
    text(value)?.parse().map_err(|error| match error {
        NameError::Reserved => Problem::from(error).hint(instead),
        _ => Problem::from(error),
    })
}

/// Reads a text without control characters, so that it cannot forge lines of a log or control a terminal.
///
/// # Errors
/// When the value is no text, or has such a character.
pub fn line(value: &DeValue<'_>) -> Result<String, Problem> {
    let text = text(value)?;
    match text.chars().find(|c| c.is_control()) {
        Some(found) => Err(Problem::new(format!("a line must not hold the control character {found:?}"))),
        None => Ok(text.to_owned()),
    }
}

/// Reads `true` or `false`.
pub(crate) fn switch(value: &DeValue<'_>) -> Result<bool, Problem> {
    value.as_bool().ok_or_else(|| expected("true or false", value))
}

/// Reads a whole number that is not negative.
///
/// # Errors
/// When the value is another one.
pub fn number<T: TryFrom<u128>>(value: &DeValue<'_>) -> Result<T, Problem> {
    match value {
        DeValue::Integer(integer) => {
            if integer.as_str().starts_with('-') {
                return Err(Problem::new("a negative number is not possible here"));
            }
            u128::from_str_radix(integer.as_str(), integer.radix())
                .ok()
                .and_then(|number| T::try_from(number).ok())
                .ok_or_else(|| Problem::new("the value is too large"))
        }
        DeValue::String(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(expected("a whole number", value).hint("write it without quotes"))
        }
        other => Err(expected("a whole number", other)),
    }
}
