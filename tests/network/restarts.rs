//! Programs end and start while a jail sends: what was used never goes back, and is never less than what was on the wire.

use crate::{outside, outside_v6};
use bailiwick_proto::{NetReply, NetRequest};
use bailiwick_sys::process;
use bailiwick_tests::wire::{Counted, Space, Talk, Wire};
use bailiwick_tests::{SetAtEnd, until};
use std::sync::atomic::{AtomicBool, Ordering};

fn bytes(counted: Counted) -> u64 {
    counted.arrived.0 + counted.arrived.1 + counted.left.0 + counted.left.1
}

fn talk(jail: &Space, bytes: usize) {
    for to in [outside(80), outside_v6(80)] {
        Talk::open(jail, to).expect("connects").echo(bytes).expect("goes on");
    }
}

/// What the operator is told that a tenant used this month.
fn told(wire: &Wire) -> u64 {
    let text = wire.host.ok(&["network", "alice", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let month = shown.pointer("/month");
    month.and_then(serde_json::Value::as_u64).unwrap_or_else(|| panic!("{text}"))
}

/// Waits until everything that was on the wire is counted; the kernel is asked each ten seconds.
fn wait_until_counted(wire: &Wire, since: u64) {
    let on_wire = bytes(wire.counted()) - since;
    until("what was on the wire is used", || wire.month("alice") >= on_wire);
}

fn kill(pid: u32) {
    let process = process::open(pid).expect("it runs");
    process::kill(&process).expect("kills");
    process::has_ended(&process, std::time::Duration::from_secs(30)).expect("ends");
}

#[test]
fn whatever_is_killed_while_a_jail_sends_it_pays_for_all_of_it_once() {
    let mut wire = Wire::running(&[("alice", ""), ("bob", "")]);
    let jail = wire.jail("alice");
    let since = bytes(wire.counted());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sends = scope.spawn(|| {
            let mut open = [outside(80), outside_v6(80)].map(|to| Talk::open(&jail, to).expect("connects"));
            let mut rounds = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                open.iter_mut().for_each(|talk| talk.echo(4000).expect("goes on"));
                rounds += 1;
            }
            rounds
        });
        let over = SetAtEnd(&is_over);
        let (mut month, mut traffic) = (0, 0);
        for round in 0..9 {
            match round % 3 {
                0 => {
                    wire.kill_network();
                    wire.start_network();
                }
                1 => kill(wire.host.program("bailiwick-warden")),
                _ => kill(wire.host.program("bailiwickd")),
            }
            until("bailiwickd answers", || wire.host.cli(&["network", "alice"]).status.success());
            let now = (told(&wire), wire.traffic("alice").bytes());
            assert!(now.0 >= month && now.1 > traffic, "round {round}: {now:?} after {month} and {traffic}");
            (month, traffic) = now;
        }
        drop(over);
        assert!(sends.join().expect("it sends") > 0);
    });
    wait_until_counted(&wire, since);
    let (used, on_wire) = (wire.month("alice"), bytes(wire.counted()) - since);
    assert!((on_wire..on_wire + on_wire / 10 + 100_000).contains(&used), "{used} used, {on_wire} on the wire");
    assert!(told(&wire) >= used);
    assert_eq!(wire.month("bob"), 0);
}

#[test]
fn a_stop_and_a_start_and_a_new_router_lose_nothing() {
    let mut wire = Wire::running(&[("alice", "month = { bytes = \"1G\", then = \"stop\" }")]);
    let since = bytes(wire.counted());
    talk(&wire.jail("alice"), 50_000);
    wire.host.ok(&["stop", "alice"]);
    wire.kill_network();
    wire.start_network();
    wire.host.ok(&["start", "alice"]);
    talk(&wire.jail("alice"), 50_000);
    wait_until_counted(&wire, since);
    let log = wire.net_log();
    assert!(!log.contains("month"), "its volume stays: {log}");

    // As after a boot. More is sent than was counted before, and at once.
    for round in 0..2 {
        wire.host.ok(&["stop", "alice"]);
        wire.end_network();
        wire.lose_router();
        wire.start_network();
        wire.host.ok(&["start", "alice"]);
        talk(&wire.jail("alice"), 400_000);
        let on_wire = bytes(wire.counted()) - since;
        wait_until_counted(&wire, since);
        let used = wire.month("alice");
        assert!(used < on_wire + on_wire / 10, "round {round}: {used} used, {on_wire} on the wire");
    }
}

