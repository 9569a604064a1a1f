//! Requests to `bailiwickd`: one connection for each, with progress on standard error while it takes long.

use bailiwick_proto::control::EventsWanted;
use bailiwick_proto::frame::{MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::{
    CONTROL_SOCKET, ControlReply, ControlRequest, Failure, FrameError, Incoming, Outgoing, TransportError,
};
use bailiwick_sys::stream::{self, Interest};
use bailiwick_sys::{process, socket};
use bailiwick_types::ExitStatus;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a request may take before its progress is shown.
const PROGRESS_AFTER: Duration = Duration::from_millis(500);

/// How long `bailiwickd` may be silent before a notice says what is waited for.
const NOTICE_AFTER: Duration = Duration::from_millis(1500);

/// The programs that a request waits for.
fn waited_for(request: &ControlRequest) -> &'static str {
    match request {
        ControlRequest::Exec(_) | ControlRequest::Login(_) => "bailiwickd and init of the jail",
        ControlRequest::EndSessions { .. } => "bailiwickd and the clients of the sessions",
        ControlRequest::Network { .. } => "bailiwickd and bailiwick-net",
        _ => "bailiwickd",
    }
}

/// The address of a `bailiwickd`. It holds no connection: each request makes one.
#[derive(Debug)]
pub struct Daemon {
    pub(crate) path: PathBuf,
}

