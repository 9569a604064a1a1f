//! Unix sockets: messages with descriptors beside them (`SCM_RIGHTS`), and the credentials of the peer.
//!
//! Danger: a peer can send descriptors that nobody asked for. [`receive`] must accept at most the number that its caller names
//! and close the rest, and every descriptor must be `CLOEXEC` from the start.

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

/// The most descriptors beside one message. The message with the most is an order for a service: its listening sockets, and a
/// control group in each hierarchy that Bailiwick uses.
pub const MAX_FDS: usize = 16;

/// The credentials of the peer of a Unix socket, from the time when the connection was made (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its process in this process's pid namespace; 0 when it has no number there, because it is in another namespace.
    pub pid: u32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// The credentials of the peer.
///
/// # Errors
/// The error of `getsockopt(2)`.
pub fn peer(socket: impl AsFd) -> io::Result<Peer> {
    // rustix cannot be used: it expects a process number that is never 0, and here it can be 0 (`pid_vnr` in the kernel).
    let credentials = getsockopt(&socket, PeerCredentials)?;
    Ok(Peer { pid: u32::try_from(credentials.pid()).unwrap_or(0), uid: credentials.uid(), gid: credentials.gid() })
}

/// Every group of the peer, the effective one first, from the time when the connection was made (`SO_PEERGROUPS`).
///
/// # Errors
/// The error of `getsockopt(2)`.
pub fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let socket = socket.as_fd();
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut size = libc::socklen_t::try_from(size_of_val(&groups[..])).map_err(io::Error::other)?;
        // SAFETY: getsockopt(2) writes at most `size` bytes through the first pointer, which is to a live vector of that size,
        // and the number of bytes that it wrote or needs through the second. Neither rustix nor nix has the option, and the
        // macro of nix for other options only takes values of a fixed size.
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

/// Sends bytes with descriptors beside them, and returns how many bytes went out. The descriptors go with the first byte.
///
/// # Errors
/// The error of `sendmsg(2)`. A closed peer gives `EPIPE` and no signal.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

/// Receives bytes, and at most `max_fds` descriptors beside them. Zero bytes mean that the peer has closed the connection.
///
/// # Errors
/// `EMSGSIZE` when a datagram did not fit, `E2BIG` when there were more descriptors than `max_fds` (all are closed),
/// else what `recvmsg(2)` says.
pub fn receive(socket: impl AsFd, buffer: &mut [u8], max_fds: usize) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    // Without room for control data the kernel closes the descriptors that come, so that a peer cannot plant one here.
    let space = if max_fds == 0 { &mut space[..0] } else { &mut space[..] };
    let (len, fds, _) = receive_into(socket, buffer, space, max_fds)?;
    Ok((len, fds))
}

/// As [`receive`], with the user that sent the message. The socket must have `SO_PASSCRED`.
///
/// # Errors
/// As [`receive`].
pub fn receive_from(
    socket: impl AsFd,
    buffer: &mut [u8],
    max_fds: usize,
) -> io::Result<(usize, Vec<OwnedFd>, Option<u32>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS), ScmCredentials(1))];
    receive_into(socket, buffer, &mut space, max_fds)
}

fn receive_into(
    socket: impl AsFd,
    buffer: &mut [u8],
    space: &mut [MaybeUninit<u8>],
    max_fds: usize,
) -> io::Result<(usize, Vec<OwnedFd>, Option<u32>)> {
    let mut ancillary = RecvAncillaryBuffer::new(space);
    let message =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let (mut fds, mut user) = (Vec::new(), None);
    for item in ancillary.drain() {
        match item {
            RecvAncillaryMessage::ScmRights(items) => fds.extend(items),
            RecvAncillaryMessage::ScmCredentials(sender) => user = Some(sender.uid.as_raw()),
            _ => {}
        }
    }
    if message.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    if fds.len() > max_fds || (max_fds > 0 && message.flags.contains(ReturnFlags::CTRUNC)) {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    Ok((message.bytes, fds, user))
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

    /// Takes the spare descriptor again when another thread, or another process of the host, got it in [`Self::turn_away`].
    /// Returns whether it is held. Call this before each `accept(2)`: a connection must not get the descriptor that became
    /// free, or nobody is turned away until a connection ends.
    #[must_use]
    pub fn hold(&mut self, listener: impl AsFd) -> bool {
        if self.0.is_none() {
            self.refill(listener);
        }
        self.0.is_some()
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

/// Connects to a socket without waiting for room in its queue. The returned socket is non-blocking.
///
/// # Errors
/// `EAGAIN` when the queue is full, else the error of `connect(2)`.
pub fn connect_at_once(path: &Path) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Whether nobody could connect because the socket is no stream socket (`EPROTOTYPE`).
#[must_use]
pub fn is_no_stream(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::PROTOTYPE.raw_os_error())
}

/// Connects to a socket, and waits for room in its queue for at most `time`, or without a limit. The same limit holds for each
/// write to the returned socket (`SO_SNDTIMEO`).
///
/// # Errors
/// `EAGAIN` when there was no room in time, else the errors of `setsockopt(2)` and `connect(2)`.
pub fn connect_within(path: &Path, time: Option<Duration>) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, time)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Makes a socket for [`rustix::net::bind`] and `listen(2)`. It belongs to the network namespace of the calling thread, even
/// when a process of another namespace binds it.
///
/// # Errors
/// The error of `socket(2)`.
pub fn unbound() -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// The number of the network namespace that a socket belongs to (`SO_NETNS_COOKIE`). It is unique until the next boot.
///
/// # Errors
/// `ENOTSOCK` when the descriptor is no socket, else the error of `getsockopt(2)`.
pub fn network(socket: impl AsFd) -> io::Result<u64> {
    Ok(getsockopt(&socket, option::NetworkCookie)?)
}

/// Whether the network namespace of a socket has an IPv4 address other than the loopback's (`SIOCGIFCONF`, `netdevice(7)`). A
/// namespace that leads nowhere has none.
///
/// # Errors
/// The error of `ioctl(2)`.
pub fn shows_addresses(socket: impl AsFd) -> io::Result<bool> {
    // A namespace with this many interfaces counts as one with an address.
    const FEW: usize = 4;
    let unset = libc::sockaddr { sa_family: 0, sa_data: [0; 14] };
    let none = libc::__c_anonymous_ifr_ifru { ifru_addr: unset };
    let mut few = [libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: none }; FEW];
    let size = size_of_val(&few);
    let ifcu_buf = few.as_mut_ptr().cast();
    let mut all = libc::ifconf {
        ifc_len: i32::try_from(size).unwrap_or(i32::MAX),
        ifc_ifcu: libc::__c_anonymous_ifc_ifcu { ifcu_buf },
    };
    // SAFETY: SIOCGIFCONF reads and writes one `ifconf`, which is a live local, and at most `ifc_len` bytes of its buffer. No
    // library asks for the interfaces of a socket's namespace: `getifaddrs(3)` of nix shows those of this thread's.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCGIFCONF as _, &raw mut all) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let count = usize::try_from(all.ifc_len).unwrap_or(size) / size_of::<libc::ifreq>();
    let is_loopback = |interface: &libc::ifreq| {
        // SAFETY: the member was set to an address above, and the kernel writes an address.
        let address = unsafe { interface.ifr_ifru.ifru_addr };
        // In `struct sockaddr_in` the address comes after two bytes of port.
        i32::from(address.sa_family) == libc::AF_INET && address.sa_data[2] == 127
    };
    Ok(count >= FEW || !few[..count].iter().all(is_loopback))
}

