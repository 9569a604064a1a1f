//! A network namespace, in which a test does things with all rights.

use super::frame::Frame;
use bailiwick_sys::namespace::{self, Kind};
use rustix::fs::{Mode, OFlags};
use rustix::thread::CpuSet;
use std::fs::OpenOptions;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// A network namespace.
#[derive(Debug)]
pub struct Space {
    namespace: OwnedFd,
    /// Ends when its input does, also when the test is killed.
    holder: Option<Child>,
}

impl Space {
    /// A new network namespace, with a mount namespace.
    ///
    /// # Panics
    /// When there is no `unshare`.
    #[must_use]
    pub fn new() -> Self {
        let holder = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "--", "sh", "-c", "echo && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut holder = holder.expect("unshare runs");
        let out = holder.stdout.as_mut().expect("a pipe");
        std::io::Read::read_exact(out, &mut [0]).expect("the namespaces are there");
        let namespace = namespace::open(holder.id(), "net").expect("a namespace");
        Self { namespace, holder: Some(holder) }
    }

    /// That of a process.
    ///
    /// # Panics
    /// When the process has ended.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        Self { namespace: namespace::open(pid, "net").expect("the process runs"), holder: None }
    }

    /// That of a file.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let namespace = namespace.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { namespace, holder: None }
    }

    /// The descriptor.
    #[must_use]
    pub fn fd(&self) -> &OwnedFd {
        &self.namespace
    }

    /// The process that holds it.
    ///
    /// # Panics
    /// When another one does.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.holder.as_ref().expect("held here").id()
    }

    /// Does something in the namespace, in a thread of its own. Sockets that it opens stay in the namespace.
    ///
    /// # Panics
    /// When the work does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                namespace::enter(&self.namespace, Kind::Network).expect("enters");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a shell line in the namespace.
    ///
    /// # Panics
    /// When there is no shell.
    #[must_use]
    pub fn sh(&self, line: &str) -> Output {
        self.sh_with(line, &[])
    }

    fn sh_with(&self, line: &str, arguments: &[&str]) -> Output {
        self.run(|| {
            let mut command = Command::new("sh");
            command.args(["-c", line, "sh"]).args(arguments).stdin(Stdio::null()).output().expect("sh runs")
        })
    }

    /// Runs a shell line in the namespace, which must succeed. Returns its output.
    ///
    /// # Panics
    /// When it fails.
    pub fn ok(&self, line: &str) -> String {
        self.ok_with(line, &[])
    }

    /// The same with arguments of the shell, `$1` and so on.
    ///
    /// # Panics
    /// When it fails.
    pub fn ok_with(&self, line: &str, arguments: &[&str]) -> String {
        let output = self.sh_with(line, arguments);
        assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a program in the namespace. It ends with what is returned, and with this process.
    ///
    /// # Panics
    /// When there is no such program.
    #[must_use]
    pub fn start(&self, program: &[&str], log: &Path) -> Program {
        let log = OpenOptions::new().create(true).append(true).open(log).expect("a log file");
        // A thread that starts a program must not be its parent for longer than it lives, so none of the kernel's ways to end with a
        // parent fits. The shell ends with its input.
        let child = self.run(|| {
            Command::new("sh")
                .args(["-c", "\"$@\" & cat; kill $!; wait", "sh"])
                .args(program)
                .stdin(Stdio::piped())
                .stdout(log.try_clone().expect("dup"))
                .stderr(log)
                .spawn()
        });
        Program { child: child.expect("sh runs") }
    }

    /// The addresses of `eth0`.
    ///
    /// # Panics
    /// When it lacks one.
    #[must_use]
    pub fn addresses(&self) -> (Ipv4Addr, Ipv6Addr) {
        let text = self.ok("ip -o addr show dev eth0");
        let addresses = text.lines().filter_map(|line| line.split_whitespace().nth(3));
        let addresses: Vec<IpAddr> =
            addresses.map(|text| text.split('/').next().unwrap_or_default().parse().expect("an address")).collect();
        let v4 = addresses.iter().find_map(|address| if let IpAddr::V4(v4) = address { Some(*v4) } else { None });
        let v6 = addresses.iter().find_map(|address| if let IpAddr::V6(v6) = address { Some(*v6) } else { None });
        v4.zip(v6).unwrap_or_else(|| panic!("{text}"))
    }

    /// Sends frames over an interface, as they are.
    pub fn send_frames(&self, interface: &str, frames: &[Frame]) {
        self.send_frames_on(processors()[0], interface, frames);
    }

    /// Sends frames from a processor.
    pub(super) fn send_frames_on(&self, processor: usize, interface: &str, frames: &[Frame]) {
        let hex: Vec<String> = frames.iter().map(Frame::hex).collect();
        // AF_PACKET, SOCK_RAW; a `struct sockaddr_ll` has the number of the interface (packet(7)).
        let line = "exec perl -MSocket -e '
            my $name = shift; open(my $file, \"<\", \"/proc/thread-self/net/dev_snmp6/$name\") or die \"no $name: $!\";
            my ($index) = <$file> =~ /(\\d+)/; socket(my $socket, 17, 3, 0) or die \"socket: $!\";
            for (@ARGV) { send($socket, pack(\"H*\", $_), 0, pack(\"SnlSCCx8\", 17, 3, $index, 0, 0, 6)) or die \"send: $!\" }' \"$@\"";
        let output = self.run(|| {
            stay_on(processor);
            Command::new("sh").args(["-c", line, "sh", interface]).args(&hex).stdin(Stdio::null()).output()
        });
        let output = output.expect("sh runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Sends a datagram. It may be refused, at once or on its way.
    ///
    /// # Panics
    /// When the namespace has no such family.
    pub fn send(&self, to: SocketAddr, text: &str) {
        self.run(|| send_here(to, text));
    }

    /// Sends a datagram with a mark from each processor.
    pub(super) fn send_marks(&self, to: SocketAddr, mark: &str) {
        for processor in processors() {
            self.run(|| {
                stay_on(processor);
                send_here(to, mark);
            });
        }
    }
}

/// A program in a namespace.
#[derive(Debug)]
pub struct Program {
    child: Child,
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().ok();
    }
}

fn send_here(to: SocketAddr, text: &str) {
    let local: SocketAddr =
        if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(local).expect("binds");
    socket.send_to(text.as_bytes(), to).ok();
}

impl Default for Space {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if let Some(mut holder) = self.holder.take() {
            holder.kill().ok();
            holder.wait().ok();
        }
    }
}

/// The processors that this process may use.
pub(super) fn processors() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None).expect("a set of processors");
    (0..CpuSet::MAX_CPU).filter(|processor| set.is_set(*processor)).collect()
}

/// Binds this thread to a processor.
fn stay_on(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    rustix::thread::sched_setaffinity(None, &set).expect("a processor of this machine");
}
