//! Packets that must not arrive, which an audit has a process inside send.

use super::{Addresses, Pools};
use bailiwick_types::{Network, RefusedPacket};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where clouds tell a machine its secrets.
const METADATA_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const WIRE_SERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
/// Public resolvers, which would answer if they were reached. One of them is no resolver of the tenant.
const PUBLIC: [Ipv4Addr; 4] =
    [Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(208, 67, 222, 222)];
const HTTP: u16 = 80;
const SSH: u16 = 22;
const SMTP: u16 = 25;
const DNS: u16 = 53;

/// What a process inside does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// It connects by TCP.
    Connect,
    /// It asks a resolver by UDP.
    Ask,
    /// It sends from an address that is not its own.
    SendFrom,
}

impl Verb {
    /// The word in the argument of the process and in what it writes.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Connect => "tcp",
            Self::Ask => "dns",
            Self::SendFrom => "from",
        }
    }
}

/// One packet that must not arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketProbe {
    /// What is done.
    pub verb: Verb,
    /// To which address, or from which one.
    pub address: SocketAddr,
    /// What that is.
    pub what: &'static str,
    /// Why the router refuses it.
    pub reason: RefusedPacket,
}

impl fmt::Display for PacketProbe {
    /// The argument of the process that tries it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.verb.word(), self.address)
    }
}

/// What the packets follow from.
#[derive(Debug, Clone, Copy)]
pub struct PacketProbes<'a> {
    /// The network of the tenant.
    pub network: &'a Network,
    /// The addresses of jails.
    pub pools: Pools,
    /// The addresses of another tenant, which runs if one does.
    pub neighbour: Option<Addresses>,
    /// The resolvers of the tenant.
    pub resolvers: &'a [IpAddr],
}

impl PacketProbes<'_> {
    /// The packets that must not arrive.
    #[must_use]
    pub fn all(self) -> Vec<PacketProbe> {
        let Self { network, pools, neighbour, resolvers } = self;
        let mut all = Vec::new();
        let mut add = |verb, (address, port): (IpAddr, u16), what, reason| {
            all.push(PacketProbe { verb, address: SocketAddr::new(address, port), what, reason });
        };
        let metadata = Addresses { ipv4: METADATA_V4, ipv6: pools.ipv6().map(|_| METADATA_V6) };
        for address in metadata.all().chain([WIRE_SERVER.into()]) {
            add(Verb::Connect, (address, HTTP), "the metadata service", RefusedPacket::Blocked);
        }
        for address in pools.host().all() {
            add(Verb::Connect, (address, SSH), "the host", RefusedPacket::Blocked);
        }
        for address in neighbour.into_iter().flat_map(Addresses::all) {
            add(Verb::Connect, (address, SSH), "another tenant", RefusedPacket::Tenant);
        }
        let public = PUBLIC.map(IpAddr::V4).into_iter().find(|public| !resolvers.contains(public));
        if let Some(public) = public {
            add(Verb::Ask, (public, DNS), "another resolver", RefusedPacket::Dns);
            if !network.smtp {
                add(Verb::Connect, (public, SMTP), "a port of mail", RefusedPacket::Smtp);
            }
        }
        let foreign = neighbour.unwrap_or(pools.host()).ipv4;
        add(Verb::SendFrom, (foreign.into(), 0), "an address that is not its own", RefusedPacket::Spoofed);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::{NetworkMode, Prefix};

    #[test]
    fn packets_follow_from_the_policy() {
        let prefix = |text: &str| -> Prefix { text.parse().expect("a prefix") };
        let pools = Pools::new(prefix("100.64.0.0/10"), Some(prefix("fd12::/48"))).expect("each of its family");
        let mut network = Network::with_mode(NetworkMode::Outbound);
        let resolvers: Vec<IpAddr> = vec![PUBLIC[0].into()];
        let neighbour = pools.tenant(1).ok();
        let texts = |network: &Network, neighbour| -> Vec<String> {
            let probes = PacketProbes { network, pools, neighbour, resolvers: &resolvers };
            probes.all().iter().map(PacketProbe::to_string).collect()
        };
        let golden = [
            "tcp=169.254.169.254:80",
            "tcp=[fd00:ec2::254]:80",
            "tcp=168.63.129.16:80",
            "tcp=100.64.0.2:22",
            "tcp=[fd12::2]:22",
            "tcp=100.64.0.17:22",
            "tcp=[fd12::11]:22",
            "dns=1.1.1.1:53",
            "tcp=1.1.1.1:25",
            "from=100.64.0.17:0",
        ];
        assert_eq!(texts(&network, neighbour), golden);
        network.smtp = true;
        let alone = texts(&network, None);
        assert!(!alone.iter().any(|text| text.ends_with(":25")), "it may send mail: {alone:?}");
        assert_eq!(alone.last().map(String::as_str), Some("from=100.64.0.2:0"));
    }
}
