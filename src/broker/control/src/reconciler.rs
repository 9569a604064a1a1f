//! The reconciler: keeps jails as declared, and makes the changes that an operator asks for, one at a time.

mod apply;

use crate::inits::Inits;
use crate::network_start::NetworkStart;
use crate::permission::OperatorPermission;
use crate::policy_store::unknown;
use crate::reconcile::{self, decide};
use crate::recorder::Recorder;
use crate::session_end::SessionEnd;
use crate::sessions::Sessions;
use crate::start_failures::StartFailures;
use crate::sync::{Turn, Turns, Wake, at_once, lock};
use crate::tenants::Tenants;
use crate::timers::Timers;
use bailiwick_proto::control::{Done, TenantOutcome, Verb};
use bailiwick_proto::{Failure, Hold, WardenReply, WardenRequest};
use bailiwick_types::{DurationCounts, ExitStatus, FrozenBy, HostUid, NetworkMode, TenantName};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::{info, warn};

pub(crate) use apply::ApplyOptions;

/// The longest time between two rounds.
const RECONCILE_TIME: Duration = Duration::from_secs(30);

/// The least time between two rounds, and so between the end of a jail and its next start.
const AGAIN_TIME: Duration = Duration::from_secs(1);

/// The services that the reconciler gets.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) inits: Arc<Inits>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) session_end: Arc<SessionEnd>,
    pub(crate) timers: Arc<Timers>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) failures: Arc<StartFailures>,
    pub(crate) network: NetworkStart,
    /// Wakes the next round early.
    pub(crate) wake: Wake,
    /// Wakes the keeper of services when a jail has changed.
    pub(crate) wake_keeper: Wake,
    /// Turns true after the first round: each jail that should run was started, or its start failed.
    pub(crate) first_round: watch::Sender<bool>,
}

/// Makes every change of a jail.
#[derive(Debug)]
pub(crate) struct Reconciler {
    tenants: Arc<Tenants>,
    inits: Arc<Inits>,
    sessions: Arc<Sessions>,
    session_end: Arc<SessionEnd>,
    timers: Arc<Timers>,
    recorder: Arc<Recorder>,
    failures: Arc<StartFailures>,
    network: NetworkStart,
    wake: Wake,
    first_round: watch::Sender<bool>,
    /// Woken after each round, and after each change of a jail.
    pub(crate) changed: Wake,
    wake_keeper: Wake,
    /// How long starts of jails took.
    start_times: Mutex<DurationCounts>,
    /// Held during a round, and while an operator's request is carried out: each begins with what all tenants are.
    changing: tokio::sync::Mutex<()>,
    /// Held during a change of a tenant: two changes must not start and stop the same jail. Whoever wakes a tenant, or
    /// puts it to sleep, holds only this, so nobody waits for a round over thousands of other tenants.
    turns: Turns,
}

