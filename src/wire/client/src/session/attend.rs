//! A session that has been let in: relays its streams and signals until it ends.
//!
//! A session begins when init says [`SessionEvent::Started`]. It ends when init says how the command ended, when this side
//! forces its end ([`ForcedEnd`]: first `SIGHUP`, then `SIGKILL`), or when the jail ends. After the command only output is
//! left.
//!
//! Danger: init belongs to the tenant and may share the open file of the terminal. Nothing here may wait for it without a limit.

use super::error::SessionError;
use super::streams::{LocalStreams, Pumps, StreamOwner};
use super::{StreamKind, signal_status};
use crate::link::{Input, Link};
use crate::pump::{Outlet, Pump};
use bailiwick_proto::{SessionEvent, SessionSignal, TransportError, transport};
use bailiwick_sys::signal::{SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGWINCH, Signals};
use bailiwick_sys::stream::{self, Interest};
use bailiwick_sys::terminal;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The character that ends the input of a terminal (`VEOF` of `termios(3)`).
const END_OF_FILE: &[u8] = b"\x04";
/// How long a command may take to end after each signal that forces it.
const END_TIME: Duration = Duration::from_secs(1);
/// How long a signal waits for the command to start. After that it ends the session.
pub(super) const EARLY_TIME: Duration = Duration::from_secs(1);
/// How long init may take to begin a session that it has accepted.
const BEGIN_TIME: Duration = Duration::from_secs(10);
/// How long background processes of an operator's command may still write after its end.
pub(super) const LATE_TIME: Duration = Duration::from_secs(1);

