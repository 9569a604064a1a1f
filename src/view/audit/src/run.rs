//! One run of an audit: the facts that its report does not contain.

use bailiwick_types::Moment;

/// When and where an audit ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run<'a> {
    /// Time of the run, by the host's clock.
    pub at: Moment,
    /// Name of the host.
    pub host: &'a str,
}
