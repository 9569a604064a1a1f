//! The table in parts: what all tenants have in common, and the rules that some of them share.
//!
//! When shared rules have come or gone, only they are made or removed. All others go on, with the connections that they count.

use bailiwick_netfilter::nft::{Chain, Set, Table};
use bailiwick_rules::router::shared_of;
use std::collections::BTreeMap;

/// What has to be done so that a table has the shared rules that it should have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SharedChanges {
    /// Names of those that are missing.
    pub(super) missing: Vec<String>,
    /// Sets and chains of those that nobody needs.
    pub(super) left: Part,
}

/// Sets and chains.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) sets: Vec<Set>,
    pub(super) chains: Vec<Chain>,
}

impl Part {
    pub(super) fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.chains.is_empty()
    }
}

/// Compares two tables. `None` when they differ in more than whole shared rules.
pub(super) fn shared_changes(there: Table, wanted: Table) -> Option<SharedChanges> {
    let is_same = (&there.name, there.flags) == (&wanted.name, wanted.flags);
    let (mut there, mut wanted) = (parts(there.comparable()), parts(wanted.comparable()));
    if !is_same || there.remove(&None) != wanted.remove(&None) {
        return None;
    }
    let mut changes = SharedChanges::default();
    for (name, part) in wanted {
        match there.remove(&name) {
            Some(same) if same == part => {}
            Some(_) => return None,
            None => changes.missing.extend(name),
        }
    }
    for part in there.into_values() {
        changes.left.sets.extend(part.sets);
        changes.left.chains.extend(part.chains);
    }
    Some(changes)
}

/// The parts by the name of the shared rules, and `None` for what all tenants have in common.
fn parts(table: Table) -> BTreeMap<Option<String>, Part> {
    let shared = |name: &str| shared_of(name).map(str::to_owned);
    let mut all: BTreeMap<Option<String>, Part> = BTreeMap::new();
    for set in table.sets {
        all.entry(shared(&set.name)).or_default().sets.push(set);
    }
    for chain in table.chains {
        all.entry(shared(&chain.name)).or_default().chains.push(chain);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_rules_come_and_go_and_everything_else_is_another_table() {
        let chain = |name: &str| Chain::called(name, Vec::new());
        let policy = |letter: &str| format!("policy-{}", letter.repeat(32));
        let table = |names: &[&str]| Table {
            chains: names.iter().map(|name| chain(name)).collect(),
            ..Table::new("bailiwick")
        };
        let (a, b) = (policy("a"), policy("b"));
        let (a_back, b_back) = (format!("{a}-back"), format!("{b}-back"));
        let there = || table(&["forward", &a, &a_back]);
        assert_eq!(shared_changes(there(), there()), Some(SharedChanges::default()));
        let changes = shared_changes(there(), table(&["forward", &b, &b_back])).expect("policies");
        assert_eq!(changes.missing.join(" "), b);
        assert_eq!(changes.left.chains, [chain(&a), chain(&a_back)]);
        for other in [table(&["forward", &a]), table(&[&a, &a_back]), Table { flags: 1, ..there() }] {
            assert_eq!(shared_changes(there(), other), None);
        }
    }
}
