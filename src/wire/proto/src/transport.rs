//! Whole messages over stream sockets: a frame with the descriptors beside it, in and out.
//!
//! [`Incoming`] and [`Outgoing`] make one system call at a time and never wait, so any loop can drive
//! them: the warden's poll, tokio's readiness, or [`receive`] and [`send`], which block until a
//! deadline.
//!
//! Danger: the peer may be hostile. A frame over the limit is refused before its body is stored, and
//! so is a descriptor beyond the limit.

use crate::frame::{Decoder, FrameError, MAX_EVENT, decode, encode};
use bailiwick_sys::{process, socket};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How much is read at once, in bytes. The buffer is on the stack, so an idle connection holds none.
const PORTION: usize = 16 << 10;

/// Why a message did not arrive or could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The peer closed the connection before the message was complete.
    #[error("the connection was closed")]
    Ended,
    /// The deadline passed.
    #[error("there was no answer in time")]
    Late,
    /// The message to send is too large, or what arrived is no message of the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// More descriptors arrived than the message may have.
    #[error("more descriptors came than were expected")]
    Descriptors,
    /// The kernel refused to send or to receive.
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for TransportError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // The peer ended before it had read everything that was sent to it.
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Ended,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::Late,
            _ => Self::Io(error),
        }
    }
}

impl From<TransportError> for io::Error {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Ended => ErrorKind::UnexpectedEof.into(),
            TransportError::Late => ErrorKind::TimedOut.into(),
            TransportError::Io(error) => error,
            TransportError::Frame(_) | TransportError::Descriptors => Self::new(ErrorKind::InvalidData, error),
        }
    }
}

/// The messages that have arrived over one connection and were not taken yet.
#[derive(Debug)]
pub struct Incoming {
    decoder: Decoder,
    fds: Vec<OwnedFd>,
    max_fds: usize,
}

impl Incoming {
    /// Accepts frames of at most `max` bytes, and at most `max_fds` descriptors with each message.
    #[must_use]
    pub fn new(max: usize, max_fds: usize) -> Self {
        Self { decoder: Decoder::new(max), fds: Vec::new(), max_fds }
    }

    /// Receives once and returns the number of bytes. Zero means that the peer has closed the connection.
    ///
    /// # Errors
    /// The error of `recvmsg(2)`; `WouldBlock` when the socket is non-blocking and nothing has arrived.
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let mut portion = [0; PORTION];
        let (len, fds) = socket::receive(socket, &mut portion, self.max_fds)?;
        self.decoder.push(&portion[..len]);
        self.fds.extend(fds);
        Ok(len)
    }

    /// Returns the next whole message with the descriptors that came until its end, or `None` when more must arrive first.
    ///
    /// # Errors
    /// [`TransportError::Frame`] and [`TransportError::Descriptors`]; the connection cannot be used after either.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<(T, Vec<OwnedFd>)>, TransportError> {
        if self.fds.len() > self.max_fds {
            return Err(TransportError::Descriptors);
        }
        Ok(self.decoder.next()?.map(|message| (message, std::mem::take(&mut self.fds))))
    }

    /// Whether [`Self::take`] would return a message or an error now.
    #[must_use]
    pub fn has_next(&self) -> bool {
        self.fds.len() > self.max_fds || self.decoder.has_next()
    }

    /// How many bytes are in the buffer.
    #[must_use]
    pub fn held(&self) -> usize {
        self.decoder.len()
    }
}

/// Frames that are on their way to one peer, and descriptors that go with the next byte.
#[derive(Debug)]
pub struct Outgoing<F> {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<F>,
}

impl<F> Default for Outgoing<F> {
    fn default() -> Self {
        Self { bytes: Vec::new(), sent: 0, fds: Vec::new() }
    }
}

impl<F: AsFd> Outgoing<F> {
    /// One message of at most `max` bytes, with descriptors beside it.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] when the message is larger than `max`.
    pub fn new<T: Serialize>(message: &T, max: usize, fds: Vec<F>) -> Result<Self, FrameError> {
        Ok(Self { bytes: encode(message, max)?, sent: 0, fds })
    }

    /// Adds a frame after the bytes that were not sent yet. `fds` may hold descriptors only when nothing waits, because they go
    /// with the next byte, which must belong to the same message.
    pub fn push(&mut self, frame: &[u8], fds: Vec<F>) {
        debug_assert!(fds.is_empty() || self.is_empty(), "descriptors would go with another message");
        // Without this, a peer that is always behind would make the buffer grow for ever.
        self.bytes.drain(..std::mem::take(&mut self.sent));
        self.bytes.extend_from_slice(frame);
        self.fds.extend(fds);
    }

    /// Sends once and returns the number of bytes that went out.
    ///
    /// # Errors
    /// The error of `sendmsg(2)`; `WouldBlock` when the socket is non-blocking and its buffer is full.
    pub fn send(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let fds: Vec<BorrowedFd<'_>> = self.fds.iter().map(AsFd::as_fd).collect();
        let len = socket::send(socket, &self.bytes[self.sent..], &fds)?;
        if len > 0 {
            self.fds.clear();
        }
        self.sent += len;
        if self.is_empty() {
            // Frees the buffer: one reply may have 16 MiB, and the connection may last for days after it.
            (self.bytes, self.sent) = (Vec::new(), 0);
        }
        Ok(len)
    }

