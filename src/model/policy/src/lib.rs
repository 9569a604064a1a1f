//! Floor 2: reads TOML files into a typed policy, or into diagnostics with file, line and column.
//!
//! [`read`] goes on after a problem, so one run finds every problem of every file. It leaves a tenant with a problem out of the
//! policy, and the others are not affected. [`Store`] puts the last good version of the tenant in its place: this is the policy
//! in force.
//!
//! Danger: the warden does as root what the files say. Files that anybody but root can change must be refused.

mod check;
mod diagnostic;
mod folder;
mod host;
pub mod host_etc;
mod host_metrics;
mod host_network;
mod host_notices;
mod host_sockets;
mod items;
mod limits;
mod links;
mod mail;
mod model;
mod network;
mod notices;
mod place;
mod plans;
mod proposed;
mod read;
mod reader;
mod services;
mod settings;
mod sleep;
mod socket_place;
mod source;
mod sshkey;
mod store;
mod suggest;
mod tenants;
mod unserved;

pub use bailiwick_types::{Mail, is_domain};
pub use check::{Machine, check, check_proposed};
pub use diagnostic::{Diagnostic, Severity, lines, printable};
pub use host_network::UNBOUND;
pub use host_sockets::MAIL_SOCKET;
pub use model::{
    Declared, EtcSettings, EventsKept, FtpLogin, Host, HostMail, HostSocket, Log, Login, MetricsSettings,
    NoticeSettings, Pass, Plan, Policy, Principal, Reserve, Run, Service, ServiceLimits, ServiceSocket, ServiceUser,
    Settings, Sleep, Stop, Tenant, Timer, Web,
};
pub use network::network_settings;
pub use proposed::{Proposed, read_proposed};
pub use read::{LastGood, Reading, dump, parse, read, read_host, read_tenant};
pub use socket_place::{NotLent, SocketPlace, find_socket};
pub use sshkey::key_bytes;
pub use store::{Store, fingerprint};
pub use suggest::nearest;
pub use tenants::keys;

/// How a file of the operator is read: for the folders of files that no program of root reads.
pub mod files {
    pub use crate::diagnostic::Problem;
    pub use crate::folder::{Directory, Folder, names};
    pub use crate::reader::{Report, Section, Span, Table, distinct, expected, line, number, parsed, text};
    pub use crate::source::Source;
}
