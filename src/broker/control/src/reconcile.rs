//! What the reconciler does next for each tenant: the lifecycle's table applied to the policy and the warden's roster.
//! Pure.

use bailiwick_plan::lifecycle::{
    self, Actual, Declaration, Hold, HostUser, HostUserStep, Ids, JailState, JailStep, desired, next,
};
use bailiwick_policy::Policy;
use bailiwick_proto::warden::RosterEntry;
use bailiwick_types::TenantName;
use std::collections::{BTreeMap, BTreeSet};

/// One action of the reconciler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    /// Start the jail.
    Start,
    /// Thaw the jail, which was idle.
    Thaw,
    /// Stop the jail and start the declared one.
    Replace,
    /// Stop the jail.
    Stop,
    /// Make or remove the host user. It comes after a start, which gives the tenant its ids.
    HostUser,
}

/// The declaration of a tenant. `invalid` are the tenants whose files have errors.
pub(crate) fn declaration<'a>(
    policy: &'a Policy,
    invalid: &BTreeSet<TenantName>,
    name: &TenantName,
) -> Declaration<'a> {
    match policy.tenants.get(name) {
        Some(tenant) => Declaration::Known(tenant),
        None if invalid.contains(name) => Declaration::Unknown,
        None => Declaration::Deleted,
    }
}

/// The actual state of a tenant by the warden's entry. The warden does not know whether init answers.
pub(crate) fn actual(entry: Option<&RosterEntry>) -> Actual {
    let Some(entry) = entry else { return Actual::NEVER_RAN };
    let jail = match entry.access {
        _ if entry.clearing => JailState::Clearing,
        Some(access) => entry.frozen().map_or(JailState::Running(access), |by| JailState::Frozen(access, by)),
        None if entry.preparing => JailState::Preparing,
        None => JailState::Down,
    };
    Actual {
        jail,
        hold: if entry.held { Hold::Held } else { Hold::Free },
        ids: Ids::Given,
        host_user: if entry.host_user { HostUser::Present } else { HostUser::Absent },
    }
}

/// The actions by tenant, in the order of [`Action`]. A tenant without an action is left out.
pub(crate) fn decide(
    policy: &Policy,
    invalid: &BTreeSet<TenantName>,
    roster: &BTreeMap<TenantName, RosterEntry>,
) -> BTreeMap<TenantName, BTreeSet<Action>> {
    let names: BTreeSet<&TenantName> = policy.tenants.keys().chain(roster.keys()).collect();
    let mut all = BTreeMap::new();
    for name in names {
        let desired = desired(declaration(policy, invalid, name));
        let actions = actions(next(desired, &actual(roster.get(name))));
        if !actions.is_empty() {
            all.insert(name.clone(), actions);
        }
    }
    all
}

fn actions(next: lifecycle::Next) -> BTreeSet<Action> {
    let jail = match next.jail {
        JailStep::Start => Some(Action::Start),
        JailStep::Thaw => Some(Action::Thaw),
        JailStep::Replace => Some(Action::Replace),
        JailStep::Stop => Some(Action::Stop),
        // The warden reports when it has finished. A wait here would delay all other tenants.
        JailStep::Wait | JailStep::None | JailStep::Held | JailStep::Asleep => None,
    };
    let host_user = match next.host_user {
        HostUserStep::Make | HostUserStep::Remove => Some(Action::HostUser),
        HostUserStep::None => None,
    };
    jail.into_iter().chain(host_user).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::{Access, IdRange};
    use proptest::prelude::*;

    const WRITES: Option<Access> = Some(Access::ReadWrite);
    const READS: Option<Access> = Some(Access::ReadOnly);

    /// Makes a policy from words `NAME=STATE`. A `+` before the name opens the door `ssh`. The state `readable` means
    /// suspended, with a door that stays open for reading.
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
        let actions = decide(&policy, &[name("broken")].into(), &roster);
        let expected: [(&str, &[Action]); 14] = [
            ("new", &[Action::Start]),
            ("down", &[Action::Start]),
            ("late", &[Action::Stop]),
            ("gone", &[Action::Stop, Action::HostUser]),
            ("newuser", &[Action::Start, Action::HostUser]),
            ("nouser", &[Action::HostUser]),
            ("out", &[Action::HostUser]),
            ("closed", &[Action::HostUser]),
            ("read", &[Action::Start]),
            ("first", &[Action::Start]),
            ("turns", &[Action::Replace]),
            ("back", &[Action::Replace]),
            ("shut", &[Action::Stop]),
            ("halted", &[Action::Stop]),
        ];
        assert_eq!(actions, expected.map(|(tenant, actions)| (name(tenant), actions.iter().copied().collect())).into());
    }

    #[test]
    fn nothing_that_may_sleep_is_started_with_the_host_and_the_rest_is_in_the_order_of_names() {
        let mut policy = policy("sleeper=active first=active held=active z=active a=active");
        let sleep = bailiwick_policy::Sleep { after: bailiwick_types::Period(900), freeze_after: None };
        for name in ["sleeper", "first", "held"].map(name) {
            policy.tenants.get_mut(&name).expect("declared").settings.sleep = Some(sleep);
        }
        let sleeper = policy.tenants[&name("sleeper")].clone();
        let mut roster = BTreeMap::from([
            (name("sleeper"), entry(None, false, false)),
            (name("held"), entry(None, true, false)),
            (name("a"), entry(None, false, false)),
        ]);
        for index in 0..1000 {
            let name = name(&format!("t{index}"));
            policy.tenants.insert(name.clone(), bailiwick_policy::Tenant { name: name.clone(), ..sleeper.clone() });
            roster.insert(name, entry(None, false, false));
        }
        let actions: Vec<_> = decide(&policy, &BTreeSet::new(), &roster).into_iter().collect();
        let start = |tenant: &str| (name(tenant), BTreeSet::from([Action::Start]));
        assert_eq!(actions, ["a", "first", "z"].map(start), "`first` has never run");
    }

    proptest! {
        #[test]
        fn taking_the_actions_leaves_nothing_to_do(
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
            for (tenant, actions) in decide(&policy, &BTreeSet::new(), &roster) {
                let entry = roster.get_mut(&tenant).expect("known");
                let declared = policy.tenants.get(&tenant).and_then(bailiwick_policy::Tenant::access);
                for action in actions {
                    match action {
                        Action::Start | Action::Replace => entry.access = declared,
                        Action::Thaw => entry.frozen = false,
                        Action::Stop => entry.access = None,
                        Action::HostUser => entry.host_user = !entry.host_user,
                    }
                }
            }
            prop_assert!(decide(&policy, &BTreeSet::new(), &roster).is_empty());
        }
    }
}
