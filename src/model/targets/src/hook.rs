//! Reads the file of a hook.

use crate::trust;
use bailiwick_policy::Diagnostic;
use bailiwick_policy::files::{Problem, Report, Section, Source, Table, number, parsed, text};
use bailiwick_types::{EventType, EventTypes, Period, TargetName};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;
use toml::Spanned;
use toml::de::DeValue;

/// The keys of the file.
const FILE: &[Section] =
    &[Section { title: "in the file of a hook", keys: &["on", "run", "when", "timeout", "retries"] }];

/// The types of events that a command can be refused for: those of `create`, `suspend` and `delete`.
pub const BEFORE_TYPES: &[EventType] =
    &[EventType::TenantCreated, EventType::TenantSuspended, EventType::TenantDeleted];

/// The longest time limit, and the one of a file that names none.
const LONGEST: Period = Period(600);
const TIME_LIMIT: Period = Period(30);
/// The most retries: after the last one a delivery is dead.
const RETRIES: u32 = 5;
/// The most bytes of a program and its arguments.
const MAX_RUN: usize = 32 << 10;

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookWhen {
    /// Before a command changes anything. It can refuse the command.
    Before,
    /// After the event.
    After,
}

/// A text is no time of a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a hook runs \"before\" or \"after\"")]
pub struct NotWhen;

impl HookWhen {
    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

impl FromStr for HookWhen {
    type Err = NotWhen;

    fn from_str(text: &str) -> Result<Self, NotWhen> {
        [Self::Before, Self::After].into_iter().find(|when| when.word() == text).ok_or(NotWhen)
    }
}

/// A program that is run for events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Its name, which is that of its file.
    pub name: TargetName,
    /// The types of events, each once.
    pub on: Vec<EventType>,
    /// The program, by its absolute path, and its arguments.
    pub run: Vec<String>,
    /// When it runs.
    pub when: HookWhen,
    /// How long it may run.
    pub timeout: Period,
    /// How often it is run again after a failure; none for a hook that runs before.
    pub retries: u32,
}

/// Checks the program of a hook: nobody but root can change it, or what leads to it, and it can be executed.
///
/// # Errors
/// What is wrong with it.
pub fn check_program(path: &Path) -> Result<(), Problem> {
    let metadata = trust::only_roots(path)?;
    let shown = path.display();
    if !metadata.is_file() {
        return Err(Problem::new(format!("\"{shown}\" is no file")));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(Problem::new(format!("\"{shown}\" is not executable")).hint(format!("chmod 0755 {shown}")));
    }
    Ok(())
}

/// Reads a hook.
pub(crate) fn read(source: &Source, name: &TargetName) -> Result<Hook, Vec<Diagnostic>> {
    let mut report = Report::new(source);
    let hook = read_file(&mut report, name);
    match hook {
        Some(hook) if report.is_clean() => Ok(hook),
        _ => Err(report.finish()),
    }
}

fn read_file(report: &mut Report<'_>, name: &TargetName) -> Option<Hook> {
    let file = report.parse()?;
    let table = Table::new(report, &file, &FILE[0], FILE);
    let when = table.read(report, "when", parsed::<HookWhen>).map_or(HookWhen::After, Spanned::into_inner);
    let on = types(report, &table, "on");
    if when == HookWhen::Before {
        only_commands(report, &table);
    }
    let run = run(report, &table);
    let timeout = time_limit(report, &table, TIME_LIMIT, LONGEST);
    let retries = table.read(report, "retries", retries);
    if let Some(retries) = retries.as_ref().filter(|retries| when == HookWhen::Before && *retries.get_ref() > 0) {
        report.error(retries.span(), || {
            Problem::new("a hook that runs before a command is not run again").hint("remove \"retries\"")
        });
    }
    let default = if when == HookWhen::Before { 0 } else { RETRIES };
    Some(Hook {
        name: name.clone(),
        on: on?,
        run: run?,
        when,
        timeout: timeout?,
        retries: retries.map_or(default, Spanned::into_inner),
    })
}

