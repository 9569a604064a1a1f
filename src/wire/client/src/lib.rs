//! Floor 6: the client's side of `bailiwickd`. [`Daemon::ask`] sends a request, and [`run`] runs a session from its first byte to
//! its exit status.
//!
//! Danger: a client has the rights of whoever starts it, in most cases root, and the output of a jail passes through it.

mod daemon;
#[cfg(any(test, feature = "fake"))]
mod fake;
mod link;
mod pages;
mod pump;
mod session;

pub use daemon::{AskError, Daemon};
#[cfg(any(test, feature = "fake"))]
pub use fake::fake;
pub use session::{Caller, SessionSpec, StreamKind, exec_failure, run, stdin_is_terminal};

/// Checks whether this process can open the eight files that reading the policy needs at once. Returns the error when it cannot.
#[must_use]
pub fn descriptor_shortage() -> Option<std::io::Error> {
    const NEEDED: usize = 8;
    (0..NEEDED).map(|_| std::fs::File::open("/")).collect::<Result<Vec<_>, _>>().err()
}
