//! Requests to `bailiwickd` and to the warden, in bounded time.

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

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("{0} does not answer: {1}")]
    Silent(&'static str, io::Error),
    #[error("user {1} listens for {0}, who is neither root nor the user of {0}")]
    Somebody(&'static str, u32),
    #[error(
        "\"{0}\" must belong to root and be writable by nobody else: whoever writes there could answer for Bailiwick"
    )]
    Open(PathBuf),
    #[error("{0} said what was not asked for; are both of one version?")]
    Misunderstood(&'static str),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Refused(Failure),
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Conversation {
    with: &'static str,
    stream: UnixStream,
    incoming: Incoming,
}

impl Conversation {
    /// Connects to root, or to `owner`, at a socket below a directory that only root can write.
    pub(crate) fn with(with: &'static str, path: &Path, dir: &Path, owner: Option<u32>) -> Result<Self, AskError> {
        let open = file::open_dir(dir).and_then(file::metadata).map_err(|error| AskError::Silent(with, error))?;
        if open.uid != 0 || open.mode & 0o022 != 0 {
            return Err(AskError::Open(dir.to_owned()));
        }
        let deadline = Instant::now() + time_limits::RESTART;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => return Err(AskError::Silent(with, error)),
                Err(_) => std::thread::sleep(time_limits::RETRY),
            }
        };
        // As it was when it began to listen (unix(7)): systemd, where that listens for it.
        let peer = socket::peer(&stream).map_err(|error| AskError::Silent(with, error))?;
        if peer.uid != 0 && owner != Some(peer.uid) {
            return Err(AskError::Somebody(with, peer.uid));
        }
        stream.set_write_timeout(Some(time_limits::ANSWER)).map_err(|error| AskError::Silent(with, error))?;
        Ok(Self { with, stream, incoming: Incoming::new(MAX_REPLY, MAX_FDS) })
    }

    /// Asks, and waits for the answer with the descriptors beside it. `failure` says which answers are refusals.
    pub(crate) fn ask<Q: serde::Serialize, A: serde::de::DeserializeOwned>(
        &mut self,
        request: &Q,
        failure: impl Fn(A) -> Result<A, Failure>,
    ) -> Result<(A, Vec<OwnedFd>), AskError> {
        let with = self.with;
        let failed = |error| match error {
            TransportError::Frame(error) => AskError::Frame(error),
            error => AskError::Silent(with, error.into()),
        };
        transport::send(&self.stream, request, MAX_REQUEST, &[]).map_err(failed)?;
        let deadline = Instant::now() + time_limits::ANSWER;
        let (answer, fds) = transport::receive(&self.stream, &mut self.incoming, deadline).map_err(failed)?;
        Ok((failure(answer).map_err(AskError::Refused)?, fds))
    }
}

pub(crate) fn of_bailiwickd(reply: ControlReply) -> Result<ControlReply, Failure> {
    if let ControlReply::Failed(failure) = reply { Err(failure) } else { Ok(reply) }
}

pub(crate) fn of_warden(reply: WardenReply) -> Result<WardenReply, Failure> {
    if let WardenReply::Failed(failure) = reply { Err(failure) } else { Ok(reply) }
}
