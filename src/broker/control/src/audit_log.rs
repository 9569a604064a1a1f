//! The audit log: a file whose lines are chained, and beside it a file with the mark of the last line.
//!
//! Danger: a line is on disk before its mark is, and the mark is on disk before it is reported. So after a power
//! failure the log may be one line ahead of the mark, never behind it.

use bailiwick_audit::Run;
use bailiwick_audit::chain::{self, Head};
use bailiwick_sys::file::{self, Outlives};
use bailiwick_types::{AuditReport, Moment};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

const LOG: &str = "audit.log";
const MARK: &str = "audit.head";

/// The result of a verification.
#[derive(Debug)]
pub(crate) struct Looked {
    /// The mark of the last line; `None` if there is a problem.
    pub(crate) head: Option<Head>,
    /// The problems of the log.
    pub(crate) problems: Vec<String>,
}

/// The audit log of the host.
#[derive(Debug)]
pub(crate) struct AuditLog {
    dir: PathBuf,
    /// The mark of the last line that this program wrote.
    head: Option<Head>,
}

impl AuditLog {
    /// Makes the log of a directory. It reads no file yet.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, head: None }
    }

    fn mark(&self) -> io::Result<Option<Head>> {
        match std::fs::read_to_string(self.dir.join(MARK)) {
            Ok(text) => text.trim().parse().map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// When the last audit was logged: when its mark was written.
    pub(crate) fn last(&self) -> Option<Moment> {
        let written = std::fs::metadata(self.dir.join(MARK)).and_then(|metadata| metadata.modified()).ok()?;
        Some(Moment(written.duration_since(UNIX_EPOCH).ok()?.as_secs()))
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(self.dir.join(LOG))
    }

    /// Appends an audit and returns the mark of its line. A last line that a power failure cut short is removed first.
    /// If the log is damaged otherwise, it stays as it is and nothing is appended.
    pub(crate) fn add(&mut self, report: &AuditReport, at: Moment, host: &str) -> io::Result<Head> {
        let mut file = self.open()?;
        let head = match &self.head {
            Some(head) => Some(*head),
            None => {
                let resumed = chain::resume(BufReader::new(&file), self.mark()?.as_ref()).map_err(|problems| {
                    let first = problems.first().map(ToString::to_string).unwrap_or_default();
                    io::Error::other(format!("the log is not whole ({first}); see `bailiwick audit --verify`"))
                })?;
                file.set_len(resumed.length)?;
                (resumed.length > 0).then_some(resumed.head)
            }
        };
        let (line, head) = chain::next_line(head.as_ref(), report, &Run { at, host });
        file.write_all(line.as_bytes())?;
        file.sync_data()?;
        let dir = file::open_dir(&self.dir)?;
        file::replace_at(&dir, MARK, head.to_string().as_bytes(), 0o600, Outlives::PowerCut)?;
        self.head = Some(head);
        Ok(head)
    }

    /// Verifies the whole log against `expected`, a mark that was noted elsewhere, or else against the mark beside the
    /// log.
    pub(crate) fn look(&self, expected: Option<Head>) -> io::Result<Looked> {
        let expected = match expected {
            Some(expected) => Some(expected),
            None => self.mark()?,
        };
        let reader = match File::open(self.dir.join(LOG)) {
            Ok(file) => BufReader::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound && expected.is_none() => {
                return Ok(Looked { head: None, problems: vec!["there is no log: no audit has run yet".to_owned()] });
            }
            Err(error) => return Err(error),
        };
        Ok(match chain::verify(reader, expected.as_ref()) {
            Ok(head) => Looked { head: Some(head), problems: Vec::new() },
            Err(problems) => Looked { head: None, problems: problems.iter().map(ToString::to_string).collect() },
        })
    }
}

/// The name of this host, for the log.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::HostReport;

    fn report() -> AuditReport {
        AuditReport { tenants: Vec::new(), host: HostReport { kernel: "6.18".to_owned(), features: Vec::new() } }
    }

    #[test]
    fn audits_are_chained_over_restarts_and_whoever_changes_one_is_found_out() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = temp.path().canonicalize().expect("real path");
        let log = || AuditLog::new(dir.clone());
        assert_eq!(log().look(None).expect("looks").problems.len(), 1);
        assert_eq!(log().last(), None);
        let mut first = log();
        let early = first.add(&report(), Moment(1), "h").expect("adds");
        first.add(&report(), Moment(2), "h").expect("adds");
        assert!(log().last().is_some());
        let mut second = log();
        let last = second.add(&report(), Moment(3), "h").expect("adds");
        assert_eq!(log().look(None).expect("looks").head, Some(last));
        assert!(log().look(Some(early)).expect("looks").problems.is_empty(), "an older mark is in it");
        // A power failure has cut a line short. The log continues after the last whole line.
        let path = dir.join(LOG);
        let whole = std::fs::read(&path).expect("reads");
        std::fs::write(&path, [&whole[..], &b"{\"sequence\":4,\"ti"[..]].concat()).expect("writes");
        let last = log().add(&report(), Moment(4), "h").expect("adds");
        assert_eq!(log().look(None).expect("looks").head, Some(last));
        // The last line is missing. The log itself is whole, but it is shorter than the mark says.
        std::fs::write(&path, &whole).expect("writes");
        assert_eq!(log().look(None).expect("looks").problems.len(), 1);
        assert!(log().add(&report(), Moment(5), "h").is_err(), "nothing is added to a log that was changed");
        let changed = String::from_utf8(whole).expect("text").replacen("\"time\":2", "\"time\":7", 1);
        std::fs::write(&path, changed).expect("writes");
        let problems = log().look(None).expect("looks").problems;
        assert!(problems.iter().any(|problem| problem.contains("line 2")), "{problems:?}");
    }
}
