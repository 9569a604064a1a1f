//! Requests of the command line, the login shell and FTP servers to `bailiwickd`, and their replies.

pub use crate::done::Done;
use crate::init::WindowSize;
use crate::{Bytes, Failure};
pub use bailiwick_types::TenantState;
use bailiwick_types::{
    AuditReport, Change, Contact, Door, Event, EventType, ExitStatus, Fault, FrozenBy, FtpUser, HostSocketName,
    HostUid, IdRange, ImageName, Incident, LentSocket, LimitReport, Mail, Measure, MetricsDetail, MetricsPage, Moment,
    NetworkConnection, NetworkFacts, Notice, NoticesPage, PasswordHash, PlanName, Point, Profile, ServiceName,
    ServiceReport, ServiceVerb, SessionId, SessionRecord, SocketName, TenantName, TenantUsage, TimerReport, Usage,
    Window,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A request to `bailiwickd`. An empty list of tenants means all, unless a field says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ControlRequest {
    /// Get the versions of the daemons and the state of the host.
    Status,
    /// List all tenants.
    List,
    /// Get everything about one tenant.
    Show {
        /// The tenant.
        tenant: TenantName,
    },
    /// Read the policy again, without applying it.
    Reload,
    /// Compare the declared state with the actual one.
    Plan {
        /// The tenants.
        tenants: Vec<TenantName>,
    },
    /// Read the policy again and apply it.
    Apply {
        /// The tenants.
        tenants: Vec<TenantName>,
        /// Whether to end sessions that the policy no longer lets in.
        now: bool,
        /// Whether to restart jails with sessions in them when a change needs a restart.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        restart: bool,
    },
    /// Change the state of jails.
    Lifecycle {
        /// The change.
        verb: Verb,
        /// The tenants; never empty.
        tenants: Vec<TenantName>,
    },
    /// Prove that the walls and limits of tenants hold.
    Audit {
        /// The tenants.
        tenants: Vec<TenantName>,
        /// How the audit finds out.
        depth: Depth,
    },
    /// Verify the log of audits.
    VerifyAudits {
        /// The mark of a line, noted elsewhere; `None` for the mark beside the log.
        mark: Option<String>,
    },
    /// Get what tenants used in a window, or use now.
    Usage {
        /// The tenants.
        tenants: Vec<TenantName>,
        /// The window of time; now when `None`.
        window: Option<Window>,
    },
    /// Get what one tenant used, step by step.
    History {
        /// The tenant.
        tenant: TenantName,
        /// The window of time.
        window: Window,
        /// The length of a step in seconds.
        step: u64,
    },
    /// List hits of limits.
    Faults {
        /// The tenants.
        tenants: Vec<TenantName>,
        /// The window of time.
        window: Window,
    },
    /// List incidents, which are runs of hits, without their evidence.
    Incidents {
        /// The tenants.
        tenants: Vec<TenantName>,
        /// The window of time.
        window: Window,
    },
    /// Get one incident with its evidence.
    Incident {
        /// The number of the incident.
        id: u64,
    },
    /// Read events, the oldest first. A tenant's user reads those of its tenant that are for tenants.
    Events(EventsWanted),
    /// Count how often tenants would have hit other limits.
    Simulate {
        /// The window of time.
        window: Window,
        /// The limits of each tenant, in the unit of the measure; for a sum, in that unit per second.
        bounds: BTreeMap<TenantName, Usage>,
    },
    /// Get the cumulative readings of the host and of tenants, for a program that collects them.
    Metrics {
        /// How much to tell of tenants. Observers get no more than the policy says; with `None` everybody gets that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<MetricsDetail>,
        /// The tenant after which to begin, which ended the page before; `None` for the first page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<TenantName>,
    },
    /// Get what notices are delivered by: the settings of the host, and of each tenant with what it inherits.
    Notices {
        /// The tenant after which to begin, which ended the page before; `None` for the first page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<TenantName>,
    },
    /// Check that no user of the host has the name of a new tenant. Sent before the tenant's file is written.
    CheckName {
        /// The name of the new tenant.
        tenant: TenantName,
    },
    /// Destroy the data of a tenant whose file is gone.
    Purge {
        /// The tenant.
        tenant: TenantName,
    },
    /// Start a session. Descriptors without a terminal: stdin, stdout, stderr, each a pipe.
    Exec(Exec),
    /// Let a tenant's own host user in through a door. Descriptors as for `Exec`.
    Login(Login),
    /// Count a session that an earlier `bailiwickd` let in. The record is the one that the client got from it. A resumed client's
    /// identity comes only from its kernel peer credentials.
    Resume(Box<SessionRecord>),
    /// Get the hash that the password of an FTP login is compared with. Only a server that runs as root may ask.
    FtpHash {
        /// The login name, as the client of the server gave it.
        user: String,
    },
    /// Report a wrong password. Only a server that runs as root may do so.
    FtpRefused {
        /// The login name, as the client of the server gave it.
        user: String,
        /// The client's address, as the server says.
        source: Option<String>,
    },
    /// Let the process at the other end in through the door `ftp`. Only a server that runs as root may ask. The session counts as
    /// long as the connection lasts, and after [`Self::FtpEntered`] as long as the process lives.
    FtpEnter {
        /// The login whose password was right.
        user: FtpUser,
        /// The client's address, as the server says.
        source: Option<String>,
    },
    /// Report that the process which `FtpEnter` let in over this connection is in the jail now.
    FtpEntered,
    /// Report that the session of this connection has ended.
    Ended {
        /// The exit status of the session.
        status: u8,
    },
    /// List timers and their last runs.
    Timers {
        /// The tenants.
        tenants: Vec<TenantName>,
    },
    /// List the services of tenants.
    Services {
        /// The tenants.
        tenants: Vec<TenantName>,
    },
    /// Start or stop services of a tenant.
    ServiceVerb {
        /// The tenant.
        tenant: TenantName,
        /// The services; all of the tenant when empty.
        names: Vec<ServiceName>,
        /// What to do.
        verb: ServiceVerb,
    },
    /// List open sessions.
    Sessions {
        /// The tenants.
        tenants: Vec<TenantName>,
    },
    /// Count the connections to the sockets of tenants' services.
    Connections {
        /// The tenants.
        tenants: Vec<TenantName>,
    },
    /// Get the network of a tenant.
    Network {
        /// The tenant.
        tenant: TenantName,
        /// Whether to list its open connections.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        connections: bool,
    },
    /// Run the checks of a login or of a write, in their order, without doing either.
    Why(WhyQuestion),
    /// End these sessions, and all sessions of these tenants. At least one of the lists is not empty.
    EndSessions {
        /// The sessions.
        sessions: Vec<SessionId>,
        /// The tenants.
        tenants: Vec<TenantName>,
        /// The reason that the users of the sessions are told.
        reason: Option<String>,
    },
}

/// What `why` asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhyQuestion {
    /// The tenant.
    pub tenant: TenantName,
    /// The login or the write.
    pub what: WhyWhat,
}

