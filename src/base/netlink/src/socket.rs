//! A socket that asks the kernel and waits for its answer (`netlink(7)`, `linux/netlink.h`).
//!
//! Danger: any process of the namespace can send to a netlink socket. Only messages from port 0, the kernel, are read.

use crate::message::{ACK, DUMP, DUMP_INTERRUPTED, Received, Writer, find_text, messages, number32};
use bailiwick_sys::netlink::{self, Protocol};
use rustix::net::{RecvFlags, SendFlags, sockopt};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// How long the kernel may take for one datagram of an answer.
pub const TIME: Duration = Duration::from_secs(5);
/// How often a dump is begun again because what it lists changed meanwhile, or because answers were lost.
const TRIES: usize = 8;
/// What the kernel puts into one datagram at most is 32 KiB, however much it has to say.
const MAX_DATAGRAM: usize = 64 << 10;
/// Answers that may wait for us, in bytes.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Refusals of one batch that are kept; what follows one is mostly its consequence.
const MAX_REFUSALS: usize = 64;
/// What the kernel reserves of the send buffer, in bytes, and some more.
const SEND_RESERVE: usize = 4 << 10;

// The kinds of messages, and the attributes of an error, of linux/netlink.h.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const CAPPED: u16 = 0x100;
const HAS_WORDS: u16 = 0x200;
const WORDS: u16 = 1;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a request. A batch can have several refusals, in the order of its operations.
    #[error("{}", list(.0))]
    Refused(Vec<Refusal>),
    /// A call on the socket failed. `ETIMEDOUT` says that the kernel did not answer within [`TIME`].
    #[error("cannot {what}: netlink socket")]
    Socket {
        /// What was tried.
        what: String,
        /// The error of the call.
        source: io::Error,
    },
    /// What is read kept changing.
    #[error("cannot {what}: it changed during each of {TRIES} attempts; try again when fewer changes are made")]
    Busy {
        /// What was tried.
        what: String,
    },
    /// The kernel has more of it than the caller wants to read.
    #[error("cannot {what}: there are more than {limit}")]
    TooMany {
        /// What was tried.
        what: String,
        /// What the caller wants to read at most.
        limit: usize,
    },
    /// A value cannot be written into a message.
    #[error("cannot {what}: {why}")]
    Invalid {
        /// What was tried.
        what: String,
        /// What is wrong with the value.
        why: String,
    },
}

/// A request that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What was tried: `add route 100.64.0.9/32 dev bw9`.
    pub what: String,
    /// The error number, such as `libc::EEXIST`.
    pub errno: i32,
    /// The kernel's own words (`NLMSGERR_ATTR_MSG`).
    pub words: Option<String>,
}

impl Display for Refusal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "cannot {}: {}", self.what, io::Error::from_raw_os_error(self.errno))?;
        self.words.as_ref().map_or(Ok(()), |words| write!(out, ": {words}"))
    }
}

fn list(refusals: &[Refusal]) -> String {
    match refusals {
        [] => "the kernel refused a request".to_owned(),
        [one] => one.to_string(),
        [first, more @ ..] => format!("{first} (and {} more)", more.len()),
    }
}

impl Error {
    /// The number of the error, such as `libc::EEXIST`; that of the first refusal.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused(refusals) => refusals.first().map(|refusal| refusal.errno),
            Self::Socket { source, .. } => source.raw_os_error(),
            Self::Busy { .. } | Self::TooMany { .. } | Self::Invalid { .. } => None,
        }
    }
}

