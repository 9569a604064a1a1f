//! What an earlier warden left: running jails are adopted, the rest of other jails is cleared away, and removals
//! continue.
//!
//! Danger: a process is adopted as a jail's init only if the record, the kernel and the control group all identify
//! it.

use crate::identity::ledger::{Ledger, LedgerError};
use crate::jail::record::Record;
use crate::jail::registry::Jail;
use crate::limits::quota;
use crate::startup::error::{OpenError, system};
use crate::state::Warden;
use crate::storage::grave;
use crate::storage::layout::Storage;
use crate::storage::removals::{Ids, Removals, ids_of};
use crate::systemd;
use bailiwick_proto::Failure;
use bailiwick_types::{ExitStatus, QuotaFacts, TenantName};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;

/// What to do with a jail's directory. `F` is a descriptor of its init.
#[derive(Debug, PartialEq, Eq)]
enum Verdict<F> {
    /// No tenant can have this name: remove the directory.
    Foreign,
    /// Its init runs, and this descriptor holds it.
    Adopt(TenantName, Record, F),
    /// Its init does not run, or cannot be identified: clear away the rest.
    ClearAway { tenant: TenantName, why: String },
}

/// Judges a jail's directory by its name and record. `hold` returns a descriptor of the recorded init, or `None` if
/// that process is certainly another.
fn judge<F>(
    name: &str,
    record: Option<Record>,
    hold: impl FnOnce(&TenantName, &Record) -> io::Result<Option<F>>,
) -> Verdict<F> {
    let Ok(tenant) = name.parse::<TenantName>() else { return Verdict::Foreign };
    let why = match record.map(|record| hold(&tenant, &record).map(|held| held.map(|held| (record, held)))) {
        Some(Ok(Some((record, held)))) => return Verdict::Adopt(tenant, record, held),
        Some(Err(error)) => error.to_string(),
        Some(Ok(None)) | None => "no such jail runs any more".to_owned(),
    };
    Verdict::ClearAway { tenant, why }
}

/// Tenants that have a group but no jail: their start was cut short.
fn without_jail(groups: Vec<String>, has_jail: impl Fn(&TenantName) -> bool) -> Vec<TenantName> {
    let tenants = groups.into_iter().filter_map(|name| name.parse::<TenantName>().ok());
    tenants.filter(|tenant| !has_jail(tenant)).collect()
}

impl Warden {
    /// Adopts each jail whose init is certainly the recorded one, with the descriptor that the service manager kept,
    /// if there is one. The loop clears away the rest of other jails. A failure for one tenant is logged, and does
    /// not stop the others.
    pub(super) fn adopt_running_jails(
        &mut self,
        mut kept: BTreeMap<String, OwnedFd>,
    ) -> Result<Vec<String>, OpenError> {
        let mut events = Vec::new();
        for (name, record) in self.runtime.found().map_err(system("list the jails"))? {
            let kept = kept.remove(&name);
            let groups = &self.groups;
            match judge(&name, record, |tenant, record| match groups.of(tenant) {
                Ok(open) => record.take_hold(kept, &groups.homes_of_init(tenant), &open.jail),
                // Without its group there is no jail, whatever process has the number now.
                Err(_) => Ok(None),
            }) {
                Verdict::Foreign => events.extend(self.remove_foreign(&name)),
                Verdict::Adopt(tenant, record, pidfd) => {
                    events.push(format!("tenant={tenant} event=re-attached pid={}", record.pid));
                    systemd::keep(&tenant, &pidfd);
                    if let Err(error) = self.emergencies.adopt(groups, &tenant) {
                        let why = Failure::new(ExitStatus::Failed, &error).message;
                        events.push(format!("tenant={tenant} event=reserve-not-taken-back reason={why:?}"));
                    }
                    let mail = self.policy.find(&tenant).and_then(|tenant| tenant.settings.mail);
                    self.lending.adopt(groups, &tenant, mail);
                    let jail = Jail::new(groups, &tenant, record, pidfd);
                    self.jails.add(tenant, jail);
                }
                Verdict::ClearAway { tenant, why } => {
                    events.push(format!("tenant={tenant} event=cleared reason={why:?}"));
                    self.jails.clear_away(&tenant, None);
                }
            }
        }
        let has_jail = |tenant: &TenantName| self.jails.get(tenant).is_some() || self.jails.clears(tenant);
        for tenant in without_jail(self.groups.found()?, has_jail) {
            events.push(format!("tenant={tenant} event=cleared reason=\"control group without a record\""));
            self.jails.clear_away(&tenant, None);
        }
        let has_jail = |tenant: &TenantName| self.jails.get(tenant).is_some() || self.jails.clears(tenant);
        self.lending.remove_others(|name| name.parse().is_ok_and(|tenant| has_jail(&tenant)));
        kept.keys().for_each(|name| systemd::forget(name));
        if self.jails.running().next().is_some() {
            self.watch.listen_to(self.groups.pressure_triggers());
        } else if self.jails.is_empty() {
            self.groups.remove_empty_bases();
        }
        Ok(events)
    }

