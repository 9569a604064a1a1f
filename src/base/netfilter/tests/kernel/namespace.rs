//! Network namespaces of a test's own, which end with the test; pairs of interfaces between them; second readers.

use bailiwick_netlink::route::{Address, LinkEnd, Mac, Neighbour, Prefix, Route, RouteSocket, State, Veth};
use nix::sched::{CloneFlags, unshare};
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::resume_unwind;
use std::process::Command;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// Says on standard error that a test was not run, and why. The harness captures `eprintln!`.
fn not_run(why: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    std::io::stderr().write_all(format!("{test}: NOT run: {why}\n").as_bytes()).ok();
}

/// Starts a thread with the name of the test in a network namespace of its own.
fn start<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        body()
    };
    thread::Builder::new().name(name).spawn(body).expect("a thread")
}

/// Runs a test in a network namespace of its own.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        not_run("it needs root");
        return;
    }
    if let Err(panic) = start(test).join() {
        resume_unwind(panic);
    }
}

/// What a [`Namespace`] runs on its thread.
type Job = Box<dyn FnOnce() + Send>;

/// Another network namespace, with a thread in it.
pub(crate) struct Namespace {
    pub(crate) fd: OwnedFd,
    jobs: SyncSender<Job>,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let (jobs, queue) = sync_channel::<Job>(1);
        let (tell, told) = sync_channel(1);
        start(move || {
            tell.send(OwnedFd::from(File::open("/proc/thread-self/ns/net").expect("opens"))).expect("waits");
            queue.into_iter().for_each(|job| job());
        });
        Self { fd: told.recv().expect("started"), jobs }
    }

    /// Runs something on the thread in the namespace.
    pub(crate) fn run<T: Send + 'static>(&self, body: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = sync_channel(1);
        self.jobs.send(Box::new(move || drop(tell.send(body())))).expect("the thread runs");
        told.recv().expect("no panic inside")
    }
}

/// The standard output of a second reader; `None` when it is not installed, which the test then says by name.
pub(crate) fn second_reader(program: &str, arguments: &[&str]) -> Option<String> {
    let Ok(output) = Command::new(program).args(arguments).output() else {
        not_run(&format!("the second reader, {program}, is not installed"));
        return None;
    };
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).expect("text"))
}

/// The index of a link in this thread's namespace.
pub(crate) fn index(name: &str) -> u32 {
    RouteSocket::open().expect("opens").link(name).expect("asks").expect("a link").index
}

pub(crate) fn end(name: &str, last: u8) -> LinkEnd {
    let mac = Mac([2, 0, 0, 0, 0, last]);
    LinkEnd { name: name.to_owned(), mac, mtu: 1500, tx_queue_len: 0, queues: 1 }
}

/// Joins a namespace to this one: `near` here with 10.0.`net`.1, `far` there with 10.0.`net`.2 and the route to all.
pub(crate) fn join(near: &str, namespace: &Namespace, net: u8) {
    let far = format!("{near}-far");
    let veth = Veth { near: end(near, net * 2), far: end(&far, net * 2 + 1), near_state: State::Up };
    let mut socket = RouteSocket::open().expect("opens");
    socket.add_veth(&veth, namespace.fd.as_fd()).expect("adds");
    let (here, there) = (Ipv4Addr::new(10, 0, net, 1), Ipv4Addr::new(10, 0, net, 2));
    let link = index(near);
    socket.add_address(&Address::new(link, IpAddr::V4(here), 32)).expect("adds");
    socket.add_route(&Route::over(Prefix::host(IpAddr::V4(there)), link)).expect("adds");
    socket.add_neighbour(&Neighbour::permanent(link, IpAddr::V4(there), veth.far.mac)).expect("adds");
    namespace.run(move || {
        let mut socket = RouteSocket::open().expect("opens");
        let (loopback, link) = (index("lo"), index(&far));
        socket.set_link_state(loopback, State::Up).expect("starts");
        socket.set_link_state(link, State::Up).expect("starts");
        socket.add_address(&Address::new(link, IpAddr::V4(there), 32)).expect("adds");
        socket.add_neighbour(&Neighbour::permanent(link, IpAddr::V4(here), veth.near.mac)).expect("adds");
        let all =
            Route::over(Prefix { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), len: 0 }, link).via(IpAddr::V4(here));
        socket.add_route(&all).expect("adds");
    });
}
