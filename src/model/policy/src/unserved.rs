//! Finds words of a plan or a tenant that nothing serves: what is behind a closed door, what the host does not lend, and a time
//! to sleep that never comes.
//!
//! Each is an error of its file, because it reads as if it had an effect.

use crate::diagnostic::Problem;
use crate::model::{Host, Settings, Tenant};
use crate::suggest::nearest;
use bailiwick_types::{Door, HostSocketName};

/// The words of settings, each with its key.
pub(crate) fn of_settings(settings: &Settings, host: &Host) -> Vec<(&'static str, Problem)> {
    let mut all = Vec::new();
    let known = &host.host_sockets;
    if let Some(name) = settings.host_sockets.iter().find(|name| !known.contains_key(*name)) {
        let problem = Problem::new(format!("the host lends no socket \"{name}\""));
        all.push((
            "host_sockets",
            match nearest(name.as_str(), known.keys().map(HostSocketName::as_str)) {
                Some(meant) => problem.hint(format!("did you mean \"{meant}\"?")),
                None => problem.hint("declare it as [[host_socket]] in bailiwick.toml, or remove it"),
            },
        ));
    }
    let awake = settings.services.iter().find(|service| service.sockets.is_empty());
    if let Some(service) = awake.filter(|_| settings.sleep.is_some()) {
        let problem =
            Problem::new(format!("the service \"{}\" has no socket, so its tenant never sleeps", service.name));
        all.push((
            "service",
            problem.hint("nothing could wake it; write after = \"never\" below [sleep], or take the service away"),
        ));
    }
    all
}

/// The timers, FTP logins and sockets of a tenant that are behind a closed door.
pub(crate) fn of_doors(tenant: &Tenant) -> impl Iterator<Item = (&'static str, Problem)> {
    let has_sockets = tenant.settings.services.iter().any(|service| !service.sockets.is_empty());
    let needs = [
        (Door::Cron, "timer", "timer", !tenant.timers.is_empty()),
        (Door::Ftp, "ftp", "ftp", !tenant.ftp.is_empty()),
        (Door::Socket, "socket", "service.socket", has_sockets),
    ];
    let is_useless = |(door, _, _, is_there): &(Door, _, _, bool)| *is_there && !tenant.settings.doors.contains(door);
    needs.into_iter().filter(is_useless).map(|(door, key, header, _)| {
        let problem = Problem::new(format!("the door \"{door}\" is closed, so no [[{header}]] is of use"));
        (key, problem.hint(format!("add \"{door}\" to `doors`, or remove it")))
    })
}
