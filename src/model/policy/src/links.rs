//! Reads and writes `[[link]]` of tenants, and finds links and published ports that two tenants' files contradict each other
//! about.
//!
//! A connection between two tenants needs both files. Each holds one half, and [`Policy::links`] has those with both. So a
//! tenant that takes its half back ends the connection, even when the other one's file cannot be read.

use crate::diagnostic::Problem;
use crate::folder::{TENANTS, file_name};
use crate::items;
use crate::model::{Policy, Tenant};
use crate::network::at_most;
use crate::place::Place;
use crate::reader::{Report, Section, Table, parsed, parsed_name};
use crate::suggest::nearest;
use bailiwick_types::{Link, LinkDirection, NetworkMode, Port, TenantName};
use std::collections::{BTreeMap, BTreeSet};
use toml::Spanned;
use toml::de::DeValue;

pub(crate) const LINK: Section = Section { title: "below [[link]]", keys: &["port", "to", "from"] };

/// The most links of a tenant.
const MAX_LINKS: usize = 64;

/// Reads the links of the tenant `name`.
pub(crate) fn read(
    report: &mut Report<'_>,
    top: &Table<'_, '_>,
    file: &'static [Section],
    name: &TenantName,
) -> Vec<Link> {
    let mut known = BTreeSet::new();
    let links = items::tables(report, top, "link", &LINK, |report, entry| {
        let link = read_link(report, entry, file, name)?;
        if !known.insert(link.clone()) {
            report.error(entry.span(), || Problem::new("the same link is there twice").hint("take one of them out"));
        }
        Some(link)
    });
    if let Some(list) = top.get("link") {
        at_most(report, &Spanned::new(list.span(), links.iter().collect()), MAX_LINKS, "links");
    }
    links
}

fn read_link(
    report: &mut Report<'_>,
    entry: &Spanned<DeValue<'_>>,
    file: &'static [Section],
    name: &TenantName,
) -> Option<Link> {
    let problems = report.count();
    let table = items::table(report, entry, "link", &LINK, file, 1)?;
    let to: Option<Spanned<TenantName>> = table.read(report, "to", peer);
    let from: Option<Spanned<TenantName>> = table.read(report, "from", peer);
    let port: Option<Spanned<Port>> = table.read(report, "port", parsed);
    let (direction, peer) = match (table.get("to"), table.get("from")) {
        (Some(_), None) => (LinkDirection::To, to?),
        (None, Some(_)) => (LinkDirection::From, from?),
        (Some(_), Some(_)) => {
            report.error(entry.span(), || {
                Problem::new("the link has \"to\" and \"from\"").hint("write two [[link]], one for each direction")
            });
            return None;
        }
        // A key that is written wrongly is reported already.
        (None, None) if report.count() > problems => return None,
        (None, None) => {
            report.error(entry.span(), || {
                Problem::new("the link has no \"to\" and no \"from\"")
                    .hint("write to = \"bob\" to connect to bob, or from = \"bob\" to let bob connect")
            });
            return None;
        }
    };
    if peer.get_ref() == name {
        report.error(peer.span(), || {
            Problem::new(format!("a link of \"{name}\" to itself"))
                .hint("remove it: programs of one jail reach each other without one")
        });
    }
    Some(Link { peer: peer.into_inner(), direction, port: port?.into_inner() })
}

/// Reads the name of the other tenant.
fn peer(value: &DeValue<'_>) -> Result<TenantName, Problem> {
    parsed_name(value, "write the name of a tenant; no tenant has this one")
}

/// The problem of a link of a tenant that has no network.
pub(crate) fn without_network() -> Problem {
    Problem::new("a link, but the tenant has no network")
        .hint("add mode = \"outbound\" below [network], or remove the link")
}

/// Writes the links.
pub(crate) fn write(links: &[Link]) -> String {
    let table =
        |Link { peer, direction, port }: &Link| format!("\n[[link]]\n{direction} = \"{peer}\"\nport = \"{port}\"\n");
    links.iter().map(table).collect()
}

/// What tenants' files contradict each other about: the tenant whose file is to be changed, where, and why. The tenants
/// `invalid` are declared, but their files have errors of their own.
pub(crate) fn contradictions<'p>(
    policy: &'p Policy,
    invalid: &BTreeSet<TenantName>,
) -> Vec<(&'p TenantName, Place, Problem)> {
    let mut found = Vec::new();
    let mut published: BTreeMap<Port, &TenantName> = BTreeMap::new();
    for tenant in policy.tenants.values() {
        for (index, link) in tenant.links.iter().enumerate().filter(|(_, link)| !invalid.contains(&link.peer)) {
            let problem = match policy.tenants.get(&link.peer) {
                None => Some(no_tenant(policy, &link.peer)),
                Some(peer) => without_consent(policy, tenant, link, peer),
            };
            found.extend(problem.map(|problem| (&tenant.name, Place::Link(index), problem)));
        }
        for (index, publish) in tenant.settings.network.publish.iter().enumerate() {
            let port = publish.host_port();
            if let Some(other) = published.get(&port) {
                let problem = Problem::new(format!("the host's port \"{port}\" is published for \"{other}\" too"));
                let hint =
                    "choose another port of the host: the jail that has it keeps it, and the other one does not start";
                found.push((&tenant.name, Place::Publish(index), problem.hint(hint)));
            } else {
                published.insert(port, &tenant.name);
            }
        }
    }
    found
}

fn no_tenant(policy: &Policy, name: &TenantName) -> Problem {
    let problem = Problem::warning(format!("there is no tenant \"{name}\""));
    match nearest(name.as_str(), policy.tenants.keys().map(TenantName::as_str)) {
        Some(meant) => problem.hint(format!("did you mean \"{meant}\"?")),
        // A later tenant of that name would have it.
        None => problem.hint("remove the link"),
    }
}

/// The problem of a link to a tenant that has not the other half.
fn without_consent(policy: &Policy, tenant: &Tenant, link: &Link, peer: &Tenant) -> Option<Problem> {
    if link.direction == LinkDirection::From || policy.consents(&tenant.name, link) {
        return None;
    }
    let (name, port, file) = (&tenant.name, link.port, format!("{TENANTS}/{}", file_name(&peer.name)));
    let lines = format!("[[link]] / from = \"{name}\" / port = \"{port}\"");
    let network = match peer.settings.network.mode {
        NetworkMode::None => "[network] / mode = \"outbound\" / ",
        NetworkMode::Outbound | NetworkMode::Published => "",
    };
    let problem = Problem::warning(format!("\"{}\" does not let \"{name}\" connect to its port \"{port}\"", peer.name));
    Some(problem.hint(format!("add these lines to {file}: {network}{lines}")))
}
