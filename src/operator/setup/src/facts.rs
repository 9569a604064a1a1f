//! What the host is, read before anything is planned. Nothing is changed by reading it.

use crate::doors::DoorFacts;
use crate::journal::Journal;
use crate::machine::{Machine, Said};
use crate::options::{Options, PoolChoice};
use crate::step::{FileSystem, Work};
use crate::units::POOL_FILE;
use bailiwick_policy::Host;
use bailiwick_proto::Failure;
use bailiwick_types::{ExitStatus, QuotaFacts};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The plan that the package brings for most tenants, below the configuration directory.
pub(crate) const SMALL_PLAN: &str = "plans.d/small.toml";

/// What the host is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The configuration directory.
    pub config: PathBuf,
    /// The content of `bailiwick.toml` in it.
    pub config_text: String,
    /// The content of `plans.d/small.toml` in it, if it is there.
    pub small_plan: Option<String>,
    /// The state directory.
    pub state_dir: PathBuf,
    /// The runtime directory.
    pub runtime_dir: PathBuf,
    /// The group of tenants' host users.
    pub login_group: String,
    /// An id of a host user that no tenant is likely to have.
    pub free_id: u32,
    /// The directory of records of users.
    pub records: PathBuf,
    /// What is kept of disk space for the host.
    pub reserve: u64,
    /// The group of the web server, if `bailiwick.toml` names one.
    pub web_group: Option<String>,
    /// The tenants that have a file or data.
    pub tenants: Vec<String>,
    /// The type of the file system that holds the state directory.
    pub state_type: String,
    /// What that file system enforces.
    pub state_quota: QuotaFacts,
    /// Its size in bytes.
    pub state_size: u64,
    /// The type of the file system that a pool file would be on.
    pub below_type: String,
    /// Its size, and what is free of it.
    pub below_space: (u64, u64),
    /// The size of a file with the pool's name, if there is one.
    pub pool_file: Option<u64>,
    /// The pool that an earlier setup made.
    pub own_pool: Option<OwnPool>,
    /// The device that the operator named.
    pub device: Option<DeviceFacts>,
    /// XFS.
    pub xfs: FileSystemFacts,
    /// ext4, with quotas.
    pub ext4: FileSystemFacts,
    /// The release of the kernel.
    pub kernel: String,
    /// A fresh number for a file system.
    pub uuid: String,
    /// The servers that lead to tenants.
    pub doors: DoorFacts,
}

/// A pool that an earlier setup made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnPool {
    /// Its device.
    pub device: PathBuf,
    /// Its file system.
    pub file_system: FileSystem,
    /// The number of that.
    pub uuid: String,
    /// The size of its file as it was made or has grown; `None` for a device.
    pub size: Option<u64>,
}

/// A device that the operator named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// Its size in bytes; 0 when it is no block device.
    pub size: u64,
    /// What was found on it, or what uses it.
    pub found: Option<String>,
}

/// Whether a kind of file system can be had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystemFacts {
    /// The kernel has it, with what counts its quotas.
    pub kernel: bool,
    /// The program that makes it is installed.
    pub program: bool,
    /// The package of that program can be installed.
    pub package: bool,
}

impl FileSystemFacts {
    /// Whether it can be used.
    #[must_use]
    pub fn can_be_had(self) -> bool {
        self.kernel && (self.program || self.package)
    }
}

impl Facts {
    /// Reads the facts.
    pub(crate) fn read(
        machine: &mut Machine<'_>,
        config: &Path,
        journal: &Journal,
        options: &Options,
    ) -> Result<Self, Failure> {
        let config_path = config.join("bailiwick.toml");
        let config_text = machine.read_text(&config_path)?.unwrap_or_default();
        let host = host(&config_path, &config_text)?;
        let state = {
            let at = machine.at(&host.state_dir);
            machine.system().storage(&at)
        };
        let below = {
            let at = machine.at("/var/lib");
            machine.system().storage(&at)
        };
        let device = match &options.pool {
            PoolChoice::Device(path) => Some(device(machine, path)?),
            _ => None,
        };
        Ok(Self {
            config: config.to_owned(),
            config_text,
            small_plan: machine.read_text(config.join(SMALL_PLAN))?,
            tenants: tenants(machine, config, &host.state_dir),
            state_type: state.fs_type,
            state_quota: state.quota,
            state_size: machine.space(&host.state_dir).0,
            below_type: below.fs_type,
            below_space: machine.space(Path::new("/var/lib")),
            pool_file: machine.allocation(Path::new(POOL_FILE)).map(|(size, _)| size),
            own_pool: own_pool(machine, journal),
            device,
            xfs: file_system(machine, FileSystem::Xfs)?,
            ext4: file_system(machine, FileSystem::Ext4)?,
            kernel: machine.kernel_text("/proc/sys/kernel/osrelease").unwrap_or_default(),
            uuid: machine.kernel_text("/proc/sys/kernel/random/uuid").unwrap_or_default(),
            doors: DoorFacts::read(machine)?,
            login_group: host.login_group.clone(),
            free_id: host.ids.first().saturating_sub(1),
            records: host.user_records(),
            reserve: host.reserve.disk.0,
            web_group: host.web.group.as_ref().map(ToString::to_string),
            state_dir: host.state_dir,
            runtime_dir: host.runtime_dir,
        })
    }
}

