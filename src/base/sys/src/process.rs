//! Processes: made in namespaces and a control group in one step, held by descriptor, never by a bare number.
//!
//! Danger: [`clone_into`] duplicates the calling process. It refuses to run in a process with threads, because the
//! child would hold locks that nobody frees.

use linux_raw_sys::general as kernel;
use nix::fcntl::AtFlags;
use nix::sched::CloneFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The eight kinds of namespace that a jail has, as one set of flags for [`clone_into`].
pub const ALL_NAMESPACES: u64 = (kernel::CLONE_NEWUSER
    | kernel::CLONE_NEWNS
    | kernel::CLONE_NEWPID
    | kernel::CLONE_NEWIPC
    | kernel::CLONE_NEWUTS
    | kernel::CLONE_NEWNET
    | kernel::CLONE_NEWCGROUP
    | kernel::CLONE_NEWTIME) as u64;

/// A namespace of mounts alone, for [`clone_into`].
pub const MOUNT_NAMESPACE: u64 = kernel::CLONE_NEWNS as u64;

/// A namespace of users alone, for [`clone_into`].
pub const USER_NAMESPACE: u64 = kernel::CLONE_NEWUSER as u64;

/// Which side of a clone this is.
#[derive(Debug)]
pub enum Cloned {
    /// The child.
    Child,
    /// The parent, with the child's number and a descriptor that stays the child's whatever the number becomes.
    Parent {
        /// As the caller's pid namespace counts.
        pid: u32,
        /// `pidfd_open(2)` explains what it is good for.
        pidfd: OwnedFd,
    },
}

/// Makes a child in new namespaces and, where a descriptor of one is given, in a control group of the unified
/// hierarchy, so that not one instruction runs outside it (`clone3(2)`). It has the standard streams and the descriptors of
/// `keep`; all others are closed in it: a child that the kernel does not let end would hold locks, connections and
/// sockets of a parent that is long gone.
///
/// Danger: in the child nothing may use or drop what owned a descriptor that is not kept. It ends by [`execute`] or [`exit_now`].
///
/// # Errors
/// `EDEADLK` when this process has more than one thread, else what `clone3(2)` says.
pub fn clone_into(namespaces: u64, group: Option<BorrowedFd<'_>>, keep: &[BorrowedFd<'_>]) -> io::Result<Cloned> {
    // The link count of a directory is two and one for each directory in it: here one for each thread.
    if rustix::fs::stat("/proc/self/task")?.st_nlink != 3 {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    let mut pidfd: libc::c_int = -1;
    let mut flags = namespaces | u64::from(kernel::CLONE_PIDFD);
    let mut cgroup = 0;
    if let Some(group) = group {
        flags |= kernel::CLONE_INTO_CGROUP;
        cgroup = u64::try_from(group.as_raw_fd()).expect("an open descriptor is not negative");
    }
    let arguments = kernel::clone_args {
        flags,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: u64::from(kernel::SIGCHLD),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup,
    };
    // SAFETY: clone3(2) reads `size_of::<clone_args>()` bytes from a live local of that type and, with CLONE_PIDFD,
    // writes one int to `pidfd`, which outlives the call. Without CLONE_VM and CLONE_THREAD the child is a copy of
    // this process, as after fork(2); that this process has one thread was read above, so no lock is held in the copy.
    // Neither rustix nor nix has the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => match keep_only(keep) {
            Ok(()) => Ok(Cloned::Child),
            Err(_) => exit_now(1),
        },
        pid => {
            // SAFETY: the kernel has just put a new descriptor there (CLONE_PIDFD), and nobody else owns it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: u32::try_from(pid).expect("a process number fits into 32 bits"), pidfd })
        }
    }
}

/// A child that is a copy of this process: its number in the parent, `None` in the child (`fork(2)`). Unlike
/// [`clone_into`] this works under a filter that refuses `clone3`.
///
/// # Errors
/// `EDEADLK` when this process has more than one thread, else what `fork(2)` says.
pub fn fork() -> io::Result<Option<u32>> {
    if rustix::fs::stat("/proc/self/task")?.st_nlink != 3 {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    // SAFETY: this process has one thread, as read above, so the copy holds no lock that nobody frees. nix's is unsafe too.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(u32::try_from(pid).expect("a process number is positive"))),
    }
}

