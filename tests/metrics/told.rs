//! What is told of real jails.

use crate::exporter::{Exporter, check, value};
use crate::{host, source};
use bailiwick_tests::{Host, until};
use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

/// The families of a text in the older format.
fn families(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

/// The names of our series in a file.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let found = text.match_indices("bailiwick_").map(|(at, _)| {
        let rest = &text[at..];
        rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())].to_owned()
    });
    found.collect()
}

#[test]
fn a_scrape_tells_what_jails_use_and_how_the_host_is() {
    let mut host = host("all");
    host.start();
    host.ok(&["stop", "bob"]);
    let exporter = Exporter::start(&host);
    host.inside("alice", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done");
    let mut text = String::new();
    let is_there = |text: &str, series: &str| value(text, series).is_some_and(|value| value > 0.0);
    until("alice's processor time is told", || {
        text = exporter.metrics("").text();
        is_there(&text, "bailiwick_tenant_cpu_seconds_total{tenant=\"alice\"}")
    });
    for series in [
        "bailiwick_up",
        "bailiwick_warden_up",
        "bailiwick_start_time_seconds",
        "bailiwick_tenants{state=\"running\"}",
        "bailiwick_tenants{state=\"stopped\"}",
        "bailiwick_pool_bytes{kind=\"size\"}",
        "bailiwick_pool_bytes{kind=\"free\"}",
        "bailiwick_policy_last_read_timestamp_seconds",
        "bailiwick_jail_start_seconds_count",
        "bailiwick_tenant_info{tenant=\"alice\",plan=\"web\"}",
        "bailiwick_tenant_info{tenant=\"bob\",plan=\"web\"}",
        "bailiwick_tenant_memory_bytes{tenant=\"alice\",kind=\"anon\"}",
        "bailiwick_tenant_tasks{tenant=\"alice\"}",
        "bailiwick_tenant_limit{tenant=\"alice\",resource=\"memory\"}",
        "bailiwick_tenant_limit{tenant=\"bob\",resource=\"tasks\"}",
    ] {
        assert!(is_there(&text, series), "{series} is not in\n{text}");
    }
    assert_eq!(value(&text, "bailiwick_tenant_limit{tenant=\"alice\",resource=\"memory\"}"), Some(134_217_728.0));
    assert_eq!(value(&text, "bailiwick_policy_problems"), Some(0.0));
    assert_eq!(value(&text, "bailiwick_tenant_tasks{tenant=\"bob\"}"), None, "nothing of bob's runs");

    // A session, and what an audit found, are told soon after.
    let mut session = host.command(&["exec", "alice", "--", "cat"]);
    let mut session = session.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("runs");
    assert_eq!(value(&text, "bailiwick_audit_last_timestamp_seconds"), None, "no audit yet");
    let audit = host.cli(&["audit", "alice"]);
    assert!(audit.status.code().is_some_and(|code| [0, 10].contains(&code)), "{audit:?}");
    until("session and audit are told", || {
        text = exporter.metrics("").text();
        is_there(&text, "bailiwick_tenant_sessions{tenant=\"alice\",door=\"exec\"}")
            && is_there(&text, "bailiwick_audit_last_timestamp_seconds")
            && value(&text, "bailiwick_tenant_findings{tenant=\"alice\",severity=\"critical\"}").is_some()
    });
    drop(session.stdin.take());
    session.wait().expect("ends");
    until("the session has ended", || {
        let text = exporter.metrics("").text();
        value(&text, "bailiwick_tenant_sessions{tenant=\"alice\",door=\"exec\"}") == Some(0.0)
    });

    // The older format passes the checker of Prometheus, from the exporter and from the command.
    check(&text, &host.path(""));
    let printed = host.ok(&["metrics"]);
    check(&printed, &host.path(""));
    assert_eq!(families(&printed), families(&text));
    // Every series that dashboards and alerts name is there.
    for file in ["config/prometheus/alerts.yml", "config/grafana/host.json", "config/grafana/tenant.json"] {
        let content = std::fs::read_to_string(source(file)).expect("reads");
        let named = names(&content);
        assert!(named.len() > 10, "{file}");
        for name in named.iter().map(|name| name.trim_end_matches("_bucket")) {
            assert!(families(&text).contains(name), "{file} names {name}, which nobody tells");
        }
    }
    let page = std::fs::read_to_string(source("docs/metrics.md")).expect("reads");
    for family in families(&text) {
        assert!(page.contains(&format!("`{family}")), "docs/metrics.md does not have {family}");
    }
}

#[test]
fn the_forms_are_those_that_a_client_accepts() {
    let mut host = host("core");
    host.start();
    let exporter = Exporter::start(&host);
    let open = exporter.metrics("accept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n");
    assert!(open.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", open.head);
    assert!(open.text().ends_with("\n# EOF\n"));
    let old = exporter.metrics("");
    assert!(old.head.contains("content-type: text/plain; version=0.0.4"), "{}", old.head);
    let short = exporter.metrics("accept-encoding: gzip\r\n");
    assert!(short.head.contains("content-encoding: gzip"), "{}", short.head);
    let mut gzip = Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("runs");
    gzip.stdin.take().expect("a pipe").write_all(&short.body).expect("writes");
    let unzipped = String::from_utf8(gzip.wait_with_output().expect("ends").stdout).expect("text");
    assert_eq!(families(&unzipped), families(&old.text()));
    // The core has nothing of sessions and the network.
    assert!(families(&unzipped).contains("bailiwick_tenant_tasks"));
    assert!(!families(&unzipped).iter().any(|name| name.contains("network") || *name == "bailiwick_tenant_sessions"));
    let printed = host.ok(&["metrics", "--openmetrics", "--tenants", "none"]);
    assert!(printed.ends_with("\n# EOF\n") && !printed.contains("bailiwick_tenant_"), "{printed}");
}

#[test]
fn without_bailiwickd_that_is_told_until_it_answers_again() {
    let mut host = host("core");
    host.start();
    let exporter = Exporter::start(&host);
    let up = || value(&exporter.metrics("").text(), "bailiwick_up");
    until("it is up", || up() == Some(1.0));
    // The file of the textfile collector says the same.
    let file = host.path("bailiwick.prom");
    let write = |host: &Host| host.cli(&["metrics", "--textfile", file.to_str().expect("plain")]).status.code();
    let written = || std::fs::read_to_string(&file).expect("reads");
    assert_eq!(write(&host), Some(0));
    check(&written(), &host.path(""));
    assert_eq!(value(&written(), "bailiwick_up"), Some(1.0));
    host.end();
    until("it is down", || up() == Some(0.0));
    assert_eq!(write(&host), Some(1));
    assert_eq!(value(&written(), "bailiwick_up"), Some(0.0));
    check(&written(), &host.path(""));
    host.start();
    until("it is up again", || up() == Some(1.0));
    let log = exporter.log();
    assert!(log.contains("there are no metrics: bailiwickd does not answer") && log.contains("answers again"), "{log}");
}
