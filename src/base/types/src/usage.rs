//! What tenants used: the measures of the history, faults and incidents.

use crate::{LimitKey, Limits, NetworkTraffic, RefusedPacket, Resource, SocketName, TenantName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// How the values of a measure in several spans are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An amount within a span. The value of two spans is their sum.
    Sum,
    /// A level at a moment. The value of two spans is their average, and their peak.
    Level,
}

/// The unit of a measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Microseconds.
    Microseconds,
    /// Bytes.
    Bytes,
    /// A number.
    Count,
}

macro_rules! measures {
    ($($name:ident = $word:literal $kind:ident $unit:ident, $doc:literal;)*) => {
        /// A measure that is recorded for every tenant.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Measure { $(#[doc = $doc] $name,)* }

        impl Measure {
            /// All measures, in the order of storage and display. A new measure must be the last.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$name),*];

            /// The word in commands and reports.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// How its values are combined.
            #[must_use]
            pub fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)* }
            }

            /// Its unit.
            #[must_use]
            pub fn unit(self) -> Unit {
                match self { $(Self::$name => Unit::$unit,)* }
            }

            /// Its description in one sentence.
            #[must_use]
            pub fn description(self) -> &'static str {
                match self { $(Self::$name => $doc,)* }
            }
        }
    };
}

measures! {
    Cpu = "cpu" Sum Microseconds, "Processor time.";
    Throttled = "throttled" Sum Microseconds, "Time for which processes were held back by the tenant's own limit `cpu`.";
    Memory = "memory" Level Bytes, "Memory, with page cache and kernel memory.";
    Swap = "swap" Level Bytes, "Swap space.";
    Tasks = "tasks" Level Count, "Processes and threads.";
    IoRead = "io_read" Sum Bytes, "Bytes read from block devices.";
    IoWrite = "io_write" Sum Bytes, "Bytes written to block devices.";
    IopsRead = "iops_read" Sum Count, "Read operations of block devices.";
    IopsWrite = "iops_write" Sum Count, "Write operations of block devices.";
    Disk = "disk" Level Bytes, "Bytes on disk.";
    Inodes = "inodes" Level Count, "Files on disk.";
    Sessions = "sessions" Level Count, "Concurrent entries through doors.";
    CpuPressure = "cpu_pressure" Sum Microseconds, "Time for which some process waited for a processor (PSI).";
    MemoryPressure = "memory_pressure" Sum Microseconds, "Time for which some process waited for memory (PSI).";
    IoPressure = "io_pressure" Sum Microseconds, "Time for which some process waited for a block device (PSI).";
    MemoryUsed = "memory_used" Level Bytes, "Memory that the kernel cannot take back: without page cache.";
    NetSent = "net_sent" Sum Bytes, "Bytes sent over the network, with the headers of IP.";
    NetReceived = "net_received" Sum Bytes, "Bytes received over the network, with the headers of IP.";
    NetSentPackets = "net_sent_packets" Sum Count, "Packets sent over the network.";
    NetReceivedPackets = "net_received_packets" Sum Count, "Packets received over the network.";
    Net6Sent = "net6_sent" Sum Bytes, "The part of `net_sent` that was sent by IPv6.";
    Net6Received = "net6_received" Sum Bytes, "The part of `net_received` that was received by IPv6.";
}

impl Measure {
    /// Whether it counts what a tenant sends or receives over the network.
    #[must_use]
    pub fn is_traffic(self) -> bool {
        matches!(self, Self::NetSent | Self::NetReceived | Self::NetSentPackets | Self::NetReceivedPackets)
            || matches!(self, Self::Net6Sent | Self::Net6Received)
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// The word does not name a measure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no measure {0:?}; one of {all}", all = Measure::ALL.map(Measure::word).join(", "))]
pub struct UnknownMeasure(String);

impl FromStr for Measure {
    type Err = UnknownMeasure;
    fn from_str(text: &str) -> Result<Self, UnknownMeasure> {
        Self::ALL.into_iter().find(|measure| measure.word() == text).ok_or_else(|| UnknownMeasure(text.to_owned()))
    }
}

/// Seconds since 1970, by the host's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

/// The time from one moment until another, which is excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The first second of the window.
    pub from: Moment,
    /// The first second after the window.
    pub until: Moment,
}

/// The use of a tenant in a span. A missing value was not measured; it is unknown, not zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Usage(pub BTreeMap<Measure, u64>);

impl Usage {
    /// The hard bound of each measure that has one, in the measure's unit; for sums, per second.
    #[must_use]
    pub fn bounds(limits: &Limits) -> Self {
        Self(LimitKey::ALL.into_iter().filter_map(|key| key.bound(limits.value(key)?)).collect())
    }

