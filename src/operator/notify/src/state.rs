//! The file: the cursor, and the deliveries that wait or were given up. One SQLite file, which one process holds.
//!
//! Danger: what is lost here is never told. So each change waits for the disk, and a damaged file is moved aside and not removed.

use crate::mail::News;
use crate::thresholds::{Announcement, Known, Phase, Told, ToldKey};
use bailiwick_proto::notify::{FailedDelivery, MOST_LISTED};
use bailiwick_types::{Event, Moment, TargetKind, TenantName, Threshold};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The version of the file that this program writes (`PRAGMA user_version`).
const VERSION: i64 = 2;
/// How long to wait for another process that holds the file.
const BUSY_TIME: Duration = Duration::from_secs(1);
/// The most deliveries by mail that wait, and the most of all other kinds together.
pub const MOST: u64 = 50_000;
/// The part of either that one tenant may cause, and the part that may go to one target.
const SHARE_OF_TENANT: u64 = 10;
const SHARE_OF_TARGET: u64 = 4;
/// The most deliveries that were given up. Of more, the oldest are removed.
const MOST_DEAD: u64 = 10_000;
/// The most bytes of the text of an error.
const MAX_ERROR: usize = 1000;
/// For how many seconds messages count that were sent to an address.
const SENT_KEPT: i64 = 3600;
/// For how many seconds deliveries count that were lost, and in steps of how many.
const LOST_KEPT: i64 = 7 * 86_400;
const LOST_STEP: i64 = 3600;
/// No attempt waits longer. A later one was written before the clock was set back.
const LONGEST_WAIT: u64 = 6 * 3600;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A later version of this program wrote the file.
    #[error("\"{path}\" is of version {found}, this program knows {VERSION}; install the newer program again, or move the file away", path = path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// Another process holds the file.
    #[error("another bailiwick-notify holds the deliveries")]
    Busy,
    /// SQLite failed.
    #[error("cannot {what}")]
    Database {
        /// The step that failed; completes "cannot ...".
        what: &'static str,
        /// The error of SQLite.
        #[source]
        source: rusqlite::Error,
    },
    /// A damaged file cannot be moved aside.
    #[error("cannot move the damaged deliveries aside")]
    Aside(#[source] io::Error),
}

fn failed(what: &'static str) -> impl FnOnce(rusqlite::Error) -> StateError {
    move |source| match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StateError::Busy,
        _ => StateError::Database { what, source },
    }
}

/// What a delivery carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Payload {
    /// An event, as `bailiwickd` told it.
    Event(Event),
    /// A notice to an address of mail.
    Notice(News),
}

impl Payload {
    /// What it is about, in a few words.
    #[must_use]
    pub fn about(&self) -> String {
        match self {
            Self::Event(event) => format!("event {} {}", event.seq, event.kind),
            Self::Notice(news) => format!("notice {} {}", news.resource, news.kind),
        }
    }
}

/// Where a delivery goes. Deliveries of one lane ([`Self::lane`]) are made one after another, in their order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Queue {
    /// The kind of target.
    pub kind: TargetKind,
    /// The name of the target among those of its kind.
    pub target: String,
    /// The tenant; `None` for what is about the host.
    pub tenant: Option<TenantName>,
}

impl Queue {
    /// What is made one after another: the deliveries of one tenant to one target; and all mail to one address, because many of
    /// them become one message.
    #[must_use]
    pub fn lane(&self) -> Lane {
        let tenant = self.tenant.clone().filter(|_| self.kind != TargetKind::Mail);
        (self.kind, self.target.clone(), tenant)
    }
}

/// Deliveries that are made one after another: the kind, the target, and the tenant unless it is mail.
pub type Lane = (TargetKind, String, Option<TenantName>);

/// How many deliveries went to an address lately, and how many wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Burst {
    /// Those that wait.
    pub waiting: u64,
    /// The messages of one notice since a moment.
    pub sent: u64,
    /// When the last digest was sent, if that was since the moment.
    pub digest: Option<Moment>,
}

/// How a delivery that was made counts for the next ones to the same address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// It does not count.
    Uncounted,
    /// A message of one notice.
    One(String),
    /// A digest.
    Digest(String),
}

/// A delivery without a number yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDelivery {
    /// Where it goes.
    pub queue: Queue,
    /// What it carries.
    pub payload: Payload,
}

/// What found no room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NoRoom {
    /// The deliveries that are lost.
    pub lost: u64,
    /// The deliveries that are held back: the next reading has them told.
    pub held: u64,
}

/// A delivery that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its number. Numbers ascend and are never used again.
    pub id: u64,
    /// Where it goes.
    pub queue: Queue,
    /// What it carries.
    pub payload: Payload,
    /// When it was written.
    pub created: Moment,
    /// How often it was tried.
    pub attempts: u32,
}

/// The open file.
#[derive(Debug)]
pub struct State {
    connection: Connection,
}

