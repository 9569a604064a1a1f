//! `network`: prints what the router says of a tenant's network.
//!
//! Danger: others choose whom a jail is connected to, and texts come from another program. Tables escape them.

use crate::output::{self, Form, visible};
use crate::table::{pairs, render};
use crate::usage::{clock, local};
use bailiwick_client::{AskError, Daemon};
use bailiwick_proto::control::TenantNetwork;
use bailiwick_proto::{ControlReply, ControlRequest, Failure};
use bailiwick_types::{
    ByteSize, Moment, MonthlyVolume, NetworkConnection, NetworkFacts, NetworkLimits, Period, RefusedRecord, Traffic,
    WhenOver,
};
use jiff::tz::TimeZone;
use std::net::{IpAddr, SocketAddr};

/// `bailiwick network`. `request` is [`ControlRequest::Network`].
pub(crate) fn run(daemon: &Daemon, request: ControlRequest, form: Form) -> Result<(), Failure> {
    let ControlReply::Network(network) = daemon.ask(&request)? else { return Err(AskError::Unexpected.into()) };
    let zone = local();
    output::show(form, &*network, |network| text(network, &zone))
}

fn text(network: &TenantNetwork, zone: &TimeZone) -> String {
    let facts = &network.facts;
    let addresses: Vec<String> = facts.addresses.iter().map(IpAddr::to_string).collect();
    let mut out = pairs([
        ("tenant", facts.tenant.to_string()),
        ("link", link(facts)),
        ("addresses", addresses.join(", ")),
        ("this month", month(facts)),
    ]);
    if let Some(network) = &facts.in_force {
        let row = |(key, value): (&str, String)| vec![key.to_owned(), value];
        let settings = bailiwick_policy::network_settings(network).into_iter().map(row);
        out.push_str(&format!("\n{}", render(&["IN-FORCE", "VALUE"], settings)));
    }
    if let Some(limits) = &facts.limits {
        out.push_str(&format!("\n{}", render(&["LIMIT", "IN-THE-KERNEL"], limit_rows(limits))));
    }
    let header = ["FAMILY", "SENT", "SENT-PACKETS", "RECEIVED", "RECEIVED-PACKETS"];
    let families = [family("ipv4", facts.traffic.ipv4), family("ipv6", facts.traffic.ipv6)];
    out.push_str(&format!("\n{}", render(&header, families)));
    if !facts.refused.is_empty() {
        let row = |(reason, count): (&bailiwick_types::RefusedPacket, &u64)| {
            vec![reason.word().to_owned(), count.to_string(), reason.text().to_owned()]
        };
        out.push_str(&format!("\n{}", render(&["REFUSED", "PACKETS", "BECAUSE"], facts.refused.iter().map(row))));
    }
    if !facts.last_refused.is_empty() {
        let row = |refused: &RefusedRecord| {
            let RefusedRecord { at, reason, source, destination, protocol, port } = refused;
            let at = clock(Moment(*at), zone);
            vec![at, protocol.clone(), source.to_string(), end(*destination, *port), reason.word().to_owned()]
        };
        let header = ["LAST-REFUSED", "PROTOCOL", "SOURCE", "DESTINATION", "BECAUSE"];
        out.push_str(&format!("\n{}", render(&header, facts.last_refused.iter().map(row))));
    }
    if let Some(connections) = &network.connections {
        let header = ["PROTOCOL", "SOURCE", "DESTINATION", "STATE", "EXPIRES"];
        out.push_str(&format!("\n{}", render(&header, connections.iter().map(connection))));
        if network.cut {
            out.push_str(&format!("there are more than these {} connections\n", connections.len()));
        }
    }
    if !facts.differences.is_empty() {
        out.push('\n');
    }
    for difference in &facts.differences {
        out.push_str(&format!("warning: {}\n", visible(difference)));
    }
    out
}

/// What was used of the month, and what that means.
fn month(facts: &NetworkFacts) -> String {
    let used = ByteSize(facts.month).rounded();
    let Some(MonthlyVolume { bytes, then, .. }) = facts.volume() else { return used };
    let share = u128::from(facts.month) * 100 / u128::from(bytes.0.max(1));
    let is_over = facts.volume().is_some_and(|month| month.is_over(facts.month));
    match then {
        WhenOver::Stop if is_over => format!("{used} of {bytes}: used up, and nothing passes until the month ends"),
        WhenOver::Shape(rate) if is_over => format!("{used} of {bytes}: used up, and it goes on at {rate} a second"),
        WhenOver::Notify if is_over => format!("{used} of {bytes}: used up"),
        _ => format!("{used} of {bytes} ({share} %), then \"{then}\""),
    }
}

