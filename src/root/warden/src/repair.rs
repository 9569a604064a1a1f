//! Rebuilds a missing or damaged ledger from everything else that shows which tenant has which ids.
//!
//! Danger: a wrong row gives one tenant another's ids. A row is written only if all evidence agrees. Nothing is
//! written while processes have ids of an unknown tenant, nor in a state directory that is certainly the wrong one:
//! it lacks the storage of a running jail, or all storage although host users are recorded.

use crate::identity::host_user;
use crate::identity::ledger::{Ledger, LedgerError};
use crate::jail::record::Record;
use crate::runtime::{DaemonUser, Runtime};
use crate::startup::error::{OpenError, system};
use crate::storage::layout::Storage;
use bailiwick_policy::Host;
use bailiwick_sys::proc::{self, IdKind};
use bailiwick_sys::{namespace, process, quota};
use bailiwick_types::{IdPool, QuotaFacts, TenantName};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The evidence: which tenant has which range of the pool, and what says so.
#[derive(Debug, Default)]
struct Claims {
    by_tenant: BTreeMap<TenantName, BTreeMap<u32, Vec<&'static str>>>,
    /// Where tenants' storage was looked for.
    state_dir: PathBuf,
    /// Tenants that have data.
    with_data: BTreeSet<TenantName>,
    /// Tenants whose jail runs. No jail runs without storage.
    running: BTreeSet<TenantName>,
    /// Ranges that processes use now.
    in_use: BTreeSet<u32>,
}

/// The range of each tenant.
type Rows = BTreeMap<TenantName, u32>;

impl Claims {
    fn add(&mut self, tenant: TenantName, index: Option<u32>, by: &'static str) {
        if let Some(index) = index {
            self.by_tenant.entry(tenant).or_default().entry(index).or_default().push(by);
        }
    }

    /// The certain rows, and a report with everything uncertain; or why nothing can be rebuilt.
    fn judge(&self, pool: IdPool) -> Result<(Rows, Vec<String>), Vec<String>> {
        let mut wrong = Vec::new();
        let mut owners: BTreeMap<u32, BTreeSet<&TenantName>> = BTreeMap::new();
        let first = |index: u32| pool.range(index).map_or(0, |range| range.first);
        for (tenant, claims) in &self.by_tenant {
            claims.keys().for_each(|index| owners.entry(*index).or_default().extend([tenant]));
            if claims.len() > 1 {
                let said = claims.iter().map(|(index, by)| format!("{} by {}", first(*index), by.join(" and ")));
                let said = said.collect::<Vec<_>>().join(", ");
                wrong.push(format!("\"{tenant}\" has ids from {said}: they cannot all be right"));
            }
        }
        for (index, tenants) in owners.iter().filter(|(_, tenants)| tenants.len() > 1) {
            let names = tenants.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(" and ");
            wrong.push(format!("the ids from {} are said to be those of {names}", first(*index)));
        }
        for index in self.in_use.iter().filter(|index| !owners.contains_key(index)) {
            let first = first(*index);
            wrong.push(format!("processes have ids from {first}, and nothing tells whose they are; end them first"));
        }
        wrong.extend(self.misplaced());
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let row =
            |(tenant, claims): (&TenantName, &BTreeMap<u32, Vec<&str>>)| Some((tenant.clone(), *claims.keys().next()?));
        let rows: Rows = self.by_tenant.iter().filter_map(row).collect();
        let mut report = Vec::new();
        for (tenant, index) in &rows {
            let by = self.by_tenant[tenant].values().flatten().copied().collect::<Vec<_>>().join(" and ");
            report.push(format!("\"{tenant}\" has the ids from {}, by {by}", first(*index)));
        }
        for tenant in self.with_data.iter().filter(|tenant| !rows.contains_key(*tenant)) {
            report.push(format!(
                "\"{tenant}\" is NOT certain: nothing tells its ids. It gets new ones when it starts; its files carry none"
            ));
        }
        report.push("whether an operator had stopped a tenant is NOT known: each counts as not stopped".to_owned());
        Ok((rows, report))
    }
}

impl Claims {
    /// Why the state directory is certainly not the one whose ledger was lost, if so.
    fn misplaced(&self) -> Option<String> {
        let of = |tenants: Vec<&TenantName>| {
            tenants.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(" and ")
        };
        let without: Vec<&TenantName> = self.running.difference(&self.with_data).collect();
        let (why, unless) = if !without.is_empty() {
            (format!("the storage of {}, whose jails run", of(without)), "")
        } else if self.with_data.is_empty() && !self.by_tenant.is_empty() {
            let why = format!(
                "the storage of anybody, and host users are recorded of {}",
                of(self.by_tenant.keys().collect())
            );
            (why, "; if no tenant ever had any, remove those records")
        } else {
            return None;
        };
        let path = self.state_dir.display();
        Some(format!(
            "the state directory \"{path}\" does not have {why}: it is not mounted, or was moved; mount it or put it back{unless}"
        ))
    }
}

