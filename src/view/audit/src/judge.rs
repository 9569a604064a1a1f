//! Judges one tenant: every wall, every limit, and the verdict.

use crate::finding::{self, FindingKind, Violation, findings, list};
use crate::walls::{self, Wall};
use crate::{ftp, lending, limit, mounts};
use bailiwick_observe::PoolBacking;
use bailiwick_plan::lifecycle::{self, Declaration, DesiredJail};
use bailiwick_plan::mount::{confinement, table};
use bailiwick_policy::{Host, Tenant};
use bailiwick_types::{Access, HostFacts, Observed, SocketName, TenantReport, Verdict, WallReport};
use std::collections::BTreeMap;
use std::path::Path;

/// Judges one tenant by an observation of it. For a tenant that is down, it reports the disk limits and the processes
/// that are left over.
#[must_use]
pub fn judge(tenant: &Tenant, host: &Host, facts: &HostFacts, observed: &Observed) -> TenantReport {
    judge_where(tenant, host, facts, observed, &is_present)
}

/// Whether the host has a path below `/proc` or `/sys`. In a sandbox whose `/proc` has only processes, absence cannot
/// be observed. There every path counts as present.
fn is_present(path: &str) -> bool {
    Path::new(path).exists() || !Path::new("/proc/filesystems").exists()
}

fn judge_where(
    tenant: &Tenant,
    host: &Host,
    facts: &HostFacts,
    observed: &Observed,
    present: mounts::Presence<'_>,
) -> TenantReport {
    let Some(jail) = &observed.jail else {
        let violations: Vec<Violation> = walls::stray_violation(&observed.strays).into_iter().collect();
        return TenantReport {
            name: tenant.name.clone(),
            verdict: verdict(&violations).max(Verdict::Down),
            walls: Vec::new(),
            probes: Vec::new(),
            limits: limit::disk(tenant, facts, observed.disk.as_ref()).0,
            findings: findings(&tenant.name, &violations),
        };
    };
    let (apart, sessions) = ftp::apart(jail);
    let (apart, lenders) = lending::apart(&apart);
    let jail = &*apart;
    // The jail is compared with the plan for the access that it was made with. A jail with another access than declared
    // is a finding of its own.
    let (rows, _) = table(tenant.settings.profile, jail.access, &tenant.settings.limits, facts);
    let profile = confinement(tenant.settings.profile, jail.access);
    let all: Vec<Wall> = [
        walls::namespaces(profile, observed.ids, jail),
        walls::id_maps(observed.ids, jail),
        mounts::mounts(profile, &rows, jail, present),
        mounts::masks(profile, &rows, jail, present),
        walls::capabilities(profile, jail),
        walls::seccomp(jail),
        walls::no_new_privs(profile, jail),
    ]
    .into_iter()
    .chain(walls::landlock(tenant.settings.profile, jail))
    .chain(walls::network(tenant, profile, jail))
    .chain(walls::priorities(jail))
    .chain([walls::membership(&observed.strays, jail)])
    .chain(ftp::wall(jail, &sessions))
    .chain(lending::wall(tenant, host, observed.ids, jail, &lenders))
    .collect();
    let (limits, limit_violations) = limit::limits(tenant, host, facts, jail, observed.disk.as_ref());

    let reports: Vec<WallReport> = all.iter().map(report).collect();
    let mut violations: Vec<Violation> =
        all.into_iter().flat_map(|wall| wall.violations).chain(limit_violations).collect();
    let desired = lifecycle::desired(Declaration::Known(tenant)).jail;
    if desired.access() != Some(jail.access) {
        let (kind, what) = match (desired, jail.access) {
            (DesiredJail::Running(Access::ReadWrite) | DesiredJail::OnDemand(Access::ReadWrite), _) => {
                (finding::ACTIVE_READ_ONLY, "it was made while the tenant was suspended")
            }
            (_, Access::ReadWrite) => (finding::SUSPENDED_RUNS, "its storage can be written"),
            (_, Access::ReadOnly) => (finding::SUSPENDED_RUNS, "no door of it stays open"),
        };
        violations.push(kind.violation(format!("{what}; init is {}", walls::shown(&jail.init))));
    }
    let worst = limits.iter().map(|limit| limit.verdict).max().unwrap_or(Verdict::Enforced);
    TenantReport {
        name: tenant.name.clone(),
        verdict: worst.max(verdict(&violations)),
        walls: reports,
        limits,
        probes: Vec::new(),
        findings: findings(&tenant.name, &violations),
    }
}

/// Adds to a report that the jail's init has not answered for `seconds`. Only `bailiwickd` asks init, so only it knows
/// this.
pub fn add_silence(report: &mut TenantReport, seconds: u64) {
    let violations = [finding::INIT_SILENT.violation(format!("init has not answered for {seconds} s"))];
    report.verdict = report.verdict.max(verdict(&violations));
    report.findings.extend(findings(&report.name, &violations));
}

pub(crate) fn verdict(violations: &[Violation]) -> Verdict {
    violations.iter().map(|violation| violation.kind.verdict()).max().unwrap_or(Verdict::Enforced)
}

fn report(wall: &Wall) -> WallReport {
    let verdict = verdict(&wall.violations);
    let evidence = if wall.violations.is_empty() {
        wall.evidence.clone()
    } else {
        list(wall.violations.iter().map(|violation| format!("{} {}", violation.kind.id, violation.evidence)))
    };
    WallReport { wall: wall.name.to_owned(), evidence, verdict }
}

/// Adds to a report that it uses the last version of the tenant's files without errors.
pub fn add_last_good(report: &mut TenantReport) {
    let violation = finding::LAST_GOOD.violation("its file, or its plan, has an error".to_owned());
    report.findings.extend(findings(&report.name.clone(), &[violation]));
    report.verdict = report.verdict.max(finding::LAST_GOOD.verdict());
}

/// What `bailiwickd` knows of a tenant's services, each item as evidence of one finding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicesSeen {
    /// Sockets that are not as declared.
    pub wrong_sockets: Vec<String>,
    /// Sockets that the tenant shut down.
    pub broken_sockets: Vec<String>,
    /// Services that have failed or are started again and again.
    pub failing: Vec<String>,
}

/// Adds to a report what is wrong with the tenant's services. Only `bailiwickd` holds their sockets and asks init about them.
pub fn add_services(report: &mut TenantReport, seen: ServicesSeen) {
    let ServicesSeen { wrong_sockets, broken_sockets, failing } = seen;
    let kinds = [
        (finding::WEB_SOCKET_WRONG, wrong_sockets),
        (finding::LISTENER_BROKEN, broken_sockets),
        (finding::SERVICE_FAILING, failing),
    ];
    let of_kind = |(kind, evidence): (FindingKind, Vec<String>)| {
        (!evidence.is_empty()).then(|| kind.violation(list(evidence.into_iter())))
    };
    let violations: Vec<Violation> = kinds.into_iter().filter_map(of_kind).collect();
    report.verdict = report.verdict.max(verdict(&violations));
    report.findings.extend(findings(&report.name, &violations));
}

/// Adds to the report of a tenant that is asleep that it has processes. Only `bailiwickd` knows whether an operator
/// stopped it.
pub fn add_asleep(report: &mut TenantReport, observed: &Observed) {
    if observed.jail.is_some() || observed.strays.is_empty() {
        return;
    }
    let pids = list(observed.strays.iter().map(|process| format!("process {}", process.pid)));
    add(report, finding::ASLEEP_WITH_PROCESSES.violation(format!("it is asleep, and has {pids}")));
}

/// Adds to the report of a tenant that is frozen because it is idle that its sockets have connections, by socket.
pub fn add_frozen(report: &mut TenantReport, connections: &BTreeMap<SocketName, u64>) {
    let busy: Vec<String> = connections
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(socket, count)| format!("{count} of its socket \"{socket}\""))
        .collect();
    if !busy.is_empty() {
        let evidence = format!("it is frozen because it was idle, and connections wait: {}", list(busy.into_iter()));
        add(report, finding::FROZEN_WITH_CONNECTIONS.violation(evidence));
    }
}

