//! Requests to `bailiwickd` and to the warden, in bounded time.

use bailiwick_proto::frame::{MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::{ControlReply, Decoder, Failure, FrameError, WardenReply, encode};
use bailiwick_sys::socket::{self, MAX_FDS};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long either may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// How long one that is being started anew may stay away, and the pause between two tries.
const AWAY_TIME: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("{0} does not answer: {1}")]
    Silent(&'static str, io::Error),
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
    decoder: Decoder,
}

impl Conversation {
    pub(crate) fn with(with: &'static str, path: &Path) -> Result<Self, AskError> {
        let deadline = Instant::now() + AWAY_TIME;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => return Err(AskError::Silent(with, error)),
                Err(_) => std::thread::sleep(PAUSE),
            }
        };
        let bounded = || -> io::Result<()> {
            stream.set_read_timeout(Some(ANSWER_TIME))?;
            stream.set_write_timeout(Some(ANSWER_TIME))
        };
        bounded().map_err(|error| AskError::Silent(with, error))?;
        Ok(Self { with, stream, decoder: Decoder::new(MAX_REPLY) })
    }

    /// Asks, and waits for the answer with the descriptors beside it. `failure` says which answers are refusals.
    pub(crate) fn ask<Q: serde::Serialize, A: serde::de::DeserializeOwned>(
        &mut self,
        request: &Q,
        failure: impl Fn(A) -> Result<A, Failure>,
    ) -> Result<(A, Vec<OwnedFd>), AskError> {
        let silent = |error| AskError::Silent(self.with, error);
        self.stream.write_all(&encode(request, MAX_REQUEST)?).map_err(silent)?;
        let mut buffer = vec![0; 16 << 10];
        let mut fds = Vec::new();
        loop {
            if let Some(answer) = self.decoder.next()? {
                return Ok((failure(answer).map_err(AskError::Refused)?, fds));
            }
            let (len, came) = match socket::receive(&self.stream, &mut buffer, MAX_FDS) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(silent)?,
            };
            if len == 0 {
                return Err(silent(io::ErrorKind::UnexpectedEof.into()));
            }
            fds.extend(came);
            self.decoder.push(&buffer[..len]);
        }
    }
}

pub(crate) fn of_bailiwickd(reply: ControlReply) -> Result<ControlReply, Failure> {
    if let ControlReply::Failed(failure) = reply { Err(failure) } else { Ok(reply) }
}

pub(crate) fn of_warden(reply: WardenReply) -> Result<WardenReply, Failure> {
    if let WardenReply::Failed(failure) = reply { Err(failure) } else { Ok(reply) }
}
