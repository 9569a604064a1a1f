//! Clients that ask for a session, the count and log of refusals, and what rehearsals tell of them.

use bailiwick_proto::Failure;
use bailiwick_proto::control::WhyCheck;
use bailiwick_types::Door;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::info;

/// The number of refused sessions since this program started.
#[derive(Debug, Default)]
pub(crate) struct Refusals(AtomicU64);

impl Refusals {
    pub(crate) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts and logs a refusal. `tenant` is the tenant whose jail the client asked for.
    pub(crate) fn log(&self, client: &Client, tenant: &dyn Display, failure: &Failure) {
        self.count();
        let Client { door, uid, source, .. } = client;
        let (source, status) = (source.as_deref().unwrap_or_default(), failure.status.code());
        info!(target: "bailiwick::event", tenant = %tenant, event = "session-refused", door = %door, uid, source, status, "{failure}");
    }
}

/// A client that asks for a session, as the kernel and sshd describe it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) door: Door,
    pub(crate) uid: u32,
    pub(crate) pid: u32,
    pub(crate) source: Option<String>,
    pub(crate) key: Option<String>,
}

/// This program as the client of a timer's session.
pub(crate) fn by_timer() -> Client {
    let uid = rustix::process::geteuid().as_raw();
    Client { door: Door::Cron, uid, pid: std::process::id(), source: None, key: None }
}

/// A check of a rehearsal. `found` is said of one that passes; of another it is what the refusal says.
pub(crate) fn check(name: &str, found: impl Into<String>, result: Result<(), Failure>) -> WhyCheck {
    WhyCheck { check: name.to_owned(), found: found.into(), refusal: result.err() }
}
