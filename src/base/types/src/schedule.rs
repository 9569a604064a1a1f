//! The schedules of timers. One type has the calendar events of systemd (`systemd.time(7)`) and the five fields of
//! `crontab(5)`. Pure arithmetic on the wall clock: the caller converts between times of day and moments.

use serde::Serialize;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// The length of the longest accepted text, in bytes.
const MAX_TEXT: usize = 200;
/// The years that a schedule can name.
const YEARS: RangeInclusive<u32> = 1970..=2199;
/// The number of days that a search covers: 29 February falls on each day of the week within 40 years.
const FAR: u32 = 41 * 366;
const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
/// Words for whole expressions, and their meanings. crontab(5) has them with an `@`.
const WORDS: [(&str, &str); 10] = [
    ("minutely", "*-*-* *:*:00"),
    ("hourly", "*-*-* *:00:00"),
    ("daily", "*-*-* 00:00:00"),
    ("midnight", "*-*-* 00:00:00"),
    ("weekly", "mon *-*-* 00:00:00"),
    ("monthly", "*-*-01 00:00:00"),
    ("quarterly", "*-01,04,07,10-01 00:00:00"),
    ("semiannually", "*-01,07-01 00:00:00"),
    ("yearly", "*-01-01 00:00:00"),
    ("annually", "*-01-01 00:00:00"),
];
/// The word of crontab(5) for a command that runs at each start of the jail.
const REBOOT: &str = "@reboot";

/// A date and a time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime {
    /// The year of the common era.
    pub year: u32,
    /// The month, from 1.
    pub month: u32,
    /// The day of the month, from 1.
    pub day: u32,
    /// The hour, from 0.
    pub hour: u32,
    /// The minute, from 0.
    pub minute: u32,
    /// The second, from 0 to 59.
    pub second: u32,
}

/// The clock that a schedule follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Clock {
    /// The host's local time.
    Local,
    /// UTC.
    Utc,
}

/// A set of numbers from 0 to 63, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Set(u64);

impl Set {
    const NONE: Self = Self(0);

    fn of(range: RangeInclusive<u32>) -> Self {
        Self(range.fold(0, |bits, number| bits | 1 << number))
    }

    fn has(self, number: u32) -> bool {
        self.0 & (1 << number) != 0
    }

    /// The smallest member that is at least `number`.
    fn from(self, number: u32) -> Option<u32> {
        let rest = if number > 63 { 0 } else { self.0 >> number << number };
        (rest != 0).then(|| rest.trailing_zeros())
    }
}

/// How the day of the month and the day of the week are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum DayRule {
    /// Both must match.
    Both,
    /// One match is enough: the rule of crontab(5) if both fields are restricted.
    Either,
}

/// A schedule. It displays as the text that it was parsed from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "String")]
pub struct Schedule {
    text: String,
    clock: Clock,
    /// `None` is every year.
    years: Option<Vec<u32>>,
    months: Set,
    days: Set,
    /// Days counted from the end of the month; 1 is the last day.
    last_days: Set,
    /// Monday is 0.
    weekdays: Set,
    rule: DayRule,
    hours: Set,
    minutes: Set,
    seconds: Set,
}

/// When a job runs. It displays as the text that it was parsed from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "String")]
pub enum When {
    /// At the times of a schedule.
    At(Schedule),
    /// At each start of the jail: `@reboot`.
    Start,
}

/// Why a text is not a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// It has neither the form of systemd nor that of cron.
    #[error(
        "this is neither a calendar event of systemd such as \"*-*-* 03:15\" nor five fields of cron such as \"15 3 * * *\", nor a word such as \"@daily\" or \"@reboot\""
    )]
    Shape,
    /// A part is wrong.
    #[error("{what} {text:?} is none: {why}")]
    Part {
        /// The name of the part.
        what: &'static str,
        /// The text of the part.
        text: String,
        /// The reason.
        why: &'static str,
    },
    /// No day ever matches it.
    #[error("there is no such day in any year")]
    Never,
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> Self {
        schedule.text
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(schedule) => schedule.fmt(f),
            Self::Start => f.pad(REBOOT),
        }
    }
}

