//! One configuration file in memory.

use crate::diagnostic::{Diagnostic, Problem};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The largest configuration file in bytes.
pub(crate) const MAX_FILE: usize = 1 << 20;

/// The text of a file, and its path in diagnostics.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    text: String,
    /// The first place that is no UTF-8, with its problem.
    flaw: Option<(Range<usize>, Problem)>,
}

impl Source {
    /// Takes the bytes of a file, at most [`MAX_FILE`]. A byte that is no UTF-8 becomes a replacement character and a
    /// [`Self::flaw`].
    pub(crate) fn new(path: PathBuf, bytes: Vec<u8>) -> Result<Self, Vec<Diagnostic>> {
        if bytes.len() > MAX_FILE {
            return Err(vec![Diagnostic::whole(&path, too_large(bytes.len()))]);
        }
        Ok(match String::from_utf8(bytes) {
            Ok(text) => Self { path, text, flaw: None },
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let bad = error.as_bytes()[valid];
                // The text before the bad byte does not change, so its offset stays right.
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                let problem = Problem::new(format!("the file is not UTF-8 text: byte 0x{bad:02x}"));
                Self { path, text, flaw: Some((valid..valid + 1, problem.hint("save the file as UTF-8"))) }
            }
        })
    }

    /// The problem of a file that is no text, and its place.
    pub(crate) fn flaw(&self) -> Option<&(Range<usize>, Problem)> {
        self.flaw.as_ref()
    }

    /// Its path, as diagnostics name it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The first place of a key or a header that is not in a comment. A text in quotes is found as it is.
    pub(crate) fn place_of(&self, key: &str) -> Option<Range<usize>> {
        let is_key = |at: &usize| {
            let (before, after) = (&self.text[..*at], &self.text[at + key.len()..]);
            let line = before.rsplit('\n').next().unwrap_or_default();
            let starts = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
            let ends = key.starts_with('"') || after.trim_start_matches(' ').starts_with(['=', ']']);
            starts && !line.contains('#') && ends
        };
        self.text.match_indices(key).map(|(at, _)| at).find(is_key).map(|at| at..at + key.len())
    }

    /// The range of the line that holds a byte, without its line end.
    pub(crate) fn line_of(&self, byte: usize) -> Range<usize> {
        let place = self.text.floor_char_boundary(byte);
        let start = self.text[..place].rfind('\n').map_or(0, |newline| newline + 1);
        let end = self.text[place..].find('\n').map_or(self.text.len(), |length| place + length);
        start..end
    }
}

/// The problem of a file with too many bytes.
pub(crate) fn too_large(bytes: impl std::fmt::Display) -> Problem {
    Problem::new(format!("the file is too large: {bytes} bytes"))
        .hint(format!("a configuration file has at most {MAX_FILE} bytes"))
}
