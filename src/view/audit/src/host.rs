//! Reports what the host can enforce, feature by feature, with a remedy for each feature that does not work.

use bailiwick_observe::{
    HostReadings, Linkage, PoolBacking, StorageReadings, Trial, UserReadings, group_exists, group_id, host_readings,
    mail_domain, sendmail_problem, storage_readings, user_exists, user_readings, user_sources,
};
use bailiwick_plan as plan;
use bailiwick_plan::landlock::lowest_abi;
use bailiwick_plan::mount::TERMINALS;
use bailiwick_policy::{Host, HostMail, HostSocket, NotLent, Principal};
use bailiwick_rules::router::remembered;
use bailiwick_types::{
    Bound, ByteSize, FeatureReport, FeatureState, Hierarchy, HostFacts, HostReport, Limits, Network, Profile,
    QuotaFacts, Resource,
};
use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::path::Path;

/// The oldest supported kernel.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// How many tenants should fit between the first id of the pool and the next id of another owner.
const ROOM: u32 = 10_000;

/// For how many tenants the kernel's pools should be large enough.
const SHARES: u64 = 256;
/// How many connections the kernel tracks in each network namespace (`nf_conntrack-sysctl.rst`).
const TRACKED: &str = "net.netfilter.nf_conntrack_max";

/// File systems that can hold tenants' storage, each with the first kernel that can id-map it (`mount_setattr(2)`).
const MAPPABLE: [(&str, (u32, u32)); 5] =
    [("ext4", (5, 12)), ("xfs", (5, 12)), ("btrfs", (5, 15)), ("f2fs", (5, 18)), ("tmpfs", (6, 3))];

/// Reports what the host can enforce, apart from its configuration. This is cheap, changes nothing, and works for any
/// user.
#[must_use]
pub fn host_report(state_dir: &Path) -> HostReport {
    host_report_with(state_dir, None)
}

/// Like [`host_report`], with facts that a more privileged process read.
#[must_use]
pub fn host_report_with(state_dir: &Path, facts: Option<&HostFacts>) -> HostReport {
    match host_readings(state_dir) {
        Ok(mut readings) => {
            if let Some(facts) = facts {
                readings.facts = facts.clone();
            }
            report(&readings)
        }
        Err(error) => {
            let remedy = "run as root on a host with /proc and /sys mounted";
            let feature = missing("host", chain(&error), remedy);
            HostReport { kernel: "unknown".to_owned(), features: vec![feature] }
        }
    }
}

/// Like [`host_report`], and reports also what depends on the configuration: storage, ids, the daemon's user and
/// `require`. As root, in a program with one thread, it tries to id-map a detached copy of the storage's mount. In namespaces
/// that are thrown away it tries to make what networks need.
#[must_use]
pub fn doctor(config_dir: &Path) -> HostReport {
    let host = bailiwick_policy::read_host(config_dir);
    let state_dir = host.as_ref().map_or(Path::new("/var/lib/bailiwick"), |host| &host.state_dir);
    let mut report = host_report(state_dir);
    match host {
        Ok(host) => {
            report.features.push(works("configuration", format!("{} can be read", config_dir.display())));
            require(&host, &mut report.features);
            report.features.extend(configured(&host, &report.kernel));
            let gives = |policy: bailiwick_policy::Policy| policy.gives_networks();
            let is_wanted = bailiwick_policy::Store::new(config_dir).read().policy.is_some_and(gives);
            report.features.push(crate::network_trial::report(&host, user_exists, is_wanted));
            report.features.extend(crate::network_trial::cache_report(&host, user_exists));
        }
        Err(problems) => {
            let evidence = format!("{} problem(s) in {}", problems.len(), config_dir.join("bailiwick.toml").display());
            report.features.push(missing("configuration", evidence, "run `bailiwick check`"));
        }
    }
    report
}

/// Reports who may ask for the metrics; `None` when the policy lets nobody. Without the user nothing else is missing.
fn observers(
    host: &Host,
    user_exists: impl Fn(&str) -> bool,
    group_exists: impl Fn(&str) -> bool,
) -> Option<FeatureReport> {
    let is_there = |principal: &&Principal| match principal {
        Principal::User(name) => user_exists(name),
        Principal::Group(name) => group_exists(name),
    };
    let named = |principal: &Principal| match principal {
        Principal::User(name) => format!("\"{name}\""),
        Principal::Group(name) => format!("the group \"{name}\""),
    };
    let missing: Vec<String> = host.observers.iter().filter(|principal| !is_there(principal)).map(named).collect();
    let told = format!("observers are told \"{}\" of tenants", host.metrics.tenants);
    match (host.observers.is_empty(), missing.is_empty()) {
        (true, _) => None,
        (false, true) => Some(works("metrics", told)),
        (false, false) => Some(limited(
            "metrics",
            format!("{} in `observers` of bailiwick.toml does not exist", missing.join(", ")),
            "create it (systemd-sysusers), or name another: bailiwick-exporter must run as one of them",
        )),
    }
}

fn feature(name: &str, state: FeatureState, evidence: String, remedy: &str) -> FeatureReport {
    let remedy = if state == FeatureState::Works { String::new() } else { remedy.to_owned() };
    FeatureReport { feature: name.to_owned(), state, evidence, remedy }
}

fn works(name: &str, evidence: String) -> FeatureReport {
    feature(name, FeatureState::Works, evidence, "")
}

fn limited(name: &str, evidence: String, remedy: &str) -> FeatureReport {
    feature(name, FeatureState::Limited, evidence, remedy)
}

fn missing(name: &str, evidence: String, remedy: &str) -> FeatureReport {
    feature(name, FeatureState::Missing, evidence, remedy)
}

/// A feature that either works or is missing.
fn either(name: &str, is_there: bool, evidence: String, remedy: &str) -> FeatureReport {
    feature(name, if is_there { FeatureState::Works } else { FeatureState::Missing }, evidence, remedy)
}

