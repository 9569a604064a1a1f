//! The router's own routes: a packet without the mark must have nowhere to go, and one with it must go to the host.
//!
//! Danger: a default route in the table `main`, or a rule that leads packets without the mark to a table with routes, would let
//! packets out that no rule of the router has let through.

use super::found::Difference;
use super::{Router, RouterError};
use crate::uplink::{is_veth, side_of_router, side_of_router_to_cache};
use bailiwick_netlink::Error;
use bailiwick_netlink::route::{Family, Prefix, Route, RouteKind, Rule};
use bailiwick_plan::network::{CACHE_GATEWAY_MAC, CACHE_LINK, ROUTER_LINK, ROUTES};

/// The kernel's own rules, by priority and table (`ip-rule(8)`): `local`, `main` and `default`.
const OF_KERNEL: [(u32, u32); 3] = [(0, 255), (32_766, 254), (32_767, 253)];
/// To look up a table.
const TO_TABLE: u8 = 1;
/// Who made a route: the kernel.
const KERNEL: u8 = 2;

impl Router {
    /// Compares the routes and the rules that choose their tables with what should be there, and puts them right; returns what
    /// differed.
    pub(super) fn compare_routes(&mut self) -> Result<Vec<Difference>, RouterError> {
        let side = side_of_router(self.pools);
        let mut found = Vec::new();
        for family in [Family::V4, Family::V6] {
            if family == Family::V6 && self.pools.ipv6().is_none() {
                continue;
            }
            for route in self.route.routes(family, Some(Route::MAIN))?.into_iter().filter(leads_out) {
                let removed = self.route.delete_route(&route);
                let what =
                    format!("the router had the {route} of its table main, for packets that no rule has let through");
                found.push(Difference::of_routes(what + &outcome(removed)));
            }
            let is_planned = |rule: &Rule| is_of_kernel(rule) || side.rules().contains(rule);
            for rule in self.route.rules(family)?.into_iter().filter(|rule| !is_planned(rule)) {
                let removed = self.route.delete_rule(&rule);
                found.push(Difference::of_routes(
                    format!("the router had a {rule}, which is not planned") + &outcome(removed),
                ));
            }
        }
        match self.route.link(ROUTER_LINK)? {
            // One that was made for another prefix is no business of this process any more.
            Some(link) if side.other_address(&self.route.addresses_of(link.index)?).is_some() => {}
            Some(link) => found.extend(side.ensure(&mut self.route, &link)?.into_iter().map(Difference::of_uplink)),
            None => found.push(Difference::of_uplink(format!(
                "the router has no link {ROUTER_LINK} to the host; `bailiwick-net --uplink` makes it"
            ))),
        }
        if self.settings.cache {
            found.extend(self.compare_cache()?);
        }
        Ok(found)
    }

    /// Compares the link to the cache of names with what should be there, if the cache runs.
    fn compare_cache(&mut self) -> Result<Vec<Difference>, RouterError> {
        let Some(link) = self.route.link(CACHE_LINK)? else { return Ok(Vec::new()) };
        if !is_veth(&link, CACHE_GATEWAY_MAC) {
            let text =
                format!("{CACHE_LINK} is not the link that was made; `systemctl restart bailiwick-dns` makes it anew");
            return Ok(vec![Difference::of_cache(text)]);
        }
        let side = side_of_router_to_cache(self.pools);
        let mut found: Vec<_> = side.ensure(&mut self.route, &link)?.into_iter().map(Difference::of_cache).collect();
        for family in [Family::V4, Family::V6] {
            let over =
                self.route.routes(family, Some(ROUTES))?.into_iter().filter(|route| route.link == Some(link.index));
            for route in over.filter(|route| !side.has_route(route)).collect::<Vec<_>>() {
                let removed = self.route.delete_route(&route);
                found.push(Difference::of_cache(format!("the {route} led over {CACHE_LINK}") + &outcome(removed)));
            }
        }
        Ok(found)
    }
}

fn outcome(removed: Result<(), Error>) -> String {
    match removed {
        Ok(()) => "; it was removed".to_owned(),
        Err(error) => format!("; it could not be removed: {error}"),
    }
}

/// Whether a route of the table `main` sends packets anywhere but to an address of the router itself. The kernel makes such routes for
/// each address of IPv6.
fn leads_out(route: &Route) -> bool {
    let Prefix { address, len } = route.destination;
    let is_own = route.protocol == KERNEL && route.via.is_none() && len == Family::of(address).bits();
    route.kind == RouteKind::Unicast && !is_own
}

fn is_of_kernel(rule: &Rule) -> bool {
    rule.action == TO_TABLE
        && rule.mark.is_none()
        && rule.further.is_empty()
        && OF_KERNEL.contains(&(rule.priority, rule.table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_plan::network::MARK;

    #[test]
    fn only_routes_to_the_router_itself_lead_nowhere() {
        let prefix = |text: &str, len| Prefix { address: text.parse().expect("an address"), len };
        let of_kernel = |route: Route| Route { protocol: KERNEL, ..route };
        assert!(!leads_out(&of_kernel(Route::over(prefix("fd12::1", 128), 2))));
        assert!(!leads_out(&Route::end(prefix("0.0.0.0", 0), RouteKind::Unreachable)));
        let via = Route::over(prefix("0.0.0.0", 0), 2).via("100.64.0.2".parse().expect("an address"));
        for route in [via, Route::over(prefix("fd12::1", 128), 2), of_kernel(Route::over(prefix("fe80::", 64), 2))] {
            assert!(leads_out(&route), "{route}");
        }
    }

    #[test]
    fn the_rules_of_the_kernel_are_known_by_all_that_they_say() {
        let own = Rule { mark: None, ..Rule::for_mark(Family::V4, 32_766, 0, 0, 254) };
        assert!(is_of_kernel(&own));
        for other in [
            Rule { table: ROUTES, ..own.clone() },
            Rule { priority: 5, ..own.clone() },
            Rule { further: vec![3], ..own.clone() },
            Rule { mark: Some((MARK, u32::MAX)), ..own.clone() },
            Rule { action: 6, ..own },
        ] {
            assert!(!is_of_kernel(&other), "{other}");
        }
    }
}
