//! Counts sessions: how many each tenant has, may have, had at most, and was refused. Lists each session for as long as
//! its client is connected and its jail exists.
//!
//! Danger: only this module enforces the limit `sessions`. The kernel does not, so a session that is not counted here
//! is not limited. A session that an earlier daemon opened is counted again when its client reconnects, which the
//! client does at once. The identity of such a client comes only from its kernel peer credentials.

use crate::sync::lock;
use bailiwick_policy::Tenant;
use bailiwick_proto::Failure;
use bailiwick_types::{Door, ExitStatus, LimitKey, Moment, SessionCount, SessionId, SessionRecord, TenantName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tracing::info;

#[derive(Debug, Default)]
struct Tally {
    /// Sessions by all doors except the operator's (`exec`).
    count: SessionCount,
    /// Refusals that are not in the history yet.
    fresh: u64,
    /// Sessions by each door.
    by: BTreeMap<Door, SessionCount>,
}

impl Tally {
    /// The counters that a session by this door belongs to.
    fn counts(&mut self, door: Door) -> impl Iterator<Item = &mut SessionCount> {
        let own = (door != Door::Exec).then_some(&mut self.count);
        own.into_iter().chain([self.by.entry(door).or_default()])
    }

    fn by_operator(&self) -> SessionCount {
        self.by.get(&Door::Exec).copied().unwrap_or_default()
    }

    /// All sessions, including the operator's.
    fn all(&self) -> u64 {
        self.count.now + self.by_operator().now
    }

    fn nearer(&self) -> SessionCount {
        let (own, operator) = (self.count, self.by_operator());
        SessionCount {
            now: own.now.max(operator.now),
            most: own.most.max(operator.most),
            refused: own.refused + operator.refused,
        }
    }
}

#[derive(Debug)]
struct Open {
    record: SessionRecord,
    /// Whether the session has begun. Before that, it is not known which jail it will be in.
    has_begun: bool,
    /// Sends the client the reason why it must end the session.
    end: Sender<String>,
}

#[derive(Debug, Default)]
struct State {
    tallies: BTreeMap<TenantName, Tally>,
    open: BTreeMap<SessionId, Open>,
}

/// The sessions whose client is connected and whose jail exists.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    state: Mutex<State>,
}

/// The limit that one session more would be over.
struct Denied {
    /// `None` for the sessions of one login.
    limit: Option<LimitKey>,
    message: String,
}

/// The count that `sessions` bounds. An operator's session takes no place of the tenant, and a tenant's session takes no place
/// of the operator.
fn all_of(state: &State, tenant: &TenantName, door: Door) -> SessionCount {
    let Some(tally) = state.tallies.get(tenant) else { return SessionCount::default() };
    if door == Door::Exec { tally.by_operator() } else { tally.count }
}

/// Decides whether one session more is let in. Returns a notice for its client, if it needs one.
fn admission(
    state: &State,
    tenant: &Tenant,
    door: Door,
    user: &str,
    most: Option<u64>,
) -> Result<Option<String>, Denied> {
    let same = |open: &&Open| open.record.tenant == tenant.name && open.record.door == door && open.record.user == user;
    let same = most.map_or(0, |_| u64::try_from(state.open.values().filter(same).count()).unwrap_or(u64::MAX));
    if let Some(most) = most.filter(|most| same >= *most) {
        let message = format!("\"{user}\" has {same} sessions and may have {most} (`sessions` of the login)");
        return Err(Denied { limit: None, message });
    }
    let limits = &tenant.settings.limits;
    let by = state.tallies.get(&tenant.name).and_then(|tally| tally.by.get(&door)).copied().unwrap_or_default();
    let all = all_of(state, &tenant.name, door);
    let mut notice = None;
    let mut full =
        limits.sessions.value().filter(|most| all.now >= *most).map(|most| (all.now, LimitKey::Sessions, most));
    // At the limit, one more session by `ssh` or `sftp` is still let in, so the tenant can end others.
    if let Some((now, _, most)) = full.take_if(|(now, _, most)| *now == *most && matches!(door, Door::Ssh | Door::Sftp))
    {
        notice = Some(format!(
            "tenant \"{}\" has {now} sessions and may have {most}; this is the one more that it has to help itself",
            tenant.name
        ));
    }
    let of_door = LimitKey::of_door(door).and_then(|key| Some((by.now, key, limits.value(key)?.hard()?)));
    let own = of_door.filter(|(now, _, most)| now >= most);
    if let Some((has, key, most)) = full.or(own) {
        let message = format!("\"{}\" has {has} sessions and may have {most} (`{key}`)", tenant.name);
        return Err(Denied { limit: Some(key), message });
    }
    Ok(notice)
}

