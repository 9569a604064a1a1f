//! Jails: making one, recording it, resizing it, ending it, and the list of all.

pub(crate) mod child_mounts;
pub(crate) mod child_network;
pub(crate) mod child_setup;
pub(crate) mod init_set;
pub(crate) mod record;
pub(crate) mod registry;
pub(crate) mod resize;
pub(crate) mod start;
pub(crate) mod step;
pub(crate) mod stop;
