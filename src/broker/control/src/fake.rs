//! For tests: the services of a host with one tenant, and a warden with given replies.

use crate::services::Services;
use crate::transport;
use bailiwick_policy::{Sleep, Tenant};
use bailiwick_proto::frame::{MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::warden::RosterEntry;
use bailiwick_proto::{Incoming, WARDEN_SOCKET, WardenReply, WardenRequest};
use bailiwick_types::{Access, Period, TenantName};
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// The answer of the fake warden to a request.
#[derive(Debug)]
pub(crate) enum Answer {
    Reply(WardenReply),
    /// Reply once there is a permit.
    Later(Arc<Semaphore>, WardenReply),
    /// Close the connection, as a warden does for a request that it does not know.
    Close,
    /// Never reply.
    Never,
}

/// Makes services whose policy has `alice`. The runtime directory is `run` below the temporary one.
pub(crate) fn host() -> (TempDir, Arc<Services>) {
    let temp = tempfile::tempdir().expect("makes");
    let write = |file: &str, text: &str| {
        let path = temp.path().join(file);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("makes");
        std::fs::write(path, text).expect("writes");
    };
    let (state, run) = (temp.path().join("state"), temp.path().join("run"));
    write("bailiwick.toml", &format!("state_dir = {state:?}\nruntime_dir = {run:?}\n"));
    write("plans.d/small.toml", "doors = [\"exec\", \"cron\"]\n");
    write("tenants.d/alice.toml", "plan = \"small\"\n");
    std::fs::create_dir(run).expect("makes");
    let daemon = Services::open(temp.path()).expect("is valid");
    (temp, daemon)
}

/// Declares tenants as alice is, who may sleep, and alice too. A reading of the policy forgets it.
pub(crate) fn sleepers(daemon: &Services, names: &[TenantName]) {
    let mut loaded = daemon.tenants.policy.loaded();
    let tenants = &mut loaded.policy.tenants;
    let mut alice = tenants.values().next().expect("alice").clone();
    alice.settings.sleep = Some(Sleep { after: Period(900), freeze_after: None });
    for name in names.iter().chain([&alice.name]) {
        tenants.insert(name.clone(), Tenant { name: name.clone(), ..alice.clone() });
    }
}

/// The warden's entry of a tenant that has run and is down.
pub(crate) fn down(daemon: &Services) -> RosterEntry {
    crate::directory::entry_of(daemon.host().ids.range(0).expect("a range"))
}

/// The warden's entry of a tenant that runs.
pub(crate) fn up(daemon: &Services) -> RosterEntry {
    RosterEntry { pid: Some(1), access: Some(Access::ReadWrite), ..down(daemon) }
}

/// Starts a fake warden for the services.
pub(crate) fn warden(daemon: &Services, answer: impl Fn(WardenRequest) -> Answer + Send + Sync + 'static) {
    drop(warden_at(&daemon.host().runtime_dir.join(WARDEN_SOCKET), answer));
}

/// Starts a fake warden at a socket. It runs until the returned task is aborted.
pub(crate) fn warden_at(
    socket: &Path,
    answer: impl Fn(WardenRequest) -> Answer + Send + Sync + 'static,
) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(socket).expect("binds");
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        let mut all = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            all.spawn(async move { serve(stream, &*answer).await });
        }
    })
}

async fn serve(stream: UnixStream, answer: &(impl Fn(WardenRequest) -> Answer + Sync)) {
    let mut incoming = Incoming::new(MAX_REQUEST, 0);
    while let Ok((request, _)) = transport::receive(&stream, &mut incoming).await {
        match answer(request) {
            Answer::Reply(reply) => transport::send(&stream, &reply, MAX_REPLY, &[]).await.expect("sends"),
            Answer::Later(permits, reply) => {
                permits.acquire().await.expect("is open").forget();
                transport::send(&stream, &reply, MAX_REPLY, &[]).await.expect("sends");
            }
            Answer::Close => return,
            Answer::Never => std::future::pending().await,
        }
    }
}
