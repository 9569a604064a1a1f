//! The service manager (systemd): the descriptors that the warden inherits from it, and
//! the messages to it.
//!
//! While no warden runs, the manager keeps a descriptor of every jail's init (`FDSTORE=1`, `sd_notify(3)`), and
//! requests wait at its socket. Without a manager, as under `--standalone`, the functions here do nothing.
//!
//! Danger: an inherited descriptor is taken for a jail's init. Only the manager, which is root, can pass one on, and
//! the record and the control group of the jail must still match.

use bailiwick_sys::process;
use bailiwick_types::TenantName;
use sd_notify::NotifyState;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// The name of the socket's descriptor: `FileDescriptorName=` in `bailiwick-warden.socket`.
const SOCKET: &str = "warden";
/// Prefix of a descriptor's name, before the tenant's. No tenant can thus have the name of the socket.
const JAIL: &str = "jail-";

/// Descriptors from the service manager.
#[derive(Debug, Default)]
pub struct InheritedFds {
    /// The socket for requests, already listening.
    pub(crate) listener: Option<OwnedFd>,
    /// Descriptors of inits, by tenant.
    pub(crate) inits: BTreeMap<String, OwnedFd>,
}

impl InheritedFds {
    /// Takes the inherited descriptors. Call it once, before anything is opened.
    ///
    /// # Errors
    /// A descriptor that the manager announced is missing.
    pub fn take() -> io::Result<Self> {
        let mut handed = Self::default();
        // Without a manager nothing is announced, which this library reports as an error.
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

    /// The requests that wait at the socket, for when the warden cannot start.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn waiting(&self) -> io::Result<Waiting> {
        Ok(Waiting { listener: self.listener.as_ref().map(OwnedFd::try_clone).transpose()? })
    }
}

/// Requests that wait at the manager's socket for a warden that cannot start. Each would make the manager start
/// another.
#[derive(Debug)]
pub struct Waiting {
    listener: Option<OwnedFd>,
}

impl Waiting {
    /// Closes all that wait now.
    pub fn close(self) {
        let Some(listener) = self.listener else { return };
        // The flag belongs to the socket and stays; every warden sets it.
        if rustix::io::ioctl_fionbio(&listener, true).is_ok() {
            while rustix::net::accept(&listener).is_ok() {}
        }
    }
}

/// Gives the manager a descriptor of a jail's init to keep. If it does not keep it, the record of the jail is enough.
pub(crate) fn keep(tenant: &TenantName, init: &OwnedFd) {
    let name = format!("{JAIL}{tenant}");
    forget(tenant.as_str());
    sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(&name)], &[init.as_fd()]).ok();
}

/// Makes the manager drop that descriptor.
pub(crate) fn forget(tenant: &str) {
    let name = format!("{JAIL}{tenant}");
    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]).ok();
}

/// Reports that requests are accepted now.
pub(crate) fn ready() {
    sd_notify::notify(&[NotifyState::Ready]).ok();
}

/// Reports that the loop is alive.
pub(crate) fn alive() {
    sd_notify::notify(&[NotifyState::Watchdog]).ok();
}

/// How often [`alive`] must be called, if at all: twice within the manager's time limit.
pub(crate) fn period() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|time| time / 2)
}
