//! Gives the file systems in memory of a running jail another size.
//!
//! Danger: what is mounted in a jail of profile `system` is the tenant's choice, and may be of the host. A child does it that has
//! entered the jail's user namespace, so the kernel itself refuses to touch a file system that is not the jail's own. It may be
//! made to wait there, by a file system that the tenant serves itself: nobody waits for it.

use bailiwick_sys::process::Cloned;
use bailiwick_sys::{mount, namespace, process};
use bailiwick_types::ByteSize;
use rustix::process::Signal;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// The child that does it. Killed when the value is dropped.
#[derive(Debug)]
pub(crate) struct Resizing {
    report: OwnedFd,
    child: OwnedFd,
}

/// Begins to give each target its size. `init` is held by the caller, so its number is its own.
pub(crate) fn begin(init: u32, sizes: [(&'static str, ByteSize); 2]) -> io::Result<Resizing> {
    let (users, mounts) = (namespace::open(init, "user")?, namespace::open(init, "mnt")?);
    let (report, child_report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match process::clone_into(0, None, &[users.as_fd(), mounts.as_fd(), child_report.as_fd()])? {
        Cloned::Child => {
            let resize = || -> io::Result<()> {
                namespace::enter(&users, namespace::Kind::User)?;
                namespace::enter(&mounts, namespace::Kind::Mount)?;
                let root = bailiwick_sys::file::open_dir(Path::new("/"))?;
                for (target, size) in sizes {
                    mount::resize(&root, target, size.0)?;
                }
                Ok(())
            };
            let errno =
                resize().err().map_or(0, |error| error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error()));
            // If the warden is gone, nobody waits for it.
            rustix::io::write(&child_report, &errno.to_ne_bytes()).ok();
            process::exit_now(0)
        }
        Cloned::Parent { pidfd, .. } => Ok(Resizing { report, child: pidfd }),
    }
}

impl Resizing {
    /// What becomes readable when it is done.
    pub(crate) fn report(&self) -> &OwnedFd {
        &self.report
    }

    /// What came of it; `None` before.
    pub(crate) fn end(&self) -> Option<io::Result<()>> {
        match process::readable(&self.report, Duration::ZERO) {
            Ok(false) => return None,
            Ok(true) => {}
            Err(error) => return Some(Err(error)),
        }
        let mut number = [0; size_of::<i32>()];
        let end = match rustix::io::read(&self.report, &mut number) {
            Ok(len) if len == number.len() => match i32::from_ne_bytes(number) {
                0 => Ok(()),
                errno => Err(io::Error::from_raw_os_error(errno)),
            },
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(error.into()),
        };
        Some(end)
    }
}

impl Drop for Resizing {
    fn drop(&mut self) {
        process::signal(&self.child, Signal::KILL).ok();
        // It has said its word and ends, or was killed: in either case at once, or it is left to whoever comes after.
        process::has_ended(&self.child, Duration::from_millis(50)).ok();
        process::reap(&self.child).ok();
    }
}
