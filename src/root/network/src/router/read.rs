//! What the kernel says: counts, addresses, links, and differences from the policy.

use super::desired::Desired;
use super::evidence::protocol_name;
use super::jail_link::{self, Rates};
use super::{Router, RouterError, failed};
use bailiwick_netfilter::conntrack::Connection;
use bailiwick_netfilter::nft::{Element, Set};
use bailiwick_netlink::route::{Class, Family, Link, Mac, Neighbour, Prefix, Queue, Route};
use bailiwick_plan::network::{GATEWAY_MAC, JAIL_MAC, ROUTES, link_name};
use bailiwick_proto::net::{MOST_CONNECTIONS, MOST_NETWORKS};
use bailiwick_proto::{Failure, NetReply};
use bailiwick_rules::router::{self, COUNTED_OUT, MONTH, MOST, RECEIVED, SENT, TABLE, parse_key, refused_set};
use bailiwick_types::{
    Bound, ByteRate, ByteSize, ExitStatus, NetworkConnection, NetworkFacts, NetworkLimits, NetworkTraffic,
    RefusedPacket, TenantName, Traffic, Volume,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

const MOST_ELEMENTS: usize = 8_000_000;

impl Router {
    /// What every tenant has sent and received since the router counts.
    pub(super) fn traffic(&mut self) -> Result<BTreeMap<TenantName, NetworkTraffic>, RouterError> {
        let mut by_number: BTreeMap<u32, NetworkTraffic> = BTreeMap::new();
        for name in [SENT, RECEIVED] {
            for element in self.elements_of(name)? {
                if let Some((number, _)) = parse_key(&element.key) {
                    add_counter(by_number.entry(number).or_default(), name, &element);
                }
            }
        }
        let numbers = self.usage.numbers();
        Ok(numbers.filter_map(|(name, number)| Some((name.clone(), *by_number.get(&number)?))).collect())
    }

    /// What one tenant has sent and received since the router counts.
    pub(super) fn traffic_of(&mut self, number: u32) -> Result<NetworkTraffic, RouterError> {
        let mut traffic = NetworkTraffic::default();
        for set in router::sets() {
            for key in router::counters(number).remove(&set.name).unwrap_or_default() {
                if let Some(element) = self.nft.element(TABLE, &set, &key)? {
                    add_counter(&mut traffic, &set.name, &element);
                }
            }
        }
        Ok(traffic)
    }

    pub(super) fn elements_of(&mut self, name: &str) -> Result<Vec<Element>, RouterError> {
        let set: Option<Set> = router::sets().into_iter().find(|set| set.name == name);
        match set {
            Some(set) => Ok(self.nft.elements(TABLE, &set, MOST_ELEMENTS)?),
            None => Ok(Vec::new()),
        }
    }

    /// How many packets of each tenant were refused, by reason and number.
    fn refused(&mut self) -> Result<BTreeMap<u32, BTreeMap<RefusedPacket, u64>>, RouterError> {
        let mut all: BTreeMap<u32, BTreeMap<RefusedPacket, u64>> = BTreeMap::new();
        for reason in RefusedPacket::ALL {
            for element in self.elements_of(&refused_set(*reason))? {
                if let (Some((number, _)), Some((packets, _))) = (parse_key(&element.key), element.counter()) {
                    all.entry(number).or_default().insert(*reason, packets);
                }
            }
        }
        Ok(all)
    }

    /// The volumes of the month after which the kernel stops somebody, by number: the bytes, and those that it has counted.
    pub(super) fn stops(&mut self) -> Result<BTreeMap<u32, (u64, u64)>, RouterError> {
        let elements = self.elements_of(MONTH)?;
        let stop = |element: &Element| Some((parse_key(&element.key)?.0, (element.quota()?, element.quota_used()?)));
        Ok(elements.iter().filter_map(stop).collect())
    }

    /// How many connections the kernel lets each tenant have, by number.
    fn most_connections(&mut self) -> Result<BTreeMap<u32, u32>, RouterError> {
        let counted: BTreeSet<u32> = self.elements_of(COUNTED_OUT)?.iter().filter_map(router::counted_after).collect();
        let most = |element: &Element| Some((parse_key(&element.key)?.0, router::most_connections(element)?));
        let declared = self.elements_of(MOST)?;
        Ok(declared.iter().filter_map(most).filter(|(_, most)| counted.contains(most)).collect())
    }

    /// What a tenant has used of its month. The kernel stops it with the packet that would be too much, which is not counted here: then
    /// all is used.
    pub(super) fn used(&self, name: &TenantName, stops: &BTreeMap<u32, (u64, u64)>) -> u64 {
        let used = self.usage.used(name);
        match self.usage.number(name).and_then(|number| stops.get(&number)) {
            Some((bytes, counted)) if counted >= bytes => used.max(*bytes),
            _ => used,
        }
    }

    /// What the kernel says of tenants' networks.
    pub(super) fn observe(&mut self, names: &[TenantName]) -> Result<NetReply, Failure> {
        if names.len() > MOST_NETWORKS {
            let message = format!("{} tenants are more than one request may name", names.len());
            return Err(Failure::of(ExitStatus::Invalid, message));
        }
        let error = |error: RouterError| Failure::new(ExitStatus::Failed, &error);
        let traffic = self.traffic().map_err(error)?;
        let differences = self.add_all(&traffic);
        self.found.note(differences, SystemTime::now());
        let refused = self.refused().map_err(error)?;
        let stops = self.stops().map_err(error)?;
        let connections = self.most_connections().map_err(error)?;
        let seen = self.look_at_links().map_err(error)?;
        let mut all = Vec::with_capacity(names.len());
        for name in names {
            let number = self.usage.number(name);
            let link = number.and_then(|number| seen.links.iter().find(|link| link.name == link_name(number)));
            let mut facts = NetworkFacts {
                tenant: name.clone(),
                link: link.map(|link| link.name.clone()),
                is_up: link.is_some_and(Link::is_up),
                addresses: Vec::new(),
                traffic: traffic.get(name).copied().unwrap_or_default(),
                month: self.used(name, &stops),
                in_force: None,
                limits: None,
                last_refused: link.map(|link| self.evidence.of(link.index)).unwrap_or_default(),
                refused: number.and_then(|number| refused.get(&number)).cloned().unwrap_or_default(),
                differences: Vec::new(),
            };
            if let (Some(desired), Some(number)) = (self.tenants.get(name).cloned(), number) {
                facts.addresses = desired.addresses.all().collect();
                facts.in_force = Some(Box::new(desired.network().clone()));
                if let Some(link) = link {
                    let Rates { up, down } = Rates::of(link, number, &seen.queues, &seen.classes);
                    let bound = |rate: Option<ByteRate>| rate.map_or(Bound::Unlimited, Bound::At);
                    facts.limits = Some(NetworkLimits {
                        up: bound(up),
                        down: bound(down),
                        connections: connections.get(&number).copied(),
                        stops_at: stops.get(&number).map(|(bytes, _)| ByteSize(*bytes)),
                    });
                }
                facts.differences = seen.differences(link, &desired);
                match self.desired(name, number) {
                    Ok(Some(declared)) if declared.is_as(&desired) => {}
                    Ok(_) => {
                        facts.differences.push("the policy has changed; `bailiwick apply` puts it in force".to_owned())
                    }
                    Err(failure) => facts.differences.push(failure.message),
                }
            }
            all.push(facts);
        }
        Ok(NetReply::Observed(all))
    }

    fn look_at_links(&mut self) -> Result<Seen, RouterError> {
        let mut routes = self.route.routes(Family::V4, Some(ROUTES))?;
        routes.extend(self.route.routes(Family::V6, Some(ROUTES))?);
        let (queues, classes) = jail_link::all_rates(&mut self.route)?;
        Ok(Seen { links: self.route.links()?, routes, neighbours: self.route.neighbours()?, queues, classes })
    }

    /// The open connections of a tenant.
    pub(super) fn connections(&mut self, name: &TenantName) -> Result<NetReply, Failure> {
        let desired = self.tenants.get(name).cloned().ok_or_else(|| super::no_network(name))?;
        let (mut connections, mut cut) = (Vec::new(), false);
        for address in desired.addresses.all() {
            let room = MOST_CONNECTIONS - connections.len();
            let found = self.conntrack.connections_of(address, room);
            let found = found.map_err(|error| failed(name, "list the connections of", &error))?;
            cut |= found.total > found.connections.len();
            connections.extend(found.connections.into_iter().map(connection));
        }
        Ok(NetReply::Connections { connections, cut })
    }
}

fn connection(of: Connection) -> NetworkConnection {
    let (source_port, destination_port) = (of.ports.map(|ports| ports.0), of.answering_port);
    NetworkConnection {
        protocol: protocol_name(of.protocol),
        source: of.source,
        source_port,
        // A published port of the host leads to one of the jail.
        destination: of.answers,
        destination_port,
        state: of.tcp_state.map(|number| {
            TCP_STATES.get(usize::from(number)).map_or_else(|| number.to_string(), |word| (*word).to_owned())
        }),
        expires: of.timeout,
    }
}

/// The states of a connection of TCP, by number (`linux/netfilter/nf_conntrack_tcp.h`).
const TCP_STATES: [&str; 9] =
    ["none", "syn-sent", "syn-received", "established", "fin-wait", "close-wait", "last-ack", "time-wait", "close"];

/// The links of the router, with what leads over them.
struct Seen {
    links: Vec<Link>,
    routes: Vec<Route>,
    neighbours: Vec<Neighbour>,
    queues: Vec<Queue>,
    classes: Vec<Class>,
}

impl Seen {
    /// What differs from what should be, as sentences.
    fn differences(&self, link: Option<&Link>, desired: &Desired) -> Vec<String> {
        let name = link_name(desired.number);
        let Some(link) = link else { return vec![format!("the router has no link {name}")] };
        let mut all = Vec::new();
        if !link.is_up() {
            all.push(format!("{name} is down"));
        }
        if link.mac != Some(Mac(GATEWAY_MAC)) || link.kind.as_deref() != Some("veth") {
            all.push(format!("{name} is not the link that was made"));
        }
        let routes: BTreeSet<_> = self.routes.iter().filter(|route| route.link == Some(link.index)).collect();
        for address in desired.addresses.all() {
            if !routes.iter().any(|route| route.destination == Prefix::host(address) && route.via.is_none()) {
                all.push(format!("no route leads to {address}"));
            }
            let is_there = |other: &Neighbour| {
                (other.link, other.address, other.mac) == (link.index, address, Some(Mac(JAIL_MAC)))
                    && other.is_permanent()
            };
            if !self.neighbours.iter().any(is_there) {
                all.push(format!("{address} is no permanent neighbour on {name}"));
            }
        }
        all.extend(Rates::of(link, desired.number, &self.queues, &self.classes).differences(desired));
        let own: BTreeSet<_> = desired.addresses.all().map(Prefix::host).collect();
        let foreign = routes.iter().filter(|route| !own.contains(&route.destination));
        all.extend(foreign.map(|route| format!("a route leads {} over {name}", route.destination)));
        all
    }
}

/// Adds the count of an element of a set to what a tenant has sent or received.
fn add_counter(traffic: &mut NetworkTraffic, set: &str, element: &Element) {
    let (Some((_, Some(family))), Some((packets, bytes))) = (parse_key(&element.key), element.counter()) else {
        return;
    };
    let of_family = if family == Family::V4 { &mut traffic.ipv4 } else { &mut traffic.ipv6 };
    let Traffic { sent, received } = of_family;
    *(if set == SENT { sent } else { received }) = Volume { bytes, packets };
}
