//! What jails see of the host's files, and how they see that it has changed.

pub(crate) mod etc_view;
pub(crate) mod md5;
pub(crate) mod renew;
