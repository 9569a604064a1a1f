//! The parts that all pages are made of: escaped texts, times, tables, and the frame with its style.
//!
//! Danger: texts that tenants choose are in these pages, and an operator or a customer opens them in a browser. Every
//! text passes through [`text`]. The content security policy of the frame forbids scripts, pictures, fonts, and every
//! style but the one of the page.

use bailiwick_types::{ByteSize, Kind, Measure, Moment, Unit, is_dangerous};
use sha2::{Digest, Sha256};

/// The most characters of one text.
const MAX_TEXT: usize = 2000;

/// The style of all pages.
pub(crate) const STYLE: &str = include_str!("style.css");

/// Escapes a text from any source for the page. The result is one line. It is cut after [`MAX_TEXT`] characters of the
/// source, and contains no markup and no characters that could mislead a reader.
pub(crate) fn text(raw: &str) -> String {
    short_text(raw, MAX_TEXT)
}

/// The same as [`text`], cut after `most` characters of the source.
pub(crate) fn short_text(raw: &str, most: usize) -> String {
    let mut safe = String::with_capacity(raw.len().min(most * 4));
    let mut chars = raw.chars();
    for c in chars.by_ref().take(most) {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if is_dangerous(c) => safe.extend(c.escape_default()),
            c => safe.push(c),
        }
    }
    if chars.next().is_some() {
        safe.push_str(" ...");
    }
    safe
}

/// A text within a sentence of the page. Letters that are written from right to left cannot reorder what is beside it.
pub(crate) fn isolated(raw: &str) -> String {
    format!("<bdi>{}</bdi>", short_text(raw, 300))
}

/// A time in UTC, as text.
pub(crate) fn utc(moment: Moment) -> String {
    formatted(moment, "%Y-%m-%d %H:%M")
}

/// A time in UTC without its year, for the axis of a chart.
pub(crate) fn short_utc(moment: Moment) -> String {
    formatted(moment, "%-d %b %H:%M")
}

fn formatted(moment: Moment, format: &str) -> String {
    let stamp = i64::try_from(moment.0).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
    stamp.map_or_else(|| format!("second {}", moment.0), |stamp| stamp.strftime(format).to_string())
}

/// A word that is judged. `word` is also the class that colours it; the colour never says more than the word.
pub(crate) fn badge(word: &str) -> String {
    format!("<strong class=\"{word}\">{word}</strong>")
}

