//! Crontabs: the tenants' own schedules, read regularly from within their jails.
//!
//! Danger: a tenant writes its crontab, and can have its init send anything. [`bailiwick_types::Crontab`] bounds what
//! is kept. Without a valid reply, the last known crontab stays. The crontab of a tenant that may sleep is kept in a file
//! as well: its jobs stay due when this program is replaced while the tenant has no init to ask.

use crate::init_client::CRONTABS;
use crate::job::Job;
use crate::sync::lock;
use bailiwick_plan::lifecycle;
use bailiwick_policy::Tenant;
use bailiwick_proto::init::CrontabFile;
use bailiwick_sys::file;
use bailiwick_types::{CRONTAB_JOB, Crontab, CrontabFault, MAX_CRONTAB, Moment, TenantName, TimerReport, TimerRun};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use tracing::{info, warn};

/// The directory with the crontabs of tenants that may sleep, beside the history: a file for each, of the tenant's name.
const DIR: &str = "crontabs";
/// The most bytes of such a file: JSON may need six bytes for one.
const MAX_FILE: usize = 8 * MAX_CRONTAB;

/// The known crontab of one tenant.
#[derive(Debug, Clone)]
struct Held {
    /// The stamp of the file; `None` when the file is unusable.
    stamp: Option<String>,
    crontab: Arc<Crontab>,
    /// The time of the last reading.
    read: Moment,
    /// Whether it was written to its file, or was to be.
    is_kept: bool,
}

/// A crontab in its file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    stamp: String,
    text: String,
    read: Moment,
}

/// The crontabs of the host.
#[derive(Debug)]
pub(crate) struct Crontabs {
    /// The directory for this program's own files.
    dir: PathBuf,
    held: Mutex<BTreeMap<TenantName, Held>>,
}

