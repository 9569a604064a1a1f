//! Decides why a tenant waits: because of itself or because of a neighbour. Pure.
//!
//! The kernel counts how long processes of a group waited, but not because of whom. Waiting that the group's own limit
//! caused is the tenant's own. The rest is divided by usage: a tenant that used three quarters of a resource caused
//! three quarters of the others' waiting.

use bailiwick_types::{Measure, PressureShare, Resource, TenantName, Usage};
use std::collections::BTreeMap;

/// Each resource with the measure of waiting for it and the measures of its usage.
const RESOURCES: [(Resource, Measure, &[Measure]); 3] = [
    (Resource::Cpu, Measure::CpuPressure, &[Measure::Cpu]),
    (Resource::Memory, Measure::MemoryPressure, &[Measure::Memory]),
    (Resource::Io, Measure::IoPressure, &[Measure::IoRead, Measure::IoWrite]),
];

/// The usage in a span of time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) seconds: u64,
    /// The usage of each running tenant.
    pub(crate) used: BTreeMap<TenantName, Usage>,
    /// The busy time of the whole machine's processors, in microseconds. What no tenant used is the host's.
    pub(crate) busy: u64,
}

impl Span {
    /// The processor time that no tenant used.
    fn host_cpu(&self) -> u64 {
        let tenants = self.used.values().filter_map(|usage| usage.get(Measure::Cpu)).sum();
        self.busy.saturating_sub(tenants)
    }
}

/// Divides a tenant's waiting, for each resource.
pub(crate) fn split(tenant: &TenantName, span: &Span, bounds: &Usage) -> Vec<PressureShare> {
    let (used, seconds) = (&span.used, span.seconds);
    let Some(own_use) = used.get(tenant) else { return Vec::new() };
    let share = |(resource, waited, measures): (Resource, Measure, &[Measure])| {
        let waited = own_use.get(waited).filter(|waited| *waited > 0)?;
        let held = match resource {
            // The kernel's waiting time includes the time that the group's own limit held it back.
            Resource::Cpu => own_use.get(Measure::Throttled).unwrap_or(0).min(waited),
            // A tenant near its own limit waits because of itself: for its own pages, or for its own rate.
            _ if measures.iter().any(|measure| is_at_bound(own_use, bounds, *measure, seconds)) => waited,
            _ => 0,
        };
        let use_of = |usage: &Usage| measures.iter().filter_map(|measure| usage.get(*measure)).sum::<u64>();
        let host_use = if resource == Resource::Cpu { span.host_cpu() } else { 0 };
        let neighbours = || used.iter().filter(|(name, usage)| *name != tenant && use_of(usage) > 0);
        let theirs = neighbours().map(|(_, usage)| use_of(usage)).fold(host_use, u64::saturating_add);
        let others = portion(waited - held, theirs, theirs.saturating_add(use_of(own_use)));
        let neighbour = neighbours()
            .max_by_key(|(_, usage)| use_of(usage))
            .filter(|(_, usage)| others > 0 && use_of(usage) >= host_use)
            .map(|(name, _)| name.clone());
        let host = others > 0 && neighbour.is_none();
        Some(PressureShare { resource, own: waited - others, others, neighbour, host })
    };
    RESOURCES.into_iter().filter_map(share).collect()
}

/// `amount * part / whole`; 0 if `whole` is 0.
fn portion(amount: u64, part: u64, whole: u64) -> u64 {
    let portion = u128::from(amount) * u128::from(part) / u128::from(whole).max(1);
    u64::try_from(portion).unwrap_or(amount)
}

