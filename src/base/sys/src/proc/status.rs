//! `/proc/PID/status`: names, credentials and walls of a process.

use super::{MAX_SMALL, directory, malformed, read};
use std::collections::HashMap;
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

pub(super) fn status_at(process: BorrowedFd<'_>) -> io::Result<Status> {
    parse_status(&read(process, "status", MAX_SMALL)?).ok_or_else(|| malformed("status"))
}

/// Parses `/proc/PID/status`; `None` when a line for [`Status`] is missing or invalid.
#[must_use]
pub fn parse_status(text: &[u8]) -> Option<Status> {
    let text = String::from_utf8_lossy(text);
    let mut lines: HashMap<&str, &str> = HashMap::new();
    for line in text.lines() {
        if let Some((key, value)) = line.split_once(':') {
            // The name comes first, and the kernel escapes its line ends. So a tenant cannot add a line, and the first line of
            // a key counts.
            lines.entry(key).or_insert(value.trim());
        }
    }
    let number = |key: &str| lines.get(key)?.parse::<u32>().ok();
    let set = |key: &str| u64::from_str_radix(lines.get(key)?, 16).ok();
    let four = |key: &str| -> Option<[u32; 4]> {
        let ids: Vec<u32> = lines.get(key)?.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        ids.try_into().ok()
    };
    let ns_pids = lines.get("NSpid").copied().unwrap_or_default();
    Some(Status {
        command: (*lines.get("Name")?).to_owned(),
        parent: number("PPid")?,
        uids: four("Uid")?,
        gids: four("Gid")?,
        ns_pids: ns_pids.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?,
        threads: number("Threads")?,
        cap_inheritable: set("CapInh")?,
        cap_permitted: set("CapPrm")?,
        cap_effective: set("CapEff")?,
        cap_bounding: set("CapBnd")?,
        cap_ambient: set("CapAmb")?,
        no_new_privs: number("NoNewPrivs")? != 0,
        seccomp: number("Seccomp")?,
        seccomp_filters: number("Seccomp_filters")?,
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
    fn a_truncated_status_is_an_error_and_never_a_default() {
        for (end, _) in STATUS.match_indices('\n').filter(|(end, _)| *end + 1 < STATUS.len()) {
            assert_eq!(parse_status(&STATUS.as_bytes()[..end]), None, "cut at {end}");
        }
    }
}
