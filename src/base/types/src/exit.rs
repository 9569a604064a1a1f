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
    /// All of them, by number.
    pub const ALL: [Self; 13] = [
        Self::Done,
        Self::Failed,
        Self::Invalid,
        Self::NotFound,
        Self::Conflict,
        Self::Refused,
        Self::OverLimit,
        Self::Partly,
        Self::HostCannot,
        Self::Finding,
        Self::ExecFailed,
        Self::CannotExecute,
        Self::CommandNotFound,
    ];

    /// What it says, for people.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "it failed, and no other status says why; the message does",
            Self::Invalid => {
                "the usage is wrong, or the configuration is not valid; `bailiwick check` shows every problem"
            }
            Self::NotFound => "what was named does not exist",
            Self::Conflict => "it exists already, or conflicts with something else",
            Self::Refused => "the policy, or the state of the tenant, does not allow it",
            Self::OverLimit => "a limit is reached; `bailiwick faults TENANT` shows which",
            Self::Partly => "some of it failed, and the rest is done",
            Self::HostCannot => "this host cannot do or enforce it; `bailiwick doctor` says what it lacks",
            Self::Finding => "`plan` found a difference, or `audit` a finding above a notice",
            Self::ExecFailed => "`exec` and `shell`: bailiwick itself failed, and not the command",
            Self::CannotExecute => "`exec` and `shell`: the command cannot be executed",
            Self::CommandNotFound => "`exec` and `shell`: the command was not found",
        }
    }

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
