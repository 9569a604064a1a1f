//! What a tenant used, when: the measures of the history, faults and incidents.

use crate::{LimitKey, Limits, Resource, TenantName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// How values of a measure are put together over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An amount within a span. Two spans together have the sum.
    Sum,
    /// A level at a moment. Two spans together have an average and a peak.
    Level,
}

/// What a measure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Microseconds.
    Microseconds,
    /// Bytes.
    Bytes,
    /// Things.
    Count,
}

macro_rules! measures {
    ($($name:ident = $word:literal $kind:ident $unit:ident, $doc:literal;)*) => {
        /// One thing that is measured of every tenant.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Measure { $(#[doc = $doc] $name,)* }

        impl Measure {
            /// All measures, in the order of storage and display. A new measure goes last.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$name),*];

            /// The word that commands and reports use.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// How its values are put together.
            #[must_use]
            pub fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)* }
            }

            /// What it counts.
            #[must_use]
            pub fn unit(self) -> Unit {
                match self { $(Self::$name => Unit::$unit,)* }
            }

            /// What it is, in a sentence.
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
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// A word that names no measure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no measure {0:?}; one of {all}", all = Measure::ALL.map(Measure::word).join(", "))]
pub struct UnknownMeasure(String);

impl FromStr for Measure {
    type Err = UnknownMeasure;
    fn from_str(text: &str) -> Result<Self, UnknownMeasure> {
        Self::ALL.into_iter().find(|measure| measure.word() == text).ok_or_else(|| UnknownMeasure(text.to_owned()))
    }
}

/// Seconds since 1970 by the host's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

/// From one moment until another, which is excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The first second inside.
    pub from: Moment,
    /// The first second after it.
    pub until: Moment,
}

/// What a tenant used in a span, as far as it was measured. A missing value is unknown, not zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Usage(pub BTreeMap<Measure, u64>);

impl Usage {
    /// The hard bound of each measure that has one, in the measure's unit; for sums, per second.
    #[must_use]
    pub fn bounds(limits: &Limits) -> Self {
        Self(LimitKey::ALL.into_iter().filter_map(|key| key.bound(limits.value(key)?)).collect())
    }

    /// One value, if it was measured.
    #[must_use]
    pub fn get(&self, measure: Measure) -> Option<u64> {
        self.0.get(&measure).copied()
    }
}

/// What a tenant used in one span of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// When the span begins.
    pub at: Moment,
    /// How many seconds of it were measured. Seconds in which the tenant or the daemon was down are missing.
    pub seconds: u64,
    /// Sums, and averages of levels.
    pub usage: Usage,
    /// The highest value of each measure in one minute.
    pub peak: Usage,
}

/// One tenant over a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantUsage {
    /// Whose.
    pub tenant: TenantName,
    /// The window as one span.
    pub total: Point,
    /// The limits now, for each measure with a hard one, in the measure's unit; for `cpu`, `io_read` and other sums per second.
    pub limits: Usage,
    /// Faults in the window, by the word of the limit.
    pub faults: BTreeMap<String, u64>,
}

/// Hits of one limit, counted by the kernel (or, for sessions, by the daemon).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When they were seen.
    pub at: Moment,
    /// Whose.
    pub tenant: TenantName,
    /// The word of the limit: `memory`, `tasks`, `disk`, ...
    pub limit: String,
    /// How many since the previous reading.
    pub count: u64,
}

/// A run of faults of one kind with gaps under five minutes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Ascending and never reused; 0 for one that is not stored yet.
    pub id: u64,
    /// Whose.
    pub tenant: TenantName,
    /// The word of the limit, or `pressure` and the resource, such as `pressure-io`.
    pub kind: String,
    /// The first fault.
    pub from: Moment,
    /// The last fault so far.
    pub until: Moment,
    /// How many faults.
    pub faults: u64,
    /// The evidence from its first moments.
    pub snapshots: Vec<Snapshot>,
}

/// The evidence of one moment of an incident.
///
/// Danger: the tenant's processes choose the texts. They are bounded, and must be escaped before display.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When.
    pub at: Moment,
    /// What the tenant used since the snapshot before, or in the last minute.
    pub usage: Usage,
    /// The tenant's processes, those with the most memory first.
    pub processes: Vec<ProcessSnapshot>,
    /// For each resource, how long the tenant waited because of itself and because of others, in microseconds.
    pub pressure: Vec<PressureShare>,
}

/// A process in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSnapshot {
    /// Pid on the host.
    pub pid: u32,
    /// Pid of its parent.
    pub parent: u32,
    /// First 15 bytes of the program's name; chosen by the tenant.
    pub command: String,
    /// Resident memory in bytes.
    pub memory: u64,
    /// Its largest open files, with their sizes in bytes; names chosen by the tenant.
    pub files: Vec<(String, u64)>,
}

/// Why a tenant waited for one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PressureShare {
    /// `cpu`, `memory` or `io`.
    pub resource: Resource,
    /// Microseconds that it waited because of its own limit and use.
    pub own: u64,
    /// Microseconds that it waited because of others.
    pub others: u64,
    /// The tenant that used the most of the resource meanwhile, when others made this one wait. `None` also for a reader who may not
    /// know it.
    pub neighbour: Option<TenantName>,
    /// Whether the host itself used more of it than any other tenant, when others made this one wait.
    #[serde(default)]
    pub host: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_has_its_own_word_and_reads_as_it_is_written() {
        for measure in Measure::ALL {
            assert_eq!(measure.word().parse(), Ok(measure));
            assert_eq!(format!("{:?}", measure.word()), serde_word(measure));
        }
        assert!("CPU".parse::<Measure>().is_err());
    }

    fn serde_word(measure: Measure) -> String {
        // The variant in snake case is what serde writes.
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
