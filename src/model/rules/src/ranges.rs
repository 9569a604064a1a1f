//! Ranges of addresses and ports for sets of intervals, in which the kernel refuses overlaps.

use bailiwick_types::Prefix;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The first and the last address of a prefix.
pub(crate) fn ends(prefix: Prefix) -> (IpAddr, IpAddr) {
    let first = prefix.address();
    let last = match first {
        IpAddr::V4(v4) => {
            let hosts = u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() | hosts))
        }
        IpAddr::V6(v6) => {
            let hosts = u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() | hosts))
        }
    };
    (first, last)
}

/// The same addresses as ranges that neither overlap nor touch, in order. Addresses of the two families are never in one range.
pub(crate) fn merged(prefixes: impl IntoIterator<Item = Prefix>) -> Vec<(IpAddr, IpAddr)> {
    let mut ranges: Vec<_> = prefixes.into_iter().map(ends).collect();
    ranges.sort_unstable();
    let mut all: Vec<(IpAddr, IpAddr)> = Vec::new();
    for (first, last) in ranges {
        match all.last_mut() {
            Some((_, end)) if touches(*end, first) => *end = (*end).max(last),
            _ => all.push((first, last)),
        }
    }
    all
}

/// Whether an address is before the end of a range, or the next one after it.
fn touches(end: IpAddr, first: IpAddr) -> bool {
    match (end, first) {
        (IpAddr::V4(end), IpAddr::V4(first)) => end.to_bits().checked_add(1).is_none_or(|next| first.to_bits() <= next),
        (IpAddr::V6(end), IpAddr::V6(first)) => end.to_bits().checked_add(1).is_none_or(|next| first.to_bits() <= next),
        _ => false,
    }
}

/// The same numbers as ranges that neither overlap nor touch, in order.
pub(crate) fn merged_ports(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut all: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match all.last_mut() {
            Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = (*end).max(last),
            _ => all.push((first, last)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    #[test]
    fn prefixes_that_overlap_or_touch_become_one_range() {
        let all =
            merged(["10.0.0.0/9", "10.128.0.0/9", "10.1.2.3", "::/0", "255.255.255.255", "0.0.0.0/8"].map(prefix));
        let text: Vec<_> = all.iter().map(|(first, last)| format!("{first}-{last}")).collect();
        assert_eq!(
            text,
            [
                "0.0.0.0-0.255.255.255",
                "10.0.0.0-10.255.255.255",
                "255.255.255.255-255.255.255.255",
                "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
            ]
        );
        assert_eq!(merged_ports(vec![(80, 80), (81, 90), (1, 65_535)]), [(1, 65_535)]);
        assert_eq!(merged_ports(vec![(443, 443), (80, 80)]), [(80, 80), (443, 443)]);
    }

    proptest! {
        #[test]
        fn the_ranges_hold_what_the_prefixes_hold(
            parts in proptest::collection::vec((any::<u32>(), 0u8..=32), 0..12), address in any::<u32>(),
        ) {
            let prefixes: Vec<Prefix> = parts.iter().map(|(bits, length)| {
                let mask = !u32::MAX.checked_shr((*length).into()).unwrap_or(0);
                Prefix::new(IpAddr::V4(Ipv4Addr::from_bits(bits & mask)), *length).expect("no bits after the length")
            }).collect();
            let all = merged(prefixes.iter().copied());
            prop_assert!(all.windows(2).all(|pair| !touches(pair[0].1, pair[1].0)), "{all:?}");
            for address in parts.iter().map(|(bits, _)| *bits).chain([address]) {
                let address = IpAddr::V4(Ipv4Addr::from_bits(address));
                let is_in = all.iter().any(|(first, last)| (*first..=*last).contains(&address));
                prop_assert_eq!(is_in, prefixes.iter().any(|prefix| prefix.contains(address)));
            }
        }
    }
}
