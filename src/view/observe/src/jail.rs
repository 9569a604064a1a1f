//! Observes one tenant: its jail, its processes wherever they are, and its limits.

use crate::sockets::sockets;
use crate::storage::{charged_below, disk_fact};
use crate::{ObserveError, limit, unless_gone};
use bailiwick_plan::control::Control;
use bailiwick_sys::cgroup::{self, Hierarchies};
use bailiwick_sys::proc::{self, IdKind};
use bailiwick_sys::{file, namespace};
use bailiwick_types::{
    Access, DiskFact, IdPool, IdRange, InForce, JailInForce, LimitKey, MAX_INTERFACES, MAX_MOUNTS, MAX_PROCESSES,
    MAX_STRAYS, MountFact, NAMESPACES, Observed, ObservedJail, ProcessFacts, QuotaFacts, TenantName, UNIFIED, Visitor,
};
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How many levels of groups below the tenant's group are searched. A jail has one level.
const MAX_DEPTH: usize = 8;
/// The most characters of a text in a mount table that are kept. No text of a plan is that long.
const MAX_TEXT: usize = 256;
/// The most options of one mount that are kept.
const MAX_OPTIONS: usize = 64;

/// The tenant to observe, and what the warden's ledger knows of it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Name of the tenant.
    pub tenant: &'a TenantName,
    /// The ids that the ledger assigned.
    pub ids: Option<IdRange>,
    /// The init of the tenant's jail, as it was started.
    pub init: Option<InitSubject>,
    /// The tenant's group in each hierarchy (`unified`, or a controller of version 1), as a path below the hierarchy's
    /// mount. In the unified hierarchy the jail's processes are in `jail` below this group. In other hierarchies they
    /// are directly in it.
    pub cgroups: &'a BTreeMap<String, String>,
    /// The limits, each with its file of a control group.
    pub controls: &'a [Control],
    /// The open directory of the tenant's storage, and what bounds it; `None` when there is no storage.
    pub storage: Option<(BorrowedFd<'a>, &'a QuotaFacts)>,
}

/// The init of a jail, as the warden recorded it when it made the jail.
#[derive(Debug, Clone, Copy)]
pub struct InitSubject {
    /// Its pid in the host's pid namespace.
    pub pid: u32,
    /// Its start time in clock ticks after boot.
    pub start_time: u64,
    /// The access to the tenant's storage that the jail was made with.
    pub access: Access,
    /// Whether the child that became init reported that it was in its Landlock domain.
    pub landlock: bool,
    /// Whether the confinement of init is that of this version.
    pub confined_now: bool,
}

/// What is the same for every tenant at one time, read once for many tenants: the users of every process of the host,
/// the mounts of its control groups, and its own namespaces.
#[derive(Debug, Clone)]
pub struct Census {
    users: Vec<(u32, [u32; 4])>,
    /// Processes that have a user of the host and a namespace that is not the host's. They are read once, on first use.
    guests: OnceCell<Vec<Guest>>,
    pool: IdPool,
    hierarchies: Hierarchies,
    host_namespaces: BTreeSet<u64>,
    /// The network namespaces of jails (`SO_NETNS_COOKIE`).
    networks: BTreeSet<u64>,
}

/// The pid of a process, and its namespaces by kind.
type Guest = (u32, BTreeMap<String, u64>);

impl Census {
    /// Takes a census. `networks` are the network namespaces of all jails, as far as they are known.
    ///
    /// # Errors
    /// When the processes cannot be listed, or one of them or the host's namespaces cannot be read.
    pub fn take(pool: IdPool, networks: BTreeSet<u64>) -> Result<Self, ObserveError> {
        let mut users = Vec::new();
        for pid in proc::pids().map_err(ObserveError::Processes)? {
            if let Some(uids) = unless_gone(pid, proc::users(pid))? {
                users.push((pid, uids));
            }
        }
        Ok(Self { networks, ..Self::of(users, pool)? })
    }

