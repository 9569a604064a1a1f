//! `/proc/PID/cgroup`: the control groups of a process.

use super::stat::parse_is_ending;
use super::{MAX_SMALL, directory, malformed, read};
use crate::file;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The control groups of a process by hierarchy: `unified`, and for version 1 each controller by its name; hierarchies
/// without a controller as `name=NAME`. They are those of its first thread that lives.
///
/// # Errors
/// As [`status`]; `ESRCH` also while it ends.
pub fn cgroups(pid: u32) -> io::Result<BTreeMap<String, String>> {
    cgroups_at(directory(pid)?.as_fd())
}

/// A thread that is ending is shown in the root of every hierarchy of version 1, long before it is a corpse
/// (`proc_cgroup_show` in the kernel): wherever it was, it would look like one that got out.
pub(super) fn cgroups_at(process: BorrowedFd<'_>) -> io::Result<BTreeMap<String, String>> {
    /// The groups of a thread, or `None` when it was ending by the time they had been read.
    fn of_living(thread: BorrowedFd<'_>) -> io::Result<Option<BTreeMap<String, String>>> {
        let groups = parse_cgroups(&read(thread, "cgroup", MAX_SMALL)?).ok_or_else(|| malformed("cgroup"))?;
        let is_ending = parse_is_ending(&read(thread, "stat", MAX_SMALL)?).ok_or_else(|| malformed("stat"))?;
        Ok((!is_ending).then_some(groups))
    }
    // What the directory of a process shows is of its first thread, which may end before the others.
    if let Some(groups) = of_living(process)? {
        return Ok(groups);
    }
    let threads = file::open_dir_at(process, "task")?;
    for thread in file::names(threads.as_fd())? {
        let thread = file::open_dir_at(threads.as_fd(), &thread);
        if let Some(groups) = thread.ok().and_then(|thread| of_living(thread.as_fd()).ok().flatten()) {
            return Ok(groups);
        }
    }
    Err(io::Error::from_raw_os_error(libc::ESRCH))
}

/// Parses `/proc/PID/cgroup` (`cgroups(7)`). The kernel refuses line ends in names of groups; colons it does not.
#[must_use]
pub fn parse_cgroups(text: &[u8]) -> Option<BTreeMap<String, String>> {
    let mut groups = BTreeMap::new();
    for line in String::from_utf8_lossy(text).lines() {
        let mut fields = line.splitn(3, ':');
        let (_number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let controllers = if controllers.is_empty() { "unified" } else { controllers };
        for controller in controllers.split(',') {
            groups.insert(controller.to_owned(), path.to_owned());
        }
    }
    Some(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a process whose first thread has ended, and of a corpse. On version 1 the kernel shows both in the root of each hierarchy.
    #[test]
    fn who_is_ending_is_in_no_group_and_whose_first_thread_has_ended_is_in_those_of_the_others() {
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
        let of_corpse = cgroups(pid);
        child.wait().expect("ends");
        assert_eq!(groups.expect("it lives"), own);
        assert_eq!(of_corpse.expect_err("a corpse").raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn control_groups_of_both_versions() {
        let groups = parse_cgroups(b"9:name=systemd:/\n2:cpu,cpuacct:/a:b/c\n0::/x\n").expect("parses");
        let want = [("cpu", "/a:b/c"), ("cpuacct", "/a:b/c"), ("name=systemd", "/"), ("unified", "/x")];
        assert_eq!(groups, want.map(|(key, path)| (key.to_owned(), path.to_owned())).into());
        assert_eq!(parse_cgroups(b"9:name"), None);
    }
}
