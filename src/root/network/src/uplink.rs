//! `bailiwick-net --uplink`: makes the router, its link to the host, and the host's rules; puts back what is missing.
//!
//! It runs before `bailiwick-net`, each minute, and after everything that replaces the host's rules (nftables, firewalld). It
//! changes only what is ours: the link `bwk0`, the table `bailiwick_uplink`, routes to the addresses of jails, and forwarding.
//!
//! Danger: it is root on the host's network. It reads the operator's file and the kernel, and nothing of a tenant.

mod conflicts;
mod forwarding;
mod names;
mod removal;
mod report;
mod router_namespace;
mod rules;
mod side;

pub(crate) use removal::{is_wanted, run as remove};
pub(crate) use report::{Report, directory as network_directory, identity as report_identity, read as read_report};
pub(crate) use router_namespace::{USER_INSIDE, open as open_router};

use crate::cache;
use crate::settings::{self, SettingsError};
use bailiwick_netlink::route::{AddressGeneration, Link, LinkEnd, Mac, RouteSocket, State, Veth};
use bailiwick_observe::network::{self as observed, NetworkError};
use bailiwick_plan::network::{self, Pools};
use bailiwick_policy::{Diagnostic, Host, Store};
use bailiwick_proto::NET_SOCKET;
use bailiwick_sys::namespace::{self, Kind};
use bailiwick_types::ExitStatus;
use forwarding::Families;
use router_namespace::Ensured;
use side::Side;
pub(crate) use side::{
    OtherAddresses, of_cache as side_of_cache, of_router as side_of_router,
    of_router_to_cache as side_of_router_to_cache, wanted_instead,
};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Packets that may wait on the link: it has no rate, so none ever do.
const NO_QUEUE: u32 = 0;
/// Packets that may wait on the router's end, in each class of a tenant with a rate.
const ROUTER_QUEUE: u32 = 1000;

