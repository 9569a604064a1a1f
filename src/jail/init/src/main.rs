//! PID 1 of a jail: reaps processes, starts sessions for `bailiwickd`, and supervises the tenant's services. It is linked
//! statically, so it loads no file of the tenant. Under the name `bailiwick-service` it is the tenant's own client of PID 1.
//!
//! Danger: this program belongs to the tenant. Root inside cannot trace it, but may find a way to stop it or to speak for it.
//! So nothing outside may rely on it, and it must hold no descriptor except the listening socket, which reaches only Bailiwick.

mod command;
mod crontab;
mod host_etc;
mod life;
mod log;
mod own_socket;
mod probe;
mod services;
mod session;
mod tool;

use bailiwick_proto::frame::{MAX_CRONTAB_REPLY, MAX_REQUEST};
use bailiwick_proto::init::{MAX_ORDER_FDS, MAX_SERVICES_REPLY, VERSION};
use bailiwick_proto::{Incoming, InitReply, InitRequest, TransportError, time_limits, transport};
use bailiwick_sys::signal::{self, SIGCHLD, SIGCONT, SIGHUP, SIGTERM, Signals};
use bailiwick_sys::socket::SpareDescriptor;
use bailiwick_sys::{credential, process, socket};
use own_socket::OwnSocket;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::process::WaitOptions;
use services::{Services, Source};
use session::Session;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Where the warden mounts the files that the host lends from its `/etc`.
const HOST_ETC_INSIDE: &str = "/run/host/etc";
/// The login user inside: user and group.
const LOGIN: u32 = 1000;
/// The number at which the warden leaves the listening socket.
const LISTENER: i32 = 3;
/// The most sessions at a time. It bounds what a hostile client of the tenant can pile up here.
const MAX_SESSIONS: usize = 512;
/// The largest reply.
const MAX_REPLY: usize = if MAX_SERVICES_REPLY > MAX_CRONTAB_REPLY { MAX_SERVICES_REPLY } else { MAX_CRONTAB_REPLY };
/// The pause after a connection that could not even be refused.
const PAUSE: Duration = Duration::from_millis(100);
/// How long processes may run between `SIGTERM` and the end of the jail. Services have their own time before that, alone: each has a
/// stop signal of its own, and may take `SIGTERM` or `SIGHUP` for another.
const GRACE: Duration = Duration::from_secs(2);

/// The argument for doing nothing. `bailiwick-jails.service` runs this outside of all jails, so that the control group of the
/// jails has a process while no jail runs.
const HOLD: &str = "--hold";

