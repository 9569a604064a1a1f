//! Control groups as files (`cgroups(7)`): where the hierarchies are mounted, and functions to read, write and list a group.

use crate::{file, proc};
use bailiwick_types::{MountFact, UNIFIED};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The most bytes that are read of a control file.
const MAX_FILE: usize = 64 << 10;
/// The most bytes that are read of a list of processes: the largest `pid_max` of the kernel, with eight bytes for each number.
const MAX_LIST: usize = 4_194_304 * 8;

/// Mount options of version 1 that name no controller.
const NO_CONTROLLER: [&str; 8] = ["rw", "ro", "all", "none", "noprefix", "clone_children", "xattr", "cpuset_v2_mode"];

/// Where the control groups of this host are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies {
    /// The mount of the unified hierarchy (version 2).
    pub unified: Option<PathBuf>,
    /// The mount of each hierarchy of version 1, by its controllers, or by `name=NAME` when it has none. Controllers that share a
    /// hierarchy have the same path.
    pub v1: BTreeMap<String, PathBuf>,
}

/// The hierarchies that this process sees.
///
/// # Errors
/// The error of reading the mount table.
pub fn hierarchies() -> io::Result<Hierarchies> {
    Ok(find(&proc::mounts(std::process::id())?))
}

/// Finds the hierarchies in a mount table.
#[must_use]
pub fn find(mounts: &[MountFact]) -> Hierarchies {
    let mut found = Hierarchies { unified: None, v1: BTreeMap::new() };
    // A bind mount of a group further down is not the hierarchy.
    for mount in mounts.iter().filter(|mount| !mount.covered && mount.root == "/") {
        match mount.fs_type.as_str() {
            "cgroup2" => {
                found.unified.get_or_insert_with(|| PathBuf::from(&mount.target));
            }
            "cgroup" => {
                for option in &mount.super_options {
                    let named = option.starts_with("name=");
                    if named || !(option.contains('=') || NO_CONTROLLER.contains(&option.as_str())) {
                        found.v1.entry(option.clone()).or_insert_with(|| PathBuf::from(&mount.target));
                    }
                }
            }
            _ => {}
        }
    }
    found
}

impl Hierarchies {
    /// The mount of a hierarchy, which is `unified` or a controller of version 1.
    #[must_use]
    pub fn mount_of(&self, hierarchy: &str) -> Option<&Path> {
        if hierarchy == UNIFIED { self.unified.as_deref() } else { self.v1.get(hierarchy).map(PathBuf::as_path) }
    }

    /// The controllers that the unified hierarchy has; none when it is not mounted.
    ///
    /// # Errors
    /// The error of reading `cgroup.controllers`.
    pub fn unified_controllers(&self) -> io::Result<Vec<String>> {
        let Some(mount) = &self.unified else { return Ok(Vec::new()) };
        let text = read(file::open_dir(mount)?, "cgroup.controllers")?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }
}

/// Opens the directory of a group. `path` is its path below the mount of the hierarchy, as in `/proc/PID/cgroup`.
///
/// # Errors
/// The error of `openat2(2)`; `EXDEV` when the path leads out of the hierarchy.
pub fn open(mount: &Path, path: &str) -> io::Result<OwnedFd> {
    let hierarchy = file::open_dir(mount)?;
    match path.trim_start_matches('/') {
        "" => Ok(hierarchy),
        below => file::open_dir_at(hierarchy, below),
    }
}

/// Reads a control file of a group, at most 64 KiB.
///
/// # Errors
/// The errors of `openat2(2)` and `read(2)`.
pub fn read(dir: impl AsFd, name: &str) -> io::Result<String> {
    text(file::read_bounded(file::open_file_at(dir, name)?, MAX_FILE)?)
}

