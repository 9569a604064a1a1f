//! Floor 2: bounded messages between the programs.
//!
//! Every connection is a stream of frames: four bytes of length, little-endian, then that many bytes of JSON. Whoever
//! reads says how large a frame may be, so a peer cannot make it allocate more. Descriptors travel beside a frame
//! (`SCM_RIGHTS`, `unix(7)`). [`transport`] sends and receives both.
//!
//! Danger: what `init` sends is written by the tenant. Replies of init carry numbers and fixed words only.

pub mod bytes;
pub mod control;
mod done;
pub mod frame;
pub mod init;
pub mod refusal;
pub mod time_limits;
pub mod transport;
pub mod warden;

pub use bytes::Bytes;
pub use control::{ControlReply, ControlRequest};
pub use frame::{Decoder, FrameError, decode, encode};
pub use init::{InitReply, InitRequest, SessionEvent, SessionSignal};
pub use refusal::Refusal;
pub use transport::{Incoming, Outgoing, TransportError};
pub use warden::{Hold, WardenReply, WardenRequest};

use bailiwick_types::{Access, ExitStatus};
use serde::{Deserialize, Serialize};

/// The control socket of `bailiwickd`, below the runtime directory.
pub const CONTROL_SOCKET: &str = "control/bailiwick.sock";
/// The directory of the control socket, below the runtime directory; owned by the user that `bailiwickd` runs as.
pub const CONTROL_DIR: &str = "control";
/// Where a warden that cannot work leaves word of why, below the runtime directory.
pub const WARDEN_ERROR: &str = "warden.error";
/// The warden's socket, below the runtime directory.
pub const WARDEN_SOCKET: &str = "warden.sock";
/// A directory for each running jail, below the runtime directory.
pub const JAILS: &str = "jails";
/// The socket of a jail's init, below the jail's directory. A jail that is read-only has another one: whoever was let into the
/// one kind must not end up in the other, and a name that is not there is the check that nothing can come before.
#[must_use]
pub fn init_socket(access: Access) -> &'static str {
    match access {
        Access::ReadWrite => "init.sock",
        Access::ReadOnly => "init-read-only.sock",
    }
}

/// Why a request failed, ready to be shown: the message holds the whole chain of causes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the command should exit with.
    pub status: ExitStatus,
    /// What was tried, on what, and why it failed.
    pub message: String,
    /// The same for a program, where it is one of the reasons that programs tell apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { status: refusal.status(), message: refusal.to_string(), refusal: Some(refusal) }
    }
}

impl Failure {
    /// A failure with the chain of causes of `error`, joined with `": "`.
    pub fn new(status: ExitStatus, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self { status, message, refusal: None }
    }

    /// A failure with a message of its own.
    pub fn of(status: ExitStatus, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), refusal: None }
    }
}
