//! Entries: who is let into a jail by which door, who is in, and who must leave.
//!
//! Danger: this is the only way into a jail. Whoever is let in was named by the kernel or by the policy, the door is open, and
//! the session is counted before init hears of it.

use super::Daemon;
use crate::door::{self, DoorError, Init};
use crate::ftp::{Held, Note};
use crate::permission::{OperatorPermission, RootPermission, TenantPermission};
use crate::policy_store::unknown;
use crate::reconcile;
use crate::sessions::{Counted, Newcomer};
use crate::sync::lock;
use crate::warden_client::Roster;
use bailiwick_plan::lifecycle::{Declaration, JailStep, desired, next};
use bailiwick_plan::rescue;
use bailiwick_plan::seed::LOGIN_ID;
use bailiwick_policy::{Declared, Tenant};
use bailiwick_proto::control::{Done, Exec, Login, TenantOutcome};
use bailiwick_proto::init::Spawn;
use bailiwick_proto::warden::FtpProcess;
use bailiwick_proto::{Failure, Refusal, WardenRequest};
use bailiwick_sys::{proc, process};
use bailiwick_types::{
    Door, ExitStatus, FtpUser, HostUid, IdRange, LimitKey, Moment, PasswordHash, SessionId, SessionRecord, TenantName,
    TimerReport, visible,
};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::{info, warn};

/// How long clients may take to end their sessions.
const END_TIME: Duration = Duration::from_secs(5);

/// The longest name of a user inside.
pub(super) const MAX_USER: usize = 32;

/// Of random bytes that nobody has kept, by the method and the cost that `bailiwick password` uses. Where there is no login to take
/// the method from.
const NOBODY: &str = "$y$j9T$D7TvcSFvIlGpEkFVkXmRs0$PVJVZr.iZXKXOrpzJwLvzzeg65p20T86Q0D3KhW3Dv0";

/// Who asks to be let in, as the kernel and sshd say.
#[derive(Debug, Clone)]
struct Client {
    door: Door,
    uid: u32,
    pid: u32,
    source: Option<String>,
    key: Option<String>,
}

/// This program itself.
fn by_timer() -> Client {
    let uid = rustix::process::geteuid().as_raw();
    Client { door: Door::Cron, uid, pid: std::process::id(), source: None, key: None }
}

impl Client {
    fn log_refusal(&self, daemon: &Daemon, tenant: &TenantName, failure: &Failure) {
        self.log_refusal_of(daemon, tenant, failure);
    }

    fn log_refusal_of(&self, daemon: &Daemon, tenant: &dyn std::fmt::Display, failure: &Failure) {
        daemon.count_refusal();
        let Self { door, uid, source, .. } = self;
        let (source, status) = (source.as_deref().unwrap_or_default(), failure.status.code());
        info!(target: "bailiwick::event", tenant = %tenant, event = "session-refused", door = %door, uid, source, status, "{failure}");
    }
}

impl Daemon {
    /// Lets an operator's session in: the client's end of its channel, and the value that counts it.
    pub(crate) async fn exec(
        &self,
        permission: OperatorPermission,
        pid: u32,
        exec: &Exec,
        streams: Vec<OwnedFd>,
    ) -> Result<(OwnedFd, Counted), Failure> {
        let client = Client { door: Door::Exec, uid: permission.uid, pid, source: None, key: None };
        let entered =
            async { self.enter(&self.policy.declared(&exec.tenant)?, &client, exec, None, streams, None).await };
        entered.await.inspect_err(|failure| client.log_refusal(self, &exec.tenant, failure))
    }

    /// Lets a tenant's own host user in.
    pub(crate) async fn login(
        &self,
        own: &TenantPermission,
        pid: u32,
        login: &Login,
        streams: Vec<OwnedFd>,
    ) -> Result<(OwnedFd, Counted), Failure> {
        let Login { door, source, key, .. } = login.clone();
        let client = Client { door, uid: own.uid, pid, source, key };
        let entered = async {
            self.is_host_user(own)?;
            let tenant = self.policy.declared(&own.tenant)?;
            let exec = door::of_login(&tenant, login)?;
            self.enter(&tenant, &client, &exec, None, streams, None).await
        };
        entered.await.inspect_err(|failure| client.log_refusal(self, &own.tenant, failure))
    }

