//! The table of limits: for each its word, unit, kind, resource and holder. Every other place looks here.

use crate::{Bound, ByteSize, Count, CpuShare, Door, Hierarchy, Limits, Measure, Period, Resource, SoftHard};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What the number of a limit counts.
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

/// How a limit bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKind {
    /// Use never exceeds it.
    Hard,
    /// Use may exceed it, for a time or at a cost.
    Soft,
    /// A soft bound and a hard one.
    SoftHard,
    /// An amount per span of time.
    Rate,
    /// A share under contention.
    Weight,
    /// How long use may exceed a soft bound.
    Grace,
}

/// What holds a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// The tenant's control group.
    Group {
        /// The controller.
        controller: &'static str,
        /// The file in the unified hierarchy.
        unified: Option<&'static str>,
        /// The file in a hierarchy of version 1.
        v1: Option<&'static str>,
        /// The key in the line of a device, in a file that has a line for each device: `rbps`.
        device: Option<&'static str>,
    },
    /// The quota of the tenant's storage.
    Quota,
    /// The size of the file system in memory at this path.
    Tmpfs(&'static str),
    /// Each process separately (`getrlimit(2)`).
    Process,
    /// `bailiwickd`, which counts the sessions of one door, or of all.
    Sessions(Option<Door>),
}

const fn group(controller: &'static str, unified: Option<&'static str>, v1: Option<&'static str>) -> Holder {
    Holder::Group { controller, unified, v1, device: None }
}

/// Version 1 has such files too, but it does not charge writes through the page cache to their writer, so it would bound almost
/// nothing.
const fn device(key: &'static str) -> Holder {
    Holder::Group { controller: "io", unified: Some("io.max"), v1: None, device: Some(key) }
}

/// The file of `io_weight` where the scheduler bfq shares out the devices.
pub const BFQ_WEIGHT: &str = "io.bfq.weight";

