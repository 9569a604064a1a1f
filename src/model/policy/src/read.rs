//! Reading a configuration directory: all of it, or what one request needs.

use crate::diagnostic::{Diagnostic, Problem};
use crate::folder::{Directory, Folder, Memory, PLANS, TENANTS, file_name, names};
use crate::model::{Host, Policy, Tenant};
use crate::plans::{Availability, Plans};
use crate::store::Fallback;
use crate::tenants::Broken;
use crate::{host, plans, tenants};
use bailiwick_types::{PlanName, TenantName};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Result of reading a configuration directory.
#[derive(Debug)]
pub struct Reading {
    /// The plans and tenants without errors. `None` when `bailiwick.toml` or one of the directories cannot be used:
    /// then nothing is known of who is declared, and nobody may be taken to be deleted.
    pub policy: Option<Policy>,
    /// Every problem of every file, by file and place.
    pub diagnostics: Vec<Diagnostic>,
    /// Tenants that are not as their file says, because the file or a plan has an error. They are in `policy` only as they last were.
    pub invalid: BTreeSet<TenantName>,
    /// The same of what `policy` has from before: empty when the files alone were read.
    pub last_good: LastGood,
}

/// What of a policy is as it was last read without an error, because it has one now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LastGood {
    /// Whether `bailiwick.toml` is.
    pub host: bool,
    /// Plans.
    pub plans: BTreeSet<PlanName>,
    /// Tenants.
    pub tenants: BTreeSet<TenantName>,
}

impl Reading {
    /// When the configuration directory itself cannot be used.
    pub(crate) fn without_files(diagnostics: Vec<Diagnostic>, fallback: &Fallback<'_>) -> Self {
        let tenants = fallback.tenants();
        let names: BTreeSet<TenantName> = tenants.keys().cloned().collect();
        let policy = fallback.host().map(|host| Policy { host, plans: BTreeMap::new(), tenants });
        let last_good = match &policy {
            Some(_) => LastGood { host: true, plans: BTreeSet::new(), tenants: names.clone() },
            None => LastGood::default(),
        };
        Self { policy, diagnostics, invalid: names, last_good }
    }
}

/// Reads a whole configuration directory.
#[must_use]
pub fn read(config_dir: &Path) -> Reading {
    let nothing = Fallback::nothing();
    match Directory::open(config_dir) {
        Ok(top) => read_all(&top, &nothing),
        Err(diagnostics) => Reading::without_files(diagnostics, &nothing),
    }
}

/// As [`read`], from files in memory: pairs of path below the configuration directory and content, as [`dump`] gives
/// them. Nothing is looked at but the arguments.
#[must_use]
pub fn parse<C: AsRef<[u8]>>(files: &[(PathBuf, C)]) -> Reading {
    read_all(&Memory::new(files), &Fallback::nothing())
}

/// Reads `bailiwick.toml` only.
///
/// # Errors
/// All its problems.
pub fn read_host(config_dir: &Path) -> Result<Host, Vec<Diagnostic>> {
    Directory::open(config_dir).and_then(|top| host_of(&top))
}

/// Reads `bailiwick.toml`, the file of one tenant and the plans that it inherits from, whatever else there is.
/// The tenant is `None` when it has no file.
///
/// # Errors
/// All problems of these files.
pub fn read_tenant(config_dir: &Path, name: &TenantName) -> Result<(Host, Option<Tenant>), Vec<Diagnostic>> {
    let top = Directory::open(config_dir)?;
    let mut diagnostics = Vec::new();
    let host = take_or_report(host_of(&top), &mut diagnostics);
    let source = top.folder(TENANTS).and_then(|tenants| match tenants {
        Some(tenants) => tenants.file(&file_name(name)),
        None => Ok(None),
    });
    let mut tenant = None;
    let source = take_or_report(source, &mut diagnostics).flatten();
    if let Some(source) = &source {
        let folder = take_or_report(top.folder(PLANS), &mut diagnostics);
        let nothing = Fallback::nothing();
        let mut plans = Plans::new(availability(&folder), &nothing);
        let read = tenants::read(source, name, &mut plans).map_err(|broken| broken.diagnostics);
        tenant = take_or_report(read, &mut diagnostics).flatten();
        diagnostics.extend(plans.finish().diagnostics);
    }
    match host {
        // A file that gave no tenant is an error whatever else is known: "no tenant" would let its data be purged.
        Some(host) if diagnostics.is_empty() && source.is_some() == tenant.is_some() => Ok((host, tenant)),
        _ => Err(sorted(diagnostics)),
    }
}