/// Reads an open control file from its beginning, as far as `buffer` reaches.
///
/// # Errors
/// The error of `pread(2)`; `ENODEV` when the group is gone.
pub fn read_again(file: impl AsFd, buffer: &mut [u8]) -> io::Result<&str> {
    let len = rustix::io::pread(file, &mut *buffer, 0)?;
    std::str::from_utf8(&buffer[..len]).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Writes a control file of a group with one `write(2)`, which the kernel takes as one command.
///
/// # Errors
/// The errors of `openat2(2)` and `write(2)`.
pub fn write(dir: impl AsFd, name: &str, text: &str) -> io::Result<()> {
    let fd = file::open_at(dir, name, OFlags::WRONLY | OFlags::NOCTTY, Mode::empty())?;
    let written = rustix::io::write(fd, text.as_bytes())?;
    if written == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Sets up a pressure trigger. The returned descriptor reports `POLLPRI` when some processes of the group have waited for
/// longer than `stall` within `window`, both in microseconds (kernel documentation, accounting/psi). `name` is a file such as
/// `cpu.pressure`.
///
/// # Errors
/// The errors of `openat2(2)` and `write(2)`; `EOPNOTSUPP` while the kernel does not count pressure.
pub fn pressure_trigger(dir: impl AsFd, name: &str, stall: u32, window: u32) -> io::Result<OwnedFd> {
    let fd = file::open_at(dir, name, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty())?;
    rustix::io::write(&fd, format!("some {stall} {window}\0").as_bytes())?;
    Ok(fd)
}

/// The processes of a group, without those of the groups below it.
///
/// # Errors
/// As for [`read`]; `InvalidData` when a line is no number.
pub fn members(dir: impl AsFd) -> io::Result<Vec<u32>> {
    let list = text(file::read_bounded(file::open_file_at(dir, "cgroup.procs")?, MAX_LIST)?)?;
    let pids = list.lines().map(str::parse).collect::<Result<_, _>>();
    pids.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The value of a key in text with lines such as `oom_kill 3`.
#[must_use]
pub fn flat_keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().filter_map(|line| line.split_once(' ')).find(|(name, _)| *name == key)?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_matched_whole() {
        let text = "low 0\noom 4\noom_kill 3\noom_group_kill 9\n";
        assert_eq!(flat_keyed(text, "oom_kill"), Some(3));
        assert_eq!(flat_keyed(text, "oom"), Some(4));
        assert_eq!(flat_keyed(text, "max"), None);
        assert_eq!(flat_keyed("oom_kill", "oom_kill"), None);
        assert_eq!(flat_keyed("oom_kill x", "oom_kill"), None);
    }

    #[test]
    fn hierarchies_of_a_hybrid_host() {
        let table = proc::parse_mounts(
            b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs cgroup rw,mode=755\n\
              30 31 0:30 /deep /sys/fs/cgroup/bind rw - cgroup cgroup rw,memory\n\
              32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
              35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory,clone_children,release_agent=/x\n\
              40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
              41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        let found = find(&table.expect("parses"));
        assert_eq!(found.mount_of("unified"), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(found.mount_of("cpu"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(found.mount_of("cpuacct"), found.mount_of("cpu"));
        assert_eq!(found.mount_of("memory"), Some(Path::new("/sys/fs/cgroup/memory")));
        assert_eq!(found.v1.keys().collect::<Vec<_>>(), ["cpu", "cpuacct", "memory", "name=systemd"]);
    }

    #[test]
    fn this_process_is_a_member_of_its_own_group() {
        let hierarchies = hierarchies().expect("hierarchies");
        let own = proc::cgroups(std::process::id()).expect("own groups");
        let mut seen = 0;
        for (hierarchy, path) in own {
            let Some(mount) = hierarchies.mount_of(&hierarchy) else { continue };
            let group = open(mount, &path).expect("opens");
            assert!(members(&group).expect("members").contains(&std::process::id()), "{hierarchy}");
            seen += 1;
        }
        assert!(seen > 0, "no hierarchy is mounted");
    }

    #[test]
    fn nothing_outside_a_group_can_be_named() {
        let hierarchies = hierarchies().expect("hierarchies");
        let mount = hierarchies.unified.iter().chain(hierarchies.v1.values()).next().expect("a hierarchy");
        let group = open(mount, "/").expect("opens");
        assert_eq!(read(&group, "../../../etc/passwd").expect_err("refused").raw_os_error(), Some(libc::EXDEV));
        assert_eq!(open(mount, "/../..").expect_err("refused").raw_os_error(), Some(libc::EXDEV));
        assert!(write(&group, "no-such-file", "1").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".*", key in "[a-z_]*") {
            let _value = flat_keyed(&text, &key);
        }
    }
}
