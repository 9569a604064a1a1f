//! Limits: compares declared with enforced limits, and reports the limits that nothing on this host enforces.
//!
//! Danger: the kernel does not know the limits of `sessions`. Their rows are `bailiwickd`'s own count.

use crate::finding::{self, Violation};
use crate::walls::{everybody, is_of_earlier_version, shown};
use bailiwick_plan::control::{Control, Value, controls};
use bailiwick_plan::disk::{self, DiskPlan};
use bailiwick_plan::mount::{TERMINALS, confinement};
use bailiwick_plan::{Rlimit, kernel_memory, nominal, rescue, rlimits};
use bailiwick_policy::{Host, Tenant};
use bailiwick_types::{
    Bound, ByteSize, DiskFact, Door, GroupSetting, Holder, HostFacts, LimitFact, LimitKey, LimitReport, LimitValue,
    Limits, MountFact, ObservedJail, ProcessFacts, ProcessRank, Profile, QuotaFact, QuotaFacts, SessionCount,
    TenantReport, TmpfsSize, Verdict,
};
use std::collections::BTreeMap;

/// The rows of a report, and their violations.
pub(crate) fn limits(
    tenant: &Tenant,
    host: &Host,
    facts: &HostFacts,
    jail: &ObservedJail,
    disk: Option<&DiskFact>,
) -> (Vec<LimitReport>, Vec<Violation>) {
    let controls = controls(&tenant.settings.limits, facts);
    let mut violations = Vec::new();
    let mut rows: Vec<LimitReport> = Vec::new();
    // The warden grants the allowance for one emergency session. Meanwhile the allowance raises some limits.
    let in_force = if jail.rescue { rescue::during(controls.clone()) } else { controls.clone() };
    for control in &in_force {
        let Some(row) = control_row(control, jail, &mut violations) else { continue };
        // A limit of several devices has one row: the row of the device with the worst verdict.
        match rows.iter_mut().find(|earlier| earlier.key == row.key) {
            Some(earlier) if row.verdict > earlier.verdict => *earlier = row,
            Some(_) => {}
            None => rows.push(row),
        }
    }
    let (disk_rows, disk_violations) = self::disk(tenant, facts, disk);
    rows.extend(disk_rows);
    violations.extend(disk_violations);
    let settings = &tenant.settings.limits;
    for (key, size) in [(LimitKey::Tmp, settings.tmp_size()), (LimitKey::Shm, settings.shm_size())] {
        let Holder::Tmpfs(target) = key.holder() else { continue };
        rows.push(memory_file_system(key, target, size, jail, &mut violations));
    }
    rows.push(open_files(settings.open_files, jail, &mut violations));
    process_limits(settings, jail, &mut rows, &mut violations);
    if !jail.settings.is_empty() {
        let shown = jail.settings.iter().map(|setting| {
            let GroupSetting { file, group, value, fresh } = setting;
            format!("{file} of {group:?} is {value:?}, and {fresh:?} in a fresh group")
        });
        violations.push(finding::GROUP_SETTING.violation(finding::list(shown)));
        // A setting that belongs to no limit has no row. It marks the rows of the same controller as drift.
        for row in &mut rows {
            let is_it = |setting: &GroupSetting| {
                row.key.controller().is_some_and(|controller| setting.file.starts_with(controller))
            };
            if jail.settings.iter().any(is_it) {
                row.verdict = row.verdict.max(Verdict::Drift);
            }
        }
    }
    in_part(tenant, facts, jail, &mut rows, &mut violations);
    for limit in nominal(tenant, &controls, facts) {
        let required = host.require.contains(&limit.key.resource());
        let kind = if required { finding::LIMIT_REQUIRED } else { finding::LIMIT_NOMINAL };
        violations.push(kind.violation(format!("{}: {}", said(limit.key, limit.declared), limit.why)));
        rows.push(LimitReport {
            verdict: if required { Verdict::Drift } else { Verdict::Nominal },
            ..row(limit.key, limit.declared, None)
        });
    }
    (rows, violations)
}

