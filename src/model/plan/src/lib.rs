//! Floor 3: what a jail should be, as data, and how that differs from what it is. Pure: no file, no kernel, no clock.
//!
//! The warden builds what [`JailPlan`] says row by row, `observe` reads the kernel back, and [`difference`] and the
//! audit compare the two. All tables of the project's walls live here: mounts, capabilities, system calls, Landlock
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
pub mod lifecycle;
pub mod mount;
pub mod probe;
pub mod rescue;
pub mod seccomp;
pub mod seed;

pub use difference::difference;
pub use jail::{CORE_LIMIT, JailPlan, NominalLimit, OOM_SCORE, PlanError, Rlimit, check, nominal, rlimits};
