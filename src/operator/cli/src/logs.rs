//! `logs`: prints the logs of a tenant's services, which are files of the tenant.
//!
//! A session runs `tail` inside, as the login user. So the host opens no file of a tenant, and a log costs only its tenant.
//!
//! Danger: every byte comes from the tenant. It is escaped before it is printed, and a line is bounded.

use crate::arguments::LogOptions;
use crate::output::{self, visible};
use crate::service;
use crate::window;
use bailiwick_client::Daemon;
use bailiwick_proto::Failure;
use bailiwick_proto::control::TenantServices;
use bailiwick_types::{ExitStatus, Moment, UnitName};
use jiff::Timestamp;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The lines of each log that are printed when neither a number nor a time is given.
const LINES: u64 = 100;
/// The most bytes of a line. What is longer is printed as several lines.
const MAX_LINE: u64 = 64 << 10;
/// The most full files of a log (`log.keep`).
const MAX_KEPT: u32 = 20;
/// The most bytes of lines that are brought into the order of their stamps together.
const MAX_SORTED: usize = 64 << 20;
/// The number of the login user inside.
const LOGIN: &str = "1000";

/// Prints the last lines of each file and of the full files beside it, each file after a line with its name. The first
/// argument is the number of lines, and the second that of the oldest full file.
const PRINT: &str = "lines=$1; oldest=$2; shift 2\n\
    for log do\n\
      echo \"==> $log <==\"\n\
      # The tenant may have put a FIFO there, and nobody writes into it.\n\
      { i=$oldest; while [ $i -gt 0 ]; do [ -f \"$log.$i\" ] && cat \"$log.$i\"; i=$((i - 1)); done\n\
        [ -f \"$log\" ] && cat \"$log\"; } 2> /dev/null |\n\
        tail -n \"$lines\"\n\
    done";
/// The same, and then what is added. A file that is rotated or made later is opened again.
const FOLLOW: &str = "lines=$1; shift 2; exec tail -v -n \"$lines\" -F \"$@\" 2> /dev/null";

/// `bailiwick logs`.
pub(crate) fn run(daemon: &Daemon, config: &Path, options: LogOptions) -> Result<(), Failure> {
    let LogOptions { tenant, name, follow, since, lines } = options;
    let since = since.map(|since| window::moment_of(&since)).transpose()?;
    let services = service::of_tenant(daemon, tenant.clone(), name.as_ref().map(|name| &name.service))?;
    let files = files(&services, name.as_ref())?;
    let lines = match (lines, since) {
        (Some(lines), _) => lines.to_string(),
        (None, None) => LINES.to_string(),
        // From the first line on.
        (None, Some(_)) => "+1".to_owned(),
    };
    let mut command = Command::new(std::env::current_exe().map_err(|error| failed("find this program", &error))?);
    command.arg("--config").arg(config).args(["exec", "--user", LOGIN, tenant.as_str(), "--"]);
    command.args(["/bin/sh", "-c", if follow { FOLLOW } else { PRINT }, "sh", &lines, &MAX_KEPT.to_string()]);
    command.args(files.iter().map(|(_, path)| path));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed("start a session", &error))?;
    let printer = Printer::new(files, since.map(stamp));
    let result = print_output(&mut child, printer, follow);
    if !matches!(result, Ok(true)) {
        // Nobody reads any more. The session ends with its client.
        child.kill().ok();
    }
    let status = child.wait().map_err(|error| failed("wait for the session", &error))?;
    let complete = result.map_err(|error| failed("print the log", &error))?;
    // `tail` and `sh` say nothing themselves, so another status is that of the session, which has said why.
    match status.code() {
        Some(0) => Ok(()),
        _ if !complete => Ok(()),
        _ => Err(Failure::of(ExitStatus::Failed, "the log could not be read".to_owned())),
    }
}

fn failed(what: &str, error: &io::Error) -> Failure {
    Failure::of(ExitStatus::Failed, format!("cannot {what}: {error}"))
}

/// The programs whose logs are printed, each with the path of its log: the one that is named, or the services and their
/// relays.
fn files(services: &TenantServices, name: Option<&UnitName>) -> Result<Vec<(UnitName, String)>, Failure> {
    let mut files = Vec::new();
    for service in &services.services {
        let unit = UnitName::from(service.name.clone());
        let folder = service.log.rsplit_once('/').map_or("", |(folder, _)| folder);
        let relays = service
            .sockets
            .iter()
            .filter(|socket| socket.relay.is_some())
            .map(|socket| UnitName { service: service.name.clone(), socket: Some(socket.name.clone()) });
        let relays = relays.map(|unit| (unit.clone(), format!("{folder}/{unit}.log")));
        files.extend([(unit, service.log.clone())].into_iter().chain(relays));
    }
    if let Some(name) = name {
        files.retain(|(unit, _)| unit == name);
    }
    match files.as_slice() {
        [] => Err(Failure::of(ExitStatus::NotFound, "that service has no such relay".to_owned())),
        _ => Ok(files),
    }
}

