//! The policy in force: what the files say, with the last good version in place of each file that has an error.
//!
//! A wrong line is the mistake of one person and must not lock out others. So every program that acts by the policy reads it
//! here: both daemons, the login shell and `bailiwick keys`. A [`Store`] remembers the last good version of each file. The
//! warden also saves it below the configuration directory ([`COPY`]), so that it is known after a restart. `bailiwick check`
//! reads only the files.
//!
//! Danger: the copy decides what a root process does, as the files do. It must belong to root, must be checked as the files
//! are, and may hold only what root has written into them.

use crate::diagnostic::Diagnostic;
use crate::folder::{Directory, Folder, PLANS, TENANTS, file_name, names};
use crate::model::{Host, Plan, Policy, Tenant};
use crate::plans::{Availability, Found, Plans};
use crate::read::{Reading, availability, host_of, read_all, sorted, take_or_report};
use crate::tenants::{Broken, Taken};
use crate::{host, plans, tenants};
use bailiwick_sys::file::{self, Outlives};
use bailiwick_types::{PlanName, TenantName};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The directory of the copy, below the configuration directory. It is a configuration directory itself, with every setting
/// written out.
const COPY: &str = ".in-force";
/// The most bytes of a file in the copy.
const MAX_FILE: usize = 1 << 20;

/// The last good version of each file that this program has read.
#[derive(Debug, Default)]
struct Remembered {
    host: Option<Host>,
    plans: BTreeMap<PlanName, Plan>,
    tenants: BTreeMap<TenantName, Tenant>,
}

/// Where to find the last good version of a file: first in memory, then in the copy.
#[derive(Debug)]
pub(crate) struct Fallback<'a> {
    last: Option<&'a Remembered>,
    config: Option<&'a Path>,
    copy: OnceCell<Option<Directory>>,
}

impl Fallback<'_> {
    /// A fallback without anything, so that a file with an error has no other version.
    pub(crate) fn nothing() -> Self {
        Self { last: None, config: None, copy: OnceCell::new() }
    }

    fn copy(&self) -> Option<&Directory> {
        let open = || self.config.and_then(copy_below);
        self.copy.get_or_init(open).as_ref()
    }

    pub(crate) fn host(&self) -> Option<Host> {
        self.last.and_then(|last| last.host.clone()).or_else(|| host_of(self.copy()?).ok())
    }

    pub(crate) fn plan(&self, name: &PlanName) -> Option<Plan> {
        self.last.and_then(|last| last.plans.get(name).cloned()).or_else(|| {
            let folder = self.copy()?.folder(PLANS).ok()??;
            let nothing = Fallback::nothing();
            let mut plans = Plans::new(Availability::Ready(&folder), &nothing, None);
            match plans.find(name) {
                Found::Good(_) => plans.finish().good.remove(name),
                _ => None,
            }
        })
    }

    pub(crate) fn tenant(&self, name: &TenantName) -> Option<Tenant> {
        self.last.and_then(|last| last.tenants.get(name).cloned()).or_else(|| {
            let top = self.copy()?;
            let source = top.folder(TENANTS).ok()??.file(&file_name(name)).ok()??;
            let folder = top.folder(PLANS).ok();
            let nothing = Fallback::nothing();
            tenants::read(&source, name, &mut Plans::new(availability(&folder), &nothing, None)).ok()?
        })
    }

    /// The version of a tenant to use in place of a file with an error. What that file takes away holds until a file without an
    /// error says otherwise.
    pub(crate) fn tenant_instead(&self, name: &TenantName, taken: Taken) -> Option<Tenant> {
        let mut tenant = self.tenant(name)?;
        if let Some(open) = taken.doors {
            tenant.settings.doors.retain(|door| open.contains(door));
        }
        let state = taken.suspended.unwrap_or(tenant.state);
        Some(Tenant { state, ..tenant })
    }

    /// All tenants with a last good version, for the case that the directory cannot be listed.
    pub(crate) fn tenants(&self) -> BTreeMap<TenantName, Tenant> {
        let saved = || {
            let folder = self.copy()?.folder(TENANTS).ok()??;
            names::<_, TenantName>(&folder, &mut Vec::new())
        };
        let remembered = self.last.iter().flat_map(|last| last.tenants.keys().cloned());
        let names = remembered.chain(saved().unwrap_or_default());
        names.filter_map(|name| self.tenant(&name).map(|tenant| (name, tenant))).collect()
    }
}

