//! The header `Range` (RFC 9110, section 14.2).

use std::ops::Range;

/// The part of a file that a request wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it. So are several ranges, other units, and what cannot be read: the header is then ignored.
    Whole,
    /// These bytes, at least one.
    Bytes(Range<u64>),
    /// None that exists.
    Unsatisfiable,
}

/// Reads the header for a file of `size` bytes.
pub(crate) fn parse(header: &str, size: u64) -> Part {
    read(header, size).unwrap_or(Part::Whole)
}

fn read(header: &str, size: u64) -> Option<Part> {
    let (unit, set) = header.split_once('=')?;
    let (first, last) = set.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let range = match (first.trim(), last.trim()) {
        ("", last) => size.saturating_sub(number(last)?)..size,
        (first, "") => number(first)?..size,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(size)
        }
    };
    Some(if range.is_empty() { Part::Unsatisfiable } else { Part::Bytes(range) })
}

/// A number without a sign. One that is too large is as good as the largest.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_single_range_is_read() {
        for (header, part) in [
            ("bytes=0-0", Part::Bytes(0..1)),
            ("bytes=2-4", Part::Bytes(2..5)),
            ("Bytes = 2-4", Part::Bytes(2..5)),
            ("bytes=2-", Part::Bytes(2..10)),
            ("bytes=2-99", Part::Bytes(2..10)),
            ("bytes=2-99999999999999999999999", Part::Bytes(2..10)),
            ("bytes=0-18446744073709551615", Part::Bytes(0..10)),
            ("bytes=-3", Part::Bytes(7..10)),
            ("bytes=-99", Part::Bytes(0..10)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=99-100", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
        ] {
            assert_eq!(parse(header, 10), part, "{header}");
        }
        assert_eq!(parse("bytes=0-", 0), Part::Unsatisfiable);
    }

    #[test]
    fn what_is_not_a_single_range_is_ignored() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=4-2",
            "bytes=+1-2",
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=1",
        ] {
            assert_eq!(parse(header, 10), Part::Whole, "{header}");
        }
    }

    proptest! {
        #[test]
        fn no_range_reaches_beyond_the_file(header in "bytes=[-0-9, ]{0,24}", size: u64) {
            if let Part::Bytes(range) = parse(&header, size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }

        #[test]
        fn any_text_is_read(header in "\\PC{0,40}", size: u64) {
            parse(&header, size);
        }
    }
}
