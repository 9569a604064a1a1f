//! Timers: what is due is run in its jail, by the door `cron`, as the login user.
//!
//! Danger: a run must not be lost because this program was replaced at that moment, nor be hung up with it, nor come twice at
//! a time. So the last moment that was looked at is kept outside, the job ignores that its line is cut, and a lock inside the
//! jail, which outlives us, keeps a second one out.

use crate::daemon::Daemon;
use crate::sessions::Counted;
use bailiwick_policy::{Declared, Tenant, Timer};
use bailiwick_proto::control::Exec;
use bailiwick_proto::frame::{MAX_EVENT, decode};
use bailiwick_proto::{Bytes, Failure, SessionEvent, SessionSignal};
use bailiwick_sys::{file, signal, socket};
use bailiwick_types::{
    Clock, Door, ExitStatus, Moment, Schedule, TenantName, TimerName, TimerReport, TimerRun, WallTime,
};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned, civil};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, Semaphore};
use tracing::{info, warn};

/// The longest sleep: the policy, or the clock, may have changed since.
const LOOK_TIME: Duration = Duration::from_secs(20);
/// How far back runs are made good for which nobody was here.
const GRACE: u64 = 600;
/// How many runs are being begun at a time; how many run is the tenants' own limit.
const AT_ONCE: usize = 16;
/// How long a job that is to end may take after each signal.
const END_TIME: Duration = Duration::from_secs(1);
/// Where the last moment and the last runs are kept, beside the history.
const FILE: &str = "timers.json";
const MAX_FILE: usize = 16 << 20;

/// What a job says goes to a file of its own in the login user's home, and the one before it stays. Exit status 75: the one
/// before still runs. A file that cannot be written is no reason not to run.
const RUN: &str = r#"trap '' HUP
name=$1; shift
dir=$HOME/.local/state/timers; log=$dir/$name.log
mkdir -p "$dir" 2>/dev/null
if true 2>/dev/null 9>"$dir/$name.lock"; then exec 9>"$dir/$name.lock"; flock -n 9 || exit 75; fi
[ "$(stat -c %s "$log" 2>/dev/null || echo 0)" -lt 1048576 ] || mv -f "$log" "$log.1"
if true 2>/dev/null >>"$log"; then exec >>"$log" 2>&1; else exec >/dev/null 2>&1; fi
echo "$(date '+%F %T') begins"
"$@" 9>&-
status=$?
echo "$(date '+%F %T') ends with $status"
exit $status
"#;
/// What [`RUN`] ends with when the run before it has not ended (`EX_TEMPFAIL` of sysexits.h).
const BUSY: u8 = 75;

/// What outlives this program.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// Until when everything that was due was begun.
    looked: Moment,
    runs: BTreeMap<TenantName, BTreeMap<TimerName, TimerRun>>,
}

/// The timers of a host.
#[derive(Debug)]
pub(crate) struct Timers {
    kept: Mutex<Kept>,
    /// The policy may have others now.
    changed: Notify,
    /// Room for those that are being begun: at midnight all come at once.
    beginning: Semaphore,
}

impl Default for Timers {
    fn default() -> Self {
        Self { kept: Mutex::default(), changed: Notify::new(), beginning: Semaphore::new(AT_ONCE) }
    }
}

/// Which zone a clock is in.
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

/// The first moment after another at which a schedule is due.
fn next_due(schedule: &Schedule, after: Moment) -> Option<Moment> {
    next_due_in(schedule, after, &zone(schedule.clock()))
}

/// A time that the clock leaves out in spring comes an hour later; one that comes twice in autumn is due the first time.
fn next_due_in(schedule: &Schedule, after: Moment, zone: &TimeZone) -> Option<Moment> {
    let start = Timestamp::from_second(i64::try_from(after.0).ok()?).ok()?;
    let mut time = wall(Zoned::new(start, zone.clone()).datetime());
    // In the hour that comes twice the next time on the wall may be a moment that has passed.
    for _ in 0..10_000 {
        time = schedule.after(time)?;
        let moment = civil(time)?.to_zoned(zone.clone()).ok()?.timestamp();
        if moment > start {
            return u64::try_from(moment.as_second()).ok().map(Moment);
        }
    }
    None
}

fn now() -> Moment {
    Moment(u64::try_from(Timestamp::now().as_second()).unwrap_or(0))
}

