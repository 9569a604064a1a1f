//! Asking `bailiwickd`: one connection a request, progress on the way, descriptors beside either.

use bailiwick_proto::frame::{MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::{
    CONTROL_SOCKET, ControlReply, ControlRequest, Failure, FrameError, Incoming, Outgoing, TransportError,
};
use bailiwick_sys::{process, socket};
use bailiwick_types::ExitStatus;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Work that is over sooner is not worth a moving line.
const PATIENCE: Duration = Duration::from_millis(500);

/// Who hears nothing for so long may wonder why.
const LONG: Duration = Duration::from_millis(1500);

/// Who is waited for when a request takes long.
fn waited_for(request: &ControlRequest) -> &'static str {
    match request {
        ControlRequest::Exec(_) | ControlRequest::Login(_) => "bailiwickd and init of the jail",
        ControlRequest::EndSessions { .. } => "bailiwickd and the clients of the sessions",
        _ => "bailiwickd",
    }
}

/// Where `bailiwickd` listens.
#[derive(Debug)]
pub struct Daemon {
    pub(crate) path: PathBuf,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error(
        "bailiwickd does not answer on \"{}\"; start it with \"systemctl start bailiwick.target\" or \"bailiwickd \
         --standalone\"",
        path.display()
    )]
    NoAnswer {
        /// Where it should listen.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its socket is closed to this user.
    #[error("not allowed to talk to bailiwickd on \"{}\"; be root or one of its admins", path.display())]
    Denied {
        /// Where it listens.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The request was not taken.
    #[error("cannot send the request to bailiwickd")]
    Send(#[source] io::Error),
    /// It is larger than a request may be.
    #[error("the request is too large")]
    Request(#[source] FrameError),
    /// Reading failed.
    #[error("cannot read the reply of bailiwickd")]
    Receive(#[source] io::Error),
    /// It closed the connection.
    #[error("bailiwickd ended the connection without a reply; see its log")]
    Ended,
    /// The reply is no message of the protocol.
    #[error("the reply of bailiwickd cannot be understood; are \"bailiwick\" and \"bailiwickd\" of one version?")]
    Reply(#[source] FrameError),
    /// The reply is one to another request.
    #[error("bailiwickd answered something else than was asked; are \"bailiwick\" and \"bailiwickd\" of one version?")]
    Unexpected,
    /// It said why it cannot.
    #[error(transparent)]
    Failed(Failure),
}

impl AskError {
    /// Whether nobody is there.
    #[must_use]
    pub fn is_no_answer(&self) -> bool {
        matches!(self, Self::NoAnswer { .. })
    }
}

impl From<TransportError> for AskError {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Ended => Self::Ended,
            TransportError::Frame(error) => Self::Reply(error),
            TransportError::Descriptors => Self::Unexpected,
            error => Self::Receive(error.into()),
        }
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Failed(failure) => failure,
            AskError::Denied { .. } => Self::new(ExitStatus::Refused, &error),
            AskError::Request(_) => Self::new(ExitStatus::Invalid, &error),
            _ => Self::new(ExitStatus::Failed, &error),
        }
    }
}

/// A reply with what came beside it. The connection lives as long as this does.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) reply: ControlReply,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) connection: UnixStream,
}

/// A request that was sent. Its connection is readable when there is something of an answer.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) connection: UnixStream,
    progress: Progress,
}

impl Asked {
    /// How long to wait for an answer before [`Self::wonder`] has something to say; `None` when it has been said.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.progress.patience()
    }

    /// Says what is waited for, once it is waited for long enough.
    pub(crate) fn wonder(&mut self) {
        self.progress.wonder();
    }

    /// Waits for the last reply, and takes at most `max_fds` beside it.
    pub(crate) fn answer(mut self, max_fds: usize) -> Result<Answer, AskError> {
        let (reply, fds) = read_reply(self.connection.as_fd(), max_fds, &mut self.progress)?;
        match reply {
            ControlReply::Failed(failure) => Err(AskError::Failed(failure)),
            reply => Ok(Answer { reply, fds, connection: self.connection }),
        }
    }
}

impl Daemon {
    /// The daemon whose runtime directory this is.
    #[must_use]
    pub fn of(runtime_dir: &Path) -> Self {
        Self { path: runtime_dir.join(CONTROL_SOCKET) }
    }

    /// Asks, and waits for the last reply. Standard error is told when that takes long, and shown the progress where it is a terminal.
    ///
    /// # Errors
    /// Why there is no reply. A failure that the daemon reports is one.
    pub fn ask(&self, request: &ControlRequest) -> Result<ControlReply, AskError> {
        Ok(self.send(request, &[])?.answer(0)?.reply)
    }

