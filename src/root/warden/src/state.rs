//! The warden's state and what it does for each request.
//!
//! Danger: everything that comes in names a tenant and nothing else. What is to be done is read anew from the
//! root-owned policy each time; where a file has an error, what it last said without is used, which is root's as well.

mod emergency_session;
mod host_reserve;
mod lifecycle;
mod query;
mod slow;
mod startup;

pub(crate) use slow::Progress;
pub use startup::OpenError;
pub(crate) use startup::daemon_user;

use crate::ftp;
use crate::helper::Helper;
use crate::host_files::etc_view::EtcView;
use crate::identity::host_user::{self, HostUserError, HostUsers};
use crate::identity::ledger::{Ledger, LedgerError};
use crate::jail::record::{Record, confinement_digest};
use crate::jail::resize;
use crate::jail::start::{Begun, BuildError, Builder, Finished, Unmade};
use crate::jail::step::{Step, reach};
use crate::limits::cgroups::{self, Freezer, Freezing, GroupError, Groups};
use crate::limits::disk_note::DiskNote;
use crate::limits::emergency_session::{EmergencyError, EmergencySessions};
use crate::limits::quota::{self, Grace};
use crate::limits::watch::Watch;
use crate::runtime::{DaemonUser, Runtime, RuntimeError};
use crate::storage::{
    grave,
    layout::{Storage, StorageError},
    purge::{Removal, Slice},
};
use crate::systemd::{self, InheritedFds};
use bailiwick_observe::{Census, InitSubject, ObserveError, Subject};
use bailiwick_plan::JailPlan;
use bailiwick_plan::control::controls;
use bailiwick_plan::disk::DiskPlan;
use bailiwick_policy::{Declared, Diagnostic, Host, Store, Tenant};
use bailiwick_proto::warden::{
    FtpProcess, FtpView, MOST_COMPARED, MOST_KEPT, MOST_OBSERVED, Reached, RosterEntry, WardenEvent,
};
use bailiwick_proto::{Failure, Hold, Refusal, WARDEN_ERROR, WardenReply, WardenRequest};
use bailiwick_sys::{credential, file, process};
use bailiwick_types::HostFacts;
use bailiwick_types::{ByteSize, DiskFact, Door, ExitStatus, FtpUser, IdRange, Profile, QuotaFacts, TenantName};
use host_reserve::DiskReserve;
use lifecycle::Begins;
use query::bounded;
use rustix::event::PollFlags;
use rustix::process::Signal;
use slow::{End, Slow};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A running jail.
#[derive(Debug)]
struct Jail {
    record: Record,
    pidfd: OwnedFd,
    /// Tells whether it is frozen. Held, because opening it anew for each look costs more than all else that a look does.
    freezer: Option<Freezer>,
}

/// Names a request that waits for its reply.
pub(crate) type Ticket = u64;

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// This is the reply.
    Now(WardenReply),
    /// The reply comes with [`Progress`], under this ticket.
    Later(Ticket),
}

/// The warden.
#[derive(Debug)]
pub struct Warden {
    config: PathBuf,
    policy: Store,
    host: Host,
    facts: HostFacts,
    daemon: DaemonUser,
    init: OwnedFd,
    storage: Storage,
    ledger: Ledger,
    runtime: Runtime,
    groups: Groups,
    host_users: HostUsers,
    jails: BTreeMap<TenantName, Jail>,
    slow: Slow,
    last_ticket: Ticket,
    emergencies: EmergencySessions,
    /// Given by the service manager, until the loop takes it.
    listener: Option<OwnedFd>,
    watch: Watch,
    reserve: DiskReserve,
    etc_view: EtcView,
    stale: Vec<String>,
    /// What this version confines jails with ([`confinement_digest`]).
    confinements: Vec<String>,
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

    /// Descriptors that become readable when a jail's init ends.
    pub(crate) fn inits(&self) -> Vec<(TenantName, BorrowedFd<'_>)> {
        self.jails.iter().map(|(tenant, jail)| (tenant.clone(), jail.pidfd.as_fd())).collect()
    }

