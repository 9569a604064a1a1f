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
    /// When it was asked for.
    asked: Asked,
}

/// Orders what the warden was asked for. A reply may arrive after a later one, or after a change that it does not show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked(u64);

/// All tenants.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    tenants: BTreeMap<TenantName, Known>,
    /// Tenants by the first id of their range.
    owners: BTreeMap<u32, TenantName>,
    /// Tenants that had no ids, by the last reply about each.
    gone: BTreeMap<TenantName, Asked>,
    last: Asked,
}

impl Directory {
    /// Takes a number before the warden is asked.
    pub(crate) fn ask(&mut self) -> Asked {
        self.last.0 += 1;
        self.last
    }

    /// Stores the warden's entry of one tenant, unless something newer is known.
    pub(crate) fn put(&mut self, name: &TenantName, entry: &RosterEntry, asked: Asked) {
        if self.knows_newer(name, asked) {
            return;
        }
        self.forget(name);
        self.gone.remove(name);
        self.owners.insert(entry.ids.first, name.clone());
        let RosterEntry { ids, pid, cgroups, .. } = entry;
        let known = Known { ids: *ids, pid: *pid, cgroups: cgroups.clone(), frozen: entry.frozen(), asked };
        self.tenants.insert(name.clone(), known);
    }

    /// Stores an entry that the warden has just sent, for tests.
    #[cfg(test)]
    pub(crate) fn learn(&mut self, name: &TenantName, entry: &RosterEntry) {
        let asked = self.ask();
        self.put(name, entry, asked);
    }

    /// Forgets a tenant that has no ids any more.
    pub(crate) fn remove(&mut self, name: &TenantName, asked: Asked) {
        if !self.knows_newer(name, asked) {
            self.forget(name);
            self.gone.insert(name.clone(), asked);
        }
    }

    /// Replaces by a roster all entries that are not newer.
    pub(crate) fn replace(&mut self, roster: &BTreeMap<TenantName, RosterEntry>, asked: Asked) {
        self.gone.retain(|_, gone| *gone > asked);
        self.tenants.retain(|_, known| known.asked > asked);
        let owner = |(name, known): (&TenantName, &Known)| (known.ids.first, name.clone());
        self.owners = self.tenants.iter().map(owner).collect();
        roster.iter().for_each(|(name, entry)| self.put(name, entry, asked));
    }

    fn knows_newer(&self, name: &TenantName, asked: Asked) -> bool {
        let known = self.tenants.get(name).map(|known| known.asked);
        known.max(self.gone.get(name).copied()).is_some_and(|known| known > asked)
    }

    fn forget(&mut self, name: &TenantName) {
        if let Some(known) = self.tenants.remove(name) {
            self.owners.remove(&known.ids.first);
        }
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
        let asked = self.ask();
        if let Some(known) = self.tenants.get_mut(name) {
            (known.frozen, known.asked) = (frozen, asked);
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
        let asked = directory.ask();
        directory.replace(&[(name("alice"), entry_of(range(0))), (name("carol"), entry_of(range(2)))].into(), asked);
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
        directory.put(&name("carol"), &entry_of(range(1)), asked);
        assert_eq!(owner(&directory, range(2).first), None);
        assert_eq!(owner(&directory, pool.host_user(range(1)).0).as_deref(), Some("carol"));
        directory.remove(&name("carol"), asked);
        assert_eq!(owner(&directory, range(1).first), None);
        assert_eq!(directory.get(&name("carol")), None);
        directory.put(&name("carol"), &RosterEntry { frozen: true, ..entry_of(range(1)) }, asked);
        assert_eq!(
            (directory.frozen(&name("carol")), directory.frozen(&name("alice"))),
            (Some(FrozenBy::Operator), None)
        );
        assert!(directory.is_down(&name("alice")) && !directory.is_down(&name("dave")));
        directory.put(&name("alice"), &RosterEntry { pid: Some(1), ..entry_of(range(0)) }, asked);
        assert_eq!(directory.awake().map(|(name, _)| name).collect::<Vec<_>>(), [&name("alice")]);
    }
    #[test]
    fn a_reply_that_is_late_replaces_nothing_newer() {
        let pool = IdPool::new(200_000, 65_536).expect("valid");
        let name = |text: &str| text.parse::<TenantName>().expect("a name");
        let down = |index| entry_of(pool.range(index).expect("a range"));
        let up = |index| RosterEntry { pid: Some(7), ..down(index) };
        let roster: BTreeMap<_, _> =
            [(name("alice"), up(0)), (name("bob"), up(1)), (name("carol"), up(2)), (name("dave"), up(3))].into();
        let mut directory = Directory::default();
        let first = directory.ask();
        directory.replace(&roster, first);
        let early = directory.ask();
        // Meanwhile alice falls asleep, bob is frozen, carol is purged, and erin is new.
        let asked = directory.ask();
        directory.put(&name("alice"), &down(0), asked);
        directory.note_frozen(&name("bob"), Some(FrozenBy::Idle));
        directory.remove(&name("carol"), asked);
        directory.put(&name("erin"), &up(4), asked);
        for _ in 0..2 {
            directory.replace(&roster, early);
            assert!(directory.is_down(&name("alice")), "it is asleep, and a connection must wake it");
            assert_eq!(directory.frozen(&name("bob")), Some(FrozenBy::Idle));
            assert_eq!((directory.get(&name("carol")), directory.owner(up(2).ids.first, pool)), (None, None));
            assert_eq!(directory.owner(up(4).ids.first, pool), Some(&name("erin")));
            assert_eq!(directory.get(&name("dave")).and_then(|known| known.pid), Some(7));
        }
        directory.put(&name("alice"), &up(0), early);
        assert!(directory.is_down(&name("alice")));
        let late = directory.ask();
        directory.replace(&roster, late);
        let all: Vec<_> = directory.awake().map(|(name, _)| name.as_str()).collect();
        assert_eq!(all, ["alice", "bob", "carol", "dave"]);
    }
}
