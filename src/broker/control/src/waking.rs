//! Wakes tenants that sleep, and thaws those that are frozen because they are idle, for whoever needs their jail: a
//! session, a timer, a connection or an operator.
//!
//! Danger: a client can ask for this as often as it likes. At most [`AT_ONCE`] tenants are woken at a time, each by one
//! start whoever waits for it, and after a failed start nobody but an operator makes another one before a pause is over.

use crate::permission::OperatorPermission;
use crate::reconcile::actual;
use crate::reconciler::Reconciler;
use crate::start_failures::StartFailures;
use crate::sync::{Turn, at_once, lock};
use crate::tenants::Tenants;
use bailiwick_plan::lifecycle::{self, Actual, Hold, JailState};
use bailiwick_policy::{Declared, Tenant};
use bailiwick_proto::control::{Done, TenantOutcome};
use bailiwick_proto::{Failure, Refusal};
use bailiwick_types::{Door, ExitStatus, FrozenBy, TenantName};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::info;

/// How many tenants are woken at a time. The others wait in order.
const AT_ONCE: usize = 16;
/// How long a client waits until the start of its tenant begins.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a timer waits: at midnight many sleepers are due at once.
const PATIENCE_OF_TIMERS: Duration = Duration::from_secs(300);
/// The pause after the first failed start of a tenant. It doubles each time up to `LAST_PAUSE`.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// Who needs the jail of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Somebody who came by this door; by `socket` it is a connection to a service.
    Door(Door),
    /// An operator, with `bailiwick wake` or another command.
    Operator,
    /// Somebody who starts or stops a service.
    Service,
}

impl Cause {
    fn word(self) -> &'static str {
        match self {
            Self::Door(door) => door.word(),
            Self::Operator => "operator",
            Self::Service => "service",
        }
    }

    fn patience(self) -> Duration {
        match self {
            Self::Door(Door::Cron) => PATIENCE_OF_TIMERS,
            Self::Door(Door::Exec | Door::Ssh | Door::Sftp | Door::Ftp | Door::Socket) => PATIENCE,
            Self::Operator | Self::Service => PATIENCE,
        }
    }
}

/// The pause after a failed start.
#[derive(Debug, Clone, Copy)]
struct Pause {
    until: Instant,
    time: Duration,
}

/// What keeps a tenant awake although no session is counted yet, and whether its jail is just being ended or frozen.
#[derive(Debug, Default)]
struct Claims {
    count: u64,
    falls_asleep: bool,
}

#[derive(Debug, Default)]
struct State {
    pauses: BTreeMap<TenantName, Pause>,
    claims: BTreeMap<TenantName, Claims>,
}

/// Wakes the tenants of the host.
#[derive(Debug)]
pub(crate) struct Waking {
    tenants: Arc<Tenants>,
    reconciler: Arc<Reconciler>,
    failures: Arc<StartFailures>,
    places: Semaphore,
    state: Arc<Mutex<State>>,
}

/// Keeps a tenant from falling asleep, and from being frozen, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    state: Arc<Mutex<State>>,
    tenant: TenantName,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if let Some(claims) = state.claims.get_mut(&self.tenant) {
            claims.count -= 1;
            if claims.count == 0 && !claims.falls_asleep {
                state.claims.remove(&self.tenant);
            }
        }
    }
}

/// The jail of a tenant is being ended or frozen: whoever makes a [`Claim`] meanwhile waits until that is over.
#[derive(Debug)]
pub(crate) struct FallsAsleep {
    state: Arc<Mutex<State>>,
    tenant: TenantName,
}

impl Drop for FallsAsleep {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if let Some(claims) = state.claims.get_mut(&self.tenant) {
            claims.falls_asleep = false;
            if claims.count == 0 {
                state.claims.remove(&self.tenant);
            }
        }
    }
}

impl Waking {
    pub(crate) fn new(tenants: Arc<Tenants>, reconciler: Arc<Reconciler>, failures: Arc<StartFailures>) -> Self {
        Self { tenants, reconciler, failures, places: Semaphore::new(AT_ONCE), state: Arc::default() }
    }

    /// Keeps a tenant from falling asleep and from being frozen. If its jail is just being ended or frozen for this, waits
    /// until that is over. The jail may be down or frozen afterwards.
    pub(crate) async fn keep_awake(&self, tenant: &TenantName) -> Claim {
        let (claim, falls_asleep) = {
            let mut state = lock(&self.state);
            let claims = state.claims.entry(tenant.clone()).or_default();
            claims.count += 1;
            (Claim { state: Arc::clone(&self.state), tenant: tenant.clone() }, claims.falls_asleep)
        };
        if falls_asleep {
            drop(self.reconciler.turn(tenant).await);
        }
        claim
    }