    fn of(users: Vec<(u32, [u32; 4])>, pool: IdPool) -> Result<Self, ObserveError> {
        let hierarchies = cgroup::hierarchies().map_err(ObserveError::Hierarchies)?;
        Ok(Self {
            users,
            guests: OnceCell::new(),
            pool,
            hierarchies,
            host_namespaces: host_namespaces()?,
            networks: BTreeSet::new(),
        })
    }

    /// Processes that have a user of the host and a namespace that is not the host's. Other walls cover processes with
    /// a tenant's user.
    fn guests(&self) -> Result<&[Guest], ObserveError> {
        if let Some(known) = self.guests.get() {
            return Ok(known);
        }
        let mut found = Vec::new();
        for (pid, _) in self.users.iter().filter(|(_, uids)| uids.iter().any(|uid| *uid < self.pool.first())) {
            let namespaces = match proc::namespaces_of(*pid) {
                // A process of the host above this one cannot be read. When this host is a container, its PID 1 may be
                // such a process.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
                result => unless_gone(*pid, result)?,
            };
            if let Some(namespaces) = namespaces
                && namespaces.values().any(|inode| !self.host_namespaces.contains(inode))
            {
                found.push((*pid, namespaces));
            }
        }
        Ok(self.guests.get_or_init(|| found))
    }
}

/// Observes one tenant, with a census that was taken for many. This does not ask whether init answers.
///
/// # Errors
/// When something exists but cannot be read. The caller needs `CAP_SYS_PTRACE` over the tenant's processes.
pub fn observe_with(subject: &Subject<'_>, census: &Census) -> Result<Observed, ObserveError> {
    Ok(Observed {
        tenant: subject.tenant.clone(),
        ids: subject.ids,
        jail: jail(subject, census)?,
        strays: strays(subject, census)?,
        disk: disk(subject)?.map(|fact| all_charged(subject, fact)).transpose()?,
    })
}

/// Observes only what a comparison with the policy needs.
///
/// # Errors
/// As [`observe_with`].
pub fn in_force(subject: &Subject<'_>, census: &Census) -> Result<InForce, ObserveError> {
    Ok(InForce {
        tenant: subject.tenant.clone(),
        jail: jail_in_force(subject, census)?,
        strays: strays(subject, census)?.iter().map(|stray| stray.pid).collect(),
        disk: disk(subject)?,
    })
}

fn jail_in_force(subject: &Subject<'_>, census: &Census) -> Result<Option<JailInForce>, ObserveError> {
    let Some(InitSubject { pid, start_time, access, .. }) = subject.init else { return Ok(None) };
    let of_init = || Ok((proc::status(pid)?, mounts(pid)?.0, proc::open_files(pid)?, proc::start_time(pid)?));
    let Some((status, mounts, open_files, _)) = unless_gone(pid, of_init())?.filter(|(.., now)| *now == start_time)
    else {
        return Ok(None);
    };
    // Only the mounts of the plan are kept. A tenant that may mount can make any number of others, and all replies
    // share one message.
    let of_plan = |mount: &&MountFact| LimitKey::of_tmpfs(&mount.target).is_some() && !mount.covered;
    let sized = mounts
        .iter()
        .filter(of_plan)
        .filter(|mount| mount.fs_type == "tmpfs")
        .filter_map(|mount| Some((mount.target.clone(), mount.tmpfs_size()?)));
    let mut limits = limit::limits(subject, &census.hierarchies, false);
    limits.push(limit::open_files(open_files));
    Ok(Some(JailInForce {
        access,
        cap_bounding: status.cap_bounding,
        no_new_privs: status.no_new_privs,
        limits,
        rescue: limit::rescue(subject, &census.hierarchies),
        tmpfs: sized.collect(),
        // The warden knows.
        host_sockets: None,
        mail: None,
        connected: None,
        nesting: None,
        network: None,
    }))
}

