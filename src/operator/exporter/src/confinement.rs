//! The walls around this program. It puts them up itself, so that they stand without systemd too.
//!
//! Danger: a thread has what its parent had. Landlock is entered before any thread starts. Each thread loads the filter of system
//! calls itself, once it has what it needs.

use bailiwick_plan::landlock::{Domain, scope};
use bailiwick_plan::seccomp;
use bailiwick_sys::landlock::{self, Tcp};
use bailiwick_sys::{credential, seccomp as kernel};
use std::io;

/// The first Landlock ABI with rights for TCP, and the first with scopes (`landlock(7)`).
const TCP_ABI: u32 = 4;
const SCOPE_ABI: u32 = 6;

/// Gives up every file, every port and every signal. Connecting to a Unix socket by its path needs none of these rights.
pub(crate) fn before_threads() -> io::Result<()> {
    credential::set_undumpable()?;
    credential::set_no_new_privs()?;
    let abi = landlock::abi();
    let handled = Domain::of_router(abi).unwrap_or(0);
    let scoped = if abi >= SCOPE_ABI { scope::ABSTRACT_UNIX_SOCKET | scope::SIGNAL } else { 0 };
    // An empty range: no port may be bound.
    #[expect(clippy::reversed_empty_ranges, reason = "no port")]
    let none = Tcp { never_connects: true, ports: Some(1..=0) };
    landlock::restrict_with(handled, scoped, Vec::new(), if abi >= TCP_ABI { none } else { Tcp::default() })?;
    Ok(())
}

/// Leaves this thread the calls of a program that serves open sockets and connects to a Unix socket.
pub(crate) fn of_thread() -> io::Result<()> {
    let filter: Vec<_> =
        seccomp::filter_of_exporter().iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect();
    kernel::load(&filter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    /// Set when this test runs again in a process of its own, which confines itself.
    const INSIDE: &str = "BAILIWICK_TEST_CONFINED";

    #[test]
    fn no_file_no_port_and_no_signal_is_left() {
        if let Some(socket) = std::env::var_os(INSIDE) {
            confined(std::path::Path::new(&socket));
            return;
        }
        let temp = tempfile::tempdir().expect("temporary directory");
        let socket = temp.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("binds");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        let name = "confinement::tests::no_file_no_port_and_no_signal_is_left";
        let output = command.args(["--exact", name]).env(INSIDE, &socket).output().expect("runs");
        let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    /// What is left in a process that is confined. An assertion that fails ends it with another status.
    fn confined(socket: &std::path::Path) {
        let parent = rustix::process::getppid().expect("a parent");
        let other = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = other.local_addr().expect("an address");
        before_threads().expect("confines");
        let denied =
            |result: io::Result<()>| assert_eq!(result.expect_err("denied").kind(), ErrorKind::PermissionDenied);
        let abi = landlock::abi();
        if abi > 0 {
            denied(std::fs::File::open("/etc/passwd").map(drop));
            denied(std::fs::read_dir("/").map(drop));
            denied(std::fs::write(socket.with_file_name("new"), ""));
        }
        if abi >= TCP_ABI {
            denied(std::net::TcpStream::connect(address).map(drop));
            denied(std::net::TcpListener::bind("127.0.0.1:0").map(drop));
        }
        if abi >= SCOPE_ABI {
            denied(rustix::process::test_kill_process(parent).map_err(io::Error::from));
        }
        // What it needs: a connection to a Unix socket, also in a thread, and memory.
        let path = socket.to_owned();
        let thread = std::thread::spawn(move || {
            of_thread().expect("confines");
            UnixStream::connect(path).expect("connects");
            let denied =
                |result: io::Result<()>| assert_eq!(result.expect_err("denied").kind(), ErrorKind::PermissionDenied);
            denied(std::fs::File::open("/dev/null").map(drop));
            denied(std::net::UdpSocket::bind("127.0.0.1:0").map(drop));
            denied(UnixStream::pair().map(drop));
            assert_eq!((0..100).map(|size| vec![1_u8; size << 16].len()).sum::<usize>(), 4950 << 16);
        });
        thread.join().expect("ends");
    }
}
