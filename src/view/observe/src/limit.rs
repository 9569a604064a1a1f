//! Reads limits from the kernel: the enforced value, the use, and how often each limit was hit.

use crate::Subject;
use bailiwick_plan::control::{CPU_PERIOD_US, Control, Place, UNTOUCHED, Value};
use bailiwick_plan::rescue;
use bailiwick_sys::cgroup::{self, Hierarchies};
use bailiwick_sys::file;
use bailiwick_types::{GroupSetting, Hierarchy, LimitFact, LimitKey, UNIFIED};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How a file of a control group contains a count.
#[derive(Clone, Copy)]
enum Count {
    /// The file is the number.
    Plain(&'static str),
    /// The file has a line `KEY NUMBER`.
    Keyed(&'static str, &'static str),
}
use Count::{Keyed, Plain};

/// The files that hold the use and the faults of a limit.
struct Usage {
    key: LimitKey,
    hierarchy: Hierarchy,
    used: Option<&'static str>,
    peak: Option<&'static str>,
    faults: Count,
}

/// Where the use and the faults of each limit are read. A limit without a row has neither. Processor time has only
/// faults: its limit is a share, and its use is a sum.
#[rustfmt::skip]
const USAGE: &[Usage] = &[
    Usage { key: LimitKey::Memory, hierarchy: Hierarchy::Unified, used: Some("memory.current"), peak: Some("memory.peak"), faults: Keyed("memory.events", "oom_kill") },
    Usage { key: LimitKey::Memory, hierarchy: Hierarchy::V1, used: Some("memory.usage_in_bytes"), peak: Some("memory.max_usage_in_bytes"), faults: Keyed("memory.oom_control", "oom_kill") },
    Usage { key: LimitKey::MemorySockets, hierarchy: Hierarchy::V1, used: Some("memory.kmem.tcp.usage_in_bytes"), peak: Some("memory.kmem.tcp.max_usage_in_bytes"), faults: Plain("memory.kmem.tcp.failcnt") },
    Usage { key: LimitKey::MemoryHigh, hierarchy: Hierarchy::Unified, used: Some("memory.current"), peak: Some("memory.peak"), faults: Keyed("memory.events", "high") },
    Usage { key: LimitKey::Swap, hierarchy: Hierarchy::Unified, used: Some("memory.swap.current"), peak: Some("memory.swap.peak"), faults: Keyed("memory.swap.events", "max") },
    // Version 1 counts memory and swap together, both in the limit and in the use.
    Usage { key: LimitKey::Swap, hierarchy: Hierarchy::V1, used: Some("memory.memsw.usage_in_bytes"), peak: Some("memory.memsw.max_usage_in_bytes"), faults: Plain("memory.memsw.failcnt") },
    Usage { key: LimitKey::Tasks, hierarchy: Hierarchy::Unified, used: Some("pids.current"), peak: Some("pids.peak"), faults: Keyed("pids.events", "max") },
    Usage { key: LimitKey::Tasks, hierarchy: Hierarchy::V1, used: Some("pids.current"), peak: Some("pids.peak"), faults: Keyed("pids.events", "max") },
    Usage { key: LimitKey::Cpu, hierarchy: Hierarchy::Unified, used: None, peak: None, faults: Keyed("cpu.stat", "nr_throttled") },
    Usage { key: LimitKey::Cpu, hierarchy: Hierarchy::V1, used: None, peak: None, faults: Keyed("cpu.stat", "nr_throttled") },
];

/// The files that count faults under a key: the limit, the hierarchy, the file and the key.
pub(crate) fn events() -> impl Iterator<Item = (LimitKey, Hierarchy, &'static str, &'static str)> {
    USAGE.iter().filter_map(|usage| match usage.faults {
        Keyed(file, key) => Some((usage.key, usage.hierarchy, file, key)),
        // Version 1 counts memory and swap together, so a hit belongs to no single limit.
        Plain(_) => None,
    })
}

impl Count {
    fn read(self, group: BorrowedFd<'_>) -> Option<u64> {
        match self {
            Plain(file) => cgroup::read(group, file).ok()?.trim().parse().ok(),
            Keyed(file, key) => cgroup::flat_keyed(&cgroup::read(group, file).ok()?, key),
        }
    }
}

/// Every limit of the tenant that has a file. Use and faults are read only if `with_usage` is set. A limit whose file
/// cannot be read is left out, and the comparison reports it as drift.
pub(crate) fn limits(subject: &Subject<'_>, hierarchies: &Hierarchies, with_usage: bool) -> Vec<LimitFact> {
    let mut groups: BTreeMap<&str, Option<OwnedFd>> = BTreeMap::new();
    let mut facts = Vec::new();
    for control in subject.controls {
        let Some(place) = &control.place else { continue };
        let hierarchy = place.hierarchy.name(control.key.controller().unwrap_or_default());
        let group = groups
            .entry(hierarchy)
            .or_insert_with(|| cgroup::open(hierarchies.mount_of(hierarchy)?, subject.cgroups.get(hierarchy)?).ok());
        if let Some(group) = group {
            facts.extend(limit(control, place, group.as_fd(), with_usage));
        }
    }
    facts
}

/// Init's hard limit of open descriptors. Every process that init starts inherits it.
pub(crate) fn open_files(enforced: Option<u64>) -> LimitFact {
    LimitFact { key: LimitKey::OpenFiles, file: "limits".to_owned(), enforced, used: None, peak: None, faults: None }
}

/// Settings that no limit uses and that differ from those of a fresh group, in the tenant's groups and in its jail's
/// groups.
pub(crate) fn settings(subject: &Subject<'_>, hierarchies: &Hierarchies) -> Vec<GroupSetting> {
    let mut found = Vec::new();
    for row in UNTOUCHED {
        let hierarchy = row.hierarchy.name(row.controller);
        let (Some(mount), Some(path)) = (hierarchies.mount_of(hierarchy), subject.cgroups.get(hierarchy)) else {
            continue;
        };
        for path in [path.clone(), format!("{path}/jail")] {
            // A kernel without the file does not have the setting.
            let Some(value) = cgroup::open(mount, &path)
                .and_then(|group| cgroup::read(&group, row.file))
                .ok()
                .and_then(|text| row.changed(&text))
            else {
                continue;
            };
            found.push(GroupSetting { file: row.file.to_owned(), group: path, value, fresh: row.fresh.to_owned() });
        }
    }
    found
}

/// Whether the allowance is granted: the group of the emergency session exists in the hierarchy that counts tasks.
pub(crate) fn rescue(subject: &Subject<'_>, hierarchies: &Hierarchies) -> bool {
    let is_there = |hierarchy: &str| {
        let group = cgroup::open(hierarchies.mount_of(hierarchy)?, subject.cgroups.get(hierarchy)?).ok()?;
        file::open_dir_at(&group, rescue::GROUP).ok()
    };
    [UNIFIED, "pids"].into_iter().any(|hierarchy| is_there(hierarchy).is_some())
}

fn limit(control: &Control, place: &Place, group: BorrowedFd<'_>, with_usage: bool) -> Option<LimitFact> {
    let text = cgroup::read(group, place.file).ok()?;
    let enforced = match place.read_back(&text)? {
        Value::Unlimited => None,
        Value::Number(number) => Some(match (control.key, place.hierarchy) {
            (LimitKey::Cpu, Hierarchy::Unified) => per_period(number, text.split_whitespace().nth(1)?.parse().ok()?)?,
            (LimitKey::Cpu, Hierarchy::V1) => per_period(number, Plain("cpu.cfs_period_us").read(group)?)?,
            _ => number,
        }),
    };
    let of_it = |usage: &&Usage| usage.key == control.key && usage.hierarchy == place.hierarchy;
    let usage = USAGE.iter().filter(|_| with_usage).find(of_it);
    let plain = |file: Option<&'static str>| Plain(file?).read(group);
    Some(LimitFact {
        key: control.key,
        file: place.label(),
        enforced,
        used: usage.and_then(|usage| plain(usage.used)),
        peak: usage.and_then(|usage| plain(usage.peak)),
        faults: usage.and_then(|usage| faults(usage.faults, group)),
    })
}

/// Reads a count of faults. Before 6.11 the kernel counts some events in the group of the process (the jail's group,
/// below the tenant's), not in the group whose limit was hit. Later kernels propagate events upwards, so the tenant's
/// own count is the larger one.
fn faults(count: Count, group: BorrowedFd<'_>) -> Option<u64> {
    let below = file::open_dir_at(group, "jail").ok().and_then(|jail| count.read(jail.as_fd()));
    count.read(group).max(below)
}

/// Converts a quota to the plan's period: half the quota over half the period is the same share. `None` when the result
/// is too large.
fn per_period(quota: u64, period: u64) -> Option<u64> {
    u64::try_from(u128::from(quota) * u128::from(CPU_PERIOD_US) / u128::from(period).max(1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_compared_over_one_period() {
        assert_eq!(per_period(100_000, 100_000), Some(100_000));
        assert_eq!(per_period(100_000, 50_000), Some(200_000));
        assert_eq!(per_period(u64::MAX, 1), None);
        assert_eq!(per_period(1, 0), Some(CPU_PERIOD_US));
    }
}
