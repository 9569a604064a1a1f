//! Writes a tenant's file, checks the resulting policy, and restores the old file when there are more problems than before.

use crate::error::DeclareError;
use crate::files::{TenantFiles, file_name};
use bailiwick_types::TenantName;

impl TenantFiles {
    /// Writes a tenant's file. Restores the old file when the new one has more problems. Problems that were there before do not
    /// count: a change of the operator must not wait for the repair of something else.
    pub(crate) fn install(&self, tenant: &TenantName, content: &str) -> Result<(), DeclareError> {
        let file = file_name(tenant);
        let before = self.read(&file)?;
        let problems = || bailiwick_policy::read_tenant(&self.config, tenant).err().unwrap_or_default();
        let problems_before = if before.is_some() { problems().len() } else { 0 };
        self.write(&file, content.as_bytes())?;
        let diagnostics = problems();
        if diagnostics.len() <= problems_before {
            return Ok(());
        }
        let restored = match before {
            Some(before) => self.write(&file, &before),
            None => self.remove(&file),
        };
        Err(DeclareError::Invalid { diagnostics, not_restored: restored.err().map(Box::new) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::create::NewTenant;
    use crate::fixture::{ALICE, config, name, new_tenant, tenant_file};

    #[test]
    fn a_file_that_is_no_valid_tenant_is_undone() {
        let config = config();
        let files = TenantFiles::open(config.path()).expect("opens");
        let bad = NewTenant { ssh_keys: vec!["no key".to_owned()], ..new_tenant("small") };
        let error = files.prepare(name("bob"), bad).expect("is free").write().expect_err("no key");
        assert!(matches!(error, DeclareError::Invalid { not_restored: None, .. }), "{error:?}");
        assert_eq!(tenant_file(&config, "bob.toml"), None);

        let error = files.install(&name("alice"), "plan = \"huge\"\n").expect_err("no plan");
        assert!(matches!(error, DeclareError::Invalid { not_restored: None, .. }), "{error:?}");
        assert_eq!(tenant_file(&config, "alice.toml").as_deref(), Some(ALICE));
    }
}
