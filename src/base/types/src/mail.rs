//! How much mail a tenant may send.

use crate::ByteSize;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How much mail a tenant may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mail {
    /// The most messages in any hour; at least 1.
    pub per_hour: u32,
    /// The most recipients of one message.
    pub recipients: u32,
    /// The most bytes of one message.
    pub size: ByteSize,
}

impl Mail {
    /// The most that `per_hour` can be.
    pub const MOST_PER_HOUR: u32 = 10_000;
    /// The most that `recipients` can be.
    pub const MOST_RECIPIENTS: u32 = 1000;
}

impl Default for Mail {
    fn default() -> Self {
        Self { per_hour: 100, recipients: 50, size: ByteSize(10 << 20) }
    }
}

impl fmt::Display for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} an hour, up to {} recipients, {}", self.per_hour, self.recipients, self.size)
    }
}
