//! The client of a jail's init. Every request has a limit in time and size, whatever init does.
//!
//! Danger: init belongs to the tenant. Nothing is sent before its greeting: a frozen init would keep the request, and
//! the client's pipes with it.

use crate::transport;
use bailiwick_plan::network::PacketProbe;
use bailiwick_proto::frame::{MAX_CRONTAB_REPLY, MAX_EVENT, MAX_REQUEST};
use bailiwick_proto::init::{CrontabFile, JailUser, MAX_SERVICES_REPLY, MAX_STAMP, ServiceOrder, Spawn};
use bailiwick_proto::time_limits::{INIT, INIT_ANSWER};
use bailiwick_proto::{Bytes, Incoming, InitReply, InitRequest, TransportError};
use bailiwick_sys::socket;
use bailiwick_types::{IdRange, LoginName, MAX_CRONTAB, ServiceReport, ServiceVerb, UnitName};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The longest digest of an order, in bytes.
const MAX_DIGEST: usize = 64;
/// The directory of crontab(1).
pub(crate) const CRONTABS: &str = "/var/spool/cron/crontabs";

/// Why init of a jail opened no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    /// Nobody listens: there is no jail.
    #[error("the jail does not run")]
    Down,
    /// Init did not answer in time.
    #[error("init of the jail does not answer")]
    Silent,
    /// Init refused the request.
    #[error("init of the jail refused it: too many sessions run, or the jail is ending")]
    Refused,
    /// This program could not send the request, and the tenant is not the cause: it has no descriptors or memory left,
    /// or the request is too long.
    #[error("bailiwickd cannot ask init of the jail: {0}")]
    Own(io::Error),
    /// Any other error, also an invalid reply of init.
    #[error("init of the jail cannot be reached: {0}")]
    Broken(io::Error),
}

impl From<io::Error> for InitError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Self::Down,
            // The queue of waiting connections at the socket is full.
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::Silent,
            _ if socket::is_shortage(&error) => Self::Own(error),
            _ => Self::Broken(error),
        }
    }
}

/// Hands a session to an init that has sent its greeting, and returns the client's end of its channel.
pub(crate) async fn open(init: InitClient, spawn: Spawn, streams: Vec<OwnedFd>) -> Result<OwnedFd, InitError> {
    let (client, jail) = socket::channel()?;
    let mut fds = vec![jail];
    fds.extend(streams);
    timeout(INIT, init.send(&InitRequest::Spawn(spawn), &fds)).await.map_err(io::Error::from)??;
    Ok(client)
}

/// Connects to an init and waits for its greeting, within [`INIT`].
pub(crate) async fn connect(socket: &Path, ids: IdRange) -> Result<InitClient, InitError> {
    timeout(INIT, InitClient::connect(socket, ids)).await.map_err(io::Error::from)?
}

/// Has a process inside try what must fail, with these packets, and returns its output. Time and size are bounded.
pub(crate) async fn probe(socket: &Path, ids: IdRange, packets: &[PacketProbe]) -> Result<String, InitError> {
    const MOST: u64 = 16 << 10;
    let text = |text: &str| Bytes::new(text).expect("there is no NUL in it");
    let spawn = Spawn {
        user: JailUser { uid: 0, gid: 0, home: "/root".into() },
        argv: [bailiwick_plan::mount::INIT, "--probe"]
            .map(text)
            .into_iter()
            .chain(packets.iter().map(|packet| text(&packet.to_string())))
            .collect(),
        arg0: None,
        env: Vec::new(),
        cwd: None,
        terminal: None,
    };
    let told = timeout(INIT, async {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(io::Error::from);
        let ((input, _), (output, into), (_, errors)) = (pipe()?, pipe()?, pipe()?);
        let channel = open(InitClient::connect(socket, ids).await?, spawn, vec![input, into, errors]).await?;
        let mut output = tokio::net::unix::pipe::Receiver::from_owned_fd(output)?.take(MOST);
        let mut told = String::new();
        output.read_to_string(&mut told).await?;
        // Keep the channel until here: init hangs up a session whose client has disconnected.
        drop(channel);
        Ok::<String, InitError>(told)
    });
    told.await.map_err(io::Error::from)?
}

/// Waits until init has finished its earlier requests, since it handles one after the other. The wait is at most
/// [`INIT_ANSWER`].
pub(crate) async fn wait_for(socket: &Path, ids: IdRange) -> Result<(), InitError> {
    timeout(INIT_ANSWER, InitClient::connect(socket, ids)).await.map_err(io::Error::from)?.map(drop)
}

