//! The tables of the file. Each measure has a column, and in the table of hours a second one for its peak. `counter` has the last
//! readings of counters that go on while nobody writes the history. `event` is the outbox, `told` what was last told of whom, and
//! `spool` how far the events of a spool were appended.

use crate::{HistoryError, VERSION, failed};
use bailiwick_types::Measure;
use rusqlite::Connection;

/// The columns of all measures, `cpu, throttled, ...`, each with a prefix.
pub(crate) fn columns(prefix: &str) -> String {
    Measure::ALL.map(|measure| format!("{prefix}{measure}")).join(", ")
}

/// Makes the missing tables and columns.
pub(crate) fn prepare(connection: &Connection, version: i64) -> Result<(), HistoryError> {
    let what = "prepare the history";
    if version == 0 {
        // Free pages can then be returned to the file system. This can be set only before the first table.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(failed(what))?;
    }
    // With a log, a commit needs no fsync. A power cut may lose the last minutes, but does not damage the file.
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed(what))?;
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(failed(what))?;
    connection.pragma_update(None, "journal_size_limit", 4 << 20).map_err(failed(what))?;
    let numbers = |prefix: &str| columns(prefix).replace(", ", " INTEGER, ") + " INTEGER";
    connection
        .execute_batch(&format!(
            "BEGIN IMMEDIATE;
             CREATE TABLE IF NOT EXISTS tenant (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
             CREATE TABLE IF NOT EXISTS moment (at INTEGER PRIMARY KEY);
             CREATE TABLE IF NOT EXISTS minute (at INTEGER, tenant INTEGER, seconds INTEGER NOT NULL, {},
                 PRIMARY KEY (at, tenant)) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS done (at INTEGER PRIMARY KEY);
             CREATE TABLE IF NOT EXISTS hour (tenant INTEGER, at INTEGER, seconds INTEGER NOT NULL, {}, {},
                 PRIMARY KEY (tenant, at)) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS fault (at INTEGER, tenant INTEGER, word TEXT, count INTEGER NOT NULL,
                 PRIMARY KEY (at, tenant, word)) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS incident (id INTEGER PRIMARY KEY AUTOINCREMENT, tenant INTEGER NOT NULL,
                 kind TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL, faults INTEGER NOT NULL,
                 snapshots TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS counter (tenant INTEGER, measure TEXT, value INTEGER NOT NULL,
                 PRIMARY KEY (tenant, measure)) WITHOUT ROWID;
             CREATE INDEX IF NOT EXISTS incident_since ON incident (since);
             CREATE TABLE IF NOT EXISTS event (seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL,
                 type TEXT NOT NULL, tenant TEXT, actor INTEGER, data TEXT NOT NULL);
             CREATE INDEX IF NOT EXISTS event_tenant ON event (tenant, type, seq);
             CREATE INDEX IF NOT EXISTS event_of ON event (tenant, seq);
             CREATE TABLE IF NOT EXISTS told (tenant TEXT, subject TEXT, state TEXT NOT NULL,
                 PRIMARY KEY (tenant, subject)) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS spool (id INTEGER PRIMARY KEY, place INTEGER NOT NULL, used INTEGER NOT NULL);
             COMMIT;",
            numbers(""),
            numbers(""),
            numbers("peak_"),
        ))
        .map_err(failed(what))?;
    for table in ["minute", "hour"] {
        add_missing(connection, table).map_err(failed(what))?;
    }
    connection.pragma_update(None, "user_version", VERSION).map_err(failed(what))
}

/// Adds the columns of measures that are newer than the file.
fn add_missing(connection: &Connection, table: &str) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(&format!("SELECT name FROM pragma_table_info('{table}')"))?;
    let known: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let prefixes: &[&str] = if table == "hour" { &["", "peak_"] } else { &[""] };
    for prefix in prefixes {
        for measure in Measure::ALL {
            let column = format!("{prefix}{measure}");
            if !known.contains(&column) {
                connection.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column} INTEGER"))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::tests::{name, sample};
    use crate::{History, Retention};
    use bailiwick_types::{Measure, Moment, Window};
    use rusqlite::Connection;

    #[test]
    fn a_file_from_before_the_last_measures_is_read_and_continued() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("history.db");
        let open = || History::open(&path, Retention::default()).expect("opens");
        let (mut history, _) = open();
        history.write(Moment(7200), &[(name("a"), sample(5, 9))], &[]).expect("writes");
        drop(history);
        let earlier = Connection::open(&path).expect("opens");
        for measure in Measure::ALL.into_iter().filter(|measure| measure.word().starts_with("net")) {
            let columns = [("minute", ""), ("hour", ""), ("hour", "peak_")];
            for (table, prefix) in columns {
                earlier.execute_batch(&format!("ALTER TABLE {table} DROP COLUMN {prefix}{measure}")).expect("drops");
            }
        }
        earlier.execute_batch("DROP TABLE counter").expect("drops");
        drop(earlier);
        let (mut history, notice) = open();
        assert_eq!(notice, None, "the file is not damaged");
        let mut later = sample(7, 1);
        later.counters.0.insert(Measure::NetSent, 40);
        history.write(Moment(7260), &[(name("a"), later)], &[]).expect("writes");
        history.maintain().expect("maintains");
        let window = Window { from: Moment(7200), until: Moment(7320) };
        let total = history.totals(window, None).expect("reads").remove(0).1;
        assert_eq!((total.usage.get(Measure::Cpu), total.usage.get(Measure::NetSent)), (Some(12), Some(40)));
        assert_eq!(total.usage.get(Measure::Net6Sent), None, "not measured is no zero");
    }
}
