//! The errors of changing a tenant's file.

use bailiwick_policy::Diagnostic;
use bailiwick_types::{PlanName, TenantName};
use std::io;
use std::path::PathBuf;

/// Why a tenant's file was not changed. Paths are below the configuration directory as the caller gave it.
#[derive(Debug, thiserror::Error)]
pub enum DeclareError {
    /// `tenants.d` cannot be opened or made.
    #[error("cannot open \"{}\"", path.display())]
    Open {
        /// The folder.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// Another command held the lock for as long as this one waited.
    #[error("another command holds \"{}\"; try again when it is done", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// It cannot be found out whether a file exists.
    #[error("cannot look at \"{}\"", path.display())]
    Inspect {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A file cannot be read, or is larger than 1 MiB.
    #[error("cannot read \"{}\"", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A file cannot be written. It is as it was, unless only the last step failed, which is `fsync(2)` of the folder.
    #[error("cannot write \"{}\"", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A file cannot be removed.
    #[error("cannot remove \"{}\"", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The tenant to create has a file already.
    #[error("the tenant \"{tenant}\" exists already: \"{}\"", path.display())]
    Exists {
        /// The tenant.
        tenant: TenantName,
        /// Its file.
        path: PathBuf,
    },
    /// The plan of a new tenant has no file.
    #[error("no plan \"{plan}\": there is no \"{}\"", path.display())]
    NoPlan {
        /// The plan.
        plan: PlanName,
        /// The file that it would have.
        path: PathBuf,
    },
    /// Somebody has changed a file since it was read.
    #[error("\"{}\" was changed by somebody else meanwhile, and is left as it is; look at it and try again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The tenant to change has no file.
    #[error("no tenant \"{tenant}\"")]
    NoTenant {
        /// The tenant.
        tenant: TenantName,
    },
    /// The daemons could not read the new file.
    #[error("the configuration is not valid")]
    Invalid {
        /// All problems of the new file, and of what it inherits from.
        diagnostics: Vec<Diagnostic>,
        /// Why the old file could not be restored; `None` when it was.
        not_restored: Option<Box<DeclareError>>,
    },
}
