//! The locked folder of tenants' files: looks up, reads, writes and removes files.

use crate::error::DeclareError;
use bailiwick_sys::file;
use bailiwick_types::TenantName;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

const MODE: u32 = 0o644;
pub(crate) const MAX_FILE: usize = 1 << 20;
/// How many times to try for the lock, and how long to pause between two tries. Another command holds it only while it changes
/// one file.
const TRIES: u32 = 250;
const PAUSE: Duration = Duration::from_millis(20);

/// The locked folder `tenants.d`. While the value lives, no other user of this library can change tenants' files.
///
/// ```
/// use bailiwick_declare::{DeclareError, FileChange, NewTenant, StateChange, TenantFiles};
/// use bailiwick_types::TenantName;
/// use std::path::Path;
///
/// /// Creates a tenant that is suspended from its first day.
/// fn create_suspended(config: &Path) -> Result<(), DeclareError> {
///     let alice: TenantName = "alice".parse().expect("a name of a tenant");
///     let plan = "small".parse().expect("a name of a plan");
///     let files = TenantFiles::open(config)?;
///     files.prepare(alice.clone(), NewTenant { plan, profile: None, login: None, ssh_keys: Vec::new() })?.write()?;
///     let suspend = StateChange::Suspend { reason: Some("not paid yet".to_owned()) };
///     assert_eq!(files.set_state(&alice, &suspend)?, FileChange::Written);
///     assert_eq!(files.set_state(&alice, &suspend)?, FileChange::Unchanged);
///     // Others may change the folder again, and the daemon may be asked to apply this.
///     drop(files);
///     Ok(())
/// }
/// # use std::fs;
/// # use std::os::unix::fs::PermissionsExt;
/// # let config = tempfile::tempdir().expect("temporary directory");
/// # fs::create_dir(config.path().join("plans.d")).expect("makes");
/// # for file in ["bailiwick.toml", "plans.d/small.toml"] {
/// #     fs::write(config.path().join(file), "").expect("writes");
/// #     fs::set_permissions(config.path().join(file), fs::Permissions::from_mode(0o644)).expect("chmod");
/// # }
/// create_suspended(config.path()).expect("the plan is there");
/// let text = fs::read_to_string(config.path().join("tenants.d/alice.toml")).expect("written");
/// assert_eq!(text, "plan = \"small\"\nstate = \"suspended\"\nsuspend_reason = \"not paid yet\"\n");
/// ```
#[derive(Debug)]
pub struct TenantFiles {
    /// The configuration directory as the caller gave it.
    pub(crate) config: PathBuf,
    /// The same, open.
    pub(crate) config_dir: OwnedFd,
    /// `tenants.d`, open and locked.
    pub(crate) dir: OwnedFd,
}

impl TenantFiles {
    /// Opens and locks `tenants.d` of a configuration directory, and makes the folder if it is missing. Blocks the thread for
    /// up to five seconds while another process holds the lock.
    ///
    /// # Errors
    /// [`DeclareError::Locked`] when the lock was not free in time, [`DeclareError::Open`] otherwise.
    pub fn open(config: &Path) -> Result<Self, DeclareError> {
        let path = config.join("tenants.d");
        match open_locked(config) {
            Ok((config_dir, dir)) => Ok(Self { config: config.to_owned(), config_dir, dir }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(DeclareError::Locked { path }),
            Err(source) => Err(DeclareError::Open { path, source }),
        }
    }

    /// Whether a tenant has a file.
    ///
    /// # Errors
    /// [`DeclareError::Inspect`] when that cannot be found out.
    pub fn is_declared(&self, tenant: &TenantName) -> Result<bool, DeclareError> {
        self.has(&file_name(tenant))
    }

    /// The path of a deleted tenant's file; `None` when no tenant of this name was deleted, or when its data was purged.
    ///
    /// # Errors
    /// [`DeclareError::Inspect`].
    pub fn deleted_file(&self, tenant: &TenantName) -> Result<Option<PathBuf>, DeclareError> {
        let file = deleted_name(tenant);
        Ok(self.has(&file)?.then(|| self.path(&file)))
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.config.join("tenants.d").join(file)
    }

    pub(crate) fn has(&self, file: &str) -> Result<bool, DeclareError> {
        exists(&self.dir, file).map_err(|source| DeclareError::Inspect { path: self.path(file), source })
    }

    /// The content of a file; `None` when it does not exist.
    pub(crate) fn read(&self, file: &str) -> Result<Option<Vec<u8>>, DeclareError> {
        match file::open_file_at(&self.dir, file).and_then(|fd| file::read_bounded(fd, MAX_FILE)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DeclareError::Read { path: self.path(file), source }),
        }
    }

    pub(crate) fn write(&self, file: &str, content: &[u8]) -> Result<(), DeclareError> {
        write_at(&self.dir, file, content).map_err(|source| DeclareError::Write { path: self.path(file), source })
    }

    /// Removes a file. A missing file is no error.
    pub(crate) fn remove(&self, file: &str) -> Result<(), DeclareError> {
        file::remove_file_at(&self.dir, file).map_err(|source| DeclareError::Remove { path: self.path(file), source })
    }
}

fn open_locked(config: &Path) -> io::Result<(OwnedFd, OwnedFd)> {
    let config_dir = file::open_dir(&config.canonicalize()?)?;
    let dir = file::ensure_dir_at(&config_dir, "tenants.d", 0o755)?;
    let mut tries = TRIES;
    loop {
        match file::lock(dir.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries > 0 => {
                tries -= 1;
                std::thread::sleep(PAUSE);
            }
            other => return other.map(|()| (config_dir, dir)),
        }
    }
}

/// Writes a file in one step. One that is there keeps its owner, its group and its mode.
pub(crate) fn write_at(dir: &OwnedFd, name: &str, content: &[u8]) -> io::Result<()> {
    match file::metadata_at(dir, name) {
        Ok(former) if former.kind == file::FileType::RegularFile => {
            file::replace_like_at(dir, name, content, former, file::Outlives::PowerCut)
        }
        Ok(_) => file::replace_at(dir, name, content, MODE, file::Outlives::PowerCut),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            file::replace_at(dir, name, content, MODE, file::Outlives::PowerCut)
        }
        Err(error) => Err(error),
    }
}

pub(crate) fn exists(dir: &OwnedFd, name: &str) -> io::Result<bool> {
    match file::metadata_at(dir, name) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The name of a tenant's file.
pub(crate) fn file_name(tenant: &TenantName) -> String {
    format!("{tenant}.toml")
}

/// The name for the file of a deleted tenant. The daemons skip it because it is hidden.
pub(crate) fn deleted_name(tenant: &TenantName) -> String {
    format!(".{tenant}.toml.deleted")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::config;

    #[test]
    fn two_commands_do_not_change_the_files_at_once() {
        let config = config();
        let first = TenantFiles::open(config.path()).expect("opens");
        let path = config.path().to_owned();
        let second = std::thread::spawn(move || TenantFiles::open(&path).map(drop));
        std::thread::sleep(PAUSE * 3);
        assert!(!second.is_finished());
        drop(first);
        second.join().expect("ends").expect("opens");
    }
}