    /// Begins to end the jail of a tenant for its sleep, or to freeze it, unless there is a [`Claim`]. Whoever counts a session first and
    /// then makes a claim is seen by one who begins this first and then looks at the sessions, or waits for it.
    pub(crate) fn begin_sleep(&self, _turn: &Turn, tenant: &TenantName) -> Option<FallsAsleep> {
        let mut state = lock(&self.state);
        let claims = state.claims.entry(tenant.clone()).or_default();
        if claims.count > 0 {
            return None;
        }
        claims.falls_asleep = true;
        Some(FallsAsleep { state: Arc::clone(&self.state), tenant: tenant.clone() })
    }

    /// Makes the jail of a tenant run if it is asleep, and thaws it if it is frozen because it was idle. Does nothing else
    /// for a tenant that may not sleep: the reconciler starts its jail.
    ///
    /// # Errors
    /// When the jail cannot be started, was stopped by an operator, or is not reached in time.
    pub(crate) async fn wake_if_asleep(&self, tenant: &Tenant, cause: Cause) -> Result<(), Failure> {
        self.thaw_if_idle(&tenant.name, cause).await?;
        if lifecycle::sleep(tenant).is_err() {
            return Ok(());
        }
        // Without an answer of the warden the start would fail, and its failure says why.
        let runs = self.actual(&tenant.name).await.is_ok_and(|actual| match actual.jail {
            JailState::Running(_) | JailState::Silent(_) | JailState::Frozen(_, FrozenBy::Operator) => true,
            JailState::Frozen(_, FrozenBy::Idle) | JailState::Down | JailState::Preparing | JailState::Clearing => {
                false
            }
        });
        if runs { Ok(()) } else { self.wake(&tenant.name, cause).await.map(drop) }
    }

    /// Thaws the jail of a tenant that is frozen because it was idle. Returns what was done; `None` if it is not frozen
    /// so. It takes no place of those who are woken: a thaw takes a millisecond.
    ///
    /// # Errors
    /// When its turn does not come in time, or the warden cannot do it.
    pub(crate) async fn thaw_if_idle(&self, name: &TenantName, cause: Cause) -> Result<Option<Done>, Failure> {
        if !self.tenants.was_idle(name) {
            return Ok(None);
        }
        let Ok(turn) = tokio::time::timeout(cause.patience(), self.reconciler.turn(name)).await else {
            let seconds = cause.patience().as_secs();
            let message =
                format!("\"{name}\" is frozen, and its turn to be thawed has not come in {seconds} s; try again");
            return Err(Failure::of(ExitStatus::OverLimit, message));
        };
        // Another caller may just have done it, or an operator has frozen or ended the jail.
        if !self.tenants.was_idle(name) {
            return Ok(None);
        }
        match self.reconciler.thaw_idle(&turn, name, cause.word()).await {
            Err(Failure { refusal: Some(Refusal::NotRunning { .. } | Refusal::Clearing { .. }), .. }) => Ok(None),
            done => done.map(Some),
        }
    }

    /// Keeps a tenant from falling asleep and from being frozen, and thaws it if it is frozen because it was idle.
    pub(crate) async fn keep_thawed(&self, name: &TenantName, cause: Cause) -> Result<Claim, Failure> {
        let claim = self.keep_awake(name).await;
        self.thaw_if_idle(name, cause).await?;
        Ok(claim)
    }

    /// Starts the jail of a tenant that is asleep, or thaws it if it is frozen because it was idle; one that runs is left
    /// alone.
    ///
    /// # Errors
    /// As [`Self::wake_if_asleep`], for a suspended tenant, and for one that does not run and may not sleep.
    pub(crate) async fn wake(&self, name: &TenantName, cause: Cause) -> Result<Done, Failure> {
        if let Some(done) = self.thaw_if_idle(name, cause).await? {
            return Ok(done);
        }
        self.check_pause(name, cause)?;
        // First the turn, so that all who wait for one tenant take one place.
        let wait = async { (self.reconciler.turn(name).await, self.places.acquire().await) };
        let Ok((turn, _place)) = tokio::time::timeout(cause.patience(), wait).await else {
            let seconds = cause.patience().as_secs();
            let message =
                format!("\"{name}\" is asleep, and its turn to be woken has not come in {seconds} s; try again");
            return Err(Failure::of(ExitStatus::OverLimit, message));
        };
        // Another caller may just have tried.
        self.check_pause(name, cause)?;
        self.wake_in_turn(&turn, name, cause).await
    }

