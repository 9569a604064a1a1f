//! The log of services: a helper process, which copies what they print into files of the login user.
//!
//! Init only keeps the pipes. The helper is a copy of init that has given up everything but them. A full disk, a slow one or a hostile
//! home stops the helper and not init. When it dies, another takes its place.
//!
//! Danger: the files are in the tenant's home, and everything in them is the tenant's. The helper has only the login user's rights.

mod writer;

use bailiwick_proto::{TransportError, transport};
use bailiwick_sys::signal::{self, SIGHUP, SIGKILL, SIGTERM, Signals};
use bailiwick_sys::{credential, process, socket};
use rustix::event::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use writer::Writer;

/// The pause before another helper takes the place of one that has died.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause before a helper that was busy is told the rest, and how long it may be busy.
const BUSY: Duration = Duration::from_millis(50);
const MAX_BUSY: Duration = Duration::from_secs(5);
/// The most bytes that are read of one program before the next one's turn.
const PORTION: usize = 64 << 10;
/// The most portions that are read of one program when the log ends: more than a pipe holds.
const LAST_PORTIONS: usize = 32;

/// A program whose output is logged.
#[derive(Debug)]
pub(crate) struct Logged<'a> {
    pub(crate) name: String,
    pub(crate) path: &'a str,
    pub(crate) size: u64,
    pub(crate) keep: u32,
    pub(crate) pipe: BorrowedFd<'a>,
}

/// What the helper is told of a program. The pipe comes beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    name: String,
    path: String,
    size: u64,
    keep: u32,
}

#[derive(Debug)]
struct Helper {
    pid: u32,
    channel: OwnedFd,
    told: Vec<Entry>,
    /// Since when its channel is full.
    busy_since: Option<Instant>,
}

/// The helper, and what it was told.
#[derive(Debug)]
pub(crate) struct Log {
    helper: Option<Helper>,
    again: Option<Instant>,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self { helper: None, again: None }
    }

    /// When [`Self::serve`] has something to do without another event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.again
    }

    /// Lets the helper write what it still finds in the pipes, and end.
    pub(crate) fn finish(&mut self) {
        (self.helper, self.again) = (None, None);
    }

    /// A child has ended. Returns whether it was the helper.
    pub(crate) fn ended(&mut self, pid: u32) -> bool {
        let was_it = self.helper.as_ref().is_some_and(|helper| helper.pid == pid);
        if was_it {
            self.helper = None;
            self.again = Some(Instant::now() + PAUSE);
        }
        was_it
    }

    /// Has the output of these programs logged, and of no others. Makes the helper when there is none.
    pub(crate) fn serve<'a>(&mut self, programs: impl Iterator<Item = Logged<'a>>, now: Instant) {
        if self.again.is_some_and(|again| now < again) {
            return;
        }
        self.again = None;
        let programs: Vec<Logged<'a>> = programs.collect();
        if self.helper.is_none() {
            match start() {
                Ok(helper) => self.helper = Some(helper),
                Err(_) => self.again = Some(now + PAUSE),
            }
        }
        let Some(helper) = &mut self.helper else { return };
        helper.told.retain(|entry| programs.iter().any(|program| program.name == entry.name));
        for program in &programs {
            let Logged { name, path, size, keep, pipe } = program;
            let entry = Entry { name: name.clone(), path: (*path).to_owned(), size: *size, keep: *keep };
            if helper.told.contains(&entry) {
                continue;
            }
            let sent = transport::send_datagram(&helper.channel, &entry, &[*pipe]);
            if matches!(sent, Err(TransportError::Late)) && now < *helper.busy_since.get_or_insert(now) + MAX_BUSY {
                self.again = Some(now + BUSY);
                return;
            }
            // A helper that does not read is stuck in a file of the tenant. Another takes its place.
            if sent.is_err() {
                drop(signal::send_to_group(helper.pid, SIGKILL));
                self.again = Some(now + PAUSE);
                return;
            }
            helper.busy_since = None;
            helper.told.retain(|told| told.name != entry.name);
            helper.told.push(entry);
        }
    }
}

fn start() -> io::Result<Helper> {
    let (ours, theirs) = socket::channel()?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    match process::fork()? {
        None => {
            drop(help(&theirs));
            process::exit_now(1)
        }
        Some(pid) => Ok(Helper { pid, channel: ours, told: Vec::new(), busy_since: None }),
    }
}

/// The helper: runs until init has closed the channel.
fn help(channel: &OwnedFd) -> io::Result<()> {
    process::keep_only(&[channel.as_fd()])?;
    signal::reset_all()?;
    // When the jail ends, everybody gets these two. The helper writes down what the programs say then.
    let _blocked = Signals::block(&[SIGTERM, SIGHUP])?;
    rustix::process::setsid()?;
    credential::become_for_good_in(crate::LOGIN, crate::LOGIN, &[])?;
    let mut writers: Vec<(String, OwnedFd, Writer)> = Vec::new();
    loop {
        let mut fds = vec![PollFd::new(channel, PollFlags::IN)];
        let now = Instant::now();
        let deadlines = writers.iter().filter_map(|(_, _, writer)| writer.deadline(now)).min();
        fds.extend(writers.iter().map(|(_, pipe, _)| PollFd::new(pipe, PollFlags::IN)));
        let timeout = deadlines.map(|deadline| {
            let left = deadline.saturating_duration_since(now);
            rustix::time::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let mut ready = is_ready[1..].iter();
        writers.retain_mut(|(_, pipe, writer)| {
            writer.tick(Instant::now());
            ready.next() != Some(&true) || copy(pipe, writer)
        });
        if is_ready[0] {
            let Ok((entry, mut fds)) = transport::receive_datagram::<Entry>(channel, 1) else {
                for (_, pipe, writer) in &mut writers {
                    finish(pipe, writer);
                }
                return Ok(());
            };
            let Some(pipe) = fds.pop() else { continue };
            let Entry { name, path, size, keep } = entry;
            match writers.iter_mut().find(|(other, ..)| *other == name) {
                Some((_, place, writer)) => {
                    *place = pipe;
                    writer.change(path, size, keep);
                }
                None => writers.push((name, pipe, Writer::new(path, size, keep, Instant::now()))),
            }
        }
    }
}

/// Copies what is left in a pipe. A process that still prints does not hold up the end.
fn finish(pipe: &OwnedFd, writer: &mut Writer) {
    let mut portion = [0; PORTION];
    for _ in 0..LAST_PORTIONS {
        match rustix::io::read(pipe, &mut portion) {
            Ok(0) | Err(_) => break,
            Ok(len) => writer.write(&portion[..len], Instant::now()),
        }
    }
    writer.finish(Instant::now());
}

/// Copies what a program has printed. Returns `false` when nothing can come any more.
fn copy(pipe: &OwnedFd, writer: &mut Writer) -> bool {
    let mut portion = [0; PORTION];
    match rustix::io::read(pipe, &mut portion) {
        Ok(0) => {
            writer.finish(Instant::now());
            false
        }
        Ok(len) => {
            writer.write(&portion[..len], Instant::now());
            true
        }
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => true,
        Err(_) => false,
    }
}
