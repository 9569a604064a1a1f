//! The request to run a hook, and the reply.

use bailiwick_types::{Period, TargetName};
use serde::{Deserialize, Serialize};

/// The largest reply in bytes. JSON may make hostile text six times as long.
pub const MAX_REPLY: usize = 64 << 10;

/// A hook to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRequest {
    /// Its name.
    pub hook: TargetName,
    /// What it reads on its standard input.
    pub body: String,
}

/// How a run has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookEnd {
    /// The program has ended with this status.
    Exited(i32),
    /// The program was killed by this signal.
    Killed(i32),
    /// The time limit was over, and it was killed.
    Late(Period),
    /// It was not run.
    NotRun(String),
}

/// What became of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookReply {
    /// How it has ended.
    pub end: HookEnd,
    /// The last bytes that it wrote to its standard error, or else to its standard output. A stranger may have chosen them.
    pub said: String,
}

impl HookReply {
    /// The status with which a hook that runs before a command refuses it.
    pub const REFUSES: i32 = 5;

    /// Whether the hook did what it should.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.end == HookEnd::Exited(0)
    }

    /// Why the run has failed, as a line for the operator, with the last line that the hook said.
    #[must_use]
    pub fn failure(&self) -> String {
        let end = match &self.end {
            HookEnd::Exited(status) => format!("it ended with {status}"),
            HookEnd::Killed(signal) => format!("it was killed by signal {signal}"),
            HookEnd::Late(limit) => format!("it was killed after its time limit of {limit}"),
            HookEnd::NotRun(reason) => format!("it was not run: {reason}"),
        };
        match self.said.lines().rev().find(|line| !line.trim().is_empty()) {
            Some(line) => format!("{end}: {}", bailiwick_types::visible(line.trim())),
            None => end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_the_last_line() {
        let of = |end, said: &str| HookReply { end, said: said.to_owned() }.failure();
        assert_eq!(of(HookEnd::Exited(1), "one\ntwo \n\n"), "it ended with 1: two");
        assert_eq!(of(HookEnd::Killed(9), ""), "it was killed by signal 9");
        assert_eq!(
            of(HookEnd::Late(Period(90)), "\u{1b}[2J"),
            "it was killed after its time limit of 1m30s: \\u{1b}[2J"
        );
        assert_eq!(
            of(HookEnd::NotRun("there is no such hook".to_owned()), ""),
            "it was not run: there is no such hook"
        );
    }
}
