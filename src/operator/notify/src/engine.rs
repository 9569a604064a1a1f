//! Which delivery is made when: threads that take the first delivery of each queue, and try again after growing pauses.
//!
//! Danger: a receiver may be silent, and a program may hang, for as long as its time limit lets it. So each kind of target has workers
//! of its own, and no target has all of them.

use crate::state::{Burst, Delivery, Lane, NoRoom, Queue, Sent, State, StateError, now};
use crate::target::{Outcome, Settings, Target, deliveries};
use crate::thresholds::{self, Told};
use bailiwick_proto::notify::FailedDelivery;
use bailiwick_types::{Event, Moment, TargetKind, TenantMetrics};
use std::collections::BTreeSet;
use std::error::Error;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The pauses after attempts that failed, in seconds. After the attempt that follows the last one a delivery is given up.
pub const RETRIES: [u64; 5] = [10, 60, 600, 3600, 6 * 3600];
/// How many deliveries of a kind are made at a time.
const WORKERS: usize = 4;
/// How many of them may be to one target.
const WORKERS_OF_TARGET: usize = WORKERS - 1;
/// A worker looks at the clock at least so often, because the clock may be set.
const LOOK_TIME: Duration = Duration::from_secs(5);

/// More notices than this to one address within [`BURST_TIME`] become one message.
const BURST: u64 = 50;
const BURST_TIME: u64 = 5 * 60;

/// The result of an attempt, until it is written.
#[derive(Debug)]
enum Mark {
    /// These deliveries are over.
    Remove(Vec<u64>, Sent),
    /// These failed for this reason, and each is tried again at its moment if there is one.
    Fail(Vec<(u64, Option<Moment>)>, String),
}

/// What a worker does next: one delivery, or several to one address as one. Never empty.
#[derive(Debug)]
struct Work(Vec<Delivery>);

#[derive(Debug)]
struct Shared {
    state: State,
    /// The lanes of which something is being delivered, or whose mark is not written.
    busy: BTreeSet<Lane>,
    /// Results that could not be written, each with the lane that is free then. Until then it is busy: otherwise a full disk would
    /// repeat a delivery for ever.
    unwritten: Vec<(Mark, Option<Lane>)>,
    settings: Option<Arc<Settings>>,
    /// How many notices the last readings found no room for.
    held: u64,
    is_over: bool,
    /// What was last said of the file, so that it is said once.
    complaint: Option<String>,
}

/// The deliveries, and who makes them.
#[derive(Debug)]
pub struct Engine {
    targets: Vec<Box<dyn Target>>,
    shared: Mutex<Shared>,
    changed: Condvar,
}

