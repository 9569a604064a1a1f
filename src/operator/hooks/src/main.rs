//! `bailiwick-hooks`: listens for requests to run hooks, and starts a process for each.

use bailiwick_hooks::{end_all, end_others, serve, socket as socket_below, status};
use bailiwick_sys::signal::{SIGCHLD, SIGINT, SIGTERM, Signals};
use bailiwick_sys::stream::{self, Interest};
use bailiwick_sys::{credential, process, socket};
use bailiwick_types::ExitStatus;
use clap::Parser;
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::WaitOptions;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// The most hooks that run at once. Further requests wait in the queue of the socket.
const MOST_RUNS: usize = 32;
/// The pause when a connection cannot be accepted, or no process started.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the hooks that still run may take to end when this program ends.
const END: Duration = Duration::from_secs(5);
/// The longest wait while systemd wants to hear that this program lives. A hook may have stopped it (`SIGSTOP`).
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The number of the connection of a run, and of an inherited socket.
const CONNECTION: i32 = 3;

/// Runs the operator's hooks: the programs of hooks.d, for events and before commands.
///
/// It listens on the socket that systemd hands to it, or on hooks.sock of the runtime directory. bailiwick-notify and root connect.
#[derive(Debug, Parser)]
#[command(name = "bailiwick-hooks", version, about)]
struct Arguments {
    /// Where bailiwick.toml and hooks.d are
    #[arg(long, value_name = "DIR", default_value = "/etc/bailiwick")]
    config: PathBuf,
    /// Make this socket, for this program's user and group, instead of taking one from systemd
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Take the listening socket over from whoever started this; `bailiwickd --standalone` does so
    #[arg(long, hide = true, conflicts_with = "socket")]
    inherited: bool,
    /// Serve the one connection that was inherited; this program starts itself so
    #[arg(long, hide = true)]
    connection: bool,
}

/// Why the program ended.
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
    let arguments = Arguments::parse();
    let run = if arguments.connection { one_run(&arguments) } else { listen(&arguments) };
    match run {
        Ok(status) => status.into(),
        Err(ended) => {
            complain(&ended.message);
            ended.status.into()
        }
    }
}

/// One run, in the process that [`start`] has made.
fn one_run(arguments: &Arguments) -> Result<ExitStatus, Ended> {
    refuse_root()?;
    credential::set_undumpable().map_err(|error| Ended::failed("hide from the hook", &error))?;
    let connection =
        process::inherited(CONNECTION).map_err(|error| Ended::failed("take the connection over", &error))?;
    let served = serve(connection, &arguments.config);
    Ok(status(&served))
}

/// A hook must have no right of root, so this program has none to give.
fn refuse_root() -> Result<(), Ended> {
    if rustix::process::geteuid().is_root() {
        let message = "root must not run what reads the words of tenants; run this as a user of its own, such as \"bailiwick-hooks\"";
        return Err(Ended::new(ExitStatus::Refused, message));
    }
    Ok(())
}

