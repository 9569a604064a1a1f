//! Puts tenants to sleep: ends the jails of those that may sleep and have nothing to do.
//!
//! Danger: whoever is there must not lose the jail. What cannot be read counts as somebody there, and the last look is
//! made while nobody can enter.

use crate::permission::OperatorPermission;
use crate::reconcile::actual;
use crate::reconciler::Reconciler;
use crate::sessions::Sessions;
use crate::sync::{at_once, lock};
use crate::tenants::Tenants;
use crate::waking::{Waking, never_sleeps};
use crate::warden_client::unexpected;
use bailiwick_plan::lifecycle::{self, JailState};
use bailiwick_policy::{Sleep, Tenant};
use bailiwick_proto::control::{Done, TenantOutcome};
use bailiwick_proto::{Failure, Refusal, WardenReply, WardenRequest};
use bailiwick_types::{ExitStatus, SocketName, TenantName};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};

/// The time between two looks.
const LOOK_TIME: Duration = Duration::from_secs(30);
/// A tenant that used this much processor time since the last look has worked, in microseconds.
const WORK: u64 = 50_000;
/// The most tenants that are put to sleep after one look. The others follow after the next one.
const AT_A_LOOK: usize = 100;

/// The connections to the sockets of services, by tenant.
type Connections = BTreeMap<TenantName, BTreeMap<SocketName, u64>>;

/// A tenant that runs and may sleep.
#[derive(Debug)]
struct Awake {
    name: TenantName,
    sleep: Sleep,
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
}

/// Puts the tenants of the host to sleep.
#[derive(Debug)]
pub(crate) struct Sleeping {
    tenants: Arc<Tenants>,
    sessions: Arc<Sessions>,
    reconciler: Arc<Reconciler>,
    waking: Arc<Waking>,
    idle: Mutex<BTreeMap<TenantName, Idle>>,
}

impl Sleeping {
    pub(crate) fn new(
        tenants: Arc<Tenants>,
        sessions: Arc<Sessions>,
        reconciler: Arc<Reconciler>,
        waking: Arc<Waking>,
    ) -> Self {
        Self { tenants, sessions, reconciler, waking, idle: Mutex::default() }
    }

    /// Looks without end.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut looks = tokio::time::interval(LOOK_TIME);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.look().await;
        }
    }

    /// Looks which tenants have nothing to do, and ends the jails of those that had nothing to do for long enough. Only
    /// tenants that run cost anything here.
    async fn look(&self) {
        let mut quiet = self.awake();
        quiet.retain(|awake| self.sessions.inside(&awake.name) == 0);
        let connections = match quiet.iter().any(|awake| awake.has_sockets) {
            true => self.connections().await.ok(),
            false => None,
        };
        let used = self.processor_times(&quiet).await;
        let mut due = due(&mut lock(&self.idle), quiet, connections.as_ref(), &used, Instant::now());
        due.truncate(AT_A_LOOK);
        at_once(due.iter().map(|name| self.end_idle(name)).collect()).await;
    }

    async fn end_idle(&self, name: &TenantName) {
        match self.put_to_sleep(name, "idle").await {
            Ok(_) => {}
            // Somebody came since.
            Err(failure) if failure.status == ExitStatus::Refused => {}
            Err(failure) => {
                warn!(target: "bailiwick::event", tenant = %name, event = "not-asleep", "{failure}");
            }
        }
    }

    /// The tenants that run and may sleep.
    fn awake(&self) -> Vec<Awake> {
        let loaded = self.tenants.policy.loaded();
        let known = self.tenants.warden.known();
        let of = |(name, known): (&TenantName, &crate::directory::Known)| {
            let tenant = loaded.policy.tenants.get(name)?;
            let sleep = lifecycle::sleep(tenant).ok()?;
            Some(Awake { name: name.clone(), sleep, has_sockets: has_sockets(tenant), cgroups: known.cgroups.clone() })
        };
        known.awake().filter_map(of).collect()
    }

    async fn connections(&self) -> Result<Connections, Failure> {
        match self.tenants.warden.ask(&WardenRequest::Connections).await? {
            WardenReply::Connections(connections) => Ok(connections),
            _ => Err(unexpected()),
        }
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
            JailState::Frozen(_) => return Err(Refusal::Frozen { tenant: name.clone() }.into()),
            JailState::Running(_) | JailState::Silent(_) => {}
        }
        let refused = |why: String| Failure::of(ExitStatus::Refused, format!("\"{name}\" stays awake: {why}"));
        let _falls = self
            .waking
            .begin_sleep(&turn, name)
            .ok_or_else(|| refused("a timer or a session of it is about to begin".to_owned()))?;
        // Whoever comes from here on waits until this is over.
        let inside = self.sessions.inside(name);
        if inside > 0 {
            let sessions = if inside == 1 { "session is" } else { "sessions are" };
            return Err(refused(format!("{inside} {sessions} in it; `bailiwick sessions {name}` lists them")));
        }
        if has_sockets(&tenant) {
            let connections = self
                .connections()
                .await
                .map_err(|failure| refused(format!("the connections to its sockets cannot be counted: {failure}")))?;
            let busy = connections.get(name).and_then(|own| own.iter().find(|(_, count)| **count > 0));
            if let Some((socket, count)) = busy {
                let connections = if *count == 1 { "connection" } else { "connections" };
                return Err(refused(format!("its socket \"{socket}\" has {count} {connections}")));
            }
        }
        let done = self.reconciler.put_to_sleep(&turn, name, cause).await;
        lock(&self.idle).remove(name);
        done
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

