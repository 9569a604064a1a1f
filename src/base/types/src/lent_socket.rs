//! What the warden knows of a socket of the host that is lent to a tenant.

use serde::{Deserialize, Serialize};

/// A socket of the host that is lent to a tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LentSocket {
    /// Whether a process serves it. None does while the host's socket is not there.
    pub served: bool,
    /// Its open connections.
    pub connections: u64,
    /// The connections that were closed at once, because the tenant had too many, since its jail was started.
    pub refused: u64,
}
