//! The storage of tenants, from its first day to its purge.

pub(crate) mod grave;
pub(crate) mod layout;
pub(crate) mod preparing;
pub(crate) mod purge;
pub(crate) mod removals;
pub(crate) mod seed;
