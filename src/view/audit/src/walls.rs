//! The walls around every process of a jail: namespaces, id maps, capabilities, seccomp, `no_new_privs`, Landlock,
//! network interfaces, priorities and control groups.

use crate::finding::{self, FindingKind, Violation, list, quoted};
use bailiwick_plan::capability::CapabilitySet;
use bailiwick_plan::control::SERVICE_GROUP;
use bailiwick_plan::network::INTERFACE;
use bailiwick_plan::{OOM_SCORE, rescue};
use bailiwick_policy::Tenant;
use bailiwick_types::{
    Access, ForeignSocket, IdRange, NAMESPACES, NetworkMode, ObservedJail, ProcessFacts, ProcessRank, Profile, UNIFIED,
    Visitor,
};
use std::collections::BTreeSet;

/// What was read of one wall, and its violations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wall {
    pub(crate) name: &'static str,
    /// The evidence in the report when there is no violation.
    pub(crate) evidence: String,
    pub(crate) violations: Vec<Violation>,
}

impl Wall {
    pub(crate) fn new(name: &'static str, evidence: String) -> Self {
        Self { name, evidence, violations: Vec::new() }
    }

    /// Adds a violation that names every process for which the test is true.
    fn test(&mut self, kind: FindingKind, jail: &ObservedJail, what: &str, is_wrong: impl Fn(&ProcessFacts) -> bool) {
        let wrong: Vec<String> = everybody(jail).filter(|process| is_wrong(process)).map(shown).collect();
        if !wrong.is_empty() {
            self.violations.push(kind.violation(format!("{what}: {}", list(wrong.into_iter()))));
        }
    }
}

/// Init and every other process of the jail.
pub(crate) fn everybody(jail: &ObservedJail) -> impl Iterator<Item = &ProcessFacts> {
    std::iter::once(&jail.init).chain(jail.processes.iter().filter(|process| process.pid != jail.init.pid))
}

pub(crate) fn shown(process: &ProcessFacts) -> String {
    format!("process {} ({})", process.pid, quoted(&process.command))
}

/// The number of examined processes, for evidence.
fn counted(jail: &ObservedJail) -> String {
    match everybody(jail).count() {
        1 => "1 process".to_owned(),
        count => format!("{count} processes"),
    }
}

/// Whether a process is in a user namespace that was made inside the jail. Only `system` allows this. Such a process
/// has every capability over the new namespace, and none over the jail.
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
    // A namespace that could not be read may be the host's.
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
            // A jail of an earlier version may have made network namespaces of its own.
            let makes_own = is_of_earlier_version(profile, &jail.init);
            let is_foreign = |socket: &&ForeignSocket| !makes_own || socket.network == sockets.host;
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
                wall.violations.push(finding::SOCKET_FOREIGN.violation(list(foreign.into_iter())));
            }
            wall.evidence.push_str(&format!("; {} sockets looked at (SO_NETNS_COOKIE)", sockets.looked));
            if sockets.cut {
                wall.violations.push(
                    finding::SOCKETS_UNSEEN.violation("there are more descriptors than are looked at".to_owned()),
                );
            }
        }
        None => {
            wall.violations.push(finding::SOCKETS_UNSEEN.violation("its sockets could not be looked at".to_owned()))
        }
    }
    if jail.namespace_owner == 0 || ids.is_none_or(|ids| ids.first != jail.namespace_owner) {
        let owner = jail.namespace_owner;
        wall.violations
            .push(finding::NAMESPACE_OWNER.violation(format!("the user namespace is owned by host user {owner}")));
    }
    wall
}

pub(crate) fn id_maps(ids: Option<IdRange>, jail: &ObservedJail) -> Wall {
    let first = ids.map_or(0, |ids| ids.first);
    let mut wall = Wall::new("id-maps", format!("one row each, 0 is {first} outside (/proc/PID/uid_map, gid_map)"));
    let want: Vec<[u32; 3]> = ids.iter().map(|ids| [0, ids.first, ids.count]).collect();
    for (file, rows) in [("uid_map", &jail.uid_map), ("gid_map", &jail.gid_map)] {
        if *rows != want || rows.is_empty() {
            wall.violations.push(finding::ID_MAP.violation(format!("{file} has {rows:?}, not {want:?}")));
        }
    }
    wall
}

