//! The limits of a tenant as files of control groups (`cgroups(7)`; kernel documentation, admin-guide/cgroup-v2 and
//! cgroup-v1).

use crate::kernel_memory;
use bailiwick_policy::ServiceLimits;
use bailiwick_types::{
    BFQ_WEIGHT, Bound, Hierarchy, Holder, HostFacts, LimitKey, LimitUnit, LimitValue, Limits, WeightPolicy,
};

/// The period over which processor time is counted, in microseconds: the kernel's default.
pub const CPU_PERIOD_US: u64 = 100_000;

/// A value of a control-group file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// No limit: the text `max`, or `-1` in most files of version 1.
    Unlimited,
    /// A number in the file's unit.
    Number(u64),
}

/// One limit as one file, or as one entry of a file. A limit of block devices has one `Control` for each device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// Which limit.
    pub key: LimitKey,
    /// The value that the policy declares.
    pub declared: LimitValue,
    /// The file; `None` if this host has no file for the limit, which is then only nominal.
    pub place: Option<Place>,
}

impl Control {
    /// Converts a value of the kernel from the file's unit to the unit of the policy. `None` is no limit.
    #[must_use]
    pub fn enforced(&self, number: Option<u64>) -> LimitValue {
        let Some(number) = number else { return LimitValue::Unlimited };
        let is_v1 = self.place.as_ref().is_some_and(|place| place.hierarchy == Hierarchy::V1);
        match self.key {
            LimitKey::Swap if is_v1 => LimitValue::WithMemory(number),
            LimitKey::CpuWeight if is_v1 => number.saturating_mul(100).div_ceil(1024).into(),
            key if key.unit() == LimitUnit::CpuShare => (number.saturating_mul(100_000) / CPU_PERIOD_US).into(),
            _ => number.into(),
        }
    }
}

/// A file and the value it should hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The limit.
    pub key: LimitKey,
    /// The hierarchy of the file.
    pub hierarchy: Hierarchy,
    /// The file's name.
    pub file: &'static str,
    /// The part of the file.
    pub entry: Entry,
    /// The value, in the file's unit.
    pub value: Value,
}

/// Which part of a file holds a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The whole file.
    Whole,
    /// The value after the word `default`.
    Default,
    /// One key in the line of a device: `8:0 rbps=1048576`.
    Device {
        /// The device's number: `8:0`.
        number: String,
        /// The key: `rbps`.
        key: &'static str,
    },
}

impl Place {
    /// File and entry, as reports name them: `memory.max`, `io.max 8:0 rbps`.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.entry {
            Entry::Whole | Entry::Default => self.file.to_owned(),
            Entry::Device { number, key } => format!("{} {number} {key}", self.file),
        }
    }

    /// The text to write to the file.
    #[must_use]
    pub fn text(&self) -> String {
        match (&self.entry, self.value) {
            (Entry::Device { number, key }, Value::Unlimited) => return format!("{number} {key}=max"),
            (Entry::Device { number, key }, Value::Number(value)) => return format!("{number} {key}={value}"),
            _ => {}
        }
        match (self.hierarchy, self.key, self.value) {
            (Hierarchy::Unified, LimitKey::Cpu, Value::Unlimited) => format!("max {CPU_PERIOD_US}"),
            (Hierarchy::Unified, LimitKey::Cpu, Value::Number(quota)) => format!("{quota} {CPU_PERIOD_US}"),
            (Hierarchy::Unified, _, Value::Unlimited) => "max".to_owned(),
            (Hierarchy::V1, key, Value::Unlimited) if key.controller() == Some("pids") => "max".to_owned(),
            (Hierarchy::V1, _, Value::Unlimited) => "-1".to_owned(),
            (_, _, Value::Number(number)) => number.to_string(),
        }
    }

    /// Parses the file's text; `None` if the text contains no value.
    #[must_use]
    pub fn read_back(&self, text: &str) -> Option<Value> {
        let word = match &self.entry {
            Entry::Whole => text.split_whitespace().next()?,
            Entry::Default => text.lines().find_map(|line| line.strip_prefix("default "))?.trim(),
            // A device without a line has no limit.
            Entry::Device { number, key } => {
                let line = text.lines().find_map(|line| line.strip_prefix(number.as_str())?.strip_prefix(' '));
                let value = line.and_then(|line| line.split_whitespace().find_map(|pair| value_of(pair, key)));
                value.unwrap_or("max")
            }
        };
        if word == "max" || word == "-1" {
            return Some(Value::Unlimited);
        }
        let number: u64 = word.parse().ok()?;
        // Version 1 of the memory controller reports "no limit" as the largest number of whole pages.
        if self.hierarchy == Hierarchy::V1 && self.controller_counts_pages() && number >= 0x7fff_ffff_ffff_f000 {
            return Some(Value::Unlimited);
        }
        Some(Value::Number(number))
    }

    fn controller_counts_pages(&self) -> bool {
        self.key.controller() == Some("memory")
    }

    /// Whether the kernel's value is the declared one. The kernel rounds memory down to whole pages.
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

