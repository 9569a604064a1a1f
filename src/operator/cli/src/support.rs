//! `support-bundle`: what somebody needs who is to find out what is wrong with a host, without its secrets.
//!
//! Each part is asked for by itself, with a bound on its time and its size. A part that fails is a part with the failure in it:
//! a host that needs support is one where something fails.
//!
//! Danger: the bundle leaves the host. Policies go through [`bailiwick_declare::redacted`], and every text through [`Scrubber`],
//! which also removes each secret of the policies wherever else it stands.

mod archive;
mod scrubber;

use crate::output::{self, Form};
use archive::Archive;
use bailiwick_declare::{REMOVED, redacted};
use bailiwick_proto::Failure;
use bailiwick_types::ExitStatus;
use scrubber::Scrubber;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a part may take.
const PART_TIME: Duration = Duration::from_secs(60);
/// The pause between two looks at a part.
const PAUSE: Duration = Duration::from_millis(20);
/// The most bytes of a part.
const MOST_BYTES: u64 = 8 << 20;
/// The most lines of the journal.
const JOURNAL_LINES: &str = "5000";
/// Units of Bailiwick, for systemctl and journalctl.
const UNITS: &str = "bailiwick*";

/// A part of the bundle that a command prints.
struct Part {
    file: &'static str,
    what: &'static str,
    program: Program,
    arguments: &'static [&'static str],
}

enum Program {
    /// This program, with the same configuration.
    Own,
    /// Another one, found by the search path.
    Other(&'static str),
}

use Program::{Other, Own};

const fn part(file: &'static str, what: &'static str, program: Program, arguments: &'static [&'static str]) -> Part {
    Part { file, what, program, arguments }
}

const EVENTS: Part = part("events.json", "events of the last three days", Own, &["events", "--since", "3d", "--json"]);

const PARTS: &[Part] = &[
    part("kernel.txt", "the kernel", Other("uname"), &["-a"]),
    part("system.txt", "the Debian version", Other("cat"), &["/etc/os-release", "/proc/version"]),
    part("status.json", "the versions of the daemons, and their problems", Own, &["status", "--json"]),
    part("doctor.json", "what the host can enforce", Own, &["doctor", "--json"]),
    part("check.json", "problems of the configuration", Own, &["check", "--json"]),
    part("list.json", "tenants, with their states", Own, &["list", "--json"]),
    part("plan.json", "differences between declared and actual", Own, &["plan", "--json"]),
    part("audit.json", "the audit of all tenants", Own, &["audit", "--json"]),
    EVENTS,
    part("incidents.json", "incidents of the last three days", Own, &["incidents", "--since", "3d", "--json"]),
    part(
        "units.txt",
        "states of the units",
        Other("systemctl"),
        &[
            "show",
            UNITS,
            "--all",
            "--property=Id,LoadState,ActiveState,SubState,Result,NRestarts,ExecMainStatus,FragmentPath,DropInPaths",
        ],
    ),
    part(
        "journal.txt",
        "the last lines of the journal of the units",
        Other("journalctl"),
        &["--no-pager", "--quiet", "--output=short-iso", "--lines", JOURNAL_LINES, "--unit", UNITS],
    ),
];

/// What `support-bundle --json` prints.
#[derive(Debug, Serialize)]
struct Report {
    file: PathBuf,
    parts: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    what: String,
    bytes: usize,
    /// Why the part is not whole; null when it is.
    problem: Option<String>,
}

/// `bailiwick support-bundle`.
pub(crate) fn run(config: &Path, to: Option<PathBuf>, form: Form) -> Result<ExitStatus, Failure> {
    let path = to.unwrap_or_else(default_path);
    let failed = |error: io::Error| {
        let status =
            if error.kind() == io::ErrorKind::AlreadyExists { ExitStatus::Conflict } else { ExitStatus::Failed };
        Failure::of(status, format!("cannot write \"{}\": {error}; name another file with --output", path.display()))
    };
    // Only its owner reads it, and nothing is overwritten.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    let written = write(config, file).map_err(failed);
    let parts = written.inspect_err(|_| drop(std::fs::remove_file(&path)))?;
    let report = Report { file: path, parts };
    output::show(form, &report, text)?;
    let is_whole = report.parts.iter().all(|part| part.problem.is_none());
    Ok(if is_whole { ExitStatus::Done } else { ExitStatus::Partly })
}

