//! PID 1 of a jail: reaps, and starts sessions for `bailiwickd`. Linked statically, so nothing of the tenant's is loaded.
//!
//! Danger: this program is the tenant's. Root inside may find a way to stop it or to speak for it, though tracing it is refused, so
//! nothing outside may rest on it; and it must hold no descriptor but the listening socket, which reaches only us.

mod crontab;
mod host_etc;
mod probe;
mod session;

use bailiwick_proto::frame::{MAX_CRONTAB_REPLY, MAX_REQUEST};
use bailiwick_proto::init::VERSION;
use bailiwick_proto::{Incoming, InitReply, InitRequest, TransportError, time_limits, transport};
use bailiwick_sys::signal::{self, SIGCHLD, SIGCONT, SIGHUP, SIGTERM, Signals};
use bailiwick_sys::socket::SpareDescriptor;
use bailiwick_sys::{credential, process, socket};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::process::WaitOptions;
use session::Session;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Where the warden mounts what the host lends of its `/etc`.
const HOST_ETC_INSIDE: &str = "/run/host/etc";
/// The number at which the warden leaves the listening socket.
const LISTENER: i32 = 3;
/// The most sessions at a time: what a hostile client of one tenant could pile up here.
const MAX_SESSIONS: usize = 512;
/// The most descriptors beside a request: the channel and three pipes.
const MAX_FDS: usize = 4;
/// How long nobody is accepted after not even a refusal could be made.
const PAUSE: Duration = Duration::from_millis(100);
/// How long processes have between SIGTERM and the end of the jail.
const GRACE: Duration = Duration::from_secs(2);

/// Instead of all this, only to be there: outside of any jail, so that the control group of the jails has a process while
/// no jail runs (`bailiwick-jails.service`).
const HOLD: &str = "--hold";

/// Instead of all this, in a session of a jail: to try what must fail.
const PROBE: &str = "--probe";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        // There is nobody to tell: the warden sees that init has gone.
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> io::Result<()> {
    match std::env::args_os().nth(1) {
        Some(argument) if argument == HOLD => return hold(),
        Some(argument) if argument == PROBE => return probe::probe(),
        _ => {}
    }
    // Nobody inside traces it or takes its descriptors: the program cannot be read in here, so who may is for the host to say
    // (`__ptrace_may_access` asks in the user namespace of who could read it). The kernel's default says the same, if no sysctl
    // has changed it.
    credential::set_undumpable()?;
    let listener = process::inherited(LISTENER)?;
    process::close_on_exec_from(3)?;
    // A second listen(2) stamps this process's credentials on the socket, so that who connects sees init, not the
    // warden that bound it (SO_PEERCRED, unix(7)).
    rustix::net::listen(&listener, 128)?;
    let signals = Signals::block(&[SIGCHLD, SIGTERM])?;
    host_etc::link(Path::new(HOST_ETC_INSIDE), Path::new("/etc"));
    // A seed of the first day since then; tenants of an earlier version have none. What is there stays, and what nobody writes too.
    rustix::fs::symlink("/run/lock", "/var/lock").ok();
    let mut reserve = SpareDescriptor::new(&listener);
    let mut sessions: Vec<Session> = Vec::new();
    let mut stopping: Option<Instant> = None;
    loop {
        let timeout = stopping.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let ready = wait(&listener, &signals, &sessions, timeout)?;
        if stopping.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(());
        }
        if ready.signals {
            while let Some(arrived) = signals.take()? {
                if arrived == SIGTERM && stopping.is_none() {
                    stopping = Some(Instant::now() + GRACE);
                    // Whoever is stopped must go on to see the end coming. Nobody there is no error.
                    for number in [SIGTERM, SIGHUP, SIGCONT] {
                        drop(signal::send_to_all_others(number));
                    }
                }
            }
        }
        // Always, not only on SIGCHLD: signals of one number merge.
        let anybody = reap(&mut sessions)?;
        if stopping.is_some() && !anybody {
            return Ok(());
        }
        for index in ready.sessions.into_iter().rev() {
            if let Some(session) = sessions.get_mut(index) {
                session.hear();
            }
        }
        if ready.listener && stopping.is_none() {
            serve(&listener, &mut reserve, &mut sessions);
        }
    }
}