/// What would be tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum WhyWhat {
    /// An entry through a door.
    Login {
        /// The door.
        door: Door,
        /// The user inside, or the login for FTP; `None` for the usual one.
        user: Option<String>,
        /// The address of the client.
        source: Option<String>,
    },
    /// A write inside the jail.
    Write {
        /// The file or directory, an absolute path inside; the tenant's storage when `None`.
        path: Option<String>,
        /// How much more would be written.
        bytes: u64,
    },
}

/// One check of a login or a write, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhyCheck {
    /// The name of the check.
    pub check: String,
    /// What was found.
    pub found: String,
    /// The refusal that whoever tries it gets; `None` when the check passes.
    pub refusal: Option<Failure>,
}

/// Which events a reader wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsWanted {
    /// Only events with a larger number.
    pub after: u64,
    /// Only events since this moment.
    pub since: Moment,
    /// Only events of these tenants; with an empty list those of all, and those of the host.
    pub tenants: Vec<TenantName>,
    /// Only events of these types; all when empty.
    pub types: Vec<EventType>,
    /// The most events, at most [`MOST_EVENTS`]. With 0 the reply has only numbers.
    pub most: u32,
    /// Whether to wait for events when there are none.
    pub wait: bool,
}

/// The most events in one reply. A reply that would be large has fewer.
pub const MOST_EVENTS: u32 = 1000;

/// How an audit finds out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Depth {
    /// It reads what the kernel reports.
    Read,
    /// It also starts a process in each jail that tries what must fail.
    Probe,
}

/// A change of a jail's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Make and start the jail.
    Start,
    /// End the jail, and keep it down until an operator starts it.
    Stop,
    /// End the jail and make it again.
    Restart,
    /// Freeze the processes of the jail.
    Freeze,
    /// Thaw the processes of the jail.
    Thaw,
    /// End the jail until something wakes it.
    Sleep,
    /// Start the jail if it sleeps, and thaw it if it was frozen because it was idle.
    Wake,
}

