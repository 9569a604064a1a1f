//! The host's log of mail. Whoever reads it may be slow or gone: a line is written at once or not at all.

use crate::request::Refusal;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use syslog::{Facility, Formatter3164, LogFormat};

/// Where the host's log is.
const SOCKET: &str = "/dev/log";

/// The log. Refused messages are written once a second at most: a tenant can make thousands.
#[derive(Debug)]
pub(crate) struct Log {
    socket: PathBuf,
    last_refused: Option<Instant>,
    left_out: u64,
    /// Lines that could not be written.
    lost: u64,
}

impl Default for Log {
    fn default() -> Self {
        Self::new(SOCKET)
    }
}

impl Log {
    fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), last_refused: None, left_out: 0, lost: 0 }
    }

    /// Writes what became of a message. What cannot be written is counted, and the next line tells it.
    pub(crate) fn write(&mut self, sender: &str, recipients: usize, bytes: usize, result: &Result<(), Refusal>) {
        let outcome = match result {
            Ok(()) => "sent".to_owned(),
            Err(Refusal { status, why }) => {
                if self.last_refused.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
                    self.left_out += 1;
                    return;
                }
                self.last_refused = Some(Instant::now());
                let more = self.left_out;
                let others = if more > 0 { format!(" ({more} others were refused before)") } else { String::new() };
                format!("refused status={status}{others}: {}", why.escape_default())
            }
        };
        let lost =
            if self.lost > 0 { format!("({} lines before this one were lost) ", self.lost) } else { String::new() };
        match self.send(&format!("{lost}from={sender} recipients={recipients} bytes={bytes} {outcome}")) {
            Ok(()) => {
                self.lost = 0;
                self.left_out = if result.is_ok() { self.left_out } else { 0 };
            }
            Err(_) => self.lost += 1,
        }
    }

    fn send(&self, line: &str) -> io::Result<()> {
        let format = Formatter3164 {
            facility: Facility::LOG_MAIL,
            hostname: None,
            process: "bailiwick-mail".to_owned(),
            pid: std::process::id(),
        };
        let mut text = Vec::new();
        format.format(&mut text, syslog::Severity::LOG_INFO, line).map_err(io::Error::other)?;
        let address = SocketAddrUnix::new(&self.socket)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let connect = |kind| {
            let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
            rustix::net::connect(&socket, &address).map(|()| socket)
        };
        // Some servers of the log take streams, with a zero byte behind each line.
        let socket = match connect(SocketType::DGRAM) {
            Err(rustix::io::Errno::PROTOTYPE) => {
                text.push(0);
                connect(SocketType::STREAM)?
            }
            socket => socket?,
        };
        let sent = rustix::net::send(&socket, &text, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        if sent == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    #[test]
    fn a_log_that_nobody_reads_holds_nobody_and_hears_later_what_was_lost() {
        let temp = tempfile::tempdir().expect("a folder");
        let path = temp.path().join("log");
        let reader = UnixDatagram::bind(&path).expect("binds");
        reader.set_nonblocking(true).expect("sets");
        let mut log = Log::new(&path);
        // More than the queue of a socket takes (`net.unix.max_dgram_qlen`).
        let mut written = 0;
        while log.lost < 5 {
            log.write("alice@host.example", 1, 7, &Ok(()));
            written += 1;
        }
        let mut bytes = [0; 1000];
        let mut lines = 0;
        while let Ok(len) = reader.recv(&mut bytes) {
            lines += 1;
            let line = String::from_utf8_lossy(&bytes[..len]);
            assert!(line.ends_with(": from=alice@host.example recipients=1 bytes=7 sent"), "{line}");
        }
        assert_eq!(lines, written - 5);
        let mut next = || {
            log.write("alice@host.example", 1, 7, &Ok(()));
            let len = reader.recv(&mut bytes).expect("a line");
            String::from_utf8_lossy(&bytes[..len]).into_owned()
        };
        assert!(next().contains(": (5 lines before this one were lost) from=alice"));
        assert!(!next().contains("lost"), "it is told once");
    }

    #[test]
    fn a_log_that_takes_streams_gets_its_lines_and_one_that_is_full_holds_nobody() {
        let temp = tempfile::tempdir().expect("a folder");
        let path = temp.path().join("log");
        let listener = UnixListener::bind(&path).expect("binds");
        let mut log = Log::new(&path);
        log.write("a@b", 1, 7, &Ok(()));
        assert_eq!(log.lost, 0);
        let mut line = String::new();
        listener.accept().expect("accepts").0.read_to_string(&mut line).expect("reads");
        assert!(line.ends_with("from=a@b recipients=1 bytes=7 sent\0"), "{line}");
        // Its queue of connections ends somewhere.
        while log.lost < 2 {
            log.write("a@b", 1, 7, &Ok(()));
        }
    }

    #[test]
    fn a_host_without_a_log_is_no_error() {
        let temp = tempfile::tempdir().expect("a folder");
        let mut log = Log::new(temp.path().join("none"));
        log.write("a@b", 1, 7, &Err(Refusal::new(65, "x")));
        assert_eq!(log.lost, 1);
    }
}
