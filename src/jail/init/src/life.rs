//! The life of one supervised program: its states, and what is done next. Pure: time comes in as a value, and what must be done
//! goes out as a [`Deed`].
//!
//! ```text
//!            start              ready                 ends
//! Waiting ----------> Starting -------> Running ----------------+
//!    ^                   |  not ready in time, or ends          |
//!    |   the pause       +--------------------------------------+
//!    |   is over                                                v
//! BackOff <---------------------- by its `restart` --------- (ended) ---> Ended, Failed
//!
//! Starting, Running --stop--> Stopping --ends--> Stopped, or Waiting after a restart
//! ```

use bailiwick_types::{Moment, Readiness, Restart, ServiceEnd, ServiceState};
use std::time::{Duration, Instant};

/// The pause before the first restart. Each further one doubles it, up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// A program that ran this long is healthy: the next pause is the first again.
const WELL: Duration = Duration::from_secs(10);
/// How long a program may take to be ready.
const READY_TIME: Duration = Duration::from_secs(60);

/// What decides about a program's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) restart: Restart,
    pub(crate) ready: Readiness,
    /// How long it may take to end, before it is killed.
    pub(crate) stop_within: Duration,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Nothing,
    /// Start the program, and tell [`Life::started`].
    Start,
    /// Send its stop signal.
    Stop,
    /// Kill it with everything that it started.
    Kill,
}

/// What follows a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Stay,
    StartAgain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Starting { until: Instant },
    Running,
    BackOff { again: Instant },
    Stopping { kill_at: Instant, then: Then },
    Stopped,
    Ended,
    Failed,
}

/// The life of one program.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    phase: Phase,
    since: Moment,
    started: Option<Instant>,
    pause: Duration,
    restarts: u64,
    last_end: Option<ServiceEnd>,
    /// Set when it was killed because it was not ready in time.
    was_late: bool,
}

impl Life {
    pub(crate) fn new(now: Moment) -> Self {
        Self {
            phase: Phase::Waiting,
            since: now,
            started: None,
            pause: FIRST_PAUSE,
            restarts: 0,
            last_end: None,
            was_late: false,
        }
    }

    fn enter(&mut self, phase: Phase, wall: Moment) {
        (self.phase, self.since) = (phase, wall);
    }

    /// What is due. `may_start` says whether everything that it comes after is ready.
    pub(crate) fn due(&mut self, now: Instant, wall: Moment, may_start: bool) -> Deed {
        match self.phase {
            Phase::Waiting if may_start => Deed::Start,
            Phase::BackOff { again } if now >= again => {
                self.restarts += 1;
                // It is no longer the pause that it waits for.
                self.enter(Phase::Waiting, wall);
                if may_start { Deed::Start } else { Deed::Nothing }
            }
            Phase::Starting { until } if now >= until => {
                self.was_late = true;
                // Once is enough: what was killed ends.
                self.phase = Phase::Starting { until: now + READY_TIME };
                Deed::Kill
            }
            Phase::Stopping { kill_at, then } if now >= kill_at => {
                self.phase = Phase::Stopping { kill_at: now + READY_TIME, then };
                Deed::Kill
            }
            Phase::Waiting
            | Phase::Starting { .. }
            | Phase::Running
            | Phase::BackOff { .. }
            | Phase::Stopping { .. }
            | Phase::Stopped
            | Phase::Ended
            | Phase::Failed => Deed::Nothing,
        }
    }

