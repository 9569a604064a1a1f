//! What leads over the links of jails, and how fast: compared with what should be there, and put right where it differs.
//!
//! Reading all of it costs some milliseconds for a thousand tenants. So it is done each minute, when this process starts, and when the
//! link to the host was made anew, whose classes are gone with it.

use super::desired::Desired;
use super::found::Difference;
use super::jail_link::{self, inward, inward_class, outward, waiting};
use super::{Router, RouterError};
use bailiwick_netlink::Error;
use bailiwick_netlink::route::{Class, Family, Link, Mac, Neighbour, Prefix, Queue, Route, RouteSocket, State};
use bailiwick_plan::network::{JAIL_MAC, ROUTER_LINK, ROUTES, link_name, number_of_link};
use bailiwick_rules::router::{class, queue};
use std::collections::{BTreeMap, BTreeSet};

/// What leads over one link.
#[derive(Default)]
struct Over {
    routes: Vec<Route>,
    neighbours: Vec<Neighbour>,
    /// The queue that it sends from.
    root: Option<Queue>,
    /// Where packets wait in that queue.
    inner: Option<Queue>,
}

impl Router {
    /// Compares the links of all tenants with what was made of them, and puts them right; returns what differed.
    pub(super) fn compare_links(&mut self) -> Result<Vec<Difference>, RouterError> {
        let links = self.route.links()?;
        let uplink = links.iter().find(|link| link.name == ROUTER_LINK);
        self.uplink = uplink.map(|link| link.index);
        let queues = self.route.queues()?;
        let mut over = self.over_links(&queues)?;
        let by_number: BTreeMap<_, _> = self.tenants.iter().map(|tenant| (tenant.1.number, tenant)).collect();
        let mut found = Vec::new();
        for link in &links {
            let tenant = number_of_link(&link.name).and_then(|number| by_number.get(&number));
            let Some((name, desired)) = tenant else { continue };
            let over = over.remove(&link.index).unwrap_or_default();
            let wrong = over.put_right(&mut self.route, link, desired);
            found.extend(wrong.into_iter().map(|text| Difference::of_link((*name).clone(), text)));
        }
        let Some(uplink) = uplink else { return Ok(found) };
        let there: BTreeMap<_, _> =
            self.route.classes(uplink.index)?.into_iter().map(|class| (class.handle, class)).collect();
        let inner = queues.iter().filter(|queue| queue.link == uplink.index);
        let inner = inner.map(|queue| (queue.parent, queue)).collect();
        found.extend(self.put_rates_out_right(uplink, there, &inner));
        Ok(found)
    }

    fn over_links(&mut self, queues: &[Queue]) -> Result<BTreeMap<u32, Over>, Error> {
        let mut all: BTreeMap<u32, Over> = BTreeMap::new();
        for family in [Family::V4, Family::V6] {
            for route in self.route.routes(family, Some(ROUTES))? {
                let Some(link) = route.link else { continue };
                all.entry(link).or_default().routes.push(route);
            }
        }
        for neighbour in self.route.neighbours()?.into_iter().filter(Neighbour::is_permanent) {
            all.entry(neighbour.link).or_default().neighbours.push(neighbour);
        }
        for queue in queues.iter().filter(|queue| queue.handle != 0) {
            let over = all.entry(queue.link).or_default();
            match queue.parent {
                Queue::ROOT => over.root = Some(queue.clone()),
                parent if parent == inward_class() => over.inner = Some(queue.clone()),
                _ => {}
            }
        }
        Ok(all)
    }

    /// Puts the classes of what jails send right, and where it waits; `there` and `inner` are the kernel's, by the handle of a class.
    fn put_rates_out_right(
        &mut self,
        uplink: &Link,
        mut there: BTreeMap<u32, Class>,
        inner: &BTreeMap<u32, &Queue>,
    ) -> Vec<Difference> {
        let mut found = Vec::new();
        for (name, desired) in &self.tenants {
            let Some((handle, rate)) = class(desired.number).zip(desired.up) else { continue };
            let (planned, queue) = (outward(uplink.index, handle, rate), waiting(uplink.index, handle, rate));
            let what = if there.remove(&handle).is_none_or(|kernels| !planned.is(&kernels)) {
                format!("the rate of what {} sends was not {rate}", link_name(desired.number))
            } else if inner.get(&handle).is_none_or(|kernels| !queue.is(kernels)) {
                format!("what {} sends did not wait in {queue}", link_name(desired.number))
            } else {
                continue;
            };
            let put = jail_link::set_rate_out(&mut self.route, desired);
            found.push(Difference::of_link(name.clone(), what + &outcome(put)));
        }
        // Of tenants that are gone, or have no rate any more.
        for class in there.values().filter(|class| class.parent == queue()) {
            let removed = self.route.delete_class(class);
            found.push(Difference::of_uplink(format!("{ROUTER_LINK} had a {class} of nobody") + &outcome(removed)));
        }
        found
    }
}

impl Over {
    /// Puts a link of a jail right; returns what was wrong.
    fn put_right(&self, socket: &mut RouteSocket, link: &Link, desired: &Desired) -> Vec<String> {
        let name = &link.name;
        let mut wrong = Vec::new();
        let mut put = |what: String, done: Result<(), Error>| wrong.push(what + &outcome(done));
        let own: BTreeSet<_> = desired.addresses.all().collect();
        for neighbour in self.neighbours.iter().filter(|other| !own.contains(&other.address)) {
            put(format!("{name} had the neighbour {}", neighbour.address), socket.delete_neighbour(neighbour));
        }
        for route in self.routes.iter().filter(|route| !own.iter().any(|own| leads_to(route, Prefix::host(*own)))) {
            put(format!("{name} had the {route}"), socket.delete_route(route));
        }
        for address in &own {
            let planned = Neighbour::permanent(link.index, *address, Mac(JAIL_MAC));
            if !self.neighbours.iter().any(|other| (other.address, other.mac) == (planned.address, planned.mac)) {
                put(format!("{name} lacked the neighbour {address}"), socket.replace_neighbour(&planned));
            }
        }
        let is_there = |planned: Queue, there: &Option<Queue>| there.as_ref().is_some_and(|there| planned.is(there));
        match (desired.down, &self.root) {
            (Some(rate), there) if !is_there(inward(link.index, rate), there) => {
                let put_in = jail_link::set_rate_in(socket, link, desired);
                put(format!("the rate of what {name} receives was not {rate}"), put_in);
            }
            (Some(rate), _) if !is_there(waiting(link.index, inward_class(), rate), &self.inner) => {
                let queue = waiting(link.index, inward_class(), rate);
                let put_in = jail_link::set_rate_in(socket, link, desired);
                put(format!("what {name} receives did not wait in {queue}"), put_in);
            }
            (None, Some(there)) => {
                put(format!("the rate of what {name} receives was bounded"), socket.delete_queue(there))
            }
            _ => {}
        }
        if !link.is_up() {
            put(format!("{name} was down"), socket.set_link_state(link.index, State::Up));
        }
        for address in &own {
            if !self.routes.iter().any(|route| leads_to(route, Prefix::host(*address))) {
                let planned = Route::over(Prefix::host(*address), link.index).in_table(ROUTES);
                put(format!("no route led to {address} over {name}"), socket.replace_route(&planned));
            }
        }
        wrong
    }
}

fn leads_to(route: &Route, destination: Prefix) -> bool {
    route.destination == destination && route.via.is_none()
}

fn outcome(done: Result<(), Error>) -> String {
    match done {
        Ok(()) => "; it was put right".to_owned(),
        Err(error) => format!("; it could not be put right: {error}"),
    }
}
