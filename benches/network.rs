//! What a network costs a jail: its start, a change, the counters, a packet and a stream, on a host with many tenants.
//!
//! Packets are compared with those that take as many steps without any rule:
//!
//! ```text
//!   jail -- router -- host ---- outside           a plain sender -- forwards -- forwards ---- outside
//! ```
//!
//! Danger: the rules of tenants without jails are added to the router while `bailiwick-net` stands still, which would take them out.

use crate::jails::Jails;
use crate::report::{Report, Table, Unit};
use crate::rounds::{Subject, interleave, time};
use bailiwick_netfilter::nft::{Batch, NftSocket};
use bailiwick_proto::{NetReply, NetRequest};
use bailiwick_rules::router::{self, TenantRules};
use bailiwick_sys::process;
use bailiwick_tests::wire::{OUTSIDE_V4, Space, Wire};
use bailiwick_types::{Network, NetworkMode};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

/// A tenant of the comparison, with a network and without.
const NETTED: &str = "netted";
const BARE: &str = "bare";
/// The tenant whose packets are measured. Its policy is that of all others.
const SENDER: &str = "t1";
/// After a stop, until the kernel has removed what the jail left.
const PAUSE: Duration = Duration::from_millis(100);
/// Packets of one round.
const PACKETS: u32 = 5000;
/// Bytes of one round's stream.
const STREAM: usize = 256 << 20;
/// The port of streams.
const PORT: u16 = 443;
/// Rules for as many tenants, also without jails.
const MOST_RULES: u32 = 10_000;
/// Elements of one transaction.
const AT_ONCE: usize = 1000;

/// The outside's addresses for those without rules.
const FORWARDED: Ipv4Addr = Ipv4Addr::new(203, 0, 116, 2);
const MASQUERADED: Ipv4Addr = Ipv4Addr::new(203, 0, 118, 2);
const DIRECT: Ipv4Addr = Ipv4Addr::new(203, 0, 117, 2);

/// Joins `$1`, a sender, with the outside over two that forward (`$2`, `$3`). `$4` is the network at the outside, and `$5` the one
/// of the others. It runs in the outside.
const FORWARDING: &str = "set -e
ip link add plain$4 type veth peer name out netns $3
nsenter --net=/proc/$3/ns/net ip link add in type veth peer name out netns $2
nsenter --net=/proc/$2/ns/net ip link add in type veth peer name eth0 netns $1
ip addr add $4.2/24 dev plain$4 && ip link set plain$4 up
ip route add $5.0.0/16 via $4.1
nsenter --net=/proc/$3/ns/net sh -ec \"ip addr add $4.1/24 dev out; ip addr add $5.2.1/24 dev in; ip link set out up; ip link set in up
    ip route add $5.1.0/24 via $5.2.2; ip route add default via $4.2; echo 1 > /proc/sys/net/ipv4/ip_forward\"
nsenter --net=/proc/$2/ns/net sh -ec \"ip addr add $5.2.2/24 dev out; ip addr add $5.1.1/24 dev in; ip link set out up; ip link set in up
    ip route add default via $5.2.1; echo 1 > /proc/sys/net/ipv4/ip_forward\"
nsenter --net=/proc/$1/ns/net sh -ec \"ip addr add $5.1.2/24 dev eth0; ip link set eth0 up; ip route add default via $5.1.1\"";
/// Joins `$1` with the outside directly. It runs in the outside.
const DIRECTLY: &str = "set -e
ip link add direct type veth peer name eth0 netns $1
ip addr add 203.0.117.2/24 dev direct && ip link set direct up
nsenter --net=/proc/$1/ns/net sh -ec 'ip addr add 203.0.117.1/24 dev eth0; ip link set eth0 up'";
/// What a host does for its jails, alone.
const MASQUERADE: &str =
    "nft 'table ip nat { chain out { type nat hook postrouting priority srcnat; oifname \"out\" masquerade; }; }'";

/// Senders without rules.
#[derive(Debug)]
struct Plain {
    /// Over two that forward.
    forwarded: Space,
    /// Over two that forward, the second of which masquerades.
    masqueraded: Space,
    /// Directly at the outside.
    direct: Space,
    _between: [Space; 4],
}

impl Plain {
    fn new(outside: &Space) -> Self {
        let chain = |outer, inner| {
            let spaces = [Space::new(), Space::new(), Space::new()];
            let [sender, first, second] = spaces.each_ref().map(|space| space.pid().to_string());
            outside.ok_with(FORWARDING, &[&sender, &first, &second, outer, inner]);
            spaces
        };
        let [forwarded, first, second] = chain("203.0.116", "10.77");
        let [masqueraded, third, fourth] = chain("203.0.118", "10.78");
        fourth.ok_with(MASQUERADE, &[]);
        let direct = Space::new();
        outside.ok_with(DIRECTLY, &[&direct.pid().to_string()]);
        Self { forwarded, masqueraded, direct, _between: [first, second, third, fourth] }
    }
}