/// A command to run in a jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The tenant whose jail it runs in.
    pub tenant: TenantName,
    /// The user inside: a name that the policy knows (`root`, the login user), or a number; root when `None`.
    pub user: Option<String>,
    /// The command; empty for a login shell.
    pub argv: Vec<Bytes>,
    /// Variables that are added to the clean environment of a session.
    pub env: Vec<(Bytes, Bytes)>,
    /// The working directory inside; the user's home when `None`.
    pub cwd: Option<Bytes>,
    /// The size of the session's terminal; pipes when `None`.
    pub terminal: Option<WindowSize>,
}

/// The login of a tenant's own host user, into that tenant's jail and as its login user. `bailiwickd` learns the tenant from the
/// kernel's credentials of the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// `ssh` or `sftp`.
    pub door: Door,
    /// The command for the login shell; an interactive login when `None`. The door `sftp` always runs its own server.
    pub command: Option<Bytes>,
    /// Variables that are added to the clean environment of a session.
    pub env: Vec<(Bytes, Bytes)>,
    /// The size of the session's terminal; pipes when `None`.
    pub terminal: Option<WindowSize>,
    /// The client's address, as sshd says.
    pub source: Option<String>,
    /// The public key that the client proved to have, as sshd says: its type and base64 text.
    pub key: Option<String>,
}

/// A reply of `bailiwickd`. `Progress` may come several times before the last reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ControlReply {
    /// The work takes long and goes on.
    Progress {
        /// How many tenants are done.
        done: u64,
        /// How many tenants there are in all.
        total: u64,
    },
    /// To `Status`.
    Status(HostStatus),
    /// To `List`.
    List(Vec<TenantSummary>),
    /// To `Show`.
    Show(Box<TenantDetail>),
    /// To `Plan`.
    Plan(Vec<Change>),
    /// To `Apply`, `Lifecycle`, `Purge` and `Reload`: what was done for each tenant that changed or failed.
    Outcome(Vec<TenantOutcome>),
    /// To `Audit`.
    Audit(Box<AuditReport>),
    /// To `VerifyAudits`.
    Verified {
        /// The mark of the last line; `None` when there are problems.
        mark: Option<String>,
        /// What is wrong with the log.
        problems: Vec<String>,
    },
    /// To `Usage`.
    Usage(Vec<TenantUsage>),
    /// To `History`.
    History(Vec<Point>),
    /// To `Faults`, the newest first, at most [`MOST_ROWS`].
    Faults(Vec<Fault>),
    /// To `Incidents`, the newest first, at most [`MOST_ROWS`], and to `Incident`.
    Incidents(Vec<Incident>),
    /// To `Events`.
    Events {
        /// The events, the oldest first. A type of a later version is left out.
        #[serde(deserialize_with = "bailiwick_types::known_items")]
        events: Vec<Event>,
        /// Where to go on: what to ask for as `after`.
        next: u64,
        /// The largest number of all events.
        last: u64,
    },
    /// To `Metrics`.
    Metrics(Box<MetricsPage>),
    /// To `Notices`.
    Notices(Box<NoticesPage>),
    /// To `Simulate`.
    Simulated(Vec<SimulatedLimit>),
    /// To `Exec` and `Login`, with the session's channel beside it. After it, and after `Resume`, only `End` follows.
    Session {
        /// What the client sends to the next `bailiwickd` (`Resume`).
        record: Box<SessionRecord>,
        /// A message for the user of the session.
        notice: Option<String>,
    },
    /// To `FtpHash`. For an unknown login it is a dummy hash with the same algorithm and cost, so timing reveals nothing.
    FtpHash(PasswordHash),
    /// To `CheckName`, `FtpRefused` and `FtpEntered`.
    Noted,
    /// Asks the client to end its session. It comes without a request.
    End {
        /// The reason, for the user of the session.
        reason: String,
    },
    /// To `Timers`, by tenant.
    Timers(Vec<TimerReport>),
    /// To `Services`, by tenant. Tenants without services are left out.
    Services(Vec<TenantServices>),
    /// To `ServiceVerb`: the services that it was done for.
    ServicesDone(Vec<ServiceName>),
    /// To `Sessions`, by tenant, the oldest first.
    Sessions(Vec<SessionRecord>),
    /// To `Connections`: those that were accepted or wait, by tenant and socket. Only sockets with connections.
    Connections(BTreeMap<TenantName, BTreeMap<SocketName, u64>>),
    /// To `Network`.
    Network(Box<TenantNetwork>),
    /// To `Why`: the checks in their order.
    Why(Vec<WhyCheck>),
    /// To `EndSessions`.
    EndedSessions {
        /// The sessions that have ended.
        ended: Vec<SessionRecord>,
        /// The sessions whose clients were asked to end and still run.
        left: Vec<SessionRecord>,
    },
    /// The request failed.
    Failed(Failure),
}

