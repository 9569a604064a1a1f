//! A session that has been let in: relays its streams and signals until it ends.

use super::error::SessionError;
use super::streams::{Local, Streams, Whose};
use super::{StreamKind, ended_by};
use crate::link::Link;
use crate::pump::{Outlet, Pump};
use bailiwick_proto::{SessionEvent, SessionSignal, TransportError, transport};
use bailiwick_sys::signal::{SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGWINCH, Signals};
use bailiwick_sys::stream::{self, Interest};
use bailiwick_sys::terminal;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The character that means the end of a file to a terminal (`VEOF` of `termios(3)`).
pub(super) const END_OF_FILE: &[u8] = b"\x04";

/// How long a command that is to end may take after each signal.
pub(super) const END_TIME: Duration = Duration::from_secs(1);

/// How long a signal waits for the command to start; after that it ends the session that does not begin.
pub(super) const EARLY_TIME: Duration = Duration::from_secs(1);

/// How long init may take to begin what it took.
pub(super) const BEGIN_TIME: Duration = Duration::from_secs(10);

/// How long what an operator's command left behind may still say something after its end.
pub(super) const LATE_TIME: Duration = Duration::from_secs(1);

/// A session that has been let in.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub(super) channel: OwnedFd,
    /// Who counts it, and may end it.
    pub(super) link: Option<Link<'a>>,
    pub(super) local: &'a Local,
    pub(super) kind: StreamKind,
    pub(super) streams: Streams,
    pub(super) outlets: Vec<Outlet>,
    pub(super) raw: Option<terminal::Raw<'a>>,
    /// The master side of the session's terminal, which init may share.
    pub(super) master: Option<OwnedFd>,
    pub(super) started: bool,
    /// That it is to end, whether it wants to or not.
    pub(super) ending: Option<Ending>,
    /// A signal that came before the command had started, and until when it waits for that.
    pub(super) early: Option<(i32, Instant)>,
    /// Whether the command was told by a signal to end.
    pub(super) is_told: bool,
    /// What is run, for messages.
    pub(super) command: String,
    pub(super) whose: Whose,
    /// Which of our own outputs somebody still reads.
    pub(super) readers: Vec<BorrowedFd<'a>>,
    /// Until when init may begin it.
    pub(super) begins: Instant,
    /// Until when new output is waited for once the command has ended. What there is by then passes, however slowly it is read.
    pub(super) late: Option<Instant>,
}

impl<'a> Session<'a> {
    pub(super) fn new(
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
    pub(super) fn attend(&mut self, signals: &Signals) -> Result<u8, SessionError> {
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
    pub(super) fn interrupt(&mut self, number: i32) -> Option<u8> {
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
    pub(super) fn say(&self, signal: SessionSignal) {
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
pub(super) struct Ending {
    pub(super) reason: Reason,
    /// How long it is waited for.
    pub(super) until: Instant,
    /// Whether it was told by the signal that no process hears.
    pub(super) is_killed: bool,
}

/// Why a session is ended.
#[derive(Debug)]
pub(super) enum Reason {
    /// `bailiwickd` says so.
    Told(String),
    /// Nobody reads any more what the command says.
    Abandoned,
    /// Somebody insists by a second signal.
    Signal(i32),
}

/// What woke the loop beside the pumps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready {
    pub(super) signals: bool,
    pub(super) channel: bool,
    pub(super) link: bool,
    /// Nobody reads any more what the command says.
    pub(super) abandoned: bool,
}