impl Crontabs {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, held: Mutex::default() }
    }

    /// Reads the crontabs that an earlier daemon kept of these tenants.
    pub(crate) fn restore(&self, tenants: &[Arc<Tenant>]) {
        let Ok(dir) = self.open() else { return };
        for tenant in tenants.iter().filter(|tenant| lifecycle::sleep(tenant).is_ok()) {
            let read = || -> io::Result<Kept> {
                let file = file::open_file_at(&dir, tenant.name.as_str())?;
                Ok(serde_json::from_slice(&file::read_bounded(file, MAX_FILE)?)?)
            };
            match read() {
                Ok(Kept { stamp, text, read }) => {
                    let crontab = Arc::new(Crontab::read(&text));
                    let held = Held { stamp: Some(stamp), crontab, read, is_kept: true };
                    self.held().insert(tenant.name.clone(), held);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    warn!(target: "bailiwick::event", tenant = %tenant.name, event = "crontab-forgotten", "the crontab of {} is not known until its jail runs: {error}", tenant.name);
                }
            }
        }
    }

    fn open(&self) -> io::Result<OwnedFd> {
        file::open_dir(&self.dir.join(DIR))
    }

    /// Writes a crontab to its file.
    fn keep(&self, tenant: &TenantName, kept: &Kept) {
        let write = || -> io::Result<()> {
            let dir = match self.open() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    file::make_dir_at(file::open_dir(&self.dir)?, DIR, 0o700)?;
                    self.open()?
                }
                dir => dir?,
            };
            let text = serde_json::to_vec(kept)?;
            file::replace_at(dir, tenant.as_str(), &text, 0o600, file::Outlives::Process)
        };
        if let Err(error) = write() {
            warn!(target: "bailiwick::event", tenant = %tenant, event = "crontab-not-kept", "cannot keep the crontab of {tenant} for the time that it sleeps: {error}");
        }
    }

    /// Removes the file of a crontab that is not known any more.
    fn drop_kept(&self, tenant: &TenantName, held: Option<&Held>) {
        if held.is_some_and(|held| held.is_kept) {
            // A file that stays is replaced when the tenant has a crontab again.
            drop(self.open().and_then(|dir| file::remove_file_at(dir, tenant.as_str())));
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<TenantName, Held>> {
        lock(&self.held)
    }

    /// The stamp of a tenant's crontab at its last reading; `None` if its text is needed again.
    pub(crate) fn stamp(&self, tenant: &Tenant) -> Option<String> {
        let held = self.held();
        let held = held.get(&tenant.name).filter(|held| held.is_kept || lifecycle::sleep(tenant).is_err());
        held.and_then(|held| held.stamp.clone())
    }

    /// The jobs in a tenant's crontab.
    pub(crate) fn jobs(&self, tenant: &Arc<Tenant>) -> Vec<Job> {
        let crontab = self.held().get(&tenant.name).map(|held| Arc::clone(&held.crontab));
        crontab.iter().flat_map(|crontab| &crontab.jobs).map(|line| Job::of_crontab(tenant, line)).collect()
    }

    /// The lines of a tenant's crontab that cannot run.
    pub(crate) fn faults(&self, tenant: &TenantName) -> Vec<TimerReport> {
        let Some(Held { crontab, read, .. }) = self.held().get(tenant).cloned() else { return Vec::new() };
        let row = |fault: &CrontabFault| {
            Some(TimerReport {
                tenant: tenant.clone(),
                timer: match fault.line {
                    Some(line) => format!("{CRONTAB_JOB}-line-{line}").parse().ok()?,
                    None => CRONTAB_JOB.parse().ok()?,
                },
                schedule: String::new(),
                command: String::new(),
                next: None,
                door_closed: false,
                last: Some(TimerRun { begun: read, ended: Some(read), status: None, refused: Some(fault.why.clone()) }),
            })
        };
        crontab.faults.iter().filter_map(row).collect()
    }

    /// Stores init's reply. Returns a message for the tenant when the crontab has errors.
    pub(crate) fn take(&self, tenant: &Tenant, file: CrontabFile, now: Moment) -> Option<String> {
        let (kept, crontab) = match file {
            CrontabFile::Same => return None,
            CrontabFile::Absent => {
                let held = self.held().remove(&tenant.name);
                self.drop_kept(&tenant.name, held.as_ref());
                return None;
            }
            CrontabFile::Unusable => {
                let why = format!(
                    "it is no plain file of {}'s on a path without links, or over {MAX_CRONTAB} bytes",
                    tenant.login.user
                );
                (None, Crontab { jobs: Vec::new(), faults: vec![CrontabFault { line: None, why }] })
            }
            CrontabFile::Text { stamp, text } => {
                let crontab = Crontab::read(&text);
                (Some(Kept { stamp, text, read: now }), crontab)
            }
        };
        let mut held = self.held();
        let known = held.get(&tenant.name).is_some_and(|held| held.stamp.is_none() && kept.is_none());
        if known {
            return None;
        }
        let is_kept = match &kept {
            Some(kept) if lifecycle::sleep(tenant).is_ok() => {
                self.keep(&tenant.name, kept);
                true
            }
            _ => {
                self.drop_kept(&tenant.name, held.get(&tenant.name));
                false
            }
        };
        let stamp = kept.map(|kept| kept.stamp);
        let (name, jobs, faults) = (&tenant.name, crontab.jobs.len(), crontab.faults.len());
        info!(target: "bailiwick::event", tenant = %name, event = "crontab-read", jobs, faults, "the crontab of {name} has {jobs} jobs, and {faults} lines that are not run");
        let complaint: Vec<String> = crontab
            .faults
            .iter()
            .map(|CrontabFault { line, why }| {
                let line = line.map(|line| format!(":{line}")).unwrap_or_default();
                format!("{CRONTABS}/{}{line}: not run: {why}", tenant.login.user)
            })
            .collect();
        held.insert(name.clone(), Held { stamp, crontab: Arc::new(crontab), read: now, is_kept });
        (faults > 0).then(|| complaint.join("\n"))
    }

    /// Forgets the crontabs of all other tenants.
    pub(crate) fn forget_all_but(&self, tenants: &[Arc<Tenant>]) {
        let names: BTreeSet<&TenantName> = tenants.iter().map(|tenant| &tenant.name).collect();
        self.held().retain(|name, held| {
            let is_meant = names.contains(name);
            if !is_meant {
                self.drop_kept(name, Some(held));
            }
            is_meant
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> Arc<Tenant> {
        let files = [
            ("bailiwick.toml".into(), String::new()),
            ("plans.d/small.toml".into(), "doors = [\"cron\"]\n".to_owned()),
            ("tenants.d/alice.toml".into(), "plan = \"small\"\n".to_owned()),
        ];
        let reading = bailiwick_policy::parse(&files);
        assert_eq!(reading.diagnostics, []);
        Arc::new(reading.policy.expect("good").tenants.into_values().next().expect("one"))
    }

    fn text(stamp: &str, text: &str) -> CrontabFile {
        CrontabFile::Text { stamp: stamp.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn what_is_wrong_is_told_once_and_what_is_gone_is_not_run() {
        let (crontabs, alice) = (Crontabs::new(PathBuf::new()), tenant());
        assert_eq!(crontabs.take(&alice, text("1", "* * * * * a\n"), Moment(1)), None);
        assert_eq!(crontabs.jobs(&alice).len(), 1);
        assert_eq!(crontabs.take(&alice, CrontabFile::Same, Moment(2)), None);
        let told = crontabs.take(&alice, text("2", "* * * * * a\n* * * * * b\nnonsense\n"), Moment(3)).expect("told");
        assert!(told.starts_with("/var/spool/cron/crontabs/alice:3: not run: five fields"), "{told}");
        assert_eq!(crontabs.jobs(&alice).len(), 2);
        let faults = crontabs.faults(&alice.name);
        assert_eq!((faults.len(), faults[0].timer.as_str()), (1, "crontab-line-3"));
        let told = crontabs.take(&alice, CrontabFile::Unusable, Moment(4)).expect("told");
        assert!(told.starts_with("/var/spool/cron/crontabs/alice: not run: it is no plain file"), "{told}");
        assert_eq!(crontabs.faults(&alice.name)[0].timer.as_str(), "crontab");
        assert_eq!(crontabs.take(&alice, CrontabFile::Unusable, Moment(5)), None, "told already");
        assert_eq!((crontabs.jobs(&alice).len(), crontabs.faults(&alice.name).len()), (0, 1));
        crontabs.take(&alice, text("3", "* * * * * a\n"), Moment(6));
        crontabs.take(&alice, CrontabFile::Absent, Moment(7));
        assert_eq!((crontabs.jobs(&alice).len(), crontabs.faults(&alice.name).len()), (0, 0));
        crontabs.take(&alice, text("3", "* * * * * a\n"), Moment(8));
        crontabs.forget_all_but(&[]);
        assert!(crontabs.jobs(&alice).is_empty());
    }

    #[test]
    fn what_a_tenant_that_may_sleep_has_is_known_to_the_next_daemon() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = temp.path().canonicalize().expect("a path");
        let mut alice = Tenant::clone(&tenant());
        let awake = Arc::new(alice.clone());
        alice.settings.sleep =
            Some(bailiwick_policy::Sleep { after: bailiwick_types::Period(900), freeze_after: None });
        let alice = Arc::new(alice);
        let restored = |tenant: &Arc<Tenant>| {
            let next = Crontabs::new(dir.clone());
            next.restore(std::slice::from_ref(tenant));
            (next.jobs(tenant).len(), next.stamp(tenant))
        };
        let crontabs = Crontabs::new(dir.clone());
        crontabs.take(&awake, text("1", "* * * * * a\n"), Moment(1));
        assert_eq!((restored(&awake), restored(&alice)), ((0, None), (0, None)), "init is asked again");
        assert_eq!(crontabs.stamp(&awake).as_deref(), Some("1"));
        assert_eq!(crontabs.stamp(&alice), None, "it may sleep now, so its text is needed");
        crontabs.take(&alice, text("1", "* * * * * a\n* * * * * b\n"), Moment(2));
        assert_eq!(restored(&alice), (2, Some("1".to_owned())));
        crontabs.take(&alice, CrontabFile::Unusable, Moment(3));
        assert_eq!(restored(&alice), (0, None));
        crontabs.take(&alice, text("2", "* * * * * a\n"), Moment(4));
        assert_eq!(restored(&alice), (1, Some("2".to_owned())));
        std::fs::write(dir.join(DIR).join("alice"), "nonsense").expect("writes");
        assert_eq!(restored(&alice), (0, None));
        crontabs.take(&alice, text("3", "* * * * * a\n"), Moment(5));
        crontabs.forget_all_but(&[]);
        assert_eq!(restored(&alice), (0, None));
        assert_eq!(std::fs::read_dir(dir.join(DIR)).expect("a directory").count(), 0);
    }
}
