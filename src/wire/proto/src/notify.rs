//! Requests of the command line to `bailiwick-notify`, and their replies. Only root of the host may ask.

use crate::Failure;
use bailiwick_types::{MailAddress, Moment, Notice, TargetKind, TenantName, Threshold};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The directory of `bailiwick-notify`, below the runtime directory and below the state directory. Its user owns it.
pub const NOTIFY_DIR: &str = "notify";
/// Its socket, below the runtime directory.
pub const NOTIFY_SOCKET: &str = "notify/notify.sock";
/// The socket of `bailiwick-hooks`, below the runtime directory.
pub const HOOKS_SOCKET: &str = "hooks.sock";

/// The most deliveries of a list.
pub const MOST_LISTED: u64 = 2000;

/// A request to `bailiwick-notify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum NotifyRequest {
    /// Count what waits.
    Status,
    /// List the rules for tenants, and what was told.
    List {
        /// The tenants; all when empty.
        tenants: Vec<TenantName>,
    },
    /// Send a test in the way in which notices go.
    Test {
        /// The tenant whose addresses get it; the operator's when `None`.
        tenant: Option<TenantName>,
    },
    /// List the deliveries that have failed and are tried again.
    Waiting,
    /// List the deliveries that were given up.
    Dead,
    /// Try deliveries that were given up again, at once.
    Retry {
        /// Their numbers; all when empty.
        ids: Vec<u64>,
    },
}

/// A reply of `bailiwick-notify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum NotifyReply {
    /// To `Status`.
    Status(NotifyStatus),
    /// To `List`.
    List(Vec<NoticeStatus>),
    /// To `Test`: an address each, and why it did not get the test.
    Tested(BTreeMap<MailAddress, Option<String>>),
    /// To `Waiting` and `Dead`: the oldest, at most [`MOST_LISTED`].
    Failures(Vec<FailedDelivery>),
    /// To `Retry`: the numbers of those that are tried again.
    Retried(Vec<u64>),
    /// The request failed.
    Failed(Failure),
}

/// What waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifyStatus {
    /// How many deliveries wait.
    pub waiting: u64,
    /// How many were given up.
    pub dead: u64,
    /// How many were lost in the last seven days, because too many waited.
    #[serde(default)]
    pub lost: u64,
    /// How many notices are held back until there is room for them.
    #[serde(default)]
    pub held: u64,
}

/// A rule for a tenant, and what was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeStatus {
    /// The tenant.
    pub tenant: TenantName,
    /// The rule.
    #[serde(flatten)]
    pub notice: Notice,
    /// The addresses that are told.
    pub addresses: Vec<MailAddress>,
    /// The thresholds that were told and are not clear yet, each with the moment of the last telling.
    pub told: BTreeMap<Threshold, Moment>,
    /// Those of them that are clear, each with the moment since when. After a while that counts as their end.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clear_since: BTreeMap<Threshold, Moment>,
}

/// A delivery that has failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedDelivery {
    /// Its number.
    pub id: u64,
    /// The kind of target.
    pub kind: TargetKind,
    /// The name of the target: an address, or the name of a webhook or a hook.
    pub target: String,
    /// Whom it is about; `None` for the host.
    pub tenant: Option<TenantName>,
    /// What it is about, in a few words.
    pub about: String,
    /// When it was written.
    pub created: Moment,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried again; `None` once it was given up.
    pub next: Option<Moment>,
    /// Why the last attempt failed.
    pub error: String,
}