    /// The inits of the jails that run, by their numbers.
    pub(crate) fn init_numbers(&self) -> BTreeSet<(TenantName, u32)> {
        self.jails.iter().map(|(tenant, jail)| (tenant.clone(), jail.record.pid)).collect()
    }

    /// How often what jails see of the host's `/etc` has changed.
    pub(crate) fn edition_of_etc(&self) -> u64 {
        self.etc_view.edition()
    }

    /// The init of a jail that runs: its number, and a descriptor of it.
    pub(crate) fn init_of(&self, tenant: &TenantName) -> Option<(u32, BorrowedFd<'_>)> {
        self.jails.get(tenant).map(|jail| (jail.record.pid, jail.pidfd.as_fd()))
    }

    /// The init of a jail has ended: clears away what is left of the jail.
    pub(crate) fn ended(&mut self, tenant: &TenantName) {
        self.end(tenant, End::ByItself);
    }

    /// What to wait for beside requests and jails.
    pub(crate) fn watched(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        self.watch.fds()
    }

    /// What has happened, by what was reported of [`Self::watched`].
    pub(crate) fn happened(&mut self, heard: &[PollFlags]) -> Vec<WardenEvent> {
        let ledger = &self.ledger;
        let owner = |project| ledger.tenants().find(|(_, ids)| ids.first == project).map(|(name, _)| name.clone());
        let mut events = self.watch.take(heard, owner);
        events.extend(self.check_reserve());
        self.etc_view.look_again(&self.host.etc);
        events
    }

    /// Does what a request asks for, or begins to.
    pub(crate) fn handle(&mut self, request: WardenRequest) -> Answer {
        self.last_ticket += 1;
        self.begin(self.last_ticket, request)
    }

    fn begin(&mut self, ticket: Ticket, request: WardenRequest) -> Answer {
        if self.is_put_off(ticket, &request) {
            return Answer::Later(ticket);
        }
        let begins = match request {
            WardenRequest::Start { tenant } => self.start(&tenant, ticket),
            WardenRequest::Restart { tenant } => self.restart(&tenant, ticket),
            WardenRequest::Stop { tenant, hold } => self.stop(&tenant, hold, ticket),
            WardenRequest::Freeze { tenant } => self.freeze(&tenant, true, ticket),
            WardenRequest::Thaw { tenant } => self.freeze(&tenant, false, ticket),
            WardenRequest::Purge { tenant } => self.purge(&tenant, ticket),
            WardenRequest::Limit { tenant } => self.limit(&tenant, ticket),
            WardenRequest::EndFtp { process } => self.end_ftp(&process, ticket),
            request => return Answer::Now(self.answer(request)),
        };
        match begins {
            Ok(Some(reply)) => Answer::Now(reply),
            Ok(None) => Answer::Later(ticket),
            Err(failure) => Answer::Now(WardenReply::Failed(failure)),
        }
    }

