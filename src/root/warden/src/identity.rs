//! The ids of each tenant, and its user on the host.

pub(crate) mod host_user;
pub(crate) mod ledger;
