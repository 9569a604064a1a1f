//! Unix sockets: descriptors beside a message (`SCM_RIGHTS`), and who is at the other end.
//!
//! Danger: a peer can send descriptors that nobody asked for. [`receive`] takes at most the number that its caller
//! names and closes the rest, and every one is `CLOEXEC` from the start.

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// The most descriptors that cross beside one message: two namespaces, and a group in each hierarchy that we use.
pub const MAX_FDS: usize = 8;

/// Who is at the other end of a connected Unix socket, as it was when the connection was made (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Process, as this process's pid namespace counts; 0 when it has no number there (it is in another namespace).
    pub pid: u32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// Credentials of the peer.
///
/// # Errors
/// What `getsockopt(2)` says.
pub fn peer(socket: impl AsFd) -> io::Result<Peer> {
    // Not by way of rustix: it takes the number for one that is never 0, and here it can be (`pid_vnr` in the kernel).
    let credentials = getsockopt(&socket, PeerCredentials)?;
    Ok(Peer { pid: u32::try_from(credentials.pid()).unwrap_or(0), uid: credentials.uid(), gid: credentials.gid() })
}

/// Every group of the peer, the effective one first, as they were when the connection was made (`SO_PEERGROUPS`).
///
/// # Errors
/// What `getsockopt(2)` says.
pub fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let socket = socket.as_fd();
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut size = libc::socklen_t::try_from(size_of_val(&groups[..])).map_err(io::Error::other)?;
        // SAFETY: getsockopt(2) writes at most `size` bytes through the pointer, which is to a live vector of that
        // size, and the number that it wrote, or would have liked to write, through the other. Neither rustix nor nix has the
        // option, and what nix has for options of one's own is for values of one size.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        let count = usize::try_from(size).map_err(io::Error::other)? / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            groups.insert(0, peer(socket)?.gid);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // NGROUPS_MAX is 65,536.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > 65_536 {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// Sends bytes with descriptors beside them. How many bytes went out is returned; the descriptors went with the first.
///
/// # Errors
/// What `sendmsg(2)` says; a closed peer is `EPIPE`, not a signal.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

/// Receives bytes and the descriptors beside them, at most `max_fds`. Zero bytes mean that the peer has gone.
///
/// # Errors
/// `EMSGSIZE` when a datagram did not fit, `E2BIG` when there were more descriptors than `max_fds` (all are closed),
/// else what `recvmsg(2)` says.
pub fn receive(socket: impl AsFd, buffer: &mut [u8], max_fds: usize) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    // Without room for control data the kernel closes what came, so that nothing can be planted here.
    let space = if max_fds == 0 { &mut space[..0] } else { &mut space[..] };
    let mut ancillary = RecvAncillaryBuffer::new(space);
    let message =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for item in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(items) = item {
            fds.extend(items);
        }
    }
    if message.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    if fds.len() > max_fds || (max_fds > 0 && message.flags.contains(ReturnFlags::CTRUNC)) {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    Ok((message.bytes, fds))
}

/// Whether a call failed because this process or the host lacks descriptors or memory. Such a failure passes, and the peer
/// has not caused it.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// A descriptor that a server holds back, so that it can refuse a connection even when no descriptor is left.
///
/// Without a free descriptor `accept(2)` fails and leaves the connection in the queue: its client waits for ever, and a loop
/// that polls the listener spins. The server frees the spare one, accepts the connection and closes it, so the client sees
/// the end of the connection.
#[derive(Debug)]
pub struct SpareDescriptor(Option<OwnedFd>);

impl SpareDescriptor {
    /// Duplicates the descriptor of `listener` as the spare one. A failure is not an error: [`Self::turn_away`] tries again.
    #[must_use]
    pub fn new(listener: impl AsFd) -> Self {
        let mut spare = Self(None);
        spare.refill(listener);
        spare
    }

    /// Accepts the next connection and closes it. Returns `false` when even this fails: then the caller should pause.
    pub fn turn_away(&mut self, listener: impl AsFd) -> bool {
        self.0 = None;
        let turned = rustix::net::accept_with(&listener, rustix::net::SocketFlags::CLOEXEC).map(drop);
        self.refill(&listener);
        turned.is_ok()
    }

    fn refill(&mut self, listener: impl AsFd) {
        self.0 = rustix::io::fcntl_dupfd_cloexec(listener, 3).ok();
    }
}

