//! Many tenants in one router. `BAILIWICK_CROWD=1000` makes a thousand of them.

use crate::{assert_refused, outside, outside_v6};
use bailiwick_proto::net::MOST_NETWORKS;
use bailiwick_proto::{NetReply, NetRequest, WardenReply, WardenRequest};
use bailiwick_tests::machine::print_measurement;
use bailiwick_tests::name;
use bailiwick_tests::wire::{Packet, Space, Talk, Wire};
use bailiwick_types::{NetworkFacts, RefusedPacket, TenantName};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

const DEFAULT: usize = 40;
/// How many of its neighbours each tenant tries to reach.
const NEIGHBOURS: usize = 3;
/// In how many jails everything is read that arrives there.
const WATCHED: usize = 40;

/// Does something, and prints how long it took.
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let done = work();
    print_measurement(&format!("{what}: {:.3} s", begin.elapsed().as_secs_f64()));
    done
}

fn observed(wire: &Wire, names: &[TenantName]) -> BTreeMap<TenantName, NetworkFacts> {
    let mut all = BTreeMap::new();
    for portion in names.chunks(MOST_NETWORKS) {
        match wire.ask(&NetRequest::Observe { tenants: portion.to_vec() }) {
            NetReply::Observed(facts) => all.extend(facts.into_iter().map(|facts| (facts.tenant.clone(), facts))),
            other => panic!("{other:?}"),
        }
    }
    all
}

/// The elements of all sets of the router that belong to links, but for those that come and go with packets.
fn elements(wire: &Wire) -> BTreeSet<String> {
    let text = wire.router().ok("nft -s list table inet bailiwick");
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let of_links = words.split([',', '{', '}']).map(str::trim).filter(|element| element.starts_with("\"bw"));
    of_links
        .filter(|element| !element.contains("ct count") && !element.contains("limit rate"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn each_reaches_the_world_and_none_another() {
    let count = std::env::var("BAILIWICK_CROWD").map_or(DEFAULT, |text| text.parse().expect("a number of tenants"));
    let mut wire = Wire::crowd(u32::try_from(count / 16 + 1).expect("few"));
    wire.host.write("etc/plans.d/web.toml", "profile = \"web\"\n[limits]\nmemory = \"16M\"\ntasks = 16\n");
    let names: Vec<TenantName> = (0..count).map(|number| name(&format!("tenant{number:04}"))).collect();
    // Some policies are those of several tenants, and some of one.
    let policy = |number: usize| match number % 4 {
        0 => String::new(),
        1 => "up = \"20M\"\ndown = \"20M\"\nmonth = { bytes = \"1G\", then = \"stop\" }".to_owned(),
        2 => "ports = [\"tcp/80\", \"tcp/443\", \"dns\"]\nconnections = 100".to_owned(),
        _ => format!("ports = [\"tcp/80\", \"tcp/443\", \"udp/{}\"]", 1000 + number),
    };
    for (number, tenant) in names.iter().enumerate() {
        wire.declare(tenant.as_str(), &policy(number));
    }
    timed(&format!("{count} tenants with a network start"), || wire.start(&[]));
    let WardenReply::Roster(roster) = wire.host.warden(&WardenRequest::Roster) else { panic!("no roster") };
    let jails: Vec<Space> = names
        .iter()
        .map(|tenant| Space::of(roster[tenant].pid.unwrap_or_else(|| panic!("{tenant} is down"))))
        .collect();
    let before = timed("the networks of all are read", || observed(&wire, &names));
    let addresses: BTreeSet<_> = before.values().flat_map(|facts| facts.addresses.clone()).collect();
    assert_eq!(addresses.len(), 2 * count, "each has addresses of its own");
    timed("each talks to the outside by both families", || {
        for (tenant, jail) in names.iter().zip(&jails) {
            for to in [outside(80), outside_v6(443)] {
                let mut talk = Talk::open(jail, to).unwrap_or_else(|error| panic!("{tenant} to {to}: {error}"));
                talk.echo(2000).unwrap_or_else(|error| panic!("{tenant} to {to}: {error}"));
            }
        }
    });
    let watched: Vec<_> =
        names.iter().take(WATCHED).map(|tenant| (tenant, wire.arrivals_in(tenant.as_str()))).collect();
    let arrivals = wire.arrivals();
    timed("each tries its neighbours", || {
        for (number, jail) in jails.iter().enumerate() {
            for step in 1..=NEIGHBOURS {
                let neighbour = &before[&names[(number + step) % count]];
                for address in &neighbour.addresses {
                    let to = SocketAddr::new(*address, 80);
                    jail.send(to, "<neighbour>");
                    assert_refused(Talk::open(jail, to), format!("{} to {}", names[number], neighbour.tenant));
                }
            }
        }
    });
    for (tenant, capture) in &watched {
        wire.settle_in(tenant.as_str(), capture);
        // What its own packets were answered with holds them too.
        let is_from_neighbour = |packet: &Packet| packet.holds("<neighbour>") && packet.protocol() == Some(17);
        assert!(capture.matching(is_from_neighbour).is_empty(), "in the jail of {tenant}");
    }
    assert!(arrivals.matching(|packet| packet.holds("<neighbour>")).is_empty(), "outside");
    let traffic = timed("the counters of all are read", || match wire.ask(&NetRequest::Traffic) {
        NetReply::Traffic(traffic) => traffic,
        other => panic!("{other:?}"),
    });
    let after = observed(&wire, &names);
    for tenant in &names {
        let counted = traffic.get(tenant).unwrap_or_else(|| panic!("{tenant} has no counters"));
        for volume in [counted.ipv4.sent, counted.ipv4.received, counted.ipv6.sent, counted.ipv6.received] {
            assert!((2000..100_000).contains(&volume.bytes) && volume.packets > 3, "{tenant}: {counted:?}");
        }
        let refused = after[tenant].refused.get(&RefusedPacket::Tenant).copied().unwrap_or(0);
        assert!(refused >= 4 * u64::try_from(NEIGHBOURS).expect("few"), "{tenant}: {refused} packets refused");
        assert!(after[tenant].differences.is_empty(), "{tenant}: {:?}", after[tenant].differences);
    }

    // One policy changes, and nothing of anybody else does.
    let mut open: Vec<Talk> =
        jails.iter().take(WATCHED).map(|jail| Talk::open(jail, outside(80)).expect("connects")).collect();
    let old = elements(&wire);
    wire.declare(names[0].as_str(), "ports = [\"tcp/8080\"]\nup = \"5M\"");
    let reply = timed("one policy changes", || wire.update(names[0].as_str()));
    assert_eq!(reply, NetReply::Done);
    let link = format!("\"{}\"", before[&names[0]].link.as_deref().expect("a link"));
    let changed: Vec<_> = elements(&wire).symmetric_difference(&old).cloned().collect();
    assert!(!changed.is_empty() && changed.iter().all(|element| element.starts_with(&link)), "{link}: {changed:?}");
    Talk::open(&jails[0], outside(8080)).expect("its new port");
    assert_refused(Talk::open(&jails[0], outside(80)), "its old port");
    for (tenant, talk) in names.iter().zip(&mut open).skip(1) {
        talk.echo(2000).unwrap_or_else(|error| panic!("{tenant}: {error}"));
    }
}
