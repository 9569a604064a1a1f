//! Requests whose reply takes time. Each has a ticket and waits for one thing that is in progress.

use crate::ftp::Leaving;
use crate::helper::Helper;
use crate::limits::tenant_groups::Freezing;
use crate::net_client::NetAsk;
use bailiwick_proto::warden::WardenEvent;
use bailiwick_proto::{Failure, WardenReply, WardenRequest};
use bailiwick_types::{ExitStatus, TenantName};
use rustix::event::PollFlags;
use std::collections::BTreeMap;
use std::error::Error;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Between two looks at processes whose end no descriptor reports.
const LOOK_TIME: Duration = Duration::from_millis(20);

/// Names a request that waits for its reply.
pub(crate) type Ticket = u64;

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    Now(WardenReply),
    /// [`Progress`] brings the reply, under this ticket.
    Later(Ticket),
}

/// A reply; `None` when the request waits under its ticket.
pub(crate) type Begins = Result<Option<WardenReply>, Failure>;

/// What has changed since the last look.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Replies to waiting requests.
    pub(crate) replies: Vec<(Ticket, WardenReply)>,
    pub(crate) events: Vec<WardenEvent>,
    /// Lines for the log.
    pub(crate) lines: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct WaitingRequest {
    pub(crate) ticket: Ticket,
    until: Instant,
    pub(crate) what: WaitsFor,
}

impl WaitingRequest {
    /// Whether to reply that it takes longer.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        now >= self.until
    }
}

/// A change of the network of a running jail.
#[derive(Debug)]
pub(crate) struct NetworkUpdate {
    pub(crate) ask: NetAsk,
    /// The settings that are in force when it was made.
    pub(crate) settings: BTreeMap<String, String>,
}

/// What a request waits for.
#[derive(Debug)]
pub(crate) enum WaitsFor {
    /// A jail is gone; then `done` is the reply.
    Cleared { tenant: TenantName, done: WardenReply },
    /// A jail neither starts nor ends; then the request is handled.
    Settled { tenant: TenantName, request: WardenRequest },
    /// A control group is frozen, or thawed.
    Frozen { tenant: TenantName, freezing: Freezing },
    /// A process of an FTP server has ended, with its children.
    Left { leaving: Leaving },
    /// The tmpfs mounts of a jail have their new size, and its network has its new rules.
    Resized { tenant: TenantName, resizing: Helper, network: Option<NetworkUpdate> },
    /// `bailiwick-net` answers; then a jail with a network is replaced.
    NetworkAnswers { tenant: TenantName, ask: NetAsk },
    /// Nothing of a purged tenant is left, and `bailiwick-net` has forgotten it.
    Purged { tenant: TenantName, forgetting: Option<NetAsk> },
    /// A tenant's storage is prepared; then the request is handled.
    Prepared { tenant: TenantName, request: WardenRequest },
}

#[derive(Debug, Default)]
pub(crate) struct WaitingRequests(Vec<WaitingRequest>);

impl WaitingRequests {
    /// Adds a request. From `until` on, it gets the reply that it takes longer.
    pub(crate) fn add(&mut self, ticket: Ticket, until: Instant, what: WaitsFor) {
        self.0.push(WaitingRequest { ticket, until, what });
    }

    /// Takes all requests, to look at each. [`Self::keep`] puts back those that still wait.
    pub(crate) fn take(&mut self) -> Vec<WaitingRequest> {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn keep(&mut self, waiting: WaitingRequest) {
        self.0.push(waiting);
    }

    /// Descriptors that report what the requests wait for.
    pub(crate) fn fds(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut fds = Vec::new();
        for waiting in &self.0 {
            match &waiting.what {
                WaitsFor::Frozen { freezing, .. } => fds.push((freezing.events().as_fd(), PollFlags::PRI)),
                WaitsFor::Resized { resizing, network, .. } => {
                    fds.push((resizing.report().as_fd(), PollFlags::IN));
                    fds.extend(network.iter().map(|update| (update.ask.fd(), PollFlags::IN)));
                }
                WaitsFor::Purged { forgetting, .. } => {
                    fds.extend(forgetting.iter().map(|ask| (ask.fd(), PollFlags::IN)));
                }
                WaitsFor::NetworkAnswers { ask, .. } => fds.push((ask.fd(), PollFlags::IN)),
                _ => {}
            }
        }
        fds
    }

    /// The time of the next look at the latest.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        let due = |waiting: &WaitingRequest| match waiting.what {
            // Its children are not ours, so nothing reports their end.
            WaitsFor::Left { .. } => (now + LOOK_TIME).min(waiting.until),
            _ => waiting.until,
        };
        self.0.iter().map(due).min()
    }

    /// Ends the wait of requests whose tenant's storage could not be prepared; returns the replies.
    pub(crate) fn fail_unprepared(&mut self, failures: &BTreeMap<TenantName, Failure>) -> Vec<(Ticket, WardenReply)> {
        let mut replies = Vec::new();
        self.0.retain(|waiting| {
            let WaitsFor::Prepared { tenant, .. } = &waiting.what else { return true };
            let Some(failure) = failures.get(tenant) else { return true };
            replies.push((waiting.ticket, WardenReply::Failed(failure.clone())));
            false
        });
        replies
    }
}

/// The failure "cannot VERB "TENANT": ERROR".
pub(crate) fn failure(status: ExitStatus, tenant: &TenantName, verb: &str, error: &(dyn Error + 'static)) -> Failure {
    let mut failure = Failure::new(status, error);
    failure.message = format!("cannot {verb} \"{tenant}\": {}", failure.message);
    failure
}

/// The same with [`ExitStatus::Failed`], for `map_err`.
pub(crate) fn failed<E: Error + 'static>(tenant: &TenantName, verb: &str) -> impl FnOnce(E) -> Failure {
    move |error| failure(ExitStatus::Failed, tenant, verb, &error)
}

/// The reply when the jail has ended before the request was done.
pub(crate) fn has_ended(tenant: &TenantName) -> Failure {
    Failure::of(ExitStatus::Refused, format!("the jail of \"{tenant}\" has ended"))
}
