//! For tests: the services of a host with one tenant, a warden and a `bailiwick-net` with given replies.

use crate::services::Services;
use crate::transport;
use bailiwick_policy::{Sleep, Tenant};
use bailiwick_proto::frame::{MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::net::MAX_NET_REQUEST;
use bailiwick_proto::warden::RosterEntry;
use bailiwick_proto::{Incoming, NetReply, NetRequest, WARDEN_SOCKET, WardenReply, WardenRequest};
use bailiwick_types::{Access, NetworkConnection, NetworkFacts, NetworkTraffic, Period, TenantName};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
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

/// The answer of the fake `bailiwick-net` to a request.
#[derive(Debug)]
pub(crate) enum NetAnswer {
    Reply(NetReply),
    /// Send these bytes, which may be no message.
    Bytes(Vec<u8>),
    /// Close the connection.
    Close,
}

/// Starts a fake `bailiwick-net` at a socket, on threads that end with the process. Returns how many connections it had.
pub(crate) fn net_at(
    socket: &Path,
    answer: impl Fn(NetRequest) -> NetAnswer + Send + Sync + 'static,
) -> Arc<AtomicU32> {
    std::fs::create_dir_all(socket.parent().expect("a directory")).expect("makes");
    let listener = std::os::unix::net::UnixListener::bind(socket).expect("binds");
    let (answer, made) = (Arc::new(answer), Arc::<AtomicU32>::default());
    let count = Arc::clone(&made);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::Relaxed);
            let (stream, answer) = (stream.expect("accepts"), Arc::clone(&answer));
            std::thread::spawn(move || serve_net(&stream, &*answer));
        }
    });
    made
}

fn serve_net(mut stream: &std::os::unix::net::UnixStream, answer: &impl Fn(NetRequest) -> NetAnswer) {
    let mut incoming = Incoming::new(MAX_NET_REQUEST, 0);
    let soon = || std::time::Instant::now() + std::time::Duration::from_secs(3600);
    while let Ok((request, _)) = bailiwick_proto::transport::receive(stream, &mut incoming, soon()) {
        match answer(request) {
            NetAnswer::Reply(reply) => {
                bailiwick_proto::transport::send(stream, &reply, MAX_REPLY, &[]).expect("sends");
            }
            NetAnswer::Bytes(bytes) => stream.write_all(&bytes).expect("sends"),
            NetAnswer::Close => return,
        }
    }
}

/// The network of a tenant whose jail is connected.
pub(crate) fn facts(tenant: &TenantName) -> NetworkFacts {
    NetworkFacts {
        tenant: tenant.clone(),
        link: Some("bw0".to_owned()),
        is_up: true,
        addresses: vec!["100.64.0.2".parse().expect("an address")],
        traffic: NetworkTraffic::default(),
        month: 0,
        in_force: None,
        limits: None,
        refused: BTreeMap::new(),
        last_refused: Vec::new(),
        differences: Vec::new(),
    }
}

/// A connection of a jail.
pub(crate) fn connection() -> NetworkConnection {
    NetworkConnection {
        protocol: "tcp".to_owned(),
        source: "100.64.0.2".parse().expect("an address"),
        source_port: Some(40_000),
        destination: "192.0.2.1".parse().expect("an address"),
        destination_port: Some(443),
        state: Some("ESTABLISHED".to_owned()),
        expires: 300,
    }
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
