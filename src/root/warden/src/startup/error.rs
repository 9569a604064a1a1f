//! Why the warden cannot start, and its exit status then.

use crate::identity::host_user::HostUserError;
use crate::identity::ledger::LedgerError;
use crate::limits::tenant_groups::GroupError;
use crate::runtime::RuntimeError;
use crate::storage::layout::StorageError;
use bailiwick_observe::ObserveError;
use bailiwick_policy::Diagnostic;
use bailiwick_types::ExitStatus;
use std::io;
use std::path::PathBuf;

/// Why the warden cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// `bailiwick.toml` has errors.
    #[error("{}", bailiwick_policy::lines(.0))]
    Policy(Vec<Diagnostic>),
    /// The process is not root.
    #[error("bailiwick-warden must be started as root")]
    NotRoot,
    /// The daemon's user does not exist.
    #[error(
        "the user \"{0}\" that bailiwickd is to run as does not exist; make it with `useradd --system {0}`, or set `user` in bailiwick.toml"
    )]
    User(String),
    /// A program that jails are lent cannot be used.
    #[error("cannot use \"{path}\" as {name}: {why}", path = path.display())]
    Program {
        /// What it is for: `init`, `bailiwick-web`, `bailiwick-lend` or `bailiwick-mail`.
        name: &'static str,
        /// Where it was looked for.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The state directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The runtime directory.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Control groups.
    #[error(transparent)]
    Groups(#[from] GroupError),
    /// Records of host users.
    #[error(transparent)]
    HostUsers(#[from] HostUserError),
    /// The host cannot be read.
    #[error(transparent)]
    Facts(#[from] ObserveError),
    /// What was found contradicts itself.
    #[error("the ledger cannot be rebuilt, and nothing was written: {}", .0.join("; "))]
    Uncertain(Vec<String>),
    /// Another system call failed.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// The exit status of the program.
    #[must_use]
    pub fn status(&self) -> ExitStatus {
        match self {
            Self::Policy(_) | Self::User(_) => ExitStatus::Invalid,
            // Only an operator can repair these; another start would not help.
            Self::Ledger(
                LedgerError::Damaged(_)
                | LedgerError::Missing { .. }
                | LedgerError::Overlap(_)
                | LedgerError::OverlapOfPurged(_)
                | LedgerError::PoolChanged(_),
            ) => ExitStatus::HostCannot,
            Self::Storage(StorageError::Locked { .. }) => ExitStatus::Conflict,
            Self::Ledger(LedgerError::InOrder) => ExitStatus::Conflict,
            Self::Groups(_)
            | Self::Program { .. }
            | Self::Storage(StorageError::Open { .. } | StorageError::Trust { .. }) => ExitStatus::HostCannot,
            Self::Runtime(_) | Self::HostUsers(_) if !self.may_pass() => ExitStatus::HostCannot,
            _ => ExitStatus::Failed,
        }
    }

    /// Whether the cause may be gone at the next try, such as a full disk.
    fn may_pass(&self) -> bool {
        use rustix::io::Errno;
        const PASSING: [Errno; 5] = [Errno::NOSPC, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::INTR];
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            if error.downcast_ref().and_then(Errno::from_io_error).is_some_and(|errno| PASSING.contains(&errno)) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// For `map_err` on a system call.
pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::System { what, source }
}