/// The value of a pair: `1048576` of `rbps=1048576`.
fn value_of<'a>(pair: &'a str, key: &str) -> Option<&'a str> {
    pair.strip_prefix(key)?.strip_prefix('=')
}

fn bound(bound: Bound<u64>) -> Value {
    match bound {
        Bound::Unlimited => Value::Unlimited,
        Bound::At(number) => Value::Number(number),
    }
}

/// The limits that are written first and reported first. Version 1 limits the sum of memory and swap, so swap must come
/// after memory.
const FIRST: [LimitKey; 6] =
    [LimitKey::Memory, LimitKey::Swap, LimitKey::Tasks, LimitKey::Cpu, LimitKey::CpuBurst, LimitKey::CpuWeight];

/// Every limit that control groups enforce, in the order in which they must be written.
#[must_use]
pub fn controls(limits: &Limits, facts: &HostFacts) -> Vec<Control> {
    let others = LimitKey::ALL.into_iter().filter(|key| !FIRST.contains(key));
    let mut rows: Vec<Control> =
        FIRST.into_iter().chain(others).filter_map(|key| plain_control(key, limits, facts)).collect();
    rows.extend(devices(limits, facts));
    rows
}

/// The control group of a service is named after it, with this before its name. It is beside the group of the jail, so the
/// limits of the tenant hold above its own.
pub const SERVICE_GROUP: &str = "svc-";

/// The limits of a service's group, in the order in which they must be written; none if the service declares no limits.
///
/// What it does not declare is the tenant's, so that a limit of an earlier declaration is replaced. No limit is above the
/// tenant's: version 1 refuses processor time above that of the group above, and a service gets no task of the allowance of
/// an emergency session ([`crate::rescue`]).
#[must_use]
pub fn service_controls(service: &ServiceLimits, tenant: &Limits, facts: &HostFacts) -> Vec<Control> {
    if *service == ServiceLimits::default() {
        return Vec::new();
    }
    let limits = Limits {
        memory: lower(service.memory, tenant.memory),
        tasks: lower(service.tasks, tenant.tasks),
        cpu: lower(service.cpu, tenant.cpu),
        ..tenant.clone()
    };
    let keys = [
        (LimitKey::Memory, service.memory.is_some()),
        (LimitKey::Tasks, service.tasks.is_some()),
        (LimitKey::Cpu, service.cpu.is_some()),
    ];
    let controls = keys.into_iter().filter_map(|(key, is_own)| Some((plain_control(key, &limits, facts)?, is_own)));
    controls.filter(|(control, is_own)| *is_own || control.place.is_some()).map(|(control, _)| control).collect()
}

/// The lower of a service's limit and the tenant's.
fn lower<T: Ord>(own: Option<T>, tenant: Bound<T>) -> Bound<T> {
    match (own, tenant) {
        (None, tenant) => tenant,
        (Some(own), Bound::Unlimited) => Bound::At(own),
        (Some(own), Bound::At(tenant)) => Bound::At(own.min(tenant)),
    }
}

