//! The connections to the warden: one for requests that it answers at once, and one for each change that takes time, so
//! that no caller waits for another tenant's jail. They are made again after the warden restarts.

use crate::sync::lock;
use crate::transport;
use bailiwick_proto::frame::{MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::{Failure, Incoming, TransportError, WARDEN_ERROR, WardenReply, WardenRequest, time_limits};
use bailiwick_types::ExitStatus;
use std::collections::HashSet;
use std::io::{self, ErrorKind, Read};
use std::mem::{Discriminant, discriminant};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, sleep, timeout};

/// The most changes that take time at once. The warden accepts twice as many connections.
const MOST_CHANGES: usize = 48;
/// The pause between two reads of the warden's error file. A warden that left an error has this long to start again.
const WORD_TIME: Duration = Duration::from_secs(1);
/// The longest error text that is read, in bytes.
const MAX_WORD: u64 = 4096;
/// After so many closed connections over one request, the warden counts as too old for it. A warden that ends closes
/// only one.
const ENDS: u32 = 2;

/// A connection, and how often it was made.
#[derive(Debug, Default)]
struct Connection {
    stream: Option<UnixStream>,
    made: u64,
}

/// The link to the warden.
#[derive(Debug)]
pub(crate) struct WardenLink {
    socket: PathBuf,
    /// The file in which a warden that cannot work leaves the reason.
    word: PathBuf,
    shared: Mutex<Connection>,
    /// Requests that the current warden has proved not to know.
    unknown: std::sync::Mutex<HashSet<Discriminant<WardenRequest>>>,
    /// Permits for changes that take time.
    changes: Semaphore,
}

fn last_word(word: &Path) -> Option<String> {
    let mut text = String::new();
    let file = std::fs::File::open(word).ok()?;
    file.take(MAX_WORD).read_to_string(&mut text).ok()?;
    Some(format!("bailiwick-warden cannot work: {text}; restart it when that is mended"))
}

/// Connects to the warden, for another thread. Refuses when the last warden left an error: a connection would have the
/// service manager start it again, although an operator must act first. A warden that can work removes the error file
/// before it listens.
pub(crate) fn connect(socket: &Path) -> io::Result<std::os::unix::net::UnixStream> {
    match last_word(&socket.with_file_name(WARDEN_ERROR)) {
        Some(word) => Err(io::Error::new(ErrorKind::ConnectionRefused, word)),
        None => std::os::unix::net::UnixStream::connect(socket),
    }
}

impl WardenLink {
    /// Makes a link to the warden at a socket. It does not connect yet.
    pub(crate) fn new(socket: PathBuf) -> Self {
        let word = socket.with_file_name(WARDEN_ERROR);
        let (shared, unknown, changes) = (Mutex::default(), std::sync::Mutex::default(), Semaphore::new(MOST_CHANGES));
        Self { socket, word, shared, unknown, changes }
    }

