//! The secrets that sign webhooks, in the form of Standard Webhooks.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use std::str::FromStr;

/// How a secret begins.
const PREFIX: &str = "whsec_";
/// The fewest and the most bytes of a secret, as Standard Webhooks has them.
const SIZES: std::ops::RangeInclusive<usize> = 24..=64;

/// A secret: `whsec_` and the base64 of 24 to 64 random bytes. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

/// Why a text is no secret. No error repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSecret {
    /// It does not begin as a secret does.
    #[error("a secret begins with \"{PREFIX}\"")]
    Prefix,
    /// The rest is no base64.
    #[error("what follows \"{PREFIX}\" is no base64")]
    Base64,
    /// It is too short or too long.
    #[error("a secret has from {} to {} bytes, this one has {len}", SIZES.start(), SIZES.end())]
    Size {
        /// How many bytes it has.
        len: usize,
    },
}

impl Secret {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = NotSecret;

    fn from_str(text: &str) -> Result<Self, NotSecret> {
        let body = text.strip_prefix(PREFIX).ok_or(NotSecret::Prefix)?;
        let bytes = STANDARD.decode(body).map_err(|_| NotSecret::Base64)?;
        if SIZES.contains(&bytes.len()) { Ok(Self(bytes.into())) } else { Err(NotSecret::Size { len: bytes.len() }) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_and_not_shown() {
        let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().expect("the example of the standard");
        assert_eq!(secret.bytes().len(), 24);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        for (text, error) in [
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", NotSecret::Prefix),
            ("whsec_###", NotSecret::Base64),
            ("whsec_", NotSecret::Size { len: 0 }),
            ("whsec_c2hvcnQ=", NotSecret::Size { len: 5 }),
        ] {
            assert_eq!(text.parse::<Secret>(), Err(error));
        }
    }
}
