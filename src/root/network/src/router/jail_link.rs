//! The router's end of a jail's link: its route, its neighbour, and the queues that hold traffic back.

use super::RouterError;
use super::desired::Desired;
use crate::step::{self, Step};
use bailiwick_netlink::Error;
use bailiwick_netlink::route::{
    AddressGeneration, Class, Link, Mac, Neighbour, Prefix, Queue, QueueKind, Route, RouteSocket, State,
};
use bailiwick_plan::network::{JAIL_MAC, MTU, ROUTER_LINK, ROUTES, link_name, number_of_link};
use bailiwick_rules::router::{class, queue};
use bailiwick_types::ByteRate;
use rustix::io::Errno;
use std::collections::BTreeSet;

/// How long a packet may wait for its turn, as bytes at the rate: a twentieth of a second.
const WAIT: u64 = 20;
/// How many packets may wait. What waits is kernel memory that is charged to nobody: a packet has up to 64 KiB, and a small one may keep
/// 32 KiB from others (`skb_page_frag_refill`). So packets are counted, and a large one passes at any rate.
const PACKETS: std::ops::RangeInclusive<u32> = 100..=256;
/// The least bytes that pass at once: some packets, so that a timer's tick is enough for them.
const LEAST_BURST: u32 = 16 * MTU;

/// The numbers of the links that are there.
pub(super) fn numbers(socket: &mut RouteSocket) -> Result<BTreeSet<u32>, Error> {
    Ok(numbers_in(&socket.links()?))
}

/// The numbers of some links.
pub(super) fn numbers_in(links: &[Link]) -> BTreeSet<u32> {
    links.iter().filter_map(|link| number_of_link(&link.name)).collect()
}

/// Removes a link that an earlier jail has left.
pub(super) fn remove(socket: &mut RouteSocket, number: u32) -> Result<(), Error> {
    let Some(old) = socket.link(&link_name(number))? else { return Ok(()) };
    match socket.delete_link(old.index) {
        // It went with its jail meanwhile.
        Err(error) if error.errno() == Some(Errno::NODEV.raw_os_error()) => Ok(()),
        other => other,
    }
}

/// Sets up a new link, and brings it up last.
pub(super) fn set_up(socket: &mut RouteSocket, desired: &Desired) -> Result<(), RouterError> {
    let link = find(socket, desired.number)?;
    step::reach(Step::ConnectNeighbours)?;
    socket.set_address_generation(link.index, AddressGeneration::None)?;
    for address in desired.addresses.all() {
        socket.replace_neighbour(&Neighbour::permanent(link.index, address, Mac(JAIL_MAC)))?;
    }
    step::reach(Step::ConnectRates)?;
    set_rate_in(socket, &link, desired)?;
    set_rate_out(socket, desired)?;
    step::reach(Step::ConnectUp)?;
    socket.set_link_state(link.index, State::Up)?;
    step::reach(Step::ConnectRoutes)?;
    // The kernel refuses routes over a link that is down.
    for address in desired.addresses.all() {
        socket.replace_route(&Route::over(Prefix::host(address), link.index).in_table(ROUTES))?;
    }
    Ok(())
}

/// Changes the rates of a link that is there.
pub(super) fn change_rates(socket: &mut RouteSocket, old: &Desired, new: &Desired) -> Result<(), RouterError> {
    let link = find(socket, new.number)?;
    step::reach(Step::ChangeRateIn)?;
    match (old.down, new.down) {
        (Some(rate), None) => socket.delete_queue(&inward(link.index, rate))?,
        _ => set_rate_in(socket, &link, new)?,
    }
    step::reach(Step::ChangeRateOut)?;
    if new.up.is_none() { Ok(remove_rate_out(socket, old)?) } else { Ok(set_rate_out(socket, new)?) }
}

/// Removes the class of what a jail sends, if it has one.
pub(super) fn remove_rate_out(socket: &mut RouteSocket, old: &Desired) -> Result<(), Error> {
    let (Some(rate), Some(handle), Some(uplink)) = (old.up, class(old.number), socket.link(ROUTER_LINK)?) else {
        return Ok(());
    };
    match socket.delete_class(&outward(uplink.index, handle, rate)) {
        // Gone with the link to the host, which was made anew.
        Err(error) if is_missing(&error) => Ok(()),
        other => other,
    }
}

fn is_missing(error: &Error) -> bool {
    [Errno::NOENT, Errno::INVAL].iter().any(|errno| error.errno() == Some(errno.raw_os_error()))
}

/// The most bytes a second out of a jail and into it, as the kernel has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rates {
    pub(super) up: Option<ByteRate>,
    pub(super) down: Option<ByteRate>,
}

