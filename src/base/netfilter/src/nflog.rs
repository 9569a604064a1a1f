//! Records of packets that rules log (`linux/netfilter/nfnetlink_log.h`).
//!
//! Danger: whoever sends a packet chooses what is in its record. Only the prefix and the links are the kernel's word.

use crate::packet::{Packet, parse_packet};
use bailiwick_netlink::message::{ACK, Writer, find, find_be32, find_text, messages};
use bailiwick_netlink::socket::{Error, Socket};
use bailiwick_sys::netlink::Protocol;
use rustix::net::RecvFlags;
use std::os::fd::{AsFd, BorrowedFd};

// The names and numbers of linux/netfilter/nfnetlink.h and linux/netfilter/nfnetlink_log.h.
const SUBSYSTEM: u16 = 4 << 8;
const PACKET: u16 = SUBSYSTEM;
const CONFIGURE: u16 = SUBSYSTEM | 1;
const COMMAND: u16 = 1;
const MODE: u16 = 2;
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const IN_LINK: u16 = 4;
const OUT_LINK: u16 = 5;
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;
/// The length of `nfgenmsg` in bytes.
const HEADER: usize = 4;

/// A socket that hears the records of one group.
#[derive(Debug)]
pub struct PacketLog {
    socket: Socket,
    group: u16,
}

/// A record of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What the rule says, at most 127 bytes.
    pub prefix: String,
    /// The number of the link that it came by; `None` for a packet of this machine.
    pub in_link: Option<u32>,
    /// The number of the link that it was to leave by; `None` before that is known.
    pub out_link: Option<u32>,
    /// Its headers; `None` when its first bytes are no packet of IPv4 or IPv6.
    pub packet: Option<Packet>,
}

/// What has come since it was asked last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Records {
    /// The records.
    pub records: Vec<Record>,
    /// Whether the kernel had to leave out records, because they came faster than they were taken.
    pub were_lost: bool,
}

impl PacketLog {
    /// Opens the socket and binds it to a group of the network namespace that this thread is in. Records have the first
    /// `copy_len` bytes of a packet: 128 are enough for all that is read, and the rule must not say less.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EPERM` when another socket has the group, and without the right `CAP_NET_ADMIN`.
    pub fn bind(group: u16, copy_len: u32) -> Result<Self, Error> {
        let mut log = Self { socket: Socket::open(Protocol::Netfilter)?, group };
        log.configure("bind", |writer| writer.put(COMMAND, &[BIND]))?;
        log.configure("set the copied length of", |writer| {
            // `nfulnl_msg_config_mode`: the length in the order of networks, the mode, one byte of padding.
            let mut mode = copy_len.to_be_bytes().to_vec();
            mode.extend([COPY_PACKET, 0]);
            writer.put(MODE, &mode);
        })?;
        Ok(log)
    }

    fn configure(&mut self, verb: &str, write: impl FnOnce(&mut Writer)) -> Result<(), Error> {
        let mut writer = Writer::request(CONFIGURE, ACK);
        let [high, low] = self.group.to_be_bytes();
        writer.raw(&[0, 0, high, low]);
        write(&mut writer);
        self.socket.tell(&format_args!("{verb} the packet log of group {}", self.group), &mut writer)
    }

    /// Returns the records that have come, without waiting: `limit` of them, and what else came with the last of those. Poll the
    /// descriptor to wait. Unless the rule has a threshold of 1, the kernel sends up to 100 records together, a second after the
    /// first at the latest.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn take(&mut self, limit: usize) -> Result<Records, Error> {
        let what = format!("read the packet log of group {}", self.group);
        let mut found = Records::default();
        while found.records.len() < limit {
            match self.socket.receive(&what, RecvFlags::DONTWAIT) {
                Ok(len) => {
                    let new = messages(self.socket.received(len)).filter(|message| message.kind == PACKET);
                    found.records.extend(new.filter_map(|message| parse_record(message.body)));
                }
                Err(error) if error.errno() == Some(libc::EAGAIN) => break,
                Err(error) if error.errno() == Some(libc::ENOBUFS) => found.were_lost = true,
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

impl AsFd for PacketLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.fd().as_fd()
    }
}

fn parse_record(body: &[u8]) -> Option<Record> {
    let body = body.get(HEADER..)?;
    Some(Record {
        prefix: find_text(body, PREFIX).unwrap_or_default(),
        in_link: find_be32(body, IN_LINK),
        out_link: find_be32(body, OUT_LINK),
        packet: find(body, PAYLOAD).and_then(parse_packet),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _none = parse_record(&bytes);
        }
    }
}
