//! What should be in force for one tenant.

use super::Router;
use bailiwick_plan::network::Addresses;
use bailiwick_policy::Tenant;
use bailiwick_proto::Failure;
use bailiwick_rules::router::{self, Elements, SharedRules, TenantRules};
use bailiwick_types::{
    Bound, ByteRate, ByteSize, DomainName, ExitStatus, LinkDirection, MonthlyVolume, Network, NetworkMode, Port,
    TenantName, WhenOver,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What should be in force for one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Desired {
    /// The number of its range of ids.
    pub(super) number: u32,
    pub(super) addresses: Addresses,
    /// The chains that decide for it, and for all with the same policy.
    policy: SharedRules,
    /// Those that count its connections, and those of all with the same number.
    counting: SharedRules,
    /// Its elements of all sets.
    pub(super) elements: Elements,
    /// The policy that all this follows from.
    network: Network,
    /// What it had used of its volume of the month at the last look.
    used: u64,
    /// The most bytes a second out of the jail and into it.
    pub(super) up: Option<ByteRate>,
    pub(super) down: Option<ByteRate>,
    /// The tenants that it may connect to, if they say so too.
    pub(super) peers: BTreeSet<TenantName>,
    /// The ports of the host that lead to it.
    published: BTreeSet<Port>,
}

impl Desired {
    /// Whether both say the same, whatever was used until now.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        let plain = |desired: &Self| {
            let mut desired = Self { used: 0, ..desired.clone() };
            for element in desired.elements.values_mut().flatten() {
                *element = element.clone().without_state();
            }
            desired
        };
        plain(self) == plain(other)
    }
}

impl Desired {
    /// The rules that it shares with others.
    pub(super) fn shared(&self) -> [&SharedRules; 2] {
        [&self.policy, &self.counting]
    }

    /// The bytes of a month after which its network stops.
    pub(super) fn volume(&self) -> Option<u64> {
        router::volume(&self.network)
    }

    /// Whether it has a volume of the month.
    pub(super) fn has_volume(&self) -> bool {
        self.network.month.is_some()
    }

    /// Whether it goes on at the rate for those who have used their volume up.
    pub(super) fn is_held_back(&self) -> bool {
        let month = self.network.month.as_ref();
        month.is_some_and(|month| month.is_over(self.used) && matches!(month.then, WhenOver::Shape(_)))
    }

    /// The policy that all this follows from.
    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    /// What it has used of its volume of the month, if that is worth telling: a share that the operator is told of, or all of it.
    pub(super) fn month_text(&self, name: &TenantName) -> Option<String> {
        let month = self.network.month.as_ref()?;
        let so_far = format!("\"{name}\" has used {} of {} of this month", ByteSize(self.used).rounded(), month.bytes);
        if !month.is_over(self.used) {
            let share = month.reached(self.used).last()?;
            return Some(format!("{so_far}, which is more than {share} %"));
        }
        Some(match month.then {
            WhenOver::Stop => format!("{so_far}: nothing passes until the month ends, or it gets more"),
            WhenOver::Shape(rate) => format!("{so_far}: it goes on at {rate} a second"),
            WhenOver::Notify => format!("{so_far}: all of it, and it goes on"),
        })
    }

    /// The same after it has used this much. Its rates follow.
    pub(super) fn with_used(&self, used: u64) -> Self {
        let month = self.network.month.as_ref();
        let held = |bound| held(rate(bound), month, used);
        Self { used, up: held(self.network.up), down: held(self.network.down), ..self.clone() }
    }

    /// The same with other addresses of names. Its policy follows.
    pub(super) fn with_names(&self, names: &BTreeMap<DomainName, Vec<IpAddr>>) -> Self {
        let policy = router::policy(&self.network, names);
        let mut elements = self.elements.clone();
        router::lead_to(&mut elements, &policy.name);
        Self { policy, elements, ..self.clone() }
    }

    /// The shares of its volume, in per cent, that it has passed since the last look.
    pub(super) fn new_shares(&self, now: u64) -> Vec<u8> {
        let Some(month) = &self.network.month else { return Vec::new() };
        let before: Vec<u8> = month.reached(self.used).collect();
        month.reached(now).filter(|share| !before.contains(share)).collect()
    }
}