    /// Answers a request that takes no time.
    fn answer(&mut self, request: WardenRequest) -> WardenReply {
        let result = match request {
            WardenRequest::Hello => {
                return WardenReply::Hello { version: env!("CARGO_PKG_VERSION").to_owned() };
            }
            WardenRequest::Start { .. }
            | WardenRequest::Restart { .. }
            | WardenRequest::Stop { .. }
            | WardenRequest::Freeze { .. }
            | WardenRequest::Thaw { .. }
            | WardenRequest::Limit { .. }
            | WardenRequest::EndFtp { .. }
            | WardenRequest::Purge { .. } => unreachable!("they begin above"),
            WardenRequest::Rescue { tenant } => self.rescue(&tenant),
            WardenRequest::Rescued { tenant } => self.rescued(&tenant),
            WardenRequest::HostUser { tenant } => self.host_user(&tenant),
            WardenRequest::Keep { tenants } => self.keep(&tenants),
            WardenRequest::Observe { tenants } => self
                .look(&tenants, MOST_OBSERVED, bailiwick_observe::observe_with, |all| &mut all.disk)
                .map(WardenReply::Observed),
            WardenRequest::InForce { tenants } => self
                .look(&tenants, MOST_COMPARED, bailiwick_observe::in_force, |all| &mut all.disk)
                .map(WardenReply::InForce),
            WardenRequest::FtpProcesses { tenant } => {
                let meant = |name: &&TenantName| tenant.as_ref().is_none_or(|tenant| *name == tenant);
                let tenants = self.jails.keys().filter(meant);
                Ok(WardenReply::FtpProcesses(tenants.flat_map(|name| ftp::processes(&self.groups, name)).collect()))
            }
            // It has descriptors beside it: see `ftp_view`.
            WardenRequest::FtpView { .. } => Err(Failure::of(ExitStatus::Refused, "only root lets an FTP server in")),
            WardenRequest::Facts => self.facts(),
            WardenRequest::Disks => self.disks(),
            WardenRequest::Evidence { tenant } => self.evidence(&tenant),
            // The loop has taken note.
            WardenRequest::Watch => Ok(WardenReply::Done),
            WardenRequest::Problems => Ok(self.problems()),
            WardenRequest::Roster => Ok(self.roster()),
            WardenRequest::Entry { tenant } => {
                Ok(WardenReply::Entry(self.ledger.ids(&tenant).map(|ids| Box::new(self.entry(&tenant, ids)))))
            }
        };
        result.unwrap_or_else(WardenReply::Failed)
    }

    /// The host and the tenant as the policy has them now.
    fn declared(&mut self, name: &TenantName) -> Result<(Host, Tenant), Failure> {
        let (host, tenant) = self
            .policy
            .tenant(name)
            .map_err(|problems| Failure::of(ExitStatus::Invalid, bailiwick_policy::lines(&problems)))?;
        if self.is_moved(&host) {
            return Err(Failure::of(ExitStatus::Refused, MOVED));
        }
        self.host.reserve = host.reserve;
        self.host.etc.clone_from(&host.etc);
        match tenant {
            Some(tenant) => Ok((host, tenant)),
            None => Err(Refusal::UnknownTenant { tenant: name.clone() }.into()),
        }
    }

    /// Whether this warden works elsewhere than the policy says by now.
    fn is_moved(&self, host: &Host) -> bool {
        host.state_dir != self.host.state_dir || host.runtime_dir != self.host.runtime_dir || host.ids != self.host.ids
    }

    fn keep(&mut self, names: &[TenantName]) -> Result<WardenReply, Failure> {
        bounded(names, MOST_KEPT)?;
        let failed = |error: io::Error| {
            let mut failure = Failure::new(ExitStatus::Failed, &error);
            failure.message = format!("cannot write down the policy that is in force: {}", failure.message);
            failure
        };
        self.policy.save(None, self.daemon.gid).map_err(failed)?;
        for name in names {
            self.policy.save(Some(name), self.daemon.gid).map_err(failed)?;
        }
        Ok(WardenReply::Done)
    }

