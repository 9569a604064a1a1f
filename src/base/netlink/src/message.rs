//! Messages and attributes, as bytes (`netlink(7)`, `linux/netlink.h`).

pub use bailiwick_sys::netlink::{attributes, number16, number32};

/// The length of `nlmsghdr` in bytes.
pub const HEADER: usize = 16;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;

// Flags of `nlmsghdr` (linux/netlink.h).
/// `NLM_F_REQUEST`.
pub const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`: the kernel acknowledges it.
pub const ACK: u16 = 0x4;
/// `NLM_F_DUMP_INTR`: a list changed while it was read.
pub const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLM_F_DUMP`: a list.
pub const DUMP: u16 = 0x300;
/// `NLM_F_REPLACE`: in place of what is there.
pub const REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`: nothing like it may be there.
pub const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_CREATE`: it is made.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: at the end.
pub const APPEND: u16 = 0x800;

/// Messages that are being written, one after the other.
#[derive(Debug, Default, Clone)]
pub struct Writer {
    bytes: Vec<u8>,
    start: usize,
    too_long: bool,
}

impl Writer {
    /// One request of this kind.
    pub fn request(kind: u16, flags: u16) -> Self {
        let mut writer = Self::default();
        writer.begin(kind, flags, 0);
        writer
    }

    /// Begins a message. The one before it must have been ended.
    pub fn begin(&mut self, kind: u16, flags: u16, sequence: u32) {
        self.start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
    }

    /// Writes the length of the message into its header.
    pub fn end(&mut self) {
        let len = u32::try_from(self.bytes.len() - self.start).unwrap_or_default();
        self.too_long |= len == 0;
        self.bytes[self.start..self.start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    /// Sets the sequence number of the message that was begun last.
    pub fn set_sequence(&mut self, sequence: u32) {
        self.bytes[self.start + 8..self.start + 12].copy_from_slice(&sequence.to_ne_bytes());
    }

    /// Sets further flags of the message that was begun last.
    pub fn add_flags(&mut self, flags: u16) {
        let at = self.start + 6;
        let old = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]);
        self.bytes[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    /// The bytes of all messages; `None` when one has an attribute of more than 64 KiB.
    pub fn bytes(&self) -> Option<&[u8]> {
        (!self.too_long).then_some(&self.bytes)
    }

    /// The bytes of all messages so far.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Writes bytes, such as the header of a family.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        self.pad();
    }

    /// Writes an attribute.
    pub fn put(&mut self, kind: u16, content: &[u8]) {
        let at = self.open(kind);
        self.bytes.extend(content);
        self.close(at);
    }

    /// Writes a number in the byte order of this machine.
    pub fn put_u32(&mut self, kind: u16, number: u32) {
        self.put(kind, &number.to_ne_bytes());
    }

    /// Writes a number in the byte order of networks.
    pub fn put_be32(&mut self, kind: u16, number: u32) {
        self.put(kind, &number.to_be_bytes());
    }

    /// Writes a number in the byte order of networks.
    pub fn put_be64(&mut self, kind: u16, number: u64) {
        self.put(kind, &number.to_be_bytes());
    }

    /// Writes a text with its final zero.
    pub fn put_text(&mut self, kind: u16, text: &str) {
        let at = self.open(kind);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
        self.close(at);
    }

    /// Writes an attribute made of attributes.
    pub fn nest(&mut self, kind: u16, write: impl FnOnce(&mut Self)) {
        let at = self.open(kind | NESTED);
        write(self);
        self.close(at);
    }

    fn open(&mut self, kind: u16) -> usize {
        let at = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        at
    }

    fn close(&mut self, at: usize) {
        let len = u16::try_from(self.bytes.len() - at).unwrap_or_default();
        self.too_long |= len == 0;
        self.bytes[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// One message of the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// What it is about.
    pub kind: u16,
    /// `NLM_F_…`.
    pub flags: u16,
    /// The number of the request that it answers.
    pub sequence: u32,
    /// What follows `nlmsghdr`.
    pub body: &'a [u8],
}

/// The messages of a datagram. A cut message, which the kernel does not send, ends them.
pub fn messages(mut rest: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let len = usize::try_from(rest.get(0..4).and_then(number32)?).ok()?;
        let message = rest.get(..len).filter(|message| message.len() >= HEADER)?;
        let kind = number16(&message[4..6])?;
        let flags = number16(&message[6..8])?;
        let sequence = number32(&message[8..12])?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Received { kind, flags, sequence, body: &message[HEADER..] })
    })
}

/// The content of the first attribute of a kind.
pub fn find(attributes_of: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(attributes_of).find(|(found, _)| *found == kind).map(|(_, content)| content)
}

/// A number in the byte order of this machine.
pub fn find_u32(attributes_of: &[u8], kind: u16) -> Option<u32> {
    find(attributes_of, kind).and_then(number32)
}

/// A number in the byte order of networks.
pub fn find_be32(attributes_of: &[u8], kind: u16) -> Option<u32> {
    find(attributes_of, kind).and_then(be32)
}

/// A number in the byte order of networks.
pub fn find_be64(attributes_of: &[u8], kind: u16) -> Option<u64> {
    find(attributes_of, kind).and_then(be64)
}

/// A text, up to its first zero. Bytes that are no UTF-8 are replaced.
pub fn find_text(attributes_of: &[u8], kind: u16) -> Option<String> {
    find(attributes_of, kind).map(text)
}

/// A number in the byte order of networks.
#[must_use]
pub fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// A number in the byte order of networks.
#[must_use]
pub fn be64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// A text, up to its first zero. Bytes that are no UTF-8 are replaced.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::request(7, ACK);
        writer.raw(&[1, 2, 3, 4]);
        writer.put_text(3, "bw9");
        writer.nest(4, |inner| {
            inner.put_u32(1, 5);
            inner.put_be64(2, 6);
        });
        writer.end();
        writer.begin(8, 0, 9);
        writer.end();
        let bytes = writer.bytes().expect("short");
        let all: Vec<_> = messages(bytes).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].kind, all[0].flags, all[1].kind, all[1].sequence), (7, ACK | REQUEST, 8, 9));
        let attributes = &all[0].body[4..];
        assert_eq!(find_text(attributes, 3).as_deref(), Some("bw9"));
        let nested = find(attributes, 4).expect("nested");
        assert_eq!((find_u32(nested, 1), find_be64(nested, 2)), (Some(5), Some(6)));
    }

    #[test]
    fn an_attribute_of_more_than_64_kib_is_never_sent() {
        let mut writer = Writer::request(7, 0);
        writer.put(1, &[0; 65_531]);
        assert!(writer.bytes().is_some());
        writer.put(1, &[0; 65_532]);
        assert!(writer.bytes().is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                let _none = find_text(message.body, 1);
            }
        }
    }
}