/// A number with the word for what it counts, in the singular or in the plural with `s`.
pub(crate) fn counted(number: u64, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

/// An amount of bytes with its unit: `1.5G`, `300 B`.
pub(crate) fn bytes(amount: u64) -> String {
    if amount > 0 && amount < 1024 { format!("{amount} B") } else { ByteSize(amount).rounded() }
}

/// A rate as [`Measure::rate_in_words`] tells it, with a unit for few bytes too.
pub(crate) fn rate(measure: Measure, rate: u64) -> String {
    match (measure.unit(), measure.kind()) {
        (Unit::Bytes, Kind::Level) => bytes(rate),
        (Unit::Bytes, Kind::Sum) => format!("{}/s", bytes(rate)),
        _ => measure.rate_in_words(rate),
    }
}

/// A column of a table.
#[derive(Clone, Copy)]
pub(crate) enum Column {
    /// Text, on the left.
    Text(&'static str),
    /// A word or a time, which is never broken.
    Word(&'static str),
    /// Numbers, on the right.
    Number(&'static str),
}

impl Column {
    fn name(self) -> &'static str {
        let (Self::Text(name) | Self::Word(name) | Self::Number(name)) = self;
        name
    }

    fn class(self) -> &'static str {
        match self {
            Self::Text(_) => "",
            Self::Word(_) => " class=\"w\"",
            Self::Number(_) => " class=\"n\"",
        }
    }

    /// The class of a cell. One without a value is left out on a narrow screen.
    fn class_of(self, cell: &str) -> &'static str {
        match (self, cell) {
            (Self::Number(_), "" | "-") => " class=\"n e\"",
            (Self::Text(_) | Self::Word(_), "" | "-") => " class=\"e\"",
            _ => self.class(),
        }
    }
}

/// Renders a table with a caption, which is HTML as the cells are. The first cell of each row is its header. After
/// `most` rows it says how many are left out.
pub(crate) fn table(
    caption: &str,
    columns: &[Column],
    most: usize,
    rows: impl ExactSizeIterator<Item = Vec<String>>,
) -> String {
    let more = rows.len().saturating_sub(most);
    let mut out = format!("<div class=\"scroll\"><table>\n<caption>{caption}</caption>\n<thead><tr>");
    for column in columns {
        out.push_str(&format!("<th scope=\"col\"{}>{}</th>", column.class(), column.name()));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in rows.take(most) {
        out.push_str("<tr>");
        for (number, (cell, column)) in row.iter().zip(columns).enumerate() {
            if number == 0 {
                out.push_str(&format!("<th scope=\"row\">{cell}</th>"));
            } else {
                // A narrow screen has the name of the column beside the cell.
                out.push_str(&format!("<td{} data-label=\"{}\">{cell}</td>", column.class_of(cell), column.name()));
            }
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table></div>\n");
    if more > 0 {
        out.push_str(&format!("<p class=\"none\">And {more} more.</p>\n"));
    }
    out
}

/// A bar that shows a share of a limit, in thousandths. The text beside it says the same.
pub(crate) fn bar(share: u64) -> String {
    let class = match share {
        1000.. => "bar problem",
        900.. => "bar near",
        _ => "bar",
    };
    let width = share.min(1000).div_ceil(10);
    format!(
        "<svg class=\"{class}\" viewBox=\"0 0 100 6\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
         <path d=\"M0 3H100\"/><path d=\"M0 3H{width}\"/></svg>"
    )
}

/// A section of the page with its heading. `id` is safe in an attribute; `heading` and `body` are HTML.
pub(crate) fn section(id: &str, heading: &str, body: &str) -> String {
    format!("<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{heading}</h2>\n{body}</section>\n")
}

/// A list of names and values, both HTML.
pub(crate) fn pairs(rows: &[(&str, String)]) -> String {
    let rows: String = rows.iter().map(|(name, value)| format!("<dt>{name}</dt><dd>{value}</dd>\n")).collect();
    format!("<dl class=\"pairs\">\n{rows}</dl>\n")
}

/// The whole page. `title` and `body` are HTML, and the title has no tags.
pub(crate) fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{}\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"referrer\" content=\"no-referrer\"/>\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        policy()
    )
}

/// Nothing may be loaded or run. The only style is that of the page, by its hash.
pub(crate) fn policy() -> String {
    format!(
        "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        base64(&Sha256::digest(STYLE))
    )
}

/// Bytes as base64 (RFC 4648, 4).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| chunk.get(index).map_or(0, |byte| usize::from(*byte));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let letter = char::from(LETTERS[word >> (18 - 6 * place) & 63]);
            out.push(if place <= chunk.len() { letter } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, golden) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")]
        {
            assert_eq!(base64(bytes.as_bytes()), golden);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn a_text_is_cut_by_characters_and_has_no_markup() {
        assert_eq!(short_text("<ü>'\"&\u{202e}", 9), "&lt;ü&gt;&#39;&quot;&amp;\\u{202e}");
        assert_eq!((short_text("üüü", 2).as_str(), short_text("üü", 2).as_str()), ("üü ...", "üü"));
    }

    #[test]
    fn bars_are_as_long_as_the_share() {
        assert!(bar(0).contains("H0\"") && bar(1).contains("H1\"") && bar(500).contains("H50\""));
        assert!(bar(u64::MAX).contains("H100\"") && bar(1000).contains("bar problem") && bar(900).contains("bar near"));
    }

    #[test]
    fn few_bytes_have_a_unit_too() {
        assert_eq!([0, 300, 1024].map(bytes), ["0", "300 B", "1.0K"]);
        assert_eq!((rate(Measure::NetSent, 7).as_str(), rate(Measure::Cpu, 10_000).as_str()), ("7 B/s", "1.0%"));
    }

    #[test]
    fn times_are_readable() {
        assert_eq!(utc(Moment(1_800_000_000)), "2027-01-15 08:00");
        assert_eq!(short_utc(Moment(1_800_000_000)), "15 Jan 08:00");
        assert_eq!(utc(Moment(u64::MAX)), "second 18446744073709551615");
    }

    #[test]
    fn the_style_loads_nothing_and_cannot_end_early() {
        for outside in ["url(", "@import", "@font-face", "</", "http", "expression"] {
            assert!(!STYLE.contains(outside), "{outside}");
        }
    }

    /// The relative luminance of a colour `#rrggbb` (WCAG 2.2).
    fn luminance(colour: &str) -> f64 {
        let part = |at: usize| {
            let value = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).expect("a colour")) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    }

    #[test]
    fn every_text_has_enough_contrast_in_every_theme() {
        let themes: Vec<&str> =
            STYLE.split(":root{").skip(1).map(|theme| theme.split('}').next().expect("one")).collect();
        assert_eq!(themes.len(), 3, "light, dark and print");
        for theme in themes {
            let colours: BTreeMap<&str, &str> =
                theme.split(';').filter_map(|rule| rule.trim().strip_prefix("--")?.split_once(':')).collect();
            let contrast = |ink: &str, paper: &str| {
                let (a, b) = (luminance(colours[ink]), luminance(colours[paper]));
                (a.max(b) + 0.05) / (a.min(b) + 0.05)
            };
            for ink in ["ink", "soft", "line0", "line1", "line2", "limit", "good", "mild", "bad"] {
                let found = contrast(ink, "paper");
                assert!(found >= 4.5, "{ink} on paper: {found}");
            }
            for paper in ["good-wash", "mild-wash", "bad-wash"] {
                for ink in ["ink", "soft"] {
                    let found = contrast(ink, paper);
                    assert!(found >= 4.5, "{ink} on {paper}: {found}");
                }
            }
        }
    }
}
