//! Debian's Prometheus scrapes a real host, and understands every rule and every dashboard.

use crate::exporter::{Answer, Exporter};
use crate::{host, source};
use bailiwick_tests::until;
use serde_json::Value;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(source(""))
        .output()
        .expect("promtool runs: see tests/deps");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn the_rules_are_valid_and_fire_when_they_should() {
    promtool(&["check", "rules", "config/prometheus/alerts.yml"]);
    promtool(&["check", "config", "--syntax-only", "config/prometheus/scrape.yml"]);
    promtool(&["test", "rules", "tests/metrics/alerts.test.yml"]);
    // Each alert has a case in which it fires, and one in which it does not.
    let rules = std::fs::read_to_string(source("config/prometheus/alerts.yml")).expect("reads");
    let cases = std::fs::read_to_string(source("tests/metrics/alerts.test.yml")).expect("reads");
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let of_it: Vec<&str> = cases.split(&format!("alertname: {alert}\n")).skip(1).collect();
        let silent = of_it.iter().filter(|case| case.trim_start().starts_with("exp_alerts: []")).count();
        assert!(silent > 0 && of_it.len() > silent, "{alert} has no two cases");
    }
}

/// A running Prometheus, until this is dropped.
struct Prometheus {
    child: Child,
    port: u16,
}

impl Prometheus {
    fn start(folder: &Path, target: &str) -> Self {
        let rules = source("config/prometheus/alerts.yml");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{:?}]\nscrape_configs:\n\
             - {{job_name: bailiwick, static_configs: [{{targets: [{target:?}]}}]}}\n",
            rules.display().to_string(),
        );
        std::fs::write(folder.join("prometheus.yml"), config).expect("writes");
        // The port is free a moment before.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let log = std::fs::File::create(folder.join("prometheus.log")).expect("a log");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("dup"))
            .stderr(log)
            .spawn()
            .expect("prometheus runs: see tests/deps");
        Self { child, port }
    }

    /// Asks its interface; `None` while it gives no answer.
    fn ask(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        // An answer to the older version of HTTP comes in one piece.
        stream.write_all(format!("GET /api/v1/{path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
        serde_json::from_slice(&Answer::read(&mut stream).ok()?.body).ok()
    }

    /// The first value of an expression.
    fn value(&self, expression: &str) -> Option<String> {
        let answer = self.ask(&format!("query?query={}", encoded(expression)))?;
        Some(answer["data"]["result"][0]["value"][1].as_str()?.to_owned())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A text as a part of an address.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// All texts of these keys, wherever they are.
fn texts<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get(key).and_then(Value::as_str));
            fields.values().for_each(|value| texts(value, key, found));
        }
        Value::Array(items) => items.iter().for_each(|value| texts(value, key, found)),
        _ => {}
    }
}

#[test]
fn a_real_prometheus_scrapes_it_and_can_draw_every_dashboard() {
    let mut host = host("all");
    host.start();
    let exporter = Exporter::start(&host);
    let prometheus = Prometheus::start(&host.path(""), &exporter.address.to_string());
    until("it has scraped", || prometheus.value("bailiwick_up").as_deref() == Some("1"));
    until("both tenants are there", || prometheus.value("count(bailiwick_tenant_info)").as_deref() == Some("2"));
    let sees = |expression: &str| prometheus.value(expression).is_some();
    until("a reading of a jail is there", || sees("bailiwick_tenant_cpu_seconds_total{tenant=\"alice\"} > 0"));
    assert!(sees("bailiwick_jail_start_seconds_bucket{le=\"+Inf\"}"));
    let targets = prometheus.ask("targets").expect("an answer");
    let target = &targets["data"]["activeTargets"][0];
    assert_eq!((target["health"].as_str(), target["lastError"].as_str()), (Some("up"), Some("")), "{target}");
    // The rules are evaluated without an error.
    until("each rule was evaluated", || {
        let rules = prometheus.ask("rules").expect("an answer");
        let mut health = Vec::new();
        texts(&rules, "health", &mut health);
        assert!(!health.contains(&"err"), "{rules}");
        health.len() > 15 && health.iter().all(|health| *health == "ok")
    });
    for dashboard in ["host", "tenant"] {
        let text = std::fs::read_to_string(source(&format!("config/grafana/{dashboard}.json"))).expect("reads");
        let dashboard: Value = serde_json::from_str(&text).expect("JSON");
        let mut expressions = Vec::new();
        texts(&dashboard, "expr", &mut expressions);
        assert!(expressions.len() > 15, "{}", expressions.len());
        for expression in expressions {
            let expression = expression
                .replace("$__rate_interval", "1m")
                .replace("$instance", &exporter.address.to_string())
                .replace("$tenant", "alice");
            let answer = prometheus.ask(&format!("query?query={}", encoded(&expression))).expect("an answer");
            assert_eq!(answer["status"].as_str(), Some("success"), "{expression}: {answer}");
        }
    }
}
