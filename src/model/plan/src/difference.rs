//! The differences between a tenant's declaration and the kernel's state, as rows. `plan` shows the rows and `apply`
//! removes the differences. [`crate::lifecycle`] decides the next step for the jail and the host user.

use crate::capability::CapabilitySet;
use crate::control::{Value, controls};
use crate::disk::DiskPlan;
use crate::lending;
use crate::lifecycle::{Actual, Declaration, DesiredJail, HostUserStep, JailStep, desired, next};
use crate::mount::confinement;
use crate::network::{self, Pools};
use crate::rescue;
use bailiwick_policy::Tenant;
use bailiwick_types::{
    Access, Action, Change, Holder, HostFacts, HostNetwork, HostSocketName, InForce, JailInForce, LimitFact, LimitKey,
    LimitValue, Mail, Nesting, NetworkInForce, NetworkMode, Profile, TenantName, TmpfsSize,
};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The differences of a tenant on this host. `in_force` is what the warden read in the tenant's jail; without it, only
/// the state and the host user are compared.
#[must_use]
pub fn difference(
    name: &TenantName,
    declaration: Declaration<'_>,
    actual: &Actual,
    in_force: Option<&InForce>,
    facts: &HostFacts,
    host: &HostNetwork,
) -> Vec<Change> {
    let desired = desired(declaration);
    let step = next(desired, actual);
    let jail = in_force.and_then(|in_force| in_force.jail.as_ref().map(|jail| (in_force, jail)));
    let mut changes: Vec<Change> = jail_row(name, desired.jail, actual, step.jail).into_iter().collect();
    let stays = matches!(step.jail, JailStep::None | JailStep::Thaw);
    if let (Declaration::Known(tenant), true, Some((in_force, jail))) = (declaration, stays, jail) {
        changes.extend(settings(tenant, facts, in_force, jail));
        changes.extend(network_rows(tenant, host, jail));
    }
    changes.extend(host_user_row(name, step.host_user));
    changes
}

fn jail_row(name: &TenantName, desired: DesiredJail, actual: &Actual, step: JailStep) -> Option<Change> {
    let runs = || match (desired, actual.jail.access()) {
        (
            DesiredJail::Running(_) | DesiredJail::OnDemand(_) | DesiredJail::Suspended | DesiredJail::Unknown,
            Some(Access::ReadOnly),
        ) => SUSPENDED_READ_ONLY,
        (
            DesiredJail::Running(_) | DesiredJail::OnDemand(_) | DesiredJail::Suspended | DesiredJail::Unknown,
            Some(Access::ReadWrite) | None,
        )
        | (DesiredJail::Deleted, _) => "running",
    };
    let (actual, action) = match step {
        // `bailiwickd` thaws an idle jail in its next round, so nobody need act.
        JailStep::None | JailStep::Asleep | JailStep::Thaw => return None,
        JailStep::Held => ("stopped by an operator", Action::None),
        // `apply` waits until the warden has finished, and then starts the jail.
        JailStep::Wait | JailStep::Start => ("down", Action::Start),
        JailStep::Replace => (runs(), Action::Restart),
        JailStep::Stop => (runs(), Action::Stop),
    };
    let declared = match desired {
        DesiredJail::Running(Access::ReadWrite) | DesiredJail::OnDemand(Access::ReadWrite) => "active",
        DesiredJail::Running(Access::ReadOnly) | DesiredJail::OnDemand(Access::ReadOnly) => SUSPENDED_READ_ONLY,
        DesiredJail::Suspended => "suspended",
        DesiredJail::Deleted => "deleted",
        DesiredJail::Unknown => "unknown",
    };
    Some(row(name, "state", actual.to_owned(), declared.to_owned(), action))
}

const SUSPENDED_READ_ONLY: &str = "suspended, read-only";

fn host_user_row(name: &TenantName, step: HostUserStep) -> Option<Change> {
    let (is, declared) = match step {
        HostUserStep::None => return None,
        HostUserStep::Make => ("none", "there"),
        HostUserStep::Remove => ("there", "none"),
    };
    Some(row(name, "host user", is.to_owned(), declared.to_owned(), Action::HostUser))
}

fn row(tenant: &TenantName, what: &str, actual: String, declared: String, action: Action) -> Change {
    Change { tenant: tenant.clone(), what: what.to_owned(), actual, declared, action }
}