/// A request to open a session.
#[derive(Debug)]
pub(crate) struct SessionRequest {
    pub(crate) door: Door,
    /// The user inside the jail.
    pub(crate) user: String,
    pub(crate) source: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) command: Option<String>,
    /// The user and the process of the client on the host.
    pub(crate) uid: u32,
    pub(crate) pid: u32,
    /// The most sessions of the same user by the same door; `None` for no such limit.
    pub(crate) most: Option<u64>,
}

/// A session that is counted until this value is dropped or its jail is gone.
#[derive(Debug)]
pub(crate) struct SessionGuard {
    sessions: Arc<Sessions>,
    record: SessionRecord,
    /// Receives the reason why the client must end the session.
    end: Receiver<String>,
    /// Whether the log has an entry that the session was opened.
    logged: bool,
    status: Option<u8>,
    /// The notice for the client.
    notice: Option<String>,
}

impl Sessions {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Counts one more session, or refuses it.
    pub(crate) fn enter(self: &Arc<Self>, tenant: &Tenant, request: SessionRequest) -> Result<SessionGuard, Failure> {
        let mut state = self.state();
        let id = loop {
            let id = random()?;
            if !state.open.contains_key(&id) {
                break id;
            }
        };
        let SessionRequest { door, user, source, key, command, uid, pid, most } = request;
        let notice = match admission(&state, tenant, door, &user, most) {
            Ok(notice) => notice,
            Err(Denied { limit, message }) => {
                let Tally { count, fresh, by } = state.tallies.entry(tenant.name.clone()).or_default();
                *fresh += 1;
                match limit {
                    Some(key) if key != LimitKey::Sessions || door == Door::Exec => {
                        by.entry(door).or_default().refused += 1;
                    }
                    _ => count.refused += 1,
                }
                return Err(Failure::of(ExitStatus::OverLimit, message));
            }
        };
        let since = Moment(now());
        let tenant = tenant.name.clone();
        let record = SessionRecord { id, tenant, door, user, source, key, command, since, uid, pid };
        let mut counted = self.count(&mut state, record);
        counted.notice = notice;
        Ok(counted)
    }

    /// Says whether one more session would be let in, and how many there are. Nothing is counted.
    pub(crate) fn would_enter(
        &self,
        tenant: &Tenant,
        door: Door,
        user: &str,
        most: Option<u64>,
    ) -> (String, Result<(), Failure>) {
        let state = self.state();
        let limits = &tenant.settings.limits;
        let now = all_of(&state, &tenant.name, door).now;
        let found = match (limits.sessions.value(), door) {
            (Some(most), Door::Exec) => format!("{now} of {most} sessions of operators"),
            (Some(most), _) => format!("{now} of {most} sessions"),
            (None, _) => format!("{now} sessions, and no limit of all"),
        };
        match admission(&state, tenant, door, user, most) {
            Ok(notice) => (notice.unwrap_or(found), Ok(())),
            Err(Denied { message, .. }) => (found, Err(Failure::of(ExitStatus::OverLimit, message))),
        }
    }

