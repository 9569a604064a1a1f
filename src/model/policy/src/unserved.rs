//! Finds words of a plan or a tenant that nothing serves: what is behind a closed door, what the host does not lend or blocks,
//! a time to sleep that never comes, and a network through which nothing passes.
//!
//! Each is an error of its file, because it reads as if it had an effect.

use crate::diagnostic::Problem;
use crate::model::{Host, Settings, Tenant};
use crate::notices;
use crate::place::Place;
use crate::suggest::nearest;
use bailiwick_types::{
    Bound, Destination, Door, HostNetwork, HostSocketName, Nesting, Network, NetworkMode, Ports, Profile, WhenOver,
};

/// The port of questions for names.
const DNS_PORT: u16 = 53;

/// The words of settings, each with its place.
pub(crate) fn of_settings(settings: &Settings, host: &Host) -> Vec<(Place, Problem)> {
    let mut all = Vec::new();
    let known = &host.host_sockets;
    if let Some(name) = settings.host_sockets.iter().find(|name| !known.contains_key(*name)) {
        let problem = Problem::new(format!("the host lends no socket \"{name}\""));
        all.push((
            Place::Key("host_sockets".into()),
            match nearest(name.as_str(), known.keys().map(HostSocketName::as_str)) {
                Some(meant) => problem.hint(format!("did you mean \"{meant}\"?")),
                None => problem.hint("declare it as [[host_socket]] in bailiwick.toml, or remove it"),
            },
        ));
    }
    if settings.nesting == Nesting::Allowed && settings.profile != Profile::System {
        let problem =
            Problem::new(format!("nesting = true, but no jail of the profile \"{}\" nests", settings.profile));
        all.push((Place::Key("nesting".into()), problem.hint("write profile = \"system\", or remove it")));
    }
    let awake = settings.services.iter().find(|service| service.sockets.is_empty());
    if let Some(service) = awake.filter(|_| settings.sleep.is_some()) {
        let problem =
            Problem::new(format!("the service \"{}\" has no socket, so its tenant never sleeps", service.name));
        all.push((
            Place::Key("service".into()),
            problem.hint("nothing could wake it; write after = \"never\" below [sleep], or take the service away"),
        ));
    }
    all.extend(notices::without_admin(&settings.notices, &host.contact));
    if settings.network.mode != NetworkMode::None {
        all.extend(of_network(&settings.network, &host.network));
        all.extend(without_effect(&settings.network));
    }
    all
}

/// The words of a network that contradict each other, or what every network has.
fn without_effect(network: &Network) -> Vec<(Place, Problem)> {
    let Network { allow, ports, smtp, up, down, month, .. } = network;
    let mut all = Vec::new();
    let is_dns = |ports: &&Ports| matches!(ports, Ports::Range { range, .. } if range.first() == DNS_PORT && range.last() == DNS_PORT);
    let own = allow
        .iter()
        .enumerate()
        .flat_map(|(index, allow)| allow.ports.iter().flatten().map(move |ports| (index, ports)));
    let at_ports = ports.iter().enumerate().map(|(index, ports)| (Place::Ports(index), ports));
    let at_allow = own.clone().map(|(index, ports)| (Place::Allow(index), ports));
    for (place, port) in at_ports.chain(at_allow).filter(|(_, ports)| is_dns(ports)) {
        let remedy = if ports.contains(&Ports::Dns) {
            "remove it: \"dns\" is in \"ports\""
        } else {
            "write \"dns\" into \"ports\" instead"
        };
        let problem =
            Problem::new(format!("\"{port}\" reaches nobody: jails ask the resolvers of the host, and no others"));
        all.push((place, problem.hint(remedy)));
    }
    if *smtp && !ports.iter().chain(own.map(|(_, ports)| ports)).any(|ports| ports.has_smtp()) {
        let problem = Problem::new("smtp = true, but no port for mail is in \"ports\"");
        let hint = "add the port, such as \"tcp/587\", to \"ports\", or write smtp = false";
        all.push((Place::Network(&["smtp", "ports", "allow"]), problem.hint(hint)));
    }
    let top = match (up, down) {
        (Bound::At(up), Bound::At(down)) => Some(*up.max(down)),
        _ => None,
    };
    let then = month.as_ref().map(|month| &month.then);
    if let (Some(top), Some(WhenOver::Shape(rate))) = (top, then)
        && *rate >= top
    {
        let problem =
            Problem::new(format!("then = \"shape {rate}\" slows nothing: \"up\" and \"down\" are not above it"));
        let hint = format!("write a rate below {top}, or then = \"notify\"");
        all.push((Place::Network(&["month", "up", "down"]), problem.hint(hint)));
    }
    all
}