/// Says something to whoever keeps the log. Standard error may be gone; then nobody reads it.
pub fn complain(message: &str) {
    writeln!(io::stderr(), "bailiwick-notify: {message}").ok();
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

impl Engine {
    /// An engine for these kinds of target. Nothing is delivered before [`Self::start`].
    #[must_use]
    pub fn new(state: State, targets: Vec<Box<dyn Target>>) -> Arc<Self> {
        let shared = Shared {
            state,
            busy: BTreeSet::new(),
            unwritten: Vec::new(),
            settings: None,
            held: 0,
            is_over: false,
            complaint: None,
        };
        Arc::new(Self { targets, shared: Mutex::new(shared), changed: Condvar::new() })
    }

    /// Starts the threads that deliver. They end after [`Self::end`].
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(self: &Arc<Self>) -> io::Result<Vec<JoinHandle<()>>> {
        let start = |(kind, number): (TargetKind, usize)| {
            let engine = Arc::clone(self);
            thread::Builder::new().name(format!("{kind}-{number}")).spawn(move || engine.work(kind))
        };
        TargetKind::ALL.into_iter().flat_map(|kind| (0..WORKERS).map(move |number| (kind, number))).map(start).collect()
    }

    /// Lets no delivery begin any more.
    pub fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    /// Takes what the policy says now. The first call lets deliveries begin.
    pub fn set_settings(&self, settings: Settings) {
        self.lock().settings = Some(Arc::new(settings));
        self.changed.notify_all();
    }

    /// What the policy last said; waits for the first word. `None` when the end has come.
    #[must_use]
    pub fn settings(&self) -> Option<Arc<Settings>> {
        let mut shared = self.lock();
        loop {
            match &shared.settings {
                _ if shared.is_over => return None,
                Some(settings) => return Some(Arc::clone(settings)),
                None => shared = self.wait(shared, LOOK_TIME),
            }
        }
    }

    /// Waits, and returns whether the end has come.
    #[must_use]
    pub fn pause(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut shared = self.lock();
        while !shared.is_over && Instant::now() < until {
            shared = self.wait(shared, until.saturating_duration_since(Instant::now()));
        }
        shared.is_over
    }

    /// The number of the last event that was taken; `None` before the first.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn cursor(&self) -> Result<Option<u64>, StateError> {
        self.lock().state.cursor()
    }

    /// Turns events into deliveries and notices, and writes them with the cursor behind them. What finds no room is told and lost.
    ///
    /// # Errors
    /// An error of SQLite. Then nothing was written.
    pub fn take_events(&self, cursor: u64, events: &[Event], settings: &Settings) -> Result<(), StateError> {
        let new = deliveries(&self.targets, events, settings);
        let mut shared = self.lock();
        let told = shared.state.told()?;
        let tellings = thresholds::follow(settings, events, &told);
        let NoRoom { lost, .. } = shared.state.take(Some(cursor), &new, &tellings)?;
        drop(shared);
        if lost > 0 {
            complain(&format!("{lost} deliveries are lost, because too many wait"));
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Compares readings with the rules of tenants, and writes the notices that follow. What finds no room follows from the next
    /// readings again.
    ///
    /// # Errors
    /// An error of SQLite. Then nothing was written.
    pub fn take_readings(&self, readings: &[TenantMetrics], settings: &Settings) -> Result<(), StateError> {
        let mut shared = self.lock();
        let told = shared.state.told()?;
        let tellings = thresholds::compare(settings, readings, &told, now());
        let held = if tellings.is_empty() { 0 } else { shared.state.take(None, &[], &tellings)?.held };
        if held > 0 && shared.held == 0 {
            complain(&format!("{held} notices are held back, because too many wait"));
        }
        shared.held = held;
        drop(shared);
        self.changed.notify_all();
        Ok(())
    }

    /// What the policy last said, if anything.
    #[must_use]
    pub fn known_settings(&self) -> Option<Arc<Settings>> {
        self.lock().settings.clone()
    }

    /// What was told, and is not clear yet or may not be told again yet.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn told(&self) -> Result<Told, StateError> {
        self.lock().state.told()
    }

    /// How many deliveries wait, and how many were given up.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn counts(&self) -> Result<(u64, u64), StateError> {
        self.lock().state.counts()
    }

    /// How many deliveries were lost in the last seven days, and how many notices are held back, because too many wait.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn no_room(&self) -> Result<NoRoom, StateError> {
        let shared = self.lock();
        Ok(NoRoom { lost: shared.state.lost()?, held: shared.held })
    }

    /// The deliveries that were given up, or else those that have failed and are tried again.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn failures(&self, given_up: bool) -> Result<Vec<FailedDelivery>, StateError> {
        self.lock().state.failures(given_up)
    }

    /// Has deliveries that were given up tried again; all when `ids` is empty. Returns their numbers.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn retry(&self, ids: &[u64]) -> Result<Vec<u64>, StateError> {
        self.targets.iter().for_each(|target| target.forgive());
        let retried = self.lock().state.retry(ids);
        self.changed.notify_all();
        retried
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A thread that panicked held no half of a change: SQLite takes back a transaction that was not committed.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, shared: MutexGuard<'a, Shared>, time: Duration) -> MutexGuard<'a, Shared> {
        self.changed.wait_timeout(shared, time).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Makes deliveries of a kind until the end.
    fn work(&self, kind: TargetKind) {
        while let Some((Work(deliveries), settings)) = self.next(kind) {
            self.attempt(kind, deliveries, &settings);
        }
    }

    /// Makes deliveries of one lane, but for those of which an earlier attempt goes on or has come to an end.
    fn attempt(&self, kind: TargetKind, deliveries: Vec<Delivery>, settings: &Settings) {
        let Some(lane) = deliveries.first().map(|first| first.queue.lane()) else { return };
        let target = self.targets.iter().find(|target| target.kind() == kind);
        let mut results: Vec<(Vec<Delivery>, Outcome)> = Vec::new();
        let mut rest = Vec::new();
        for delivery in deliveries {
            match (target.and_then(|target| target.earlier(&delivery)), results.last_mut()) {
                (None, _) => rest.push(delivery),
                (Some(outcome), Some((all, same))) if *same == outcome => all.push(delivery),
                (Some(outcome), _) => results.push((vec![delivery], outcome)),
            }
        }
        if !rest.is_empty() {
            let outcome = match (target, rest.as_slice()) {
                (Some(target), [one]) => target.deliver(one, settings),
                (Some(target), all) => target.deliver_together(all, settings),
                (None, _) => Outcome::Never(format!("this version of bailiwick-notify delivers to no {kind}")),
            };
            results.push((rest, outcome));
        }
        self.mark(lane, results);
    }

    /// What is due next of a kind, whose lane is busy then; `None` when the end has come.
    fn next(&self, kind: TargetKind) -> Option<(Work, Arc<Settings>)> {
        let mut shared = self.lock();
        loop {
            if shared.is_over {
                return None;
            }
            shared.write_marks();
            let at = now();
            let mut pause = LOOK_TIME;
            if let Some(settings) = shared.settings.clone() {
                match shared.next_work(kind, at) {
                    Ok(Some(work)) => {
                        shared.busy.extend(work.0.first().map(|first| first.queue.lane()));
                        return Some((work, settings));
                    }
                    Ok(None) => {
                        let next = shared.state.next_attempt(at).ok().flatten();
                        pause = next.map_or(pause, |next| pause.min(Duration::from_secs(next.0.saturating_sub(at.0))));
                    }
                    Err(error) => shared.complain(chain(&error)),
                }
            }
            shared = self.wait(shared, pause.max(Duration::from_millis(50)));
        }
    }

    /// Notes what came of attempts in a lane, which is free then.
    fn mark(&self, lane: Lane, results: Vec<(Vec<Delivery>, Outcome)>) {
        let marks: Vec<Mark> =
            results.into_iter().filter_map(|(deliveries, outcome)| mark_of(&deliveries, outcome)).collect();
        let mut shared = self.lock();
        shared.unwritten.extend(marks.into_iter().map(|mark| (mark, None)));
        if let Some((_, last)) = shared.unwritten.last_mut() {
            *last = Some(lane);
        }
        shared.write_marks();
        drop(shared);
        self.changed.notify_all();
    }
}

