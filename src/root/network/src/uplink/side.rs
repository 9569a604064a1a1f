//! One side of the link between the host and the router: its interface, addresses, neighbours, routes and rules, as they should be,
//! and what is done about a difference.

use bailiwick_netlink::Error;
use bailiwick_netlink::route::{Address, Family, Link, Mac, Neighbour, Prefix, Route, RouteSocket, Rule, State};
use bailiwick_plan::network::{self, Addresses, Pools};
use std::net::IpAddr;

/// Before the rules of the kernel itself for the tables `main` and `default`, and after that for `local`.
const RULE_PRIORITY: u32 = 1000;

/// Jails have addresses beside those of another prefix.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "bailiwick.toml has {wanted} below [network], but the router has {there} still; write the earlier value again, or end every jail \
     with a network (`bailiwick stop NAME`), run `bailiwick-net --uplink` and start them some seconds later"
)]
pub(crate) struct OtherAddresses {
    /// The key with its value.
    pub(crate) wanted: String,
    /// The router's address.
    pub(crate) there: IpAddr,
}

/// One side, as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Side {
    /// The name of its interface.
    pub(crate) link: &'static str,
    addresses: Vec<IpAddr>,
    /// The other side: its addresses are those of neighbours for ever.
    neighbours: Vec<IpAddr>,
    neighbour_mac: Mac,
    /// Prefix, and the neighbour that leads there if the addresses are not on the link itself.
    routes: Vec<(Prefix, Option<IpAddr>)>,
    /// The table of these routes.
    table: u32,
    rules: Vec<Rule>,
}

/// The key of `bailiwick.toml` that gives jails other addresses than this one, with its value.
pub(crate) fn wanted_instead(pools: Pools, there: IpAddr) -> String {
    let ipv6 = || pools.ipv6().map_or_else(|| "off".to_owned(), |prefix| prefix.to_string());
    if there.is_ipv4() { format!("ipv4 = \"{}\"", pools.ipv4()) } else { format!("ipv6 = \"{}\"", ipv6()) }
}

/// The host's side: the addresses of jails are behind the router.
pub(crate) fn of_host(pools: Pools) -> Side {
    let (host, router) = (pools.host(), pools.router());
    let pool = |prefix: bailiwick_types::Prefix| Prefix { address: prefix.address(), len: prefix.length() };
    let ipv6 = pools.ipv6().zip(router.ipv6);
    let routes = std::iter::once((pool(pools.ipv4()), Some(IpAddr::V4(router.ipv4))));
    Side {
        link: network::HOST_LINK,
        addresses: host.all().collect(),
        neighbours: router.all().collect(),
        neighbour_mac: Mac(network::ROUTER_MAC),
        routes: routes.chain(ipv6.map(|(prefix, router)| (pool(prefix), Some(IpAddr::V6(router))))).collect(),
        table: Route::MAIN,
        rules: Vec::new(),
    }
}

/// The router's side: everything else is behind the host, for packets with the mark.
pub(crate) fn of_router(pools: Pools) -> Side {
    let (host, router) = (pools.host(), pools.router());
    let families = |addresses: Addresses| addresses.all().map(Family::of).collect::<Vec<_>>();
    let to_host = |address| (Prefix::all(Family::of(address)), Some(address));
    let rule = |family| Rule::for_mark(family, RULE_PRIORITY, network::MARK, u32::MAX, network::ROUTES);
    Side {
        link: network::ROUTER_LINK,
        addresses: router.all().collect(),
        neighbours: host.all().collect(),
        neighbour_mac: Mac(network::HOST_MAC),
        routes: host.all().map(to_host).collect(),
        table: network::ROUTES,
        rules: families(router).into_iter().map(rule).collect(),
    }
}

/// The router's side of the link to the cache of names: the cache's addresses are on it.
pub(crate) fn of_router_to_cache(pools: Pools) -> Side {
    Side {
        link: network::CACHE_LINK,
        addresses: Vec::new(),
        neighbours: pools.cache().all().collect(),
        neighbour_mac: Mac(network::CACHE_MAC),
        routes: pools.cache().all().map(|address| (Prefix::host(address), None)).collect(),
        table: network::ROUTES,
        rules: Vec::new(),
    }
}

