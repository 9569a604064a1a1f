//! Sizes, counts, shares of a processor and durations, with the units that operators write.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Why a text is not a quantity. The diagnostic around this error quotes the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseQuantityError {
    /// There is no number.
    #[error("expected a number with a unit, such as {example:?}")]
    NoNumber {
        /// An accepted value.
        example: &'static str,
    },
    /// This kind of quantity does not have the unit.
    #[error("unknown unit {unit:?}; use {units}")]
    Unit {
        /// The unknown unit.
        unit: String,
        /// The accepted units.
        units: &'static str,
    },
    /// The value is too large.
    #[error("the value is too large")]
    TooLarge,
    /// The value has a fraction, which this quantity does not allow.
    #[error("a fraction is not possible here; write a whole number with a smaller unit")]
    Fraction,
}

/// Splits `"12.5M"` into the number before the point, the digits after it, and the unit.
fn split<'a>(text: &'a str, example: &'static str) -> Result<(u64, Option<&'a str>, &'a str), ParseQuantityError> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at(digits);
    if whole.is_empty() {
        return Err(ParseQuantityError::NoNumber { example });
    }
    let whole = whole.parse().map_err(|_| ParseQuantityError::TooLarge)?;
    match rest.strip_prefix('.') {
        None => Ok((whole, None, rest)),
        Some(rest) => {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (fraction, unit) = rest.split_at(digits);
            if fraction.is_empty() {
                return Err(ParseQuantityError::NoNumber { example });
            }
            Ok((whole, Some(fraction), unit))
        }
    }
}

macro_rules! scaled {
    ($(#[$doc:meta])* $name:ident, $example:literal, $units:literal, [$(($letter:literal, $factor:expr)),*]) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl FromStr for $name {
            type Err = ParseQuantityError;
            fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
                let (whole, fraction, unit) = split(text, $example)?;
                if fraction.is_some() {
                    return Err(ParseQuantityError::Fraction);
                }
                let factor: u64 = match unit {
                    "" => 1,
                    $($letter => $factor,)*
                    other => return Err(ParseQuantityError::Unit { unit: other.to_owned(), units: $units }),
                };
                whole.checked_mul(factor).map(Self).ok_or(ParseQuantityError::TooLarge)
            }
        }

        impl fmt::Display for $name {
            /// The shortest text that parses to the same value.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let units: &[(&str, u64)] = &[$(($letter, $factor)),*];
                for (letter, factor) in units.iter().rev() {
                    if self.0 != 0 && self.0 % factor == 0 {
                        return f.pad(&format!("{}{letter}", self.0 / factor));
                    }
                }
                f.pad(&self.0.to_string())
            }
        }
    };
}

scaled!(
    /// A number of bytes. Units are powers of 1024: `"512M"` is 536,870,912.
    ByteSize, "512M", "K, M, G or T (1024-based)",
    [("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("T", 1 << 40)]
);
scaled!(
    /// A number of inodes or of operations per second. Units are powers of 1000, as in `setquota(8)`: `"200k"` is
    /// 200,000.
    Count, "200k", "k or m (1000-based)",
    [("k", 1_000), ("m", 1_000_000)]
);

/// A share of processor time in thousandths of a per cent of one core: `"150%"` is 150,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuShare(pub u64);

impl CpuShare {
    /// The processor time of this share in a period of `period_us`, in microseconds, rounded to the nearest.
    #[must_use]
    pub fn quota_us(self, period_us: u64) -> u64 {
        (self.0.saturating_mul(period_us)).saturating_add(50_000) / 100_000
    }

    /// The share as a number of cores, with the decimals that it needs: `"150%"` is `1.5`.
    #[must_use]
    pub fn cores(self) -> String {
        let text = format!("{}.{:05}", self.0 / 100_000, self.0 % 100_000);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

impl FromStr for CpuShare {
    type Err = ParseQuantityError;
    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        let (whole, fraction, unit) = split(text, "150%")?;
        if unit != "%" {
            return Err(ParseQuantityError::Unit {
                unit: unit.to_owned(),
                units: "% (of one core; \"150%\" is one and a half)",
            });
        }
        let mut value = whole.checked_mul(1000).ok_or(ParseQuantityError::TooLarge)?;
        if let Some(fraction) = fraction {
            if fraction.len() > 3 {
                return Err(ParseQuantityError::Fraction);
            }
            let digits: u64 = fraction.parse().map_err(|_| ParseQuantityError::TooLarge)?;
            let scale = [0, 100, 10, 1][fraction.len()];
            value = value.checked_add(digits * scale).ok_or(ParseQuantityError::TooLarge)?;
        }
        Ok(Self(value))
    }
}

impl fmt::Display for CpuShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            f.pad(&format!("{whole}%"))
        } else {
            let fraction = format!("{rest:03}");
            f.pad(&format!("{whole}.{}%", fraction.trim_end_matches('0')))
        }
    }
}