/// The stamp of a line at a moment. Stamps are compared as texts.
fn stamp(moment: Moment) -> String {
    let second = i64::try_from(moment.0).ok().and_then(|second| Timestamp::from_second(second).ok());
    second.map(|second| second.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string()).unwrap_or_default()
}

/// Prints the output of the session as it comes; without `follow`, in the order of the stamps. Returns false when nobody
/// reads any more.
fn print_output(child: &mut Child, mut printer: Printer, follow: bool) -> io::Result<bool> {
    let (stdout, stderr) = (child.stdout.take().expect("is a pipe"), child.stderr.take().expect("is a pipe"));
    // What a session and its jail complain about.
    let complaints = std::thread::spawn(move || {
        let mut lines = BufReader::new(stderr);
        while let Ok(Some(line)) = next_line(&mut lines) {
            output::complain_raw(&line);
        }
    });
    let mut lines = BufReader::new(stdout);
    let mut stdout = io::stdout().lock();
    let mut kept: Vec<(String, String)> = Vec::new();
    let mut bytes = 0;
    let mut write = |text: &str| match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true),
    };
    while let Some(line) = next_line(&mut lines)? {
        let Some((stamp, text)) = printer.line(&line) else { continue };
        bytes += stamp.len() + text.len();
        kept.push((stamp, text));
        if follow || bytes > MAX_SORTED {
            bytes = 0;
            if !write(&in_order(&mut kept))? {
                return Ok(false);
            }
        }
    }
    let is_read = write(&in_order(&mut kept))?;
    complaints.join().ok();
    Ok(is_read)
}

/// Takes the lines in the order of their stamps.
fn in_order(lines: &mut Vec<(String, String)>) -> String {
    lines.sort_by(|(a, _), (b, _)| a.cmp(b));
    lines.drain(..).map(|(_, text)| text).collect()
}

/// Reads a line with its end, or the first [`MAX_LINE`] bytes of it.
fn next_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    reader.take(MAX_LINE).read_until(b'\n', &mut line)?;
    Ok((!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned()))
}

/// Turns the output of `tail` into lines for the operator.
#[derive(Debug)]
struct Printer {
    files: Vec<(UnitName, String)>,
    /// The stamp from which on lines are printed.
    since: Option<String>,
    /// Which file the next line is of.
    current: usize,
    /// The stamp of the last line that had one.
    stamp: String,
}

impl Printer {
    fn new(files: Vec<(UnitName, String)>, since: Option<String>) -> Self {
        Self { files, since, current: 0, stamp: String::new() }
    }

    /// The stamp and the text of a line that is to be printed.
    fn line(&mut self, line: &str) -> Option<(String, String)> {
        let line = line.strip_suffix('\n').unwrap_or(line);
        let header = line.strip_prefix("==> ").and_then(|rest| rest.strip_suffix(" <=="));
        if let Some(file) = header.and_then(|path| self.files.iter().position(|(_, file)| file == path)) {
            self.current = file;
            self.stamp.clear();
            return None;
        }
        match stamp_of(line) {
            Some(stamp) => stamp.clone_into(&mut self.stamp),
            // Between files, `tail` prints an empty line. Every line of a log has a stamp.
            None if line.is_empty() => return None,
            None => {}
        }
        if self.since.as_ref().is_some_and(|since| self.stamp < *since) {
            return None;
        }
        let (unit, _) = &self.files[self.current];
        let text =
            if self.files.len() > 1 { format!("{unit}: {}\n", visible(line)) } else { format!("{}\n", visible(line)) };
        Some((self.stamp.clone(), text))
    }
}