/// What is written of deliveries to one target with one outcome. Says which of them are given up.
fn mark_of(deliveries: &[Delivery], outcome: Outcome) -> Option<Mark> {
    let Queue { kind, target, .. } = &deliveries.first()?.queue;
    let all = || deliveries.iter().map(|delivery| delivery.id).collect();
    let (why, wait) = match outcome {
        Outcome::Delivered => {
            let sent = match (kind, deliveries.len()) {
                (TargetKind::Mail, 1) => Sent::One(target.clone()),
                (TargetKind::Mail, _) => Sent::Digest(target.clone()),
                _ => Sent::Uncounted,
            };
            return Some(Mark::Remove(all(), sent));
        }
        Outcome::Unwanted => return Some(Mark::Remove(all(), Sent::Uncounted)),
        Outcome::Never(why) => (why, None),
        Outcome::Again(why) => (why, Some(Duration::ZERO)),
        Outcome::Later(why, wait) => (why, Some(wait)),
    };
    // Each by its own attempts: those of a digest have come one after another.
    let next = |delivery: &Delivery| wait.and_then(|wait| next_attempt(delivery.attempts, wait));
    let failed: Vec<(u64, Option<Moment>)> = deliveries.iter().map(|delivery| (delivery.id, next(delivery))).collect();
    let given_up: Vec<u64> = failed.iter().filter(|(_, next)| next.is_none()).map(|(id, _)| *id).collect();
    let (name, shown) = (target.escape_debug(), why.escape_debug());
    match given_up.as_slice() {
        [] => {}
        [id] => complain(&format!("delivery {id} to the {kind} \"{name}\" is given up: {shown}")),
        [first, .., last] => {
            let count = given_up.len();
            complain(&format!("{count} deliveries to the {kind} \"{name}\", {first} to {last}, are given up: {shown}"));
        }
    }
    Some(Mark::Fail(failed, why))
}

