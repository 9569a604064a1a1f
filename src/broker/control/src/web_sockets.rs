//! The listening sockets of tenants' services. This program makes and keeps them; the services inherit them, so they outlive each
//! process of a tenant and each of these programs.
//!
//! Danger: a listening socket keeps the network namespace that it was made in, and shows it to whoever has it. This program has an
//! empty one of its own (`PrivateNetwork=`, or `--standalone`). A tenant that has a listening socket can shut it down, and then
//! nobody can connect any more: such a socket is made anew, after growing pauses.

use crate::sync::{Wake, lock};
use bailiwick_policy::{Host, Policy};
use bailiwick_proto::{WEB_DIR, bound_web_socket, web_socket};
use bailiwick_types::{Door, SocketName, TenantName};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// The pause before a broken socket is made anew. It doubles each time up to `LAST_PAUSE`.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// A socket that was whole this long has the first pause again.
const WELL: Duration = Duration::from_secs(600);

/// Names a socket of a tenant.
pub(crate) type Key = (TenantName, SocketName);

/// A listening socket.
#[derive(Debug, Clone)]
pub(crate) struct Listener {
    pub(crate) fd: Arc<OwnedFd>,
    /// `SO_COOKIE`, which no other socket since the boot has.
    pub(crate) cookie: u64,
}

#[derive(Debug)]
struct Held {
    listener: Option<Listener>,
    backlog: u32,
    made: Instant,
    pause: Duration,
    /// When it is made anew, while it is broken.
    again: Option<Instant>,
    problem: Option<String>,
}

/// The listening sockets of the host.
#[derive(Debug)]
pub(crate) struct WebSockets {
    held: Mutex<BTreeMap<Key, Held>>,
    changed: Wake,
}

/// The sockets that the policy declares, each with its backlog.
fn declared(policy: &Policy) -> BTreeMap<Key, u32> {
    let mut all = BTreeMap::new();
    if policy.host.web.group.is_none() {
        return all;
    }
    for tenant in policy.tenants.values().filter(|tenant| tenant.is_open(Door::Socket)) {
        for socket in tenant.settings.services.iter().flat_map(|service| &service.sockets) {
            all.insert((tenant.name.clone(), socket.name.clone()), socket.backlog);
        }
    }
    all
}

impl WebSockets {
    pub(crate) fn new(changed: Wake) -> Self {
        Self { held: Mutex::default(), changed }
    }

    /// Wakes whoever waits when a socket was made or removed.
    pub(crate) fn changed(&self) -> Wake {
        self.changed.clone()
    }

    /// The socket, if it can be connected to.
    pub(crate) fn get(&self, tenant: &TenantName, socket: &SocketName) -> Option<Listener> {
        lock(&self.held).get(&(tenant.clone(), socket.clone()))?.listener.clone()
    }

    /// The sockets of a tenant.
    pub(crate) fn of(&self, tenant: &TenantName) -> Vec<(SocketName, Arc<OwnedFd>)> {
        let held = lock(&self.held);
        let of_tenant = held.iter().filter(|((name, _), _)| name == tenant);
        of_tenant
            .filter_map(|((_, socket), held)| Some((socket.clone(), Arc::clone(&held.listener.as_ref()?.fd))))
            .collect()
    }

    /// Why a socket cannot be connected to.
    pub(crate) fn problem(&self, tenant: &TenantName, socket: &SocketName) -> Option<String> {
        lock(&self.held).get(&(tenant.clone(), socket.clone()))?.problem.clone()
    }

    /// Takes the sockets that an earlier process of this program kept. What does not belong to the policy, or is no longer what is
    /// at its path, is closed.
    pub(crate) fn restore(&self, policy: &Policy, kept: Vec<(Key, OwnedFd)>) {
        let wanted = declared(policy);
        let mut held = lock(&self.held);
        for (key, fd) in kept {
            if let Some(backlog) = wanted.get(&key).filter(|_| is_at(&fd, &policy.host.runtime_dir, &key))
                && let Ok(listener) = Listener::of(fd)
            {
                held.insert(key, Held::new(Ok(listener), *backlog));
            }
        }
    }

