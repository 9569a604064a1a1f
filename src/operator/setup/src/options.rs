//! What the operator chose: where the tenants' disk is, how large, and which doors are wired.

use bailiwick_types::ByteSize;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the tenants' disk is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolChoice {
    /// The state directory as it is if quotas hold there, or else a file.
    #[default]
    Auto,
    /// A file with a file system of its own.
    File,
    /// A disk, a partition or a logical volume that holds nothing.
    Device(PathBuf),
    /// The state directory as it is; quotas must hold there.
    Here,
    /// Nothing: no disk limit holds.
    None,
}

impl FromStr for PoolChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "file" => Ok(Self::File),
            "here" => Ok(Self::Here),
            "none" => Ok(Self::None),
            _ => match text.strip_prefix("device:") {
                Some(path) if path.starts_with("/dev/") => Ok(Self::Device(path.into())),
                Some(_) => Err("a device is a path below /dev, such as \"device:/dev/vdb\"".to_owned()),
                None => Err("expected auto, file, device:DEV, here or none".to_owned()),
            },
        }
    }
}

impl fmt::Display for PoolChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::File => f.write_str("file"),
            Self::Device(path) => write!(f, "device:{}", path.display()),
            Self::Here => f.write_str("here"),
            Self::None => f.write_str("none"),
        }
    }
}

/// The size of the pool file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolSize {
    /// A share of what is free, in per cent.
    Percent(u8),
    /// A number of bytes.
    Bytes(u64),
}

impl Default for PoolSize {
    fn default() -> Self {
        Self::Percent(60)
    }
}

impl FromStr for PoolSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent: u8 = percent.parse().map_err(|_| "expected a share such as \"60%\"".to_owned())?;
            return match percent {
                1..=95 => Ok(Self::Percent(percent)),
                _ => Err("a share is 1% to 95% of what is free".to_owned()),
            };
        }
        text.parse::<ByteSize>().map(|size| Self::Bytes(size.0)).map_err(|error| error.to_string())
    }
}

/// A door that `setup` wires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DoorChoice {
    /// Logins by ssh.
    Ssh,
    /// Files by sftp, also by the host's sshd.
    Sftp,
    /// Files by ftp, by vsftpd or ProFTPD.
    Ftp,
    /// Sites behind the host's nginx.
    Web,
}

impl FromStr for DoorChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ssh" => Ok(Self::Ssh),
            "sftp" => Ok(Self::Sftp),
            "ftp" => Ok(Self::Ftp),
            "web" => Ok(Self::Web),
            _ => Err("expected ssh, sftp, ftp or web".to_owned()),
        }
    }
}

/// The file system of a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileSystemChoice {
    /// XFS where it can be had, or else ext4.
    #[default]
    Auto,
    /// XFS.
    Xfs,
    /// ext4.
    Ext4,
}

impl FromStr for FileSystemChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "xfs" => Ok(Self::Xfs),
            "ext4" => Ok(Self::Ext4),
            _ => Err("expected auto, xfs or ext4".to_owned()),
        }
    }
}

/// Everything that the operator chose.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Where the tenants' disk is.
    pub pool: PoolChoice,
    /// The size of the pool file.
    pub size: PoolSize,
    /// The file system of the pool.
    pub file_system: FileSystemChoice,
    /// The doors to wire; `None` for those of ssh if sshd is installed.
    pub doors: Option<Vec<DoorChoice>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_command_line() {
        for word in ["auto", "file", "here", "none", "device:/dev/vdb"] {
            assert_eq!(word.parse::<PoolChoice>().expect(word).to_string(), word);
        }
        for word in ["", "device:", "device:vdb", "lvm"] {
            assert!(word.parse::<PoolChoice>().is_err(), "{word}");
        }
        assert_eq!("60%".parse(), Ok(PoolSize::Percent(60)));
        assert_eq!("50G".parse(), Ok(PoolSize::Bytes(50 << 30)));
        for word in ["0%", "96%", "-1%", "50", "x", "", "%"] {
            let parsed = word.parse::<PoolSize>();
            assert!(parsed.is_err() || parsed == Ok(PoolSize::Bytes(50)), "{word}: {parsed:?}");
        }
        assert!("telnet".parse::<DoorChoice>().is_err() && "ftp".parse::<DoorChoice>().is_ok());
        assert!("btrfs".parse::<FileSystemChoice>().is_err());
    }
}
