//! Floor 6: decides, reconciles and lets in. Unprivileged: whatever is to be changed, the warden changes.
//!
//! Danger: the control socket is open to every local user, and behind the doors are hostile tenants. Nothing here waits
//! without a bound for anybody, and everything that a connection holds is counted.

mod audit_log;
mod crontabs;
mod daemon;
mod directory;
mod door;
#[cfg(test)]
mod fake;
mod ftp;
mod incident;
mod inits;
mod job;
mod own_dir;
mod permission;
mod places;
mod policy_copies;
mod policy_store;
mod pressure;
mod reconcile;
mod record;
mod recorder;
mod server;
mod sessions;
mod sync;
mod timers;
mod transport;
mod warden_client;
mod warden_link;

pub use daemon::Daemon;
pub use policy_store::OpenError;
pub use server::serve;
