//! The header `Accept-Encoding` (RFC 9110, section 12.5.3): which compressed copies a client takes.

/// A way in which copies of files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Brotli,
    Gzip,
}

impl Coding {
    /// All of them, the smallest copies first.
    pub(crate) const ALL: [Self; 2] = [Self::Brotli, Self::Gzip];

    /// The name in headers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// What the name of a copy ends with.
    pub(crate) fn ending(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Gzip => ".gz",
        }
    }
}

/// The codings that a client takes, the best first.
pub(crate) fn accepted(header: &str) -> Vec<Coding> {
    let weight = |coding: Coding| {
        let named = items(header).filter(|(name, _)| name.eq_ignore_ascii_case(coding.name())).last();
        named.or_else(|| items(header).filter(|(name, _)| *name == "*").last()).map_or(0, |(_, weight)| weight)
    };
    let mut found: Vec<_> = Coding::ALL.into_iter().filter(|coding| weight(*coding) > 0).collect();
    found.sort_by_key(|coding| std::cmp::Reverse(weight(*coding)));
    found
}

/// The names in the header with their weights in thousandths. What cannot be read has none.
fn items(header: &str) -> impl Iterator<Item = (&str, u16)> {
    header.split(',').map(|item| {
        let (name, parameters) = item.split_once(';').unwrap_or((item, "q=1"));
        let value = parameters.trim().strip_prefix(['q', 'Q']).and_then(|rest| rest.trim_start().strip_prefix('='));
        (name.trim(), value.and_then(thousandths).unwrap_or(0))
    })
}

/// A weight: `0`, `0.5`, `1.000`.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, part) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    if part.len() > 3 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part: u16 = format!("{part:0<3}").parse().ok()?;
    match whole {
        "0" => Some(part),
        "1" if part == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Coding::{Brotli, Gzip};
    use proptest::prelude::*;

    #[test]
    fn weights_decide() {
        for (header, found) in [
            ("", &[][..]),
            ("identity", &[]),
            ("gzip", &[Gzip]),
            ("gzip, deflate, br", &[Brotli, Gzip]),
            ("GZIP", &[Gzip]),
            ("gzip;q=1.0, br;q=0.5", &[Gzip, Brotli]),
            ("br;q=0, gzip", &[Gzip]),
            ("br; q=0.000, *", &[Gzip]),
            ("*", &[Brotli, Gzip]),
            ("*;q=0", &[]),
            ("gzip;q=2", &[]),
            ("gzip;q=0.0001", &[]),
            ("gzip;x=1", &[]),
            ("xgzip, brr", &[]),
        ] {
            assert_eq!(accepted(header), found, "{header}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(header in "[a-z*;,=.0-9\\PC ]{0,60}") {
            prop_assert!(accepted(&header).len() <= 2);
        }
    }
}
