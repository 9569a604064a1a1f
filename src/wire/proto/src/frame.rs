//! Frames: four bytes of length, little-endian, then that many bytes of JSON.
//!
//! Danger: the peer may be hostile. The length is checked before anything of that size is allocated.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest request to `bailiwickd` or to the warden, in bytes. The kernel allows 2 MiB of arguments, but an operator's
/// command is far shorter.
pub const MAX_REQUEST: usize = 256 << 10;
/// The largest reply of `bailiwickd` or of the warden, in bytes: enough for 10,000 tenants in one list.
pub const MAX_REPLY: usize = 16 << 20;
/// The largest message on a session's channel, and the largest reply of init, in bytes.
pub const MAX_EVENT: usize = 512;

/// The largest reply of init with a crontab, in bytes. JSON may make hostile text six times as long.
pub const MAX_CRONTAB_REPLY: usize = 6 * bailiwick_types::MAX_CRONTAB + MAX_EVENT;

const HEADER: usize = 4;

/// Why bytes are no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The frame is larger than the reader accepts.
    #[error("a message of {len} bytes is over the limit of {max}")]
    TooLarge {
        /// The length of the frame, in bytes.
        len: usize,
        /// The most bytes that the reader accepts.
        max: usize,
    },
    /// The body is not the message that was expected.
    #[error("the message cannot be understood")]
    Body(#[source] serde_json::Error),
}

/// Makes the frame of a message: header and body.
///
/// # Errors
/// When the message is larger than `max`.
pub fn encode<T: Serialize>(message: &T, max: usize) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, message).map_err(FrameError::Body)?;
    let len = frame.len() - HEADER;
    match u32::try_from(len) {
        Ok(header) if len <= max => frame[..HEADER].copy_from_slice(&header.to_le_bytes()),
        _ => return Err(FrameError::TooLarge { len, max }),
    }
    Ok(frame)
}

/// Reads a message from a body without a header, as one datagram holds it.
///
/// # Errors
/// When the body is larger than `max` or is not a `T`.
pub fn decode<T: DeserializeOwned>(body: &[u8], max: usize) -> Result<T, FrameError> {
    if body.len() > max {
        return Err(FrameError::TooLarge { len: body.len(), max });
    }
    serde_json::from_slice(body).map_err(FrameError::Body)
}

/// Collects the bytes of a stream and returns the messages in them.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    max: usize,
}

impl Decoder {
    /// A decoder of frames of at most `max` bytes each.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { buffer: Vec::new(), max }
    }

    /// Adds bytes that were read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next whole message, or `None` when more bytes are needed. After an error the stream is out of step and must be
    /// closed.
    ///
    /// # Errors
    /// When a frame is too large or its body is not a `T`.
    #[expect(
        clippy::should_implement_trait,
        reason = "the type of each message is the caller's choice, so this is no iterator"
    )]
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let len = u32::from_le_bytes(*header) as usize;
        if len > self.max {
            return Err(FrameError::TooLarge { len, max: self.max });
        }
        let Some(body) = self.buffer.get(HEADER..HEADER + len) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(body).map_err(FrameError::Body)?;
        self.buffer.drain(..HEADER + len);
        if self.buffer.is_empty() {
            // A connection may last for days after the one large message that it brought.
            self.buffer = Vec::new();
        }
        Ok(Some(message))
    }

    /// Whether [`Self::next`] would return a message or an error now.
    #[must_use]
    pub fn has_next(&self) -> bool {
        let is_whole = || self.awaits().is_none_or(|len| self.buffer.len() >= len);
        self.buffer.len() >= HEADER && is_whole()
    }

    /// The length of the message that has begun, in bytes, with its header. `None` while the header is incomplete, and when the
    /// message is too large.
    #[must_use]
    pub fn awaits(&self) -> Option<usize> {
        let header = self.buffer.first_chunk::<HEADER>()?;
        let len = u32::from_le_bytes(*header) as usize;
        (len <= self.max).then_some(HEADER + len)
    }

    /// How many bytes are in the buffer.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether the buffer is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_split() {
        let mut stream = encode(&"one", 64).expect("small");
        stream.extend(encode(&"two", 64).expect("small"));
        for cut in 0..stream.len() {
            let mut decoder = Decoder::new(64);
            let mut got = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                decoder.push(part);
                while decoder.has_next() {
                    got.extend(decoder.next::<String>().expect("valid"));
                }
                assert_eq!(decoder.next::<String>().expect("valid"), None);
            }
            assert_eq!(got, ["one", "two"]);
            assert!(decoder.is_empty());
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_its_body_comes() {
        let mut decoder = Decoder::new(8);
        decoder.push(&u32::MAX.to_le_bytes());
        assert!(decoder.has_next());
        assert!(matches!(decoder.next::<String>(), Err(FrameError::TooLarge { .. })));
        assert!(matches!(encode(&"too long for this", 8), Err(FrameError::TooLarge { .. })));
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        let mut decoder = Decoder::new(64);
        decoder.push(&[3, 0, 0, 0, 0xff, 0xff, 0xff]);
        assert!(matches!(decoder.next::<String>(), Err(FrameError::Body(_))));
    }
}
