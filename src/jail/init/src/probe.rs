//! `--probe`: tries what a jail must refuse, in a session inside the tenant's own walls, and prints the results.
//!
//! Each result is a line: `call NAME ERRNO`, `read FILE ERRNO` or `write FILE ERRNO`. The number 0 means that nothing refused. Each
//! further argument is a packet that must not arrive, such as `tcp=192.0.2.1:25`. Its line is `tcp 192.0.2.1:25 ERRNO`, where 0 means
//! that it has arrived, or for `from` that it was sent.
//!
//! Danger: the output passes through the tenant's hands. It can show that a wall is broken. It never proves that a wall stands:
//! that is read from outside.

use bailiwick_sys::denied_calls::{DENIED_CALLS, DENIED_FILES, FileAccess, try_call, try_open};
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// How long an answer may take. All are waited for at the same time.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most packets that are tried.
const MOST: usize = 32;
/// The number of "no answer" (`errno(3)`).
const ETIMEDOUT: i32 = 110;
/// A question for the name servers of the root, without recursion (RFC 1035, 4.1).
const QUESTION: [u8; 17] = [0x62, 0x77, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
/// Where a packet from a foreign address would go: nobody is there (RFC 5737), and the port discards (RFC 863).
const NOBODY: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// Tries every call and file, and each packet that an argument names, and prints the results.
pub(crate) fn probe(packets: &[String]) -> io::Result<()> {
    let errno = |result: io::Result<()>| result.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1));
    let mut text = String::new();
    for call in DENIED_CALLS {
        text.push_str(&format!("call {} {}\n", call.name().replace(' ', "-"), errno(try_call(call))));
    }
    for (path, access) in DENIED_FILES {
        let verb = match access {
            FileAccess::Read => "read",
            FileAccess::Write => "write",
        };
        text.push_str(&format!("{verb} {path} {}\n", errno(try_open(path, *access))));
    }
    text.push_str(&try_packets(packets));
    io::stdout().write_all(text.as_bytes())
}

/// Tries packets, all at once; an argument of another form has no line.
fn try_packets(packets: &[String]) -> String {
    let tried = |packet: &String| {
        let (verb, address) = packet.split_once('=')?;
        let result = match verb {
            "tcp" => connect(address.parse().ok()?),
            "dns" => ask(address.parse().ok()?),
            "from" => send_from(address.parse().ok()?),
            _ => return None,
        };
        let errno = match result {
            Ok(()) => 0,
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => ETIMEDOUT,
            Err(error) => error.raw_os_error().unwrap_or(-1),
        };
        Some(format!("{verb} {address} {errno}\n"))
    };
    std::thread::scope(|scope| {
        let packets = packets.iter().take(MOST);
        let threads: Vec<_> =
            packets.map(|packet| std::thread::Builder::new().spawn_scoped(scope, move || tried(packet))).collect();
        // A thread that could not start, or died, has no result.
        threads.into_iter().filter_map(|thread| thread.ok()?.join().ok()?).collect()
    })
}

fn connect(address: SocketAddr) -> io::Result<()> {
    TcpStream::connect_timeout(&address, PATIENCE).map(drop)
}

/// Asks a resolver; any answer is one.
fn ask(address: SocketAddr) -> io::Result<()> {
    let socket = match address {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(&QUESTION)?;
    socket.recv(&mut [0; 512]).map(drop)
}

/// Sends from an address that is not this jail's own. The kernel refuses it inside already, unless the process has a right that no
/// profile gives.
fn send_from(address: SocketAddr) -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // It may be bound to any address. Packets from it are another thing.
    sockopt::set_ip_freebind(&socket, true)?;
    bind(&socket, &address)?;
    UdpSocket::from(socket).send_to(&[0], NOBODY).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn what_arrives_and_what_does_not() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
        let open = listener.local_addr().expect("has one");
        let closed =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("has one");
        let resolver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
        let asked = resolver.local_addr().expect("has one");
        let packets =
            [format!("tcp={open}"), format!("tcp={closed}"), format!("dns={asked}"), "tcp=x".into(), "udp=::1".into()];
        let answers = std::thread::spawn(move || {
            let (_, peer) = resolver.recv_from(&mut [0; 99]).expect("is asked");
            resolver.send_to(b"answer", peer).expect("answers");
        });
        let text = try_packets(&packets);
        answers.join().expect("has answered");
        assert_eq!(text, format!("tcp {open} 0\ntcp {closed} 111\ndns {asked} 0\n"));
    }
}
