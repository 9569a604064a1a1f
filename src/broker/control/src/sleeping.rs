//! Freezes tenants that may sleep and have nothing to do, and puts them to sleep when that lasts.
//!
//! Danger: whoever is there must not lose the jail, nor wait for a frozen one. What cannot be read counts as somebody
//! there, and the last look is made while nobody can enter.

use crate::connections::{Connections, Counter};
use crate::permission::OperatorPermission;
use crate::reconcile::actual;
use crate::reconciler::Reconciler;
use crate::sessions::Sessions;
use crate::sync::{Turn, at_once, lock};
use crate::tenants::Tenants;
use crate::waking::{FallsAsleep, Waking, never_sleeps};
use bailiwick_plan::lifecycle::{self, JailState};
use bailiwick_policy::{Sleep, Tenant};
use bailiwick_proto::control::{Done, TenantOutcome};
use bailiwick_proto::{Failure, Refusal};
use bailiwick_types::{ExitStatus, FrozenBy, Period, SocketName, TenantName};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// The time between two looks.
const LOOK_TIME: Duration = Duration::from_secs(30);
/// A tenant that used this much processor time since the last look has worked, in microseconds.
const WORK: u64 = 50_000;
/// The most tenants that are frozen or put to sleep after one look. The others follow after the next one.
const AT_A_LOOK: usize = 100;

/// A tenant that may sleep and runs, or is frozen because it is idle.
#[derive(Debug)]
struct Awake {
    name: TenantName,
    sleep: Sleep,
    is_frozen: bool,
    has_sockets: bool,
    cgroups: BTreeMap<String, String>,
}

/// What the last looks at a tenant found.
#[derive(Debug, Clone, Copy)]
struct Idle {
    /// Since when nothing was found.
    since: Instant,
    /// The processor time at the last look, in microseconds; `None` if it was not read.
    processor: Option<u64>,
    is_frozen: bool,
}

/// What becomes of a tenant after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Freeze,
    /// It has connections, or its policy no longer freezes it.
    Thaw,
    Sleep,
}

/// Puts the tenants of the host to sleep.
#[derive(Debug)]
pub(crate) struct Sleeping {
    tenants: Arc<Tenants>,
    sessions: Arc<Sessions>,
    reconciler: Arc<Reconciler>,
    waking: Arc<Waking>,
    counter: Arc<Counter>,
    idle: Mutex<BTreeMap<TenantName, Idle>>,
}

impl Sleeping {
    pub(crate) fn new(
        tenants: Arc<Tenants>,
        sessions: Arc<Sessions>,
        reconciler: Arc<Reconciler>,
        waking: Arc<Waking>,
        counter: Arc<Counter>,
    ) -> Self {
        Self { tenants, sessions, reconciler, waking, counter, idle: Mutex::default() }
    }

