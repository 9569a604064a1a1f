//! Floor 6: authorises, reconciles, records and serves. It has no privileges: the warden makes every change.
//!
//! Danger: every local user can connect to the control socket, and hostile tenants are behind the doors. Every wait
//! here is bounded, and everything that a connection holds is counted.
//!
//! The modules in order. Each uses only modules before it, and a test reads this list:
//!
//! - the ground: `audit_log`, `directory`, `incident`, `listener_set`, `own_dir`, `pressure`, `reconcile`,
//!   `refusals`, `sync`, `outbox`, `transport`, `unavailable`, `web_sockets`
//! - who asks, and what is open: `comparison`, `door`, `init_client`, `permission`, `places`, `sessions`,
//!   `start_failures`, `warden_link`
//! - clients of other programs: `ftp`, `init_health`, `job`, `net_client`, `network_start`, `service_orders`,
//!   `warden_client`
//! - the policy: `crontabs`, `policy_store`
//! - what is kept: `policy_copies`, `recorder`, `tenants`, `timers`
//! - callers and ends: `callers`, `connections`, `event_reader`, `inits`, `records`, `refused_requests`, `session_end`
//! - changes: `reconciler`, `service_keeper`, `waking`
//! - entries: `ftp_entry`, `session_entry`
//! - rounds and views: `audits`, `init_watch`, `networks`, `overview`, `sleeping`, `timer_runner`, `waker`
//! - the views of observers and of the notifier, and of an operator who asks why: `metrics`, `notices`, `rehearsal`
//! - the wiring: `services`
//! - the socket: `server`

mod audit_log;
mod audits;
mod callers;
mod comparison;
mod connections;
mod crontabs;
mod directory;
mod door;
mod event_reader;
#[cfg(test)]
mod fake;
mod ftp;
mod ftp_entry;
mod incident;
mod init_client;
mod init_health;
mod init_watch;
mod inits;
mod job;
mod listener_set;
mod metrics;
mod net_client;
mod network_start;
mod networks;
mod notices;
mod outbox;
mod overview;
mod own_dir;
mod permission;
mod places;
mod policy_copies;
mod policy_store;
mod pressure;
mod reconcile;
mod reconciler;
mod recorder;
mod records;
mod refusals;
mod refused_requests;
mod rehearsal;
mod server;
mod service_keeper;
mod service_orders;
mod services;
mod session_end;
mod session_entry;
mod sessions;
mod sleeping;
mod start_failures;
mod sync;
mod tenants;
mod timer_runner;
mod timers;
mod transport;
mod unavailable;
mod waker;
mod waking;
mod warden_client;
mod warden_link;
mod web_sockets;

pub use outbox::Outbox;
pub use policy_store::OpenError;
pub use server::serve;
pub use services::Services;
pub use web_sockets::{DescriptorStore, MAX_STORED};
