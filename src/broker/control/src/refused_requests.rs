//! Hears from the host's web server which requests it refused because a socket has as many as its `entries`.
//!
//! The web server sends a datagram for each. A thread of its own reads them: the queue of the socket is short, and what does not fit
//! into it is lost. So the counts are a lower bound.
//!
//! Danger: whoever is in the web server's group may send anything at any rate. A datagram adds one to the count of a socket that the
//! policy declares, and does nothing else. The web server never waits for this program.

use crate::policy_store::PolicyStore;
use crate::recorder::{Recorder, Refused};
use bailiwick_policy::Policy;
use bailiwick_proto::{RefusedRequest, WEB_DIR, refused_request, refused_socket};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::warn;

/// The least time between two reports to the recorder.
const REPORT_TIME: Duration = Duration::from_secs(1);
/// The time between two looks whether the socket is still there. While there is none, it is made after this time.
const LOOK_TIME: Duration = Duration::from_secs(2);
/// How many datagrams are read before the clock is looked at.
const BATCH: usize = 256;

/// Hears of refused requests.
#[derive(Debug)]
pub(crate) struct RefusedRequests {
    pub(crate) policy: Arc<PolicyStore>,
    pub(crate) recorder: Arc<Recorder>,
}

impl RefusedRequests {
    /// Starts the thread, which ends with the process.
    pub(crate) fn start(self) -> io::Result<()> {
        std::thread::Builder::new().name("refused".to_owned()).spawn(move || self.run()).map(drop)
    }

    fn run(&self) {
        let mut socket: Option<Socket> = None;
        let mut complained = false;
        let mut refused = Refused::new();
        let mut reported: Option<Instant> = None;
        let mut looked: Option<Instant> = None;
        loop {
            if looked.is_none_or(|at| at.elapsed() >= LOOK_TIME) {
                looked = Some(Instant::now());
                let (runtime, is_wanted) = {
                    let loaded = self.policy.loaded();
                    (loaded.policy.host.runtime_dir.clone(), loaded.policy.host.web.group.is_some())
                };
                if !is_wanted {
                    socket = None;
                } else if !socket.as_ref().is_some_and(|socket| socket.is_in_place(&runtime)) {
                    // An earlier one may still have datagrams.
                    if let Some(earlier) = &socket {
                        self.count(earlier, &mut refused);
                    }
                    socket = match Socket::make(&runtime) {
                        Ok(made) => Some(made),
                        // The warden makes the directory, and may start later.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                        Err(error) => {
                            if !std::mem::replace(&mut complained, true) {
                                warn!(
                                    event = "refused-requests-not-counted",
                                    "requests beyond `entries` are not counted: {error}"
                                );
                            }
                            None
                        }
                    };
                }
            }
            let next = if refused.is_empty() { LOOK_TIME } else { REPORT_TIME };
            wait(socket.as_ref(), next);
            if let Some(socket) = &socket {
                self.count(socket, &mut refused);
            }
            if !refused.is_empty() && reported.is_none_or(|at| at.elapsed() >= REPORT_TIME) {
                reported = Some(Instant::now());
                self.recorder.refused_requests(std::mem::take(&mut refused));
            }
        }
    }

    /// Counts what waits in a socket.
    fn count(&self, socket: &Socket, refused: &mut Refused) {
        let datagrams = socket.take();
        if datagrams.is_empty() {
            return;
        }
        let loaded = self.policy.loaded();
        for request in datagrams.into_iter().flatten() {
            if is_declared(&loaded.policy, &request) {
                let count = refused.entry(request.tenant).or_default().entry(request.socket).or_default();
                *count = count.saturating_add(1);
            }
        }
    }
}

/// Waits until a datagram comes or the time is over.
fn wait(socket: Option<&Socket>, time: Duration) {
    let mut fds: Vec<PollFd<'_>> = socket.iter().map(|socket| PollFd::new(&socket.fd, PollFlags::IN)).collect();
    let time = Timespec::try_from(time).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    // Only a signal can make this call fail, and a signal ends the wait as well.
    rustix::event::poll(&mut fds, Some(&time)).ok();
}

/// Whether the policy has the socket. Nothing else is counted, so the counts are bounded.
fn is_declared(policy: &Policy, request: &RefusedRequest) -> bool {
    let tenant = policy.tenants.get(&request.tenant);
    let mut sockets =
        tenant.into_iter().flat_map(|tenant| &tenant.settings.services).flat_map(|service| &service.sockets);
    sockets.any(|socket| socket.name == request.socket)
}

/// The socket of datagrams, with the file that it was bound to.
#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    /// The device and the inode.
    file: (u64, u64),
}

