//! The walls of the FTP server's processes in a tenant's control group. They differ from the walls of the jail's own
//! processes, because FTP processes stay in the host's network and pid namespaces.

use crate::finding;
use crate::walls::{Wall, shown};
use bailiwick_plan::ftp::CAPABILITIES;
use bailiwick_types::{ObservedJail, ProcessFacts, UNIFIED};
use std::borrow::Cow;

/// The control group of FTP processes, below the tenant's group.
const GROUP: &str = "/ftp";

/// Splits a jail into the jail without its FTP processes, and those processes.
pub(crate) fn apart(jail: &ObservedJail) -> (Cow<'_, ObservedJail>, Vec<ProcessFacts>) {
    let is_one = |process: &ProcessFacts| {
        let own = jail.cgroups.get(UNIFIED);
        let below = own.and_then(|own| process.cgroups.get(UNIFIED)?.strip_prefix(own.as_str()));
        below == Some(GROUP) && process.pid != jail.init.pid
    };
    if !jail.processes.iter().any(is_one) {
        return (Cow::Borrowed(jail), Vec::new());
    }
    let mut jail = jail.clone();
    let (sessions, rest) = jail.processes.iter().cloned().partition(is_one);
    jail.processes = rest;
    (Cow::Owned(jail), sessions)
}

/// The wall of the FTP processes; `None` when there are none.
pub(crate) fn wall(jail: &ObservedJail, sessions: &[ProcessFacts]) -> Option<Wall> {
    if sessions.is_empty() {
        return None;
    }
    let evidence = format!(
        "{} process(es) of an FTP server, each without rights over the host: in the jail's user namespace with another view of files, \
         capabilities within {:#x}, a filter and no_new_privs, or without any capability at all (/proc/PID/ns, status)",
        sessions.len(),
        CAPABILITIES.0
    );
    let wrong: Vec<String> =
        sessions.iter().filter(|process| !is_jailed(jail, process) && !is_harmless(jail, process)).map(shown).collect();
    let mut wall = Wall::new("ftp", evidence);
    if !wrong.is_empty() {
        wall.violations.push(finding::FTP_UNJAILED.violation(finding::list(wrong.into_iter())));
    }
    Some(wall)
}

/// Whether a process is in the tenant's group, or in its FTP group, in every hierarchy that has one.
fn is_limited(jail: &ObservedJail, process: &ProcessFacts) -> bool {
    jail.cgroups.iter().all(|(hierarchy, own)| {
        let below = process.cgroups.get(hierarchy).and_then(|path| path.strip_prefix(own.as_str()));
        below.is_some_and(|below| below.is_empty() || below == GROUP)
    })
}

/// Whether a process that serves a client is confined to the jail.
fn is_jailed(jail: &ObservedJail, process: &ProcessFacts) -> bool {
    let namespace = |kind| process.namespaces.get(kind);
    let own_view = namespace("mnt").is_some_and(|mounts| !jail.host_namespaces.contains(mounts));
    let capabilities = process.cap_permitted | process.cap_bounding | process.cap_inheritable | process.cap_ambient;
    is_limited(jail, process)
        && namespace("user").is_some_and(|user| Some(user) == jail.init.namespaces.get("user"))
        && own_view
        && capabilities & !CAPABILITIES.0 == 0
        && process.seccomp == 2
        && process.no_new_privs
}

/// Whether a process is harmless: it has no capability and can gain none. The server starts one such process for TLS.
fn is_harmless(jail: &ObservedJail, process: &ProcessFacts) -> bool {
    let capabilities = process.cap_permitted | process.cap_inheritable | process.cap_ambient;
    is_limited(jail, process) && capabilities == 0 && process.uids.iter().all(|uid| *uid != 0) && process.no_new_privs
}