    /// Sends a request with descriptors beside it.
    pub(crate) fn send(&self, request: &ControlRequest, fds: &[BorrowedFd<'_>]) -> Result<Asked, AskError> {
        let mut outgoing = Outgoing::new(request, MAX_REQUEST, fds.to_vec()).map_err(AskError::Request)?;
        let mut progress = Progress::new(waited_for(request));
        let connection = self.connect(&mut progress)?;
        while !outgoing.is_empty() {
            match outgoing.send(&connection) {
                Ok(_) => progress.wonder(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    progress.say();
                    connection.set_write_timeout(None).map_err(AskError::Send)?;
                }
                // Whoever is turned away is told why before its request is heard: that is the answer.
                Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    break;
                }
                Err(error) => return Err(AskError::Send(error)),
            }
        }
        Ok(Asked { connection, progress })
    }

    /// A connection on which a write waits as long as one may without a word.
    fn connect(&self, progress: &mut Progress) -> Result<UnixStream, AskError> {
        let connect = |patience| socket::connect_within(&self.path, patience).map(UnixStream::from);
        let connected = match connect(Some(LONG)) {
            // So many wait already that there is no room to wait beside them.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                progress.say();
                connect(None)
            }
            connected => connected,
        };
        connected.map_err(|source| {
            let path = self.path.clone();
            if source.kind() == io::ErrorKind::PermissionDenied {
                AskError::Denied { path, source }
            } else {
                AskError::NoAnswer { path, source }
            }
        })
    }
}

/// Reads up to the last reply.
fn read_reply(
    connection: BorrowedFd<'_>,
    max_fds: usize,
    progress: &mut Progress,
) -> Result<(ControlReply, Vec<OwnedFd>), AskError> {
    let mut incoming = Incoming::new(MAX_REPLY, max_fds);
    loop {
        progress.wait(connection);
        match incoming.receive(connection) {
            Ok(0) => return Err(AskError::Ended),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other.map_err(TransportError::from)?,
        };
        while let Some((reply, fds)) = incoming.take()? {
            match reply {
                ControlReply::Progress { done, total } => progress.show(done, total),
                reply => return Ok((reply, fds)),
            }
        }
    }
}

/// What is told on standard error while the answer takes its time: on a terminal one moving line, elsewhere once what is waited for.
#[derive(Debug)]
struct Progress {
    /// Who is waited for.
    who: &'static str,
    since: Instant,
    /// When there was the last sign of life.
    heard: Instant,
    watched: bool,
    /// Whether the moving line is there.
    shown: bool,
    /// Whether it was said what is waited for.
    said: bool,
}

impl Progress {
    fn new(who: &'static str) -> Self {
        let now = Instant::now();
        Self { who, since: now, heard: now, watched: io::stderr().is_terminal(), shown: false, said: false }
    }

    /// Waits for something to read; says so when that takes long. The service manager listens also for a daemon that is not
    /// there, and one that cannot start would never answer.
    fn wait(&mut self, connection: BorrowedFd<'_>) {
        while let Some(patience) = self.patience() {
            // What cannot be waited for is told by the read that follows.
            if !matches!(process::readable(connection, patience), Ok(false)) {
                return;
            }
            self.wonder();
        }
    }

    fn patience(&self) -> Option<Duration> {
        (!self.said).then(|| LONG.saturating_sub(self.heard.elapsed()))
    }

    fn wonder(&mut self) {
        if self.heard.elapsed() >= LONG {
            self.say();
        }
    }

    fn say(&mut self) {
        if self.said {
            return;
        }
        self.said = true;
        let who = self.who;
        let waiting = format!(
            "waiting for {who}; \"systemctl status bailiwickd bailiwick-warden\" says how bailiwickd and the warden are"
        );
        let text = if self.watched { format!("\r{waiting}\x1b[K") } else { format!("bailiwick: {waiting}\n") };
        self.shown |= self.watched;
        io::stderr().write_all(text.as_bytes()).ok();
    }

    fn show(&mut self, done: u64, total: u64) {
        self.heard = Instant::now();
        if self.watched && self.since.elapsed() >= PATIENCE {
            self.shown = true;
            // Nobody misses a line of progress that cannot be written.
            io::stderr().write_all(line(done, total).as_bytes()).ok();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            io::stderr().write_all(b"\r\x1b[K").ok();
        }
    }
}