/// The host's settings.
pub(crate) fn host(path: &Path, text: &str) -> Result<Host, Failure> {
    let reading = bailiwick_policy::parse(&[("bailiwick.toml".into(), text)]);
    let valid = reading.policy.filter(|_| reading.diagnostics.is_empty());
    let invalid = || {
        let message = format!("\"{}\" has errors, so nothing is planned; `bailiwick check` names them", path.display());
        Failure::of(ExitStatus::Invalid, message)
    };
    valid.map(|policy| policy.host).ok_or_else(invalid)
}

/// The tenants that have a file, or data in the state directory.
pub(crate) fn tenants(machine: &Machine<'_>, config: &Path, state_dir: &Path) -> Vec<String> {
    let names = |path: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(machine.at(path)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let declared = names(&config.join("tenants.d")).into_iter().filter_map(|name| {
        let name = name.strip_suffix(".toml")?;
        (!name.starts_with('.')).then(|| name.to_owned())
    });
    let with_data = names(&state_dir.join("tenants")).into_iter().filter(|name| !name.starts_with('.'));
    let mut all: Vec<String> = declared.chain(with_data).collect();
    all.sort();
    all.dedup();
    all
}

fn own_pool(machine: &Machine<'_>, journal: &Journal) -> Option<OwnPool> {
    let Some(Work::FileSystem { device, file_system, uuid, is_pool }) = journal.file_system() else { return None };
    let grown = machine.allocation(Path::new(POOL_FILE)).map(|(size, _)| size);
    let size = if *is_pool { journal.pool_size().max(grown) } else { None };
    Some(OwnPool { device: device.clone(), file_system: *file_system, uuid: uuid.clone(), size })
}

fn file_system(machine: &mut Machine<'_>, kind: FileSystem) -> Result<FileSystemFacts, Failure> {
    let has = |machine: &mut Machine<'_>, name: &str| {
        let known = machine.kernel_text("/proc/filesystems").unwrap_or_default();
        known.lines().any(|line| line.trim() == name)
            || machine.ask("modprobe", &["-n", "-q", name]).is_ok_and(|said| said.is_ok())
    };
    let kernel = match kind {
        FileSystem::Xfs => has(machine, "xfs"),
        // Without this format an ext4 with quotas cannot be mounted.
        FileSystem::Ext4 => has(machine, "ext4") && has(machine, "quota_v2"),
    };
    let program = machine.exists(format!("/usr/sbin/mkfs.{}", kind.word()));
    let package = if program { false } else { is_installable(machine, package_of(kind))? };
    Ok(FileSystemFacts { kernel, program, package })
}

/// The package that has the programs of a file system.
pub(crate) fn package_of(kind: FileSystem) -> &'static str {
    match kind {
        FileSystem::Xfs => "xfsprogs",
        FileSystem::Ext4 => "e2fsprogs",
    }
}

fn is_installable(machine: &mut Machine<'_>, package: &str) -> Result<bool, Failure> {
    if !machine.exists("/usr/bin/apt-get") {
        return Ok(false);
    }
    let said = machine.ask("apt-cache", &["policy", package])?;
    let candidate = said.out.lines().find_map(|line| line.trim().strip_prefix("Candidate:"));
    Ok(candidate.is_some_and(|version| version.trim() != "(none)"))
}

/// What is on a device, or uses it. A device that holds anything is never used.
pub(crate) fn device(machine: &mut Machine<'_>, path: &Path) -> Result<DeviceFacts, Failure> {
    let at = machine.text_at(path);
    let found = |why: String| DeviceFacts { size: 0, found: Some(why) };
    let size = machine.ask("blockdev", &["--getsize64", &at])?;
    let Some(size) = size.out.trim().parse::<u64>().ok().filter(|_| size.is_ok()) else {
        return Ok(found(format!("it is no block device: {}", size.complaint())));
    };
    Ok(DeviceFacts { size, found: signature(machine, &at)? })
}

/// What `wipefs(8)` and `blkid(8)` find on a device, and whether anything uses it.
pub(crate) fn signature(machine: &mut Machine<'_>, device: &str) -> Result<Option<String>, Failure> {
    let listed = machine.ask("wipefs", &["-n", "--noheadings", "-O", "TYPE,LABEL,UUID", device])?;
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    if !listed.is_ok() {
        return Ok(Some(listed.complaint()));
    }
    if !listed.out.trim().is_empty() {
        return Ok(Some(words(&listed.out)));
    }
    // 2: nothing was found. Anything else is a signature, or one that cannot be told (blkid(8)).
    let probed = machine.ask("blkid", &["-p", device])?;
    if probed.status != Some(2) {
        return Ok(Some(if probed.is_ok() { words(&probed.out) } else { probed.complaint() }));
    }
    let below = machine.ask("lsblk", &["-n", "-r", "-o", "NAME,TYPE,MOUNTPOINTS", device])?;
    Ok(in_use(&below))
}

/// What is made of a device, or where it is mounted: every line of `lsblk(8)` but that of the device itself.
fn in_use(below: &Said) -> Option<String> {
    let mut lines = below.out.lines();
    let own = lines.next().unwrap_or_default();
    if own.split(' ').nth(2).is_some_and(|mounted| !mounted.is_empty()) {
        return Some(format!("it is mounted or swapped to: {own}"));
    }
    lines.next().map(|line| format!("something is made of it: {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_anything_uses_is_told() {
        let of = |text: &str| in_use(&Said { status: Some(0), out: text.to_owned(), err: String::new() });
        assert_eq!(of("vdb disk \n"), None);
        assert_eq!(of("vdb disk\n"), None);
        assert!(of("vdb disk /mnt\n").is_some_and(|why| why.contains("/mnt")));
        assert!(of("vdb disk \nvdb1 part \n").is_some_and(|why| why.contains("vdb1")));
    }
}
