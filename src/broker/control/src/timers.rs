//! Timers: which jobs are due by the tenants' files and crontabs, which jobs run at the start of a jail, and the last
//! result of each.
//!
//! Danger: when this program is replaced, a run must not be lost and must not begin twice. So the time of the last look
//! is kept in a file. `job` keeps what a run itself needs for this.

use crate::crontabs::Crontabs;
use crate::door::short;
use crate::job::Job;
use crate::sync::{Turn, Turns, Wake, lock};
use bailiwick_policy::{Declared, Tenant};
use bailiwick_sys::file;
use bailiwick_types::{Clock, Door, Moment, Schedule, TenantName, TimerName, TimerReport, TimerRun, WallTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned, civil};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tracing::warn;

/// The longest sleep, since the policy or the clock may change meanwhile.
pub(crate) const LOOK_TIME: Duration = Duration::from_secs(20);
/// How many seconds back missed runs are made up for.
pub(crate) const GRACE: u64 = 600;
/// How many runs may be starting at a time, at most one of each tenant. The tenants' own limits bound how many run.
const AT_ONCE: usize = 16;
/// The file with the last look and the last runs, beside the history.
const FILE: &str = "timers.json";
const MAX_FILE: usize = 16 << 20;

/// The state that outlives this program.
#[derive(Debug, Default, Serialize, Deserialize)]
struct TimerState {
    /// All runs that were due up to this moment have begun.
    looked: Moment,
    runs: BTreeMap<TenantName, BTreeMap<TimerName, TimerRun>>,
    /// Tenants whose `@reboot` jobs are still pending.
    #[serde(default)]
    started: BTreeSet<TenantName>,
}

/// The timers of the host.
#[derive(Debug)]
pub(crate) struct Timers {
    /// The directory for this program's own files.
    dir: PathBuf,
    kept: Mutex<TimerState>,
    ahead: Mutex<NextDueCache>,
    pub(crate) crontabs: Crontabs,
    /// Wakes the loop when the policy has changed.
    pub(crate) changed: Wake,
    /// Wakes the loop when a jail was started.
    pub(crate) start: Notify,
    /// Permits for runs that are starting: at midnight many jobs are due at once.
    pub(crate) beginning: Semaphore,
    /// A lock for each tenant, so that its runs start one after another.
    turns: Turns,
}

impl Timers {
    /// Makes the timers of a host. `changed` wakes their loop.
    pub(crate) fn new(changed: Wake, dir: PathBuf) -> Self {
        Self {
            crontabs: Crontabs::new(dir.clone()),
            dir,
            kept: Mutex::default(),
            ahead: Mutex::default(),
            changed,
            start: Notify::new(),
            beginning: Semaphore::new(AT_ONCE),
            turns: Turns::default(),
        }
    }
}

/// The next moment of each schedule, by its text. The search takes longest for rare moments, and a tenant could write
/// many such schedules. So each result is kept.
#[derive(Debug, Default)]
struct NextDueCache(BTreeMap<String, Moment>, Option<TimeZone>);

impl NextDueCache {
    /// Sets the local time zone. When the operator has changed it, the results for the former zone are dropped. The
    /// library reads the host's zone again after some minutes.
    fn in_zone(&mut self, local: TimeZone) {
        if self.1.as_ref().is_some_and(|last| *last != local) {
            self.0.clear();
        }
        self.1 = Some(local);
    }

    /// The first due moment after `after`. Calls for one schedule must not go back in time, because the cache keeps
    /// only its next moment.
    fn next(&mut self, schedule: &Schedule, after: Moment) -> Moment {
        if let Some(next) = self.known(schedule, after) {
            return next;
        }
        let next = match (&self.1, schedule.clock()) {
            (Some(local), Clock::Local) => next_due_in(schedule, after, local),
            _ => next_due(schedule, after),
        };
        let next = next.unwrap_or(Moment(u64::MAX));
        self.0.insert(schedule.to_string(), next);
        next
    }

    fn known(&self, schedule: &Schedule, after: Moment) -> Option<Moment> {
        self.0.get(schedule.as_str()).copied().filter(|next| *next > after)
    }

    /// Drops schedules that none of these jobs has, once there are many of them.
    fn shrink(&mut self, jobs: &[Job]) {
        if self.0.len() > 2 * jobs.len() + 100 {
            let used: BTreeSet<&str> = jobs.iter().filter_map(Job::schedule).map(Schedule::as_str).collect();
            self.0.retain(|text, _| used.contains(text.as_str()));
        }
    }
}

