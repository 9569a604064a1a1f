//! The interfaces of a jail's network namespace.

use std::io;
use std::os::fd::AsRawFd;

/// Brings up the loopback interface of this network namespace (`netdevice(7)`).
///
/// # Errors
/// The errors of `socket(2)` and `ioctl(2)`.
pub fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(b"lo") {
        *to = libc::c_char::try_from(*from).expect("ASCII");
    }
    let flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).expect("both flags are below 2^15");
    let request = libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    // SAFETY: SIOCSIFFLAGS reads one ifreq from the pointer, which is to a live local of that type with a
    // NUL-terminated name and the flags member set; the socket is open. Neither rustix nor nix changes an interface.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