/// The control of a limit that uses a whole file; `None` for any other limit, and for a limit that does not apply on
/// this host.
fn plain_control(key: LimitKey, limits: &Limits, facts: &HostFacts) -> Option<Control> {
    let Holder::Group { controller, device: None, .. } = key.holder() else { return None };
    let hierarchy = facts.controller(controller);
    let declared = match key {
        LimitKey::IoWeight => return None,
        // Version 2 counts the memory of sockets in `memory`.
        LimitKey::MemorySockets if hierarchy != Some(Hierarchy::V1) => return None,
        LimitKey::MemorySockets => limits.memory.map(kernel_memory::sockets).into(),
        // Version 1 has no such limit. An undeclared one is omitted, so that it is not reported as nominal.
        LimitKey::MemoryHigh if limits.memory_high == Bound::Unlimited && hierarchy != Some(Hierarchy::Unified) => {
            return None;
        }
        _ => limits.value(key)?,
    };
    let place = hierarchy.and_then(|hierarchy| {
        let (file, value) = (key.file(hierarchy)?, in_unit_of_file(key, declared, hierarchy, limits));
        Some(Place { key, hierarchy, file, entry: Entry::Whole, value })
    });
    Some(Control { key, declared, place })
}

/// The value of a limit in the unit of its file. Most limits have the same unit in both.
fn in_unit_of_file(key: LimitKey, declared: LimitValue, hierarchy: Hierarchy, limits: &Limits) -> Value {
    let quota = || limits.cpu.map(|share| share.quota_us(CPU_PERIOD_US));
    match (key, hierarchy) {
        (LimitKey::Cpu, _) => bound(quota()),
        (LimitKey::CpuBurst, _) => match (limits.cpu, limits.cpu_burst) {
            (Bound::Unlimited, _) => Value::Number(0),
            // This file has no "unlimited". The kernel accepts at most the quota itself.
            (_, Bound::Unlimited) => bound(quota()),
            (_, Bound::At(share)) => Value::Number(share.quota_us(CPU_PERIOD_US)),
        },
        // The default weight is 100 in version 2 and 1024 in version 1, whose minimum is 2.
        (LimitKey::CpuWeight, Hierarchy::V1) => Value::Number((u64::from(limits.cpu_weight) * 1024 / 100).max(2)),
        (LimitKey::Swap, Hierarchy::V1) => match (limits.memory, limits.swap) {
            (Bound::At(memory), Bound::At(swap)) => Value::Number(memory.0.saturating_add(swap.0)),
            _ => Value::Unlimited,
        },
        _ => plain(declared),
    }
}

fn plain(declared: LimitValue) -> Value {
    declared.hard().map_or(Value::Unlimited, Value::Number)
}

/// The limits of block devices: one control for each device and limit.
fn devices(limits: &Limits, facts: &HostFacts) -> Vec<Control> {
    let hierarchy = Hierarchy::Unified;
    let usable = facts.controller("io") == Some(hierarchy);
    let devices = if usable { facts.storage.devices.as_slice() } else { &[] };
    let mut rows = Vec::new();
    for key in LimitKey::ALL {
        let (Some(file), Holder::Group { device: Some(word), .. }) = (key.file(hierarchy), key.holder()) else {
            continue;
        };
        let Some(declared) = limits.value(key) else { continue };
        let row = |entry| Control {
            key,
            declared,
            place: Some(Place { key, hierarchy, file, entry, value: plain(declared) }),
        };
        let entries = devices.iter().map(|device| Entry::Device { number: device.number.clone(), key: word });
        rows.extend(entries.map(row));
        if devices.is_empty() && declared != LimitValue::Unlimited {
            rows.push(Control { key, declared, place: None });
        }
    }
    // Only physical devices are shared by weight.
    let key = LimitKey::IoWeight;
    let file = devices.iter().find_map(|device| device.weight).and_then(|policy| match policy {
        WeightPolicy::Bfq => Some(BFQ_WEIGHT),
        WeightPolicy::Cost => key.file(hierarchy),
    });
    let value = Value::Number(u64::from(limits.io_weight));
    let place = file.map(|file| Place { key, hierarchy, file, entry: Entry::Default, value });
    // Every group has the default weight. So a host that shares nothing by weight does not report this weight as
    // nominal.
    if place.is_some() || limits.io_weight != 100 {
        rows.push(Control { key, declared: limits.io_weight.into(), place });
    }
    rows
}

