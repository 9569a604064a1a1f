//! The router: a network namespace that belongs to a user namespace of its own.
//!
//! A file holds it, so it outlives every program: traffic goes on while `bailiwick-net` is restarted. Its user namespace has names for
//! two users of the host: root, so that files and peers of root are known as such, and the user of `bailiwick-net`.
//!
//! Danger: were it a namespace of the initial user namespace, then `CAP_NET_ADMIN` in it would reach the host. The kernel lets its
//! holder change links of every namespace that a link leads to (`IFLA_TARGET_NETNSID`), and the router has a link to the host.

use crate::settings::RouterUser;
use bailiwick_proto::net::MAX_NET_REQUEST;
use bailiwick_proto::{Incoming, NetReply, NetRequest, transport};
use bailiwick_sys::proc::IdKind;
use bailiwick_sys::process::{self, Cloned, NETWORK_NAMESPACE, USER_NAMESPACE};
use bailiwick_sys::{file, mount, namespace, socket};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the process that made the namespaces may take to end.
const CHILD_TIME: Duration = Duration::from_secs(10);
/// How long `bailiwick-net` may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// Opens the router; `None` when the file is missing or holds no router.
pub(crate) fn open(path: &Path) -> io::Result<Option<OwnedFd>> {
    let namespace = match rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(is_apart(&namespace).then_some(namespace))
}

/// Whether a descriptor is of a network namespace that belongs to another user namespace than this process's.
pub(crate) fn is_apart(namespace: impl AsFd) -> bool {
    let own = namespace::inode(std::process::id(), "user");
    let owner = namespace::user_of(&namespace).and_then(file::metadata);
    namespace::is_network(&namespace) && matches!((own, owner), (Ok(own), Ok(owner)) if own != owner.inode)
}

/// How there is a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ensured {
    /// It was there.
    Found,
    /// It was served, and has its file again.
    FileMissing,
    /// It was made.
    Made,
}

/// Opens the router; makes it if there is none. The one that is served goes on if only its file is gone: jails are connected to it.
pub(crate) fn ensure(
    path: &Path,
    user: RouterUser,
    served: impl FnOnce() -> Option<OwnedFd>,
) -> io::Result<(OwnedFd, Ensured)> {
    if let Some(router) = open(path)? {
        return Ok((router, Ensured::Found));
    }
    let (parent, name) = path.parent().zip(path.file_name()).ok_or(io::ErrorKind::InvalidInput)?;
    let (above, folder) = parent.parent().zip(parent.file_name()).ok_or(io::ErrorKind::InvalidInput)?;
    let dir = file::ensure_dir_at(file::open_dir(above)?, folder, 0o755)?;
    // A namespace of the host's, or the file of one that somebody has removed.
    while mount::detach(path).is_ok() {}
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let place = file::open_at(&dir, name, flags, Mode::from_raw_mode(0o444))?;
    let (router, ensured) = match served() {
        Some(router) => (router, Ensured::FileMissing),
        None => (make(user)?, Ensured::Made),
    };
    mount::attach(mount::detached_copy_of(&router)?, &place)?;
    Ok((router, ensured))
}

/// The router of the program that answers on this socket, which only root can have bound.
pub(crate) fn served(socket: &Path) -> Option<OwnedFd> {
    let connection = socket::connect_within(socket, Some(ANSWER_TIME)).ok()?;
    let pid = socket::peer(&connection).ok()?.pid;
    let router = namespace::open(pid, "net").ok()?;
    // It answers, so it has not ended before the namespace was opened, and the number of the process was not another's.
    transport::send(&connection, &NetRequest::Hello, MAX_NET_REQUEST, &[]).ok()?;
    let mut incoming = Incoming::new(MAX_NET_REQUEST, 0);
    transport::receive::<NetReply>(&connection, &mut incoming, Instant::now() + ANSWER_TIME).ok()?;
    is_apart(&router).then_some(router)
}

/// The user and the group of `bailiwick-net` in the user namespace of the router.
pub(crate) const USER_INSIDE: u32 = 1;

/// Makes a network namespace in a new user namespace.
fn make(user: RouterUser) -> io::Result<OwnedFd> {
    let (held, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let child = process::clone_into(USER_NAMESPACE | NETWORK_NAMESPACE, None, &[held.as_fd()])?;
    let (pid, pidfd) = match child {
        Cloned::Child => {
            // Until the parent has opened the namespaces, or has ended.
            rustix::io::read(&held, &mut [0]).ok();
            process::exit_now(0)
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(held);
    let open = || {
        namespace::set_id_map(pid, IdKind::User, &[[0, 0, 1], [USER_INSIDE, user.uid, 1]])?;
        namespace::set_id_map(pid, IdKind::Group, &[[0, 0, 1], [USER_INSIDE, user.gid, 1]])?;
        namespace::open(pid, "net")
    };
    let router = open();
    drop(end);
    process::has_ended(&pidfd, CHILD_TIME)?;
    process::reap(&pidfd)?;
    router
}
