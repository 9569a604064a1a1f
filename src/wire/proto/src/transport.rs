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

/// How much is read at once, in bytes. The buffer is on the stack: a connection that waits holds none.
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
    /// What arrived, or was to be sent, is no message of the protocol, or too large.
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

/// What has arrived over one connection and was not taken yet.
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

    /// Receives once, and gives the number of bytes; 0 when the peer has gone.
    ///
    /// # Errors
    /// What `recvmsg(2)` says; `WouldBlock` where the socket does not block and nothing is there.
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let mut portion = [0; PORTION];
        let (len, fds) = socket::receive(socket, &mut portion, self.max_fds)?;
        self.decoder.push(&portion[..len]);
        self.fds.extend(fds);
        Ok(len)
    }

    /// The next whole message with the descriptors that came until its end; `None` when more must arrive first.
    ///
    /// # Errors
    /// [`TransportError::Frame`] and [`TransportError::Descriptors`]; the connection is of no use after either.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<(T, Vec<OwnedFd>)>, TransportError> {
        if self.fds.len() > self.max_fds {
            return Err(TransportError::Descriptors);
        }
        Ok(self.decoder.next()?.map(|message| (message, std::mem::take(&mut self.fds))))
    }

    /// Whether [`Self::take`] has something to give: a message, or an error.
    #[must_use]
    pub fn has_next(&self) -> bool {
        self.fds.len() > self.max_fds || self.decoder.has_next()
    }

    /// How many bytes of an unfinished message are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.decoder.len()
    }
}

/// Frames that are on their way to one peer. The descriptors go with the next byte.
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
    /// When the message is larger than `max`.
    pub fn new<T: Serialize>(message: &T, max: usize, fds: Vec<F>) -> Result<Self, FrameError> {
        Ok(Self { bytes: encode(message, max)?, sent: 0, fds })
    }

    /// Adds a frame after what was not sent yet. Descriptors may come beside it only where nothing waits: they go with the
    /// next byte, which must be of the same message.
    pub fn push(&mut self, frame: &[u8], fds: Vec<F>) {
        debug_assert!(fds.is_empty() || self.is_empty(), "descriptors would go with another message");
        // A peer that is always behind must not have all that it was ever told kept here.
        self.bytes.drain(..std::mem::take(&mut self.sent));
        self.bytes.extend_from_slice(frame);
        self.fds.extend(fds);
    }

    /// Sends once, and gives the number of bytes that went out.
    ///
    /// # Errors
    /// What `sendmsg(2)` says; `WouldBlock` where the socket does not block and its buffer is full.
    pub fn send(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let fds: Vec<BorrowedFd<'_>> = self.fds.iter().map(AsFd::as_fd).collect();
        let len = socket::send(socket, &self.bytes[self.sent..], &fds)?;
        if len > 0 {
            self.fds.clear();
        }
        self.sent += len;
        if self.is_empty() {
            // The largest reply is 16 MiB, most have a few bytes, and a connection may last for days.
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

/// Sends a message and blocks until all of it is sent, at most as long as the socket's write timeout for each part.
///
/// # Errors
/// Why it could not be sent.
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
/// Why there is none.
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

/// Sends a message of at most [`MAX_EVENT`] bytes as one datagram, as it stands on a session's channel.
///
/// # Errors
/// Why it was not sent; [`TransportError::Late`] where the socket does not block and its queue is full.
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

/// Receives one datagram of a session's channel, and at most `max_fds` descriptors beside it.
///
/// # Errors
/// Why there is none; [`TransportError::Late`] where the socket does not block and nothing is there.
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
    fn each_way_of_having_no_message_is_told_apart() {
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
    fn what_a_peer_has_no_room_for_is_sent_later_and_its_descriptors_once() {
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
        assert!(waited, "it must be more than a socket holds");
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
