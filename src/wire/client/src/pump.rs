//! Moves bytes between a descriptor of the operator's and a pipe or terminal that a jail holds the other end of.
//!
//! Only pipes cross into a jail, so a file, a socket or a terminal of the host is never in a tenant's hands.
//!
//! Ends that face a jail never block. The operator's do: they are shared with others, who did not ask for anything else, and
//! `poll(2)` promises room for some bytes only, to whoever is there first. So what is written to an operator is written by a thread
//! ([`Outlet`]), and a reader that has stopped holds up nothing else.
//!
//! Danger: the tenant decides when the other end is read, written or closed.

use bailiwick_sys::stream::{self, Interest};
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const BUFFER: usize = 64 << 10;
/// The most that is taken from a terminal after the end: nobody can ask one how much it holds, and it is less.
const LAST_OF_TERMINAL: u64 = 4 << 20;

/// One direction.
#[derive(Debug)]
pub(crate) struct Pump {
    /// Both ends; `None` when it is over.
    ends: Option<(File, File)>,
    buffer: Vec<u8>,
    /// The bytes of `buffer` that wait to be written.
    waiting: std::ops::Range<usize>,
    /// How many bytes are still read, once that is bounded.
    left: Option<u64>,
    /// Nothing more comes.
    at_end: bool,
    /// What is written after the last byte.
    ending: &'static [u8],
    /// Why it ended, when that was neither the end of the one nor the closing of the other.
    failure: Option<io::Error>,
}

impl Pump {
    /// From one descriptor to another.
    pub(crate) fn new(from: OwnedFd, to: OwnedFd) -> Self {
        Self {
            ends: Some((from.into(), to.into())),
            buffer: vec![0; BUFFER],
            waiting: 0..0,
            left: None,
            at_end: false,
            ending: b"",
            failure: None,
        }
    }

    /// With bytes that are written after the last one: a terminal has no end of file but a character for it.
    pub(crate) fn ending_with(mut self, ending: &'static [u8]) -> Self {
        self.ending = ending;
        self
    }

    /// Has it end when what there is already has passed: whoever writes on does not hold the reader, and whoever reads slowly loses
    /// nothing.
    fn end_with_what_is_there(&mut self) -> io::Result<()> {
        let Some((from, _)) = &self.ends else { return Ok(()) };
        let left = if from.is_terminal() { LAST_OF_TERMINAL } else { stream::unread(from)? };
        self.left = Some(left);
        self.at_end |= left == 0;
        if self.at_end && self.waiting.is_empty() {
            self.ends = None;
        }
        Ok(())
    }

    /// Whether it is over: both ends are closed.
    pub(crate) fn is_over(&self) -> bool {
        self.ends.is_none()
    }

    /// Whether nothing more comes from its one end: not that nobody takes it at the other.
    pub(crate) fn is_at_end(&self) -> bool {
        self.at_end
    }

    /// Whether bytes wait to be written.
    fn is_laden(&self) -> bool {
        !self.is_over() && !self.waiting.is_empty()
    }

    /// Why bytes were lost, if they were.
    pub(crate) fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// What it waits for: room to write, or bytes to read and the closing of the other end.
    pub(crate) fn questions(&self) -> Vec<(BorrowedFd<'_>, Interest)> {
        match &self.ends {
            None => Vec::new(),
            Some((_, to)) if !self.waiting.is_empty() => vec![(to.as_fd(), Interest::Write)],
            Some((from, to)) => vec![(from.as_fd(), Interest::Read), (to.as_fd(), Interest::End)],
        }
    }

    /// Goes on after `answers` to [`Self::questions`].
    pub(crate) fn step(&mut self, answers: &[bool]) {
        match answers {
            [true] => self.write(),
            [_, true] => self.ends = None,
            [true, false] => self.read(),
            _ => {}
        }
    }

    fn read(&mut self) {
        let Some((from, _)) = &mut self.ends else { return };
        let most = self.left.map_or(BUFFER, |left| usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER)));
        match from.read(&mut self.buffer[..most]) {
            Ok(0) => self.finish(),
            Ok(len) => {
                self.waiting = 0..len;
                if let Some(left) = &mut self.left {
                    *left -= len as u64;
                    self.at_end = *left == 0;
                }
            }
            Err(error) if is_passing(&error) => {}
            Err(error) => {
                self.failure = unless_hung_up(error, from);
                self.finish();
            }
        }
    }

    fn write(&mut self) {
        let Some((_, to)) = &mut self.ends else { return };
        match to.write(&self.buffer[self.waiting.clone()]) {
            Err(error) if is_passing(&error) => {}
            Err(error) => {
                self.failure = unless_hung_up(error, to);
                self.ends = None;
            }
            Ok(len) => {
                self.waiting.start += len;
                if self.waiting.is_empty() && self.at_end {
                    self.ends = None;
                }
            }
        }
    }

    fn finish(&mut self) {
        self.at_end = true;
        if self.ending.is_empty() {
            self.ends = None;
        } else {
            self.buffer[..self.ending.len()].copy_from_slice(self.ending);
            self.waiting = 0..self.ending.len();
        }
    }
}

