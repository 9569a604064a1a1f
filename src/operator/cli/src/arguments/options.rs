//! Options and operands that several commands share, and those of `create`.

use bailiwick_declare::NewTenant;
use bailiwick_proto::Bytes;
use bailiwick_types::{LoginName, PlanName, Profile, TenantName};
use clap::Args;
use std::ffi::OsString;

/// How to print.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Format {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A window of time.
#[derive(Debug, Clone, Args)]
pub(crate) struct When {
    /// From when on: 4h, 1h30m, 7d, today, yesterday, 2026-11-01, "2026-11-01 14:30"
    #[arg(long, value_name = "WHEN", default_value = "1h")]
    pub(crate) since: String,
    /// Until when; now when it is not given
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<String>,
}

/// Any number of tenants.
#[derive(Debug, Args)]
pub(crate) struct Any {
    /// Names of tenants; all when none is given
    #[arg(value_name = "TENANT")]
    pub(crate) tenants: Vec<TenantName>,
}

/// At least one tenant.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Names of tenants
    #[arg(required = true, value_name = "TENANT")]
    pub(crate) tenants: Vec<TenantName>,
}

/// How a session starts.
#[derive(Debug, Args)]
pub(crate) struct Entry {
    /// Who runs it inside: root, the login user, or a number
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Add a variable to its environment; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = variable)]
    pub(crate) env: Vec<Variable>,
    /// Directory inside where it starts
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<OsString>,
}

/// What the file of a new tenant says.
#[derive(Debug, Args)]
pub(crate) struct Wishes {
    /// Name of its plan
    #[arg(long, value_name = "PLAN")]
    pub(crate) plan: PlanName,
    /// How tightly it is confined, if not as its plan says: web, shell or system
    #[arg(long, value_name = "PROFILE")]
    pub(crate) profile: Option<Profile>,
    /// Its user inside, if not called like the tenant
    #[arg(long, value_name = "NAME")]
    pub(crate) login: Option<LoginName>,
    /// A line of authorized_keys that may log in; may be given several times
    #[arg(long, value_name = "KEY")]
    pub(crate) ssh_key: Vec<String>,
}

impl From<Wishes> for NewTenant {
    fn from(Wishes { plan, profile, login, ssh_key }: Wishes) -> Self {
        Self { plan, profile, login, ssh_keys: ssh_key }
    }
}

/// A variable of the environment.
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