/// An error with all its causes, joined by colons.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// Parses a kernel release: `6.18.44-generic` is `(6, 18)`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn report(readings: &HostReadings) -> HostReport {
    let facts = &readings.facts;
    let kernel = version(&facts.kernel);
    let (major, minor) = OLDEST_KERNEL;
    let merged: Vec<&str> = facts.root_links.keys().map(String::as_str).collect();
    let unmerged: Vec<&str> = ["bin", "sbin", "lib"].into_iter().filter(|name| !merged.contains(name)).collect();
    let unified = readings.unified.as_ref();
    let features = vec![
        either(
            "kernel",
            kernel.is_some_and(|kernel| kernel >= OLDEST_KERNEL),
            format!("release {}", facts.kernel),
            &format!("boot a kernel of version {major}.{minor} or newer"),
        ),
        namespaces(readings),
        either(
            "seccomp",
            ["errno", "kill_process"].iter().all(|action| readings.seccomp_actions.iter().any(|has| has == action)),
            format!("/proc/sys/kernel/seccomp/actions_avail has \"{}\"", readings.seccomp_actions.join(" ")),
            "boot a kernel with CONFIG_SECCOMP_FILTER",
        ),
        landlock(facts.landlock_abi),
        either(
            "control-groups",
            unified.is_some(),
            match unified {
                Some(mount) => format!("the unified hierarchy is mounted at {}", mount.display()),
                None => "the unified hierarchy is not mounted".to_owned(),
            },
            "mount it: mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1",
        ),
        group_kill(readings, kernel),
        controller(readings, Resource::Cpu, "cpu"),
        controller(readings, Resource::Memory, "memory"),
        kernel_memory(facts),
        kernel_pools(readings),
        swap(readings),
        controller(readings, Resource::Tasks, "pids"),
        io(facts),
        io_metadata(facts),
        quota(Resource::Disk, facts),
        quota(Resource::Inodes, facts),
        feature(
            "pressure",
            if readings.pressure { FeatureState::Works } else { FeatureState::Limited },
            format!("/proc/pressure/cpu can{} be read", if readings.pressure { "" } else { "not" }),
            "boot with psi=1 a kernel with CONFIG_PSI: without it nothing tells which tenant waits for which",
        ),
        feature(
            "overlay",
            if readings.file_systems.contains("overlay") { FeatureState::Works } else { FeatureState::Limited },
            "/proc/filesystems lists what is loaded".to_owned(),
            "load it, every jail needs it: modprobe overlay, and `overlay` in /etc/modules-load.d",
        ),
        crash_handler(&readings.core_pattern),
        modules(readings.modules_disabled),
        either(
            "merged-usr",
            unmerged.is_empty(),
            if unmerged.is_empty() {
                format!("/{} lead into /usr", merged.join(", /"))
            } else {
                format!("/{} not a link into /usr", unmerged.join(", /"))
            },
            "merge /usr (on Debian: the package usrmerge), which the image \"host\" needs",
        ),
        init(readings),
    ];
    HostReport { kernel: facts.kernel.clone(), features }
}

/// Reports what happens after a crash in a jail. A jail limits core dumps to 1 byte.
fn crash_handler(pattern: &str) -> FeatureReport {
    let name = "crash-handler";
    match pattern.chars().next() {
        Some('|') => {
            works(name, format!("core_pattern is \"{pattern}\"; at a limit of 1 byte the kernel starts it for no jail"))
        }
        Some('@') => limited(
            name,
            format!("core_pattern is \"{pattern}\": the limit of 1 byte that jails have is one of files and pipes"),
            "set kernel.core_pattern to a file or a pipe, or crashes of tenants reach who listens on that socket",
        ),
        Some(_) => {
            works(name, format!("core_pattern is \"{pattern}\", a file, for which a limit of 1 byte is too small"))
        }
        None => limited(name, "core_pattern cannot be read or is empty".to_owned(), "run this with /proc mounted"),
    }
}

/// Reports whether a tenant can make the kernel load a module: in `system` by mounting a file system, and on older
/// kernels in every profile by the first bytes of a program. The seccomp filter refuses all other ways.
fn modules(disabled: Option<bool>) -> FeatureReport {
    let name = "modules";
    match disabled {
        None => works(name, "the kernel loads no modules".to_owned()),
        Some(true) => works(name, "kernel.modules_disabled is 1".to_owned()),
        Some(false) => limited(
            name,
            "kernel.modules_disabled is 0: a file system that a tenant of `system` mounts makes the kernel load its module, and on \
             older kernels the first bytes of a program ask for `binfmt-XXXX`, in every profile"
                .to_owned(),
            "load what the host needs (overlay, its disks, its network), then set kernel.modules_disabled to 1 at the end of the boot; \
             or keep single ones out: `install NAME /bin/false` in /etc/modprobe.d",
        ),
    }
}

fn namespaces(readings: &HostReadings) -> FeatureReport {
    let name = "namespaces";
    let absent: Vec<&str> =
        readings.namespaces.iter().filter(|(_, reading)| !reading.present).map(|(kind, _)| *kind).collect();
    let barred: Vec<&str> =
        readings.namespaces.iter().filter(|(_, reading)| reading.most == Some(0)).map(|(kind, _)| *kind).collect();
    if !absent.is_empty() {
        return missing(
            name,
            format!("/proc/self/ns lacks {}", absent.join(", ")),
            "boot a kernel that has all of them",
        );
    }
    if !barred.is_empty() {
        let evidence = format!("/proc/sys/user/max_*_namespaces is 0 for {}", barred.join(", "));
        return missing(name, evidence, "raise it to 1000 or more in /etc/sysctl.d");
    }
    if readings.user_namespaces_restricted {
        let evidence = "kernel.apparmor_restrict_unprivileged_userns is 1".to_owned();
        return limited(name, evidence, "give bailiwick-warden an AppArmor profile with `userns`, or set it to 0");
    }
    works(name, format!("all {} kinds are in /proc/self/ns, none is barred", readings.namespaces.len()))
}

