//! How output looks on a terminal: colours, a pager for what is longer than the screen, and a line while something takes long.
//!
//! Danger: what tenants chose is escaped before it gets here. Colours are added after that, and only whole cells of tables and the
//! first words of messages get one, so that nobody can make text look like ours.

use bailiwick_sys::process::unblock_signals;
use bailiwick_sys::signal::{SIGINT, Signals, unblock_all};
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long something may take before a line says what it is.
const PATIENCE: Duration = Duration::from_secs(1);
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// When output has colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What the command line says of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Style {
    pub(crate) color: Color,
    pub(crate) no_pager: bool,
}

static STYLE: OnceLock<Style> = OnceLock::new();

/// Takes over what the command line says. Later calls have no effect.
pub(crate) fn set(style: Style) {
    STYLE.set(style).ok();
}

fn style() -> Style {
    STYLE.get().copied().unwrap_or_default()
}

/// The words of cells, each with its colour. A word that is in no row has none.
const WORDS: &[(&str, &str)] = &[
    ("allocated", GREEN),
    ("enforced", GREEN),
    ("passes", GREEN),
    ("ready", GREEN),
    ("running", GREEN),
    ("works", GREEN),
    ("asleep", YELLOW),
    ("down", YELLOW),
    ("drift", YELLOW),
    ("frozen", YELLOW),
    ("limited", YELLOW),
    ("nominal", YELLOW),
    ("stopped", YELLOW),
    ("suspended", YELLOW),
    ("suspended-read-only", YELLOW),
    ("warning", YELLOW),
    ("back-off", RED),
    ("breached", RED),
    ("critical", RED),
    ("failed", RED),
    ("invalid", RED),
    ("missing", RED),
    ("refuses", RED),
    ("unresponsive", RED),
];

fn wants_color(stream_is_terminal: bool) -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    match style().color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => stream_is_terminal && !is_set("NO_COLOR") && !is_dumb,
    }
}

/// Colours the cells of tables and their headers.
fn paint(text: &str) -> String {
    text.split_inclusive('\n').map(paint_line).collect()
}

fn paint_line(line: &str) -> String {
    let is_header =
        |cell: &str| !cell.is_empty() && cell.chars().all(|c| c.is_ascii_uppercase() || c == ' ' || c == '%');
    let content = line.trim_end_matches('\n');
    if content.contains("  ") && content.split("  ").all(|cell| cell.is_empty() || is_header(cell.trim())) {
        return format!("{BOLD}{content}{PLAIN}{}", &line[content.len()..]);
    }
    let mut out = String::new();
    for (index, cell) in line.split("  ").enumerate() {
        if index > 0 {
            out.push_str("  ");
        }
        let word = cell.trim();
        // `running,invalid` and `frozen (idle)` begin with the word that counts.
        let first = word.split([',', ' ']).next().unwrap_or_default();
        let is_cell = word == first || word[first.len()..].starts_with([',']) || word[first.len()..].starts_with(" (");
        // The first cell of a row is a name, which may be such a word.
        let color = WORDS.iter().find(|(known, _)| index > 0 && is_cell && *known == first).map(|(_, color)| color);
        match (color, cell.find(word)) {
            (Some(color), Some(at)) => {
                let (before, after) = (&cell[..at], &cell[at + word.len()..]);
                out.push_str(&format!("{before}{color}{word}{PLAIN}{after}"));
            }
            _ => out.push_str(cell),
        }
    }
    out
}

/// Colours the first words of messages for standard error.
pub(crate) fn paint_messages(text: String) -> String {
    if !wants_color(io::stderr().is_terminal()) {
        return text;
    }
    let line = |line: &str| {
        for (start, color) in [("error:", RED), ("warning:", YELLOW)] {
            if let Some(rest) = line.strip_prefix(start) {
                return format!("{BOLD}{color}{start}{PLAIN}{rest}");
            }
        }
        line.to_owned()
    };
    text.split_inclusive('\n').map(line).collect()
}

/// Prints a report: with colours, and through a pager if it is longer than the screen.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let stdout = io::stdout();
    let is_terminal = stdout.is_terminal();
    let painted = if wants_color(is_terminal) { paint(text) } else { text.to_owned() };
    if is_terminal && !style().no_pager && is_long(text) && page(&painted) {
        return Ok(());
    }
    let mut stdout = stdout.lock();
    stdout.write_all(painted.as_bytes()).and_then(|()| stdout.flush())
}

fn is_long(text: &str) -> bool {
    let rows = bailiwick_sys::terminal::size(io::stdout()).map_or(0, |size| usize::from(size.rows));
    rows > 0 && text.lines().count() >= rows
}

/// The pager that the user wants.
fn pager() -> Option<OsString> {
    let wanted = std::env::var_os("PAGER").unwrap_or_else(|| "less".into());
    (!wanted.is_empty() && wanted != "cat").then_some(wanted)
}

/// Shows a text in the pager. Returns whether there was one.
fn page(text: &str) -> bool {
    let Some(pager) = pager() else { return false };
    let mut command = Command::new("/bin/sh");
    // $PAGER may have arguments. Without the pager the status is 127, and the text is printed instead.
    command.arg("-c").arg("exec $BAILIWICK_PAGER").env("BAILIWICK_PAGER", &pager).stdin(Stdio::piped());
    if std::env::var_os("LESS").is_none() {
        command.env("LESS", "FRX");
    }
    unblock_signals(&mut command);
    // An interrupt is for the pager.
    let Ok(blocked) = Signals::block(&[SIGINT]) else { return false };
    let mut shown = || -> io::Result<bool> {
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A pager that is left early reads no more.
            stdin.write_all(text.as_bytes()).ok();
        }
        Ok(child.wait()?.code() != Some(127))
    };
    let shown = shown().unwrap_or(false);
    while matches!(blocked.take(), Ok(Some(_))) {}
    unblock_all().ok();
    shown
}

/// A line on standard error while something takes longer than a second, on a terminal only. It is erased at the end.
#[derive(Debug)]
pub(crate) struct Working {
    end: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Working {
    pub(crate) fn on(what: &'static str) -> Self {
        if !io::stderr().is_terminal() {
            return Self { end: None, thread: None };
        }
        let (end, ended) = sync_channel::<()>(1);
        let thread = std::thread::spawn(move || {
            if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                // A line that cannot be written is not worth an error.
                io::stderr().write_all(format!("\r{what}\x1b[K").as_bytes()).ok();
                ended.recv().ok();
                io::stderr().write_all(b"\r\x1b[K").ok();
            }
        });
        Self { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_cells_and_headers_have_colours() {
        for (text, golden) in [
            ("NAME   STATE\n", "\x1b[1mNAME   STATE\x1b[0m\n"),
            ("alice  running  small\n", "alice  \x1b[32mrunning\x1b[0m  small\n"),
            ("alice  running,invalid  x\n", "alice  \x1b[32mrunning,invalid\x1b[0m  x\n"),
            ("failed  running\n", "failed  \x1b[32mrunning\x1b[0m\n"),
            ("x  failed to start the jail\n", "x  failed to start the jail\n"),
            ("nothing here is failed\n", "nothing here is failed\n"),
        ] {
            assert_eq!(paint(text), golden);
        }
    }
}