    fn unknown(&self) -> MutexGuard<'_, HashSet<Discriminant<WardenRequest>>> {
        lock(&self.unknown)
    }

    /// The error that the last warden left, if any.
    pub(crate) fn last_word(&self) -> Option<String> {
        last_word(&self.word)
    }

    /// Returns when no warden will come: the last one left an error, and none has been started since.
    async fn no_warden(&self) -> Failure {
        loop {
            sleep(WORD_TIME).await;
            if let Some(word) = self.last_word() {
                return Failure::of(ExitStatus::HostCannot, word);
            }
        }
    }

    /// Sends a request and waits for the reply. If the warden goes away meanwhile, the request is sent again once it is
    /// back, since every request may be repeated. A failure that the warden reports is returned as the error.
    pub(crate) async fn ask(&self, request: &WardenRequest) -> Result<WardenReply, Failure> {
        if takes_time(request) {
            // The semaphore is never closed.
            let _place = self.changes.acquire().await;
            return self.ask_on(&mut Connection::default(), request).await;
        }
        if is_new(request) {
            if self.unknown().contains(&discriminant(request)) {
                return Err(too_old());
            }
            // The request may cost the connection, so it must not use the shared one.
            return self.ask_on(&mut Connection::default(), request).await;
        }
        let mut shared = self.shared.lock().await;
        let made = shared.made;
        let answer = self.ask_on(&mut shared, request).await;
        if shared.made != made {
            // The warden may be another one now.
            self.unknown().clear();
        }
        answer
    }

    async fn ask_on(&self, held: &mut Connection, request: &WardenRequest) -> Result<WardenReply, Failure> {
        let deadline = Instant::now() + time_limits::RESTART;
        let mut ends = 0;
        let mut no_warden = std::pin::pin!(self.no_warden());
        loop {
            // A socket that the service manager holds accepts requests although no warden runs.
            let answer = tokio::select! {
                biased;
                answer = self.once(held, request) => answer,
                failure = &mut no_warden => return Err(failure),
            };
            let error = match answer {
                Ok(WardenReply::Failed(failure)) => return Err(failure),
                Ok(reply) => return Ok(reply),
                // Another attempt would fail in the same way.
                Err(TransportError::Frame(error)) => return Err(Failure::new(ExitStatus::Failed, &error)),
                Err(error) => error,
            };
            if is_new(request) && matches!(error, TransportError::Ended) {
                ends += 1;
                if ends == ENDS {
                    self.unknown().insert(discriminant(request));
                    return Err(too_old());
                }
            }
            if Instant::now() >= deadline {
                let message = format!("bailiwick-warden does not answer on {:?}: {error}", self.socket);
                return Err(Failure::of(ExitStatus::Failed, message));
            }
            tokio::select! {
                () = sleep(time_limits::RETRY) => {}
                failure = &mut no_warden => return Err(failure),
            }
        }
    }

    /// As [`Self::ask`], for a request whose reply has descriptors, at most `max_fds`.
    pub(crate) async fn ask_for_fds(
        &self,
        request: &WardenRequest,
        max_fds: usize,
    ) -> Result<(WardenReply, Vec<OwnedFd>), Failure> {
        let ask = async {
            let stream = UnixStream::connect(&self.socket).await?;
            transport::send(&stream, request, MAX_REQUEST, &[]).await?;
            transport::receive(&stream, &mut Incoming::new(MAX_REPLY, max_fds)).await
        };
        match timeout(time_limits::ANSWER, ask).await {
            Ok(Ok((WardenReply::Failed(failure), _))) => Err(failure),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(TransportError::Ended)) => Err(too_old()),
            Ok(Err(error)) => Err(Failure::new(ExitStatus::Failed, &error)),
            Err(_) => Err(Failure::new(ExitStatus::Failed, &TransportError::Late)),
        }
    }

    async fn once(&self, held: &mut Connection, request: &WardenRequest) -> Result<WardenReply, TransportError> {
        // The stream is put back only with its reply. Otherwise a late reply to a request that was given up would be
        // read as the reply to the next one.
        let stream = match held.stream.take() {
            Some(stream) => stream,
            // The same check as in [`connect`].
            _ if self.last_word().is_some() => {
                return Err(io::Error::from(ErrorKind::ConnectionRefused).into());
            }
            None => {
                let stream = UnixStream::connect(&self.socket).await?;
                held.made += 1;
                stream
            }
        };
        let (reply, _) = timeout(time_limits::CHANGE, async {
            transport::send(&stream, request, MAX_REQUEST, &[]).await?;
            transport::receive(&stream, &mut Incoming::new(MAX_REPLY, 0)).await
        })
        .await
        .map_err(|_| TransportError::Late)??;
        held.stream = Some(stream);
        Ok(reply)
    }
}

/// Whether the warden replies only when the change is complete.
fn takes_time(request: &WardenRequest) -> bool {
    use WardenRequest::{EndFtp, Freeze, Limit, Purge, Restart, Start, Stop, Thaw};
    matches!(request, EndFtp { .. } | Limit { .. } | Start { .. } | Restart { .. } | Stop { .. })
        || matches!(request, Freeze { .. } | Thaw { .. } | Purge { .. })
}

/// Whether a warden from before an upgrade may not know the request. Such a warden closes the connection. It is not
/// asked again until the shared connection was made again.
fn is_new(request: &WardenRequest) -> bool {
    use WardenRequest::{Keep, Problems, Restart};
    matches!(request, Keep { .. } | Problems | Restart { .. })
}

