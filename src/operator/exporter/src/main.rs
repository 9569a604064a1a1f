//! Floor 7: `bailiwick-exporter`, which Prometheus asks for the metrics. It asks `bailiwickd`, as one of the `observers`, and has no
//! other right.
//!
//! Danger: every user of the host can connect to a port of the loopback, and send what is no HTTP, slowly, thousands of times. So
//! connections, their times and the bytes of a request are bounded, a reading is used again for everybody who asks soon after, and
//! whoever takes this program over can open no file, no port and no connection but the one to `bailiwickd`.

mod confinement;
mod negotiation;
mod readings;
mod serve;
mod sockets;

use bailiwick_client::Daemon;
use bailiwick_types::ExitStatus;
use clap::Parser;
use readings::Readings;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Tells Prometheus what Bailiwick measures: answers `GET /metrics`.
///
/// It asks bailiwickd, as a user that `observers` in bailiwick.toml names. It listens on the sockets that systemd hands to it, and on
/// those that are named here.
#[derive(Debug, Parser)]
#[command(name = "bailiwick-exporter", version, about)]
struct Arguments {
    /// Where bailiwick.toml is
    #[arg(long, value_name = "DIR", default_value = "/etc/bailiwick")]
    config: PathBuf,
    /// Listen on this address, such as 127.0.0.1:9811
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<SocketAddr>,
    /// Make this Unix socket, for this program's user and group
    #[arg(long, value_name = "PATH")]
    socket: Vec<PathBuf>,
}

/// Why the program ended.
#[derive(Debug)]
struct Ended {
    status: ExitStatus,
    message: String,
}

impl Ended {
    fn new(status: ExitStatus, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    fn failed(what: &str, error: &dyn std::error::Error) -> Self {
        Self::new(ExitStatus::Failed, format!("cannot {what}: {error}"))
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(ended) => {
            complain(&ended.message);
            ended.status.into()
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Ended> {
    if rustix::process::geteuid().is_root() {
        let message = "root must not answer whoever connects; run this as a user of its own that `observers` in bailiwick.toml \
                       names, such as \"bailiwick-exporter\"";
        return Err(Ended::new(ExitStatus::Refused, message));
    }
    let host = bailiwick_policy::read_host(&arguments.config)
        .map_err(|problems| Ended::new(ExitStatus::Invalid, bailiwick_diagnostics::render(&problems).trim_end()))?;
    let sockets = sockets::take(&arguments.listen, &arguments.socket)?;
    confinement::before_threads().map_err(|error| Ended::failed("confine itself", &error))?;
    let daemon = Daemon::of(&host.runtime_dir);
    let readings = Readings::start(daemon).map_err(|error| Ended::failed("start a thread", &error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|error| Ended::failed("wait for connections", &error))?;
    runtime.block_on(serve::run(sockets, Arc::new(readings)))
}

/// Says something to whoever keeps the log. Standard error may be gone; then nobody reads it.
fn complain(message: &str) {
    writeln!(io::stderr(), "bailiwick-exporter: {message}").ok();
}
