//! The exit statuses, which are the same for every command.

use serde::{Deserialize, Serialize};

/// How a command ended. The number is the exit status of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum ExitStatus {
    /// Done.
    Done = 0,
    /// It failed, and no other status describes the reason.
    Failed = 1,
    /// The usage is wrong, or the configuration is not valid.
    Invalid = 2,
    /// The named object does not exist.
    NotFound = 3,
    /// The object exists already, or conflicts with another one.
    Conflict = 4,
    /// The policy or the state of the tenant does not allow it.
    Refused = 5,
    /// A limit is reached.
    OverLimit = 6,
    /// Some tenants failed; the others are done.
    Partly = 7,
    /// The host cannot do this.
    HostCannot = 8,
    /// `plan` and `audit`: there is drift, or a finding above the severity notice.
    Finding = 10,
    /// `exec` and `shell`: bailiwick itself failed, not the command.
    ExecFailed = 125,
    /// `exec` and `shell`: the command cannot be executed.
    CannotExecute = 126,
    /// `exec` and `shell`: the command was not found.
    CommandNotFound = 127,
}

impl ExitStatus {
    /// The exit status as a number.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}