    /// What a tenant has sent and received, in the measures of traffic.
    #[must_use]
    pub fn of_traffic(traffic: NetworkTraffic) -> Self {
        let NetworkTraffic { ipv4, ipv6 } = traffic;
        Self(BTreeMap::from([
            (Measure::NetSent, ipv4.sent.bytes.saturating_add(ipv6.sent.bytes)),
            (Measure::NetReceived, ipv4.received.bytes.saturating_add(ipv6.received.bytes)),
            (Measure::NetSentPackets, ipv4.sent.packets.saturating_add(ipv6.sent.packets)),
            (Measure::NetReceivedPackets, ipv4.received.packets.saturating_add(ipv6.received.packets)),
            (Measure::Net6Sent, ipv6.sent.bytes),
            (Measure::Net6Received, ipv6.received.bytes),
        ]))
    }

    /// The value of a measure; `None` if it was not measured.
    #[must_use]
    pub fn get(&self, measure: Measure) -> Option<u64> {
        self.0.get(&measure).copied()
    }
}

/// What the memory of a tenant is used for, in bytes. On version 1 of control groups `kernel` is what the other two leave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryKinds {
    /// Memory of processes.
    pub anon: u64,
    /// Memory of the kernel for them.
    pub kernel: u64,
    /// Contents of files, mostly page cache; also those of a tmpfs.
    pub file: u64,
}

/// The use of a tenant in one span of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// The start of the span.
    pub at: Moment,
    /// The number of seconds that were measured. Seconds in which the tenant or `bailiwickd` was down are missing.
    pub seconds: u64,
    /// The sums, and the averages of levels.
    pub usage: Usage,
    /// The highest value of each measure within one minute.
    pub peak: Usage,
}

/// The use of one tenant in a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantUsage {
    /// The tenant.
    pub tenant: TenantName,
    /// The whole window as one span.
    pub total: Point,
    /// The present hard limits, in the units of their measures; for `cpu`, `io_read` and other sums, per second.
    pub limits: Usage,
    /// The number of faults in the window, by the word of the limit.
    pub faults: BTreeMap<String, u64>,
    /// Its services, for the use at present; `None` when it has none, or when nothing is known of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<ServiceCounts>,
}

/// How many services of a tenant there are, by what init last reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCounts {
    /// The services that are ready.
    pub running: u64,
    /// The services that failed, or that are started again and again.
    pub failing: u64,
    /// All declared services.
    pub declared: u64,
}

/// Hits of one limit. The kernel counts them; for sessions, `bailiwickd` does; for `entries`, the host's web server tells of them, so
/// that there may be more. A packet that the router refused is a fault too, and `bailiwick-net` counts those.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When the count was read.
    pub at: Moment,
    /// The tenant.
    pub tenant: TenantName,
    /// The word of the limit: `memory`, `tasks`, `disk`, ...; or `network-` and the reason of a refused packet: `network-dns`.
    pub limit: String,
    /// The number of hits since the previous reading.
    pub count: u64,
}

/// A series of faults of one kind with gaps of less than five minutes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Its id. Ids ascend and are never reused; 0 is an incident that is not stored yet.
    pub id: u64,
    /// The tenant.
    pub tenant: TenantName,
    /// The word of the limit; or `pressure-` and the resource: `pressure-io`; or `network-` and the reason: `network-dns`.
    pub kind: String,
    /// The time of the first fault.
    pub from: Moment,
    /// The time of the latest fault.
    pub until: Moment,
    /// The number of faults.
    pub faults: u64,
    /// The evidence of its first moments.
    pub snapshots: Vec<Snapshot>,
}

