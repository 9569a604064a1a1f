//! The start of the warden: its state is opened and locked, and it takes hold of the jails that run.

pub(crate) mod adopt;
pub(crate) mod error;

use crate::identity::host_user::{self, HostUsers};
use crate::identity::ledger::Ledger;
use crate::jail::record::confinement_digest;
use crate::jail::registry::Jails;
use crate::limits::cgroups::Groups;
use crate::limits::emergency_session::EmergencySessions;
use crate::limits::host_reserve::HostReserve;
use crate::limits::watch::Watch;
use crate::policy_view::PolicyView;
use crate::requests::WaitingRequests;
use crate::runtime::{DaemonUser, Runtime};
use crate::startup::error::{OpenError, system};
use crate::state::Warden;
use crate::storage::layout::Storage;
use crate::storage::preparing::Preparations;
use crate::storage::removals::Removals;
use crate::systemd::InheritedFds;
use bailiwick_plan::capability::CapabilitySet;
use bailiwick_policy::{Host, Store};
use bailiwick_proto::{Failure, WARDEN_ERROR};
use bailiwick_sys::{credential, file};
use bailiwick_types::{ExitStatus, Profile};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// What the warden keeps of root's capabilities (`capabilities(7)`), and for what.
const CAPABILITIES: CapabilitySet = CapabilitySet::all_of(&[
    CapabilitySet::CHOWN,           // seeds of storage, sockets for the daemon's group
    CapabilitySet::DAC_OVERRIDE,    // tenants' storage belongs to others
    CapabilitySet::DAC_READ_SEARCH, // likewise, and /proc of tenants' processes
    CapabilitySet::FOWNER,          // permissions of what is not the warden's
    CapabilitySet::FSETID,          // set-group-id bits survive a change of mode
    CapabilitySet::KILL,            // end a jail
    CapabilitySet::SETGID,          // id maps, and the owner of a user namespace
    CapabilitySet::SETUID,          // likewise
    CapabilitySet::SETPCAP,         // the bounding set of a jail
    CapabilitySet::SYS_PTRACE,      // namespaces of tenants' processes
    CapabilitySet::SYS_ADMIN,       // mounts, control groups, seccomp without no_new_privs
    CapabilitySet::SYS_RESOURCE,    // limits of processes above the warden's own
]);

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
        // The kernel lets nobody inside trace what nobody inside can read (`ptrace(2)`).
        Ok(false) if metadata.mode & 0o044 != 0 => {
            Err(wrong("tenants could read it, and so trace PID 1; run `chmod 0711` on it".to_owned()))
        }
        Ok(false) => Ok(fd),
        Ok(true) => Err(wrong("it is linked dynamically; a jail would load the tenant's own loader".to_owned())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// Leaves word of why there is no warden, for those who wait for one; takes it away when there is one. It is for their convenience: where
/// it cannot be left they wait.
fn leave_word(config: &Path, error: Option<&OpenError>) {
    let Ok((host, _)) = Store::new(config).host() else { return };
    let Ok(dir) = file::open_dir(&host.runtime_dir) else { return };
    let is_ours = file::metadata(&dir).is_ok_and(|metadata| metadata.uid == 0 && metadata.mode & 0o022 == 0);
    match error {
        _ if !is_ours => {}
        // Another one works there.
        Some(error) if error.status() == ExitStatus::Conflict => {}
        Some(error) => {
            let said = Failure::new(error.status(), error).message;
            file::replace_at(&dir, WARDEN_ERROR, said.as_bytes(), 0o644, file::Outlives::Process).ok();
        }
        None => {
            file::remove_file_at(&dir, WARDEN_ERROR).ok();
        }
    }
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
        inherited: InheritedFds,
    ) -> Result<(Self, Vec<String>), OpenError> {
        let opened = Self::open_unheard(config, init, group, inherited);
        leave_word(config, opened.as_ref().err());
        opened
    }

    fn open_unheard(
        config: &Path,
        init: &Path,
        group: Option<&str>,
        inherited: InheritedFds,
    ) -> Result<(Self, Vec<String>), OpenError> {
        if !rustix::process::geteuid().is_root() {
            return Err(OpenError::NotRoot);
        }
        let config = config.canonicalize().map_err(system("find the configuration directory"))?;
        let mut store = Store::new(&config);
        let (host, problems) = store.host().map_err(OpenError::Policy)?;
        let daemon = DaemonUser::find(&host.user).ok_or_else(|| OpenError::User(host.user.clone()))?;
        let init = open_init(init)?;
        give_up_rights()?;
        // First, so that word can be left there of whatever follows.
        let runtime = Runtime::open(&host.runtime_dir, daemon)?;
        let storage = Storage::open(&host.state_dir, daemon)?;
        let state = storage.state().map_err(system("use the state directory"))?;
        let traces = traces(&host, &storage, &runtime).map_err(system("look for tenants"))?;
        let ledger = Ledger::open(state, &host.state_dir, host.ids, &traces)?;
        let facts = bailiwick_observe::host_facts(&host.state_dir)?;
        let groups = Groups::open(&facts, group, ledger.instance(), &runtime.known_groups())?;
        groups.reserve(&facts, &host.reserve)?;
        let host_users = HostUsers::open(&host)?;
        let etc_view = runtime.etc_view(&host.etc).map_err(system("show jails the host's /etc"))?;
        let watch = Watch::new();
        runtime.note_groups(groups.bases()).map_err(system("note where the control groups are"))?;
        confine()?;
        let mut warden = Self {
            policy: PolicyView::new(config, store, host, facts, daemon.gid),
            daemon,
            init,
            runtime,
            groups,
            storage,
            ledger,
            host_users,
            jails: Jails::default(),
            preparations: Preparations::default(),
            removals: Removals::default(),
            waiting: WaitingRequests::default(),
            last_ticket: 0,
            reserve: HostReserve::default(),
            emergencies: EmergencySessions::default(),
            watch,
            etc_view,
            listener: inherited.listener,
            stale: Vec::new(),
            confinements: Profile::ALL.iter().map(|profile| confinement_digest(*profile)).collect(),
        };
        let mut events: Vec<String> =
            problems.iter().map(|problem| format!("event=policy-problem {problem}")).collect();
        events.extend(warden.begin_work(inherited.inits)?);
        Ok((warden, events))
    }

    /// Takes up what an earlier warden left; says what was found.
    fn begin_work(&mut self, inits: BTreeMap<String, OwnedFd>) -> Result<Vec<String>, OpenError> {
        let mut events = Vec::new();
        if let Err(error) = self.policy.keep_host() {
            events.push(format!("event=policy-not-kept reason={:?}", error.to_string()));
        }
        let quota = &self.policy.facts.storage.quota;
        events.extend(adopt::resume_removals(&self.storage, &mut self.ledger, &mut self.removals, quota));
        events.extend(self.adopt_running_jails(inits)?);
        Ok(events)
    }
}

