//! The walls that every process has: namespaces, id maps, capabilities, seccomp, `no_new_privs`, Landlock, membership.

use crate::finding::{self, Fault, FindingKind, list, quoted};
use bailiwick_plan::capability::CapabilitySet;
use bailiwick_plan::rescue;
use bailiwick_types::{ForeignSocket, IdRange, NAMESPACES, ObservedJail, ProcessFacts, Profile};
use std::collections::BTreeSet;

/// What was read of a wall, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wall {
    pub(crate) name: &'static str,
    /// Said when nothing is wrong.
    pub(crate) evidence: String,
    pub(crate) faults: Vec<Fault>,
}

impl Wall {
    pub(crate) fn new(name: &'static str, evidence: String) -> Self {
        Self { name, evidence, faults: Vec::new() }
    }

    /// Adds a fault that names every process the test is true of.
    fn test(&mut self, kind: FindingKind, jail: &ObservedJail, what: &str, is_wrong: impl Fn(&ProcessFacts) -> bool) {
        let wrong: Vec<String> = everybody(jail).filter(|process| is_wrong(process)).map(shown).collect();
        if !wrong.is_empty() {
            self.faults.push(kind.fault(format!("{what}: {}", list(wrong.into_iter()))));
        }
    }
}

/// Init and every process beside it.
fn everybody(jail: &ObservedJail) -> impl Iterator<Item = &ProcessFacts> {
    std::iter::once(&jail.init).chain(jail.processes.iter().filter(|process| process.pid != jail.init.pid))
}

pub(crate) fn shown(process: &ProcessFacts) -> String {
    format!("process {} ({})", process.pid, quoted(&process.command))
}

/// How many processes were looked at, for evidence.
fn counted(jail: &ObservedJail) -> String {
    match everybody(jail).count() {
        1 => "1 process".to_owned(),
        count => format!("{count} processes"),
    }
}

/// Whether a process has made a user namespace of its own, which only `system` lets it: there it has every capability
/// over what it made, and none over the jail.
fn is_nested(profile: Profile, jail: &ObservedJail, process: &ProcessFacts) -> bool {
    profile == Profile::System && process.namespaces.get("user") != jail.init.namespaces.get("user")
}

pub(crate) fn namespaces(profile: Profile, ids: Option<IdRange>, jail: &ObservedJail) -> Wall {
    let mut wall = Wall::new(
        "namespaces",
        format!(
            "{} kinds apart from the host's, the same for {}, owned by user {} (/proc/PID/ns, NS_GET_OWNER_UID)",
            NAMESPACES.len(),
            counted(jail),
            jail.namespace_owner
        ),
    );
    // A kind that is missing could be the host's.
    let shares = |process: &ProcessFacts| {
        NAMESPACES
            .iter()
            .any(|kind| process.namespaces.get(*kind).is_none_or(|inode| jail.host_namespaces.contains(inode)))
    };
    wall.test(finding::NAMESPACE_SHARED, jail, "in a namespace of the host", shares);
    if profile != Profile::System {
        wall.test(finding::NAMESPACE_LEFT, jail, "in another namespace than init", |process| {
            !shares(process) && process.namespaces != jail.init.namespaces
        });
    }
    match &jail.sockets {
        Some(sockets) => {
            // What a tenant of `system` makes in a network namespace of its own is its own.
            let is_foreign = |socket: &&ForeignSocket| profile != Profile::System || socket.network == sockets.host;
            let foreign: Vec<String> = sockets
                .foreign
                .iter()
                .filter(is_foreign)
                .map(|socket| {
                    let whose = if socket.network == sockets.host {
                        "the host's network"
                    } else {
                        "another network than the jail's"
                    };
                    format!("descriptor {} of process {} is a socket of {whose}", socket.descriptor, socket.pid)
                })
                .collect();
            if !foreign.is_empty() {
                wall.faults.push(finding::SOCKET_FOREIGN.fault(list(foreign.into_iter())));
            }
            wall.evidence.push_str(&format!("; {} sockets looked at (SO_NETNS_COOKIE)", sockets.looked));
            if sockets.cut {
                wall.faults
                    .push(finding::SOCKETS_UNSEEN.fault("there are more descriptors than are looked at".to_owned()));
            }
        }
        None => wall.faults.push(finding::SOCKETS_UNSEEN.fault("its sockets could not be looked at".to_owned())),
    }
    if jail.namespace_owner == 0 || ids.is_none_or(|ids| ids.first != jail.namespace_owner) {
        let owner = jail.namespace_owner;
        wall.faults.push(finding::NAMESPACE_OWNER.fault(format!("the user namespace is owned by host user {owner}")));
    }
    wall
}

pub(crate) fn id_maps(ids: Option<IdRange>, jail: &ObservedJail) -> Wall {
    let first = ids.map_or(0, |ids| ids.first);
    let mut wall = Wall::new("id-maps", format!("one row each, 0 is {first} outside (/proc/PID/uid_map, gid_map)"));
    let want: Vec<[u32; 3]> = ids.iter().map(|ids| [0, ids.first, ids.count]).collect();
    for (file, rows) in [("uid_map", &jail.uid_map), ("gid_map", &jail.gid_map)] {
        if *rows != want || rows.is_empty() {
            wall.faults.push(finding::ID_MAP.fault(format!("{file} has {rows:?}, not {want:?}")));
        }
    }
    wall
}

/// Whether a jail was made by an earlier version, which gave more capabilities. It may have them until it is made anew.
pub(crate) fn is_of_earlier_version(profile: Profile, init: &ProcessFacts) -> bool {
    CapabilitySet::of_earlier_version(profile) == Some(CapabilitySet(init.cap_bounding))
}