/// The problem of a tenant with a network through which nothing passes. A link or a published port passes by itself.
fn sends_nothing(tenant: &Tenant) -> Option<(Place, Problem)> {
    let Network { mode, allow, ports, .. } = &tenant.settings.network;
    let sends = allow.iter().any(|allow| !allow.ports.as_ref().unwrap_or(ports).is_empty());
    if *mode != NetworkMode::Outbound || sends || !tenant.links.is_empty() {
        return None;
    }
    let (place, key, example) = if allow.is_empty() {
        (Place::Network(&["allow"]), "allow", "allow = [\"0.0.0.0/0\", \"::/0\"]")
    } else {
        (Place::Network(&["ports"]), "ports", "ports = [\"tcp/443\", \"dns\"]")
    };
    let problem = Problem::new(format!("mode = \"outbound\", but {key} = [] lets nothing out"));
    Some((place, problem.hint(format!("write one such as {example}, or mode = \"none\""))))
}

/// The destinations that the host blocks, and the ports that it does not give away.
fn of_network(network: &Network, host: &HostNetwork) -> Vec<(Place, Problem)> {
    let mut all = Vec::new();
    for (index, allow) in network.allow.iter().enumerate() {
        let Destination::Prefix(prefix) = allow.to else { continue };
        let place = Place::Allow(index);
        if let Some(block) = host.block.iter().find(|block| block.covers(prefix)) {
            let problem = Problem::new(format!("\"{prefix}\" is always blocked: bailiwick.toml blocks \"{block}\""));
            all.push((place, problem.hint("remove it, here or there")));
        } else if let Some(pool) = host.pools().find(|pool| pool.covers(prefix)) {
            let problem = Problem::new(format!("\"{prefix}\" is always blocked: \"{pool}\" is the pool of jails"));
            all.push((place, problem.hint("remove it; [[link]] leads to another tenant")));
        }
    }
    for (index, publish) in network.publish.iter().enumerate() {
        let port = publish.host_port();
        match host.ports {
            None => {
                let problem = Problem::new("the host has no ports that tenants may publish");
                let hint = "name them in bailiwick.toml, such as network = { ports = \"40000-49999\" }";
                all.push((Place::Key("publish".into()), problem.hint(hint)));
                break;
            }
            Some(ports) if !ports.contains(port.number) => {
                let problem = Problem::new(format!("the host's port \"{port}\" is not one that tenants may publish"));
                let hint = format!("choose one of {ports}, which bailiwick.toml gives away");
                all.push((Place::Publish(index), problem.hint(hint)));
            }
            Some(_) => {}
        }
    }
    all
}

/// The timers, FTP logins and sockets of a tenant that are behind a closed door, and a network without a use.
pub(crate) fn of_tenant(tenant: &Tenant) -> impl Iterator<Item = (Place, Problem)> {
    let has_sockets = tenant.settings.services.iter().any(|service| !service.sockets.is_empty());
    let needs = [
        (Door::Cron, "timer", "timer", !tenant.timers.is_empty()),
        (Door::Ftp, "ftp", "ftp", !tenant.ftp.is_empty()),
        (Door::Socket, "socket", "service.socket", has_sockets),
    ];
    let is_useless = |(door, _, _, is_there): &(Door, _, _, bool)| *is_there && !tenant.settings.doors.contains(door);
    let behind_doors = needs.into_iter().filter(is_useless).map(|(door, key, header, _)| {
        let problem = Problem::new(format!("the door \"{door}\" is closed, so no [[{header}]] is of use"));
        (Place::Key(key.into()), problem.hint(format!("add \"{door}\" to `doors`, or remove it")))
    });
    behind_doors.chain(sends_nothing(tenant))
}