fn listen(arguments: &Arguments) -> Result<ExitStatus, Ended> {
    refuse_root()?;
    let host = bailiwick_policy::read_host(&arguments.config)
        .map_err(|problems| Ended::new(ExitStatus::Invalid, bailiwick_diagnostics::render(&problems).trim_end()))?;
    let listener = listener(arguments, &socket_below(&host.runtime_dir))?;
    let failed = |what: &'static str| move |error: io::Error| Ended::failed(what, &error);
    credential::set_undumpable().map_err(failed("hide from hooks"))?;
    credential::set_no_new_privs().map_err(failed("give up privileges"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(io::Error::from)
        .map_err(failed("become a subreaper"))?;
    let signals = Signals::block(&[SIGTERM, SIGINT, SIGCHLD]).map_err(failed("wait for signals"))?;
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();
    let longest = sd_notify::watchdog_enabled().map(|time| LONGEST_WAIT.min(time / 3));
    let mut runs = Runs::default();
    loop {
        if longest.is_some() {
            sd_notify::notify(&[sd_notify::NotifyState::Watchdog]).ok();
        }
        let mut watched = vec![(signals.as_fd(), Interest::Read)];
        if runs.0.len() < MOST_RUNS {
            watched.push((listener.as_fd(), Interest::Read));
        }
        let ready = stream::wait(&watched, longest).map_err(failed("wait for requests"))?;
        while let Some(signal) = signals.take().map_err(failed("read signals"))? {
            if signal != SIGCHLD {
                // Whoever waits for a hook sees its connection end, and has it run again.
                end_all(Instant::now() + END).map_err(failed("end hooks"))?;
                return Ok(ExitStatus::Done);
            }
        }
        runs.reap();
        if ready.get(1) == Some(&true) {
            accept(&listener, &arguments.config, &mut runs);
        }
    }
}

/// The processes of runs that have not ended.
#[derive(Default)]
struct Runs(Vec<u32>);

impl Runs {
    /// Forgets those that have ended, and kills what one of them has left because it was killed itself. One that a hook has stopped
    /// would never end its hook, so it is killed.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            let is_of = |run: &u32| i64::from(*run) == i64::from(pid.as_raw_nonzero().get());
            if status.stopped() {
                // A child that was not reaped keeps its number.
                let run = self.0.iter().find(|run| is_of(run));
                run.and_then(|run| process::open(*run).and_then(process::kill).ok());
            } else {
                self.0.retain(|run| !is_of(run));
            }
        }
        if let Err(error) = end_others(&self.0) {
            complain(&format!("cannot list processes that a hook has left: {error}"));
        }
    }
}

/// Accepts a connection and starts its run. A client whose connection ends without a reply asks again.
fn accept(listener: &OwnedFd, config: &Path, runs: &mut Runs) {
    let connection = match rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC) {
        Ok(connection) => connection,
        Err(error) => {
            let error = io::Error::from(error);
            if socket::is_shortage(&error) {
                complain(&format!("cannot accept a connection: {error}"));
                std::thread::sleep(PAUSE);
            }
            return;
        }
    };
    match start(&connection, config) {
        Ok(pid) => runs.0.push(pid),
        Err(error) => {
            complain(&format!("cannot start the process of a hook: {error}"));
            std::thread::sleep(PAUSE);
        }
    }
}

/// Starts this program again for one connection.
fn start(connection: &OwnedFd, config: &Path) -> io::Result<u32> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--connection").arg("--config").arg(config);
    process::inherit(&mut command, &[connection.as_fd()])?;
    process::unblock_signals(&mut command);
    // It is reaped with all others.
    Ok(command.spawn()?.id())
}

/// The socket that was handed over, or a new one.
fn listener(arguments: &Arguments, below: &Path) -> Result<OwnedFd, Ended> {
    let mut inherited = sd_notify::listen_fds().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    if arguments.inherited {
        inherited.push(CONNECTION);
    }
    let listener = match (arguments.socket.as_deref(), inherited.as_slice()) {
        (None, [number]) => process::inherited(*number)
            .and_then(checked)
            .map_err(|error| Ended::failed("take the socket over", &error))?,
        (path, _) => {
            let path = path.unwrap_or(below);
            at_path(path).map_err(|error| Ended::failed(&format!("listen on \"{}\"", path.display()), &error))?
        }
    };
    stream::never_block(&listener).map_err(|error| Ended::failed("listen", &error))?;
    Ok(listener)
}

fn checked(fd: OwnedFd) -> io::Result<OwnedFd> {
    let is_right = sockopt::socket_type(&fd)? == SocketType::STREAM
        && sockopt::socket_acceptconn(&fd)?
        && sockopt::socket_domain(&fd)? == AddressFamily::UNIX;
    if is_right {
        Ok(fd)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no listening Unix stream socket"))
    }
}

/// Makes the socket. One that an earlier process has left is replaced, unless somebody still listens there.
fn at_path(path: &Path) -> io::Result<OwnedFd> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_socket {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o660))?;
    Ok(listener.into())
}

/// Says something to whoever keeps the log. Standard error may be gone; then nobody reads it.
fn complain(message: &str) {
    writeln!(io::stderr(), "bailiwick-hooks: {message}").ok();
}
