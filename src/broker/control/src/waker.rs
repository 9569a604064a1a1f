//! Wakes tenants for connections: waits on the listening sockets of those that are asleep or frozen, and answers for a
//! service that cannot come up.
//!
//! Danger: a tenant can break its service and its sockets at will, and anybody may send requests. A tenant that cannot be
//! woken is tried again after pauses that grow ([`crate::waking`]). Its connections are answered in rounds with a pause
//! after each. A socket that was shut down is left alone until it is made again.

use crate::init_client;
use crate::inits::Inits;
use crate::listener_set::{ListenerSet, Watched};
use crate::reconciler::Reconciler;
use crate::sync::{Wake, lock};
use crate::tenants::Tenants;
use crate::unavailable::{self, Speaks, Waits};
use crate::waking::{Cause, Waking};
use crate::web_sockets::WebSockets;
use bailiwick_plan::lifecycle;
use bailiwick_policy::{Pass, Tenant};
use bailiwick_types::{Door, FrozenBy, ServiceName, ServiceState, SocketName, TenantName};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

/// How many refused connections are answered at a time, of all tenants.
const ANSWERED_AT_ONCE: usize = 256;
/// How many connections of one socket are refused in a round, and the pause after a round.
const ROUND: usize = 64;
const ROUND_TIME: Duration = Duration::from_millis(50);
/// How long a service that runs may take to accept what waits before that is left to it.
const TAKE_TIME: Duration = Duration::from_secs(10);
/// How long it may take to accept the connections of a round.
const ACCEPT_TIME: Duration = Duration::from_secs(1);
/// The longest pause before a jail that ended with connections at its sockets is started again.
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// The pause after a look at all tenants, as a multiple of the time that it took.
const RENEW_PAUSE: u32 = 9;
/// The pause between two looks whether it has, and before init is asked.
const TAKE_PAUSE: Duration = Duration::from_millis(20);
const ASK_PAUSE: Duration = Duration::from_millis(200);

/// The listening sockets that are held for tenants.
pub(crate) trait Listeners: fmt::Debug + Send + Sync {
    /// Those of a tenant.
    fn of(&self, tenant: &TenantName) -> Vec<(SocketName, Arc<OwnedFd>)>;

    /// Wakes whoever waits when a listener was made or dropped.
    fn changed(&self) -> Wake;
}

impl Listeners for WebSockets {
    fn of(&self, tenant: &TenantName) -> Vec<(SocketName, Arc<OwnedFd>)> {
        Self::of(self, tenant)
    }

    fn changed(&self) -> Wake {
        Self::changed(self)
    }
}

/// A listening socket of a tenant that sleeps or is frozen.
#[derive(Debug, Clone)]
struct Listener {
    service: ServiceName,
    socket: SocketName,
    fd: Arc<OwnedFd>,
    speaks: Speaks,
}

/// The wait on the listeners of one tenant.
#[derive(Debug)]
struct Watch {
    listeners: Vec<Listener>,
    _watched: Vec<Watched>,
    /// What a connection has caused.
    work: Option<(Arc<Work>, JoinHandle<()>)>,
}

/// Where the task is that wakes a tenant and has its connections answered.
#[derive(Debug, Default)]
struct Work {
    /// The jail is being started, or runs.
    is_up: AtomicBool,
    is_done: AtomicBool,
}

impl Watch {
    /// Whether a task is at work, for which the jail may run.
    fn is_at_work(&self) -> bool {
        self.work.as_ref().is_some_and(|(work, _)| work.is_up.load(Ordering::Relaxed))
    }

    fn is_done(&self) -> bool {
        self.work.as_ref().is_some_and(|(work, task)| work.is_done.load(Ordering::Relaxed) || task.is_finished())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.work {
            task.abort();
        }
    }
}

/// The tenants that are waited for.
#[derive(Debug, Default)]
struct Watches {
    of: BTreeMap<TenantName, Watch>,
    /// Whom a number in the set means.
    numbers: BTreeMap<u64, TenantName>,
    next: u64,
}