    fn limit(&mut self, name: &TenantName, ticket: Ticket) -> Begins {
        let (host, tenant) = self.declared(name)?;
        self.running(name)?;
        self.read_host()?;
        let limits = &tenant.settings.limits;
        let failed = |error: &(dyn std::error::Error + 'static)| failure(ExitStatus::Failed, name, "limit", error);
        self.groups.reserve(&self.facts, &host.reserve).map_err(|error| failed(&error))?;
        if let Some(ids) = self.ledger.ids(name) {
            let plan = DiskPlan::new(limits, &self.facts);
            let before = self.disk_now(name, ids);
            let bound = self.storage.bound(name, ids.first, &plan, &self.facts.storage.quota);
            bound.map_err(|error| failed(&error))?;
            self.note_disk(name, ids, &plan, before.as_ref());
            self.clamp_again(name, ids);
        }
        let controls = controls(limits, &self.facts);
        self.emergencies.limit(&self.groups, name, controls).map_err(|error| failed(&error))?;
        let Some(jail) = self.jails.get(name) else { return Ok(Some(WardenReply::Unchanged)) };
        let sizes = [("/tmp", limits.tmp_size()), ("/dev/shm", limits.shm_size())];
        let resizing = resize::begin(jail.record.pid, sizes).map_err(|error| failed(&error))?;
        self.await_resize(name, resizing, ticket);
        Ok(None)
    }

    /// What a process of an FTP server needs to enter for a login. Whoever calls this has it from the kernel that root asks.
    pub(crate) fn ftp_view(&mut self, user: &FtpUser) -> Result<(FtpView, Vec<OwnedFd>), Failure> {
        let name = &user.tenant;
        let (host, tenant) = self.declared(name)?;
        let login = tenant.ftp.iter().find(|login| login.name == user.name);
        let login = login.filter(|_| tenant.is_open(Door::Ftp)).ok_or_else(|| {
            let message = format!("there is no FTP login \"{user}\", or the door \"ftp\" of \"{name}\" is closed");
            Failure::of(ExitStatus::Refused, message)
        })?;
        self.running(name)?;
        if self.is_frozen(name) {
            return Err(Refusal::Frozen { tenant: name.clone() }.into());
        }
        let failed = |error: &(dyn std::error::Error + 'static)| failure(ExitStatus::Failed, name, "enter", error);
        let (Some(ids), Some(jail)) = (self.ledger.ids(name), self.jails.get(name)) else {
            return Err(Failure::of(ExitStatus::Refused, format!("\"{name}\" has no jail")));
        };
        let plan = JailPlan::new(&tenant, &host, ids, &self.facts).map_err(|error| failed(&error))?;
        let fds = ftp::view(&self.storage, &self.groups, &plan, &tenant, login, jail.record.pid);
        let fds = fds.map_err(|error| failed(&error))?;
        // Its number was its own all the time.
        if process::has_ended(&jail.pidfd, Duration::ZERO).unwrap_or(true) {
            return Err(Failure::of(ExitStatus::Refused, format!("the jail of \"{name}\" has ended")));
        }
        Ok((FtpView { profile: plan.profile, open_files: tenant.settings.limits.open_files }, fds))
    }

    fn end_ftp(&mut self, process: &FtpProcess, ticket: Ticket) -> Begins {
        self.running(&process.tenant)?;
        let leaving = ftp::end(&self.groups, process).map_err(|error| {
            let status = match error {
                ftp::FtpError::NotIn(..) => ExitStatus::NotFound,
                _ => ExitStatus::Failed,
            };
            Failure::new(status, &error)
        })?;
        self.await_ftp(leaving, ticket);
        Ok(None)
    }

    /// Whoever is declared with a door of sshd's has a host user, also while it is suspended: it is told why.
    fn host_user(&mut self, name: &TenantName) -> Result<WardenReply, Failure> {
        let wanted = match self.declared(name) {
            Ok((_, tenant)) => tenant.has_host_user(),
            Err(failure) if failure.status == ExitStatus::NotFound => false,
            Err(failure) => return Err(failure),
        };
        let ids = self.ledger.ids(name).filter(|_| wanted);
        let changed = match ids {
            Some(ids) => self.host_users.make(name, self.host.ids.host_user(ids)),
            None => self.host_users.remove(name),
        };
        let changed = changed.map_err(|error| {
            let status = match error {
                HostUserError::Taken { .. } | HostUserError::Foreign(_) => ExitStatus::Conflict,
                HostUserError::NoGroup(_) => ExitStatus::HostCannot,
                _ => ExitStatus::Failed,
            };
            failure(status, name, "change the host user of", &error)
        })?;
        Ok(if changed { WardenReply::Done } else { WardenReply::Unchanged })
    }
}

const MOVED: &str = "`state_dir`, `runtime_dir` or `ids` in bailiwick.toml changed; restart bailiwick-warden";

fn failure(status: ExitStatus, tenant: &TenantName, verb: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    let mut failure = Failure::new(status, error);
    failure.message = format!("cannot {verb} \"{tenant}\": {}", failure.message);
    failure
}