pub(crate) fn capabilities(profile: Profile, jail: &ObservedJail) -> Wall {
    let earlier = CapabilitySet::of_earlier_version(profile).filter(|_| is_of_earlier_version(profile, &jail.init));
    let allowed = earlier.unwrap_or(CapabilitySet::of(profile));
    let mut wall = Wall::new(
        "capabilities",
        format!("{} within {:#018x} (CapBnd, CapPrm, CapInh, CapAmb)", counted(jail), allowed.0),
    );
    let excess = |process: &ProcessFacts| {
        let all = process.cap_bounding | process.cap_permitted | process.cap_inheritable | process.cap_ambient;
        if is_nested(profile, jail, process) { 0 } else { all & !allowed.0 }
    };
    let union = everybody(jail).fold(0, |union, process| union | excess(process));
    let names = CapabilitySet(union).names().join(", ");
    wall.test(finding::CAPABILITY_EXCESS, jail, &format!("{names} beyond the profile"), |process| excess(process) != 0);
    wall.test(finding::CAPABILITY_INHERITED, jail, "inheritable or ambient capabilities", |process| {
        let inherited = process.cap_inheritable | process.cap_ambient;
        inherited & allowed.0 != 0 && !is_nested(profile, jail, process)
    });
    wall
}

pub(crate) fn seccomp(jail: &ObservedJail) -> Wall {
    let least = everybody(jail).map(|process| process.seccomp_filters).min().unwrap_or(0);
    let mut wall = Wall::new("seccomp", format!("{} with at least {least} filter(s) (Seccomp: 2)", counted(jail)));
    wall.test(finding::SECCOMP_MISSING, jail, "without a filter", |process| {
        process.seccomp != 2 || process.seccomp_filters == 0
    });
    wall
}

pub(crate) fn no_new_privs(profile: Profile, jail: &ObservedJail) -> Wall {
    if profile == Profile::Web {
        let mut wall = Wall::new("no-new-privs", format!("set for {} (NoNewPrivs)", counted(jail)));
        wall.test(finding::PRIVILEGES_GAINED, jail, "not set", |process| !process.no_new_privs);
        return wall;
    }
    let evidence = format!("not set for init, as profile \"{profile}\" has it (NoNewPrivs)");
    let mut wall = Wall::new("no-new-privs", evidence);
    // A program may well set it for itself; init must not, or all would have it.
    if jail.init.no_new_privs {
        wall.faults.push(finding::PRIVILEGES_BARRED.fault(format!("set: {}", shown(&jail.init))));
    }
    wall
}

/// `None` in profile `system`: its domain has scopes only, and the kernel gives no way to read a domain back.
pub(crate) fn landlock(profile: Profile, jail: &ObservedJail) -> Option<Wall> {
    if profile == Profile::System {
        return None;
    }
    let canary = bailiwick_plan::mount::CANARY;
    let mut wall =
        Wall::new("landlock", format!("a process inside was refused {canary:?}, which only Landlock guards"));
    match jail.landlock_denies_canary {
        Some(true) => {}
        Some(false) => {
            wall.faults.push(finding::LANDLOCK_DOWN.fault(format!("a process inside could read {canary:?}")));
        }
        None => wall.faults.push(finding::LANDLOCK_SILENT.fault("init did not answer".to_owned())),
    }
    Some(wall)
}

pub(crate) fn membership(strays: &[ProcessFacts], jail: &ObservedJail) -> Wall {
    let groups = list(jail.cgroups.iter().map(|(hierarchy, path)| format!("{hierarchy} {path:?}")));
    let mut wall =
        Wall::new("membership", format!("{} in {groups}; none of the tenant's users elsewhere", counted(jail)));
    wall.faults.extend(stray_fault(strays));
    let strays: BTreeSet<u32> = strays.iter().map(|process| process.pid).collect();
    wall.test(finding::GROUP_LEFT, jail, "not in the tenant's control group", |process| {
        !strays.contains(&process.pid) && !is_home(jail, process)
    });
    let listed = jail.processes.iter().any(|process| process.pid == jail.init.pid);
    if jail.processes_cut {
        let evidence = format!("only {} processes were looked at", jail.processes.len());
        wall.faults.push(finding::PROCESSES_CUT.fault(evidence));
    } else if !listed && is_home(jail, &jail.init) && !strays.contains(&jail.init.pid) {
        wall.faults.push(finding::GROUP_LEFT.fault("init is not listed in the tenant's control group".to_owned()));
    }
    wall
}

pub(crate) fn stray_fault(strays: &[ProcessFacts]) -> Option<Fault> {
    (!strays.is_empty()).then(|| finding::STRAY.fault(list(strays.iter().map(shown))))
}

/// Whether a process's groups are the tenant's: below that of the jail or of its rescue session where it is unified, and elsewhere
/// one of these or the tenant's own.
fn is_home(jail: &ObservedJail, process: &ProcessFacts) -> bool {
    jail.cgroups.contains_key("unified")
        && jail.cgroups.iter().all(|(hierarchy, group)| {
            let below = process.cgroups.get(hierarchy).and_then(|path| path.strip_prefix(group.as_str()));
            below.is_some_and(|below| match below.strip_prefix('/') {
                Some(below) => ["jail", rescue::GROUP].contains(&below.split('/').next().unwrap_or_default()),
                None => hierarchy != "unified" && below.is_empty(),
            })
        })
}
