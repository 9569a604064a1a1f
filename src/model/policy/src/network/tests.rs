//! What is behind the gate of [`crate::unserved`]: networks and links that are read, inherited, written and compared.

use crate::{Policy, Reading, dump, parse};
use bailiwick_types::{
    Allow, Bound, ByteRate, ByteSize, Destination, HostNetwork, Ipv6Pool, Link, LinkDirection, MonthlyVolume, Network,
    NetworkMode, PlanName, Port, PortRange, Ports, Prefix, Publish, TenantName, Transport, WhenOver,
};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeSet;
use std::fs::Permissions;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const PORTS: &str = "network = { ports = \"40000-49999\" }\n";

fn read(files: &[(&str, &str)]) -> Reading {
    let files: Vec<(PathBuf, &str)> = files.iter().map(|(path, text)| (PathBuf::from(path), *text)).collect();
    parse(&files)
}

fn clean(reading: Reading) -> Policy {
    assert!(reading.diagnostics.is_empty() && reading.invalid.is_empty(), "{}", crate::lines(&reading.diagnostics));
    reading.policy.expect("no diagnostics, so a policy")
}

/// The network of a tenant with this plan and these lines of its own.
fn network(plan: &str, own: &str) -> Network {
    let own = format!("plan = \"small\"\n{own}");
    let files = [("bailiwick.toml", PORTS), ("plans.d/small.toml", plan), ("tenants.d/alice.toml", &*own)];
    let mut policy = clean(read(&files));
    policy.tenants.pop_first().expect("alice").1.settings.network
}

fn complaints(reading: &Reading) -> Vec<String> {
    reading.diagnostics.iter().map(ToString::to_string).collect()
}

#[test]
fn every_key_is_read() {
    let own = r#"
[network]
mode = "published"
allow = ["192.88.98.0/24", "2A00::1", "Example.org", { to = "9.9.9.9", ports = ["tcp/853", "ping"] }, { to = "a.b" }]
ports = ["tcp/8000-8999", "udp/443", "dns", "ping", "tcp/587"]
smtp = true
publish = [{ host = "tcp/40132", to = "tcp/22" }, { host = "udp/40132", to = "udp/53" }]
up = "100Mbit"
down = "8K"
month = { bytes = "200G", then = "shape 1M", notify = [80, 95] }
connections = 16
"#;
    let to = |text: &str| text.parse::<Destination>().expect(text);
    let ports = |texts: &[&str]| texts.iter().map(|text| text.parse().expect(text)).collect::<Vec<Ports>>();
    let own_ports = ports(&["tcp/853", "ping"]);
    let plain = |text| Allow { to: to(text), ports: None };
    let golden = Network {
        mode: NetworkMode::Published,
        allow: vec![
            plain("192.88.98.0/24"),
            plain("2a00::1"),
            plain("example.org"),
            Allow { to: to("9.9.9.9"), ports: Some(own_ports) },
            plain("a.b"),
        ],
        ports: ports(&["tcp/8000-8999", "udp/443", "dns", "ping", "tcp/587"]),
        smtp: true,
        publish: vec![
            Publish { transport: Transport::Tcp, host: 40132, to: 22 },
            Publish { transport: Transport::Udp, host: 40132, to: 53 },
        ],
        up: Bound::At(ByteRate(12_500_000)),
        down: Bound::At(ByteRate(8192)),
        month: Some(MonthlyVolume {
            bytes: ByteSize(200 << 30),
            then: WhenOver::Shape(ByteRate(1 << 20)),
            notify: vec![80, 95],
        }),
        connections: 16,
    };
    assert_eq!(network("", own), golden);
}

