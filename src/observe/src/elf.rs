//! Whether a program is static: PID 1 of a jail has no library to load that a tenant could put in its way.

/// What the head of a program says of how it is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linkage {
    /// Needs no loader.
    Static,
    /// Names a loader (`PT_INTERP`).
    Dynamic,
    /// Not a 64-bit little-endian ELF file.
    Unknown,
}

/// Where the fields of `elf(5)` lie in a 64-bit file, and what they must hold.
mod field {
    pub(super) const MAGIC: &[u8] = b"\x7fELF\x02\x01";
    pub(super) const TABLE_OFFSET: usize = 32;
    pub(super) const ENTRY_SIZE: usize = 54;
    pub(super) const ENTRY_COUNT: usize = 56;
    pub(super) const INTERPRETER: u32 = 3;
}

/// Reads how a program is linked from the first bytes of its file; the program headers must be among them.
pub(crate) fn linkage(head: &[u8]) -> Linkage {
    names_loader(head).map_or(Linkage::Unknown, |names| if names { Linkage::Dynamic } else { Linkage::Static })
}

fn names_loader(head: &[u8]) -> Option<bool> {
    let short = |at: usize| Some(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?));
    if !head.starts_with(field::MAGIC) {
        return None;
    }
    let offset = u64::from_le_bytes(head.get(field::TABLE_OFFSET..field::TABLE_OFFSET + 8)?.try_into().ok()?);
    let (size, count) = (usize::from(short(field::ENTRY_SIZE)?), usize::from(short(field::ENTRY_COUNT)?));
    let table = head.get(usize::try_from(offset).ok()?..)?;
    if size < 4 || count == 0 {
        return None;
    }
    let entries = table.get(..size * count)?;
    Some(entries.chunks_exact(size).any(|entry| entry.starts_with(&field::INTERPRETER.to_le_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A head with one program header of this kind.
    fn head(kind: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(field::MAGIC);
        bytes[field::TABLE_OFFSET] = 64;
        bytes[field::ENTRY_SIZE] = 56;
        bytes[field::ENTRY_COUNT] = 1;
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.resize(64 + 56, 0);
        bytes
    }

    #[test]
    fn a_loader_is_seen_and_half_a_table_is_no_answer() {
        assert_eq!(linkage(&head(1)), Linkage::Static);
        assert_eq!(linkage(&head(3)), Linkage::Dynamic);
        assert_eq!(linkage(&head(1)[..100]), Linkage::Unknown);
        assert_eq!(linkage(b"#!/bin/sh\n"), Linkage::Unknown);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = field::MAGIC.to_vec();
            bytes.extend(tail);
            let _linkage = linkage(&bytes);
        }
    }
}
