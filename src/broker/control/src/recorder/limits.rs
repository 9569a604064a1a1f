//! Which limits tenants are near, have hit, and are well below again; and how they use their disk.

use super::*;
use crate::outbox::{DISK, SOFT};
use bailiwick_types::{EventData, EventType, EventValue, Kind, QuotaFact};

/// From this share of a limit on a tenant is near it, and below this one it is clear of it again, in per cent.
const NEAR: u64 = 90;
const CLEAR: u64 = 80;
/// Before the word of a limit.
const LIMIT: &str = "limit:";
const NEAR_IT: &str = "near";
const REACHED: &str = "reached";
const GRACE: &str = "grace";
const HARD: &str = "hard";

/// The measure whose level says how much of a limit is used. For memory it is what the kernel cannot take back: a
/// tenant that reads many files is short of nothing.
fn level(limit: LimitKey, usage: &Usage) -> Option<u64> {
    let measure = limit.measure().filter(|measure| measure.kind() == Kind::Level)?;
    let used = if measure == Measure::Memory { usage.get(Measure::MemoryUsed) } else { None };
    used.or(usage.get(measure))
}

fn has_level(limit: LimitKey) -> bool {
    limit.measure().is_some_and(|measure| measure.kind() == Kind::Level)
}

fn values(limit: LimitKey, used: Option<u64>, bound: Option<u64>) -> EventData {
    let mut data = EventData::from([("limit".to_owned(), EventValue::text(limit.word()))]);
    data.extend(used.map(|used| ("used".to_owned(), EventValue::from(used))));
    data.extend(bound.map(|bound| ("bound".to_owned(), EventValue::from(bound))));
    data
}

/// Where a quota stands: above its soft limit, past its grace period, or at its hard limit.
fn quota_state(quota: &QuotaFact, at: Moment) -> Option<&'static str> {
    let is_over = |bound: Option<u64>| bound.is_some_and(|bound| bound > 0 && quota.used >= bound);
    if is_over(quota.hard) {
        Some(HARD)
    } else if quota.soft.is_none_or(|soft| soft == 0 || quota.used <= soft) || quota.soft == quota.hard {
        None
    } else if quota.grace_until.is_some_and(|until| until > 0 && until <= at.0) {
        Some(GRACE)
    } else {
        Some(SOFT)
    }
}

impl RecorderState {
    /// Tells that a tenant has hit a limit. Reclaim at `memory_high` and processor throttling are the normal effect of
    /// those limits.
    pub(super) fn tell_of_fault(&self, tenant: &TenantName, limit: LimitKey) {
        if !matches!(limit, LimitKey::Cpu | LimitKey::MemoryHigh) {
            let subject = format!("{LIMIT}{limit}");
            let event = |_: Option<&str>| (EventType::LimitReached, values(limit, None, None));
            self.sources.outbox.observe(Some(tenant), &subject, Some(REACHED), event);
        }
    }

