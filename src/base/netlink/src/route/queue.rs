//! Queues of links and their classes: `tbf`, `htb` and `pfifo` (`tc(8)`, `linux/pkt_sched.h`).

use super::{RouteSocket, index_bytes, request};
use crate::message::{CREATE, EXCLUSIVE, REPLACE, Writer, find, find_text, number32};
use crate::socket::Error;
use std::fmt;

// The names and numbers of linux/rtnetlink.h and linux/pkt_sched.h.
const NEW_QUEUE: u16 = 36;
const DELETE_QUEUE: u16 = 37;
const GET_QUEUE: u16 = 38;
const NEW_CLASS: u16 = 40;
const DELETE_CLASS: u16 = 41;
const GET_CLASS: u16 = 42;
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const TBF_PARAMETERS: u16 = 1;
const TBF_RATE64: u16 = 4;
const TBF_BURST: u16 = 6;
const HTB_PARAMETERS: u16 = 1;
const HTB_INIT: u16 = 2;
const HTB_RATE64: u16 = 6;
const HTB_CEIL64: u16 = 7;
const HTB_VERSION: u32 = 3;
const HTB_RATE_TO_QUANTUM: u32 = 10;
/// `TC_LINKLAYER_ETHERNET`: the kernel then needs no table of rates.
const ETHERNET: u8 = 1;
/// Nanoseconds in a tick of the kernel's packet scheduler.
const TICK: u64 = 64;
/// The lengths of `tcmsg`, `tc_ratespec`, `tc_tbf_qopt`, `tc_htb_glob` and `tc_htb_opt` in bytes.
const HEADER: usize = 20;
const RATE: usize = 12;
const TBF: usize = 36;
const HTB_GLOBAL: usize = 20;
const HTB_CLASS: usize = 44;

/// A handle: the number of a queue, and that of a class in it (0 for the queue itself).
#[must_use]
pub const fn handle(queue: u16, class: u16) -> u32 {
    // `From` is not const.
    ((queue as u32) << 16) | class as u32
}

/// A queue of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// The number of the link.
    pub link: u32,
    /// Its own handle, as [`handle`] makes it with class 0; 0 for one that the kernel chooses.
    pub handle: u32,
    /// The handle of its parent, such as a class; [`Queue::ROOT`] for what the link sends from.
    pub parent: u32,
    /// What it does.
    pub kind: QueueKind,
}

/// What a queue does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueKind {
    /// Sends at one rate (`tc-tbf(8)`).
    Tbf {
        /// Bytes a second.
        rate: u64,
        /// Bytes that may be sent at once.
        burst: u32,
        /// Bytes that may wait.
        limit: u32,
    },
    /// Divides a rate among classes (`tc-htb(8)`).
    Htb {
        /// The number of the class for packets without one; 0 for packets that no class limits.
        default_class: u32,
    },
    /// Lets packets wait, in their order (`tc-pfifo(8)`).
    Fifo {
        /// Packets that may wait.
        limit: u32,
    },
    /// Another one, by its name.
    Other(String),
}

/// A class of an `htb` queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// The number of the link.
    pub link: u32,
    /// Its own handle, as [`handle`] makes it.
    pub handle: u32,
    /// The handle of its queue, or of the class that it belongs to.
    pub parent: u32,
    /// Bytes a second that it has for itself.
    pub rate: u64,
    /// Bytes a second that it has at most.
    pub ceil: u64,
    /// Bytes that may be sent at once at its rate.
    pub burst: u32,
    /// Bytes that may be sent at once at its ceiling.
    pub ceil_burst: u32,
    /// Bytes that it sends before another class has its turn.
    pub quantum: u32,
}

impl Queue {
    /// The parent of the queue that a link sends from.
    pub const ROOT: u32 = u32::MAX;

    /// Whether the kernel's queue is this one, which was planned. The kernel keeps bursts as times, in steps of 64 ns.
    #[must_use]
    pub fn is(&self, kernels: &Self) -> bool {
        let kind = match (&self.kind, &kernels.kind) {
            (QueueKind::Tbf { rate, burst, limit }, QueueKind::Tbf { rate: r, burst: b, limit: l }) => {
                rate == r && limit == l && is_near(*burst, *b, *rate)
            }
            (planned, other) => planned == other,
        };
        let handle = self.handle == 0 || self.handle == kernels.handle;
        kind && handle && (self.link, self.parent) == (kernels.link, kernels.parent)
    }
}

impl Class {
    /// Whether the kernel's class is this one, which was planned. The kernel keeps bursts as times, in steps of 64 ns.
    #[must_use]
    pub fn is(&self, kernels: &Self) -> bool {
        is_near(self.burst, kernels.burst, self.rate)
            && is_near(self.ceil_burst, kernels.ceil_burst, self.ceil)
            && *self == Self { burst: self.burst, ceil_burst: self.ceil_burst, ..*kernels }
    }
}

fn is_near(planned: u32, kernels: u32, rate: u64) -> bool {
    let step = rate.saturating_mul(TICK) / 1_000_000_000;
    u64::from(planned.abs_diff(kernels)) <= step + 1
}

