//! Why a session failed, and the exit status that says so.

use bailiwick_proto::{Failure, FrameError};
use bailiwick_types::ExitStatus;
use std::io::{self, ErrorKind};

/// A failure of the session itself. A command that ends with an error is not one.
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
    EndedByDaemon(String),
    #[error("nobody reads the output of the session any more")]
    Abandoned,
    #[error("init of the jail accepted the session and does not begin it; its tenant may have stopped it")]
    NotBegun,
    #[error("the session could not be set up")]
    Setup(#[source] io::Error),
    #[error("cannot enter the directory \"{directory}\" that the command is to run in")]
    Directory {
        directory: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot execute \"{command}\"")]
    NotExecuted {
        command: String,
        #[source]
        source: io::Error,
    },
    #[error("init of the jail sent a message that no session sends")]
    InvalidEvent(#[source] FrameError),
    #[error("init of the jail sent a message that is too large for a session")]
    OversizedEvent(#[source] io::Error),
    #[error("init of the jail named signal {0}, which does not exist")]
    UnknownSignal(u8),
    #[error("init of the jail sent a descriptor that is no terminal")]
    NoTerminal,
}

impl SessionError {
    /// A function that wraps an error of a step on this side of the session; `step` completes "cannot ...".
    pub(super) fn local(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Local { step, source }
    }

    /// The exit status for this failure, as shells number it: 127, 126 or 125.
    pub(super) fn status(&self) -> ExitStatus {
        match self {
            Self::NotExecuted { source, .. } if source.kind() == ErrorKind::NotFound => ExitStatus::CommandNotFound,
            Self::NotExecuted { .. } => ExitStatus::CannotExecute,
            Self::EndedByDaemon(_) => ExitStatus::Refused,
            _ => ExitStatus::ExecFailed,
        }
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Self::new(error.status(), &error)
    }
}
