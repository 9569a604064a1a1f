//! A session: hands pipes or a terminal's size to `bailiwickd`, then attends the session until it ends.
//!
//! Once the session has started, only its channel counts: `bailiwickd` may die and the session goes on.
//!
//! Danger: the other end of the channel is init, which belongs to the tenant. It may say anything at any time. It
//! decides the exit status and what is written to the operator's streams, and nothing else; what it hands over as a
//! terminal is looked at before a byte goes to it.

use crate::daemon::{AskError, Asked, Daemon};
use crate::link::Link;
use crate::pump::{Outlet, Pump};
use bailiwick_proto::control::{Exec, Login};
use bailiwick_proto::init::WindowSize;
use bailiwick_proto::{
    Bytes, ControlReply, ControlRequest, Failure, FrameError, SessionEvent, SessionSignal, TransportError, transport,
};
use bailiwick_sys::signal::{self, SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGWINCH, Signals};
use bailiwick_sys::stream::{self, Direction, Interest};
use bailiwick_sys::terminal;
use bailiwick_types::{Door, ExitStatus, TenantName};
use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The character that means the end of a file to a terminal (`VEOF` of `termios(3)`).
const END_OF_FILE: &[u8] = b"\x04";
/// What a terminal is said to be when nobody knows.
const USUAL: WindowSize = WindowSize { rows: 24, columns: 80 };
/// How long a signal waits for the command to start; after that it ends the session that does not begin.
const EARLY_TIME: Duration = Duration::from_secs(1);
/// How long a command that is to end may take after each signal.
const END_TIME: Duration = Duration::from_secs(1);
/// How long init may take to begin what it took.
const BEGIN_TIME: Duration = Duration::from_secs(10);
/// How long what an operator's command left behind may still say something after its end.
const LATE_TIME: Duration = Duration::from_secs(1);

