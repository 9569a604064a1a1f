//! The file system that holds the tenants' storage: its type, its quotas, the devices below it, and whether it can be
//! id-mapped.

use crate::{ObserveError, PoolBacking};
use bailiwick_sys::process::{self, Cloned};
use bailiwick_sys::{block, btrfs, cgroup, file, mount, namespace, proc, socket};
use bailiwick_types::{BlockDevice, DiskFact, MountFact, QuotaFact, QuotaFacts, StorageFacts, WeightPolicy};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Error number: the name leads to another file system (linux/errno).
const EXDEV: i32 = 18;

/// The result of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// The attempt worked.
    Worked,
    /// The kernel refused it, for this reason.
    Refused(String),
    /// It was not tried, for this reason.
    Untried(String),
}

/// What was read of the file system that holds a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageReadings {
    /// The directory, or its nearest parent that exists.
    pub path: PathBuf,
    /// Type of the file system: `ext4`, `xfs`, ...
    pub fs_type: String,
    /// Options of the mount and of the file system.
    pub options: Vec<String>,
    /// Whether a detached copy of its mount could be id-mapped.
    pub id_map: Trial,
}

/// The facts that a plan needs about the file system that holds the state directory. Only root can open the directory
/// and read its quotas. For other users the facts contain no quotas.
pub(crate) fn storage_facts(directory: &Path, unified: Option<&Path>) -> StorageFacts {
    let nothing = |why: String, remedy: &str| QuotaFacts::Nothing { why, remedy: remedy.to_owned() };
    let path = directory.ancestors().find_map(|path| path.canonicalize().ok()).unwrap_or_else(|| "/".into());
    let mounts = proc::mounts(std::process::id()).unwrap_or_default();
    let fs_type = holding(&mounts, &path).map_or_else(|| "unknown".to_owned(), |mount| mount.fs_type.clone());
    let opened = match file::open_dir(&path) {
        Ok(opened) => opened,
        Err(error) => {
            let quota = nothing(format!("{} cannot be opened: {error}", path.display()), "look at it as root");
            return StorageFacts { fs_type, quota, devices: Vec::new() };
        }
    };
    let costs =
        unified.and_then(|mount| cgroup::read(cgroup::open(mount, "/").ok()?, "io.cost.qos").ok()).unwrap_or_default();
    let devices = numbers(&opened)
        .iter()
        .filter_map(|number| block::stack(number).ok())
        .flatten()
        .map(|device| BlockDevice {
            weight: match device.scheduler.as_deref() {
                Some("bfq") => Some(WeightPolicy::Bfq),
                _ if has_cost(&costs, &device.number) => Some(WeightPolicy::Cost),
                _ => None,
            },
            number: device.number,
            name: device.name,
        })
        .collect();
    StorageFacts { quota: quota(&opened, &path, &fs_type), fs_type, devices }
}

fn quota(opened: &OwnedFd, path: &Path, fs_type: &str) -> QuotaFacts {
    let nothing = |why: String, remedy: String| QuotaFacts::Nothing { why, remedy };
    let shown = path.display();
    if fs_type == "btrfs" {
        return match btrfs::directory(opened) {
            Ok(directory) if btrfs::counts(&directory) => QuotaFacts::Groups,
            _ => nothing("quotas of btrfs are off".to_owned(), format!("switch them on: btrfs quota enable {shown}")),
        };
    }
    let state = match bailiwick_sys::quota::state(opened) {
        Ok(bailiwick_sys::quota::State::Enforced) => return QuotaFacts::Projects,
        Ok(state) => state,
        Err(error) => return nothing(format!("quotas cannot be asked for: {error}"), "look at it as root".to_owned()),
    };
    let counted = state == bailiwick_sys::quota::State::Accounted;
    match fs_type {
        "xfs" => nothing(
            format!("xfs is mounted {} project quotas", if counted { "with unenforced" } else { "without" }),
            format!(
                "write prjquota into the options of the file system of {shown} in /etc/fstab, unmount it and mount it again (for the \
                 root file system: rootflags=prjquota on the kernel's command line, then reboot); the kernel needs CONFIG_XFS_QUOTA"
            ),
        ),
        "ext4" => nothing(
            format!("ext4 {} project quotas", if counted { "counts but does not enforce" } else { "has no" }),
            format!(
                "unmount the file system of {shown} (the root file system cannot be: keep `state_dir` on another), run \
                 `tune2fs -O project,quota -Q prjquota DEVICE`, write prjquota into its options in /etc/fstab and mount it again; \
                 the kernel needs CONFIG_QFMT_V2"
            ),
        ),
        _ => nothing(
            format!("{fs_type} has no quotas of projects"),
            "move the state directory to XFS or ext4 with prjquota, or to btrfs with quotas".to_owned(),
        ),
    }
}