/// Reads the types of events that a target is told of. Each type or family is a word of `bailiwick events --type`.
pub(crate) fn types(report: &mut Report<'_>, table: &Table<'_, '_>, key: &'static str) -> Option<Vec<EventType>> {
    let Some(list) = table.list(report, key, parsed::<EventTypes>) else {
        if table.get(key).is_none() {
            missing(
                report,
                key,
                &format!("write the types of events, such as {key} = [\"tenant.created\", \"incident\"]"),
            );
        }
        return None;
    };
    let (place, mut all) = (list.span(), Vec::new());
    for types in list.into_inner() {
        let (place, types) = (types.span(), types.into_inner().0);
        if let Some(twice) = types.iter().find(|kind| all.contains(*kind)) {
            report.error(place, || {
                Problem::new(format!("\"{twice}\" is in the list twice")).hint("take one of them out")
            });
        }
        all.extend(types);
    }
    if all.is_empty() && report.is_clean() {
        report.error(place, || {
            Problem::new("the list is empty, so nothing is ever told").hint("write a type, or remove the file")
        });
    }
    Some(all)
}

/// Records a problem for each type that no command can be refused for.
fn only_commands(report: &mut Report<'_>, table: &Table<'_, '_>) {
    let Some(list) = table.get("on").and_then(|value| value.get_ref().as_array()) else { return };
    for item in list.iter() {
        let types = item.get_ref().as_str().and_then(|word| word.parse::<EventTypes>().ok());
        if types.is_some_and(|types| types.0.iter().any(|kind| !BEFORE_TYPES.contains(kind))) {
            let words: Vec<&str> = BEFORE_TYPES.iter().map(|kind| kind.word()).collect();
            report.error(item.span(), || {
                Problem::new("nothing can run before this event")
                    .hint(format!("when = \"before\" is for: {}", words.join(", ")))
            });
        }
    }
}

/// Reads the program and its arguments.
fn run(report: &mut Report<'_>, table: &Table<'_, '_>) -> Option<Vec<String>> {
    const HINT: &str =
        "write a program and its arguments, such as run = [\"/usr/local/lib/bailiwick/dns\", \"--quiet\"]";
    let mut count = 0;
    let list = table.list(report, "run", |value| {
        count += 1;
        let word = word(value)?;
        if count == 1 {
            check_program(Path::new(&word))?;
        }
        Ok(word)
    });
    let Some(list) = list else {
        if table.get("run").is_none() {
            missing(report, "run", HINT);
        }
        return None;
    };
    let place = list.span();
    let words: Vec<String> = list.into_inner().into_iter().map(Spanned::into_inner).collect();
    if count == 0 {
        report.error(place, || Problem::new("no program is named").hint(HINT));
    } else if words.iter().map(String::len).sum::<usize>() > MAX_RUN {
        report.error(place, || Problem::new(format!("the program and its arguments have more than {MAX_RUN} bytes")));
    }
    Some(words)
}

fn word(value: &DeValue<'_>) -> Result<String, Problem> {
    let text = text(value)?;
    if text.contains('\0') {
        return Err(Problem::new("an argument must not hold a NUL character"));
    }
    Ok(text.to_owned())
}

/// Reads the time limit of a target.
pub(crate) fn time_limit(
    report: &mut Report<'_>,
    table: &Table<'_, '_>,
    default: Period,
    most: Period,
) -> Option<Period> {
    if table.get("timeout").is_none() {
        return Some(default);
    }
    let limit = table.read(report, "timeout", |value| {
        let limit: Period = parsed(value)?;
        if (1..=most.0).contains(&limit.0) {
            Ok(limit)
        } else {
            Err(Problem::new(format!("a time limit of {limit} is not possible")).hint(format!("from 1s to {most}")))
        }
    });
    limit.map(Spanned::into_inner)
}

fn retries(value: &DeValue<'_>) -> Result<u32, Problem> {
    match number(value)? {
        retries @ 0..=RETRIES => Ok(retries),
        _ => Err(Problem::new(format!("at most {RETRIES} retries are possible"))),
    }
}

/// Records that a key is missing.
pub(crate) fn missing(report: &mut Report<'_>, key: &str, hint: &str) {
    report.error(0..0, || Problem::new(format!("there is no \"{key}\"")).hint(hint));
}
