//! What must happen so that what runs is what is declared: a pure decision over the policy and the warden's roster.

use bailiwick_policy::{Declared, Policy};
use bailiwick_proto::warden::RosterEntry;
use bailiwick_types::TenantName;
use std::collections::{BTreeMap, BTreeSet};

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Declared active, down, and nobody holds it.
    Start,
    /// Runs, and is declared suspended or no longer declared.
    Stop,
}

/// What to do, by tenant. A tenant whose file is invalid is left exactly as it is.
pub(crate) fn decide(
    policy: &Policy,
    invalid: &BTreeSet<TenantName>,
    roster: &BTreeMap<TenantName, RosterEntry>,
) -> BTreeMap<TenantName, Need> {
    let mut needs = BTreeMap::new();
    for (name, tenant) in &policy.tenants {
        let entry = roster.get(name);
        let runs = entry.is_some_and(|entry| entry.pid.is_some());
        let held = entry.is_some_and(|entry| entry.held);
        match tenant.state {
            Declared::Active if !runs && !held => drop(needs.insert(name.clone(), Need::Start)),
            Declared::Suspended { .. } if runs => drop(needs.insert(name.clone(), Need::Stop)),
            _ => {}
        }
    }
    for (name, entry) in roster {
        if entry.pid.is_some() && !policy.tenants.contains_key(name) && !invalid.contains(name) {
            needs.insert(name.clone(), Need::Stop);
        }
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::IdRange;
    use proptest::prelude::*;

    fn policy(text: &str) -> Policy {
        let mut files: Vec<(std::path::PathBuf, String)> =
            vec![("bailiwick.toml".into(), String::new()), ("plans.d/small.toml".into(), "profile = \"web\"\n".into())];
        for line in text.split_whitespace() {
            let (name, state) = line.split_once('=').expect("NAME=STATE");
            files.push((format!("tenants.d/{name}.toml").into(), format!("plan = \"small\"\nstate = \"{state}\"\n")));
        }
        let reading = bailiwick_policy::parse(&files);
        assert!(reading.diagnostics.is_empty(), "{}", bailiwick_policy::render(&reading.diagnostics));
        reading.policy.expect("valid")
    }

    fn entry(runs: bool, held: bool) -> RosterEntry {
        RosterEntry {
            ids: IdRange { first: 1, count: 1 },
            pid: runs.then_some(7),
            frozen: false,
            held,
            cgroups: BTreeMap::new(),
        }
    }

    fn name(text: &str) -> TenantName {
        text.parse().expect("a name")
    }

    #[test]
    fn each_case_once() {
        let policy = policy("new=active up=active held=active down=active off=suspended late=suspended");
        let roster = [
            ("up", true, false),
            ("held", false, true),
            ("down", false, false),
            ("late", true, false),
            ("gone", true, false),
            ("broken", true, false),
            ("kept", false, false),
        ]
        .map(|(tenant, runs, held)| (name(tenant), entry(runs, held)));
        let needs = decide(&policy, &[name("broken")].into(), &roster.into());
        let expected = [("new", Need::Start), ("down", Need::Start), ("late", Need::Stop), ("gone", Need::Stop)];
        assert_eq!(needs, expected.map(|(tenant, need)| (name(tenant), need)).into());
    }

    proptest! {
        #[test]
        fn doing_what_is_needed_leaves_nothing_to_do(
            states in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()), 0..20)
        ) {
            let mut text = String::new();
            let mut roster = BTreeMap::new();
            for (index, (declared, active, runs, held)) in states.iter().enumerate() {
                if *declared {
                    text.push_str(&format!(" t{index}={}", if *active { "active" } else { "suspended" }));
                }
                roster.insert(name(&format!("t{index}")), entry(*runs, *held));
            }
            let policy = policy(&text);
            for (tenant, need) in decide(&policy, &BTreeSet::new(), &roster) {
                roster.get_mut(&tenant).expect("known").pid = (need == Need::Start).then_some(9);
            }
            prop_assert!(decide(&policy, &BTreeSet::new(), &roster).is_empty());
        }
    }
}