    /// Makes the sockets that the policy declares and that are not there, and removes all others. Returns whether anything changed.
    pub(crate) fn follow(&self, policy: &Policy) -> bool {
        let wanted = declared(policy);
        let runtime = &policy.host.runtime_dir;
        let mut held = lock(&self.held);
        let mut has_changed = false;
        held.retain(|key, _| {
            let stays = wanted.contains_key(key);
            if !stays {
                has_changed = true;
                remove(runtime, key);
            }
            stays
        });
        for (key, backlog) in wanted {
            match held.get_mut(&key) {
                Some(known) => {
                    if known.backlog != backlog
                        && let Some(listener) = &known.listener
                    {
                        // A second listen(2) changes only the length of the queue.
                        rustix::net::listen(&listener.fd, i32::try_from(backlog).unwrap_or(i32::MAX)).ok();
                        known.backlog = backlog;
                    }
                }
                None => {
                    has_changed = true;
                    let made = make(runtime, &key, backlog);
                    held.insert(key, Held::new(made, backlog));
                }
            }
        }
        drop(held);
        remove_directories(&policy.host, |tenant| policy.tenants.contains_key(tenant));
        if has_changed {
            self.changed.wake();
        }
        has_changed
    }

    /// Looks for sockets that their tenants have shut down, and makes those anew whose pause is over. Returns the tenants whose
    /// sockets are new. Only sockets of tenants that `may_break` are looked at, because each look is a system call.
    pub(crate) fn heal(
        &self,
        runtime: &Path,
        now: Instant,
        may_break: impl Fn(&TenantName) -> bool,
    ) -> Vec<TenantName> {
        let mut held = lock(&self.held);
        for ((tenant, socket), one) in held.iter_mut().filter(|((tenant, _), _)| may_break(tenant)) {
            let Some(listener) = one.listener.take_if(|listener| is_broken(&listener.fd)) else { continue };
            drop(listener);
            if now.duration_since(one.made) >= WELL {
                one.pause = FIRST_PAUSE;
            }
            one.again = Some(now + one.pause);
            let seconds = one.pause.as_secs();
            one.pause = (one.pause * 2).min(LAST_PAUSE);
            one.problem = Some(format!("the tenant shut the socket down; it is made anew in {seconds} s"));
            warn!(target: "bailiwick::event", tenant = %tenant, event = "listener-broken", socket = %socket, "{tenant} shut its socket {socket} down; it is made anew in {seconds} s");
        }
        let mut renewed = Vec::new();
        for (key, one) in held.iter_mut() {
            if one.listener.is_some() || one.again.is_some_and(|again| now < again) {
                continue;
            }
            let made = make(runtime, key, one.backlog);
            one.again = made.is_err().then(|| now + one.pause);
            if made.is_ok() {
                info!(target: "bailiwick::event", tenant = %key.0, event = "listener-made", socket = %key.1, "the socket {} of {} was made anew", key.1, key.0);
                renewed.push(key.0.clone());
            }
            let (pause, backlog) = (one.pause, one.backlog);
            let (again, problem) = (one.again, one.problem.take());
            *one = Held { pause, again, ..Held::new(made, backlog) };
            // Until it has been whole for a while, the operator should see it.
            one.problem = one.problem.take().or(problem.map(|_| "the tenant shut it down before".to_owned()));
        }
        drop(held);
        if !renewed.is_empty() {
            self.changed.wake();
        }
        renewed
    }

    /// All sockets that are held, for the keeper of descriptors.
    pub(crate) fn all(&self) -> Vec<(Key, Listener)> {
        let held = lock(&self.held);
        held.iter().filter_map(|(key, held)| Some((key.clone(), held.listener.clone()?))).collect()
    }
}

impl Held {
    fn new(made: io::Result<Listener>, backlog: u32) -> Self {
        let now = Instant::now();
        let (listener, problem, again) = match made {
            Ok(listener) => (Some(listener), None, None),
            Err(error) => (None, Some(format!("it cannot be made: {error}")), Some(now + FIRST_PAUSE)),
        };
        Self { listener, backlog, made: now, pause: FIRST_PAUSE, again, problem }
    }
}

