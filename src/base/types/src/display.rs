//! The display of values: rounded units, shares of a limit, and escaped texts.
//!
//! Danger: tenants choose the names of processes, files and mounts. [`visible`] escapes such a text. Without that, it
//! could control a terminal or imitate another line.

use crate::{ByteSize, Kind, Measure, Period, Point, TenantUsage, Unit, Usage};
use std::borrow::Cow;

/// Whether a character is a control character, or changes the direction of the following text.
#[must_use]
pub fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text on one line. Dangerous characters are escaped.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, is_dangerous)
}

/// The same as [`visible`], but line breaks stay.
#[must_use]
pub fn visible_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c != '\n' && is_dangerous(c))
}

fn escaped(text: &str, bad: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&bad) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if bad(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

/// Thousandths as a per cent with one decimal: `12.3%`.
#[must_use]
pub fn percent(per_mille: u64) -> String {
    format!("{}.{}%", per_mille / 10, per_mille % 10)
}

/// The share of a limit that is used, in thousandths, rounded down. Any use of a zero limit counts as 100 %.
#[must_use]
pub fn part(used: u64, limit: u64) -> u64 {
    let part = (u128::from(used) * 1000).checked_div(u128::from(limit));
    part.map_or(if used > 0 { 1000 } else { 0 }, |part| u64::try_from(part).unwrap_or(u64::MAX))
}

impl ByteSize {
    /// The size with one decimal, rounded down: `1.5G`.
    #[must_use]
    pub fn rounded(self) -> String {
        for (shift, unit) in [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')] {
            if self.0 >> shift > 0 {
                let tenths = (((self.0 >> (shift - 10)) & 1023) * 10) >> 10;
                return format!("{}.{tenths}{unit}", self.0 >> shift);
            }
        }
        self.0.to_string()
    }
}

impl Measure {
    /// An amount in the measure's unit: `1.5G`, `12`, `3.204s`.
    #[must_use]
    pub fn amount_in_words(self, amount: u64) -> String {
        match self.unit() {
            Unit::Bytes => ByteSize(amount).rounded(),
            Unit::Count => amount.to_string(),
            Unit::Microseconds if amount < 60_000_000 => {
                format!("{}.{:03}s", amount / 1_000_000, amount / 1000 % 1000)
            }
            Unit::Microseconds => Period(amount / 1_000_000).to_string(),
        }
    }

    /// A rate, as [`Point::rate`] returns it: time as a per cent of the elapsed time (100 % is one core for `cpu`),
    /// other sums per second, levels without a change.
    #[must_use]
    pub fn rate_in_words(self, rate: u64) -> String {
        match (self.unit(), self.kind()) {
            (Unit::Microseconds, _) => percent(rate / 1000),
            (_, Kind::Sum) => format!("{}/s", self.amount_in_words(rate)),
            (_, Kind::Level) => self.amount_in_words(rate),
        }
    }

    fn rate_of(self, usage: &Usage, seconds: u64) -> Option<u64> {
        let amount = usage.get(self)?;
        match self.kind() {
            Kind::Level => Some(amount),
            // Rounded up, so that a small value is not shown as zero.
            Kind::Sum => (seconds > 0).then(|| amount.div_ceil(seconds)),
        }
    }
}

impl Point {
    /// The value that can be compared with a limit: a level without a change, and a sum per measured second. `None` if
    /// nothing was measured.
    #[must_use]
    pub fn rate(&self, measure: Measure) -> Option<u64> {
        if self.seconds == 0 { None } else { measure.rate_of(&self.usage, self.seconds) }
    }

    /// The same for the minute with the highest value.
    #[must_use]
    pub fn peak_rate(&self, measure: Measure) -> Option<u64> {
        if self.seconds == 0 { None } else { measure.rate_of(&self.peak, self.seconds.min(60)) }
    }
}

impl Point {
    /// The measure to compare with a limit. For memory it is the memory that the kernel cannot reclaim, if that was
    /// measured: a tenant that only reads files fills its memory with page cache and lacks nothing.
    #[must_use]
    pub fn counted(&self, measure: Measure) -> Measure {
        match measure {
            Measure::Memory if self.usage.get(Measure::MemoryUsed).is_some() => Measure::MemoryUsed,
            measure => measure,
        }
    }

    /// The average memory that the kernel can reclaim, in bytes; `None` if it was not measured separately.
    #[must_use]
    pub fn cache(&self) -> Option<u64> {
        let used = self.rate(Measure::MemoryUsed)?;
        Some(self.rate(Measure::Memory)?.saturating_sub(used))
    }
}

impl TenantUsage {
    /// The share of a hard limit that was used, in thousandths. A level counts with its peak, because the peak hits the
    /// limit. A sum counts with its average over the window, because one busy minute means little.
    #[must_use]
    pub fn part(&self, measure: Measure) -> Option<u64> {
        let limit = self.limits.get(measure)?;
        let measure = self.total.counted(measure);
        let used = match measure.kind() {
            Kind::Level => self.total.peak_rate(measure).max(self.total.rate(measure))?,
            Kind::Sum => self.total.rate(measure)?,
        };
        Some(part(used, limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Moment;
    use std::collections::BTreeMap;

    #[test]
    fn no_control_character_reaches_the_terminal() {
        let hostile = "a\u{1b}[2Jb\u{9b}c\u{7f}d\re\nf\u{202e}g";
        assert_eq!(visible(hostile), "a\\u{1b}[2Jb\\u{9b}c\\u{7f}d\\re\\nf\\u{202e}g");
        assert_eq!(visible_lines("a\nb\u{7}"), "a\nb\\u{7}");
        assert!(matches!(visible("plain: ü, 東京"), Cow::Borrowed(_)));
    }

    #[test]
    fn bytes_are_rounded_down() {
        let cases = [(0, "0"), (1023, "1023"), (1024, "1.0K"), (1_610_612_736, "1.5G"), (u64::MAX, "16777215.9T")];
        for (bytes, text) in cases {
            assert_eq!(ByteSize(bytes).rounded(), text);
        }
    }

    #[test]
    fn each_measure_is_told_in_its_own_unit() {
        let cases = [
            (Measure::Cpu, 1_500_000, "1.500s", "150.0%"),
            (Measure::MemoryPressure, 31_000, "0.031s", "3.1%"),
            (Measure::Throttled, 3_600_000_000, "1h", "360000.0%"),
            (Measure::Memory, 1 << 20, "1.0M", "1.0M"),
            (Measure::IoRead, 1 << 20, "1.0M", "1.0M/s"),
            (Measure::IopsWrite, 7, "7", "7/s"),
            (Measure::Tasks, 7, "7", "7"),
        ];
        for (measure, value, amount, rate) in cases {
            assert_eq!(
                (measure.amount_in_words(value).as_str(), measure.rate_in_words(value).as_str()),
                (amount, rate)
            );
        }
    }

    #[test]
    fn a_sum_is_told_a_second_and_a_level_as_it_is() {
        let usage = Usage(BTreeMap::from([(Measure::Cpu, 300_000_001), (Measure::Memory, 100)]));
        let peak = Usage(BTreeMap::from([(Measure::Cpu, 90_000_000), (Measure::Memory, 180)]));
        let limits = Usage(BTreeMap::from([(Measure::Cpu, 2_000_000), (Measure::Memory, 200), (Measure::Disk, 9)]));
        let total = Point { at: Moment(0), seconds: 300, usage, peak };
        assert_eq!((total.rate(Measure::Cpu), total.peak_rate(Measure::Cpu)), (Some(1_000_001), Some(1_500_000)));
        assert_eq!((total.rate(Measure::Memory), total.peak_rate(Measure::Memory)), (Some(100), Some(180)));
        assert_eq!(total.rate(Measure::Disk), None);
        assert_eq!(Point { seconds: 0, ..total.clone() }.rate(Measure::Memory), None);

        let tenant = "alice".parse().expect("valid");
        let usage = TenantUsage { tenant, total, limits, faults: BTreeMap::new(), services: None };
        assert_eq!(usage.part(Measure::Cpu), Some(500));
        assert_eq!(usage.part(Measure::Memory), Some(900));
        assert_eq!((usage.part(Measure::Disk), usage.part(Measure::Tasks)), (None, None));
    }

    #[test]
    fn parts_of_nothing_and_of_everything() {
        assert_eq!((part(0, 0), part(1, 0), part(u64::MAX, 1), part(1, 3)), (0, 1000, u64::MAX, 333));
        assert_eq!((percent(0), percent(999), percent(12_345)), ("0.0%".into(), "99.9%".into(), "1234.5%".into()));
    }
}
