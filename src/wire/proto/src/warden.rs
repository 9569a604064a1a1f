//! What `bailiwickd` may ask of the warden: a verb and a tenant's name, nothing else.
//!
//! The warden looks everything else up in the root-owned policy, so a `bailiwickd` in an attacker's hands can only do
//! to a tenant what the operator wrote down for it. Each verb says why it is safe to grant.

use crate::Failure;
use bailiwick_types::{
    Access, DiskFact, FtpUser, HostFacts, IdRange, InForce, LimitKey, Observed, ProcessSight, Profile, Resource,
    TenantName,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum WardenRequest {
    /// Which version speaks. Safe: tells nothing that the binary does not.
    Hello,
    /// Make the jail that the policy declares. Safe: refused unless the policy has the tenant as active, or as suspended with
    /// a door that stays open; the plan comes from the policy, and with it whether storage can be written. A jail that runs
    /// already is left alone.
    Start {
        /// Whose.
        tenant: TenantName,
    },
    /// End the jail and make the one that the policy declares. Safe: as `Stop` and `Start` are. Where the new one could not be made the
    /// jail is left alone.
    Restart {
        /// Whose.
        tenant: TenantName,
    },
    /// End the jail. Safe: no data is touched.
    Stop {
        /// Whose.
        tenant: TenantName,
        /// Whether it is to stay down.
        hold: Hold,
    },
    /// Write the declared limits to the running jail, read them back. Safe: the values come from the policy.
    Limit {
        /// Whose.
        tenant: TenantName,
    },
    /// Stop all processes of the jail where they are (`cgroup.freeze`). Safe: nothing is lost.
    Freeze {
        /// Whose.
        tenant: TenantName,
    },
    /// Let them go on.
    Thaw {
        /// Whose.
        tenant: TenantName,
    },
    /// Give the reserve for a rescue session, and have init fork there until it is told otherwise. Safe: it is small, one at a time,
    /// and taken back by the warden itself when nobody is in it.
    Rescue {
        /// Whose.
        tenant: TenantName,
    },
    /// Have init fork in the jail again. Safe: it is done soon even if nobody asks.
    Rescued {
        /// Whose.
        tenant: TenantName,
    },
    /// Destroy the data of a tenant and give its ids back. Safe: refused while the policy still has the tenant or its
    /// jail runs, so the operator must have removed the tenant's file first.
    Purge {
        /// Whose.
        tenant: TenantName,
    },
    /// Make the record of its host user, or remove it, as the policy says. Safe: the name is the tenant's, the id its own, the
    /// shell ours; who is on the host already stays who it is.
    HostUser {
        /// Whose.
        tenant: TenantName,
    },
    /// What a process of an FTP server needs to enter the jail for a login. Safe: for root alone, who needs nobody for it; what
    /// it sees there is what the policy says of the login.
    FtpView {
        /// Which login.
        user: FtpUser,
    },
    /// Who is in by FTP. Safe: changes nothing.
    FtpProcesses {
        /// Into whose jail; into any when `None`.
        tenant: Option<TenantName>,
    },
    /// End one that is. Safe: refused for a process that is not in a tenant's group for FTP.
    EndFtp {
        /// Which.
        process: FtpProcess,
    },
    /// Write down what the policy says now of tenants, as far as it has no error, for the time when it has one. Safe: what is written
    /// down is what the operator wrote, and it is used only in the place of a file that cannot be.
    Keep {
        /// Whose, at most [`MOST_KEPT`], each once.
        tenants: Vec<TenantName>,
    },
    /// Read the kernel's view of a tenant. Safe: changes nothing.
    Observe {
        /// Whose, at most [`MOST_OBSERVED`], each once. The answer has the same order.
        tenants: Vec<TenantName>,
    },
    /// Read as much of it as a comparison with the policy needs. Safe: changes nothing.
    InForce {
        /// Whose, at most [`MOST_COMPARED`], each once. The answer has the same order.
        tenants: Vec<TenantName>,
    },
    /// What the host is capable of. Safe: changes nothing.
    Facts,
    /// What every tenant uses of its disk quota. Safe: of what it changes, only the end of a time of grace, and that to
    /// what the policy declares.
    Disks,
    /// The processes of a tenant, with the largest files that they have open. Safe: changes nothing.
    Evidence {
        /// Whose.
        tenant: TenantName,
    },
    /// Tell what happens from now on, on this connection, which takes no further request. Safe: tells nothing that could
    /// not be asked for.
    Watch,
    /// What does not get on by itself: jails that cannot be cleared, data that cannot be removed. Safe: changes nothing.
    Problems,
    /// Who is known, who runs. Safe: changes nothing.
    Roster,
    /// The same of one tenant.
    Entry {
        /// Whose.
        tenant: TenantName,
    },
}

/// What a process that enters by FTP is to be bounded by, beside its namespaces and groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FtpView {
    /// Its filter of system calls is this profile's.
    pub profile: Profile,
    /// `RLIMIT_NOFILE`.
    pub open_files: u64,
}

