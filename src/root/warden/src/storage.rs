//! Tenants' storage, from the first day to the purge.

pub(crate) mod grave;
pub(crate) mod layout;
pub(crate) mod purge;
