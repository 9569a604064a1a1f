//! The control groups of tenants: one in the unified hierarchy, which holds, freezes and kills, and one in each
//! hierarchy of version 1 with a controller that limits need.
//!
//! Danger: after one write to `cgroup.kill`, every process that is later cloned into the group dies at once (seen on
//! 6.12 and 6.18). So each jail gets a fresh group. A process moves between groups of version 1 without a global lock
//! only if it moves itself, by writing `0` to `tasks`.

use crate::limits::tenant_groups::{GroupError, LimitedGroups, PIDS, TenantGroups, failed, has_line, open_events};
use crate::limits::watch;
use bailiwick_plan::rescue;
use bailiwick_policy::Reserve;
use bailiwick_sys::cgroup::{self, Hierarchies};
use bailiwick_sys::{file, proc};
use bailiwick_types::{Hierarchy, HostFacts, LimitKey, Resource, TenantName, UNIFIED};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The controllers that limits need, and whether their files of version 1 enforce what they contain.
/// [`bailiwick_plan::control`] explains the one that does not.
const CONTROLLERS: [(&str, bool); 4] = [("cpu", true), ("memory", true), ("pids", true), ("io", false)];

/// The group of the jail's processes, below the tenant's. The limits are on the tenant's.
pub(super) const JAIL: &str = "jail";
/// The group of FTP sessions, beside the jail's.
const FTP: &str = "ftp";
/// The group of all tenants below a group that was handed over. Nobody else is there, so it needs no name of its own.
const TENANTS: &str = "tenants";
/// The warden's own leaf: a group with controlled children may hold no process.
const WARDEN: &str = "warden";
/// The leaf of a process that holds a group that was handed over.
const HOLDER: &str = "holder";

/// Where the groups of tenants are.
#[derive(Debug)]
pub(crate) struct Groups {
    hierarchies: Hierarchies,
    /// Path of the group above all tenants, by hierarchy.
    bases: BTreeMap<String, String>,
    /// The warden's own group, by hierarchy of version 1.
    own: BTreeMap<String, OwnedFd>,
}

pub(super) fn join(parent: &str, name: &str) -> String {
    format!("{}/{name}", parent.trim_end_matches('/'))
}

impl Groups {
    /// Finds the hierarchies and the place for tenants' groups: below the warden's own group, or in the unified
    /// hierarchy below `handed`. `known` has the places of an earlier warden. They are kept while they exist, because
    /// jails outlive the warden.
    pub(crate) fn open(
        facts: &HostFacts,
        handed: Option<&str>,
        instance: &str,
        known: &BTreeMap<String, String>,
    ) -> Result<Self, GroupError> {
        let hierarchies = cgroup::hierarchies().map_err(failed("read", "/proc/self/mountinfo"))?;
        if hierarchies.unified.is_none() {
            return Err(GroupError::NoUnified);
        }
        let mine = proc::cgroups(std::process::id()).map_err(failed("read", "/proc/self/cgroup"))?;
        let mut used: BTreeSet<&str> = BTreeSet::from([UNIFIED]);
        let mut delegated = Vec::new();
        for (controller, of_version_1) in CONTROLLERS {
            match facts.controller(controller) {
                Some(Hierarchy::V1) if of_version_1 => drop(used.insert(controller)),
                Some(Hierarchy::Unified) => delegated.push(controller),
                _ => {}
            }
        }
        let mut groups = Self { hierarchies, bases: BTreeMap::new(), own: BTreeMap::new() };
        let name = format!("bailiwick-{instance}");
        for hierarchy in used {
            let own = mine.get(hierarchy).map_or("/", String::as_str);
            let base = match known.get(hierarchy) {
                Some(known) if groups.directory(hierarchy, known).is_ok() => known.clone(),
                _ if hierarchy == UNIFIED => match handed {
                    Some(handed) => groups.below(handed, &delegated)?,
                    None => join(&groups.parent_with(own, &delegated)?, &name),
                },
                _ => join(own, &name),
            };
            groups.make(hierarchy, &base)?;
            if hierarchy == UNIFIED {
                groups.enable(&base, &delegated)?;
            } else {
                groups.own.insert(hierarchy.to_owned(), groups.directory(hierarchy, own)?);
            }
            groups.bases.insert(hierarchy.to_owned(), base);
        }
        Ok(groups)
    }

    /// The groups above all tenants, by hierarchy, for the next warden.
    pub(crate) fn bases(&self) -> &BTreeMap<String, String> {
        &self.bases
    }

    /// Path of the group of a jail's processes.
    fn jail_path(&self, tenant: &TenantName) -> String {
        join(&join(&self.bases[UNIFIED], tenant.as_str()), JAIL)
    }

