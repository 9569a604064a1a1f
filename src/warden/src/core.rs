//! The warden's state and what it does for each request.
//!
//! Danger: everything that comes in names a tenant and nothing else. What is to be done is read anew from the
//! root-owned policy each time, so there is no copy that could be stale or poisoned.

use crate::build::{BuildError, Builder};
use crate::ftp;
use crate::groups::{GroupError, Groups, TenantGroups};
use crate::host_user::{HostUserError, HostUsers};
use crate::ledger::{Ledger, LedgerError};
use crate::manager::{self, Handed};
use crate::quota::{self, Grace};
use crate::record::Record;
use crate::rescue::{RescueError, Rescues};
use crate::runtime::{DaemonUser, Runtime, RuntimeError};
use crate::step::{Step, reach};
use crate::storage::{Storage, StorageError};
use crate::watch::Watch;
use bailiwick_observe::{Census, InitSubject, ObserveError, Subject};
use bailiwick_plan::JailPlan;
use bailiwick_plan::control::controls;
use bailiwick_plan::disk::DiskPlan;
use bailiwick_policy::{Declared, Diagnostic, Host, Tenant};
use bailiwick_proto::warden::{FtpProcess, FtpView, MOST_COMPARED, MOST_OBSERVED, Reached, RosterEntry, WardenEvent};
use bailiwick_proto::{Failure, Hold, WardenReply, WardenRequest};
use bailiwick_sys::{credential, file, process};
use bailiwick_types::HostFacts;
use bailiwick_types::{DiskFact, Door, ExitStatus, FtpUser, IdRange, QuotaFacts, TenantName};
use rustix::event::PollFlags;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a jail has to end by itself: init gives its processes two seconds.
const STOP_TIME: Duration = Duration::from_secs(3);

/// What the warden keeps of root's capabilities (`capabilities(7)`), and for what.
const CAPABILITIES: u64 = 1 << 0 // chown: seeds of storage, sockets for the daemon's group
    | 1 << 1 // dac_override: tenants' storage belongs to others
    | 1 << 2 // dac_read_search: likewise, and /proc of tenants' processes
    | 1 << 3 // fowner: permissions of what is not the warden's
    | 1 << 4 // fsetid: set-group-id bits survive a change of mode
    | 1 << 5 // kill: end a jail
    | 1 << 6 // setgid, setuid: id maps, and the owner of a user namespace
    | 1 << 7
    | 1 << 8 // setpcap: the bounding set of a jail
    | 1 << 19 // sys_ptrace: namespaces of tenants' processes
    | 1 << 21 // sys_admin: mounts, control groups, seccomp without no_new_privs
    | 1 << 24; // sys_resource: limits of processes above the warden's own

