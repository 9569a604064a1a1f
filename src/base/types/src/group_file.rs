//! The groups of a user, from the jail's own `/etc/passwd` and `/etc/group`, which the tenant writes.
//!
//! Danger: the input is hostile. The bytes that are read and the groups that are returned are bounded. A malformed line
//! is skipped.

use crate::IDS_PER_TENANT;

/// The limit of bytes that are read of `/etc/passwd` and of `/etc/group`.
pub const MAX_GROUP_FILE: usize = 1 << 20;

/// The limit of groups that a session gets beside its user's primary group.
pub const MAX_GROUPS: usize = 64;

/// The groups that list a user as a member, sorted and without duplicates. The user's name is the first one that
/// `passwd` has for `uid`. The result is empty if a file is too long.
#[must_use]
pub fn groups_of(uid: u32, passwd: &[u8], group: &[u8]) -> Vec<u32> {
    if passwd.len() > MAX_GROUP_FILE || group.len() > MAX_GROUP_FILE {
        return Vec::new();
    }
    let name_of = |line: &'_ [u8]| -> Option<Vec<u8>> {
        let mut fields = line.split(|byte| *byte == b':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (id(number) == Some(uid) && !name.is_empty()).then(|| name.to_vec())
    };
    let Some(name) = lines(passwd).find_map(name_of) else { return Vec::new() };
    let mut found = std::collections::BTreeSet::new();
    for line in lines(group) {
        let mut fields = line.split(|byte| *byte == b':');
        let (Some(number), Some(members)) = (fields.nth(2).and_then(id), fields.next()) else { continue };
        if members.split(|byte| *byte == b',').any(|member| member == name) {
            found.insert(number);
        }
        if found.len() == MAX_GROUPS {
            break;
        }
    }
    found.into_iter().collect()
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

/// Parses an id inside a jail; `None` for any other text.
fn id(text: &[u8]) -> Option<u32> {
    let digits = (1..=5).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    let number: u32 = digits.then(|| std::str::from_utf8(text).ok()?.parse().ok())??;
    (number < IDS_PER_TENANT).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/bash\n";

    #[test]
    fn a_user_is_in_the_groups_that_name_it() {
        let group = b"root:x:0:\nwww-data:x:33:bob,alice\nalice:x:1000:\nadm:x:4:alice\nmail:x:8:alicea\n";
        assert_eq!(groups_of(1000, PASSWD, group), [4, 33]);
        assert_eq!(groups_of(0, PASSWD, group), [0; 0]);
        assert_eq!(groups_of(7, PASSWD, group), [0; 0], "nobody has that number");
    }

    #[test]
    fn what_a_tenant_writes_there_is_bounded() {
        for line in
            ["x:x::alice", "x:x:-1:alice", "x:x:65536:alice", "x:x:4294967296:alice", "x:33", "", ":::", "x:x:+1:alice"]
        {
            assert_eq!(groups_of(1000, PASSWD, line.as_bytes()), [0; 0], "{line:?}");
        }
        let many: String = (0..65_536).map(|number| format!("g:x:{number}:alice\n")).collect();
        assert_eq!(groups_of(1000, PASSWD, many.as_bytes()).len(), MAX_GROUPS);
        assert_eq!(groups_of(1000, PASSWD, &vec![b'x'; MAX_GROUP_FILE + 1]), [0; 0]);
        assert_eq!(groups_of(1000, &[0xff, b':', b'\n', 0], b"\xff:\xff:\xff:\xff"), [0; 0]);
    }
}
