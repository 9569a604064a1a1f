//! What the warden does for each request that changes something. What takes time is begun here, and goes on in `progress`.

pub(crate) mod doors;
pub(crate) mod lifecycle;
pub(crate) mod limits;
