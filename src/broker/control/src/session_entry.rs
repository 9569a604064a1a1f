//! Opens sessions: checks who may enter a jail by which door, counts the session, and hands it to init.
//!
//! Danger: this is the only way into a jail. Before init gets a request, the kernel or the policy must have named the
//! user, the door must be open, and the session must be counted.

use crate::door;
use crate::init_client::{self, InitClient, InitError};
use crate::inits::Inits;
use crate::permission::{OperatorPermission, TenantPermission};
use crate::refusals::{Client, Refusals, by_timer, check};
use crate::sessions::{SessionGuard, SessionRequest, Sessions};
use crate::start_failures::StartFailures;
use crate::tenants::Tenants;
use crate::waking::{Cause, Claim, Waking};
use bailiwick_plan::{lifecycle, rescue};
use bailiwick_policy::{Declared, Tenant};
use bailiwick_proto::control::{Exec, Login, WhyCheck};
use bailiwick_proto::init::Spawn;
use bailiwick_proto::{Failure, Refusal, WardenRequest};
use bailiwick_sys::proc;
use bailiwick_types::{Door, ExitStatus, FrozenBy, HostUid, LimitKey, Moment, SessionRecord, TenantName, visible};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tracing::{info, warn};

/// The longest name of a user inside a jail, in bytes.
const MAX_USER: usize = 32;

/// Opens sessions by every door except FTP.
#[derive(Debug)]
pub(crate) struct SessionEntry {
    tenants: Arc<Tenants>,
    inits: Arc<Inits>,
    sessions: Arc<Sessions>,
    failures: Arc<StartFailures>,
    refusals: Arc<Refusals>,
    waking: Arc<Waking>,
}

impl SessionEntry {
    pub(crate) fn new(
        tenants: Arc<Tenants>,
        inits: Arc<Inits>,
        sessions: Arc<Sessions>,
        failures: Arc<StartFailures>,
        refusals: Arc<Refusals>,
        waking: Arc<Waking>,
    ) -> Self {
        Self { tenants, inits, sessions, failures, refusals, waking }
    }

    /// Opens an operator's session. Returns the client's end of its channel, and the guard that counts the session.
    pub(crate) async fn exec(
        &self,
        permission: OperatorPermission,
        pid: u32,
        exec: &Exec,
        streams: Vec<OwnedFd>,
    ) -> Result<(OwnedFd, SessionGuard), Failure> {
        let client = Client { door: Door::Exec, uid: permission.uid, pid, source: None, key: None };
        let entered = async {
            self.enter(&self.tenants.policy.declared(&exec.tenant)?, &client, exec, None, streams, None).await
        };
        entered.await.inspect_err(|failure| self.refusals.log(&client, &exec.tenant, failure))
    }

    /// Opens a session for a tenant's own host user.
    pub(crate) async fn login(
        &self,
        own: &TenantPermission,
        pid: u32,
        login: &Login,
        streams: Vec<OwnedFd>,
    ) -> Result<(OwnedFd, SessionGuard), Failure> {
        let Login { door, source, key, .. } = login.clone();
        let client = Client { door, uid: own.uid, pid, source, key };
        let entered = async {
            self.is_host_user(own)?;
            let tenant = self.tenants.policy.declared(&own.tenant)?;
            let exec = door::of_login(&tenant, login)?;
            self.enter(&tenant, &client, &exec, None, streams, None).await
        };
        entered.await.inspect_err(|failure| self.refusals.log(&client, &own.tenant, failure))
    }

    /// The check whether a tenant has the host user that sshd logs in.
    pub(crate) async fn rehearse_host_user(&self, tenant: &Tenant) -> WhyCheck {
        let entry = self.tenants.warden.entry(&tenant.name).await.ok().flatten().filter(|entry| entry.host_user);
        let user = entry.map(|entry| self.tenants.policy.host().ids.host_user(entry.ids));
        match user {
            Some(HostUid(uid)) => check("host-user", format!("sshd knows the tenant as the user {uid}"), Ok(())),
            None => {
                let message = format!(
                    "\"{0}\" has no user of the host, so sshd refuses it: add \"ssh\" or \"sftp\" to `doors`, or run \
                     `bailiwick apply {0}`",
                    tenant.name
                );
                check("host-user", "none", Err(Failure::of(ExitStatus::Refused, message)))
            }
        }
    }

