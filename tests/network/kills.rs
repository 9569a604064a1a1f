//! `bailiwick-net` fails, and is killed, at every step of what it does to the router. The next one puts right what was half done.

use crate::{assert_nothing, at, outside, outside_v6};
use bailiwick_proto::{Hold, NetReply, NetRequest, TransportError, WardenReply, WardenRequest};
use bailiwick_sys::process;
use bailiwick_tests::wire::{Capture, HOST_V4, HOST_V6, RouterState, Space, Talk, Wire};
use bailiwick_tests::{name, stage, until};
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

/// Two policies that differ in everything. Both allow TCP to port 80 and UDP to port 443.
const POLICIES: [&str; 2] = [
    "ports = [\"tcp/80\", \"udp/443\", \"udp/1000\"]\nup = \"5M\"\nconnections = 50",
    "ports = [\"tcp/80\", \"udp/443\", \"udp/2000\"]\ndown = \"6M\"\nallow = [\"203.0.112.0/22\", \"2a00::/16\"]",
];

/// The steps of a kind of work, listed by the program itself, so that a new step is covered at once.
fn steps(work: &str) -> Vec<String> {
    let output = Command::new(stage().join("failpoints/bailiwick-net")).arg("--steps").output().expect("runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let steps: Vec<String> = text.lines().filter(|step| step.starts_with(work)).map(str::to_owned).collect();
    assert!(!steps.is_empty(), "{work}: {text}");
    steps
}

/// A host whose warden and router run, with a neighbour that has a rate too.
fn host(policy: &str) -> Wire {
    let mut wire = Wire::with_failpoints();
    wire.declare("alice", policy);
    wire.declare("bob", "up = \"3M\"");
    wire.start_network();
    wire.host.start_warden();
    for tenant in ["alice", "bob"] {
        start(&wire, tenant);
    }
    wire
}

fn start(wire: &Wire, tenant: &str) {
    assert_eq!(wire.host.warden(&WardenRequest::Start { tenant: name(tenant) }), WardenReply::Done);
}

/// Stops a jail, and waits until the kernel has removed its link.
fn stop(wire: &Wire, tenant: &str) {
    let links = || wire.router().ok("ip -o link").matches(": bw").count();
    let before = links();
    let stop = WardenRequest::Stop { tenant: name(tenant), hold: Hold::Keep };
    assert_eq!(wire.host.warden(&stop), WardenReply::Done);
    until("its link is gone", || links() < before);
}

/// The network of a running jail.
fn jail(wire: &Wire, tenant: &str) -> Space {
    match wire.host.warden(&WardenRequest::Entry { tenant: name(tenant) }) {
        WardenReply::Entry(Some(entry)) => Space::of(entry.pid.expect("it runs")),
        other => panic!("{other:?}"),
    }
}

/// Has `bailiwick-net` look at everything now.
fn look(wire: &Wire) {
    wire.router().ok("nft add table inet other && nft delete table inet other");
}

fn has_waited(wire: &Wire, step: &str) -> usize {
    wire.net_log().matches(&format!("waits at {step}\n")).count()
}

fn kill(wire: &Wire) {
    process::kill(process::open(wire.net_pid()).expect("it runs")).expect("kills");
}

/// Has `bailiwick-net` do something until it has come to a step, and kills it there. Meanwhile something else is done.
fn kill_at<T: Send>(
    wire: &mut Wire,
    step: &str,
    work: impl FnOnce(&Wire) -> T + Send,
    meanwhile: impl FnOnce(&Wire),
) -> T {
    let before = has_waited(wire, step);
    wire.fail_at(&format!("{step} wait"));
    let shared = &*wire;
    let result = std::thread::scope(|scope| {
        let working = scope.spawn(move || work(shared));
        until(&format!("it waits at {step}"), || has_waited(shared, step) > before);
        meanwhile(shared);
        kill(shared);
        working.join().expect("the work")
    });
    wire.kill_network();
    wire.fail_at("");
    result
}

fn update(wire: &Wire) -> Result<NetReply, TransportError> {
    wire.try_ask(&NetRequest::Update { tenant: name("alice") }, &[])
}

/// Sends what neither policy allows; nothing of it arrives. What both allow goes on.
fn only_what_both_allow_passes(wire: &Wire, alice: &Space, arrivals: &Capture, at_host: &Capture, bob: &Space) {
    let (bob4, bob6) = bob.addresses();
    let in_bob = wire.arrivals_at(bob);
    for to in [
        outside(3000),
        outside_v6(3000),
        (bob4, 443).into(),
        (bob6, 443).into(),
        (HOST_V4, 443).into(),
        (HOST_V6, 443).into(),
        at("169.254.169.254", 443),
    ] {
        alice.send(to, "<neither>");
    }
    wire.settle_from(alice, arrivals);
    for (capture, place) in [(arrivals, "outside"), (at_host, "at the host"), (&in_bob, "in bob's jail")] {
        assert_nothing(capture, "<neither>", place);
    }
}

#[test]
fn a_change_that_is_killed_at_any_step_is_whole_after_the_next_start() {
    let mut wire = host(POLICIES[0]);
    let (alice, bob) = (jail(&wire, "alice"), jail(&wire, "bob"));
    let (arrivals, at_host) = (wire.arrivals(), wire.arrivals_at_host());
    let counted = wire.counted();
    let mut open = [outside(80), outside_v6(80)].map(|to| Talk::open(&alice, to).expect("connects"));
    let states: Vec<RouterState> = [1, 0]
        .map(|policy| {
            wire.declare("alice", POLICIES[policy]);
            assert!(matches!(update(&wire), Ok(NetReply::Done)));
            wire.state()
        })
        .into_iter()
        .rev()
        .collect();
    assert_ne!(states[0], states[1]);
    for step in steps("change-") {
        for to in [1, 0] {
            wire.declare("alice", POLICIES[to]);
            let reply = kill_at(&mut wire, &step, update, |wire| {
                only_what_both_allow_passes(wire, &alice, &arrivals, &at_host, &bob);
                open.iter_mut().for_each(|talk| talk.echo(5000).expect("goes on in between"));
            });
            assert!(reply.is_err(), "{step}: {reply:?}");
            wire.start_network();
            wire.assert_state(&states[to], &format!("killed at {step}"));
            open.iter_mut().for_each(|talk| talk.echo(5000).expect("goes on"));
        }
    }
    let passed = wire.counted();
    wire.kill_network();
    wire.start_network();
    let on_wire = passed.arrived.0 - counted.arrived.0 + passed.left.0 - counted.left.0;
    let used = wire.month("alice");
    assert!(used >= on_wire && on_wire > 100_000, "{used} used, {on_wire} on the wire");
}

#[test]
fn a_change_that_fails_at_any_step_leaves_the_old_policy_or_the_new_one() {
    let mut wire = host(POLICIES[0]);
    let states: Vec<RouterState> = [1, 0]
        .map(|policy| {
            wire.declare("alice", POLICIES[policy]);
            assert!(matches!(update(&wire), Ok(NetReply::Done)));
            wire.state()
        })
        .into_iter()
        .rev()
        .collect();
    for step in steps("change-") {
        for to in [1, 0] {
            wire.declare("alice", POLICIES[to]);
            wire.fail_at(&format!("{step} error"));
            let reply = update(&wire).expect("it lives");
            assert!(
                matches!(&reply, NetReply::Failed(failure) if failure.message.contains(&format!("at the step \"{step}\""))),
                "{step}: {reply:?}"
            );
            wire.fail_at("");
            if ["change-rate-in", "change-rate-out", "change-rules"].contains(&step.as_str()) {
                wire.assert_state(&states[1 - to], &format!("failed at {step}"));
            }
            assert!(matches!(update(&wire), Ok(NetReply::Done | NetReply::Unchanged)));
            look(&wire);
            until("nothing of the old policy is left", || wire.state() == states[to]);
        }
    }
    wire.kill_network();
}

/// Sends what no policy allows with all rights over a network, as soon as that has a link.
fn send_as_one_that_is_being_made(network: &Space, own: Ipv4Addr) {
    let line = format!(
        "ip link set eth0 up && ip addr add {own}/32 dev eth0 &&
         ip neigh add 169.254.1.1 lladdr 02:62:77:00:00:01 dev eth0 && ip route add default via 169.254.1.1 dev eth0 onlink"
    );
    if network.sh("ip link show dev eth0").status.success() {
        network.ok(&line);
        for to in [outside(3000), (HOST_V4, 443).into(), at("169.254.169.254", 443)] {
            network.send(to, "<neither>");
        }
    }
}

#[test]
fn a_jail_that_is_being_connected_leaves_nothing_and_starts_later() {
    let mut wire = host(POLICIES[0]);
    let bob = jail(&wire, "bob");
    let (own, _) = jail(&wire, "alice").addresses();
    let (arrivals, at_host) = (wire.arrivals(), wire.arrivals_at_host());
    let connected = wire.state();
    let is_down = |wire: &Wire, without: &RouterState, when: &str| {
        look(wire);
        until(&format!("nothing is left {when}"), || wire.state() == *without);
    };
    stop(&wire, "alice");
    look(&wire);
    until("its rules are gone", || !format!("{:?}", wire.state()).contains("udp/1000") && wire.state() != connected);
    wire.kill_network();
    wire.start_network();
    let without = wire.state();
    let ask = |wire: &Wire| wire.host.ask(&WardenRequest::Start { tenant: name("alice") }).expect("the warden lives");
    // One of whom nothing is known, for the step that only such a one reaches.
    let before = |wire: &Wire, step: &str| {
        if step == "connect-note" {
            assert_eq!(wire.ask(&NetRequest::Forget { tenant: name("alice") }), NetReply::Done);
        }
        wire.state()
    };
    for step in steps("connect-") {
        let unknown = before(&wire, &step);
        let networks = wire.networks();
        let reply = kill_at(&mut wire, &step, ask, |wire| {
            let new: Vec<_> = wire.networks().into_iter().filter(|(inode, _)| !networks.contains_key(inode)).collect();
            assert_eq!(new.len(), 1, "{step}: {new:?}");
            send_as_one_that_is_being_made(&Space::of(new[0].1), own);
            wire.settle_wire(&arrivals);
            wire.settle_from(&bob, &arrivals);
            assert_nothing(&arrivals, "<neither>", "outside");
            // While no route leads to the jail, what the router says of a refused packet goes to the host, which drops it.
            let passed = at_host.matching(|packet| {
                packet.holds("<neither>") && packet.addresses().is_some_and(|(from, _)| from == IpAddr::from(own))
            });
            assert!(passed.is_empty(), "{step}: at the host: {passed:?}");
        });
        assert!(matches!(reply, WardenReply::Failed(_)), "{step}: {reply:?}");
        wire.start_network();
        is_down(&wire, &unknown, &format!("after {step}"));
        start(&wire, "alice");
        wire.assert_state(&connected, &format!("started after {step}"));
        Talk::open(&jail(&wire, "alice"), outside(80)).expect("has a network").echo(1000).expect("and goes on");
        stop(&wire, "alice");
        is_down(&wire, &without, "of the jail");

        let unknown = before(&wire, &step);
        wire.fail_at(&format!("{step} error"));
        let reply = ask(&wire);
        assert!(
            matches!(&reply, WardenReply::Failed(failure) if failure.message.contains(&format!("at the step \"{step}\""))),
            "{step}: {reply:?}"
        );
        wire.fail_at("");
        is_down(&wire, &unknown, &format!("failed at {step}"));
    }
    wire.kill_network();
}

#[test]
fn what_a_jail_leaves_is_removed_whatever_step_is_killed() {
    let mut wire = host(POLICIES[0]);
    let connected = wire.state();
    stop(&wire, "alice");
    wire.kill_network();
    wire.start_network();
    let without = wire.state();
    for step in steps("disconnect-") {
        start(&wire, "alice");
        wire.assert_state(&connected, &format!("before {step}"));
        let down = |wire: &Wire| {
            stop(wire, "alice");
            look(wire);
        };
        kill_at(&mut wire, &step, down, |_| ());
        wire.start_network();
        wire.assert_state(&without, &format!("killed at {step}"));

        start(&wire, "alice");
        wire.fail_at(&format!("{step} error"));
        let told = wire.net_log().matches("not-compared").count();
        down(&wire);
        until("it is told", || wire.net_log().matches("not-compared").count() > told);
        wire.fail_at("");
        look(&wire);
        until(&format!("nothing is left after {step}"), || wire.state() == without);
    }
}

#[test]
fn a_purge_that_is_killed_at_any_step_leaves_no_count_for_the_next_tenant() {
    let mut wire = host(POLICIES[0]);
    let forget = |wire: &Wire| wire.try_ask(&NetRequest::Forget { tenant: name("alice") }, &[]);
    stop(&wire, "alice");
    wire.kill_network();
    wire.start_network();
    let without = wire.state();
    assert!(matches!(forget(&wire), Ok(NetReply::Done)));
    let purged = wire.state();
    for step in steps("forget-") {
        start(&wire, "alice");
        assert_eq!((wire.traffic("alice").bytes(), wire.month("alice")), (0, 0), "{step}");
        Talk::open(&jail(&wire, "alice"), outside(80)).expect("connects").echo(10_000).expect("goes on");
        stop(&wire, "alice");
        let reply = kill_at(&mut wire, &step, forget, |_| ());
        assert!(reply.is_err(), "{step}: {reply:?}");
        wire.start_network();
        let expected = if step == "forget-usage" { &without } else { &purged };
        wire.assert_state(expected, &format!("killed at {step}"));
        assert_eq!(wire.month("alice") > 0, step == "forget-usage", "{step}");
        assert!(matches!(forget(&wire), Ok(NetReply::Done)));
        wire.assert_state(&purged, &format!("forgotten after {step}"));
    }
}

#[test]
fn a_start_that_is_killed_at_any_step_is_whole_after_the_next_one() {
    let mut wire = host(POLICIES[0]);
    let (alice, bob) = (jail(&wire, "alice"), jail(&wire, "bob"));
    let (arrivals, at_host) = (wire.arrivals(), wire.arrivals_at_host());
    let mut open = Talk::open(&alice, outside(80)).expect("connects");
    let mut expected = Vec::new();
    for policy in [1, 0] {
        wire.declare("alice", POLICIES[policy]);
        assert!(matches!(update(&wire), Ok(NetReply::Done)));
        expected.push(wire.state());
    }
    for step in steps("start-") {
        for to in [1, 0] {
            wire.kill_network();
            wire.declare("alice", POLICIES[to]);
            let before = has_waited(&wire, &step);
            wire.fail_at(&format!("{step} wait"));
            wire.spawn_network();
            until(&format!("it waits at {step}"), || has_waited(&wire, &step) > before);
            only_what_both_allow_passes(&wire, &alice, &arrivals, &at_host, &bob);
            open.echo(5000).expect("goes on in between");
            wire.kill_network();
            wire.fail_at(&format!("{step} error"));
            wire.spawn_network();
            assert_eq!(wire.wait_for_end(), Some(1), "{step}: {}", wire.net_log());
            wire.fail_at("");
            wire.start_network();
            wire.assert_state(&expected[1 - to], &format!("killed at {step}"));
            open.echo(5000).expect("goes on");
        }
    }
    // Without any rules.
    for step in steps("anew-") {
        wire.kill_network();
        wire.router().ok("nft flush ruleset");
        let before = has_waited(&wire, &step);
        wire.fail_at(&format!("{step} wait"));
        wire.spawn_network();
        until(&format!("it waits at {step}"), || has_waited(&wire, &step) > before);
        wire.kill_network();
        wire.fail_at("");
        wire.start_network();
        wire.assert_state(&expected[1], &format!("killed at {step}"));
        open.echo(5000).expect("goes on");
    }
}
