//! Gives the file systems in memory of a running jail another size.
//!
//! Danger: what is mounted in a jail of profile `system` is the tenant's choice, and may be of the host. A child does it that has
//! entered the jail's user namespace, so the kernel itself refuses to touch a file system that is not the jail's own. It may be
//! made to wait there, by a file system that the tenant serves itself: nobody waits for it.

use crate::helper::Helper;
use bailiwick_sys::{mount, namespace};
use bailiwick_types::ByteSize;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// Begins to give each target its size. `init` is held by the caller, so its number is its own.
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
