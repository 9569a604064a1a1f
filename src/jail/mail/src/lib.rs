//! Floor 7: mail of tenants. Inside a jail the program is `sendmail`: it takes a message as `sendmail(8)` does, finds the
//! recipients, and hands both to a socket. On the host it is the server of that socket, with the rights of the tenant's host
//! user: it checks recipients, size and rate, and runs the host's `sendmail`.
//!
//! Danger: the tenant chooses every byte that the server reads. It takes nothing but recipients and a message; the sender, the
//! program and its options are the operator's.

pub mod client;
mod log;
pub mod rate;
pub mod request;
pub mod server;

/// Statuses of sendmail's interface (`sysexits.h`).
pub mod status {
    /// The message was taken.
    pub const OK: u8 = 0;
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
    /// The message or its recipients are wrong.
    pub const DATA: u8 = 65;
    /// It is not possible here.
    pub const UNAVAILABLE: u8 = 69;
    /// The system failed, for example a program is missing.
    pub const OS: u8 = 71;
    /// It may be possible later.
    pub const TEMPORARY: u8 = 75;
}

/// Where the server's socket is inside a jail.
pub const SOCKET: &str = "/run/host/sockets/mail/mail.sock";