    async fn wake_in_turn(&self, turn: &Turn, name: &TenantName, cause: Cause) -> Result<Done, Failure> {
        let tenant = self.tenants.policy.declared(name)?;
        if let Declared::Suspended { .. } = tenant.state {
            let message = format!("\"{name}\" is suspended; `bailiwick unsuspend {name}` ends that");
            return Err(Failure::of(ExitStatus::Refused, message));
        }
        let may_sleep = lifecycle::sleep(&tenant).map_err(|why| never_sleeps(name, &why));
        let actual = self.actual(name).await?;
        let tenant = || name.clone();
        match (actual.jail, actual.hold) {
            (JailState::Running(_) | JailState::Silent(_), _) => return Ok(Done::Unchanged),
            (JailState::Frozen(_, FrozenBy::Idle), _) => {
                return self.reconciler.thaw_idle(turn, name, cause.word()).await;
            }
            (JailState::Frozen(_, FrozenBy::Operator), _) => return Err(Refusal::Frozen { tenant: tenant() }.into()),
            (JailState::Down | JailState::Preparing | JailState::Clearing, Hold::Held) => {
                let why = Some("an operator stopped it".to_owned());
                return Err(Refusal::NotRunning { tenant: tenant(), why }.into());
            }
            (JailState::Down | JailState::Preparing | JailState::Clearing, Hold::Free) => {}
        }
        may_sleep?;
        match self.reconciler.wake(turn, name, cause.word()).await {
            Ok(Done::BeingPrepared) => Err(Refusal::Preparing { tenant: tenant() }.into()),
            Ok(done) => {
                lock(&self.state).pauses.remove(name);
                Ok(done)
            }
            Err(failure) => {
                self.note_failure(name);
                Err(Refusal::NotRunning { tenant: tenant(), why: Some(failure.message) }.into())
            }
        }
    }

    async fn actual(&self, name: &TenantName) -> Result<Actual, Failure> {
        Ok(actual(self.tenants.warden.entry(name).await?.as_ref()))
    }

    fn note_failure(&self, name: &TenantName) {
        let mut state = lock(&self.state);
        let time = state.pauses.get(name).map_or(FIRST_PAUSE, |pause| (pause.time * 2).min(LAST_PAUSE));
        state.pauses.insert(name.clone(), Pause { until: Instant::now() + time, time });
    }

