//! Reads the host: the facts that a plan needs, and the readings that `doctor` explains to the operator.

use crate::ObserveError;
use crate::storage::storage_facts;
use bailiwick_plan::kernel;
use bailiwick_plan::mount::HOST_ETC;
use bailiwick_sys::cgroup::{self, Hierarchies};
use bailiwick_sys::{file, landlock, namespace, proc};
use bailiwick_types::HostFacts;
use bailiwick_types::NAMESPACES;
use bailiwick_types::{Hierarchy, UNIFIED};
use rustix::fs::FileType;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The most bytes of a file about the host.
const MAX_FILE: usize = 1 << 20;

/// Controllers, each by the name in plans and by the name in version 1.
const CONTROLLERS: [(&str, &str); 4] = [("cpu", "cpu"), ("memory", "memory"), ("pids", "pids"), ("io", "blkio")];

/// Names that are links in the root directory of a host with a merged `/usr`.
const ROOT_LINKS: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Reads a small file of the host. Its path must contain no link.
pub(crate) fn text(path: &str) -> Result<String, ObserveError> {
    let read = || -> io::Result<String> {
        let (dir, name) = path.rsplit_once('/').ok_or(io::ErrorKind::InvalidInput)?;
        let dir = file::open_dir(Path::new(if dir.is_empty() { "/" } else { dir }))?;
        let bytes = file::read_bounded(file::open_file_at(dir, name)?, MAX_FILE)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().map_err(|source| ObserveError::File { path: path.to_owned(), source })
}

/// The facts that every plan on this host depends on. Works for any user, but only root can read disk quotas.
///
/// # Errors
/// When the mount table or the kernel's release cannot be read.
pub fn host_facts(state_dir: &Path) -> Result<HostFacts, ObserveError> {
    let hierarchies = cgroup::hierarchies().map_err(ObserveError::Hierarchies)?;
    facts(&hierarchies, state_dir)
}

fn facts(hierarchies: &Hierarchies, state_dir: &Path) -> Result<HostFacts, ObserveError> {
    let unified = hierarchies.unified_controllers().map_err(ObserveError::Hierarchies)?;
    Ok(HostFacts {
        kernel: text("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        landlock_abi: landlock::abi(),
        controllers: controllers(&unified, hierarchies),
        root_links: root_links(Path::new("/")),
        host_etc: host_etc(Path::new("/etc")),
        unlisted: unlisted(),
        storage: storage_facts(state_dir, hierarchies.mount_of(UNIFIED)),
    })
}

fn controllers(unified: &[String], hierarchies: &Hierarchies) -> BTreeMap<String, Hierarchy> {
    let place = |name: &str, old: &str| {
        if unified.iter().any(|controller| controller == name) {
            Some(Hierarchy::Unified)
        } else {
            hierarchies.mount_of(old).map(|_| Hierarchy::V1)
        }
    };
    CONTROLLERS.iter().filter_map(|(name, old)| Some(((*name).to_owned(), place(name, old)?))).collect()
}

/// The links in the host's root directory that lead into `usr`.
fn root_links(root: &Path) -> BTreeMap<String, String> {
    let link = |name: &str| {
        let to = std::fs::read_link(root.join(name)).ok()?.into_os_string().into_string().ok()?;
        to.trim_start_matches('/').starts_with("usr/").then_some((name.to_owned(), to))
    };
    ROOT_LINKS.iter().filter_map(|name| link(name)).collect()
}

/// The parts of the host's `/etc` that a jail can show. A part that is a link or lies behind one is left out.
fn host_etc(etc: &Path) -> Vec<String> {
    let Ok(etc) = file::open_dir(etc) else { return Vec::new() };
    let has = |entry: &&&str| file::open_file_at(etc.as_fd(), entry).is_ok();
    HOST_ETC.iter().filter(has).map(|entry| (*entry).to_owned()).collect()
}

/// The entries of this kernel below `/proc` that no list names. A link is left out, because the list covers its target.
fn unlisted() -> Vec<String> {
    let mut found = Vec::new();
    for (path, listed) in kernel::LISTED {
        let entries = match *path {
            "/proc" => proc::kernel_entries(),
            path => file::open_dir(Path::new(path)).and_then(file::entries),
        };
        for (name, kind) in entries.into_iter().flatten() {
            let Ok(name) = name.into_string() else { continue };
            if kind != FileType::Symlink && !kernel::is_listed(listed, &name) {
                found.push(format!("{path}/{name}"));
            }
        }
    }
    found
}

/// The pools whose size `doctor` judges.
const POOLS: [(&str, &str); 4] = [
    ("kernel.pty.max", "/proc/sys/kernel/pty/max"),
    ("kernel.pty.reserve", "/proc/sys/kernel/pty/reserve"),
    ("fs.file-max", "/proc/sys/fs/file-max"),
    ("net.netfilter.nf_conntrack_max", "/proc/sys/net/netfilter/nf_conntrack_max"),
];

/// How the program that becomes PID 1 is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linkage {
    /// The program needs no loader.
    Static,
    /// The program names a loader. Inside a jail that loader would be the tenant's.
    Dynamic,
    /// The file is no 64-bit little-endian ELF program.
    Unknown,
    /// This user may not read the file.
    Closed,
}

/// What was read of one kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamespaceReading {
    /// Whether the kernel has this kind.
    pub present: bool,
    /// How many one user may create (`namespaces(7)`, `/proc/sys/user`); `None` when this cannot be read.
    pub most: Option<u64>,
}