impl From<When> for String {
    fn from(when: When) -> Self {
        when.to_string()
    }
}

impl FromStr for When {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        if text.eq_ignore_ascii_case(REBOOT) { Ok(Self::Start) } else { text.parse().map(Self::At) }
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        if text.len() > MAX_TEXT {
            return Err(ScheduleError::Shape);
        }
        let lower = text.to_ascii_lowercase();
        let word = lower.strip_prefix('@').unwrap_or(&lower);
        let known = WORDS.iter().find(|(known, _)| *known == word);
        let words: Vec<&str> = known.map_or(lower.as_str(), |(_, meaning)| *meaning).split_ascii_whitespace().collect();
        let mut schedule = match words.as_slice() {
            [minute, hour, day, month, weekday] => cron([minute, hour, day, month, weekday])?,
            words => calendar(words)?,
        };
        schedule.text = text.to_owned();
        let begin = WallTime { year: *YEARS.start(), month: 1, day: 1, hour: 0, minute: 0, second: 0 };
        let first = schedule.years.as_ref().and_then(|years| years.first().copied());
        let begin = WallTime { year: first.unwrap_or(begin.year), ..begin };
        if schedule.at_or_after(begin).is_none() {
            return Err(ScheduleError::Never);
        }
        Ok(schedule)
    }
}

impl Schedule {
    fn any() -> Self {
        Self {
            text: String::new(),
            clock: Clock::Local,
            years: None,
            months: Set::of(1..=12),
            days: Set::of(1..=31),
            last_days: Set::NONE,
            weekdays: Set::of(0..=6),
            rule: DayRule::Both,
            hours: Set::of(0..=0),
            minutes: Set::of(0..=0),
            seconds: Set::of(0..=0),
        }
    }

    /// The text that it was parsed from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The clock that the schedule follows.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The next time after `time`; `None` if there is none within forty years.
    #[must_use]
    pub fn after(&self, time: WallTime) -> Option<WallTime> {
        self.at_or_after(next_second(time))
    }

    fn at_or_after(&self, time: WallTime) -> Option<WallTime> {
        let mut time = time;
        for _ in 0..FAR {
            if time.year > *YEARS.end() {
                return None;
            }
            if self.means_day(time)
                && let Some((hour, minute, second)) = self.time_from(time)
            {
                return Some(WallTime { hour, minute, second, ..time });
            }
            time = next_day(time);
        }
        None
    }

    fn means_day(&self, time: WallTime) -> bool {
        let WallTime { year, month, day, .. } = time;
        if self.years.as_ref().is_some_and(|years| !years.contains(&year)) || !self.months.has(month) {
            return false;
        }
        let by_number = self.days.has(day) || self.last_days.has(days_of(year, month) + 1 - day);
        let by_week = self.weekdays.has(weekday(year, month, day));
        match self.rule {
            DayRule::Both => by_number && by_week,
            DayRule::Either => by_number || by_week,
        }
    }

    /// The first time of the day that is not before `time`, as hour, minute and second.
    fn time_from(&self, time: WallTime) -> Option<(u32, u32, u32)> {
        let mut hour = self.hours.from(time.hour)?;
        loop {
            let minute_from = if hour == time.hour { time.minute } else { 0 };
            let mut next = self.minutes.from(minute_from);
            while let Some(minute) = next {
                let is_now = hour == time.hour && minute == time.minute;
                if let Some(second) = self.seconds.from(if is_now { time.second } else { 0 }) {
                    return Some((hour, minute, second));
                }
                next = self.minutes.from(minute + 1);
            }
            hour = self.hours.from(hour + 1)?;
        }
    }
}

