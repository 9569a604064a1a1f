//! The steps of a setup, as data: what each of them makes. [`crate::work`] carries them out.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its name, by which the journal knows it.
    pub name: String,
    /// What it does, as a line of a list.
    pub what: String,
    /// What it makes.
    pub work: Work,
}

/// The kinds of file systems that a pool is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileSystem {
    /// XFS.
    Xfs,
    /// ext4.
    Ext4,
}

impl FileSystem {
    /// Its name, as `mount(8)` and `blkid(8)` have it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Xfs => "xfs",
            Self::Ext4 => "ext4",
        }
    }
}

/// What a step makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Work {
    /// A package of the distribution is installed. It stays when the setup is taken back.
    Package {
        /// Its name.
        name: String,
        /// The program that it is needed for.
        program: PathBuf,
    },
    /// A file has exactly this content.
    File {
        /// Its path.
        path: PathBuf,
        /// Its content.
        text: String,
    },
    /// The pool file exists, and all its blocks do.
    PoolFile {
        /// Its path.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// The pool file is a block device, which discards nothing.
    Attach {
        /// The service that does it.
        service: String,
        /// The pool file.
        file: PathBuf,
        /// The name of the device.
        link: PathBuf,
    },
    /// A device has a file system. It must hold nothing before.
    FileSystem {
        /// The device.
        device: PathBuf,
        /// Which one.
        file_system: FileSystem,
        /// Its number.
        uuid: String,
        /// Whether the device is the pool file's.
        is_pool: bool,
    },
    /// It is mounted.
    Mount {
        /// The unit that does it.
        unit: String,
        /// The device.
        device: PathBuf,
        /// Where.
        target: PathBuf,
    },
    /// Units are enabled, so that they start at boot.
    Enabled {
        /// The units.
        units: Vec<String>,
    },
    /// The kernel refuses to write past a quota in a directory.
    Proof {
        /// The directory.
        directory: PathBuf,
    },
    /// sshd hands tenants to Bailiwick.
    Sshd {
        /// The group of tenants' host users.
        group: String,
        /// An id that no user has.
        free_id: u32,
        /// The directory of records of users.
        records: PathBuf,
    },
    /// A server runs with its new configuration.
    Server {
        /// Its unit.
        unit: String,
        /// The program that checks its configuration, with arguments; empty if it has none.
        check: Vec<String>,
    },
    /// nginx has the files of sites.
    Sites {
        /// The folder of these files.
        folder: PathBuf,
        /// The configuration directory.
        config: PathBuf,
    },
    /// Bailiwick runs, and at every boot.
    Started {
        /// The configuration directory.
        config: PathBuf,
    },
}
