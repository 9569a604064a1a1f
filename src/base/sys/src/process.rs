//! Processes: made in namespaces and a control group in one step, and held by descriptor instead of a number.
//!
//! Danger: [`clone_into`] and [`fork`] copy the calling process. They refuse to run in a process with more than one thread,
//! because the child would hold locks that nobody frees.

use linux_raw_sys::general as kernel;
use nix::fcntl::AtFlags;
use nix::sched::CloneFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The flags for the eight kinds of namespace of a jail, for [`clone_into`].
pub const ALL_NAMESPACES: u64 = (kernel::CLONE_NEWUSER
    | kernel::CLONE_NEWNS
    | kernel::CLONE_NEWPID
    | kernel::CLONE_NEWIPC
    | kernel::CLONE_NEWUTS
    | kernel::CLONE_NEWNET
    | kernel::CLONE_NEWCGROUP
    | kernel::CLONE_NEWTIME) as u64;

/// The flag for a mount namespace alone, for [`clone_into`].
pub const MOUNT_NAMESPACE: u64 = kernel::CLONE_NEWNS as u64;

/// The flag for a user namespace alone, for [`clone_into`].
pub const USER_NAMESPACE: u64 = kernel::CLONE_NEWUSER as u64;

/// The flag for a network namespace, for [`clone_into`].
pub const NETWORK_NAMESPACE: u64 = kernel::CLONE_NEWNET as u64;

/// The side of a clone that the caller is on.
#[derive(Debug)]
pub enum Cloned {
    /// The caller is the child.
    Child,
    /// The caller is the parent.
    Parent {
        /// The child's number in the caller's pid namespace.
        pid: u32,
        /// A descriptor of the child (`pidfd_open(2)`). It stays the child's even when another process gets the number.
        pidfd: OwnedFd,
    },
}

/// Makes a child in new namespaces (`clone3(2)`). With `group`, a directory of the unified hierarchy, the child starts in that
/// control group, so that no instruction runs outside it.
///
/// The child has the standard streams and the descriptors of `keep`. All others are closed in it: a child that the kernel does
/// not let end would otherwise hold locks and connections of a parent that is long gone.
///
/// Danger: the child must not use or drop an owner of a descriptor that is not kept. It must end with [`execute`] or
/// [`exit_now`].
///
/// # Errors
/// `EDEADLK` when this process has more than one thread, else the error of `clone3(2)`.
pub fn clone_into(namespaces: u64, group: Option<BorrowedFd<'_>>, keep: &[BorrowedFd<'_>]) -> io::Result<Cloned> {
    // The link count of a directory is two, plus one for each directory in it. Here each thread has a directory.
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
    // SAFETY: clone3(2) reads `size_of::<clone_args>()` bytes from a live local of that type and, with CLONE_PIDFD, writes one
    // int to `pidfd`, which outlives the call. Without CLONE_VM and CLONE_THREAD the child is a copy of this process, as after
    // fork(2). The check above found one thread, so the copy holds no lock. Neither rustix nor nix has the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => match keep_only(keep) {
            Ok(()) => Ok(Cloned::Child),
            Err(_) => exit_now(1),
        },
        pid => {
            // SAFETY: the kernel has just put a new descriptor into `pidfd` (CLONE_PIDFD), and nobody else owns it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: u32::try_from(pid).expect("a process number fits into 32 bits"), pidfd })
        }
    }
}

/// Makes a child that is a copy of this process (`fork(2)`). Returns its number in the parent, and `None` in the child. Unlike
/// [`clone_into`], it works under a filter that refuses `clone3`.
///
/// # Errors
/// `EDEADLK` when this process has more than one thread, else the error of `fork(2)`.
pub fn fork() -> io::Result<Option<u32>> {
    if rustix::fs::stat("/proc/self/task")?.st_nlink != 3 {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    // SAFETY: the check above found one thread, so the copy holds no lock that nobody frees. The call of nix is unsafe too.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(u32::try_from(pid).expect("a process number is positive"))),
    }
}

/// Gives this process a control group namespace: its present groups become the roots of the groups that it sees
/// (`cgroup_namespaces(7)`).
///
/// # Errors
/// The error of `unshare(2)`.
pub fn new_cgroup_namespace() -> io::Result<()> {
    Ok(nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP)?)
}

/// Opens a descriptor of a process (`pidfd_open(2)`).
///
/// # Errors
/// `ESRCH` when there is no process of this number.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::Error::from_raw_os_error(libc::ESRCH))?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// The number of a process in this process's pid namespace; `None` when it was reaped, or has no number in this namespace.
///
/// # Errors
/// When `/proc/self/fdinfo` cannot be read; `InvalidInput` when the descriptor is no pidfd.
pub fn number(pidfd: impl AsFd) -> io::Result<Option<u32>> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd()))?;
    // The number is 0 for a process of another namespace, and -1 for one that was reaped (pidfd_open(2)).
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:")).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(number.trim().parse().ok().filter(|number| *number > 0))
}

