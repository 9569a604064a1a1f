//! Reads what a tenant has used since its jail was started, and what it uses now, from its control groups. Works for
//! any user, because everybody can read the files of control groups.

use crate::limit::events;
use bailiwick_plan::rescue::Room;
use bailiwick_sys::cgroup::{self, Hierarchies};
use bailiwick_sys::file;
use bailiwick_types::{Hierarchy, HostFacts, Kind, LimitKey, Measure, MemoryKinds, UNIFIED, Usage};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// A reading of one tenant: sums since the start of its jail, and levels at the time of the reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Every measure that this host has.
    pub usage: Usage,
    /// How often each limit was hit since the jail was started.
    pub faults: BTreeMap<LimitKey, u64>,
    /// What its memory is used for.
    pub memory: Option<MemoryKinds>,
}

impl Reading {
    /// The use since an earlier reading. A sum that is lower than before belongs to a new jail, and counts from zero.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Usage {
        let mut usage = self.usage.clone();
        for (measure, value) in &mut usage.0 {
            if measure.kind() == Kind::Sum {
                let before = earlier.usage.get(*measure).unwrap_or(0);
                *value = value.checked_sub(before).unwrap_or(*value);
            }
        }
        usage
    }

    /// The faults since an earlier reading, for each limit that was hit.
    #[must_use]
    pub fn faults_since(&self, earlier: &Self) -> BTreeMap<LimitKey, u64> {
        let new = |(limit, count): (&LimitKey, &u64)| {
            let before = earlier.faults.get(limit).copied().unwrap_or(0);
            let new = count.checked_sub(before).unwrap_or(*count);
            (new > 0).then_some((*limit, new))
        };
        self.faults.iter().filter_map(new).collect()
    }
}

/// The most bytes of a file that are read. `io.stat` has a line of less than 100 bytes for each device.
const MAX_FILE: usize = 16 << 10;

/// How a file contains a number.
#[derive(Clone, Copy)]
enum Place {
    /// The file is the number.
    Plain,
    /// A line `KEY NUMBER`. The second value divides the number.
    Key(&'static str, u64),
    /// The sum of `KEY=NUMBER` over all lines.
    Devices(&'static str),
    /// The total of the line `some ... total=NUMBER`.
    Pressure,
}

/// The files of measures: the measure, the hierarchy, the controller, the file, and how it contains the number.
#[rustfmt::skip]
const MEASURES: &[(Measure, Hierarchy, &str, &str, Place)] = &[
    (Measure::Throttled, Hierarchy::Unified, "cpu", "cpu.stat", Place::Key("throttled_usec", 1)),
    (Measure::Memory, Hierarchy::Unified, "memory", "memory.current", Place::Plain),
    (Measure::Swap, Hierarchy::Unified, "memory", "memory.swap.current", Place::Plain),
    (Measure::Tasks, Hierarchy::Unified, "pids", "pids.current", Place::Plain),
    (Measure::IoRead, Hierarchy::Unified, "io", "io.stat", Place::Devices("rbytes")),
    (Measure::IoWrite, Hierarchy::Unified, "io", "io.stat", Place::Devices("wbytes")),
    (Measure::IopsRead, Hierarchy::Unified, "io", "io.stat", Place::Devices("rios")),
    (Measure::IopsWrite, Hierarchy::Unified, "io", "io.stat", Place::Devices("wios")),
    (Measure::Throttled, Hierarchy::V1, "cpu", "cpu.stat", Place::Key("throttled_time", 1000)),
    (Measure::Memory, Hierarchy::V1, "memory", "memory.usage_in_bytes", Place::Plain),
    (Measure::Tasks, Hierarchy::V1, "pids", "pids.current", Place::Plain),
];

/// The files that the unified hierarchy has without any controller.
const WITHOUT: &[(Measure, &str, Place)] = &[
    (Measure::Cpu, "cpu.stat", Place::Key("usage_usec", 1)),
    (Measure::CpuPressure, "cpu.pressure", Place::Pressure),
    (Measure::MemoryPressure, "memory.pressure", Place::Pressure),
    (Measure::IoPressure, "io.pressure", Place::Pressure),
];

/// Memory that the kernel reclaims before it kills a process: the hierarchy, the file with the use, and the keys of
/// `memory.stat` with the reclaimable part.
const TAKEN_BACK: [(Hierarchy, &str, &[&str]); 2] = [
    (Hierarchy::Unified, "memory.current", &["inactive_file", "active_file", "slab_reclaimable"]),
    (Hierarchy::V1, "memory.usage_in_bytes", &["total_inactive_file", "total_active_file"]),
];

/// What the memory of a tenant is used for, from its `memory.stat`. `all` is its use of memory.
fn memory_kinds(hierarchy: Hierarchy, stat: &str, all: u64) -> Option<MemoryKinds> {
    let number = |key| cgroup::flat_keyed(stat, key);
    match hierarchy {
        Hierarchy::Unified => {
            let (anon, file) = (number("anon")?, number("file")?);
            // Linux has `kernel` from 5.18 on.
            Some(MemoryKinds { anon, kernel: number("kernel")?, file })
        }
        Hierarchy::V1 => {
            let (anon, file) = (number("total_rss")?, number("total_cache")?);
            Some(MemoryKinds { anon, kernel: all.saturating_sub(anon.saturating_add(file)), file })
        }
    }
}

/// Opens and reads the control groups of tenants.
#[derive(Debug)]
pub struct Meter {
    hierarchies: Hierarchies,
    controllers: BTreeMap<String, Hierarchy>,
}

/// The open files of one tenant. To open them each time would cost three times as much as to read them.
#[derive(Debug)]
pub struct Gauge {
    cgroups: BTreeMap<String, String>,
    files: Vec<Opened>,
}

/// One file. Without a descriptor it is opened for each read, because this process may have no more descriptors.
#[derive(Debug)]
struct Opened {
    name: &'static str,
    hierarchy: Hierarchy,
    controller: &'static str,
    below: Below,
    fd: Option<OwnedFd>,
}

/// The group of a tenant that contains a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Below {
    /// The tenant's own group.
    Tenant,
    /// The group below it that contains the tenant's processes.
    Jail,
}

impl Meter {
    /// Makes a meter for a host with these facts.
    ///
    /// # Errors
    /// When the mount table cannot be read.
    pub fn new(facts: &HostFacts) -> io::Result<Self> {
        Ok(Self { hierarchies: cgroup::hierarchies()?, controllers: facts.controllers.clone() })
    }

