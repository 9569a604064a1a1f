//! Floor 6: the client's side of `bailiwickd`: requests, and sessions from their first byte to their exit status.
//!
//! Danger: a client runs with the rights of whoever asks, as a rule root, and what comes from a jail passes through it.

mod daemon;
#[cfg(any(test, feature = "fake"))]
mod fake;
mod link;
mod pump;
mod session;

pub use daemon::{AskError, Daemon};
#[cfg(any(test, feature = "fake"))]
pub use fake::fake;
pub use session::{Caller, SessionSpec, StreamKind, exec_failure, run, stdin_is_terminal};

/// Why not even so many files can be opened as reading the policy needs; `None` when they can.
#[must_use]
pub fn descriptor_shortage() -> Option<std::io::Error> {
    const NEEDED: usize = 8;
    (0..NEEDED).map(|_| std::fs::File::open("/")).collect::<Result<Vec<_>, _>>().err()
}