/// A session that has been let in.
#[derive(Debug)]
pub(super) struct Session<'a> {
    /// The channel to init.
    channel: OwnedFd,
    /// The connection to `bailiwickd`, which counts the session and may end it.
    pub(super) link: Option<Link<'a>>,
    local: &'a LocalStreams,
    pub(super) kind: StreamKind,
    owner: StreamOwner,
    pumps: Pumps,
    outlets: Vec<Outlet>,
    /// Our own outputs that somebody still reads.
    readers: Vec<BorrowedFd<'a>>,
    /// The raw mode of the operator's terminal, while it lasts.
    raw: Option<terminal::Raw<'a>>,
    /// The master side of the session's terminal. Init may share its open file.
    master: Option<OwnedFd>,
    /// The name of the command, for messages.
    command: String,
    /// The working directory that was asked for, for messages.
    pub(super) directory: String,
    pub(super) started: bool,
    /// Until when init may begin the session.
    begin_until: Instant,
    /// A signal that came before the command started, and until when it waits for the start.
    early_signal: Option<(i32, Instant)>,
    /// Whether a signal has already asked the command to end.
    is_asked_to_end: bool,
    pub(super) forced_end: Option<ForcedEnd>,
    /// How the command ended. From then on only output is left.
    outcome: Option<Result<u8, SessionError>>,
    /// Until when new output counts once the command has ended. What was written before passes, however slow its reader is.
    output_until: Option<Instant>,
    /// Until when the reader of the output is waited for. Only set when somebody asked the command to end.
    reader_until: Option<Instant>,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        channel: OwnedFd,
        local: &'a LocalStreams,
        kind: StreamKind,
        owner: StreamOwner,
        pumps: Pumps,
        command: String,
    ) -> Self {
        Self {
            channel,
            link: None,
            local,
            kind,
            owner,
            pumps,
            outlets: Vec::new(),
            readers: vec![local.stdout.as_fd(), local.stderr.as_fd()],
            raw: None,
            master: None,
            command,
            directory: String::new(),
            started: false,
            begin_until: Instant::now() + BEGIN_TIME,
            early_signal: None,
            is_asked_to_end: false,
            forced_end: None,
            outcome: None,
            output_until: None,
            reader_until: None,
        }
    }

    /// Attends to the session until it ends, and returns its exit status. The operator's terminal is as it was before.
    pub(super) fn attend(&mut self, signals: &Signals) -> Result<u8, SessionError> {
        // A jail that does not read its channel must not hold the operator.
        stream::never_block(&self.channel).map_err(SessionError::local("use the session's channel"))?;
        for pump in std::mem::take(&mut self.pumps.outward) {
            self.outlets.push(Outlet::start(pump, None).map_err(SessionError::local("start a thread"))?);
        }
        let ended = self.relay(signals);
        self.raw = None;
        match self.forced_end.take().map(|end| end.reason) {
            Some(EndReason::Daemon(reason)) => return Err(SessionError::EndedByDaemon(reason)),
            Some(EndReason::Abandoned) => return Err(SessionError::Abandoned),
            Some(EndReason::Signal(number)) => return Ok(signal_status(number)),
            None => {}
        }
        let status = ended?;
        match self.outlets.iter_mut().find_map(Outlet::take_failure) {
            Some(source) => Err(SessionError::Local { step: "read or write the standard streams", source }),
            None => Ok(status),
        }
    }

    fn relay(&mut self, signals: &Signals) -> Result<u8, SessionError> {
        loop {
            if self.output_until.take_if(|until| has_passed(*until)).is_some() {
                self.outlets.iter_mut().for_each(Outlet::end_with_what_is_there);
            }
            if (self.outlets.iter().all(Outlet::is_over) || self.reader_until.is_some_and(has_passed))
                && let Some(outcome) = self.outcome.take()
            {
                return outcome;
            }
            let left = self.next_deadline().map(|until| until.saturating_duration_since(Instant::now()));
            let events = self.wait(signals, left)?;
            if let Some(reason) = self.link.as_mut().and_then(|link| link.tend(events.link)) {
                self.hang_up(EndReason::Daemon(reason));
            }
            if events.all_readers_gone && self.forced_end.is_none() && self.outcome.is_none() {
                self.hang_up(EndReason::Abandoned);
            }
            if self.begin_deadline().is_some_and(has_passed) && self.forced_end.is_none() {
                return Err(SessionError::NotBegun);
            }
            if self.force_end_if_due() {
                return Ok(signal_status(SIGHUP));
            }
            if events.signals
                && let Some(status) = self.relay_signals(signals)?
            {
                return Ok(status);
            }
            if events.channel {
                self.read_channel();
            }
            if self.outcome.is_some() {
                self.pumps.inward = None;
                if self.reader_until.is_none() && (self.is_asked_to_end || self.forced_end.is_some()) {
                    self.reader_until = Some(Instant::now() + END_TIME);
                    self.output_until = Some(Instant::now());
                }
            }
            if let Some((number, until)) = self.early_signal
                && has_passed(until)
            {
                return Ok(signal_status(number));
            }
            if self.has_lost_its_terminal() {
                self.send_hang_up();
                return Ok(signal_status(SIGHUP));
            }
        }
    }

    /// When the loop has something to do though nothing happens.
    fn next_deadline(&self) -> Option<Instant> {
        let end = self.forced_end.as_ref().filter(|_| self.outcome.is_none()).map(|end| end.until);
        let early = self.early_signal.map(|(_, until)| until);
        let link = self.link.as_ref().and_then(Link::due);
        [end, early, link, self.begin_deadline(), self.output_until, self.reader_until].into_iter().flatten().min()
    }

    fn begin_deadline(&self) -> Option<Instant> {
        (!self.started && self.outcome.is_none()).then_some(self.begin_until)
    }

    /// Goes on with a forced end whose time is over: kills the command. Returns whether it was killed before and still does not
    /// end.
    fn force_end_if_due(&mut self) -> bool {
        let Some(end) = self.forced_end.as_mut().filter(|end| has_passed(end.until)) else { return false };
        if self.outcome.is_some() {
            return false;
        }
        if end.is_killed {
            return true;
        }
        (end.until, end.is_killed) = (Instant::now() + END_TIME, true);
        self.send(SessionSignal::Signal(SIGKILL));
        false
    }

    /// Handles the signals that have come. Returns the exit status when one of them ends the session.
    fn relay_signals(&mut self, signals: &Signals) -> Result<Option<u8>, SessionError> {
        while let Some(number) = signals.take().map_err(SessionError::local("wait for signals"))? {
            // A new size of the window ends nothing.
            if number != SIGWINCH
                && let Some(outcome) = self.outcome.take()
            {
                return outcome.map(Some);
            }
            if let Some(status) = self.handle_signal(number) {
                return Ok(Some(status));
            }
        }
        Ok(None)
    }

    /// Reads what init says, and notes how the command ended.
    fn read_channel(&mut self) {
        match self.recv() {
            Ok(None) => {
                if let Some((number, _)) = self.early_signal.take_if(|_| self.started) {
                    self.forward_signal(number);
                }
            }
            Ok(Some(status)) => {
                self.outcome = Some(Ok(status));
                // Background processes that keep a terminal open are not waited for.
                self.output_until = match (self.kind, self.owner) {
                    (StreamKind::Terminal, _) => Some(Instant::now()),
                    (StreamKind::Pipes, StreamOwner::Operator) => Some(Instant::now() + LATE_TIME),
                    (StreamKind::Pipes, StreamOwner::Tenant) => None,
                };
            }
            Err(error) => {
                // The session is over for `bailiwickd`, although its output may still be read.
                if let Some(link) = self.link.take() {
                    link.end(error.status().code());
                }
                self.outcome = Some(Err(error));
                self.output_until = Some(Instant::now());
            }
        }
    }

    /// Waits until something happens, at most for `time`, and runs the pumps.
    fn wait(&mut self, signals: &Signals, time: Option<Duration>) -> Result<Events, SessionError> {
        let is_listening = self.outcome.is_none();
        let mut watched = vec![(signals.as_fd(), Interest::Read)];
        if is_listening {
            watched.push((self.channel.as_fd(), Interest::Read));
        }
        let link = self.link.as_ref().and_then(Link::fd);
        watched.extend(link.map(|fd| (fd, Interest::Read)));
        let last_before_readers = watched.len() - 1;
        let readers = watched.len();
        watched.extend(self.readers.iter().map(|fd| (*fd, Interest::End)));
        let outlets = watched.len();
        watched.extend(self.outlets.iter().filter_map(Outlet::fd).map(|fd| (fd, Interest::End)));
        let inward = watched.len();
        watched.extend(self.pumps.inward.iter().flat_map(Pump::questions));
        let answers = stream::wait(&watched, time).map_err(SessionError::local("wait"))?;
        if let Some(master) = &self.master {
            // Init shares the open file. It may have made it blocking again, to stop this process in its next write.
            stream::never_block(master).map_err(SessionError::local("use the session's terminal"))?;
        }
        let has_link_input = link.is_some() && answers[last_before_readers];
        let link = if has_link_input { Input::Ready } else { Input::None };
        let gone = &answers[readers..outlets];
        let all_readers_gone = !gone.is_empty() && gone.iter().all(|gone| *gone);
        // A reader that has gone would wake the loop for ever.
        let mut gone = gone.iter();
        self.readers.retain(|_| gone.next() == Some(&false));
        let running = self.outlets.iter_mut().filter(|outlet| !outlet.is_over());
        for (outlet, is_over) in running.zip(&answers[outlets..inward]) {
            if *is_over {
                outlet.tend();
            }
        }
        if let Some(pump) = &mut self.pumps.inward {
            pump.step(&answers[inward..]);
        }
        let channel = is_listening && answers[1];
        Ok(Events { signals: answers[0], channel, link, all_readers_gone })
    }

    /// Whether the operator's terminal has gone while the command runs. A raw terminal has no other end of file, and its owner
    /// need not get a signal.
    fn has_lost_its_terminal(&self) -> bool {
        self.outcome.is_none() && self.raw.is_some() && self.pumps.inward.as_ref().is_some_and(Pump::is_at_end)
    }

    /// Begins to force the end of the command: first with the signals of a lost line.
    fn hang_up(&mut self, reason: EndReason) {
        self.send_hang_up();
        self.forced_end = Some(ForcedEnd { reason, until: Instant::now() + END_TIME, is_killed: false });
    }

    fn send_hang_up(&self) {
        for number in [SIGHUP, SIGCONT] {
            self.send(SessionSignal::Signal(number));
        }
    }

    /// Handles a signal that came while the command had not ended. Returns the exit status when the session is over.
    pub(super) fn handle_signal(&mut self, number: i32) -> Option<u8> {
        if number == SIGWINCH {
            if let Some(size) = self.local.window() {
                self.send(SessionSignal::Resize(size));
            }
            return None;
        }
        let status = signal_status(number);
        if !self.started {
            // There is no command yet to signal. A second signal means that the operator wants to leave.
            return self.early_signal.replace((number, Instant::now() + EARLY_TIME)).map(|_| status);
        }
        self.forward_signal(number);
        // Without its terminal nobody attends to the session any more. The jail's side is hung up with it.
        (self.kind == StreamKind::Terminal && number == SIGHUP).then_some(status)
    }

    /// Forwards a signal to the command. The second `SIGINT` or `SIGTERM` hangs up the session: a command that goes on after the
    /// first one ignores it, or does not run.
    fn forward_signal(&mut self, number: i32) {
        self.send(SessionSignal::Signal(number));
        let asks_to_end = matches!(number, SIGINT | SIGTERM);
        if asks_to_end && std::mem::replace(&mut self.is_asked_to_end, true) && self.forced_end.is_none() {
            self.hang_up(EndReason::Signal(number));
        }
    }

    /// Sends to init. A message that init does not take is lost: either the channel is full, or it is closed, and its end comes
    /// as an event.
    pub(super) fn send(&self, signal: SessionSignal) {
        transport::send_datagram(&self.channel, &signal, &[]).ok();
    }

    /// Receives one message of init. Returns the exit status when the command has ended.
    fn recv(&mut self) -> Result<Option<u8>, SessionError> {
        let max_fds = usize::from(self.kind == StreamKind::Terminal && !self.started);
        let (event, mut fds) = match transport::receive_datagram(&self.channel, max_fds) {
            Ok(received) => received,
            Err(TransportError::Late) => return Ok(None),
            Err(TransportError::Ended) => return Err(SessionError::JailEnded),
            Err(TransportError::Frame(error)) => return Err(SessionError::InvalidEvent(error)),
            Err(error) => return Err(SessionError::OversizedEvent(error.into())),
        };
        match event {
            SessionEvent::Started if self.started => Ok(None),
            SessionEvent::Started => {
                if self.kind == StreamKind::Terminal {
                    self.connect_terminal(fds.pop().ok_or(SessionError::NoTerminal)?)?;
                }
                self.started = true;
                Ok(None)
            }
            SessionEvent::ExecFailed { errno } => Err(SessionError::NotExecuted {
                command: self.command.clone(),
                source: io::Error::from_raw_os_error(errno),
            }),
            SessionEvent::DirectoryFailed { errno } => {
                let source = io::Error::from_raw_os_error(errno);
                Err(SessionError::Directory { directory: self.directory.clone(), source })
            }
            SessionEvent::SetupFailed { errno } => Err(SessionError::Setup(io::Error::from_raw_os_error(errno))),
            SessionEvent::Exited(status) => Ok(Some(status)),
            SessionEvent::Killed(number @ 1..=64) => Ok(Some(128 + number)),
            SessionEvent::Killed(number) => Err(SessionError::UnknownSignal(number)),
        }
    }

    /// Starts the pumps of the session's terminal, whose master side init has sent.
    fn connect_terminal(&mut self, master: OwnedFd) -> Result<(), SessionError> {
        let failed = || SessionError::local("use the session's terminal");
        if !terminal::is_master(&master).map_err(failed())? {
            return Err(SessionError::NoTerminal);
        }
        let inward = Pump::new(self.local.stdin.try_clone().map_err(failed())?, master.try_clone().map_err(failed())?);
        let stdin_is_terminal = self.local.stdin.is_terminal();
        // A terminal sends the character for its end itself. For other input it is added.
        self.pumps.inward = Some(if stdin_is_terminal { inward } else { inward.ending_with(END_OF_FILE) });
        let outward = master.try_clone().map_err(failed())?;
        let outward = Pump::new(outward, self.local.stdout.try_clone().map_err(failed())?);
        let shared = master.try_clone().map_err(failed())?;
        self.master = Some(master);
        if stdin_is_terminal {
            let raw = terminal::Raw::enter(self.local.stdin.as_fd());
            self.raw = Some(raw.map_err(SessionError::local("put the terminal into raw mode"))?);
        }
        stream::never_block(&shared).map_err(failed())?;
        self.outlets.push(Outlet::start(outward, Some(shared)).map_err(SessionError::local("start a thread"))?);
        Ok(())
    }
}

fn has_passed(until: Instant) -> bool {
    Instant::now() >= until
}

/// The end of a session that its command did not choose.
#[derive(Debug)]
pub(super) struct ForcedEnd {
    pub(super) reason: EndReason,
    /// Until when the command may end by itself.
    pub(super) until: Instant,
    /// Whether `SIGKILL` has been sent.
    pub(super) is_killed: bool,
}

/// Why the end of a session is forced.
#[derive(Debug)]
pub(super) enum EndReason {
    /// `bailiwickd` ends the session, for this reason.
    Daemon(String),
    /// Nobody reads the output of the command any more.
    Abandoned,
    /// Somebody sent a second signal.
    Signal(i32),
}

/// What woke the loop, beside the pumps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Events {
    signals: bool,
    channel: bool,
    link: Input,
    all_readers_gone: bool,
}