    fn is_host_user(&self, own: &TenantPermission) -> Result<(), Failure> {
        let ids = self.tenants.warden.known().get(&own.tenant).map(|known| known.ids);
        if ids.map(|ids| self.tenants.policy.host().ids.host_user(ids)) == Some(HostUid(own.uid)) {
            return Ok(());
        }
        let message = format!("user {} is not the host user of \"{}\"", own.uid, own.tenant);
        Err(Failure::of(ExitStatus::Refused, message))
    }

    /// Counts an operator's session that an earlier daemon opened.
    pub(crate) fn resume(
        &self,
        permission: OperatorPermission,
        pid: u32,
        record: SessionRecord,
    ) -> Result<SessionGuard, Failure> {
        if record.door != Door::Exec || !self.tenants.knows(&record.tenant) {
            return Err(Failure::of(ExitStatus::Refused, format!("no operator is in \"{}\" so", record.tenant)));
        }
        let user = record.user.clone();
        self.resume_record(SessionRecord { uid: permission.uid, pid, source: None, key: None, ..record }, &user)
    }

    /// Counts a session of a tenant's host user that an earlier daemon opened.
    pub(crate) fn resume_login(
        &self,
        own: &TenantPermission,
        pid: u32,
        record: SessionRecord,
    ) -> Result<SessionGuard, Failure> {
        self.is_host_user(own)?;
        door::check_client(record.source.as_deref(), record.key.as_deref())?;
        if record.tenant != own.tenant || !matches!(record.door, Door::Ssh | Door::Sftp) {
            return Err(Failure::of(ExitStatus::Refused, format!("no user of \"{}\" is in so", own.tenant)));
        }
        // A host user logs in only as the login user of its tenant.
        let login =
            self.tenants.policy.loaded().policy.tenants.get(&own.tenant).map(|tenant| tenant.login.user.to_string());
        let user = login.unwrap_or_else(|| record.user.clone());
        self.resume_record(SessionRecord { uid: own.uid, pid, ..record }, &user)
    }

    /// Counts a session that its client describes. Facts that can be had elsewhere are not taken from the client. The
    /// others are checked or bounded.
    fn resume_record(&self, record: SessionRecord, user: &str) -> Result<SessionGuard, Failure> {
        // The policy may have named this user when the session began, and no longer name it now.
        if user.is_empty()
            || user.len() > MAX_USER
            || !user.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        {
            return Err(Failure::of(ExitStatus::Invalid, "this is no name of a user"));
        }
        // The start lies between the start of the client process and now.
        let now = Moment(crate::sessions::now());
        let born =
            proc::age(record.pid).map_or(now, |age| Moment(now.0.saturating_sub(age.as_secs().saturating_add(1))));
        let since = record.since.clamp(born.min(now), now);
        let command = record.command.as_deref().map(|command| door::short(visible(command).into_owned()));
        self.sessions.resume(SessionRecord { user: user.to_owned(), since, command, ..record })
    }

    /// Opens a session for a timer; this program is its client. `command` is the text that lists show.
    pub(crate) async fn enter_by_timer(
        &self,
        tenant: &TenantName,
        exec: &Exec,
        command: String,
        streams: Vec<OwnedFd>,
        init: InitClient,
    ) -> Result<(OwnedFd, SessionGuard), Failure> {
        let client = by_timer();
        let enter = async {
            self.enter(&self.tenants.policy.declared(tenant)?, &client, exec, Some(command), streams, Some(init)).await
        };
        enter.await.inspect_err(|failure| self.refusals.log(&client, tenant, failure))
    }

    /// Makes the jail of a tenant run for a timer that is due, if it is asleep. The claim keeps it awake.
    pub(crate) async fn wake_for_timer(&self, tenant: &TenantName) -> Result<Claim, Failure> {
        let wake = async {
            let tenant = self.tenants.policy.declared(tenant)?;
            door::check_open(&tenant, Door::Cron)?;
            let claim = self.waking.keep_awake(&tenant.name).await;
            self.waking.wake_if_asleep(&tenant, Cause::Door(Door::Cron)).await?;
            Ok(claim)
        };
        wake.await.inspect_err(|failure| self.refusals.log(&by_timer(), tenant, failure))
    }

