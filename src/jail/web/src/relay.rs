//! The relay: copies each connection to a program inside that listens on an address of its own.

use crate::connections::Listener;
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// How long a connection waits for a program that does not listen yet.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first pause between two attempts. It doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// What may be in flight in each direction, in bytes.
const BUFFER: usize = 16 << 10;
/// After this long without a byte an answer counts as complete, once the relay is asked to end.
const QUIET: Duration = Duration::from_millis(500);

/// Relays connections until `SIGTERM`.
pub(crate) async fn serve(listener: Listener, address: SocketAddr) -> Result<(), String> {
    listener
        .serve(move |stream, stopping| async move {
            // Either side may break off. Nobody is left to tell then.
            relay(stream, address, stopping).await.ok();
        })
        .await
}

async fn relay(stream: UnixStream, address: SocketAddr, stopping: watch::Receiver<bool>) -> io::Result<()> {
    let mut to = connect(address).await?;
    to.set_nodelay(true)?;
    let answered = Cell::new(None);
    let mut stream = Client { stream, answered: &answered };
    tokio::select! {
        // It passes the end of one direction on, and goes on with the other.
        copied = tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut to, BUFFER, BUFFER) => copied.map(|_| ()),
        () = idle(&answered, stopping) => Ok(()),
    }
}

/// Ends when the relay is asked to end and the client waits for nothing: what moved last was an answer, a while ago. A proxy
/// keeps such connections open for the next request, and makes new ones when they are closed.
async fn idle(answered: &Cell<Option<Instant>>, mut stopping: watch::Receiver<bool>) {
    if stopping.wait_for(|stops| *stops).await.is_err() {
        std::future::pending().await
    }
    loop {
        let now = Instant::now();
        match answered.get() {
            Some(last) if now >= last + QUIET => return,
            Some(last) => sleep_until(last + QUIET).await,
            None => sleep_until(now + QUIET).await,
        }
    }
}

/// Connects, and tries again while nobody listens.
async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    loop {
        match TcpStream::connect(address).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && Instant::now() + pause < deadline => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            other => return other,
        }
    }
}

/// The client's side of a connection.
struct Client<'a> {
    stream: UnixStream,
    /// When the client was last sent something; `None` if it has sent something since, and so waits for an answer.
    answered: &'a Cell<Option<Instant>>,
}

impl AsyncRead for Client<'_> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, to);
        if to.filled().len() > before {
            self.answered.set(None);
        }
        polled
    }
}

impl AsyncWrite for Client<'_> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, from);
        if polled.is_ready() {
            self.answered.set(Some(Instant::now()));
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
