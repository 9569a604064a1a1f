//! The network of jails as data: addresses, names of interfaces, and the rules of the router and of the host.
//!
//! ```text
//!   jail                          router (a network namespace of its own)                      host
//!   eth0 ---------------- bwN | own address? -> mark -> allowed? counted -> | up0 ---------- bwk0 | masquerade
//!   100.64.0.N/32             |                                             | 100.64.0.1          | 100.64.0.2
//! ```
//!
//! Each tenant has one address of each family, which follows from the number of its range of ids. Nothing is asked and nothing is
//! answered on a link: gateway and jail are permanent neighbours of each other, with fixed hardware addresses.

mod addresses;
mod probe;
mod settings;

pub use addresses::{Addresses, NoAddress, Pools, local_prefix};
pub use probe::{PacketProbe, PacketProbes, Verb};
pub use settings::settings;

use std::net::{Ipv4Addr, Ipv6Addr};

/// The interface of a jail.
pub const INTERFACE: &str = "eth0";
/// The largest packet on each link, in bytes (RFC 894).
pub const MTU: u32 = 1500;
/// The hardware address of each jail's interface: one that no vendor has (IEEE 802c, locally administered).
pub const JAIL_MAC: [u8; 6] = [0x02, 0x62, 0x77, 0, 0, 0x02];
/// The hardware address of the router's end of each jail's link.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0x62, 0x77, 0, 0, 0x01];
/// The gateway that a jail sees. No interface has the address.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The gateway that a jail sees.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The host's end of the link between the host and the router.
pub const HOST_LINK: &str = "bwk0";
/// The router's end of that link.
pub const ROUTER_LINK: &str = "up0";
/// The hardware address of the host's end.
pub const HOST_MAC: [u8; 6] = [0x02, 0x62, 0x77, 0, 1, 0x02];
/// The hardware address of the router's end.
pub const ROUTER_MAC: [u8; 6] = [0x02, 0x62, 0x77, 0, 1, 0x01];

/// The router's end of the link between the router and the cache of names. The other end is called as that of a jail.
pub const CACHE_LINK: &str = "dns0";
/// The hardware address of the cache's end.
pub const CACHE_MAC: [u8; 6] = [0x02, 0x62, 0x77, 0, 2, 0x02];
/// The hardware address of the router's end.
pub const CACHE_GATEWAY_MAC: [u8; 6] = [0x02, 0x62, 0x77, 0, 2, 0x01];

/// The mark of packets that the rules of the router let through to the decision on routes, and the number of the table with the
/// only routes. A packet without it has nowhere to go. So the router forwards nothing when its rules are lost.
pub const MARK: u32 = 0xba11;
/// The number of that table of routes.
pub const ROUTES: u32 = 0xba11;

/// The name of the router's end of a jail's link. `number` is that of the tenant's range of ids.
#[must_use]
pub fn link_name(number: u32) -> String {
    format!("bw{number}")
}

/// The number in the name of the router's end of a jail's link; `None` for any other interface.
#[must_use]
pub fn number_of_link(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("bw")?;
    let number = digits.parse().ok()?;
    (link_name(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_of_jails_have_numbers() {
        assert_eq!(number_of_link(&link_name(0)), Some(0));
        assert_eq!(number_of_link(&link_name(u32::MAX)), Some(u32::MAX));
        assert!(link_name(u32::MAX).len() < 16, "IFNAMSIZ");
        for other in ["bwk0", "up0", CACHE_LINK, "bw", "bw01", "bw+1", "bw4294967296", "lo", ""] {
            assert_eq!(number_of_link(other), None, "{other}");
        }
    }
}
