//! Strings of bytes that are nearly always text: the arguments and the environment of a command.

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A string of bytes without NUL, as `execve(2)` takes it. In JSON it is a string when it is UTF-8, and a list of numbers
/// otherwise.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Bytes(Vec<u8>);

/// The error of a text that holds a NUL byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an argument must not hold a NUL byte")]
pub struct HasNul;

impl Bytes {
    /// Takes any bytes without NUL.
    ///
    /// # Errors
    /// [`HasNul`] when there is a NUL byte, which would end the argument early.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, HasNul> {
        let bytes = bytes.into();
        if bytes.contains(&0) { Err(HasNul) } else { Ok(Self(bytes)) }
    }

    /// Takes an argument or a variable of this process.
    ///
    /// # Errors
    /// [`HasNul`] when there is a NUL byte.
    pub fn from_os(text: OsString) -> Result<Self, HasNul> {
        Self::new(text.into_vec())
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, as the standard library takes them.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_seq(&self.0),
        }
    }
}

struct BytesVisitor;

impl<'de> Visitor<'de> for BytesVisitor {
    type Value = Vec<u8>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of bytes")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<u8>, E> {
        Ok(text.as_bytes().to_vec())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = seq.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = deserializer.deserialize_any(BytesVisitor)?;
        Self::new(bytes).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_other_bytes_round_trip() {
        for raw in [&b"hello"[..], b"", b"\xff\xfe\n", "ü".as_bytes()] {
            let bytes = Bytes::new(raw).expect("no NUL");
            let json = serde_json::to_string(&bytes).expect("serialises");
            assert_eq!(serde_json::from_str::<Bytes>(&json).expect(&json), bytes);
        }
        assert_eq!(serde_json::to_string(&Bytes::new("ls").expect("no NUL")).expect("serialises"), "\"ls\"");
    }

    #[test]
    fn a_nul_byte_is_refused() {
        assert_eq!(Bytes::new("a\0b"), Err(HasNul));
        assert!(serde_json::from_str::<Bytes>("\"a\\u0000b\"").is_err());
        assert!(serde_json::from_str::<Bytes>("[256]").is_err());
    }
}