/// When a delivery is tried again that has failed once more: after the pause of the table, or later if the target wants that, up to
/// the longest pause. `None` after the last attempt.
fn next_attempt(attempts: u32, wait: Duration) -> Option<Moment> {
    let pause = usize::try_from(attempts).ok().and_then(|attempts| RETRIES.get(attempts))?;
    let longest = RETRIES.iter().copied().max().unwrap_or(*pause);
    Some(Moment(now().0 + wait.as_secs().clamp(*pause, longest)))
}

impl Shared {
    /// The next delivery of a kind that is due; with all others to its address, when they are too many for a message each.
    fn next_work(&mut self, kind: TargetKind, at: Moment) -> Result<Option<Work>, StateError> {
        loop {
            let Some(first) = self.state.due(kind, at, &self.busy, WORKERS_OF_TARGET, 1)?.pop() else {
                return Ok(None);
            };
            if first.queue.kind != TargetKind::Mail {
                return Ok(Some(Work(vec![first])));
            }
            let since = Moment(at.0.saturating_sub(BURST_TIME));
            let Burst { waiting, sent, digest } = self.state.burst(&first.queue.target, since)?;
            if waiting.saturating_add(sent) <= BURST && digest.is_none() {
                return Ok(Some(Work(vec![first])));
            }
            match digest {
                // What comes soon after a digest waits for the next one.
                Some(digest) => self.state.postpone(first.id, Moment(digest.0 + BURST_TIME + 1))?,
                None => return Ok(Some(Work(self.state.waiting_for(&first.queue.target)?))),
            }
        }
    }

    /// Writes the results of attempts, as far as the disk lets it.
    fn write_marks(&mut self) {
        while let Some((mark, _)) = self.unwritten.first() {
            let written = match mark {
                Mark::Remove(ids, sent) => self.state.remove(ids, sent),
                Mark::Fail(all, why) => self.state.fail(all, why),
            };
            match written {
                Ok(()) => {
                    if let (_, Some(lane)) = self.unwritten.remove(0) {
                        self.busy.remove(&lane);
                    }
                    self.complaint = None;
                }
                Err(error) => return self.complain(chain(&error)),
            }
        }
    }