    /// Tells which limits tenants are near or clear of, after a sample, and where their disks stand.
    pub(super) fn tell_of_limits(&self, samples: &BTreeMap<TenantName, Sample>) {
        let outbox = &self.sources.outbox;
        let told = outbox.told();
        // Few limits have a level, and few of the others were told of.
        let told_of = |tenant: &TenantName, limit: LimitKey| {
            told.get(&(Some(tenant.clone()), format!("{LIMIT}{limit}"))).map(String::as_str)
        };
        let mut hit: BTreeMap<&TenantName, BTreeSet<LimitKey>> = BTreeMap::new();
        for (tenant, subject) in told.keys() {
            let limit = subject.strip_prefix(LIMIT).and_then(|word| word.parse().ok());
            if let (Some(tenant), Some(limit)) = (tenant, limit) {
                hit.entry(tenant).or_default().insert(limit);
            }
        }
        let levels = LimitKey::ALL.into_iter().filter(|limit| has_level(*limit));
        let levels: Vec<LimitKey> = levels.collect();
        for (tenant, sample) in samples {
            let bounds = self.sources.policy.limits(tenant);
            let others = hit.get(tenant).into_iter().flatten().filter(|limit| !has_level(**limit));
            for limit in levels.iter().chain(others).copied() {
                let subject = format!("{LIMIT}{limit}");
                let before = told_of(tenant, limit);
                let value = bounds.as_ref().and_then(|limits| limits.value(limit));
                let bound = value.and_then(|value| limit.bound(value)).map(|(_, bound)| bound);
                let used = level(limit, &sample.usage);
                let share = used.zip(bound).map(|(used, bound)| u128::from(used) * 100 / u128::from(bound.max(1)));
                let is_hit = self.incidents.is_open(tenant, IncidentKind::Limit(limit));
                if before.is_none() && share.is_some_and(|share| share >= u128::from(NEAR)) {
                    let event = |_: Option<&str>| (EventType::LimitNear, values(limit, used, bound));
                    outbox.observe(Some(tenant), &subject, Some(NEAR_IT), event);
                } else if before.is_some() && !is_hit && share.is_none_or(|share| share < u128::from(CLEAR)) {
                    let event = |_: Option<&str>| (EventType::LimitCleared, values(limit, used, bound));
                    outbox.observe(Some(tenant), &subject, None, event);
                }
            }
        }
        for (tenant, disk) in &self.disks {
            // With the host's reserve reached, the hard limit is the use of every tenant.
            if disk.held_back {
                continue;
            }
            let quotas = [(LimitKey::Disk, Some(&disk.bytes)), (LimitKey::Inodes, disk.inodes.as_ref())];
            for (limit, quota) in quotas {
                let Some(quota) = quota else { continue };
                let state = quota_state(quota, now());
                let kind = match state {
                    Some(SOFT) => EventType::DiskSoft,
                    Some(GRACE) => EventType::DiskGrace,
                    Some(_) => EventType::DiskHard,
                    None => EventType::DiskCleared,
                };
                let bound = if state == Some(HARD) { quota.hard } else { quota.soft.or(quota.hard) };
                let event = |_: Option<&str>| (kind, values(limit, Some(quota.used), bound));
                outbox.observe(Some(tenant), &format!("{DISK}{limit}"), state, event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_stands_where_the_kernel_counts_it() {
        let quota =
            |used, grace_until| QuotaFact { used, soft: Some(100), hard: Some(110), grace_until, lowered_at: None };
        let at = Moment(1000);
        for (used, until, golden) in [
            (0, None, None),
            (100, None, None),
            (101, Some(1001), Some(SOFT)),
            (101, Some(1000), Some(GRACE)),
            (110, Some(1001), Some(HARD)),
            (u64::MAX, None, Some(HARD)),
        ] {
            assert_eq!(quota_state(&quota(used, until), at), golden, "{used}");
        }
        let one = QuotaFact { soft: Some(110), ..quota(105, None) };
        assert_eq!(quota_state(&one, at), None);
        let none = QuotaFact { soft: None, hard: None, ..quota(105, None) };
        assert_eq!(quota_state(&none, at), None);
        let zero = QuotaFact { soft: Some(0), hard: Some(0), ..quota(0, None) };
        assert_eq!(quota_state(&zero, at), None, "no limit");
    }

    #[test]
    fn page_cache_brings_nobody_near_a_limit() {
        let usage = |memory, used: Option<u64>| {
            let used = used.map(|used| (Measure::MemoryUsed, used));
            Usage([(Measure::Memory, memory), (Measure::Cpu, 5)].into_iter().chain(used).collect())
        };
        assert_eq!(level(LimitKey::Memory, &usage(100, Some(7))), Some(7));
        assert_eq!(level(LimitKey::Memory, &usage(100, None)), Some(100));
        assert_eq!(level(LimitKey::Cpu, &usage(1, None)), None, "a sum is no level");
    }
}
