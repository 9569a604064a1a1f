//! What must happen so that what runs is what is declared: a pure decision over the policy and the warden's roster.

use bailiwick_policy::{Declared, Policy};
use bailiwick_proto::warden::RosterEntry;
use bailiwick_types::TenantName;
use std::collections::{BTreeMap, BTreeSet};

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Declared active, down, and nobody holds it.
    Start,
    /// Runs, and is declared suspended or no longer declared.
    Stop,
    /// Its host user is not there and should be, or the other way round. After a start, which gives it its ids.
    HostUser,
}

/// What to do, by tenant, in this order. A tenant whose file is invalid is left exactly as it is.
pub(crate) fn decide(
    policy: &Policy,
    invalid: &BTreeSet<TenantName>,
    roster: &BTreeMap<TenantName, RosterEntry>,
) -> BTreeMap<TenantName, BTreeSet<Need>> {
    let mut needs: BTreeMap<TenantName, BTreeSet<Need>> = BTreeMap::new();
    let mut add = |name: &TenantName, need: Need| needs.entry(name.clone()).or_default().extend([need]);
    for (name, tenant) in &policy.tenants {
        let entry = roster.get(name);
        let runs = entry.is_some_and(|entry| entry.pid.is_some());
        let held = entry.is_some_and(|entry| entry.held);
        match tenant.state {
            Declared::Active if !runs && !held => add(name, Need::Start),
            Declared::Suspended { .. } if runs => add(name, Need::Stop),
            _ => {}
        }
        // Who never ran and does not start now has no ids to give to one.
        let comes = entry.is_some() || tenant.state == Declared::Active;
        if comes && tenant.has_host_user() != entry.is_some_and(|entry| entry.host_user) {
            add(name, Need::HostUser);
        }
    }
    for (name, entry) in roster {
        if policy.tenants.contains_key(name) || invalid.contains(name) {
            continue;
        }
        if entry.pid.is_some() {
            add(name, Need::Stop);
        }
        if entry.host_user {
            add(name, Need::HostUser);
        }
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::IdRange;
    use proptest::prelude::*;

    /// From `NAME=STATE`, with `+` before the name of one that has the door `ssh`.
    fn policy(text: &str) -> Policy {
        let mut files: Vec<(std::path::PathBuf, String)> =
            vec![("bailiwick.toml".into(), String::new()), ("plans.d/small.toml".into(), "profile = \"web\"\n".into())];
        for line in text.split_whitespace() {
            let (name, state) = line.split_once('=').expect("NAME=STATE");
            let (name, doors) = name.strip_prefix('+').map_or((name, "exec"), |name| (name, "ssh"));
            let tenant = format!("plan = \"small\"\nstate = \"{state}\"\ndoors = [\"{doors}\"]\n");
            files.push((format!("tenants.d/{name}.toml").into(), tenant));
        }
        let reading = bailiwick_policy::parse(&files);
        assert!(reading.diagnostics.is_empty(), "{}", bailiwick_policy::render(&reading.diagnostics));
        reading.policy.expect("valid")
    }

    fn entry(runs: bool, held: bool, host_user: bool) -> RosterEntry {
        RosterEntry {
            ids: IdRange { first: 1, count: 1 },
            pid: runs.then_some(7),
            frozen: false,
            held,
            host_user,
            cgroups: BTreeMap::new(),
        }
    }

    fn name(text: &str) -> TenantName {
        text.parse().expect("a name")
    }

    #[test]
    fn each_case_once() {
        let policy = policy(
            "new=active up=active held=active down=active off=suspended late=suspended +newuser=active +user=active \
             +nouser=active +out=suspended +never=suspended closed=active",
        );
        let roster = [
            ("up", true, false, false),
            ("held", false, true, false),
            ("down", false, false, false),
            ("late", true, false, false),
            ("gone", true, false, true),
            ("broken", true, false, true),
            ("kept", false, false, false),
            ("user", true, false, true),
            ("nouser", true, false, false),
            ("out", false, false, false),
            ("closed", true, false, true),
        ]
        .map(|(tenant, runs, held, host_user)| (name(tenant), entry(runs, held, host_user)));
        let needs = decide(&policy, &[name("broken")].into(), &roster.into());
        let expected: [(&str, &[Need]); 8] = [
            ("new", &[Need::Start]),
            ("down", &[Need::Start]),
            ("late", &[Need::Stop]),
            ("gone", &[Need::Stop, Need::HostUser]),
            ("newuser", &[Need::Start, Need::HostUser]),
            ("nouser", &[Need::HostUser]),
            ("out", &[Need::HostUser]),
            ("closed", &[Need::HostUser]),
        ];
        assert_eq!(needs, expected.map(|(tenant, needs)| (name(tenant), needs.iter().copied().collect())).into());
    }

    proptest! {
        #[test]
        fn doing_what_is_needed_leaves_nothing_to_do(
            states in proptest::collection::vec(proptest::array::uniform6(any::<bool>()), 0..20)
        ) {
            let mut text = String::new();
            let mut roster = BTreeMap::new();
            for (index, [declared, active, runs, held, user, wanted]) in states.iter().enumerate() {
                if *declared {
                    let door = if *wanted { "+" } else { "" };
                    text.push_str(&format!(" {door}t{index}={}", if *active { "active" } else { "suspended" }));
                }
                roster.insert(name(&format!("t{index}")), entry(*runs, *held, *user));
            }
            let policy = policy(&text);
            for (tenant, needs) in decide(&policy, &BTreeSet::new(), &roster) {
                let entry = roster.get_mut(&tenant).expect("known");
                for need in needs {
                    match need {
                        Need::Start => entry.pid = Some(9),
                        Need::Stop => entry.pid = None,
                        Need::HostUser => entry.host_user = !entry.host_user,
                    }
                }
            }
            prop_assert!(decide(&policy, &BTreeSet::new(), &roster).is_empty());
        }
    }
}
