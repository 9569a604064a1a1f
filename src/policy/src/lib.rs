//! Floor 2: TOML files to a typed policy, or all diagnostics with file, line and column.

mod model;

pub use model::{Declared, Host, Login, Plan, Policy, Principal, Service, Settings, Tenant};