#[test]
fn a_tenants_key_replaces_its_plans_key_and_no_network_has_none() {
    let plan = "[network]\nmode = \"outbound\"\nallow = [\"a.b\"]\nup = \"1M\"\nmonth = { bytes = \
             \"1G\", then = \"stop\" }\n";
    let defaults = Network::with_mode(NetworkMode::Outbound);
    let of_plan = Network {
        allow: vec![Allow { to: "a.b".parse().expect("a name"), ports: None }],
        up: Bound::At(ByteRate(1 << 20)),
        month: Some(MonthlyVolume { bytes: ByteSize(1 << 30), then: WhenOver::Stop, notify: vec![80, 100] }),
        ..defaults.clone()
    };
    for (plan, own, golden) in [
        ("", "", Network::default()),
        ("", "[network]\nmode = \"none\"\n", Network::default()),
        ("", "[network]\nmode = \"outbound\"\n", defaults.clone()),
        (plan, "", of_plan.clone()),
        (plan, "[network]\nmode = \"inherit\"\nup = \"inherit\"\nallow = \"inherit\"\n", of_plan.clone()),
        (plan, "[network]\nmode = \"none\"\n", Network::default()),
        (
            plan,
            "[network]\nallow = []\n[[link]]\nto = \"bob\"\nport = \"tcp/1\"\n",
            Network { allow: Vec::new(), ..of_plan.clone() },
        ),
        (plan, "[network]\nup = \"unlimited\"\n", Network { up: Bound::Unlimited, ..of_plan.clone() }),
        (plan, "[network]\nmonth = \"unlimited\"\n", Network { month: None, ..of_plan.clone() }),
        (
            plan,
            "[network]\nmode = \"published\"\npublish = [{ host = \"tcp/40000\", to = \"tcp/1\" }]\n",
            Network {
                mode: NetworkMode::Published,
                publish: vec![Publish { transport: Transport::Tcp, host: 40000, to: 1 }],
                ..of_plan.clone()
            },
        ),
        // What is published is not inherited by one that only connects to others.
        (
            "[network]\nmode = \"published\"\npublish = [{ host = \"tcp/40000\", to = \"tcp/1\" }]\n",
            "[network]\nmode = \"outbound\"\n",
            defaults,
        ),
    ] {
        assert_eq!(network(plan, own), golden, "{plan}{own}");
    }
}

/// A plan may leave the ports to its tenants.
#[test]
fn a_published_tenant_has_a_port_and_does_not_sleep() {
    let of = |plan: &str, own: &str| {
        let own = format!("plan = \"p\"\n{own}");
        complaints(&read(&[("bailiwick.toml", PORTS), ("plans.d/p.toml", plan), ("tenants.d/a.toml", &own)]))
    };
    let plan = "[network]\nmode = \"published\"\n";
    let publish = "[network]\npublish = [{ host = \"tcp/40000\", to = \"tcp/1\" }]\n";
    let (sleep, awake) = ("[sleep]\nafter = \"1h\"\n", "[sleep]\nafter = \"never\"\n");
    assert_eq!(of(plan, publish), [""; 0]);
    let nothing = "mode = \"published\", but no port leads into the jail (write one such as publish = [{ host = \"tcp/40132\", \
                   to = \"tcp/22\" }], or mode = \"outbound\")";
    assert_eq!(of(plan, ""), [format!("tenants.d/a.toml:1:8: {nothing}")]);
    assert_eq!(of("", plan), [format!("tenants.d/a.toml:2:1: {nothing}")]);
    let asleep = "mode = \"published\", but the tenant sleeps, and then nothing listens (write after = \"never\" below \
                  [sleep], or have nginx (stream) pass connections to a socket of a service)";
    assert_eq!(of(&format!("{plan}{sleep}"), publish), [format!("plans.d/p.toml:2:8: {asleep}")]);
    assert_eq!(of(plan, &format!("{publish}{sleep}")), [format!("tenants.d/a.toml:5:9: {asleep}")]);
    let own = publish.replace("[network]\n", "[network]\nmode = \"published\"\n");
    assert_eq!(of(sleep, &own), [format!("tenants.d/a.toml:3:8: {asleep}")]);
    assert_eq!(of(sleep, &format!("{own}{awake}")), [""; 0]);
}

