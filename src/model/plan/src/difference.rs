//! The difference between what a tenant's policy declares and what the kernel shows: the same comparison for `plan`,
//! for the reconciler and for `apply`.

use crate::capability::CapabilitySet;
use crate::control::{Value, controls};
use crate::disk::DiskPlan;
use crate::mount::confinement;
use crate::rescue;
use bailiwick_policy::Tenant;
use bailiwick_types::{Access, Action, Change, Holder, HostFacts, InForce, LimitFact, LimitKey, LimitValue, Profile};

/// What must change on this host.
#[must_use]
pub fn difference(tenant: &Tenant, facts: &HostFacts, actual: &InForce, held: bool) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut add = |what: &str, actual: String, declared: String, action: Action| {
        changes.push(Change { tenant: tenant.name.clone(), what: what.to_owned(), actual, declared, action });
    };
    let words = |access, written: &str| match access {
        Access::ReadWrite => written.to_owned(),
        Access::ReadOnly => "suspended, read-only".to_owned(),
    };
    let (jail, access) = match (tenant.access(), &actual.jail) {
        (None, None) => return changes,
        (None, Some(jail)) => {
            add("state", words(jail.access, "running"), "suspended".into(), Action::Stop);
            return changes;
        }
        (Some(access), None) => {
            let (actual, action) =
                if held { ("stopped by an operator", Action::None) } else { ("down", Action::Start) };
            add("state", actual.into(), words(access, "active"), action);
            return changes;
        }
        (Some(access), Some(jail)) if jail.access != access => {
            add("state", words(jail.access, "running"), words(access, "active"), Action::Restart);
            return changes;
        }
        (Some(access), Some(jail)) => (jail, access),
    };
    let profile = confinement(tenant.settings.profile, access);
    // A jail of an earlier version is not restarted for what has been taken away since: its tenant chooses the time.
    let known = [Some(CapabilitySet::of(profile)), CapabilitySet::of_earlier_version(profile)];
    if !known.contains(&Some(CapabilitySet(jail.cap_bounding))) || jail.no_new_privs != (profile == Profile::Web) {
        add("profile", "another profile's confinement".into(), profile.to_string(), Action::Restart);
    }
    let limits = &tenant.settings.limits;
    let what = |key: LimitKey| format!("limits.{key}");
    let mut told = None;
    let controls = controls(limits, facts);
    for control in &(if jail.rescue { rescue::during(controls) } else { controls }) {
        let (key, Some(place)) = (control.key, &control.place) else { continue };
        let of_it = |fact: &&LimitFact| fact.key == key && fact.file == place.label();
        let Some(fact) = jail.limits.iter().find(of_it) else { continue };
        let actual = fact.enforced.map_or(Value::Unlimited, Value::Number);
        // One device is enough to say that a limit of all of them differs.
        if !place.holds(actual) && told != Some(key) {
            told = Some(key);
            let shown = key.in_words(control.enforced(fact.enforced));
            add(&what(key), shown, key.in_words(control.declared), Action::Live);
        }
    }
    // What init has, all that it starts has too, and what runs keeps it: only a restart gives every process the same.
    let (key, declared) = (LimitKey::OpenFiles, limits.open_files);
    if let Some(fact) = jail.limits.iter().find(|fact| fact.key == key && fact.enforced != Some(declared)) {
        let shown = key.in_words(LimitValue::from(fact.enforced));
        add(&what(key), shown, key.in_words(declared.into()), Action::Restart);
    }
    for (key, size) in [(LimitKey::Tmp, limits.tmp_size()), (LimitKey::Shm, limits.shm_size())] {
        let Holder::Tmpfs(target) = key.holder() else { continue };
        let option = format!("size={}k", size.0 / 1024);
        if let Some(actual) = jail.tmpfs.get(target).filter(|actual| **actual != option) {
            add(&what(key), actual.clone(), option, Action::Live);
        }
    }
    if let Some(disk) = &actual.disk {
        for differs in DiskPlan::new(limits, facts).difference(limits, disk) {
            let words = |value| differs.key.in_words(value);
            add(&what(differs.key), words(differs.actual), words(differs.declared), Action::Live);
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

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_policy::Declared;
    use bailiwick_types::{
        BlockDevice, ByteSize, DiskFact, Hierarchy, JailInForce, LimitKind, LimitUnit, QuotaFact, QuotaFacts, SoftHard,
        StorageFacts, WeightPolicy,
    };

    /// A tenant with a door that stays open, and what `plan` says of it when it is as it is.
    fn said(state: &str, suspended_doors: &str, runs: Option<Access>, held: bool) -> Vec<String> {
        said_of(state, suspended_doors, runs, held, None)
    }

    /// The same of a jail with these capabilities.
    fn said_of(
        state: &str,
        suspended_doors: &str,
        runs: Option<Access>,
        held: bool,
        capabilities: Option<u64>,
    ) -> Vec<String> {
        let files = [
            (std::path::PathBuf::from("bailiwick.toml"), String::new()),
            ("plans.d/p.toml".into(), "profile = \"system\"\n".to_owned()),
            (
                "tenants.d/alice.toml".into(),
                format!(
                    "plan = \"p\"\nstate = \"{state}\"\ndoors = [\"sftp\"]\nsuspended_doors = [{suspended_doors}]\n"
                ),
            ),
        ];
        let reading = bailiwick_policy::parse(&files);
        assert_eq!(reading.diagnostics, []);
        let tenant = reading.policy.expect("good").tenants.into_values().next().expect("one");
        assert_eq!(tenant.state == Declared::Active, state == "active");
        let facts = HostFacts {
            kernel: "6.18".to_owned(),
            landlock_abi: 7,
            controllers: [].into(),
            root_links: [].into(),
            host_etc: Vec::new(),
            unlisted: Vec::new(),
            storage: StorageFacts {
                fs_type: "xfs".to_owned(),
                quota: QuotaFacts::Nothing { why: String::new(), remedy: String::new() },
                devices: Vec::new(),
            },
        };
        let jail = runs.map(|access| {
            let confined = confinement(Profile::System, access);
            JailInForce {
                access,
                cap_bounding: capabilities.unwrap_or(CapabilitySet::of(confined).0),
                no_new_privs: confined == Profile::Web,
                limits: Vec::new(),
                rescue: false,
                tmpfs: [].into(),
            }
        });
        let actual = InForce { tenant: tenant.name.clone(), jail, strays: Vec::new(), disk: None };
        let row = |change: Change| {
            let Change { what, actual, declared, action, .. } = change;
            format!("{what}: {actual} -> {declared} ({action:?})")
        };
        difference(&tenant, &facts, &actual, held).into_iter().map(row).collect()
    }

    /// A plan with these lines of limits, as it is written again, and the tenant that has it.
    fn limited(lines: &str) -> (String, Tenant) {
        let files = [
            (std::path::PathBuf::from("bailiwick.toml"), String::new()),
            ("plans.d/p.toml".into(), format!("[limits]\n{lines}\n")),
            ("tenants.d/alice.toml".into(), "plan = \"p\"\n".to_owned()),
        ];
        let reading = bailiwick_policy::parse(&files);
        assert_eq!(reading.diagnostics, [], "{lines}");
        let policy = reading.policy.expect("good");
        let (_, plan) =
            bailiwick_policy::dump(&policy).into_iter().find(|(path, _)| path.ends_with("p.toml")).expect("the plan");
        (plan, policy.tenants.into_values().next().expect("one"))
    }

    /// A tenant whose limits the kernel holds as they are declared.
    fn as_declared(tenant: &Tenant, facts: &HostFacts) -> InForce {
        let limits = &tenant.settings.limits;
        let fact =
            |key, file: String, enforced| LimitFact { key, file, enforced, used: None, peak: None, faults: None };
        let of_groups = controls(limits, facts).into_iter().filter_map(|control| {
            let place = control.place?;
            let enforced = if let Value::Number(number) = place.value { Some(number) } else { None };
            Some(fact(control.key, place.label(), enforced))
        });
        let open_files = fact(LimitKey::OpenFiles, "limits".to_owned(), Some(limits.open_files));
        let sizes = [("/tmp", limits.tmp_size()), ("/dev/shm", limits.shm_size())];
        let size = |(target, size): (&str, ByteSize)| (target.to_owned(), format!("size={}k", size.0 / 1024));
        let jail = JailInForce {
            access: Access::ReadWrite,
            cap_bounding: CapabilitySet::of(tenant.settings.profile).0,
            no_new_privs: tenant.settings.profile == Profile::Web,
            limits: of_groups.chain([open_files]).collect(),
            rescue: false,
            tmpfs: sizes.map(size).into(),
        };
        let plan = DiskPlan::new(limits, facts);
        let quota = |pair: Option<SoftHard<u64>>| QuotaFact {
            used: 0,
            soft: pair.map(|pair| pair.soft),
            hard: pair.map(|pair| pair.hard),
            grace_until: None,
            lowered_at: None,
        };
        let (bytes, inodes) = (quota(plan.bytes), Some(quota(plan.inodes)));
        let disk = Some(DiskFact { bytes, inodes, charged: true, held_back: false });
        InForce { tenant: tenant.name.clone(), jail: Some(jail), strays: Vec::new(), disk }
    }

    #[test]
    fn a_change_of_any_limit_is_seen_but_of_those_that_the_daemons_count_themselves() {
        let mut facts = HostFacts {
            kernel: "6.18".to_owned(),
            landlock_abi: 7,
            controllers: ["cpu", "memory", "pids", "io"].map(|name| (name.to_owned(), Hierarchy::Unified)).into(),
            root_links: [].into(),
            host_etc: Vec::new(),
            unlisted: Vec::new(),
            storage: StorageFacts { fs_type: "xfs".to_owned(), quota: QuotaFacts::Projects, devices: Vec::new() },
        };
        let (name, weight) = ("sda".to_owned(), Some(WeightPolicy::Bfq));
        facts.storage.devices.push(BlockDevice { number: "8:0".to_owned(), name, weight });
        let (plan, before) = limited("");
        let actual = as_declared(&before, &facts);
        assert_eq!(difference(&before, &facts, &actual, false), []);
        for key in LimitKey::ALL.into_iter().filter(|key| before.settings.limits.value(*key).is_some()) {
            assert!(plan.contains(&format!("\n{key} = ")), "{plan}");
            let value = match key.unit() {
                LimitUnit::CpuShare => "\"50%\"",
                LimitUnit::Seconds => "\"1h\"",
                LimitUnit::Number => "77",
                LimitUnit::Count => "\"1k\"",
                LimitUnit::Bytes => "\"77M\"",
            };
            let (_, after) = limited(&format!("{key} = {value}"));
            let rows = difference(&after, &facts, &actual, false);
            // Who is in is counted by bailiwickd, and each tenant's grace kept by the warden, by what the policy says then.
            let is_counted = matches!(key.holder(), Holder::Sessions(_)) || key.kind() == LimitKind::Grace;
            let is_seen = rows.iter().any(|row| row.what == format!("limits.{key}") && row.action != Action::None);
            assert_eq!(is_seen, !is_counted, "{key}: {rows:?}");
        }
    }

    #[test]
    fn a_jail_of_an_earlier_version_is_not_restarted_for_what_was_taken_away_since() {
        let before = CapabilitySet::of_earlier_version(Profile::System).expect("it was another").0;
        assert!(before & (1 << 12) != 0);
        assert_eq!(said_of("active", "", Some(Access::ReadWrite), false, Some(before)), [""; 0]);
        let another = said_of("active", "", Some(Access::ReadWrite), false, Some(before | 1 << 24));
        assert!(another.len() == 1 && another[0].contains("Restart"), "{another:?}");
    }

    #[test]
    fn each_state_and_each_jail() {
        use Access::{ReadOnly, ReadWrite};
        let none: [&str; 0] = [];
        for (state, doors, runs, held, golden) in [
            ("active", "\"sftp\"", Some(ReadWrite), false, &none[..]),
            ("active", "", None, false, &["state: down -> active (Start)"]),
            ("active", "", None, true, &["state: stopped by an operator -> active (None)"]),
            ("active", "", Some(ReadOnly), false, &["state: suspended, read-only -> active (Restart)"]),
            ("suspended", "", None, false, &none),
            ("suspended", "", Some(ReadWrite), false, &["state: running -> suspended (Stop)"]),
            ("suspended", "", Some(ReadOnly), false, &["state: suspended, read-only -> suspended (Stop)"]),
            ("suspended", "\"sftp\"", Some(ReadOnly), false, &none),
            ("suspended", "\"sftp\"", None, false, &["state: down -> suspended, read-only (Start)"]),
            ("suspended", "\"sftp\"", None, true, &["state: stopped by an operator -> suspended, read-only (None)"]),
            ("suspended", "\"sftp\"", Some(ReadWrite), false, &["state: running -> suspended, read-only (Restart)"]),
            ("suspended", "\"ftp\"", None, false, &none),
        ] {
            assert_eq!(said(state, doors, runs, held), golden, "{state} [{doors}] {runs:?} {held}");
        }
    }
}