impl Reconciler {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            tenants,
            inits,
            sessions,
            session_end,
            timers,
            recorder,
            failures,
            network,
            wake,
            wake_keeper,
            first_round,
        } = parts;
        let (changed, changing, turns) = (Wake::default(), tokio::sync::Mutex::default(), Turns::default());
        Self {
            tenants,
            inits,
            sessions,
            session_end,
            timers,
            recorder,
            failures,
            network,
            wake,
            first_round,
            changed,
            wake_keeper,
            start_times: Mutex::default(),
            changing,
            turns,
        }
    }

    /// Runs rounds without end: starts jails that should run, and stops those that should not. Drift of a running jail
    /// is reported by `plan` and corrected by `apply`.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut failures: BTreeMap<TenantName, u32> = BTreeMap::new();
        loop {
            match self.reconcile(&mut failures).await {
                Ok(()) => {
                    self.first_round.send_replace(true);
                    self.changed.wake();
                    // After a restart of this program it learns here which jails run.
                    self.wake_keeper.wake();
                    drop(tokio::time::timeout(RECONCILE_TIME, self.wake.wait()).await);
                    // A jail that ends right after its start must not keep this loop busy.
                    tokio::time::sleep(AGAIN_TIME).await;
                }
                Err(failure) => {
                    warn!(event = "reconcile-failed", "{failure}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Runs one round.
    async fn reconcile(&self, failures: &mut BTreeMap<TenantName, u32>) -> Result<(), Failure> {
        let _one = self.changing.lock().await;
        // A sleeping tenant may be woken at any time, so a session that begins after this is in a jail that the roster
        // may not have.
        let begun = self.sessions.begun();
        let roster = self.tenants.warden.roster().await?;
        self.sessions.jails_gone(&begun, |tenant| roster.get(tenant).is_none_or(|entry| entry.pid.is_none()));
        self.tenants.warden.fresh_facts().await?;
        let actions = {
            let loaded = self.tenants.policy.loaded();
            decide(&loaded.policy, &loaded.invalid, &roster)
        };
        failures.retain(|tenant, _| actions.contains_key(tenant));
        let mut rounds = Vec::new();
        for (tenant, actions) in actions {
            let count = failures.get(&tenant).copied().unwrap_or(0);
            // After three failures a tenant is tried, and its failure logged, in fewer and fewer rounds.
            if count > 3 && !count.is_power_of_two() {
                failures.insert(tenant, count + 1);
                continue;
            }
            failures.remove(&tenant);
            rounds.push(async move {
                let mut failed = false;
                for action in actions {
                    if let Err(failure) = self.apply_action(&tenant, action).await {
                        warn!(target: "bailiwick::event", tenant = %tenant, event = "not-mended", "{failure}");
                        failed = true;
                    }
                }
                (tenant, failed.then_some(count + 1))
            });
        }
        for (tenant, count) in at_once(rounds).await {
            failures.extend(count.map(|count| (tenant, count)));
        }
        Ok(())
    }

    async fn apply_action(&self, tenant: &TenantName, action: reconcile::Action) -> Result<Done, Failure> {
        match action {
            reconcile::Action::Start => {
                self.change(tenant, WardenRequest::Start { tenant: tenant.clone() }, Done::Started).await
            }
            reconcile::Action::Thaw => self.thaw_for_policy(tenant).await,
            reconcile::Action::Replace => self.restart(tenant).await,
            reconcile::Action::Stop => self.change(tenant, stop(tenant, Hold::Keep), Done::Stopped).await,
            reconcile::Action::HostUser => self.host_user(tenant).await,
        }
    }

    async fn restart(&self, tenant: &TenantName) -> Result<Done, Failure> {
        self.change(tenant, WardenRequest::Restart { tenant: tenant.clone() }, Done::Restarted).await
    }

    /// Makes or removes the host user of a tenant, as the policy says. The warden knows only the users in
    /// `/etc/passwd`. The users of a directory service are checked here, because the warden is too confined to ask for
    /// them.
    async fn host_user(&self, name: &TenantName) -> Result<Done, Failure> {
        self.is_free(name).await?;
        match self.tenants.warden.ask(&WardenRequest::HostUser { tenant: name.clone() }).await? {
            WardenReply::Unchanged => Ok(Done::Unchanged),
            _ => {
                info!(target: "bailiwick::event", tenant = %name, event = "host-user", "the host user of {name} was made or removed");
                Ok(Done::HostUserChanged)
            }
        }
    }

    /// Checks that a new tenant may have a host user of its name.
    pub(crate) async fn check_name(&self, _permission: OperatorPermission, name: &TenantName) -> Result<(), Failure> {
        self.is_free(name).await
    }

    async fn is_free(&self, name: &TenantName) -> Result<(), Failure> {
        let own =
            self.tenants.warden.entry(name).await?.map(|entry| self.tenants.policy.host().ids.host_user(entry.ids));
        if let Some(other) = users::get_user_by_name(name.as_str())
            && own != Some(HostUid(other.uid()))
        {
            let uid = other.uid();
            let message = format!("the host has a user \"{name}\" with the id {uid}; rename the tenant or the user");
            return Err(Failure::of(ExitStatus::Conflict, message));
        }
        Ok(())
    }

    /// Waits until nobody changes the jail of a tenant. Until the turn is dropped, only its holder does.
    pub(crate) async fn turn(&self, tenant: &TenantName) -> Turn {
        self.turns.of(tenant).await
    }

    /// Starts the jail of a tenant that is asleep. `cause` says for whom, in the log.
    pub(crate) async fn wake(&self, turn: &Turn, tenant: &TenantName, cause: &str) -> Result<Done, Failure> {
        let request = WardenRequest::Start { tenant: tenant.clone() };
        let done = self.change_in_turn(turn, tenant, request, Done::Awake).await?;
        if done == Done::Awake {
            info!(target: "bailiwick::event", tenant = %tenant, event = "awake", cause, "{tenant} is awake: {cause}");
        }
        Ok(done)
    }

    /// Ends the jail of a tenant until something wakes it. `cause` says why, in the log.
    pub(crate) async fn put_to_sleep(&self, turn: &Turn, tenant: &TenantName, cause: &str) -> Result<Done, Failure> {
        let done = self.change_in_turn(turn, tenant, stop(tenant, Hold::Keep), Done::Asleep).await?;
        if done == Done::Asleep {
            info!(target: "bailiwick::event", tenant = %tenant, event = "asleep", cause, "{tenant} is asleep: {cause}");
        }
        Ok(done)
    }

    /// Freezes the jail of an idle tenant until something needs it.
    pub(crate) async fn freeze_idle(&self, _turn: &Turn, tenant: &TenantName) -> Result<Done, Failure> {
        let request = WardenRequest::Freeze { tenant: tenant.clone(), by: FrozenBy::Idle };
        if self.tenants.warden.ask(&request).await? == WardenReply::Unchanged {
            // It is frozen already: the warden did this, and ended before it could reply. Or an operator did. The entry tells.
            drop(self.tenants.warden.entry(tenant).await);
            self.inits.health.forget(tenant);
            self.changed.wake();
            return Ok(Done::Unchanged);
        }
        info!(target: "bailiwick::event", tenant = %tenant, event = "frozen", cause = "idle", "the jail of {tenant} was frozen: idle");
        self.noted_frozen(tenant, Some(FrozenBy::Idle));
        Ok(Done::Frozen)
    }

    /// Thaws the jail of an idle tenant. `cause` says for whom, in the log. This is one request, because somebody waits.
    ///
    /// # Errors
    /// Also when an operator has frozen the jail, or it has ended.
    pub(crate) async fn thaw_idle(&self, _turn: &Turn, tenant: &TenantName, cause: &str) -> Result<Done, Failure> {
        let request = WardenRequest::Thaw { tenant: tenant.clone(), by: FrozenBy::Idle };
        let reply = self.tenants.warden.ask(&request).await?;
        self.noted_frozen(tenant, None);
        if reply == WardenReply::Unchanged {
            return Ok(Done::Unchanged);
        }
        info!(target: "bailiwick::event", tenant = %tenant, event = "thawed", cause, "the jail of {tenant} was thawed: {cause}");
        Ok(Done::Thawed)
    }

    /// The jail of a tenant was frozen or thawed, and is otherwise the same.
    fn noted_frozen(&self, tenant: &TenantName, frozen: Option<FrozenBy>) {
        self.tenants.warden.known().note_frozen(tenant, frozen);
        self.inits.health.forget(tenant);
        self.changed.wake();
        self.wake_keeper.wake();
    }

    /// Thaws the jail of a tenant that was idle and may not be frozen any more.
    async fn thaw_for_policy(&self, tenant: &TenantName) -> Result<Done, Failure> {
        let turn = self.turn(tenant).await;
        self.thaw_idle(&turn, tenant, "policy").await
    }

    /// Asks the warden for a change, and returns what was done.
    async fn change(&self, tenant: &TenantName, request: WardenRequest, done: Done) -> Result<Done, Failure> {
        let turn = self.turn(tenant).await;
        self.change_in_turn(&turn, tenant, request, done).await
    }

    async fn change_in_turn(
        &self,
        _turn: &Turn,
        tenant: &TenantName,
        request: WardenRequest,
        done: Done,
    ) -> Result<Done, Failure> {
        let starts = matches!(request, WardenRequest::Start { .. } | WardenRequest::Restart { .. });
        if starts && self.has_network(tenant) {
            self.network.ask();
        }
        let ends = matches!(request, WardenRequest::Stop { .. } | WardenRequest::Restart { .. });
        let inside = if ends { self.sessions.begun_in(tenant) } else { Vec::new() };
        let begun = Instant::now();
        let reply = self.tenants.warden.ask(&request).await;
        if matches!((&request, &reply), (WardenRequest::Start { .. }, Ok(WardenReply::Done))) {
            lock(&self.start_times).count(begun.elapsed());
        }
        if matches!(&reply, Ok(reply) if !matches!(reply, WardenReply::GoesOn)) {
            self.sessions.jail_gone(&inside);
        }
        match &reply {
            Err(failure) if starts => self.failures.note(tenant, failure.message.clone()),
            Ok(_) => self.failures.forget(tenant),
            Err(_) => {}
        }
        match reply? {
            WardenReply::Unchanged => Ok(Done::Unchanged),
            WardenReply::GoesOn if starts => {
                info!(target: "bailiwick::event", tenant = %tenant, event = "goes-on", "the storage of {tenant} is being prepared; its jail starts when that is done");
                Ok(Done::BeingPrepared)
            }
            WardenReply::GoesOn => {
                info!(target: "bailiwick::event", tenant = %tenant, event = "goes-on", "the warden goes on: what is left of {tenant} is not {done} yet");
                Ok(Done::GoingOn)
            }
            _ => {
                self.inits.health.forget(tenant);
                // `wake` and `put_to_sleep` log the cause as well.
                if !matches!(done, Done::Awake | Done::Asleep) {
                    let word = done.to_string();
                    info!(target: "bailiwick::event", tenant = %tenant, event = word, "the jail of {tenant} was {word}");
                }
                if starts {
                    self.timers.jail_started(tenant);
                }
                // Refreshes the entry, so that the first session need not ask for it and no frozen init is asked.
                drop(self.tenants.warden.entry(tenant).await);
                self.recorder.jails_changed();
                self.changed.wake();
                self.wake_keeper.wake();
                Ok(done)
            }
        }
    }

    /// How long starts of jails took, from the request to the warden to its reply.
    pub(crate) fn start_times(&self) -> DurationCounts {
        lock(&self.start_times).clone()
    }

    /// Whether the policy gives a tenant a network.
    fn has_network(&self, tenant: &TenantName) -> bool {
        let loaded = self.tenants.policy.loaded();
        loaded.policy.tenants.get(tenant).is_some_and(|tenant| tenant.settings.network.mode != NetworkMode::None)
    }

    /// Starts, stops, restarts, freezes or thaws jails.
    pub(crate) async fn lifecycle(
        &self,
        permission: OperatorPermission,
        verb: Verb,
        names: &[TenantName],
    ) -> Vec<TenantOutcome> {
        let word = format!("{verb:?}").to_lowercase();
        for name in names {
            info!(target: "bailiwick::event", tenant = %name, event = "lifecycle", verb = word, uid = permission.uid, "user {} asks to {word} {name}", permission.uid);
        }
        self.tenants.policy.reload().ok();
        let _one = self.changing.lock().await;
        if matches!(verb, Verb::Start | Verb::Restart) && names.iter().any(|name| self.has_network(name)) {
            self.network.wait().await;
        }
        let one = |name: &TenantName| {
            let name = name.clone();
            async move { outcome(name.clone(), self.lifecycle_one(verb, &name).await) }
        };
        at_once(names.iter().map(one).collect()).await
    }

    async fn lifecycle_one(&self, verb: Verb, name: &TenantName) -> Result<Done, Failure> {
        let known = self.tenants.policy.loaded().policy.tenants.contains_key(name);
        if !known && self.tenants.warden.entry(name).await?.is_none() {
            return Err(unknown(name));
        }
        let tenant = || name.clone();
        match verb {
            Verb::Start => self.start(name).await,
            Verb::Stop => self.change(name, stop(name, Hold::Hold), Done::Stopped).await,
            Verb::Restart => self.restart(name).await,
            Verb::Freeze => {
                let request = WardenRequest::Freeze { tenant: tenant(), by: FrozenBy::Operator };
                self.change(name, request, Done::Frozen).await
            }
            Verb::Thaw => {
                let request = WardenRequest::Thaw { tenant: tenant(), by: FrozenBy::Operator };
                self.change(name, request, Done::Thawed).await
            }
            // `sleeping` and `waking` carry these out, without the wait for a round.
            Verb::Sleep | Verb::Wake => Err(Failure::of(ExitStatus::Invalid, "this is no change of a jail alone")),
        }
    }

    /// Starts a jail for an operator. One that runs and was frozen because it was idle is thawed.
    async fn start(&self, name: &TenantName) -> Result<Done, Failure> {
        let turn = self.turn(name).await;
        let done =
            self.change_in_turn(&turn, name, WardenRequest::Start { tenant: name.clone() }, Done::Started).await?;
        if done == Done::Unchanged && self.tenants.frozen(name).await == Some(FrozenBy::Idle) {
            return self.thaw_idle(&turn, name, "operator").await;
        }
        Ok(done)
    }

    /// Restarts a jail whose init has been silent for long. Returns whether it was restarted.
    pub(crate) async fn replace_silent(&self, name: &TenantName) -> Result<bool, Failure> {
        let turn = self.turn(name).await;
        // The jail may have been restarted, stopped or frozen meanwhile.
        let runs = self.tenants.warden.entry(name).await?.is_some_and(|entry| entry.pid.is_some() && !entry.frozen);
        if !runs || self.inits.health.silent_for(name).is_none() {
            return Ok(false);
        }
        let request = WardenRequest::Restart { tenant: name.clone() };
        self.change_in_turn(&turn, name, request, Done::Restarted).await?;
        Ok(true)
    }

    /// Destroys the data of a tenant whose file is gone. The warden checks that the file is gone.
    pub(crate) async fn purge(&self, permission: OperatorPermission, name: &TenantName) -> TenantOutcome {
        info!(target: "bailiwick::event", tenant = %name, event = "purge", uid = permission.uid, "user {} purges {name}", permission.uid);
        let _one = self.changing.lock().await;
        let request = WardenRequest::Purge { tenant: name.clone() };
        let result = self.change(name, request, Done::Purged).await;
        // With status `Partly` some data cannot be removed, but the tenant is gone and its name is free.
        let is_gone = result.as_ref().map_or_else(|failure| failure.status == ExitStatus::Partly, |_| true);
        if is_gone {
            self.failures.forget(name);
            self.sessions.forget(name);
        }
        if is_gone && self.recorder.is_started() {
            let gone = name.clone();
            // The next tenant of this name must not see another's history.
            let forget = self.recorder.with(move |state| state.forget(&gone)).await;
            if let Err(failure) | Ok(Err(failure)) = forget {
                warn!(target: "bailiwick::event", tenant = %name, event = "history-not-forgotten", "{failure}");
            }
        }
        outcome(name.clone(), result)
    }
}

fn stop(tenant: &TenantName, hold: Hold) -> WardenRequest {
    WardenRequest::Stop { tenant: tenant.clone(), hold }
}

fn outcome(tenant: TenantName, result: Result<Done, Failure>) -> TenantOutcome {
    match result {
        Ok(done) => TenantOutcome { tenant, done, failure: None },
        Err(failure) => TenantOutcome { tenant, done: Done::Failed, failure: Some(failure) },
    }
}
