//! The last packets that were refused to each tenant, as evidence: who sent what where, and why it was refused.
//!
//! Danger: a tenant writes these packets. The kernel hands over their first bytes, a few of each tenant a second; the parser is
//! bounded, and only numbers and addresses are kept.

use bailiwick_netfilter::nflog::{PacketLog, Record};
use bailiwick_netfilter::packet::{Packet, Service};
use bailiwick_netlink::Error;
use bailiwick_rules::router::RECORDS;
use bailiwick_types::{RefusedPacket, RefusedRecord};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime};

/// How much of a packet is copied, in bytes.
const COPIED: u32 = 128;
/// The most records that are taken in one turn.
const TURN: usize = 256;
/// The most records that are kept of one tenant.
const KEPT: usize = 16;

/// The records of refused packets.
#[derive(Debug)]
pub(super) struct Evidence {
    log: PacketLog,
    /// By the index of the router's end of the link.
    last: BTreeMap<u32, VecDeque<RefusedRecord>>,
}

impl Evidence {
    /// Listens to the records of the router's rules.
    pub(super) fn open() -> Result<Self, Error> {
        Ok(Self { log: PacketLog::bind(RECORDS, COPIED)?, last: BTreeMap::new() })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.log.as_fd()
    }

    /// Takes what has come.
    pub(super) fn take(&mut self) -> Result<(), Error> {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        for record in self.log.take(TURN)?.records {
            let Some((link, refused)) = parse(&record, at) else { continue };
            let last = self.last.entry(link).or_default();
            if last.len() == KEPT {
                last.pop_front();
            }
            last.push_back(refused);
        }
        Ok(())
    }

    /// The last refused packets of a link, the oldest first.
    pub(super) fn of(&self, link: u32) -> Vec<RefusedRecord> {
        self.last.get(&link).into_iter().flatten().cloned().collect()
    }

    /// Forgets links that are gone.
    pub(super) fn keep_only(&mut self, is_there: impl Fn(u32) -> bool) {
        self.last.retain(|link, _| is_there(*link));
    }
}

fn parse(record: &Record, at: u64) -> Option<(u32, RefusedRecord)> {
    let reason = *RefusedPacket::ALL.iter().find(|reason| reason.word() == record.prefix)?;
    let Packet { source, destination, protocol, service, .. } = record.packet?;
    let port = match service {
        Service::Ports { destination, .. } => Some(destination),
        Service::Icmp { .. } | Service::None => None,
    };
    Some((record.in_link?, RefusedRecord { at, reason, source, destination, protocol: protocol_name(protocol), port }))
}

/// The name of a transport protocol, or its number (IANA).
pub(super) fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    #[test]
    fn only_records_of_our_rules_are_evidence() {
        let address = |last| IpAddr::V4(Ipv4Addr::new(100, 64, 0, last));
        let service = Service::Ports { source: 1000, destination: 25 };
        let packet = Packet { source: address(16), destination: address(17), protocol: 6, service, len: 60 };
        let record =
            |prefix: &str, in_link, packet| Record { prefix: prefix.to_owned(), in_link, out_link: None, packet };
        let refused = parse(&record("smtp", Some(7), Some(packet)), 5).expect("one of ours");
        assert_eq!((refused.0, refused.1.reason, refused.1.port), (7, RefusedPacket::Smtp, Some(25)));
        assert_eq!((refused.1.protocol.as_str(), refused.1.at), ("tcp", 5));
        for other in
            [record("other", Some(7), Some(packet)), record("smtp", None, Some(packet)), record("smtp", Some(7), None)]
        {
            assert_eq!(parse(&other, 5), None);
        }
    }
}
