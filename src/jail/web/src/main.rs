//! Floor 7: `bailiwick-web`, the programs behind a service's socket that the tenant need not bring: a server of static files,
//! and a relay to a program that listens on an address of its own. Init starts it inside the jail, as the service's user. It is
//! linked statically, so it loads no file of the tenant.
//!
//! Danger: it belongs to the tenant, and nothing outside may rely on it. What it protects is the tenant's own: a visitor may
//! read the files below the directory that is served, and no other.

mod connections;
mod files;
mod relay;

use bailiwick_types::ExitStatus;
use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
usage: bailiwick-web files DIR
       bailiwick-web relay ADDRESS

Serves the listening Unix socket at descriptor 3 (sd_listen_fds(3)). Bailiwick starts it for services inside a jail.

  files DIR      answers HTTP requests with the files below DIR; a reverse proxy stands before it
  relay ADDRESS  copies every connection to a program that listens on ADDRESS, such as 127.0.0.1:3000
  --version      print the version and exit
";

/// The threads that read files which are not in memory.
const READERS: usize = 4;

enum Wanted {
    Files(PathBuf),
    Relay(SocketAddr),
    Print(String),
}

fn main() -> ExitCode {
    let wanted = match arguments(std::env::args_os().skip(1)) {
        Ok(wanted) => wanted,
        Err(message) => {
            complain(&format!("{message}\n{USAGE}"));
            return ExitStatus::Invalid.into();
        }
    };
    let served = match wanted {
        Wanted::Print(text) => io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string()),
        Wanted::Files(dir) => run(move |listener| files::serve(listener, dir)),
        Wanted::Relay(address) => run(move |listener| relay::serve(listener, address)),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain(&message);
            ExitStatus::Failed.into()
        }
    }
}

fn arguments(mut arguments: impl Iterator<Item = OsString>) -> Result<Wanted, String> {
    let first = arguments.next().unwrap_or_default();
    let mut value = |name: &str| arguments.next().ok_or_else(|| format!("{name} is missing"));
    let wanted = match first.to_str() {
        Some("files") => Wanted::Files(value("DIR")?.into()),
        Some("relay") => {
            let text = value("ADDRESS")?.to_string_lossy().into_owned();
            let address = text.parse().map_err(|_| format!("{text:?} is no address such as 127.0.0.1:3000"))?;
            Wanted::Relay(address)
        }
        Some("--version") => Wanted::Print(format!("bailiwick-web {}\n", env!("CARGO_PKG_VERSION"))),
        Some("--help" | "-h") => Wanted::Print(USAGE.to_owned()),
        _ => return Err(format!("unknown command {first:?}")),
    };
    match arguments.next() {
        Some(more) => Err(format!("unknown argument {more:?}")),
        None => Ok(wanted),
    }
}

/// Runs a server on the inherited socket, to its end.
fn run<S, F>(serve: S) -> Result<(), String>
where
    S: FnOnce(connections::Listener) -> F,
    F: Future<Output = Result<(), String>>,
{
    let listener = connections::Listener::inherited()?;
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_io().enable_time().max_blocking_threads(READERS).build();
    let runtime = runtime.map_err(|error| format!("cannot wait for connections: {error}"))?;
    let served = runtime.block_on(serve(listener));
    // A thread may still read from a disk that does not answer.
    runtime.shutdown_background();
    served
}

fn complain(message: &str) {
    // Standard error may be gone; the exit status says it too.
    writeln!(io::stderr(), "bailiwick-web: {message}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_are_wrong_are_refused() {
        let read = |words: &[&str]| arguments(words.iter().map(OsString::from)).map(|_| ());
        assert!(read(&["files", "/srv"]).is_ok());
        assert!(read(&["relay", "127.0.0.1:80"]).is_ok());
        assert!(read(&["relay", "[::1]:80"]).is_ok());
        for words in
            [&[][..], &["files"], &["relay"], &["relay", "localhost:80"], &["relay", "80"], &["files", "/a", "/b"]]
        {
            assert!(read(words).is_err(), "{words:?}");
        }
    }
}
