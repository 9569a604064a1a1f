//! The supervised programs of the tenant: their processes, their sockets, and the pipes that their output goes into.
//!
//! Danger: orders come from `bailiwickd`, and everything else from the tenant. Nothing here may wait for a program, for the log,
//! or for a file of the tenant; only children may.

use crate::command::{self, errno};
use crate::life::{Deed, Life, Rules};
use crate::log::{Log, Logged};
use bailiwick_proto::init::{MAX_ORDER_FDS, ServiceOrder};
use bailiwick_proto::{Bytes, InitReply};
use bailiwick_sys::signal::{self, SIGKILL};
use bailiwick_sys::{file, process, socket};
use bailiwick_types::{
    MAX_SERVICES, MAX_SOCKETS, Moment, Readiness, ServiceEnd, ServiceReport, ServiceVerb, StopSignal, UnitName,
};
use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::WaitStatus;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The most supervised programs: each service, and a relay for each of its sockets.
const MAX_UNITS: usize = MAX_SERVICES * (1 + MAX_SOCKETS);
/// The longest digest of an order, in bytes.
const MAX_DIGEST: usize = 64;
/// The longest path of a log, in bytes.
const MAX_LOG_PATH: usize = 256;
/// The time between two attempts to connect to a program that is not ready.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Where the sockets for `sd_notify(3)` are, inside.
const NOTIFY: &str = "/run/services";
/// The longest message to such a socket that is read.
const MAX_NOTICE: usize = 4096;
/// The most messages that are read of one program before the others' turn.
const MAX_NOTICES: usize = 16;
/// Above every number that a child's listening sockets get.
const HIGH: i32 = 16;
/// The first number of the listening sockets (`sd_listen_fds(3)`).
const FIRST_SOCKET: i32 = 3;

/// What a descriptor tells about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The child of this program has executed it, or says why not.
    Report(usize),
    /// The program has sent a notice.
    Notice(usize),
}

#[derive(Debug)]
struct Unit {
    order: ServiceOrder,
    listeners: Vec<OwnedFd>,
    groups: Vec<OwnedFd>,
    life: Life,
    pid: Option<u32>,
    /// The pipe on which the child says why it did not execute the program.
    report: Option<OwnedFd>,
    /// Why the child did not execute the program.
    not_started: Option<i32>,
    notify: Option<OwnedFd>,
    /// The pipe of its output: what the program writes into, and what the log reads. Init keeps both ends, so that it outlives the
    /// program and the log.
    output: (OwnedFd, OwnedFd),
    next_connect: Instant,
    /// What takes its place when it has ended; `None` within means that nothing does.
    successor: Option<Option<Box<Successor>>>,
}

#[derive(Debug)]
struct Successor {
    order: ServiceOrder,
    listeners: Vec<OwnedFd>,
    groups: Vec<OwnedFd>,
}

/// All supervised programs.
#[derive(Debug)]
pub(crate) struct Services {
    units: Vec<Unit>,
    log: Log,
    /// Set when the jail ends: nothing is started any more.
    ending: bool,
}

fn wall() -> Moment {
    Moment(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()))
}

impl Services {
    pub(crate) fn new() -> Self {
        Self { units: Vec::new(), log: Log::new(), ending: false }
    }

    /// Takes an order. Descriptors that are not what they must be refuse it whole.
    pub(crate) fn order(&mut self, order: ServiceOrder, fds: Vec<OwnedFd>) -> InitReply {
        let present = self.units.iter().position(|unit| unit.order.name == order.name);
        if self.ending || !is_sound(&order) || (present.is_none() && self.units.len() >= MAX_UNITS) {
            return InitReply::Refused;
        }
        let Some((listeners, groups)) = sorted(&order, fds) else { return InitReply::Refused };
        let successor = Successor { order, listeners, groups };
        match present {
            None => match Unit::new(successor) {
                Ok(unit) => self.units.push(unit),
                Err(_) => return InitReply::Refused,
            },
            Some(index) => {
                let unit = &mut self.units[index];
                if unit.order.digest == successor.order.digest {
                    // It may have been told to go, by an order that was taken back.
                    if unit.successor.take().is_some() {
                        unit.life.start(wall());
                    }
                } else {
                    unit.replace(Some(Box::new(successor)));
                }
            }
        }
        self.work();
        InitReply::Ordered
    }

