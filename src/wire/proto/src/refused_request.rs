//! What the host's web server tells `bailiwickd` of a request that it refused: a datagram as for syslog (RFC 3164), as nginx writes it.
//!
//! Danger: this is the web server's word. It only adds to a count of the socket that it names.

use bailiwick_types::{SocketName, TenantName};
use std::fmt;

/// The word before the message, which tells these datagrams from others.
pub const TAG: &str = "bailiwick";
/// The longest datagram in bytes.
pub const MAX_LEN: usize = 128;
/// The length of the time in a datagram: `Nov 29 06:31:15`.
const TIME_LEN: usize = 15;

/// A request that was refused because of `entries`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRequest {
    /// The tenant.
    pub tenant: TenantName,
    /// The socket that the request was for.
    pub socket: SocketName,
}

impl RefusedRequest {
    /// Reads a datagram: `<190>Nov 29 06:31:15 bailiwick: alice.web`; `None` when it is not exactly this. The number and the time
    /// decide nothing.
    #[must_use]
    pub fn read(datagram: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(datagram).ok().filter(|text| text.len() <= MAX_LEN && text.is_ascii())?;
        let (priority, rest) = text.strip_prefix('<')?.split_once('>')?;
        let is_number = (1..=3).contains(&priority.len()) && priority.bytes().all(|byte| byte.is_ascii_digit());
        let (time, rest) = rest.split_at_checked(TIME_LEN)?;
        if !is_number || time.bytes().any(|byte| byte.is_ascii_control()) {
            return None;
        }
        rest.strip_prefix(' ')?.strip_prefix(TAG)?.strip_prefix(": ").and_then(Self::named)
    }

    /// Reads the name of a socket, as the configuration of the web server has it: `alice.web`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let (tenant, socket) = name.split_once('.')?;
        Some(Self { tenant: tenant.parse().ok()?, socket: socket.parse().ok()? })
    }

    /// The datagram that says this. It has no time of its own.
    #[must_use]
    pub fn datagram(&self) -> String {
        format!("<190>Jan  1 00:00:00 {TAG}: {self}")
    }
}

impl fmt::Display for RefusedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.tenant, self.socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nginx_writes_names_a_socket() {
        let read = RefusedRequest::read(b"<190>Nov 29 06:31:15 bailiwick: alice.web").expect("reads");
        assert_eq!((read.tenant.as_str(), read.socket.as_str()), ("alice", "web"));
        let longest = "a".repeat(32);
        let longest = RefusedRequest::named(&format!("{longest}.{longest}")).expect("reads");
        for refused in [read, longest] {
            let datagram = refused.datagram();
            assert!(datagram.len() <= MAX_LEN, "{datagram}");
            assert_eq!(RefusedRequest::read(datagram.as_bytes()), Some(refused));
        }
    }

    #[test]
    fn nothing_else_is_read() {
        let long = format!("<190>Nov 29 06:31:15 bailiwick: alice.{}", "w".repeat(200));
        for other in [
            "",
            "alice.web",
            "<190>",
            "<>Nov 29 06:31:15 bailiwick: alice.web",
            "<1900>Nov 29 06:31:15 bailiwick: alice.web",
            "<+19>Nov 29 06:31:15 bailiwick: alice.web",
            "<190>Nov 29 06:31:15 nginx: alice.web",
            "<190>Nov 29 06:31:15 host bailiwick: alice.web",
            "<190>Nov 29 06:31:15 bailiwick: alice",
            "<190>Nov 29 06:31:15 bailiwick: alice.web\n",
            "<190>Nov 29 06:31:15 bailiwick: alice.web.web",
            "<190>Nov 29 06:31:15 bailiwick: ../x.web",
            "<190>Nov 29 06:31:\u{1}5 bailiwick: alice.web",
            "<190>Nov 29 06:31:1\u{e9} bailiwick: alice.web",
            &long,
        ] {
            assert_eq!(RefusedRequest::read(other.as_bytes()), None, "{other:?}");
        }
        assert_eq!(RefusedRequest::read(b"<190>Nov 29 06:31:15 bailiwick: alice.\xff"), None);
    }
}