    fn is_host_user(&self, own: &TenantPermission) -> Result<(), Failure> {
        let ids = self.warden.known().get(&own.tenant).map(|known| known.ids);
        if ids.map(|ids| self.policy.host().ids.host_user(ids)) == Some(HostUid(own.uid)) {
            return Ok(());
        }
        let message = format!("user {} is not the host user of \"{}\"", own.uid, own.tenant);
        Err(Failure::of(ExitStatus::Refused, message))
    }

    /// Counts an operator's session that an earlier daemon let in.
    pub(crate) fn resume(
        &self,
        permission: OperatorPermission,
        pid: u32,
        record: SessionRecord,
    ) -> Result<Counted, Failure> {
        if record.door != Door::Exec || !self.knows(&record.tenant) {
            return Err(Failure::of(ExitStatus::Refused, format!("no operator is in \"{}\" so", record.tenant)));
        }
        let user = record.user.clone();
        self.take_up(SessionRecord { uid: permission.uid, pid, source: None, key: None, ..record }, &user)
    }

    /// The same of a tenant's own host user.
    pub(crate) fn resume_login(
        &self,
        own: &TenantPermission,
        pid: u32,
        record: SessionRecord,
    ) -> Result<Counted, Failure> {
        self.is_host_user(own)?;
        door::check_client(record.source.as_deref(), record.key.as_deref())?;
        if record.tenant != own.tenant || !matches!(record.door, Door::Ssh | Door::Sftp) {
            return Err(Failure::of(ExitStatus::Refused, format!("no user of \"{}\" is in so", own.tenant)));
        }
        // It logs in as one user and no other.
        let login = self.policy.loaded().policy.tenants.get(&own.tenant).map(|tenant| tenant.login.user.to_string());
        let user = login.unwrap_or_else(|| record.user.clone());
        self.take_up(SessionRecord { uid: own.uid, pid, ..record }, &user)
    }

    /// Counts a session of which its client tells. What can be told from elsewhere is not taken from it, and what cannot is made harmless.
    fn take_up(&self, record: SessionRecord, user: &str) -> Result<Counted, Failure> {
        // The policy may have had it when the session began, and not any more.
        if user.is_empty()
            || user.len() > MAX_USER
            || !user.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        {
            return Err(Failure::of(ExitStatus::Invalid, "this is no name of a user"));
        }
        // It is not older than its client, and has begun.
        let now = Moment(crate::sessions::now());
        let born =
            proc::age(record.pid).map_or(now, |age| Moment(now.0.saturating_sub(age.as_secs().saturating_add(1))));
        let since = record.since.clamp(born.min(now), now);
        let command = record.command.as_deref().map(|command| door::short(visible(command).into_owned()));
        self.sessions.resume(SessionRecord { user: user.to_owned(), since, command, ..record })
    }

    /// Lets a timer in, which this program is the client of. `command` is what is shown of it.
    pub(crate) async fn enter_by_timer(
        &self,
        tenant: &TenantName,
        exec: &Exec,
        command: String,
        streams: Vec<OwnedFd>,
        init: Init,
    ) -> Result<(OwnedFd, Counted), Failure> {
        let client = by_timer();
        let enter = async {
            self.enter(&self.policy.declared(tenant)?, &client, exec, Some(command), streams, Some(init)).await
        };
        enter.await.inspect_err(|failure| client.log_refusal(self, tenant, failure))
    }

    /// Whether the init of a tenant lets a timer in: it is greeted before the timer takes a place of anybody's.
    pub(crate) async fn greet_for_timer(&self, tenant: &TenantName) -> Result<Init, Failure> {
        let greet = async {
            let tenant = self.policy.declared(tenant)?;
            door::check_open(&tenant, Door::Cron)?;
            self.check_awake(&tenant.name).await?;
            match self.greet(&tenant).await {
                Ok(init) => Ok(init),
                Err(error) => Err(self.explain(&tenant, error).await),
            }
        };
        greet.await.inspect_err(|failure| by_timer().log_refusal(self, tenant, failure))
    }

    /// Refuses at once whom an operator has frozen: its init would be waited for in vain.
    async fn check_awake(&self, name: &TenantName) -> Result<(), Failure> {
        if self.was_frozen(name) && self.is_frozen(name).await {
            return Err(Refusal::Frozen { tenant: name.clone() }.into());
        }
        Ok(())
    }

