//! What the command line may ask of `bailiwickd`.

pub use crate::done::Done;
use crate::init::WindowSize;
use crate::{Bytes, Failure};
pub use bailiwick_types::TenantState;
use bailiwick_types::{
    AuditReport, Change, Door, ExitStatus, Fault, FtpUser, HostUid, IdRange, ImageName, Incident, LimitReport, Measure,
    PasswordHash, PlanName, Point, Profile, SessionId, SessionRecord, TenantName, TenantUsage, TimerReport, Usage,
    Window,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A request. An empty list of tenants means all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ControlRequest {
    /// Which version speaks, and since when.
    Status,
    /// Everyone.
    List,
    /// One tenant.
    Show {
        /// Whose.
        tenant: TenantName,
    },
    /// Read the policy again.
    Reload,
    /// The difference between declared and actual.
    Plan {
        /// Whose.
        tenants: Vec<TenantName>,
    },
    /// Read the policy again and make it so.
    Apply {
        /// Whose.
        tenants: Vec<TenantName>,
        /// Whether sessions end that the policy no longer lets in.
        now: bool,
        /// Whether jails with sessions in them are restarted, where a change needs it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        restart: bool,
    },
    /// Change the state of jails.
    Lifecycle {
        /// How.
        verb: Verb,
        /// Whose; never empty.
        tenants: Vec<TenantName>,
    },
    /// The proof.
    Audit {
        /// Whose.
        tenants: Vec<TenantName>,
        /// By reading alone, or by trying as well.
        depth: Depth,
    },
    /// Look through the log of audits.
    VerifyAudits {
        /// The mark of a line that was noted elsewhere; `None` for the one beside the log.
        mark: Option<String>,
    },
    /// What tenants used in a window, or use now.
    Usage {
        /// Whose.
        tenants: Vec<TenantName>,
        /// When; now when `None`.
        window: Option<Window>,
    },
    /// What one tenant used, step by step.
    History {
        /// Whose.
        tenant: TenantName,
        /// When.
        window: Window,
        /// The length of a step in seconds.
        step: u64,
    },
    /// Hits of limits.
    Faults {
        /// Whose.
        tenants: Vec<TenantName>,
        /// When.
        window: Window,
    },
    /// Runs of them, without their evidence.
    Incidents {
        /// Whose.
        tenants: Vec<TenantName>,
        /// When.
        window: Window,
    },
    /// One incident with its evidence.
    Incident {
        /// Its number.
        id: u64,
    },
    /// How often tenants would have met other limits.
    Simulate {
        /// When.
        window: Window,
        /// The limits of each, in the measures' units; of sums, a second.
        bounds: BTreeMap<TenantName, Usage>,
    },
    /// Whether a tenant may have a name that is a user's of the host with it. Asked before its file is written.
    CheckName {
        /// The name.
        tenant: TenantName,
    },
    /// Destroy the data of a tenant whose file is gone.
    Purge {
        /// Whose.
        tenant: TenantName,
    },
    /// Start a session. Descriptors without a terminal: stdin, stdout, stderr, each a pipe.
    Exec(Exec),
    /// Let a tenant's own host user in, by a door. Descriptors as of `Exec`.
    Login(Login),
    /// Count a session that an earlier `bailiwickd` let in: its record, as that one gave it to the client. What the kernel
    /// knows of the client is read anew.
    Resume(Box<SessionRecord>),
    /// What the password of a login for FTP is compared with. For root alone: a server that asks whether to let somebody in.
    FtpHash {
        /// As the client of the server says.
        user: String,
    },
    /// The password was another one. For root alone.
    FtpRefused {
        /// As the client of the server says.
        user: String,
        /// The client's address, as the server says.
        source: Option<String>,
    },
    /// Let the process at the other end in by the door `ftp`. For root alone. It is counted as long as the connection lasts, and
    /// with [`Self::FtpEntered`] as long as the process does.
    FtpEnter {
        /// Who was found to be who it says.
        user: FtpUser,
        /// The client's address, as the server says.
        source: Option<String>,
    },
    /// The process at the other end of this connection, which was let in by `FtpEnter`, is in the jail now.
    FtpEntered,
    /// The session of this connection has ended.
    Ended {
        /// With this exit status.
        status: u8,
    },
    /// What is run at times.
    Timers {
        /// Whose.
        tenants: Vec<TenantName>,
    },
    /// Who is in.
    Sessions {
        /// In whose jail.
        tenants: Vec<TenantName>,
    },
    /// End these sessions, and all of these tenants. Not both lists are empty.
    EndSessions {
        /// Which.
        sessions: Vec<SessionId>,
        /// Whose.
        tenants: Vec<TenantName>,
        /// What those who are in are told.
        reason: Option<String>,
    },
}

/// How an audit comes to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Depth {
    /// It reads what the kernel says.
    Read,
    /// It also has a throw-away process inside each jail try what must fail.
    Probe,
}

