//! The listening sockets of tenants' services. This program makes and keeps them; the services inherit them, so they outlive each
//! process of a tenant and each of these programs.
//!
//! Danger: a listening socket keeps the network namespace that it was made in, and shows it to whoever has it. This program has an
//! empty one of its own (`PrivateNetwork=`, or `--standalone`). A tenant that has a listening socket can shut it down, and then
//! nobody can connect any more: such a socket is made anew, after growing pauses.

use crate::listener_set::{ListenerSet, Watched};
use crate::sync::{Wake, lock};
use bailiwick_policy::{Host, Policy};
use bailiwick_proto::{WEB_DIR, bound_web_socket, web_socket, web_socket_of};
use bailiwick_types::{Door, SocketName, TenantName};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::ops::Bound;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tracing::{info, warn};

/// The pause before a broken socket is made anew. It doubles each time up to `LAST_PAUSE`.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// A socket that was whole this long has the first pause again.
const WELL: Duration = Duration::from_secs(600);

/// How many files of sockets are looked at together.
const MENDED_AT_ONCE: usize = 1000;
/// The most sockets in the store: `FileDescriptorStoreMax=` in `bailiwickd.service`.
pub const MAX_STORED: u16 = 16384;
/// How many sockets are stored before a pause. A manager that gets thousands at once does nothing else meanwhile
/// (systemd#11112).
const STORED_AT_ONCE: usize = 64;
const STORE_PAUSE: Duration = Duration::from_millis(5);

/// How many descriptors are left for everything else: sessions, requests, files.
const OTHER_FILES: u64 = 4096;

/// What is wrong with so many sockets; `None` if nothing is. `files` is how many descriptors this process may have.
fn too_many(sockets: usize, files: Option<u64>) -> Option<String> {
    let sockets = sockets as u64;
    match files {
        Some(files) if files < sockets + OTHER_FILES => Some(format!(
            "{sockets} sockets of services leave less than {OTHER_FILES} of the {files} descriptors that bailiwickd may have: raise \
             LimitNOFILE= of bailiwickd.service"
        )),
        _ if sockets > u64::from(MAX_STORED) => Some(format!(
            "{sockets} sockets of services are more than the {MAX_STORED} that outlive bailiwickd: connections to the others are \
             refused when it ends"
        )),
        _ => None,
    }
}

/// Holds descriptors for the next process of this program, so that nobody is refused after a `kill -9`.
pub trait DescriptorStore: std::fmt::Debug + Send + Sync {
    /// Keeps a descriptor under a name that no other has.
    fn keep(&self, name: &str, fd: BorrowedFd<'_>);
    /// Forgets the descriptor of a name.
    fn forget(&self, name: &str);
}

/// What the store has: for each socket its number there and its cookie.
#[derive(Debug)]
struct Stored {
    store: Box<dyn DescriptorStore>,
    sockets: BTreeMap<Key, (u16, u64)>,
}

/// The name of a descriptor in the store. All names must fit into one variable, `LISTEN_FDNAMES`, which has at most 128 KiB.
fn stored_name(number: u16) -> String {
    format!("w{number}")
}

fn stored_number(name: &str) -> Option<u16> {
    let number = name.strip_prefix('w')?.parse().ok()?;
    (number < MAX_STORED && stored_name(number) == name).then_some(number)
}

/// Names a socket of a tenant.
pub(crate) type Key = (TenantName, SocketName);

/// The name of a socket that no other comes before.
fn least_name() -> SocketName {
    "_".parse().expect("a name")
}

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
    /// Tells when the tenant shuts the listener down.
    watched: Option<Watched>,
    backlog: u32,
    made: Instant,
    pause: Duration,
    /// When it is made anew, while it is broken.
    again: Option<Instant>,
    /// When its tenant last broke it.
    broken: Option<Instant>,
    problem: Option<String>,
}

