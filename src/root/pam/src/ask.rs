//! Requests to `bailiwickd` and to the warden, each within a time limit.
//!
//! Danger: an answer decides who gets in. So the socket must lie below a directory that only root can write, and its listener
//! must be root or the user of the daemon.

use bailiwick_proto::frame::{MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::{
    ControlReply, Failure, FrameError, Incoming, TransportError, WardenReply, time_limits, transport,
};
use bailiwick_sys::file;
use bailiwick_sys::socket::{self, MAX_FDS};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Why a request has no answer. The first field is the name of the daemon.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("{0} does not answer: {1}")]
    NoAnswer(&'static str, io::Error),
    #[error("user {1} listens on the socket of {0}, and is neither root nor the user of {0}")]
    ForeignListener(&'static str, u32),
    #[error(
        "\"{0}\" must belong to root and be writable by nobody else: anybody who can write there could answer for Bailiwick"
    )]
    UnsafeDirectory(PathBuf),
    #[error("{0} answered another request; are this module and {0} of one version?")]
    Unexpected(&'static str),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Refused(Failure),
}

/// A connection to one of the daemons.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The name of the daemon, for messages.
    daemon: &'static str,
    stream: UnixStream,
    incoming: Incoming,
}

impl Connection {
    /// Connects to the socket `path` below `dir`, which only root may be able to write. The listener must be root or `owner`.
    pub(crate) fn open(daemon: &'static str, path: &Path, dir: &Path, owner: Option<u32>) -> Result<Self, AskError> {
        let no_answer = |error| AskError::NoAnswer(daemon, error);
        let metadata = file::open_dir(dir).and_then(file::metadata).map_err(no_answer)?;
        if metadata.uid != 0 || metadata.mode & 0o022 != 0 {
            return Err(AskError::UnsafeDirectory(dir.to_owned()));
        }
        let deadline = Instant::now() + time_limits::RESTART;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => return Err(no_answer(error)),
                Err(_) => std::thread::sleep(time_limits::RETRY),
            }
        };
        // The credentials are those of the process that called listen(2) (unix(7)). With socket activation that is systemd.
        let peer = socket::peer(&stream).map_err(no_answer)?;
        if peer.uid != 0 && owner != Some(peer.uid) {
            return Err(AskError::ForeignListener(daemon, peer.uid));
        }
        stream.set_write_timeout(Some(time_limits::ANSWER)).map_err(no_answer)?;
        Ok(Self { daemon, stream, incoming: Incoming::new(MAX_REPLY, MAX_FDS) })
    }

    /// Sends a request and waits for the answer with the descriptors beside it. `check` turns an answer that is a failure into
    /// one.
    pub(crate) fn ask<Q: serde::Serialize, A: serde::de::DeserializeOwned>(
        &mut self,
        request: &Q,
        check: impl Fn(A) -> Result<A, Failure>,
    ) -> Result<(A, Vec<OwnedFd>), AskError> {
        let daemon = self.daemon;
        let failed = |error| match error {
            TransportError::Frame(error) => AskError::Frame(error),
            error => AskError::NoAnswer(daemon, error.into()),
        };
        transport::send(&self.stream, request, MAX_REQUEST, &[]).map_err(failed)?;
        let deadline = Instant::now() + time_limits::ANSWER;
        let (answer, fds) = transport::receive(&self.stream, &mut self.incoming, deadline).map_err(failed)?;
        Ok((check(answer).map_err(AskError::Refused)?, fds))
    }
}

/// The check of an answer of `bailiwickd`.
pub(crate) fn check_control(reply: ControlReply) -> Result<ControlReply, Failure> {
    if let ControlReply::Failed(failure) = reply { Err(failure) } else { Ok(reply) }
}

/// The check of an answer of the warden.
pub(crate) fn check_warden(reply: WardenReply) -> Result<WardenReply, Failure> {
    if let WardenReply::Failed(failure) = reply { Err(failure) } else { Ok(reply) }
}
