//! Reads any bytes as messages of netlink with their attributes, and as a packet that the router has refused, which a tenant wrote.
//!
//! No reader may panic, or return bytes that it was not given. What is in a packet fits into it.

#![no_main]

use bailiwick_netfilter::packet::parse_packet;
use bailiwick_netlink::message::{find, find_be32, find_be64, find_text, find_u32, messages, text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut read = 0;
    for message in messages(data) {
        read += message.body.len();
        for kind in 0..16 {
            let content = find(message.body, kind);
            assert!(content.is_none_or(|content| content.len() < message.body.len()));
            let numbers = [find_u32(message.body, kind), find_be32(message.body, kind)];
            assert!(numbers.iter().all(|number| number.is_none() || content.is_some()));
            assert!(find_be64(message.body, kind).is_none() || content.is_some());
            assert_eq!(find_text(message.body, kind), content.map(text));
        }
    }
    assert!(read <= data.len());
    if let Some(packet) = parse_packet(data) {
        assert_eq!(packet.source.is_ipv4(), packet.destination.is_ipv4());
    }
});
