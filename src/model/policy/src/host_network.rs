//! Reads and writes `network` of `bailiwick.toml`: the addresses of jails, their resolvers, what no jail reaches, and the
//! ports of the host that tenants may publish.

use crate::diagnostic::Problem;
use crate::host::not_root;
use crate::network::{at_most, list, prefix, quoted};
use crate::reader::{Report, Section, Span, Table, distinct, parsed, switch, text};
use bailiwick_types::{ALWAYS_BLOCKED, HostNetwork, IdPool, Ipv6Pool, PortRange, Prefix};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use toml::Spanned;
use toml::de::DeValue;

pub(crate) const HOST_NETWORK: Section = Section {
    title: "in \"network\"",
    keys: &["user", "ipv4", "ipv6", "resolvers", "cache", "cache_user", "block", "ports"],
};

/// The program that is the cache of names, where Debian's package "unbound" has it.
pub const UNBOUND: &str = "/usr/sbin/unbound";

/// The C library asks no more (`resolv.conf(5)`).
const MAX_RESOLVERS: usize = 3;
const MAX_BLOCK: usize = 256;
/// Addresses of the pool that no tenant gets.
const SPARE: u32 = 16;
/// The first port that a program needs no right to listen on.
const FIRST_PORT: u16 = 1024;
const ROUTER_USER: &str = "give it a user of its own, such as \"bailiwick-net\"";
const CACHE_USER: &str = "give it a user of its own, such as \"bailiwick-dns\"";
const THREE_USERS: &str = "give each a user of its own, such as \"bailiwick\", \"bailiwick-net\" and \"bailiwick-dns\"";
const UPSTREAM: &str = "write the resolver that the host itself asks, or resolvers = [] for all of these";

/// Reads what the host has for networks. `ids` says how many tenants need an address, and `daemon` is the user of `bailiwickd`.
pub(crate) fn read(
    report: &mut Report<'_>,
    top: &Table<'_, '_>,
    file: &'static [Section],
    ids: IdPool,
    daemon: &str,
) -> HostNetwork {
    let table = top.filled_table(report, "network", &HOST_NETWORK, file);
    let network = table.as_ref().map_or_else(HostNetwork::default, |table| read_keys(report, table, ids));
    refuse_same_users(report, [table.as_ref(), Some(top)], &network, daemon);
    network
}

fn read_keys(report: &mut Report<'_>, table: &Table<'_, '_>, ids: IdPool) -> HostNetwork {
    let mut network = HostNetwork::default();
    network.user = table.read(report, "user", user).map_or(network.user, Spanned::into_inner);
    let ipv4 = table.read(report, "ipv4", |value| ipv4(value, ids));
    let ipv6 = table.read(report, "ipv6", ipv6);
    let pool_place: Option<Span> = ipv4.as_ref().map(Spanned::span).or(ipv6.as_ref().map(Spanned::span));
    network.ipv4 = ipv4.map_or(network.ipv4, Spanned::into_inner);
    network.ipv6 = ipv6.map_or(network.ipv6, Spanned::into_inner);
    if let Some(resolvers) = table.list(report, "resolvers", resolver) {
        at_most(report, &resolvers, MAX_RESOLVERS, "resolvers");
        for resolver in resolvers.get_ref() {
            let address = *resolver.get_ref();
            if let Some(pool) = network.pools().find(|pool| pool.contains(address)) {
                report.error(resolver.span(), || resolver_in_pool(address, pool, pool_place.is_some()));
            }
        }
        network.resolvers = distinct(report, resolvers.into_inner(), IpAddr::to_string);
    }
    network.cache = table.read(report, "cache", switch).is_some_and(Spanned::into_inner);
    let cache_user = table.read(report, "cache_user", cache_user);
    network.cache_user = cache_user.map_or(network.cache_user, Spanned::into_inner);
    if let Some(block) = table.list(report, "block", prefix) {
        at_most(report, &block, MAX_BLOCK, "blocked prefixes");
        network.block = distinct(report, block.into_inner(), Prefix::to_string);
    }
    network.ports = table.read(report, "ports", ports).map(Spanned::into_inner);
    network
}

/// Reads the user that is root in the router. It must not be root of the host.
fn user(value: &DeValue<'_>) -> Result<String, Problem> {
    not_root(value, "user", || Problem::new("the router must not belong to root").hint(ROUTER_USER))
}

/// Reads the user that the cache runs as. It must not be root of the host.
fn cache_user(value: &DeValue<'_>) -> Result<String, Problem> {
    not_root(value, "user", || Problem::new("the cache must not run as root").hint(CACHE_USER))
}

/// Reports a user that two of bailiwickd, the router and the cache would have: each could do what only the other may. The
/// problem is where one of the two is written, in one of `tables`.
fn refuse_same_users(
    report: &mut Report<'_>,
    tables: [Option<&Table<'_, '_>>; 2],
    network: &HostNetwork,
    daemon: &str,
) {
    let HostNetwork { user, cache_user, .. } = network;
    let (of_daemon, of_router) = ((daemon, "the user of bailiwickd"), (&user[..], "the router's user"));
    for (key, what, user, others) in [
        ("user", "the router must not belong to", user, &[of_daemon][..]),
        ("cache_user", "the cache must not run as", cache_user, &[of_router, of_daemon]),
    ] {
        let Some((_, whose)) = others.iter().find(|(other, _)| other == user) else { continue };
        let written = tables.into_iter().flatten().find_map(|table| table.get(key).or_else(|| table.get("user")));
        report.error(written.map(Spanned::span).unwrap_or_default(), || {
            Problem::new(format!("{what} \"{user}\", {whose}")).hint(THREE_USERS)
        });
    }
}

