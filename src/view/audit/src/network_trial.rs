//! Whether this host can have networks: each kind of thing that the router needs is made once, in namespaces that are thrown away.

use bailiwick_netfilter::nft::{Batch, NftSocket};
use bailiwick_netlink::Error;
use bailiwick_netlink::route::{Link, LinkEnd, Mac, Queue, QueueKind, RouteSocket, State, Veth};
use bailiwick_observe::network::pools;
use bailiwick_plan::network::{GATEWAY_MAC, HOST_LINK, HOST_MAC, MTU, Pools, ROUTER_LINK};
use bailiwick_policy::{Host, UNBOUND};
use bailiwick_rules::router::{self, RouterSettings};
use bailiwick_rules::uplink;
use bailiwick_sys::process::{self, Cloned, NETWORK_NAMESPACE, USER_NAMESPACE};
use bailiwick_sys::{namespace, socket};
use bailiwick_types::{FeatureReport, FeatureState};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// How long the trial may take. The kernel may have modules to load.
const PATIENCE: Duration = Duration::from_secs(10);
const MAX_REPLY: usize = 4096;
/// A rate and a burst that any queue can have.
const RATE: u64 = 1_000_000;
const BURST: u32 = 16 * MTU;

/// What a router is made of, with the modules of the kernel that have it. The order is that of the trial.
const PARTS: [(&str, &str); 5] = [
    ("the rules of the router", "nf_tables, nf_conntrack, nfnetlink_log and the modules nft_*"),
    ("the rules of the host", "nf_tables, nf_nat, nft_masq, nft_nat and nft_fib_inet"),
    ("links to jails", "veth"),
    ("the rate into a jail", "sch_tbf"),
    ("the rate out of a jail", "sch_htb"),
];

/// The part that failed, and why.
type Failure = (usize, String);

/// Reports whether tenants can have networks. `is_wanted`: whether the policy gives anybody one.
pub(crate) fn report(host: &Host, user_exists: impl Fn(&str) -> bool, is_wanted: bool) -> FeatureReport {
    let row = |state, evidence: String, remedy: String| FeatureReport {
        feature: "network".to_owned(),
        state,
        evidence,
        remedy: if state == FeatureState::Works { String::new() } else { remedy },
    };
    let lacks = if is_wanted { FeatureState::Missing } else { FeatureState::Limited };
    let user = &host.network.user;
    if !user_exists(user) {
        let remedy = format!(
            "make it with `useradd --system {user}` (systemd-sysusers does), or set `user` below [network]; until then no tenant can \
             have a network"
        );
        return row(lacks, format!("the user \"{user}\" of bailiwick-net does not exist"), remedy);
    }
    let pools = match pools(&host.network) {
        Ok(pools) => pools,
        Err(error) => return row(lacks, super::host::chain(&error), "change [network] in bailiwick.toml".to_owned()),
    };
    let families = if pools.ipv6().is_some() { "IPv4 and IPv6" } else { "IPv4 alone" };
    let has_chosen_one = host.network.ipv6 == bailiwick_types::Ipv6Pool::Off;
    match try_parts(pools) {
        Ok(Ok(())) if pools.ipv6().is_some() || has_chosen_one => row(
            FeatureState::Works,
            format!("a router was tried, with rules, links and rates; {families}"),
            String::new(),
        ),
        Ok(Ok(())) => row(
            FeatureState::Limited,
            format!("a router was tried, with rules, links and rates; {families}, since the kernel has no IPv6"),
            "boot without ipv6.disable=1, or write ipv6 = \"off\" below [network] in bailiwick.toml".to_owned(),
        ),
        Ok(Err((part, why))) => {
            let (what, modules) = PARTS[part];
            let remedy = format!(
                "load what the kernel lacks ({modules}), or boot a kernel that has it; until then no tenant can have a network"
            );
            row(lacks, format!("the kernel refuses {what}: {why}"), remedy)
        }
        Err(why) => {
            row(FeatureState::Limited, format!("not tried: {why}"), "run `bailiwick doctor` as root".to_owned())
        }
    }
}

/// Reports whether the cache of names can run, if the host wants one.
pub(crate) fn cache_report(host: &Host, user_exists: impl Fn(&str) -> bool) -> Option<FeatureReport> {
    let user = &host.network.cache_user;
    let (evidence, remedy) = if !std::path::Path::new(UNBOUND).exists() {
        (format!("there is no \"{UNBOUND}\""), "install the package \"unbound\"".to_owned())
    } else if !user_exists(user) {
        let remedy = format!(
            "make it with `useradd --system {user}` (systemd-sysusers does), or set `cache_user` below [network]"
        );
        (format!("the user \"{user}\" of the cache does not exist"), remedy)
    } else {
        (format!("\"{UNBOUND}\" is there, and runs as \"{user}\""), String::new())
    };
    let state = if remedy.is_empty() { FeatureState::Works } else { FeatureState::Missing };
    let until = "; until then no name resolves in jails, or write cache = false";
    let remedy = if remedy.is_empty() { remedy } else { remedy + until };
    host.network.cache.then(|| FeatureReport { feature: "network-cache".to_owned(), state, evidence, remedy })
}