fn too_old() -> Failure {
    Failure::of(ExitStatus::Failed, "bailiwick-warden is of an older version and does not know this; restart it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Answer};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::net::UnixListener;

    /// Accepts a connection and reads its request.
    async fn asked(listener: &UnixListener) -> UnixStream {
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut incoming = Incoming::new(MAX_REQUEST, 0);
        transport::receive::<WardenRequest>(&stream, &mut incoming).await.expect("a request");
        stream
    }

    async fn answer(listener: &UnixListener, reply: Option<&WardenReply>) {
        let stream = asked(listener).await;
        if let Some(reply) = reply {
            transport::send(&stream, reply, MAX_REPLY, &[]).await.expect("sends");
        }
    }

    #[tokio::test]
    async fn a_warden_that_dies_in_the_middle_is_asked_again_when_it_is_back() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("warden.sock");
        let link = WardenLink::new(path.clone());
        let warden = tokio::spawn(async move {
            sleep(Duration::from_millis(100)).await;
            let listener = UnixListener::bind(&path).expect("binds");
            answer(&listener, None).await;
            drop(listener);
            std::fs::remove_file(&path).expect("removes");
            sleep(Duration::from_millis(100)).await;
            let listener = UnixListener::bind(&path).expect("binds");
            answer(&listener, Some(&WardenReply::Unchanged)).await;
        });
        assert_eq!(link.ask(&WardenRequest::Roster).await, Ok(WardenReply::Unchanged));
        warden.await.expect("ends");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_warden_that_cannot_work_said_is_told_at_once() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("warden.sock");
        let link = WardenLink::new(path.clone());
        std::fs::write(temp.path().join(WARDEN_ERROR), "the state directory is not ours").expect("writes");
        // First nobody listens. Then the service manager listens and nobody answers.
        for listens in [false, true] {
            let listener = listens.then(|| UnixListener::bind(&path).expect("binds"));
            let asked = Instant::now();
            let failure = link.ask(&WardenRequest::Roster).await.expect_err("nobody answers");
            assert!(failure.message.contains("cannot work: the state directory is not ours; restart it"), "{failure}");
            assert!(asked.elapsed() <= Duration::from_secs(2), "{:?}", asked.elapsed());
            // Each connection would have the manager start the warden again.
            if let Some(listener) = listener {
                assert!(timeout(Duration::from_secs(1), listener.accept()).await.is_err(), "nobody has connected");
            }
        }
        // The next warden removes the error, and is reached.
        std::fs::remove_file(&path).expect("removes");
        fake::warden_at(&path, |_| Answer::Reply(WardenReply::Done));
        std::fs::remove_file(temp.path().join(WARDEN_ERROR)).expect("removes");
        assert_eq!(link.ask(&WardenRequest::Roster).await, Ok(WardenReply::Done));
    }

    #[tokio::test]
    async fn the_answer_to_a_question_that_was_given_up_is_nobody_elses() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("warden.sock");
        let link = WardenLink::new(path.clone());
        let listener = UnixListener::bind(&path).expect("binds");
        let mut asked = Box::pin(link.ask(&WardenRequest::Hello));
        let stream = tokio::select! {
            stream = self::asked(&listener) => stream,
            _ = &mut asked => unreachable!("nobody has answered"),
        };
        drop(asked);
        let late = WardenReply::Hello { version: "late".to_owned() };
        // The send may already fail because nobody waits.
        drop(transport::send(&stream, &late, MAX_REPLY, &[]).await);
        let warden = tokio::spawn(async move { answer(&listener, Some(&WardenReply::Unchanged)).await });
        assert_eq!(link.ask(&WardenRequest::Roster).await, Ok(WardenReply::Unchanged));
        warden.await.expect("ends");
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_warden_is_not_asked_on_what_it_does_not_know_and_holds_nobody_up() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("warden.sock");
        let link = WardenLink::new(path.clone());
        let asked = Arc::new(AtomicU32::new(0));
        let older = |asked: &Arc<AtomicU32>| {
            let asked = Arc::clone(asked);
            move |request| match request {
                WardenRequest::Keep { .. } => {
                    asked.fetch_add(1, Ordering::Relaxed);
                    Answer::Close
                }
                _ => Answer::Reply(WardenReply::Unchanged),
            }
        };
        let warden = fake::warden_at(&path, older(&asked));
        let keep = WardenRequest::Keep { tenants: Vec::new() };
        let begun = Instant::now();
        assert_eq!(link.ask(&WardenRequest::Roster).await, Ok(WardenReply::Unchanged));
        for _ in 0..3 {
            assert_eq!(link.ask(&keep).await, Err(too_old()));
            assert_eq!(link.ask(&WardenRequest::Roster).await, Ok(WardenReply::Unchanged));
        }
        assert_eq!(asked.load(Ordering::Relaxed), ENDS);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!(link.ask(&WardenRequest::Problems).await, Ok(WardenReply::Unchanged), "one is not the other");
        // The warden is replaced.
        warden.abort();
        assert!(warden.await.is_err());
        std::fs::remove_file(&path).expect("removes");
        fake::warden_at(&path, |_| Answer::Reply(WardenReply::Done));
        assert_eq!(link.ask(&WardenRequest::Roster).await, Ok(WardenReply::Done));
        assert_eq!(link.ask(&keep).await, Ok(WardenReply::Done));
    }

    #[tokio::test(start_paused = true)]
    async fn a_warden_that_stays_away_is_an_error_in_bounded_time() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let link = WardenLink::new(temp.path().join("warden.sock"));
        let failure = link.ask(&WardenRequest::Roster).await.expect_err("nobody is there");
        assert!(failure.message.contains("does not answer"), "{failure}");
    }
}