/// The present moment, by the host's clock.
#[must_use]
pub fn now() -> Moment {
    Moment(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

impl State {
    /// Opens the file, or makes a new one. A damaged file is moved aside, and a new one is made. Then the second value is a message
    /// about this.
    ///
    /// # Errors
    /// When a later version wrote the file, which is left as it is; when another process holds it; or when it cannot be made.
    pub fn open(path: &Path) -> Result<(Self, Option<String>), StateError> {
        match Self::open_undamaged(path) {
            Err(error) if is_damage(&error) => {
                let aside = move_aside(path).map_err(StateError::Aside)?;
                let told = format!("the deliveries in {} were damaged and are now {}", path.display(), aside.display());
                Ok((Self::open_undamaged(path)?, Some(told)))
            }
            opened => Ok((opened?, None)),
        }
    }

    fn open_undamaged(path: &Path) -> Result<Self, StateError> {
        let what = "open the deliveries";
        let connection = Connection::open(path).map_err(failed(what))?;
        connection.busy_timeout(BUSY_TIME).map_err(failed(what))?;
        // As for the history: this must come before the first read, and keeps the index of the log in memory.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(failed(what))?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed(what))?;
        if found > VERSION {
            return Err(StateError::Newer { path: path.to_owned(), found });
        }
        let check: String =
            connection.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(failed(what))?;
        if check != "ok" {
            let damage = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            let source = rusqlite::Error::SqliteFailure(damage, Some(check));
            return Err(StateError::Database { what, source });
        }
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed(what))?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(failed(what))?;
        connection.pragma_update(None, "journal_size_limit", 4 << 20).map_err(failed(what))?;
        // Version 1 forgot what was told as soon as it was clear.
        let convert = if found == 1 {
            "ALTER TABLE told ADD COLUMN phase INTEGER NOT NULL DEFAULT 0; ALTER TABLE told ADD COLUMN since INTEGER;"
        } else {
            ""
        };
        connection
            .execute_batch(&format!(
                "BEGIN IMMEDIATE;
                 CREATE TABLE IF NOT EXISTS cursor (id INTEGER PRIMARY KEY CHECK (id = 1), seq INTEGER NOT NULL);
                 CREATE TABLE IF NOT EXISTS delivery (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL,
                     target TEXT NOT NULL, tenant TEXT NOT NULL, payload TEXT NOT NULL, created INTEGER NOT NULL,
                     attempts INTEGER NOT NULL DEFAULT 0, next INTEGER NOT NULL, error TEXT, dead INTEGER NOT NULL DEFAULT 0);
                 CREATE INDEX IF NOT EXISTS queue ON delivery (dead, kind, target, tenant, id);
                 CREATE TABLE IF NOT EXISTS told (tenant TEXT NOT NULL, resource TEXT NOT NULL, recipients TEXT NOT NULL,
                     threshold TEXT NOT NULL, at INTEGER NOT NULL, phase INTEGER NOT NULL DEFAULT 0, since INTEGER, PRIMARY KEY (tenant, resource, recipients, threshold))
                     WITHOUT ROWID;
                 CREATE TABLE IF NOT EXISTS sent (address TEXT NOT NULL, at INTEGER NOT NULL, digest INTEGER NOT NULL);
                 CREATE INDEX IF NOT EXISTS sent_at ON sent (address, at);
                 CREATE TABLE IF NOT EXISTS lost (step INTEGER PRIMARY KEY, count INTEGER NOT NULL);
                 {convert}
                 PRAGMA user_version = 2;
                 COMMIT",
            ))
            .map_err(failed(what))?;
        Ok(Self { connection })
    }

    /// The number of the last event that was taken; `None` before the first.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn cursor(&self) -> Result<Option<u64>, StateError> {
        let sql = "SELECT seq FROM cursor";
        let seq: Option<i64> =
            self.connection.query_row(sql, [], |row| row.get(0)).optional().map_err(failed("read the cursor"))?;
        Ok(seq.map(unsigned))
    }

    /// Writes the cursor, if there is a new one, new deliveries, and what is told: all or nothing, but for what finds no room. A
    /// telling with a delivery that has no room is not written at all, so nobody counts as told who is not.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn take(
        &mut self,
        cursor: Option<u64>,
        new: &[NewDelivery],
        tellings: &[Announcement],
    ) -> Result<NoRoom, StateError> {
        let mut write = || -> rusqlite::Result<NoRoom> {
            let transaction = self.connection.transaction()?;
            if let Some(cursor) = cursor {
                transaction.execute("INSERT OR REPLACE INTO cursor VALUES (1, ?1)", [number(cursor)])?;
            }
            let no_room = insert(&transaction, new, tellings, cursor.is_some(), MOST)?;
            if no_room.lost > 0 {
                let at = number(now().0);
                let sql = "INSERT INTO lost VALUES (?1, ?2) ON CONFLICT (step) DO UPDATE SET count = count + ?2";
                transaction.execute(sql, [at / LOST_STEP, number(no_room.lost)])?;
                let steps = [(at - LOST_KEPT) / LOST_STEP, at / LOST_STEP];
                transaction.execute("DELETE FROM lost WHERE step < ?1 OR step > ?2", steps)?;
            }
            transaction.commit()?;
            Ok(no_room)
        };
        write().map_err(failed("write new deliveries"))
    }

    /// How many deliveries were lost in the last seven days, because too many waited.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn lost(&self) -> Result<u64, StateError> {
        let sql = "SELECT coalesce(sum(count), 0) FROM lost WHERE step >= ?1";
        let since = (number(now().0) - LOST_KEPT) / LOST_STEP;
        let lost = self.connection.query_row(sql, [since], |row| row.get(0).map(unsigned));
        lost.map_err(failed("count what was lost"))
    }

    /// The first delivery of each lane of a kind whose attempt is due, the oldest first; but for busy lanes, and for targets to which
    /// `of_target` lanes are busy.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn due(
        &mut self,
        kind: TargetKind,
        at: Moment,
        busy: &BTreeSet<Lane>,
        of_target: usize,
        most: usize,
    ) -> Result<Vec<Delivery>, StateError> {
        let is_free = |delivery: &Delivery| {
            let Queue { kind, target, .. } = &delivery.queue;
            let to_target = busy.iter().filter(|(of, to, _)| of == kind && to == target).count();
            !busy.contains(&delivery.queue.lane()) && to_target < of_target
        };
        let mut unreadable = Vec::new();
        let found = self.read_due(kind, at, is_free, most, &mut unreadable).map_err(failed("read deliveries"))?;
        let given_up: Vec<_> = unreadable.into_iter().map(|id| (id, None)).collect();
        self.fail(&given_up, "this version of bailiwick-notify cannot read it")?;
        Ok(found)
    }

    fn read_due(
        &self,
        kind: TargetKind,
        at: Moment,
        is_free: impl Fn(&Delivery) -> bool,
        most: usize,
        unreadable: &mut Vec<u64>,
    ) -> rusqlite::Result<Vec<Delivery>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id, kind, target, tenant, payload, created, attempts FROM delivery
             WHERE id IN (SELECT min(id) FROM delivery WHERE dead = 0 AND kind = ?3
                          GROUP BY target, CASE kind WHEN 'mail' THEN '' ELSE tenant END)
                 AND (next <= ?1 OR next > ?2)
             ORDER BY id",
        )?;
        let latest = at.0.saturating_add(LONGEST_WAIT);
        let mut rows = statement.query(params![number(at.0), number(latest), kind.word()])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            match delivery(row)? {
                Ok(delivery) if is_free(&delivery) => found.push(delivery),
                Ok(_) => {}
                Err(id) => unreadable.push(id),
            }
            if found.len() == most {
                break;
            }
        }
        Ok(found)
    }

    /// When the next attempt is due of those that are not due yet.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn next_attempt(&self, at: Moment) -> Result<Option<Moment>, StateError> {
        let sql = "SELECT min(next) FROM delivery WHERE dead = 0 AND next > ?1";
        let next: Option<i64> = self
            .connection
            .query_row(sql, [number(at.0)], |row| row.get(0))
            .map_err(failed("read when a delivery is due"))?;
        Ok(next.map(|next| Moment(unsigned(next))))
    }

    /// Removes deliveries that were made, and counts the message.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn remove(&mut self, ids: &[u64], sent: &Sent) -> Result<(), StateError> {
        let mut write = || -> rusqlite::Result<()> {
            let transaction = self.connection.transaction()?;
            for id in ids {
                transaction.execute("DELETE FROM delivery WHERE id = ?1", [number(*id)])?;
            }
            if let Sent::One(address) | Sent::Digest(address) = sent {
                let is_digest = matches!(sent, Sent::Digest(_));
                let at = number(now().0);
                transaction.execute("INSERT INTO sent VALUES (?1, ?2, ?3)", params![address, at, is_digest])?;
                transaction.execute("DELETE FROM sent WHERE at < ?1 OR at > ?2", [at - SENT_KEPT, at])?;
            }
            transaction.commit()
        };
        write().map_err(failed("remove a delivery"))
    }

    /// How many deliveries to an address wait, and what went to it since a moment.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn burst(&self, address: &str, since: Moment) -> Result<Burst, StateError> {
        let read = || -> rusqlite::Result<Burst> {
            let sql = "SELECT count(*) FROM delivery WHERE dead = 0 AND kind = 'mail' AND target = ?1";
            let waiting: i64 = self.connection.query_row(sql, [address], |row| row.get(0))?;
            let sql = "SELECT count(*) - coalesce(sum(digest), 0), max(CASE digest WHEN 1 THEN at END) FROM sent
                       WHERE address = ?1 AND at >= ?2";
            self.connection.query_row(sql, params![address, number(since.0)], |row| {
                let (sent, digest): (i64, Option<i64>) = (row.get(0)?, row.get(1)?);
                let digest = digest.map(|at| Moment(unsigned(at)));
                Ok(Burst { waiting: unsigned(waiting), sent: unsigned(sent), digest })
            })
        };
        read().map_err(failed("count deliveries to an address"))
    }

    /// All deliveries to an address that wait, the oldest first, but for those that this version cannot read.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn waiting_for(&self, address: &str) -> Result<Vec<Delivery>, StateError> {
        let read = || -> rusqlite::Result<Vec<Delivery>> {
            let mut statement = self.connection.prepare_cached(
                "SELECT id, kind, target, tenant, payload, created, attempts FROM delivery
                 WHERE dead = 0 AND kind = 'mail' AND target = ?1 ORDER BY id",
            )?;
            let rows = statement.query_map([address], delivery)?;
            rows.filter_map(|row| row.map(Result::ok).transpose()).collect()
        };
        read().map_err(failed("read the deliveries to an address"))
    }

    /// Has a delivery wait until a moment, without an attempt.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn postpone(&mut self, id: u64, until: Moment) -> Result<(), StateError> {
        let sql = "UPDATE delivery SET next = ?2 WHERE id = ?1";
        self.connection.execute(sql, [number(id), number(until.0)]).map(drop).map_err(failed("postpone a delivery"))
    }

    /// What was told, and is not clear yet or may not be told again yet.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn told(&self) -> Result<Told, StateError> {
        let read = || -> rusqlite::Result<Told> {
            let mut statement = self
                .connection
                .prepare_cached("SELECT tenant, resource, recipients, threshold, at, phase, since FROM told")?;
            let mut rows = statement.query([])?;
            let mut told = Told::new();
            while let Some(row) = rows.next()? {
                let word = |column| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
                // A word of a later version is none of ours.
                let (Ok(tenant), Ok(resource), Ok(threshold)) = (word(0)?.parse(), word(1)?.parse(), word(3)?.parse())
                else {
                    continue;
                };
                let key = ToldKey { tenant, resource, to: word(2)?.to_owned(), threshold };
                let since: Option<i64> = row.get(6)?;
                let phase = match (row.get(5)?, since) {
                    (ENDING, Some(since)) => Phase::Ending(Moment(unsigned(since))),
                    (OVER, _) => Phase::Over,
                    (AGAIN, _) => Phase::Again,
                    _ => Phase::Told,
                };
                told.insert(key, Known { at: Moment(unsigned(row.get(4)?)), phase });
            }
            Ok(told)
        };
        read().map_err(failed("read what was told"))
    }

    /// The oldest deliveries that were given up, or else those that have failed and are tried again; at most [`MOST_LISTED`].
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn failures(&self, given_up: bool) -> Result<Vec<FailedDelivery>, StateError> {
        let read = || -> rusqlite::Result<Vec<FailedDelivery>> {
            let mut statement = self.connection.prepare_cached(
                "SELECT id, kind, target, tenant, payload, created, attempts, error, next FROM delivery
                 WHERE dead = ?1 AND attempts > 0 ORDER BY id LIMIT ?2",
            )?;
            let mut rows = statement.query((given_up, number(MOST_LISTED)))?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                let error: Option<String> = row.get(7)?;
                let tenant: Option<TenantName> = row.get::<_, String>(3)?.parse().ok();
                let word: String = row.get(1)?;
                let Some(kind) = TargetKind::ALL.into_iter().find(|kind| kind.word() == word) else { continue };
                let about = delivery(row)?.map_or_else(|_| "unknown".to_owned(), |delivery| delivery.payload.about());
                all.push(FailedDelivery {
                    id: unsigned(row.get(0)?),
                    kind,
                    target: row.get(2)?,
                    tenant,
                    about,
                    created: Moment(unsigned(row.get(5)?)),
                    attempts: row.get(6)?,
                    next: if given_up { None } else { Some(Moment(unsigned(row.get(8)?))) },
                    error: error.unwrap_or_default(),
                });
            }
            Ok(all)
        };
        read().map_err(failed("read the deliveries that have failed"))
    }

    /// Has deliveries that have failed or were given up tried again at once, as if they were new; all when `ids` is empty. Returns their
    /// numbers.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn retry(&mut self, ids: &[u64]) -> Result<Vec<u64>, StateError> {
        let failing = || -> rusqlite::Result<Vec<u64>> {
            let sql = "SELECT id FROM delivery WHERE dead = 1 OR attempts > 0 ORDER BY id";
            let mut statement = self.connection.prepare_cached(sql)?;
            statement.query_map([], |row| row.get(0).map(unsigned))?.collect()
        };
        let failing = failing().map_err(failed("read the deliveries that have failed"))?;
        let meant: Vec<u64> = failing.into_iter().filter(|id| ids.is_empty() || ids.contains(id)).collect();
        let mut write = || -> rusqlite::Result<()> {
            let transaction = self.connection.transaction()?;
            for id in &meant {
                let sql = "UPDATE delivery SET dead = 0, attempts = 0, next = ?2 WHERE id = ?1";
                transaction.execute(sql, [number(*id), number(now().0)])?;
            }
            transaction.commit()
        };
        write().map_err(failed("try deliveries again"))?;
        Ok(meant)
    }

    /// Notes an attempt that failed, with the next one of each delivery. Without a next one it is given up, and the next of its queue
    /// follows.
    ///
    /// # Errors
    /// An error of SQLite. Then nothing was written.
    pub fn fail(&mut self, all: &[(u64, Option<Moment>)], error: &str) -> Result<(), StateError> {
        let error = error.get(..error.floor_char_boundary(MAX_ERROR)).unwrap_or_default();
        let mut write = || -> rusqlite::Result<()> {
            let transaction = self.connection.transaction()?;
            for (id, next) in all {
                transaction.execute(
                    "UPDATE delivery SET attempts = attempts + 1, error = ?2, next = coalesce(?3, next), dead = ?3 IS NULL
                     WHERE id = ?1",
                    params![number(*id), error, next.map(|next| number(next.0))],
                )?;
            }
            if all.iter().any(|(_, next)| next.is_none()) {
                let sql = "DELETE FROM delivery WHERE id IN
                               (SELECT id FROM delivery WHERE dead = 1 ORDER BY id DESC LIMIT -1 OFFSET ?1)";
                transaction.execute(sql, [number(MOST_DEAD)])?;
            }
            transaction.commit()
        };
        write().map_err(failed("note a failed delivery"))
    }

    /// How many deliveries wait, and how many were given up.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn counts(&self) -> Result<(u64, u64), StateError> {
        let count = |dead: i64| -> rusqlite::Result<u64> {
            let sql = "SELECT count(*) FROM delivery WHERE dead = ?1";
            self.connection.query_row(sql, [dead], |row| row.get(0)).map(unsigned)
        };
        count(0).and_then(|waiting| Ok((waiting, count(1)?))).map_err(failed("count deliveries"))
    }
}

