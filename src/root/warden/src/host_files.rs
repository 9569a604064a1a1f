//! The files of the host that jails see, and how jails notice changes.

pub(crate) mod etc_view;
pub(crate) mod md5;
pub(crate) mod renew;
