//! Properties: a dumped policy reads as the same policy, and any bytes give a policy or diagnostics.

use bailiwick_diagnostics::render;
use bailiwick_policy::{
    Declared, EtcSettings, EventsKept, FtpLogin, Host, HostMail, HostSocket, Log, Login, Mail, MetricsSettings,
    NoticeSettings, Pass, Plan, Policy, Principal, Reading, Reserve, Run, Service, ServiceLimits, ServiceSocket,
    ServiceUser, Settings, Sleep, Stop, Tenant, Timer, Web,
};
use bailiwick_policy::{dump, parse};
use bailiwick_types::{
    Bound, ByteSize, Contact, Count, CpuShare, Door, HostNetwork, IdPool, LimitKey, LimitValue, Limits, MetricsDetail,
    Nesting, Network, Notice, NoticeLanguage, NoticeResource, Period, PlanName, Profile, Readiness, Resource, Restart,
    SoftHard, StopSignal, TenantName, Threshold,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::PathBuf;
use std::str::FromStr;

fn bound<T: Debug + Clone + 'static>(value: impl Strategy<Value = T> + 'static) -> BoxedStrategy<Bound<T>> {
    prop_oneof![Just(Bound::Unlimited), value.prop_map(Bound::At)].boxed()
}

fn size(min: u64) -> impl Strategy<Value = ByteSize> {
    prop_oneof![(min..1 << 50), (min >> 10..1 << 40).prop_map(|k| (k << 10).max(1 << 24))].prop_map(ByteSize)
}

fn pair<T: Debug + Ord + Copy>(value: impl Strategy<Value = T> + Clone) -> impl Strategy<Value = SoftHard<T>> {
    (value.clone(), value).prop_map(|(a, b)| SoftHard { soft: a.min(b), hard: a.max(b) })
}

/// The lower of two bounds that must be in order.
fn at_most<T: Ord + Copy>(low: Bound<T>, high: Bound<T>) -> Bound<T> {
    match (low, high) {
        (Bound::At(low), Bound::At(high)) => Bound::At(low.min(high)),
        _ => low,
    }
}

prop_compose! {
    fn processor()(
        cpu in bound((1000u64..1_000_000_000).prop_map(CpuShare)),
        burst in bound((0u64..1_000_000_000).prop_map(CpuShare)),
        cpu_weight in 1u32..=10_000,
        tasks in bound(8u64..=4_194_304),
        sessions in bound(1u64..=65_536),
        sessions_ssh in bound(1u64..=65_536),
        open_files in 64u64..=1_048_576,
    ) -> Limits {
        Limits { cpu, cpu_burst: at_most(burst, cpu), cpu_weight, tasks, sessions, sessions_ssh, open_files, ..Limits::default() }
    }
}

prop_compose! {
    fn storage()(
        (memory, high, swap) in (bound(size(16 << 20)), bound(size(16 << 20)), bound(size(0))),
        (io_read, io_write) in (bound(size(64 << 10)), bound(size(64 << 10))),
        (iops_read, iops_write) in (bound((10u64..1_000_000_000).prop_map(Count)), bound(Just(Count(7_000_000)))),
        io_weight in 1u32..=10_000,
        disk in bound(pair((1u64 << 20..1 << 50).prop_map(ByteSize))),
        disk_grace in (60u64..3650 * 86_400).prop_map(Period),
        inodes in bound(pair((100u64..1_000_000_000).prop_map(Count))),
        (tmp, shm) in (size(64 << 10), size(64 << 10)),
        limits in processor(),
    ) -> Limits {
        let memory_high = at_most(high, memory);
        Limits {
            memory, memory_high, swap, io_read, io_write, iops_read, iops_write, io_weight, disk, disk_grace, inodes,
            tmp, shm, ..limits
        }
    }
}