/// The argument for trying what must fail, in a session of a jail.
const PROBE: &str = "--probe";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    if Path::new(&name).file_name().is_some_and(|name| name == tool::NAME) {
        return tool::run(arguments);
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads an error here. The warden sees that init has ended.
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> io::Result<()> {
    match std::env::args_os().nth(1) {
        Some(argument) if argument == HOLD => return hold(),
        Some(argument) if argument == PROBE => {
            let packets: Vec<String> =
                std::env::args_os().skip(2).filter_map(|packet| packet.into_string().ok()).collect();
            return probe::probe(&packets);
        }
        _ => {}
    }
    // Nobody inside can trace this process or take its descriptors: for an undumpable process, `__ptrace_may_access` of the
    // kernel asks for a capability in the user namespace of the host, because nobody inside can read the program. An unreadable
    // program is undumpable by default, unless a sysctl says otherwise (`fs.suid_dumpable`).
    credential::set_undumpable()?;
    let listener = process::inherited(LISTENER)?;
    process::close_on_exec_from(3)?;
    // A second listen(2) puts this process's credentials on the socket. So a client sees init as its peer, and not the warden
    // that bound the socket (SO_PEERCRED, unix(7)).
    rustix::net::listen(&listener, 128)?;
    let signals = Signals::block(&[SIGCHLD, SIGTERM])?;
    host_etc::link(Path::new(HOST_ETC_INSIDE), Path::new("/etc"));
    // New tenants get this link with their storage. A tenant of an earlier version has none. A link that exists, or that cannot
    // be made, is left as it is.
    rustix::fs::symlink("/run/lock", "/var/lock").ok();
    let mut spare = SpareDescriptor::new(&listener);
    let mut children = Children { sessions: Vec::new(), services: Services::new() };
    let mut own_socket = OwnSocket::new(own_socket::PATH);
    let mut stop_at: Option<Instant> = None;
    // When everybody but the services is asked to end, if they were not yet.
    let mut ask_all_at: Option<Instant> = None;
    loop {
        let deadline = stop_at
            .into_iter()
            .chain(ask_all_at)
            .chain(children.services.deadline())
            .chain(own_socket.deadline())
            .min();
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let events = wait(&listener, &signals, &children, &own_socket, timeout)?;
        if stop_at.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(());
        }
        if events.signals {
            while let Some(arrived) = signals.take()? {
                if arrived == SIGTERM && stop_at.is_none() {
                    let services = children.services.time_to_end();
                    stop_at = Some(Instant::now() + services + GRACE);
                    ask_all_at = Some(Instant::now() + services);
                    children.services.end();
                }
            }
        }
        for source in events.services {
            children.services.heard(source);
        }
        // This runs always, and not only on SIGCHLD, because pending signals of one number merge.
        let has_children = children.reap()?;
        if stop_at.is_some() && !has_children {
            return Ok(());
        }
        for pid in events.sessions {
            if let Some(session) = children.sessions.iter_mut().find(|session| session.pid() == pid) {
                session.recv();
            }
        }
        children.services.work();
        if ask_all_at.is_some_and(|deadline| Instant::now() >= deadline || children.services.have_ended()) {
            (ask_all_at, stop_at) = (None, Some(Instant::now() + GRACE));
            // SIGCONT lets a stopped process see the other two. No process at all is no error.
            for number in [SIGTERM, SIGHUP, SIGCONT] {
                drop(signal::send_to_all_others(number));
            }
        }
        if events.own_socket || own_socket.deadline().is_some_and(|deadline| Instant::now() >= deadline) {
            own_socket.work(&mut children.services, &mut spare, Instant::now());
        }
        if events.listener && stop_at.is_none() {
            serve(&listener, &mut spare, &mut children);
        }
    }
}

/// Does nothing until `SIGTERM`.
fn hold() -> io::Result<()> {
    let signals = Signals::block(&[SIGTERM])?;
    while signals.take()?.is_none() {
        process::readable(&signals, Duration::from_secs(3600))?;
    }
    Ok(())
}

/// Everything that runs below this process and that it started.
struct Children {
    sessions: Vec<Session>,
    services: Services,
}

/// What woke the loop.
struct Events {
    listener: bool,
    signals: bool,
    /// The processes of the sessions whose clients have sent something.
    sessions: Vec<u32>,
    services: Vec<Source>,
    own_socket: bool,
}

