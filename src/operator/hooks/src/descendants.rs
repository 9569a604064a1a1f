//! Ends everything that this process has started, and what that has started.
//!
//! This process is a subreaper (`prctl(2)`): whoever loses its parent becomes its child, in whatever session or process group it is.
//! So a process that is a descendant becomes a child once those between are gone, and a child's number belongs to nobody else until
//! it is reaped here.
//!
//! Danger: those that start themselves anew all the time are not killed one by one, because each that is killed makes room for
//! another. All are stopped first. What is stopped starts nothing, and counts towards the limit of processes until nobody else can
//! start anything. What is stopped may start nothing later either, whoever lets it go on.

use bailiwick_sys::{proc, process};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions};
use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

/// The pause once killing has not been enough for some rounds: something does not end although it was killed.
const PAUSE: Duration = Duration::from_millis(1);
const ROUNDS_WITHOUT_PAUSE: u32 = 64;
/// How long [`end_others`] may take. Nothing else is served meanwhile.
const OTHERS: Duration = Duration::from_secs(5);

/// Kills and reaps every descendant of this process, which must be a subreaper with one thread. Returns whether none is left at the
/// deadline.
///
/// # Errors
/// When the kernel cannot tell the children of this process.
pub fn end_all(deadline: Instant) -> io::Result<bool> {
    for round in 0_u32.. {
        if !reap_ended()? {
            return Ok(true);
        }
        // If they cannot all be stopped, then they are killed all the same, in the rest of the time.
        let left = deadline.saturating_duration_since(Instant::now());
        kill_all(&[], Instant::now() + left / 2)?;
        if Instant::now() >= deadline {
            break;
        }
        if round > ROUNDS_WITHOUT_PAUSE {
            std::thread::sleep(PAUSE);
        }
    }
    Ok(!reap_ended()?)
}

/// Kills the children of this process that are not among `known`, and their descendants. They lost their parent, which was one of the
/// known ones. What they leave is told by another `SIGCHLD`.
///
/// # Errors
/// As for [`end_all`].
pub fn end_others(known: &[u32]) -> io::Result<()> {
    kill_all(known, Instant::now() + OTHERS)
}

/// Stops every descendant, and then kills them. The children of `spared` are left alone, with what is below them.
fn kill_all(spared: &[u32], deadline: Instant) -> io::Result<()> {
    let mut stopped = BTreeSet::new();
    while stop_new(spared, &mut stopped)? && Instant::now() < deadline {}
    for number in &stopped {
        // Its parent may have been killed just now, and another one is its parent.
        send(*number, |parent| stopped.contains(&parent), Signal::KILL);
    }
    Ok(())
}

/// Walks over all descendants, and stops those whose number is not in `stopped`. Returns whether there was one.
fn stop_new(spared: &[u32], stopped: &mut BTreeSet<u32>) -> io::Result<bool> {
    let own = std::process::id();
    let mut left: Vec<u32> = proc::children(own)?.into_iter().filter(|child| !spared.contains(child)).collect();
    let (mut is_new, mut seen) = (false, BTreeSet::new());
    while let Some(number) = left.pop() {
        // The lists change while they are read, so nothing is looked at twice.
        if !seen.insert(number) {
            continue;
        }
        if !stopped.contains(&number) && send(number, |parent| seen.contains(&parent), Signal::STOP) {
            start_nothing(number);
            stopped.insert(number);
            is_new = true;
        }
        // It may have ended, or be hidden. Then its children become those of this process.
        left.extend(proc::children_of_threads(number).unwrap_or_default());
    }
    Ok(is_new)
}

/// Sends a signal to a descendant: a child of this process, or of one that `is_above` is true for. Returns whether it was sent.
fn send(number: u32, is_above: impl Fn(u32) -> bool, signal: Signal) -> bool {
    let own = std::process::id();
    let Ok(process) = process::open(number) else { return false };
    // A child of this process keeps its number. Another one may have been reaped by its parent, so that somebody else has its number.
    // If that one is judged here, then the process that was opened has ended, and nobody gets the signal.
    let is_below = match proc::stat(number) {
        Ok(stat) => stat.parent == own || is_above(stat.parent),
        // It is hidden (`hidepid`, `proc(5)`).
        Err(_) => proc::children(own).is_ok_and(|children| children.contains(&number)),
    };
    is_below && process::signal(process, signal).is_ok()
}

/// Keeps a process that is stopped, and what it has started, from starting anything (`RLIMIT_NPROC`, `setrlimit(2)`).
fn start_nothing(number: u32) {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // It keeps its number while it is stopped. Where this fails, it was killed by somebody else.
    if let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw) {
        rustix::process::prlimit(Some(pid), Resource::Nproc, none).ok();
    }
}

/// Reaps every child that has ended. Returns whether others are left.
fn reap_ended() -> io::Result<bool> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return Ok(true),
            Err(rustix::io::Errno::CHILD) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}
