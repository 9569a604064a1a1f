//! Floor 1: one function for each system call or text format of the kernel. No policy, no logging.
//!
//! Danger: this is the only crate with unsafe code. Each unsafe block makes one call. Its comment names what the call demands,
//! where that is guaranteed, and why no library has the call. Descriptors are returned owned, and raw numbers never leave this
//! crate.

pub mod block;
pub mod btrfs;
pub mod cgroup;
pub mod credential;
pub mod denied_calls;
pub mod elf;
pub mod file;
pub mod landlock;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod network;
#[cfg(target_env = "gnu")]
pub mod password;
pub mod proc;
pub mod process;
pub mod quota;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod stream;
pub mod terminal;
pub mod unix_diag;
pub mod watch;

/// The number of a command for `ioctl(2)`: the C libraries have it in different types, and the kernel takes 32 bits.
const fn ioctl_request(command: u32) -> libc::Ioctl {
    #[cfg(target_env = "musl")]
    return command.cast_signed();
    #[cfg(not(target_env = "musl"))]
    return command as libc::Ioctl;
}