/// The differences of settings in a jail whose state is the declared one.
fn settings(tenant: &Tenant, facts: &HostFacts, actual: &InForce, jail: &JailInForce) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut add = |what: &str, actual: String, declared: String, action: Action| {
        changes.push(row(&tenant.name, what, actual, declared, action));
    };
    let profile = confinement(tenant.settings.profile, jail.access);
    // A jail of an earlier version is not restarted because a capability was removed since. Its tenant chooses the time
    // of the restart.
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
        // A limit of all devices gets one row, even if it differs on several.
        if !place.holds(actual) && told != Some(key) {
            told = Some(key);
            let shown = key.in_words(control.enforced(fact.enforced));
            add(&what(key), shown, key.in_words(control.declared), Action::Live);
        }
    }
    // Every process inherits this limit from init and keeps it. Only a restart gives every process the new value.
    let (key, declared) = (LimitKey::OpenFiles, limits.open_files);
    if let Some(fact) = jail.limits.iter().find(|fact| fact.key == key && fact.enforced != Some(declared)) {
        let shown = key.in_words(LimitValue::from(fact.enforced));
        add(&what(key), shown, key.in_words(declared.into()), Action::Restart);
    }
    for (key, size) in [(LimitKey::Tmp, limits.tmp_size()), (LimitKey::Shm, limits.shm_size())] {
        let Holder::Tmpfs(target) = key.holder() else { continue };
        let declared = TmpfsSize::from(size);
        if let Some(actual) = jail.tmpfs.get(target).filter(|actual| **actual != declared) {
            add(&what(key), actual.to_string(), declared.to_string(), Action::Live);
        }
    }
    if let Some(disk) = &actual.disk {
        for differs in DiskPlan::new(limits, facts).difference(limits, disk) {
            let words = |value| differs.key.in_words(value);
            add(&what(differs.key), words(differs.actual), words(differs.declared), Action::Live);
        }
    }
    // Its counters are set when it is made. A version that did not note them let `system` nest.
    let nests = jail.nesting.unwrap_or(Nesting::from(tenant.settings.profile == Profile::System));
    if nests != tenant.settings.nesting {
        let word = |nesting| if nesting == Nesting::Allowed { "true" } else { "false" };
        add("nesting", word(nests).to_owned(), word(tenant.settings.nesting).to_owned(), Action::Restart);
    }
    let may_use = jail.access == Access::ReadWrite;
    let declared = if may_use { lending::names(&tenant.settings) } else { BTreeSet::new() };
    let (sends, lent) = match &jail.host_sockets {
        Some(lent) => (lent.iter().any(|name| name.as_str() == lending::MAIL), Some(lent)),
        None => (false, None),
    };
    let mail = tenant.settings.mail.filter(|_| may_use);
    // A server that is just being started says nothing yet.
    let is_as_declared = sends == mail.is_some() && (jail.mail.is_none() || jail.mail == mail);
    if lent.is_some() && !is_as_declared {
        let words = |mail: Option<Mail>| mail.map_or_else(|| "none".to_owned(), |mail| mail.to_string());
        add("mail", words(jail.mail), words(mail), Action::Live);
    }
    let without_mail = |names: &BTreeSet<HostSocketName>| -> BTreeSet<HostSocketName> {
        names.iter().filter(|name| name.as_str() != lending::MAIL).cloned().collect()
    };
    let declared = without_mail(&declared);
    if let Some(lent) = lent.map(without_mail).filter(|lent| *lent != declared) {
        let words =
            |names: &BTreeSet<HostSocketName>| match names.iter().map(HostSocketName::as_str).collect::<Vec<_>>() {
                names if names.is_empty() => "none".to_owned(),
                names => names.join(", "),
            };
        add("host sockets", words(&lent), words(&declared), Action::Live);
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

/// The differences of the network. The interface and the resolvers inside are made with the jail. All else is rules of the
/// router, and changes while the jail runs.
fn network_rows(tenant: &Tenant, host: &HostNetwork, jail: &JailInForce) -> Vec<Change> {
    let Some(is_connected) = jail.connected else { return Vec::new() };
    let row = |what: &str, actual: String, declared: String, action| row(&tenant.name, what, actual, declared, action);
    let declared = match jail.access {
        Access::ReadWrite => tenant.settings.network.mode,
        // A suspended tenant has none.
        Access::ReadOnly => NetworkMode::None,
    };
    let none = NetworkMode::None.to_string();
    match (is_connected, declared) {
        (false, NetworkMode::None) => return Vec::new(),
        (false, _) => return vec![row("network", none, declared.to_string(), Action::Restart)],
        (true, NetworkMode::None) => return vec![row("network", "connected".to_owned(), none, Action::Restart)],
        (true, _) => {}
    }
    let Some(NetworkInForce { resolvers, settings }) = &jail.network else { return Vec::new() };
    let mut changes = Vec::new();
    if let Some(declared) = other_resolvers(resolvers, host) {
        changes.push(row("network.resolvers", words(resolvers), declared, Action::Restart));
    }
    for (key, declared) in network::settings(tenant, host) {
        // A setting that the version did not know that connected the jail is as that version had it.
        if let Some(actual) = settings.get(&key).filter(|actual| **actual != declared) {
            changes.push(row(&format!("network.{key}"), actual.clone(), declared, Action::Live));
        }
    }
    changes
}

/// What a jail should ask instead of these resolvers, if it asks others.
fn other_resolvers(resolvers: &[IpAddr], host: &HostNetwork) -> Option<String> {
    let cache = Pools::new(host.ipv4, None).map(|pools| IpAddr::V4(pools.cache().ipv4));
    let asks_cache = resolvers.iter().any(|resolver| Some(*resolver) == cache);
    if host.cache {
        return if asks_cache { None } else { cache.map(|cache| format!("the cache at {cache}")) };
    }
    // Without an entry they are those of the host, which changes its own.
    match host.resolvers.as_slice() {
        [] => asks_cache.then(|| "those of the host".to_owned()),
        declared => (resolvers != declared).then(|| words(declared)),
    }
}

fn words(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::{Hold, HostUser, Ids, JailState};
    use bailiwick_policy::Declared;
    use bailiwick_types::{
        BlockDevice, ByteSize, DiskFact, Hierarchy, JailInForce, LimitKind, LimitUnit, Link, LinkDirection, Network,
        QuotaFact, QuotaFacts, SoftHard, StorageFacts, WeightPolicy,
    };

    /// A host without controllers and quotas.
    fn bare_host() -> HostFacts {
        HostFacts {
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
        }
    }

    /// The rows of `plan` for a tenant with the door `sftp`, as text.
    fn said(state: &str, suspended_doors: &str, runs: Option<Access>, held: bool) -> Vec<String> {
        said_of(state, suspended_doors, runs, held, None)
    }

    /// The same for a jail with these capabilities.
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
        let facts = bare_host();
        let jail = runs.map(|access| {
            let confined = confinement(Profile::System, access);
            JailInForce {
                access,
                cap_bounding: capabilities.unwrap_or(CapabilitySet::of(confined).0),
                no_new_privs: confined == Profile::Web,
                limits: Vec::new(),
                rescue: false,
                tmpfs: [].into(),
                host_sockets: Some([].into()),
                mail: None,
                connected: Some(false),
                nesting: Some(Nesting::Refused),
                network: None,
            }
        });
        let in_force = InForce { tenant: tenant.name.clone(), jail, strays: Vec::new(), disk: None };
        let host_user = HostUser::Present;
        let hold = if held { Hold::Held } else { Hold::Free };
        let actual =
            Actual { jail: runs.map_or(JailState::Down, JailState::Running), hold, ids: Ids::Given, host_user };
        let row = |change: Change| {
            let Change { what, actual, declared, action, .. } = change;
            format!("{what}: {actual} -> {declared} ({action:?})")
        };
        let known = Declaration::Known(&tenant);
        difference(&tenant.name, known, &actual, Some(&in_force), &facts, &HostNetwork::default())
            .into_iter()
            .map(row)
            .collect()
    }

    /// A plan with these lines in `[limits]`, as `dump` writes it, and its tenant.
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

    /// What is in force when the kernel enforces all limits of a tenant as declared.
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
        let size = |(target, size): (&str, ByteSize)| (target.to_owned(), TmpfsSize::from(size));
        let jail = JailInForce {
            access: Access::ReadWrite,
            cap_bounding: CapabilitySet::of(tenant.settings.profile).0,
            no_new_privs: tenant.settings.profile == Profile::Web,
            limits: of_groups.chain([open_files]).collect(),
            rescue: false,
            tmpfs: sizes.map(size).into(),
            host_sockets: Some([].into()),
            mail: None,
            connected: Some(false),
            nesting: Some(Nesting::Refused),
            network: None,
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
        let running = Actual { jail: JailState::Running(Access::ReadWrite), ids: Ids::Given, ..Actual::NEVER_RAN };
        let differs = |tenant: &Tenant| {
            difference(
                &tenant.name,
                Declaration::Known(tenant),
                &running,
                Some(&actual),
                &facts,
                &HostNetwork::default(),
            )
        };
        assert_eq!(differs(&before), []);
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
            let rows = differs(&after);
            // `bailiwickd` counts sessions, and the warden keeps the grace period, both according to the current
            // policy.
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
    fn another_list_of_lent_sockets_is_a_change_of_a_running_jail() {
        let facts = bare_host();
        let (_, mut tenant) = limited("");
        let mut actual = as_declared(&tenant, &facts);
        let running = Actual { jail: JailState::Running(Access::ReadWrite), ids: Ids::Given, ..Actual::NEVER_RAN };
        let differs = |tenant: &Tenant, actual: &InForce| -> Vec<String> {
            let rows = difference(
                &tenant.name,
                Declaration::Known(tenant),
                &running,
                Some(actual),
                &facts,
                &HostNetwork::default(),
            )
            .into_iter();
            let rows = rows.filter(|row| row.action != Action::HostUser);
            rows.map(|row| format!("{}: {} -> {} ({:?})", row.what, row.actual, row.declared, row.action)).collect()
        };
        tenant.settings.host_sockets = ["redis", "mysql"].map(|name| name.parse().expect("a name")).into();
        assert_eq!(differs(&tenant, &actual), ["host sockets: none -> mysql, redis (Live)"]);
        let jail = actual.jail.as_mut().expect("runs");
        jail.host_sockets = Some(tenant.settings.host_sockets.clone());
        assert_eq!(differs(&tenant, &actual), [""; 0]);
        tenant.settings.host_sockets.clear();
        assert_eq!(differs(&tenant, &actual), ["host sockets: mysql, redis -> none (Live)"]);
        actual.jail.as_mut().expect("runs").host_sockets = None;
        assert_eq!(differs(&tenant, &actual), [""; 0], "an earlier warden does not say");
        let declared = Mail { per_hour: 7, ..Mail::default() };
        tenant.settings.mail = Some(declared);
        let jail = actual.jail.as_mut().expect("runs");
        jail.host_sockets = Some(BTreeSet::new());
        assert_eq!(differs(&tenant, &actual), ["mail: none -> 7 an hour, up to 50 recipients, 10M (Live)"]);
        let jail = actual.jail.as_mut().expect("runs");
        (jail.host_sockets, jail.mail) = (Some(lending::names(&tenant.settings)), Some(Mail::default()));
        let changed = "mail: 100 an hour, up to 50 recipients, 10M -> 7 an hour, up to 50 recipients, 10M (Live)";
        assert_eq!(differs(&tenant, &actual), [changed]);
        for served in [Some(declared), None] {
            actual.jail.as_mut().expect("runs").mail = served;
            assert_eq!(differs(&tenant, &actual), [""; 0], "{served:?}");
        }
        tenant.settings.mail = None;
        actual.jail.as_mut().expect("runs").mail = Some(declared);
        assert_eq!(differs(&tenant, &actual), ["mail: 7 an hour, up to 50 recipients, 10M -> none (Live)"]);
    }

    #[test]
    fn a_change_of_the_network_is_live_but_of_what_is_made_with_the_jail() {
        let facts = bare_host();
        let (_, mut tenant) = limited("");
        let host = HostNetwork { resolvers: vec![IpAddr::from([192, 0, 2, 53])], ..HostNetwork::default() };
        let mut actual = as_declared(&tenant, &facts);
        let running = Actual { jail: JailState::Running(Access::ReadWrite), ids: Ids::Given, ..Actual::NEVER_RAN };
        let differs = |tenant: &Tenant, host: &HostNetwork, actual: &InForce| -> Vec<String> {
            let known = Declaration::Known(tenant);
            let rows = difference(&tenant.name, known, &running, Some(actual), &facts, host).into_iter();
            let rows = rows.filter(|row| row.action != Action::HostUser);
            rows.map(|row| format!("{}: {} -> {} ({:?})", row.what, row.actual, row.declared, row.action)).collect()
        };
        assert_eq!(differs(&tenant, &host, &actual), [""; 0]);
        tenant.settings.network = Network::with_mode(NetworkMode::Outbound);
        assert_eq!(differs(&tenant, &host, &actual), ["network: none -> outbound (Restart)"]);
        let jail = actual.jail.as_mut().expect("runs");
        jail.connected = Some(true);
        let settings = network::settings(&tenant, &host);
        jail.network = Some(NetworkInForce { resolvers: host.resolvers.clone(), settings });
        assert_eq!(differs(&tenant, &host, &actual), [""; 0]);
        tenant.settings.network.smtp = true;
        tenant.settings.network.connections = 77;
        let live = ["network.connections: 2000 -> 77 (Live)", "network.smtp: false -> true (Live)"];
        assert_eq!(differs(&tenant, &host, &actual), live);
        tenant.settings.network = Network::with_mode(NetworkMode::Outbound);
        let peer = "bob".parse().expect("a name");
        let port = "tcp/5432".parse().expect("a port");
        tenant.links = vec![Link { peer, direction: LinkDirection::To, port }];
        assert_eq!(differs(&tenant, &host, &actual), ["network.link: [] -> [\"to bob tcp/5432\"] (Live)"]);
        tenant.links.clear();
        let blocks = HostNetwork { block: vec!["192.0.2.0/24".parse().expect("a prefix")], ..host.clone() };
        assert_eq!(differs(&tenant, &blocks, &actual), ["network.block: [] -> [\"192.0.2.0/24\"] (Live)"]);
        let others = HostNetwork { resolvers: vec![IpAddr::from([192, 0, 2, 54])], ..host.clone() };
        let golden = ["network.resolvers: 192.0.2.53 -> 192.0.2.54 (Restart)"];
        assert_eq!(differs(&tenant, &others, &actual), golden);
        assert_eq!(differs(&tenant, &HostNetwork::default(), &actual), [""; 0], "those of the host");
        let cached = HostNetwork { cache: true, ..host.clone() };
        let golden = ["network.resolvers: 192.0.2.53 -> the cache at 100.64.0.3 (Restart)"];
        assert_eq!(differs(&tenant, &cached, &actual), golden);
        let mut asks_cache = actual.clone();
        let resolvers = vec![IpAddr::from([100, 64, 0, 3])];
        asks_cache.jail.as_mut().and_then(|jail| jail.network.as_mut()).expect("it has one").resolvers = resolvers;
        assert_eq!(differs(&tenant, &cached, &asks_cache), [""; 0]);
        let golden = ["network.resolvers: 100.64.0.3 -> 192.0.2.53 (Restart)"];
        assert_eq!(differs(&tenant, &host, &asks_cache), golden);
        let golden = ["network.resolvers: 100.64.0.3 -> those of the host (Restart)"];
        assert_eq!(differs(&tenant, &HostNetwork::default(), &asks_cache), golden);
        tenant.settings.network = Network::default();
        assert_eq!(differs(&tenant, &host, &actual), ["network: connected -> none (Restart)"]);
        actual.jail.as_mut().expect("runs").connected = None;
        assert_eq!(differs(&tenant, &host, &actual), [""; 0], "an earlier warden does not say");
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

    #[test]
    fn deleted_and_invalid_tenants_and_host_users() {
        let name: TenantName = "alice".parse().expect("a name");
        let facts = bare_host();
        let rows = |declaration, actual: Actual| -> Vec<String> {
            let changes = difference(&name, declaration, &actual, None, &facts, &HostNetwork::default()).into_iter();
            changes.map(|row| format!("{}: {} -> {} ({:?})", row.what, row.actual, row.declared, row.action)).collect()
        };
        let down = Actual { ids: Ids::Given, ..Actual::NEVER_RAN };
        let user = Actual { host_user: HostUser::Present, ..down };
        let read_only = Actual { jail: JailState::Running(Access::ReadOnly), ..user };
        let (stop, remove) = ("state: running -> deleted (Stop)", "host user: there -> none (HostUser)");
        assert_eq!(rows(Declaration::Deleted, read_only), [stop, remove]);
        assert_eq!(rows(Declaration::Deleted, user), [remove]);
        assert_eq!(rows(Declaration::Deleted, down), [""; 0]);
        assert_eq!(rows(Declaration::Unknown, read_only), [""; 0]);
        let (_, tenant) = limited("");
        let known = Declaration::Known(&tenant);
        let start = "state: down -> active (Start)";
        assert_eq!(rows(known, Actual { jail: JailState::Clearing, ..down }), [start]);
        assert_eq!(rows(known, Actual { jail: JailState::Preparing, ..user }), [start, remove]);
        let tenant = Tenant {
            settings: bailiwick_policy::Settings {
                doors: [bailiwick_types::Door::Ssh].into(),
                ..tenant.settings.clone()
            },
            ..tenant.clone()
        };
        let made = "host user: none -> there (HostUser)";
        assert_eq!(rows(Declaration::Known(&tenant), Actual::NEVER_RAN), [start, made]);
        let tenant = Tenant { state: Declared::Suspended { reason: None }, ..tenant.clone() };
        assert_eq!(rows(Declaration::Known(&tenant), Actual::NEVER_RAN), [""; 0], "no id to give to it");
        assert_eq!(rows(Declaration::Known(&tenant), down), [made]);
    }
}
