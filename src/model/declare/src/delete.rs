//! Sets the file of a tenant aside, and removes it for good once its data is gone.

use crate::daemon::DaemonRequests;
use crate::error::DeclareError;
use crate::files::{TenantFiles, deleted_name, file_name};
use bailiwick_types::TenantName;
use std::path::{Path, PathBuf};

/// What [`delete`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletion {
    /// The tenant is deleted. Its data is kept, and its file back in its place is the tenant back.
    Done {
        /// Where its file was.
        file: PathBuf,
        /// Where its file is.
        deleted_file: PathBuf,
    },
    /// It was deleted earlier, and its data was not purged.
    DoneBefore,
    /// There is no file of a tenant of this name, nor of a deleted one.
    NoTenant,
}

/// Deletes a tenant: stops its jail, moves its file to a name that nobody reads, and has the daemon read that. Its data is kept.
///
/// Opens and locks the folder itself: the caller must hold no [`TenantFiles`].
///
/// # Errors
/// Of the step that failed. The later ones were not tried: a jail that cannot be stopped keeps its file.
pub fn delete<D: DaemonRequests>(config: &Path, tenant: &TenantName, daemon: &D) -> Result<Deletion, D::Error> {
    let files = TenantFiles::open(config)?;
    let is_declared = files.has(&file_name(tenant))?;
    let was_deleted = files.has(&deleted_name(tenant))?;
    // Stopping may take long, and other commands need not wait for it.
    drop(files);
    if !is_declared {
        return Ok(if was_deleted { Deletion::DoneBefore } else { Deletion::NoTenant });
    }
    daemon.stop(tenant)?;
    let deletion = TenantFiles::open(config)?.set_aside(tenant)?;
    daemon.reload()?;
    Ok(deletion)
}

impl TenantFiles {
    /// Moves a tenant's file to a name that nobody reads.
    fn set_aside(&self, tenant: &TenantName) -> Result<Deletion, DeclareError> {
        let (file, deleted_file) = (file_name(tenant), deleted_name(tenant));
        if let Some(content) = self.read(&file)? {
            self.write(&deleted_file, &content)?;
            self.remove(&file)?;
        }
        Ok(Deletion::Done { file: self.path(&file), deleted_file: self.path(&deleted_file) })
    }

    /// Removes the file of a deleted tenant for good. For when its data is purged: until then the file is what brings it back.
    /// One that is not there is no error.
    ///
    /// # Errors
    /// [`DeclareError::Remove`].
    pub fn remove_deleted(&self, tenant: &TenantName) -> Result<(), DeclareError> {
        self.remove(&deleted_name(tenant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{ALICE, FakeDaemon, FakeError, config, name, tenant_file};

    #[test]
    fn a_file_is_set_aside_between_the_stop_and_the_reload() {
        let config = config();
        let alice = name("alice");
        let daemon = FakeDaemon::new(&config, "alice.toml");
        let folder = config.path().join("tenants.d");
        let done = Deletion::Done { file: folder.join("alice.toml"), deleted_file: folder.join(".alice.toml.deleted") };
        assert_eq!(delete(config.path(), &alice, &daemon), Ok(done));
        assert_eq!(daemon.asked(), ["stop alice, with a file", "reload, without a file"]);
        assert_eq!(tenant_file(&config, ".alice.toml.deleted").as_deref(), Some(ALICE));
        assert_eq!(delete(config.path(), &alice, &daemon), Ok(Deletion::DoneBefore));

        let files = TenantFiles::open(config.path()).expect("opens");
        assert!(files.deleted_file(&alice).expect("looks").is_some());
        files.remove_deleted(&alice).expect("removes");
        assert_eq!(files.deleted_file(&alice).expect("looks"), None);
        drop(files);
        assert_eq!(delete(config.path(), &alice, &daemon), Ok(Deletion::NoTenant));
        assert_eq!(daemon.asked().len(), 2, "nothing more was asked");
    }

    #[test]
    fn a_jail_that_cannot_be_stopped_keeps_its_file() {
        let config = config();
        let daemon = FakeDaemon::new(&config, "alice.toml").failing("stop");
        assert_eq!(delete(config.path(), &name("alice"), &daemon), Err(FakeError("stop".to_owned())));
        assert_eq!(daemon.asked(), ["stop alice, with a file"]);
        assert_eq!(tenant_file(&config, "alice.toml").as_deref(), Some(ALICE));
    }
}
