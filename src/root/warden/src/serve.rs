//! The warden's loop: one thread that waits for requests and for jails that end.
//!
//! Danger: whoever is at the other end may be a taken `bailiwickd`. It is never waited for: what it is told waits for it, in bounds, and
//! until it has read that it is not heard again; who does not read for a while is dropped. And it has a share of the
//! connections, not all: those that root needs for logins by FTP stay free. The same of the one thread's time: of each user one request is
//! answered, then the next of each, so root waits for one of the daemon's, however many of them wait.

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

/// The most connections of one user: one daemon has one, one for each change that takes time, and one that is being replaced as many; an
/// FTP server's process has one for a moment at each login.
const MAX_CONNECTIONS: usize = 128;
/// How much of what was not asked for may wait for a watcher, in bytes.
const MAX_UNREAD: usize = 1 << 20;
/// How long requests are answered before the loop looks at all else; the one that is begun by then is finished.
const TURN: Duration = Duration::from_millis(5);
/// The most who are taken in one turn: as many as both users may be.
const MAX_ACCEPTED: usize = 2 * MAX_CONNECTIONS;
/// How long nobody is accepted after not even a refusal could be made.
const PAUSE: Duration = Duration::from_millis(100);

/// Why the loop ended.
#[derive(Debug, thiserror::Error)]
#[error("cannot go on serving")]
pub struct ServeError(#[from] io::Error);

struct Connection {
    socket: OwnedFd,
    incoming: Incoming,
    /// Who is at the other end.
    uid: u32,
    /// It has asked to be told what happens.
    watches: bool,
    /// The request that it waits for; what it asks after that waits too.
    awaits: Option<Ticket>,
    /// What it has not taken yet.
    outgoing: Outgoing<OwnedFd>,
    /// When it last took something of that.
    took: Instant,
    /// When a request of it was answered last, or when it came.
    answered: Instant,
    /// Nothing can be said to it, or it says nothing that is understood: it is to be let go.
    over: bool,
}

impl Connection {
    fn new(socket: OwnedFd, uid: u32) -> Self {
        let now = Instant::now();
        Self {
            socket,
            // Nobody may send the warden a descriptor: the kernel closes those that come.
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

    /// What is waited for. Whoever does not read is not heard either; of one that waits only its end is.
    fn awaited(&self) -> PollFlags {
        match (self.outgoing.is_empty(), self.awaits.is_some() || self.asks()) {
            (false, _) => PollFlags::OUT,
            (true, true) => PollFlags::empty(),
            (true, false) => PollFlags::IN,
        }
    }

    /// Whether a request of it was read that can be answered now.
    fn asks(&self) -> bool {
        !self.over && self.outgoing.is_empty() && self.awaits.is_none() && self.incoming.has_next()
    }
}

/// The longest wait: the reserve of disk space and those of rescue sessions are looked at that often.
const TICK: Duration = Duration::from_secs(1);

/// Where connections come in.
struct Gate {
    listener: OwnedFd,
    reserve: SpareDescriptor,
    /// Which file the socket is.
    socket: Option<(u64, u64)>,
    looked: Instant,
    /// Why no socket could be made in the place of one that was removed, as it was logged.
    lost: Option<String>,
    /// Until when nobody is accepted.
    closed: Option<Instant>,
}

impl Gate {
    fn new(listener: OwnedFd, socket: Option<(u64, u64)>) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        let reserve = SpareDescriptor::new(&listener);
        Ok(Self { listener, reserve, socket, looked: Instant::now(), lost: None, closed: None })
    }

    /// Opens again when its time has come, and makes a socket in the place of one that was removed: nobody could come any more, nor say so
    /// to anybody.
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
            // Tried again at the next look, and logged once.
            Err(error) if self.lost.as_ref() != Some(&error.to_string()) => {
                log(&format!("event=socket-lost reason={:?}", error.to_string()));
                self.lost = Some(error.to_string());
            }
            Err(_) => {}
        }
    }
}

