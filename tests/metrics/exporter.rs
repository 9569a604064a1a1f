//! `bailiwick-exporter` as the service manager starts it, and a client of it.

use crate::{OBSERVER, for_others};
use bailiwick_tests::{Host, until};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The exporter, until this is dropped.
#[derive(Debug)]
pub(crate) struct Exporter {
    child: Child,
    /// The address that it listens on.
    pub(crate) address: SocketAddr,
    socket: PathBuf,
    log: PathBuf,
}

/// The answer to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The number in its first line.
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{self:?}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("text")
    }

    /// Reads an answer up to its end.
    pub(crate) fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut all = Vec::new();
        from.read_to_end(&mut all)?;
        let end = all.windows(4).position(|window| window == b"\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Self { head: String::from_utf8_lossy(&all[..end]).into_owned(), body: all.split_off(end + 4) })
    }
}

impl Exporter {
    /// Starts it with a socket of each family, and waits for its first answer.
    pub(crate) fn start(host: &Host) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("binds");
        let socket = host.path("metrics.sock");
        let unix = UnixListener::bind(&socket).expect("binds");
        let log = host.path("exporter.log");
        let mut command = Command::new("sh");
        let uid = OBSERVER.to_string();
        command.args(["-c", "export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$@\"", "sh"]);
        command.args(["setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups", "--"]);
        command.arg(for_others(host, "bailiwick-exporter")).arg("--config").arg(host.path("etc"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log).expect("a log"));
        bailiwick_sys::process::inherit(&mut command, &[tcp.as_fd(), unix.as_fd()]).expect("inherits");
        let child = command.spawn().expect("runs");
        let exporter = Self { child, address: tcp.local_addr().expect("an address"), socket, log };
        // Its own copies must be the only ones, so that nobody waits in a queue that nobody serves.
        drop((tcp, unix));
        until("it answers", || exporter.try_metrics("").is_ok());
        exporter
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A connection to its port. A read of more than a minute fails.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("sets");
        stream
    }

    /// A connection to its path.
    pub(crate) fn connect_unix(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("sets");
        stream
    }

    /// Sends bytes over a new connection, and reads the answer.
    pub(crate) fn say(&self, bytes: &[u8]) -> io::Result<Answer> {
        let mut stream = self.connect();
        // It may answer and close before it has read everything.
        stream.write_all(bytes).ok();
        Answer::read(&mut stream)
    }

    fn try_metrics(&self, headers: &str) -> io::Result<Answer> {
        self.say(request(headers).as_bytes())
    }

    /// The metrics, asked for with these lines in the head.
    pub(crate) fn metrics(&self, headers: &str) -> Answer {
        let answer = self.try_metrics(headers).unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
        assert_eq!(answer.status(), 200, "{answer:?}");
        answer
    }

    /// Asks it to end, and returns its exit status.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("kill");
        self.child.wait().expect("wait").code()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A request for the metrics, with these lines in its head.
pub(crate) fn request(headers: &str) -> String {
    format!("GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n")
}

/// The value of a series in a text; `None` when it is not there.
pub(crate) fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(line.parse().unwrap_or_else(|error| panic!("{series} {line}: {error}")))
}

/// Runs `promtool check metrics` on a text.
pub(crate) fn check(text: &str, folder: &Path) {
    let file = folder.join("checked.prom");
    std::fs::write(&file, text).expect("writes");
    let output = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::fs::File::open(&file).expect("opens"))
        .output()
        .expect("promtool runs: see tests/deps");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}\n{text}", String::from_utf8_lossy(&said));
}
