//! `/proc/PID/status`: names, credentials and walls of a process.

use super::{MAX_SMALL, directory, malformed, read};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The content of `/proc/PID/status` (`proc_pid_status(5)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The name of the program. The kernel has escaped line ends and backslashes in it.
    pub command: String,
    /// The parent, in the reader's pid namespace.
    pub parent: u32,
    /// The real, effective, saved and file-system user, as the reader's user namespace counts.
    pub uids: [u32; 4],
    /// The groups in the same order.
    pub gids: [u32; 4],
    /// The number in each pid namespace, the reader's first; empty on a kernel without pid namespaces.
    pub ns_pids: Vec<u32>,
    /// The number of threads.
    pub threads: u32,
    /// The inheritable set of capabilities, one bit each.
    pub cap_inheritable: u64,
    /// The permitted set.
    pub cap_permitted: u64,
    /// The effective set.
    pub cap_effective: u64,
    /// The bounding set.
    pub cap_bounding: u64,
    /// The ambient set.
    pub cap_ambient: u64,
    /// Whether `no_new_privs` is set.
    pub no_new_privs: bool,
    /// The seccomp mode: 0 none, 1 strict, 2 filter.
    pub seccomp: u32,
    /// The number of seccomp filters.
    pub seccomp_filters: u32,
}

/// Reads the status of a process.
///
/// # Errors
/// `ENOENT` or `ESRCH` when there is no such process.
pub fn status(pid: u32) -> io::Result<Status> {
    status_at(directory(pid)?.as_fd())
}

/// Enough for the lines of a status to the users. They come early, and the name before them has at most 64 characters.
const UP_TO_USERS: usize = 1024;

/// Reads only the real, effective, saved and file-system user of a process: what [`status`] has of it, in one read.
///
/// # Errors
/// `ENOENT` or `ESRCH` when there is no such process.
pub fn users(pid: u32) -> io::Result<[u32; 4]> {
    let file = rustix::fs::open(format!("/proc/{pid}/status"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = [0; UP_TO_USERS];
    let len = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut text))?;
    parse_users(&text[..len]).ok_or_else(|| malformed("status"))
}

fn parse_users(text: &[u8]) -> Option<[u32; 4]> {
    // The last line may be cut.
    let whole = &text[..text.iter().rposition(|byte| *byte == b'\n')?];
    // As in `parse_status`, the first line of a key counts.
    let line = whole.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    four(std::str::from_utf8(line).ok()?)
}

fn four(ids: &str) -> Option<[u32; 4]> {
    let mut ids = ids.split_whitespace().map(|id| id.parse().ok());
    let four = [ids.next()??, ids.next()??, ids.next()??, ids.next()??];
    ids.next().is_none().then_some(four)
}

pub(super) fn status_at(process: BorrowedFd<'_>) -> io::Result<Status> {
    parse_status(&read(process, "status", MAX_SMALL)?).ok_or_else(|| malformed("status"))
}

/// Parses `/proc/PID/status`; `None` when a line for [`Status`] is missing or invalid.
#[must_use]
pub fn parse_status(text: &[u8]) -> Option<Status> {
    const KEYS: [&str; 14] = [
        "Name",
        "PPid",
        "Uid",
        "Gid",
        "NSpid",
        "Threads",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
    ];
    let text = String::from_utf8_lossy(text);
    let mut values = [None; KEYS.len()];
    for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
        if let Some(index) = KEYS.iter().position(|known| *known == key) {
            // The name comes first, and the kernel escapes its line ends. So a tenant cannot add a line, and the first line of
            // a key counts.
            values[index].get_or_insert(value.trim());
        }
    }
    let [name, parent, uids, gids, ns_pids, threads, inheritable, permitted, effective, bounding, ambient, ..] = values;
    let [.., no_new_privs, seccomp, filters] = values;
    let number = |value: Option<&str>| value?.parse::<u32>().ok();
    let set = |value: Option<&str>| u64::from_str_radix(value?, 16).ok();
    Some(Status {
        command: name?.to_owned(),
        parent: number(parent)?,
        uids: four(uids?)?,
        gids: four(gids?)?,
        ns_pids: ns_pids.unwrap_or_default().split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?,
        threads: number(threads)?,
        cap_inheritable: set(inheritable)?,
        cap_permitted: set(permitted)?,
        cap_effective: set(effective)?,
        cap_bounding: set(bounding)?,
        cap_ambient: set(ambient)?,
        no_new_privs: number(no_new_privs)? != 0,
        seccomp: number(seccomp)?,
        seccomp_filters: number(filters)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tevil\\nUid:\t0\nUmask:\t0022\nState:\tS (sleeping)\nPid:\t7\nPPid:\t3\n\
        Uid:\t10000000\t10000001\t10000002\t10000003\nGid:\t1\t2\t3\t4\nNSpid:\t7\t1\nThreads:\t2\n\
        CapInh:\t0000000000000000\nCapPrm:\t000001fffeffffff\nCapEff:\t0000000000000001\nCapBnd:\t00000000a80425fb\n\
        CapAmb:\t0000000000000002\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";

    #[test]
    fn a_status_is_read_and_its_name_cannot_forge_a_line() {
        let status = parse_status(STATUS.as_bytes()).expect("parses");
        assert_eq!(status.command, "evil\\nUid:\t0");
        assert_eq!(status.uids, [10_000_000, 10_000_001, 10_000_002, 10_000_003]);
        assert_eq!((status.parent, status.threads, status.ns_pids.as_slice()), (3, 2, [7, 1].as_slice()));
        assert_eq!((status.cap_effective, status.cap_bounding, status.cap_ambient), (1, 0xa804_25fb, 2));
        assert!(status.no_new_privs);
        assert_eq!((status.seccomp, status.seccomp_filters), (2, 3));
    }

    #[test]
    fn the_users_alone_are_those_of_the_whole_status() {
        let pid = std::process::id();
        assert_eq!(users(pid).expect("reads"), status(pid).expect("reads").uids);
        assert_eq!(parse_users(STATUS.as_bytes()), parse_status(STATUS.as_bytes()).map(|status| status.uids));
        for end in 0..STATUS.find("Gid").expect("a line") {
            assert_eq!(parse_users(&STATUS.as_bytes()[..end]), None, "cut at {end}");
        }
        for bad in ["Uid:\t1\t2\t3\n", "Uid:\t1\t2\t3\t4\t5\n", "Uid:\t1\t2\t3\tx\n", "Name:\tUid:\n"] {
            assert_eq!(parse_users(bad.as_bytes()), None, "{bad}");
        }
        assert!(users(u32::MAX).is_err());
    }

    #[test]
    fn a_truncated_status_is_an_error_and_never_a_default() {
        for (end, _) in STATUS.match_indices('\n').filter(|(end, _)| *end + 1 < STATUS.len()) {
            assert_eq!(parse_status(&STATUS.as_bytes()[..end]), None, "cut at {end}");
        }
    }
}
