//! The sockets that it listens on: those that systemd hands to it, and those that the command line names.

use crate::Ended;
use bailiwick_sys::process;
use bailiwick_types::ExitStatus;
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A listening socket that never blocks.
#[derive(Debug)]
pub(crate) enum Listening {
    /// Of an address.
    Tcp(std::net::TcpListener),
    /// Of a path.
    Unix(std::os::unix::net::UnixListener),
}

/// Takes the inherited sockets, and makes the named ones.
pub(crate) fn take(addresses: &[SocketAddr], paths: &[PathBuf]) -> Result<Vec<Listening>, Ended> {
    let mut sockets = Vec::new();
    let inherited = sd_notify::listen_fds().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    for number in inherited {
        let socket = process::inherited(number).and_then(listening);
        sockets.push(socket.map_err(|error| Ended::failed(&format!("take over descriptor {number}"), &error))?);
    }
    for address in addresses {
        let made = std::net::TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(Listening::Tcp(listener))
        });
        sockets.push(made.map_err(|error| Ended::failed(&format!("listen on {address}"), &error))?);
    }
    for path in paths {
        let made = at_path(path);
        sockets.push(made.map_err(|error| Ended::failed(&format!("listen on \"{}\"", path.display()), &error))?);
    }
    if sockets.is_empty() {
        let message = "it has no socket to listen on; start bailiwick-exporter.socket, or give it one: \
                       --listen 127.0.0.1:9811, --socket PATH";
        return Err(Ended::new(ExitStatus::Invalid, message));
    }
    Ok(sockets)
}

/// An inherited socket, if it is one that accepts streams.
fn listening(fd: OwnedFd) -> io::Result<Listening> {
    if sockopt::socket_type(&fd)? != SocketType::STREAM || !sockopt::socket_acceptconn(&fd)? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no listening stream socket"));
    }
    rustix::io::ioctl_fionbio(&fd, true)?;
    match sockopt::socket_domain(&fd)? {
        AddressFamily::UNIX => Ok(Listening::Unix(fd.into())),
        AddressFamily::INET | AddressFamily::INET6 => Ok(Listening::Tcp(fd.into())),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is of no known family")),
    }
}

/// Makes a Unix socket. One that an earlier process has left is replaced, unless somebody still listens there.
fn at_path(path: &Path) -> io::Result<Listening> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_socket {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o660))?;
    listener.set_nonblocking(true)?;
    Ok(Listening::Unix(listener))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_was_left_is_replaced_and_one_in_use_is_not() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("metrics.sock");
        for _ in 0..2 {
            let made = take(&[], std::slice::from_ref(&path)).expect("listens");
            assert_eq!(std::fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o660);
            let again = take(&[], std::slice::from_ref(&path)).expect_err("is in use");
            assert!(again.message.starts_with("cannot listen on "), "{}", again.message);
            drop(made);
        }
        std::fs::remove_file(&path).expect("removes");
        std::fs::write(&path, "").expect("writes");
        assert!(take(&[], &[path]).is_err(), "a file of another kind stays");
        assert_eq!(take(&[], &[]).expect_err("none").status, ExitStatus::Invalid);
    }

    #[test]
    fn only_listening_stream_sockets_are_taken_over() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        assert!(matches!(listening(listener.into()), Ok(Listening::Tcp(_))));
        let (stream, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert!(listening(stream.into()).is_err());
        let datagrams = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
        assert!(listening(datagrams.into()).is_err());
        assert!(listening(std::fs::File::open("/dev/null").expect("opens").into()).is_err());
    }
}