/// What happens to a jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Make it.
    Start,
    /// End it and hold it down.
    Stop,
    /// End it and make it anew.
    Restart,
    /// Stop its processes where they are.
    Freeze,
    /// Let them go on.
    Thaw,
}

/// A command to run in a jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// In whose jail.
    pub tenant: TenantName,
    /// Who runs it inside: a name that the policy knows (`root`, the login user) or a number; root when `None`.
    pub user: Option<String>,
    /// The command; empty for a login shell.
    pub argv: Vec<Bytes>,
    /// Added to the clean environment that a session starts with.
    pub env: Vec<(Bytes, Bytes)>,
    /// Where it starts, inside.
    pub cwd: Option<Bytes>,
    /// A terminal of this size.
    pub terminal: Option<WindowSize>,
}

/// The entry of a tenant's own host user, into its own jail and as its login user: `bailiwickd` knows by the kernel's word
/// whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// `ssh` or `sftp`.
    pub door: Door,
    /// What the login shell is to run, through `ssh`; a login that reads its commands when `None`. Through `sftp` it is
    /// always the same.
    pub command: Option<Bytes>,
    /// Added to the clean environment that a session starts with.
    pub env: Vec<(Bytes, Bytes)>,
    /// A terminal of this size.
    pub terminal: Option<WindowSize>,
    /// Where the client is, as sshd says.
    pub source: Option<String>,
    /// The public key that it proved to have, as sshd says: type and base 64.
    pub key: Option<String>,
}

/// A reply. `Progress` may come several times before the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ControlReply {
    /// Long work goes on.
    Progress {
        /// How many tenants are done.
        done: u64,
        /// Of how many.
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
    /// To `Apply`, `Lifecycle`, `Purge` and `Reload`: what was done for each tenant that was touched or failed.
    Outcome(Vec<TenantOutcome>),
    /// To `Audit`.
    Audit(Box<AuditReport>),
    /// To `VerifyAudits`.
    Verified {
        /// The mark of the last line; `None` when something is wrong.
        mark: Option<String>,
        /// What is wrong.
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
    /// To `Simulate`.
    Simulated(Vec<SimulatedLimit>),
    /// To `Exec` and `Login`: the session's channel comes with this message. After it, and after `Resume`, only `End` follows.
    Session {
        /// What the client says of itself to the next `bailiwickd`.
        record: Box<SessionRecord>,
        /// What the person at the other end should know.
        notice: Option<String>,
    },
    /// To `FtpHash`. Of a login that there is not, a hash that no password has.
    FtpHash(PasswordHash),
    /// To `CheckName`, `FtpRefused` and `FtpEntered`.
    Noted,
    /// The client is to end its session. Comes unasked.
    End {
        /// Why, for the person at the other end.
        reason: String,
    },
    /// To `Timers`, by tenant.
    Timers(Vec<TimerReport>),
    /// To `Sessions`, by tenant, the oldest first.
    Sessions(Vec<SessionRecord>),
    /// To `EndSessions`.
    EndedSessions {
        /// Those that have ended.
        ended: Vec<SessionRecord>,
        /// Those whose clients were told, and are still there.
        left: Vec<SessionRecord>,
    },
    /// It could not be done.
    Failed(Failure),
}

/// The most faults or incidents in one reply.
pub const MOST_ROWS: usize = 10_000;

/// How often a tenant would have met a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimulatedLimit {
    /// Whose.
    pub tenant: TenantName,
    /// Of what.
    pub measure: Measure,
    /// The limit, in the measure's unit; of sums, a second.
    pub bound: u64,
    /// In how many minutes it was passed. Where the minutes are gone, an hour counts as one.
    pub over: u64,
    /// Of how many.
    pub measured: u64,
    /// The most in one minute; of sums, a second.
    pub peak: u64,
}

