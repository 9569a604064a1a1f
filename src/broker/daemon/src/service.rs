//! The daemon itself: one thread without privileges that serves the control socket.

use crate::Ended;
use crate::descriptors::{Inherited, Manager};
use bailiwick_control::{OpenError, Services, serve};
use bailiwick_proto::CONTROL_SOCKET;
use bailiwick_sys::socket;
use bailiwick_types::ExitStatus;
use sd_notify::NotifyState;
use std::fs::Permissions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long current requests may take when the daemon is told to end.
const STOP_TIME: Duration = Duration::from_secs(20);
/// How long a killed daemon may take to close its socket.
const DYING_TIME: Duration = Duration::from_secs(1);
/// The time between two checks that the control socket still exists.
const LOOK_TIME: Duration = Duration::from_secs(1);

/// Serves until it gets a signal to end.
pub(crate) fn run(config: &Path) -> Result<(), Ended> {
    if rustix::process::geteuid().is_root() {
        let message = "bailiwickd must not run as root: let systemd start it as its own user, or use --standalone";
        return Err(Ended::new(ExitStatus::Refused, message));
    }
    bailiwick_sys::credential::set_no_new_privs().map_err(|error| Ended::failed("give up privileges", &error))?;
    bailiwick_sys::credential::set_undumpable()
        .map_err(|error| Ended::failed("close this process's memory", &error))?;
    // The filter of the profile `web` fits, because this program needs none of the system calls that it refuses.
    let program = bailiwick_plan::seccomp::filter(bailiwick_types::Profile::Web);
    let program: Vec<_> = program.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect();
    bailiwick_sys::seccomp::load(&program).map_err(|error| Ended::failed("load a seccomp filter", &error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Ended::failed("start the runtime", &error))?;
    let inherited = Inherited::take()
        .map_err(|error| Ended::failed("take over the descriptors that the service manager kept", &error))?;
    runtime.block_on(service(config, inherited))
}

async fn service(config: &Path, inherited: Inherited) -> Result<(), Ended> {
    let services = Services::open(config).map_err(|error| match error {
        OpenError::Policy(_) => Ended::new(ExitStatus::Invalid, error.to_string()),
    })?;
    if services.host().syslog {
        crate::log::to_syslog();
    }
    crate::log::to_outbox(services.outbox());
    let path = services.host().runtime_dir.join(CONTROL_SOCKET);
    let (listener, place) = match handed(&path, inherited.control)? {
        Some(listener) => (listener, Place::of_the_manager(path.clone()).await),
        None => {
            let listener = listen(&path, DYING_TIME).await?;
            (listener, Place::of_our_own(path.clone()))
        }
    };
    let failed = |error: std::io::Error| Ended::failed("wait for signals", &error);
    let mut reload = signal(SignalKind::hangup()).map_err(failed)?;
    let mut end = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    services.restore_sockets(inherited.stored, Box::new(Manager));
    services.start_recorder().map_err(|error| Ended::failed("start the recorder", &error))?;
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(keep_serving(Arc::clone(&services), listener, place, stopped));
    services.spawn();
    if let Some(time) = sd_notify::watchdog_enabled() {
        tokio::spawn(stay_alive(time / 2));
    }
    notify(&[NotifyState::Ready]);
    tracing::info!(event = "ready", socket = %path.display(), "ready");
    loop {
        tokio::select! {
            _ = reload.recv() => {
                if let Ok(now) = NotifyState::monotonic_usec_now() {
                    notify(&[NotifyState::Reloading, now]);
                }
                services.reload().ok();
                notify(&[NotifyState::Ready]);
            }
            _ = end.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    notify(&[NotifyState::Stopping]);
    // Jails and sessions continue without this program, but every accepted request gets its reply.
    stop.send_replace(true);
    drop(tokio::time::timeout(STOP_TIME, serving).await);
    Ok(())
}

/// Serves on the control socket, and makes it again when it was removed. Without it, no client could report the loss.
async fn keep_serving(
    services: Arc<Services>,
    listener: UnixListener,
    mut place: Place,
    mut stop: watch::Receiver<bool>,
) {
    let mut all = JoinSet::new();
    all.spawn(serve(Arc::clone(&services), listener, stop.clone()));
    loop {
        if let Some(listener) = place.look().await {
            all.spawn(serve(Arc::clone(&services), listener, stop.clone()));
        }
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            () = tokio::time::sleep(LOOK_TIME) => {}
        }
    }
    while all.join_next().await.is_some() {}
    place.leave();
}

/// The path of the control socket, and the identity of the file there.
struct Place {
    path: PathBuf,
    /// The device and inode of the socket that this program serves; `None` while there is none.
    served: Option<(u64, u64)>,
    keeper: Keeper,
    /// The last reported reason why the socket could not be made again.
    told: Option<String>,
}

/// The owner of the control socket while no daemon runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeper {
    /// No owner: this program removes the socket at its end.
    Nobody,
    /// The service manager. After its socket was removed, no client can reach it until the socket unit is restarted.
    /// The replacement stays until the next daemon starts. That daemon gets the manager's socket again and finds that
    /// no client can reach it.
    Manager,
}

impl Place {
    /// The place of a socket that this program has just made.
    fn of_our_own(path: PathBuf) -> Self {
        let served = identity(&path);
        Self { path, served, keeper: Keeper::Nobody, told: None }
    }

    /// The place of a socket that the service manager made earlier.
    async fn of_the_manager(path: PathBuf) -> Self {
        let served =
            if UnixStream::connect(&path).await.is_err_and(|error| is_nobody(&error)) { None } else { identity(&path) };
        Self { path, served, keeper: Keeper::Manager, told: None }
    }

    /// Returns a new listener if no client can reach the current one.
    async fn look(&mut self) -> Option<UnixListener> {
        if self.served.is_some() && identity(&self.path) == self.served {
            return None;
        }
        self.served = None;
        match listen(&self.path, Duration::ZERO).await {
            Ok(listener) => {
                let socket = self.path.display();
                let remedy = match self.keeper {
                    Keeper::Nobody => "",
                    Keeper::Manager => {
                        "; restart bailiwickd.socket, so that clients wait at it again while no daemon runs"
                    }
                };
                tracing::warn!(event = "socket-made-again", socket = %socket, "the control socket was removed, and is made again{remedy}");
                (self.served, self.told) = (identity(&self.path), None);
                Some(listener)
            }
            // Each check tries again. The same reason is logged once.
            Err(Ended { message, .. }) => {
                if self.told.as_ref() != Some(&message) {
                    tracing::warn!(event = "socket-lost", "{message}");
                    self.told = Some(message);
                }
                None
            }
        }
    }

    /// Removes the socket, unless the service manager owns it or another file is in its place.
    fn leave(self) {
        if self.keeper == Keeper::Nobody && self.served.is_some() && identity(&self.path) == self.served {
            std::fs::remove_file(&self.path).ok();
        }
    }
}

/// The device and inode of the file at a path.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Tells the watchdog that this thread, which serves all clients, still runs.
async fn stay_alive(period: Duration) {
    let mut ticks = tokio::time::interval(period);
    loop {
        ticks.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

/// Sends a notification to systemd. Without systemd, or without a reader, it is lost.
fn notify(states: &[NotifyState<'_>]) {
    sd_notify::notify(states).ok();
}

/// The listening control socket, if the service manager made it and passed it to this program. Then a client that
/// connects while no daemon runs waits for the next one (`sd_listen_fds(3)`).
fn handed(path: &Path, control: Option<OwnedFd>) -> Result<Option<UnixListener>, Ended> {
    let failed = |error| Ended::failed("take over the socket of bailiwickd.socket", &error);
    let Some(control) = control else { return Ok(None) };
    let listener = std::os::unix::net::UnixListener::from(control);
    let address = listener.local_addr().map_err(failed)?;
    if address.as_pathname() != Some(path) {
        let message = format!(
            "bailiwickd.socket listens on {address:?}, but clients look for \"{}\": give both the same place, with \
             `runtime_dir` in bailiwick.toml or `systemctl edit bailiwickd.socket`",
            path.display()
        );
        return Err(Ended::new(ExitStatus::Invalid, message));
    }
    listener.set_nonblocking(true).map_err(failed)?;
    UnixListener::from_std(listener).map(Some).map_err(failed)
}

/// Makes the control socket, which every local user can connect to. Each connection is authorised on its own.
/// `patience` is how long another daemon may take to close the socket.
async fn listen(path: &Path, patience: Duration) -> Result<UnixListener, Ended> {
    let failed = |error| Ended::failed(&format!("listen on \"{}\"", path.display()), &error);
    let deadline = Instant::now() + patience;
    loop {
        match UnixStream::connect(path).await {
            // This program is short of descriptors or memory. It cannot tell whether another daemon listens, and a
            // socket in use must stay.
            Err(error) if socket::is_shortage(&error) => return Err(failed(error)),
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
            // A daemon listens there: it has accepted this connection, or its queue is full.
            Ok(_) | Err(_) if Instant::now() >= deadline => {
                let message = format!("another bailiwickd answers on \"{}\"", path.display());
                return Err(Ended::new(ExitStatus::Conflict, message));
            }
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(listener)
}

/// Whether the error says that nobody listens.
fn is_nobody(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("control/bailiwick.sock");
        std::fs::create_dir(temp.path().join("control")).expect("makes");
        (temp, path)
    }

    async fn is_served(path: &Path, listener: &UnixListener) -> bool {
        let client = UnixStream::connect(path).await;
        client.is_ok() && listener.accept().await.is_ok()
    }

    #[tokio::test]
    async fn a_socket_that_cannot_be_made_again_yet_is_made_later() {
        let (temp, path) = socket();
        let _first = listen(&path, Duration::ZERO).await.expect("listens");
        let mut place = Place::of_our_own(path.clone());
        assert!(place.look().await.is_none(), "it is there");
        std::fs::rename(temp.path().join("control"), temp.path().join("gone")).expect("moves");
        for _ in 0..2 {
            assert!(place.look().await.is_none(), "there is no directory");
        }
        std::fs::create_dir(temp.path().join("control")).expect("makes");
        let again = place.look().await.expect("made again");
        assert!(is_served(&path, &again).await && place.look().await.is_none());
        place.leave();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_socket_of_another_is_neither_taken_nor_removed() {
        let (_temp, path) = socket();
        let _first = listen(&path, Duration::ZERO).await.expect("listens");
        let mut place = Place::of_our_own(path.clone());
        std::fs::remove_file(&path).expect("removes");
        let other = UnixListener::bind(&path).expect("binds");
        for _ in 0..2 {
            assert!(place.look().await.is_none());
        }
        let leaves = Place { path: path.clone(), served: place.served, keeper: place.keeper, told: None };
        leaves.leave();
        assert!(is_served(&path, &other).await);
        // The other daemon ends, and its file stays.
        drop(other);
        while UnixStream::connect(&path).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let again = place.look().await.expect("made again");
        assert!(is_served(&path, &again).await);
    }

    #[tokio::test]
    async fn what_the_manager_keeps_is_not_removed_and_found_lost_by_the_next() {
        let (_temp, path) = socket();
        let managers = listen(&path, Duration::ZERO).await.expect("listens");
        let mut place = Place::of_the_manager(path.clone()).await;
        assert!(place.look().await.is_none());
        std::fs::remove_file(&path).expect("removes");
        let again = place.look().await.expect("made again");
        assert!(is_served(&path, &again).await);
        place.leave();
        drop(again);
        // A program that another test starts may hold the descriptor for a moment too.
        while UnixStream::connect(&path).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(path.exists());
        // The manager passes the same descriptor to the next daemon.
        let mut place = Place::of_the_manager(path.clone()).await;
        let again = place.look().await.expect("made again at once");
        assert!(is_served(&path, &again).await);
        drop(managers);
    }

    /// Set when this test runs again in a process of its own, which may use up its descriptors.
    const INSIDE: &str = "BAILIWICK_TEST_WITHOUT_DESCRIPTORS";

    #[tokio::test]
    async fn without_descriptors_the_socket_of_another_stays() {
        if std::env::var_os(INSIDE).is_none() {
            let again = std::env::current_exe().expect("this program");
            let mut command = std::process::Command::new("prlimit");
            let name = "service::tests::without_descriptors_the_socket_of_another_stays";
            command.arg("--nofile=64").arg(again).args(["--exact", name]).env(INSIDE, "1");
            let output = command.output().expect("runs");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        let (_temp, path) = socket();
        let other = UnixListener::bind(&path).expect("binds");
        let all: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        assert!(listen(&path, Duration::ZERO).await.is_err());
        drop(all);
        assert!(is_served(&path, &other).await);
    }
}
