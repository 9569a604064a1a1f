//! Ports of the host that lead into jails.

use crate::{assert_nothing, assert_refused, at, outside};
use bailiwick_proto::{NetReply, NetRequest};
use bailiwick_tests::until;
use bailiwick_tests::wire::{HOST_V4, HOST_V6, OUTSIDE_V4, OUTSIDE_V6, Talk, Wire, serve};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

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
fn a_connection_that_the_host_has_opened_before_goes_on() {
    let mut wire = Wire::with(", ports = \"40000-40009\"");
    // The kernel takes the ports of the host's own connections from there too.
    wire.space.ok("sysctl -qw net.ipv4.ip_local_port_range='40000 40009'");
    let listener = wire.outside.run(|| TcpListener::bind((OUTSIDE_V4, 9000))).expect("binds");
    let mut own = wire.space.run(|| TcpStream::connect((OUTSIDE_V4, 9000))).expect("connects");
    let port = own.local_addr().expect("an address").port();
    assert!((40_000..=40_009).contains(&port), "{port}");
    let (mut other, _) = listener.accept().expect("accepts");
    let published = if port == 40_001 { 40_002 } else { 40_001 };
    wire.start(&[("alice", &publishing(published))]);
    let server = serve(&wire.jail("alice"), at("::", 22));
    // To the kernel this packet is the first one of a connection, because it has followed none before.
    other.write_all(b"goes on").expect("sends");
    own.set_read_timeout(Some(Duration::from_secs(10))).expect("a time");
    own.read_exact(&mut [0; 7]).expect("it leads to the host still");
    Talk::open(&wire.outside, (HOST_V4, published).into()).expect("and what is new into the jail");
    drop(server);
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

#[test]
fn who_is_full_of_connections_from_outside_is_told_and_sees_them() {
    const MOST: usize = 16;
    let mut wire = Wire::with(", ports = \"40000-40009\"");
    wire.start(&[("alice", &format!("connections = {MOST}\n{}", publishing(40_001)))]);
    let server = serve(&wire.jail("alice"), at("::", 22));
    let to: SocketAddr = (HOST_V4, 40_001).into();
    let open: Vec<_> = (0..MOST).map(|_| Talk::open(&wire.outside, to).expect("connects")).collect();
    let one_more = wire.outside.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)));
    one_more.expect_err("she has as many as she may have");
    let text = wire.host.ok(&["network", "alice", "--connections", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(shown["refused"]["connections"].as_u64().is_some_and(|count| count > 0), "{text}");
    let connections = shown["connections"].as_array().expect("a list");
    assert_eq!(connections.len(), MOST, "{text}");
    let (own, _) = wire.addresses("alice");
    for connection in connections {
        assert_eq!(connection["destination"], own.to_string(), "{text}");
        assert_eq!(
            (&connection["destination_port"], &connection["source"]),
            (&22.into(), &OUTSIDE_V4.to_string().into())
        );
    }
    drop((open, server));
}

#[test]
fn a_port_goes_on_leading_where_it_led_when_another_one_asks_for_it_and_bailiwick_net_starts_anew() {
    let mut wire = Wire::with(", ports = \"40000-40009\"");
    wire.start(&[("alice", ""), ("carol", &publishing(40_001))]);
    let [alice, carol] = ["alice", "carol"].map(|tenant| wire.jail(tenant));
    let servers = [&alice, &carol].map(|jail| serve(jail, at("::", 22)));
    Talk::open(&wire.outside, (HOST_V4, 40_001).into()).expect("carol answers");
    wire.declare("alice", &publishing(40_001));
    let refused = wire.host.cli(&["apply", "alice"]);
    assert!(!refused.status.success(), "{refused:?}");
    wire.kill_network();
    wire.spawn_network();
    until("it answers", || matches!(wire.try_ask(&NetRequest::Hello, &[]), Ok(NetReply::Hello { .. })));
    let capture = wire.arrivals_in("carol");
    let mut talk = Talk::open(&wire.outside, (HOST_V4, 40_001).into()).expect("somebody answers");
    talk.say("<after>").expect("sends");
    wire.settle_host();
    wire.settle_in("carol", &capture);
    assert!(!capture.matching(|packet| packet.holds("<after>")).is_empty(), "the port is carol's");
    Talk::open(&wire.jail("carol"), outside(80)).expect("carol has her network");
    Talk::open(&wire.jail("alice"), outside(80)).expect("and alice hers, without the port");
    let NetReply::Problems(problems) = wire.ask(&NetRequest::Problems) else { panic!("no problems") };
    let told = problems.iter().any(|problem| problem.text.contains("tcp/40001") && problem.text.contains("\"alice\""));
    assert!(told, "{problems:?}");
    // Once carol publishes it no longer, it is alice's.
    wire.declare("carol", "");
    wire.host.ok(&["apply", "carol"]);
    wire.host.ok(&["apply", "alice"]);
    let mut talk = Talk::open(&wire.outside, (HOST_V4, 40_001).into()).expect("alice answers");
    talk.echo(1000).expect("goes on");
    drop(servers);
}
