//! Parses time windows: `4h`, `today`, `2026-11-01 14:30`.

use crate::arguments::WindowOptions;
use bailiwick_proto::Failure;
use bailiwick_types::{ExitStatus, Moment, Period, Window};
use jiff::{Timestamp, Zoned, civil};

/// The time window of the options, in the time zone of this machine.
pub(crate) fn between(when: &WindowOptions) -> Result<Window, Failure> {
    window(when, &Zoned::now())
}

fn window(when: &WindowOptions, now: &Zoned) -> Result<Window, Failure> {
    let from = parse(&when.since, now)?;
    // The end is exclusive; the current second belongs to the window.
    let until =
        when.until.as_deref().map_or_else(|| Ok(Moment(seconds(now.timestamp()) + 1)), |until| parse(until, now))?;
    if from >= until {
        let message = "the window ends before it begins; check --since and --until";
        return Err(Failure::of(ExitStatus::Invalid, message.to_owned()));
    }
    Ok(Window { from, until })
}

/// The time now.
pub(crate) fn now() -> Moment {
    Moment(seconds(Timestamp::now()))
}

/// The moment of a text, in the time zone of this machine.
pub(crate) fn moment_of(text: &str) -> Result<Moment, Failure> {
    parse(text, &Zoned::now())
}

fn parse(text: &str, now: &Zoned) -> Result<Moment, Failure> {
    let accepted = "use a duration such as 4h or 1h30m, today, yesterday, a date such as 2026-11-01, or \
                    \"2026-11-01 14:30\"";
    moment(text, now).ok_or_else(|| Failure::of(ExitStatus::Invalid, format!("invalid time {text:?}: {accepted}")))
}

fn seconds(timestamp: Timestamp) -> u64 {
    u64::try_from(timestamp.as_second()).unwrap_or(0)
}

fn moment(text: &str, now: &Zoned) -> Option<Moment> {
    let at = |time: civil::DateTime| Some(Moment(seconds(time.to_zoned(now.time_zone().clone()).ok()?.timestamp())));
    let midnight = |date: civil::Date| at(date.to_datetime(civil::Time::midnight()));
    match text {
        "now" => return Some(Moment(seconds(now.timestamp()))),
        "today" => return midnight(now.date()),
        "yesterday" => return midnight(now.date().yesterday().ok()?),
        _ => {}
    }
    if let Ok(length) = text.parse::<Period>() {
        return Some(Moment(seconds(now.timestamp()).saturating_sub(length.0)));
    }
    if let Ok(time) = text.parse::<civil::DateTime>() {
        return at(time);
    }
    text.parse::<civil::Date>().ok().and_then(midnight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Zoned {
        "2026-11-23 10:30:00[Europe/Berlin]".parse().expect("a time")
    }

    fn from(since: &str) -> u64 {
        let when = WindowOptions { since: since.to_owned(), until: None };
        window(&when, &now()).expect(since).from.0
    }

    #[test]
    fn every_form_of_a_time_is_parsed() {
        let second = seconds(now().timestamp());
        assert_eq!(from("4h"), second - 4 * 3600);
        assert_eq!(from("1h30m"), second - 5400);
        assert_eq!(from("7d"), second - 7 * 86_400);
        assert_eq!(from("today"), second - 10 * 3600 - 1800);
        assert_eq!(from("yesterday"), second - 34 * 3600 - 1800);
        assert_eq!(from("2026-11-23"), from("today"));
        assert_eq!(from("2026-11-22 14:30"), second - 20 * 3600);
        // The day on which summer time ends has 25 hours.
        assert_eq!(from("2026-10-25") + 25 * 3600, from("2026-10-26"));
    }

    #[test]
    fn an_invalid_time_is_an_error() {
        for bad in ["", "x", "-4h", "4", "tomorrow", "2026-13-01", "2026-11-24", "\u{1b}[2J"] {
            let when = WindowOptions { since: bad.to_owned(), until: None };
            let failure = window(&when, &now()).expect_err(bad);
            assert_eq!(failure.status, ExitStatus::Invalid);
        }
        let backwards = WindowOptions { since: "1h".to_owned(), until: Some("2h".to_owned()) };
        assert!(window(&backwards, &now()).is_err());
        let inside = WindowOptions { since: "2h".to_owned(), until: Some("1h".to_owned()) };
        assert!(window(&inside, &now()).is_ok());
    }
}