/// An option of sockets that nix does not have.
mod option {
    use nix::{getsockopt_impl, sockopt_impl};

    /// From asm-generic/socket.h. Every architecture that Bailiwick is built for uses that file.
    const SO_NETNS_COOKIE: libc::c_int = 71;

    sockopt_impl!(NetworkCookie, GetOnly, libc::SOL_SOCKET, SO_NETNS_COOKIE, u64);
}

/// Makes a connected pair of stream sockets.
///
/// # Errors
/// The error of `socketpair(2)`.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// Makes a connected pair of `SOCK_SEQPACKET` sockets, which keep order and message boundaries and report the end (`unix(7)`).
///
/// # Errors
/// The error of `socketpair(2)`.
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
    fn a_message_tells_who_sent_it() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("socket");
        let socket = std::os::unix::net::UnixDatagram::bind(&path).expect("binds");
        rustix::net::sockopt::set_socket_passcred(&socket, true).expect("sets");
        let sender = std::os::unix::net::UnixDatagram::unbound().expect("makes");
        sender.connect(&path).expect("connects");
        let (read, _write) = rustix::pipe::pipe().expect("pipe");
        send(&sender, b"x", &[read.as_fd()]).expect("sends");
        let (len, fds, user) = receive_from(&socket, &mut [0; 8], 1).expect("receives");
        assert_eq!((len, fds.len(), user), (1, 1, Some(rustix::process::geteuid().as_raw())));
        send(&sender, b"x", &[read.as_fd(), read.as_fd()]).expect("sends");
        assert_eq!(receive_from(&socket, &mut [0; 8], 1).unwrap_err().raw_os_error(), Some(libc::E2BIG));
    }

    #[test]
    fn connecting_to_a_full_queue_waits_no_longer_than_the_limit() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("binds");
        // The queue is shorter than the limit on descriptors of any host.
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
    fn a_socket_knows_the_network_it_was_made_in() {
        let (a, b) = channel().expect("pair");
        let (cookie, _) = (network(&a).expect("cookie"), network(&b).expect("cookie"));
        assert_ne!(cookie, 0);
        assert_eq!(network(unbound().expect("socket")).expect("cookie"), cookie);
        // The test runs itself again in a namespace with only a loopback, as systemd gives to `bailiwickd`.
        if std::env::var_os("ALONE").is_some() {
            return assert!(!shows_addresses(&a).expect("asked"));
        }
        let line = "ip link set lo up && ALONE=1 exec \"$0\" a_socket_knows_the_network_it_was_made_in";
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

    /// Set when the test runs itself again in a pid namespace of its own. Then the peer of standard input is outside of that
    /// namespace.
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
    fn a_client_that_is_turned_away_sees_the_end_and_the_next_is_accepted() {
        use std::io::Read;
        use std::os::unix::net::{UnixListener, UnixStream};
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("socket");
        let listener = UnixListener::bind(&path).expect("binds");
        let mut spare = SpareDescriptor::new(&listener);
        let mut first = UnixStream::connect(&path).expect("connects");
        let second = UnixStream::connect(&path).expect("connects");
        assert!(spare.turn_away(&listener));
        assert_eq!(first.read(&mut [0; 1]).expect("an end"), 0);
        let (accepted, _) = listener.accept().expect("accepts");
        assert_eq!(peer(&accepted).expect("credentials").pid, std::process::id());
        drop(second);
    }

    #[test]
    fn a_spare_descriptor_that_somebody_else_took_is_taken_again_before_a_connection() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let listener = std::os::unix::net::UnixListener::bind(temp.path().join("socket")).expect("binds");
        let mut lost = SpareDescriptor(None);
        assert!(lost.hold(&listener), "a descriptor is free");
        let held = lost.0.as_ref().map(AsRawFd::as_raw_fd);
        assert!(lost.hold(&listener), "it is held already");
        assert_eq!(lost.0.as_ref().map(AsRawFd::as_raw_fd), held);
    }
}
