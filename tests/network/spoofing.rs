//! Frames that a jail forges. A packet is what it says only if the router has looked at it.

use crate::{assert_nothing, outside, outside_v6};
use bailiwick_plan::network::{GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, JAIL_MAC};
use bailiwick_tests::wire::{Frame, HOST_V4, HOST_V6, Macs, OUTSIDE_V4, OUTSIDE_V6, Talk, Wire, udp, udp_v4, udp_v6};
use std::net::{Ipv4Addr, Ipv6Addr};

/// From a jail to its gateway.
const OUT: Macs = (JAIL_MAC, GATEWAY_MAC);
const EVERYBODY: [u8; 6] = [0xff; 6];

fn v4(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

#[test]
fn no_source_but_its_own_leaves_a_jail() {
    let wire = Wire::running(&[("alice", ""), ("bob", "")]);
    let ((own4, own6), (bob4, bob6)) = (wire.addresses("alice"), wire.addresses("bob"));
    let (in_bob, arrivals, at_host) = (wire.arrivals_in("bob"), wire.arrivals(), wire.arrivals_at_host());
    let unused = Wire::pools().tenant(4321).expect("there is room");
    let [router, host] = Wire::inner_addresses();
    let sources4 = [bob4, unused.ipv4, router.ipv4, host.ipv4, HOST_V4, OUTSIDE_V4, GATEWAY_V4]
        .into_iter()
        .chain(["8.8.8.8", "127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1"].map(v4));
    let of_pool = [unused.ipv6, router.ipv6, host.ipv6].map(|address| address.expect("it has IPv6"));
    let sources6 = [bob6, HOST_V6, OUTSIDE_V6, GATEWAY_V6]
        .into_iter()
        .chain(of_pool)
        .chain(["::", "::1", "fe80::2", "ff02::1", "2a00:7::7", "::ffff:203.0.114.1"].map(v6));
    let mut frames = Vec::new();
    for source in sources4 {
        for to in [OUTSIDE_V4, bob4, HOST_V4] {
            frames.push(udp_v4(OUT, (source, to), 443, "<spoofed>"));
            frames.push(udp_v4((JAIL_MAC, EVERYBODY), (source, to), 443, "<spoofed>"));
        }
    }
    for source in sources6 {
        for to in [OUTSIDE_V6, bob6, HOST_V6] {
            frames.push(udp_v6(OUT, (source, to), 443, "<spoofed>"));
        }
    }
    let jail = wire.jail("alice");
    jail.send_frames("eth0", &frames);
    // Its own source from another hardware address harms nobody: that address is read by nobody.
    let other = ([2, 9, 9, 9, 9, 9], GATEWAY_MAC);
    jail.send_frames(
        "eth0",
        &[udp_v4(other, (own4, OUTSIDE_V4), 443, "<own>"), udp_v6(OUT, (own6, OUTSIDE_V6), 443, "<own>")],
    );
    wire.settle("alice", &arrivals);
    wire.settle_in("bob", &in_bob);
    assert_eq!(arrivals.matching(|packet| packet.holds("<own>")).len(), 2, "frames are sent as they are");
    for (capture, place) in [(&in_bob, "in bob's jail"), (&arrivals, "outside"), (&at_host, "at the host")] {
        assert_nothing(capture, "<spoofed>", place);
    }
}

#[test]
fn other_protocols_fragments_and_headers_do_not_pass() {
    let wire = Wire::running(&[("alice", ""), ("bob", "")]);
    let ((own4, own6), (bob4, bob6)) = (wire.addresses("alice"), wire.addresses("bob"));
    let (in_bob, arrivals, at_host) = (wire.arrivals_in("bob"), wire.arrivals(), wire.arrivals_at_host());
    let mut frames = Vec::new();
    let text = b"<frame><frame><frame><frame><frame><frame>";
    // ARP and neighbour discovery, announcements of routers, DHCP: what takes traffic of others over on an Ethernet.
    let arp =
        [&[0, 1, 8, 0, 6, 4, 0, 2][..], &JAIL_MAC, &GATEWAY_V4.octets(), &EVERYBODY, &bob4.octets(), text].concat();
    frames.push(Frame::new((JAIL_MAC, EVERYBODY), 0x0806, &arp));
    let all_nodes = (JAIL_MAC, [0x33, 0x33, 0, 0, 0, 1]);
    for kind in [133, 134, 135, 136, 137, 128] {
        let message = [&[kind, 0, 0, 0][..], &bob6.octets(), text].concat();
        frames.push(Frame::ipv6(all_nodes, (GATEWAY_V6, v6("ff02::1")), 58, &message));
        frames.push(Frame::ipv6(OUT, (own6, bob6), 58, &message));
        frames.push(Frame::ipv6(OUT, (own6, OUTSIDE_V6), 58, &message));
    }
    let dhcp = udp_v4((JAIL_MAC, EVERYBODY), (v4("0.0.0.0"), v4("255.255.255.255")), 67, "<frame>");
    frames.push(dhcp);
    // Tags, and protocols that hold others.
    let inner = &udp_v4(OUT, (own4, OUTSIDE_V4), 443, "<frame>").bytes[14..];
    frames.push(Frame::new(OUT, 0x8100, &[&[0, 5, 8, 0][..], inner].concat()));
    frames.push(Frame::new(OUT, 0x88a8, &[&[0, 5, 8, 0][..], inner].concat()));
    for protocol in [1, 2, 4, 41, 47, 50, 51, 89, 132, 136] {
        frames.push(Frame::ipv4(OUT, (own4, OUTSIDE_V4), protocol, (0, 0), text));
        frames.push(Frame::ipv6(OUT, (own6, OUTSIDE_V6), protocol, text));
        frames.push(Frame::ipv4(OUT, (own4, bob4), protocol, (0, 0), text));
        frames.push(Frame::ipv6(OUT, (own6, bob6), protocol, text));
    }
    // A port that is refused, behind each header of IPv6 (RFC 8200, 4), and in fragments.
    let pseudo6 = [own6.octets(), OUTSIDE_V6.octets()].concat();
    let pseudo4 = [own4.octets(), OUTSIDE_V4.octets()].concat();
    let (six, four) = (udp(&pseudo6, 8080, "<frame><frame>"), udp(&pseudo4, 8080, "<frame><frame>"));
    let options = [17, 0, 1, 4, 0, 0, 0, 0];
    for header in [0, 43, 60, 135] {
        frames.push(Frame::ipv6(OUT, (own6, OUTSIDE_V6), header, &[&options[..], &six].concat()));
    }
    let twice = [&[60, 0, 1, 4, 0, 0, 0, 0][..], &options, &six].concat();
    frames.push(Frame::ipv6(OUT, (own6, OUTSIDE_V6), 0, &twice));
    let part = |offset: u16, more: u16| [&[17, 0][..], &(offset << 3 | more).to_be_bytes(), &[0, 0, 0, 7]].concat();
    frames.push(Frame::ipv6(OUT, (own6, OUTSIDE_V6), 44, &[&part(0, 0)[..], &six].concat()));
    frames.push(Frame::ipv6(OUT, (own6, OUTSIDE_V6), 44, &[&part(0, 1)[..], &six[..16]].concat()));
    frames.push(Frame::ipv6(OUT, (own6, OUTSIDE_V6), 44, &[&part(2, 0)[..], &six[16..]].concat()));
    frames.push(Frame::ipv6(OUT, (own6, OUTSIDE_V6), 44, &[&part(100, 0)[..], text].concat()));
    frames.push(Frame::ipv4(OUT, (own4, OUTSIDE_V4), 17, (1, 0x2000), &four[..16]));
    frames.push(Frame::ipv4(OUT, (own4, OUTSIDE_V4), 17, (1, 2), &four[16..]));
    // The first part fits no header, and a later one alone.
    frames.push(Frame::ipv4(OUT, (own4, OUTSIDE_V4), 6, (2, 0x2000), &four[..8]));
    frames.push(Frame::ipv4(OUT, (own4, OUTSIDE_V4), 17, (3, 100), text));
    let jail = wire.jail("alice");
    jail.send_frames("eth0", &frames);
    let four = udp(&pseudo4, 443, "<whole><whole>");
    jail.send_frames(
        "eth0",
        &[
            Frame::ipv4(OUT, (own4, OUTSIDE_V4), 17, (4, 0x2000), &four[..16]),
            Frame::ipv4(OUT, (own4, OUTSIDE_V4), 17, (4, 2), &four[16..]),
        ],
    );
    wire.settle("alice", &arrivals);
    wire.settle_in("bob", &in_bob);
    assert_eq!(
        arrivals.matching(|packet| packet.holds("<whole>")).len(),
        1,
        "fragments to an open port are put together"
    );
    for (capture, place) in [(&in_bob, "in bob's jail"), (&arrivals, "outside"), (&at_host, "at the host")] {
        assert_nothing(capture, "<frame>", place);
    }
}

#[test]
fn a_jail_that_changes_its_network_harms_only_itself() {
    let wire = Wire::running(&[("alice", ""), ("bob", "")]);
    let (bob4, bob6) = wire.addresses("bob");
    let (in_bob, arrivals) = (wire.arrivals_in("bob"), wire.arrivals());
    let (jail, bob) = (wire.jail("alice"), wire.jail("bob"));
    let mut neighbour = [outside(80), outside_v6(443)].map(|to| Talk::open(&bob, to).expect("connects"));
    jail.ok(&format!(
        "ip addr add {bob4}/32 dev eth0; ip -6 addr add {bob6}/128 dev eth0 nodad; ip addr add 203.0.114.2/32 dev eth0; \
         ip link set eth0 address 02:62:77:00:00:01; ip route replace default dev eth0 src {bob4} onlink; \
         ip -6 route replace default via fe80::1 dev eth0 src {bob6}; ip neigh replace {bob4} lladdr 02:62:77:00:00:01 dev eth0; \
         ip route add 100.64.0.0/10 via 169.254.1.1 dev eth0 onlink; sysctl -qw net.ipv4.ip_forward=1"
    ));
    for to in [outside(443), outside_v6(443), (bob4, 443).into(), (bob6, 443).into()] {
        jail.send(to, "<changed>");
    }
    wire.settle_wire(&arrivals);
    wire.settle_in("bob", &in_bob);
    for (capture, place) in [(&in_bob, "in bob's jail"), (&arrivals, "outside")] {
        assert_nothing(capture, "<changed>", place);
    }
    // What it has taken away it can put back, without a restart.
    let (own4, own6) = {
        let pools = Wire::pools();
        let number = wire.router_link("alice").trim_start_matches("bw").parse().expect("a number");
        let own = pools.tenant(number).expect("there is room");
        (own.ipv4, own.ipv6.expect("it has IPv6"))
    };
    jail.ok(&format!(
        "ip link set eth0 down; ip addr flush dev eth0; ip link set eth0 address 02:62:77:00:00:02; ip link set eth0 up; \
         ip addr add {own4}/32 dev eth0; ip -6 addr add {own6}/128 dev eth0 nodad; \
         for gateway in 169.254.1.1 fe80::1; do ip neigh replace $gateway lladdr 02:62:77:00:00:01 dev eth0 nud permanent; done; \
         ip route replace default via 169.254.1.1 dev eth0 onlink; ip -6 route replace default via fe80::1 dev eth0"
    ));
    for to in [outside(80), outside_v6(80)] {
        Talk::open(&jail, to).unwrap_or_else(|error| panic!("{to}: {error}"));
    }
    for talk in &mut neighbour {
        talk.echo(1000).expect("bob noticed nothing");
    }
    Talk::open(&bob, outside(443)).expect("nor do new connections");
}
