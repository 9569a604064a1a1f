//! Floor 2: the bounded messages between the programs.
//!
//! Every connection is a stream of frames: four bytes of length, little-endian, then that many bytes of JSON. The reader
//! chooses how large a frame may be, so a peer cannot make it allocate more. Descriptors travel beside a frame
//! (`SCM_RIGHTS`, `unix(7)`). [`transport`] sends and receives both.
//!
//! Danger: the tenant writes what `init` sends. Replies of init may carry only numbers and fixed words, except the text of a
//! crontab.

pub mod bytes;
pub mod control;
mod done;
pub mod frame;
pub mod init;
pub mod net;
pub mod notify;
pub mod refusal;
pub mod refused_request;
pub mod time_limits;
pub mod transport;
pub mod warden;

pub use bailiwick_types::{WEB_DIR, bound_web_socket, refused_socket, web_socket, web_socket_of};
pub use bytes::Bytes;
pub use control::{ControlReply, ControlRequest};
pub use frame::{Decoder, FrameError, decode, encode};
pub use init::{InitReply, InitRequest, SessionEvent, SessionSignal};
pub use net::{
    NET_CACHE, NET_DIR, NET_ERROR, NET_REPORT, NET_ROOT_SOCKET, NET_SOCKET, NET_WANTED, NetReply, NetRequest,
};
pub use notify::{HOOKS_SOCKET, NOTIFY_DIR, NOTIFY_SOCKET, NotifyReply, NotifyRequest};
pub use refusal::Refusal;
pub use refused_request::RefusedRequest;
pub use transport::{Incoming, Outgoing, TransportError};
pub use warden::{Hold, WardenReply, WardenRequest};

use bailiwick_types::{Access, ExitStatus};
use serde::{Deserialize, Serialize};

/// The control socket of `bailiwickd`, below the runtime directory.
pub const CONTROL_SOCKET: &str = "control/bailiwick.sock";
/// The directory of the control socket, below the runtime directory. The user of `bailiwickd` owns it.
pub const CONTROL_DIR: &str = "control";
/// The file in which a warden that cannot work says why, below the runtime directory.
pub const WARDEN_ERROR: &str = "warden.error";
/// The warden's socket, below the runtime directory.
pub const WARDEN_SOCKET: &str = "warden.sock";
/// The folder with one directory for each running jail, below the runtime directory.
pub const JAILS: &str = "jails";

/// The name of the socket of a jail's init, below the jail's directory.
///
/// The name depends on the access, so that a client that was let into a read-only jail cannot end up in a writable one: for it
/// the socket does not exist, and no race can pass that check.
#[must_use]
pub fn init_socket(access: Access) -> &'static str {
    match access {
        Access::ReadWrite => "init.sock",
        Access::ReadOnly => "init-read-only.sock",
    }
}

/// Why a request failed, as text that can be shown: the message holds the whole chain of causes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The exit status for the command.
    pub status: ExitStatus,
    /// What was tried, on what, and why it failed.
    pub message: String,
    /// The reason in a form for programs, if it is one that programs distinguish.
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

    /// A failure with this message and no chain of causes.
    pub fn of(status: ExitStatus, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), refusal: None }
    }
}
