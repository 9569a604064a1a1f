//! Logins for FTP: their names, and the hashes of their passwords.
//!
//! Danger: a hash is a secret. `Debug` does not show it, and a printed policy does not contain it.

use crate::{FtpName, TenantName};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The name of a login, as a client sends it to the FTP server: `NAME@TENANT`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FtpUser {
    /// The login's name within the tenant.
    pub name: FtpName,
    /// The tenant that the login belongs to.
    pub tenant: TenantName,
}

/// The text is not a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a login for FTP is NAME@TENANT")]
pub struct NotFtpUser;

impl FromStr for FtpUser {
    type Err = NotFtpUser;

    fn from_str(text: &str) -> Result<Self, NotFtpUser> {
        let (name, tenant) = text.split_once('@').ok_or(NotFtpUser)?;
        Ok(Self { name: name.parse().map_err(|_| NotFtpUser)?, tenant: tenant.parse().map_err(|_| NotFtpUser)? })
    }
}

impl TryFrom<String> for FtpUser {
    type Error = NotFtpUser;

    fn try_from(text: String) -> Result<Self, NotFtpUser> {
        text.parse()
    }
}

impl From<FtpUser> for String {
    fn from(user: FtpUser) -> Self {
        user.to_string()
    }
}

impl fmt::Display for FtpUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.tenant)
    }
}

/// The hash of a password in the format of `crypt(5)`, by a method that is still secure.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PasswordHash(Box<str>);

/// Why a text is not an accepted hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotHash {
    /// Its prefix is not one of an accepted method.
    #[error("this is no hash of crypt(5) by yescrypt, bcrypt, SHA-512 or SHA-256")]
    Method,
    /// Its prefix is accepted, but the rest is malformed.
    #[error("a hash of crypt(5) holds letters, digits and \"./$=,-\" only, at most {MAX_HASH} of them")]
    Shape,
}

/// `CRYPT_OUTPUT_SIZE` of `crypt(3)` without the terminator.
const MAX_HASH: usize = 383;
/// yescrypt, gost-yescrypt, scrypt, bcrypt, SHA-512, SHA-256. Older methods are fast to compute, and so too easy to
/// break.
const METHODS: [&str; 7] = ["$y$", "$gy$", "$7$", "$2b$", "$2y$", "$6$", "$5$"];

impl PasswordHash {
    /// The text of the hash, to compare with.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The cost of one comparison in rounds of SHA-512, from the parameters of the hash. `None` if the hash has no such
    /// parameter, or if it cannot be parsed.
    #[must_use]
    pub fn rounds(&self) -> Option<u64> {
        let digit = |text: &str| -> Option<u32> {
            const DIGITS: &str = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
            u32::try_from(DIGITS.find(text.chars().next()?)?).ok()
        };
        // A step of a memory-hard method costs as much as several rounds of the others: 2^18 steps of yescrypt need a
        // gibibyte and a second.
        let steps = |log: u32| 1_u64.checked_shl(log).map(|steps| steps.saturating_mul(16));
        let text = &*self.0;
        if let Some(rest) = text.strip_prefix("$6$").or_else(|| text.strip_prefix("$5$")) {
            return rest.strip_prefix("rounds=")?.split('$').next()?.parse().ok();
        }
        if let Some(rest) = text.strip_prefix("$2b$").or_else(|| text.strip_prefix("$2y$")) {
            return 1_u64.checked_shl(rest.get(..2)?.parse().ok()?).map(|steps| steps.saturating_mul(64));
        }
        if let Some(rest) = text.strip_prefix("$7$") {
            return steps(digit(rest)?);
        }
        steps(digit(text.strip_prefix("$y$j").or_else(|| text.strip_prefix("$gy$j"))?)? + 1)
    }

    /// A dummy hash with the same algorithm and cost. No known password has it.
    #[must_use]
    pub fn of_nobody(&self) -> Self {
        let (setting, hash) = self.0.rsplit_once('$').unwrap_or(("", &self.0));
        Self(format!("{setting}${}", ".".repeat(hash.len())).into())
    }
}

impl FromStr for PasswordHash {
    type Err = NotHash;

    fn from_str(text: &str) -> Result<Self, NotHash> {
        let Some(rest) = METHODS.iter().find_map(|method| text.strip_prefix(method)) else {
            return Err(NotHash::Method);
        };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"./$=,-".contains(&byte);
        // The shortest accepted hash is SHA-256 without a salt. It has 43 characters after the prefix.
        if text.len() > MAX_HASH || rest.len() < 43 || !text.bytes().all(fits) {
            return Err(NotHash::Shape);
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for PasswordHash {
    type Error = NotHash;

    fn try_from(text: String) -> Result<Self, NotHash> {
        text.parse()
    }
}

impl From<PasswordHash> for String {
    fn from(hash: PasswordHash) -> Self {
        hash.0.into()
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "$5$saltsalt$0123456789abcdefghijABCDEFGHIJ./0123456789abc";

    #[test]
    fn a_login_round_trips_and_nothing_else_is_one() {
        let user: FtpUser = "blog@alice".parse().expect("a login");
        assert_eq!(
            (user.name.as_str(), user.tenant.as_str(), user.to_string().as_str()),
            ("blog", "alice", "blog@alice")
        );
        for bad in [
            "",
            "@",
            "blog",
            "blog@",
            "@alice",
            "blog@alice@bob",
            "Blog@alice",
            "blog@root",
            "a/b@alice",
            "blog@alice\n",
        ] {
            assert!(bad.parse::<FtpUser>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_good_methods_are_hashes_and_none_is_shown() {
        let hash: PasswordHash = SHA.parse().expect("a hash");
        assert_eq!((hash.as_str(), format!("{hash:?}").as_str()), (SHA, "PasswordHash"));
        for (bad, why) in [
            ("", NotHash::Method),
            ("hunter2", NotHash::Method),
            ("$1$saltsalt$0123456789abcdefghij00", NotHash::Method),
            ("ab0123456789a", NotHash::Method),
            ("$6$short", NotHash::Shape),
            (&SHA.replace('j', ":"), NotHash::Shape),
            (&SHA.replace('j', "\n"), NotHash::Shape),
            (&format!("{SHA}{}", "x".repeat(400)), NotHash::Shape),
        ] {
            assert_eq!(bad.parse::<PasswordHash>(), Err(why), "{bad:?}");
        }
    }
}
