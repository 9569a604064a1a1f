//! The files of `/proc` about a process and about the machine: one function for each, with a parser that is pure.
//!
//! A process is looked up once and then read through a descriptor of its directory. So all facts are about one process, even if
//! another one gets its number meanwhile. Credentials are those of the first thread.
//!
//! Danger: a tenant chooses parts of these texts (program names, mount points, paths of control groups), and may make them as
//! long as the kernel allows. Every read must be bounded, every parser must accept arbitrary bytes, and nothing may panic.

mod cgroups;
mod command_line;
mod facts;
mod id_map;
mod limits;
mod machine;
mod mounts;
mod namespaces;
mod network;
mod stat;
mod status;

pub use cgroups::{cgroups, parse_cgroups};
pub use command_line::{command_line, parse_command_line};
pub use facts::facts;
pub use id_map::{IdKind, id_map, parse_id_map};
pub use limits::{open_files, parse_hard_limit, parse_open_files};
pub use machine::{busy_micros, max_tasks, memory_bytes};
pub use mounts::{mounts, parse_mounts};
pub use namespaces::namespaces_of;
pub(crate) use namespaces::{inode_at, namespace_at};
pub use network::{OpenSockets, interfaces, listeners, parse_interfaces, parse_listeners, parse_socket, sockets};
pub use stat::{ProcessStat, age, parse_is_ending, parse_rank, parse_start_time, parse_stat, start_time, stat};
pub use status::{Status, parse_status, status, users};

use crate::file;
use rustix::fs::FileType;
use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// The most bytes that are read of a file whose size a tenant can hardly influence.
const MAX_SMALL: usize = 64 << 10;
/// The most bytes of a list of children, which is enough for eight thousand.
const MAX_CHILDREN: usize = 64 << 10;
/// The size of a buffer for entries of a directory. One has room for all of `/proc` but the processes.
const ENTRIES: usize = 4096;

fn malformed(file: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected content in \"{file}\""))
}

/// Opens the directory of a process. Reads below it fail with `ESRCH` once the process is gone.
fn directory(pid: u32) -> io::Result<OwnedFd> {
    file::open_dir(Path::new(&format!("/proc/{pid}")))
}

fn read(process: BorrowedFd<'_>, name: &str, max: usize) -> io::Result<Vec<u8>> {
    file::read_bounded(file::open_file_at(process, name)?, max)
}

/// The numbers of all processes that this process can see.
///
/// # Errors
/// The error of reading `/proc`.
pub fn pids() -> io::Result<Vec<u32>> {
    let names = file::names(file::open_dir(Path::new("/proc"))?)?;
    Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
}

/// The entries of `/proc` that are no processes, and what each is. The kernel lists them before all processes
/// (`proc_root_readdir` in fs/proc/root.c), so this takes no longer when there are many.
///
/// # Errors
/// The error of reading `/proc`.
pub fn kernel_entries() -> io::Result<Vec<(OsString, FileType)>> {
    let proc = file::open_dir(Path::new("/proc"))?;
    let mut buffer = [MaybeUninit::uninit(); ENTRIES];
    let mut entries = rustix::fs::RawDir::new(proc, &mut buffer);
    let mut found = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name.iter().all(u8::is_ascii_digit) {
            break;
        }
        if name != b"." && name != b".." {
            found.push((OsString::from_vec(name.to_vec()), entry.file_type()));
        }
    }
    Ok(found)
}

/// The children of a process with one thread that it has not reaped (`proc_pid_children(5)`). The list is exact only while none
/// of them can end.
///
/// # Errors
/// `ENOENT` when there is no such process, or the kernel was built without this file.
pub fn children(pid: u32) -> io::Result<Vec<u32>> {
    parse_children(&read(directory(pid)?.as_fd(), &format!("task/{pid}/children"), MAX_CHILDREN)?)
}

/// The children of every thread of a process that it has not reaped. As that of [`children`], the list is exact only while nothing
/// ends. A thread that ends meanwhile is skipped.
///
/// # Errors
/// `ENOENT` when there is no such process, or it is hidden (`hidepid`, `proc(5)`).
pub fn children_of_threads(pid: u32) -> io::Result<Vec<u32>> {
    let tasks = file::open_dir_at(directory(pid)?, "task")?;
    let mut all = Vec::new();
    for thread in file::names(&tasks)?.iter().filter_map(|name| name.to_str()) {
        let Ok(bytes) = read(tasks.as_fd(), &format!("{thread}/children"), MAX_CHILDREN) else { continue };
        all.extend(parse_children(&bytes)?);
    }
    Ok(all)
}

fn parse_children(bytes: &[u8]) -> io::Result<Vec<u32>> {
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("children"))?;
    text.split_whitespace().map(|number| number.parse().map_err(|_| malformed("children"))).collect()
}

/// Opens the directory of a process, for [`crate::namespace`].
pub(crate) fn open(pid: u32) -> io::Result<OwnedFd> {
    directory(pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_entries_of_the_kernel_are_all_that_are_no_processes() {
        let is_process = |name: &OsString| name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        let mut all = file::entries(file::open_dir(Path::new("/proc")).expect("opens")).expect("lists");
        all.retain(|(name, _)| !is_process(name));
        let mut found = kernel_entries().expect("lists");
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        assert_eq!(found, all);
        assert!(found.iter().any(|(name, kind)| name == "meminfo" && *kind == FileType::RegularFile));
    }

    #[test]
    fn a_child_is_listed_at_its_parent() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("starts");
        // The kernel lists children by thread, and tests run in threads.
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        let path = format!("/proc/{}/task/{tid}/children", std::process::id());
        let of_thread = std::fs::read_to_string(path).expect("reads");
        let of_threads = children_of_threads(std::process::id()).expect("reads");
        let of_sleep = children(child.id());
        child.kill().expect("kills");
        child.wait().expect("ends");
        assert!(of_thread.split_whitespace().any(|number| number == child.id().to_string()), "{of_thread:?}");
        assert_eq!(of_sleep.expect("reads"), Vec::<u32>::new());
        assert!(of_threads.contains(&child.id()), "{of_threads:?}");
        assert!(children(child.id()).is_err() && children_of_threads(child.id()).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _status = parse_status(&text);
            let _time = parse_start_time(&text);
            let _groups = parse_cgroups(&text);
            let _mounts = parse_mounts(&text);
            let _map = parse_id_map(&text);
            let _files = parse_open_files(&text);
            let _rank = parse_rank(&text);
            let _interfaces = parse_interfaces(&text);
        }
    }
}