/// Duplicates the descriptor `number` of another process (`pidfd_getfd(2)`).
///
/// Danger: if the other process closes its own meanwhile, the duplicate is the last one, and closing it may block for as long
/// as the other process has set (`SO_LINGER`, `socket(7)`). Only the end of this process closes it without blocking.
///
/// # Errors
/// `EBADF` when nothing is open at `number`, `ESRCH` when the process has ended, `EPERM` when this process may not trace it.
pub fn descriptor_of(pidfd: impl AsFd, number: i32) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_getfd(pidfd, number, rustix::process::PidfdGetfdFlags::empty())?)
}

/// Puts this process, which must have one thread, into a new network namespace, in which no interface is up (`unshare(2)`).
///
/// # Errors
/// The error of `unshare(2)`.
pub fn new_network_namespace() -> io::Result<()> {
    Ok(nix::sched::unshare(CloneFlags::CLONE_NEWNET)?)
}

/// Makes the process of a command run as another user and in an empty network namespace of its own. The caller must have the
/// rights for both. [`CommandExt::uid`] cannot be used for this, because it would change the user before the namespace.
pub fn become_apart(command: &mut Command, user: u32, group: u32) {
    let prepare = move || {
        new_network_namespace()?;
        crate::credential::become_for_good(user, group)
    };
    // SAFETY: between fork and exec, `prepare` only makes system calls. It takes no lock and allocates no memory. No library
    // has a safe way to make calls of the caller's choice there.
    unsafe { command.pre_exec(prepare) };
}

/// Sends a signal to a process.
///
/// # Errors
/// `ESRCH` when the process has ended.
pub fn signal(pidfd: impl AsFd, signal: Signal) -> io::Result<()> {
    Ok(rustix::process::pidfd_send_signal(pidfd, signal)?)
}

/// Kills a process.
///
/// # Errors
/// `ESRCH` when the process has ended.
pub fn kill(pidfd: impl AsFd) -> io::Result<()> {
    signal(pidfd, Signal::KILL)
}

/// Whether a process has ended. Waits for its end for at most `wait`.
///
/// # Errors
/// The error of `poll(2)`.
pub fn has_ended(pidfd: impl AsFd, wait: std::time::Duration) -> io::Result<bool> {
    readable(pidfd, wait)
}

/// Whether a descriptor can be read, or its other end was closed. Waits for this for at most `wait`.
///
/// # Errors
/// The error of `poll(2)`.
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

/// Reaps a child that has ended. Returns `false` when it has not ended, or when it is not a child of this process, such as one
/// that was adopted after a restart.
///
/// # Errors
/// The error of `waitid(2)`.
pub fn reap(pidfd: impl AsFd) -> io::Result<bool> {
    match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Ok(status) => Ok(status.is_some()),
        Err(rustix::io::Errno::CHILD) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Executes an open program in place of this one. Returns only an error.
///
/// # Errors
/// The error of `execveat(2)`.
pub fn execute(program: impl AsFd, argv: &[CString], env: &[CString]) -> io::Error {
    let Err(error) = nix::unistd::execveat(program, c"", argv, env, AtFlags::AT_EMPTY_PATH);
    error.into()
}

/// Executes the program at a path in place of this one. Returns only an error.
///
/// # Errors
/// The error of `execve(2)`.
pub fn execute_path(program: &CString, argv: &[CString], env: &[CString]) -> io::Error {
    let Err(error) = nix::unistd::execve(program, argv, env);
    error.into()
}

/// Makes the kernel send `SIGTERM` to the process of a command when the calling thread ends, even when it is killed
/// (`PR_SET_PDEATHSIG`). This has no effect for a program that changes its effective user: the kernel then forgets it
/// (`prctl(2)`).
pub fn end_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let prepare = move || end_with(parent, Signal::TERM);
    // SAFETY: between fork and exec, `prepare` only makes two system calls. It takes no lock and allocates no memory. As in
    // `become_apart`, no library has a safe way.
    unsafe { command.pre_exec(prepare) };
}

/// Makes the process of a command begin with no signal blocked, whatever this process has blocked.
pub fn unblock_signals(command: &mut Command) {
    // SAFETY: between fork and exec, `unblock_all` only makes a system call. It takes no lock and allocates no memory. As in
    // `become_apart`, no library has a safe way.
    unsafe { command.pre_exec(crate::signal::unblock_all) };
}

