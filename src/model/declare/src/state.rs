//! Declares a tenant active or suspended.

use crate::edit::edit_document;
use crate::error::DeclareError;
use crate::files::{TenantFiles, file_name};
use crate::lines::edit_lines;
use bailiwick_types::TenantName;

/// The state that a tenant's file is to declare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateChange {
    /// The tenant may run.
    Activate,
    /// It is to be down, or read-only for the doors that stay open.
    Suspend {
        /// Why; the reason that the file gives stays when `None`.
        reason: Option<String>,
    },
}

/// What became of a tenant's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileChange {
    /// It was written.
    Written,
    /// It said so already.
    Unchanged,
}

impl TenantFiles {
    /// Declares a tenant active or suspended, if its file does not say so already. Comments and order of the file stay. A file that is
    /// no TOML is changed too: a tenant can be suspended whatever its file looks like.
    ///
    /// # Errors
    /// [`DeclareError::NoTenant`], [`DeclareError::Read`], [`DeclareError::Write`], or [`DeclareError::Invalid`] when the file has more
    /// problems than before; it is as it was then.
    pub fn set_state(&self, tenant: &TenantName, change: &StateChange) -> Result<FileChange, DeclareError> {
        let file = file_name(tenant);
        let before = self.read(&file)?.ok_or_else(|| DeclareError::NoTenant { tenant: tenant.clone() })?;
        let text = std::str::from_utf8(&before).ok();
        match text.and_then(|text| Some((text, edit_document(text, change).ok()?))) {
            Some((before, after)) if after == before => return Ok(FileChange::Unchanged),
            Some((_, after)) => self.install(tenant, &after)?,
            // It reads as a tenant neither before nor after this, and is believed all the same.
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
    fn a_state_is_written_once_whatever_the_file_looks_like() {
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
