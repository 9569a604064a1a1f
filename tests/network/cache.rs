//! The cache of names: Debian's unbound behind a link of the router.

use crate::{assert_nothing, assert_refused, at, is_late, outside};
use bailiwick_proto::{NetReply, NetRequest};
use bailiwick_sys::process;
use bailiwick_tests::wire::{NameServer, Space, Wire, ask, question};
use bailiwick_tests::{SetAtEnd, until};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// The resolvers that the cache asks: one in a range that jails do not reach otherwise, and one that only the port keeps from them.
const UPSTREAMS: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 0, 54), Ipv4Addr::new(8, 8, 4, 4)];

fn settings(cache: bool, upstream: Ipv4Addr) -> String {
    format!(", resolvers = [\"{upstream}\"], cache = {cache}, cache_user = \"64995\"")
}

/// A host with a cache, two tenants, and the resolver that the cache asks.
fn cached() -> (Wire, NameServer) {
    let mut wire = Wire::with(&settings(true, UPSTREAMS[0]));
    let upstream = NameServer::start(&wire.outside, UPSTREAMS[0]);
    wire.start(&[("alice", ""), ("bob", "")]);
    wire.start_cache();
    (wire, upstream)
}

/// The addresses of the cache, with a port.
fn cache(port: u16) -> [SocketAddr; 2] {
    let addresses = Wire::pools().cache();
    [(addresses.ipv4, port).into(), (addresses.ipv6.expect("it has one"), port).into()]
}

/// Waits until the cache answers: unbound listens some time after it was started.
fn until_answered(from: &Space, name: &str) {
    until(name, || matches!(ask(from, cache(53)[0], name), Ok(true)));
}