/// The most faults, or incidents, in one reply.
pub const MOST_ROWS: usize = 10_000;

/// How often a tenant would have hit a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimulatedLimit {
    /// The tenant.
    pub tenant: TenantName,
    /// What the limit is on.
    pub measure: Measure,
    /// The limit, in the unit of the measure; for a sum, in that unit per second.
    pub bound: u64,
    /// How many minutes were over the limit. Where only hours are recorded, an hour counts as one.
    pub over: u64,
    /// How many minutes were recorded.
    pub measured: u64,
    /// The largest value of one minute; for a sum, per second.
    pub peak: u64,
}

/// The state of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// The version of `bailiwickd`.
    pub version: String,
    /// The version of the warden; `None` when it does not answer.
    pub warden: Option<String>,
    /// Seconds since `bailiwickd` started.
    pub uptime: u64,
    /// How many tenants are in each state.
    pub tenants: BTreeMap<String, u64>,
    /// Problems of the policy files, and of work that the warden cannot finish, as text.
    pub problems: Vec<String>,
    /// Those of the problems that say how much a tenant has used of its volume of the month.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub months: BTreeMap<TenantName, String>,
    /// The problem of the host's reserve of disk space, which `problems` holds too. Commands that change tenants show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve: Option<String>,
    /// Why no site is served although `bailiwick.toml` has `web`, which `problems` holds too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub web: Option<String>,
    /// How many sessions are open and have a client that is connected.
    pub sessions: u64,
    /// The policy that is in force.
    #[serde(default)]
    pub policy: Box<PolicyStatus>,
}

/// The policy that is in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// When it was last read, in seconds since 1970.
    pub read_at: u64,
    /// How many times it was read since `bailiwickd` started.
    pub readings: u64,
    /// How many of these times it had problems.
    pub readings_with_problems: u64,
    /// How many problems it has now.
    pub problems: u64,
    /// Whether `bailiwick.toml` has an error, so that its last good version is in force.
    pub host_is_last_good: bool,
    /// The plans whose last good version is in force.
    pub last_good_plans: Vec<PlanName>,
    /// The tenants whose last good version is in force.
    pub last_good_tenants: Vec<TenantName>,
    /// The tenants whose files have errors and no last good version. Their jails are left as they are, and nobody may enter.
    pub without_policy: Vec<TenantName>,
    /// How many sessions were refused since `bailiwickd` started.
    pub refused: u64,
}

/// A tenant as `list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantSummary {
    /// The name of the tenant.
    pub name: TenantName,
    /// The state of the tenant.
    pub state: TenantState,
    /// Its plan; `None` when the tenant is no longer declared.
    pub plan: Option<PlanName>,
    /// Its image; `None` likewise.
    pub image: Option<ImageName>,
    /// Its profile; `None` likewise.
    pub profile: Option<Profile>,
    /// Whether its file has errors. Then its last good version is in force, if there is one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub invalid: bool,
    /// Why the last start of its jail failed; `None` unless the jail is down or asleep, and its last start failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Who had its jail frozen; `None` unless it is frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_by: Option<FrozenBy>,
}

impl TenantSummary {
    /// The state in words. It tells a tenant that is frozen because it is idle from one that an operator has frozen.
    #[must_use]
    pub fn state_word(&self) -> &'static str {
        match (self.state, self.frozen_by) {
            (TenantState::Frozen, Some(FrozenBy::Idle)) => "frozen (idle)",
            (state, _) => state.word(),
        }
    }
}

