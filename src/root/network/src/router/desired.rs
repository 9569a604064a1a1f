//! What should be in force for one tenant.

use super::Router;
use bailiwick_plan::network::Addresses;
use bailiwick_policy::{Host, Tenant};
use bailiwick_proto::Failure;
use bailiwick_rules::router::{self, Elements, SharedRules, TenantRules};
use bailiwick_types::{
    Bound, ByteRate, ByteSize, ExitStatus, LinkDirection, MonthlyVolume, Network, NetworkMode, Port, TenantName,
    WhenOver,
};
use std::collections::BTreeSet;

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
    /// Those that do, with their numbers and ports.
    links: BTreeSet<(TenantName, u32, Port)>,
    /// The ports of the host that lead to it.
    published: BTreeSet<Port>,
    /// Ports that its file publishes and that lead to another tenant. Only a start of this process leaves them out.
    pub(super) left_out: BTreeSet<Port>,
}

/// All numbers that a policy may have in the kernel are those of others. Four of 32 bits would have to agree by chance, or by the
/// will of whoever chooses the addresses of an allowed name.
#[derive(Debug, thiserror::Error)]
#[error("its policy has no number of its own in the kernel; any other `ports` or `allow` gives it another one")]
pub(crate) struct NoNumber;

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

    /// The same with another policy.
    fn with_policy(&self, policy: SharedRules) -> Self {
        let mut elements = self.elements.clone();
        router::lead_to(&mut elements, policy.number);
        Self { policy, elements, ..self.clone() }
    }

    /// Whether a link of its leads to a number as that of another tenant than the one that has it now.
    pub(super) fn leads_to_earlier(&self, name: &TenantName, number: u32) -> bool {
        self.links.iter().any(|(peer, other, _)| *other == number && peer != name)
    }

    /// The same with fewer links.
    fn with_links(&self, links: BTreeSet<(TenantName, u32, Port)>) -> Self {
        let mut elements = self.elements.clone();
        router::link_to(&mut elements, self.number, &by_number(&links));
        Self { links, elements, ..self.clone() }
    }

    /// The shares of its volume, in per cent, that it has passed since the last look.
    pub(super) fn new_shares(&self, now: u64) -> Vec<u8> {
        let Some(month) = &self.network.month else { return Vec::new() };
        let before: Vec<u8> = month.reached(self.used).collect();
        month.reached(now).filter(|share| !before.contains(share)).collect()
    }
}

