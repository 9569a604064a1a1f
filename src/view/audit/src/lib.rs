//! Floor 5: what is declared against what was observed: findings and reports. Never changes anything.
//!
//! [`judge`] compares one tenant's policy with one observation of the kernel and is pure but for one question: which of
//! the paths that are to be masked the host's own `/proc` and `/sys` have. [`host_report`] and [`doctor`] say what the
//! host can enforce at all. Every kind of finding is a row of [`FINDINGS`], described in `docs/findings.md`.
//!
//! [`page`] makes of a report what a customer can read and print. [`chain`] keeps what audits said, so that a year later an auditor can check it.
//!
//! Danger: evidence quotes names that tenants choose. It is escaped and cut here, and nothing is decided by it.

pub mod chain;
mod chart;
mod finding;
mod ftp;
mod host;
mod judge;
mod limit;
mod mounts;
mod page;
mod probe;
mod run;
mod walls;

pub use finding::{FINDINGS, FindingKind};
pub use host::{doctor, host_report, host_report_with};
pub use judge::{add_last_good, add_silence, judge};
pub use limit::add_sessions;
pub use page::page;
pub use probe::add_probes;
pub use run::Run;