/// Limits that are enforced as declared but do not cover everything. Such a row is nominal, whatever `require` lists,
/// because no host covers more.
fn in_part(
    tenant: &Tenant,
    facts: &HostFacts,
    jail: &ObservedJail,
    rows: &mut [LimitReport],
    violations: &mut Vec<Violation>,
) {
    let profile = confinement(tenant.settings.profile, jail.access);
    let limits = &tenant.settings.limits;
    let mut lower = |key: LimitKey| {
        let row = rows.iter_mut().find(|row| row.key == key);
        row.map(|row| row.verdict = row.verdict.max(Verdict::Nominal)).is_some()
    };
    if limits.memory != Bound::Unlimited {
        for (object, why) in kernel_memory::unbounded(profile, facts.controller("memory")) {
            lower(LimitKey::Memory);
            violations.push(finding::MEMORY_UNCHARGED.violation(format!("{object}: {why}")));
        }
    }
    let writes = [(LimitKey::IoWrite, limits.io_write.into()), (LimitKey::IopsWrite, limits.iops_write.into())];
    for (key, declared) in writes {
        // Without such a row nothing enforces the limit here. [`nominal`] then reports it.
        if declared != LimitValue::Unlimited && lower(key) {
            let evidence = format!("{}: {}", said(key, declared), kernel_memory::METADATA);
            violations.push(finding::METADATA_FREE.violation(evidence));
        }
    }
    for (object, why) in kernel_memory::unshared(profile) {
        violations.push(finding::POOL_SHARED.violation(format!("{object}: {why}")));
    }
    if is_of_earlier_version(profile, &jail.init) {
        let evidence = "neighbour tables: root inside has cap_net_admin, as an earlier version gave it";
        violations.push(finding::POOL_SHARED.violation(evidence.to_owned()));
    }
    let is_terminals = |mount: &&MountFact| mount.target == "/dev/pts" && mount.fs_type == "devpts";
    let bound = format!("max={TERMINALS}");
    let is_bounded = |mount: &MountFact| mount.super_options.contains(&bound);
    if profile != Profile::System && jail.mounts.iter().find(is_terminals).is_some_and(|mount| !is_bounded(mount)) {
        let evidence = format!("pseudo terminals: /dev/pts was mounted without {bound}");
        violations.push(finding::POOL_SHARED.violation(evidence));
    }
}

/// Adds the limits that the daemon enforces itself: the number of sessions of all doors, and of each door.
pub fn add_sessions(report: &mut TenantReport, tenant: &Tenant, all: SessionCount, by: &BTreeMap<Door, SessionCount>) {
    let limits = &tenant.settings.limits;
    for key in LimitKey::ALL {
        let Holder::Sessions(door) = key.holder() else { continue };
        let Some(declared) = limits.value(key) else { continue };
        let count = match door {
            None => all,
            // A door without a limit of its own has no row.
            Some(_) if declared == LimitValue::Unlimited => continue,
            Some(door) => by.get(&door).copied().unwrap_or_default(),
        };
        report.limits.push(LimitReport {
            used: Some(count.now),
            peak: Some(count.most),
            faults: Some(count.refused),
            ..row(key, declared, Some(declared))
        });
    }
}

fn row(key: LimitKey, declared: LimitValue, enforced: Option<LimitValue>) -> LimitReport {
    LimitReport { key, declared, enforced, used: None, peak: None, faults: None, verdict: Verdict::Enforced }
}

/// Formats a limit as a policy file declares it: `memory = 1G`.
fn said(key: LimitKey, declared: LimitValue) -> String {
    format!("{key} = {}", key.in_words(declared))
}

/// The row of one control. `None` for a limit that no file of the kernel holds. [`nominal`] reports such a limit when
/// it is declared.
fn control_row(control: &Control, jail: &ObservedJail, violations: &mut Vec<Violation>) -> Option<LimitReport> {
    let place = control.place.as_ref()?;
    let is_it = |fact: &&LimitFact| fact.key == control.key && fact.file == place.label();
    let (key, declared) = (control.key, control.declared);
    let Some(fact) = jail.limits.iter().find(is_it) else {
        return Some(unread(key, declared, &place.label(), violations));
    };
    let enforced = control.enforced(fact.enforced);
    let mut report =
        LimitReport { used: fact.used, peak: fact.peak, faults: fact.faults, ..row(key, declared, Some(enforced)) };
    if !place.holds(fact.enforced.map_or(Value::Unlimited, Value::Number)) {
        report.verdict = Verdict::Drift;
        violations.push(drift(key, declared, &place.label(), &key.in_words(enforced)));
    }
    Some(report)
}

