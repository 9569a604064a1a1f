//! What holds when the rules are gone.

use crate::{assert_nothing, assert_refused, at, outside, outside_v6};
use bailiwick_proto::{NetReply, NetRequest};
use bailiwick_sys::process;
use bailiwick_tests::until;
use bailiwick_tests::wire::{HOST_V4, HOST_V6, Packet, Talk, Wire};
use rustix::process::Signal;
use std::net::IpAddr;

#[test]
fn a_router_without_rules_forwards_nothing() {
    let mut wire = Wire::running(&[("alice", ""), ("bob", "")]);
    let (alice, bob) = (wire.jail("alice"), wire.jail("bob"));
    let (bob4, bob6) = wire.addresses("bob");
    let mut open = [outside(80), outside_v6(80)].map(|to| Talk::open(&alice, to).expect("connects"));
    let (in_bob, arrivals, at_host) = (wire.arrivals_in("bob"), wire.arrivals(), wire.arrivals_at_host());
    let link = wire.router_link("bob");
    for is_killed in [false, true] {
        if is_killed {
            wire.kill_network();
        } else {
            let net = process::open(wire.net_pid()).expect("it runs");
            process::signal(&net, Signal::STOP).expect("stops");
        }
        wire.router().ok("nft flush ruleset");
        for to in [
            outside(443),
            outside_v6(443),
            (bob4, 443).into(),
            (bob6, 443).into(),
            (HOST_V4, 443).into(),
            (HOST_V6, 443).into(),
        ] {
            alice.send(to, "<open>");
        }
        alice.send(at("169.254.169.254", 80), "<open>");
        wire.settle_wire(&arrivals);
        wire.settle_over(&link, bob4, &in_bob);
        for (capture, place) in [(&in_bob, "in bob's jail"), (&arrivals, "outside"), (&at_host, "at the host")] {
            assert_nothing(capture, "<open>", place);
        }
        if is_killed {
            wire.start_network();
        } else {
            let net = process::open(wire.net_pid()).expect("it runs");
            process::signal(&net, Signal::CONT).expect("goes on");
        }
        until("the rules are back", || {
            wire.net_log().matches("the router had no rules").count() == 2 + usize::from(is_killed)
        });
        for talk in &mut open {
            talk.echo(1000).expect("open connections go on");
        }
        for jail in [&alice, &bob] {
            Talk::open(jail, outside(80)).expect("and so do new ones");
        }
        assert_refused(Talk::open(&alice, (bob4, 80).into()), "the rules");
    }
}

#[test]
fn a_rule_of_another_is_taken_out_again() {
    let wire = Wire::running(&[("alice", "")]);
    let jail = wire.jail("alice");
    assert_refused(Talk::open(&jail, outside(22)), "a port");
    // Accepted by the first rule of the chain that decides, and by an element that nobody planned.
    wire.router().ok("nft insert rule inet bailiwick forward accept && nft add element inet bailiwick smtp '{ 22 }'");
    until("the rules are right", || wire.net_log().contains("were not as they should be"));
    assert_refused(Talk::open(&jail, outside(22)), "a port");
    let problems = wire.ask(&NetRequest::Problems);
    assert!(
        matches!(&problems, NetReply::Problems(all) if all.iter().any(|one| one.finding == "BW122")),
        "{problems:?}"
    );
}

#[test]
fn the_host_without_rules_lets_no_jail_in_and_the_uplink_repairs() {
    let wire = Wire::running(&[("alice", "")]);
    let jail = wire.jail("alice");
    let (own, _) = wire.addresses("alice");
    let (arrivals, at_host) = (wire.arrivals(), wire.arrivals_at_host());
    let mut open = Talk::open(&jail, outside(80)).expect("connects");
    wire.space.ok("nft flush ruleset");
    for to in [(HOST_V4, 443).into(), (HOST_V6, 443).into()] {
        jail.send(to, "<to the host>");
    }
    jail.send(outside(443), "<bare>");
    wire.settle_wire(&arrivals);
    assert_nothing(&at_host, "<to the host>", "at the host");
    // What leaves meanwhile has the jail's own address, to which nobody outside can answer.
    let bare = arrivals.matching(|packet| packet.holds("<bare>"));
    let is_own = |packet: &Packet| packet.addresses().is_some_and(|(from, _)| from == IpAddr::from(own));
    assert!(bare.iter().all(is_own), "{bare:?}");
    let said = wire.uplink();
    assert!(said.contains("bailiwick_uplink"), "{said}");
    open.echo(1000).expect("goes on");
    assert_eq!(Talk::open(&jail, outside(80)).expect("connects").seen_as, IpAddr::from(HOST_V4));
    assert_eq!(wire.uplink(), "", "nothing is missing");
}
