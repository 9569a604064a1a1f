//! Requests to `bailiwick-net`, which connects jails to the network. The warden asks and goes on; the answer is looked at when it
//! comes.

use crate::runtime::Runtime;
use bailiwick_proto::net::MAX_NET_REQUEST;
use bailiwick_proto::{Failure, Incoming, NetReply, NetRequest, TransportError, transport};
use bailiwick_sys::{process, socket};
use bailiwick_types::ExitStatus;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long an answer may take. A network that is not there by then is none, and the jail does not start.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most bytes of a reply to a change.
const MAX_REPLY: usize = 64 << 10;

/// Why a jail has no network, or not the one that is declared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetError {
    /// Nobody listens.
    #[error(
        "bailiwick-net does not run, which connects jails to the network; `systemctl status bailiwick-uplink bailiwick-net` says why"
    )]
    NotRunning(#[source] io::Error),
    /// Nobody listens, because the host has no link that could be served.
    #[error("bailiwick-net does not run, which connects jails to the network: {why}")]
    NoLink {
        /// Why it could not be made.
        why: String,
        /// The kind of error of the connection.
        kind: io::ErrorKind,
    },
    /// It did not answer in time.
    #[error("bailiwick-net did not answer within {} seconds", PATIENCE.as_secs())]
    Late,
    /// It refused.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// The conversation failed.
    #[error("cannot talk to bailiwick-net")]
    Transport(#[from] TransportError),
}

impl NetError {
    /// Whether there is no socket: this is a host without networks.
    pub(crate) fn is_absent(&self) -> bool {
        match self {
            Self::NotRunning(error) => error.kind() == io::ErrorKind::NotFound,
            Self::NoLink { kind, .. } => *kind == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// One request whose answer is awaited.
#[derive(Debug)]
pub(crate) struct NetAsk {
    socket: OwnedFd,
    incoming: Incoming,
    /// From then on there is no answer.
    pub(crate) until: Instant,
}

impl NetAsk {
    /// Sends a request, with a descriptor beside it.
    pub(crate) fn begin(
        runtime: &Runtime,
        request: &NetRequest,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<Self, NetError> {
        let socket = socket::connect_at_once(&runtime.net_socket()).map_err(|error| match runtime.net_error() {
            Some(why) => NetError::NoLink { why, kind: error.kind() },
            None => NetError::NotRunning(error),
        })?;
        // It fits into the empty buffer of the socket.
        let fds: Vec<_> = descriptor.into_iter().collect();
        transport::send(&socket, request, MAX_NET_REQUEST, &fds)?;
        Ok(Self { socket, incoming: Incoming::new(MAX_REPLY, 0), until: Instant::now() + PATIENCE })
    }

    /// The answer; `None` while there is none.
    pub(crate) fn answer(&mut self) -> Option<Result<(), NetError>> {
        let is_late = Instant::now() >= self.until;
        match process::readable(&self.socket, Duration::ZERO) {
            Ok(false) => return is_late.then_some(Err(NetError::Late)),
            Ok(true) => {}
            Err(error) => return Some(Err(TransportError::from(error).into())),
        }
        let received = transport::receive::<NetReply>(&self.socket, &mut self.incoming, Instant::now());
        match received {
            Ok((NetReply::Done | NetReply::Unchanged | NetReply::Hello { .. }, _)) => Some(Ok(())),
            Ok((NetReply::Failed(failure), _)) => Some(Err(NetError::Refused(failure))),
            Ok(_) => {
                let failure = Failure::of(ExitStatus::Failed, "bailiwick-net gave an answer to another request");
                Some(Err(NetError::Refused(failure)))
            }
            // Part of the answer.
            Err(TransportError::Late) if !is_late => None,
            Err(TransportError::Late) => Some(Err(NetError::Late)),
            Err(error) => Some(Err(error.into())),
        }
    }

    /// Becomes readable with the answer.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