#[test]
fn what_passes_before_lost_counts_are_looked_at_is_counted() {
    let wire = Wire::running(&[("alice", "")]);
    let since = bytes(wire.counted());
    let jail = wire.jail("alice");
    talk(&jail, 100_000);
    wait_until_counted(&wire, since);
    wire.router().ok("nft flush ruleset");
    until("the rules are back", || wire.net_log().matches("the router had no rules").count() == 2);
    talk(&jail, 500_000);
    wait_until_counted(&wire, since);
}

#[test]
fn a_file_with_an_error_cuts_nobody_off_when_bailiwick_net_starts() {
    let mut wire = Wire::running(&[("alice", ""), ("bob", "")]);
    let mut open = Talk::open(&wire.jail("alice"), outside(80)).expect("connects");
    let path = wire.host.path("etc/tenants.d/alice.toml");
    let text = std::fs::read_to_string(&path).expect("her file");
    for broken in [format!("{text}\nnonsense = 1\n"), "plan = \"".to_owned(), String::new()] {
        std::fs::write(&path, &broken).expect("writes");
        wire.kill_network();
        wire.start_network();
        open.echo(1000).unwrap_or_else(|error| panic!("{broken:?}: an open connection: {error}"));
        Talk::open(&wire.jail("alice"), outside(80)).unwrap_or_else(|error| panic!("{broken:?}: {error}"));
    }
}

fn problems(wire: &Wire) -> Vec<String> {
    match wire.ask(&NetRequest::Problems) {
        NetReply::Problems(problems) => {
            problems.into_iter().map(|problem| format!("{} {}", problem.finding, problem.text)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_put_right_is_told_also_after_a_restart() {
    let mut wire = Wire::running(&[("alice", "")]);
    assert_eq!(problems(&wire), [""; 0], "a first start puts nothing right");
    let tells = |wire: &Wire, what: [&str; 2]| {
        problems(wire).iter().any(|problem| what.iter().all(|word| problem.contains(word)))
    };
    wire.router().ok("nft flush ruleset");
    until("it is told", || tells(&wire, ["BW122", "the router had no rules"]));
    wire.space.ok("nft delete table inet bailiwick_uplink");
    wire.uplink();
    until("it is told", || tells(&wire, ["BW124", "put back on the host's side"]));
    let written = || std::fs::read_to_string(wire.host.path("state/network/found.json")).unwrap_or_default();
    until("both are written down", || ["BW122", "BW124"].iter().all(|id| written().contains(id)));
    wire.kill_network();
    wire.start_network();
    assert!(tells(&wire, ["BW122", "the router had no rules"]), "{:?}", problems(&wire));
    assert!(tells(&wire, ["BW124", "put back on the host's side"]), "{:?}", problems(&wire));
    wire.kill_network();
    std::fs::remove_file(wire.host.path("state/network/usage.json")).expect("it is there");
    wire.start_network();
    assert!(tells(&wire, ["BW121", "are cut off"]), "{:?}", problems(&wire));
    let refused = wire.host.cli(&["network", "alice"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("`bailiwick restart alice` connects it"), "{text}");
    wire.host.ok(&["restart", "alice"]);
    assert!(!tells(&wire, ["BW121", "are cut off"]), "{:?}", problems(&wire));
    Talk::open(&wire.jail("alice"), outside(80)).expect("connects");
}
