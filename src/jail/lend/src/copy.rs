//! One connection: the bytes that go each way, and the end of each way.
//!
//! ```text
//!              read               written              end of the source, all written
//!   waiting ----------> pending ----------> waiting ------------------------------------> done
//!                                                    or the target takes no more bytes
//! ```
//!
//! A way that is done is closed at both of its ends (`shutdown(2)`). The connection is over when both ways are done.

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use std::os::fd::OwnedFd;

/// The most bytes of one way that are held here.
pub(crate) const BUFFER: usize = 64 << 10;
/// How often one way is moved on before it is the turn of other connections.
const TURNS: usize = 8;

/// One end of a connection, without blocking. The flags are what the kernel last said.
#[derive(Debug)]
struct End {
    socket: OwnedFd,
    readable: bool,
    writable: bool,
}

/// One way.
#[derive(Debug, Default)]
struct Way {
    /// What was read, and how much of it is written.
    pending: Vec<u8>,
    written: usize,
    /// The source has ended.
    ended: bool,
    done: bool,
}

/// Whether something is left to do without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// The kernel reports when something can be done.
    Nothing,
    /// It was the turn of others.
    More,
    /// The connection is over.
    Over,
}

/// A connection: the client's end first, then the host's.
#[derive(Debug)]
pub(crate) struct Connection {
    ends: [End; 2],
    ways: [Way; 2],
}

impl Connection {
    pub(crate) fn new(client: OwnedFd, host: OwnedFd) -> Self {
        // Nothing is known yet, so both are tried.
        let ends = [client, host].map(|socket| End { socket, readable: true, writable: true });
        Self { ends, ways: Default::default() }
    }

    /// What the kernel reports of one end.
    pub(crate) fn note(&mut self, end: usize, flags: EventFlags) {
        let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        self.ends[end].readable |= gone || flags.intersects(EventFlags::IN | EventFlags::RDHUP);
        self.ends[end].writable |= gone || flags.contains(EventFlags::OUT);
        if gone {
            // Nobody is left there to read. What it has sent before is still delivered.
            self.give_up(1 - end);
        }
    }

    /// Moves bytes both ways, as far as nothing must be waited for. `scratch` has [`BUFFER`] bytes.
    pub(crate) fn advance(&mut self, scratch: &mut [u8]) -> Left {
        let mut left = Left::Nothing;
        for from in 0..2 {
            if self.advance_way(from, scratch) == Left::More {
                left = Left::More;
            }
        }
        if self.ways.iter().all(|way| way.done) { Left::Over } else { left }
    }

    fn advance_way(&mut self, from: usize, scratch: &mut [u8]) -> Left {
        for _ in 0..TURNS {
            let way = &self.ways[from];
            if way.done {
                return Left::Nothing;
            }
            let moved = match (way.pending.is_empty(), way.ended) {
                (false, _) => self.write_pending(from),
                (true, true) => {
                    shutdown(&self.ends[1 - from], Shutdown::Write);
                    self.ways[from].done = true;
                    return Left::Nothing;
                }
                (true, false) => self.read(from, scratch),
            };
            if !moved {
                return Left::Nothing;
            }
        }
        Left::More
    }

    /// Reads once and writes what was read as far as the target takes it. `false` when nothing can be read now.
    fn read(&mut self, from: usize, scratch: &mut [u8]) -> bool {
        if !self.ends[from].readable {
            return false;
        }
        // Without room for control data, so that the kernel closes descriptors that come with the bytes.
        match rustix::net::recv(&self.ends[from].socket, &mut *scratch, RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.ways[from].ended = true,
            Ok((len, _)) => {
                let taken = self.write(from, &scratch[..len]);
                if taken < len && !self.ways[from].done {
                    self.ways[from].pending = scratch[taken..len].to_vec();
                    self.ways[from].written = 0;
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                self.ends[from].readable = false;
                return false;
            }
            Err(_) => self.ways[from].ended = true,
        }
        true
    }

    /// `false` when nothing can be written now.
    fn write_pending(&mut self, from: usize) -> bool {
        let Way { pending, written, .. } = &mut self.ways[from];
        let (bytes, before) = (std::mem::take(pending), *written);
        let taken = self.write(from, &bytes[before..]);
        let way = &mut self.ways[from];
        if !way.done && before + taken < bytes.len() {
            (way.pending, way.written) = (bytes, before + taken);
        }
        taken > 0 || way.done
    }

    /// Writes to the target of a way; returns how many bytes it took.
    fn write(&mut self, from: usize, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() && self.ends[1 - from].writable {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.ends[1 - from].socket, &bytes[taken..], flags) {
                Ok(len) => taken += len,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.ends[1 - from].writable = false,
                Err(_) => {
                    self.give_up(from);
                    break;
                }
            }
        }
        taken
    }