#[test]
fn the_other_half_of_a_contradiction_may_be_inherited() {
    let plan = "[network]\nmode = \"outbound\"\nsmtp = true\nports = [\"tcp/25\"]\n";
    let allow = "allow = [{ to = \"a.b\", ports = [\"tcp/587\"] }]\n";
    let of = |plan: &str, own: &str| {
        complaints(&read(&[
            ("bailiwick.toml", ""),
            ("plans.d/p.toml", plan),
            ("tenants.d/a.toml", &format!("plan = \"p\"\n[network]\n{own}")),
        ]))
    };
    let inherited = |port: &str, key: &str| {
        format!(
            "tenants.d/a.toml:3:8: \"{port}\" is for mail, which smtp = false refuses (\"{key}\" is \
             inherited; set it in this file too)"
        )
    };
    assert_eq!(of(plan, "smtp = false\n"), [inherited("tcp/25", "ports")]);
    let ping = "smtp = false\nports = [\"ping\"]\n";
    assert_eq!(of(&format!("{plan}{allow}"), ping), [inherited("tcp/587", "allow")]);
    assert_eq!(of(plan, ping), [""; 0]);
    assert_eq!(of(plan, "ports = [\"tcp/465\"]\n"), [""; 0]);
}

/// A host with tenants who have a network and these lines.
fn tenants(lines: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut files = vec![
        ("bailiwick.toml".to_owned(), PORTS.to_owned()),
        ("plans.d/p.toml".to_owned(), "[network]\nmode = \"outbound\"\n".to_owned()),
        ("plans.d/none.toml".to_owned(), String::new()),
    ];
    files.extend(lines.iter().map(|(name, text)| (format!("tenants.d/{name}.toml"), (*text).to_owned())));
    files
}

/// What `check` says of such a host.
fn checked(lines: &[(&str, &str)]) -> Vec<String> {
    let directory = tempfile::tempdir().expect("a directory");
    for (path, text) in tenants(lines) {
        let path = directory.path().join(path);
        let folder = path.parent().expect("a parent");
        std::fs::create_dir_all(folder).expect("makes");
        std::fs::write(&path, text).expect("writes");
        // Whatever the umask is.
        std::fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("chmod");
        std::fs::set_permissions(path, Permissions::from_mode(0o644)).expect("chmod");
    }
    let machine = crate::Machine {
        memory: ByteSize(1 << 40),
        tasks: 1 << 20,
        disk: None,
        users: Vec::new(),
        has_user: |_| true,
        has_web_group: true,
        has_path: |_: &Path| true,
        mail_problem: None,
        has_address: |_| false,
        listening: Vec::new(),
        no_resolver: None,
        unenforceable: std::collections::BTreeMap::new(),
    };
    let found = crate::check(directory.path(), crate::read(directory.path()), &machine);
    let path = format!("{}/", directory.path().display());
    found.iter().map(|problem| problem.to_string().replace(&path, "")).collect()
}

const TO_BOB: &str = "plan = \"p\"\n[[link]]\nto = \"carol\"\nport = \"udp/1\"\n[[link]]\nto = \"bob\"\nport \
             = \"tcp/5432\"\n";
const FROM_ALICE: &str = "plan = \"p\"\n[[link]]\nfrom = \"alice\"\nport = \"tcp/5432\"\n";
const CAROL: &str = "plan = \"p\"\n[[link]]\nfrom = \"alice\"\nport = \"udp/1\"\n[[link]]\nfrom = \
             \"bob\"\nport = \"udp/1\"\n";

#[test]
fn a_link_needs_both_files() {
    let links = |lines: &[(&str, &str)]| {
        let files: Vec<(PathBuf, String)> =
            tenants(lines).into_iter().map(|(path, text)| (path.into(), text)).collect();
        let policy = clean(parse(&files));
        policy.links().map(|(from, to, port)| format!("{from} -> {to} {port}")).collect::<Vec<_>>()
    };
    let all = [("alice", TO_BOB), ("bob", FROM_ALICE), ("carol", CAROL)];
    assert_eq!(links(&all), ["alice -> carol udp/1", "alice -> bob tcp/5432"]);
    // That carol lets bob connect is an offer. Bob need not take it.
    assert_eq!(checked(&all), [""; 0]);

    let other_port = FROM_ALICE.replace("5432", "5433");
    let without = [("alice", TO_BOB), ("bob", other_port.as_str()), ("carol", CAROL)];
    assert_eq!(links(&without), ["alice -> carol udp/1"]);
    let lines = "[[link]] / from = \"alice\" / port = \"tcp/5432\"";
    let refused = "tenants.d/alice.toml:6:6: \"bob\" does not let \"alice\" connect to its port \"tcp/5432\"";
    assert_eq!(checked(&without), [format!("{refused} (add these lines to tenants.d/bob.toml: {lines})")]);
    let offline = [("alice", TO_BOB), ("bob", "plan = \"none\"\n"), ("carol", CAROL)];
    let lines = format!("[network] / mode = \"outbound\" / {lines}");
    assert_eq!(checked(&offline), [format!("{refused} (add these lines to tenants.d/bob.toml: {lines})")]);
}

