//! `bailiwick pool`: what the tenants' disk is, and how a pool file grows while tenants run.

use crate::machine::Machine;
use crate::units::{POOL_FILE, POOL_LINK};
use crate::work;
use bailiwick_proto::Failure;
use bailiwick_types::{ByteSize, ExitStatus, QuotaFacts};
use serde::Serialize;
use std::path::Path;
use std::str::FromStr;

const MIB: u64 = 1 << 20;

/// What the tenants' disk is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolReport {
    /// The state directory.
    pub state_dir: String,
    /// The type of its file system.
    pub fs_type: String,
    /// Whether disk limits hold there.
    pub limits_hold: bool,
    /// Its size in bytes.
    pub size: u64,
    /// What is free of it.
    pub free: u64,
    /// The device below it.
    pub device: Option<String>,
    /// The pool file, if the device is one.
    pub file: Option<PoolFile>,
    /// What is wrong with it, as sentences.
    pub problems: Vec<String>,
}

/// A pool file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolFile {
    /// Its path.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// How many bytes of it are allocated.
    pub allocated: u64,
    /// What is free beside it, for it to grow.
    pub free_beside: u64,
}

/// How large a pool should become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrowTo {
    /// This size.
    Size(u64),
    /// This much larger.
    By(u64),
}

impl FromStr for GrowTo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = |text: &str| text.parse::<ByteSize>().map(|size| size.0).map_err(|error| error.to_string());
        match text.strip_prefix('+') {
            Some(more) => size(more).map(Self::By),
            None => size(text).map(Self::Size),
        }
    }
}

/// What the disk of a state directory is.
pub fn pool_report(machine: &mut Machine<'_>, state_dir: &Path) -> PoolReport {
    let at = machine.at(state_dir);
    let storage = machine.system().storage(&at);
    let (size, free) = machine.space(state_dir);
    let backing = bailiwick_observe::pool_backing(&storage);
    let file = backing.as_ref().map(|backing| PoolFile {
        path: backing.file.clone(),
        size: backing.size,
        allocated: backing.allocated,
        free_beside: bailiwick_observe::space(Path::new(&backing.file)).map_or(0, |(_, free)| free),
    });
    let mut problems: Vec<String> = backing.iter().flat_map(bailiwick_observe::PoolBacking::problems).collect();
    if let QuotaFacts::Nothing { why, .. } = &storage.quota {
        problems.push(format!("no disk limit holds: {why}"));
    }
    PoolReport {
        state_dir: state_dir.display().to_string(),
        limits_hold: storage.quota.bounds_anything(),
        size,
        free,
        device: storage.devices.first().map(|device| format!("/dev/{}", device.name)),
        fs_type: storage.fs_type,
        file,
        problems,
    }
}

/// Makes the pool file of this host larger, then its device, then its file system, while tenants run. What is done already is
/// left as it is, so a run that was killed is ended by the same command.
///
/// # Errors
/// When there is no pool file, when it would become smaller, or when there is no room. Then nothing has changed.
pub fn grow(
    machine: &mut Machine<'_>,
    state_dir: &Path,
    to: GrowTo,
    progress: &mut dyn FnMut(&str),
) -> Result<u64, Failure> {
    let file = Path::new(POOL_FILE);
    let refuse = |status, message: String| Err(Failure::of(status, message));
    let Some((now, _)) = machine.allocation(file) else {
        return refuse(
            ExitStatus::NotFound,
            format!(
                "there is no \"{POOL_FILE}\": only a pool file grows this way; grow a device as its own tools do, then run xfs_growfs or resize2fs"
            ),
        );
    };
    let Some(name) = work::device_name(machine, Path::new(POOL_LINK)) else {
        return refuse(
            ExitStatus::HostCannot,
            format!("{POOL_LINK} is not there; see `systemctl status bailiwick-pool.service`"),
        );
    };
    let wanted = match to {
        GrowTo::Size(size) => size,
        GrowTo::By(more) => now.saturating_add(more),
    } / MIB
        * MIB;
    if wanted < now {
        let (wanted, now) = (ByteSize(wanted), ByteSize(now));
        return refuse(
            ExitStatus::Refused,
            format!("the pool has {now}, and cannot become smaller ({wanted}); `bailiwick setup` makes a new one"),
        );
    }
    let (_, free) = machine.space(Path::new("/var/lib"));
    if wanted - now > free {
        let [wanted, free] = [wanted - now, free].map(|bytes| ByteSize(bytes).rounded());
        return refuse(ExitStatus::HostCannot, format!("{wanted} more do not fit: {free} are free below /var/lib"));
    }
    progress(&format!("allocating {}", ByteSize(wanted).rounded()));
    machine.allocate_to(file, wanted)?;
    progress("telling the block device");
    let device = machine.text_at(POOL_LINK);
    machine.must("losetup", &["-c", &device])?;
    progress("growing the file system");
    let at = machine.at(state_dir);
    if machine.system().storage(&at).fs_type == "xfs" {
        machine.must("xfs_growfs", &[&at.to_string_lossy()])?;
    } else {
        machine.must("resize2fs", &[&format!("/dev/{name}")])?;
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_or_so_much_more() {
        assert_eq!("80G".parse(), Ok(GrowTo::Size(80 << 30)));
        assert_eq!("+10G".parse(), Ok(GrowTo::By(10 << 30)));
        for bad in ["", "+", "-5G", "60%"] {
            assert!(bad.parse::<GrowTo>().is_err(), "{bad}");
        }
    }
}
