//! Whole messages over tokio's stream sockets: the asynchronous side of [`bailiwick_proto::transport`]. Callers set
//! time limits (`tokio::time::timeout`).

use bailiwick_proto::{Incoming, Outgoing, TransportError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Sends a message of at most `max` bytes, with descriptors.
pub(crate) async fn send<T: Serialize>(
    stream: &UnixStream,
    message: &T,
    max: usize,
    fds: &[BorrowedFd<'_>],
) -> Result<(), TransportError> {
    let mut outgoing = Outgoing::new(message, max, fds.to_vec())?;
    while !outgoing.is_empty() {
        stream.async_io(Interest::WRITABLE, || outgoing.send(stream)).await?;
    }
    Ok(())
}

/// Receives once and returns the number of bytes; 0 when the peer has disconnected.
pub(crate) async fn receive_some(stream: &UnixStream, incoming: &mut Incoming) -> io::Result<usize> {
    stream.async_io(Interest::READABLE, || incoming.receive(stream)).await
}

/// Receives until a message is complete. If this is cancelled, the bytes that have arrived stay in `incoming`.
pub(crate) async fn receive<T: DeserializeOwned>(
    stream: &UnixStream,
    incoming: &mut Incoming,
) -> Result<(T, Vec<OwnedFd>), TransportError> {
    loop {
        if let Some(message) = incoming.take()? {
            return Ok(message);
        }
        if receive_some(stream, incoming).await? == 0 {
            return Err(TransportError::Ended);
        }
    }
}
