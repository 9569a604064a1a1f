//! Lists open sessions, and ends those that an operator names or that the policy no longer permits.

use crate::door;
use crate::permission::OperatorPermission;
use crate::reconcile;
use crate::sessions::Sessions;
use crate::tenants::Tenants;
use crate::warden_client::Roster;
use bailiwick_plan::lifecycle::{Declaration, JailStep, desired, next};
use bailiwick_policy::Declared;
use bailiwick_proto::Failure;
use bailiwick_proto::control::{Done, TenantOutcome};
use bailiwick_types::{Door, ExitStatus, SessionId, SessionRecord, TenantName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::info;

/// How long clients may take to end their sessions.
const END_TIME: Duration = Duration::from_secs(5);

/// Lists sessions and ends them.
#[derive(Debug)]
pub(crate) struct SessionEnd {
    tenants: Arc<Tenants>,
    sessions: Arc<Sessions>,
}

impl SessionEnd {
    pub(crate) fn new(tenants: Arc<Tenants>, sessions: Arc<Sessions>) -> Self {
        Self { tenants, sessions }
    }

    /// The open sessions of these tenants, or of all.
    pub(crate) fn list(
        &self,
        _permission: OperatorPermission,
        tenants: &[TenantName],
    ) -> Result<Vec<SessionRecord>, Failure> {
        self.tenants.check_known(tenants)?;
        Ok(self.sessions.chosen(|record| tenants.is_empty() || tenants.contains(&record.tenant)))
    }

    /// Ends sessions. Returns those that have ended, and those whose clients were told and have not ended them.
    pub(crate) async fn end(
        &self,
        permission: OperatorPermission,
        ids: &[SessionId],
        tenants: &[TenantName],
        reason: Option<String>,
    ) -> Result<(Vec<SessionRecord>, Vec<SessionRecord>), Failure> {
        self.tenants.check_known(tenants)?;
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

    /// Sends clients the reason to end their sessions, and waits until they have ended or [`END_TIME`] is over.
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

    /// Ends the sessions that the policy would no longer permit, and those in a jail that is about to be replaced. sshd
    /// says which key a login used. If it did not say, the login counts as using no key of the policy.
    pub(crate) async fn end_unwanted(&self, names: &[TenantName], roster: &Roster) -> Vec<TenantOutcome> {
        let unwanted = |record: &SessionRecord| -> Option<String> {
            let loaded = self.tenants.policy.loaded();
            // Of a file with an error, what it last said without one is in force, and what it takes away.
            if loaded.has_nothing_of(&record.tenant) {
                return None;
            }
            let Some(tenant) = loaded.policy.tenants.get(&record.tenant) else {
                return Some(format!("the tenant \"{}\" is deleted", record.tenant));
            };
            let actual = reconcile::actual(roster.get(&tenant.name));
            let is_replaced = match next(desired(Declaration::Known(tenant)), &actual).jail {
                JailStep::Replace | JailStep::Stop => true,
                JailStep::None | JailStep::Held | JailStep::Asleep => false,
                JailStep::Thaw | JailStep::Wait | JailStep::Start => false,
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
}
