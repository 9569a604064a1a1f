//! Floor 3: writes the files of tenants in `tenants.d`, which hold what the operator declares.
//!
//! [`TenantFiles`] creates and changes files, and the client then asks the daemon to apply them. [`delete`] and [`undo_create`]
//! change files and ask the daemon ([`DaemonRequests`]), in an order that keeps data safe. Nothing is printed or logged.
//!
//! [`assign()`] changes single keys of a tenant's file, by the table of all keys ([`keys::KEYS`]).
//!
//! A file is written as a whole or not at all. It is then read as the daemons will read it, and restored when they could not.
//! The comments and the order of a file stay.
//!
//! Danger: the warden does as root what these files say. Only [`undo_create`] may destroy data, and only when the caller says
//! that there was none before.

mod assign;
mod config_file;
mod create;
mod daemon;
mod delete;
mod edit;
mod error;
mod files;
#[cfg(test)]
mod fixture;
mod install;
pub mod keys;
mod lines;
mod redact;
mod state;
mod undo;

pub use assign::{AssignError, Assignment, FlatValue, assign, flat};
pub use config_file::ConfigFile;
pub use create::{Creation, NewTenant};
pub use daemon::DaemonRequests;
pub use delete::{Deletion, delete};
pub use error::DeclareError;
pub use files::TenantFiles;
pub use redact::{REMOVED, Redacted, redacted};
pub use state::{FileChange, StateChange};
pub use undo::{PriorData, undo_create};
