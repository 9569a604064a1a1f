//! `bailiwick-warden`: arguments, wiring, exit status.

use bailiwick_proto::Failure;
use bailiwick_types::ExitStatus;
use bailiwick_warden::{Step, Warden, serve};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
usage: bailiwick-warden [--config DIR] [--init FILE]

The privileged core of Bailiwick. Started by systemd or by `bailiwickd --standalone`.

  --config DIR   where bailiwick.toml, plans.d and tenants.d are (default: /etc/bailiwick)
  --init FILE    the static program that becomes PID 1 of a jail (default: bailiwick-init beside this program)
  --steps        print the steps of making a jail, one a line, and exit
  --version      print the version and exit
";

enum Wanted {
    Serve { config: PathBuf, init: PathBuf },
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
        Ok(Wanted::Serve { config, init }) => run(&config, &init),
    }
}

fn arguments() -> Result<Wanted, String> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(|dir| dir.join("bailiwick-init")));
    let mut config = PathBuf::from("/etc/bailiwick");
    let mut init = beside.unwrap_or_else(|| PathBuf::from("/usr/libexec/bailiwick/bailiwick-init"));
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy().into_owned();
        let mut value = || arguments.next().ok_or_else(|| format!("{text} needs a value"));
        match text.as_str() {
            "--config" => config = value()?.into(),
            "--init" => init = value()?.into(),
            "--steps" => {
                return Ok(Wanted::Print(Step::ALL.iter().map(|step| format!("{step}\n")).collect()));
            }
            "--help" | "-h" => return Ok(Wanted::Print(USAGE.to_owned())),
            "--version" => return Ok(Wanted::Print(format!("bailiwick-warden {}\n", env!("CARGO_PKG_VERSION")))),
            _ => return Err(format!("unknown argument {text:?}")),
        }
    }
    Ok(Wanted::Serve { config, init })
}

fn run(config: &std::path::Path, init: &std::path::Path) -> ExitCode {
    let (mut warden, events) = match Warden::open(config, init) {
        Ok(opened) => opened,
        Err(error) => {
            say(&format!("bailiwick-warden: {}\n", Failure::new(ExitStatus::Failed, &error)));
            return error.status().into();
        }
    };
    for event in events {
        say(&format!("bailiwick-warden: {event}\n"));
    }
    let served = warden
        .listen()
        .map_err(Into::into)
        .and_then(|listener| serve(&mut warden, &listener, |event| say(&format!("bailiwick-warden: {event}\n"))));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("bailiwick-warden: {}\n", Failure::new(ExitStatus::Failed, &error)));
            ExitStatus::Failed.into()
        }
    }
}

/// To the journal, or to whoever started us. When nobody reads it, there is nobody to tell.
fn say(text: &str) {
    std::io::stderr().write_all(text.as_bytes()).ok();
}
