//! The outbox: events in the order of their numbers, and what was last told of each tenant.
//!
//! An event that was appended is on the disk before anybody can read it, so no reader has seen a number that is given
//! again after a power cut. Events of a spool are appended once, whoever is killed between the spool and this file.
//!
//! Danger: tenants cause events without end. One tenant, and one type of its events, has a share of the outbox, so its
//! flood removes only its own.

use crate::record::number;
use crate::{History, HistoryError, failed};
use bailiwick_types::{Event, EventType, Moment, TenantName};
use rusqlite::{OptionalExtension, Row, Transaction, params};
use std::collections::{BTreeMap, BTreeSet};

/// The part of the outbox that events of one tenant may take, and that events of one type of one tenant may take.
const SHARE_OF_TENANT: u64 = 10;
const SHARE_OF_TYPE: u64 = 20;
/// A spool may hold events of the programs that were killed before: so many of them are known.
const SPOOLS_KEPT: i64 = 16;
/// The most bytes of the details of one page.
const MAX_PAGE: usize = 4 << 20;
/// The subject of what was told of a tenant's end: the number of the event, before which all belongs to its forerunner.
const PURGED: &str = "purged";
/// The subject of whether a tenant is declared. Of a purged tenant it stays, until its end is told.
pub const DECLARED: &str = "declared";

/// A state that was told of a tenant, or of the host: told again only after it has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What the state is of: `declared`, `limit:memory`.
    pub subject: String,
    /// The state; `None` when there is nothing to tell any more.
    pub state: Option<String>,
}

/// An event that has no number yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Its place in the spool. Places ascend.
    pub place: u64,
    /// The event, whose `seq` is ignored.
    pub event: Event,
    /// What it tells, if that is remembered.
    pub told: Option<Told>,
}

/// What was told, by tenant (`None` for the host) and subject.
pub type ToldStates = BTreeMap<(Option<TenantName>, String), String>;

/// Selects events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventQuery {
    /// Only events with a larger number.
    pub after: u64,
    /// Only events since this moment.
    pub since: Moment,
    /// Only events of these tenants; `None` for all, and for those of the host.
    pub tenants: Option<Vec<TenantName>>,
    /// Only these types; all when empty.
    pub types: Vec<EventType>,
    /// The most events.
    pub most: usize,
    /// The reader.
    pub reader: EventReader,
}

/// Who reads events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventReader {
    /// An operator, who reads all.
    Operator,
    /// A user of the one tenant that is selected. It reads nothing from before the tenant's data was last purged.
    Tenant,
}

/// Events in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// The events.
    pub events: Vec<Event>,
    /// Where to go on: the number after which nothing was looked at.
    pub next: u64,
    /// The largest number of all events. A cursor beyond it is from an outbox that was lost.
    pub last: u64,
}

impl History {
    /// Appends the events of a spool, all of them or none. Those that were appended before are skipped. Returns the
    /// largest number.
    ///
    /// # Errors
    /// [`HistoryError::Full`] when the disk is full, or another error of SQLite.
    pub fn append_events(&mut self, spool: u64, events: &[NewEvent]) -> Result<u64, HistoryError> {
        let what = "write events";
        // A reader acts on what it reads, so this waits for the disk, unlike samples.
        self.connection.pragma_update(None, "synchronous", "FULL").map_err(failed(what))?;
        let appended = self.append(spool, events);
        self.connection.pragma_update(None, "synchronous", "NORMAL").map_err(failed(what))?;
        appended.map_err(failed(what))
    }

    fn append(&mut self, spool: u64, events: &[NewEvent]) -> rusqlite::Result<u64> {
        let transaction = self.connection.transaction()?;
        let sql = "SELECT place FROM spool WHERE id = ?1";
        let done: Option<i64> = transaction.query_row(sql, [as_i64(spool)], |row| row.get(0)).optional()?;
        for new in events.iter().filter(|new| done.is_none_or(|done| number(new.place) > done)) {
            append_one(&transaction, new)?;
        }
        if let Some(last) = events.last() {
            transaction.execute(
                "INSERT INTO spool VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET place = max(place, excluded.place), used = excluded.used",
                params![as_i64(spool), number(last.place), number(last_event(&transaction)?)],
            )?;
            let sql = "DELETE FROM spool WHERE id NOT IN (SELECT id FROM spool ORDER BY used DESC LIMIT ?1)";
            transaction.execute(sql, [SPOOLS_KEPT])?;
        }
        let last = last_event(&transaction)?;
        transaction.commit()?;
        Ok(last)
    }