/// Rebuilds the ledger of the host with this configuration; returns a report, row by row.
///
/// # Errors
/// A warden runs, the ledger is in order, or the evidence is contradictory.
pub fn repair_ledger(config: &Path) -> Result<Vec<String>, OpenError> {
    if !rustix::process::geteuid().is_root() {
        return Err(OpenError::NotRoot);
    }
    let config = config.canonicalize().map_err(system("find the configuration directory"))?;
    let host = bailiwick_policy::read_host(&config).map_err(OpenError::Policy)?;
    let daemon = DaemonUser::find(&host.user).ok_or_else(|| OpenError::User(host.user.clone()))?;
    // The lock keeps a warden from giving out ids.
    let storage = Storage::open(&host.state_dir, daemon)?;
    let state = || storage.state().map_err(system("use the state directory"));
    match Ledger::open(state()?, &host.state_dir, host.ids, &["anything".to_owned()]) {
        Err(LedgerError::Missing { .. } | LedgerError::Damaged(_)) => {}
        Ok(_) => return Err(LedgerError::InOrder.into()),
        Err(error) => return Err(error.into()),
    }
    let (claims, instance) = look(&host, &storage, daemon)?;
    let (rows, report) = claims.judge(host.ids).map_err(OpenError::Uncertain)?;
    Ledger::rebuild(state()?, host.ids, instance, &rows)?;
    Ok(report)
}

fn look(host: &Host, storage: &Storage, daemon: DaemonUser) -> Result<(Claims, Option<String>), OpenError> {
    let runtime = Runtime::open(&host.runtime_dir, daemon)?;
    let facts = bailiwick_observe::host_facts(&host.state_dir)?;
    let mut claims = Claims { state_dir: host.state_dir.clone(), ..Claims::default() };
    for (name, record) in runtime.found().map_err(system("list the jails"))? {
        if let (Ok(tenant), Some(record)) = (name.parse::<TenantName>(), record)
            && let Some(first) = of_init(&record)
        {
            claims.running.insert(tenant.clone());
            claims.add(tenant, index_of(host.ids, first), "its running jail");
        }
    }
    let is_projects = facts.storage.quota == QuotaFacts::Projects;
    let project = |dir: io::Result<std::os::fd::OwnedFd>| -> Option<u32> {
        let project = dir.ok().filter(|_| is_projects).and_then(|dir| quota::project(dir.as_fd()).ok())?;
        index_of(host.ids, project.id)
    };
    for name in storage.tenants().map_err(system("list the tenants' storage"))? {
        let Ok(tenant) = name.parse::<TenantName>() else { continue };
        claims.add(
            tenant.clone(),
            project(storage.open_of(&tenant).ok_or_else(|| io::ErrorKind::NotFound.into())),
            "the disk quota of its data",
        );
        claims.with_data.insert(tenant);
    }
    for (tenant, uid) in host_user::recorded(host).map_err(system("read the records of host users"))? {
        let range = host.ids.range_of_host_user(uid);
        claims.add(tenant, range.and_then(|range| index_of(host.ids, range.first)), "the record of its host user");
    }
    let known = runtime.known_groups();
    for pid in proc::pids().map_err(system("list the processes"))? {
        // A process that has ended has no ids.
        let (Ok(status), Ok(groups)) = (proc::status(pid), proc::cgroups(pid)) else { continue };
        if !is_of_host(&groups, &known) {
            continue;
        }
        claims.in_use.extend(status.uids.iter().filter_map(|uid| index_of(host.ids, *uid)));
    }
    let instance = known.into_values().find_map(|group| {
        let of_instance = |part: &str| part.strip_prefix("bailiwick-").filter(|id| is_instance(id)).map(str::to_owned);
        group.split('/').find_map(of_instance)
    });
    Ok((claims, instance))
}

/// Whether a process is in a group of this host's jails: other hosts may share the machine. If this host's groups are
/// unknown, every process counts.
fn is_of_host(groups: &BTreeMap<String, String>, known: &BTreeMap<String, String>) -> bool {
    let is_below = |(hierarchy, base): (&String, &String)| {
        let group = groups.get(hierarchy).and_then(|group| group.strip_prefix(base.as_str()));
        group.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    };
    known.is_empty() || known.iter().any(is_below)
}

