//! Which addresses a webhook may reach.
//!
//! Danger: whoever can have the operator send somewhere, or controls the name of a receiver, would have this host ask its own
//! services, those of its neighbours, or the metadata service of a cloud. Its own listen on its public addresses too.

use bailiwick_types::{ALWAYS_BLOCKED, Prefix};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Why a webhook does not connect to an address; `None` when it does. `allowed` are the ranges that the operator has listed.
///
/// IPv4 that is written as IPv6 is the same address for the kernel, so it is judged in both forms.
#[must_use]
pub fn refused_address(address: IpAddr, allowed: &[Prefix]) -> Option<&'static str> {
    let forms = [address, address.to_canonical()];
    if is_listed(address, allowed) {
        return None;
    }
    let blocked = ALWAYS_BLOCKED.iter().find(|blocked| forms.iter().any(|form| blocked.prefix.contains(*form)));
    blocked.map(|blocked| blocked.what)
}

/// Why a webhook does not connect to an address of this host, whatever range that is of; `None` when it is not one of `own`, which the
/// interfaces of this host have, or when the operator has listed it.
pub(crate) fn refused_own_address(address: IpAddr, own: &BTreeSet<IpAddr>, allowed: &[Prefix]) -> Option<&'static str> {
    let is_own = own.contains(&address) || own.contains(&address.to_canonical());
    (is_own && !is_listed(address, allowed)).then_some("an address of this host")
}

/// Whether the operator has listed an address.
pub(crate) fn is_listed(address: IpAddr, allowed: &[Prefix]) -> bool {
    let forms = [address, address.to_canonical()];
    allowed.iter().any(|prefix| forms.iter().any(|form| prefix.contains(*form)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn only_public_addresses_are_reached_and_those_that_are_listed() {
        let address = |text: &str| text.parse::<IpAddr>().expect(text);
        for private in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "168.63.129.16",
            "169.254.169.254",
            "172.31.255.255",
            "192.168.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:192.0.32.10",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(refused_address(address(private), &[]).is_some(), "{private}");
        }
        for public in ["192.0.32.10", "2606:2800::1"] {
            assert_eq!(refused_address(address(public), &[]), None, "{public}");
        }
        let listed = ["10.0.0.0/8".parse().expect("a prefix"), "::1".parse().expect("a prefix")];
        for (text, is_reached) in [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("::1", true), ("127.0.0.1", false)] {
            assert_eq!(refused_address(address(text), &listed).is_none(), is_reached, "{text}");
        }
    }

    #[test]
    fn public_addresses_of_this_host_are_not_reached_unless_they_are_listed() {
        let address = |text: &str| text.parse::<IpAddr>().expect(text);
        let own = ["192.0.32.10", "2606:2800::1"].map(address).into();
        let listed = ["192.0.32.10".parse().expect("a prefix")];
        for (text, is_own) in
            [("192.0.32.10", true), ("::ffff:192.0.32.10", true), ("2606:2800::1", true), ("192.0.32.11", false)]
        {
            assert_eq!(refused_own_address(address(text), &own, &[]).is_some(), is_own, "{text}");
            let is_refused = is_own && text.starts_with('2');
            assert_eq!(refused_own_address(address(text), &own, &listed).is_some(), is_refused, "{text}");
        }
    }

    #[test]
    fn every_address_that_the_library_calls_special_is_refused() {
        for number in (0..=u32::MAX).step_by(65_521) {
            let v4 = Ipv4Addr::from_bits(number);
            let is_special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast();
            if is_special || v4.is_unspecified() || v4.is_broadcast() || v4.is_documentation() {
                assert!(refused_address(v4.into(), &[]).is_some(), "{v4}");
            }
            assert!(refused_address(v4.to_ipv6_mapped().into(), &[]).is_some(), "{v4}");
            let v6 = Ipv6Addr::from_bits(u128::from(number) << 96 | 1);
            if v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_multicast() {
                assert!(refused_address(v6.into(), &[]).is_some(), "{v6}");
            }
        }
    }
}
