//! Whose fault it is that a tenant waits: its own limit, or a neighbour. Pure.

use bailiwick_types::{Measure, PressureShare, TenantName, Usage};
use std::collections::BTreeMap;

/// A resource, the measure of waiting for it, and the measures of its use.
const RESOURCES: [(&str, Measure, &[Measure]); 3] = [
    ("cpu", Measure::CpuPressure, &[Measure::Cpu]),
    ("memory", Measure::MemoryPressure, &[Measure::Memory]),
    ("io", Measure::IoPressure, &[Measure::IoRead, Measure::IoWrite]),
];

/// How a tenant's waiting is split, resource by resource, from what all used in a span of so many seconds.
pub(crate) fn split(
    tenant: &TenantName,
    used: &BTreeMap<TenantName, Usage>,
    bounds: &Usage,
    seconds: u64,
) -> Vec<PressureShare> {
    let Some(own_use) = used.get(tenant) else { return Vec::new() };
    let share = |(resource, waited, measures): (&str, Measure, &[Measure])| {
        let waited = own_use.get(waited).filter(|waited| *waited > 0)?;
        let own = match resource {
            // The kernel counts who is held back by its own limit among those who wait.
            "cpu" => own_use.get(Measure::Throttled).unwrap_or(0).min(waited),
            // Near its own bound a tenant waits for itself: for its own pages, or for its own rate.
            _ if measures.iter().any(|measure| is_at_bound(own_use, bounds, *measure, seconds)) => waited,
            _ => 0,
        };
        let others = waited - own;
        let use_of = |usage: &Usage| measures.iter().filter_map(|measure| usage.get(*measure)).sum::<u64>();
        let neighbour = used
            .iter()
            .filter(|(name, usage)| *name != tenant && use_of(usage) > 0)
            .max_by_key(|(_, usage)| use_of(usage))
            .map(|(name, _)| name.clone());
        let neighbour = if others > 0 { neighbour } else { None };
        Some(PressureShare { resource: resource.to_owned(), own, others, neighbour })
    };
    RESOURCES.into_iter().filter_map(share).collect()
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

    fn used(rows: &[(&str, &[(Measure, u64)])]) -> BTreeMap<TenantName, Usage> {
        rows.iter().map(|(tenant, values)| (name(tenant), Usage(values.iter().copied().collect()))).collect()
    }

    #[test]
    fn what_the_own_limit_does_is_told_from_what_neighbours_do() {
        let limits =
            Limits { cpu: Bound::At(CpuShare(50_000)), io_read: Bound::At(ByteSize(1 << 20)), ..Limits::default() };
        let bounds = Usage::bounds(&limits);
        assert_eq!(bounds.get(Measure::Cpu), Some(500_000));
        let all = used(&[
            ("victim", &[(Measure::CpuPressure, 900), (Measure::Throttled, 300), (Measure::Cpu, 5)]),
            ("small", &[(Measure::Cpu, 10)]),
            ("loud", &[(Measure::Cpu, 7000), (Measure::IoWrite, 10)]),
            ("slow", &[(Measure::IoPressure, 80), (Measure::IoRead, 59 << 20), (Measure::IoWrite, 0)]),
            ("waits", &[(Measure::IoPressure, 80), (Measure::IoRead, 1 << 20)]),
        ]);
        let shares = split(&name("victim"), &all, &bounds, 60);
        let cpu = PressureShare { resource: "cpu".into(), own: 300, others: 600, neighbour: Some(name("loud")) };
        assert_eq!(shares, [cpu]);
        // At its own rate of 60 MiB in a minute: it waits for itself.
        let slow = PressureShare { resource: "io".into(), own: 80, others: 0, neighbour: None };
        assert_eq!(split(&name("slow"), &all, &bounds, 60), [slow]);
        let waits = PressureShare { resource: "io".into(), own: 0, others: 80, neighbour: Some(name("slow")) };
        assert_eq!(split(&name("waits"), &all, &bounds, 60), [waits]);
        assert_eq!(split(&name("small"), &all, &bounds, 60), []);
        assert_eq!(split(&name("gone"), &all, &bounds, 60), []);
    }

    #[test]
    fn throttled_for_longer_than_it_waited_is_all_its_own() {
        let all = used(&[("a", &[(Measure::CpuPressure, 10), (Measure::Throttled, 90)]), ("b", &[(Measure::Cpu, 5)])]);
        let shares = split(&name("a"), &all, &Usage::default(), 1);
        assert_eq!((shares[0].own, shares[0].others, &shares[0].neighbour), (10, 0, &None));
    }
}
