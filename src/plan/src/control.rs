//! Limits as files of control groups (`cgroups(7)`; kernel documentation, admin-guide/cgroup-v2 and cgroup-v1).

use crate::facts::{Hierarchy, HostFacts};
use bailiwick_types::{Bound, ByteSize, CpuShare, Limits, Resource};

/// The period over which processor time is counted, in microseconds: the kernel's default.
pub const CPU_PERIOD_US: u64 = 100_000;

/// A value to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// No limit: `max`, or `-1` where the file is of version 1.
    Unlimited,
    /// A number in the file's unit.
    Number(u64),
}

/// One limit as one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// What it limits.
    pub resource: Resource,
    /// The word in `[limits]`.
    pub word: &'static str,
    /// The limit as the policy writes it.
    pub declared: String,
    /// The controller: `memory`, `cpu`, `pids`.
    pub controller: &'static str,
    /// Where; `None` when this host has no file for it: the limit is only nominal.
    pub place: Option<Place>,
}

impl Control {
    /// What the kernel enforces, in the unit in which the policy writes this limit.
    #[must_use]
    pub fn in_words(&self, enforced: Option<u64>) -> String {
        let Some(number) = enforced else { return "unlimited".to_owned() };
        let file = self.place.as_ref().map_or("", |place| place.file);
        match file {
            // Version 1 counts memory and swap together.
            "memory.memsw.limit_in_bytes" => format!("{} with memory", ByteSize(number)),
            _ if file.starts_with("memory.") => ByteSize(number).to_string(),
            "cpu.max" | "cpu.cfs_quota_us" | "cpu.max.burst" | "cpu.cfs_burst_us" => {
                CpuShare(number.saturating_mul(100_000) / CPU_PERIOD_US).to_string()
            }
            "cpu.shares" => number.saturating_mul(100).div_ceil(1024).to_string(),
            _ => number.to_string(),
        }
    }
}

/// A file and the value it should hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// In which hierarchy.
    pub hierarchy: Hierarchy,
    /// The file's name.
    pub file: &'static str,
    /// The value, in the file's unit.
    pub value: Value,
}

impl Place {
    /// The text to write.
    #[must_use]
    pub fn text(&self) -> String {
        match (self.hierarchy, self.file, self.value) {
            (_, "cpu.max", Value::Unlimited) => format!("max {CPU_PERIOD_US}"),
            (_, "cpu.max", Value::Number(quota)) => format!("{quota} {CPU_PERIOD_US}"),
            (_, "pids.max", Value::Unlimited) | (Hierarchy::Unified, _, Value::Unlimited) => "max".to_owned(),
            (Hierarchy::V1, _, Value::Unlimited) => "-1".to_owned(),
            (_, _, Value::Number(number)) => number.to_string(),
        }
    }

    /// What the kernel reports in the file, as a value; `None` when the text is not one.
    #[must_use]
    pub fn read_back(&self, text: &str) -> Option<Value> {
        let word = text.split_whitespace().next()?;
        if word == "max" || word == "-1" {
            return Some(Value::Unlimited);
        }
        let number: u64 = word.parse().ok()?;
        // Version 1 of the memory controller says "no limit" as the largest number of whole pages.
        if self.hierarchy == Hierarchy::V1 && self.controller_counts_pages() && number >= 0x7fff_ffff_ffff_f000 {
            return Some(Value::Unlimited);
        }
        Some(Value::Number(number))
    }

    fn controller_counts_pages(&self) -> bool {
        self.file.starts_with("memory.")
    }

    /// Whether what the kernel reports is what was declared. The kernel rounds memory down to whole pages.
    #[must_use]
    pub fn holds(&self, read_back: Value) -> bool {
        match (self.value, read_back) {
            (Value::Unlimited, Value::Unlimited) => true,
            (Value::Number(want), Value::Number(got)) => {
                want == got || (self.controller_counts_pages() && got <= want && want - got < 4096)
            }
            _ => false,
        }
    }
}