impl Listener {
    fn of(fd: OwnedFd) -> io::Result<Self> {
        let is_listener = rustix::net::sockopt::socket_domain(&fd)? == AddressFamily::UNIX
            && rustix::net::sockopt::socket_type(&fd)? == SocketType::STREAM
            && rustix::net::sockopt::socket_acceptconn(&fd)?;
        if !is_listener {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let cookie = rustix::net::sockopt::socket_cookie(&fd)?;
        Ok(Self { fd: Arc::new(fd), cookie })
    }
}

/// Whether the tenant has shut a listening socket down. Nobody can connect to it any more, and listen(2) does not heal it.
fn is_broken(fd: impl AsFd) -> bool {
    let broken = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut fds = [PollFd::new(&fd, PollFlags::RDHUP)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0 && fds[0].revents().intersects(broken))
}

/// Whether a connection to a socket's path would reach this one: the kernel knows it by the path that it was bound to, and the path
/// names a socket.
fn is_at(fd: &OwnedFd, runtime: &Path, key: &Key) -> bool {
    let path = web_socket(runtime, &key.0, &key.1);
    let is_socket = rustix::fs::lstat(&path)
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Socket);
    let bound = rustix::net::getsockname(fd).ok().and_then(|address| SocketAddrUnix::try_from(address).ok());
    let wanted = bound_web_socket(runtime, &key.0, &key.1).into_os_string().into_encoded_bytes();
    let is_bound = bound.is_some_and(|address| address.path_bytes() == Some(wanted.as_slice()));
    is_socket && is_bound && !is_broken(fd)
}

/// Makes a listening socket. It is bound at another name and renamed, so that at each moment somebody can connect to the path. The
/// other name is in the directory above, because there the web server's group comes from the directory: this program may not give
/// it to a directory of its own.
fn make(runtime: &Path, key: &Key, backlog: u32) -> io::Result<Listener> {
    let (bound, path) = (bound_web_socket(runtime, &key.0, &key.1), web_socket(runtime, &key.0, &key.1));
    let directory = path.parent().expect("it is in the tenant's directory");
    match rustix::fs::mkdir(directory, Mode::from_raw_mode(0o750)) {
        // The umask may have taken bits away.
        Ok(()) => rustix::fs::chmod(directory, Mode::from_raw_mode(0o750))?,
        Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::unlink(&bound) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&fd, &SocketAddrUnix::new(&bound)?)?;
    rustix::net::listen(&fd, i32::try_from(backlog).unwrap_or(i32::MAX))?;
    rustix::fs::chmod(&bound, Mode::from_raw_mode(0o660))?;
    rustix::fs::rename(&bound, &path)?;
    Listener::of(fd)
}

fn remove(runtime: &Path, key: &Key) {
    let path = web_socket(runtime, &key.0, &key.1);
    for path in [&bound_web_socket(runtime, &key.0, &key.1), &path] {
        rustix::fs::unlink(path).ok();
    }
    if let Some(directory) = path.parent() {
        // It stays while it has other sockets.
        rustix::fs::rmdir(directory).ok();
    }
}

