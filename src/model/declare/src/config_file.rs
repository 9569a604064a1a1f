//! Any file of the configuration directory, and its change in one step.

use crate::error::DeclareError;
use crate::files::{MAX_FILE, TenantFiles, file_name, write_at};
use bailiwick_sys::file;
use bailiwick_types::{PlanName, TenantName};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A file that an operator writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigFile {
    /// `bailiwick.toml`.
    Host,
    /// The file of a plan.
    Plan(PlanName),
    /// The file of a tenant.
    Tenant(TenantName),
}

impl ConfigFile {
    /// Its path below the configuration directory.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let folder = self.folder().map(Path::new).unwrap_or(Path::new(""));
        folder.join(self.name())
    }

    fn folder(&self) -> Option<&'static str> {
        match self {
            Self::Host => None,
            Self::Plan(_) => Some("plans.d"),
            Self::Tenant(_) => Some("tenants.d"),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Host => "bailiwick.toml".to_owned(),
            Self::Plan(plan) => format!("{plan}.toml"),
            Self::Tenant(tenant) => file_name(tenant),
        }
    }
}

impl TenantFiles {
    /// The content of a file.
    ///
    /// # Errors
    /// [`DeclareError::NoTenant`] and [`DeclareError::NoPlan`] when it does not exist, else [`DeclareError::Read`].
    pub fn content(&self, of: &ConfigFile) -> Result<Vec<u8>, DeclareError> {
        let read = || file::read_bounded(file::open_file_at(self.folder(of)?, of.name())?, MAX_FILE);
        read().map_err(|source| match (source.kind(), of) {
            (io::ErrorKind::NotFound, ConfigFile::Tenant(tenant)) => DeclareError::NoTenant { tenant: tenant.clone() },
            (io::ErrorKind::NotFound, ConfigFile::Plan(plan)) => {
                DeclareError::NoPlan { plan: plan.clone(), path: self.config.join(of.path()) }
            }
            _ => DeclareError::Read { path: self.config.join(of.path()), source },
        })
    }

    /// Writes a file in one step, if its content is still `before`. The owner, the group and the mode stay.
    ///
    /// The caller has checked what is written ([`bailiwick_policy::check_proposed`]).
    ///
    /// # Errors
    /// [`DeclareError::Changed`] when somebody has changed the file, the errors of [`Self::content`], or
    /// [`DeclareError::Write`].
    pub fn replace(&self, of: &ConfigFile, before: &[u8], after: &[u8]) -> Result<(), DeclareError> {
        let path = || self.config.join(of.path());
        if self.content(of)? != before {
            return Err(DeclareError::Changed { path: path() });
        }
        let write = || write_at(&self.folder(of)?, &of.name(), after);
        write().map_err(|source| DeclareError::Write { path: path(), source })
    }

    fn folder(&self, of: &ConfigFile) -> io::Result<OwnedFd> {
        match of.folder() {
            None => self.config_dir.try_clone(),
            Some(folder) => file::open_dir_at(&self.config_dir, folder),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{ALICE, config, name};
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_file_keeps_its_owner_and_mode_and_a_change_of_somebody_else() {
        let config = config();
        let files = TenantFiles::open(config.path()).expect("opens");
        for (file, is) in [
            (ConfigFile::Host, ""),
            (ConfigFile::Plan("small".parse().expect("a plan")), "profile = \"web\"\n"),
            (ConfigFile::Tenant(name("alice")), ALICE),
        ] {
            let path = config.path().join(file.path());
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
            let owner =
                |path: &Path| fs::metadata(path).map(|data| (data.uid(), data.gid(), data.mode())).expect("is there");
            let before = owner(&path);
            assert_eq!(files.content(&file).expect("reads"), is.as_bytes());
            files.replace(&file, is.as_bytes(), b"# new\n").expect("writes");
            assert_eq!((fs::read_to_string(&path).expect("reads").as_str(), owner(&path)), ("# new\n", before));
            let error = files.replace(&file, is.as_bytes(), b"# newer\n").expect_err("was changed");
            assert!(matches!(error, DeclareError::Changed { .. }), "{error:?}");
            assert_eq!(fs::read_to_string(&path).expect("reads"), "# new\n");
        }
        let ghost = files.content(&ConfigFile::Tenant(name("ghost"))).expect_err("no file");
        assert!(matches!(ghost, DeclareError::NoTenant { .. }), "{ghost:?}");
        let none = files.content(&ConfigFile::Plan("none".parse().expect("a plan"))).expect_err("no file");
        assert!(matches!(none, DeclareError::NoPlan { .. }), "{none:?}");
    }

    #[test]
    fn a_suspension_keeps_the_mode_of_a_file() {
        let config = config();
        let path = config.path().join("tenants.d/alice.toml");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        let files = TenantFiles::open(config.path()).expect("opens");
        files.set_state(&name("alice"), &crate::fixture::unpaid()).expect("writes");
        assert_eq!(fs::metadata(&path).expect("is there").mode() & 0o7777, 0o600);
    }
}
