//! Who sent what where: the headers of a packet of IPv4 or IPv6 (RFC 791, RFC 8200).
//!
//! Danger: whoever sends a packet chooses all of its bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

// Protocol numbers (IANA).
const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const DESTINATION: u8 = 60;
const SCTP: u8 = 132;
const DCCP: u8 = 33;
const UDP_LITE: u8 = 136;
/// Extension headers that are looked through. Real packets have one or two.
const MAX_EXTENSIONS: usize = 8;
const IPV6_HEADER: usize = 40;

/// The headers of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    /// Where it says that it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// The transport protocol; of a packet of IPv6, what its extension headers end with.
    pub protocol: u8,
    /// The ports, or the type and code of a message of ICMP.
    pub service: Service,
    /// Its length in bytes, as it says itself.
    pub len: u32,
}

/// What a packet says behind its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Neither: another protocol, a later fragment, or a packet that was cut before it.
    None,
    /// The ports of TCP, UDP and their like.
    Ports {
        /// Of the source.
        source: u16,
        /// Of the destination.
        destination: u16,
    },
    /// A message of ICMP or ICMPv6.
    Icmp {
        /// The type.
        kind: u8,
        /// The code.
        code: u8,
    },
}

/// Parses the first bytes of a packet, which may be cut anywhere behind its addresses; `None` when it is neither of IPv4 nor of
/// IPv6.
#[must_use]
pub fn parse_packet(bytes: &[u8]) -> Option<Packet> {
    match bytes.first()? >> 4 {
        4 => ipv4(bytes),
        6 => ipv6(bytes),
        _ => None,
    }
}

fn ipv4(bytes: &[u8]) -> Option<Packet> {
    let header: &[u8; 20] = bytes.first_chunk()?;
    let header_len = usize::from(header[0] & 0xf) * 4;
    if header_len < header.len() {
        return None;
    }
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    let protocol = header[9];
    let rest = bytes.get(header_len..).filter(|_| fragment == 0).unwrap_or_default();
    Some(Packet {
        source: IpAddr::V4(Ipv4Addr::new(header[12], header[13], header[14], header[15])),
        destination: IpAddr::V4(Ipv4Addr::new(header[16], header[17], header[18], header[19])),
        protocol,
        service: service(protocol, rest),
        len: u32::from(u16::from_be_bytes([header[2], header[3]])),
    })
}

fn ipv6(bytes: &[u8]) -> Option<Packet> {
    let header: &[u8; IPV6_HEADER] = bytes.first_chunk()?;
    let address = |at: usize| <[u8; 16]>::try_from(&header[at..at + 16]).map(Ipv6Addr::from).map(IpAddr::V6).ok();
    let (protocol, rest) = behind_extensions(header[6], &bytes[IPV6_HEADER..]);
    Some(Packet {
        source: address(8)?,
        destination: address(24)?,
        protocol,
        service: service(protocol, rest),
        len: u32::from(u16::from_be_bytes([header[4], header[5]])) + 40,
    })
}

/// The protocol behind the extension headers, and its bytes, which are none when they are cut or those of a later fragment.
fn behind_extensions(mut protocol: u8, mut rest: &[u8]) -> (u8, &[u8]) {
    for _ in 0..MAX_EXTENSIONS {
        let Some([next, len, high, low]) = rest.first_chunk().copied() else { break };
        let len = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => (usize::from(len) + 1) * 8,
            AUTHENTICATION => (usize::from(len) + 2) * 4,
            FRAGMENT if u16::from_be_bytes([high, low]) & 0xfff8 != 0 => return (next, &[]),
            FRAGMENT => 8,
            _ => break,
        };
        protocol = next;
        rest = rest.get(len..).unwrap_or_default();
    }
    (protocol, rest)
}