/// What `doctor` reads of the host, beyond the facts of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostReadings {
    /// The facts that a plan needs.
    pub facts: HostFacts,
    /// Where the unified hierarchy is mounted.
    pub unified: Option<PathBuf>,
    /// Whether groups have `cgroup.kill`; `None` when there is no group to examine.
    pub group_kill: Option<bool>,
    /// Whether the kernel measures how long processes wait (PSI). It may be built without PSI, or booted with PSI off.
    pub pressure: bool,
    /// Whether swap is counted for each group; `None` when there is no group to examine.
    pub swap_accounting: Option<bool>,
    /// Each kind of namespace.
    pub namespaces: BTreeMap<&'static str, NamespaceReading>,
    /// The kernel's pools that tenants share, by the name of their sysctl. A pool that cannot be read is left out.
    pub pools: BTreeMap<&'static str, u64>,
    /// Whether AppArmor withholds capabilities from unprivileged user namespaces.
    pub user_namespaces_restricted: bool,
    /// The actions that seccomp filters may return (`seccomp(2)`); empty when there are no filters.
    pub seccomp_actions: Vec<String>,
    /// The file systems that the kernel has now. File systems of modules that are not loaded are left out.
    pub file_systems: BTreeSet<String>,
    /// What the kernel does with a crash (`core_pattern`, `core(5)`); empty when it cannot be read.
    pub core_pattern: String,
    /// Whether no module can be loaded until the next boot; `None` when the kernel supports no modules.
    pub modules_disabled: Option<bool>,
    /// Path of the program that becomes PID 1 of jails.
    pub init: PathBuf,
    /// How that program is linked; `None` when it cannot be found.
    pub init_linkage: Option<Linkage>,
    /// Whether every user may read that program, and so every process in a jail.
    pub init_readable: bool,
}

