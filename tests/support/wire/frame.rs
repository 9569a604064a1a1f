//! Frames of Ethernet, as an attacker writes them.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A frame, ready to be sent.
#[derive(Debug, Clone)]
pub struct Frame {
    /// All its bytes.
    pub bytes: Vec<u8>,
}

/// The hardware addresses of the sender and the receiver.
pub type Macs = ([u8; 6], [u8; 6]);

impl Frame {
    /// A frame with any content: `kind` is 0x0800 for IPv4, 0x86dd for IPv6, 0x0806 for ARP.
    #[must_use]
    pub fn new((from, to): Macs, kind: u16, content: &[u8]) -> Self {
        Self { bytes: [&to[..], &from, &kind.to_be_bytes(), content].concat() }
    }

    pub(super) fn hex(&self) -> String {
        self.bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A packet of IPv4 with any content. `part` is the identification, with the flags and the offset of a fragment (RFC 791, 3.1).
    #[must_use]
    pub fn ipv4(macs: Macs, (from, to): (Ipv4Addr, Ipv4Addr), protocol: u8, part: (u16, u16), content: &[u8]) -> Self {
        let mut header = vec![0x45, 0];
        header.extend(u16::try_from(20 + content.len()).expect("small").to_be_bytes());
        header.extend(part.0.to_be_bytes());
        header.extend(part.1.to_be_bytes());
        header.extend([64, protocol, 0, 0]);
        header.extend(from.octets());
        header.extend(to.octets());
        let sum = checksum(&header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        Self::new(macs, 0x0800, &[&header[..], content].concat())
    }

    /// A packet of IPv6. `next` is the protocol of the content, or that of its first extension header.
    #[must_use]
    pub fn ipv6(macs: Macs, (from, to): (Ipv6Addr, Ipv6Addr), next: u8, content: &[u8]) -> Self {
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(u16::try_from(content.len()).expect("small").to_be_bytes());
        header.extend([next, 255]);
        header.extend(from.octets());
        header.extend(to.octets());
        Self::new(macs, 0x86dd, &[&header[..], content].concat())
    }
}

/// The checksum of the Internet (RFC 1071).
///
/// # Panics
/// Never: a sum that was folded fits.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("it was folded")
}

/// A datagram with its header. `pseudo` are the addresses, for its checksum.
#[must_use]
pub fn udp(pseudo: &[u8], port: u16, text: &str) -> Vec<u8> {
    let len = u16::try_from(8 + text.len()).expect("small");
    let mut datagram = Vec::new();
    datagram.extend(40_000u16.to_be_bytes());
    datagram.extend(port.to_be_bytes());
    datagram.extend(len.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(text.bytes());
    let sum = checksum(&[pseudo, &[0, 17], &len.to_be_bytes()[..], &datagram].concat());
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

/// A datagram of IPv4 with a text.
#[must_use]
pub fn udp_v4(macs: Macs, (from, to): (Ipv4Addr, Ipv4Addr), port: u16, text: &str) -> Frame {
    let datagram = udp(&[from.octets(), to.octets()].concat(), port, text);
    Frame::ipv4(macs, (from, to), 17, (0, 0), &datagram)
}

/// A datagram of IPv6 with a text.
#[must_use]
pub fn udp_v6(macs: Macs, (from, to): (Ipv6Addr, Ipv6Addr), port: u16, text: &str) -> Frame {
    let datagram = udp(&[from.octets(), to.octets()].concat(), port, text);
    Frame::ipv6(macs, (from, to), 17, &datagram)
}

/// An echo request of IPv4 with a text (RFC 792).
#[must_use]
pub fn echo_v4(macs: Macs, addresses: (Ipv4Addr, Ipv4Addr), text: &str) -> Frame {
    let mut message = [&[8, 0, 0, 0, 0, 1, 0, 1], text.as_bytes()].concat();
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    Frame::ipv4(macs, addresses, 1, (0, 0), &message)
}

/// An echo request of IPv6 with a text (RFC 4443).
#[must_use]
pub fn echo_v6(macs: Macs, (from, to): (Ipv6Addr, Ipv6Addr), text: &str) -> Frame {
    let mut message = [&[128, 0, 0, 0, 0, 1, 0, 1], text.as_bytes()].concat();
    let len = u32::try_from(message.len()).expect("small");
    let pseudo = [&from.octets()[..], &to.octets(), &len.to_be_bytes(), &[0, 0, 0, 58]].concat();
    let sum = checksum(&[&pseudo[..], &message].concat()).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    Frame::ipv6(macs, (from, to), 58, &message)
}

/// An error of ICMP that says that a port is closed, about a packet (RFC 792).
#[must_use]
pub fn unreachable_v4(macs: Macs, addresses: (Ipv4Addr, Ipv4Addr), about: &Frame) -> Frame {
    let mut message = [&[3, 3, 0, 0, 0, 0, 0, 0], &about.bytes[14..]].concat();
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    Frame::ipv4(macs, addresses, 1, (0, 0), &message)
}

/// The same of IPv6 (RFC 4443, 3.1).
#[must_use]
pub fn unreachable_v6(macs: Macs, (from, to): (Ipv6Addr, Ipv6Addr), about: &Frame) -> Frame {
    let mut message = [&[1, 4, 0, 0, 0, 0, 0, 0], &about.bytes[14..]].concat();
    let len = u32::try_from(message.len()).expect("small");
    let pseudo = [&from.octets()[..], &to.octets(), &len.to_be_bytes(), &[0, 0, 0, 58]].concat();
    let sum = checksum(&[&pseudo[..], &message].concat()).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    Frame::ipv6(macs, (from, to), 58, &message)
}
