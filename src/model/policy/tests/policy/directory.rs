//! A configuration directory in a temporary place.

use bailiwick_diagnostics::render;
use bailiwick_policy::{Reading, read};
use std::fs::{Permissions, create_dir_all, set_permissions, write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The directory, which is removed when this is dropped.
pub(crate) struct Directory(tempfile::TempDir);

impl Directory {
    /// Makes a directory with an empty `bailiwick.toml` and these files, each a path and its content.
    pub(crate) fn with(files: &[(&str, &str)]) -> Self {
        let directory = Self(tempfile::tempdir().expect("temporary directory"));
        directory.write("bailiwick.toml", "");
        for (path, content) in files {
            directory.write(path, content);
        }
        directory
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file with its right mode, whatever the umask is.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(path);
        let parent = path.parent().expect("below the directory");
        create_dir_all(parent).expect("mkdir");
        set_permissions(parent, Permissions::from_mode(0o755)).expect("chmod");
        write(&path, content).expect("write");
        set_permissions(&path, Permissions::from_mode(0o644)).expect("chmod");
        path
    }

    pub(crate) fn read(&self) -> Reading {
        read(self.path())
    }

    /// The problems as an operator sees them, with the directory called `CONFIG`.
    pub(crate) fn rendered(&self) -> String {
        self.anonymous(&render(&self.read().diagnostics))
    }

    /// The problems, one line each, with the directory called `CONFIG`.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.read().diagnostics.iter().map(|diagnostic| self.anonymous(&diagnostic.to_string())).collect()
    }

    pub(crate) fn anonymous(&self, text: &str) -> String {
        text.replace(&self.path().display().to_string(), "CONFIG")
    }
}
