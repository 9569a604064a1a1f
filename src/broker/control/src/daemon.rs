//! The daemon's state and what it does for each request; who comes in by which door is in `entry`.

mod entry;

use crate::door;
use crate::ftp::Ftp;
use crate::inits::Inits;
use crate::own_dir;
use crate::permission::{Admins, Caller, OperatorPermission, TenantPermission};
use crate::places::{Places, Who};
use crate::policy_copies::PolicyCopies;
use crate::policy_store::{Loaded, OpenError, PolicyStore, unknown, without_policy};
use crate::reconcile::{self, decide};
use crate::recorder::Recorder;
use crate::sessions::Sessions;
use crate::sync::{ASKED_AT_ONCE, Wake, at_once, lock};
use crate::timers::Timers;
use crate::warden_client::{Roster, WardenClient, unexpected};
use crate::warden_link::WardenLink;
use bailiwick_plan::difference;
use bailiwick_plan::lifecycle::{
    Actual, Declaration, HostUserStep, JailState, JailStep, Next, desired, next, tenant_state,
};
use bailiwick_plan::mount::confinement;
use bailiwick_policy::{Declared, Host, Settings, Tenant};
use bailiwick_proto::control::{
    Depth, Done, HostStatus, MemoryUse, TenantDetail, TenantOutcome, TenantState, TenantSummary, Verb,
};
use bailiwick_proto::warden::{MOST_COMPARED, MOST_OBSERVED, RosterEntry};
use bailiwick_proto::{CONTROL_DIR, Failure, Hold, JAILS, WARDEN_SOCKET, WardenReply, WardenRequest, init_socket};
use bailiwick_types::{
    Access, Action, AuditReport, Change, Door, ExitStatus, HostFacts, HostUid, IdRange, InForce, LimitKey, Observed,
    TenantName, TenantReport,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};

/// Between two looks at what runs.
const RECONCILE_TIME: Duration = Duration::from_secs(30);

/// The least time between a jail that ended by itself and its next start.
const AGAIN_TIME: Duration = Duration::from_secs(1);

/// How long each question of `status` may take the warden: longer than it may stay away, and no longer than a person waits.
const STATUS_TIME: Duration = Duration::from_secs(8);

/// What `apply` may do to those who are in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ApplyOptions {
    /// End sessions that the policy no longer lets in.
    pub(crate) now: bool,
    /// Restart jails with sessions in them.
    pub(crate) restart: bool,
}

/// The daemon.
#[derive(Debug)]
pub struct Daemon {
    own_dir: PathBuf,
    policy: Arc<PolicyStore>,
    warden: Arc<WardenClient>,
    copies: Arc<PolicyCopies>,
    admins: Admins,
    places: Arc<Places>,
    sessions: Arc<Sessions>,
    ftp: Ftp,
    timers: Timers,
    inits: Inits,
    recorder: OnceLock<Recorder>,
    /// Entries that were refused.
    refused: AtomicU64,
    /// Why the history is not written.
    no_history: Mutex<Option<String>>,
    /// Something has changed that [`Self::keep`] should see to now.
    changed: Wake,
    /// One change at a time: two applies must not start and stop the same jail.
    changing: tokio::sync::Mutex<()>,
    /// Whether all who are to run were started once, as far as they could be.
    first_round: tokio::sync::watch::Sender<bool>,
    /// Why jails could not be started when that was last tried.
    failures: Mutex<BTreeMap<TenantName, String>>,
    started: Instant,
}

/// What cannot come is tried again at the next start, and is lost in neither place.
fn take_over_history(from: &Path, own: &Path) {
    match own_dir::take_over(from, own) {
        Ok(false) => {}
        Ok(true) => {
            info!(event = "history-moved", from = %from.display(), "the history is now in \"{}\"", own.display())
        }
        Err(error) => {
            warn!(event = "history-not-moved", from = %from.display(), "cannot move the history to \"{}\": {error}", own.display());
        }
    }
}

impl Daemon {
    /// Reads the policy and the host.
    ///
    /// # Errors
    /// When `bailiwick.toml` is not usable and never was: a tenant's file that is not is a problem of that tenant alone.
    pub fn open(config: &Path) -> Result<Arc<Self>, OpenError> {
        let (wake_timers, changed) = (Wake::default(), Wake::default());
        let policy = Arc::new(PolicyStore::open(config, wake_timers.clone())?);
        let host = policy.host();
        let own_dir = own_dir::find(&host.state_dir);
        take_over_history(&own_dir::below(&host.state_dir), &own_dir);
        let warden = Arc::new(WardenClient::new(WardenLink::new(host.runtime_dir.join(WARDEN_SOCKET))));
        Ok(Arc::new(Self {
            own_dir,
            copies: Arc::new(PolicyCopies::new(Arc::clone(&policy), Arc::clone(&warden), changed.clone())),
            policy,
            warden,
            admins: Admins::default(),
            places: Places::new(bailiwick_sys::credential::open_files()),
            sessions: Arc::default(),
            ftp: Ftp::new(host.runtime_dir.join(CONTROL_DIR)),
            timers: Timers::new(wake_timers),
            inits: Inits::default(),
            recorder: OnceLock::new(),
            refused: AtomicU64::new(0),
            no_history: Mutex::default(),
            changed,
            changing: tokio::sync::Mutex::default(),
            first_round: tokio::sync::watch::Sender::new(false),
            failures: Mutex::default(),
            started: Instant::now(),
        }))
    }

    /// The host as it was last declared.
    #[must_use]
    pub fn host(&self) -> Host {
        self.policy.host()
    }

    /// Reads the policy again and logs every problem.
    ///
    /// # Errors
    /// All problems, though the rest of the policy is in use.
    pub fn reload(&self) -> Result<(), Failure> {
        self.policy.reload()
    }

    /// Keeps copies of the policy. Goes on for good.
    pub async fn keep_policy(self: Arc<Self>) {
        Arc::clone(&self.copies).run().await;
    }