/// The policy in force, as one program knows it.
///
/// # Examples
/// ```no_run
/// use std::path::Path;
///
/// let mut store = bailiwick_policy::Store::new(Path::new("/etc/bailiwick"));
/// let alice = "alice".parse().expect("a tenant's name");
/// match store.tenant(&alice) {
///     Ok((_host, Some(tenant))) => println!("alice has the plan {}", tenant.plan),
///     Ok((_host, None)) => println!("nobody declares alice"),
///     Err(diagnostics) => eprintln!("{}", bailiwick_policy::lines(&diagnostics)),
/// }
/// ```
#[derive(Debug)]
pub struct Store {
    config: PathBuf,
    last: Remembered,
}

impl Store {
    /// A store for a configuration directory. It reads nothing yet.
    #[must_use]
    pub fn new(config: &Path) -> Self {
        Self { config: config.to_owned(), last: Remembered::default() }
    }

    fn fallback(&self) -> Fallback<'_> {
        Fallback { last: Some(&self.last), config: Some(&self.config), copy: OnceCell::new() }
    }

    /// Reads the whole policy.
    pub fn read(&mut self) -> Reading {
        let reading = {
            let fallback = self.fallback();
            match Directory::open(&self.config) {
                Ok(top) => read_all(&top, &fallback),
                Err(diagnostics) => Reading::without_files(diagnostics, &fallback),
            }
        };
        if let Some(Policy { host, plans, tenants }) = reading.policy.clone() {
            self.last = Remembered { host: Some(host), plans, tenants };
        }
        reading
    }

    /// Reads `bailiwick.toml`. Returns the version in force, and the problems of the file.
    ///
    /// # Errors
    /// All problems of the file, when it has no last good version.
    pub fn host(&mut self) -> Result<(Host, Vec<Diagnostic>), Vec<Diagnostic>> {
        match Directory::open(&self.config).and_then(|top| host_of(&top)) {
            Ok(host) => {
                self.last.host = Some(host.clone());
                Ok((host, Vec::new()))
            }
            Err(problems) => match self.fallback().host() {
                Some(host) => Ok((host, problems)),
                None => Err(problems),
            },
        }
    }

    /// Reads only `bailiwick.toml`, the file of one tenant, and its plans. Returns the versions in force. The tenant is `None`
    /// when it has no file.
    ///
    /// # Errors
    /// All problems of these files, when one of them has no last good version.
    pub fn tenant(&mut self, name: &TenantName) -> Result<(Host, Option<Tenant>), Vec<Diagnostic>> {
        let mut diagnostics = Vec::new();
        let (host, declared) = self.in_force(name, &mut diagnostics);
        match &declared {
            Some(Some(tenant)) => drop(self.last.tenants.insert(name.clone(), tenant.clone())),
            Some(None) => drop(self.last.tenants.remove(name)),
            None => {}
        }
        match (host, declared) {
            (Some(host), Some(tenant)) => {
                self.last.host = Some(host.clone());
                Ok((host, tenant))
            }
            _ => Err(sorted(diagnostics)),
        }
    }

    /// Returns the versions in force of the host and of a tenant. `Some(None)` is a tenant without a file.
    fn in_force(&self, name: &TenantName, diagnostics: &mut Vec<Diagnostic>) -> (Option<Host>, Option<Option<Tenant>>) {
        let fallback = self.fallback();
        let Some(top) = take_or_report(Directory::open(&self.config), diagnostics) else {
            return (fallback.host(), fallback.tenant(name).map(Some));
        };
        let host = take_or_report(host_of(&top), diagnostics).or_else(|| fallback.host());
        let source = top.folder(TENANTS).and_then(|tenants| match tenants {
            Some(tenants) => tenants.file(&file_name(name)),
            None => Ok(None),
        });
        let source = match take_or_report(source, diagnostics) {
            Some(Some(source)) => source,
            Some(None) => return (host, Some(None)),
            None => return (host, fallback.tenant(name).map(Some)),
        };
        let folder = take_or_report(top.folder(PLANS), diagnostics);
        let mut plans = Plans::new(availability(&folder), &fallback, host.as_ref());
        let tenant = match tenants::read(&source, name, &mut plans) {
            Ok(Some(tenant)) => Some(tenant),
            Ok(None) => fallback.tenant(name),
            Err(Broken { diagnostics: problems, taken }) => {
                diagnostics.extend(problems);
                fallback.tenant_instead(name, taken)
            }
        };
        diagnostics.extend(plans.finish().diagnostics);
        (host, tenant.map(Some))
    }

    /// The tenants whose files are in the copy.
    #[must_use]
    pub fn saved_tenants(&self) -> Vec<TenantName> {
        let find = || {
            let folder = copy_below(&self.config)?.folder(TENANTS).ok()??;
            names(&folder, &mut Vec::new())
        };
        find().unwrap_or_default()
    }

    /// Saves `bailiwick.toml`, the file of one tenant and its plan into the copy, as far as they have no error. The copy of a
    /// tenant without a file is removed. From a file with an error only what it takes away is saved. Only root may call this.
    /// `group` may read the tenants' files in the copy.
    ///
    /// # Errors
    /// When the copy cannot be written.
    pub fn save(&self, name: Option<&TenantName>, group: u32) -> io::Result<()> {
        let Ok(top) = Directory::open(&self.config) else { return Ok(()) };
        let copy = top.ensure(COPY, 0o755, None)?;
        let host = host_of(&top).ok();
        if let Some(host) = &host {
            write(&copy, host::FILE, &host::write(host), 0o644, Outlives::PowerCut)?;
        }
        let Some(name) = name else { return Ok(()) };
        let (plans_copy, tenants_copy) = (copy.ensure(PLANS, 0o755, None)?, copy.ensure(TENANTS, 0o750, Some(group))?);
        let Ok(folder) = top.folder(TENANTS) else { return Ok(()) };
        let source = match folder.as_ref().map_or(Ok(None), |folder| folder.file(&file_name(name))) {
            Ok(Some(source)) => source,
            Ok(None) => return file::remove_file_at(tenants_copy.fd(), file_name(name)),
            Err(_) => return Ok(()),
        };
        let Ok(folder) = top.folder(PLANS) else { return Ok(()) };
        let folder = Some(folder);
        let nothing = Fallback::nothing();
        let host = host.or_else(|| self.fallback().host());
        let mut plans = Plans::new(availability(&folder), &nothing, host.as_ref());
        let tenant = match tenants::read(&source, name, &mut plans) {
            Ok(Some(tenant)) => tenant,
            Err(Broken { taken, .. }) if taken != Taken::default() => {
                match self.fallback().tenant_instead(name, taken) {
                    Some(last) => last,
                    None => return Ok(()),
                }
            }
            _ => return Ok(()),
        };
        if let Some(plan) = plans.finish().good.remove(&tenant.plan) {
            // Every setting is written out, so the copy needs no parent.
            let alone = Plan { parent: None, ..plan };
            write(&plans_copy, &file_name(&alone.name), &plans::write(&alone), 0o644, Outlives::PowerCut)?;
        }
        // The daemon saves it again after a power cut, when it reads the policy.
        write(&tenants_copy, &file_name(name), &tenants::write(&tenant), 0o644, Outlives::Process)
    }
}