    /// Opens the files of a tenant. `cgroups` has a path below each hierarchy's mount. Files that do not exist are left
    /// out.
    #[must_use]
    pub fn gauge(&self, cgroups: &BTreeMap<String, String>) -> Gauge {
        let has = |controller: &str, hierarchy| self.controllers.get(controller) == Some(&hierarchy);
        let measures = MEASURES.iter().map(|(_, hierarchy, controller, name, _)| (*name, *hierarchy, *controller));
        let faults =
            events().map(|(limit, hierarchy, name, _)| (name, hierarchy, limit.controller().unwrap_or_default()));
        let without = WITHOUT.iter().map(|(_, name, _)| (*name, Hierarchy::Unified, ""));
        let mut files: Vec<Opened> = Vec::new();
        let mut add = |name, hierarchy, controller, below| {
            let same = |file: &Opened| (file.name, file.hierarchy, file.below) == (name, hierarchy, below);
            if files.iter().any(same) {
                return;
            }
            match self.open(cgroups, name, hierarchy, controller, below) {
                Ok(fd) => files.push(Opened { name, hierarchy, controller, below, fd: Some(fd) }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => files.push(Opened { name, hierarchy, controller, below, fd: None }),
            }
        };
        let stat = TAKEN_BACK.iter().map(|(hierarchy, ..)| ("memory.stat", *hierarchy, "memory"));
        for (name, hierarchy, controller) in measures.chain(faults).chain(stat) {
            if has(controller, hierarchy) {
                add(name, hierarchy, controller, Below::Tenant);
            }
        }
        for (name, hierarchy, controller) in without {
            add(name, hierarchy, controller, Below::Tenant);
        }
        // Before 6.11, and in version 1, the kernel counts a refused task in the group of its parent process.
        for hierarchy in [Hierarchy::Unified, Hierarchy::V1] {
            if has("pids", hierarchy) {
                add("pids.events", hierarchy, "pids", Below::Jail);
            }
        }
        Gauge { cgroups: cgroups.clone(), files }
    }

    fn open(
        &self,
        cgroups: &BTreeMap<String, String>,
        name: &str,
        hierarchy: Hierarchy,
        controller: &str,
        below: Below,
    ) -> io::Result<OwnedFd> {
        let key = hierarchy.name(controller);
        let (mount, path) = self.hierarchies.mount_of(key).zip(cgroups.get(key)).ok_or(io::ErrorKind::NotFound)?;
        let dir = cgroup::open(mount, path)?;
        match below {
            Below::Tenant => file::open_file_at(&dir, name),
            Below::Jail => file::open_file_at(file::open_dir_at(&dir, "jail")?, name),
        }
    }

    /// What a tenant uses of the limits that can keep it from logging in. If the use of memory is at most `enough`
    /// bytes, this does not read a second file.
    #[must_use]
    pub fn room(&self, cgroups: &BTreeMap<String, String>, enough: u64) -> Room {
        let group = |controller: &str| {
            let hierarchy = *self.controllers.get(controller)?;
            let key = hierarchy.name(controller);
            let (mount, path) = self.hierarchies.mount_of(key).zip(cgroups.get(key))?;
            Some((hierarchy, cgroup::open(mount, path).ok()?))
        };
        let number = |dir: &OwnedFd, name: &str| cgroup::read(dir, name).ok()?.trim().parse::<u64>().ok();
        let memory = || {
            let (hierarchy, dir) = group("memory")?;
            let (_, file, keys) = TAKEN_BACK.iter().find(|(of, ..)| *of == hierarchy)?;
            let used = number(&dir, file)?;
            if used <= enough {
                return Some(used);
            }
            let stat = cgroup::read(&dir, "memory.stat").ok()?;
            Some(used.saturating_sub(keys.iter().filter_map(|key| cgroup::flat_keyed(&stat, key)).sum()))
        };
        Room { tasks: group("pids").and_then(|(_, dir)| number(&dir, "pids.current")), memory: memory() }
    }

    /// The processor time that a tenant used since its jail was started, in microseconds; `None` if the kernel does not
    /// count it. Reads one file.
    #[must_use]
    pub fn processor_time(&self, cgroups: &BTreeMap<String, String>) -> Option<u64> {
        let (mount, path) = self.hierarchies.mount_of(UNIFIED).zip(cgroups.get(UNIFIED))?;
        let stat = cgroup::read(cgroup::open(mount, path).ok()?, "cpu.stat").ok()?;
        cgroup::flat_keyed(&stat, "usage_usec")
    }

    /// Reads a tenant. Values that cannot be read are left out.
    #[must_use]
    pub fn read(&self, gauge: &Gauge) -> Reading {
        let mut reading = Reading::default();
        let mut buffer = vec![0; MAX_FILE];
        let mut taken_back = None;
        for file in &gauge.files {
            let opened = match &file.fd {
                Some(_) => None,
                None => self.open(&gauge.cgroups, file.name, file.hierarchy, file.controller, file.below).ok(),
            };
            let Some(fd) = file.fd.as_ref().or(opened.as_ref()) else { continue };
            if let Ok(text) = cgroup::read_again(fd, &mut buffer) {
                reading.take(file, text);
                if file.name == "memory.stat" {
                    let keys = TAKEN_BACK.iter().find(|(of, ..)| *of == file.hierarchy).map(|(.., keys)| *keys);
                    let numbers = keys.unwrap_or_default().iter().filter_map(|key| cgroup::flat_keyed(text, key));
                    taken_back = Some(numbers.sum::<u64>());
                    // The file with the use of memory comes before this one.
                    let all = reading.usage.get(Measure::Memory).unwrap_or(0);
                    reading.memory = memory_kinds(file.hierarchy, text, all);
                }
            }
        }
        if let (Some(memory), Some(taken_back)) = (reading.usage.get(Measure::Memory), taken_back) {
            reading.usage.0.insert(Measure::MemoryUsed, memory.saturating_sub(taken_back));
        }
        reading
    }
}

impl Reading {
    /// Adds the values of one file.
    fn take(&mut self, file: &Opened, text: &str) {
        let is_it = |name: &str, hierarchy: Hierarchy| file.name == name && file.hierarchy == hierarchy;
        if file.below == Below::Tenant {
            for (measure, hierarchy, _, name, place) in MEASURES {
                if is_it(name, *hierarchy) {
                    self.usage.0.extend(place.number(text).map(|number| (*measure, number)));
                }
            }
            for (measure, name, place) in WITHOUT {
                if is_it(name, Hierarchy::Unified) {
                    self.usage.0.extend(place.number(text).map(|number| (*measure, number)));
                }
            }
        }
        for (limit, hierarchy, name, key) in events() {
            // Without its controller, the file does not have the key.
            if is_it(name, hierarchy)
                && let Some(count) = cgroup::flat_keyed(text, key)
            {
                let known = self.faults.entry(limit).or_default();
                *known = count.max(*known);
            }
        }
    }
}

impl Meter {
    /// The files of a tenant's groups that change when a limit was hit, and whose changes the kernel reports. Version 1
    /// has no such file that users other than root can watch.
    #[must_use]
    pub fn event_files(&self, cgroups: &BTreeMap<String, String>) -> Vec<PathBuf> {
        let group = || {
            let mount = self.hierarchies.mount_of(UNIFIED)?;
            Some(mount.join(cgroups.get(UNIFIED)?.trim_start_matches('/')))
        };
        let Some(group) = group() else { return Vec::new() };
        let files = [("memory", "memory.events"), ("pids", "pids.events"), ("memory", "memory.swap.events")];
        let unified = |controller: &str| self.controllers.get(controller) == Some(&Hierarchy::Unified);
        let mut found: Vec<PathBuf> =
            files.iter().filter(|(controller, _)| unified(controller)).map(|(_, file)| group.join(file)).collect();
        if unified("pids") {
            // Before 6.11 only this file changes: the one of the group that contains the processes.
            found.push(group.join("jail/pids.events"));
        }
        found
    }
}

impl Place {
    fn number(self, text: &str) -> Option<u64> {
        match self {
            Self::Plain => text.trim().parse().ok(),
            Self::Key(key, divisor) => Some(cgroup::flat_keyed(text, key)? / divisor),
            Self::Devices(key) => {
                let values = text.split_whitespace().filter_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
                Some(values.filter_map(|value| value.parse::<u64>().ok()).sum())
            }
            Self::Pressure => {
                let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
                some.split_whitespace().find_map(|pair| pair.strip_prefix("total="))?.parse().ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_where_they_stand() {
        assert_eq!(Place::Plain.number("42\n"), Some(42));
        assert_eq!(Place::Key("throttled_time", 1000).number("nr_throttled 3\nthrottled_time 5000\n"), Some(5));
        let stat = "253:0 rbytes=10 wbytes=20 rios=1\n8:0 rbytes=5 wbytes=7 dbytes=9\n";
        assert_eq!(Place::Devices("rbytes").number(stat), Some(15));
        assert_eq!(Place::Devices("bytes").number(stat), Some(0));
        assert_eq!(Place::Devices("rbytes").number(""), Some(0), "nothing was read yet");
        let pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=77\nfull avg10=0.00 total=1\n";
        assert_eq!(Place::Pressure.number(pressure), Some(77));
        assert_eq!(Place::Pressure.number("full total=1"), None);
    }

    #[test]
    fn the_kinds_of_memory_are_read_in_both_versions() {
        let unified = "anon 100\nfile 20\nkernel 3\nkernel_stack 1\nshmem 5\n";
        let kinds = MemoryKinds { anon: 100, kernel: 3, file: 20 };
        assert_eq!(memory_kinds(Hierarchy::Unified, unified, 9), Some(kinds));
        assert_eq!(memory_kinds(Hierarchy::Unified, "anon 100\nfile 20\n", 9), None, "before Linux 5.18");
        let first = "cache 1\nrss 2\ntotal_cache 20\ntotal_rss 100\n";
        assert_eq!(memory_kinds(Hierarchy::V1, first, 123), Some(kinds));
        let kinds = MemoryKinds { kernel: 0, ..kinds };
        assert_eq!(memory_kinds(Hierarchy::V1, first, 119), Some(kinds), "the files are read one after the other");
    }

    #[test]
    fn sums_are_differences_and_a_new_jail_counts_from_zero() {
        let reading = |cpu, memory, hits| Reading {
            usage: Usage([(Measure::Cpu, cpu), (Measure::Memory, memory)].into()),
            faults: [(LimitKey::Memory, hits)].into(),
            memory: None,
        };
        let (first, second) = (reading(100, 7, 2), reading(150, 5, 5));
        assert_eq!(second.since(&first), Usage([(Measure::Cpu, 50), (Measure::Memory, 5)].into()));
        assert_eq!(second.faults_since(&first), [(LimitKey::Memory, 3)].into());
        assert_eq!(first.since(&second).get(Measure::Cpu), Some(100));
        assert_eq!(first.faults_since(&second), [(LimitKey::Memory, 2)].into());
        assert_eq!(first.faults_since(&first), BTreeMap::new());
    }

    #[test]
    fn this_process_s_own_groups_can_be_read_by_anybody() {
        let facts = crate::host_facts(std::path::Path::new("/")).expect("facts");
        let meter = Meter::new(&facts).expect("hierarchies");
        let groups = bailiwick_sys::proc::cgroups(std::process::id()).expect("groups");
        // The root of a hierarchy lacks some files. All others are read.
        let reading = meter.read(&meter.gauge(&groups));
        assert!(reading.usage.get(Measure::Memory).is_none_or(|memory| memory > 0));
    }
}