impl fmt::Display for Queue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            QueueKind::Tbf { .. } => "tbf",
            QueueKind::Htb { .. } => "htb",
            QueueKind::Fifo { .. } => "pfifo",
            QueueKind::Other(name) => name,
        };
        write!(out, "queue {kind} {} of link {}", Handle(self.handle), self.link)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "class {} of link {}", Handle(self.handle), self.link)
    }
}

/// A handle as `tc(8)` writes it.
struct Handle(u32);

impl fmt::Display for Handle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:x}:{:x}", self.0 >> 16, self.0 & 0xffff)
    }
}

fn header(link: u32, handle: u32, parent: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[4..8].copy_from_slice(&index_bytes(link));
    header[8..12].copy_from_slice(&handle.to_ne_bytes());
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
    header
}

/// Writes `tc_ratespec`.
fn rate_bytes(rate: u64) -> [u8; RATE] {
    let mut bytes = [0; RATE];
    bytes[1] = ETHERNET;
    bytes[8..].copy_from_slice(&u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    bytes
}

/// The ticks that a burst takes at a rate.
fn ticks(burst: u32, rate: u64) -> u32 {
    let nanoseconds = u128::from(burst) * 1_000_000_000 / u128::from(rate.max(1));
    u32::try_from(nanoseconds / u128::from(TICK)).unwrap_or(u32::MAX)
}

/// The bytes that a rate has in some ticks, to the nearest.
fn burst(ticks: u32, rate: u64) -> u32 {
    let bytes = (u128::from(ticks) * u128::from(TICK) * u128::from(rate) + 500_000_000) / 1_000_000_000;
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn write_rate64(writer: &mut Writer, kind: u16, rate: u64) {
    if u32::try_from(rate).is_err() {
        writer.put(kind, &rate.to_ne_bytes());
    }
}

fn write_queue(queue: &Queue, flags: u16) -> Result<Writer, Error> {
    let mut writer = request(NEW_QUEUE, flags, &header(queue.link, queue.handle, queue.parent));
    match &queue.kind {
        QueueKind::Tbf { rate, burst, limit } => {
            let mut parameters = [0; TBF];
            parameters[..RATE].copy_from_slice(&rate_bytes(*rate));
            parameters[24..28].copy_from_slice(&limit.to_ne_bytes());
            parameters[28..32].copy_from_slice(&ticks(*burst, *rate).to_ne_bytes());
            writer.put_text(KIND, "tbf");
            writer.nest(OPTIONS, |options| {
                options.put(TBF_PARAMETERS, &parameters);
                options.put_u32(TBF_BURST, *burst);
                write_rate64(options, TBF_RATE64, *rate);
            });
        }
        QueueKind::Htb { default_class } => {
            let mut parameters = [0; HTB_GLOBAL];
            for (at, number) in [HTB_VERSION, HTB_RATE_TO_QUANTUM, *default_class].into_iter().enumerate() {
                parameters[at * 4..at * 4 + 4].copy_from_slice(&number.to_ne_bytes());
            }
            writer.put_text(KIND, "htb");
            writer.nest(OPTIONS, |options| options.put(HTB_INIT, &parameters));
        }
        QueueKind::Fifo { limit } => {
            writer.put_text(KIND, "pfifo");
            writer.put_u32(OPTIONS, *limit);
        }
        QueueKind::Other(name) => {
            let why = format!("\"{name}\" is neither tbf, htb nor pfifo");
            return Err(Error::Invalid { what: format!("add {queue}"), why });
        }
    }
    Ok(writer)
}

fn write_class(class: &Class, flags: u16) -> Writer {
    let mut parameters = [0; HTB_CLASS];
    parameters[..RATE].copy_from_slice(&rate_bytes(class.rate));
    parameters[RATE..2 * RATE].copy_from_slice(&rate_bytes(class.ceil));
    let numbers = [ticks(class.burst, class.rate), ticks(class.ceil_burst, class.ceil), class.quantum];
    for (at, number) in numbers.into_iter().enumerate() {
        let at = 2 * RATE + at * 4;
        parameters[at..at + 4].copy_from_slice(&number.to_ne_bytes());
    }
    let mut writer = request(NEW_CLASS, flags, &header(class.link, class.handle, class.parent));
    writer.put_text(KIND, "htb");
    writer.nest(OPTIONS, |options| {
        options.put(HTB_PARAMETERS, &parameters);
        write_rate64(options, HTB_RATE64, class.rate);
        write_rate64(options, HTB_CEIL64, class.ceil);
    });
    writer
}

impl RouteSocket {
    /// Adds a queue.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EEXIST` when its place or its handle is taken; [`Error::Invalid`] for [`QueueKind::Other`].
    pub fn add_queue(&mut self, queue: &Queue) -> Result<(), Error> {
        self.socket.tell(&format_args!("add {queue}"), &mut write_queue(queue, CREATE | EXCLUSIVE)?)
    }

    /// Adds a queue, or changes the one with its handle and kind, or puts it in the place of another. With 0 as its handle the kernel
    /// chooses one, and changes the queue of its kind that its parent has.
    ///
    /// # Errors
    /// As for [`Self::add_queue`].
    pub fn replace_queue(&mut self, queue: &Queue) -> Result<(), Error> {
        self.socket.tell(&format_args!("replace {queue}"), &mut write_queue(queue, CREATE | REPLACE)?)
    }

    /// Deletes a queue.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ENOENT` or `EINVAL` when there is none.
    pub fn delete_queue(&mut self, queue: &Queue) -> Result<(), Error> {
        let mut writer = request(DELETE_QUEUE, 0, &header(queue.link, queue.handle, queue.parent));
        self.socket.tell(&format_args!("delete {queue}"), &mut writer)
    }

    /// Returns all queues of all links.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Busy`].
    pub fn queues(&mut self) -> Result<Vec<Queue>, Error> {
        self.socket.dump(&"list queues", &mut request(GET_QUEUE, 0, &header(0, 0, 0)), Vec::new, |all, message| {
            all.extend((message.kind == NEW_QUEUE).then(|| parse_queue(message.body)).flatten());
            Ok(())
        })
    }

    /// Adds a class.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EEXIST` when there is one with its handle.
    pub fn add_class(&mut self, class: &Class) -> Result<(), Error> {
        self.socket.tell(&format_args!("add {class}"), &mut write_class(class, CREATE | EXCLUSIVE))
    }

    /// Adds a class, or changes the one with its handle.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn replace_class(&mut self, class: &Class) -> Result<(), Error> {
        self.socket.tell(&format_args!("replace {class}"), &mut write_class(class, CREATE | REPLACE))
    }

    /// Deletes a class.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ENOENT` when there is none, `EBUSY` when it has classes.
    pub fn delete_class(&mut self, class: &Class) -> Result<(), Error> {
        let mut writer = request(DELETE_CLASS, 0, &header(class.link, class.handle, class.parent));
        self.socket.tell(&format_args!("delete {class}"), &mut writer)
    }

    /// Returns the `htb` classes of a link.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Busy`].
    pub fn classes(&mut self, link: u32) -> Result<Vec<Class>, Error> {
        let what = format_args!("list classes of link {link}");
        self.socket.dump(&what, &mut request(GET_CLASS, 0, &header(link, 0, 0)), Vec::new, |all, message| {
            all.extend((message.kind == NEW_CLASS).then(|| parse_class(message.body)).flatten());
            Ok(())
        })
    }
}

fn rate_of(parameters: &[u8], options: &[u8], kind: u16) -> Option<u64> {
    let wide = find(options, kind).and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
    wide.or_else(|| parameters.get(8..12).and_then(number32).map(u64::from))
}

fn parse_queue(body: &[u8]) -> Option<Queue> {
    let (head, body) = body.split_at_checked(HEADER)?;
    let name = find_text(body, KIND)?;
    let options = find(body, OPTIONS).unwrap_or_default();
    let kind = match name.as_str() {
        "tbf" => {
            let parameters = find(options, TBF_PARAMETERS)?;
            let rate = rate_of(parameters, options, TBF_RATE64)?;
            let waiting = parameters.get(28..32).and_then(number32)?;
            QueueKind::Tbf { rate, burst: burst(waiting, rate), limit: parameters.get(24..28).and_then(number32)? }
        }
        "htb" => QueueKind::Htb { default_class: find(options, HTB_INIT)?.get(8..12).and_then(number32)? },
        "pfifo" => QueueKind::Fifo { limit: options.get(..4).and_then(number32)? },
        _ => QueueKind::Other(name),
    };
    let number = |at: usize| number32(&head[at..at + 4]);
    Some(Queue { link: number(4)?, handle: number(8)?, parent: number(12)?, kind })
}

fn parse_class(body: &[u8]) -> Option<Class> {
    let (head, body) = body.split_at_checked(HEADER)?;
    if find_text(body, KIND)? != "htb" {
        return None;
    }
    let options = find(body, OPTIONS)?;
    let parameters = find(options, HTB_PARAMETERS)?;
    let rate = rate_of(parameters, options, HTB_RATE64)?;
    let ceil = rate_of(parameters.get(RATE..)?, options, HTB_CEIL64)?;
    let number = |at: usize| parameters.get(at..at + 4).and_then(number32);
    let own = number32(&head[8..12])?;
    // The kernel calls the queue of a class the root.
    let parent = number32(&head[12..16])?;
    Some(Class {
        link: number32(&head[4..8])?,
        handle: own,
        parent: if parent == Queue::ROOT { own & 0xffff_0000 } else { parent },
        rate,
        ceil,
        burst: burst(number(24)?, rate),
        ceil_burst: burst(number(28)?, ceil),
        quantum: number(32)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bursts_survive_the_kernels_ticks(planned in 1500u32..10_000_000, rate in 1000u64..1_000_000_000) {
            let counted = ticks(planned, rate);
            prop_assume!(counted < u32::MAX);
            prop_assert!(is_near(planned, burst(counted, rate), rate));
        }

        #[test]
        fn no_bytes_make_the_parsers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _none = (parse_queue(&bytes), parse_class(&bytes));
        }
    }
}
