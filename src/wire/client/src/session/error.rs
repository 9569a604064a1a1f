//! Why a session failed, and the exit status that says so.

use bailiwick_proto::{Failure, FrameError};
use bailiwick_types::ExitStatus;
use std::io::{self, ErrorKind};

/// Why a session failed, other than through its command.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("cannot {step}")]
    Local {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the jail ended")]
    JailEnded,
    #[error("the session was ended: {0}")]
    Ended(String),
    #[error("who read what it says has gone")]
    Abandoned,
    #[error("init of the jail took the session and does not begin it; its tenant may have stopped it")]
    NotBegun,
    #[error("the session could not be set up")]
    Setup(#[source] io::Error),
    #[error("cannot enter the directory that the command is to run in")]
    Directory(#[source] io::Error),
    #[error("cannot execute \"{command}\"")]
    NotExecuted {
        command: String,
        #[source]
        source: io::Error,
    },
    #[error("init of the jail said what no session says")]
    Misspoken(#[source] FrameError),
    #[error("init of the jail said more than a session says")]
    Overlong(#[source] io::Error),
    #[error("init of the jail named signal {0}, which does not exist")]
    NoSignal(u8),
    #[error("init of the jail handed over something that is no terminal")]
    NoTerminal,
}

impl SessionError {
    pub(super) fn local(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Local { step, source }
    }

    pub(super) fn status(&self) -> ExitStatus {
        match self {
            Self::NotExecuted { source, .. } if source.kind() == ErrorKind::NotFound => ExitStatus::CommandNotFound,
            Self::NotExecuted { .. } => ExitStatus::CannotExecute,
            Self::Ended(_) => ExitStatus::Refused,
            _ => ExitStatus::ExecFailed,
        }
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Self::new(error.status(), &error)
    }
}