fn is_leap(year: u32) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of(year: u32, month: u32) -> u32 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The day of the week by Zeller's congruence; Monday is 0.
fn weekday(year: u32, month: u32, day: u32) -> u32 {
    let (year, month) = if month < 3 { (year - 1, month + 12) } else { (year, month) };
    let (century, year) = (year / 100, year % 100);
    // In the congruence Saturday is 0.
    (day + 13 * (month + 1) / 5 + year + year / 4 + century / 4 + 5 * century + 5) % 7
}

fn next_day(time: WallTime) -> WallTime {
    let WallTime { year, month, day, .. } = time;
    let (year, month, day) = if day < days_of(year, month) {
        (year, month, day + 1)
    } else if month < 12 {
        (year, month + 1, 1)
    } else {
        (year + 1, 1, 1)
    };
    WallTime { year, month, day, hour: 0, minute: 0, second: 0 }
}

fn next_second(time: WallTime) -> WallTime {
    match time {
        WallTime { second: 0..=58, .. } => WallTime { second: time.second + 1, ..time },
        WallTime { minute: 0..=58, .. } => WallTime { second: 0, minute: time.minute + 1, ..time },
        WallTime { hour: 0..=22, .. } => WallTime { second: 0, minute: 0, hour: time.hour + 1, ..time },
        _ => next_day(time),
    }
}

/// A field of a schedule: its name, its range, and the names of some numbers.
struct Field {
    what: &'static str,
    range: RangeInclusive<u32>,
    names: &'static [&'static str],
}

impl Field {
    const fn new(what: &'static str, range: RangeInclusive<u32>) -> Self {
        Self { what, range, names: &[] }
    }

    fn wrong(&self, text: &str, why: &'static str) -> ScheduleError {
        ScheduleError::Part { what: self.what, text: text.to_owned(), why }
    }

    fn number(&self, text: &str) -> Result<u32, ScheduleError> {
        let is_name = |name: &&str| text == *name || (LONG.contains(&text) && text.starts_with(*name));
        if let Some(index) = self.names.iter().position(is_name) {
            return Ok(self.range.start() + u32::try_from(index).unwrap_or(0));
        }
        let digits = !text.is_empty() && text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|number| digits && self.range.contains(number));
        number.ok_or_else(|| self.wrong(text, "it is no number in its range"))
    }

    fn step(&self, text: &str) -> Result<u32, ScheduleError> {
        let step: Option<u32> = text.parse().ok().filter(|step| (1..=999).contains(step));
        step.ok_or_else(|| self.wrong(text, "a step is a number from 1 on"))
    }

    /// Parses a list of numbers and ranges, each with or without a step. `between` separates the ends of a range.
    fn list(&self, text: &str, between: &str) -> Result<Vec<u32>, ScheduleError> {
        let mut numbers = Vec::new();
        for part in text.split(',') {
            let (values, step) = match part.split_once('/') {
                Some((values, step)) => (values, Some(self.step(step)?)),
                None => (part, None),
            };
            let (first, last) = match values.split_once(between) {
                Some((first, last)) => (self.number(first)?, self.number(last)?),
                // A number with a step is a range up to the end.
                None => {
                    let first = self.number(values)?;
                    (first, if step.is_some() { *self.range.end() } else { first })
                }
            };
            if first > last {
                return Err(self.wrong(part, "it ends before it begins"));
            }
            numbers.extend((first..=last).step_by(step.unwrap_or(1) as usize));
        }
        Ok(numbers)
    }

    /// Parses a list as a set; `*` is the whole range.
    fn set(&self, text: &str, between: &str) -> Result<Set, ScheduleError> {
        if text == "*" {
            return Ok(Set::of(self.range.clone()));
        }
        Ok(Set(self.list(text, between)?.into_iter().fold(0, |bits, number| bits | 1 << number)))
    }
}