fn bound(bound: Bound<u64>) -> Value {
    match bound {
        Bound::Unlimited => Value::Unlimited,
        Bound::At(number) => Value::Number(number),
    }
}

/// Every limit that control groups enforce, in the order in which they must be written.
#[must_use]
pub fn controls(limits: &Limits, facts: &HostFacts) -> Vec<Control> {
    let at = |controller: &str, v2: Option<(&'static str, Value)>, v1: Option<(&'static str, Value)>| {
        let hierarchy = facts.controller(controller)?;
        let (file, value) = match hierarchy {
            Hierarchy::Unified => v2?,
            Hierarchy::V1 => v1?,
        };
        Some(Place { hierarchy, file, value })
    };
    let cpu = bound(map(limits.cpu, |share| share.quota_us(CPU_PERIOD_US)));
    let burst = bound(match limits.cpu_burst {
        // The kernel has no "unlimited" here and takes at most the quota itself.
        Bound::Unlimited => map(limits.cpu, |share| share.quota_us(CPU_PERIOD_US)),
        Bound::At(share) => Bound::At(share.quota_us(CPU_PERIOD_US)),
    });
    let burst = if cpu == Value::Unlimited { Value::Number(0) } else { burst };
    let weight = u64::from(limits.cpu_weight);
    let memory = bound(map(limits.memory, |size| size.0));
    let both = match (limits.memory, limits.swap) {
        (Bound::At(memory), Bound::At(swap)) => Value::Number(memory.0.saturating_add(swap.0)),
        _ => Value::Unlimited,
    };
    let swap = bound(map(limits.swap, |size| size.0));
    let high = bound(map(limits.memory_high, |size| size.0));
    let tasks = bound(limits.tasks);

    let mut rows = vec![
        Control {
            resource: Resource::Memory,
            word: "memory",
            declared: limits.memory.to_string(),
            controller: "memory",
            place: at("memory", Some(("memory.max", memory)), Some(("memory.limit_in_bytes", memory))),
        },
        Control {
            resource: Resource::Swap,
            word: "swap",
            declared: limits.swap.to_string(),
            controller: "memory",
            // Version 1 counts memory and swap together, so this comes after the memory limit.
            place: at("memory", Some(("memory.swap.max", swap)), Some(("memory.memsw.limit_in_bytes", both))),
        },
        Control {
            resource: Resource::Tasks,
            word: "tasks",
            declared: limits.tasks.to_string(),
            controller: "pids",
            place: at("pids", Some(("pids.max", tasks)), Some(("pids.max", tasks))),
        },
        Control {
            resource: Resource::Cpu,
            word: "cpu",
            declared: limits.cpu.to_string(),
            controller: "cpu",
            place: at("cpu", Some(("cpu.max", cpu)), Some(("cpu.cfs_quota_us", cpu))),
        },
        Control {
            resource: Resource::Cpu,
            word: "cpu_burst",
            declared: limits.cpu_burst.to_string(),
            controller: "cpu",
            place: at("cpu", Some(("cpu.max.burst", burst)), Some(("cpu.cfs_burst_us", burst))),
        },
        Control {
            resource: Resource::Cpu,
            word: "cpu_weight",
            declared: limits.cpu_weight.to_string(),
            controller: "cpu",
            place: at(
                "cpu",
                Some(("cpu.weight", Value::Number(weight))),
                // 100 is the norm of version 2, 1024 of version 1; version 1 takes no less than 2.
                Some(("cpu.shares", Value::Number((weight * 1024 / 100).max(2)))),
            ),
        },
    ];
    // Version 1 has no such limit. It is left out where nothing is declared, so that it is not called nominal.
    if limits.memory_high != Bound::Unlimited || facts.controller("memory") == Some(Hierarchy::Unified) {
        rows.push(Control {
            resource: Resource::Memory,
            word: "memory_high",
            declared: limits.memory_high.to_string(),
            controller: "memory",
            place: at("memory", Some(("memory.high", high)), None),
        });
    }
    rows
}