impl Timers {
    /// Takes up what the last one kept. What cannot be read is begun anew: a run may then be missed, and none comes twice.
    fn take_up(&self, dir: &Path) {
        let read = || -> io::Result<Kept> {
            let fd = file::open_file_at(file::open_dir(dir)?, FILE)?;
            Ok(serde_json::from_slice(&file::read_bounded(fd, MAX_FILE)?)?)
        };
        let mut kept = read().unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                warn!(event = "timers-forgotten", "cannot read {FILE}: {error}");
            }
            Kept { looked: now(), ..Kept::default() }
        });
        let now = now();
        // The clock may have gone back, or nobody may have been here for long.
        kept.looked = Moment(kept.looked.0.clamp(now.0.saturating_sub(GRACE), now.0));
        *self.kept.lock().expect("nobody panics while holding it") = kept;
    }

    fn keep(&self, dir: &Path) {
        let write = || -> io::Result<()> {
            let text = serde_json::to_vec(&*self.kept.lock().expect("nobody panics while holding it"))?;
            file::replace_at(file::open_dir(dir)?, FILE, &text, 0o600, file::Outlives::Process)
        };
        if let Err(error) = write() {
            warn!(event = "timers-not-kept", "cannot write {FILE}: {error}");
        }
    }

    /// What is due between the last look and now, each once, and when the next look is needed.
    fn due(&self, tenants: &[Tenant], now: Moment) -> (Vec<(Tenant, Timer)>, Duration) {
        let mut kept = self.kept.lock().expect("nobody panics while holding it");
        let looked = Moment(kept.looked.0.min(now.0));
        let mut due = Vec::new();
        let mut next = now.0 + LOOK_TIME.as_secs();
        for (tenant, timer) in tenants.iter().flat_map(|tenant| tenant.timers.iter().map(move |timer| (tenant, timer)))
        {
            match next_due(&timer.schedule, looked) {
                Some(moment) if moment <= now => {
                    due.push((tenant.clone(), timer.clone()));
                    next = next.min(next_due(&timer.schedule, now).map_or(next, |moment| moment.0));
                }
                Some(moment) => next = next.min(moment.0),
                None => {}
            }
        }
        kept.looked = now;
        (due, Duration::from_secs(next.saturating_sub(now.0).max(1)))
    }

    fn note(&self, tenant: &TenantName, timer: &TimerName, run: TimerRun) {
        let mut kept = self.kept.lock().expect("nobody panics while holding it");
        kept.runs.entry(tenant.clone()).or_default().insert(timer.clone(), run);
    }

    /// Has [`Daemon::keep_time`] look now.
    pub(crate) fn look_again(&self) {
        self.changed.notify_one();
    }

    /// Forgets the runs of timers that are no more.
    fn forget_all_but(&self, tenants: &[Tenant]) {
        let known: BTreeSet<(&TenantName, &TimerName)> = tenants
            .iter()
            .flat_map(|tenant| tenant.timers.iter().map(move |timer| (&tenant.name, &timer.name)))
            .collect();
        let mut kept = self.kept.lock().expect("nobody panics while holding it");
        kept.runs.retain(|tenant, runs| {
            runs.retain(|timer, _| known.contains(&(tenant, timer)));
            !runs.is_empty()
        });
    }

    /// Of these tenants.
    pub(crate) fn report<'t>(&self, tenants: impl Iterator<Item = &'t Tenant>) -> Vec<TimerReport> {
        let kept = self.kept.lock().expect("nobody panics while holding it");
        let now = now();
        let row = |tenant: &Tenant, timer: &Timer| TimerReport {
            tenant: tenant.name.clone(),
            timer: timer.name.clone(),
            schedule: timer.schedule.to_string(),
            next: next_due(&timer.schedule, now).filter(|_| runs_timers(tenant)),
            last: kept.runs.get(&tenant.name).and_then(|runs| runs.get(&timer.name)).cloned(),
        };
        tenants
            .flat_map(|tenant| tenant.timers.iter().map(move |timer| (tenant, timer)))
            .map(|(t, timer)| row(t, timer))
            .collect()
    }
}

/// Whether a tenant's timers are run at all.
fn runs_timers(tenant: &Tenant) -> bool {
    tenant.state == Declared::Active && tenant.settings.doors.contains(&Door::Cron)
}

