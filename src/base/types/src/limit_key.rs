//! The table of limits: word, unit, kind, resource and holder of each. No other place repeats them.

use crate::{Bound, ByteSize, Count, CpuShare, Door, Hierarchy, Limits, Measure, Period, Resource, SoftHard};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The unit of a limit's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitUnit {
    /// Thousandths of a per cent of one core.
    CpuShare,
    /// Bytes; for a rate, bytes per second.
    Bytes,
    /// A count, written with `k` and `m`; for a rate, operations per second.
    Count,
    /// A count or a weight, written as a plain number.
    Number,
    /// Seconds.
    Seconds,
}

/// The way in which a limit bounds use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKind {
    /// Use never exceeds the limit.
    Hard,
    /// Use may exceed the limit, for a time or at a cost.
    Soft,
    /// A pair of a soft and a hard bound.
    SoftHard,
    /// An amount per time.
    Rate,
    /// A share when the resource is contended.
    Weight,
    /// The time for which use may exceed a soft bound.
    Grace,
}

/// The part of the system that enforces a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// The tenant's control group.
    Group {
        /// The name of the controller.
        controller: &'static str,
        /// The file in the unified hierarchy.
        unified: Option<&'static str>,
        /// The file in a hierarchy of version 1.
        v1: Option<&'static str>,
        /// The key in the line of a device, for a file with a line for each device: `rbps`.
        device: Option<&'static str>,
    },
    /// The quota of the tenant's storage.
    Quota,
    /// The size of the tmpfs at this path.
    Tmpfs(&'static str),
    /// Each process has the limit separately (`getrlimit(2)`).
    Process,
    /// `bailiwickd`, which counts the sessions of one door; `None` is the sum of all doors.
    Sessions(Option<Door>),
    /// The web server of the host, which tells `bailiwickd` of the requests that it refused.
    WebServer,
}

const fn group(controller: &'static str, unified: Option<&'static str>, v1: Option<&'static str>) -> Holder {
    Holder::Group { controller, unified, v1, device: None }
}

/// Version 1 has such files too. But it does not charge writes through the page cache to the process that writes, so
/// they would bound almost nothing.
const fn device(key: &'static str) -> Holder {
    Holder::Group { controller: "io", unified: Some("io.max"), v1: None, device: Some(key) }
}

/// The file of `io_weight` if the scheduler bfq shares the devices.
pub const BFQ_WEIGHT: &str = "io.bfq.weight";

macro_rules! limits {
    ($($(#[$doc:meta])* $key:ident = $word:literal [$($field:ident)?] $unit:ident $kind:ident $resource:ident
       $holder:expr $(=> $measure:ident)?;)*) => {
        /// The key of one limit: the words of `[limits]`, two limits that follow from others, and one of sockets.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum LimitKey { $(#[doc = $word] $(#[$doc])* $key,)* }

        impl LimitKey {
            /// All keys.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$key),*];

            /// The word in configuration and reports.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$key => $word,)* }
            }

            /// The unit of the limit's number.
            #[must_use]
            pub const fn unit(self) -> LimitUnit {
                match self { $(Self::$key => LimitUnit::$unit,)* }
            }

            /// The way in which the limit bounds use.
            #[must_use]
            pub const fn kind(self) -> LimitKind {
                match self { $(Self::$key => LimitKind::$kind,)* }
            }

            /// The resource that it limits, as in `require`.
            #[must_use]
            pub const fn resource(self) -> Resource {
                match self { $(Self::$key => Resource::$resource,)* }
            }

            /// The part of the system that enforces it.
            #[must_use]
            pub const fn holder(self) -> Holder {
                match self { $(Self::$key => $holder,)* }
            }

            /// The measure of the history that it bounds, if there is one.
            #[must_use]
            pub fn measure(self) -> Option<Measure> {
                match self { $($(Self::$key => Some(Measure::$measure),)?)* _ => None }
            }
        }

        impl Limits {
            /// The value of a limit; `None` for one that is no word of `[limits]`.
            #[must_use]
            pub fn value(&self, key: LimitKey) -> Option<LimitValue> {
                // The pattern has no `..`, so a field without a row does not compile.
                let Self { $($($field,)?)* } = *self;
                match key { $($(LimitKey::$key => Some($field.into()),)?)* _ => None }
            }
        }
    };
}