    fn complain(&mut self, message: String) {
        if self.complaint.as_ref() != Some(&message) {
            complain(&message);
            self.complaint = Some(message);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::state::Payload;
    use crate::state::tests::{event, new};
    use bailiwick_types::TargetKind;

    /// Notes what it is to deliver. Its targets are `good`, `bad`, `dead` and `gone`.
    #[derive(Debug, Default, Clone)]
    pub(crate) struct Recorder {
        pub(crate) got: Arc<Mutex<Vec<(String, u64)>>>,
    }

    impl Recorder {
        pub(crate) fn got(&self) -> Vec<(String, u64)> {
            self.got.lock().expect("lock").clone()
        }
    }

    impl Target for Recorder {
        fn kind(&self) -> TargetKind {
            TargetKind::Webhook
        }

        fn targets_of(&self, event: &Event, _: &Settings) -> Vec<String> {
            if event.tenant.is_some() { vec!["good".to_owned(), "bad".to_owned()] } else { Vec::new() }
        }

        fn deliver(&self, delivery: &Delivery, _: &Settings) -> Outcome {
            let Payload::Event(event) = &delivery.payload else { panic!("no event") };
            let target = delivery.queue.target.as_str();
            self.got.lock().expect("lock").push((target.to_owned(), event.seq));
            match target {
                "bad" => Outcome::Again("no".to_owned()),
                "dead" => Outcome::Never("no".to_owned()),
                "gone" => Outcome::Unwanted,
                _ => Outcome::Delivered,
            }
        }
    }

    #[test]
    fn a_target_can_put_the_next_attempt_off_but_not_for_long() {
        for (attempts, wait, pause) in [(0, 0, 10), (0, 5, 10), (0, 90, 90), (3, 90, 3600), (0, u64::MAX, 21_600)] {
            let before = now().0;
            let next = next_attempt(attempts, Duration::from_secs(wait)).expect("there is one").0;
            assert!((before + pause..=now().0 + pause).contains(&next), "{attempts} {wait}");
        }
        assert_eq!(next_attempt(5, Duration::from_secs(90)), None);
    }

    pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_so() {
            assert!(Instant::now() < deadline, "waited for: {what}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn engine() -> (tempfile::TempDir, Recorder, Arc<Engine>) {
        let temp = tempfile::tempdir().expect("temporary directory");
        let recorder = Recorder::default();
        let (state, _) = State::open(&temp.path().join("notify.db")).expect("opens");
        (temp, recorder.clone(), Engine::new(state, vec![Box::new(recorder)]))
    }

    fn end(engine: &Engine, threads: Vec<JoinHandle<()>>) {
        engine.end();
        threads.into_iter().for_each(|thread| thread.join().expect("ends"));
    }

    #[test]
    fn events_become_deliveries_and_nothing_is_delivered_before_the_policy_is_known() {
        let (_temp, recorder, engine) = engine();
        let events = [event(1, Some("alice")), event(2, None), event(3, Some("alice"))];
        engine.take_events(3, &events, &Settings::default()).expect("writes");
        let threads = engine.start().expect("starts");
        assert!(!engine.pause(Duration::from_millis(100)));
        assert_eq!(recorder.got(), []);
        engine.set_settings(Settings::default());
        until("both are tried", || recorder.got().len() == 3);
        until("the first is over", || engine.lock().state.counts().expect("counts") == (2, 0));
        let mut got = recorder.got();
        got.sort();
        // `bad` is tried again after ten seconds, and its second delivery waits for the first.
        assert_eq!(got, [("bad".to_owned(), 1), ("good".to_owned(), 1), ("good".to_owned(), 3)]);
        assert_eq!(engine.cursor().expect("reads"), Some(3));
        end(&engine, threads);
    }

    /// Notes what it is to deliver, and delivers the first of one tenant only together with the first of another.
    #[derive(Debug, Default, Clone)]
    struct Meeting(Arc<Mutex<Vec<(String, u64)>>>);

    impl Target for Meeting {
        fn kind(&self) -> TargetKind {
            TargetKind::Webhook
        }

        fn targets_of(&self, _: &Event, _: &Settings) -> Vec<String> {
            Vec::new()
        }

        fn deliver(&self, delivery: &Delivery, _: &Settings) -> Outcome {
            let Payload::Event(event) = &delivery.payload else { panic!("no event") };
            let tenant = event.tenant.as_ref().expect("of a tenant").to_string();
            self.0.lock().expect("lock").push((tenant.clone(), event.seq));
            until("the other queue is served too", || {
                self.0.lock().expect("lock").iter().any(|(other, _)| *other != tenant)
            });
            Outcome::Delivered
        }
    }

    #[test]
    fn the_order_of_a_queue_holds_with_several_workers_and_queues_do_not_wait_for_each_other() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let meeting = Meeting::default();
        let (state, _) = State::open(&temp.path().join("notify.db")).expect("opens");
        let engine = Engine::new(state, vec![Box::new(meeting.clone())]);
        let all: Vec<_> =
            (1..=10).flat_map(|seq| [new("one", Some("alice"), seq), new("one", Some("bob"), seq)]).collect();
        engine.lock().state.take(None, &all, &[]).expect("writes");
        engine.set_settings(Settings::default());
        let threads = engine.start().expect("starts");
        until("all are made", || engine.lock().state.counts().expect("counts") == (0, 0));
        let got = meeting.0.lock().expect("lock").clone();
        for tenant in ["alice", "bob"] {
            let seqs: Vec<u64> = got.iter().filter(|(name, _)| name == tenant).map(|(_, seq)| *seq).collect();
            assert_eq!(seqs, (1..=10).collect::<Vec<_>>(), "{tenant}");
        }
        end(&engine, threads);
    }

    /// Hangs while it delivers to `hang`, until it is let go.
    #[derive(Debug, Clone)]
    struct Hanging(TargetKind, Arc<(Mutex<(usize, bool)>, Condvar)>);

    impl Target for Hanging {
        fn kind(&self) -> TargetKind {
            self.0
        }

        fn targets_of(&self, _: &Event, _: &Settings) -> Vec<String> {
            Vec::new()
        }

        fn deliver(&self, delivery: &Delivery, _: &Settings) -> Outcome {
            if delivery.queue.target == "hang" {
                let (state, changed) = &*self.1;
                let mut state = state.lock().expect("lock");
                state.0 += 1;
                let state = changed.wait_while(state, |(_, is_free)| !*is_free).expect("lock");
                drop(state);
            }
            Outcome::Delivered
        }
    }

    #[test]
    fn a_target_that_hangs_holds_up_no_other_one_and_no_other_kind() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let hanging = Arc::new((Mutex::default(), Condvar::new()));
        let (state, _) = State::open(&temp.path().join("notify.db")).expect("opens");
        let of_kind = |kind| -> Box<dyn Target> { Box::new(Hanging(kind, Arc::clone(&hanging))) };
        let engine = Engine::new(state, TargetKind::ALL.map(of_kind).into());
        let to = |kind, target: &str, count: u64| {
            let one = move |seq| {
                let mut new = new(target, Some(&format!("t{seq}")), seq);
                new.queue.kind = kind;
                new
            };
            (0..count).map(one).collect::<Vec<_>>()
        };
        // Many tenants' deliveries to the one that hangs come first.
        let storm = [TargetKind::Webhook, TargetKind::Hook].map(|kind| to(kind, "hang", 20)).concat();
        engine.lock().state.take(None, &storm, &[]).expect("writes");
        engine.set_settings(Settings::default());
        let threads = engine.start().expect("starts");
        let begun = || hanging.0.lock().expect("lock").0;
        until("it hangs as often as it may", || begun() == 2 * WORKERS_OF_TARGET);
        let others =
            [to(TargetKind::Webhook, "good", 5), to(TargetKind::Hook, "good", 5), to(TargetKind::Mail, "a@b", 5)];
        engine.lock().state.take(None, &others.concat(), &[]).expect("writes");
        engine.changed.notify_all();
        until("all others are made", || engine.counts().expect("counts").0 == 40);
        assert_eq!(begun(), 2 * WORKERS_OF_TARGET);
        hanging.0.lock().expect("lock").1 = true;
        hanging.1.notify_all();
        until("those are made too", || engine.counts().expect("counts").0 == 0);
        end(&engine, threads);
    }

    /// Its earlier attempt at delivery 1 goes on, and that at delivery 2 was made. Notes what it is to deliver.
    #[derive(Debug, Default, Clone)]
    struct Earlier(Arc<Mutex<Vec<u64>>>);

    impl Target for Earlier {
        fn kind(&self) -> TargetKind {
            TargetKind::Mail
        }

        fn targets_of(&self, _: &Event, _: &Settings) -> Vec<String> {
            Vec::new()
        }

        fn earlier(&self, delivery: &Delivery) -> Option<Outcome> {
            match delivery.id {
                1 => Some(Outcome::Again("it goes on".to_owned())),
                2 => Some(Outcome::Delivered),
                _ => None,
            }
        }

        fn deliver(&self, _: &Delivery, _: &Settings) -> Outcome {
            panic!("there are several")
        }

        fn deliver_together(&self, deliveries: &[Delivery], _: &Settings) -> Outcome {
            self.0.lock().expect("lock").extend(deliveries.iter().map(|delivery| delivery.id));
            Outcome::Delivered
        }
    }

    #[test]
    fn no_attempt_begins_while_an_earlier_one_goes_on_and_one_that_was_made_is_not_repeated() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let earlier = Earlier::default();
        let (state, _) = State::open(&temp.path().join("notify.db")).expect("opens");
        let engine = Engine::new(state, vec![Box::new(earlier.clone())]);
        let mail = |seq| {
            let mut new = new("ops@example.org", Some("alice"), seq);
            new.queue.kind = TargetKind::Mail;
            new
        };
        engine.lock().state.take(None, &[1, 2, 3, 4].map(mail), &[]).expect("writes");
        let all = engine.lock().state.waiting_for("ops@example.org").expect("reads");
        engine.lock().busy.insert(all[0].queue.lane());
        engine.attempt(TargetKind::Mail, all, &Settings::default());
        assert_eq!(*earlier.0.lock().expect("lock"), [3, 4]);
        let waiting: Vec<(u64, String)> =
            engine.failures(false).expect("reads").into_iter().map(|failed| (failed.id, failed.error)).collect();
        assert_eq!(waiting, [(1, "it goes on".to_owned())]);
        assert_eq!(engine.counts().expect("counts"), (1, 0));
        assert!(engine.lock().busy.is_empty());
    }

