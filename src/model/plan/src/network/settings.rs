//! What the network of a running jail follows from, as text, so that the policy of today can be compared with that in force.

use bailiwick_policy::{Tenant, network_settings};
use bailiwick_types::{HostNetwork, Link};
use std::collections::BTreeMap;

/// The most bytes of a value. All values of a tenant fit into the record of its jail.
const MOST: usize = 96;
/// What is kept of a longer value.
const KEPT: usize = 64;

/// The settings of a tenant's network by key, as they are written in a file: those below `[network]`, its links as `link`, and what
/// the host blocks for all as `block`. A long value is cut and ends with its digest, so two that differ have different texts.
#[must_use]
pub fn settings(tenant: &Tenant, host: &HostNetwork) -> BTreeMap<String, String> {
    let link = |Link { peer, direction, port }: &Link| format!("\"{direction} {peer} {port}\"");
    let links: Vec<String> = tenant.links.iter().map(link).collect();
    let block: Vec<String> = host.block.iter().map(|prefix| format!("\"{prefix}\"")).collect();
    let of_list = |items: Vec<String>| format!("[{}]", items.join(", "));
    network_settings(&tenant.settings.network)
        .into_iter()
        .chain([("link", of_list(links)), ("block", of_list(block))])
        .map(|(key, value)| (key.to_owned(), bounded(value)))
        .collect()
}

fn bounded(value: String) -> String {
    if value.len() <= MOST {
        return value;
    }
    // FNV-1a: who writes the policy is trusted, and nobody else chooses a value.
    let hash = value
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let kept: String = value.chars().take(KEPT).filter(char::is_ascii).collect();
    format!("{kept}... ({hash:016x})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_value_is_its_own_text_and_the_end_of_a_long_one_counts() {
        assert_eq!(bounded("[\"tcp/80\"]".to_owned()), "[\"tcp/80\"]");
        let (one, other) = (bounded(format!("{}1", "x".repeat(300))), bounded(format!("{}2", "x".repeat(300))));
        assert_ne!(one, other);
        assert!(one.starts_with("xxx") && one.len() <= MOST, "{one}");
    }

    proptest! {
        #[test]
        fn every_value_is_bounded(value in "\\PC{0,300}") {
            prop_assert!(bounded(value).len() <= MOST);
        }
    }
}
