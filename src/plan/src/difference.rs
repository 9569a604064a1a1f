//! The difference between what a tenant's policy declares and what the kernel shows: the same comparison for `plan`,
//! for the reconciler and for `apply`.

use crate::capability::CapabilitySet;
use crate::control::{Control, Value};
use bailiwick_policy::{Declared, Tenant};
use bailiwick_types::{Action, Change, Observed, Profile};

/// What must change. `controls` are the limits that this host has files for (see [`crate::control::controls`]).
#[must_use]
pub fn difference(tenant: &Tenant, controls: &[Control], observed: &Observed, held: bool) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut add = |what: &str, actual: String, declared: String, action: Action| {
        changes.push(Change { tenant: tenant.name.clone(), what: what.to_owned(), actual, declared, action });
    };
    let jail = match (&tenant.state, &observed.jail, held) {
        (Declared::Suspended { .. }, Some(_), _) => {
            add("state", "running".into(), "suspended".into(), Action::Stop);
            return changes;
        }
        (Declared::Suspended { .. }, None, _) => return changes,
        (Declared::Active, None, false) => {
            add("state", "down".into(), "active".into(), Action::Start);
            return changes;
        }
        (Declared::Active, None, true) => {
            add("state", "stopped by an operator".into(), "active".into(), Action::None);
            return changes;
        }
        (Declared::Active, Some(jail), _) => jail,
    };
    let profile = tenant.settings.profile;
    let want = CapabilitySet::of(profile).0;
    if jail.init.cap_bounding != want || jail.init.no_new_privs != (profile == Profile::Web) {
        add("profile", "another profile's confinement".into(), profile.to_string(), Action::Restart);
    }
    for control in controls {
        let Some(place) = &control.place else { continue };
        let Some(fact) = jail.limits.iter().find(|fact| fact.resource == control.word) else { continue };
        let actual = fact.enforced.map_or(Value::Unlimited, Value::Number);
        if !place.holds(actual) {
            let shown = control.in_words(fact.enforced);
            add(&format!("limits.{}", control.word), shown, control.declared.clone(), Action::Live);
        }
    }
    for (target, size) in [("/tmp", tenant.settings.limits.tmp_size()), ("/dev/shm", tenant.settings.limits.shm_size())]
    {
        let option = format!("size={}k", size.0 / 1024);
        let mount = jail.mounts.iter().rev().find(|mount| mount.target == target && mount.fs_type == "tmpfs");
        if let Some(mount) = mount
            && let Some(actual) = mount.super_options.iter().find(|option| option.starts_with("size="))
            && *actual != option
        {
            add(
                &format!("limits.{}", target.trim_start_matches("/dev").trim_start_matches('/')),
                actual.clone(),
                option,
                Action::Restart,
            );
        }
    }
    if !observed.strays.is_empty() {
        let pids: Vec<String> = observed.strays.iter().take(8).map(|process| process.pid.to_string()).collect();
        add(
            "membership",
            format!("processes outside the control group: {}", pids.join(", ")),
            "none".into(),
            Action::None,
        );
    }
    changes
}
