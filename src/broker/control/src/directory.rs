//! The warden's last report of each tenant: what a session needs to know without waiting for the warden.

use bailiwick_proto::warden::RosterEntry;
use bailiwick_types::{FrozenBy, HostUid, IdPool, IdRange, TenantName};
use std::collections::BTreeMap;

/// What is known of one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) ids: IdRange,
    /// The init of the jail, as the host counts; `None` if the jail was down.
    pub(crate) pid: Option<u32>,
    /// The control groups by hierarchy. Empty if the jail was down at the last report. They are the same whenever it
    /// runs.
    pub(crate) cgroups: BTreeMap<String, String>,
    /// Who had the jail frozen. Then no process in it runs, and its init cannot answer.
    pub(crate) frozen: Option<FrozenBy>,
}

/// All tenants.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    tenants: BTreeMap<TenantName, Known>,
    /// Tenants by the first id of their range.
    owners: BTreeMap<u32, TenantName>,
}

impl Directory {
    /// Stores the warden's entry of one tenant.
    pub(crate) fn put(&mut self, name: &TenantName, entry: &RosterEntry) {
        self.remove(name);
        self.owners.insert(entry.ids.first, name.clone());
        let RosterEntry { ids, pid, cgroups, .. } = entry;
        let known = Known { ids: *ids, pid: *pid, cgroups: cgroups.clone(), frozen: entry.frozen() };
        self.tenants.insert(name.clone(), known);
    }

    /// Forgets a tenant that has no ids any more.
    pub(crate) fn remove(&mut self, name: &TenantName) {
        if let Some(known) = self.tenants.remove(name) {
            self.owners.remove(&known.ids.first);
        }
    }

    /// Replaces all entries by a roster.
    pub(crate) fn replace(&mut self, roster: &BTreeMap<TenantName, RosterEntry>) {
        *self = Self::default();
        roster.iter().for_each(|(name, entry)| self.put(name, entry));
    }

    /// The tenants whose jail runs and is not frozen, so its init can answer.
    pub(crate) fn awake(&self) -> impl Iterator<Item = (&TenantName, &Known)> {
        self.tenants.iter().filter(|(_, known)| known.pid.is_some() && known.frozen.is_none())
    }

    /// The tenants whose jail runs, and those that are frozen because they are idle.
    pub(crate) fn running(&self) -> impl Iterator<Item = (&TenantName, &Known)> {
        let is_meant = |known: &Known| known.pid.is_some() && known.frozen != Some(FrozenBy::Operator);
        self.tenants.iter().filter(move |(_, known)| is_meant(known))
    }

    /// Whether the jail of a tenant was down.
    pub(crate) fn is_down(&self, name: &TenantName) -> bool {
        self.tenants.get(name).is_some_and(|known| known.pid.is_none())
    }

    /// Who had the jail of a tenant frozen; `None` if it was not frozen.
    pub(crate) fn frozen(&self, name: &TenantName) -> Option<FrozenBy> {
        self.tenants.get(name).and_then(|known| known.frozen)
    }

    /// Notes that a jail was frozen, or thawed.
    pub(crate) fn note_frozen(&mut self, name: &TenantName, frozen: Option<FrozenBy>) {
        if let Some(known) = self.tenants.get_mut(name) {
            known.frozen = frozen;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    pub(crate) fn get(&self, name: &TenantName) -> Option<&Known> {
        self.tenants.get(name)
    }

    /// The tenant that a host id belongs to, by its range or its host user.
    pub(crate) fn owner(&self, uid: u32, pool: IdPool) -> Option<&TenantName> {
        let (_, name) = match self.owners.range(..=uid).next_back() {
            Some((first, name)) if self.tenants.get(name)?.ids.contains(uid) => (first, name),
            _ => self.owners.get_key_value(&pool.range_of_host_user(HostUid(uid))?.first)?,
        };
        Some(name)
    }
}

/// The entry of a tenant that is down, for tests.
#[cfg(test)]
pub(crate) fn entry_of(ids: IdRange) -> RosterEntry {
    RosterEntry {
        host_sockets: Default::default(),
        ids,
        pid: None,
        access: None,
        frozen: false,
        frozen_by: FrozenBy::Operator,
        clearing: false,
        preparing: false,
        held: false,
        host_user: true,
        cgroups: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_of_who_has_it_and_of_nobody_else() {
        let pool = IdPool::new(200_000, 65_536).expect("valid");
        let range = |index| pool.range(index).expect("a range");
        let name = |text: &str| text.parse::<TenantName>().expect("a name");
        let mut directory = Directory::default();
        directory.replace(&[(name("alice"), entry_of(range(0))), (name("carol"), entry_of(range(2)))].into());
        let owner = |directory: &Directory, uid| directory.owner(uid, pool).map(ToString::to_string);
        for (ids, golden) in [(range(0), Some("alice")), (range(1), None), (range(2), Some("carol"))] {
            for uid in [ids.first, ids.first + ids.count - 1, pool.host_user(ids).0] {
                assert_eq!(owner(&directory, uid).as_deref(), golden, "{uid}");
            }
        }
        for uid in [0, 1000, pool.host_users() - 1, range(2).first + 65_536, u32::MAX - 1] {
            assert_eq!(owner(&directory, uid), None, "{uid}");
        }
        // These ids were given back, and given to another tenant.
        directory.put(&name("carol"), &entry_of(range(1)));
        assert_eq!(owner(&directory, range(2).first), None);
        assert_eq!(owner(&directory, pool.host_user(range(1)).0).as_deref(), Some("carol"));
        directory.remove(&name("carol"));
        assert_eq!(owner(&directory, range(1).first), None);
        assert_eq!(directory.get(&name("carol")), None);
        directory.put(&name("carol"), &RosterEntry { frozen: true, ..entry_of(range(1)) });
        assert_eq!(
            (directory.frozen(&name("carol")), directory.frozen(&name("alice"))),
            (Some(FrozenBy::Operator), None)
        );
        assert!(directory.is_down(&name("alice")) && !directory.is_down(&name("dave")));
        directory.put(&name("alice"), &RosterEntry { pid: Some(1), ..entry_of(range(0)) });
        assert_eq!(directory.awake().map(|(name, _)| name).collect::<Vec<_>>(), [&name("alice")]);
    }
}