impl Daemon {
    /// Runs what is due, for good.
    pub async fn keep_time(self: Arc<Self>) {
        let dir = self.host().state_dir.join("history");
        self.timers().take_up(&dir);
        loop {
            let tenants = self.tenants_with_timers();
            let (due, pause) = self.timers().due(&tenants, now());
            if !due.is_empty() {
                self.timers().forget_all_but(&tenants);
            }
            // Kept before the runs begin: who is replaced right now has begun them, or will be told so by the lock inside.
            self.timers().keep(&dir);
            for (tenant, timer) in due.into_iter().filter(|(tenant, _)| runs_timers(tenant)) {
                let (daemon, dir) = (Arc::clone(&self), dir.clone());
                tokio::spawn(async move {
                    daemon.run_timer(&tenant, &timer).await;
                    daemon.timers().keep(&dir);
                });
            }
            drop(tokio::time::timeout(pause, self.timers().changed.notified()).await);
        }
    }

    async fn run_timer(&self, tenant: &Tenant, timer: &Timer) {
        let begun = now();
        let note = |ended: Option<Moment>, status: Option<u8>, refused: Option<String>| {
            self.timers().note(&tenant.name, &timer.name, TimerRun { begun, ended, status, refused });
        };
        note(None, None, None);
        let begin = async {
            let _room = self.timers().beginning.acquire().await;
            self.begin(tenant, timer).await
        };
        let status = match begin.await {
            Ok((channel, counted, streams)) => {
                let status = attend(channel, counted).await;
                // Until here: what a job says before it has its file goes nowhere, and must not end it.
                drop(streams);
                note(Some(now()), status, (status == Some(BUSY)).then(|| "the run before it has not ended".to_owned()));
                status
            }
            Err(failure) => {
                note(Some(now()), None, Some(failure.message));
                return;
            }
        };
        let (name, seconds) = (&timer.name, now().0.saturating_sub(begun.0));
        let status = status.map_or_else(|| "unknown".to_owned(), |status| status.to_string());
        info!(target: "bailiwick::event", tenant = %tenant.name, event = "timer-ended", timer = %name, status, seconds, "the timer {name} of {} has ended with {status}", tenant.name);
    }

    async fn begin(&self, tenant: &Tenant, timer: &Timer) -> Result<(OwnedFd, Counted, [OwnedFd; 2]), Failure> {
        let text = |text: &str| Bytes::new(text).map_err(|error| Failure::new(ExitStatus::Invalid, &error));
        let wrapper = ["/bin/sh", "-c", RUN, "timer", timer.name.as_str()];
        let argv = wrapper.into_iter().chain(timer.command.iter().map(String::as_str)).map(text);
        let exec = Exec {
            tenant: tenant.name.clone(),
            user: Some(tenant.login.user.to_string()),
            argv: argv.collect::<Result<_, _>>()?,
            env: Vec::new(),
            cwd: None,
            terminal: None,
        };
        let pipe = || {
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                .map_err(|error| Failure::of(ExitStatus::Failed, format!("cannot make a pipe: {error}")))
        };
        let ((stdin, _), (output, stdout), (errors, stderr)) = (pipe()?, pipe()?, pipe()?);
        let command = timer.command.join(" ");
        let (channel, counted) = self.enter_by_timer(&tenant.name, &exec, command, vec![stdin, stdout, stderr]).await?;
        Ok((channel, counted, [output, errors]))
    }
}

/// Waits for the end of a job, and ends it when an operator wants that. The exit status, as a shell has it; `None` when the
/// jail has ended, or init says what no session says.
async fn attend(channel: OwnedFd, mut counted: Counted) -> Option<u8> {
    // Of packets, which a stream does not mind: it is only waited on.
    let channel = std::os::unix::net::UnixStream::from(channel);
    channel.set_nonblocking(true).ok()?;
    let channel = UnixStream::from_std(channel).ok()?;
    let say = |number| {
        let message = serde_json::to_vec(&SessionSignal::Signal(number)).expect("a number");
        drop(socket::send(&channel, &message, &[]));
    };
    let mut last = None;
    let status = loop {
        tokio::select! {
            event = hear(&channel) => match event {
                Some(SessionEvent::Started) => {}
                Some(SessionEvent::Exited(status)) => break Some(status),
                Some(SessionEvent::Killed(number)) => break Some(128_u8.saturating_add(number)),
                Some(SessionEvent::ExecFailed { .. } | SessionEvent::SetupFailed { .. }) => break Some(126),
                None => break None,
            },
            _ = counted.end(), if last.is_none() => {
                // It ignores that it is hung up.
                say(signal::SIGTERM);
                last = Some(tokio::time::Instant::now() + END_TIME);
            }
            () = sleep_until(last) => {
                say(signal::SIGKILL);
                last = Some(tokio::time::Instant::now() + END_TIME);
            }
        }
    };
    if let Some(status) = status {
        counted.ended(status);
    }
    status
}

