//! Servers of the outside: each tells a client which address it has, and sends back what it gets.

use super::{OUTSIDE_V4, OUTSIDE_V6, RESOLVER, Space};
use rustix::net::Shutdown;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

/// Ports of TCP, at every address.
const TCP: &[u16] = &[22, 25, 53, 80, 81, 443, 465, 587, 8080];

/// The servers. They end with [`Self::end`].
#[derive(Debug, Default)]
pub(super) struct Servers {
    sockets: Vec<OwnedFd>,
}

impl Servers {
    pub(super) fn start(outside: &Space) -> Self {
        let mut sockets = Vec::new();
        let mut keep = |socket: &dyn AsFd| sockets.push(socket.as_fd().try_clone_to_owned().expect("dup"));
        for port in TCP {
            // Both families.
            let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port));
            let listener = outside.run(|| TcpListener::bind(address)).expect("binds");
            keep(&listener);
            serve_tcp(listener);
        }
        let elsewhere = [IpAddr::from([8, 8, 8, 8]), IpAddr::from([203, 0, 115, 1])];
        let [v4, v6, resolver] = [OUTSIDE_V4.into(), OUTSIDE_V6.into(), RESOLVER.into()];
        for (address, port) in
            [(v4, 443), (v4, 53), (v6, 443), (v6, 53), (resolver, 53), (elsewhere[0], 53), (elsewhere[1], 443)]
        {
            let address = SocketAddr::from((address, port));
            let socket = outside.run(|| UdpSocket::bind(address)).unwrap_or_else(|error| panic!("{address}: {error}"));
            keep(&socket);
            serve_udp(socket);
        }
        Self { sockets }
    }

    /// Wakes each thread that waits, which ends it.
    pub(super) fn end(&self) {
        for socket in &self.sockets {
            rustix::net::shutdown(socket, Shutdown::Both).ok();
        }
    }
}

/// Serves until the socket is shut down.
pub(super) fn serve_tcp(listener: TcpListener) {
    thread::spawn(move || {
        while let Ok((stream, peer)) = listener.accept() {
            thread::spawn(move || answer(stream, peer));
        }
    });
}

fn answer(mut stream: TcpStream, peer: SocketAddr) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(format!("{}\n", peer.ip().to_canonical()).as_bytes())?;
    let mut buffer = [0; 64 << 10];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            len => stream.write_all(&buffer[..len])?,
        }
    }
}

fn serve_udp(socket: UdpSocket) {
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            match socket.recv_from(&mut buffer) {
                // A datagram may be empty, but nobody here sends such a one: the socket was shut down.
                Ok((0, _)) => return,
                Ok((_, peer)) => drop(socket.send_to(peer.ip().to_canonical().to_string().as_bytes(), peer)),
                // What was refused to an earlier client.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                Err(_) => return,
            }
        }
    });
}
