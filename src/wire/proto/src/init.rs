//! What init of a jail is asked, and what a session says.
//!
//! Init belongs to the tenant. What it answers has a fixed shape and is at most [`crate::frame::MAX_EVENT`] bytes, but for a
//! crontab, which is the tenant's word in any case; it is never used for identity or accounting.
//!
//! A session has a channel of its own: a `SOCK_SEQPACKET` pair with one end at init and one at the client, one message
//! a datagram. No daemon stands between, so sessions survive the daemons.

use crate::Bytes;
use serde::{Deserialize, Serialize};

/// A request to init, with its descriptors beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum InitRequest {
    /// Start a session. Descriptors: the channel, and without a terminal stdin, stdout and stderr (pipes).
    Spawn(Spawn),
    /// Try to read a file that only Landlock guards. Answered with [`InitReply::Probed`].
    Probe {
        /// Path of the file inside.
        canary: String,
    },
    /// Read the login user's crontab. Answered with [`InitReply::Crontab`].
    Crontab {
        /// Path of the file inside.
        path: String,
        /// Whose it must be, inside the jail.
        owner: u32,
        /// What was told of it the last time.
        seen: Option<String>,
    },
    /// Which version of this protocol it speaks. Answered with [`InitReply::Version`]; by an init of version 1, which does not know
    /// the question, with the end of the connection. Whatever a version has that the one before it has not is asked for only of an
    /// init that has told it.
    Version,
}

/// The version of this protocol: 1 has all but [`InitRequest::Version`].
pub const VERSION: u32 = 2;

/// One session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spawn {
    /// Who runs it, inside the jail.
    pub user: JailUser,
    /// The command; the first is looked up in `PATH` of `env` when it holds no slash.
    pub argv: Vec<Bytes>,
    /// The first argument that the program sees, when it is not `argv[0]`: `-bash` for a login shell.
    pub arg0: Option<Bytes>,
    /// The whole environment.
    pub env: Vec<(Bytes, Bytes)>,
    /// Where it starts; the user's home when `None`. A directory that cannot be entered is replaced by `/`.
    pub cwd: Option<Bytes>,
    /// A terminal of the jail's own `devpts` of this size.
    pub terminal: Option<WindowSize>,
}

/// A user inside the jail, by number: nothing of the tenant's is read to make a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailUser {
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Home directory inside.
    pub home: String,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// What init says on a connection: first of all [`InitReply::Ready`] or [`InitReply::Refused`], before it is asked, so
/// that no descriptor is on its way to an init that does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum InitReply {
    /// Ask. What becomes of a session is told on its channel.
    Ready,
    /// There are too many sessions, or the jail is ending.
    Refused,
    /// To `Probe`.
    Probed {
        /// Whether opening the canary that only Landlock guards was refused.
        canary_denied: bool,
    },
    /// To `Crontab`. At most [`crate::frame::MAX_CRONTAB_REPLY`] bytes.
    Crontab(CrontabFile),
    /// To `Version`.
    Version {
        /// What it says: the tenant's word like all else, by which no more is decided than how it is spoken to.
        version: u32,
    },
}

/// What is at the path of a crontab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum CrontabFile {
    /// Nothing.
    Absent,
    /// What was there the last time.
    Same,
    /// Something else than a file of the owner's that is small enough.
    Unusable,
    /// A crontab.
    Text {
        /// Tells it from others; at most [`MAX_STAMP`] bytes.
        stamp: String,
        /// What it says.
        text: String,
    },
}

/// The longest stamp of a crontab, in bytes.
pub const MAX_STAMP: usize = 128;

/// From the client to init.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum SessionSignal {
    /// Send a signal to the session's process group.
    Signal(i32),
    /// The client's terminal changed its size.
    Resize(WindowSize),
}

/// From init to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum SessionEvent {
    /// The command runs. With a terminal its master side comes with this message.
    Started,
    /// The command could not be executed.
    ExecFailed {
        /// Error number of `execve(2)`.
        errno: i32,
    },
    /// The session could not be set up.
    SetupFailed {
        /// Error number.
        errno: i32,
    },
    /// The directory that was asked for cannot be entered.
    DirectoryFailed {
        /// Error number of `chdir(2)`.
        errno: i32,
    },
    /// The command ended with this status.
    Exited(u8),
    /// The command was ended by this signal.
    Killed(u8),
}