#[test]
fn a_link_leads_to_a_tenant_that_is_there() {
    let lonely = [("alice", TO_BOB), ("carl", CAROL)];
    assert_eq!(
        checked(&lonely),
        [
            "tenants.d/alice.toml:3:6: there is no tenant \"carol\" (did you mean \"carl\"?)",
            "tenants.d/alice.toml:6:6: there is no tenant \"bob\" (remove the link)",
            // Whoever is called so one day would be let in.
            "tenants.d/carl.toml:6:8: there is no tenant \"bob\" (remove the link)",
        ]
    );
    let broken = [("alice", TO_BOB), ("bob", "plan = \"nope\"\n"), ("carol", CAROL)];
    let found = checked(&broken);
    assert!(found.len() == 1 && found[0].starts_with("tenants.d/bob.toml:1:8: there is no plan"), "{found:?}");
}

#[test]
fn two_tenants_do_not_share_a_port_of_the_host() {
    let publish = |ports: &[&str]| {
        let entry = |port: &&str| format!("{{ host = \"{port}\", to = \"{}/1\" }}", &port[..3]);
        let list = ports.iter().map(entry).collect::<Vec<_>>().join(",\n");
        format!("plan = \"p\"\n[network]\nmode = \"published\"\npublish = [\n{list}]\n")
    };
    let (alice, bob) = (publish(&["tcp/40001", "udp/40002"]), publish(&["udp/40001", "tcp/40002", "udp/40002"]));
    assert_eq!(
        checked(&[("alice", &alice), ("bob", &bob)]),
        ["tenants.d/bob.toml:7:10: the host's port \"udp/40002\" is published for \"alice\" too \
             (choose another port of the host: the jail that has it keeps it, and the other one does not start)"]
    );
}

#[test]
fn what_the_host_blocks_or_does_not_give_away_cannot_be_asked_for() {
    let of = |host: &str, own: &str| {
        let host = format!("[network]\n{host}");
        let own = format!("plan = \"p\"\n[network]\nmode = \"published\"\n{own}");
        let published = "publish = [{ host = \"tcp/40000\", to = \"tcp/1\" }]\n";
        let own = if own.contains("publish =") { own } else { own + published };
        complaints(&read(&[("bailiwick.toml", &host), ("plans.d/p.toml", ""), ("tenants.d/a.toml", &own)]))
    };
    let host = "ipv4 = \"5.0.0.0/16\"\nipv6 = \"2a00:1:2::/48\"\nblock = [\"9.9.0.0/16\"]\nports = \
             \"40000-49999\"\n";
    assert_eq!(of(host, "allow = [\"0.0.0.0/0\", \"9.0.0.0/8\", \"5.1.0.0/16\"]\n"), [""; 0]);
    assert_eq!(
        of(host, "allow = [\"9.9.9.9\", { to = \"5.0.1.0/24\" }, \"2a00:1:2::/64\"]\n"),
        [
            "tenants.d/a.toml:4:10: \"9.9.9.9\" is always blocked: bailiwick.toml blocks \
             \"9.9.0.0/16\" (remove it, here or there)",
            "tenants.d/a.toml:4:28: \"5.0.1.0/24\" is always blocked: \"5.0.0.0/16\" is the pool of \
             jails (remove it; [[link]] leads to another tenant)",
            "tenants.d/a.toml:4:44: \"2a00:1:2::/64\" is always blocked: \"2a00:1:2::/48\" is the \
             pool of jails (remove it; [[link]] leads to another tenant)",
        ]
    );
    assert_eq!(
        of(
            host,
            "publish = [{ host = \"tcp/49999\", to = \"tcp/1\" }, { host = \"tcp/50000\", to = \
             \"tcp/1\" }]\n"
        ),
        ["tenants.d/a.toml:4:59: the host's port \"tcp/50000\" is not one that tenants may \
             publish (choose one of 40000-49999, which bailiwick.toml gives away)"]
    );
    assert_eq!(
        of("ipv6 = \"off\"\n", ""),
        ["tenants.d/a.toml:4:1: the host has no ports that tenants may publish (name them in \
             bailiwick.toml, such as network = { ports = \"40000-49999\" })"]
    );
}