    /// Paths of the groups that a jail's init may be in.
    pub(crate) fn homes_of_init(&self, tenant: &TenantName) -> [String; 2] {
        let tenant = join(&self.bases[UNIFIED], tenant.as_str());
        [JAIL, rescue::GROUP].map(|name| join(&tenant, name))
    }

    /// Paths of a tenant's groups, by hierarchy.
    pub(crate) fn paths(&self, tenant: &TenantName) -> BTreeMap<String, String> {
        self.bases.iter().map(|(hierarchy, base)| (hierarchy.clone(), join(base, tenant.as_str()))).collect()
    }

    /// A group of the unified hierarchy that can enable controllers for its children: the warden's own, after the
    /// warden has moved to a leaf. If others are in it too, the hierarchy's root.
    fn parent_with(&self, own: &str, controllers: &[&str]) -> Result<String, GroupError> {
        if controllers.is_empty() || self.enable(own, controllers).is_ok() {
            return Ok(own.to_owned());
        }
        if self.members(own)? == [std::process::id()] {
            self.clear_out(own, WARDEN)?;
            self.enable(own, controllers)?;
            return Ok(own.to_owned());
        }
        self.enable("/", controllers)?;
        Ok("/".to_owned())
    }

    /// The place for tenants' groups below a group that was handed over. A process that holds that group moves to a
    /// leaf.
    fn below(&self, handed: &str, controllers: &[&str]) -> Result<String, GroupError> {
        if self.enable(handed, controllers).is_err() {
            self.clear_out(handed, HOLDER)?;
            self.enable(handed, controllers)?;
        }
        Ok(join(handed, TENANTS))
    }

    fn members(&self, group: &str) -> Result<Vec<u32>, GroupError> {
        cgroup::members(self.directory(UNIFIED, group)?).map_err(failed("read", group))
    }

    /// Moves the processes of a group to a leaf: the kernel enables controllers only in a group without processes.
    fn clear_out(&self, group: &str, leaf: &str) -> Result<(), GroupError> {
        let leaf = join(group, leaf);
        let dir = self.make(UNIFIED, &leaf)?;
        for member in self.members(group)? {
            cgroup::write(&dir, "cgroup.procs", &member.to_string()).map_err(failed("move a process to", &leaf))?;
        }
        Ok(())
    }

    pub(super) fn enable(&self, group: &str, controllers: &[&str]) -> Result<(), GroupError> {
        if controllers.is_empty() {
            return Ok(());
        }
        let text: Vec<String> = controllers.iter().map(|controller| format!("+{controller}")).collect();
        let dir = self.directory(UNIFIED, group)?;
        cgroup::write(&dir, "cgroup.subtree_control", &text.join(" ")).map_err(failed("hand controllers on in", group))
    }

    fn mount(&self, hierarchy: &str) -> &Path {
        self.hierarchies.mount_of(hierarchy).expect("only hierarchies that were found are used")
    }

    pub(super) fn directory(&self, hierarchy: &str, path: &str) -> Result<OwnedFd, GroupError> {
        cgroup::open(self.mount(hierarchy), path).map_err(failed("open the control group", path))
    }

    pub(super) fn make(&self, hierarchy: &str, path: &str) -> Result<OwnedFd, GroupError> {
        let (parent, name) = path.rsplit_once('/').expect("a group's path starts with a slash");
        let parent = self.directory(hierarchy, if parent.is_empty() { "/" } else { parent })?;
        // `bailiwickd` reads what is counted, and has no rights. Groups that an earlier warden made may be closed to it.
        let made =
            file::ensure_dir_at(&parent, name, 0o755).and_then(|made| file::set_mode(&made, 0o755).map(|()| made));
        made.map_err(failed("make the control group", path))
    }

    /// Makes the groups of a tenant. The groups of an earlier jail are already gone.
    pub(crate) fn create(&self, tenant: &TenantName) -> Result<TenantGroups, GroupError> {
        if !self.clear(tenant, &mut None)? {
            return Err(GroupError::Busy(self.jail_path(tenant)));
        }
        let mut v1 = BTreeMap::new();
        for (hierarchy, path) in self.paths(tenant) {
            let dir = self.make(&hierarchy, &path)?;
            v1.insert(hierarchy, dir);
        }
        let unified = v1.remove(UNIFIED).expect("the unified hierarchy is always used");
        let jail = self.make(UNIFIED, &self.jail_path(tenant))?;
        let tasks_v1 = v1.get(PIDS).map(|tenant| file::ensure_dir_at(tenant, JAIL, 0o755)).transpose();
        let tasks_v1 = tasks_v1.map_err(failed("make the control group", JAIL))?;
        Ok(TenantGroups { all: LimitedGroups { unified, v1 }, jail, tasks_v1 })
    }

