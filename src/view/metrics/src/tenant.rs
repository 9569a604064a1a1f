//! The series of tenants: one table for what is always told of them, and one for what is told when everything is.

use crate::{Series, Sink, Value};
use bailiwick_types::{Kind, Measure, NetworkTraffic, TenantMetrics, TenantMore, Traffic, Unit as Measured, Volume};
use prometheus_client::metrics::MetricType::{self, Counter, Gauge, Info};
use prometheus_client::registry::Unit::{self, Bytes, Seconds};
use std::fmt;

const fn series(
    name: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    help: &'static str,
    values: fn(&TenantMetrics, &mut Sink<'_>) -> fmt::Result,
) -> Series<TenantMetrics> {
    Series { name, help, unit, kind, values }
}

/// A measure as it is counted: a sum or a level, in its base unit.
fn value(tenant: &TenantMetrics, measure: Measure) -> Option<Value> {
    let number = tenant.usage.get(measure)?;
    Some(match (measure.kind(), measure.unit()) {
        (Kind::Sum, Measured::Microseconds) => Value::SumOfMicros(number),
        (Kind::Sum, _) => Value::Sum(number),
        (Kind::Level, _) => Value::Level(number),
    })
}

/// A limit in its base unit.
fn limit(measure: Measure, number: u64) -> Value {
    match measure.unit() {
        Measured::Microseconds => Value::Fraction(crate::seconds(number)),
        Measured::Bytes | Measured::Count => Value::Level(number),
    }
}

/// What is always told of a tenant.
pub(crate) const CORE: &[Series<TenantMetrics>] = &[
    series(
        "tenant",
        None,
        Info,
        "Tenants, with their plans. A tenant that no file declares has none.",
        |tenant, to| {
            let plan = tenant.plan.as_ref().map(ToString::to_string).unwrap_or_default();
            to.put("plan", &plan, Value::Info)
        },
    ),
    series("tenant_cpu", Some(Seconds), Counter, "Processor time since the jail was started.", |tenant, to| {
        to.put_one(value(tenant, Measure::Cpu))
    }),
    series(
        "tenant_cpu_throttled",
        Some(Seconds),
        Counter,
        "Time for which processes were held back by the limit of processor time.",
        |tenant, to| to.put_one(value(tenant, Measure::Throttled)),
    ),
    series(
        "tenant_memory",
        Some(Bytes),
        Gauge,
        "Memory by what it is used for: of processes, of the kernel, and contents of files.",
        |tenant, to| {
            let Some(memory) = tenant.memory else { return Ok(()) };
            to.put("kind", "anon", Value::Level(memory.anon))?;
            to.put("kind", "kernel", Value::Level(memory.kernel))?;
            to.put("kind", "file", Value::Level(memory.file))
        },
    ),
    series("tenant_swap", Some(Bytes), Gauge, "Swap space.", |tenant, to| to.put_one(value(tenant, Measure::Swap))),
    series("tenant_tasks", None, Gauge, "Processes and threads.", |tenant, to| {
        to.put_one(value(tenant, Measure::Tasks))
    }),
    series("tenant_disk", Some(Bytes), Gauge, "Disk space.", |tenant, to| to.put_one(value(tenant, Measure::Disk))),
    series("tenant_inodes", None, Gauge, "Files on disk.", |tenant, to| to.put_one(value(tenant, Measure::Inodes))),
];

/// The rest of a tenant, if it is told.
fn more(tenant: &TenantMetrics) -> &TenantMore {
    static NOTHING: std::sync::LazyLock<TenantMore> = std::sync::LazyLock::new(TenantMore::default);
    tenant.more.as_deref().unwrap_or(&NOTHING)
}

/// Writes a measure for reading and one for writing.
fn both(tenant: &TenantMetrics, to: &mut Sink<'_>, read: Measure, write: Measure) -> fmt::Result {
    to.put("direction", "read", value(tenant, read))?;
    to.put("direction", "write", value(tenant, write))
}

/// Writes what a tenant has sent and received, by version of IP.
fn traffic(tenant: &TenantMetrics, to: &mut Sink<'_>, of: fn(Volume) -> u64) -> fmt::Result {
    let Some(NetworkTraffic { ipv4, ipv6 }) = more(tenant).traffic else { return Ok(()) };
    for (family, Traffic { sent, received }) in [("ipv4", ipv4), ("ipv6", ipv6)] {
        to.put_two([("direction", "sent"), ("family", family)], Value::Sum(of(sent)))?;
        to.put_two([("direction", "received"), ("family", family)], Value::Sum(of(received)))?;
    }
    Ok(())
}

/// What is told of a tenant when everything is.
pub(crate) const MORE: &[Series<TenantMetrics>] = &[
    series(
        "tenant_memory_used",
        Some(Bytes),
        Gauge,
        "Memory that the kernel cannot take back: without page cache. The limit of memory holds for it and the page cache.",
        |tenant, to| to.put_one(value(tenant, Measure::MemoryUsed)),
    ),
    series("tenant_io", Some(Bytes), Counter, "Bytes read from and written to block devices.", |tenant, to| {
        both(tenant, to, Measure::IoRead, Measure::IoWrite)
    }),
    series("tenant_io_operations", None, Counter, "Operations of block devices.", |tenant, to| {
        both(tenant, to, Measure::IopsRead, Measure::IopsWrite)
    }),
    series(
        "tenant_pressure",
        Some(Seconds),
        Counter,
        "Time for which some process waited for a resource.",
        |tenant, to| {
            to.put("resource", "cpu", value(tenant, Measure::CpuPressure))?;
            to.put("resource", "memory", value(tenant, Measure::MemoryPressure))?;
            to.put("resource", "io", value(tenant, Measure::IoPressure))
        },
    ),
    series("tenant_sessions", None, Gauge, "Open sessions by door.", |tenant, to| {
        more(tenant)
            .sessions
            .iter()
            .try_for_each(|(door, count)| to.put("door", &door.to_string(), Value::Level(*count)))
    }),
    series(
        "tenant_limit",
        None,
        Gauge,
        "Hard limits, in bytes, seconds or numbers; of what is counted over time, for one second.",
        |tenant, to| {
            let limits = &more(tenant).limits.0;
            limits.iter().try_for_each(|(measure, bound)| to.put("resource", measure.word(), limit(*measure, *bound)))
        },
    ),
    series("tenant_faults", None, Counter, "Hits of limits since bailiwickd started.", |tenant, to| {
        more(tenant).faults.iter().try_for_each(|(word, count)| to.put("limit", word, Value::Sum(*count)))
    }),
    series("tenant_incidents", None, Counter, "Incidents that began since bailiwickd started.", |tenant, to| {
        more(tenant).incidents.iter().try_for_each(|(kind, count)| to.put("kind", kind, Value::Sum(*count)))
    }),
    series(
        "tenant_findings",
        None,
        Gauge,
        "Findings of the last audit. Missing before the first since bailiwickd started.",
        |tenant, to| {
            let findings = more(tenant).findings.iter().flatten();
            findings
                .into_iter()
                .try_for_each(|(severity, count)| to.put("severity", severity.word(), Value::Level(*count)))
        },
    ),
    series("tenant_services", None, Gauge, "Declared services by state, as init last reported.", |tenant, to| {
        let Some(services) = more(tenant).services else { return Ok(()) };
        let others = services.declared.saturating_sub(services.running.saturating_add(services.failing));
        to.put("state", "running", Value::Level(services.running))?;
        to.put("state", "failing", Value::Level(services.failing))?;
        to.put("state", "other", Value::Level(others))
    }),
    series(
        "network",
        Some(Bytes),
        Counter,
        "Bytes sent and received over the network, with the headers of IP, since the router was made.",
        |tenant, to| traffic(tenant, to, |volume| volume.bytes),
    ),
    series(
        "network_packets",
        None,
        Counter,
        "Packets sent and received over the network since the router was made.",
        |tenant, to| traffic(tenant, to, |volume| volume.packets),
    ),
    series(
        "network_refused_packets",
        None,
        Counter,
        "Packets that the router has refused, by reason.",
        |tenant, to| {
            more(tenant)
                .refused
                .iter()
                .try_for_each(|(reason, count)| to.put("reason", reason.word(), Value::Sum(*count)))
        },
    ),
    series("network_month", Some(Bytes), Gauge, "What counts against the volume of this month.", |tenant, to| {
        to.put_one(more(tenant).month.map(|month| Value::Level(month.used)))
    }),
    series("network_month_limit", Some(Bytes), Gauge, "The volume of a month, of tenants with one.", |tenant, to| {
        to.put_one(more(tenant).month.and_then(|month| month.volume).map(Value::Level))
    }),
];
