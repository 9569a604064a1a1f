//! The body of a response. A file is read in pieces, as fast as the client takes them.

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::task::{JoinHandle, spawn_blocking};

/// The most bytes that are read at a time.
const PIECE: u64 = 64 << 10;

/// The body of a response.
#[derive(Debug)]
pub(crate) enum Body {
    /// Nothing.
    Empty,
    /// A few words.
    Text(&'static str),
    /// A part of a file.
    File(Part),
}

/// A part of a file.
#[derive(Debug)]
pub(crate) struct Part {
    file: Arc<File>,
    rest: Range<u64>,
    /// A piece that is being read from the disk.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Body {
    /// These bytes of a file.
    pub(crate) fn of(file: File, bytes: Range<u64>) -> Self {
        Self::File(Part { file: Arc::new(file), rest: bytes, reading: None })
    }
}

impl Part {
    fn next(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let read = match &mut self.reading {
            Some(reading) => {
                let read = ready!(Pin::new(reading).poll(context));
                self.reading = None;
                read.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
            None => match self.read_from_memory() {
                Some(read) => read,
                None => {
                    let (file, at, size) = (Arc::clone(&self.file), self.rest.start, self.piece());
                    self.reading = Some(spawn_blocking(move || {
                        let mut piece = vec![0; size];
                        let count = file.read_at(&mut piece, at)?;
                        piece.truncate(count);
                        Ok(piece.into())
                    }));
                    return self.next(context);
                }
            },
        };
        Poll::Ready(Some(read.and_then(|piece| {
            // Somebody has cut the file. The client must see that the end is missing.
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.rest.start += piece.len() as u64;
            Ok(piece)
        })))
    }

    fn piece(&self) -> usize {
        let left = self.rest.end - self.rest.start;
        usize::try_from(left.min(PIECE)).expect("at most a piece")
    }

    /// The next piece, if the kernel has it in memory; `None` if a disk must be asked, and so a thread must wait.
    fn read_from_memory(&self) -> Option<io::Result<Bytes>> {
        let mut piece = vec![0; self.piece()];
        let mut buffers = [IoSliceMut::new(&mut piece)];
        match preadv2(&self.file, &mut buffers, self.rest.start, ReadWriteFlags::NOWAIT) {
            Ok(count) => {
                piece.truncate(count);
                Some(Ok(piece.into()))
            }
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR) => None,
            Err(error) => Some(Err(error.into())),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let next = match &mut *self {
            Self::Empty => None,
            Self::Text(text) => {
                let text = Bytes::from_static(text.as_bytes());
                *self = Self::Empty;
                Some(Ok(text))
            }
            Self::File(part) => ready!(part.next(context)),
        };
        Poll::Ready(next.map(|read| read.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Empty => 0,
            Self::Text(text) => text.len() as u64,
            Self::File(part) => part.rest.end - part.rest.start,
        })
    }
}
