//! Floor 7: `bailiwick-notify`, which delivers events and notices. It follows the events of `bailiwickd` by a cursor, keeps what it
//! has to deliver in a file of its own, and tries each delivery until it is made or given up.
//!
//! Each delivery is made at least once: the cursor and the new deliveries are written in one transaction, and a delivery is removed
//! after it was made. The deliveries of one tenant to one target are made in their order.
//!
//! - [`state`]: the file
//! - [`target`]: what a kind of target does
//! - [`engine`]: which delivery is made when
//! - [`thresholds`]: when somebody is told of a limit
//! - [`mail`], `sendmail`: what is told by mail, and how it leaves the host
//! - `folder`: the files of hooks and webhooks
//! - [`hooks`], [`webhooks`]: programs that run after events, and receivers over HTTP
//! - [`follow`]: events and readings become deliveries
//! - [`control`]: root asks what waits
//!
//! Danger: tenants cause events without end, and some values of an event are chosen by tenants. So rows are bounded, with a share
//! for each tenant and each target, and whoever shows a value must escape it.

pub mod control;
pub mod engine;
mod folder;
pub mod follow;
pub mod hooks;
pub mod mail;
mod sendmail;
pub mod state;
pub mod target;
pub mod thresholds;
pub mod webhooks;
