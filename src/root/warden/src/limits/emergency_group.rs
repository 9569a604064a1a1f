//! The control group of an emergency session, beside the jail's.

use crate::limits::cgroups::{Groups, JAIL, join, remove_if_empty};
use crate::limits::tenant_groups::{GroupError, PIDS, bound_tasks, failed};
use bailiwick_plan::rescue;
use bailiwick_sys::cgroup;
use bailiwick_types::{TenantName, UNIFIED};
use std::io;
use std::os::fd::OwnedFd;

impl Groups {
    /// The hierarchy that counts tasks. The emergency group is there.
    fn of_tasks(&self) -> &'static str {
        if self.bases().contains_key(PIDS) { PIDS } else { UNIFIED }
    }

    fn below_tenant(&self, tenant: &TenantName, name: &str) -> Result<OwnedFd, GroupError> {
        let hierarchy = self.of_tasks();
        self.directory(hierarchy, &join(&self.paths(tenant)[hierarchy], name))
    }

    /// Makes the emergency group. In the unified hierarchy, the groups of jail and session count tasks from now on.
    /// The caller raises the limits of the tenant's group.
    pub(crate) fn make_rescue(&self, tenant: &TenantName) -> Result<(), GroupError> {
        let hierarchy = self.of_tasks();
        let path = &self.paths(tenant)[hierarchy];
        let made = self.make(hierarchy, &join(path, rescue::GROUP))?;
        if hierarchy == UNIFIED {
            self.enable(path, &[PIDS])?;
        }
        bound_tasks(&made, rescue::TASKS)
    }

    /// Bounds the tasks of the jail alone.
    pub(crate) fn bound_jail(&self, tenant: &TenantName, tasks: u64) -> Result<(), GroupError> {
        bound_tasks(&self.below_tenant(tenant, JAIL)?, tasks)
    }

    /// Moves init to the emergency group, where its children count against the reserve, or back. The caller holds
    /// `init`, so the number is certainly init's.
    pub(crate) fn move_init(&self, tenant: &TenantName, init: u32, to_rescue: bool) -> Result<(), GroupError> {
        let name = if to_rescue { rescue::GROUP } else { JAIL };
        let group = self.below_tenant(tenant, name)?;
        cgroup::write(&group, "cgroup.procs", &init.to_string()).map_err(failed("move init to", name))
    }

    /// The processes in the emergency group; `None` if the reserve is not given.
    pub(crate) fn in_rescue(&self, tenant: &TenantName) -> Result<Option<Vec<u32>>, GroupError> {
        match self.below_tenant(tenant, rescue::GROUP) {
            Ok(group) => cgroup::members(group).map(Some).map_err(failed("read", rescue::GROUP)),
            Err(GroupError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes an empty emergency group. `false` while the kernel still has its last process. The tenant's group
    /// alone counts tasks again, unless a service has a group of its own.
    pub(crate) fn remove_rescue(&self, tenant: &TenantName) -> Result<bool, GroupError> {
        let hierarchy = self.of_tasks();
        let path = &self.paths(tenant)[hierarchy];
        let group = self.directory(hierarchy, path)?;
        if !remove_if_empty(&group, rescue::GROUP, path)? {
            return Ok(false);
        }
        match cgroup::write(self.below_tenant(tenant, JAIL)?, "pids.max", "max") {
            // No limit of tasks was declared, so nothing counts them.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(failed("write to", path))?,
        }
        if hierarchy == UNIFIED && self.service_names(tenant).is_empty() {
            // If this is refused, the kernel keeps counting below, where nothing has a bound any more.
            cgroup::write(&group, "cgroup.subtree_control", &format!("-{PIDS}")).ok();
        }
        Ok(true)
    }
}