/// The phases in the file. 0 is [`Phase::Told`].
const ENDING: i64 = 1;
const OVER: i64 = 2;
const AGAIN: i64 = 3;

fn tell(transaction: &Transaction<'_>, key: &ToldKey, now: Option<Known>) -> rusqlite::Result<()> {
    let ToldKey { tenant, resource, to, threshold } = key;
    let threshold = threshold.to_string();
    match now {
        Some(Known { at, phase }) => {
            let (phase, since) = match phase {
                Phase::Told => (0, None),
                Phase::Ending(since) => (ENDING, Some(number(since.0))),
                Phase::Over => (OVER, None),
                Phase::Again => (AGAIN, None),
            };
            transaction
                .prepare_cached("INSERT OR REPLACE INTO told VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
                .execute(params![tenant.as_str(), resource.word(), to, threshold, number(at.0), phase, since])
        }
        None => transaction
            .prepare_cached(
                "DELETE FROM told WHERE tenant = ?1 AND resource = ?2 AND recipients = ?3 AND threshold = ?4",
            )?
            .execute(params![tenant.as_str(), resource.word(), to, threshold]),
    }
    .map(drop)
}

/// A part of the room for deliveries. Mail has room of its own: whatever tenants' events cause elsewhere takes none of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Share {
    /// What is for mail, or for all else.
    Whole { is_mail: bool },
    /// The part for a tenant.
    Tenant { is_mail: bool, tenant: TenantName },
    /// The part for a target.
    Target { kind: TargetKind, target: String },
}