/// The evidence of one moment of an incident.
///
/// Danger: the tenant's processes choose the texts. They are bounded, and must be escaped before display.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The moment.
    pub at: Moment,
    /// The use since the previous snapshot, or in the last minute.
    pub usage: Usage,
    /// The tenant's processes, sorted by memory; the largest comes first.
    pub processes: Vec<ProcessSnapshot>,
    /// For each resource, how long the tenant waited because of itself and because of others.
    pub pressure: Vec<PressureShare>,
    /// The sockets of its services that had connections or refused requests; empty unless the incident is about `entries`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<SocketUse>,
    /// The packets that the router refused in the minute before, by reason; empty unless the incident is about such packets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<RefusedPacket, u64>,
}

/// A socket of a service in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketUse {
    /// The socket.
    pub socket: SocketName,
    /// The connections that were accepted or waited; `None` when they could not be counted.
    pub connections: Option<u64>,
    /// The requests that the web server refused since the report before, which came a second earlier if there was one.
    pub refused: u64,
}

/// A process in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSnapshot {
    /// Its pid on the host.
    pub pid: u32,
    /// The pid of its parent on the host.
    pub parent: u32,
    /// The first 15 bytes of the program's name, which the tenant chooses.
    pub command: String,
    /// Its resident memory in bytes.
    pub memory: u64,
    /// Its largest open files: names, which the tenant chooses, and sizes in bytes.
    pub files: Vec<(String, u64)>,
}

/// Why a tenant waited for one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PressureShare {
    /// `cpu`, `memory` or `io`.
    pub resource: Resource,
    /// Microseconds of waiting because of its own limit and use.
    pub own: u64,
    /// Microseconds of waiting because of others.
    pub others: u64,
    /// The tenant that used the most of the resource meanwhile, if others made this tenant wait. It is also `None` for
    /// a reader who may not know the name.
    pub neighbour: Option<TenantName>,
    /// Whether the host itself used more of the resource than any other tenant, if others made this tenant wait.
    #[serde(default)]
    pub host: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Traffic, Volume};

    #[test]
    fn every_measure_has_its_own_word_and_reads_as_it_is_written() {
        for measure in Measure::ALL {
            assert_eq!(measure.word().parse(), Ok(measure));
            assert_eq!(format!("{:?}", measure.word()), serde_word(measure));
        }
        assert!("CPU".parse::<Measure>().is_err());
    }

    #[test]
    fn the_measures_of_traffic_hold_both_versions_of_ip_and_the_share_of_the_sixth() {
        let volume = |bytes, packets| Volume { bytes, packets };
        let ipv4 = Traffic { sent: volume(1000, 10), received: volume(2000, 20) };
        let ipv6 = Traffic { sent: volume(u64::MAX, 1), received: volume(5, 2) };
        let usage = Usage::of_traffic(NetworkTraffic { ipv4, ipv6 });
        let golden = [
            (Measure::NetSent, u64::MAX),
            (Measure::NetReceived, 2005),
            (Measure::NetSentPackets, 11),
            (Measure::NetReceivedPackets, 22),
            (Measure::Net6Sent, u64::MAX),
            (Measure::Net6Received, 5),
        ];
        assert_eq!(usage.0, golden.into());
        assert!(Measure::ALL.into_iter().all(|measure| measure.is_traffic() == usage.get(measure).is_some()));
    }

    fn serde_word(measure: Measure) -> String {
        // serde writes the variant in snake case.
        let name = format!("{measure:?}");
        let mut text = String::new();
        for (index, letter) in name.chars().enumerate() {
            if letter.is_ascii_uppercase() && index > 0 {
                text.push('_');
            }
            text.push(letter.to_ascii_lowercase());
        }
        format!("{text:?}")
    }
}
