//! Limits: bounds on resources, soft or hard.

use crate::{ByteSize, Count, CpuShare, Period};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A bound on a value, or the word `unlimited`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound<T> {
    /// No bound.
    Unlimited,
    /// The value must not exceed this.
    At(T),
}

impl<T> Bound<T> {
    /// The value of the bound; `None` without a bound.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Unlimited => None,
            Self::At(value) => Some(value),
        }
    }

    /// The bound with a converted value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Bound<U> {
        match self {
            Self::Unlimited => Bound::Unlimited,
            Self::At(value) => Bound::At(f(value)),
        }
    }
}

impl<T: fmt::Display> fmt::Display for Bound<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.pad("unlimited"),
            Self::At(value) => value.fmt(f),
        }
    }
}

impl<T: FromStr> FromStr for Bound<T> {
    type Err = T::Err;
    fn from_str(text: &str) -> Result<Self, T::Err> {
        if text == "unlimited" { Ok(Self::Unlimited) } else { text.parse().map(Self::At) }
    }
}

/// A soft bound, which use may exceed for a grace period, and a hard bound, which it may not: `"10G:11G"`. One value is
/// both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SoftHard<T> {
    /// Use may exceed it for the grace period.
    pub soft: T,
    /// Use never exceeds it.
    pub hard: T,
}

/// Why a text is not a pair of a soft and a hard bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseBoundError<E: std::error::Error + 'static> {
    /// One value cannot be parsed.
    #[error(transparent)]
    Value(#[from] E),
    /// The soft bound is above the hard one.
    #[error("the soft limit is above the hard one")]
    SoftAboveHard,
}

impl<T: FromStr<Err = E> + PartialOrd + Copy, E: std::error::Error + 'static> FromStr for SoftHard<T> {
    type Err = ParseBoundError<E>;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (soft, hard) = text.split_once(':').unwrap_or((text, text));
        let (soft, hard) = (soft.parse::<T>()?, hard.parse::<T>()?);
        if soft > hard {
            return Err(ParseBoundError::SoftAboveHard);
        }
        Ok(Self { soft, hard })
    }
}

impl<T: fmt::Display + PartialEq> fmt::Display for SoftHard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.soft == self.hard { self.hard.fmt(f) } else { f.pad(&format!("{}:{}", self.soft, self.hard)) }
    }
}

/// A resource that can be limited. `require` in `bailiwick.toml` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Processor time.
    Cpu,
    /// Memory, with page cache and kernel memory.
    Memory,
    /// Swap space.
    Swap,
    /// Processes and threads.
    Tasks,
    /// Bytes and operations of block devices.
    Io,
    /// Bytes on disk.
    Disk,
    /// Files on disk.
    Inodes,
    /// Concurrent sessions.
    Sessions,
    /// Open descriptors of one process.
    OpenFiles,
}

impl Resource {
    /// All resources, in the order in which they are displayed.
    pub const ALL: [Self; 9] = [
        Self::Cpu,
        Self::Memory,
        Self::Swap,
        Self::Tasks,
        Self::Io,
        Self::Disk,
        Self::Inodes,
        Self::Sessions,
        Self::OpenFiles,
    ];

    /// The word in configuration and reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Swap => "swap",
            Self::Tasks => "tasks",
            Self::Io => "io",
            Self::Disk => "disk",
            Self::Inodes => "inodes",
            Self::Sessions => "sessions",
            Self::OpenFiles => "open_files",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// The word does not name a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such resource; one of cpu, memory, swap, tasks, io, disk, inodes, sessions, open_files")]
pub struct UnknownResource;

impl FromStr for Resource {
    type Err = UnknownResource;
    fn from_str(text: &str) -> Result<Self, UnknownResource> {
        Self::ALL.into_iter().find(|resource| resource.word() == text).ok_or(UnknownResource)
    }
}

/// All limits of one tenant, after inheritance from its plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Processor time.
    pub cpu: Bound<CpuShare>,
    /// The unused processor time that can accumulate and be used above `cpu`, as a share of one period.
    pub cpu_burst: Bound<CpuShare>,
    /// The weight when processors are contended: 1 to 10,000, default 100.
    pub cpu_weight: u32,
    /// Memory. Above it the kernel kills processes of the jail.
    pub memory: Bound<ByteSize>,
    /// Memory above which the kernel reclaims memory and slows the jail down.
    pub memory_high: Bound<ByteSize>,
    /// Swap space in addition to memory.
    pub swap: Bound<ByteSize>,
    /// Processes and threads.
    pub tasks: Bound<u64>,
    /// Bytes read per second from the device of the state directory.
    pub io_read: Bound<ByteSize>,
    /// Bytes written per second.
    pub io_write: Bound<ByteSize>,
    /// Read operations per second.
    pub iops_read: Bound<Count>,
    /// Write operations per second.
    pub iops_write: Bound<Count>,
    /// The weight when the device is contended: 1 to 10,000, default 100.
    pub io_weight: u32,
    /// Bytes on disk, soft and hard.
    pub disk: Bound<SoftHard<ByteSize>>,
    /// How long use may exceed the soft limit of `disk`.
    pub disk_grace: Period,
    /// Files on disk, soft and hard.
    pub inodes: Bound<SoftHard<Count>>,
    /// Concurrent sessions of all doors together.
    pub sessions: Bound<u64>,
    /// Concurrent sessions of the door `exec`.
    pub sessions_exec: Bound<u64>,
    /// Concurrent sessions of the door `ssh`.
    pub sessions_ssh: Bound<u64>,
    /// Concurrent sessions of the door `sftp`.
    pub sessions_sftp: Bound<u64>,
    /// Concurrent sessions of the door `ftp`.
    pub sessions_ftp: Bound<u64>,
    /// Concurrent sessions of the door `cron`.
    pub sessions_cron: Bound<u64>,
    /// Open descriptors of each process (`RLIMIT_NOFILE`).
    pub open_files: u64,
    /// The size of `/tmp`. Its files count as memory of the tenant. See [`Limits::tmp_size`].
    pub tmp: ByteSize,
    /// The size of `/dev/shm`. Its files count as memory of the tenant. See [`Limits::shm_size`].
    pub shm: ByteSize,
}