    async fn greet(&self, tenant: &Tenant) -> Result<Init, DoorError> {
        let (socket, ids) = self.init_of(tenant).await.ok_or(DoorError::Down)?;
        self.talk(&tenant.name, door::greet(&socket, ids)).await
    }

    /// What the password of a login for FTP is compared with: of one that there is not a hash that takes as long to compare as those of
    /// its tenant's, or of whoever has some.
    pub(crate) fn ftp_hash(&self, _permission: RootPermission, user: &str) -> PasswordHash {
        let user = user.parse::<FtpUser>().ok();
        let loaded = self.policy.loaded();
        let own = user.as_ref().and_then(|user| loaded.policy.tenants.get(&user.tenant));
        let own = own.map_or(&[][..], |tenant| &tenant.ftp);
        if let Some(login) = own.iter().find(|login| user.as_ref().is_some_and(|user| user.name == login.name)) {
            return login.password.clone();
        }
        let others = loaded.policy.tenants.values().flat_map(|tenant| &tenant.ftp);
        let like = own.iter().chain(others).next();
        like.map_or_else(|| NOBODY.parse().expect("a hash"), |login| login.password.of_nobody())
    }

    /// A password for FTP was wrong.
    pub(crate) fn ftp_refused(&self, permission: RootPermission, pid: u32, user: &str, source: Option<String>) {
        let client = Client { door: Door::Ftp, uid: OperatorPermission::from(permission).uid, pid, source, key: None };
        let user = door::short(visible(user).into_owned());
        let failure = Failure::of(ExitStatus::Refused, format!("a wrong login or password for \"{user}\""));
        let known = user.parse::<FtpUser>().ok().filter(|user| self.knows(&user.tenant));
        match known {
            Some(user) => client.log_refusal(self, &user.tenant, &failure),
            None => client.log_refusal_of(self, &format_args!("-"), &failure),
        }
    }

    /// Counts a process of an FTP server that is about to enter.
    pub(crate) fn ftp_enter(
        &self,
        permission: RootPermission,
        pid: u32,
        user: &FtpUser,
        source: Option<String>,
    ) -> Result<Counted, Failure> {
        let uid = OperatorPermission::from(permission).uid;
        let client = Client { door: Door::Ftp, uid, pid, source: source.clone(), key: None };
        let entered = || {
            door::check_client(source.as_deref(), None)?;
            let tenant = self.policy.declared(&user.tenant)?;
            door::check_open(&tenant, Door::Ftp)?;
            let login = tenant.ftp.iter().find(|login| login.name == user.name);
            let login =
                login.ok_or_else(|| Failure::of(ExitStatus::Refused, format!("there is no login \"{user}\"")))?;
            let newcomer = Newcomer {
                door: Door::Ftp,
                user: user.to_string(),
                source: source.clone(),
                key: None,
                command: (!login.directory.is_empty()).then(|| door::short(login.directory.clone())),
                uid,
                pid,
                most: login.sessions,
            };
            self.sessions.enter(&tenant, newcomer)
        };
        entered().inspect_err(|failure| client.log_refusal(self, &user.tenant, failure))
    }

    /// The process that was counted is in the jail: from now on it is counted for as long as it lives. It waits for the answer, so
    /// its number is its own.
    pub(crate) async fn ftp_entered(self: &Arc<Self>, mut counted: Counted) -> Result<(), Failure> {
        let record = counted.record().clone();
        let failed = |error: std::io::Error| Failure::new(ExitStatus::Failed, &error);
        let pidfd = process::open(record.pid).map_err(failed)?;
        let of = |process: &FtpProcess| process.tenant == record.tenant && process.pid == record.pid;
        let process = self.warden.ftp_processes(Some(&record.tenant)).await?.into_iter().find(of).ok_or_else(|| {
            Failure::of(
                ExitStatus::Refused,
                format!("process {} is not in the jail of \"{}\"", record.pid, record.tenant),
            )
        })?;
        self.ftp.note(Note { record, process: process.clone() })?;
        counted.opened(LOGIN_ID);
        tokio::spawn(Arc::clone(self).attend_ftp(counted, process, pidfd));
        Ok(())
    }

