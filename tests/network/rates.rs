//! Rates, numbers of connections, and the volume of a month.

use crate::{assert_refused, outside, outside_v6};
use bailiwick_proto::NetReply;
use bailiwick_tests::until;
use bailiwick_tests::wire::{OUTSIDE_V4, Space, Talk, Wire};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Instant;

/// The bytes a second that come back over a connection, as a share of 1 MiB.
fn rate_of(talk: &mut Talk) -> f64 {
    const BYTES: u32 = 1 << 20;
    let begin = Instant::now();
    talk.echo(usize::try_from(BYTES).expect("small")).expect("goes on");
    f64::from(BYTES) / begin.elapsed().as_secs_f64() / f64::from(1 << 20)
}

/// A busy machine may be slow at any time, but it is never faster than the rate.
const TRIES: usize = 20;

#[test]
fn a_rate_holds_in_its_direction_and_for_its_tenant_only() {
    let wire = Wire::running(&[("alice", "down = \"1M\""), ("bob", "up = \"1M\""), ("carol", "")]);
    for (tenant, to) in [("alice", outside(80)), ("bob", outside_v6(80))] {
        let mut talk = Talk::open(&wire.jail(tenant), to).expect("connects");
        // What passes at once is over by then.
        talk.echo(200_000).expect("goes on");
        let is_reached = (0..TRIES).any(|_| {
            let rate = rate_of(&mut talk);
            assert!(rate < 1.3, "{tenant}: {rate:.2} of the rate");
            rate > 0.5
        });
        assert!(is_reached, "{tenant}: less than half of the rate");
    }
    let mut talk = Talk::open(&wire.jail("carol"), outside(80)).expect("connects");
    assert!((0..TRIES).any(|_| rate_of(&mut talk) > 1.3), "carol has no rate");
}

/// The packets that wait in the kernel for the rate of a jail's class.
fn waiting(wire: &Wire) -> Option<u64> {
    let queues: serde_json::Value =
        serde_json::from_str(&wire.router().ok("tc -s -j qdisc show dev up0")).expect("tc writes JSON");
    let own = queues.as_array()?.iter().find(|queue| queue["kind"] == "pfifo")?;
    own["qlen"].as_u64()
}

/// A line that sends some packets of as many bytes. With UDP_SEGMENT (udp(7)) what is sent at once is one packet for the kernel.
fn send_large(bytes: u32, times: u32) -> String {
    format!(
        "perl -e 'use Socket; socket(my $s, 2, 2, 0) or die; setsockopt($s, 17, 103, pack(\"i\", 1400)) or die; \
         my $to = pack_sockaddr_in(9, inet_aton(\"{OUTSIDE_V4}\")); send($s, \"x\" x {bytes}, 0, $to) or die for 1 .. {times}'"
    )
}

#[test]
fn few_packets_wait_for_a_rate_whatever_their_size() {
    const MOST: u64 = 100;
    let wire = Wire::running(&[("bob", "up = \"1M\"\ndown = \"1M\"\nports = [\"udp/9\"]")]);
    let bob = wire.jail("bob");
    let into = wire.router().ok(&format!("tc qdisc show dev {}", wire.router_link("bob")));
    assert!(into.contains(&format!("limit {MOST}p")), "into the jail: {into}");
    let mut seen = 0;
    until("packets wait", || {
        bob.ok(&send_large(42_000, 300));
        let now = waiting(&wire).expect("its class has a queue of its own");
        assert!(now <= MOST, "{now} packets");
        seen = seen.max(now);
        seen > MOST / 2
    });
}

#[test]
fn a_large_packet_passes_at_a_low_rate() {
    let wire = Wire::running(&[("bob", "up = \"400K\"\nports = [\"udp/9\"]")]);
    let bob = wire.jail("bob");
    let before = wire.counted().arrived.0;
    bob.ok(&send_large(60_000, 1));
    until("all of it arrives", || wire.counted().arrived.0 - before > 60_000);
}

