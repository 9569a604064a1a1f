//! The control groups of services that have limits of their own, beside the jail's. The tenant's limits hold above them.
//!
//! A process enters by itself: init hands the file of the group to its child, which writes `0`. Nobody else can move a process
//! of version 1 without a global lock.

use crate::limits::cgroups::{Groups, directories, entrance, join, remove_if_empty};
use crate::limits::tenant_groups::{GroupError, LimitedGroups, failed};
use bailiwick_plan::control::{Control, SERVICE_GROUP};
use bailiwick_sys::{cgroup, file};
use bailiwick_types::{Hierarchy, ServiceName, TenantName, UNIFIED};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

/// The file of version 1 that limits processor time.
const QUOTA_V1: &str = "cpu.cfs_quota_us";

impl Groups {
    /// Makes the groups of a service, unless they are there, and writes its limits. Returns the files by which a
    /// process moves itself there. A service without limits has no group.
    pub(crate) fn service(
        &self,
        tenant: &TenantName,
        service: &ServiceName,
        controls: &[Control],
    ) -> Result<Vec<OwnedFd>, GroupError> {
        if controls.is_empty() {
            return Ok(Vec::new());
        }
        let (mut unified, mut v1) = (Vec::new(), BTreeSet::new());
        for control in controls {
            let controller = control.key.controller().unwrap_or_default();
            match control.place.as_ref().map(|place| place.hierarchy) {
                Some(Hierarchy::Unified) => unified.push(controller),
                Some(Hierarchy::V1) => drop(v1.insert(controller)),
                None => {
                    let (word, declared) = (control.key.word(), control.key.in_words(control.declared));
                    return Err(GroupError::Nominal { word, declared });
                }
            }
        }
        let paths = self.paths(tenant);
        // The tenant's group itself has no process, so it may have controlled children.
        self.enable(&paths[UNIFIED], &unified)?;
        let name = format!("{SERVICE_GROUP}{service}");
        let make = |hierarchy: &str| self.make(hierarchy, &join(&paths[hierarchy], &name));
        let open = |dir: &OwnedFd, file| entrance(dir, file).map_err(failed("open a file of the control group", &name));
        let mut groups = LimitedGroups { unified: make(UNIFIED)?, v1: BTreeMap::new() };
        for controller in v1 {
            groups.v1.insert(controller.to_owned(), make(controller)?);
        }
        groups.limit(controls)?;
        let mut files = vec![open(&groups.unified, "cgroup.procs")?];
        for dir in groups.v1.values() {
            files.push(open(dir, "tasks")?);
        }
        Ok(files)
    }

    /// The services that have groups, whether the policy has them or not.
    pub(crate) fn service_names(&self, tenant: &TenantName) -> BTreeSet<String> {
        let names = |(hierarchy, path): (String, String)| {
            self.directory(&hierarchy, &path).ok().and_then(|dir| directories(&dir).ok()).unwrap_or_default()
        };
        let all = self.paths(tenant).into_iter().flat_map(names);
        all.filter_map(|name| name.strip_prefix(SERVICE_GROUP).map(str::to_owned)).collect()
    }

    /// Removes the groups of other services. Those that still have processes stay: a later request removes them.
    pub(crate) fn remove_services_except(&self, tenant: &TenantName, stays: impl Fn(&str) -> bool) {
        for service in self.service_names(tenant).into_iter().filter(|name| !stays(name)) {
            let name = format!("{SERVICE_GROUP}{service}");
            for (hierarchy, path) in self.paths(tenant) {
                if let Ok(dir) = self.directory(&hierarchy, &path) {
                    drop(remove_if_empty(&dir, &name, &path));
                }
            }
        }
    }

    /// Takes the limits of processor time off the groups of version 1 of services. Version 1 refuses to lower the
    /// tenant's limit below one of them. The caller writes them again.
    pub(crate) fn free_service_cpu(&self, tenant: &TenantName) -> Result<(), GroupError> {
        let Some(path) = self.paths(tenant).remove("cpu") else { return Ok(()) };
        for service in self.service_names(tenant) {
            let below = join(&path, &format!("{SERVICE_GROUP}{service}"));
            if let Ok(dir) = self.directory("cpu", &below)
                && file::metadata_at(&dir, QUOTA_V1).is_ok()
            {
                cgroup::write(&dir, QUOTA_V1, "-1").map_err(failed("take the limit off", &below))?;
            }
        }
        Ok(())
    }
}
