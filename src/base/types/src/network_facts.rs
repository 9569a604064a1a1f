//! What the kernel says of a tenant's network: its link, its traffic, and what was refused to it.

use crate::{Bound, ByteRate, ByteSize, MonthlyVolume, Network, TenantName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Bytes and packets of one direction. The bytes include the headers of IP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// How many bytes.
    pub bytes: u64,
    /// How many packets.
    pub packets: u64,
}

/// What a tenant has sent and received by one version of IP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// What the jail has sent and the router has passed on.
    pub sent: Volume,
    /// What the router has passed on to the jail.
    pub received: Volume,
}

/// What a tenant has sent and received since the router counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkTraffic {
    /// By IPv4.
    pub ipv4: Traffic,
    /// By IPv6.
    pub ipv6: Traffic,
}

impl NetworkTraffic {
    /// All bytes of both directions and versions: what counts against a monthly volume.
    #[must_use]
    pub fn bytes(self) -> u64 {
        let of = |traffic: Traffic| traffic.sent.bytes.saturating_add(traffic.received.bytes);
        of(self.ipv4).saturating_add(of(self.ipv6))
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident = $word:literal, $text:literal;)*) => {
        /// Why the router has refused a packet of a jail.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum RefusedPacket { $($(#[$doc])* $reason,)* }

        impl RefusedPacket {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$reason),*];

            /// The word in reports, and in the names of the kernel's counters.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$reason => $word,)* }
            }

            /// The reason, as an operator reads it.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$reason => $text,)* }
            }
        }
    };
}

reasons! {
    /// The source address is not that of the jail.
    Spoofed = "spoofed", "from an address that is not the jail's own";
    /// The destination is always blocked.
    Blocked = "blocked", "to an address that is always blocked";
    /// The destination is an address of another tenant.
    Tenant = "tenant", "to another tenant without a link";
    /// The destination is not in `allow`, or its port not in `ports`.
    NotAllowed = "not-allowed", "to an address or a port that is not allowed";
    /// A question to a resolver that is not the tenant's.
    Dns = "dns", "to port 53, where \"dns\" is not in `ports` or the host is no resolver of the tenant";
    /// Too many questions to the cache.
    Questions = "questions", "more questions than the cache takes from one tenant";
    /// A port of mail.
    Smtp = "smtp", "to a port of SMTP";
    /// There are too many connections.
    Connections = "connections", "more connections than the limit";
    /// The volume of the month is used up.
    Month = "month", "after the volume of the month was used up";
    /// It belongs to no connection, or is broken.
    Invalid = "invalid", "of no known connection";
}

/// A connection of a jail, as the router tracks it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConnection {
    /// The protocol: `tcp`, `udp`, `icmp` or a number.
    pub protocol: String,
    /// Who opened it.
    pub source: IpAddr,
    /// The port of the source; `None` for a protocol without ports.
    pub source_port: Option<u16>,
    /// The other end.
    pub destination: IpAddr,
    /// The port of the destination.
    pub destination_port: Option<u16>,
    /// The state of a TCP connection, in the kernel's words.
    pub state: Option<String>,
    /// How long it is remembered without a packet, in seconds.
    pub expires: u32,
}

/// A packet that was refused to a jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefusedRecord {
    /// When, in seconds since 1970.
    pub at: u64,
    /// Why.
    pub reason: RefusedPacket,
    /// Where it said that it came from.
    pub source: IpAddr,
    /// Where it was to go.
    pub destination: IpAddr,
    /// The protocol: `tcp`, `udp`, `icmp`, `icmpv6` or a number.
    pub protocol: String,
    /// The port of the destination; `None` for a protocol without ports, and when the packet was cut before it.
    pub port: Option<u16>,
}

/// The limits of a tenant's network, as they are in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkLimits {
    /// The most bytes a second out of the jail: that of its class in the queue to the host.
    pub up: Bound<ByteRate>,
    /// The most bytes a second into the jail: that of the queue of its link.
    pub down: Bound<ByteRate>,
    /// The most connections at a time; `None` when the router has no such limit for it.
    pub connections: Option<u32>,
    /// The bytes of a month after which it stops; `None` when the kernel stops it at none.
    pub stops_at: Option<ByteSize>,
}

/// The network of a tenant, as the router has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkFacts {
    /// The tenant.
    pub tenant: TenantName,
    /// The router's end of the jail's link, if the jail has one.
    pub link: Option<String>,
    /// Whether that end is up.
    pub is_up: bool,
    /// The addresses from which the router lets the jail send.
    pub addresses: Vec<IpAddr>,
    /// What it has sent and received since the router was made.
    pub traffic: NetworkTraffic,
    /// What counts against the volume of this month, in bytes.
    pub month: u64,
    /// The policy that is in force; `None` without a link.
    #[serde(default)]
    pub in_force: Option<Box<Network>>,
    /// The limits that are in force, read from the kernel; `None` without a link.
    #[serde(default)]
    pub limits: Option<NetworkLimits>,
    /// Refused packets by reason; only reasons with packets.
    pub refused: BTreeMap<RefusedPacket, u64>,
    /// Some of the packets that were refused last, the oldest first. Few are recorded: each of them was counted.
    #[serde(default)]
    pub last_refused: Vec<RefusedRecord>,
    /// Differences between the kernel and the policy, as sentences; empty when there are none.
    pub differences: Vec<String>,
}

impl NetworkFacts {
    /// The volume of the month that is in force.
    #[must_use]
    pub fn volume(&self) -> Option<&MonthlyVolume> {
        self.in_force.as_ref()?.month.as_ref()
    }

    /// The shares of the volume at which the operator is told that are reached.
    #[must_use]
    pub fn shares_reached(&self) -> Vec<u8> {
        self.volume().map(|month| month.reached(self.month).collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_volume_of_a_month_counts_both_ways_and_both_versions() {
        let volume = |bytes| Volume { bytes, packets: 1 };
        let traffic = |sent, received| Traffic { sent: volume(sent), received: volume(received) };
        assert_eq!(NetworkTraffic { ipv4: traffic(1, 2), ipv6: traffic(4, 8) }.bytes(), 15);
        assert_eq!(NetworkTraffic { ipv4: traffic(u64::MAX, 2), ipv6: traffic(4, 8) }.bytes(), u64::MAX);
    }
}