/// Takes the control groups that this process is in as the roots of the groups that it sees (`cgroup_namespaces(7)`).
///
/// # Errors
/// What `unshare(2)` says.
pub fn new_cgroup_namespace() -> io::Result<()> {
    Ok(nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP)?)
}

/// A descriptor of a running process.
///
/// # Errors
/// `ESRCH` when there is none of this number.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::Error::from_raw_os_error(libc::ESRCH))?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// The number of a process that is held by descriptor, as this process's pid namespace counts; `None` when it has ended
/// and been reaped, or is not to be seen from here.
///
/// # Errors
/// When `/proc/self/fdinfo` cannot be read, or the descriptor is none of a process.
pub fn number(pidfd: impl AsFd) -> io::Result<Option<u32>> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd()))?;
    // pidfd_open(2): 0 for a process of another namespace, -1 for one that is gone.
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:")).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(number.trim().parse().ok().filter(|number| *number > 0))
}

/// A descriptor of ours for what another process, which is held by descriptor, has open at a number (`pidfd_getfd(2)`).
///
/// Danger: when the other process has closed it meanwhile, this one's is the last, and closing it may wait for as long as the other
/// has said (`SO_LINGER`, `socket(7)`). Only a process that ends does not wait.
///
/// # Errors
/// `EBADF` when nothing is open there, `ESRCH` when the process has ended, `EPERM` when this one may not trace it.
pub fn descriptor_of(pidfd: impl AsFd, number: i32) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_getfd(pidfd, number, rustix::process::PidfdGetfdFlags::empty())?)
}

/// Puts this process, which must have one thread, into a network namespace of its own, in which nothing is up (`unshare(2)`).
///
/// # Errors
/// What `unshare(2)` says.
pub fn new_network_namespace() -> io::Result<()> {
    Ok(nix::sched::unshare(CloneFlags::CLONE_NEWNET)?)
}

/// Has the process that a command starts be another user's and in a network namespace of its own, which is empty. The caller has
/// the right to both. It is not told by [`CommandExt::uid`], which would come before the namespace.
pub fn become_apart(command: &mut Command, user: u32, group: u32) {
    let ask = move || {
        new_network_namespace()?;
        crate::credential::become_for_good(user, group)
    };
    // SAFETY: between fork and exec it makes bare system calls; it takes no lock and no memory. No library has a safe way to
    // make calls of the caller's choice there.
    unsafe { command.pre_exec(ask) };
}

/// Sends a signal to a process that is held by descriptor.
///
/// # Errors
/// `ESRCH` when it has ended.
pub fn signal(pidfd: impl AsFd, signal: Signal) -> io::Result<()> {
    Ok(rustix::process::pidfd_send_signal(pidfd, signal)?)
}

/// Ends a process that is held by descriptor.
///
/// # Errors
/// `ESRCH` when it has ended.
pub fn kill(pidfd: impl AsFd) -> io::Result<()> {
    signal(pidfd, Signal::KILL)
}

/// Whether a process that is held by descriptor has ended (its pidfd is readable), waiting at most so long.
///
/// # Errors
/// What `poll(2)` says.
pub fn has_ended(pidfd: impl AsFd, wait: std::time::Duration) -> io::Result<bool> {
    readable(pidfd, wait)
}