fn is_at_bound(usage: &Usage, bounds: &Usage, measure: Measure, seconds: u64) -> bool {
    let (Some(used), Some(bound)) = (usage.get(measure), bounds.get(measure)) else { return false };
    let most = match measure.kind() {
        bailiwick_types::Kind::Sum => bound.saturating_mul(seconds),
        bailiwick_types::Kind::Level => bound,
    };
    used >= most / 10 * 9
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::{Bound, ByteSize, CpuShare, Limits};

    fn name(text: &str) -> TenantName {
        text.parse().expect("a name")
    }

    fn span(seconds: u64, busy: u64, rows: &[(&str, &[(Measure, u64)])]) -> Span {
        let used = rows.iter().map(|(tenant, values)| (name(tenant), Usage(values.iter().copied().collect())));
        Span { seconds, busy, used: used.collect() }
    }

    fn cpu(own: u64, others: u64, neighbour: Option<&str>) -> Vec<PressureShare> {
        let host = others > 0 && neighbour.is_none();
        vec![PressureShare { resource: Resource::Cpu, own, others, neighbour: neighbour.map(name), host }]
    }

    #[test]
    fn what_the_own_limit_does_is_told_from_what_neighbours_do() {
        let limits =
            Limits { cpu: Bound::At(CpuShare(50_000)), io_read: Bound::At(ByteSize(1 << 20)), ..Limits::default() };
        let bounds = Usage::bounds(&limits);
        assert_eq!(bounds.get(Measure::Cpu), Some(500_000));
        let all = span(
            60,
            0,
            &[
                ("victim", &[(Measure::CpuPressure, 900), (Measure::Throttled, 300), (Measure::Cpu, 2000)]),
                ("small", &[(Measure::Cpu, 1000)]),
                ("loud", &[(Measure::Cpu, 3000), (Measure::IoWrite, 10)]),
                ("slow", &[(Measure::IoPressure, 80), (Measure::IoRead, 59 << 20), (Measure::IoWrite, 0)]),
                ("waits", &[(Measure::IoPressure, 60), (Measure::IoRead, 1 << 20)]),
            ],
        );
        // The own part is the throttled time and a third of the rest, since the tenant used a third of the processors.
        assert_eq!(split(&name("victim"), &all, &bounds), cpu(500, 400, Some("loud")));
        // This tenant is at its own rate of 60 MiB in a minute, so it waits because of itself.
        let slow = PressureShare { resource: Resource::Io, own: 80, others: 0, neighbour: None, host: false };
        assert_eq!(split(&name("slow"), &all, &bounds), [slow]);
        let waits =
            PressureShare { resource: Resource::Io, own: 1, others: 59, neighbour: Some(name("slow")), host: false };
        assert_eq!(split(&name("waits"), &all, &bounds), [waits]);
        assert_eq!(split(&name("small"), &all, &bounds), []);
        assert_eq!(split(&name("gone"), &all, &bounds), []);
    }

    #[test]
    fn who_is_alone_waits_for_itself_or_for_the_host() {
        let rows: &[(&str, &[(Measure, u64)])] = &[("a", &[(Measure::CpuPressure, 100), (Measure::Cpu, 50)])];
        assert_eq!(split(&name("a"), &span(1, 50, rows), &Usage::default()), cpu(100, 0, None));
        assert_eq!(split(&name("a"), &span(1, 200, rows), &Usage::default()), cpu(25, 75, None));
        let rows: &[(&str, &[(Measure, u64)])] =
            &[("a", &[(Measure::CpuPressure, 100), (Measure::Cpu, 50)]), ("b", &[(Measure::Cpu, 50)])];
        assert_eq!(split(&name("a"), &span(1, 100, rows), &Usage::default()), cpu(50, 50, Some("b")));
        assert_eq!(split(&name("a"), &span(1, 250, rows), &Usage::default()), cpu(20, 80, None));
    }

    #[test]
    fn throttled_for_longer_than_it_waited_is_all_its_own() {
        let rows: &[(&str, &[(Measure, u64)])] =
            &[("a", &[(Measure::CpuPressure, 10), (Measure::Throttled, 90)]), ("b", &[(Measure::Cpu, 5)])];
        assert_eq!(split(&name("a"), &span(1, 5, rows), &Usage::default()), cpu(10, 0, None));
    }

    #[test]
    fn no_amount_is_too_large() {
        assert_eq!(portion(u64::MAX, u64::MAX, u64::MAX), u64::MAX);
        assert_eq!(portion(u64::MAX, 1, 0), u64::MAX);
        assert_eq!(portion(7, 0, 0), 0);
    }
}