/// A setting of a tenant's control groups that no limit uses. It must keep the value of a new group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Untouched {
    /// The hierarchy of the file.
    pub hierarchy: Hierarchy,
    /// The controller of the file; empty for a file that every group has.
    pub controller: &'static str,
    /// The file's name.
    pub file: &'static str,
    /// The key of the line, if the file has several lines.
    pub key: Option<&'static str>,
    /// The value in a new group.
    pub fresh: &'static str,
}

/// Settings that would favour one tenant or hinder the warden: memory that is never reclaimed, processes that are never
/// killed for memory, processor time before all other groups, groups that cannot be created.
#[rustfmt::skip]
pub const UNTOUCHED: &[Untouched] = {
    const fn row(hierarchy: Hierarchy, controller: &'static str, file: &'static str, fresh: &'static str) -> Untouched {
        Untouched { hierarchy, controller, file, key: None, fresh }
    }
    use Hierarchy::{Unified, V1};
    &[
        row(Unified, "", "cgroup.max.descendants", "max"),
        row(Unified, "", "cgroup.max.depth", "max"),
        row(Unified, "memory", "memory.min", "0"),
        row(Unified, "memory", "memory.low", "0"),
        row(Unified, "memory", "memory.oom.group", "0"),
        row(Unified, "cpu", "cpu.idle", "0"),
        row(Unified, "cpu", "cpu.uclamp.min", "0.00"),
        row(Unified, "io", "io.prio.class", "no-change"),
        row(V1, "memory", "memory.soft_limit_in_bytes", NO_LIMIT_V1),
        Untouched { hierarchy: V1, controller: "memory", file: "memory.oom_control", key: Some("oom_kill_disable"), fresh: "0" },
        row(V1, "cpu", "cpu.rt_runtime_us", "0"),
        row(V1, "cpu", "cpu.idle", "0"),
        row(V1, "cpu", "cpu.uclamp.min", "0.00"),
    ]
};

/// The text of "no limit" in the memory files of version 1, with pages of 4 KiB.
const NO_LIMIT_V1: &str = "9223372036854771712";

