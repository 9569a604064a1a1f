//! Exit statuses: designed once, the same for every command.

use serde::{Deserialize, Serialize};

/// How a command ended. The number is the process's exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum ExitStatus {
    /// Done.
    Done = 0,
    /// Failed for a reason that has no status of its own.
    Failed = 1,
    /// Wrong usage, or configuration that is not valid.
    Invalid = 2,
    /// There is no such thing.
    NotFound = 3,
    /// It exists already, or conflicts with something that does.
    Conflict = 4,
    /// Refused by policy or by the state that the tenant is in.
    Refused = 5,
    /// Over a limit.
    OverLimit = 6,
    /// Some of the tenants failed, the others are done.
    Partly = 7,
    /// The host cannot do this.
    HostCannot = 8,
    /// `plan` and `audit`: there is drift or a finding that is more than a notice.
    Finding = 10,
    /// `exec` and `shell`: bailiwick itself failed, not the command.
    ExecFailed = 125,
    /// `exec` and `shell`: the command cannot be executed.
    CannotExecute = 126,
    /// `exec` and `shell`: the command was not found.
    CommandNotFound = 127,
}

impl ExitStatus {
    /// The number.
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