#[rustfmt::skip]
limits! {
    Cpu = "cpu" [cpu] CpuShare Rate Cpu group("cpu", Some("cpu.max"), Some("cpu.cfs_quota_us")) => Cpu;
    CpuBurst = "cpu_burst" [cpu_burst] CpuShare Rate Cpu group("cpu", Some("cpu.max.burst"), Some("cpu.cfs_burst_us"));
    CpuWeight = "cpu_weight" [cpu_weight] Number Weight Cpu group("cpu", Some("cpu.weight"), Some("cpu.shares"));
    Memory = "memory" [memory] Bytes Hard Memory group("memory", Some("memory.max"), Some("memory.limit_in_bytes")) => Memory;
    MemoryHigh = "memory_high" [memory_high] Bytes Soft Memory group("memory", Some("memory.high"), None);
    /// Version 1 counts the memory of TCP and UDP sockets separately. The limit follows from `memory`.
    MemorySockets = "memory_sockets" [] Bytes Hard Memory group("memory", None, Some("memory.kmem.tcp.limit_in_bytes"));
    /// Version 1 limits the sum of memory and swap.
    Swap = "swap" [swap] Bytes Hard Swap group("memory", Some("memory.swap.max"), Some("memory.memsw.limit_in_bytes")) => Swap;
    Tasks = "tasks" [tasks] Number Hard Tasks group("pids", Some("pids.max"), Some("pids.max")) => Tasks;
    IoRead = "io_read" [io_read] Bytes Rate Io device("rbps") => IoRead;
    IoWrite = "io_write" [io_write] Bytes Rate Io device("wbps") => IoWrite;
    IopsRead = "iops_read" [iops_read] Count Rate Io device("riops") => IopsRead;
    IopsWrite = "iops_write" [iops_write] Count Rate Io device("wiops") => IopsWrite;
    IoWeight = "io_weight" [io_weight] Number Weight Io group("io", Some("io.weight"), None);
    Disk = "disk" [disk] Bytes SoftHard Disk Holder::Quota => Disk;
    /// The soft bound of `disk` on a host without soft bounds.
    DiskSoft = "disk_soft" [] Bytes Soft Disk Holder::Quota;
    DiskGrace = "disk_grace" [disk_grace] Seconds Grace Disk Holder::Quota;
    Inodes = "inodes" [inodes] Count SoftHard Inodes Holder::Quota => Inodes;
    Sessions = "sessions" [sessions] Number Hard Sessions Holder::Sessions(None) => Sessions;
    SessionsExec = "sessions_exec" [sessions_exec] Number Hard Sessions Holder::Sessions(Some(Door::Exec));
    SessionsSsh = "sessions_ssh" [sessions_ssh] Number Hard Sessions Holder::Sessions(Some(Door::Ssh));
    SessionsSftp = "sessions_sftp" [sessions_sftp] Number Hard Sessions Holder::Sessions(Some(Door::Sftp));
    SessionsFtp = "sessions_ftp" [sessions_ftp] Number Hard Sessions Holder::Sessions(Some(Door::Ftp));
    SessionsCron = "sessions_cron" [sessions_cron] Number Hard Sessions Holder::Sessions(Some(Door::Cron));
    /// Each socket of a service has this limit separately (`[[service.socket]]`).
    Entries = "entries" [] Number Hard Sessions Holder::WebServer;
    OpenFiles = "open_files" [open_files] Number Hard OpenFiles Holder::Process;
    Tmp = "tmp" [tmp] Bytes Hard Memory Holder::Tmpfs("/tmp");
    Shm = "shm" [shm] Bytes Hard Memory Holder::Tmpfs("/dev/shm");
}

