//! A session's connection to `bailiwickd`, which counts the session as long as the connection lasts.
//!
//! When `bailiwickd` is replaced, the link connects again and resumes. When `bailiwickd` refuses, the link gives up. The
//! session goes on in either case.

use crate::Daemon;
use bailiwick_proto::frame::{MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::{ControlReply, ControlRequest, Incoming, TransportError, transport};
use bailiwick_sys::{socket, stream};
use bailiwick_types::SessionRecord;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The pause between two tries to connect again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The connection over which a session is counted.
#[derive(Debug)]
pub(crate) struct Link<'a> {
    daemon: &'a Daemon,
    record: SessionRecord,
    connection: Option<OwnedFd>,
    incoming: Incoming,
    /// When to connect again.
    retry_at: Option<Instant>,
}

impl<'a> Link<'a> {
    /// A link over the connection on which the session was let in. `record` identifies the session to the next `bailiwickd`.
    pub(crate) fn new(daemon: &'a Daemon, record: SessionRecord, connection: OwnedFd) -> Self {
        let mut link = Self { daemon, record, connection: None, incoming: Incoming::new(MAX_REPLY, 0), retry_at: None };
        // A session without a connection goes on, and is not counted.
        link.connection = stream::never_block(&connection).ok().map(|()| connection);
        link
    }

    /// The descriptor to poll for reading; `None` while there is no connection.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref().map(AsFd::as_fd)
    }

    /// When to call [`Self::tend`] even if nothing can be read.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Reads messages and connects again when it is time. Returns the reason when `bailiwickd` ends the session.
    pub(crate) fn tend(&mut self, input: Input) -> Option<String> {
        if input == Input::Ready
            && let Some(reason) = self.recv()
        {
            return Some(reason);
        }
        if self.retry_at.is_some_and(|retry_at| Instant::now() >= retry_at) {
            self.retry_at = None;
            self.resume();
        }
        None
    }

    fn recv(&mut self) -> Option<String> {
        let connection = self.connection.as_ref()?;
        match self.incoming.receive(connection) {
            Ok(1..) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Ok(_) | Err(_) => self.lose(),
        }
        loop {
            match self.incoming.take() {
                Ok(Some((ControlReply::End { reason }, _))) => return Some(reason),
                Ok(Some((ControlReply::Failed(_), _))) | Err(_) => {
                    // `bailiwickd` refuses the session. It will do so again, so there is no other try.
                    self.connection = None;
                    return None;
                }
                Ok(Some(_)) => {}
                Ok(None) => return None,
            }
        }
    }

    fn lose(&mut self) {
        self.connection = None;
        self.incoming = Incoming::new(MAX_REPLY, 0);
        self.retry_at = Some(Instant::now() + RETRY_PAUSE);
    }

    fn resume(&mut self) {
        let request = ControlRequest::Resume(Box::new(self.record.clone()));
        // A record fits into the buffer of any socket, so sending it does not block.
        let reached = socket::connect_at_once(&self.daemon.path)
            .map_err(TransportError::from)
            .and_then(|connection| transport::send(&connection, &request, MAX_REQUEST, &[]).map(|()| connection));
        match reached {
            Ok(connection) => self.connection = Some(connection),
            Err(_) => self.lose(),
        }
    }

    /// Reports how the session has ended.
    pub(crate) fn end(self, status: u8) {
        let Some(connection) = self.connection else { return };
        // A daemon that misses it learns from the closed connection that the session is over.
        drop(transport::send(&connection, &ControlRequest::Ended { status }, MAX_REQUEST, &[]));
    }
}

/// Whether the descriptor of a [`Link`] can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// It can be read, or its peer has gone.
    Ready,
    /// It was not reported by `poll(2)`.
    None,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::{Door, Moment, SessionId};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::Path;

    fn record() -> SessionRecord {
        SessionRecord {
            id: SessionId(7),
            tenant: "alice".parse().expect("a name"),
            door: Door::Ssh,
            user: "alice".to_owned(),
            source: None,
            key: None,
            command: Some("sh".to_owned()),
            since: Moment(1),
            uid: 1,
            pid: 2,
        }
    }

    fn listen(runtime: &Path) -> (Daemon, UnixListener) {
        let daemon = Daemon::of(runtime);
        std::fs::create_dir_all(daemon.path.parent().expect("has a parent")).expect("directory");
        drop(std::fs::remove_file(&daemon.path));
        let listener = UnixListener::bind(&daemon.path).expect("binds");
        (daemon, listener)
    }

    fn reply_with(to: &UnixStream, reply: &ControlReply) {
        transport::send(to, reply, MAX_REPLY, &[]).expect("sends");
    }

    fn next_request(from: &UnixStream) -> ControlRequest {
        let soon = Instant::now() + Duration::from_secs(10);
        transport::receive(from, &mut Incoming::new(MAX_REQUEST, 0), soon).expect("a request").0
    }

    #[test]
    fn the_daemon_can_end_a_session_and_learns_its_status() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let (daemon, _listener) = listen(temp.path());
        let (ours, theirs) = UnixStream::pair().expect("pair");
        let mut link = Link::new(&daemon, record(), ours.into());
        assert_eq!((link.tend(Input::None), link.tend(Input::Ready)), (None, None), "there is no message");
        reply_with(&theirs, &ControlReply::End { reason: "enough".to_owned() });
        assert_eq!(link.tend(Input::Ready).as_deref(), Some("enough"));
        link.end(7);
        assert_eq!(next_request(&theirs), ControlRequest::Ended { status: 7 });
    }

    #[test]
    fn a_new_daemon_gets_the_record() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let (daemon, listener) = listen(temp.path());
        let (ours, theirs) = UnixStream::pair().expect("pair");
        let mut link = Link::new(&daemon, record(), ours.into());
        drop(theirs);
        drop(listener);
        assert_eq!(link.tend(Input::Ready), None);
        assert!(link.fd().is_none() && link.due().is_some());
        let wait = |link: &mut Link<'_>| {
            std::thread::sleep(RETRY_PAUSE);
            link.tend(Input::None)
        };
        assert_eq!(wait(&mut link), None);
        assert!(link.fd().is_none() && link.due().is_some(), "nobody listens yet");
        let (_, listener) = listen(temp.path());
        assert_eq!(wait(&mut link), None);
        let (stream, _) = listener.accept().expect("connects");
        assert_eq!(next_request(&stream), ControlRequest::Resume(Box::new(record())));
        reply_with(
            &stream,
            &ControlReply::Failed(bailiwick_proto::Failure::of(bailiwick_types::ExitStatus::Refused, "no")),
        );
        assert_eq!(link.tend(Input::Ready), None);
        assert!(link.fd().is_none() && link.due().is_none(), "the daemon refused");
    }
}
