//! `top`: who uses what, now, on a terminal of its own.
//!
//! [`Top`] is what is shown and how keys change it: it does nothing to the world and is drawn on any backend. [`run`] owns
//! the terminal.
//!
//! Danger: a terminal that is left raw is useless to its owner, so it is given back on every way out: an error, a signal
//! and a panic too. The way out is open at any time, also while nobody answers, or the terminal has gone and what reads keys never
//! returns: a thread of its own waits for it. Words that tenants could have chosen are drawn as `visible` has them.

mod screen;

use bailiwick_proto::Failure;
use bailiwick_sys::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, Signals};
use bailiwick_sys::stream::{self, Interest};
use bailiwick_types::{ExitStatus, Measure, Point, TenantName, TenantUsage};
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use screen::{Action, Top};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// What is asked for again and again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Data {
    /// Every tenant over the last moments.
    pub(crate) tenants: Vec<TenantUsage>,
    /// The history of the tenant that was asked for, oldest first; empty without one.
    pub(crate) points: Vec<Point>,
}

/// Why there is no live view.
#[derive(Debug, thiserror::Error)]
enum TopError {
    /// Nobody would see it.
    #[error("\"bailiwick top\" needs a terminal; elsewhere use \"bailiwick usage\"")]
    NoTerminal,
    /// The terminal does not do what it is told.
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
    /// The kernel refuses.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
}

impl From<TopError> for Failure {
    fn from(error: TopError) -> Self {
        let status = if matches!(error, TopError::NoTerminal) { ExitStatus::Invalid } else { ExitStatus::Failed };
        Self::new(status, &error)
    }
}

/// Gives the terminal back.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        // It fails when the terminal has gone: then there is nothing to give back.
        ratatui::try_restore().ok();
    }
}

/// Something that came from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Came {
    /// From the terminal.
    Event(Event),
    /// Nothing in time.
    Nothing,
}

/// `bailiwick top`: asks `source` at least every `interval` and shows what it says, until the operator has seen enough.
/// The first answer is waited for before the terminal changes, so that its failure is told like any other.
pub(crate) fn run(
    mut source: impl FnMut(Option<&TenantName>) -> Result<Data, Failure>,
    by: Option<Measure>,
    interval: Duration,
) -> Result<(), Failure> {
    needs_terminal(io::stdin().is_terminal() && io::stdout().is_terminal())?;
    let mut top = Top::new(by);
    top.take(Ok(source(None)?));
    let signals = Signals::block(&[SIGHUP, SIGINT, SIGQUIT, SIGTERM]).map_err(TopError::Signals)?;
    std::thread::Builder::new().name("end".into()).spawn(move || end_when_told(&signals)).map_err(TopError::Signals)?;
    // Before the terminal is touched. It installs a hook for panics besides, which restores before the message.
    let _restore = Restore;
    let mut terminal = ratatui::try_init().map_err(TopError::Terminal)?;
    let wait =
        |patience: Duration| Ok(if event::poll(patience)? { Came::Event(event::read()?) } else { Came::Nothing });
    let draw = |top: &Top| terminal.draw(|frame| top.draw(frame)).map(drop);
    attend(&mut top, source, interval, wait, draw).map_err(|error| TopError::Terminal(error).into())
}

/// Ends the program once a signal says so or the terminal has gone.
#[expect(clippy::exit, reason = "what the first thread waits for may never come")]
fn end_when_told(signals: &Signals) {
    /// How long the terminal may take: one that is stopped takes nothing.
    const RESTORE_TIME: Duration = Duration::from_secs(1);
    let stdin = io::stdin();
    let is_told = || -> io::Result<bool> {
        let told = stream::wait(&[(signals.as_fd(), Interest::Read), (stdin.as_fd(), Interest::End)], None)?;
        Ok(told[1] || (told[0] && signals.take()?.is_some()))
    };
    while matches!(is_told(), Ok(false)) {}
    let (done, restored) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(Restore);
        done.send(())
    });
    restored.recv_timeout(RESTORE_TIME).ok();
    std::process::exit(0);
}

fn needs_terminal(is_terminal: bool) -> Result<(), TopError> {
    if is_terminal { Ok(()) } else { Err(TopError::NoTerminal) }
}

/// Draws, waits, asks, until the end.
fn attend(
    top: &mut Top,
    mut source: impl FnMut(Option<&TenantName>) -> Result<Data, Failure>,
    interval: Duration,
    mut wait: impl FnMut(Duration) -> io::Result<Came>,
    mut draw: impl FnMut(&Top) -> io::Result<()>,
) -> io::Result<()> {
    let mut asked = Instant::now();
    loop {
        draw(top)?;
        let action = match wait(interval.saturating_sub(asked.elapsed()))? {
            Came::Event(Event::Key(key)) if key.kind != KeyEventKind::Release => top.key(key),
            // A new size is drawn with the next turn; nothing else is asked for.
            Came::Event(_) | Came::Nothing => Action::Continue,
        };
        match action {
            Action::Quit => return Ok(()),
            Action::Continue if asked.elapsed() < interval => {}
            Action::Continue | Action::Refresh | Action::Drill(_) => {
                top.take(source(top.drilled()));
                asked = Instant::now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::screen::tests::{data, loaded};
    use ratatui::crossterm::event::{KeyCode, KeyEvent};

    #[test]
    fn without_a_terminal_the_remedy_is_told() {
        let failure = Failure::from(needs_terminal(false).expect_err("none"));
        let golden = "\"bailiwick top\" needs a terminal; elsewhere use \"bailiwick usage\"";
        assert_eq!((failure.status, failure.message.as_str()), (ExitStatus::Invalid, golden));
        assert!(needs_terminal(true).is_ok());
    }

    /// Runs the loop with what came from outside; how often it was asked for whom.
    fn attended(came: Vec<Came>, interval: Duration) -> (io::Result<()>, Vec<Option<String>>) {
        let mut asked = Vec::new();
        let source = |tenant: Option<&TenantName>| {
            asked.push(tenant.map(ToString::to_string));
            Ok(data())
        };
        let mut came = came.into_iter();
        let wait = |_| came.next().ok_or_else(|| io::ErrorKind::UnexpectedEof.into());
        let result = attend(&mut loaded(), source, interval, wait, |_| Ok(()));
        (result, asked)
    }

    #[test]
    fn new_data_is_asked_for_in_time_and_when_it_is_wanted() {
        let key = |code: KeyCode| Came::Event(Event::Key(code.into()));
        let hour = Duration::from_secs(3600);
        let released = KeyEvent { kind: KeyEventKind::Release, ..KeyCode::Char('q').into() };
        let quiet = vec![
            Came::Nothing,
            Came::Event(Event::Resize(1, 1)),
            Came::Event(Event::Key(released)),
            key(KeyCode::Char('q')),
        ];
        let (result, asked) = attended(quiet.clone(), hour);
        assert!(result.is_ok() && asked.is_empty());
        let (result, asked) = attended(quiet, Duration::ZERO);
        assert!(result.is_ok() && asked == [None, None, None]);
        let (result, asked) =
            attended(vec![key(KeyCode::Enter), key(KeyCode::Char(' ')), key(KeyCode::Char('q'))], hour);
        assert!(result.is_ok() && asked == [Some("bob".to_owned()), Some("bob".to_owned())]);
        assert!(attended(Vec::new(), hour).0.is_err(), "a terminal that has gone ends it");
    }
}
