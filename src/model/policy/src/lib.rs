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
mod host_network;
mod host_sockets;
mod items;
mod limits;
mod links;
mod mail;
mod model;
mod network;
mod plans;
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
pub use check::{Machine, check};
pub use diagnostic::{Diagnostic, lines, printable};
pub use host_network::UNBOUND;
pub use host_sockets::MAIL_SOCKET;
pub use model::{
    Declared, EtcSettings, FtpLogin, Host, HostMail, HostSocket, Log, Login, Pass, Plan, Policy, Principal, Reserve,
    Run, Service, ServiceLimits, ServiceSocket, ServiceUser, Settings, Sleep, Stop, Tenant, Timer, Web,
};
pub use network::network_settings;
pub use read::{LastGood, Reading, dump, parse, read, read_host, read_tenant};
pub use socket_place::{NotLent, SocketPlace, find_socket};
pub use store::{Store, fingerprint};
