//! The start of `bailiwick-net`: from root of the host to the user of the router, and nothing else.
//!
//! ```text
//!   root of the host --+-- fork --> the process that makes links: CAP_NET_ADMIN over all namespaces, no name it could open
//!                      |
//!                      +-- enters the router's user namespace, then its network namespace
//!                          --> the router's process: CAP_NET_ADMIN over the router, and over nothing else
//! ```
//!
//! Danger: the order is the security. Everything of the host that the router's process needs is opened first. A capability in the
//! router's user namespace is none over the host. After the last step no name outside `/etc/bailiwick` and its own two directories
//! can be opened.

use crate::link_maker::{self, LinkMaker};
use crate::manager::Manager;
use crate::router::{Opened, Router};
use crate::serve::{Gate, Rights};
use crate::settings::{self, SettingsError};
use crate::uplink::USER_INSIDE;
use crate::{serve, uplink};
use bailiwick_plan::capability::CapabilitySet;
use bailiwick_plan::seccomp;
use bailiwick_policy::{Diagnostic, Host, Store};
use bailiwick_proto::{NET_DIR, NET_ROOT_SOCKET, NET_SOCKET};
use bailiwick_sys::namespace::{self, Kind};
use bailiwick_sys::signal::{SIGINT, SIGTERM, Signals};
use bailiwick_sys::{credential, file, landlock, process, socket};
use bailiwick_types::ExitStatus;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::net::SocketAddrUnix;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The directory of what this program must remember, below the state directory.
const STATE: &str = "network";
const BACKLOG: i32 = 64;

