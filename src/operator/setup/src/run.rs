//! Carries a plan out step by step, goes on where a run was killed, and takes everything back.

use crate::facts::{self, Facts};
use crate::journal::Journal;
use crate::machine::Machine;
use crate::options::Options;
use crate::plan::{Plan, plan};
use crate::step::Step;
use crate::work;
use bailiwick_proto::Failure;
use bailiwick_sys::file;
use bailiwick_types::ExitStatus;
use serde::Serialize;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Whose lock a setup holds, so that there is one at a time. The machine has it before any setup, and after.
const LOCK: &str = "/var/lib";
/// How long to wait for the lock.
const LOCK_TIME: Duration = Duration::from_secs(20);

/// A setup of a machine.
#[derive(Debug)]
pub struct Setup<'a> {
    machine: Machine<'a>,
    config: PathBuf,
    journal: Journal,
    _lock: OwnedFd,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was as it should be.
    Unchanged,
    /// It would be carried out.
    Needed,
    /// It was carried out.
    Done,
    /// It was taken back.
    TakenBack,
}

/// A step and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepOutcome {
    /// The name of the step.
    pub name: String,
    /// What it does.
    pub what: String,
    /// What became of it.
    pub outcome: Outcome,
}

impl StepOutcome {
    fn new(step: &Step, outcome: Outcome) -> Self {
        Self { name: step.name.clone(), what: step.what.clone(), outcome }
    }
}

impl<'a> Setup<'a> {
    /// Opens the journal of this machine.
    ///
    /// # Errors
    /// When another setup runs, or when the journal cannot be read.
    pub fn open(machine: Machine<'a>, config: &Path) -> Result<Self, Failure> {
        let lock = lock(&machine)?;
        let journal = Journal::read(&machine)?;
        Ok(Self { machine, config: config.to_owned(), journal, _lock: lock })
    }

    /// The plan, and whether it is that of a run that was killed.
    ///
    /// # Errors
    /// As for [`plan()`]; when an undo was killed; when the killed run was given other options.
    pub fn plan(&mut self, options: &Options) -> Result<(Plan, bool), Failure> {
        if self.journal.is_undoing {
            let message = "a setup was being taken back, and that was interrupted: `bailiwick setup --undo` ends it";
            return Err(Failure::of(ExitStatus::Conflict, message));
        }
        if !self.journal.unfinished.is_empty() {
            // Without any option it goes on with those that it began with.
            if *options != self.journal.options && *options != Options::default() {
                let message = "a setup with other options was interrupted: run `bailiwick setup` without any to end it, or `bailiwick setup --undo` to take it back";
                return Err(Failure::of(ExitStatus::Conflict, message));
            }
            return Ok((Plan { steps: self.journal.unfinished.clone(), notes: Vec::new() }, true));
        }
        let facts = Facts::read(&mut self.machine, &self.config, &self.journal, options)?;
        Ok((plan(options, &facts)?, false))
    }

    /// What the plan would do. Changes nothing.
    ///
    /// # Errors
    /// When the machine cannot be looked at, or is not as an earlier setup left it.
    pub fn preview(&mut self, plan: &Plan) -> Result<Vec<StepOutcome>, Failure> {
        let mut all: Vec<StepOutcome> = Vec::new();
        for step in &plan.steps {
            let is_fresh = all.iter().any(|step| step.outcome == Outcome::Needed);
            let is_done = work::is_done(&mut self.machine, step, self.journal.entry(&step.name), is_fresh)?;
            all.push(StepOutcome::new(step, if is_done { Outcome::Unchanged } else { Outcome::Needed }));
        }
        Ok(all)
    }

    /// Carries the plan out. `progress` is called before each step that does something.
    ///
    /// # Errors
    /// When a step fails. What was done until then stays, and the journal knows it: another run goes on, an undo takes it back.
    pub fn carry_out(
        &mut self,
        options: &Options,
        plan: &Plan,
        progress: &mut dyn FnMut(usize, &Step),
    ) -> Result<Vec<StepOutcome>, Failure> {
        let needed = self.preview(plan)?;
        if self.journal.unfinished.is_empty() {
            if needed.iter().all(|step| step.outcome == Outcome::Unchanged) {
                return Ok(needed);
            }
            (self.journal.options, self.journal.unfinished) = (options.clone(), plan.steps.clone());
            self.journal.write(&mut self.machine)?;
        }
        let mut all: Vec<StepOutcome> = Vec::new();
        for (number, step) in plan.steps.iter().enumerate() {
            let is_fresh = all.iter().any(|step| step.outcome == Outcome::Done);
            let outcome = self.step(number, step, is_fresh, progress)?;
            all.push(StepOutcome::new(step, outcome));
        }
        self.journal.unfinished.clear();
        self.journal.write(&mut self.machine)?;
        Ok(all)
    }