fn jail(subject: &Subject<'_>, census: &Census) -> Result<Option<ObservedJail>, ObserveError> {
    let hierarchies = &census.hierarchies;
    let Some(InitSubject { pid, start_time, access, landlock, confined_now }) = subject.init else { return Ok(None) };
    let Some(init) = unless_gone(pid, proc::facts(pid))?.filter(|init| init.start_time == start_time) else {
        return Ok(None);
    };
    let of_init = || -> io::Result<_> {
        let owner = namespace::owner_uid(namespace::open(pid, "user")?)?;
        let maps = (proc::id_map(pid, IdKind::User)?, proc::id_map(pid, IdKind::Group)?);
        Ok((owner, maps, mounts(pid)?, proc::open_files(pid)?))
    };
    let Some((namespace_owner, (uid_map, gid_map), (mounts, mounts_cut), open_files)) = unless_gone(pid, of_init())?
    else {
        return Ok(None);
    };
    let interfaces = match proc::interfaces(pid) {
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => vec!["more than can be listed".to_owned()],
        result => match unless_gone(pid, result)? {
            Some(found) => found.into_iter().take(MAX_INTERFACES).collect(),
            None => return Ok(None),
        },
    };
    let (processes, processes_cut) = processes(subject, hierarchies)?;
    let entered = entered(subject, &init, &processes)?;
    let visitors = visitors(subject, census, &init)?;
    let mut limits = limit::limits(subject, hierarchies, true);
    limits.push(limit::open_files(open_files));
    let facts = ObservedJail {
        sockets: sockets(&init, &processes, &census.host_namespaces, &census.networks),
        access,
        init,
        namespace_owner,
        uid_map,
        gid_map,
        host_namespaces: census.host_namespaces.clone(),
        mounts,
        mounts_cut,
        processes,
        processes_cut,
        cgroups: subject.cgroups.clone(),
        frozen: frozen(subject, hierarchies),
        limits,
        rescue: limit::rescue(subject, hierarchies),
        landlock_denies_canary: None,
        landlock_at_start: landlock,
        confined_now: Some(confined_now),
        entered,
        visitors,
        interfaces: Some(interfaces),
        settings: limit::settings(subject, hierarchies),
    };
    // Some files were read by pid. If the pid belongs to another process now, they were not init's.
    let now = unless_gone(pid, proc::start_time(pid))?;
    Ok((now == Some(start_time)).then_some(facts))
}

fn disk(subject: &Subject<'_>) -> Result<Option<DiskFact>, ObserveError> {
    let (Some((dir, quota)), Some(ids)) = (subject.storage, subject.ids) else { return Ok(None) };
    let path = format!("the quota of {}", subject.tenant);
    disk_fact(dir, ids.first, quota).map_err(|source| ObserveError::File { path, source })
}

/// Also checks the directories directly in the tenant's directory, which are mounted into its jail.
fn all_charged(subject: &Subject<'_>, fact: DiskFact) -> Result<DiskFact, ObserveError> {
    let (Some((dir, quota)), Some(ids)) = (subject.storage, subject.ids) else { return Ok(fact) };
    let path = format!("the quota of {}", subject.tenant);
    let below = charged_below(dir, ids.first, quota).map_err(|source| ObserveError::File { path, source })?;
    Ok(DiskFact { charged: fact.charged && below, ..fact })
}

