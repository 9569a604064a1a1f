//! Jobs: one run of a tenant's command at a time, by the door `cron`, as the login user, from start to end.
//!
//! Danger: a job must not be hung up when this program is replaced, and must not run twice at once. So it ignores
//! `SIGHUP`, and a lock inside the jail, which outlives this program, keeps a second run out.

use crate::sessions::SessionGuard;
use bailiwick_policy::{Tenant, Timer};
use bailiwick_proto::frame::{MAX_EVENT, decode};
use bailiwick_proto::{SessionEvent, SessionSignal};
use bailiwick_sys::{signal, socket};
use bailiwick_types::{CRONTAB_JOB, CrontabJob, Schedule, TimerName, When};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// How long a job may take to end after each signal.
const END_TIME: Duration = Duration::from_secs(1);

/// How long init may take to start a job that it has accepted.
const BEGIN_TIME: Duration = Duration::from_secs(10);

/// The wrapper of each job. It appends the job's output to a file in the login user's home and keeps one earlier file.
/// It exits with 75 if the earlier run still lasts. If the file cannot be written, the job runs anyway.
///
/// The output goes through `cat` with a limit on its file size (`RLIMIT_FSIZE`). `cat` writes at once what it reads,
/// and the limit also covers processes that a run leaves in the background. No process of a run blocks or fails because
/// it wrote too much.
const RUN: &str = r#"trap '' HUP
name=$1; dir=$HOME/.local/state/timers; log=$dir/$2.log; shift 2
mkdir -p "$dir" 2>/dev/null
if true 2>/dev/null 9>"$dir/$name.lock"; then exec 9>"$dir/$name.lock"; flock -n 9 || exit 75; fi
[ "$(stat -c %s "$log" 2>/dev/null || echo 0)" -lt 1048576 ] || mv -f "$log" "$log.1"
if true 2>/dev/null >>"$log"; then
    coproc KEEP {
        trap '' HUP INT TERM XFSZ
        exec 9>&-
        most=$(($(stat -c %s "$log") / 1024 + 8192))
        why=$(ulimit -f $most; exec cat 2>&1 >>"$log") && exit
        printf '\n%s %s is cut here: of a run 8 MiB are kept, and its last 4 KiB, which follow (%s)\n' \
            "$(date '+%F %T')" "$name" "${why##*: }" >>"$log"
        exec tail -c 4096 >>"$log"
    }
fi
if [ "$KEEP" ]; then exec >&${KEEP[1]} 2>&1 {KEEP[1]}>&-; else exec >/dev/null 2>&1; fi
echo "$(date '+%F %T') $name begins"
"$@" 9>&-
status=$?
echo "$(date '+%F %T') $name ends with $status"
exec >/dev/null 2>&1 9>&-
# All of it is in the file when this ends, but for what is left in the background and holds the pipe.
[ ! "$KEEP" ] || read -r -t 1 -u ${KEEP[0]}
exit $status
"#;
/// The exit status of [`RUN`] if the earlier run has not ended (`EX_TEMPFAIL` of sysexits.h).
pub(crate) const BUSY: u8 = 75;

/// A command that runs at certain times, or at the start of its jail.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) name: TimerName,
    pub(crate) when: When,
    /// The command as lists show it.
    pub(crate) command: String,
    argv: Vec<String>,
    pub(crate) input: String,
    /// The name of the output file, without its ending.
    log: String,
}

impl Job {
    /// The command inside [`RUN`].
    pub(crate) fn wrapped(&self) -> impl Iterator<Item = &str> {
        let wrapper = ["/bin/bash", "-c", RUN, "timer", self.name.as_str(), &self.log];
        wrapper.into_iter().chain(self.argv.iter().map(String::as_str))
    }

    /// The schedule; `None` for a job that runs at the start of its jail.
    pub(crate) fn schedule(&self) -> Option<&Schedule> {
        match &self.when {
            When::At(schedule) => Some(schedule),
            When::Start => None,
        }
    }

    /// The job of a `[[timer]]`.
    pub(crate) fn of_timer(tenant: &Arc<Tenant>, timer: &Timer) -> Self {
        Self {
            tenant: Arc::clone(tenant),
            name: timer.name.clone(),
            when: timer.schedule.clone(),
            command: timer.command.join(" "),
            argv: timer.command.clone(),
            input: String::new(),
            log: timer.name.to_string(),
        }
    }