/// Makes the kernel send a signal to this process when the thread ends that has made it (`PR_SET_PDEATHSIG`). `parent` is the
/// process of that thread.
///
/// # Errors
/// `ESRCH` when `parent` ended before this call, so that no signal will come.
pub fn end_with(parent: Pid, signal: Signal) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(signal))?;
    let has_parent = rustix::process::getppid() == Some(parent);
    if has_parent { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

/// Ends this process at once, without running destructors or flushing buffers. A child that was cloned from a larger program
/// must end this way, unless it executes another program.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) takes any number and has no precondition. Neither rustix nor nix has a safe call.
    unsafe { libc::_exit(status) }
}

/// Sets close-on-exec on every descriptor from `first` on (`close_range(2)`).
///
/// # Errors
/// The error of `close_range(2)`.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: with CLOSE_RANGE_CLOEXEC the call closes no descriptor, so it invalidates none that anybody owns. Neither rustix
    // nor nix has the call.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes every descriptor except the standard streams and those of `keep` (`close_range(2)`).
///
/// Danger: this is only for a child that was copied from a larger program. It must neither use nor drop the owners of the
/// closed ones.
///
/// # Errors
/// The error of `close_range(2)`.
pub fn keep_only(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    const FIRST: u32 = 3;
    let mut numbers: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut first = FIRST;
    for number in numbers.into_iter().filter(|number| *number >= FIRST) {
        if number > first {
            close_range(first, number - 1)?;
        }
        first = number + 1;
    }
    close_range(first, libc::c_uint::MAX)
}

fn close_range(first: libc::c_uint, last: libc::c_uint) -> io::Result<()> {
    // SAFETY: the call closes descriptors that have owners. The contract of `keep_only` allows this, because the process ends
    // without running a destructor, so nobody uses them again. Neither rustix nor nix has the call.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Duplicates a descriptor to `number` and leaves the duplicate open over exec.
///
/// Danger: this closes the descriptor that was at `number`. So a caller may do this only right before it executes a program or
/// ends.
///
/// # Errors
/// The error of `dup2(2)`.
pub fn place(fd: impl AsFd, number: i32) -> io::Result<()> {
    let from = fd.as_fd().as_raw_fd();
    if from == number {
        return Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?);
    }
    // SAFETY: `from` is borrowed, so it is open. The contract of this function allows to overwrite `number`, in a process that
    // is about to execute a program. The safe calls of rustix and nix want the owner of the overwritten one, which may have
    // another or none.
    if unsafe { libc::dup2(from, number) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the program of a command inherit descriptors. The first has the number 3 there (`sd_listen_fds(3)`).
///
/// # Errors
/// `EMFILE` when the process has too few descriptors for the copies that it needs until then.
pub fn inherit(command: &mut Command, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    const FIRST: i32 = 3;
    let count = i32::try_from(fds.len()).map_err(io::Error::other)?;
    // None of the copies is at a number that is overwritten below.
    let copies = fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, FIRST.saturating_add(count)));
    let copies: Vec<OwnedFd> = copies.collect::<Result<_, _>>()?;
    let prepare = move || (FIRST..).zip(&copies).try_for_each(|(number, fd)| place(fd, number));
    // SAFETY: between fork and exec, `prepare` only makes system calls, as in `become_apart`. What it overwrites is used by
    // nobody else but the library, for the report that exec failed: that report is then lost, and the child ends.
    unsafe { command.pre_exec(prepare) };
    Ok(())
}

/// Takes ownership of a descriptor that the parent has placed at `number`. A program may call this once for each number, before
/// it opens anything.
///
/// # Errors
/// `EBADF` when nothing is open there.
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only reads a flag, and an unused number gives an error. The safe calls of rustix and nix want a
    // descriptor that is known to be open.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the check above found it open. The contract of this function guarantees that nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Gives memory that was freed back to the kernel (`malloc_trim(3)`). The allocator keeps it otherwise: after thousands of small
/// pieces were freed, most pages have nothing in use, and still belong to the process. Only glibc has this.
#[cfg(target_env = "gnu")]
pub fn give_back_memory() {
    // SAFETY: it takes no pointer, and the allocator locks itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_inherits_descriptors_in_their_order() {
        let pipes: Vec<_> =
            (0..5).map(|_| rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe")).collect();
        let mut command = Command::new("sh");
        command.args(["-c", "for n in 3 4 5 6 7; do echo $n >&$n; done"]);
        let fds: Vec<_> = pipes.iter().rev().map(|(_, write)| write.as_fd()).collect();
        inherit(&mut command, &fds).expect("prepared");
        assert!(command.status().expect("runs").success());
        for ((read, _), golden) in pipes.iter().zip([b"7", b"6", b"5", b"4", b"3"]) {
            let mut byte = [0];
            rustix::io::read(read, &mut byte).expect("reads");
            assert_eq!(&byte, golden);
        }
    }

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