    /// Connects to the init of a tenant for a timer, before the timer takes a session's place.
    pub(crate) async fn greet_for_timer(&self, tenant: &TenantName) -> Result<InitClient, Failure> {
        let greet = async {
            let tenant = self.tenants.policy.declared(tenant)?;
            door::check_open(&tenant, Door::Cron)?;
            self.check_awake(&tenant.name).await?;
            match self.greet(&tenant).await {
                Ok(init) => Ok(init),
                Err(error) => Err(self.explain(&tenant, error).await),
            }
        };
        greet.await.inspect_err(|failure| self.refusals.log(&by_timer(), tenant, failure))
    }

    /// Refuses a tenant that an operator has frozen at once, because its init cannot answer.
    async fn check_awake(&self, name: &TenantName) -> Result<(), Failure> {
        let by_operator = Some(FrozenBy::Operator);
        if self.tenants.was_frozen(name) == by_operator && self.tenants.frozen(name).await == by_operator {
            return Err(Refusal::Frozen { tenant: name.clone() }.into());
        }
        Ok(())
    }

    /// Connects to the init of a tenant, and wakes the tenant for this if it is asleep.
    async fn greet_awake(&self, tenant: &Tenant, door: Door) -> Result<InitClient, Failure> {
        match self.greet(tenant).await {
            Ok(init) => return Ok(init),
            Err(InitError::Down) if lifecycle::sleep(tenant).is_ok() => {
                self.waking.wake(&tenant.name, Cause::Door(door)).await?;
            }
            Err(error) => return Err(self.explain(tenant, error).await),
        }
        match self.greet(tenant).await {
            Ok(init) => Ok(init),
            Err(error) => Err(self.explain(tenant, error).await),
        }
    }

    async fn greet(&self, tenant: &Tenant) -> Result<InitClient, InitError> {
        let (socket, ids) = self.tenants.init_of(tenant).await.ok_or(InitError::Down)?;
        self.inits.talk(&tenant.name, init_client::connect(&socket, ids)).await
    }

    /// Runs the checks of [`Self::login`] and [`Self::enter`] for one session more, in their order. Nothing is opened, counted
    /// or woken, and the checks after a refusal are run too.
    pub(crate) async fn rehearse(&self, tenant: &Tenant, door: Door, user: Option<&str>) -> Vec<WhyCheck> {
        let name = &tenant.name;
        let mut checks = vec![check("door", "it is open", door::check_open(tenant, door))];
        let user = user.map(str::to_owned).or_else(|| (door != Door::Exec).then(|| tenant.login.user.to_string()));
        let (shown, known) = match door::user(tenant, user.as_deref()) {
            Ok((user, shown)) => (format!("\"{shown}\" has the number {} inside", user.uid), Ok(())),
            Err(failure) => (String::new(), Err(failure)),
        };
        checks.push(check("user", shown, known));
        let thawed = self.check_awake(name).await;
        let by = self.tenants.frozen(name).await;
        let found =
            if by == Some(FrozenBy::Idle) { "frozen because it is idle: a login thaws it" } else { "not frozen" };
        checks.push(check("frozen", found, thawed.clone()));
        let user = user.unwrap_or_else(|| "root".to_owned());
        let (found, counted) = self.sessions.would_enter(tenant, door, &user, None);
        checks.push(check("sessions", found, counted));
        let reached = self.reached(tenant).await.into_iter().map(LimitKey::word).collect::<Vec<_>>().join(" and ");
        let found = match (reached.as_str(), door) {
            ("", _) => "neither memory nor tasks are used up".to_owned(),
            (reached, Door::Cron) => format!("the tenant is at its limit of {reached}, so a job may fail inside"),
            (reached, _) => format!("the tenant is at its limit of {reached}; a session gets a reserve to help itself"),
        };
        checks.push(check("room", found, Ok(())));
        if by.is_none() {
            let (found, answers) = match self.greet(tenant).await {
                Ok(_) => ("the jail runs, and its init answers".to_owned(), Ok(())),
                Err(InitError::Down) if lifecycle::sleep(tenant).is_ok() => {
                    ("the tenant is asleep: a login wakes it".to_owned(), Ok(()))
                }
                Err(error) => (error.to_string(), Err(self.explain(tenant, error).await)),
            };
            checks.push(check("jail", found, answers));
        }
        checks
    }