/// The rows and violations of the disk quota. A tenant that is down has them too, because its files still exist.
pub(crate) fn disk(tenant: &Tenant, facts: &HostFacts, fact: Option<&DiskFact>) -> (Vec<LimitReport>, Vec<Violation>) {
    let (mut rows, mut violations) = (Vec::new(), Vec::new());
    let limits = &tenant.settings.limits;
    let Some(fact) = fact else {
        if facts.storage.quota.bounds_anything() && limits.disk != Bound::Unlimited {
            let of_it = "the quota of the tenant's storage";
            rows.push(unread(LimitKey::Disk, limits.disk.into(), of_it, &mut violations));
        }
        return (rows, violations);
    };
    let differences = DiskPlan::new(limits, facts).difference(limits, fact);
    let mut add = |key: LimitKey, declared: LimitValue, quota: &QuotaFact| {
        let enforced = disk::enforced(quota);
        let mut report = LimitReport { used: Some(quota.used), ..row(key, declared, Some(enforced)) };
        if differences.iter().any(|difference| difference.key == key) {
            report.verdict = Verdict::Drift;
            violations.push(drift(key, declared, "the quota", &key.in_words(enforced)));
        }
        let said = said(key, declared);
        let slack = if key == LimitKey::Disk { slack(limits, facts) } else { INODES_OF_SEEDS };
        match quota.hard.filter(|hard| quota.used > *hard) {
            Some(hard) if !fact.held_back && is_unexplained(quota, hard, slack) => {
                report.verdict = Verdict::Drift;
                let evidence = format!(
                    "{said}, and {} are in use, though nobody lowered the limit below what was in use",
                    quota.used
                );
                violations.push(finding::ABOVE_LIMIT.violation(evidence));
            }
            Some(_) => {
                let evidence = format!("{said}, and {} are in use", quota.used);
                violations.push(finding::OVER_LIMIT.violation(evidence));
            }
            None => {}
        }
        rows.push(report);
    };
    add(LimitKey::Disk, limits.disk.into(), &fact.bytes);
    if let Some(inodes) = &fact.inodes {
        add(LimitKey::Inodes, limits.inodes.into(), inodes);
    }
    if fact.held_back {
        let evidence = "the hard limit is what is in use, whatever is declared".to_owned();
        violations.push(finding::HELD_BACK.violation(evidence));
        rows.iter_mut().filter(|row| row.key == LimitKey::Disk).for_each(|row| row.verdict = Verdict::Drift);
    }
    if !fact.charged {
        let evidence = "the tenant's directory, or one directly in it, does not belong to its quota".to_owned();
        violations.push(finding::UNCHARGED.violation(evidence));
        rows.iter_mut().for_each(|row| row.verdict = Verdict::Breached);
    }
    (rows, violations)
}

/// The most bytes, and the most inodes, that the warden itself writes into a new tenant's directory outside any limit.
const BYTES_OF_SEEDS: u64 = 1 << 20;
const INODES_OF_SEEDS: u64 = 256;

/// The number of bytes by which use can exceed an enforced limit. One reason is data from before the limit. On btrfs,
/// another is unwritten data in memory, which counts only once it is written.
fn slack(limits: &Limits, facts: &HostFacts) -> u64 {
    match (&facts.storage.quota, limits.memory) {
        (QuotaFacts::Groups, Bound::At(memory)) => memory.0.max(BYTES_OF_SEEDS),
        (QuotaFacts::Groups, Bound::Unlimited) => u64::MAX,
        _ => BYTES_OF_SEEDS,
    }
}

/// Whether use is higher than a lowered limit explains. If the use at that time was not recorded, the lowering counts
/// as the reason.
fn is_unexplained(quota: &QuotaFact, hard: u64, slack: u64) -> bool {
    quota.lowered_at.is_some_and(|lowered_at| quota.used > lowered_at.max(hard).saturating_add(slack))
}

fn drift(key: LimitKey, declared: LimitValue, file: &str, actual: &str) -> Violation {
    finding::LIMIT_DRIFT.violation(format!("{}, but {file} has {actual}", said(key, declared)))
}

fn unread(key: LimitKey, declared: LimitValue, file: &str, violations: &mut Vec<Violation>) -> LimitReport {
    violations.push(finding::LIMIT_UNREAD.violation(format!("{}: cannot read {file}", said(key, declared))));
    LimitReport { verdict: Verdict::Drift, ..row(key, declared, None) }
}