/// The full names of the days of the week.
const LONG: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
const MINUTE: Field = Field::new("the minute", 0..=59);
const SECOND: Field = Field::new("the second", 0..=59);
const HOUR: Field = Field::new("the hour", 0..=23);
const DAY: Field = Field::new("the day", 1..=31);
const MONTH: Field = Field::new("the month", 1..=12);
const YEAR: Field = Field::new("the year", YEARS);
const WEEKDAY: Field = Field { what: "the day of the week", range: 0..=6, names: &WEEKDAYS };

/// `[DAYS-OF-WEEK] [[YEAR-]MONTH-DAY] [HOUR:MINUTE[:SECOND]] [UTC]`.
fn calendar(words: &[&str]) -> Result<Schedule, ScheduleError> {
    let mut schedule = Schedule::any();
    let mut rest = words;
    if let [first @ .., "utc"] = rest {
        schedule.clock = Clock::Utc;
        rest = first;
    }
    if rest.is_empty() {
        return Err(ScheduleError::Shape);
    }
    if let [days, more @ ..] = rest
        && days.starts_with(|first: char| first.is_ascii_alphabetic())
    {
        schedule.weekdays = week(days)?;
        rest = more;
    }
    if let [date, more @ ..] = rest
        && !date.contains(':')
    {
        read_date(&mut schedule, date)?;
        rest = more;
    }
    if let [time, more @ ..] = rest {
        read_time(&mut schedule, time)?;
        rest = more;
    }
    if rest.is_empty() { Ok(schedule) } else { Err(ScheduleError::Shape) }
}

/// Parses names of days and ranges of them. Numbers are not accepted.
fn week(text: &str) -> Result<Set, ScheduleError> {
    let text = text.trim_end_matches(',');
    let mut days = 0;
    for part in text.split(',') {
        // Older versions of systemd used `-`.
        let ends = part.split_once("..").or_else(|| part.split_once('-'));
        let (first, last) = ends.unwrap_or((part, part));
        if first.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(WEEKDAY.wrong(part, "a day of the week is a name such as \"Mon\""));
        }
        let (first, last) = (WEEKDAY.number(first)?, WEEKDAY.number(last)?);
        if first > last {
            return Err(WEEKDAY.wrong(part, "it ends before it begins, and a week begins on Monday"));
        }
        days |= Set::of(first..=last).0;
    }
    Ok(Set(days))
}

fn read_date(schedule: &mut Schedule, text: &str) -> Result<(), ScheduleError> {
    let (front, last) = match text.split_once('~') {
        Some((front, last)) => (front, Some(last)),
        None => (text, None),
    };
    let mut parts: Vec<&str> = front.split('-').collect();
    let days = match last {
        Some(last) => last,
        None => parts.pop().ok_or(ScheduleError::Shape)?,
    };
    let (year, month) = match parts.as_slice() {
        [month] => ("*", *month),
        [year, month] => (*year, *month),
        _ => return Err(ScheduleError::Shape),
    };
    if year != "*" {
        let mut years = YEAR.list(year, "..")?;
        years.sort_unstable();
        schedule.years = Some(years);
    }
    schedule.months = MONTH.set(month, "..")?;
    if last.is_some() {
        // The step counts towards the end of the month: ~07/1 is each of the last seven days.
        let mut set = 0;
        for part in days.split(',') {
            let (first, step) = match part.split_once('/') {
                Some((first, step)) => (DAY.number(first)?, DAY.step(step)?),
                None => (DAY.number(part)?, 32),
            };
            set |= (1..=first).rev().step_by(step as usize).fold(0, |bits, number| bits | 1 << number);
        }
        (schedule.days, schedule.last_days) = (Set::NONE, Set(set));
    } else {
        schedule.days = DAY.set(days, "..")?;
    }
    Ok(())
}