/// The numbers of the devices below a file system: its own device, or the devices that btrfs lists.
fn numbers(opened: &OwnedFd) -> Vec<String> {
    if let Some(number) = file::metadata(opened).ok().and_then(|metadata| block::number(metadata.device)) {
        return vec![number];
    }
    let Ok(directory) = btrfs::directory(opened) else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir(directory.join("devices")) else { return Vec::new() };
    let read = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("dev")).ok();
    entries.filter_map(|entry| Some(read(entry.ok()?)?.trim().to_owned())).collect()
}

/// Whether `io.cost.qos` enables the cost model of a device.
fn has_cost(costs: &str, number: &str) -> bool {
    let mut lines = costs.lines().map(str::split_whitespace);
    lines.any(|mut words| words.next() == Some(number) && words.any(|word| word == "enable=1"))
}

/// Reads the quota of a tenant from an open directory of its storage. `None` when nothing on this host bounds storage.
///
/// # Errors
/// When the kernel does not answer. The caller must be root.
pub fn disk_fact(dir: impl AsFd, project: u32, quota: &QuotaFacts) -> io::Result<Option<DiskFact>> {
    let fact = |share: bailiwick_sys::quota::Share| QuotaFact {
        used: share.used,
        soft: share.soft,
        hard: share.hard,
        grace_until: share.grace_until,
        lowered_at: None,
    };
    match quota {
        QuotaFacts::Nothing { .. } => Ok(None),
        QuotaFacts::Projects => {
            let own = bailiwick_sys::quota::project(&dir)?;
            let quota = bailiwick_sys::quota::read(&dir, project)?;
            let charged = own == bailiwick_sys::quota::Project { id: project, inherited: true };
            Ok(Some(DiskFact { bytes: fact(quota.bytes), inodes: Some(fact(quota.inodes)), charged, held_back: false }))
        }
        QuotaFacts::Groups => {
            let subvolume = btrfs::subvolume(&dir)?;
            let charged = file::metadata(&dir)?.inode == btrfs::ROOT_INODE;
            let group = btrfs::group(&btrfs::directory(&dir)?, subvolume)?;
            let bytes = QuotaFact {
                used: group.used,
                soft: group.limit,
                hard: group.limit,
                grace_until: None,
                lowered_at: None,
            };
            Ok(Some(DiskFact { bytes, inodes: None, charged, held_back: false }))
        }
    }
}