    /// Nobody takes what comes this way.
    fn give_up(&mut self, from: usize) {
        if !self.ways[from].done {
            self.ways[from] = Way { done: true, ..Way::default() };
            shutdown(&self.ends[from], Shutdown::Read);
        }
    }
}

/// Closes one way at an end. An end that is gone is closed already.
fn shutdown(end: &End, how: Shutdown) {
    rustix::net::shutdown(&end.socket, how).ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::Shutdown as Std;
    use std::os::unix::net::UnixStream;

    fn connected() -> (Connection, UnixStream, UnixStream) {
        let (client, inner_client) = UnixStream::pair().expect("a pair");
        let (host, inner_host) = UnixStream::pair().expect("a pair");
        (Connection::new(inner_client.into(), inner_host.into()), client, host)
    }

    /// The kernel says that both ends can be read and written.
    fn advance(connection: &mut Connection) -> Left {
        for end in 0..2 {
            connection.note(end, EventFlags::IN | EventFlags::OUT);
        }
        connection.advance(&mut vec![0; BUFFER])
    }

    #[test]
    fn each_way_ends_by_itself() {
        let (mut connection, mut client, mut host) = connected();
        client.write_all(b"ask").expect("writes");
        client.shutdown(Std::Write).expect("shuts");
        assert_eq!(advance(&mut connection), Left::Nothing, "the other way is open");
        let mut text = String::new();
        host.read_to_string(&mut text).expect("ends");
        assert_eq!(text, "ask");
        host.write_all(b"answer").expect("writes");
        drop(host);
        assert_eq!(advance(&mut connection), Left::Over);
        text.clear();
        client.read_to_string(&mut text).expect("ends");
        assert_eq!(text, "answer");
    }

    #[test]
    fn a_peer_that_reads_nothing_holds_up_a_bounded_number_of_bytes() {
        let (mut connection, client, mut host) = connected();
        client.set_nonblocking(true).expect("sets");
        let mut sent = 0_usize;
        loop {
            match (&client).write(&[7; 4096]) {
                Ok(len) => sent += len,
                Err(_) if advance(&mut connection) == Left::More => {}
                Err(_) if connection.ways[0].pending.is_empty() => {}
                Err(_) => break,
            }
        }
        assert!(connection.ways[0].pending.len() <= BUFFER);
        drop(client);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            host.read_to_end(&mut all).expect("ends");
            all.len()
        });
        while advance(&mut connection) != Left::Over && !reader.is_finished() {
            std::thread::yield_now();
        }
        assert_eq!(reader.join().expect("reads"), sent, "all of it arrives");
    }

    #[test]
    fn an_end_that_is_gone_ends_the_other() {
        let (mut connection, client, mut host) = connected();
        (&client).write_all(b"bye").expect("writes");
        drop(client);
        connection.note(0, EventFlags::IN | EventFlags::HUP);
        connection.advance(&mut vec![0; BUFFER]);
        let mut text = String::new();
        host.read_to_string(&mut text).expect("ends");
        assert_eq!(text, "bye");
        let error = host.write_all(b"x").expect_err("nobody reads");
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        assert_eq!(connection.advance(&mut vec![0; BUFFER]), Left::Over);
    }

    #[test]
    fn a_descriptor_that_comes_with_the_bytes_goes_nowhere() {
        use std::os::fd::AsFd;
        let (mut connection, client, host) = connected();
        let (read, write) = std::io::pipe().expect("a pipe");
        bailiwick_sys::socket::send(&client, b"x", &[write.as_fd()]).expect("sends");
        drop(write);
        assert_eq!(advance(&mut connection), Left::Nothing);
        let (len, fds) = bailiwick_sys::socket::receive(&host, &mut [0; 8], 1).expect("receives");
        assert_eq!((len, fds.len()), (1, 0));
        let mut rest = Vec::new();
        { read }.read_to_end(&mut rest).expect("nobody holds the other end");
    }
}