/// A pump to an operator's descriptor, in a thread of its own: whoever stops reading there has nobody wait but that thread, which ends
/// with the process at the latest.
#[derive(Debug)]
pub(crate) struct Outlet {
    /// Hangs up when the pump is over.
    over: PipeReader,
    /// Is closed to have it end with what is there.
    open: Option<PipeWriter>,
    /// Gives why bytes were lost, if they were. `None` when it was asked.
    thread: Option<JoinHandle<Option<io::Error>>>,
    failure: Option<io::Error>,
}

impl Outlet {
    /// Starts it. Init of the jail shares `terminal`, where the pump reads from one.
    pub(crate) fn start(pump: Pump, terminal: Option<OwnedFd>) -> io::Result<Self> {
        let (over, ends) = io::pipe()?;
        let (closed, open) = io::pipe()?;
        let thread = thread::Builder::new().spawn(move || {
            let failure = run(pump, &closed, terminal.as_ref()).unwrap_or_else(Some);
            drop(ends);
            failure
        })?;
        Ok(Self { over, open: Some(open), thread: Some(thread), failure: None })
    }

    /// What hangs up when there is something for [`Self::tend`] to do.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.thread.as_ref().map(|_| self.over.as_fd())
    }

    /// Takes note of its end.
    pub(crate) fn tend(&mut self) {
        self.failure = self.thread.take().and_then(|thread| thread.join().expect("a pump does not panic"));
    }

    /// See [`Pump::end_with_what_is_there`].
    pub(crate) fn end_with_what_is_there(&mut self) {
        self.open = None;
    }

    /// Whether all that there was has been written, or nobody takes it any more.
    pub(crate) fn is_over(&self) -> bool {
        self.thread.is_none()
    }

    /// Why bytes were lost, if they were.
    pub(crate) fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }
}

