//! `events`: prints events, and with `--follow` those to come.
//!
//! Danger: tenants and strangers choose some values. They are escaped before they are printed.

use crate::arguments::EventOptions;
use crate::output::{self, visible};
use crate::usage::{clock, local};
use crate::window;
use bailiwick_client::{AskError, Daemon};
use bailiwick_proto::control::{EventsWanted, MOST_EVENTS};
use bailiwick_proto::{ControlReply, ControlRequest, Failure};
use bailiwick_sys::process;
use bailiwick_sys::signal::{SIGINT, SIGTERM, Signals};
use bailiwick_types::{Event, EventType, EventTypes, EventValue, ExitStatus, Moment};
use jiff::tz::TimeZone;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

/// How far back events are shown when nothing else is said.
const SINCE: &str = "1d";
/// The pause before the next attempt to reach a daemon that does not answer.
const RETRY_TIME: Duration = Duration::from_millis(500);

/// How events are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lines {
    /// For people.
    Text,
    /// One JSON object in each line.
    Json,
}

/// `bailiwick events`.
pub(crate) fn run(daemon: &Daemon, options: EventOptions) -> Result<(), Failure> {
    let EventOptions { follow, since, after, tenants, types, json } = options;
    let since = match (since, after, follow) {
        (Some(since), ..) => window::moment_of(&since)?,
        (None, None, false) => window::moment_of(SINCE)?,
        (None, ..) => Moment(0),
    };
    let types: Vec<EventType> = types.into_iter().flat_map(|EventTypes(types)| types).collect();
    let begins_now = follow && after.is_none() && since == Moment(0);
    let mut wanted = EventsWanted { after: after.unwrap_or(0), since, tenants, types, most: MOST_EVENTS, wait: follow };
    if begins_now {
        wanted.after = last(daemon, &wanted)?;
    }
    match (follow, json) {
        (true, json) => follow_all(daemon, wanted, if json { Lines::Json } else { Lines::Text }),
        (false, true) => print_array(daemon, wanted),
        (false, false) => print_all(daemon, wanted),
    }
}

/// The largest number of all events.
fn last(daemon: &Daemon, wanted: &EventsWanted) -> Result<u64, Failure> {
    let request = ControlRequest::Events(EventsWanted { most: 0, wait: false, ..wanted.clone() });
    match daemon.ask(&request)? {
        ControlReply::Events { last, .. } => Ok(last),
        _ => Err(AskError::Unexpected.into()),
    }
}

/// Asks for page after page, up to the last event, and hands each on until nobody reads any more.
fn pages(
    daemon: &Daemon,
    mut wanted: EventsWanted,
    mut each: impl FnMut(Vec<Event>) -> Result<Reader, Failure>,
) -> Result<(), Failure> {
    loop {
        let ControlReply::Events { events, next, last } = daemon.ask(&ControlRequest::Events(wanted.clone()))? else {
            return Err(AskError::Unexpected.into());
        };
        if each(events)? == Reader::Gone || next >= last || next <= wanted.after {
            return Ok(());
        }
        wanted.after = next;
    }
}

fn print_all(daemon: &Daemon, wanted: EventsWanted) -> Result<(), Failure> {
    pages(daemon, wanted, |events| write(&lines(&events)))
}

fn print_array(daemon: &Daemon, wanted: EventsWanted) -> Result<(), Failure> {
    let mut all = Vec::new();
    pages(daemon, wanted, |events| {
        all.extend(events);
        Ok(Reader::Reads)
    })?;
    output::print_json(&all)
}