/// The socket of one protocol.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the network namespace of this thread.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn open(protocol: Protocol) -> Result<Self, Error> {
        let open = || -> io::Result<OwnedFd> {
            let fd = netlink::open(protocol)?;
            sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(TIME))?;
            // Without the right to exceed the host's limit, that limit must do.
            if sockopt::set_socket_recv_buffer_size_force(&fd, RECEIVE_BUFFER).is_err() {
                sockopt::set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER)?;
            }
            Ok(fd)
        };
        let fd = open().map_err(|source| Error::Socket { what: format!("open a socket for {protocol:?}"), source })?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; MAX_DATAGRAM] })
    }

    /// The socket.
    #[must_use]
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Sends a request and waits until the kernel acknowledges it. Calls `each` with every message before that.
    pub fn ask(
        &mut self,
        what: &dyn Display,
        request: &mut Writer,
        mut each: impl FnMut(Received<'_>),
    ) -> Result<(), Error> {
        request.add_flags(ACK);
        let sequence = self.send(what, request)?;
        loop {
            let len = self.receive(what, RecvFlags::empty())?;
            for message in messages(&self.buffer[..len]).filter(|message| message.sequence == sequence) {
                if message.kind != ERROR {
                    each(message);
                    continue;
                }
                return refusal(&message, what).map_or(Ok(()), |refusal| Err(Error::Refused(vec![refusal])));
            }
        }
    }

    /// Sends a request and waits until the kernel acknowledges it.
    pub fn tell(&mut self, what: &dyn Display, request: &mut Writer) -> Result<(), Error> {
        self.ask(what, request, |_| ())
    }

    /// Sends requests at once, each with the name of what it does, and waits until the kernel has acknowledged all. It takes them in
    /// their order, and goes on after one that it refuses.
    pub fn tell_all(&mut self, requests: Vec<(String, Writer)>) -> Result<(), Error> {
        let Some(what) = requests.first().map(|(what, _)| what.clone()) else { return Ok(()) };
        self.drain();
        let mut bytes = Vec::new();
        let mut awaited = BTreeMap::new();
        for (what, mut request) in requests {
            request.add_flags(ACK);
            bytes.extend(self.complete(&what, &mut request)?);
            awaited.insert(self.sequence, what);
        }
        self.send_bytes(&what, &bytes)?;
        let mut refusals = Vec::new();
        while !awaited.is_empty() {
            let len = self.receive(&what, RecvFlags::empty())?;
            for message in messages(&self.buffer[..len]).filter(|message| message.kind == ERROR) {
                let Some(what) = awaited.remove(&message.sequence) else { continue };
                refusals.extend(refusal(&message, &what));
            }
        }
        if refusals.is_empty() { Ok(()) } else { Err(Error::Refused(refusals)) }
    }

    /// Asks for a list. Makes a `T` with `new` and adds each message to it with `each`, from the beginning when the list changed
    /// meanwhile.
    pub fn dump<T>(
        &mut self,
        what: &dyn Display,
        request: &mut Writer,
        new: impl Fn() -> T,
        mut each: impl FnMut(&mut T, Received<'_>) -> Result<(), Error>,
    ) -> Result<T, Error> {
        request.add_flags(DUMP);
        for _ in 0..TRIES {
            let mut all = new();
            if self.dump_once(what, request, |message| each(&mut all, message))? {
                return Ok(all);
            }
        }
        Err(Error::Busy { what: what.to_string() })
    }

    /// Returns whether the list is consistent.
    fn dump_once(
        &mut self,
        what: &dyn Display,
        request: &mut Writer,
        mut each: impl FnMut(Received<'_>) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let sequence = self.send(what, request)?;
        let mut consistent = true;
        loop {
            let len = match self.receive(what, RecvFlags::empty()) {
                Ok(len) => len,
                Err(error) if error.errno() == Some(libc::ENOBUFS) => {
                    consistent = false;
                    continue;
                }
                Err(error) => return Err(error),
            };
            for message in messages(&self.buffer[..len]).filter(|message| message.sequence == sequence) {
                consistent &= message.flags & DUMP_INTERRUPTED == 0;
                if let Some(refusal) = refusal(&message, what) {
                    // A list of nftables that changes ends with EINTR.
                    if refusal.errno == libc::EINTR {
                        return Ok(false);
                    }
                    return Err(Error::Refused(vec![refusal]));
                }
                if message.kind == DONE {
                    return Ok(consistent);
                }
                if message.kind != ERROR && consistent {
                    each(message)?;
                }
            }
        }
    }

    /// Sends all messages of a batch at once, and returns the refusals of the kernel, which has decided when the call returns.
    /// `name` names the operation of a sequence number.
    pub fn commit(&mut self, bytes: &[u8], what: &str, name: impl Fn(u32) -> String) -> Result<Vec<Refusal>, Error> {
        let failed = |source: rustix::io::Errno| Error::Socket { what: what.to_owned(), source: source.into() };
        self.drain();
        let needed = bytes.len() + SEND_RESERVE;
        if sockopt::set_socket_send_buffer_size_force(&self.fd, needed).is_err() {
            sockopt::set_socket_send_buffer_size(&self.fd, needed).map_err(failed)?;
        }
        rustix::net::send(&self.fd, bytes, SendFlags::empty()).map_err(failed)?;
        let mut refusals = Vec::new();
        let mut is_decided = false;
        loop {
            let len = match self.receive(&what, RecvFlags::DONTWAIT) {
                Ok(len) => len,
                Err(error) if error.errno() == Some(libc::EAGAIN) => break,
                // So many refusals that some were lost.
                Err(error) if error.errno() == Some(libc::ENOBUFS) && !refusals.is_empty() => continue,
                Err(error) => return Err(error),
            };
            for message in messages(&self.buffer[..len]).filter(|message| message.kind == ERROR) {
                is_decided = true;
                if refusals.len() < MAX_REFUSALS {
                    refusals.extend(refusal(&message, &name(message.sequence)));
                }
            }
        }
        if is_decided { Ok(refusals) } else { Err(failed(rustix::io::Errno::TIMEDOUT)) }
    }

    fn send(&mut self, what: &dyn Display, request: &mut Writer) -> Result<u32, Error> {
        self.drain();
        let bytes = self.complete(what, request)?;
        self.send_bytes(what, bytes)?;
        Ok(self.sequence)
    }

    /// Gives a request the next sequence number and its length, and returns its bytes.
    fn complete<'a>(&mut self, what: &dyn Display, request: &'a mut Writer) -> Result<&'a [u8], Error> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        request.set_sequence(self.sequence);
        request.end();
        let why = || "it is longer than a message can be".to_owned();
        request.bytes().ok_or_else(|| Error::Invalid { what: what.to_string(), why: why() })
    }

    fn send_bytes(&self, what: &dyn Display, bytes: &[u8]) -> Result<(), Error> {
        match rustix::net::send(&self.fd, bytes, SendFlags::empty()) {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::Socket { what: what.to_string(), source: source.into() }),
        }
    }

    /// Forgets what is left of an answer that was given up.
    fn drain(&mut self) {
        let at_once = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        while matches!(
            rustix::net::recv(&self.fd, &mut self.buffer[..], at_once),
            Ok(_) | Err(rustix::io::Errno::NOBUFS)
        ) {}
    }

    /// Receives one datagram of the kernel into the buffer, and returns its length.
    pub fn receive(&mut self, what: &dyn Display, flags: RecvFlags) -> Result<usize, Error> {
        loop {
            let source = match rustix::net::recvfrom(&self.fd, &mut self.buffer[..], flags | RecvFlags::TRUNC) {
                Ok((_, len, from)) => {
                    let from = from.and_then(|from| rustix::net::netlink::SocketAddrNetlink::try_from(from).ok());
                    match from {
                        Some(from) if from.pid() == 0 && len <= self.buffer.len() => return Ok(len),
                        Some(from) if from.pid() == 0 => io::Error::from(rustix::io::Errno::MSGSIZE),
                        _ => continue,
                    }
                }
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) if !flags.contains(RecvFlags::DONTWAIT) => {
                    io::Error::from_raw_os_error(libc::ETIMEDOUT)
                }
                Err(error) => error.into(),
            };
            return Err(Error::Socket { what: what.to_string(), source });
        }
    }

    /// The datagram that was received last.
    pub fn received(&self, len: usize) -> &[u8] {
        &self.buffer[..len]
    }
}