/// Whether the directories directly in a tenant's directory also belong to its quota: they have its project, and are no
/// subvolumes of their own. Only the host's root could exempt a deeper directory, so this does not walk the tree.
pub(crate) fn charged_below(dir: impl AsFd, project: u32, quota: &QuotaFacts) -> io::Result<bool> {
    if !quota.bounds_anything() {
        return Ok(true);
    }
    for name in file::directories(&dir)? {
        let below = match file::open_dir_at(&dir, &name) {
            // The name leads to another file system, or is gone.
            Err(error) if error.raw_os_error() == Some(EXDEV) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            result => result?,
        };
        let charged = match quota {
            QuotaFacts::Nothing { .. } => true,
            QuotaFacts::Projects => {
                bailiwick_sys::quota::project(&below)? == bailiwick_sys::quota::Project { id: project, inherited: true }
            }
            QuotaFacts::Groups => file::metadata(&below)?.inode != btrfs::ROOT_INODE,
        };
        if !charged {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads the file system that holds `directory`. As root of the host, in a program with one thread, it also tries to
/// make an id-mapped copy of the mount. The copy is detached, no other process sees it, and it is gone when this
/// returns.
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
    // Any ids work, because nothing is written through the map.
    const ROWS: [[u32; 3]; 1] = [[0, 100_000, 65_536]];
    let result = with_user_namespace(&ROWS, |pid| {
        let namespace = namespace::open(pid, "user")?;
        let root = file::open_dir(path)?;
        mount::set_attributes(mount::detached_copy_of(root)?, 0, Some(namespace.as_fd()))
    });
    match result {
        Ok(Ok(())) => Trial::Worked,
        Ok(Err(error)) => Trial::Refused(error.to_string()),
        Err(error) => Trial::Untried(format!("no user namespace to try with: {error}")),
    }
}

/// Calls `f` with the pid of an idle process in a new user namespace with these id maps.
fn with_user_namespace<T>(rows: &[[u32; 3]], f: impl FnOnce(u32) -> T) -> io::Result<T> {
    const NEW_USER_NAMESPACE: u64 = 0x1000_0000; // CLONE_NEWUSER, linux/sched.h
    const PATIENCE: Duration = Duration::from_secs(10);
    let (ours, theirs) = socket::channel()?;
    match process::clone_into(NEW_USER_NAMESPACE, None, &[theirs.as_fd()])? {
        Cloned::Child => {
            // The child exits when the parent closes its end, when the parent dies, or after the timeout. All three are
            // fine.
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

/// The pool file below a state directory; `None` when its first device is no loop device. Works for any user.
#[must_use]
pub fn pool_backing(storage: &StorageFacts) -> Option<PoolBacking> {
    backing_in(Path::new("/sys/block"), &storage.devices.first()?.name)
}

fn backing_in(root: &Path, device: &str) -> Option<PoolBacking> {
    let read = |what: &str| std::fs::read_to_string(root.join(device).join(what)).ok();
    let number = |what: &str| read(what).and_then(|text| text.trim().parse::<u64>().ok());
    let file = read("loop/backing_file")?.trim_end_matches('\n').to_owned();
    let metadata = std::fs::metadata(&file).ok();
    Some(PoolBacking {
        device: device.to_owned(),
        // The kernel counts in sectors of 512 bytes, whatever the device has.
        device_size: number("size").unwrap_or_default().saturating_mul(512),
        size: metadata.as_ref().map_or(0, std::fs::Metadata::len),
        allocated: metadata.map_or(0, |metadata| metadata.blocks().saturating_mul(512)),
        discards: number("queue/discard_max_bytes").is_none_or(|most| most > 0),
        file,
    })
}

/// The space of the file system of a directory, or of its nearest parent that exists, in bytes: all of it, and the free
/// part.
///
/// # Errors
/// The error of `statvfs(3)`.
pub fn space(path: &Path) -> io::Result<(u64, u64)> {
    file::space(path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")))
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
    fn a_pool_file_is_read_by_its_device() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let make = |path: &str, text: &str| {
            let path = temp.path().join(path);
            std::fs::create_dir_all(path.parent().expect("has one")).expect("mkdir");
            std::fs::write(path, text).expect("writes");
        };
        let file = temp.path().join("pool");
        std::fs::write(&file, [7; 8192]).expect("writes");
        make("loop3/loop/backing_file", &format!("{}\n", file.display()));
        make("loop3/size", "16\n");
        make("loop3/queue/discard_max_bytes", "0\n");
        make("sda/size", "16\n");
        assert_eq!(backing_in(temp.path(), "sda"), None);
        let whole = backing_in(temp.path(), "loop3").expect("a pool");
        assert_eq!((whole.size, whole.device_size, whole.problems()), (8192, 8192, Vec::new()));
        std::fs::File::create(&file).and_then(|file| file.set_len(8192)).expect("makes a hole");
        assert!(backing_in(temp.path(), "loop3").expect("a pool").problems()[0].contains("0 of the 8192"));
        std::fs::remove_file(&file).expect("removes");
        make("loop3/queue/discard_max_bytes", "4096\n");
        assert_eq!(backing_in(temp.path(), "loop3").expect("a pool").problems().len(), 2);
    }

    #[test]
    fn the_cost_model_counts_when_it_is_on_for_this_device() {
        let costs = "8:0 enable=0 ctrl=auto\n8:16 enable=1 ctrl=user rpct=95.00\n";
        assert!(has_cost(costs, "8:16"));
        assert!(!has_cost(costs, "8:0") && !has_cost(costs, "8:1") && !has_cost("", "8:0"));
    }

    #[test]
    fn a_file_system_without_quotas_says_why_and_what_to_do() {
        let facts = storage_facts(Path::new("/dev/shm"), None);
        assert_eq!(facts.fs_type, "tmpfs");
        let QuotaFacts::Nothing { why, remedy } = facts.quota else { panic!("{facts:?}") };
        assert!(why.contains("tmpfs") && remedy.contains("XFS"), "{why} {remedy}");
        assert_eq!(facts.devices, []);
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_judged_by_the_one_above() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let root = temp.path().canonicalize().expect("real path");
        let readings = storage_readings(&root.join("not/yet")).expect("reads");
        assert_eq!(readings.path, root);
        assert!(!readings.fs_type.is_empty());
        // Tests run in threads, so nothing is cloned here, whatever user runs them.
        assert!(matches!(readings.id_map, Trial::Untried(_)), "{:?}", readings.id_map);
    }
}
