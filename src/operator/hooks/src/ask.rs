//! Asks `bailiwick-hooks` to run a hook.

use crate::message::{HookReply, HookRequest, MAX_REPLY};
use bailiwick_proto::frame::MAX_REQUEST;
use bailiwick_proto::{HOOKS_SOCKET, Incoming, TransportError, transport};
use bailiwick_sys::socket;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long it may take to accept a request.
const ACCEPT: Duration = Duration::from_secs(5);
/// How long it may take beyond the time limit of the hook, to end what a hook has left and to answer.
const END: Duration = Duration::from_secs(30);

/// The socket of `bailiwick-hooks`.
#[must_use]
pub fn socket(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join(HOOKS_SOCKET)
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum AskHookError {
    /// Nobody listens on the socket.
    #[error("bailiwick-hooks does not answer on \"{}\"; start it with \"systemctl start bailiwick-hooks.socket\" (bailiwickd --standalone starts it when there are hooks)", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// The error of `connect(2)`.
        source: io::Error,
    },
    /// The permissions of the socket exclude this user.
    #[error("not allowed to talk to bailiwick-hooks on \"{}\"", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
        /// The error of `connect(2)`.
        source: io::Error,
    },
    /// The request could not be sent.
    #[error("cannot send the request to bailiwick-hooks")]
    Send(#[source] TransportError),
    /// The run was broken off, or what came is no reply.
    #[error("bailiwick-hooks gave no reply; see its log")]
    Reply(#[source] TransportError),
}

/// Has a hook run, and waits for its end. `limit` is the time limit of the hook; a little more is waited for.
///
/// Whoever drops the connection before the end has the hook killed.
///
/// # Errors
/// Why there is no reply. Then the hook may have run, or a part of it.
pub fn ask(path: &Path, request: &HookRequest, limit: Duration) -> Result<HookReply, AskHookError> {
    let deadline = Instant::now() + ACCEPT + limit + END;
    let connection: OwnedFd = socket::connect_within(path, Some(ACCEPT)).map_err(|source| {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => AskHookError::Denied { path, source },
            _ => AskHookError::NoAnswer { path, source },
        }
    })?;
    transport::send(&connection, request, MAX_REQUEST, &[]).map_err(AskHookError::Send)?;
    let (reply, _) =
        transport::receive(&connection, &mut Incoming::new(MAX_REPLY, 0), deadline).map_err(AskHookError::Reply)?;
    Ok(reply)
}
