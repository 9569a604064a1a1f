//! Entries: who is let into a jail by which door, who is in, and who must leave.
//!
//! Danger: this is the only way into a jail. Whoever is let in was named by the kernel or by the policy, the door is open, and
//! the session is counted before init hears of it.

use super::{Daemon, lock, unknown};
use crate::door::{self, DoorError};
use crate::permission::Permission;
use crate::sessions::{Counted, Newcomer};
use bailiwick_policy::{Declared, Tenant};
use bailiwick_proto::Failure;
use bailiwick_proto::control::{Exec, Login, TenantOutcome};
use bailiwick_proto::init::Spawn;
use bailiwick_types::{Door, ExitStatus, HostUid, IdRange, SessionId, SessionRecord, TenantName, TimerReport};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tracing::info;

/// How long clients may take to end their sessions.
const END_TIME: Duration = Duration::from_secs(5);

/// Who asks to be let in, as the kernel and sshd say.
#[derive(Debug, Clone)]
struct Client {
    door: Door,
    uid: u32,
    pid: u32,
    source: Option<String>,
    key: Option<String>,
}

impl Client {
    fn log_refusal(&self, tenant: &TenantName, failure: &Failure) {
        let Self { door, uid, source, .. } = self;
        let (source, status) = (source.as_deref().unwrap_or_default(), failure.status.code());
        info!(target: "bailiwick::event", tenant = %tenant, event = "session-refused", door = %door, uid, source, status, "{failure}");
    }
}

impl Daemon {
    /// Lets an operator's session in: the client's end of its channel, and the value that counts it.
    pub(crate) async fn exec(
        &self,
        permission: Permission,
        pid: u32,
        exec: &Exec,
        streams: Vec<OwnedFd>,
    ) -> Result<(OwnedFd, Counted), Failure> {
        let client = Client { door: Door::Exec, uid: permission.uid, pid, source: None, key: None };
        let entered = async { self.enter(&self.open_tenant(&exec.tenant)?, &client, exec, None, streams).await };
        entered.await.inspect_err(|failure| client.log_refusal(&exec.tenant, failure))
    }

    /// Lets a tenant's own host user in. Whoever calls this has it from the kernel that the user is one of `own`.
    pub(crate) async fn login(
        &self,
        own: &TenantName,
        permission: Permission,
        pid: u32,
        login: &Login,
        streams: Vec<OwnedFd>,
    ) -> Result<(OwnedFd, Counted), Failure> {
        self.is_host_user(own, permission)?;
        let Login { door, source, key, .. } = login.clone();
        let client = Client { door, uid: permission.uid, pid, source, key };
        let entered = async {
            let tenant = self.open_tenant(own)?;
            let exec = door::of_login(&tenant, login)?;
            self.enter(&tenant, &client, &exec, None, streams).await
        };
        entered.await.inspect_err(|failure| client.log_refusal(own, failure))
    }

    fn is_host_user(&self, own: &TenantName, permission: Permission) -> Result<(), Failure> {
        let ids = lock(&self.ids).get(own).copied();
        if ids.map(|ids| self.host().ids.host_user(ids)) == Some(HostUid(permission.uid)) {
            return Ok(());
        }
        let message = format!("user {} is not the host user of \"{own}\"", permission.uid);
        Err(Failure::of(ExitStatus::Refused, message))
    }

    /// Counts an operator's session that an earlier daemon let in.
    pub(crate) fn resume(&self, permission: Permission, pid: u32, record: SessionRecord) -> Result<Counted, Failure> {
        if record.door != Door::Exec || !self.knows(&record.tenant) {
            return Err(Failure::of(ExitStatus::Refused, format!("no operator is in \"{}\" so", record.tenant)));
        }
        self.sessions.resume(SessionRecord { uid: permission.uid, pid, ..record })
    }

