//! One session: a process group with the client's pipes, or with a terminal of the jail's own `devpts`, and the channel to its
//! client.
//!
//! Danger: the client and the command decide when the channel and the streams are read. Nothing here may wait for them.

use bailiwick_proto::init::{Spawn, WindowSize};
use bailiwick_proto::{SessionEvent, SessionSignal, transport};
use bailiwick_sys::signal::{self, SIGCONT, SIGHUP};
use bailiwick_sys::{credential, file, process};
use bailiwick_types::{MAX_GROUP_FILE, groups_of};
use rustix::fs::{Mode, OFlags};
use rustix::process::WaitStatus;
use rustix::pty::OpenptFlags;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The `oom_score_adj` of a session (`proc_pid_oom_score_adj(5)`). Init has 500 from the warden, so the kernel kills a session
/// first.
const SESSION_OOM_SCORE: &[u8] = b"700";

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

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error())
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
    (Stage::Exec, execute(spawn))
}

fn prepare(spawn: &Spawn, pipes: &[OwnedFd], terminal: Option<&Terminal>) -> io::Result<()> {
    signal::reset_all()?;
    rustix::process::setsid()?;
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
    // Until it executes another program, this child is undumpable like init, and nobody inside owns its files in `/proc`. The
    // next step writes one of them.
    credential::set_dumpable()?;
    // When memory runs out, the kernel kills a session before init. If this cannot be set, the session starts all the same.
    if let Ok(score) = rustix::fs::open("/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        rustix::io::write(&score, SESSION_OOM_SCORE).ok();
    }
    let groups = groups(spawn.user.uid);
    credential::become_for_good_in(spawn.user.uid, spawn.user.gid, &groups)?;
    // A missing home does not keep its user out.
    if rustix::process::chdir(spawn.user.home.as_bytes()).is_err() {
        rustix::process::chdir("/")?;
    }
    Ok(())
}

/// The supplementary groups of a user in the jail's own `/etc/passwd` and `/etc/group`. Files that cannot be read give no
/// groups. A file that blocks the reader blocks only this session.
fn groups(uid: u32) -> Vec<u32> {
    let read = |path: &str| -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        if file::metadata(&fd)?.kind != rustix::fs::FileType::RegularFile {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        file::read_bounded(fd, MAX_GROUP_FILE)
    };
    match (read("/etc/passwd"), read("/etc/group")) {
        (Ok(passwd), Ok(group)) => groups_of(uid, &passwd, &group),
        _ => Vec::new(),
    }
}

/// Executes the command, and looks it up in the session's own `PATH` as execvp(3) does. Returns only an error.
fn execute(spawn: &Spawn) -> io::Error {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::other);
    let build = || -> io::Result<(Vec<CString>, Vec<CString>)> {
        let mut argv = spawn.argv.iter().map(|argument| text(argument.as_bytes())).collect::<io::Result<Vec<_>>>()?;
        if let (Some(name), Some(first)) = (&spawn.arg0, argv.first_mut()) {
            *first = text(name.as_bytes())?;
        }
        let env = spawn
            .env
            .iter()
            .map(|(key, value)| text(&[key.as_bytes(), b"=", value.as_bytes()].concat()))
            .collect::<io::Result<Vec<_>>>()?;
        Ok((argv, env))
    };
    let (argv, env) = match build() {
        Ok(built) => built,
        Err(error) => return error,
    };
    let program = spawn.argv[0].as_bytes();
    let try_path = |path: &[u8]| match text(path) {
        Ok(path) => process::execute_path(&path, &argv, &env),
        Err(error) => error,
    };
    if program.contains(&b'/') {
        return try_path(program);
    }
    let path = spawn.env.iter().rev().find(|(key, _)| key.as_bytes() == b"PATH");
    let path = path.map_or(&b"/usr/bin:/bin"[..], |(_, value)| value.as_bytes());
    let mut denied: Option<io::Error> = None;
    for directory in path.split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let error = try_path(&[directory, b"/", program].concat());
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {}
            // A program that exists but may not be executed must not be reported as "not found".
            io::ErrorKind::PermissionDenied => denied = Some(error),
            _ => return error,
        }
    }
    denied.unwrap_or_else(|| rustix::io::Errno::NOENT.into())
}