/// The row of the size of a file system in memory.
fn memory_file_system(
    key: LimitKey,
    target: &str,
    size: ByteSize,
    jail: &ObservedJail,
    violations: &mut Vec<Violation>,
) -> LimitReport {
    let mounts = jail.mounts.iter().filter(|mount| mount.target == target && mount.fs_type == "tmpfs");
    // The first mount is the one from the start of the jail. A tenant's own mount over it does not change the limit.
    let Some(actual) = mounts.filter_map(MountFact::tmpfs_size).next() else {
        return unread(key, size.into(), &format!("the size of {target}"), violations);
    };
    let mut report = row(key, size.into(), Some(ByteSize::from(actual).into()));
    if actual != TmpfsSize::from(size) {
        report.verdict = Verdict::Drift;
        violations.push(drift(key, size.into(), target, &actual.to_string()));
    }
    report
}

/// Checks the limits of each process. The limit of open files may not exceed the declared number. The limit of core
/// dumps must be exactly as planned: below 1 byte the kernel starts the host's crash handler.
fn process_limits(limits: &Limits, jail: &ObservedJail, rows: &mut [LimitReport], violations: &mut Vec<Violation>) {
    for rlimit in rlimits(limits) {
        let (word, of): (&str, fn(&ProcessRank) -> Option<u64>) = match rlimit {
            Rlimit::OpenFiles(_) => (LimitKey::OpenFiles.word(), |rank| rank.open_files),
            Rlimit::NoCore => ("core", |rank| rank.core),
        };
        let most = rlimit.value();
        let (is_wrong, how): (fn(u64, u64) -> bool, &str) = match rlimit {
            Rlimit::OpenFiles(_) => (|actual, most| actual > most, "above"),
            Rlimit::NoCore => (|actual, most| actual != most, "other than"),
        };
        let is_other = |process: &&ProcessFacts| {
            process.rank.as_ref().is_some_and(|rank| of(rank).is_none_or(|actual| is_wrong(actual, most)))
        };
        let others: Vec<String> = everybody(jail).filter(is_other).map(shown).collect();
        if !others.is_empty() {
            let others = finding::list(others.into_iter());
            violations
                .push(finding::PROCESS_LIMIT.violation(format!("{word} {how} {most}: {others} (/proc/PID/limits)")));
            rows.iter_mut().filter(|row| row.key == LimitKey::OpenFiles).for_each(|row| row.verdict = Verdict::Drift);
        }
    }
}

/// The row of open files: init's hard limit, which every process inside inherits. A process with a lower limit has
/// lowered it itself.
fn open_files(declared: u64, jail: &ObservedJail, violations: &mut Vec<Violation>) -> LimitReport {
    let (key, file) = (LimitKey::OpenFiles, "/proc/PID/limits");
    let Some(fact) = jail.limits.iter().find(|fact| fact.key == key) else {
        return unread(key, declared.into(), file, violations);
    };
    let enforced = LimitValue::from(fact.enforced);
    let mut report = row(key, declared.into(), Some(enforced));
    if fact.enforced != Some(declared) {
        report.verdict = Verdict::Drift;
        violations.push(drift(key, declared.into(), file, &key.in_words(enforced)));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::{CpuShare, SoftHard};

    #[test]
    fn headroom_is_what_is_free() {
        let cases = [
            (LimitKey::Memory, ByteSize(1 << 30).into(), Some(1 << 29), Some(1 << 29)),
            (LimitKey::Disk, SoftHard { soft: 10_u64 << 30, hard: 11 << 30 }.into(), Some(12 << 30), Some(0)),
            (LimitKey::Swap, LimitValue::WithMemory(2 << 30), Some(1 << 30), Some(1 << 30)),
            (LimitKey::Tasks, 100_u64.into(), Some(1), Some(99)),
            (LimitKey::SessionsSsh, 3_u64.into(), Some(1), Some(2)),
            (LimitKey::Memory, LimitValue::Unlimited, Some(1), None),
            (LimitKey::IoRead, ByteSize(1 << 20).into(), Some(1), None),
            (LimitKey::Cpu, CpuShare(100_000).into(), None, None),
        ];
        for (key, declared, used, golden) in cases {
            let (enforced, verdict) = (Some(declared), Verdict::Enforced);
            let report = LimitReport { key, declared, enforced, used, peak: None, faults: None, verdict };
            assert_eq!(report.headroom(), golden, "{key} = {}", key.in_words(declared));
        }
    }
}