    /// Counts a session that an earlier daemon opened. It is counted even above the limit, because it already runs.
    pub(crate) fn resume(self: &Arc<Self>, record: SessionRecord) -> Result<SessionGuard, Failure> {
        let mut state = self.state();
        if state.open.contains_key(&record.id) {
            return Err(Failure::of(ExitStatus::Conflict, format!("the session {} is known already", record.id)));
        }
        let mut counted = self.count(&mut state, record);
        counted.has_begun(&mut state);
        Ok(counted)
    }

    fn count(self: &Arc<Self>, state: &mut State, record: SessionRecord) -> SessionGuard {
        for count in state.tallies.entry(record.tenant.clone()).or_default().counts(record.door) {
            count.now += 1;
            count.most = count.most.max(count.now);
        }
        let (sender, end) = channel(1);
        state.open.insert(record.id, Open { record: record.clone(), has_begun: false, end: sender });
        SessionGuard { sessions: Arc::clone(self), record, end, logged: false, status: None, notice: None }
    }

    /// The number of sessions of each tenant by each door that ever had one.
    pub(crate) fn all_by_door(&self) -> BTreeMap<TenantName, BTreeMap<Door, u64>> {
        let doors = |tally: &Tally| tally.by.iter().map(|(door, count)| (*door, count.now)).collect();
        self.state().tallies.iter().map(|(tenant, tally)| (tenant.clone(), doors(tally))).collect()
    }

    /// The records that `choice` accepts, sorted by tenant, oldest first.
    pub(crate) fn chosen(&self, choice: impl Fn(&SessionRecord) -> bool) -> Vec<SessionRecord> {
        let state = self.state();
        let mut all: Vec<_> = state.open.values().map(|open| &open.record).filter(|record| choice(record)).collect();
        all.sort_by_key(|record| (&record.tenant, record.since, record.id));
        all.into_iter().cloned().collect()
    }

    /// Asks the client of a session to end it. Does nothing for a session that has ended.
    pub(crate) fn end(&self, id: SessionId, reason: &str) {
        if let Some(open) = self.state().open.get(&id) {
            // A failure is harmless: a connection that just closes ends its session, and one pending reason is enough.
            open.end.try_send(reason.to_owned()).ok();
        }
    }

    /// All sessions that have begun.
    pub(crate) fn begun(&self) -> BTreeSet<SessionId> {
        let state = self.state();
        state.open.iter().filter(|(_, open)| open.has_begun).map(|(id, _)| *id).collect()
    }

    /// Stops counting those of these sessions whose jails are gone, whatever their clients do. The sessions must have
    /// begun before anybody looked which jails are gone: a tenant may have a new jail by now.
    pub(crate) fn jails_gone(&self, begun: &BTreeSet<SessionId>, is_gone: impl Fn(&TenantName) -> bool) {
        let mut state = self.state();
        let State { tallies, open } = &mut *state;
        let over = open.extract_if(.., |id, open| begun.contains(id) && is_gone(&open.record.tenant));
        for (_, Open { record, .. }) in over {
            discount(tallies, &record);
            log_closed(&record, None);
        }
    }

    /// The sessions that have begun in the current jail of a tenant.
    pub(crate) fn begun_in(&self, tenant: &TenantName) -> Vec<SessionId> {
        let state = self.state();
        let begun = state.open.iter().filter(|(_, open)| open.has_begun && open.record.tenant == *tenant);
        begun.map(|(id, _)| *id).collect()
    }

    /// Stops counting these sessions, whatever their clients do: the jail that they began in is gone.
    pub(crate) fn jail_gone(&self, begun: &[SessionId]) {
        let mut state = self.state();
        for id in begun {
            if let Some(Open { record, .. }) = state.open.remove(id) {
                discount(&mut state.tallies, &record);
                log_closed(&record, None);
            }
        }
    }

    /// The number of all sessions in a tenant's jail.
    pub(crate) fn inside(&self, tenant: &TenantName) -> u64 {
        self.state().tallies.get(tenant).map_or(0, Tally::all)
    }