/// Processes of the jail whose parent is alive and outside the jail. Such a process was put there from outside, and no
/// process inside started it. When a parent ends, the kernel gives its children to init. So a process is read again
/// when its parent has ended meanwhile.
fn entered(subject: &Subject<'_>, init: &ProcessFacts, processes: &[ProcessFacts]) -> Result<Vec<u32>, ObserveError> {
    /// The most reads of one process whose parent changes.
    const LOOKS: usize = 8;
    let mut known: BTreeSet<u32> = processes.iter().map(|process| process.pid).collect();
    known.insert(init.pid);
    let mut found = Vec::new();
    for process in processes.iter().filter(|process| process.pid != init.pid) {
        for _ in 0..LOOKS {
            let Some(status) = unless_gone(process.pid, proc::status(process.pid))? else { break };
            if known.contains(&status.parent) {
                break;
            }
            let Some(groups) = unless_gone(status.parent, proc::cgroups(status.parent))? else { continue };
            if !belongs(subject.cgroups, &groups) {
                found.push(process.pid);
            }
            break;
        }
    }
    Ok(found)
}

/// Processes of the host that are in a namespace of the jail but not in its control groups.
fn visitors(subject: &Subject<'_>, census: &Census, init: &ProcessFacts) -> Result<Vec<Visitor>, ObserveError> {
    let shared = |namespaces: &BTreeMap<String, u64>| -> Vec<String> {
        let is_shared = |(kind, inode): &(&String, &u64)| {
            init.namespaces.get(*kind) == Some(*inode) && !census.host_namespaces.contains(*inode)
        };
        namespaces.iter().filter(is_shared).map(|(kind, _)| kind.clone()).collect()
    };
    let mut found = Vec::new();
    for (pid, _) in census.guests()?.iter().filter(|(_, namespaces)| !shared(namespaces).is_empty()) {
        // Read again: since the census the process may have moved or ended.
        let now = || Ok((proc::status(*pid)?, proc::namespaces_of(*pid)?, proc::cgroups(*pid)?));
        let Some((status, namespaces, groups)) = unless_gone(*pid, now())? else { continue };
        let shared = shared(&namespaces);
        if !shared.is_empty() && !belongs(subject.cgroups, &groups) && found.len() < MAX_STRAYS {
            found.push(Visitor { pid: *pid, command: status.command, namespaces: shared });
        }
    }
    Ok(found)
}

fn host_namespaces() -> Result<BTreeSet<u64>, ObserveError> {
    let mut found = BTreeSet::new();
    let own = std::process::id();
    for kind in NAMESPACES {
        found.insert(namespace::inode(own, kind).map_err(|source| ObserveError::Process { pid: own, source })?);
        // A user other than root may be unable to read PID 1. Such a user does not observe jails either.
        found.extend(namespace::inode(1, kind).ok());
    }
    Ok(found)
}

/// The mount table, bounded, and whether rows were left out. A table that is too large to read has no rows.
fn mounts(pid: u32) -> io::Result<(Vec<MountFact>, bool)> {
    let mut rows = match proc::mounts(pid) {
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Ok((Vec::new(), true)),
        result => result?,
    };
    let cut = rows.len() > MAX_MOUNTS;
    rows.truncate(MAX_MOUNTS);
    for row in &mut rows {
        for text in [&mut row.target, &mut row.root, &mut row.fs_type] {
            shorten(text);
        }
        for list in [&mut row.options, &mut row.super_options, &mut row.propagation] {
            list.truncate(MAX_OPTIONS);
            list.iter_mut().for_each(shorten);
        }
    }
    Ok((rows, cut))
}

fn shorten(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(end);
        text.push('…');
    }
}

/// The tenant's group in the unified hierarchy; `None` when it does not exist.
fn group(subject: &Subject<'_>, hierarchies: &Hierarchies) -> Result<Option<OwnedFd>, ObserveError> {
    let (Some(mount), Some(path)) = (hierarchies.mount_of(UNIFIED), subject.cgroups.get(UNIFIED)) else {
        return Ok(None);
    };
    match cgroup::open(mount, path) {
        Ok(group) => Ok(Some(group)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ObserveError::Group { path: path.clone(), source }),
    }
}