    /// Stops and forgets every program that is not in the list.
    pub(crate) fn keep(&mut self, names: &[UnitName]) -> InitReply {
        for unit in self.units.iter_mut().filter(|unit| !names.contains(&unit.order.name)) {
            unit.replace(None);
        }
        self.work();
        InitReply::Ordered
    }

    pub(crate) fn verb(&mut self, name: &UnitName, verb: ServiceVerb) -> InitReply {
        let Some(unit) = self.units.iter_mut().find(|unit| unit.order.name == *name) else {
            return InitReply::NoSuchService;
        };
        let (rules, now) = (unit.rules(), Instant::now());
        let deed = match verb {
            ServiceVerb::Start => {
                unit.life.start(wall());
                Deed::Nothing
            }
            ServiceVerb::Stop => unit.life.stop(rules, now, wall()),
            ServiceVerb::Restart => unit.life.restart(rules, now, wall()),
        };
        unit.act(deed);
        self.work();
        InitReply::Ordered
    }

    pub(crate) fn report(&self) -> InitReply {
        let now = Instant::now();
        InitReply::Services(self.units.iter().map(|unit| unit.report(now)).collect())
    }

    /// Asks every program to end, and starts none any more.
    pub(crate) fn end(&mut self) {
        self.ending = true;
        for unit in &mut self.units {
            let deed = unit.life.stop(unit.rules(), Instant::now(), wall());
            unit.act(deed);
        }
    }

    /// How long the programs that run may take to end: the longest of their own times.
    pub(crate) fn time_to_end(&self) -> Duration {
        let running = self.units.iter().filter(|unit| unit.pid.is_some());
        running.map(|unit| unit.rules().stop_within).max().unwrap_or_default()
    }

    /// Whether no program runs.
    pub(crate) fn have_ended(&self) -> bool {
        self.units.iter().all(|unit| unit.pid.is_none())
    }

    /// The descriptors to wait for.
    pub(crate) fn watched(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>, PollFlags)> {
        self.units.iter().enumerate().flat_map(|(index, unit)| {
            let report = unit.report.as_ref().map(|fd| (Source::Report(index), fd.as_fd(), PollFlags::IN));
            // A program that is ready still sends its state. If nobody read that, it would block in a full queue.
            let notice = unit.notify.as_ref().map(|fd| (Source::Notice(index), fd.as_fd(), PollFlags::IN));
            report.into_iter().chain(notice)
        })
    }