fn has_problem(wire: &Wire, text: &str) -> bool {
    match wire.ask(&NetRequest::Problems) {
        NetReply::Problems(all) => all.iter().any(|one| one.finding == "BW138" && one.text.contains(text)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn jails_ask_the_cache_and_it_alone_asks_the_resolver() {
    let (wire, upstream) = cached();
    let (alice, bob) = (wire.jail("alice"), wire.jail("bob"));
    until_answered(&alice, "one.example.org");
    for (from, to) in [(&alice, cache(53)[1]), (&bob, cache(53)[0]), (&bob, cache(53)[1])] {
        assert!(ask(from, to, "one.example.org").expect("an answer"), "{to}");
    }
    assert_eq!(upstream.asked("one.example.org"), 1, "all others were answered from the cache");
    // As a program of the tenant does it.
    let [v4, v6] = cache(53).map(|address| address.ip());
    let (_, conf, _) = wire.host.inside("alice", "grep nameserver /etc/resolv.conf");
    assert_eq!(conf, format!("nameserver {v4}\nnameserver {v6}\n"));
    let (_, found, complaint) = wire.host.inside("alice", "getent ahostsv4 two.example.org");
    assert!(found.contains(&NameServer::ANSWER.to_string()), "{found}{complaint}");
    alice.run(|| TcpStream::connect(cache(53)[0])).expect("questions by TCP");

    assert_refused(ask(&alice, (UPSTREAMS[0], 53).into(), "direct.example.org"), "the resolver itself");
    assert_refused(alice.run(|| TcpStream::connect((UPSTREAMS[0], 53))), "the resolver itself");
    for port in [54, 80, 443, 853, 8953] {
        for to in cache(port) {
            assert_refused(ask(&alice, to, "other.example.org"), to);
            assert_refused(alice.run(|| TcpStream::connect(to)), to);
        }
    }
    // Nor does the host reach it, or the outside.
    for from in [&wire.space, &wire.outside] {
        from.run(|| {
            UdpSocket::bind("0.0.0.0:0")
                .and_then(|socket| socket.send_to(&question("host.example.org", 1), cache(53)[0]))
        })
        .ok();
    }
    ask(&bob, cache(53)[0], "last.example.org").expect("an answer");
    for name in ["direct.example.org", "other.example.org", "host.example.org"] {
        assert_eq!(upstream.asked(name), 0, "{name}");
    }
}

#[test]
fn the_cache_has_no_rights_and_reaches_nobody_but_resolvers() {
    let (wire, upstream) = cached();
    until_answered(&wire.jail("alice"), "one.example.org");
    let pid = wire.unbound_pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let value = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key}: {status}"));
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(value("Uid:"), "64995 64995 64995 64995");
    assert_eq!(value("Gid:"), "64995 64995 64995 64995");
    assert_eq!(value("Groups:"), "");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(value(set), "0000000000000000", "{set}");
    }
    assert_eq!(value("NoNewPrivs:"), "1");

    // With all rights over its network, as nobody in unbound has them.
    let own = Space::of(pid);
    let (bob4, _) = wire.addresses("bob");
    let (arrivals, in_bob, at_host) = (wire.arrivals(), wire.arrivals_in("bob"), wire.arrivals_at_host());
    for to in [outside(80), outside(53), (UPSTREAMS[0], 80).into(), (UPSTREAMS[1], 53).into(), (bob4, 53).into()] {
        own.send(to, "<from the cache>");
    }
    own.send((bob4, 80).into(), "<from the cache>");
    for host in Wire::inner_addresses() {
        own.send((host.ipv4, 53).into(), "<from the cache>");
    }
    own.ok("ip addr add 100.64.0.77/32 dev eth0");
    let spoofed = own.run(|| UdpSocket::bind("100.64.0.77:0")).expect("binds");
    spoofed.send_to(b"<from the cache>", (UPSTREAMS[0], 53)).ok();
    wire.settle("alice", &arrivals);
    wire.settle_over(&wire.router_link("bob"), bob4, &in_bob);
    for (capture, place) in [(&arrivals, "outside"), (&in_bob, "in bob's jail"), (&at_host, "at the host")] {
        assert_nothing(capture, "<from the cache>", place);
    }
    assert_eq!(upstream.asked("one.example.org"), 1);
}

/// A script in place of unbound says what it can open.
#[test]
fn unbound_opens_nothing_of_the_host() {
    let mut wire = Wire::with(&settings(true, UPSTREAMS[0]));
    let script = "#!/bin/sh\nexec 1>&2\ncat /etc/machine-id && echo reads\nls / && echo lists\necho > /tmp/written && echo writes\n\
                  cat /proc/1/status && echo watches\nhead -n 1 /proc/self/fd/3\necho tried $#\nkill -STOP $$\n";
    wire.host.write("unbound", script);
    let path = wire.host.path("unbound");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let mount = ["--", "mount", "--bind", &path.to_string_lossy(), "/usr/sbin/unbound"].map(str::to_owned);
    let mut command = std::process::Command::new("nsenter");
    command.arg(format!("--mount=/proc/{}/ns/mnt", wire.space.pid())).args(mount);
    assert!(command.status().expect("nsenter runs").success());
    wire.start(&[]);
    wire.start_cache();
    until("it has tried", || wire.cache_log().contains("tried 4"));
    let log = wire.cache_log();
    assert!(log.contains("# Made by bailiwick-net"), "{log}");
    for word in ["reads", "lists", "writes", "watches"] {
        assert!(!log.lines().any(|line| line == word), "{word}: {log}");
    }
}

#[test]
fn a_flood_of_one_tenant_stops_no_other() {
    let (wire, upstream) = cached();
    let (alice, bob) = (wire.jail("alice"), wire.jail("bob"));
    until_answered(&bob, "one.example.org");
    let begin = Instant::now();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let elapsed = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let socket = alice.run(|| UdpSocket::bind("0.0.0.0:0")).expect("binds");
            for number in 0_u32.. {
                let name = if number.is_multiple_of(2) { "silent" } else { "loud" };
                let name = format!("{name}-{number}.flood.example.org");
                // What is refused comes back as an error.
                socket.send_to(&question(&name, 1), cache(53)[0]).ok();
                if number > 20_000 && is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    return number;
                }
            }
            0
        });
        let over = SetAtEnd(&is_over);
        let names = (0..20).map(|number| format!("honest-{number}.example.org"));
        let answers: Vec<_> =
            names.flat_map(|name| cache(53).map(|to| (ask(&bob, to, &name), name.clone(), to))).collect();
        drop(over);
        assert!(answers.iter().all(|(answer, ..)| matches!(answer, Ok(true))), "{answers:?}");
        let sent = flood.join().expect("it floods");
        assert!(sent > 20_000);
        begin.elapsed()
    });
    // What came through at once, and what the rate lets through. Unbound asks again for what is silent, but not by other names.
    let most = 400 + 100 * (elapsed.as_secs() + 2);
    let came = upstream.names_with(".flood.example.org");
    assert!(came > 10 && came as u64 <= most, "{came} questions of {most} in {elapsed:?}");
    let shown = wire.host.ok(&["network", "alice"]);
    assert!(shown.contains("questions") && !wire.host.ok(&["network", "bob"]).contains("questions"), "{shown}");
}

