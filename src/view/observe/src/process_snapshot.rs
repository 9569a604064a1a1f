//! A snapshot of a tenant's processes, the largest first, with their largest open files.
//!
//! Danger: the tenant chooses all names here. They are cut to a bounded length, and no decision depends on them. A file
//! is examined through its descriptor and never opened: an open could block, or wake a device.

use crate::jail::members_of;
use crate::{ObserveError, unless_gone};
use bailiwick_sys::proc;
use bailiwick_types::ProcessSnapshot;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The most processes that are kept.
const MAX_PROCESSES: usize = 40;
/// How many of these processes have their files read, the most descriptors of each that are read, and the most files of
/// each that are kept.
const WITH_FILES: usize = 8;
const MAX_DESCRIPTORS: usize = 256;
const MAX_FILES: usize = 5;
/// The longest name that is kept, in characters.
const MAX_NAME: usize = 128;

/// The processes in a tenant's control groups, those with the most memory first.
///
/// # Errors
/// When a group or a process of the tenant cannot be read.
pub fn process_snapshots(cgroups: &BTreeMap<String, String>) -> Result<Vec<ProcessSnapshot>, ObserveError> {
    let mut found = Vec::new();
    for pid in members_of(cgroups)? {
        let look = || -> io::Result<ProcessSnapshot> {
            let stat = proc::stat(pid)?;
            let (parent, command, memory) = (stat.parent, shortened(&stat.command), stat.memory);
            Ok(ProcessSnapshot { pid, parent, command, memory, files: Vec::new() })
        };
        found.extend(unless_gone(pid, look())?);
    }
    found.sort_by_key(|process: &ProcessSnapshot| std::cmp::Reverse(process.memory));
    found.truncate(MAX_PROCESSES);
    for process in found.iter_mut().take(WITH_FILES) {
        process.files = files(process.pid);
    }
    Ok(found)
}

/// The largest regular files that a process has open. A process that has ended meanwhile has none.
fn files(pid: u32) -> Vec<(String, u64)> {
    let dir = format!("/proc/{pid}/fd");
    let Ok(entries) = std::fs::read_dir(&dir) else { return Vec::new() };
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    for entry in entries.flatten().take(MAX_DESCRIPTORS) {
        // Both calls use the descriptor itself, so no name that the tenant chose is resolved.
        let (Ok(name), Ok(metadata)) = (std::fs::read_link(entry.path()), std::fs::metadata(entry.path())) else {
            continue;
        };
        if metadata.is_file() {
            found.insert(shortened(&name_of(&name)), metadata.size());
        }
    }
    let mut files: Vec<(String, u64)> = found.into_iter().collect();
    files.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    files.truncate(MAX_FILES);
    files
}

fn name_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_and_what_it_has_open_is_seen() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("large");
        let file = std::fs::File::create(&path).expect("creates");
        file.set_len(5 << 30).expect("grows");
        let mut groups = proc::cgroups(std::process::id()).expect("groups");
        groups.retain(|hierarchy, _| hierarchy == "unified");
        let process_snapshots = process_snapshots(&groups).expect("reads");
        // Other processes may be in the same group.
        assert!(!process_snapshots.is_empty() && process_snapshots.iter().all(|process| process.command.len() <= 64));
        let own = files(std::process::id());
        assert_eq!(own[0], (path.canonicalize().expect("real path").display().to_string(), 5 << 30));
        assert_eq!(files(u32::MAX), []);
    }
}
