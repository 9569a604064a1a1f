//! The tenant's own socket, over which `bailiwick-service` lists and directs the supervised programs from inside.
//!
//! Each connection has one request, [`InitRequest::Services`] or [`InitRequest::ServiceVerb`], and one reply. There is no
//! greeting.
//!
//! Danger: every process inside can connect. Only root and the login user are heard, requests are bounded, and nothing here waits
//! for a peer.

use crate::services::Services;
use bailiwick_proto::frame::MAX_EVENT;
use bailiwick_proto::init::MAX_SERVICES_REPLY;
use bailiwick_proto::{Incoming, InitReply, InitRequest, Outgoing, time_limits};
use bailiwick_sys::socket::{self, SpareDescriptor};
use rustix::event::PollFlags;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// Where the socket is, inside.
pub(crate) const PATH: &str = "/run/bailiwick-service.sock";
/// Who is heard: root and the login user.
const HEARD: [u32; 2] = [0, crate::LOGIN];
/// The most connections at a time. Others wait in the queue of the socket.
const MAX_CONNECTIONS: usize = 8;

/// The socket and its connections.
#[derive(Debug)]
pub(crate) struct OwnSocket {
    /// `None` when it could not be made. The jail works without it.
    listener: Option<OwnedFd>,
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    /// When its time is over.
    until: Instant,
    incoming: Incoming,
    /// The reply; empty until the request is there.
    outgoing: Outgoing<OwnedFd>,
}

impl OwnSocket {
    /// Listens at `path`.
    pub(crate) fn new(path: &str) -> Self {
        Self { listener: listen(path).ok(), connections: Vec::new() }
    }

    /// The descriptors to wait for. When one is ready, [`Self::work`] has something to do.
    pub(crate) fn watched(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let has_room = self.connections.len() < MAX_CONNECTIONS;
        let listener = self.listener.iter().filter(move |_| has_room).map(|fd| (fd.as_fd(), PollFlags::IN));
        listener.chain(self.connections.iter().map(|connection| {
            let flags = if connection.outgoing.is_empty() { PollFlags::IN } else { PollFlags::OUT };
            (connection.socket.as_fd(), flags)
        }))
    }

    /// When [`Self::work`] has something to do without another event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.connections.iter().map(|connection| connection.until).min()
    }

    /// Accepts at most one connection, and takes every connection as far as it goes.
    pub(crate) fn work(&mut self, services: &mut Services, spare: &mut SpareDescriptor, now: Instant) {
        if let Some(listener) = &self.listener
            && self.connections.len() < MAX_CONNECTIONS
            && let Some(socket) = crate::accept(listener, spare)
        {
            self.connections.extend(Connection::new(socket, now));
        }
        self.connections.retain_mut(|connection| now < connection.until && connection.work(services));
    }
}

fn listen(path: &str) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    // Nothing of the tenant runs yet.
    rustix::fs::chmod(path, Mode::from_raw_mode(0o666))?;
    rustix::net::listen(&socket, 32)?;
    Ok(socket)
}

impl Connection {
    /// A connection of somebody who is heard. Anybody else gets the reply at once.
    fn new(socket: OwnedFd, now: Instant) -> Option<Self> {
        rustix::io::ioctl_fionbio(&socket, true).ok()?;
        if !socket::peer(&socket).is_ok_and(|peer| HEARD.contains(&peer.uid)) {
            let refused = Outgoing::<OwnedFd>::new(&InitReply::Refused, MAX_EVENT, Vec::new());
            drop(refused.map(|mut refused| refused.send(&socket)));
            return None;
        }
        let until = now + time_limits::INIT_REQUEST;
        Some(Self { socket, until, incoming: Incoming::new(MAX_EVENT, 0), outgoing: Outgoing::default() })
    }