    /// Looks without end.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let pause = self.look().await;
            tokio::time::sleep(pause).await;
        }
    }

    /// Looks which tenants have nothing to do, and freezes those, or ends their jails, that had nothing to do for long
    /// enough. Only tenants that run cost anything here. Returns the time until the next look.
    async fn look(&self) -> Duration {
        let mut quiet = self.awake();
        let soonest = quiet.iter().filter_map(|awake| awake.sleep.freeze_after).min();
        quiet.retain(|awake| self.sessions.inside(&awake.name) == 0);
        let connections = match quiet.iter().any(|awake| awake.has_sockets) {
            true => self.counter.of(quiet.iter().map(|awake| &awake.name)).await.ok(),
            false => None,
        };
        let used = self.processor_times(&quiet).await;
        let mut due = due(&mut lock(&self.idle), quiet, connections.as_ref(), &used, Instant::now());
        due.truncate(AT_A_LOOK);
        at_once(due.iter().map(|(name, due)| self.act(name, *due)).collect()).await;
        soonest.map_or(LOOK_TIME, |soonest| LOOK_TIME.min(Duration::from_secs(soonest.0)))
    }

    async fn act(&self, name: &TenantName, due: Due) {
        let (done, event) = match due {
            Due::Freeze => (self.freeze(name).await, "not-frozen"),
            Due::Thaw => (self.thaw(name).await, "not-thawed"),
            Due::Sleep => (self.put_to_sleep(name, "idle").await, "not-asleep"),
        };
        match done {
            Ok(_) => {}
            // Somebody came since.
            Err(failure) if failure.status == ExitStatus::Refused => {}
            Err(failure) => warn!(target: "bailiwick::event", tenant = %name, event, "{failure}"),
        }
    }

    /// The tenants that may sleep and run, or are frozen because they are idle.
    fn awake(&self) -> Vec<Awake> {
        let loaded = self.tenants.policy.loaded();
        let known = self.tenants.warden.known();
        let of = |(name, known): (&TenantName, &crate::directory::Known)| {
            let tenant = loaded.policy.tenants.get(name)?;
            let sleep = lifecycle::sleep(tenant).ok()?;
            let (is_frozen, has_sockets) = (known.frozen.is_some(), has_sockets(tenant));
            Some(Awake { name: name.clone(), sleep, is_frozen, has_sockets, cgroups: known.cgroups.clone() })
        };
        known.running().filter_map(of).collect()
    }

    /// The processor time of each of these tenants, where it can be read.
    async fn processor_times(&self, all: &[Awake]) -> BTreeMap<TenantName, u64> {
        if all.is_empty() || self.tenants.warden.meter().await.is_none() {
            return BTreeMap::new();
        }
        let groups: Vec<_> = all.iter().map(|awake| (awake.name.clone(), awake.cgroups.clone())).collect();
        let tenants = Arc::clone(&self.tenants);
        // There may be thousands of files, and this thread serves all clients.
        let read = move || {
            let Some(meter) = tenants.warden.known_meter() else { return BTreeMap::new() };
            let time = |(name, groups): (TenantName, _)| Some((name, meter.processor_time(&groups)?));
            groups.into_iter().filter_map(time).collect()
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// Ends the jail of a tenant until something wakes it, unless somebody is there. `cause` says why, in the log.
    async fn put_to_sleep(&self, name: &TenantName, cause: &str) -> Result<Done, Failure> {
        let turn = self.reconciler.turn(name).await;
        let tenant = self.tenants.policy.declared(name)?;
        lifecycle::sleep(&tenant).map_err(|why| never_sleeps(name, &why))?;
        let actual = actual(self.tenants.warden.entry(name).await?.as_ref());
        match actual.jail {
            JailState::Down | JailState::Preparing | JailState::Clearing => return Ok(Done::Unchanged),
            JailState::Frozen(_, FrozenBy::Operator) => return Err(Refusal::Frozen { tenant: name.clone() }.into()),
            // The warden thaws it, so that its services get their stop signals.
            JailState::Frozen(_, FrozenBy::Idle) | JailState::Running(_) | JailState::Silent(_) => {}
        }
        let _falls = self.begin(&turn, &tenant).await?;
        let done = self.reconciler.put_to_sleep(&turn, name, cause).await;
        lock(&self.idle).remove(name);
        done
    }

    /// Freezes an idle tenant, unless somebody is there.
    async fn freeze(&self, name: &TenantName) -> Result<Done, Failure> {
        let turn = self.reconciler.turn(name).await;
        let tenant = self.tenants.policy.declared(name)?;
        lifecycle::sleep(&tenant).map_err(|why| never_sleeps(name, &why))?;
        match actual(self.tenants.warden.entry(name).await?.as_ref()).jail {
            JailState::Running(_) => {}
            _ => return Ok(Done::Unchanged),
        }
        let _falls = self.begin(&turn, &tenant).await?;
        let done = self.reconciler.freeze_idle(&turn, name).await;
        // Somebody may just have come.
        let is_connected = has_sockets(&tenant)
            && self.counter.of([name]).await.map_or(true, |all| most_connected(&all, name).is_some());
        match done {
            Ok(Done::Frozen | Done::Unchanged) if is_connected => {
                self.reconciler.thaw_idle(&turn, name, "socket").await
            }
            Ok(done) => Ok(done),
            // Part of it may be frozen.
            Err(failure) => {
                self.reconciler.thaw_idle(&turn, name, "failure").await.ok();
                Err(failure)
            }
        }
    }

    async fn thaw(&self, name: &TenantName) -> Result<Done, Failure> {
        let turn = self.reconciler.turn(name).await;
        self.reconciler.thaw_idle(&turn, name, "socket").await
    }

    /// Begins to end or to freeze the jail of a tenant, unless somebody is there. Whoever comes waits until the returned
    /// value is dropped.
    async fn begin(&self, turn: &Turn, tenant: &Tenant) -> Result<FallsAsleep, Failure> {
        let name = &tenant.name;
        let refused = |why: String| Failure::of(ExitStatus::Refused, format!("\"{name}\" stays awake: {why}"));
        let falls = self
            .waking
            .begin_sleep(turn, name)
            .ok_or_else(|| refused("a timer or a session of it is about to begin".to_owned()))?;
        // Whoever comes from here on waits until this is over.
        let inside = self.sessions.inside(name);
        if inside > 0 {
            let sessions = if inside == 1 { "session is" } else { "sessions are" };
            return Err(refused(format!("{inside} {sessions} in it; `bailiwick sessions {name}` lists them")));
        }
        if has_sockets(tenant) {
            let connections =
                self.counter.of([name]).await.map_err(|failure| {
                    refused(format!("the connections to its sockets cannot be counted: {failure}"))
                })?;
            if let Some((socket, count)) = most_connected(&connections, name) {
                let connections = if count == 1 { "connection" } else { "connections" };
                return Err(refused(format!("its socket \"{socket}\" has {count} {connections}")));
            }
        }
        Ok(falls)
    }

    /// Puts tenants to sleep for an operator, although they may have worked just before.
    pub(crate) async fn sleep_all(&self, permission: OperatorPermission, names: &[TenantName]) -> Vec<TenantOutcome> {
        info!(target: "bailiwick::event", event = "lifecycle", verb = "Sleep", uid = permission.uid, "user {} puts {} tenants to sleep", permission.uid, names.len());
        self.tenants.policy.reload().ok();
        let one = |name: &TenantName| {
            let name = name.clone();
            async move {
                match self.put_to_sleep(&name, "operator").await {
                    Ok(done) => TenantOutcome { tenant: name, done, failure: None },
                    Err(failure) => TenantOutcome { tenant: name, done: Done::Failed, failure: Some(failure) },
                }
            }
        };
        at_once(names.iter().map(one).collect()).await
    }
}

/// Notes what a look at tenants without sessions found. Returns what becomes of them. Tenants that are not named are
/// forgotten: they are down or have sessions.
fn due(
    idle: &mut BTreeMap<TenantName, Idle>,
    quiet: Vec<Awake>,
    connections: Option<&Connections>,
    used: &BTreeMap<TenantName, u64>,
    now: Instant,
) -> Vec<(TenantName, Due)> {
    let before = std::mem::take(idle);
    let mut all = Vec::new();
    for Awake { name, sleep, is_frozen, has_sockets, .. } in quiet {
        let processor = used.get(&name).copied();
        let connection = connections.map(|all| most_connected(all, &name).is_some());
        let is_connected = has_sockets && connection.unwrap_or(true);
        let nothing = before.get(&name).filter(|last| match (last.processor, processor) {
            // Somebody needed it.
            _ if last.is_frozen && !is_frozen => false,
            // A lower number is that of another jail.
            (Some(last), Some(now)) => !is_connected && (last..last + WORK).contains(&now),
            (None, _) | (_, None) => false,
        });
        let since = nothing.map_or(now, |last| last.since);
        let has_been_for = |time: Period| nothing.is_some() && now.duration_since(since) >= Duration::from_secs(time.0);
        let due = match sleep.freeze_after {
            _ if has_been_for(sleep.after) => Some(Due::Sleep),
            None if is_frozen => Some(Due::Thaw),
            Some(_) if is_frozen => connection.filter(|is_connected| *is_connected).map(|_| Due::Thaw),
            Some(freeze_after) => has_been_for(freeze_after).then_some(Due::Freeze),
            None => None,
        };
        all.extend(due.map(|due| (name.clone(), due)));
        idle.insert(name, Idle { since, processor, is_frozen });
    }
    all
}

/// A socket of a tenant with connections, and their number; `None` if it has none.
fn most_connected<'a>(all: &'a Connections, tenant: &TenantName) -> Option<(&'a SocketName, u64)> {
    let own = all.get(tenant)?.iter().map(|(socket, count)| (socket, *count));
    own.filter(|(_, count)| *count > 0).max_by_key(|(_, count)| *count)
}