/// The stamp at the start of a line.
fn stamp_of(line: &str) -> Option<&str> {
    const FORM: &[u8] = b"0000-00-00T00:00:00.000Z";
    let stamp = line.get(..FORM.len())?;
    let fits = |(byte, form): (u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == *form };
    stamp.bytes().zip(FORM).all(fits).then_some(stamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_proto::control::{ServiceStatus, SocketStatus, TenantState};
    use bailiwick_types::{ServiceReport, ServiceState};

    const FOLDER: &str = "/home/alice/.local/state/services";

    fn services() -> TenantServices {
        let relay = ServiceReport {
            name: "node.web".parse().expect("valid"),
            digest: String::new(),
            state: ServiceState::Running,
            pid: None,
            since: Moment(0),
            restarts: 0,
            last_end: None,
            again: None,
        };
        let socket = |name: &str, relay: Option<ServiceReport>| SocketStatus {
            name: name.parse().expect("valid"),
            path: String::new(),
            connections: None,
            problem: None,
            relay,
        };
        let service = |name: &str, sockets| ServiceStatus {
            name: name.parse().expect("valid"),
            report: None,
            sockets,
            log: format!("{FOLDER}/{name}.log"),
        };
        TenantServices {
            tenant: "alice".parse().expect("valid"),
            state: TenantState::Running,
            problem: None,
            services: vec![
                service("php", vec![socket("fpm", None)]),
                service("node", vec![socket("web", Some(relay))]),
            ],
        }
    }

    fn of(names: &[&str]) -> Vec<(UnitName, String)> {
        names.iter().map(|name| (name.parse().expect("valid"), format!("{FOLDER}/{name}.log"))).collect()
    }

    #[test]
    fn every_service_and_every_relay_has_a_log() {
        assert_eq!(files(&services(), None).expect("some"), of(&["php", "node", "node.web"]));
        let name: UnitName = "node.web".parse().expect("valid");
        assert_eq!(files(&services(), Some(&name)).expect("some"), of(&["node.web"]));
        let name: UnitName = "php.fpm".parse().expect("valid");
        assert_eq!(files(&services(), Some(&name)).expect_err("no relay").status, ExitStatus::NotFound);
    }

    fn printed(printer: &mut Printer, lines: &str) -> String {
        lines.split_inclusive('\n').filter_map(|line| printer.line(line)).map(|(_, text)| text).collect()
    }

    #[test]
    fn lines_are_escaped_and_told_apart() {
        let mut printer = Printer::new(of(&["php"]), None);
        let line = "2026-11-29T01:02:03.004Z a\u{1b}[2J\u{202e}b";
        assert_eq!(printed(&mut printer, line), "2026-11-29T01:02:03.004Z a\\u{1b}[2J\\u{202e}b\n");
        let mut printer = Printer::new(of(&["php", "node"]), None);
        let lines = format!(
            "==> {FOLDER}/php.log <==\n2026-11-29T01:02:03.004Z a\n\n==> {FOLDER}/node.log <==\n==> /etc/passwd <==\n"
        );
        assert_eq!(printed(&mut printer, &lines), "php: 2026-11-29T01:02:03.004Z a\nnode: ==> /etc/passwd <==\n");
    }

    #[test]
    fn only_lines_since_a_time_are_printed() {
        let second: Timestamp = "2026-11-29T01:02:03Z".parse().expect("a time");
        let since = stamp(Moment(second.as_second().unsigned_abs()));
        assert_eq!(since, "2026-11-29T01:02:03.000Z");
        let mut printer = Printer::new(of(&["php"]), Some(since));
        let lines = "no stamp\n2026-11-29T01:02:02.999Z before\nmore of it\n2026-11-29T01:02:03.000Z after\nmore\n";
        assert_eq!(printed(&mut printer, lines), "2026-11-29T01:02:03.000Z after\nmore\n");
    }

    #[test]
    fn lines_of_several_logs_are_in_the_order_of_their_stamps() {
        let line = |stamp: &str, text: &str| (stamp.to_owned(), format!("{text}\n"));
        let mut lines = vec![line("2", "b"), line("2", "c"), line("1", "a"), line("3", "d")];
        assert_eq!(in_order(&mut lines), "a\nb\nc\nd\n");
        assert!(lines.is_empty());
    }

    #[test]
    fn a_line_without_an_end_is_cut() {
        let mut endless = BufReader::new(io::repeat(b'x'));
        assert_eq!(next_line(&mut endless).expect("reads").map(|line| line.len() as u64), Some(MAX_LINE));
        let mut rest: &[u8] = b"a\xff";
        assert_eq!(next_line(&mut rest).expect("reads").as_deref(), Some("a\u{fffd}"));
        assert_eq!(next_line(&mut rest).expect("reads"), None);
    }

    /// The scripts for the shell inside, on files of this test.
    #[test]
    fn the_last_lines_come_from_full_files_too() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let log = temp.path().join("a b.log");
        for (name, text) in [("a b.log", "5\n6\n"), ("a b.log.1", "3\n4\n"), ("a b.log.2", "1\n2\n")] {
            std::fs::write(temp.path().join(name), text).expect("writes");
        }
        let missing = temp.path().join("missing.log");
        let print = |lines: &str| {
            let args = ["-c", PRINT, "sh", lines, "20"];
            let output = Command::new("/bin/sh").args(args).arg(&log).arg(&missing).output().expect("runs");
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
            String::from_utf8(output.stdout).expect("text")
        };
        let (log, missing) = (log.display(), missing.display());
        assert_eq!(print("3"), format!("==> {log} <==\n4\n5\n6\n==> {missing} <==\n"));
        assert_eq!(print("+1"), format!("==> {log} <==\n1\n2\n3\n4\n5\n6\n==> {missing} <==\n"));
    }
}
