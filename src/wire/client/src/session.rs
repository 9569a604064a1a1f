//! Starts a session over `bailiwickd` and attends to it until it ends.
//!
//! Once the session has started, only its channel to init counts: `bailiwickd` may die, and the session goes on.
//!
//! Danger: the other end of the channel is init, which belongs to the tenant. It may say anything at any time. It decides the
//! exit status and what is written to the operator's streams, and nothing else. A descriptor that it sends as a terminal is
//! checked before a byte goes to it.

mod attend;
mod error;
mod streams;
#[cfg(test)]
mod tests;

use crate::daemon::{AskError, Daemon, PendingRequest};
use crate::link::Link;
use attend::{EARLY_TIME, Session};
use bailiwick_proto::control::{Exec, Login};
use bailiwick_proto::init::WindowSize;
use bailiwick_proto::{Bytes, ControlReply, ControlRequest, Failure};
use bailiwick_sys::signal::{self, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH, Signals};
use bailiwick_sys::stream::{self, Interest};
use bailiwick_types::{Door, ExitStatus, TenantName};
use error::SessionError;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use streams::{LocalStreams, Pumps, StreamOwner, connect_streams};

/// The size of a terminal whose real size is unknown.
const DEFAULT_WINDOW: WindowSize = WindowSize { rows: 24, columns: 80 };

/// What the command reads from and writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Three pipes.
    Pipes,
    /// A terminal of the jail's own `devpts`, as large as this process's terminal.
    Terminal,
}

/// A session to run in a jail.
#[derive(Debug)]
pub struct SessionSpec {
    /// Who runs it, and what.
    pub caller: Caller,
    /// Variables that are added to the clean environment of a session.
    pub env: Vec<(Bytes, Bytes)>,
    /// What the command reads from and writes to.
    pub streams: StreamKind,
}

/// Who runs a session, and what it runs.
#[derive(Debug)]
pub enum Caller {
    /// Somebody who may enter any jail.
    Operator {
        /// Whose jail.
        tenant: TenantName,
        /// The user inside: a name that the policy knows, or a number. `None` means root.
        user: Option<String>,
        /// The working directory inside; the user's home when `None`.
        cwd: Option<OsString>,
        /// The command; empty for a login shell.
        argv: Vec<OsString>,
    },
    /// A tenant's own host user, whom sshd has authenticated.
    Login {
        /// `ssh` or `sftp`.
        door: Door,
        /// The command for the login shell inside; an interactive login when `None`.
        command: Option<OsString>,
        /// The client's address, as sshd says.
        source: Option<String>,
        /// The public key that the client proved to have, as sshd says.
        key: Option<String>,
    },
}

