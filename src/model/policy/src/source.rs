//! One configuration file in memory.

use crate::diagnostic::{Diagnostic, Problem};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The largest configuration file in bytes.
pub(crate) const MAX_FILE: usize = 1 << 20;

/// The text of a file, and the path that diagnostics name it by.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    text: String,
    /// Where it is no UTF-8, and what to say of that.
    flaw: Option<(Range<usize>, Problem)>,
}

impl Source {
    /// Refuses more than [`MAX_FILE`] bytes. Bytes that are no UTF-8 are a problem of the text, which has something in their place.
    pub(crate) fn new(path: PathBuf, bytes: Vec<u8>) -> Result<Self, Vec<Diagnostic>> {
        if bytes.len() > MAX_FILE {
            return Err(vec![Diagnostic::whole(&path, too_large(bytes.len()))]);
        }
        Ok(match String::from_utf8(bytes) {
            Ok(text) => Self { path, text, flaw: None },
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let bad = error.as_bytes()[valid];
                // Everything before the bad byte is kept as it is, so its offset stays true.
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                let problem = Problem::new(format!("the file is not UTF-8 text: byte 0x{bad:02x}"));
                Self { path, text, flaw: Some((valid..valid + 1, problem.hint("save the file as UTF-8"))) }
            }
        })
    }

    /// What was wrong with it before it was read as TOML.
    pub(crate) fn flaw(&self) -> Option<&(Range<usize>, Problem)> {
        self.flaw.as_ref()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The bytes of the line that a byte is in, without its end.
    pub(crate) fn line_of(&self, byte: usize) -> Range<usize> {
        let place = self.text.floor_char_boundary(byte);
        let start = self.text[..place].rfind('\n').map_or(0, |newline| newline + 1);
        let end = self.text[place..].find('\n').map_or(self.text.len(), |length| place + length);
        start..end
    }
}

/// Names the size of a file that is over the bound.
pub(crate) fn too_large(bytes: impl std::fmt::Display) -> Problem {
    Problem::new(format!("the file is too large: {bytes} bytes"))
        .hint(format!("a configuration file has at most {MAX_FILE} bytes"))
}
