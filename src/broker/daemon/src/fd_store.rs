//! The store of descriptors of `--standalone`: what `bailiwickd` asks the supervisor to keep, and gets again at its restart. It
//! understands the same messages as the service manager (`FDSTORE=1`, `FDSTOREREMOVE=1`, `sd_notify(3)`).
//!
//! Danger: this is in a process that is root, and `bailiwickd` may be in an attacker's hands. Messages are bounded, only those of
//! its user count, and nothing is kept but listening Unix sockets, at most [`MAX_STORED`].

use bailiwick_control::MAX_STORED;
use bailiwick_sys::{process, socket};
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The socket for messages, below the runtime directory.
const SOCKET: &str = "bailiwickd.notify";
/// The longest message, in bytes.
const MAX_MESSAGE: usize = 1024;
/// The longest name of a descriptor. All names together must fit into one variable of an environment (128 KiB).
const MAX_NAME: usize = 6;
/// How many messages are read before anything else is done.
const AT_ONCE: usize = 256;

/// The descriptors that are kept, and the socket by which they come.
#[derive(Debug)]
pub(crate) struct FdStore {
    socket: UnixDatagram,
    path: PathBuf,
    /// The user whose messages count.
    user: u32,
    kept: BTreeMap<String, OwnedFd>,
}

impl FdStore {
    /// Makes the store, for messages of a user.
    pub(crate) fn new(runtime_dir: &Path, user: u32, group: u32) -> io::Result<Self> {
        let path = runtime_dir.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        sockopt::set_socket_passcred(&socket, true)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        std::os::unix::fs::chown(&path, Some(user), Some(group))?;
        Ok(Self { socket, path, user, kept: BTreeMap::new() })
    }

    /// Readable when messages wait.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads the messages that wait.
    pub(crate) fn hear(&mut self) {
        for _ in 0..AT_ONCE {
            let mut message = [0; MAX_MESSAGE];
            match socket::receive_from(&self.socket, &mut message, 1) {
                Ok((len, fds, Some(user))) if user == self.user => self.take(&message[..len], fds),
                // A message that is too long, has too many descriptors, or is of somebody else.
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {}
            }
        }
    }

    fn take(&mut self, message: &[u8], fds: Vec<OwnedFd>) {
        let Ok(text) = std::str::from_utf8(message) else { return };
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let Some(name) = value("FDNAME").filter(|name| is_name(name)) else { return };
        if value("FDSTOREREMOVE") == Some("1") {
            self.kept.remove(name);
        } else if value("FDSTORE") == Some("1")
            && let Some(fd) = fds.into_iter().next().filter(is_listener)
            && (self.kept.len() < usize::from(MAX_STORED) || self.kept.contains_key(name))
        {
            self.kept.insert(name.to_owned(), fd);
        }
    }

