//! The inherited socket, and what its connections are bounded by.

use bailiwick_sys::process;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, accept_with, sockopt};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

/// The number of the inherited socket (`sd_listen_fds(3)`).
const LISTENER: i32 = 3;
/// The most connections at a time. Others wait in the backlog.
const MOST: usize = 512;
/// How long connections may go on after `SIGTERM`. A service has ten seconds by default before it is killed.
const GRACE: Duration = Duration::from_secs(8);
/// The pause after this program was short of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// A listening stream socket of the Unix family.
///
/// Others hold this socket too, and a file status flag is the same for all of them. So it stays blocking: a program that
/// inherits it later may not expect `EAGAIN` from `accept(2)`.
#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

/// A connection that counts until this is dropped.
struct Accepted {
    stream: std::os::unix::net::UnixStream,
    permit: OwnedSemaphorePermit,
}

impl Listener {
    /// The socket that the caller of this program has left at descriptor 3.
    pub(crate) fn inherited() -> Result<Self, String> {
        let numbers: Vec<i32> = sd_notify::listen_fds().map(Iterator::collect).unwrap_or_default();
        if numbers != [LISTENER] {
            return Err("it needs one listening socket at descriptor 3 (LISTEN_FDS=1 and LISTEN_PID)".to_owned());
        }
        let fd = process::inherited(LISTENER).map_err(|error| format!("cannot take descriptor 3: {error}"))?;
        let is_listener = sockopt::socket_domain(&fd).is_ok_and(|domain| domain == AddressFamily::UNIX)
            && sockopt::socket_type(&fd).is_ok_and(|kind| kind == SocketType::STREAM)
            && sockopt::socket_acceptconn(&fd).is_ok_and(|listens| listens);
        if is_listener { Ok(Self(fd)) } else { Err("descriptor 3 is no listening Unix stream socket".to_owned()) }
    }

    /// Gives every connection to `serve`, until `SIGTERM`. Then it accepts no more, tells those that are served (the watched
    /// value becomes true), and waits for their ends for a short time.
    ///
    /// # Errors
    /// The socket accepts nothing any more.
    pub(crate) async fn serve<S, F>(self, serve: S) -> Result<(), String>
    where
        S: Fn(UnixStream, watch::Receiver<bool>) -> F,
        F: Future<Output = ()> + 'static,
    {
        let mut terminated =
            signal(SignalKind::terminate()).map_err(|error| format!("cannot wait for SIGTERM: {error}"))?;
        let (stop_writer, stop_reader) = io::pipe().map_err(|error| format!("cannot make a pipe: {error}"))?;
        let permits = Arc::new(Semaphore::new(MOST));
        let (sender, mut accepted) = mpsc::channel(1);
        let acceptor = {
            let (permits, handle) = (Arc::clone(&permits), Handle::current());
            let run = move || accept_all(&self.0, &OwnedFd::from(stop_reader), &permits, &handle, &sender);
            std::thread::Builder::new().stack_size(64 << 10).spawn(run)
        };
        acceptor.map_err(|error| format!("cannot start a thread: {error}"))?;
        let (stop, stopping) = watch::channel(false);
        let mut served = JoinSet::new();
        let mut stop_writer = Some(stop_writer);
        let mut outcome = Ok(());
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                loop {
                    tokio::select! {
                        next = accepted.recv() => match next {
                            Some(Ok(Accepted { stream, permit })) => {
                                let Ok(stream) = UnixStream::from_std(stream) else { continue };
                                let future = serve(stream, stopping.clone());
                                served.spawn_local(async move {
                                    future.await;
                                    drop(permit);
                                });
                            }
                            Some(Err(error)) => outcome = Err(format!("the socket accepts no connection: {error}")),
                            None => break,
                        },
                        _ = terminated.recv(), if stop_writer.is_some() => {
                            // The thread ends, and the channel with it. What it has accepted before is served.
                            stop_writer = None;
                            permits.close();
                        }
                        _ = served.join_next(), if !served.is_empty() => {}
                    }
                }
                stop.send_replace(true);
                let all = async { while served.join_next().await.is_some() {} };
                tokio::time::timeout(GRACE, all).await.ok();
            })
            .await;
        outcome
    }
}

/// Accepts connections in a thread of its own, because the socket blocks. Ends when `stop` closes, when `permits` are closed, or
/// when the socket is broken.
fn accept_all(
    listener: &OwnedFd,
    stop: &OwnedFd,
    permits: &Arc<Semaphore>,
    handle: &Handle,
    sender: &mpsc::Sender<io::Result<Accepted>>,
) {
    while let Ok(permit) = handle.block_on(Arc::clone(permits).acquire_owned()) {
        let Some(accepted) = accept_one(listener, stop) else { return };
        let is_broken = accepted.is_err();
        let accepted = accepted.map(|fd| Accepted { stream: fd.into(), permit }).map_err(io::Error::from);
        if sender.blocking_send(accepted).is_err() || is_broken {
            return;
        }
    }
}

/// The next connection; `None` when `stop` closes.
fn accept_one(listener: &OwnedFd, stop: &OwnedFd) -> Option<Result<OwnedFd, Errno>> {
    loop {
        let mut waited = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut waited, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Some(Err(error)),
        }
        if !waited[1].revents().is_empty() {
            return None;
        }
        if waited[0].revents().is_empty() {
            continue;
        }
        match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Err(Errno::INTR | Errno::AGAIN | Errno::CONNABORTED) => {}
            Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => std::thread::sleep(PAUSE),
            other => return Some(other),
        }
    }
}
