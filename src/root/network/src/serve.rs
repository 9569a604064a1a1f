//! The loop of the router's process: one thread that waits for requests, for records of refused packets, and for the next minute.
//!
//! Danger: a peer may be a `bailiwickd` in an attacker's hands. Output queues in bounded memory, and the next request of a peer is
//! not read before it has taken the reply. Only requests over root's socket may change anything, and only root may connect to it.

use crate::manager::Manager;
use crate::router::Router;
use bailiwick_proto::frame::{MAX_REPLY, encode};
use bailiwick_proto::net::MAX_NET_REQUEST;
use bailiwick_proto::{Failure, Incoming, NetReply, NetRequest, Outgoing};
use bailiwick_sys::signal::Signals;
use bailiwick_sys::socket::{self, SpareDescriptor};
use bailiwick_types::ExitStatus;
use rustix::event::{PollFd, PollFlags};
use rustix::net::SocketFlags;
use rustix::time::Timespec;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// The most connections over one socket.
const MAX_CONNECTIONS: usize = 64;
/// The most that are accepted in one turn.
const MAX_ACCEPTED: usize = 2 * MAX_CONNECTIONS;
/// The pause before the next `accept` when the host is out of descriptors and nobody could even be turned away. Packets flow meanwhile.
const PAUSE: Duration = Duration::from_millis(100);
/// How often everything is looked at: settings of the host, counts, and the month.
const TICK: Duration = Duration::from_secs(1);

/// Where connections come in.
#[derive(Debug)]
pub(crate) struct Gate {
    listener: OwnedFd,
    /// What may be asked for over it.
    may: Rights,
}

/// What may be asked for over a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rights {
    /// What changes nothing.
    Read,
    /// Everything.
    Change,
}

impl Gate {
    pub(crate) fn new(listener: OwnedFd, may: Rights) -> Self {
        Self { listener, may }
    }
}

struct Connection {
    socket: OwnedFd,
    may: Rights,
    incoming: Incoming,
    outgoing: Outgoing<OwnedFd>,
    is_over: bool,
}

impl Connection {
    fn new(socket: OwnedFd, may: Rights) -> Self {
        // One descriptor: that of a jail's network namespace, from root only.
        let incoming = Incoming::new(MAX_NET_REQUEST, usize::from(may == Rights::Change));
        Self { socket, may, incoming, outgoing: Outgoing::default(), is_over: false }
    }

    fn awaited(&self) -> PollFlags {
        if self.outgoing.is_empty() { PollFlags::IN } else { PollFlags::OUT }
    }