    /// Where this program keeps what is its own.
    pub(crate) fn own_dir(&self) -> &Path {
        &self.own_dir
    }

    /// Starts to measure and to record what tenants use.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub fn record(self: &Arc<Self>) -> std::io::Result<()> {
        let recorder = Recorder::start(self)?;
        // A second time is none.
        drop(self.recorder.set(recorder));
        Ok(())
    }

    pub(crate) fn recorder(&self) -> Result<&Recorder, Failure> {
        self.recorder.get().ok_or_else(|| Failure::of(ExitStatus::Failed, "nothing is recorded"))
    }

    /// Has [`Self::keep`] look now.
    pub(crate) fn look_again(&self) {
        self.changed.wake();
    }

    /// Who asks. Of a tenant's own user the ids tell; the host's user database is asked about others alone. The first to ask may have
    /// come before anybody else has asked the warden who is who.
    pub(crate) async fn caller(&self, uid: u32, groups: &[u32]) -> Result<Caller, Failure> {
        let (pool, admins) = {
            let host = &self.policy.loaded().policy.host;
            (host.ids, host.admins.clone())
        };
        if uid >= pool.host_users() {
            if self.warden.known().is_empty() {
                drop(self.warden.roster().await);
            }
            if let Some(tenant) = self.warden.known().owner(uid, pool) {
                return Ok(Caller::Tenant(TenantPermission { tenant: tenant.clone(), uid }));
            }
        }
        self.admins.permit(uid, groups, &admins).await.map(Caller::Operator)
    }

    pub(crate) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Whose places somebody takes, before it is known who it is.
    pub(crate) fn places_of(&self, uid: u32, groups: &[u32]) -> Who {
        let pool = self.policy.loaded().policy.host.ids;
        Who::of(uid, pool, self.admins.were(uid, groups))
    }

    /// Has the user database asked who the operators are, so that the first of them does not wait among strangers.
    pub(crate) async fn know_operators(&self) {
        let admins = self.policy.loaded().policy.host.admins.clone();
        drop(self.admins.permit(u32::MAX, &[], &admins).await);
    }

    /// Whether there is, or was, such a tenant.
    pub(crate) fn knows(&self, tenant: &TenantName) -> bool {
        self.policy.loaded().policy.tenants.contains_key(tenant) || self.warden.known().get(tenant).is_some()
    }

    pub(crate) fn policy(&self) -> &PolicyStore {
        &self.policy
    }

    pub(crate) fn warden(&self) -> &WardenClient {
        &self.warden
    }

    pub(crate) fn timers(&self) -> &Timers {
        &self.timers
    }

    pub(crate) fn inits(&self) -> &Inits {
        &self.inits
    }

    /// Those who have ids, so whose jails may run, and whom nobody has frozen, as far as is known.
    pub(crate) fn awake(&self) -> Vec<TenantName> {
        self.warden.known().awake()
    }

    /// Whether a tenant was frozen when the warden last told of it: then nothing is to be heard of its init.
    pub(crate) fn was_frozen(&self, name: &TenantName) -> bool {
        self.warden.known().is_frozen(name)
    }

    /// Where the init of a tenant listens that is declared, and who it is.
    pub(crate) async fn init_of_name(&self, name: &TenantName) -> Option<(PathBuf, IdRange)> {
        let tenant = self.policy.loaded().policy.tenants.get(name).cloned()?;
        self.init_of(&tenant).await
    }

    /// Makes a jail anew whose init has been silent for long; whether it still was.
    pub(crate) async fn replace_silent(&self, name: &TenantName) -> Result<bool, Failure> {
        let _one = self.changing.lock().await;
        // Somebody may have done it meanwhile, or stopped it.
        let runs = self.warden.entry(name).await?.is_some_and(|entry| entry.pid.is_some() && !entry.frozen);
        if !runs || self.inits.silent_for(name).is_none() {
            return Ok(false);
        }
        self.restart(name).await?;
        Ok(true)
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Why the history is not written; `None` when it is.
    pub(crate) fn set_no_history(&self, why: Option<String>) {
        *lock(&self.no_history) = why;
    }

    pub(crate) fn count_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Keeps what runs as it is declared, for good. Drift of a running jail is reported by `plan` and mended by `apply`;
    /// what should not run at all is stopped, what should run is started.
    pub async fn keep(self: Arc<Self>) {
        let mut failures: BTreeMap<TenantName, u32> = BTreeMap::new();
        loop {
            match self.mend(&mut failures).await {
                Ok(()) => {
                    self.first_round.send_replace(true);
                    drop(tokio::time::timeout(RECONCILE_TIME, self.changed.wait()).await);
                    // A jail that ends as soon as it is started must not keep everybody busy.
                    tokio::time::sleep(AGAIN_TIME).await;
                }
                Err(failure) => {
                    warn!(event = "reconcile-failed", "{failure}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Returns once all who are to run were started, as far as they could be.
    pub(crate) async fn first_round(&self) {
        // It ends with this program.
        drop(self.first_round.subscribe().wait_for(|is_over| *is_over).await);
    }

    async fn mend(&self, failures: &mut BTreeMap<TenantName, u32>) -> Result<(), Failure> {
        let _one = self.changing.lock().await;
        let roster = self.warden.roster().await?;
        // Nobody else starts a jail.
        self.sessions.jails_gone(|tenant| roster.get(tenant).is_none_or(|entry| entry.pid.is_none()));
        self.warden.fresh_facts().await?;
        let actions = {
            let loaded = self.policy.loaded();
            decide(&loaded.policy, &loaded.invalid, &roster)
        };
        failures.retain(|tenant, _| actions.contains_key(tenant));
        let mut rounds = Vec::new();
        for (tenant, actions) in actions {
            let count = failures.get(&tenant).copied().unwrap_or(0);
            // After some failures a tenant is tried in fewer and fewer rounds, and said so only then.
            if count > 3 && !count.is_power_of_two() {
                failures.insert(tenant, count + 1);
                continue;
            }
            failures.remove(&tenant);
            rounds.push(async move {
                let mut failed = false;
                for action in actions {
                    if let Err(failure) = self.take_action(&tenant, action).await {
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

    async fn take_action(&self, tenant: &TenantName, action: reconcile::Action) -> Result<Done, Failure> {
        match action {
            reconcile::Action::Start => {
                self.change(tenant, WardenRequest::Start { tenant: tenant.clone() }, Done::Started).await
            }
            reconcile::Action::Replace => self.restart(tenant).await,
            reconcile::Action::Stop => self.change(tenant, stop(tenant, Hold::Keep), Done::Stopped).await,
            reconcile::Action::HostUser => self.host_user(tenant).await,
        }
    }

    async fn restart(&self, tenant: &TenantName) -> Result<Done, Failure> {
        self.change(tenant, WardenRequest::Restart { tenant: tenant.clone() }, Done::Restarted).await
    }

    /// Has the host user of a tenant be there, or not, as the policy says. The warden knows the users in `/etc/passwd`; those
    /// of a directory service only an unconfined program can ask for.
    async fn host_user(&self, name: &TenantName) -> Result<Done, Failure> {
        self.is_free(name).await?;
        match self.warden.ask(&WardenRequest::HostUser { tenant: name.clone() }).await? {
            WardenReply::Unchanged => Ok(Done::Unchanged),
            _ => {
                info!(target: "bailiwick::event", tenant = %name, event = "host-user", "the host user of {name} was made or removed");
                Ok(Done::HostUserChanged)
            }
        }
    }

    /// Whether a tenant that is to come may have a host user of its name.
    pub(crate) async fn check_name(&self, _permission: OperatorPermission, name: &TenantName) -> Result<(), Failure> {
        self.is_free(name).await
    }

    async fn is_free(&self, name: &TenantName) -> Result<(), Failure> {
        let own = self.warden.entry(name).await?.map(|entry| self.policy.host().ids.host_user(entry.ids));
        if let Some(other) = users::get_user_by_name(name.as_str())
            && own != Some(HostUid(other.uid()))
        {
            let uid = other.uid();
            let message = format!("the host has a user \"{name}\" with the id {uid}; rename the tenant or the user");
            return Err(Failure::of(ExitStatus::Conflict, message));
        }
        Ok(())
    }

    /// Asks the warden for a change and says in a word what came of it.
    async fn change(&self, tenant: &TenantName, request: WardenRequest, done: Done) -> Result<Done, Failure> {
        let starts = matches!(request, WardenRequest::Start { .. } | WardenRequest::Restart { .. });
        let ends = matches!(request, WardenRequest::Stop { .. } | WardenRequest::Restart { .. });
        let inside = if ends { self.sessions.begun_in(tenant) } else { Vec::new() };
        let reply = self.warden.ask(&request).await;
        if matches!(&reply, Ok(reply) if !matches!(reply, WardenReply::GoesOn)) {
            self.sessions.jail_gone(&inside);
        }
        match &reply {
            Err(failure) if starts => drop(lock(&self.failures).insert(tenant.clone(), failure.message.clone())),
            Ok(_) => drop(lock(&self.failures).remove(tenant)),
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
                self.inits.forget(tenant);
                let word = done.to_string();
                info!(target: "bailiwick::event", tenant = %tenant, event = word, "the jail of {tenant} was {word}");
                if starts {
                    self.jail_started(tenant);
                }
                // So that its first session need not ask, and that nobody asks an init that is frozen.
                drop(self.warden.entry(tenant).await);
                if let Some(recorder) = self.recorder.get() {
                    recorder.look_again();
                }
                Ok(done)
            }
        }
    }

    /// Adds what only a process inside can tell. Several inits are asked at a time: one that does not answer holds up few.
    async fn ask_inits(self: &Arc<Self>, all: &mut [Observed]) {
        let mut asked = JoinSet::new();
        let mut waiting: Vec<(usize, TenantName, PathBuf, IdRange)> = Vec::new();
        for (index, observed) in all.iter().enumerate() {
            if let (Some(jail), Some(ids)) = (&observed.jail, observed.ids)
                && !jail.frozen
            {
                let socket = self.init_socket(&observed.tenant, jail.access);
                waiting.push((index, observed.tenant.clone(), socket, ids));
            }
        }
        let mut answered = Vec::new();
        while !waiting.is_empty() || !asked.is_empty() {
            while asked.len() < ASKED_AT_ONCE
                && let Some((index, tenant, socket, ids)) = waiting.pop()
            {
                let daemon = Arc::clone(self);
                asked.spawn(async move { (index, daemon.talk(&tenant, door::canary_denied(&socket, ids)).await.ok()) });
            }
            answered.extend(asked.join_next().await.and_then(Result::ok));
        }
        for (index, denied) in answered {
            if let Some(jail) = &mut all[index].jail {
                jail.landlock_denies_canary = denied;
            }
        }
    }

    /// Where init of a tenant's jail listens, if that jail holds storage so. Whoever was let in as one kind of tenant so reaches
    /// no jail of the other, whatever has become of the tenant since.
    fn init_socket(&self, tenant: &TenantName, access: Access) -> PathBuf {
        self.policy.host().runtime_dir.join(JAILS).join(tenant).join(init_socket(access))
    }

    /// The tenants that a request means, each with its declaration: those it names, or all that are declared.
    fn meant(&self, names: &[TenantName], roster: &Roster) -> Result<Vec<(TenantName, Option<Tenant>)>, Failure> {
        let loaded = self.policy.loaded();
        let find = |name: &TenantName| (name.clone(), loaded.policy.tenants.get(name).cloned());
        if names.is_empty() {
            let there = roster.iter().filter(|(_, entry)| entry.pid.is_some() || entry.host_user);
            let there = there.map(|(name, _)| name);
            let all: BTreeSet<&TenantName> = loaded.policy.tenants.keys().chain(there).collect();
            return Ok(all.into_iter().filter(|name| !loaded.has_nothing_of(name)).map(find).collect());
        }
        for name in names {
            if loaded.has_nothing_of(name) {
                return Err(without_policy(name));
            }
            if !loaded.policy.tenants.contains_key(name) && !roster.contains_key(name) {
                return Err(unknown(name));
            }
        }
        // The warden takes each name once.
        let mut known = BTreeSet::new();
        Ok(names.iter().filter(|name| known.insert(*name)).map(find).collect())
    }

    /// How the service is.
    pub(crate) async fn status(&self, _permission: OperatorPermission) -> HostStatus {
        let mut problems = self.policy.loaded().problems.clone();
        let no_history = lock(&self.no_history).clone();
        problems.extend(no_history.map(|why| format!("what tenants use is not recorded: {why}")));
        let (mut warden, mut tenants, mut kept) = (None, BTreeMap::new(), None);
        match in_time(self.warden.ask(&WardenRequest::Hello)).await {
            Ok(WardenReply::Hello { version }) => warden = Some(version),
            Ok(_) => problems.push(unexpected().message),
            Err(failure) => problems.push(failure.message),
        }
        // One that said nothing would say nothing again.
        if warden.is_some() {
            match in_time(self.warden.roster()).await {
                Ok(roster) => {
                    for summary in self.summaries(&roster) {
                        *tenants.entry(summary.state.word().to_owned()).or_default() += 1;
                        let down = |why| format!("the jail of \"{}\" is down: {why}", summary.name);
                        problems.extend(summary.failure.map(down));
                    }
                    if let Ok(facts) = in_time(self.warden.fresh_facts()).await {
                        problems.extend(self.lost_by_restart(&roster, &facts));
                    }
                }
                Err(failure) => problems.push(failure.message),
            }
            // An older warden does not know this.
            if let Ok(WardenReply::Problems { reserve, tenants }) =
                in_time(self.warden.ask(&WardenRequest::Problems)).await
            {
                problems.extend(reserve.iter().cloned().chain(tenants));
                kept = reserve;
            }
        }
        let policy = Box::new(self.policy.status(self.refused.load(Ordering::Relaxed)));
        // Where there is no warden, that is why.
        let no_copy = self.copies.problem().filter(|_| warden.is_some());
        problems.extend(
            no_copy.map(|why| format!("what these files say now would not be known beside a later error: {why}")),
        );
        HostStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            warden,
            uptime: self.started.elapsed().as_secs(),
            tenants,
            problems,
            reserve: kept,
            sessions: self.sessions.total(),
            policy,
        }
    }

    /// Whose jails run and could not be started again, and why.
    fn lost_by_restart(&self, roster: &Roster, facts: &HostFacts) -> Vec<String> {
        let loaded = self.policy.loaded();
        let running = roster.iter().filter(|(_, entry)| entry.pid.is_some());
        let declared = running.filter_map(|(name, _)| loaded.policy.tenants.get(name));
        let why = |tenant: &Tenant| {
            let why = cannot_start(tenant, &loaded.policy.host, facts)?;
            Some(format!("the jail of \"{}\" runs, and could not be started again: {why}", tenant.name))
        };
        declared.filter_map(why).collect()
    }

    fn add_state_of_file(&self, report: &mut TenantReport, tenant: &Tenant) {
        if self.policy.loaded().is_last_good(tenant) {
            bailiwick_audit::add_last_good(report);
        }
    }

    fn summaries(&self, roster: &Roster) -> Vec<TenantSummary> {
        let loaded = self.policy.loaded();
        let names: BTreeSet<&TenantName> =
            loaded.policy.tenants.keys().chain(roster.keys()).chain(&loaded.invalid).collect();
        names.into_iter().map(|name| self.summary(name, &loaded, roster.get(name))).collect()
    }

    fn summary(&self, name: &TenantName, loaded: &Loaded, entry: Option<&RosterEntry>) -> TenantSummary {
        let tenant = loaded.policy.tenants.get(name);
        let state = tenant_state(desired(loaded.declaration(name)).jail, &self.actual(name, entry));
        TenantSummary {
            name: name.clone(),
            state,
            plan: tenant.map(|tenant| tenant.plan.clone()),
            image: tenant.map(|tenant| tenant.settings.image.clone()),
            profile: tenant.map(|tenant| tenant.settings.profile),
            invalid: loaded.invalid.contains(name),
            failure: (state == TenantState::Down).then(|| lock(&self.failures).get(name).cloned()).flatten(),
        }
    }

    /// What a tenant has now, its init asked.
    fn actual(&self, name: &TenantName, entry: Option<&RosterEntry>) -> Actual {
        let mut actual = reconcile::actual(entry);
        if let JailState::Running(access) = actual.jail
            && self.inits.silent_for(name).is_some()
        {
            actual.jail = JailState::Silent(access);
        }
        actual
    }

    /// Everyone.
    pub(crate) async fn list(&self, _permission: OperatorPermission) -> Result<Vec<TenantSummary>, Failure> {
        Ok(self.summaries(&self.warden.roster().await?))
    }

    /// One tenant.
    pub(crate) async fn show(
        self: &Arc<Self>,
        _permission: OperatorPermission,
        name: &TenantName,
    ) -> Result<TenantDetail, Failure> {
        let entry = self.warden.entry(name).await?;
        let entry = entry.as_ref();
        let (summary, tenant, host) = {
            let loaded = self.policy.loaded();
            let tenant = loaded.policy.tenants.get(name).cloned();
            if tenant.is_none() && entry.is_none() && !loaded.invalid.contains(name) {
                return Err(unknown(name));
            }
            (self.summary(name, &loaded, entry), tenant, loaded.policy.host.clone())
        };
        let doors = |choice: fn(&Settings) -> &BTreeSet<Door>| match &tenant {
            Some(tenant) => choice(&tenant.settings).iter().map(ToString::to_string).collect(),
            None => Vec::new(),
        };
        let (doors, suspended_doors) = (doors(|all| &all.doors), doors(|all| &all.suspended_doors));
        let init_version = match (&tenant, entry) {
            (Some(tenant), Some(entry)) if entry.pid.is_some() && !entry.frozen => match self.init_of(tenant).await {
                Some((socket, ids)) => self.talk(name, door::version(&socket, ids)).await.ok(),
                None => None,
            },
            _ => None,
        };
        let limits = match &tenant {
            Some(tenant) => {
                let facts = self.warden.fresh_facts().await?;
                let mut observed = [self.warden.observe_one(name).await?];
                self.ask_inits(&mut observed).await;
                let [observed] = observed;
                let mut report = bailiwick_audit::judge(tenant, &host, &facts, &observed);
                self.add_sessions(&mut report, tenant);
                report.limits
            }
            None => Vec::new(),
        };
        // Read one after the other, so the first may be the larger.
        let all = limits.iter().find(|row| row.key == LimitKey::Memory).and_then(|row| row.used);
        let used = match (entry, self.warden.meter().await) {
            (Some(entry), Some(meter)) => meter.room(&entry.cgroups, 0).memory,
            _ => None,
        };
        let memory = all.zip(used).map(|(all, used)| MemoryUse { used, cache: all.saturating_sub(used) });
        Ok(TenantDetail {
            summary,
            suspend_reason: tenant.as_ref().and_then(|tenant| match &tenant.state {
                Declared::Suspended { reason } => reason.clone(),
                Declared::Active => None,
            }),
            pid: entry.and_then(|entry| entry.pid),
            init_version,
            ids: entry.map(|entry| entry.ids),
            cgroup: entry.map(|entry| entry.cgroups.clone()).unwrap_or_default(),
            login: tenant.as_ref().map(|tenant| tenant.login.user.to_string()),
            host_user: entry.filter(|entry| entry.host_user).map(|entry| host.ids.host_user(entry.ids)),
            doors,
            suspended_doors,
            limits,
            memory,
        })
    }

    fn add_sessions(&self, report: &mut TenantReport, tenant: &Tenant) {
        let (all, by) = (self.sessions.of(&tenant.name), self.sessions.by_door(&tenant.name));
        bailiwick_audit::add_sessions(report, tenant, all, &by);
    }

    /// The difference between declared and actual.
    pub(crate) async fn plan(
        &self,
        _permission: OperatorPermission,
        names: &[TenantName],
    ) -> Result<Vec<Change>, Failure> {
        self.policy.reload().ok();
        let roster = self.warden.roster().await?;
        let (host, facts) = (self.policy.host(), self.warden.fresh_facts().await?);
        let mut changes = Vec::new();
        for portion in self.meant(names, &roster)?.chunks(MOST_COMPARED) {
            for ((name, tenant), in_force) in portion.iter().zip(self.warden.in_force(portion, &roster).await?) {
                let tenant = tenant.as_ref();
                let actual = actual_now(tenant, roster.get(name), in_force.as_ref());
                let own = difference(name, declared(tenant), &actual, in_force.as_ref(), &facts);
                // Also of one that runs: nobody should learn of it by a restart.
                let runs = roster.get(name).is_some_and(|entry| entry.pid.is_some());
                let is_meant = runs || own.iter().any(|change| change.action == Action::Start);
                let why = tenant.filter(|_| is_meant).and_then(|tenant| cannot_start(tenant, &host, &facts));
                changes.extend(own);
                changes.extend(why.map(|why| Change {
                    tenant: name.clone(),
                    what: "start".to_owned(),
                    actual: why,
                    declared: "possible".to_owned(),
                    action: Action::None,
                }));
            }
        }
        Ok(changes)
    }

    /// Reads the policy again and makes it so; `progress` hears how many are done.
    pub(crate) async fn apply(
        &self,
        permission: OperatorPermission,
        names: &[TenantName],
        options: ApplyOptions,
        progress: mpsc::Sender<(u64, u64)>,
    ) -> Result<Vec<TenantOutcome>, Failure> {
        self.policy.reload().ok();
        info!(target: "bailiwick::event", event = "apply", uid = permission.uid, "user {} applies the policy", permission.uid);
        let _one = self.changing.lock().await;
        let roster = self.warden.roster().await?;
        // Of these nothing can be done, and it is told; the others are not held up by them.
        let (hopeless, broken): (BTreeSet<TenantName>, BTreeSet<TenantName>) = {
            let loaded = self.policy.loaded();
            let asked = |name: &&TenantName| names.is_empty() || names.contains(*name);
            loaded.invalid.iter().filter(asked).cloned().partition(|name| loaded.has_nothing_of(name))
        };
        let left: Vec<TenantName> = names.iter().filter(|name| !hopeless.contains(*name)).cloned().collect();
        let meant = if left.is_empty() && !names.is_empty() { Vec::new() } else { self.meant(&left, &roster)? };
        let (host, facts) = (self.policy.host(), self.warden.fresh_facts().await?);
        // First, while the jail can still be left in good order, and those who are in hear the reason.
        let mut outcomes = if options.now { self.end_unwanted(names, &roster).await } else { Vec::new() };
        let mut last = Instant::now();
        let total = meant.len() as u64;
        let mut done: u64 = 0;
        for portion in meant.chunks(MOST_COMPARED) {
            let in_force = self.warden.in_force(portion, &roster).await?;
            for some in portion.iter().zip(in_force).collect::<Vec<_>>().chunks(ASKED_AT_ONCE) {
                if last.elapsed() >= Duration::from_millis(200) {
                    // Nobody listens, or not fast enough: a number less is no loss.
                    progress.try_send((done, total)).ok();
                    last = Instant::now();
                }
                done += some.len() as u64;
                let one = |((name, tenant), in_force): &(&(TenantName, Option<Tenant>), Option<InForce>)| {
                    let declaration = declared(tenant.as_ref());
                    let actual = actual_now(tenant.as_ref(), roster.get(name), in_force.as_ref());
                    let step = next(desired(declaration), &actual);
                    let changes = difference(name, declaration, &actual, in_force.as_ref(), &facts);
                    let name = name.clone();
                    // One that runs goes on, without what this host cannot hold: that is not what was declared.
                    let is_up = roster.get(&name).is_some_and(|entry| entry.pid.is_some());
                    let tenant = tenant.as_ref().filter(|_| is_up);
                    let impossible = tenant.and_then(|tenant| cannot_start(tenant, &host, &facts));
                    async move { (name.clone(), self.apply_one(&name, step, &changes, options).await, impossible) }
                };
                for (name, result, impossible) in at_once(some.iter().map(one).collect()).await {
                    match result {
                        Ok(done) if impossible.is_some() => {
                            let failure = impossible.map(|why| Failure::of(ExitStatus::HostCannot, why));
                            outcomes.push(TenantOutcome { tenant: name, done, failure });
                        }
                        Ok(done) if broken.contains(&name) => {
                            let meant = meant.iter().find(|(other, _)| *other == name);
                            let state = meant.and_then(|(_, tenant)| tenant.as_ref()).map(|tenant| &tenant.state);
                            let failure = Some(last_good_failure(&name, state));
                            outcomes.push(TenantOutcome { tenant: name, done, failure });
                        }
                        Ok(Done::Unchanged) if names.is_empty() => {}
                        result => outcomes.push(outcome(name, result)),
                    }
                }
            }
        }
        let nothing = |name: &TenantName| outcome(name.clone(), Err(without_policy(name)));
        outcomes.extend(hopeless.iter().map(nothing));
        Ok(outcomes)
    }

    async fn apply_one(
        &self,
        name: &TenantName,
        step: Next,
        changes: &[Change],
        options: ApplyOptions,
    ) -> Result<Done, Failure> {
        let done = self.apply_jail(name, step.jail, changes, options).await?;
        match step.host_user {
            HostUserStep::None => Ok(done),
            HostUserStep::Make | HostUserStep::Remove => {
                let changed = self.host_user(name).await?;
                Ok(if done == Done::Unchanged { changed } else { done })
            }
        }
    }

    async fn apply_jail(
        &self,
        name: &TenantName,
        step: JailStep,
        changes: &[Change],
        options: ApplyOptions,
    ) -> Result<Done, Failure> {
        match step {
            JailStep::Stop => self.change(name, stop(name, Hold::Keep), Done::Stopped).await,
            // A tenant that is suspended, or no longer, must not go on as before, whoever is in its jail.
            JailStep::Replace => self.restart(name).await,
            // An operator asks, and waits for the warden too.
            JailStep::Start | JailStep::Wait => {
                self.change(name, WardenRequest::Start { tenant: name.clone() }, Done::Started).await
            }
            JailStep::Held => Ok(Done::Unchanged),
            JailStep::None => self.apply_settings(name, changes, options).await,
        }
    }

    /// Changes a jail that is the declared one but for its settings.
    async fn apply_settings(
        &self,
        name: &TenantName,
        changes: &[Change],
        options: ApplyOptions,
    ) -> Result<Done, Failure> {
        let of = |action| changes.iter().filter(move |change| change.action == action);
        let restarts: Vec<&str> = of(Action::Restart).map(|change| change.what.as_str()).collect();
        if !restarts.is_empty() {
            // This can wait for those who are in.
            let inside = self.sessions.inside(name);
            if inside > 0 && !options.restart {
                let what = restarts.join(", ");
                let message = format!(
                    "a changed {what} restarts the jail, and {inside} sessions are in it; `bailiwick apply --restart {name}` ends them"
                );
                return Err(Failure::of(ExitStatus::Refused, message));
            }
            return self.restart(name).await;
        }
        if of(Action::Live).next().is_some() {
            let request = WardenRequest::Limit { tenant: name.clone() };
            return self.change(name, request, Done::LimitsWritten).await;
        }
        Ok(Done::Unchanged)
    }

    /// Changes the state of jails.
    pub(crate) async fn lifecycle(
        &self,
        permission: OperatorPermission,
        verb: Verb,
        names: &[TenantName],
    ) -> Vec<TenantOutcome> {
        info!(target: "bailiwick::event", event = "lifecycle", verb = ?verb, uid = permission.uid, "user {} asks to {verb:?} {} tenants", permission.uid, names.len());
        self.policy.reload().ok();
        let _one = self.changing.lock().await;
        let one = |name: &TenantName| {
            let name = name.clone();
            async move { outcome(name.clone(), self.lifecycle_one(verb, &name).await) }
        };
        at_once(names.iter().map(one).collect()).await
    }

    async fn lifecycle_one(&self, verb: Verb, name: &TenantName) -> Result<Done, Failure> {
        let known = self.policy.loaded().policy.tenants.contains_key(name);
        if !known && self.warden.entry(name).await?.is_none() {
            return Err(unknown(name));
        }
        let tenant = || name.clone();
        match verb {
            Verb::Start => self.change(name, WardenRequest::Start { tenant: tenant() }, Done::Started).await,
            Verb::Stop => self.change(name, stop(name, Hold::Hold), Done::Stopped).await,
            Verb::Restart => self.restart(name).await,
            Verb::Freeze => self.change(name, WardenRequest::Freeze { tenant: tenant() }, Done::Frozen).await,
            Verb::Thaw => self.change(name, WardenRequest::Thaw { tenant: tenant() }, Done::Thawed).await,
        }
    }

    /// Destroys the data of a tenant whose file is gone. The warden checks that it is.
    pub(crate) async fn purge(&self, permission: OperatorPermission, name: &TenantName) -> TenantOutcome {
        info!(target: "bailiwick::event", tenant = %name, event = "purge", uid = permission.uid, "user {} purges {name}", permission.uid);
        let _one = self.changing.lock().await;
        let request = WardenRequest::Purge { tenant: name.clone() };
        let result = self.change(name, request, Done::Purged).await;
        // Also when something of it cannot be removed: the tenant is no more, and its name is free.
        let is_gone = result.as_ref().map_or_else(|failure| failure.status == ExitStatus::Partly, |_| true);
        if is_gone {
            lock(&self.failures).remove(name);
            self.sessions.forget(name);
        }
        if let (true, Ok(recorder)) = (is_gone, self.recorder()) {
            let gone = name.clone();
            // Whoever gets the name next must not find another's past under it.
            let forget = recorder.with(move |work| work.forget(&gone)).await;
            if let Err(failure) | Ok(Err(failure)) = forget {
                warn!(target: "bailiwick::event", tenant = %name, event = "history-not-forgotten", "{failure}");
            }
        }
        outcome(name.clone(), result)
    }

    /// The proof.
    pub(crate) async fn audit(
        self: &Arc<Self>,
        _permission: OperatorPermission,
        names: &[TenantName],
        depth: Depth,
    ) -> Result<AuditReport, Failure> {
        self.policy.reload().ok();
        let roster = self.warden.roster().await?;
        let (host, facts) = (self.policy.host(), self.warden.fresh_facts().await?);
        let declared: Vec<Tenant> = self.meant(names, &roster)?.into_iter().filter_map(|(_, tenant)| tenant).collect();
        let mut tenants = Vec::new();
        for portion in declared.chunks(MOST_OBSERVED) {
            let names: Vec<TenantName> = portion.iter().map(|tenant| tenant.name.clone()).collect();
            let mut all = self.warden.observe(&names).await?;
            self.ask_inits(&mut all).await;
            for (tenant, observed) in portion.iter().zip(all) {
                let mut report = bailiwick_audit::judge(tenant, &host, &facts, &observed);
                self.add_sessions(&mut report, tenant);
                if let Some(silent) = self.inits.silent_for(&tenant.name) {
                    bailiwick_audit::add_silence(&mut report, silent.as_secs());
                }
                self.add_state_of_file(&mut report, tenant);
                if let (Depth::Probe, Some(jail), Some(ids)) = (depth, &observed.jail, observed.ids)
                    && !jail.frozen
                {
                    let socket = self.init_socket(&tenant.name, jail.access);
                    let told = self.talk(&tenant.name, door::probe(&socket, ids)).await.ok();
                    let profile = confinement(tenant.settings.profile, jail.access);
                    bailiwick_audit::add_probes(&mut report, profile, told.as_deref());
                }
                tenants.push(report);
            }
        }
        let host = bailiwick_audit::host_report_with(&host.state_dir, Some(&facts));
        let report = AuditReport { tenants, host };
        self.log_audit(report.clone()).await;
        Ok(report)
    }
}

/// Waits for an answer of the warden that somebody at a terminal waits for.
async fn in_time<T>(answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(STATUS_TIME, answer).await.unwrap_or_else(|_| {
        let seconds = STATUS_TIME.as_secs();
        Err(Failure::of(ExitStatus::Failed, format!("bailiwick-warden has not answered for {seconds} s")))
    })
}

/// What a tenant has now, by the roster and by what was read in its jail later; `None` when that was not asked for.
fn actual_now(tenant: Option<&Tenant>, entry: Option<&RosterEntry>, in_force: Option<&InForce>) -> Actual {
    let mut actual = reconcile::actual(entry);
    // Of a deleted tenant nothing is read.
    if tenant.is_some() {
        let access = in_force.and_then(|in_force| in_force.jail.as_ref()).map(|jail| jail.access);
        actual.jail = actual.jail.seen_again(access);
    }
    actual
}

fn declared(tenant: Option<&Tenant>) -> Declaration<'_> {
    tenant.map_or(Declaration::Deleted, Declaration::Known)
}

/// Why this host could not hold the jail that a tenant is declared to have. Who is suspended altogether is to have none.
fn cannot_start(tenant: &Tenant, host: &Host, facts: &HostFacts) -> Option<String> {
    desired(Declaration::Known(tenant)).jail.access()?;
    bailiwick_plan::check(tenant, host, facts).err().map(|error| error.to_string())
}

fn stop(tenant: &TenantName, hold: Hold) -> WardenRequest {
    WardenRequest::Stop { tenant: tenant.clone(), hold }
}

/// That a file has errors. That its tenant is suspended is done all the same.
fn last_good_failure(name: &TenantName, state: Option<&Declared>) -> Failure {
    if matches!(state, Some(Declared::Suspended { .. })) {
        let message = format!(
            "suspended until a file without errors says otherwise; that of \"{name}\" has errors, and all else is as it last said without; see `bailiwick check`"
        );
        return Failure::of(ExitStatus::Partly, message);
    }
    let message =
        format!("the file of \"{name}\" has errors, so what it last said without is in force; see `bailiwick check`");
    Failure::of(ExitStatus::Invalid, message)
}

fn outcome(tenant: TenantName, result: Result<Done, Failure>) -> TenantOutcome {
    match result {
        Ok(done) => TenantOutcome { tenant, done, failure: None },
        Err(failure) => TenantOutcome { tenant, done: Done::Failed, failure: Some(failure) },
    }
}

#[cfg(test)]
mod tests {
    use super::entry::MAX_USER;
    use super::*;

    fn operator() -> OperatorPermission {
        crate::permission::RootPermission::of(0).expect("root").into()
    }
    use bailiwick_types::SessionRecord;

    #[tokio::test]
    async fn the_user_database_is_not_asked_about_tenants() {
        let dir = tempfile::tempdir().expect("makes");
        std::fs::write(dir.path().join("bailiwick.toml"), "admins = [\"daemon\"]\n").expect("writes");
        let daemon = Daemon::open(dir.path()).expect("is valid");
        let pool = daemon.host().ids;
        let alice: TenantName = "alice".parse().expect("a name");
        let ids = pool.range(0).expect("a range");
        daemon.warden.known().put(&alice, &crate::directory::entry_of(ids));
        for uid in [ids.first, pool.host_user(ids).0] {
            let caller = daemon.caller(uid, &[]).await;
            assert!(matches!(caller, Ok(Caller::Tenant(own)) if own.tenant == alice), "{uid}");
        }
        assert!(!daemon.admins.were_asked().await);
        // Nor is it asked about root.
        assert!(matches!(daemon.caller(0, &[]).await, Ok(Caller::Operator(_))));
        assert!(!daemon.admins.were_asked().await);
        assert!(daemon.caller(65_000, &[]).await.is_err());
        assert!(daemon.admins.were_asked().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_that_is_frozen_is_refused_without_a_word_to_its_init() {
        let (_temp, daemon) = crate::fake::host();
        let alice: TenantName = "alice".parse().expect("a name");
        let ids = daemon.host().ids.range(0).expect("a range");
        let entry = RosterEntry { pid: Some(1), frozen: true, ..crate::directory::entry_of(ids) };
        daemon.warden.known().put(&alice, &entry);
        // One that listens and never answers, as it is when it does not run.
        let socket = daemon.init_socket(&alice, Access::ReadWrite);
        std::fs::create_dir_all(socket.parent().expect("a directory")).expect("makes");
        let _init = tokio::net::UnixListener::bind(socket).expect("binds");
        crate::fake::warden(&daemon, move |request| match request {
            WardenRequest::Entry { .. } => {
                crate::fake::Answer::Reply(WardenReply::Entry(Some(Box::new(entry.clone()))))
            }
            _ => crate::fake::Answer::Never,
        });
        let begun = tokio::time::Instant::now();
        let failure = daemon.greet_for_timer(&alice).await.expect_err("frozen");
        assert!(failure.message.contains("`bailiwick thaw alice`"), "{failure}");
        let exec = bailiwick_proto::control::Exec {
            tenant: alice.clone(),
            user: None,
            argv: Vec::new(),
            env: Vec::new(),
            cwd: None,
            terminal: Some(bailiwick_proto::init::WindowSize { rows: 1, columns: 1 }),
        };
        let root = operator();
        let failure = daemon.exec(root, std::process::id(), &exec, Vec::new()).await.expect_err("frozen");
        assert!(failure.message.contains("`bailiwick thaw alice`"), "{failure}");
        assert_eq!((begun.elapsed(), daemon.sessions.of(&alice).most), (Duration::ZERO, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_warden_that_says_nothing_does_not_hold_up_the_status() {
        for knows in [false, true] {
            let (_temp, daemon) = crate::fake::host();
            crate::fake::warden(&daemon, move |request| match request {
                WardenRequest::Hello if knows => {
                    crate::fake::Answer::Reply(WardenReply::Hello { version: "1".to_owned() })
                }
                _ => crate::fake::Answer::Never,
            });
            let begun = tokio::time::Instant::now();
            let status = daemon.status(operator()).await;
            assert_eq!(status.warden.is_some(), knows);
            assert!(status.problems.iter().any(|problem| problem.contains("has not answered")), "{status:?}");
            assert!(begun.elapsed() <= 3 * STATUS_TIME, "{:?}", begun.elapsed());
        }
    }

    #[tokio::test]
    async fn a_session_is_known_again_though_its_user_has_another_name_now() {
        let (_temp, daemon) = crate::fake::host();
        let record = |user: &str| SessionRecord {
            id: bailiwick_types::SessionId(7),
            tenant: "alice".parse().expect("a name"),
            door: Door::Exec,
            user: user.to_owned(),
            source: None,
            key: None,
            command: None,
            since: bailiwick_types::Moment(0),
            uid: 0,
            pid: std::process::id(),
        };
        let resume = |user| daemon.resume(operator(), std::process::id(), record(user));
        for user in ["alice", "alice-of-before", "root", "33"] {
            let counted = resume(user).expect(user);
            assert_eq!((counted.record().user.as_str(), daemon.sessions.total()), (user, 1));
        }
        for user in ["", "root\nforged", "two words", &"x".repeat(MAX_USER + 1)] {
            assert!(resume(user).is_err(), "{user:?}");
        }
    }

    #[test]
    fn the_method_of_a_hash_does_not_tell_which_logins_there_are() {
        let dir = tempfile::tempdir().expect("makes");
        let write = |file: &str, text: String| {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("makes");
            std::fs::write(path, text).expect("writes");
        };
        let login = |setting: &str, len: usize| {
            format!("plan = \"small\"\n[[ftp]]\nname = \"blog\"\npassword = \"{setting}{}\"\n", "x".repeat(len))
        };
        write("bailiwick.toml", String::new());
        write("plans.d/small.toml", String::new());
        for tenant in ["alice", "bob", "carol"] {
            write(&format!("tenants.d/{tenant}.toml"), "plan = \"small\"\n".to_owned());
        }
        let hash = |daemon: &Daemon, user: &str| {
            daemon.ftp_hash(crate::permission::RootPermission::of(0).expect("root"), user).as_str().to_owned()
        };
        assert!(hash(&Daemon::open(dir.path()).expect("is valid"), "blog@alice").starts_with("$y$"));
        write("tenants.d/alice.toml", login("$6$saltsalt$", 86));
        write("tenants.d/bob.toml", login("$5$saltsalt$", 43));
        let daemon = Daemon::open(dir.path()).expect("is valid");
        for (user, golden) in [
            ("blog@alice", format!("$6$saltsalt${}", "x".repeat(86))),
            ("shop@alice", format!("$6$saltsalt${}", ".".repeat(86))),
            ("shop@bob", format!("$5$saltsalt${}", ".".repeat(43))),
            ("blog@carol", format!("$6$saltsalt${}", ".".repeat(86))),
            ("root", format!("$6$saltsalt${}", ".".repeat(86))),
        ] {
            assert_eq!(hash(&daemon, user), golden, "{user}");
        }
    }
}
