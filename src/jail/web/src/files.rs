//! The server of static files: HTTP/1.1 for a reverse proxy that stands before it.

mod answer;
mod body;
mod encoding;
mod kind;
mod path;
mod range;
mod stall;
mod tree;

use crate::connections::Listener;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tree::Tree;

/// How long a client may take for the head of a request. The time between two requests of one connection counts.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long a new connection may take for its first request, once this program is asked to end.
const FIRST_TIME: Duration = Duration::from_secs(2);
/// The most bytes of a request's head.
const MAX_HEAD: usize = 16 << 10;

/// Serves the files below a directory until `SIGTERM`.
pub(crate) async fn serve(listener: Listener, dir: PathBuf) -> Result<(), String> {
    let tree = Rc::new(Tree::new(dir)?);
    listener.serve(move |stream, stopping| serve_one(stream, Rc::clone(&tree), stopping)).await
}

/// Answers the requests of one connection.
async fn serve_one(stream: UnixStream, tree: Rc<Tree>, mut stopping: watch::Receiver<bool>) {
    let first = Notify::new();
    let service = service_fn(|request| {
        first.notify_one();
        let response = answer::answer(&tree, &request);
        async { Ok::<_, Infallible>(response) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(MAX_HEAD);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stall::Bounded::new(stream)), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = may_end(&first, &mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // The client broke off, was too slow, or sent what is not HTTP. Nobody is left to tell then.
    ended.ok();
}

/// Ends when this program is asked to end and the connection has had a request. The proxy does not ask twice over a new
/// connection, so closing it before that would fail a visitor.
async fn may_end(first: &Notify, stopping: &mut watch::Receiver<bool>) {
    if stopping.wait_for(|stops| *stops).await.is_ok() {
        timeout(FIRST_TIME, first.notified()).await.ok();
    }
}