    async fn enter(
        &self,
        tenant: &Tenant,
        client: &Client,
        exec: &Exec,
        command: Option<String>,
        streams: Vec<OwnedFd>,
        init: Option<InitClient>,
    ) -> Result<(OwnedFd, SessionGuard), Failure> {
        let name = &tenant.name;
        let spawn = door::admit(tenant, client.door, exec, &streams)?;
        self.check_awake(name).await?;
        let Client { door, uid, pid, source, key } = client.clone();
        let request = SessionRequest {
            door,
            user: exec.user.clone().unwrap_or_else(|| "root".to_owned()),
            source,
            key,
            command: command.map(door::short).or_else(|| door::in_words(exec)),
            uid,
            pid,
            most: None,
        };
        let mut counted = self.sessions.enter(tenant, request)?;
        // The session is counted, so the tenant stays awake. It may just be falling asleep, though, or be frozen.
        drop(self.waking.keep_awake(name).await);
        self.waking.thaw_if_idle(name, Cause::Door(door)).await?;
        let user = spawn.user.uid;
        // A timer cannot help the tenant out of its limits, so it gets no allowance.
        let reached = if door == Door::Cron { Vec::new() } else { self.reached(tenant).await };
        let given = if reached.is_empty() { None } else { Some(self.rescue(name).await) };
        let opened = self.session(tenant, door, init, spawn, streams).await;
        if let Some(Ok(())) = given {
            self.rescued(tenant).await;
        }
        let channel = opened?;
        counted.opened(user);
        if let Some(given) = given {
            let reached = reached.into_iter().map(LimitKey::word).collect::<Vec<_>>().join(" and ");
            let told = format!("tenant \"{name}\" is at its limit of {reached}");
            counted.set_notice(match given {
                Ok(()) => {
                    let (tasks, memory) = (rescue::TASKS, rescue::MEMORY);
                    format!("{told}; this session has a reserve of {tasks} tasks and {memory} of memory to help itself")
                }
                Err(failure) => format!("{told}, and this session gets no reserve: {failure}"),
            });
        }
        if let Declared::Suspended { reason } = &tenant.state {
            let told = door::suspended(name, reason.as_deref());
            counted.set_notice(format!("{told} (what is there can be read, and nothing can be changed)"));
        }
        Ok((channel, counted))
    }

    /// The limits that would keep a session from starting or from being useful.
    async fn reached(&self, tenant: &Tenant) -> Vec<LimitKey> {
        let limits = &tenant.settings.limits;
        let Some(meter) = self.tenants.warden.meter().await else { return Vec::new() };
        let known = self.tenants.warden.known().get(&tenant.name).map(|known| known.cgroups.clone());
        let cgroups = match known.filter(|cgroups| !cgroups.is_empty()) {
            Some(cgroups) => cgroups,
            // The jail may have been down when its entry was last read.
            None => match self.tenants.warden.entry(&tenant.name).await {
                Ok(Some(entry)) => entry.cgroups,
                _ => return Vec::new(),
            },
        };
        meter.room(&cgroups, rescue::enough_memory(limits)).reached(limits)
    }

    /// Has the next session of a tenant begin on the emergency session's allowance. If that fails, it begins like any
    /// other.
    async fn rescue(&self, name: &TenantName) -> Result<(), Failure> {
        let given = self.tenants.warden.ask(&WardenRequest::Rescue { tenant: name.clone() }).await;
        match &given {
            Ok(_) => {
                info!(target: "bailiwick::event", tenant = %name, event = "rescue", "{name} gets the reserve for a session");
            }
            Err(failure) => {
                info!(target: "bailiwick::event", tenant = %name, event = "no-rescue", "{failure}");
            }
        }
        given.map(drop)
    }

    async fn rescued(&self, tenant: &Tenant) {
        if let Some((socket, ids)) = self.tenants.init_of(tenant).await {
            drop(self.inits.talk(&tenant.name, init_client::wait_for(&socket, ids)).await);
        }
        // If this fails, the warden ends the allowance by itself some seconds later.
        if let Err(failure) = self.tenants.warden.ask(&WardenRequest::Rescued { tenant: tenant.name.clone() }).await {
            warn!(target: "bailiwick::event", tenant = %tenant.name, event = "rescue-not-over", "{failure}");
        }
    }