fn limit_rows(limits: &NetworkLimits) -> Vec<Vec<String>> {
    let NetworkLimits { up, down, connections, stops_at } = limits;
    let number = |number: Option<String>| number.unwrap_or_else(|| "unlimited".to_owned());
    let rows = [
        ("up", up.to_string()),
        ("down", down.to_string()),
        ("connections", number(connections.map(|most| most.to_string()))),
        ("month", number(stops_at.map(|bytes| format!("stops at {bytes}")))),
    ];
    rows.into_iter().map(|(key, value)| vec![key.to_owned(), value]).collect()
}

fn link(facts: &NetworkFacts) -> String {
    match (&facts.link, facts.is_up) {
        (None, _) => String::new(),
        (Some(link), true) => format!("{link}, up"),
        (Some(link), false) => format!("{link}, down"),
    }
}

fn family(name: &str, traffic: Traffic) -> Vec<String> {
    let Traffic { sent, received } = traffic;
    let volumes = [sent, received].map(|volume| [ByteSize(volume.bytes).rounded(), volume.packets.to_string()]);
    std::iter::once(name.to_owned()).chain(volumes.into_iter().flatten()).collect()
}

fn connection(connection: &NetworkConnection) -> Vec<String> {
    let NetworkConnection { protocol, source, source_port, destination, destination_port, state, expires } = connection;
    vec![
        protocol.clone(),
        end(*source, *source_port),
        end(*destination, *destination_port),
        state.clone().unwrap_or_default(),
        Period(u64::from(*expires)).to_string(),
    ]
}

