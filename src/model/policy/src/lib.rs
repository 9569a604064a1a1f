//! Floor 2: TOML files to a typed policy, or all diagnostics with file, line and column.
//!
//! [`read`] goes on after a problem, so one run names every problem of every file. A tenant with a problem is left out
//! of the policy; the others are not held up by it. [`Store`] has in its place what it last was: the policy that is in force.
//!
//! Danger: what the files say, the warden does as root. Files that anyone but root can change are refused.

mod check;
mod diagnostic;
mod folder;
mod host;
pub mod host_etc;
mod limits;
mod model;
mod plans;
mod read;
mod reader;
mod settings;
mod source;
mod sshkey;
mod store;
mod suggest;
mod tenants;

pub use check::{Machine, check};
pub use diagnostic::{Diagnostic, lines, printable};
pub use model::{
    Declared, EtcSettings, FtpLogin, Host, Login, Plan, Policy, Principal, Reserve, Service, Settings, Tenant, Timer,
};
pub use read::{LastGood, Reading, dump, parse, read, read_host, read_tenant};
pub use store::{Store, fingerprint};
