//! Options and operands that several commands share, and those of `create`.

use crate::before::Hooks;
use bailiwick_declare::NewTenant;
use bailiwick_proto::Bytes;
use bailiwick_types::{LoginName, PlanName, Profile, TenantName, TenantState};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
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

/// Which tenants `list` shows, and what of them.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListOptions {
    /// Only tenants in this state; several, separated by commas
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = states())]
    pub(crate) state: Vec<TenantState>,
    /// Only tenants of this plan; several, separated by commas
    #[arg(long, value_name = "PLAN", value_delimiter = ',')]
    pub(crate) plan: Vec<PlanName>,
    /// Sort by a column
    #[arg(long, value_name = "COLUMN", value_enum, default_value_t = Column::Name)]
    pub(crate) sort: Column,
    /// In the opposite order
    #[arg(long)]
    pub(crate) reverse: bool,
    /// Show these columns only, separated by commas
    #[arg(long, value_name = "COLUMN", value_enum, value_delimiter = ',', conflicts_with = "json")]
    pub(crate) columns: Vec<Column>,
}

/// A column of `list`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Column {
    /// The name of the tenant
    Name,
    /// Its state
    State,
    /// Its plan
    Plan,
    /// Its image
    Image,
    /// Its profile
    Profile,
    /// Why its jail did not start
    Failure,
}

fn states() -> impl TypedValueParser<Value = TenantState> {
    let state = |word: String| TenantState::ALL.into_iter().find(|state| state.word() == word);
    PossibleValuesParser::new(TenantState::ALL.map(TenantState::word))
        .try_map(move |word| state(word).ok_or("is no state"))
}

/// Whether hooks are asked.
#[derive(Debug, Args)]
pub(crate) struct HookOptions {
    /// Ask no hook of hooks.d that runs before this command and could refuse it
    #[arg(long)]
    skip_hooks: bool,
}

impl From<HookOptions> for Hooks {
    fn from(HookOptions { skip_hooks }: HookOptions) -> Self {
        if skip_hooks { Self::Skip } else { Self::Ask }
    }
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