/// Why a request has no reply. [`Failure::from`] turns it into a message and an exit status.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens on the socket.
    #[error(
        "bailiwickd does not answer on \"{}\"; start it with \"systemctl start bailiwick.target\" or \"bailiwickd \
         --standalone\"",
        path.display()
    )]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// The error of `connect(2)`.
        source: io::Error,
    },
    /// The permissions of the socket exclude this user.
    #[error("not allowed to talk to bailiwickd on \"{}\"; be root or one of its admins", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
        /// The error of `connect(2)`.
        source: io::Error,
    },
    /// Sending the request failed.
    #[error("cannot send the request to bailiwickd")]
    Send(#[source] io::Error),
    /// The request is larger than [`MAX_REQUEST`].
    #[error("the request is too large")]
    Request(#[source] FrameError),
    /// Reading the reply failed.
    #[error("cannot read the reply of bailiwickd")]
    Receive(#[source] io::Error),
    /// `bailiwickd` closed the connection.
    #[error("bailiwickd ended the connection without a reply; see its log")]
    Ended,
    /// It did not answer in the time that the caller has.
    #[error("bailiwickd has not answered in time; see its log")]
    Late,
    /// The reply is no message of this protocol.
    #[error("the reply of bailiwickd cannot be understood; are \"bailiwick\" and \"bailiwickd\" of one version?")]
    Reply(#[source] FrameError),
    /// The reply does not belong to the request.
    #[error("bailiwickd sent a reply to another request; are \"bailiwick\" and \"bailiwickd\" of one version?")]
    Unexpected,
    /// `bailiwickd` could not do it, and says why.
    #[error(transparent)]
    Failed(Failure),
}

impl AskError {
    /// Whether nobody listens on the socket.
    #[must_use]
    pub fn is_no_answer(&self) -> bool {
        matches!(self, Self::NoAnswer { .. })
    }
}

impl From<TransportError> for AskError {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Ended => Self::Ended,
            TransportError::Late => Self::Late,
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

/// A reply, the descriptors beside it, and the connection, which stays open.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) reply: ControlReply,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) connection: UnixStream,
}

/// A request that was sent and has no reply yet. Its connection can be read when a part of the reply has come.
#[derive(Debug)]
pub(crate) struct PendingRequest {
    pub(crate) connection: UnixStream,
    progress: Progress,
}

impl PendingRequest {
    /// How long to wait before calling [`Self::notice_if_slow`]; `None` once the notice was shown.
    pub(crate) fn time_until_notice(&self) -> Option<Duration> {
        self.progress.time_until_notice()
    }

    /// Shows what is waited for, if `bailiwickd` has been silent for [`NOTICE_AFTER`].
    pub(crate) fn notice_if_slow(&mut self) {
        self.progress.notice_if_slow();
    }

    /// Blocks until the last reply has come. Accepts at most `max_fds` descriptors beside it.
    pub(crate) fn answer(mut self, max_fds: usize) -> Result<Answer, AskError> {
        let (reply, fds) = read_reply(self.connection.as_fd(), max_fds, &mut self.progress)?;
        match reply {
            ControlReply::Failed(failure) => Err(AskError::Failed(failure)),
            reply => Ok(Answer { reply, fds, connection: self.connection }),
        }
    }
}

impl Daemon {
    /// The daemon with this runtime directory (`runtime_dir` of `bailiwick.toml`). Nothing is opened yet.
    #[must_use]
    pub fn of(runtime_dir: &Path) -> Self {
        Self { path: runtime_dir.join(CONTROL_SOCKET) }
    }

    /// Sends a request and blocks until the last reply has come, without a time limit. A notice on standard error says when this
    /// takes long. Progress is shown there only if it is a terminal.
    ///
    /// # Errors
    /// Why there is no reply. [`ControlReply::Failed`] is an error too ([`AskError::Failed`]).
    ///
    /// # Examples
    /// ```no_run
    /// use bailiwick_client::Daemon;
    /// use bailiwick_proto::{ControlReply, ControlRequest};
    /// use std::path::Path;
    ///
    /// let daemon = Daemon::of(Path::new("/run/bailiwick"));
    /// if let ControlReply::List(tenants) = daemon.ask(&ControlRequest::List)? {
    ///     for tenant in tenants {
    ///         println!("{} is {}", tenant.name, tenant.state.word());
    ///     }
    /// }
    /// # Ok::<(), bailiwick_client::AskError>(())
    /// ```
    pub fn ask(&self, request: &ControlRequest) -> Result<ControlReply, AskError> {
        Ok(self.send(request, &[])?.answer(0)?.reply)
    }

    /// Sends a request as [`Self::ask`] does, and returns `None` when `interrupt` can be read before the reply has begun.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn ask_until(
        &self,
        request: &ControlRequest,
        interrupt: BorrowedFd<'_>,
    ) -> Result<Option<ControlReply>, AskError> {
        let pending = self.send(request, &[])?;
        loop {
            let watched = [(interrupt, Interest::Read), (pending.connection.as_fd(), Interest::Read)];
            match stream::wait(&watched, None).map_err(AskError::Receive)?.as_slice() {
                [true, ..] => return Ok(None),
                [_, true] => return Ok(Some(pending.answer(0)?.reply)),
                // A signal that is not blocked.
                _ => {}
            }
        }
    }

    /// Connects and sends a request with descriptors beside it.
    pub(crate) fn send(&self, request: &ControlRequest, fds: &[BorrowedFd<'_>]) -> Result<PendingRequest, AskError> {
        let mut outgoing = Outgoing::new(request, MAX_REQUEST, fds.to_vec()).map_err(AskError::Request)?;
        let mut progress = Progress::new(waited_for(request));
        // This request is one to wait.
        progress.has_noticed = matches!(request, ControlRequest::Events(EventsWanted { wait: true, .. }));
        let connection = self.connect(&mut progress)?;
        while !outgoing.is_empty() {
            match outgoing.send(&connection) {
                Ok(_) => progress.notice_if_slow(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    progress.show_notice();
                    connection.set_write_timeout(None).map_err(AskError::Send)?;
                }
                // A client that is turned away gets the reason before its request is read. The reason is the reply.
                Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    break;
                }
                Err(error) => return Err(AskError::Send(error)),
            }
        }
        Ok(PendingRequest { connection, progress })
    }

    /// Connects. Writes to the connection block for at most [`NOTICE_AFTER`].
    fn connect(&self, progress: &mut Progress) -> Result<UnixStream, AskError> {
        let connect = |limit| socket::connect_within(&self.path, limit).map(UnixStream::from);
        let connected = match connect(Some(NOTICE_AFTER)) {
            // The queue of the socket is full.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                progress.show_notice();
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

/// Reads replies and shows the progress until the last one has come.
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

/// What standard error shows while a request takes long: one changing line on a terminal, and elsewhere one notice.
#[derive(Debug)]
struct Progress {
    /// The programs that are waited for.
    who: &'static str,
    since: Instant,
    last_progress: Instant,
    /// Whether standard error is a terminal.
    is_terminal: bool,
    /// Whether the changing line must be erased at the end.
    has_line: bool,
    has_noticed: bool,
}

impl Progress {
    fn new(who: &'static str) -> Self {
        let now = Instant::now();
        let is_terminal = io::stderr().is_terminal();
        Self { who, since: now, last_progress: now, is_terminal, has_line: false, has_noticed: false }
    }

    /// Blocks until there is something to read, and shows the notice when that takes long. The notice is needed because the
    /// service manager also listens for a daemon that cannot start, and that one never answers.
    fn wait(&mut self, connection: BorrowedFd<'_>) {
        while let Some(time) = self.time_until_notice() {
            // The read that follows reports an error of poll(2) as well.
            if !matches!(process::readable(connection, time), Ok(false)) {
                return;
            }
            self.notice_if_slow();
        }
    }

    fn time_until_notice(&self) -> Option<Duration> {
        (!self.has_noticed).then(|| NOTICE_AFTER.saturating_sub(self.last_progress.elapsed()))
    }

    fn notice_if_slow(&mut self) {
        if self.last_progress.elapsed() >= NOTICE_AFTER {
            self.show_notice();
        }
    }

    fn show_notice(&mut self) {
        if self.has_noticed {
            return;
        }
        self.has_noticed = true;
        let who = self.who;
        let waiting = format!(
            "waiting for {who}; \"systemctl status bailiwickd bailiwick-warden\" says how bailiwickd and the warden are"
        );
        let text = if self.is_terminal { format!("\r{waiting}\x1b[K") } else { format!("bailiwick: {waiting}\n") };
        self.has_line |= self.is_terminal;
        io::stderr().write_all(text.as_bytes()).ok();
    }

    fn show(&mut self, done: u64, total: u64) {
        self.last_progress = Instant::now();
        if self.is_terminal && self.since.elapsed() >= PROGRESS_AFTER {
            self.has_line = true;
            // A line of progress that cannot be written is not worth an error.
            io::stderr().write_all(line(done, total).as_bytes()).ok();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.has_line {
            io::stderr().write_all(b"\r\x1b[K").ok();
        }
    }
}

fn line(done: u64, total: u64) -> String {
    const WIDTH: u64 = 30;
    // A total of zero counts as done.
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
    fn a_missing_daemon_is_reported_with_its_socket_and_the_remedy() {
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
    fn a_client_that_is_turned_away_early_gets_the_reason() {
        let temp = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir_all(temp.path().join(CONTROL_SOCKET).parent().expect("a parent")).expect("makes");
        let listener = std::os::unix::net::UnixListener::bind(temp.path().join(CONTROL_SOCKET)).expect("binds");
        let failure = Failure::of(ExitStatus::OverLimit, "no place");
        let reply = ControlReply::Failed(failure.clone());
        let turn_away = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("accepts");
            transport::send(&stream, &reply, MAX_REPLY, &[]).expect("sends");
        });
        // The request is larger than the buffer of a socket, so it is still being sent when the other end closes.
        let request = ControlRequest::FtpHash { user: "x".repeat(MAX_REQUEST - 64) };
        let daemon = Daemon::of(temp.path());
        assert_eq!(Failure::from(daemon.ask(&request).expect_err("turned away")), failure);
        turn_away.join().expect("ends");
    }

    #[test]
    fn a_stale_socket_is_a_missing_daemon() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let (daemon, served) = fake(temp.path(), Vec::new());
        served.join().expect("ends at once");
        assert!(daemon.ask(&ControlRequest::List).expect_err("nobody listens").is_no_answer());
    }

    #[test]
    fn progress_is_skipped_and_failures_are_errors() {
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
    fn the_notice_names_who_is_waited_for() {
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
