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
use std::ffi::OsString;
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
    match arguments(std::env::args_os().skip(1)) {
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
        Ok(Wanted::Once(config, work)) => match uplink::check_root().and_then(|()| work(&config)) {
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

/// What an option asks for, with the directory of the policy.
type Mode = fn(PathBuf) -> Wanted;

fn arguments(mut arguments: impl Iterator<Item = OsString>) -> Result<Wanted, String> {
    let mut config = PathBuf::from("/etc/bailiwick");
    let mut modes: Vec<(String, Mode)> = Vec::new();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy().into_owned();
        match text.as_str() {
            "--config" => config = arguments.next().ok_or_else(|| format!("{text} needs a value"))?.into(),
            "--uplink" => modes.push((text, |config| Wanted::Once(config, uplink::run))),
            "--remove" => modes.push((text, |config| Wanted::Once(config, uplink::remove))),
            "--cache" => modes.push((text, Wanted::Cache)),
            "--wanted" => modes.push((text, Wanted::Ask)),
            "--steps" => {
                let steps = step::Step::ALL.iter().map(|step| format!("{step}\n"));
                return Ok(Wanted::Print(steps.collect()));
            }
            "--help" | "-h" => return Ok(Wanted::Print(USAGE.to_owned())),
            "--version" => return Ok(Wanted::Print(format!("bailiwick-net {}\n", env!("CARGO_PKG_VERSION")))),
            _ => return Err(format!("unknown argument {text:?}")),
        }
    }
    match modes.as_slice() {
        [] => Ok(Wanted::Serve(config)),
        [(first, wanted), rest @ ..] => match rest.iter().find(|(other, _)| other != first) {
            None => Ok(wanted(config)),
            Some((other, _)) => Err(format!("{first} and {other} are two things to do; give one of them")),
        },
    }
}

fn failed(status: ExitStatus, error: &(dyn std::error::Error + 'static)) -> ExitCode {
    say(&format!("bailiwick-net: {}\n", Failure::new(status, error)));
    status.into()
}

/// Writes to standard error: the journal, or the terminal of the caller. An error here has no reader.
fn say(text: &str) {
    std::io::stderr().write_all(text.as_bytes()).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<&'static str, String> {
        arguments(words.iter().map(OsString::from)).map(|wanted| match wanted {
            Wanted::Serve(_) => "serve",
            Wanted::Once(..) => "once",
            Wanted::Cache(_) => "cache",
            Wanted::Ask(_) => "ask",
            Wanted::Print(_) => "print",
        })
    }

    #[test]
    fn it_does_one_thing() {
        assert_eq!(parsed(&[]), Ok("serve"));
        assert_eq!(parsed(&["--uplink", "--config", "/x"]), Ok("once"));
        assert_eq!(parsed(&["--cache"]), Ok("cache"));
        assert_eq!(parsed(&["--wanted", "--wanted"]), Ok("ask"));
        for pair in [["--uplink", "--cache"], ["--remove", "--uplink"], ["--cache", "--wanted"]] {
            let golden = format!("{} and {} are two things to do; give one of them", pair[0], pair[1]);
            assert_eq!(parsed(&pair), Err(golden));
        }
        assert_eq!(parsed(&["--config"]), Err("--config needs a value".to_owned()));
    }
}
