//! One session: a process group with the client's pipes, or with a terminal of the jail's own `devpts`, and the channel to its
//! client.
//!
//! Danger: the client and the command decide when the channel and the streams are read. Nothing here may wait for them.

use crate::command::{self, errno};
use bailiwick_proto::init::{Spawn, WindowSize};
use bailiwick_proto::{SessionEvent, SessionSignal, transport};
use bailiwick_sys::process;
use bailiwick_sys::signal::{self, SIGCONT, SIGHUP};
use rustix::process::WaitStatus;
use rustix::pty::OpenptFlags;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A running session.
pub(crate) struct Session {
    pid: u32,
    /// The channel to the client; `None` once the client has gone.
    channel: Option<OwnedFd>,
    /// The master side of the terminal, to resize it.
    master: Option<OwnedFd>,
}

/// The step of the child that failed. The number crosses a pipe to the parent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Setup = 1,
    Exec = 2,
    Directory = 3,
}

impl Session {
    /// Starts a session and tells its client. Returns `None` when the command could not be started; then the client knows why.
    pub(crate) fn start(spawn: &Spawn, fds: Vec<OwnedFd>) -> Option<Self> {
        let mut fds = fds.into_iter();
        let channel = fds.next()?;
        match Self::run(spawn, &channel, fds.collect()) {
            Ok(Some((pid, master))) => Some(Self { pid, channel: Some(channel), master }),
            Ok(None) => None,
            Err(error) => {
                send_event(&channel, SessionEvent::SetupFailed { errno: errno(&error) }, &[]);
                None
            }
        }
    }

    /// Starts the command. Returns its process and the master side of its terminal, or `None` when the client was told of a
    /// failure.
    fn run(spawn: &Spawn, channel: &OwnedFd, pipes: Vec<OwnedFd>) -> io::Result<Option<(u32, Option<OwnedFd>)>> {
        let expected_pipes = if spawn.terminal.is_some() { 0 } else { 3 };
        if pipes.len() != expected_pipes || spawn.argv.is_empty() {
            return Err(rustix::io::Errno::INVAL.into());
        }
        let terminal = spawn.terminal.map(|size| Terminal::open(size, spawn.user.uid)).transpose()?;
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        match process::fork()? {
            None => {
                drop(read);
                let (stage, error) = become_command(spawn, &pipes, terminal.as_ref());
                let report = [stage as u8].into_iter().chain(errno(&error).to_le_bytes()).collect::<Vec<u8>>();
                // If this fails, the parent sees the end of the pipe, and later the exit status below.
                rustix::io::write(&write, &report).ok();
                process::exit_now(127)
            }
            Some(pid) => {
                drop(write);
                let mut report = [0; 5];
                // exec(2) closes the pipe. So an end without a byte means that the command runs.
                if let Ok(5) = rustix::io::retry_on_intr(|| rustix::io::read(&read, &mut report)) {
                    let [stage, rest @ ..] = report;
                    let errno = i32::from_le_bytes(rest);
                    let event = if stage == Stage::Exec as u8 {
                        SessionEvent::ExecFailed { errno }
                    } else if stage == Stage::Directory as u8 {
                        SessionEvent::DirectoryFailed { errno }
                    } else {
                        SessionEvent::SetupFailed { errno }
                    };
                    send_event(channel, event, &[]);
                    // The main loop reaps the child, and no session belongs to it.
                    return Ok(None);
                }
                let master = terminal.map(|terminal| terminal.master);
                let beside: Vec<BorrowedFd<'_>> = master.iter().map(AsFd::as_fd).collect();
                send_event(channel, SessionEvent::Started, &beside);
                Ok(Some((pid, master)))
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn channel(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// Receives one message of the client, or the end of its channel.
    pub(crate) fn recv(&mut self) {
        let Some(channel) = &self.channel else { return };
        match transport::receive_datagram(channel, 0).ok().map(|(message, _)| message) {
            Some(SessionSignal::Signal(number)) => drop(signal::send_to_group(self.pid, number)),
            Some(SessionSignal::Resize(size)) => {
                if let Some(master) = &self.master {
                    drop(resize(master, size));
                }
            }
            None => {
                // The client has gone, or its message is invalid: the session loses its line.
                self.channel = None;
                self.master = None;
                for number in [SIGHUP, SIGCONT] {
                    drop(signal::send_to_group(self.pid, number));
                }
            }
        }
    }

    /// Tells the client how its command has ended.
    pub(crate) fn ended(self, status: WaitStatus) {
        let event = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => SessionEvent::Exited(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
            (None, Some(signal)) => SessionEvent::Killed(u8::try_from(signal).unwrap_or(u8::MAX)),
            (None, None) => return,
        };
        if let Some(channel) = &self.channel {
            send_event(channel, event, &[]);
        }
    }
}

/// Sends one event. A client that has gone, or does not read, loses it.
fn send_event(channel: &OwnedFd, event: SessionEvent, fds: &[BorrowedFd<'_>]) {
    // A full queue must not block init, which serves the other sessions too.
    rustix::io::ioctl_fionbio(channel, true).ok();
    drop(transport::send_datagram(channel, &event, fds));
}

/// A terminal of the jail's own `devpts`.
struct Terminal {
    master: OwnedFd,
    peer: OwnedFd,
}

impl Terminal {
    fn open(size: WindowSize, owner: u32) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags)?;
        rustix::pty::unlockpt(&master)?;
        let peer = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        resize(&master, size)?;
        // The group stays 5, which `devpts` is mounted with: it is `tty` in every distribution that numbers this group.
        rustix::fs::fchown(&peer, Some(rustix::fs::Uid::from_raw(owner)), None)?;
        Ok(Self { master, peer })
    }
}

fn resize(master: &OwnedFd, size: WindowSize) -> io::Result<()> {
    let size = rustix::termios::Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(master, size)?)
}

/// Turns the child into the command. Returns only the step that failed and its error.
fn become_command(spawn: &Spawn, pipes: &[OwnedFd], terminal: Option<&Terminal>) -> (Stage, io::Error) {
    if let Err(error) = prepare(spawn, pipes, terminal) {
        return (Stage::Setup, error);
    }
    if let Some(cwd) = &spawn.cwd
        && let Err(error) = rustix::process::chdir(cwd.as_bytes())
    {
        return (Stage::Directory, error.into());
    }
    (Stage::Exec, command::execute(&spawn.argv, spawn.arg0.as_ref(), &spawn.env))
}

fn prepare(spawn: &Spawn, pipes: &[OwnedFd], terminal: Option<&Terminal>) -> io::Result<()> {
    command::begin()?;
    match terminal {
        Some(terminal) => {
            rustix::process::ioctl_tiocsctty(&terminal.peer)?;
            for stream in 0..3 {
                process::place(&terminal.peer, stream)?;
            }
        }
        None => {
            for (stream, pipe) in (0..).zip(pipes) {
                process::place(pipe, stream)?;
            }
        }
    }
    // Every descriptor from 3 on is marked already. This catches one that a later change forgets to mark.
    process::close_on_exec_from(3)?;
    command::set_oom_score()?;
    command::become_user(&spawn.user)
}
