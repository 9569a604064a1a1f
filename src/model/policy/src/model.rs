//! The policy after parsing and inheritance. Every setting has a value, so nothing is left to look up.

use bailiwick_types::{
    Access, ByteSize, Contact, CpuShare, Door, FtpName, HostNetwork, HostSocketName, IdPool, ImageName, Limits, Link,
    LinkDirection, LoginName, Mail, MetricsDetail, Nesting, Network, NetworkMode, Notice, PasswordHash, Period,
    PlanName, Port, Profile, Readiness, Resource, Restart, ServiceName, SocketName, StopSignal, TenantName, TimerName,
    When,
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Everything that the files declare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// `bailiwick.toml`.
    pub host: Host,
    /// The plans of `plans.d`, each after inheritance from its parents.
    pub plans: BTreeMap<PlanName, Plan>,
    /// The tenants of `tenants.d`, each after inheritance from its plan.
    pub tenants: BTreeMap<TenantName, Tenant>,
}

impl Policy {
    /// Whether any plan or tenant has a network. If none has, the host needs no router and forwards nothing for jails.
    #[must_use]
    pub fn gives_networks(&self) -> bool {
        let mut plans = self.plans.values().map(|plan| &plan.settings);
        let mut tenants = self.tenants.values().map(|tenant| &tenant.settings);
        let has = |settings: &Settings| settings.network.mode != NetworkMode::None;
        plans.any(has) || tenants.any(has)
    }

    /// The connections between tenants that both of them declare: who connects, to whom, and to which port.
    pub fn links(&self) -> impl Iterator<Item = (&TenantName, &TenantName, Port)> {
        self.tenants.values().flat_map(|tenant| {
            let to = tenant.links.iter().filter(|link| link.direction == LinkDirection::To);
            let both = to.filter(|link| self.consents(&tenant.name, link));
            both.map(|link| (&tenant.name, &link.peer, link.port))
        })
    }

    /// Whether the other tenant of a link lets `name` connect.
    pub(crate) fn consents(&self, name: &TenantName, link: &Link) -> bool {
        let half = Link { peer: name.clone(), direction: LinkDirection::From, port: link.port };
        self.tenants.get(&link.peer).is_some_and(|peer| peer.links.contains(&half))
    }
}

/// The settings of the host, from `bailiwick.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    /// The directory of images, tenants' storage, ledger and history; an absolute path.
    pub state_dir: PathBuf,
    /// The directory of sockets and runtime state; an absolute path.
    pub runtime_dir: PathBuf,
    /// The host ids that tenants get their ranges from.
    pub ids: IdPool,
    /// The resources whose limits must be enforced. A tenant is refused when a limit of one of them cannot be.
    pub require: BTreeSet<Resource>,
    /// The resources that all tenants together leave to the host.
    pub reserve: Reserve,
    /// Who may use the control socket for every tenant.
    pub admins: Vec<Principal>,
    /// Who may ask for the metrics, and for nothing else.
    pub observers: Vec<Principal>,
    /// Whether events also go to the log of the system (`syslog(3)`).
    pub syslog: bool,
    /// The user that `bailiwickd` runs as: a name of the host's user database, or a number.
    pub user: String,
    /// The group of tenants' host users, by which sshd recognises them: a name or a number.
    pub login_group: String,
    /// How long an init may be silent before its jail is made again; `None` means for ever.
    pub replace_silent_init: Option<Period>,
    /// The web server of the host.
    pub web: Web,
    /// The parts of the host's `/etc` that jails see, or do not see, apart from unchanged files of packages.
    pub etc: EtcSettings,
    /// How tenants' mail leaves the host.
    pub mail: HostMail,
    /// The sockets of the host that plans and tenants may name.
    pub host_sockets: BTreeMap<HostSocketName, HostSocket>,
    /// What it has for the networks of jails.
    pub network: HostNetwork,
    /// How much of the outbox of events is kept.
    pub events: EventsKept,
    /// What observers are told.
    pub metrics: MetricsSettings,
    /// Who delivers notices.
    pub notices: NoticeSettings,
    /// Whom all tenants' use is told to, where their plans and they themselves say nothing of a resource.
    pub default_notices: Vec<Notice>,
    /// Where notices to the operator go.
    pub contact: Contact,
}