/// Sends init a request and returns its reply of at most `most` bytes.
async fn ask(socket: &Path, ids: IdRange, request: &InitRequest, most: usize) -> Result<InitReply, InitError> {
    let answer = timeout(INIT_ANSWER, async { InitClient::connect(socket, ids).await?.ask(request, most).await });
    answer.await.map_err(io::Error::from)?
}

/// The error for a reply that does not fit the request.
fn no_answer() -> InitError {
    InitError::Broken(io::Error::other("it answered something else than it was asked"))
}

/// Asks init for the version of its protocol. Version 1 does not know this request, and closes the connection after its
/// greeting.
pub(crate) async fn version(socket: &Path, ids: IdRange) -> Result<u32, InitError> {
    let answer = timeout(INIT_ANSWER, async {
        // An init that closes before its greeting has no known version.
        match InitClient::connect(socket, ids).await?.ask(&InitRequest::Version, MAX_EVENT).await {
            Ok(InitReply::Version { version }) => Ok(version),
            Ok(_) => Err(no_answer()),
            Err(InitError::Broken(error)) if has_gone(&error) => Ok(1),
            Err(error) => Err(error),
        }
    });
    answer.await.map_err(io::Error::from)?
}

fn has_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

/// Asks init whether Landlock still refuses access to the canary.
pub(crate) async fn canary_denied(socket: &Path, ids: IdRange) -> Result<bool, InitError> {
    let request = InitRequest::Probe { canary: bailiwick_plan::mount::CANARY.to_owned() };
    match ask(socket, ids, &request, MAX_EVENT).await? {
        InitReply::Probed { canary_denied } => Ok(canary_denied),
        _ => Err(no_answer()),
    }
}

/// Asks init for the login user's crontab. `seen` is the stamp of its last reply.
pub(crate) async fn crontab(
    socket: &Path,
    ids: IdRange,
    login: &LoginName,
    seen: Option<String>,
) -> Result<CrontabFile, InitError> {
    let request =
        InitRequest::Crontab { path: format!("{CRONTABS}/{login}"), owner: bailiwick_plan::seed::LOGIN_ID, seen };
    match ask(socket, ids, &request, MAX_CRONTAB_REPLY).await? {
        InitReply::Crontab(CrontabFile::Text { stamp, text })
            if stamp.len() > MAX_STAMP || text.len() > 3 * MAX_CRONTAB =>
        {
            Err(no_answer())
        }
        InitReply::Crontab(file) => Ok(file),
        _ => Err(no_answer()),
    }
}