/// A process of an FTP server in a tenant's group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FtpProcess {
    /// Whose.
    pub tenant: TenantName,
    /// As the host counts.
    pub pid: u32,
    /// When it started, in ticks since the boot (`proc_pid_stat(5)`).
    pub started: u64,
}

/// The most tenants of one `Observe`.
pub const MOST_OBSERVED: usize = 64;

/// The most tenants whose policy is written down by one request.
pub const MOST_KEPT: usize = 64;

/// The most tenants of one `InForce`.
pub const MOST_COMPARED: usize = 1024;

/// Whether a jail that is ended stays down until an operator starts it. `Start` always ends a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hold {
    /// As it was.
    Keep,
    /// Down until an operator starts it.
    Hold,
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum WardenReply {
    /// To `Hello`.
    Hello {
        /// Version of the warden.
        version: String,
    },
    /// Done, and it changed something.
    Done,
    /// Nothing had to be done.
    Unchanged,
    /// It is begun and takes longer than anybody should wait; the warden goes on by itself. To `Start` and `Restart`: the tenant's storage
    /// is being prepared, [`WardenEvent::Prepared`] tells of its end, and then it can be started.
    GoesOn,
    /// To `Observe`.
    Observed(Vec<Observed>),
    /// To `InForce`.
    InForce(Vec<InForce>),
    /// To `Watch`, each time that something happens.
    Event(WardenEvent),
    /// To `Evidence`.
    Evidence(Vec<ProcessSight>),
    /// To `FtpView`. Beside it: the jail's user namespace, a mount namespace with what the login may see, and for each hierarchy of
    /// control groups the file to which the process writes `0` to be in the tenant's.
    FtpView(FtpView),
    /// To `FtpProcesses`.
    FtpProcesses(Vec<FtpProcess>),
    /// To `Facts`.
    Facts(Box<HostFacts>),
    /// To `Disks`.
    Disks(BTreeMap<TenantName, DiskFact>),
    /// To `Problems`, in sentences.
    Problems {
        /// Of the reserve of disk space: that it is reached, or cannot be kept.
        reserve: Option<String>,
        /// Of tenants, one each, or of all.
        tenants: Vec<String>,
    },
    /// To `Roster`.
    Roster(BTreeMap<TenantName, RosterEntry>),
    /// To `Entry`; `None` when the tenant has no ids.
    Entry(Option<Box<RosterEntry>>),
    /// It could not be done; nothing is half done.
    Failed(Failure),
}

/// What happens without being asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum WardenEvent {
    /// The init of a jail has ended by itself, and the jail is cleared away.
    Ended {
        /// Whose.
        tenant: TenantName,
    },
    /// What was done to a tenant's storage before its jail can start has ended.
    Prepared {
        /// Whose.
        tenant: TenantName,
    },
    /// A tenant was refused at a disk limit, or has passed a soft one.
    Quota {
        /// Whose.
        tenant: TenantName,
        /// `disk` or `inodes`.
        limit: LimitKey,
        /// What it did.
        hit: QuotaHit,
    },
    /// Processes of tenants have waited for a resource for a good part of a second.
    Pressure {
        /// `cpu`, `memory` or `io`.
        resource: Resource,
    },
    /// The host's reserve of disk space is reached, so that no tenant can take more; or no longer.
    Reserve {
        /// Whether it is reached.
        reached: Reached,
    },
}

/// How a tenant met a disk limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuotaHit {
    /// It was refused.
    Refused,
    /// It has passed the soft limit, and may for a time.
    SoftPassed,
}

/// Whether a bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reached {
    /// It is.
    Yes,
    /// It was.
    NoLonger,
}

/// What the warden knows of a tenant without reading the kernel at length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RosterEntry {
    /// The tenant's ids.
    pub ids: IdRange,
    /// Init of the running jail, as the host counts.
    pub pid: Option<u32>,
    /// How it holds the tenant's storage; `None` when down.
    pub access: Option<Access>,
    /// Whether the jail is frozen.
    pub frozen: bool,
    /// Whether the jail is on its way out: asked to end or killed, and not gone yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clearing: bool,
    /// Whether its storage is being prepared: a start would have to wait.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub preparing: bool,
    /// Whether an operator stopped it and it must not be started by itself.
    pub held: bool,
    /// Whether the record of its host user is in place.
    pub host_user: bool,
    /// Control group by hierarchy; empty when down.
    pub cgroups: BTreeMap<String, String>,
}
