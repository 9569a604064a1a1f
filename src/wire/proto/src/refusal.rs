//! Reasons to refuse a request that more than one program knows, and their wording: the only place that has it.

use bailiwick_types::{ExitStatus, TenantName};
use serde::{Deserialize, Serialize};

/// Why a request was refused, for programs. [`std::fmt::Display`] says the same to people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", tag = "reason", deny_unknown_fields)]
pub enum Refusal {
    /// No file declares it.
    #[error("there is no tenant \"{tenant}\"")]
    UnknownTenant {
        /// Who was asked for.
        tenant: TenantName,
    },
    /// The operator closed it.
    #[error("tenant \"{tenant}\" is suspended{}", because(why.as_deref()))]
    Suspended {
        /// Whose.
        tenant: TenantName,
        /// What the operator wrote down as the reason.
        why: Option<String>,
    },
    /// Its jail is down.
    #[error("the jail of \"{tenant}\" does not run{}; `bailiwick start {tenant}` starts it", because(why.as_deref()))]
    NotRunning {
        /// Whose.
        tenant: TenantName,
        /// Why it could not be started, where that was tried.
        why: Option<String>,
    },
    /// Its jail has ended, and what is left of it is being removed.
    #[error("the jail of \"{tenant}\" is being cleared; `bailiwick start {tenant}` starts it anew then")]
    Clearing {
        /// Whose.
        tenant: TenantName,
    },
    /// Its jail cannot start before its directories are there.
    #[error("the storage of \"{tenant}\" is being prepared; its jail starts when that is done")]
    Preparing {
        /// Whose.
        tenant: TenantName,
    },
    /// Its processes do not go on.
    #[error("the jail of \"{tenant}\" is frozen; `bailiwick thaw {tenant}` lets it go on")]
    Frozen {
        /// Whose.
        tenant: TenantName,
    },
    /// A jail runs that is not the one that the policy declares.
    #[error("the jail of \"{tenant}\" is another one than is declared; `bailiwick apply {tenant}` replaces it")]
    OtherJail {
        /// Whose.
        tenant: TenantName,
    },
    /// A jail runs that cannot do this.
    #[error("the jail of \"{tenant}\" was made by an earlier version; `bailiwick restart {tenant}`")]
    EarlierVersion {
        /// Whose.
        tenant: TenantName,
    },
    /// The request belongs to a session.
    #[error("no session was let in over this connection")]
    NoSession,
    /// Only an FTP server asks this.
    #[error("only an FTP server that runs as root lets somebody in")]
    OnlyFtpServers,
    /// Operators enter in another way.
    #[error("only a tenant's own host user logs in; `bailiwick exec` and `bailiwick shell` are for operators")]
    OnlyHostUsers,
    /// A user of a tenant asks for what is not its own.
    #[error("a user of the tenant \"{tenant}\" may log in, and ask for its usage, history, faults and incidents only")]
    NotOwn {
        /// Whose user asks.
        tenant: TenantName,
    },
}

impl Refusal {
    /// What a command that was refused exits with.
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
    fn a_reason_travels_with_its_words_and_without_it_a_message_is_as_it_was() {
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
