//! The inside of a jail's network, which the child sets up before it is confined: its address, its gateway, its routes, and where
//! names are looked up.
//!
//! Danger: what is set up here is a convenience of the tenant. Root inside may change all of it in the profile `system`. What a
//! jail may send is decided in the router, which looks at each packet.

use bailiwick_netlink::Error;
use bailiwick_netlink::route::{Address, AddressGeneration, Family, Mac, Neighbour, Prefix, Route, RouteSocket};
use bailiwick_plan::network::{Addresses, GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, INTERFACE};
use bailiwick_plan::seed::{RESOLV_CONF, RESOLV_CONF_BEFORE, RUN_RESOLV_CONF};
use bailiwick_sys::file;
use rustix::fs::{Mode, OFlags};
use std::io;
use std::net::IpAddr;
use std::path::Path;

/// The most bytes of the file that earlier versions made.
const MAX_FILE: usize = 4096;

/// Gives the jail's interface its addresses, its gateways and its routes, and brings it up.
pub(super) fn set_up(addresses: Addresses) -> Result<(), Error> {
    let mut socket = RouteSocket::open()?;
    let link = socket.link(INTERFACE)?.ok_or_else(|| Error::Invalid {
        what: format!("set up {INTERFACE}"),
        why: "the router made no such interface".to_owned(),
    })?;
    socket.set_address_generation(link.index, AddressGeneration::None)?;
    let mut routes = Vec::new();
    for address in addresses.all() {
        let (gateway, len) = match address {
            IpAddr::V4(_) => (IpAddr::V4(GATEWAY_V4), 32),
            IpAddr::V6(_) => (IpAddr::V6(GATEWAY_V6), 128),
        };
        socket.add_address(&Address::new(link.index, address, len))?;
        socket.add_neighbour(&Neighbour::permanent(link.index, gateway, Mac(GATEWAY_MAC)))?;
        routes.push(Route::over(Prefix::all(Family::of(address)), link.index).via(gateway));
    }
    // The start comes last: what needs the kernel's lock of links after it would wait until the kernel has looked at both ends.
    socket.start_with_routes(link.index, &routes)
}

/// Says in the jail's `/run` where names are looked up, and has `/etc/resolv.conf` lead there, if that is as an earlier version of
/// Bailiwick made it. A file of the tenant's own stays.
pub(super) fn name_resolvers(resolvers: &[IpAddr]) -> io::Result<()> {
    let mut text =
        "# Made by Bailiwick at each start. Put a file of your own in place of /etc/resolv.conf to use others.\n"
            .to_owned();
    for resolver in resolvers {
        text += &format!("nameserver {resolver}\n");
    }
    let root = file::open_dir(Path::new("/"))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let made = file::open_at(&root, RUN_RESOLV_CONF.trim_start_matches('/'), flags, Mode::from_raw_mode(0o644))?;
    rustix::io::write(&made, text.as_bytes())?;
    let etc = file::open_dir_at(&root, "etc")?;
    // A pipe would make an open wait.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let Ok(old) = file::open_at(&etc, RESOLV_CONF, flags, Mode::empty()) else { return Ok(()) };
    if file::read_bounded(old, MAX_FILE).is_ok_and(|old| old == RESOLV_CONF_BEFORE.as_bytes()) {
        // A suspended tenant's files cannot be written.
        file::remove_file_at(&etc, RESOLV_CONF)
            .and_then(|()| Ok(rustix::fs::symlinkat(RUN_RESOLV_CONF, &etc, RESOLV_CONF)?))
            .ok();
    }
    Ok(())
}
