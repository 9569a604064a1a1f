//! Finds settings that are valid but cannot work on this machine, or with another tenant's file, for `bailiwick check`.
//!
//! What is refused when it is used is an error. What is in force all the same is a warning.
//!
//! The policy in force does not depend on these checks, because they depend on more than the file of a tenant and those of its
//! plans. A file that was accepted yesterday must not be refused today because the machine has lost some memory, or because
//! another tenant has gone.

use crate::diagnostic::{Diagnostic, Problem};
use crate::folder::{PLANS, TENANTS, file_name};
use crate::host;
use crate::host_network::UNBOUND;
use crate::links;
use crate::model::{Host, Plan, Policy, Run, ServiceSocket, Settings, Tenant};
use crate::place::Place;
use crate::proposed::{Proposed, read_proposed};
use crate::read::{Reading, sorted};
use crate::socket_place::{NotLent, find_socket};
use crate::source::Source;
use bailiwick_types::{ByteSize, Destination, HostNetwork, LimitKey, PlanName, Port, Profile, TenantName};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The facts about the machine that the checks need.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The size of its memory.
    pub memory: ByteSize,
    /// The most processes and threads that its kernel allows.
    pub tasks: u64,
    /// The size of the file system that the state directory is on, or would be; `None` when it is unknown.
    pub disk: Option<ByteSize>,
    /// The users of the host with their ids: all local users, and those of directory services that have the name of a tenant.
    pub users: Vec<(String, u32)>,
    /// Whether any of its databases has a user, which may be a number.
    pub has_user: fn(&str) -> bool,
    /// Whether it has the group of the web server that `bailiwick.toml` names; `true` when that names none.
    pub has_web_group: bool,
    /// Whether it has a file or a directory.
    pub has_path: fn(&Path) -> bool,
    /// What is wrong with the host's `sendmail`; `None` when every user can run it.
    pub mail_problem: Option<String>,
    /// Whether it has an address.
    pub has_address: fn(IpAddr) -> bool,
    /// Why jails have no resolver on it unless `bailiwick.toml` names one; `None` when they have.
    pub no_resolver: Option<String>,
    /// The ports on which something on it listens, and that others reach.
    pub listening: Vec<Port>,
    /// The tenants that have a limit which must hold and cannot hold on it, with the limit and why.
    pub unenforceable: BTreeMap<TenantName, (LimitKey, String)>,
}

/// Directories that belong to the host or to all its users. Directories below them may be used.
const OF_THE_HOST: &[&str] = &[
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/spool",
    "/var/tmp",
];
/// Directories that belong to the host with everything below them.
const ALL_OF_THE_HOST: &[&str] = &["/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr"];
/// Directories that are empty after each boot.
const GONE_AT_BOOT: &[&str] = &["/run", "/var/run"];
/// The most bytes of the path of a socket (`sun_path` of `unix(7)`, without its NUL).
const MAX_SOCKET_PATH: usize = 107;
/// The most rounds of a password's hash. With more, a comparison takes longer than a client waits.
const MAX_ROUNDS: u64 = 5_000_000;

/// Returns every problem of a configuration directory that was read just now, including settings that cannot work on this machine.
#[must_use]
pub fn check(config_dir: &Path, reading: Reading, machine: &Machine) -> Vec<Diagnostic> {
    check_reading(config_dir, None, reading, machine)
}

/// Does the same as [`check`] with a file as it would be after a change.
#[must_use]
pub fn check_proposed(config_dir: &Path, proposed: &Proposed, machine: &Machine) -> Vec<Diagnostic> {
    check_reading(config_dir, Some(proposed), read_proposed(config_dir, proposed), machine)
}