fn by_number(links: &BTreeSet<(TenantName, u32, Port)>) -> Vec<(u32, Port)> {
    links.iter().map(|(_, number, port)| (*number, *port)).collect()
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
        let (_, tenant) = self.declared(name)?;
        tenant.map(|tenant| self.desired_of(&tenant, number)).transpose()
    }

    /// The same at the start of this process, without the ports that lead to other tenants: a tenant that has a network keeps it.
    pub(super) fn desired_at_start(&mut self, name: &TenantName, number: u32) -> Result<Option<Desired>, Failure> {
        let (_, tenant) = self.declared(name)?;
        let Some(mut tenant) = tenant else { return Ok(None) };
        let ports = tenant.settings.network.publish.iter().map(|published| published.host_port());
        let left_out: BTreeSet<Port> = ports.filter(|port| self.publisher(name, *port).is_some()).collect();
        tenant.settings.network.publish.retain(|published| !left_out.contains(&published.host_port()));
        let desired = self.desired_of(&tenant, number)?;
        Ok(Some(Desired { left_out, ..desired }))
    }

    /// What is in force for a tenant, without the links that the others no longer agree to.
    pub(super) fn with_consented_links(&mut self, name: &TenantName, old: &Desired) -> Desired {
        let mut links = old.links.clone();
        links.retain(|(peer, number, port)| self.consenting(name, peer, *port) == Some(*number));
        old.with_links(links)
    }

    /// What the files say of the host and of a tenant; `None` if it has no network.
    pub(super) fn declared(&mut self, name: &TenantName) -> Result<(Host, Option<Tenant>), Failure> {
        let invalid = |problems: Vec<_>| Failure::of(ExitStatus::Invalid, bailiwick_policy::lines(&problems));
        let (host, tenant) = self.store.tenant(name).map_err(invalid)?;
        Ok((host, tenant.filter(|tenant| tenant.settings.network.mode != NetworkMode::None)))
    }

    /// What a declaration with a network says.
    pub(super) fn desired_of(&mut self, tenant: &Tenant, number: u32) -> Result<Desired, Failure> {
        let name = &tenant.name;
        let addresses = self.pools.tenant(number).map_err(|error| Failure::new(ExitStatus::HostCannot, &error))?;
        let network = &tenant.settings.network;
        for published in &network.publish {
            if let Some(other) = self.publisher(name, published.host_port()) {
                let message = format!("the host's port {} leads to \"{other}\" already", published.host_port());
                return Err(Failure::of(ExitStatus::Conflict, message));
            }
        }
        let policy = self.policy_of(network).map_err(|error| Failure::new(ExitStatus::Conflict, &error))?;
        let peers = links_to(tenant);
        let linked =
            |(peer, port): &(TenantName, Port)| Some((peer.clone(), self.consenting(name, peer, *port)?, *port));
        let links: BTreeSet<_> = peers.iter().filter_map(linked).collect();
        let used = self.usage.used(name);
        let rules = TenantRules { number, addresses, network, policy: policy.number, links: by_number(&links), used };
        let mut elements = router::tenant(&rules);
        let month = network.month.as_ref();
        let (up, down) = (held(rate(network.up), month, used), held(rate(network.down), month, used));
        if (up.is_some() || may_be_shaped(network.month.as_ref()))
            && let Some((set, element)) = router::classified(number)
        {
            elements.entry(set.to_owned()).or_default().push(element);
        }
        let peers = peers.into_iter().map(|(peer, _)| peer).collect();
        let published = network.publish.iter().map(|published| published.host_port()).collect();
        Ok(Desired {
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
            links,
            published,
            left_out: BTreeSet::new(),
        })
    }

    /// The policy of a network, with a number that no other policy has.
    fn policy_of(&self, network: &Network) -> Result<SharedRules, NoNumber> {
        let policy = router::policy(network, &self.settings.names);
        let number = number_of(&policy, self.tenants.values().map(|desired| &desired.policy)).ok_or(NoNumber)?;
        Ok(policy.with_number(number))
    }

    /// The same as is in force for a tenant, with the addresses that names have now. Its policy follows.
    pub(super) fn desired_with_names(&self, old: &Desired) -> Result<Desired, NoNumber> {
        Ok(old.with_policy(self.policy_of(&old.network)?))
    }

    /// Another tenant that a port of the host leads to now. It keeps the port, whatever its file says today.
    fn publisher(&self, name: &TenantName, port: Port) -> Option<&TenantName> {
        let holds = |(other, desired): &(&TenantName, &Desired)| *other != name && desired.published.contains(&port);
        let held = || self.held.get(&port).filter(|other| *other != name);
        self.tenants.iter().find(holds).map(|(other, _)| other).or_else(held)
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

/// The number of a policy beside others: the one that it has already, or the first of its own that no other one has.
///
/// None has the rules of another policy, also when somebody chose the addresses of a name so that both have one hash.
fn number_of<'a>(policy: &SharedRules, there: impl Iterator<Item = &'a SharedRules> + Clone) -> Option<u32> {
    if let Some(other) = there.clone().find(|other| other.name == policy.name) {
        let is_same = other.elements == policy.elements && other.sets == policy.sets && other.chains == policy.chains;
        return is_same.then_some(other.number);
    }
    router::numbers_of(&policy.name).into_iter().find(|number| there.clone().all(|other| other.number != *number))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn no_two_policies_have_the_same_number() {
        let of = |digits: [&str; 4]| format!("policy-{}", digits.concat());
        let one = of(["0000000a", "0000000b", "0000000c", "0000000d"]);
        let other = of(["0000000a", "0000000e", "0000000c", "0000000d"]);
        let number_of = |name: &str, there: &[SharedRules]| {
            let empty = router::policy(&Network::with_mode(NetworkMode::Outbound), &BTreeMap::new());
            number_of(&SharedRules { name: name.to_owned(), ..empty }, there.iter())
        };
        let rules = |name: &str, number| {
            let empty = router::policy(&Network::with_mode(NetworkMode::Outbound), &BTreeMap::new());
            SharedRules { name: name.to_owned(), ..empty }.with_number(number)
        };
        assert_eq!(number_of(&one, &[]), Some(10));
        let there = [rules(&one, 10)];
        assert_eq!(number_of(&other, &there), Some(14), "the second one");
        let there = [rules(&other, 14)];
        assert_eq!(number_of(&one, &there), Some(10));
        assert_eq!(number_of(&other, &there), Some(14), "it keeps what it has");
        let there = [10, 11, 12, 13].map(|number| rules("policy-x", number));
        assert_eq!(number_of(&one, &there), None);
        let mut there = [rules(&one, 10)];
        there[0].chains.pop();
        assert_eq!(number_of(&one, &there), None, "what another policy allows is not what this one does");
    }
}
