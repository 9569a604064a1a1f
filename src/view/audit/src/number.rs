//! The numbers in the rows of limits: which are sizes, which are counts, and what is free.

use bailiwick_types::{ByteSize, Count, CpuShare, Kind, LimitReport};

/// What the number of a limit is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Number {
    /// A share of one core.
    Share,
    Bytes,
    Things,
}
use Number::{Bytes, Share, Things};

/// Limits whose value is a number, and whether what is used stands beside it (a level) or is a rate.
const LIMITS: &[(&str, Number, Kind)] = &[
    ("cpu", Share, Kind::Sum),
    ("memory", Bytes, Kind::Level),
    ("memory_high", Bytes, Kind::Level),
    ("memory_sockets", Bytes, Kind::Level),
    ("swap", Bytes, Kind::Level),
    ("tasks", Things, Kind::Level),
    ("io_read", Bytes, Kind::Sum),
    ("io_write", Bytes, Kind::Sum),
    ("iops_read", Things, Kind::Sum),
    ("iops_write", Things, Kind::Sum),
    ("disk", Bytes, Kind::Level),
    ("inodes", Things, Kind::Level),
    ("sessions", Things, Kind::Level),
    ("sessions_exec", Things, Kind::Level),
    ("sessions_ssh", Things, Kind::Level),
    ("sessions_sftp", Things, Kind::Level),
    ("sessions_ftp", Things, Kind::Level),
    ("sessions_cron", Things, Kind::Level),
    ("tmp", Bytes, Kind::Level),
    ("shm", Bytes, Kind::Level),
];

/// Whether a limit, and what is used of it, is a number of bytes.
#[must_use]
pub fn is_size(resource: &str) -> bool {
    LIMITS.iter().any(|(word, number, _)| *word == resource && *number == Bytes)
}

/// The number that the kernel enforces, a share of processors in microseconds of a second; of a soft and a hard one the
/// hard.
pub(crate) fn bound(limit: &LimitReport) -> Option<u64> {
    let (_, number, _) = LIMITS.iter().find(|(word, ..)| *word == limit.resource)?;
    // Swap on version 1 is enforced "with memory", and so is what is used of it.
    let hard = limit.enforced.as_deref()?.rsplit(':').next()?.split(' ').next()?;
    match number {
        // Thousandths of a per cent against microseconds of a second.
        Share => hard.parse().ok().map(|CpuShare(share)| share.saturating_mul(10)),
        Bytes => hard.parse().ok().map(|ByteSize(bytes)| bytes),
        Things => hard.parse().ok().map(|Count(count)| count),
    }
}

/// What of a limit is free. `None` for a rate: what is used has no such unit.
pub(crate) fn headroom(limit: &LimitReport) -> Option<u64> {
    let (.., kind) = LIMITS.iter().find(|(word, ..)| *word == limit.resource)?;
    let used = limit.used.filter(|_| *kind == Kind::Level)?;
    Some(bound(limit)?.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::Verdict;

    #[test]
    fn headroom_is_what_is_free() {
        let cases = [
            ("memory", "1G", Some(1 << 29), Some(1 << 29)),
            ("disk", "10G:11G", Some(12 << 30), Some(0)),
            ("swap", "2G with memory", Some(1 << 30), Some(1 << 30)),
            ("tasks", "100", Some(1), Some(99)),
            ("sessions", "3", Some(3), Some(0)),
            ("sessions_ssh", "3", Some(1), Some(2)),
            ("inodes", "200k", Some(0), Some(200_000)),
            ("memory", "unlimited", Some(1), None),
            ("io_read", "1M", Some(1), None),
            ("cpu", "100%", None, None),
            ("unknown", "1", Some(1), None),
        ];
        for (resource, enforced, used, golden) in cases {
            let limit = LimitReport {
                resource: resource.to_owned(),
                declared: enforced.to_owned(),
                enforced: Some(enforced.to_owned()),
                used,
                peak: None,
                faults: None,
                headroom: None,
                verdict: Verdict::Enforced,
            };
            assert_eq!(headroom(&limit), golden, "{resource} = {enforced}");
        }
    }
}