#[test]
fn a_tenant_with_all_its_connections_gets_no_more_and_others_do() {
    let wire = Wire::running(&[("alice", "connections = 16"), ("bob", "connections = 16")]);
    let (alice, bob) = (wire.jail("alice"), wire.jail("bob"));
    // The kernel forgets elements that count no connection, such as this one, about once a second.
    let counter = "nft -f - <<'RULES'
table inet open {
    set idle {
        typeof iifname
        flags dynamic
        size 9
        ct count over 1
        elements = { \"lo\" ct count over 1 }
    }
}
RULES";
    wire.outside.ok(counter);
    let begin = Instant::now();
    while wire.outside.ok("nft list set inet open idle").contains("lo") && begin.elapsed().as_secs() < 5 {}
    let mut open: Vec<_> = (0..16).map(|_| Talk::open(&alice, outside(80)).expect("connects")).collect();
    for to in [outside(80), outside_v6(80)] {
        assert_refused(Talk::open(&alice, to), to);
    }
    Talk::open(&bob, outside(80)).expect("a neighbour connects");
    open.iter_mut().for_each(|talk| talk.echo(100).expect("open ones go on"));

    // Another policy begins no count anew.
    wire.declare("alice", "connections = 16\nports = [\"tcp/80\"]");
    assert_eq!(wire.update("alice"), NetReply::Done);
    open.iter_mut().for_each(|talk| talk.echo(100).expect("open ones go on"));
    assert_refused(Talk::open(&alice, outside(80)), "after a change");
    // Nor does somebody else's rule, which is taken out.
    wire.router().ok("nft add chain inet bailiwick foreign");
    until("it is taken out", || !wire.router().ok("nft list ruleset").contains("foreign"));
    assert_refused(Talk::open(&alice, outside(80)), "after a repair");
}

#[test]
fn a_jail_that_starts_again_has_all_its_connections() {
    let wire = Wire::running(&[("alice", "connections = 16"), ("bob", "connections = 16")]);
    let connect = || {
        let jail = wire.jail("alice");
        (0..16).map(|_| Talk::open(&jail, outside(80)).expect("connects")).collect::<Vec<_>>()
    };
    let open = connect();
    let lost = wire.jail("alice");
    wire.host.ok(&["restart", "alice"]);
    // The interface of the first one is gone, so they did not end in any orderly way.
    let again = connect();
    assert_refused(Talk::open(&wire.jail("alice"), outside(80)), "one more");
    drop((open, again, lost));
}

#[test]
fn nothing_passes_when_the_volume_of_the_month_is_used_up() {
    let mut wire = Wire::running(&[("alice", "month = { bytes = \"1M\", then = \"stop\" }"), ("bob", "")]);
    let (alice, bob) = (wire.jail("alice"), wire.jail("bob"));
    let mut open = [outside(80), outside_v6(80)].map(|to| Talk::open(&alice, to).expect("connects"));
    let before = wire.counted();
    open[0].echo(300_000).expect("600 kB of 1 MB");
    assert!(open[0].echo(4 << 20).is_err(), "it stops");
    let passed = wire.counted().arrived.0 - before.arrived.0 + wire.counted().left.0 - before.left.0;
    assert!((600_000..1_300_000).contains(&passed), "{passed} bytes on the wire");
    assert!(open[1].echo(100).is_err(), "every connection stops");
    for to in [outside(80), outside_v6(80)] {
        assert_refused(Talk::open(&alice, to), to);
    }
    // A restart of anything brings no new volume.
    wire.kill_network();
    wire.start_network();
    assert_refused(Talk::open(&alice, outside(80)), "after a restart of bailiwick-net");
    wire.host.ok(&["restart", "alice"]);
    assert_refused(Talk::open(&wire.jail("alice"), outside(80)), "after a restart of the jail");
    Talk::open(&bob, outside(80)).expect("a neighbour goes on").echo(4 << 20).expect("goes on");
    // The operator gives more.
    wire.declare("alice", "month = { bytes = \"8M\", then = \"stop\" }");
    assert_eq!(wire.update("alice"), NetReply::Done);
    Talk::open(&wire.jail("alice"), outside(80)).expect("connects again");
}

#[test]
fn what_is_refused_costs_nobody_any_volume() {
    let stop = "month = { bytes = \"1M\", then = \"stop\" }";
    let wire = Wire::running(&[("alice", stop), ("bob", stop)]);
    let (alice, bob) = (wire.jail("alice"), wire.jail("bob"));
    let (alice4, alice6) = wire.addresses("alice");
    let flood = |space: &Space, to: SocketAddr| {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = space.run(|| UdpSocket::bind((any, 0))).expect("binds");
        for _ in 0..2000 {
            // The answer to an earlier packet comes with the next one.
            socket.send_to(&[7; 1200], to).ok();
        }
    };
    // Of her own to what nobody reaches, and of a neighbour's to her.
    flood(&alice, SocketAddr::from(([169, 254, 169, 254], 9)));
    for to in [SocketAddr::from((alice4, 9)), SocketAddr::from((alice6, 9))] {
        flood(&bob, to);
    }
    for (name, jail) in [("alice", &alice), ("bob", &bob)] {
        let mut talk = Talk::open(jail, outside(80)).unwrap_or_else(|error| panic!("{name}: {error}"));
        talk.echo(200_000).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(talk.echo(4 << 20).is_err(), "{name}: what passes is counted");
    }
}

#[test]
fn a_month_that_begins_while_nobody_looks_has_its_whole_volume() {
    let stop = "month = { bytes = \"1M\", then = \"stop\" }";
    let mut wire = Wire::running(&[("alice", stop), ("bob", stop)]);
    for tenant in ["alice", "bob"] {
        let mut talk = Talk::open(&wire.jail(tenant), outside(80)).expect("connects");
        assert!(talk.echo(4 << 20).is_err(), "it stops");
    }
    wire.host.ok(&["stop", "bob"]);
    wire.kill_network();
    // As if all this had been the month before.
    let path = wire.host.path("state/network/usage.json");
    let text = std::fs::read_to_string(&path).expect("what was used");
    let mut used: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for tenant in ["alice", "bob"] {
        let month = used[tenant]["month"].as_u64().expect("a month");
        used[tenant]["month"] = (month - 1).into();
    }
    std::fs::write(&path, used.to_string()).expect("writes");
    wire.start_network();
    wire.host.ok(&["start", "bob"]);
    for tenant in ["alice", "bob"] {
        let mut talk = Talk::open(&wire.jail(tenant), outside(80)).unwrap_or_else(|error| panic!("{tenant}: {error}"));
        talk.echo(100_000).expect("goes on");
    }
}

#[test]
fn a_volume_is_looked_at_whatever_else_cannot_be() {
    let wire = Wire::running(&[("alice", "month = { bytes = \"1M\", then = \"shape 64K\" }")]);
    std::fs::write(wire.host.path("run/network/uplink.json"), "{").expect("writes");
    until("it is told", || wire.net_log().contains("event=not-compared"));
    Talk::open(&wire.jail("alice"), outside(80)).expect("connects").echo(1 << 20).expect("goes on");
    until("she is held back", || wire.net_log().contains("tenant=alice event=month-over held_back=true"));
}