/// Measures a host with so many tenants that have a network.
pub(crate) fn measure(report: &mut Report, tenants: usize, rounds: usize) {
    let mut wire = Wire::new();
    // The ids of a test's host are too few.
    let config = std::fs::read_to_string(wire.host.path("etc/bailiwick.toml")).expect("the configuration");
    let lines = config.lines().map(|line| if line.starts_with("ids = ") { IDS } else { line });
    wire.host.write("etc/bailiwick.toml", &lines.map(|line| format!("{line}\n")).collect::<String>());
    crate::say(&format!("starting {tenants} tenants"));
    let names: Vec<String> = (0..tenants.max(2)).map(|number| format!("t{number}")).collect();
    let tenants_of_all = || names.iter().map(String::as_str).chain([NETTED, BARE]);
    for tenant in tenants_of_all() {
        wire.declare(tenant, "");
    }
    wire.host.declare(BARE, "web");
    wire.start_network();
    wire.host.start_warden();
    let jails = Jails::of(&wire.host);
    for tenant in tenants_of_all() {
        jails.start(tenant);
    }
    report.add(starts(&jails, tenants, rounds));
    report.add(requests(&wire, tenants, rounds));
    let plain = Plain::new(&wire.outside);
    report.add(packets(&wire, &jails, &plain, tenants, rounds));
    report.add(streams(&wire, &jails, &plain, (rounds / 10).max(3)));
    for tenant in tenants_of_all() {
        jails.stop(tenant);
    }
}

const IDS: &str = "ids = { first = 1000000000, per_tenant = 65536 }";

/// Starts with and without a network.
fn starts(jails: &Jails<'_>, tenants: usize, rounds: usize) -> Table {
    crate::say("starts");
    jails.stop(NETTED);
    jails.stop(BARE);
    let mut subjects = [jails.phases_after(PAUSE, BARE), jails.phases_after(PAUSE, NETTED)];
    let mut series = interleave(rounds, &mut subjects);
    // "start" of each, and "stop".
    let start = |name: &str| format!("bailiwick {name}: start");
    series.retain(|series| {
        [BARE, NETTED].iter().any(|name| series.name.starts_with(&start(name)) || series.name.ends_with("stop"))
    });
    Table {
        title: format!("A start with a network and without, beside {tenants} tenants with one"),
        note: format!("Through the warden's socket, of profile `web`, {} ms after the last stop.", PAUSE.as_millis()),
        unit: Unit::Us,
        references: vec![series.iter().position(|series| series.name == start(BARE)).expect("it was measured")],
        series,
    }
}

/// What `bailiwick-net` answers.
fn requests(wire: &Wire, tenants: usize, rounds: usize) -> Table {
    crate::say("requests");
    let mut is_even = false;
    let change = Subject::one("the policy of one tenant changes", move || {
        is_even = !is_even;
        wire.declare("t0", if is_even { "allow = [\"198.20.0.0/16\"]" } else { "allow = [\"198.21.0.0/16\"]" });
        time(|| assert_eq!(wire.update("t0"), NetReply::Done))
    });
    let hello = Subject::one("a request that does nothing", || {
        time(|| assert!(matches!(wire.ask(&NetRequest::Hello), NetReply::Hello { .. })))
    });
    let counters = Subject::one("all counters", || {
        time(|| match wire.ask(&NetRequest::Traffic) {
            NetReply::Traffic(all) => assert!(all.len() >= tenants),
            other => panic!("{other:?}"),
        })
    });
    let mut subjects = [hello, change, counters];
    let series = interleave(rounds, &mut subjects);
    wire.declare("t0", "");
    assert_eq!(wire.update("t0"), NetReply::Done);
    Table {
        title: format!("Requests to `bailiwick-net` with {tenants} tenants"),
        note: "Over its socket, as the warden and bailiwickd ask.".to_owned(),
        unit: Unit::Us,
        references: vec![0],
        series,
    }
}

/// One datagram of 64 bytes, through the rules of few and of many tenants.
fn packets(wire: &Wire, jails: &Jails<'_>, plain: &Plain, tenants: usize, rounds: usize) -> Table {
    crate::say("packets");
    let jail = Space::of(jails.pid(SENDER));
    let mut few = [
        datagrams("three steps, no rules", &plain.forwarded, FORWARDED),
        datagrams("three steps, masqueraded", &plain.masqueraded, MASQUERADED),
        datagrams("one step, no rules", &plain.direct, DIRECT),
        datagrams(&format!("a jail, rules of {tenants} tenants"), &jail, OUTSIDE_V4),
    ];
    let mut series = interleave(rounds, &mut few);
    let net = process::open(wire.net_pid()).expect("it runs");
    process::signal(&net, Signal::STOP).expect("stops");
    add_rules(wire, u32::try_from(tenants).expect("not so many") + 100);
    let mut many = [
        datagrams("three steps, no rules, again", &plain.forwarded, FORWARDED),
        datagrams("three steps, masqueraded, again", &plain.masqueraded, MASQUERADED),
        datagrams(&format!("a jail, rules of {MOST_RULES} tenants"), &jail, OUTSIDE_V4),
    ];
    series.extend(interleave(rounds, &mut many));
    process::signal(&net, Signal::CONT).expect("goes on");
    Table {
        title: "A packet out of a jail".to_owned(),
        note: format!(
            "A datagram of 64 bytes as its sender sees it, mean of {PACKETS}. The host masquerades that of the jail."
        ),
        unit: Unit::Us,
        references: vec![0, 1],
        series,
    }
}