fn default_path() -> PathBuf {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    PathBuf::from(format!("bailiwick-support-{name}-{}.tar.gz", jiff::Timestamp::now().as_second()))
}

fn write(config: &Path, file: File) -> io::Result<Vec<Entry>> {
    let mut archive = Archive::new(file);
    let mut entries = Vec::new();
    let (policies, mut secrets) = policies(config);
    // What was said when somebody was suspended is in the events, also when the policy has it no more.
    let (events, problem) = output_of(config, &EVENTS.program, EVENTS.arguments);
    let reasons = reasons(&events);
    let mut events = Some((without_reasons(&events, &reasons), problem));
    secrets.extend(reasons);
    let scrubber = Scrubber::new(secrets);
    let mut add = |name: String, what: String, text: &str, problem: Option<String>| -> io::Result<()> {
        let text = scrubber.scrub(text);
        let problem = problem.map(|problem| scrubber.scrub(&problem));
        archive.add(&name, text.as_bytes())?;
        entries.push(Entry { name, what, bytes: text.len(), problem });
        Ok(())
    };
    for Part { file, what, program, arguments } in PARTS {
        progress(what);
        let taken = if *file == EVENTS.file { events.take() } else { None };
        let (text, problem) = taken.unwrap_or_else(|| output_of(config, program, arguments));
        add((*file).to_owned(), (*what).to_owned(), &text, problem)?;
    }
    for Policy { path, text, problem } in policies {
        add(format!("policy/{path}"), "a file of the configuration".to_owned(), &text, problem)?;
    }
    add(
        "bailiwick.txt".to_owned(),
        "the version of this program".to_owned(),
        concat!("bailiwick ", env!("CARGO_PKG_VERSION"), "\n"),
        None,
    )?;
    let listed = entries_text(&entries);
    archive.add("README.txt", readme(&listed).as_bytes())?;
    archive.finish()?;
    progress_end();
    Ok(entries)
}

fn readme(listed: &str) -> String {
    format!(
        "A support bundle of Bailiwick.\n\nRemoved: keys, hashes, passwords, secrets of hooks, variables and arguments of services, reasons of \
         suspensions, addresses of mail, and comments of the configuration.\nNot removed: names of tenants, addresses of clients, paths, and the \
         numbers of limits.\n\n{listed}"
    )
}

/// A file of the configuration without its secrets.
struct Policy {
    path: String,
    text: String,
    problem: Option<String>,
}

/// The reasons of suspensions in a list of events, which may be no JSON at all.
fn reasons(events: &str) -> Vec<String> {
    let values = serde_json::Deserializer::from_str(events).into_iter::<serde_json::Value>().map_while(Result::ok);
    let events = values.flat_map(|value| match value {
        serde_json::Value::Array(events) => events,
        event => vec![event],
    });
    let is_of_tenant =
        |event: &serde_json::Value| event["type"].as_str().is_some_and(|kind| kind.starts_with("tenant."));
    events.filter(is_of_tenant).filter_map(|event| Some(event["data"]["reason"].as_str()?.to_owned())).collect()
}

/// Removes reasons where they stand as such, however short they are.
fn without_reasons(events: &str, reasons: &[String]) -> String {
    reasons.iter().collect::<BTreeSet<_>>().into_iter().fold(events.to_owned(), |text, reason| {
        let value = serde_json::Value::from(reason.as_str());
        let without = |text: String, mark: &str| {
            text.replace(&format!("\"reason\"{mark}{value}"), &format!("\"reason\"{mark}\"{REMOVED}\""))
        };
        without(without(text, ":"), ": ")
    })
}