/// Makes each part in namespaces of their own. The outer error says why it was not tried.
fn try_parts(pools: Pools) -> Result<Result<(), Failure>, String> {
    let cannot = |error: io::Error| error.to_string();
    let (ours, theirs) = socket::channel().map_err(cannot)?;
    let cloned = process::clone_into(USER_NAMESPACE | NETWORK_NAMESPACE, None, &[theirs.as_fd()])
        .map_err(|error| format!("no user namespace with a network to try with: {error}"))?;
    let pidfd = match cloned {
        Cloned::Child => {
            socket::send(&theirs, &reply_of(make_parts(pools)), &[]).ok();
            process::exit_now(0)
        }
        Cloned::Parent { pidfd, .. } => pidfd,
    };
    drop(theirs);
    let reply = receive(&ours);
    if !process::has_ended(&pidfd, PATIENCE).unwrap_or(false) {
        process::signal(&pidfd, rustix::process::Signal::KILL).ok();
        process::has_ended(&pidfd, PATIENCE).ok();
    }
    process::reap(&pidfd).map_err(cannot)?;
    reply.map_err(cannot)
}

fn receive(socket: &OwnedFd) -> io::Result<Result<(), Failure>> {
    if !process::readable(socket, PATIENCE)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut reply = [0; MAX_REPLY];
    let (len, _) = socket::receive(socket, &mut reply, 0)?;
    parse_reply(&reply[..len]).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// A reply is the number of the part that failed, or that of all parts when none did, and the reason.
fn reply_of(made: Result<(), Failure>) -> Vec<u8> {
    let (part, why) = made.err().unwrap_or((PARTS.len(), String::new()));
    let part = u8::try_from(part).unwrap_or(u8::MAX);
    [part].into_iter().chain(why.bytes().take(MAX_REPLY - 1)).collect()
}

fn parse_reply(reply: &[u8]) -> Option<Result<(), Failure>> {
    let (part, why) = reply.split_first()?;
    match usize::from(*part) {
        part if part < PARTS.len() => Some(Err((part, String::from_utf8_lossy(why).into_owned()))),
        part => (part == PARTS.len()).then_some(Ok(())),
    }
}

fn make_parts(pools: Pools) -> Result<(), Failure> {
    let settings =
        RouterSettings { pools, resolvers: Vec::new(), cache: false, blocked: Vec::new(), names: BTreeMap::new() };
    let tables = [router::table(&settings), uplink::table(pools, None, 1)];
    for (part, table) in tables.iter().enumerate() {
        let made = NftSocket::open().and_then(|mut nft| {
            let mut batch = Batch::new();
            batch.replace_table(table);
            nft.commit(batch)
        });
        made.map_err(|error| (part, super::host::chain(&error)))?;
    }
    let failed = |part: usize| move |error: Error| (part, super::host::chain(&error));
    let mut route = RouteSocket::open().map_err(failed(2))?;
    let link = make_pair(&mut route).map_err(failed(2))?;
    let queue = |kind| Queue { link: link.index, handle: router::queue(), parent: Queue::ROOT, kind };
    route.replace_queue(&queue(QueueKind::Tbf { rate: RATE, burst: BURST, limit: BURST })).map_err(failed(3))?;
    route.delete_queue(&queue(QueueKind::Tbf { rate: RATE, burst: BURST, limit: BURST })).map_err(failed(3))?;
    route.replace_queue(&queue(QueueKind::Htb { default_class: 0 })).map_err(failed(4))
}

/// A pair of interfaces, both in this network.
fn make_pair(route: &mut RouteSocket) -> Result<Link, Error> {
    let refused = |what: &str, why: String| Error::Invalid { what: what.to_owned(), why };
    let own = namespace::open(std::process::id(), "net")
        .map_err(|error| refused("open the network namespace", error.to_string()))?;
    let end = |name: &str, mac| LinkEnd { name: name.to_owned(), mac: Mac(mac), mtu: MTU, tx_queue_len: 1, queues: 1 };
    let veth = Veth { near: end(HOST_LINK, HOST_MAC), far: end(ROUTER_LINK, GATEWAY_MAC), near_state: State::Down };
    route.add_veth(&veth, own.as_fd())?;
    route.link(HOST_LINK)?.ok_or_else(|| refused("make a pair of links", "it is not there".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_name_the_part_that_failed_or_none() {
        assert_eq!(parse_reply(&reply_of(Ok(()))), Some(Ok(())));
        let failure = (2, "Operation not supported".to_owned());
        assert_eq!(parse_reply(&reply_of(Err(failure.clone()))), Some(Err(failure)));
        assert_eq!((parse_reply(&[]), parse_reply(&[200])), (None, None));
        assert_eq!(reply_of(Err((0, "x".repeat(2 * MAX_REPLY)))).len(), MAX_REPLY);
    }
}
