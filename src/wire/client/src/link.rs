//! A session's connection to `bailiwickd`, which counts it for as long as this client is there: kept, made anew when
//! `bailiwickd` is replaced, and given up when it no longer wants to know. The session goes on without it.

use crate::Daemon;
use bailiwick_proto::frame::{MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::{ControlReply, ControlRequest, Incoming, TransportError, transport};
use bailiwick_sys::{socket, stream};
use bailiwick_types::SessionRecord;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Between two tries to reach a `bailiwickd` that is gone.
const AGAIN: Duration = Duration::from_millis(500);

/// Who counts a session.
#[derive(Debug)]
pub(crate) struct Link<'a> {
    daemon: &'a Daemon,
    record: SessionRecord,
    connection: Option<OwnedFd>,
    incoming: Incoming,
    /// When to look for `bailiwickd` again.
    again: Option<Instant>,
}

impl<'a> Link<'a> {
    /// Over the connection on which the session was let in.
    pub(crate) fn new(daemon: &'a Daemon, record: SessionRecord, connection: OwnedFd) -> Self {
        let mut link = Self { daemon, record, connection: None, incoming: Incoming::new(MAX_REPLY, 0), again: None };
        // Without it the session is not counted, and goes on.
        link.connection = stream::never_block(&connection).ok().map(|()| connection);
        link
    }

    /// What to wait for.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref().map(AsFd::as_fd)
    }

    /// When [`Self::tend`] has something to do though nothing was heard.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.again
    }

    /// Hears what there is, if there is something, and looks for a new `bailiwickd` when it is time. The reason why the
    /// session is to end, if it is.
    pub(crate) fn tend(&mut self, is_heard: bool) -> Option<String> {
        if is_heard {
            let reason = self.recv();
            if reason.is_some() {
                return reason;
            }
        }
        if self.again.is_some_and(|again| Instant::now() >= again) {
            self.again = None;
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
                    // It does not want to know, now or later.
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
        self.again = Some(Instant::now() + AGAIN);
    }

    fn resume(&mut self) {
        let request = ControlRequest::Resume(Box::new(self.record.clone()));
        // A record fits into any socket's buffer: sending it does not wait.
        let reached = socket::connect_at_once(&self.daemon.path)
            .map_err(TransportError::from)
            .and_then(|connection| transport::send(&connection, &request, MAX_REQUEST, &[]).map(|()| connection));
        match reached {
            Ok(connection) => self.connection = Some(connection),
            Err(_) => self.lose(),
        }
    }

    /// Tells how the session has ended.
    pub(crate) fn end(self, status: u8) {
        let Some(connection) = self.connection else { return };
        // A daemon that misses it learns from the closed connection that the session is over.
        drop(transport::send(&connection, &ControlRequest::Ended { status }, MAX_REQUEST, &[]));
    }
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

    fn tell(to: &UnixStream, reply: &ControlReply) {
        transport::send(to, reply, MAX_REPLY, &[]).expect("sends");
    }

    fn told(from: &UnixStream) -> ControlRequest {
        let soon = Instant::now() + Duration::from_secs(10);
        transport::receive(from, &mut Incoming::new(MAX_REQUEST, 0), soon).expect("a request").0
    }

    #[test]
    fn a_reason_to_end_is_heard_and_the_end_is_told() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let (daemon, _listener) = listen(temp.path());
        let (ours, theirs) = UnixStream::pair().expect("pair");
        let mut link = Link::new(&daemon, record(), ours.into());
        assert_eq!((link.tend(false), link.tend(true)), (None, None), "nothing is there");
        tell(&theirs, &ControlReply::End { reason: "enough".to_owned() });
        assert_eq!(link.tend(true).as_deref(), Some("enough"));
        link.end(7);
        assert_eq!(told(&theirs), ControlRequest::Ended { status: 7 });
    }

    #[test]
    fn a_new_daemon_is_told_who_is_in() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let (daemon, listener) = listen(temp.path());
        let (ours, theirs) = UnixStream::pair().expect("pair");
        let mut link = Link::new(&daemon, record(), ours.into());
        drop(theirs);
        drop(listener);
        assert_eq!(link.tend(true), None);
        assert!(link.fd().is_none() && link.due().is_some());
        let wait = |link: &mut Link<'_>| {
            std::thread::sleep(AGAIN);
            link.tend(false)
        };
        assert_eq!(wait(&mut link), None);
        assert!(link.fd().is_none() && link.due().is_some(), "nobody listens yet");
        let (_, listener) = listen(temp.path());
        assert_eq!(wait(&mut link), None);
        let (stream, _) = listener.accept().expect("connects");
        assert_eq!(told(&stream), ControlRequest::Resume(Box::new(record())));
        tell(&stream, &ControlReply::Failed(bailiwick_proto::Failure::of(bailiwick_types::ExitStatus::Refused, "no")));
        assert_eq!(link.tend(true), None);
        assert!(link.fd().is_none() && link.due().is_none(), "it does not want to know");
    }
}