impl Share {
    /// The shares that a delivery takes of, each with its bound.
    fn of(Queue { kind, target, tenant }: &Queue, most: u64) -> Vec<(Self, u64)> {
        let is_mail = *kind == TargetKind::Mail;
        let of_tenant = tenant.clone().map(|tenant| (Self::Tenant { is_mail, tenant }, most / SHARE_OF_TENANT));
        let of_target = (Self::Target { kind: *kind, target: target.clone() }, most / SHARE_OF_TARGET);
        [(Self::Whole { is_mail }, most), of_target].into_iter().chain(of_tenant).collect()
    }
}

/// What the deliveries that wait leave room for.
struct Room {
    /// The most of [`Share::Whole`].
    most: u64,
    taken: BTreeMap<Share, u64>,
}

impl Room {
    fn read(transaction: &Transaction<'_>, most: u64) -> rusqlite::Result<Self> {
        let mut room = Self { most, taken: BTreeMap::new() };
        let sql = "SELECT kind, target, tenant, count(*) FROM delivery WHERE dead = 0 GROUP BY kind, target, tenant";
        let mut statement = transaction.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (word, tenant): (String, String) = (row.get(0)?, row.get(2)?);
            // A kind of a later version is none of ours.
            let Some(kind) = TargetKind::ALL.into_iter().find(|kind| kind.word() == word) else { continue };
            let queue = Queue { kind, target: row.get(1)?, tenant: tenant.parse().ok() };
            let count: i64 = row.get(3)?;
            for (share, _) in Share::of(&queue, most) {
                *room.taken.entry(share).or_default() += unsigned(count);
            }
        }
        Ok(room)
    }

    /// Takes the room for these deliveries; none of it when one of them has none.
    fn take(&mut self, all: &[NewDelivery]) -> bool {
        for (index, new) in all.iter().enumerate() {
            let shares = Share::of(&new.queue, self.most);
            if shares.iter().any(|(share, most)| self.taken.get(share).copied().unwrap_or_default() >= *most) {
                for (share, _) in all[..index].iter().flat_map(|new| Share::of(&new.queue, self.most)) {
                    self.taken.entry(share).and_modify(|taken| *taken -= 1);
                }
                return false;
            }
            for (share, _) in shares {
                *self.taken.entry(share).or_default() += 1;
            }
        }
        true
    }
}