/// Serves for good. `log` gets what happened without being asked for, one line each.
///
/// # Errors
/// When the kernel refuses to wait or to accept: nothing that a peer or a tenant can cause.
pub fn serve(warden: &mut Warden, listener: OwnedFd, mut log: impl FnMut(&str)) -> Result<(), ServeError> {
    let mut connections: Vec<Connection> = Vec::new();
    let mut gate = Gate::new(listener, warden.socket())?;
    let period = systemd::period().map_or(TICK, |period| period.min(TICK));
    let mut renewal = Renewal::default();
    systemd::ready();
    loop {
        gate.look(warden, &mut log);
        let heard = wait(warden, &gate, &connections, &renewal, period)?;
        systemd::alive();
        // Looked at before anything else is done: what the warden itself takes its time for is not held against them.
        let silent = silent(&connections, &heard);
        let mut events = warden.happened(&heard.watched);
        warden.check_emergency_sessions().iter().for_each(|problem| log(problem));
        warden.check_ledger(Instant::now()).iter().for_each(|problem| log(problem));
        heard.ended.iter().for_each(|tenant| warden.ended(tenant));
        let Progress { replies, events: more, lines } = warden.progress();
        lines.iter().for_each(|line| log(line));
        events.extend(more);
        for happened in &events {
            if let WardenEvent::Reserve { reached } = happened {
                log(&format!("event=reserve-of-disk reached={reached:?}"));
            }
        }
        for index in heard.connections {
            let connection = &mut connections[index];
            connection.over |= !hear(connection);
        }
        deliver(&mut connections, replies, events);
        for index in silent {
            let Connection { uid, outgoing, over, .. } = &mut connections[index];
            log(&format!("event=peer-dropped uid={uid} unread={}", outgoing.len()));
            *over = true;
        }
        answer(warden, &mut connections);
        connections.retain(|connection| !connection.over);
        renewal.go_on(warden.etc_view.edition(), &warden.jails, &mut log);
        warden.stale = renewal.problems();
        if heard.new
            && let Some(why) = accept(warden, &mut gate, &mut connections)?
        {
            log(&format!("event=not-accepted reason={why:?}"));
        }
    }
}

/// Those that have not taken what waits for them for too long.
fn silent(connections: &[Connection], heard: &Heard) -> Vec<usize> {
    let is_silent = |(index, connection): &(usize, &Connection)| {
        !connection.outgoing.is_empty() && connection.took.elapsed() >= UNREAD && !heard.connections.contains(index)
    };
    connections.iter().enumerate().filter(is_silent).map(|(index, _)| index).collect()
}

/// Gives replies to those that wait for them, and events to watchers.
fn deliver(connections: &mut [Connection], replies: Vec<(Ticket, WardenReply)>, events: Vec<WardenEvent>) {
    for (ticket, reply) in replies {
        // Whoever asked may have gone.
        if let Some(connection) = connections.iter_mut().find(|connection| connection.awaits == Some(ticket)) {
            connection.awaits = None;
            connection.over |= !say(connection, &reply, Vec::new());
        }
    }
    for event in events {
        let frame = encode(&WardenReply::Event(event), MAX_REPLY);
        for watcher in connections.iter_mut().filter(|connection| connection.watches) {
            watcher.over |= !tell(watcher, &frame);
        }
    }
}

/// Tells a watcher, which does not hold up the warden: one that does not read is let go.
fn tell(watcher: &mut Connection, frame: &Result<Vec<u8>, FrameError>) -> bool {
    let Ok(frame) = frame else { return true };
    if watcher.outgoing.len() > MAX_REPLY + MAX_UNREAD {
        return false;
    }
    append(watcher, frame, Vec::new())
}

