//! The end of one jail: init is asked to end, then everything is killed, then the empty groups and all notes are removed.
//!
//! ```text
//!                stop: init gets SIGTERM            its time is over, or it has ended
//!     running ------------------------> asked ----------------------------------------> killed
//!        |                                                                                |  ^ tried again, logged once
//!        | init ended by itself, or the start failed                                      +--+
//!        +-----------------------------------------------------------------------------> killed
//!                                                                                         | its groups are empty
//!                                                                                        (down)
//! ```
//!
//! `list` calls both states `clearing`. The warden's loop moves each of them; [`Ending`] says when, and how often.

use crate::limits::tenant_groups;
use bailiwick_sys::process;
use rustix::event::PollFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a jail has to end by itself, beside the time of its services. Init gives its other processes two seconds.
const STOP_TIME: Duration = Duration::from_secs(3);
/// How long requests wait for a jail whose services take their time. It is less than their clients wait.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long the kernel may take to empty a killed group before waiting requests get a failure.
pub(crate) const CLEAR_TIME: Duration = Duration::from_secs(5);
/// Between two looks at a group that is not empty. Its file reports sooner.
const LOOK_TIME: Duration = Duration::from_millis(20);
/// The same, after it was logged that the group does not empty.
const LATE_LOOK_TIME: Duration = Duration::from_secs(1);
/// The first pause while the kernel frees an empty group. Each pause is twice the last.
const LEAST_PAUSE: Duration = Duration::from_micros(50);
/// Why a group is not empty, if nothing else is known.
pub(crate) const STUCK: &str = "its processes do not end (uninterruptible in the kernel?)";

#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) init: Option<OwnedFd>,
    /// Until when init may end by itself; `None` once everything is killed.
    asked_until: Option<Instant>,
    /// When it began to end.
    begun: Instant,
    /// When everything was killed, or will be at the latest.
    killed: Instant,
    due: Instant,
    pause: Duration,
    /// Reports when the processes are gone.
    pub(crate) events: Option<OwnedFd>,
    is_empty: bool,
    pub(crate) problem: Option<String>,
    pub(crate) is_logged: bool,
    /// Init ended without being asked.
    pub(crate) by_itself: bool,
}

impl Ending {
    /// A jail of which everything is killed at once.
    pub(crate) fn new(init: Option<OwnedFd>, by_itself: bool, now: Instant) -> Self {
        Self {
            init,
            asked_until: None,
            begun: now,
            killed: now,
            due: now,
            pause: LEAST_PAUSE,
            events: None,
            is_empty: false,
            problem: None,
            is_logged: false,
            by_itself,
        }
    }

    /// A jail whose init was asked to end. `services` is how long its services may take.
    pub(crate) fn asked(init: OwnedFd, services: Duration, now: Instant) -> Self {
        let until = now + services + STOP_TIME;
        Self { asked_until: Some(until), killed: until, ..Self::new(Some(init), false, now) }
    }

    /// From then on, nobody waits for it any more.
    pub(crate) fn late(&self) -> Instant {
        self.killed.min(self.begun + PATIENCE) + CLEAR_TIME
    }

    /// Whether everything was killed a while ago, and something is left.
    pub(crate) fn is_stuck(&self, now: Instant) -> bool {
        now >= self.killed + CLEAR_TIME
    }

    /// Whether its services still have time to end by themselves.
    pub(crate) fn has_time(&self) -> bool {
        self.asked_until.is_some()
    }

    /// The time of the next look at the latest.
    pub(crate) fn due(&self) -> Instant {
        self.asked_until.unwrap_or(self.due)
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        if let Some(until) = self.asked_until {
            let has_ended = |init| process::has_ended(init, Duration::ZERO).unwrap_or(true);
            return now >= until || self.init.as_ref().is_none_or(has_ended);
        }
        now >= self.due || (!self.is_empty && self.events.as_ref().is_some_and(tenant_groups::is_empty))
    }

