//! Fragments and headers that hide where a packet leads: what is blocked stays so, and honest fragments arrive.

use crate::{assert_nothing, at, is_late, outside, outside_v6};
use bailiwick_plan::network::{GATEWAY_MAC, JAIL_MAC};
use bailiwick_tests::wire::{
    Capture, Frame, HOST_V4, HOST_V6, Macs, OUTSIDE_V4, OUTSIDE_V6, Talk, Wire, ask_udp, checksum, udp,
};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// From a jail to its gateway.
const OUT: Macs = (JAIL_MAC, GATEWAY_MAC);
/// What no jail reaches: a metadata service, and a prefix that embeds its address.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const TWIN: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xa9fe, 0xa9fe);
/// A flag of IPv4: more fragments follow (RFC 791, 3.1).
const MORE_V4: u16 = 0x2000;
const FRAGMENT: u8 = 44;
const ROUTING: u8 = 43;
const UDP: u8 = 17;

/// A part of a datagram: which of its bytes, by units of eight, and whether more follow.
type Part<'a> = (u16, bool, &'a [u8]);

/// Fragments of IPv4 with one identification, in this order.
fn parts_v4(addresses: (Ipv4Addr, Ipv4Addr), number: u16, parts: &[Part<'_>]) -> Vec<Frame> {
    let one = |(at, more, bytes): &Part<'_>| {
        Frame::ipv4(OUT, addresses, UDP, (number, if *more { MORE_V4 } else { 0 } | at), bytes)
    };
    parts.iter().map(one).collect()
}

/// Fragments of IPv6 with one identification (RFC 8200, 4.5). `next` is the header that the fragments hold, and `before` the
/// headers of each packet before that of fragments, with the number of the first one.
fn parts_v6(
    addresses: (Ipv6Addr, Ipv6Addr),
    (number, next): (u16, u8),
    (first, before): (u8, &[u8]),
    parts: &[Part<'_>],
) -> Vec<Frame> {
    let one = |(at, more, bytes): &Part<'_>| {
        let header =
            [&[next, 0][..], &(at << 3 | u16::from(*more)).to_be_bytes(), &[0, 0], &number.to_be_bytes()].concat();
        Frame::ipv6(OUT, addresses, first, &[before, &header, bytes].concat())
    };
    parts.iter().map(one).collect()
}

fn datagram_v4((from, to): (Ipv4Addr, Ipv4Addr), port: u16, text: &str) -> Vec<u8> {
    udp(&[from.octets(), to.octets()].concat(), port, text)
}

fn datagram_v6((from, to): (Ipv6Addr, Ipv6Addr), port: u16, text: &str) -> Vec<u8> {
    udp(&[from.octets(), to.octets()].concat(), port, text)
}

/// Texts of 40 bytes, so that a datagram has 48: six units. Those of an open port end as the others do, so that either end fits.
const CLOSED: &str = "<closed><closed><closed><closed><closed>";
const ENDS_ALIKE: &str = "<closed><closed><ending><ending><ending>";
const ROUTED: &str = "<routed><routed>";
const OPEN: &str = "<opened><opened><ending><ending><ending>";

