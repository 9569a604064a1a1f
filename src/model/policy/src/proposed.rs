//! A configuration directory with one file as it would be after a change, so that the change is judged before it is written.

use crate::diagnostic::Diagnostic;
use crate::folder::{Directory, Folder};
use crate::read::{Reading, read_all};
use crate::source::Source;
use crate::store::Fallback;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A file that is there, with another content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// Its path below the configuration directory, such as `tenants.d/alice.toml`.
    pub file: PathBuf,
    /// The content that it would have.
    pub content: Vec<u8>,
}

/// Reads a configuration directory as [`read`](crate::read) does, with one file as it would be.
#[must_use]
pub fn read_proposed(config_dir: &Path, proposed: &Proposed) -> Reading {
    let nothing = Fallback::nothing();
    match Directory::open(config_dir) {
        Ok(inner) => read_all(&Overlay { inner, below: PathBuf::new(), proposed }, &nothing),
        Err(diagnostics) => Reading::without_files(diagnostics, &nothing),
    }
}

/// A directory, with the proposed file in place of its own.
#[derive(Debug)]
struct Overlay<'a> {
    inner: Directory,
    /// Its path below the configuration directory.
    below: PathBuf,
    proposed: &'a Proposed,
}

impl Folder for Overlay<'_> {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn names(&self) -> Result<Vec<OsString>, Vec<Diagnostic>> {
        self.inner.names()
    }

    fn file(&self, name: &str) -> Result<Option<Source>, Vec<Diagnostic>> {
        match self.inner.file(name)? {
            Some(_) if self.below.join(name) == self.proposed.file => {
                Source::new(self.path().join(name), self.proposed.content.clone()).map(Some)
            }
            other => Ok(other),
        }
    }

    fn folder(&self, name: &str) -> Result<Option<Self>, Vec<Diagnostic>> {
        let inner = self.inner.folder(name)?;
        Ok(inner.map(|inner| Self { inner, below: self.below.join(name), proposed: self.proposed }))
    }
}
