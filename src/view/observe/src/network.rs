//! What the machine adds to the network settings of the policy: the prefix of IPv6 that is made from it, and the resolvers that it
//! uses itself.

use bailiwick_plan::network::{Pools, local_prefix};
use bailiwick_policy::Host;
use bailiwick_sys::namespace;
use bailiwick_types::{HostNetwork, Ipv6Pool, Prefix};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

/// The file that identifies the machine (`machine-id(5)`).
const MACHINE: &str = "/etc/machine-id";
/// Whether new links have no IPv6 (`ip-sysctl` of the kernel).
const OFF: &str = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
/// The resolvers of the host: those of `systemd-resolved`, which has only itself in `resolv.conf`, and those of all others.
const RESOLVERS: [&str; 2] = ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"];
/// The most resolvers that a jail has. The C library asks no more (`resolv.conf(5)`).
const MOST_RESOLVERS: usize = 3;
/// The most bytes of a file.
const MAX_FILE: u64 = 64 << 10;

/// What the policy asks for does not fit the machine.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No prefix can be made for `ipv6 = "auto"`.
    #[error(
        "cannot read \"{MACHINE}\", from which the addresses of ipv6 = \"auto\" are made; write a prefix or \"off\" as \"ipv6\" below \
         [network] in bailiwick.toml"
    )]
    Machine(#[source] io::Error),
    /// The kernel has no IPv6.
    #[error(
        "the kernel has no IPv6, and bailiwick.toml has the prefix {0} for jails; write ipv6 = \"off\" below [network], or boot without \
         ipv6.disable=1"
    )]
    NoIpv6(Prefix),
    /// IPv6 is switched off on this host.
    #[error(
        "IPv6 is off on this host ({OFF} is 1), and jails would get {0}; write ipv6 = \"off\" below [network] in bailiwick.toml, or \
         switch it on: sysctl -w net.ipv6.conf.default.disable_ipv6=0"
    )]
    Ipv6IsOff(Prefix),
    /// There is no resolver that a jail could reach.
    #[error(
        "the host has no resolver that a jail can reach: {0}; write addresses as \"resolvers\" below [network] in bailiwick.toml"
    )]
    NoResolver(String),
}

/// The addresses that jails get on this machine. Without IPv6 in the kernel, `ipv6 = "auto"` gives none.
///
/// # Errors
/// When the machine cannot have the prefix that is asked for.
pub fn pools(network: &HostNetwork) -> Result<Pools, NetworkError> {
    let has_ipv6 = Path::new("/proc/sys/net/ipv6").is_dir();
    let ipv6 = match network.ipv6 {
        Ipv6Pool::Off => None,
        Ipv6Pool::Auto if !has_ipv6 => None,
        Ipv6Pool::Prefix(prefix) if !has_ipv6 => return Err(NetworkError::NoIpv6(prefix)),
        Ipv6Pool::Prefix(prefix) => Some(prefix),
        Ipv6Pool::Auto => {
            let machine = fs::read_to_string(MACHINE).map_err(NetworkError::Machine)?;
            Prefix::new(IpAddr::V6(local_prefix(&machine)), 48).ok()
        }
    };
    Ok(Pools::new(network.ipv4, ipv6).expect("the policy has checked the family of each prefix"))
}

/// Refuses addresses of IPv6 for jails on a host whose new links have none.
///
/// # Errors
/// [`NetworkError::Ipv6IsOff`].
pub fn check_ipv6(pools: Pools) -> Result<(), NetworkError> {
    let is_off = fs::read_to_string(OFF).is_ok_and(|value| value.trim() == "1");
    match pools.ipv6().filter(|_| is_off) {
        Some(pool) => Err(NetworkError::Ipv6IsOff(pool)),
        None => Ok(()),
    }
}

/// Whether the host has a router: its file holds a network namespace.
#[must_use]
pub fn has_router(host: &Host) -> bool {
    fs::File::open(host.router_namespace()).is_ok_and(|file| namespace::is_network(&file))
}

/// The resolvers that jails ask: the cache of names if there is one, or else those of [`resolvers`].
///
/// # Errors
/// As for [`resolvers`].
pub fn jail_resolvers(network: &HostNetwork, pools: Pools) -> Result<Vec<IpAddr>, NetworkError> {
    if network.cache { Ok(pools.cache().all().collect()) } else { resolvers(network) }
}

/// The resolvers of the host: those of the policy, or else those that the host asks. At most three.
///
/// # Errors
/// When the host has none, or only ones that nobody else can ask, such as 127.0.0.1.
pub fn resolvers(network: &HostNetwork) -> Result<Vec<IpAddr>, NetworkError> {
    if !network.resolvers.is_empty() {
        return Ok(network.resolvers.iter().copied().take(MOST_RESOLVERS).collect());
    }
    let mut local = Vec::new();
    for path in RESOLVERS {
        let Ok(text) = read(Path::new(path)) else { continue };
        let (reachable, unreachable): (Vec<_>, Vec<_>) = parse_resolvers(&text).into_iter().partition(is_reachable);
        if !reachable.is_empty() {
            return Ok(reachable.into_iter().take(MOST_RESOLVERS).collect());
        }
        local.extend(unreachable.into_iter().map(|address| format!("{path} has only {address}")));
    }
    Err(NetworkError::NoResolver(local.first().cloned().unwrap_or_else(|| "/etc/resolv.conf has none".to_owned())))
}

fn read(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// The addresses of a `resolv.conf` (`resolv.conf(5)`), each once. An address with a zone (`fe80::1%eth0`) has no meaning elsewhere.
#[must_use]
pub fn parse_resolvers(text: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some("nameserver"), Some(Ok(address))) = (words.next(), words.next().map(str::parse))
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// Whether others than the host itself can ask a resolver.
fn is_reachable(address: &IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !address.is_loopback() && !address.is_unspecified() && !address.is_multicast() && !is_link_local
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn resolvers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 9.9.9.9\nsearch example.org\nnameserver 192.0.2.1\n  nameserver\t2001:db8::1 # one\n\
                    nameserver fe80::1%eth0\nnameserver 192.0.2.1\nnameserver\nnameservers 9.9.9.9\n";
        assert_eq!(parse_resolvers(text), addresses(&["192.0.2.1", "2001:db8::1"]));
    }

    #[test]
    fn a_resolver_of_the_host_alone_is_none_for_jails() {
        let all = addresses(&["127.0.0.53", "::1", "0.0.0.0", "::", "169.254.1.1", "fe80::1", "224.0.0.1"]);
        assert_eq!(all.iter().filter(|address| is_reachable(address)).count(), 0);
        assert!(addresses(&["10.0.0.1", "192.0.2.1", "2001:db8::1"]).iter().all(is_reachable));
    }

    #[test]
    fn the_policys_resolvers_are_used_and_three_at_most() {
        let resolvers = addresses(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]);
        let network = HostNetwork { resolvers: resolvers.clone(), ..HostNetwork::default() };
        assert_eq!(super::resolvers(&network).expect("they are there"), resolvers[..3]);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(nameserver [0-9a-f.:%]{0,20}\n|\\PC{0,30}\n){0,8}") {
            let found = parse_resolvers(&text);
            prop_assert!(found.iter().all(|address| text.contains("nameserver") && address.to_string().len() > 1));
        }
    }
}
