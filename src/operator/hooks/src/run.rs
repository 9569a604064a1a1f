//! One run of one hook, in a process of its own.

use crate::descendants::end_all;
use crate::filter::OWN_LIMITS;
use crate::message::{HookEnd, HookReply, HookRequest, MAX_REPLY};
use bailiwick_policy::lines;
use bailiwick_proto::frame::MAX_REQUEST;
use bailiwick_proto::{Incoming, TransportError, time_limits, transport};
use bailiwick_sys::stream::{self, Interest};
use bailiwick_sys::{credential, landlock, proc, process, seccomp, socket};
use bailiwick_targets::{Hook, HookWhen};
use bailiwick_types::ExitStatus;
use rustix::process::{Resource, Signal};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How much of what a hook says is kept.
const MAX_SAID: usize = 4 << 10;
/// How long it may take to end what a hook has left. Some hundred processes that never rest leave little time to this one.
const END: Duration = Duration::from_secs(20);
/// All that a hook finds in its environment.
const ENVIRONMENT: [(&str, &str); 2] =
    [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("LANG", "C.UTF-8")];
/// The most processes that the user of this program may have, with those of all hooks.
const MOST_PROCESSES: u64 = 1024;

/// Serves one connection: reads the request, runs the hook, and replies. It must be the only thread of its process.
///
/// # Errors
/// When the request did not come, or the reply could not be sent.
pub fn serve(connection: OwnedFd, config: &Path) -> Result<(), TransportError> {
    let deadline = Instant::now() + time_limits::REQUEST;
    let mut incoming = Incoming::new(MAX_REQUEST, 0);
    let (request, _): (HookRequest, _) = transport::receive(&connection, &mut incoming, deadline)?;
    let reply = match prepare(&connection, config, &request) {
        Ok(hook) => run(&hook, request.body.into_bytes(), connection.as_fd())?,
        Err(reason) => not_run(reason),
    };
    transport::send(&connection, &reply, MAX_REPLY, &[])
}

fn not_run(reason: impl Into<String>) -> HookReply {
    HookReply { end: HookEnd::NotRun(reason.into()), said: String::new() }
}

/// The hook of a request, once this process is ready to end whatever it starts. Or else why it is not run.
fn prepare(connection: &OwnedFd, config: &Path, request: &HookRequest) -> Result<Hook, String> {
    let hook = match bailiwick_targets::hook(config, &request.hook) {
        Ok(Some(hook)) => hook,
        Ok(None) => return Err(format!("there is no hook \"{}\"", request.hook)),
        Err(diagnostics) => return Err(lines(&diagnostics)),
    };
    let peer = socket::peer(connection).map_err(|error| format!("cannot tell who asks: {error}"))?;
    if hook.when == HookWhen::Before && peer.uid != 0 {
        return Err(format!("only root may ask for a hook that runs before a command, and user {} is not", peer.uid));
    }
    let failed = |what: &str, error: io::Error| format!("cannot {what}: {error}");
    // A hook gets its standard streams and nothing else, whatever this program was started with.
    process::close_on_exec_from(3).map_err(|error| failed("keep its descriptors", error))?;
    credential::set_rlimit(Resource::Core, 0).map_err(|error| failed("limit cores", error))?;
    // Whoever started this program may have set a lower limit, which it cannot raise.
    let most =
        rustix::process::getrlimit(Resource::Nproc).maximum.map_or(MOST_PROCESSES, |most| most.min(MOST_PROCESSES));
    credential::set_rlimit(Resource::Nproc, most).map_err(|error| failed("limit processes", error))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| failed("become a subreaper", error.into()))?;
    // Without this list nothing of what the hook starts could be ended.
    proc::children(std::process::id()).map_err(|error| failed("list children (CONFIG_PROC_CHILDREN)", error))?;
    Ok(hook)
}

/// Runs a hook until it ends, its time is over, or nobody waits for it any more.
fn run(hook: &Hook, body: Vec<u8>, client: BorrowedFd<'_>) -> Result<HookReply, TransportError> {
    let deadline = Instant::now() + hook.timeout.duration();
    let [program, arguments @ ..] = hook.run.as_slice() else { return Ok(not_run("its file names no program")) };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(ENVIRONMENT).current_dir("/").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    process::unblock_signals(&mut command);
    // All hooks have one user. Only the domain keeps one of them from tracing another, and deciding what that one does.
    if let Err(error) = landlock::apart(&mut command, landlock::abi()) {
        return Ok(not_run(format!("it cannot be kept apart from other hooks: {error}")));
    }
    seccomp::begin_with(&mut command, &OWN_LIMITS);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ok(not_run(format!("\"{program}\" cannot be executed: {error}"))),
    };
    // A line, for programs that read line by line.
    let mut pipes = Pipes::of(&mut child, [body, b"\n".to_vec()].concat())?;
    let end = wait(&mut child, &mut pipes, client, deadline);
    let is_over = end_all(Instant::now() + END)?;
    let end = match end? {
        Some(end) => end,
        // Nobody waits for a reply.
        None => return Err(TransportError::Ended),
    };
    // All that could write is gone, so this reads what is left and does not wait.
    pipes.read();
    let said = pipes.said();
    if !is_over {
        return Ok(HookReply { said, ..not_run("it has left processes that cannot be killed") });
    }
    Ok(HookReply { end: end.unwrap_or(HookEnd::Late(hook.timeout)), said })
}

