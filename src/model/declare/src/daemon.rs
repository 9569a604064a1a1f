//! What the daemon is asked for while files are deleted or a creation is undone.

use crate::error::DeclareError;
use bailiwick_types::TenantName;

/// Requests to `bailiwickd`, which the client makes over its own connection.
pub trait DaemonRequests {
    /// Why a request failed. Errors of files become one too, so that a caller has one type for every step.
    type Error: From<DeclareError>;

    /// Stops a tenant's jail and holds it down. One that never ran is stopped.
    ///
    /// # Errors
    /// The jail may still run.
    fn stop(&self, tenant: &TenantName) -> Result<(), Self::Error>;

    /// Has the daemon read the policy. Problems that it finds in files are no error.
    ///
    /// # Errors
    /// It did not read it.
    fn reload(&self) -> Result<(), Self::Error>;

    /// Destroys the data of a tenant that has no file. Data that is not there is destroyed.
    ///
    /// # Errors
    /// The data, or a part of it, may still be there.
    fn purge(&self, tenant: &TenantName) -> Result<(), Self::Error>;
}
