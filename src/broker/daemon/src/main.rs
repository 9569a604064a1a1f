//! `bailiwickd`: its arguments, its two modes, and its exit status.

mod descriptors;
mod fd_store;
mod log;
mod service;
mod supervisor;

use bailiwick_types::ExitStatus;
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

/// The service of Bailiwick: decides, lets sessions in, and asks the warden for every change.
#[derive(Debug, Parser)]
#[command(name = "bailiwickd", version, about)]
struct Arguments {
    /// Where bailiwick.toml, plans.d and tenants.d are.
    #[arg(long, value_name = "DIR", default_value = "/etc/bailiwick")]
    config: PathBuf,
    /// Start the warden too, and drop root: the whole service without systemd.
    #[arg(long)]
    standalone: bool,
    /// With --standalone: leave bailiwick-net and the link to the host to somebody else.
    #[arg(long, requires = "standalone")]
    without_network: bool,
    /// With --standalone: the user that hooks run as, a name or a number.
    #[arg(long, value_name = "USER", requires = "standalone", default_value = "bailiwick-hooks")]
    hooks_user: String,
}

/// Who starts what connects jails to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Networks {
    /// This program, when somebody has a network.
    Own,
    /// Somebody else.
    Others,
}

impl From<&Arguments> for Networks {
    fn from(arguments: &Arguments) -> Self {
        if arguments.without_network { Self::Others } else { Self::Own }
    }
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

/// How many descriptors it may have: as many as `LimitNOFILE=` of the units. Each socket of a service is one.
const OPEN_FILES: u64 = 65536;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log::begin();
    if let Err(error) = bailiwick_sys::credential::raise_open_files(OPEN_FILES) {
        tracing::warn!("cannot allow itself more descriptors, ignoring: {error}");
    }
    if let Err(error) = bailiwick_sys::signal::unblock_all() {
        tracing::warn!("cannot unblock signals, ignoring: {error}");
    }
    let ended = if arguments.standalone {
        supervisor::run(&arguments.config, Networks::from(&arguments), &arguments.hooks_user)
    } else {
        service::run(&arguments.config)
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(ended) => {
            tracing::error!("{}", ended.message);
            ended.status.into()
        }
    }
}