/// Wakes the tenants of the host for connections.
#[derive(Debug)]
pub(crate) struct Waker {
    tenants: Arc<Tenants>,
    inits: Arc<Inits>,
    reconciler: Arc<Reconciler>,
    waking: Arc<Waking>,
    listeners: Arc<dyn Listeners>,
    places: Arc<Semaphore>,
    set: ListenerSet,
    watches: Mutex<Watches>,
    /// Wakes the loop when a task is done.
    done: Wake,
}

impl Waker {
    pub(crate) fn new(
        tenants: Arc<Tenants>,
        inits: Arc<Inits>,
        reconciler: Arc<Reconciler>,
        waking: Arc<Waking>,
        listeners: Arc<dyn Listeners>,
    ) -> Self {
        let places = Arc::new(Semaphore::new(ANSWERED_AT_ONCE));
        let (set, done) = (ListenerSet::of_connections(), Wake::default());
        Self { tenants, inits, reconciler, waking, listeners, places, set, watches: Mutex::default(), done }
    }

    /// Runs without end.
    ///
    /// # Panics
    /// When the process has no descriptor left, at its start.
    pub(crate) async fn run(self: Arc<Self>) {
        tokio::join!(self.follow(), self.listen());
    }

    /// Keeps the set as the tenants are.
    async fn follow(self: &Arc<Self>) {
        let changed = self.listeners.changed();
        loop {
            let begun = Instant::now();
            self.renew();
            // With 10,000 tenants this takes milliseconds, and nobody else is served meanwhile. Who connects to a tenant that has
            // just fallen asleep waits for the end of the pause.
            tokio::time::sleep(begun.elapsed() * RENEW_PAUSE).await;
            tokio::select! {
                () = changed.wait() => {}
                () = self.reconciler.changed.wait() => {}
                () = self.done.wait() => {}
            }
        }
    }

    /// Begins to work for whoever connects.
    async fn listen(self: &Arc<Self>) {
        let ready = self.set.ready();
        loop {
            match ready.readable().await {
                // What comes from now on makes it readable again.
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return,
            }
            for number in self.set.told() {
                self.begin(number);
            }
        }
    }

    /// Begins to wake a tenant, unless that goes on already.
    fn begin(self: &Arc<Self>, number: u64) {
        let mut watches = lock(&self.watches);
        let Watches { of, numbers, .. } = &mut *watches;
        let Some((tenant, watch)) = numbers.get(&number).and_then(|name| Some((name, of.get_mut(name)?))) else {
            return;
        };
        // A listener that was shut down is told too, and wakes nobody.
        if watch.work.is_some() || !watch.listeners.iter().any(|one| waits_at(one) == Waits::Somebody) {
            return;
        }
        // A jail that was just started must not look like one that somebody else started, who needs no watch.
        let work = Arc::new(Work { is_up: true.into(), is_done: false.into() });
        let (waker, noted, tenant, listeners) =
            (Arc::clone(self), Arc::clone(&work), tenant.clone(), watch.listeners.clone());
        let task = tokio::spawn(async move {
            waker.work(&tenant, listeners, &noted.is_up).await;
            noted.is_done.store(true, Ordering::Relaxed);
            waker.done.wake();
        });
        watch.work = Some((work, task));
    }

    /// Begins to wait on the listeners of tenants that are asleep or frozen now, and no longer waits on those of others.
    fn renew(self: &Arc<Self>) {
        let asleep = self.asleep();
        let mut watches = lock(&self.watches);
        let Watches { of, numbers, next } = &mut *watches;
        of.retain(|name, watch| {
            let is_meant =
                asleep.get(name).map_or_else(|| watch.is_at_work(), |listeners| is_same(listeners, &watch.listeners));
            is_meant && !watch.is_done()
        });
        numbers.retain(|_, name| of.contains_key(name));
        for (name, listeners) in asleep {
            if of.contains_key(&name) || listeners.is_empty() {
                continue;
            }
            *next += 1;
            match listeners.iter().map(|one| self.set.watch(&one.fd, *next)).collect::<io::Result<Vec<_>>>() {
                Ok(watched) => {
                    numbers.insert(*next, name.clone());
                    of.insert(name, Watch { listeners, _watched: watched, work: None });
                }
                Err(error) => {
                    warn!(target: "bailiwick::event", tenant = %name, event = "not-watched", "connections do not wake {name} now: {error}");
                }
            }
        }
    }