/// Connects to a socket without waiting for room in its queue.
///
/// # Errors
/// `EAGAIN` when its queue is full, else what `connect(2)` says.
pub fn connect_at_once(path: &Path) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Connects to a socket, and waits so long for room in its queue, or for ever. Writes to what it gives wait no longer
/// either (`SO_SNDTIMEO`).
///
/// # Errors
/// `EAGAIN` when there was no room in time, else what `setsockopt(2)` and `connect(2)` say.
pub fn connect_within(path: &Path, time: Option<Duration>) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, time)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// A socket for [`rustix::net::bind`] and `listen(2)`. It belongs to the network namespace of the thread that calls this, whoever
/// binds it and wherever it goes.
///
/// # Errors
/// What `socket(2)` says.
pub fn unbound() -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// Which network namespace a socket belongs to (`SO_NETNS_COOKIE`): a number that no other namespace has until the next boot.
///
/// # Errors
/// `ENOTSOCK` for another descriptor, else what `getsockopt(2)` says.
pub fn network(socket: impl AsFd) -> io::Result<u64> {
    Ok(getsockopt(&socket, option::NetworkCookie)?)
}

/// Whether a socket shows addresses: whether any interface of the network namespace that it belongs to has an IPv4 address beyond
/// the loopback's (`SIOCGIFCONF`, `netdevice(7)`). In one that leads nowhere there is none.
///
/// # Errors
/// What `ioctl(2)` says.
pub fn shows_addresses(socket: impl AsFd) -> io::Result<bool> {
    // More than that few are not looked through: no network without a way out has them.
    const FEW: usize = 4;
    let nowhere = libc::sockaddr { sa_family: 0, sa_data: [0; 14] };
    let none = libc::__c_anonymous_ifr_ifru { ifru_addr: nowhere };
    let mut few = [libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: none }; FEW];
    let size = size_of_val(&few);
    let ifcu_buf = few.as_mut_ptr().cast();
    let mut all = libc::ifconf {
        ifc_len: i32::try_from(size).unwrap_or(i32::MAX),
        ifc_ifcu: libc::__c_anonymous_ifc_ifcu { ifcu_buf },
    };
    // SAFETY: SIOCGIFCONF reads and writes one `ifconf`, which is a live local, and no more of the buffer than it is told. No
    // library asks for the interfaces of a socket's network: `getifaddrs(3)`, which nix has, shows this thread's.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCGIFCONF as _, &raw mut all) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let count = usize::try_from(all.ifc_len).unwrap_or(size) / size_of::<libc::ifreq>();
    let is_loopback = |interface: &libc::ifreq| {
        // SAFETY: an address was put there above, and the kernel writes one.
        let address = unsafe { interface.ifr_ifru.ifru_addr };
        // `struct sockaddr_in`: the port, then the address.
        i32::from(address.sa_family) == libc::AF_INET && address.sa_data[2] == 127
    };
    Ok(count >= FEW || !few[..count].iter().all(is_loopback))
}

/// Options of sockets that nix has not.
mod option {
    use nix::{getsockopt_impl, sockopt_impl};

    /// asm-generic/socket.h, which every architecture that we know of has here.
    const SO_NETNS_COOKIE: libc::c_int = 71;

    sockopt_impl!(NetworkCookie, GetOnly, libc::SOL_SOCKET, SO_NETNS_COOKIE, u64);
}

