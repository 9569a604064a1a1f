//! Attempts at what a jail must refuse, made so that they harm nobody where they are not refused: every call has arguments
//! that the kernel itself turns down once it looks at them.

use std::io;

/// A call with its arguments. Only this module makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    name: &'static str,
    number: u32,
    /// No pointer among them but a null one.
    arguments: [u64; 6],
}

impl Attempt {
    /// Its name, which is unique here.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its arguments.
    #[must_use]
    pub fn arguments(&self) -> [u64; 6] {
        self.arguments
    }
}

/// What is tried with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To open it for reading.
    Read,
    /// To open it for writing.
    Write,
}

/// Files that no process of a jail may open so, in any profile. That one is not there is as good.
pub const FILES: &[(&str, Access)] = &[
    // What is masked can be read, and is empty.
    ("/proc/kcore", Access::Write),
    ("/proc/sysrq-trigger", Access::Write),
    ("/proc/sys/kernel/core_pattern", Access::Write),
    ("/proc/sys/kernel/modprobe", Access::Write),
    ("/proc/sys/vm/drop_caches", Access::Write),
    ("/sys/kernel/uevent_helper", Access::Write),
    ("/sys/kernel/mm/ksm/run", Access::Write),
    ("/dev/mem", Access::Read),
    ("/dev/kmsg", Access::Read),
    ("/dev/sda", Access::Read),
    ("/dev/vda", Access::Read),
    ("/run/host/init", Access::Write),
];

/// Opens a file without waiting and closes it again.
///
/// # Errors
/// What `openat(2)` says.
pub fn open(path: &str, access: Access) -> io::Result<()> {
    use rustix::fs::{Mode, OFlags};
    let flags = match access {
        Access::Read => OFlags::RDONLY,
        Access::Write => OFlags::WRONLY,
    };
    let common = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(rustix::fs::open(path, flags | common, Mode::empty()).map(drop)?)
}

/// -1, as a descriptor, a command or flags.
const NONE: u64 = u64::MAX;

macro_rules! attempts {
    ($($name:literal = $call:ident ($($argument:expr),*);)*) => {
        /// Every attempt.
        pub const ATTEMPTS: &[Attempt] = &[$(Attempt {
            name: $name,
            number: number(libc::$call),
            arguments: padded(&[$($argument as u64),*]),
        }),*];
    };
}

/// Numbers of calls are small and not negative.
const fn number(call: libc::c_long) -> u32 {
    assert!(call >= 0 && call < 1 << 16, "a number of a call");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the line above")]
    {
        call as u32
    }
}

const fn padded(given: &[u64]) -> [u64; 6] {
    let mut all = [0; 6];
    let mut index = 0;
    while index < given.len() {
        all[index] = given[index];
        index += 1;
    }
    all
}

attempts! {
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

/// Makes an attempt. That the kernel looked at the arguments and turned them down is an error too: which one it is tells
/// whether the call was refused before.
///
/// # Errors
/// What the kernel says.
pub fn make(attempt: &Attempt) -> io::Result<()> {
    let [a, b, c, d, e, f] = attempt.arguments;
    let number = libc::c_long::from(attempt.number);
    // SAFETY: only the table above has attempts. No argument of theirs is a pointer but null, so the kernel can neither read
    // nor write memory of this process; and no call there does anything with such arguments but say no. The safe calls of
    // libraries refuse such arguments themselves.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_refuses_the_kernel_turns_the_arguments_down() {
        let names: std::collections::BTreeSet<&str> = ATTEMPTS.iter().map(|attempt| attempt.name).collect();
        assert_eq!(names.len(), ATTEMPTS.len());
        for attempt in ATTEMPTS {
            // As root of the host, or of whatever sandbox these tests run in: nothing may succeed.
            assert!(make(attempt).is_err(), "{}", attempt.name);
        }
    }
}