macro_rules! limits {
    ($($(#[$doc:meta])* $key:ident = $word:literal [$($field:ident)?] $unit:ident $kind:ident $resource:ident
       $holder:expr $(=> $measure:ident)?;)*) => {
        /// One limit. The words of `[limits]`, and those of two limits that follow from others.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum LimitKey { $(#[doc = $word] $(#[$doc])* $key,)* }

        impl LimitKey {
            /// All of them.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$key),*];

            /// The word that configuration and reports use.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$key => $word,)* }
            }

            /// What its number counts.
            #[must_use]
            pub const fn unit(self) -> LimitUnit {
                match self { $(Self::$key => LimitUnit::$unit,)* }
            }

            /// How it bounds.
            #[must_use]
            pub const fn kind(self) -> LimitKind {
                match self { $(Self::$key => LimitKind::$kind,)* }
            }

            /// What it limits: what `require` lists.
            #[must_use]
            pub const fn resource(self) -> Resource {
                match self { $(Self::$key => Resource::$resource,)* }
            }

            /// What holds it.
            #[must_use]
            pub const fn holder(self) -> Holder {
                match self { $(Self::$key => $holder,)* }
            }

            /// What the history measures of what it bounds.
            #[must_use]
            pub fn measure(self) -> Option<Measure> {
                match self { $($(Self::$key => Some(Measure::$measure),)?)* _ => None }
            }
        }

        impl Limits {
            /// The value of a limit; `None` for one that follows from others.
            #[must_use]
            pub fn value(&self, key: LimitKey) -> Option<LimitValue> {
                // Without `..`: a field that has no row does not compile.
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
    /// A part of `memory`: version 1 counts the memory of TCP and UDP sockets separately.
    MemorySockets = "memory_sockets" [] Bytes Hard Memory group("memory", None, Some("memory.kmem.tcp.limit_in_bytes"));
    /// Version 1 counts memory and swap together.
    Swap = "swap" [swap] Bytes Hard Swap group("memory", Some("memory.swap.max"), Some("memory.memsw.limit_in_bytes")) => Swap;
    Tasks = "tasks" [tasks] Number Hard Tasks group("pids", Some("pids.max"), Some("pids.max")) => Tasks;
    IoRead = "io_read" [io_read] Bytes Rate Io device("rbps") => IoRead;
    IoWrite = "io_write" [io_write] Bytes Rate Io device("wbps") => IoWrite;
    IopsRead = "iops_read" [iops_read] Count Rate Io device("riops") => IopsRead;
    IopsWrite = "iops_write" [iops_write] Count Rate Io device("wiops") => IopsWrite;
    IoWeight = "io_weight" [io_weight] Number Weight Io group("io", Some("io.weight"), None);
    Disk = "disk" [disk] Bytes SoftHard Disk Holder::Quota => Disk;
    /// The soft bound of `disk` alone, where the host has none.
    DiskSoft = "disk_soft" [] Bytes Soft Disk Holder::Quota;
    DiskGrace = "disk_grace" [disk_grace] Seconds Grace Disk Holder::Quota;
    Inodes = "inodes" [inodes] Count SoftHard Inodes Holder::Quota => Inodes;
    Sessions = "sessions" [sessions] Number Hard Sessions Holder::Sessions(None) => Sessions;
    SessionsExec = "sessions_exec" [sessions_exec] Number Hard Sessions Holder::Sessions(Some(Door::Exec));
    SessionsSsh = "sessions_ssh" [sessions_ssh] Number Hard Sessions Holder::Sessions(Some(Door::Ssh));
    SessionsSftp = "sessions_sftp" [sessions_sftp] Number Hard Sessions Holder::Sessions(Some(Door::Sftp));
    SessionsFtp = "sessions_ftp" [sessions_ftp] Number Hard Sessions Holder::Sessions(Some(Door::Ftp));
    SessionsCron = "sessions_cron" [sessions_cron] Number Hard Sessions Holder::Sessions(Some(Door::Cron));
    OpenFiles = "open_files" [open_files] Number Hard OpenFiles Holder::Process;
    Tmp = "tmp" [tmp] Bytes Hard Memory Holder::Tmpfs("/tmp");
    Shm = "shm" [shm] Bytes Hard Memory Holder::Tmpfs("/dev/shm");
}

impl LimitKey {
    /// The controller of control groups that holds it, if one does.
    #[must_use]
    pub const fn controller(self) -> Option<&'static str> {
        if let Holder::Group { controller, .. } = self.holder() { Some(controller) } else { None }
    }

    /// Its file in a control group; `None` where that version has none.
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

    /// The limit that is the size of the file system in memory at a path; `None` where the size is no limit.
    #[must_use]
    pub fn of_tmpfs(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| matches!(key.holder(), Holder::Tmpfs(at) if at == path))
    }

    /// The hard bound in the unit of its measure, for sums per second; `None` without a bound or a measure.
    #[must_use]
    pub fn bound(self, value: LimitValue) -> Option<(Measure, u64)> {
        // A share is in thousandths of a per cent of a core; a full core is a million microseconds per second.
        let factor = if self.unit() == LimitUnit::CpuShare { 10 } else { 1 };
        Some((self.measure()?, value.hard()?.saturating_mul(factor)))
    }

    /// A value of it as the policy writes it: `10G:11G`.
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

    /// Parses a value, the reverse of [`Self::in_words`]; `None` when the text is not one.
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

/// A word that names no limit, or words that are no value of it.
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
    /// No bound.
    Unlimited,
    /// A soft bound and a hard one. A single bound is both.
    At(SoftHard<u64>),
    /// For `swap` on version 1 of control groups: swap and memory together.
    WithMemory(u64),
}

impl LimitValue {
    /// The hard bound, if there is one.
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
            assert_eq!(limits.value(key).is_none(), [LimitKey::MemorySockets, LimitKey::DiskSoft].contains(&key));
        }
        assert_eq!(LimitKey::Disk.in_words(SoftHard { soft: 10 << 30, hard: 11_u64 << 30 }.into()), "10G:11G");
        assert_eq!(LimitKey::Swap.in_words(LimitValue::WithMemory(2 << 30)), "2G with memory");
        assert_eq!(LimitKey::Cpu.bound(CpuShare(150_000).into()), Some((Measure::Cpu, 1_500_000)));
    }
}
