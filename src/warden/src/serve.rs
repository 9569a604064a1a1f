//! The warden's loop: one thread that waits for requests and for jails that end.

use crate::core::{Answer, Progress, Ticket, Warden};
use crate::manager;
use bailiwick_proto::frame::{Decoder, FrameError, MAX_REPLY, MAX_REQUEST, encode};
use bailiwick_proto::warden::WardenEvent;
use bailiwick_proto::{Failure, WardenReply, WardenRequest};
use bailiwick_sys::socket;
use bailiwick_types::{ExitStatus, TenantName};
use rustix::event::{PollFd, PollFlags};
use rustix::net::SocketFlags;
use rustix::time::Timespec;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The most connections: one daemon has one, one for each change that takes time, and one that is being replaced as many; an FTP
/// server one for a moment at each login.
const MAX_CONNECTIONS: usize = 128;

/// Why the loop ended.
#[derive(Debug, thiserror::Error)]
#[error("cannot go on serving")]
pub struct ServeError(#[from] io::Error);

struct Connection {
    socket: OwnedFd,
    decoder: Decoder,
    /// Whether root is at the other end.
    of_root: bool,
    /// It has asked to be told what happens, and no longer blocks.
    watches: bool,
    /// The request that it waits for; what it asks after that waits too.
    awaits: Option<Ticket>,
}

/// The longest wait: the reserve of disk space and those of rescue sessions are looked at that often.
const TICK: Duration = Duration::from_secs(1);

/// Serves for good. `event` hears of what happened without being asked for, one line each.
///
/// # Errors
/// When the kernel refuses to wait or to accept: nothing that a peer or a tenant can cause.
pub fn serve(warden: &mut Warden, listener: &OwnedFd, mut event: impl FnMut(&str)) -> Result<(), ServeError> {
    let mut connections: Vec<Connection> = Vec::new();
    let period = manager::period().map_or(TICK, |period| period.min(TICK));
    manager::ready();
    loop {
        let heard = wait(warden, listener, &connections, period)?;
        manager::alive();
        let mut events = warden.happened(&heard.watched);
        warden.mind_rescues().iter().for_each(|problem| event(problem));
        heard.ended.iter().for_each(|tenant| warden.ended(tenant));
        let Progress { replies, events: more, lines } = warden.progress();
        lines.iter().for_each(|line| event(line));
        events.extend(more);
        for happened in &events {
            if let WardenEvent::Reserve { reached } = happened {
                event(&format!("event=reserve-of-disk reached={reached:?}"));
            }
        }
        let mut gone: Vec<usize> =
            heard.connections.into_iter().filter(|index| !answer(warden, &mut connections[*index])).collect();
        for (ticket, reply) in replies {
            let waiting = connections.iter_mut().enumerate().find(|(_, connection)| connection.awaits == Some(ticket));
            // Whoever asked may have gone.
            if let Some((index, connection)) = waiting
                && !resume(warden, connection, &reply)
            {
                gone.push(index);
            }
        }
        for happened in events {
            let frame = encode(&WardenReply::Event(happened), MAX_REPLY);
            let watching = (0..).zip(&connections).filter(|(_, connection)| connection.watches);
            gone.extend(watching.filter(|(_, watcher)| !tell(&watcher.socket, &frame)).map(|(index, _)| index));
        }
        gone.sort_unstable();
        gone.dedup();
        for index in gone.into_iter().rev() {
            connections.remove(index);
        }
        if heard.new {
            accept(warden, listener, &mut connections)?;
        }
    }
}

/// Tells a watcher, which does not hold up the warden: one that does not read is let go.
fn tell(socket: &OwnedFd, frame: &Result<Vec<u8>, FrameError>) -> bool {
    let Ok(frame) = frame else { return true };
    socket::send(socket, frame, &[]).is_ok_and(|len| len == frame.len())
}

/// What a wait ended with.
struct Heard {
    new: bool,
    connections: Vec<usize>,
    ended: Vec<TenantName>,
    watched: Vec<PollFlags>,
}

fn wait(warden: &Warden, listener: &OwnedFd, connections: &[Connection], time: Duration) -> io::Result<Heard> {
    let (inits, watched, slow) = (warden.inits(), warden.watched(), warden.slow_fds());
    let time = warden.due().map_or(time, |due| due.saturating_duration_since(Instant::now()).min(time));
    let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
    fds.extend(watched.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
    // Of one that waits only its end is heard.
    let flags = |connection: &Connection| if connection.awaits.is_some() { PollFlags::empty() } else { PollFlags::IN };
    fds.extend(connections.iter().map(|connection| PollFd::new(&connection.socket, flags(connection))));
    fds.extend(inits.iter().map(|(_, pidfd)| PollFd::from_borrowed_fd(*pidfd, PollFlags::IN)));
    // That one of these has woken the loop is enough: all that is on its way is looked at.
    fds.extend(slow.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
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
    Ok(Heard {
        new: heard(first),
        connections: (0..).zip(from_connections).filter(|(_, fd)| heard(fd)).map(|(index, _)| index).collect(),
        ended: inits
            .iter()
            .zip(from_inits)
            .filter(|(_, fd)| heard(fd))
            .map(|((tenant, _), _)| tenant.clone())
            .collect(),
        watched: of_watch.iter().map(PollFd::revents).collect(),
    })
}

fn accept(warden: &Warden, listener: &OwnedFd, connections: &mut Vec<Connection>) -> io::Result<()> {
    let socket = match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
        Ok(socket) => socket,
        Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    // The socket's permissions keep others out already; this holds when somebody changes them.
    if let Ok(peer) = socket::peer(&socket)
        && warden.serves(peer.uid)
        && connections.len() < MAX_CONNECTIONS
    {
        let decoder = Decoder::new(MAX_REQUEST);
        connections.push(Connection { socket, decoder, of_root: peer.uid == 0, watches: false, awaits: None });
    }
    Ok(())
}

/// Reads what there is and answers every whole request; `false` when the connection is over.
fn answer(warden: &mut Warden, connection: &mut Connection) -> bool {
    if connection.awaits.is_some() {
        // It was heard of without being read from: it is gone.
        return false;
    }
    let mut buffer = [0; 4096];
    // Nobody may send the warden a descriptor: those that come are closed by the kernel.
    match socket::receive(&connection.socket, &mut buffer, 0) {
        Ok((len, _)) if len > 0 => connection.decoder.push(&buffer[..len]),
        _ => return false,
    }
    answer_all(warden, connection)
}

/// Sends the reply that a connection has waited for, and answers what it has asked meanwhile.
fn resume(warden: &mut Warden, connection: &mut Connection, reply: &WardenReply) -> bool {
    connection.awaits = None;
    send(&connection.socket, reply, &[]) && answer_all(warden, connection)
}

/// Answers every request that was read, until one must wait.
fn answer_all(warden: &mut Warden, connection: &mut Connection) -> bool {
    loop {
        let mut fds = Vec::new();
        let reply = match connection.decoder.next::<WardenRequest>() {
            Ok(Some(request)) => {
                if request == WardenRequest::Watch {
                    connection.watches = rustix::io::ioctl_fionbio(&connection.socket, true).is_ok();
                }
                match request {
                    WardenRequest::FtpView { user } if connection.of_root => match warden.ftp_view(&user) {
                        Ok((view, beside)) => {
                            fds = beside;
                            WardenReply::FtpView(view)
                        }
                        Err(failure) => WardenReply::Failed(failure),
                    },
                    request => match warden.handle(request) {
                        Answer::Now(reply) => reply,
                        Answer::Later(ticket) => {
                            connection.awaits = Some(ticket);
                            return true;
                        }
                    },
                }
            }
            Ok(None) => return true,
            // A peer that does not speak the protocol is not our daemon.
            Err(_) => return false,
        };
        if !send(&connection.socket, &reply, &fds) {
            return false;
        }
    }
}

fn send(socket: &OwnedFd, reply: &WardenReply, fds: &[OwnedFd]) -> bool {
    let mut fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let frame = encode(reply, MAX_REPLY).or_else(|error| {
        let failure = Failure::of(ExitStatus::Failed, error.to_string());
        encode(&WardenReply::Failed(failure), MAX_REPLY)
    });
    let Ok(frame) = frame else { return false };
    let mut rest = &frame[..];
    while !rest.is_empty() {
        match socket::send(socket, rest, &fds) {
            Ok(len) if len > 0 => {
                rest = &rest[len..];
                fds.clear();
            }
            _ => return false,
        }
    }
    true
}
