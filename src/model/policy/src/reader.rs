//! A typed walk over one TOML file that goes on after a problem, so that all of them are found in one run.
//!
//! `serde` would stop at the first. Here each key is read by itself: a value or a recorded problem. What a section may
//! hold is a table ([`Section`]), which also serves the hints for keys that are unknown or stand in the wrong place.

use crate::diagnostic::{Diagnostic, Problem};
use crate::source::Source;
use crate::suggest::nearest;
use std::collections::BTreeSet;
use std::ops::Range;
use std::str::FromStr;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// How many problems of one file are shown; a file with more is no configuration file at all.
const MAX_PROBLEMS: usize = 100;

/// Bytes of a file.
pub(crate) type Span = Range<usize>;

/// Collects the problems of one file.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    source: &'a Source,
    found: Vec<(Span, Problem)>,
    unrecorded: usize,
}

impl<'a> Report<'a> {
    pub(crate) fn new(source: &'a Source) -> Self {
        Self { source, found: Vec::new(), unrecorded: 0 }
    }

    /// Records a problem. The closure is only called while problems are still recorded.
    pub(crate) fn error(&mut self, span: Span, problem: impl FnOnce() -> Problem) {
        if self.found.len() < MAX_PROBLEMS {
            self.found.push((span, problem()));
        } else {
            self.unrecorded += 1;
        }
    }

    /// The value, or a recorded problem.
    pub(crate) fn accept<T>(&mut self, span: Span, result: Result<T, Problem>) -> Option<Spanned<T>> {
        match result {
            Ok(value) => Some(Spanned::new(span, value)),
            Err(problem) => {
                self.error(span, || problem);
                None
            }
        }
    }

    /// The file as a table; `None` after recording that it is no text, or its syntax errors.
    pub(crate) fn parse(&mut self) -> Option<DeTable<'a>> {
        if let Some((span, problem)) = self.source.flaw() {
            self.error(span.clone(), || problem.clone());
            return None;
        }
        let (table, errors) = DeTable::parse_recoverable(self.source.text());
        let mut places: Vec<(Span, &str)> =
            errors.iter().map(|error| (error.span().unwrap_or_default(), error.message())).collect();
        places.sort_by_key(|(span, _)| span.start);
        // The first of a line is the mistake, the others are what the parser made of it.
        places.dedup_by_key(|(span, _)| self.source.line_of(span.start));
        for (span, message) in places {
            let message = message.lines().next().unwrap_or_default();
            self.error(span, || Problem::new(format!("not valid TOML: {message}")));
        }
        errors.is_empty().then(|| table.into_inner())
    }

    /// What a file says that is no TOML, as far as that can be told: by its first lines, while each is TOML by itself and none is a header.
    pub(crate) fn recovered(&self) -> DeTable<'a> {
        let text = self.source.text();
        let is_plain = |line: &&str| !line.trim_start().starts_with('[') && DeTable::parse(line).is_ok();
        let len = text.split_inclusive('\n').take_while(is_plain).map(str::len).sum();
        DeTable::parse_recoverable(&text[..len]).0.into_inner()
    }

    /// Whether nothing was recorded.
    pub(crate) fn is_clean(&self) -> bool {
        self.found.is_empty()
    }

    /// The problems in the order of the file.
    pub(crate) fn finish(mut self) -> Vec<Diagnostic> {
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

/// A part of a kind of file, and the keys it may have.
#[derive(Debug)]
pub(crate) struct Section {
    /// How an operator would call it.
    pub(crate) title: &'static str,
    /// Its keys, in the order in which they are written.
    pub(crate) keys: &'static [&'static str],
}

/// Words from other systems, and what they are called here.
const SYNONYMS: &[(&str, &str)] = &[
    ("cmd", "command"),
    ("exec", "command"),
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
    ("threads", "tasks"),
    ("timers", "timer"),
];

/// A table of a file while it is read.
#[derive(Debug)]
pub(crate) struct Table<'t, 'i> {
    entries: &'t DeTable<'i>,
    section: &'static Section,
}

