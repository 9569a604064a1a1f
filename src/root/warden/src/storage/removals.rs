//! The removal of data that was set aside, and the ids of data that an earlier warden set aside.

use crate::storage::grave;
use crate::storage::purge::{Removal, Slice};
use bailiwick_types::{IdRange, TenantName};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a purge request waits for the end.
pub(crate) const PURGE_TIME: Duration = Duration::from_secs(5);
/// How long a removal works in one turn of the loop.
const SLICE_TIME: Duration = Duration::from_millis(5);

/// The state of a tenant's purge.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PurgeState {
    /// Nothing is left.
    Gone,
    GoesOn,
    /// Nothing more can be removed now, for these reasons; it is tried again.
    Stuck(String),
}

/// The result of a turn of the loop.
pub(crate) enum Turn {
    Nothing,
    /// Something cannot be removed, for the first time.
    Stuck {
        grave: String,
        why: String,
    },
    /// Nothing is left under this name. The caller frees its ids, or calls [`Removals::keep`].
    Gone(String),
}

/// All removals, by the name of what was set aside.
#[derive(Debug, Default)]
pub(crate) struct Removals(BTreeMap<String, Removal>);

impl Removals {
    pub(crate) fn add(&mut self, grave: &str, removal: Removal) {
        self.0.insert(grave.to_owned(), removal);
    }

    /// Ends a removal; returns whether it was the last.
    pub(crate) fn end(&mut self, grave: &str) -> bool {
        self.0.remove(grave);
        self.0.is_empty()
    }

    /// Nothing is left under a name, but its ids cannot be freed yet. Returns whether to log this.
    pub(crate) fn keep(&mut self, grave: &str, why: &str) -> bool {
        let Some(removal) = self.0.get_mut(grave) else { return false };
        let was_stuck = removal.stuck().is_some();
        removal.keep(why);
        !was_stuck && removal.stuck().is_some()
    }

    /// Makes removals for a tenant due now; returns whether there are any.
    pub(crate) fn hurry(&mut self, tenant: &TenantName) -> bool {
        let mut has_any = false;
        for (_, removal) in self.0.iter_mut().filter(|(grave, _)| grave::tenant(grave) == tenant.as_str()) {
            removal.hurry();
            has_any = true;
        }
        has_any
    }

    /// When to go on.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.0.values().map(Removal::due).min()
    }

    /// Does a slice of the removal that is due first.
    pub(crate) fn turn(&mut self) -> Turn {
        let now = Instant::now();
        let due = self.0.iter_mut().filter(|(_, removal)| removal.due() <= now);
        let Some((grave, removal)) = due.min_by_key(|(_, removal)| removal.due()) else { return Turn::Nothing };
        let was_stuck = removal.stuck().is_some();
        match removal.slice(now + SLICE_TIME) {
            Slice::Stuck(stuck) if !was_stuck => Turn::Stuck { grave: grave.clone(), why: stuck.to_string() },
            Slice::More | Slice::Stuck(_) => Turn::Nothing,
            Slice::Gone => Turn::Gone(grave.clone()),
        }
    }

    pub(crate) fn state(&self, tenant: &TenantName, now: Instant) -> PurgeState {
        let left = self.0.iter().filter(|(grave, _)| grave::tenant(grave) == tenant.as_str());
        let left: Vec<&Removal> = left.map(|(_, removal)| removal).collect();
        if left.is_empty() {
            return PurgeState::Gone;
        }
        // One that goes on is due now; one that is stuck is due later.
        if left.iter().all(|removal| removal.stuck().is_some() && removal.due() > now) {
            let stuck: Vec<String> =
                left.iter().filter_map(|removal| removal.stuck()).map(ToString::to_string).collect();
            return PurgeState::Stuck(stuck.join("; "));
        }
        PurgeState::GoesOn
    }

    /// The stuck ones, for `status`.
    pub(crate) fn problems(&self) -> Vec<String> {
        let problem = |(grave, removal): (&String, &Removal)| {
            let stuck = removal.stuck()?;
            Some(format!("what is left of the purged tenant \"{}\" keeps its ids: {stuck}", grave::tenant(grave)))
        };
        self.0.iter().filter_map(problem).collect()
    }
}

/// The ids of data that was set aside and that the ledger does not know.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    /// The ids that the ledger has for this tenant, which has no storage.
    OfTenant(TenantName),
    /// The range that begins here, unless somebody has it.
    From(u32),
    Unknown,
}

/// Finds the ids. The name of the data says the tenant, and mostly the first id; so does the disk quota (`project`).
/// `ids_of_gone` returns the ledger's ids of a tenant without storage.
pub(crate) fn ids_of(
    grave: &str,
    ids_of_gone: impl FnOnce(&TenantName) -> Option<IdRange>,
    project: impl FnOnce() -> Option<u32>,
) -> Ids {
    let named = grave::first_id(grave);
    if let Ok(tenant) = grave::tenant(grave).parse::<TenantName>()
        && let Some(ids) = ids_of_gone(&tenant)
        && named.is_none_or(|first| first == ids.first)
    {
        return Ids::OfTenant(tenant);
    }
    named.or_else(project).map_or(Ids::Unknown, Ids::From)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_sys::file;

    #[test]
    fn ids_of_purged_data_come_from_its_name_the_ledger_or_its_quota() {
        let alice: TenantName = "alice".parse().expect("a name");
        let ids = IdRange { first: 10_065_536, count: 65_536 };
        for (grave, of_gone, project, golden) in [
            // The warden was killed between the move and the ledger.
            ("alice.ids-10065536", Some(ids), None, Ids::OfTenant(alice.clone())),
            ("alice.77", Some(ids), Some(7), Ids::OfTenant(alice.clone())),
            // The tenant was made again, or still has storage: the ledger has the new tenant's ids.
            ("alice.ids-10000000", Some(ids), None, Ids::From(10_000_000)),
            ("alice.ids-10065536", None, Some(7), Ids::From(10_065_536)),
            ("alice.77", None, Some(7), Ids::From(7)),
            ("alice.77", None, None, Ids::Unknown),
            ("NOT A NAME.77", Some(ids), None, Ids::Unknown),
        ] {
            assert_eq!(ids_of(grave, |_| of_gone, || project), golden, "{grave} {of_gone:?} {project:?}");
        }
    }

    #[test]
    fn a_purge_ends_when_nothing_is_left_under_any_name() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let parent = || file::open_dir(&temp.path().canonicalize().expect("real path")).expect("opens");
        let alice: TenantName = "alice".parse().expect("a name");
        let mut removals = Removals::default();
        for grave in ["alice.ids-7", "alice.77"] {
            removals.add(grave, Removal::new(parent(), grave.to_owned()).expect("random"));
        }
        let now = Instant::now();
        assert_eq!(removals.state(&alice, now), PurgeState::GoesOn);
        assert_eq!(removals.state(&"bob".parse().expect("a name"), now), PurgeState::Gone);
        let Turn::Gone(first) = removals.turn() else { panic!("there is nothing") };
        assert!(!removals.end(&first) && removals.state(&alice, now) == PurgeState::GoesOn);
        let Turn::Gone(second) = removals.turn() else { panic!("there is nothing") };
        assert!(removals.end(&second) && removals.state(&alice, now) == PurgeState::Gone);
        assert!(!removals.hurry(&alice));
    }
}
