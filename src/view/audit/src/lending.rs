//! The programs that serve sockets of the host which are lent to a tenant. They are in the tenant's control groups and on the
//! host, so their walls differ from those of the jail's own processes.

use crate::finding;
use crate::walls::{Wall, shown};
use bailiwick_plan::lending::{COMMAND, GROUP, MAIL, MAIL_COMMAND, names};
use bailiwick_policy::{Host, Tenant};
use bailiwick_types::{IdRange, ObservedJail, ProcessFacts, UNIFIED};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// The name of the lent socket in whose group a process is; `None` when it is in no such group.
fn socket_of<'a>(jail: &ObservedJail, process: &'a ProcessFacts) -> Option<&'a str> {
    let own = jail.cgroups.get(UNIFIED)?;
    process.cgroups.get(UNIFIED)?.strip_prefix(own.as_str())?.strip_prefix('/')?.strip_prefix(GROUP)
}

/// Splits a jail into the jail without the processes that serve lent sockets, and those processes.
pub(crate) fn apart(jail: &ObservedJail) -> (Cow<'_, ObservedJail>, Vec<ProcessFacts>) {
    let is_one = |process: &ProcessFacts| socket_of(jail, process).is_some() && process.pid != jail.init.pid;
    if !jail.processes.iter().any(is_one) {
        return (Cow::Borrowed(jail), Vec::new());
    }
    let mut rest = jail.clone();
    let (lenders, own) = jail.processes.iter().cloned().partition(is_one);
    rest.processes = own;
    (Cow::Owned(rest), lenders)
}

/// The wall of these processes; `None` when there are none.
pub(crate) fn wall(
    tenant: &Tenant,
    host: &Host,
    ids: Option<IdRange>,
    jail: &ObservedJail,
    lenders: &[ProcessFacts],
) -> Option<Wall> {
    if lenders.is_empty() {
        return None;
    }
    let evidence = format!(
        "{} process(es) that serve sockets of the host, each the tenant's host user without any capability, with a filter of its \
         own, no_new_privs, the jail's network and a root of its own (/proc/PID/ns, status)",
        lenders.len()
    );
    let mut wall = Wall::new("lending", evidence);
    let user = ids.map(|ids| host.ids.host_user(ids).0);
    let foreign: Vec<String> = lenders.iter().filter(|process| !is_ours(jail, user, process)).map(shown).collect();
    if !foreign.is_empty() {
        wall.violations.push(finding::LENDER_FOREIGN.violation(finding::list(foreign.into_iter())));
    }
    // What the host's sendmail has started may outlive the server of mail.
    let serves = |process: &&ProcessFacts| socket_of(jail, process) != Some(MAIL) || process.command == MAIL_COMMAND;
    let served: BTreeSet<&str> = lenders.iter().filter(serves).filter_map(|process| socket_of(jail, process)).collect();
    let declared = |name: &&str| names(&tenant.settings).iter().any(|own| own.as_str() == *name);
    let undeclared: Vec<String> =
        served.into_iter().filter(|name| !declared(name)).map(|name| format!("\"{name}\" is lent")).collect();
    if !undeclared.is_empty() {
        wall.violations.push(finding::LENT_OTHER.violation(finding::list(undeclared.into_iter())));
    }
    Some(wall)
}

/// Whether a process is confined as the warden confines the program that serves a lent socket. The filter of the warden, which
/// every jail inherits, and that of the program make two.
fn is_ours(jail: &ObservedJail, user: Option<u32>, process: &ProcessFacts) -> bool {
    let namespace = |kind| process.namespaces.get(kind);
    let is_jails = |kind| namespace(kind).is_some_and(|own| Some(own) == jail.init.namespaces.get(kind));
    let own_root = namespace("mnt").is_some_and(|own| !jail.host_namespaces.contains(own)) && !is_jails("mnt");
    let capabilities = process.cap_permitted | process.cap_bounding | process.cap_inheritable | process.cap_ambient;
    let is_limited = jail.cgroups.iter().all(|(hierarchy, own)| {
        let below = process.cgroups.get(hierarchy).and_then(|path| path.strip_prefix(own.as_str()));
        below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    });
    if socket_of(jail, process) == Some(MAIL) {
        // The server of mail, and what the host's sendmail has started, which may be of any user.
        let is_server = process.command == MAIL_COMMAND;
        let is_users = user.is_some_and(|user| process.uids == [user; 4]) && process.cap_permitted == 0;
        return is_limited && !is_jails("user") && (is_users || !is_server);
    }
    process.command == COMMAND
        && user.is_some_and(|user| process.uids == [user; 4])
        && capabilities == 0
        && process.no_new_privs
        && process.seccomp == 2
        && process.seccomp_filters >= 2
        && own_root
        && is_jails("net")
        && is_limited
}
