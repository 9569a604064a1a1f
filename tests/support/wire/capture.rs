//! Everything that arrives in a namespace, read by a packet socket where it arrives (`packet(7)`).

use super::space::{Space, processors};
use crate::until;
use bailiwick_sys::process;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, sockopt};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// `ETH_P_ALL`, in the order of the network.
const EVERYTHING: u32 = (3u16).to_be() as u32;
/// How much of each frame is kept, in bytes.
const KEPT: usize = 512;
/// A frame can be a whole segment that was never split.
const MAX_FRAME: usize = 1 << 17;
const RECEIVE_BUFFER: usize = 64 << 20;

/// A frame that has arrived.
#[derive(Debug, Clone)]
pub struct Packet {
    /// From its first byte, at most 512.
    pub bytes: Vec<u8>,
}

impl Packet {
    /// What is in the frame: 0x0800 for IPv4, 0x86dd for IPv6, 0x0806 for ARP.
    #[must_use]
    pub fn kind(&self) -> u16 {
        self.bytes.get(12..14).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]))
    }

    /// Source and destination; `None` when it is no IP.
    #[must_use]
    pub fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        let v4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(self.bytes.get(at..at + 4)?).ok()?));
        let v6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(self.bytes.get(at..at + 16)?).ok()?));
        match self.kind() {
            0x0800 => v4(26).zip(v4(30)),
            0x86dd => v6(22).zip(v6(38)),
            _ => None,
        }
    }

    /// The protocol in IP, without a look behind extension headers.
    #[must_use]
    pub fn protocol(&self) -> Option<u8> {
        match self.kind() {
            0x0800 => self.bytes.get(23).copied(),
            0x86dd => self.bytes.get(20).copied(),
            _ => None,
        }
    }

    /// The port that it is for, of TCP and UDP.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        let header = match self.kind() {
            0x0800 => 14 + usize::from(self.bytes.get(14)? & 15) * 4,
            _ => 54,
        };
        let two = self.bytes.get(header + 2..header + 4)?;
        matches!(self.protocol(), Some(6 | 17)).then(|| u16::from_be_bytes([two[0], two[1]]))
    }

    /// Whether it holds a text.
    #[must_use]
    pub fn holds(&self, text: &str) -> bool {
        self.bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// Whether it is for an address.
    #[must_use]
    pub fn is_for(&self, address: IpAddr) -> bool {
        self.addresses().is_some_and(|(_, to)| to == address)
    }
}

/// Reads until it is dropped.
#[derive(Debug)]
pub struct Capture {
    packets: Arc<Mutex<Vec<Packet>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Reads what arrives in a namespace, but not what it sends itself: `own` is its hardware address.
    pub(super) fn start(space: &Space, own: [u8; 6]) -> Self {
        let socket = space.run(|| {
            let protocol = EVERYTHING.try_into().map(Protocol::from_raw).ok();
            rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
        });
        let socket = socket.expect("a packet socket");
        sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).expect("a large buffer");
        let (packets, is_over) = (Arc::default(), Arc::default());
        let (kept, ends) = (Arc::clone(&packets), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || read(&socket, own, &kept, &ends));
        Self { packets, is_over, thread: Some(thread) }
    }

    /// Everything until now.
    ///
    /// # Panics
    /// When the reader did.
    #[must_use]
    pub fn packets(&self) -> Vec<Packet> {
        self.packets.lock().expect("the reader goes on").clone()
    }

    /// Those of which something is so.
    #[must_use]
    pub fn matching(&self, is_so: impl Fn(&Packet) -> bool) -> Vec<Packet> {
        self.packets().into_iter().filter(|packet| is_so(packet)).collect()
    }

    /// Waits for marks that `send` sends, one from each processor. It is asked again when some are lost, since a mark that has to
    /// wait for a neighbour's address can be.
    ///
    /// # Panics
    /// When they do not come.
    pub(super) fn wait_for_marks(&self, send: impl Fn(&str)) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mark = format!("<mark {}>", NUMBER.fetch_add(1, Ordering::Relaxed));
        send(&mark);
        until("marks arrive", || self.matching(|packet| packet.holds(&mark)).len() >= processors().len());
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn read(socket: &OwnedFd, own: [u8; 6], kept: &Mutex<Vec<Packet>>, is_over: &AtomicBool) {
    let mut buffer = vec![0; MAX_FRAME];
    while !is_over.load(Ordering::Relaxed) {
        if !process::readable(socket, Duration::from_millis(20)).unwrap_or(false) {
            continue;
        }
        let Ok((len, _)) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) else { continue };
        let bytes = buffer[..len.min(KEPT)].to_vec();
        let is_of = |mac: &[u8]| bytes.get(6..12) == Some(mac);
        // What the namespace sends, and what it sends to itself.
        if !is_of(&own) && !is_of(&[0; 6]) {
            kept.lock().expect("nobody panics with it").push(Packet { bytes });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{udp_v4, udp_v6};
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn a_packet_says_from_whom_and_to_whom() {
        let (a, b) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        let packet = Packet { bytes: udp_v4(([1; 6], [2; 6]), (a, b), 53, "hi").bytes };
        assert_eq!(packet.addresses(), Some((a.into(), b.into())));
        assert_eq!((packet.protocol(), packet.port(), packet.holds("hi")), (Some(17), Some(53), true));
        let (a, b) = (Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED);
        let packet = Packet { bytes: udp_v6(([1; 6], [2; 6]), (a, b), 53, "hi").bytes };
        assert_eq!((packet.addresses(), packet.port()), (Some((a.into(), b.into())), Some(53)));
        assert_eq!(Packet { bytes: vec![0; 3] }.addresses(), None);
    }
}