/// Everything that could get a datagram to where it must not go past a filter that looks at one fragment at a time. All of it
/// says so, but for ends that fit an open port too.
fn hidden_v4(addresses: (Ipv4Addr, Ipv4Addr), port: u16, number: u16) -> Vec<Frame> {
    let whole = datagram_v4(addresses, port, CLOSED);
    let (alike, open) = (datagram_v4(addresses, port, ENDS_ALIKE), datagram_v4(addresses, 443, OPEN));
    let orders: [&[Part<'_>]; 7] = [
        // In order, and the other way round.
        &[(0, true, &whole[..24]), (3, false, &whole[24..])],
        &[(3, false, &whole[24..]), (0, true, &whole[..24])],
        // The smallest first part: the ports, and nothing that says what they are for.
        &[(0, true, &whole[..8]), (1, true, &whole[8..16]), (2, false, &whole[16..])],
        // An open port, and then its bytes again with another one.
        &[(0, true, &open[..24]), (0, true, &alike[..24]), (3, false, &alike[24..])],
        &[(0, true, &alike[..24]), (0, true, &open[..24]), (3, false, &alike[24..])],
        &[(3, false, &alike[24..]), (0, true, &open[..16]), (0, true, &alike[..24])],
        // Only the end, which a next hop may put to another beginning.
        &[(3, false, &whole[24..])],
    ];
    (number..).zip(orders).flat_map(|(number, parts)| parts_v4(addresses, number, parts)).collect()
}

fn hidden_v6(addresses: (Ipv6Addr, Ipv6Addr), port: u16, number: u16) -> Vec<Frame> {
    let whole = datagram_v6(addresses, port, CLOSED);
    let (alike, open) = (datagram_v6(addresses, port, ENDS_ALIKE), datagram_v6(addresses, 443, OPEN));
    // Options for the destination: eight bytes, filled up, then the datagram. The first fragment ends before the datagram begins.
    let behind = [&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &whole].concat();
    let options = [FRAGMENT, 0, 1, 4, 0, 0, 0, 0];
    let udp = (FRAGMENT, &[][..]);
    let parts = |number, before, parts: &[Part<'_>]| parts_v6(addresses, (number, UDP), before, parts);
    let mut frames = vec![
        parts(number, udp, &[(0, true, &whole[..24]), (3, false, &whole[24..])]),
        parts(number + 1, udp, &[(3, false, &whole[24..]), (0, true, &whole[..24])]),
        parts(number + 2, udp, &[(0, true, &whole[..8]), (1, true, &whole[8..16]), (2, false, &whole[16..])]),
        parts(number + 3, udp, &[(0, true, &open[..24]), (0, true, &alike[..24]), (3, false, &alike[24..])]),
        parts(number + 4, udp, &[(0, true, &alike[..24]), (0, true, &open[..24]), (3, false, &alike[24..])]),
        parts(number + 5, udp, &[(3, false, &whole[24..])]),
        // The header that is in the second fragment.
        parts_v6(addresses, (number + 6, 60), udp, &[(0, true, &behind[..8]), (1, false, &behind[8..])]),
        // One fragment that is the whole (RFC 6946).
        parts(number + 7, udp, &[(0, false, &whole)]),
    ];
    // Headers before those of fragments: options of each hop, and of the destination.
    for (number, first) in (number + 8..).zip([0, 60]) {
        frames.push(parts(number, (first, &options), &[(0, true, &whole[..24]), (3, false, &whole[24..])]));
    }
    // No fragments, but headers.
    for headers in [&[0][..], &[60], &[0, 60], &[0, 60, 60]] {
        frames.push(vec![behind_v6(addresses, headers, &whole)]);
    }
    frames.concat()
}

/// A datagram behind headers of options, each filled up.
fn behind_v6(addresses: (Ipv6Addr, Ipv6Addr), headers: &[u8], datagram: &[u8]) -> Frame {
    let next = headers.iter().skip(1).copied().chain([UDP]);
    let before: Vec<u8> = next.flat_map(|next| [next, 0, 1, 4, 0, 0, 0, 0]).collect();
    Frame::ipv6(OUT, addresses, headers[0], &[&before[..], datagram].concat())
}

/// Datagrams behind routing headers (RFC 2460, 4.4, and those that came later): each is sent to `by`, and from there on to the end.
/// Their checksums are right for the one or the other.
fn routed_v6(from: Ipv6Addr, by: Ipv6Addr, end: Ipv6Addr) -> Vec<Frame> {
    let one = |(kind, of)| {
        let header = [&[UDP, 2, kind, 1, 0, 0, 0, 0][..], &end.octets()].concat();
        Frame::ipv6(OUT, (from, by), ROUTING, &[&header[..], &datagram_v6((from, of), 443, ROUTED)].concat())
    };
    [0, 2, 3, 4].into_iter().flat_map(|kind| [(kind, by), (kind, end)]).map(one).collect()
}

/// The same with the option of IPv4 (RFC 791, 3.1: loose source and record route).
fn routed_v4(from: Ipv4Addr, by: Ipv4Addr, end: Ipv4Addr) -> Frame {
    let packet = Frame::ipv4(OUT, (from, by), UDP, (0, 0), &datagram_v4((from, end), 443, ROUTED));
    let (header, datagram) = packet.bytes[14..].split_at(20);
    let option = [&[131, 7, 4][..], &end.octets(), &[0]].concat();
    let mut header = [header, &option].concat();
    header[0] = 0x47;
    header[3] += 8;
    header[10..12].fill(0);
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    Frame::new(OUT, 0x0800, &[&header[..], datagram].concat())
}

/// What has arrived that no rule allows.
fn wrong(capture: &Capture) -> Vec<String> {
    let wrong = capture.matching(|packet| {
        let is_blocked = packet.is_for(METADATA.into()) || packet.is_for(TWIN.into());
        packet.holds("<closed>") || packet.holds(ROUTED) || is_blocked
    });
    wrong.iter().map(|packet| format!("{:?} {:?}", packet.addresses(), packet.bytes)).collect()
}

#[test]
fn what_is_blocked_is_reached_neither_in_fragments_nor_behind_headers() {
    let wire = Wire::running(&[("alice", ""), ("bob", "")]);
    let (own, bob) = (wire.addresses("alice"), wire.addresses("bob"));
    let (in_bob, arrivals, at_host) = (wire.arrivals_in("bob"), wire.arrivals(), wire.arrivals_at_host());
    let jail = wire.jail("alice");
    let mut number = 100;
    // A port that is not allowed, and addresses that are blocked, at an open port.
    for (to, port) in [(OUTSIDE_V4, 8080), (METADATA, 443), (bob.0, 443)] {
        jail.send_frames("eth0", &hidden_v4((own.0, to), port, number));
        number += 100;
    }
    for (to, port) in [(OUTSIDE_V6, 8080), (TWIN, 443), (bob.1, 443), (HOST_V6, 443)] {
        jail.send_frames("eth0", &hidden_v6((own.1, to), port, number));
        number += 100;
    }
    let router = Wire::inner_addresses()[0].ipv6.expect("it has IPv6");
    let ends = [TWIN, bob.1, HOST_V6];
    let routed = ends.into_iter().flat_map(|end| [OUTSIDE_V6, router, bob.1].map(|by| routed_v6(own.1, by, end)));
    jail.send_frames("eth0", &routed.flatten().collect::<Vec<_>>());
    let routed = [METADATA, bob.0, HOST_V4].map(|end| routed_v4(own.0, OUTSIDE_V4, end));
    jail.send_frames("eth0", &routed);
    wire.settle("alice", &arrivals);
    wire.settle_in("bob", &in_bob);
    for (capture, place) in [(&in_bob, "in bob's jail"), (&arrivals, "outside"), (&at_host, "at the host")] {
        assert_eq!(wrong(capture), [""; 0], "{place}");
    }
    // Half of a datagram holds nobody up who has nothing to do with it.
    for to in [outside(80), outside_v6(80)] {
        Talk::open(&wire.jail("bob"), to).unwrap_or_else(|error| panic!("{to}: {error}"));
    }
}

#[test]
fn honest_fragments_arrive_whole_in_both_directions() {
    let wire = Wire::running(&[("alice", "")]);
    let (jail, arrivals) = (wire.jail("alice"), wire.arrivals());
    for server in [at("203.0.115.9", 443), at("2a00:6::1", 443)] {
        let heard = wire.outside.run(|| UdpSocket::bind(server)).expect("binds");
        heard.set_read_timeout(Some(Duration::from_secs(30))).expect("a time");
        let local = if server.is_ipv4() { at("0.0.0.0", 0) } else { at("::", 0) };
        let client = jail.run(|| UdpSocket::bind(local)).expect("binds");
        client.connect(server).expect("a route");
        client.set_read_timeout(Some(Duration::from_secs(30))).expect("a time");
        // Up to the largest that there is.
        for len in [1473, 4000, 20_000, 65_000] {
            let sent: Vec<u8> = (0..len).map(|index: u32| index.to_be_bytes()[3]).collect();
            client.send(&sent).expect("sends");
            let mut received = vec![0; 70_000];
            let (count, from) =
                heard.recv_from(&mut received).unwrap_or_else(|error| panic!("{server} {len}: {error}"));
            assert!(received[..count] == sent, "{server}: {count} of {len}");
            heard.send_to(&sent, from).expect("sends");
            let count = client.recv(&mut received).unwrap_or_else(|error| panic!("back from {server} {len}: {error}"));
            assert!(received[..count] == sent, "back from {server}: {count} of {len}");
        }
    }
    let is_fragment = |packet: &bailiwick_tests::wire::Packet| match packet.kind() {
        0x0800 => packet.bytes.get(20).is_some_and(|flags| flags & 0x20 != 0),
        _ => packet.protocol() == Some(FRAGMENT),
    };
    wire.settle("alice", &arrivals);
    for to in [at("203.0.115.9", 443).ip(), at("2a00:6::1", 443).ip()] {
        assert!(arrivals.matching(|packet| packet.is_for(to) && is_fragment(packet)).len() > 10, "it was in fragments");
    }
    // A program that sends as much where it may not is told so, as with a small datagram.
    for to in [outside(8080), outside_v6(8080)] {
        let error = large(&wire, to).expect_err("refused");
        assert!(!is_late(&error), "{to}: {error}");
    }
    for to in [outside(443), outside_v6(443)] {
        ask_udp(&jail, to, Duration::from_secs(30)).unwrap_or_else(|error| panic!("{to}: {error}"));
    }
    wire.settle("alice", &arrivals);
    assert_nothing(&arrivals, "<large>", "outside");
}

/// Sends a datagram of several fragments, and waits for what comes back.
fn large(wire: &Wire, to: SocketAddr) -> std::io::Result<usize> {
    let local = if to.is_ipv4() { at("0.0.0.0", 0) } else { at("::", 0) };
    let socket = wire.jail("alice").run(|| UdpSocket::bind(local))?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    socket.connect(to)?;
    socket.send("<large>".repeat(1000).as_bytes())?;
    socket.recv(&mut [0; 100])
}
