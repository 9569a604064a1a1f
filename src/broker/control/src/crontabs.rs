//! Crontabs: the tenants' own schedules, read regularly from within their jails.
//!
//! Danger: a tenant writes its crontab, and can have its init send anything. [`bailiwick_types::Crontab`] bounds what
//! is kept. Without a valid reply, the last known crontab stays.

use crate::init_client::CRONTABS;
use crate::job::Job;
use crate::sync::lock;
use bailiwick_policy::Tenant;
use bailiwick_proto::init::CrontabFile;
use bailiwick_types::{CRONTAB_JOB, Crontab, CrontabFault, MAX_CRONTAB, Moment, TenantName, TimerReport, TimerRun};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use tracing::info;

/// The known crontab of one tenant.
#[derive(Debug, Clone)]
struct Held {
    /// The stamp of the file; `None` when the file is unusable.
    stamp: Option<String>,
    crontab: Arc<Crontab>,
    /// The time of the last reading.
    read: Moment,
}

/// The crontabs of the host.
#[derive(Debug, Default)]
pub(crate) struct Crontabs {
    held: Mutex<BTreeMap<TenantName, Held>>,
}

impl Crontabs {
    fn held(&self) -> MutexGuard<'_, BTreeMap<TenantName, Held>> {
        lock(&self.held)
    }

    /// The stamp of a tenant's crontab at its last reading.
    pub(crate) fn stamp(&self, tenant: &TenantName) -> Option<String> {
        self.held().get(tenant).and_then(|held| held.stamp.clone())
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
        let (stamp, crontab) = match file {
            CrontabFile::Same => return None,
            CrontabFile::Absent => {
                self.held().remove(&tenant.name);
                return None;
            }
            CrontabFile::Unusable => {
                let why = format!(
                    "it is no plain file of {}'s on a path without links, or over {MAX_CRONTAB} bytes",
                    tenant.login.user
                );
                (None, Crontab { jobs: Vec::new(), faults: vec![CrontabFault { line: None, why }] })
            }
            CrontabFile::Text { stamp, text } => (Some(stamp), Crontab::read(&text)),
        };
        let mut held = self.held();
        let known = held.get(&tenant.name).is_some_and(|held| held.stamp.is_none() && stamp.is_none());
        if known {
            return None;
        }
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
        held.insert(name.clone(), Held { stamp, crontab: Arc::new(crontab), read: now });
        (faults > 0).then(|| complaint.join("\n"))
    }

    /// Forgets the crontabs of all other tenants.
    pub(crate) fn forget_all_but(&self, tenants: &[Arc<Tenant>]) {
        let names: BTreeSet<&TenantName> = tenants.iter().map(|tenant| &tenant.name).collect();
        self.held().retain(|name, _| names.contains(name));
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
        let (crontabs, alice) = (Crontabs::default(), tenant());
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
}
