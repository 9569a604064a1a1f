//! The answer to one request (RFC 9110, RFC 9111).

use super::body::Body;
use super::encoding::{self, Coding};
use super::kind::{self, Kind};
use super::path::Wanted;
use super::range::{self, Part};
use super::tree::{Found, Opened, Tree};
use hyper::header::{self, HeaderName};
use hyper::http::response::Builder;
use hyper::{Method, Request, Response, StatusCode};
use rustix::io::Errno;
use std::time::{Duration, SystemTime};

/// The file that stands for a directory.
const INDEX: &str = "index.html";
/// The first second that no header can name: the year 10000.
const END_OF_DATES: u64 = 253_402_300_800;

/// A file, and how it is sent.
struct Representation {
    opened: Opened,
    kind: Kind,
    coding: Option<Coding>,
}

/// Answers a request. The body of the request is of no interest.
pub(crate) fn answer<B>(tree: &Tree, request: &Request<B>) -> Response<Body> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let builder = Response::builder().header(header::ALLOW, "GET, HEAD");
        return plain(builder, StatusCode::METHOD_NOT_ALLOWED, "this is no method for a file\n");
    }
    let mut response = match find(tree, request) {
        Ok(response) => response,
        Err(error) => refuse(error),
    };
    if request.method() == Method::HEAD {
        *response.body_mut() = Body::Empty;
    }
    response
}

fn find<B>(tree: &Tree, request: &Request<B>) -> Result<Response<Body>, Errno> {
    let uri = request.uri();
    let mut wanted = Wanted::parse(uri.path()).ok_or(Errno::NOENT)?;
    if wanted.is_directory {
        wanted = wanted.within(INDEX);
    }
    let opened = match tree.open(&wanted)? {
        Found::File(opened) => opened,
        Found::Directory if wanted.path().ends_with(INDEX) => return Err(Errno::NOENT),
        Found::Directory => {
            let builder = Response::builder().header(header::LOCATION, wanted.with_slash(uri.query()));
            return Ok(plain(builder, StatusCode::MOVED_PERMANENTLY, "this is a directory\n"));
        }
    };
    let kind = kind::of(wanted.path());
    let whole = Representation { opened, kind, coding: None };
    Ok(send(request, if kind.shrinks { compressed(tree, &wanted, request, whole) } else { whole }))
}

/// The compressed copy that the client likes best, or else the file itself.
fn compressed<B>(tree: &Tree, wanted: &Wanted, request: &Request<B>, whole: Representation) -> Representation {
    for coding in encoding::accepted(&text(request, header::ACCEPT_ENCODING)) {
        if let Ok(Found::File(opened)) = tree.open(&wanted.with_ending(coding.ending())) {
            return Representation { opened, coding: Some(coding), ..whole };
        }
    }
    whole
}

fn send<B>(request: &Request<B>, found: Representation) -> Response<Body> {
    let Representation { opened, kind, coding } = found;
    let tag = format!("\"{:x}-{:x}-{:x}.{:x}\"", opened.inode, opened.size, opened.modified.0, opened.modified.1);
    let modified = date(opened.modified.0);
    let mut builder = Response::builder().header(header::ETAG, &tag).header(header::ACCEPT_RANGES, "bytes");
    if let Some(modified) = modified {
        builder = builder.header(header::LAST_MODIFIED, httpdate::fmt_http_date(modified));
    }
    if kind.shrinks {
        builder = builder.header(header::VARY, "Accept-Encoding");
    }
    if is_unchanged(request, &tag, modified) {
        return finish(builder.status(StatusCode::NOT_MODIFIED), Body::Empty);
    }
    builder = builder.header(header::CONTENT_TYPE, kind.name);
    if let Some(coding) = coding {
        builder = builder.header(header::CONTENT_ENCODING, coding.name());
    }
    let size = opened.size;
    let range = match part(request, &tag, modified, size) {
        Part::Whole => 0..size,
        Part::Bytes(range) => {
            let bytes = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            builder = builder.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, bytes);
            range
        }
        Part::Unsatisfiable => {
            let builder = Response::builder().header(header::CONTENT_RANGE, format!("bytes */{size}"));
            return plain(builder, StatusCode::RANGE_NOT_SATISFIABLE, "the file has no such bytes\n");
        }
    };
    builder = builder.header(header::CONTENT_LENGTH, range.end - range.start);
    finish(builder, Body::of(opened.file, range))
}

/// Whether the client has this very file.
fn is_unchanged<B>(request: &Request<B>, tag: &str, modified: Option<SystemTime>) -> bool {
    if request.headers().contains_key(header::IF_NONE_MATCH) {
        let known = text(request, header::IF_NONE_MATCH);
        // A proxy that compresses marks a tag as weak, and weak tags count here.
        return known.split(',').map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == tag);
    }
    let since = httpdate::parse_http_date(&text(request, header::IF_MODIFIED_SINCE));
    since.is_ok_and(|since| modified.is_some_and(|modified| modified <= since))
}

/// The part of the file that the request wants. A part of another file is of no use: then all of this one is sent.
fn part<B>(request: &Request<B>, tag: &str, modified: Option<SystemTime>, size: u64) -> Part {
    let condition = text(request, header::IF_RANGE);
    let is_same = condition.is_empty()
        || condition == tag
        || httpdate::parse_http_date(&condition).is_ok_and(|since| modified == Some(since));
    match request.headers().get(header::RANGE).and_then(|header| header.to_str().ok()) {
        Some(header) if is_same && request.method() == Method::GET => range::parse(header, size),
        _ => Part::Whole,
    }
}

/// All values of a header, joined as one list. What is not ASCII is left out.
fn text<B>(request: &Request<B>, name: HeaderName) -> String {
    let values: Vec<_> = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

/// A date that a header can name.
fn date(seconds: i64) -> Option<SystemTime> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds < END_OF_DATES)?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// The answer when a file cannot be opened.
fn refuse(error: Errno) -> Response<Body> {
    let (status, text) = match error {
        Errno::ACCESS | Errno::PERM => (StatusCode::FORBIDDEN, "this may not be read\n"),
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => {
            (StatusCode::SERVICE_UNAVAILABLE, "too much to do\n")
        }
        Errno::IO => (StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read\n"),
        // Every other error means that the tree has no such file: also a link that leads out of it.
        _ => (StatusCode::NOT_FOUND, "there is no such file\n"),
    };
    plain(Response::builder(), status, text)
}

fn plain(builder: Builder, status: StatusCode, text: &'static str) -> Response<Body> {
    let builder = builder.status(status).header(header::CONTENT_TYPE, "text/plain; charset=utf-8");
    finish(builder.header(header::CONTENT_LENGTH, text.len()), Body::Text(text))
}

fn finish(builder: Builder, body: Body) -> Response<Body> {
    builder.body(body).expect("headers are made of plain characters")
}
