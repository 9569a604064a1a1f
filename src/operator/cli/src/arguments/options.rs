//! Options and operands that several commands share, and those of `create`.

use bailiwick_declare::NewTenant;
use bailiwick_proto::Bytes;
use bailiwick_types::{LoginName, PlanName, Profile, TenantName};
use clap::Args;
use std::ffi::OsString;

/// The output format.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Format {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A time window.
#[derive(Debug, Clone, Args)]
pub(crate) struct WindowOptions {
    /// Start: 4h, 1h30m, 7d (ago), today, yesterday, 2026-11-01, "2026-11-01 14:30"
    #[arg(long, value_name = "WHEN", default_value = "1h")]
    pub(crate) since: String,
    /// End; default: now
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<String>,
}

/// OptionalTenants number of tenants.
#[derive(Debug, Args)]
pub(crate) struct OptionalTenants {
    /// Names of tenants; default: all
    #[arg(value_name = "TENANT")]
    pub(crate) tenants: Vec<TenantName>,
}

/// At least one tenant.
#[derive(Debug, Args)]
pub(crate) struct RequiredTenants {
    /// Names of tenants
    #[arg(required = true, value_name = "TENANT")]
    pub(crate) tenants: Vec<TenantName>,
}

/// How to start a session.
#[derive(Debug, Args)]
pub(crate) struct SessionOptions {
    /// User inside the jail: root, the login user, or a number
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Set an environment variable; can be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = variable)]
    pub(crate) env: Vec<Variable>,
    /// Working directory inside the jail
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<OsString>,
}

/// The settings of a new tenant.
#[derive(Debug, Args)]
pub(crate) struct NewTenantOptions {
    /// Name of the plan
    #[arg(long, value_name = "PLAN")]
    pub(crate) plan: PlanName,
    /// Confinement profile: web, shell or system; default: that of the plan
    #[arg(long, value_name = "PROFILE")]
    pub(crate) profile: Option<Profile>,
    /// Login user inside the jail; default: the name of the tenant
    #[arg(long, value_name = "NAME")]
    pub(crate) login: Option<LoginName>,
    /// An authorized_keys line that may log in; can be repeated
    #[arg(long, value_name = "KEY")]
    pub(crate) ssh_key: Vec<String>,
}

impl From<NewTenantOptions> for NewTenant {
    fn from(NewTenantOptions { plan, profile, login, ssh_key }: NewTenantOptions) -> Self {
        Self { plan, profile, login, ssh_keys: ssh_key }
    }
}

/// Name and value of an environment variable.
pub(crate) type Variable = (Bytes, Bytes);

fn variable(text: &str) -> Result<Variable, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            let bytes = |text: &str| Bytes::new(text).map_err(|error| error.to_string());
            Ok((bytes(key)?, bytes(value)?))
        }
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}
