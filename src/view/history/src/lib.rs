//! Floor 3: the history of tenants in one SQLite file: a sample for each minute, hours that are rolled up from them, faults,
//! incidents, and the outbox of events.
//!
//! The history has one owner at a time, who calls it from one thread. Retention counts minutes that were measured, because a
//! clock may jump. `docs/history.md` explains the file.
//!
//! Danger: tenants choose the names of processes and files in incidents. They are stored as they are. Whoever records them must
//! bound them, and whoever shows them must escape them.

mod event;
mod incident;
mod query;
mod record;
mod schema;

pub use event::{DECLARED, EventPage, EventQuery, EventReader, NewEvent, Told, ToldStates};
pub use record::Sample;

use rusqlite::Connection;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The version of the file that this program writes (`PRAGMA user_version`).
pub(crate) const VERSION: i64 = 1;
/// How long to wait for another process that holds the file.
const BUSY_TIME: Duration = Duration::from_secs(1);
/// The most damaged files that stay beside the new one.
const DAMAGED_KEPT: usize = 2;

/// How much of the history to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The number of measured minutes.
    pub minutes: u32,
    /// The number of measured hours.
    pub hours: u32,
    /// The most bytes of the file.
    pub bytes: u64,
}

impl Default for Retention {
    /// 30 days of minutes, 400 days of hours, and 2 GiB.
    fn default() -> Self {
        Self { minutes: 30 * 24 * 60, hours: 400 * 24, bytes: 2 << 30 }
    }
}

/// Why the history cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file is from a later version of this program.
    #[error("the history \"{path}\" is of version {found}, this program knows {VERSION}; install the newer program again, or move the file away", path = path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// Another process holds the file.
    #[error("the history is held by another process")]
    Busy,
    /// The disk is full.
    #[error("the disk is full; nothing of this minute was written")]
    Full,
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
    #[error("cannot move the damaged history aside")]
    Aside(#[source] io::Error),
}

/// A function that turns an error of SQLite into one of the history; `what` completes "cannot ...".
pub(crate) fn failed(what: &'static str) -> impl FnOnce(rusqlite::Error) -> HistoryError {
    move |source| match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => HistoryError::Full,
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => HistoryError::Busy,
        _ => HistoryError::Database { what, source },
    }
}

/// The open history.
#[derive(Debug)]
pub struct History {
    pub(crate) connection: Connection,
    pub(crate) retention: Retention,
}

impl History {
    /// Opens the history, or makes a new one. A damaged file is moved aside, and a new one is made. Then the second value is a
    /// message about this.
    ///
    /// # Errors
    /// When a later version wrote the file (which is left as it is), when another process holds it, or when it cannot be made.
    pub fn open(path: &Path, retention: Retention) -> Result<(Self, Option<String>), HistoryError> {
        match Self::open_undamaged(path, retention) {
            Err(error) if is_damage(&error) => {
                let aside = move_aside(path).map_err(HistoryError::Aside)?;
                let notice = format!("the history {} was damaged and is now {}", path.display(), aside.display());
                Ok((Self::open_undamaged(path, retention)?, Some(notice)))
            }
            opened => Ok((opened?, None)),
        }
    }

    fn open_undamaged(path: &Path, retention: Retention) -> Result<Self, HistoryError> {
        let connection = Connection::open(path).map_err(failed("open the history"))?;
        connection.busy_timeout(BUSY_TIME).map_err(failed("open the history"))?;
        // This must come before the first read. It keeps the index of the log in the memory of this process. An index in a file
        // would be mapped, and on a full copy-on-write file system a write to a mapped file is SIGBUS instead of an error.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(failed("open the history"))?;
        let version: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(failed("read the version of the history"))?;
        if version > VERSION {
            return Err(HistoryError::Newer { path: path.to_owned(), found: version });
        }
        let result: String = connection
            .pragma_query_value(None, "quick_check", |row| row.get(0))
            .map_err(failed("check the history"))?;
        if result != "ok" {
            return Err(HistoryError::Database {
                what: "check the history",
                source: rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
                    Some(result),
                ),
            });
        }
        schema::prepare(&connection, version)?;
        Ok(Self { connection, retention })
    }
}

fn is_damage(error: &HistoryError) -> bool {
    let HistoryError::Database { source, .. } = error else { return false };
    matches!(source.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase))
}