    /// Reads or writes as much as is possible now; `false` when the connection is over.
    fn advance(&mut self, router: &mut Router) -> bool {
        if !self.outgoing.is_empty() {
            return self.flush();
        }
        match self.incoming.receive(&self.socket) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) if is_later(&error) => return true,
            Err(_) => return false,
        }
        while self.outgoing.is_empty() {
            let (request, fds) = match self.incoming.take::<NetRequest>() {
                Ok(Some(message)) => message,
                Ok(None) => return true,
                Err(_) => return false,
            };
            let reply = self.answer(router, request, fds);
            let frame = encode(&reply, MAX_REPLY)
                .or_else(|error| encode(&NetReply::Failed(Failure::new(ExitStatus::Failed, &error)), MAX_REPLY));
            let Ok(frame) = frame else { return false };
            self.outgoing.push(&frame, Vec::new());
            if !self.flush() {
                return false;
            }
        }
        true
    }

    fn answer(&self, router: &mut Router, request: NetRequest, fds: Vec<OwnedFd>) -> NetReply {
        if request.changes() && self.may != Rights::Change {
            return NetReply::Failed(Failure::of(ExitStatus::Refused, "only root may change the network of a jail"));
        }
        router.answer(request, fds)
    }

    fn flush(&mut self) -> bool {
        while !self.outgoing.is_empty() {
            match self.outgoing.send(&self.socket) {
                Ok(len) if len > 0 => {}
                Err(error) if is_later(&error) => return true,
                _ => return false,
            }
        }
        true
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Serves until a signal tells it to end.
pub(crate) fn serve(
    mut router: Router,
    gates: &[Gate; 2],
    signals: &Signals,
    manager: &Manager,
    mut log: impl FnMut(&str),
) -> io::Result<()> {
    for gate in gates {
        rustix::io::ioctl_fionbio(&gate.listener, true)?;
    }
    let mut spare = SpareDescriptor::new(&gates[0].listener);
    let mut connections: Vec<Connection> = Vec::new();
    manager.ready();
    let mut looked = Instant::now();
    loop {
        let ready = wait(gates, signals, &router, &connections, TICK.saturating_sub(looked.elapsed()))?;
        manager.alive();
        if ready.signal && signals.take()?.is_some() {
            return router.end();
        }
        router.take_records(&mut log);
        if !ready.connections.is_empty() {
            router.follow_report(&mut log);
        }
        for index in ready.connections {
            let connection = &mut connections[index];
            connection.is_over = !connection.advance(&mut router);
        }
        connections.retain(|connection| !connection.is_over);
        if let Some(error) = router.broken() {
            return Err(error);
        }
        if looked.elapsed() >= TICK {
            looked = Instant::now();
            router.look(&mut log);
        }
        for gate in gates.iter().zip(ready.new).filter_map(|(gate, is_ready)| is_ready.then_some(gate)) {
            accept(gate, &mut spare, &mut connections)?;
        }
    }
}

struct Ready {
    /// Of each gate.
    new: [bool; 2],
    signal: bool,
    connections: Vec<usize>,
}

fn wait(
    gates: &[Gate; 2],
    signals: &Signals,
    router: &Router,
    connections: &[Connection],
    time: Duration,
) -> io::Result<Ready> {
    let mut fds: Vec<_> = gates.iter().map(|gate| PollFd::new(&gate.listener, PollFlags::IN)).collect();
    fds.push(PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN));
    fds.push(PollFd::from_borrowed_fd(router.records(), PollFlags::IN));
    fds.extend(connections.iter().map(|connection| PollFd::new(&connection.socket, connection.awaited())));
    let time = Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(1), tv_nsec: i64::from(time.subsec_nanos()) };
    match rustix::event::poll(&mut fds, Some(&time)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
    let of_connections = (0..).zip(&fds[4..]);
    Ok(Ready {
        new: [is_ready(&fds[0]), is_ready(&fds[1])],
        signal: is_ready(&fds[2]),
        connections: of_connections.filter(|(_, fd)| is_ready(fd)).map(|(index, _)| index).collect(),
    })
}

fn accept(gate: &Gate, spare: &mut SpareDescriptor, connections: &mut Vec<Connection>) -> io::Result<()> {
    for _ in 0..MAX_ACCEPTED {
        if !spare.hold(&gate.listener) {
            std::thread::sleep(PAUSE);
            break;
        }
        let socket = match rustix::net::accept_with(&gate.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => socket,
            Err(rustix::io::Errno::CONNABORTED) => continue,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => break,
            Err(error) if socket::is_shortage(&error.into()) => {
                if !spare.turn_away(&gate.listener) {
                    std::thread::sleep(PAUSE);
                }
                break;
            }
            Err(error) => return Err(error.into()),
        };
        // The socket's permissions keep others out already. This check holds when somebody changes them. The user of bailiwickd has
        // no name here.
        let is_welcome = gate.may == Rights::Read || socket::peer(&socket).is_ok_and(|peer| peer.uid == 0);
        if is_welcome && connections.iter().filter(|connection| connection.may == gate.may).count() < MAX_CONNECTIONS {
            connections.push(Connection::new(socket, gate.may));
        }
    }
    Ok(())
}
