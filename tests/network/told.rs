//! What the operator sees of a network: with the real commands, and of what really passed.

use crate::{assert_refused, outside, outside_v6};
use bailiwick_tests::until;
use bailiwick_tests::wire::{Talk, Wire};
use serde_json::Value;
use std::time::{Duration, Instant};

fn json(wire: &Wire, arguments: &[&str]) -> Value {
    let text = wire.host.ok(&[arguments, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
}

/// Waits for what is measured each minute: one minute more than it takes.
fn within_minutes(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(200);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// What the row of the audit says of the limits.
fn audited(wire: &Wire, tenant: &str) -> (String, String) {
    let output = wire.host.cli(&["audit", tenant, "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let walls = report["tenants"][0]["walls"].as_array().unwrap_or_else(|| panic!("{report}"));
    let row = walls.iter().find(|wall| wall["wall"] == "network-limits").unwrap_or_else(|| panic!("{report}"));
    let text = |key: &str| row[key].as_str().expect("text").to_owned();
    (text("evidence"), text("verdict"))
}

#[test]
fn limits_are_shown_as_the_kernel_has_them_and_put_right() {
    let limits = "up = \"2M\"\ndown = \"3M\"\nconnections = 20\nmonth = { bytes = \"1G\", then = \"stop\" }";
    let wire = Wire::running(&[("alice", limits), ("bob", ""), ("carol", "up = \"4M\"")]);
    let shown = json(&wire, &["network", "alice"]);
    let limits = &shown["limits"];
    assert_eq!((&limits["up"]["at"], &limits["down"]["at"]), (&(2 << 20).into(), &(3 << 20).into()), "{shown}");
    assert_eq!((&limits["connections"], &limits["stops_at"]), (&20.into(), &(1 << 30).into()), "{shown}");
    assert_eq!((&shown["in_force"]["mode"], &shown["in_force"]["connections"]), (&"outbound".into(), &20.into()));
    assert_eq!(json(&wire, &["network", "bob"])["limits"]["up"], "unlimited");
    let text = wire.host.ok(&["network", "alice"]);
    for line in [
        "mode         \"outbound\"",
        "up           2M",
        "down         3M",
        "connections  20",
        "month        stops at 1G",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let golden = "in the kernel: up 2M, down 3M, connections 20; month stops at 1G, ";
    let (evidence, verdict) = audited(&wire, "alice");
    assert!(evidence.starts_with(golden) && verdict == "enforced", "{verdict}: {evidence}");

    // Somebody takes the rates away. Whoever looks sees it, and it is put right within a minute.
    let link = wire.router_link("alice");
    let router = wire.router();
    router.ok(&format!("tc qdisc del dev {link} root"));
    let class_of = |tenant: &str| {
        let number = bailiwick_plan::network::number_of_link(&wire.router_link(tenant)).expect("a link of a jail");
        format!("1:{:x}", number + 1)
    };
    let class = class_of("alice");
    router.ok(&format!("tc class change dev up0 classid {class} parent 1: htb rate 9mbps ceil 9mbps"));
    // And the queue in which what carol sends waits.
    router.ok(&format!("tc qdisc replace dev up0 parent {} pfifo limit 9", class_of("carol")));
    let differences = json(&wire, &["network", "alice"])["differences"].to_string();
    let is_told = differences.contains("down was unlimited in the kernel, not 3M") && differences.contains("up was ");
    let is_right = || {
        let limits = json(&wire, &["network", "alice"])["limits"].clone();
        (&limits["up"]["at"], &limits["down"]["at"]) == (&(2 << 20).into(), &(3 << 20).into())
    };
    assert!(is_told || is_right(), "{differences}");
    within_minutes("the rates are right", is_right);
    within_minutes("what waits is bounded", || {
        let queues = router.ok("tc qdisc show dev up0");
        queues.matches("pfifo").count() == 2 && !queues.contains("limit 9p")
    });
    let told = format!("the rate of what {link} receives was not 3M; it was put right");
    let log = wire.net_log();
    assert!(log.contains(&told), "{log}");
    let told = format!("what {} sends did not wait in queue pfifo", wire.router_link("carol"));
    assert!(log.contains(&told), "{log}");
    let report = wire.host.cli(&["audit", "alice"]);
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.contains("BW121") && report.contains("it was put right"), "{report}");
    assert_eq!(json(&wire, &["network", "bob"])["differences"], Value::Array(Vec::new()));
}

#[test]
fn a_share_of_the_month_and_what_passed_are_told_everywhere() {
    let month = "month = { bytes = \"2M\", then = \"stop\", notify = [20, 50, 100] }";
    let wire = Wire::running(&[("alice", month), ("bob", month)]);
    let jail = wire.jail("alice");
    let mut open = [outside(80), outside_v6(80)].map(|to| Talk::open(&jail, to).expect("connects"));
    // The recorder remembers what was before its first look.
    within_minutes("a first minute", || {
        json(&wire, &["usage", "--since", "1h", "alice"]).as_array().is_some_and(|rows| !rows.is_empty())
    });
    open[0].echo(300_000).expect("goes on");
    open[1].echo(10_000).expect("goes on");
    assert_refused(Talk::open(&jail, outside(22)), "a port that is not allowed");
    let status = || json(&wire, &["status"])["problems"].to_string();
    until("the status says so", || status().contains("has used") && status().contains("which is more than 20 %"));
    assert!(!status().contains("bob"), "{}", status());
    let limits = |tenant: &str| -> Vec<String> {
        let faults = json(&wire, &["faults", tenant]);
        let rows = faults.as_array().unwrap_or_else(|| panic!("{faults}"));
        rows.iter().map(|fault| fault["limit"].as_str().expect("text").to_owned()).collect()
    };
    within_minutes("the share is a fault", || limits("alice").contains(&"network-month-20".to_owned()));
    within_minutes("the refused packet too", || limits("alice").contains(&"network-not-allowed".to_owned()));
    assert!(!limits("alice").contains(&"network-month-50".to_owned()));
    // Bytes and packets of each family, in whatever shows what tenants use.
    let shown = json(&wire, &["network", "alice", "--connections"]);
    for family in ["ipv4", "ipv6"] {
        for way in ["sent", "received"] {
            let volume = &shown["traffic"][family][way];
            let (bytes, packets) = (volume["bytes"].as_u64().expect("a number"), volume["packets"].as_u64());
            assert!(bytes > 10_000 && packets.is_some_and(|packets| packets > 5), "{family} {way}: {shown}");
        }
    }
    assert_eq!(shown["connections"].as_array().expect("a list").len(), 2, "{shown}");
    assert_eq!(shown["refused"]["not-allowed"], 1, "{shown}");
    let last = &shown["last_refused"][0];
    assert_eq!((&last["reason"], &last["port"], &last["protocol"]), (&"not-allowed".into(), &22.into(), &"tcp".into()));
    let usage = json(&wire, &["usage", "alice", "--since", "1h"]).to_string();
    let history = json(&wire, &["history", "alice", "--since", "1h"]).to_string();
    let top = json(&wire, &["usage", "--now"]).to_string();
    for (text, what) in [(&usage, "usage"), (&history, "history"), (&top, "usage --now")] {
        for measure in ["net_sent", "net_received_packets", "net6_sent", "net6_received"] {
            assert!(text.contains(measure), "{what}: {measure}: {text}");
        }
    }
    let incidents = wire.host.ok(&["incidents", "alice"]);
    assert!(incidents.contains("network-not-allowed"), "{incidents}");

    // All of it is used up.
    assert!(open[0].echo(8 << 20).is_err(), "it stops");
    until("the status says so", || status().contains("of 2M of this month: nothing passes until the month ends"));
    let text = wire.host.ok(&["network", "alice"]);
    assert!(text.contains("2.0M of 2M: used up, and nothing passes until the month ends"), "{text}");
    let report = wire.host.cli(&["audit", "alice"]);
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.contains("BW127") && report.contains("2.0M of 2M used in this month"), "{report}");
    for share in ["network-month-50", "network-month-100"] {
        within_minutes(share, || limits("alice").contains(&share.to_owned()));
    }
    assert_eq!(limits("alice").iter().filter(|limit| *limit == "network-month-20").count(), 1, "once a month");
    assert_eq!(limits("bob").iter().filter(|limit| limit.contains("month")).count(), 0);
    assert!(wire.host.log().contains("alice has used 100 % of its volume of the month"), "{}", wire.host.log());
}

#[test]
fn a_volume_below_what_was_used_is_used_up_at_once() {
    let wire = Wire::running(&[("alice", ""), ("bob", "")]);
    let (alice, bob) = (wire.jail("alice"), wire.jail("bob"));
    let mut open = [&alice, &bob].map(|jail| Talk::open(jail, outside(80)).expect("connects"));
    for talk in &mut open {
        talk.echo(1 << 20).expect("goes on");
    }
    wire.declare("alice", "month = { bytes = \"1M\", then = \"stop\" }");
    wire.declare("bob", "month = { bytes = \"1M\", then = \"shape 64K\" }");
    let applied = wire.host.cli(&["apply"]);
    let said = String::from_utf8_lossy(&applied.stderr).into_owned();
    for line in
        ["\"alice\" has used 2.", "of 1M of this month: nothing passes until the month ends", "\"bob\" has used 2."]
    {
        assert!(applied.status.success() && said.contains(line), "{line}: {said}");
    }
    assert!(open[0].echo(100).is_err(), "it stops at once");
    assert_refused(Talk::open(&alice, outside_v6(80)), "the month is used up");
    let limits = json(&wire, &["network", "bob"])["limits"].clone();
    assert_eq!((&limits["up"]["at"], &limits["down"]["at"]), (&(64 << 10).into(), &(64 << 10).into()), "{limits}");
    open[1].echo(100).expect("it goes on");
    let text = wire.host.ok(&["network", "bob"]);
    assert!(text.contains("of 1M: used up, and it goes on at 64K a second"), "{text}");
    let problems = json(&wire, &["status"])["problems"].to_string();
    for line in [
        "\\\"alice\\\" has used",
        "\\\"bob\\\" has used",
        "nothing passes until the month ends",
        "it goes on at 64K a second",
    ] {
        assert!(problems.contains(line), "{line}: {problems}");
    }
}