prop_compose! {
    fn settings()(
        image in name(),
        (profile, nests) in (select(Profile::ALL), any::<bool>()),
        doors in subsequence(Door::ALL, 0..=Door::ALL.len()),
        suspended in subsequence(Door::OF_THE_SUSPENDED, 0..=Door::OF_THE_SUSPENDED.len()),
        limits in storage(),
        services in services(),
        sleep in option::of((70u64..30 * 86_400, option::of(10u64..60))),
        host_sockets in btree_set(name(), 0..3),
        mail in option::of((1..=Mail::MOST_PER_HOUR, 1..=Mail::MOST_RECIPIENTS, (64u64 << 10)..(100 << 20))),
        notices in notices(),
    ) -> Settings {
        let (doors, suspended_doors) = (doors.into_iter().collect(), suspended.into_iter().collect());
        let mail = mail.map(|(per_hour, recipients, size)| Mail { per_hour, recipients, size: ByteSize(size) });
        let sleep = sleep.map(|(after, freeze_after)| Sleep { after: Period(after), freeze_after: freeze_after.map(Period) });
        // No network is served yet. The unit tests of the crate write and read one.
        let network = Network::default();
        let nesting = Nesting::from(nests && profile == Profile::System);
        Settings {
            image, profile, nesting, doors, suspended_doors, limits, services, sleep, mail, host_sockets, network, notices
        }
    }
}

/// Rules without two for the same people.
fn notices() -> impl Strategy<Value = Vec<Notice>> {
    let words = |words: &'static [&'static str]| subsequence(words, 1..=words.len());
    let at = (words(&["5%", "70%", "100%"]), words(&["soft", "grace:1d", "hard"]));
    let to = words(&["tenant", "admin", "o'hara+a@example.org"]);
    let rule = (select(&NoticeResource::ALL[..6]), at, to, option::of(3600u64..=365 * 86_400), 1u8..5, any::<bool>());
    vec(rule, 0..4).prop_map(|rules| {
        let mut all: Vec<Notice> = Vec::new();
        for (resource, (shares, others), to, repeat, clear, is_silent) in rules {
            let others = others.into_iter().filter(|word| resource.has_soft() || *word == "hard");
            let at = shares.into_iter().chain(others).map(|word| word.parse().expect("a threshold"));
            let at = if is_silent { BTreeSet::new() } else { at.collect() };
            let to = if is_silent {
                BTreeSet::new()
            } else {
                to.iter().map(|word| word.parse().expect("a recipient")).collect()
            };
            let clear = if is_silent { Notice::default_clear(&at) } else { clear };
            let notice = Notice { resource, at, clear, to, repeat: repeat.map(Period) };
            let has_shares = Notice::lowest_share(&notice.at).is_some();
            let notice =
                if has_shares { notice } else { Notice { clear: Notice::default_clear(&notice.at), ..notice } };
            if all.iter().all(|other| (other.resource, &other.to) != (notice.resource, &notice.to)) {
                all.push(notice);
            }
        }
        all
    })
}

/// A name that is never a reserved word, because none of those ends in `_`.
fn name<T: FromStr<Err: Debug> + Debug>() -> impl Strategy<Value = T> {
    "[a-z_][a-z0-9_-]{0,6}_".prop_map(|text| text.parse().expect("a name"))
}

fn text_without(refused: fn(char) -> bool) -> impl Strategy<Value = String> {
    any::<String>().prop_map(move |text| text.chars().filter(|c| !refused(*c)).collect())
}

prop_compose! {
    fn service()(
        name in name(),
        program in text_without(|c| c == '\0'),
        arguments in vec(text_without(|c| c == '\0'), 0..4),
        user in select(vec![ServiceUser::Login, ServiceUser::Root]),
        directory in option::of(text_without(|c| c == '\0').prop_map(|path| format!("/{path}"))),
        env in btree_map(text_without(|c| c == '=' || c.is_control()).prop_map(|name| format!("{name}_")), text_without(|c| c == '\0'), 0..3),
        restart in select(Restart::ALL),
        stop in (select(StopSignal::ALL), 1u64..=300).prop_map(|(signal, within)| Stop { signal, within: Period(within) }),
        ready in select(Readiness::ALL),
        log in (4u64 << 10..=1 << 30, 0u32..=20).prop_map(|(size, keep)| Log { size: ByteSize(size), keep }),
        (memory, tasks, cpu) in (option::of(1u64 << 20..1 << 40), option::of(1u64..1000), option::of(1000u64..1_000_000)),
        sockets in vec(socket(), 0..3),
    ) -> Service {
        let is_relayed = sockets.iter().any(|socket| matches!(socket.pass, Pass::Relay(_)));
        let ready = if ready == Readiness::Connect && !is_relayed { Readiness::None } else { ready };
        let limits = ServiceLimits { memory: memory.map(ByteSize), tasks, cpu: cpu.map(CpuShare) };
        let command = [format!("/{program}")].into_iter().chain(arguments).collect();
        Service { user, directory, env, restart, stop, ready, log, limits, sockets, ..Service::new(name, Run::Command(command)) }
    }
}

