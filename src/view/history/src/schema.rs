//! The tables of the file. Each measure has a column, and in the table of hours a second one for its peak.

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
             CREATE INDEX IF NOT EXISTS incident_since ON incident (since);
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
