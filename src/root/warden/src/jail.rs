//! One jail: how it is made, what is recorded of it, how it is resized.

pub(crate) mod child_setup;
pub(crate) mod record;
pub(crate) mod resize;
pub(crate) mod start;
pub(crate) mod step;
