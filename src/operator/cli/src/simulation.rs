//! `plan --simulate`: how often tenants would have reached the limits of a plan that is not in force yet.

use crate::output::{self, Form};
use crate::table::render;
use bailiwick_client::{AskError, Daemon};
use bailiwick_policy::Policy;
use bailiwick_proto::control::SimulatedLimit;
use bailiwick_proto::{ControlReply, ControlRequest, Failure};
use bailiwick_types::{ExitStatus, PlanName, TenantName, Usage, Window};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Size limit of a file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// `bailiwick plan --simulate`.
pub(crate) fn simulate(
    daemon: &Daemon,
    config: &Path,
    file: &Path,
    tenants: Vec<TenantName>,
    window: Window,
    form: Form,
) -> Result<(), Failure> {
    let (name, policy) = policy_with(config, file)?;
    let bounds = bounds(&policy, &name, &tenants)?;
    let ControlReply::Simulated(mut rows) = daemon.ask(&ControlRequest::Simulate { window, bounds })? else {
        return Err(AskError::Unexpected.into());
    };
    if form == Form::Text {
        rows.retain(|row| row.over > 0);
        rows.sort_by_key(|row| std::cmp::Reverse(row.over));
    }
    output::show(form, &rows, |rows| text(rows))
}

/// The policy with the plan of this name replaced by `file`.
fn policy_with(config: &Path, file: &Path) -> Result<(PlanName, Policy), Failure> {
    let invalid = |message: String| Failure::of(ExitStatus::Invalid, message);
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let name: PlanName =
        stem.parse().map_err(|error| invalid(format!("the name of {} is not a plan name: {error}", file.display())))?;
    let mut files: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    files.insert("bailiwick.toml".into(), read(&config.join("bailiwick.toml"))?);
    for folder in ["plans.d", "tenants.d"] {
        let Ok(entries) = std::fs::read_dir(config.join(folder)) else { continue };
        for entry in entries.flatten() {
            let path = Path::new(folder).join(entry.file_name());
            if path.extension().is_some_and(|extension| extension == "toml") {
                files.insert(path, read(&entry.path())?);
            }
        }
    }
    let place = Path::new("plans.d").join(format!("{name}.toml"));
    files.insert(place.clone(), read(file)?);
    let files: Vec<(PathBuf, Vec<u8>)> = files.into_iter().collect();
    let reading = bailiwick_policy::parse(&files);
    let mut of_plan: Vec<_> = reading.diagnostics.into_iter().filter(|problem| problem.file == place).collect();
    // The operator's file is the one to be mended.
    of_plan.iter_mut().for_each(|problem| file.clone_into(&mut problem.file));
    match reading.policy {
        Some(policy) if of_plan.is_empty() => Ok((name, policy)),
        _ => Err(crate::configuration::invalid(&of_plan)),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |why: String| Failure::of(ExitStatus::Invalid, format!("cannot read {}: {why}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(failed("it must be a regular file of at most 1 MiB".to_owned()));
    }
    std::fs::read(path).map_err(|error| failed(error.to_string()))
}

/// The simulated limits of the tenants of the plan, or of the named tenants. A tenant's own values override the plan's.
fn bounds(policy: &Policy, plan: &PlanName, tenants: &[TenantName]) -> Result<BTreeMap<TenantName, Usage>, Failure> {
    let mut found = BTreeMap::new();
    for tenant in policy.tenants.values().filter(|tenant| tenants.is_empty() && tenant.plan == *plan) {
        found.insert(tenant.name.clone(), Usage::bounds(&tenant.settings.limits));
    }
    for name in tenants {
        let Some(tenant) = policy.tenants.get(name) else {
            return Err(Failure::of(ExitStatus::NotFound, format!("there is no tenant \"{name}\"")));
        };
        // A tenant of another plan is simulated as if it had this plan.
        let limits = if tenant.plan == *plan { &tenant.settings.limits } else { &policy.plans[plan].settings.limits };
        found.insert(name.clone(), Usage::bounds(limits));
    }
    if found.is_empty() {
        let message = format!("no tenant has the plan \"{plan}\"; name the tenants to simulate");
        return Err(Failure::of(ExitStatus::NotFound, message));
    }
    Ok(found)
}

fn text(rows: &[SimulatedLimit]) -> String {
    if rows.is_empty() {
        return "no tenant would have reached any of these limits\n".to_owned();
    }
    render(&["TENANT", "LIMIT", "WOULD-BE", "PEAK", "MINUTES-OVER"], rows.iter().map(simulated_row))
}

fn simulated_row(row: &SimulatedLimit) -> Vec<String> {
    vec![
        row.tenant.to_string(),
        row.measure.to_string(),
        row.measure.rate_in_words(row.bound),
        row.measure.rate_in_words(row.peak),
        format!("{} of {}", row.over, row.measured),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::Measure;

    fn config() -> tempfile::TempDir {
        let temp = tempfile::tempdir().expect("temporary directory");
        for (path, text) in [
            ("bailiwick.toml", ""),
            ("plans.d/small.toml", "profile = \"web\"\n[limits]\ntasks = 100\n"),
            ("plans.d/large.toml", "profile = \"web\"\n"),
            ("tenants.d/alice.toml", "plan = \"small\"\n"),
            ("tenants.d/bob.toml", "plan = \"small\"\n[limits]\ntasks = 500\n"),
            ("tenants.d/carol.toml", "plan = \"large\"\n"),
            ("new/small.toml", "profile = \"web\"\n[limits]\ntasks = 20\n"),
            ("new/bad.toml", "tasks = 20\n"),
        ] {
            let path = temp.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
            std::fs::write(path, text).expect("writes");
        }
        temp
    }

    #[test]
    fn a_tenants_own_value_overrides_the_simulated_plan() {
        let temp = config();
        let (name, policy) = policy_with(temp.path(), &temp.path().join("new/small.toml")).expect("reads");
        let tasks = |tenants: &[&str]| {
            let tenants: Vec<TenantName> = tenants.iter().map(|name| name.parse().expect("a name")).collect();
            let found = bounds(&policy, &name, &tenants).expect("known");
            let tasks =
                |(tenant, usage): (TenantName, Usage)| (tenant.to_string(), usage.get(Measure::Tasks).expect("bound"));
            found.into_iter().map(tasks).collect::<Vec<_>>()
        };
        assert_eq!(tasks(&[]), [("alice".to_owned(), 20), ("bob".to_owned(), 500)]);
        assert_eq!(tasks(&["carol"]), [("carol".to_owned(), 20)]);
        assert!(bounds(&policy, &"large".parse().expect("a name"), &["nemo".parse().expect("a name")]).is_err());
    }

    #[test]
    fn an_invalid_plan_is_an_error_with_its_position() {
        let temp = config();
        let failure = policy_with(temp.path(), &temp.path().join("new/bad.toml")).expect_err("invalid");
        assert!(failure.message.contains("/new/bad.toml:1:1"), "{failure}");
        assert!(policy_with(temp.path(), &temp.path().join("new/none.toml")).is_err());
        assert!(policy_with(temp.path(), Path::new("/dev/zero")).is_err());
    }
}
