//! Checks the shape of lines for an `authorized_keys` file.
//!
//! Danger: sshd gets the lines as they are. A line end in one would add a second key that nobody has checked. Options
//! (`command="..."`) must be refused, because sshd would obey them.

use crate::diagnostic::Problem;

/// The key types that sshd accepts by default. `ssh-dss` is no longer one of them.
const TYPES: &[&str] = &[
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// Returns the line, if it has the shape of a public key.
pub(crate) fn parse(line: &str) -> Result<String, Problem> {
    if let Some(found) = line.chars().find(|c| c.is_control()) {
        return Err(Problem::new(format!("a key is one line, without {found:?}")).hint("one text for each key"));
    }
    let mut words = line.split(' ');
    let kind = words.next().unwrap_or_default();
    if kind == "-----BEGIN" {
        return Err(Problem::new("this is a private key").hint("use the content of the file that ends in .pub"));
    }
    if !TYPES.contains(&kind) {
        return Err(Problem::new("the line does not start with a known key type")
            .hint(format!("without options before it; the types are {}", TYPES.join(", "))));
    }
    let damaged = || Problem::new("the key is damaged").hint("copy the whole line of the .pub file");
    let body = words.next().and_then(decode).ok_or_else(damaged)?;
    let fields = fields(&body).ok_or_else(damaged)?;
    match fields.first() {
        Some(name) if *name == kind.as_bytes() && fields.len() > 1 => Ok(line.to_owned()),
        _ => Err(damaged()),
    }
}

/// The bytes of the public key in a line of `ssh_keys`, of which its fingerprint is a hash. `None` for a damaged line.
#[must_use]
pub fn key_bytes(line: &str) -> Option<Vec<u8>> {
    line.split(' ').nth(1).and_then(decode)
}

/// Decodes base64 with its padding (RFC 4648, section 4).
fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if text.is_empty() || !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0u32);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count).to_le_bytes()[0]);
        }
    }
    Some(bytes)
}

/// The fields of a public key. Each is four bytes of length, big-endian, and that many bytes (RFC 4253, section 6.6).
fn fields(mut body: &[u8]) -> Option<Vec<&[u8]>> {
    let mut fields = Vec::new();
    while !body.is_empty() {
        let (length, rest) = body.split_first_chunk::<4>()?;
        let (field, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        fields.push(field);
        body = rest;
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f alice@laptop (old one)";

    #[test]
    fn a_key_is_kept_as_it_is() {
        assert_eq!(parse(GOOD).as_deref(), Ok(GOOD));
        let bare = GOOD.split(" alice").next().expect("a key");
        assert!(parse(bare).is_ok());
    }

    #[test]
    fn refuses_what_is_no_key() {
        let options = format!("command=\"/bin/sh\" {GOOD}");
        let two = format!("{GOOD}\n{GOOD}");
        let truncated = GOOD.replace("HR4f", "");
        let other_type = GOOD.replace("ssh-ed25519 ", "ssh-rsa ");
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 ",
            "ssh-ed25519 AAAA",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5",
            "ssh-ed25519 =",
            "ssh-ed25519 !!!!",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            &options,
            &two,
            &truncated,
            &other_type,
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn base64() {
        assert_eq!(decode("AAEC").as_deref(), Some(&[0, 1, 2][..]));
        assert_eq!(decode("+/8=").as_deref(), Some(&[0xfb, 0xff][..]));
        assert_eq!(decode("/w==").as_deref(), Some(&[0xff][..]));
        for bad in ["", "A", "A===", "====", "AA=A", "AAA\u{fc}"] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }
}