fn service(protocol: u8, bytes: &[u8]) -> Service {
    let Some([a, b, c, d]) = bytes.first_chunk().copied() else { return Service::None };
    match protocol {
        TCP | UDP | SCTP | DCCP | UDP_LITE => {
            Service::Ports { source: u16::from_be_bytes([a, b]), destination: u16::from_be_bytes([c, d]) }
        }
        ICMP | ICMPV6 => Service::Icmp { kind: a, code: b },
        _ => Service::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(protocol: u8, fragment: u16, options: usize, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 20 + options * 4];
        bytes[0] = 0x45 + u8::try_from(options).expect("few");
        bytes[3] = 72;
        bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
        bytes[9] = protocol;
        bytes[12..16].copy_from_slice(&[10, 0, 0, 1]);
        bytes[16..20].copy_from_slice(&[192, 0, 2, 1]);
        bytes.extend(rest);
        bytes
    }

    fn v6(protocol: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; IPV6_HEADER];
        bytes[0] = 0x60;
        bytes[5] = 32;
        bytes[6] = protocol;
        bytes[8] = 0xfd;
        bytes[39] = 1;
        bytes.extend(rest);
        bytes
    }

    const PORTS: [u8; 4] = [0x9c, 0x40, 0, 53];

    fn service_of(bytes: &[u8]) -> Service {
        parse_packet(bytes).expect("a packet").service
    }

    #[test]
    fn addresses_and_ports_are_read() {
        let ports = Service::Ports { source: 40_000, destination: 53 };
        let packet = parse_packet(&v4(UDP, 0, 0, &PORTS)).expect("a packet");
        assert_eq!((packet.source, packet.destination), ([10, 0, 0, 1].into(), [192, 0, 2, 1].into()));
        assert_eq!((packet.protocol, packet.service, packet.len), (UDP, ports, 72));
        assert_eq!(service_of(&v4(TCP, 0x4000, 10, &PORTS)), ports, "options and do-not-fragment");
        assert_eq!(service_of(&v4(ICMP, 0, 0, &[8, 1, 0, 0])), Service::Icmp { kind: 8, code: 1 });
        assert_eq!(service_of(&v4(UDP, 1, 0, &PORTS)), Service::None, "a later fragment");
        assert_eq!(service_of(&v4(47, 0, 0, &PORTS)), Service::None);
        assert_eq!(service_of(&v4(UDP, 0, 0, &PORTS[..3])), Service::None);
        assert_eq!(parse_packet(&v4(UDP, 0, 0, &[])[..19]), None);
        assert_eq!(parse_packet(&[0x44; 60]), None, "a header of 16 bytes");
        let packet = parse_packet(&v6(UDP, &PORTS)).expect("a packet");
        assert_eq!(packet.source, "fd00::".parse::<IpAddr>().expect("an address"));
        assert_eq!((packet.destination, packet.service, packet.len), ("::1".parse().expect("an address"), ports, 72));
    }

    #[test]
    fn extension_headers_are_looked_through() {
        let hop = [DESTINATION, 0, 0, 0, 0, 0, 0, 0];
        let destination = [FRAGMENT, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let fragment = |offset: u16| {
            let [high, low] = (offset << 3 | 1).to_be_bytes();
            [TCP, 0, high, low, 0, 0, 0, 0]
        };
        let whole = |offset| v6(HOP_BY_HOP, &[&hop[..], &destination, &fragment(offset), &PORTS].concat());
        let first = parse_packet(&whole(0)).expect("a packet");
        assert_eq!((first.protocol, first.service), (TCP, Service::Ports { source: 40_000, destination: 53 }));
        let later = parse_packet(&whole(5)).expect("a packet");
        assert_eq!((later.protocol, later.service), (TCP, Service::None));
        let endless: Vec<u8> = [HOP_BY_HOP, 0, 0, 0, 0, 0, 0, 0].repeat(100);
        assert_eq!(service_of(&v6(HOP_BY_HOP, &endless)), Service::None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 4u8..7) {
            let _any = parse_packet(&bytes);
            if let Some(first) = bytes.first_mut() {
                *first = (version << 4) | (*first & 0xf);
            }
            let _some = parse_packet(&bytes);
        }

        #[test]
        fn a_cut_packet_never_says_something_else(
            rest in proptest::collection::vec(any::<u8>(), 0..60),
            next: u8,
            cut in 40usize..100,
        ) {
            let whole = v6(next, &rest);
            let cut = parse_packet(&whole[..cut.min(whole.len())]).expect("a packet");
            let whole = parse_packet(&whole).expect("a packet");
            prop_assert!(cut.service == Service::None || cut == whole);
        }
    }
}
