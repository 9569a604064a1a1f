//! Runs due timers: reads crontabs, starts jobs, and records their results.
//!
//! Danger: when this program is replaced, a run must not be lost and must not begin twice. So the time of the last look
//! is saved before the runs begin. `job` keeps what a run itself needs for this.

use crate::init_client::{self, InitClient};
use crate::inits::Inits;
use crate::job::{BUSY, Job, Run, fill};
use crate::permission::OperatorPermission;
use crate::session_entry::SessionEntry;
use crate::tenants::Tenants;
use crate::timers::{GRACE, LOOK_TIME, Timers, now, runs_timers};
use bailiwick_policy::Tenant;
use bailiwick_proto::control::Exec;
use bailiwick_proto::{Bytes, Failure};
use bailiwick_types::{ExitStatus, Moment, TenantName, TimerReport, TimerRun};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::info;

/// How long the first look waits for the jails that should run.
const FIRST_ROUND_TIME: Duration = Duration::from_secs(GRACE / 2);
/// How long an init may take to answer while its tenant's run holds a permit of all tenants. A slower init delays only
/// its own tenant.
const QUICK: Duration = Duration::from_millis(250);
/// How many inits are asked for crontabs at once.
const CRONTABS_AT_ONCE: usize = 16;

/// Runs the timers of the host.
#[derive(Debug)]
pub(crate) struct TimerRunner {
    tenants: Arc<Tenants>,
    inits: Arc<Inits>,
    entry: Arc<SessionEntry>,
    timers: Arc<Timers>,
    /// Whether the reconciler's first round is over.
    first_round: watch::Receiver<bool>,
}

impl TimerRunner {
    pub(crate) fn new(
        tenants: Arc<Tenants>,
        inits: Arc<Inits>,
        entry: Arc<SessionEntry>,
        timers: Arc<Timers>,
        first_round: watch::Receiver<bool>,
    ) -> Self {
        Self { tenants, inits, entry, timers, first_round }
    }

    /// Returns after the reconciler's first round.
    async fn first_round(&self) {
        // The wait fails only when this program ends.
        drop(self.first_round.clone().wait_for(|is_over| *is_over).await);
    }

    /// The timers of these tenants, or of all.
    pub(crate) fn list(
        &self,
        _permission: OperatorPermission,
        tenants: &[TenantName],
    ) -> Result<Vec<TimerReport>, Failure> {
        self.tenants.check_known(tenants)?;
        let mut all = self.tenants.policy.tenants_with_timers();
        all.retain(|tenant| tenants.is_empty() || tenants.contains(&tenant.name));
        Ok(self.timers.report(&all))
    }

    /// Runs due jobs without end.
    pub(crate) async fn run(self: Arc<Self>) {
        self.timers.restore();
        self.timers.crontabs.restore(&self.tenants.policy.tenants_with_timers());
        // Jails start with the host. Wait for them, so that their missed jobs can run. The wait is half of `GRACE`, so
        // no missed job becomes too old.
        drop(tokio::time::timeout(FIRST_ROUND_TIME, self.first_round()).await);
        // Read crontabs before the first look, so that their missed jobs run as well.
        self.look_into_crontabs().await;
        let runner = Arc::clone(&self);
        tokio::spawn(async move {
            let mut looked = tokio::time::Instant::now();
            loop {
                runner.begin_starts().await;
                let started = tokio::time::timeout_at(looked + LOOK_TIME, runner.timers.start.notified()).await;
                if started.is_err() {
                    looked = tokio::time::Instant::now();
                    runner.look_into_crontabs().await;
                }
                runner.timers.wake();
            }
        });
        loop {
            let jobs = self.timers.jobs(&self.tenants.policy.tenants_with_timers());
            let (due, pause) = self.timers.due(&jobs, now());
            if !due.is_empty() {
                self.timers.forget_all_but(&jobs);
            }
            // Save before the runs begin. If this program is replaced now, the runs have begun, and the lock in the
            // jail refuses a second one.
            self.timers.save();
            for job in due.into_iter().filter(|job| runs_timers(&job.tenant)) {
                let runner = Arc::clone(&self);
                tokio::spawn(async move {
                    runner.run_job(&job).await;
                    runner.timers.save();
                });
            }
            drop(tokio::time::timeout(pause, self.timers.changed.wait()).await);
        }
    }

    async fn look_into_crontabs(self: &Arc<Self>) {
        let mut tenants = self.tenants.policy.tenants_with_timers();
        tenants.retain(|tenant| runs_timers(tenant));
        self.timers.crontabs.forget_all_but(&tenants);
        self.read_crontabs(&tenants, now()).await;
    }

    /// Reads the crontabs of these tenants where they changed. Reports errors in a crontab to its log in the jail.
    /// Returns the tenants whose init answered.
    pub(crate) async fn read_crontabs(self: &Arc<Self>, tenants: &[Arc<Tenant>], now: Moment) -> Vec<Arc<Tenant>> {
        let mut asked = JoinSet::new();
        let mut known = Vec::new();
        for tenant in tenants {
            if asked.len() >= CRONTABS_AT_ONCE {
                known.extend(asked.join_next().await.and_then(Result::ok).flatten());
            }
            let (runner, tenant) = (Arc::clone(self), Arc::clone(tenant));
            asked.spawn(async move { runner.read_crontab(&tenant, now).await.then_some(tenant) });
        }
        known.extend(asked.join_all().await.into_iter().flatten());
        known
    }

