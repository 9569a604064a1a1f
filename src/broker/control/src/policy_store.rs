//! The policy in force: read from the operator's files. Where a file has an error, its last valid content stays in
//! force.

use crate::ftp;
use crate::reconcile;
use crate::sync::{Wake, lock};
use bailiwick_plan::lifecycle::Declaration;
use bailiwick_policy::{Diagnostic, Host, LastGood, Policy, Reading, Store, Tenant};
use bailiwick_proto::control::PolicyStatus;
use bailiwick_proto::{CONTROL_DIR, Failure, Refusal};
use bailiwick_types::{Door, ExitStatus, Limits, TenantName};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::{info, warn};

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The policy is not usable at all.
    #[error("{}", bailiwick_diagnostics::render(.0))]
    Policy(Vec<Diagnostic>),
}

/// The policy in force.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) policy: Policy,
    /// Tenants whose files have errors. `policy` has their last valid declaration. Tenants without one are left exactly
    /// as they are.
    pub(crate) invalid: BTreeSet<TenantName>,
    last_good: LastGood,
    pub(crate) problems: Vec<String>,
    /// The fingerprint of the files at the last reading.
    fingerprint: u64,
    read_at: SystemTime,
    pub(crate) readings: u64,
    readings_with_problems: u64,
}

impl Loaded {
    pub(crate) fn is_last_good(&self, tenant: &Tenant) -> bool {
        self.last_good.tenants.contains(&tenant.name) || self.last_good.plans.contains(&tenant.plan)
    }

    pub(crate) fn declaration(&self, name: &TenantName) -> Declaration<'_> {
        reconcile::declaration(&self.policy, &self.invalid, name)
    }

    /// Whether a tenant's file has errors and no earlier declaration is known.
    pub(crate) fn has_nothing_of(&self, name: &TenantName) -> bool {
        self.invalid.contains(name) && !self.policy.tenants.contains_key(name)
    }
}

/// The policy of the host.
#[derive(Debug)]
pub(crate) struct PolicyStore {
    config: PathBuf,
    store: Mutex<Store>,
    loaded: Mutex<Loaded>,
    /// The directory of the FTP servers' database of logins, which each reading writes again.
    logins_dir: PathBuf,
    /// Wakes those who follow the policy, after each reading.
    followers: Vec<Wake>,
    /// Wakes the service that has the policy copied.
    was_read: Wake,
}

impl PolicyStore {
    /// Reads the policy.
    ///
    /// # Errors
    /// When `bailiwick.toml` is unusable and no earlier version of it is known. A tenant's file with errors affects
    /// that tenant alone.
    pub(crate) fn open(config: &Path, followers: Vec<Wake>) -> Result<Self, OpenError> {
        let mut store = Store::new(config);
        let fingerprint = bailiwick_policy::fingerprint(config);
        let Reading { policy, diagnostics, invalid, last_good } = store.read();
        let problems = log_problems(&diagnostics);
        log_new_problems(&[], &problems);
        let policy = policy.ok_or(OpenError::Policy(diagnostics))?;
        let readings_with_problems = u64::from(!problems.is_empty());
        let logins_dir = policy.host.runtime_dir.join(CONTROL_DIR);
        let loaded = Loaded {
            policy,
            invalid,
            last_good,
            problems,
            fingerprint,
            read_at: SystemTime::now(),
            readings: 1,
            readings_with_problems,
        };
        Ok(Self {
            config: config.to_owned(),
            store: Mutex::new(store),
            loaded: Mutex::new(loaded),
            logins_dir,
            followers,
            was_read: Wake::default(),
        })
    }

