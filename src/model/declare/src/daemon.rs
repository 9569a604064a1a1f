//! The requests to the daemon that deleting a tenant, and undoing a creation, need.

use crate::error::DeclareError;
use bailiwick_types::TenantName;

/// Requests to `bailiwickd`. The client implements them over its own connection.
pub trait DaemonRequests {
    /// Why a request failed. An error of a file converts into it, so that a caller has one type for every step.
    type Error: From<DeclareError>;

    /// Stops a tenant's jail and keeps it down. A jail that never ran counts as stopped.
    ///
    /// # Errors
    /// After an error the jail may still run.
    fn stop(&self, tenant: &TenantName) -> Result<(), Self::Error>;

    /// Makes the daemon read the policy again. Problems in files are no error.
    ///
    /// # Errors
    /// After an error the daemon has not read it.
    fn reload(&self) -> Result<(), Self::Error>;

    /// Destroys the data of a tenant that has no file. Missing data counts as destroyed.
    ///
    /// # Errors
    /// After an error the data, or a part of it, may still exist.
    fn purge(&self, tenant: &TenantName) -> Result<(), Self::Error>;
}