    /// When [`Self::work`] has something to do without another event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let connects = |unit: &Unit| unit.connects().then_some(unit.next_connect);
        let lives =
            self.units.iter().filter_map(|unit| unit.life.deadline().filter(|_| !self.ending || unit.pid.is_some()));
        lives.chain(self.units.iter().filter_map(connects)).chain(self.log.deadline()).min()
    }

    /// A descriptor of [`Self::watched`] can be read.
    pub(crate) fn heard(&mut self, source: Source) {
        match source {
            Source::Report(index) => self.units[index].hear_report(),
            Source::Notice(index) => self.units[index].hear_notice(),
        }
    }

    /// A child has ended. Returns whether it was one of these.
    pub(crate) fn ended(&mut self, pid: u32, status: WaitStatus) -> bool {
        if self.log.ended(pid) {
            return true;
        }
        let Some(unit) = self.units.iter_mut().find(|unit| unit.pid == Some(pid)) else { return false };
        unit.hear_report();
        unit.ended(status);
        true
    }

    /// Does what is due.
    pub(crate) fn work(&mut self) {
        self.units.retain_mut(|unit| {
            if unit.pid.is_some() || unit.successor.is_none() {
                return true;
            }
            unit.succeed()
        });
        let now = Instant::now();
        loop {
            let mut has_started = false;
            for index in 0..self.units.len() {
                let after = &self.units[index].order.after;
                let is_ready =
                    |name: &UnitName| self.units.iter().any(|unit| unit.order.name == *name && unit.life.is_ready());
                let may_start = !self.ending && after.iter().all(is_ready);
                let unit = &mut self.units[index];
                if unit.connects() && now >= unit.next_connect {
                    unit.next_connect = now + CONNECT_PAUSE;
                    if unit.order.connect.is_some_and(is_listening) {
                        unit.life.ready(wall());
                        has_started = true;
                    }
                }
                match unit.life.due(now, wall(), may_start) {
                    Deed::Start => {
                        unit.start(now);
                        has_started = true;
                    }
                    deed => unit.act(deed),
                }
            }
            // What has become ready may be what another waits for.
            if !has_started {
                break;
            }
        }
        // Until the last one has ended, the end of the jail is logged too.
        if self.units.is_empty() || (self.ending && self.have_ended()) {
            self.log.finish();
            return;
        }
        let logged = self.units.iter().map(|unit| Logged {
            name: unit.order.name.to_string(),
            path: &unit.order.log,
            size: unit.order.log_size,
            keep: unit.order.log_keep,
            pipe: unit.output.0.as_fd(),
        });
        self.log.serve(logged, now);
    }
}

/// Whether an order can be followed.
fn is_sound(order: &ServiceOrder) -> bool {
    let ServiceOrder { digest, argv, sockets, ready, connect, log, .. } = order;
    digest.len() <= MAX_DIGEST
        && argv.first().is_some_and(|program| program.as_bytes().starts_with(b"/"))
        && *sockets <= MAX_SOCKETS
        && (*ready == Readiness::Connect) == connect.is_some()
        && log.starts_with('/')
        && log.len() <= MAX_LOG_PATH
}

/// The listening sockets and the files of control groups; `None` if a descriptor is anything else.
fn sorted(order: &ServiceOrder, mut fds: Vec<OwnedFd>) -> Option<(Vec<OwnedFd>, Vec<OwnedFd>)> {
    if fds.len() < order.sockets || fds.len() > MAX_ORDER_FDS {
        return None;
    }
    let groups = fds.split_off(order.sockets);
    let are_sound = fds.iter().all(is_unix_listener) && groups.iter().all(is_file_of_a_group);
    are_sound.then_some((fds, groups))
}

/// Whether a descriptor is a listening Unix socket of connections. No other socket may come into a jail: one of the host's network
/// would lead out of it.
fn is_unix_listener(fd: &OwnedFd) -> bool {
    rustix::net::sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX)
        && rustix::net::sockopt::socket_type(fd) == Ok(SocketType::STREAM)
        && rustix::net::sockopt::socket_acceptconn(fd) == Ok(true)
}

/// Whether a descriptor is a file of a control group, open for writing alone.
fn is_file_of_a_group(fd: &OwnedFd) -> bool {
    /// `CGROUP_SUPER_MAGIC` and `CGROUP2_SUPER_MAGIC` of `linux/magic.h`.
    const MAGIC: [i64; 2] = [0x0027_e0eb, 0x6367_7270];
    let is_of_groups = rustix::fs::fstatfs(fd).is_ok_and(|stat| MAGIC.contains(&stat.f_type));
    let is_regular = file::metadata(fd).is_ok_and(|found| found.kind == rustix::fs::FileType::RegularFile);
    let is_write_only = rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::WRONLY);
    is_of_groups && is_regular && is_write_only
}

