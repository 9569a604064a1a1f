//! Answers connections that no service takes: 503 with `Retry-After` in HTTP, and the same in FastCGI, with the word that
//! the service is overloaded.
//!
//! Danger: the web server passes on what anybody sends. A request is read to a bound in size and time and is not looked
//! at, but for the number of a FastCGI request.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{Shutdown, SocketFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long one connection may take.
const TIME: Duration = Duration::from_secs(2);
/// How much of a request is read.
const MOST: usize = 64 << 10;

const TEXT: &str = "This site cannot be started now. Please try again in a moment.\n";

/// What the web server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP, version 1.
    Http,
    /// FastCGI.
    FastCgi,
}

/// What a listener has now, without a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    /// Nobody.
    Nobody,
    /// A connection.
    Somebody,
    /// It was shut down, so nobody can connect to it.
    Broken,
}

/// What a listener has now.
pub(crate) fn waits(listener: impl AsFd) -> Waits {
    let mut fds = [PollFd::new(&listener, PollFlags::IN | PollFlags::RDHUP)];
    match rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => {}
        // A signal. The caller looks again.
        Err(_) => return Waits::Nobody,
    }
    let is = fds[0].revents();
    if is.intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
        Waits::Broken
    } else if is.contains(PollFlags::IN) {
        Waits::Somebody
    } else {
        Waits::Nobody
    }
}

/// Accepts the connections that wait, at most so many. The listener is in blocking mode, which it shares with the
/// service: a call may block if a service takes a connection at the same time.
pub(crate) fn accept(listener: impl AsFd, most: usize) -> Vec<OwnedFd> {
    let mut accepted = Vec::new();
    while accepted.len() < most && waits(&listener) == Waits::Somebody {
        match rustix::net::accept_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(connection) => accepted.push(connection),
            Err(_) => break,
        }
    }
    accepted
}

/// Reads a request, answers it, and closes the connection.
pub(crate) async fn answer(connection: OwnedFd, speaks: Speaks, retry: Duration) {
    // A peer that is slow or gone gets no answer.
    drop(timeout(TIME, try_answer(connection, speaks, retry)).await);
}

async fn try_answer(connection: OwnedFd, speaks: Speaks, retry: Duration) -> io::Result<()> {
    let mut stream = UnixStream::from_std(connection.into())?;
    // A connection that is closed with a part of its request unread is reset, and the answer may be lost.
    let mut request = Vec::new();
    while request.len() < MOST && !is_whole(speaks, &request) {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let seconds = retry.as_secs() + 1;
    let answer = match speaks {
        Speaks::Http => format!(
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: {seconds}\r\nConnection: close\r\nContent-Type: text/plain\r\n\
             Content-Length: {}\r\n\r\n{TEXT}",
            TEXT.len()
        )
        .into_bytes(),
        Speaks::FastCgi => fast_cgi(&request, seconds),
    };
    stream.write_all(&answer).await?;
    rustix::net::shutdown(&stream, Shutdown::Write)?;
    // The rest of the request: a body that the web server still sends.
    let mut left = MOST;
    let mut buffer = [0; 4096];
    while left > 0 {
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            break;
        }
        left = left.saturating_sub(len);
    }
    Ok(())
}

/// Whether so much of a request has come that the peer waits for an answer or sends a body.
fn is_whole(speaks: Speaks, request: &[u8]) -> bool {
    match speaks {
        Speaks::Http => request.windows(4).any(|four| four == b"\r\n\r\n"),
        // The first record has the number of the request.
        Speaks::FastCgi => request.len() >= HEADER,
    }
}

/// The length of a record's header.
const HEADER: usize = 8;
const VERSION: u8 = 1;
const END_REQUEST: u8 = 3;
const STDOUT: u8 = 6;
/// The request is rejected because the service is overloaded (`FCGI_OVERLOADED`).
const OVERLOADED: u8 = 2;

/// The answer in FastCGI: a page for the web server's client, and the end of the request.
fn fast_cgi(request: &[u8], seconds: u64) -> Vec<u8> {
    let id = match request {
        [_, _, high, low, ..] => [*high, *low],
        _ => [0, 1],
    };
    let page =
        format!("Status: 503 Service Unavailable\r\nRetry-After: {seconds}\r\nContent-Type: text/plain\r\n\r\n{TEXT}");
    let mut answer = Vec::new();
    let mut record = |kind: u8, content: &[u8]| {
        let [high, low] = u16::try_from(content.len()).unwrap_or(0).to_be_bytes();
        answer.extend([VERSION, kind, id[0], id[1], high, low, 0, 0]);
        answer.extend(content);
    };
    record(STDOUT, page.as_bytes());
    record(STDOUT, &[]);
    record(END_REQUEST, &[0, 0, 0, 0, OVERLOADED, 0, 0, 0]);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream as Stream};

    async fn told(speaks: Speaks, request: &'static [u8]) -> Vec<u8> {
        let (mut peer, ours) = Stream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("set");
        let peer = std::thread::spawn(move || {
            peer.write_all(request).expect("writes");
            let mut told = Vec::new();
            peer.read_to_end(&mut told).expect("reads");
            told
        });
        answer(ours.into(), speaks, Duration::from_secs(4)).await;
        tokio::task::spawn_blocking(move || peer.join().expect("ends")).await.expect("ends")
    }

    #[tokio::test]
    async fn it_says_when_to_come_again() {
        let told_http = told(Speaks::Http, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let text = String::from_utf8(told_http).expect("text");
        assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("\r\nRetry-After: 5\r\n"), "{text}");
        assert!(text.ends_with(TEXT) && text.contains(&format!("Content-Length: {}\r\n\r\n", TEXT.len())), "{text}");
        let told = told(Speaks::FastCgi, &[1, 1, 7, 9, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await;
        assert_eq!(told[..4], [1, STDOUT, 7, 9]);
        let text = String::from_utf8_lossy(&told);
        assert!(text.contains("Status: 503 Service Unavailable\r\nRetry-After: 5\r\n"), "{text}");
        assert_eq!(told[told.len() - 16..], [1, END_REQUEST, 7, 9, 0, 8, 0, 0, 0, 0, 0, 0, OVERLOADED, 0, 0, 0]);
    }

    #[tokio::test]
    async fn a_peer_that_sends_nothing_is_left_and_one_that_sends_much_gets_its_answer() {
        let (_peer, ours) = Stream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("set");
        tokio::time::pause();
        answer(ours.into(), Speaks::Http, Duration::ZERO).await;
        tokio::time::resume();
        static BODY: [u8; 50_000] = [b'x'; 50_000];
        let told = told(Speaks::Http, &BODY[..]);
        // Nothing of this is a head. It is given up after the time, like one that sends nothing.
        assert_eq!(told.await, b"");
    }

    #[test]
    fn what_a_listener_has_is_seen_without_a_wait() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("web.sock");
        let listener = UnixListener::bind(&path).expect("binds");
        assert_eq!((waits(&listener), accept(&listener, 9).len()), (Waits::Nobody, 0));
        let _all: Vec<Stream> = (0..5).map(|_| Stream::connect(&path).expect("connects")).collect();
        assert_eq!((waits(&listener), accept(&listener, 3).len()), (Waits::Somebody, 3));
        assert_eq!((accept(&listener, 3).len(), waits(&listener)), (2, Waits::Nobody));
        rustix::net::shutdown(&listener, Shutdown::Read).expect("shuts");
        assert_eq!((waits(&listener), accept(&listener, 9).len()), (Waits::Broken, 0));
    }
}
