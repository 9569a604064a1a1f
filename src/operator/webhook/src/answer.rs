//! What an answer means for a delivery.

use hyper::HeaderMap;
use hyper::StatusCode;
use hyper::header::{HeaderValue, LOCATION, RETRY_AFTER};
use std::error::Error;
use std::time::{Duration, SystemTime};

/// The longest time that a receiver can have us wait for.
const LONGEST_WAIT: Duration = Duration::from_secs(6 * 60 * 60);
/// The most characters of a receiver's words in a reason.
const MAX_QUOTE: usize = 200;

/// What became of one try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver has taken it.
    Done,
    /// It failed, and another try may not.
    Again {
        /// Why, as a line for the operator.
        reason: String,
        /// How long the receiver wants not to be asked, at most six hours.
        wait: Option<Duration>,
    },
    /// The receiver wants nothing any more: 410.
    Gone {
        /// Why, as a line for the operator.
        reason: String,
    },
}

impl Outcome {
    pub(crate) fn again(reason: impl Into<String>) -> Self {
        Self::Again { reason: reason.into(), wait: None }
    }

    /// A failure with its whole chain of causes. A library that repeats its cause is quoted once.
    pub(crate) fn failed(error: &dyn Error) -> Self {
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !reason.ends_with(&text) {
                reason = format!("{reason}: {text}");
            }
            cause = error.source();
        }
        Self::again(quoted(&reason))
    }

    /// What a status means, with the headers and the start of the body.
    pub(crate) fn of(status: StatusCode, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Self {
        if status.is_success() {
            return Self::Done;
        }
        let said = quoted(&String::from_utf8_lossy(body));
        let said = if said.is_empty() { said } else { format!(": {said}") };
        let reason = format!("the receiver answered {}{said}", status.as_u16());
        if status == StatusCode::GONE {
            return Self::Gone { reason };
        }
        if status.is_redirection() {
            let to =
                headers.get(LOCATION).map(|to| quoted(&String::from_utf8_lossy(to.as_bytes()))).unwrap_or_default();
            let reason = format!(
                "the receiver answered {} and names another address, which is not followed: \"{to}\"",
                status.as_u16()
            );
            return Self::again(reason);
        }
        Self::Again { reason, wait: headers.get(RETRY_AFTER).and_then(|value| wait(value, now)) }
    }
}

/// The time of a header `retry-after` (RFC 9110, 10.2.3): seconds, or a date. `None` for another text and for a time that has passed.
fn wait(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let wait = if is_number {
        // A number that does not fit is longer than the longest time.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        httpdate::parse_http_date(text).ok()?.duration_since(now).ok()?
    };
    (!wait.is_zero()).then(|| wait.min(LONGEST_WAIT))
}

/// The start of a stranger's text, on one line, without characters that could control a terminal.
fn quoted(text: &str) -> String {
    let words: String = text.chars().take(MAX_QUOTE * 4).collect();
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut quoted: String = bailiwick_types::visible(&line).chars().take(MAX_QUOTE).collect();
    if quoted.len() < bailiwick_types::visible(&line).len() {
        quoted.push_str("...");
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_796_000_000;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
    }

    fn outcome(status: u16, headers: &[(&'static str, &str)], body: &str) -> Outcome {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().expect("a value"));
        }
        Outcome::of(StatusCode::from_u16(status).expect("a status"), &map, body.as_bytes(), now())
    }

    #[test]
    fn each_kind_of_status_has_its_outcome() {
        for status in [200, 202, 204, 299] {
            assert_eq!(outcome(status, &[], "x"), Outcome::Done);
        }
        assert_eq!(outcome(410, &[], ""), Outcome::Gone { reason: "the receiver answered 410".to_owned() });
        for status in [304, 400, 404, 429, 500, 503] {
            assert!(matches!(outcome(status, &[], ""), Outcome::Again { wait: None, .. }), "{status}");
        }
        let Outcome::Again { reason, wait: None } = outcome(302, &[("location", "http://10.0.0.1/")], "") else {
            panic!()
        };
        assert_eq!(
            reason,
            "the receiver answered 302 and names another address, which is not followed: \"http://10.0.0.1/\""
        );
        let Outcome::Again { reason, .. } = outcome(500, &[], "no\n\u{1b}[31m way ") else { panic!() };
        assert_eq!(reason, "the receiver answered 500: no \\u{1b}[31m way");
        let Outcome::Again { reason, .. } = outcome(500, &[], &"x".repeat(5000)) else { panic!() };
        assert!(reason.len() < 250 && reason.ends_with("xxx..."), "{reason}");
    }

    #[test]
    fn a_receiver_can_have_us_wait_for_six_hours_at_most() {
        let wait = |text: &str| match outcome(429, &[("retry-after", text)], "") {
            Outcome::Again { wait, .. } => wait.map(|wait| wait.as_secs()),
            other => panic!("{other:?}"),
        };
        assert_eq!(wait("120"), Some(120));
        assert_eq!(wait("0"), None);
        assert_eq!(wait("-1"), None);
        assert_eq!(wait("1.5"), None);
        assert_eq!(wait("soon"), None);
        assert_eq!(wait("99999999999999999999999"), Some(21_600));
        assert_eq!(wait("Mon, 30 Nov 2026 00:54:20 GMT"), Some(60));
        assert_eq!(wait("Mon, 30 Nov 2020 00:54:20 GMT"), None);
        assert_eq!(wait("Mon, 30 Nov 2099 00:54:20 GMT"), Some(21_600));
    }

    proptest! {
        #[test]
        fn no_answer_makes_a_long_or_dangerous_reason(status in 100u16..1000, after in "[ -~]{0,40}", body in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, after.parse().expect("a value"));
            let status = StatusCode::from_u16(status).expect("a status");
            match Outcome::of(status, &headers, &body, now()) {
                Outcome::Done => prop_assert!(status.is_success()),
                Outcome::Again { reason, wait } => {
                    prop_assert!(reason.chars().count() < 400 && !reason.chars().any(char::is_control));
                    prop_assert!(wait.is_none_or(|wait| wait <= LONGEST_WAIT));
                }
                Outcome::Gone { reason } => prop_assert!(reason.chars().count() < 400),
            }
        }
    }
}