/// A tenant as `show` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantDetail {
    /// What `list` shows.
    #[serde(flatten)]
    pub summary: TenantSummary,
    /// The reason of its suspension, if one was given.
    pub suspend_reason: Option<String>,
    /// The init of its jail, as the host counts; `None` when down.
    pub pid: Option<u32>,
    /// Its range of host ids; `None` when its jail never ran.
    pub ids: Option<IdRange>,
    /// The version of the protocol that its init speaks; `None` when the jail is down or init does not answer.
    #[serde(default)]
    pub init_version: Option<u32>,
    /// The control group in each hierarchy; empty when down.
    pub cgroup: BTreeMap<String, String>,
    /// The name of its login user inside.
    pub login: Option<String>,
    /// The host user that sshd logs in to it; `None` when there is none.
    pub host_user: Option<HostUid>,
    /// Its doors.
    pub doors: Vec<String>,
    /// The doors that stay open while it is suspended.
    pub suspended_doors: Vec<String>,
    /// Its limits, declared and enforced.
    #[serde(deserialize_with = "bailiwick_types::known_items")]
    pub limits: Vec<LimitReport>,
    /// The use of its memory; `None` when it is down, or when the kernel does not count it.
    #[serde(default)]
    pub memory: Option<MemoryUse>,
    /// The sockets of the host that it may use. One that is not lent now, because the jail is down or was not told of it yet, has
    /// no process and no connection.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub host_sockets: BTreeMap<HostSocketName, LentSocket>,
    /// The mail that it may send; `None` for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<Mail>,
    /// Where notices to it go.
    #[serde(default, skip_serializing_if = "Contact::is_empty")]
    pub contact: Contact,
    /// The rules of notices about it: its own, its plan's and the host's.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "bailiwick_types::known_items")]
    pub notices: Vec<Notice>,
}

/// The memory of a tenant, in bytes. The sum of both counts against its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// Memory that the kernel cannot reclaim.
    pub used: u64,
    /// Memory that the kernel reclaims before it kills a process, which is mostly page cache.
    pub cache: u64,
}

/// The services of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantServices {
    /// The tenant.
    pub tenant: TenantName,
    /// The state of the tenant. Its services run only while its jail does.
    pub state: TenantState,
    /// The services that its policy declares.
    pub services: Vec<ServiceStatus>,
    /// Why its services are not as declared; `None` if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A declared service, and what init reports of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// The service.
    pub name: ServiceName,
    /// What init reports, which is the tenant's word; `None` when the jail is down or init does not answer.
    pub report: Option<ServiceReport>,
    /// Its sockets.
    pub sockets: Vec<SocketStatus>,
    /// The path of its log inside the jail.
    pub log: String,
}

/// A socket of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketStatus {
    /// The socket.
    pub name: SocketName,
    /// Its path on the host.
    pub path: String,
    /// The connections that were accepted or wait; `None` when they are not counted.
    pub connections: Option<u64>,
    /// The problem of the socket, if there is one.
    pub problem: Option<String>,
    /// What init reports of its relay; `None` when it has none.
    pub relay: Option<ServiceReport>,
}

/// The network of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantNetwork {
    /// What the router says of it.
    #[serde(flatten)]
    pub facts: NetworkFacts,
    /// Its open connections, at most [`crate::net::MOST_CONNECTIONS`]; `None` when they were not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<Vec<NetworkConnection>>,
    /// Whether there are more connections.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// What was done for one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantOutcome {
    /// The tenant.
    pub tenant: TenantName,
    /// What was done, such as `started`, `stopped`, `limits written` or `unchanged`.
    pub done: Done,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

/// The exit status of a command over several tenants. It is `Done` when no tenant failed, and `Partly` when some did. When all
/// failed, it is their status if they agree, and `Failed` otherwise.
#[must_use]
pub fn overall(outcomes: &[TenantOutcome]) -> ExitStatus {
    let failures: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.failure.as_ref()).collect();
    match failures.as_slice() {
        [] => ExitStatus::Done,
        [first, rest @ ..] if failures.len() == outcomes.len() => {
            if rest.iter().all(|failure| failure.status == first.status) { first.status } else { ExitStatus::Failed }
        }
        _ => ExitStatus::Partly,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_an_earlier_version_are_read() {
        let text = r#"{"metrics":{"host":{"version":"1"},"tenants":[{"tenant":"alice","usage":{"cpu":5},"more":{}}]}}"#;
        let ControlReply::Metrics(page) = serde_json::from_str(text).expect("reads") else { panic!("another reply") };
        assert_eq!(page.host.expect("a host").detail, MetricsDetail::Core);
        assert!(page.tenants[0].more.is_some() && page.next.is_none());
        for detail in MetricsDetail::ALL {
            assert_eq!(serde_json::to_string(&detail).expect("JSON"), format!("\"{detail}\""));
        }
        let request = ControlRequest::Metrics { detail: None, after: None };
        assert_eq!(serde_json::to_string(&request).expect("JSON"), r#"{"metrics":{}}"#);
    }
}
