//! Floor 3: writes what the operator declares of tenants: their files in `tenants.d`.
//!
//! [`TenantFiles`] creates and changes files; the client then asks the daemon to apply that. [`delete`] and [`undo_create`] take steps of
//! both kinds in an order that keeps data safe, and ask the daemon through [`DaemonRequests`]. Nothing is printed or logged.
//!
//! A file is written whole or not at all, read back as the daemons will read it, and put back as it was when they could not.
//! Comments and order of a file that a person wrote stay.
//!
//! Danger: the warden does as root what these files say. Nothing here destroys data but [`undo_create`], and that only where the
//! caller says that there was none before.

mod create;
mod daemon;
mod delete;
mod edit;
mod error;
mod files;
#[cfg(test)]
mod fixture;
mod install;
mod lines;
mod state;
mod undo;

pub use create::{Creation, NewTenant};
pub use daemon::DaemonRequests;
pub use delete::{Deletion, delete};
pub use error::DeclareError;
pub use files::TenantFiles;
pub use state::{FileChange, StateChange};
pub use undo::{PriorData, undo_create};