/// The listening sockets of the host.
#[derive(Debug)]
pub(crate) struct WebSockets {
    held: Mutex<BTreeMap<Key, Held>>,
    broken: ListenerSet,
    stored: Mutex<Option<Stored>>,
    /// The last socket of which the last [`Self::mend`] looked at the file, unless there was none after it.
    mended: Mutex<Option<Key>>,
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
        Self {
            held: Mutex::default(),
            broken: ListenerSet::of_shutdowns(),
            stored: Mutex::default(),
            mended: Mutex::default(),
            changed,
        }
    }

    /// A descriptor that is readable when a tenant has shut a socket down, until the next [`Self::heal`].
    pub(crate) fn broken(&self) -> AsyncFd<OwnedFd> {
        self.broken.ready()
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
        let of_tenant = held.range((tenant.clone(), least_name())..).take_while(|((name, _), _)| name == tenant);
        of_tenant
            .filter_map(|((_, socket), held)| Some((socket.clone(), Arc::clone(&held.listener.as_ref()?.fd))))
            .collect()
    }

    /// Why a socket cannot be connected to, or that its tenant broke it a short time ago.
    pub(crate) fn problem(&self, tenant: &TenantName, socket: &SocketName) -> Option<String> {
        let held = lock(&self.held);
        let one = held.get(&(tenant.clone(), socket.clone()))?;
        let before = || "the tenant shut it down before".to_owned();
        one.problem.clone().or_else(|| one.broken.filter(|broken| broken.elapsed() < WELL).map(|_| before()))
    }

    /// What is wrong with the number of sockets; `None` if nothing is.
    pub(crate) fn too_many(&self) -> Option<String> {
        too_many(lock(&self.held).len(), bailiwick_sys::credential::open_files())
    }

    /// What is wrong with the file of a socket that is held; `None` if nothing is. It must be the socket that is held, owned by this
    /// program, with the group of the directory above, for both of them alone.
    pub(crate) fn wrong(&self, runtime: &Path, tenant: &TenantName, socket: &SocketName) -> Option<String> {
        let listener = self.get(tenant, socket)?;
        let key = (tenant.clone(), socket.clone());
        let path = web_socket(runtime, tenant, socket);
        let at = path.display();
        if !is_at(&listener.fd, runtime, &key) {
            return Some(format!("{at} is not the socket that bailiwickd holds"));
        }
        let own = rustix::process::geteuid().as_raw();
        let (file, above) = (rustix::fs::lstat(&path).ok()?, rustix::fs::lstat(runtime.join(WEB_DIR)).ok()?);
        let mode = file.st_mode & 0o7777;
        let is_right = file.st_uid == own && file.st_gid == above.st_gid && mode == 0o660;
        (!is_right).then(|| format!("{at} has owner {}, group {} and mode {mode:o}", file.st_uid, file.st_gid))
    }

    /// Puts files of sockets right that somebody has changed. One that was replaced or removed is made anew by the next
    /// [`Self::heal`]. On a host with very many sockets each call looks at some of them, and the next one at those after them.
    pub(crate) fn mend(&self, runtime: &Path) {
        let keys = {
            let (held, mut mended) = (lock(&self.held), lock(&self.mended));
            let from = mended.take().map_or(Bound::Unbounded, Bound::Excluded);
            let keys: Vec<Key> =
                held.range((from, Bound::Unbounded)).map(|(key, _)| key).take(MENDED_AT_ONCE).cloned().collect();
            *mended = keys.last().filter(|_| keys.len() == MENDED_AT_ONCE).cloned();
            keys
        };
        for key in keys {
            let Some(wrong) = self.wrong(runtime, &key.0, &key.1) else { continue };
            warn!(target: "bailiwick::event", tenant = %key.0, event = "socket-changed", socket = %key.1, "somebody has changed a socket of {}: {wrong}; it is put right", key.0);
            let mut held = lock(&self.held);
            let Some(one) = held.get_mut(&key) else { continue };
            let is_there = one.listener.as_ref().is_some_and(|listener| is_at(&listener.fd, runtime, &key));
            let mode = Mode::from_raw_mode(0o660);
            if !is_there || rustix::fs::chmod(web_socket(runtime, &key.0, &key.1), mode).is_err() {
                (one.listener, one.watched, one.again) = (None, None, None);
            }
        }
    }

    /// Takes the sockets that an earlier process of this program left in the store, each with its name there. What does not belong
    /// to the policy, or is no longer what is at its path, is closed, and the store forgets it.
    pub(crate) fn restore(&self, policy: &Policy, kept: Vec<(String, OwnedFd)>, store: Box<dyn DescriptorStore>) {
        let (wanted, runtime) = (declared(policy), &policy.host.runtime_dir);
        let mut found: BTreeMap<Key, Vec<(u16, OwnedFd)>> = BTreeMap::new();
        for (name, fd) in kept {
            let key = socket_of(&fd, runtime).filter(|key| wanted.contains_key(key));
            match (stored_number(&name), key) {
                (Some(number), Some(key)) => found.entry(key).or_default().push((number, fd)),
                _ => store.forget(&name),
            }
        }
        let (mut held, mut sockets) = (lock(&self.held), BTreeMap::new());
        for (key, mut all) in found {
            // Of two, it cannot be told which one is at the path.
            let is_one = all.len() == 1;
            for (number, fd) in all.drain(..) {
                let listener = (is_one && is_at(&fd, runtime, &key)).then(|| Listener::of(fd));
                match listener {
                    Some(Ok(listener)) => {
                        sockets.insert(key.clone(), (number, listener.cookie));
                        held.insert(key.clone(), Held::new(Ok(listener), wanted[&key], &self.broken));
                    }
                    _ => store.forget(&stored_name(number)),
                }
            }
        }
        *lock(&self.stored) = Some(Stored { store, sockets });
    }

    /// Has the store keep the sockets that are held, and no others. Only differences are sent.
    pub(crate) async fn store(&self) {
        let all: BTreeMap<Key, Listener> = self.all().into_iter().collect();
        let mut missing = {
            let mut stored = lock(&self.stored);
            let Some(Stored { store, sockets }) = stored.as_mut() else { return };
            sockets.retain(|key, (number, cookie)| {
                let stays = all.get(key).is_some_and(|listener| listener.cookie == *cookie);
                if !stays {
                    store.forget(&stored_name(*number));
                }
                stays
            });
            let used: BTreeSet<u16> = sockets.values().map(|(number, _)| *number).collect();
            let free = (0..MAX_STORED).filter(|number| !used.contains(number));
            let missing = all.into_iter().filter(|(key, _)| !sockets.contains_key(key));
            missing.zip(free).collect::<Vec<_>>()
        };
        while !missing.is_empty() {
            if let Some(Stored { store, sockets }) = lock(&self.stored).as_mut() {
                for ((key, listener), number) in missing.drain(..missing.len().min(STORED_AT_ONCE)) {
                    store.keep(&stored_name(number), listener.fd.as_fd());
                    sockets.insert(key, (number, listener.cookie));
                }
            }
            if !missing.is_empty() {
                tokio::time::sleep(STORE_PAUSE).await;
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
                    held.insert(key, Held::new(made, backlog, &self.broken));
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

    /// Drops the sockets that their tenants have shut down since the last call, and makes those anew whose pause is over. Returns
    /// the tenants whose sockets are new.
    pub(crate) fn heal(&self, runtime: &Path, now: Instant) -> Vec<TenantName> {
        let told = self.broken.told();
        let mut held = lock(&self.held);
        for ((tenant, socket), one) in held.iter_mut() {
            let is_told = |listener: &mut Listener| told.contains(&listener.cookie) && is_broken(&listener.fd);
            let Some(listener) = one.listener.take_if(is_told) else { continue };
            one.watched = None;
            drop(listener);
            if now.duration_since(one.made) >= WELL {
                one.pause = FIRST_PAUSE;
            }
            (one.again, one.broken) = (Some(now + one.pause), Some(now));
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
            let Held { pause, backlog, again, broken, .. } = *one;
            *one = Held { pause, again, broken, ..Held::new(made, backlog, &self.broken) };
        }
        drop(held);
        if !renewed.is_empty() {
            self.changed.wake();
        }
        renewed
    }

    /// When [`Self::heal`] can make the next socket anew; `None` while none is to be made.
    pub(crate) fn next_heal(&self) -> Option<Instant> {
        let held = lock(&self.held);
        held.values().filter(|held| held.listener.is_none()).map(|held| held.again.unwrap_or(held.made)).min()
    }

    fn all(&self) -> Vec<(Key, Listener)> {
        let held = lock(&self.held);
        held.iter().filter_map(|(key, held)| Some((key.clone(), held.listener.clone()?))).collect()
    }
}

impl Held {
    fn new(made: io::Result<Listener>, backlog: u32, all: &ListenerSet) -> Self {
        let now = Instant::now();
        let made = made.and_then(|listener| Ok((all.watch(&listener.fd, listener.cookie)?, listener)));
        let (listener, watched, problem, again) = match made {
            Ok((watched, listener)) => (Some(listener), Some(watched), None, None),
            Err(error) => (None, None, Some(format!("it cannot be made: {error}")), Some(now + FIRST_PAUSE)),
        };
        Self { listener, watched, backlog, made: now, pause: FIRST_PAUSE, again, broken: None, problem }
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

/// The socket that a descriptor is, by the path that it was bound to. `None` for any other descriptor.
fn socket_of(fd: &OwnedFd, runtime: &Path) -> Option<Key> {
    let address = SocketAddrUnix::try_from(rustix::net::getsockname(fd).ok()?).ok()?;
    web_socket_of(runtime, Path::new(OsStr::from_bytes(address.path_bytes()?)))
}

/// Whether a connection to a socket's path would reach this one, as far as that can be told.
fn is_at(fd: &OwnedFd, runtime: &Path, key: &Key) -> bool {
    let is_socket = |path: &Path| {
        rustix::fs::lstat(path)
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Socket)
    };
    // With a file at the other path, the process ended before this socket, or its successor, was renamed.
    is_socket(&web_socket(runtime, &key.0, &key.1))
        && !is_socket(&bound_web_socket(runtime, &key.0, &key.1))
        && !is_broken(fd)
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
    use bailiwick_policy::Tenant;
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
    fn a_file_that_somebody_changed_is_told_and_put_right() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let runtime = temp.path().canonicalize().expect("a path").join("run");
        std::fs::create_dir_all(runtime.join(WEB_DIR)).expect("makes");
        let sockets = WebSockets::new(Wake::default());
        sockets.follow(&policy(&runtime, &service("web")));
        let key: Key = (name("alice"), name("web"));
        let wrong = || sockets.wrong(&runtime, &key.0, &key.1);
        let cookie = || sockets.get(&key.0, &key.1).expect("held").cookie;
        let path = runtime.join("web/alice/web.sock");
        assert_eq!(wrong(), None);
        let first = cookie();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("chmod");
        assert!(wrong().expect("told").contains("mode 666"));
        sockets.mend(&runtime);
        assert_eq!((wrong(), cookie()), (None, first), "the same socket");
        std::fs::remove_file(&path).expect("removes");
        std::fs::write(&path, "").expect("writes");
        assert!(wrong().expect("told").contains("not the socket"));
        sockets.mend(&runtime);
        assert_eq!(sockets.heal(&runtime, Instant::now()), [name::<TenantName>("alice")]);
        assert_eq!(wrong(), None);
        UnixStream::connect(&path).expect("connects");
    }

    #[test]
    fn of_very_many_files_each_round_looks_at_the_next_ones() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let runtime = temp.path().canonicalize().expect("a path").join("run");
        std::fs::create_dir_all(runtime.join(WEB_DIR)).expect("makes");
        bailiwick_sys::credential::raise_open_files(0).expect("raises");
        let mut policy = policy(&runtime, &service("web"));
        let alice = policy.tenants[&name::<TenantName>("alice")].clone();
        let names = (0..MENDED_AT_ONCE).map(|number| name::<TenantName>(&format!("t{number}")));
        policy.tenants.extend(names.map(|name| (name.clone(), Tenant { name, ..alice.clone() })));
        let sockets = WebSockets::new(Wake::default());
        sockets.follow(&policy);
        let [first, last]: [Key; 2] = ["alice", "t999"].map(|tenant| (name(tenant), name("web")));
        for key in [&first, &last] {
            std::fs::set_permissions(web_socket(&runtime, &key.0, &key.1), std::fs::Permissions::from_mode(0o666))
                .expect("chmod");
        }
        let wrong = |key: &Key| sockets.wrong(&runtime, &key.0, &key.1).is_some();
        for golden in [[true, true], [false, true], [false, false]] {
            assert_eq!([wrong(&first), wrong(&last)], golden);
            sockets.mend(&runtime);
        }
        std::fs::set_permissions(web_socket(&runtime, &first.0, &first.1), std::fs::Permissions::from_mode(0o666))
            .expect("chmod");
        for _ in 0..2 {
            sockets.mend(&runtime);
        }
        assert!(!wrong(&first), "it begins again");
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
            assert_eq!(sockets.heal(&runtime, now), []);
            rustix::net::shutdown(&listener.fd, rustix::net::Shutdown::Read).expect("shuts it down");
            assert!(UnixStream::connect(&path).is_err());
            assert_eq!(sockets.heal(&runtime, now), []);
            assert!(sockets.problem(&name("alice"), &name("web")).is_some());
            now += Duration::from_secs(seconds);
            assert_eq!(sockets.heal(&runtime, now - Duration::from_millis(1)), [], "{seconds}");
            assert_eq!(sockets.heal(&runtime, now), [name::<TenantName>("alice")]);
            UnixStream::connect(&path).expect("connects");
            assert_ne!(sockets.get(&name("alice"), &name("web")).expect("held").cookie, listener.cookie);
        }
    }

    /// What a store was told.
    #[derive(Debug, Default, Clone)]
    struct Told(Arc<Mutex<BTreeMap<String, OwnedFd>>>);

    impl DescriptorStore for Told {
        fn keep(&self, name: &str, fd: BorrowedFd<'_>) {
            let fd = fd.try_clone_to_owned().expect("duplicates");
            assert!(lock(&self.0).insert(name.to_owned(), fd).is_none(), "{name} is stored twice");
        }
        fn forget(&self, name: &str) {
            lock(&self.0).remove(name);
        }
    }

    impl Told {
        fn kept(&self) -> Vec<(String, OwnedFd)> {
            lock(&self.0).iter().map(|(name, fd)| (name.clone(), fd.try_clone().expect("duplicates"))).collect()
        }

        /// The sockets of a process that gets these descriptors from the store.
        fn restored(&self, policy: &Policy, kept: Vec<(String, OwnedFd)>) -> WebSockets {
            let sockets = WebSockets::new(Wake::default());
            sockets.restore(policy, kept, Box::new(self.clone()));
            sockets
        }
    }

    #[test]
    fn a_socket_that_could_not_be_made_at_first_has_no_problem_later() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let runtime = temp.path().join("run");
        let sockets = WebSockets::new(Wake::default());
        sockets.follow(&policy(&runtime, &service("web")));
        let problem = || sockets.problem(&name("alice"), &name("web"));
        assert!(problem().is_some_and(|problem| problem.contains("cannot be made")));
        std::fs::create_dir_all(runtime.join(WEB_DIR)).expect("makes");
        let later = Instant::now() + FIRST_PAUSE;
        assert_eq!(sockets.heal(&runtime, later), [name::<TenantName>("alice")]);
        assert_eq!(problem(), None);
        let listener = sockets.get(&name("alice"), &name("web")).expect("held");
        rustix::net::shutdown(&listener.fd, rustix::net::Shutdown::Read).expect("shuts it down");
        sockets.heal(&runtime, later);
        sockets.heal(&runtime, later + FIRST_PAUSE);
        assert!(sockets.get(&name("alice"), &name("web")).is_some());
        assert!(problem().is_some_and(|problem| problem.contains("shut it down before")));
    }

    #[test]
    fn more_sockets_than_there_is_room_for_are_told() {
        assert_eq!(too_many(10_000, Some(65_536)), None);
        assert_eq!(too_many(10_000, None), None);
        assert!(too_many(10_000, Some(12_000)).is_some_and(|text| text.contains("LimitNOFILE=")));
        assert!(too_many(16_385, Some(65_536)).is_some_and(|text| text.contains("16384")));
    }

    #[test]
    fn names_in_the_store_fit_into_one_variable() {
        let all: usize = (0..MAX_STORED).map(|number| stored_name(number).len() + 1).sum();
        assert!(all < (128 << 10) - 100, "{all}");
        for number in [0, 7, MAX_STORED - 1] {
            assert_eq!(stored_number(&stored_name(number)), Some(number));
        }
        for name in ["", "w", "control", "w01", "w+1", "w16384", "w99999", "x1"] {
            assert_eq!(stored_number(name), None, "{name}");
        }
    }

    #[tokio::test]
    async fn only_what_is_at_its_path_is_taken_from_an_earlier_process() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let runtime = temp.path().canonicalize().expect("a path").join("run");
        std::fs::create_dir_all(runtime.join(WEB_DIR)).expect("makes");
        let both = service("web") + &service("api").replace("\"app\"", "\"other\"");
        let policy = policy(&runtime, &both);
        let store = Told::default();
        let first = store.restored(&policy, Vec::new());
        first.follow(&policy);
        first.store().await;
        first.store().await;
        assert_eq!(lock(&store.0).keys().collect::<Vec<_>>(), ["w0", "w1"]);
        let key: Key = (name("alice"), name("web"));
        let cookie = first.get(&key.0, &key.1).expect("held").cookie;
        drop(first);
        // The store alone holds them now.
        let path = runtime.join("web/alice/web.sock");
        UnixStream::connect(&path).expect("connects");
        let second = store.restored(&policy, store.kept());
        assert_eq!(second.get(&key.0, &key.1).expect("held").cookie, cookie);
        assert!(!second.follow(&policy));
        // What is none of them is forgotten: another kind of socket, one that does not listen, one that is there twice.
        let udp = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).expect("a socket");
        let unbound = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
        let twice = store.kept().swap_remove(1).1;
        for (name, fd) in [("w7", udp), ("w8", unbound), ("w9", twice)] {
            store.keep(name, fd.as_fd());
        }
        let third = store.restored(&policy, store.kept());
        assert_eq!(lock(&store.0).keys().collect::<Vec<_>>(), ["w0"]);
        assert!(third.get(&key.0, &key.1).is_none() && third.follow(&policy));
        third.store().await;
        UnixStream::connect(&path).expect("connects");
        // A process that ended between bind(2) and rename(2), and a socket that its tenant shut down.
        let bound = bound_web_socket(&runtime, &key.0, &key.1);
        std::fs::write(&bound, "").expect("makes");
        assert!(store.restored(&policy, store.kept()).get(&key.0, &key.1).is_some(), "this is no socket");
        std::fs::remove_file(&bound).expect("removes");
        let _other = std::os::unix::net::UnixListener::bind(&bound).expect("binds");
        assert!(store.restored(&policy, store.kept()).get(&key.0, &key.1).is_none());
        std::fs::remove_file(&bound).expect("removes");
        let listener = third.get(&key.0, &key.1).expect("held");
        rustix::net::shutdown(&listener.fd, rustix::net::Shutdown::Read).expect("shuts it down");
        let kept = vec![("w1".to_owned(), listener.fd.try_clone().expect("duplicates"))];
        assert!(store.restored(&policy, kept).get(&key.0, &key.1).is_none());
    }

    #[tokio::test]
    async fn the_store_has_what_is_held_and_nothing_else() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let runtime = temp.path().canonicalize().expect("a path").join("run");
        std::fs::create_dir_all(runtime.join(WEB_DIR)).expect("makes");
        let (web, other) = (policy(&runtime, &service("web")), policy(&runtime, &service("other")));
        let store = Told::default();
        let sockets = store.restored(&web, Vec::new());
        sockets.follow(&web);
        sockets.store().await;
        let cookie = || rustix::net::sockopt::socket_cookie(&lock(&store.0)["w0"]).expect("a cookie");
        let first = cookie();
        sockets.follow(&other);
        sockets.store().await;
        assert_ne!(cookie(), first);
        let listener = sockets.get(&name("alice"), &name("other")).expect("held");
        rustix::net::shutdown(&listener.fd, rustix::net::Shutdown::Read).expect("shuts it down");
        sockets.heal(&runtime, Instant::now());
        sockets.store().await;
        assert!(lock(&store.0).is_empty());
    }
}