    /// The same of a tenant's own host user.
    pub(crate) fn resume_login(
        &self,
        own: &TenantName,
        permission: Permission,
        pid: u32,
        record: SessionRecord,
    ) -> Result<Counted, Failure> {
        self.is_host_user(own, permission)?;
        door::check_client(record.source.as_deref(), record.key.as_deref())?;
        if record.tenant != *own || !matches!(record.door, Door::Ssh | Door::Sftp) {
            return Err(Failure::of(ExitStatus::Refused, format!("no user of \"{own}\" is in so")));
        }
        self.sessions.resume(SessionRecord { uid: permission.uid, pid, ..record })
    }

    /// Lets a timer in, which this program is the client of. `command` is what is shown of it.
    pub(crate) async fn enter_by_timer(
        &self,
        tenant: &TenantName,
        exec: &Exec,
        command: String,
        streams: Vec<OwnedFd>,
    ) -> Result<(OwnedFd, Counted), Failure> {
        let uid = rustix::process::geteuid().as_raw();
        let client = Client { door: Door::Cron, uid, pid: std::process::id(), source: None, key: None };
        let entered = async { self.enter(&self.open_tenant(tenant)?, &client, exec, Some(command), streams).await };
        entered.await.inspect_err(|failure| client.log_refusal(tenant, failure))
    }

    /// What is run at times.
    pub(crate) fn list_timers(
        &self,
        _permission: Permission,
        tenants: &[TenantName],
    ) -> Result<Vec<TimerReport>, Failure> {
        self.known(tenants)?;
        let mut all = self.tenants_with_timers();
        all.retain(|tenant| tenants.is_empty() || tenants.contains(&tenant.name));
        Ok(self.timers.report(&all))
    }

    /// Who is in.
    pub(crate) fn list_sessions(
        &self,
        _permission: Permission,
        tenants: &[TenantName],
    ) -> Result<Vec<SessionRecord>, Failure> {
        self.known(tenants)?;
        Ok(self.sessions.chosen(|record| tenants.is_empty() || tenants.contains(&record.tenant)))
    }

    fn known(&self, tenants: &[TenantName]) -> Result<(), Failure> {
        tenants.iter().find(|tenant| !self.knows(tenant)).map_or(Ok(()), |tenant| Err(unknown(tenant)))
    }

