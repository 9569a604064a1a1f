//! `--standalone`: starts the warden as root and the daemon as its own user, what connects jails to the network when the policy
//! gives anybody one, and what delivers notices when there are some. Restarts each when it dies or does not answer.
//!
//! Danger: this process keeps root. It accepts no connection. It reads only the root-owned policy, the exit statuses of
//! its children, and what the daemon has it keep (`fd_store`). It checks that they answer, and reads nothing of their
//! answers.

mod beside;
mod hooks;
mod network;
mod notices;

use crate::fd_store::FdStore;
use crate::{Ended, Networks};
use bailiwick_proto::{CONTROL_SOCKET, WARDEN_SOCKET};
use bailiwick_sys::signal::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, Signals};
use bailiwick_sys::stream::{self, Interest};
use bailiwick_sys::{process, socket};
use bailiwick_types::ExitStatus;
use beside::Beside;
use hooks::Hooks;
use network::Network;
use notices::Notices;
use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A program that ran this long counts as healthy. One that ended earlier is restarted after a growing pause.
const WELL: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// After so many short lives in a row an operator must act.
const MAX_SHORT_LIVES: u32 = 10;
/// How long the warden may take to clean up and listen.
const WARDEN_TIME: Duration = Duration::from_secs(60);
/// How long each of the programs may take to end.
const END_TIME: Duration = Duration::from_secs(25);

/// The time between two checks of a program.
const LOOK_TIME: Duration = Duration::from_secs(2);
/// How long the daemon may take to answer. Its clients wait meanwhile.
const DAEMON_TIME: Duration = Duration::from_secs(20);
/// How long the warden may take to answer. It handles one request after another.
const WARDEN_ANSWER_TIME: Duration = Duration::from_secs(120);
/// The header of no valid message. The daemon answers it with a failure, the warden by closing the connection.
const NONSENSE: [u8; 4] = [0xff; 4];

/// A check that is not answered yet.
struct Asked {
    /// `None` when the program's queue of connections is full.
    connection: Option<OwnedFd>,
    since: Instant,
}

/// One of the programs.
struct Program {
    command: Box<dyn Fn() -> Command>,
    name: &'static str,
    child: Option<Child>,
    since: Instant,
    short_lives: u32,
    again: Option<Instant>,
    /// The socket of the program, and how long it may take to answer.
    socket: PathBuf,
    patience: Duration,
    asked: Option<Asked>,
    next_look: Instant,
}

impl Program {
    fn new(name: &'static str, socket: PathBuf, patience: Duration, command: impl Fn() -> Command + 'static) -> Self {
        let (command, now) = (Box::new(command), Instant::now());
        let (child, short_lives, again, asked) = (None, 0, None, None);
        Self { command, name, child, since: now, short_lives, again, socket, patience, asked, next_look: now }
    }

