//! Words of a tenant's declaration: profiles and doors, and how its jail holds its storage.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A word that is not in the table it was looked up in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {0}")]
pub struct UnknownWord(pub &'static str);

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $list:literal, [$($(#[$vdoc:meta])* $variant:ident = $word:literal),* $(,)?]) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            $($(#[$vdoc])* $variant),*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word in configuration and messages.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;
            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                Self::ALL.iter().copied().find(|item| item.word() == text).ok_or(UnknownWord($list))
            }
        }
    };
}

words!(
    /// How tightly a jail is confined beyond its namespaces.
    Profile,
    "web, shell, system",
    [
        /// Full Landlock file-system domain, `no_new_privs`, tight seccomp filter. The default.
        Web = "web",
        /// As `web`, with set-user-id programs working inside.
        Shell = "shell",
        /// A whole userland that may nest mounts and namespaces; the root is writable.
        System = "system",
    ]
);

words!(
    /// A way into a jail.
    Door,
    "exec, ssh, sftp, ftp, cron, socket",
    [
        /// `bailiwick exec` and `bailiwick shell`.
        Exec = "exec",
        /// A login through sshd.
        Ssh = "ssh",
        /// A file transfer through sshd.
        Sftp = "sftp",
        /// A file transfer through an FTP server.
        Ftp = "ftp",
        /// A timed job.
        Cron = "cron",
        /// A connection to a socket of the tenant's services.
        Socket = "socket",
    ]
);

/// How a jail holds the tenant's storage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// It can be written. This is the default: records of earlier versions have no such field.
    #[default]
    ReadWrite,
    /// It can only be read: the tenant is suspended.
    ReadOnly,
}

impl Door {
    /// The doors that may stay open while a tenant is suspended: file transfer works on read-only storage.
    pub const OF_THE_SUSPENDED: &'static [Self] = &[Self::Sftp, Self::Ftp];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for profile in Profile::ALL {
            assert_eq!(profile.word().parse(), Ok(*profile));
        }
        for door in Door::ALL {
            assert_eq!(door.word().parse(), Ok(*door));
        }
        assert!("Web".parse::<Profile>().is_err());
    }
}