impl LimitKey {
    /// The controller that enforces the limit; `None` if no control group does.
    #[must_use]
    pub const fn controller(self) -> Option<&'static str> {
        if let Holder::Group { controller, .. } = self.holder() { Some(controller) } else { None }
    }

    /// The limit's file in a control group; `None` if this version has none.
    #[must_use]
    pub const fn file(self, hierarchy: Hierarchy) -> Option<&'static str> {
        match (self.holder(), hierarchy) {
            (Holder::Group { unified, .. }, Hierarchy::Unified) => unified,
            (Holder::Group { v1, .. }, Hierarchy::V1) => v1,
            _ => None,
        }
    }

    /// The limit of the sessions of one door; `None` for a door that is not in use yet.
    #[must_use]
    pub fn of_door(door: Door) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.holder() == Holder::Sessions(Some(door)))
    }

    /// The limit that is the size of the tmpfs at a path; `None` for a path without a limit.
    #[must_use]
    pub fn of_tmpfs(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| matches!(key.holder(), Holder::Tmpfs(at) if at == path))
    }

    /// The hard bound in the unit of its measure, for sums per second; `None` without a bound or without a measure.
    #[must_use]
    pub fn bound(self, value: LimitValue) -> Option<(Measure, u64)> {
        // A share is in thousandths of a per cent of a core. A full core is a million microseconds per second.
        let factor = if self.unit() == LimitUnit::CpuShare { 10 } else { 1 };
        Some((self.measure()?, value.hard()?.saturating_mul(factor)))
    }

    /// The text of a value, as in the policy: `10G:11G`.
    #[must_use]
    pub fn in_words(self, value: LimitValue) -> String {
        let number = |number: u64| match self.unit() {
            LimitUnit::CpuShare => CpuShare(number).to_string(),
            LimitUnit::Bytes => ByteSize(number).to_string(),
            LimitUnit::Count => Count(number).to_string(),
            LimitUnit::Number => number.to_string(),
            LimitUnit::Seconds => Period(number).to_string(),
        };
        match value {
            LimitValue::Unlimited => "unlimited".to_owned(),
            LimitValue::At(SoftHard { soft, hard }) if soft == hard => number(hard),
            LimitValue::At(SoftHard { soft, hard }) => format!("{}:{}", number(soft), number(hard)),
            LimitValue::WithMemory(both) => format!("{}{WITH_MEMORY}", number(both)),
        }
    }

    /// Parses a value, the reverse of [`Self::in_words`]; `None` if the text is not a value.
    pub(crate) fn value_of(self, words: &str) -> Option<LimitValue> {
        let number = |text: &str| match self.unit() {
            LimitUnit::CpuShare => text.parse().ok().map(|CpuShare(number)| number),
            LimitUnit::Bytes => text.parse().ok().map(|ByteSize(number)| number),
            LimitUnit::Count => text.parse().ok().map(|Count(number)| number),
            LimitUnit::Number => text.parse().ok(),
            LimitUnit::Seconds => text.parse().ok().map(|Period(number)| number),
        };
        if words == "unlimited" {
            return Some(LimitValue::Unlimited);
        }
        if let Some(both) = words.strip_suffix(WITH_MEMORY) {
            return number(both).map(LimitValue::WithMemory);
        }
        let (soft, hard) = words.split_once(':').unwrap_or((words, words));
        Some(LimitValue::At(SoftHard { soft: number(soft)?, hard: number(hard)? }))
    }
}

const WITH_MEMORY: &str = " with memory";

impl fmt::Display for LimitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// The word does not name a limit, or the text is not a value of the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such limit, or no value of it")]
pub struct UnknownLimit;

impl FromStr for LimitKey {
    type Err = UnknownLimit;
    fn from_str(text: &str) -> Result<Self, UnknownLimit> {
        Self::ALL.into_iter().find(|key| key.word() == text).ok_or(UnknownLimit)
    }
}

/// The value of a limit, in the unit of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitValue {
    /// No limit.
    Unlimited,
    /// A soft and a hard bound. A single bound is both.
    At(SoftHard<u64>),
    /// The sum of memory and swap: the limit `swap` on version 1 of control groups.
    WithMemory(u64),
}

