//! What was done for a tenant: a value for programs, a word on the wire and for people.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What was done for one tenant. On the wire it is its word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Done {
    /// There was nothing to do.
    Unchanged,
    /// Its jail was started.
    Started,
    /// Its jail was stopped.
    Stopped,
    /// Its jail was stopped and started anew.
    Restarted,
    /// Its processes were stopped where they are.
    Frozen,
    /// Its processes go on.
    Thawed,
    /// Its jail is down until something wakes it. It was ended, or was down before.
    Asleep,
    /// Its jail was asleep and runs again.
    Awake,
    /// Its data was destroyed.
    Purged,
    /// Its limits were written to the running jail.
    LimitsWritten,
    /// Its host user was made or removed.
    HostUserChanged,
    /// Its storage is being prepared: its jail starts when that has ended.
    BeingPrepared,
    /// The warden needs longer, and finishes it without being asked again.
    GoingOn,
    /// So many of its sessions were ended.
    SessionsEnded(u64),
    /// Its file was written, and nothing else was to be done.
    Written,
    /// Its file was set aside.
    Deleted,
    /// It failed.
    Failed,
    /// Something that another version knows.
    Other(String),
}

/// Before the number of sessions.
const SESSIONS_ENDED: &str = "sessions ended: ";

impl Done {
    /// All that are one word.
    const OF_ONE_WORD: [Self; 16] = [
        Self::Unchanged,
        Self::Started,
        Self::Stopped,
        Self::Restarted,
        Self::Frozen,
        Self::Thawed,
        Self::Asleep,
        Self::Awake,
        Self::Purged,
        Self::LimitsWritten,
        Self::HostUserChanged,
        Self::BeingPrepared,
        Self::GoingOn,
        Self::Written,
        Self::Deleted,
        Self::Failed,
    ];
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::Unchanged => "unchanged",
            Self::Started => "started",
            Self::Stopped => "stopped",
            Self::Restarted => "restarted",
            Self::Frozen => "frozen",
            Self::Thawed => "thawed",
            Self::Asleep => "asleep",
            Self::Awake => "awake",
            Self::Purged => "purged",
            Self::LimitsWritten => "limits written",
            Self::HostUserChanged => "host user changed",
            Self::BeingPrepared => "being prepared",
            Self::GoingOn => "going on",
            Self::Written => "written",
            Self::Deleted => "deleted",
            Self::Failed => "failed",
            Self::Other(text) => text,
            Self::SessionsEnded(number) => return write!(f, "{SESSIONS_ENDED}{number}"),
        };
        f.write_str(word)
    }
}

impl From<String> for Done {
    fn from(text: String) -> Self {
        if let Some(done) = Self::OF_ONE_WORD.into_iter().find(|done| done.to_string() == text) {
            return done;
        }
        match text.strip_prefix(SESSIONS_ENDED).map(str::parse) {
            Some(Ok(number)) => Self::SessionsEnded(number),
            Some(Err(_)) | None => Self::Other(text),
        }
    }
}

impl From<Done> for String {
    fn from(done: Done) -> Self {
        done.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_word_on_the_wire_and_the_words_of_other_versions_travel_on() {
        let known: Vec<String> = Done::OF_ONE_WORD.iter().map(Done::to_string).collect();
        let others = ["sessions ended: 3", "put to sleep", "", "sessions ended: x"].map(str::to_owned);
        for text in known.iter().cloned().chain(others) {
            let json = serde_json::to_string(&text).expect("JSON");
            let done: Done = serde_json::from_str(&json).expect("any text");
            assert_eq!(serde_json::to_string(&done).expect("JSON"), json);
            let is_known = known.contains(&text) || text == "sessions ended: 3";
            assert_eq!(matches!(done, Done::Other(_)), !is_known, "{text}");
        }
        assert_eq!(Done::from("sessions ended: 3".to_owned()), Done::SessionsEnded(3));
    }
}