/// The complaints about a tenant with these lines below `[network]`, whose plan has those.
fn of_plan_and_own(plan: &str, own: &str) -> Vec<String> {
    let plan = format!("[network]\nmode = \"outbound\"\n{plan}");
    let own = format!("plan = \"p\"\n{own}");
    complaints(&read(&[("bailiwick.toml", PORTS), ("plans.d/p.toml", &plan), ("tenants.d/a.toml", &own)]))
}

#[test]
fn a_blocked_destination_is_found_however_it_is_written() {
    let of = |plan: &str, child: &str, own: &str| {
        let host = "[network]\nblock = [\"203.0.114.2\", \"2a00::/16\"]\n";
        let plan = format!("[network]\nmode = \"outbound\"\n{plan}");
        let child = format!("plan = \"p\"\n{child}");
        let own = format!("plan = \"child\"\n{own}");
        let files = [
            ("bailiwick.toml", host),
            ("plans.d/p.toml", &*plan),
            ("plans.d/child.toml", &*child),
            ("tenants.d/a.toml", &*own),
        ];
        complaints(&read(&files))
    };
    let blocked = |place: &str, prefix: &str, block: &str| {
        format!("{place}: \"{prefix}\" is always blocked: bailiwick.toml blocks \"{block}\" (remove it, here or there)")
    };
    let one = |place: &str| [blocked(place, "203.0.114.2", "203.0.114.2")];
    let own = "[network]\n# \"203.0.114.2\"\nallow = [\"9.9.9.9\", \"203.0.114.2/32\"]\n";
    assert_eq!(of("", "", own), one("tenants.d/a.toml:4:21"));
    assert_eq!(of("", own, ""), one("plans.d/child.toml:4:21"));
    assert_eq!(of("allow = [{ to = \"203.0.114.2/32\" }]\n", "", ""), one("plans.d/p.toml:3:17"));
    let inline = "network = { allow = [\n\"2A00:0::/32\"] }\n";
    assert_eq!(of("", "", inline), [blocked("tenants.d/a.toml:3:1", "2a00::/32", "2a00::/16")]);
}

#[test]
fn questions_for_names_go_to_the_resolvers_alone() {
    let nobody = "reaches nobody: jails ask the resolvers of the host, and no others";
    let own = "[network]\nports = [\"tcp/443\", \"udp/53\"]\n";
    let golden = [format!("tenants.d/a.toml:3:21: \"udp/53\" {nobody} (write \"dns\" into \"ports\" instead)")];
    assert_eq!(of_plan_and_own("", own), golden);
    let remove = "(remove it: \"dns\" is in \"ports\")";
    let plan = "ports = [\"dns\", \"tcp/53\"]\n";
    assert_eq!(of_plan_and_own(plan, ""), [format!("plans.d/p.toml:3:17: \"tcp/53\" {nobody} {remove}")]);
    let allow = "[network]\nallow = [{ to = \"9.9.9.9\", ports = [\"tcp/53-53\"] }]\n";
    assert_eq!(of_plan_and_own("", allow), [format!("tenants.d/a.toml:3:17: \"tcp/53\" {nobody} {remove}")]);
    // Whoever wants all ports need not write two ranges.
    assert_eq!(of_plan_and_own("ports = [\"udp/1-1023\", \"tcp/53-54\"]\n", ""), [""; 0]);
}

