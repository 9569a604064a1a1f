//! The server: HTTP/1.1 for Prometheus, on each socket with a bounded number of connections.

use crate::negotiation::{self, Coding, Form};
use crate::readings::Readings;
use crate::sockets::Listening;
use crate::{Ended, complain, confinement};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// The path of the metrics.
const PATH: &str = "/metrics";
/// The most connections of one socket at a time. Others wait in its queue.
const MOST: usize = 64;
/// How long a client may take for the head of a request. The time between two requests of one connection counts.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// The most bytes and the most lines of a request's head.
const MAX_HEAD: usize = 8 << 10;
const MAX_HEADERS: usize = 32;
/// How long a connection takes further requests, and how long its last answer may take after that.
const LIFE: Duration = Duration::from_secs(60);
const LAST_ANSWER: Duration = Duration::from_secs(30);
/// How long open connections may go on once this program is asked to end.
const GRACE: Duration = Duration::from_secs(5);
/// The pause after this program was short of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// The body of an answer: bytes that all clients share.
struct Whole(Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX)))
    }
}

/// Serves on all sockets until `SIGTERM`.
pub(crate) async fn run(sockets: Vec<Listening>, readings: Arc<Readings>) -> Result<(), Ended> {
    let failed = |error: io::Error| Ended::failed("wait for connections", &error);
    let mut terminated = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(failed)?;
    let (stop, stopping) = watch::channel(false);
    let mut serving = JoinSet::new();
    for socket in sockets {
        let listener = Listener::of(socket).map_err(failed)?;
        serving.spawn(serve(listener, Arc::clone(&readings), stopping.clone()));
    }
    // Without systemd nobody hears this.
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();
    confinement::of_thread().map_err(|error| Ended::failed("load a filter of system calls", &error))?;
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    stop.send_replace(true);
    let all = async { while serving.join_next().await.is_some() {} };
    timeout(GRACE, all).await.ok();
    Ok(())
}

/// A socket whose connections are streams of one kind.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A stream of any family.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Listener {
    fn of(socket: Listening) -> io::Result<Self> {
        Ok(match socket {
            Listening::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            Listening::Unix(listener) => Self::Unix(UnixListener::from_std(listener)?),
        })
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// Serves on one socket, and ends when its last connection does.
async fn serve(listener: Listener, readings: Arc<Readings>, mut stopping: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(MOST));
    let mut connections = JoinSet::new();
    let mut is_short = false;
    loop {
        // Those that have ended.
        while connections.try_join_next().is_some() {}
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            _ = stopping.wait_for(|stops| *stops) => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok(stream) => {
                is_short = false;
                let (readings, stopping) = (Arc::clone(&readings), stopping.clone());
                connections.spawn(async move {
                    serve_one(stream, &readings, stopping).await;
                    drop(place);
                });
            }
            Err(error) => {
                if !std::mem::replace(&mut is_short, true) {
                    complain(&format!("cannot accept a connection: {error}"));
                }
                sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Answers the requests of one connection, for a bounded time.
async fn serve_one(stream: Box<dyn Stream>, readings: &Readings, mut stopping: watch::Receiver<bool>) {
    let service = service_fn(|request| async move { Ok::<_, Infallible>(answer(readings, &request).await) });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let is_over = tokio::select! {
        _ = connection.as_mut() => true,
        () = sleep(LIFE) => false,
        _ = stopping.wait_for(|stops| *stops) => false,
    };
    if !is_over {
        connection.as_mut().graceful_shutdown();
        // The client broke off, reads too slowly, or sent what is not HTTP. Nobody is left to tell then.
        timeout(LAST_ANSWER, connection).await.ok();
    }
}

/// The answer to one request. The body of the request is of no interest.
async fn answer<B>(readings: &Readings, request: &Request<B>) -> Response<Whole> {
    if request.uri().path() != PATH {
        return plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n");
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "the metrics can only be read\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let form = negotiation::form(request.headers());
    match readings.text(form).await {
        Some(text) => metrics(form, text),
        None => plain(StatusCode::SERVICE_UNAVAILABLE, "too many clients wait for the metrics; try again\n"),
    }
}

fn metrics(Form { format, coding }: Form, text: Bytes) -> Response<Whole> {
    let mut response = Response::new(Whole(Some(text)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if coding == Coding::Gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Whole> {
    let mut response = Response::new(Whole(Some(Bytes::from_static(text.as_bytes()))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
