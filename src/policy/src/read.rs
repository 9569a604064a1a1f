//! Reading a configuration directory: all of it, or what one request needs.

use crate::diagnostic::{Diagnostic, Problem};
use crate::folder::{Directory, Folder, Memory, PLANS, TENANTS, file_name, names};
use crate::model::{Host, Policy, Tenant};
use crate::plans::{Availability, Plans};
use crate::{host, plans, tenants};
use bailiwick_types::TenantName;
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
    /// Tenants that have a file but are not in `policy`, because the file or a plan has an error.
    pub invalid: BTreeSet<TenantName>,
}

/// Reads a whole configuration directory.
#[must_use]
pub fn read(config_dir: &Path) -> Reading {
    match Directory::open(config_dir) {
        Ok(top) => read_all(&top),
        Err(diagnostics) => Reading { policy: None, diagnostics, invalid: BTreeSet::new() },
    }
}

/// As [`read`], from files in memory: pairs of path below the configuration directory and content, as [`dump`] gives
/// them. Nothing is looked at but the arguments.
#[must_use]
pub fn parse<C: AsRef<[u8]>>(files: &[(PathBuf, C)]) -> Reading {
    read_all(&Memory::new(files))
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
    let host = keep(host_of(&top), &mut diagnostics);
    let source = top.folder(TENANTS).and_then(|tenants| match tenants {
        Some(tenants) => tenants.file(&file_name(name)),
        None => Ok(None),
    });
    let mut tenant = None;
    let source = keep(source, &mut diagnostics).flatten();
    if let Some(source) = &source {
        let folder = keep(top.folder(PLANS), &mut diagnostics);
        let mut plans = Plans::new(availability(&folder));
        tenant = keep(tenants::read(source, name, &mut plans), &mut diagnostics).flatten();
        diagnostics.extend(plans.finish().1);
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

fn read_all<F: Folder>(top: &F) -> Reading {
    let mut diagnostics = Vec::new();
    let host = keep(host_of(top), &mut diagnostics);
    let mut folder = |name| keep(top.folder(name), &mut diagnostics);
    let (plans_folder, tenants_folder) = (folder(PLANS), folder(TENANTS));

    let mut plans = Plans::new(availability(&plans_folder));
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
                Err(problems) => Err(problems),
            };
            match keep(read, &mut diagnostics).flatten() {
                Some(tenant) => drop(good.insert(name, tenant)),
                None => drop(invalid.insert(name)),
            }
        }
    }
    let (plans, problems) = plans.finish();
    diagnostics.extend(problems);

    let policy = host.filter(|_| known).map(|host| Policy { host, plans, tenants: good });
    Reading { policy, diagnostics: sorted(diagnostics), invalid }
}

fn host_of<F: Folder>(top: &F) -> Result<Host, Vec<Diagnostic>> {
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

fn availability<F>(folder: &Option<Option<F>>) -> Availability<'_, F> {
    match folder {
        Some(Some(folder)) => Availability::Ready(folder),
        Some(None) => Availability::Absent,
        None => Availability::Broken,
    }
}

/// The value, or `None` after keeping the problems.
fn keep<T>(result: Result<T, Vec<Diagnostic>>, diagnostics: &mut Vec<Diagnostic>) -> Option<T> {
    result.map_err(|problems| diagnostics.extend(problems)).ok()
}

fn sorted(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    diagnostics.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    diagnostics
}
