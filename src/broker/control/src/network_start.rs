//! Asks for the network once somebody needs it, and waits until it serves.
//!
//! Nothing makes the router while nobody has a network. So the first tenant that gets one finds no `bailiwick-net`. This program may
//! start none itself: it leaves a file, and `bailiwick-uplink.path` starts the network when the file is written. `--standalone` looks
//! at the policy by itself.
//!
//! Danger: nothing waits for long on a host that cannot make networks. Only operators wait, once for each request.

use crate::sync::lock;
use bailiwick_proto::{NET_SOCKET, NET_WANTED, time_limits};
use bailiwick_sys::socket;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tracing::warn;

/// The time after which it is asked for again.
const AGAIN: Duration = Duration::from_secs(60);

/// Starts the network when it is needed.
#[derive(Debug)]
pub(crate) struct NetworkStart {
    socket: PathBuf,
    wanted: PathBuf,
    /// When it was asked for last.
    asked: Mutex<Option<Instant>>,
}

impl NetworkStart {
    pub(crate) fn new(runtime_dir: &Path) -> Self {
        let (socket, wanted) = (runtime_dir.join(NET_SOCKET), runtime_dir.join(NET_WANTED));
        Self { socket, wanted, asked: Mutex::default() }
    }

    /// Asks for it, unless it serves or was asked for a moment ago.
    pub(crate) fn ask(&self) {
        if self.serves() {
            return;
        }
        let mut asked = lock(&self.asked);
        if asked.is_none_or(|at| at.elapsed() >= AGAIN) {
            *asked = Some(Instant::now());
            // Closing a file that was open for writing is what systemd notices.
            if let Err(error) = std::fs::write(&self.wanted, "") {
                warn!(event = "network-not-asked-for", "cannot write \"{}\": {error}", self.wanted.display());
            }
        }
    }

    /// Asks for it, whatever was asked for before, and waits a moment until it serves. If it does not, the start of a jail says why.
    pub(crate) async fn wait(&self) {
        *lock(&self.asked) = None;
        self.ask();
        let deadline = Instant::now() + time_limits::NET_START;
        while !self.serves() && Instant::now() < deadline {
            tokio::time::sleep(time_limits::RETRY).await;
        }
    }

    fn serves(&self) -> bool {
        socket::connect_at_once(&self.socket).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn start() -> (tempfile::TempDir, NetworkStart) {
        let temp = tempfile::tempdir().expect("a temporary directory");
        for folder in ["control", "network"] {
            std::fs::create_dir(temp.path().join(folder)).expect("makes");
        }
        let start = NetworkStart::new(temp.path());
        (temp, start)
    }

    #[tokio::test]
    async fn it_is_asked_for_once_and_waited_for_until_it_serves() {
        let (temp, start) = start();
        let wanted = temp.path().join("control/network.wanted");
        start.ask();
        std::fs::remove_file(&wanted).expect("it was asked for");
        start.ask();
        assert!(!wanted.exists(), "it was asked for a moment ago");
        let socket = temp.path().join(NET_SOCKET);
        let serving = tokio::task::spawn_blocking(move || {
            while !wanted.exists() {
                std::thread::yield_now();
            }
            UnixListener::bind(socket).expect("binds")
        });
        start.wait().await;
        assert!(start.serves(), "it waits until somebody listens");
        std::fs::remove_file(temp.path().join("control/network.wanted")).expect("an operator asks again");
        start.wait().await;
        assert!(!temp.path().join("control/network.wanted").exists(), "it serves");
        drop(serving.await.expect("ends"));
    }
}