    #[test]
    fn a_digest_gives_up_only_what_is_on_its_last_try() {
        let (_temp, _, engine) = engine();
        let mail = |seq| {
            let mut new = new("ops@example.org", Some("alice"), seq);
            new.queue.kind = TargetKind::Mail;
            new
        };
        engine.lock().state.take(None, &[mail(1), mail(2), mail(3)], &[]).expect("writes");
        let tries = u32::try_from(RETRIES.len()).expect("few");
        let mut all = engine.lock().state.waiting_for("ops@example.org").expect("reads");
        (all[0].attempts, all[1].attempts) = (tries, 3);
        let before = now().0;
        engine.mark(all[0].queue.lane(), vec![(all, Outcome::Again("no".to_owned()))]);
        assert_eq!(engine.counts().expect("counts"), (2, 1));
        let waiting: Vec<(u64, Option<Moment>)> =
            engine.failures(false).expect("reads").into_iter().map(|failed| (failed.id, failed.next)).collect();
        let is_after =
            |next: Option<Moment>, pause| next.is_some_and(|next| (before + pause..=now().0 + pause).contains(&next.0));
        assert!(waiting[0].0 == 2 && is_after(waiting[0].1, RETRIES[3]), "{waiting:?}");
        assert!(waiting[1].0 == 3 && is_after(waiting[1].1, RETRIES[0]), "{waiting:?}");
    }

