//! What a jail may send, and what it may not.

use crate::{assert_refused, at, outside, outside_v6};
use bailiwick_plan::network::{GATEWAY_MAC, JAIL_MAC};
use bailiwick_tests::until;
use bailiwick_tests::wire::{
    HOST_V4, HOST_V6, OUTSIDE_V4, OUTSIDE_V6, Packet, RESOLVER, Talk, Wire, ask_udp, echo_v4, echo_v6,
};
use std::net::IpAddr;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

#[test]
fn the_web_and_names_arrive_and_nothing_else() {
    let wire = Wire::running(&[("alice", "")]);
    let jail = wire.jail("alice");
    let arrivals = wire.arrivals();
    for port in [80, 443] {
        for to in [outside(port), outside_v6(port)] {
            let mut talk = Talk::open(&jail, to).unwrap_or_else(|error| panic!("{to}: {error}"));
            assert_eq!(talk.seen_as, if to.is_ipv4() { IpAddr::from(HOST_V4) } else { HOST_V6.into() });
            talk.echo(10_000).expect("goes on");
        }
    }
    for to in [outside(443), outside_v6(443), (RESOLVER, 53).into()] {
        ask_udp(&jail, to, LONG).unwrap_or_else(|error| panic!("{to}: {error}"));
    }
    Talk::open(&jail, (RESOLVER, 53).into()).expect("names by TCP");
    for port in [22, 25, 53, 81, 465, 587, 8080] {
        for to in [outside(port), outside_v6(port), at("8.8.8.8", port)] {
            assert_refused(Talk::open(&jail, to), to);
        }
    }
    for to in [outside(53), outside_v6(53), at("8.8.8.8", 53), outside(80), outside_v6(123), (RESOLVER, 443).into()] {
        assert_refused(ask_udp(&jail, to, LONG), to);
    }
    wire.settle("alice", &arrivals);
    let is_wrong = |port: u16, to: IpAddr| !([80, 443].contains(&port) || port == 53 && to == IpAddr::from(RESOLVER));
    let wrong = arrivals.matching(|packet| {
        packet.addresses().is_some_and(|(_, to)| packet.port().is_some_and(|port| is_wrong(port, to)))
    });
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn mail_and_ping_only_for_who_may() {
    let mail = "smtp = true\nports = [\"tcp/25\", \"tcp/465\", \"tcp/587\", \"dns\"]";
    let wire = Wire::running(&[("alice", mail), ("bob", "ports = [\"ping\", \"tcp/1-65535\"]"), ("carol", "")]);
    let (alice, bob) = (wire.jail("alice"), wire.jail("bob"));
    let arrivals = wire.arrivals();
    for port in [25, 465, 587] {
        for to in [outside(port), outside_v6(port)] {
            assert_refused(Talk::open(&bob, to), to);
        }
    }
    wire.settle_wire(&arrivals);
    let is_mail = |port| [25, 465, 587].contains(&port);
    let mails = || arrivals.matching(|packet| packet.port().is_some_and(is_mail));
    assert!(mails().is_empty(), "{:?}", mails());
    for port in [25, 465, 587] {
        for to in [outside(port), outside_v6(port)] {
            Talk::open(&alice, to).unwrap_or_else(|error| panic!("{to}: {error}"));
        }
    }
    Talk::open(&bob, outside(8080)).expect("every other port");
    for (tenant, may) in [("alice", false), ("bob", true), ("carol", false)] {
        let (jail, (v4, v6)) = (wire.jail(tenant), wire.addresses(tenant));
        let back = wire.arrivals_in(tenant);
        let macs = (JAIL_MAC, GATEWAY_MAC);
        let text = format!("<ping of {tenant}>");
        let pings = [echo_v4(macs, (v4, OUTSIDE_V4), &text), echo_v6(macs, (v6, OUTSIDE_V6), &text)];
        jail.send_frames("eth0", &pings);
        wire.settle_wire(&arrivals);
        assert_eq!(arrivals.matching(|packet| packet.holds(&text)).len(), if may { 2 } else { 0 }, "{tenant}");
        if may {
            let is_reply =
                |packet: &Packet| packet.addresses().is_some_and(|(from, _)| from == OUTSIDE_V4 || from == OUTSIDE_V6);
            until("answers", || back.matching(|packet| packet.holds(&text) && is_reply(packet)).len() == 2);
        }
    }
}

#[test]
fn programs_inside_have_names_and_the_web() {
    let wire = Wire::running(&[("alice", "")]);
    let line = "cat /etc/resolv.conf && exec perl -MSocket -e 'socket(my $s, PF_INET, SOCK_STREAM, 0); \
                connect($s, sockaddr_in(80, inet_aton(\"203.0.114.2\"))) or die $!; print scalar <$s>; \
                socket($s, PF_INET, SOCK_STREAM, 0); print connect($s, sockaddr_in(22, inet_aton(\"203.0.114.2\"))) ? \"open\" : $!'";
    let (status, out, err) = wire.host.inside("alice", line);
    assert_eq!(status, 0, "{err}");
    assert!(out.contains(&format!("nameserver {RESOLVER}\n203.0.114.1\nConnection refused")), "{out}");
}
