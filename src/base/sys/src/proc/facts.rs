//! Everything that a report needs of one process, read through one descriptor of its directory.

use super::cgroups::cgroups_at;
use super::limits::parse_hard_limit;
use super::namespaces::namespaces;
use super::stat::{parse_rank, parse_start_time};
use super::status::status_at;
use super::{MAX_SMALL, directory, malformed, read};
use bailiwick_types::{ProcessFacts, ProcessRank};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Reads everything that a report needs of one process.
///
/// # Errors
/// `ENOENT` or `ESRCH` when the process has ended, even as a zombie or during the reads; `EACCES` when the reader may not look
/// at it.
pub fn facts(pid: u32) -> io::Result<ProcessFacts> {
    let process = directory(pid)?;
    let process = process.as_fd();
    let status = status_at(process)?;
    let stat = read(process, "stat", MAX_SMALL)?;
    // The groups are read before the namespaces. A process that ends loses its namespaces first, so one that has them still had
    // its groups when they were read.
    let cgroups = cgroups_at(process)?;
    Ok(ProcessFacts {
        pid,
        start_time: parse_start_time(&stat).ok_or_else(|| malformed("stat"))?,
        command: status.command,
        uids: status.uids,
        namespaces: namespaces(process)?,
        cap_bounding: status.cap_bounding,
        cap_permitted: status.cap_permitted,
        cap_inheritable: status.cap_inheritable,
        cap_ambient: status.cap_ambient,
        no_new_privs: status.no_new_privs,
        seccomp: status.seccomp,
        seccomp_filters: status.seccomp_filters,
        cgroups,
        rank: Some(rank_at(process, &stat)?),
    })
}

/// The priorities of a process's first thread, and the process's own limits.
fn rank_at(process: BorrowedFd<'_>, stat: &[u8]) -> io::Result<ProcessRank> {
    let (nice, scheduler) = parse_rank(stat).ok_or_else(|| malformed("stat"))?;
    let limits = read(process, "limits", MAX_SMALL)?;
    let hard_limit = |row| parse_hard_limit(&limits, row).ok_or_else(|| malformed("limits"));
    let score = String::from_utf8_lossy(&read(process, "oom_score_adj", MAX_SMALL)?).trim().parse();
    Ok(ProcessRank {
        nice,
        scheduler,
        oom_score_adj: score.map_err(|_| malformed("oom_score_adj"))?,
        open_files: hard_limit("Max open files ")?,
        core: hard_limit("Max core file size ")?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{IdKind, cgroups, id_map, mounts, pids, start_time, status};
    use super::*;
    use bailiwick_types::NAMESPACES;

    #[test]
    fn this_process_has_facts_that_fit_together() {
        let pid = std::process::id();
        let facts = facts(pid).expect("own facts");
        let status = status(pid).expect("own status");
        assert_eq!(facts.uids[1], rustix::process::geteuid().as_raw());
        assert_eq!(facts.start_time, start_time(pid).expect("start time"));
        assert_eq!(facts.cgroups, cgroups(pid).expect("groups"));
        assert_eq!(facts.namespaces.len(), NAMESPACES.len());
        assert_eq!(status.ns_pids.first(), Some(&pid));
        assert!(pids().expect("list").contains(&pid));
        assert!(mounts(pid).expect("table").iter().any(|mount| mount.target == "/proc" && !mount.covered));
        assert!(!id_map(pid, IdKind::User).expect("map").is_empty());
    }

    #[test]
    fn a_process_that_is_gone_is_an_error_and_so_is_a_zombie() {
        let mut child = std::process::Command::new("true").spawn().expect("spawns");
        let pid = child.id();
        // A zombie still has its directory, but no namespaces and groups.
        while start_time(pid).is_ok()
            && !std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status").contains("zombie")
        {
            std::thread::yield_now();
        }
        assert_eq!(facts(pid).expect_err("gone").raw_os_error(), Some(libc::ESRCH));
        child.wait().expect("reaped");
        assert_eq!(facts(pid).expect_err("gone").raw_os_error(), Some(libc::ENOENT));
    }
}
