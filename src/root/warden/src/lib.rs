//! Floor 5: the privileged core. Makes, changes and removes jails; the only program that changes the machine.
//!
//! One thread, no async runtime, a closed set of requests. It reads the root-owned policy itself, so whoever asks can
//! only get what the operator wrote down. The start of a jail is the list of [`Step`]s; every step can be undone, and
//! a test makes each one fail.

mod build;
mod core;
mod etc_view;
mod ftp;
mod groups;
mod helper;
mod host_user;
mod inside;
mod ledger;
mod lowered;
mod manager;
mod md5;
mod quota;
mod record;
mod renew;
mod repair;
mod rescue;
mod resize;
mod runtime;
mod serve;
mod step;
mod storage;
mod watch;

pub use crate::core::{OpenError, Warden};
pub use manager::{Handed, Waiting};
pub use repair::repair_ledger;
pub use serve::{ServeError, serve};
pub use step::Step;
