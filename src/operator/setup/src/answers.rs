//! `--answers FILE`: the options of `setup` in a file of TOML, for hosts that are made by a program.

use crate::options::{DoorChoice, FileSystemChoice, Options, PoolChoice, PoolSize};
use bailiwick_proto::Failure;
use bailiwick_types::{ExitStatus, TenantName};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The most bytes of the file.
const MAX_FILE: u64 = 64 << 10;

/// What the file says. What is not in it is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    /// As `--pool`.
    #[serde(default, deserialize_with = "word")]
    pub pool: Option<PoolChoice>,
    /// As `--size`.
    #[serde(default, deserialize_with = "word")]
    pub size: Option<PoolSize>,
    /// As `--fs`.
    #[serde(default, deserialize_with = "word")]
    pub fs: Option<FileSystemChoice>,
    /// As `--doors`.
    #[serde(default)]
    pub doors: Option<Vec<DoorChoice>>,
    /// As `--first`.
    #[serde(default)]
    pub first: Option<TenantName>,
    /// As `--ssh-key`.
    #[serde(default)]
    pub ssh_key: Option<PathBuf>,
    /// As `--yes`.
    #[serde(default)]
    pub yes: bool,
}

/// A value that has the words of the command line.
fn word<'de, D: serde::Deserializer<'de>, T: FromStr<Err = String>>(deserializer: D) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

impl Answers {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, is too large, or has anything in it that `setup` does not know.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let invalid = |why: String| Failure::of(ExitStatus::Invalid, format!("{}: {why}", path.display()));
        let size = std::fs::metadata(path).map_err(|error| invalid(error.to_string()))?.len();
        if size > MAX_FILE {
            return Err(invalid(format!("it has {size} bytes; answers have {MAX_FILE} at most")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| invalid(error.to_string()))?;
        toml::from_str(&text).map_err(|error| invalid(error.to_string().trim_end().to_owned()))
    }

    /// The options: what the command line says, then what the file says, then the defaults.
    #[must_use]
    pub fn or_options(
        &self,
        pool: Option<PoolChoice>,
        size: Option<PoolSize>,
        file_system: Option<FileSystemChoice>,
        doors: Option<Vec<DoorChoice>>,
    ) -> Options {
        Options {
            pool: pool.or_else(|| self.pool.clone()).unwrap_or_default(),
            size: size.or(self.size).unwrap_or_default(),
            file_system: file_system.or(self.fs).unwrap_or_default(),
            doors: doors.or_else(|| self.doors.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Answers, Failure> {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("answers.toml");
        std::fs::write(&path, text).expect("writes");
        Answers::read(&path)
    }

    #[test]
    fn a_file_says_what_the_command_line_does_not() {
        let text = "pool = \"device:/dev/vdb\"\nsize = \"10G\"\nfs = \"ext4\"\ndoors = [\"ssh\", \"ftp\"]\nfirst = \"alice\"\n\
                    ssh_key = \"/root/alice.pub\"\nyes = true\n";
        let answers = read(text).expect("valid");
        assert!(answers.yes && answers.first.is_some() && answers.ssh_key.is_some());
        let options = answers.or_options(None, Some(PoolSize::Percent(10)), None, None);
        assert_eq!(options.pool, PoolChoice::Device("/dev/vdb".into()));
        assert_eq!(options.size, PoolSize::Percent(10), "the command line wins");
        assert_eq!(options.file_system, FileSystemChoice::Ext4);
        assert_eq!(options.doors, Some(vec![DoorChoice::Ssh, DoorChoice::Ftp]));
        assert_eq!(read("").expect("valid").or_options(None, None, None, None), Options::default());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, word) in [
            ("pol = \"auto\"\n", "unknown field `pol`"),
            ("pool = \"lvm\"\n", "expected auto, file, device:DEV"),
            ("\n\nsize = \"0%\"\n", "line 3"),
            ("doors = [\"telnet\"]\n", "telnet"),
            ("first = \"../x\"\n", "line 1"),
            ("pool = \n", "line 1"),
        ] {
            let failure = read(text).expect_err(text);
            assert_eq!(failure.status, ExitStatus::Invalid);
            assert!(failure.message.contains(word) && failure.message.contains("answers.toml"), "{}", failure.message);
        }
        assert_eq!(read(&"#".repeat(70_000)).expect_err("large").status, ExitStatus::Invalid);
    }
}