    /// Goes as far as it can without waiting. Returns `false` when the connection is over.
    fn work(&mut self, services: &mut Services) -> bool {
        if self.outgoing.is_empty() {
            match self.incoming.receive(&self.socket) {
                Err(error) => return is_passing(&error),
                Ok(0) => return false,
                Ok(_) => {}
            }
            let request = match self.incoming.take() {
                Ok(Some((request, _))) => request,
                Ok(None) => return true,
                Err(_) => return false,
            };
            let reply = answer(request, services);
            let Ok(outgoing) = Outgoing::new(&reply, MAX_SERVICES_REPLY, Vec::new()) else { return false };
            self.outgoing = outgoing;
        }
        match self.outgoing.send(&self.socket) {
            Ok(_) => !self.outgoing.is_empty(),
            Err(error) => is_passing(&error),
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Only what the tenant may do with its own programs. Sessions and orders come from `bailiwickd` alone.
fn answer(request: InitRequest, services: &mut Services) -> InitReply {
    match request {
        InitRequest::Services => services.report(),
        InitRequest::ServiceVerb { name, verb } => services.verb(&name, verb),
        InitRequest::Spawn(_)
        | InitRequest::Probe { .. }
        | InitRequest::Crontab { .. }
        | InitRequest::Version
        | InitRequest::Service(_)
        | InitRequest::KeepServices { .. } => InitReply::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_proto::transport;
    use bailiwick_types::ServiceVerb;
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;
    use std::time::Duration;

    struct Own {
        socket: OwnSocket,
        services: Services,
        spare: SpareDescriptor,
        path: PathBuf,
        _folder: tempfile::TempDir,
    }

    fn own() -> Own {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("own.sock");
        let socket = OwnSocket::new(path.to_str().expect("text"));
        let spare = SpareDescriptor::new(socket.listener.as_ref().expect("it listens"));
        Own { socket, services: Services::new(), spare, path, _folder: folder }
    }

    impl Own {
        fn connect(&self) -> UnixStream {
            UnixStream::connect(&self.path).expect("connects")
        }

        fn work(&mut self) {
            self.socket.work(&mut self.services, &mut self.spare, Instant::now());
        }

        /// The reply to a request; `None` when the connection was closed without one.
        fn ask(&mut self, client: &UnixStream, request: &InitRequest) -> Option<InitReply> {
            transport::send(client, request, 4 * MAX_EVENT, &[]).expect("sent");
            self.work();
            let deadline = Instant::now() + Duration::from_secs(10);
            transport::receive(client, &mut Incoming::new(MAX_SERVICES_REPLY, 0), deadline).ok().map(|(reply, _)| reply)
        }
    }

    #[test]
    fn the_tenant_may_list_and_direct_and_nothing_else() {
        let mut own = own();
        let stop = InitRequest::ServiceVerb { name: "nothing".parse().expect("a name"), verb: ServiceVerb::Stop };
        let cases = [
            (InitRequest::Services, InitReply::Services(Vec::new())),
            (stop, InitReply::NoSuchService),
            (InitRequest::Version, InitReply::Refused),
            (InitRequest::Probe { canary: "/".to_owned() }, InitReply::Refused),
            (InitRequest::KeepServices { names: Vec::new() }, InitReply::Refused),
            (InitRequest::Crontab { path: "/".to_owned(), owner: 0, seen: None }, InitReply::Refused),
        ];
        for (request, reply) in cases {
            let client = own.connect();
            assert_eq!(own.ask(&client, &request), Some(reply), "{request:?}");
            assert!(own.socket.connections.is_empty(), "one request each");
        }
        assert_eq!(rustix::fs::stat(&own.path).expect("there").st_mode & 0o777, 0o666);
    }

    #[test]
    fn others_inside_are_refused() {
        let mut own = own();
        let path = own.path.clone();
        for parent in path.ancestors().skip(1).take(1) {
            rustix::fs::chmod(parent, Mode::from_raw_mode(0o755)).expect("opened to all");
        }
        let as_somebody = move || {
            // Another user, for this thread alone.
            let somebody = rustix::fs::Uid::from_raw(33);
            rustix::thread::set_thread_res_uid(somebody, somebody, somebody).expect("another user");
            UnixStream::connect(&path).expect("connects")
        };
        let client = std::thread::spawn(as_somebody).join().expect("connects");
        assert_eq!(own.ask(&client, &InitRequest::Services), Some(InitReply::Refused));
        assert!(own.socket.connections.is_empty());
    }

    #[test]
    fn silent_ones_are_bounded_in_number_and_time() {
        let mut own = own();
        let clients: Vec<UnixStream> = (0..MAX_CONNECTIONS + 2).map(|_| own.connect()).collect();
        for _ in &clients {
            own.work();
        }
        assert_eq!(own.socket.connections.len(), MAX_CONNECTIONS);
        // With no room, the listener is not waited for: that would spin.
        assert_eq!(own.socket.watched().count(), MAX_CONNECTIONS);
        let end = own.socket.deadline().expect("a deadline");
        assert!(end <= Instant::now() + time_limits::INIT_REQUEST);
        own.socket.work(&mut own.services, &mut own.spare, end + time_limits::INIT_REQUEST);
        assert!(own.socket.connections.is_empty() && own.socket.deadline().is_none());
    }

    #[test]
    fn what_is_too_long_or_no_request_ends_the_connection() {
        for bytes in [&[0xff; 4][..], &[2, 0, 0, 0, b'{', b'x'], &[]] {
            let mut own = own();
            let client = own.connect();
            socket::send(&client, bytes, &[]).expect("sent");
            own.work();
            assert_eq!(own.socket.connections.len(), usize::from(bytes.is_empty()), "{bytes:?}");
            drop(client);
            own.work();
            assert!(own.socket.connections.is_empty());
        }
        // A descriptor that comes uninvited is closed, and a request may come in parts.
        let mut own = own();
        let client = own.connect();
        let (reader, writer) = io::pipe().expect("a pipe");
        socket::send(&client, &[10, 0, 0], &[writer.as_fd()]).expect("sent");
        own.work();
        assert_eq!(own.socket.connections.len(), 1);
        drop(writer);
        assert!(io::Read::read(&mut &reader, &mut [0]).is_ok_and(|len| len == 0), "nobody holds the other end");
        socket::send(&client, b"\0\"services\"", &[]).expect("sent");
        own.work();
        let deadline = Instant::now() + Duration::from_secs(10);
        let got = transport::receive::<InitReply>(&client, &mut Incoming::new(MAX_SERVICES_REPLY, 0), deadline);
        assert_eq!(got.expect("a reply").0, InitReply::Services(Vec::new()));
    }
}
