//! The file system that holds the tenants' storage: its kind, its options, and whether it can be seen through an id map.

use crate::ObserveError;
use bailiwick_sys::process::{self, Cloned};
use bailiwick_sys::{mount, namespace, proc, socket};
use bailiwick_types::MountFact;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Result of trying something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// It worked.
    Worked,
    /// The kernel said no.
    Refused(String),
    /// It was not tried.
    Untried(String),
}

/// What was read of the file system below a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageReadings {
    /// The directory, or the nearest one above that exists.
    pub path: PathBuf,
    /// `ext4`, `xfs`, ...
    pub fs_type: String,
    /// Options of the mount and of the file system.
    pub options: Vec<String>,
    /// Whether a detached copy of it could be id-mapped.
    pub id_map: Trial,
}

/// Reads the file system that holds `directory`. As root of the host, in a program with one thread, an id-mapped copy
/// is tried as well: made detached, seen by nobody, gone when this returns.
///
/// # Errors
/// When the mount table cannot be read or has no mount for the path.
pub fn storage_readings(directory: &Path) -> Result<StorageReadings, ObserveError> {
    let unreadable = |source| ObserveError::File { path: directory.display().to_string(), source };
    let path = directory.ancestors().find_map(|path| path.canonicalize().ok());
    let path = path.ok_or_else(|| unreadable(io::ErrorKind::NotFound.into()))?;
    let own = std::process::id();
    let mounts = proc::mounts(own).map_err(unreadable)?;
    let mount = holding(&mounts, &path).ok_or_else(|| unreadable(io::ErrorKind::NotFound.into()))?;
    let is_root = proc::status(own).map_err(unreadable)?.uids[1] == 0;
    let id_map = if is_root { try_id_map(&path) } else { Trial::Untried("only the host's root can try".to_owned()) };
    let options = mount.options.iter().chain(&mount.super_options).cloned().collect();
    Ok(StorageReadings { path, fs_type: mount.fs_type.clone(), options, id_map })
}

/// The visible mount that holds a path: the one with the longest target.
fn holding<'a>(mounts: &'a [MountFact], path: &Path) -> Option<&'a MountFact> {
    mounts
        .iter()
        .filter(|mount| !mount.covered && path.starts_with(&mount.target))
        .max_by_key(|mount| mount.target.len())
}

fn try_id_map(path: &Path) -> Trial {
    // Any ids will do: nothing is written through the map.
    const ROWS: [[u32; 3]; 1] = [[0, 100_000, 65_536]];
    let result = with_user_namespace(&ROWS, |pid| {
        let namespace = namespace::open(pid, "user")?;
        let root = bailiwick_sys::file::open_dir(path)?;
        mount::set_attributes(mount::detached_copy_of(root)?, 0, Some(std::os::fd::AsFd::as_fd(&namespace)))
    });
    match result {
        Ok(Ok(())) => Trial::Worked,
        Ok(Err(error)) => Trial::Refused(error.to_string()),
        Err(error) => Trial::Untried(format!("no user namespace to try with: {error}")),
    }
}

/// Calls `f` with a process that lives in a new user namespace with these maps and does nothing.
fn with_user_namespace<T>(rows: &[[u32; 3]], f: impl FnOnce(u32) -> T) -> io::Result<T> {
    const NEW_USER_NAMESPACE: u64 = 0x1000_0000; // CLONE_NEWUSER, linux/sched.h
    const PATIENCE: Duration = Duration::from_secs(10);
    let (ours, theirs) = socket::channel()?;
    match process::clone_into(NEW_USER_NAMESPACE, None)? {
        Cloned::Child => {
            drop(ours);
            // Ends when the parent closes its end or has died; whether it was that or time makes no difference.
            drop(process::readable(&theirs, PATIENCE));
            process::exit_now(0)
        }
        Cloned::Parent { pid, pidfd } => {
            let result = namespace::set_id_map(pid, proc::IdKind::User, rows)
                .and_then(|()| namespace::set_id_map(pid, proc::IdKind::Group, rows))
                .map(|()| f(pid));
            drop((ours, theirs));
            process::has_ended(&pidfd, PATIENCE)?;
            process::reap(&pidfd)?;
            result
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_that_holds_a_path_is_the_nearest_visible_one() {
        let mount = |target: &str, fs_type: &str, covered| MountFact {
            target: target.to_owned(),
            root: "/".to_owned(),
            fs_type: fs_type.to_owned(),
            options: Vec::new(),
            super_options: Vec::new(),
            propagation: Vec::new(),
            covered,
        };
        let mounts = [
            mount("/", "ext4", false),
            mount("/var", "xfs", true),
            mount("/var", "btrfs", false),
            mount("/va", "tmpfs", false),
        ];
        assert_eq!(holding(&mounts, Path::new("/var/lib")).map(|mount| mount.fs_type.as_str()), Some("btrfs"));
        assert_eq!(holding(&mounts, Path::new("/vars")).map(|mount| mount.fs_type.as_str()), Some("ext4"));
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_judged_by_the_one_above() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let root = temp.path().canonicalize().expect("real path");
        let readings = storage_readings(&root.join("not/yet")).expect("reads");
        assert_eq!(readings.path, root);
        assert!(!readings.fs_type.is_empty());
        // A test has threads, so nothing is cloned here, whoever runs it.
        assert!(matches!(readings.id_map, Trial::Untried(_)), "{:?}", readings.id_map);
    }
}