    async fn session(
        &self,
        tenant: &Tenant,
        door: Door,
        init: Option<InitClient>,
        spawn: Spawn,
        streams: Vec<OwnedFd>,
    ) -> Result<OwnedFd, Failure> {
        let init = match init {
            Some(init) => init,
            None => self.greet_awake(tenant, door).await?,
        };
        match self.inits.talk(&tenant.name, init_client::open(init, spawn, streams)).await {
            Ok(channel) => Ok(channel),
            Err(error) => Err(self.explain(tenant, error).await),
        }
    }

    /// Says in the operator's words why a session could not be opened.
    async fn explain(&self, tenant: &Tenant, error: InitError) -> Failure {
        let name = &tenant.name;
        let is_frozen = matches!(error, InitError::Silent) && self.tenants.frozen(name).await.is_some();
        let failure = self.failures.of(name);
        let tenant_name = || name.clone();
        let refusal = match (error, &tenant.state) {
            (InitError::Down, Declared::Suspended { reason }) => door::suspended(name, reason.as_deref()),
            (InitError::Down, _) if matches!(self.tenants.warden.entry(name).await, Ok(Some(entry)) if entry.preparing) => {
                Refusal::Preparing { tenant: tenant_name() }
            }
            (InitError::Down, _) => Refusal::NotRunning { tenant: tenant_name(), why: failure },
            (_, _) if is_frozen => Refusal::Frozen { tenant: tenant_name() },
            (error, _) => {
                return Failure::of(ExitStatus::Refused, format!("cannot open a session in \"{name}\": {error}"));
            }
        };
        refusal.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_proto::WardenReply;
    use bailiwick_proto::warden::RosterEntry;
    use bailiwick_types::Access;
    use std::time::Duration;

    fn operator() -> OperatorPermission {
        crate::permission::RootPermission::of(0).expect("root").into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_that_is_frozen_is_refused_without_a_word_to_its_init() {
        let (_temp, services) = crate::fake::host();
        let alice: TenantName = "alice".parse().expect("a name");
        let ids = services.host().ids.range(0).expect("a range");
        let entry = RosterEntry { pid: Some(1), frozen: true, ..crate::directory::entry_of(ids) };
        services.tenants.warden.known().learn(&alice, &entry);
        // This init listens and never answers, as a frozen one.
        let socket = services.tenants.init_socket(&alice, Access::ReadWrite);
        std::fs::create_dir_all(socket.parent().expect("a directory")).expect("makes");
        let _init = tokio::net::UnixListener::bind(socket).expect("binds");
        crate::fake::warden(&services, move |request| match request {
            WardenRequest::Entry { .. } => {
                crate::fake::Answer::Reply(WardenReply::Entry(Some(Box::new(entry.clone()))))
            }
            _ => crate::fake::Answer::Never,
        });
        let begun = tokio::time::Instant::now();
        let failure = services.session_entry.greet_for_timer(&alice).await.expect_err("frozen");
        assert!(failure.message.contains("`bailiwick thaw alice`"), "{failure}");
        let exec = Exec {
            tenant: alice.clone(),
            user: None,
            argv: Vec::new(),
            env: Vec::new(),
            cwd: None,
            terminal: Some(bailiwick_proto::init::WindowSize { rows: 1, columns: 1 }),
        };
        let root = operator();
        let failure =
            services.session_entry.exec(root, std::process::id(), &exec, Vec::new()).await.expect_err("frozen");
        assert!(failure.message.contains("`bailiwick thaw alice`"), "{failure}");
        assert_eq!((begun.elapsed(), services.sessions.of(&alice).most), (Duration::ZERO, 0));
    }

    #[tokio::test]
    async fn a_session_is_known_again_though_its_user_has_another_name_now() {
        let (_temp, services) = crate::fake::host();
        let record = |user: &str| SessionRecord {
            id: bailiwick_types::SessionId(7),
            tenant: "alice".parse().expect("a name"),
            door: Door::Exec,
            user: user.to_owned(),
            source: None,
            key: None,
            command: None,
            since: Moment(0),
            uid: 0,
            pid: std::process::id(),
        };
        let resume = |user| services.session_entry.resume(operator(), std::process::id(), record(user));
        for user in ["alice", "alice-of-before", "root", "33"] {
            let counted = resume(user).expect(user);
            assert_eq!((counted.record().user.as_str(), services.sessions.total()), (user, 1));
        }
        for user in ["", "root\nforged", "two words", &"x".repeat(MAX_USER + 1)] {
            assert!(resume(user).is_err(), "{user:?}");
        }
    }
}
