//! The addresses of tenants, of the router and of the host's link to it.

use bailiwick_types::Prefix;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How many addresses at the start of a pool are for the router and the host.
const RESERVED: u32 = 16;
const ROUTER: u32 = 1;
const HOST: u32 = 2;
const CACHE: u32 = 3;

/// The addresses that jails get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pools {
    ipv4: (Prefix, Ipv4Addr),
    ipv6: Option<(Prefix, Ipv6Addr)>,
}

/// One address of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The address of IPv4.
    pub ipv4: Ipv4Addr,
    /// The address of IPv6; `None` when jails have none.
    pub ipv6: Option<Ipv6Addr>,
}

impl Addresses {
    /// Both addresses.
    pub fn all(self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(IpAddr::V4(self.ipv4)).chain(self.ipv6.map(IpAddr::V6))
    }
}

/// The pool is too small for this tenant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the pool {pool} has no address left for the range of ids number {number}; set a larger one as \"ipv4\" below [network] in \
     bailiwick.toml"
)]
pub struct NoAddress {
    pool: Prefix,
    number: u32,
}

impl Pools {
    /// The pools of a host; `None` when a prefix is not of its family.
    #[must_use]
    pub fn new(ipv4: Prefix, ipv6: Option<Prefix>) -> Option<Self> {
        let IpAddr::V4(first) = ipv4.address() else { return None };
        let ipv6 = match ipv6.map(|prefix| (prefix, prefix.address())) {
            None => None,
            Some((prefix, IpAddr::V6(first))) => Some((prefix, first)),
            Some((_, IpAddr::V4(_))) => return None,
        };
        Some(Self { ipv4: (ipv4, first), ipv6 })
    }

    /// The prefix of IPv4.
    #[must_use]
    pub fn ipv4(self) -> Prefix {
        self.ipv4.0
    }

    /// The prefix of IPv6.
    #[must_use]
    pub fn ipv6(self) -> Option<Prefix> {
        self.ipv6.map(|(prefix, _)| prefix)
    }

    /// The router's own addresses.
    #[must_use]
    pub fn router(self) -> Addresses {
        self.at(ROUTER)
    }

    /// The addresses of the host on its link to the router.
    #[must_use]
    pub fn host(self) -> Addresses {
        self.at(HOST)
    }

    /// The addresses of the cache of names.
    #[must_use]
    pub fn cache(self) -> Addresses {
        self.at(CACHE)
    }

    /// The addresses of the tenant with this number.
    ///
    /// # Errors
    /// When the pool of IPv4 ends before. The last address, which is that of a broadcast in most networks, is nobody's.
    pub fn tenant(self, number: u32) -> Result<Addresses, NoAddress> {
        let pool = self.ipv4.0;
        let offset = number.checked_add(RESERVED).filter(|offset| u128::from(*offset) + 1 < pool.addresses());
        offset.map(|offset| self.at(offset)).ok_or(NoAddress { pool, number })
    }

    /// The addresses at a distance from the start of each pool. Each pool has more addresses.
    fn at(self, offset: u32) -> Addresses {
        let ipv4 = Ipv4Addr::from_bits(self.ipv4.1.to_bits() | offset);
        let ipv6 = self.ipv6.map(|(_, first)| Ipv6Addr::from_bits(first.to_bits() | u128::from(offset)));
        Addresses { ipv4, ipv6 }
    }
}

/// The prefix of unique local addresses of a machine (RFC 4193). `machine` is what `/etc/machine-id` says: an id that is to be
/// kept from the network (`machine-id(5)`), so only 40 bits of a hash of it are used.
#[must_use]
pub fn local_prefix(machine: &str) -> Ipv6Addr {
    // FNV-1a: the prefix must stay the same in all versions of this program, and needs no secrecy.
    let hash = machine
        .trim()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let global = u128::from(hash >> 24);
    Ipv6Addr::from_bits(0xfd << 120 | global << 80)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pools(ipv4: &str, ipv6: Option<&str>) -> Pools {
        let prefix = |text: &str| text.parse().expect("a prefix");
        Pools::new(prefix(ipv4), ipv6.map(prefix)).expect("each of its family")
    }

    #[test]
    fn the_router_and_the_host_have_the_first_addresses() {
        let pools = pools("100.64.0.0/10", Some("fd12::/64"));
        assert_eq!(
            pools.router().all().map(|address| address.to_string()).collect::<Vec<_>>(),
            ["100.64.0.1", "fd12::1"]
        );
        assert_eq!(
            pools.host().all().map(|address| address.to_string()).collect::<Vec<_>>(),
            ["100.64.0.2", "fd12::2"]
        );
        let first = pools.tenant(0).expect("there is room");
        assert_eq!(first.all().map(|address| address.to_string()).collect::<Vec<_>>(), ["100.64.0.16", "fd12::10"]);
    }

    #[test]
    fn a_full_pool_is_an_error_that_names_it() {
        let pools = pools("10.9.8.0/24", None);
        assert_eq!(pools.tenant(238).expect("the last").ipv4, Ipv4Addr::new(10, 9, 8, 254));
        let error = pools.tenant(239).expect_err("the broadcast").to_string();
        assert!(error.contains("10.9.8.0/24") && error.contains("\"ipv4\""), "{error}");
        assert!(pools.tenant(u32::MAX).is_err());
        let prefix: Prefix = "fd12::/64".parse().expect("a prefix");
        assert_eq!(Pools::new(prefix, None), None);
    }

    #[test]
    fn a_machine_has_the_same_local_prefix_for_ever() {
        let prefix = local_prefix("0123456789abcdef0123456789abcdef\n");
        assert_eq!(prefix.octets()[0], 0xfd);
        assert_eq!(prefix.octets()[6..], [0; 10], "the prefix has 48 bits");
        assert_eq!(prefix, local_prefix("0123456789abcdef0123456789abcdef"));
        assert_ne!(prefix, local_prefix("1123456789abcdef0123456789abcdef"));
        assert_eq!(prefix.to_string(), "fd01:527c:9731::", "other addresses would mean new networks for all tenants");
    }

    proptest! {
        #[test]
        fn each_tenant_has_addresses_of_its_own_in_the_pool(a in 0u32..65_536, b in 0u32..65_536) {
            let pools = pools("100.64.0.0/10", Some("fd12:3456:789a::/48"));
            let (first, second) = (pools.tenant(a).expect("room"), pools.tenant(b).expect("room"));
            prop_assert_eq!(first == second, a == b);
            for address in first.all() {
                prop_assert!(pools.ipv4().contains(address) || pools.ipv6().expect("it has").contains(address));
                let own = [pools.router(), pools.host(), pools.cache()].into_iter().flat_map(Addresses::all);
                prop_assert!(own.into_iter().all(|other| other != address));
            }
        }
    }
}
