//! Finds words of a plan or a tenant that nothing serves: what is behind a closed door, what the host does not lend or blocks,
//! and a time to sleep that never comes.
//!
//! Each is an error of its file, because it reads as if it had an effect.

use crate::diagnostic::Problem;
use crate::model::{Host, Settings, Tenant};
use crate::suggest::nearest;
use bailiwick_types::{Destination, Door, HostNetwork, HostSocketName, Nesting, Network, NetworkMode, Profile};
use std::borrow::Cow;

/// The key or the text that a problem is about, by which its place is found.
type Key = Cow<'static, str>;

/// The words of settings, each with its key.
pub(crate) fn of_settings(settings: &Settings, host: &Host) -> Vec<(Key, Problem)> {
    let mut all = Vec::new();
    let known = &host.host_sockets;
    if let Some(name) = settings.host_sockets.iter().find(|name| !known.contains_key(*name)) {
        let problem = Problem::new(format!("the host lends no socket \"{name}\""));
        all.push((
            "host_sockets".into(),
            match nearest(name.as_str(), known.keys().map(HostSocketName::as_str)) {
                Some(meant) => problem.hint(format!("did you mean \"{meant}\"?")),
                None => problem.hint("declare it as [[host_socket]] in bailiwick.toml, or remove it"),
            },
        ));
    }
    if settings.nesting == Nesting::Allowed && settings.profile != Profile::System {
        let problem =
            Problem::new(format!("nesting = true, but no jail of the profile \"{}\" nests", settings.profile));
        all.push(("nesting".into(), problem.hint("write profile = \"system\", or remove it")));
    }
    let awake = settings.services.iter().find(|service| service.sockets.is_empty());
    if let Some(service) = awake.filter(|_| settings.sleep.is_some()) {
        let problem =
            Problem::new(format!("the service \"{}\" has no socket, so its tenant never sleeps", service.name));
        all.push((
            "service".into(),
            problem.hint("nothing could wake it; write after = \"never\" below [sleep], or take the service away"),
        ));
    }
    if settings.network.mode != NetworkMode::None {
        all.extend(of_network(&settings.network, &host.network));
    }
    all
}

/// The destinations that the host blocks, and the ports that it does not give away.
fn of_network(network: &Network, host: &HostNetwork) -> Vec<(Key, Problem)> {
    let mut all = Vec::new();
    for allow in &network.allow {
        let Destination::Prefix(prefix) = allow.to else { continue };
        let key = format!("\"{prefix}\"");
        if let Some(block) = host.block.iter().find(|block| block.covers(prefix)) {
            let problem = Problem::new(format!("\"{prefix}\" is always blocked: bailiwick.toml blocks \"{block}\""));
            all.push((key.into(), problem.hint("remove it, here or there")));
        } else if let Some(pool) = host.pools().find(|pool| pool.covers(prefix)) {
            let problem = Problem::new(format!("\"{prefix}\" is always blocked: \"{pool}\" is the pool of jails"));
            all.push((key.into(), problem.hint("remove it; [[link]] leads to another tenant")));
        }
    }
    for publish in &network.publish {
        let port = publish.host_port();
        match host.ports {
            None => {
                let problem = Problem::new("the host has no ports that tenants may publish");
                let hint = "name them in bailiwick.toml, such as network = { ports = \"40000-49999\" }";
                all.push(("publish".into(), problem.hint(hint)));
                break;
            }
            Some(ports) if !ports.contains(port.number) => {
                let problem = Problem::new(format!("the host's port \"{port}\" is not one that tenants may publish"));
                let hint = format!("choose one of {ports}, which bailiwick.toml gives away");
                all.push((format!("\"{port}\"").into(), problem.hint(hint)));
            }
            Some(_) => {}
        }
    }
    all
}

/// The timers, FTP logins and sockets of a tenant that are behind a closed door, and its links.
pub(crate) fn of_tenant(tenant: &Tenant) -> impl Iterator<Item = (Key, Problem)> {
    let has_sockets = tenant.settings.services.iter().any(|service| !service.sockets.is_empty());
    let needs = [
        (Door::Cron, "timer", "timer", !tenant.timers.is_empty()),
        (Door::Ftp, "ftp", "ftp", !tenant.ftp.is_empty()),
        (Door::Socket, "socket", "service.socket", has_sockets),
    ];
    let is_useless = |(door, _, _, is_there): &(Door, _, _, bool)| *is_there && !tenant.settings.doors.contains(door);
    needs.into_iter().filter(is_useless).map(|(door, key, header, _)| {
        let problem = Problem::new(format!("the door \"{door}\" is closed, so no [[{header}]] is of use"));
        (key.into(), problem.hint(format!("add \"{door}\" to `doors`, or remove it")))
    })
}