    /// How many bytes were not sent yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether everything was sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Sends a message and blocks until all of it is sent. Each part may take as long as the socket's write timeout.
///
/// # Errors
/// Why the message was not sent; [`TransportError::Late`] after the write timeout.
pub fn send<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    max: usize,
    fds: &[BorrowedFd<'_>],
) -> Result<(), TransportError> {
    let mut outgoing = Outgoing::new(message, max, fds.to_vec())?;
    while !outgoing.is_empty() {
        match outgoing.send(&socket) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Receives a message and blocks until it is whole, at most until `deadline`.
///
/// # Errors
/// Why there is no message; [`TransportError::Late`] when `deadline` has passed.
pub fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
    incoming: &mut Incoming,
    deadline: Instant,
) -> Result<(T, Vec<OwnedFd>), TransportError> {
    loop {
        if let Some(message) = incoming.take()? {
            return Ok(message);
        }
        let left: Duration = deadline.saturating_duration_since(Instant::now());
        if !process::readable(&socket, left)? {
            return Err(TransportError::Late);
        }
        match incoming.receive(&socket) {
            Ok(0) => return Err(TransportError::Ended),
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
    }
}

/// Sends a message of at most [`MAX_EVENT`] bytes as one datagram, as the channel of a session takes it.
///
/// # Errors
/// Why the message was not sent; [`TransportError::Late`] when the socket is non-blocking and its queue is full.
pub fn send_datagram<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> Result<(), TransportError> {
    let body = serde_json::to_vec(message).map_err(FrameError::Body)?;
    if body.len() > MAX_EVENT {
        return Err(FrameError::TooLarge { len: body.len(), max: MAX_EVENT }.into());
    }
    Ok(socket::send(socket, &body, fds).map(drop)?)
}

/// Receives one datagram of a session's channel with at most `max_fds` descriptors beside it.
///
/// # Errors
/// Why there is no message; [`TransportError::Late`] when the socket is non-blocking and nothing has arrived.
pub fn receive_datagram<T: DeserializeOwned>(
    socket: impl AsFd,
    max_fds: usize,
) -> Result<(T, Vec<OwnedFd>), TransportError> {
    let mut body = [0; MAX_EVENT];
    loop {
        match socket::receive(&socket, &mut body, max_fds) {
            Ok((0, _)) => return Err(TransportError::Ended),
            Ok((len, fds)) => return Ok((decode(&body[..len], MAX_EVENT)?, fds)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn a_message_arrives_with_its_descriptors_and_no_other() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (reader, _writer) = io::pipe().expect("a pipe");
        send(&theirs, &"with", 64, &[reader.as_fd()]).expect("sent");
        send(&theirs, &"without", 64, &[]).expect("sent");
        let mut incoming = Incoming::new(64, 1);
        let (text, fds) = receive::<String>(&ours, &mut incoming, soon()).expect("a message");
        assert_eq!((text.as_str(), fds.len()), ("with", 1));
        let (text, fds) = receive::<String>(&ours, &mut incoming, soon()).expect("a message");
        assert_eq!((text.as_str(), fds.len()), ("without", 0));
    }

    #[test]
    fn each_reason_for_no_message_has_its_error() {
        let mut incoming = Incoming::new(16, 0);
        let mut receive = |socket: &UnixStream, deadline| receive::<String>(socket, &mut incoming, deadline);
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        assert!(matches!(receive(&ours, Instant::now()), Err(TransportError::Late)));
        socket::send(&theirs, &[3, 0, 0], &[]).expect("sent");
        drop(theirs);
        assert!(matches!(receive(&ours, soon()), Err(TransportError::Ended)));
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        socket::send(&theirs, &[0, 0xff, 0xff, 0xff], &[]).expect("sent");
        assert!(matches!(receive(&ours, soon()), Err(TransportError::Frame(_))));
        drop(ours);
        assert!(matches!(send(&theirs, &"", 16, &[]), Err(TransportError::Ended)));
        assert!(matches!(send(&theirs, &"longer than that", 16, &[]), Err(TransportError::Frame(_))));
    }

    #[test]
    fn a_message_larger_than_the_socket_is_sent_in_parts_and_its_descriptors_once() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        theirs.set_nonblocking(true).expect("set");
        let (reader, _writer) = io::pipe().expect("a pipe");
        let text = "x".repeat(4 << 20);
        let mut outgoing = Outgoing::new(&text, 5 << 20, vec![reader]).expect("fits");
        let mut incoming = Incoming::new(5 << 20, 1);
        let (mut waited, mut got) = (false, None);
        while got.is_none() {
            while !outgoing.is_empty() {
                match outgoing.send(&theirs) {
                    Ok(len) => assert!(len > 0),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::WouldBlock);
                        waited = true;
                        break;
                    }
                }
            }
            assert!(incoming.receive(&ours).expect("there is something") > 0);
            got = incoming.take::<String>().expect("valid");
        }
        let (got, fds) = got.expect("it came");
        assert!(waited, "the message must be larger than the buffer of a socket");
        assert!(got == text && fds.len() == 1 && outgoing.is_empty() && incoming.held() == 0);
    }

    #[test]
    fn descriptors_that_come_one_by_one_beside_one_message_are_counted_together() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (reader, _writer) = io::pipe().expect("a pipe");
        for byte in encode(&"slowly", 64).expect("small") {
            socket::send(&theirs, &[byte], &[reader.as_fd()]).expect("sent");
        }
        let got = receive::<String>(&ours, &mut Incoming::new(64, 1), soon());
        assert!(matches!(got, Err(TransportError::Descriptors)), "{got:?}");
    }
}
