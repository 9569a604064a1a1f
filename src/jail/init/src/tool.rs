//! `bailiwick-service`: the tenant's own command for its services, which runs inside as whoever called it.
//!
//! Danger: root inside can put anything at the path of init's socket. What comes from there is typed, bounded and escaped.

mod logs;

use crate::own_socket;
use bailiwick_proto::init::MAX_SERVICES_REPLY;
use bailiwick_proto::{Failure, Incoming, InitReply, InitRequest, TransportError, time_limits, transport};
use bailiwick_sys::socket;
use bailiwick_types::visible_lines;
use bailiwick_types::{ExitStatus, Moment, ServiceReport, ServiceState, ServiceVerb, UnitName};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// The name under which init is this command.
pub(crate) const NAME: &str = "bailiwick-service";
const USAGE: &str = "usage: bailiwick-service list\n\
    \x20      bailiwick-service status [NAME]\n\
    \x20      bailiwick-service start|stop|restart NAME\n\
    \x20      bailiwick-service logs [-f] NAME\n";
/// The largest request, in bytes.
const MAX_OWN_REQUEST: usize = bailiwick_proto::frame::MAX_EVENT;
/// The last second that RFC 3339 can write.
const LAST_SECOND: u64 = 253_402_300_799;

#[derive(Debug, PartialEq, Eq)]
enum Command {
    Help,
    List,
    Status(Option<UnitName>),
    Tell(ServiceVerb, UnitName),
    Logs { name: UnitName, follow: bool },
}

/// Does what the arguments say.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let done = parse(arguments).and_then(|command| match command {
        Command::Help => print(USAGE),
        Command::List => print(&list(&reports()?)),
        Command::Status(name) => print(&status(&reports()?, name.as_ref())?),
        Command::Tell(verb, name) => tell(verb, name),
        Command::Logs { name, follow } => logs::print(&name, follow),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is told when standard error is closed.
            writeln!(io::stderr(), "{NAME}: {}", visible_lines(failure.message.trim_end())).ok();
            failure.status.into()
        }
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Command, Failure> {
    let invalid = |message: String| Failure::of(ExitStatus::Invalid, message);
    let arguments: Vec<String> = arguments.map(|argument| argument.to_string_lossy().into_owned()).collect();
    let name = |text: &str| text.parse::<UnitName>().map_err(|error| invalid(error.to_string()));
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Ok(match words.as_slice() {
        ["help" | "--help" | "-h"] => Command::Help,
        ["list"] => Command::List,
        ["status"] => Command::Status(None),
        ["status", one] => Command::Status(Some(name(one)?)),
        ["logs", "-f" | "--follow", one] | ["logs", one, "-f" | "--follow"] => {
            Command::Logs { name: name(one)?, follow: true }
        }
        ["logs", one] => Command::Logs { name: name(one)?, follow: false },
        [verb, one] => match verb.parse() {
            Ok(verb) => Command::Tell(verb, name(one)?),
            Err(_) => return Err(invalid(USAGE.to_owned())),
        },
        _ => return Err(invalid(USAGE.to_owned())),
    })
}

/// Prints text. A reader that has gone is no error.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::of(ExitStatus::Failed, format!("cannot print: {error}")))
        }
        _ => Ok(()),
    }
}

/// Asks init.
fn ask(request: &InitRequest) -> Result<InitReply, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::of(ExitStatus::Failed, format!("init does not answer at {}: {error}", own_socket::PATH))
    };
    let time = time_limits::INIT;
    let socket = socket::connect_within(Path::new(own_socket::PATH), Some(time)).map_err(|error| failed(&error))?;
    match transport::send(&socket, request, MAX_OWN_REQUEST, &[]) {
        // Whoever is refused is so before the request is read.
        Ok(()) | Err(TransportError::Ended) => {}
        Err(error) => return Err(failed(&error)),
    }
    let mut incoming = Incoming::new(MAX_SERVICES_REPLY, 0);
    match transport::receive(&socket, &mut incoming, Instant::now() + time) {
        Ok((InitReply::Refused, _)) => {
            Err(Failure::of(ExitStatus::Refused, "only root and the login user may direct services".to_owned()))
        }
        Ok((reply, _)) => Ok(reply),
        Err(error) => Err(failed(&error)),
    }
}

fn unexpected() -> Failure {
    Failure::of(ExitStatus::Failed, "init has given an answer to something else".to_owned())
}

fn no_such(name: &UnitName) -> Failure {
    Failure::of(ExitStatus::NotFound, format!("there is no service \"{name}\"; `{NAME} list` shows all"))
}

fn reports() -> Result<Vec<ServiceReport>, Failure> {
    match ask(&InitRequest::Services)? {
        InitReply::Services(mut reports) => {
            reports.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(reports)
        }
        _ => Err(unexpected()),
    }
}

fn tell(verb: ServiceVerb, name: UnitName) -> Result<(), Failure> {
    match ask(&InitRequest::ServiceVerb { name: name.clone(), verb })? {
        InitReply::Ordered => Ok(()),
        InitReply::NoSuchService => Err(no_such(&name)),
        _ => Err(unexpected()),
    }
}

