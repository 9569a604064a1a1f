//! The descriptors that outlive this program, and the messages to whoever keeps them: the service manager, or the supervisor of
//! `--standalone`, which does the same (`sd_listen_fds(3)`, `sd_notify(3)`).

use bailiwick_control::DescriptorStore;
use bailiwick_sys::process;
use sd_notify::NotifyState;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// The name of the control socket's descriptor: `FileDescriptorName=` in `bailiwickd.socket`.
const CONTROL: &str = "control";

/// The descriptors that this program inherits.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// The control socket, already listening.
    pub(crate) control: Option<OwnedFd>,
    /// What an earlier process of this program stored, each with its name.
    pub(crate) stored: Vec<(String, OwnedFd)>,
}

impl Inherited {
    /// Takes the inherited descriptors. Call it once, before anything is opened.
    pub(crate) fn take() -> io::Result<Self> {
        let mut inherited = Self::default();
        for (number, name) in announced() {
            let fd = process::inherited(number)?;
            if name == CONTROL {
                inherited.control = Some(fd);
            } else {
                inherited.stored.push((name, fd));
            }
        }
        Ok(inherited)
    }
}

/// The numbers and names of the inherited descriptors.
fn announced() -> Vec<(i32, String)> {
    // The supervisor does not know the pid of its child before it starts, so only the service manager names it.
    if std::env::var_os("LISTEN_PID").is_some() {
        return sd_notify::listen_fds_with_names().map(Iterator::collect).unwrap_or_default();
    }
    let variable = |name| std::env::var(name).unwrap_or_default();
    of_supervisor(&variable("LISTEN_FDS"), &variable("LISTEN_FDNAMES"))
}

fn of_supervisor(count: &str, names: &str) -> Vec<(i32, String)> {
    let count = count.parse().unwrap_or(0);
    (3..).zip(names.split(':').map(str::to_owned)).take(count).collect()
}

/// Whoever keeps descriptors while this program is restarted. Without one, messages to it are lost.
#[derive(Debug)]
pub(crate) struct Manager;

impl DescriptorStore for Manager {
    fn keep(&self, name: &str, fd: BorrowedFd<'_>) {
        sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(name)], &[fd]).ok();
    }

    fn forget(&self, name: &str) {
        sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_supervisor_announces_is_numbered_from_three() {
        assert_eq!(of_supervisor("2", "w0:w7"), [(3, "w0".to_owned()), (4, "w7".to_owned())]);
        for (count, names) in [("", ""), ("0", ""), ("x", "w0"), ("-1", "w0")] {
            assert_eq!(of_supervisor(count, names), [], "{count:?} {names:?}");
        }
    }
}
