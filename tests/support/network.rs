//! Networks for tests: a host's network of the test's own, and a server at the other end of a wire.
//!
//! Danger: networks change a host's interfaces, rules and settings, and their names are the same everywhere. So each such test
//! runs in a network namespace of its own, and no test gives a tenant a network elsewhere.

use crate::wire::Space;
use bailiwick_sys::namespace::{self, Kind};
use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

/// The variable that tells the inner process where it is.
const INSIDE: &str = "BAILIWICK_TEST_OWN_NETWORK";
/// The address of the server: a public one, since jails reach no other.
pub const SERVER: &str = "203.0.114.2";
/// The resolver that jails have. Nobody needs to answer there.
pub const RESOLVER: &str = "198.18.0.53";
/// What the server says to everybody.
pub const GREETING: &str = "hello from afar";

/// Runs a test in network and mount namespaces of its own: this process starts itself once more there. `test` is the name of the
/// test. What it mounts is gone afterwards.
///
/// # Panics
/// When it fails.
pub fn in_own_network(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .status()
        .expect("unshare runs");
    assert!(status.success(), "{test} in a network of its own: {status}");
}

/// A wire from this network to a server.
#[derive(Debug)]
pub struct Wire {
    /// A process that holds the network of the server.
    holder: Child,
}

impl Wire {
    /// Makes the wire, a default route over it, and a server on port 80. Call it once, inside [`in_own_network`] or on a machine of
    /// the test's own.
    ///
    /// # Panics
    /// When the kernel refuses a step.
    #[must_use]
    pub fn new() -> Self {
        let own = namespace::inode(std::process::id(), "net").expect("this network");
        let mut holder = Command::new("unshare");
        // Nobody who reads what this test writes waits for its end.
        holder.args(["--net", "--", "sleep", "3600"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let holder = holder.spawn().expect("unshare runs");
        let pid = holder.id();
        super::until("the server's network is there", || namespace::inode(pid, "net").is_ok_and(|inode| inode != own));
        let line = format!(
            "ip link set lo up && ip link add wan type veth peer name eth0 netns {pid} && ip addr add 203.0.114.1/24 dev wan && \
             ip link set wan up && nsenter -t {pid} -n sh -ec 'ip link set lo up; ip addr add {SERVER}/24 dev eth0; \
             ip link set eth0 up' && ip route add default via {SERVER} metric 5"
        );
        super::run(Command::new("sh").args(["-c", &line]));
        let network = namespace::open(pid, "net").expect("the server's network");
        let (ready, is_ready) = std::sync::mpsc::channel();
        // A thread of its own, because it stays in the server's network.
        std::thread::spawn(move || {
            namespace::enter(network, Kind::Network).expect("enters");
            let listener = TcpListener::bind((SERVER, 80)).expect("binds");
            ready.send(()).expect("the test waits");
            for stream in listener.incoming() {
                stream.and_then(|mut stream| stream.write_all(format!("{GREETING}\n").as_bytes())).ok();
            }
        });
        is_ready.recv().expect("the server listens");
        Self { holder }
    }

    /// The network of the server.
    #[must_use]
    pub fn server(&self) -> Space {
        Space::of(self.holder.id())
    }
}

impl Default for Wire {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
        // The thread of the server keeps the other network until this process ends.
        Command::new("ip").args(["link", "delete", "wan"]).stderr(Stdio::null()).status().ok();
    }
}