/// Adds to the report of a tenant what is wrong with the file that the tenants' disk is in. The finding is the host's.
pub fn add_pool(report: &mut TenantReport, pool: Option<&PoolBacking>) {
    let problems = pool.map(PoolBacking::problems).unwrap_or_default();
    if let (Some(pool), false) = (pool, problems.is_empty()) {
        let kind = if pool.is_cut() { finding::POOL_CUT } else { finding::POOL_UNBACKED };
        add(report, kind.violation(list(problems.into_iter())));
        report.findings.iter_mut().filter(|finding| finding.id == kind.id).for_each(|finding| finding.tenant = None);
    }
}

fn add(report: &mut TenantReport, violation: Violation) {
    report.verdict = report.verdict.max(violation.kind.verdict());
    report.findings.extend(findings(&report.name, &[violation]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{NetworkSeen, RouterProblem, add_network};
    use bailiwick_plan::capability::CapabilitySet;
    use bailiwick_plan::control::{Value, controls};
    use bailiwick_plan::mount::{HOST_ETC, HOST_ETC_LAYER, JAIL_TMPFS_SIZE, Mount, Source, TERMINALS};
    use bailiwick_policy::{Declared, Login, Reserve, Settings};
    use bailiwick_types::{
        Bound, ByteRate, ByteSize, Count, DiskFact, ForeignSocket, GroupSetting, IdPool, IdRange, LimitFact, LimitKey,
        Limits, MountFact, NAMESPACES, ObservedJail, ProcessFacts, ProcessRank, Profile, QuotaFact, QuotaFacts,
        Resource, SocketFacts, StorageFacts, Visitor,
    };
    use bailiwick_types::{
        Hierarchy, MonthlyVolume, Nesting, Network, NetworkFacts, NetworkLimits, NetworkMode, NetworkTraffic, WhenOver,
    };
    use std::collections::BTreeMap;

    const IDS: IdRange = IdRange { first: 10_000_000, count: 65_536 };

    fn facts() -> HostFacts {
        HostFacts {
            kernel: "6.18".to_owned(),
            landlock_abi: 7,
            controllers: ["cpu", "memory", "pids"].map(|name| (name.to_owned(), Hierarchy::V1)).into(),
            root_links: BTreeMap::new(),
            host_etc: HOST_ETC.iter().map(|entry| (*entry).to_owned()).collect(),
            unlisted: ["kcore", "cmdline", "sys/fs/file-nr"].map(|name| format!("/proc/{name}")).into(),
            storage: StorageFacts { fs_type: "xfs".to_owned(), quota: QuotaFacts::Projects, devices: Vec::new() },
        }
    }

    fn host() -> Host {
        Host {
            state_dir: "/var/lib/bailiwick".into(),
            runtime_dir: "/run/bailiwick".into(),
            ids: IdPool::default(),
            require: [Resource::Memory].into(),
            syslog: false,
            reserve: Reserve { memory: ByteSize(0), tasks: 0, disk: ByteSize(0) },
            admins: Vec::new(),
            observers: Vec::new(),
            user: "bailiwick".to_owned(),
            login_group: "bailiwick-tenants".to_owned(),
            replace_silent_init: None,
            web: bailiwick_policy::Web { group: None },
            etc: bailiwick_policy::EtcSettings::default(),
            mail: bailiwick_policy::HostMail::default(),
            host_sockets: BTreeMap::new(),
            network: bailiwick_types::HostNetwork::default(),
            events: bailiwick_policy::EventsKept::default(),
            metrics: bailiwick_policy::MetricsSettings::default(),
            notices: bailiwick_policy::NoticeSettings::default(),
            default_notices: Vec::new(),
            contact: bailiwick_types::Contact::default(),
        }
    }

    fn tenant(profile: Profile) -> Tenant {
        Tenant {
            name: "alice".parse().expect("name"),
            plan: "small".parse().expect("name"),
            state: Declared::Active,
            settings: Settings {
                nesting: Nesting::Refused,
                image: "host".parse().expect("name"),
                profile,
                doors: [].into(),
                suspended_doors: [].into(),
                limits: Limits { disk: Bound::At("1G".parse().expect("a pair")), ..Limits::default() },
                services: Vec::new(),
                sleep: None,
                mail: None,
                host_sockets: ["mysql".parse().expect("name")].into(),
                notices: Vec::new(),
                network: Network::default(),
            },
            login: Login { user: "alice".parse().expect("name"), ssh_keys: Vec::new() },
            timers: Vec::new(),
            ftp: Vec::new(),
            contact: bailiwick_types::Contact::default(),
            links: Vec::new(),
        }
    }

    fn groups(unified: &str, v1: &str) -> BTreeMap<String, String> {
        let v1 = ["cpu", "memory", "pids"].map(|name| (name.to_owned(), v1.to_owned()));
        v1.into_iter().chain([("unified".to_owned(), unified.to_owned())]).collect()
    }

    fn process(profile: Profile, pid: u32) -> ProcessFacts {
        let set = CapabilitySet::of(profile).0;
        ProcessFacts {
            pid,
            start_time: u64::from(pid),
            command: "init".to_owned(),
            uids: [IDS.first; 4],
            namespaces: NAMESPACES.iter().zip(100..).map(|(kind, inode)| ((*kind).to_owned(), inode)).collect(),
            cap_bounding: set,
            cap_permitted: set,
            cap_inheritable: 0,
            cap_ambient: 0,
            no_new_privs: profile == Profile::Web,
            seccomp: 2,
            seccomp_filters: 1,
            cgroups: groups("/bailiwick/alice/jail", "/bailiwick/alice"),
            rank: Some(ProcessRank {
                nice: 0,
                scheduler: 0,
                oom_score_adj: 500,
                open_files: Some(Limits::default().open_files),
                core: Some(bailiwick_plan::CORE_LIMIT),
            }),
        }
    }

    /// The mount that the warden makes from a row of a plan.
    fn mounted(row: &Mount) -> MountFact {
        let (fs_type, root, id_map) = match &row.source {
            Source::JailTmpfs(name) => ("tmpfs", *name, false),
            Source::Tmpfs { .. } | Source::Mask | Source::Skeleton | Source::Answer(_) => ("tmpfs", "/", false),
            Source::Group(_) => ("cgroup", "/", false),
            Source::Proc | Source::Itself => ("proc", "/", false),
            Source::Sysfs(_) => ("sysfs", "/", false),
            Source::Devpts => ("devpts", "/", false),
            Source::Mqueue => ("mqueue", "/", false),
            Source::Overlay { .. } | Source::HostEtc => ("overlay", "/", false),
            Source::Storage(path) => ("ext4", *path, true),
            Source::Init | Source::Web | Source::Mail => ("ext4", "/some/file", false),
            Source::HostSockets => ("tmpfs", "/bailiwick/lent/alice/sockets", false),
            Source::Device(_) => ("devtmpfs", row.target.trim_start_matches("/dev"), false),
        };
        let mut options: Vec<String> = row.flags.words().into_iter().map(str::to_owned).collect();
        options.extend(id_map.then(|| "idmapped".to_owned()));
        let super_options = match row.source {
            Source::JailTmpfs(_) => vec!["rw".to_owned(), format!("size={}k", JAIL_TMPFS_SIZE.0 / 1024)],
            Source::Tmpfs { size, .. } => vec!["rw".to_owned(), format!("size={}k", size.0 / 1024)],
            Source::Devpts => vec!["rw".to_owned(), format!("max={TERMINALS}")],
            Source::HostEtc => vec!["ro".to_owned(), format!("lowerdir={HOST_ETC_LAYER}:hidden")],
            _ => vec!["rw".to_owned()],
        };
        MountFact {
            target: row.target.clone(),
            root: root.to_owned(),
            fs_type: fs_type.to_owned(),
            options,
            super_options,
            propagation: Vec::new(),
            covered: false,
        }
    }

    /// A jail as its plan declares it.
    fn healthy(tenant: &Tenant) -> Observed {
        made(tenant, Access::ReadWrite)
    }

    /// A jail that was made with this access to its storage.
    fn made(tenant: &Tenant, access: Access) -> Observed {
        let own = tenant.settings.profile;
        let profile = confinement(own, access);
        let limits = controls(&tenant.settings.limits, &facts()).into_iter().filter_map(|control| {
            let place = control.place?;
            Some(LimitFact {
                key: control.key,
                file: place.file.to_owned(),
                enforced: match place.value {
                    Value::Unlimited => None,
                    Value::Number(number) => Some(number),
                },
                used: Some(1),
                peak: Some(2),
                faults: Some(0),
            })
        });
        let open_files = LimitFact {
            key: LimitKey::OpenFiles,
            file: "limits".to_owned(),
            enforced: Some(tenant.settings.limits.open_files),
            used: None,
            peak: None,
            faults: None,
        };
        let jail = ObservedJail {
            access,
            init: process(profile, 70),
            namespace_owner: IDS.first,
            uid_map: vec![[0, IDS.first, IDS.count]],
            gid_map: vec![[0, IDS.first, IDS.count]],
            host_namespaces: (1..=16).collect(),
            mounts: table(own, access, &tenant.settings.limits, &facts()).0.iter().map(mounted).collect(),
            mounts_cut: false,
            processes: vec![process(profile, 70), process(profile, 71)],
            processes_cut: false,
            cgroups: groups("/bailiwick/alice", "/bailiwick/alice"),
            frozen: false,
            limits: limits.chain([open_files]).collect(),
            rescue: false,
            landlock_denies_canary: (own != Profile::System).then_some(true),
            sockets: Some(SocketFacts { own: 5, host: 1, looked: 2, foreign: Vec::new(), cut: false }),
            landlock_at_start: true,
            confined_now: Some(true),
            entered: Vec::new(),
            visitors: Vec::new(),
            interfaces: Some(vec!["lo".to_owned(), "sit0".to_owned()]),
            settings: Vec::new(),
        };
        let quota = |used, limit| QuotaFact { used, soft: limit, hard: limit, grace_until: None, lowered_at: None };
        let disk = DiskFact {
            bytes: quota(4096, Some(1 << 30)),
            inodes: Some(quota(7, None)),
            charged: true,
            held_back: false,
        };
        Observed { tenant: tenant.name.clone(), ids: Some(IDS), jail: Some(jail), strays: Vec::new(), disk: Some(disk) }
    }

    /// Findings of every healthy jail: no host enforces these limits.
    const STANDING: [&str; 2] = ["BW097", "BW098"];

    fn ids(report: &TenantReport) -> Vec<&str> {
        let ids = report.findings.iter().map(|finding| finding.id.as_str());
        ids.filter(|id| !STANDING.contains(id)).collect()
    }

    fn evidence<'a>(report: &'a TenantReport, id: &str) -> Option<&'a str> {
        report.findings.iter().find(|finding| finding.id == id).map(|finding| finding.evidence.as_str())
    }

    fn judged(tenant: &Tenant, observed: &Observed) -> TenantReport {
        judge_where(tenant, &host(), &facts(), observed, &|_| true)
    }

    #[test]
    fn what_no_host_bounds_is_told_of_and_memory_is_never_plainly_enforced() {
        for profile in Profile::ALL {
            let mut tenant = tenant(*profile);
            let report = judged(&tenant, &healthy(&tenant));
            let row = |key| report.limits.iter().find(|row| row.key == key).map(|row| row.verdict);
            assert_eq!(row(LimitKey::Memory), Some(Verdict::Nominal), "{profile}");
            assert_eq!(row(LimitKey::MemorySockets), Some(Verdict::Enforced), "{profile}");
            let memory = evidence(&report, "BW097").expect("a reason");
            assert!(memory.contains("record locks: "), "{memory}");
            assert_eq!(memory.contains("netlink sockets: "), *profile != Profile::Web, "{memory}");
            let pools = evidence(&report, "BW098").expect("a reason");
            assert!(pools.contains("net.ipv4.tcp_mem"), "{profile}: {pools}");
            assert_eq!(pools.contains("pseudo terminals"), *profile == Profile::System, "{profile}: {pools}");
            tenant.settings.limits.memory = Bound::Unlimited;
            let report = judged(&tenant, &healthy(&tenant));
            assert_eq!(evidence(&report, "BW097"), None, "nothing is promised");
        }
    }

    /// Gives a jail of `system` the capabilities of an earlier version.
    fn of_earlier_version(observed: &mut Observed) {
        let before = CapabilitySet::of_earlier_version(Profile::System).expect("it was another").0;
        let jail = observed.jail.as_mut().expect("runs");
        for process in std::iter::once(&mut jail.init).chain(&mut jail.processes) {
            (process.cap_bounding, process.cap_permitted) = (before, before);
        }
    }

    #[test]
    fn a_jail_of_an_earlier_version_is_told_of_and_is_no_breach() {
        let tenant = tenant(Profile::System);
        let mut observed = healthy(&tenant);
        of_earlier_version(&mut observed);
        let report = judged(&tenant, &observed);
        assert_eq!((ids(&report), report.verdict), (vec![""; 0], Verdict::Nominal));
        assert!(evidence(&report, "BW098").expect("told").contains("cap_net_admin"));

        let tenant = self::tenant(Profile::Web);
        let mut observed = healthy(&tenant);
        let jail = observed.jail.as_mut().expect("runs");
        jail.mounts.iter_mut().find(|mount| mount.fs_type == "devpts").expect("there").super_options.clear();
        assert!(evidence(&judged(&tenant, &observed), "BW098").expect("told").contains("max=64"));
    }

    #[test]
    fn a_limit_of_writing_is_nominal_since_metadata_is_free() {
        let mut tenant = tenant(Profile::Web);
        tenant.settings.limits.io_write = Bound::At(ByteSize(4 << 20));
        let mut facts = facts();
        facts.controllers.insert("io".to_owned(), Hierarchy::Unified);
        let device = bailiwick_types::BlockDevice { number: "8:0".to_owned(), name: "sda".to_owned(), weight: None };
        facts.storage.devices.push(device);
        let mut observed = healthy(&tenant);
        let fact = |key, file: &str, enforced| LimitFact {
            key,
            file: file.to_owned(),
            enforced,
            used: None,
            peak: None,
            faults: None,
        };
        observed.jail.as_mut().expect("runs").limits.extend([
            fact(LimitKey::IoWrite, "io.max 8:0 wbps", Some(4 << 20)),
            fact(LimitKey::IoRead, "io.max 8:0 rbps", None),
            fact(LimitKey::IopsRead, "io.max 8:0 riops", None),
            fact(LimitKey::IopsWrite, "io.max 8:0 wiops", None),
        ]);
        let mut host = host();
        host.require.insert(Resource::Io);
        let report = judge_where(&tenant, &host, &facts, &observed, &|_| true);
        assert_eq!((ids(&report), report.verdict), (vec!["BW114"], Verdict::Nominal), "{:?}", report.findings);
        let row = |key| report.limits.iter().find(|row| row.key == key).map(|row| row.verdict);
        assert_eq!(
            (row(LimitKey::IoWrite), row(LimitKey::IopsWrite)),
            (Some(Verdict::Nominal), Some(Verdict::Enforced))
        );
    }

    #[test]
    fn a_jail_as_planned_has_no_findings_and_every_wall_stands() {
        for profile in Profile::ALL {
            let tenant = tenant(*profile);
            let report = judged(&tenant, &healthy(&tenant));
            assert_eq!(ids(&report), [""; 0], "{profile}: {:#?}", report.findings);
            assert_eq!(report.verdict, Verdict::Nominal, "`memory`, and nothing else");
            let walls: Vec<&str> = report.walls.iter().map(|wall| wall.wall.as_str()).collect();
            assert_eq!(
                walls,
                [
                    "namespaces",
                    "id-maps",
                    "mounts",
                    "masks",
                    "capabilities",
                    "seccomp",
                    "no-new-privs",
                    "landlock",
                    "network",
                    "priorities",
                    "membership",
                ]
            );
            assert!(report.walls.iter().all(|wall| wall.verdict == Verdict::Enforced && !wall.evidence.is_empty()));
            let words: Vec<&str> = report.limits.iter().map(|limit| limit.key.word()).collect();
            assert_eq!(
                words,
                [
                    "memory",
                    "swap",
                    "tasks",
                    "cpu",
                    "cpu_burst",
                    "cpu_weight",
                    "memory_sockets",
                    "disk",
                    "inodes",
                    "tmp",
                    "shm",
                    "open_files"
                ]
            );
        }
    }

    /// A name, a profile, the one finding and the verdict that must follow, and a change to a healthy observation.
    type Case = (&'static str, Profile, &'static str, Verdict, fn(&mut Observed));

    fn jail(observed: &mut Observed) -> &mut ObservedJail {
        observed.jail.as_mut().expect("healthy")
    }

    fn second(observed: &mut Observed) -> &mut ProcessFacts {
        &mut jail(observed).processes[1]
    }

    fn mount<'a>(observed: &'a mut Observed, target: &str) -> &'a mut MountFact {
        jail(observed).mounts.iter_mut().find(|mount| mount.target == target).expect("planned")
    }

    /// A process that serves the lent socket `mysql`, as it should be.
    fn lender(observed: &mut Observed) -> ProcessFacts {
        let user = host().ids.host_user(IDS).0;
        let mut process = process(Profile::Web, 73);
        process.uids = [user; 4];
        process.command = bailiwick_plan::lending::COMMAND.to_owned();
        (process.cap_bounding, process.cap_permitted) = (0, 0);
        (process.no_new_privs, process.seccomp_filters) = (true, 2);
        process.namespaces.insert("mnt".to_owned(), 900);
        process.namespaces.insert("user".to_owned(), 5);
        process.cgroups = groups("/bailiwick/alice/lent-mysql", "/bailiwick/alice");
        jail(observed).entered.push(process.pid);
        process
    }

    #[test]
    fn a_process_that_serves_a_lent_socket_is_a_wall_and_no_stranger() {
        let tenant = tenant(Profile::Web);
        let mut observed = healthy(&tenant);
        let process = lender(&mut observed);
        jail(&mut observed).processes.push(process);
        let report = judged(&tenant, &observed);
        assert_eq!(ids(&report), [""; 0], "{:#?}", report.findings);
        assert_eq!(report.walls.last().map(|wall| wall.wall.as_str()), Some("lending"));
    }

    fn disk(observed: &mut Observed) -> &mut DiskFact {
        observed.disk.as_mut().expect("healthy")
    }

    fn unmount(observed: &mut Observed, target: &str) {
        jail(observed).mounts.retain(|mount| mount.target != target);
    }

    /// Makes another mount at a target, over the existing one.
    fn mount_at(observed: &mut Observed, target: &str) {
        let mut mount = mount(observed, "/tmp").clone();
        mount.target = target.to_owned();
        jail(observed).mounts.push(mount);
    }

    fn drop_option(observed: &mut Observed, target: &str, option: &str) {
        mount(observed, target).options.retain(|other| other != option);
    }

    fn foreign(observed: &mut Observed, network: u64) {
        let socket = ForeignSocket { network, pid: 70, descriptor: 3 };
        jail(observed).sockets.as_mut().expect("looked at").foreign.push(socket);
    }

    fn limit(observed: &mut Observed, key: LimitKey) -> &mut LimitFact {
        jail(observed).limits.iter_mut().find(|limit| limit.key == key).expect("reported")
    }

    #[rustfmt::skip]
    const CASES: &[Case] = {
        use Profile::{Shell, System, Web};
        use Verdict::{Breached, Drift, Nominal};
        &[
            ("the host's namespace", Web, "BW001", Breached, |o| { second(o).namespaces.insert("net".into(), 6); }),
            ("the host's namespace, nested or not", System, "BW001", Breached, |o| { second(o).namespaces.insert("pid".into(), 3); }),
            ("an unknown namespace", Web, "BW001", Breached, |o| { second(o).namespaces.remove("time"); }),
            ("a namespace of its own", Shell, "BW002", Breached, |o| { second(o).namespaces.insert("user".into(), 999); }),
            ("owned by root", Web, "BW003", Breached, |o| jail(o).namespace_owner = 0),
            ("owned by a neighbour", Web, "BW003", Breached, |o| jail(o).namespace_owner = IDS.first + IDS.count),
            ("the host's ids", Web, "BW010", Breached, |o| jail(o).uid_map = vec![[0, 0, u32::MAX]]),
            ("one id more", Web, "BW010", Breached, |o| jail(o).gid_map.push([65_536, 0, 1])),
            ("no map", Web, "BW010", Breached, |o| jail(o).uid_map.clear()),
            ("a mount is gone", Web, "BW020", Breached, |o| unmount(o, "/opt")),
            ("a mount is covered", Web, "BW020", Breached, |o| mount(o, "/home").covered = true),
            ("another file system", Web, "BW021", Breached, |o| mount(o, "/run").fs_type = "ext4".into()),
            ("storage without its map", Web, "BW021", Breached, |o| drop_option(o, "/home", "idmapped")),
            ("the host's file with a map", Web, "BW021", Breached, |o| mount(o, "/run/host/init").options.push("idmapped".into())),
            ("another with a map", Web, "BW021", Breached, |o| mount(o, bailiwick_plan::mount::WEB).options.push("idmapped".into())),
            ("another device", Web, "BW021", Breached, |o| mount(o, "/dev/null").root = "/sda".into()),
            ("the image is writable", Web, "BW022", Breached, |o| drop_option(o, "/usr", "ro")),
            ("devices work", Shell, "BW022", Breached, |o| drop_option(o, "/home", "nodev")),
            ("the root is not sealed", Web, "BW022", Breached, |o| drop_option(o, "/", "ro")),
            ("the sysctls are writable", Web, "BW022", Breached, |o| drop_option(o, "/proc/sys", "ro")),
            ("mounts come from the host", Web, "BW023", Breached, |o| mount(o, "/srv").propagation.push("master:7".into())),
            ("mounts are shared", Web, "BW023", Breached, |o| mount(o, "/srv").propagation.push("shared:7".into())),
            ("a tenant's mounts follow the host", System, "BW023", Breached, |o| mount(o, "/srv").propagation.push("master:7".into())),
            ("a mount that nobody planned", Web, "BW024", Breached, |o| mount_at(o, "/mnt")),
            ("a second mount", Shell, "BW024", Breached, |o| mount_at(o, "/srv/deep")),
            ("endless mounts", Web, "BW024", Breached, |o| jail(o).mounts_cut = true),
            ("a tenant mounts", System, "BW025", Nominal, |o| mount_at(o, "/mnt")),
            ("a tenant mounts over a row", System, "BW025", Nominal, |o| { mount(o, "/srv").covered = true; mount_at(o, "/srv"); }),
            ("nothing is shown of /etc", Web, "BW026", Drift, |o| unmount(o, "/run/host/etc")),
            ("what is shown of /etc was replaced", Web, "BW026", Drift, |o| mount(o, "/run/host/etc").root += "//deleted"),
            ("the same in system", System, "BW026", Drift, |o| mount(o, "/run/host/etc").root += "//deleted"),
            ("an overlay of something else", Web, "BW026", Drift, |o| mount(o, "/run/host/etc").super_options = vec!["lowerdir=lower:hidden".into()]),
            ("the same, a layer an option", Web, "BW026", Drift, |o| mount(o, "/run/host/etc").super_options = vec!["lowerdir+=lower".into(), "lowerdir+=hidden".into()]),
            ("the host's /etc has shrunk", Web, "BW026", Drift, |o| mount_at(o, "/run/host/etc/old")),
            ("a tenant takes a row away", System, "BW027", Drift, |o| unmount(o, "/dev/mqueue")),
            ("as an older version made it", Web, "BW028", Drift, |o| { let usr = mount(o, "/usr"); usr.fs_type = "ext4".into(); usr.options.push("idmapped".into()); }),
            ("copies, but the host's own inodes", Web, "BW028", Drift, |o| mount(o, "/run/host/etc").fs_type = "tmpfs".into()),
            ("the same in system", System, "BW028", Drift, |o| mount(o, "/run/host/etc").fs_type = "tmpfs".into()),
            ("a mask is gone", Web, "BW030", Breached, |o| unmount(o, "/proc/kcore")),
            ("what no list names appeared later", Web, "BW030", Breached, |o| unmount(o, "/proc/sys/fs/file-nr")),
            ("the host's own answer shows", Web, "BW021", Breached, |o| mount(o, "/proc/stat").fs_type = "proc".into()),
            ("a whole sysfs is there", Web, "BW021", Breached, |o| mount(o, "/sys").fs_type = "sysfs".into()),
            ("a mask shows what it hides", Web, "BW030", Breached, |o| mount(o, "/proc/kcore").fs_type = "proc".into()),
            ("a tenant unmasks", System, "BW031", Drift, |o| unmount(o, "/proc/kcore")),
            ("an interface beside the loopback", Web, "BW035", Breached, |o| jail(o).interfaces = Some(vec!["lo".into(), "veth7".into()])),
            ("an interface without a network", Web, "BW120", Drift, |o| jail(o).interfaces = Some(vec!["lo".into(), "eth0".into()])),
            ("an interface in system", System, "BW035", Breached, |o| jail(o).interfaces = Some(vec!["lo".into(), "veth7".into()])),
            ("an interface in system of an earlier version", System, "BW036", Nominal, |o| { of_earlier_version(o); jail(o).interfaces = Some(vec!["lo".into(), "veth7".into()]); }),
            ("a /run without a size", Web, "BW037", Drift, |o| mount(o, "/run").super_options.clear()),
            ("a larger /dev", Shell, "BW037", Drift, |o| mount(o, "/dev").super_options = vec!["size=65m".into(), "size=66560k".into()]),
            ("a /tmp without a bound of inodes", Web, "BW037", Drift, |o| mount(o, "/tmp").super_options.push("nr_inodes=0".into())),
            ("a tenant takes the bound of inodes away", System, "BW027", Drift, |o| mount(o, "/dev/shm").super_options.push("nr_inodes=0".into())),
            ("one capability more", Web, "BW040", Breached, |o| second(o).cap_bounding |= 1 << 21),
            ("one permitted more", Shell, "BW040", Breached, |o| second(o).cap_permitted |= 1 << 12),
            ("init inherits", Web, "BW041", Drift, |o| jail(o).init.cap_inheritable = 1),
            ("an ambient capability", Web, "BW041", Drift, |o| second(o).cap_ambient = 1),
            ("no filter", Web, "BW050", Breached, |o| second(o).seccomp = 0),
            ("the filter of another version", Shell, "BW051", Drift, |o| jail(o).confined_now = Some(false)),
            ("a filter of none", Web, "BW050", Breached, |o| second(o).seccomp_filters = 0),
            ("privileges can be gained", Web, "BW060", Breached, |o| second(o).no_new_privs = false),
            ("set-user-id does not work", Shell, "BW061", Drift, |o| jail(o).init.no_new_privs = true),
            ("the canary can be read", Web, "BW070", Breached, |o| jail(o).landlock_denies_canary = Some(false)),
            ("a socket of the host's", System, "BW004", Breached, |o| foreign(o, 1)),
            ("a socket of another jail's", Web, "BW004", Breached, |o| foreign(o, 9)),
            ("sockets that were not looked at", Web, "BW005", Drift, |o| jail(o).sockets = None),
            ("too many sockets", Shell, "BW005", Drift, |o| jail(o).sockets.as_mut().expect("seen").cut = true),
            ("init is silent", Shell, "BW071", Drift, |o| jail(o).landlock_denies_canary = None),
            ("not started inside", System, "BW072", Breached, |o| jail(o).entered.push(71)),
            ("served before others", Web, "BW089", Drift, |o| second(o).rank.as_mut().expect("read").nice = -20),
            ("in real time", Shell, "BW089", Drift, |o| second(o).rank.as_mut().expect("read").scheduler = 1),
            ("never ended", System, "BW089", Drift, |o| second(o).rank.as_mut().expect("read").oom_score_adj = -1000),
            ("init is spared", Web, "BW089", Drift, |o| jail(o).init.rank.as_mut().expect("read").oom_score_adj = 499),
            ("a host process in the mount namespace", Web, "BW088", Breached, |o| jail(o).visitors.push(Visitor { pid: 9, command: "sleep".into(), namespaces: vec!["mnt".into()] })),
            ("a stray", Web, "BW080", Breached, |o| { let mut stray = process(Web, 99); stray.cgroups = groups("/", "/"); o.strays.push(stray); }),
            ("beside the jail", Web, "BW081", Breached, |o| second(o).cgroups = groups("/bailiwick/alice", "/bailiwick/alice")),
            ("outside a limit", Web, "BW081", Breached, |o| { second(o).cgroups.insert("memory".into(), "/".into()); }),
            ("init is elsewhere", Web, "BW081", Breached, |o| { jail(o).processes.remove(0); }),
            ("a server with rights", Shell, "BW085", Breached, |o| { let mut process = in_ftp(o); process.cap_permitted |= 1 << 21; jail(o).processes.push(process); }),
            ("what serves a lent socket is another program", Web, "BW137", Breached, |o| { let mut process = lender(o); process.command = "sh".into(); jail(o).processes.push(process); }),
            ("it is another user", Web, "BW137", Breached, |o| { let mut process = lender(o); process.uids[1] = 0; jail(o).processes.push(process); }),
            ("it has a capability", System, "BW137", Breached, |o| { let mut process = lender(o); process.cap_permitted |= 1 << 21; jail(o).processes.push(process); }),
            ("it has no filter of its own", Web, "BW137", Breached, |o| { let mut process = lender(o); process.seccomp_filters = 1; jail(o).processes.push(process); }),
            ("it sees the host's files", Web, "BW137", Breached, |o| { let mut process = lender(o); process.namespaces.insert("mnt".into(), 1); jail(o).processes.push(process); }),
            ("it sees the host's network", Web, "BW137", Breached, |o| { let mut process = lender(o); process.namespaces.insert("net".into(), 6); jail(o).processes.push(process); }),
            ("it is outside a limit", Web, "BW137", Breached, |o| { let mut process = lender(o); process.cgroups.insert("memory".into(), "/".into()); jail(o).processes.push(process); }),
            ("a socket that nobody declared", Web, "BW136", Drift, |o| { let mut process = lender(o); process.cgroups.insert("unified".into(), "/bailiwick/alice/lent-redis".into()); jail(o).processes.push(process); }),
            ("too many", Web, "BW082", Drift, |o| jail(o).processes_cut = true),
            ("a limit was raised", Web, "BW090", Drift, |o| limit(o, LimitKey::Memory).enforced = Some(8 << 30)),
            ("a limit was removed", Web, "BW090", Drift, |o| limit(o, LimitKey::Tasks).enforced = None),
            ("a larger /tmp", Web, "BW090", Drift, |o| mount(o, "/tmp").super_options = vec!["size=9999999k".into()]),
            ("more descriptors", Web, "BW090", Drift, |o| limit(o, LimitKey::OpenFiles).enforced = None),
            ("fewer descriptors", Web, "BW090", Drift, |o| limit(o, LimitKey::OpenFiles).enforced = Some(16)),
            ("a process with more descriptors", Web, "BW106", Drift, |o| second(o).rank.as_mut().expect("read").open_files = Some(1 << 20)),
            ("a process with dumps", System, "BW106", Drift, |o| second(o).rank.as_mut().expect("read").core = None),
            ("a process whose crash starts a handler", Web, "BW106", Drift, |o| second(o).rank.as_mut().expect("read").core = Some(0)),
            ("memory that is never taken back", Web, "BW107", Drift, |o| jail(o).settings.push(GroupSetting { file: "memory.min".into(), group: "/x".into(), value: "1".into(), fresh: "0".into() })),
            ("a quota was removed", Web, "BW090", Drift, |o| disk(o).bytes.hard = None),
            ("a quota was raised", Web, "BW090", Drift, |o| disk(o).bytes.hard = Some(1 << 40)),
            ("files cost nobody", Web, "BW094", Breached, |o| disk(o).charged = false),
            ("more than may be", Web, "BW095", Nominal, |o| disk(o).bytes.used = 1 << 40),
            ("more than may be, and nobody lowered it", Web, "BW104", Drift, |o| { let bytes = &mut disk(o).bytes; (bytes.used, bytes.lowered_at) = (1 << 40, Some(0)); }),
            ("more than when it was lowered", Web, "BW104", Drift, |o| { let bytes = &mut disk(o).bytes; (bytes.used, bytes.lowered_at) = (1 << 40, Some(1 << 39)); }),
            ("as much as when it was lowered", Web, "BW095", Nominal, |o| { let bytes = &mut disk(o).bytes; (bytes.used, bytes.lowered_at) = (1 << 40, Some(1 << 40)); }),
            ("no space to spare", Web, "BW096", Drift, |o| disk(o).held_back = true),
            ("nobody counts", Web, "BW091", Drift, |o| o.disk = None),
            ("a limit has no file", Web, "BW091", Drift, |o| jail(o).limits.retain(|limit| limit.key != LimitKey::Cpu)),
            ("a /tmp without a size", Web, "BW091", Drift, |o| mount(o, "/tmp").super_options.clear()),
        ]
    };

    #[test]
    fn each_wall_that_falls_is_exactly_one_finding() {
        for (name, profile, id, verdict, change) in CASES {
            let tenant = tenant(*profile);
            let mut observed = healthy(&tenant);
            change(&mut observed);
            let report = judged(&tenant, &observed);
            assert_eq!(ids(&report), [*id], "{name}: {:#?}", report.findings);
            assert_eq!(report.verdict, *verdict, "{name}");
            assert!(!report.findings[0].evidence.is_empty() && !report.findings[0].remedy.is_empty(), "{name}");
            let fallen =
                report.walls.iter().map(|wall| wall.verdict).chain(report.limits.iter().map(|limit| limit.verdict));
            assert_eq!(fallen.max(), Some(*verdict), "{name}: the row of the report says it too");
        }
    }

    #[test]
    fn a_jail_of_a_version_that_showed_single_files_is_old() {
        for (profile, want) in [(Profile::Web, ["BW028", "BW026"]), (Profile::System, ["BW028", "BW025"])] {
            let tenant = tenant(profile);
            let mut observed = healthy(&tenant);
            unmount(&mut observed, "/run/host/etc");
            mount_at(&mut observed, "/run/host/etc/services");
            assert_eq!(ids(&judged(&tenant, &observed)), want, "{profile}");
        }
    }

    #[test]
    fn a_process_of_a_service_is_at_home_in_a_group_of_its_own() {
        let tenant = tenant(Profile::Web);
        for (group, want) in [("svc-web", [].as_slice()), ("svc", &["BW081"]), ("other", &["BW081"])] {
            let mut observed = healthy(&tenant);
            let path = format!("/bailiwick/alice/{group}");
            jail(&mut observed).processes.last_mut().expect("a process").cgroups = groups(&path, &path);
            assert_eq!(ids(&judged(&tenant, &observed)), want, "{group}");
        }
    }

    /// A process of an FTP server that serves a client.
    fn in_ftp(observed: &Observed) -> ProcessFacts {
        let init = &observed.jail.as_ref().expect("healthy").init;
        let mut process =
            ProcessFacts { pid: 90, cgroups: groups("/bailiwick/alice/ftp", "/bailiwick/alice"), ..init.clone() };
        process.namespaces.extend([("mnt".to_owned(), 900), ("net".to_owned(), 1), ("pid".to_owned(), 2)]);
        let set = bailiwick_plan::ftp::CAPABILITIES.0;
        (process.cap_bounding, process.cap_permitted, process.no_new_privs) = (set, set, true);
        process
    }

    #[test]
    fn a_session_by_ftp_has_walls_of_its_own() {
        let tenant = tenant(Profile::Shell);
        let with = |change: fn(&mut ProcessFacts)| {
            let mut observed = healthy(&tenant);
            let mut process = in_ftp(&observed);
            change(&mut process);
            jail(&mut observed).processes.push(process);
            judged(&tenant, &observed)
        };
        let aside = |process: &mut ProcessFacts| {
            process.namespaces.extend([("user".to_owned(), 4), ("mnt".to_owned(), 5)]);
            (process.cap_permitted, process.cap_bounding, process.uids) = (0, u64::MAX, [65_534; 4]);
        };
        for good in [|_: &mut ProcessFacts| {}, aside] {
            let report = with(good);
            assert_eq!(ids(&report), [""; 0], "{:#?}", report.findings);
            assert!(report.walls.iter().any(|wall| wall.wall == "ftp" && wall.verdict == Verdict::Enforced));
        }
        let wrong: [fn(&mut ProcessFacts); 9] = [
            |process| process.namespaces.extend([("user".to_owned(), 4)]),
            |process| process.namespaces.extend([("mnt".to_owned(), 5)]),
            |process| process.cap_permitted |= 1 << 21,
            |process| process.cap_bounding |= 1 << 1,
            |process| process.seccomp = 0,
            |process| process.no_new_privs = false,
            |process| drop(process.cgroups.insert("memory".to_owned(), "/".to_owned())),
            |process| {
                process.namespaces.insert("user".to_owned(), 4);
                (process.cap_permitted, process.uids) = (0, [65_534, 65_534, 0, 65_534]);
            },
            |process| {
                process.namespaces.insert("user".to_owned(), 4);
                (process.cap_permitted, process.uids) = (1, [65_534; 4]);
            },
        ];
        for (number, wrong) in wrong.into_iter().enumerate() {
            assert_eq!(ids(&with(wrong)), ["BW085"], "{number}");
        }
    }

    #[test]
    fn what_a_tenant_may_do_inside_is_no_finding() {
        let tenant = tenant(Profile::System);
        let mut observed = healthy(&tenant);
        let nested = second(&mut observed);
        nested.namespaces.extend([("user".to_owned(), 900), ("mnt".to_owned(), 901)]);
        (nested.cap_bounding, nested.cap_permitted) = (u64::MAX, u64::MAX);
        nested.no_new_privs = true;
        mount(&mut observed, "/srv").propagation.push("shared:7".to_owned());
        second(&mut observed).rank.as_mut().expect("read").open_files = Some(16);
        assert_eq!(ids(&judged(&tenant, &observed)), [""; 0]);
    }

    #[test]
    fn a_path_that_the_kernel_does_not_have_needs_no_mask() {
        let tenant = tenant(Profile::Web);
        let mut observed = healthy(&tenant);
        unmount(&mut observed, "/proc/kcore");
        unmount(&mut observed, "/proc/stat");
        let report =
            judge_where(&tenant, &host(), &facts(), &observed, &|path| !["/proc/kcore", "/proc/stat"].contains(&path));
        assert_eq!(ids(&report), [""; 0]);
        assert!(is_present("/proc/sys") && !is_present("/proc/no-such-entry"));
    }

    #[test]
    fn a_nominal_limit_is_said_and_a_required_one_is_drift() {
        let mut tenant = tenant(Profile::Web);
        tenant.settings.limits.iops_read = Bound::At(Count(5));
        let report = judged(&tenant, &healthy(&tenant));
        assert_eq!((ids(&report), report.verdict), (vec!["BW092"], Verdict::Nominal));
        let last = report.limits.last().expect("rows");
        assert_eq!((last.key, last.enforced, last.verdict), (LimitKey::IopsRead, None, Verdict::Nominal));
        let strict = Host { require: [Resource::Io].into(), ..host() };
        let report = judge_where(&tenant, &strict, &facts(), &healthy(&tenant), &|_| true);
        assert_eq!((ids(&report), report.verdict), (vec!["BW093"], Verdict::Drift));
        // btrfs does not count inodes and has no soft limit. The report says both, and the other limits hold.
        tenant.settings.limits = Limits {
            disk: "1G:2G".parse().map(Bound::At).expect("a pair"),
            inodes: "9k".parse().map(Bound::At).expect("a pair"),
            ..Limits::default()
        };
        let mut observed = healthy(&tenant);
        disk(&mut observed).inodes = None;
        (disk(&mut observed).bytes.soft, disk(&mut observed).bytes.hard) = (Some(2 << 30), Some(2 << 30));
        let mut btrfs = facts();
        btrfs.storage.quota = QuotaFacts::Groups;
        let report = judge_where(&tenant, &host(), &btrfs, &observed, &|_| true);
        assert_eq!((ids(&report), report.verdict), (vec!["BW092"], Verdict::Nominal), "{:?}", report.findings);
        let evidence = evidence(&report, "BW092").expect("told");
        assert!(evidence.contains("inodes") && evidence.contains("disk_soft"), "{evidence}");
    }

    #[test]
    fn a_controller_that_is_missing_makes_a_required_limit_drift() {
        let tenant = tenant(Profile::Web);
        let mut facts = facts();
        facts.controllers.remove("memory");
        let report = judge_where(&tenant, &host(), &facts, &healthy(&tenant), &|_| true);
        assert!(ids(&report).contains(&"BW093"));
        assert!(report.limits.iter().any(|limit| limit.key == LimitKey::Memory && limit.verdict == Verdict::Drift));
    }

    #[test]
    fn a_suspended_tenant_that_runs_is_drift() {
        let tenant = Tenant { state: Declared::Suspended { reason: None }, ..tenant(Profile::Web) };
        let report = judged(&tenant, &healthy(&tenant));
        assert_eq!((ids(&report), report.verdict), (vec!["BW100"], Verdict::Drift));
    }

    #[test]
    fn a_suspended_tenant_whose_door_stays_open_runs_read_only_and_in_no_other_way() {
        let sftp: std::collections::BTreeSet<bailiwick_types::Door> = [bailiwick_types::Door::Sftp].into();
        for profile in Profile::ALL {
            let mut tenant = tenant(*profile);
            (tenant.settings.doors, tenant.settings.suspended_doors) = (sftp.clone(), sftp.clone());
            let read_only = made(&tenant, Access::ReadOnly);
            let report = judged(&tenant, &read_only);
            assert_eq!(
                (ids(&report), report.verdict),
                (vec!["BW101"], Verdict::Drift),
                "{profile}: it is not suspended"
            );
            let written = healthy(&tenant);
            tenant.state = Declared::Suspended { reason: None };
            let report = judged(&tenant, &written);
            assert_eq!((ids(&report), report.verdict), (vec!["BW100"], Verdict::Drift), "{profile}");
            let report = judged(&tenant, &read_only);
            assert_eq!((ids(&report), report.verdict), (vec![""; 0], Verdict::Nominal), "{:?}", report.findings);
            // The read-only mount is a wall in every profile, because nobody inside can remove it.
            for target in ["/home", "/etc", "/var", "/srv", "/opt", "/root", "/"] {
                let mut open = read_only.clone();
                let mounts = &mut open.jail.as_mut().expect("runs").mounts;
                let mount = mounts.iter_mut().find(|mount| mount.target == target).expect("a row");
                mount.options.retain(|option| option != "ro");
                let report = judged(&tenant, &open);
                assert_eq!((ids(&report), report.verdict), (vec!["BW022"], Verdict::Breached), "{profile} {target}");
            }
            let mut root = read_only.clone();
            root.jail.as_mut().expect("runs").init.cap_bounding |= 1 << 21;
            assert_eq!(ids(&judged(&tenant, &root)), ["BW040"], "{profile}: who may mount may take it away");
            tenant.settings.suspended_doors.clear();
            assert_eq!(ids(&judged(&tenant, &read_only)), ["BW100"], "{profile}: no door is open");
        }
    }

    #[test]
    fn a_tenant_that_is_down_has_nothing_but_strays() {
        let tenant = tenant(Profile::Web);
        let mut observed = Observed { jail: None, ..healthy(&tenant) };
        let report = judged(&tenant, &observed);
        assert_eq!(
            (report.verdict, report.walls.len(), report.limits.len(), report.findings.len()),
            (Verdict::Down, 0, 2, 0)
        );
        observed.strays.push(process(Profile::Web, 99));
        let report = judged(&tenant, &observed);
        assert_eq!((ids(&report), report.verdict), (vec!["BW080"], Verdict::Breached));
    }

    #[test]
    fn a_silent_init_is_a_finding_of_its_own_and_no_breach() {
        let tenant = tenant(Profile::Web);
        let mut report = judged(&tenant, &healthy(&tenant));
        let before = report.findings.len();
        add_silence(&mut report, 7);
        assert_eq!((report.findings.len(), report.verdict), (before + 1, Verdict::Drift));
        let finding = report.findings.last().expect("added");
        assert!(finding.id == "BW105" && finding.evidence.contains("7 s"), "{finding:?}");
    }

    #[test]
    fn what_is_wrong_with_services_is_one_finding_for_each_kind() {
        let tenant = tenant(Profile::Web);
        let healthy = judged(&tenant, &healthy(&tenant));
        let mut report = healthy.clone();
        add_services(&mut report, ServicesSeen::default());
        assert_eq!(report, healthy);
        let some = |text: &str| vec![text.to_owned(), "another".to_owned()];
        let tenants_own = ServicesSeen { broken_sockets: some("web"), failing: some("php"), ..ServicesSeen::default() };
        add_services(&mut report, tenants_own);
        assert_eq!((ids(&report), report.verdict), (vec!["BW132", "BW133"], healthy.verdict), "no wall is down");
        add_services(&mut report, ServicesSeen { wrong_sockets: some("mode 666"), ..ServicesSeen::default() });
        assert_eq!((ids(&report).last(), report.verdict), (Some(&"BW130"), Verdict::Drift));
        let all = report.findings.iter().filter(|finding| finding.id.starts_with("BW13"));
        assert_eq!(all.filter(|finding| finding.evidence.contains("another")).count(), 3, "{:?}", report.findings);
    }

    #[test]
    fn processes_of_a_sleeper_and_connections_to_a_frozen_tenant_are_told() {
        let tenant = tenant(Profile::Web);
        let mut observed = healthy(&tenant);
        let mut report = judged(&tenant, &observed);
        add_asleep(&mut report, &observed);
        let web: SocketName = "web".parse().expect("a name");
        add_frozen(&mut report, &BTreeMap::from([(web.clone(), 0)]));
        assert_eq!(ids(&report), [""; 0]);
        add_frozen(&mut report, &BTreeMap::from([(web, 2)]));
        assert_eq!((ids(&report), report.verdict), (vec!["BW135"], Verdict::Drift));
        let told = |report: &TenantReport, text: &str| {
            report.findings.last().is_some_and(|finding| finding.evidence.contains(text))
        };
        assert!(told(&report, "2 of its socket \"web\""), "{:?}", report.findings);
        observed.jail = None;
        let mut report = judged(&tenant, &observed);
        add_asleep(&mut report, &observed);
        assert_eq!(ids(&report), [""; 0]);
        observed.strays.push(process(Profile::Web, 99));
        add_asleep(&mut report, &observed);
        assert_eq!(ids(&report).last(), Some(&"BW134"));
        assert!(told(&report, "process 99"), "{:?}", report.findings);
    }

    fn network_facts(tenant: &Tenant) -> NetworkFacts {
        NetworkFacts {
            tenant: tenant.name.clone(),
            link: Some("bw0".to_owned()),
            is_up: true,
            addresses: vec!["100.64.0.16".parse().expect("an address")],
            traffic: NetworkTraffic::default(),
            month: 1 << 30,
            in_force: Some(Box::new(tenant.settings.network.clone())),
            limits: Some(NetworkLimits {
                up: Bound::Unlimited,
                down: Bound::At(ByteRate(1 << 20)),
                connections: Some(2000),
                stops_at: None,
            }),
            refused: BTreeMap::new(),
            last_refused: Vec::new(),
            differences: Vec::new(),
        }
    }

    fn wall<'a>(report: &'a TenantReport, name: &str) -> (&'a str, Verdict) {
        let wall = report.walls.iter().find(|wall| wall.wall == name).expect("there is a row");
        (wall.evidence.as_str(), wall.verdict)
    }

    #[test]
    fn the_network_of_a_tenant_is_judged_by_what_bailiwick_net_says() {
        let mut tenant = tenant(Profile::Web);
        let none = judged(&tenant, &healthy(&tenant));
        assert_eq!(wall(&none, "network"), ("loopback only: lo, sit0 (/proc/PID/net/dev)", Verdict::Enforced));
        tenant.settings.network = Network::with_mode(NetworkMode::Outbound);
        let mut observed = healthy(&tenant);
        assert_eq!(ids(&judged(&tenant, &observed)), ["BW120"], "it lacks its interface");
        jail(&mut observed).interfaces = Some(vec!["lo".to_owned(), "eth0".to_owned()]);
        let seen = |tenant: &Tenant, observed: &Observed, seen: NetworkSeen<'_>| {
            let mut report = judged(tenant, observed);
            add_network(&mut report, tenant, observed.jail.as_ref(), seen);
            report
        };
        let facts = network_facts(&tenant);
        let good = seen(&tenant, &observed, NetworkSeen::Answer { facts: Some(&facts), problems: &[] });
        assert_eq!(ids(&good), [""; 0]);
        let golden = "through the router: lo, eth0 (/proc/PID/net/dev); bw0 in the router, which lets it send from 100.64.0.16 alone";
        assert_eq!(wall(&good, "network"), (golden, Verdict::Enforced));
        let golden = "in the kernel: up unlimited, down 1M, connections 2000; month unlimited, 1.0G used";
        assert_eq!(wall(&good, "network-limits"), (golden, Verdict::Enforced));

        let silent = seen(&tenant, &observed, NetworkSeen::Silent("bailiwick-net does not run"));
        assert_eq!((ids(&silent), silent.verdict), (vec!["BW128"], Verdict::Drift));
        assert_eq!((wall(&silent, "network").1, wall(&silent, "network-limits").1), (Verdict::Drift, Verdict::Drift));

        let unread = NetworkFacts { limits: None, ..facts.clone() };
        let unread = seen(&tenant, &observed, NetworkSeen::Answer { facts: Some(&unread), problems: &[] });
        assert_eq!(wall(&unread, "network-limits"), ("not known", Verdict::Drift));

        let unknown = seen(&tenant, &observed, NetworkSeen::Answer { facts: None, problems: &[] });
        let unlinked = NetworkFacts { link: None, ..facts.clone() };
        let unlinked = seen(&tenant, &observed, NetworkSeen::Answer { facts: Some(&unlinked), problems: &[] });
        assert_eq!((ids(&unknown), ids(&unlinked)), (vec!["BW121"], vec!["BW121"]));

        let problem = |finding: &str, tenant: Option<&str>| RouterProblem {
            finding: finding.to_owned(),
            tenant: tenant.map(|name| name.parse().expect("a name")),
            text: "it differs".to_owned(),
        };
        for (id, verdict) in [
            ("BW121", Verdict::Drift),
            ("BW122", Verdict::Breached),
            ("BW123", Verdict::Drift),
            ("BW124", Verdict::Drift),
            ("BW125", Verdict::Breached),
            ("BW126", Verdict::Drift),
            ("BW138", Verdict::Drift),
        ] {
            for whose in [None, Some("alice")] {
                let problems = [problem(id, whose), problem(id, Some("bob"))];
                let report = seen(&tenant, &observed, NetworkSeen::Answer { facts: Some(&facts), problems: &problems });
                assert_eq!((ids(&report), report.verdict), (vec![id], verdict));
                let fallen = report.walls.iter().map(|wall| wall.verdict).max();
                assert_eq!(fallen, Some(verdict), "{id}: the row of the report says it too");
                assert_eq!(evidence(&report, id), Some("it differs"));
            }
            let others = [problem(id, Some("bob"))];
            let report = seen(&tenant, &observed, NetworkSeen::Answer { facts: Some(&facts), problems: &others });
            assert_eq!(ids(&report), [""; 0], "{id} of another tenant");
        }
        let unheard_of = [problem("BW999", None)];
        let report = seen(&tenant, &observed, NetworkSeen::Answer { facts: Some(&facts), problems: &unheard_of });
        assert_eq!(ids(&report), ["BW124"], "never silence");

        let month = MonthlyVolume { bytes: ByteSize(1 << 30), then: WhenOver::Stop, notify: Vec::new() };
        tenant.settings.network.month = Some(month);
        let report = seen(&tenant, &observed, NetworkSeen::Answer { facts: Some(&facts), problems: &[] });
        assert_eq!(evidence(&report, "BW127"), Some("1.0G of 1G used in this month; then = \"stop\""));
        let told = [problem("BW127", Some("alice"))];
        let report = seen(&tenant, &observed, NetworkSeen::Answer { facts: Some(&facts), problems: &told });
        assert_eq!(ids(&report), ["BW127"], "once");
        let month = MonthlyVolume { bytes: ByteSize(5 << 30), then: WhenOver::Stop, notify: vec![10, 20, 80] };
        tenant.settings.network.month = Some(month);
        let report = seen(&tenant, &observed, NetworkSeen::Answer { facts: Some(&facts), problems: &[] });
        assert_eq!(evidence(&report, "BW127"), Some("1.0G of 5G used in this month, which is more than 20 %"));
        assert_eq!((report.verdict, wall(&report, "network-limits").1), (good.verdict, Verdict::Enforced));
        observed.jail = None;
        let down = seen(&tenant, &observed, NetworkSeen::Answer { facts: None, problems: &[] });
        assert_eq!(ids(&down), [""; 0], "a tenant that is down has no link");
    }

    #[test]
    fn a_pool_file_that_is_not_whole_is_told_of_every_tenant() {
        let pool = |size, allocated| PoolBacking {
            file: "/var/lib/bailiwick.pool".to_owned(),
            device: "loop0".to_owned(),
            device_size: 8192,
            size,
            allocated,
            discards: false,
        };
        let tenant = tenant(Profile::Web);
        let with = |pool: Option<&PoolBacking>| {
            let mut report = judged(&tenant, &healthy(&tenant));
            let before = report.verdict;
            add_pool(&mut report, pool);
            (ids(&report).iter().any(|id| id.starts_with("BW14")), report.verdict > before, report)
        };
        assert!(!with(None).0 && !with(Some(&pool(8192, 8192))).0);
        let (is_told, _, report) = with(Some(&pool(8192, 4096)));
        assert!(is_told && evidence(&report, "BW140").is_some_and(|text| text.contains("4096 of the 8192 bytes")));
        let is_hosts = |finding: &bailiwick_types::Finding| finding.tenant.is_none() == (finding.id == "BW140");
        assert!(report.findings.iter().all(is_hosts), "{:?}", report.findings);
        let (is_told, is_worse, report) = with(Some(&pool(4096, 4096)));
        assert!(is_told && is_worse && evidence(&report, "BW141").is_some_and(|text| text.contains("cut or removed")));
    }

    #[test]
    fn every_kind_of_finding_has_a_case() {
        let elsewhere = [
            "BW092", "BW093", "BW097", "BW098", "BW100", "BW101", "BW102", "BW105", "BW110", "BW111", "BW114", "BW121",
            "BW122", "BW123", "BW124", "BW125", "BW126", "BW127", "BW128", "BW129", "BW130", "BW132", "BW133", "BW134",
            "BW135", "BW138", "BW140", "BW141",
        ];
        for kind in crate::FINDINGS {
            let known = elsewhere.contains(&kind.id) || CASES.iter().any(|(_, _, id, ..)| *id == kind.id);
            assert!(known, "{} is never shown to appear", kind.id);
        }
    }
}
