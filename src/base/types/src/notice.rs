//! What `bailiwick-notify` is told of the policy: how mail leaves the host, and whom notices of tenants go to.

use crate::{Contact, Notice, NoticeResource, TenantName, Usage};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// A kind of target that events and notices are delivered to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetKind {
    /// An address of mail.
    Mail,
    /// A server that is told by HTTP.
    Webhook,
    /// A program of the operator.
    Hook,
}

impl TargetKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mail, Self::Webhook, Self::Hook];

    /// The word on the command line and in files.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Mail => "mail",
            Self::Webhook => "webhook",
            Self::Hook => "hook",
        }
    }
}

impl fmt::Display for TargetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// The most tenants of one [`NoticesPage`].
pub const MOST_NOTIFIED: usize = 1000;

/// A part of what `bailiwick-notify` works by: at most [`MOST_NOTIFIED`] tenants, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticesPage {
    /// The host; only on the first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Box<NoticesHost>>,
    /// The tenants.
    pub tenants: Vec<TenantNotices>,
    /// The tenant after which the next page begins; `None` on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<TenantName>,
}

/// What the policy says of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NoticesHost {
    /// The program with the interface of `sendmail(8)`.
    pub mail_command: PathBuf,
    /// The domain of the sender; `None` for that of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mail_domain: Option<String>,
    /// Where notices to the operator go.
    pub contact: Contact,
    /// How often the use of limits is compared with the rules, in seconds.
    pub every: u64,
}

/// What the policy says of one tenant, with what it inherits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantNotices {
    /// The tenant.
    pub tenant: TenantName,
    /// Where notices to the tenant go.
    pub contact: Contact,
    /// The rules.
    pub notices: Vec<Notice>,
    /// Its hard limits, in the units of their measures.
    pub limits: Usage,
}

impl TenantNotices {
    /// A tenant without an address, a rule and a limit.
    #[must_use]
    pub fn of(tenant: TenantName) -> Self {
        Self { tenant, contact: Contact::default(), notices: Vec::new(), limits: Usage::default() }
    }

    /// The limit of a resource; `None` when there is none, or when it is the volume of the month.
    #[must_use]
    pub fn limit(&self, resource: NoticeResource) -> Option<u64> {
        resource.measure().and_then(|measure| self.limits.get(measure))
    }
}
