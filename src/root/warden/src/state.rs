//! The warden's state, with one owned part for each concern.
//!
//! Danger: a request names a tenant and nothing else. What to do comes from the root-owned policy, read anew each
//! time ([`PolicyView`]).

use crate::host_files::etc_view::EtcView;
use crate::identity::host_user::HostUsers;
use crate::identity::ledger::Ledger;
use crate::jail::registry::{End, Jails};
use crate::lending::{Around, Lending};
use crate::limits::cgroups::Groups;
use crate::limits::emergency_session::EmergencySessions;
use crate::limits::host_reserve::HostReserve;
use crate::limits::watch::Watch;
use crate::policy_view::PolicyView;
use crate::requests::{Ticket, WaitingRequests, WaitsFor};
use crate::runtime::{DaemonUser, Runtime};
use crate::storage::layout::Storage;
use crate::storage::preparing::Preparations;
use crate::storage::removals::Removals;
use bailiwick_proto::Failure;
use bailiwick_proto::WardenRequest;
use bailiwick_proto::warden::WardenEvent;
use bailiwick_sys::unix_diag::UnixDiag;
use bailiwick_types::{ExitStatus, TenantName};
use rustix::event::PollFlags;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

/// The warden: everything that it owns.
#[derive(Debug)]
pub struct Warden {
    pub(crate) policy: PolicyView,
    pub(crate) daemon: DaemonUser,
    /// The program that becomes PID 1 of a jail.
    pub(crate) init: OwnedFd,
    /// The program that jails find at `mount::WEB`.
    pub(crate) web: OwnedFd,
    /// The program that jails find at `mount::MAIL`.
    pub(crate) mail: OwnedFd,
    pub(crate) runtime: Runtime,
    pub(crate) groups: Groups,
    pub(crate) storage: Storage,
    pub(crate) ledger: Ledger,
    pub(crate) host_users: HostUsers,
    pub(crate) jails: Jails,
    pub(crate) lending: Lending,
    pub(crate) preparations: Preparations,
    pub(crate) removals: Removals,
    pub(crate) waiting: WaitingRequests,
    pub(crate) last_ticket: Ticket,
    pub(crate) reserve: HostReserve,
    pub(crate) emergencies: EmergencySessions,
    pub(crate) watch: Watch,
    /// Lists Unix sockets; `None` on a kernel that cannot.
    pub(crate) unix_diag: Option<UnixDiag>,
    pub(crate) etc_view: EtcView,
    /// The service manager's socket, until the loop takes it.
    pub(crate) listener: Option<OwnedFd>,
    /// Jails that may show replaced files of the host, for `status`.
    pub(crate) stale: Vec<String>,
    /// How this version confines jails (`confinement_digest`).
    pub(crate) confinements: Vec<String>,
}

impl Warden {
    /// The socket for requests: the service manager's, or a new one. An earlier warden may have replaced the
    /// manager's socket (`listen_again`). The manager still hands the old one over, but nobody can reach it.
    ///
    /// # Errors
    /// What `bind(2)` and `listen(2)` return.
    pub fn listener(&mut self) -> io::Result<OwnedFd> {
        match self.listener.take() {
            Some(listener) if self.runtime.is_listened_on() => Ok(listener),
            _ => self.runtime.listen(),
        }
    }

    /// Device and inode of the socket's file; `None` when somebody has removed it.
    pub(crate) fn socket(&self) -> Option<(u64, u64)> {
        self.runtime.socket()
    }

    /// A new socket in place of one that was removed.
    pub(crate) fn listen_again(&self) -> io::Result<OwnedFd> {
        self.runtime.listen()
    }

    /// Whether a user may send requests: root, or the user of `bailiwickd`.
    #[must_use]
    pub fn serves(&self, uid: u32) -> bool {
        uid == 0 || uid == self.daemon.uid
    }

    /// The init of a jail has ended: clears away the rest of the jail.
    pub(crate) fn ended(&mut self, tenant: &TenantName) {
        self.jails.end(tenant, End::ByItself);
    }

    /// Events, from what `poll` reported of [`Watch::fds`].
    pub(crate) fn take_events(&mut self, flags: &[PollFlags]) -> Vec<WardenEvent> {
        let ledger = &self.ledger;
        let owner = |project| ledger.tenants().find(|(_, ids)| ids.first == project).map(|(name, _)| name.clone());
        let mut events = self.watch.take(flags, owner);
        events.extend(self.reserve.check(&mut self.policy, &self.groups, &self.storage, &self.ledger));
        self.etc_view.look_again(&self.policy.host.etc);
        self.runtime.follow_web(&self.policy.host.web);
        events
    }

    /// Descriptors of everything that is in progress.
    pub(crate) fn slow_fds(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut fds: Vec<_> = self.jails.changing_fds().chain(self.preparations.fds()).collect();
        fds.extend(self.waiting.fds());
        fds.extend(self.lending.fds());
        fds
    }

    /// The time of the next look at the latest, if anything is in progress.
    pub(crate) fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        let reserve = self.reserve.is_due().then_some(now);
        let due = [self.jails.due(), self.removals.due(), self.waiting.due(now), self.lending.due(), reserve];
        due.into_iter().flatten().min()
    }

    /// What is stuck, for `status`.
    pub(crate) fn problems(&self) -> Vec<String> {
        let now = Instant::now();
        let mut problems = self.jails.problems(now);
        problems.extend(self.removals.problems());
        problems.extend(self.preparations.problems(now));
        problems.extend(self.stale.iter().cloned());
        problems.extend(self.runtime.web_problem().map(str::to_owned));
        problems.extend(self.lending.problems(&self.policy.host));
        problems
    }

    /// Looks at the processes that serve lent sockets of the host; returns lines for the log.
    pub(crate) fn check_lending(&mut self) -> Vec<String> {
        let Self { lending, groups, jails, ledger, host_users, policy, .. } = self;
        lending.check(&Around { groups, jails, host: &policy.host, ledger, host_users })
    }

    /// Makes a request wait while the tenant's jail starts or ends, if the request needs that. Returns whether it
    /// waits.
    pub(crate) fn is_put_off(&mut self, ticket: Ticket, request: &WardenRequest) -> bool {
        let Some((tenant, until)) = self.jails.must_wait(request) else { return false };
        self.waiting.add(ticket, until, WaitsFor::Settled { tenant, request: request.clone() });
        true
    }

    /// Retries a ledger write that a full disk prevented; returns a line for the log when the outcome changes.
    pub(crate) fn check_ledger(&mut self, now: Instant) -> Option<String> {
        self.ledger.write_pending(now)
    }

    /// Takes back the reserve of each emergency session that is over; returns lines for the log.
    pub(crate) fn check_emergency_sessions(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        for name in self.emergencies.due() {
            let Some(jail) = self.jails.get(&name) else { continue };
            let declared = self.policy.controls(&name);
            let taken = self.emergencies.forked(&self.groups, &name, jail.record.pid);
            if let Err(error) = taken.and_then(|()| self.emergencies.take_back(&self.groups, &name, declared))
                && self.emergencies.is_news(&name)
            {
                let reason = Failure::new(ExitStatus::Failed, &error).message;
                problems.push(format!("tenant={name} event=reserve-not-taken-back reason={reason:?}"));
            }
        }
        problems
    }
}