    /// Opens the groups of a running jail.
    pub(crate) fn of(&self, tenant: &TenantName) -> Result<TenantGroups, GroupError> {
        let mut v1 = BTreeMap::new();
        for (hierarchy, path) in self.paths(tenant) {
            v1.insert(hierarchy.clone(), self.directory(&hierarchy, &path)?);
        }
        let unified = v1.remove(UNIFIED).expect("the unified hierarchy is always used");
        let jail = file::open_dir_at(&unified, JAIL).map_err(failed("open the control group", JAIL))?;
        // Jails of earlier versions have none.
        let tasks_v1 = v1.get(PIDS).and_then(|tenant| file::open_dir_at(tenant, JAIL).ok());
        Ok(TenantGroups { all: LimitedGroups { unified, v1 }, jail, tasks_v1 })
    }

    /// The group of a tenant's FTP sessions; `None` if there was none yet.
    pub(crate) fn ftp_group(&self, tenant: &TenantName) -> Option<OwnedFd> {
        self.directory(UNIFIED, &join(&self.paths(tenant)[UNIFIED], FTP)).ok()
    }

    /// For each hierarchy, the file by which a process moves itself into the tenant's group for an FTP session.
    pub(crate) fn ftp(&self, tenant: &TenantName) -> Result<Vec<OwnedFd>, GroupError> {
        let mut files = Vec::new();
        for (hierarchy, path) in self.paths(tenant) {
            let (path, name) = if hierarchy == UNIFIED { (join(&path, FTP), "cgroup.procs") } else { (path, "tasks") };
            let dir = self.make(&hierarchy, &path)?;
            files.push(entrance(&dir, name).map_err(failed("open a file of the control group", &path))?);
        }
        Ok(files)
    }

