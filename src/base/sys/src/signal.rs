//! Signals that are read from a descriptor (`signalfd(2)`), so that one loop can wait for signals and for other descriptors.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

pub use libc::{SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGWINCH};

/// A set of blocked signals, and the descriptor that reports them.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks signals for the calling thread, which must be the only one, and opens the descriptor. The signals stay blocked
    /// when the value is dropped. A signal that is ignored (`nohup(1)`, a shell's background job) stays ignored and is never
    /// reported.
    ///
    /// # Errors
    /// `EINVAL` for a number that is no signal, and for a real-time signal, else the error of `signalfd(2)`.
    pub fn block(numbers: &[i32]) -> io::Result<Self> {
        let mut set = SigSet::empty();
        for number in numbers {
            let signal = Signal::try_from(*number)?;
            if !is_ignored(signal)? {
                set.add(signal);
            }
        }
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// Returns the number of the next signal that has come, or `None` when there is none.
    ///
    /// # Errors
    /// The error of `read(2)`, except `EAGAIN` and `EINTR`.
    pub fn take(&self) -> io::Result<Option<i32>> {
        match self.0.read_signal() {
            Ok(Some(record)) => Ok(Some(i32::try_from(record.ssi_signo).expect("a signal's number is small"))),
            Ok(None) | Err(Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether this process ignores a signal.
fn is_ignored(signal: Signal) -> io::Result<bool> {
    let nothing = *SigSet::empty().as_ref();
    let mut action = libc::sigaction { sa_sigaction: libc::SIG_DFL, sa_mask: nothing, sa_flags: 0, sa_restorer: None };
    // SAFETY: a null pointer for the new action changes nothing, and the old one is written to a live local of the right type.
    // nix returns the old action only when it sets a new one, and that call is unsafe too.
    if unsafe { libc::sigaction(signal as i32, std::ptr::null(), &raw mut action) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(action.sa_sigaction == libc::SIG_IGN)
}

/// Unblocks every signal. A program inherits the mask of its parent, which may have blocked signals to read them from a
/// descriptor.
///
/// # Errors
/// The error of `sigprocmask(2)`.
pub fn unblock_all() -> io::Result<()> {
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Gives every signal its default action and unblocks it, as a program expects that is about to be executed.
///
/// # Errors
/// The error of `sigprocmask(2)`.
pub fn reset_all() -> io::Result<()> {
    for number in 1..=64 {
        // SAFETY: SIG_DFL is a valid disposition for every signal; SIGKILL, SIGSTOP and the numbers that libc keeps to
        // itself give an error and stay as they are. nix knows no real-time signals, and its call is unsafe too.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    unblock_all()
}

/// Sends a signal to a process group of this pid namespace. Real-time signals are allowed.
///
/// # Errors
/// `ESRCH` when there is no such group; `EINVAL` for a number that is no signal.
pub fn send_to_group(group: u32, number: i32) -> io::Result<()> {
    let group = i32::try_from(group).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    if group <= 1 {
        // kill(2) would take 0 for this process's own group, and 1 for every process.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: kill(2) takes any numbers; the group is above 1, so one group is meant and nothing else. The number comes from a
    // client, and the safe calls of rustix and nix refuse real-time signals.
    if unsafe { libc::kill(-group, number) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a signal to every other process of this pid namespace. Only PID 1 of the namespace may do this.
///
/// # Errors
/// `EPERM` when this process is not PID 1, `ESRCH` when there is no other process, `EINVAL` as for [`Signals::block`].
pub fn send_to_all_others(number: i32) -> io::Result<()> {
    if std::process::id() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    #[expect(clippy::disallowed_methods, reason = "no number is meant: everybody else in this namespace is")]
    Ok(nix::sys::signal::kill(Pid::from_raw(-1), Signal::try_from(number)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_and_an_ignored_one_is_not() {
        // The runtime of Rust programs ignores SIGPIPE.
        let signals = Signals::block(&[SIGWINCH, libc::SIGPIPE]).expect("blocks");
        assert_eq!(signals.take().expect("reads"), None);
        for signal in [Signal::SIGPIPE, Signal::SIGWINCH] {
            nix::sys::signal::raise(signal).expect("raises");
        }
        assert_eq!(signals.take().expect("reads"), Some(SIGWINCH));
        assert_eq!(signals.take().expect("reads"), None);
    }

    #[test]
    fn a_number_that_is_no_signal_is_an_error() {
        // 64 is a real-time signal.
        for number in [-1, 4096, 64] {
            assert_eq!(Signals::block(&[number]).expect_err("no signal").raw_os_error(), Some(libc::EINVAL));
        }
    }
}
