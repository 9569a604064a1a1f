//! `/proc/PID/cgroup`: the control groups of a process.

use super::stat::parse_is_ending;
use super::{MAX_SMALL, directory, malformed, read};
use crate::file;
use bailiwick_types::UNIFIED;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The control groups of a process by hierarchy: `unified`, each controller of version 1, and `name=NAME` for a hierarchy
/// without a controller. They are those of the first thread that is not ending.
///
/// # Errors
/// As for [`status`](super::status()); `ESRCH` also while the process ends.
pub fn cgroups(pid: u32) -> io::Result<BTreeMap<String, String>> {
    cgroups_at(directory(pid)?.as_fd())
}

/// The kernel shows an ending thread in the root of every hierarchy of version 1, long before it is a zombie
/// (`proc_cgroup_show`). It would look like a process that has escaped from its group. So ending threads are skipped.
pub(super) fn cgroups_at(process: BorrowedFd<'_>) -> io::Result<BTreeMap<String, String>> {
    /// The groups of a thread; `None` when the thread was ending after they were read.
    fn groups_unless_ending(thread: BorrowedFd<'_>) -> io::Result<Option<BTreeMap<String, String>>> {
        let groups = parse_cgroups(&read(thread, "cgroup", MAX_SMALL)?).ok_or_else(|| malformed("cgroup"))?;
        let is_ending = parse_is_ending(&read(thread, "stat", MAX_SMALL)?).ok_or_else(|| malformed("stat"))?;
        Ok((!is_ending).then_some(groups))
    }
    // The directory of a process shows the groups of its first thread, which may end before the others.
    if let Some(groups) = groups_unless_ending(process)? {
        return Ok(groups);
    }
    let threads = file::open_dir_at(process, "task")?;
    for thread in file::names(threads.as_fd())? {
        let thread = file::open_dir_at(threads.as_fd(), &thread);
        if let Some(groups) = thread.ok().and_then(|thread| groups_unless_ending(thread.as_fd()).ok().flatten()) {
            return Ok(groups);
        }
    }
    Err(io::Error::from_raw_os_error(libc::ESRCH))
}

/// Parses `/proc/PID/cgroup` (`cgroups(7)`). The kernel refuses line ends in names of groups, but allows colons.
#[must_use]
pub fn parse_cgroups(text: &[u8]) -> Option<BTreeMap<String, String>> {
    let mut groups = BTreeMap::new();
    for line in String::from_utf8_lossy(text).lines() {
        let mut fields = line.splitn(3, ':');
        let (_number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let controllers = if controllers.is_empty() { UNIFIED } else { controllers };
        for controller in controllers.split(',') {
            groups.insert(controller.to_owned(), path.to_owned());
        }
    }
    Some(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On version 1 the kernel shows an ended first thread and a zombie in the root of each hierarchy.
    #[test]
    fn an_ended_first_thread_is_skipped_and_a_zombie_is_in_no_group() {
        const PROGRAM: &str = "import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
print('two threads', flush=True)
ctypes.CDLL(None).pthread_exit(None)";
        let mut child = std::process::Command::new("python3").args(["-c", PROGRAM]).spawn().expect("starts");
        let pid = child.id();
        let has_ended = || {
            let stat = std::fs::read(format!("/proc/{pid}/task/{pid}/stat")).expect("reads");
            parse_is_ending(&stat).expect("a stat")
        };
        while !has_ended() {
            std::thread::yield_now();
        }
        let groups = cgroups(pid);
        let own = cgroups(std::process::id()).expect("own groups");
        child.kill().expect("kills");
        rustix::process::waitid(
            rustix::process::WaitId::Pid(rustix::process::Pid::from_child(&child)),
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
        )
        .expect("ends");
        let of_zombie = cgroups(pid);
        child.wait().expect("ends");
        assert_eq!(groups.expect("it lives"), own);
        assert_eq!(of_zombie.expect_err("a zombie").raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn control_groups_of_both_versions() {
        let groups = parse_cgroups(b"9:name=systemd:/\n2:cpu,cpuacct:/a:b/c\n0::/x\n").expect("parses");
        let want = [("cpu", "/a:b/c"), ("cpuacct", "/a:b/c"), ("name=systemd", "/"), ("unified", "/x")];
        assert_eq!(groups, want.map(|(key, path)| (key.to_owned(), path.to_owned())).into());
        assert_eq!(parse_cgroups(b"9:name"), None);
    }
}
