//! One session: a process group of its own with the client's pipes or a terminal of the jail's own `devpts`, and a
//! channel on which the client hears of its end.

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

/// How much rather the kernel's killer takes a session than init, which has 500 from the warden.
const SESSION_OOM_SCORE: &[u8] = b"700";

/// A running session.
pub(crate) struct Session {
    pid: u32,
    /// `None` once the client has gone.
    channel: Option<OwnedFd>,
    /// The terminal, so that a resize reaches it.
    master: Option<OwnedFd>,
}

/// Where in the child something failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Setup = 1,
    Exec = 2,
    Directory = 3,
}

impl Session {
    /// Starts a session and tells its client so. `None` when the command could not be run and the client was told why.
    pub(crate) fn start(spawn: &Spawn, fds: Vec<OwnedFd>) -> Option<Self> {
        let mut fds = fds.into_iter();
        let channel = fds.next()?;
        match Self::run(spawn, &channel, fds.collect()) {
            Ok(Some((pid, master))) => Some(Self { pid, channel: Some(channel), master }),
            Ok(None) => None,
            Err(error) => {
                tell(&channel, SessionEvent::SetupFailed { errno: number(&error) }, &[]);
                None
            }
        }
    }

    /// The process of the session and the terminal that it got.
    fn run(spawn: &Spawn, channel: &OwnedFd, pipes: Vec<OwnedFd>) -> io::Result<Option<(u32, Option<OwnedFd>)>> {
        let wanted = if spawn.terminal.is_some() { 0 } else { 3 };
        if pipes.len() != wanted || spawn.argv.is_empty() {
            return Err(rustix::io::Errno::INVAL.into());
        }
        let terminal = spawn.terminal.map(|size| Terminal::open(size, spawn.user.uid)).transpose()?;
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        match process::fork()? {
            None => {
                drop(read);
                let (stage, error) = become_command(spawn, &pipes, terminal.as_ref());
                let report = [stage as u8].into_iter().chain(number(&error).to_le_bytes()).collect::<Vec<u8>>();
                // The parent reads the end of the pipe if this fails, and takes the exit status below.
                rustix::io::write(&write, &report).ok();
                process::exit_now(127)
            }
            Some(pid) => {
                drop(write);
                let mut report = [0; 5];
                // The pipe ends with exec(2): no byte means that the command runs.
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
                    tell(channel, event, &[]);
                    // Its exit is taken with all the others, and nobody asks for it.
                    return Ok(None);
                }
                let master = terminal.map(|terminal| terminal.master);
                let beside: Vec<BorrowedFd<'_>> = master.iter().map(AsFd::as_fd).collect();
                tell(channel, SessionEvent::Started, &beside);
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

    /// Takes one message of the client, or its going.
    pub(crate) fn hear(&mut self) {
        let Some(channel) = &self.channel else { return };
        match transport::receive_datagram(channel, 0).ok().map(|(message, _)| message) {
            Some(SessionSignal::Signal(number)) => drop(signal::send_to_group(self.pid, number)),
            Some(SessionSignal::Resize(size)) => {
                if let Some(master) = &self.master {
                    drop(resize(master, size));
                }
            }
            None => {
                // The client has gone, or speaks nonsense: the session has lost its line.
                self.channel = None;
                self.master = None;
                for number in [SIGHUP, SIGCONT] {
                    drop(signal::send_to_group(self.pid, number));
                }
            }
        }
    }

    /// Tells the client how its command ended.
    pub(crate) fn ended(self, status: WaitStatus) {
        let event = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => SessionEvent::Exited(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
            (None, Some(signal)) => SessionEvent::Killed(u8::try_from(signal).unwrap_or(u8::MAX)),
            (None, None) => return,
        };
        if let Some(channel) = &self.channel {
            tell(channel, event, &[]);
        }
    }
}

/// Sends one event. A client that has gone, or that does not read, loses it.
fn tell(channel: &OwnedFd, event: SessionEvent, fds: &[BorrowedFd<'_>]) {
    // A full queue must not stop init, which serves every other session too.
    rustix::io::ioctl_fionbio(channel, true).ok();
    drop(transport::send_datagram(channel, &event, fds));
}

fn number(error: &io::Error) -> i32 {
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
        // Group 5 is `tty` wherever that group has a number of its own (devpts is mounted with it).
        rustix::fs::fchown(&peer, Some(rustix::fs::Uid::from_raw(owner)), None)?;
        Ok(Self { master, peer })
    }
}

fn resize(master: &OwnedFd, size: WindowSize) -> io::Result<()> {
    let size = rustix::termios::Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(master, size)?)
}

/// In the child: becomes the command. Comes back only with what failed.
fn become_command(spawn: &Spawn, pipes: &[OwnedFd], terminal: Option<&Terminal>) -> (Stage, io::Error) {
    if let Err(error) = prepare(spawn, pipes, terminal) {
        return (Stage::Setup, error);
    }
    if let Some(wanted) = &spawn.cwd
        && let Err(error) = rustix::process::chdir(wanted.as_bytes())
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
    // Everything from 3 on is marked already; this catches what a later change forgets.
    process::close_on_exec_from(3)?;
    // What `/proc` has of a program that cannot be read, and so of this child until it executes another, is nobody's in here.
    credential::set_dumpable()?;
    // Out of memory, the kernel takes a session before init. A kernel that refuses is no reason to refuse a session.
    if let Ok(score) = rustix::fs::open("/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        rustix::io::write(&score, SESSION_OOM_SCORE).ok();
    }
    let groups = groups(spawn.user.uid);
    credential::become_for_good_in(spawn.user.uid, spawn.user.gid, &groups)?;
    // A home that is not there keeps nobody out.
    if rustix::process::chdir(spawn.user.home.as_bytes()).is_err() {
        rustix::process::chdir("/")?;
    }
    Ok(())
}

/// The groups that the jail's own files list a user in. What cannot be read gives none; a file that makes this process wait
/// holds up this session alone.
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

/// Looks the command up as execvp(3) does, in the session's own `PATH`.
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
    let mut found: Option<io::Error> = None;
    for directory in path.split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let error = try_path(&[directory, b"/", program].concat());
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {}
            // Remembered: a program that is there but may not be run is not "not found".
            io::ErrorKind::PermissionDenied => found = Some(error),
            _ => return error,
        }
    }
    found.unwrap_or_else(|| rustix::io::Errno::NOENT.into())
}
