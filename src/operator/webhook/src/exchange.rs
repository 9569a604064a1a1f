//! One request and its answer.

use crate::answer::Outcome;
use crate::connect::{self, Authorities, ConnectError};
use crate::lookup::Lookups;
use crate::sign::signatures;
use bailiwick_targets::Webhook;
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

/// The most bytes of the head of an answer, and how many lines it may have.
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// How much of the body of a failure is read for its reason.
const MAX_BODY: usize = 2 << 10;
/// How long that may take.
const BODY_TIME: Duration = Duration::from_secs(1);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The address or the id cannot stand in a request.
    #[error("the request cannot be written")]
    Request(#[source] hyper::http::Error),
    /// The receiver closed the connection, or what it sent is no HTTP.
    #[error("there is no answer that can be read")]
    Answer(#[source] hyper::Error),
}

/// Connects, sends the request and reads the answer. The caller ends it at `deadline`.
pub(crate) async fn exchange(
    (authorities, lookups): (&Authorities, &Lookups),
    webhook: &Webhook,
    (id, body, now): (&str, &str, SystemTime),
    deadline: Instant,
) -> Result<Outcome, ExchangeError> {
    let request = request(webhook, id, body, now).map_err(ExchangeError::Request)?;
    let stream = connect::tcp(lookups, webhook, deadline).await?;
    if webhook.url.is_secure() {
        let stream = connect::tls(authorities, webhook, stream).await?;
        over(stream, request, now).await.map_err(ExchangeError::Answer)
    } else {
        over(stream, request, now).await.map_err(ExchangeError::Answer)
    }
}

fn request(webhook: &Webhook, id: &str, body: &str, now: SystemTime) -> Result<Request<String>, hyper::http::Error> {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Request::post(webhook.url.path())
        .header(HOST, webhook.url.authority())
        .header(CONNECTION, "close")
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("bailiwick/", env!("CARGO_PKG_VERSION")))
        .header("webhook-id", id)
        .header("webhook-timestamp", seconds)
        .header("webhook-signature", signatures(&webhook.secrets, id, seconds, body))
        .body(body.to_owned())
}

/// Sends the request over a connection and reads what is needed of the answer.
async fn over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<String>,
    now: SystemTime,
) -> Result<Outcome, hyper::Error> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let mut connection = pin!(connection);
    let mut answer = pin!(async {
        let response: Response<Incoming> = sender.send_request(request).await?;
        let (head, mut body) = response.into_parts();
        // What a receiver adds to its consent is of no interest.
        let start = if head.status.is_success() { Vec::new() } else { started(&mut body).await };
        Ok(Outcome::of(head.status, &head.headers, &start, now))
    });
    // The connection does the work. Its end comes with, or after, the answer or the error that the request has.
    tokio::select! {
        biased;
        outcome = &mut answer => outcome,
        _ = &mut connection => answer.await,
    }
}

/// The first bytes of a body. One that breaks off, or is slow, has its meaning in its head already.
async fn started(body: &mut Incoming) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = async {
        while bytes.len() < MAX_BODY {
            match poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
                Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Some(Err(_)) | None => break,
            }
        }
    };
    // What has come until then is enough.
    tokio::time::timeout(BODY_TIME, read).await.ok();
    bytes.truncate(MAX_BODY);
    bytes
}
