//! Floor 5: the privileged core. Makes, changes and removes jails; the only program that changes the machine.
//!
//! One thread, no async runtime, a closed set of requests. It reads the root-owned policy itself, so whoever asks can
//! only get what the operator wrote down. The start of a jail is the list of [`Step`]s; every step can be undone, and
//! a test makes each one fail.

mod dispatch;
mod ftp;
mod handlers;
mod helper;
mod host_files;
mod identity;
mod jail;
mod limits;
mod policy_view;
mod progress;
mod query;
mod repair;
mod requests;
mod runtime;
mod serve;
mod startup;
mod state;
mod storage;
mod systemd;

pub use jail::step::Step;
pub use repair::repair_ledger;
pub use serve::{ServeError, serve};
pub use startup::error::OpenError;
pub use state::Warden;
pub use systemd::{InheritedFds, Waiting};
