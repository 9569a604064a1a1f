//! Signals as things to read (`signalfd(2)`), so that one loop waits for them and for descriptors alike.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

pub use libc::{SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGWINCH};

/// Signals that no longer interrupt this thread but are read from a descriptor.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks signals for the calling thread, which must be the only one, and opens the descriptor. They stay blocked
    /// when the value is dropped: it is for the rest of a process's life. A signal that is ignored (`nohup(1)`, a
    /// shell's background job) stays ignored and is never read.
    ///
    /// # Errors
    /// `EINVAL` for a number that is no signal, else what `signalfd(2)` says.
    pub fn block(numbers: &[i32]) -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset(3) initialises the set that the pointer leads to, which is a local of the right type.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: the call above initialised it; it cannot fail.
        let mut set: libc::sigset_t = unsafe { set.assume_init() };
        for number in numbers {
            if is_ignored(*number)? {
                continue;
            }
            // SAFETY: the set is initialised and exclusively borrowed; a bad number is an error, not undefined.
            if unsafe { libc::sigaddset(&raw mut set, *number) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: reads an initialised set; a null pointer for the old mask is allowed and means that it is not wanted.
        let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result));
        }
        // SAFETY: reads an initialised set; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd(2) has just made this descriptor and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal that came, or `None` when there is none now.
    ///
    /// # Errors
    /// What `read(2)` says, except `EAGAIN` and `EINTR`.
    pub fn take(&self) -> io::Result<Option<i32>> {
        let mut record = [0; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.0, &mut record) {
            // `ssi_signo` is the first field and has four bytes (signalfd(2)); a read gives whole records only.
            Ok(_) => {
                let number = record.first_chunk().expect("a record is longer than a number");
                Ok(Some(i32::from_ne_bytes(*number)))
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether a signal is ignored by this process.
fn is_ignored(number: i32) -> io::Result<bool> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null pointer for the new action changes nothing; the old one is written to a local of the right type.
    if unsafe { libc::sigaction(number, std::ptr::null(), action.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above succeeded and so wrote the whole of it.
    let action = unsafe { action.assume_init() };
    Ok(action.sa_sigaction == libc::SIG_IGN)
}

/// No signal is blocked: a program inherits the mask of whoever started it, and may have been started by one that waits
/// for signals on a descriptor.
///
/// # Errors
/// What `sigprocmask(2)` says.
pub fn unblock_all() -> io::Result<()> {
    let mut none = MaybeUninit::uninit();
    // SAFETY: sigemptyset(3) initialises the set behind the pointer, which is to a local of the right type.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: reads the set that the call above initialised; the old mask is not wanted.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

/// Every signal back to its default action and none blocked: what a program that is about to be started expects.
///
/// # Errors
/// What `sigprocmask(2)` says.
pub fn reset_all() -> io::Result<()> {
    for number in 1..=64 {
        // SAFETY: SIG_DFL is a valid disposition for every signal; SIGKILL, SIGSTOP and the numbers that libc keeps to
        // itself give an error and stay as they are.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    unblock_all()
}

/// Sends a signal to a process group of this pid namespace.
///
/// # Errors
/// `ESRCH` when there is no such group; `EINVAL` for a number that is no signal.
pub fn send_to_group(group: u32, number: i32) -> io::Result<()> {
    let group = i32::try_from(group).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    if group <= 1 {
        // 0 and 1 would mean this process's own group and every process.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: kill(2) takes any numbers; the group is above 1, so one group is meant and nothing else.
    if unsafe { libc::kill(-group, number) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a signal to every process of this pid namespace but this one. Only PID 1 of a namespace may mean this.
///
/// # Errors
/// `EPERM` when this process is not PID 1, `ESRCH` when there is nobody else.
pub fn send_to_all_others(number: i32) -> io::Result<()> {
    if std::process::id() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    // SAFETY: kill(2) takes any numbers; that -1 means a namespace of our own was checked above.
    if unsafe { libc::kill(-1, number) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_and_an_ignored_one_is_not() {
        // The runtime of Rust programs ignores SIGPIPE.
        let signals = Signals::block(&[SIGWINCH, libc::SIGPIPE]).expect("blocks");
        assert_eq!(signals.take().expect("reads"), None);
        for number in [libc::SIGPIPE, SIGWINCH] {
            // SAFETY: raise(3) sends the signal to this thread, which blocks the one and ignores the other.
            assert_eq!(unsafe { libc::raise(number) }, 0);
        }
        assert_eq!(signals.take().expect("reads"), Some(SIGWINCH));
        assert_eq!(signals.take().expect("reads"), None);
    }

    #[test]
    fn a_number_that_is_no_signal_is_an_error() {
        assert_eq!(Signals::block(&[4096]).expect_err("no signal").raw_os_error(), Some(libc::EINVAL));
    }
}