/// Prints events until a signal comes, and goes on after a restart of the daemon.
fn follow_all(daemon: &Daemon, mut wanted: EventsWanted, lines: Lines) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::of(ExitStatus::Failed, format!("cannot wait for signals: {error}"));
    let signals = Signals::block(&[SIGINT, SIGTERM]).map_err(failed)?;
    let zone = local();
    let mut is_told = false;
    loop {
        let request = ControlRequest::Events(wanted.clone());
        match daemon.ask_until(&request, signals.as_fd()) {
            Ok(None) => return Ok(()),
            Ok(Some(ControlReply::Events { events, next, last })) => {
                is_told = false;
                if last < wanted.after {
                    output::complain("the outbox of events was lost, and its numbers begin anew");
                }
                let line = |event: &Event| match lines {
                    Lines::Text => line(event, &zone),
                    Lines::Json => output::json_line(event),
                };
                if write(&events.iter().map(line).collect::<String>())? == Reader::Gone {
                    return Ok(());
                }
                wanted.after = next;
            }
            Ok(Some(_)) => return Err(AskError::Unexpected.into()),
            // The daemon is restarted, or was killed while this waited.
            Err(error) if error.is_no_answer() || matches!(error, AskError::Ended | AskError::Receive(_)) => {
                if !std::mem::replace(&mut is_told, true) {
                    output::complain("bailiwickd does not answer; going on when it does");
                }
                if process::readable(&signals, RETRY_TIME).map_err(failed)? {
                    return Ok(());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether somebody still reads what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Reads,
    Gone,
}

fn write(text: &str) -> Result<Reader, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Reader::Reads),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Failure::of(ExitStatus::Failed, format!("cannot write standard output: {error}"))),
    }
}

/// Events as lines for people.
pub(crate) fn lines(events: &[Event]) -> String {
    let zone = local();
    events.iter().map(|event| line(event, &zone)).collect()
}

/// A line for people: number, time, type and tenant, then the values, and the sentence last.
fn line(event: &Event, zone: &TimeZone) -> String {
    let Event { seq, at, kind, tenant, actor, data } = event;
    let tenant = tenant.as_ref().map_or("-", |tenant| tenant.as_str());
    let mut line = format!("{seq:<7}  {}  {:<21}  {tenant:<12}", clock(*at, zone), kind.word());
    let actor = actor.map(|uid| ("uid", EventValue::from(u64::from(uid))));
    let values =
        data.iter().filter(|(name, _)| *name != Event::TEXT).map(|(name, value)| (name.as_str(), value.clone()));
    for (name, value) in actor.into_iter().chain(values) {
        let text = value.to_string();
        // A value with a blank would look like two.
        let shown = if text.contains(' ') || text.contains('"') { format!("{text:?}") } else { text };
        line.push_str(&format!(" {}={}", visible(name), visible(&shown)));
    }
    if let Some(text) = data.get(Event::TEXT) {
        line.push_str(&format!("  {}", visible(&text.to_string())));
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_client::fake;

    fn event(seq: u64) -> Event {
        Event {
            seq,
            at: Moment(1_700_000_000),
            kind: EventType::SessionOpened,
            tenant: Some("alice".parse().expect("a name")),
            actor: Some(7),
            data: [
                ("text".to_owned(), EventValue::text("in\u{1b}[2J")),
                ("login".to_owned(), EventValue::text("a b")),
                ("n".to_owned(), EventValue::Number(3)),
            ]
            .into(),
        }
    }

    #[test]
    fn a_line_is_one_line_whatever_is_in_it() {
        let golden = "12       2023-11-14T22:13:20+00:00  session.opened         alice        uid=7 login=\"a b\" n=3  in\\u{1b}[2J\n";
        assert_eq!(line(&event(12), &TimeZone::UTC), golden);
        let mut host = event(1);
        host.tenant = None;
        host.data = [("x".to_owned(), EventValue::text("a\nb\u{202e}"))].into();
        let shown = line(&host, &TimeZone::UTC);
        assert_eq!((shown.matches('\n').count(), shown.contains('\u{202e}')), (1, false), "{shown}");
    }

    #[test]
    fn pages_are_asked_for_up_to_the_last_event() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let page = |seqs: std::ops::Range<u64>, next, last| ControlReply::Events {
            events: seqs.map(event).collect(),
            next,
            last,
        };
        let (daemon, served) = fake(temp.path(), vec![vec![page(1..4, 3, 5)], vec![page(4..6, 5, 5)]]);
        let wanted = EventsWanted {
            after: 0,
            since: Moment(0),
            tenants: Vec::new(),
            types: Vec::new(),
            most: MOST_EVENTS,
            wait: false,
        };
        let mut seen = Vec::new();
        let each = |events: Vec<Event>| {
            seen.extend(events.iter().map(|event| event.seq));
            Ok(Reader::Reads)
        };
        pages(&daemon, wanted, each).expect("answers");
        assert_eq!(seen, [1, 2, 3, 4, 5]);
        served.join().expect("ends");
    }
}