fn landlock(abi: u32) -> FeatureReport {
    let evidence = format!("ABI {abi} (landlock_create_ruleset)");
    let lacking: Vec<&str> =
        Profile::ALL.iter().filter(|profile| abi < lowest_abi(**profile)).map(|profile| profile.word()).collect();
    let state = match lacking.len() {
        0 => FeatureState::Works,
        lacking if lacking < Profile::ALL.len() => FeatureState::Limited,
        _ => FeatureState::Missing,
    };
    let wanted = Profile::ALL.iter().map(|profile| format!("{profile} ABI {}", lowest_abi(*profile)));
    let wanted = wanted.collect::<Vec<_>>().join(", ");
    let remedy =
        format!("boot a newer kernel with landlock in lsm= (needed: {wanted}); lacking: {}", lacking.join(", "));
    feature("landlock", state, evidence, &remedy)
}

fn group_kill(readings: &HostReadings, kernel: Option<(u32, u32)>) -> FeatureReport {
    let name = "cgroup-kill";
    let remedy = "boot a kernel of version 5.14 or newer";
    match readings.group_kill {
        Some(has) => either(name, has, format!("groups have {}cgroup.kill", if has { "" } else { "no " }), remedy),
        None => {
            let has = readings.unified.is_some() && kernel.is_some_and(|kernel| kernel >= (5, 14));
            either(name, has, "read from the kernel's release: there is no group to look at".to_owned(), remedy)
        }
    }
}

fn controller(readings: &HostReadings, resource: Resource, controller: &str) -> FeatureReport {
    match readings.facts.controller(controller) {
        Some(Hierarchy::Unified) => works(resource.word(), format!("controller {controller}, unified hierarchy")),
        Some(Hierarchy::V1) => works(resource.word(), format!("controller {controller}, a hierarchy of version 1")),
        None => limited(
            resource.word(),
            format!("no hierarchy has the controller {controller}"),
            "boot with the controller enabled (cgroup_enable=), in the unified hierarchy if possible",
        ),
    }
}

/// Reports the kernel memory that no host charges to a tenant. The feature does not have the name of a resource, so
/// `require` cannot make it missing.
fn kernel_memory(facts: &HostFacts) -> FeatureReport {
    let unbounded = |profile: &Profile| {
        let names: Vec<&str> =
            plan::kernel_memory::unbounded(*profile, facts.controller("memory")).map(|(name, _)| name).collect();
        format!("{profile}: {}", names.join(", "))
    };
    let evidence = Profile::ALL.iter().map(unbounded).collect::<Vec<_>>().join("; ");
    limited(
        "kernel-memory",
        format!("charged to nobody and bounded by nothing, in profile {evidence}"),
        "no kernel does better (docs/limits.md): keep `reserve.memory`, and give profile \"web\" where it is enough",
    )
}

/// Reports whether the host's pools of fixed size are large enough for many tenants.
fn kernel_pools(readings: &HostReadings) -> FeatureReport {
    let name = "kernel-pools";
    let pool = |name: &str| readings.pools.get(name).copied();
    let (Some(most), Some(reserve), Some(files)) =
        (pool("kernel.pty.max"), pool("kernel.pty.reserve"), pool("fs.file-max"))
    else {
        return limited(name, "/proc/sys/kernel/pty and /proc/sys/fs cannot be read".to_owned(), "mount /proc");
    };
    let terminals = most.saturating_sub(reserve) / u64::from(TERMINALS);
    let limits = Limits::default();
    let tasks = if let Bound::At(tasks) = limits.tasks { tasks } else { 1 };
    let open_files = files / (tasks * limits.open_files);
    let mut evidence = format!(
        "kernel.pty.max = {most} is the share of {terminals} tenants; fs.file-max = {files} that of {open_files} with the \
         limits of the default plan"
    );
    let mut shares = terminals.min(open_files);
    // It is there as soon as anything on the host has loaded the module. Each network namespace may have as many.
    if let Some(tracked) = pool(TRACKED) {
        let most = remembered(Network::CONNECTIONS);
        let tenants = tracked / u64::from(most);
        evidence += &format!(
            "; {TRACKED} = {tracked} that of {tenants} with a network, {} connections and so up to {most} that the kernel remembers",
            Network::CONNECTIONS
        );
        shares = shares.min(tenants);
    }
    let state = if shares < SHARES { FeatureState::Limited } else { FeatureState::Works };
    let remedy = "write kernel.pty.max = 65536, fs.file-max = 9223372036854775807 and, for tenants with a network, \
                  net.netfilter.nf_conntrack_max = 8388608 to a file in /etc/sysctl.d";
    feature(name, state, evidence, remedy)
}

/// Reports the writes that no limit of block devices covers.
fn io_metadata(facts: &HostFacts) -> FeatureReport {
    let name = "io-metadata";
    if facts.controller("io") != Some(Hierarchy::Unified) || facts.storage.devices.is_empty() {
        return works(name, "no limit of block devices holds here at all: see \"io\"".to_owned());
    }
    let remedy = "nothing holds it but `cpu` and `inodes`: declare them, or give a tenant a disk of its own";
    limited(name, plan::kernel_memory::METADATA.to_owned(), remedy)
}

fn swap(readings: &HostReadings) -> FeatureReport {
    let name = Resource::Swap.word();
    let remedy = "boot with swapaccount=1";
    match (readings.facts.controller("memory"), readings.swap_accounting) {
        (None, _) => limited(name, "no hierarchy has the controller memory".to_owned(), remedy),
        (Some(_), Some(true)) => works(name, "groups count swap".to_owned()),
        (Some(_), Some(false)) => limited(name, "groups do not count swap".to_owned(), remedy),
        (Some(_), None) => {
            limited(name, "there is no group to look at".to_owned(), "run this again with a tenant running")
        }
    }
}

