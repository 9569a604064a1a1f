//! What the rules have from the host, and not from a tenant.

use crate::uplink::Report;
use bailiwick_plan::network::Pools;
use bailiwick_policy::Host;
use bailiwick_rules::router::RouterSettings;
use bailiwick_types::Prefix;
use std::net::IpAddr;

/// The settings of all rules.
pub(super) fn settings(host: &Host, pools: Pools, report: &Report) -> RouterSettings {
    let one = |address: &IpAddr| Prefix::new(*address, if address.is_ipv4() { 32 } else { 128 }).ok();
    let own = report.addresses.iter().filter_map(one);
    RouterSettings {
        pools,
        resolvers: report.resolvers.clone(),
        cache: host.network.cache,
        blocked: host.network.block.iter().copied().chain(own).collect(),
        names: report.names.clone(),
    }
}
