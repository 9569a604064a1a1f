//! Directories with configuration files: on disk, or in memory for tests and fuzzing.
//!
//! Danger: the files on disk decide what a root process does. Each file and directory must belong to root and be writable by
//! nobody else. It must be opened by descriptor below its directory, and never through a link.

use crate::diagnostic::{Diagnostic, Problem};
use crate::source::{MAX_FILE, Source, too_large};
use bailiwick_sys::file::{self, FileType, Metadata};
use bailiwick_types::NameError;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;

/// The directory of the plans.
pub(crate) const PLANS: &str = "plans.d";
/// The directory of the tenants.
pub(crate) const TENANTS: &str = "tenants.d";
/// The end of the names of files.
const SUFFIX: &str = ".toml";

/// The name of the file of a plan or a tenant.
pub(crate) fn file_name(name: impl Display) -> String {
    format!("{name}{SUFFIX}")
}

/// A directory with files.
pub trait Folder: Sized {
    /// The path of the directory, as diagnostics name it.
    fn path(&self) -> &Path;
    /// The names in the directory, sorted.
    ///
    /// # Errors
    /// Why it cannot be listed.
    fn names(&self) -> Result<Vec<OsString>, Vec<Diagnostic>>;
    /// Reads a file of the directory; `None` when there is no such file.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn file(&self, name: &str) -> Result<Option<Source>, Vec<Diagnostic>>;
    /// Opens a directory in the directory; `None` when there is no such directory.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn folder(&self, name: &str) -> Result<Option<Self>, Vec<Diagnostic>>;
}

/// The plans or tenants that the files of a directory are named after, sorted. Returns `None`, with the problem in
/// `diagnostics`, when the directory cannot be listed. Hidden files, and those that do not end in `.toml` (from editors and
/// package managers), are skipped.
pub fn names<F: Folder, N: FromStr<Err = NameError>>(folder: &F, diagnostics: &mut Vec<Diagnostic>) -> Option<Vec<N>> {
    let all = folder.names().map_err(|problems| diagnostics.extend(problems)).ok()?;
    let mut good = Vec::new();
    for name in &all {
        let text = name.to_string_lossy();
        let Some(stem) = text.strip_suffix(SUFFIX).filter(|stem| !stem.starts_with('.') && !text.starts_with('.'))
        else {
            continue;
        };
        match stem.parse() {
            Ok(name) => good.push(name),
            Err(error) => {
                let problem = Problem::new(format!("the file's name is no name: {error}"));
                diagnostics
                    .push(Diagnostic::whole(&folder.path().join(name), problem.hint("rename or remove the file")));
            }
        }
    }
    Some(good)
}

/// A directory on disk.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    fd: OwnedFd,
}

impl Directory {
    /// Opens the configuration directory. The path may hold links, and the directories above it are not checked.
    ///
    /// # Errors
    /// Why it cannot be used: it is missing, or somebody but root can change it.
    pub fn open(path: &Path) -> Result<Self, Vec<Diagnostic>> {
        let failed = |error: io::Error| {
            let problem = match error.kind() {
                io::ErrorKind::NotFound => Problem::new("there is no such directory")
                    .hint("install the default configuration, or name another directory with --config"),
                io::ErrorKind::NotADirectory => Problem::new("this is not a directory"),
                _ => Problem::new(format!("the directory cannot be opened: {error}")),
            };
            vec![Diagnostic::whole(path, problem)]
        };
        let fd = path.canonicalize().and_then(|real| file::open_dir(&real)).map_err(failed)?;
        Self::trusted(path.to_owned(), fd)
    }

    /// Its descriptor.
    #[must_use]
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Takes an open directory, if only root can change it.
    pub(crate) fn trusted(path: PathBuf, fd: OwnedFd) -> Result<Self, Vec<Diagnostic>> {
        let metadata = file::metadata(&fd).map_err(|error| unreadable(&path, &error))?;
        check_owner(&path, metadata)?;
        Ok(Self { path, fd })
    }

    /// Why a name could not be opened; `None` when it does not exist.
    fn refused(&self, name: &str, wanted: FileType, error: &io::Error) -> Option<Vec<Diagnostic>> {
        let path = self.path.join(name);
        if error.kind() == io::ErrorKind::NotFound {
            return None;
        }
        match file::metadata_at(&self.fd, name) {
            Ok(metadata) => check_kind(&path, metadata.kind, wanted).err(),
            Err(_) => None,
        }
        .or_else(|| Some(unreadable(&path, error)))
    }
}