/// An address with its port, if it has one: `192.0.2.1:443`, `[2001:db8::1]:443`.
fn end(address: IpAddr, port: Option<u16>) -> String {
    port.map_or_else(|| address.to_string(), |port| SocketAddr::new(address, port).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_client::fake;
    use bailiwick_types::{
        Bound, ByteRate, ExitStatus, Network, NetworkMode, NetworkTraffic, RefusedPacket, TenantName, Volume,
    };
    use std::collections::BTreeMap;

    fn alice() -> TenantName {
        "alice".parse().expect("valid")
    }

    fn network() -> TenantNetwork {
        let volume = |bytes, packets| Volume { bytes, packets };
        let ipv4 = Traffic { sent: volume(1536, 3), received: volume(3 << 30, 2_000_000) };
        let connection =
            |protocol: &str, destination: &str, port: Option<u16>, state: Option<&str>| NetworkConnection {
                protocol: protocol.to_owned(),
                source: "100.64.0.2".parse().expect("valid"),
                source_port: port.map(|_| 40_000),
                destination: destination.parse().expect("valid"),
                destination_port: port,
                state: state.map(str::to_owned),
                expires: 90,
            };
        TenantNetwork {
            facts: NetworkFacts {
                tenant: alice(),
                link: Some("bw3".to_owned()),
                is_up: true,
                addresses: vec!["100.64.0.2".parse().expect("valid"), "fd00::2".parse().expect("valid")],
                traffic: NetworkTraffic { ipv4, ipv6: Traffic::default() },
                month: 5 << 30,
                in_force: Some(Box::new(Network {
                    month: Some(MonthlyVolume { bytes: ByteSize(200 << 30), then: WhenOver::Stop, notify: vec![80] }),
                    ..Network::with_mode(NetworkMode::Outbound)
                })),
                limits: Some(NetworkLimits {
                    up: Bound::Unlimited,
                    down: Bound::At(ByteRate(20 << 20)),
                    connections: Some(2000),
                    stops_at: Some(ByteSize(200 << 30)),
                }),
                refused: BTreeMap::from([(RefusedPacket::Dns, 12), (RefusedPacket::Smtp, 1)]),
                last_refused: vec![RefusedRecord {
                    at: 1_000_000_000,
                    reason: RefusedPacket::Smtp,
                    source: "100.64.0.2".parse().expect("valid"),
                    destination: "2001:db8::1".parse().expect("valid"),
                    protocol: "tcp".to_owned(),
                    port: Some(25),
                }],
                differences: vec!["the limit of connections is 5\u{1b}[2J".to_owned()],
            },
            connections: Some(vec![
                connection("tcp", "2001:db8::1", Some(443), Some("ESTABLISHED\u{1b}")),
                connection("1", "192.0.2.1", None, None),
            ]),
            cut: true,
        }
    }

    #[test]
    fn a_network_is_shown() {
        let golden = "\
tenant      alice
link        bw3, up
addresses   100.64.0.2, fd00::2
this month  5.0G of 200G (2 %), then \"stop\"

IN-FORCE     VALUE
mode         \"outbound\"
allow        [\"0.0.0.0/0\", \"::/0\"]
ports        [\"tcp/80\", \"tcp/443\", \"udp/443\", \"dns\"]
smtp         false
publish      []
up           \"unlimited\"
down         \"unlimited\"
month        { bytes = \"200G\", then = \"stop\", notify = [80] }
connections  2000

LIMIT        IN-THE-KERNEL
up           unlimited
down         20M
connections  2000
month        stops at 200G

FAMILY  SENT  SENT-PACKETS  RECEIVED  RECEIVED-PACKETS
ipv4    1.5K  3             3.0G      2000000
ipv6    0     0             0         0

REFUSED  PACKETS  BECAUSE
dns      12       to port 53, where \"dns\" is not in `ports` or the host is no resolver of the tenant
smtp     1        to a port of SMTP

LAST-REFUSED               PROTOCOL  SOURCE      DESTINATION       BECAUSE
2001-09-09T01:46:40+00:00  tcp       100.64.0.2  [2001:db8::1]:25  smtp

PROTOCOL  SOURCE            DESTINATION        STATE              EXPIRES
tcp       100.64.0.2:40000  [2001:db8::1]:443  ESTABLISHED\\u{1b}  1m30s
1         100.64.0.2        192.0.2.1          -                  1m30s
there are more than these 2 connections

warning: the limit of connections is 5\\u{1b}[2J
";
        assert_eq!(text(&network(), &TimeZone::UTC), golden);
        let month_text = |used, then| {
            let mut facts = NetworkFacts { month: used, ..network().facts };
            if let Some(month) = facts.in_force.as_mut().and_then(|network| network.month.as_mut()) {
                month.then = then;
            }
            month(&facts)
        };
        let shape = WhenOver::Shape(ByteRate(1 << 20));
        assert_eq!(
            month_text(200 << 30, WhenOver::Stop),
            "200.0G of 200G: used up, and nothing passes until the month ends"
        );
        assert_eq!(month_text(201 << 30, shape), "201.0G of 200G: used up, and it goes on at 1M a second");
        assert_eq!(month_text(200 << 30, WhenOver::Notify), "200.0G of 200G: used up");
        assert_eq!(month_text(199 << 30, shape), "199.0G of 200G (99 %), then \"shape 1M\"");
        let down = NetworkFacts { link: None, is_up: false, addresses: Vec::new(), ..network().facts };
        let down = NetworkFacts { in_force: None, limits: None, ..down };
        let quiet =
            NetworkFacts { refused: BTreeMap::new(), last_refused: Vec::new(), differences: Vec::new(), ..down };
        let shown = text(&TenantNetwork { facts: quiet, connections: None, cut: false }, &TimeZone::UTC);
        let golden = "tenant      alice\nlink        -\naddresses   -\nthis month  5.0G\n\nFAMILY";
        assert!(shown.starts_with(golden) && shown.ends_with("ipv6    0     0             0         0\n"), "{shown}");
    }

    #[test]
    fn json_is_flat_and_reads_as_it_is_written() {
        let json = output::in_form(Form::Json, &network(), |network| text(network, &TimeZone::UTC));
        assert!(!json.contains('\u{1b}'));
        assert_eq!(serde_json::from_str::<TenantNetwork>(&json).expect("valid"), network());
        let json: serde_json::Value = serde_json::from_str(&json).expect("valid");
        assert_eq!((&json["link"], &json["refused"]["dns"]), (&"bw3".into(), &12.into()));
        assert_eq!((&json["limits"]["connections"], &json["in_force"]["mode"]), (&2000.into(), &"outbound".into()));
        assert_eq!(json["connections"][0]["destination_port"], 443);
        let without = TenantNetwork { connections: None, cut: false, ..network() };
        let json = serde_json::to_value(without).expect("JSON");
        assert!(json.get("connections").is_none() && json.get("cut").is_none());
    }

    #[test]
    fn the_status_is_that_of_bailiwickd() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let refused = Failure::of(ExitStatus::Refused, "alice has no network: write mode");
        let answers = vec![
            vec![ControlReply::Network(Box::new(network()))],
            vec![ControlReply::Failed(refused.clone())],
            vec![ControlReply::Noted],
        ];
        let (daemon, served) = fake(temp.path(), answers);
        let request = || ControlRequest::Network { tenant: alice(), connections: true };
        let statuses = [0, 1, 2].map(|_| run(&daemon, request(), Form::Text));
        assert_eq!(statuses[..2], [Ok(()), Err(refused)]);
        assert_eq!(statuses[2].as_ref().expect_err("another reply").status, ExitStatus::Failed);
        assert_eq!(served.join().expect("served"), [request(), request(), request()]);
    }
}
