//! What should be in force for one tenant.

use super::Router;
use bailiwick_plan::network::Addresses;
use bailiwick_policy::Tenant;
use bailiwick_proto::Failure;
use bailiwick_rules::router::{self, Elements, PolicyRules, TenantRules};
use bailiwick_types::{Bound, ByteRate, ExitStatus, LinkDirection, NetworkMode, Port, TenantName};
use std::collections::BTreeSet;

/// What should be in force for one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Desired {
    /// The number of its range of ids.
    pub(super) number: u32,
    pub(super) addresses: Addresses,
    /// The chain that decides for it, and for all with the same policy.
    pub(super) policy: PolicyRules,
    /// Its elements of all sets.
    pub(super) elements: Elements,
    /// The most bytes a second out of the jail and into it.
    pub(super) up: Option<ByteRate>,
    pub(super) down: Option<ByteRate>,
    /// The tenants that it may connect to, if they say so too.
    pub(super) peers: BTreeSet<TenantName>,
}

impl Desired {
    /// Whether both say the same, whatever was used until now.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        let plain = |desired: &Self| {
            let mut desired = desired.clone();
            for element in desired.elements.values_mut().flatten() {
                *element = element.clone().without_state();
            }
            desired
        };
        plain(self) == plain(other)
    }
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
        let policy = router::policy(network, &self.settings.names);
        let peers = links_to(&tenant);
        let links = peers.iter().filter_map(|(peer, port)| Some((self.consenting(&tenant.name, peer, *port)?, *port)));
        let links = links.collect();
        let used = self.usage.used(name);
        let rules = TenantRules { number, addresses, network, links, used };
        let mut elements = router::tenant(&rules, &policy.chain.name);
        let up = rate(network.up);
        if up.is_some()
            && let Some((set, element)) = router::classified(number)
        {
            elements.entry(set.to_owned()).or_default().push(element);
        }
        let peers = peers.into_iter().map(|(peer, _)| peer).collect();
        Ok(Some(Desired { number, addresses, policy, elements, up, down: rate(network.down), peers }))
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

/// The tenants that a tenant may connect to, with the ports.
fn links_to(tenant: &Tenant) -> BTreeSet<(TenantName, Port)> {
    let to = tenant.links.iter().filter(|link| link.direction == LinkDirection::To);
    to.map(|link| (link.peer.clone(), link.port)).collect()
}
