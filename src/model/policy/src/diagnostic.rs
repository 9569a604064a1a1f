//! Diagnostics: the problems of the operator's files, each with its place.

use crate::source::Source;
use serde::{Serialize, Serializer};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The most bytes of a line that a diagnostic keeps. A line may be as long as a whole file, and each problem keeps one.
const MAX_LINE: usize = 4096;
/// The most characters of a message. A message may quote the file.
const MAX_MESSAGE: usize = 400;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Somebody refuses it: whoever reads the file, or whoever does on this host what it says.
    Error,
    /// It is in force as it is, and not all of it works: on this host, or with what other files say now.
    Warning,
}

/// One problem of one file. Serialised as `file`, `line`, `column`, `severity`, `message` and `hint`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// The file, below the configuration directory as it was given.
    #[serde(serialize_with = "lossy")]
    pub file: PathBuf,
    /// The line, from 1. A problem of the whole file is at line 1, column 1.
    pub line: usize,
    /// The column, from 1, in characters. A tab counts as one.
    pub column: usize,
    /// Whether it is an error or a warning.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The text of the line, and the bytes in it that have the problem.
    #[serde(skip)]
    excerpt: Option<(String, Range<usize>)>,
}

/// A problem without its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    severity: Severity,
    message: String,
    hint: Option<String>,
}

impl Problem {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, message: message.into(), hint: None }
    }

    /// A problem of what is in force all the same.
    pub(crate) fn warning(message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::new(message) }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A hint for a problem that has none.
    pub(crate) fn or_hint(self, hint: &str) -> Self {
        if self.hint.is_some() { self } else { self.hint(hint) }
    }
}

impl<E: std::error::Error> From<E> for Problem {
    fn from(error: E) -> Self {
        Self::new(error.to_string())
    }
}

impl Diagnostic {
    /// A problem at the bytes `span` of a file.
    pub(crate) fn at(source: &Source, span: &Range<usize>, problem: Problem) -> Self {
        let text = source.text();
        let start = text.floor_char_boundary(span.start);
        let Range { start: line_start, end: line_end } = source.line_of(start);
        let end = text.ceil_char_boundary(span.end).clamp(start, line_end);
        let line = text[..line_start].bytes().filter(|byte| *byte == b'\n').count() + 1;

        let shown = text[line_start..line_end].trim_end_matches('\r');
        let mark = (start - line_start).min(shown.len())..(end - line_start).min(shown.len());
        Self {
            line,
            column: text[line_start..start].chars().count() + 1,
            excerpt: (shown.len() <= MAX_LINE).then(|| (shown.to_owned(), mark)),
            ..Self::whole(source.path(), problem)
        }
    }

    /// An error in a line of a file that is not read here, without an excerpt.
    #[must_use]
    pub fn in_line(file: &Path, line: usize, message: String, hint: String) -> Self {
        Self { line, ..Self::whole(file, Problem::new(message).hint(hint)) }
    }

    /// A problem of a whole file.
    #[must_use]
    pub fn whole(file: &Path, problem: Problem) -> Self {
        let clip = |text: String| match text.char_indices().nth(MAX_MESSAGE) {
            Some((end, _)) => format!("{}...", &text[..end]),
            None => text,
        };
        Self {
            file: file.to_owned(),
            line: 1,
            column: 1,
            severity: problem.severity,
            message: clip(problem.message),
            hint: problem.hint.map(clip),
            excerpt: None,
        }
    }

    /// The same without the text of the line, for a file that holds secrets.
    #[must_use]
    pub fn without_excerpt(self) -> Self {
        Self { excerpt: None, ..self }
    }

    /// The text of the line, and the bytes in it that have the problem. `None` for a problem of a whole file, and for a line
    /// that is too long to be shown.
    #[must_use]
    pub fn excerpt(&self) -> Option<&(String, Range<usize>)> {
        self.excerpt.as_ref()
    }
}

impl fmt::Display for Diagnostic {
    /// One line: `file:line:column: message (hint)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", printable(&self.file), self.line, self.column, self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

/// One line for each problem, in the form of [`Diagnostic`]'s `Display`.
#[must_use]
pub fn lines(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n")
}

/// A path with its control characters escaped, because a terminal would obey them.
#[must_use]
pub fn printable(path: &Path) -> String {
    let mut text = String::new();
    for c in path.to_string_lossy().chars() {
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    text
}

fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str, span: Range<usize>) -> (usize, usize) {
        let source = Source::new(PathBuf::from("x.toml"), text.as_bytes().to_vec()).expect("UTF-8");
        let diagnostic = Diagnostic::at(&source, &span, Problem::new("m"));
        (diagnostic.line, diagnostic.column)
    }

    #[test]
    fn columns_are_characters_and_a_tab_is_one() {
        assert_eq!(place("a = 1\n\tb = 2", 7..8), (2, 2));
        assert_eq!(place("ü = 1", 3..4), (1, 3));
        assert_eq!(place("", 0..0), (1, 1));
        assert_eq!(place("a\n", 2..2), (2, 1));
        assert_eq!(place("a\nb", 99..120), (2, 2));
    }

    #[test]
    fn a_place_inside_a_character_is_moved_to_its_start() {
        assert_eq!(place("üü", 1..3), (1, 1));
    }

    #[test]
    fn names_of_files_cannot_control_the_terminal() {
        let diagnostic = Diagnostic::whole(Path::new("a\u{1b}[31m.toml"), Problem::new("bad"));
        assert_eq!(diagnostic.to_string(), "a\\u{1b}[31m.toml:1:1: bad");
    }
}
