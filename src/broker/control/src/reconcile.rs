//! What must happen so that what runs is what is declared: a pure decision over the policy and the warden's roster.

use bailiwick_policy::Policy;
use bailiwick_proto::warden::RosterEntry;
use bailiwick_types::TenantName;
use std::collections::{BTreeMap, BTreeSet};

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Is to run, is down, and nobody holds it.
    Start,
    /// Runs, and is not the jail that is to run: a suspended tenant's is read-only.
    Replace,
    /// Runs, and is not to run: suspended with no door open, held down, or no longer declared.
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
        let runs = entry.and_then(|entry| entry.access);
        // What is on its way out, or not prepared yet, is the warden's to finish: it tells when it is done, and whoever waited for it
        // would hold up all others.
        let held = entry.is_some_and(|entry| entry.held || entry.clearing || entry.preparing);
        match (tenant.access(), runs) {
            (Some(_), None) if !held => add(name, Need::Start),
            (Some(wanted), Some(runs)) if wanted != runs => add(name, if held { Need::Stop } else { Need::Replace }),
            (None, Some(_)) => add(name, Need::Stop),
            _ => {}
        }
        // Who never ran and does not start now has no ids to give to one.
        let comes = entry.is_some() || tenant.access().is_some();
        if comes && tenant.has_host_user() != entry.is_some_and(|entry| entry.host_user) {
            add(name, Need::HostUser);
        }
    }
    for (name, entry) in roster {
        if policy.tenants.contains_key(name) || invalid.contains(name) {
            continue;
        }
        if entry.access.is_some() {
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
    use bailiwick_types::{Access, IdRange};
    use proptest::prelude::*;

    const WRITES: Option<Access> = Some(Access::ReadWrite);
    const READS: Option<Access> = Some(Access::ReadOnly);

    /// From `NAME=STATE`, with `+` before the name of one that has the door `ssh`. A third state is `readable`: suspended, with
    /// a door that stays open for reading.
    fn policy(text: &str) -> Policy {
        let mut files: Vec<(std::path::PathBuf, String)> =
            vec![("bailiwick.toml".into(), String::new()), ("plans.d/small.toml".into(), "profile = \"web\"\n".into())];
        for line in text.split_whitespace() {
            let (name, state) = line.split_once('=').expect("NAME=STATE");
            let (name, door) = name.strip_prefix('+').map_or((name, "exec"), |name| (name, "ssh"));
            let (state, more) = if state == "readable" { ("suspended", ", \"ftp\"") } else { (state, "") };
            let tenant = format!(
                "plan = \"small\"\nstate = \"{state}\"\ndoors = [\"{door}\"{more}]\nsuspended_doors = [\"ftp\"]\n"
            );
            files.push((format!("tenants.d/{name}.toml").into(), tenant));
        }
        let reading = bailiwick_policy::parse(&files);
        assert!(reading.diagnostics.is_empty(), "{}", bailiwick_diagnostics::render(&reading.diagnostics));
        reading.policy.expect("valid")
    }

    fn entry(runs: Option<Access>, held: bool, host_user: bool) -> RosterEntry {
        let down = crate::directory::entry_of(IdRange { first: 1, count: 1 });
        RosterEntry { pid: runs.map(|_| 7), access: runs, held, host_user, ..down }
    }

    fn name(text: &str) -> TenantName {
        text.parse().expect("a name")
    }

    #[test]
    fn each_case_once() {
        let policy = policy(
            "new=active up=active held=active down=active off=suspended late=suspended +newuser=active +user=active \
             +nouser=active +out=suspended +never=suspended closed=active \
             read=readable first=readable turns=readable stays=readable back=active shut=suspended halted=readable leaves=active \
             prepares=active",
        );
        let roster = [
            ("up", WRITES, false, false),
            ("held", None, true, false),
            ("down", None, false, false),
            ("late", WRITES, false, false),
            ("gone", WRITES, false, true),
            ("broken", WRITES, false, true),
            ("kept", None, false, false),
            ("user", WRITES, false, true),
            ("nouser", WRITES, false, false),
            ("out", None, false, false),
            ("closed", WRITES, false, true),
            ("read", None, false, false),
            ("turns", WRITES, false, false),
            ("stays", READS, false, false),
            ("back", READS, false, false),
            ("shut", READS, false, false),
            ("halted", WRITES, true, false),
        ]
        .map(|(tenant, runs, held, host_user)| (name(tenant), entry(runs, held, host_user)));
        let mut roster = BTreeMap::from(roster);
        roster.insert(name("leaves"), RosterEntry { clearing: true, ..entry(None, false, false) });
        roster.insert(name("prepares"), RosterEntry { preparing: true, ..entry(None, false, false) });
        let needs = decide(&policy, &[name("broken")].into(), &roster);
        let expected: [(&str, &[Need]); 14] = [
            ("new", &[Need::Start]),
            ("down", &[Need::Start]),
            ("late", &[Need::Stop]),
            ("gone", &[Need::Stop, Need::HostUser]),
            ("newuser", &[Need::Start, Need::HostUser]),
            ("nouser", &[Need::HostUser]),
            ("out", &[Need::HostUser]),
            ("closed", &[Need::HostUser]),
            ("read", &[Need::Start]),
            ("first", &[Need::Start]),
            ("turns", &[Need::Replace]),
            ("back", &[Need::Replace]),
            ("shut", &[Need::Stop]),
            ("halted", &[Need::Stop]),
        ];
        assert_eq!(needs, expected.map(|(tenant, needs)| (name(tenant), needs.iter().copied().collect())).into());
    }

    proptest! {
        #[test]
        fn doing_what_is_needed_leaves_nothing_to_do(
            states in proptest::collection::vec((0..4_usize, 0..3_usize, proptest::array::uniform3(any::<bool>())), 0..20)
        ) {
            let mut text = String::new();
            let mut roster = BTreeMap::new();
            for (index, (state, runs, [held, user, wanted])) in states.iter().enumerate() {
                if let Some(state) = ["active", "suspended", "readable"].get(*state) {
                    let door = if *wanted { "+" } else { "" };
                    text.push_str(&format!(" {door}t{index}={state}"));
                }
                roster.insert(name(&format!("t{index}")), entry([None, WRITES, READS][*runs], *held, *user));
            }
            let policy = policy(&text);
            for (tenant, needs) in decide(&policy, &BTreeSet::new(), &roster) {
                let entry = roster.get_mut(&tenant).expect("known");
                let declared = policy.tenants.get(&tenant).and_then(bailiwick_policy::Tenant::access);
                for need in needs {
                    match need {
                        Need::Start | Need::Replace => entry.access = declared,
                        Need::Stop => entry.access = None,
                        Need::HostUser => entry.host_user = !entry.host_user,
                    }
                }
            }
            prop_assert!(decide(&policy, &BTreeSet::new(), &roster).is_empty());
        }
    }
}