impl Caller {
    /// The name of the command, for messages.
    fn command(&self) -> String {
        let first = match self {
            Self::Operator { argv, .. } => argv.first(),
            Self::Login { command, .. } => command.as_ref(),
        };
        first.map_or_else(|| "the login shell".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    fn directory(&self) -> String {
        match self {
            Self::Operator { cwd: Some(cwd), .. } => cwd.to_string_lossy().into_owned(),
            Self::Operator { cwd: None, .. } | Self::Login { .. } => String::new(),
        }
    }

    fn stream_owner(&self) -> StreamOwner {
        match self {
            Self::Operator { .. } => StreamOwner::Operator,
            Self::Login { .. } => StreamOwner::Tenant,
        }
    }
}

/// Whether standard input is a terminal.
#[must_use]
pub fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// The failure with status 125 in place of its own: before the command runs, every failure is bailiwick's and not the command's.
#[must_use]
pub fn exec_failure(failure: Failure) -> Failure {
    Failure { status: ExitStatus::ExecFailed, ..failure }
}

/// Starts a session and attends to it until it ends. Returns the exit status of its command: its own, or 128 and the number
/// of the signal that ended it.
///
/// While this runs, `SIGHUP`, `SIGINT`, `SIGQUIT` and `SIGTERM` are blocked and go to the command. The process must have
/// one thread when it calls this.
///
/// # Errors
/// Why the command did not run, or why its end is not known. The failure's status is 127 when there is no such command, 126
/// when it cannot be executed, and 125 otherwise. A [`Caller::Login`] gets the status that `bailiwickd` gave for a refusal.
///
/// # Examples
/// ```no_run
/// use bailiwick_client::{Caller, Daemon, SessionSpec, StreamKind, run};
/// use std::path::Path;
///
/// let caller = Caller::Operator {
///     tenant: "alice".parse().expect("a tenant's name"),
///     user: None,
///     cwd: None,
///     argv: vec!["uptime".into()],
/// };
/// let spec = SessionSpec { caller, env: Vec::new(), streams: StreamKind::Pipes };
/// let status = run(&Daemon::of(Path::new("/run/bailiwick")), spec)?;
/// println!("uptime ended with {status}");
/// # Ok::<(), bailiwick_proto::Failure>(())
/// ```
pub fn run(daemon: &Daemon, spec: SessionSpec) -> Result<u8, Failure> {
    let kind = spec.streams;
    let owner = spec.caller.stream_owner();
    // An operator's script must tell bailiwick's failures from the command's. A tenant's client shows what it is told.
    let before_command = match owner {
        StreamOwner::Operator => exec_failure,
        StreamOwner::Tenant => |failure| failure,
    };
    let (command, directory) = (spec.caller.command(), spec.caller.directory());
    let local = LocalStreams::duplicate().map_err(SessionError::local("use the standard streams"))?;
    let (pumps, remote) = match kind {
        StreamKind::Pipes => connect_streams(&local, owner).map_err(SessionError::local("make pipes"))?,
        StreamKind::Terminal => (Pumps::default(), Vec::new()),
    };
    let window = (kind == StreamKind::Terminal).then(|| local.window().unwrap_or(DEFAULT_WINDOW));
    let request = request(spec, window).map_err(before_command)?;
    // From here on a signal is for the command, unless the command does not start.
    let mut numbers = vec![SIGHUP, SIGINT, SIGQUIT, SIGTERM];
    if kind == StreamKind::Terminal {
        numbers.push(SIGWINCH);
    }
    let signals = Signals::block(&numbers).map_err(SessionError::local("wait for signals"))?;
    let fds: Vec<_> = remote.iter().map(AsFd::as_fd).collect();
    let mut pending = daemon.send(&request, &fds).map_err(|error| before_command(error.into()))?;
    // The jail must be the only holder of its ends, or the end of a stream never comes.
    drop(remote);
    let interrupted = interrupted(&signals, &mut pending).map_err(SessionError::local("wait for bailiwickd"))?;
    if let Some(number) = interrupted {
        return Ok(signal_status(number));
    }
    let mut answer = pending.answer(1).map_err(|error| before_command(error.into()))?;
    let (ControlReply::Session { record, notice }, Some(channel)) = (answer.reply, answer.fds.pop()) else {
        return Err(before_command(AskError::Unexpected.into()));
    };
    if let Some(notice) = notice {
        // Standard output belongs to the protocol that runs over the session. A notice that cannot be written is lost.
        io::stderr().write_all(format!("bailiwick: {notice}\n").as_bytes()).ok();
    }
    let mut session = Session::new(channel, &local, kind, owner, pumps, command);
    session.directory = directory;
    session.link = Some(Link::new(daemon, *record, answer.connection.into()));
    let result = session.attend(&signals);
    // For `bailiwickd`, an abandoned session ends with its connection and without a status.
    let link = session.link.take().filter(|_| !matches!(result, Err(SessionError::Abandoned)));
    let result = result.map_err(|error| match error {
        SessionError::EndedByDaemon(_) => before_command(error.into()),
        error => error.into(),
    });
    if let Some(link) = link {
        link.end(result.as_ref().map_or_else(|failure| failure.status.code(), |status| *status));
    }
    if result.is_err() {
        // The caller prints the failure, perhaps to a reader that has stopped: signals must end this process again.
        signal::unblock_all().ok();
    }
    result
}

/// Waits for the answer of `bailiwickd`. Returns the number of a signal that came before it, when the answer does not follow
/// within [`EARLY_TIME`]. When it does follow, the session may have begun, and the signal stays pending to be relayed.
fn interrupted(signals: &Signals, pending: &mut PendingRequest) -> io::Result<Option<i32>> {
    loop {
        let watched = [(pending.connection.as_fd(), Interest::Read), (signals.as_fd(), Interest::Read)];
        let ready = stream::wait(&watched, pending.time_until_notice())?;
        if !ready.contains(&true) {
            pending.notice_if_slow();
            continue;
        }
        if ready[0] || stream::wait(&watched[..1], Some(EARLY_TIME))?[0] {
            return Ok(None);
        }
        // A new size of the window ends nothing.
        if let Some(number) = signals.take()?.filter(|number| *number != SIGWINCH) {
            return Ok(Some(number));
        }
    }
}

/// The exit status of a program that a signal ended, as shells count it.
fn signal_status(number: i32) -> u8 {
    128 + u8::try_from(number).unwrap_or(0)
}

fn request(spec: SessionSpec, window: Option<WindowSize>) -> Result<ControlRequest, Failure> {
    let bytes = |text: OsString| Bytes::from_os(text).map_err(|error| Failure::new(ExitStatus::Invalid, &error));
    let mut env = spec.env;
    // Programs draw for the terminal that TERM names, and that is the operator's.
    if window.is_some()
        && !env.iter().any(|(key, _)| key.as_bytes() == b"TERM")
        && let Some(term) = std::env::var_os("TERM")
    {
        env.push((bytes("TERM".into())?, bytes(term)?));
    }
    Ok(match spec.caller {
        Caller::Operator { tenant, user, cwd, argv } => ControlRequest::Exec(Exec {
            tenant,
            user,
            argv: argv.into_iter().map(bytes).collect::<Result<_, _>>()?,
            env,
            cwd: cwd.map(bytes).transpose()?,
            terminal: window,
        }),
        Caller::Login { door, command, source, key } => ControlRequest::Login(Login {
            door,
            command: command.map(bytes).transpose()?,
            env,
            terminal: window,
            source,
            key,
        }),
    })
}