impl Limits {
    /// The size of `/tmp` in the jail: at most half of the memory. The kernel cannot reclaim these files. If they
    /// filled the memory, the kernel would kill every process of the jail, init included.
    #[must_use]
    pub fn tmp_size(&self) -> ByteSize {
        self.part_of_memory(self.tmp, 2)
    }

    /// The size of `/dev/shm` in the jail: at most a quarter of the memory.
    #[must_use]
    pub fn shm_size(&self) -> ByteSize {
        self.part_of_memory(self.shm, 4)
    }

    fn part_of_memory(&self, size: ByteSize, part: u64) -> ByteSize {
        // The size in whole pages. The kernel rounds up to them, and the audit compares the size that the kernel
        // reports.
        let whole = ByteSize(size.0.next_multiple_of(4096));
        match self.memory {
            Bound::Unlimited => whole,
            Bound::At(memory) => whole.min(ByteSize(memory.0 / part / 4096 * 4096)),
        }
    }
}

impl Default for Limits {
    /// The limits if neither the tenant nor its plan sets them. They are small, and finite where a tenant could harm
    /// others.
    fn default() -> Self {
        Self {
            cpu: Bound::At(CpuShare(100_000)),
            cpu_burst: Bound::At(CpuShare(0)),
            cpu_weight: 100,
            memory: Bound::At(ByteSize(1 << 30)),
            memory_high: Bound::Unlimited,
            swap: Bound::At(ByteSize(0)),
            tasks: Bound::At(100),
            io_read: Bound::Unlimited,
            io_write: Bound::Unlimited,
            iops_read: Bound::Unlimited,
            iops_write: Bound::Unlimited,
            io_weight: 100,
            disk: Bound::Unlimited,
            disk_grace: Period(7 * 86_400),
            inodes: Bound::Unlimited,
            sessions: Bound::At(20),
            sessions_exec: Bound::Unlimited,
            sessions_ssh: Bound::Unlimited,
            sessions_sftp: Bound::Unlimited,
            sessions_ftp: Bound::Unlimited,
            sessions_cron: Bound::Unlimited,
            open_files: 4096,
            tmp: ByteSize(256 << 20),
            shm: ByteSize(64 << 20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_and_hard() {
        assert_eq!("10G:11G".parse(), Ok(SoftHard { soft: ByteSize(10 << 30), hard: ByteSize(11 << 30) }));
        assert_eq!("10G".parse(), Ok(SoftHard { soft: ByteSize(10 << 30), hard: ByteSize(10 << 30) }));
        assert_eq!("2G:1G".parse::<SoftHard<ByteSize>>(), Err(ParseBoundError::SoftAboveHard));
        assert!("2G:".parse::<SoftHard<ByteSize>>().is_err());
    }

    #[test]
    fn files_in_memory_leave_room_for_processes() {
        let small = Limits { memory: Bound::At(ByteSize(128 << 20)), ..Limits::default() };
        assert_eq!((small.tmp_size(), small.shm_size()), (ByteSize(64 << 20), ByteSize(32 << 20)));
        let large = Limits { memory: Bound::At(ByteSize(8 << 30)), ..Limits::default() };
        assert_eq!((large.tmp_size(), large.shm_size()), (large.tmp, large.shm));
        for memory in [Bound::Unlimited, Bound::At(ByteSize((1 << 30) + 1))] {
            let odd = Limits { memory, tmp: ByteSize(65 << 10), shm: ByteSize((64 << 10) + 1), ..Limits::default() };
            assert_eq!((odd.tmp_size(), odd.shm_size()), (ByteSize(68 << 10), ByteSize(68 << 10)));
        }
    }

    #[test]
    fn every_resource_has_its_own_word() {
        for resource in Resource::ALL {
            assert_eq!(resource.word().parse(), Ok(resource));
        }
    }
}
