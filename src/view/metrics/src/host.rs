//! The series of the host.

use crate::{Gathered, Series, Sink, Value};
use bailiwick_types::{DurationCounts, HostMetrics, Moment, TenantState};
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType::{self, Counter, Gauge, Info};
use prometheus_client::registry::Unit::{self, Bytes, Seconds};
use std::fmt;

const fn series(
    name: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    help: &'static str,
    values: fn(&HostMetrics, &mut Sink<'_>) -> fmt::Result,
) -> Series<HostMetrics> {
    Series { name, help, unit, kind, values }
}

fn moment(moment: Option<Moment>) -> Option<Value> {
    moment.map(|moment| Value::Level(moment.0))
}

/// The families that come from `bailiwickd`, but for the starts of jails.
const HOST: &[Series<HostMetrics>] = &[
    series("build", None, Info, "The version of bailiwickd.", |host, to| to.put("version", &host.version, Value::Info)),
    series("start_time", Some(Seconds), Gauge, "When bailiwickd started, in seconds since 1970.", |host, to| {
        to.put_one(Value::Level(host.started.0))
    }),
    series("warden_up", None, Gauge, "Whether the warden answers: 1 or 0.", |host, to| {
        to.put_one(Value::Level(host.warden_up.into()))
    }),
    series("tenants", None, Gauge, "Tenants by state. Missing while the warden does not answer.", |host, to| {
        let Some(states) = &host.tenants else { return Ok(()) };
        TenantState::ALL
            .iter()
            .try_for_each(|state| to.put("state", state.word(), Value::Level(states.get(state).copied().unwrap_or(0))))
    }),
    series(
        "reserve_reached",
        None,
        Gauge,
        "Whether so little disk space is free that no tenant can take more: 1 or 0.",
        |host, to| to.put_one(host.reserve_reached.map(|is_reached| Value::Level(is_reached.into()))),
    ),
    series(
        "pool",
        Some(Bytes),
        Gauge,
        "Space of the file system of tenants' storage: its size, and what is free for users other than root.",
        |host, to| {
            to.put("kind", "size", host.pool.map(|pool| Value::Level(pool.size)))?;
            to.put("kind", "free", host.pool.map(|pool| Value::Level(pool.free)))
        },
    ),
    series(
        "history_last_write_timestamp",
        Some(Seconds),
        Gauge,
        "When the history was last written, in seconds since 1970. Missing before the first time since bailiwickd started.",
        |host, to| to.put_one(moment(host.history_written)),
    ),
    series(
        "audit_last_timestamp",
        Some(Seconds),
        Gauge,
        "When the last audit was logged, in seconds since 1970.",
        |host, to| to.put_one(moment(host.audited)),
    ),
    series("policy_problems", None, Gauge, "Problems of the operator's files.", |host, to| {
        to.put_one(Value::Level(host.policy_problems))
    }),
    series(
        "policy_last_read_timestamp",
        Some(Seconds),
        Gauge,
        "When the operator's files were last read, in seconds since 1970.",
        |host, to| to.put_one(Value::Level(host.policy_read.0)),
    ),
    series("sessions_refused", None, Counter, "Sessions that were refused since bailiwickd started.", |host, to| {
        to.put_one(Value::Sum(host.sessions_refused))
    }),
];

/// Writes the series of the host.
pub(crate) fn encode(gathered: &Gathered, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Whether bailiwickd answers whoever collects the metrics: 1 or 0.";
    let up = Value::Level(gathered.host.is_some().into());
    Sink { encoder: encoder.encode_descriptor("up", help, None, Gauge)?, tenant: None }.put_one(up)?;
    let help = "How long bailiwickd took to answer.";
    let took = Value::Fraction(gathered.took.as_secs_f64());
    let collect = encoder.encode_descriptor("collect_duration", help, Some(&Seconds), Gauge)?;
    Sink { encoder: collect, tenant: None }.put_one(took)?;
    let Some(host) = &gathered.host else { return Ok(()) };
    for series in HOST {
        let encoder = encoder.encode_descriptor(series.name, series.help, series.unit.as_ref(), series.kind)?;
        (series.values)(host, &mut Sink { encoder, tenant: None })?;
    }
    jail_starts(&host.jail_starts, encoder)
}

/// Writes how long starts of jails took.
fn jail_starts(counts: &DurationCounts, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "How long starts of jails took since bailiwickd started, from its request to the warden to the reply.";
    let mut starts = encoder.encode_descriptor("jail_start", help, Some(&Seconds), MetricType::Histogram)?;
    let bounds = DurationCounts::BOUNDS.iter().map(|millis| crate::seconds(millis * 1000)).chain([f64::MAX]);
    let counted = counts.buckets.iter().copied().chain(std::iter::repeat(0));
    let buckets: Vec<(f64, u64)> = bounds.zip(counted).collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    starts.encode_histogram::<NoLabelSet>(crate::seconds(counts.micros), count, &buckets, None)
}
