//! Sessions: who is in, by which door, from where, since when.

use crate::{Door, Moment, TenantName};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The name of a session: eight hexadecimal digits, the same over a restart of `bailiwickd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(pub u32);

/// A text that names no session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" names no session; `bailiwick sessions` lists them by names such as \"0f3a91c7\"", .0.escape_debug())]
pub struct SessionIdError(String);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for SessionId {
    type Err = SessionIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || SessionIdError(text.chars().take(64).collect());
        let exact = text.len() == 8 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if exact { u32::from_str_radix(text, 16).map(Self).map_err(|_| error()) } else { Err(error()) }
    }
}

impl TryFrom<String> for SessionId {
    type Error = SessionIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> Self {
        id.to_string()
    }
}

/// A session, as `bailiwickd` let it in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Its name.
    pub id: SessionId,
    /// In whose jail.
    pub tenant: TenantName,
    /// By which door.
    pub door: Door,
    /// The user inside: a name that the policy knows, or a number. For `ftp`: the login; inside it is the login user.
    pub user: String,
    /// The client's address, as reported by sshd or the FTP server; `None` for a client on this host.
    pub source: Option<String>,
    /// The public key that opened the door, as in `authorized_keys` but without its comment, as sshd says.
    pub key: Option<String>,
    /// What it runs, cut to [`MAX_COMMAND`] bytes; `None` for a login shell. For `ftp`: the directory that it is locked to, if any.
    pub command: Option<String>,
    /// Since when.
    pub since: Moment,
    /// The client's user on the host. For `ftp`: the user that started the server.
    pub uid: u32,
    /// The client's process, as a pid of the host. For `ftp`: the server's process for this client.
    pub pid: u32,
}

/// The most of a command that a record keeps.
pub const MAX_COMMAND: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_are_exact() {
        for number in [0, 1, 0x0f3a_91c7, u32::MAX] {
            assert_eq!(SessionId(number).to_string().parse(), Ok(SessionId(number)));
        }
        for bad in ["", "0", "0f3a91c", "0f3a91c77", "0F3A91C7", "+f3a91c7", "0x3a91c7", "0f3a91cg", "٠٠٠٠"] {
            assert!(bad.parse::<SessionId>().is_err(), "{bad:?}");
        }
    }
}