impl<'t, 'i> Table<'t, 'i> {
    /// Records the keys that `section` does not have. `file` is every section of this kind of file, the top first.
    pub(crate) fn new(
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
    pub(crate) fn get(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'i>>> {
        debug_assert!(self.section.keys.contains(&key), "{key:?} is not in the table of {}", self.section.title);
        self.entries.get(key)
    }

    /// The value of a key, parsed.
    pub(crate) fn read<T>(
        &self,
        report: &mut Report<'_>,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Option<Spanned<T>> {
        let value = self.get(key)?;
        report.accept(value.span(), parse(value.get_ref()))
    }

    /// The value of a key that is a list, each item parsed. Items with a problem are left out.
    pub(crate) fn list<T>(
        &self,
        report: &mut Report<'_>,
        key: &'static str,
        mut parse: impl FnMut(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Option<Spanned<Vec<Spanned<T>>>> {
        let list = self.get(key)?;
        let Some(items) = list.get_ref().as_array() else {
            report.error(list.span(), || expected("a list in square brackets", list.get_ref()));
            return None;
        };
        let items = items.iter().filter_map(|item| report.accept(item.span(), parse(item.get_ref()))).collect();
        Some(Spanned::new(list.span(), items))
    }

    /// The value of a key that is a table.
    pub(crate) fn table(
        &self,
        report: &mut Report<'_>,
        key: &'static str,
        section: &'static Section,
        file: &'static [Section],
    ) -> Option<Table<'t, 'i>> {
        let value = self.get(key)?;
        let Some(entries) = value.get_ref().as_table() else {
            report.error(value.span(), || expected(&format!("a table (what is {})", section.title), value.get_ref()));
            return None;
        };
        Some(Table::new(report, entries, section, file))
    }
}

fn unknown_key(key: &str, section: &Section, file: &[Section]) -> Problem {
    let problem = Problem::new(format!("unknown key {key:?}"));
    let synonym = SYNONYMS.iter().find(|(word, _)| *word == key).map(|(_, meant)| *meant);
    let meant = synonym.unwrap_or(key);
    if let Some(other) = file.iter().find(|other| !section.keys.contains(&meant) && other.keys.contains(&meant)) {
        let above = if other.title == file[0].title { ", above the first [table]" } else { "" };
        problem.hint(format!("\"{meant}\" belongs {}{above}", other.title))
    } else if let Some(meant) = synonym.filter(|meant| section.keys.contains(meant)) {
        problem.hint(format!("use \"{meant}\""))
    } else if let Some(meant) = nearest(key, section.keys.iter().copied()) {
        problem.hint(format!("did you mean \"{meant}\"?"))
    } else {
        problem.hint(format!("{} there are: {}", section.title, section.keys.join(", ")))
    }
}

/// The items in their order; those that are in the list already are problems.
pub(crate) fn distinct<T: Ord>(report: &mut Report<'_>, items: Vec<Spanned<T>>, show: impl Fn(&T) -> String) -> Vec<T> {
    let mut seen = BTreeSet::new();
    for item in &items {
        if !seen.insert(item.get_ref()) {
            report.error(item.span(), || Problem::new(format!("\"{}\" is in the list twice", show(item.get_ref()))));
        }
    }
    items.into_iter().map(Spanned::into_inner).collect()
}

/// The value is of the wrong type.
pub(crate) fn expected(what: &str, found: &DeValue<'_>) -> Problem {
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

/// A text.
pub(crate) fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Problem> {
    value.as_str().ok_or_else(|| expected("a text in quotes", value))
}

/// A text that is read by its type.
pub(crate) fn parsed<T: FromStr<Err: std::error::Error>>(value: &DeValue<'_>) -> Result<T, Problem> {
    Ok(text(value)?.parse()?)
}

/// A text for people: one line, so that it cannot forge lines of a log or speak to a terminal.
pub(crate) fn line(value: &DeValue<'_>) -> Result<String, Problem> {
    let text = text(value)?;
    match text.chars().find(|c| c.is_control()) {
        Some(found) => Err(Problem::new(format!("a line must not hold the control character {found:?}"))),
        None => Ok(text.to_owned()),
    }
}

/// A whole number that is not negative.
pub(crate) fn number<T: TryFrom<u128>>(value: &DeValue<'_>) -> Result<T, Problem> {
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