fn check_reading(
    config_dir: &Path,
    proposed: Option<&Proposed>,
    reading: Reading,
    machine: &Machine,
) -> Vec<Diagnostic> {
    let mut found = Findings { config_dir, proposed, diagnostics: reading.diagnostics };
    if let Some(policy) = &reading.policy {
        found.host(&policy.host, machine);
        found.host_sockets(&policy.host);
        found.ids(policy);
        found.web(policy, machine);
        found.mail(policy, machine);
        found.cache(policy, machine);
        found.resolvers(policy, machine);
        found.network_users(policy, machine);
        found.settings(policy, machine);
        found.tenants(policy, &reading.invalid);
    }
    sorted(found.diagnostics)
}

/// The problems that were found so far.
struct Findings<'a> {
    config_dir: &'a Path,
    proposed: Option<&'a Proposed>,
    diagnostics: Vec<Diagnostic>,
}

impl Findings<'_> {
    /// The text of a file, as it is or would be.
    fn source(&self, file: &Path) -> Option<Source> {
        let path = self.config_dir.join(file);
        let bytes = match self.proposed.filter(|proposed| proposed.file == file) {
            Some(proposed) => proposed.content.clone(),
            None => std::fs::read(&path).ok()?,
        };
        Source::new(path, bytes).ok()
    }

    /// Adds a problem at the place of a key in a file.
    fn add(&mut self, file: impl AsRef<Path>, key: &str, problem: Problem) {
        self.add_at(file, &Place::Key(key.to_owned().into()), problem);
    }

    /// Adds a problem at a place in a file.
    fn add_at(&mut self, file: impl AsRef<Path>, place: &Place, problem: Problem) {
        let path: PathBuf = self.config_dir.join(&file);
        let source = self.source(file.as_ref());
        let place = source.as_ref().and_then(|source| Some((source, place.find(source)?)));
        self.diagnostics.push(match place {
            Some((source, place)) => Diagnostic::at(source, &place, problem),
            None => Diagnostic::whole(&path, problem),
        });
    }

    /// What two tenants' files contradict each other about.
    fn tenants(&mut self, policy: &Policy, invalid: &BTreeSet<TenantName>) {
        for (tenant, place, problem) in links::contradictions(policy, invalid) {
            self.add_at(Path::new(TENANTS).join(file_name(tenant)), &place, problem);
        }
    }

    /// Refuses sockets that may not be lent from where they are now. One that is not there yet may come.
    fn host_sockets(&mut self, host: &Host) {
        for socket in host.host_sockets.values() {
            let Err(NotLent::Refused { why, remedy }) = find_socket(host, socket) else { continue };
            let path = self.config_dir.join(host::FILE);
            let source = self.source(Path::new(host::FILE));
            let written = format!("\"{}\"", socket.path.display());
            let place = source.and_then(|source| Some((source.text().find(&written)?, source)));
            let problem = Problem::new(why).hint(remedy);
            self.diagnostics.push(match place {
                Some((at, source)) => Diagnostic::at(&source, &(at..at + written.len()), problem),
                None => Diagnostic::whole(&path, problem),
            });
        }
    }

    fn host(&mut self, host: &Host, machine: &Machine) {
        for (key, path) in [("state_dir", &host.state_dir), ("runtime_dir", &host.runtime_dir)] {
            let belongs_to_host = OF_THE_HOST.iter().any(|other| path == Path::new(other))
                || ALL_OF_THE_HOST.iter().any(|other| path.starts_with(other));
            if belongs_to_host {
                let problem = Problem::new(format!("\"{}\" is the host's own", path.display()));
                self.add(host::FILE, key, problem.hint("give it a directory of its own, such as \"/srv/bailiwick\""));
            }
        }
        if host.reserve.memory >= machine.memory {
            let (reserve, memory) = (host.reserve.memory, machine.memory);
            let problem = Problem::new(format!("a reserve of {reserve} leaves nothing of the machine's {memory}"));
            self.add(host::FILE, "reserve", problem.hint("what is reserved is what tenants do not get"));
        }
        if host.reserve.tasks >= machine.tasks {
            let (reserve, tasks) = (host.reserve.tasks, machine.tasks);
            let problem = Problem::new(format!("a reserve of {reserve} tasks leaves nothing of the machine's {tasks}"));
            self.add(host::FILE, "reserve", problem.hint("what is reserved is what tenants do not get"));
        }
        if let Some(disk) = machine.disk.filter(|disk| host.reserve.disk >= *disk) {
            let (reserve, dir) = (host.reserve.disk, host.state_dir.display());
            let problem =
                Problem::new(format!("a reserve of {reserve} leaves nothing of the {disk} that \"{dir}\" is on"));
            self.add(host::FILE, "reserve", problem.hint("at most half of the file system can be reserved"));
        }
        if GONE_AT_BOOT.iter().any(|dir| host.state_dir.starts_with(dir)) {
            let problem =
                Problem::warning(format!("what is in \"{}\" is gone after a restart", host.state_dir.display()));
            self.add(host::FILE, "state_dir", problem.hint("tenants' data is there: give it a directory that is kept"));
        }
        let first = host.ids.host_users();
        if let Some(gid) = host.login_group.parse::<u32>().ok().filter(|gid| *gid >= first) {
            let problem = Problem::new(format!("tenants' host users would have the group {gid}, which is a tenant's"));
            self.add(
                host::FILE,
                "login_group",
                problem.hint(format!("ids from {first} on are tenants'; choose one below")),
            );
        }
        let own = machine.users.iter().find(|(name, _)| *name == host.user).map(|(_, uid)| *uid);
        if let Some(uid) = host.user.parse().ok().or(own).filter(|uid| *uid >= first) {
            let problem = Problem::new(format!("bailiwickd would have the id {uid}, which is a tenant's"));
            self.add(host::FILE, "user", problem.hint(format!("ids from {first} on are tenants'; choose one below")));
        }
        for path in host.etc.extra.iter().filter(|path| !(machine.has_path)(&Path::new("/etc").join(path))) {
            let problem = Problem::warning(format!("the host has no /etc/{path}, so no jail sees it"));
            self.add(host::FILE, &format!("\"{path}\""), problem.hint("correct the path in etc_extra, or remove it"));
        }
        if let Some((name, uid)) = machine.users.iter().find(|(name, uid)| *uid >= first && *name != host.user) {
            let problem = Problem::new(format!("the host's user {name:?} has the id {uid}, which is a tenant's"));
            self.add(host::FILE, "ids", problem.hint("raise `first` above every id of the host, and 65536 more"));
        }
    }

    fn ids(&mut self, policy: &Policy) {
        let count = policy.tenants.len();
        let last = u32::try_from(count.saturating_sub(1)).ok();
        if last.and_then(|last| policy.host.ids.range(last)).is_none() {
            let problem = Problem::new(format!("there are not ids for all of the {count} tenants from `first` on"));
            self.add(host::FILE, "ids", problem.hint("lower `first`: each tenant has 65536"));
        }
    }

    /// The host's `sendmail`, when somebody may use it.
    fn mail(&mut self, policy: &Policy, machine: &Machine) {
        let count = policy.tenants.values().filter(|tenant| tenant.settings.mail.is_some()).count();
        if let Some(why) = machine.mail_problem.as_ref().filter(|_| count > 0) {
            let problem = Problem::warning(format!("the mail of {count} tenant(s) cannot be sent: {why}"));
            let hint = "install a mail server, or name its program: mail = { command = \"/usr/sbin/sendmail\" }";
            self.add(host::FILE, "mail", problem.hint(hint));
        }
        let told = if policy.gives_notices() { machine.mail_problem.as_ref().filter(|_| count == 0) } else { None };
        if let Some(why) = told {
            let problem = Problem::warning(format!("notices cannot be sent: {why}"));
            let hint = "install a mail server, or name its program: mail = { command = \"/usr/sbin/sendmail\" }";
            self.add(host::FILE, "notice", problem.hint(hint));
        }
        let user = &policy.host.notices.user;
        if policy.gives_notices() && !(machine.has_user)(user) {
            let problem = Problem::warning(format!("notices are not delivered: the host has no user \"{user}\""));
            self.add(host::FILE, "notices", problem.hint(format!("make it with `useradd --system {user}`")));
        }
    }

    /// The program that is the cache of names, when tenants would ask it.
    fn cache(&mut self, policy: &Policy, machine: &Machine) {
        let is_wanted = policy.host.network.cache && policy.gives_networks();
        if is_wanted && !(machine.has_path)(Path::new(UNBOUND)) {
            let problem = Problem::warning(format!("no name resolves in jails: there is no \"{UNBOUND}\""));
            self.add(host::FILE, "network", problem.hint("install the package \"unbound\", or write cache = false"));
        }
    }

    /// The resolvers of jails: no jail reaches the host itself.
    fn resolvers(&mut self, policy: &Policy, machine: &Machine) {
        if let Some(why) = machine.no_resolver.as_ref().filter(|_| policy.gives_networks()) {
            self.add(host::FILE, "network", Problem::warning(format!("no name resolves in jails: {why}")));
        }
        let own = policy.host.network.resolvers.iter().filter(|resolver| (machine.has_address)(**resolver));
        for resolver in own {
            let problem = Problem::warning(format!("\"{resolver}\" is an address of this host, which no jail reaches"));
            let hint = "name a resolver on another machine, and with cache = true the jails ask a cache of their own";
            self.add_at(host::FILE, &Place::HostNetwork("resolvers"), problem.hint(hint));
        }
    }

    /// The users of the router and of the cache: they exist, and each is one of its own.
    fn network_users(&mut self, policy: &Policy, machine: &Machine) {
        let (host, defaults) = (&policy.host, HostNetwork::default());
        let is_known = |user: &str| machine.users.iter().any(|(name, _)| name == user) || (machine.has_user)(user);
        let uid = |user: &str| {
            let named = || machine.users.iter().find(|(name, _)| name == user).map(|(_, uid)| *uid);
            user.parse().ok().or_else(named)
        };
        let mut others = vec![("bailiwickd", &host.user)];
        let users = [
            ("user", "the router", &host.network.user, &defaults.user, true),
            ("cache_user", "the cache of names", &host.network.cache_user, &defaults.cache_user, host.network.cache),
        ];
        for (key, who, user, default, is_used) in users {
            // Nobody asks for a user that the file does not name, until somebody has a network.
            let is_needed = is_used && (policy.gives_networks() || user != default);
            let place = Place::HostNetwork(key);
            if is_needed && !is_known(user) {
                let problem = Problem::new(format!("{who} cannot run: the host has no user \"{user}\""));
                let make = format!("make it with `useradd --system {user}`");
                let hint =
                    if user == default { make } else { format!("{make}, or remove this line for \"{default}\"") };
                self.add_at(host::FILE, &place, problem.hint(hint));
            }
            // Two names of one number are found here, and one name twice where the file is read.
            let is_same = |other: &str| other != user && uid(other).is_some() && uid(other) == uid(user);
            if let Some((whose, other)) = others.iter().find(|(_, other)| is_same(other)).filter(|_| is_needed) {
                let problem =
                    Problem::new(format!("{who} must not run as \"{user}\": that is \"{other}\", the user of {whose}"));
                self.add_at(host::FILE, &place, problem.hint("give it a user of its own"));
            }
            others.push((who, user));
        }
    }

    /// The group that may connect to the sockets of services, and the paths of the sockets.
    fn web(&mut self, policy: &Policy, machine: &Machine) {
        let host = &policy.host;
        if let Some(group) = host.web.group.as_ref().filter(|_| !machine.has_web_group) {
            let problem = Problem::warning(format!("the host has no group \"{group}\""));
            self.add(
                host::FILE,
                "web",
                problem.hint("write the group that the web server runs as, such as \"www-data\""),
            );
        }
        let first = host.ids.host_users();
        let gid = host.web.group.as_ref().and_then(|group| group.parse::<u32>().ok());
        if let Some(gid) = gid.filter(|gid| *gid >= first) {
            let problem = Problem::new(format!("the web server would have the group {gid}, which is a tenant's"));
            self.add(host::FILE, "web", problem.hint(format!("ids from {first} on are tenants'; choose one below")));
        }
        let sockets = policy.tenants.values().flat_map(|tenant| {
            let sockets = tenant.settings.services.iter().flat_map(|service| &service.sockets);
            sockets.map(move |socket| (tenant, socket))
        });
        if let Some((tenant, socket)) = sockets.clone().next().filter(|_| host.web.group.is_none()) {
            let (tenant, socket) = (&tenant.name, &socket.name);
            let problem =
                Problem::warning(format!("nobody may connect to the socket \"{socket}\" of the tenant \"{tenant}\""));
            self.add(host::FILE, "web", problem.hint("name the web server's group: web = { group = \"www-data\" }"));
        }
        let path = |tenant: &Tenant, socket: &ServiceSocket| {
            host.runtime_dir.join("web").join(&tenant.name).join(format!("{}.sock", socket.name))
        };
        let longest = sockets.map(|(tenant, socket)| path(tenant, socket)).max_by_key(|path| path.as_os_str().len());
        if let Some(path) = longest.filter(|path| path.as_os_str().len() > MAX_SOCKET_PATH) {
            let problem = Problem::new(format!(
                "the path of a socket has {} bytes, and the kernel allows {MAX_SOCKET_PATH}: \"{}\"",
                path.as_os_str().len(),
                path.display()
            ));
            self.add(
                host::FILE,
                "runtime_dir",
                problem.hint("shorten runtime_dir, or the name of the tenant or the socket"),
            );
        }
    }

    fn settings(&mut self, policy: &Policy, machine: &Machine) {
        // A plan for programs that the host does not have is no problem until a tenant has it, and has no such service of its own.
        let needed: Vec<(&PlanName, Place)> = policy
            .tenants
            .values()
            .flat_map(|tenant| {
                missing_files(&tenant.settings, machine).into_iter().map(|(place, _)| (&tenant.plan, place))
            })
            .collect();
        let of_plan = |plan: &Plan| {
            let mut all = impossible(&plan.settings, machine);
            let missing = missing_files(&plan.settings, machine).into_iter();
            all.extend(missing.filter(|(place, _)| needed.contains(&(&plan.name, place.clone()))));
            all
        };
        let has = |plan: &PlanName, found: &(Place, Problem)| {
            policy.plans.get(plan).is_some_and(|plan| of_plan(plan).contains(found))
        };
        for plan in policy.plans.values() {
            let file = format!("{PLANS}/{}", file_name(&plan.name));
            for found in of_plan(plan) {
                // A problem is reported only where the setting is written, and not where it is inherited.
                if !plan.parent.as_ref().is_some_and(|parent| has(parent, &found)) {
                    self.add_at(&file, &found.0, found.1);
                }
            }
        }
        let mut told = BTreeSet::new();
        for tenant in policy.tenants.values() {
            let file = format!("{TENANTS}/{}", file_name(&tenant.name));
            if let Some((key, why)) = machine.unenforceable.get(&tenant.name) {
                let plan = policy.plans.get(&tenant.plan);
                let value = tenant.settings.limits.value(*key);
                let of_plan = plan.filter(|plan| plan.settings.limits.value(*key) == value);
                let file = of_plan.map_or_else(|| file.clone(), |plan| format!("{PLANS}/{}", file_name(&plan.name)));
                if told.insert((file.clone(), *key)) {
                    self.add_at(&file, &Place::Key(key.word().into()), Problem::new(why.clone()));
                }
            }
            let own = impossible(&tenant.settings, machine).into_iter().chain(missing_files(&tenant.settings, machine));
            for found in own {
                if !has(&tenant.plan, &found) {
                    self.add_at(&file, &found.0, found.1);
                }
            }
            self.tenant(&file, tenant, machine);
        }
    }

    fn tenant(&mut self, file: &str, tenant: &Tenant, machine: &Machine) {
        let other = machine.users.iter().find(|(name, _)| name == tenant.name.as_str());
        if let Some((name, uid)) = other.filter(|_| tenant.has_host_user()) {
            let problem = Problem::new(format!("the host has a user \"{name}\" already, with the id {uid}"));
            self.add(
                file,
                "doors",
                problem.hint("rename the tenant or the user: one of them would be taken for the other"),
            );
        }
        for login in &tenant.ftp {
            if login.password.rounds().is_some_and(|rounds| rounds > MAX_ROUNDS) {
                let problem = Problem::warning(format!(
                    "comparing the password of \"{}\" takes longer than any client waits",
                    login.name
                ));
                self.add(file, "password", problem.hint("make the hash with `bailiwick password`"));
            }
        }
    }
}

