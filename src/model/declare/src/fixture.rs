//! A fixture for the tests of this crate: a configuration with two plans and the tenant alice, and a daemon that records its
//! requests.

use crate::{DaemonRequests, DeclareError, NewTenant, StateChange};
use bailiwick_types::TenantName;
use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tempfile::TempDir;

pub(crate) const ALICE: &str = "# a good customer\nplan  = \"small\"  # since May\nstate = \"active\" # for now\n\n[limits] # more\nmemory = \"2G\"\n";

/// A configuration directory.
pub(crate) fn config() -> TempDir {
    let temp = tempfile::tempdir().expect("temporary directory");
    for (file, content) in [
        ("bailiwick.toml", ""),
        ("plans.d/small.toml", "profile = \"web\"\n"),
        ("plans.d/ssh.toml", "doors = [\"ssh\"]\n"),
        ("tenants.d/alice.toml", ALICE),
    ] {
        let path = temp.path().join(file);
        fs::create_dir_all(path.parent().expect("has a parent")).expect("directory");
        fs::write(&path, content).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
    }
    temp
}

pub(crate) fn tenant_file(config: &TempDir, file: &str) -> Option<String> {
    fs::read_to_string(config.path().join("tenants.d").join(file)).ok()
}

pub(crate) fn name(text: &str) -> TenantName {
    text.parse().expect("valid")
}

pub(crate) fn new_tenant(plan: &str) -> NewTenant {
    NewTenant { plan: plan.parse().expect("valid"), profile: None, login: None, ssh_keys: Vec::new() }
}

pub(crate) fn unpaid() -> StateChange {
    StateChange::Suspend { reason: Some("unpaid \"twice\"".to_owned()) }
}

/// A daemon that only records its requests.
pub(crate) struct FakeDaemon {
    /// The file that it looks for at each request.
    file: PathBuf,
    asked: RefCell<Vec<String>>,
    /// The request that fails.
    fails: Option<&'static str>,
}

/// The request that failed, or what was wrong with a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FakeError(pub(crate) String);

impl From<DeclareError> for FakeError {
    fn from(error: DeclareError) -> Self {
        Self(error.to_string())
    }
}

impl FakeDaemon {
    pub(crate) fn new(config: &TempDir, file: &str) -> Self {
        Self { file: config.path().join("tenants.d").join(file), asked: RefCell::default(), fails: None }
    }

    pub(crate) fn failing(self, request: &'static str) -> Self {
        Self { fails: Some(request), ..self }
    }

    /// All requests so far, and whether the file was there.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }

    fn answer(&self, request: &str, text: &str) -> Result<(), FakeError> {
        let with = if self.file.exists() { "with" } else { "without" };
        self.asked.borrow_mut().push(format!("{text}, {with} a file"));
        if self.fails == Some(request) { Err(FakeError(request.to_owned())) } else { Ok(()) }
    }
}

impl DaemonRequests for FakeDaemon {
    type Error = FakeError;

    fn stop(&self, tenant: &TenantName) -> Result<(), FakeError> {
        self.answer("stop", &format!("stop {tenant}"))
    }

    fn reload(&self) -> Result<(), FakeError> {
        self.answer("reload", "reload")
    }

    fn purge(&self, tenant: &TenantName) -> Result<(), FakeError> {
        self.answer("purge", &format!("purge {tenant}"))
    }
}