/// All files of the configuration, and their secrets.
fn policies(config: &Path) -> (Vec<Policy>, Vec<String>) {
    let mut found = Vec::new();
    let mut secrets = Vec::new();
    let mut folders = vec![PathBuf::new()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(config.join(&folder)).into_iter().flatten().flatten() {
            let name = folder.join(entry.file_name());
            match entry.file_type() {
                // `plans.d` and the like, and not the copy of what is in force.
                Ok(kind) if kind.is_dir() && name.extension().is_some_and(|end| end == "d") => folders.push(name),
                Ok(kind) if kind.is_file() && name.extension().is_some_and(|end| end == "toml") => files.push(name),
                _ => {}
            }
        }
    }
    files.sort();
    for name in files {
        let path = name.display().to_string();
        let read = std::fs::read_to_string(config.join(&name));
        let policy = match read.as_deref().map(redacted) {
            Ok(Some(redacted)) => {
                secrets.extend(redacted.secrets);
                Policy { path, text: redacted.text, problem: None }
            }
            Ok(None) => {
                // Its secrets are not known, so each of its words is one.
                secrets.extend(read.iter().flat_map(|text| words(text)));
                Policy {
                    path,
                    text: String::new(),
                    problem: Some("it is not valid TOML, so nothing of it is shown".to_owned()),
                }
            }
            Err(error) => Policy { path, text: String::new(), problem: Some(format!("it cannot be read: {error}")) },
        };
        found.push(policy);
    }
    (found, secrets)
}

/// Words of a file that is no TOML that may be secrets: they have digits or are long.
fn words(text: &str) -> Vec<String> {
    let split = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '[' | ']' | '{' | '}' | '=');
    let may_be = |word: &&str| word.len() >= 6 && (word.len() >= 20 || word.chars().any(|c| c.is_ascii_digit()));
    text.split(split).filter(may_be).map(str::to_owned).collect()
}

/// What a program prints, and why that is not all.
fn output_of(config: &Path, program: &Program, arguments: &[&str]) -> (String, Option<String>) {
    let run = || -> io::Result<(String, Option<String>)> {
        let mut command = match program {
            Own => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("--config").arg(config);
                command
            }
            Other(name) => Command::new(name),
        };
        // A file, so that nobody has to read while the program writes.
        let (mut out, errors) = (tempfile::tempfile()?, tempfile::tempfile()?);
        command.args(arguments).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(errors.try_clone()?);
        let mut child = command.spawn()?;
        let until = Instant::now() + PART_TIME;
        let status = loop {
            match child.try_wait()? {
                Some(status) => break Some(status),
                None if Instant::now() >= until => {
                    child.kill()?;
                    child.wait()?;
                    break None;
                }
                None => std::thread::sleep(PAUSE),
            }
        };
        let mut text = String::new();
        for file in [&mut out, &mut { errors }] {
            file.rewind()?;
            let mut bytes = Vec::new();
            file.take(MOST_BYTES).read_to_end(&mut bytes)?;
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
        let problem = match status {
            None => Some(format!("it did not end within {} seconds", PART_TIME.as_secs())),
            // A finding or a problem is what these commands are for.
            Some(status) if matches!(status.code(), Some(0 | 2 | 7 | 8 | 10)) => None,
            Some(status) => Some(format!("it failed ({status})")),
        };
        Ok((text, problem))
    };
    run().unwrap_or_else(|error| (String::new(), Some(format!("it cannot be run: {error}"))))
}

/// Says on a terminal what is being collected.
fn progress(what: &str) {
    if io::stderr().is_terminal() {
        // A line of progress that cannot be written is not worth an error.
        io::stderr().write_all(format!("\rcollecting {what}\x1b[K").as_bytes()).ok();
    }
}

fn progress_end() {
    if io::stderr().is_terminal() {
        io::stderr().write_all(b"\r\x1b[K").ok();
    }
}

fn entries_text(entries: &[Entry]) -> String {
    let row = |entry: &Entry| {
        let what = match &entry.problem {
            Some(problem) => format!("{}: {problem}", entry.what),
            None => entry.what.clone(),
        };
        vec![entry.name.clone(), entry.bytes.to_string(), what]
    };
    crate::table::render(&["FILE", "BYTES", "WHAT"], entries.iter().map(row))
}

fn text(report: &Report) -> String {
    format!(
        "{}\n\"{}\" is written. Keys, passwords, secrets and mail addresses are removed from it; names of tenants and addresses of clients \
         are not.\nLook into it before you send it: tar -xzOf {}\n",
        entries_text(&report.parts),
        report.file.display(),
        report.file.display()
    )
}