/// Whether a descriptor becomes readable, or its other end goes, within a time.
///
/// # Errors
/// What `poll(2)` says.
pub fn readable(fd: impl AsFd, wait: std::time::Duration) -> io::Result<bool> {
    let deadline = std::time::Instant::now() + wait;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let timeout = rustix::time::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes the exit of a child that is held by descriptor, so that no zombie is left. `false` when it has not ended, or
/// is not this process's child (one that was taken over after a restart).
///
/// # Errors
/// What `waitid(2)` says.
pub fn reap(pidfd: impl AsFd) -> io::Result<bool> {
    match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Ok(status) => Ok(status.is_some()),
        Err(rustix::io::Errno::CHILD) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Becomes an opened program. Comes back only with an error.
///
/// # Errors
/// What `execveat(2)` says.
pub fn execute(program: impl AsFd, argv: &[CString], env: &[CString]) -> io::Error {
    let Err(error) = nix::unistd::execveat(program, c"", argv, env, AtFlags::AT_EMPTY_PATH);
    error.into()
}

/// Becomes the program at a path. Comes back only with an error.
///
/// # Errors
/// What `execve(2)` says.
pub fn execute_path(program: &CString, argv: &[CString], env: &[CString]) -> io::Error {
    let Err(error) = nix::unistd::execve(program, argv, env);
    error.into()
}

/// Has the process that a command starts told to end (`SIGTERM`) when the calling thread does, also when that is killed
/// (`PR_SET_PDEATHSIG`). Not for a program that changes its effective user: the kernel then forgets it (`prctl(2)`).
pub fn end_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let ask = move || end_with(parent, Signal::TERM);
    // SAFETY: between fork and exec it makes two bare system calls; it takes no lock and no memory. As in `become_apart`, no
    // library has a safe way.
    unsafe { command.pre_exec(ask) };
}

/// Has this process, which a thread of `parent` has just made, get a signal when that thread ends (`PR_SET_PDEATHSIG`).
///
/// # Errors
/// `ESRCH` when it has ended before it was asked for: whoever died is nobody's parent any more.
pub fn end_with(parent: Pid, signal: Signal) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(signal))?;
    let is_there = rustix::process::getppid() == Some(parent);
    if is_there { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

/// Ends this process at once, without running destructors or flushing buffers: the only right way out of a child
/// that was cloned from a larger program.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) takes any number and has no precondition. Neither rustix nor nix has a safe one.
    unsafe { libc::_exit(status) }
}

/// Sets close-on-exec on every descriptor from `first` on (`close_range(2)`).
///
/// # Errors
/// What `close_range(2)` says.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: with CLOSE_RANGE_CLOEXEC no descriptor is closed, so none that anybody owns becomes invalid. Neither rustix nor
    // nix has the call.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes every descriptor but the standard streams and some (`close_range(2)`). For a child that was copied from a larger program:
/// whatever else it has belongs to owners that it must neither use nor drop.
///
/// # Errors
/// What `close_range(2)` says.
pub fn keep_only(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    const FIRST: u32 = 3;
    let mut kept: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok()).collect();
    kept.sort_unstable();
    kept.dedup();
    let mut first = FIRST;
    for number in kept.into_iter().filter(|number| *number >= FIRST) {
        if number > first {
            close_range(first, number - 1)?;
        }
        first = number + 1;
    }
    close_range(first, libc::c_uint::MAX)
}

fn close_range(first: libc::c_uint, last: libc::c_uint) -> io::Result<()> {
    // SAFETY: that descriptors are closed which have an owner is the contract of `keep_only`: in a process that ends without
    // running a destructor nobody uses them again. Neither rustix nor nix has the call.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts a copy of an open descriptor at a number and leaves it open over exec. Whatever was at the number is closed,
/// so a caller may only do this right before it execs or ends.
///
/// # Errors
/// What `dup2(2)` says.
pub fn place(fd: impl AsFd, number: i32) -> io::Result<()> {
    let from = fd.as_fd().as_raw_fd();
    if from == number {
        return Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?);
    }
    // SAFETY: `from` is borrowed and so is open; that `number` may be overwritten is this function's contract,
    // and a descriptor that is lost this way is lost in a process that is about to exec. The safe calls of rustix and nix
    // want the owner of what is overwritten, and here it may have another one or none.
    if unsafe { libc::dup2(from, number) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes over a descriptor that the parent has placed at a number.
///
/// # Errors
/// `EBADF` when nothing is open there.
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only reads a flag; an unused number is an error, not undefined. The safe calls of rustix and nix want a
    // descriptor that is known to be open.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just seen to be open, and a program calls this once for each number, before it opens anything.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_process_has_a_number_until_it_is_reaped() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let pidfd = open(child.id()).expect("held");
        assert_eq!(number(&pidfd).expect("read"), Some(child.id()));
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert_eq!(number(&pidfd).expect("read"), None);
        assert!(number(io::stdin()).is_err(), "no process");
    }

    #[test]
    fn a_process_with_threads_is_not_cloned() {
        // The test runner has more than one thread.
        let error = clone_into(0, None, &[]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EDEADLK));
    }
}
