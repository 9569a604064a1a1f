//! The words of `[[notice]]` and `[contact]`: of what somebody is told, when, and who that is.

use crate::{MailAddress, Measure, Period};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

macro_rules! words {
    ($(#[$doc:meta])* $type:ident $error:ident $what:literal { $($(#[$item:meta])* $name:ident = $word:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $type { $($(#[$item])* #[serde(rename = $word)] $name,)* }

        impl $type {
            /// All of them.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$name),*];

            /// The word in files and on the command line.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }

        /// The text is no such word.
        #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
        #[error("{0:?} is {what}; one of {all}", what = $what, all = $type::ALL.map($type::word).join(", "))]
        pub struct $error(String);

        impl FromStr for $type {
            type Err = $error;
            fn from_str(text: &str) -> Result<Self, $error> {
                let found = Self::ALL.into_iter().find(|value| value.word() == text);
                found.ok_or_else(|| $error(text.chars().take(80).collect()))
            }
        }
    };
}

words! {
    /// What a notice is about: what is measured and has a limit.
    NoticeResource UnknownNoticeResource "nothing that notices are about" {
        /// Disk space.
        Disk = "disk";
        /// Files on disk.
        Inodes = "inodes";
        /// Memory, without what the kernel can take back.
        Memory = "memory";
        /// Swap space.
        Swap = "swap";
        /// Processes and threads.
        Tasks = "tasks";
        /// Concurrent entries through doors.
        Sessions = "sessions";
        /// The volume of the month.
        Network = "network";
    }
}

words! {
    /// A language of notices.
    NoticeLanguage UnknownLanguage "no language of notices" {
        /// English.
        En = "en";
        /// German.
        De = "de";
    }
}

impl NoticeResource {
    /// Whether it has a soft bound and a grace period.
    #[must_use]
    pub const fn has_soft(self) -> bool {
        matches!(self, Self::Disk | Self::Inodes)
    }

    /// The measure that its limit bounds; `None` for the volume of the month.
    #[must_use]
    pub const fn measure(self) -> Option<Measure> {
        Some(match self {
            Self::Disk => Measure::Disk,
            Self::Inodes => Measure::Inodes,
            Self::Memory => Measure::Memory,
            Self::Swap => Measure::Swap,
            Self::Tasks => Measure::Tasks,
            Self::Sessions => Measure::Sessions,
            Self::Network => return None,
        })
    }
}

/// When somebody is told. Ordered from the mildest to the most severe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Threshold {
    /// From this share of the limit on, in per cent.
    Percent(u8),
    /// Above the soft bound.
    Soft,
    /// When no more than this is left of the grace period.
    Grace(Period),
    /// At the limit.
    Hard,
}

/// The text is no threshold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no threshold such as \"80%\", \"soft\", \"grace:2d\" or \"hard\"")]
pub struct NotThreshold(String);

/// The longest time before the end of a grace period.
const MAX_GRACE: u64 = 366 * 86_400;

impl FromStr for Threshold {
    type Err = NotThreshold;

    fn from_str(text: &str) -> Result<Self, NotThreshold> {
        let of_share = |share: &str| share.parse().ok().filter(|share| (1..=100).contains(share)).map(Self::Percent);
        let of_grace = |left: &str| {
            let left: Period = left.parse().ok()?;
            (60..=MAX_GRACE).contains(&left.0).then_some(Self::Grace(left))
        };
        let found = match (text, text.strip_suffix('%'), text.strip_prefix("grace:")) {
            ("soft", ..) => Some(Self::Soft),
            ("hard", ..) => Some(Self::Hard),
            (_, Some(share), _) => of_share(share),
            (.., Some(left)) => of_grace(left),
            _ => None,
        };
        found.ok_or_else(|| NotThreshold(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(share) => f.pad(&format!("{share}%")),
            Self::Soft => f.pad("soft"),
            Self::Grace(left) => f.pad(&format!("grace:{left}")),
            Self::Hard => f.pad("hard"),
        }
    }
}

impl TryFrom<String> for Threshold {
    type Error = NotThreshold;

    fn try_from(text: String) -> Result<Self, NotThreshold> {
        text.parse()
    }
}

impl From<Threshold> for String {
    fn from(threshold: Threshold) -> Self {
        threshold.to_string()
    }
}

/// Who is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Recipient {
    /// The tenant: the addresses of its `[contact]`.
    Tenant,
    /// The operator: the addresses of `[contact]` in `bailiwick.toml`.
    Admin,
    /// One address.
    Address(MailAddress),
}

/// The text is nobody whom a notice can go to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRecipient {
    /// Groups of tenants do not exist yet.
    #[error("\"group\": there are no groups of tenants yet, so nobody would be told")]
    Group,
    /// It is no word and no address.
    #[error("notices go to \"tenant\", \"admin\" or an address: {0}")]
    Address(crate::NotMailAddress),
}