/// Inserts the deliveries that have room, and what is told if all its deliveries have. Returns how many deliveries have none. What
/// tells `of_events` comes once, and what is used is read again.
fn insert(
    transaction: &Transaction<'_>,
    new: &[NewDelivery],
    tellings: &[Announcement],
    of_events: bool,
    most: u64,
) -> rusqlite::Result<NoRoom> {
    let mut no_room = NoRoom::default();
    let mut room = if new.is_empty() && tellings.iter().all(|telling| telling.deliveries.is_empty()) {
        Room { most, taken: BTreeMap::new() }
    } else {
        Room::read(transaction, most)?
    };
    let created = number(now().0);
    let mut write = |all: &[NewDelivery]| -> rusqlite::Result<bool> {
        if !room.take(all) {
            return Ok(false);
        }
        for NewDelivery { queue, payload } in all {
            let tenant = queue.tenant.as_ref().map_or("", TenantName::as_str);
            let payload = serde_json::to_string(payload).expect("plain data is written as JSON");
            let sql =
                "INSERT INTO delivery (kind, target, tenant, payload, created, next) VALUES (?1, ?2, ?3, ?4, ?5, ?5)";
            let values = params![queue.kind.word(), queue.target, tenant, payload, created];
            transaction.prepare_cached(sql)?.execute(values)?;
        }
        Ok(true)
    };
    for new in new {
        if !write(std::slice::from_ref(new))? {
            no_room.lost += 1;
        }
    }
    for Announcement { changes, deliveries } in tellings {
        let count = u64::try_from(deliveries.len()).unwrap_or(u64::MAX);
        let is_written = write(deliveries)?;
        let is_end = changes.iter().all(|(_, now)| now.is_none_or(|now| now.phase != Phase::Told));
        if !is_written {
            let counted = if of_events && is_end { &mut no_room.lost } else { &mut no_room.held };
            *counted += count;
        }
        for (key, now) in changes {
            if is_written || (of_events && is_end) {
                tell(transaction, key, *now)?;
            } else if of_events && key.threshold == Threshold::Hard && !key.resource.has_soft() {
                // No reading shows it, so it is remembered as not told yet.
                tell(transaction, key, Some(Known { at: Moment(0), phase: Phase::Again }))?;
            }
        }
    }
    Ok(no_room)
}