fn has_sockets(tenant: &Tenant) -> bool {
    tenant.settings.services.iter().any(|service| !service.sockets.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Answer};
    use bailiwick_proto::warden::RosterEntry;
    use bailiwick_proto::{WardenReply, WardenRequest};
    use std::sync::atomic::{AtomicBool, Ordering};

    fn name(text: &str) -> TenantName {
        text.parse().expect("a name")
    }

    fn connected(tenant: &TenantName, count: u64) -> Connections {
        [(tenant.clone(), [("web".parse().expect("a name"), count)].into())].into()
    }

    #[test]
    fn only_who_had_nothing_to_do_for_long_enough_is_due() {
        let alice = name("alice");
        let start = Instant::now();
        let mut idle = BTreeMap::new();
        let mut look = |seconds: u64, has_sockets: bool, connections: Option<u64>, used: Option<u64>| {
            let (sleep, cgroups) = (Sleep { after: Period(60), freeze_after: None }, BTreeMap::new());
            let awake = Awake { name: alice.clone(), sleep, is_frozen: false, has_sockets, cgroups };
            let connections = connections.map(|count| connected(&alice, count));
            let used = used.map(|used| (alice.clone(), used)).into_iter().collect();
            let now = start + Duration::from_secs(seconds);
            let due = due(&mut idle, vec![awake], connections.as_ref(), &used, now);
            assert!(due.iter().all(|(_, due)| *due == Due::Sleep));
            !due.is_empty()
        };
        // Each look: the time, whether there are sockets, how many connections if they were counted, the processor time.
        assert!(!look(0, true, Some(0), Some(0)), "the first look tells nothing");
        assert!(!look(59, true, Some(0), Some(0)));
        assert!(look(61, true, Some(0), Some(WORK - 1)));
        assert!(!look(90, true, Some(1), Some(WORK - 1)), "connected");
        assert!(!look(149, true, Some(0), Some(WORK - 1)));
        assert!(look(150, true, Some(0), Some(WORK - 1)));
        assert!(!look(151, true, Some(0), Some(2 * WORK)), "worked");
        assert!(!look(211, true, None, Some(2 * WORK)), "nobody knows whether it is connected");
        assert!(!look(271, false, None, None), "nor whether it worked");
        assert!(!look(272, false, None, Some(5)));
        assert!(look(332, false, None, Some(6)));
        assert!(!look(333, false, None, Some(0)), "this is another jail");
        assert!(due(&mut idle, Vec::new(), None, &BTreeMap::new(), start).is_empty() && idle.is_empty());
    }

    #[test]
    fn it_is_frozen_before_it_sleeps_and_thawed_for_a_connection_that_was_not_seen() {
        let alice = name("alice");
        let start = Instant::now();
        let mut idle = BTreeMap::new();
        let mut look = |seconds: u64, freeze_after: Option<u64>, is_frozen: bool, connections: Option<u64>| {
            let sleep = Sleep { after: Period(60), freeze_after: freeze_after.map(Period) };
            let awake = Awake { name: alice.clone(), sleep, is_frozen, has_sockets: true, cgroups: BTreeMap::new() };
            let connections = connections.map(|count| connected(&alice, count));
            let (used, now) = ([(alice.clone(), 0)].into(), start + Duration::from_secs(seconds));
            due(&mut idle, vec![awake], connections.as_ref(), &used, now).first().map(|(_, due)| *due)
        };
        assert_eq!(look(0, Some(10), false, Some(0)), None);
        assert_eq!(look(9, Some(10), false, Some(0)), None);
        assert_eq!(look(10, Some(10), false, Some(0)), Some(Due::Freeze));
        assert_eq!(look(20, Some(10), true, Some(0)), None, "it is frozen");
        assert_eq!(look(30, Some(10), true, None), None, "nobody knows whether it is connected");
        assert_eq!(look(40, Some(10), true, Some(1)), Some(Due::Thaw));
        assert_eq!(look(50, Some(10), true, Some(0)), None);
        assert_eq!(look(60, None, true, Some(0)), Some(Due::Thaw), "it is not frozen any more");
        assert_eq!(look(100, Some(10), true, Some(0)), Some(Due::Sleep));
        assert_eq!(look(101, Some(10), false, Some(0)), None, "somebody needed it");
        assert_eq!(look(110, Some(10), false, Some(0)), None);
        assert_eq!(look(111, Some(10), false, Some(0)), Some(Due::Freeze));
    }

    /// A warden that freezes, thaws and stops alice, and what it was asked to do. `count` tells the number of connections
    /// when it has been asked for it this many times.
    fn freezer(services: &crate::services::Services, count: impl Fn(u32) -> u64 + Send + Sync + 'static) -> Asked {
        let asked = Asked::default();
        let (up, state, alice) = (fake::up(services), asked.clone(), name("alice"));
        fake::warden(services, move |request| {
            let mut state = lock(&state);
            let reply = match &request {
                WardenRequest::Entry { .. } => {
                    let entry = RosterEntry {
                        frozen: state.frozen.is_some(),
                        frozen_by: state.frozen.unwrap_or_default(),
                        ..up.clone()
                    };
                    return Answer::Reply(WardenReply::Entry(Some(Box::new(entry))));
                }
                WardenRequest::Connections => {
                    state.looks += 1;
                    return Answer::Reply(WardenReply::Connections(connected(&alice, count(state.looks))));
                }
                WardenRequest::Freeze { by, .. } => {
                    state.frozen = Some(*by);
                    WardenReply::Done
                }
                WardenRequest::Thaw { .. } if state.frozen.is_none() => WardenReply::Unchanged,
                WardenRequest::Thaw { .. } => {
                    state.frozen = None;
                    WardenReply::Done
                }
                WardenRequest::Stop { .. } => WardenReply::Done,
                request => panic!("{request:?}"),
            };
            state.changes.push(request);
            Answer::Reply(reply)
        });
        asked
    }

    #[derive(Debug, Default)]
    struct State {
        frozen: Option<FrozenBy>,
        looks: u32,
        changes: Vec<WardenRequest>,
    }

    type Asked = Arc<Mutex<State>>;

    /// Gives alice a service with a socket.
    fn with_socket(services: &crate::services::Services) {
        use bailiwick_policy::{Pass, Run, Service, ServiceSocket};
        let socket = ServiceSocket { name: "web".parse().expect("a name"), pass: Pass::Fd, backlog: 1, entries: None };
        let run = Run::Files("/srv".to_owned());
        let service = Service { sockets: vec![socket], ..Service::new("www".parse().expect("a name"), run) };
        if let Some(alice) = services.tenants.policy.loaded().policy.tenants.get_mut(&name("alice")) {
            alice.settings.services = vec![service];
        }
    }

    #[tokio::test]
    async fn a_connection_that_its_service_took_just_before_the_freeze_ends_it_at_once() {
        use bailiwick_types::FrozenBy::Idle;
        let thaw = |by| WardenRequest::Thaw { tenant: name("alice"), by };
        let freeze = |by| WardenRequest::Freeze { tenant: name("alice"), by };
        // Connections at the look before the freeze, and at the one after it.
        for (counts, golden) in [
            ([0, 0], Ok((Done::Frozen, vec![freeze(Idle)]))),
            ([0, 1], Ok((Done::Thawed, vec![freeze(Idle), thaw(Idle)]))),
            ([1, 1], Err("its socket \"web\" has 1 connection")),
        ] {
            let (_temp, services) = fake::host();
            fake::sleepers(&services, &[]);
            with_socket(&services);
            let asked = freezer(&services, move |look| counts[usize::from(look > 1)]);
            let done = services.sleeping.freeze(&name("alice")).await;
            match golden {
                Ok((golden, changes)) => {
                    let is_frozen = golden == Done::Frozen;
                    assert_eq!((done, &lock(&asked).changes), (Ok(golden), &changes));
                    assert_eq!(services.tenants.was_idle(&name("alice")), is_frozen, "it is known at once");
                }
                Err(why) => assert!(done.is_err_and(|failure| failure.message.contains(why))),
            }
        }
    }

    #[tokio::test]
    async fn a_warden_that_froze_it_and_ended_before_its_reply_hides_nothing() {
        use bailiwick_types::FrozenBy::Idle;
        for (count, golden) in [(0, Done::Unchanged), (1, Done::Thawed)] {
            let (_temp, services) = fake::host();
            fake::sleepers(&services, &[]);
            with_socket(&services);
            let (frozen, up) = (Arc::new(AtomicBool::new(false)), fake::up(&services));
            let looks = Arc::new(Mutex::new(0));
            let (is_frozen, asked) = (Arc::clone(&frozen), Arc::clone(&looks));
            fake::warden(&services, move |request| match request {
                WardenRequest::Entry { .. } => {
                    let frozen = is_frozen.load(Ordering::SeqCst);
                    let entry = RosterEntry { frozen, frozen_by: Idle, ..up.clone() };
                    Answer::Reply(WardenReply::Entry(Some(Box::new(entry))))
                }
                WardenRequest::Connections => {
                    *lock(&asked) += 1;
                    let count = if *lock(&asked) > 1 { count } else { 0 };
                    Answer::Reply(WardenReply::Connections(connected(&name("alice"), count)))
                }
                WardenRequest::Freeze { .. } => {
                    is_frozen.store(true, Ordering::SeqCst);
                    Answer::Reply(WardenReply::Unchanged)
                }
                WardenRequest::Thaw { .. } => {
                    is_frozen.store(false, Ordering::SeqCst);
                    Answer::Reply(WardenReply::Done)
                }
                request => panic!("{request:?}"),
            });
            assert_eq!(services.sleeping.freeze(&name("alice")).await, Ok(golden));
            assert_eq!(services.tenants.was_idle(&name("alice")), count == 0, "the waker knows it");
        }
    }

    #[tokio::test]
    async fn who_is_about_to_come_keeps_it_from_being_frozen_and_an_idle_one_falls_asleep_as_any_other() {
        let (_temp, services) = fake::host();
        fake::sleepers(&services, &[]);
        let asked = freezer(&services, |_| 0);
        let alice = name("alice");
        let claim = services.waking.keep_awake(&alice).await;
        let failure = services.sleeping.freeze(&alice).await.expect_err("somebody comes");
        assert_eq!(failure.status, ExitStatus::Refused);
        drop(claim);
        assert_eq!(services.sleeping.freeze(&alice).await, Ok(Done::Frozen));
        assert_eq!(services.sleeping.freeze(&alice).await, Ok(Done::Unchanged));
        assert_eq!(services.sleeping.put_to_sleep(&alice, "idle").await, Ok(Done::Asleep));
        lock(&asked).frozen = Some(FrozenBy::Operator);
        let failure = services.sleeping.put_to_sleep(&alice, "idle").await.expect_err("an operator's");
        assert!(failure.message.contains("`bailiwick thaw alice`"), "{failure}");
    }

    #[tokio::test]
    async fn it_stays_awake_while_somebody_is_there_and_is_ended_without_a_hold() {
        let (_temp, services) = fake::host();
        let alice = name("alice");
        let sleeping = Arc::clone(&services.sleeping);
        let failure = sleeping.put_to_sleep(&alice, "idle").await.expect_err("may not sleep");
        assert!(failure.message.contains("may not sleep"), "{failure}");
        fake::sleepers(&services, &[]);
        let (up, down) = (fake::up(&services), fake::down(&services));
        let is_down = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&is_down);
        fake::warden(&services, move |request| match request {
            WardenRequest::Entry { .. } => {
                let entry = if ended.load(Ordering::SeqCst) { &down } else { &up };
                Answer::Reply(WardenReply::Entry(Some(Box::new(entry.clone()))))
            }
            WardenRequest::Stop { hold: bailiwick_proto::Hold::Keep, .. } => {
                ended.store(true, Ordering::SeqCst);
                Answer::Reply(WardenReply::Done)
            }
            _ => panic!("{request:?}"),
        });
        let claim = services.waking.keep_awake(&alice).await;
        let failure = sleeping.put_to_sleep(&alice, "idle").await.expect_err("somebody comes");
        assert!(failure.message.contains("stays awake: a timer or a session"), "{failure}");
        drop(claim);
        let tenant = services.tenants.policy.declared(&alice).expect("declared");
        let request = crate::sessions::SessionRequest {
            door: bailiwick_types::Door::Exec,
            user: "root".to_owned(),
            source: None,
            key: None,
            command: None,
            uid: 0,
            pid: 1,
            most: None,
        };
        let session = services.sessions.enter(&tenant, request).expect("enters");
        let failure = sleeping.put_to_sleep(&alice, "idle").await.expect_err("in use");
        assert!(failure.message.contains("stays awake: 1 session is in it"), "{failure}");
        drop(session);
        assert_eq!(sleeping.put_to_sleep(&alice, "idle").await, Ok(Done::Asleep));
        assert_eq!(sleeping.put_to_sleep(&alice, "idle").await, Ok(Done::Unchanged));
        assert!(is_down.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_connection_keeps_it_awake_and_so_does_a_warden_that_cannot_count_them() {
        for (counted, why) in
            [(Some(2), "its socket \"web\" has 2 connections"), (None, "cannot be counted"), (Some(0), "")]
        {
            let (_temp, services) = fake::host();
            let alice = name("alice");
            fake::sleepers(&services, &[]);
            with_socket(&services);
            let up = fake::up(&services);
            fake::warden(&services, move |request| match (request, counted) {
                (WardenRequest::Entry { .. }, _) => Answer::Reply(WardenReply::Entry(Some(Box::new(up.clone())))),
                (WardenRequest::Connections, Some(count)) => {
                    Answer::Reply(WardenReply::Connections(connected(&alice, count)))
                }
                (WardenRequest::Connections, None) => {
                    Answer::Reply(WardenReply::Failed(Failure::of(ExitStatus::HostCannot, "no sock_diag")))
                }
                (WardenRequest::Stop { .. }, Some(0)) => Answer::Reply(WardenReply::Done),
                (request, _) => panic!("{request:?}"),
            });
            match services.sleeping.put_to_sleep(&name("alice"), "idle").await {
                Ok(done) => assert_eq!((done, counted), (Done::Asleep, Some(0))),
                Err(failure) => assert!(failure.message.contains(why), "{failure}"),
            }
        }
    }
}