impl Folder for Directory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Result<Vec<OsString>, Vec<Diagnostic>> {
        file::names(&self.fd).map_err(|error| unreadable(&self.path, &error))
    }

    fn file(&self, name: &str) -> Result<Option<Source>, Vec<Diagnostic>> {
        let path = self.path.join(name);
        let fd = match file::open_file_at(&self.fd, name) {
            Ok(fd) => fd,
            Err(error) => return self.refused(name, FileType::RegularFile, &error).map_or(Ok(None), Err),
        };
        let metadata = file::metadata(&fd).map_err(|error| unreadable(&path, &error))?;
        check_kind(&path, metadata.kind, FileType::RegularFile)?;
        check_owner(&path, metadata)?;
        if usize::try_from(metadata.size).map_or(true, |size| size > MAX_FILE) {
            return Err(vec![Diagnostic::whole(&path, too_large(metadata.size))]);
        }
        // The file may have grown since. With one byte more than the bound, `Source` refuses it.
        let bytes = file::read_bounded(fd, MAX_FILE + 1).map_err(|error| unreadable(&path, &error))?;
        Source::new(path, bytes).map(Some)
    }

    fn folder(&self, name: &str) -> Result<Option<Self>, Vec<Diagnostic>> {
        match file::open_dir_at(&self.fd, name) {
            Ok(fd) => Self::trusted(self.path.join(name), fd).map(Some),
            Err(error) => self.refused(name, FileType::Directory, &error).map_or(Ok(None), Err),
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Vec<Diagnostic> {
    vec![Diagnostic::whole(path, Problem::new(format!("cannot be read: {error}")))]
}

fn check_kind(path: &Path, found: FileType, wanted: FileType) -> Result<(), Vec<Diagnostic>> {
    if found == wanted {
        return Ok(());
    }
    let wanted = if wanted == FileType::Directory { "directory" } else { "file" };
    let problem = match found {
        FileType::Symlink => Problem::new(format!("this is a symbolic link, not a {wanted}")).hint(format!(
            "put the {wanted} itself here; whoever can change where a link leads could change the policy"
        )),
        FileType::Directory => Problem::new("this is a directory, not a file"),
        FileType::RegularFile => Problem::new("this is a file, not a directory"),
        _ => Problem::new(format!("this is not a regular {wanted}")),
    };
    Err(vec![Diagnostic::whole(path, problem)])
}

/// Checks that only root can change a file or directory.
fn check_owner(path: &Path, metadata: Metadata) -> Result<(), Vec<Diagnostic>> {
    let shown = path.display();
    let problem = if metadata.uid != 0 {
        Problem::new(format!("the owner is user {}, not root, and could change the policy", metadata.uid))
            .hint(format!("chown root:root {shown}"))
    } else if metadata.mode & 0o022 != 0 {
        Problem::new(format!("others than root can write it (mode {:04o}) and change the policy", metadata.mode))
            .hint(format!("chmod go-w {shown}"))
    } else {
        return Ok(());
    };
    Err(vec![Diagnostic::whole(path, problem)])
}

/// A directory in memory. The files have their paths below the configuration directory.
#[derive(Debug)]
pub(crate) struct Memory<'a> {
    path: PathBuf,
    files: Rc<BTreeMap<&'a Path, &'a [u8]>>,
}

impl<'a> Memory<'a> {
    pub(crate) fn new<C: AsRef<[u8]>>(files: &'a [(PathBuf, C)]) -> Self {
        let files = files.iter().map(|(path, content)| (path.as_path(), content.as_ref())).collect();
        Self { path: PathBuf::new(), files: Rc::new(files) }
    }
}

impl Folder for Memory<'_> {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Result<Vec<OsString>, Vec<Diagnostic>> {
        let inside = self.files.keys().filter(|path| path.parent() == Some(&self.path));
        Ok(inside.filter_map(|path| path.file_name()).map(OsStr::to_owned).collect())
    }

    fn file(&self, name: &str) -> Result<Option<Source>, Vec<Diagnostic>> {
        let path = self.path.join(name);
        let content = self.files.get(path.as_path()).copied();
        content.map(|content| Source::new(path, content.to_vec())).transpose()
    }

    fn folder(&self, name: &str) -> Result<Option<Self>, Vec<Diagnostic>> {
        Ok(Some(Self { path: self.path.join(name), files: Rc::clone(&self.files) }))
    }
}
