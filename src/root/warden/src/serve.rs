//! The warden's loop: one thread that waits for requests and for the ends of jails.
//!
//! Danger: a peer may be a `bailiwickd` in an attacker's hands. The warden never waits for a peer. Output for a peer
//! queues in bounded memory, and its next request is not read until the peer has taken that output. A peer that reads
//! nothing for a while is dropped. Each user has a limited number of connections, so those that root needs for FTP
//! logins stay free. Each user also has a share of the time: the loop answers one request of each user in turn, so
//! root waits for one request of the daemon at most.

use crate::host_files::renew::Renewal;
use crate::requests::{Answer, Progress, Ticket};
use crate::state::Warden;
use crate::systemd;
use bailiwick_proto::frame::{FrameError, MAX_REPLY, MAX_REQUEST, encode};
use bailiwick_proto::time_limits::UNREAD;
use bailiwick_proto::warden::WardenEvent;
use bailiwick_proto::{Failure, Incoming, Outgoing, WardenReply, WardenRequest};
use bailiwick_sys::socket::{self, SpareDescriptor};
use bailiwick_types::{ExitStatus, TenantName};
use rustix::event::{PollFd, PollFlags};
use rustix::net::SocketFlags;
use rustix::time::Timespec;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// The most connections of one user. A daemon has one, and one more for each change that takes time; a daemon that is
/// being replaced has as many again. An FTP server's process has one for a moment at each login.
const MAX_CONNECTIONS: usize = 128;
/// The most bytes of events that may queue for a watcher.
const MAX_UNREAD: usize = 1 << 20;
/// How long requests are answered before the loop looks at everything else. A request that has child is finished.
const TURN: Duration = Duration::from_millis(5);
/// The most connections that are accepted in one turn: all that both users may have.
const MAX_ACCEPTED: usize = 2 * MAX_CONNECTIONS;
/// How long nobody is accepted when a connection could not even be refused.
const PAUSE: Duration = Duration::from_millis(100);

/// Why the loop ended.
#[derive(Debug, thiserror::Error)]
#[error("cannot go on serving")]
pub struct ServeError(#[from] io::Error);

struct Connection {
    socket: OwnedFd,
    incoming: Incoming,
    /// The user of the peer.
    uid: u32,
    /// The peer has asked for events.
    watches: bool,
    /// The request whose reply the peer waits for. Its later requests wait too.
    awaits: Option<Ticket>,
    /// What the peer has not taken yet.
    outgoing: Outgoing<OwnedFd>,
    /// When the peer last took some of it.
    took: Instant,
    /// When its last request was answered, or when it connected.
    answered: Instant,
    /// It must be closed: nothing can be sent, or what came is not the protocol.
    over: bool,
}

impl Connection {
    fn new(socket: OwnedFd, uid: u32) -> Self {
        let now = Instant::now();
        Self {
            socket,
            // Nobody may send the warden a descriptor: the kernel closes any that come.
            incoming: Incoming::new(MAX_REQUEST, 0),
            uid,
            watches: false,
            awaits: None,
            outgoing: Outgoing::default(),
            took: now,
            answered: now,
            over: false,
        }
    }

    /// What to wait for. A peer with unread output is not read from. Of a peer that waits for a reply, only the end
    /// is reported.
    fn awaited(&self) -> PollFlags {
        match (self.outgoing.is_empty(), self.awaits.is_some() || self.asks()) {
            (false, _) => PollFlags::OUT,
            (true, true) => PollFlags::empty(),
            (true, false) => PollFlags::IN,
        }
    }

    /// Whether a request is there that can be answered now.
    fn asks(&self) -> bool {
        !self.over && self.outgoing.is_empty() && self.awaits.is_none() && self.incoming.has_next()
    }
}

/// The longest wait. The disk reserve and the emergency sessions are checked this often.
const TICK: Duration = Duration::from_secs(1);

/// Where connections come in.
struct Gate {
    listener: OwnedFd,
    spare: SpareDescriptor,
    /// Device and inode of the socket's file.
    socket: Option<(u64, u64)>,
    looked: Instant,
    /// Why a removed socket could not be replaced, as last logged.
    lost: Option<String>,
    /// Nobody is accepted before this time.
    closed: Option<Instant>,
}

impl Gate {
    fn new(listener: OwnedFd, socket: Option<(u64, u64)>) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        let spare = SpareDescriptor::new(&listener);
        Ok(Self { listener, spare, socket, looked: Instant::now(), lost: None, closed: None })
    }

    /// Accepts again when the pause is over. Replaces a socket that somebody removed: nobody could connect any more,
    /// nor report it.
    fn look(&mut self, warden: &Warden, log: &mut impl FnMut(&str)) {
        self.closed = self.closed.filter(|until| Instant::now() < *until);
        if self.looked.elapsed() < TICK {
            return;
        }
        self.looked = Instant::now();
        if warden.socket() == self.socket {
            return;
        }
        match warden.listen_again().and_then(|listener| Self::new(listener, warden.socket())) {
            Ok(again) => {
                *self = again;
                log("event=socket-made-again");
            }
            // The next look tries again; the log gets each reason once.
            Err(error) if self.lost.as_ref() != Some(&error.to_string()) => {
                log(&format!("event=socket-lost reason={:?}", error.to_string()));
                self.lost = Some(error.to_string());
            }
            Err(_) => {}
        }
    }
}