/// How the service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Version of `bailiwickd`.
    pub version: String,
    /// Version of the warden, when it answers.
    pub warden: Option<String>,
    /// Seconds since `bailiwickd` started.
    pub uptime: u64,
    /// Tenants by state.
    pub tenants: BTreeMap<String, u64>,
    /// Problems of the policy files and of what the warden cannot bring to an end, as text; empty when there are none.
    pub problems: Vec<String>,
    /// That of the host's reserve of disk space, which is in `problems` too: whoever is changed should hear of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve: Option<String>,
    /// Sessions that were let in and whose client is still connected.
    pub sessions: u64,
    /// Which policy is in force.
    #[serde(default)]
    pub policy: Box<PolicyStatus>,
}

/// Which policy is in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// When it was last read, in seconds since 1970.
    pub read_at: u64,
    /// How often it was read since `bailiwickd` started.
    pub readings: u64,
    /// How many of these times something was wrong with it.
    pub readings_with_problems: u64,
    /// How many problems it has now.
    pub problems: u64,
    /// Whether `bailiwick.toml` is in force as it was before it had an error.
    pub host_is_last_good: bool,
    /// Plans that are.
    pub last_good_plans: Vec<PlanName>,
    /// Tenants that are.
    pub last_good_tenants: Vec<TenantName>,
    /// Tenants whose files have errors and of whom nothing from before is known: they are left as they are, and nobody gets in.
    pub without_policy: Vec<TenantName>,
    /// Entries that were refused since `bailiwickd` started.
    pub refused: u64,
}

/// A line of `list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantSummary {
    /// Its name.
    pub name: TenantName,
    /// How it is.
    pub state: TenantState,
    /// Its plan; `None` when the tenant is no longer declared.
    pub plan: Option<PlanName>,
    /// Its image.
    pub image: Option<ImageName>,
    /// Its profile.
    pub profile: Option<Profile>,
    /// Whether its file has errors, so that it is declared as it last was without, if that is known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub invalid: bool,
    /// Why its jail could not be started when that was last tried; of one that is down because of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// All of `show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantDetail {
    /// The line of `list`.
    #[serde(flatten)]
    pub summary: TenantSummary,
    /// Why it is suspended.
    pub suspend_reason: Option<String>,
    /// Init, as the host counts; `None` when down.
    pub pid: Option<u32>,
    /// Its host ids; `None` when it never ran.
    pub ids: Option<IdRange>,
    /// Which version of the protocol with inits its init speaks; `None` when it is down, or silent.
    #[serde(default)]
    pub init_version: Option<u32>,
    /// Control group by hierarchy; empty when down.
    pub cgroup: BTreeMap<String, String>,
    /// Its login user inside.
    pub login: Option<String>,
    /// The host's number of the user that sshd logs in to it; `None` when there is none.
    pub host_user: Option<HostUid>,
    /// Its doors.
    pub doors: Vec<String>,
    /// Those of them that are open while it is suspended.
    pub suspended_doors: Vec<String>,
    /// Declared and enforced.
    pub limits: Vec<LimitReport>,
    /// What its memory is used for; `None` when it is down, or that is not counted.
    #[serde(default)]
    pub memory: Option<MemoryUse>,
}

/// Memory of a tenant, in bytes. Both together are what is held against its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// What the kernel cannot take back.
    pub used: u64,
    /// What it takes back before anything is ended: page cache, for the most part.
    pub cache: u64,
}

/// What was done for one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantOutcome {
    /// Whose.
    pub tenant: TenantName,
    /// What it was.
    pub done: Done,
    /// Why it failed.
    pub failure: Option<Failure>,
}

/// The exit status of a command over several tenants: all done, some failed, or all failed with one status.
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
