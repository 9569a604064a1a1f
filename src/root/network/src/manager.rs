//! Messages to the service manager (`sd_notify(3)`).
//!
//! The socket is connected while the process may still connect to others. Later its filter of system calls refuses that.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The service manager, if one waits for messages. Without one every message is dropped.
#[derive(Debug)]
pub(crate) struct Manager {
    socket: Option<UnixDatagram>,
}

impl Manager {
    /// Connects to the manager that `$NOTIFY_SOCKET` names.
    pub(crate) fn connect() -> io::Result<Self> {
        let name = std::env::var_os("NOTIFY_SOCKET");
        Ok(Self { socket: name.map(|name| connect(&name)).transpose()? })
    }

    /// Says that the service serves.
    pub(crate) fn ready(&self) {
        self.say("READY=1");
    }

    /// Says that it lives (`WatchdogSec=`).
    pub(crate) fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    fn say(&self, what: &str) {
        if let Some(socket) = &self.socket {
            // A manager that does not listen now ends this process, or hears the next message.
            socket.send(what.as_bytes()).ok();
        }
    }
}

/// A name that begins with `@` is one of the abstract namespace (`unix(7)`).
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // The manager may be slow, and nobody must wait for it.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_reach_a_path_and_an_abstract_name() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("notify");
        let abstract_name = format!("bailiwick-notify-{}", std::process::id());
        let listeners = [
            (path.as_os_str().to_owned(), UnixDatagram::bind(&path)),
            (
                format!("@{abstract_name}").into(),
                SocketAddr::from_abstract_name(&abstract_name).and_then(|address| UnixDatagram::bind_addr(&address)),
            ),
        ];
        for (name, listener) in listeners {
            let listener = listener.expect("binds");
            let manager = Manager { socket: Some(connect(&name).expect("connects")) };
            manager.ready();
            manager.alive();
            let mut buffer = [0; 64];
            for golden in ["READY=1", "WATCHDOG=1"] {
                let len = listener.recv(&mut buffer).expect("a message");
                assert_eq!(&buffer[..len], golden.as_bytes());
            }
        }
        Manager { socket: None }.ready();
        assert!(connect(OsStr::new("/no/such/socket")).is_err());
    }
}
