//! Events become deliveries: this follows the events of `bailiwickd` by the cursor, learns what the policy says, and has readings
//! compared with it.

use crate::engine::{Engine, chain, complain};
use crate::target::Settings;
use bailiwick_client::{AskError, Daemon};
use bailiwick_proto::control::{EventsWanted, MOST_EVENTS};
use bailiwick_proto::{ControlReply, ControlRequest, time_limits};
use bailiwick_types::{Event, MetricsDetail, Moment};
use std::time::Duration;

/// The pause after a question that `bailiwickd` did not answer.
const RETRY_TIME: Duration = Duration::from_secs(1);

/// Follows the events until the end. The first time it begins with what happens from now on.
pub fn events(engine: &Engine, daemon: &Daemon) {
    let mut told = None;
    while let Some(settings) = engine.settings() {
        let failed = step(engine, daemon, &settings).err();
        let is_silent = failed.is_some();
        tell_once(&mut told, failed);
        if is_silent && engine.pause(RETRY_TIME) {
            return;
        }
    }
}

fn step(engine: &Engine, daemon: &Daemon, settings: &Settings) -> Result<(), String> {
    let of_file = |error| chain(&error);
    let Some(cursor) = engine.cursor().map_err(of_file)? else {
        let (_, _, last) = ask(daemon, 0, 0).map_err(|error| chain(&error))?;
        return engine.take_events(last, &[], settings).map_err(of_file);
    };
    let (events, next, last) = ask(daemon, cursor, MOST_EVENTS).map_err(|error| chain(&error))?;
    if last < cursor {
        complain("the outbox of events was lost, and its numbers begin anew");
    }
    if next == cursor { Ok(()) } else { engine.take_events(next, &events, settings).map_err(of_file) }
}

/// Events after a number, where to go on, and the largest number. Waits for the first of them, unless none is wanted.
fn ask(daemon: &Daemon, after: u64, most: u32) -> Result<(Vec<Event>, u64, u64), AskError> {
    let (since, tenants, types, wait) = (Moment(0), Vec::new(), Vec::new(), most > 0);
    let wanted = EventsWanted { after, since, tenants, types, most, wait };
    let within = if wait { time_limits::EVENT + time_limits::NOTICES } else { time_limits::NOTICES };
    match daemon.ask_within(&ControlRequest::Events(wanted), within)? {
        ControlReply::Events { events, next, last } => Ok((events, next, last)),
        _ => Err(AskError::Unexpected),
    }
}

/// Learns what the policy says and what tenants use, again and again, until the end. While nobody answers, the last word holds.
pub fn readings(engine: &Engine, daemon: &Daemon) {
    let mut told = None;
    loop {
        let read = read(engine, daemon);
        let pause = read.as_ref().map_or(RETRY_TIME, |every| RETRY_TIME.max(*every));
        tell_once(&mut told, read.err());
        if engine.pause(pause) {
            return;
        }
    }
}

/// Returns how long to wait for the next time.
fn read(engine: &Engine, daemon: &Daemon) -> Result<Duration, String> {
    let (host, tenants) = daemon.notices(time_limits::NOTICES).map_err(|error| chain(&error))?;
    let has_rules = tenants.iter().any(|tenant| !tenant.notices.is_empty());
    let tenants = tenants.into_iter().map(|tenant| (tenant.tenant.clone(), tenant)).collect();
    let settings = Settings { host: *host, tenants };
    engine.set_settings(settings.clone());
    // Measuring costs something, and without a rule nobody wants to know.
    let measured = if has_rules {
        daemon.metrics(Some(MetricsDetail::All), time_limits::METRICS).map_err(|error| chain(&error))?.1
    } else {
        Vec::new()
    };
    engine.take_readings(&measured, &settings).map_err(|error| chain(&error))?;
    Ok(Duration::from_secs(settings.host.every))
}

/// Tells of a failure, unless it is the one that was told last.
fn tell_once(told: &mut Option<String>, failed: Option<String>) {
    if let Some(message) = failed.as_ref().filter(|message| told.as_ref() != Some(message)) {
        complain(message);
    }
    *told = failed;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::{engine, until};
    use crate::state::tests::event;
    use bailiwick_client::fake;
    use bailiwick_types::{NoticesHost, NoticesPage, TenantNotices};
    use std::sync::Arc;

    fn page(seqs: std::ops::RangeInclusive<u64>, last: u64) -> ControlReply {
        let next = *seqs.end();
        ControlReply::Events { events: seqs.map(|seq| event(seq, Some("alice"))).collect(), next, last }
    }

    #[test]
    fn it_begins_with_what_happens_now_and_goes_on_behind_what_it_took() {
        let (temp, recorder, engine) = engine();
        let notices = NoticesPage {
            host: Some(Box::new(NoticesHost {
                mail_domain: Some("x.example".to_owned()),
                every: 3600,
                ..NoticesHost::default()
            })),
            tenants: vec![TenantNotices::of("alice".parse().expect("a name"))],
            next: None,
        };
        let replies = vec![
            vec![ControlReply::Notices(Box::new(notices))],
            vec![ControlReply::Events { events: Vec::new(), next: 0, last: 7 }],
            vec![page(8..=9, 9)],
            // The outbox was lost.
            vec![page(1..=1, 1)],
        ];
        let (daemon, served) = fake(temp.path(), replies);
        let daemon = Arc::new(daemon);
        let threads = engine.start().expect("starts");
        let one = {
            let (engine, daemon) = (Arc::clone(&engine), Arc::clone(&daemon));
            std::thread::spawn(move || readings(&engine, &daemon))
        };
        let settings = engine.settings().expect("is told");
        assert_eq!((settings.tenants.len(), settings.host.mail_domain.as_deref()), (1, Some("x.example")));
        let other = {
            let (engine, daemon) = (Arc::clone(&engine), Arc::clone(&daemon));
            std::thread::spawn(move || events(&engine, &daemon))
        };
        let good = || recorder.got().into_iter().filter(|(target, _)| target == "good").map(|(_, seq)| seq);
        until("all are delivered", || good().count() == 3);
        assert_eq!(good().collect::<Vec<_>>(), [8, 9, 1]);
        let asked = served.join().expect("ends");
        let after: Vec<(u64, u32)> = asked
            .iter()
            .filter_map(|request| match request {
                ControlRequest::Events(wanted) => Some((wanted.after, wanted.most)),
                _ => None,
            })
            .collect();
        assert_eq!(after, [(0, 0), (7, MOST_EVENTS), (9, MOST_EVENTS)]);
        engine.end();
        for thread in threads.into_iter().chain([one, other]) {
            thread.join().expect("ends");
        }
        assert_eq!(engine.cursor().expect("reads"), Some(1));
    }
}
