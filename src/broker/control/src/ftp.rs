//! The files of FTP sessions: notes of the processes that have entered jails, and the database of logins.
//!
//! Danger: the server keeps no connection to `bailiwickd`. So a session is counted by its process, which is held by
//! descriptor, and a note of it outlives `bailiwickd`. After a restart a note counts only if the warden finds the
//! process in the tenant's group with the noted start time.

use crate::sessions::SessionGuard;
use crate::sync::lock;
use bailiwick_policy::Policy;
use bailiwick_proto::Failure;
use bailiwick_proto::warden::FtpProcess;
use bailiwick_sys::file;
use bailiwick_types::{ExitStatus, FtpUser, SessionId, SessionRecord};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const NOTES: &str = "ftp-sessions.json";
/// The database of logins, for a server that looks a user up before it asks PAM (`docs/doors.md`).
const LOGINS: &str = "ftp.passwd";
const MAX_NOTES: usize = 64 << 20;

/// The note of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Note {
    pub(crate) record: SessionRecord,
    pub(crate) process: FtpProcess,
}

/// The files of FTP sessions in the directory of the control socket. They do not outlive a boot, and neither do the
/// sessions.
#[derive(Debug)]
pub(crate) struct Ftp {
    dir: PathBuf,
    notes: Mutex<BTreeMap<SessionId, Note>>,
}

impl Ftp {
    /// Makes the value. It reads no file yet.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, notes: Mutex::default() }
    }

    /// The notes of an earlier daemon.
    pub(crate) fn earlier(&self) -> Vec<Note> {
        let bytes = file::open_dir(&self.dir)
            .and_then(|dir| file::open_file_at(dir, NOTES))
            .and_then(|fd| file::read_bounded(fd, MAX_NOTES));
        // Without a readable file no session is known. A file cannot be half written, because it is replaced as a
        // whole.
        bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Notes a session. The note is on disk before this returns.
    pub(crate) fn note(&self, note: Note) -> Result<(), Failure> {
        self.change(|notes| drop(notes.insert(note.record.id, note)))
    }

    /// Removes the note of a session that has ended.
    pub(crate) fn strike(&self, id: SessionId) -> Result<(), Failure> {
        self.change(|notes| drop(notes.remove(&id)))
    }

    /// Changes the notes and writes all of them.
    pub(crate) fn change(&self, change: impl FnOnce(&mut BTreeMap<SessionId, Note>)) -> Result<(), Failure> {
        let mut notes = lock(&self.notes);
        change(&mut notes);
        let all: Vec<&Note> = notes.values().collect();
        let text = serde_json::to_vec(&all).map_err(|error| Failure::new(ExitStatus::Failed, &error))?;
        replace(&self.dir, NOTES, &text, 0o600)
    }
}

/// Writes the logins of a policy. ProFTPD refuses a file that other users can read.
pub(crate) fn write_logins(dir: &Path, policy: &Policy) -> Result<(), Failure> {
    replace(dir, LOGINS, logins(policy).as_bytes(), 0o600)
}

fn replace(dir: &Path, name: &str, text: &[u8], mode: u32) -> Result<(), Failure> {
    let written = file::open_dir(dir).and_then(|fd| file::replace_at(fd, name, text, mode, file::Outlives::Process));
    written.map_err(|error| {
        Failure::of(ExitStatus::Failed, format!("cannot write \"{}\": {error}", dir.join(name).display()))
    })
}

fn logins(policy: &Policy) -> String {
    let mut text = String::new();
    for tenant in policy.tenants.values() {
        for login in &tenant.ftp {
            let user = FtpUser { name: login.name.clone(), tenant: tenant.name.clone() };
            text.write_str(&bailiwick_plan::ftp::passwd_line(&user)).expect("writing to a string cannot fail");
        }
    }
    text
}

/// Keeps a session counted when this program ends, because the session does not end then.
#[derive(Debug)]
pub(crate) struct Held(Option<SessionGuard>);

impl Held {
    pub(crate) fn new(counted: SessionGuard) -> Self {
        Self(Some(counted))
    }

    pub(crate) fn counted(&mut self) -> &mut SessionGuard {
        self.0.as_mut().expect("taken at the end only")
    }

    /// Stops counting the session, which has ended.
    pub(crate) fn ended(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(counted) = self.0.take() {
            counted.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::{Door, Moment};

    fn note(number: u32) -> Note {
        let tenant: bailiwick_types::TenantName = "alice".parse().expect("a name");
        let record = SessionRecord {
            id: SessionId(number),
            tenant: tenant.clone(),
            door: Door::Ftp,
            user: "blog@alice".to_owned(),
            source: None,
            key: None,
            command: None,
            since: Moment(7),
            uid: 0,
            pid: number,
        };
        Note { record, process: FtpProcess { tenant, pid: number, started: 9 } }
    }

    #[test]
    fn what_is_noted_is_known_to_the_next_daemon_and_nonsense_is_nothing() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = temp.path().canonicalize().expect("real path");
        let ftp = Ftp::new(dir.clone());
        assert_eq!(ftp.earlier(), []);
        for number in [1, 2, 3] {
            ftp.note(note(number)).expect("notes");
        }
        ftp.strike(SessionId(2)).expect("strikes");
        assert_eq!(Ftp::new(dir.clone()).earlier(), [note(1), note(3)]);
        std::fs::write(dir.join(NOTES), b"[{\"record\": 1").expect("writes");
        assert_eq!(Ftp::new(dir).earlier(), []);
    }

    #[test]
    fn logins_are_lines_of_a_user_database_without_a_password() {
        let hash = format!("$5$saltsalt${}", "x".repeat(43));
        let login = |name: &str| format!("[[ftp]]\nname = \"{name}\"\npassword = \"{hash}\"\n");
        let files = [
            (PathBuf::from("bailiwick.toml"), String::new()),
            (PathBuf::from("plans.d/small.toml"), "doors = [\"ftp\"]\n".to_owned()),
            (PathBuf::from("tenants.d/alice.toml"), format!("plan = \"small\"\n{}{}", login("blog"), login("shop"))),
            (PathBuf::from("tenants.d/bob.toml"), "plan = \"small\"\n".to_owned()),
        ];
        let reading = bailiwick_policy::parse(&files);
        let policy = reading.policy.unwrap_or_else(|| panic!("{:?}", reading.diagnostics));
        let lines =
            "blog@alice:x:65533:65533::/home:/usr/sbin/nologin\nshop@alice:x:65533:65533::/home:/usr/sbin/nologin\n";
        assert_eq!(logins(&policy), lines);
    }
}