/// The settings that cannot work, each with its place.
fn impossible(settings: &Settings, machine: &Machine) -> Vec<(Place, Problem)> {
    let mut all = Vec::new();
    for (key, size) in [(LimitKey::Tmp, settings.limits.tmp), (LimitKey::Shm, settings.limits.shm)] {
        if size > machine.memory {
            let problem =
                Problem::warning(format!("{key} = \"{size}\" is more than the machine's memory of {}", machine.memory));
            all.push((Place::Key(key.word().into()), problem.hint("what lies there is memory of the tenant")));
        }
    }
    all.extend(network(settings, machine));
    all
}

/// What a network asks for that this machine has for itself.
fn network(settings: &Settings, machine: &Machine) -> Vec<(Place, Problem)> {
    let mut all = Vec::new();
    for (index, allow) in settings.network.allow.iter().enumerate() {
        let Destination::Prefix(prefix) = allow.to else { continue };
        let is_one = prefix.length() == if prefix.address().is_ipv4() { 32 } else { 128 };
        if is_one && (machine.has_address)(prefix.address()) {
            let problem = Problem::warning(format!("\"{prefix}\" is an address of this host, which no jail reaches"));
            all.push((Place::Allow(index), problem.hint("remove it; host_sockets lends a service of the host")));
        }
    }
    for (index, publish) in settings.network.publish.iter().enumerate() {
        let port = publish.host_port();
        if machine.listening.contains(&port) {
            let problem = Problem::warning(format!(
                "a program on this host listens on \"{port}\", and nobody reaches it once the port is published"
            ));
            let hint =
                format!("choose another port of the host, or end the program (`ss -ltnp sport = {}`)", port.number);
            all.push((Place::Publish(index), problem.hint(hint)));
        }
    }
    all
}

/// The programs and files of services that the host does not have, each with its text in the file. A jail has the host's `/usr`,
/// without its `/usr/local`; in `system` the tenant may have added to it.
fn missing_files(settings: &Settings, machine: &Machine) -> Vec<(Place, Problem)> {
    if settings.profile == Profile::System || settings.image.as_str() != "host" {
        return Vec::new();
    }
    let is_of_host = |word: &str| {
        let starts = ["/bin/", "/lib/", "/sbin/", "/usr/"].iter().any(|start| word.starts_with(start));
        starts && !word.starts_with("/usr/local/")
    };
    let mut all = Vec::new();
    for service in &settings.services {
        let Run::Command(command) = &service.run else { continue };
        let missing = command.iter().find(|word| is_of_host(word) && !(machine.has_path)(Path::new(word)));
        if let Some(missing) = missing {
            let problem = Problem::warning(format!(
                "the service \"{}\" needs {missing:?}, which the host does not have",
                service.name
            ));
            all.push((
                Place::Key(format!("{missing:?}").into()),
                problem.hint("install it on the host, or write another path"),
            ));
        }
    }
    all
}
