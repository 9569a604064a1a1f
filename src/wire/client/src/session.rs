//! A session: hands pipes or a terminal's size to `bailiwickd`, then attends the session until it ends.
//!
//! Once the session has started, only its channel counts: `bailiwickd` may die and the session goes on.
//!
//! Danger: the other end of the channel is init, which belongs to the tenant. It may say anything at any time. It
//! decides the exit status and what is written to the operator's streams, and nothing else; what it hands over as a
//! terminal is looked at before a byte goes to it.

mod attend;
mod error;
mod streams;
#[cfg(test)]
mod tests;

use crate::daemon::{AskError, Asked, Daemon};
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
use streams::{Local, Streams, Whose, cross};

/// What a terminal is said to be when nobody knows.
const USUAL: WindowSize = WindowSize { rows: 24, columns: 80 };

/// Whether the command gets a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Three pipes.
    Pipes,
    /// One of the jail's own, as large as ours.
    Terminal,
}

/// What somebody wants to run in a jail.
#[derive(Debug)]
pub struct SessionSpec {
    /// Who it is and what it runs.
    pub caller: Caller,
    /// Added to the clean environment that a session starts with.
    pub env: Vec<(Bytes, Bytes)>,
    /// What it reads and writes.
    pub streams: StreamKind,
}

/// Who comes in.
#[derive(Debug)]
pub enum Caller {
    /// Somebody who may enter any jail.
    Operator {
        /// Whose.
        tenant: TenantName,
        /// Who runs it inside; root when `None`.
        user: Option<String>,
        /// Where it starts, inside.
        cwd: Option<OsString>,
        /// The command; empty for a login shell.
        argv: Vec<OsString>,
    },
    /// A tenant's own host user, whom sshd has let in.
    Login {
        /// `ssh` or `sftp`.
        door: Door,
        /// What the login shell is to run.
        command: Option<OsString>,
        /// The client's address.
        source: Option<String>,
        /// The public key that it proved to have.
        key: Option<String>,
    },
}

impl Caller {
    /// The command, for messages.
    fn command(&self) -> String {
        let first = match self {
            Self::Operator { argv, .. } => argv.first(),
            Self::Login { command, .. } => command.as_ref(),
        };
        first.map_or_else(|| "the login shell".to_owned(), |name| name.to_string_lossy().into_owned())
    }
}

/// Whether standard input is a terminal.
#[must_use]
pub fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Whatever goes wrong before the command runs is bailiwick's failure, not the command's.
#[must_use]
pub fn exec_failure(failure: Failure) -> Failure {
    Failure { status: ExitStatus::ExecFailed, ..failure }
}

/// Runs it and attends to it until it ends: the exit status of the command, 128 and the number for one that a signal
/// ended.
///
/// # Errors
/// What kept the command from running, or its end from being known: 127 when there is none of that name, 126 when it
/// cannot be executed, 125 for all else.
pub fn run(daemon: &Daemon, spec: SessionSpec) -> Result<u8, Failure> {
    let kind = spec.streams;
    // An operator's script must tell bailiwick's failures from the command's; a tenant's client shows what it is told.
    let exec_failure = match &spec.caller {
        Caller::Operator { .. } => exec_failure,
        Caller::Login { .. } => |failure| failure,
    };
    let command = spec.caller.command();
    let local = Local::own().map_err(SessionError::local("use the standard streams"))?;
    let whose = match &spec.caller {
        Caller::Operator { .. } => Whose::Operators,
        Caller::Login { .. } => Whose::Tenants,
    };
    let (streams, remote) = match kind {
        StreamKind::Pipes => cross(&local, whose).map_err(SessionError::local("make pipes"))?,
        StreamKind::Terminal => (Streams::default(), Vec::new()),
    };
    let request =
        request(spec, (kind == StreamKind::Terminal).then(|| local.window().unwrap_or(USUAL))).map_err(exec_failure)?;
    let beside: Vec<_> = remote.iter().map(AsFd::as_fd).collect();
    // From here on a signal is the command's, unless the command does not start.
    let mut numbers = vec![SIGHUP, SIGINT, SIGQUIT, SIGTERM];
    if kind == StreamKind::Terminal {
        numbers.push(SIGWINCH);
    }
    let signals = Signals::block(&numbers).map_err(SessionError::local("wait for signals"))?;
    let mut asked = daemon.send(&request, &beside).map_err(|error| exec_failure(error.into()))?;
    // The jail's ends must be the jail's alone, or the end of a stream is never seen.
    drop(remote);
    if let Some(number) = interrupted(&signals, &mut asked).map_err(SessionError::local("wait for bailiwickd"))? {
        return Ok(ended_by(number));
    }
    let mut answer = asked.answer(1).map_err(|error| exec_failure(error.into()))?;
    let (ControlReply::Session { record, notice }, Some(channel)) = (answer.reply, answer.fds.pop()) else {
        return Err(exec_failure(AskError::Unexpected.into()));
    };
    if let Some(notice) = notice {
        // Never to standard output, which is the protocol's. When nobody reads it, there is nobody to tell.
        io::stderr().write_all(format!("bailiwick: {notice}\n").as_bytes()).ok();
    }
    let mut session = Session::new(channel, &local, kind, whose, streams, command);
    session.link = Some(Link::new(daemon, *record, answer.connection.into()));
    let result = session.attend(&signals);
    // Whose client has gone was hung up, and that is what its end is to be called.
    let link = session.link.take().filter(|_| !matches!(result, Err(SessionError::Abandoned)));
    let result = result.map_err(|error| match error {
        SessionError::Ended(_) => exec_failure(error.into()),
        error => error.into(),
    });
    if let Some(link) = link {
        link.end(result.as_ref().map_or_else(|failure| failure.status.code(), |status| *status));
    }
    if result.is_err() {
        // What is said of it may go to whoever has stopped reading.
        signal::unblock_all().ok();
    }
    result
}

/// Waits for an answer. A signal that comes before it, and that it does not follow soon, is the end; the session may have
/// begun, so a signal that it does follow stays to be relayed.
fn interrupted(signals: &Signals, asked: &mut Asked) -> io::Result<Option<i32>> {
    loop {
        let watched = [(asked.connection.as_fd(), Interest::Read), (signals.as_fd(), Interest::Read)];
        let ready = stream::wait(&watched, asked.patience())?;
        if !ready.contains(&true) {
            asked.wonder();
            continue;
        }
        if ready[0] || stream::wait(&watched[..1], Some(EARLY_TIME))?[0] {
            return Ok(None);
        }
        // That the window has another size ends nothing.
        if let Some(number) = signals.take()?.filter(|number| *number != SIGWINCH) {
            return Ok(Some(number));
        }
    }
}

/// The exit status of a program that a signal ended, as shells have it.
fn ended_by(number: i32) -> u8 {
    128 + u8::try_from(number).unwrap_or(0)
}

fn request(spec: SessionSpec, window: Option<WindowSize>) -> Result<ControlRequest, Failure> {
    let bytes = |text: OsString| Bytes::from_os(text).map_err(|error| Failure::new(ExitStatus::Invalid, &error));
    let mut env = spec.env;
    // Programs draw by what the terminal is called, and the terminal is the operator's.
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