/// Has init supervise a program.
pub(crate) async fn order(
    socket: &Path,
    ids: IdRange,
    order: ServiceOrder,
    fds: &[BorrowedFd<'_>],
) -> Result<(), InitError> {
    ordered(socket, ids, &InitRequest::Service(Box::new(order)), fds).await
}

/// Has init stop and forget every supervised program but these.
pub(crate) async fn keep_services(socket: &Path, ids: IdRange, names: Vec<UnitName>) -> Result<(), InitError> {
    ordered(socket, ids, &InitRequest::KeepServices { names }, &[]).await
}

/// Starts or stops a supervised program. Returns whether init supervises it.
pub(crate) async fn service_verb(
    socket: &Path,
    ids: IdRange,
    name: UnitName,
    verb: ServiceVerb,
) -> Result<bool, InitError> {
    match ask(socket, ids, &InitRequest::ServiceVerb { name, verb }, MAX_EVENT).await? {
        InitReply::Ordered => Ok(true),
        InitReply::NoSuchService => Ok(false),
        _ => Err(no_answer()),
    }
}

/// Asks init for its supervised programs. What it tells is bounded, and is the tenant's word.
pub(crate) async fn services(socket: &Path, ids: IdRange) -> Result<Vec<ServiceReport>, InitError> {
    match ask(socket, ids, &InitRequest::Services, MAX_SERVICES_REPLY).await? {
        InitReply::Services(reports) if reports.iter().all(|report| report.digest.len() <= MAX_DIGEST) => Ok(reports),
        _ => Err(no_answer()),
    }
}

async fn ordered(socket: &Path, ids: IdRange, request: &InitRequest, fds: &[BorrowedFd<'_>]) -> Result<(), InitError> {
    let answer = timeout(INIT_ANSWER, async {
        let mut init = InitClient::connect(socket, ids).await?;
        init.send_with(request, fds).await?;
        init.incoming = Incoming::new(MAX_EVENT, 0);
        match init.recv().await? {
            InitReply::Ordered => Ok(()),
            InitReply::Refused => Err(InitError::Refused),
            _ => Err(no_answer()),
        }
    });
    answer.await.map_err(io::Error::from)?
}

/// A connection to an init.
#[derive(Debug)]
pub(crate) struct InitClient {
    stream: UnixStream,
    incoming: Incoming,
}

impl InitClient {
    /// Connects to an init and waits for its greeting. Nothing is sent before that: a frozen init would get the request
    /// when it is thawed, and the client's pipes would stay open until then.
    async fn connect(path: &Path, ids: IdRange) -> Result<Self, InitError> {
        let stream = UnixStream::connect(path).await?;
        // The warden bound the socket, in a directory that no tenant can reach. The peer credentials are those of the
        // process that called listen(2): of init, or of the warden while init is still starting.
        let peer = socket::peer(&stream)?;
        if peer.uid != 0 && !ids.contains(peer.uid) {
            return Err(io::Error::other("somebody else listens on its socket").into());
        }
        let mut init = Self { stream, incoming: Incoming::new(MAX_EVENT, 0) };
        match init.recv().await? {
            InitReply::Ready => Ok(init),
            InitReply::Refused => Err(InitError::Refused),
            InitReply::Probed { .. }
            | InitReply::Crontab(_)
            | InitReply::Version { .. }
            | InitReply::Ordered
            | InitReply::NoSuchService
            | InitReply::Services(_) => Err(no_answer()),
        }
    }

    async fn send(&self, request: &InitRequest, fds: &[OwnedFd]) -> Result<(), InitError> {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        self.send_with(request, &fds).await
    }

    async fn send_with(&self, request: &InitRequest, fds: &[BorrowedFd<'_>]) -> Result<(), InitError> {
        transport::send(&self.stream, request, MAX_REQUEST, fds).await.map_err(|error| match error {
            // The request is too large, and init has received no part of it.
            TransportError::Frame(_) => InitError::Own(error.into()),
            error => io::Error::from(error).into(),
        })
    }

    async fn ask(mut self, request: &InitRequest, most: usize) -> Result<InitReply, InitError> {
        self.send(request, &[]).await?;
        self.incoming = Incoming::new(most, 0);
        Ok(self.recv().await?)
    }

    async fn recv(&mut self) -> io::Result<InitReply> {
        Ok(transport::receive(&self.stream, &mut self.incoming).await?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_proto::encode;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn an_init_that_says_nothing_or_too_much_is_an_error_in_bounded_time() {
        use tokio::io::AsyncWriteExt;
        let temp = tempfile::tempdir().expect("temporary directory");
        let ids = IdRange { first: 0, count: 1 };
        for answer in [None, Some(vec![0xff; 4096]), Some(b"\x04\0\0\0nope".to_vec())] {
            let path = temp.path().join("init.sock");
            let listener = tokio::net::UnixListener::bind(&path).expect("binds");
            let init = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                if let Some(answer) = answer {
                    stream.write_all(&answer).await.ok();
                }
                tokio::time::sleep(Duration::from_secs(60)).await;
            });
            let failure = connect(&path, ids).await.expect_err("no session");
            assert!(matches!(failure, InitError::Silent | InitError::Broken(_)), "{failure}");
            init.abort();
            std::fs::remove_file(&path).expect("removes");
        }
    }

    #[tokio::test]
    async fn what_an_init_tells_of_a_crontab_is_bounded() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let temp = tempfile::tempdir().expect("temporary directory");
        let ids = IdRange { first: 0, count: 1 };
        let login: LoginName = "alice".parse().expect("valid");
        let told = |stamp: String, text: String| InitReply::Crontab(CrontabFile::Text { stamp, text });
        let frame = |reply: &InitReply| encode(reply, 1 << 20).expect("small");
        let good = told("1".to_owned(), "\u{1}".repeat(MAX_CRONTAB));
        // A reply with little content and much padding. It is not even kept.
        let body = [serde_json::to_vec(&CrontabFile::Absent).expect("small"), vec![b' '; MAX_CRONTAB_REPLY]].concat();
        let body = [&b"{\"crontab\":"[..], &body[..], &b"}"[..]].concat();
        let padded = [&u32::try_from(body.len()).expect("small").to_le_bytes()[..], &body[..]].concat();
        let cases = [
            (padded, false),
            (frame(&good), true),
            (frame(&told("1".repeat(MAX_STAMP + 1), String::new())), false),
            (frame(&told("1".to_owned(), "x".repeat(3 * MAX_CRONTAB + 1))), false),
            (frame(&told("1".to_owned(), "x".repeat(7 * MAX_CRONTAB))), false),
            (frame(&InitReply::Ready), false),
            (vec![0xff; 4096], false),
        ];
        for (answer, is_good) in cases {
            let path = temp.path().join("init.sock");
            let listener = tokio::net::UnixListener::bind(&path).expect("binds");
            let init = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                stream.write_all(&encode(&InitReply::Ready, MAX_EVENT).expect("small")).await.ok();
                // Reply only after the request has arrived.
                assert!(stream.read(&mut [0; 4096]).await.expect("reads") > 0);
                stream.write_all(&answer).await.ok();
                tokio::time::sleep(Duration::from_secs(60)).await;
            });
            assert_eq!(crontab(&path, ids, &login, None).await.is_ok(), is_good);
            init.abort();
            std::fs::remove_file(&path).expect("removes");
        }
    }

    #[tokio::test]
    async fn what_an_init_tells_of_its_services_is_bounded() {
        use bailiwick_types::{Moment, ServiceState};
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let temp = tempfile::tempdir().expect("temporary directory");
        let ids = IdRange { first: 0, count: 1 };
        let report = |digest: String| ServiceReport {
            name: "app".parse().expect("a name"),
            digest,
            state: ServiceState::Running,
            pid: Some(2),
            since: Moment(1),
            restarts: 0,
            last_end: None,
            again: None,
        };
        let frame = |reply: &InitReply| encode(reply, 1 << 22).expect("small");
        let one = report("1".repeat(MAX_DIGEST));
        for (answer, is_good) in [
            (frame(&InitReply::Services(vec![one.clone()])), true),
            (frame(&InitReply::Services(Vec::new())), true),
            (frame(&InitReply::Services(vec![report("1".repeat(MAX_DIGEST + 1))])), false),
            (frame(&InitReply::Services(vec![one; MAX_SERVICES_REPLY / 64])), false),
            (frame(&InitReply::Ordered), false),
            (frame(&InitReply::Ready), false),
            (vec![0xff; 4096], false),
        ] {
            let path = temp.path().join("init.sock");
            let listener = tokio::net::UnixListener::bind(&path).expect("binds");
            let init = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                stream.write_all(&encode(&InitReply::Ready, MAX_EVENT).expect("small")).await.ok();
                assert!(stream.read(&mut [0; 4096]).await.expect("reads") > 0);
                stream.write_all(&answer).await.ok();
                tokio::time::sleep(Duration::from_secs(60)).await;
            });
            assert_eq!(services(&path, ids).await.is_ok(), is_good);
            init.abort();
            std::fs::remove_file(&path).expect("removes");
        }
    }

    #[tokio::test]
    async fn an_init_of_the_first_version_is_known_by_its_silence() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let temp = tempfile::tempdir().expect("temporary directory");
        let ids = IdRange { first: 0, count: 1 };
        for (answer, golden) in [(None, 1), (Some(InitReply::Version { version: 2 }), 2)] {
            let path = temp.path().join("init.sock");
            let listener = tokio::net::UnixListener::bind(&path).expect("binds");
            let init = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                stream.write_all(&encode(&InitReply::Ready, MAX_EVENT).expect("small")).await.expect("writes");
                assert!(stream.read(&mut [0; 4096]).await.expect("reads") > 0);
                if let Some(answer) = answer {
                    stream.write_all(&encode(&answer, MAX_EVENT).expect("small")).await.expect("writes");
                }
            });
            assert_eq!(version(&path, ids).await.expect("told"), golden);
            init.await.expect("ends");
            std::fs::remove_file(&path).expect("removes");
        }
    }

    #[tokio::test]
    async fn an_init_that_goes_before_its_greeting_has_no_version() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("init.sock");
        let listener = tokio::net::UnixListener::bind(&path).expect("binds");
        let init = tokio::spawn(async move { drop(listener.accept().await.expect("a connection")) });
        let told = version(&path, IdRange { first: 0, count: 1 }).await;
        assert!(matches!(told, Err(InitError::Broken(_))), "{told:?}");
        init.await.expect("ends");
    }

    #[tokio::test]
    async fn a_request_that_is_too_long_is_not_held_against_the_tenant() {
        let (ours, _theirs) = UnixStream::pair().expect("pair");
        let init = InitClient { stream: ours, incoming: Incoming::new(MAX_EVENT, 0) };
        let request = InitRequest::Probe { canary: "x".repeat(MAX_REQUEST) };
        assert!(matches!(init.send(&request, &[]).await, Err(InitError::Own(_))));
    }
}
