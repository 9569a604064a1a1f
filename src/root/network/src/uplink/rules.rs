//! The host's table: compared with what it should be, and replaced as a whole when it differs.

use bailiwick_netfilter::nft::{Batch, NftSocket};
use bailiwick_netlink::Error;
use bailiwick_plan::network::Pools;
use bailiwick_policy::{Host, Policy};
use bailiwick_rules::uplink;
use bailiwick_types::{Network, NetworkMode};
use std::net::IpAddr;

/// More rules than the table has.
const MOST: usize = 1000;

/// How many connections the host remembers of one address: twice as many as any tenant may have, so that the router refuses the first one
/// too many, and says so.
pub(super) fn connections(policy: &Policy) -> u32 {
    let networks = policy.tenants.values().map(|tenant| &tenant.settings.network);
    let most = networks.filter(|network| network.mode != NetworkMode::None).map(|network| network.connections).max();
    2 * most.unwrap_or(Network::CONNECTIONS)
}

/// The same when no policy can be read, and none was before.
pub(super) const MOST_CONNECTIONS: u32 = 2 * Network::MAX_CONNECTIONS;

/// Puts the table in force; returns what was wrong. One transaction replaces it, so no packet meets half of it.
pub(super) fn ensure(pools: Pools, host: &Host, connections: u32) -> Result<Vec<String>, Error> {
    let wanted = uplink::table(pools, host.network.ports, connections);
    let mut socket = NftSocket::open()?;
    let what = match socket.table(uplink::TABLE, MOST)? {
        Some(there) if there.table.clone().comparable() == wanted.clone().comparable() => return Ok(Vec::new()),
        Some(_) => format!("the table {} was not as it should be", uplink::TABLE),
        None => format!("the table {} was missing", uplink::TABLE),
    };
    let mut batch = Batch::new();
    batch.replace_table(&wanted);
    socket.commit(batch)?;
    Ok(vec![what])
}

/// How many addresses of jails are told by themselves.
const TOLD: usize = 8;

/// Which addresses of jails the host has refused connections lately, because it remembers too many of them, as sentences.
pub(super) fn refused() -> Result<Vec<String>, Error> {
    let mut socket = NftSocket::open()?;
    let Some(dump) = socket.table(uplink::TABLE, MOST)? else { return Ok(Vec::new()) };
    let mut refused = Vec::new();
    for set in dump.table.sets.iter().filter(|set| uplink::REFUSED.contains(&set.name.as_str())) {
        let elements = socket.elements(uplink::TABLE, set, usize::try_from(uplink::MOST_COUNTED).unwrap_or(MOST))?;
        refused.extend(elements.iter().filter_map(uplink::refused));
    }
    let sentence = |(address, packets): &(IpAddr, u64)| {
        format!(
            "the host refuses new connections of {address}: it remembers more of them than any jail may have, which the router has ended; \
             {packets} packets were dropped. `conntrack -D -s {address}` forgets them"
        )
    };
    let mut told: Vec<_> = refused.iter().take(TOLD).map(sentence).collect();
    if refused.len() > TOLD {
        told.push(format!("the host refuses new connections of {} more addresses of jails", refused.len() - TOLD));
    }
    Ok(told)
}

/// Reads the table, as the first question to a kernel that may have no tables.
pub(super) fn try_to_read() -> Result<(), Error> {
    NftSocket::open()?.table(uplink::TABLE, MOST).map(drop)
}

/// Removes the table; returns what it was called if it was there.
pub(super) fn remove() -> Result<Option<String>, Error> {
    let mut socket = NftSocket::open()?;
    if socket.table(uplink::TABLE, MOST)?.is_none() {
        return Ok(None);
    }
    let mut batch = Batch::new();
    batch.delete_table(uplink::TABLE);
    socket.commit(batch)?;
    Ok(Some(format!("the table {}", uplink::TABLE)))
}