    /// Returns whether init answered.
    async fn read_crontab(self: Arc<Self>, tenant: &Arc<Tenant>, now: Moment) -> bool {
        // A sleeping tenant has no init, and that of a frozen one does not answer. Its last known crontab stays.
        if self.tenants.was_frozen(&tenant.name).is_some() || self.tenants.was_asleep(tenant) {
            return false;
        }
        let crontabs = &self.timers.crontabs;
        let seen = crontabs.stamp(tenant);
        let Some((socket, ids)) = self.tenants.init_of(tenant).await else { return false };
        let asked = self.inits.talk(&tenant.name, init_client::crontab(&socket, ids, &tenant.login.user, seen));
        let Ok(file) = asked.await else { return false };
        if let Some(complaint) = crontabs.take(tenant, file, now) {
            let (runner, job) = (Arc::clone(&self), Job::complaint(tenant, complaint));
            tokio::spawn(async move { runner.run_job(&job).await });
        }
        true
    }

    /// Runs the `@reboot` jobs of started jails, once their init has sent the crontab.
    async fn begin_starts(self: &Arc<Self>) {
        let started = self.timers.started(&self.tenants.policy.tenants_with_timers());
        if started.is_empty() {
            return;
        }
        let known = self.read_crontabs(&started, now()).await;
        let jobs = self.timers.take_starts(&known);
        // Save before the runs begin, as in [`Self::run`].
        self.timers.save();
        for job in jobs {
            let runner = Arc::clone(self);
            tokio::spawn(async move {
                runner.run_job(&job).await;
                runner.timers.save();
            });
        }
    }

    /// Starts a job. While it holds a permit of all tenants, it waits for init at most [`QUICK`]. A tenant whose init
    /// is slower gets no permit, so no other tenant waits for it.
    async fn begin_in_turn(&self, job: &Job) -> Result<Run, Failure> {
        let tenant = &job.tenant.name;
        let _turn = self.timers.turn(tenant).await;
        // Before it takes a permit of all tenants: a start takes longer than an init that is quick.
        let _awake = self.entry.wake_for_timer(tenant).await?;
        if !self.inits.health.is_slow(tenant) {
            let _place = self.timers.beginning.acquire().await;
            if let Ok(init) = tokio::time::timeout(QUICK, self.entry.greet_for_timer(tenant)).await {
                return self.begin(job, init?).await;
            }
            self.inits.health.note_slow(tenant, true);
        }
        let begin = Instant::now();
        let init = self.entry.greet_for_timer(tenant).await?;
        self.inits.health.note_slow(tenant, begin.elapsed() > QUICK);
        self.begin(job, init).await
    }

    /// Starts a job in a jail whose init has sent its greeting.
    pub(crate) async fn begin(&self, job: &Job, init: InitClient) -> Result<Run, Failure> {
        let text = |text: &str| Bytes::new(text).map_err(|error| Failure::new(ExitStatus::Invalid, &error));
        let argv = job.wrapped().map(text);
        let tenant = &job.tenant;
        let exec = Exec {
            tenant: tenant.name.clone(),
            user: Some(tenant.login.user.to_string()),
            argv: argv.collect::<Result<_, _>>()?,
            env: Vec::new(),
            cwd: None,
            terminal: None,
        };
        let failed = |error: io::Error| Failure::of(ExitStatus::Failed, format!("cannot make its pipes: {error}"));
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(io::Error::from);
        let ((stdin, input), (output, stdout)) = (pipe().map_err(failed)?, pipe().map_err(failed)?);
        let (errors, stderr) = pipe().map_err(failed)?;
        fill(&input, job.input.as_bytes()).map_err(failed)?;
        drop(input);
        let streams = vec![stdin, stdout, stderr];
        let (channel, counted) =
            self.entry.enter_by_timer(&tenant.name, &exec, job.command.clone(), streams, init).await?;
        Ok(Run::new(channel, counted, [output, errors]))
    }

    /// Runs a job to its end and records the result.
    pub(crate) async fn run_job(&self, job: &Job) {
        let begun = now();
        let (tenant, name) = (&job.tenant.name, &job.name);
        let note = |ended: Option<Moment>, status: Option<u8>, refused: Option<String>| {
            self.timers.note(tenant, name, TimerRun { begun, ended, status, refused });
        };
        note(None, None, None);
        let status = match self.begin_in_turn(job).await {
            Ok(run) => run.attend().await,
            Err(failure) => return note(Some(now()), None, Some(failure.message)),
        };
        note(Some(now()), status, (status == Some(BUSY)).then(|| "the run before it has not ended".to_owned()));
        let seconds = now().0.saturating_sub(begun.0);
        let status = status.map_or_else(|| "unknown".to_owned(), |status| status.to_string());
        info!(target: "bailiwick::event", tenant = %tenant, event = "timer-ended", timer = %name, status, seconds, "the timer {name} of {tenant} has ended with {status}");
    }
}
