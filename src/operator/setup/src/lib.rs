//! Floor 6: `bailiwick setup`, which makes a host ready for its first tenant, and `bailiwick pool`.
//!
//! [`Facts`] are what the host is. [`plan()`] makes the list of steps from them and from the operator's [`Options`]; it is pure.
//! [`Setup`] carries the steps out. Before each step it notes in a journal what the step is about to replace, so that a run that
//! was killed goes on where it was, and everything can be taken back.
//!
//! Danger: this runs as root and writes to disks, and to the configuration of sshd. It never makes a file system on a device that
//! holds anything. It changes no configuration that does not parse, and takes back no file that has changed since.

mod answers;
mod doors;
mod facts;
mod journal;
mod machine;
mod options;
mod plan;
mod pool;
mod run;
mod step;
mod units;
mod work;

pub use answers::Answers;
pub use facts::Facts;
pub use machine::{Machine, Said, System, ThisHost};
pub use options::{DoorChoice, FileSystemChoice, Options, PoolChoice, PoolSize};
pub use plan::{Plan, plan};
pub use pool::{GrowTo, PoolReport, grow, pool_report};
pub use run::{Outcome, Setup, StepOutcome};
pub use step::{Step, Work};
pub use units::{POOL_FILE, unit_features};
