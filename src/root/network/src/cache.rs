//! `bailiwick-net --cache`: starts the cache of names, which is Debian's unbound, and ends it when it should be another.
//!
//! ```text
//!   root of the host --+-- clone, into a network of its own --> the user of the cache --> unbound
//!                      |
//!                      +-- makes the link from that network to the router --> the user of the cache: waits
//! ```
//!
//! The network lives as long as unbound does. Without unbound there is no link, so no packet to it has a way.
//!
//! Danger: unbound reads packets of every tenant and of the Internet. It has no right, no file but its libraries, and one link, on
//! which the router lets it answer jails and ask resolvers.

mod configuration;

pub(crate) use configuration::{follow, remove};

use crate::settings::{self, RouterUser, SettingsError};
use crate::uplink::{self, UplinkError, in_router, side_of_cache, side_of_router_to_cache};
use bailiwick_netlink::route::{AddressGeneration, LinkEnd, Mac, RouteSocket, State, Veth};
use bailiwick_observe::network::{self as observed, NetworkError};
use bailiwick_plan::landlock::{Domain, access};
use bailiwick_plan::network::{self, Pools};
use bailiwick_policy::{Diagnostic, Store, UNBOUND};
use bailiwick_proto::{NET_CACHE, NET_DIR};
use bailiwick_sys::process::{self, Cloned, NETWORK_NAMESPACE};
use bailiwick_sys::signal::{self, SIGCHLD, SIGINT, SIGTERM, Signals};
use bailiwick_sys::{credential, file, landlock, namespace};
use bailiwick_types::ExitStatus;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::process::{Pid, Signal};
use rustix::time::Timespec;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often the configuration is looked at.
const LOOK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How long unbound may take to end.
const END_TIME: Duration = Duration::from_secs(5);
/// The descriptor of unbound's configuration in unbound.
const CONFIGURATION: i32 = 3;
/// Packets that may wait on the link: it has no rate.
const NO_QUEUE: u32 = 0;
/// The first port that a program needs no right to listen on.
const FIRST_PORT: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
/// The files that unbound may read, and the devices that it may use.
const FILES: [&str; 4] = ["/usr", "/etc/ld.so.cache", "/etc/ssl", "/etc/localtime"];
const DEVICES: [&str; 2] = ["/dev/null", "/dev/urandom"];

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheError {
    /// `bailiwick.toml` has errors.
    #[error("{}", bailiwick_policy::lines(.0))]
    Policy(Vec<Diagnostic>),
    /// The process is not root.
    #[error("bailiwick-net --cache must be started as root")]
    NotRoot,
    /// The settings cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The settings do not fit the machine.
    #[error(transparent)]
    Machine(#[from] NetworkError),
    /// Nobody wants a cache.
    #[error(
        "there is no cache to start: `bailiwick-net --uplink` says why; with cache = true below [network] it makes \"{0}\""
    )]
    Unwanted(PathBuf),
    /// There is no router.
    #[error("there is no router at \"{0}\"; `bailiwick-net --uplink` makes it, or says why it cannot")]
    NoRouter(PathBuf),
    /// The router cannot be entered.
    #[error(transparent)]
    Router(#[from] UplinkError),
    /// The kernel refused the link.
    #[error(transparent)]
    Netlink(#[from] bailiwick_netlink::Error),
    /// Unbound has ended by itself.
    #[error("{UNBOUND} has ended")]
    Ended,
    /// Another call failed.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl CacheError {
    /// The exit status for the service manager.
    pub(crate) fn status(&self) -> ExitStatus {
        match self {
            Self::Policy(_) | Self::Settings(_) | Self::Machine(_) => ExitStatus::Invalid,
            Self::NotRoot => ExitStatus::Refused,
            Self::Unwanted(_) | Self::NoRouter(_) => ExitStatus::HostCannot,
            Self::Router(error) => error.status(),
            Self::Netlink(_) | Self::Ended | Self::System { .. } => ExitStatus::Failed,
        }
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> CacheError {
    move |source| CacheError::System { what, source }
}

/// What is needed to start unbound.
struct Start {
    user: RouterUser,
    /// Holds the configuration.
    memory: OwnedFd,
    /// Tells the child to go on. It is closed when the parent has failed.
    go: OwnedFd,
    parent: Pid,
}

/// Runs the cache until a signal tells it to end, the process ends that has started it, or it should be another cache: then the
/// service manager starts that.
pub(crate) fn run(config: &Path) -> Result<(), CacheError> {
    if !rustix::process::geteuid().is_root() {
        return Err(CacheError::NotRoot);
    }
    let (host, _) = Store::new(config).host().map_err(CacheError::Policy)?;
    let user = settings::cache_user(&host)?;
    let pools = observed::pools(&host.network)?;
    let path = host.runtime_dir.join(NET_DIR);
    let unwanted = || CacheError::Unwanted(path.join(NET_CACHE));
    let dir = match file::open_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(unwanted()),
        dir => dir.map_err(system("open the directory of the network"))?,
    };
    let text = configuration::read(&dir).map_err(system("read the configuration"))?.ok_or_else(unwanted)?;
    let router = uplink::open_router(&host.router_namespace()).map_err(system("open the router"))?;
    let router = router.ok_or_else(|| CacheError::NoRouter(host.router_namespace()))?;
    let manager = rustix::process::getppid()
        .ok_or_else(|| system("find who has started this process")(io::ErrorKind::NotFound.into()))?;
    let signals = Signals::block(&[SIGINT, SIGTERM, SIGCHLD]).map_err(system("wait for signals"))?;

    let memory = configuration_in_memory(&text).map_err(system("pass the configuration on"))?;
    let (go, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(io::Error::from)
        .map_err(system("make a pipe"))?;
    let start = Start { user, memory, go, parent: rustix::process::getpid() };
    let keep = [start.memory.as_fd(), start.go.as_fd()];
    let cloned = process::clone_into(NETWORK_NAMESPACE, None, &keep).map_err(system("make a network"))?;
    let (pid, child) = match cloned {
        Cloned::Child => {
            let error = start.become_unbound();
            complain(&error);
            process::exit_now(1)
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(start);
    // If this fails, the pipe is closed and the child ends.
    let own = namespace::open(pid, "net").map_err(system("open the network of the cache"))?;
    connect(&router, &own, pools)?;
    give_up(user).map_err(system("give up all rights"))?;
    credential::set_undumpable().map_err(system("close this process's memory to unbound"))?;
    // After the change of users, which makes the kernel forget it. A second cache takes the link of the first one away.
    process::end_with(manager, Signal::TERM).map_err(system("end with the service manager"))?;
    rustix::io::write(&tell, &[1]).map_err(io::Error::from).map_err(system("start unbound"))?;
    drop((tell, own, router));
    watch(&signals, &child, &dir, &text)
}

/// A file in memory, which has no name that a confinement of unbound could refuse (`memfd_create(2)`).
fn configuration_in_memory(text: &str) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("unbound.conf", MemfdFlags::CLOEXEC)?;
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(&memory, rest)?..];
    }
    Ok(memory)
}

/// Makes the link between the router and the network of the cache, with everything that leads over it.
fn connect(router: &OwnedFd, own: &OwnedFd, pools: Pools) -> Result<(), CacheError> {
    let mut outside = in_router(router, RouteSocket::open)??;
    // A cache that has just ended may have left it: the kernel clears networks away later.
    if let Some(old) = outside.link(network::CACHE_LINK)? {
        outside.delete_link(old.index)?;
    }
    let end = |name: &str, mac| LinkEnd {
        name: name.to_owned(),
        mac: Mac(mac),
        mtu: network::MTU,
        tx_queue_len: NO_QUEUE,
        queues: 1,
    };
    let veth = Veth {
        near: end(network::CACHE_LINK, network::CACHE_GATEWAY_MAC),
        far: end(network::INTERFACE, network::CACHE_MAC),
        near_state: State::Down,
    };
    outside.add_veth(&veth, own.as_fd())?;
    let mut inside = in_router(own, || {
        std::fs::write(FIRST_PORT, "53")?;
        RouteSocket::open().map_err(io::Error::other)
    })?
    .map_err(system("set up the network of the cache"))?;
    for (socket, side) in [(&mut inside, side_of_cache(pools)), (&mut outside, side_of_router_to_cache(pools))] {
        let missing = || system("make the link of the cache")(io::ErrorKind::NotFound.into());
        let link = socket.link(side.link)?.ok_or_else(missing)?;
        socket.set_address_generation(link.index, AddressGeneration::None)?;
        side.ensure(socket, &link)?;
    }
    Ok(())
}

/// Becomes the user of the cache, without any right.
fn give_up(user: RouterUser) -> io::Result<()> {
    // What may be had later is given up last, which is a right itself.
    credential::keep_capabilities_over_user_changes()?;
    credential::become_for_good(user.uid, user.gid)?;
    credential::limit_capabilities(0)?;
    credential::set_no_new_privs()
}

impl Start {
    /// Executes unbound, without rights. Returns only an error.
    fn become_unbound(&self) -> io::Error {
        match self.prepare() {
            Ok(()) => {}
            Err(error) => return error,
        }
        let program = CString::new(UNBOUND).expect("no zero in it");
        let arguments = [UNBOUND, "-d", "-p", "-c", &format!("/proc/self/fd/{CONFIGURATION}")];
        let arguments = arguments.map(|argument| CString::new(argument).expect("no zero in it"));
        process::execute_path(&program, &arguments, &[])
    }

    fn prepare(&self) -> io::Result<()> {
        if rustix::io::read(&self.go, &mut [0])? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has no link"));
        }
        let rules = rules()?;
        give_up(self.user)?;
        if let Some(handled) = Domain::of_router(landlock::abi()) {
            landlock::restrict(handled, 0, rules)?;
        }
        signal::unblock_all()?;
        // After the change of users, which makes the kernel forget it.
        process::end_with(self.parent, Signal::KILL)?;
        process::place(&self.memory, CONFIGURATION)
    }
}

/// What unbound may open: what is not there, it does without.
fn rules() -> io::Result<Vec<(OwnedFd, u64)>> {
    let read = access::READ_FILE | access::READ_DIR | access::EXECUTE;
    let rights = FILES
        .map(|path| (path, read))
        .into_iter()
        .chain(DEVICES.map(|path| (path, access::READ_FILE | access::WRITE_FILE)));
    let mut all = Vec::new();
    for (path, rights) in rights {
        match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => {
                let of_files = !(access::READ_DIR);
                let is_dir = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode).is_dir();
                all.push((fd, if is_dir { rights } else { rights & of_files }));
            }
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(all)
}

/// Waits until the cache has ended or should end.
fn watch(signals: &Signals, child: &OwnedFd, dir: &OwnedFd, text: &str) -> Result<(), CacheError> {
    loop {
        let mut fds = [PollFd::new(signals, PollFlags::IN), PollFd::new(child, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&LOOK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(system("wait")(error.into())),
        }
        let has_ended = !fds[1].revents().is_empty();
        while let Some(number) = signals.take().map_err(system("read a signal"))? {
            if number != SIGCHLD {
                return end(child).map_err(system("end unbound"));
            }
        }
        if has_ended {
            process::reap(child).map_err(system("see how unbound ended"))?;
            return Err(CacheError::Ended);
        }
        // One that cannot be read is one that is being made.
        if configuration::read(dir).is_ok_and(|now| now.as_deref() != Some(text)) {
            return end(child).map_err(system("end unbound"));
        }
    }
}

fn end(child: &OwnedFd) -> io::Result<()> {
    process::signal(child, Signal::TERM)?;
    if !process::has_ended(child, END_TIME)? {
        process::kill(child)?;
        process::has_ended(child, END_TIME)?;
    }
    process::reap(child).map(drop)
}

fn complain(error: &io::Error) {
    let text = format!("bailiwick-net: cannot start {UNBOUND}: {error}\n");
    rustix::io::write(rustix::stdio::stderr(), text.as_bytes()).ok();
}
