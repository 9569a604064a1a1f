//! What a client accepts: the format of the text, and whether it may be compressed (RFC 9110).

use bailiwick_metrics::Format;
use hyper::HeaderMap;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, HeaderName};

/// A form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Form {
    pub(crate) format: Format,
    pub(crate) coding: Coding,
}

/// How the text is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Coding {
    /// As it is.
    Identity,
    /// By gzip.
    Gzip,
}

/// The form that a client gets.
pub(crate) fn form(headers: &HeaderMap) -> Form {
    let is_new = accepts(headers, &ACCEPT, "application/openmetrics-text");
    let is_short = accepts(headers, &ACCEPT_ENCODING, "gzip");
    Form {
        format: if is_new { Format::OpenMetrics } else { Format::Classic },
        coding: if is_short { Coding::Gzip } else { Coding::Identity },
    }
}

/// Whether a header lists a word, and not with a weight of zero.
fn accepts(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let is_it = parts.next().is_some_and(|first| first.eq_ignore_ascii_case(word));
        let is_nothing = |part: &str| part.strip_prefix("q=").and_then(|weight| weight.parse().ok()) == Some(0.0_f32);
        is_it && !parts.any(is_nothing)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_what_it_accepts() {
        let of = |accept: &'static str, encoding: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().expect("a value"));
            headers.append(ACCEPT_ENCODING, encoding.parse().expect("a value"));
            let Form { format, coding } = form(&headers);
            (format, coding)
        };
        // As Prometheus asks.
        let accept = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                      text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(of(accept, "gzip"), (Format::OpenMetrics, Coding::Gzip));
        assert_eq!(of("*/*", "identity"), (Format::Classic, Coding::Identity));
        assert_eq!(of("", "deflate, GZIP ;q=0.5, br"), (Format::Classic, Coding::Gzip));
        assert_eq!(
            of("text/plain, application/openmetrics-text;q=0.0", "gzip;q=0"),
            (Format::Classic, Coding::Identity)
        );
        assert_eq!(of("application/openmetrics-text-2", "xgzip"), (Format::Classic, Coding::Identity));
        assert_eq!(form(&HeaderMap::new()), Form { format: Format::Classic, coding: Coding::Identity });
    }
}