/// Why a session failed, other than through its command.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("cannot {step}")]
    Local {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the jail ended")]
    JailEnded,
    #[error("the session was ended: {0}")]
    Ended(String),
    #[error("who read what it says has gone")]
    Abandoned,
    #[error("init of the jail took the session and does not begin it; its tenant may have stopped it")]
    NotBegun,
    #[error("the session could not be set up")]
    Setup(#[source] io::Error),
    #[error("cannot enter the directory that the command is to run in")]
    Directory(#[source] io::Error),
    #[error("cannot execute \"{command}\"")]
    NotExecuted {
        command: String,
        #[source]
        source: io::Error,
    },
    #[error("init of the jail said what no session says")]
    Misspoken(#[source] FrameError),
    #[error("init of the jail said more than a session says")]
    Overlong(#[source] io::Error),
    #[error("init of the jail named signal {0}, which does not exist")]
    NoSignal(u8),
    #[error("init of the jail handed over something that is no terminal")]
    NoTerminal,
}

impl SessionError {
    fn local(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Local { step, source }
    }

    fn status(&self) -> ExitStatus {
        match self {
            Self::NotExecuted { source, .. } if source.kind() == ErrorKind::NotFound => ExitStatus::CommandNotFound,
            Self::NotExecuted { .. } => ExitStatus::CannotExecute,
            Self::Ended(_) => ExitStatus::Refused,
            _ => ExitStatus::ExecFailed,
        }
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Self::new(error.status(), &error)
    }
}

/// Whether the command gets a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Three pipes.
    Pipes,
    /// One of the jail's own, as large as ours.
    Terminal,
}

/// What somebody wants to run in a jail.
#[derive(Debug)]
pub struct SessionSpec {
    /// Who it is and what it runs.
    pub caller: Caller,
    /// Added to the clean environment that a session starts with.
    pub env: Vec<(Bytes, Bytes)>,
    /// What it reads and writes.
    pub streams: StreamKind,
}

/// Who comes in.
#[derive(Debug)]
pub enum Caller {
    /// Somebody who may enter any jail.
    Operator {
        /// Whose.
        tenant: TenantName,
        /// Who runs it inside; root when `None`.
        user: Option<String>,
        /// Where it starts, inside.
        cwd: Option<OsString>,
        /// The command; empty for a login shell.
        argv: Vec<OsString>,
    },
    /// A tenant's own host user, whom sshd has let in.
    Login {
        /// `ssh` or `sftp`.
        door: Door,
        /// What the login shell is to run.
        command: Option<OsString>,
        /// The client's address.
        source: Option<String>,
        /// The public key that it proved to have.
        key: Option<String>,
    },
}

impl Caller {
    /// The command, for messages.
    fn command(&self) -> String {
        let first = match self {
            Self::Operator { argv, .. } => argv.first(),
            Self::Login { command, .. } => command.as_ref(),
        };
        first.map_or_else(|| "the login shell".to_owned(), |name| name.to_string_lossy().into_owned())
    }
}

/// This process's own three streams.
#[derive(Debug)]
struct Local {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Local {
    fn own() -> io::Result<Self> {
        Ok(Self {
            stdin: io::stdin().as_fd().try_clone_to_owned()?,
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
        })
    }

    fn window(&self) -> Option<WindowSize> {
        let size = [&self.stdin, &self.stdout].into_iter().find_map(|fd| terminal::size(fd).ok())?;
        (size.rows > 0 && size.columns > 0).then_some(WindowSize { rows: size.rows, columns: size.columns })
    }
}

/// Whether standard input is a terminal.
#[must_use]
pub fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Whatever goes wrong before the command runs is bailiwick's failure, not the command's.
#[must_use]
pub fn exec_failure(failure: Failure) -> Failure {
    Failure { status: ExitStatus::ExecFailed, ..failure }
}

/// Runs it and attends to it until it ends: the exit status of the command, 128 and the number for one that a signal
/// ended.
///
/// # Errors
/// What kept the command from running, or its end from being known: 127 when there is none of that name, 126 when it
/// cannot be executed, 125 for all else.
pub fn run(daemon: &Daemon, spec: SessionSpec) -> Result<u8, Failure> {
    let kind = spec.streams;
    // An operator's script must tell bailiwick's failures from the command's; a tenant's client shows what it is told.
    let exec_failure = match &spec.caller {
        Caller::Operator { .. } => exec_failure,
        Caller::Login { .. } => |failure| failure,
    };
    let command = spec.caller.command();
    let local = Local::own().map_err(SessionError::local("use the standard streams"))?;
    let whose = match &spec.caller {
        Caller::Operator { .. } => Whose::Operators,
        Caller::Login { .. } => Whose::Tenants,
    };
    let (streams, remote) = match kind {
        StreamKind::Pipes => cross(&local, whose).map_err(SessionError::local("make pipes"))?,
        StreamKind::Terminal => (Streams::default(), Vec::new()),
    };
    let request =
        request(spec, (kind == StreamKind::Terminal).then(|| local.window().unwrap_or(USUAL))).map_err(exec_failure)?;
    let beside: Vec<_> = remote.iter().map(AsFd::as_fd).collect();
    // From here on a signal is the command's, unless the command does not start.
    let mut numbers = vec![SIGHUP, SIGINT, SIGQUIT, SIGTERM];
    if kind == StreamKind::Terminal {
        numbers.push(SIGWINCH);
    }
    let signals = Signals::block(&numbers).map_err(SessionError::local("wait for signals"))?;
    let mut asked = daemon.send(&request, &beside).map_err(|error| exec_failure(error.into()))?;
    // The jail's ends must be the jail's alone, or the end of a stream is never seen.
    drop(remote);
    if let Some(number) = interrupted(&signals, &mut asked).map_err(SessionError::local("wait for bailiwickd"))? {
        return Ok(ended_by(number));
    }
    let mut answer = asked.answer(1).map_err(|error| exec_failure(error.into()))?;
    let (ControlReply::Session { record, notice }, Some(channel)) = (answer.reply, answer.fds.pop()) else {
        return Err(exec_failure(AskError::Unexpected.into()));
    };
    if let Some(notice) = notice {
        // Never to standard output, which is the protocol's. When nobody reads it, there is nobody to tell.
        io::stderr().write_all(format!("bailiwick: {notice}\n").as_bytes()).ok();
    }
    let mut session = Session::new(channel, &local, kind, whose, streams, command);
    session.link = Some(Link::new(daemon, *record, answer.connection.into()));
    let result = session.attend(&signals);
    // Whose client has gone was hung up, and that is what its end is to be called.
    let link = session.link.take().filter(|_| !matches!(result, Err(SessionError::Abandoned)));
    let result = result.map_err(|error| match error {
        SessionError::Ended(_) => exec_failure(error.into()),
        error => error.into(),
    });
    if let Some(link) = link {
        link.end(result.as_ref().map_or_else(|failure| failure.status.code(), |status| *status));
    }
    if result.is_err() {
        // What is said of it may go to whoever has stopped reading.
        signal::unblock_all().ok();
    }
    result
}

/// Waits for an answer. A signal that comes before it, and that it does not follow soon, is the end; the session may have
/// begun, so a signal that it does follow stays to be relayed.
fn interrupted(signals: &Signals, asked: &mut Asked) -> io::Result<Option<i32>> {
    loop {
        let watched = [(asked.connection.as_fd(), Interest::Read), (signals.as_fd(), Interest::Read)];
        let ready = stream::wait(&watched, asked.patience())?;
        if !ready.contains(&true) {
            asked.wonder();
            continue;
        }
        if ready[0] || stream::wait(&watched[..1], Some(EARLY_TIME))?[0] {
            return Ok(None);
        }
        // That the window has another size ends nothing.
        if let Some(number) = signals.take()?.filter(|number| *number != SIGWINCH) {
            return Ok(Some(number));
        }
    }
}

/// The exit status of a program that a signal ended, as shells have it.
fn ended_by(number: i32) -> u8 {
    128 + u8::try_from(number).unwrap_or(0)
}

fn request(spec: SessionSpec, window: Option<WindowSize>) -> Result<ControlRequest, Failure> {
    let bytes = |text: OsString| Bytes::from_os(text).map_err(|error| Failure::new(ExitStatus::Invalid, &error));
    let mut env = spec.env;
    // Programs draw by what the terminal is called, and the terminal is the operator's.
    if window.is_some()
        && !env.iter().any(|(key, _)| key.as_bytes() == b"TERM")
        && let Some(term) = std::env::var_os("TERM")
    {
        env.push((bytes("TERM".into())?, bytes(term)?));
    }
    Ok(match spec.caller {
        Caller::Operator { tenant, user, cwd, argv } => ControlRequest::Exec(Exec {
            tenant,
            user,
            argv: argv.into_iter().map(bytes).collect::<Result<_, _>>()?,
            env,
            cwd: cwd.map(bytes).transpose()?,
            terminal: window,
        }),
        Caller::Login { door, command, source, key } => ControlRequest::Login(Login {
            door,
            command: command.map(bytes).transpose()?,
            env,
            terminal: window,
            source,
            key,
        }),
    })
}

/// The pumps of a session before it begins.
#[derive(Debug, Default)]
struct Streams {
    inward: Option<Pump>,
    outward: Vec<Pump>,
}

/// Whose the streams of a session are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// An operator's, who may use the same ones for what comes next: none of them is left in a jail.
    Operators,
    /// Those that sshd has made for this one login, and that nobody else has.
    Tenants,
}

/// What crosses into the jail (stdin, stdout, stderr, each a pipe) and the pumps that serve it. A pipe that sshd has made for a login
/// goes as it is, if it is the right end of one: then nothing stands between. An operator's never does: what the command leaves in
/// the background would read what is meant for the next command, or make the pipe block nobody.
fn cross(local: &Local, whose: Whose) -> io::Result<(Streams, Vec<OwnedFd>)> {
    let mut streams = Streams::default();
    let stdin = if whose == Whose::Tenants && stream::pipe_direction(&local.stdin)? == Some(Direction::Reading) {
        local.stdin.try_clone()?
    } else {
        let (theirs, ours) = io::pipe()?;
        stream::never_block(&ours)?;
        streams.inward = Some(Pump::new(local.stdin.try_clone()?, ours.into()));
        theirs.into()
    };
    let stdout = outward(&local.stdout, whose, &mut streams)?;
    // Two streams to one place share one pipe: what was written first comes first.
    let stderr = if stream::is_same(&local.stdout, &local.stderr)? {
        stdout.try_clone()?
    } else {
        outward(&local.stderr, whose, &mut streams)?
    };
    Ok((streams, vec![stdin, stdout, stderr]))
}

fn outward(local: &OwnedFd, whose: Whose, streams: &mut Streams) -> io::Result<OwnedFd> {
    if whose == Whose::Tenants && stream::pipe_direction(local)? == Some(Direction::Writing) {
        return local.try_clone();
    }
    let (ours, theirs) = io::pipe()?;
    stream::never_block(&ours)?;
    streams.outward.push(Pump::new(ours.into(), local.try_clone()?));
    Ok(theirs.into())
}

/// A session that has been let in.
#[derive(Debug)]
struct Session<'a> {
    channel: OwnedFd,
    /// Who counts it, and may end it.
    link: Option<Link<'a>>,
    local: &'a Local,
    kind: StreamKind,
    streams: Streams,
    outlets: Vec<Outlet>,
    raw: Option<terminal::Raw<'a>>,
    /// The master side of the session's terminal, which init may share.
    master: Option<OwnedFd>,
    started: bool,
    /// That it is to end, whether it wants to or not.
    ending: Option<Ending>,
    /// A signal that came before the command had started, and until when it waits for that.
    early: Option<(i32, Instant)>,
    /// Whether the command was told by a signal to end.
    is_told: bool,
    /// What is run, for messages.
    command: String,
    whose: Whose,
    /// Which of our own outputs somebody still reads.
    readers: Vec<BorrowedFd<'a>>,
    /// Until when init may begin it.
    begins: Instant,
    /// Until when new output is waited for once the command has ended. What there is by then passes, however slowly it is read.
    late: Option<Instant>,
}

impl<'a> Session<'a> {
    fn new(
        channel: OwnedFd,
        local: &'a Local,
        kind: StreamKind,
        whose: Whose,
        streams: Streams,
        command: String,
    ) -> Self {
        Self {
            channel,
            link: None,
            local,
            kind,
            streams,
            outlets: Vec::new(),
            raw: None,
            master: None,
            started: false,
            ending: None,
            early: None,
            is_told: false,
            command,
            whose,
            readers: vec![local.stdout.as_fd(), local.stderr.as_fd()],
            begins: Instant::now() + BEGIN_TIME,
            late: None,
        }
    }

    /// Attends to it until it ends. The operator's terminal is as it was before when this returns.
    fn attend(&mut self, signals: &Signals) -> Result<u8, SessionError> {
        // A jail that does not listen must not hold the operator.
        stream::never_block(&self.channel).map_err(SessionError::local("use the session's channel"))?;
        for pump in std::mem::take(&mut self.streams.outward) {
            self.outlets.push(Outlet::start(pump, None).map_err(SessionError::local("start a thread"))?);
        }
        let ended = self.relay(signals);
        self.raw = None;
        match self.ending.take().map(|ending| ending.reason) {
            Some(Reason::Told(reason)) => return Err(SessionError::Ended(reason)),
            Some(Reason::Abandoned) => return Err(SessionError::Abandoned),
            Some(Reason::Signal(number)) => return Ok(ended_by(number)),
            None => {}
        }
        let status = ended?;
        match self.outlets.iter_mut().find_map(Outlet::take_failure) {
            Some(source) => Err(SessionError::Local { step: "read or write the standard streams", source }),
            None => Ok(status),
        }
    }

    fn relay(&mut self, signals: &Signals) -> Result<u8, SessionError> {
        // What came of it; only output is left then.
        let mut ended = None;
        // Until when its reader is waited for, where somebody told it to end.
        let mut reader: Option<Instant> = None;
        loop {
            if self.late.take_if(|until| Instant::now() >= *until).is_some() {
                self.outlets.iter_mut().for_each(Outlet::end_with_what_is_there);
            }
            if (self.outlets.iter().all(Outlet::is_over) || reader.is_some_and(|until| Instant::now() >= until))
                && let Some(ended) = ended
            {
                return ended;
            }
            let ending = self.ending.as_ref().filter(|_| ended.is_none()).map(|ending| ending.until);
            let begins = (!self.started && ended.is_none()).then_some(self.begins);
            let early = self.early.map(|(_, until)| until);
            let due = [ending, early, self.link.as_ref().and_then(Link::due), begins, self.late, reader];
            let left = due.into_iter().flatten().min().map(|until| until.saturating_duration_since(Instant::now()));
            let ready = self.wait(signals, ended.is_none(), left)?;
            if let Some(reason) = self.link.as_mut().and_then(|link| link.tend(ready.link)) {
                self.hang_up(Reason::Told(reason));
            }
            if ready.abandoned && self.ending.is_none() && ended.is_none() {
                self.hang_up(Reason::Abandoned);
            }
            if begins.is_some_and(|until| Instant::now() >= until) && self.ending.is_none() {
                return Err(SessionError::NotBegun);
            }
            if let Some(Ending { until, is_killed, .. }) = self.ending.as_mut()
                && ended.is_none()
                && Instant::now() >= *until
            {
                if *is_killed {
                    return Ok(ended_by(SIGHUP));
                }
                (*until, *is_killed) = (Instant::now() + END_TIME, true);
                self.say(SessionSignal::Signal(SIGKILL));
            }
            if ready.signals {
                while let Some(number) = signals.take().map_err(SessionError::local("wait for signals"))? {
                    // That the window has another size ends nothing.
                    if number != SIGWINCH
                        && let Some(ended) = ended
                    {
                        return ended;
                    }
                    if let Some(status) = self.interrupt(number) {
                        return Ok(status);
                    }
                }
            }
            if ready.channel {
                match self.recv() {
                    Ok(None) => {
                        if let Some((number, _)) = self.early.take_if(|_| self.started) {
                            self.pass_on(number);
                        }
                    }
                    Ok(Some(status)) => {
                        ended = Some(Ok(status));
                        // What keeps a terminal open in the background is not waited for.
                        self.late = match (self.kind, self.whose) {
                            (StreamKind::Terminal, _) => Some(Instant::now()),
                            (StreamKind::Pipes, Whose::Operators) => Some(Instant::now() + LATE_TIME),
                            (StreamKind::Pipes, Whose::Tenants) => None,
                        };
                    }
                    Err(error) => {
                        // Whoever still reads what it said is in no jail.
                        if let Some(link) = self.link.take() {
                            link.end(error.status().code());
                        }
                        ended = Some(Err(error));
                        self.late = Some(Instant::now());
                    }
                }
            }
            if ended.is_some() {
                self.streams.inward = None;
                if reader.is_none() && (self.is_told || self.ending.is_some()) {
                    reader = Some(Instant::now() + END_TIME);
                    self.late = Some(Instant::now());
                }
            }
            if let Some((number, until)) = self.early
                && Instant::now() >= until
            {
                return Ok(ended_by(number));
            }
            // A raw terminal has no end of file: it has gone, and whose it was need not have been told by a signal.
            if ended.is_none() && self.raw.is_some() && self.streams.inward.as_ref().is_some_and(Pump::is_at_end) {
                for number in [SIGHUP, SIGCONT] {
                    self.say(SessionSignal::Signal(number));
                }
                return Ok(ended_by(SIGHUP));
            }
        }
    }

    /// Waits for anything to happen and lets the pumps run.
    fn wait(&mut self, signals: &Signals, listening: bool, time: Option<Duration>) -> Result<Ready, SessionError> {
        let mut watched = vec![(signals.as_fd(), Interest::Read)];
        if listening {
            watched.push((self.channel.as_fd(), Interest::Read));
        }
        let link = self.link.as_ref().and_then(Link::fd);
        watched.extend(link.map(|fd| (fd, Interest::Read)));
        let linked = watched.len() - 1;
        let readers = watched.len();
        watched.extend(self.readers.iter().map(|fd| (*fd, Interest::End)));
        let outlets = watched.len();
        watched.extend(self.outlets.iter().filter_map(Outlet::fd).map(|fd| (fd, Interest::End)));
        let inward = watched.len();
        watched.extend(self.streams.inward.iter().flat_map(Pump::questions));
        let answers = stream::wait(&watched, time).map_err(SessionError::local("wait"))?;
        if let Some(master) = &self.master {
            // Init shares the open file and may have undone it, to stop this process in its next write.
            stream::never_block(master).map_err(SessionError::local("use the session's terminal"))?;
        }
        let linked = link.is_some() && answers[linked];
        let gone = &answers[readers..outlets];
        // One that has gone would wake us for ever.
        let abandoned = !gone.is_empty() && gone.iter().all(|gone| *gone);
        let mut gone = gone.iter();
        self.readers.retain(|_| gone.next() == Some(&false));
        let running = self.outlets.iter_mut().filter(|outlet| !outlet.is_over());
        running.zip(&answers[outlets..inward]).filter(|(_, is_over)| **is_over).for_each(|(outlet, _)| outlet.tend());
        if let Some(pump) = &mut self.streams.inward {
            pump.step(&answers[inward..]);
        }
        Ok(Ready { signals: answers[0], channel: listening && answers[1], link: linked, abandoned })
    }

    /// Has the command end: as if its line had gone, at first.
    fn hang_up(&mut self, reason: Reason) {
        for number in [SIGHUP, SIGCONT] {
            self.say(SessionSignal::Signal(number));
        }
        self.ending = Some(Ending { reason, until: Instant::now() + END_TIME, is_killed: false });
    }

    /// A signal came, and the command has not ended. The exit status, if that is the end.
    fn interrupt(&mut self, number: i32) -> Option<u8> {
        if number == SIGWINCH {
            if let Some(size) = self.local.window() {
                self.say(SessionSignal::Resize(size));
            }
            return None;
        }
        let own = ended_by(number);
        if !self.started {
            // There is no command yet that could be told. The second time, the operator wants to leave.
            return self.early.replace((number, Instant::now() + EARLY_TIME)).map(|_| own);
        }
        self.pass_on(number);
        // Without its terminal nobody attends to this session any more; the jail's side is hung up with it.
        (self.kind == StreamKind::Terminal && number == SIGHUP).then_some(own)
    }

    /// Passes a signal on to the command. One that goes on after it was told to end is deaf, or does not run: the second time, its session
    /// is hung up.
    fn pass_on(&mut self, number: i32) {
        self.say(SessionSignal::Signal(number));
        if matches!(number, SIGINT | SIGTERM) && std::mem::replace(&mut self.is_told, true) && self.ending.is_none() {
            self.hang_up(Reason::Signal(number));
        }
    }

    /// Tells init. What it does not take is lost: its end of the channel is full or closed, and the latter is heard.
    fn say(&self, signal: SessionSignal) {
        transport::send_datagram(&self.channel, &signal, &[]).ok();
    }

    /// Hears what init says. The exit status, if the command has ended.
    fn recv(&mut self) -> Result<Option<u8>, SessionError> {
        let fds = usize::from(self.kind == StreamKind::Terminal && !self.started);
        let (event, mut fds) = match transport::receive_datagram(&self.channel, fds) {
            Ok(heard) => heard,
            Err(TransportError::Late) => return Ok(None),
            Err(TransportError::Ended) => return Err(SessionError::JailEnded),
            Err(TransportError::Frame(error)) => return Err(SessionError::Misspoken(error)),
            Err(error) => return Err(SessionError::Overlong(error.into())),
        };
        match event {
            SessionEvent::Started if self.started => Ok(None),
            SessionEvent::Started => {
                if self.kind == StreamKind::Terminal {
                    self.connect(fds.pop().ok_or(SessionError::NoTerminal)?)?;
                }
                self.started = true;
                Ok(None)
            }
            SessionEvent::ExecFailed { errno } => Err(SessionError::NotExecuted {
                command: self.command.clone(),
                source: io::Error::from_raw_os_error(errno),
            }),
            SessionEvent::DirectoryFailed { errno } => {
                Err(SessionError::Directory(io::Error::from_raw_os_error(errno)))
            }
            SessionEvent::SetupFailed { errno } => Err(SessionError::Setup(io::Error::from_raw_os_error(errno))),
            SessionEvent::Exited(status) => Ok(Some(status)),
            SessionEvent::Killed(number @ 1..=64) => Ok(Some(128 + number)),
            SessionEvent::Killed(number) => Err(SessionError::NoSignal(number)),
        }
    }

    /// Takes the master side of the session's terminal.
    fn connect(&mut self, master: OwnedFd) -> Result<(), SessionError> {
        let failed = || SessionError::local("use the session's terminal");
        if !terminal::is_master(&master).map_err(failed())? {
            return Err(SessionError::NoTerminal);
        }
        let inward = Pump::new(self.local.stdin.try_clone().map_err(failed())?, master.try_clone().map_err(failed())?);
        // Only a terminal says by itself, with a character, that nothing more comes.
        let by_hand = !self.local.stdin.is_terminal();
        self.streams.inward = Some(if by_hand { inward.ending_with(END_OF_FILE) } else { inward });
        let outward = master.try_clone().map_err(failed())?;
        let outward = Pump::new(outward, self.local.stdout.try_clone().map_err(failed())?);
        let shared = master.try_clone().map_err(failed())?;
        self.master = Some(master);
        if !by_hand {
            let raw = terminal::Raw::enter(self.local.stdin.as_fd());
            self.raw = Some(raw.map_err(SessionError::local("put the terminal into raw mode"))?);
        }
        stream::never_block(&shared).map_err(failed())?;
        self.outlets.push(Outlet::start(outward, Some(shared)).map_err(SessionError::local("start a thread"))?);
        Ok(())
    }
}

/// The end of a session that its client did not choose.
#[derive(Debug)]
struct Ending {
    reason: Reason,
    /// How long it is waited for.
    until: Instant,
    /// Whether it was told by the signal that no process hears.
    is_killed: bool,
}

/// Why a session is ended.
#[derive(Debug)]
enum Reason {
    /// `bailiwickd` says so.
    Told(String),
    /// Nobody reads any more what the command says.
    Abandoned,
    /// Somebody insists by a second signal.
    Signal(i32),
}

/// What woke the loop beside the pumps.
#[derive(Debug, Clone, Copy)]
struct Ready {
    signals: bool,
    channel: bool,
    link: bool,
    /// Nobody reads any more what the command says.
    abandoned: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_proto::frame::MAX_EVENT;
    use bailiwick_sys::socket;
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    /// Files where a terminal would be: what pumps are for.
    fn files(input: &[u8]) -> (Local, File, File) {
        let mut stdin = tempfile::tempfile().expect("file");
        stdin.write_all(input).expect("writes");
        stdin.rewind().expect("seeks");
        let (stdout, stderr) = (tempfile::tempfile().expect("file"), tempfile::tempfile().expect("file"));
        let dup = |file: &File| file.try_clone().expect("dup").into();
        (Local { stdin: stdin.into(), stdout: dup(&stdout), stderr: dup(&stderr) }, stdout, stderr)
    }

    fn content(mut file: File) -> String {
        let mut text = String::new();
        file.rewind().expect("seeks");
        file.read_to_string(&mut text).expect("text");
        text
    }

    fn attend(local: &Local, kind: StreamKind, streams: Streams, channel: OwnedFd) -> Result<u8, SessionError> {
        let command = "prog".to_owned();
        Session::new(channel, local, kind, Whose::Tenants, streams, command)
            .attend(&Signals::block(&[SIGWINCH]).expect("a signal's number"))
    }

    fn tell(init: &OwnedFd, event: SessionEvent, fds: &[&OwnedFd]) {
        let message = serde_json::to_vec(&event).expect("serialises");
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        socket::send(init, &message, &fds).expect("sends");
    }

    /// A session without streams whose init says these things and goes.
    fn told(kind: StreamKind, says: &[&[u8]]) -> Result<u8, SessionError> {
        let (ours, init) = socket::channel().expect("pair");
        for message in says {
            socket::send(&init, message, &[]).expect("sends");
        }
        drop(init);
        attend(&files(b"").0, kind, Streams::default(), ours)
    }

    fn status(result: Result<u8, SessionError>) -> u8 {
        result.unwrap_or_else(|error| Failure::from(error).status.code())
    }

    #[test]
    fn files_are_pumped_through_pipes() {
        let (local, stdout, stderr) = files(b"some input");
        let (streams, remote) = cross(&local, Whose::Tenants).expect("pipes");
        for fd in &remote {
            assert!(stream::pipe_direction(fd).expect("stat").is_some(), "only pipes cross");
        }
        let (ours, init) = socket::channel().expect("pair");
        let jail = std::thread::spawn(move || {
            let [stdin, stdout, stderr] = <[OwnedFd; 3]>::try_from(remote).expect("three").map(File::from);
            tell(&init, SessionEvent::Started, &[]);
            let mut input = String::new();
            (&stdin).read_to_string(&mut input).expect("the end of standard input comes");
            write!(&stdout, "got {input}").expect("writes");
            write!(&stderr, "and more").expect("writes");
            tell(&init, SessionEvent::Exited(7), &[]);
            drop(init);
            // What is written after the end of the command, by what it left behind, comes too.
            std::thread::sleep(Duration::from_millis(50));
            write!(&stdout, ", late").expect("writes");
        });
        assert_eq!(attend(&local, StreamKind::Pipes, streams, ours).expect("ends"), 7);
        jail.join().expect("jail");
        assert_eq!((content(stdout), content(stderr)), ("got some input, late".to_owned(), "and more".to_owned()));
    }

    #[test]
    fn pipes_cross_as_they_are_but_only_the_right_end() {
        let (reader, writer) = io::pipe().expect("pipe");
        let dup = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().expect("dup");
        let local = Local { stdin: dup(&reader), stdout: dup(&writer), stderr: dup(&writer) };
        let (streams, remote) = cross(&local, Whose::Tenants).expect("crosses");
        assert!(streams.inward.is_none() && streams.outward.is_empty());
        assert!(remote.iter().all(|fd| stream::is_same(fd, &reader).expect("stat")));

        let local = Local { stdin: dup(&writer), stdout: dup(&reader), stderr: dup(&writer) };
        let (streams, remote) = cross(&local, Whose::Tenants).expect("crosses");
        assert!(streams.inward.is_some());
        assert!(!stream::is_same(&remote[0], &reader).expect("stat"), "the jail could write to its own input");
    }

    #[test]
    fn no_pipe_of_an_operators_crosses() {
        let (reader, writer) = io::pipe().expect("pipe");
        let dup = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().expect("dup");
        let local = Local { stdin: dup(&reader), stdout: dup(&writer), stderr: dup(&writer) };
        let (streams, remote) = cross(&local, Whose::Operators).expect("crosses");
        assert!(streams.inward.is_some() && streams.outward.len() == 1);
        assert!(remote.iter().all(|fd| !stream::is_same(fd, &reader).expect("stat")));
    }

    #[test]
    fn a_session_whose_readers_have_gone_is_hung_up_and_then_killed() {
        let (mut local, _, _) = files(b"");
        let ((out_reader, out), (err_reader, err)) = (io::pipe().expect("pipe"), io::pipe().expect("pipe"));
        (local.stdout, local.stderr) = (out.into(), err.into());
        let (streams, _remote) = cross(&local, Whose::Tenants).expect("crosses");
        let (ours, init) = socket::channel().expect("pair");
        tell(&init, SessionEvent::Started, &[]);
        drop((out_reader, err_reader));
        // Nothing is ever said, and the command ends by nothing.
        let result = attend(&local, StreamKind::Pipes, streams, ours);
        assert!(matches!(result, Err(SessionError::Abandoned)), "{result:?}");
        let mut heard = Vec::new();
        while let Ok((signal, _)) = transport::receive_datagram::<SessionSignal>(&init, 0) {
            heard.push(signal);
        }
        assert_eq!(heard, [SIGHUP, SIGCONT, SIGKILL].map(SessionSignal::Signal));
    }

    #[test]
    fn who_reads_one_of_two_streams_is_still_there() {
        let (mut local, _, stderr) = files(b"");
        let (reader, out) = io::pipe().expect("pipe");
        local.stdout = out.into();
        let (streams, remote) = cross(&local, Whose::Tenants).expect("crosses");
        let (ours, init) = socket::channel().expect("pair");
        drop((reader, stderr, remote));
        tell(&init, SessionEvent::Started, &[]);
        tell(&init, SessionEvent::Exited(4), &[]);
        assert_eq!(attend(&local, StreamKind::Pipes, streams, ours).expect("ends"), 4);
    }

    #[test]
    fn what_an_operators_command_leaves_behind_holds_nobody() {
        let (local, _, _) = files(b"");
        let (streams, remote) = cross(&local, Whose::Operators).expect("pipes");
        let (ours, init) = socket::channel().expect("pair");
        tell(&init, SessionEvent::Started, &[]);
        tell(&init, SessionEvent::Exited(6), &[]);
        let mut session = Session::new(ours, &local, StreamKind::Pipes, Whose::Operators, streams, String::new());
        let ended = session.attend(&Signals::block(&[SIGWINCH]).expect("a signal's number"));
        assert_eq!(ended.expect("ends though its output is still open"), 6);
        drop(remote);
    }

    #[test]
    fn who_reads_slowly_loses_nothing_though_others_write_on() {
        const MANY: usize = 180 << 10;
        let (mut local, _, stderr) = files(b"");
        let (mut reader, out) = io::pipe().expect("pipe");
        local.stdout = out.into();
        drop(stderr);
        let (streams, remote) = cross(&local, Whose::Operators).expect("pipes");
        let (ours, init) = socket::channel().expect("pair");
        tell(&init, SessionEvent::Started, &[]);
        let attended = std::thread::spawn(move || {
            let mut session = Session::new(ours, &local, StreamKind::Pipes, Whose::Operators, streams, String::new());
            session.attend(&Signals::block(&[SIGWINCH]).expect("a signal's number"))
        });
        let [_, mut stdout, _] = <[OwnedFd; 3]>::try_from(remote).expect("three").map(File::from);
        // As much as fits: into the reader's pipe, the buffer, and the command's pipe.
        stdout.write_all(&[b'a'; MANY]).expect("writes");
        tell(&init, SessionEvent::Exited(6), &[]);
        // Nothing tells from outside that it waits for the reader alone.
        let asleep = Instant::now() + 2 * LATE_TIME;
        while Instant::now() < asleep && !attended.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let background = std::thread::spawn(move || while stdout.write_all(b"b").is_ok() {});
        let mut got = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = reader.read(&mut buffer) {
            got.extend_from_slice(&buffer[..len]);
        }
        assert_eq!(attended.join().expect("no panic").expect("ends"), 6);
        background.join().expect("no panic");
        assert!(got.starts_with(&[b'a'; MANY]), "{} of {MANY} bytes", got.len());
        assert!(got.len() < MANY + (64 << 10), "what is written on afterwards is not waited for: {}", got.len());
    }

    #[test]
    fn two_streams_to_one_file_keep_their_order() {
        let (mut local, stdout, _) = files(b"");
        local.stderr = local.stdout.try_clone().expect("dup");
        let (streams, remote) = cross(&local, Whose::Tenants).expect("pipes");
        assert_eq!(streams.outward.len(), 1);
        let (ours, init) = socket::channel().expect("pair");
        let [_, out, err] = <[OwnedFd; 3]>::try_from(remote).expect("three").map(File::from);
        for (stream, text) in [(&out, "1"), (&err, "2"), (&out, "3"), (&err, "4")] {
            write!({ stream }, "{text}").expect("writes");
        }
        drop((out, err));
        tell(&init, SessionEvent::Exited(0), &[]);
        assert_eq!(attend(&local, StreamKind::Pipes, streams, ours).expect("ends"), 0);
        assert_eq!(content(stdout), "1234");
    }

    #[test]
    fn output_that_cannot_be_written_is_bailiwicks_failure() {
        let (mut local, _, _) = files(b"");
        local.stdout = File::options().write(true).open("/dev/full").expect("opens").into();
        let (streams, remote) = cross(&local, Whose::Tenants).expect("pipes");
        let (ours, init) = socket::channel().expect("pair");
        tell(&init, SessionEvent::Started, &[]);
        let [_, mut out, _] = <[OwnedFd; 3]>::try_from(remote).expect("three").map(File::from);
        out.write_all(b"x").expect("fits the pipe");
        drop(out);
        tell(&init, SessionEvent::Exited(0), &[]);
        assert_eq!(status(attend(&local, StreamKind::Pipes, streams, ours)), 125);
    }

    #[test]
    fn the_status_says_how_the_command_ended() {
        let started = br#""started""#;
        let cases: &[(&[u8], u8)] = &[
            (br#"{"exited":0}"#, 0),
            (br#"{"exited":255}"#, 255),
            (br#"{"killed":9}"#, 137),
            (br#"{"killed":64}"#, 192),
            (br#"{"exec-failed":{"errno":2}}"#, 127),
            (br#"{"exec-failed":{"errno":13}}"#, 126),
            (br#"{"setup-failed":{"errno":24}}"#, 125),
        ];
        for (event, expected) in cases {
            let text = event.escape_ascii();
            assert_eq!(status(told(StreamKind::Pipes, &[started, event])), *expected, "{text}");
            assert_eq!(status(told(StreamKind::Pipes, &[event])), *expected, "{text} before the start");
        }
    }

    #[test]
    fn nothing_that_init_says_is_trusted() {
        let long = [b' '; MAX_EVENT + 1];
        let cases: &[&[u8]] = &[
            b"",
            b"\xff\xfe",
            b"null",
            b"[]",
            &long,
            br#"{"exited":256}"#,
            br#"{"exited":-1}"#,
            br#"{"killed":0}"#,
            br#"{"killed":65}"#,
            br#"{"killed":255}"#,
            br#"{"exec-failed":{"errno":99999999999}}"#,
            br#"{"exec-failed":{"errno":2,"more":"x"}}"#,
            br#"{"signal":9}"#,
        ];
        for says in cases {
            for kind in [StreamKind::Pipes, StreamKind::Terminal] {
                assert_eq!(status(told(kind, &[says])), 125, "{}", says.escape_ascii());
            }
        }
        assert_eq!(status(told(StreamKind::Pipes, &[br#"{"exec-failed":{"errno":-2147483648}}"#])), 126);
    }

    #[test]
    fn a_jail_that_ends_takes_the_session_with_it() {
        for says in [&[][..], &[&br#""started""#[..]]] {
            let error = told(StreamKind::Pipes, says).expect_err("no status");
            assert!(matches!(error, SessionError::JailEnded));
            assert_eq!(Failure::from(error), Failure::of(ExitStatus::ExecFailed, "the jail ended"));
        }
    }

    #[test]
    fn only_a_terminal_is_taken_for_one() {
        let (reader, writer) = io::pipe().expect("pipe");
        let (socket, _peer) = socket::channel().expect("pair");
        let null = File::options().read(true).write(true).open("/dev/null").expect("opens");
        let file = tempfile::tempfile().expect("file");
        let folder = File::open("/dev/pts").expect("opens");
        let impostors: [OwnedFd; 6] = [reader.into(), writer.into(), socket, null.into(), file.into(), folder.into()];
        for fd in &impostors {
            let (ours, init) = socket::channel().expect("pair");
            tell(&init, SessionEvent::Started, &[fd]);
            let result = attend(&files(b"secret").0, StreamKind::Terminal, Streams::default(), ours);
            assert!(matches!(result, Err(SessionError::NoTerminal)), "{result:?}");
        }
        assert!(matches!(told(StreamKind::Terminal, &[br#""started""#]), Err(SessionError::NoTerminal)));
        let (ours, init) = socket::channel().expect("pair");
        tell(&init, SessionEvent::Started, &[&impostors[0], &impostors[1]]);
        assert_eq!(status(attend(&files(b"").0, StreamKind::Terminal, Streams::default(), ours)), 125);
    }

    fn master() -> OwnedFd {
        File::options().read(true).write(true).open("/dev/pts/ptmx").expect("pseudo-terminal").into()
    }

    #[test]
    fn a_terminal_is_relayed_and_not_waited_for() {
        // Nobody has the other side of this terminal open: what is typed comes back as its echo.
        let (local, stdout, _) = files(b"typed");
        let (ours, init) = socket::channel().expect("pair");
        let seen = stdout.try_clone().expect("dup");
        let jail = std::thread::spawn(move || {
            tell(&init, SessionEvent::Started, &[&master()]);
            while seen.metadata().expect("stat").len() < 5 {
                std::thread::sleep(Duration::from_millis(5));
            }
            tell(&init, SessionEvent::Exited(3), &[]);
        });
        assert_eq!(attend(&local, StreamKind::Terminal, Streams::default(), ours).expect("ends"), 3);
        jail.join().expect("jail");
        assert!(content(stdout).starts_with("typed"));
    }

    #[test]
    fn without_a_terminal_none_is_taken() {
        let (ours, init) = socket::channel().expect("pair");
        tell(&init, SessionEvent::Started, &[&master()]);
        tell(&init, SessionEvent::Exited(0), &[]);
        let (local, stdout, _) = files(b"typed");
        assert_eq!(attend(&local, StreamKind::Pipes, Streams::default(), ours).expect("ends"), 0);
        assert_eq!(content(stdout), "");
    }

    #[test]
    fn signals_are_the_commands_once_it_runs() {
        let (local, _, _) = files(b"");
        let (channel, init) = socket::channel().expect("pair");
        let command = String::new();
        let streams = Streams::default();
        let mut session = Session::new(channel, &local, StreamKind::Pipes, Whose::Tenants, streams, command);
        assert_eq!(session.interrupt(SIGINT), None, "nothing runs yet, but may at any moment");
        assert_eq!(session.interrupt(SIGINT), Some(130), "nothing runs, and the operator insists");
        session.started = true;
        assert_eq!(session.interrupt(SIGINT), None);
        let (signal, _) = transport::receive_datagram::<SessionSignal>(&init, 0).expect("told");
        assert_eq!(signal, SessionSignal::Signal(SIGINT));
        session.kind = StreamKind::Terminal;
        assert_eq!(session.interrupt(SIGHUP), Some(129), "the operator's terminal has gone");
        assert!(session.ending.is_none());
        assert_eq!(session.interrupt(SIGTERM), None);
        assert!(matches!(session.ending, Some(Ending { reason: Reason::Signal(SIGTERM), .. })), "the second");
    }

    #[test]
    fn a_jail_that_does_not_listen_does_not_hold_the_operator() {
        let (local, _, _) = files(b"");
        let (channel, _init) = socket::channel().expect("pair");
        stream::never_block(&channel).expect("fionbio");
        let (streams, command) = (Streams::default(), String::new());
        let mut session = Session::new(channel, &local, StreamKind::Pipes, Whose::Tenants, streams, command);
        session.started = true;
        for _ in 0..10_000 {
            session.say(SessionSignal::Signal(SIGINT));
        }
    }

    #[test]
    fn a_request_has_what_was_asked_for() {
        let env = || vec![(Bytes::new("TERM").expect("no NUL"), Bytes::new("dumb").expect("no NUL"))];
        let caller = Caller::Operator {
            tenant: "alice".parse().expect("valid"),
            user: Some("33".to_owned()),
            cwd: Some("/srv".into()),
            argv: vec!["ls".into(), "-l".into()],
        };
        let window = WindowSize { rows: 5, columns: 9 };
        let asked =
            request(SessionSpec { caller, env: env(), streams: StreamKind::Terminal }, Some(window)).expect("valid");
        let ControlRequest::Exec(exec) = asked else { panic!("another request") };
        assert_eq!((exec.user.as_deref(), exec.terminal), (Some("33"), Some(window)));
        assert_eq!(exec.argv.iter().map(Bytes::as_bytes).collect::<Vec<_>>(), [b"ls", &b"-l"[..]]);
        assert_eq!(exec.env, env(), "what is given beats the operator's own TERM");
        assert_eq!(exec.cwd, Some(Bytes::new("/srv").expect("no NUL")));
    }
}
