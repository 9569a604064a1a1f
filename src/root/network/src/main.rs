//! `bailiwick-net`: arguments, wiring, exit status.
//!
//! It connects jails to the network through a router of its own, a network namespace that belongs to a user namespace of its own
//! (`docs/network.md`). With `--uplink` it makes that router and its link to the host, and ends; with `--remove` it
//! takes them away.

mod cache;
mod link_maker;
mod manager;
mod router;
mod serve;
mod settings;
mod start;
mod step;
mod uplink;
mod usage;

use bailiwick_proto::Failure;
use bailiwick_types::ExitStatus;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use uplink::UplinkError;

const USAGE: &str = "\
usage: bailiwick-net [--config DIR] [--uplink | --cache | --remove | --wanted]

Connects jails to the network. Started by systemd or by `bailiwickd --standalone`.

  --config DIR   where bailiwick.toml, plans.d and tenants.d are (default: /etc/bailiwick)
  --uplink       make the router and its link to the host, or put back what is missing, print what was missing, and exit
  --cache        run the cache of names that --uplink has left a configuration for, until that changes
  --remove       remove the router, its link and the host's rules, print what was there, and exit; refused while a jail is connected
  --wanted       exit with 0 if the policy gives anybody a network or the host has a router, else with 1
  --steps        print the steps of what is done to the router, one a line, and exit
  --version      print the version and exit
";

enum Wanted {
    Serve(PathBuf),
    /// Change the host, print what was done, and end.
    Once(PathBuf, fn(&Path) -> Result<Vec<String>, UplinkError>),
    /// Run the cache of names.
    Cache(PathBuf),
    /// Say by the exit status whether there is something to do.
    Ask(PathBuf),
    Print(String),
}

fn main() -> ExitCode {
    match arguments() {
        Err(message) => {
            say(&format!("bailiwick-net: {message}\n{USAGE}"));
            ExitStatus::Invalid.into()
        }
        Ok(Wanted::Print(text)) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitStatus::Failed.into(),
        },
        Ok(Wanted::Ask(config)) if uplink::is_wanted(&config) => ExitCode::SUCCESS,
        Ok(Wanted::Ask(_)) => ExitStatus::Failed.into(),
        Ok(Wanted::Once(config, work)) => match work(&config) {
            Ok(done) => {
                let text: String = done.iter().map(|what| format!("{what}\n")).collect();
                // The work is done, even if nobody reads it.
                std::io::stdout().write_all(text.as_bytes()).ok();
                ExitCode::SUCCESS
            }
            Err(error) => failed(error.status(), &error),
        },
        Ok(Wanted::Cache(config)) => match cache::run(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(error.status(), &error),
        },
        Ok(Wanted::Serve(config)) => match start::run(&config, |event| say(&format!("bailiwick-net: {event}\n"))) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(error.status(), &error),
        },
    }
}

fn arguments() -> Result<Wanted, String> {
    let mut config = PathBuf::from("/etc/bailiwick");
    let mut wanted: fn(PathBuf) -> Wanted = Wanted::Serve;
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy().into_owned();
        match text.as_str() {
            "--config" => config = arguments.next().ok_or_else(|| format!("{text} needs a value"))?.into(),
            "--uplink" => wanted = |config| Wanted::Once(config, uplink::run),
            "--remove" => wanted = |config| Wanted::Once(config, uplink::remove),
            "--cache" => wanted = Wanted::Cache,
            "--wanted" => wanted = Wanted::Ask,
            "--steps" => {
                let steps = step::Step::ALL.iter().map(|step| format!("{step}\n"));
                return Ok(Wanted::Print(steps.collect()));
            }
            "--help" | "-h" => return Ok(Wanted::Print(USAGE.to_owned())),
            "--version" => return Ok(Wanted::Print(format!("bailiwick-net {}\n", env!("CARGO_PKG_VERSION")))),
            _ => return Err(format!("unknown argument {text:?}")),
        }
    }
    Ok(wanted(config))
}

fn failed(status: ExitStatus, error: &(dyn std::error::Error + 'static)) -> ExitCode {
    say(&format!("bailiwick-net: {}\n", Failure::new(status, error)));
    status.into()
}

/// Writes to standard error: the journal, or the terminal of the caller. An error here has no reader.
fn say(text: &str) {
    std::io::stderr().write_all(text.as_bytes()).ok();
}