/// Reads a row; its number alone when this version cannot read it.
fn delivery(row: &Row<'_>) -> rusqlite::Result<Result<Delivery, u64>> {
    let id = unsigned(row.get(0)?);
    let word: String = row.get(1)?;
    let tenant: String = row.get(3)?;
    let tenant = if tenant.is_empty() { Ok(None) } else { tenant.parse().map(Some) };
    let payload = serde_json::from_str(row.get_ref(4)?.as_str().unwrap_or_default());
    let kind = TargetKind::ALL.into_iter().find(|kind| kind.word() == word);
    let (Some(kind), Ok(tenant), Ok(payload)) = (kind, tenant, payload) else { return Ok(Err(id)) };
    let queue = Queue { kind, target: row.get(2)?, tenant };
    let created = Moment(unsigned(row.get(5)?));
    Ok(Ok(Delivery { id, queue, payload, created, attempts: row.get(6)? }))
}

fn is_damage(error: &StateError) -> bool {
    let StateError::Database { source, .. } = error else { return false };
    matches!(source.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Moves a file to `NAME.damaged`, in place of an earlier damaged one, and removes its log.
fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let beside = |end: &str| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(end);
        path.with_file_name(name)
    };
    let aside = beside(".damaged");
    std::fs::rename(path, &aside)?;
    for end in ["-wal", "-shm"] {
        match std::fs::remove_file(beside(end)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::thresholds::ToldChange;
    use bailiwick_types::{EventType, EventValue};

    pub(crate) fn name(text: &str) -> TenantName {
        text.parse().expect("a name")
    }

    pub(crate) fn event(seq: u64, tenant: Option<&str>) -> Event {
        let data = [("text".to_owned(), EventValue::text("a\u{1b}\n'; DROP TABLE delivery; --"))].into();
        Event { seq, at: Moment(seq), kind: EventType::LimitReached, tenant: tenant.map(name), actor: None, data }
    }

    pub(crate) fn new(target: &str, tenant: Option<&str>, seq: u64) -> NewDelivery {
        let queue = Queue { kind: TargetKind::Webhook, target: target.to_owned(), tenant: tenant.map(name) };
        NewDelivery { queue, payload: Payload::Event(event(seq, tenant)) }
    }

    fn fresh() -> (tempfile::TempDir, State) {
        let temp = tempfile::tempdir().expect("temporary directory");
        let (state, told) = State::open(&temp.path().join("notify.db")).expect("opens");
        assert_eq!(told, None);
        (temp, state)
    }

    fn seqs(found: &[Delivery]) -> Vec<u64> {
        found
            .iter()
            .map(|delivery| match &delivery.payload {
                Payload::Event(event) => event.seq,
                Payload::Notice(_) => 0,
            })
            .collect()
    }

    fn due(state: &mut State, busy: &[&Delivery]) -> Vec<Delivery> {
        let busy = busy.iter().map(|delivery| delivery.queue.lane()).collect();
        state.due(TargetKind::Webhook, Moment(now().0 + 1), &busy, 100, 100).expect("reads")
    }

    #[test]
    fn what_was_taken_is_there_after_a_restart_in_the_order_of_each_queue() {
        let (temp, mut state) = fresh();
        assert_eq!(state.cursor().expect("reads"), None);
        let all = [("a", Some("alice"), 1), ("a", Some("alice"), 2), ("a", Some("bob"), 3), ("b", None, 4)];
        let all = all.map(|(target, tenant, seq)| new(target, tenant, seq));
        assert_eq!(state.take(Some(4), &all, &[]).expect("writes"), NoRoom::default());
        drop(state);
        let (mut state, _) = State::open(&temp.path().join("notify.db")).expect("opens");
        assert_eq!(state.cursor().expect("reads"), Some(4));
        let found = due(&mut state, &[]);
        assert_eq!(seqs(&found), [1, 3, 4], "the second waits for the first");
        assert_eq!(found[0].payload, all[0].payload);
        assert_eq!(seqs(&due(&mut state, &[&found[0]])), [3, 4]);
        state.remove(&[found[0].id], &Sent::Uncounted).expect("removes");
        assert_eq!(seqs(&due(&mut state, &[])), [2, 3, 4]);
    }

    #[test]
    fn a_failure_keeps_its_queue_waiting_and_giving_up_lets_the_next_pass() {
        let (_temp, mut state) = fresh();
        state.take(Some(2), &[new("a", Some("alice"), 1), new("a", Some("alice"), 2)], &[]).expect("writes");
        let first = due(&mut state, &[]).remove(0);
        let later = Moment(now().0 + 600);
        state.fail(&[(first.id, Some(later))], "no\u{e4}".repeat(600).as_str()).expect("writes");
        assert_eq!((seqs(&due(&mut state, &[])), state.next_attempt(now()).expect("reads")), (vec![], Some(later)));
        // A clock that was set back makes nobody wait for longer than the longest pause.
        state.fail(&[(first.id, Some(Moment(now().0 + 10 * LONGEST_WAIT)))], "no").expect("writes");
        assert_eq!((seqs(&due(&mut state, &[])), due(&mut state, &[])[0].attempts), (vec![1], 2));
        state.fail(&[(first.id, None)], "no").expect("writes");
        assert_eq!((seqs(&due(&mut state, &[])), state.counts().expect("counts")), (vec![2], (1, 1)));
    }

    #[test]
    fn rows_are_bounded_with_a_share_for_each_tenant_and_each_target() {
        let (_temp, mut state) = fresh();
        let transaction = state.connection.transaction().expect("begins");
        let of = |target: &str, tenant: Option<&str>, count: u64| -> Vec<NewDelivery> {
            (0..count).map(|seq| new(target, tenant, seq)).collect()
        };
        assert_eq!(insert(&transaction, &of("a", Some("alice"), 12), &[], true, 100).expect("writes").lost, 2);
        assert_eq!(
            insert(&transaction, &of("b", Some("alice"), 1), &[], true, 100).expect("writes").lost,
            1,
            "her share is full"
        );
        assert_eq!(
            insert(&transaction, &of("a", None, 20), &[], true, 100).expect("writes").lost,
            5,
            "a's share is full"
        );
        for (target, lost) in [("b", 0), ("c", 0), ("d", 0), ("e", 25)] {
            assert_eq!(
                insert(&transaction, &of(target, None, 25), &[], true, 100).expect("writes").lost,
                lost,
                "{target}"
            );
        }
    }

    /// A telling of a threshold by mail to these addresses.
    fn telling(tenant: &str, threshold: &str, to: &[&str]) -> Announcement {
        let resource = bailiwick_types::NoticeResource::Disk;
        let threshold = threshold.parse().expect("a threshold");
        let key = ToldKey { tenant: name(tenant), resource, to: to.join(","), threshold };
        let mail = |address: &&str| {
            let mut new = new(address, Some(tenant), 0);
            new.queue.kind = TargetKind::Mail;
            new
        };
        Announcement {
            changes: vec![(key, Some(Known { at: Moment(5), phase: Phase::Told }))],
            deliveries: to.iter().map(mail).collect(),
        }
    }

    #[test]
    fn what_events_cause_elsewhere_leaves_mail_its_room() {
        let (_temp, mut state) = fresh();
        let transaction = state.connection.transaction().expect("begins");
        let mut storm: Vec<NewDelivery> = (0..10).map(|seq| new("a", Some("alice"), seq)).collect();
        for tenant in 0..9 {
            storm.extend((0..10).map(|seq| new(&format!("b{tenant}"), Some(&format!("t{tenant}")), seq)));
        }
        assert_eq!(insert(&transaction, &storm, &[], true, 100).expect("writes").lost, 0);
        assert_eq!(insert(&transaction, &[new("c", None, 0)], &[], true, 100).expect("writes").lost, 1, "all is full");
        let one = telling("alice", "80%", &["a@b", "c@d"]);
        assert_eq!(insert(&transaction, &[], &[one], true, 100).expect("writes"), NoRoom::default());
        transaction.commit().expect("commits");
        assert_eq!(state.told().expect("reads").len(), 1);
    }

    #[test]
    fn nobody_counts_as_told_whose_deliveries_found_no_room() {
        let (temp, mut state) = fresh();
        let transaction = state.connection.transaction().expect("begins");
        let all: Vec<Announcement> =
            (1..=6).map(|share| telling("alice", &format!("{share}%"), &["a@b", "c@d"])).collect();
        // The tenant's tenth is ten: five tellings, and of the sixth nothing.
        assert_eq!(insert(&transaction, &[], &all, false, 100).expect("writes").held, 2);
        // One that has room for one address alone is not told to that either.
        let half = telling("bob", "80%", &["e@f"; 11]);
        assert_eq!(insert(&transaction, &[], &[half], false, 100).expect("writes").held, 11);
        assert_eq!(
            insert(&transaction, &[], &[telling("bob", "80%", &["e@f"; 10])], true, 100).expect("writes").lost,
            0
        );
        transaction.commit().expect("commits");
        let told: Vec<(String, String)> = state
            .told()
            .expect("reads")
            .into_keys()
            .map(|key| (key.tenant.to_string(), key.threshold.to_string()))
            .collect();
        let of_alice = (1..=5).map(|share| ("alice".to_owned(), format!("{share}%")));
        assert_eq!(told, of_alice.chain([("bob".to_owned(), "80%".to_owned())]).collect::<Vec<_>>());
        assert_eq!(state.counts().expect("counts").0, 20);
        // What an event has lost is counted over a restart, and what is read again is not lost.
        // What events have lost is counted over a restart.
        let many: Vec<NewDelivery> = (0..MOST / SHARE_OF_TENANT + 3).map(|seq| new("a", Some("carol"), seq)).collect();
        assert_eq!(state.take(Some(1), &many, &[]).expect("writes"), NoRoom { lost: 3, held: 0 });
        assert_eq!(state.take(Some(2), &many[..1], &[]).expect("writes"), NoRoom { lost: 1, held: 0 });
        drop(state);
        let (state, _) = State::open(&temp.path().join("notify.db")).expect("opens");
        assert_eq!(state.lost().expect("counts"), 4);
        let long_ago = "UPDATE lost SET step = step - 7 * 24 - 1";
        state.connection.execute(long_ago, []).expect("updates");
        assert_eq!(state.lost().expect("counts"), 0);
    }

    #[test]
    fn a_refusal_that_finds_no_room_is_told_later_and_its_end_is_lost() {
        let (_temp, mut state) = fresh();
        let of = |phase, count| {
            let mut telling = telling("alice", "hard", &vec!["a@b"; count]);
            let (key, now) = &mut telling.changes[0];
            (key.resource, key.to) = (bailiwick_types::NoticeResource::Memory, "a@b".to_owned());
            *now = Some(Known { at: Moment(5), phase });
            telling
        };
        let transaction = state.connection.transaction().expect("begins");
        for (phase, count, golden) in [
            (Phase::Told, 11, NoRoom { lost: 0, held: 11 }),
            (Phase::Told, 10, NoRoom::default()),
            (Phase::Over, 1, NoRoom { lost: 1, held: 0 }),
        ] {
            assert_eq!(insert(&transaction, &[], &[of(phase, count)], true, 100).expect("writes"), golden);
            if golden.held > 0 {
                let again =
                    transaction.query_row("SELECT phase, at FROM told", [], |row| Ok((row.get(0)?, row.get(1)?)));
                assert_eq!(again, Ok((AGAIN, 0)));
            }
        }
        transaction.commit().expect("commits");
        let told: Vec<Known> = state.told().expect("reads").into_values().collect();
        assert_eq!(told, [Known { at: Moment(5), phase: Phase::Over }]);
    }

    #[test]
    fn what_this_version_cannot_read_is_given_up() {
        let (_temp, mut state) = fresh();
        state.take(Some(1), &[new("a", None, 1), new("a", None, 2)], &[]).expect("writes");
        state.connection.execute("UPDATE delivery SET payload = '{\"later\":1}' WHERE id = 1", []).expect("updates");
        assert!(due(&mut state, &[]).is_empty());
        assert_eq!((seqs(&due(&mut state, &[])), state.counts().expect("counts")), (vec![2], (1, 1)));
    }

    #[test]
    fn what_was_given_up_is_listed_and_tried_again() {
        let (_temp, mut state) = fresh();
        state
            .take(Some(1), &[new("a", Some("alice"), 7), new("b", None, 8), new("c", None, 9), new("d", None, 10)], &[])
            .expect("writes");
        for id in [1, 2] {
            state.fail(&[(id, None)], "gone").expect("writes");
        }
        state.fail(&[(3, Some(Moment(9)))], "not now").expect("writes");
        let waiting = state.failures(false).expect("reads");
        assert_eq!((waiting.len(), waiting[0].id, waiting[0].next), (1, 3, Some(Moment(9))));
        let dead = state.failures(true).expect("reads");
        assert_eq!(dead[0].next, None);
        assert_eq!(
            dead.iter().map(|dead| (dead.id, dead.about.as_str(), dead.attempts)).collect::<Vec<_>>(),
            [(1, "event 7 limit.reached", 1), (2, "event 8 limit.reached", 1)]
        );
        assert_eq!((dead[0].tenant.clone(), dead[0].error.as_str()), (Some(name("alice")), "gone"));
        assert_eq!(state.retry(&[2, 9]).expect("writes"), [2]);
        assert_eq!(seqs(&due(&mut state, &[])), [8, 9, 10]);
        // Also what would be tried again later.
        assert_eq!(state.retry(&[]).expect("writes"), [1, 3]);
        assert_eq!(state.counts().expect("counts"), (4, 0));
    }

    #[test]
    fn what_was_told_is_written_with_the_deliveries() {
        let (temp, mut state) = fresh();
        let key = |threshold: &str| ToldKey {
            tenant: name("alice"),
            resource: bailiwick_types::NoticeResource::Disk,
            to: "admin,a'b@c".to_owned(),
            threshold: threshold.parse().expect("a threshold"),
        };
        let telling = |changes: &[ToldChange]| [Announcement { changes: changes.to_vec(), deliveries: Vec::new() }];
        let known = |at, phase| Some(Known { at: Moment(at), phase });
        let told = [(key("80%"), known(5, Phase::Told)), (key("grace:2d"), known(6, Phase::Told))];
        state.take(None, &[], &telling(&told)).expect("writes");
        assert_eq!((state.cursor().expect("reads"), state.told().expect("reads").len()), (None, 2));
        let phases = [Phase::Told, Phase::Ending(Moment(7)), Phase::Over, Phase::Again];
        for phase in phases {
            let changes = [(key("80%"), None), (key("grace:2d"), known(9, phase))];
            state.take(None, &[], &telling(&changes)).expect("writes");
            drop(state);
            (state, _) = State::open(&temp.path().join("notify.db")).expect("opens");
            let golden = [(key("grace:2d"), Known { at: Moment(9), phase })].into();
            assert_eq!(state.told().expect("reads"), golden);
        }
    }

    #[test]
    fn a_file_of_the_first_version_keeps_what_was_told() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("notify.db");
        Connection::open(&path)
            .expect("opens")
            .execute_batch(
                "CREATE TABLE told (tenant TEXT NOT NULL, resource TEXT NOT NULL, recipients TEXT NOT NULL,
                     threshold TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (tenant, resource, recipients, threshold))
                     WITHOUT ROWID;
                 INSERT INTO told VALUES ('alice', 'disk', 'admin', '80%', 5);
                 PRAGMA user_version = 1;",
            )
            .expect("makes");
        for _ in 0..2 {
            let (state, told) = State::open(&path).expect("opens");
            assert_eq!(told, None);
            let all: Vec<Known> = state.told().expect("reads").into_values().collect();
            assert_eq!(all, [Known { at: Moment(5), phase: Phase::Told }]);
        }
    }

    #[test]
    fn a_damaged_file_is_moved_aside_and_a_newer_one_is_left() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("notify.db");
        std::fs::write(&path, "this is no database, and never was one").expect("writes");
        let (state, told) = State::open(&path).expect("opens");
        assert!(told.expect("is told").contains("notify.db.damaged"));
        let other = State::open(&path).expect_err("is held");
        assert!(matches!(other, StateError::Busy), "{other}");
        drop(state);
        Connection::open(&path).expect("opens").pragma_update(None, "user_version", 9).expect("sets");
        let error = State::open(&path).expect_err("is newer");
        assert!(matches!(error, StateError::Newer { found: 9, .. }), "{error}");
    }
}
