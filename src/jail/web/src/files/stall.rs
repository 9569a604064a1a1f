//! A connection that ends when nothing moves.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep, sleep};

/// How long a connection may stand still, neither sending nor receiving.
const LONGEST: Duration = Duration::from_secs(60);

/// A stream that fails with `TimedOut` when nothing moves for [`LONGEST`].
#[derive(Debug)]
pub(crate) struct Bounded {
    stream: UnixStream,
    until: Pin<Box<Sleep>>,
    stands: bool,
}

impl Bounded {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, until: Box::pin(sleep(LONGEST)), stands: false }
    }

    fn bounded<T>(&mut self, polled: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stands = false;
            return polled;
        }
        if !self.stands {
            self.until.as_mut().reset(Instant::now() + LONGEST);
            self.stands = true;
        }
        ready!(self.until.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Bounded {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, to);
        self.bounded(polled, context)
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, from);
        self.bounded(polled, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, from);
        self.bounded(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Runs with a clock that jumps to the next timer when nothing else can happen.
    fn run(test: impl Future<Output = ()>) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().expect("a runtime").block_on(test);
    }

    #[test]
    fn who_neither_reads_nor_writes_is_cut_off() {
        run(async {
            let (ours, _theirs) = UnixStream::pair().expect("a pair");
            let mut ours = Bounded::new(ours);
            let begin = Instant::now();
            let error = ours.write_all(&[0; 4 << 20]).await.expect_err("nobody reads");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(begin.elapsed() >= LONGEST);
            let error = ours.read(&mut [0]).await.expect_err("nobody writes");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        });
    }
}
