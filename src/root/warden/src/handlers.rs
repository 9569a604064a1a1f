//! One function for each request that changes something. Work that takes time begins here and continues in
//! `progress`.

pub(crate) mod doors;
pub(crate) mod lifecycle;
pub(crate) mod limits;
