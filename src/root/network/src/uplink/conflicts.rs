//! Addresses of jails that the host uses already: one more route to them would take the host's own traffic away.

use bailiwick_netlink::Error;
use bailiwick_netlink::route::{Family, Link, Prefix, Route, RouteSocket};
use bailiwick_plan::network::{self, Pools};
use bailiwick_types as types;

/// The addresses of jails are used already.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the addresses of jails, {pool}, are used on this host: {what}; set another prefix as \"{key}\" below [network] in bailiwick.toml"
)]
pub(crate) struct Conflict {
    pool: types::Prefix,
    key: &'static str,
    what: String,
}

/// Looks for addresses and routes of the host that overlap with those of jails.
pub(crate) fn check(socket: &mut RouteSocket, pools: Pools) -> Result<(), super::UplinkError> {
    let links = socket.links()?;
    let own = links.iter().find(|link| link.name == network::HOST_LINK).map(|link| link.index);
    let all =
        std::iter::once((pools.ipv4(), "ipv4", Family::V4)).chain(pools.ipv6().map(|pool| (pool, "ipv6", Family::V6)));
    for (pool, key, family) in all {
        if let Some(what) = used(socket, &links, own, (pool, family))? {
            return Err(Conflict { pool, key, what }.into());
        }
    }
    Ok(())
}

fn used(
    socket: &mut RouteSocket,
    links: &[Link],
    own: Option<u32>,
    (pool, family): (types::Prefix, Family),
) -> Result<Option<String>, Error> {
    let name = |index: Option<u32>| {
        links.iter().find(|link| Some(link.index) == index).map_or("another link", |link| link.name.as_str())
    };
    let addresses = socket.addresses()?;
    let address = addresses.iter().find(|other| Some(other.link) != own && pool.contains(other.address));
    if let Some(address) = address {
        return Ok(Some(format!("{} is an address of {}", address.address, name(Some(address.link)))));
    }
    // A default route overlaps with everything, and the host may have one.
    let overlaps = |route: &&Route| route.link != own && route.destination.len > 0 && overlap(pool, route.destination);
    let routes = socket.routes(family, Some(Route::MAIN))?;
    Ok(routes
        .iter()
        .find(overlaps)
        .map(|route| format!("a route leads to {} over {}", route.destination, name(route.link))))
}

fn overlap(pool: types::Prefix, other: Prefix) -> bool {
    types::Prefix::new(other.address, other.len).is_ok_and(|other| pool.overlaps(other))
}