/// The rate that holds: the declared one, or that of a volume that is used up if that is lower.
fn held(declared: Option<ByteRate>, month: Option<&MonthlyVolume>, used: u64) -> Option<ByteRate> {
    let of_month = month.filter(|month| month.is_over(used)).and_then(|month| match month.then {
        WhenOver::Shape(rate) => Some(rate),
        WhenOver::Stop | WhenOver::Notify => None,
    });
    declared.into_iter().chain(of_month).min()
}

fn rate(bound: Bound<ByteRate>) -> Option<ByteRate> {
    match bound {
        Bound::At(rate) => Some(rate),
        Bound::Unlimited => None,
    }
}

impl Router {
    /// What the policy of today says of a tenant; `None` if it has no network.
    pub(super) fn desired(&mut self, name: &TenantName, number: u32) -> Result<Option<Desired>, Failure> {
        let invalid = |problems: Vec<_>| Failure::of(ExitStatus::Invalid, bailiwick_policy::lines(&problems));
        let (_, tenant) = self.store.tenant(name).map_err(invalid)?;
        let Some(tenant) = tenant.filter(|tenant| tenant.settings.network.mode != NetworkMode::None) else {
            return Ok(None);
        };
        let addresses = self.pools.tenant(number).map_err(|error| Failure::new(ExitStatus::HostCannot, &error))?;
        let network = &tenant.settings.network;
        for published in &network.publish {
            if let Some(other) = self.publisher(name, published.host_port()) {
                let message = format!("the host's port {} leads to \"{other}\" already", published.host_port());
                return Err(Failure::of(ExitStatus::Conflict, message));
            }
        }
        let policy = router::policy(network, &self.settings.names);
        let peers = links_to(&tenant);
        let links = peers.iter().filter_map(|(peer, port)| Some((self.consenting(&tenant.name, peer, *port)?, *port)));
        let links = links.collect();
        let used = self.usage.used(name);
        let rules = TenantRules { number, addresses, network, links, used };
        let mut elements = router::tenant(&rules, &policy.name);
        let month = network.month.as_ref();
        let (up, down) = (held(rate(network.up), month, used), held(rate(network.down), month, used));
        if (up.is_some() || may_be_shaped(network.month.as_ref()))
            && let Some((set, element)) = router::classified(number)
        {
            elements.entry(set.to_owned()).or_default().push(element);
        }
        let peers = peers.into_iter().map(|(peer, _)| peer).collect();
        let published = network.publish.iter().map(|published| published.host_port()).collect();
        Ok(Some(Desired {
            number,
            addresses,
            policy,
            counting: router::counting(network.connections),
            elements,
            network: network.clone(),
            used,
            up,
            down,
            peers,
            published,
        }))
    }

    /// Another tenant that a port of the host leads to now. It keeps the port, whatever its file says today.
    fn publisher(&self, name: &TenantName, port: Port) -> Option<&TenantName> {
        let holds = |(other, desired): &(&TenantName, &Desired)| *other != name && desired.published.contains(&port);
        self.tenants.iter().find(holds).map(|(other, _)| other)
    }

    /// The number of a tenant that lets another one connect to a port; `None` if it does not, or never had a network.
    fn consenting(&mut self, from: &TenantName, peer: &TenantName, port: Port) -> Option<u32> {
        let number = self.usage.number(peer)?;
        let (_, other) = self.store.tenant(peer).ok()?;
        let other = other.filter(|other| other.settings.network.mode != NetworkMode::None)?;
        let consents =
            other.links.iter().any(|link| (link.direction, &link.peer, link.port) == (LinkDirection::From, from, port));
        consents.then_some(number)
    }
}

/// Whether a class in the queue on the way out may be needed later.
fn may_be_shaped(month: Option<&MonthlyVolume>) -> bool {
    month.is_some_and(|month| matches!(month.then, WhenOver::Shape(_)))
}

/// The tenants that a tenant may connect to, with the ports.
fn links_to(tenant: &Tenant) -> BTreeSet<(TenantName, Port)> {
    let to = tenant.links.iter().filter(|link| link.direction == LinkDirection::To);
    to.map(|link| (link.peer.clone(), link.port)).collect()
}
