//! Jails: how one is made, what is recorded of it, how it is resized, how it ends; and which there are.

pub(crate) mod child_mounts;
pub(crate) mod child_setup;
pub(crate) mod record;
pub(crate) mod registry;
pub(crate) mod resize;
pub(crate) mod start;
pub(crate) mod step;
pub(crate) mod stop;
