//! The difference between what a tenant's policy declares and what the kernel shows: the same comparison for `plan`,
//! for the reconciler and for `apply`.

use crate::capability::CapabilitySet;
use crate::control::{Value, controls};
use crate::disk::DiskPlan;
use bailiwick_policy::{Declared, Tenant};
use bailiwick_types::{Action, Change, HostFacts, InForce, LimitFact, Profile};

/// What must change on this host.
#[must_use]
pub fn difference(tenant: &Tenant, facts: &HostFacts, actual: &InForce, held: bool) -> Vec<Change> {
    let controls = controls(&tenant.settings.limits, facts);
    let mut changes = Vec::new();
    let mut add = |what: &str, actual: String, declared: String, action: Action| {
        changes.push(Change { tenant: tenant.name.clone(), what: what.to_owned(), actual, declared, action });
    };
    let jail = match (&tenant.state, &actual.jail, held) {
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
    if jail.cap_bounding != want || jail.no_new_privs != (profile == Profile::Web) {
        add("profile", "another profile's confinement".into(), profile.to_string(), Action::Restart);
    }
    let mut told = "";
    for control in &controls {
        let Some(place) = &control.place else { continue };
        let of_it = |fact: &&LimitFact| fact.resource == control.word && fact.file == place.label();
        let Some(fact) = jail.limits.iter().find(of_it) else { continue };
        let actual = fact.enforced.map_or(Value::Unlimited, Value::Number);
        // One device is enough to say that a limit of all of them differs.
        if !place.holds(actual) && told != control.word {
            told = control.word;
            let shown = control.in_words(fact.enforced);
            add(&format!("limits.{}", control.word), shown, control.declared.clone(), Action::Live);
        }
    }
    for (target, size) in [("/tmp", tenant.settings.limits.tmp_size()), ("/dev/shm", tenant.settings.limits.shm_size())]
    {
        let option = format!("size={}k", size.0 / 1024);
        if let Some(actual) = jail.tmpfs.get(target).filter(|actual| **actual != option) {
            add(
                &format!("limits.{}", target.trim_start_matches("/dev").trim_start_matches('/')),
                actual.clone(),
                option,
                Action::Restart,
            );
        }
    }
    if let Some(disk) = &actual.disk {
        let limits = &tenant.settings.limits;
        for differs in DiskPlan::new(limits, facts).difference(limits, disk) {
            add(&format!("limits.{}", differs.word), differs.actual, differs.declared, Action::Live);
        }
    }
    if !actual.strays.is_empty() {
        let pids: Vec<String> = actual.strays.iter().take(8).map(u32::to_string).collect();
        add(
            "membership",
            format!("processes outside the control group: {}", pids.join(", ")),
            "none".into(),
            Action::None,
        );
    }
    changes
}
