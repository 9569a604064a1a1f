//! The system calls and files that a jail must refuse, and one function to try each kind.
//!
//! Danger: a try runs also where nothing refuses it, so it must do no harm there. Every call has arguments that the kernel
//! itself rejects as soon as it looks at them. No argument is a pointer, except null.

use std::io;

/// A system call with harmless arguments. Only this module makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeniedCall {
    name: &'static str,
    number: u32,
    arguments: [u64; 6],
}

impl DeniedCall {
    /// The name of the try, unique in [`DENIED_CALLS`]. It may hold spaces.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The number of the system call on this architecture.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The six arguments, as a seccomp filter sees them (`seccomp_data.args` in `seccomp(2)`).
    #[must_use]
    pub fn arguments(&self) -> [u64; 6] {
        self.arguments
    }
}

/// How [`try_open`] opens a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileAccess {
    /// Open it for reading.
    Read,
    /// Open it for writing.
    Write,
}

/// Files that no process of a jail may open in this way, in any profile. A file that does not exist is as good as a refused one.
pub const DENIED_FILES: &[(&str, FileAccess)] = &[
    // A masked file can be opened for reading, and is empty. So the tries are for writing.
    ("/proc/kcore", FileAccess::Write),
    ("/proc/sysrq-trigger", FileAccess::Write),
    ("/proc/sys/kernel/core_pattern", FileAccess::Write),
    ("/proc/sys/kernel/modprobe", FileAccess::Write),
    ("/proc/sys/vm/drop_caches", FileAccess::Write),
    ("/sys/kernel/uevent_helper", FileAccess::Write),
    ("/sys/kernel/mm/ksm/run", FileAccess::Write),
    ("/dev/mem", FileAccess::Read),
    ("/dev/kmsg", FileAccess::Read),
    ("/dev/sda", FileAccess::Read),
    ("/dev/vda", FileAccess::Read),
    ("/run/host/init", FileAccess::Write),
];

/// Opens a file of [`DENIED_FILES`] without waiting, and closes it again.
///
/// # Errors
/// The error of `openat(2)`.
pub fn try_open(path: &str, access: FileAccess) -> io::Result<()> {
    use rustix::fs::{Mode, OFlags};
    let flags = match access {
        FileAccess::Read => OFlags::RDONLY,
        FileAccess::Write => OFlags::WRONLY,
    };
    let common = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(rustix::fs::open(path, flags | common, Mode::empty()).map(drop)?)
}

/// -1, as a descriptor, a command or flags.
const NONE: u64 = u64::MAX;

macro_rules! denied_calls {
    ($($name:literal = $call:ident ($($argument:expr),*);)*) => {
        /// Every system call that a jail must refuse, in any profile that says so.
        pub const DENIED_CALLS: &[DeniedCall] = &[$(DeniedCall {
            name: $name,
            number: call_number(libc::$call),
            arguments: padded(&[$($argument as u64),*]),
        }),*];
    };
}

/// The number as seccomp filters count: all numbers of calls are small and not negative.
const fn call_number(call: libc::c_long) -> u32 {
    assert!(call >= 0 && call < 1 << 16, "a system call has a number below 65536");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the line above")]
    {
        call as u32
    }
}

/// The given arguments, and zeros behind them.
const fn padded(given: &[u64]) -> [u64; 6] {
    let mut all = [0; 6];
    let mut index = 0;
    while index < given.len() {
        all[index] = given[index];
        index += 1;
    }
    all
}

denied_calls! {
    "mount" = SYS_mount();
    "umount2" = SYS_umount2();
    "pivot_root" = SYS_pivot_root();
    "fsopen" = SYS_fsopen();
    "open_tree" = SYS_open_tree(NONE);
    "move_mount" = SYS_move_mount(NONE, 0, NONE);
    "mount_setattr" = SYS_mount_setattr(NONE);
    "open_by_handle_at" = SYS_open_by_handle_at(NONE);
    "setns" = SYS_setns(NONE, NONE);
    "unshare user" = SYS_unshare(libc::CLONE_NEWUSER | libc::CLONE_VM);
    "reboot" = SYS_reboot();
    "kexec_load" = SYS_kexec_load(0, 17, 0, NONE);
    "init_module" = SYS_init_module();
    "finit_module" = SYS_finit_module(NONE);
    "delete_module" = SYS_delete_module();
    "swapon" = SYS_swapon();
    "swapoff" = SYS_swapoff();
    "quotactl" = SYS_quotactl(NONE);
    "quotactl_fd" = SYS_quotactl_fd(NONE);
    "settimeofday" = SYS_settimeofday(1);
    "clock_settime" = SYS_clock_settime(NONE);
    "adjtimex" = SYS_adjtimex();
    "iopl" = SYS_iopl(99);
    "ioperm" = SYS_ioperm(NONE, NONE);
    "syslog" = SYS_syslog(NONE);
    "bpf" = SYS_bpf(NONE);
    "perf_event_open" = SYS_perf_event_open();
    "userfaultfd" = SYS_userfaultfd(NONE);
    "io_uring_setup" = SYS_io_uring_setup();
    "keyctl" = SYS_keyctl(NONE);
    "add_key" = SYS_add_key();
    "request_key" = SYS_request_key();
    "fanotify_init" = SYS_fanotify_init(NONE);
    "lookup_dcookie" = SYS_lookup_dcookie();
    "move_pages" = SYS_move_pages(0, 0, 0, 0, 0, NONE);
    "packet socket" = SYS_socket(libc::AF_PACKET, NONE);
    "vsock socket" = SYS_socket(libc::AF_VSOCK, NONE);
    "alg socket" = SYS_socket(libc::AF_ALG, NONE);
    "terminal injection" = SYS_ioctl(NONE, libc::TIOCSTI);
    "subvolume" = SYS_ioctl(NONE, linux_raw_sys::ioctl::BTRFS_IOC_SUBVOL_CREATE);
}

/// Makes one system call of [`DENIED_CALLS`].
///
/// # Errors
/// The error of the call, which tells who refused: a filter refuses before the kernel looks at the arguments, and the kernel
/// alone rejects the arguments with another error number.
pub fn try_call(call: &DeniedCall) -> io::Result<()> {
    let [a, b, c, d, e, f] = call.arguments;
    let number = libc::c_long::from(call.number);
    // SAFETY: `call` is from the table above, because only this module makes a `DeniedCall`. None of its arguments is a pointer
    // except null, so the kernel can neither read nor write memory of this process. With these arguments every call of the table
    // fails before it changes anything. The safe functions of the libraries refuse such arguments themselves.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_refuses_the_kernel_rejects_the_arguments() {
        let names: std::collections::BTreeSet<&str> = DENIED_CALLS.iter().map(DeniedCall::name).collect();
        assert_eq!(names.len(), DENIED_CALLS.len(), "every name is unique");
        for call in DENIED_CALLS {
            // The test runs as root of the host, or of a sandbox: no call may succeed there.
            assert!(try_call(call).is_err(), "{} succeeded", call.name);
        }
    }
}