/// Who delivers notices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NoticeSettings {
    /// The user that `bailiwick-notify` runs as: a name of the host's user database, or a number. It may ask `bailiwickd` for
    /// events, the metrics and what notices need, and for nothing else.
    pub user: String,
    /// How often the use of limits is compared with the rules.
    pub every: Period,
}

/// What observers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MetricsSettings {
    /// How much of each tenant.
    pub tenants: MetricsDetail,
    /// How long a reading is used again.
    pub cache: Period,
}

/// How much of the outbox of events is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EventsKept {
    /// Older events are removed.
    pub keep: Period,
    /// Of more events, the oldest are removed.
    pub most: u32,
}

impl Default for EventsKept {
    /// 30 days, and 100,000.
    fn default() -> Self {
        Self { keep: Period(30 * 86_400), most: 100_000 }
    }
}

/// A socket of the host that can be lent to tenants, such as that of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostSocket {
    /// Where it is on the host: an absolute path of a file in a directory of its own.
    pub path: PathBuf,
    /// The most connections of one tenant at a time.
    pub connections: u32,
}

impl HostSocket {
    /// The default of `connections`.
    pub const CONNECTIONS: u32 = 20;
    /// The most that `connections` can be.
    pub const MAX_CONNECTIONS: u32 = 1000;
}

/// How the host sends tenants' mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostMail {
    /// The absolute path of a program with the interface of sendmail (`sendmail(8)`, `sendmail(1)` of Postfix).
    pub command: PathBuf,
    /// The domain of the senders' addresses; `None` for what `/etc/mailname` says, or else the host's name.
    pub domain: Option<String>,
}

impl Default for HostMail {
    fn default() -> Self {
        Self { command: PathBuf::from("/usr/sbin/sendmail"), domain: None }
    }
}

/// Parts of the host's `/etc`, as paths below `/etc`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EtcSettings {
    /// The paths that jails see as they are.
    pub extra: Vec<String>,
    /// The paths that jails never see, even if another rule shows them.
    pub never: Vec<String>,
}

impl Host {
    /// The directory with the records of tenants' host users (`nss-systemd(8)`), beside the runtime directory. With the default
    /// settings this is `/run/userdb`.
    #[must_use]
    pub fn user_records(&self) -> PathBuf {
        self.runtime_dir.with_file_name("userdb")
    }
}

impl Host {
    /// The file that holds the router, the network namespace through which jails reach the network. It is beside the runtime
    /// directory. With the default settings this is that of `ip netns exec bailiwick` (`ip-netns(8)`).
    #[must_use]
    pub fn router_namespace(&self) -> PathBuf {
        self.runtime_dir.with_file_name("netns").join("bailiwick")
    }
}

impl Tenant {
    /// How the tenant's jail may use its storage; `None` when no jail shall run. Only this function decides it.
    #[must_use]
    pub fn access(&self) -> Option<Access> {
        match self.state {
            Declared::Active => Some(Access::ReadWrite),
            Declared::Suspended { .. } => {
                self.settings.doors.iter().any(|door| self.is_open(*door)).then_some(Access::ReadOnly)
            }
        }
    }

    /// Whether a door is open now.
    #[must_use]
    pub fn is_open(&self, door: Door) -> bool {
        let Settings { doors, suspended_doors, .. } = &self.settings;
        doors.contains(&door) && (self.state == Declared::Active || suspended_doors.contains(&door))
    }

    /// Whether the tenant has a host user. This is so when it has a door of sshd, open or not, a socket of the host, or mail:
    /// the programs of the host behind these see the host user.
    #[must_use]
    pub fn has_host_user(&self) -> bool {
        let has_door = self.settings.doors.iter().any(|door| matches!(door, Door::Ssh | Door::Sftp));
        has_door || !self.settings.host_sockets.is_empty() || self.settings.mail.is_some()
    }
}