/// The processes in the tenant's group and in the groups below it, and whether some were left out.
fn processes(subject: &Subject<'_>, hierarchies: &Hierarchies) -> Result<(Vec<ProcessFacts>, bool), ObserveError> {
    let Some(group) = group(subject, hierarchies)? else { return Ok((Vec::new(), false)) };
    let path = subject.cgroups.get(UNIFIED).cloned().unwrap_or_default();
    let (pids, mut cut) = members(group).map_err(|source| ObserveError::Group { path, source })?;
    let mut found = Vec::new();
    for pid in pids {
        if found.len() == MAX_PROCESSES {
            cut = true;
            break;
        }
        found.extend(unless_gone(pid, proc::facts(pid))?);
    }
    Ok((found, cut))
}

/// The pids in a tenant's group and in the groups below it, within the bounds of [`members`].
pub(crate) fn members_of(cgroups: &BTreeMap<String, String>) -> Result<BTreeSet<u32>, ObserveError> {
    let hierarchies = cgroup::hierarchies().map_err(ObserveError::Hierarchies)?;
    let path = cgroups.get(UNIFIED).cloned().unwrap_or_default();
    let unreadable = |source| ObserveError::Group { path: path.clone(), source };
    let mount = hierarchies.mount_of(UNIFIED).ok_or(io::ErrorKind::NotFound).map_err(|kind| unreadable(kind.into()))?;
    let (pids, _) = cgroup::open(mount, &path).and_then(members).map_err(unreadable)?;
    Ok(pids)
}

