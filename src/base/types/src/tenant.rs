//! Words of a tenant's declaration: profiles, doors, and a jail's access to the storage.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The word is not in the table. The field lists the accepted words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {0}")]
pub struct UnknownWord(pub &'static str);

/// Makes a type of a list of words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $list:literal, [$($(#[$vdoc:meta])* $variant:ident = $word:literal),* $(,)?]) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name {
            $($(#[$vdoc])* $variant),*
        }

        impl $name {
            /// All values.
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

pub(crate) use words;

words!(
    /// How tightly a jail is confined beyond its namespaces.
    Profile,
    "web, shell, system",
    [
        /// The default: a full Landlock file-system domain, `no_new_privs`, and a tight seccomp filter.
        Web = "web",
        /// The same as `web`, but set-user-id programs work inside.
        Shell = "shell",
        /// A complete userland with a writable root. It may create mounts and namespaces.
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

/// A jail's access to the tenant's storage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Read and write. This is the default, because records of earlier versions have no such field.
    #[default]
    ReadWrite,
    /// Read only: the tenant is suspended.
    ReadOnly,
}

/// Who had the processes of a jail frozen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrozenBy {
    /// An operator. This is the default, because records and requests of earlier versions have no such field.
    #[default]
    Operator,
    /// `bailiwickd`, because the tenant was idle. Whatever needs the jail thaws it.
    Idle,
}

impl FrozenBy {
    /// Whether an operator did it.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        *self == Self::Operator
    }
}

impl Door {
    /// The doors that may stay open while a tenant is suspended. They transfer files, which works on read-only storage.
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

/// Whether users inside a jail may make user namespaces, as programs that run containers do. Only the profile `system` lets
/// them. In a user namespace of its own, a process reaches more of the kernel than root of the jail does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nesting {
    /// The kernel makes no user namespace for them.
    #[default]
    Refused,
    /// It does.
    Allowed,
}

impl From<bool> for Nesting {
    fn from(nests: bool) -> Self {
        if nests { Self::Allowed } else { Self::Refused }
    }
}