impl Socket {
    /// Makes the socket. It is bound at another name and renamed, as listening sockets are, so that it replaces an earlier one in one
    /// step. Its group is that of the directory: the web server's.
    fn make(runtime: &Path) -> io::Result<Self> {
        let path = refused_socket(runtime);
        let bound = runtime.join(WEB_DIR).join(".refused.new");
        match rustix::fs::unlink(&bound) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&fd, &SocketAddrUnix::new(&bound)?)?;
        rustix::fs::chmod(&bound, Mode::from_raw_mode(0o660))?;
        rustix::fs::rename(&bound, &path)?;
        let stat = rustix::fs::lstat(&path)?;
        Ok(Self { fd, file: (stat.st_dev, stat.st_ino) })
    }

    /// Whether the web server reaches this socket.
    fn is_in_place(&self, runtime: &Path) -> bool {
        let (file, above) = (rustix::fs::lstat(refused_socket(runtime)), rustix::fs::lstat(runtime.join(WEB_DIR)));
        let (Ok(file), Ok(above)) = (file, above) else { return false };
        (file.st_dev, file.st_ino) == self.file && file.st_gid == above.st_gid && file.st_mode & 0o7777 == 0o660
    }

    /// Takes what waits, at most [`BATCH`] datagrams: `None` for one that says nothing.
    fn take(&self) -> Vec<Option<RefusedRequest>> {
        // One byte more than is valid, so that a longer datagram is not read as a valid one.
        let mut buffer = [0; refused_request::MAX_LEN + 1];
        let mut taken = Vec::new();
        while taken.len() < BATCH {
            match rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((len, _)) => taken.push(buffer.get(..len).and_then(RefusedRequest::read)),
                Err(_) => break,
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixDatagram;

    fn runtime() -> (tempfile::TempDir, std::path::PathBuf) {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let runtime = temp.path().join("run");
        std::fs::create_dir_all(runtime.join(WEB_DIR)).expect("makes");
        (temp, runtime)
    }

    #[test]
    fn what_waits_is_taken_in_bounded_batches_and_nonsense_says_nothing() {
        let (_temp, runtime) = runtime();
        let socket = Socket::make(&runtime).expect("makes");
        let path = refused_socket(&runtime);
        assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o660);
        let web = RefusedRequest::named("alice.web").expect("a name");
        let client = UnixDatagram::unbound().expect("a socket");
        client.connect(&path).expect("connects");
        client.set_nonblocking(true).expect("set");
        assert!(socket.take().is_empty());
        for datagram in [web.datagram().as_bytes(), &[0xff; 4000], b""] {
            client.send(datagram).expect("sends");
        }
        assert_eq!(socket.take(), [Some(web.clone()), None, None]);
        // A full queue loses datagrams, and holds up nobody.
        let mut sent = 0;
        let full = loop {
            match client.send(web.datagram().as_bytes()) {
                Ok(_) => sent += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let mut taken = 0;
        loop {
            let batch = socket.take();
            assert!(batch.len() <= BATCH && batch.iter().all(Option::is_some));
            taken += batch.len();
            if batch.is_empty() {
                break;
            }
        }
        assert_eq!(taken, sent);
    }

    #[test]
    fn a_socket_that_somebody_changed_is_noticed_and_replaced() {
        let (_temp, runtime) = runtime();
        let first = Socket::make(&runtime).expect("makes");
        assert!(first.is_in_place(&runtime));
        let path = refused_socket(&runtime);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        assert!(!first.is_in_place(&runtime));
        let second = Socket::make(&runtime).expect("makes");
        assert!(second.is_in_place(&runtime) && !first.is_in_place(&runtime));
        std::fs::remove_file(&path).expect("removes");
        assert!(!second.is_in_place(&runtime));
    }

    #[test]
    fn only_sockets_of_the_policy_count() {
        let files = [
            ("bailiwick.toml".into(), "web = { group = \"www-data\" }\n".to_owned()),
            ("plans.d/small.toml".into(), "doors = [\"exec\", \"socket\"]\n".to_owned()),
            (
                "tenants.d/alice.toml".into(),
                "plan = \"small\"\n[[service]]\nname = \"app\"\ncommand = [\"/bin/true\"]\n\
                 [[service.socket]]\nname = \"web\"\npass = \"fd\"\nentries = 2\n"
                    .to_owned(),
            ),
        ];
        let reading = bailiwick_policy::parse(&files);
        assert!(reading.diagnostics.is_empty(), "{}", bailiwick_diagnostics::render(&reading.diagnostics));
        let policy = reading.policy.expect("valid");
        for (name, golden) in [("alice.web", true), ("alice.app", false), ("bob.web", false)] {
            assert_eq!(is_declared(&policy, &RefusedRequest::named(name).expect("a name")), golden, "{name}");
        }
    }
}
