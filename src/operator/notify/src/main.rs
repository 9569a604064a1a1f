//! `bailiwick-notify`: its arguments, its threads, and its exit status.

use bailiwick_client::Daemon;
use bailiwick_notify::engine::{Engine, complain};
use bailiwick_notify::hooks::Hooks;
use bailiwick_notify::mail::Mail;
use bailiwick_notify::state::State;
use bailiwick_notify::webhooks::Webhooks;
use bailiwick_notify::{control, follow};
use bailiwick_proto::{NOTIFY_DIR, NOTIFY_SOCKET};
use bailiwick_sys::signal::{SIGINT, SIGTERM, Signals};
use bailiwick_sys::{credential, process};
use bailiwick_types::ExitStatus;
use clap::Parser;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long deliveries that have begun may take to end, before this program ends without them. They are made again.
const END_TIME: Duration = Duration::from_secs(5);

/// Tells people by mail what happens to tenants, as [[notice]] in the files of the policy says.
///
/// It asks bailiwickd, as the user that `notices` in bailiwick.toml names.
#[derive(Debug, Parser)]
#[command(name = "bailiwick-notify", version, about)]
struct Arguments {
    /// Where bailiwick.toml and templates.d are
    #[arg(long, value_name = "DIR", default_value = "/etc/bailiwick")]
    config: PathBuf,
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

    fn failed(what: &str, error: &dyn Error) -> Self {
        let mut message = format!("cannot {what}: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(&format!(": {error}"));
            cause = error.source();
        }
        Self::new(ExitStatus::Failed, message)
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
        let message = "root must not deliver notices; run this as the user that `notices` in bailiwick.toml names, such as \
                       \"bailiwick-notify\"";
        return Err(Ended::new(ExitStatus::Refused, message));
    }
    // No other process of its user, such as a program that it executes, may look into it.
    credential::set_undumpable().map_err(|error| Ended::failed("hide its memory", &error))?;
    let host = bailiwick_policy::read_host(&arguments.config)
        .map_err(|problems| Ended::new(ExitStatus::Invalid, bailiwick_diagnostics::render(&problems).trim_end()))?;
    let given = std::env::var_os("STATE_DIRECTORY").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let file = given.unwrap_or_else(|| host.state_dir.join(NOTIFY_DIR)).join("notify.db");
    let what = format!("open \"{}\"", file.display());
    let (state, told) = State::open(&file).map_err(|error| Ended::failed(&what, &error))?;
    if let Some(told) = told {
        complain(&told);
    }
    let socket = host.runtime_dir.join(NOTIFY_SOCKET);
    let listener = control::listen(&socket)
        .map_err(|error| Ended::failed(&format!("listen on \"{}\"", socket.display()), &error))?;
    let signals = Signals::block(&[SIGTERM, SIGINT]).map_err(|error| Ended::failed("wait for signals", &error))?;

    let mail = || Mail::new(arguments.config.clone());
    let engine = Engine::new(
        state,
        vec![
            Box::new(mail()),
            Box::new(Hooks::new(arguments.config.clone(), bailiwick_hooks::socket(&host.runtime_dir))),
            Box::new(Webhooks::new(arguments.config.clone(), rustix::process::getegid().as_raw())),
        ],
    );
    let of_threads = |error: io::Error| Ended::failed("start a thread", &error);
    let workers = engine.start().map_err(of_threads)?;
    let daemon = Arc::new(Daemon::of(&host.runtime_dir));
    let start = |name: &str, work: Box<dyn FnOnce() + Send>| {
        thread::Builder::new().name(name.to_owned()).spawn(work).map(drop).map_err(of_threads)
    };
    let (shared, of_daemon) = (Arc::clone(&engine), Arc::clone(&daemon));
    start("events", Box::new(move || follow::events(&shared, &of_daemon)))?;
    let (shared, of_daemon) = (Arc::clone(&engine), daemon);
    start("readings", Box::new(move || follow::readings(&shared, &of_daemon)))?;
    let (shared, of_tests) = (Arc::clone(&engine), mail());
    start("control", Box::new(move || control::serve(&shared, &of_tests, &listener)))?;
    // Nobody may wait for it: that is no failure.
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();

    while !matches!(signals.take(), Ok(Some(SIGTERM | SIGINT))) {
        process::readable(&signals, Duration::from_secs(3600)).map_err(|error| Ended::failed("wait", &error))?;
    }
    engine.end();
    let until = Instant::now() + END_TIME;
    while workers.iter().any(|worker| !worker.is_finished()) && Instant::now() < until {
        thread::sleep(Duration::from_millis(10));
    }
    // The socket stays: the next process replaces it. A client meanwhile hears that nobody listens.
    Ok(())
}