/// A duration in whole seconds: `"5m"`, `"7d"`, `"1h30m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Period(pub u64);

impl Period {
    /// The period as a [`Duration`].
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl FromStr for Period {
    type Err = ParseQuantityError;
    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        let duration = humantime::parse_duration(text).map_err(|error| match error {
            humantime::DurationError::NumberOverflow => ParseQuantityError::TooLarge,
            humantime::DurationError::UnknownUnit { unit, .. } => {
                ParseQuantityError::Unit { unit, units: "s, m, h, d or w" }
            }
            _ => ParseQuantityError::NoNumber { example: "7d" },
        })?;
        if duration.subsec_nanos() != 0 {
            return Err(ParseQuantityError::Fraction);
        }
        Ok(Self(duration.as_secs()))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // This does not use the units of humantime: its months and years are averages, so a value would not display as
        // it was written.
        let mut rest = self.0;
        let mut text = String::new();
        for (letter, seconds) in [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)] {
            if rest >= seconds {
                text.push_str(&format!("{}{letter}", rest / seconds));
                rest %= seconds;
            }
        }
        f.pad(if text.is_empty() { "0s" } else { &text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_1024_based_and_counts_1000_based() {
        assert_eq!("2G".parse(), Ok(ByteSize(2 << 30)));
        assert_eq!("200k".parse(), Ok(Count(200_000)));
        assert_eq!("0".parse(), Ok(ByteSize(0)));
        assert_eq!("99999999T".parse::<ByteSize>(), Err(ParseQuantityError::TooLarge));
        assert_eq!("99999999999999999999".parse::<ByteSize>(), Err(ParseQuantityError::TooLarge));
        assert!(matches!("1MB".parse::<ByteSize>(), Err(ParseQuantityError::Unit { .. })));
        assert!(matches!("-1".parse::<ByteSize>(), Err(ParseQuantityError::NoNumber { .. })));
        assert_eq!("1.5G".parse::<ByteSize>(), Err(ParseQuantityError::Fraction));
    }

    #[test]
    fn cpu_is_a_share_of_one_core() {
        assert_eq!("150%".parse(), Ok(CpuShare(150_000)));
        assert_eq!("12.5%".parse(), Ok(CpuShare(12_500)));
        assert_eq!(CpuShare(12_500).quota_us(100_000), 12_500);
        assert!("1.5".parse::<CpuShare>().is_err());
        assert_eq!(CpuShare(12_500).to_string(), "12.5%");
        for (share, cores) in [(150_000, "1.5"), (12_500, "0.125"), (200_000, "2"), (1_000_000, "10"), (1, "0.00001")] {
            assert_eq!(CpuShare(share).cores(), cores);
        }
    }

    #[test]
    fn display_parses_to_the_same_value() {
        for n in [0u64, 1, 1023, 1024, 5 << 20, 3 << 40, u64::MAX] {
            assert_eq!(ByteSize(n).to_string().parse(), Ok(ByteSize(n)));
            assert_eq!(Count(n).to_string().parse(), Ok(Count(n)));
        }
        for n in [0u64, 1, 59, 60, 5400, 604_800, 86_399] {
            assert_eq!(Period(n).to_string().parse(), Ok(Period(n)), "{}", Period(n));
        }
    }
}