/// What a wait ended with.
struct Heard {
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
) -> io::Result<Heard> {
    let (inits, watched, slow) = (warden.jails.inits(), warden.watch.fds(), warden.slow_fds());
    let flags = if gate.closed.is_some() { PollFlags::empty() } else { PollFlags::IN };
    let mut fds = vec![PollFd::new(&gate.listener, flags)];
    fds.extend(watched.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
    fds.extend(connections.iter().map(|connection| PollFd::new(&connection.socket, connection.awaited())));
    fds.extend(inits.iter().map(|(_, pidfd)| PollFd::from_borrowed_fd(*pidfd, PollFlags::IN)));
    // That one of these has woken the loop is enough: all that is on its way is looked at.
    fds.extend(slow.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
    fds.extend(renewal.reports().map(|report| PollFd::from_borrowed_fd(report, PollFlags::IN)));
    let time = longest_wait(warden, gate, connections, period);
    let time =
        Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(time.subsec_nanos()) };
    match rustix::event::poll(&mut fds, Some(&time)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let heard = |fd: &PollFd<'_>| !fd.revents().is_empty();
    let (first, rest) = fds.split_first().expect("the listener is always there");
    let (of_watch, rest) = rest.split_at(watched.len());
    let (from_connections, from_inits) = rest.split_at(connections.len());
    let ended = inits.iter().zip(from_inits).filter(|(_, fd)| heard(fd));
    Ok(Heard {
        new: heard(first),
        connections: (0..).zip(from_connections).filter(|(_, fd)| heard(fd)).map(|(index, _)| index).collect(),
        ended: ended.map(|((tenant, _), _)| tenant.clone()).collect(),
        watched: of_watch.iter().map(PollFd::revents).collect(),
    })
}

/// How long nothing has to be done, `period` at the most.
fn longest_wait(warden: &Warden, gate: &Gate, connections: &[Connection], period: Duration) -> Duration {
    let asks = connections.iter().any(Connection::asks);
    let now = Instant::now();
    let next = warden.due().into_iter().chain(gate.closed).map(|due| due.saturating_duration_since(now)).min();
    if asks { Duration::ZERO } else { next.map_or(period, |next| next.min(period)) }
}

/// Takes those that have come: one that waits behind a hundred others' is not kept from its turn. What is returned is why somebody could not
/// be taken.
fn accept(warden: &Warden, gate: &mut Gate, connections: &mut Vec<Connection>) -> io::Result<Option<io::Error>> {
    for _ in 0..MAX_ACCEPTED {
        let socket = match rustix::net::accept_with(&gate.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => socket,
            Err(rustix::io::Errno::CONNABORTED) => continue,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => break,
            Err(error) => {
                let error = io::Error::from(error);
                if !socket::is_shortage(&error) {
                    return Err(error);
                }
                if !gate.reserve.turn_away(&gate.listener) {
                    gate.closed = Some(Instant::now() + PAUSE);
                }
                return Ok(Some(error));
            }
        };
        // The socket's permissions keep others out already; this holds when somebody changes them.
        if let Ok(peer) = socket::peer(&socket)
            && warden.serves(peer.uid)
            && connections.iter().filter(|connection| connection.uid == peer.uid).count() < MAX_CONNECTIONS
        {
            connections.push(Connection::new(socket, peer.uid));
        }
    }
    Ok(None)
}

/// Reads what there is, or gives more of what was not read; `false` when the connection is over.
fn hear(connection: &mut Connection) -> bool {
    if !connection.outgoing.is_empty() {
        return flush(connection);
    }
    if connection.awaits.is_some() || connection.asks() {
        // It was heard of without being read from: it is gone.
        return false;
    }
    match connection.incoming.receive(&connection.socket) {
        Ok(len) => len > 0,
        Err(error) => is_later(&error),
    }
}

/// Answers requests that were read, one of each user in turn, until there are none or the time is over.
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
            return;
        }
    }
}

/// The next of each user's connections to be answered: of those that ask the one that had to wait the longest.
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
    say(connection, &reply, fds)
}

/// Gives a peer a reply, and descriptors beside it, after what it has not read yet.
fn say(connection: &mut Connection, reply: &WardenReply, fds: Vec<OwnedFd>) -> bool {
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

/// Gives a peer as much as it takes now; `false` when it takes nothing any more.
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
    fn each_user_has_its_turn_and_of_a_user_who_has_waited_longest() {
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
        // Who waits for a reply, has not read one or is over has no turn.
        connections[1].awaits = Some(1);
        connections[2].outgoing.push(&[0], Vec::new());
        connections[3].over = true;
        assert_eq!(next_of_each(&connections), [0]);
    }
}