/// Reads a pool, and checks that its addresses are nobody else's.
fn pool(value: &DeValue<'_>, lengths: RangeInclusive<u8>, example: &str) -> Result<Prefix, Problem> {
    let pool = prefix(value)?;
    let hint = format!("write one such as \"{example}\"");
    if pool.address().is_ipv4() != example.contains('.') {
        return Err(Problem::new(format!("\"{pool}\" is of the other family")).hint(hint));
    }
    if !lengths.contains(&pool.length()) {
        let (least, most) = lengths.into_inner();
        return Err(Problem::new(format!("\"{pool}\" has a length of {}", pool.length()))
            .hint(format!("write a length from /{least} to /{most}, such as \"{example}\"")));
    }
    let is_foreign = |blocked: &Prefix| blocked.overlaps(pool);
    let own = ALWAYS_BLOCKED.iter().any(|blocked| blocked.is_private() && blocked.prefix.covers(pool));
    match ALWAYS_BLOCKED.iter().find(|blocked| is_foreign(&blocked.prefix)).filter(|_| !own) {
        Some(blocked) => {
            let problem = format!("\"{pool}\" overlaps \"{}\", which is {}", blocked.prefix, blocked.what);
            Err(Problem::new(format!("{problem} ({})", blocked.source)).hint(hint))
        }
        None => Ok(pool),
    }
}

fn ipv4(value: &DeValue<'_>, ids: IdPool) -> Result<Prefix, Problem> {
    let pool = pool(value, 8..=24, "100.64.0.0/10")?;
    let tenants = ids.ranges();
    let needed = tenants.saturating_add(SPARE);
    if pool.addresses() < u128::from(needed) {
        let length = needed.next_power_of_two().leading_zeros() + 1;
        let problem = format!("\"{pool}\" has {} addresses, and there are ids for {tenants} tenants", pool.addresses());
        return Err(
            Problem::new(problem).hint(format!("write a prefix of /{length} or shorter: \"100.64.0.0/{length}\""))
        );
    }
    Ok(pool)
}

fn ipv6(value: &DeValue<'_>) -> Result<Ipv6Pool, Problem> {
    match text(value)? {
        "auto" => Ok(Ipv6Pool::Auto),
        "off" => Ok(Ipv6Pool::Off),
        // The smallest one has more addresses than there are ids.
        prefix if prefix.contains(['.', ':']) => pool(value, 48..=64, "fd12:3456:789a::/48").map(Ipv6Pool::Prefix),
        other => Err(Problem::new(format!("unknown word {other:?}"))
            .hint("\"auto\", \"off\", or a prefix such as \"fd12:3456:789a::/48\"")),
    }
}

fn resolver(value: &DeValue<'_>) -> Result<IpAddr, Problem> {
    let text = text(value)?;
    let address: IpAddr = text.parse().map_err(|_| {
        Problem::new(format!("{text:?} is no address")).hint("write one such as \"9.9.9.9\", without a port")
    })?;
    let is_mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let is_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let why = if address.is_loopback() {
        "is the jail itself, inside a jail"
    } else if address.is_unspecified() {
        "is no address of a host"
    } else if address.is_multicast() {
        "is multicast"
    } else if is_mapped {
        "is IPv4, written as IPv6"
    } else if is_local {
        "is link-local, and a jail has another link"
    } else {
        return Ok(address);
    };
    Err(Problem::new(format!("\"{address}\" {why}")).hint(UPSTREAM))
}

/// The problem of a resolver with an address of a jail.
fn resolver_in_pool(address: IpAddr, pool: Prefix, is_own_pool: bool) -> Problem {
    let problem = Problem::new(format!("\"{address}\" is in \"{pool}\": a resolver inside a tenant"));
    if is_own_pool {
        problem.hint(UPSTREAM)
    } else {
        problem.hint("choose another pool for jails, such as ipv4 = \"10.128.0.0/10\"")
    }
}

fn ports(value: &DeValue<'_>) -> Result<PortRange, Problem> {
    let hint = "write a range such as \"40000-49999\", from 1024 on";
    let ports: PortRange = parsed(value).map_err(|problem: Problem| problem.or_hint(hint))?;
    if ports.first() < FIRST_PORT {
        return Err(Problem::new(format!("\"{ports}\" has ports of the host's own services")).hint(hint));
    }
    Ok(ports)
}

/// Writes what the host has for networks.
pub(crate) fn write(network: &HostNetwork) -> String {
    let HostNetwork { user, ipv4, ipv6, resolvers, cache, cache_user, block, ports } = network;
    let ipv6 = match ipv6 {
        Ipv6Pool::Auto => "auto".to_owned(),
        Ipv6Pool::Off => "off".to_owned(),
        Ipv6Pool::Prefix(prefix) => prefix.to_string(),
    };
    let (resolvers, block) = (list(resolvers.iter().map(quoted)), list(block.iter().map(quoted)));
    let ports = ports.map(|ports| format!(", ports = \"{ports}\"")).unwrap_or_default();
    let (user, cache_user) = (quoted(user), quoted(cache_user));
    format!(
        "network = {{ user = {user}, ipv4 = \"{ipv4}\", ipv6 = \"{ipv6}\", resolvers = {resolvers}, cache = {cache}, \
         cache_user = {cache_user}, block = {block}{ports} }}\n"
    )
}
