//! Records of packets: a rule says which, and the record says who sent what where.

use crate::namespace::{Namespace, in_namespace, index, join};
use bailiwick_netfilter::nflog::PacketLog;
use bailiwick_netfilter::nft::terms::{drop, is_ipv4, log, protocol};
use bailiwick_netfilter::nft::{BaseChain, Batch, Chain, ChainKind, Hook, NftSocket, Policy, Rule, Table};
use bailiwick_netfilter::packet::Service;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

#[test]
fn a_dropped_packet_is_recorded() {
    in_namespace(|| {
        let rule = Rule::new([is_ipv4(), protocol(17), log(7, "spoofed bw1", 128, 1), drop()]);
        let base =
            BaseChain { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: -300, policy: Policy::Accept };
        let table = Table { chains: vec![Chain::base("raw", base, vec![rule])], ..Table::new("logged") };
        let mut batch = Batch::new();
        batch.replace_table(&table);
        NftSocket::open().expect("opens").commit(batch).expect("adds");
        let mut records = PacketLog::bind(7, 128).expect("binds");
        let error = PacketLog::bind(7, 128).expect_err("taken");
        assert!(error.to_string().starts_with("cannot bind the packet log of group 7: "), "{error}");
        assert_eq!(error.errno(), Some(libc::EPERM));
        assert_eq!(records.take(10).expect("takes").records, []);
        let tenant = Namespace::new();
        join("bw1", &tenant, 1);
        let port = tenant.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::new(10, 0, 1, 2), 0)).expect("binds");
            for _ in 0..5 {
                socket.send_to(&[0; 400], (Ipv4Addr::new(10, 0, 1, 1), 53)).expect("sends");
            }
            socket.local_addr().expect("an address").port()
        });
        let mut found = Vec::new();
        let until = Instant::now() + Duration::from_secs(5);
        while found.len() < 5 && Instant::now() < until {
            let time = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            let mut polled = [rustix::event::PollFd::from_borrowed_fd(records.as_fd(), rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut polled, Some(&time)).expect("polls");
            let new = records.take(1).expect("takes");
            assert!(!new.were_lost && new.records.len() <= 1);
            found.extend(new.records);
        }
        assert_eq!(found.len(), 5);
        let packet = found[0].packet.expect("a packet");
        assert_eq!((found[0].prefix.as_str(), found[0].in_link), ("spoofed bw1", Some(index("bw1"))));
        assert_eq!((packet.source, packet.destination), (IpAddr::from([10, 0, 1, 2]), IpAddr::from([10, 0, 1, 1])));
        assert_eq!((packet.service, packet.len), (Service::Ports { source: port, destination: 53 }, 428));
    });
}