/// The pids in a group and in the groups below it, and whether groups were left out.
fn members(group: OwnedFd) -> io::Result<(BTreeSet<u32>, bool)> {
    let mut pids = BTreeSet::new();
    let mut cut = false;
    let mut waiting = vec![(group, 0)];
    while let Some((group, depth)) = waiting.pop() {
        match cgroup::members(&group) {
            Ok(members) => pids.extend(members),
            // The group was removed meanwhile, so it had no processes.
            Err(error) if error.raw_os_error() == Some(ENODEV) => continue,
            Err(error) => return Err(error),
        }
        for name in file::names(group.as_fd())? {
            let below = match file::open_dir_at(group.as_fd(), &name) {
                Ok(below) => below,
                Err(error) if matches!(error.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::NotFound) => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            if depth == MAX_DEPTH || pids.len() > MAX_PROCESSES {
                cut = true;
            } else {
                waiting.push((below, depth + 1));
            }
        }
    }
    Ok((pids, cut))
}

/// Error number of an operation on a removed control group (linux/errno).
const ENODEV: i32 = 19;

/// Whether the jail's processes are frozen, by their own group or by a group above it.
fn frozen(subject: &Subject<'_>, hierarchies: &Hierarchies) -> bool {
    let Ok(Some(group)) = group(subject, hierarchies) else { return false };
    let events = |group: &OwnedFd| cgroup::flat_keyed(&cgroup::read(group, "cgroup.events").ok()?, "frozen");
    let jail = file::open_dir_at(group.as_fd(), "jail").ok();
    jail.as_ref().and_then(events).or_else(|| events(&group)) == Some(1)
}

/// Processes that have an id of the tenant and are outside its control groups.
fn strays(subject: &Subject<'_>, census: &Census) -> Result<Vec<ProcessFacts>, ObserveError> {
    let Some(ids) = subject.ids else { return Ok(Vec::new()) };
    let is_stray = |uids: &_, groups: &_| has_any(ids, uids) && !belongs(subject.cgroups, groups);
    let mut found = Vec::new();
    for (pid, _) in census.users.iter().filter(|(_, uids)| has_any(ids, uids)) {
        // Read again: since the census the pid may belong to another process, or the process may have moved.
        let now = || Ok((proc::status(*pid)?, proc::cgroups(*pid)?));
        let Some((status, cgroups)) = unless_gone(*pid, now())? else { continue };
        if !is_stray(&status.uids, &cgroups) {
            continue;
        }
        // This reads all facts at one time. Most processes are in their groups and do not come here. A zombie has left
        // its groups, and its facts cannot be read.
        let Some(facts) = unless_gone(*pid, proc::facts(*pid))? else { continue };
        if is_stray(&facts.uids, &facts.cgroups) {
            found.push(facts);
            if found.len() == MAX_STRAYS {
                break;
            }
        }
    }
    Ok(found)
}

fn has_any(ids: IdRange, uids: &[u32; 4]) -> bool {
    uids.iter().any(|uid| ids.contains(*uid))
}

/// Whether a process is in the tenant's group, or below it, in every hierarchy.
fn belongs(tenant: &BTreeMap<String, String>, process: &BTreeMap<String, String>) -> bool {
    tenant.contains_key(UNIFIED)
        && tenant.iter().all(|(hierarchy, group)| {
            let below = process.get(hierarchy).and_then(|path| path.strip_prefix(group.as_str()));
            match below {
                Some("") => true,
                Some(below) => below.starts_with('/'),
                None => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, path)| ((*key).to_owned(), (*path).to_owned())).collect()
    }

    #[test]
    fn a_process_belongs_when_every_hierarchy_agrees() {
        let tenant = map(&[("unified", "/b/alice"), ("memory", "/b/alice")]);
        let ok = |pairs: &[(&str, &str)]| belongs(&tenant, &map(pairs));
        assert!(ok(&[("unified", "/b/alice/jail"), ("memory", "/b/alice"), ("cpu", "/")]));
        assert!(!ok(&[("unified", "/b/alice2"), ("memory", "/b/alice")]), "a longer name is another tenant");
        assert!(!ok(&[("unified", "/b/alice/jail"), ("memory", "/")]), "outside the memory limit");
        assert!(!ok(&[("unified", "/b/alice/jail")]));
        assert!(!ok(&[("unified", "/"), ("memory", "/b/alice")]));
        assert!(!belongs(&map(&[]), &map(&[("unified", "/")])), "no group is nobody's home");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let mut text = "ä".repeat(MAX_TEXT + 1);
        shorten(&mut text);
        assert_eq!(text.chars().count(), MAX_TEXT + 1);
        assert!(text.ends_with("ä…"));
    }

    fn init(pid: u32, start_time: u64) -> InitSubject {
        InitSubject { pid, start_time, access: Access::ReadOnly, landlock: true, confined_now: true }
    }

    /// This process as if it were a tenant's init.
    fn own_subject<'a>(tenant: &'a TenantName, cgroups: &'a BTreeMap<String, String>, uid: u32) -> Subject<'a> {
        let pid = std::process::id();
        let init = Some(init(pid, proc::start_time(pid).expect("start time")));
        Subject { tenant, ids: Some(IdRange { first: uid, count: 1 }), init, cgroups, controls: &[], storage: None }
    }

    #[test]
    fn this_process_is_observed_as_it_is() {
        let tenant: TenantName = "alice".parse().expect("name");
        let pid = std::process::id();
        let uids = proc::status(pid).expect("status").uids;
        let cgroups = map(&[("unified", "/no-such-group-of-a-tenant")]);
        let observed = observe_with(
            &own_subject(&tenant, &cgroups, uids[0]),
            &Census::of(Vec::new(), IdPool::default()).expect("census"),
        )
        .expect("reads");
        let jail = observed.jail.expect("lives");
        assert_eq!(jail.init.pid, pid);
        assert!(jail.init.namespaces.values().all(|inode| jail.host_namespaces.contains(inode)));
        assert!(!jail.frozen && !jail.mounts_cut && !jail.processes_cut);
        assert!(jail.mounts.iter().any(|mount| mount.target == "/" && !mount.covered));
        assert_eq!(jail.limits.iter().map(|limit| limit.key).collect::<Vec<_>>(), [LimitKey::OpenFiles]);
        assert_eq!(jail.cgroups, cgroups);
        let brief = in_force(
            &own_subject(&tenant, &cgroups, uids[0]),
            &Census::of(Vec::new(), IdPool::default()).expect("census"),
        );
        let brief = brief.expect("reads").jail.expect("lives");
        assert_eq!((brief.cap_bounding, brief.no_new_privs), (jail.init.cap_bounding, jail.init.no_new_privs));
        assert_eq!(brief.limits, jail.limits);
        assert_eq!((brief.access, jail.access), (Access::ReadOnly, Access::ReadOnly), "as it was noted");
        assert!(brief.tmpfs.keys().all(|target| LimitKey::of_tmpfs(target).is_some()));
    }

    #[test]
    fn this_process_is_a_member_of_its_own_group_and_so_no_stray() {
        let tenant: TenantName = "alice".parse().expect("name");
        let pid = std::process::id();
        let mut cgroups = proc::cgroups(pid).expect("groups");
        cgroups.retain(|hierarchy, _| hierarchy == "unified");
        let census =
            Census::of(vec![(pid, proc::status(pid).expect("status").uids)], IdPool::default()).expect("census");
        let subject = own_subject(&tenant, &cgroups, census.users[0].1[0]);
        assert_eq!(strays(&subject, &census).expect("reads"), []);
        let hierarchies = cgroup::hierarchies().expect("hierarchies");
        let group = group(&subject, &hierarchies).expect("reads").expect("there");
        assert!(members(group).expect("reads").0.contains(&pid));
    }

    #[test]
    fn a_process_outside_the_group_is_a_stray_and_another_start_time_is_another_process() {
        let tenant: TenantName = "alice".parse().expect("name");
        let pid = std::process::id();
        let uids = proc::status(pid).expect("status").uids;
        let cgroups = map(&[("unified", "/no-such-group-of-a-tenant")]);
        let subject = own_subject(&tenant, &cgroups, uids[0]);
        let observed =
            observe_with(&subject, &Census::of(vec![(pid, uids)], IdPool::default()).expect("census")).expect("reads");
        assert_eq!(observed.strays.iter().map(|stray| stray.pid).collect::<Vec<_>>(), [pid]);
        assert_eq!(observed.jail.expect("lives").processes, []);
        let subject = Subject { init: Some(init(pid, 1)), ids: None, ..subject };
        let observed =
            observe_with(&subject, &Census::of(vec![(pid, uids)], IdPool::default()).expect("census")).expect("reads");
        assert_eq!((observed.jail, observed.strays.len()), (None, 0));
        let subject = Subject { init: Some(init(u32::MAX, 1)), ..subject };
        assert_eq!(
            observe_with(&subject, &Census::of(Vec::new(), IdPool::default()).expect("census")).expect("reads").jail,
            None
        );
    }

    #[test]
    fn a_corpse_is_no_stray() {
        let tenant: TenantName = "alice".parse().expect("name");
        let mut child = std::process::Command::new("true").spawn().expect("runs");
        let uids = proc::status(std::process::id()).expect("status").uids;
        // A zombie has left its groups and waits for its parent.
        while proc::facts(child.id()).is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let cgroups = map(&[("unified", "/no-such-group-of-a-tenant")]);
        let census = Census::of(vec![(child.id(), uids)], IdPool::default()).expect("census");
        let subject = own_subject(&tenant, &cgroups, uids[0]);
        assert!(proc::status(child.id()).is_ok(), "it is still there");
        assert_eq!(strays(&subject, &census).expect("reads"), []);
        assert_eq!(in_force(&subject, &census).expect("reads").strays, [0; 0]);
        child.wait().expect("ends");
    }

    #[test]
    fn a_census_has_this_process_in_it() {
        let pid = std::process::id();
        assert!(
            Census::take(IdPool::default(), BTreeSet::new())
                .expect("census")
                .users
                .iter()
                .any(|(other, _)| *other == pid)
        );
    }
}