/// Whether somebody listens at an address inside. It does not wait: a connection over the loopback is there at once, or not.
fn is_listening(address: SocketAddr) -> bool {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let Ok(socket) = rustix::net::socket_with(family, SocketType::STREAM, flags, None) else { return false };
    match rustix::net::connect(&socket, &address) {
        // The first call always says that the connection is being made (connect(2)); the second says how that ended.
        Err(rustix::io::Errno::INPROGRESS) => rustix::net::connect(&socket, &address).is_ok(),
        result => result.is_ok(),
    }
}

impl Unit {
    fn new(successor: Successor) -> io::Result<Self> {
        let Successor { order, listeners, groups } = successor;
        let output = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        // The program's user may open the pipe anew and take out what was printed. Then the log must not wait in a read.
        rustix::io::ioctl_fionbio(&output.0, true)?;
        Ok(Self {
            order,
            listeners,
            groups,
            life: Life::new(wall()),
            pid: None,
            report: None,
            not_started: None,
            notify: None,
            output,
            next_connect: Instant::now(),
            successor: None,
        })
    }

    fn rules(&self) -> Rules {
        let ServiceOrder { restart, ready, stop_within, .. } = self.order;
        Rules { restart, ready, stop_within: Duration::from_millis(stop_within) }
    }

    fn connects(&self) -> bool {
        self.life.is_starting() && self.order.connect.is_some() && self.report.is_none()
    }

    /// Ends it. What takes its place comes when it has ended.
    fn replace(&mut self, successor: Option<Box<Successor>>) {
        self.successor = Some(successor);
        if self.pid.is_some() {
            let deed = self.life.restart(self.rules(), Instant::now(), wall());
            self.act(deed);
        }
    }

    /// Lets the successor take its place. Returns `false` when there is none.
    fn succeed(&mut self) -> bool {
        match self.successor.take() {
            Some(Some(successor)) => {
                let Successor { order, listeners, groups } = *successor;
                // One that somebody has stopped stays so.
                let was_stopped = self.life.is_stopped();
                (self.order, self.listeners, self.groups) = (order, listeners, groups);
                self.life = Life::new(wall());
                if was_stopped {
                    self.life.stop(self.rules(), Instant::now(), wall());
                }
                true
            }
            Some(None) => false,
            None => true,
        }
    }

    fn act(&mut self, deed: Deed) {
        let Some(pid) = self.pid else { return };
        match deed {
            Deed::Nothing | Deed::Start => {}
            Deed::Stop => {
                drop(signal_main(pid, self.order.stop_signal));
                // A stopped process does not see a signal.
                drop(signal::send_to_group(pid, signal::SIGCONT));
            }
            Deed::Kill => drop(signal::send_to_group(pid, SIGKILL)),
        }
    }

    fn start(&mut self, now: Instant) {
        self.not_started = None;
        match self.spawn() {
            Ok((pid, report)) => {
                (self.pid, self.report) = (Some(pid), Some(report));
                self.life.started(now, wall());
            }
            Err(error) => {
                self.life.started(now, wall());
                self.life.ended(ServiceEnd::NotStarted(errno(&error)), self.rules(), now, wall());
            }
        }
    }