#[test]
fn mail_needs_a_port() {
    let golden = |place: &str| {
        let hint = "add the port, such as \"tcp/587\", to \"ports\", or write smtp = false";
        [format!("{place}: smtp = true, but no port for mail is in \"ports\" ({hint})")]
    };
    assert_eq!(of_plan_and_own("", "[network]\nsmtp = true\n"), golden("tenants.d/a.toml:3:8"));
    assert_eq!(of_plan_and_own("smtp = true\n", ""), golden("plans.d/p.toml:3:8"));
    let plan = "smtp = true\nports = [\"tcp/25\"]\n";
    assert_eq!(of_plan_and_own(plan, "[network]\nports = [\"udp/25\"]\n"), golden("tenants.d/a.toml:3:9"));
    let allow = "smtp = true\nallow = [{ to = \"a.b\", ports = [\"tcp/587\"] }]\n";
    for plan in [plan, allow, "smtp = true\nports = [\"tcp/400-500\"]\n"] {
        assert_eq!(of_plan_and_own(plan, ""), [""; 0]);
    }
}

/// A plan may leave it to its tenants where they send to.
#[test]
fn an_outbound_network_lets_something_out() {
    let (no_allow, no_ports) = ("[network]\nallow = []\n", "[network]\nports = []\n");
    let allow = "mode = \"outbound\", but allow = [] lets nothing out (write one such as allow = [\"0.0.0.0/0\", \"::/0\"], or \
                 mode = \"none\")";
    let ports = "mode = \"outbound\", but ports = [] lets nothing out (write one such as ports = [\"tcp/443\", \"dns\"], or mode \
                 = \"none\")";
    assert_eq!(of_plan_and_own("", no_allow), [format!("tenants.d/a.toml:3:9: {allow}")]);
    assert_eq!(of_plan_and_own("", no_ports), [format!("tenants.d/a.toml:3:9: {ports}")]);
    assert_eq!(of_plan_and_own("allow = []\n", ""), [format!("tenants.d/a.toml:1:8: {allow}")]);
    assert_eq!(of_plan_and_own("allow = []\n", "[network]\nallow = [\"a.b\"]\n"), [""; 0]);
    let link = "[[link]]\nfrom = \"bob\"\nport = \"tcp/1\"\n";
    assert_eq!(of_plan_and_own("", &format!("{no_allow}{link}")), [""; 0]);
    let publish = "mode = \"published\"\npublish = [{ host = \"tcp/40000\", to = \"tcp/1\" }]\n";
    assert_eq!(of_plan_and_own("", &format!("{no_allow}{publish}")), [""; 0]);
    let own = "allow = [{ to = \"a.b\", ports = [\"tcp/22\"] }]\n";
    assert_eq!(of_plan_and_own("", &format!("{no_ports}{own}")), [""; 0]);
}

#[test]
fn what_is_left_of_a_volume_is_slower_than_before() {
    let month = "month = { bytes = \"1G\", then = \"shape 2M\" }\n";
    let golden = |place: &str, top: &str| {
        let slows = "then = \"shape 2M\" slows nothing: \"up\" and \"down\" are not above it";
        [format!("{place}: {slows} (write a rate below {top}, or then = \"notify\")")]
    };
    let rates = |up: &str, down: &str| format!("up = \"{up}\"\ndown = \"{down}\"\n");
    assert_eq!(of_plan_and_own(&format!("{month}{}", rates("1M", "2M")), ""), golden("plans.d/p.toml:3:9", "2M"));
    let own = format!("[network]\n{}", rates("1M", "1M"));
    assert_eq!(of_plan_and_own(month, &own), golden("tenants.d/a.toml:3:6", "1M"));
    for (up, down) in [("1M", "3M"), ("1M", "unlimited"), ("unlimited", "unlimited")] {
        assert_eq!(of_plan_and_own(&format!("{month}{}", rates(up, down)), ""), [""; 0]);
    }
}

fn some_ports() -> impl Strategy<Value = Ports> {
    let range = (select(Transport::ALL), 26u16..=464, 588u16..).prop_map(|(transport, first, last)| Ports::Range {
        transport,
        range: PortRange::new(first, last).expect("in order"),
    });
    prop_oneof![Just(Ports::Ping), range]
}

