//! A host with a network of its own: its programs run in a network and a mount namespace, which a wire joins to an outside.
//!
//! ```text
//!   jail -- router -- host: 203.0.114.1, 2a00:5::1  ==== wire ====  outside: every other address of the world
//! ```
//!
//! The outside answers at every address, also at those that no jail may reach. What arrives is read there, and never from the
//! rules of the programs under test. All namespaces end with processes that the test holds, also when it fails.

mod capture;
mod frame;
mod names;
mod servers;
mod space;
mod state;

pub use capture::{Capture, Packet};
pub use frame::{Frame, Macs, checksum, echo_v4, echo_v6, udp, udp_v4, udp_v6, unreachable_v4, unreachable_v6};
pub use names::{NameServer, ask, question};
pub use space::{Program, Space};
pub use state::RouterState;

use crate::{Host, until};
use bailiwick_plan::network::{Addresses, GATEWAY_MAC, HOST_MAC, JAIL_MAC, Pools, local_prefix};
use bailiwick_proto::frame::MAX_REPLY;
use bailiwick_proto::net::MAX_NET_REQUEST;
use bailiwick_proto::{Incoming, NET_ROOT_SOCKET, NET_SOCKET, NetReply, NetRequest, TransportError, transport};
use bailiwick_sys::{namespace, process, socket};
use bailiwick_types::{NetworkTraffic, Prefix};
use rustix::process::Signal;
use servers::Servers;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The host's address on the wire.
pub const HOST_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 114, 1);
/// The host's address on the wire.
pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2a00, 5, 0, 0, 0, 0, 0, 1);
/// The outside's own address.
pub const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 114, 2);
/// The outside's own address.
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2a00, 5, 0, 0, 0, 0, 0, 2);
/// The resolver of jails. It is outside, in a range that jails do not reach otherwise.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 53);
/// The hardware address of the host's end of the wire.
pub const WIRE_MAC: [u8; 6] = [0x02, 0x77, 0, 0, 0, 1];
/// The hardware address of the outside's end.
pub const OUTSIDE_MAC: [u8; 6] = [0x02, 0x77, 0, 0, 0, 2];

/// `bailiwick-net` with steps that can be made to fail, below the directory of programs.
const WITH_FAILPOINTS: &str = "failpoints/bailiwick-net";
/// The file that says which. The program can read nothing but the policy.
const FAILPOINT: &str = "etc/failpoint";
/// How long a connection may take on a busy machine. What is refused is refused at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// Joins the two namespaces. `$1` is a process in the outside.
const JOIN: &str = "set -e
ip link set lo up
ip link add wan address 02:77:00:00:00:01 type veth peer name eth0 address 02:77:00:00:00:02 netns $1
ip addr add 203.0.114.1/24 dev wan && ip -6 addr add 2a00:5::1/64 dev wan nodad
ip link set wan up
ip neigh add 203.0.114.2 lladdr 02:77:00:00:00:02 dev wan nud permanent
ip neigh add 2a00:5::2 lladdr 02:77:00:00:00:02 dev wan nud permanent
ip route add default via 203.0.114.2 && ip -6 route add default via 2a00:5::2";

/// Makes the outside every other address of the world, with counters of what arrives and leaves.
const OUTSIDE: &str = "set -e
ip link set lo up
ip addr add 203.0.114.2/24 dev eth0 && ip -6 addr add 2a00:5::2/64 dev eth0 nodad
ip addr add 198.18.0.53/32 dev lo && ip addr add 8.8.8.8/32 dev lo && ip addr add 203.0.115.1/32 dev lo
ip -6 addr add 2a00:6::1/128 dev lo nodad
ip link set eth0 up
ip neigh add 203.0.114.1 lladdr 02:77:00:00:00:01 dev eth0 nud permanent
ip neigh add 2a00:5::1 lladdr 02:77:00:00:00:01 dev eth0 nud permanent
ip route add local 0.0.0.0/0 dev lo table main && ip -6 route add local ::/0 dev lo table main
ip route add 100.64.0.0/10 via 203.0.114.1
nft -f - <<'RULES'
table inet wire {
    counter in4 { }
    counter in6 { }
    counter out4 { }
    counter out6 { }
    chain arrives {
        type filter hook prerouting priority -400
        iifname eth0 meta nfproto ipv4 counter name in4
        iifname eth0 meta nfproto ipv6 meta l4proto { tcp, udp } counter name in6
    }
    chain leaves {
        type filter hook postrouting priority 400
        oifname eth0 meta nfproto ipv4 counter name out4
        oifname eth0 meta nfproto ipv6 meta l4proto { tcp, udp } counter name out6
    }
}
RULES";