    #[test]
    fn pauses_grow_until_a_delivery_is_given_up() {
        let (_temp, _, engine) = engine();
        let all = [new("bad", None, 1), new("dead", None, 2), new("gone", None, 3)];
        engine.lock().state.take(None, &all, &[]).expect("writes");
        for (attempt, pause) in RETRIES.into_iter().enumerate() {
            let mut shared = engine.lock();
            let at = Moment(now().0 + pause);
            let Work(first) = shared.next_work(TargetKind::Webhook, at).expect("reads").expect("one is due");
            assert_eq!((first[0].queue.target.as_str(), usize::try_from(first[0].attempts)), ("bad", Ok(attempt)));
            drop(shared);
            let before = now().0;
            engine.mark(first[0].queue.lane(), vec![(first, Outcome::Again("no".to_owned()))]);
            let next = engine.lock().state.next_attempt(Moment(before + 1)).expect("reads").expect("there is one");
            assert!((before + pause..=now().0 + pause).contains(&next.0), "{pause}");
        }
        let Work(last) = engine
            .lock()
            .next_work(TargetKind::Webhook, Moment(now().0 + RETRIES[4]))
            .expect("reads")
            .expect("one is due");
        engine.mark(last[0].queue.lane(), vec![(last, Outcome::Again("no".to_owned()))]);
        assert_eq!(engine.lock().state.counts().expect("counts"), (2, 1));
        engine.set_settings(Settings::default());
        let threads = engine.start().expect("starts");
        until("the others are over", || engine.lock().state.counts().expect("counts") == (0, 2));
        end(&engine, threads);
    }

