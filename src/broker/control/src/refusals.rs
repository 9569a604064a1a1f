//! Who asks to be let in, and the log of those who are refused.

use bailiwick_proto::Failure;
use bailiwick_types::Door;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::info;

/// How many entries were refused since this program started.
#[derive(Debug, Default)]
pub(crate) struct Refusals(AtomicU64);

impl Refusals {
    pub(crate) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts and logs a client that was refused. `tenant` is whose jail it was about.
    pub(crate) fn log(&self, client: &Client, tenant: &dyn Display, failure: &Failure) {
        self.count();
        let Client { door, uid, source, .. } = client;
        let (source, status) = (source.as_deref().unwrap_or_default(), failure.status.code());
        info!(target: "bailiwick::event", tenant = %tenant, event = "session-refused", door = %door, uid, source, status, "{failure}");
    }
}

/// Who asks to be let in, as the kernel and sshd say.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) door: Door,
    pub(crate) uid: u32,
    pub(crate) pid: u32,
    pub(crate) source: Option<String>,
    pub(crate) key: Option<String>,
}

/// This program itself, for a timer.
pub(crate) fn by_timer() -> Client {
    let uid = rustix::process::geteuid().as_raw();
    Client { door: Door::Cron, uid, pid: std::process::id(), source: None, key: None }
}
