//! The server on the host. The warden starts it as the tenant's host user, in the tenant's control groups, with the listening
//! socket as descriptor 3 and the file of the rate as descriptor 4.
//!
//! Danger: it may have no filter of system calls and no `no_new_privs`, because the host's `sendmail` inherits them, and that may
//! need its group (`postdrop`). So it does little: it reads a bounded request, and starts one program whose path, options and
//! sender it was started with. The message goes to its standard input.
//!
//! SIGTERM ends it: it takes no more messages, finishes those that it has, and ends. Its listener goes on with the next server.

use crate::log::Log;
use crate::rate::{Rate, now};
use crate::request::{self, Bounds, Refusal, Request, reply};
use crate::status;
use bailiwick_sys::signal::{self, Signals};
use bailiwick_sys::{credential, process};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::MemfdFlags;
use rustix::time::Timespec;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const LISTENER: i32 = 3;
const RATE: i32 = 4;
/// How many messages are handled at a time. Others wait in the queue of the socket.
const AT_ONCE: usize = 4;
/// How long a client may send nothing, and how long its message may take.
const SILENCE: Duration = Duration::from_secs(30);
const MESSAGE_TIME: Duration = Duration::from_secs(120);
/// How long it may still take when the server is told to end.
const LAST_TIME: Duration = Duration::from_secs(10);
/// How long the host's `sendmail` may take.
const SEND_TIME: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);
/// The most bytes that are kept of what it prints.
const MAX_SAID: usize = 400;

/// What the warden has started it with.
#[derive(Debug)]
struct Orders {
    command: OsString,
    /// The sender of every message.
    sender: String,
    bounds: Bounds,
    /// How long the host's `sendmail` may take.
    send_time: Duration,
}

/// What all threads share.
#[derive(Debug)]
struct Server {
    orders: Orders,
    listener: UnixListener,
    /// Reports SIGTERM to every thread, because nobody takes it from there.
    end: Signals,
    rate: Mutex<Rate>,
    log: Mutex<Log>,
}

impl Orders {
    /// Reads the arguments. The second value is how many messages an hour may have. A test gives the seconds of the host's
    /// `sendmail` too.
    fn read(arguments: &[OsString]) -> Option<(Self, usize)> {
        let [command, sender, numbers @ ..] = arguments else { return None };
        let number = |word: &OsString| word.to_str()?.parse().ok();
        let numbers: Vec<usize> = numbers.iter().map(number).collect::<Option<_>>()?;
        let (per_hour, recipients, size, send_time) = match *numbers.as_slice() {
            [per_hour, recipients, size] => (per_hour, recipients, size, SEND_TIME),
            [per_hour, recipients, size, seconds] => {
                (per_hour, recipients, size, Duration::from_secs(u64::try_from(seconds).ok()?))
            }
            _ => return None,
        };
        let (command, sender) = (command.clone(), sender.to_str()?.to_owned());
        Some((Self { command, sender, bounds: Bounds { recipients, size }, send_time }, per_hour))
    }
}

/// Serves until SIGTERM. Returns an exit status.
#[must_use]
pub fn main(arguments: &[OsString]) -> u8 {
    let Some((orders, per_hour)) = Orders::read(arguments) else { return status::USAGE };
    let fds = process::inherited(LISTENER).and_then(|listener| Ok((listener, process::inherited(RATE)?)));
    match fds.and_then(|(listener, rate)| serve(orders, listener, Rate::new(rate, per_hour))) {
        Ok(()) => status::OK,
        // Nobody reads what it prints: the warden sees that it has ended, and starts it again.
        Err(_) => status::OS,
    }
}

fn serve(orders: Orders, listener: OwnedFd, rate: Rate) -> io::Result<()> {
    credential::set_undumpable()?;
    // The programs that it starts get an empty mask again (`Command`).
    let end = Signals::block(&[signal::SIGTERM])?;
    let (listener, rate, log) = (UnixListener::from(listener), Mutex::new(rate), Mutex::new(Log::default()));
    listener.set_nonblocking(true)?;
    let server = Server { orders, listener, end, rate, log };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(|| accept(&server))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
    })
}

