//! Which tenant has which ids, and its user on the host.

pub(crate) mod host_user;
pub(crate) mod ledger;