    /// The tenants that may sleep and whose jail is down, and those that are frozen because they are idle, with their
    /// listeners. One that an operator stopped is among them: nobody wakes it, and its connections are answered.
    fn asleep(&self) -> BTreeMap<TenantName, Vec<Listener>> {
        let loaded = self.tenants.policy.loaded();
        let known = self.tenants.warden.known();
        let is_asleep = |tenant: &&Tenant| match known.frozen(&tenant.name) {
            Some(by) => by == FrozenBy::Idle,
            None => known.is_down(&tenant.name) && lifecycle::sleep(tenant).is_ok(),
        };
        let asleep = loaded.policy.tenants.values().filter(is_asleep);
        asleep.map(|tenant| (tenant.name.clone(), self.listeners_of(tenant))).collect()
    }

    fn listeners_of(&self, tenant: &Tenant) -> Vec<Listener> {
        if tenant.settings.services.is_empty() {
            return Vec::new();
        }
        let held = self.listeners.of(&tenant.name);
        let mut all = Vec::new();
        for service in &tenant.settings.services {
            for declared in &service.sockets {
                let Some((socket, fd)) = held.iter().find(|(socket, _)| *socket == declared.name) else { continue };
                let speaks = match declared.pass {
                    Pass::Fpm(_) => Speaks::FastCgi,
                    Pass::Fd | Pass::Relay(_) => Speaks::Http,
                };
                let (socket, fd) = (socket.clone(), Arc::clone(fd));
                all.push(Listener { service: service.name.clone(), socket, fd, speaks });
            }
        }
        all
    }

    /// Wakes a tenant for its connections, and ends when its service has taken what waits, or all have been answered.
    async fn work(self: &Arc<Self>, tenant: &TenantName, listeners: Vec<Listener>, is_up: &AtomicBool) {
        let mut pause = ROUND_TIME;
        while listeners.iter().any(|one| waits_at(one) == Waits::Somebody) {
            is_up.store(true, Ordering::Relaxed);
            // The start goes on if this task ends meanwhile.
            let (waking, name) = (Arc::clone(&self.waking), tenant.clone());
            let woken = tokio::spawn(async move { waking.wake(&name, Cause::Door(Door::Socket)).await });
            let woken = woken.await;
            let refused = match &woken {
                Ok(Ok(_)) => match self.not_taken(tenant, &listeners).await {
                    Some(refused) => refused,
                    // It is woken again for those that still wait. A jail that ends each time must not keep this loop busy.
                    None => {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LAST_PAUSE);
                        continue;
                    }
                },
                Ok(Err(_)) => listeners.iter().collect(),
                Err(_) => return,
            };
            let runs = matches!(woken, Ok(Ok(_)));
            if refused.is_empty() {
                return;
            }
            for one in refused {
                self.refuse(tenant, one, runs).await;
            }
            // While the service fails in a jail that runs, this goes on, and answers whoever comes next.
            is_up.store(runs, Ordering::Relaxed);
            tokio::time::sleep(ROUND_TIME).await;
        }
    }

    /// The listeners of a jail that runs whose connections no service takes, because it failed or was stopped. Empty once
    /// a service has taken all, or has had enough time; `None` when the jail has ended meanwhile.
    async fn not_taken<'a>(&self, tenant: &TenantName, all: &'a [Listener]) -> Option<Vec<&'a Listener>> {
        let begun = Instant::now();
        let mut asked = begun;
        while begun.elapsed() < TAKE_TIME {
            let left: Vec<&Listener> = all.iter().filter(|one| waits_at(one) == Waits::Somebody).collect();
            if left.is_empty() {
                return Some(Vec::new());
            }
            if self.tenants.warden.known().is_down(tenant) {
                return None;
            }
            if asked.elapsed() >= ASK_PAUSE {
                let failed = self.failed(tenant).await;
                let hopeless: Vec<&Listener> = left.into_iter().filter(|one| failed.contains(&one.service)).collect();
                if !hopeless.is_empty() {
                    return Some(hopeless);
                }
                asked = Instant::now();
            }
            tokio::time::sleep(TAKE_PAUSE).await;
        }
        Some(Vec::new())
    }

    /// The services of a tenant that do not run and are not about to. Init says so, which is the tenant's word: it
    /// decides only what the tenant's own visitors are told.
    async fn failed(&self, tenant: &TenantName) -> Vec<ServiceName> {
        let Some((socket, ids)) = self.tenants.init_of_name(tenant).await else { return Vec::new() };
        let asked = self.inits.talk(tenant, init_client::services(&socket, ids)).await;
        let failed = |state| match state {
            ServiceState::BackOff | ServiceState::Stopped | ServiceState::Ended | ServiceState::Failed => true,
            ServiceState::Waiting | ServiceState::Starting | ServiceState::Running | ServiceState::Stopping => false,
        };
        let reports = asked.unwrap_or_default().into_iter();
        reports.filter(|report| failed(report.state)).map(|report| report.name.service).collect()
    }

    /// Answers what waits at a listener, at most one round.
    async fn refuse(self: &Arc<Self>, tenant: &TenantName, listener: &Listener, is_up: bool) {
        let Ok(first) = Arc::clone(&self.places).acquire_owned().await else { return };
        let mut places = vec![first];
        while places.len() < ROUND
            && let Ok(place) = Arc::clone(&self.places).try_acquire_owned()
        {
            places.push(place);
        }
        // Nobody starts the jail meanwhile, so no service accepts beside this.
        let turn = if is_up { None } else { Some(self.reconciler.turn(tenant).await) };
        if !is_up && !self.tenants.warden.known().is_down(tenant) {
            return;
        }
        let (fd, most) = (Arc::clone(&listener.fd), places.len());
        let accept = tokio::task::spawn_blocking(move || unavailable::accept(&*fd, most));
        // In a jail that runs, the service may come up at this very moment, and then the call blocks.
        let Ok(Ok(accepted)) = tokio::time::timeout(ACCEPT_TIME, accept).await else { return };
        drop(turn);
        let count = accepted.len();
        let retry = self.waking.pause(tenant).unwrap_or_default();
        for (connection, place) in accepted.into_iter().zip(places) {
            let speaks = listener.speaks;
            tokio::spawn(async move {
                unavailable::answer(connection, speaks, retry).await;
                drop(place);
            });
        }
        if count > 0 {
            let socket = &listener.socket;
            info!(target: "bailiwick::event", tenant = %tenant, event = "turned-away", socket = %socket, count, "{count} connections to {socket} of {tenant} were answered with 503");
        }
    }
}