/// Serves forever. `log` gets one line for each event that nobody asked for.
///
/// # Errors
/// The kernel refuses to wait or to accept. Neither a peer nor a tenant can cause this.
pub fn serve(warden: &mut Warden, listener: OwnedFd, mut log: impl FnMut(&str)) -> Result<(), ServeError> {
    let mut connections: Vec<Connection> = Vec::new();
    let mut gate = Gate::new(listener, warden.socket())?;
    let period = systemd::period().map_or(TICK, |period| period.min(TICK));
    let mut renewal = Renewal::default();
    systemd::ready();
    loop {
        gate.look(warden, &mut log);
        let ready = wait(warden, &gate, &connections, &renewal, period)?;
        systemd::alive();
        // First of all: the time that the warden itself takes is not held against its peers.
        let silent = silent(&connections, &ready);
        let mut events = warden.take_events(&ready.watched);
        warden.check_emergency_sessions().iter().for_each(|problem| log(problem));
        warden.check_ledger(Instant::now()).iter().for_each(|problem| log(problem));
        ready.ended.iter().for_each(|tenant| warden.ended(tenant));
        let Progress { replies, events: more, lines } = warden.progress();
        lines.iter().for_each(|line| log(line));
        events.extend(more);
        for happened in &events {
            if let WardenEvent::Reserve { reached } = happened {
                log(&format!("event=reserve-of-disk reached={reached:?}"));
            }
        }
        for index in ready.connections {
            let connection = &mut connections[index];
            connection.over |= !receive(connection);
        }
        warden.ledger.commit();
        deliver(&mut connections, replies, events);
        for index in silent {
            let Connection { uid, outgoing, over, .. } = &mut connections[index];
            log(&format!("event=peer-dropped uid={uid} unread={}", outgoing.len()));
            *over = true;
        }
        answer(warden, &mut connections);
        connections.retain(|connection| !connection.over);
        renewal.advance(warden.etc_view.edition(), &warden.jails, &mut log);
        warden.stale = renewal.problems();
        if ready.new
            && let Some(why) = accept(warden, &mut gate, &mut connections)?
        {
            log(&format!("event=not-accepted reason={why:?}"));
        }
    }
}

/// The connections that have taken nothing of their output for too long.
fn silent(connections: &[Connection], ready: &Ready) -> Vec<usize> {
    let is_silent = |(index, connection): &(usize, &Connection)| {
        !connection.outgoing.is_empty() && connection.took.elapsed() >= UNREAD && !ready.connections.contains(index)
    };
    connections.iter().enumerate().filter(is_silent).map(|(index, _)| index).collect()
}

/// Sends replies to those that wait for them, and events to watchers.
fn deliver(connections: &mut [Connection], replies: Vec<(Ticket, WardenReply)>, events: Vec<WardenEvent>) {
    for (ticket, reply) in replies {
        // The peer may have gone.
        if let Some(connection) = connections.iter_mut().find(|connection| connection.awaits == Some(ticket)) {
            connection.awaits = None;
            connection.over |= !send_reply(connection, &reply, Vec::new());
        }
    }
    for event in events {
        let frame = encode(&WardenReply::Event(event), MAX_REPLY);
        for watcher in connections.iter_mut().filter(|connection| connection.watches) {
            watcher.over |= !send_event(watcher, &frame);
        }
    }
}