/// A host, its network and the outside.
#[derive(Debug)]
pub struct Wire {
    /// The host.
    pub host: Host,
    /// The program that connects jails: with or without steps that can be made to fail.
    program: &'static str,
    net: Option<Child>,
    cache: Option<Child>,
    servers: Servers,
    /// The host's network.
    pub space: Space,
    /// The world beyond the wire.
    pub outside: Space,
}

/// Bytes on the wire, counted in the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// From the host, by IPv4 and IPv6.
    pub arrived: (u64, u64),
    /// To the host, by IPv4 and IPv6.
    pub left: (u64, u64),
}

impl Wire {
    /// A host with the outside. Nothing runs yet.
    ///
    /// # Panics
    /// When the machine lacks `ip`, `nft` or `unshare`.
    #[must_use]
    pub fn new() -> Self {
        Self::with("")
    }

    /// Like [`Self::new`], with more keys of `network` in `bailiwick.toml`.
    ///
    /// # Panics
    /// As [`Self::new`].
    #[must_use]
    pub fn with(more: &str) -> Self {
        Self::made(Host::new(), more, Servers::start)
    }

    /// Like [`Self::with`], but nobody answers outside: the test brings programs of its own.
    ///
    /// # Panics
    /// As [`Self::new`].
    #[must_use]
    pub fn without_servers(more: &str) -> Self {
        Self::made(Host::new(), more, |_| Servers::default())
    }

    /// Like [`Self::new`], with `slots` slots of ids for 16 tenants each.
    ///
    /// # Panics
    /// As [`Self::new`].
    #[must_use]
    pub fn crowd(slots: u32) -> Self {
        Self::made(Host::with_many_ids(slots), "", Servers::start)
    }

    fn made(mut host: Host, more: &str, servers: impl FnOnce(&Space) -> Servers) -> Self {
        let (space, outside) = (Space::new(), Space::new());
        space.ok_with(JOIN, &[&outside.pid().to_string()]);
        outside.ok(OUTSIDE);
        let servers = servers(&outside);
        let pid = space.pid();
        host.run_through(&[
            "nsenter".to_owned(),
            format!("--net=/proc/{pid}/ns/net"),
            format!("--mount=/proc/{pid}/ns/mnt"),
            "--".to_owned(),
        ]);
        let wire = Self { host, program: "bailiwick-net", net: None, cache: None, servers, space, outside };
        wire.configure(more);
        wire
    }

    /// Like [`Self::new`], with a `bailiwick-net` whose steps can be made to fail.
    #[must_use]
    pub fn with_failpoints() -> Self {
        assert!(crate::stage().join(WITH_FAILPOINTS).exists(), "run `make stage-failpoints`");
        let mut wire = Self::new();
        wire.program = WITH_FAILPOINTS;
        wire
    }

    /// What `bailiwick-net` does at a step: a step and `error`, `kill` or `wait`; nothing when it is empty.
    pub fn fail_at(&self, text: &str) {
        self.host.write(FAILPOINT, text);
    }

    /// Writes `bailiwick.toml` anew.
    pub fn configure(&self, more: &str) {
        let resolvers =
            if more.contains("resolvers") { String::new() } else { format!(", resolvers = [\"{RESOLVER}\"]") };
        let line = format!("network = {{ user = \"64996\"{resolvers}{more} }}\n");
        self.host.write("etc/bailiwick.toml", &self.host.default_config(&line));
    }

    /// Declares a tenant with a network: the lines below `[network]`. It is outbound if they name no other mode.
    pub fn declare(&self, tenant: &str, network: &str) {
        let mode = if network.contains("mode = ") { "" } else { "mode = \"outbound\"\n" };
        let text = format!("plan = \"web\"\n[network]\n{mode}{network}\n");
        self.host.write(&format!("etc/tenants.d/{tenant}.toml"), &text);
    }

    /// A host whose tenants run, each with lines below `[network]`.
    ///
    /// # Panics
    /// When one does not run.
    #[must_use]
    pub fn running(tenants: &[(&str, &str)]) -> Self {
        let mut wire = Self::new();
        wire.start(tenants);
        wire
    }

