//! Floor 3: what is measured, as text for Prometheus: OpenMetrics, and the older format of the same.
//!
//! The text has base units. A label is a tenant's name or a word of a closed list, never a pid, a path or a session: each value
//! of a label is one more series for ever. A plan is only in `bailiwick_tenant_info`, so that a change of it ends no series.
//!
//! Danger: a value of a label that is not escaped could forge other series. The module `label` alone writes them.

mod classic;
mod host;
mod label;
mod tenant;

use bailiwick_types::{HostMetrics, TenantMetrics};
use label::Label;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What one collection gathered.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The host; `None` when `bailiwickd` did not answer.
    pub host: Option<Box<HostMetrics>>,
    /// The tenants.
    pub tenants: Vec<TenantMetrics>,
    /// How long `bailiwickd` took.
    pub took: Duration,
}

/// A format of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, version 0.0.4, which node_exporter reads from files.
    Classic,
}

impl Format {
    /// The type of the content in HTTP.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Writes what was gathered.
///
/// # Examples
/// ```
/// use bailiwick_metrics::{Format, Gathered, render};
///
/// let text = render(Gathered::default(), Format::Classic);
/// assert!(text.contains("\nbailiwick_up 0\n"));
/// ```
#[must_use]
pub fn render(gathered: Gathered, format: Format) -> String {
    /// About the length of what is written of a tenant.
    const OF_TENANT: usize = 1000;
    let mut written = String::with_capacity(8192 + OF_TENANT * gathered.tenants.len());
    let mut registry = Registry::with_prefix("bailiwick");
    registry.register_collector(Box::new(Collected(Arc::new(gathered))));
    text::encode(&mut written, &registry).expect("a text takes everything");
    match format {
        Format::OpenMetrics => written,
        Format::Classic => classic(&written),
    }
}

/// The same text in the older format.
#[must_use]
pub fn classic(open_metrics: &str) -> String {
    classic::of(open_metrics)
}

/// One family of series. The function gives each value with the labels beside the tenant.
pub(crate) struct Series<T> {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) unit: Option<Unit>,
    pub(crate) kind: MetricType,
    pub(crate) values: fn(&T, &mut Sink<'_>) -> fmt::Result,
}

/// A value of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    /// A sum that only grows.
    Sum(u64),
    /// The same in microseconds. It is written in seconds.
    SumOfMicros(u64),
    /// A level.
    Level(u64),
    /// A level that is no whole number.
    Fraction(f64),
    /// Nothing but the labels.
    Info,
}

/// Where the values of a family go.
pub(crate) struct Sink<'a> {
    encoder: MetricEncoder<'a>,
    /// The tenant whose values are written; `None` for those of the host.
    tenant: Option<&'a str>,
}

