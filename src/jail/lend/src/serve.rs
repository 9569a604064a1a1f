//! The loop: accepts the tenant's connections, connects each to the host's socket, and moves their bytes. It waits for nobody.

use crate::copy::{BUFFER, Connection, Left};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::time::Timespec;
use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// What the kernel calls the listening socket.
const OF_LISTENER: u64 = u64::MAX;
/// The most clients that are accepted before it is the turn of connections.
const MOST_ACCEPTED: usize = 64;
/// How long a client waits for a host's socket whose queue is full.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Between two tries to connect, or to accept when the kernel is short of something.
const PAUSE: Duration = Duration::from_millis(20);

/// A client whose connection to the host is not made yet, and until when it waits.
#[derive(Debug)]
struct Waiting {
    client: OwnedFd,
    until: Instant,
}

#[derive(Debug)]
pub(crate) struct Server {
    /// `None` once the host's socket is not there and nobody is connected: who comes is refused, as without a database.
    listener: Option<OwnedFd>,
    counts: OwnedFd,
    host: SocketAddrUnix,
    most: usize,
    epoll: OwnedFd,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Connections with something to do that need not be waited for.
    busy: BTreeSet<usize>,
    waiting: Vec<Waiting>,
    /// Somebody may wait at the listening socket.
    is_asked: bool,
    /// The kernel was short of something when it should accept.
    is_short: bool,
    open: u64,
    refused: u64,
    /// Why the last connection to the host's socket was not made; 0 when it was.
    error: u64,
}

impl Server {
    pub(crate) fn new(listener: OwnedFd, counts: OwnedFd, file: String, most: usize) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(OF_LISTENER), EventFlags::IN | EventFlags::ET)?;
        let mut before = [0; 16];
        // The count of refused clients goes on where an earlier process has left it.
        let refused = match rustix::io::pread(&counts, &mut before, 0) {
            Ok(16..) => u64::from_ne_bytes(std::array::from_fn(|index| before[8 + index])),
            _ => 0,
        };
        let server = Self {
            listener: Some(listener),
            counts,
            host: SocketAddrUnix::new(file)?,
            most,
            epoll,
            connections: Vec::new(),
            free: Vec::new(),
            busy: BTreeSet::new(),
            waiting: Vec::new(),
            is_asked: true,
            is_short: false,
            open: 0,
            refused,
            error: 0,
        };
        server.write_counts();
        Ok(server)
    }

    /// Serves until the host's socket is gone while nobody is connected.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut scratch = vec![0; BUFFER];
        let mut events = [MaybeUninit::<Event>::uninit(); 64];
        while self.listener.is_some() || self.open > 0 {
            let time = self.longest_wait();
            let (ready, _) = match epoll::wait(&self.epoll, &mut events, time.as_ref()) {
                Ok(ready) => ready,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in ready.iter() {
                match event.data.u64() {
                    OF_LISTENER => self.is_asked = true,
                    number => self.note(number, event.flags),
                }
            }
            for index in std::mem::take(&mut self.busy) {
                self.advance(index, &mut scratch);
            }
            // Last, so that no report above is about a connection that has taken the place of another.
            self.connect_waiting();
            self.accept();
        }
        Ok(())
    }

    fn longest_wait(&self) -> Option<Timespec> {
        let time = match () {
            () if !self.busy.is_empty() || (self.is_asked && !self.is_short) => Duration::ZERO,
            () if self.is_asked || !self.waiting.is_empty() => PAUSE,
            () => return None,
        };
        Some(Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() })
    }

    fn note(&mut self, number: u64, flags: EventFlags) {
        let Ok(index) = usize::try_from(number / 2) else { return };
        if let Some(Some(connection)) = self.connections.get_mut(index) {
            connection.note(usize::from(number % 2 == 1), flags);
            self.busy.insert(index);
        }
    }

    fn advance(&mut self, index: usize, scratch: &mut [u8]) {
        let Some(Some(connection)) = self.connections.get_mut(index) else { return };
        match connection.advance(scratch) {
            Left::Nothing => {}
            Left::More => drop(self.busy.insert(index)),
            Left::Over => {
                self.connections[index] = None;
                self.free.push(index);
                self.count(-1, 0);
            }
        }
    }

    /// Accepts who has come. Beyond the limit a client is closed at once and counted.
    fn accept(&mut self) {
        self.is_short = false;
        for _ in 0..MOST_ACCEPTED {
            let Some(listener) = self.listener.as_ref().filter(|_| self.is_asked) else { return };
            match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(client) if self.open >= self.most as u64 => {
                    drop(client);
                    self.count(0, 1);
                }
                Ok(client) => {
                    self.count(1, 0);
                    self.connect(Waiting { client, until: Instant::now() + CONNECT_TIME });
                }
                Err(Errno::AGAIN) => self.is_asked = false,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                // The next try is after a pause.
                Err(_) => {
                    self.is_short = true;
                    return;
                }
            }
        }
    }

    fn connect_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            self.connect(waiting);
        }
    }

    /// Connects a client to the host's socket. If that cannot be, the client is closed.
    fn connect(&mut self, waiting: Waiting) {
        let made = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        );
        let connected = made.and_then(|host| rustix::net::connect(&host, &self.host).map(|()| host));
        match connected {
            Ok(host) => {
                self.note_error(0);
                if self.add(waiting.client, host).is_err() {
                    self.count(-1, 0);
                }
            }
            // Its queue is full.
            Err(Errno::AGAIN) if Instant::now() < waiting.until => self.waiting.push(waiting),
            Err(error) => {
                drop(waiting);
                self.count(-1, 0);
                self.note_error(u64::from(error.raw_os_error().unsigned_abs()));
                // As long as somebody is connected it goes on: the server may only be starting again.
                if error == Errno::NOENT && self.open == 0 {
                    self.listener = None;
                }
            }
        }
    }

    fn add(&mut self, client: OwnedFd, host: OwnedFd) -> rustix::io::Result<()> {
        let index = self.free.pop().unwrap_or(self.connections.len());
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        for (socket, end) in [(&client, 0), (&host, 1)] {
            let data = EventData::new_u64(index as u64 * 2 + end);
            if let Err(error) = epoll::add(&self.epoll, socket, data, flags) {
                self.connections.resize_with(self.connections.len().max(index + 1), || None);
                self.free.push(index);
                return Err(error);
            }
        }
        self.connections.resize_with(self.connections.len().max(index + 1), || None);
        self.connections[index] = Some(Connection::new(client, host));
        self.busy.insert(index);
        Ok(())
    }

    fn count(&mut self, open: i64, refused: u64) {
        self.open = self.open.saturating_add_signed(open);
        self.refused = self.refused.saturating_add(refused);
        self.write_counts();
    }

    fn note_error(&mut self, error: u64) {
        if self.error != error {
            self.error = error;
            self.write_counts();
        }
    }

    /// Writes for the warden: the open connections, those that were refused, and the last error.
    fn write_counts(&self) {
        let all = [self.open, self.refused, self.error].map(u64::to_ne_bytes);
        // Nobody is served worse for a count that cannot be written.
        rustix::io::pwrite(&self.counts, &all.concat(), 0).ok();
    }
}