async fn sleep_until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn hear(channel: &UnixStream) -> Option<SessionEvent> {
    let mut buffer = [0; MAX_EVENT];
    let receive = || socket::receive(channel, &mut buffer, 0);
    match channel.async_io(Interest::READABLE, receive).await {
        Ok((len @ 1.., _)) => decode(&buffer[..len], MAX_EVENT).ok(),
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> Moment {
        let time: Timestamp = text.parse().expect("a time");
        Moment(u64::try_from(time.as_second()).expect("after 1970"))
    }

    fn tenants(more: &str) -> Vec<Tenant> {
        let files = [
            ("bailiwick.toml".into(), String::new()),
            ("plans.d/small.toml".into(), "doors = [\"cron\"]\n".to_owned()),
            ("tenants.d/alice.toml".into(), format!("plan = \"small\"\n{more}")),
        ];
        let reading = bailiwick_policy::parse(&files);
        assert_eq!(reading.diagnostics, []);
        reading.policy.expect("good").tenants.into_values().collect()
    }

    fn timer(name: &str, schedule: &str) -> String {
        format!("[[timer]]\nname = \"{name}\"\nschedule = \"{schedule}\"\ncommand = [\"/bin/true\"]\n")
    }

    #[test]
    fn each_is_due_once_also_when_nobody_looked_for_a_while() {
        let tenants = tenants(&[timer("five", "*:0/5 UTC"), timer("night", "03:00 UTC")].concat());
        let timers = Timers::default();
        let look = |at: &str| {
            let (due, pause) = timers.due(&tenants, moment(at));
            (due.into_iter().map(|(_, timer)| timer.name.to_string()).collect::<Vec<_>>(), pause.as_secs())
        };
        timers.kept.lock().expect("sound").looked = moment("2026-11-23T02:51:00Z");
        assert_eq!(look("2026-11-23T02:54:50Z"), (vec![], 10));
        assert_eq!(look("2026-11-23T02:55:00Z"), (vec!["five".to_owned()], 20));
        assert_eq!(look("2026-11-23T02:55:01Z"), (vec![], 20));
        assert_eq!(look("2026-11-23T03:07:00Z"), (vec!["five".to_owned(), "night".to_owned()], 20), "each once");
        // The clock was put back.
        assert_eq!(look("2026-11-23T02:00:00Z"), (vec![], 20));
        assert_eq!(look("2026-11-23T02:05:00Z"), (vec!["five".to_owned()], 20));
    }

    #[test]
    fn what_is_kept_is_taken_up_within_its_grace() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = temp.path().canonicalize().expect("real path");
        let timers = Timers::default();
        timers.kept.lock().expect("sound").looked = Moment(now().0 - 60);
        let run = TimerRun { begun: Moment(1), ended: Some(Moment(2)), status: Some(0), refused: None };
        timers.note(&"alice".parse().expect("valid"), &"a".parse().expect("valid"), run.clone());
        timers.keep(&dir);
        let next = Timers::default();
        next.take_up(&dir);
        let age = now().0 - next.kept.lock().expect("sound").looked.0;
        assert!((60..120).contains(&age), "{age}");
        assert_eq!(next.report(tenants(&timer("a", "daily")).iter())[0].last, Some(run));
        timers.kept.lock().expect("sound").looked = Moment(1);
        timers.keep(&dir);
        next.take_up(&dir);
        assert!(
            now().0 - next.kept.lock().expect("sound").looked.0 <= GRACE + 60,
            "a day that was missed is not made good"
        );
        std::fs::write(dir.join(FILE), "nonsense").expect("writes");
        next.take_up(&dir);
        assert!(now().0 - next.kept.lock().expect("sound").looked.0 <= 60);
        next.forget_all_but(&[]);
        assert_eq!(next.report(tenants(&timer("a", "daily")).iter())[0].last, None);
    }

    #[test]
    fn clocks_that_jump() {
        // From 2:00 to 3:00 on 29 March 2026, from 3:00 back to 2:00 on 25 October.
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
            // The second half past two of that night.
            ("2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
            ("2026-10-25T01:29:59Z", "2026-10-26T01:30:00Z"),
        ] {
            assert_eq!(next("02:30", after), golden, "{after}");
        }
        // A moment never comes twice, and time always goes on.
        let schedule: Schedule = "*:0/15".parse().expect("valid");
        let mut last = moment("2026-10-24T22:00:00Z");
        for _ in 0..40 {
            let next = next_due_in(&schedule, last, &zone).expect("comes");
            assert!(next > last && next.0 - last.0 <= 4500, "{next:?}");
            last = next;
        }
    }
}
