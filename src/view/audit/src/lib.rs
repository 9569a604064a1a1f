//! Floor 5: compares the declared state with the observed state, and reports the differences as findings. It never
//! changes anything.
//!
//! [`judge`] compares one tenant's policy with one observation of the kernel. It is pure except for one question: which
//! of the paths to mask exist in the host's own `/proc` and `/sys`. [`host_report`] and [`doctor`] report what the host
//! can enforce. Every kind of finding is a row of [`FINDINGS`], described in `docs/findings.md`.
//!
//! [`chain`] keeps the results of audits, so that an auditor can check them a year later.
//!
//! Danger: evidence quotes names that tenants choose. They are escaped and cut here, and no decision depends on them.

pub mod chain;
mod finding;
mod ftp;
mod host;
mod judge;
mod lending;
mod limit;
mod mounts;
mod network;
mod network_trial;
mod probe;
mod run;
mod walls;

pub use finding::{FINDINGS, FindingKind};
pub use host::{doctor, host_report, host_report_with};
pub use judge::{ServicesSeen, add_asleep, add_frozen, add_last_good, add_pool, add_services, add_silence, judge};
pub use limit::add_sessions;
pub use network::{NetworkSeen, RouterProblem, add_network};
pub use probe::{add_packets, add_probes};
pub use run::Run;