prop_compose! {
    fn socket()(
        name in name(),
        pass in prop_oneof![
            Just(Pass::Fd),
            text_without(|c| matches!(c, '=' | ',') || c.is_control()).prop_map(|path| Pass::Fpm(format!("/{path}"))),
            (select(vec!["127.0.0.1", "127.9.8.7", "::1"]), 1u16..).prop_map(|(ip, port)| {
                Pass::Relay((ip.parse::<std::net::IpAddr>().expect("an address"), port).into())
            }),
        ],
        backlog in 1u32..=4096,
        entries in option::of(1u64..=100_000),
    ) -> ServiceSocket {
        ServiceSocket { name, pass, backlog, entries }
    }
}

prop_compose! {
    /// Services without two of one name, of which each comes after some that are before it.
    fn services()(services in vec((service(), any::<bool>(), any::<bool>()), 0..4)) -> Vec<Service> {
        let (mut made, mut sockets): (Vec<Service>, BTreeSet<_>) = Default::default();
        for (mut service, is_after, has_files) in services {
            if made.iter().any(|other| other.name == service.name) {
                continue;
            }
            service.sockets.retain(|socket| sockets.insert(socket.name.clone()));
            if !service.sockets.iter().any(|socket| matches!(socket.pass, Pass::Relay(_))) {
                service.ready = Readiness::None;
            }
            if let ([socket], true) = (service.sockets.as_mut_slice(), has_files) {
                let path = if is_after { "www/ä b" } else { "/home/ä b/www" };
                service.run = Run::Files(path.to_owned());
                socket.pass = Pass::Fd;
                service.ready = Readiness::None;
            }
            if is_after {
                service.after.extend(made.iter().map(|other: &Service| other.name.clone()));
            }
            made.push(service);
        }
        made
    }
}

prop_compose! {
    fn timer()(
        name in name(),
        schedule in select(vec!["daily", "*:0/5", "Mon..Fri 08:30 UTC", "*/5 * * * *", "@weekly", "*-02~01"]),
        arguments in vec(text_without(|c| c == '\0'), 0..3),
    ) -> Timer {
        let command = ["/bin/true".to_owned()].into_iter().chain(arguments).collect();
        Timer { name, schedule: schedule.parse().expect("a schedule"), command }
    }
}

prop_compose! {
    fn ftp()(
        name in name(),
        method in select(vec!["$y$j9T$salt$", "$2b$10$", "$6$salt$", "$5$rounds=5000$salt$"]),
        hash in "[./0-9A-Za-z]{53}",
        names in vec(text_without(|c| c == '/' || c.is_control()), 0..3),
        sessions in option::of(1u64..9_000_000),
    ) -> FtpLogin {
        let directory = names.iter().map(|name| format!("{name}_")).collect::<Vec<_>>().join("/");
        FtpLogin { name, password: format!("{method}{hash}").parse().expect("a hash"), directory, sessions }
    }
}

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ";

fn contact() -> Contact {
    Contact {
        mail: ["a@b", "c-d@example.org"].map(|text| text.parse().expect("an address")).into(),
        language: Some(NoticeLanguage::De),
    }
}

prop_compose! {
    fn tenant()(
        state in prop_oneof![
            Just(Declared::Active),
            option::of(text_without(char::is_control)).prop_map(|reason| Declared::Suspended { reason }),
        ],
        settings in settings(),
        user in name(),
        remarks in vec(text_without(char::is_control), 0..3),
        timers in vec(timer(), 0..3),
        mut ftp in vec(ftp(), 0..3),
        plan in any::<proptest::sample::Index>(),
    ) -> (proptest::sample::Index, Tenant) {
        ftp.sort_by(|a, b| a.name.cmp(&b.name));
        ftp.dedup_by(|a, b| a.name == b.name);
        let mut timers = timers;
        timers.sort_by(|a, b| a.name.cmp(&b.name));
        timers.dedup_by(|a, b| a.name == b.name);
        let ssh_keys = remarks.into_iter().map(|remark| format!("{KEY}{remark}")).collect();
        let login = Login { user, ssh_keys };
        // The names are set when the tenant is added to the policy.
        let name = "placeholder".parse().expect("a name");
        (plan, Tenant { name, plan: "placeholder".parse().expect("a name"), state, settings, login, timers, ftp, contact: contact(), links: Vec::new() })
    }
}