    /// What was told so far.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn told(&self) -> Result<ToldStates, HistoryError> {
        let read = || -> rusqlite::Result<ToldStates> {
            let mut statement = self.connection.prepare("SELECT tenant, subject, state FROM told")?;
            let mut rows = statement.query([])?;
            let mut told = ToldStates::new();
            while let Some(row) = rows.next()? {
                let name: String = row.get(0)?;
                let tenant = if name.is_empty() { Ok(None) } else { name.parse().map(Some) };
                if let Ok(tenant) = tenant {
                    told.insert((tenant, row.get(1)?), row.get(2)?);
                }
            }
            Ok(told)
        };
        read().map_err(failed("read what was told"))
    }

    /// Remembers states as told without an event: those that a new outbox begins with.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn begin_told(&mut self, states: &ToldStates) -> Result<(), HistoryError> {
        let mut write = || -> rusqlite::Result<()> {
            let transaction = self.connection.transaction()?;
            for ((tenant, subject), state) in states {
                let whose = tenant.as_ref().map_or("", TenantName::as_str);
                tell(&transaction, whose, subject, Some(state))?;
            }
            transaction.commit()
        };
        write().map_err(failed("write what was told"))
    }

    /// The largest number of all events.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn last_event(&self) -> Result<u64, HistoryError> {
        last_event(&self.connection).map_err(failed("read events"))
    }

    /// The selected events, the oldest first.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn events(&self, query: &EventQuery) -> Result<EventPage, HistoryError> {
        self.read_events(query).map_err(failed("read events"))
    }

    fn read_events(&self, query: &EventQuery) -> rusqlite::Result<EventPage> {
        let last = last_event(&self.connection)?;
        // The numbers of a lost outbox mean nothing in this one.
        let mut after = if query.after > last { 0 } else { query.after };
        let one =
            query.tenants.as_ref().and_then(|tenants| if let [one] = tenants.as_slice() { Some(one) } else { None });
        if let (EventReader::Tenant, Some(tenant)) = (query.reader, one) {
            after = after.max(self.purged(tenant)?);
        }
        // The index of a tenant keeps its readers from reading past everybody else's events.
        let filter = if one.is_some() { "tenant = ?3 AND" } else { "?3 IS NULL AND" };
        let sql = format!(
            "SELECT seq, at, type, tenant, actor, data FROM event WHERE {filter} seq > ?1 AND at >= ?2 ORDER BY seq"
        );
        let types: BTreeSet<EventType> = query.types.iter().copied().collect();
        let tenants: Option<BTreeSet<&TenantName>> = query.tenants.as_ref().map(|tenants| tenants.iter().collect());
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![number(after), number(query.since.0), one.map(TenantName::as_str)])?;
        let mut page = EventPage { events: Vec::new(), next: last, last };
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let Some(event) = event(row)? else { continue };
            let is_meant = (types.is_empty() || types.contains(&event.kind))
                && tenants
                    .as_ref()
                    .is_none_or(|tenants| event.tenant.as_ref().is_some_and(|tenant| tenants.contains(tenant)));
            if !is_meant {
                continue;
            }
            bytes += row.get_ref(5)?.as_str().map_or(0, str::len);
            if page.events.len() == query.most || (bytes > MAX_PAGE && !page.events.is_empty()) {
                page.next = page.events.last().map_or(last, |event| event.seq);
                break;
            }
            page.events.push(event);
        }
        Ok(page)
    }

    fn purged(&self, tenant: &TenantName) -> rusqlite::Result<u64> {
        let sql = "SELECT CAST(state AS INTEGER) FROM told WHERE tenant = ?1 AND subject = ?2";
        let seq: Option<i64> =
            self.connection.query_row(sql, [tenant.as_str(), PURGED], |row| row.get(0)).optional()?;
        Ok(seq.and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0))
    }

    /// Removes events from before a moment, and the oldest above `most`.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn shorten_events(&mut self, oldest: Moment, most: u64) -> Result<(), HistoryError> {
        self.shorten(oldest, most).map_err(failed("shorten the outbox of events"))
    }

    fn shorten(&mut self, oldest: Moment, most: u64) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        transaction.execute("DELETE FROM event WHERE at < ?1", [number(oldest.0)])?;
        drop_above(&transaction, "tenant, type", (most / SHARE_OF_TYPE).max(1))?;
        drop_above(&transaction, "tenant", (most / SHARE_OF_TENANT).max(1))?;
        let count: i64 = transaction.query_row("SELECT count(*) FROM event", [], |row| row.get(0))?;
        if count > number(most) {
            let sql = "DELETE FROM event WHERE seq IN (SELECT seq FROM event ORDER BY seq LIMIT ?1)";
            transaction.execute(sql, [count - number(most)])?;
        }
        transaction.commit()
    }
}