    /// How long nobody but an operator wakes a tenant; `None` if anybody may.
    pub(crate) fn pause(&self, name: &TenantName) -> Option<Duration> {
        let mut state = lock(&self.state);
        if self.failures.of(name).is_none() {
            // An operator has started it since.
            state.pauses.remove(name);
        }
        let left = state.pauses.get(name)?.until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Refuses a start during the pause after a failed one.
    fn check_pause(&self, name: &TenantName, cause: Cause) -> Result<(), Failure> {
        if cause == Cause::Operator || self.pause(name).is_none() {
            return Ok(());
        }
        Err(Refusal::NotRunning { tenant: name.clone(), why: self.failures.of(name) }.into())
    }

    /// Wakes tenants for an operator.
    pub(crate) async fn wake_all(&self, permission: OperatorPermission, names: &[TenantName]) -> Vec<TenantOutcome> {
        info!(target: "bailiwick::event", event = "lifecycle", verb = "Wake", uid = permission.uid, "user {} wakes {} tenants", permission.uid, names.len());
        self.tenants.policy.reload().ok();
        let one = |name: &TenantName| {
            let name = name.clone();
            async move {
                match self.wake(&name, Cause::Operator).await {
                    Ok(done) => TenantOutcome { tenant: name, done, failure: None },
                    Err(failure) => TenantOutcome { tenant: name, done: Done::Failed, failure: Some(failure) },
                }
            }
        };
        at_once(names.iter().map(one).collect()).await
    }
}

/// The refusal for a tenant that may not sleep.
pub(crate) fn never_sleeps(name: &TenantName, why: &lifecycle::StaysAwake) -> Failure {
    Failure::of(ExitStatus::Refused, format!("\"{name}\" may not sleep: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Answer};
    use bailiwick_proto::warden::RosterEntry;
    use bailiwick_proto::{WardenReply, WardenRequest};

    const BY_SSH: Cause = Cause::Door(Door::Ssh);

    fn name(text: &str) -> TenantName {
        text.parse().expect("a name")
    }

    /// Waits until what has been begun waits for something.
    async fn settle() {
        for _ in 0..2000 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    #[tokio::test]
    async fn sixteen_are_woken_at_a_time_and_one_start_is_enough_for_all_who_wait() {
        let (_temp, services) = fake::host();
        let all: Vec<TenantName> = (0..50).map(|index| name(&format!("t{index}"))).collect();
        fake::sleepers(&services, &all);
        let (down, up) = (fake::down(&services), fake::up(&services));
        let (started, permits) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(0)));
        let (begun, free) = (Arc::clone(&started), Arc::clone(&permits));
        fake::warden(&services, move |request| match request {
            WardenRequest::Entry { tenant } => {
                let entry = if lock(&begun).contains(&tenant) { &up } else { &down };
                Answer::Reply(WardenReply::Entry(Some(Box::new(entry.clone()))))
            }
            WardenRequest::Start { tenant } => {
                lock(&begun).push(tenant);
                Answer::Later(Arc::clone(&free), WardenReply::Done)
            }
            _ => Answer::Never,
        });
        let mut waiting = tokio::task::JoinSet::new();
        for tenant in all.iter().chain(&all) {
            let (waking, tenant) = (Arc::clone(&services.waking), tenant.clone());
            waiting.spawn(async move { waking.wake(&tenant, BY_SSH).await });
        }
        for done in 0..=all.len() - AT_ONCE {
            settle().await;
            assert_eq!(lock(&started).len(), AT_ONCE + done, "that many at a time");
            permits.add_permits(1);
        }
        permits.add_permits(all.len());
        let results: Vec<Done> = waiting.join_all().await.into_iter().map(|result| result.expect("runs")).collect();
        let woken = results.iter().filter(|done| **done == Done::Awake).count();
        assert_eq!((woken, results.len()), (all.len(), 2 * all.len()), "each by one start");
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_fails_is_told_to_all_who_wait_and_tried_again_after_a_pause() {
        let (_temp, services) = fake::host();
        let alice = name("alice");
        fake::sleepers(&services, &[]);
        let down = fake::down(&services);
        let starts = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&starts);
        fake::warden(&services, move |request| match request {
            WardenRequest::Entry { .. } => Answer::Reply(WardenReply::Entry(Some(Box::new(down.clone())))),
            WardenRequest::Start { .. } => {
                *lock(&counted) += 1;
                Answer::Reply(WardenReply::Failed(Failure::of(ExitStatus::HostCannot, "no disk")))
            }
            _ => Answer::Never,
        });
        let count = || *lock(&starts);
        let wake = |cause| services.waking.wake(&alice, cause);
        let two = tokio::join!(wake(BY_SSH), wake(BY_SSH));
        for failure in [two.0, two.1].map(|result| result.expect_err("no disk")) {
            assert!(failure.message.contains("does not run: no disk"), "{failure}");
        }
        assert_eq!(count(), 1);
        for more in 2..6 {
            let pause = services.waking.pause(&alice).expect("a pause");
            assert_eq!(pause.as_millis(), 1000 << (more - 2));
            assert!(wake(Cause::Door(Door::Socket)).await.is_err() && count() == more - 1, "nobody tries it now");
            tokio::time::advance(pause).await;
            assert!(wake(BY_SSH).await.is_err() && count() == more, "but once after the pause");
        }
        assert!(wake(Cause::Operator).await.is_err() && count() == 6, "an operator need not wait");
        (0..20).for_each(|_| services.waking.note_failure(&alice));
        assert!(services.waking.pause(&alice).expect("a pause") <= LAST_PAUSE);
    }

    #[tokio::test]
    async fn what_an_operator_stopped_and_what_may_not_sleep_is_not_woken() {
        let (_temp, services) = fake::host();
        let alice = name("alice");
        let entry = Arc::new(Mutex::new(fake::up(&services)));
        let answered = Arc::clone(&entry);
        fake::warden(&services, move |request| match request {
            WardenRequest::Entry { .. } => Answer::Reply(WardenReply::Entry(Some(Box::new(lock(&answered).clone())))),
            _ => panic!("{request:?}"),
        });
        let wake = || services.waking.wake(&alice, Cause::Operator);
        assert_eq!(wake().await, Ok(Done::Unchanged), "it runs, as the operator asks");
        *lock(&entry) = fake::down(&services);
        let failure = wake().await.expect_err("may not sleep");
        assert!(failure.message.contains("may not sleep: neither its file nor its plan"), "{failure}");
        fake::sleepers(&services, &[]);
        let set = |state| {
            services.tenants.policy.loaded().policy.tenants.get_mut(&alice).expect("alice").state = state;
        };
        set(Declared::Suspended { reason: None });
        let failure = wake().await.expect_err("suspended");
        assert_eq!(failure.message, "\"alice\" is suspended; `bailiwick unsuspend alice` ends that");
        set(Declared::Active);
        *lock(&entry) = RosterEntry { held: true, ..fake::down(&services) };
        for cause in [Cause::Operator, BY_SSH, Cause::Door(Door::Cron)] {
            let failure = services.waking.wake(&alice, cause).await.expect_err("held");
            assert!(failure.message.contains("an operator stopped it; `bailiwick start alice`"), "{failure}");
        }
        assert_eq!(services.waking.pause(&alice), None);
    }

    #[tokio::test]
    async fn what_is_frozen_because_it_was_idle_is_thawed_by_one_request_and_what_an_operator_froze_is_not() {
        let (_temp, services) = fake::host();
        let alice = name("alice");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (noted, up) = (Arc::clone(&requests), fake::up(&services));
        let entry = move |by| RosterEntry { frozen: true, frozen_by: by, ..up.clone() };
        let of_operator = entry(FrozenBy::Operator);
        fake::warden(&services, move |request| {
            lock(&noted).push(request.clone());
            match request {
                WardenRequest::Entry { .. } => Answer::Reply(WardenReply::Entry(Some(Box::new(of_operator.clone())))),
                WardenRequest::Thaw { by: FrozenBy::Idle, .. } => Answer::Reply(WardenReply::Done),
                _ => panic!("{request:?}"),
            }
        });
        let tenant = services.tenants.policy.declared(&alice).expect("declared");
        let idle = entry(FrozenBy::Idle);
        let put = |entry: &RosterEntry| services.tenants.warden.known().learn(&alice, entry);
        // All start places are taken, and it is a tenant that may not sleep any more.
        let places = services.waking.places.acquire_many(16).await.expect("is open");
        put(&idle);
        assert_eq!(services.waking.wake(&alice, Cause::Door(Door::Socket)).await, Ok(Done::Thawed));
        assert_eq!(lock(&requests).len(), 1);
        assert_eq!(services.tenants.was_frozen(&alice), None, "it is known at once");
        put(&idle);
        services.waking.wake_if_asleep(&tenant, BY_SSH).await.expect("thawed");
        assert_eq!(lock(&requests).len(), 2);
        put(&idle);
        let (one, two) =
            tokio::join!(services.waking.thaw_if_idle(&alice, BY_SSH), services.waking.thaw_if_idle(&alice, BY_SSH));
        assert_eq!([one, two], [Ok(Some(Done::Thawed)), Ok(None)], "one request for all who wait");
        drop(places);
        fake::sleepers(&services, &[]);
        put(&entry(FrozenBy::Operator));
        let failure = services.waking.wake(&alice, Cause::Operator).await.expect_err("an operator's");
        assert!(failure.message.contains("`bailiwick thaw alice`"), "{failure}");
        services
            .waking
            .wake_if_asleep(&services.tenants.policy.declared(&alice).expect("declared"), BY_SSH)
            .await
            .expect("left alone");
    }

    #[tokio::test]
    async fn who_comes_while_a_tenant_falls_asleep_waits_and_who_was_there_keeps_it_awake() {
        let (_temp, services) = fake::host();
        let alice = name("alice");
        let turn = services.reconciler.turn(&alice).await;
        let claim = services.waking.keep_awake(&alice).await;
        assert!(services.waking.begin_sleep(&turn, &alice).is_none());
        drop(claim);
        let falls = services.waking.begin_sleep(&turn, &alice).expect("nobody is there");
        let mut comes = Box::pin(services.waking.keep_awake(&alice));
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut comes).await.is_err(), "it waits");
        drop((falls, turn));
        drop(comes.await);
        assert!(lock(&services.waking.state).claims.is_empty());
    }
}