prop_compose! {
    fn host()(
        dirs in select(vec![("/a", "/b"), ("/var/lib/bailiwick", "/run/x y"), ("/ä", "/\"quoted\"")]),
        first in 165_536u32..=u32::MAX,
        require in btree_set(select(&Resource::ALL[..]), 0..4),
        admins in btree_set(prop_oneof![
            "[a-zA-Z0-9._$@]{1,9}".prop_map(Principal::User),
            "[a-zA-Z0-9._$@]{1,9}".prop_map(Principal::Group),
        ], 0..4),
        observers in btree_set("[a-z0-9][a-z0-9._-]{0,9}".prop_map(Principal::User), 0..3),
        metrics in (select(&MetricsDetail::ALL[..]), 1u64..=600),
        syslog in any::<bool>(),
        (memory, tasks, disk) in (size(0), 0u64..1 << 40, size(0)),
        (user, login_group, notifier) in ("[a-z]{1,8}_", "[a-z]{1,8}_", "[a-z]{1,8}-"),
        rules in notices(),
        (silent, keep, most) in (option::of(1u64..=86_400), 3600u64..=400 * 86_400, 1000u32..=1_000_000),
        group in option::of("[a-z]{1,8}_"),
        mail in ("(/[a-z]{1,4}){1,3}_", option::of("[a-z]{1,8}\\.[a-z0-9]{1,3}")),
        lent in btree_map(name(), ("/run/[a-z]{1,8}_/[ -.0-~]{1,8}_", 1u32..=HostSocket::MAX_CONNECTIONS), 0..3),
    ) -> Host {
        let lent = lent.into_iter();

        Host {
            state_dir: PathBuf::from(dirs.0),
            runtime_dir: PathBuf::from(dirs.1),
            ids: IdPool::new(first, 65_536).expect("a pool"),
            require,
            syslog,
            reserve: Reserve { memory, tasks, disk },
            admins: admins.into_iter().collect(),
            observers: observers.into_iter().collect(),
            user,
            login_group,
            web: Web { group },
            replace_silent_init: silent.map(Period),
            etc: EtcSettings { extra: vec!["php/8.4".to_owned()], never: vec!["fonts".to_owned(), "x\"y".to_owned()] },
            mail: HostMail { command: mail.0.into(), domain: mail.1 },
            host_sockets: lent
                .map(|(name, (path, connections))| (name, HostSocket { path: path.into(), connections }))
                .collect(),
            network: HostNetwork::default(),
            events: EventsKept { keep: Period(keep), most },
            metrics: MetricsSettings { tenants: metrics.0, cache: Period(metrics.1) },
            notices: NoticeSettings { user: notifier, every: Period(metrics.1) },
            default_notices: rules,
            contact: contact(),
        }
    }
}

/// Settings without a word that nothing serves.
fn served(settings: Settings, host: &Host) -> Settings {
    let host_sockets = settings.host_sockets.into_iter().filter(|name| host.host_sockets.contains_key(name)).collect();
    let is_awake = settings.services.iter().any(|service| service.sockets.is_empty());
    Settings { host_sockets, sleep: settings.sleep.filter(|_| !is_awake), ..settings }
}

/// A tenant with the door of each of its timers, logins and sockets, and without notices of what it has no limit of.
fn with_doors(mut tenant: Tenant) -> Tenant {
    let limits = tenant.settings.limits.clone();
    tenant.settings.notices.retain(|notice| {
        let value = notice.resource.word().parse().ok().and_then(|key: LimitKey| limits.value(key));
        let needs_soft = notice.at.iter().any(|threshold| matches!(threshold, Threshold::Soft | Threshold::Grace(_)));
        match value {
            Some(LimitValue::At(pair)) => !needs_soft || pair.soft != pair.hard,
            _ => false,
        }
    });
    let has_sockets = tenant.settings.services.iter().any(|service| !service.sockets.is_empty());
    let needs =
        [(Door::Cron, !tenant.timers.is_empty()), (Door::Ftp, !tenant.ftp.is_empty()), (Door::Socket, has_sockets)];
    tenant.settings.doors.extend(needs.into_iter().filter(|(_, is_needed)| *is_needed).map(|(door, _)| door));
    tenant
}