/// Whether an earlier version made the jail and gave it more capabilities. The jail may keep them until it is made
/// anew.
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
    if jail.confined_now == Some(false) {
        let evidence =
            "another version made the jail: its filter, and the counts of its user namespace, are not those of now";
        wall.violations.push(finding::SECCOMP_OLD.violation(evidence.to_owned()));
    }
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
    // A program may set it for itself. If init sets it, every process has it.
    if jail.init.no_new_privs {
        wall.violations.push(finding::PRIVILEGES_BARRED.violation(format!("set: {}", shown(&jail.init))));
    }
    wall
}

/// The wall of Landlock. The kernel offers no way to read a domain back, so the evidence combines three facts:
///
/// * The warden's child reported that it was in its domain before it became init.
/// * Every process descends from init. A domain is inherited and cannot be left.
/// * A process inside reports that it was refused the canary.
///
/// `None` for a jail of profile `system` that an earlier version made: nobody recorded its domain, and a domain of
/// `system` has scopes only, so there is no canary.
pub(crate) fn landlock(profile: Profile, jail: &ObservedJail) -> Option<Wall> {
    if profile == Profile::System && !jail.landlock_at_start {
        return None;
    }
    let canary = bailiwick_plan::mount::CANARY;
    let mut evidence = Vec::new();
    if jail.landlock_at_start {
        evidence.push(format!(
            "the warden's child told that it was in its domain before it became init, from which all descend: {} (/proc/PID/status, PPid)",
            counted(jail)
        ));
    } else {
        evidence.push(
            "an earlier version made the jail and has not noted its domain: all rests on the word of its init"
                .to_owned(),
        );
    }
    if jail.frozen && jail.landlock_denies_canary.is_none() {
        evidence.push("the jail is frozen, so no process inside was asked".to_owned());
    } else if profile != Profile::System {
        evidence.push(format!("a process inside was refused {canary:?}, which only Landlock guards"));
    }
    let mut wall = Wall::new("landlock", evidence.join("; "));
    wall.test(finding::DOMAIN_NOT_INHERITED, jail, "not started by anybody inside", |process| {
        jail.entered.contains(&process.pid)
    });
    if profile == Profile::System {
        return Some(wall);
    }
    match jail.landlock_denies_canary {
        Some(true) => {}
        Some(false) => {
            wall.violations.push(finding::LANDLOCK_DOWN.violation(format!("a process inside could read {canary:?}")));
        }
        // Its init cannot answer, and no process of it runs.
        None if jail.frozen => {}
        None => wall.violations.push(finding::LANDLOCK_SILENT.violation("init did not answer".to_owned())),
    }
    Some(wall)
}

