//! The warden's state: one owned part for each concern. Handlers work on it, and the loop asks it what to wait for.
//!
//! Danger: everything that comes in names a tenant and nothing else. What is to be done is read anew from the root-owned policy
//! each time ([`PolicyView`]).

use crate::host_files::etc_view::EtcView;
use crate::identity::host_user::HostUsers;
use crate::identity::ledger::Ledger;
use crate::jail::registry::{End, Jails};
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
use bailiwick_types::{ExitStatus, TenantName};
use rustix::event::PollFlags;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

/// The warden.
#[derive(Debug)]
pub struct Warden {
    pub(crate) policy: PolicyView,
    pub(crate) daemon: DaemonUser,
    /// The program that becomes PID 1 of a jail.
    pub(crate) init: OwnedFd,
    pub(crate) runtime: Runtime,
    pub(crate) groups: Groups,
    pub(crate) storage: Storage,
    pub(crate) ledger: Ledger,
    pub(crate) host_users: HostUsers,
    pub(crate) jails: Jails,
    pub(crate) preparations: Preparations,
    pub(crate) removals: Removals,
    pub(crate) waiting: WaitingRequests,
    pub(crate) last_ticket: Ticket,
    pub(crate) reserve: HostReserve,
    pub(crate) emergencies: EmergencySessions,
    pub(crate) watch: Watch,
    pub(crate) etc_view: EtcView,
    /// Given by the service manager, until the loop takes it.
    pub(crate) listener: Option<OwnedFd>,
    /// Which jails show files that the host has replaced, for `status`.
    pub(crate) stale: Vec<String>,
    /// What this version confines jails with (`confinement_digest`).
    pub(crate) confinements: Vec<String>,
}

impl Warden {
    /// The socket on which requests come: the service manager's, or one that is made here. An earlier warden may have made one in the
    /// place of the manager's (`listen_again`): nobody can reach that any more, though the manager still hands it over.
    ///
    /// # Errors
    /// What `bind(2)` and `listen(2)` say.
    pub fn listener(&mut self) -> io::Result<OwnedFd> {
        match self.listener.take() {
            Some(listener) if self.runtime.is_listened_on() => Ok(listener),
            _ => self.runtime.listen(),
        }
    }

    /// Which file the socket is; `None` when somebody has removed it.
    pub(crate) fn socket(&self) -> Option<(u64, u64)> {
        self.runtime.socket()
    }

    /// A new socket in the place of one that was removed.
    pub(crate) fn listen_again(&self) -> io::Result<OwnedFd> {
        self.runtime.listen()
    }

    /// Whether a user may ask: root, or the one that `bailiwickd` runs as.
    #[must_use]
    pub fn serves(&self, uid: u32) -> bool {
        uid == 0 || uid == self.daemon.uid
    }

    /// The init of a jail has ended: clears away what is left of the jail.
    pub(crate) fn ended(&mut self, tenant: &TenantName) {
        self.jails.end(tenant, End::ByItself);
    }

    /// What has happened, by what was reported of the descriptors of [`Watch::fds`].
    pub(crate) fn happened(&mut self, heard: &[PollFlags]) -> Vec<WardenEvent> {
        let ledger = &self.ledger;
        let owner = |project| ledger.tenants().find(|(_, ids)| ids.first == project).map(|(name, _)| name.clone());
        let mut events = self.watch.take(heard, owner);
        events.extend(self.reserve.check(&mut self.policy, &self.groups, &self.storage, &self.ledger));
        self.etc_view.look_again(&self.policy.host.etc);
        events
    }

    /// The descriptors of all that takes time.
    pub(crate) fn slow_fds(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut fds: Vec<_> = self.jails.changing_fds().chain(self.preparations.fds()).collect();
        fds.extend(self.waiting.fds());
        fds
    }

    /// When to look again at the latest, if something is on its way.
    pub(crate) fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        let reserve = self.reserve.is_due().then_some(now);
        let due = [self.jails.due(), self.removals.due(), self.waiting.due(now), reserve];
        due.into_iter().flatten().min()
    }

    /// What does not get on by itself, for `status`.
    pub(crate) fn problems(&self) -> Vec<String> {
        let now = Instant::now();
        let mut problems = self.jails.problems(now);
        problems.extend(self.removals.problems());
        problems.extend(self.preparations.problems(now));
        problems.extend(self.stale.iter().cloned());
        problems
    }

    /// Has a request wait while the tenant's jail starts or ends, if the request needs that; whether it waits now.
    pub(crate) fn is_put_off(&mut self, ticket: Ticket, request: &WardenRequest) -> bool {
        let Some((tenant, until)) = self.jails.must_wait(request) else { return false };
        self.waiting.add(ticket, until, WaitsFor::Settled { tenant, request: request.clone() });
        true
    }

    /// Writes what a full disk has kept from the ledger; says what is new of that.
    pub(crate) fn check_ledger(&mut self, now: Instant) -> Option<String> {
        self.ledger.write_pending(now)
    }

    /// Takes the reserves of emergency sessions back in which nobody is any more; says which could not be taken back.
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