/// Removes the directories of tenants that the policy no longer has, which an earlier process left.
fn remove_directories(host: &Host, is_known: impl Fn(&TenantName) -> bool) {
    let web = host.runtime_dir.join(WEB_DIR);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(entries) = std::fs::read_dir(&web) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.parse::<TenantName>().ok()) else { continue };
        if is_known(&name) {
            continue;
        }
        let Ok(directory) = rustix::fs::open(web.join(&name), flags, Mode::empty()) else { continue };
        let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
        for socket in std::fs::read_dir(path).into_iter().flatten().flatten() {
            rustix::fs::unlinkat(&directory, socket.file_name(), AtFlags::empty()).ok();
        }
        rustix::fs::rmdir(web.join(&name)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;

    fn policy(runtime: &Path, services: &str) -> Policy {
        let state = runtime.with_file_name("state");
        let files = [
            (
                PathBuf::from("bailiwick.toml"),
                format!("state_dir = {state:?}\nruntime_dir = {runtime:?}\nweb = {{ group = \"www-data\" }}\n"),
            ),
            ("plans.d/small.toml".into(), "doors = [\"exec\", \"socket\"]\n".to_owned()),
            ("tenants.d/alice.toml".into(), format!("plan = \"small\"\n{services}")),
        ];
        let reading = bailiwick_policy::parse(&files);
        assert!(reading.diagnostics.is_empty(), "{}", bailiwick_diagnostics::render(&reading.diagnostics));
        reading.policy.expect("valid")
    }

    fn service(socket: &str) -> String {
        format!(
            "[[service]]\nname = \"app\"\ncommand = [\"/bin/true\"]\n[[service.socket]]\nname = \"{socket}\"\npass = \"fd\"\n"
        )
    }

    fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().expect("a name")
    }

    #[test]
    fn sockets_are_made_kept_and_removed_as_the_policy_says() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let runtime = temp.path().join("run");
        std::fs::create_dir_all(runtime.join(WEB_DIR).join("gone")).expect("makes");
        let sockets = WebSockets::new(Wake::default());
        assert!(sockets.follow(&policy(&runtime, &service("web"))));
        let path = runtime.join("web/alice/web.sock");
        UnixStream::connect(&path).expect("connects");
        assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o660);
        let first = sockets.get(&name("alice"), &name("web")).expect("held").cookie;
        assert!(!sockets.follow(&policy(&runtime, &service("web"))));
        assert_eq!(sockets.get(&name("alice"), &name("web")).expect("held").cookie, first);
        assert!(!runtime.join("web/gone").exists());
        assert!(sockets.follow(&policy(&runtime, &service("other"))));
        assert!(!path.exists() && runtime.join("web/alice/other.sock").exists());
        assert!(sockets.follow(&policy(&runtime, "")));
        assert!(!runtime.join("web/alice").exists());
    }

    #[test]
    fn a_socket_that_was_shut_down_is_made_anew_after_growing_pauses() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let runtime = temp.path().join("run");
        std::fs::create_dir_all(runtime.join(WEB_DIR)).expect("makes");
        let sockets = WebSockets::new(Wake::default());
        sockets.follow(&policy(&runtime, &service("web")));
        let path = runtime.join("web/alice/web.sock");
        let mut now = Instant::now();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let listener = sockets.get(&name("alice"), &name("web")).expect("held");
            assert_eq!(sockets.heal(&runtime, now, |_| true), []);
            rustix::net::shutdown(&listener.fd, rustix::net::Shutdown::Read).expect("shuts it down");
            assert!(UnixStream::connect(&path).is_err());
            assert_eq!(sockets.heal(&runtime, now, |_| true), []);
            assert!(sockets.problem(&name("alice"), &name("web")).is_some());
            now += Duration::from_secs(seconds);
            assert_eq!(sockets.heal(&runtime, now - Duration::from_millis(1), |_| true), [], "{seconds}");
            assert_eq!(sockets.heal(&runtime, now, |_| true), [name::<TenantName>("alice")]);
            UnixStream::connect(&path).expect("connects");
            assert_ne!(sockets.get(&name("alice"), &name("web")).expect("held").cookie, listener.cookie);
        }
    }

    #[test]
    fn only_what_is_at_its_path_is_taken_from_an_earlier_process() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let runtime = temp.path().canonicalize().expect("a path").join("run");
        std::fs::create_dir_all(runtime.join(WEB_DIR)).expect("makes");
        let policy = policy(&runtime, &service("web"));
        let first = WebSockets::new(Wake::default());
        first.follow(&policy);
        let key: Key = (name("alice"), name("web"));
        let kept = |listener: &Listener| listener.fd.as_fd().try_clone_to_owned().expect("duplicates");
        let listener = first.get(&key.0, &key.1).expect("held");
        let second = WebSockets::new(Wake::default());
        let other: Key = (name("alice"), name("other"));
        let udp = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).expect("a socket");
        second.restore(&policy, vec![(key.clone(), kept(&listener)), (other, kept(&listener)), (key.clone(), udp)]);
        assert_eq!(second.get(&key.0, &key.1).expect("held").cookie, listener.cookie);
        assert!(!second.follow(&policy));
        rustix::net::shutdown(&listener.fd, rustix::net::Shutdown::Read).expect("shuts it down");
        let third = WebSockets::new(Wake::default());
        third.restore(&policy, vec![(key.clone(), kept(&listener))]);
        assert!(third.get(&key.0, &key.1).is_none());
    }
}