    /// The policy in force. Nothing is awaited while the lock is held.
    pub(crate) fn loaded(&self) -> MutexGuard<'_, Loaded> {
        lock(&self.loaded)
    }

    /// The host as last declared.
    pub(crate) fn host(&self) -> Host {
        self.loaded().policy.host.clone()
    }

    /// The declared limits of a tenant.
    pub(crate) fn limits(&self, tenant: &TenantName) -> Option<Limits> {
        self.loaded().policy.tenants.get(tenant).map(|tenant| tenant.settings.limits.clone())
    }

    /// A tenant as last declared.
    pub(crate) fn declared(&self, name: &TenantName) -> Result<Tenant, Failure> {
        let loaded = self.loaded();
        match loaded.policy.tenants.get(name) {
            Some(tenant) => Ok(tenant.clone()),
            None if loaded.invalid.contains(name) => Err(without_policy(name)),
            None => Err(unknown(name)),
        }
    }

    /// The tenants that have timers or may have a crontab.
    pub(crate) fn tenants_with_timers(&self) -> Vec<Arc<Tenant>> {
        let loaded = self.loaded();
        let meant = |tenant: &&Tenant| !tenant.timers.is_empty() || tenant.settings.doors.contains(&Door::Cron);
        loaded.policy.tenants.values().filter(meant).cloned().map(Arc::new).collect()
    }

    /// Reads the policy again and logs every problem. A file with an error keeps its last valid content:
    /// `bailiwick.toml`, a plan or a tenant.
    ///
    /// # Errors
    /// Returns all problems. The rest of the policy is in force anyway.
    pub(crate) fn reload(&self) -> Result<(), Failure> {
        let fingerprint = bailiwick_policy::fingerprint(&self.config);
        let Reading { policy, diagnostics, invalid, last_good } = lock(&self.store).read();
        let problems = log_problems(&diagnostics);
        let failure = (!problems.is_empty())
            .then(|| Failure::of(ExitStatus::Invalid, bailiwick_diagnostics::render(&diagnostics)));
        let mut loaded = self.loaded();
        log_new_problems(&loaded.problems, &problems);
        if !loaded.problems.is_empty() && problems.is_empty() {
            info!(target: "bailiwick::event", event = "policy-repaired", "the policy has no error any more");
        }
        loaded.readings += 1;
        loaded.readings_with_problems += u64::from(!problems.is_empty());
        loaded.read_at = SystemTime::now();
        loaded.fingerprint = fingerprint;
        loaded.problems = problems;
        if let Some(policy) = policy {
            loaded.policy = policy;
            loaded.invalid = invalid;
            loaded.last_good = last_good;
            self.followers.iter().for_each(Wake::wake);
            self.write_logins(&loaded.policy);
        }
        drop(loaded);
        // The text of all files, and what was declared before.
        bailiwick_sys::process::give_back_memory();
        self.was_read.wake();
        failure.map_or(Ok(()), Err)
    }

    pub(crate) fn write_logins(&self, policy: &Policy) {
        if let Err(failure) = ftp::write_logins(&self.logins_dir, policy) {
            warn!(event = "logins-not-written", "{failure}");
        }
    }

    /// The state of the policy. `refused` is the number of refused sessions.
    pub(crate) fn status(&self, refused: u64) -> PolicyStatus {
        let loaded = self.loaded();
        let LastGood { host, plans, .. } = &loaded.last_good;
        let last_good = loaded.policy.tenants.values().filter(|tenant| loaded.is_last_good(tenant));
        PolicyStatus {
            read_at: loaded.read_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            readings: loaded.readings,
            readings_with_problems: loaded.readings_with_problems,
            problems: loaded.problems.len() as u64,
            host_is_last_good: *host,
            last_good_plans: plans.iter().cloned().collect(),
            last_good_tenants: last_good.map(|tenant| tenant.name.clone()).collect(),
            without_policy: loaded.invalid.iter().filter(|name| loaded.has_nothing_of(name)).cloned().collect(),
            refused,
        }
    }

    /// The tenants with copies that an earlier daemon had written.
    pub(crate) fn copied(&self) -> BTreeSet<TenantName> {
        lock(&self.store).saved_tenants().into_iter().collect()
    }

    /// Returns when the policy was read again since the last return.
    pub(crate) async fn was_read(&self) {
        self.was_read.wait().await;
    }

    /// Whether the operator's files differ from those of the last reading.
    pub(crate) async fn files_changed(&self) -> bool {
        let before = self.loaded().fingerprint;
        let config = self.config.clone();
        // There may be thousands of files, and this thread serves all clients.
        let now = tokio::task::spawn_blocking(move || bailiwick_policy::fingerprint(&config)).await;
        now.is_ok_and(|now| now != before)
    }
}

pub(crate) fn unknown(name: &TenantName) -> Failure {
    Refusal::UnknownTenant { tenant: name.clone() }.into()
}

pub(crate) fn without_policy(name: &TenantName) -> Failure {
    let message = format!("the file of \"{name}\" has errors, and nothing is known from before; see `bailiwick check`");
    Failure::of(ExitStatus::Invalid, message)
}

/// Logs once how many problems are new, with the first of them.
fn log_new_problems(before: &[String], now: &[String]) {
    let before: BTreeSet<&String> = before.iter().collect();
    let mut new = now.iter().filter(|problem| !before.contains(problem)).peekable();
    if let Some(first) = new.peek().copied() {
        let count = new.count();
        warn!(target: "bailiwick::event", event = "policy-invalid", count, first, "the policy has {count} new problems, the first is: {first}");
    }
}

fn log_problems(diagnostics: &[Diagnostic]) -> Vec<String> {
    let problems: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    for problem in &problems {
        warn!(event = "policy-problem", "{problem}");
    }
    problems
}