    /// The count that the limit `sessions` of a tenant compares: of the tenant's own doors or of the operator's,
    /// whichever is larger.
    pub(crate) fn of(&self, tenant: &TenantName) -> SessionCount {
        self.state().tallies.get(tenant).map(Tally::nearer).unwrap_or_default()
    }

    /// The counts by each door.
    pub(crate) fn by_door(&self, tenant: &TenantName) -> BTreeMap<Door, SessionCount> {
        self.state().tallies.get(tenant).map(|tally| tally.by.clone()).unwrap_or_default()
    }

    /// The current number of sessions by tenant.
    pub(crate) fn now(&self) -> BTreeMap<TenantName, u64> {
        self.state().tallies.iter().map(|(tenant, tally)| (tenant.clone(), tally.all())).collect()
    }

    /// The current number of all sessions.
    pub(crate) fn total(&self) -> u64 {
        self.state().tallies.values().map(Tally::all).sum()
    }

    /// The number of refusals by tenant since the last call.
    pub(crate) fn take_refused(&self) -> BTreeMap<TenantName, u64> {
        let mut state = self.state();
        let fresh = state.tallies.iter_mut().filter(|(_, tally)| tally.fresh > 0);
        fresh.map(|(tenant, tally)| (tenant.clone(), std::mem::take(&mut tally.fresh))).collect()
    }

    /// Forgets a tenant whose data was purged, unless it still has sessions.
    pub(crate) fn forget(&self, tenant: &TenantName) {
        let tallies = &mut self.state().tallies;
        if tallies.get(tenant).is_some_and(|tally| tally.all() == 0) {
            tallies.remove(tenant);
        }
    }
}

impl SessionGuard {
    pub(crate) fn record(&self) -> &SessionRecord {
        &self.record
    }

    /// The notice for the person at the client's end.
    pub(crate) fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    pub(crate) fn set_notice(&mut self, text: String) {
        self.notice = Some(text);
    }

    fn has_begun(&mut self, state: &mut State) {
        self.logged = true;
        if let Some(open) = state.open.get_mut(&self.record.id) {
            open.has_begun = true;
        }
    }

    /// Marks the session as begun and logs that it is open.
    pub(crate) fn opened(&mut self, user: u32) {
        let sessions = Arc::clone(&self.sessions);
        self.has_begun(&mut sessions.state());
        let SessionRecord { id, tenant, door, uid, source, user: login, .. } = &self.record;
        let source = source.as_deref().unwrap_or_default();
        info!(target: "bailiwick::event", tenant = %tenant, event = "session-opened", session = %id, door = %door, login, uid, user, source, "user {uid} enters {tenant} as {user}");
    }

    /// Waits for the reason why the client must end the session.
    pub(crate) async fn end(&mut self) -> String {
        match self.end.recv().await {
            Some(reason) => reason,
            // The sender is gone, so no reason can come.
            None => std::future::pending().await,
        }
    }

    /// Records that the session has ended by itself, with an exit status.
    pub(crate) fn ended(mut self, status: u8) {
        self.status = Some(status);
    }

    /// Stops counting without the end of the session, because the daemon ends.
    pub(crate) fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        {
            let mut state = self.sessions.state();
            if state.open.remove(&self.record.id).is_none() {
                // The jail was gone before, so the session is no longer counted.
                return;
            }
            discount(&mut state.tallies, &self.record);
        }
        if self.logged {
            log_closed(&self.record, self.status);
        }
    }
}

fn discount(tallies: &mut BTreeMap<TenantName, Tally>, record: &SessionRecord) {
    if let Some(tally) = tallies.get_mut(&record.tenant) {
        tally.counts(record.door).for_each(|count| count.now -= 1);
    }
}

fn log_closed(record: &SessionRecord, status: Option<u8>) {
    let SessionRecord { id, tenant, door, uid, source, since, user: login, .. } = record;
    let source = source.as_deref().unwrap_or_default();
    let seconds = now().saturating_sub(since.0);
    // A session without an exit status was hung up: its client disconnected, or its jail is gone.
    let status = status.map_or_else(|| "hung up".to_owned(), |status| status.to_string());
    info!(target: "bailiwick::event", tenant = %tenant, event = "session-closed", session = %id, door = %door, login, uid, source, status, seconds, "a session in {tenant} has ended");
}

