//! Floor 4: what the kernel reports about a jail and about the host, as plain facts. It reads, and never changes
//! anything.
//!
//! Danger: a tenant's processes start and end while they are read, and the kernel may reuse a pid meanwhile. A process
//! that has ended is left out. Anything else that cannot be read is an error or an empty fact. The comparison takes an
//! empty fact for a wall that is down, never for one that stands.
//!
//! Single threads (`/proc/PID/task`) are not read. Threads of one process may differ in credentials and namespaces, but
//! never beyond the bounding set and the filters that they inherit from the first thread.

mod host;
mod jail;
mod limit;
mod mail;
pub mod network;
mod pool;
mod process_snapshot;
mod sockets;
mod storage;
mod usage;
mod user;

pub use host::{HostReadings, Linkage, NamespaceReading, host_facts, host_readings, program};
pub use jail::{Census, InitSubject, Subject, in_force, observe_with};
pub use mail::{mail_domain, sendmail_problem};
pub use pool::PoolBacking;
pub use process_snapshot::process_snapshots;
pub use storage::{StorageReadings, Trial, disk_fact, pool_backing, space, storage_readings};
pub use usage::{Gauge, Meter, Reading};
pub use user::{
    DirectoryUsers, SubordinateIds, UserReadings, directories, directory_users, group_exists, group_id, user_exists,
    user_readings, user_sources,
};

use std::io;

/// Why the kernel could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The mount table of this process cannot be read.
    #[error("cannot find where control groups are mounted")]
    Hierarchies(#[source] io::Error),
    /// A control group of the tenant cannot be read.
    #[error("cannot read control group \"{path}\"")]
    Group {
        /// Path of the group below its hierarchy's mount.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// The list of processes cannot be read.
    #[error("cannot list the processes of this host")]
    Processes(#[source] io::Error),
    /// A process exists but cannot be read.
    #[error("cannot read process \"{pid}\"")]
    Process {
        /// Pid of the process.
        pid: u32,
        /// The cause.
        source: io::Error,
    },
    /// A file or directory of the host cannot be read.
    #[error("cannot read \"{path}\"")]
    File {
        /// Path of the file, or a name for what was read.
        path: String,
        /// The cause.
        source: io::Error,
    },
}

/// The value, or `None` when the process ended before or during the read.
fn unless_gone<T>(pid: u32, result: io::Result<T>) -> Result<Option<T>, ObserveError> {
    // linux/errno: ENOENT if it ended before the read, ESRCH if it ended during the read.
    const GONE: [i32; 2] = [2, 3];
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.raw_os_error().is_some_and(|code| GONE.contains(&code)) => Ok(None),
        Err(source) => Err(ObserveError::Process { pid, source }),
    }
}