/// A connected pair of stream sockets.
///
/// # Errors
/// What `socketpair(2)` says.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// A connected pair of datagram sockets that keep order and message boundaries and report the end.
///
/// # Errors
/// What `socketpair(2)` says.
pub fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_cross_and_uninvited_ones_do_not() {
        let (a, b) = channel().expect("pair");
        let (read, write) = rustix::pipe::pipe().expect("pipe");
        send(&a, b"x", &[read.as_fd(), write.as_fd()]).expect("sends");
        let mut buffer = [0; 8];
        let (len, fds) = receive(&b, &mut buffer, 2).expect("receives");
        assert_eq!((len, fds.len()), (1, 2));
        for fd in &fds {
            assert!(rustix::io::fcntl_getfd(fd).expect("flags").contains(rustix::io::FdFlags::CLOEXEC));
        }
        send(&a, b"x", &[read.as_fd()]).expect("sends");
        assert_eq!(receive(&b, &mut buffer, 0).expect("bytes only").1.len(), 0);
        send(&a, b"x", &[read.as_fd(), write.as_fd()]).expect("sends");
        assert_eq!(receive(&b, &mut buffer, 1).unwrap_err().raw_os_error(), Some(libc::E2BIG));
    }

    #[test]
    fn a_queue_without_room_is_waited_for_no_longer_than_wanted() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("binds");
        // Fewer than there are descriptors, however many the host gives.
        rustix::net::listen(&listener, 4).expect("listens");
        let mut waiting = Vec::new();
        while let Ok(connection) = connect_at_once(&path) {
            waiting.push(connection);
        }
        let error = connect_within(&path, Some(Duration::from_millis(10))).expect_err("no room");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        listener.accept().expect("accepts");
        connect_within(&path, None).expect("there is room");
    }

    #[test]
    fn a_socket_tells_which_network_it_was_made_in() {
        let (a, b) = channel().expect("pair");
        let (cookie, _) = (network(&a).expect("cookie"), network(&b).expect("cookie"));
        assert_ne!(cookie, 0);
        assert_eq!(network(unbound().expect("socket")).expect("cookie"), cookie);
        // Again in a network with a loopback alone, which is what systemd gives `bailiwickd`.
        if std::env::var_os("ALONE").is_some() {
            return assert!(!shows_addresses(&a).expect("asked"));
        }
        let line = "ip link set lo up && ALONE=1 exec \"$0\" a_socket_tells_which_network_it_was_made_in";
        let program = std::env::current_exe().expect("a path");
        let alone = std::process::Command::new("unshare").args(["--net", "sh", "-c", line]).arg(program).output();
        let alone = alone.expect("unshare runs");
        assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stdout));
        assert!(String::from_utf8_lossy(&alone.stdout).contains("1 passed"));
        let all = std::process::Command::new("ip").args(["-4", "-o", "address"]).output().expect("ip runs");
        let all = String::from_utf8(all.stdout).expect("text");
        let is_beyond = |line: &str| line.split_once("inet ").is_some_and(|(_, address)| !address.starts_with("127."));
        assert_eq!(shows_addresses(&a).expect("asked"), all.lines().any(is_beyond), "{all}");
        let (read, _write) = rustix::pipe::pipe().expect("pipe");
        assert_eq!(network(&read).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }

    #[test]
    fn a_datagram_that_does_not_fit_is_an_error() {
        let (a, b) = channel().expect("pair");
        send(&a, b"0123456789", &[]).expect("sends");
        assert_eq!(receive(&b, &mut [0; 4], 0).unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
    }

    #[test]
    fn the_peer_is_this_process() {
        let (a, _b) = channel().expect("pair");
        let peer = peer(&a).expect("credentials");
        assert_eq!(peer.pid, std::process::id());
        let groups = peer_groups(&a).expect("groups");
        assert_eq!(groups[0], peer.gid);
        let own = rustix::process::getgroups().expect("groups");
        assert!(own.iter().all(|group| groups.contains(&group.as_raw())), "{own:?} {groups:?}");
    }

    /// Set for this test run once more, in a pid namespace of its own: the other end of standard input is outside of it.
    const INSIDE: &str = "BAILIWICK_TEST_PEER_OUTSIDE";

    #[test]
    fn a_peer_in_another_pid_namespace_has_no_number() {
        if std::env::var_os(INSIDE).is_some() {
            let peer = peer(io::stdin()).expect("credentials");
            assert_eq!((peer.pid, peer.uid), (0, 0));
            return;
        }
        let (_ours, theirs) = channel().expect("pair");
        let name = "socket::tests::a_peer_in_another_pid_namespace_has_no_number";
        let again = std::env::current_exe().expect("this program");
        let mut command = std::process::Command::new("unshare");
        command.args(["--pid", "--fork"]).arg(again).args(["--exact", name]).env(INSIDE, "1");
        let output = command.stdin(theirs).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    fn whoever_is_turned_away_hears_an_end_and_the_next_is_not() {
        use std::io::Read;
        use std::os::unix::net::{UnixListener, UnixStream};
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("socket");
        let listener = UnixListener::bind(&path).expect("binds");
        let mut reserve = SpareDescriptor::new(&listener);
        let mut first = UnixStream::connect(&path).expect("connects");
        let second = UnixStream::connect(&path).expect("connects");
        assert!(reserve.turn_away(&listener));
        assert_eq!(first.read(&mut [0; 1]).expect("an end"), 0);
        let (accepted, _) = listener.accept().expect("accepts");
        assert_eq!(peer(&accepted).expect("credentials").pid, std::process::id());
        drop(second);
    }
}