pub(crate) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map(|since| since.as_secs()).unwrap_or_default()
}

fn random() -> Result<SessionId, Failure> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Failure::of(ExitStatus::Failed, format!("cannot name a session: {error}")))?;
    Ok(SessionId(u32::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn tenant(sessions: &str) -> Tenant {
        let files = [
            (PathBuf::from("bailiwick.toml"), String::new()),
            (PathBuf::from("plans.d/small.toml"), format!("[limits]\nsessions = {sessions}\n")),
            (PathBuf::from("tenants.d/alice.toml"), "plan = \"small\"\n".to_owned()),
        ];
        let reading = bailiwick_policy::parse(&files);
        assert_eq!(reading.diagnostics, []);
        reading.policy.expect("good").tenants.into_values().next().expect("one")
    }

    fn request() -> SessionRequest {
        let user = "alice".to_owned();
        SessionRequest { door: Door::Cron, user, source: None, key: None, command: None, uid: 7, pid: 8, most: None }
    }

    #[test]
    fn one_more_than_the_limit_is_refused_until_one_leaves() {
        let sessions = Arc::new(Sessions::default());
        let tenant = tenant("2");
        let first = sessions.enter(&tenant, request()).expect("enters");
        let second = sessions.enter(&tenant, request()).expect("enters");
        for _ in 0..3 {
            assert_eq!(sessions.enter(&tenant, request()).expect_err("full").status, ExitStatus::OverLimit);
        }
        assert_eq!(sessions.of(&tenant.name), SessionCount { now: 2, most: 2, refused: 3 });
        assert_eq!(sessions.take_refused(), BTreeMap::from([(tenant.name.clone(), 3)]));
        assert_eq!(sessions.take_refused(), BTreeMap::new());
        drop(first);
        let third = sessions.enter(&tenant, request()).expect("enters");
        assert_eq!(sessions.total(), 2);
        sessions.forget(&tenant.name);
        assert_eq!(sessions.now(), BTreeMap::from([(tenant.name.clone(), 2)]), "nobody forgets who is in");
        drop((second, third));
        assert_eq!(sessions.of(&tenant.name), SessionCount { now: 0, most: 2, refused: 3 });
        sessions.forget(&tenant.name);
        assert_eq!(sessions.of(&tenant.name), SessionCount::default());
    }

    #[test]
    fn each_door_has_its_own_limit_beside_that_of_all() {
        let sessions = Arc::new(Sessions::default());
        let tenant = tenant("3\nsessions_sftp = 1");
        let by = |door| sessions.enter(&tenant, SessionRequest { door, ..request() });
        let _operator = by(Door::Exec).expect("takes no place of the tenant's");
        let transfer = by(Door::Sftp).expect("enters");
        let failure = by(Door::Sftp).expect_err("one transfer at a time");
        assert!(failure.status == ExitStatus::OverLimit && failure.message.contains("sessions_sftp"), "{failure}");
        let (_first, _second) = (by(Door::Ssh).expect("enters"), by(Door::Ssh).expect("enters"));
        drop(transfer);
        let _third = by(Door::Ssh).expect("enters");
        assert!(by(Door::Cron).expect_err("full").message.contains("(`sessions`)"));
        let one_more = by(Door::Sftp).expect("the one more");
        assert!(one_more.notice().is_some_and(|notice| notice.contains("one more")));
        let failure = by(Door::Ssh).expect_err("full, and the one more is taken");
        assert!(failure.message.contains("(`sessions`)"), "{failure}");
        let counts = sessions.by_door(&tenant.name);
        assert_eq!(counts[&Door::Sftp], SessionCount { now: 1, most: 1, refused: 1 });
        assert_eq!(counts[&Door::Ssh], SessionCount { now: 3, most: 3, refused: 0 });
        assert_eq!(sessions.of(&tenant.name), SessionCount { now: 4, most: 4, refused: 2 });
        assert_eq!(sessions.total(), 5);
        let (_second, _third) = (by(Door::Exec).expect("enters"), by(Door::Exec).expect("enters"));
        assert_eq!((sessions.inside(&tenant.name), sessions.of(&tenant.name).now), (7, 4));
        let failure = by(Door::Exec).expect_err("as many as the tenant's own");
        assert!(failure.message.contains("3 sessions") && failure.message.contains("(`sessions`)"), "{failure}");
    }

    #[test]
    fn without_a_limit_nobody_is_refused() {
        let sessions = Arc::new(Sessions::default());
        let tenant = tenant("\"unlimited\"");
        let all: Vec<SessionGuard> = (0..1000).map(|_| sessions.enter(&tenant, request()).expect("enters")).collect();
        assert_eq!(sessions.of(&tenant.name).now, 1000);
        drop(all);
    }

    #[test]
    fn a_session_whose_jail_is_gone_is_counted_no_longer_whatever_its_client_does() {
        let sessions = Arc::new(Sessions::default());
        let tenant = tenant("2");
        let enter = || sessions.enter(&tenant, request()).expect("enters");
        let (mut begun, early) = (enter(), enter());
        begun.opened(0);
        sessions.jails_gone(&sessions.begun(), |_| false);
        assert_eq!(sessions.total(), 2);
        let before = sessions.begun();
        let mut later = sessions.enter(&tenant, SessionRequest { door: Door::Exec, ..request() }).expect("enters");
        later.opened(0);
        sessions.jails_gone(&before, |gone| *gone == tenant.name);
        assert_eq!(sessions.begun(), [later.record().id].into(), "this one began in the next jail");
        drop(later);
        assert_eq!(
            sessions.chosen(|_| true),
            std::slice::from_ref(early.record()),
            "this one comes into the next jail"
        );
        let next = enter();
        assert_eq!(sessions.enter(&tenant, request()).expect_err("full").status, ExitStatus::OverLimit);
        drop(begun);
        assert_eq!(sessions.of(&tenant.name).now, 2, "it was not counted any more");
        drop((early, next));
        // A session that an earlier daemon opened counts as begun.
        let record = enter().record().clone();
        let again = sessions.resume(record).expect("comes back");
        sessions.jails_gone(&sessions.begun(), |_| true);
        assert_eq!(sessions.total(), 0);
        again.ended(0);
        assert_eq!(sessions.total(), 0);
    }

    #[tokio::test]
    async fn a_session_is_listed_ended_and_known_again() {
        let sessions = Arc::new(Sessions::default());
        let mut first = sessions.enter(&tenant("1"), request()).expect("enters");
        let record = first.record().clone();
        assert_eq!(sessions.chosen(|_| true), std::slice::from_ref(&record));
        assert_eq!(sessions.chosen(|record| record.door == Door::Sftp), []);
        sessions.end(SessionId(record.id.0 ^ 1), "nobody");
        sessions.end(record.id, "enough");
        assert_eq!(first.end().await, "enough");
        assert!(sessions.resume(record.clone()).is_err(), "it is there");
        first.ended(7);
        assert_eq!((sessions.chosen(|_| true), sessions.total()), (Vec::new(), 0));
        // A new daemon counts the sessions of the last one, and opens none beyond the limit.
        let again = sessions.resume(record.clone()).expect("comes back");
        let more = sessions.resume(SessionRecord { id: SessionId(record.id.0 ^ 1), ..record }).expect("comes back");
        assert_eq!(sessions.total(), 2);
        assert_eq!(sessions.enter(&tenant("1"), request()).expect_err("full").status, ExitStatus::OverLimit);
        again.leave();
        assert_eq!(sessions.total(), 2, "this daemon ends, the session does not");
        drop(more);
        assert_eq!(sessions.total(), 1);
    }
}