/// Gives up what root may and the warden needs not, before anything is opened.
fn give_up_rights() -> Result<(), OpenError> {
    bailiwick_sys::signal::unblock_all().map_err(system("unblock signals"))?;
    credential::set_undumpable().map_err(system("close this process's memory to others"))?;
    credential::limit_capabilities(CAPABILITIES.0).map_err(system("give up capabilities"))?;
    credential::keep_capabilities_over_user_changes().map_err(system("keep capabilities"))
}

/// Loads the warden's own seccomp filter.
fn confine() -> Result<(), OpenError> {
    let program = bailiwick_plan::seccomp::filter_of_warden();
    let program: Vec<_> = program.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect();
    bailiwick_sys::seccomp::load(&program).map_err(system("load its seccomp filter"))
}

/// What tells that tenants have ids, beside the ledger.
fn traces(host: &Host, storage: &Storage, runtime: &Runtime) -> io::Result<Vec<String>> {
    let of = |what: &str, names: Vec<String>| names.into_iter().map(|name| format!("{what} \"{name}\"")).collect();
    let mut traces: Vec<String> = of("the jail", runtime.found()?.into_iter().map(|(name, _)| name).collect());
    traces.extend::<Vec<String>>(of("the data of", storage.tenants()?));
    traces.extend::<Vec<String>>(of("the purged data", storage.graves()?));
    traces
        .extend::<Vec<String>>(of("the host user", host_user::recorded(host)?.into_keys().map(String::from).collect()));
    Ok(traces)
}