    /// Notes how many deliveries each message to an address has.
    #[derive(Debug, Default, Clone)]
    struct Mailbox(Arc<Mutex<Vec<usize>>>);

    impl Target for Mailbox {
        fn kind(&self) -> TargetKind {
            TargetKind::Mail
        }

        fn targets_of(&self, _: &Event, _: &Settings) -> Vec<String> {
            Vec::new()
        }

        fn deliver(&self, _: &Delivery, _: &Settings) -> Outcome {
            self.0.lock().expect("lock").push(1);
            Outcome::Delivered
        }

        fn deliver_together(&self, deliveries: &[Delivery], _: &Settings) -> Outcome {
            self.0.lock().expect("lock").push(deliveries.len());
            Outcome::Delivered
        }
    }

    #[test]
    fn a_storm_becomes_one_message_and_what_follows_waits_for_the_next() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let mailbox = Mailbox::default();
        let (state, _) = State::open(&temp.path().join("notify.db")).expect("opens");
        let engine = Engine::new(state, vec![Box::new(mailbox.clone())]);
        let mail = |count: u64, tenant: &str| -> Vec<crate::state::NewDelivery> {
            let one = |seq| {
                let mut new = new("ops@example.org", Some(tenant), seq);
                new.queue.kind = TargetKind::Mail;
                new
            };
            (0..count).map(one).collect()
        };
        let counts = || engine.counts().expect("counts").0;
        engine.set_settings(Settings::default());
        engine.lock().state.take(None, &mail(40, "alice"), &[]).expect("writes");
        let threads = engine.start().expect("starts");
        until("few are sent one by one", || counts() == 0);
        assert_eq!(mailbox.0.lock().expect("lock").len(), 40);
        engine.lock().state.take(None, &[mail(100, "bob"), mail(100, "carol")].concat(), &[]).expect("writes");
        until("many are sent as one", || counts() == 0);
        assert_eq!(mailbox.0.lock().expect("lock")[40..], [200]);
        engine.lock().state.take(None, &mail(3, "bob"), &[]).expect("writes");
        engine.changed.notify_all();
        let at = || engine.lock().state.next_attempt(now()).expect("reads");
        until("they wait", || at().is_some_and(|next| next.0 > now().0 + BURST_TIME / 2));
        assert_eq!((counts(), mailbox.0.lock().expect("lock").len()), (3, 41));
        end(&engine, threads);
        // After the pause they come one by one: they are few.
        let after = Moment(now().0 + BURST_TIME + 2);
        let Work(next) = engine.lock().next_work(TargetKind::Mail, after).expect("reads").expect("one is due");
        assert_eq!(next.len(), 1);
    }
}
