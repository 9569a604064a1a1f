//! The allowance of an emergency session. It lets a tenant that has reached a limit log in: some tasks and some memory
//! above its limits, until the session has ended.
//!
//! In names of code and of the control group the session is called `rescue`.
//!
//! Danger: the allowance is above the limits, so the warden must take it back. While it is granted, the limit of the
//! tenant's group is the sum of limit and allowance. The jail keeps its limit of tasks, and the tasks of the allowance
//! are in a group of their own. Memory is shared: other processes of the tenant can use the memory of the allowance
//! too.

use crate::control::{Control, Value};
use bailiwick_types::{Bound, ByteSize, Hierarchy, LimitKey, Limits};

/// The name of the session's control group, beside the jail's group. It exists while the allowance is granted.
pub const GROUP: &str = "rescue";
/// The tasks of the allowance: enough for a shell, and for commands that look at processes and end them.
pub const TASKS: u64 = 16;
/// The memory of the allowance.
pub const MEMORY: ByteSize = ByteSize(32 << 20);

/// Whether a limit counts as reached: less than half of the allowance is free, or less than an eighth of the limit if
/// that is less.
fn is_reached(used: u64, limit: u64, reserve: u64) -> bool {
    limit.saturating_sub(used) < (reserve / 2).min(limit / 8).max(1)
}

/// The use of memory in bytes, with page cache, up to which the limit certainly does not count as reached.
#[must_use]
pub fn enough_memory(limits: &Limits) -> u64 {
    match limits.memory {
        Bound::At(most) => most.0.saturating_sub(MEMORY.0 / 2),
        Bound::Unlimited => u64::MAX,
    }
}

/// The use of a tenant's limits. `None` is a value that could not be read; it counts as not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// Processes and threads in use.
    pub tasks: Option<u64>,
    /// Memory in use that the kernel cannot reclaim, in bytes.
    pub memory: Option<u64>,
}

impl Room {
    /// The limits that count as reached.
    #[must_use]
    pub fn reached(&self, limits: &Limits) -> Vec<LimitKey> {
        let tasks =
            matches!((limits.tasks, self.tasks), (Bound::At(most), Some(used)) if is_reached(used, most, TASKS));
        let memory =
            matches!((limits.memory, self.memory), (Bound::At(most), Some(used)) if is_reached(used, most.0, MEMORY.0));
        [(LimitKey::Tasks, tasks), (LimitKey::Memory, memory)]
            .into_iter()
            .filter(|(_, is)| *is)
            .map(|(key, _)| key)
            .collect()
    }
}

/// The limits of the tenant's group while the allowance is granted: tasks and memory are higher. The limits of
/// processor time, block devices and swap stay the same, for the session too.
#[must_use]
pub fn during(mut controls: Vec<Control>) -> Vec<Control> {
    for control in &mut controls {
        let Some(place) = &mut control.place else { continue };
        let more = match (control.key, place.hierarchy) {
            (LimitKey::Tasks, _) => TASKS,
            // Version 1 limits the sum of memory and swap.
            (LimitKey::Memory | LimitKey::MemoryHigh, _) | (LimitKey::Swap, Hierarchy::V1) => MEMORY.0,
            _ => continue,
        };
        if let Value::Number(number) = &mut place.value {
            *number = number.saturating_add(more);
        }
    }
    controls
}

/// The limit of tasks of the jail's group while the allowance is granted; `None` without a limit. While init is in the
/// session's group, the limit is one lower, so that init can return to the jail's group.
#[must_use]
pub fn tasks_of_jail(controls: &[Control], init_is_in: bool) -> Option<u64> {
    match controls.iter().find(|control| control.key == LimitKey::Tasks)?.place.as_ref()?.value {
        Value::Number(number) => Some(number.saturating_sub(u64::from(!init_is_in))),
        Value::Unlimited => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::controls;
    use bailiwick_types::{HostFacts, QuotaFacts, StorageFacts};

    #[test]
    fn a_limit_is_reached_before_nothing_is_left() {
        let limits = Limits { tasks: Bound::At(100), memory: Bound::At(ByteSize(512 << 20)), ..Limits::default() };
        let reached = |tasks, memory: u64| Room { tasks: Some(tasks), memory: Some(memory << 20) }.reached(&limits);
        assert_eq!(reached(92, 496), []);
        assert_eq!(reached(93, 0), [LimitKey::Tasks]);
        assert_eq!(reached(1000, 497), [LimitKey::Tasks, LimitKey::Memory], "a limit that was lowered is passed");
        assert_eq!(Room::default().reached(&limits), []);
        // A jail without work does not reach a small limit.
        let small = Limits { tasks: Bound::At(4), memory: Bound::Unlimited, ..limits };
        assert_eq!(Room { tasks: Some(1), memory: Some(u64::MAX) }.reached(&small), []);
        assert_eq!(Room { tasks: Some(4), memory: None }.reached(&small), [LimitKey::Tasks]);
    }

    #[test]
    fn the_reserve_is_of_tasks_and_memory_alone() {
        for hierarchy in [Hierarchy::Unified, Hierarchy::V1] {
            let facts = HostFacts {
                kernel: String::new(),
                landlock_abi: 7,
                controllers: ["cpu", "memory", "pids"].map(|name| (name.to_owned(), hierarchy)).into(),
                root_links: [].into(),
                host_etc: Vec::new(),
                unlisted: Vec::new(),
                storage: StorageFacts {
                    fs_type: String::new(),
                    quota: QuotaFacts::Nothing { why: String::new(), remedy: String::new() },
                    devices: Vec::new(),
                },
            };
            let limits = Limits { memory_high: Bound::Unlimited, ..Limits::default() };
            let before = controls(&limits, &facts);
            let values = |controls: &[Control]| -> Vec<(LimitKey, Option<Value>)> {
                controls.iter().map(|control| (control.key, control.place.as_ref().map(|place| place.value))).collect()
            };
            for ((key, was), (_, is)) in values(&before).into_iter().zip(values(&during(before.clone()))) {
                let more = match (was, is) {
                    (Some(Value::Number(was)), Some(Value::Number(is))) => is - was,
                    (was, is) => {
                        assert_eq!(was, is, "{key}");
                        0
                    }
                };
                let golden = match (key, hierarchy) {
                    (LimitKey::Tasks, _) => TASKS,
                    (LimitKey::Memory, _) | (LimitKey::Swap, Hierarchy::V1) => MEMORY.0,
                    _ => 0,
                };
                assert_eq!(more, golden, "{key}");
            }
            assert_eq!([true, false].map(|is_in| tasks_of_jail(&before, is_in)), [Some(100), Some(99)]);
        }
    }
}