impl Untouched {
    /// The value in the file's text if it differs from the value of a new group, cut to 64 characters.
    #[must_use]
    pub fn changed(&self, text: &str) -> Option<String> {
        let value = match self.key {
            Some(key) => text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?,
            None => text,
        };
        let value = value.trim();
        (value != self.fresh).then(|| value.chars().take(64).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::{BlockDevice, ByteSize, CpuShare, QuotaFacts, Resource, StorageFacts};

    fn facts(hierarchy: Hierarchy) -> HostFacts {
        let device =
            |number: &str, name: &str, weight| BlockDevice { number: number.to_owned(), name: name.to_owned(), weight };
        HostFacts {
            kernel: String::new(),
            landlock_abi: 7,
            controllers: ["cpu", "memory", "pids", "io"].map(|name| (name.to_owned(), hierarchy)).into(),
            root_links: Default::default(),
            host_etc: Vec::new(),
            unlisted: Vec::new(),
            storage: StorageFacts {
                fs_type: "xfs".to_owned(),
                quota: QuotaFacts::Projects,
                devices: vec![device("253:0", "dm-0", None), device("8:0", "sda", Some(WeightPolicy::Bfq))],
            },
        }
    }

    fn text(limits: &Limits, hierarchy: Hierarchy, key: LimitKey) -> Option<String> {
        let rows = controls(limits, &facts(hierarchy));
        rows.into_iter().find(|row| row.key == key)?.place.map(|place| place.text())
    }

    #[test]
    fn a_services_limits_are_its_own_and_never_above_the_tenants() {
        let tenant = Limits { tasks: Bound::At(50), ..Limits::default() };
        let texts = |service: &ServiceLimits, hierarchy| -> Vec<String> {
            let rows = service_controls(service, &tenant, &facts(hierarchy));
            rows.into_iter().map(|row| row.place.expect("the host has the file").text()).collect()
        };
        let memory = ServiceLimits { memory: Some(ByteSize(8 << 20)), ..ServiceLimits::default() };
        let all = ServiceLimits { tasks: Some(99), cpu: Some(CpuShare(50_000)), ..memory };
        assert_eq!(texts(&memory, Hierarchy::V1), ["8388608", "50", "100000"]);
        assert_eq!(texts(&memory, Hierarchy::Unified), ["8388608", "50", "100000 100000"]);
        assert_eq!(texts(&all, Hierarchy::V1), ["8388608", "50", "50000"]);
        assert_eq!(texts(&all, Hierarchy::Unified), ["8388608", "50", "50000 100000"]);
        for hierarchy in [Hierarchy::V1, Hierarchy::Unified] {
            assert_eq!(texts(&ServiceLimits::default(), hierarchy), [""; 0]);
        }
    }

    #[test]
    fn every_limit_that_has_a_file_is_written() {
        for hierarchy in [Hierarchy::Unified, Hierarchy::V1] {
            let rows = controls(&Limits::default(), &facts(hierarchy));
            for key in LimitKey::ALL.into_iter().filter(|key| key.file(hierarchy).is_some()) {
                assert!(rows.iter().any(|row| row.key == key && row.place.is_some()), "{key} {hierarchy:?}");
            }
        }
    }

    #[test]
    fn both_versions_say_the_same_limit() {
        let limits = Limits { swap: Bound::At(ByteSize(1 << 20)), ..Limits::default() };
        assert_eq!(text(&limits, Hierarchy::Unified, LimitKey::Memory).as_deref(), Some("1073741824"));
        assert_eq!(text(&limits, Hierarchy::Unified, LimitKey::Swap).as_deref(), Some("1048576"));
        assert_eq!(text(&limits, Hierarchy::V1, LimitKey::Swap).as_deref(), Some("1074790400"));
        assert_eq!(text(&limits, Hierarchy::Unified, LimitKey::Cpu).as_deref(), Some("100000 100000"));
        assert_eq!(text(&limits, Hierarchy::V1, LimitKey::Cpu).as_deref(), Some("100000"));
        let none = Limits { memory: Bound::Unlimited, tasks: Bound::Unlimited, cpu: Bound::Unlimited, ..limits };
        assert_eq!(text(&none, Hierarchy::V1, LimitKey::Memory).as_deref(), Some("-1"));
        assert_eq!(text(&none, Hierarchy::V1, LimitKey::Tasks).as_deref(), Some("max"));
        assert_eq!(text(&none, Hierarchy::Unified, LimitKey::Cpu).as_deref(), Some("max 100000"));
        assert_eq!(text(&none, Hierarchy::Unified, LimitKey::CpuBurst).as_deref(), Some("0"));
    }

    #[test]
    fn what_is_enforced_reads_as_it_is_declared() {
        let limits = Limits { cpu_weight: 250, ..Limits::default() };
        for hierarchy in [Hierarchy::Unified, Hierarchy::V1] {
            for control in controls(&limits, &facts(hierarchy)) {
                let Some(Place { value: Value::Number(number), .. }) = control.place else { continue };
                let golden = match (control.key, hierarchy) {
                    (LimitKey::Swap, Hierarchy::V1) => LimitValue::WithMemory(1 << 30),
                    _ => control.declared,
                };
                assert_eq!(control.enforced(Some(number)), golden, "{}", control.key);
            }
        }
    }

    #[test]
    fn a_missing_controller_makes_a_limit_nominal_and_never_silent() {
        let mut facts = facts(Hierarchy::V1);
        facts.controllers.remove("memory");
        let rows = controls(&Limits::default(), &facts);
        let memory = rows.iter().find(|row| row.key == LimitKey::Memory).expect("still listed");
        assert_eq!(memory.place, None);
    }

    #[test]
    fn what_the_kernel_rounds_still_holds_and_what_it_does_not_is_seen() {
        let (key, hierarchy, entry) = (LimitKey::Memory, Hierarchy::V1, Entry::Whole);
        let file = key.file(hierarchy).expect("a file");
        let place = Place { key, hierarchy, file, entry, value: Value::Number(10_000) };
        assert!(place.holds(place.read_back("8192\n").expect("number")));
        assert!(!place.holds(place.read_back("4096\n").expect("number")));
        assert!(!place.holds(place.read_back("9223372036854771712\n").expect("number")));
        assert_eq!(place.read_back("9223372036854771712"), Some(Value::Unlimited));
        assert_eq!(place.read_back("nonsense"), None);
    }

    #[test]
    fn what_no_limit_uses_is_as_in_a_fresh_group_or_told() {
        let row = |file: &str| UNTOUCHED.iter().find(|row| row.file == file).expect("a row");
        assert_eq!(row("memory.min").changed("0\n"), None);
        assert_eq!(row("memory.min").changed("1048576\n").as_deref(), Some("1048576"));
        assert_eq!(row("cgroup.max.descendants").changed("max\n"), None);
        let control = row("memory.oom_control");
        assert_eq!(control.changed("oom_kill_disable 0\nunder_oom 1\noom_kill 9\n"), None);
        assert_eq!(control.changed("oom_kill_disable 1\nunder_oom 0\n").as_deref(), Some("1"));
    }

    #[test]
    fn a_limit_of_block_devices_is_on_each_of_them() {
        let limits = Limits { io_read: Bound::At(ByteSize(1 << 20)), io_weight: 250, ..Limits::default() };
        let rows = controls(&limits, &facts(Hierarchy::Unified));
        let texts = |key| -> Vec<String> {
            rows.iter().filter(|row| row.key == key).flat_map(|row| &row.place).map(Place::text).collect()
        };
        assert_eq!(texts(LimitKey::IoRead), ["253:0 rbps=1048576", "8:0 rbps=1048576"]);
        assert_eq!(texts(LimitKey::IopsWrite), ["253:0 wiops=max", "8:0 wiops=max"]);
        assert_eq!(texts(LimitKey::IoWeight), ["250"]);
        let place =
            rows.iter().find(|row| row.key == LimitKey::IoRead).and_then(|row| row.place.as_ref()).expect("a place");
        assert_eq!(place.label(), "io.max 253:0 rbps");
        let read = |text| place.read_back(text);
        assert_eq!(read("8:0 rbps=5 wbps=max\n253:0 rbps=7 wbps=max riops=max wiops=max\n"), Some(Value::Number(7)));
        assert_eq!(read("253:01 rbps=7\n"), Some(Value::Unlimited));
        assert_eq!(read(""), Some(Value::Unlimited));
    }

    #[test]
    fn what_writes_through_the_page_cache_is_not_said_to_be_held_by_version_1() {
        let limits = Limits { io_write: Bound::At(ByteSize(1 << 20)), io_weight: 7, ..Limits::default() };
        let rows = controls(&limits, &facts(Hierarchy::V1));
        let io: Vec<_> = rows.iter().filter(|row| row.key.resource() == Resource::Io).collect();
        assert_eq!(io.iter().map(|row| row.key).collect::<Vec<_>>(), [LimitKey::IoWrite, LimitKey::IoWeight]);
        assert!(io.iter().all(|row| row.place.is_none()));
    }
}