fn destination() -> impl Strategy<Value = Destination> {
    prop_oneof![
        (11u32..100, any::<u32>(), 8u8..=32).prop_filter_map("host bits", |(first, rest, length)| {
            let bits = (first << 24) | (rest >> 8);
            let address = IpAddr::from((bits & (u32::MAX << (32 - length))).to_be_bytes());
            Prefix::new(address, length).ok().map(Destination::Prefix)
        }),
        (1u16..=0xff, 17u8..=64).prop_map(|(part, length)| {
            let bits = ((0x2a00 | u128::from(part)) << 112) & (u128::MAX << (128 - length));
            Destination::Prefix(Prefix::new(IpAddr::from(bits.to_be_bytes()), length).expect("a prefix"))
        }),
        "[a-z]{1,5}(\\.[a-z]{1,5}){1,2}".prop_map(|name| Destination::Name(name.parse().expect("a name"))),
    ]
}

fn some_rate() -> impl Strategy<Value = ByteRate> {
    prop_oneof![(8192u64..1 << 50), (66u64..1 << 20).prop_map(|kbit| kbit * 125)].prop_map(ByteRate)
}

prop_compose! {
    fn some_network()(
        mode in select(NetworkMode::ALL),
        allow in vec((destination(), option::of(btree_set(some_ports(), 1..4))), 1..4),
        ports in btree_set(prop_oneof![some_ports(), Just(Ports::Dns), Just("tcp/25".parse().expect("ports"))], 0..4),
        smtp in any::<bool>(),
        publish in btree_set((select(Transport::ALL), 40_000u16..=49_999, 1u16..), 1..4),
        (up, down) in (option::of(some_rate()), option::of(some_rate())),
        month in option::of((
            1u64 << 20..1 << 50,
            prop_oneof![Just(WhenOver::Stop), Just(WhenOver::Notify), some_rate().prop_map(WhenOver::Shape)],
            btree_set(1u8..=100, 1..5),
        )),
        connections in Network::MIN_CONNECTIONS..=Network::MAX_CONNECTIONS,
    ) -> Network {
        if mode == NetworkMode::None {
            return Network::default();
        }
        let mut known = BTreeSet::new();
        let allow = allow.into_iter().filter(|(to, _)| known.insert(to.clone()));
        let mut known = BTreeSet::new();
        let publish = publish.into_iter().map(|(transport, host, to)| Publish { transport, host, to });
        let publish = publish.filter(|publish| known.insert(publish.host_port()) && mode == NetworkMode::Published);
        let bound = |rate: Option<ByteRate>| rate.map_or(Bound::Unlimited, Bound::At);
        // Something passes, mail has a port, and what is shaped becomes slower.
        let mut ports: Vec<Ports> = ports.iter().copied().filter(|ports| smtp || !ports.is_smtp()).collect();
        if ports.is_empty() {
            ports.push(Ports::Ping);
        }
        let allow: Vec<Allow> =
            allow.map(|(to, ports)| Allow { to, ports: ports.map(|ports| ports.into_iter().collect()) }).collect();
        let of_allow = allow.iter().flat_map(|allow| allow.ports.iter().flatten());
        let smtp = smtp && ports.iter().chain(of_allow).any(|ports| ports.has_smtp());
        let top = up.max(down).filter(|_| up.is_some() && down.is_some());
        let slower = |then| match then {
            WhenOver::Shape(rate) if top.is_some_and(|top| rate >= top) => WhenOver::Stop,
            then => then,
        };
        Network {
            mode,
            allow,
            ports,
            smtp,
            publish: publish.collect(),
            up: bound(up),
            down: bound(down),
            month: month.map(|(bytes, then, notify)| MonthlyVolume {
                bytes: ByteSize(bytes),
                then: slower(then),
                notify: notify.into_iter().collect(),
            }),
            connections,
        }
    }
}

prop_compose! {
    fn some_host()(
        length in 8u8..=16,
        ipv6 in select(vec!["auto", "off", "fd00:1:2::/48", "2a00:0:0:1::/64"]),
        resolvers in btree_set(any::<u16>(), 0..=3),
        block in btree_set(0u8..=8, 0..4),
        last in 49_999u16..,
        cache: bool,
    ) -> HostNetwork {
        let ten: Prefix = "10.0.0.0/8".parse().expect("a prefix");
        HostNetwork {
            ipv4: Prefix::new(ten.address(), length).expect("a prefix"),
            ipv6: match ipv6 {
                "auto" => Ipv6Pool::Auto,
                "off" => Ipv6Pool::Off,
                prefix => Ipv6Pool::Prefix(prefix.parse().expect("a prefix")),
            },
            resolvers: resolvers.into_iter().map(|part| IpAddr::from([9, 9, part.to_be_bytes()[0], part.to_be_bytes()[1]])).collect(),
            block: block.into_iter().map(|part| Prefix::new(IpAddr::from([6, part, 0, 0]), 16).expect("a prefix")).collect(),
            ports: Some(PortRange::new(1024, last).expect("in order")),
            user: format!("user-{length}"),
            cache,
            cache_user: format!("cache-{length}"),
        }
    }
}

