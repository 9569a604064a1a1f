//! Tells what happens to listening sockets, by one epoll set for all of them. A set costs nothing while nothing happens: no task
//! and no descriptor for each socket.

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The most events of one read.
const AT_A_READ: usize = 64;

/// The set.
#[derive(Debug)]
pub(crate) struct ListenerSet {
    set: Arc<OwnedFd>,
    events: EventFlags,
}

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

impl ListenerSet {
    /// Tells of sockets that are shut down, and not of connections.
    ///
    /// # Panics
    /// When the process has no descriptor left, at its start.
    pub(crate) fn of_shutdowns() -> Self {
        // RDHUP comes with shutdown(2) for reading, HUP, which is always told, for both ways.
        Self::new(EventFlags::RDHUP)
    }

    /// Tells of sockets that somebody connects to, and of those that are shut down.
    ///
    /// # Panics
    /// When the process has no descriptor left, at its start.
    pub(crate) fn of_connections() -> Self {
        Self::new(EventFlags::IN | EventFlags::RDHUP)
    }

    fn new(events: EventFlags) -> Self {
        let set = Arc::new(epoll::create(CreateFlags::CLOEXEC).expect("a descriptor is free"));
        Self { set, events: events | EventFlags::ET }
    }

    /// Watches a socket, and tells of it by a number. What is so already is told at once.
    ///
    /// # Errors
    /// The error of `epoll_ctl(2)`.
    pub(crate) fn watch(&self, fd: &Arc<OwnedFd>, number: u64) -> io::Result<Watched> {
        epoll::add(&self.set, fd, EventData::new_u64(number), self.events)?;
        Ok(Watched { set: Arc::clone(&self.set), fd: Arc::clone(fd) })
    }

    /// The numbers of the sockets that something happened to since the last call.
    pub(crate) fn told(&self) -> BTreeSet<u64> {
        let mut told = BTreeSet::new();
        let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut events = Vec::with_capacity(AT_A_READ);
        loop {
            events.clear();
            let read = epoll::wait(&self.set, rustix::buffer::spare_capacity(&mut events), Some(&at_once));
            told.extend(events.iter().map(|event| event.data.u64()));
            if read.is_err() || events.len() < AT_A_READ {
                return told;
            }
        }
    }

    /// A descriptor that can be waited on until there is something to tell.
    ///
    /// # Panics
    /// When the process has no descriptor left, or the runtime has no reactor for descriptors.
    pub(crate) fn ready(&self) -> AsyncFd<OwnedFd> {
        #[expect(
            deprecated,
            reason = "what is deprecated about it are descriptors that somebody else may close: this one is owned"
        )]
        let ready = self.set.try_clone().and_then(|fd| AsyncFd::with_interest(fd, Interest::READABLE));
        ready.expect("a descriptor is free")
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
        let set = ListenerSet::of_shutdowns();
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

    #[test]
    fn a_connection_is_told_each_time_and_one_that_waits_already_at_once() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let path = temp.path().join("one");
        let listener = UnixListener::bind(&path).expect("listens");
        let fd = Arc::new(OwnedFd::from(listener.try_clone().expect("duplicates")));
        let set = ListenerSet::of_connections();
        let watched = set.watch(&fd, 7).expect("watched");
        assert_eq!(set.told(), BTreeSet::new());
        let _first = UnixStream::connect(&path).expect("connects");
        assert_eq!(set.told(), BTreeSet::from([7]));
        assert_eq!(set.told(), BTreeSet::new(), "once");
        let _second = UnixStream::connect(&path).expect("connects");
        assert_eq!(set.told(), BTreeSet::from([7]));
        drop(watched);
        let watched = set.watch(&fd, 8).expect("watched");
        assert_eq!(set.told(), BTreeSet::from([8]), "both still wait");
        drop((listener.accept(), listener.accept(), watched));
        let _watched = set.watch(&fd, 9).expect("watched");
        assert_eq!(set.told(), BTreeSet::new());
    }
}