fn line(done: u64, total: u64) -> String {
    const WIDTH: u64 = 30;
    // Nothing to do is all done.
    let filled = done.min(total).saturating_mul(WIDTH).checked_div(total).unwrap_or(WIDTH);
    let bar: String = (0..WIDTH).map(|position| if position < filled { '#' } else { '.' }).collect();
    format!("\r[{bar}] {done} of {total} tenants\x1b[K")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;
    use bailiwick_proto::transport;

    #[test]
    fn nobody_there_names_the_socket_and_the_remedy() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let error = Daemon::of(temp.path()).ask(&ControlRequest::List).expect_err("nobody listens");
        assert!(error.is_no_answer());
        let failure = Failure::from(error);
        assert_eq!(failure.status, ExitStatus::Failed);
        let socket = format!("\"{}\"", temp.path().join(CONTROL_SOCKET).display());
        for part in ["bailiwickd does not answer on ", &socket, "systemctl start bailiwick.target", "--standalone"] {
            assert!(failure.message.contains(part), "{}", failure.message);
        }
    }

    #[test]
    fn who_is_turned_away_unheard_hears_why() {
        let temp = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir_all(temp.path().join(CONTROL_SOCKET).parent().expect("a parent")).expect("makes");
        let listener = std::os::unix::net::UnixListener::bind(temp.path().join(CONTROL_SOCKET)).expect("binds");
        let failure = Failure::of(ExitStatus::OverLimit, "no place");
        let reply = ControlReply::Failed(failure.clone());
        let turn_away = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("accepts");
            transport::send(&stream, &reply, MAX_REPLY, &[]).expect("sends");
        });
        // Larger than what a socket holds: it is still being sent when the other end goes.
        let request = ControlRequest::FtpHash { user: "x".repeat(MAX_REQUEST - 64) };
        let daemon = Daemon::of(temp.path());
        assert_eq!(Failure::from(daemon.ask(&request).expect_err("turned away")), failure);
        turn_away.join().expect("ends");
    }

    #[test]
    fn a_stale_socket_is_nobody_too() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let (daemon, served) = fake(temp.path(), Vec::new());
        served.join().expect("ends at once");
        assert!(daemon.ask(&ControlRequest::List).expect_err("nobody listens").is_no_answer());
    }

    #[test]
    fn progress_is_passed_over_and_failures_are_errors() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let failure = Failure::of(ExitStatus::NotFound, "no tenant \"bob\"");
        let (daemon, served) = fake(
            temp.path(),
            vec![
                vec![ControlReply::Progress { done: 1, total: 2 }, ControlReply::List(Vec::new())],
                vec![ControlReply::Failed(failure.clone())],
                Vec::new(),
            ],
        );
        assert_eq!(daemon.ask(&ControlRequest::List).expect("answered"), ControlReply::List(Vec::new()));
        let error = daemon.ask(&ControlRequest::Reload).expect_err("failed");
        assert_eq!(Failure::from(error), failure);
        assert!(matches!(daemon.ask(&ControlRequest::Status), Err(AskError::Ended)));
        let asked = served.join().expect("served");
        assert_eq!(asked, [ControlRequest::List, ControlRequest::Reload, ControlRequest::Status]);
    }

    #[test]
    fn descriptors_that_nobody_asked_for_are_closed() {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        let (reader, _writer) = io::pipe().expect("pipe");
        let send = || {
            let reply = ControlReply::List(Vec::new());
            transport::send(&theirs, &reply, MAX_REPLY, &[reader.as_fd()]).expect("sends");
        };
        send();
        let (_, fds) = read_reply(ours.as_fd(), 0, &mut Progress::new("bailiwickd")).expect("read");
        assert!(fds.is_empty());
        send();
        let (_, fds) = read_reply(ours.as_fd(), 1, &mut Progress::new("bailiwickd")).expect("read");
        assert_eq!(fds.len(), 1);
    }

    #[test]
    fn who_is_waited_for_is_named() {
        let end = ControlRequest::EndSessions { sessions: Vec::new(), tenants: Vec::new(), reason: None };
        assert_eq!(waited_for(&end), "bailiwickd and the clients of the sessions");
        assert_eq!(waited_for(&ControlRequest::List), "bailiwickd");
    }

    #[test]
    fn the_line_of_progress_is_bounded() {
        assert!(line(0, 10).contains("[..............................] 0 of 10"));
        assert!(line(5, 10).contains("[###############...............] 5 of 10"));
        assert!(line(99, 10).contains(&format!("[{}]", "#".repeat(30))));
        assert!(line(0, 0).contains("0 of 0"));
    }
}
