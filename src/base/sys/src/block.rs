//! Block devices as `/sys/dev/block` shows them: from a partition or a logical volume to the physical devices below it.
//!
//! The kernel makes the links. No tenant can write below `/sys`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The most layers of mappings that are followed.
const MAX_DEPTH: usize = 16;

/// A whole block device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Major and minor number, such as `8:0`.
    pub number: String,
    /// The name, such as `sda`.
    pub name: String,
    /// The active I/O scheduler, such as `bfq`; `None` when it has none.
    pub scheduler: Option<String>,
}

/// Finds the whole device for a number such as `8:1`, and the devices below it through LVM, encryption and md, down to those that
/// have no others below. The whole device comes first, even when `number` is that of a partition.
///
/// # Errors
/// When the kernel knows no such device.
pub fn stack(number: &str) -> io::Result<Vec<Device>> {
    stack_in(Path::new("/sys/dev/block"), number)
}

fn stack_in(root: &Path, number: &str) -> io::Result<Vec<Device>> {
    let top = whole(root.join(number).canonicalize()?)?;
    let mut real = BTreeSet::new();
    leaves(&top, &mut real, 0)?;
    let top = device(&top)?;
    let below = real.into_iter().filter(|device| *device != top).collect::<Vec<_>>();
    Ok([top].into_iter().chain(below).collect())
}

/// The device of a partition; any other device itself.
fn whole(path: PathBuf) -> io::Result<PathBuf> {
    if !path.join("partition").exists() {
        return Ok(path);
    }
    path.parent().map(Path::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Collects the devices that have no others below.
fn leaves(path: &Path, found: &mut BTreeSet<Device>, depth: usize) -> io::Result<()> {
    let below: Vec<PathBuf> = match fs::read_dir(path.join("slaves")) {
        Ok(entries) => entries.map(|entry| entry?.path().canonicalize()).collect::<Result<_, _>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    if below.is_empty() || depth == MAX_DEPTH {
        found.insert(device(path)?);
    }
    for path in below {
        leaves(&whole(path)?, found, depth + 1)?;
    }
    Ok(())
}

fn device(path: &Path) -> io::Result<Device> {
    let name = path.file_name().ok_or(io::ErrorKind::NotFound)?.to_string_lossy().into_owned();
    let number = fs::read_to_string(path.join("dev"))?.trim().to_owned();
    // The active one is in brackets: `none [mq-deadline] bfq`.
    let scheduler = fs::read_to_string(path.join("queue/scheduler")).ok().and_then(|text| {
        let word = text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))?;
        Some(word.to_owned())
    });
    Ok(Device { number, name, scheduler: scheduler.filter(|name| name != "none") })
}

/// The text, such as `8:0`, of a device number of `stat(2)`; `None` for a file system without a block device.
#[must_use]
pub fn number(device: u64) -> Option<String> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    (major != 0).then(|| format!("{major}:{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn make(root: &Path, name: &str, number: &str, below: &[&str]) -> PathBuf {
        let path = root.join("devices").join(name);
        fs::create_dir_all(path.join("slaves")).expect("mkdir");
        fs::create_dir_all(path.join("queue")).expect("mkdir");
        fs::create_dir_all(root.join("block")).expect("mkdir");
        fs::write(path.join("dev"), format!("{number}\n")).expect("writes");
        for name in below {
            let to = root.join("devices").join(name);
            symlink(&to, path.join("slaves").join(to.file_name().expect("a name"))).expect("symlink");
        }
        symlink(&path, root.join("block").join(number)).expect("symlink");
        path
    }

    #[test]
    fn from_a_logical_volume_over_a_mirror_to_two_disks() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let root = temp.path();
        let disk = make(root, "sda", "8:0", &[]);
        fs::write(disk.join("queue/scheduler"), "none [bfq] mq-deadline\n").expect("writes");
        make(root, "sdb", "8:16", &[]);
        let part = make(root, "sda/sda1", "8:1", &[]);
        fs::write(part.join("partition"), "1\n").expect("writes");
        make(root, "md0", "9:0", &["sda/sda1", "sdb"]);
        make(root, "dm-0", "253:0", &["md0"]);
        let found = stack_in(&root.join("block"), "253:0").expect("found");
        let names: Vec<(&str, &str)> =
            found.iter().map(|device| (device.name.as_str(), device.number.as_str())).collect();
        assert_eq!(names, [("dm-0", "253:0"), ("sda", "8:0"), ("sdb", "8:16")]);
        assert_eq!(found[1].scheduler.as_deref(), Some("bfq"));
        let partition = stack_in(&root.join("block"), "8:1").expect("found");
        assert_eq!(partition.iter().map(|device| device.name.as_str()).collect::<Vec<_>>(), ["sda"]);
        assert!(stack_in(&root.join("block"), "1:1").is_err());
    }

    #[test]
    fn a_file_system_without_a_device_has_no_number() {
        assert_eq!(number(rustix::fs::makedev(0, 43)), None);
        assert_eq!(number(rustix::fs::makedev(259, 3)).as_deref(), Some("259:3"));
    }
}