/// Moves a file to `NAME.damaged-N`, removes its log, and removes the oldest damaged files.
fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let dir = path.parent().unwrap_or(Path::new("."));
    let prefix = format!("{name}.damaged-");
    let number = |entry: io::Result<std::fs::DirEntry>| -> Option<u64> {
        entry.ok()?.file_name().to_str()?.strip_prefix(&prefix)?.parse().ok()
    };
    let mut numbers: Vec<u64> = std::fs::read_dir(dir)?.filter_map(number).collect();
    numbers.sort_unstable();
    let next = numbers.last().map_or(1, |last| last.saturating_add(1));
    let old = numbers.len().saturating_sub(DAMAGED_KEPT - 1);
    for number in &numbers[..old] {
        std::fs::remove_file(dir.join(format!("{prefix}{number}")))?;
    }
    let aside = dir.join(format!("{prefix}{next}"));
    std::fs::rename(path, &aside)?;
    for suffix in ["-wal", "-shm"] {
        match std::fs::remove_file(dir.join(format!("{name}{suffix}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use bailiwick_types::{Measure, Moment, TenantName, Usage};

    pub(crate) fn name(text: &str) -> TenantName {
        text.parse().expect("a name")
    }

    pub(crate) fn sample(cpu: u64, memory: u64) -> Sample {
        let usage = Usage([(Measure::Cpu, cpu), (Measure::Memory, memory)].into());
        Sample { seconds: 60, usage, counters: Usage::default() }
    }

    pub(crate) fn fresh() -> (tempfile::TempDir, History) {
        let temp = tempfile::tempdir().expect("temporary directory");
        let (history, notice) = History::open(&temp.path().join("history.db"), Retention::default()).expect("opens");
        assert_eq!(notice, None);
        (temp, history)
    }

    fn written(path: &Path) {
        let (mut history, _) = History::open(path, Retention::default()).expect("opens");
        for minute in 0..200u64 {
            let samples: Vec<_> = (0..20).map(|tenant| (name(&format!("t{tenant}")), sample(minute, 7))).collect();
            history.write(Moment(600_000 + minute * 60), &samples, &[]).expect("writes");
        }
        let checkpoint = history.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        checkpoint.expect("moved into the file");
    }

    #[test]
    fn a_damaged_file_is_moved_aside_and_reported() {
        for (cut, what) in [(10, "a stump"), (5000, "cut"), (20_000, "cut late"), (0, "scribbled over")] {
            let temp = tempfile::tempdir().expect("temporary directory");
            let path = temp.path().join("history.db");
            written(&path);
            let mut bytes = std::fs::read(&path).expect("reads");
            if cut > 0 {
                bytes.truncate(cut);
            } else {
                let len = bytes.len();
                bytes[4096..len].iter_mut().for_each(|byte| *byte ^= 0x5a);
            }
            std::fs::write(&path, &bytes).expect("writes");
            let (mut history, notice) = History::open(&path, Retention::default()).expect(what);
            assert!(notice.expect(what).contains("history.db.damaged-1"), "{what}");
            history.write(Moment(60), &[(name("a"), sample(1, 1))], &[]).expect("writes again");
            assert_eq!(std::fs::read(temp.path().join("history.db.damaged-1")).expect("kept"), bytes, "{what}");
        }
    }

    #[test]
    fn only_a_few_damaged_files_are_kept() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("history.db");
        for _ in 0..5 {
            std::fs::write(&path, "this is no database, and never was one").expect("writes");
            assert!(History::open(&path, Retention::default()).expect("opens").1.is_some());
            std::fs::remove_file(&path).expect("removes");
        }
        let mut names: Vec<String> = std::fs::read_dir(temp.path())
            .expect("lists")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        assert_eq!(names, ["history.db.damaged-4", "history.db.damaged-5"]);
    }

    #[test]
    fn a_newer_file_is_left_alone() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("history.db");
        written(&path);
        Connection::open(&path).expect("opens").pragma_update(None, "user_version", 9).expect("sets");
        let before = std::fs::read(&path).expect("reads");
        let error = History::open(&path, Retention::default()).expect_err("refused");
        assert!(matches!(error, HistoryError::Newer { found: 9, .. }), "{error}");
        assert_eq!(std::fs::read(&path).expect("reads"), before);
    }

    #[test]
    fn a_file_that_another_holds_is_an_error_in_bounded_time() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("history.db");
        let other = Connection::open(&path).expect("opens");
        other.execute_batch("BEGIN EXCLUSIVE").expect("holds");
        let error = History::open(&path, Retention::default()).expect_err("held");
        assert!(matches!(error, HistoryError::Busy), "{error}");
        other.execute_batch("COMMIT").expect("lets go");
        let (mut history, _) = History::open(&path, Retention::default()).expect("opens");
        // The history excludes other processes in the same way.
        assert!(other.execute_batch("BEGIN EXCLUSIVE").is_err(), "the history is one program's");
        history.write(Moment(60), &[(name("a"), sample(1, 1))], &[]).expect("writes");
    }

    #[test]
    fn no_part_of_the_file_is_mapped() {
        let (temp, mut history) = fresh();
        history.write(Moment(60), &[(name("a"), sample(1, 1))], &[]).expect("writes");
        assert!(temp.path().join("history.db-wal").exists());
        assert!(
            !temp.path().join("history.db-shm").exists(),
            "a full copy-on-write file system would answer with SIGBUS"
        );
        let maps = std::fs::read_to_string("/proc/self/maps").expect("reads");
        assert!(!maps.contains(temp.path().to_str().expect("text")), "{maps}");
        // An earlier version has left a file with its index.
        drop(history);
        let path = temp.path().join("history.db");
        let before = Connection::open(&path).expect("opens");
        before.execute_batch("PRAGMA journal_mode = WAL; BEGIN IMMEDIATE; COMMIT").expect("writes");
        drop(before);
        let (mut history, _) = History::open(&path, Retention::default()).expect("opens");
        history.write(Moment(120), &[(name("a"), sample(2, 1))], &[]).expect("writes");
        assert!(!temp.path().join("history.db-shm").exists());
    }

    #[test]
    fn a_path_that_cannot_be_a_file_is_an_error() {
        let temp = tempfile::tempdir().expect("temporary directory");
        assert!(History::open(temp.path(), Retention::default()).is_err());
        assert!(History::open(&temp.path().join("no/such/dir.db"), Retention::default()).is_err());
    }
}
