//! Deletes a tenant by renaming its file, and removes that file once the tenant's data is gone.

use crate::daemon::DaemonRequests;
use crate::error::DeclareError;
use crate::files::{TenantFiles, deleted_name, file_name};
use bailiwick_types::TenantName;
use std::path::{Path, PathBuf};

/// The result of [`delete`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletion {
    /// The tenant is deleted. Its data stays, and moving its file back restores the tenant.
    Done {
        /// The former path of its file.
        file: PathBuf,
        /// The present path of its file.
        deleted_file: PathBuf,
    },
    /// The tenant was deleted earlier, and its data was not purged.
    DoneBefore,
    /// There is no tenant of this name, and no deleted one.
    NoTenant,
}

/// Deletes a tenant: stops its jail, renames its file so that the daemons skip it, and makes the daemon read the policy again.
/// The data of the tenant stays.
///
/// This function opens and locks the folder, so the caller must hold no [`TenantFiles`].
///
/// # Errors
/// The error of the step that failed. Later steps are not tried, so a tenant keeps its file when its jail cannot be stopped.
pub fn delete<D: DaemonRequests>(config: &Path, tenant: &TenantName, daemon: &D) -> Result<Deletion, D::Error> {
    let files = TenantFiles::open(config)?;
    let is_declared = files.has(&file_name(tenant))?;
    let was_deleted = files.has(&deleted_name(tenant))?;
    // Stopping may take long, and other commands must not wait for it.
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
    /// Renames a tenant's file so that the daemons skip it.
    fn set_aside(&self, tenant: &TenantName) -> Result<Deletion, DeclareError> {
        let (file, deleted_file) = (file_name(tenant), deleted_name(tenant));
        if let Some(content) = self.read(&file)? {
            self.write(&deleted_file, &content)?;
            self.remove(&file)?;
        }
        Ok(Deletion::Done { file: self.path(&file), deleted_file: self.path(&deleted_file) })
    }

    /// Removes the file of a deleted tenant for good. A missing file is no error. Call this after the data is purged, because
    /// until then the file can restore the tenant.
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
        assert_eq!(daemon.asked().len(), 2, "the daemon got no further request");
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
