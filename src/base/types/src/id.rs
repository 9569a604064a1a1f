//! User and group ids of the host, and the ranges of ids of tenants.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A user id in the host's initial user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostUid(pub u32);

/// A group id in the host's initial user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostGid(pub u32);

impl fmt::Display for HostUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for HostGid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A range of host ids that belongs to one tenant. Id 0 inside the jail is `first` on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IdRange {
    /// The host id of the jail's id 0.
    pub first: u32,
    /// The number of ids.
    pub count: u32,
}

impl IdRange {
    /// The host id of the jail's root. It also owns the jail's user namespace (`user_namespaces(7)`). So the kernel's
    /// limits for each user count against the tenant, and never against the host's root.
    #[must_use]
    pub fn root_uid(self) -> HostUid {
        HostUid(self.first)
    }

    /// The host group id of the jail's group 0.
    #[must_use]
    pub fn root_gid(self) -> HostGid {
        HostGid(self.first)
    }

    /// Whether a host id belongs to the range.
    #[must_use]
    pub fn contains(self, id: u32) -> bool {
        id.checked_sub(self.first).is_some_and(|offset| offset < self.count)
    }
}

/// The number of ids of a tenant unless `ids.per_tenant` has another value. The userland of a distribution expects that
/// many.
pub const IDS_PER_TENANT: u32 = 65_536;

/// Ids below this belong to the host's own users.
const HOST_IDS: u32 = 100_000;
/// The number of ids below the pool for the host users of tenants: one for each range of 65,536 ids in 32 bits.
const HOST_USERS: u32 = 65_536;

/// The ids that tenants' ranges are taken from. The ids directly below it are for the tenants' host users, one for each
/// range. So no process of the host ever has an id of a jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdPool {
    first: u32,
    per_tenant: u32,
}

/// Why two numbers do not form a pool of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdPoolError {
    /// The pool would contain ids of the host's own users.
    #[error(
        "the first id must be at least 165536, not {0}: the 65536 below it are tenants' host users, and those below 100000 are the host's"
    )]
    First(u32),
    /// The pool has no space for one range.
    #[error("the first id must be at most 4294901758, not {0}: a tenant's 65536 ids must fit below 4294967295")]
    Last(u32),
    /// A tenant would have too few ids for `nobody`, or more than are useful.
    #[error("a tenant needs 65536 ids (so that \"nobody\", 65534, exists inside), not {0}")]
    PerTenant(u32),
}

impl IdPool {
    /// A pool that starts at host id `first` and gives each tenant `per_tenant` ids.
    ///
    /// # Errors
    /// Refuses ranges that touch the host's own users, and any `per_tenant` but 65,536.
    pub fn new(first: u32, per_tenant: u32) -> Result<Self, IdPoolError> {
        if first < HOST_IDS + HOST_USERS {
            return Err(IdPoolError::First(first));
        }
        if first.checked_add(IDS_PER_TENANT).is_none_or(|end| end == u32::MAX) {
            return Err(IdPoolError::Last(first));
        }
        if per_tenant != IDS_PER_TENANT {
            return Err(IdPoolError::PerTenant(per_tenant));
        }
        Ok(Self { first, per_tenant })
    }

    /// The first host id of the pool.
    #[must_use]
    pub fn first(self) -> u32 {
        self.first
    }

    /// The number of ids of a tenant.
    #[must_use]
    pub fn per_tenant(self) -> u32 {
        self.per_tenant
    }

    /// The id of the host user of the tenant that has this range.
    #[must_use]
    pub fn host_user(self, range: IdRange) -> HostUid {
        HostUid(self.host_users() + self.number(range))
    }

    /// The number of a range of this pool, which is the index for [`Self::range`].
    #[must_use]
    pub fn number(self, range: IdRange) -> u32 {
        (range.first - self.first) / self.per_tenant
    }

    /// The range that belongs to the id of a host user: the reverse of [`Self::host_user`]. The range may belong to no
    /// tenant yet.
    #[must_use]
    pub fn range_of_host_user(self, user: HostUid) -> Option<IdRange> {
        let index = user.0.checked_sub(self.host_users()).filter(|index| *index < HOST_USERS)?;
        self.range(index)
    }

    /// The first of the 65,536 ids of host users.
    #[must_use]
    pub fn host_users(self) -> u32 {
        self.first - HOST_USERS
    }

    /// How many ranges there are.
    #[must_use]
    pub fn ranges(self) -> u32 {
        (u32::MAX - 1 - self.first) / self.per_tenant
    }

    /// The range with this index; `None` if it passes the last id. The kernel uses 4294967295 as "no id", so no range
    /// contains it.
    #[must_use]
    pub fn range(self, index: u32) -> Option<IdRange> {
        let first = self.first.checked_add(index.checked_mul(self.per_tenant)?)?;
        let end = first.checked_add(self.per_tenant)?;
        (end < u32::MAX).then_some(IdRange { first, count: self.per_tenant })
    }
}

impl Default for IdPool {
    fn default() -> Self {
        Self { first: 10_000_000, per_tenant: IDS_PER_TENANT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_disjoint_and_end_before_the_invalid_id() {
        let pool = IdPool::new(10_000_000, 65_536).expect("valid");
        let a = pool.range(0).expect("first");
        let b = pool.range(1).expect("second");
        assert_eq!(a.first + a.count, b.first);
        assert!(a.contains(10_065_535) && !a.contains(10_065_536) && !a.contains(9_999_999));
        assert_eq!(pool.range(u32::MAX), None);
        for first in [165_536, 10_000_000, 4_294_901_758, 4_294_901_758 - 65_536, 4_294_901_758 - 65_535] {
            let pool = IdPool::new(first, 65_536).expect("valid");
            assert!(pool.range(pool.ranges() - 1).is_some() && pool.range(pool.ranges()).is_none(), "{first}");
        }
        for first in [u32::MAX - 65_536, u32::MAX - 65_535, u32::MAX] {
            assert_eq!(
                IdPool::new(first, 65_536),
                Err(IdPoolError::Last(first)),
                "4294967295 must never be inside a range"
            );
        }
        let high = IdPool::new(4_294_901_758, 65_536).expect("valid");
        assert!(high.range(0).is_some() && high.range(1).is_none());
    }

    #[test]
    fn host_users_are_one_each_and_in_nobodys_range() {
        let pool = IdPool::new(165_536, 65_536).expect("valid");
        let (mut index, mut last) = (0, None);
        while let Some(range) = pool.range(index) {
            let user = pool.host_user(range);
            assert!(Some(user) > last && user.0 >= 100_000 && user.0 < pool.first());
            assert_eq!(pool.range_of_host_user(user), Some(range));
            (index, last) = (index + 1, Some(user));
        }
        assert_eq!(pool.host_users(), 100_000);
    }

    #[test]
    fn refuses_the_hosts_own_ids() {
        assert_eq!(IdPool::new(165_535, 65_536), Err(IdPoolError::First(165_535)));
        assert_eq!(IdPool::new(0, 65_536), Err(IdPoolError::First(0)));
        assert_eq!(IdPool::new(1_000_000, 10), Err(IdPoolError::PerTenant(10)));
    }
}