    fn remove_foreign(&self, name: &str) -> Option<String> {
        systemd::forget(name);
        let error = self.runtime.remove(name).err()?;
        Some(format!("tenant={} event=not-cleared reason={:?}", name.escape_debug(), error.to_string()))
    }
}

/// Continues to remove what an earlier warden set aside.
pub(super) fn resume_removals(
    storage: &Storage,
    ledger: &mut Ledger,
    removals: &mut Removals,
    kind: &QuotaFacts,
) -> Vec<String> {
    let mut problems = Vec::new();
    let found = storage.graves().unwrap_or_else(|error| {
        problems.push(format!("event=not-purged reason={:?}", error.to_string()));
        Vec::new()
    });
    let known: BTreeSet<String> = ledger.purged().map(|(grave, _)| grave.clone()).collect();
    for grave in found.into_iter().chain(known.iter().cloned()).collect::<BTreeSet<_>>() {
        let row = if known.contains(&grave) { Ok(()) } else { keep_ids(&grave, storage, ledger, kind) };
        let row = row.map_err(|error| Failure::new(ExitStatus::Failed, &error).message);
        let removal = row.and_then(|()| storage.removal(&grave).map_err(|error| error.to_string()));
        match removal {
            Ok(removal) => removals.add(&grave, removal),
            Err(why) => problems
                .push(format!("tenant={} event=not-purged reason={why:?}", grave::tenant(&grave).escape_debug())),
        }
    }
    problems
}

/// Reserves the ids of data that was set aside and that the ledger does not know.
fn keep_ids(grave: &str, storage: &Storage, ledger: &mut Ledger, kind: &QuotaFacts) -> Result<(), LedgerError> {
    let of_gone = |name: &TenantName| ledger.ids(name).filter(|_| !storage.holds(name));
    let project = || quota::project(&storage.open_grave(grave)?, kind);
    match ids_of(grave, of_gone, project) {
        Ids::OfTenant(tenant) => ledger.bury(&tenant, grave),
        Ids::From(first) => ledger.take_for(grave, first),
        Ids::Unknown => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let text = r#"{"pid":7,"start_time":8,"user_namespace":9,"pid_namespace":10,"control_group":11}"#;
        serde_json::from_str(text).expect("a record")
    }

    #[test]
    fn a_jail_is_adopted_only_if_its_init_is_held() {
        let alice = || "alice".parse::<TenantName>().expect("a name");
        let gone = |why: &str| Verdict::ClearAway { tenant: alice(), why: why.to_owned() };
        let held = judge("alice", Some(record()), |_, record| Ok(Some(record.pid)));
        assert_eq!(held, Verdict::Adopt(alice(), record(), 7));
        assert_eq!(judge::<u32>("alice", Some(record()), |_, _| Ok(None)), gone("no such jail runs any more"));
        let refused = judge::<u32>("alice", Some(record()), |_, _| Err(io::Error::other("no descriptors")));
        assert_eq!(refused, gone("no descriptors"), "who cannot be told is not adopted");
        let unasked =
            |_: &TenantName, _: &Record| -> io::Result<Option<u32>> { unreachable!("there is nobody to ask for") };
        assert_eq!(judge("alice", None, unasked), gone("no such jail runs any more"));
        assert_eq!(judge("../alice", Some(record()), unasked), Verdict::Foreign);
    }

    #[test]
    fn groups_without_a_jail_are_cleared_away() {
        let groups = ["alice", "bob", "not a tenant"].map(str::to_owned).into();
        let alone = without_jail(groups, |tenant| tenant.as_str() == "alice");
        assert_eq!(alone.iter().map(TenantName::as_str).collect::<Vec<_>>(), ["bob"]);
    }
}