/// Why the host has no link to the router.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UplinkError {
    /// `bailiwick.toml` has errors.
    #[error("{}", bailiwick_policy::lines(.0))]
    Policy(Vec<Diagnostic>),
    /// The process is not root.
    #[error("bailiwick-net must be started as root")]
    NotRoot,
    /// The settings cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// What the policy asks for does not fit the machine.
    #[error(transparent)]
    Machine(#[from] NetworkError),
    /// The addresses of jails are used already.
    #[error(transparent)]
    Conflict(#[from] conflicts::Conflict),
    /// Jails have other addresses.
    #[error(transparent)]
    OtherAddresses(#[from] OtherAddresses),
    /// Somebody still needs what should be removed.
    #[error(transparent)]
    InUse(#[from] removal::InUse),
    /// The kernel lacks a part of what networks need, or refuses it.
    #[error("cannot make {what}; `bailiwick doctor` says what the kernel lacks")]
    Part {
        /// What was made, and the module that has it.
        what: &'static str,
        /// Why.
        #[source]
        source: bailiwick_netlink::Error,
    },
    /// The kernel refused a change.
    #[error(transparent)]
    Netlink(#[from] bailiwick_netlink::Error),
    /// Another call failed.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl UplinkError {
    /// The exit status for the service manager.
    pub(crate) fn status(&self) -> ExitStatus {
        match self {
            Self::Policy(_) | Self::Settings(_) | Self::Machine(_) => ExitStatus::Invalid,
            Self::NotRoot => ExitStatus::Refused,
            Self::Conflict(_) | Self::OtherAddresses(_) | Self::InUse(_) => ExitStatus::Conflict,
            Self::Netlink(_) | Self::Part { .. } | Self::System { .. } => ExitStatus::Failed,
        }
    }
}

/// What the kernel may lack, with its module.
const RULES: &str = "the rules of the host (nf_tables)";
const LINK: &str = "the link between the host and the router (veth)";

fn part(what: &'static str) -> impl FnOnce(bailiwick_netlink::Error) -> UplinkError {
    move |source| UplinkError::Part { what, source }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> UplinkError {
    move |source| UplinkError::System { what, source }
}

/// Refuses whoever is not root, before the first of many calls that the kernel would refuse.
pub(crate) fn check_root() -> Result<(), UplinkError> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(UplinkError::NotRoot) }
}

/// Makes everything, or puts back what is missing; returns what that was. What came of it is also left for `bailiwick-net`.
pub(crate) fn run(config: &Path) -> Result<Vec<String>, UplinkError> {
    let mut store = Store::new(config);
    let (host, _) = store.host().map_err(UplinkError::Policy)?;
    let done = make_and_report(&host, &mut store);
    report::tell(&host, done.as_ref().err()).map_err(system("leave word of what is wrong"))?;
    done
}

fn make_and_report(host: &Host, store: &mut Store) -> Result<Vec<String>, UplinkError> {
    let user = settings::user(host)?;
    let last = Report::last(host);
    let policy = store.read().policy;
    let known = last.as_ref().map(|last| last.connections).filter(|connections| *connections > 0);
    let connections = policy.as_ref().map(rules::connections).or(known).unwrap_or(rules::MOST_CONNECTIONS);
    let made = make(host, user, connections);
    // Jails must not reach the host, whatever else is wrong.
    let mut report = Report::new(addresses()?, observed::resolvers(&host.network), made.as_ref().err());
    let wanted = policy.as_ref().map(names::of_policy).unwrap_or_default();
    (report.ports, report.connections) = (host.network.ports, connections);
    // The first run after a boot puts nothing back, and neither does one for other addresses, ports or numbers.
    let is_same = |last: &Report| (last.ports, last.connections) == (report.ports, report.connections);
    report.repaired = match (&last, &made) {
        (Some(last), Ok(Made { done, is_for_other_addresses: false })) if is_same(last) => done.clone(),
        _ => Vec::new(),
    };
    if made.is_ok() {
        let failed = |error| vec![format!("whom the host refuses connections cannot be read: {error}")];
        report.problems.extend(rules::refused().unwrap_or_else(failed));
    }
    report.cache = cache::follow(host, &report.resolvers).map_err(system("set up the cache of names"))?;
    let (names, asked, told) = last.map(|last| (last.names, last.asked, last.problems)).unwrap_or_default();
    let known = names::Known::before(&wanted, &names, asked, &told);
    // Name servers may take their time. Nothing else waits for them.
    report.with_names(&known).write(host, user).map_err(system("leave word for bailiwick-net"))?;
    if !wanted.is_empty() {
        let known = known.look_up(&wanted, report.at, user).map_err(system("look up names"))?;
        report.with_names(&known).write(host, user).map_err(system("leave word of names"))?;
    }
    made.map(|made| made.done)
}

/// What was made.
struct Made {
    /// What was missing, and is there now.
    done: Vec<String>,
    /// Whether `bailiwick.toml` gives jails other addresses than before.
    is_for_other_addresses: bool,
}

/// All addresses of the host.
fn addresses() -> Result<Vec<IpAddr>, UplinkError> {
    let mut addresses: Vec<_> = RouteSocket::open()?.addresses()?.into_iter().map(|address| address.address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

fn make(host: &Host, user: settings::RouterUser, connections: u32) -> Result<Made, UplinkError> {
    let pools = observed::pools(&host.network)?;
    observed::check_ipv6(pools)?;
    let families = if pools.ipv6().is_some() { Families::Both } else { Families::Ipv4 };
    let mut socket = RouteSocket::open()?;
    conflicts::check(&mut socket, pools)?;
    // Nothing is made on a host that cannot have rules: no program would serve half of it.
    rules::try_to_read().map_err(part(RULES))?;

    let path = host.router_namespace();
    let served = || router_namespace::served(&host.runtime_dir.join(NET_SOCKET));
    let (router, ensured) = router_namespace::ensure(&path, user, served).map_err(system("make the router"))?;
    let is_new = ensured == Ensured::Made;
    let mut repaired = Vec::new();
    match ensured {
        Ensured::Found => {}
        Ensured::FileMissing => {
            repaired.push(format!("the file \"{}\" of the router was missing; jails stay connected", path.display()));
        }
        Ensured::Made => repaired.push(format!(
            "the router \"{}\" was missing; jails that were connected to an earlier one need `bailiwick restart`",
            path.display()
        )),
    }
    let mut inside = in_router(&router, RouteSocket::open)??;
    let other = remove_other_pair(&mut socket, &mut inside, &router, pools)?;
    let is_for_other_addresses = other.is_some();
    repaired.extend(other);
    let (ours, theirs) = ensure_pair(&mut socket, &mut inside, &router, &mut repaired)?;

    for setting in in_router(&router, || forwarding::of_router(families))? {
        let is_changed = in_router(&router, || setting.ensure())?.map_err(system("set up the router"))?;
        if is_changed && !is_new {
            repaired.push(format!("{} of the router was not {}", setting.path.display(), setting.value));
        }
    }
    repaired.extend(ensure_side(&side::of_router(pools), &mut inside, &theirs, is_new)?);
    repaired.extend(ensure_side(&side::of_host(pools), &mut socket, &ours, is_new)?);
    let missing = rules::ensure(pools, host, connections).map_err(part(RULES))?;
    repaired.extend(if is_new { Vec::new() } else { missing });
    // The host forwards last: until then nothing passes that the rules do not know.
    for setting in forwarding::of_host(families, network::HOST_LINK).map_err(system("read the host's settings"))? {
        if setting.ensure().map_err(system("let the host forward"))? {
            repaired.push(format!("{} was not {}", setting.path.display(), setting.value));
        }
    }
    Ok(Made { done: repaired, is_for_other_addresses })
}

/// Removes a pair with the addresses of another prefix, unless a jail has one of those; returns what was removed.
fn remove_other_pair(
    host: &mut RouteSocket,
    inside: &mut RouteSocket,
    router: &OwnedFd,
    pools: Pools,
) -> Result<Option<String>, UplinkError> {
    let Some(link) = inside.link(network::ROUTER_LINK)? else { return Ok(None) };
    let other = side::of_router(pools).other_address(&inside.addresses_of(link.index)?);
    let Some(there) = other else { return Ok(None) };
    let wanted = wanted_instead(pools, there);
    match removal::wait_for_no_jail(router) {
        Ok(()) => {}
        Err(UplinkError::InUse(_)) => return Err(OtherAddresses { wanted, there }.into()),
        Err(error) => return Err(error),
    }
    if let Some(link) = host.link(network::HOST_LINK)?.filter(is_host_end) {
        host.delete_link(link.index)?;
    }
    Ok(Some(format!("the router had {there}, and bailiwick.toml has {wanted}")))
}

fn ensure_side(side: &Side, socket: &mut RouteSocket, link: &Link, is_new: bool) -> Result<Vec<String>, UplinkError> {
    let added = side.ensure(socket, link)?;
    Ok(if is_new { Vec::new() } else { added })
}

/// Does something in another network namespace, such as the router's, and comes back.
pub(crate) fn in_router<T>(router: &OwnedFd, work: impl FnOnce() -> T) -> Result<T, UplinkError> {
    let back = namespace::open(std::process::id(), "net").map_err(system("open the host's network namespace"))?;
    namespace::enter(router, Kind::Network).map_err(system("enter the router"))?;
    let result = work();
    namespace::enter(back, Kind::Network).map_err(system("come back from the router"))?;
    Ok(result)
}

/// The two ends of the link between the host and the router. Half a pair, or one that leads elsewhere, is made anew.
fn ensure_pair(
    host: &mut RouteSocket,
    router: &mut RouteSocket,
    namespace: &OwnedFd,
    repaired: &mut Vec<String>,
) -> Result<(Link, Link), UplinkError> {
    let find = |host: &mut RouteSocket, router: &mut RouteSocket| -> Result<_, UplinkError> {
        Ok((host.link(network::HOST_LINK)?, router.link(network::ROUTER_LINK)?))
    };
    match find(host, router)? {
        (Some(ours), Some(theirs)) if is_pair(&ours, &theirs) => return Ok((ours, theirs)),
        (ours, theirs) => {
            for (socket, link) in [(&mut *host, ours), (&mut *router, theirs)] {
                if let Some(link) = link {
                    repaired.push(format!("{} led nowhere", link.name));
                    socket.delete_link(link.index)?;
                }
            }
        }
    }
    let end = |name: &str, mac, tx_queue_len| LinkEnd {
        name: name.to_owned(),
        mac: Mac(mac),
        mtu: network::MTU,
        tx_queue_len,
        queues: 1,
    };
    let veth = Veth {
        near: end(network::HOST_LINK, network::HOST_MAC, NO_QUEUE),
        far: end(network::ROUTER_LINK, network::ROUTER_MAC, ROUTER_QUEUE),
        near_state: State::Down,
    };
    host.add_veth(&veth, namespace.as_fd()).map_err(part(LINK))?;
    match find(host, router)? {
        (Some(ours), Some(theirs)) => {
            // Neither needs an address of its own making.
            host.set_address_generation(ours.index, AddressGeneration::None)?;
            router.set_address_generation(theirs.index, AddressGeneration::None)?;
            Ok((ours, theirs))
        }
        _ => Err(system("make the link between the host and the router")(io::ErrorKind::NotFound.into())),
    }
}

/// Whether two interfaces are the ends of one pair. Each end knows the number of the other.
fn is_pair(ours: &Link, theirs: &Link) -> bool {
    is_host_end(ours)
        && is_veth(theirs, network::ROUTER_MAC)
        && (ours.peer, theirs.peer) == (Some(theirs.index), Some(ours.index))
}

/// Whether an interface of the host is its end of the link to the router.
fn is_host_end(link: &Link) -> bool {
    is_veth(link, network::HOST_MAC)
}

pub(crate) fn is_veth(link: &Link, mac: [u8; 6]) -> bool {
    link.kind.as_deref() == Some("veth") && link.mac == Some(Mac(mac))
}