impl Sink<'_> {
    /// Writes a value with one label beside the tenant's name.
    pub(crate) fn put(&mut self, key: &'static str, word: &str, value: impl Into<Option<Value>>) -> fmt::Result {
        match (value.into(), self.tenant) {
            (None, _) => Ok(()),
            (Some(value), None) => write_value(&mut self.encoder, &[(key, Label(word))], value),
            (Some(value), Some(tenant)) => {
                write_value(&mut self.encoder, &[("tenant", Label(tenant)), (key, Label(word))], value)
            }
        }
    }

    /// Writes a value with two labels beside the tenant's name.
    pub(crate) fn put_two(&mut self, labels: [(&'static str, &str); 2], value: Value) -> fmt::Result {
        let tenant = self.tenant.unwrap_or_default();
        let [one, two] = labels.map(|(key, word)| (key, Label(word)));
        write_value(&mut self.encoder, &[("tenant", Label(tenant)), one, two], value)
    }

    /// Writes a value without another label.
    pub(crate) fn put_one(&mut self, value: impl Into<Option<Value>>) -> fmt::Result {
        match (value.into(), self.tenant) {
            (None, _) => Ok(()),
            (Some(value), None) => write_value(&mut self.encoder, &[], value),
            (Some(value), Some(tenant)) => write_value(&mut self.encoder, &[("tenant", Label(tenant))], value),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is lost after centuries of processor time")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1_000_000.0
}

fn write_value(encoder: &mut MetricEncoder<'_>, labels: &[(&'static str, Label<'_>)], value: Value) -> fmt::Result {
    match value {
        Value::Info => encoder.encode_info(&labels),
        value if labels.is_empty() => write_number(encoder, value),
        value => write_number(&mut encoder.encode_family(&labels)?, value),
    }
}

fn write_number(encoder: &mut MetricEncoder<'_>, value: Value) -> fmt::Result {
    match value {
        Value::Sum(sum) => encoder.encode_counter::<NoLabelSet, u64, f64>(&sum, None),
        Value::SumOfMicros(sum) => encoder.encode_counter::<NoLabelSet, f64, f64>(&seconds(sum), None),
        Value::Level(level) => encoder.encode_gauge(&i64::try_from(level).unwrap_or(i64::MAX)),
        Value::Fraction(level) => encoder.encode_gauge(&level),
        Value::Info => Ok(()),
    }
}

/// The collector of the library: it writes a family at a time.
#[derive(Debug)]
struct Collected(Arc<Gathered>);

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        host::encode(&self.0, &mut encoder)?;
        let told = &self.0.tenants;
        let has_more = told.iter().any(|tenant| tenant.more.is_some());
        let all = tenant::CORE.iter().chain(tenant::MORE.iter().filter(|_| has_more));
        for series in all.filter(|_| !told.is_empty()) {
            let encoder = encoder.encode_descriptor(series.name, series.help, series.unit.as_ref(), series.kind)?;
            let mut sink = Sink { encoder, tenant: None };
            for tenant in told {
                sink.tenant = Some(tenant.tenant.as_str());
                (series.values)(tenant, &mut sink)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::{
        Door, DurationCounts, Measure, MemoryKinds, Moment, MonthUse, NetworkTraffic, PoolSpace, RefusedPacket,
        ServiceCounts, Severity, TenantMore, TenantState, Traffic, Usage, Volume,
    };
    use std::collections::BTreeSet;

    fn host() -> Box<HostMetrics> {
        let mut jail_starts = DurationCounts::default();
        jail_starts.count(Duration::from_millis(40));
        jail_starts.count(Duration::from_secs(60));
        Box::new(HostMetrics {
            version: "0.1\"0\n\\".to_owned(),
            started: Moment(1_700_000_000),
            warden_up: true,
            tenants: Some([(TenantState::Running, 2), (TenantState::Down, 1)].into()),
            reserve_reached: Some(false),
            pool: Some(PoolSpace { size: 1 << 40, free: 5 }),
            history_written: Some(Moment(1_700_000_060)),
            audited: Some(Moment(1_700_000_001)),
            policy_problems: 3,
            policy_read: Moment(1_700_000_002),
            sessions_refused: 4,
            jail_starts,
            ..HostMetrics::default()
        })
    }

    fn tenant(name: &str) -> TenantMetrics {
        let number = |measure: Measure| (measure, 1_500_000 + measure as u64);
        let usage = Measure::ALL.into_iter().filter(|measure| !measure.is_traffic()).map(number).collect();
        let volume = |bytes| Volume { bytes, packets: bytes / 1000 };
        let traffic = |bytes| Traffic { sent: volume(bytes), received: volume(bytes + 1000) };
        TenantMetrics {
            tenant: name.parse().expect("a name"),
            plan: Some("small".parse().expect("a name")),
            usage: Usage(usage),
            memory: Some(MemoryKinds { anon: 1 << 20, kernel: 4096, file: 8192 }),
            more: Some(Box::new(TenantMore {
                sessions: [(Door::Ssh, 2), (Door::Sftp, 0)].into(),
                traffic: Some(NetworkTraffic { ipv4: traffic(2000), ipv6: traffic(9000) }),
                refused: [(RefusedPacket::NotAllowed, 7)].into(),
                month: Some(MonthUse { used: 11, volume: Some(12) }),
                quotas: [].into(),
                limits: Usage([(Measure::Cpu, 500_000), (Measure::Memory, 128 << 20), (Measure::Tasks, 64)].into()),
                faults: [("memory".to_owned(), 3)].into(),
                incidents: [("pressure-io".to_owned(), 1)].into(),
                findings: Some([(Severity::Notice, 1), (Severity::Warning, 0), (Severity::Critical, 0)].into()),
                services: Some(ServiceCounts { running: 2, failing: 1, declared: 4 }),
            })),
        }
    }

    fn gathered(tenants: Vec<TenantMetrics>) -> Gathered {
        Gathered { host: Some(host()), tenants, took: Duration::from_millis(250) }
    }

    #[test]
    fn everything_is_written_in_base_units_with_its_labels() {
        let text = render(gathered(vec![tenant("alice"), tenant("bob")]), Format::OpenMetrics);
        for line in [
            "# TYPE bailiwick_up gauge",
            "bailiwick_up 1",
            "bailiwick_collect_duration_seconds 0.25",
            r#"bailiwick_build_info{version="0.1\"0\n\\"} 1"#,
            "# UNIT bailiwick_start_time_seconds seconds",
            "bailiwick_start_time_seconds 1700000000",
            "bailiwick_warden_up 1",
            r#"bailiwick_tenants{state="running"} 2"#,
            r#"bailiwick_tenants{state="asleep"} 0"#,
            "bailiwick_reserve_reached 0",
            r#"bailiwick_pool_bytes{kind="size"} 1099511627776"#,
            "bailiwick_history_last_write_timestamp_seconds 1700000060",
            "bailiwick_audit_last_timestamp_seconds 1700000001",
            "bailiwick_policy_problems 3",
            "# TYPE bailiwick_sessions_refused counter",
            "bailiwick_sessions_refused_total 4",
            r#"bailiwick_jail_start_seconds_bucket{le="0.05"} 1"#,
            r#"bailiwick_jail_start_seconds_bucket{le="30.0"} 1"#,
            r#"bailiwick_jail_start_seconds_bucket{le="+Inf"} 2"#,
            "bailiwick_jail_start_seconds_sum 60.04",
            "bailiwick_jail_start_seconds_count 2",
            r#"bailiwick_tenant_info{tenant="alice",plan="small"} 1"#,
            r#"bailiwick_tenant_cpu_seconds_total{tenant="alice"} 1.5"#,
            r#"bailiwick_tenant_cpu_throttled_seconds_total{tenant="bob"} 1.500001"#,
            r#"bailiwick_tenant_memory_bytes{tenant="alice",kind="anon"} 1048576"#,
            r#"bailiwick_tenant_io_bytes_total{tenant="alice",direction="read"} 1500005"#,
            r#"bailiwick_tenant_limit{tenant="alice",resource="cpu"} 0.5"#,
            r#"bailiwick_tenant_limit{tenant="alice",resource="memory"} 134217728"#,
            r#"bailiwick_tenant_sessions{tenant="alice",door="ssh"} 2"#,
            r#"bailiwick_tenant_faults_total{tenant="alice",limit="memory"} 3"#,
            r#"bailiwick_tenant_incidents_total{tenant="bob",kind="pressure-io"} 1"#,
            r#"bailiwick_tenant_findings{tenant="alice",severity="notice"} 1"#,
            r#"bailiwick_tenant_services{tenant="alice",state="other"} 1"#,
            r#"bailiwick_network_bytes_total{tenant="alice",direction="received",family="ipv6"} 10000"#,
            r#"bailiwick_network_packets_total{tenant="alice",direction="sent",family="ipv4"} 2"#,
            r#"bailiwick_network_refused_packets_total{tenant="alice",reason="not-allowed"} 7"#,
            r#"bailiwick_network_month_bytes{tenant="alice"} 11"#,
            r#"bailiwick_network_month_limit_bytes{tenant="alice"} 12"#,
        ] {
            assert!(text.lines().any(|written| written == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n"));
        assert!(!text.contains("{}"), "a sample without a label has no braces");
    }

    /// The lines of samples, without their values.
    fn series_of(text: &str) -> Vec<&str> {
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.rsplit_once(' ').expect("a value").0)
            .collect()
    }

    #[test]
    fn both_formats_have_the_same_samples_and_no_series_comes_twice() {
        let open = render(gathered(vec![tenant("alice"), tenant("bob")]), Format::OpenMetrics);
        let old = render(gathered(vec![tenant("alice"), tenant("bob")]), Format::Classic);
        assert_eq!(series_of(&open), series_of(&old));
        assert_eq!(series_of(&open).iter().collect::<BTreeSet<_>>().len(), series_of(&open).len());
        let heads = |text: &str| text.lines().filter(|line| line.starts_with("# TYPE ")).count();
        assert_eq!(heads(&open), heads(&old));
        assert!(!old.contains("# EOF") && !old.contains("# UNIT") && old.contains("_total counter\n"));
    }

    #[test]
    fn without_an_answer_only_that_is_told() {
        let text = render(Gathered::default(), Format::OpenMetrics);
        assert_eq!(series_of(&text), ["bailiwick_up", "bailiwick_collect_duration_seconds"]);
        assert!(text.contains("\nbailiwick_up 0\n"));
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        let bare = TenantMetrics {
            plan: None,
            usage: Usage::default(),
            memory: None,
            more: Some(Box::default()),
            ..tenant("alice")
        };
        let unknown =
            Box::new(HostMetrics { tenants: None, reserve_reached: None, pool: None, ..HostMetrics::default() });
        let gathered = Gathered { host: Some(unknown), tenants: vec![bare], took: Duration::ZERO };
        let text = render(gathered, Format::Classic);
        let told = series_of(&text).into_iter().filter(|series| series.contains("tenant"));
        assert_eq!(told.collect::<Vec<_>>(), [r#"bailiwick_tenant_info{tenant="alice",plan=""}"#]);
        let unknown = |series: &&str| series.contains("reserve_reached") || series.contains("pool_bytes");
        assert_eq!(series_of(&text).iter().find(|series| unknown(series)), None);
    }

    /// Prints how large the text of 10,000 tenants is and how long it takes; `benches/run` measures the whole way.
    #[test]
    fn ten_thousand_tenants_are_written() {
        for has_more in [false, true] {
            let mut all: Vec<TenantMetrics> = (0..10_000).map(|number| tenant(&format!("t{number:05}"))).collect();
            if !has_more {
                all.iter_mut().for_each(|tenant| tenant.more = None);
            }
            let begun = std::time::Instant::now();
            let text = render(gathered(all), Format::OpenMetrics);
            let series = series_of(&text).len();
            println!("{} bytes, {series} series, {:?}", text.len(), begun.elapsed());
            assert!(series > 100_000 && text.lines().filter(|line| line.contains("\"t09999\"")).count() >= 10);
        }
    }
}
