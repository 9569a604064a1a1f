//! The disk limits of a tenant as a quota (`quotactl(2)`; btrfs documentation, "Quota groups").

use bailiwick_types::{ByteSize, DiskFact, HostFacts, LimitKey, LimitValue, Limits, QuotaFact, QuotaFacts, SoftHard};

/// The quota of one tenant. `None` is a resource without a bound; its use is still counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskPlan {
    /// Bytes, rounded down to whole kibibytes, the kernel's unit.
    pub bytes: Option<SoftHard<u64>>,
    /// Inodes.
    pub inodes: Option<SoftHard<u64>>,
    /// How many seconds the use may exceed a soft bound.
    pub grace: u64,
}

/// A part of the disk limits that differs from what the kernel enforces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskDifference {
    /// Which limit.
    pub key: LimitKey,
    /// The value that the kernel enforces.
    pub actual: LimitValue,
    /// The value that the policy declares.
    pub declared: LimitValue,
}

impl DiskPlan {
    /// The quota to enforce on this host.
    #[must_use]
    pub fn new(limits: &Limits, facts: &HostFacts) -> Self {
        let soft_too = facts.storage.quota == QuotaFacts::Projects;
        let bytes = limits.disk.value().map(|disk| SoftHard {
            // On a host without soft bounds, a hard bound must not get the lower value of the soft one.
            soft: if soft_too { kibibytes(disk.soft) } else { kibibytes(disk.hard) },
            hard: kibibytes(disk.hard),
        });
        let inodes = limits.inodes.value().map(|inodes| SoftHard { soft: inodes.soft.0, hard: inodes.hard.0 });
        let enforced = |bound| if facts.storage.quota.bounds_anything() { bound } else { None };
        Self { bytes: enforced(bytes), inodes: if soft_too { inodes } else { None }, grace: limits.disk_grace.0 }
    }

    /// The differences between this plan and the kernel's quota. A difference of up to 64 KiB does not count,
    /// because the kernel may round up to a block of the file system.
    #[must_use]
    pub fn difference(&self, limits: &Limits, fact: &DiskFact) -> Vec<DiskDifference> {
        let mut found = Vec::new();
        if fact.held_back {
            return found;
        }
        if !close(self.bytes, &fact.bytes, 64 << 10) {
            let (actual, declared) = (enforced(&fact.bytes), limits.disk.into());
            found.push(DiskDifference { key: LimitKey::Disk, actual, declared });
        }
        if let Some(inodes) = &fact.inodes
            && !close(self.inodes, inodes, 0)
        {
            let (actual, declared) = (enforced(inodes), limits.inodes.into());
            found.push(DiskDifference { key: LimitKey::Inodes, actual, declared });
        }
        found
    }
}

/// The value that the kernel enforces, in the unit of the limit.
#[must_use]
pub fn enforced(fact: &QuotaFact) -> LimitValue {
    pair(fact).into()
}

/// The pair of bounds. A soft bound alone has no hard bound above it. A hard bound alone counts as both.
fn pair(fact: &QuotaFact) -> Option<SoftHard<u64>> {
    match (fact.soft, fact.hard) {
        (None, None) => None,
        (Some(soft), None) => Some(SoftHard { soft, hard: u64::MAX }),
        (None, Some(hard)) => Some(SoftHard { soft: hard, hard }),
        (Some(soft), Some(hard)) => Some(SoftHard { soft, hard }),
    }
}

fn close(want: Option<SoftHard<u64>>, fact: &QuotaFact, slack: u64) -> bool {
    match (want, pair(fact)) {
        (None, None) => true,
        (Some(want), Some(got)) => got.soft.abs_diff(want.soft) <= slack && got.hard.abs_diff(want.hard) <= slack,
        _ => false,
    }
}

fn kibibytes(size: ByteSize) -> u64 {
    size.0 / 1024 * 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::{Bound, StorageFacts};

    fn facts(quota: QuotaFacts) -> HostFacts {
        HostFacts {
            kernel: String::new(),
            landlock_abi: 7,
            controllers: Default::default(),
            root_links: Default::default(),
            host_etc: Vec::new(),
            unlisted: Vec::new(),
            storage: StorageFacts { fs_type: "xfs".to_owned(), quota, devices: Vec::new() },
        }
    }

    fn limits() -> Limits {
        Limits {
            disk: Bound::At("10G:11G".parse().expect("a pair")),
            inodes: Bound::At("200k".parse().expect("a count")),
            ..Limits::default()
        }
    }

    #[test]
    fn what_a_host_does_not_know_is_not_planned() {
        let projects = DiskPlan::new(&limits(), &facts(QuotaFacts::Projects));
        assert_eq!(projects.bytes, Some(SoftHard { soft: 10 << 30, hard: 11 << 30 }));
        assert_eq!(projects.inodes, Some(SoftHard { soft: 200_000, hard: 200_000 }));
        let groups = DiskPlan::new(&limits(), &facts(QuotaFacts::Groups));
        assert_eq!(groups.bytes, Some(SoftHard { soft: 11 << 30, hard: 11 << 30 }));
        assert_eq!(groups.inodes, None);
        let nothing = QuotaFacts::Nothing { why: String::new(), remedy: String::new() };
        let none = DiskPlan::new(&limits(), &facts(nothing));
        assert_eq!((none.bytes, none.inodes), (None, None));
    }

    #[test]
    fn a_block_more_is_no_difference_and_a_missing_limit_is() {
        let plan = DiskPlan::new(&limits(), &facts(QuotaFacts::Projects));
        let quota = |soft, hard| QuotaFact { used: 0, soft, hard, grace_until: None, lowered_at: None };
        let inodes = quota(Some(200_000), Some(200_000));
        let fact = |bytes| DiskFact { bytes, inodes: Some(inodes), charged: true, held_back: false };
        let same = fact(quota(Some(10 << 30), Some((11 << 30) + 4096)));
        assert_eq!(plan.difference(&limits(), &same), []);
        let gone = plan.difference(&limits(), &fact(quota(None, None)));
        assert_eq!((gone[0].key, gone[0].actual), (LimitKey::Disk, LimitValue::Unlimited));
        let other = plan.difference(&limits(), &fact(quota(Some(1 << 30), Some(11 << 30))));
        assert_eq!(other[0].key.in_words(other[0].actual), "1G:11G");
        assert_eq!(other[0].key.in_words(other[0].declared), "10G:11G");
    }
}