    /// The connection on which the answer to the current check arrives.
    fn answer(&self) -> Option<BorrowedFd<'_>> {
        self.asked.as_ref()?.connection.as_ref().map(AsFd::as_fd)
    }

    /// The program has answered.
    fn answered(&mut self) {
        self.asked = None;
        self.next_look = Instant::now() + LOOK_TIME;
    }

    /// Checks the program when a check is due. Kills it when an answer takes too long.
    fn ask(&mut self) {
        let now = Instant::now();
        let Some(child) = &mut self.child else {
            self.asked = None;
            return;
        };
        if self.asked.as_ref().is_some_and(|asked| now.duration_since(asked.since) >= self.patience) {
            tracing::error!(event = "hung", program = self.name, "{} answers nobody and is killed", self.name);
            // [`Self::look`] notices the end.
            child.kill().ok();
            self.answered();
            return;
        }
        if now < self.next_look || self.answer().is_some() {
            return;
        }
        self.next_look = now + LOOK_TIME;
        let since = self.asked.as_ref().map_or(now, |asked| asked.since);
        self.asked = match socket::connect_at_once(&self.socket) {
            Ok(connection) => {
                // If this fails, the program has ended or will not answer.
                socket::send(&connection, &NONSENSE, &[]).ok();
                Some(Asked { connection: Some(connection), since })
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Some(Asked { connection: None, since }),
            // The program does not listen yet, or has ended.
            Err(_) => None,
        };
    }

    fn start(&mut self) -> Result<(), Ended> {
        let child = (self.command)().spawn().map_err(|error| Ended::failed(&format!("start {}", self.name), &error))?;
        tracing::info!(event = "started", program = self.name, pid = child.id(), "{} is started", self.name);
        self.child = Some(child);
        self.since = Instant::now();
        self.again = None;
        Ok(())
    }

    /// Notices the end of the program and plans its restart. Returns an error if an operator must act.
    fn look(&mut self) -> Result<(), Ended> {
        let Some(status) = self.reap() else { return Ok(()) };
        tracing::warn!(event = "ended", program = self.name, %status, "{} has ended", self.name);
        let wrong = status.code().and_then(|code| {
            [ExitStatus::Invalid, ExitStatus::Conflict, ExitStatus::HostCannot]
                .into_iter()
                .find(|known| i32::from(known.code()) == code)
        });
        if let Some(known) = wrong {
            return Err(Ended::new(known, format!("{} cannot work; it said why above", self.name)));
        }
        if self.short_lives >= MAX_SHORT_LIVES {
            let message = format!("{} ended {} times in a row; giving up", self.name, self.short_lives);
            return Err(Ended::new(ExitStatus::Failed, message));
        }
        self.again = Some(Instant::now() + pause_after(self.short_lives));
        Ok(())
    }

    /// How the program has ended, once.
    fn reap(&mut self) -> Option<std::process::ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        self.short_lives = if self.since.elapsed() >= WELL { 0 } else { self.short_lives + 1 };
        Some(status)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        if let Some(child) = &self.child {
            // The child is not reaped yet, so its pid is still its own. If it has just ended, it needs no signal.
            process::open(child.id()).and_then(|pidfd| process::signal(pidfd, signal)).ok();
        }
    }

    fn end(&mut self) {
        self.signal(rustix::process::Signal::TERM);
        let Some(child) = &mut self.child else { return };
        let pidfd = process::open(child.id());
        if !pidfd.is_ok_and(|pidfd| process::has_ended(pidfd, END_TIME).unwrap_or(false)) {
            child.kill().ok();
        }
        child.wait().ok();
    }
}

/// The pause before the next start of a program, after so many short lives in a row.
fn pause_after(short_lives: u32) -> Duration {
    (FIRST_PAUSE * 2_u32.pow(short_lives.min(8))).min(LAST_PAUSE)
}

/// Runs until a signal tells it to end, or until one of the programs cannot work.
pub(crate) fn run(config: &Path, networks: Networks, hooks_user: &str) -> Result<(), Ended> {
    if !rustix::process::geteuid().is_root() {
        return Err(Ended::new(ExitStatus::Refused, "--standalone starts the warden and must be run as root"));
    }
    let config = config.canonicalize().map_err(|error| {
        Ended::new(ExitStatus::Invalid, format!("cannot find the configuration \"{}\": {error}", config.display()))
    })?;
    let (host, _) = bailiwick_policy::Store::new(&config)
        .host()
        .map_err(|problems| Ended::new(ExitStatus::Invalid, bailiwick_diagnostics::render(&problems)))?;
    let (uid, gid) = user(&host.user)?;
    let own = std::env::current_exe().map_err(|error| Ended::failed("find this program", &error))?;
    let warden_path = bailiwick_observe::program("bailiwick-warden");
    let signals = Signals::block(&[SIGCHLD, SIGHUP, SIGINT, SIGTERM])
        .map_err(|error| Ended::failed("wait for signals", &error))?;

    let warden_config = config.clone();
    let (warden_socket, control) = (host.runtime_dir.join(WARDEN_SOCKET), host.runtime_dir.join(CONTROL_SOCKET));
    let control_socket = control.clone();
    let mut warden = Program::new("bailiwick-warden", warden_socket, WARDEN_ANSWER_TIME, move || {
        let mut command = Command::new(&warden_path);
        command.arg("--config").arg(&warden_config).env_clear();
        command
    });
    let mut network = Network::new(bailiwick_observe::program("bailiwick-net"), &config, &host, networks);
    let mut notices = Beside::new(Notices::new(bailiwick_observe::program("bailiwick-notify"), &config));
    let mut hooks = Beside::new(Hooks::new(bailiwick_observe::program("bailiwick-hooks"), &config, hooks_user));
    // Filled when the warden has made the runtime directory.
    let store = Rc::new(RefCell::new(None::<FdStore>));
    let kept = Rc::clone(&store);
    let mut daemon = Program::new("bailiwickd", control, DAEMON_TIME, move || {
        let mut command = Command::new(&own);
        command.arg("--config").arg(&config).env_clear().current_dir("/");
        // Sockets that the daemon makes and passes into jails must not expose the host's network. Under systemd
        // `PrivateNetwork=` ensures this.
        process::become_apart(&mut command, uid, gid);
        if let Some(store) = kept.borrow_mut().as_mut()
            && let Err(error) = store.hand_over(&mut command)
        {
            tracing::warn!(event = "descriptors-lost", "the sockets of services are made anew: {error}");
        }
        command
    });

    // A second warden would begin its work before it is refused.
    if UnixStream::connect(&control_socket).is_ok() {
        let message = format!("another bailiwickd answers on \"{}\"", control_socket.display());
        return Err(Ended::new(ExitStatus::Conflict, message));
    }
    warden.start()?;
    let result = wait_for_warden(&mut warden, &host.runtime_dir.join(WARDEN_SOCKET))
        .and_then(|()| {
            let made = FdStore::new(&host.runtime_dir, uid, gid);
            *store.borrow_mut() = Some(made.map_err(|error| Ended::failed("keep descriptors for bailiwickd", &error))?);
            // The daemon has jails started at once, and some may need a network.
            network.begin();
            daemon.start()
        })
        .and_then(|()| supervise(&signals, &mut warden, &mut daemon, (&mut network, &mut notices, &mut hooks), &store));
    // Nobody reads messages any more, and nobody must wait for that.
    *store.borrow_mut() = None;
    notices.end();
    hooks.end();
    daemon.end();
    warden.end();
    network.end();
    result
}

