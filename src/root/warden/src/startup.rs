//! The start of the warden: opens and locks its state, and adopts running jails.

pub(crate) mod adopt;
pub(crate) mod error;

use crate::identity::host_user::{self, HostUsers};
use crate::identity::ledger::Ledger;
use crate::jail::record::confinement_digest;
use crate::jail::registry::Jails;
use crate::lending::Lending;
use crate::lending::places::Places;
use crate::lending::proxy::Programs;
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
use bailiwick_plan::lending::{COMMAND, MAIL_COMMAND};
use bailiwick_policy::{Host, Store};
use bailiwick_proto::{Failure, WARDEN_ERROR};
use bailiwick_sys::unix_diag::UnixDiag;
use bailiwick_sys::{credential, file};
use bailiwick_types::{ExitStatus, Nesting, Profile};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The capabilities that the warden keeps (`capabilities(7)`), and why.
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

/// Opens a program that jails are lent. It must be static: a loader would come from the tenant's files.
fn open_program(name: &'static str, path: &Path) -> Result<OwnedFd, OpenError> {
    let wrong = |why: String| OpenError::Program { name, path: path.to_owned(), why };
    let real = path.canonicalize().map_err(|error| wrong(error.to_string()))?;
    let (dir, name) = real.parent().zip(real.file_name()).ok_or_else(|| wrong("it is no file".to_owned()))?;
    let open = || file::open_file_at(file::open_dir(dir)?, name);
    let fd = open().map_err(|error| wrong(error.to_string()))?;
    let metadata = file::metadata(&fd).map_err(|error| wrong(error.to_string()))?;
    if metadata.uid != 0 || metadata.mode & 0o022 != 0 {
        return Err(wrong("it must belong to root and be writable by nobody else".to_owned()));
    }
    match bailiwick_sys::elf::needs_loader(&fd) {
        // Nobody in the jail can trace a process whose program is unreadable to them (`ptrace(2)`). Nor can tenants watch or
        // lock the one file that all of them share.
        Ok(false) if metadata.mode & 0o044 != 0 => {
            Err(wrong("tenants could read it, and so trace its processes; run `chmod 0711` on it".to_owned()))
        }
        Ok(false) => Ok(fd),
        Ok(true) => Err(wrong("it is linked dynamically; a jail would load the tenant's own loader".to_owned())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// Leaves a file with the reason why no warden runs, for programs that wait for one. Removes the file when a warden
/// runs. If it cannot be written, those programs just wait.
fn leave_word(config: &Path, error: Option<&OpenError>) {
    let Ok((host, _)) = Store::new(config).host() else { return };
    let Ok(dir) = file::open_dir(&host.runtime_dir) else { return };
    let is_ours = file::metadata(&dir).is_ok_and(|metadata| metadata.uid == 0 && metadata.mode & 0o022 == 0);
    match error {
        _ if !is_ours => {}
        // Another warden works there.
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
    /// Opens and locks the warden's state, and adopts running jails. The rest of other jails is cleared away. The
    /// second value has lines for the log. `group` is where jails are made in the unified hierarchy; without it they
    /// are made below the warden's own group.
    ///
    /// # Errors
    /// Some part of the state cannot be trusted. Then nothing is changed.
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
        let init = open_program("init", init)?;
        let web = open_program("bailiwick-web", &bailiwick_observe::program("bailiwick-web"))?;
        let lend = open_program(COMMAND, &bailiwick_observe::program(COMMAND))?;
        let mail = open_program(MAIL_COMMAND, &bailiwick_observe::program(MAIL_COMMAND))?;
        let programs = Programs::new(lend, &mail).map_err(system("hold the programs of lent sockets"))?;
        give_up_rights()?;
        // First, so that a later failure can be written there.
        let runtime = Runtime::open(&host.runtime_dir, daemon)?;
        let storage = Storage::open(&host.state_dir, daemon)?;
        let state = storage.state().map_err(system("use the state directory"))?;
        let traces = traces(&host, &storage, &runtime).map_err(system("look for tenants"))?;
        let ledger = Ledger::open(state, &host.state_dir, host.ids, &traces)?;
        let facts = bailiwick_observe::host_facts(&host.state_dir)?;
        let groups = Groups::open(&facts, group, ledger.instance(), &runtime.known_groups())?;
        groups.reserve(&facts, &host.reserve)?;
        let host_users = HostUsers::open(&host)?;
        let places = runtime.lending().and_then(|lent| Ok(Places::new(lent, runtime.mail_rates()?)));
        let places = places.map_err(system("make the directory of lent sockets"))?;
        let etc_view = runtime.etc_view(&host.etc).map_err(system("show jails the host's /etc"))?;
        let jails = Jails::new().map_err(system("watch the inits of jails"))?;
        let watch = Watch::new();
        // The filter refuses such a socket later.
        let unix_diag = UnixDiag::open().ok();
        runtime.note_groups(groups.bases()).map_err(system("note where the control groups are"))?;
        confine()?;
        let mut warden = Self {
            policy: PolicyView::new(config, store, host, facts, daemon.gid),
            daemon,
            init,
            web,
            mail,
            runtime,
            groups,
            storage,
            ledger,
            host_users,
            jails,
            lending: Lending::new(programs, places),
            preparations: Preparations::default(),
            removals: Removals::default(),
            waiting: WaitingRequests::default(),
            last_ticket: 0,
            reserve: HostReserve::default(),
            emergencies: EmergencySessions::default(),
            watch,
            unix_diag,
            etc_view,
            listener: inherited.listener,
            stale: Vec::new(),
            confinements: all_confinements(),
        };
        let mut events: Vec<String> =
            problems.iter().map(|problem| format!("event=policy-problem {problem}")).collect();
        events.extend(warden.begin_work(inherited.inits)?);
        Ok((warden, events))
    }

    /// Takes over what an earlier warden left; returns lines for the log.
    fn begin_work(&mut self, inits: BTreeMap<String, OwnedFd>) -> Result<Vec<String>, OpenError> {
        let mut events = Vec::new();
        self.runtime.follow_web(&self.policy.host.web);
        if let Err(error) = self.policy.keep_host() {
            events.push(format!("event=policy-not-kept reason={:?}", error.to_string()));
        }
        let quota = &self.policy.facts.storage.quota;
        events.extend(adopt::resume_removals(&self.storage, &mut self.ledger, &mut self.removals, quota));
        events.extend(self.adopt_running_jails(inits)?);
        if let Err(error) = self.runtime.forget_mail_of_others(|name| self.ledger.ids(name).is_some()) {
            events.push(format!("event=mail-not-forgotten reason={:?}", error.to_string()));
        }
        Ok(events)
    }
}

/// All ways in which this version confines jails.
fn all_confinements() -> Vec<String> {
    let both = [Nesting::Refused, Nesting::Allowed];
    let of = |profile: &Profile| both.map(|nesting| confinement_digest(*profile, nesting));
    Profile::ALL.iter().flat_map(of).collect()
}

/// Drops the rights of root that the warden does not need, before anything is opened.
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

/// What shows, beside the ledger, that tenants have ids.
fn traces(host: &Host, storage: &Storage, runtime: &Runtime) -> io::Result<Vec<String>> {
    let of = |what: &str, names: Vec<String>| names.into_iter().map(|name| format!("{what} \"{name}\"")).collect();
    let mut traces: Vec<String> = of("the jail", runtime.found()?.into_iter().map(|(name, _)| name).collect());
    traces.extend::<Vec<String>>(of("the data of", storage.tenants()?));
    traces.extend::<Vec<String>>(of("the purged data", storage.graves()?));
    traces
        .extend::<Vec<String>>(of("the host user", host_user::recorded(host)?.into_keys().map(String::from).collect()));
    Ok(traces)
}
