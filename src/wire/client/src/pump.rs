//! Moves bytes between a descriptor of the operator and a pipe or terminal whose other end is in a jail.
//!
//! Ends that face a jail are non-blocking. The operator's ends block: other processes share them and expect that, and `poll(2)`
//! promises room for some bytes only, to the first writer. So a thread writes to the operator ([`Outlet`]), and a reader that has
//! stopped blocks nothing else.
//!
//! Danger: the tenant decides when the other end is read, written or closed.

use bailiwick_sys::stream::{self, Interest};
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Bytes that one pump holds at most.
const BUFFER: usize = 64 << 10;
/// The most bytes that are read from a terminal after the end. A terminal does not tell how many it holds, and holds fewer.
const MAX_LAST_OF_TERMINAL: u64 = 4 << 20;

/// A copy loop for one direction, driven by [`Self::questions`] and [`Self::step`].
#[derive(Debug)]
pub(crate) struct Pump {
    /// The end to read and the end to write; `None` when the pump is over.
    ends: Option<(File, File)>,
    buffer: Vec<u8>,
    /// The bytes of `buffer` that wait to be written.
    waiting: std::ops::Range<usize>,
    /// How many more bytes are read; `None` for no bound.
    left: Option<u64>,
    /// Whether the reading end gives nothing more.
    at_end: bool,
    /// Bytes that are written after the last one.
    ending: &'static [u8],
    /// The error that ended the pump. An end of file and a closed reader are no errors.
    failure: Option<io::Error>,
}

impl Pump {
    /// A pump from one descriptor to another. It owns both and closes them when it is over.
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

    /// Adds bytes that are written after the last one, such as the end-of-file character of a terminal.
    pub(crate) fn ending_with(mut self, ending: &'static [u8]) -> Self {
        self.ending = ending;
        self
    }

    /// Ends the pump after the bytes that are there now. A process that goes on writing does not hold the reader, and a slow
    /// reader loses nothing.
    fn end_with_what_is_there(&mut self) -> io::Result<()> {
        let Some((from, _)) = &self.ends else { return Ok(()) };
        let left = if from.is_terminal() { MAX_LAST_OF_TERMINAL } else { stream::unread(from)? };
        self.left = Some(left);
        self.at_end |= left == 0;
        if self.at_end && self.waiting.is_empty() {
            self.ends = None;
        }
        Ok(())
    }

    /// Whether the pump is over and has closed both ends.
    pub(crate) fn is_over(&self) -> bool {
        self.ends.is_none()
    }

    /// Whether the reading end gives nothing more. A writing end that was closed does not count.
    pub(crate) fn is_at_end(&self) -> bool {
        self.at_end
    }

    /// Whether bytes wait to be written.
    fn has_waiting(&self) -> bool {
        !self.is_over() && !self.waiting.is_empty()
    }

    /// The error that lost bytes, once.
    pub(crate) fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// What to poll for: room to write; or bytes to read, and the closing of the writing end.
    pub(crate) fn questions(&self) -> Vec<(BorrowedFd<'_>, Interest)> {
        match &self.ends {
            None => Vec::new(),
            Some((_, to)) if !self.waiting.is_empty() => vec![(to.as_fd(), Interest::Write)],
            Some((from, to)) => vec![(from.as_fd(), Interest::Read), (to.as_fd(), Interest::End)],
        }
    }

    /// Reads or writes once. `answers` are those of [`stream::wait`] to [`Self::questions`], in their order.
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
            Err(error) if is_temporary(&error) => {}
            Err(error) => {
                self.failure = unless_hung_up(error, from);
                self.finish();
            }
        }
    }

    fn write(&mut self) {
        let Some((_, to)) = &mut self.ends else { return };
        match to.write(&self.buffer[self.waiting.clone()]) {
            Err(error) if is_temporary(&error) => {}
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

/// A pump to a descriptor of the operator, in a thread of its own. A reader that stops blocks only this thread, which ends with
/// the process at the latest.
#[derive(Debug)]
pub(crate) struct Outlet {
    /// A pipe that the thread closes when the pump is over.
    over: PipeReader,
    /// A pipe that this side closes to end the pump with the bytes that are there.
    open: Option<PipeWriter>,
    /// Returns the error that lost bytes. `None` once it was joined.
    thread: Option<JoinHandle<Option<io::Error>>>,
    failure: Option<io::Error>,
}

impl Outlet {
    /// Starts the thread. `terminal` is the one that the pump reads from, if it does: init of the jail shares its open file.
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

    /// The descriptor that hangs up when it is time for [`Self::tend`]; `None` after that.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.thread.as_ref().map(|_| self.over.as_fd())
    }

    /// Joins the thread.
    pub(crate) fn tend(&mut self) {
        self.failure = self.thread.take().and_then(|thread| thread.join().expect("a pump does not panic"));
    }

    /// See [`Pump::end_with_what_is_there`].
    pub(crate) fn end_with_what_is_there(&mut self) {
        self.open = None;
    }

    /// Whether all bytes were written, or nobody reads them any more.
    pub(crate) fn is_over(&self) -> bool {
        self.thread.is_none()
    }

    /// The error that lost bytes, once.
    pub(crate) fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }
}

/// Runs a pump until it is over. Once `closed` hangs up, only the bytes that are there still pass. Returns the error that lost
/// bytes.
fn run(mut pump: Pump, closed: &PipeReader, terminal: Option<&OwnedFd>) -> io::Result<Option<io::Error>> {
    let mut is_last = false;
    while !pump.is_over() {
        let mut watched = pump.questions();
        if !is_last {
            watched.push((closed.as_fd(), Interest::End));
        }
        // Bytes in the buffer are waited for, new ones are not.
        let time = (is_last && !pump.has_waiting()).then_some(Duration::ZERO);
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
            // Init shares the open file. It may have made it blocking again, to stop this thread in its next read.
            stream::never_block(terminal)?;
        }
        pump.step(&answers);
    }
    Ok(pump.take_failure())
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// The error, or `None` when it only says that the other side has gone. That is a closed pipe, or the `EIO` of a terminal: the
/// master side gives it when the jail has closed its side, and the operator's own terminal after a hang-up.
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

    /// Runs the pump as long as it has something to do.
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
    fn bytes_that_are_there_reach_a_slow_reader_and_later_ones_do_not() {
        let (mut source, mut pump, mut sink) = pump();
        // This fills the pipe to the reader, the buffer, and the pipe from the writer.
        for _ in 0..3 {
            source.write_all(&[b'a'; BUFFER]).expect("fits the pipe");
            run(&mut pump);
        }
        assert!(pump.has_waiting());
        pump.end_with_what_is_there().expect("fionread");
        assert!(!pump.is_over());
        let reader = thread::spawn(move || {
            let mut got = Vec::new();
            sink.read_to_end(&mut got).expect("reads");
            got
        });
        while !pump.is_over() {
            // A background process goes on writing for ever.
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
    fn a_reader_that_closes_is_no_failure() {
        let (_source, mut idle, sink) = pump();
        drop(sink);
        run(&mut idle);
        assert!(idle.is_over() && idle.take_failure().is_none());

        let (mut source, mut loaded, sink) = pump();
        source.write_all(&[0; 32 << 10]).expect("fits the pipe");
        loaded.step(&[true, false]);
        assert!(loaded.has_waiting());
        drop(sink);
        run(&mut loaded);
        assert!(loaded.is_over() && loaded.take_failure().is_none());
        assert!(source.write_all(b"x").is_err(), "the writer gets EPIPE");
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