fn io(facts: &HostFacts) -> FeatureReport {
    let name = Resource::Io.word();
    let devices: Vec<String> =
        facts.storage.devices.iter().map(|device| format!("{} ({})", device.name, device.number)).collect();
    let remedy =
        "boot with systemd.unified_cgroup_hierarchy=1, or without cgroup_no_v1= and the controller blkio of version 1";
    match facts.controller("io") {
        None => limited(name, "no hierarchy has the controller io".to_owned(), remedy),
        Some(Hierarchy::V1) => {
            limited(name, "version 1 does not charge what goes through the page cache".to_owned(), remedy)
        }
        Some(Hierarchy::Unified) if devices.is_empty() => {
            let evidence = format!("the state directory, on {}, is on no block device", facts.storage.fs_type);
            limited(name, evidence, "move the state directory to a local disk")
        }
        Some(Hierarchy::Unified) => {
            let weights = facts.storage.devices.iter().any(|device| device.weight.is_some());
            let weight = if weights { "" } else { "; io_weight needs the scheduler bfq or io.cost.qos there" };
            works(name, format!("controller io, unified hierarchy, on {}{weight}", devices.join(", ")))
        }
    }
}

fn quota(resource: Resource, facts: &HostFacts) -> FeatureReport {
    let (name, fs_type) = (resource.word(), &facts.storage.fs_type);
    match &facts.storage.quota {
        QuotaFacts::Projects => works(name, format!("{fs_type} enforces project quotas")),
        QuotaFacts::Groups if resource == Resource::Disk => {
            works(name, "btrfs enforces quota groups; hard limits only".to_owned())
        }
        QuotaFacts::Groups => {
            let remedy = "move the state directory to XFS or ext4 with prjquota, or leave `inodes` unlimited";
            limited(name, "btrfs does not count the inodes of a tenant".to_owned(), remedy)
        }
        QuotaFacts::Nothing { why, remedy } => limited(name, why.clone(), remedy),
    }
}

fn init(readings: &HostReadings) -> FeatureReport {
    let name = "init";
    let path = readings.init.display();
    match readings.init_linkage {
        Some(Linkage::Static) if readings.init_readable => limited(
            name,
            format!("{path} can be read in jails, so root inside can trace PID 1 of its jail"),
            "set its mode to 0711, as the package does",
        ),
        Some(Linkage::Static) => works(name, format!("{path} names no loader, and nobody inside can read it")),
        Some(Linkage::Closed) => works(
            name,
            format!("{path} is closed to this user, and so to jails; the warden starts none that needs a loader"),
        ),
        Some(Linkage::Dynamic) => {
            missing(name, format!("{path} needs a loader"), "link it statically (a musl target does)")
        }
        Some(Linkage::Unknown) => missing(name, format!("{path} is no program of this machine"), "install it again"),
        None => missing(name, format!("{path} cannot be read"), "install bailiwick-init there, or beside this program"),
    }
}

/// Marks a resource as missing when `require` lists it and this host has it only in part. The warden does not start
/// tenants that declare such a resource.
fn require(host: &Host, features: &mut [FeatureReport]) {
    for feature in features.iter_mut().filter(|feature| feature.state == FeatureState::Limited) {
        if feature.resource().is_some_and(|resource| host.require.contains(&resource)) {
            feature.state = FeatureState::Missing;
            feature.evidence.push_str("; `require` in bailiwick.toml lists it");
        }
    }
}

/// What sends tenants' mail, and as whom. A host without a mail server lacks something only if its operator has named one.
fn mail(host: &Host) -> FeatureReport {
    let lacks = if host.mail.command == HostMail::default().command { limited } else { missing };
    let domain = host.mail.domain.clone().unwrap_or_else(mail_domain);
    match sendmail_problem(&host.mail.command) {
        None => works("mail", format!("\"{}\" sends it, from TENANT@{domain}", host.mail.command.display())),
        Some(why) => lacks(
            "mail",
            why,
            "install a mail server, or name its program: mail = { command = \"/usr/sbin/sendmail\" } in bailiwick.toml; until then no tenant can send",
        ),
    }
}

fn configured(host: &Host, kernel: &str) -> Vec<FeatureReport> {
    let kernel = version(kernel);
    let remedy = "move it to ext4, XFS or btrfs";
    let storage = |name: &str, path: &Path| match storage_readings(path) {
        Ok(readings) => mappable(name, &readings, kernel, remedy),
        Err(error) => missing(name, chain(&error), remedy),
    };
    let ids = match user_readings() {
        Ok(users) => ids(host, &users),
        Err(error) => missing("ids", chain(&error), "make the user database readable"),
    };
    let host_users = match user_sources() {
        Ok(sources) => host_users(&host.login_group, group_exists(&host.login_group), &sources),
        Err(error) => missing("host-users", chain(&error), "make /etc/nsswitch.conf readable"),
    };
    let web_group = host.web.group.as_ref().map(|group| {
        either(
            "web-group",
            group_exists(group),
            format!("web = {{ group = \"{group}\" }} in bailiwick.toml"),
            "make the group (the package of the web server has it), or name another: no site is served without it",
        )
    });
    let mut features = vec![
        storage("storage", &host.state_dir),
        storage("image", Path::new("/usr")),
        reserve(host),
        mail(host),
        ids,
        host_users,
        either(
            "daemon-user",
            user_exists(&host.user),
            format!("user = \"{}\" in bailiwick.toml", host.user),
            "create it (systemd-sysusers), or name another",
        ),
    ];
    features.extend(pool(&host.state_dir));
    features.extend(web_group);
    features.extend(observers(host, user_exists, group_exists));
    if !host.host_sockets.is_empty() {
        let group = group_id(&host.login_group);
        let trial = |socket: &HostSocket| try_socket(host, socket, group);
        features.push(host_sockets(host, trial));
    }
    features
}

