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
use tokio::sync::watch;
use tree::Tree;

/// How long a client may take for the head of a request. The time between two requests of one connection counts.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// The most bytes of a request's head.
const MAX_HEAD: usize = 16 << 10;

/// Serves the files below a directory until `SIGTERM`.
pub(crate) async fn serve(listener: Listener, dir: PathBuf) -> Result<(), String> {
    let tree = Rc::new(Tree::new(dir)?);
    listener.serve(move |stream, stopping| serve_one(stream, Rc::clone(&tree), stopping)).await
}

/// Answers the requests of one connection.
async fn serve_one(stream: UnixStream, tree: Rc<Tree>, mut stopping: watch::Receiver<bool>) {
    let service = service_fn(|request| {
        let response = answer::answer(&tree, &request);
        async { Ok::<_, Infallible>(response) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(MAX_HEAD);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stall::Bounded::new(stream)), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopping.wait_for(|stops| *stops) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // The client broke off, was too slow, or sent what is not HTTP. Nobody is left to tell then.
    ended.ok();
}