/// Has a pump run until it is over; once `closed` hangs up, no longer than for what is there. Gives why bytes were lost.
fn run(mut pump: Pump, closed: &PipeReader, terminal: Option<&OwnedFd>) -> io::Result<Option<io::Error>> {
    let mut is_last = false;
    while !pump.is_over() {
        let mut watched = pump.questions();
        if !is_last {
            watched.push((closed.as_fd(), Interest::End));
        }
        // What is in hand is waited for, more is not.
        let time = (is_last && !pump.is_laden()).then_some(Duration::ZERO);
        let mut answers = stream::wait(&watched, time)?;
        if time.is_some() && !answers.contains(&true) {
            break;
        }
        if !is_last && answers.pop() == Some(true) {
            is_last = true;
            pump.end_with_what_is_there()?;
            continue;
        }
        if let Some(terminal) = terminal {
            // Init shares the open file and may have undone it, to stop this thread in its next read.
            stream::never_block(terminal)?;
        }
        pump.step(&answers);
    }
    Ok(pump.take_failure())
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// `None` when the error only says that the other side has gone: a closed pipe, or the `EIO` of a terminal, which the
/// master side gives when the jail has closed its side, and the operator's own after a hang-up.
fn unless_hung_up(error: io::Error, on: &File) -> Option<io::Error> {
    const EIO: i32 = 5;
    let hung_up = error.kind() == ErrorKind::BrokenPipe || (error.raw_os_error() == Some(EIO) && on.is_terminal());
    (!hung_up).then_some(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pump between two pipes, and the far ends of both.
    fn pump() -> (PipeWriter, Pump, PipeReader) {
        let (from, source) = io::pipe().expect("pipe");
        let (sink, to) = io::pipe().expect("pipe");
        stream::never_block(&to).expect("fionbio");
        (source, Pump::new(from.into(), to.into()), sink)
    }

    /// Steps while there is something to do.
    fn run(pump: &mut Pump) {
        loop {
            let answers = stream::wait(&pump.questions(), Some(Duration::ZERO)).expect("polls");
            if !answers.contains(&true) {
                return;
            }
            pump.step(&answers);
        }
    }

    #[test]
    fn bytes_pass_and_the_end_passes_after_them() {
        let (mut source, mut pump, mut sink) = pump();
        source.write_all(b"hello").expect("writes");
        run(&mut pump);
        let mut got = [0; 5];
        sink.read_exact(&mut got).expect("reads");
        assert_eq!(&got, b"hello");
        assert!(!pump.is_over());
        source.write_all(b"bye").expect("writes");
        drop(source);
        run(&mut pump);
        assert!(pump.is_over());
        let mut rest = Vec::new();
        sink.read_to_end(&mut rest).expect("the end came");
        assert_eq!(rest, b"bye");
    }

    #[test]
    fn a_full_pipe_is_waited_for_and_nothing_is_lost() {
        let (mut source, mut pump, mut sink) = pump();
        let sent: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
        let expected = sent.clone();
        let writer = thread::spawn(move || source.write_all(&sent).expect("writes"));
        let reader = thread::spawn(move || {
            let mut got = Vec::new();
            sink.read_to_end(&mut got).expect("reads");
            got
        });
        while !pump.is_over() {
            let answers = stream::wait(&pump.questions(), None).expect("polls");
            pump.step(&answers);
        }
        writer.join().expect("wrote");
        assert!(reader.join().expect("read") == expected);
    }

    #[test]
    fn what_is_there_passes_to_a_slow_reader_and_what_is_written_later_does_not() {
        let (mut source, mut pump, mut sink) = pump();
        // The pipe to the reader is full, the buffer is, and the pipe from the writer.
        for _ in 0..3 {
            source.write_all(&[b'a'; BUFFER]).expect("fits the pipe");
            run(&mut pump);
        }
        assert!(pump.is_laden());
        pump.end_with_what_is_there().expect("fionread");
        assert!(!pump.is_over());
        let reader = thread::spawn(move || {
            let mut got = Vec::new();
            sink.read_to_end(&mut got).expect("reads");
            got
        });
        while !pump.is_over() {
            // Somebody in the background goes on for ever.
            stream::never_block(&source).expect("fionbio");
            drop(source.write(&[b'b'; BUFFER]));
            let answers = stream::wait(&pump.questions(), None).expect("polls");
            pump.step(&answers);
        }
        assert!(reader.join().expect("read") == [b'a'; 3 * BUFFER]);

        let (_source, mut idle, _sink) = self::pump();
        idle.end_with_what_is_there().expect("fionread");
        assert!(idle.is_over(), "nothing is there");
    }

    #[test]
    fn a_reader_that_goes_ends_it_quietly_before_and_while_bytes_wait() {
        let (_source, mut idle, sink) = pump();
        drop(sink);
        run(&mut idle);
        assert!(idle.is_over() && idle.take_failure().is_none());

        let (mut source, mut laden, sink) = pump();
        source.write_all(&[0; 32 << 10]).expect("fits the pipe");
        laden.step(&[true, false]);
        assert!(laden.is_laden());
        drop(sink);
        run(&mut laden);
        assert!(laden.is_over() && laden.take_failure().is_none());
        assert!(source.write_all(b"x").is_err(), "the writer is told");
    }

    #[test]
    fn lost_bytes_are_a_failure() {
        let (from, mut source) = io::pipe().expect("pipe");
        let full = File::options().write(true).open("/dev/full").expect("opens");
        let mut pump = Pump::new(from.into(), full.into());
        source.write_all(b"x").expect("writes");
        run(&mut pump);
        assert!(pump.is_over());
        assert_eq!(pump.take_failure().expect("failed").kind(), ErrorKind::StorageFull);
    }

    #[test]
    fn a_directory_cannot_be_read() {
        let (_sink, to) = io::pipe().expect("pipe");
        let mut pump = Pump::new(File::open("/").expect("opens").into(), to.into());
        run(&mut pump);
        assert_eq!(pump.take_failure().expect("failed").kind(), ErrorKind::IsADirectory);
    }

    #[test]
    fn the_ending_is_written_last() {
        let (mut source, pump, mut sink) = pump();
        let mut pump = pump.ending_with(b"\x04");
        source.write_all(b"exit").expect("writes");
        drop(source);
        run(&mut pump);
        assert!(pump.is_over());
        let mut got = Vec::new();
        sink.read_to_end(&mut got).expect("reads");
        assert_eq!(got, b"exit\x04");
    }
}
