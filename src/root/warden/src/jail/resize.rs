//! Resizes the tmpfs mounts of a running jail.
//!
//! Danger: a tenant of profile `system` mounts what it likes, even something of the host's. Therefore a child does
//! this from inside the jail's user namespace, where the kernel refuses changes to file systems of others. The child
//! may block, on a file system that the tenant serves itself: nobody waits for it.

use crate::helper::Helper;
use bailiwick_sys::{mount, namespace};
use bailiwick_types::ByteSize;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// Begins to resize each target. The caller holds `init`, so the number is certainly init's.
pub(crate) fn begin(init: u32, sizes: [(&'static str, ByteSize); 2]) -> io::Result<Helper> {
    let (users, mounts) = (namespace::open(init, "user")?, namespace::open(init, "mnt")?);
    Helper::begin(&[users.as_fd(), mounts.as_fd()], || {
        namespace::enter(&users, namespace::Kind::User)?;
        namespace::enter(&mounts, namespace::Kind::Mount)?;
        let root = bailiwick_sys::file::open_dir(Path::new("/"))?;
        for (target, size) in sizes {
            mount::resize(&root, target, size.0)?;
        }
        Ok(())
    })
}
