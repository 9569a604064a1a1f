//! Reads and writes `[sleep]`: when an idle tenant sleeps.

use crate::diagnostic::Problem;
use crate::limits::bounded;
use crate::model::Sleep;
use crate::reader::{NEVER, Report, Section, Span, Table};
use bailiwick_types::Period;
use toml::Spanned;
use toml::de::DeValue;

pub(crate) const SLEEP: Section = Section { title: "below [sleep]", keys: &["after", "freeze_after"] };

const AFTER: &str = "from 1m to 30d, or \"never\"";
const FREEZE_AFTER: &str = "from 10s, less than \"after\", or \"never\"";

/// A time that a file sets; `None` stands for "never".
type Time = Option<Period>;

/// The times that one file sets, with their places.
#[derive(Debug)]
pub(crate) struct Declared {
    after: Option<Spanned<Time>>,
    freeze_after: Option<Spanned<Time>>,
    is_unreadable: bool,
}

impl Declared {
    /// Reads `[sleep]` from the top table of a file.
    pub(crate) fn read(report: &mut Report<'_>, top: &Table<'_, '_>, file: &'static [Section]) -> Self {
        let problems = report.count();
        let mut declared = Self { after: None, freeze_after: None, is_unreadable: false };
        if let Some(table) = top.filled_table(report, "sleep", &SLEEP, file) {
            let most = Period(30 * 86_400);
            declared.after = table.read(report, "after", |value| time(value, Period(60), most, AFTER));
            declared.freeze_after =
                table.read(report, "freeze_after", |value| time(value, Period(10), most, FREEZE_AFTER));
        }
        declared.is_unreadable = report.count() > problems;
        declared
    }

    /// The place of `after`.
    pub(crate) fn after_place(&self) -> Option<Span> {
        self.after.as_ref().map(Spanned::span)
    }

    /// Returns these times, with the inherited ones for those that are missing.
    pub(crate) fn apply(self, report: &mut Report<'_>, inherited: Option<Sleep>) -> Option<Sleep> {
        let Self { after, freeze_after, is_unreadable } = self;
        if is_unreadable {
            return inherited;
        }
        let is_own = |time: &Option<Spanned<Time>>| time.as_ref().map(Spanned::span);
        let (own_after, own_freeze) = (is_own(&after), is_own(&freeze_after));
        let until_sleep = after.map_or(inherited.map(|sleep| sleep.after), Spanned::into_inner);
        let until_freeze = freeze_after.map_or(inherited.and_then(|sleep| sleep.freeze_after), Spanned::into_inner);
        match (until_sleep, until_freeze) {
            (None, Some(_)) => {
                if let Some(place) = own_freeze {
                    report.error(place, || {
                        Problem::new("\"freeze_after\", but the tenant never sleeps")
                            .hint("add a time such as after = \"15m\", or remove this line")
                    });
                }
                None
            }
            (None, None) => None,
            (Some(after), freeze_after) => {
                if let Some(freeze) = freeze_after.filter(|freeze| *freeze >= after) {
                    let place: Span = own_freeze.clone().or(own_after.clone()).unwrap_or_default();
                    report.error(place, || not_before(freeze, after, own_freeze.is_some(), own_after.is_some()));
                }
                Some(Sleep { after, freeze_after })
            }
        }
    }
}

fn not_before(freeze: Period, after: Period, own_freeze: bool, own_after: bool) -> Problem {
    let problem = Problem::new(format!(
        "\"freeze_after\" ({freeze}) is not less than \"after\" ({after}), so nothing would be frozen"
    ));
    match (own_freeze, own_after) {
        (true, false) => problem.hint("\"after\" is inherited; set it in this file too"),
        (false, true) => problem.hint("\"freeze_after\" is inherited; set it in this file too"),
        _ => problem,
    }
}

fn time(value: &DeValue<'_>, least: Period, most: Period, why: &str) -> Result<Time, Problem> {
    if value.as_str() == Some(NEVER) { Ok(None) } else { bounded(value, least, most, why).map(Some) }
}

/// Writes both times.
pub(crate) fn write(sleep: Option<Sleep>) -> String {
    let word = |time: Time| time.map_or_else(|| NEVER.to_owned(), |time| time.to_string());
    let after = word(sleep.map(|sleep| sleep.after));
    let freeze_after = word(sleep.and_then(|sleep| sleep.freeze_after));
    format!("\n[sleep]\nafter = \"{after}\"\nfreeze_after = \"{freeze_after}\"\n")
}