#[test]
fn open_streams_of_one_tenant_stop_no_other() {
    let (wire, _upstream) = cached();
    let (alice, bob) = (wire.jail("alice"), wire.jail("bob"));
    until_answered(&bob, "one.example.org");
    let connect = |from: &Space| from.run(|| TcpStream::connect_timeout(&cache(53)[0], Duration::from_secs(20)));
    let open: Vec<_> =
        (0..8).map(|number| connect(&alice).unwrap_or_else(|error| panic!("{number}: {error}"))).collect();
    assert_refused(connect(&alice), "one more");
    connect(&bob).expect("bob has as many");
    drop(open);
}

#[test]
fn without_the_cache_no_name_resolves_and_everybody_says_so() {
    let (mut wire, upstream) = cached();
    let alice = wire.jail("alice");
    until_answered(&alice, "one.example.org");
    assert!(!has_problem(&wire, ""));
    process::kill(process::open(wire.unbound_pid()).expect("it runs")).expect("kill");
    assert!(!wire.cache_ends().success(), "the service manager starts it again");
    until("the network is gone", || wire.router().ok("ip -o link").lines().all(|line| !line.contains("dns0")));
    assert!(has_problem(&wire, "does not run"));
    for to in cache(53) {
        assert_refused(ask(&alice, to, "two.example.org"), to);
    }
    assert_refused(ask(&alice, (UPSTREAMS[0], 53).into(), "two.example.org"), "the resolver");
    let audit = wire.host.cli(&["audit", "alice"]);
    let text = String::from_utf8_lossy(&audit.stdout).into_owned();
    assert!(text.contains("BW138") && text.contains("systemctl status bailiwick-dns"), "{text}");
    wire.start_cache();
    until_answered(&alice, "two.example.org");
    assert!(!has_problem(&wire, ""));
    assert_eq!(upstream.asked("two.example.org"), 1);

    // Its link is compared with what was made.
    let told = |text: &str| until(text, || wire.net_log().contains(text));
    wire.router().ok("ip route add 203.0.113.0/24 dev dns0 table 47633");
    wire.router().ok("nft add element inet bailiwick upstreams4 '{ 203.0.114.2 }'");
    told("led over dns0; it was removed");
    told("1 element of \\\"upstreams4\\\" that nobody planned; removed");
    wire.router().ok("ip link set dns0 down && nft add element inet bailiwick upstreams4 '{ 203.0.114.2 }'");
    told("dns0 was down");
    until_answered(&alice, "three.example.org");
}

