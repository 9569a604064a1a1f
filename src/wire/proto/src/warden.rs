//! Requests of `bailiwickd` to the warden: a verb and a tenant's name, nothing else.
//!
//! The warden looks up everything else in the root-owned policy. So a `bailiwickd` in an attacker's hands can only do to a tenant
//! what the operator has declared for it. Each verb says why it is safe to grant.
//!
//! Danger: a field that carries a value of the caller's choice would give root's rights away with it.

use crate::Failure;
use bailiwick_types::{
    Access, DiskFact, FrozenBy, FtpUser, HostFacts, HostSocketName, IdRange, InForce, LentSocket, LimitKey, Observed,
    ProcessSnapshot, Profile, Resource, ServiceName, SocketName, TenantName,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A request to the warden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum WardenRequest {
    /// Ask for the version. Safe: the reply tells nothing that the binary does not.
    Hello,
    /// Make the jail that the policy declares. A jail that runs already is left alone. Safe: the plan, and with it whether
    /// storage can be written, comes from the policy. The request is refused unless the policy has the tenant as active, or as
    /// suspended with a door that stays open.
    Start {
        /// The tenant.
        tenant: TenantName,
    },
    /// End the jail and make the one that the policy declares. When the new one cannot be made, the running one is left alone.
    /// Safe: as `Stop` and `Start` are.
    Restart {
        /// The tenant.
        tenant: TenantName,
    },
    /// End the jail. Safe: no data is touched.
    Stop {
        /// The tenant.
        tenant: TenantName,
        /// Whether the jail stays down.
        hold: Hold,
    },
    /// Write the declared limits to the running jail and read them back. Safe: the values come from the policy.
    Limit {
        /// The tenant.
        tenant: TenantName,
    },
    /// Freeze all processes of the jail (`cgroup.freeze`). A freeze by an operator makes an earlier one the operator's; an idle
    /// freeze leaves an operator's alone. Safe: nothing is lost.
    Freeze {
        /// The tenant.
        tenant: TenantName,
        /// Whose freeze it is.
        #[serde(default, skip_serializing_if = "FrozenBy::is_operator")]
        by: FrozenBy,
    },
    /// Thaw the processes of the jail. Safe: it only takes a freeze back.
    Thaw {
        /// The tenant.
        tenant: TenantName,
        /// Who asks. An operator ends every freeze. Who needs an idle tenant ends only an idle freeze, and is refused when an
        /// operator has frozen the jail.
        #[serde(default, skip_serializing_if = "FrozenBy::is_operator")]
        by: FrozenBy,
    },
    /// Grant the reserve for an emergency session, and make init fork in it until `Rescued`. Safe: the reserve is small, one
    /// tenant has it at a time, and the warden takes it back when no session is in it.
    Rescue {
        /// The tenant.
        tenant: TenantName,
    },
    /// Make init fork in the jail again. Safe: the warden soon does this even without a request.
    Rescued {
        /// The tenant.
        tenant: TenantName,
    },
    /// Get, for each hierarchy of control groups, the file to which a process writes `0` to join the group of a service, and
    /// write the limits of that service from the policy. Safe: the group is below the tenant's, and a process can only move
    /// itself.
    ServiceGroups {
        /// The tenant.
        tenant: TenantName,
        /// The service.
        service: ServiceName,
    },
    /// Count the connections to the sockets of tenants' services. Safe: it changes nothing.
    Connections,
    /// Destroy the data of a tenant and free its ids. Safe: the request is refused while the policy has the tenant or its jail
    /// runs, so the operator must have removed the tenant's file first.
    Purge {
        /// The tenant.
        tenant: TenantName,
    },
    /// Make the record of the tenant's host user, or remove it, as the policy says. Safe: name and id are the tenant's, the
    /// shell is Bailiwick's, and a user that the host has already is never replaced.
    HostUser {
        /// The tenant.
        tenant: TenantName,
    },
    /// Get what a process of an FTP server needs to enter the jail for a login. Safe: only root may ask, who could do the same
    /// without the warden. The view holds what the policy says of the login.
    FtpView {
        /// The login.
        user: FtpUser,
    },
    /// List the FTP sessions. Safe: it changes nothing.
    FtpProcesses {
        /// The tenant; all tenants when `None`.
        tenant: Option<TenantName>,
    },
    /// End an FTP session. Safe: the request is refused for a process outside a tenant's control group for FTP.
    EndFtp {
        /// The process of the session.
        process: FtpProcess,
    },
    /// Save what the policy says of tenants, as far as it has no error. The copy is used in place of a file that gets an error
    /// later. Safe: the copy holds what the operator has written.
    Keep {
        /// The tenants, each once, at most [`MOST_KEPT`].
        tenants: Vec<TenantName>,
    },
    /// Read the kernel's view of tenants. Safe: it changes nothing.
    Observe {
        /// The tenants, each once, at most [`MOST_OBSERVED`]. The reply has the same order.
        tenants: Vec<TenantName>,
    },
    /// Read as much of the kernel's view as a comparison with the policy needs. Safe: it changes nothing.
    InForce {
        /// The tenants, each once, at most [`MOST_COMPARED`]. The reply has the same order.
        tenants: Vec<TenantName>,
    },
    /// Read what the host is capable of. Safe: it changes nothing.
    Facts,
    /// Read what every tenant uses of its disk quota. Safe: it changes only the end of a grace period, and only to what the
    /// policy declares.
    Disks,
    /// List the processes of a tenant with the largest files that they have open. Safe: it changes nothing.
    Evidence {
        /// The tenant.
        tenant: TenantName,
    },
    /// Send events on this connection from now on. The connection accepts no further request. Safe: an event tells nothing that
    /// another request would not tell.
    Watch,
    /// List what needs an operator: jails that cannot be cleared, data that cannot be removed. Safe: it changes nothing.
    Problems,
    /// List all known tenants and whether their jails run. Safe: it changes nothing.
    Roster,
    /// Get the roster entry of one tenant. Safe: it changes nothing.
    Entry {
        /// The tenant.
        tenant: TenantName,
    },
}

/// The bounds of a process that enters a jail for FTP, beside its namespaces and control groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FtpView {
    /// The profile whose filter of system calls applies.
    pub profile: Profile,
    /// The limit on open descriptors (`RLIMIT_NOFILE`).
    pub open_files: u64,
}