prop_compose! {
    fn some_links()(links in btree_set(("[b-z]{1,8}_", select(LinkDirection::ALL), select(Transport::ALL), 1u16..), 0..4)) -> Vec<Link> {
        let link = |(peer, direction, transport, number): (String, _, _, _)| {
            Link { peer: peer.parse().expect("a name"), direction, port: Port { transport, number } }
        };
        links.into_iter().map(link).collect()
    }
}

prop_compose! {
    fn some_policy()(host in some_host(), of_plan in some_network(), own in some_network(), links in some_links()) -> Policy {
        let files = [("bailiwick.toml", ""), ("plans.d/p.toml", ""), ("tenants.d/alice.toml", "plan = \"p\"")];
        let mut policy = clean(read(&files));
        let allowed = [&of_plan, &own].into_iter().flat_map(|network| &network.allow);
        let allowed: Vec<Prefix> = allowed
            .filter_map(|allow| if let Destination::Prefix(prefix) = allow.to { Some(prefix) } else { None })
            .collect();
        let is_asked_for = |blocked: Prefix| allowed.iter().any(|prefix| blocked.covers(*prefix));
        policy.host.network = host;
        policy.host.network.block.retain(|block| !is_asked_for(*block));
        if policy.host.network.pools().any(is_asked_for) {
            policy.host.network.ipv6 = Ipv6Pool::Off;
        }
        let (plan, alice): (PlanName, TenantName) = ("p".parse().expect("a name"), "alice".parse().expect("a name"));
        policy.plans.get_mut(&plan).expect("the plan").settings.network = of_plan;
        let tenant = policy.tenants.get_mut(&alice).expect("alice");
        tenant.links = if own.mode == NetworkMode::None { Vec::new() } else { links };
        tenant.settings.network = own;
        policy
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_to_itself(policy in some_policy()) {
        prop_assert_eq!(clean(parse(&dump(&policy))), policy);
    }

    /// Whatever one place of a good file becomes, what is accepted is written as it is read.
    #[test]
    fn damaged_files_do_not_make_it_panic(
        policy in some_policy(),
        at in any::<proptest::sample::Index>(),
        with in prop_oneof![any::<String>(), "[0-9a-f:./, \"-]{0,3}"],
    ) {
        let mut files = dump(&policy);
        for (_, content) in &mut files {
            // Below the header is nothing else that these files set.
            let start = content.rfind("network").expect("a network");
            let at = start + at.index(content.len() - start);
            content.replace_range(at..=at, &with);
        }
        if let Some(policy) = parse(&files).policy {
            prop_assert_eq!(clean(parse(&dump(&policy))), policy);
        }
    }

    /// Whatever stands below a header, a policy or diagnostics come of it.
    #[test]
    fn no_value_makes_it_panic(
        lines in vec(
            (
                "[a-z]{2,6}|mode|allow|ports|publish|up|month|ipv4|ipv6|resolvers|block|to|from|port",
                "\"[0-9a-f:./-]{0,12}\"|\\[\"[0-9a-f:./-]{0,12}\"\\]|[0-9]{1,9}|\\{ (to|bytes|host) = \"[a-z0-9./]{0,9}\" \\}",
            ),
            0..4,
        ),
    ) {
        let text: String = lines.into_iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let own = format!("plan = \"p\"\n[[link]]\n{text}[network]\nmode = \"outbound\"\n{text}");
        let host = format!("[network]\n{text}");
        let reading = read(&[("bailiwick.toml", &host), ("plans.d/p.toml", ""), ("tenants.d/alice.toml", &own)]);
        if let Some(policy) = reading.policy {
            prop_assert_eq!(policy.tenants.len() + reading.invalid.len(), 1);
        }
    }
}
