//! What goes to the operator: text, JSON and complaints.
//!
//! Danger: names of commands and mount points come from tenants. Everything that is printed passes through here, and a
//! control character leaves as its escape, so that no tenant speaks to the operator's terminal.

use bailiwick_proto::Failure;
use bailiwick_types::{ExitStatus, is_dangerous};
pub(crate) use bailiwick_types::{visible, visible_lines};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Text or JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl From<crate::arguments::Format> for Form {
    fn from(format: crate::arguments::Format) -> Self {
        if format.json { Self::Json } else { Self::Text }
    }
}

/// Prints what was asked for. A reader that has gone (`| head`) has seen enough: that is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::of(ExitStatus::Failed, format!("cannot write standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints a value as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&json(value))
}

/// Prints in the form that was asked for.
pub(crate) fn show<T: Serialize>(form: Form, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
    print(&in_form(form, value, text))
}

/// The text that [`show`] prints.
pub(crate) fn in_form<T: Serialize>(form: Form, value: &T, text: impl FnOnce(&T) -> String) -> String {
    match form {
        Form::Text => text(value),
        Form::Json => json(value),
    }
}

/// A message on standard error.
pub(crate) fn complain(message: &str) {
    complain_raw(&format!("bailiwick: {}\n", visible_lines(message)));
}

/// Text on standard error as it is, but for control characters. If nobody can read it, there is nobody to tell.
pub(crate) fn complain_raw(text: &str) {
    io::stderr().write_all(visible_lines(text).as_bytes()).ok();
}

/// JSON of a value. `serde_json` lets the control characters after 0x7e through, which some terminals obey; they can
/// only stand inside strings, so their JSON escape means the same.
fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(value).expect("reports have string keys and no fallible parts");
    let mut safe = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if c != '\n' && is_dangerous(c) {
            write!(safe, "\\u{:04x}", u32::from(c)).expect("a string takes everything");
        } else {
            safe.push(c);
        }
    }
    safe.push('\n');
    safe
}

/// The word that JSON has for a value, for tables that say the same.
pub(crate) fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("{other:?} is no word"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_the_same_value_without_them() {
        let hostile = "a\u{1b}b\u{9b}c\u{7f}d\u{202e}";
        let text = json(&[hostile]);
        assert!(!text.trim_end().contains(|c| c != '\n' && is_dangerous(c)), "{text:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&text).expect("valid"), [hostile]);
    }

    #[test]
    fn words_are_those_of_json() {
        assert_eq!(word(bailiwick_types::Verdict::Nominal), "nominal");
    }
}