/// A process of an FTP server in a tenant's control group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FtpProcess {
    /// The tenant.
    pub tenant: TenantName,
    /// Its number in the host's pid namespace.
    pub pid: u32,
    /// When it started, in clock ticks since the boot (`proc_pid_stat(5)`).
    pub started: u64,
}

/// The most tenants of one `Observe`.
pub const MOST_OBSERVED: usize = 64;

/// The most tenants of one `Keep`.
pub const MOST_KEPT: usize = 64;

/// The most tenants of one `InForce`.
pub const MOST_COMPARED: usize = 1024;

/// Whether a jail that is ended stays down until an operator starts it. `Start` always ends a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hold {
    /// A hold stays as it is.
    Keep,
    /// The jail stays down until an operator starts it.
    Hold,
}

/// A reply of the warden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum WardenReply {
    /// To `Hello`.
    Hello {
        /// The version of the warden.
        version: String,
    },
    /// The request was carried out and changed something.
    Done,
    /// The request had nothing to change.
    Unchanged,
    /// The work has begun, and the warden finishes it without the caller. To `Start` and `Restart`: the tenant's storage is being
    /// prepared. [`WardenEvent::Prepared`] says when it is ready, and then the jail can be started.
    GoesOn,
    /// To `Observe`.
    Observed(Vec<Observed>),
    /// To `InForce`.
    InForce(Vec<InForce>),
    /// To `Watch`, once for each event.
    Event(WardenEvent),
    /// To `Evidence`.
    Evidence(Vec<ProcessSnapshot>),
    /// To `FtpView`. Descriptors: the jail's user namespace, a mount namespace with what the login may see, and for each
    /// hierarchy of control groups the file to which the process writes `0` to join the tenant's group.
    FtpView(FtpView),
    /// To `FtpProcesses`.
    FtpProcesses(Vec<FtpProcess>),
    /// To `Facts`.
    Facts(Box<HostFacts>),
    /// To `Disks`.
    Disks(BTreeMap<TenantName, DiskFact>),
    /// To `Problems`, in sentences.
    Problems {
        /// The problem of the host's reserve of disk space: it is reached, or cannot be kept.
        reserve: Option<String>,
        /// Problems of one tenant each, or of all.
        tenants: Vec<String>,
        /// Why there is no directory for the sockets of services, which `tenants` holds too.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        web: Option<String>,
    },
    /// To `ServiceGroups`. Descriptors: the files. None when the service has no limits of its own.
    ServiceGroups,
    /// To `Connections`: the connections that were accepted or wait, by tenant and socket. Only sockets with connections.
    Connections(BTreeMap<TenantName, BTreeMap<SocketName, u64>>),
    /// To `Roster`.
    Roster(BTreeMap<TenantName, RosterEntry>),
    /// To `Entry`; `None` when the tenant has no ids yet.
    Entry(Option<Box<RosterEntry>>),
    /// The request failed and left nothing half done.
    Failed(Failure),
}