/// The effective policy as files: path below the configuration directory, and content. They read to an equal policy.
#[must_use]
pub fn dump(policy: &Policy) -> Vec<(PathBuf, String)> {
    let mut files = vec![(PathBuf::from(host::FILE), host::write(&policy.host))];
    files.extend(policy.plans.values().map(|plan| (Path::new(PLANS).join(file_name(&plan.name)), plans::write(plan))));
    files.extend(
        policy
            .tenants
            .values()
            .map(|tenant| (Path::new(TENANTS).join(file_name(&tenant.name)), tenants::write(tenant))),
    );
    files
}

pub(crate) fn read_all<F: Folder>(top: &F, fallback: &Fallback<'_>) -> Reading {
    let mut diagnostics = Vec::new();
    let mut last_good = LastGood::default();
    let host = take_or_report(host_of(top), &mut diagnostics).or_else(|| {
        let host = fallback.host();
        last_good.host = host.is_some();
        host
    });
    let mut folder = |name| take_or_report(top.folder(name), &mut diagnostics);
    let (plans_folder, tenants_folder) = (folder(PLANS), folder(TENANTS));

    let mut plans = Plans::new(availability(&plans_folder), fallback);
    plans.find_all();
    let (mut good, mut invalid) = (BTreeMap::new(), BTreeSet::new());
    // Without a list nobody is known to be declared; that is not the same as an empty one.
    let mut known = plans_folder.is_some() && tenants_folder.is_some();
    if let Some(folder) = tenants_folder.as_ref().and_then(Option::as_ref) {
        let listed = names::<_, TenantName>(folder, &mut diagnostics);
        known &= listed.is_some();
        for name in listed.unwrap_or_default() {
            let read = match folder.file(&file_name(&name)) {
                // The file was removed since the directory was listed.
                Ok(None) => continue,
                Ok(Some(source)) => tenants::read(&source, &name, &mut plans),
                Err(diagnostics) => Err(Broken { diagnostics, suspended: None }),
            };
            let suspended = match read {
                Ok(Some(tenant)) => {
                    good.insert(name, tenant);
                    continue;
                }
                Ok(None) => None,
                Err(broken) => {
                    diagnostics.extend(broken.diagnostics);
                    broken.suspended
                }
            };
            if let Some(tenant) = fallback.tenant_instead(&name, suspended) {
                good.insert(name.clone(), tenant);
                last_good.tenants.insert(name.clone());
            }
            invalid.insert(name);
        }
    }
    let finished = plans.finish();
    diagnostics.extend(finished.diagnostics);
    last_good.plans = finished.fallen_back;
    let plans = finished.good;
    if !known {
        // Those who were not found in a folder that cannot be listed are still there.
        for (name, tenant) in fallback.tenants() {
            if let Entry::Vacant(place) = good.entry(name) {
                last_good.tenants.insert(place.key().clone());
                invalid.insert(place.key().clone());
                place.insert(tenant);
            }
        }
        known = !good.is_empty();
    }

    let policy = host.filter(|_| known).map(|host| Policy { host, plans, tenants: good });
    Reading { policy, diagnostics: sorted(diagnostics), invalid, last_good }
}

pub(crate) fn host_of<F: Folder>(top: &F) -> Result<Host, Vec<Diagnostic>> {
    match top.file(host::FILE) {
        Ok(Some(source)) => host::read(&source),
        Ok(None) => {
            let problem =
                Problem::new("there is no such file").hint("an empty file is enough: every key has a default");
            Err(vec![Diagnostic::whole(&top.path().join(host::FILE), problem)])
        }
        Err(problems) => Err(problems),
    }
}

pub(crate) fn availability<F>(folder: &Option<Option<F>>) -> Availability<'_, F> {
    match folder {
        Some(Some(folder)) => Availability::Ready(folder),
        Some(None) => Availability::Absent,
        None => Availability::Broken,
    }
}

/// The value; or `None`, with the problems added to `diagnostics`.
pub(crate) fn take_or_report<T>(result: Result<T, Vec<Diagnostic>>, diagnostics: &mut Vec<Diagnostic>) -> Option<T> {
    result.map_err(|problems| diagnostics.extend(problems)).ok()
}

pub(crate) fn sorted(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    diagnostics.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    diagnostics
}
