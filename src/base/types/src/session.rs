//! Sessions: tenant, door, client and start of each.

use crate::{Door, Moment, TenantName};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The id of a session: eight hexadecimal digits. It stays the same when `bailiwickd` restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(pub u32);

/// The text is not the id of a session.
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

/// A session that `bailiwickd` has let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Its id.
    pub id: SessionId,
    /// The tenant whose jail it is in.
    pub tenant: TenantName,
    /// The door.
    pub door: Door,
    /// The user inside: a name that the policy knows, or a number. For `ftp` it is the login's name; the process inside
    /// runs as the login user.
    pub user: String,
    /// The client's address, as sshd or the FTP server reported it; `None` for a client on this host.
    pub source: Option<String>,
    /// The public key that opened the door, as sshd reported it: as in `authorized_keys`, without the comment.
    pub key: Option<String>,
    /// The command, cut to [`MAX_COMMAND`] bytes; `None` for a login shell. For `ftp` it is the directory that the
    /// login is locked to, if any.
    pub command: Option<String>,
    /// When it started.
    pub since: Moment,
    /// The client's user id on the host. For `ftp` it is the user that started the server.
    pub uid: u32,
    /// The client's pid on the host. For `ftp` it is the server's process for this client.
    pub pid: u32,
}

/// The limit of bytes of a command in a record.
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