    /// Declares tenants and starts everything.
    ///
    /// # Panics
    /// When one does not run.
    pub fn start(&mut self, tenants: &[(&str, &str)]) {
        for (tenant, network) in tenants {
            self.declare(tenant, network);
        }
        self.start_network();
        self.host.start_without_network();
        self.host.ok(&["apply"]);
    }

    /// Starts what connects jails: the uplink and `bailiwick-net`. The only place that knows who starts them.
    ///
    /// # Panics
    /// When they do not start.
    pub fn start_network(&mut self) {
        // The service manager makes both on an installed host.
        for (name, mode) in [("run", 0o755), ("state", 0o711)] {
            std::fs::create_dir_all(self.host.path(name)).expect("mkdir");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(self.host.path(name), mode).expect("chmod");
        }
        self.uplink();
        self.spawn_network();
        until("bailiwick-net answers", || {
            let ended = self.net.as_mut().and_then(|child| child.try_wait().expect("wait"));
            assert!(ended.is_none(), "bailiwick-net ended with {ended:?}:\n{}", self.net_log());
            matches!(self.try_ask(&NetRequest::Hello, &[]), Ok(NetReply::Hello { .. }))
        });
    }

    /// Starts the cache of names, as the service manager does when `--uplink` has left a configuration.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn start_cache(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.host.path("cache.log"));
        let log = log.expect("a log file");
        let mut command = self.host.program_command("bailiwick-net");
        command.arg("--cache").stdin(Stdio::null()).stdout(log.try_clone().expect("dup")).stderr(log);
        let mut child = command.spawn().expect("bailiwick-net runs");
        until("unbound runs", || {
            let ended = child.try_wait().expect("wait");
            assert!(ended.is_none(), "the cache ended with {ended:?}:\n{}", self.cache_log());
            unbound(child.id()).is_some()
        });
        self.cache = Some(child);
    }

    /// What the cache has written.
    #[must_use]
    pub fn cache_log(&self) -> String {
        std::fs::read_to_string(self.host.path("cache.log")).unwrap_or_default()
    }

    /// The process id of unbound.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn unbound_pid(&self) -> u32 {
        let pid = self.cache.as_ref().and_then(|cache| unbound(cache.id()));
        pid.unwrap_or_else(|| panic!("unbound does not run:\n{}", self.cache_log()))
    }

    /// Waits until the cache has ended by itself; returns how.
    ///
    /// # Panics
    /// When it was not started.
    pub fn cache_ends(&mut self) -> std::process::ExitStatus {
        let mut child = self.cache.take().expect("the cache was started");
        let mut ended = None;
        until("the cache has ended", || {
            ended = child.try_wait().expect("wait");
            ended.is_some()
        });
        ended.expect("it has")
    }

    /// Starts `bailiwick-net`, and does not wait for it.
    ///
    /// # Panics
    /// When there is no such program.
    pub fn spawn_network(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.host.path("net.log"));
        let log = log.expect("a log file");
        let mut command = self.host.program_command(self.program);
        command.env("BAILIWICK_FAILPOINT", self.host.path(FAILPOINT));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("dup")).stderr(log);
        self.net = Some(command.spawn().expect("bailiwick-net runs"));
    }

    /// Takes the file of the router away, as `ip netns del` does.
    pub fn remove_router_file(&self) {
        let path = self.host.path("netns/bailiwick");
        let pid = self.space.pid().to_string();
        let line = "umount -l \"$0\" && rm \"$0\"";
        crate::run(Command::new("nsenter").args(["--mount", "--target", &pid, "--", "sh", "-ec", line]).arg(path));
    }

    /// Takes everything of the network away but what is on disk, as a boot does. No jail is connected, and nobody serves.
    pub fn lose_router(&self) {
        self.remove_router_file();
        // The link goes with the router, later and by itself.
        self.space.ok("nft flush ruleset");
        until("the link is gone", || !self.space.sh("ip link show dev bwk0").status.success());
    }

    /// Waits until `bailiwick-net` ends by itself. Returns its exit status.
    ///
    /// # Panics
    /// When it does not run.
    pub fn wait_for_end(&mut self) -> Option<i32> {
        self.net.take().expect("bailiwick-net runs").wait().expect("wait").code()
    }

    /// Ends `bailiwick-net` as the service manager does: it writes down what was used.
    ///
    /// # Panics
    /// When it does not run.
    pub fn end_network(&mut self) {
        let net = process::open(self.net_pid()).expect("it runs");
        process::signal(&net, Signal::TERM).expect("a signal");
        assert_eq!(self.wait_for_end(), Some(0), "{}", self.net_log());
    }

    /// Runs `bailiwick-net --uplink`.
    #[must_use]
    pub fn try_uplink(&self) -> Output {
        self.host.program_command("bailiwick-net").arg("--uplink").output().expect("bailiwick-net runs")
    }

    /// Runs `bailiwick-net --uplink`, which must succeed. Returns what it says.
    ///
    /// # Panics
    /// When it fails.
    pub fn uplink(&self) -> String {
        let output = self.try_uplink();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The process id of `bailiwick-net`.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn net_pid(&self) -> u32 {
        self.net.as_ref().expect("bailiwick-net runs").id()
    }

    /// Kills `bailiwick-net` with SIGKILL.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_network(&mut self) {
        let mut net = self.net.take().expect("bailiwick-net runs");
        net.kill().expect("kill");
        net.wait().expect("wait");
    }

    /// What `bailiwick-net` has written.
    #[must_use]
    pub fn net_log(&self) -> String {
        std::fs::read_to_string(self.host.path("net.log")).unwrap_or_default()
    }

    /// Sends a request over root's socket.
    ///
    /// # Errors
    /// Why there is no reply.
    pub fn try_ask(&self, request: &NetRequest, fds: &[BorrowedFd<'_>]) -> Result<NetReply, TransportError> {
        self.ask_over(NET_ROOT_SOCKET, request, fds)
    }

    /// Sends a request over the socket of those who may change nothing.
    ///
    /// # Errors
    /// Why there is no reply.
    pub fn ask_as_reader(&self, request: &NetRequest, fds: &[BorrowedFd<'_>]) -> Result<NetReply, TransportError> {
        self.ask_over(NET_SOCKET, request, fds)
    }

    fn ask_over(&self, name: &str, request: &NetRequest, fds: &[BorrowedFd<'_>]) -> Result<NetReply, TransportError> {
        let path = self.host.path("run").join(name);
        let socket = socket::connect_within(&path, Some(PATIENCE))?;
        transport::send(&socket, request, MAX_NET_REQUEST, fds)?;
        let mut incoming = Incoming::new(MAX_REPLY, 0);
        Ok(transport::receive(&socket, &mut incoming, Instant::now() + PATIENCE)?.0)
    }

    /// Sends a request over root's socket, which must not fail.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn ask(&self, request: &NetRequest) -> NetReply {
        match self.try_ask(request, &[]).expect("bailiwick-net answers") {
            NetReply::Failed(failure) => panic!("{failure}\n{}", self.net_log()),
            reply => reply,
        }
    }

    /// What a tenant has sent and received, as `bailiwick-net` counts.
    ///
    /// # Panics
    /// When it does not say.
    #[must_use]
    pub fn traffic(&self, tenant: &str) -> NetworkTraffic {
        match self.ask(&NetRequest::Traffic) {
            NetReply::Traffic(all) => all.get(&crate::name(tenant)).copied().unwrap_or_default(),
            other => panic!("{other:?}"),
        }
    }

    /// Puts the policy of a tenant in force.
    #[must_use]
    pub fn update(&self, tenant: &str) -> NetReply {
        self.ask(&NetRequest::Update { tenant: crate::name(tenant) })
    }

    /// The network of a running jail, in which a test has all rights: more than root of the jail in any profile.
    #[must_use]
    pub fn jail(&self, tenant: &str) -> Space {
        Space::of(self.host.init(tenant))
    }

    /// The file of the router, as it is seen from here.
    #[must_use]
    pub fn router_path(&self) -> PathBuf {
        let path = self.host.path("netns/bailiwick");
        PathBuf::from(format!("/proc/{}/root", self.space.pid())).join(path.strip_prefix("/").expect("absolute"))
    }

    /// The router.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn router(&self) -> Space {
        Space::open(&self.router_path())
    }

    /// The addresses of a running jail.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn addresses(&self, tenant: &str) -> (Ipv4Addr, Ipv6Addr) {
        self.jail(tenant).addresses()
    }

    /// The addresses that jails can have on this machine.
    ///
    /// # Panics
    /// When the machine has no id.
    #[must_use]
    pub fn pools() -> Pools {
        let machine = std::fs::read_to_string("/etc/machine-id").expect("a machine has an id");
        let prefix = |address: IpAddr, length| Prefix::new(address, length).expect("a prefix");
        let v6 = prefix(local_prefix(&machine).into(), 48);
        Pools::new(prefix(Ipv4Addr::new(100, 64, 0, 0).into(), 10), Some(v6)).expect("each of its family")
    }

    /// The addresses of the router and of the host's end of the link to it.
    #[must_use]
    pub fn inner_addresses() -> [Addresses; 2] {
        let pools = Self::pools();
        [pools.router(), pools.host()]
    }

    /// Reads everything that arrives outside from now on.
    #[must_use]
    pub fn arrivals(&self) -> Capture {
        Capture::start(&self.outside, OUTSIDE_MAC)
    }

    /// Reads everything that arrives at the host's end of the link to the router from now on, and everything else that arrives at the
    /// host.
    #[must_use]
    pub fn arrivals_at_host(&self) -> Capture {
        Capture::start(&self.space, HOST_MAC)
    }

    /// Reads everything that arrives in a jail from now on.
    #[must_use]
    pub fn arrivals_in(&self, tenant: &str) -> Capture {
        self.arrivals_at(&self.jail(tenant))
    }

    /// The same by the network of the jail.
    #[must_use]
    pub fn arrivals_at(&self, jail: &Space) -> Capture {
        Capture::start(jail, JAIL_MAC)
    }

    /// The networks of jails, also of those that are being made: a process of each, by the number of the namespace. Only the warden
    /// was started.
    ///
    /// # Panics
    /// When no warden runs.
    #[must_use]
    pub fn networks(&self) -> BTreeMap<u64, u32> {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.host.pid()));
        let children = children.expect("the warden runs");
        let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        let own = namespace::inode(self.host.pid(), "net").expect("the warden runs");
        let all = pids.filter_map(|pid| Some((namespace::inode(pid, "net").ok()?, pid)));
        // A child that makes something for a jail may be in the warden's network for a moment.
        all.filter(|(inode, _)| *inode != own).collect()
    }

    /// Waits until everything that was sent from a jail before has arrived outside, or never will: sends a packet after it on each
    /// processor, and waits for those. A packet stays on its processor, and none overtakes another there.
    pub fn settle(&self, tenant: &str, capture: &Capture) {
        self.settle_from(&self.jail(tenant), capture);
    }

    /// The same for any namespace.
    pub fn settle_from(&self, space: &Space, capture: &Capture) {
        capture.wait_for_marks(|mark| space.send_marks(SocketAddr::from((OUTSIDE_V4, 443)), mark));
    }

    /// The same for a jail that cannot send: over the wire itself.
    pub fn settle_wire(&self, capture: &Capture) {
        capture.wait_for_marks(|mark| self.space.send_marks(SocketAddr::from((OUTSIDE_V4, 443)), mark));
    }

    /// Waits until everything that was sent to a jail before has arrived there: over the router's end of its link.
    pub fn settle_in(&self, tenant: &str, capture: &Capture) {
        self.settle_over(&self.router_link(tenant), self.addresses(tenant).0, capture);
    }

    /// Waits until everything that was sent from the outside before has passed the host: a mark after it arrives there.
    pub fn settle_host(&self) {
        let capture = self.arrivals_at_host();
        capture.wait_for_marks(|mark| self.outside.send_marks(SocketAddr::from((HOST_V4, 9)), mark));
    }

    /// What a tenant has used of its month, in bytes, as it was written down last.
    ///
    /// # Panics
    /// When `bailiwick-net` does not say.
    #[must_use]
    pub fn month(&self, tenant: &str) -> u64 {
        match self.ask(&NetRequest::Observe { tenants: vec![crate::name(tenant)] }) {
            NetReply::Observed(facts) => facts[0].month,
            other => panic!("{other:?}"),
        }
    }

    /// The same while `bailiwick-net` does not answer: over a link of the router to an address.
    pub fn settle_over(&self, link: &str, to: Ipv4Addr, capture: &Capture) {
        let router = self.router();
        capture.wait_for_marks(|mark| {
            for processor in space::processors() {
                let frame = udp_v4((GATEWAY_MAC, JAIL_MAC), (Ipv4Addr::LOCALHOST, to), 9, mark);
                router.send_frames_on(processor, link, &[frame]);
            }
        });
    }

    /// The router's end of a jail's link.
    #[must_use]
    pub fn router_link(&self, tenant: &str) -> String {
        match self.ask(&NetRequest::Observe { tenants: vec![crate::name(tenant)] }) {
            NetReply::Observed(facts) => facts[0].link.clone().expect("a link"),
            other => panic!("{other:?}"),
        }
    }

    /// Bytes on the wire until now.
    ///
    /// # Panics
    /// When the outside does not count.
    #[must_use]
    pub fn counted(&self) -> Counted {
        let read = |name: &str| {
            let text = self.outside.ok(&format!("nft list counter inet wire {name}"));
            let bytes = text.split("bytes ").nth(1).and_then(|text| text.split_whitespace().next());
            bytes.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{text}"))
        };
        Counted { arrived: (read("in4"), read("in6")), left: (read("out4"), read("out6")) }
    }
}

