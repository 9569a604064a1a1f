//! `top`: the current resource usage of all tenants, full-screen on a terminal.
//!
//! [`Top`] is the state of the screen: it handles keys, has no side effects and can be drawn on any backend. [`run`] owns
//! the terminal.
//!
//! Danger: a terminal left in raw mode is unusable, so every exit restores it: errors, signals and panics too. A signal or a
//! closed terminal must end the program even while the daemon does not answer or reading keys blocks, so a thread waits for
//! both. Text that tenants can choose is escaped by `visible` before it is drawn.

mod screen;

use bailiwick_proto::Failure;
use bailiwick_proto::control::ServiceStatus;
use bailiwick_sys::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, Signals};
use bailiwick_sys::stream::{self, Interest};
use bailiwick_types::{ExitStatus, Measure, Point, TenantName, TenantUsage};
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use screen::{Action, Top};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// The data of one refresh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Data {
    /// The recent usage of every tenant.
    pub(crate) tenants: Vec<TenantUsage>,
    /// The history of the tenant shown in detail, oldest first; empty if there is none.
    pub(crate) points: Vec<Point>,
    /// The services of the tenant shown in detail.
    pub(crate) services: Vec<ServiceStatus>,
}

/// Why `top` failed.
#[derive(Debug, thiserror::Error)]
enum TopError {
    /// Standard input or output is not a terminal.
    #[error("\"bailiwick top\" needs a terminal; elsewhere use \"bailiwick usage\"")]
    NoTerminal,
    /// Setting up, reading or drawing the terminal failed.
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
    /// Blocking or waiting for signals failed.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
}

impl From<TopError> for Failure {
    fn from(error: TopError) -> Self {
        let status = if matches!(error, TopError::NoTerminal) { ExitStatus::Invalid } else { ExitStatus::Failed };
        Self::new(status, &error)
    }
}

/// Restores the terminal when dropped.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        // Fails if the terminal is closed; then there is nothing to restore.
        ratatui::try_restore().ok();
    }
}

/// The result of waiting for input.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Input {
    /// An event from the terminal.
    Event(Event),
    /// No event in time.
    Timeout,
}

/// `bailiwick top`: shows the data of `source`, refreshed every `interval`, until the operator quits. The first data is
/// fetched before the terminal changes, so that its failure is reported like that of any command.
pub(crate) fn run(
    mut source: impl FnMut(Option<&TenantName>) -> Result<Data, Failure>,
    by: Option<Measure>,
    interval: Duration,
) -> Result<(), Failure> {
    needs_terminal(io::stdin().is_terminal() && io::stdout().is_terminal())?;
    let mut top = Top::new(by);
    top.update(Ok(source(None)?));
    let signals = Signals::block(&[SIGHUP, SIGINT, SIGQUIT, SIGTERM]).map_err(TopError::Signals)?;
    std::thread::Builder::new()
        .name("end".into())
        .spawn(move || exit_on_signal(&signals))
        .map_err(TopError::Signals)?;
    // Created before the terminal is set up. `try_init` also installs a panic hook that restores it before the message.
    let _restore = Restore;
    let mut terminal = ratatui::try_init().map_err(TopError::Terminal)?;
    let wait =
        |patience: Duration| Ok(if event::poll(patience)? { Input::Event(event::read()?) } else { Input::Timeout });
    let draw = |top: &Top| terminal.draw(|frame| top.draw(frame)).map(drop);
    event_loop(&mut top, source, interval, wait, draw).map_err(|error| TopError::Terminal(error).into())
}

/// Exits the program on a signal or when the terminal is closed.
#[expect(clippy::exit, reason = "the main thread may block forever")]
fn exit_on_signal(signals: &Signals) {
    /// How long restoring may take: writing to a stopped terminal blocks.
    const RESTORE_TIME: Duration = Duration::from_secs(1);
    let stdin = io::stdin();
    let must_exit = || -> io::Result<bool> {
        let ready = stream::wait(&[(signals.as_fd(), Interest::Read), (stdin.as_fd(), Interest::End)], None)?;
        Ok(ready[1] || (ready[0] && signals.take()?.is_some()))
    };
    while matches!(must_exit(), Ok(false)) {}
    let (done, restored) = std::sync::mpsc::sync_channel(1);
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

/// Draws the screen, waits for input and refreshes the data, until the operator quits.
fn event_loop(
    top: &mut Top,
    mut source: impl FnMut(Option<&TenantName>) -> Result<Data, Failure>,
    interval: Duration,
    mut wait: impl FnMut(Duration) -> io::Result<Input>,
    mut draw: impl FnMut(&Top) -> io::Result<()>,
) -> io::Result<()> {
    let mut refreshed = Instant::now();
    loop {
        draw(top)?;
        let action = match wait(interval.saturating_sub(refreshed.elapsed()))? {
            Input::Event(Event::Key(key)) if key.kind != KeyEventKind::Release => top.key(key),
            // A resize is drawn in the next iteration.
            Input::Event(_) | Input::Timeout => Action::Continue,
        };
        match action {
            Action::Quit => return Ok(()),
            Action::Continue if refreshed.elapsed() < interval => {}
            Action::Continue | Action::Refresh | Action::Drill(_) => {
                top.update(source(top.drilled()));
                refreshed = Instant::now();
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
    fn without_a_terminal_the_message_names_the_alternative() {
        let failure = Failure::from(needs_terminal(false).expect_err("none"));
        let golden = "\"bailiwick top\" needs a terminal; elsewhere use \"bailiwick usage\"";
        assert_eq!((failure.status, failure.message.as_str()), (ExitStatus::Invalid, golden));
        assert!(needs_terminal(true).is_ok());
    }

    /// Runs the loop with these inputs. Returns its result, and the detail tenant of each refresh.
    fn run_loop(inputs: Vec<Input>, interval: Duration) -> (io::Result<()>, Vec<Option<String>>) {
        let mut asked = Vec::new();
        let source = |tenant: Option<&TenantName>| {
            asked.push(tenant.map(ToString::to_string));
            Ok(data())
        };
        let mut inputs = inputs.into_iter();
        let wait = |_| inputs.next().ok_or_else(|| io::ErrorKind::UnexpectedEof.into());
        let result = event_loop(&mut loaded(), source, interval, wait, |_| Ok(()));
        (result, asked)
    }

    #[test]
    fn data_is_refreshed_in_time_and_on_request() {
        let key = |code: KeyCode| Input::Event(Event::Key(code.into()));
        let hour = Duration::from_secs(3600);
        let released = KeyEvent { kind: KeyEventKind::Release, ..KeyCode::Char('q').into() };
        let quiet = vec![
            Input::Timeout,
            Input::Event(Event::Resize(1, 1)),
            Input::Event(Event::Key(released)),
            key(KeyCode::Char('q')),
        ];
        let (result, asked) = run_loop(quiet.clone(), hour);
        assert!(result.is_ok() && asked.is_empty());
        let (result, asked) = run_loop(quiet, Duration::ZERO);
        assert!(result.is_ok() && asked == [None, None, None]);
        let (result, asked) =
            run_loop(vec![key(KeyCode::Enter), key(KeyCode::Char(' ')), key(KeyCode::Char('q'))], hour);
        assert!(result.is_ok() && asked == [Some("bob".to_owned()), Some("bob".to_owned())]);
        assert!(run_loop(Vec::new(), hour).0.is_err(), "a closed terminal ends the loop");
    }
}