/// Why the warden cannot begin its work.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// `bailiwick.toml` is not usable.
    #[error("{}", bailiwick_policy::render(.0))]
    Policy(Vec<Diagnostic>),
    /// Not root.
    #[error("bailiwick-warden must be started as root")]
    NotRoot,
    /// The daemon's user does not exist.
    #[error(
        "the user \"{0}\" that bailiwickd is to run as does not exist; make it with `useradd --system {0}`, or set `user` in bailiwick.toml"
    )]
    User(String),
    /// The program that becomes PID 1.
    #[error("cannot use \"{path}\" as init: {why}", path = path.display())]
    Init {
        /// Where it was looked for.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The state directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The runtime directory.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Control groups.
    #[error(transparent)]
    Groups(#[from] GroupError),
    /// Records of host users.
    #[error(transparent)]
    HostUsers(#[from] HostUserError),
    /// The host cannot be read.
    #[error(transparent)]
    Facts(#[from] ObserveError),
    /// Anything else of the system.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// What the program should exit with.
    #[must_use]
    pub fn status(&self) -> ExitStatus {
        match self {
            Self::Policy(_) | Self::User(_) => ExitStatus::Invalid,
            Self::Storage(StorageError::Locked { .. }) => ExitStatus::Conflict,
            Self::Groups(_) => ExitStatus::HostCannot,
            _ => ExitStatus::Failed,
        }
    }
}

/// A running jail.
#[derive(Debug)]
struct Jail {
    record: Record,
    pidfd: OwnedFd,
}

/// The warden.
#[derive(Debug)]
pub struct Warden {
    config: PathBuf,
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
    rescues: Rescues,
    /// Given by the service manager, until the loop takes it.
    listener: Option<OwnedFd>,
    watch: Watch,
    /// Whether no tenant may take more disk space, because the host's reserve is reached.
    held_back: bool,
}

impl Warden {
    /// Takes up the work on a host: opens and locks its state, and takes hold of the jails that run. What is left of
    /// others is cleared away; the second value says what was found. `group` is where jails are made in the unified
    /// hierarchy, if not below the warden's own group.
    ///
    /// # Errors
    /// When any part of the state cannot be trusted: then nothing is changed.
    pub fn open(
        config: &Path,
        init: &Path,
        group: Option<&str>,
        handed: Handed,
    ) -> Result<(Self, Vec<String>), OpenError> {
        if !rustix::process::geteuid().is_root() {
            return Err(OpenError::NotRoot);
        }
        let system = |what| move |source| OpenError::System { what, source };
        let config = config.canonicalize().map_err(system("find the configuration directory"))?;
        let host = bailiwick_policy::read_host(&config).map_err(OpenError::Policy)?;
        let daemon = daemon_user(&host.user).ok_or_else(|| OpenError::User(host.user.clone()))?;
        let init = open_init(init)?;
        bailiwick_sys::signal::unblock_all().map_err(system("unblock signals"))?;
        credential::set_undumpable().map_err(system("close this process's memory to others"))?;
        credential::limit_capabilities(CAPABILITIES).map_err(system("give up capabilities"))?;
        credential::keep_capabilities_over_user_changes().map_err(system("keep capabilities"))?;
        let storage = Storage::open(&host.state_dir, daemon)?;
        let ledger = Ledger::open(storage.state().map_err(system("use the state directory"))?, host.ids)?;
        let runtime = Runtime::open(&host.runtime_dir, daemon)?;
        let facts = bailiwick_observe::host_facts(&host.state_dir)?;
        let groups = Groups::open(&facts, group, ledger.instance(), &runtime.known_groups())?;
        groups.reserve(&facts, &host.reserve)?;
        let host_users = HostUsers::open(&host)?;
        let watch = Watch::new();
        runtime.note_groups(groups.bases()).map_err(system("note where the control groups are"))?;
        let program = bailiwick_plan::seccomp::filter_of_warden();
        let program: Vec<_> = program.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect();
        bailiwick_sys::seccomp::load(&program).map_err(system("load its seccomp filter"))?;
        let (jails, listener) = (BTreeMap::new(), handed.listener);
        let mut warden = Self {
            config,
            host,
            facts,
            daemon,
            init,
            storage,
            ledger,
            runtime,
            groups,
            host_users,
            jails,
            rescues: Rescues::default(),
            listener,
            watch,
            held_back: false,
        };
        let events = warden.take_over(handed.inits)?;
        Ok((warden, events))
    }

    /// Takes hold of every jail whose init is provably the one that was recorded, by the descriptor that the service
    /// manager kept where there is one; clears the rest away.
    fn take_over(&mut self, mut kept: BTreeMap<String, OwnedFd>) -> Result<Vec<String>, OpenError> {
        let system = |what| move |source| OpenError::System { what, source };
        let mut events = Vec::new();
        self.storage.finish_purges().map_err(system("finish an interrupted purge"))?;
        for (name, record) in self.runtime.found().map_err(system("list the jails"))? {
            let kept = kept.remove(&name);
            let taken = match (name.parse::<TenantName>(), record) {
                (Ok(tenant), Some(record)) => {
                    // Without its group there is no jail, whatever runs under the number.
                    let hold = |groups: TenantGroups| {
                        record.take_hold(kept, &self.groups.homes_of_init(&tenant), &groups.jail)
                    };
                    let pidfd = self.groups.of(&tenant).ok().map(hold).transpose().map_err(system("look at a jail"))?;
                    pidfd.flatten().map(|pidfd| (tenant, Jail { record, pidfd }))
                }
                _ => None,
            };
            if let Some((tenant, jail)) = taken {
                events.push(format!("tenant={tenant} event=re-attached pid={}", jail.record.pid));
                manager::keep(&tenant, &jail.pidfd);
                self.rescues.found(&self.groups, &tenant)?;
                self.jails.insert(tenant, jail);
            } else {
                events.push(format!(
                    "tenant={} event=cleared reason=\"no such jail runs any more\"",
                    name.escape_debug()
                ));
                if let Ok(tenant) = name.parse() {
                    self.groups.destroy(&tenant)?;
                }
                manager::forget(&name);
                self.runtime.remove(&name).map_err(system("clear a jail's runtime directory"))?;
            }
        }
        for name in self.groups.found()? {
            match name.parse::<TenantName>() {
                Ok(tenant) if !self.jails.contains_key(&tenant) => {
                    events.push(format!("tenant={tenant} event=cleared reason=\"control group without a record\""));
                    self.groups.destroy(&tenant)?;
                }
                _ => {}
            }
        }
        for name in kept.keys() {
            manager::forget(name);
        }
        if self.jails.is_empty() {
            self.groups.remove_empty_bases();
        } else {
            self.watch.listen_to(self.groups.pressure_triggers());
        }
        Ok(events)
    }

    /// The socket on which requests come: the service manager's, or one that is made here.
    ///
    /// # Errors
    /// What `bind(2)` and `listen(2)` say.
    pub fn listener(&mut self) -> io::Result<OwnedFd> {
        match self.listener.take() {
            Some(listener) => Ok(listener),
            None => self.runtime.listen(),
        }
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

    /// The init of a jail has ended: clears away what is left of the jail.
    ///
    /// # Errors
    /// What could not be cleared.
    pub(crate) fn ended(&mut self, tenant: &TenantName) -> Result<(), Failure> {
        self.clear(tenant)
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
        events.extend(self.mind_reserve());
        events
    }

    /// While less disk space is free than the host's reserve, no tenant can take more than it has. Looked at each second,
    /// so a host whose disks write more than the reserve in a second has chosen it too small.
    fn mind_reserve(&mut self) -> Option<WardenEvent> {
        let reserve = self.host.reserve.disk.0;
        let free = self.storage.free().ok()?;
        // Given back only with some room to spare, or it would come and go.
        let spare = (reserve / 8).min(64 << 20);
        let reached = if self.held_back { free < reserve.saturating_add(spare) } else { free < reserve };
        if reached == self.held_back || !self.facts.storage.quota.bounds_anything() {
            return None;
        }
        self.held_back = reached;
        let tenants: Vec<(TenantName, IdRange)> =
            self.ledger.tenants().map(|(name, ids)| (name.clone(), ids)).collect();
        for (name, ids) in tenants {
            if reached {
                self.hold_back_again(&name, ids);
            } else if let Ok((_, Some(tenant))) = bailiwick_policy::read_tenant(&self.config, &name) {
                let plan = DiskPlan::new(&tenant.settings.limits, &self.facts);
                // One that fails stays held back, which the audit shows as drift.
                drop(self.storage.bound(&name, ids.first, &plan, &self.facts.storage.quota));
            }
        }
        Some(WardenEvent::Reserve { reached: if reached { Reached::Yes } else { Reached::NoLonger } })
    }

    fn hold_back_again(&self, name: &TenantName, ids: IdRange) {
        if self.held_back {
            // A tenant that cannot be held back now is tried again when its limits are written.
            drop(self.storage.hold_back(name, ids.first, &self.facts.storage.quota));
        }
    }

    /// Does what a request asks for.
    pub fn handle(&mut self, request: WardenRequest) -> WardenReply {
        let result = match request {
            WardenRequest::Hello => {
                return WardenReply::Hello { version: env!("CARGO_PKG_VERSION").to_owned() };
            }
            WardenRequest::Start { tenant } => self.start(&tenant),
            WardenRequest::Stop { tenant, hold } => self.stop(&tenant, hold),
            WardenRequest::Limit { tenant } => self.limit(&tenant),
            WardenRequest::Freeze { tenant } => self.freeze(&tenant, true),
            WardenRequest::Thaw { tenant } => self.freeze(&tenant, false),
            WardenRequest::Rescue { tenant } => self.rescue(&tenant),
            WardenRequest::Rescued { tenant } => self.rescued(&tenant),
            WardenRequest::Purge { tenant } => self.purge(&tenant),
            WardenRequest::HostUser { tenant } => self.host_user(&tenant),
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
            WardenRequest::EndFtp { process } => self.end_ftp(&process),
            // It has descriptors beside it: see `ftp_view`.
            WardenRequest::FtpView { .. } => Err(Failure::of(ExitStatus::Refused, "only root lets an FTP server in")),
            WardenRequest::Facts => self.facts(),
            WardenRequest::Disks => self.disks(),
            WardenRequest::Evidence { tenant } => self.evidence(&tenant),
            // The loop has taken note.
            WardenRequest::Watch => Ok(WardenReply::Done),
            WardenRequest::Roster => Ok(self.roster()),
            WardenRequest::Entry { tenant } => {
                Ok(WardenReply::Entry(self.ledger.ids(&tenant).map(|ids| Box::new(self.entry(&tenant, ids)))))
            }
        };
        result.unwrap_or_else(WardenReply::Failed)
    }

    /// The host and the tenant as the policy has them now.
    fn declared(&mut self, name: &TenantName) -> Result<(Host, Tenant), Failure> {
        let (host, tenant) = bailiwick_policy::read_tenant(&self.config, name)
            .map_err(|problems| Failure::of(ExitStatus::Invalid, bailiwick_policy::render(&problems)))?;
        let moved = host.state_dir != self.host.state_dir || host.runtime_dir != self.host.runtime_dir;
        if moved || host.ids != self.host.ids {
            let message = "`state_dir`, `runtime_dir` or `ids` in bailiwick.toml changed; restart bailiwick-warden";
            return Err(Failure::of(ExitStatus::Refused, message));
        }
        self.host.reserve = host.reserve;
        match tenant {
            Some(tenant) => Ok((host, tenant)),
            None => Err(Failure::of(ExitStatus::NotFound, format!("there is no tenant \"{name}\""))),
        }
    }

    fn start(&mut self, name: &TenantName) -> Result<WardenReply, Failure> {
        let (host, tenant) = self.declared(name)?;
        if let (None, Declared::Suspended { reason }) = (tenant.access(), &tenant.state) {
            let reason = reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
            return Err(Failure::of(ExitStatus::Refused, format!("tenant \"{name}\" is suspended{reason}")));
        }
        if self.runs(name) {
            if self.jails.get(name).map(|jail| jail.record.access) != tenant.access() {
                let message = format!(
                    "the jail of \"{name}\" is another one than is declared; `bailiwick apply {name}` replaces it"
                );
                return Err(Failure::of(ExitStatus::Refused, message));
            }
            self.ledger.set_held(name, false).map_err(|error| failure(ExitStatus::Failed, name, "start", &error))?;
            return Ok(WardenReply::Unchanged);
        }
        let failed = |error: &(dyn std::error::Error + 'static)| failure(ExitStatus::Failed, name, "start", error);
        reach(Step::Ledger).map_err(|error| failed(&BuildError::at(Step::Ledger)(error)))?;
        let ids = self.ledger.assign(name).map_err(|error| failed(&error))?;
        let plan = JailPlan::new(&tenant, &host, ids, &self.facts)
            .map_err(|error| failure(ExitStatus::HostCannot, name, "start", &error))?;
        if self.groups.ensure_bases(&self.facts, &host.reserve).map_err(|error| failed(&error))? {
            self.watch.listen_to(self.groups.pressure_triggers());
        }
        let builder = Builder {
            plan: &plan,
            storage: &self.storage,
            runtime: &self.runtime,
            groups: &self.groups,
            init: &self.init,
            quota: &self.facts.storage.quota,
        };
        match builder.build() {
            Ok(built) => {
                manager::keep(name, &built.pidfd);
                self.jails.insert(name.clone(), Jail { record: built.record, pidfd: built.pidfd });
                self.ledger.set_held(name, false).map_err(|error| failed(&error))?;
                self.hold_back_again(name, ids);
                Ok(WardenReply::Done)
            }
            Err(error) => {
                let mut failure = failed(&error);
                if let Err(more) = self.clear(name) {
                    failure.message.push_str("; and then ");
                    failure.message.push_str(&more.message);
                }
                Err(failure)
            }
        }
    }

    /// Whether a jail runs; one whose init has ended unseen is cleared away first.
    fn runs(&mut self, name: &TenantName) -> bool {
        let Some(jail) = self.jails.get(name) else { return false };
        if process::has_ended(&jail.pidfd, Duration::ZERO).unwrap_or(false) {
            // What could not be cleared fails the start that follows, with its reason.
            drop(self.clear(name));
        }
        self.jails.contains_key(name)
    }

    fn running(&mut self, name: &TenantName) -> Result<(), Failure> {
        if self.runs(name) {
            return Ok(());
        }
        let message = format!("the jail of \"{name}\" does not run; `bailiwick start {name}` starts it");
        Err(Failure::of(ExitStatus::Refused, message))
    }

    fn stop(&mut self, name: &TenantName, hold: Hold) -> Result<WardenReply, Failure> {
        if hold == Hold::Hold {
            self.ledger.set_held(name, true).map_err(|error| failure(ExitStatus::Failed, name, "stop", &error))?;
        }
        if !self.runs(name) {
            return Ok(WardenReply::Unchanged);
        }
        let frozen = self.groups.of(name).is_ok_and(|groups| groups.frozen());
        if let Some(jail) = self.jails.get(name)
            && !frozen
        {
            // Asked first, so that databases can close their files; a jail that does not listen is killed below.
            process::signal(&jail.pidfd, Signal::TERM).ok();
            process::has_ended(&jail.pidfd, STOP_TIME).ok();
        }
        self.clear(name)?;
        Ok(WardenReply::Done)
    }

    /// Removes all that a jail has outside its storage: processes, groups, sockets. Goes on past a failure and tells
    /// all of them.
    fn clear(&mut self, name: &TenantName) -> Result<(), Failure> {
        let mut problems = Vec::new();
        if let Err(error) = self.groups.destroy(name) {
            problems.push(Failure::new(ExitStatus::Failed, &error).message);
        }
        if let Some(jail) = self.jails.get(name) {
            process::reap(&jail.pidfd).ok();
        }
        if problems.is_empty() {
            self.rescues.forget(name);
            if self.jails.remove(name).is_some() {
                manager::forget(name.as_str());
            }
            if let Err(error) = self.runtime.remove(name.as_str()) {
                problems.push(format!("cannot remove the jail's runtime directory: {error}"));
            }
        }
        if self.jails.is_empty() {
            self.groups.remove_empty_bases();
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(Failure::of(ExitStatus::Failed, format!("cannot clear the jail of \"{name}\": {}", problems.join("; "))))
    }

    fn limit(&mut self, name: &TenantName) -> Result<WardenReply, Failure> {
        let (host, tenant) = self.declared(name)?;
        self.running(name)?;
        let limits = &tenant.settings.limits;
        let failed = |error: &(dyn std::error::Error + 'static)| failure(ExitStatus::Failed, name, "limit", error);
        self.groups.reserve(&self.facts, &host.reserve).map_err(|error| failed(&error))?;
        if let Some(ids) = self.ledger.ids(name) {
            let plan = DiskPlan::new(limits, &self.facts);
            let bound = self.storage.bound(name, ids.first, &plan, &self.facts.storage.quota);
            bound.map_err(|error| failed(&error))?;
            self.hold_back_again(name, ids);
        }
        let controls = controls(limits, &self.facts);
        self.rescues.limit(&self.groups, name, controls).map_err(|error| failed(&error))?;
        Ok(WardenReply::Done)
    }

    /// Gives a tenant the reserve for a session that could not be begun without.
    fn rescue(&mut self, name: &TenantName) -> Result<WardenReply, Failure> {
        let (_, tenant) = self.declared(name)?;
        self.running(name)?;
        let failed = |error: &(dyn std::error::Error + 'static)| failure(ExitStatus::Failed, name, "rescue", error);
        let groups = self.groups.of(name).map_err(|error| failed(&error))?;
        let refused = |message| Err(Failure::of(ExitStatus::Refused, message));
        if groups.frozen() {
            return refused(format!("the jail of \"{name}\" is frozen; `bailiwick thaw {name}` lets it go on"));
        }
        if groups.is_of_an_earlier_version() {
            let message = format!("the jail of \"{name}\" was made by an earlier version; `bailiwick restart {name}`");
            return refused(message);
        }
        let Some(jail) = self.jails.get(name) else { return Ok(WardenReply::Unchanged) };
        let controls = controls(&tenant.settings.limits, &self.facts);
        let given = self.rescues.give(&self.groups, name, controls, jail.record.pid);
        given.map_err(|error| match error {
            RescueError::Group(error) => failed(&error),
            error => Failure::new(ExitStatus::OverLimit, &error),
        })?;
        self.still_runs(name)
    }

    /// Init has forked the session.
    fn rescued(&mut self, name: &TenantName) -> Result<WardenReply, Failure> {
        self.running(name)?;
        let Some(jail) = self.jails.get(name) else { return Ok(WardenReply::Unchanged) };
        let back = self.rescues.forked(&self.groups, name, jail.record.pid);
        back.map_err(|error| failure(ExitStatus::Failed, name, "rescue", &error))?;
        self.still_runs(name)
    }

    /// Init was moved by its number, which was its own if it runs still.
    fn still_runs(&self, name: &TenantName) -> Result<WardenReply, Failure> {
        match self.jails.get(name).map(|jail| process::has_ended(&jail.pidfd, Duration::ZERO)) {
            Some(Ok(false)) => Ok(WardenReply::Done),
            _ => Err(Failure::of(ExitStatus::Refused, format!("the jail of \"{name}\" has ended"))),
        }
    }

    /// Takes reserves back in which nobody is any more; says which could not be.
    pub(crate) fn mind_rescues(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        for name in self.rescues.due() {
            let Some(jail) = self.jails.get(&name) else { continue };
            let declared = match bailiwick_policy::read_tenant(&self.config, &name) {
                Ok((_, Some(tenant))) => Some(controls(&tenant.settings.limits, &self.facts)),
                _ => None,
            };
            let taken = self.rescues.forked(&self.groups, &name, jail.record.pid);
            if let Err(error) = taken.and_then(|()| self.rescues.take_back(&self.groups, &name, declared))
                && self.rescues.is_news(&name)
            {
                let reason = Failure::new(ExitStatus::Failed, &error).message;
                problems.push(format!("tenant={name} event=reserve-not-taken-back reason={reason:?}"));
            }
        }
        problems
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
        if self.groups.of(name).is_ok_and(|groups| groups.frozen()) {
            let message = format!("the jail of \"{name}\" is frozen; `bailiwick thaw {name}` lets it go on");
            return Err(Failure::of(ExitStatus::Refused, message));
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

    fn end_ftp(&mut self, process: &FtpProcess) -> Result<WardenReply, Failure> {
        self.running(&process.tenant)?;
        ftp::end(&self.groups, process).map_err(|error| {
            let status = match error {
                ftp::FtpError::NotIn(..) => ExitStatus::NotFound,
                _ => ExitStatus::Failed,
            };
            Failure::new(status, &error)
        })?;
        Ok(WardenReply::Done)
    }

    /// Looks at the host anew: an operator may have switched quotas on since.
    fn facts(&mut self) -> Result<WardenReply, Failure> {
        let facts = bailiwick_observe::host_facts(&self.host.state_dir);
        self.facts = facts.map_err(|error| Failure::new(ExitStatus::Failed, &error))?;
        Ok(WardenReply::Facts(Box::new(self.facts.clone())))
    }

    /// What every tenant uses of its quota. The kernel has one time of grace for all who pass a soft limit; here each gets
    /// its own.
    fn disks(&mut self) -> Result<WardenReply, Failure> {
        let mut disks = BTreeMap::new();
        let tenants: Vec<(TenantName, IdRange)> =
            self.ledger.tenants().map(|(name, ids)| (name.clone(), ids)).collect();
        let kind = self.facts.storage.quota.clone();
        for (name, ids) in tenants {
            let Some(dir) = self.storage.open_of(&name) else { continue };
            let Ok(Some(mut fact)) = bailiwick_observe::disk_fact(&dir, ids.first, &kind) else { continue };
            if kind == QuotaFacts::Projects {
                let failed =
                    |error: &(dyn std::error::Error + 'static)| failure(ExitStatus::Failed, &name, "limit", error);
                self.mind_grace(&name, ids, &dir, &mut fact).map_err(|error| failed(&*error))?;
            }
            fact.held_back = self.held_back;
            disks.insert(name, fact);
        }
        Ok(WardenReply::Disks(disks))
    }

    fn mind_grace(
        &mut self,
        name: &TenantName,
        ids: IdRange,
        dir: &OwnedFd,
        fact: &mut DiskFact,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let noted = self.ledger.grace(name);
        let passed = fact.bytes.grace_until.is_some() || fact.inodes.is_some_and(|inodes| inodes.grace_until.is_some());
        if !passed && noted == Grace::default() {
            return Ok(());
        }
        let Ok((_, Some(tenant))) = bailiwick_policy::read_tenant(&self.config, name) else { return Ok(()) };
        let own = tenant.settings.limits.disk_grace.0;
        if let Some(grace) = quota::grace(dir, ids.first, fact, own, noted)? {
            fact.bytes.grace_until = grace.bytes;
            if let Some(inodes) = &mut fact.inodes {
                inodes.grace_until = grace.inodes;
            }
            self.ledger.set_grace(name, grace)?;
        }
        Ok(())
    }

    fn freeze(&mut self, name: &TenantName, frozen: bool) -> Result<WardenReply, Failure> {
        self.running(name)?;
        let verb = if frozen { "freeze" } else { "thaw" };
        let failed = |error| failure(ExitStatus::Failed, name, verb, &error);
        let groups = self.groups.of(name).map_err(failed)?;
        if groups.frozen() == frozen {
            return Ok(WardenReply::Unchanged);
        }
        groups.freeze(frozen).map_err(failed)?;
        Ok(WardenReply::Done)
    }

    fn purge(&mut self, name: &TenantName) -> Result<WardenReply, Failure> {
        match bailiwick_policy::read_tenant(&self.config, name) {
            Ok((_, None)) => {}
            // A file that cannot be read may still mean the tenant: nothing is destroyed on a guess.
            Ok((_, Some(_))) | Err(_) => {
                let message = format!(
                    "tenant \"{name}\" is still declared; `bailiwick delete {name}` first, then its data can be purged"
                );
                return Err(Failure::of(ExitStatus::Refused, message));
            }
        }
        if self.runs(name) {
            let message = format!("the jail of \"{name}\" runs; `bailiwick stop {name}` first");
            return Err(Failure::of(ExitStatus::Refused, message));
        }
        if !self.storage.holds(name) && self.ledger.ids(name).is_none() {
            return Err(Failure::of(ExitStatus::NotFound, format!("there is no data of a tenant \"{name}\"")));
        }
        self.host_users.remove(name).map_err(|error| failure(ExitStatus::Failed, name, "purge", &error))?;
        self.storage.purge(name).map_err(|error| failure(ExitStatus::Failed, name, "purge", &error))?;
        self.ledger.forget(name).map_err(|error| failure(ExitStatus::Failed, name, "purge", &error))?;
        Ok(WardenReply::Done)
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

    /// What the kernel shows of tenants, as far as `read` looks.
    fn look<T>(
        &mut self,
        names: &[TenantName],
        most: usize,
        read: impl Fn(&Subject<'_>, &Census) -> Result<T, ObserveError>,
        disk: impl Fn(&mut T) -> &mut Option<DiskFact>,
    ) -> Result<Vec<T>, Failure> {
        if names.len() > most {
            let message = format!("{} tenants are more than can be observed at once", names.len());
            return Err(Failure::of(ExitStatus::Invalid, message));
        }
        let census = Census::take().map_err(|error| Failure::new(ExitStatus::Failed, &error))?;
        let mut all = Vec::with_capacity(names.len());
        for name in names {
            let mut seen = self.look_at(name, &census, &read)?;
            if let Some(disk) = disk(&mut seen) {
                disk.held_back = self.held_back;
            }
            all.push(seen);
        }
        Ok(all)
    }

    fn look_at<T>(
        &mut self,
        name: &TenantName,
        census: &Census,
        read: impl Fn(&Subject<'_>, &Census) -> Result<T, ObserveError>,
    ) -> Result<T, Failure> {
        let controls = match bailiwick_policy::read_tenant(&self.config, name) {
            Ok((_, Some(tenant))) => controls(&tenant.settings.limits, &self.facts),
            _ => Vec::new(),
        };
        let runs = self.runs(name);
        let init = self.jails.get(name).map(|jail| {
            let Record { pid, start_time, access, .. } = jail.record;
            InitSubject { pid, start_time, access }
        });
        let cgroups = if runs { self.groups.paths(name) } else { BTreeMap::new() };
        let dir = self.storage.open_of(name);
        let storage = dir.as_ref().map(|dir| (dir.as_fd(), &self.facts.storage.quota));
        let ids = self.ledger.ids(name);
        let subject = Subject { tenant: name, ids, init, cgroups: &cgroups, controls: &controls, storage };
        read(&subject, census).map_err(|error| failure(ExitStatus::Failed, name, "observe", &error))
    }

    fn evidence(&mut self, name: &TenantName) -> Result<WardenReply, Failure> {
        self.running(name)?;
        let sights = bailiwick_observe::sights(&self.groups.paths(name))
            .map_err(|error| failure(ExitStatus::Failed, name, "observe", &error))?;
        Ok(WardenReply::Evidence(sights))
    }

    fn roster(&self) -> WardenReply {
        let tenants = self.ledger.tenants();
        WardenReply::Roster(tenants.map(|(name, ids)| (name.clone(), self.entry(name, ids))).collect())
    }

    fn entry(&self, name: &TenantName, ids: IdRange) -> RosterEntry {
        let jail = self.jails.get(name);
        RosterEntry {
            ids,
            pid: jail.map(|jail| jail.record.pid),
            access: jail.map(|jail| jail.record.access),
            frozen: jail.is_some() && self.groups.of(name).is_ok_and(|groups| groups.frozen()),
            held: self.ledger.held(name),
            host_user: self.host_users.has(name, self.host.ids.host_user(ids)),
            cgroups: if jail.is_some() { self.groups.paths(name) } else { BTreeMap::new() },
        }
    }
}

fn failure(status: ExitStatus, tenant: &TenantName, verb: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    let mut failure = Failure::new(status, error);
    failure.message = format!("cannot {verb} \"{tenant}\": {}", failure.message);
    failure
}

/// The user of `bailiwickd`: a number, which is its group too, or a name of the host's user database.
fn daemon_user(text: &str) -> Option<DaemonUser> {
    if let Ok(number) = text.parse::<u32>() {
        return Some(DaemonUser { uid: number, gid: number });
    }
    users::get_user_by_name(text).map(|user| DaemonUser { uid: user.uid(), gid: user.primary_group_id() })
}

/// Opens the program that becomes PID 1. It must need no loader: the loader that it would find is the tenant's.
fn open_init(path: &Path) -> Result<OwnedFd, OpenError> {
    let wrong = |why: String| OpenError::Init { path: path.to_owned(), why };
    let real = path.canonicalize().map_err(|error| wrong(error.to_string()))?;
    let (dir, name) = real.parent().zip(real.file_name()).ok_or_else(|| wrong("it is no file".to_owned()))?;
    let open = || file::open_file_at(file::open_dir(dir)?, name);
    let fd = open().map_err(|error| wrong(error.to_string()))?;
    let metadata = file::metadata(&fd).map_err(|error| wrong(error.to_string()))?;
    if metadata.uid != 0 || metadata.mode & 0o022 != 0 {
        return Err(wrong("it must belong to root and be writable by nobody else".to_owned()));
    }
    match bailiwick_sys::elf::needs_loader(&fd) {
        Ok(false) => Ok(fd),
        Ok(true) => Err(wrong("it is linked dynamically; a jail would load the tenant's own loader".to_owned())),
        Err(error) => Err(wrong(error.to_string())),
    }
}
