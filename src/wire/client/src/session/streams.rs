//! The standard streams of a session: which of them cross into the jail, and the pumps for the others.

use crate::pump::Pump;
use bailiwick_proto::init::WindowSize;
use bailiwick_sys::stream::{self, Direction};
use bailiwick_sys::terminal;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// This process's own three streams.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Local {
    pub(super) fn own() -> io::Result<Self> {
        Ok(Self {
            stdin: io::stdin().as_fd().try_clone_to_owned()?,
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
        })
    }

    pub(super) fn window(&self) -> Option<WindowSize> {
        let size = [&self.stdin, &self.stdout].into_iter().find_map(|fd| terminal::size(fd).ok())?;
        (size.rows > 0 && size.columns > 0).then_some(WindowSize { rows: size.rows, columns: size.columns })
    }
}

/// The pumps of a session before it begins.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) inward: Option<Pump>,
    pub(super) outward: Vec<Pump>,
}

/// Whose the streams of a session are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// An operator's, who may use the same ones for what comes next: none of them is left in a jail.
    Operators,
    /// Those that sshd has made for this one login, and that nobody else has.
    Tenants,
}

/// What crosses into the jail (stdin, stdout, stderr, each a pipe) and the pumps that serve it. A pipe that sshd has made for a login
/// goes as it is, if it is the right end of one: then nothing stands between. An operator's never does: what the command leaves in
/// the background would read what is meant for the next command, or make the pipe block nobody.
pub(super) fn cross(local: &Local, whose: Whose) -> io::Result<(Streams, Vec<OwnedFd>)> {
    let mut streams = Streams::default();
    let stdin = if whose == Whose::Tenants && stream::pipe_direction(&local.stdin)? == Some(Direction::Reading) {
        local.stdin.try_clone()?
    } else {
        let (theirs, ours) = io::pipe()?;
        stream::never_block(&ours)?;
        streams.inward = Some(Pump::new(local.stdin.try_clone()?, ours.into()));
        theirs.into()
    };
    let stdout = outward(&local.stdout, whose, &mut streams)?;
    // Two streams to one place share one pipe: what was written first comes first.
    let stderr = if stream::is_same(&local.stdout, &local.stderr)? {
        stdout.try_clone()?
    } else {
        outward(&local.stderr, whose, &mut streams)?
    };
    Ok((streams, vec![stdin, stdout, stderr]))
}

pub(super) fn outward(local: &OwnedFd, whose: Whose, streams: &mut Streams) -> io::Result<OwnedFd> {
    if whose == Whose::Tenants && stream::pipe_direction(local)? == Some(Direction::Writing) {
        return local.try_clone();
    }
    let (ours, theirs) = io::pipe()?;
    stream::never_block(&ours)?;
    streams.outward.push(Pump::new(ours.into(), local.try_clone()?));
    Ok(theirs.into())
}
