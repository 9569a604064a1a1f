//! Ports of the host that lead into jails.

use crate::{assert_nothing, assert_refused, at, outside};
use bailiwick_proto::NetReply;
use bailiwick_tests::wire::{HOST_V4, HOST_V6, OUTSIDE_V4, OUTSIDE_V6, Talk, Wire, serve};
use std::net::{IpAddr, SocketAddr, UdpSocket};

fn publishing(port: u16) -> String {
    format!(
        "mode = \"published\"\npublish = [{{ host = \"tcp/{port}\", to = \"tcp/22\" }}, {{ host = \"udp/{port}\", to = \"udp/53\" }}]"
    )
}

#[test]
fn each_leads_into_its_jail_with_the_clients_address_and_no_other_does() {
    let mut wire = Wire::with(", ports = \"40000-40009\"");
    wire.start(&[("alice", &publishing(40_001)), ("bob", &publishing(40_002)), ("carol", "")]);
    let jails = ["alice", "bob", "carol"].map(|tenant| (tenant, wire.jail(tenant)));
    let servers: Vec<_> =
        jails.iter().flat_map(|(_, jail)| [22, 40_001, 40_003].map(|port| serve(jail, at("::", port)))).collect();
    let captures = jails.each_ref().map(|(tenant, _)| (*tenant, wire.arrivals_in(tenant)));
    let arrived = |tenant: &str, text: &str| {
        let (_, capture) = captures.iter().find(|(name, _)| *name == tenant).expect("a tenant");
        wire.settle_in(tenant, capture);
        capture.matching(|packet| packet.holds(text)).len()
    };
    for (port, tenant) in [(40_001, "alice"), (40_002, "bob")] {
        for (host, client) in [(IpAddr::from(HOST_V4), IpAddr::from(OUTSIDE_V4)), (HOST_V6.into(), OUTSIDE_V6.into())] {
            let to = SocketAddr::new(host, port);
            let mut talk = Talk::open(&wire.outside, to).unwrap_or_else(|error| panic!("{to}: {error}"));
            assert_eq!(talk.seen_as, client, "{to}");
            talk.echo(10_000).expect("goes on");
            let text = format!("<to {to}>");
            wire.outside.send(to, &text);
            wire.settle_host();
            for other in ["alice", "bob", "carol"] {
                assert_eq!(arrived(other, &text), usize::from(other == tenant), "{to} in {other}");
            }
        }
    }
    // Ports that nobody has published, of the range and beside it, and one whose tenant is down.
    wire.host.ok(&["stop", "bob"]);
    for host in [IpAddr::from(HOST_V4), HOST_V6.into()] {
        for port in [22, 53, 39_999, 40_000, 40_002, 40_003, 40_009, 40_010] {
            wire.outside.send(SocketAddr::new(host, port), "<closed>");
        }
    }
    wire.settle_host();
    for tenant in ["alice", "carol"] {
        assert_eq!(arrived(tenant, "<closed>"), 0, "{tenant}");
    }
    assert!(Talk::open(&wire.outside, (HOST_V4, 40_001).into()).is_ok(), "alice's is open");
    // A neighbour reaches a published port of the host as little as anything else of it.
    let (_, carol) = &jails[2];
    assert_refused(Talk::open(carol, (HOST_V4, 40_001).into()), "the host");
    Talk::open(&jails[0].1, outside(80)).expect("who publishes also connects");
    drop(servers);
}

#[test]
fn a_port_that_is_no_longer_published_ends_what_is_open() {
    let mut wire = Wire::with(", ports = \"40000-40009\"");
    wire.start(&[("alice", &publishing(40_001))]);
    let jail = wire.jail("alice");
    let server = serve(&jail, at("::", 22));
    let capture = wire.arrivals_in("alice");
    let mut open = Talk::open(&wire.outside, (HOST_V4, 40_001).into()).expect("connects");
    // Without an answer, each packet is the first one.
    let client = wire.outside.run(|| UdpSocket::bind((OUTSIDE_V4, 0))).expect("a socket");
    let arrived = |text: &str| {
        client.send_to(text.as_bytes(), (HOST_V4, 40_001)).expect("sends");
        wire.settle_host();
        wire.settle_in("alice", &capture);
        capture.matching(|packet| packet.holds(text)).len()
    };
    assert_eq!(arrived("<before>"), 1);
    wire.declare("alice", "mode = \"published\"\npublish = [{ host = \"tcp/40002\", to = \"tcp/23\" }]");
    assert_eq!(wire.update("alice"), NetReply::Done);
    assert_eq!(arrived("<after>"), 0);
    open.say("<after by TCP>").expect("sends");
    wire.settle_host();
    wire.settle_in("alice", &capture);
    assert_nothing(&capture, "<after by TCP>", "in the jail");
    drop(server);
}
