//! The policy after parsing and inheritance: what the operator declared, with nothing left to look up.

use bailiwick_types::{
    Access, ByteSize, Door, FtpName, IdPool, ImageName, Limits, LoginName, PasswordHash, Period, PlanName, Profile,
    Resource, ServiceName, TenantName, TimerName, When,
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Everything that the files declare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// `bailiwick.toml`.
    pub host: Host,
    /// `plans.d`, each after inheritance from its parents.
    pub plans: BTreeMap<PlanName, Plan>,
    /// `tenants.d`, each after inheritance from its plan.
    pub tenants: BTreeMap<TenantName, Tenant>,
}

/// The host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    /// Images, tenants' storage, ledger, history. Absolute.
    pub state_dir: PathBuf,
    /// Sockets and runtime state. Absolute.
    pub runtime_dir: PathBuf,
    /// What tenants' ranges are cut from.
    pub ids: IdPool,
    /// Tenants whose limits here cannot be enforced are refused.
    pub require: BTreeSet<Resource>,
    /// What all tenants together leave to the host.
    pub reserve: Reserve,
    /// Who may use the control socket for every tenant.
    pub admins: Vec<Principal>,
    /// Whether events go to the log of the system (`syslog(3)`) as well.
    pub syslog: bool,
    /// The user that `bailiwickd` runs as: a name of the host's user database, or a number.
    pub user: String,
    /// The group of tenants' host users, which sshd is told to hand over: likewise a name or a number.
    pub login_group: String,
    /// After how long without an answer of its init a jail is made anew; never when `None`.
    pub replace_silent_init: Option<Period>,
    /// What of the host's `/etc` jails see beside what packages brought and nobody changed.
    pub etc: EtcSettings,
}

/// Parts of the host's `/etc`, as paths below it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EtcSettings {
    /// Shown as they are.
    pub extra: Vec<String>,
    /// Not shown, whatever else says so.
    pub never: Vec<String>,
}

impl Host {
    /// Where records of tenants' host users are (`nss-systemd(8)`): beside the runtime directory, so `/run/userdb` on a host
    /// that is not below a folder of its own.
    #[must_use]
    pub fn user_records(&self) -> PathBuf {
        self.runtime_dir.with_file_name("userdb")
    }
}

impl Tenant {
    /// How the jail that is to run holds the tenant's storage; `None` when none is to run. The one place that decides it.
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

    /// Whether it has a host user: a door of sshd's, whether open now or not.
    #[must_use]
    pub fn has_host_user(&self) -> bool {
        self.settings.doors.iter().any(|door| matches!(door, Door::Ssh | Door::Sftp))
    }
}

/// What all tenants together leave to the host, whatever each of them may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Reserve {
    /// Of the machine's memory.
    pub memory: ByteSize,
    /// Of the processes and threads that the kernel can number.
    pub tasks: u64,
    /// Free space of the file system that holds the state directory.
    pub disk: ByteSize,
}

/// A user or a group of the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Principal {
    /// `"root"`.
    User(String),
    /// `"group:bailiwick-admin"`.
    Group(String),
}

/// A plan after inheritance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Its name.
    pub name: PlanName,
    /// The plan that it inherits from.
    pub parent: Option<PlanName>,
    /// The settings.
    pub settings: Settings,
}

/// What a plan gives and a tenant may override.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// The root file system; `host` is built in.
    pub image: ImageName,
    /// How tightly the jail is confined.
    pub profile: Profile,
    /// The ways in.
    pub doors: BTreeSet<Door>,
    /// Those of them that stay open, for reading, while a tenant is suspended.
    pub suspended_doors: BTreeSet<Door>,
    /// The bounds.
    pub limits: Limits,
}

/// A tenant after inheritance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tenant {
    /// Its name.
    pub name: TenantName,
    /// Its plan.
    pub plan: PlanName,
    /// Whether it may run.
    pub state: Declared,
    /// The settings, the tenant's own before its plan's.
    pub settings: Settings,
    /// Its user inside, beside root.
    pub login: Login,
    /// Its long-running programs.
    pub services: Vec<Service>,
    /// What is run for it at times, as its login user.
    pub timers: Vec<Timer>,
    /// Its logins for FTP.
    pub ftp: Vec<FtpLogin>,
}

/// A login for FTP: its files are those of the login user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FtpLogin {
    /// Its name, before the `@` and the tenant's.
    pub name: FtpName,
    /// Of its password. A secret: nothing that prints the policy prints it.
    #[serde(skip_serializing)]
    pub password: PasswordHash,
    /// What it is locked to, below the login user's home: names with slashes between; empty for the home itself.
    pub directory: String,
    /// How many may be in by it at a time; as many as by the door when `None`.
    pub sessions: Option<u64>,
}

/// The declared state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Declared {
    /// The jail is to run.
    Active,
    /// Its data is kept, its doors are closed. The jail is to be down, or read-only for the doors that stay open.
    Suspended {
        /// What the operator wrote.
        reason: Option<String>,
    },
}

/// The tenant's own user inside the jail, user and group 1000.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Login {
    /// Its name; the tenant's own name where nothing is written.
    pub user: LoginName,
    /// `authorized_keys` lines, one each, checked for shape and free of line ends.
    pub ssh_keys: Vec<String>,
}

impl Login {
    /// Whether a public key, type and base 64, is one of those that may log in.
    #[must_use]
    pub fn has_key(&self, key: &str) -> bool {
        let is_it = |line: &String| line.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
        !key.is_empty() && self.ssh_keys.iter().any(is_it)
    }
}

/// A command that is run at times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Timer {
    /// Its name.
    pub name: TimerName,
    /// When.
    pub schedule: When,
    /// Program (absolute path inside the jail) and arguments.
    pub command: Vec<String>,
}

/// A long-running program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Program (absolute path inside the jail) and arguments.
    pub command: Vec<String>,
}
