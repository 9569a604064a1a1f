//! Floor 1: one function per system call or kernel text format. No policy, no logging.
//!
//! The only crate with unsafe code. Each unsafe block makes one call and names what the call demands and where it is
//! guaranteed, and why no library has it. Descriptors come back owned; raw numbers never leave this crate.

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
pub mod password;
pub mod proc;
pub mod process;
pub mod quota;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod stream;
pub mod terminal;
pub mod watch;
