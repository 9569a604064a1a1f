//! The standard streams of a session: which of them cross into the jail, and the pumps for the others.
//!
//! Danger: only pipes cross. A file, a socket or a terminal of the host must never be in a tenant's hands.

use crate::pump::Pump;
use bailiwick_proto::init::WindowSize;
use bailiwick_sys::stream::{self, Direction};
use bailiwick_sys::terminal;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Duplicates of this process's own three streams.
#[derive(Debug)]
pub(super) struct LocalStreams {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl LocalStreams {
    /// Duplicates the streams.
    pub(super) fn duplicate() -> io::Result<Self> {
        Ok(Self {
            stdin: io::stdin().as_fd().try_clone_to_owned()?,
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
        })
    }

    /// The size of the terminal on standard input or output; `None` without one, or when its size is unknown.
    pub(super) fn window(&self) -> Option<WindowSize> {
        let size = [&self.stdin, &self.stdout].into_iter().find_map(|fd| terminal::size(fd).ok())?;
        (size.rows > 0 && size.columns > 0).then_some(WindowSize { rows: size.rows, columns: size.columns })
    }
}

/// The pumps of a session before it begins: one for each stream that does not cross.
#[derive(Debug, Default)]
pub(super) struct Pumps {
    pub(super) inward: Option<Pump>,
    pub(super) outward: Vec<Pump>,
}

/// Who owns the local streams of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamOwner {
    /// An operator. The next command may use the same streams, so none of them stays in a jail.
    Operator,
    /// A tenant. sshd has made the streams for this login alone.
    Tenant,
}

/// Chooses what crosses into the jail. Returns the pumps, and the jail's stdin, stdout and stderr, each a pipe.
///
/// A pipe that sshd has made for a login crosses as it is, when it is the right end: then no process stands between. A pipe of
/// an operator never crosses: what the command leaves in the background would read the input of the next command, or
/// make the pipe non-blocking for everybody.
pub(super) fn connect_streams(local: &LocalStreams, owner: StreamOwner) -> io::Result<(Pumps, Vec<OwnedFd>)> {
    let mut pumps = Pumps::default();
    let stdin = if owner == StreamOwner::Tenant && stream::pipe_direction(&local.stdin)? == Some(Direction::Reading) {
        local.stdin.try_clone()?
    } else {
        let (theirs, ours) = io::pipe()?;
        stream::never_block(&ours)?;
        pumps.inward = Some(Pump::new(local.stdin.try_clone()?, ours.into()));
        theirs.into()
    };
    let stdout = connect_output(&local.stdout, owner, &mut pumps)?;
    // Two streams to one place share one pipe. This keeps the order of what the command writes.
    let stderr = if stream::is_same(&local.stdout, &local.stderr)? {
        stdout.try_clone()?
    } else {
        connect_output(&local.stderr, owner, &mut pumps)?
    };
    Ok((pumps, vec![stdin, stdout, stderr]))
}

fn connect_output(local: &OwnedFd, owner: StreamOwner, pumps: &mut Pumps) -> io::Result<OwnedFd> {
    if owner == StreamOwner::Tenant && stream::pipe_direction(local)? == Some(Direction::Writing) {
        return local.try_clone();
    }
    let (ours, theirs) = io::pipe()?;
    stream::never_block(&ours)?;
    pumps.outward.push(Pump::new(ours.into(), local.try_clone()?));
    Ok(theirs.into())
}