/// The time zone of a clock.
fn zone(clock: Clock) -> TimeZone {
    match clock {
        Clock::Local => TimeZone::system(),
        Clock::Utc => TimeZone::UTC,
    }
}

fn wall(time: civil::DateTime) -> WallTime {
    let number = |value: i8| u32::try_from(value).unwrap_or(0);
    WallTime {
        year: u32::try_from(time.year()).unwrap_or(0),
        month: number(time.month()),
        day: number(time.day()),
        hour: number(time.hour()),
        minute: number(time.minute()),
        second: number(time.second()),
    }
}

fn civil(time: WallTime) -> Option<civil::DateTime> {
    let number = |value: u32| i8::try_from(value).ok();
    let WallTime { year, month, day, hour, minute, second } = time;
    let year = i16::try_from(year).ok()?;
    civil::DateTime::new(year, number(month)?, number(day)?, number(hour)?, number(minute)?, number(second)?, 0).ok()
}

/// The first moment after `after` at which a schedule is due.
fn next_due(schedule: &Schedule, after: Moment) -> Option<Moment> {
    next_due_in(schedule, after, &zone(schedule.clock()))
}

/// The same in a given zone. A time that the clock skips in spring comes an hour later. A time that comes twice in
/// autumn is due the first time only.
fn next_due_in(schedule: &Schedule, after: Moment, zone: &TimeZone) -> Option<Moment> {
    let start = Timestamp::from_second(i64::try_from(after.0).ok()?).ok()?;
    let mut time = wall(Zoned::new(start, zone.clone()).datetime());
    // In the hour that comes twice, the next wall-clock time may be a moment that has passed.
    for _ in 0..10_000 {
        time = schedule.after(time)?;
        let moment = civil(time)?.to_zoned(zone.clone()).ok()?.timestamp();
        if moment > start {
            return u64::try_from(moment.as_second()).ok().map(Moment);
        }
    }
    None
}

pub(crate) fn now() -> Moment {
    Moment(u64::try_from(Timestamp::now().as_second()).unwrap_or(0))
}