#[test]
fn a_change_is_in_force_with_the_next_look_and_off_again() {
    let (mut wire, first) = cached();
    until_answered(&wire.jail("alice"), "one.example.org");
    let second = NameServer::start(&wire.outside, UPSTREAMS[1]);
    wire.configure(&settings(true, UPSTREAMS[1]));
    wire.uplink();
    assert!(wire.cache_ends().success());
    wire.start_cache();
    until_answered(&wire.jail("alice"), "one.example.org");
    assert!(first.asked("one.example.org") == 1 && second.asked("one.example.org") == 1);
    assert!(wire.host.cli(&["plan"]).status.success(), "jails ask the same cache");

    wire.configure(&settings(false, UPSTREAMS[1]));
    wire.uplink();
    assert!(wire.cache_ends().success());
    let plan = wire.host.cli(&["plan"]);
    let text = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(text.contains("network.resolvers") && text.contains(&UPSTREAMS[1].to_string()), "{text}");
    wire.host.ok(&["apply", "--restart"]);
    let alice = wire.jail("alice");
    assert!(ask(&alice, (UPSTREAMS[1], 53).into(), "four.example.org").expect("directly"));
    let (_, conf, _) = wire.host.inside("alice", "grep nameserver /etc/resolv.conf");
    assert_eq!(conf, format!("nameserver {}\n", UPSTREAMS[1]));
    assert!(!has_problem(&wire, ""), "nobody misses a cache");
    for to in cache(53) {
        assert_refused(ask(&alice, to, "five.example.org"), to);
    }
    // A question over an open way is judged as the first one.
    let direct = alice.run(|| UdpSocket::bind("0.0.0.0:0")).expect("binds");
    let ask_directly = || direct.send(&question("six.example.org", 6)).and_then(|_| direct.recv(&mut [0; 512]));
    direct.set_read_timeout(Some(Duration::from_secs(20))).expect("sets");
    direct.connect((UPSTREAMS[1], 53)).expect("connects");
    ask_directly().expect("an answer");
    ask_directly().expect("an answer over an open way");
    wire.configure(&settings(true, UPSTREAMS[1]));
    assert_eq!(wire.update("alice"), NetReply::Unchanged);
    assert_refused(ask_directly(), "the resolver, once there is a cache");
    wire.configure(&settings(false, UPSTREAMS[1]));
    let again = wire.host.program_command("bailiwick-net").arg("--cache").output().expect("runs");
    assert_eq!(again.status.code(), Some(8), "{again:?}");
}

#[test]
fn a_host_without_unbound_is_told_what_to_install() {
    let mut wire = Wire::with(&settings(true, UPSTREAMS[0]));
    let mount = format!("nsenter --mount=/proc/{}/ns/mnt -- mount -t tmpfs none /usr/sbin", wire.space.pid());
    assert!(std::process::Command::new("sh").args(["-c", &mount]).status().expect("sh runs").success());
    wire.start(&[("alice", "")]);
    assert!(has_problem(&wire, "install the package \"unbound\""));
    let error = ask(&wire.jail("alice"), cache(53)[0], "one.example.org").expect_err("nobody answers");
    assert!(!is_late(&error), "{error}");
    assert_refused(ask(&wire.jail("alice"), at("8.8.8.8", 53), "one.example.org"), "another resolver");
    let addresses: Vec<IpAddr> = cache(53).iter().map(SocketAddr::ip).collect();
    assert!(
        addresses.iter().all(|address| wire
            .host
            .inside("alice", "cat /etc/resolv.conf")
            .1
            .contains(&address.to_string()))
    );
}

#[test]
fn the_host_does_not_take_the_cache_for_a_jail() {
    let few = "connections = 100";
    let mut wire = Wire::with(&settings(true, UPSTREAMS[0]));
    let _upstream = NameServer::start(&wire.outside, UPSTREAMS[0]);
    wire.start(&[("alice", few), ("bob", few), ("carol", few)]);
    wire.start_cache();
    until_answered(&wire.jail("alice"), "first.example.org");
    // More questions of all together than the host remembers of one jail.
    for tenant in ["alice", "bob", "carol"] {
        let jail = wire.jail(tenant);
        for number in 0..80 {
            let name = format!("{tenant}{number}.example.org");
            assert!(ask(&jail, cache(53)[0], &name).unwrap_or_else(|error| panic!("{name}: {error}")));
        }
    }
}
