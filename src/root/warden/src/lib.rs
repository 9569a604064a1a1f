//! Floor 5: the privileged core. Makes, changes and removes jails; the only program that changes the machine.
//!
//! One thread, no async runtime, a closed set of requests. It reads the root-owned policy itself, so a request can only
//! ask for what the operator wrote down. The start of a jail is the list of [`Step`]s. Every step can be undone, and a
//! test makes each one fail.
//!
//! The modules in order. Each uses only modules before it, and a test reads this list:
//!
//! - the outside: `helper`, `systemd`, `policy_view`, `host_files::md5`, `host_files::etc_view`
//! - limits: `limits::quota`, `limits::disk_note`, `limits::watch`, `limits::tenant_groups`, `limits::cgroups`,
//!   `limits::service_groups`, `limits::lending_groups`, `limits::emergency_group`, `limits::emergency_session`
//! - identity: `identity::ledger`, `identity::host_user`
//! - one jail: `jail::step`, `jail::record`, `jail::init_set`, `jail::child_mounts`, `jail::child_network`, `jail::child_setup`, `jail::resize`, `jail::stop`
//! - storage: `runtime`, `storage::grave`, `storage::purge`, `storage::removals`, `storage::seed`,
//!   `storage::preparing`, `storage::layout`
//! - what needs the runtime directory: `net_client`
//! - what needs storage: `jail::start`, `limits::host_reserve`, `ftp`
//! - the state: `requests`, `jail::registry`, `limits::disk`, `lending::places`, `lending::proxy`,
//!   `lending::users`, `lending`, `state`
//! - requests: `handlers::doors`, `handlers::limits`, `handlers::lifecycle`, `query`, `dispatch`, `progress`
//! - the program: `startup::error`, `startup::adopt`, `startup`, `repair`, `host_files::renew`, `serve`

mod dispatch;
mod ftp;
mod handlers;
mod helper;
mod host_files;
mod identity;
mod jail;
mod lending;
mod limits;
mod net_client;
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