fn wait_for_warden(warden: &mut Program, socket: &Path) -> Result<(), Ended> {
    let deadline = Instant::now() + WARDEN_TIME;
    while UnixStream::connect(socket).is_err() {
        warden.look()?;
        if warden.child.is_none() {
            // A warden that fails at its first start would fail again, so the operator must act.
            return Err(Ended::new(ExitStatus::Failed, "bailiwick-warden cannot work; it said why above"));
        }
        if Instant::now() >= deadline {
            return Err(Ended::new(ExitStatus::Failed, "bailiwick-warden does not begin to listen"));
        }
        // No event reports that a program listens without its help. This loop runs only at the start.
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn supervise(
    signals: &Signals,
    warden: &mut Program,
    daemon: &mut Program,
    (network, notices, hooks): (&mut Network, &mut Beside<Notices>, &mut Beside<Hooks>),
    store: &RefCell<Option<FdStore>>,
) -> Result<(), Ended> {
    loop {
        let next = [&*warden, &*daemon].iter().filter_map(|program| program.again).chain(network.next()).min();
        let wait = next.map_or(LOOK_TIME, |again| again.saturating_duration_since(Instant::now()).min(LOOK_TIME));
        let programs = [&*warden, &*daemon, &network.program];
        let answers: Vec<_> = programs.iter().map(|program| program.answer()).collect();
        let kept = store.borrow();
        let mut watched = vec![(signals.as_fd(), Interest::Read)];
        watched.extend(answers.iter().flatten().map(|fd| (*fd, Interest::Read)));
        watched.extend(kept.iter().map(|store| (store.as_fd(), Interest::Read)));
        let heard = stream::wait(&watched, Some(wait)).map_err(|error| Ended::failed("wait", &error))?;
        drop(kept);
        let mut heard = heard.into_iter().skip(1);
        let answered: Vec<bool> = answers.iter().map(|fd| fd.is_some() && heard.next() == Some(true)).collect();
        for (program, answered) in [&mut *warden, &mut *daemon, &mut network.program].into_iter().zip(answered) {
            if answered {
                program.answered();
            }
        }
        if let Some(store) = store.borrow_mut().as_mut() {
            store.hear();
        }
        while let Some(number) = signals.take().map_err(|error| Ended::failed("read a signal", &error))? {
            match number {
                SIGTERM | SIGINT => return Ok(()),
                SIGHUP => {
                    daemon.signal(rustix::process::Signal::HUP);
                    network.hurry();
                }
                _ => {}
            }
        }
        for program in [&mut *warden, &mut *daemon] {
            program.look()?;
            if program.again.is_some_and(|again| Instant::now() >= again) {
                program.start()?;
            }
            program.ask();
        }
        network.look();
        notices.look();
        hooks.look();
    }
}

/// The user and group of the daemon: a number, which is both, or a name in the host's user database.
fn user(text: &str) -> Result<(u32, u32), Ended> {
    if let Ok(number) = text.parse() {
        return Ok((number, number));
    }
    let user = users::get_user_by_name(text).ok_or_else(|| {
        let remedy = format!("make it with `useradd --system {text}`, or set `user` in bailiwick.toml");
        Ended::new(ExitStatus::Invalid, format!("the user \"{text}\" does not exist; {remedy}"))
    })?;
    Ok((user.uid(), user.primary_group_id()))
}