/// Eight hexadecimal digits, as in a ledger.
fn is_instance(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// The first id of a jail, if its recorded init certainly runs.
fn of_init(record: &Record) -> Option<u32> {
    let pidfd = process::open(record.pid).ok()?;
    let is_the_one = proc::start_time(record.pid).ok()? == record.start_time
        && namespace::inode(record.pid, "user").ok()? == record.user_namespace;
    let map = proc::id_map(record.pid, IdKind::User).ok()?;
    let [_, first, _] = *map.first()?;
    let runs = !process::has_ended(&pidfd, Duration::ZERO).ok()?;
    (is_the_one && runs).then_some(first)
}

/// The range of the pool that has an id.
fn index_of(pool: IdPool, id: u32) -> Option<u32> {
    let index = id.checked_sub(pool.first())? / pool.per_tenant();
    pool.range(index).map(|_| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> TenantName {
        text.parse().expect("a name")
    }

    #[test]
    fn certain_rows_are_written_and_the_rest_is_reported() {
        let pool = IdPool::default();
        let mut claims = Claims::default();
        claims.add(name("alice"), Some(0), "a");
        claims.add(name("alice"), Some(0), "b");
        claims.add(name("bob"), Some(4), "c");
        claims.with_data.extend([name("alice"), name("carol")]);
        claims.running.insert(name("alice"));
        claims.in_use.insert(4);
        let (rows, report) = claims.judge(pool).expect("certain");
        assert_eq!(rows, [(name("alice"), 0), (name("bob"), 4)].into());
        assert!(report[0].ends_with("by a and b") && report[2].contains("\"carol\" is NOT certain"), "{report:?}");
    }

    #[test]
    fn a_ledger_is_not_rebuilt_from_contradictions() {
        let pool = IdPool::default();
        let judge = |rows: &[(&str, u32)], in_use: &[u32]| {
            let mut claims = Claims { in_use: in_use.iter().copied().collect(), ..Claims::default() };
            claims.with_data.insert(name("alice"));
            rows.iter().for_each(|(tenant, index)| claims.add(name(tenant), Some(*index), "x"));
            claims.judge(pool).map(|_| ()).map_err(|wrong| wrong.join("; "))
        };
        assert_eq!(judge(&[("alice", 0), ("bob", 1)], &[0, 1]), Ok(()));
        for (rows, in_use, word) in [
            (&[("alice", 0), ("alice", 1)][..], &[][..], "cannot all be right"),
            (&[("alice", 0), ("bob", 0)], &[], "\"alice\" and \"bob\""),
            (&[("alice", 0)], &[0, 7], "nothing tells whose"),
        ] {
            assert!(judge(rows, in_use).is_err_and(|wrong| wrong.contains(word)), "{rows:?} {word}");
        }
    }

    #[test]
    fn a_wrong_state_directory_is_recognised() {
        let judge = |running: &[&str], with_data: &[&str]| {
            let names = |names: &[&str]| names.iter().map(|text| name(text)).collect();
            let (running, with_data) = (names(running), names(with_data));
            let mut claims = Claims { state_dir: "/srv/state".into(), running, with_data, ..Claims::default() };
            claims.add(name("alice"), Some(0), "the record of its host user");
            claims.judge(IdPool::default()).map(|_| ()).map_err(|wrong| wrong.join("; "))
        };
        assert_eq!(judge(&["alice"], &["alice"]), Ok(()));
        assert_eq!(judge(&[], &["bob"]), Ok(()));
        for (running, with_data, word) in [
            (&["alice", "bob"][..], &["bob"][..], "the storage of \"alice\", whose jails run"),
            (&["alice", "bob"], &[], "the storage of \"alice\" and \"bob\", whose"),
            (&[], &[], "host users are recorded of \"alice\""),
        ] {
            let wrong = judge(running, with_data).expect_err("not certain");
            assert!(wrong.contains(word) && wrong.contains("\"/srv/state\""), "{wrong}");
        }
        // A host without tenants begins with an empty ledger.
        assert!(Claims::default().judge(IdPool::default()).is_ok());
    }

    #[test]
    fn an_id_belongs_to_the_range_around_it() {
        let pool = IdPool::default();
        assert_eq!(index_of(pool, pool.first() - 1), None);
        assert_eq!(index_of(pool, pool.first()), Some(0));
        assert_eq!(index_of(pool, pool.first() + 65_535), Some(0));
        assert_eq!(index_of(pool, pool.first() + 65_536), Some(1));
        assert_eq!(index_of(pool, u32::MAX), None);
    }
}