    /// When [`Self::due`] has something to do without another event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Starting { until } => Some(until),
            Phase::BackOff { again } => Some(again),
            Phase::Stopping { kill_at, .. } => Some(kill_at),
            Phase::Waiting | Phase::Running | Phase::Stopped | Phase::Ended | Phase::Failed => None,
        }
    }

    /// Its process is there and does not execute the program yet.
    pub(crate) fn started(&mut self, now: Instant, wall: Moment) {
        (self.started, self.was_late) = (Some(now), false);
        self.enter(Phase::Starting { until: now + READY_TIME }, wall);
    }

    /// Its program runs.
    pub(crate) fn executed(&mut self, rules: Rules, wall: Moment) {
        if rules.ready == Readiness::None {
            self.ready(wall);
        }
    }

    pub(crate) fn ready(&mut self, wall: Moment) {
        if matches!(self.phase, Phase::Starting { .. }) {
            self.enter(Phase::Running, wall);
        }
    }

    /// Its main process has ended, or could not be made.
    pub(crate) fn ended(&mut self, end: ServiceEnd, rules: Rules, now: Instant, wall: Moment) {
        let end = if self.was_late { ServiceEnd::NotReady } else { end };
        self.last_end = Some(end);
        if self.started.take().is_some_and(|started| now.duration_since(started) >= WELL) {
            self.pause = FIRST_PAUSE;
        }
        let is_good = end == ServiceEnd::Exited(0);
        let phase = match (self.phase, rules.restart) {
            (Phase::Stopping { then: Then::Stay, .. }, _) => Phase::Stopped,
            (Phase::Stopping { then: Then::StartAgain, .. }, _) => Phase::Waiting,
            (_, Restart::Always) => self.back_off(now),
            (_, Restart::OnFailure) if !is_good => self.back_off(now),
            (_, Restart::OnFailure | Restart::Never) => {
                if is_good {
                    Phase::Ended
                } else {
                    Phase::Failed
                }
            }
        };
        self.enter(phase, wall);
    }

    fn back_off(&mut self, now: Instant) -> Phase {
        let again = now + self.pause;
        self.pause = (self.pause * 2).min(LAST_PAUSE);
        Phase::BackOff { again }
    }

    /// Somebody wants it up.
    pub(crate) fn start(&mut self, wall: Moment) {
        match self.phase {
            Phase::Stopped | Phase::Ended | Phase::Failed | Phase::BackOff { .. } => {
                self.pause = FIRST_PAUSE;
                self.enter(Phase::Waiting, wall);
            }
            Phase::Stopping { kill_at, .. } => self.phase = Phase::Stopping { kill_at, then: Then::StartAgain },
            Phase::Waiting | Phase::Starting { .. } | Phase::Running => {}
        }
    }

    /// Somebody wants it down.
    pub(crate) fn stop(&mut self, rules: Rules, now: Instant, wall: Moment) -> Deed {
        self.leave(Then::Stay, rules, now, wall)
    }

    /// Somebody wants it started anew.
    pub(crate) fn restart(&mut self, rules: Rules, now: Instant, wall: Moment) -> Deed {
        self.pause = FIRST_PAUSE;
        self.leave(Then::StartAgain, rules, now, wall)
    }

    fn leave(&mut self, then: Then, rules: Rules, now: Instant, wall: Moment) -> Deed {
        match self.phase {
            Phase::Starting { .. } | Phase::Running => {
                self.enter(Phase::Stopping { kill_at: now + rules.stop_within, then }, wall);
                Deed::Stop
            }
            Phase::Stopping { kill_at, .. } => {
                self.phase = Phase::Stopping { kill_at, then };
                Deed::Nothing
            }
            Phase::Waiting | Phase::BackOff { .. } | Phase::Stopped | Phase::Ended | Phase::Failed => {
                let phase = if then == Then::Stay { Phase::Stopped } else { Phase::Waiting };
                self.enter(phase, wall);
                Deed::Nothing
            }
        }
    }

    /// Whether those that come after it may start.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Ended)
    }

    /// Whether it waits to be connected to or to be told that it is ready.
    pub(crate) fn is_starting(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. })
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    pub(crate) fn state(&self) -> ServiceState {
        match self.phase {
            Phase::Waiting => ServiceState::Waiting,
            Phase::Starting { .. } => ServiceState::Starting,
            Phase::Running => ServiceState::Running,
            Phase::BackOff { .. } => ServiceState::BackOff,
            Phase::Stopping { .. } => ServiceState::Stopping,
            Phase::Stopped => ServiceState::Stopped,
            Phase::Ended => ServiceState::Ended,
            Phase::Failed => ServiceState::Failed,
        }
    }

    pub(crate) fn since(&self) -> Moment {
        self.since
    }

    pub(crate) fn restarts(&self) -> u64 {
        self.restarts
    }

    pub(crate) fn last_end(&self) -> Option<ServiceEnd> {
        self.last_end
    }

    /// When it is started again.
    pub(crate) fn again(&self, now: Instant, wall: Moment) -> Option<Moment> {
        match self.phase {
            Phase::BackOff { again } => Some(Moment(wall.0 + again.saturating_duration_since(now).as_secs())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: Moment = Moment(1000);
    const RULES: Rules =
        Rules { restart: Restart::Always, ready: Readiness::None, stop_within: Duration::from_secs(5) };

    fn running(rules: Rules, now: Instant) -> Life {
        let mut life = Life::new(WALL);
        assert_eq!(life.due(now, WALL, true), Deed::Start);
        life.started(now, WALL);
        life.executed(rules, WALL);
        life
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_a_healthy_run_resets_them() {
        let mut now = Instant::now();
        let mut life = running(RULES, now);
        for tenths in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600] {
            life.ended(ServiceEnd::Exited(1), RULES, now, WALL);
            let pause = Duration::from_millis(tenths * 100);
            assert_eq!((life.state(), life.deadline()), (ServiceState::BackOff, Some(now + pause)));
            assert_eq!(life.due(now + pause - Duration::from_millis(1), WALL, true), Deed::Nothing);
            now += pause;
            assert_eq!(life.due(now, WALL, true), Deed::Start);
            life.started(now, WALL);
            life.executed(RULES, WALL);
        }
        assert_eq!(life.restarts(), 12);
        now += WELL;
        life.ended(ServiceEnd::Killed(9), RULES, now, WALL);
        assert_eq!(life.deadline(), Some(now + FIRST_PAUSE));
    }

    #[test]
    fn an_end_is_followed_as_the_rules_say() {
        use ServiceState::{BackOff, Ended, Failed};
        let cases = [
            (Restart::Always, ServiceEnd::Exited(0), BackOff),
            (Restart::Always, ServiceEnd::Killed(9), BackOff),
            (Restart::OnFailure, ServiceEnd::Exited(0), Ended),
            (Restart::OnFailure, ServiceEnd::Exited(1), BackOff),
            (Restart::OnFailure, ServiceEnd::NotStarted(2), BackOff),
            (Restart::Never, ServiceEnd::Exited(0), Ended),
            (Restart::Never, ServiceEnd::Killed(15), Failed),
        ];
        for (restart, end, state) in cases {
            let (rules, now) = (Rules { restart, ..RULES }, Instant::now());
            let mut life = running(rules, now);
            life.ended(end, rules, now, WALL);
            assert_eq!(life.state(), state, "{restart} {end:?}");
            // A verb starts it from each of these at once.
            life.start(WALL);
            assert_eq!(life.due(now, WALL, true), Deed::Start);
        }
    }

    #[test]
    fn a_stop_is_a_signal_then_a_kill_then_the_end() {
        let now = Instant::now();
        let mut life = running(RULES, now);
        assert_eq!(life.stop(RULES, now, WALL), Deed::Stop);
        assert_eq!(life.stop(RULES, now, WALL), Deed::Nothing);
        assert_eq!(life.due(now + Duration::from_secs(4), WALL, true), Deed::Nothing);
        assert_eq!(life.due(now + Duration::from_secs(5), WALL, true), Deed::Kill);
        assert_eq!(life.due(now + Duration::from_secs(6), WALL, true), Deed::Nothing);
        life.ended(ServiceEnd::Killed(9), RULES, now, WALL);
        assert!(life.is_stopped());
        assert_eq!(life.due(now + Duration::from_secs(600), WALL, true), Deed::Nothing);
        assert_eq!(life.restart(RULES, now, WALL), Deed::Nothing);
        assert_eq!(life.due(now, WALL, true), Deed::Start);
    }

    #[test]
    fn a_restart_of_a_running_program_starts_it_without_a_pause() {
        let now = Instant::now();
        let mut life = running(RULES, now);
        assert_eq!(life.restart(RULES, now, WALL), Deed::Stop);
        life.ended(ServiceEnd::Exited(0), RULES, now, WALL);
        assert_eq!((life.due(now, WALL, true), life.restarts()), (Deed::Start, 0));
        // A start while it stops is a restart, and a stop while it restarts is a stop.
        let mut life = running(RULES, now);
        life.stop(RULES, now, WALL);
        life.start(WALL);
        life.ended(ServiceEnd::Exited(0), RULES, now, WALL);
        assert_eq!(life.state(), ServiceState::Waiting);
        let mut life = running(RULES, now);
        life.restart(RULES, now, WALL);
        life.stop(RULES, now, WALL);
        life.ended(ServiceEnd::Exited(0), RULES, now, WALL);
        assert!(life.is_stopped());
    }

    #[test]
    fn one_that_is_never_ready_is_killed_and_counts_as_a_failure() {
        let (rules, now) = (Rules { ready: Readiness::Notify, restart: Restart::Never, ..RULES }, Instant::now());
        let mut life = running(rules, now);
        assert!(life.is_starting() && !life.is_ready());
        assert_eq!(life.due(now + READY_TIME, WALL, true), Deed::Kill);
        assert_eq!(life.due(now + READY_TIME, WALL, true), Deed::Nothing);
        life.ended(ServiceEnd::Killed(9), rules, now + READY_TIME, WALL);
        assert_eq!((life.state(), life.last_end()), (ServiceState::Failed, Some(ServiceEnd::NotReady)));
        let mut life = running(rules, now);
        life.ready(WALL);
        assert!(life.is_ready());
        life.ended(ServiceEnd::Exited(3), rules, now, WALL);
        assert_eq!(life.last_end(), Some(ServiceEnd::Exited(3)));
    }

    #[test]
    fn it_waits_for_what_it_comes_after() {
        let now = Instant::now();
        let mut life = Life::new(WALL);
        assert_eq!((life.due(now, WALL, false), life.state()), (Deed::Nothing, ServiceState::Waiting));
        assert_eq!(life.due(now, WALL, true), Deed::Start);
        life.started(now, WALL);
        life.ended(ServiceEnd::NotStarted(2), RULES, now, WALL);
        assert_eq!(life.deadline(), Some(now + FIRST_PAUSE));
        assert_eq!(life.due(now + FIRST_PAUSE, WALL, false), Deed::Nothing);
        // A deadline that has passed and does nothing would let init spin.
        assert_eq!((life.state(), life.restarts(), life.deadline()), (ServiceState::Waiting, 1, None));
        assert_eq!((life.due(now + LAST_PAUSE, WALL, true), life.restarts()), (Deed::Start, 1));
    }
}