    /// Has a program get the descriptors, and send its messages here.
    pub(crate) fn hand_over(&mut self, command: &mut Command) -> io::Result<()> {
        // What the last process has sent must not be missing.
        for _ in 0..=usize::from(MAX_STORED) / AT_ONCE {
            self.hear();
        }
        command.env("NOTIFY_SOCKET", &self.path);
        if self.kept.is_empty() {
            return Ok(());
        }
        let fds: Vec<BorrowedFd<'_>> = self.kept.values().map(AsFd::as_fd).collect();
        process::inherit(command, &fds)?;
        let names: Vec<&str> = self.kept.keys().map(String::as_str).collect();
        command.env("LISTEN_FDS", fds.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        Ok(())
    }
}

impl Drop for FdStore {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn is_listener(fd: &OwnedFd) -> bool {
    matches!(sockopt::socket_domain(fd), Ok(AddressFamily::UNIX))
        && matches!(sockopt::socket_type(fd), Ok(SocketType::STREAM))
        && matches!(sockopt::socket_acceptconn(fd), Ok(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::Stdio;

    fn store() -> (tempfile::TempDir, FdStore, UnixDatagram) {
        let temp = tempfile::tempdir().expect("temporary directory");
        let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let store = FdStore::new(temp.path(), user, group).expect("makes");
        let client = UnixDatagram::unbound().expect("makes");
        client.connect(temp.path().join(SOCKET)).expect("connects");
        (temp, store, client)
    }

    fn names(store: &FdStore) -> Vec<&str> {
        store.kept.keys().map(String::as_str).collect()
    }

    #[test]
    fn only_listening_unix_sockets_of_the_daemon_are_kept() {
        let (temp, mut store, client) = store();
        let listener = UnixListener::bind(temp.path().join("l")).expect("binds");
        let (pair, _other) = UnixStream::pair().expect("pair");
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let file = std::fs::File::open("/dev/null").expect("opens");
        let long = format!("FDSTORE=1\nFDNAME=w1\n{}", "x".repeat(MAX_MESSAGE));
        let odd = format!("FDSTORE=1\nFDNAME={}", "w".repeat(MAX_NAME + 1));
        for (message, fds) in [
            ("FDSTORE=1\nFDNAME=w1", vec![pair.as_fd()]),
            ("FDSTORE=1\nFDNAME=w1", vec![tcp.as_fd()]),
            ("FDSTORE=1\nFDNAME=w1", vec![file.as_fd()]),
            ("FDSTORE=1\nFDNAME=w1", vec![]),
            ("FDSTORE=1\nFDNAME=w1", vec![listener.as_fd(), listener.as_fd()]),
            ("FDNAME=w1", vec![listener.as_fd()]),
            ("FDSTORE=1", vec![listener.as_fd()]),
            ("FDSTORE=1\nFDNAME=a:b", vec![listener.as_fd()]),
            ("FDSTORE=1\nFDNAME=", vec![listener.as_fd()]),
            (&odd, vec![listener.as_fd()]),
            (&long, vec![listener.as_fd()]),
            ("READY=1", vec![]),
        ] {
            socket::send(&client, message.as_bytes(), &fds).expect("sends");
            store.hear();
            assert!(store.kept.is_empty(), "{message:?}");
        }
        for message in ["FDSTORE=1\nFDNAME=w1\n", "FDSTORE=1\nFDNAME=w2\n"] {
            socket::send(&client, message.as_bytes(), &[listener.as_fd()]).expect("sends");
        }
        store.hear();
        assert_eq!(names(&store), ["w1", "w2"]);
        client.send(b"FDSTOREREMOVE=1\nFDNAME=w1\n").expect("sends");
        store.hear();
        assert_eq!(names(&store), ["w2"]);
        // Somebody else may have got hold of the socket.
        store.user += 1;
        client.send(b"FDSTOREREMOVE=1\nFDNAME=w2\n").expect("sends");
        store.hear();
        assert_eq!(names(&store), ["w2"]);
    }

    #[test]
    fn the_next_process_gets_what_the_last_one_sent() {
        let (temp, mut store, client) = store();
        let path = temp.path().join("l");
        let listener = UnixListener::bind(&path).expect("binds");
        socket::send(&client, b"FDSTORE=1\nFDNAME=w5\n", &[listener.as_fd()]).expect("sends");
        drop((listener, client));
        let mut command = Command::new("sh");
        command.args(["-c", "echo $LISTEN_FDS $LISTEN_FDNAMES; readlink /proc/self/fd/3"]);
        store.hand_over(&mut command).expect("hands over");
        let mut child = command.stdout(Stdio::piped()).spawn().expect("starts");
        let mut told = String::new();
        child.stdout.take().expect("a pipe").read_to_string(&mut told).expect("reads");
        assert!(child.wait().expect("ends").success());
        assert!(told.starts_with("1 w5\nsocket:["), "{told}");
        UnixStream::connect(&path).expect("is still held");
    }
}