/// The resources that all tenants together leave to the host, even if the sum of their limits is higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Reserve {
    /// Memory of the machine.
    pub memory: ByteSize,
    /// Processes and threads.
    pub tasks: u64,
    /// Free space on the file system of the state directory.
    pub disk: ByteSize,
}

/// A user or a group of the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Principal {
    /// A user, such as `"root"`; in `observers` also the number of one.
    User(String),
    /// A group, such as `"group:bailiwick-admin"`.
    Group(String),
}

/// A plan after inheritance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The name of the plan.
    pub name: PlanName,
    /// The plan that it inherits from.
    pub parent: Option<PlanName>,
    /// The settings.
    pub settings: Settings,
}

/// The settings that a plan gives and a tenant may override.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// The root file system. The image `host` is built in.
    pub image: ImageName,
    /// How tightly the jail is confined.
    pub profile: Profile,
    /// Whether its users may make user namespaces.
    pub nesting: Nesting,
    /// The ways in.
    pub doors: BTreeSet<Door>,
    /// The doors that stay open, for reading, while a tenant is suspended.
    pub suspended_doors: BTreeSet<Door>,
    /// The limits.
    pub limits: Limits,
    /// The long-running programs: those of the plan, then the tenant's own. A tenant's service replaces one of the same name.
    pub services: Vec<Service>,
    /// When an idle tenant sleeps; `None` for never.
    pub sleep: Option<Sleep>,
    /// The mail that the tenant may send; `None` for none.
    pub mail: Option<Mail>,
    /// The sockets of the host that the tenant may use. A tenant's list replaces that of its plan.
    pub host_sockets: BTreeSet<HostSocketName>,
    /// The network of its jail.
    pub network: Network,
    /// Whom its use of resources is told to. The rules of a tenant for a resource replace those of its plan.
    pub notices: Vec<Notice>,
}

/// A tenant after inheritance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tenant {
    /// The name of the tenant.
    pub name: TenantName,
    /// Its plan.
    pub plan: PlanName,
    /// Whether its jail may run.
    pub state: Declared,
    /// The settings: the tenant's own, and those of its plan for the others.
    pub settings: Settings,
    /// Its user inside, beside root.
    pub login: Login,
    /// The commands that run at set times, as its login user.
    pub timers: Vec<Timer>,
    /// Its logins for FTP.
    pub ftp: Vec<FtpLogin>,
    /// Where notices to the tenant go.
    pub contact: Contact,
    /// Its halves of connections to and from other tenants. [`Policy::links`] has those with both halves.
    pub links: Vec<Link>,
}

/// An FTP login. It has the files of the login user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FtpLogin {
    /// The part of its name before the `@` and the tenant's name.
    pub name: FtpName,
    /// The hash of its password. This is a secret, so printing the policy leaves it out.
    #[serde(skip_serializing)]
    pub password: PasswordHash,
    /// The directory that it is locked to, as a relative path from the login user's home. Empty means the home itself.
    pub directory: String,
    /// The most sessions of this login at a time; `None` means that only the limits of door and tenant count.
    pub sessions: Option<u64>,
}

/// The declared state of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Declared {
    /// The jail shall run.
    Active,
    /// The data stays and the doors are closed. The jail shall be down, or run read-only for the doors that stay open.
    Suspended {
        /// The reason in the tenant's file.
        reason: Option<String>,
    },
}

/// The tenant's own user inside the jail, user and group 1000.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Login {
    /// The name of the user. It is the tenant's name unless the file sets another.
    pub user: LoginName,
    /// The lines of `authorized_keys`, one key each. Their shape was checked, and they hold no line ends.
    pub ssh_keys: Vec<String>,
}

impl Login {
    /// Whether a public key may log in. `key` is its type and base64 text.
    #[must_use]
    pub fn has_key(&self, key: &str) -> bool {
        let is_same =
            |line: &String| line.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
        !key.is_empty() && self.ssh_keys.iter().any(is_same)
    }
}