/// Notes what a look at tenants without sessions found. Returns those that had nothing to do for long enough. Tenants
/// that are not named are forgotten: they are down or have sessions.
fn due(
    idle: &mut BTreeMap<TenantName, Idle>,
    quiet: Vec<Awake>,
    connections: Option<&Connections>,
    used: &BTreeMap<TenantName, u64>,
    now: Instant,
) -> Vec<TenantName> {
    let before = std::mem::take(idle);
    let mut due = Vec::new();
    for Awake { name, sleep, has_sockets, .. } in quiet {
        let processor = used.get(&name).copied();
        let is_connected = has_sockets
            && connections.is_none_or(|all| all.get(&name).is_some_and(|own| own.values().any(|count| *count > 0)));
        let nothing = before.get(&name).filter(|last| match (last.processor, processor) {
            // A lower number is that of another jail.
            (Some(last), Some(now)) => !is_connected && (last..last + WORK).contains(&now),
            (None, _) | (_, None) => false,
        });
        let since = nothing.map_or(now, |last| last.since);
        if nothing.is_some() && now.duration_since(since) >= Duration::from_secs(sleep.after.0) {
            due.push(name.clone());
        }
        idle.insert(name, Idle { since, processor });
    }
    due
}

fn has_sockets(tenant: &Tenant) -> bool {
    tenant.settings.services.iter().any(|service| !service.sockets.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Answer};
    use bailiwick_types::Period;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn name(text: &str) -> TenantName {
        text.parse().expect("a name")
    }

    #[test]
    fn only_who_had_nothing_to_do_for_long_enough_is_due() {
        let alice = name("alice");
        let start = Instant::now();
        let mut idle = BTreeMap::new();
        let mut look = |seconds: u64, has_sockets: bool, connections: Option<u64>, used: Option<u64>| {
            let sleep = Sleep { after: Period(60), freeze_after: None };
            let awake = Awake { name: alice.clone(), sleep, has_sockets, cgroups: BTreeMap::new() };
            let of_socket = |count| {
                BTreeMap::from([(
                    alice.clone(),
                    BTreeMap::from([(name("web").as_str().parse().expect("a name"), count)]),
                )])
            };
            let connections = connections.map(of_socket);
            let used = used.map(|used| (alice.clone(), used)).into_iter().collect();
            let now = start + Duration::from_secs(seconds);
            !due(&mut idle, vec![awake], connections.as_ref(), &used, now).is_empty()
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
        use bailiwick_policy::{Pass, Run, Service, ServiceSocket};
        for (counted, why) in
            [(Some(2), "its socket \"web\" has 2 connections"), (None, "cannot be counted"), (Some(0), "")]
        {
            let (_temp, services) = fake::host();
            let alice = name("alice");
            fake::sleepers(&services, &[]);
            let web: SocketName = "web".parse().expect("a name");
            let socket = ServiceSocket { name: web.clone(), pass: Pass::Fd, backlog: 1, entries: None };
            let run = Run::Files("/srv".to_owned());
            let service = Service { sockets: vec![socket], ..Service::new("www".parse().expect("a name"), run) };
            if let Some(alice) = services.tenants.policy.loaded().policy.tenants.get_mut(&alice) {
                alice.settings.services = vec![service];
            }
            let up = fake::up(&services);
            fake::warden(&services, move |request| match (request, counted) {
                (WardenRequest::Entry { .. }, _) => Answer::Reply(WardenReply::Entry(Some(Box::new(up.clone())))),
                (WardenRequest::Connections, Some(count)) => Answer::Reply(WardenReply::Connections(
                    [("alice".parse().expect("a name"), [(web.clone(), count)].into())].into(),
                )),
                (WardenRequest::Connections, None) => {
                    Answer::Reply(WardenReply::Failed(Failure::of(ExitStatus::HostCannot, "no sock_diag")))
                }
                (WardenRequest::Stop { .. }, Some(0)) => Answer::Reply(WardenReply::Done),
                (request, _) => panic!("{request:?}"),
            });
            match services.sleeping.put_to_sleep(&alice, "idle").await {
                Ok(done) => assert_eq!((done, counted), (Done::Asleep, Some(0))),
                Err(failure) => assert!(failure.message.contains(why), "{failure}"),
            }
        }
    }
}
