//! Addresses of mail, as policy files name them and `sendmail` gets them.
//!
//! Danger: an address becomes an argument of a program that may run with more rights, and a header of a message. So the grammar is
//! much narrower than that of RFC 5322: no quotes, comments, blanks, lists, routes or pipes, nothing that looks like an option.

use crate::is_domain;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The most bytes of an address, and of the part before the `@` (RFC 5321, 4.5.3.1).
const MAX_LEN: usize = 254;
const MAX_LOCAL: usize = 64;

/// An address of mail: `alice@example.org`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MailAddress(String);

/// The text is no address of mail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotMailAddress {
    /// It has no `@`, or nothing before or behind it.
    #[error("{text:?} is no address of mail such as \"alice@example.org\"")]
    Form {
        /// The beginning of the text.
        text: String,
    },
    /// It is too long.
    #[error("an address of mail has at most {MAX_LEN} bytes, {MAX_LOCAL} of them before the \"@\"")]
    TooLong,
    /// A character that it cannot have.
    #[error("an address of mail cannot have {found:?} before the \"@\"")]
    Character {
        /// The character.
        found: char,
    },
    /// What is behind the `@` is no domain.
    #[error("{text:?} is no domain; write one with letters that are not of ASCII as it is in DNS: \"xn--...\"")]
    Domain {
        /// The beginning of the text.
        text: String,
    },
}

impl MailAddress {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the `@`, and the domain.
    #[must_use]
    pub fn parts(&self) -> (&str, &str) {
        self.0.split_once('@').unwrap_or((&self.0, ""))
    }
}

impl FromStr for MailAddress {
    type Err = NotMailAddress;

    fn from_str(text: &str) -> Result<Self, NotMailAddress> {
        let shown = |text: &str| text.chars().take(80).collect();
        let (local, domain) = text.split_once('@').ok_or_else(|| NotMailAddress::Form { text: shown(text) })?;
        if text.len() > MAX_LEN || local.len() > MAX_LOCAL {
            return Err(NotMailAddress::TooLong);
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._+-=&'#".contains(c);
        if let Some(found) = local.chars().find(|c| !is_plain(*c)) {
            return Err(NotMailAddress::Character { found });
        }
        let is_atoms = local.split('.').all(|atom| !atom.is_empty()) && !local.starts_with('-');
        if !is_atoms || domain.is_empty() {
            return Err(NotMailAddress::Form { text: shown(text) });
        }
        if !is_domain(domain) {
            return Err(NotMailAddress::Domain { text: shown(domain) });
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for MailAddress {
    type Error = NotMailAddress;

    fn try_from(text: String) -> Result<Self, NotMailAddress> {
        text.parse()
    }
}

impl From<MailAddress> for String {
    fn from(address: MailAddress) -> Self {
        address.0
    }
}

impl fmt::Display for MailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::IntoDeserializer;
    use serde::de::value::Error;

    /// An address as a message has it.
    fn of_message(text: &str) -> Result<MailAddress, Error> {
        MailAddress::deserialize(IntoDeserializer::<Error>::into_deserializer(text))
    }

    #[test]
    fn plain_addresses_read_as_they_are_written() {
        for text in ["alice@example.org", "a.b+c_d-e=f@host", "root@localhost", "o'hara&co#1@xn--bcher-kva.example"] {
            let address: MailAddress = text.parse().expect(text);
            assert_eq!((address.to_string().as_str(), address.as_str()), (text, text));
            assert_eq!(of_message(text), Ok(address));
        }
        assert_eq!("a.b@c".parse::<MailAddress>().expect("reads").parts(), ("a.b", "c"));
    }

    #[test]
    fn nothing_else_is_an_address() {
        let long = format!("{}@example.org", "a".repeat(65));
        let longer = format!("a@{}", vec!["b".repeat(60); 5].join("."));
        for text in [
            "",
            "alice",
            "@",
            "@example.org",
            "alice@",
            "-oQ/tmp@example.org",
            "-f@x",
            ".a@x",
            "a.@x",
            "a..b@x",
            "a b@x",
            "a@x y",
            "a@x\n",
            "a\n@x",
            "a@x\nBcc: b@y",
            "a\r\nBcc: b@y@x",
            "a@b@c",
            "a,b@x",
            "a@x,b@y",
            "<a@x>",
            "a@x>",
            "\"a b\"@x",
            "|/bin/sh@x",
            "a|b@x",
            "/etc/passwd@x",
            "a!b@x",
            "a%b@x",
            "a`id`@x",
            "$(id)@x",
            "a;b@x",
            "a\\b@x",
            "ä@x",
            "a@ä.example",
            "a@[127.0.0.1]",
            "a@-x",
            "a@x..y",
            "a@x.",
            "a\0@x",
            "a@x\0",
            "a\u{202e}@x",
            "(c)a@x",
            long.as_str(),
            longer.as_str(),
        ] {
            assert!(text.parse::<MailAddress>().is_err(), "{text:?}");
            assert!(of_message(text).is_err(), "{text:?}");
        }
    }
}