fn map<T, U>(bound: Bound<T>, f: impl FnOnce(T) -> U) -> Bound<U> {
    match bound {
        Bound::Unlimited => Bound::Unlimited,
        Bound::At(value) => Bound::At(f(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::ByteSize;

    fn facts(hierarchy: Hierarchy) -> HostFacts {
        HostFacts {
            kernel: String::new(),
            landlock_abi: 7,
            controllers: ["cpu", "memory", "pids"].map(|name| (name.to_owned(), hierarchy)).into(),
            root_links: Default::default(),
            host_etc: Vec::new(),
        }
    }

    fn text(limits: &Limits, hierarchy: Hierarchy, word: &str) -> Option<String> {
        let rows = controls(limits, &facts(hierarchy));
        rows.into_iter().find(|row| row.word == word)?.place.map(|place| place.text())
    }

    #[test]
    fn both_versions_say_the_same_limit() {
        let limits = Limits { swap: Bound::At(ByteSize(1 << 20)), ..Limits::default() };
        assert_eq!(text(&limits, Hierarchy::Unified, "memory").as_deref(), Some("1073741824"));
        assert_eq!(text(&limits, Hierarchy::Unified, "swap").as_deref(), Some("1048576"));
        assert_eq!(text(&limits, Hierarchy::V1, "swap").as_deref(), Some("1074790400"));
        assert_eq!(text(&limits, Hierarchy::Unified, "cpu").as_deref(), Some("100000 100000"));
        assert_eq!(text(&limits, Hierarchy::V1, "cpu").as_deref(), Some("100000"));
        let none = Limits { memory: Bound::Unlimited, tasks: Bound::Unlimited, cpu: Bound::Unlimited, ..limits };
        assert_eq!(text(&none, Hierarchy::V1, "memory").as_deref(), Some("-1"));
        assert_eq!(text(&none, Hierarchy::V1, "tasks").as_deref(), Some("max"));
        assert_eq!(text(&none, Hierarchy::Unified, "cpu").as_deref(), Some("max 100000"));
        assert_eq!(text(&none, Hierarchy::Unified, "cpu_burst").as_deref(), Some("0"));
    }

    #[test]
    fn what_is_enforced_reads_as_it_is_declared() {
        let limits = Limits { cpu_weight: 250, ..Limits::default() };
        for hierarchy in [Hierarchy::Unified, Hierarchy::V1] {
            for control in controls(&limits, &facts(hierarchy)) {
                let Some(Place { value: Value::Number(number), file, .. }) = control.place else { continue };
                if file != "memory.memsw.limit_in_bytes" {
                    assert_eq!(control.in_words(Some(number)), control.declared, "{file}");
                }
            }
        }
    }

    #[test]
    fn a_missing_controller_makes_a_limit_nominal_and_never_silent() {
        let mut facts = facts(Hierarchy::V1);
        facts.controllers.remove("memory");
        let rows = controls(&Limits::default(), &facts);
        let memory = rows.iter().find(|row| row.word == "memory").expect("still listed");
        assert_eq!(memory.place, None);
    }

    #[test]
    fn what_the_kernel_rounds_still_holds_and_what_it_does_not_is_seen() {
        let place = Place { hierarchy: Hierarchy::V1, file: "memory.limit_in_bytes", value: Value::Number(10_000) };
        assert!(place.holds(place.read_back("8192\n").expect("number")));
        assert!(!place.holds(place.read_back("4096\n").expect("number")));
        assert!(!place.holds(place.read_back("9223372036854771712\n").expect("number")));
        assert_eq!(place.read_back("9223372036854771712"), Some(Value::Unlimited));
        assert_eq!(place.read_back("nonsense"), None);
    }
}
