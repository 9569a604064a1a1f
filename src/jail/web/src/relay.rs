//! The relay: copies each connection to a program inside that listens on an address of its own.

use crate::connections::Listener;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

/// How long a connection waits for a program that does not listen yet.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first pause between two attempts. It doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// What may be in flight in each direction, in bytes.
const BUFFER: usize = 16 << 10;

/// Relays connections until `SIGTERM`.
pub(crate) async fn serve(listener: Listener, address: SocketAddr) -> Result<(), String> {
    listener
        .serve(move |stream, _| async move {
            // Either side may break off. Nobody is left to tell then.
            relay(stream, address).await.ok();
        })
        .await
}

async fn relay(mut stream: UnixStream, address: SocketAddr) -> io::Result<()> {
    let mut to = connect(address).await?;
    to.set_nodelay(true)?;
    // It passes the end of one direction on, and goes on with the other.
    tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut to, BUFFER, BUFFER).await?;
    Ok(())
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