/// Interfaces that the kernel itself creates in every network namespace when their modules are loaded
/// (`net.core.fb_tunnels_only_for_init_net`). They are down and lead nowhere.
const FALLBACKS: [&str; 10] =
    ["sit0", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0", "teql0"];

/// Whether a jail should have an interface beside its loopback. That of a suspended tenant has none.
pub(crate) fn is_connected(tenant: &Tenant, jail: &ObservedJail) -> bool {
    jail.access == Access::ReadWrite && tenant.settings.network.mode != NetworkMode::None
}

/// The name of the wall of network interfaces.
pub(crate) const NETWORK: &str = "network";

/// The wall of network interfaces. `None` when a warden of an earlier version did not list them.
pub(crate) fn network(tenant: &Tenant, profile: Profile, jail: &ObservedJail) -> Option<Wall> {
    let interfaces = jail.interfaces.as_ref()?;
    let is_connected = is_connected(tenant, jail);
    let what = if is_connected { "through the router" } else { "loopback only" };
    let mut wall = Wall::new(NETWORK, format!("{what}: {} (/proc/PID/net/dev)", interfaces.join(", ")));
    let has_own = interfaces.iter().any(|name| name == INTERFACE);
    if has_own != is_connected {
        let what = if has_own { "is there, and not declared" } else { "is missing" };
        wall.violations.push(finding::INTERFACE_OTHER.violation(format!("{INTERFACE} {what}")));
    }
    let is_foreign =
        |name: &&String| !["lo", INTERFACE].contains(&name.as_str()) && !FALLBACKS.contains(&name.as_str());
    let others: Vec<&String> = interfaces.iter().filter(is_foreign).collect();
    if !others.is_empty() {
        // A process inside can make an interface only in a jail of an earlier version.
        let makes_own = is_of_earlier_version(profile, &jail.init);
        let kind = if makes_own { finding::INTERFACE_OWN } else { finding::INTERFACE_FOREIGN };
        wall.violations.push(kind.violation(list(others.into_iter().map(|name| quoted(name)))));
    }
    Some(wall)
}

/// The wall of priorities: no process may have a raised priority, or be spared when memory runs out. `None` when a
/// warden of an earlier version did not read them.
pub(crate) fn priorities(jail: &ObservedJail) -> Option<Wall> {
    jail.init.rank?;
    let evidence = format!(
        "{} with a nice value of 0 or more, no real-time scheduler, and {OOM_SCORE} or more in oom_score_adj (/proc/PID/stat)",
        counted(jail)
    );
    let mut wall = Wall::new("priorities", evidence);
    let has = |process: &ProcessFacts, test: fn(&ProcessRank) -> bool| process.rank.as_ref().is_some_and(test);
    wall.test(finding::RANK_RAISED, jail, "nice below 0", |process| has(process, |rank| rank.nice < 0));
    // The real-time policies (`sched(7)`): SCHED_FIFO, SCHED_RR, SCHED_DEADLINE.
    wall.test(finding::RANK_RAISED, jail, "a real-time scheduler", |process| {
        has(process, |rank| [1, 2, 6].contains(&rank.scheduler))
    });
    wall.test(finding::RANK_RAISED, jail, &format!("oom_score_adj below {OOM_SCORE}"), |process| {
        has(process, |rank| rank.oom_score_adj < OOM_SCORE)
    });
    Some(wall)
}

pub(crate) fn membership(strays: &[ProcessFacts], jail: &ObservedJail) -> Wall {
    let groups = list(jail.cgroups.iter().map(|(hierarchy, path)| format!("{hierarchy} {path:?}")));
    let mut wall =
        Wall::new("membership", format!("{} in {groups}; none of the tenant's users elsewhere", counted(jail)));
    wall.violations.extend(stray_violation(strays));
    if !jail.visitors.is_empty() {
        let shown = jail.visitors.iter().map(|visitor| {
            let Visitor { pid, command, namespaces } = visitor;
            format!("process {pid} ({}) in its {}", quoted(command), namespaces.join(", "))
        });
        wall.violations.push(finding::VISITOR.violation(list(shown)));
    }
    let strays: BTreeSet<u32> = strays.iter().map(|process| process.pid).collect();
    wall.test(finding::GROUP_LEFT, jail, "not in the tenant's control group", |process| {
        !strays.contains(&process.pid) && !is_home(jail, process)
    });
    let listed = jail.processes.iter().any(|process| process.pid == jail.init.pid);
    if jail.processes_cut {
        let evidence = format!("only {} processes were looked at", jail.processes.len());
        wall.violations.push(finding::PROCESSES_CUT.violation(evidence));
    } else if !listed && is_home(jail, &jail.init) && !strays.contains(&jail.init.pid) {
        wall.violations
            .push(finding::GROUP_LEFT.violation("init is not listed in the tenant's control group".to_owned()));
    }
    wall
}

pub(crate) fn stray_violation(strays: &[ProcessFacts]) -> Option<Violation> {
    (!strays.is_empty()).then(|| finding::STRAY.violation(list(strays.iter().map(shown))))
}

/// Whether a process is in the tenant's control groups. In the unified hierarchy it must be in the group of the jail, of
/// a service or of the emergency session, or below one of them. In another hierarchy it may also be directly in the tenant's group.
fn is_home(jail: &ObservedJail, process: &ProcessFacts) -> bool {
    jail.cgroups.contains_key(UNIFIED)
        && jail.cgroups.iter().all(|(hierarchy, group)| {
            let below = process.cgroups.get(hierarchy).and_then(|path| path.strip_prefix(group.as_str()));
            below.is_some_and(|below| match below.strip_prefix('/') {
                Some(below) => {
                    let name = below.split('/').next().unwrap_or_default();
                    ["jail", rescue::GROUP].contains(&name) || name.starts_with(SERVICE_GROUP)
                }
                None => hierarchy != UNIFIED && below.is_empty(),
            })
        })
}