    /// The job of a line in the tenant's crontab.
    pub(crate) fn of_crontab(tenant: &Arc<Tenant>, line: &CrontabJob) -> Self {
        let variables = line.variables.iter().map(|(name, value)| format!("{name}={value}"));
        let shell = [line.shell.clone(), "-c".to_owned(), line.command.clone()];
        Self {
            tenant: Arc::clone(tenant),
            name: line.name.clone(),
            when: line.when.clone(),
            command: line.command.clone(),
            argv: std::iter::once("/usr/bin/env".to_owned()).chain(variables).chain(shell).collect(),
            input: line.input.clone(),
            log: CRONTAB_JOB.to_owned(),
        }
    }

    /// A job that writes an error of the crontab to the log of the crontab.
    pub(crate) fn complaint(tenant: &Arc<Tenant>, text: String) -> Self {
        let name: TimerName = CRONTAB_JOB.parse().expect("a name");
        let argv = vec!["/bin/echo".to_owned(), text];
        let (tenant, command, log) = (Arc::clone(tenant), "a complaint".to_owned(), CRONTAB_JOB.to_owned());
        Self { tenant, name, when: When::Start, command, argv, input: String::new(), log }
    }
}

/// A run that has begun.
#[derive(Debug)]
pub(crate) struct Run {
    channel: OwnedFd,
    counted: SessionGuard,
    /// The wrapper's output before it opens its file. It is not read, and it must not end the run.
    _streams: [OwnedFd; 2],
}

impl Run {
    pub(crate) fn new(channel: OwnedFd, counted: SessionGuard, streams: [OwnedFd; 2]) -> Self {
        Self { channel, counted, _streams: streams }
    }

    /// Waits for the end of the run, and ends it when an operator asks for that. Returns the exit status as a shell has
    /// it; `None` if the jail has ended, or if init sends an invalid event.
    pub(crate) async fn attend(self) -> Option<u8> {
        let Self { channel, mut counted, _streams } = self;
        // The socket is one of packets. That does not matter here: it is only waited on.
        let channel = std::os::unix::net::UnixStream::from(channel);
        channel.set_nonblocking(true).ok()?;
        let channel = UnixStream::from_std(channel).ok()?;
        let say = |number| {
            let message = serde_json::to_vec(&SessionSignal::Signal(number)).expect("a number");
            drop(socket::send(&channel, &message, &[]));
        };
        let mut last = None;
        let mut begin = Some(tokio::time::Instant::now() + BEGIN_TIME);
        let status = loop {
            tokio::select! {
                event = recv(&channel) => match event {
                    Some(SessionEvent::Started) => begin = None,
                    Some(SessionEvent::Exited(status)) => break Some(status),
                    Some(SessionEvent::Killed(number)) => break Some(128_u8.saturating_add(number)),
                    Some(
                        SessionEvent::ExecFailed { .. }
                        | SessionEvent::DirectoryFailed { .. }
                        | SessionEvent::SetupFailed { .. },
                    ) => break Some(126),
                    None => break None,
                },
                _ = counted.end(), if last.is_none() => {
                    // `SIGHUP` would not end it, since it ignores that signal.
                    say(signal::SIGTERM);
                    last = Some(tokio::time::Instant::now() + END_TIME);
                }
                // Init accepted the job and did not start it. The session is no longer counted.
                () = sleep_until(begin) => break None,
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
}

async fn sleep_until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn recv(channel: &UnixStream) -> Option<SessionEvent> {
    let mut buffer = [0; MAX_EVENT];
    let receive = || socket::receive(channel, &mut buffer, 0);
    match channel.async_io(Interest::READABLE, receive).await {
        Ok((len @ 1.., _)) => decode(&buffer[..len], MAX_EVENT).ok(),
        Ok(_) | Err(_) => None,
    }
}

/// Writes to a pipe that nobody reads yet. It does not block: a pipe that is too small is an error.
pub(crate) fn fill(pipe: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    rustix::io::ioctl_fionbio(pipe, true)?;
    match bytes {
        [] => Ok(()),
        _ if rustix::io::write(pipe, bytes)? == bytes.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}