/// Sends a watcher an event, without waiting; `false` when too much is unread and the watcher must be dropped.
fn send_event(watcher: &mut Connection, frame: &Result<Vec<u8>, FrameError>) -> bool {
    let Ok(frame) = frame else { return true };
    if watcher.outgoing.len() > MAX_REPLY + MAX_UNREAD {
        return false;
    }
    append(watcher, frame, Vec::new())
}

/// What a wait ended with.
struct Ready {
    new: bool,
    connections: Vec<usize>,
    ended: Vec<TenantName>,
    watched: Vec<PollFlags>,
}

fn wait(
    warden: &Warden,
    gate: &Gate,
    connections: &[Connection],
    renewal: &Renewal,
    period: Duration,
) -> io::Result<Ready> {
    let (watched, slow) = (warden.watch.fds(), warden.slow_fds());
    let flags = if gate.closed.is_some() { PollFlags::empty() } else { PollFlags::IN };
    let mut fds = vec![PollFd::new(&gate.listener, flags)];
    fds.extend(watched.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
    fds.extend(connections.iter().map(|connection| PollFd::new(&connection.socket, connection.awaited())));
    fds.extend(warden.jails.inits().map(|inits| PollFd::from_borrowed_fd(inits, PollFlags::IN)));
    // The loop looks at everything that is in progress, so it need not know which of these woke it.
    fds.extend(slow.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
    fds.extend(renewal.reports().map(|report| PollFd::from_borrowed_fd(report, PollFlags::IN)));
    let time = longest_wait(warden, gate, connections, period);
    let time =
        Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(time.subsec_nanos()) };
    match rustix::event::poll(&mut fds, Some(&time)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
    let (first, rest) = fds.split_first().expect("the listener is always there");
    let (of_watch, rest) = rest.split_at(watched.len());
    Ok(Ready {
        new: is_ready(first),
        connections: (0..)
            .zip(&rest[..connections.len()])
            .filter(|(_, fd)| is_ready(fd))
            .map(|(index, _)| index)
            .collect(),
        ended: warden.jails.ended()?,
        watched: of_watch.iter().map(PollFd::revents).collect(),
    })
}

/// How long nothing has to be done; at most `period`.
fn longest_wait(warden: &Warden, gate: &Gate, connections: &[Connection], period: Duration) -> Duration {
    let asks = connections.iter().any(Connection::asks);
    let now = Instant::now();
    let next = warden.due().into_iter().chain(gate.closed).map(|due| due.saturating_duration_since(now)).min();
    if asks { Duration::ZERO } else { next.map_or(period, |next| next.min(period)) }
}

/// Accepts all that have come, so that nobody waits behind a hundred others. Returns why somebody could not be
/// accepted.
fn accept(warden: &Warden, gate: &mut Gate, connections: &mut Vec<Connection>) -> io::Result<Option<io::Error>> {
    for _ in 0..MAX_ACCEPTED {
        if !gate.spare.hold(&gate.listener) {
            gate.closed = Some(Instant::now() + PAUSE);
            return Ok(Some(rustix::io::Errno::MFILE.into()));
        }
        let socket = match rustix::net::accept_with(&gate.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => socket,
            Err(rustix::io::Errno::CONNABORTED) => continue,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => break,
            Err(error) => {
                let error = io::Error::from(error);
                if !socket::is_shortage(&error) {
                    return Err(error);
                }
                if !gate.spare.turn_away(&gate.listener) {
                    gate.closed = Some(Instant::now() + PAUSE);
                }
                return Ok(Some(error));
            }
        };
        // The socket's permissions keep others out already. This check holds when somebody changes them.
        if let Ok(peer) = socket::peer(&socket)
            && warden.serves(peer.uid)
            && connections.iter().filter(|connection| connection.uid == peer.uid).count() < MAX_CONNECTIONS
        {
            connections.push(Connection::new(socket, peer.uid));
        }
    }
    Ok(None)
}

/// Reads requests, or sends more of the unread output; `false` when the connection is over.
fn receive(connection: &mut Connection) -> bool {
    if !connection.outgoing.is_empty() {
        return flush(connection);
    }
    if connection.awaits.is_some() || connection.asks() {
        // Only its end could be reported.
        return false;
    }
    match connection.incoming.receive(&connection.socket) {
        Ok(len) => len > 0,
        Err(error) => is_later(&error),
    }
}

/// Answers requests, one of each user in turn, until none is left or the time is over.
fn answer(warden: &mut Warden, connections: &mut [Connection]) {
    let until = Instant::now() + TURN;
    loop {
        let next = next_of_each(connections);
        for index in &next {
            let connection = &mut connections[*index];
            connection.over |= !answer_one(warden, connection);
            connection.answered = Instant::now();
            systemd::alive();
        }
        if next.is_empty() || Instant::now() >= until {
            // Of those that are answered later.
            warden.ledger.commit();
            return;
        }
    }
}

/// For each user, the connection to answer next: of those that ask, the one that has waited longest.
fn next_of_each(connections: &[Connection]) -> Vec<usize> {
    let mut next: BTreeMap<u32, usize> = BTreeMap::new();
    for (index, connection) in connections.iter().enumerate().filter(|(_, connection)| connection.asks()) {
        let first = next.entry(connection.uid).or_insert(index);
        if connection.answered < connections[*first].answered {
            *first = index;
        }
    }
    next.into_values().collect()
}

/// Answers the next request of a connection, or begins to; `false` when the connection is over.
fn answer_one(warden: &mut Warden, connection: &mut Connection) -> bool {
    let mut fds = Vec::new();
    let reply = match connection.incoming.take::<WardenRequest>() {
        Ok(Some((WardenRequest::FtpView { user }, _))) if connection.uid == 0 => match warden.ftp_view(&user) {
            Ok((view, beside)) => {
                fds = beside;
                WardenReply::FtpView(view)
            }
            Err(failure) => WardenReply::Failed(failure),
        },
        Ok(Some((WardenRequest::ServiceGroups { tenant, service }, _))) => {
            match warden.service_groups(&tenant, &service) {
                Ok(beside) => {
                    fds = beside;
                    WardenReply::ServiceGroups
                }
                Err(failure) => WardenReply::Failed(failure),
            }
        }
        Ok(Some((request, _))) => {
            connection.watches |= request == WardenRequest::Watch;
            match warden.handle(request) {
                Answer::Now(reply) => reply,
                Answer::Later(ticket) => {
                    connection.awaits = Some(ticket);
                    return true;
                }
            }
        }
        Ok(None) => return true,
        // A peer that does not speak the protocol is not our daemon.
        Err(_) => return false,
    };
    warden.ledger.commit();
    send_reply(connection, &reply, fds)
}

/// Queues a reply with its descriptors after the unread output.
fn send_reply(connection: &mut Connection, reply: &WardenReply, fds: Vec<OwnedFd>) -> bool {
    let frame = encode(reply, MAX_REPLY).or_else(|error| {
        let failure = Failure::of(ExitStatus::Failed, error.to_string());
        encode(&WardenReply::Failed(failure), MAX_REPLY)
    });
    let Ok(frame) = frame else { return false };
    append(connection, &frame, fds)
}

fn append(connection: &mut Connection, frame: &[u8], fds: Vec<OwnedFd>) -> bool {
    let waits = !connection.outgoing.is_empty();
    connection.outgoing.push(frame, fds);
    if waits {
        return true;
    }
    connection.took = Instant::now();
    flush(connection)
}

/// Sends as much as the peer takes now; `false` when the connection is over.
fn flush(connection: &mut Connection) -> bool {
    while !connection.outgoing.is_empty() {
        match connection.outgoing.send(&connection.socket) {
            Ok(len) if len > 0 => connection.took = Instant::now(),
            Err(error) if is_later(&error) => break,
            _ => return false,
        }
    }
    true
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_proto::transport;

    fn asking(uid: u32) -> Connection {
        let (socket, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let mut connection = Connection::new(socket.into(), uid);
        for _ in 0..2 {
            transport::send(&theirs, &WardenRequest::Hello, MAX_REQUEST, &[]).expect("sends");
        }
        assert!(connection.incoming.receive(&connection.socket).expect("receives") > 0);
        connection
    }

    #[test]
    fn users_take_turns_and_the_longest_wait_goes_first() {
        let mut connections: Vec<Connection> = [7, 7, 7, 0].map(asking).into();
        let mut turns = Vec::new();
        for _ in 0..4 {
            let next = next_of_each(&connections);
            for index in &next {
                connections[*index].answered = Instant::now();
            }
            turns.push(next);
        }
        assert_eq!(turns, [[3, 0], [3, 1], [3, 2], [3, 0]]);
        // A connection has no turn while it waits for a reply, has unread output, or is over.
        connections[1].awaits = Some(1);
        connections[2].outgoing.push(&[0], Vec::new());
        connections[3].over = true;
        assert_eq!(next_of_each(&connections), [0]);
    }
}
