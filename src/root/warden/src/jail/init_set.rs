//! Tells which inits have ended, by one epoll set for all of them: a wait costs the same with one jail and with a thousand.
//!
//! Danger: systemd keeps a copy of each pidfd for the next warden. So the kernel keeps reporting a pidfd that was only closed,
//! and [`InitSet::remove`] must come first.

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The most inits that are reported at a time. Those beyond are reported next time.
const MOST_AT_ONCE: usize = 64;

/// The inits that are watched.
#[derive(Debug)]
pub(crate) struct InitSet(OwnedFd);

impl InitSet {
    /// # Errors
    /// The process has no descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Watches an init; `false` when the kernel has no room for one more (epoll(7), `max_user_watches`).
    pub(crate) fn add(&self, pidfd: &OwnedFd, pid: u32) -> bool {
        epoll::add(&self.0, pidfd, EventData::new_u64(pid.into()), EventFlags::IN).is_ok()
    }

    pub(crate) fn remove(&self, pidfd: &OwnedFd) {
        // It fails only for a pidfd that is not in the set, and that is what is wanted.
        epoll::delete(&self.0, pidfd).ok();
    }

    /// The numbers of inits that have ended. Each is reported until it is removed.
    ///
    /// # Errors
    /// The kernel refuses to wait, which it has no reason for.
    pub(crate) fn ended(&self) -> io::Result<Vec<u32>> {
        let mut events = [MaybeUninit::<Event>::uninit(); MOST_AT_ONCE];
        let at_once = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        let (events, _) = epoll::wait(&self.0, &mut events, Some(&at_once))?;
        Ok(events.iter().filter_map(|event| u32::try_from(event.data.u64()).ok()).collect())
    }
}

impl AsFd for InitSet {
    /// Readable while an init has ended that is in the set.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_sys::process;
    use std::process::{Child, Command};
    use std::time::Duration;

    fn child() -> (Child, OwnedFd) {
        let child = Command::new("sleep").arg("1000").spawn().expect("starts");
        let pidfd = process::open(child.id()).expect("runs");
        (child, pidfd)
    }

    fn end(child: &mut Child, pidfd: &OwnedFd) {
        child.kill().expect("may");
        assert!(process::has_ended(pidfd, Duration::from_secs(60)).expect("may"));
    }

    #[test]
    fn an_end_is_reported_until_it_is_removed_also_when_somebody_else_holds_the_pidfd() {
        let set = InitSet::new().expect("a set");
        let ((mut first, pidfd), (mut second, other)) = (child(), child());
        assert!(set.add(&pidfd, first.id()) && set.add(&other, second.id()));
        assert!(set.ended().expect("may").is_empty());
        end(&mut first, &pidfd);
        assert_eq!(set.ended().expect("may"), [first.id()]);
        assert_eq!(set.ended().expect("may"), [first.id()], "nothing is forgotten that nobody has dealt with");
        let held = pidfd.try_clone().expect("a descriptor");
        set.remove(&pidfd);
        drop(pidfd);
        assert!(set.ended().expect("may").is_empty(), "the copy is not reported");
        end(&mut second, &other);
        assert_eq!(set.ended().expect("may"), [second.id()]);
        drop(held);
        first.wait().and(second.wait()).expect("ended");
    }
}