/// Removes the oldest events of each group that has more than `most`. Events of the host, which have no tenant, are a
/// group only by their type.
fn drop_above(transaction: &Transaction<'_>, group: &str, most: u64) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare(&format!("SELECT tenant, type, count(*) FROM event GROUP BY {group}"))?;
    let mut rows = statement.query([])?;
    let by_type = group.contains("type");
    while let Some(row) = rows.next()? {
        let (tenant, kind, count): (Option<String>, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if count <= number(most) || (tenant.is_none() && !by_type) {
            continue;
        }
        let kind = by_type.then_some(kind);
        transaction.execute(
            "DELETE FROM event WHERE seq IN (SELECT seq FROM event WHERE tenant IS ?1 AND (?2 IS NULL OR type = ?2)
                 ORDER BY seq LIMIT ?3)",
            params![tenant, kind, count - number(most)],
        )?;
    }
    Ok(())
}

fn append_one(transaction: &Transaction<'_>, NewEvent { event, told, .. }: &NewEvent) -> rusqlite::Result<()> {
    let tenant = event.tenant.as_ref().map(TenantName::as_str);
    let data = serde_json::to_string(&event.data).expect("plain data is written as JSON");
    let seq = transaction
        .prepare_cached("INSERT INTO event (at, type, tenant, actor, data) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .insert(params![number(event.at.0), event.kind.word(), tenant, event.actor, data])?;
    let whose = tenant.unwrap_or_default();
    if event.kind == EventType::TenantPurged {
        transaction.execute("DELETE FROM told WHERE tenant = ?1 AND subject <> ?2", [whose, DECLARED])?;
        tell(transaction, whose, PURGED, Some(&seq.to_string()))?;
    }
    match told {
        Some(Told { subject, state }) => tell(transaction, whose, subject, state.as_deref()),
        None => Ok(()),
    }
}

fn tell(transaction: &Transaction<'_>, tenant: &str, subject: &str, state: Option<&str>) -> rusqlite::Result<()> {
    match state {
        Some(state) => transaction
            .prepare_cached("INSERT OR REPLACE INTO told VALUES (?1, ?2, ?3)")?
            .execute(params![tenant, subject, state]),
        None => transaction
            .prepare_cached("DELETE FROM told WHERE tenant = ?1 AND subject = ?2")?
            .execute(params![tenant, subject]),
    }
    .map(drop)
}

/// The largest number that was ever given in this file.
fn last_event(connection: &rusqlite::Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'event'";
    let last: Option<i64> = connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?;
    Ok(last.and_then(|last| u64::try_from(last).ok()).unwrap_or(0))
}

/// All 64 bits as a number of SQLite.
fn as_i64(id: u64) -> i64 {
    i64::from_ne_bytes(id.to_ne_bytes())
}

/// Reads a row. Returns `None` for one that this version cannot read, so that the others are not lost.
fn event(row: &Row<'_>) -> rusqlite::Result<Option<Event>> {
    let word: String = row.get(2)?;
    let Some(kind) = EventType::ALL.iter().copied().find(|kind| kind.word() == word) else { return Ok(None) };
    let Ok(tenant) = row.get::<_, Option<String>>(3)?.map(|name| name.parse()).transpose() else { return Ok(None) };
    let Ok(data) = serde_json::from_str(row.get_ref(5)?.as_str().unwrap_or_default()) else { return Ok(None) };
    let at = Moment(u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0));
    let seq = u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0);
    Ok(Some(Event { seq, at, kind, tenant, actor: row.get(4)?, data }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Retention;
    use crate::tests::{fresh, name};
    use bailiwick_types::EventValue;

    fn new(place: u64, kind: EventType, tenant: Option<&str>) -> NewEvent {
        let hostile = EventValue::text("a\u{1b}[2J\n'; DROP TABLE event; --");
        let event = Event {
            seq: 0,
            at: Moment(1000 + place),
            kind,
            tenant: tenant.map(name),
            actor: Some(0),
            data: [("text".to_owned(), hostile), ("n".to_owned(), EventValue::from(place))].into(),
        };
        NewEvent { place, event, told: None }
    }

    fn told(mut new: NewEvent, subject: &str, state: Option<&str>) -> NewEvent {
        new.told = Some(Told { subject: subject.to_owned(), state: state.map(str::to_owned) });
        new
    }

    fn all(history: &History, query: EventQuery) -> Vec<u64> {
        history.events(&query).expect("reads").events.iter().map(|event| event.seq).collect()
    }

    fn any() -> EventQuery {
        EventQuery {
            after: 0,
            since: Moment(0),
            tenants: None,
            types: Vec::new(),
            most: 1000,
            reader: EventReader::Operator,
        }
    }

    #[test]
    fn events_come_back_as_they_are_and_in_order() {
        let (_temp, mut history) = fresh();
        let events = [
            new(1, EventType::SessionOpened, Some("a")),
            new(2, EventType::HostReady, None),
            new(3, EventType::SessionClosed, Some("b")),
        ];
        assert_eq!(history.append_events(7, &events).expect("writes"), 3);
        let page = history.events(&any()).expect("reads");
        let golden: Vec<Event> = events.iter().map(|new| Event { seq: new.place, ..new.event.clone() }).collect();
        assert_eq!((page.events, page.next, page.last), (golden, 3, 3));
        let query = |after, since, tenants: &[&str], types: &[EventType]| {
            let tenants = (!tenants.is_empty()).then(|| tenants.iter().map(|tenant| name(tenant)).collect());
            EventQuery { after, since: Moment(since), tenants, types: types.to_vec(), ..any() }
        };
        assert_eq!(all(&history, query(1, 0, &[], &[])), [2, 3]);
        assert_eq!(all(&history, query(0, 1003, &[], &[])), [3]);
        assert_eq!(all(&history, query(0, 0, &["a"], &[])), [1]);
        assert_eq!(all(&history, query(0, 0, &["a", "b"], &[])), [1, 3]);
        assert_eq!(all(&history, query(0, 0, &["zoe"], &[])), [0; 0]);
        assert_eq!(all(&history, query(0, 0, &["a", "b"], &[EventType::SessionClosed])), [3]);
        // A cursor of an outbox that was lost begins anew.
        assert_eq!(all(&history, query(99, 0, &[], &[])), [1, 2, 3]);
    }

    #[test]
    fn pages_go_on_where_the_last_one_ended() {
        let (_temp, mut history) = fresh();
        let events: Vec<_> = (1..=25).map(|place| new(place, EventType::SessionOpened, Some("a"))).collect();
        history.append_events(7, &events).expect("writes");
        let mut seen = Vec::new();
        let mut after = 0;
        loop {
            let page = history.events(&EventQuery { after, most: 10, ..any() }).expect("reads");
            seen.extend(page.events.iter().map(|event| event.seq));
            after = page.next;
            if page.next == page.last {
                break;
            }
        }
        assert_eq!(seen, (1..=25).collect::<Vec<_>>());
        let large: Vec<_> = (26..=600)
            .map(|place| {
                let mut new = new(place, EventType::SessionOpened, Some("a"));
                new.event.data.extend((0..10).map(|i| (i.to_string(), EventValue::text(&"x".repeat(1000)))));
                new
            })
            .collect();
        history.append_events(7, &large).expect("writes");
        let page = history.events(&EventQuery { after: 25, ..any() }).expect("reads");
        assert!((300..500).contains(&page.events.len()), "{}", page.events.len());
        assert_eq!(page.events.last().map(|event| event.seq), Some(page.next));
    }

    #[test]
    fn what_a_spool_holds_is_appended_once() {
        let (temp, mut history) = fresh();
        let events: Vec<_> = (1..=3).map(|place| new(place, EventType::SessionOpened, Some("a"))).collect();
        history.append_events(u64::MAX, &events[..2]).expect("writes");
        // The program was killed before it could empty the spool.
        drop(history);
        let (mut history, _) = History::open(&temp.path().join("history.db"), Retention::default()).expect("opens");
        assert_eq!(history.append_events(u64::MAX, &events).expect("writes"), 3);
        assert_eq!(all(&history, any()), [1, 2, 3]);
        // A new spool counts from the beginning, and the former one is still known.
        assert_eq!(history.append_events(8, &events[..1]).expect("writes"), 4);
        assert_eq!(history.append_events(u64::MAX, &events).expect("writes"), 4);
        for spool in 100..200 {
            history.append_events(spool, &events[..1]).expect("writes");
        }
        let kept: i64 =
            history.connection.query_row("SELECT count(*) FROM spool", [], |row| row.get(0)).expect("a number");
        assert_eq!(kept, SPOOLS_KEPT);
    }

    #[test]
    fn what_was_told_is_written_with_its_event_and_ends_with_the_tenant() {
        let (_temp, mut history) = fresh();
        let events = [
            told(new(1, EventType::TenantStarted, Some("a")), "jail", Some("running")),
            told(new(2, EventType::LimitNear, Some("a")), "limit:memory", Some("near")),
            told(new(3, EventType::HostReserve, None), "reserve", Some("reached")),
            told(new(4, EventType::LimitCleared, Some("a")), "limit:memory", None),
            told(new(5, EventType::TenantCreated, Some("a")), DECLARED, Some("active")),
        ];
        history.append_events(7, &events).expect("writes");
        let golden = [
            ((Some(name("a")), DECLARED.to_owned()), "active".to_owned()),
            ((None, "reserve".to_owned()), "reached".to_owned()),
            ((Some(name("a")), "jail".to_owned()), "running".to_owned()),
        ];
        assert_eq!(history.told().expect("reads"), golden.into());
        history.append_events(7, &[new(6, EventType::TenantPurged, Some("a"))]).expect("writes");
        let left = history.told().expect("reads");
        assert_eq!(left.get(&(Some(name("a")), PURGED.to_owned())).map(String::as_str), Some("6"));
        assert_eq!(left.len(), 3, "{left:?}");
    }

    #[test]
    fn the_next_tenant_of_a_name_does_not_see_the_events_of_the_former_one() {
        let (_temp, mut history) = fresh();
        let events = [
            new(1, EventType::SessionOpened, Some("a")),
            new(2, EventType::TenantPurged, Some("a")),
            new(3, EventType::SessionOpened, Some("a")),
        ];
        history.append_events(7, &events).expect("writes");
        let own = EventQuery { tenants: Some(vec![name("a")]), ..any() };
        assert_eq!(all(&history, EventQuery { reader: EventReader::Tenant, ..own.clone() }), [3]);
        assert_eq!(all(&history, own), [1, 2, 3]);
    }

    #[test]
    fn a_flood_removes_only_events_of_its_own() {
        let (_temp, mut history) = fresh();
        let mut events = vec![new(1, EventType::LimitReached, Some("quiet")), new(2, EventType::HostReady, None)];
        events.extend((3..=502).map(|place| new(place, EventType::SessionOpened, Some("loud"))));
        events.push(new(503, EventType::LimitReached, Some("loud")));
        events.extend((504..=703).map(|place| new(place, EventType::HostCallerRefused, None)));
        history.append_events(7, &events).expect("writes");
        history.shorten_events(Moment(0), 200).expect("shortens");
        let left = history.events(&any()).expect("reads").events;
        let count = |tenant: Option<&str>, kind| {
            left.iter().filter(|event| event.tenant == tenant.map(name) && event.kind == kind).count()
        };
        assert_eq!(count(Some("quiet"), EventType::LimitReached), 1);
        assert_eq!(count(None, EventType::HostReady), 1);
        assert_eq!(count(Some("loud"), EventType::SessionOpened), 10);
        assert_eq!(count(Some("loud"), EventType::LimitReached), 1);
        assert_eq!(count(None, EventType::HostCallerRefused), 10);
        assert_eq!(left.last().map(|event| event.seq), Some(703), "the newest stay");
    }

    #[test]
    fn events_go_by_number_and_by_age_and_numbers_are_not_used_again() {
        let (_temp, mut history) = fresh();
        let tenants: Vec<String> = (0..30).map(|tenant| format!("t{tenant}")).collect();
        let events: Vec<_> = (0..300)
            .map(|place| {
                new(
                    place + 1,
                    EventType::ALL[usize::try_from(place % 20).expect("small")],
                    Some(&tenants[usize::try_from(place % 30).expect("small")]),
                )
            })
            .collect();
        history.append_events(7, &events).expect("writes");
        history.shorten_events(Moment(0), 100).expect("shortens");
        let left = all(&history, any());
        assert!(left.len() <= 100 && left.last() == Some(&300), "{left:?}");
        history.shorten_events(Moment(2000), 100).expect("shortens");
        assert_eq!(all(&history, any()), [0; 0]);
        assert_eq!(history.append_events(7, &[new(301, EventType::HostReady, None)]).expect("writes"), 301);
    }

    #[test]
    fn a_full_disk_is_an_error_that_leaves_all_events_for_the_next_time() {
        let (_temp, mut history) = fresh();
        let pages: i64 = history.connection.pragma_query_value(None, "page_count", |row| row.get(0)).expect("a number");
        history.connection.pragma_update(None, "max_page_count", pages).expect("sets");
        let events: Vec<_> = (1..=1000).map(|place| new(place, EventType::SessionOpened, Some("a"))).collect();
        let error = history.append_events(7, &events).expect_err("no space");
        assert!(matches!(error, HistoryError::Full), "{error}");
        assert_eq!(history.last_event().expect("reads"), 0);
        history.connection.pragma_update(None, "max_page_count", 1 << 30).expect("frees");
        assert_eq!(history.append_events(7, &events).expect("writes"), 1000);
    }

    #[test]
    fn a_row_that_cannot_be_read_hides_no_other() {
        let (_temp, mut history) = fresh();
        let events: Vec<_> = (1..=4).map(|place| new(place, EventType::SessionOpened, Some("a"))).collect();
        history.append_events(7, &events).expect("writes");
        for (seq, change) in [(1, "type = 'later.type'"), (2, "data = 'no JSON'"), (3, "tenant = 'No Name'")] {
            let sql = format!("UPDATE event SET {change} WHERE seq = {seq}");
            history.connection.execute(&sql, []).expect("changes");
        }
        assert_eq!(all(&history, any()), [4]);
    }

    #[test]
    #[ignore = "prints how long it takes; run with --release"]
    fn a_thousand_events() {
        let (_temp, mut history) = fresh();
        let mut times = Vec::new();
        for round in 0..100 {
            let events: Vec<_> = (1..=1000)
                .map(|place| new(round * 1000 + place, EventType::SessionOpened, Some(&format!("t{}", place % 100))))
                .collect();
            let begin = std::time::Instant::now();
            history.append_events(7, &events).expect("writes");
            times.push(begin.elapsed());
        }
        times.sort();
        let begin = std::time::Instant::now();
        history.shorten_events(Moment(0), 100_000).expect("shortens");
        let shortened = begin.elapsed();
        let begin = std::time::Instant::now();
        history.events(&EventQuery { tenants: Some(vec![name("t1")]), ..any() }).expect("reads");
        let (read, size) = (begin.elapsed(), history.size().expect("size"));
        let line = format!(
            "a thousand events: median {:?}, worst {:?}; shortened {shortened:?}; read {read:?}; {size} bytes\n",
            times[50], times[99]
        );
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).expect("prints");
    }
}