/// Does nothing until it is told to end.
fn hold() -> io::Result<()> {
    let signals = Signals::block(&[SIGTERM])?;
    while signals.take()?.is_none() {
        process::readable(&signals, Duration::from_secs(3600))?;
    }
    Ok(())
}

/// What has something to say.
struct Ready {
    listener: bool,
    signals: bool,
    sessions: Vec<usize>,
}

fn wait(listener: &OwnedFd, signals: &Signals, sessions: &[Session], timeout: Option<Duration>) -> io::Result<Ready> {
    let mut fds = vec![PollFd::new(listener, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
    let mut owners = Vec::new();
    for (index, session) in sessions.iter().enumerate() {
        if let Some(channel) = session.channel() {
            fds.push(PollFd::from_borrowed_fd(channel, PollFlags::IN));
            owners.push(index);
        }
    }
    let timeout = timeout.map(|left| rustix::time::Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    });
    match rustix::event::poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let heard = |fd: &PollFd<'_>| !fd.revents().is_empty();
    Ok(Ready {
        listener: heard(&fds[0]),
        signals: heard(&fds[1]),
        sessions: owners.into_iter().zip(&fds[2..]).filter(|(_, fd)| heard(fd)).map(|(index, _)| index).collect(),
    })
}

/// Takes every exit that waits, tells the sessions; whether any child is left.
fn reap(sessions: &mut Vec<Session>) -> io::Result<bool> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let pid = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or(0);
                if let Some(index) = sessions.iter().position(|session| session.pid() == pid) {
                    sessions.swap_remove(index).ended(status);
                }
            }
            Ok(None) => return Ok(true),
            Err(rustix::io::Errno::CHILD) => return Ok(false),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes one connection and its one request. Whatever goes wrong with it concerns its sender alone.
fn serve(listener: &OwnedFd, reserve: &mut SpareDescriptor, sessions: &mut Vec<Session>) {
    let connection = match rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC) {
        Ok(connection) => connection,
        Err(error) => {
            if socket::is_shortage(&error.into()) && !reserve.turn_away(listener) {
                std::thread::sleep(PAUSE);
            }
            return;
        }
    };
    if sessions.len() >= MAX_SESSIONS {
        say(&connection, InitReply::Refused);
        return;
    }
    say(&connection, InitReply::Ready);
    match receive(&connection) {
        Ok((InitRequest::Probe { canary }, _)) => {
            say(&connection, InitReply::Probed { canary_denied: denied(&canary) });
        }
        Ok((InitRequest::Crontab { path, owner, seen }, _)) => {
            say(&connection, InitReply::Crontab(crontab::look(&path, owner, seen.as_deref())));
        }
        Ok((InitRequest::Version, _)) => say(&connection, InitReply::Version { version: VERSION }),
        Ok((InitRequest::Spawn(spawn), fds)) => sessions.extend(Session::start(&spawn, fds)),
        Err(_) => {}
    }
}

/// The sender may have gone; then there is nobody to tell.
fn say(connection: &OwnedFd, reply: InitReply) {
    // A reader that does not read must not stop init.
    rustix::io::ioctl_fionbio(connection, true).ok();
    drop(transport::send(connection, &reply, MAX_CRONTAB_REPLY, &[]));
}

fn receive(connection: &OwnedFd) -> Result<(InitRequest, Vec<OwnedFd>), TransportError> {
    let deadline = Instant::now() + time_limits::INIT_REQUEST;
    transport::receive(connection, &mut Incoming::new(MAX_REQUEST, MAX_FDS), deadline)
}

/// Whether reading a file that every permission bit allows to read is refused.
fn denied(path: &str) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    matches!(rustix::fs::open(path, flags, Mode::empty()), Err(rustix::io::Errno::ACCESS))
}