fn list(reports: &[ServiceReport]) -> String {
    if reports.is_empty() {
        return String::new();
    }
    let mut rows = vec![["NAME", "STATE", "SINCE", "PID", "RESTARTS", "PROBLEM"].map(str::to_owned)];
    rows.extend(reports.iter().map(|report| {
        let is_failing = matches!(report.state, ServiceState::BackOff | ServiceState::Failed);
        let problem = report.last_end.filter(|_| is_failing).map(|end| end.to_string());
        [
            report.name.to_string(),
            report.state.to_string(),
            clock(report.since),
            report.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            report.restarts.to_string(),
            problem.unwrap_or_else(|| "-".to_owned()),
        ]
    }));
    aligned(&rows)
}

/// One program, or all of them, each in a paragraph.
fn status(reports: &[ServiceReport], name: Option<&UnitName>) -> Result<String, Failure> {
    let shown: Vec<String> =
        reports.iter().filter(|report| name.is_none_or(|name| report.name == *name)).map(paragraph).collect();
    match (name, shown.is_empty()) {
        (Some(name), true) => Err(no_such(name)),
        _ => Ok(shown.join("\n")),
    }
}

fn paragraph(report: &ServiceReport) -> String {
    let mut rows = vec![
        ["service".to_owned(), report.name.to_string()],
        ["state".to_owned(), format!("{}, since {}", report.state, clock(report.since))],
    ];
    rows.extend(report.again.map(|again| ["again".to_owned(), clock(again)]));
    rows.extend(report.pid.map(|pid| ["pid".to_owned(), pid.to_string()]));
    rows.push(["restarts".to_owned(), report.restarts.to_string()]);
    rows.extend(report.last_end.map(|end| ["last end".to_owned(), end.to_string()]));
    aligned(&rows)
}

/// A moment in UTC; `-` for one that has no name.
fn clock(moment: Moment) -> String {
    let seconds = Duration::from_secs(moment.0.min(LAST_SECOND));
    UNIX_EPOCH
        .checked_add(seconds)
        .filter(|_| moment.0 <= LAST_SECOND)
        .map_or_else(|| "-".to_owned(), |time| humantime::format_rfc3339_seconds(time).to_string())
}

/// Rows with each column as wide as its widest cell.
fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::ServiceEnd;

    fn report(name: &str, state: ServiceState, last_end: Option<ServiceEnd>) -> ServiceReport {
        ServiceReport {
            name: name.parse().expect("a name"),
            digest: String::new(),
            state,
            pid: (state == ServiceState::Running).then_some(7),
            since: Moment(1_790_000_000),
            restarts: 3,
            last_end,
            again: (state == ServiceState::BackOff).then_some(Moment(u64::MAX)),
        }
    }

    fn command(words: &[&str]) -> Result<Command, ExitStatus> {
        parse(words.iter().map(OsString::from)).map_err(|failure| failure.status)
    }

    #[test]
    fn arguments_are_understood_or_the_usage_is_wrong() {
        let name = |text: &str| text.parse::<UnitName>().expect("a name");
        assert_eq!(command(&["list"]), Ok(Command::List));
        assert_eq!(command(&["status"]), Ok(Command::Status(None)));
        assert_eq!(command(&["status", "php"]), Ok(Command::Status(Some(name("php")))));
        assert_eq!(command(&["restart", "node.web"]), Ok(Command::Tell(ServiceVerb::Restart, name("node.web"))));
        for words in [["logs", "-f", "php"], ["logs", "php", "--follow"]] {
            assert_eq!(command(&words), Ok(Command::Logs { name: name("php"), follow: true }));
        }
        assert_eq!(command(&["logs", "php"]), Ok(Command::Logs { name: name("php"), follow: false }));
        for words in
            [&[][..], &["x"], &["stop"], &["stop", "../x"], &["kill", "php"], &["list", "php"], &["stop", "a", "b"]]
        {
            assert_eq!(command(words), Err(ExitStatus::Invalid), "{words:?}");
        }
    }

    #[test]
    fn a_list_has_a_line_for_each_and_a_status_a_paragraph() {
        let reports = [
            report("cache", ServiceState::BackOff, Some(ServiceEnd::NotStarted(2))),
            report("node.web", ServiceState::Running, Some(ServiceEnd::Killed(9))),
        ];
        assert_eq!(
            list(&reports),
            "NAME      STATE     SINCE                 PID  RESTARTS  PROBLEM\n\
             cache     back-off  2026-09-21T14:13:20Z  -    3         \
             it cannot be started: No such file or directory (os error 2)\n\
             node.web  running   2026-09-21T14:13:20Z  7    3         -\n"
        );
        assert_eq!(list(&[]), "");
        let all = status(&reports, None).expect("all");
        assert_eq!(all.split("\n\n").count(), 2, "{all}");
        // A moment that nobody can name does no harm.
        assert!(all.contains("again     -\n"), "{all}");
        let one = status(&reports, Some(&reports[1].name)).expect("one");
        assert!(one.starts_with("service   node.web\n") && one.contains("signal 9 ended it"), "{one}");
        let missing = status(&reports, Some(&"nothing".parse().expect("a name"))).expect_err("none");
        assert_eq!(missing.status, ExitStatus::NotFound);
    }
}