    /// Kills everything in a tenant's groups and removes those that are empty, without waiting. `false` while
    /// something is left; it is no error if nothing is there. `events` keeps the file that reports the end of the
    /// last process, for the caller to wait for.
    pub(crate) fn clear(&self, tenant: &TenantName, events: &mut Option<OwnedFd>) -> Result<bool, GroupError> {
        for (hierarchy, path) in self.paths(tenant).into_iter().rev() {
            let dir = match self.directory(&hierarchy, &path) {
                Ok(dir) => dir,
                Err(GroupError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if hierarchy == UNIFIED {
                cgroup::write(&dir, "cgroup.kill", "1").map_err(failed("kill", &path))?;
                let events = match events {
                    Some(events) => events,
                    None => events.insert(open_events(&dir).map_err(failed("watch", &path))?),
                };
                if !has_line(events, "populated 0").map_err(failed("watch", &path))? {
                    return Ok(false);
                }
            }
            let base = &self.bases[&hierarchy];
            let base_dir = self.directory(&hierarchy, base)?;
            if !remove_group(&dir, &path)? || !remove_if_empty(&base_dir, tenant.as_str(), &path)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Names of the groups of tenants in the unified hierarchy: some warden made a jail there.
    pub(crate) fn found(&self) -> Result<Vec<String>, GroupError> {
        let base = &self.bases[UNIFIED];
        let dir = self.directory(UNIFIED, base)?;
        directories(&dir).map_err(failed("list", base))
    }

    /// Removes the groups above all tenants if they are empty: an idle warden leaves nothing behind.
    pub(crate) fn remove_empty_bases(&self) {
        for (hierarchy, base) in &self.bases {
            let (parent, name) = base.rsplit_once('/').expect("a group's path starts with a slash");
            if let Ok(parent) = self.directory(hierarchy, if parent.is_empty() { "/" } else { parent }) {
                // The kernel refuses while a tenant has a group, as it should.
                drop(file::remove_dir_at(&parent, name));
            }
        }
    }

    /// Makes the groups above all tenants again, after [`Self::remove_empty_bases`]. `true` if one was missing.
    pub(crate) fn ensure_bases(&self, facts: &HostFacts, reserve: &Reserve) -> Result<bool, GroupError> {
        let mut made = false;
        for (hierarchy, base) in &self.bases {
            made |= self.directory(hierarchy, base).is_err();
            self.make(hierarchy, base)?;
        }
        if !made {
            return Ok(false);
        }
        let unified: Vec<&str> = CONTROLLERS
            .into_iter()
            .map(|(controller, _)| controller)
            .filter(|controller| facts.controller(controller) == Some(Hierarchy::Unified))
            .collect();
        self.enable(&self.bases[UNIFIED], &unified)?;
        self.reserve(facts, reserve)?;
        Ok(true)
    }

    /// Descriptors that report pressure among all tenants, by resource. There are none if the kernel does not measure
    /// it (PSI may be off).
    pub(crate) fn pressure_triggers(&self) -> Vec<(Resource, OwnedFd)> {
        let Ok(dir) = self.directory(UNIFIED, &self.bases[UNIFIED]) else { return Vec::new() };
        let trigger = |(resource, file, stall)| {
            Some((resource, cgroup::pressure_trigger(&dir, file, stall, watch::WINDOW).ok()?))
        };
        watch::TRIGGERS.into_iter().filter_map(trigger).collect()
    }

    /// Bounds all tenants together, so that the host keeps its reserve. Does nothing while no tenant has a group.
    pub(crate) fn reserve(&self, facts: &HostFacts, reserve: &Reserve) -> Result<(), GroupError> {
        let memory = proc::memory_bytes().map_err(failed("read", "/proc/meminfo"))?;
        let tasks = proc::max_tasks().map_err(failed("read", "/proc/sys/kernel"))?;
        let whole_pages = |bytes: u64| bytes / 4096 * 4096;
        for (key, all, kept) in [(LimitKey::Memory, memory, reserve.memory.0), (LimitKey::Tasks, tasks, reserve.tasks)]
        {
            let controller = key.controller().unwrap_or_default();
            let Some(version) = facts.controller(controller) else { continue };
            let Some(file) = key.file(version) else { continue };
            let hierarchy = if version == Hierarchy::Unified { UNIFIED } else { controller };
            let rest = all.saturating_sub(kept);
            if rest == 0 {
                return Err(GroupError::Reserve { word: key.word(), all, kept });
            }
            let rest = if key == LimitKey::Memory { whole_pages(rest) } else { rest };
            let base = &self.bases[hierarchy];
            let dir = match cgroup::open(self.mount(hierarchy), base) {
                // No tenant has a group. Whoever makes the first one calls this again before anything is in it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                dir => dir.map_err(failed("open the control group", base))?,
            };
            cgroup::write(&dir, file, &rest.to_string()).map_err(failed("bound all tenants in", base))?;
            let got = cgroup::read(&dir, file).map_err(failed("read", file))?;
            if got.trim() != rest.to_string() {
                let declared = kept.to_string();
                return Err(GroupError::NotHeld { word: "reserve", declared, file, got: got.trim().to_owned() });
            }
        }
        Ok(())
    }

    /// Moves the warden into a tenant's groups of version 1, so that its child is born there. Dropping the value
    /// moves the warden back.
    pub(crate) fn visit<'a>(&'a self, groups: &TenantGroups) -> Result<Visit<'a>, GroupError> {
        let visit = Visit { own: &self.own };
        for (controller, dir) in &groups.all.v1 {
            let dir = groups.tasks_v1.as_ref().filter(|_| controller == PIDS).unwrap_or(dir);
            cgroup::write(dir, "tasks", "0").map_err(failed("enter the control group", controller))?;
        }
        Ok(visit)
    }
}

/// While it lives, the warden is in a tenant's groups of version 1.
pub(crate) struct Visit<'a> {
    own: &'a BTreeMap<String, OwnedFd>,
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        for (controller, dir) in self.own {
            if let Err(error) = cgroup::write(dir, "tasks", "0") {
                // In the tenant's group the warden would be charged to the tenant, and killed with it. It is better
                // to end now and to be restarted in the right group.
                panic!("cannot return to the warden's own {controller} group: {error}");
            }
        }
    }
}

/// The file of a group to which a process writes `0` to move itself there. It can only be written to.
pub(super) fn entrance(dir: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    file::open_at(dir, name, rustix::fs::OFlags::WRONLY, rustix::fs::Mode::empty())
}

pub(super) fn directories(dir: &OwnedFd) -> io::Result<Vec<String>> {
    let names = file::directories(file::open_dir_at(dir, ".")?)?;
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

/// Removes the groups below a group, deepest first: a tenant that may nest groups could have made some. `false` while
/// one is not empty.
fn remove_group(dir: &OwnedFd, path: &str) -> Result<bool, GroupError> {
    for name in directories(dir).map_err(failed("list", path))? {
        let inner_path = join(path, &name);
        let inner = file::open_dir_at(dir, &name).map_err(failed("open the control group", &inner_path))?;
        if !remove_group(&inner, &inner_path)? || !remove_if_empty(dir, &name, &inner_path)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes a group. `false` while it is not empty: the kernel frees a group a moment after its last process, and
/// reports no event for that.
pub(super) fn remove_if_empty(parent: &OwnedFd, name: &str, path: &str) -> Result<bool, GroupError> {
    match file::remove_dir_at(parent, name) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
        result => result.map(|()| true).map_err(failed("remove the control group", path)),
    }
}
