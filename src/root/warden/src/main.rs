//! `bailiwick-warden`: arguments, wiring, exit status.

use bailiwick_proto::Failure;
use bailiwick_types::ExitStatus;
use bailiwick_warden::{InheritedFds, Step, Warden, repair_ledger, serve};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
usage: bailiwick-warden [--config DIR] [--init FILE] [--cgroup GROUP] [--repair-ledger]

The privileged core of Bailiwick. Started by systemd or by `bailiwickd --standalone`.

  --config DIR   where bailiwick.toml, plans.d and tenants.d are (default: /etc/bailiwick)
  --init FILE    the static program that becomes PID 1 of a jail (default: bailiwick-init beside this program,
                 or in /usr/libexec/bailiwick)
  --cgroup GROUP the control group of the unified hierarchy to make jails in, which is handed over to the warden
                 (default: the warden's own)
  --repair-ledger
                 rebuild a missing or damaged ledger from other evidence of which tenant has which ids, print what
                 was found, and exit
  --steps        print the steps of a start, one a line, and exit
  --version      print the version and exit
";

enum Wanted {
    Serve { config: PathBuf, init: PathBuf, group: Option<String> },
    Repair { config: PathBuf },
    Print(String),
}

fn main() -> ExitCode {
    match arguments() {
        Err(message) => {
            say(&format!("bailiwick-warden: {message}\n{USAGE}"));
            ExitStatus::Invalid.into()
        }
        Ok(Wanted::Print(text)) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitStatus::Failed.into(),
        },
        Ok(Wanted::Repair { config }) => repair(&config),
        Ok(Wanted::Serve { config, init, group }) => run(&config, &init, group.as_deref()),
    }
}

fn arguments() -> Result<Wanted, String> {
    let mut config = PathBuf::from("/etc/bailiwick");
    let mut init = bailiwick_observe::program("bailiwick-init");
    let mut group = None;
    let mut is_repair = false;
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy().into_owned();
        let mut value = || arguments.next().ok_or_else(|| format!("{text} needs a value"));
        match text.as_str() {
            "--config" => config = value()?.into(),
            "--init" => init = value()?.into(),
            "--cgroup" => group = Some(absolute(value()?)?),
            "--repair-ledger" => is_repair = true,
            "--steps" => {
                return Ok(Wanted::Print(Step::ALL.iter().map(|step| format!("{step}\n")).collect()));
            }
            "--help" | "-h" => return Ok(Wanted::Print(USAGE.to_owned())),
            "--version" => return Ok(Wanted::Print(format!("bailiwick-warden {}\n", env!("CARGO_PKG_VERSION")))),
            _ => return Err(format!("unknown argument {text:?}")),
        }
    }
    Ok(if is_repair { Wanted::Repair { config } } else { Wanted::Serve { config, init, group } })
}

fn repair(config: &Path) -> ExitCode {
    match repair_ledger(config) {
        Ok(report) => {
            let text: String = report.iter().map(|row| format!("{row}\n")).collect();
            // The work is done, even if nobody reads the report.
            std::io::stdout().write_all(text.as_bytes()).ok();
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("bailiwick-warden: {}\n", Failure::new(ExitStatus::Failed, &error)));
            error.status().into()
        }
    }
}

/// A path below the mount of the hierarchy, as in `/proc/PID/cgroup`.
fn absolute(group: OsString) -> Result<String, String> {
    match group.into_string() {
        Ok(group) if group.starts_with('/') && !group.split('/').any(|part| part == "..") => Ok(group),
        Ok(group) => Err(format!("--cgroup {group:?} is no path of a control group; it starts with a slash")),
        Err(group) => Err(format!("--cgroup {group:?} is not UTF-8")),
    }
}

fn run(config: &Path, init: &Path, group: Option<&str>) -> ExitCode {
    let handed = InheritedFds::take().and_then(|handed| Ok((handed.waiting()?, handed)));
    let (waiting, handed) = match handed {
        Ok(handed) => handed,
        Err(error) => {
            say(&format!(
                "bailiwick-warden: cannot take the descriptors that the service manager announced: {error}\n"
            ));
            return ExitStatus::Failed.into();
        }
    };
    let (mut warden, events) = match Warden::open(config, init, group, handed) {
        Ok(opened) => opened,
        Err(error) => {
            say(&format!("bailiwick-warden: {}\n", Failure::new(ExitStatus::Failed, &error)));
            let status = error.status();
            if matches!(status, ExitStatus::Invalid | ExitStatus::Conflict | ExitStatus::HostCannot) {
                waiting.close();
            }
            return status.into();
        }
    };
    for event in events {
        say(&format!("bailiwick-warden: {event}\n"));
    }
    let served = warden
        .listener()
        .map_err(Into::into)
        .and_then(|listener| serve(&mut warden, listener, |event| say(&format!("bailiwick-warden: {event}\n"))));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("bailiwick-warden: {}\n", Failure::new(ExitStatus::Failed, &error)));
            ExitStatus::Failed.into()
        }
    }
}

/// Writes to standard error: the journal, or the terminal of the caller. An error here has no reader.
fn say(text: &str) {
    std::io::stderr().write_all(text.as_bytes()).ok();
}