/// Why `bailiwick-net` cannot work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// `bailiwick.toml` has errors.
    #[error("{}", bailiwick_policy::lines(.0))]
    Policy(Vec<Diagnostic>),
    /// The process is not root.
    #[error("bailiwick-net must be started as root")]
    NotRoot,
    /// The settings cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The user of `bailiwickd` does not exist.
    #[error("the user \"{0}\" of bailiwickd does not exist")]
    Daemon(String),
    /// There is no router.
    #[error("there is no router at \"{0}\"; `bailiwick-net --uplink` makes it, or says why it cannot")]
    NoRouter(PathBuf),
    /// The router cannot be set up.
    #[error(transparent)]
    Router(#[from] crate::router::RouterError),
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

impl StartError {
    /// The exit status for the service manager.
    pub(crate) fn status(&self) -> ExitStatus {
        match self {
            Self::Policy(_) | Self::Settings(_) | Self::Daemon(_) => ExitStatus::Invalid,
            Self::NotRoot => ExitStatus::Refused,
            // Only another run of `--uplink` helps.
            Self::NoRouter(_) => ExitStatus::HostCannot,
            _ => ExitStatus::Failed,
        }
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::System { what, source }
}

/// Serves until a signal tells it to end. `log` gets one line for each event.
pub(crate) fn run(config: &Path, mut log: impl FnMut(&str)) -> Result<(), StartError> {
    if !rustix::process::geteuid().is_root() {
        return Err(StartError::NotRoot);
    }
    let config = config.canonicalize().map_err(system("find the configuration directory"))?;
    let mut store = Store::new(&config);
    let (host, _) = store.host().map_err(StartError::Policy)?;
    let user = settings::user(&host)?;
    let daemon = daemon(&host)?;
    let path = host.router_namespace();
    let router = uplink::open_router(&path).map_err(system("open the router"))?;
    let router = router.ok_or(StartError::NoRouter(path))?;
    credential::set_undumpable().map_err(system("close this process's memory to others"))?;
    let signals = Signals::block(&[SIGINT, SIGTERM]).map_err(system("wait for signals"))?;

    let manager = Manager::connect().map_err(system("talk to the service manager"))?;
    let maker = start_link_maker(&router, (user.uid, user.gid))?;
    let runtime = file::open_dir(&host.runtime_dir).map_err(system("open the runtime directory"))?;
    let runtime = file::ensure_dir_at(&runtime, NET_DIR, 0o755).map_err(system("make the directory of the socket"))?;
    let listen = |name: &str, group| listen(&host, name, group).map_err(system("listen"));
    let gates = [
        Gate::new(listen(NET_SOCKET, Some(daemon.1))?, Rights::Read),
        Gate::new(listen(NET_ROOT_SOCKET, None)?, Rights::Change),
    ];
    let state = own_directory(&host, (user.uid, user.gid)).map_err(system("make the directory of what is used"))?;

    // The group of bailiwickd may read the policy.
    let groups = [Gid::from_raw(daemon.1)];
    rustix::thread::set_thread_groups(&groups).map_err(|error| system("take the group of bailiwickd")(error.into()))?;
    enter(&router).map_err(system("enter the router"))?;
    let opened = Opened { store, host, runtime, state, maker };
    let router = Router::open(opened, &mut log)?;
    confine(&config, &router).map_err(system("confine itself"))?;
    serve::serve(router, &gates, &signals, &manager, log).map_err(system("go on serving"))
}

/// The user and the group of `bailiwickd`.
fn daemon(host: &Host) -> Result<(u32, u32), StartError> {
    if let Ok(number) = host.user.parse() {
        return Ok((number, number));
    }
    let user = users::get_user_by_name(&host.user).ok_or_else(|| StartError::Daemon(host.user.clone()))?;
    Ok((user.uid(), user.primary_group_id()))
}

fn start_link_maker(router: &OwnedFd, user: (u32, u32)) -> Result<LinkMaker, StartError> {
    let (ours, theirs) = socket::channel().map_err(system("talk to the process that makes links"))?;
    match process::fork().map_err(system("start the process that makes links"))? {
        Some(_) => Ok(LinkMaker::new(ours)),
        None => {
            drop(ours);
            // It ends when this process does: then its socket is closed.
            let Err(error) = link_maker::run(theirs, router.as_fd(), user);
            let status = if error.kind() == io::ErrorKind::UnexpectedEof { 0 } else { 1 };
            process::exit_now(status)
        }
    }
}

/// Binds a socket for root, and for a group if one is given. An earlier program may have left its own.
fn listen(host: &Host, name: &str, group: Option<u32>) -> io::Result<OwnedFd> {
    let path = host.runtime_dir.join(name);
    if socket::connect_at_once(&path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another bailiwick-net answers"));
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = socket::unbound()?;
    rustix::process::umask(Mode::from_raw_mode(0o177));
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path)?)?;
    if let Some(group) = group {
        rustix::fs::chown(&path, Some(Uid::ROOT), Some(Gid::from_raw(group)))?;
        rustix::fs::chmod(&path, Mode::from_raw_mode(0o660))?;
    }
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// The directory of what this program must remember.
fn own_directory(host: &Host, (uid, gid): (u32, u32)) -> io::Result<OwnedFd> {
    let dir = file::ensure_dir_at(file::open_dir(&host.state_dir)?, STATE, 0o700)?;
    rustix::fs::fchown(&dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o700))?;
    Ok(dir)
}

/// Becomes the user of the router. The capabilities over the host are gone for good.
fn enter(router: &OwnedFd) -> io::Result<()> {
    namespace::enter(namespace::user_of(router)?, Kind::User)?;
    namespace::enter(router, Kind::Network)?;
    credential::keep_capabilities_over_user_changes()?;
    credential::become_inside(USER_INSIDE, USER_INSIDE)?;
    credential::limit_capabilities(CapabilitySet::all_of(&[CapabilitySet::NET_ADMIN]).0)?;
    credential::set_no_new_privs()
}

/// What it may open from now on: the policy, what `--uplink` reports, and its own file.
fn confine(config: &Path, router: &Router) -> io::Result<()> {
    use bailiwick_plan::landlock::access::{MAKE_REG, READ_DIR, READ_FILE, REMOVE_FILE, TRUNCATE, WRITE_FILE};
    let open = |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let domain = bailiwick_plan::landlock::Domain::of_router(landlock::abi());
    if let Some(handled) = domain {
        let rules = vec![
            (open(config)?, READ_DIR | READ_FILE),
            (router.runtime().try_clone()?, READ_DIR | READ_FILE),
            (
                router.state().try_clone_to_owned()?,
                (READ_DIR | READ_FILE | WRITE_FILE | MAKE_REG | REMOVE_FILE | TRUNCATE) & handled,
            ),
        ];
        landlock::restrict(handled, 0, rules)?;
    }
    let filter: Vec<_> = seccomp::filter_of_router().iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect();
    bailiwick_sys::seccomp::load(&filter)
}
