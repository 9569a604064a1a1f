//! Output to the operator: text, JSON and messages on standard error.
//!
//! Danger: names of commands and mount points come from tenants and may contain control characters. All output passes
//! through here and is escaped, so that no tenant can control the operator's terminal.

use crate::style;
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

/// Prints to standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    printed(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// Text of several lines, in which tabs stay too: those of a Caddyfile.
pub(crate) fn visible_text(text: &str) -> String {
    text.split('\t').map(visible_lines).collect::<Vec<_>>().join("\t")
}

/// Prints a value as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&json(value))
}

/// Prints a value in the requested form.
pub(crate) fn show<T: Serialize>(form: Form, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
    match form {
        Form::Text => page(&text(value)),
        Form::Json => print(&json(value)),
    }
}

/// Prints a report that is in a form already.
pub(crate) fn print_in(form: Form, text: &str) -> Result<(), Failure> {
    match form {
        Form::Text => page(text),
        Form::Json => print(text),
    }
}

/// Prints a report for people: with colours and a pager, where there is a terminal.
pub(crate) fn page(text: &str) -> Result<(), Failure> {
    printed(style::print(text))
}

/// A closed pipe (`| head`) is not a failure.
fn printed(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::of(ExitStatus::Failed, format!("cannot write standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Renders a value in the requested form.
pub(crate) fn in_form<T: Serialize>(form: Form, value: &T, text: impl FnOnce(&T) -> String) -> String {
    match form {
        Form::Text => text(value),
        Form::Json => json(value),
    }
}

/// Prints a message to standard error.
pub(crate) fn complain(message: &str) {
    complain_raw(&format!("bailiwick: {}\n", visible_lines(message)));
}

/// Prints text to standard error, with control characters escaped. A failure to print cannot be reported and is ignored.
pub(crate) fn complain_raw(text: &str) {
    io::stderr().write_all(style::paint_messages(visible_lines(text).into_owned()).as_bytes()).ok();
}

/// A value as JSON in one line.
pub(crate) fn json_line(value: &impl Serialize) -> String {
    safe_json(&serde_json::to_string(value).expect("reports have string keys and no fallible parts"))
}

/// A value as JSON. `serde_json` does not escape control characters above 0x7e, which some terminals interpret. They occur
/// only inside strings, where their JSON escape means the same.
fn json(value: &impl Serialize) -> String {
    safe_json(&serde_json::to_string_pretty(value).expect("reports have string keys and no fallible parts"))
}

fn safe_json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if c != '\n' && is_dangerous(c) {
            write!(safe, "\\u{:04x}", u32::from(c)).expect("writing to a string does not fail");
        } else {
            safe.push(c);
        }
    }
    safe.push('\n');
    safe
}

/// The JSON string of a unit variant, so that tables show the same word as JSON.
pub(crate) fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("{other:?} is not a string"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_no_control_characters() {
        let hostile = "a\u{1b}b\u{9b}c\u{7f}d\u{202e}";
        let text = json(&[hostile]);
        assert!(!text.trim_end().contains(|c| c != '\n' && is_dangerous(c)), "{text:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&text).expect("valid"), [hostile]);
    }

    #[test]
    fn tabs_and_line_breaks_of_a_text_stay() {
        assert_eq!(visible_text("a {\n\tb\u{1b}\n}\n"), "a {\n\tb\\u{1b}\n}\n");
    }

    #[test]
    fn words_in_tables_are_those_of_json() {
        assert_eq!(word(bailiwick_types::Verdict::Nominal), "nominal");
    }
}