    /// Ends sessions: those that have ended, and those whose clients were told and are still there.
    pub(crate) async fn end_sessions(
        &self,
        permission: Permission,
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

    /// Ends the sessions that the policy would no longer let in. Of which key a login was is sshd's word; of one that it did
    /// not tell none of the policy's keys is known to be the one.
    pub(super) async fn end_unwanted(&self, names: &[TenantName]) -> Vec<TenantOutcome> {
        let unwanted = |record: &SessionRecord| -> Option<String> {
            let loaded = lock(&self.loaded);
            if loaded.invalid.contains(&record.tenant) {
                return None;
            }
            let Some(tenant) = loaded.policy.tenants.get(&record.tenant) else {
                return Some(format!("the tenant \"{}\" is deleted", record.tenant));
            };
            if let Declared::Suspended { reason } = &tenant.state {
                return Some(suspended(&tenant.name, reason.as_deref()));
            }
            if !tenant.settings.doors.contains(&record.door) {
                return Some(format!("the door \"{}\" is closed now", record.door));
            }
            let of_a_key = matches!(record.door, Door::Ssh | Door::Sftp);
            let has_key = record.key.as_deref().is_some_and(|key| tenant.login.has_key(key));
            (of_a_key && !has_key).then(|| "its key may no longer log in".to_owned())
        };
        let meant = |record: &SessionRecord| names.is_empty() || names.contains(&record.tenant);
        let all = self.sessions.chosen(meant).into_iter();
        let chosen = all.filter_map(|record| unwanted(&record).map(|reason| (record, reason))).collect();
        let (ended, left) = self.end_all(chosen).await;
        let mut counts: BTreeMap<TenantName, (usize, usize)> = BTreeMap::new();
        ended.into_iter().for_each(|record| counts.entry(record.tenant).or_default().0 += 1);
        left.into_iter().for_each(|record| counts.entry(record.tenant).or_default().1 += 1);
        let row = |(tenant, (ended, left))| TenantOutcome {
            tenant,
            done: format!("sessions ended: {ended}"),
            failure: (left > 0).then(|| {
                Failure::of(ExitStatus::Failed, format!("{left} sessions do not end; `bailiwick sessions` names them"))
            }),
        };
        counts.into_iter().map(row).collect()
    }

    /// A tenant who may be entered at all.
    fn open_tenant(&self, name: &TenantName) -> Result<Tenant, Failure> {
        let loaded = lock(&self.loaded);
        let tenant = match loaded.policy.tenants.get(name) {
            Some(tenant) => tenant,
            None if loaded.invalid.contains(name) => {
                let message = format!("the file of \"{name}\" has errors; see `bailiwick check`");
                return Err(Failure::of(ExitStatus::Invalid, message));
            }
            None => return Err(unknown(name)),
        };
        if let Declared::Suspended { reason } = &tenant.state {
            return Err(Failure::of(ExitStatus::Refused, suspended(name, reason.as_deref())));
        }
        Ok(tenant.clone())
    }

    async fn enter(
        &self,
        tenant: &Tenant,
        client: &Client,
        exec: &Exec,
        command: Option<String>,
        streams: Vec<OwnedFd>,
    ) -> Result<(OwnedFd, Counted), Failure> {
        let name = &tenant.name;
        let spawn = door::admit(tenant, client.door, exec, &streams)?;
        let Client { door, uid, pid, source, key } = client.clone();
        let newcomer = Newcomer {
            door,
            user: exec.user.clone().unwrap_or_else(|| "root".to_owned()),
            source,
            key,
            command: command.map(door::short).or_else(|| door::in_words(exec)),
            uid,
            pid,
        };
        let mut counted = self.sessions.enter(tenant, newcomer)?;
        let user = spawn.user.uid;
        let channel = match self.session(name, spawn, streams).await {
            Ok(channel) => channel,
            Err(error) => return Err(self.explain(name, error).await),
        };
        counted.opened(user);
        Ok((channel, counted))
    }

    async fn session(&self, name: &TenantName, spawn: Spawn, streams: Vec<OwnedFd>) -> Result<OwnedFd, DoorError> {
        let (socket, ids) = self.init_of(name).await.ok_or(DoorError::Down)?;
        door::open(&socket, ids, spawn, streams).await
    }

    /// Where init of a jail listens, and who it is; `None` when the tenant has no ids.
    pub(crate) async fn init_of(&self, name: &TenantName) -> Option<(PathBuf, IdRange)> {
        let known = lock(&self.ids).get(name).copied();
        let ids = match known {
            Some(ids) => ids,
            None => self.entry(name).await.ok().flatten()?.ids,
        };
        Some((self.init_socket(name), ids))
    }

    /// Why a session could not be opened, in the operator's words. Only here is the warden asked.
    async fn explain(&self, name: &TenantName, error: DoorError) -> Failure {
        let frozen =
            matches!(error, DoorError::Silent) && matches!(self.entry(name).await, Ok(Some(entry)) if entry.frozen);
        let remedy = match error {
            DoorError::Down => format!("the jail of \"{name}\" does not run; `bailiwick start {name}` starts it"),
            _ if frozen => format!("the jail of \"{name}\" is frozen; `bailiwick thaw {name}` lets it go on"),
            error => format!("cannot open a session in \"{name}\": {error}"),
        };
        Failure::of(ExitStatus::Refused, remedy)
    }
}

fn suspended(name: &TenantName, reason: Option<&str>) -> String {
    let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("tenant \"{name}\" is suspended{reason}")
}
