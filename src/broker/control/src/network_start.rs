//! Asks for the network once somebody needs it, and waits until it serves.
//!
//! Nothing makes the router while nobody has a network. So the first tenant that gets one finds no `bailiwick-net`. This program may
//! start none itself: it leaves a file, and `bailiwick-uplink.path` starts the network when the file is written. `--standalone` looks
//! at the policy by itself.
//!
//! Danger: nothing waits for long on a host that cannot make networks. Only operators wait, once for each request.

use crate::sync::lock;
use bailiwick_proto::{NET_ERROR, NET_SOCKET, NET_WANTED, time_limits};
use bailiwick_sys::socket;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};
use tracing::warn;

/// The time after which it is asked for again.
const AGAIN: Duration = Duration::from_secs(60);

/// Starts the network when it is needed.
#[derive(Debug)]
pub(crate) struct NetworkStart {
    socket: PathBuf,
    wanted: PathBuf,
    error: PathBuf,
    /// When it was asked for last.
    asked: Mutex<Option<Instant>>,
}

impl NetworkStart {
    pub(crate) fn new(runtime_dir: &Path) -> Self {
        let [socket, wanted, error] = [NET_SOCKET, NET_WANTED, NET_ERROR].map(|name| runtime_dir.join(name));
        Self { socket, wanted, error, asked: Mutex::default() }
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

    /// Asks for it, whatever was asked for before, and waits a moment until it serves or cannot be made. The start of a jail says why.
    pub(crate) async fn wait(&self) {
        *lock(&self.asked) = None;
        let earlier = self.failed();
        self.ask();
        let deadline = Instant::now() + time_limits::NET_START;
        let has_failed = || self.failed().is_some_and(|at| earlier.is_none_or(|earlier| at > earlier));
        while !self.serves() && !has_failed() && Instant::now() < deadline {
            tokio::time::sleep(time_limits::RETRY).await;
        }
    }

    /// When the link could not be made the last time, if it is not there.
    fn failed(&self) -> Option<SystemTime> {
        std::fs::metadata(&self.error).and_then(|file| file.modified()).ok()
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

    #[tokio::test]
    async fn a_host_that_cannot_make_it_is_not_waited_for() {
        let (temp, start) = start();
        let error = temp.path().join(NET_ERROR);
        std::fs::write(&error, "an earlier one").expect("writes");
        let wanted = temp.path().join(NET_WANTED);
        let failing = tokio::task::spawn_blocking(move || {
            while !wanted.exists() {
                std::thread::yield_now();
            }
            let text = error.with_file_name("new");
            // The clock of files is coarse.
            while std::fs::metadata(&error).expect("is there").modified().expect("has one")
                >= std::fs::write(&text, "no nf_tables")
                    .and_then(|()| std::fs::metadata(&text)?.modified())
                    .expect("writes")
            {}
            std::fs::rename(text, error).expect("replaces");
        });
        let since = Instant::now();
        start.wait().await;
        assert!(since.elapsed() < time_limits::NET_START, "it waits in vain");
        failing.await.expect("ends");
    }
}