impl Rates {
    /// Those of a link, among all queues, and all classes of the queue to the host.
    pub(super) fn of(link: &Link, number: u32, queues: &[Queue], classes: &[Class]) -> Self {
        let own = queues.iter().find(|queue| (queue.link, queue.parent) == (link.index, Queue::ROOT));
        let down = own.and_then(|queue| match queue.kind {
            QueueKind::Tbf { rate, .. } => Some(ByteRate(rate)),
            _ => None,
        });
        let own = class(number).and_then(|handle| classes.iter().find(|class| class.handle == handle));
        Self { up: own.map(|class| ByteRate(class.ceil)), down }
    }

    /// What differs from what should be, as sentences.
    pub(super) fn differences(self, desired: &Desired) -> Vec<String> {
        let text = |rate: Option<ByteRate>| rate.map_or_else(|| "unlimited".to_owned(), |rate| rate.to_string());
        let rows = [("up", self.up, desired.up), ("down", self.down, desired.down)];
        let others = rows.into_iter().filter(|(_, found, wanted)| found != wanted);
        others
            .map(|(key, found, wanted)| format!("{key} was {} in the kernel, not {}", text(found), text(wanted)))
            .collect()
    }
}

/// All queues, and the classes of the queue to the host.
pub(super) fn all_rates(socket: &mut RouteSocket) -> Result<(Vec<Queue>, Vec<Class>), Error> {
    let classes = match socket.link(ROUTER_LINK)? {
        Some(uplink) => socket.classes(uplink.index)?,
        None => Vec::new(),
    };
    Ok((socket.queues()?, classes))
}

fn find(socket: &mut RouteSocket, number: u32) -> Result<Link, Error> {
    let name = link_name(number);
    socket
        .link(&name)?
        .ok_or_else(|| Error::Invalid { what: format!("set up {name}"), why: "there is no such link".to_owned() })
}

/// The queue into a jail, at the router's end of its link.
pub(super) fn inward(link: u32, rate: ByteRate) -> Queue {
    let (rate, burst) = (rate.0, burst(rate));
    // Its bound of bytes is not used: see `waiting`.
    let kind = QueueKind::Tbf { rate, burst, limit: burst };
    Queue { link, handle: queue(), parent: Queue::ROOT, kind }
}

/// The class of what a jail sends, in the queue to the host.
pub(super) fn outward(link: u32, handle: u32, rate: ByteRate) -> Class {
    let burst = burst(rate);
    Class { link, handle, parent: queue(), rate: rate.0, ceil: rate.0, burst, ceil_burst: burst, quantum: MTU }
}

/// Where packets wait for such a rate, in a class or in the queue into a jail: in place of the kernel's own queue there, which counts a
/// thousand packets, or bytes.
pub(super) fn waiting(link: u32, parent: u32, rate: ByteRate) -> Queue {
    let packets = u32::try_from(rate.0 / WAIT / u64::from(MTU)).unwrap_or(u32::MAX);
    let limit = packets.clamp(*PACKETS.start(), *PACKETS.end());
    Queue { link, handle: 0, parent, kind: QueueKind::Fifo { limit } }
}

/// The handle of the only class of the queue into a jail.
pub(super) fn inward_class() -> u32 {
    queue() | 1
}

pub(super) fn set_rate_in(socket: &mut RouteSocket, link: &Link, desired: &Desired) -> Result<(), Error> {
    let Some(rate) = desired.down else { return Ok(()) };
    socket.replace_queue(&inward(link.index, rate))?;
    socket.replace_queue(&waiting(link.index, inward_class(), rate))
}

pub(super) fn set_rate_out(socket: &mut RouteSocket, desired: &Desired) -> Result<(), Error> {
    let (Some(rate), Some(handle)) = (desired.up, class(desired.number)) else { return Ok(()) };
    let uplink = socket.link(ROUTER_LINK)?.ok_or_else(|| Error::Invalid {
        what: format!("hold back {}", link_name(desired.number)),
        why: format!("there is no {ROUTER_LINK}"),
    })?;
    // What belongs to no class is not held back.
    let kind = QueueKind::Htb { default_class: 0 };
    match socket.add_queue(&Queue { link: uplink.index, handle: queue(), parent: Queue::ROOT, kind }) {
        Err(error) if error.errno() != Some(Errno::EXIST.raw_os_error()) => return Err(error),
        _ => {}
    }
    socket.replace_class(&outward(uplink.index, handle, rate))?;
    socket.replace_queue(&waiting(uplink.index, handle, rate))
}

/// What passes at once: a hundredth of a second, and some packets at least.
fn burst(rate: ByteRate) -> u32 {
    u32::try_from(rate.0 / 100).unwrap_or(u32::MAX / 2).clamp(LEAST_BURST, u32::MAX / 2)
}