/// Sends datagrams from a socket of a namespace; the time of one.
fn datagrams(title: &str, from: &Space, to: Ipv4Addr) -> Subject<'static> {
    let socket = from.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a socket");
    // Nobody receives, and nobody says so.
    socket.connect((to, PORT)).expect("a route");
    Subject::one(title, move || {
        time(|| {
            for _ in 0..PACKETS {
                socket.send(&[0; 64]).ok();
            }
        }) / PACKETS
    })
}

/// Adds the rules of tenants that have no jail.
fn add_rules(wire: &Wire, first: u32) {
    let network = Network::with_mode(NetworkMode::Outbound);
    let policy = router::policy(&network, &BTreeMap::new());
    let pools = Wire::pools();
    let numbers: Vec<u32> = (first..first + MOST_RULES).collect();
    let router = wire.router();
    router.run(|| {
        let mut socket = NftSocket::open().expect("a socket");
        let sets = socket.table(router::TABLE, 1 << 20).expect("reads").expect("a table").table.sets;
        for numbers in numbers.chunks(AT_ONCE) {
            let mut batch = Batch::new();
            for number in numbers {
                let addresses = pools.tenant(*number).expect("an address");
                let rules = TenantRules {
                    number: *number,
                    addresses,
                    network: &network,
                    policy: policy.number,
                    links: Vec::new(),
                    used: 0,
                };
                for (name, elements) in router::tenant(&rules).into_iter().chain(router::counters(*number)) {
                    let set = sets.iter().find(|set| set.name == name).expect("a set of the table");
                    batch.add_elements(router::TABLE, set, &elements);
                }
            }
            socket.commit(batch).expect("the elements are added");
        }
    });
}

/// Which end of a stream sends.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// The client, so the jail.
    Out,
    /// The server outside.
    In,
}

impl Way {
    fn word(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
        }
    }

    /// The port of the outside's server. A jail may connect to both.
    fn port(self) -> u16 {
        match self {
            Self::Out => 5201,
            Self::In => 5202,
        }
    }
}

/// Streams of TCP out of a jail and into it.
fn streams(wire: &Wire, jails: &Jails<'_>, plain: &Plain, rounds: usize) -> Table {
    crate::say("streams");
    wire.declare(SENDER, "ports = [\"tcp/5201-5202\"]");
    assert_eq!(wire.update(SENDER), NetReply::Done);
    let jail = Space::of(jails.pid(SENDER));
    let places = [
        ("three steps, no rules", &plain.forwarded, FORWARDED),
        ("three steps, masqueraded", &plain.masqueraded, MASQUERADED),
        ("one step, no rules", &plain.direct, DIRECT),
        ("a jail", &jail, OUTSIDE_V4),
    ];
    let mut subjects: Vec<Subject<'_>> = Vec::new();
    for way in [Way::Out, Way::In] {
        serve(&wire.outside, way);
        for (what, from, to) in places {
            let address = SocketAddr::from((to, way.port()));
            subjects.push(Subject::one(&format!("{what}, {}", way.word()), move || {
                let connection = from.run(|| TcpStream::connect(address)).expect("connects");
                time(|| carry(connection, way))
            }));
        }
    }
    let series = interleave(rounds, &mut subjects);
    Table {
        title: "A stream".to_owned(),
        note: format!("{} MiB over one connection of TCP.", STREAM >> 20),
        unit: Unit::Ms,
        references: vec![0, 4],
        series,
    }
}

/// Serves streams at every address until the program ends.
fn serve(outside: &Space, way: Way) {
    let listener = outside.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, way.port()))).expect("binds");
    thread::spawn(move || {
        let other = match way {
            Way::Out => Way::In,
            Way::In => Way::Out,
        };
        for connection in listener.incoming().flatten() {
            carry(connection, other);
        }
    });
}

/// Sends a stream and waits until the other end has it, or receives one.
fn carry(mut connection: TcpStream, way: Way) {
    let mut buffer = vec![0; 128 << 10];
    match way {
        Way::Out => {
            for _ in 0..STREAM / buffer.len() {
                connection.write_all(&buffer).expect("writes");
            }
            connection.shutdown(Shutdown::Write).expect("the end");
            connection.read_exact(&mut buffer[..1]).expect("the other end has it");
        }
        Way::In => {
            let mut whole = 0;
            loop {
                match connection.read(&mut buffer).expect("reads") {
                    0 => break,
                    len => whole += len,
                }
            }
            assert_eq!(whole, STREAM);
            connection.write_all(&[0]).expect("the other end waits for it");
        }
    }
}
