//! Asks for the network once somebody needs it, and waits until it serves. Later it has the link to the host follow changed settings.
//!
//! Nothing makes the router while nobody has a network. So the first tenant that gets one finds no `bailiwick-net`. This program may
//! start none itself: it leaves a file, and `bailiwick-uplink.path`, or `--standalone`, runs `bailiwick-net --uplink` when the file is
//! written.
//!
//! Danger: nothing waits for long on a host that cannot make networks. Only operators wait, once for each request.

use crate::sync::lock;
use bailiwick_proto::{NET_ERROR, NET_REPORT, NET_SOCKET, NET_WANTED, time_limits};
use bailiwick_sys::socket;
use bailiwick_types::HostNetwork;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};
use tracing::warn;

/// The time after which it is asked for again.
const AGAIN: Duration = Duration::from_secs(60);
/// How long the link is waited for to follow changed settings. It takes less than a second.
const FOLLOW_TIME: Duration = Duration::from_secs(5);

/// Starts the network when it is needed.
#[derive(Debug)]
pub(crate) struct NetworkStart {
    socket: PathBuf,
    wanted: PathBuf,
    error: PathBuf,
    report: PathBuf,
    /// When it was asked for last.
    asked: Mutex<Option<Instant>>,
    /// The settings that the link has been asked to follow.
    followed: Mutex<HostNetwork>,
}

impl NetworkStart {
    pub(crate) fn new(runtime_dir: &Path, network: &HostNetwork) -> Self {
        let names = [NET_SOCKET, NET_WANTED, NET_ERROR, NET_REPORT];
        let [socket, wanted, error, report] = names.map(|name| runtime_dir.join(name));
        Self { socket, wanted, error, report, asked: Mutex::default(), followed: Mutex::new(network.clone()) }
    }

    /// Has the link to the host follow its settings now, if they have changed since the last time, and waits a moment until it has.
    /// It does so by itself within a minute.
    pub(crate) async fn follow(&self, network: &HostNetwork) {
        let earlier = self.reported();
        {
            let mut followed = lock(&self.followed);
            if *followed == *network {
                return;
            }
            followed.clone_from(network);
            self.write_wanted();
        }
        let deadline = Instant::now() + FOLLOW_TIME;
        while self.reported() == earlier && Instant::now() < deadline {
            tokio::time::sleep(time_limits::RETRY).await;
        }
    }

    /// When the last attempts have ended, well or not.
    fn reported(&self) -> [Option<SystemTime>; 2] {
        [&self.report, &self.error].map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok())
    }

    /// Asks for it, unless it serves or was asked for a moment ago.
    pub(crate) fn ask(&self) {
        if self.serves() {
            return;
        }
        let mut asked = lock(&self.asked);
        if asked.is_none_or(|at| at.elapsed() >= AGAIN) {
            *asked = Some(Instant::now());
            self.write_wanted();
        }
    }

    fn write_wanted(&self) {
        // Closing a file that was open for writing is what systemd notices.
        if let Err(error) = std::fs::write(&self.wanted, "") {
            warn!(event = "network-not-asked-for", "cannot write \"{}\": {error}", self.wanted.display());
        }
    }

    /// Asks for it, whatever was asked for before, and waits a moment until it serves or cannot be made. The start of a jail says why.
    ///
    /// An attempt that runs already when this is called may fail for a reason that the operator has just mended, and a question is
    /// lost on it. So a first failure is asked about once more.
    pub(crate) async fn wait(&self) {
        let deadline = Instant::now() + time_limits::NET_START;
        for _ in 0..2 {
            *lock(&self.asked) = None;
            let earlier = self.failed();
            self.ask();
            let has_failed = || self.failed().is_some_and(|at| earlier.is_none_or(|earlier| at > earlier));
            while !self.serves() && !has_failed() && Instant::now() < deadline {
                tokio::time::sleep(time_limits::RETRY).await;
            }
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
        let start = NetworkStart::new(temp.path(), &HostNetwork::default());
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
        // The first failure may be that of an attempt from before. It is asked for a second time, which fails too.
        let failing = tokio::task::spawn_blocking(move || {
            for _ in 0..2 {
                while !wanted.exists() {
                    std::thread::yield_now();
                }
                std::fs::remove_file(&wanted).expect("it was asked for");
                let text = error.with_file_name("new");
                // The clock of files is coarse.
                while std::fs::metadata(&error).expect("is there").modified().expect("has one")
                    >= std::fs::write(&text, "no nf_tables")
                        .and_then(|()| std::fs::metadata(&text)?.modified())
                        .expect("writes")
                {}
                std::fs::rename(text, &error).expect("replaces");
            }
        });
        let since = Instant::now();
        start.wait().await;
        assert!(since.elapsed() < time_limits::NET_START, "it waits in vain");
        failing.await.expect("ends");
    }

    #[tokio::test]
    async fn the_link_follows_settings_that_have_changed_and_no_others() {
        let (temp, start) = start();
        let (wanted, report) = (temp.path().join(NET_WANTED), temp.path().join(NET_REPORT));
        start.follow(&HostNetwork::default()).await;
        assert!(!wanted.exists(), "nothing has changed");
        let answered = wanted.clone();
        let following = tokio::task::spawn_blocking(move || {
            while !answered.exists() {
                std::thread::yield_now();
            }
            std::fs::write(report, "{}").expect("reports");
        });
        let changed = HostNetwork { cache: true, ..HostNetwork::default() };
        start.follow(&changed).await;
        following.await.expect("ends");
        std::fs::remove_file(&wanted).expect("it was asked for");
        start.follow(&changed).await;
        assert!(!wanted.exists(), "it has followed already");
    }

    #[tokio::test]
    async fn what_was_mended_while_an_attempt_failed_is_not_told_as_failed() {
        let (temp, start) = start();
        let error = temp.path().join(NET_ERROR);
        let wanted = temp.path().join(NET_WANTED);
        let socket = temp.path().join(NET_SOCKET);
        let serving = tokio::task::spawn_blocking(move || {
            while !wanted.exists() {
                std::thread::yield_now();
            }
            // An attempt from before fails, and whoever asked meanwhile is not heard.
            std::fs::remove_file(&wanted).expect("it was asked for");
            std::fs::write(error, "no nf_tables").expect("writes");
            while !wanted.exists() {
                std::thread::yield_now();
            }
            UnixListener::bind(socket).expect("binds")
        });
        start.wait().await;
        assert!(start.serves());
        drop(serving.await.expect("ends"));
    }
}