impl LimitValue {
    /// The hard bound; `None` without a limit.
    #[must_use]
    pub fn hard(self) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::At(pair) => Some(pair.hard),
            Self::WithMemory(both) => Some(both),
        }
    }
}

macro_rules! numbers {
    ($($type:ty: $number:expr;)*) => {$(
        impl From<$type> for LimitValue {
            fn from(value: $type) -> Self {
                let number = $number(value);
                Self::At(SoftHard { soft: number, hard: number })
            }
        }
        impl From<SoftHard<$type>> for LimitValue {
            fn from(pair: SoftHard<$type>) -> Self {
                Self::At(SoftHard { soft: $number(pair.soft), hard: $number(pair.hard) })
            }
        }
    )*};
}

numbers! {
    u64: std::convert::identity;
    u32: u64::from;
    CpuShare: |CpuShare(number)| number;
    ByteSize: |ByteSize(number)| number;
    Count: |Count(number)| number;
    Period: |Period(number)| number;
}

impl<T: Into<LimitValue>> From<Bound<T>> for LimitValue {
    fn from(bound: Bound<T>) -> Self {
        bound.value().map_or(Self::Unlimited, T::into)
    }
}

impl<T: Into<LimitValue>> From<Option<T>> for LimitValue {
    fn from(bound: Option<T>) -> Self {
        bound.map_or(Self::Unlimited, T::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::IntoDeserializer;
    use serde::de::value::Error;
    use std::collections::BTreeSet;

    #[test]
    fn every_row_has_its_own_word_and_reads_as_it_is_written() {
        for key in LimitKey::ALL {
            assert_eq!(key.word().parse(), Ok(key));
            let reader = IntoDeserializer::<Error>::into_deserializer(key.word());
            assert_eq!(LimitKey::deserialize(reader), Ok(key), "the word on the wire");
        }
        assert_eq!("Memory".parse::<LimitKey>(), Err(UnknownLimit));
        let measures: Vec<Measure> = LimitKey::ALL.into_iter().filter_map(LimitKey::measure).collect();
        assert_eq!(measures.iter().collect::<BTreeSet<_>>().len(), measures.len());
    }

    #[test]
    fn no_two_limits_are_held_at_the_same_place() {
        for hierarchy in [Hierarchy::Unified, Hierarchy::V1] {
            let mut seen = BTreeSet::new();
            for key in LimitKey::ALL {
                let Holder::Group { device, .. } = key.holder() else { continue };
                assert!(key.file(hierarchy).is_none_or(|file| seen.insert((file, device))), "{key}");
            }
        }
        for door in Door::ALL {
            assert_eq!(LimitKey::of_door(*door).is_none(), *door == Door::Socket, "{door}");
        }
    }

    #[test]
    fn every_value_reads_as_it_is_written() {
        let limits = Limits::default();
        for key in LimitKey::ALL {
            let values = [1000, 1024, 4096, u64::MAX].map(LimitValue::from);
            let more =
                [LimitValue::Unlimited, LimitValue::WithMemory(7 << 20), SoftHard { soft: 5_u64, hard: 6 }.into()];
            for value in values.into_iter().chain(more).chain(limits.value(key)) {
                assert_eq!(key.value_of(&key.in_words(value)), Some(value), "{key}");
            }
            assert_eq!(key.value_of(""), None);
            let others = [LimitKey::MemorySockets, LimitKey::DiskSoft, LimitKey::Entries];
            assert_eq!(limits.value(key).is_none(), others.contains(&key));
        }
        assert_eq!(LimitKey::Disk.in_words(SoftHard { soft: 10 << 30, hard: 11_u64 << 30 }.into()), "10G:11G");
        assert_eq!(LimitKey::Swap.in_words(LimitValue::WithMemory(2 << 30)), "2G with memory");
        assert_eq!(LimitKey::Cpu.bound(CpuShare(150_000).into()), Some((Measure::Cpu, 1_500_000)));
    }
}