/// Reports whether tenants can use the sockets that the host may lend.
fn host_sockets(host: &Host, trial: impl Fn(&HostSocket) -> Result<(), NotLent>) -> FeatureReport {
    let (mut good, mut bad, mut remedies) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (name, socket) in &host.host_sockets {
        let shown = format!("\"{name}\" ({})", socket.path.display());
        match trial(socket) {
            Ok(()) => good.push(shown),
            Err(NotLent::Missing) => {
                bad.push(format!("{shown} is not there"));
                remedies.insert(
                    "start the program that makes it, or remove its [[host_socket]] from bailiwick.toml".to_owned(),
                );
            }
            Err(NotLent::Refused { why, remedy }) => {
                bad.push(format!("{shown}: {why}"));
                remedies.insert(remedy);
            }
        }
    }
    if bad.is_empty() {
        return works("host-sockets", format!("can be lent: {}", good.join(", ")));
    }
    limited("host-sockets", bad.join("; "), &remedies.into_iter().collect::<Vec<_>>().join("; "))
}

/// Whether a tenant could use a socket of the host. `group` is that of all host users.
fn try_socket(host: &Host, socket: &HostSocket, group: Option<u32>) -> Result<(), NotLent> {
    let place = bailiwick_policy::find_socket(host, socket)?;
    let may =
        |(_, gid, mode): (u32, u32, u32), right: u32| mode & if group == Some(gid) { right << 3 } else { right } != 0;
    if !may(place.of_directory, 0o1) || !may(place.of_socket, 0o2) {
        let remedy = format!("make it writable for the group \"{}\", or for everybody", host.login_group);
        return Err(NotLent::Refused { why: "tenants may not open it".to_owned(), remedy });
    }
    let file = socket.path.file_name().map(|file| place.directory.join(file)).ok_or(NotLent::Missing)?;
    // Whoever asks may have fewer rights than a tenant: then it is not tried.
    let (why, remedy) = match bailiwick_sys::socket::connect_at_once(&file) {
        Err(error) if bailiwick_sys::socket::is_no_stream(&error) => {
            ("it is no stream socket", "name another: only stream sockets can be lent")
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            ("nobody serves it", "start the program that makes it")
        }
        _ => return Ok(()),
    };
    Err(NotLent::Refused { why: why.to_owned(), remedy: remedy.to_owned() })
}

/// Reports whether the file that the tenants' disk is in is whole. Nothing when the state directory is on no such file.
fn pool(state_dir: &Path) -> Option<FeatureReport> {
    let storage = bailiwick_observe::host_facts(state_dir).ok()?.storage;
    Some(pool_of(&bailiwick_observe::pool_backing(&storage)?))
}

fn pool_of(pool: &PoolBacking) -> FeatureReport {
    let problems = pool.problems();
    if problems.is_empty() {
        let size = ByteSize(pool.size).rounded();
        return works("pool", format!("{size} in \"{}\" ({}), allocated, without discard", pool.file, pool.device));
    }
    let state = if pool.is_cut() { FeatureState::Missing } else { FeatureState::Limited };
    feature("pool", state, problems.join("; "), "see `bailiwick pool show` and docs/setup.md")
}

/// Reports whether the reserve of disk space leaves enough of the file system to tenants, and whether less than the
/// reserve is free.
fn reserve(host: &Host) -> FeatureReport {
    let (kept, dir) = (host.reserve.disk, &host.state_dir);
    match bailiwick_observe::space(dir) {
        Ok((all, free)) => reserve_of(kept.0, all, free),
        Err(error) => feature("reserve", FeatureState::Limited, error.to_string(), "make the state directory"),
    }
}

fn reserve_of(kept: u64, all: u64, free: u64) -> FeatureReport {
    let [kept_words, all_words, free_words] = [kept, all, free].map(ByteSize);
    let evidence = format!("{kept_words} of disk space are kept for the host; of {all_words}, {free_words} are free");
    if kept > all / 2 {
        return missing("reserve", evidence, "lower `reserve` in bailiwick.toml to half of the file system or less");
    }
    let remedy = "free disk space, or lower `reserve` in bailiwick.toml: until then no tenant can take more";
    feature("reserve", if free < kept { FeatureState::Limited } else { FeatureState::Works }, evidence, remedy)
}

fn mappable(name: &str, readings: &StorageReadings, kernel: Option<(u32, u32)>, remedy: &str) -> FeatureReport {
    let what = format!("{} is {}", readings.path.display(), readings.fs_type);
    match &readings.id_map {
        Trial::Worked => works(name, format!("{what}; an id-mapped copy was made")),
        Trial::Refused(why) => missing(name, format!("{what}; it cannot be id-mapped: {why}"), remedy),
        Trial::Untried(why) => {
            let since = MAPPABLE.iter().find(|(fs_type, _)| *fs_type == readings.fs_type).map(|(_, since)| *since);
            let evidence = format!("{what}; read, not tried: {why}");
            match since {
                Some(since) if kernel.is_some_and(|kernel| kernel >= since) => works(name, evidence),
                _ => limited(name, evidence, "run `bailiwick doctor` as root, which tries it"),
            }
        }
    }
}

/// Reports whether tenants can log in by ssh: the host must find the records of their host users, and their group must
/// exist.
fn host_users(group: &str, group_exists: bool, sources: &[String]) -> FeatureReport {
    let found = sources.iter().any(|source| source == "systemd");
    let evidence = format!("passwd: {} in /etc/nsswitch.conf", sources.join(" "));
    if !found {
        return limited("host-users", evidence, "install libnss-systemd, or nobody logs in to a tenant by ssh");
    }
    if !group_exists {
        let evidence = format!("the group \"{group}\" does not exist");
        return limited("host-users", evidence, "create it (systemd-sysusers), or set `login_group` in bailiwick.toml");
    }
    // When two sources have the same name or number, the first source wins.
    let later = sources.iter().position(|source| source == "systemd").map(|at| &sources[at..]).unwrap_or_default();
    let shadowed: Vec<&str> = bailiwick_observe::directories(later).collect();
    if !shadowed.is_empty() {
        let evidence = format!("{evidence}: a tenant's host user comes before users of {}", shadowed.join(" and "));
        return limited(
            "host-users",
            evidence,
            "put `systemd` last in the row `passwd`, so that users of a directory are never taken for a tenant",
        );
    }
    works("host-users", evidence)
}

