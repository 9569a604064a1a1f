//! The interfaces of a network namespace.

use crate::ioctl_request;
use linux_raw_sys::ioctl::SIOCSIFFLAGS;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

/// The addresses that the interfaces of this network namespace have (`getifaddrs(3)`).
///
/// # Errors
/// The errors of `getifaddrs(3)`.
pub fn addresses() -> io::Result<BTreeSet<IpAddr>> {
    let of_interface = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    Ok(nix::ifaddrs::getifaddrs()?.filter_map(of_interface).collect())
}

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
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), ioctl_request(SIOCSIFFLAGS), &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
