//! The limits of tenants, and the kernel's reports about them.

pub(crate) mod cgroups;
pub(crate) mod disk;
pub(crate) mod disk_note;
pub(crate) mod emergency_group;
pub(crate) mod emergency_session;
pub(crate) mod host_reserve;
pub(crate) mod lending_groups;
pub(crate) mod quota;
pub(crate) mod service_groups;
pub(crate) mod tenant_groups;
pub(crate) mod watch;