/// The refusal in a message, if it is one.
fn refusal(message: &Received<'_>, what: &dyn Display) -> Option<Refusal> {
    if message.kind != ERROR && message.kind != DONE {
        return None;
    }
    let errno = message.body.get(0..4).and_then(number32)?.cast_signed();
    if errno >= 0 {
        return None;
    }
    // After the number, an error repeats the header of the request, or all of it.
    let repeated = match message.kind {
        DONE => 0,
        _ if message.flags & CAPPED != 0 => crate::message::HEADER,
        _ => message.body.get(4..8).and_then(number32).and_then(|len| usize::try_from(len).ok()).unwrap_or_default(),
    };
    let words = message.body.get(4 + repeated.next_multiple_of(4)..).filter(|_| message.flags & HAS_WORDS != 0);
    let words = words.and_then(|attributes| find_text(attributes, WORDS));
    Some(Refusal { what: what.to_string(), errno: errno.wrapping_neg(), words })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_the_kernels_words() {
        let mut body = (-17i32).to_ne_bytes().to_vec();
        body.extend([0; 16]);
        let mut words = Writer::default();
        words.put_text(WORDS, "Route exists");
        body.extend(words.bytes().expect("short"));
        let message = Received { kind: ERROR, flags: CAPPED | HAS_WORDS, sequence: 1, body: &body };
        let refusal = refusal(&message, &"add route 100.64.0.9/32 dev bw9").expect("a refusal");
        let text = Error::Refused(vec![refusal]).to_string();
        assert_eq!(text, "cannot add route 100.64.0.9/32 dev bw9: File exists (os error 17): Route exists");
    }

    #[test]
    fn an_acknowledgement_is_no_refusal() {
        let message = Received { kind: ERROR, flags: CAPPED, sequence: 1, body: &[0; 20] };
        assert_eq!(refusal(&message, &"x"), None);
        assert_eq!(refusal(&Received { body: &[255], ..message }, &"x"), None);
    }
}
