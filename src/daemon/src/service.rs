//! The daemon proper: one thread, no rights, the control socket.

use crate::Ended;
use bailiwick_control::{Daemon, OpenError, serve};
use bailiwick_proto::CONTROL_SOCKET;
use bailiwick_types::ExitStatus;
use sd_notify::NotifyState;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long requests that are under way may take when the daemon is told to end.
const STOP_TIME: Duration = Duration::from_secs(20);
/// How long one that was killed may take to let go of its socket.
const DYING_TIME: Duration = Duration::from_secs(1);
/// How often it is looked whether the control socket is still there.
const LOOK_TIME: Duration = Duration::from_secs(1);
/// The name of the control socket's descriptor: `FileDescriptorName=` in `bailiwickd.socket`.
const HANDED: &str = "control";

/// Serves until it is told to end.
pub(crate) fn run(config: &Path) -> Result<(), Ended> {
    if rustix::process::geteuid().is_root() {
        let message = "bailiwickd must not run as root: let systemd start it as its own user, or use --standalone";
        return Err(Ended::new(ExitStatus::Refused, message));
    }
    bailiwick_sys::credential::set_no_new_privs().map_err(|error| Ended::failed("give up privileges", &error))?;
    bailiwick_sys::credential::set_undumpable()
        .map_err(|error| Ended::failed("close this process's memory", &error))?;
    // What a site of a customer's may not call, this program has no use for either.
    let program = bailiwick_plan::seccomp::filter(bailiwick_types::Profile::Web);
    let program: Vec<_> = program.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect();
    bailiwick_sys::seccomp::load(&program).map_err(|error| Ended::failed("load a seccomp filter", &error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Ended::failed("start the runtime", &error))?;
    runtime.block_on(service(config))
}

async fn service(config: &Path) -> Result<(), Ended> {
    let daemon = Daemon::open(config).map_err(|error| match error {
        OpenError::Policy(_) => Ended::new(ExitStatus::Invalid, error.to_string()),
    })?;
    if daemon.host().syslog {
        crate::log::to_syslog();
    }
    let path = daemon.host().runtime_dir.join(CONTROL_SOCKET);
    let (listener, own) = match handed(&path)? {
        Some(listener) => (listener, false),
        None => (listen(&path).await?, true),
    };
    let failed = |error: std::io::Error| Ended::failed("wait for signals", &error);
    let mut reload = signal(SignalKind::hangup()).map_err(failed)?;
    let mut end = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    daemon.record().map_err(|error| Ended::failed("start the recorder", &error))?;
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(keep_serving(Arc::clone(&daemon), listener, path.clone(), own, stopped));
    tokio::spawn(Arc::clone(&daemon).keep());
    tokio::spawn(Arc::clone(&daemon).keep_policy());
    tokio::spawn(Arc::clone(&daemon).keep_time());
    tokio::spawn(Arc::clone(&daemon).keep_inits());
    tokio::spawn(Arc::clone(&daemon).resume_ftp());
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
                daemon.reload().ok();
                notify(&[NotifyState::Ready]);
            }
            _ = end.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    notify(&[NotifyState::Stopping]);
    // Jails and sessions go on without us, but nobody who was let in goes without an answer.
    stop.send_replace(true);
    drop(tokio::time::timeout(STOP_TIME, serving).await);
    Ok(())
}

/// Serves on the control socket, and makes it again when somebody has removed it: whoever did, no client could say so to anybody.
/// `own` says whether it was made here; what was is removed at the end.
async fn keep_serving(
    daemon: Arc<Daemon>,
    listener: UnixListener,
    path: PathBuf,
    mut own: bool,
    mut stop: watch::Receiver<bool>,
) {
    let mut all = JoinSet::new();
    all.spawn(serve(Arc::clone(&daemon), listener, stop.clone()));
    let mut known = identity(&path);
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            () = tokio::time::sleep(LOOK_TIME) => {}
        }
        if identity(&path) == known {
            continue;
        }
        match listen(&path).await {
            Ok(listener) => {
                tracing::warn!(event = "socket-made-again", socket = %path.display(), "the control socket was removed, and is made again");
                all.spawn(serve(Arc::clone(&daemon), listener, stop.clone()));
                own = true;
            }
            Err(ended) => tracing::warn!(event = "socket-lost", "{}", ended.message),
        }
        // What is there now is looked at no further: it is ours, or told.
        known = identity(&path);
    }
    while all.join_next().await.is_some() {}
    if own && identity(&path) == known {
        std::fs::remove_file(&path).ok();
    }
}

/// Which file a path leads to.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Tells the watchdog that this thread still turns: it is the only one.
async fn stay_alive(period: Duration) {
    let mut ticks = tokio::time::interval(period);
    loop {
        ticks.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

/// Tells systemd, if it is there. If it is and does not listen, it will find out by itself.
fn notify(states: &[NotifyState<'_>]) {
    sd_notify::notify(states).ok();
}

/// The control socket, where the service manager made it and hands it over: then a client that comes while no daemon
/// runs waits for the next one (`sd_listen_fds(3)`).
fn handed(path: &Path) -> Result<Option<UnixListener>, Ended> {
    let failed = |error| Ended::failed("take over the socket of bailiwickd.socket", &error);
    // Nothing announced is an error of the library, and the usual case without a manager.
    let Ok(mut named) = sd_notify::listen_fds_with_names() else { return Ok(None) };
    let Some((number, _)) = named.find(|(_, name)| name == HANDED) else { return Ok(None) };
    let listener = std::os::unix::net::UnixListener::from(bailiwick_sys::process::inherited(number).map_err(failed)?);
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

/// The control socket, for every local user: who may ask is decided for each connection.
async fn listen(path: &Path) -> Result<UnixListener, Ended> {
    let deadline = Instant::now() + DYING_TIME;
    while UnixStream::connect(path).await.is_ok() {
        if Instant::now() >= deadline {
            let message = format!("another bailiwickd answers on \"{}\"", path.display());
            return Err(Ended::new(ExitStatus::Conflict, message));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let failed = |error| Ended::failed(&format!("listen on \"{}\"", path.display()), &error);
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(listener)
}