fn is_same(one: &[Listener], other: &[Listener]) -> bool {
    let same = |(one, other): (&Listener, &Listener)| Arc::ptr_eq(&one.fd, &other.fd) && one.speaks == other.speaks;
    one.len() == other.len() && one.iter().zip(other).all(same)
}

fn waits_at(one: &Listener) -> Waits {
    unavailable::waits(one.fd.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Answer};
    use crate::services::Services;
    use bailiwick_policy::{Run, Service, ServiceSocket};
    use bailiwick_proto::warden::RosterEntry;
    use bailiwick_proto::{Failure, WardenReply, WardenRequest};
    use bailiwick_types::ExitStatus;
    use rustix::net::Shutdown;
    use std::path::{Path, PathBuf};
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    /// The listener of alice's socket `web`.
    #[derive(Debug)]
    struct Web(Arc<OwnedFd>, Wake);

    impl Listeners for Web {
        fn of(&self, _tenant: &TenantName) -> Vec<(SocketName, Arc<OwnedFd>)> {
            vec![("web".parse().expect("a name"), Arc::clone(&self.0))]
        }

        fn changed(&self) -> Wake {
            self.1.clone()
        }
    }

    fn alice() -> TenantName {
        "alice".parse().expect("a name")
    }

    /// A host where alice is asleep and has a socket, and the number of her starts. `start` is the reply to a start.
    fn asleep(start: WardenReply) -> (TempDir, Arc<Services>, Arc<Mutex<usize>>) {
        let (temp, services) = fake::host();
        fake::sleepers(&services, &[]);
        let socket = ServiceSocket { name: "web".parse().expect("a name"), pass: Pass::Fd, backlog: 1, entries: None };
        let run = Run::Files("/srv".to_owned());
        let service = Service { sockets: vec![socket], ..Service::new("www".parse().expect("a name"), run) };
        if let Some(alice) = services.tenants.policy.loaded().policy.tenants.get_mut(&alice()) {
            alice.settings.services = vec![service];
        }
        let (down, up) = (fake::down(&services), fake::up(&services));
        services.tenants.warden.known().learn(&alice(), &down);
        let starts = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&starts);
        fake::warden(&services, move |request| match request {
            WardenRequest::Entry { .. } => {
                let runs = *lock(&counted) > 0 && start == WardenReply::Done;
                let entry: &RosterEntry = if runs { &up } else { &down };
                Answer::Reply(WardenReply::Entry(Some(Box::new(entry.clone()))))
            }
            WardenRequest::Start { .. } => {
                *lock(&counted) += 1;
                Answer::Reply(start.clone())
            }
            _ => Answer::Never,
        });
        (temp, services, starts)
    }

    fn listen(dir: &Path) -> (PathBuf, Arc<OwnedFd>) {
        let path = dir.join("web.sock");
        let listener = OwnedFd::from(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
        rustix::net::listen(&listener, 2048).expect("listens");
        (path, Arc::new(listener))
    }

    fn waker(services: &Services, fd: &Arc<OwnedFd>) -> (Arc<Waker>, Wake) {
        let changed = Wake::default();
        let listeners = Arc::new(Web(Arc::clone(fd), changed.clone()));
        let (tenants, reconciler) = (Arc::clone(&services.tenants), Arc::clone(&services.reconciler));
        let inits = Arc::new(Inits::new(Arc::clone(&tenants)));
        let waker = Arc::new(Waker::new(tenants, inits, reconciler, Arc::clone(&services.waking), listeners));
        tokio::spawn(Arc::clone(&waker).run());
        (waker, changed)
    }

    async fn until(what: impl Fn() -> bool) {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_thousand_connections_to_a_tenant_that_cannot_start_are_answered_and_it_is_hardly_tried() {
        bailiwick_sys::credential::raise_open_files(0).expect("raises");
        let failed = WardenReply::Failed(Failure::of(ExitStatus::HostCannot, "no disk"));
        let (temp, services, starts) = asleep(failed);
        let (path, fd) = listen(temp.path());
        let _waker = waker(&services, &fd);
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let path = path.clone();
            all.spawn(async move {
                let mut stream = UnixStream::connect(path).await.expect("connects");
                stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("writes");
                let mut told = String::new();
                stream.read_to_string(&mut told).await.expect("an answer");
                told
            });
        }
        for told in all.join_all().await {
            assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("\r\nRetry-After: "), "{told:?}");
        }
        let tried = *lock(&starts);
        assert!((1..10).contains(&tried), "{tried}");
        assert_eq!(unavailable::waits(&*fd), Waits::Nobody);
    }

    #[tokio::test]
    async fn a_connection_wakes_it_and_is_left_to_the_service_and_a_broken_listener_wakes_nobody() {
        let (temp, services, starts) = asleep(WardenReply::Done);
        let (path, fd) = listen(temp.path());
        let (waker, changed) = waker(&services, &fd);
        let is_watched = || lock(&waker.watches).of.get(&alice()).is_some_and(|watch| !watch.is_done());
        until(is_watched).await;
        let connection = UnixStream::connect(&path).await.expect("connects");
        until(|| *lock(&starts) == 1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(is_watched(), "nobody has taken it yet");
        assert_eq!(unavailable::accept(&*fd, 9).len(), 1, "the service does this");
        until(|| !is_watched()).await;
        drop(connection);
        // It falls asleep again, after it has shut down its listener.
        rustix::net::shutdown(&*fd, Shutdown::Read).expect("shuts");
        services.tenants.warden.known().learn(&alice(), &fake::down(&services));
        changed.wake();
        until(is_watched).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(is_watched(), "it waits for another listener");
        assert_eq!(*lock(&starts), 1);
        // Tenants that run are not watched.
        services.tenants.warden.known().learn(&alice(), &fake::up(&services));
        changed.wake();
        until(|| !is_watched()).await;
    }
}
