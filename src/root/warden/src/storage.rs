//! Tenants' storage, from the first day to the purge.

pub(crate) mod grave;
pub(crate) mod layout;
pub(crate) mod preparing;
pub(crate) mod purge;
pub(crate) mod removals;
pub(crate) mod seed;