impl Timers {
    /// Reads what the last daemon saved. If the file cannot be read, the state starts empty: a run may be missed, but
    /// none begins twice.
    pub(crate) fn restore(&self) {
        let read = || -> io::Result<TimerState> {
            let fd = file::open_file_at(file::open_dir(&self.dir)?, FILE)?;
            Ok(serde_json::from_slice(&file::read_bounded(fd, MAX_FILE)?)?)
        };
        let mut kept = read().unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                warn!(event = "timers-forgotten", "cannot read {FILE}: {error}");
            }
            TimerState { looked: now(), ..TimerState::default() }
        });
        let now = now();
        // The clock may have gone back, or no daemon may have run for long.
        kept.looked = Moment(kept.looked.0.clamp(now.0.saturating_sub(GRACE), now.0));
        *lock(&self.kept) = kept;
    }

    pub(crate) fn save(&self) {
        let write = || -> io::Result<()> {
            let text = serde_json::to_vec(&*lock(&self.kept))?;
            file::replace_at(file::open_dir(&self.dir)?, FILE, &text, 0o600, file::Outlives::Process)
        };
        if let Err(error) = write() {
            warn!(event = "timers-not-kept", "cannot write {FILE}: {error}");
        }
    }

    /// All jobs of these tenants: their declared timers and their crontabs.
    pub(crate) fn jobs(&self, tenants: &[Arc<Tenant>]) -> Vec<Job> {
        let of = |tenant: &Arc<Tenant>| {
            let declared = tenant.timers.iter().map(|timer| Job::of_timer(tenant, timer));
            declared.chain(self.crontabs.jobs(tenant)).collect::<Vec<_>>()
        };
        tenants.iter().flat_map(of).collect()
    }

    /// The jobs that became due since the last look, each once, and the time until the next look.
    pub(crate) fn due(&self, jobs: &[Job], now: Moment) -> (Vec<Job>, Duration) {
        self.due_in(jobs, now, TimeZone::system())
    }

    fn due_in(&self, jobs: &[Job], now: Moment, local: TimeZone) -> (Vec<Job>, Duration) {
        let mut kept = lock(&self.kept);
        let mut ahead = lock(&self.ahead);
        if now < kept.looked {
            // The clock was set back.
            *ahead = NextDueCache::default();
        }
        ahead.in_zone(local);
        // Runs that were due longer than `GRACE` ago are not made up for, whatever the reason.
        let looked = Moment(kept.looked.0.clamp(now.0.saturating_sub(GRACE), now.0));
        // Ask about all jobs with the earlier moment before any with the later one, because jobs share schedules in the
        // cache.
        let is_due = |job: &&Job| job.schedule().is_some_and(|schedule| ahead.next(schedule, looked) <= now);
        let due: Vec<Job> = jobs.iter().filter(is_due).cloned().collect();
        let soonest = jobs.iter().filter_map(Job::schedule).map(|schedule| ahead.next(schedule, now)).min();
        let next = soonest.map_or(u64::MAX, |moment| moment.0).min(now.0 + LOOK_TIME.as_secs());
        ahead.shrink(jobs);
        kept.looked = now;
        (due, Duration::from_secs(next.saturating_sub(now.0).max(1)))
    }

    pub(crate) fn note(&self, tenant: &TenantName, timer: &TimerName, run: TimerRun) {
        let mut kept = lock(&self.kept);
        kept.runs.entry(tenant.clone()).or_default().insert(timer.clone(), run);
    }

    /// Marks the `@reboot` jobs of a tenant as pending and wakes the loop.
    pub(crate) fn note_start(&self, tenant: &TenantName) {
        lock(&self.kept).started.insert(tenant.clone());
        self.start.notify_one();
    }

    /// The same, and saves it for the next daemon.
    pub(crate) fn jail_started(&self, tenant: &TenantName) {
        self.note_start(tenant);
        self.save();
    }

    /// The tenants with pending `@reboot` jobs that may run timers. The others are no longer pending.
    pub(crate) fn started(&self, tenants: &[Arc<Tenant>]) -> Vec<Arc<Tenant>> {
        let mut kept = lock(&self.kept);
        let started = |tenant: &&Arc<Tenant>| runs_timers(tenant) && kept.started.contains(&tenant.name);
        let started: Vec<Arc<Tenant>> = tenants.iter().filter(started).cloned().collect();
        kept.started = started.iter().map(|tenant| tenant.name.clone()).collect();
        started
    }

    /// Takes the pending `@reboot` jobs of tenants whose crontab is known now. Each start is taken once.
    pub(crate) fn take_starts(&self, known: &[Arc<Tenant>]) -> Vec<Job> {
        let mut kept = lock(&self.kept);
        let is_new = |tenant: &&Arc<Tenant>| kept.started.remove(&tenant.name);
        let new: Vec<Arc<Tenant>> = known.iter().filter(is_new).cloned().collect();
        self.jobs(&new).into_iter().filter(|job| job.schedule().is_none()).collect()
    }

    /// Waits until no other run of the tenant is starting.
    pub(crate) async fn turn(&self, tenant: &TenantName) -> Turn {
        self.turns.of(tenant).await
    }

    /// Wakes the loop.
    pub(crate) fn wake(&self) {
        self.changed.wake();
    }

    /// Forgets the last runs of all jobs but these.
    pub(crate) fn forget_all_but(&self, jobs: &[Job]) {
        let known: BTreeSet<(&TenantName, &TimerName)> = jobs.iter().map(|job| (&job.tenant.name, &job.name)).collect();
        let mut kept = lock(&self.kept);
        kept.runs.retain(|tenant, runs| {
            runs.retain(|timer, _| known.contains(&(tenant, timer)));
            !runs.is_empty()
        });
    }

    /// The report of all jobs and crontab errors of these tenants.
    pub(crate) fn report(&self, tenants: &[Arc<Tenant>]) -> Vec<TimerReport> {
        let now = now();
        let of = |tenant: &Arc<Tenant>| {
            let jobs = self.jobs(std::slice::from_ref(tenant));
            let kept = lock(&self.kept);
            let ahead = lock(&self.ahead);
            let next = |schedule: &Schedule| ahead.known(schedule, now).or_else(|| next_due(schedule, now));
            let row = |job: &Job| TimerReport {
                tenant: tenant.name.clone(),
                timer: job.name.clone(),
                schedule: job.when.to_string(),
                command: short(job.command.clone()),
                next: job.schedule().and_then(next).filter(|next| runs_timers(tenant) && next.0 < u64::MAX),
                door_closed: !tenant.settings.doors.contains(&Door::Cron),
                last: kept.runs.get(&tenant.name).and_then(|runs| runs.get(&job.name)).cloned(),
            };
            let rows: Vec<_> = jobs.iter().map(row).collect();
            rows.into_iter().chain(self.crontabs.faults(&tenant.name)).collect::<Vec<_>>()
        };
        tenants.iter().flat_map(of).collect()
    }
}

