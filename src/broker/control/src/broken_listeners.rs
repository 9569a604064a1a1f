//! Tells when a tenant shuts a listening socket down, by one epoll set for all sockets. A set costs nothing while nothing
//! happens, and a connection does not wake it.

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The most events of one read.
const AT_A_READ: usize = 64;

/// The set.
#[derive(Debug)]
pub(crate) struct BrokenListeners(Arc<OwnedFd>);

/// Keeps a socket in the set until it is dropped. Closing the socket here would not end that: the tenant has it too.
#[derive(Debug)]
pub(crate) struct Watched {
    set: Arc<OwnedFd>,
    fd: Arc<OwnedFd>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        // It fails only for a socket that is not in the set, and that is what is wanted.
        epoll::delete(&self.set, &self.fd).ok();
    }
}

impl BrokenListeners {
    /// # Panics
    /// When the process has no descriptor left, at its start.
    pub(crate) fn new() -> Self {
        Self(Arc::new(epoll::create(CreateFlags::CLOEXEC).expect("a descriptor is free")))
    }

    /// Watches a socket. One that is shut down already is told at once.
    ///
    /// # Errors
    /// The error of `epoll_ctl(2)`.
    pub(crate) fn watch(&self, fd: &Arc<OwnedFd>, cookie: u64) -> io::Result<Watched> {
        // RDHUP comes with shutdown(2) for reading, HUP, which is always told, for both ways.
        epoll::add(&self.0, fd, EventData::new_u64(cookie), EventFlags::RDHUP | EventFlags::ET)?;
        Ok(Watched { set: Arc::clone(&self.0), fd: Arc::clone(fd) })
    }

    /// The cookies of the sockets that something happened to since the last call.
    pub(crate) fn told(&self) -> BTreeSet<u64> {
        let mut told = BTreeSet::new();
        let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut events = Vec::with_capacity(AT_A_READ);
        loop {
            events.clear();
            let read = epoll::wait(&self.0, rustix::buffer::spare_capacity(&mut events), Some(&at_once));
            told.extend(events.iter().map(|event| event.data.u64()));
            if read.is_err() || events.len() < AT_A_READ {
                return told;
            }
        }
    }
}

impl AsFd for BrokenListeners {
    /// Readable when there is something to tell.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::Shutdown;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_shutdown_is_told_and_a_connection_is_not() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let set = BrokenListeners::new();
        let listen = |name: &str| {
            let path = temp.path().join(name);
            (Arc::new(OwnedFd::from(UnixListener::bind(&path).expect("listens"))), path)
        };
        let ((one, path), (other, _)) = (listen("one"), listen("other"));
        let (_kept, left) = (set.watch(&one, 7).expect("watched"), set.watch(&other, 8).expect("watched"));
        let _waiting = UnixStream::connect(&path).expect("connects");
        assert_eq!(set.told(), BTreeSet::new());
        drop(left);
        rustix::net::shutdown(&other, Shutdown::Read).expect("shuts it down");
        rustix::net::shutdown(&one, Shutdown::Read).expect("shuts it down");
        assert_eq!(set.told(), BTreeSet::from([7]));
        assert_eq!(set.told(), BTreeSet::new(), "once");
        let many: Vec<_> = (0..200).map(|index| listen(&format!("many-{index}")).0).collect();
        for socket in &many {
            rustix::net::shutdown(socket, Shutdown::Both).expect("shuts it down");
        }
        let watched = |(socket, cookie)| set.watch(socket, cookie).expect("watched");
        let _all: Vec<_> = many.iter().zip(100..).map(watched).collect();
        assert_eq!(set.told(), (100..300).collect());
    }
}
