//! Reads a configuration directory: the whole of it, or the files that one request needs.

use crate::diagnostic::{Diagnostic, Problem};
use crate::folder::{Directory, Folder, Memory, PLANS, TENANTS, file_name, names};
use crate::model::{Host, Policy, Tenant};
use crate::plans::{Availability, Plans};
use crate::store::Fallback;
use crate::tenants::{Broken, Taken};
use crate::{host, plans, tenants};
use bailiwick_types::{PlanName, TenantName};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The result of reading a configuration directory.
#[derive(Debug)]
pub struct Reading {
    /// The plans and tenants without errors. `None` when `bailiwick.toml` or one of the directories cannot be used. Then it is
    /// unknown who is declared, and no tenant may be treated as deleted.
    pub policy: Option<Policy>,
    /// Every problem of every file, sorted by file and place.
    pub diagnostics: Vec<Diagnostic>,
    /// The tenants whose file or plan has an error. `policy` holds their last good version, if there is one.
    pub invalid: BTreeSet<TenantName>,
    /// The parts of `policy` that are a last good version. Only [`Store`](crate::Store) has such parts.
    pub last_good: LastGood,
}

/// The parts of a policy that have an error now, so that their last good version is in force.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LastGood {
    /// Whether `bailiwick.toml` is such a part.
    pub host: bool,
    /// The plans.
    pub plans: BTreeSet<PlanName>,
    /// The tenants.
    pub tenants: BTreeSet<TenantName>,
}

impl Reading {
    /// The result when the configuration directory itself cannot be used.
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

/// Reads a whole configuration directory. Only files count: a tenant with an error is missing from the policy.
///
/// # Examples
/// ```no_run
/// use std::path::Path;
///
/// let reading = bailiwick_policy::read(Path::new("/etc/bailiwick"));
/// for diagnostic in &reading.diagnostics {
///     eprintln!("{diagnostic}");
/// }
/// let tenants = reading.policy.map_or(0, |policy| policy.tenants.len());
/// println!("{tenants} tenants are declared without an error");
/// ```
#[must_use]
pub fn read(config_dir: &Path) -> Reading {
    let nothing = Fallback::nothing();
    match Directory::open(config_dir) {
        Ok(top) => read_all(&top, &nothing),
        Err(diagnostics) => Reading::without_files(diagnostics, &nothing),
    }
}

/// Reads files in memory, as [`read`] does from a directory. Each file is its path below the configuration directory and its
/// content, as [`dump`] returns them. This function reads nothing but its arguments.
///
/// # Examples
/// ```
/// use std::path::PathBuf;
///
/// let files = [
///     (PathBuf::from("bailiwick.toml"), ""),
///     (PathBuf::from("plans.d/small.toml"), "limits.memory = \"512M\"\n"),
///     (PathBuf::from("tenants.d/alice.toml"), "plan = \"small\"\n"),
///     (PathBuf::from("tenants.d/bob.toml"), "plan = \"smal\"\n"),
/// ];
/// let reading = bailiwick_policy::parse(&files);
/// let policy = reading.policy.expect("bailiwick.toml is good");
/// assert_eq!(policy.tenants.len(), 1);
/// assert_eq!(
///     reading.diagnostics[0].to_string(),
///     "tenants.d/bob.toml:1:8: there is no plan \"smal\" (did you mean \"small\"?)",
/// );
/// ```
#[must_use]
pub fn parse<C: AsRef<[u8]>>(files: &[(PathBuf, C)]) -> Reading {
    read_all(&Memory::new(files), &Fallback::nothing())
}

/// Reads only `bailiwick.toml`.
///
/// # Errors
/// All problems of the file.
pub fn read_host(config_dir: &Path) -> Result<Host, Vec<Diagnostic>> {
    Directory::open(config_dir).and_then(|top| host_of(&top))
}

/// Reads only `bailiwick.toml`, the file of one tenant, and the plans that it inherits from. The tenant is `None` when it has
/// no file.
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
        let mut plans = Plans::new(availability(&folder), &nothing, host.as_ref());
        let read = tenants::read(source, name, &mut plans).map_err(|broken| broken.diagnostics);
        tenant = take_or_report(read, &mut diagnostics).flatten();
        diagnostics.extend(plans.finish().diagnostics);
    }
    match host {
        // A file that gave no tenant must be an error here. "No tenant" would allow to purge its data.
        Some(host) if diagnostics.is_empty() && source.is_some() == tenant.is_some() => Ok((host, tenant)),
        _ => Err(sorted(diagnostics)),
    }
}

/// Writes a policy as files with every setting in them. Each file is its path below the configuration directory and its
/// content. Reading them gives an equal policy.
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

    let mut plans = Plans::new(availability(&plans_folder), fallback, host.as_ref());
    plans.find_all();
    let (mut good, mut invalid) = (BTreeMap::new(), BTreeSet::new());
    // Without a list of the directory it is unknown who is declared. An empty list means that nobody is.
    let mut known = plans_folder.is_some() && tenants_folder.is_some();
    if let Some(folder) = tenants_folder.as_ref().and_then(Option::as_ref) {
        let listed = names::<_, TenantName>(folder, &mut diagnostics);
        known &= listed.is_some();
        for name in listed.unwrap_or_default() {
            let read = match folder.file(&file_name(&name)) {
                // The file was removed after the directory was listed.
                Ok(None) => continue,
                Ok(Some(source)) => tenants::read(&source, &name, &mut plans),
                Err(diagnostics) => Err(Broken { diagnostics, taken: Taken::default() }),
            };
            let taken = match read {
                Ok(Some(tenant)) => {
                    good.insert(name, tenant);
                    continue;
                }
                Ok(None) => Taken::default(),
                Err(broken) => {
                    diagnostics.extend(broken.diagnostics);
                    broken.taken
                }
            };
            if let Some(tenant) = fallback.tenant_instead(&name, taken) {
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
        // Tenants that were not found in a folder which cannot be listed are still declared.
        for (name, tenant) in fallback.tenants() {
            if let Entry::Vacant(place) = good.entry(name) {
                last_good.tenants.insert(place.key().clone());
                invalid.insert(place.key().clone());
                place.insert(tenant);
            }
        }
        known = !good.is_empty();
    }

    // A map that grew name by name is half empty. One that is made at once is full, and so are its copies.
    let tenants = good.into_iter().collect();
    let policy = host.filter(|_| known).map(|host| Policy { host, plans, tenants });
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