/// Handles messages until SIGTERM.
fn accept(server: &Server) -> io::Result<()> {
    loop {
        let [_, ends] = wait_for([server.listener.as_fd(), server.end.as_fd()], None)?;
        if ends {
            return Ok(());
        }
        match server.listener.accept() {
            Ok((stream, _)) => handle(server, stream),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
            // Another thread was faster.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The kernel is short of something, or the client has gone.
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Waits until one of two descriptors can be read, or a time is over. Returns which of them can.
fn wait_for(fds: [BorrowedFd<'_>; 2], most: Option<Duration>) -> io::Result<[bool; 2]> {
    let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let most = most.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
    match rustix::event::poll(&mut fds, most.as_ref()) {
        Ok(_) => Ok(fds.map(|fd| !fd.revents().is_empty())),
        Err(rustix::io::Errno::INTR) => Ok([false; 2]),
        Err(error) => Err(error.into()),
    }
}

fn handle(server: &Server, mut stream: UnixStream) {
    if stream.set_write_timeout(Some(SILENCE)).is_err() {
        return;
    }
    let from = Timed { stream: &stream, end: &server.end, until: Instant::now() + MESSAGE_TIME, is_last: false };
    let request = request::read(from, server.orders.bounds);
    let (count, bytes) = request.as_ref().map_or((0, 0), |request| (request.recipients.len(), request.message.len()));
    let result = request.and_then(|request| {
        place(&server.rate)?;
        send(&server.orders, request)
    });
    // The client may have gone. It hears first: nothing that may hang is between the message and its reply.
    stream.write_all(reply(&result).as_bytes()).ok();
    drop(stream);
    lock(&server.log).write(&server.orders.sender, count, bytes, &result);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a place within the rate.
fn place(rate: &Mutex<Rate>) -> Result<(), Refusal> {
    match lock(rate).take(now()) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(wait)) => {
            let minutes = wait.div_ceil(60_000);
            let why = format!("the limit of messages in an hour is reached; try again in {minutes} min");
            Err(Refusal::new(status::TEMPORARY, why))
        }
        Err(error) => Err(Refusal::new(status::TEMPORARY, format!("messages cannot be counted: {error}"))),
    }
}

/// Reads from a client until a point in time, which is near when the server is told to end.
struct Timed<'a> {
    stream: &'a UnixStream,
    end: &'a Signals,
    until: Instant,
    is_last: bool,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let silence = Instant::now() + SILENCE;
        loop {
            let left = self.until.min(silence).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let end = if self.is_last { self.stream.as_fd() } else { self.end.as_fd() };
            let [comes, ends] = wait_for([self.stream.as_fd(), end], Some(left))?;
            if ends && !self.is_last {
                self.is_last = true;
                self.until = self.until.min(Instant::now() + LAST_TIME);
            }
            if comes {
                return (&mut &*self.stream).read(buffer);
            }
        }
    }
}

/// Hands a message to the host's `sendmail`.
fn send(orders: &Orders, request: Request) -> Result<(), Refusal> {
    let failed =
        |what: &str, error: &io::Error| Refusal::new(status::OS, format!("the host's sendmail {what}: {error}"));
    // Files and no pipes: whatever the program leaves behind, nobody waits for it.
    let (mut message, said) = memory("message")
        .and_then(|message| Ok((message, memory("said")?)))
        .map_err(|error| failed("has no memory", &error))?;
    let Request { recipients, message: bytes } = request;
    message.write_all(&bytes).and_then(|()| message.rewind()).map_err(|error| failed("has no memory", &error))?;
    drop(bytes);
    let told = said.try_clone().map_err(|error| failed("has no memory", &error))?;
    let mut command = Command::new(&orders.command);
    command.args(["-i", "-f", &orders.sender, "--"]).args(recipients);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/");
    // A group of its own, so that all of it can be ended.
    command.process_group(0);
    command.stdin(message).stdout(Stdio::null()).stderr(told);
    let mut child = command.spawn().map_err(|error| failed("cannot be started", &error))?;
    let ended = wait(&mut child, orders.send_time).map_err(|error| failed("does not end", &error))?;
    let mut kept = vec![0; MAX_SAID];
    let len = said.read_at(&mut kept, 0).unwrap_or(0);
    judge(ended, &String::from_utf8_lossy(&kept[..len]), orders.send_time)
}

/// A file in memory.
fn memory(name: &str) -> io::Result<File> {
    Ok(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?.into())
}

/// Waits for the end of the program, and ends it when its time is over. `None` then.
fn wait(child: &mut Child, most: Duration) -> io::Result<Option<ExitStatus>> {
    let until = Instant::now() + most;
    while Instant::now() < until {
        if let Some(ended) = child.try_wait()? {
            return Ok(Some(ended));
        }
        thread::sleep(PAUSE);
    }
    signal::send_to_group(child.id(), signal::SIGKILL).ok();
    // A program that has left its group is ended too.
    child.kill()?;
    child.wait()?;
    Ok(None)
}

fn judge(ended: Option<ExitStatus>, said: &str, most: Duration) -> Result<(), Refusal> {
    let said = said.trim();
    let told = if said.is_empty() { String::new() } else { format!(": {said}") };
    match ended.map(|ended| (ended.code(), ended.signal())) {
        Some((Some(0), _)) => Ok(()),
        Some((Some(code @ 64..=78), _)) => {
            Err(Refusal::new(u8::try_from(code).unwrap_or(status::OS), format!("the host's sendmail refused it{told}")))
        }
        Some((Some(code), _)) => {
            Err(Refusal::new(status::TEMPORARY, format!("the host's sendmail ended with {code}{told}")))
        }
        Some((None, signal)) => {
            let signal = signal.unwrap_or_default();
            Err(Refusal::new(status::TEMPORARY, format!("the host's sendmail was ended by signal {signal}{told}")))
        }
        None => {
            let seconds = most.as_secs();
            Err(Refusal::new(status::TEMPORARY, format!("the host's sendmail took more than {seconds} s{told}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(line: &str) -> Option<(Orders, usize)> {
        Orders::read(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_hosts_sendmail_has_a_minute_unless_a_test_says_otherwise() {
        let (wardens, per_hour) = orders("/usr/sbin/sendmail a@b.org 7 3 100").expect("orders");
        assert_eq!((wardens.send_time, per_hour, wardens.sender.as_str()), (Duration::from_secs(60), 7, "a@b.org"));
        assert_eq!((wardens.bounds.recipients, wardens.bounds.size), (3, 100));
        let (quick, _) = orders("/usr/sbin/sendmail a@b.org 7 3 100 1").expect("orders");
        assert_eq!(quick.send_time, Duration::from_secs(1));
        for line in ["/s a@b 7 3", "/s a@b 7 3 x", "/s a@b 7 3 1 1 1", "/s"] {
            assert!(orders(line).is_none(), "{line}");
        }
    }
}
