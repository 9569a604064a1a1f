//! `refused-requests`: tells `bailiwickd` of the requests that Apache refused. Apache starts it as the program of a log, as root.
//!
//! Danger: Apache waits for whoever reads its log. So nothing here waits for `bailiwickd`: what it does not take is lost.

use bailiwick_proto::{Failure, RefusedRequest, refused_request};
use bailiwick_types::ExitStatus;
use std::io::{self, BufRead, Read};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Reads names of sockets, one a line, until Apache closes the log. Lines that are none are left out.
pub(crate) fn run(socket: &Path, mut lines: impl BufRead) -> Result<(), Failure> {
    let mut connection = None;
    let mut line = Vec::new();
    loop {
        line.clear();
        let longest = u64::try_from(refused_request::MAX_LEN).unwrap_or(u64::MAX);
        let read = lines.by_ref().take(longest).read_until(b'\n', &mut line);
        if read.map_err(|error| Failure::new(ExitStatus::Failed, &error))? == 0 {
            return Ok(());
        }
        if let Some(refused) = std::str::from_utf8(line.trim_ascii_end()).ok().and_then(RefusedRequest::named) {
            tell(&mut connection, socket, &refused);
        }
    }
}

/// Sends the datagram, over a new connection if the earlier one leads to a `bailiwickd` that has ended.
fn tell(connection: &mut Option<UnixDatagram>, socket: &Path, refused: &RefusedRequest) {
    let datagram = refused.datagram();
    for _ in 0..2 {
        if connection.is_none() {
            *connection = connect(socket).ok();
        }
        let Some(open) = connection else { return };
        match open.send(datagram.as_bytes()) {
            Ok(_) => return,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => *connection = None,
        }
    }
}

fn connect(socket: &Path) -> io::Result<UnixDatagram> {
    let connection = UnixDatagram::unbound()?;
    connection.set_nonblocking(true)?;
    connection.connect(socket)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_told_and_nobody_is_waited_for() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let path = temp.path().join("refused.sock");
        run(&path, &b"alice.web\n"[..]).expect("nobody listens");
        let long = "x".repeat(1000);
        let first = UnixDatagram::bind(&path).expect("binds");
        run(&path, format!("alice.web\n-\n{long}\n\nbob.api\n").as_bytes()).expect("reads");
        let mut buffer = [0; 200];
        for golden in ["alice.web", "bob.api"] {
            let len = first.recv(&mut buffer).expect("receives");
            assert_eq!(
                RefusedRequest::read(&buffer[..len]).map(|refused| refused.to_string()).as_deref(),
                Some(golden)
            );
        }
        // A full queue.
        run(&path, "alice.web\n".repeat(5000).as_bytes()).expect("reads");
        // Another bailiwickd.
        let mut connection = connect(&path).ok();
        drop(first);
        std::fs::remove_file(&path).expect("removes");
        let second = UnixDatagram::bind(&path).expect("binds");
        tell(&mut connection, &path, &RefusedRequest::named("carol.web").expect("a name"));
        let len = second.recv(&mut buffer).expect("receives");
        assert_eq!(RefusedRequest::read(&buffer[..len]).expect("reads").tenant.as_str(), "carol");
    }
}