/// A command that runs at set times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Timer {
    /// The name of the timer.
    pub name: TimerName,
    /// The times when it runs.
    pub schedule: When,
    /// The program (an absolute path inside the jail) and its arguments.
    pub command: Vec<String>,
}

/// A long-running program that init supervises.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Service {
    /// The name of the service.
    pub name: ServiceName,
    /// What runs.
    pub run: Run,
    /// The user inside that it runs as.
    pub user: ServiceUser,
    /// The working directory, an absolute path inside; the user's home when `None`.
    pub directory: Option<String>,
    /// Variables that are added to its clean environment.
    pub env: BTreeMap<String, String>,
    /// The services that must be ready before it starts.
    pub after: BTreeSet<ServiceName>,
    /// When it is started again.
    pub restart: Restart,
    /// How it is asked to end.
    pub stop: Stop,
    /// How it says that it is ready.
    pub ready: Readiness,
    /// The bounds of its log.
    pub log: Log,
    /// Its own limits, inside the tenant's.
    pub limits: ServiceLimits,
    /// Its sockets.
    pub sockets: Vec<ServiceSocket>,
}

impl Service {
    /// A service with the default of every other setting.
    #[must_use]
    pub fn new(name: ServiceName, run: Run) -> Self {
        Self {
            name,
            run,
            user: ServiceUser::Login,
            directory: None,
            env: BTreeMap::new(),
            after: BTreeSet::new(),
            restart: Restart::Always,
            stop: Stop::default(),
            ready: Readiness::None,
            log: Log::default(),
            limits: ServiceLimits::default(),
            sockets: Vec::new(),
        }
    }
}

/// What a service runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Run {
    /// The program (an absolute path inside the jail) and its arguments.
    Command(Vec<String>),
    /// Bailiwick's own server of static files, with the directory that it serves: an absolute path inside the jail, or
    /// a path below the login user's home.
    Files(String),
}

/// The user inside that a service runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceUser {
    /// The login user.
    Login,
    /// Root inside.
    Root,
}

/// How a service is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// The signal that its main process gets.
    pub signal: StopSignal,
    /// How long it may take, before it is killed.
    pub within: Period,
}

impl Default for Stop {
    fn default() -> Self {
        Self { signal: StopSignal::Term, within: Period(10) }
    }
}

/// The bounds of a service's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Log {
    /// The size of one file.
    pub size: ByteSize,
    /// How many full files are kept beside the current one.
    pub keep: u32,
}

impl Default for Log {
    fn default() -> Self {
        Self { size: ByteSize(1 << 20), keep: 1 }
    }
}

/// Limits of one service, inside the tenant's. `None` means only the tenant's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ServiceLimits {
    /// Memory; above it the kernel kills processes of the service.
    pub memory: Option<ByteSize>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    /// Processor time, as a share of one core.
    pub cpu: Option<CpuShare>,
}

/// A socket of a service, which the host's web server connects to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceSocket {
    /// The name of the socket; unique for the tenant.
    pub name: SocketName,
    /// How the service gets its connections.
    pub pass: Pass,
    /// The most connections that wait to be accepted (`listen(2)`).
    pub backlog: u32,
    /// The most requests at a time; `None` means only the limits of the service.
    pub entries: Option<u64>,
}

impl ServiceSocket {
    /// The default of `backlog`.
    pub const BACKLOG: u32 = 128;
}

/// How a service gets the connections of a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pass {
    /// It inherits the listening socket (`sd_listen_fds(3)`).
    Fd,
    /// It is PHP-FPM and inherits the listening socket. The text is the value of `listen` in its configuration.
    Fpm(String),
    /// A relay inside connects to this address inside, which the service listens on. `PORT` is set to its port.
    Relay(SocketAddr),
}

/// When an idle tenant's jail is frozen and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sleep {
    /// After this long without work its jail is ended.
    pub after: Period,
    /// After this long without work its processes are frozen; `None` for never.
    pub freeze_after: Option<Period>,
}

/// The web server of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Web {
    /// The group that may connect to the sockets of tenants' services: a name or a number; `None` when there is no web server.
    pub group: Option<String>,
}