prop_compose! {
    fn policy()(
        host in host(),
        plans in btree_map(name::<PlanName>(), (settings(), any::<bool>()), 1..5),
        tenants in btree_map(name(), tenant(), 0..4),
    ) -> Policy {
        let mut parent = None;
        let mut made = BTreeMap::new();
        for (name, (settings, inherits)) in plans {
            let settings = served(settings, &host);
            let plan = Plan { name: name.clone(), parent: parent.take().filter(|_| inherits), settings };
            parent = Some(name.clone());
            made.insert(name, plan);
        }
        let plan_names: Vec<_> = made.keys().cloned().collect();
        let tenants: BTreeMap<_, _> = tenants.into_iter().map(|(name, (plan, tenant)): (TenantName, _)| {
            let settings = served(tenant.settings.clone(), &host);
            (name.clone(), with_doors(Tenant { name, plan: plan.get(&plan_names).clone(), settings, ..tenant }))
        }).collect();
        Policy { host, tenants, plans: made }
    }
}

fn clean(reading: Reading) -> Policy {
    assert!(reading.diagnostics.is_empty() && reading.invalid.is_empty(), "{}", render(&reading.diagnostics));
    reading.policy.expect("no diagnostics, so a policy")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_dumped_policy_reads_to_itself(policy in policy()) {
        prop_assert_eq!(clean(parse(&dump(&policy))), policy);
    }

    /// Removes lines from complete files, so that their values come from elsewhere.
    #[test]
    fn what_was_inherited_is_dumped_in_full(policy in policy(), kept in vec(any::<bool>(), 200)) {
        let mut kept = kept.into_iter().cycle();
        let files: Vec<(PathBuf, String)> = dump(&policy)
            .into_iter()
            .map(|(path, content)| {
                let needed = ["plan ", "[", "name ", "command ", "files ", "pass ", "path ", "to ", "state ", "suspend_reason ",
                    "resource ", "at ", "mail "];
                let keep = |line: &&str| needed.iter().any(|start| line.starts_with(start)) || kept.next() == Some(true);
                (path, content.lines().filter(keep).map(|line| format!("{line}\n")).collect())
            })
            .collect();
        let reading = parse(&files);
        let policy = reading.policy.expect("the host's keys all have defaults");
        prop_assert_eq!(policy.tenants.len() + reading.invalid.len(), files.iter().filter(|f| f.0.starts_with("tenants.d")).count());
        prop_assert_eq!(clean(parse(&dump(&policy))), policy);
    }

    #[test]
    fn no_bytes_make_it_panic(host in vec(any::<u8>(), 0..64), plan in any::<String>(), tenant in "(\\PC|\n|\"|=|\\[|\\]){0,99}") {
        let files = [
            (PathBuf::from("bailiwick.toml"), host),
            (PathBuf::from("plans.d/small.toml"), plan.into_bytes()),
            (PathBuf::from("tenants.d/alice.toml"), tenant.into_bytes()),
        ];
        let reading = parse(&files);
        prop_assert_eq!(render(&reading.diagnostics).is_empty(), reading.diagnostics.is_empty());
        prop_assert!(reading.invalid.len() == 1 || reading.policy.is_none_or(|policy| policy.tenants.len() == 1));
    }

    /// Good files with damage in one place reach more code than random bytes do.
    #[test]
    fn damaged_files_do_not_make_it_panic(policy in policy(), at in any::<proptest::sample::Index>(), with in any::<Vec<u8>>()) {
        let mut files: Vec<(PathBuf, Vec<u8>)> =
            dump(&policy).into_iter().map(|(path, content)| (path, content.into_bytes())).collect();
        for (_, content) in &mut files {
            let at = at.index(content.len());
            content.splice(at..at + 1, with.iter().copied());
        }
        let diagnostics = parse(&files).diagnostics;
        prop_assert_eq!(render(&diagnostics).is_empty(), diagnostics.is_empty());
    }
}