fn wait(
    listener: &OwnedFd,
    signals: &Signals,
    children: &Children,
    own_socket: &OwnSocket,
    timeout: Option<Duration>,
) -> io::Result<Events> {
    let mut fds = vec![PollFd::new(listener, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
    let mut sessions = Vec::new();
    for session in &children.sessions {
        if let Some(channel) = session.channel() {
            fds.push(PollFd::from_borrowed_fd(channel, PollFlags::IN));
            sessions.push(session.pid());
        }
    }
    let mut services = Vec::new();
    for (source, fd, flags) in children.services.watched() {
        fds.push(PollFd::from_borrowed_fd(fd, flags));
        services.push(source);
    }
    fds.extend(own_socket.watched().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
    let timeout = timeout.map(|left| rustix::time::Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    });
    match rustix::event::poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
    let (of_sessions, others) = fds[2..].split_at(sessions.len());
    let (of_services, of_own_socket) = others.split_at(services.len());
    Ok(Events {
        listener: is_ready(&fds[0]),
        signals: is_ready(&fds[1]),
        sessions: sessions.into_iter().zip(of_sessions).filter(|(_, fd)| is_ready(fd)).map(|(pid, _)| pid).collect(),
        services: services
            .into_iter()
            .zip(of_services)
            .filter(|(_, fd)| is_ready(fd))
            .map(|(source, _)| source)
            .collect(),
        own_socket: of_own_socket.iter().any(is_ready),
    })
}

impl Children {
    /// Reaps every child that has ended, and ends what it belongs to. Returns whether any child is left.
    fn reap(&mut self) -> io::Result<bool> {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let pid = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or(0);
                    if let Some(index) = self.sessions.iter().position(|session| session.pid() == pid) {
                        self.sessions.swap_remove(index).ended(status);
                    } else {
                        self.services.ended(pid, status);
                    }
                }
                Ok(None) => return Ok(true),
                Err(rustix::io::Errno::CHILD) => return Ok(false),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Accepts one connection and serves its one request. An error concerns only the sender.
fn serve(listener: &OwnedFd, spare: &mut SpareDescriptor, children: &mut Children) {
    let Some(connection) = accept(listener, spare) else { return };
    if children.sessions.len() >= MAX_SESSIONS {
        reply(&connection, InitReply::Refused);
        return;
    }
    reply(&connection, InitReply::Ready);
    match receive(&connection) {
        Ok((InitRequest::Probe { canary }, _)) => {
            reply(&connection, InitReply::Probed { canary_denied: denied(&canary) });
        }
        Ok((InitRequest::Crontab { path, owner, seen }, _)) => {
            reply(&connection, InitReply::Crontab(crontab::read(&path, owner, seen.as_deref())));
        }
        Ok((InitRequest::Version, _)) => reply(&connection, InitReply::Version { version: VERSION }),
        Ok((InitRequest::Spawn(spawn), fds)) => children.sessions.extend(Session::start(&spawn, fds)),
        Ok((InitRequest::Service(order), fds)) => reply(&connection, children.services.order(*order, fds)),
        Ok((InitRequest::KeepServices { names }, _)) => reply(&connection, children.services.keep(&names)),
        Ok((InitRequest::ServiceVerb { name, verb }, _)) => reply(&connection, children.services.verb(&name, verb)),
        Ok((InitRequest::Services, _)) => reply(&connection, children.services.report()),
        Err(_) => {}
    }
}

/// Accepts a connection. When no descriptor is left, the client is turned away.
fn accept(listener: &OwnedFd, spare: &mut SpareDescriptor) -> Option<OwnedFd> {
    if !spare.hold(listener) {
        std::thread::sleep(PAUSE);
        return None;
    }
    match rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC) {
        Ok(connection) => Some(connection),
        Err(error) => {
            if socket::is_shortage(&error.into()) && !spare.turn_away(listener) {
                std::thread::sleep(PAUSE);
            }
            None
        }
    }
}

/// Sends a reply. A sender that has gone loses it.
fn reply(connection: &OwnedFd, message: InitReply) {
    // A peer that does not read must not block init.
    rustix::io::ioctl_fionbio(connection, true).ok();
    drop(transport::send(connection, &message, MAX_REPLY, &[]));
}

fn receive(connection: &OwnedFd) -> Result<(InitRequest, Vec<OwnedFd>), TransportError> {
    let deadline = Instant::now() + time_limits::INIT_REQUEST;
    transport::receive(connection, &mut Incoming::new(MAX_REQUEST, MAX_ORDER_FDS), deadline)
}

/// Whether opening the file for reading fails with `EACCES`. The canary's permission bits allow everybody to read it, so only
/// Landlock refuses.
fn denied(path: &str) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    matches!(rustix::fs::open(path, flags, Mode::empty()), Err(rustix::io::Errno::ACCESS))
}