/// Waits for the end of the program. `Some(None)` means that the time is over, and `None` that the client has gone.
fn wait(
    child: &mut Child,
    pipes: &mut Pipes,
    client: BorrowedFd<'_>,
    deadline: Instant,
) -> Result<Option<Option<HookEnd>>, TransportError> {
    let pidfd = process::open(child.id())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Some(None));
        }
        let mut watched = vec![(client, Interest::End), (pidfd.as_fd(), Interest::Read)];
        watched.extend(pipes.watched());
        let ready = stream::wait(&watched, Some(left))?;
        if ready[0] {
            return Ok(None);
        }
        pipes.write();
        pipes.read();
        if ready[1]
            && let Some(status) = child.try_wait()?
        {
            let end = match (status.code(), status.signal()) {
                (Some(code), _) => HookEnd::Exited(code),
                (None, signal) => HookEnd::Killed(signal.unwrap_or(Signal::KILL.as_raw())),
            };
            return Ok(Some(Some(end)));
        }
    }
}

/// The pipes of a hook. None of them blocks.
struct Pipes {
    /// Standard input, until all of `body` is written or nobody reads it.
    input: Option<std::process::ChildStdin>,
    body: Vec<u8>,
    written: usize,
    output: Tail<std::process::ChildStdout>,
    errors: Tail<std::process::ChildStderr>,
}

impl Pipes {
    fn of(child: &mut Child, body: Vec<u8>) -> io::Result<Self> {
        let missing = || io::Error::from(io::ErrorKind::BrokenPipe);
        let input = child.stdin.take().ok_or_else(missing)?;
        stream::never_block(&input)?;
        let output = Tail::of(child.stdout.take().ok_or_else(missing)?)?;
        let errors = Tail::of(child.stderr.take().ok_or_else(missing)?)?;
        Ok(Self { input: Some(input), body, written: 0, output, errors })
    }

    fn watched(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Interest)> {
        let input = self.input.as_ref().map(|input| (input.as_fd(), Interest::Write));
        let output = self.output.pipe.as_ref().map(|pipe| (pipe.as_fd(), Interest::Read));
        let errors = self.errors.pipe.as_ref().map(|pipe| (pipe.as_fd(), Interest::Read));
        input.into_iter().chain(output).chain(errors)
    }

    /// Writes what the pipe takes. A hook that does not read its input is none that fails.
    fn write(&mut self) {
        let Some(input) = &mut self.input else { return };
        let rest = self.body.get(self.written..).unwrap_or_default();
        match input.write(rest) {
            Ok(0) => self.input = None,
            Ok(len) => self.written += len,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.input = None,
        }
        if self.written == self.body.len() {
            self.input = None;
        }
    }

    fn read(&mut self) {
        self.output.read();
        self.errors.read();
    }

    /// What the hook has said.
    fn said(&self) -> String {
        let errors = self.errors.text();
        if errors.trim().is_empty() { self.output.text() } else { errors }
    }
}

/// The last bytes of a pipe.
struct Tail<P> {
    pipe: Option<P>,
    bytes: Vec<u8>,
    is_cut: bool,
}

impl<P: Read + AsFd> Tail<P> {
    fn of(pipe: P) -> io::Result<Self> {
        stream::never_block(&pipe)?;
        Ok(Self { pipe: Some(pipe), bytes: Vec::new(), is_cut: false })
    }

    /// Reads what is there, at most a megabyte, so that a flood leaves time for the rest.
    fn read(&mut self) {
        const PORTION: usize = 16 << 10;
        const PORTIONS: usize = 64;
        let mut portion = [0; PORTION];
        for _ in 0..PORTIONS {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut portion) {
                Ok(0) => self.pipe = None,
                Ok(len) => self.keep(portion.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if let Some(more) = self.bytes.len().checked_sub(MAX_SAID).filter(|more| *more > 0) {
            self.bytes.drain(..more);
            self.is_cut = true;
        }
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let text = text.trim_end();
        if self.is_cut { format!("...{text}") } else { text.to_owned() }
    }
}

/// The exit status of this process after [`serve`].
#[must_use]
pub fn status(served: &Result<(), TransportError>) -> ExitStatus {
    match served {
        // A client that has gone is no failure of this program.
        Ok(()) | Err(TransportError::Ended) => ExitStatus::Done,
        Err(_) => ExitStatus::Failed,
    }
}