/// Whether a tenant's timers may run at all.
pub(crate) fn runs_timers(tenant: &Tenant) -> bool {
    tenant.state == Declared::Active && tenant.settings.doors.contains(&Door::Cron)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> Moment {
        let time: Timestamp = text.parse().expect("a time");
        Moment(u64::try_from(time.as_second()).expect("after 1970"))
    }

    fn tenants(more: &str) -> Vec<Arc<Tenant>> {
        let files = [
            ("bailiwick.toml".into(), String::new()),
            ("plans.d/small.toml".into(), "doors = [\"cron\"]\n".to_owned()),
            ("tenants.d/alice.toml".into(), format!("plan = \"small\"\n{more}")),
        ];
        let reading = bailiwick_policy::parse(&files);
        assert_eq!(reading.diagnostics, []);
        reading.policy.expect("good").tenants.into_values().map(Arc::new).collect()
    }

    fn timer(name: &str, schedule: &str) -> String {
        format!("[[timer]]\nname = \"{name}\"\nschedule = \"{schedule}\"\ncommand = [\"/bin/true\"]\n")
    }

    #[test]
    fn each_is_due_once_also_when_nobody_looked_for_a_while() {
        let tenants = tenants(&[timer("five", "*:0/5 UTC"), timer("night", "03:00 UTC")].concat());
        let timers = Timers::new(Wake::default(), PathBuf::new());
        let look = |at: &str| {
            let (due, pause) = timers.due(&timers.jobs(&tenants), moment(at));
            (due.into_iter().map(|job| job.name.to_string()).collect::<Vec<_>>(), pause.as_secs())
        };
        timers.kept.lock().expect("sound").looked = moment("2026-11-23T02:51:00Z");
        assert_eq!(look("2026-11-23T02:54:50Z"), (vec![], 10));
        assert_eq!(look("2026-11-23T02:55:00Z"), (vec!["five".to_owned()], 20));
        assert_eq!(look("2026-11-23T02:55:01Z"), (vec![], 20));
        assert_eq!(look("2026-11-23T03:07:00Z"), (vec!["five".to_owned(), "night".to_owned()], 20), "each once");
        // The clock is set back.
        assert_eq!(look("2026-11-23T02:00:00Z"), (vec![], 20));
        assert_eq!(look("2026-11-23T02:05:00Z"), (vec!["five".to_owned()], 20));
    }

    #[test]
    fn a_clock_that_is_put_forwards_makes_nothing_good_that_is_long_past() {
        let tenants = tenants(&[timer("five", "*:0/5 UTC"), timer("night", "03:00 UTC")].concat());
        let timers = Timers::new(Wake::default(), PathBuf::new());
        let look = |at: &str| {
            let (due, _) = timers.due(&timers.jobs(&tenants), moment(at));
            due.into_iter().map(|job| job.name.to_string()).collect::<Vec<_>>()
        };
        timers.kept.lock().expect("sound").looked = moment("2026-11-23T20:01:00Z");
        assert_eq!(look("2026-11-23T20:02:00Z"), [""; 0]);
        // A day later: at 3:00 no daemon ran, and 17 hours later is too late for that run.
        assert_eq!(look("2026-11-24T20:02:00Z"), ["five"]);
        assert_eq!(look("2026-11-24T20:03:00Z"), [""; 0]);
        // A jump of some minutes: the runs are made up for, as after a restart.
        assert_eq!(look("2026-11-25T02:58:00Z"), ["five"]);
        assert_eq!(look("2026-11-25T03:04:00Z"), ["five", "night"]);
    }

    #[test]
    fn another_zone_is_another_time() {
        let tenants = tenants(&timer("night", "03:00"));
        let timers = Timers::new(Wake::default(), PathBuf::new());
        let zone = |hours: i8| TimeZone::fixed(jiff::tz::offset(hours));
        let look = |at: &str, hours: i8| !timers.due_in(&timers.jobs(&tenants), moment(at), zone(hours)).0.is_empty();
        timers.kept.lock().expect("sound").looked = moment("2026-11-23T00:00:00Z");
        assert!(!look("2026-11-23T00:00:10Z", 0), "three hours before");
        assert!(!look("2026-11-23T00:59:55Z", 2), "five seconds before, two hours to the east");
        assert!(look("2026-11-23T01:00:05Z", 2));
        assert!(!look("2026-11-23T03:00:05Z", 2), "and not as it would have been");
        assert!(!look("2026-11-24T02:59:55Z", 0));
        assert!(look("2026-11-24T03:00:05Z", 0), "and back");
    }

    #[test]
    fn what_is_for_the_start_of_a_jail_is_run_once_for_each() {
        let tenants = tenants(&[timer("five", "*:0/5"), timer("boot", "@reboot")].concat());
        let timers = Timers::new(Wake::default(), PathBuf::new());
        let begun = |known: &[Arc<Tenant>]| -> Vec<String> {
            timers.take_starts(known).iter().map(|job| job.name.to_string()).collect()
        };
        assert_eq!(begun(&tenants), Vec::<String>::new());
        timers.note_start(&tenants[0].name);
        assert_eq!(timers.started(&tenants).len(), 1);
        assert_eq!(begun(&[]), Vec::<String>::new(), "its init has not told yet");
        assert_eq!(begun(&tenants), ["boot"]);
        assert_eq!(begun(&tenants), Vec::<String>::new());
        assert!(timers.report(&tenants)[1].next.is_none());
    }

    #[test]
    fn what_comes_rarely_is_looked_for_once() {
        let mut ahead = NextDueCache::default();
        let schedule: Schedule = "0 0 29 2 *".parse().expect("valid");
        let leap = moment("2028-02-29T00:00:00Z").0;
        let next = ahead.next(&schedule, moment("2026-11-23T00:00:00Z")).0;
        assert!(next.abs_diff(leap) < 86_400, "{next}");
        // A known result is not searched for again: no search could find this one.
        ahead.0.insert(schedule.to_string(), Moment(leap + 1));
        assert_eq!(ahead.next(&schedule, moment("2027-11-23T00:00:00Z")).0, leap + 1);
        assert!(ahead.next(&schedule, Moment(leap + 1)).0 > leap + 86_400);
        let never: Schedule = "1970-01-01".parse().expect("valid");
        assert_eq!(ahead.next(&never, Moment(leap)), Moment(u64::MAX));
        for minute in 0..300 {
            ahead.next(&format!("*-*-* 00:{}:{}", minute / 60, minute % 60).parse().expect("valid"), Moment(leap));
        }
        ahead.shrink(&[]);
        assert!(ahead.0.is_empty());
    }

    #[test]
    fn what_is_kept_is_taken_up_within_its_grace() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = temp.path().canonicalize().expect("real path");
        let timers = Timers::new(Wake::default(), dir.clone());
        timers.kept.lock().expect("sound").looked = Moment(now().0 - 60);
        let run = TimerRun { begun: Moment(1), ended: Some(Moment(2)), status: Some(0), refused: None };
        timers.note(&"alice".parse().expect("valid"), &"a".parse().expect("valid"), run.clone());
        timers.save();
        let next = Timers::new(Wake::default(), dir.clone());
        next.restore();
        let age = now().0 - next.kept.lock().expect("sound").looked.0;
        assert!((60..120).contains(&age), "{age}");
        assert_eq!(next.report(&tenants(&timer("a", "daily")))[0].last, Some(run));
        timers.kept.lock().expect("sound").looked = Moment(1);
        timers.save();
        next.restore();
        assert!(
            now().0 - next.kept.lock().expect("sound").looked.0 <= GRACE + 60,
            "a day that was missed is not made good"
        );
        std::fs::write(dir.join(FILE), "nonsense").expect("writes");
        next.restore();
        assert!(now().0 - next.kept.lock().expect("sound").looked.0 <= 60);
        next.forget_all_but(&[]);
        assert_eq!(next.report(&tenants(&timer("a", "daily")))[0].last, None);
    }

    #[test]
    fn clocks_that_jump() {
        // The clock goes from 2:00 to 3:00 on 29 March 2026, and from 3:00 back to 2:00 on 25 October.
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("valid");
        let next = |schedule: &str, after: &str| {
            let schedule: Schedule = schedule.parse().expect("valid");
            let Moment(second) = next_due_in(&schedule, moment(after), &zone).expect("comes");
            Timestamp::from_second(i64::try_from(second).expect("small")).expect("a time").to_string()
        };
        for (after, golden) in [
            ("2026-03-27T12:00:00Z", "2026-03-28T01:30:00Z"),
            ("2026-03-28T12:00:00Z", "2026-03-29T01:30:00Z"),
            ("2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"),
            ("2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"),
            // The second 2:30 of that night.
            ("2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
            ("2026-10-25T01:29:59Z", "2026-10-26T01:30:00Z"),
        ] {
            assert_eq!(next("02:30", after), golden, "{after}");
        }
        // A moment never comes twice, and time never goes back.
        let schedule: Schedule = "*:0/15".parse().expect("valid");
        let mut last = moment("2026-10-24T22:00:00Z");
        for _ in 0..40 {
            let next = next_due_in(&schedule, last, &zone).expect("comes");
            assert!(next > last && next.0 - last.0 <= 4500, "{next:?}");
            last = next;
        }
    }
}