impl Default for Wire {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if std::thread::panicking() {
            writeln!(io::stderr(), "--- log of bailiwick-net ---\n{}", self.net_log()).ok();
        }
        if std::thread::panicking() && self.cache.is_some() {
            writeln!(io::stderr(), "--- log of the cache ---\n{}", self.cache_log()).ok();
        }
        for mut child in [self.net.take(), self.cache.take()].into_iter().flatten() {
            child.kill().ok();
            child.wait().ok();
        }
        self.servers.end();
    }
}

/// The process id of unbound, as the child of a process.
fn unbound(parent: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let is_unbound =
        |pid: &&str| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "unbound");
    children.split_whitespace().find(is_unbound)?.parse().ok()
}

/// A connection to a server of the outside, which sends each line back.
#[derive(Debug)]
pub struct Talk {
    reader: BufReader<TcpStream>,
    /// The client's address, as the server sees it.
    pub seen_as: IpAddr,
}

impl Talk {
    /// Connects from a namespace.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub fn open(space: &Space, to: SocketAddr) -> io::Result<Self> {
        let stream = space.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let seen_as: IpAddr = line.trim().parse().map_err(|_| io::Error::other(format!("said {line:?}")))?;
        Ok(Self { reader, seen_as: seen_as.to_canonical() })
    }

    /// Sends bytes and reads them back.
    ///
    /// # Errors
    /// When the connection is over, or nothing comes back in time.
    pub fn echo(&mut self, bytes: usize) -> io::Result<()> {
        let mut left = bytes;
        let mut buffer = [7; 16 << 10];
        while left > 0 {
            let portion = left.min(buffer.len());
            self.reader.get_mut().write_all(&buffer[..portion])?;
            self.reader.read_exact(&mut buffer[..portion])?;
            left -= portion;
        }
        Ok(())
    }

    /// Sends a text and waits for nothing.
    ///
    /// # Errors
    /// When the connection is over.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        self.reader.get_mut().write_all(text.as_bytes())
    }

    /// Gives up sooner when nothing comes back.
    ///
    /// # Panics
    /// When the socket is none.
    pub fn set_patience(&self, time: Duration) {
        self.reader.get_ref().set_read_timeout(Some(time)).expect("a socket");
    }
}

/// Sends a datagram from a namespace to a server that answers with the client's address.
///
/// # Errors
/// What the kernel says when it was refused, and `TimedOut` or `WouldBlock` when no answer came.
pub fn ask_udp(space: &Space, to: SocketAddr, wait: Duration) -> io::Result<IpAddr> {
    let local: SocketAddr =
        if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = space.run(|| UdpSocket::bind(local))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(wait))?;
    socket.send(b"who am I?")?;
    let mut buffer = [0; 100];
    let len = socket.recv(&mut buffer)?;
    String::from_utf8_lossy(&buffer[..len]).parse().map_err(io::Error::other)
}

/// Listens in a namespace; each connection sends each byte back, after a line with the client's address.
///
/// # Panics
/// When the port is taken.
#[must_use]
pub fn serve(space: &Space, address: SocketAddr) -> OwnedFd {
    let listener = space.run(|| TcpListener::bind(address)).unwrap_or_else(|error| panic!("{address}: {error}"));
    let kept = listener.as_fd().try_clone_to_owned().expect("dup");
    servers::serve_tcp(listener);
    kept
}
