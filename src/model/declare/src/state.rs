//! Changes the declared state of a tenant.

use crate::edit::edit_document;
use crate::error::DeclareError;
use crate::files::{TenantFiles, file_name};
use crate::lines::edit_lines;
use bailiwick_types::TenantName;

/// The new state for a tenant's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateChange {
    /// The tenant is active.
    Activate,
    /// The tenant is suspended: its jail is down, or read-only for the doors that stay open.
    Suspend {
        /// The reason. `None` leaves the reason in the file as it is.
        reason: Option<String>,
    },
}

/// Whether a tenant's file was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileChange {
    /// The file was written.
    Written,
    /// The file declared the state already.
    Unchanged,
}

impl TenantFiles {
    /// Changes the state in a tenant's file, unless the file declares it already. Comments and order stay. A file that is no
    /// TOML is changed too, because an operator must be able to suspend every tenant.
    ///
    /// # Errors
    /// [`DeclareError::NoTenant`], [`DeclareError::Read`], [`DeclareError::Write`], or [`DeclareError::Invalid`] when the file
    /// would have more problems than before. Then it is left as it was.
    pub fn set_state(&self, tenant: &TenantName, change: &StateChange) -> Result<FileChange, DeclareError> {
        let file = file_name(tenant);
        let before = self.read(&file)?.ok_or_else(|| DeclareError::NoTenant { tenant: tenant.clone() })?;
        let text = std::str::from_utf8(&before).ok();
        match text.and_then(|text| Some((text, edit_document(text, change).ok()?))) {
            Some((before, after)) if after == before => return Ok(FileChange::Unchanged),
            Some((_, after)) => self.install(tenant, &after)?,
            // The file is no valid tenant before or after this. The daemons read its suspension all the same.
            None => {
                let after = edit_lines(&before, change);
                if after == before {
                    return Ok(FileChange::Unchanged);
                }
                self.write(&file, &after)?;
            }
        }
        Ok(FileChange::Written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{ALICE, config, name, tenant_file, unpaid};

    #[test]
    fn a_state_is_written_once_even_into_a_file_that_is_no_toml() {
        let config = config();
        let files = TenantFiles::open(config.path()).expect("opens");
        let alice = name("alice");
        for text in [ALICE, "plan = \"small\nmemory"] {
            files.write("alice.toml", text.as_bytes()).expect("writes");
            assert_eq!(files.set_state(&alice, &unpaid()).expect("is there"), FileChange::Written);
            assert!(tenant_file(&config, "alice.toml").expect("is there").contains("state = \"suspended\""));
            assert_eq!(files.set_state(&alice, &unpaid()).expect("is there"), FileChange::Unchanged);
            assert_eq!(files.set_state(&alice, &StateChange::Activate).expect("is there"), FileChange::Written);
            assert_eq!(tenant_file(&config, "alice.toml").as_deref(), Some(text));
        }
        let error = files.set_state(&name("ghost"), &unpaid()).expect_err("no file");
        assert!(matches!(error, DeclareError::NoTenant { .. }), "{error:?}");
    }
}
