//! Services: the long-running programs of a tenant, and what init reports of them.
//!
//! Danger: init belongs to the tenant. A report decides nothing outside the jail; it is only shown, as the tenant's word.

use crate::tenant::{UnknownWord, words};
use crate::{LoginName, Moment, ServiceName, SocketName};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The most services of a tenant.
pub const MAX_SERVICES: usize = 32;
/// The most sockets of a service.
pub const MAX_SOCKETS: usize = 8;

words!(
    /// When a service that has ended is started again.
    Restart,
    "always, on-failure, never",
    [
        /// Always.
        Always = "always",
        /// If it ended with another status than 0, or by a signal that nobody asked for.
        OnFailure = "on-failure",
        /// Never.
        Never = "never",
    ]
);

words!(
    /// How a service says that it is ready.
    Readiness,
    "none, notify, connect",
    [
        /// It does not: it is ready when its program runs.
        None = "none",
        /// It sends `READY=1` to the socket in `NOTIFY_SOCKET` (`sd_notify(3)`).
        Notify = "notify",
        /// Somebody can connect to the address that its socket is relayed to.
        Connect = "connect",
    ]
);

words!(
    /// The signal that asks a service to end.
    StopSignal,
    "TERM, QUIT, INT, HUP, USR1, USR2, WINCH, KILL",
    [
        /// `SIGTERM`
        Term = "TERM",
        /// `SIGQUIT`
        Quit = "QUIT",
        /// `SIGINT`
        Int = "INT",
        /// `SIGHUP`
        Hup = "HUP",
        /// `SIGUSR1`
        Usr1 = "USR1",
        /// `SIGUSR2`
        Usr2 = "USR2",
        /// `SIGWINCH`
        Winch = "WINCH",
        /// `SIGKILL`
        Kill = "KILL",
    ]
);

words!(
    /// The state of a service.
    ServiceState,
    "waiting, starting, running, back-off, stopping, stopped, ended, failed",
    [
        /// It waits until the services that it comes after are ready.
        Waiting = "waiting",
        /// Its program runs and is not ready yet.
        Starting = "starting",
        /// Its program runs and is ready.
        Running = "running",
        /// It has ended, and is started again after a pause.
        BackOff = "back-off",
        /// It was asked to end.
        Stopping = "stopping",
        /// Somebody stopped it.
        Stopped = "stopped",
        /// It has ended well, and is not started again.
        Ended = "ended",
        /// It has failed, and is not started again.
        Failed = "failed",
    ]
);

words!(
    /// What to do with a service.
    ServiceVerb,
    "start, stop, restart",
    [
        /// Start it, without the rest of a pause.
        Start = "start",
        /// Stop it, and keep it down until somebody starts it or the jail is made again.
        Stop = "stop",
        /// Stop it and start it again.
        Restart = "restart",
    ]
);

/// The name of a program that init supervises: a service, or the relay of one of its sockets (`SERVICE.SOCKET`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitName {
    /// The service.
    pub service: ServiceName,
    /// The socket that is relayed; `None` for the service itself.
    pub socket: Option<SocketName>,
}

/// The text is not the name of a supervised program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a service, nor SERVICE.SOCKET")]
pub struct NotUnitName(String);

impl FromStr for UnitName {
    type Err = NotUnitName;
    fn from_str(text: &str) -> Result<Self, NotUnitName> {
        let (service, socket) = match text.split_once('.') {
            Some((service, socket)) => (service, Some(socket)),
            None => (text, None),
        };
        let read = || Some(Self { service: service.parse().ok()?, socket: socket.map(str::parse).transpose().ok()? });
        read().ok_or_else(|| NotUnitName(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for UnitName {
    type Error = NotUnitName;
    fn try_from(text: String) -> Result<Self, NotUnitName> {
        text.parse()
    }
}

impl From<UnitName> for String {
    fn from(name: UnitName) -> Self {
        name.to_string()
    }
}

impl From<ServiceName> for UnitName {
    fn from(service: ServiceName) -> Self {
        Self { service, socket: None }
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            None => write!(f, "{}", self.service),
            Some(socket) => write!(f, "{}.{socket}", self.service),
        }
    }
}

/// How a program has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceEnd {
    /// With this exit status.
    Exited(u8),
    /// By the signal of this number.
    Killed(u8),
    /// It could not be started: the error number of the step that failed.
    NotStarted(i32),
    /// It was not ready in time.
    NotReady,
}

impl fmt::Display for ServiceEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "it ended with status {status}"),
            Self::Killed(signal) => write!(f, "signal {signal} ended it"),
            Self::NotStarted(errno) => {
                write!(f, "it cannot be started: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Self::NotReady => write!(f, "it was not ready in time"),
        }
    }
}

/// What init reports of one supervised program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// The program.
    pub name: UnitName,
    /// Identifies the order that it follows; at most 64 bytes.
    pub digest: String,
    /// The state.
    pub state: ServiceState,
    /// Its process, as the jail counts; `None` while none runs.
    pub pid: Option<u32>,
    /// Since when it is in this state.
    pub since: Moment,
    /// How many times it was started again by itself.
    pub restarts: u64,
    /// How it ended the last time.
    pub last_end: Option<ServiceEnd>,
    /// When it is started again; `None` unless it is in back-off.
    pub again: Option<Moment>,
}

/// The path of a service's log inside the jail.
#[must_use]
pub fn service_log(login: &LoginName, name: &UnitName) -> String {
    format!("/home/{login}/.local/state/services/{name}.log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_supervised_programs_round_trip() {
        for text in ["php", "node.web", "_x.a-1"] {
            assert_eq!(text.parse::<UnitName>().expect(text).to_string(), text);
        }
        for text in ["", ".", "a.", ".a", "a.b.c", "A", "a/b", "a.b\n", "../x"] {
            assert!(text.parse::<UnitName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_end_is_told_in_words() {
        for (end, golden) in [
            (ServiceEnd::Exited(0), "it ended with status 0"),
            (ServiceEnd::Killed(9), "signal 9 ended it"),
            (ServiceEnd::NotStarted(13), "it cannot be started: Permission denied (os error 13)"),
            (ServiceEnd::NotReady, "it was not ready in time"),
        ] {
            assert_eq!(end.to_string(), golden);
        }
    }

    #[test]
    fn words_round_trip() {
        fn check<T: Copy + PartialEq + fmt::Debug + FromStr<Err = UnknownWord>>(
            all: &[T],
            word: impl Fn(T) -> &'static str,
        ) {
            for item in all {
                assert_eq!(word(*item).parse(), Ok(*item));
            }
        }
        check(Restart::ALL, Restart::word);
        check(Readiness::ALL, Readiness::word);
        check(StopSignal::ALL, StopSignal::word);
        check(ServiceState::ALL, ServiceState::word);
        check(ServiceVerb::ALL, ServiceVerb::word);
    }
}
