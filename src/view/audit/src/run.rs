//! One run of an audit: what a report does not say of itself.

use bailiwick_types::Moment;

/// When and where an audit ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run<'a> {
    /// When, by the host's clock.
    pub at: Moment,
    /// Name of the host.
    pub host: &'a str,
}