/// The cache's side: everything is behind the router.
pub(crate) fn of_cache(pools: Pools) -> Side {
    let to_router = |address| (Prefix::all(Family::of(address)), Some(address));
    Side {
        link: network::INTERFACE,
        addresses: pools.cache().all().collect(),
        neighbours: pools.router().all().collect(),
        neighbour_mac: Mac(network::CACHE_GATEWAY_MAC),
        routes: pools.router().all().map(to_router).collect(),
        table: Route::MAIN,
        rules: Vec::new(),
    }
}

impl Side {
    /// Whether a route is one of its own.
    pub(crate) fn has_route(&self, route: &Route) -> bool {
        self.routes.contains(&(route.destination, route.via))
    }

    /// The rules that choose its tables of routes, beside those of the kernel.
    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The address of a family that the link has in place of the planned one: it was made when `bailiwick.toml` had another prefix.
    /// `there` are all addresses of the link.
    pub(crate) fn other_address(&self, there: &[Address]) -> Option<IpAddr> {
        [Family::V4, Family::V6].into_iter().find_map(|family| {
            let is_local = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
            let own = there.iter().map(|other| other.address);
            let own: Vec<_> = own.filter(|other| Family::of(*other) == family && !is_local(other)).collect();
            if own.iter().any(|other| self.addresses.contains(other)) { None } else { own.first().copied() }
        })
    }

    /// Makes this side what it should be; returns what was missing. Nothing that is right is touched. `link` is its interface.
    pub(crate) fn ensure(&self, socket: &mut RouteSocket, link: &Link) -> Result<Vec<String>, Error> {
        let mut added = Vec::new();
        if !link.is_up() {
            socket.set_link_state(link.index, State::Up)?;
            added.push(format!("{} was down", self.link));
        }
        let there = socket.addresses_of(link.index)?;
        for address in &self.addresses {
            let len = if address.is_ipv4() { 32 } else { 128 };
            let wanted = Address::new(link.index, *address, len);
            let is_there = |other: &Address| (other.address, other.prefix_len) == (*address, len);
            if !there.iter().any(is_there) {
                socket.add_address(&wanted)?;
                added.push(format!("{} lacked the address {address}", self.link));
            }
        }
        let there = socket.neighbours()?;
        for address in &self.neighbours {
            let wanted = Neighbour::permanent(link.index, *address, self.neighbour_mac);
            let is_there = |other: &Neighbour| {
                (other.link, other.address, other.mac) == (wanted.link, wanted.address, wanted.mac)
                    && other.is_permanent()
            };
            if !there.iter().any(is_there) {
                socket.replace_neighbour(&wanted)?;
                added.push(format!("{} lacked the neighbour {address}", self.link));
            }
        }
        added.extend(self.ensure_routes(socket, link)?);
        for rule in &self.rules {
            if !socket.rules(rule.family)?.contains(rule) {
                socket.add_rule(rule)?;
                added.push(format!("the {rule} was missing"));
            }
        }
        Ok(added)
    }

    fn ensure_routes(&self, socket: &mut RouteSocket, link: &Link) -> Result<Vec<String>, Error> {
        let mut added = Vec::new();
        for (destination, via) in &self.routes {
            let family = Family::of(destination.address);
            let is_there =
                |other: &Route| (other.destination, other.link, other.via) == (*destination, Some(link.index), *via);
            if !socket.routes(family, Some(self.table))?.iter().any(is_there) {
                let mut route = Route::over(*destination, link.index).in_table(self.table);
                if let Some(via) = via {
                    route = route.via(*via);
                }
                // The host itself reaches jails from its address on this link.
                route.source = self.addresses.iter().copied().find(|own| Family::of(*own) == family);
                socket.replace_route(&route)?;
                added.push(format!("the route to {destination} over {} was missing", self.link));
            }
        }
        Ok(added)
    }
}