/// Opens the copy below a configuration directory. The directory must be trusted too, because anybody who can write there could
/// put an older copy in its place.
fn copy_below(config: &Path) -> Option<Directory> {
    Directory::open(config).ok()?.folder(COPY).ok()?
}

/// Writes a file unless it has this content already.
fn write(dir: &Directory, name: &str, content: &str, mode: u32, outlives: Outlives) -> io::Result<()> {
    let present = file::open_file_at(dir.fd(), name).and_then(|fd| file::read_bounded(fd, MAX_FILE));
    if present.is_ok_and(|bytes| bytes == content.as_bytes()) {
        return Ok(());
    }
    file::replace_at(dir.fd(), name, content.as_bytes(), mode, outlives)
}

impl Directory {
    /// Opens a directory below this one, and makes it if it is missing.
    fn ensure(&self, name: &str, mode: u32, group: Option<u32>) -> io::Result<Self> {
        let fd: OwnedFd = file::ensure_dir_at(self.fd(), name, mode)?;
        let dir = File::from(fd);
        std::os::unix::fs::fchown(&dir, None, group)?;
        // The umask may have taken bits away.
        dir.set_permissions(Permissions::from_mode(mode))?;
        Self::trusted(self.path().join(name), dir.into())
            .map_err(|problems| io::Error::other(problems.first().map(ToString::to_string).unwrap_or_default()))
    }
}

/// A value that changes when any file of a configuration directory changes. It is computed from metadata, so no file is read.
#[must_use]
pub fn fingerprint(config: &Path) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    let folders = [config.to_owned(), config.join(PLANS), config.join(TENANTS)];
    for folder in &folders {
        let Ok(dir) = folder.canonicalize().and_then(|real| file::open_dir(&real)) else { continue };
        if let Ok(metadata) = file::metadata(&dir) {
            (metadata.mode, metadata.uid, metadata.modified).hash(&mut hasher);
        }
        let mut names = file::names(&dir).unwrap_or_default();
        names.sort();
        for name in names {
            let Ok(metadata) = file::metadata_at(&dir, &name) else { continue };
            // Directories are skipped. The ones that count are in the list above.
            if metadata.kind != file::FileType::Directory {
                let file::Metadata { mode, uid, size, inode, modified, .. } = metadata;
                (&name, mode, uid, size, inode, modified).hash(&mut hasher);
            }
        }
    }
    hasher.finish()
}
