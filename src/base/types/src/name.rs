//! Names of tenants, plans, images, services and logins.
//!
//! A name becomes a directory, a control group and a field of a `passwd` file. So its grammar is the strictest of the
//! three: it contains neither a path separator nor a separator of a text format, and never starts with `-`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The maximum length of a name in bytes, as in `useradd(8)`.
const MAX_LEN: usize = 32;

/// Words that no tenant may have as a name. They mean the host, or are words of the command line.
const RESERVED: &[&str] = &["root", "host", "self", "all", "bailiwick", "inherit", "unlimited", "nobody"];

/// Why a text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a name must not be empty")]
    Empty,
    /// The text is longer than 32 bytes.
    #[error("a name has at most {MAX_LEN} bytes, this one has {len}")]
    TooLong {
        /// The length in bytes.
        len: usize,
    },
    /// The first character is not a lower-case letter or `_`.
    #[error("a name starts with a lower-case letter or \"_\", not with {found:?}")]
    BadStart {
        /// The character that was found.
        found: char,
    },
    /// A later character is not a lower-case letter, a digit, `_` or `-`.
    #[error("a name holds lower-case letters, digits, \"_\" and \"-\" only, not {found:?}")]
    BadCharacter {
        /// The character that was found.
        found: char,
    },
    /// The word is reserved.
    #[error("this name is reserved")]
    Reserved,
}

fn check(text: &str, reserved: &[&str]) -> Result<(), NameError> {
    if text.len() > MAX_LEN {
        return Err(NameError::TooLong { len: text.len() });
    }
    let mut chars = text.chars();
    match chars.next() {
        None => return Err(NameError::Empty),
        Some('a'..='z' | '_') => {}
        Some(found) => return Err(NameError::BadStart { found }),
    }
    for found in chars {
        if !matches!(found, 'a'..='z' | '0'..='9' | '_' | '-') {
            return Err(NameError::BadCharacter { found });
        }
    }
    if reserved.contains(&text) {
        return Err(NameError::Reserved);
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $reserved:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text, $reserved)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<std::path::Path> for $name {
            fn as_ref(&self) -> &std::path::Path {
                std::path::Path::new(&*self.0)
            }
        }
    };
}

name!(
    /// The name of a tenant. Its file, its directory and its control group have the same name.
    TenantName,
    RESERVED
);
name!(
    /// The name of a plan. Its file has the same name.
    PlanName,
    &["inherit", "unlimited"]
);
name!(
    /// The name of an image. The image `host` is built in.
    ImageName,
    &["inherit", "unlimited"]
);
name!(
    /// The name of a service of a tenant.
    ServiceName,
    &["inherit", "unlimited"]
);
name!(
    /// The name of a socket of a service. It is unique for the tenant, and its file has the same name.
    SocketName,
    &["inherit", "unlimited"]
);
name!(
    /// The name of a socket of the host that can be lent to tenants. Plans and tenants name it.
    HostSocketName,
    &["inherit", "unlimited"]
);
name!(
    /// The name of a timer of a tenant.
    TimerName,
    &["inherit", "unlimited"]
);
name!(
    /// The name of the tenant's own user inside the jail. The user `root` always exists.
    LoginName,
    &["root", "nobody", "inherit", "unlimited"]
);
name!(
    /// The name of a hook or of a webhook. Its file has the same name.
    TargetName,
    &["all"]
);
name!(
    /// The name of a tenant's login for FTP. A client sends `NAME@TENANT` to the server.
    FtpName,
    &["inherit", "unlimited"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_useradd_accepts() {
        for good in ["a", "alice", "web-1", "_x", "a23456789012345678901234567890ab"] {
            assert_eq!(good.parse::<TenantName>().expect(good).as_str(), good);
        }
    }

    #[test]
    fn refuses_what_could_leave_a_directory_or_a_line() {
        let long = "x".repeat(300);
        let cases: &[(&str, NameError)] = &[
            ("", NameError::Empty),
            ("../x", NameError::BadStart { found: '.' }),
            ("a/b", NameError::BadCharacter { found: '/' }),
            ("a:b", NameError::BadCharacter { found: ':' }),
            ("a\nb", NameError::BadCharacter { found: '\n' }),
            ("a\0", NameError::BadCharacter { found: '\0' }),
            ("-rf", NameError::BadStart { found: '-' }),
            ("Alice", NameError::BadStart { found: 'A' }),
            ("1up", NameError::BadStart { found: '1' }),
            ("über", NameError::BadStart { found: 'ü' }),
            ("root", NameError::Reserved),
            (&long, NameError::TooLong { len: 300 }),
        ];
        for (text, why) in cases {
            assert_eq!(text.parse::<TenantName>().unwrap_err(), *why, "{text:?}");
        }
    }

    #[test]
    fn serde_checks_like_from_str() {
        let bad: Result<TenantName, _> =
            Deserialize::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new("../x"));
        assert!(bad.is_err());
    }
}
