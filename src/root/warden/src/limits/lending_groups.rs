//! The control groups of the programs that serve lent sockets of the host, beside the jail's. The tenant's limits hold above
//! them. A group is there as long as the socket is lent, so the next warden knows what is.

use crate::limits::cgroups::{Groups, directories, entrance, join, remove_if_empty};
use crate::limits::tenant_groups::{GroupError, failed};
use bailiwick_plan::lending::GROUP;
use bailiwick_sys::cgroup;
use bailiwick_types::{HostSocketName, TenantName, UNIFIED};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

impl Groups {
    /// Makes the group of a lent socket in the unified hierarchy, to clone a process into. Beside it are the files by which that
    /// process moves itself into the tenant's groups of version 1.
    pub(crate) fn lending(
        &self,
        tenant: &TenantName,
        socket: &HostSocketName,
    ) -> Result<(OwnedFd, Vec<OwnedFd>), GroupError> {
        let mut paths = self.paths(tenant);
        let unified = paths.remove(UNIFIED).expect("the unified hierarchy is always used");
        let group = self.make(UNIFIED, &join(&unified, &group_name(socket)))?;
        let mut entrances = Vec::new();
        for (hierarchy, path) in paths {
            let dir = self.directory(&hierarchy, &path)?;
            entrances.push(entrance(&dir, "tasks").map_err(failed("open a file of the control group", &path))?);
        }
        Ok((group, entrances))
    }

    /// The sockets that have a group.
    pub(crate) fn lending_names(&self, tenant: &TenantName) -> BTreeSet<HostSocketName> {
        let dir = self.directory(UNIFIED, &self.paths(tenant)[UNIFIED]).ok();
        let names = dir.and_then(|dir| directories(&dir).ok()).unwrap_or_default();
        names.iter().filter_map(|name| name.strip_prefix(GROUP)?.parse().ok()).collect()
    }

    /// The processes in the group of a lent socket.
    pub(crate) fn lending_members(&self, tenant: &TenantName, socket: &HostSocketName) -> Vec<u32> {
        let path = join(&self.paths(tenant)[UNIFIED], &group_name(socket));
        self.directory(UNIFIED, &path).ok().and_then(|dir| cgroup::members(dir).ok()).unwrap_or_default()
    }

    /// Removes the group of a socket that is not lent any more. `false` while a process is there.
    pub(crate) fn remove_lending(&self, tenant: &TenantName, socket: &HostSocketName) -> bool {
        let path = &self.paths(tenant)[UNIFIED];
        let Ok(dir) = self.directory(UNIFIED, path) else { return true };
        remove_if_empty(&dir, &group_name(socket), path).unwrap_or(false)
    }
}

fn group_name(socket: &HostSocketName) -> String {
    format!("{GROUP}{socket}")
}