    /// Counts a session until its process ends; has it ended when it must.
    async fn attend_ftp(self: Arc<Self>, counted: Counted, process: FtpProcess, pidfd: OwnedFd) {
        let id = counted.record().id;
        let mut held = Held::new(counted);
        // Without a place to wait the session is not counted any more, which is told; it is not ended for that.
        #[expect(
            deprecated,
            reason = "what is deprecated about it are descriptors that somebody else may close: this one is owned"
        )]
        match AsyncFd::with_interest(pidfd, Interest::READABLE) {
            Ok(pidfd) => loop {
                tokio::select! {
                    biased;
                    _ = pidfd.readable() => break,
                    _ = held.counted().end() => {}
                }
                if let Err(failure) = self.warden.ask(&WardenRequest::EndFtp { process: process.clone() }).await {
                    warn!(target: "bailiwick::event", tenant = %process.tenant, event = "session-not-ended", session = %id, "{failure}");
                }
            },
            Err(error) => warn!(event = "session-not-counted", session = %id, "{error}"),
        }
        if let Err(failure) = self.ftp.strike(id) {
            warn!(event = "session-not-struck", session = %id, "{failure}");
        }
        held.ended();
    }

    /// Counts who came in by FTP under an earlier daemon, and writes down who may.
    pub async fn resume_ftp(self: Arc<Self>) {
        self.policy.write_logins(&self.policy.loaded().policy);
        let earlier = self.ftp.earlier();
        if earlier.is_empty() {
            return;
        }
        let processes = loop {
            match self.warden.ftp_processes(None).await {
                Ok(processes) => break processes,
                Err(failure) => warn!(event = "sessions-not-resumed", "{failure}"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        for note in earlier.into_iter().filter(|note| processes.contains(&note.process)) {
            // Opened before it is looked for again: what is held is what is counted.
            let Ok(pidfd) = process::open(note.process.pid) else { continue };
            if !matches!(self.warden.ftp_processes(Some(&note.process.tenant)).await, Ok(now) if now.contains(&note.process))
            {
                continue;
            }
            match self.sessions.resume(note.record.clone()) {
                Ok(counted) => {
                    if let Err(failure) = self.ftp.note(note.clone()) {
                        warn!(event = "session-not-noted", session = %note.record.id, "{failure}");
                    }
                    tokio::spawn(Arc::clone(&self).attend_ftp(counted, note.process, pidfd));
                }
                Err(failure) => warn!(event = "session-not-resumed", "{failure}"),
            }
        }
    }

    /// What is run at times.
    pub(crate) fn list_timers(
        &self,
        _permission: OperatorPermission,
        tenants: &[TenantName],
    ) -> Result<Vec<TimerReport>, Failure> {
        self.known(tenants)?;
        let mut all = self.policy.tenants_with_timers();
        all.retain(|tenant| tenants.is_empty() || tenants.contains(&tenant.name));
        Ok(self.timers.report(&all))
    }

    /// Who is in.
    pub(crate) fn list_sessions(
        &self,
        _permission: OperatorPermission,
        tenants: &[TenantName],
    ) -> Result<Vec<SessionRecord>, Failure> {
        self.known(tenants)?;
        Ok(self.sessions.chosen(|record| tenants.is_empty() || tenants.contains(&record.tenant)))
    }

    /// Refuses a request that names a tenant of whom neither the policy nor the warden knows.
    pub(crate) fn known(&self, tenants: &[TenantName]) -> Result<(), Failure> {
        tenants.iter().find(|tenant| !self.knows(tenant)).map_or(Ok(()), |tenant| Err(unknown(tenant)))
    }

    /// Ends sessions: those that have ended, and those whose clients were told and are still there.
    pub(crate) async fn end_sessions(
        &self,
        permission: OperatorPermission,
        ids: &[SessionId],
        tenants: &[TenantName],
        reason: Option<String>,
    ) -> Result<(Vec<SessionRecord>, Vec<SessionRecord>), Failure> {
        self.known(tenants)?;
        if let Some(id) = ids.iter().find(|id| self.sessions.chosen(|record| record.id == **id).is_empty()) {
            return Err(Failure::of(ExitStatus::NotFound, format!("there is no session {id}")));
        }
        let chosen = self.sessions.chosen(|record| ids.contains(&record.id) || tenants.contains(&record.tenant));
        let uid = permission.uid;
        info!(target: "bailiwick::event", event = "end-sessions", uid, "user {uid} ends {} sessions", chosen.len());
        let reason = reason.unwrap_or_else(|| "an operator ended this session".to_owned());
        let chosen = chosen.into_iter().map(|record| (record, reason.clone())).collect();
        Ok(self.end_all(chosen).await)
    }

    /// Tells clients why they are to end their sessions, and waits until they have.
    async fn end_all(&self, chosen: Vec<(SessionRecord, String)>) -> (Vec<SessionRecord>, Vec<SessionRecord>) {
        for (record, reason) in &chosen {
            self.sessions.end(record.id, reason);
        }
        let ids: BTreeSet<SessionId> = chosen.iter().map(|(record, _)| record.id).collect();
        let deadline = Instant::now() + END_TIME;
        let mut left = self.sessions.chosen(|record| ids.contains(&record.id));
        while !left.is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
            left = self.sessions.chosen(|record| ids.contains(&record.id));
        }
        let still: BTreeSet<SessionId> = left.iter().map(|record| record.id).collect();
        let ended = chosen.into_iter().map(|(record, _)| record).filter(|record| !still.contains(&record.id));
        (ended.collect(), left)
    }

    /// Ends the sessions that the policy would no longer let in, and those in a jail that is about to be replaced. Of which key
    /// a login was is sshd's word; of one that it did not tell none of the policy's keys is known to be the one.
    pub(super) async fn end_unwanted(&self, names: &[TenantName], roster: &Roster) -> Vec<TenantOutcome> {
        let unwanted = |record: &SessionRecord| -> Option<String> {
            let loaded = self.policy.loaded();
            if loaded.invalid.contains(&record.tenant) {
                return None;
            }
            let Some(tenant) = loaded.policy.tenants.get(&record.tenant) else {
                return Some(format!("the tenant \"{}\" is deleted", record.tenant));
            };
            let actual = reconcile::actual(roster.get(&tenant.name));
            let is_replaced = match next(desired(Declaration::Known(tenant)), &actual).jail {
                JailStep::Replace | JailStep::Stop => true,
                JailStep::None | JailStep::Held | JailStep::Wait | JailStep::Start => false,
            };
            match &tenant.state {
                Declared::Suspended { reason } if is_replaced || !tenant.is_open(record.door) => {
                    return Some(door::suspended(&tenant.name, reason.as_deref()).to_string());
                }
                Declared::Active if is_replaced => {
                    return Some(format!("tenant \"{}\" is no longer suspended; come again", tenant.name));
                }
                _ => {}
            }
            if !tenant.is_open(record.door) {
                return Some(format!("the door \"{}\" is closed now", record.door));
            }
            let has_login = || tenant.ftp.iter().any(|login| record.user == format!("{}@{}", login.name, tenant.name));
            if record.door == Door::Ftp && !has_login() {
                return Some(format!("there is no login \"{}\" any more", record.user));
            }
            let of_a_key = matches!(record.door, Door::Ssh | Door::Sftp);
            let has_key = record.key.as_deref().is_some_and(|key| tenant.login.has_key(key));
            (of_a_key && !has_key).then(|| "its key may no longer log in".to_owned())
        };
        let meant = |record: &SessionRecord| names.is_empty() || names.contains(&record.tenant);
        let all = self.sessions.chosen(meant).into_iter();
        let chosen = all.filter_map(|record| unwanted(&record).map(|reason| (record, reason))).collect();
        let (ended, left) = self.end_all(chosen).await;
        let mut counts: BTreeMap<TenantName, (u64, u64)> = BTreeMap::new();
        ended.into_iter().for_each(|record| counts.entry(record.tenant).or_default().0 += 1);
        left.into_iter().for_each(|record| counts.entry(record.tenant).or_default().1 += 1);
        let row = |(tenant, (ended, left))| TenantOutcome {
            tenant,
            done: Done::SessionsEnded(ended),
            failure: (left > 0).then(|| {
                Failure::of(ExitStatus::Failed, format!("{left} sessions do not end; `bailiwick sessions` names them"))
            }),
        };
        counts.into_iter().map(row).collect()
    }

    async fn enter(
        &self,
        tenant: &Tenant,
        client: &Client,
        exec: &Exec,
        command: Option<String>,
        streams: Vec<OwnedFd>,
        init: Option<Init>,
    ) -> Result<(OwnedFd, Counted), Failure> {
        let name = &tenant.name;
        let spawn = door::admit(tenant, client.door, exec, &streams)?;
        self.check_awake(name).await?;
        let Client { door, uid, pid, source, key } = client.clone();
        let newcomer = Newcomer {
            door,
            user: exec.user.clone().unwrap_or_else(|| "root".to_owned()),
            source,
            key,
            command: command.map(door::short).or_else(|| door::in_words(exec)),
            uid,
            pid,
            most: None,
        };
        let mut counted = self.sessions.enter(tenant, newcomer)?;
        let user = spawn.user.uid;
        // What runs at its time is nobody who could help the tenant.
        let reached = if door == Door::Cron { Vec::new() } else { self.reached(tenant).await };
        let given = if reached.is_empty() { None } else { Some(self.rescue(name).await) };
        let opened = self.session(tenant, init, spawn, streams).await;
        if let Some(Ok(())) = given {
            self.rescued(tenant).await;
        }
        let channel = match opened {
            Ok(channel) => channel,
            Err(error) => return Err(self.explain(tenant, error).await),
        };
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

    /// The limits that would keep a session from being begun, or of use.
    async fn reached(&self, tenant: &Tenant) -> Vec<LimitKey> {
        let limits = &tenant.settings.limits;
        let Some(meter) = self.warden.meter().await else { return Vec::new() };
        let known = self.warden.known().get(&tenant.name).map(|known| known.cgroups.clone());
        let cgroups = match known.filter(|cgroups| !cgroups.is_empty()) {
            Some(cgroups) => cgroups,
            // It may have been down when it was asked about.
            None => match self.warden.entry(&tenant.name).await {
                Ok(Some(entry)) => entry.cgroups,
                _ => return Vec::new(),
            },
        };
        meter.room(&cgroups, rescue::enough_memory(limits)).reached(limits)
    }

    /// Has the next session of a tenant begin on the reserve. Where it cannot it begins like any other.
    async fn rescue(&self, name: &TenantName) -> Result<(), Failure> {
        let given = self.warden.ask(&WardenRequest::Rescue { tenant: name.clone() }).await;
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
        if let Some((socket, ids)) = self.init_of(tenant).await {
            drop(self.talk(&tenant.name, door::wait_for(&socket, ids)).await);
        }
        // Where this fails the warden does it by itself, some seconds later.
        if let Err(failure) = self.warden.ask(&WardenRequest::Rescued { tenant: tenant.name.clone() }).await {
            warn!(target: "bailiwick::event", tenant = %tenant.name, event = "rescue-not-over", "{failure}");
        }
    }

    async fn session(
        &self,
        tenant: &Tenant,
        init: Option<Init>,
        spawn: Spawn,
        streams: Vec<OwnedFd>,
    ) -> Result<OwnedFd, DoorError> {
        let init = match init {
            Some(init) => init,
            None => self.greet(tenant).await?,
        };
        self.talk(&tenant.name, door::open(init, spawn, streams)).await
    }

    /// Where init of the jail that is to run listens, and who it is; `None` when none is to, or the tenant has no ids.
    pub(crate) async fn init_of(&self, tenant: &Tenant) -> Option<(PathBuf, IdRange)> {
        let (name, access) = (&tenant.name, tenant.access()?);
        let known = self.warden.known().get(name).map(|known| known.ids);
        let ids = match known {
            Some(ids) => ids,
            None => self.warden.entry(name).await.ok().flatten()?.ids,
        };
        Some((self.init_socket(name, access), ids))
    }

    /// Why a session could not be opened, in the operator's words.
    async fn explain(&self, tenant: &Tenant, error: DoorError) -> Failure {
        let name = &tenant.name;
        let is_frozen = matches!(error, DoorError::Silent) && self.is_frozen(name).await;
        let failure = lock(&self.failures).get(name).cloned();
        let tenant_name = || name.clone();
        let refusal = match (error, &tenant.state) {
            (DoorError::Down, Declared::Suspended { reason }) => door::suspended(name, reason.as_deref()),
            (DoorError::Down, _) if matches!(self.warden.entry(name).await, Ok(Some(entry)) if entry.preparing) => {
                Refusal::Preparing { tenant: tenant_name() }
            }
            (DoorError::Down, _) => Refusal::NotRunning { tenant: tenant_name(), why: failure },
            (_, _) if is_frozen => Refusal::Frozen { tenant: tenant_name() },
            (error, _) => {
                return Failure::of(ExitStatus::Refused, format!("cannot open a session in \"{name}\": {error}"));
            }
        };
        refusal.into()
    }
}