    fn step(
        &mut self,
        number: usize,
        step: &Step,
        is_fresh: bool,
        progress: &mut dyn FnMut(usize, &Step),
    ) -> Result<Outcome, Failure> {
        let entry = self.journal.entry(&step.name);
        let is_half = entry.is_some_and(|entry| !entry.is_done);
        if !is_half && work::is_done(&mut self.machine, step, entry, is_fresh)? {
            return Ok(Outcome::Unchanged);
        }
        progress(number, step);
        let before = match self.journal.entry(&step.name) {
            // What was there before its first time is noted already.
            Some(entry) => entry.before.clone(),
            None => work::before(&mut self.machine, step)?,
        };
        self.journal.begin(&mut self.machine, step, before)?;
        work::carry_out(&mut self.machine, step)
            .map_err(|failure| Failure { message: format!("cannot {}: {}", step.what, failure.message), ..failure })?;
        self.journal.end(&mut self.machine, &step.name)?;
        Ok(Outcome::Done)
    }

    /// Takes everything back that setup did on this machine, the last first. `progress` is called before each step.
    ///
    /// # Errors
    /// When tenants exist, or when a file has changed since: then nothing is taken back. When a step fails, another undo goes on.
    pub fn undo(&mut self, progress: &mut dyn FnMut(usize, &Step)) -> Result<Vec<StepOutcome>, Failure> {
        if self.journal.is_empty() {
            return Ok(Vec::new());
        }
        self.check_undo()?;
        self.journal.is_undoing = true;
        self.journal.unfinished.clear();
        self.journal.write(&mut self.machine)?;
        let entries = self.journal.entries.clone();
        let mut all = Vec::new();
        for (number, entry) in entries.iter().rev().enumerate() {
            progress(number, &entry.step);
            work::take_back(&mut self.machine, entry).map_err(|failure| Failure {
                message: format!("cannot take back \"{}\": {}", entry.step.what, failure.message),
                ..failure
            })?;
            all.push(StepOutcome::new(&entry.step, Outcome::TakenBack));
        }
        work::after_undo(&mut self.machine, &entries)?;
        // The journal goes last: until then a killed undo begins again, and finds less to do.
        Journal::remove(&mut self.machine)?;
        self.journal = Journal::read(&self.machine)?;
        Ok(all)
    }

    /// The steps that an undo would take back, the last first.
    ///
    /// # Errors
    /// As for [`Setup::undo`].
    pub fn preview_undo(&mut self) -> Result<Vec<StepOutcome>, Failure> {
        if !self.journal.is_empty() {
            self.check_undo()?;
        }
        Ok(self.journal.entries.iter().rev().map(|entry| StepOutcome::new(&entry.step, Outcome::Needed)).collect())
    }

    fn check_undo(&mut self) -> Result<(), Failure> {
        for entry in &self.journal.entries {
            work::may_undo(&mut self.machine, entry)?;
        }
        let config_path = self.config.join("bailiwick.toml");
        let text = self.machine.read_text(&config_path)?.unwrap_or_default();
        let host = facts::host(&config_path, &text)?;
        let tenants = facts::tenants(&self.machine, &self.config, &host.state_dir);
        if tenants.is_empty() {
            return Ok(());
        }
        let message = format!(
            "nothing is taken back while there are tenants, because their data would be destroyed: {}; `bailiwick delete --purge` \
             removes one with its data",
            tenants.join(", ")
        );
        Err(Failure::of(ExitStatus::Refused, message))
    }
}

/// Takes the lock. The programs that setup starts inherit it, so it is free only once those of a killed setup have ended.
fn lock(machine: &Machine<'_>) -> Result<OwnedFd, Failure> {
    let path = machine.at(LOCK);
    let open = || {
        let dir = file::open_dir(&path.canonicalize()?)?;
        rustix::io::fcntl_setfd(&dir, rustix::io::FdFlags::empty())?;
        let until = Instant::now() + LOCK_TIME;
        loop {
            match file::lock(dir.as_fd()) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                other => return other.map(|()| dir),
            }
        }
    };
    open().map_err(|error: std::io::Error| match error.kind() {
        std::io::ErrorKind::WouldBlock => {
            let message = "another `bailiwick setup` runs, or a program that one had started (`fuser -v /var/lib`)";
            Failure::of(ExitStatus::Conflict, message)
        }
        _ => crate::machine::failed("lock", Path::new(LOCK), &error),
    })
}