fn read_time(schedule: &mut Schedule, text: &str) -> Result<(), ScheduleError> {
    let parts: Vec<&str> = text.split(':').collect();
    let (hour, minute, second) = match parts.as_slice() {
        [hour, minute] => (*hour, *minute, "0"),
        [hour, minute, second] => (*hour, *minute, *second),
        _ => return Err(ScheduleError::Shape),
    };
    schedule.hours = HOUR.set(hour, "..")?;
    schedule.minutes = MINUTE.set(minute, "..")?;
    schedule.seconds = SECOND.set(second, "..")?;
    Ok(())
}

/// `MINUTE HOUR DAY MONTH DAY-OF-WEEK`.
fn cron([minute, hour, day, month, weekday]: [&str; 5]) -> Result<Schedule, ScheduleError> {
    const MONTH_NAMED: Field = Field { what: "the month", range: 1..=12, names: &MONTHS };
    // The week of cron starts with Sunday, which is 0 and 7.
    const NAMES: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    const WEEK: Field = Field { what: "the day of the week", range: 0..=7, names: &NAMES };
    let set = |field: &Field, text: &str| -> Result<Set, ScheduleError> {
        let mut bits = 0;
        for part in text.split(',') {
            let whole = format!("{}-{}", field.range.start(), field.range.end());
            let part = match part.strip_prefix('*') {
                Some("") => whole,
                Some(step) if step.starts_with('/') => whole + step,
                _ if part.contains('/') && !part.contains('-') => {
                    return Err(field.wrong(part, "a step follows a range or a star"));
                }
                _ => part.to_owned(),
            };
            bits |= field.set(&part, "-")?.0;
        }
        Ok(Set(bits))
    };
    let week = set(&WEEK, weekday)?;
    // Sunday moves to the end, its place in a week that starts with Monday.
    let weekdays = (0..=7).filter(|number| week.has(*number)).fold(0, |bits, number| bits | 1 << ((number + 6) % 7));
    let either = !day.starts_with('*') && !weekday.starts_with('*');
    Ok(Schedule {
        months: set(&MONTH_NAMED, month)?,
        days: set(&DAY, day)?,
        weekdays: Set(weekdays),
        rule: if either { DayRule::Either } else { DayRule::Both },
        hours: set(&HOUR, hour)?,
        minutes: set(&MINUTE, minute)?,
        ..Schedule::any()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> WallTime {
        let numbers: Vec<u32> = text.split(['-', ' ', ':']).map(|part| part.parse().expect("a number")).collect();
        let [year, month, day, hour, minute, second] = numbers[..] else { panic!("{text}") };
        WallTime { year, month, day, hour, minute, second }
    }

    fn next(schedule: &str, after: &str) -> String {
        let schedule: Schedule = schedule.parse().unwrap_or_else(|error| panic!("{schedule}: {error}"));
        let found = schedule.after(time(after));
        found.map_or_else(
            || "never".to_owned(),
            |WallTime { year, month, day, hour, minute, second }| {
                format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
            },
        )
    }

    #[test]
    fn calendar_events() {
        // The results of `systemd-analyze calendar --base-time="2026-11-23 17:18:04"`, which was a Monday.
        for (schedule, golden) in [
            ("daily", "2026-11-24 00:00:00"),
            ("hourly", "2026-11-23 18:00:00"),
            ("minutely", "2026-11-23 17:19:00"),
            ("weekly", "2026-11-30 00:00:00"),
            ("monthly", "2026-12-01 00:00:00"),
            ("quarterly", "2027-01-01 00:00:00"),
            ("yearly", "2027-01-01 00:00:00"),
            ("*-*-* 03:15:00", "2026-11-24 03:15:00"),
            ("03:15", "2026-11-24 03:15:00"),
            ("*:0/15", "2026-11-23 17:30:00"),
            ("*:*:00/10", "2026-11-23 17:18:10"),
            ("Mon..Fri 18:00", "2026-11-23 18:00:00"),
            ("Sat,Sun 08:05:40", "2026-11-28 08:05:40"),
            ("monday", "2026-11-30 00:00:00"),
            ("Mon *-*-1..7 04:00", "2026-12-07 04:00:00"),
            ("12-24 18:00", "2026-12-24 18:00:00"),
            ("*-02-29", "2028-02-29 00:00:00"),
            ("Mon *-02-29", "2044-02-29 00:00:00"),
            ("2027-01..03-15", "2027-01-15 00:00:00"),
            ("*-02~01", "2027-02-28 00:00:00"),
            ("Mon *-05~07/1", "2027-05-31 00:00:00"),
            ("*-*-* 9..17/2:30", "2026-11-23 17:30:00"),
            ("10:00 UTC", "2026-11-24 10:00:00"),
            ("2020-01-01", "never"),
        ] {
            assert_eq!(next(schedule, "2026-11-23 17:18:04"), golden, "{schedule}");
        }
        assert_eq!("10:00 UTC".parse::<Schedule>().map(|schedule| schedule.clock()), Ok(Clock::Utc));
    }

    #[test]
    fn five_fields() {
        for (schedule, golden) in [
            ("* * * * *", "2026-11-23 17:19:00"),
            ("*/5 * * * *", "2026-11-23 17:20:00"),
            ("15 3 * * *", "2026-11-24 03:15:00"),
            ("0 0 1 1 *", "2027-01-01 00:00:00"),
            ("0 9-17/2 * * mon-fri", "2026-11-24 09:00:00"),
            ("30 4 1,15 * 5", "2026-11-27 04:30:00"),
            ("30 4 1 * *", "2026-12-01 04:30:00"),
            ("0 0 * * 0", "2026-11-29 00:00:00"),
            ("0 0 * * 7", "2026-11-29 00:00:00"),
            ("0 0 * * 5-7", "2026-11-27 00:00:00"),
            ("0 0 */2 * mon", "2026-12-07 00:00:00"),
            ("0 12 * jan,jul *", "2027-01-01 12:00:00"),
            ("@daily", "2026-11-24 00:00:00"),
            ("@hourly", "2026-11-23 18:00:00"),
        ] {
            assert_eq!(next(schedule, "2026-11-23 17:18:04"), golden, "{schedule}");
        }
    }

    #[test]
    fn the_start_of_a_jail_is_no_time() {
        for word in ["@reboot", "@REBOOT"] {
            assert_eq!(word.parse::<When>().map(String::from), Ok("@reboot".to_owned()));
        }
        assert!(matches!("@daily".parse::<When>(), Ok(When::At(schedule)) if schedule.as_str() == "@daily"));
        assert!("reboot".parse::<When>().is_err());
    }

    #[test]
    fn what_is_no_schedule_is_an_error() {
        for bad in [
            "",
            " ",
            "UTC",
            "noon",
            "25:00",
            "12:60",
            "*-13-01",
            "*-*-32",
            "*-*-00",
            "*-02-30",
            "*-04-31 10:00",
            "1970..1969-01-01",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5/15 * * * *",
            "*/0 * * * *",
            "1-0 * * * *",
            "* * * *",
            "* * * * * *",
            "@reboot",
            "1 2",
            "::",
            "10:00:00:00",
            "Mon Tue 10:00",
            "Sat..Mon 01:00",
            "+1 * * * *",
            "-1 * * * *",
            "0x1 * * * *",
            "10:00 Europe/Berlin",
            "*-*-* 10:00 x",
            "1 * * * mon#1",
            "٣ * * * *",
            "00000001 * * * *",
            "*:0/-1",
        ] {
            assert!(bad.parse::<Schedule>().is_err(), "{bad:?}");
        }
        assert!("*,".repeat(200).parse::<Schedule>().is_err());
    }

    #[test]
    fn days_of_the_week() {
        for (date, golden) in [((2026, 11, 23), 0), ((2000, 2, 29), 1), ((1970, 1, 1), 3), ((2199, 12, 31), 1)] {
            assert_eq!(weekday(date.0, date.1, date.2), golden, "{date:?}");
        }
    }
}