/// An event that the warden reports to a watcher.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum WardenEvent {
    /// The init of a jail has ended without a request, and the jail is cleared away.
    Ended {
        /// The tenant.
        tenant: TenantName,
    },
    /// The storage of a tenant is prepared, or preparing it has failed. Its jail can be started.
    Prepared {
        /// The tenant.
        tenant: TenantName,
    },
    /// A tenant has hit a disk limit.
    Quota {
        /// The tenant.
        tenant: TenantName,
        /// `disk` or `inodes`.
        limit: LimitKey,
        /// How it hit the limit.
        hit: QuotaHit,
    },
    /// Processes of tenants have waited for a resource for a large part of a second (`psi` of the kernel).
    Pressure {
        /// `cpu`, `memory` or `io`.
        resource: Resource,
    },
    /// The host's reserve of disk space is reached, so that no tenant can take more; or it is free again.
    Reserve {
        /// Whether the reserve is reached.
        reached: Reached,
    },
}

/// How a tenant hit a disk limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuotaHit {
    /// A write was refused at the hard limit, or after the grace period.
    Refused,
    /// It has passed the soft limit, which is allowed for the grace period.
    SoftPassed,
}

/// Whether the reserve is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reached {
    /// It is reached.
    Yes,
    /// It was reached and is free again.
    NoLonger,
}

/// What the warden knows of a tenant without reading the kernel at length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RosterEntry {
    /// The tenant's ids.
    pub ids: IdRange,
    /// The init of the running jail, as the host counts; `None` when down.
    pub pid: Option<u32>,
    /// How the jail may use the tenant's storage; `None` when down.
    pub access: Option<Access>,
    /// Whether the jail is frozen.
    pub frozen: bool,
    /// Who had it frozen. Without a meaning unless it is frozen.
    #[serde(default, skip_serializing_if = "FrozenBy::is_operator")]
    pub frozen_by: FrozenBy,
    /// Whether the jail is ending: it was asked to end or killed, and is not gone yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clearing: bool,
    /// Whether its storage is being prepared, so that a start has to wait.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub preparing: bool,
    /// Whether an operator has stopped it, so that only an operator may start it.
    pub held: bool,
    /// Whether the record of its host user is in place.
    pub host_user: bool,
    /// Control group by hierarchy; empty when down.
    pub cgroups: BTreeMap<String, String>,
    /// The sockets of the host that are lent to it. Only in the reply to `Entry`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub host_sockets: BTreeMap<HostSocketName, LentSocket>,
}

impl RosterEntry {
    /// Who had the jail frozen; `None` if it is not frozen.
    #[must_use]
    pub fn frozen(&self) -> Option<FrozenBy> {
        self.frozen.then_some(self.frozen_by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freeze_of_an_operator_has_the_words_of_earlier_versions() {
        let tenant: TenantName = "alice".parse().expect("a name");
        let (operator, idle) = (r#"{"freeze":{"tenant":"alice"}}"#, r#"{"freeze":{"tenant":"alice","by":"idle"}}"#);
        for (text, by) in [(operator, FrozenBy::Operator), (idle, FrozenBy::Idle)] {
            let request = WardenRequest::Freeze { tenant: tenant.clone(), by };
            assert_eq!(serde_json::to_string(&request).expect("JSON"), text);
            assert_eq!(serde_json::from_str::<WardenRequest>(text).expect("reads"), request);
        }
    }

    #[test]
    fn a_limit_of_a_later_warden_does_not_make_a_reply_unreadable() {
        let limit = |word: &str| {
            format!(r#"{{"resource":"{word}","file":"f","enforced":1,"used":null,"peak":null,"faults":null}}"#)
        };
        let limits = ["memory", "of_a_later_version", "tasks"].map(limit).join(",");
        let text = format!(
            r#"{{"in-force":[{{"tenant":"alice","jail":{{"access":"read-write","cap_bounding":0,"no_new_privs":true,
                "limits":[{limits}],"rescue":false,"tmpfs":{{"/tmp":"size=4k"}}}},"strays":[],"disk":null}}]}}"#
        );
        let WardenReply::InForce(all) = serde_json::from_str(&text).expect("reads") else { panic!("another reply") };
        let jail = all[0].jail.as_ref().expect("runs");
        let keys: Vec<LimitKey> = jail.limits.iter().map(|limit| limit.key).collect();
        assert_eq!(keys, [LimitKey::Memory, LimitKey::Tasks]);
        assert_eq!(jail.tmpfs["/tmp"].kibibytes, 4);
    }
}
