//! Floor 3: the plan of a jail as data, and its difference from the jail that runs. Pure: no file, no kernel call, no
//! clock.
//!
//! The warden builds a jail from [`JailPlan`], row by row. `observe` reads the state of the kernel. [`difference`] and
//! the audit compare the two. This crate holds all tables of the walls: mounts, capabilities, system calls, Landlock
//! rules, control-group files.

pub mod capability;
pub mod control;
mod difference;
pub mod disk;
pub mod ftp;
mod jail;
pub mod kernel;
pub mod kernel_memory;
pub mod landlock;
pub mod lending;
pub mod lifecycle;
pub mod mount;
pub mod network;
pub mod probe;
pub mod rescue;
pub mod seccomp;
pub mod seed;

pub use difference::difference;
pub use jail::{CORE_LIMIT, JailPlan, NominalLimit, OOM_SCORE, PlanError, Rlimit, check, nominal, rlimits};
