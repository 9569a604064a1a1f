//! The service manager (systemd): what it hands over when the warden starts, and what it is told.
//!
//! It keeps a descriptor of every jail's init while no warden runs (`FDSTORE=1`, `sd_notify(3)`), and the socket on
//! which requests then wait. Without a manager, as under `--standalone`, every function here does nothing.
//!
//! Danger: a descriptor that is taken over is believed to be a jail's. Only the manager, which is root, can hand one
//! over, and the record and control group of the jail must still say the same.

use bailiwick_sys::process;
use bailiwick_types::TenantName;
use sd_notify::NotifyState;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// The name of the socket's descriptor: `FileDescriptorName=` in `bailiwick-warden.socket`.
const SOCKET: &str = "warden";
/// Before the name of a tenant in the name of its init's descriptor, so that no tenant can be named like the socket.
const JAIL: &str = "jail-";

/// What was handed over.
#[derive(Debug, Default)]
pub struct InheritedFds {
    /// The socket on which requests come, already listening.
    pub(crate) listener: Option<OwnedFd>,
    /// Descriptors of inits, by tenant.
    pub(crate) inits: BTreeMap<String, OwnedFd>,
}

impl InheritedFds {
    /// Takes what was handed over. To be called once, before anything is opened.
    ///
    /// # Errors
    /// When what the manager announced is not there.
    pub fn take() -> io::Result<Self> {
        let mut handed = Self::default();
        // Nothing announced is an error of this library, and the usual case without a manager.
        let Ok(named) = sd_notify::listen_fds_with_names() else { return Ok(handed) };
        for (number, name) in named {
            let fd = process::inherited(number)?;
            if name == SOCKET {
                handed.listener = Some(fd);
            } else if let Some(tenant) = name.strip_prefix(JAIL) {
                handed.inits.insert(tenant.to_owned(), fd);
            }
        }
        Ok(handed)
    }

    /// What waits at the socket, for when there will be no warden.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn waiting(&self) -> io::Result<Waiting> {
        Ok(Waiting { listener: self.listener.as_ref().map(OwnedFd::try_clone).transpose()? })
    }
}

/// Requests that wait at the manager's socket for a warden that cannot work. They would have the manager start one after the other.
#[derive(Debug)]
pub struct Waiting {
    listener: Option<OwnedFd>,
}

impl Waiting {
    /// Closes all that wait now.
    pub fn close(self) {
        let Some(listener) = self.listener else { return };
        // The flag is the socket's own, and stays: every warden sets it.
        if rustix::io::ioctl_fionbio(&listener, true).is_ok() {
            while rustix::net::accept(&listener).is_ok() {}
        }
    }
}

/// Has the manager keep a descriptor of a jail's init. A manager that does not is no failure: the record of the jail
/// serves then.
pub(crate) fn keep(tenant: &TenantName, init: &OwnedFd) {
    let name = format!("{JAIL}{tenant}");
    forget(tenant.as_str());
    sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(&name)], &[init.as_fd()]).ok();
}

/// Has it let go of it.
pub(crate) fn forget(tenant: &str) {
    let name = format!("{JAIL}{tenant}");
    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]).ok();
}

/// Tells that requests are taken now.
pub(crate) fn ready() {
    sd_notify::notify(&[NotifyState::Ready]).ok();
}

/// Tells that the loop still turns.
pub(crate) fn alive() {
    sd_notify::notify(&[NotifyState::Watchdog]).ok();
}

/// How often [`alive`] must be called, if at all: twice in the time that the manager allows.
pub(crate) fn period() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|time| time / 2)
}
