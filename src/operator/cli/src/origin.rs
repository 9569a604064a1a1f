//! `show --explain`: where each value of a tenant comes from, and what it means.
//!
//! The values are those of the policy in force. Their places are looked up in the tenant's file, then in its plan's, and so on up
//! the line. The meanings are those of `explain`.

use crate::configuration;
use crate::edit::{HIDDEN, is_secret, values_of};
use crate::output::{self, Form};
use crate::table::render;
use bailiwick_declare::{ConfigFile, FlatValue, flat, keys};
use bailiwick_policy::{Policy, Store};
use bailiwick_proto::Failure;
use bailiwick_types::{ExitStatus, TenantName};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The most plans in one line of inheritance that are looked at; the policy allows no more.
const MOST_PLANS: usize = 16;
/// Keys that a plan does not hand on.
const OWN: [&str; 10] = [
    "plan",
    "state",
    "suspend_reason",
    "login",
    "timer",
    "ftp",
    "link",
    "inherit_services",
    "contact",
    "inherit_notices",
];

/// A value, where it comes from, and what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Origin {
    key: String,
    value: String,
    /// `FILE:LINE` below the configuration directory, or `default`.
    from: String,
    meaning: String,
}

/// A file, as far as it can be read, with its values.
struct Level {
    path: PathBuf,
    values: Vec<FlatValue>,
}

/// `bailiwick show TENANT --explain`.
pub(crate) fn explain(config: &Path, tenant: &TenantName, form: Form) -> Result<(), Failure> {
    let (host, declared) = Store::new(config).tenant(tenant).map_err(|problems| configuration::invalid(&problems))?;
    let Some(declared) = declared else {
        return Err(Failure::of(ExitStatus::NotFound, format!("there is no tenant \"{tenant}\"")));
    };
    if bailiwick_policy::read_tenant(config, tenant).is_err() {
        output::complain(&format!(
            "the files of \"{tenant}\" have errors; the values are the last valid ones; see `bailiwick check`"
        ));
    }
    let file = ConfigFile::Tenant(tenant.clone());
    let tenants = [(tenant.clone(), declared)].into_iter().collect();
    let policy = Policy { host, plans: BTreeMap::new(), tenants };
    let values = values_of(Some(&policy), &file).unwrap_or_default();
    let levels = levels(config, &file);
    let origins: Vec<Origin> = in_order(&values).map(|(key, value)| origin(&levels, key, value)).collect();
    output::show(form, &origins, |origins| text(origins))
}

/// The values in the order of the table of keys.
fn in_order(values: &BTreeMap<String, String>) -> impl Iterator<Item = (&String, &String)> {
    let place = |key: &str| {
        let path: Vec<&str> = key.split('.').collect();
        let row = keys::of_path(&path);
        row.and_then(|row| keys::KEYS.iter().position(|key| key.path == row.path)).unwrap_or(usize::MAX)
    };
    // A dump names the services and notices one by one, so these say nothing of the tenant.
    let is_told = |key: &str| !matches!(key, "inherit_services" | "inherit_notices");
    let mut all: Vec<_> = values.iter().filter(|(key, _)| is_told(key)).collect();
    let group = |key: &str| key.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let is_named = |key: &str| key.split('.').count() > 2;
    // What belongs to one service stays together.
    all.sort_by_key(|(key, _)| (is_named(key), if is_named(key) { group(key) } else { String::new() }, place(key)));
    all.into_iter()
}

/// The tenant's file, and those of its plans.
fn levels(config: &Path, file: &ConfigFile) -> Vec<Level> {
    let mut levels: Vec<Level> = Vec::new();
    let mut next = Some(file.clone());
    while let Some(file) = next.take().filter(|_| levels.len() <= MOST_PLANS) {
        let path = file.path();
        let values = flat(&std::fs::read_to_string(config.join(&path)).unwrap_or_default());
        let plan = values.iter().find(|value| value.path == ["plan"]).and_then(|plan| plan.value.parse().ok());
        next = plan.map(ConfigFile::Plan).filter(|plan| levels.iter().all(|level| level.path != plan.path()));
        levels.push(Level { path, values });
    }
    levels
}

fn origin(levels: &[Level], key: &str, value: &str) -> Origin {
    let path: Vec<&str> = key.split('.').collect();
    let is_own = path.first().is_some_and(|first| OWN.contains(first));
    let levels = if is_own { &levels[..levels.len().min(1)] } else { levels };
    let found = levels.iter().find_map(|level| {
        // A plan may set a table as a whole that a dump writes key by key.
        let is_it = |found: &&FlatValue| found.path.iter().map(String::as_str).eq(path.iter().copied());
        let value = level.values.iter().find(is_it).filter(|found| found.value != "inherit")?;
        Some(format!("{}:{}", level.path.display(), value.line))
    });
    let meaning = keys::of_path(&path).map(|key| key.meaning.to_owned()).unwrap_or_default();
    let value = if is_secret(key) { HIDDEN.to_owned() } else { value.to_owned() };
    Origin { key: key.to_owned(), value, from: found.unwrap_or_else(|| "default".to_owned()), meaning }
}

fn text(origins: &[Origin]) -> String {
    let row = |origin: &Origin| {
        let Origin { key, value, from, meaning } = origin.clone();
        vec![key, value, from, meaning]
    };
    render(&["KEY", "VALUE", "FROM", "MEANING"], origins.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(path: &str, text: &str) -> Level {
        Level { path: path.into(), values: flat(text) }
    }

    #[test]
    fn the_nearest_file_that_sets_a_value_is_its_origin() {
        let levels = [
            level("tenants.d/a.toml", "plan = \"small\"\n[limits]\nmemory = \"2G\"\ntasks = \"inherit\"\n"),
            level("plans.d/small.toml", "plan = \"base\"\nlimits.tasks = 9\nlimits.memory = \"1G\"\n"),
            level("plans.d/base.toml", "profile = \"shell\"\n"),
        ];
        for (key, from) in [
            ("limits.memory", "tenants.d/a.toml:3"),
            ("limits.tasks", "plans.d/small.toml:2"),
            ("profile", "plans.d/base.toml:1"),
            ("plan", "tenants.d/a.toml:1"),
            ("limits.cpu", "default"),
            ("login.user", "default"),
        ] {
            let origin = origin(&levels, key, "x");
            assert_eq!(origin.from, from, "{key}");
            assert!(!origin.meaning.is_empty(), "{key}");
        }
        assert_eq!(origin(&levels, "ftp.files.password", "$y$secret").value, HIDDEN);
    }
}
