//! Creates the file of a new tenant.

use crate::error::DeclareError;
use crate::files::{TenantFiles, exists, file_name};
use bailiwick_types::{Door, LoginName, PlanName, Profile, TenantName};
use toml_edit::{Array, DocumentMut, Item, Table, value};

/// The content of the file of a new tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTenant {
    /// Its plan.
    pub plan: PlanName,
    /// Its profile; that of its plan when `None`.
    pub profile: Option<Profile>,
    /// The name of its user inside; the tenant's name when `None`.
    pub login: Option<LoginName>,
    /// The keys that may log in, each a line of `authorized_keys`. Blanks around a line are removed.
    pub ssh_keys: Vec<String>,
}

/// A tenant that can be created: it has no file, and its plan exists. Nothing is written yet.
#[derive(Debug)]
pub struct Creation<'a> {
    files: &'a TenantFiles,
    tenant: TenantName,
    declared: NewTenant,
}

impl TenantFiles {
    /// Checks that a tenant can be created. Only the daemon knows whether a user of the host has the name, so the caller must
    /// ask it before [`Creation::write`].
    ///
    /// # Errors
    /// [`DeclareError::Exists`], [`DeclareError::NoPlan`], or [`DeclareError::Inspect`] when neither is certain.
    pub fn prepare(&self, tenant: TenantName, declared: NewTenant) -> Result<Creation<'_>, DeclareError> {
        let file = file_name(&tenant);
        if self.has(&file)? {
            return Err(DeclareError::Exists { tenant, path: self.path(&file) });
        }
        self.require_plan(&declared.plan)?;
        Ok(Creation { files: self, tenant, declared })
    }

    fn require_plan(&self, plan: &PlanName) -> Result<(), DeclareError> {
        let file = format!("plans.d/{plan}.toml");
        match exists(&self.config_dir, &file) {
            Ok(true) => Ok(()),
            Ok(false) => Err(DeclareError::NoPlan { plan: plan.clone(), path: self.config.join(&file) }),
            Err(source) => Err(DeclareError::Inspect { path: self.config.join("plans.d"), source }),
        }
    }
}

impl Creation<'_> {
    /// Whether the tenant would have a host user, because the plan in force opens a door of sshd. `false` when the plan cannot
    /// be read.
    #[must_use]
    pub fn has_host_user(&self) -> bool {
        let policy = bailiwick_policy::Store::new(&self.files.config).read().policy;
        let plan = policy.and_then(|mut policy| policy.plans.remove(&self.declared.plan));
        plan.is_some_and(|plan| plan.settings.doors.iter().any(|door| matches!(door, Door::Ssh | Door::Sftp)))
    }

    /// Writes the file. The tenant is declared active.
    ///
    /// # Errors
    /// [`DeclareError::Invalid`] when the file is no valid tenant. Then it is removed again. Else [`DeclareError::Read`] or
    /// [`DeclareError::Write`].
    pub fn write(self) -> Result<(), DeclareError> {
        self.files.install(&self.tenant, &self.declared.text())
    }
}

impl NewTenant {
    fn text(&self) -> String {
        let mut document = DocumentMut::new();
        document["plan"] = value(self.plan.as_str());
        document["state"] = value("active");
        if let Some(profile) = self.profile {
            document["profile"] = value(profile.word());
        }
        let mut login = Table::new();
        if let Some(user) = &self.login {
            login["user"] = value(user.as_str());
        }
        if !self.ssh_keys.is_empty() {
            login["ssh_keys"] = value(self.ssh_keys.iter().map(|key| key.trim()).collect::<Array>());
        }
        if !login.is_empty() {
            document["login"] = Item::Table(login);
        }
        document.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{config, name, new_tenant, tenant_file};

    #[test]
    fn the_file_holds_every_setting_that_was_given() {
        assert_eq!(new_tenant("small").text(), "plan = \"small\"\nstate = \"active\"\n");
        let all = NewTenant {
            profile: Some(Profile::Shell),
            login: Some("al".parse().expect("valid")),
            ssh_keys: vec!["ssh-ed25519 AAAA a".to_owned(), " ssh-ed25519 BBBB b\n".to_owned()],
            ..new_tenant("small")
        };
        let golden = "plan = \"small\"\nstate = \"active\"\nprofile = \"shell\"\n\n[login]\nuser = \"al\"\n\
                      ssh_keys = [\"ssh-ed25519 AAAA a\", \"ssh-ed25519 BBBB b\"]\n";
        assert_eq!(all.text(), golden);
    }

    #[test]
    fn an_existing_tenant_and_one_without_a_plan_are_refused() {
        let config = config();
        let files = TenantFiles::open(config.path()).expect("opens");
        let create = |tenant: &str, plan: &str| files.prepare(name(tenant), new_tenant(plan))?.write();
        create("bob", "small").expect("is free");
        assert_eq!(tenant_file(&config, "bob.toml").as_deref(), Some("plan = \"small\"\nstate = \"active\"\n"));
        assert!(matches!(create("bob", "small"), Err(DeclareError::Exists { .. })));
        assert!(matches!(create("carol", "huge"), Err(DeclareError::NoPlan { .. })));
        assert_eq!(tenant_file(&config, "carol.toml"), None);
    }

    #[test]
    fn a_tenant_has_a_host_user_where_its_plan_opens_a_door_of_sshd() {
        let config = config();
        let files = TenantFiles::open(config.path()).expect("opens");
        for (plan, has_host_user) in [("small", false), ("ssh", true)] {
            let creation = files.prepare(name("bob"), new_tenant(plan)).expect("is free");
            assert_eq!(creation.has_host_user(), has_host_user, "{plan}");
        }
    }
}