    /// Makes the child. Returns its process and the pipe on which it says why it did not execute the program.
    fn spawn(&mut self) -> io::Result<(u32, OwnedFd)> {
        if self.order.ready == Readiness::Notify {
            self.notify = Some(notify_socket(&self.order)?);
        }
        // Many programs open their log as /dev/stderr, which a pipe of root refuses to anybody else.
        let (user, group) = owner(&self.order);
        rustix::fs::fchown(&self.output.1, Some(user), Some(group))?;
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&read, true)?;
        match process::fork()? {
            None => {
                // A listening socket may be placed over the pipe's own number.
                let report = rustix::io::fcntl_dupfd_cloexec(&write, HIGH);
                let error = self.become_program();
                if let Ok(report) = report {
                    rustix::io::write(report, &errno(&error).to_le_bytes()).ok();
                }
                process::exit_now(127)
            }
            Some(pid) => Ok((pid, read)),
        }
    }

    /// Turns the child into the program. Returns only an error.
    fn become_program(&self) -> io::Error {
        match self.prepare() {
            Ok(env) => {
                let error = command::execute(&self.order.argv, None, &env);
                if let Some(program) = self.order.argv.first() {
                    self.say(&format!("cannot execute {:?}: {error}", String::from_utf8_lossy(program.as_bytes())));
                }
                error
            }
            Err(error) => error,
        }
    }

    /// Writes why the program does not start into the log of the service.
    fn say(&self, why: &str) {
        rustix::io::write(&self.output.1, format!("bailiwick: {why}\n").as_bytes()).ok();
    }

    fn prepare(&self) -> io::Result<Vec<(Bytes, Bytes)>> {
        let ServiceOrder { user, directory, env, ready, .. } = &self.order;
        command::begin()?;
        // Write-only files, and writing 0 moves the writer alone.
        for group in &self.groups {
            rustix::io::write(group, b"0")?;
        }
        let nothing = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        process::place(&nothing, 0)?;
        process::place(&self.output.1, 1)?;
        process::place(&self.output.1, 2)?;
        process::close_on_exec_from(3)?;
        command::set_oom_score()?;
        command::become_user(user)?;
        if let Some(directory) = directory {
            rustix::process::chdir(directory.as_bytes()).inspect_err(|error| {
                let directory = String::from_utf8_lossy(directory.as_bytes()).into_owned();
                self.say(&format!("cannot enter the directory {directory:?}: {error}"));
            })?;
        }
        let mut env = env.clone();
        let mut add = |name: &str, value: String| -> io::Result<()> {
            env.push((Bytes::new(name).map_err(io::Error::other)?, Bytes::new(value).map_err(io::Error::other)?));
            Ok(())
        };
        if !self.listeners.is_empty() {
            add("LISTEN_PID", std::process::id().to_string())?;
        }
        if *ready == Readiness::Notify {
            add("NOTIFY_SOCKET", notify_path(&self.order.name))?;
        }
        self.place_listeners()?;
        Ok(env)
    }

    /// Puts the listening sockets from number 3 on. They go through high numbers, because one of them may have a number that
    /// another one must get.
    fn place_listeners(&self) -> io::Result<()> {
        let high = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, HIGH);
        let listeners = self.listeners.iter().map(high).collect::<Result<Vec<_>, _>>()?;
        for (number, listener) in (FIRST_SOCKET..).zip(&listeners) {
            process::place(listener, number)?;
        }
        // These duplicates go with the execution of the program.
        std::mem::forget(listeners);
        Ok(())
    }

    fn hear_report(&mut self) {
        let Some(report) = &self.report else { return };
        let mut number = [0; 4];
        match rustix::io::retry_on_intr(|| rustix::io::read(report, &mut number)) {
            Ok(4) => self.not_started = Some(i32::from_le_bytes(number)),
            // exec(2) has closed the pipe: the program runs.
            Ok(_) => self.life.executed(self.rules(), wall()),
            Err(rustix::io::Errno::AGAIN) => return,
            Err(_) => {}
        }
        self.report = None;
        self.next_connect = Instant::now();
    }

    fn hear_notice(&mut self) {
        let Some(notify) = &self.notify else { return };
        let mut notice = [0; MAX_NOTICE];
        for _ in 0..MAX_NOTICES {
            match socket::receive(notify, &mut notice, 0) {
                Ok((len, _)) if says_ready(&notice[..len]) => self.life.ready(wall()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // One that is too long is as good as none.
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn ended(&mut self, status: WaitStatus) {
        if let Some(pid) = self.pid.take() {
            // What it has started and left in its group goes with it.
            drop(signal::send_to_group(pid, SIGKILL));
        }
        (self.report, self.notify) = (None, None);
        let small = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
        let end = match (self.not_started.take(), status.exit_status(), status.terminating_signal()) {
            (Some(errno), ..) => ServiceEnd::NotStarted(errno),
            (None, Some(code), _) => ServiceEnd::Exited(small(code)),
            (None, None, Some(signal)) => ServiceEnd::Killed(small(signal)),
            (None, None, None) => ServiceEnd::Exited(u8::MAX),
        };
        self.life.ended(end, self.rules(), Instant::now(), wall());
    }

    fn report(&self, now: Instant) -> ServiceReport {
        ServiceReport {
            name: self.order.name.clone(),
            digest: self.order.digest.clone(),
            state: self.life.state(),
            pid: self.pid,
            since: self.life.since(),
            restarts: self.life.restarts(),
            last_end: self.life.last_end(),
            again: self.life.again(now, wall()),
        }
    }
}

/// Whether a message of `sd_notify(3)` says that its program is ready.
fn says_ready(notice: &[u8]) -> bool {
    notice.split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
}

/// Sends the main process its stop signal. It is not reaped, so its number is its own.
fn signal_main(pid: u32, signal: StopSignal) -> io::Result<()> {
    use rustix::process::Signal;
    let signal = match signal {
        StopSignal::Term => Signal::TERM,
        StopSignal::Quit => Signal::QUIT,
        StopSignal::Int => Signal::INT,
        StopSignal::Hup => Signal::HUP,
        StopSignal::Usr1 => Signal::USR1,
        StopSignal::Usr2 => Signal::USR2,
        StopSignal::Winch => Signal::WINCH,
        StopSignal::Kill => Signal::KILL,
    };
    process::signal(process::open(pid)?, signal)
}

/// The user and group of a program.
fn owner(order: &ServiceOrder) -> (rustix::fs::Uid, rustix::fs::Gid) {
    (rustix::fs::Uid::from_raw(order.user.uid), rustix::fs::Gid::from_raw(order.user.gid))
}

fn notify_path(name: &UnitName) -> String {
    format!("{NOTIFY}/{name}.notify")
}

/// A socket for `sd_notify(3)` that only the program's user can send to. Its path says which program sends.
fn notify_socket(order: &ServiceOrder) -> io::Result<OwnedFd> {
    match rustix::fs::mkdir(NOTIFY, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let path = notify_path(&order.name);
    match rustix::fs::unlink(&path) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path.as_str())?)?;
    rustix::fs::chmod(&path, Mode::from_raw_mode(0o600))?;
    let (user, group) = owner(order);
    rustix::fs::chown(&path, Some(user), Some(group))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_address_is_ready_when_somebody_listens_there() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("an address");
        assert!(is_listening(address));
        drop(listener);
        assert!(!is_listening(address));
    }

    #[test]
    fn only_one_line_of_a_notice_counts() {
        for notice in ["READY=1", "READY=1\n", "STATUS=up\nREADY=1\nMAINPID=1"] {
            assert!(says_ready(notice.as_bytes()), "{notice}");
        }
        for notice in ["", "READY=0", "READY=10", " READY=1", "STOPPING=1", "STATUS=READY=1"] {
            assert!(!says_ready(notice.as_bytes()), "{notice}");
        }
    }

    #[test]
    fn only_listening_unix_sockets_and_files_of_groups_come_in() {
        use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
        let temp = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| temp.path().join(name);
        let listener: OwnedFd = UnixListener::bind(at("listener")).expect("binds").into();
        assert!(is_unix_listener(&listener));
        let netlink = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None);
        let others: [OwnedFd; 7] = [
            TcpListener::bind("127.0.0.1:0").expect("binds").into(),
            std::net::UdpSocket::bind("127.0.0.1:0").expect("binds").into(),
            UnixStream::pair().expect("a pair").0.into(),
            UnixDatagram::bind(at("datagram")).expect("binds").into(),
            std::fs::File::open("/").expect("opens").into(),
            std::fs::File::create(at("file")).expect("makes").into(),
            netlink.expect("a socket"),
        ];
        for other in &others {
            assert!(!is_unix_listener(other) && !is_file_of_a_group(other), "{other:?}");
        }
        assert!(!is_file_of_a_group(&listener));
    }
}
