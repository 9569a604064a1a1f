//! A program beside the daemon and the warden, for `--standalone`: started once somebody wants it, and then there until the end.
//!
//! Danger: nothing that fails here may end or restart the other programs. It is told once, and tried again.

use super::{LOOK_TIME, Program, pause_after};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// The program has no socket that is asked: what it does may take as long as somebody else's program does.
const NEVER_ASKED: Duration = Duration::MAX;

/// Makes the command of a program.
pub(super) type MakeCommand = Box<dyn Fn() -> Command>;

/// What a program is for, and how it is started.
pub(super) trait Purpose {
    /// The name of the program.
    const NAME: &'static str;
    /// What is so while it does not run.
    const LOSS: &'static str;

    /// Whether the configuration has something for it to do.
    fn is_wanted(&mut self) -> bool;

    /// Makes what it needs.
    ///
    /// # Errors
    /// It cannot be started, and why.
    fn prepare(&mut self) -> Result<MakeCommand, String>;
}

/// A program beside the others.
pub(super) struct Beside<P> {
    pub(super) purpose: P,
    is_wanted: bool,
    pub(super) next_look: Instant,
    /// Why it could not be started, as last told.
    pub(super) told: Option<String>,
    pub(super) failures: u32,
    /// The program, once it was started.
    pub(super) program: Option<Program>,
}

impl<P: Purpose> Beside<P> {
    /// Nothing is started yet.
    pub(super) fn new(purpose: P) -> Self {
        Self { purpose, is_wanted: false, next_look: Instant::now(), told: None, failures: 0, program: None }
    }

    /// Looks at the configuration and at the program, and starts it when that is due.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        if let Some(program) = &mut self.program
            && let Some(status) = program.reap()
        {
            let lives = program.short_lives;
            // It has said why, and does so each time.
            if lives <= 1 {
                tracing::warn!(event = "ended", program = P::NAME, %status, "{} until {} runs", P::LOSS, P::NAME);
            }
            self.next_look = now + pause_after(lives);
        }
        if now < self.next_look || self.program.as_ref().is_some_and(|program| program.child.is_some()) {
            return;
        }
        self.next_look = now + LOOK_TIME;
        self.is_wanted = self.is_wanted || self.purpose.is_wanted();
        if self.is_wanted {
            match self.start() {
                Ok(()) => (self.failures, self.told) = (0, None),
                Err(why) => {
                    self.failures += 1;
                    self.next_look = now + pause_after(self.failures);
                    if self.told.as_ref() != Some(&why) {
                        tracing::error!(event = "not-started", program = P::NAME, "{}: {why}", P::LOSS);
                        self.told = Some(why);
                    }
                }
            }
        }
    }

    fn start(&mut self) -> Result<(), String> {
        let command = self.purpose.prepare()?;
        let short_lives = self.program.as_ref().map_or(0, |program| program.short_lives);
        let mut program = Program::new(P::NAME, PathBuf::new(), NEVER_ASKED, command);
        program.short_lives = short_lives;
        let started = program.start().map_err(|ended| ended.message);
        self.program = Some(program);
        started
    }

    /// Ends the program.
    pub(super) fn end(&mut self) {
        if let Some(program) = &mut self.program {
            program.end();
        }
    }
}