    /// The descriptor that reports the next change.
    pub(crate) fn fd(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match (&self.init, &self.events) {
            (Some(init), _) if self.asked_until.is_some() => Some((init.as_fd(), PollFlags::IN)),
            (_, Some(events)) if !self.is_empty => Some((events.as_fd(), PollFlags::PRI)),
            _ => None,
        }
    }

    /// From now on, each look kills everything.
    pub(crate) fn kill(&mut self, now: Instant) {
        if self.asked_until.take().is_some() {
            self.killed = now;
        }
    }

    /// Something of the jail is left: sets the time of the next look. Returns the reason once, when it is late.
    pub(crate) fn look_again(&mut self, problem: Option<String>, is_empty: bool, now: Instant) -> Option<String> {
        self.problem = problem;
        self.is_empty = is_empty;
        self.pause = (self.pause * 2).min(LOOK_TIME);
        let is_late = self.is_stuck(now);
        self.due = now
            + match () {
                () if is_late => LATE_LOOK_TIME,
                () if is_empty && self.problem.is_none() => self.pause,
                () => LOOK_TIME,
            };
        let is_news = is_late && !self.is_logged;
        self.is_logged |= is_late;
        is_news.then(|| self.problem.clone().unwrap_or_else(|| STUCK.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_stays_populated_is_retried_more_slowly_and_logged_once() {
        let begin = Instant::now();
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        let mut ending = Ending::new(None, false, begin);
        assert!(ending.is_due(begin), "it is killed at once");
        let mut look = |at: Instant, is_empty, problem: Option<&str>| {
            let why = ending.look_again(problem.map(str::to_owned), is_empty, at);
            (ending.due() - at, why)
        };
        // The kernel mostly frees an empty group within microseconds.
        assert_eq!(look(begin, true, None), (LEAST_PAUSE * 2, None));
        assert_eq!(look(begin, true, None), (LEAST_PAUSE * 4, None));
        assert_eq!(look(at(10), false, None), (LOOK_TIME, None), "its file reports sooner");
        assert_eq!(look(at(10), true, Some("a directory")), (LOOK_TIME, None));
        assert_eq!(look(at(4_999), false, None), (LOOK_TIME, None));
        assert_eq!(look(at(5_000), false, None), (LATE_LOOK_TIME, Some(STUCK.to_owned())));
        assert_eq!(look(at(6_000), false, Some("a directory")), (LATE_LOOK_TIME, None), "once");
        for _ in 0..20 {
            look(at(100), true, None);
        }
        assert_eq!(look(at(100), true, None), (LOOK_TIME, None), "the pause has a bound");
    }

    #[test]
    fn the_time_limit_of_a_stop_begins_with_the_kill() {
        let begin = Instant::now();
        let init = process::open(std::process::id()).expect("this process");
        let services = Duration::from_secs(300);
        let long = Ending::asked(init.try_clone().expect("duplicates"), services, begin);
        assert_eq!(long.late(), begin + PATIENCE + CLEAR_TIME, "nobody waits that long");
        assert!(!long.is_due(begin + services) && long.is_due(begin + services + STOP_TIME));
        assert!(!long.is_stuck(long.late()) && long.is_stuck(begin + services + STOP_TIME + CLEAR_TIME));
        let mut ending = Ending::asked(init, Duration::ZERO, begin);
        assert_eq!(ending.late(), begin + STOP_TIME + CLEAR_TIME);
        assert!(!ending.is_due(begin) && ending.is_due(begin + STOP_TIME) && ending.has_time());
        let soon = begin + Duration::from_millis(1);
        ending.kill(soon);
        assert!(!ending.has_time());
        assert_eq!((ending.late(), ending.is_due(soon)), (soon + CLEAR_TIME, true));
        ending.kill(soon + STOP_TIME);
        assert_eq!(ending.late(), soon + CLEAR_TIME, "later kills change nothing");
    }
}
