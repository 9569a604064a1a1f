//! A child that does one thing which may block in the kernel, so that the warden does not block.

use bailiwick_sys::process::{self, Cloned};
use rustix::process::Signal;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// How long to wait for the end of a child that was killed.
const END_TIME: Duration = Duration::from_millis(50);

/// The child. Dropping the value kills it.
#[derive(Debug)]
pub(crate) struct Helper {
    report: OwnedFd,
    child: OwnedFd,
}

impl Helper {
    /// Runs `work` in a child that has only the descriptors in `keep`. The child ends with this process: its work on
    /// a tenant's files is safe only while the warden keeps the tenant's jail down.
    pub(crate) fn begin(keep: &[BorrowedFd<'_>], work: impl FnOnce() -> io::Result<()>) -> io::Result<Self> {
        let (report, child_report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let keep: Vec<_> = keep.iter().copied().chain([child_report.as_fd()]).collect();
        let warden = rustix::process::getpid();
        match process::clone_into(0, None, &keep)? {
            Cloned::Child => {
                let errno = process::end_with(warden, Signal::KILL)
                    .and_then(|()| work())
                    .err()
                    .map_or(0, |error| error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error()));
                // If the warden is gone, nobody reads this.
                rustix::io::write(&child_report, &errno.to_ne_bytes()).ok();
                process::exit_now(0)
            }
            Cloned::Parent { pidfd, .. } => Ok(Self { report, child: pidfd }),
        }
    }

    /// Becomes readable when the work is done, or when the child ended before.
    pub(crate) fn report(&self) -> &OwnedFd {
        &self.report
    }

    /// The result; `None` while the work goes on.
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

    /// Kills the child. The kernel may delay its end; [`Self::report`] reports that too.
    pub(crate) fn kill(&self) {
        process::signal(&self.child, Signal::KILL).ok();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.kill();
        // The child has reported or was killed, so it ends at once. Otherwise its end is left to PID 1.
        process::has_ended(&self.child, END_TIME).ok();
        process::reap(&self.child).ok();
    }
}
