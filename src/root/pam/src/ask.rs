//! Requests to `bailiwickd` and to the warden, in bounded time.

use bailiwick_proto::frame::{MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::{ControlReply, Decoder, Failure, FrameError, WardenReply, encode};
use bailiwick_sys::file;
use bailiwick_sys::socket::{self, MAX_FDS};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
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
    decoder: Decoder,
}

impl Conversation {
    /// Connects to root, or to `owner`, at a socket below a directory that only root can write.
    pub(crate) fn with(with: &'static str, path: &Path, dir: &Path, owner: Option<u32>) -> Result<Self, AskError> {
        let open = file::open_dir(dir).and_then(file::metadata).map_err(|error| AskError::Silent(with, error))?;
        if open.uid != 0 || open.mode & 0o022 != 0 {
            return Err(AskError::Open(dir.to_owned()));
        }
        let deadline = Instant::now() + AWAY_TIME;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => return Err(AskError::Silent(with, error)),
                Err(_) => std::thread::sleep(PAUSE),
            }
        };
        // As it was when it began to listen (unix(7)): systemd, where that listens for it.
        let peer = socket::peer(&stream).map_err(|error| AskError::Silent(with, error))?;
        if peer.uid != 0 && owner != Some(peer.uid) {
            return Err(AskError::Somebody(with, peer.uid));
        }
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
