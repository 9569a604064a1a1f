//! The reasons to refuse a request that more than one program knows, and the only place with their wording.

use bailiwick_types::{ExitStatus, TenantName};
use serde::{Deserialize, Serialize};

/// Why a request was refused, for programs. [`std::fmt::Display`] has the words for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", tag = "reason", deny_unknown_fields)]
pub enum Refusal {
    /// No file declares the tenant.
    #[error("there is no tenant \"{tenant}\"")]
    UnknownTenant {
        /// The name in the request.
        tenant: TenantName,
    },
    /// The operator has suspended the tenant.
    #[error("tenant \"{tenant}\" is suspended{}", because(why.as_deref()))]
    Suspended {
        /// The tenant.
        tenant: TenantName,
        /// The reason in the tenant's file.
        why: Option<String>,
    },
    /// The tenant's jail is down.
    #[error("the jail of \"{tenant}\" does not run{}; `bailiwick start {tenant}` starts it", because(why.as_deref()))]
    NotRunning {
        /// The tenant.
        tenant: TenantName,
        /// Why the jail could not be started, if that was tried.
        why: Option<String>,
    },
    /// The tenant's jail has ended, and its remains are being removed.
    #[error("the jail of \"{tenant}\" is being cleared; `bailiwick start {tenant}` starts it again when that is done")]
    Clearing {
        /// The tenant.
        tenant: TenantName,
    },
    /// The tenant's jail cannot start before its storage is prepared.
    #[error("the storage of \"{tenant}\" is being prepared; its jail starts when that is done")]
    Preparing {
        /// The tenant.
        tenant: TenantName,
    },
    /// The processes of the tenant are frozen.
    #[error("the jail of \"{tenant}\" is frozen; `bailiwick thaw {tenant}` lets it go on")]
    Frozen {
        /// The tenant.
        tenant: TenantName,
    },
    /// The running jail is not the one that the policy declares.
    #[error("the jail of \"{tenant}\" differs from the declared one; `bailiwick apply {tenant}` replaces it")]
    OtherJail {
        /// The tenant.
        tenant: TenantName,
    },
    /// The running jail was made by a version that cannot do this.
    #[error("the jail of \"{tenant}\" was made by an earlier version; `bailiwick restart {tenant}`")]
    EarlierVersion {
        /// The tenant.
        tenant: TenantName,
    },
    /// The request needs a session on the same connection.
    #[error("no session was let in over this connection")]
    NoSession,
    /// Only an FTP server may send this request.
    #[error("only an FTP server that runs as root lets somebody in")]
    OnlyFtpServers,
    /// Only a tenant's host user may send this request.
    #[error("only a tenant's own host user logs in; `bailiwick exec` and `bailiwick shell` are for operators")]
    OnlyHostUsers,
    /// One of the `observers` has asked for something else than the metrics.
    #[error("one of the `observers` in bailiwick.toml may ask for the metrics only; operators are among `admins`")]
    OnlyMetrics,
    /// The user of `bailiwick-notify` has asked for something else than it needs.
    #[error("the user of `notices` in bailiwick.toml may ask for events, the metrics and whom notices go to only")]
    OnlyNotices,
    /// A user of a tenant has asked for something of another tenant, or of the host.
    #[error("a user of the tenant \"{tenant}\" may log in, and ask for its usage, history, faults and incidents only")]
    NotOwn {
        /// The tenant whose user asks.
        tenant: TenantName,
    },
}

impl Refusal {
    /// The exit status of a command that was refused.
    #[must_use]
    pub fn status(&self) -> ExitStatus {
        match self {
            Self::UnknownTenant { .. } => ExitStatus::NotFound,
            Self::NoSession => ExitStatus::Invalid,
            _ => ExitStatus::Refused,
        }
    }
}

fn because(why: Option<&str>) -> String {
    why.map(|why| format!(": {why}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Failure;

    #[test]
    fn a_refusal_travels_with_its_words_and_older_failures_are_read_too() {
        let refusal = Refusal::Suspended { tenant: "alice".parse().expect("a name"), why: Some("unpaid".to_owned()) };
        let failure = Failure::from(refusal.clone());
        assert_eq!((failure.status, &*failure.message), (ExitStatus::Refused, "tenant \"alice\" is suspended: unpaid"));
        let text = serde_json::to_string(&failure).expect("JSON");
        assert_eq!(serde_json::from_str::<Failure>(&text).expect("a failure").refusal, Some(refusal));
        let older = r#"{"status":"refused","message":"no"}"#;
        let failure: Failure = serde_json::from_str(older).expect("a failure of an earlier version");
        assert_eq!(failure, Failure::of(ExitStatus::Refused, "no"));
        assert_eq!(serde_json::to_string(&failure).expect("JSON"), older);
    }
}