/// Reports whether the pool of ids, with the host users below it, belongs to tenants alone. The pool has no end, so the
/// report gives the room below the next id of another owner.
fn ids(host: &Host, users: &UserReadings) -> FeatureReport {
    let first = host.ids.host_users();
    let single = users.users.iter().map(|(name, uid)| (*uid, *uid, format!("user {name:?} (/etc/passwd)")));
    let ranges = users.subordinate.iter().filter(|range| range.count > 0).map(|range| {
        (range.first, range.first.saturating_add(range.count - 1), format!("{:?} ({})", range.owner, range.file))
    });
    let next = single.chain(ranges).filter(|(_, last, _)| *last >= first).min_by_key(|(start, ..)| (*start).max(first));
    let Some((start, _, whose)) = next else {
        return works("ids", format!("nobody in /etc/passwd, /etc/subuid or /etc/subgid has an id from {first} on"));
    };
    // The number of tenants whose ids fit between the start of the pool and the next id of another owner.
    let room = start.saturating_sub(host.ids.first()) / host.ids.per_tenant();
    let evidence = format!("from {first} on there is room for {room} tenants before {whose}");
    let state = match room {
        0 => FeatureState::Missing,
        room if room < ROOM => FeatureState::Limited,
        _ => FeatureState::Works,
    };
    feature("ids", state, evidence, "choose another `ids.first` before the first tenant is made")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_observe::{NamespaceReading, SubordinateIds};
    use bailiwick_policy::Reserve;
    use bailiwick_types::{BlockDevice, IdPool, NAMESPACES, StorageFacts};

    fn good() -> HostReadings {
        HostReadings {
            facts: HostFacts {
                kernel: "6.18.44-generic".to_owned(),
                landlock_abi: 7,
                controllers: ["cpu", "memory", "pids", "io"].map(|name| (name.to_owned(), Hierarchy::Unified)).into(),
                root_links: ["bin", "sbin", "lib"].map(|name| (name.to_owned(), format!("usr/{name}"))).into(),
                host_etc: Vec::new(),
                unlisted: Vec::new(),
                storage: StorageFacts {
                    fs_type: "xfs".to_owned(),
                    quota: QuotaFacts::Projects,
                    devices: vec![BlockDevice { number: "8:0".to_owned(), name: "sda".to_owned(), weight: None }],
                },
            },
            unified: Some("/sys/fs/cgroup".into()),
            group_kill: Some(true),
            pressure: true,
            swap_accounting: Some(true),
            namespaces: NAMESPACES.map(|kind| (kind, NamespaceReading { present: true, most: Some(1000) })).into(),
            pools: [("kernel.pty.max", 65_536), ("kernel.pty.reserve", 1024), ("fs.file-max", u64::MAX >> 1)].into(),
            user_namespaces_restricted: false,
            seccomp_actions: ["kill_process", "errno"].map(str::to_owned).into(),
            file_systems: ["overlay".to_owned()].into(),
            init: "/usr/libexec/bailiwick-init".into(),
            core_pattern: "|/usr/lib/systemd/systemd-coredump %P".to_owned(),
            modules_disabled: Some(true),
            init_linkage: Some(Linkage::Static),
            init_readable: false,
        }
    }

    fn host() -> Host {
        Host {
            state_dir: "/var/lib/bailiwick".into(),
            runtime_dir: "/run/bailiwick".into(),
            ids: IdPool::default(),
            require: [Resource::Disk, Resource::Memory].into(),
            syslog: false,
            reserve: Reserve { memory: ByteSize(0), tasks: 0, disk: ByteSize(0) },
            admins: Vec::new(),
            observers: Vec::new(),
            user: "root".to_owned(),
            login_group: "bailiwick-tenants".to_owned(),
            replace_silent_init: None,
            web: bailiwick_policy::Web { group: None },
            etc: bailiwick_policy::EtcSettings::default(),
            mail: HostMail::default(),
            host_sockets: [].into(),
            network: bailiwick_types::HostNetwork::default(),
            events: bailiwick_policy::EventsKept::default(),
            metrics: bailiwick_policy::MetricsSettings::default(),
            notices: bailiwick_policy::NoticeSettings::default(),
            default_notices: Vec::new(),
            contact: bailiwick_types::Contact::default(),
        }
    }

    #[test]
    fn observers_that_do_not_exist_are_told_and_nobody_is_nothing() {
        let mut host = host();
        let report = |host: &Host| observers(host, |user| user == "prometheus", |_| false);
        assert!(report(&host).is_none());
        host.observers = vec![Principal::User("prometheus".to_owned())];
        let row = report(&host).expect("a row");
        assert_eq!((row.state, row.evidence.as_str()), (FeatureState::Works, "observers are told \"core\" of tenants"));
        host.observers.push(Principal::Group("monitoring".to_owned()));
        let row = report(&host).expect("a row");
        let golden = "the group \"monitoring\" in `observers` of bailiwick.toml does not exist";
        assert_eq!((row.state, row.evidence.as_str()), (FeatureState::Limited, golden));
    }

    #[test]
    fn what_sends_mail_and_as_whom_is_told_or_what_is_wrong_with_it() {
        let mut host = host();
        host.mail = HostMail { command: "/bin/sh".into(), domain: Some("example.org".to_owned()) };
        let row = mail(&host);
        assert_eq!(row.state, FeatureState::Works);
        assert_eq!(row.evidence, "\"/bin/sh\" sends it, from TENANT@example.org");
        host.mail.command = "/usr".into();
        let row = mail(&host);
        assert_eq!((row.state, row.evidence.as_str()), (FeatureState::Missing, "\"/usr\" is a directory"));
        assert!(!row.remedy.is_empty());
        let default = HostMail::default().command;
        if !default.exists() {
            host.mail.command = default;
            assert_eq!(mail(&host).state, FeatureState::Limited, "nobody has asked for mail");
        }
    }

    #[test]
    fn a_socket_that_tenants_cannot_use_is_told_with_a_remedy() {
        let mut host = host();
        for (name, path) in [("mysql", "/run/mysqld/mysqld.sock"), ("redis", "/run/redis/redis.sock")] {
            let socket = HostSocket { path: path.into(), connections: 20 };
            host.host_sockets.insert(name.parse().expect("a name"), socket);
        }
        assert_eq!(host_sockets(&host, |_| Ok(())).state, FeatureState::Works);
        let of = |redis: NotLent| {
            host_sockets(
                &host,
                |socket| if socket.path.starts_with("/run/redis") { Err(redis.clone()) } else { Ok(()) },
            )
        };
        let missing = of(NotLent::Missing);
        assert_eq!(missing.state, FeatureState::Limited);
        assert_eq!(missing.evidence, "\"redis\" (/run/redis/redis.sock) is not there");
        let refused = of(NotLent::Refused { why: "it is a link".to_owned(), remedy: "write another".to_owned() });
        assert_eq!(refused.evidence, "\"redis\" (/run/redis/redis.sock): it is a link");
        assert_eq!(refused.remedy, "write another");
    }

    #[test]
    fn a_reserve_that_is_reached_or_too_large_is_told() {
        for (kept, all, free, golden) in [
            (0, 100, 0, FeatureState::Works),
            (50, 100, 50, FeatureState::Works),
            (50, 100, 49, FeatureState::Limited),
            (51, 100, 99, FeatureState::Missing),
        ] {
            assert_eq!(reserve_of(kept, all, free).state, golden, "{kept} {all} {free}");
        }
    }

    #[test]
    fn a_pool_that_is_not_whole_is_told_with_a_remedy() {
        let pool = |size, allocated, discards| PoolBacking {
            file: "/p".to_owned(),
            device: "loop0".to_owned(),
            device_size: 4096,
            size,
            allocated,
            discards,
        };
        for (pool, state) in [
            (pool(4096, 4096, false), FeatureState::Works),
            (pool(4096, 0, false), FeatureState::Limited),
            (pool(4096, 4096, true), FeatureState::Limited),
            (pool(512, 512, false), FeatureState::Missing),
        ] {
            let row = pool_of(&pool);
            assert_eq!((row.state, row.remedy.is_empty()), (state, state == FeatureState::Works), "{row:?}");
        }
    }

    /// The features that no host has.
    const NOWHERE: [&str; 2] = ["kernel-memory", "io-metadata"];

    fn states(readings: &HostReadings) -> Vec<(String, FeatureState)> {
        let wrong = report(readings).features.into_iter().filter(|feature| feature.state != FeatureState::Works);
        let wrong = wrong.filter(|feature| !NOWHERE.contains(&feature.feature.as_str()));
        wrong.map(|feature| (feature.feature, feature.state)).collect()
    }

    /// A feature, the state that it must have, and the loss that causes it.
    type Case = (&'static str, FeatureState, fn(&mut HostReadings));

    #[rustfmt::skip]
    const CASES: &[Case] = &[
        ("kernel", FeatureState::Missing, |r| r.facts.kernel = "5.15.0".into()),
        ("kernel", FeatureState::Missing, |r| r.facts.kernel = "unknown".into()),
        ("namespaces", FeatureState::Missing, |r| { r.namespaces.insert("time", NamespaceReading { present: false, most: None }); }),
        ("namespaces", FeatureState::Missing, |r| { r.namespaces.insert("user", NamespaceReading { present: true, most: Some(0) }); }),
        ("namespaces", FeatureState::Limited, |r| r.user_namespaces_restricted = true),
        ("seccomp", FeatureState::Missing, |r| r.seccomp_actions.clear()),
        ("landlock", FeatureState::Limited, |r| r.facts.landlock_abi = 5),
        ("landlock", FeatureState::Missing, |r| r.facts.landlock_abi = 0),
        ("control-groups", FeatureState::Missing, |r| r.unified = None),
        ("cgroup-kill", FeatureState::Missing, |r| r.group_kill = Some(false)),
        ("pressure", FeatureState::Limited, |r| r.pressure = false),
        ("cpu", FeatureState::Limited, |r| { r.facts.controllers.remove("cpu"); }),
        ("tasks", FeatureState::Limited, |r| { r.facts.controllers.remove("pids"); }),
        ("kernel-pools", FeatureState::Limited, |r| { r.pools.insert("kernel.pty.max", 4096); }),
        ("kernel-pools", FeatureState::Limited, |r| { r.pools.insert("fs.file-max", 2_000_000); }),
        ("kernel-pools", FeatureState::Limited, |r| { r.pools.insert(TRACKED, 262_144); }),
        ("kernel-pools", FeatureState::Limited, |r| r.pools.clear()),
        ("swap", FeatureState::Limited, |r| r.swap_accounting = Some(false)),
        ("swap", FeatureState::Limited, |r| r.swap_accounting = None),
        ("io", FeatureState::Limited, |r| { r.facts.controllers.insert("io".into(), Hierarchy::V1); }),
        ("io", FeatureState::Limited, |r| r.facts.storage.devices.clear()),
        ("inodes", FeatureState::Limited, |r| r.facts.storage.quota = QuotaFacts::Groups),
        ("overlay", FeatureState::Limited, |r| r.file_systems.clear()),
        ("crash-handler", FeatureState::Limited, |r| r.core_pattern = "@/run/crashes".to_owned()),
        ("crash-handler", FeatureState::Limited, |r| r.core_pattern.clear()),
        ("modules", FeatureState::Limited, |r| r.modules_disabled = Some(false)),
        ("merged-usr", FeatureState::Missing, |r| { r.facts.root_links.remove("lib"); }),
        ("init", FeatureState::Missing, |r| r.init_linkage = Some(Linkage::Dynamic)),
        ("init", FeatureState::Limited, |r| r.init_readable = true),
        ("init", FeatureState::Missing, |r| r.init_linkage = None),
    ];

    #[test]
    fn a_good_host_lacks_nothing() {
        assert_eq!(states(&good()), []);
        for (name, state, change) in CASES {
            let mut readings = good();
            change(&mut readings);
            assert_eq!(states(&readings), [((*name).to_owned(), *state)]);
        }
    }

    #[test]
    fn what_no_host_holds_is_told_of_and_never_called_missing() {
        let mut features = report(&good()).features;
        require(&Host { require: [Resource::Memory, Resource::Io].into(), ..host() }, &mut features);
        for name in NOWHERE {
            let feature = features.iter().find(|feature| feature.feature == name).expect("it is told of");
            assert_eq!(feature.state, FeatureState::Limited, "{name}");
        }
        let memory = features.iter().find(|feature| feature.feature == "kernel-memory").expect("told").evidence.clone();
        assert!(memory.contains("record locks; shell: ") && memory.contains("netlink sockets"), "{memory}");
    }

    #[test]
    fn whatever_does_not_work_has_a_remedy_and_what_works_has_none() {
        for (_, _, change) in CASES {
            let mut readings = good();
            change(&mut readings);
            for feature in report(&readings).features {
                assert!(!feature.evidence.is_empty());
                assert_eq!(feature.remedy.is_empty(), feature.state == FeatureState::Works, "{}", feature.feature);
            }
        }
    }

    #[test]
    fn what_is_required_and_not_enforced_is_missing() {
        let mut readings = good();
        let (why, remedy) = ("no quotas".to_owned(), "mount it with prjquota".to_owned());
        readings.facts.storage.quota = QuotaFacts::Nothing { why, remedy };
        let mut features = report(&readings).features;
        require(&host(), &mut features);
        let state = |name: &str| features.iter().find(|feature| feature.feature == name).map(|feature| feature.state);
        assert_eq!(state("disk"), Some(FeatureState::Missing));
        assert_eq!(state("inodes"), Some(FeatureState::Limited));
        assert_eq!(state("memory"), Some(FeatureState::Works));
    }

    #[test]
    fn the_room_for_ids_ends_where_somebody_elses_begin() {
        let with = |users: &[(&str, u32)], ranges: &[(u32, u32)]| {
            let row = |(first, count): &(u32, u32)| SubordinateIds {
                file: "/etc/subuid",
                owner: "eve".to_owned(),
                first: *first,
                count: *count,
            };
            let users = users.iter().map(|(name, uid)| ((*name).to_owned(), *uid)).collect();
            ids(&host(), &UserReadings { users, subordinate: ranges.iter().map(row).collect() })
        };
        assert_eq!(with(&[("root", 0), ("eve", 1000)], &[(100_000, 65_536)]).state, FeatureState::Works);
        assert_eq!(with(&[("eve", 10_000_000)], &[]).state, FeatureState::Missing);
        assert_eq!(with(&[("eve", 9_934_464)], &[]).state, FeatureState::Missing, "the first host user");
        assert_eq!(with(&[("eve", 9_934_463)], &[]).state, FeatureState::Works);
        assert_eq!(with(&[], &[(9_999_000, 65_536)]).state, FeatureState::Missing, "a range that reaches in");
        let far = with(&[("eve", 10_000_000 + 5 * 65_536)], &[]);
        assert_eq!(far.state, FeatureState::Limited);
        assert!(far.evidence.contains("room for 5 tenants"), "{}", far.evidence);
        assert_eq!(with(&[("eve", 4_000_000_000)], &[(0, 0)]).state, FeatureState::Works);
    }

    #[test]
    fn host_users_must_be_found() {
        let state = |exists, sources: &[&str]| {
            host_users("tenants", exists, &sources.iter().map(|source| (*source).to_owned()).collect::<Vec<_>>()).state
        };
        assert_eq!(state(true, &["files", "systemd"]), FeatureState::Works);
        assert_eq!(state(true, &["files"]), FeatureState::Limited);
        assert_eq!(state(true, &["files", "sss", "systemd"]), FeatureState::Works);
        assert_eq!(state(true, &["files", "systemd", "[NOTFOUND=return]"]), FeatureState::Works);
        assert_eq!(state(true, &["files", "systemd", "sss"]), FeatureState::Limited, "its users are hidden");
        assert_eq!(state(false, &["files", "systemd"]), FeatureState::Limited);
    }

    #[test]
    fn a_file_system_is_believed_when_it_was_tried_or_is_known() {
        let judge = |fs_type: &str, id_map: Trial| {
            let readings =
                StorageReadings { path: "/var".into(), fs_type: fs_type.to_owned(), options: Vec::new(), id_map };
            mappable("storage", &readings, Some((6, 1)), "move it").state
        };
        let untried = || Trial::Untried("not root".to_owned());
        assert_eq!(judge("zfs", Trial::Worked), FeatureState::Works);
        assert_eq!(judge("ext4", Trial::Refused("EINVAL".to_owned())), FeatureState::Missing);
        assert_eq!(judge("ext4", untried()), FeatureState::Works);
        assert_eq!(judge("tmpfs", untried()), FeatureState::Limited, "since 6.3");
        assert_eq!(judge("nfs4", untried()), FeatureState::Limited);
    }

    #[test]
    fn releases_of_kernels() {
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("6.1"), Some((6, 1)));
        assert_eq!(version("x"), None);
    }

    #[test]
    fn this_host_is_examined() {
        let report = host_report(Path::new("/var/lib"));
        assert_eq!(
            report.features.iter().find(|feature| feature.feature == "seccomp").map(|f| f.state),
            Some(FeatureState::Works)
        );
        let temp = tempfile::tempdir().expect("temporary directory");
        let report = doctor(temp.path());
        let configuration = report.features.last().expect("features");
        assert_eq!((configuration.feature.as_str(), configuration.state), ("configuration", FeatureState::Missing));
        for feature in configured(&host(), "6.18") {
            assert!(
                ["storage", "image", "reserve", "pool", "mail", "ids", "host-users", "daemon-user"]
                    .contains(&feature.feature.as_str())
            );
        }
    }
}
