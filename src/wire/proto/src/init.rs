//! Requests to the init of a jail, and the messages of a session.
//!
//! A session has a channel of its own: a `SOCK_SEQPACKET` pair with one end at init and one at the client, with one message in
//! each datagram. No daemon stands between, so sessions survive the daemons.
//!
//! Danger: init belongs to the tenant. Its replies have a fixed shape and at most [`crate::frame::MAX_EVENT`] bytes, except a
//! crontab, which is the tenant's text in any case. No reply may decide identity or accounting.

use crate::Bytes;
use bailiwick_types::{
    MAX_SERVICES, MAX_SOCKETS, Readiness, Restart, ServiceReport, ServiceVerb, StopSignal, UnitName,
};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A request to init.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum InitRequest {
    /// Start a session. Descriptors: the channel, and without a terminal stdin, stdout and stderr (pipes).
    Spawn(Spawn),
    /// Try to read a file that only Landlock guards. The reply is [`InitReply::Probed`].
    Probe {
        /// The path of the file inside the jail.
        canary: String,
    },
    /// Read the login user's crontab. The reply is [`InitReply::Crontab`].
    Crontab {
        /// The path of the file inside the jail.
        path: String,
        /// The user inside the jail that must own the file.
        owner: u32,
        /// The stamp of the last reply, if there was one.
        seen: Option<String>,
    },
    /// Ask for the version of this protocol. The reply is [`InitReply::Version`]. An init of version 1 does not know this
    /// request and closes the connection. A request that a later version adds is sent only to an init that has named that
    /// version.
    Version,
    /// Supervise a program as this order says. An order with the digest of the present one changes nothing. Any other order
    /// of the same name replaces it: the program is stopped and started anew. Descriptors: the listening sockets, in the
    /// order of their names, then the files to which the child writes `0` to join the control groups of the service. The
    /// reply is [`InitReply::Ordered`]. Since version 3, as all below.
    Service(Box<ServiceOrder>),
    /// Stop and forget every supervised program but these. The reply is [`InitReply::Ordered`].
    KeepServices {
        /// The programs that stay.
        names: Vec<UnitName>,
    },
    /// Start or stop a supervised program. The reply is [`InitReply::Ordered`], or [`InitReply::NoSuchService`].
    ServiceVerb {
        /// The program.
        name: UnitName,
        /// What to do.
        verb: ServiceVerb,
    },
    /// Report the supervised programs. The reply is [`InitReply::Services`].
    Services,
}

/// The version of this protocol. Version 1 has everything up to [`InitRequest::Crontab`]; version 2 added
/// [`InitRequest::Version`]; version 3 services.
pub const VERSION: u32 = 3;

/// A program to supervise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceOrder {
    /// Its name.
    pub name: UnitName,
    /// Identifies this order and its descriptors; at most 64 bytes.
    pub digest: String,
    /// The user inside the jail that it runs as.
    pub user: JailUser,
    /// The command; the first argument is an absolute path inside.
    pub argv: Vec<Bytes>,
    /// Its whole environment. Init adds `LISTEN_PID` when there are listening sockets, and `NOTIFY_SOCKET` when readiness is
    /// notified.
    pub env: Vec<(Bytes, Bytes)>,
    /// The working directory; the user's home when `None`.
    pub directory: Option<Bytes>,
    /// The programs that must be ready before it starts.
    pub after: Vec<UnitName>,
    /// When it is started again.
    pub restart: Restart,
    /// The signal that asks it to end.
    pub stop_signal: StopSignal,
    /// How many milliseconds it may take to end, before it is killed.
    pub stop_within: u64,
    /// How it says that it is ready.
    pub ready: Readiness,
    /// The address inside to connect to, for [`Readiness::Connect`].
    pub connect: Option<SocketAddr>,
    /// The path of its log inside, which init writes as the login user.
    pub log: String,
    /// The size of one file of the log, in bytes.
    pub log_size: u64,
    /// How many full files of the log are kept.
    pub log_keep: u32,
    /// How many of the descriptors are listening sockets. The program gets them from number 3 on.
    pub sockets: usize,
}

/// The most descriptors beside an order: the listening sockets, and a file for each hierarchy of control groups.
pub const MAX_ORDER_FDS: usize = MAX_SOCKETS + 6;
const _: () = assert!(MAX_ORDER_FDS <= bailiwick_sys::socket::MAX_FDS, "an order would not arrive");
/// The largest report of all supervised programs, in bytes.
pub const MAX_SERVICES_REPLY: usize = MAX_SERVICES * (1 + MAX_SOCKETS) * 512;

/// The session to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spawn {
    /// The user inside the jail.
    pub user: JailUser,
    /// The command. A first argument without a slash is looked up in the `PATH` of `env`.
    pub argv: Vec<Bytes>,
    /// The first argument that the program sees instead of `argv[0]`, such as `-bash` for a login shell.
    pub arg0: Option<Bytes>,
    /// The whole environment of the command.
    pub env: Vec<(Bytes, Bytes)>,
    /// The working directory. `None` means the user's home, or `/` when the home cannot be entered.
    pub cwd: Option<Bytes>,
    /// Makes a terminal of this size on the jail's own `devpts`. Without it the session has three pipes.
    pub terminal: Option<WindowSize>,
}

/// A user inside the jail, by number, so that no file of the tenant decides who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailUser {
    /// The user id inside.
    pub uid: u32,
    /// The group id inside.
    pub gid: u32,
    /// The home directory inside.
    pub home: String,
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// A message of init on a connection. The first is [`InitReply::Ready`] or [`InitReply::Refused`], and comes before any
/// request. So no descriptor is sent to an init that does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum InitReply {
    /// Init accepts requests. News of a session come on the channel of the session.
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
    /// To `Service`, `KeepServices` and `ServiceVerb`: it will be done.
    Ordered,
    /// To `ServiceVerb`: init supervises no such program.
    NoSuchService,
    /// To `Services`. At most [`MAX_SERVICES_REPLY`] bytes.
    Services(#[serde(deserialize_with = "bailiwick_types::known_items")] Vec<ServiceReport>),
    /// To `Version`.
    Version {
        /// The version. The tenant may have forged it, so it only decides which requests are sent.
        version: u32,
    },
}

/// What init has found at the path of a crontab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum CrontabFile {
    /// There is no file.
    Absent,
    /// The file has not changed since the stamp in the request.
    Same,
    /// There is something else than a regular file of the owner, or it is too large.
    Unusable,
    /// A crontab.
    Text {
        /// Identifies this state of the file; at most [`MAX_STAMP`] bytes.
        stamp: String,
        /// The content of the file.
        text: String,
    },
}

/// The longest stamp of a crontab, in bytes.
pub const MAX_STAMP: usize = 128;

/// A message from the client to init on the channel of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum SessionSignal {
    /// Send the signal of this number to the session's process group.
    Signal(i32),
    /// The client's terminal has a new size.
    Resize(WindowSize),
}

/// A message from init to the client on the channel of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum SessionEvent {
    /// The command runs. In a session with a terminal, a descriptor of its master side comes beside this message.
    Started,
    /// The command could not be executed.
    ExecFailed {
        /// The error number of `execve(2)`.
        errno: i32,
    },
    /// The session could not be set up.
    SetupFailed {
        /// The error number of the step that failed.
        errno: i32,
    },
    /// The requested working directory cannot be entered.
    DirectoryFailed {
        /// The error number of `chdir(2)`.
        errno: i32,
    },
    /// The command has ended with this exit status.
    Exited(u8),
    /// The signal of this number has ended the command.
    Killed(u8),
}