impl FromStr for Recipient {
    type Err = NotRecipient;

    fn from_str(text: &str) -> Result<Self, NotRecipient> {
        match text {
            "tenant" => Ok(Self::Tenant),
            "admin" => Ok(Self::Admin),
            "group" => Err(NotRecipient::Group),
            address => address.parse().map(Self::Address).map_err(NotRecipient::Address),
        }
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant => f.pad("tenant"),
            Self::Admin => f.pad("admin"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl TryFrom<String> for Recipient {
    type Error = NotRecipient;

    fn try_from(text: String) -> Result<Self, NotRecipient> {
        text.parse()
    }
}

impl From<Recipient> for String {
    fn from(recipient: Recipient) -> Self {
        recipient.to_string()
    }
}

/// A rule: who is told of what, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// What it is about.
    pub resource: NoticeResource,
    /// When somebody is told; never when empty, which takes an inherited rule away.
    pub at: BTreeSet<Threshold>,
    /// Below this share of the limit, in per cent, a threshold of shares is clear, and may be told again.
    pub clear: u8,
    /// Who is told.
    pub to: BTreeSet<Recipient>,
    /// After how long it is told again that a threshold is still passed; `None` for never.
    pub repeat: Option<Period>,
}

impl Notice {
    /// The default of [`Self::clear`]: five per cent below the lowest share.
    #[must_use]
    pub fn default_clear(at: &BTreeSet<Threshold>) -> u8 {
        Self::lowest_share(at).unwrap_or(100).saturating_sub(5)
    }

    /// The lowest share of the thresholds.
    #[must_use]
    pub fn lowest_share(at: &BTreeSet<Threshold>) -> Option<u8> {
        at.iter().find_map(|threshold| if let Threshold::Percent(share) = threshold { Some(*share) } else { None })
    }
}

/// Where notices of a tenant, or of the operator, go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// The addresses; with none nobody is told.
    pub mail: BTreeSet<MailAddress>,
    /// The language; that of the host when `None`, and English when the host has none.
    pub language: Option<NoticeLanguage>,
}

impl Contact {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::IntoDeserializer;
    use serde::de::value::Error;

    #[test]
    fn thresholds_read_as_they_are_written_and_ascend() {
        let words = ["1%", "80%", "100%", "soft", "grace:1m", "grace:2d", "hard"];
        let all: Vec<Threshold> = words.iter().map(|word| word.parse().expect(word)).collect();
        assert!(all.is_sorted());
        assert_eq!(all.iter().map(ToString::to_string).collect::<Vec<_>>(), words);
        for text in [
            "",
            "0%",
            "101%",
            "256%",
            "-1%",
            "%",
            "80",
            "0.8%",
            "grace",
            "grace:",
            "grace:0s",
            "grace:59s",
            "Hard",
            "grace:9999d",
        ] {
            assert!(text.parse::<Threshold>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn notices_go_to_those_who_exist() {
        for word in ["tenant", "admin", "ops@example.org"] {
            assert_eq!(word.parse::<Recipient>().expect(word).to_string(), word);
        }
        assert_eq!("group".parse::<Recipient>(), Err(NotRecipient::Group));
        let error = "everybody".parse::<Recipient>().expect_err("nobody").to_string();
        assert!(
            error.starts_with("notices go to \"tenant\", \"admin\" or an address: \"everybody\" is no address"),
            "{error}"
        );
    }

    #[test]
    fn words_are_their_own() {
        for resource in NoticeResource::ALL {
            assert_eq!(resource.word().parse(), Ok(resource));
            let reader = IntoDeserializer::<Error>::into_deserializer(resource.word());
            assert_eq!(NoticeResource::deserialize(reader), Ok(resource), "the word on the wire");
            assert!(resource.measure().is_none_or(|measure| measure.word() == resource.word()));
        }
        let error = "cpu".parse::<NoticeResource>().expect_err("is not").to_string();
        assert_eq!(
            error,
            "\"cpu\" is nothing that notices are about; one of disk, inodes, memory, swap, tasks, sessions, network"
        );
        let at = ["soft", "80%", "95%"].map(|word| word.parse().expect(word)).into();
        assert_eq!((Notice::default_clear(&at), Notice::default_clear(&[Threshold::Soft].into())), (75, 95));
    }
}