/// Reads the host. Works for any user.
///
/// # Errors
/// As [`host_facts`].
pub fn host_readings(state_dir: &Path) -> Result<HostReadings, ObserveError> {
    let hierarchies = cgroup::hierarchies().map_err(ObserveError::Hierarchies)?;
    let facts = facts(&hierarchies, state_dir)?;
    let unified_groups = hierarchies.mount_of(UNIFIED).map(sample_groups).unwrap_or_default();
    let swap_accounting = match facts.controller("memory") {
        Some(Hierarchy::Unified) => has_beside(&unified_groups, "memory.max", "memory.swap.max"),
        // The root of version 1 has the file too.
        Some(Hierarchy::V1) => hierarchies.mount_of("memory").and_then(|mount| {
            has_beside(&[cgroup::open(mount, "/").ok()?], "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        }),
        None => None,
    };
    let init = program("bailiwick-init");
    Ok(HostReadings {
        unified: hierarchies.unified.clone(),
        group_kill: has_beside(&unified_groups, "cgroup.events", "cgroup.kill"),
        // When pressure is switched off, the file exists but cannot be read.
        pressure: text("/proc/pressure/cpu").is_ok(),
        swap_accounting,
        pools: POOLS.iter().filter_map(|(name, path)| Some((*name, text(path).ok()?.trim().parse().ok()?))).collect(),
        namespaces: NAMESPACES.iter().map(|kind| (*kind, namespace_reading(kind))).collect(),
        user_namespaces_restricted: text("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
            .is_ok_and(|text| text.trim() == "1"),
        seccomp_actions: words(text("/proc/sys/kernel/seccomp/actions_avail")),
        file_systems: text("/proc/filesystems")
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.split_whitespace().next_back().map(str::to_owned))
            .collect(),
        core_pattern: text("/proc/sys/kernel/core_pattern").unwrap_or_default().trim().to_owned(),
        modules_disabled: text("/proc/sys/kernel/modules_disabled").ok().map(|text| text.trim() == "1"),
        init_linkage: linkage(&init),
        init_readable: std::fs::metadata(&init).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0),
        init,
        facts,
    })
}

fn words(text: Result<String, ObserveError>) -> Vec<String> {
    text.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

fn namespace_reading(kind: &str) -> NamespaceReading {
    NamespaceReading {
        present: namespace::inode(std::process::id(), kind).is_ok(),
        most: text(&format!("/proc/sys/user/max_{kind}_namespaces")).ok().and_then(|text| text.trim().parse().ok()),
    }
}

/// Some groups other than the root, which lacks most files: this process's own group and those of the first level.
fn sample_groups(mount: &Path) -> Vec<OwnedFd> {
    let own = proc::cgroups(std::process::id()).ok().and_then(|groups| groups.get(UNIFIED).cloned());
    let own = own.filter(|path| path != "/").and_then(|path| cgroup::open(mount, &path).ok());
    let Ok(root) = file::open_dir(mount) else { return Vec::new() };
    let names = file::names(root.as_fd()).unwrap_or_default();
    own.into_iter().chain(names.iter().filter_map(|name| file::open_dir_at(root.as_fd(), name).ok())).collect()
}

/// Whether the first group that has the file `anchor` also has the file `wanted`. `None` when no group has `anchor`.
fn has_beside(groups: &[OwnedFd], anchor: &str, wanted: &str) -> Option<bool> {
    let has = |group: &OwnedFd, name: &str| file::metadata_at(group.as_fd(), name).is_ok();
    groups.iter().find(|group| has(group, anchor)).map(|group| has(group, wanted))
}

/// Path of one of Bailiwick's programs that no user calls directly: beside the running program, or where packages put
/// it.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let beside = std::env::current_exe().unwrap_or_default().with_file_name(name);
    if beside.exists() { beside } else { Path::new("/usr/libexec/bailiwick").join(name) }
}

fn linkage(program: &Path) -> Option<Linkage> {
    let file = match std::fs::File::open(program) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Some(Linkage::Closed),
        Err(_) => return None,
    };
    Some(match bailiwick_sys::elf::needs_loader(file) {
        Ok(false) => Linkage::Static,
        Ok(true) => Linkage::Dynamic,
        Err(_) => Linkage::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_this_host() {
        let facts = host_facts(Path::new("/var/lib")).expect("reads");
        assert!(facts.kernel.starts_with(|first: char| first.is_ascii_digit()), "{}", facts.kernel);
        for (name, to) in &facts.root_links {
            assert_eq!(std::fs::read_link(Path::new("/").join(name)).expect("a link").to_str(), Some(to.as_str()));
        }
        for entry in &facts.host_etc {
            assert!(Path::new("/etc").join(entry).exists(), "{entry}");
        }
    }

    #[test]
    fn readings_of_this_host() {
        let readings = host_readings(Path::new("/var/lib")).expect("reads");
        assert!(readings.file_systems.contains("proc"));
        assert!(readings.namespaces.values().all(|namespace| namespace.present));
        assert!(POOLS.iter().all(|(name, path)| readings.pools.contains_key(name) == Path::new(path).exists()));
        assert_eq!(linkage(Path::new("/no/such/program")), None);
    }

    #[test]
    fn a_controller_is_taken_from_the_unified_hierarchy_first() {
        let hierarchies = Hierarchies {
            unified: Some("/sys/fs/cgroup/unified".into()),
            v1: [("memory", "/m"), ("cpu", "/c"), ("blkio", "/b")]
                .map(|(name, path)| (name.into(), path.into()))
                .into(),
        };
        let found = controllers(&["cpu".to_owned(), "hugetlb".to_owned()], &hierarchies);
        let want = [("cpu", Hierarchy::Unified), ("io", Hierarchy::V1), ("memory", Hierarchy::V1)];
        assert_eq!(found, want.map(|(name, hierarchy)| (name.to_owned(), hierarchy)).into());
    }

    #[test]
    fn only_links_into_usr_and_only_entries_without_links_count() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let root = temp.path().canonicalize().expect("real path");
        for (name, to) in [("bin", "usr/bin"), ("lib", "/usr/lib"), ("lib64", "elsewhere")] {
            std::os::unix::fs::symlink(to, root.join(name)).expect("symlink");
        }
        std::fs::create_dir(root.join("sbin")).expect("mkdir");
        let links = root_links(&root);
        assert_eq!(links.keys().collect::<Vec<_>>(), ["bin", "lib"]);
        std::fs::write(root.join("services"), "").expect("write");
        std::os::unix::fs::symlink("services", root.join("protocols")).expect("symlink");
        assert_eq!(host_etc(&root), ["services"]);
    }
}
